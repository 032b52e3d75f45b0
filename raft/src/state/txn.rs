//! A state machine's way to read and write while it applies.

use std::collections::BTreeMap;
use std::ops::{Bound, ControlFlow};

use bytes::Bytes;

use super::{as_slice, join, scan_table, successor};
use crate::engine::{Batch, EngineError, KeyBounds, Op, Read, Visitor};

/// What a batch of commands has written so far, over the committed state. Keys are whole engine keys.
#[derive(Default)]
pub(crate) struct Overlay {
    pub batch: Batch,
    /// Bytes written, for bounding the batch.
    pub bytes: usize,
    /// `None`: deleted. Entries inside a deleted range were written after it.
    values: BTreeMap<Vec<u8>, Option<Bytes>>,
    deleted: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Overlay {
    pub(crate) fn put(&mut self, key: Vec<u8>, value: Bytes) {
        self.bytes += key.len() + value.len();
        self.values.insert(key.clone(), Some(value.clone()));
        self.batch.put(key, value);
    }

    pub(crate) fn delete(&mut self, key: Vec<u8>) {
        self.bytes += key.len();
        self.values.insert(key.clone(), None);
        self.batch.delete(key);
    }

    pub(crate) fn delete_range(&mut self, from: Vec<u8>, to: Vec<u8>) {
        if from >= to {
            return;
        }
        let covered: Vec<Vec<u8>> = self.values.range(from.clone()..to.clone()).map(|(key, _)| key.clone()).collect();
        covered.into_iter().for_each(|key| drop(self.values.remove(&key)));
        self.bytes += from.len() + to.len();
        self.deleted.push((from.clone(), to.clone()));
        self.batch.delete_range(from, to);
    }

    /// How much was written so far.
    pub(crate) fn mark(&self) -> usize {
        self.batch.ops.len()
    }

    /// Takes back everything that was written after a mark. It happens so seldom that what was before is written anew.
    pub(crate) fn take_back_to(&mut self, mark: usize) {
        let mut kept = Overlay::default();
        for op in std::mem::take(&mut self.batch.ops).into_iter().take(mark) {
            match op {
                Op::Put { key, value } => kept.put(key, value),
                Op::Delete { key } => kept.delete(key),
                Op::DeleteRange { from, to } => kept.delete_range(from, to),
            }
        }
        *self = kept;
    }

    pub(crate) fn get(&self, base: &dyn Read, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        match self.values.get(key) {
            Some(value) => Ok(value.clone()),
            None if self.is_deleted(key) => Ok(None),
            None => base.get(key),
        }
    }

    fn is_deleted(&self, key: &[u8]) -> bool {
        self.deleted.iter().any(|(from, to)| from.as_slice() <= key && key < to.as_slice())
    }
}

/// Reads and writes of one command. Reads see the writes of earlier commands of the same batch; nothing is visible
/// outside before the whole batch is.
pub struct Txn<'a> {
    base: &'a dyn Read,
    prefix: &'a [u8],
    overlay: &'a mut Overlay,
}

impl<'a> Txn<'a> {
    pub(crate) fn new(base: &'a dyn Read, prefix: &'a [u8], overlay: &'a mut Overlay) -> Self {
        Self { base, prefix, overlay }
    }

    /// The value at `key`.
    ///
    /// # Errors
    /// When the engine cannot read it.
    pub fn get(&self, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        self.overlay.get(self.base, &join(self.prefix, key))
    }

    /// Sets `key` to `value`.
    pub fn put(&mut self, key: &[u8], value: impl Into<Bytes>) {
        self.overlay.put(join(self.prefix, key), value.into());
    }

    /// Removes `key`, if it is there.
    pub fn delete(&mut self, key: &[u8]) {
        self.overlay.delete(join(self.prefix, key));
    }

    /// Removes every key in `from..to`.
    pub fn delete_range(&mut self, from: &[u8], to: &[u8]) {
        self.overlay.delete_range(join(self.prefix, from), join(self.prefix, to));
    }

    /// Removes every key that starts with `start`.
    pub fn delete_prefix(&mut self, start: &[u8]) {
        let from = join(self.prefix, start);
        let to = successor(from.clone());
        self.overlay.delete_range(from, to);
    }

    /// Visits the pairs whose keys start with `start`, upwards, until the visitor breaks.
    ///
    /// # Errors
    /// When the engine cannot read on.
    pub fn scan_prefix(&self, start: &[u8], visit: &mut Visitor<'_>) -> Result<(), EngineError> {
        let end = successor(start.to_vec());
        let to = if end.is_empty() { Bound::Unbounded } else { Bound::Excluded(&end[..]) };
        self.scan(Bound::Included(start), to, visit)
    }

