//! The codec of the public gRPC, which looks a request over before it is decoded.
//!
//! Decoding makes a value of hundreds of bytes of every entry of a list, and an empty entry takes two bytes of a message. So
//! the entries of all lists of texts and messages are counted first, through all messages that a request holds, and too many
//! are refused. Lists of numbers take no more room than their bytes. What a message looks like comes from the .proto files,
//! so a field that is added there is counted without more.

use std::collections::{HashMap, HashSet};
use std::marker::PhantomData;
use std::sync::LazyLock;

use bytes::Buf;
use prost::encoding::decode_varint;
use prost::{Message, Name};
use tonic::Status;
use tonic::codec::{BufferSettings, Codec, DecodeBuf, Decoder};
use tonic_prost::{ProstDecoder, ProstEncoder};

use crate::{Code, Problem, limits};

/// Messages within messages; the public ones have three levels.
const MAX_LEVELS: usize = 16;

/// A field: its number, whether it is a list, and the message that it holds, if it holds one.
type FieldShape = (i32, bool, &'static str);

/// What the messages of the public gRPC look like.
struct Shapes {
    /// Messages that callers send.
    requests: &'static [&'static str],
    /// By name: fields that are lists of texts, bytes or messages, and fields that hold messages.
    messages: &'static [(&'static str, &'static [FieldShape])],
}

static SHAPES: Shapes = include!(concat!(env!("OUT_DIR"), "/shapes.rs"));

type Fields = HashMap<u64, (bool, &'static str)>;

static BY_NAME: LazyLock<HashMap<&'static str, Fields>> = LazyLock::new(|| {
    let fields = |fields: &[FieldShape]| {
        fields.iter().map(|&(number, is_list, message)| (number as u64, (is_list, message))).collect()
    };
    SHAPES.messages.iter().map(|(name, shape)| (*name, fields(shape))).collect()
});

static REQUESTS: LazyLock<HashSet<&'static str>> = LazyLock::new(|| SHAPES.requests.iter().copied().collect());

/// Encodes and decodes as `tonic_prost::ProstCodec` does; requests within [`limits::MAX_MESSAGE_ENTRIES`].
#[derive(Debug)]
pub struct BoundedCodec<T, U>(PhantomData<(T, U)>);

impl<T, U> Default for BoundedCodec<T, U> {
    fn default() -> Self {
        BoundedCodec(PhantomData)
    }
}

impl<T, U> Codec for BoundedCodec<T, U>
where
    T: Message + Send + 'static,
    U: Message + Name + Default + Send + 'static,
{
    type Encode = T;
    type Decode = U;
    type Encoder = ProstEncoder<T>;
    type Decoder = BoundedDecoder<U>;

    fn encoder(&mut self) -> Self::Encoder {
        ProstEncoder::new(BufferSettings::default())
    }

    fn decoder(&mut self) -> Self::Decoder {
        BoundedDecoder(ProstDecoder::new(BufferSettings::default()))
    }
}

/// Decodes messages that were looked over.
#[derive(Debug)]
pub struct BoundedDecoder<U>(ProstDecoder<U>);

impl<U: Message + Name + Default> Decoder for BoundedDecoder<U> {
    type Item = U;
    type Error = Status;

    fn decode(&mut self, bytes: &mut DecodeBuf<'_>) -> Result<Option<U>, Status> {
        if REQUESTS.contains(U::NAME) {
            check(U::NAME, bytes.chunk())?;
        }
        self.0.decode(bytes)
    }

    fn buffer_settings(&self) -> BufferSettings {
        self.0.buffer_settings()
    }
}

/// Refuses a request with too many entries in its lists.
pub(crate) fn check(name: &str, message: &[u8]) -> Result<(), Problem> {
    let mut left = limits::MAX_MESSAGE_ENTRIES;
    if count(name, message, MAX_LEVELS, &mut left) {
        return Ok(());
    }
    let limit = limits::MAX_MESSAGE_ENTRIES;
    let detail = format!("the lists of the request have more than {limit} entries together: send several requests");
    Err(Problem::new(Code::TooLarge, detail))
}

/// Takes the entries of a message from those that are left; false if there are too many. What is no message is left to the
/// decoder, which refuses it.
fn count(name: &str, mut message: &[u8], levels: usize, left: &mut usize) -> bool {
    let Some(fields) = BY_NAME.get(name) else { return true };
    if levels == 0 {
        return false;
    }
    while !message.is_empty() {
        let Ok(key) = decode_varint(&mut message) else { return true };
        let value = match key & 7 {
            0 => {
                let Ok(_) = decode_varint(&mut message) else { return true };
                continue;
            }
            1 => message.split_off(..8).map(|_| None),
            2 => {
                let Ok(length) = decode_varint(&mut message) else { return true };
                usize::try_from(length).ok().and_then(|length| message.split_off(..length)).map(Some)
            }
            5 => message.split_off(..4).map(|_| None),
            _ => None,
        };
        let Some(value) = value else { return true };
        let (Some(value), Some(&(is_list, inner))) = (value, fields.get(&(key >> 3))) else { continue };
        if is_list {
            let Some(fewer) = left.checked_sub(1) else { return false };
            *left = fewer;
        }
        if !count(inner, value, levels - 1, left) {
            return false;
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::v1;

    fn checked<M: Message + Name>(message: &M) -> Result<(), Code> {
        check(M::NAME, &message.encode_to_vec()).map_err(|problem| problem.code)
    }

    #[test]
    fn lists_of_a_request_are_counted_through_all_its_messages() {
        let item = v1::StoreRequest { vector: vec![0.5; 4_096], content: Some("a".into()), ..Default::default() };
        let batch = v1::StoreBatchRequest { items: vec![item; 1_000] };
        assert_eq!(checked(&batch), Ok(()));
        let empty = v1::StoreBatchRequest { items: vec![Default::default(); 70_000] };
        assert_eq!(checked(&empty), Err(Code::TooLarge));
        let names = (0..70).map(|name| (name.to_string(), v1::Vector::default())).collect();
        let item = v1::StoreRequest { named_vectors: names, ..Default::default() };
        let wide = v1::StoreBatchRequest { items: vec![item; 1_000] };
        assert_eq!(checked(&wide), Err(Code::TooLarge), "of a map in each item");
        let search = v1::SearchRequest { queries: vec![String::new(); 100], ..Default::default() };
        let searches = v1::SearchBatchRequest { searches: vec![search; 1_000] };
        assert_eq!(checked(&searches), Err(Code::TooLarge));
        assert_eq!(
            checked(&v1::RecallRequest { ids: vec![String::new(); 70_000], ..Default::default() }),
            Err(Code::TooLarge)
        );
    }

    #[test]
    fn what_is_no_message_is_left_to_the_decoder() {
        for bytes in [
            &[0xff][..],
            &[0x0a],
            &[0x0a, 0x05, 1],
            &[0x0b],
            &[0x0a, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01],
        ] {
            assert_eq!(check("StoreBatchRequest", bytes), Ok(()), "{bytes:?}");
            assert!(v1::StoreBatchRequest::decode(bytes).is_err(), "{bytes:?}");
        }
    }

    #[test]
    fn every_request_of_the_public_services_is_looked_over() {
        for name in [
            "StoreRequest",
            "StoreBatchRequest",
            "SearchBatchRequest",
            "ForgetRequest",
            "UploadPiece",
            "BackupStepRequest",
        ] {
            assert!(REQUESTS.contains(name) && BY_NAME.contains_key(name), "{name}");
        }
        assert!(!REQUESTS.contains("SearchReply"));
    }
}
