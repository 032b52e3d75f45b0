//! Cursors: where a page of a search ended, so that the next one goes on after it.
//!
//! A cursor says the place of the last hit in the ranking (its score and id), not a number of hits to skip. So whatever
//! is stored or forgotten between two pages, no hit is shown twice and none that was there is skipped; what is stored
//! meanwhile and ranks before the place is not shown. A first page may come from a walk of the index that missed a hit; the
//! pages after it compare with everything. So its cursor names the hits that it showed, four bytes each, and what ranks
//! before the place and was not among them comes next. It belongs to one collection and one question: with another it is
//! refused, for it would answer neither. It holds no content and gives no rights.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use mira_index::Place;
use mira_proto::{CollectionId, FrameId, Problem};

/// The last layout; the one before had no hits named.
const VERSION: u8 = 2;
const LENGTH: usize = 1 + 8 + 16 + 4 + 16 + 4 + 8 + 4;

/// See the module.
#[derive(Debug, Clone, PartialEq)]
pub struct Cursor {
    /// The collection that was searched.
    pub collection: CollectionId,
    /// A digest of the question and its options.
    pub question: [u8; 16],
    /// Score of the last hit.
    pub score: f32,
    /// Its id.
    pub id: FrameId,
    /// Hits of this page and all before.
    pub seen: u32,
    /// When the first page was asked for, milliseconds: ages are counted from then.
    pub now_ms: u64,
    /// Short names of the hits that were shown, ascending, if pages may have missed one that ranks before the last; else none.
    pub shown: Vec<u32>,
}

impl Cursor {
    /// The place that it marks.
    pub fn place(&self) -> Place {
        Place { score: self.score, id: self.id, shown: self.shown.clone() }
    }

    /// The text that a caller gets.
    pub fn encode(&self) -> String {
        let mut bytes = Vec::with_capacity(LENGTH + 4 * self.shown.len());
        bytes.push(VERSION);
        bytes.extend(self.collection.to_be_bytes());
        bytes.extend(self.question);
        bytes.extend(self.score.to_be_bytes());
        bytes.extend(self.id.to_be_bytes());
        bytes.extend(self.seen.to_be_bytes());
        bytes.extend(self.now_ms.to_be_bytes());
        self.shown.iter().for_each(|name| bytes.extend(name.to_be_bytes()));
        // Copied by hand, a cursor may lose a letter.
        let check = blake3::hash(&bytes);
        bytes.extend(&check.as_bytes()[..4]);
        URL_SAFE_NO_PAD.encode(bytes)
    }

    /// Reads a caller's text.
    pub fn decode(text: &str) -> Result<Cursor, Problem> {
        let damaged = || Problem::invalid("cursor is not one that a search has given out: search without it");
        let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_| damaged())?;
        let is_known = bytes.len() >= LENGTH && (bytes.len() == LENGTH || bytes[0] == VERSION);
        if !is_known || !(1..=VERSION).contains(&bytes[0]) || !(bytes.len() - LENGTH).is_multiple_of(4) {
            return Err(damaged());
        }
        let (body, check) = bytes.split_at(bytes.len() - 4);
        if blake3::hash(body).as_bytes()[..4] != *check {
            return Err(damaged());
        }
        let mut rest = &body[1..];
        let cursor = Cursor {
            collection: u64::from_be_bytes(take(&mut rest)),
            question: take(&mut rest),
            score: f32::from_be_bytes(take(&mut rest)),
            id: u128::from_be_bytes(take(&mut rest)),
            seen: u32::from_be_bytes(take(&mut rest)),
            now_ms: u64::from_be_bytes(take(&mut rest)),
            shown: rest.as_chunks::<4>().0.iter().map(|name| u32::from_be_bytes(*name)).collect(),
        };
        if cursor.score.is_finite() && cursor.shown.is_sorted() { Ok(cursor) } else { Err(damaged()) }
    }

    /// Refuses a cursor of another collection or question.
    pub fn belongs_to(&self, collection: CollectionId, question: [u8; 16]) -> Result<(), Problem> {
        if self.collection != collection {
            return Err(Problem::invalid("cursor belongs to another collection: search without it"));
        }
        if self.question != question {
            return Err(Problem::invalid("cursor belongs to another search: ask the same again, or without it"));
        }
        Ok(())
    }
}

fn take<const N: usize>(rest: &mut &[u8]) -> [u8; N] {
    let (head, tail) = rest.split_first_chunk().expect("the length was checked");
    *rest = tail;
    *head
}

#[cfg(test)]
mod tests {
    use super::*;
    use mira_proto::Code;

    #[test]
    fn cursors_come_back_whole_or_not_at_all() {
        let cursor = Cursor {
            collection: 7,
            question: [3; 16],
            score: -0.25,
            id: 1 << 100,
            seen: 40,
            now_ms: 1 << 40,
            shown: vec![1, 7, u32::MAX],
        };
        assert_eq!(Cursor::decode(&cursor.encode()), Ok(cursor.clone()));
        let unsorted = Cursor { shown: vec![7, 1], ..cursor.clone() };
        assert!(Cursor::decode(&unsorted.encode()).is_err());
        let cursor = Cursor { shown: Vec::new(), ..cursor };
        let text = cursor.encode();
        assert_eq!(Cursor::decode(&text), Ok(cursor.clone()));
        for at in 0..text.len() {
            let mut changed = text.clone().into_bytes();
            changed[at] = if changed[at] == b'A' { b'B' } else { b'A' };
            let refused = Cursor::decode(std::str::from_utf8(&changed).unwrap());
            assert_eq!(refused.unwrap_err().code, Code::InvalidArgument);
        }
        assert!(Cursor::decode("").is_err());
        assert!(Cursor::decode(&text[1..]).is_err());
        // One that the release before has given out.
        let before = "AQAAAAAAAAAHAwMDAwMDAwMDAwMDAwMDA76AAAAAAAAQAAAAAAAAAAAAAAAAAAAAKAAAAQAAAAAA";
        let check = blake3::hash(&URL_SAFE_NO_PAD.decode(before).unwrap());
        let mut old = URL_SAFE_NO_PAD.decode(before).unwrap();
        old.extend(&check.as_bytes()[..4]);
        assert_eq!(Cursor::decode(&URL_SAFE_NO_PAD.encode(old)), Ok(cursor.clone()));
        assert!(cursor.belongs_to(7, [3; 16]).is_ok());
        assert!(cursor.belongs_to(8, [3; 16]).unwrap_err().detail.contains("another collection"));
        assert!(cursor.belongs_to(7, [4; 16]).unwrap_err().detail.contains("another search"));
    }
}
