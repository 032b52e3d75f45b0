//! Rebuilding an index from its live documents while searches and writes go on.
//!
//! Documents are copied one by one into a fresh segment; the old one notes in its journal which were written meanwhile, and
//! these are copied again until few are left. For the last of them writers wait.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::VectorIndex;
use crate::error::IndexError;
use crate::filter::postings::Postings;
use crate::vector::centre;
use crate::vector::segment::Segment;

/// Dead slots below this number are not worth a compaction.
const MIN_DEAD: u32 = 256;
/// Documents left in the journal at which a compaction stops writers to copy the last of them.
const LAST_CATCH_UP: usize = 64;

impl VectorIndex {
    /// Whether a fifth of the slots are dead, or codes are taken around a point that is far from the vectors.
    pub fn needs_compaction(&self) -> bool {
        let segment = self.segment.load();
        if segment.is_off_centre() && centre::is_useful(&segment.config) {
            return true;
        }
        let clock = segment.clock.lock();
        clock.dead >= MIN_DEAD && clock.dead >= clock.next_slot / 5
    }

    /// Rebuilds the index from its live documents and frees the rest, on `threads` threads, while searches and writes go
    /// on; writes stop only for the last documents that changed meanwhile. A second compaction waits for the first.
    ///
    /// `abort` is asked between documents; if it answers true, or rows cannot be read, the index stays as it was.
    pub fn compact(&self, threads: usize, abort: &(dyn Fn() -> bool + Sync)) -> Result<(), IndexError> {
        let _alone = self.compacting.lock();
        let old = self.segment();
        old.clock.lock().journal = Some(Default::default());
        let compacted = self.rebuild(&old, threads, abort);
        old.clock.lock().journal = None;
        compacted
    }

    fn rebuild(&self, old: &Segment, threads: usize, abort: &(dyn Fn() -> bool + Sync)) -> Result<(), IndexError> {
        let mut fresh = Segment::new(old.config, &old.rows.storage(), choose_centre(old)?);
        fresh.postings = Postings::like(&old.postings);
        if old.clock.lock().live as usize > old.config.exact_below {
            fresh.start_graph();
        }
        copy_documents(old, &fresh, threads, abort)?;
        loop {
            let changed = old.clock.lock().journal.replace(Default::default()).unwrap_or_default();
            let few = changed.len() <= LAST_CATCH_UP;
            let mut changed: Vec<_> = changed.into_iter().collect();
            changed.sort_unstable();
            for id in changed {
                if abort() {
                    return Err(IndexError::Aborted);
                }
                fresh.copy_from(old, id)?;
            }
            if few {
                break;
            }
        }
        let _stopped = self.writers.write();
        let last = old.clock.lock().journal.take().unwrap_or_default();
        for id in last {
            fresh.copy_from(old, id)?;
        }
        fresh.postings.inherit(&old.postings);
        fresh.judge_codes();
        self.segment.store(Arc::new(fresh));
        Ok(())
    }
}

/// The centre of the codes to come, by a sample of all documents.
fn choose_centre(old: &Segment) -> Result<Option<Box<[f32]>>, IndexError> {
    if !centre::is_useful(&old.config) {
        return Ok(None);
    }
    let firsts = old.table.slots();
    let step = firsts.len().div_ceil(centre::SAMPLE).max(1);
    let sample: Vec<u32> = firsts.into_iter().step_by(step).collect();
    let mut rows = vec![Vec::new(); sample.len()];
    old.fetch(&sample, false, &mut |position, row| rows[position] = row.to_vec())?;
    let rows = rows.iter().filter(|row| !row.is_empty()).map(Vec::as_slice);
    Ok(centre::of_rows(rows, old.centre.as_deref()))
}

/// Copies every document of `old`, in the order in which they came.
fn copy_documents(
    old: &Segment,
    fresh: &Segment,
    threads: usize,
    abort: &(dyn Fn() -> bool + Sync),
) -> Result<(), IndexError> {
    let slots = old.table.slots();
    let next = AtomicUsize::new(0);
    let copy = || {
        while let Some(slot) = slots.get(next.fetch_add(1, Ordering::Relaxed)) {
            if abort() {
                return Err(IndexError::Aborted);
            }
            let label = old.labels.get(*slot).expect("documents in the table are labelled");
            fresh.copy_from(old, label.id)?;
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        let workers: Vec<_> = (1..threads.max(1)).map(|_| scope.spawn(copy)).collect();
        let own = copy();
        let others = workers.into_iter().map(|worker| worker.join().expect("copying does not panic"));
        others.fold(own, |all, one| all.and(one))
    })
}
