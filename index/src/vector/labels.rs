//! Who a slot belongs to, at 32 bytes per slot.
//!
//! Labels are written once and read without a lock.

use std::sync::atomic::Ordering;

use crate::document::{Document, Times};
use crate::vector::arena::WordArena;

/// Who a slot belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Label {
    pub(crate) id: u128,
    /// The document's first slot; its others follow.
    pub(crate) first: u32,
    /// The document's number of slots.
    pub(crate) count: u32,
    /// The document's times.
    pub(crate) times: Times,
}

impl Label {
    /// The document's slots.
    pub(crate) fn slots(&self) -> std::ops::Range<u32> {
        self.first..self.first + self.count
    }

    /// The document.
    pub(crate) fn document(&self) -> Document {
        Document { id: self.id, times: self.times }
    }
}

/// Labels by slot, each eight words: `count << 16 | passage` (0 while unwritten, the last to be written), the id, and 48
/// bits for each of the times.
pub(crate) struct Labels(WordArena);

const LABEL_WORDS: usize = 8;

impl Labels {
    pub(crate) fn new() -> Self {
        Labels(WordArena::new(LABEL_WORDS))
    }

    /// Labels a slot, once.
    pub(crate) fn write(&self, slot: u32, label: Label) {
        let (id, passage) = (label.id, slot - label.first);
        assert!(passage < label.count && label.count <= u32::from(u16::MAX));
        let [created, expires] = [label.times.created_ms, label.times.expires_ms].map(|ms| ms.min(Times::MAX_MS));
        let rest = [
            id as u32,
            (id >> 32) as u32,
            (id >> 64) as u32,
            (id >> 96) as u32,
            created as u32,
            expires as u32,
            (created >> 32) as u32 | ((expires >> 32) as u32) << 16,
        ];
        let words = self.0.get_or_make(slot);
        for (word, value) in words[1..].iter().zip(rest) {
            word.store(value, Ordering::Relaxed);
        }
        words[0].store(label.count << 16 | passage, Ordering::Release);
    }

    /// The label of a slot, or `None` before it was written.
    #[inline]
    pub(crate) fn get(&self, slot: u32) -> Option<Label> {
        let words: &[_; LABEL_WORDS] = self.0.get(slot)?.try_into().ok()?;
        let place = words[0].load(Ordering::Acquire);
        if place == 0 {
            return None;
        }
        let word = |at: usize| words[at].load(Ordering::Relaxed);
        let id = (0..4).fold(0u128, |id, at| id | u128::from(word(1 + at)) << (32 * at));
        let high = word(7);
        let times = Times {
            created_ms: u64::from(word(5)) | u64::from(high & 0xffff) << 32,
            expires_ms: u64::from(word(6)) | u64::from(high >> 16) << 32,
        };
        Some(Label { id, first: slot - (place & 0xffff), count: place >> 16, times })
    }

    pub(crate) fn bytes(&self, slots: u32) -> usize {
        self.0.bytes(slots)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_keep_what_they_are_given() {
        let labels = Labels::new();
        let times = Times { created_ms: 0x1234_5678_9abc, expires_ms: Times::MAX_MS };
        let label = Label { id: u128::MAX - 77, first: 70_000, count: 65_535, times };
        assert_eq!(labels.get(70_000), None);
        for slot in [70_000, 70_001, 135_534] {
            labels.write(slot, label);
            assert_eq!(labels.get(slot), Some(label));
        }
        let beyond = Times { created_ms: u64::MAX, expires_ms: 0 };
        labels.write(3, Label { times: beyond, first: 3, count: 1, id: 5 });
        assert_eq!(labels.get(3).unwrap().times, Times { created_ms: Times::MAX_MS, expires_ms: 0 });
    }
}
