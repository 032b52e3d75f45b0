//! The objects that pages lie in: what they name in clear, and what they hold, sealed by a node.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use mira_proto::FrameId;
use uuid::Uuid;

const MAGIC: &[u8; 8] = b"MIRAPAGE";
const LOG_MAGIC: &[u8; 8] = b"MIRALOGP";
const VERSION: u8 = 1;
/// Bytes of a frame that a page of a log names.
const TOUCHED: usize = 24;

/// A page of a part.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// Every frame in its range, 16 bytes each.
    pub ids: Bytes,
    /// Those of them that it holds.
    pub changed: Bytes,
    /// The content, sealed by a node.
    pub sealed: Bytes,
}

impl Page {
    /// Magic, version, three lengths (u32, little-endian), three fields.
    pub fn encode(&self) -> Bytes {
        encode(MAGIC, [&self.ids, &self.changed, &self.sealed])
    }

    /// Reads what [`Self::encode`] wrote; says what is wrong with anything else.
    pub fn decode(bytes: Bytes) -> Result<Self, String> {
        let [ids, changed, sealed] = decode(MAGIC, bytes)?;
        if !ids.len().is_multiple_of(16) || !changed.len().is_multiple_of(16) {
            return Err("its length is wrong".to_owned());
        }
        Ok(Page { ids, changed, sealed })
    }
}

/// A page of a shard's log as an object of the repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SealedLogPage {
    /// Collection and id of each frame that it may change, 8 and 16 bytes.
    pub touched: Bytes,
    /// The content, sealed by a node.
    pub sealed: Bytes,
}

impl SealedLogPage {
    /// Magic, version, two lengths (u32, little-endian), two fields.
    pub fn encode(&self) -> Bytes {
        encode(LOG_MAGIC, [&self.touched, &self.sealed])
    }

    /// Reads what [`Self::encode`] wrote; says what is wrong with anything else.
    pub fn decode(bytes: Bytes) -> Result<Self, String> {
        let [touched, sealed] = decode(LOG_MAGIC, bytes)?;
        if !touched.len().is_multiple_of(TOUCHED) {
            return Err("its length is wrong".to_owned());
        }
        Ok(SealedLogPage { touched, sealed })
    }

    /// The frames that it may change, by collection.
    pub fn touched(&self) -> impl Iterator<Item = (u64, FrameId)> {
        self.touched.as_chunks::<TOUCHED>().0.iter().map(|named| {
            let (collection, frame) = named.split_first_chunk::<8>().expect("24 bytes");
            (u64::from_be_bytes(*collection), FrameId::from_be_bytes(frame.try_into().expect("16 bytes")))
        })
    }
}

fn encode<const N: usize>(magic: &[u8; 8], fields: [&Bytes; N]) -> Bytes {
    let length = magic.len() + 1 + fields.iter().map(|field| 4 + field.len()).sum::<usize>();
    let mut out = BytesMut::with_capacity(length);
    out.put_slice(magic);
    out.put_u8(VERSION);
    fields.iter().for_each(|field| out.put_u32_le(field.len() as u32));
    fields.iter().for_each(|field| out.put_slice(field));
    out.freeze()
}

fn decode<const N: usize>(magic: &[u8; 8], mut bytes: Bytes) -> Result<[Bytes; N], String> {
    if bytes.len() < magic.len() + 1 + 4 * N || !bytes.starts_with(magic) {
        return Err("it is no page of a backup".to_owned());
    }
    bytes.advance(magic.len());
    let version = bytes.get_u8();
    if version != VERSION {
        return Err(format!("it has version {version}: update mira"));
    }
    let lengths = [(); N].map(|()| bytes.get_u32_le() as usize);
    if lengths.iter().sum::<usize>() != bytes.len() {
        return Err("its length is wrong".to_owned());
    }
    Ok(lengths.map(|length| bytes.split_to(length)))
}

/// An id as the wire carries it.
pub(super) fn bytes_of(id: Uuid) -> Bytes {
    Bytes::copy_from_slice(id.as_bytes())
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
        let log = SealedLogPage {
            touched: [[0; 7].as_slice(), &[3], &[0; 15], &[8]].concat().into(),
            sealed: vec![9; 50].into(),
        };
        let bytes = log.encode();
        assert_eq!(SealedLogPage::decode(bytes.clone()), Ok(log.clone()));
        assert_eq!(log.touched().collect::<Vec<_>>(), [(3, 8)]);
        for length in 0..bytes.len() {
            assert!(SealedLogPage::decode(bytes.slice(..length)).is_err(), "{length} bytes");
        }
        assert!(Page::decode(bytes).is_err(), "a page of a log is no page of frames");
        assert_eq!(ids(&[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7]).collect::<Vec<_>>(), [7]);
    }
}