    /// Visits the pairs between the bounds, upwards, until the visitor breaks: the committed state and the overlay,
    /// merged.
    ///
    /// # Errors
    /// When the engine cannot read on.
    pub fn scan(&self, from: Bound<&[u8]>, to: Bound<&[u8]>, visit: &mut Visitor<'_>) -> Result<(), EngineError> {
        let skip = self.prefix.len();
        let low = match from {
            Bound::Unbounded => Bound::Included(self.prefix.to_vec()),
            other => other.map(|key| join(self.prefix, key)),
        };
        let high = match to {
            Bound::Unbounded => Bound::Excluded(successor(self.prefix.to_vec())),
            other => other.map(|key| join(self.prefix, key)),
        };
        let mut written = self.overlay.values.range::<[u8], _>((as_slice(&low), as_slice(&high))).peekable();
        let mut stopped = false;
        scan_table(self.base, self.prefix, KeyBounds { from, to }, false, &mut |key, value| {
            let whole = join(self.prefix, key);
            let mut overwritten = false;
            while let Some((own, value)) = written.next_if(|(own, _)| **own <= whole) {
                overwritten = *own == whole;
                if let Some(value) = value
                    && visit(&own[skip..], value) == ControlFlow::Break(())
                {
                    stopped = true;
                    return ControlFlow::Break(());
                }
            }
            if overwritten || self.overlay.is_deleted(&whole) {
                return ControlFlow::Continue(());
            }
            let flow = visit(key, value);
            stopped = flow == ControlFlow::Break(());
            flow
        })?;
        while !stopped && let Some((own, value)) = written.next() {
            stopped = value.as_ref().is_some_and(|value| visit(&own[skip..], value) == ControlFlow::Break(()));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::engine::{Durability, Engine, MemEngine};

    #[derive(Debug, Clone)]
    enum Step {
        Put(u8, u8),
        Delete(u8),
        DeleteRange(u8, u8),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            (0..20u8, any::<u8>()).prop_map(|(key, value)| Step::Put(key, value)),
            (0..20u8).prop_map(Step::Delete),
            (0..20u8, 0..20u8).prop_map(|(from, to)| Step::DeleteRange(from, to)),
        ]
    }

    fn run(steps: &[Step], model: &mut BTreeMap<u8, u8>, txn: &mut Txn<'_>) {
        for step in steps {
            match *step {
                Step::Put(key, value) => {
                    model.insert(key, value);
                    txn.put(&[key], vec![value]);
                }
                Step::Delete(key) => {
                    model.remove(&key);
                    txn.delete(&[key]);
                }
                Step::DeleteRange(from, to) => {
                    model.retain(|key, _| !(from..to).contains(key));
                    txn.delete_range(&[from], &[to]);
                }
            }
        }
    }

    fn contents(txn: &Txn<'_>) -> BTreeMap<u8, u8> {
        let mut pairs = BTreeMap::new();
        let mut previous = None;
        txn.scan(Bound::Unbounded, Bound::Unbounded, &mut |key, value| {
            assert!(previous < Some(key[0]), "upwards, each once");
            previous = Some(key[0]);
            pairs.insert(key[0], value[0]);
            ControlFlow::Continue(())
        })
        .unwrap();
        pairs
    }

    proptest! {
        /// What was written after a mark can be taken back, and nothing else is.
        #[test]
        fn what_was_written_after_a_mark_is_taken_back(
            kept in proptest::collection::vec(step(), 0..20),
            taken_back in proptest::collection::vec(step(), 0..20),
        ) {
            let engine = MemEngine::new();
            let (mut model, mut overlay) = (BTreeMap::new(), Overlay::default());
            run(&kept, &mut model, &mut Txn::new(&engine, b"p", &mut overlay));
            let (mark, bytes) = (overlay.mark(), overlay.bytes);
            run(&taken_back, &mut model.clone(), &mut Txn::new(&engine, b"p", &mut overlay));
            overlay.take_back_to(mark);
            prop_assert_eq!((overlay.mark(), overlay.bytes), (mark, bytes));
            prop_assert_eq!(contents(&Txn::new(&engine, b"p", &mut overlay)), model);
        }

        /// The overlay over a committed state reads like a plain map, before the commit and after it.
        #[test]
        fn reads_see_earlier_writes(
            first in proptest::collection::vec(step(), 0..20),
            second in proptest::collection::vec(step(), 0..20),
        ) {
            let engine = MemEngine::new();
            let mut model = BTreeMap::new();
            for steps in [&first, &second] {
                let mut overlay = Overlay::default();
                let mut txn = Txn::new(&engine, b"p", &mut overlay);
                run(steps, &mut model, &mut txn);
                prop_assert_eq!(contents(&txn), model.clone());
                for key in 0..20u8 {
                    let found = txn.get(&[key]).unwrap().map(|value| value[0]);
                    prop_assert_eq!(found, model.get(&key).copied());
                }
                engine.write(&overlay.batch, Durability::Buffered).unwrap();
            }
            let mut overlay = Overlay::default();
            prop_assert_eq!(contents(&Txn::new(&engine, b"p", &mut overlay)), model);
        }
    }
}
