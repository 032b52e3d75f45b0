//! How many bytes a group's log holds, and where it could be cut.
//!
//! Bytes are counted in pieces of many small entries or one large one, so that a log of millions of entries costs little
//! memory; a cut falls between two pieces.

use std::collections::VecDeque;

/// Entries up to `last`, back to the piece before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Piece {
    last: u64,
    bytes: u64,
}

/// The bytes of one group's log.
#[derive(Debug)]
pub(crate) struct Weight {
    /// Oldest first.
    pieces: VecDeque<Piece>,
    total: u64,
    piece_bytes: u64,
}

impl Weight {
    /// Of an empty log, counted in pieces of about so many bytes.
    pub fn new(piece_bytes: u64) -> Self {
        Weight { pieces: VecDeque::new(), total: 0, piece_bytes }
    }

    pub fn total(&self) -> u64 {
        self.total
    }

    /// Adds the entry behind all others.
    pub fn push(&mut self, index: u64, bytes: u64) {
        self.total += bytes;
        match self.pieces.back_mut().filter(|piece| piece.bytes + bytes <= self.piece_bytes) {
            Some(piece) => (piece.last, piece.bytes) = (index, piece.bytes + bytes),
            None => self.pieces.push_back(Piece { last: index, bytes }),
        }
    }

    /// Forgets the entries behind `keep`. A piece that is cut through counts in full, since nobody knows the size of its
    /// parts.
    pub fn truncate_after(&mut self, keep: Option<u64>) {
        while let Some(piece) = self.pieces.pop_back_if(|piece| Some(piece.last) > keep) {
            let before = self.pieces.back().map(|piece| piece.last);
            match keep {
                Some(keep) if before.is_none_or(|before| before < keep) => {
                    self.pieces.push_back(Piece { last: keep, ..piece });
                    return;
                }
                _ => self.total -= piece.bytes,
            }
        }
    }

    /// Forgets the entries up to `upto`, as far as they are whole pieces.
    pub fn purge(&mut self, upto: u64) {
        while let Some(piece) = self.pieces.pop_front_if(|piece| piece.last <= upto) {
            self.total -= piece.bytes;
        }
    }

    /// The last entry that must go for at most so many bytes to be left; `None` if nothing must.
    pub fn cut(&self, keep_bytes: u64) -> Option<u64> {
        let mut kept = 0;
        let too_much = |piece: &&Piece| {
            kept += piece.bytes;
            kept > keep_bytes
        };
        self.pieces.iter().rev().find(too_much).map(|piece| piece.last)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn weight(entries: impl IntoIterator<Item = (u64, u64)>) -> Weight {
        let mut weight = Weight::new(100);
        entries.into_iter().for_each(|(index, bytes)| weight.push(index, bytes));
        weight
    }

    #[test]
    fn a_cut_leaves_as_many_bytes_as_may_be_kept() {
        let log = weight((1..=10).map(|index| (index, 90)));
        assert_eq!((log.total(), log.cut(900)), (900, None));
        let table = [(899, Some(1)), (450, Some(5)), (449, Some(6)), (90, Some(9)), (89, Some(10)), (0, Some(10))];
        for (keep, cut) in table {
            assert_eq!(log.cut(keep), cut, "{keep} bytes kept");
        }
        assert_eq!(weight([]).cut(0), None);
    }

    #[test]
    fn small_entries_share_a_piece_and_large_ones_have_their_own() {
        let mut log = weight((1..=40).map(|index| (index, 10)).chain([(41, 5_000), (42, 10)]));
        assert_eq!(log.pieces.len(), 6);
        assert_eq!((log.cut(5_110), log.cut(5_109)), (Some(30), Some(40)), "between two pieces");
        log.purge(15);
        assert_eq!(log.total(), 5_310, "half of a piece stays");
        log.purge(41);
        assert_eq!(log.total(), 10);
    }

    #[test]
    fn what_is_truncated_is_forgotten() {
        let mut log = weight((1..=10).map(|index| (index, 90)));
        log.truncate_after(Some(10));
        assert_eq!(log.total(), 900);
        log.truncate_after(Some(7));
        assert_eq!(log.total(), 630);
        log.push(8, 90);
        assert_eq!((log.total(), log.cut(89)), (720, Some(8)));
        let mut small = weight((1..=10).map(|index| (index, 10)));
        small.truncate_after(Some(4));
        assert_eq!((small.total(), small.cut(0)), (100, Some(4)), "counted in full");
        small.truncate_after(None);
        assert_eq!((small.total(), small.cut(0)), (0, None));
    }
}
