//! Memory that grows without moving: records of one size, numbered by slot, in chunks that double.
//!
//! Chunk 0 has [`FIRST`] records, each further chunk as many as all before it together. A chunk is allocated zeroed when
//! its first record is wanted and stays where it is, so searches read without a lock while inserts go on, nothing is
//! copied when an index grows, and an index of ten vectors costs a few kilobytes. Pages of a chunk that were never
//! written are not resident.
//!
//! [`WordArena`] is plain atomics (links of the graph). [`Records`] adds records that are written once and then read as
//! plain memory by many threads: its `state` word says that the write is over, and is read with acquire ordering
//! before the payload is handed out.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

/// Records in the first chunk.
const FIRST: u32 = 16;
/// Chunks needed to reach 2³² slots.
const CHUNKS: usize = 29;
const LINE_WORDS: usize = 16;
/// From so many bytes on, a chunk asks for huge pages. A walk reads records all over it, and with small pages most of them
/// miss the processor's cache of addresses too.
const HUGE_FROM: usize = 4 << 20;

/// One cache line.
#[repr(C, align(64))]
struct Line([AtomicU32; LINE_WORDS]);

/// Which chunk holds a slot, and at which place.
#[inline]
fn locate(slot: u32) -> (usize, usize) {
    let shifted = u64::from(slot) + u64::from(FIRST);
    let power = shifted.ilog2();
    ((power - FIRST.ilog2()) as usize, (shifted - (1 << power)) as usize)
}

/// Records of `stride` atomic words each, zero until written.
pub(crate) struct WordArena {
    stride: usize,
    chunks: [OnceLock<Box<[Line]>>; CHUNKS],
}

impl WordArena {
    pub(crate) fn new(stride: usize) -> Self {
        assert!(stride > 0);
        WordArena { stride, chunks: [const { OnceLock::new() }; CHUNKS] }
    }

    /// The record of `slot`, or `None` if nothing near it was ever made.
    #[inline]
    pub(crate) fn get(&self, slot: u32) -> Option<&[AtomicU32]> {
        let (chunk, place) = locate(slot);
        let words = as_words(self.chunks[chunk].get()?);
        words.get(place * self.stride..(place + 1) * self.stride)
    }

    /// The record of `slot`, made if needed.
    pub(crate) fn get_or_make(&self, slot: u32) -> &[AtomicU32] {
        let (chunk, place) = locate(slot);
        let lines = self.chunks[chunk].get_or_init(|| zeroed((FIRST as usize) << chunk, self.stride));
        &as_words(lines)[place * self.stride..(place + 1) * self.stride]
    }

    /// Bytes of the first `slots` records.
    pub(crate) fn bytes(&self, slots: u32) -> usize {
        slots as usize * self.stride * size_of::<u32>()
    }
}

/// Zeroed memory for `records` records, without touching its pages.
fn zeroed(records: usize, stride: usize) -> Box<[Line]> {
    let lines = (records * stride).div_ceil(LINE_WORDS);
    let memory = Box::<[Line]>::new_zeroed_slice(lines);
    // SAFETY: a Line is atomics only, for which all zeroes is a valid value.
    let memory = unsafe { memory.assume_init() };
    if size_of_val(&*memory) >= HUGE_FROM {
        ask_for_huge_pages(&memory);
    }
    memory
}

/// Asks the system to back memory with huge pages; without them it works the same, slower.
fn ask_for_huge_pages(memory: &[Line]) {
    #[cfg(target_os = "linux")]
    {
        use rustix::mm::{Advice, madvise};
        let page = rustix::param::page_size();
        let start = memory.as_ptr().cast::<u8>();
        let before = start.align_offset(page);
        let whole = size_of_val(memory).saturating_sub(before) / page * page;
        // SAFETY: the pages lie inside `memory`, and the advice is about what backs them, not what they hold.
        let _ = unsafe { madvise(start.add(before).cast_mut().cast(), whole, Advice::LinuxHugepage) };
    }
    #[cfg(not(target_os = "linux"))]
    let _ = memory;
}

#[inline]
fn as_words(lines: &[Line]) -> &[AtomicU32] {
    // SAFETY: Line is repr(C) around [AtomicU32; 16] whose size equals its alignment, so lines are words without gaps;
    // the lifetime is that of the borrow.
    unsafe { std::slice::from_raw_parts(lines.as_ptr().cast(), lines.len() * LINE_WORDS) }
}

