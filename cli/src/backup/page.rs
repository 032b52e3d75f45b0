//! The object that a page lies in: what it names in clear, and what it holds, sealed by a node.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use mira_proto::FrameId;

const MAGIC: &[u8; 8] = b"MIRAPAGE";
const VERSION: u8 = 1;

/// A page of a part.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// Every frame in its range, 16 bytes each.
    pub ids: Bytes,
    /// Those of them that it holds.
    pub changed: Bytes,
    /// Sealed.
    pub sealed: Bytes,
}

impl Page {
    /// Magic, version, three lengths (u32, little-endian), three fields.
    pub fn encode(&self) -> Bytes {
        let fields = [&self.ids, &self.changed, &self.sealed];
        let length = MAGIC.len() + 1 + fields.iter().map(|field| 4 + field.len()).sum::<usize>();
        let mut out = BytesMut::with_capacity(length);
        out.put_slice(MAGIC);
        out.put_u8(VERSION);
        fields.iter().for_each(|field| out.put_u32_le(field.len() as u32));
        fields.iter().for_each(|field| out.put_slice(field));
        out.freeze()
    }

    /// Reads what [`Self::encode`] wrote; says what is wrong with anything else.
    pub fn decode(mut bytes: Bytes) -> Result<Self, String> {
        if bytes.len() < MAGIC.len() + 13 || !bytes.starts_with(MAGIC) {
            return Err("it is no page of a backup".to_owned());
        }
        bytes.advance(MAGIC.len());
        let version = bytes.get_u8();
        if version != VERSION {
            return Err(format!("it has version {version}: update mira"));
        }
        let lengths = [bytes.get_u32_le(), bytes.get_u32_le(), bytes.get_u32_le()].map(|length| length as usize);
        if lengths.iter().sum::<usize>() != bytes.len()
            || !lengths[0].is_multiple_of(16)
            || !lengths[1].is_multiple_of(16)
        {
            return Err("its length is wrong".to_owned());
        }
        let [ids, changed, sealed] = lengths.map(|length| bytes.split_to(length));
        Ok(Page { ids, changed, sealed })
    }
}

/// The ids of a list, 16 bytes each.
pub fn ids(list: &[u8]) -> impl Iterator<Item = FrameId> {
    list.as_chunks::<16>().0.iter().map(|id| FrameId::from_be_bytes(*id))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_read_as_it_was_written_and_not_when_it_is_cut_off() {
        let page = Page { ids: vec![1; 32].into(), changed: vec![1; 16].into(), sealed: vec![9; 100].into() };
        let bytes = page.encode();
        assert_eq!(Page::decode(bytes.clone()), Ok(page));
        for length in 0..bytes.len() {
            assert!(Page::decode(bytes.slice(..length)).is_err(), "{length} bytes");
        }
        let mut newer = bytes.to_vec();
        newer[8] = 2;
        assert!(Page::decode(newer.into()).unwrap_err().contains("version 2"));
        assert_eq!(ids(&[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7]).collect::<Vec<_>>(), [7]);
    }
}
