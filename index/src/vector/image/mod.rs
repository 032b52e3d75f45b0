//! An index as bytes: written while writers go on, read back without linking anything again.
//!
//! The layer above seals the bytes and keeps them with the log position they stand for; this one guards against
//! truncation, damage and versions it does not know.
//!
//! ```text
//! image   = "MIRAVIDX" version:u32 chunk* end
//! chunk   = length:u32 (1..=262,144) payload crc:u32      end = 0:u32 crc:u32
//! ```
//! `crc` is the CRC-32 of every byte before it, so chunks cannot be swapped or dropped. Integers are little-endian. The
//! payloads together are one stream:
//!
//! ```text
//! shape   = dim:u32 metric:u8 quantization:u8 m:u32 ef_construction:u32 exact_below:u64 seed:u64 slots:u32
//!           centre:u8 (f32* if 1: codes are taken around it) rows:u8 (0 the codes are the rows, 1 in the image, 2 elsewhere)
//! slot*   = 0:u8 (holds nothing) | (1:u8 (live) | 2:u8 (dead)) id:u128 first:u32 count:u32 created:u64 expires:u64 codes
//! row*    = f32*                                          of live slots in order, if in the image
//! fields  = count:u32 (name:text dropped:u8 values:u32 value*)*
//! value   = 0:u8 bool:u8 | (1:u8 (whole) | 2:u8 (above i64) | 3:u8 (f64)) bits:u64 | 4:u8 text
//! text    = bytes:u32 UTF-8
//! types   = full:u8 count:u32 (name:text types:u8)*         by name; full: fields that are not named hold anything
//! terms*  = partial:u8 count:u8 (value:u22 field:u10)*      of the first slots of live documents in order
//! graph   = 0:u8 | 1:u8 unlinked_from:u32 unlinked_to:u32 top* links*
//! top*    = 0..=15 (a node's highest layer) | 254 (a twin) | 255 (not in the graph): u8   of every slot
//! links*  = (count:u8 slot:u32*) of every layer of a node from the bottom, then twin:u32 (slot + 1, 0 for none)
//!           of nodes and twins in order
//! ```
//!
//! Each value of a field stands once; the attributes of a document are terms, which name a field and one of its values.
//! Of a field that takes too much nothing is kept, and no term names it. Its types are kept, as those of values that are
//! too long or too many to be terms.
//!
//! Dead slots keep their codes, because the graph leads through them, but not their rows. An index can always be
//! rebuilt from its documents, so images of other versions are refused, not converted.

mod chunks;
mod read;
mod write;

use mira_proto::model::{Metric, Quantization};

use crate::vector::rows::Rows;

pub(crate) use read::read;
pub use write::Snapshot;

/// Content of a slot that was given out and never written.
const EMPTY: u8 = 0;
/// Content of a slot whose document a search may find.
const LIVE: u8 = 1;
/// Content of a slot whose document was removed or replaced.
const DEAD: u8 = 2;
/// In the place of a node's highest layer: the slot is a twin.
const TWIN: u8 = 254;
/// In the place of a node's highest layer: the slot is not in the graph.
const ABSENT: u8 = 255;

fn metric_code(metric: Metric) -> u8 {
    match metric {
        Metric::Cosine => 0,
        Metric::Dot => 1,
        Metric::L2 => 2,
    }
}

fn quantization_code(quantization: Quantization) -> u8 {
    match quantization {
        Quantization::None => 0,
        Quantization::Int8 => 1,
        Quantization::Binary => 2,
    }
}

fn metric_of(code: u8) -> Option<Metric> {
    match code {
        0 => Some(Metric::Cosine),
        1 => Some(Metric::Dot),
        2 => Some(Metric::L2),
        _ => None,
    }
}

fn quantization_of(code: u8) -> Option<Quantization> {
    match code {
        0 => Some(Quantization::None),
        1 => Some(Quantization::Int8),
        2 => Some(Quantization::Binary),
        _ => None,
    }
}

fn rows_code(rows: &Rows) -> u8 {
    match rows {
        Rows::Codes => 0,
        Rows::Memory(_) => 1,
        Rows::Source(_) => 2,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn choices_of_a_collection_keep_their_numbers() {
        for (metric, code) in [(Metric::Cosine, 0), (Metric::Dot, 1), (Metric::L2, 2)] {
            assert_eq!((metric_code(metric), metric_of(code)), (code, Some(metric)));
        }
        for (quantization, code) in [(Quantization::None, 0), (Quantization::Int8, 1), (Quantization::Binary, 2)] {
            assert_eq!((quantization_code(quantization), quantization_of(code)), (code, Some(quantization)));
        }
        assert_eq!((metric_of(3), quantization_of(3)), (None, None));
    }
}