/// Records that are written once: `[state][mark][payload …]`.
///
/// `state` is 0 before the write, [`WRITING`] during it, and at least [`WRITTEN`] afterwards; the owner may raise it
/// further as it likes. `mark` is a free atomic word. Invariant: payload words change only while `state` is `WRITING`.
pub(crate) struct Records {
    words: WordArena,
}

const HEADER: usize = 2;
const WRITING: u32 = u32::MAX;
/// State of a record whose payload is complete.
pub(crate) const WRITTEN: u32 = 1;

impl Records {
    /// Records of `payload` words, the stride rounded up so that vector loads of the payload stay on 16 bytes.
    pub(crate) fn new(payload: usize) -> Self {
        Records { words: WordArena::new((HEADER + payload).next_multiple_of(4)) }
    }

    /// Writes the payload of a slot and sets its state to [`WRITTEN`].
    ///
    /// # Panics
    /// If the slot was written before: its payload may be in use.
    pub(crate) fn write(&self, slot: u32, payload: &[u32]) {
        let record = self.words.get_or_make(slot);
        let claimed = record[0].compare_exchange(0, WRITING, Ordering::Acquire, Ordering::Relaxed);
        assert!(claimed.is_ok(), "slot {slot} is written twice");
        for (word, value) in record[HEADER..HEADER + payload.len()].iter().zip(payload) {
            word.store(*value, Ordering::Relaxed);
        }
        record[0].store(WRITTEN, Ordering::Release);
    }

    /// The state of a slot: 0 while it holds nothing.
    #[inline]
    pub(crate) fn state(&self, slot: u32) -> u32 {
        match self.words.get(slot).map(|record| record[0].load(Ordering::Acquire)) {
            None | Some(WRITING) => 0,
            Some(state) => state,
        }
    }

    /// Raises the state of a written slot.
    pub(crate) fn set_state(&self, slot: u32, state: u32) {
        assert!((WRITTEN..WRITING).contains(&state));
        let record = self.words.get_or_make(slot);
        assert!((WRITTEN..WRITING).contains(&record[0].load(Ordering::Relaxed)), "slot {slot} was not written");
        record[0].store(state, Ordering::Release);
    }

    /// The free word of a slot.
    #[inline]
    pub(crate) fn mark(&self, slot: u32) -> Option<&AtomicU32> {
        self.words.get(slot).map(|record| &record[1])
    }

    /// The payload of a slot, or `None` before its write is over.
    #[inline]
    pub(crate) fn payload(&self, slot: u32) -> Option<&[u32]> {
        let record = self.words.get(slot)?;
        let state = record[0].load(Ordering::Acquire);
        if state == 0 || state == WRITING {
            return None;
        }
        let payload = &record[HEADER..];
        // SAFETY: AtomicU32 has the layout of u32. The state was seen as written with acquire ordering, so the writes of
        // the payload happened before, and by the invariant of this type (no path leads back to `WRITING`) no write
        // follows while `self` lives.
        Some(unsafe { std::slice::from_raw_parts(payload.as_ptr().cast(), payload.len()) })
    }

    /// The address range of a record, for prefetching.
    #[inline]
    pub(crate) fn location(&self, slot: u32) -> Option<&[AtomicU32]> {
        self.words.get(slot)
    }

    /// Bytes of the first `slots` records.
    pub(crate) fn bytes(&self, slots: u32) -> usize {
        self.words.bytes(slots)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_follow_each_other_without_gap_or_overlap() {
        let mut expected = (0, 0);
        for slot in 0..10_000 {
            assert_eq!(locate(slot), expected, "slot {slot}");
            expected.1 += 1;
            if expected.1 == (FIRST as usize) << expected.0 {
                expected = (expected.0 + 1, 0);
            }
        }
        assert!(locate(u32::MAX).0 < CHUNKS);
    }

    #[test]
    fn payload_is_visible_only_after_the_write() {
        let records = Records::new(3);
        assert_eq!(records.payload(5), None);
        records.write(5, &[1, 2, 3]);
        assert_eq!(records.payload(5).unwrap()[..3], [1, 2, 3]);
        assert_eq!(records.payload(6), None);
        assert_eq!(records.state(6), 0);
    }

    #[test]
    #[should_panic(expected = "written twice")]
    fn a_slot_is_written_once() {
        let records = Records::new(1);
        records.write(0, &[1]);
        records.write(0, &[2]);
    }
}
