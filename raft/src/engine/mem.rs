//! An engine in memory that forgets what was not synced when it crashes.
//!
//! The map is persistent in the functional sense: a view, and the state at the last sync, share all that did not
//! change. Unsynced states are remembered one by one, so that a crash can give back any prefix of the batches since the
//! last sync, as a real disk may. A fault hook makes writes fail or tear.

use std::collections::VecDeque;
use std::ops::{Bound, ControlFlow};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use parking_lot::Mutex;
use rpds::RedBlackTreeMapSync;

use super::{Batch, Durability, Engine, EngineError, Op, Read, Visitor};

type Map = RedBlackTreeMapSync<Vec<u8>, Bytes>;

/// States remembered between syncs; beyond it the oldest are merged, which only makes a crash lose more at once.
const UNSYNCED_STATES: usize = 4096;

/// What the fault hook may do to a write.
#[derive(Debug, Clone)]
pub enum Fault {
    /// Nothing is written.
    Refused(EngineError),
    /// The write becomes visible but is not synced, and the caller is told of a failure: the torn write of a batch,
    /// which recovery keeps or drops as a whole.
    Torn(EngineError),
}

/// Decides, before each write, whether it goes wrong.
pub type FaultHook = dyn Fn(&Batch, Durability) -> Option<Fault> + Send + Sync;

/// An in-memory [`Engine`]. Clones share their data.
#[derive(Clone)]
pub struct MemEngine {
    disk: Arc<Mutex<Disk>>,
    faults: Arc<Mutex<Option<Arc<FaultHook>>>>,
    /// A write found no file: none succeeds until the engine is opened again.
    needs_reopening: Arc<AtomicBool>,
}

struct Disk {
    current: Map,
    synced: Map,
    /// The states after each batch since the last sync, oldest first; the last one is `current`.
    unsynced: VecDeque<Map>,
    crashed: bool,
}

impl Default for MemEngine {
    fn default() -> Self {
        Self::of(Map::default())
    }
}

impl MemEngine {
    /// An empty engine.
    pub fn new() -> Self {
        Self::default()
    }

    fn of(map: Map) -> Self {
        let disk = Disk { current: map.clone(), synced: map, unsynced: VecDeque::new(), crashed: false };
        Self { disk: Arc::new(Mutex::new(disk)), faults: Arc::default(), needs_reopening: Arc::default() }
    }

    /// Installs (or removes) the hook that makes writes fail.
    pub fn set_faults(&self, hook: Option<Arc<FaultHook>>) {
        *self.faults.lock() = hook;
    }

    /// Cuts the power: this engine fails from now on, and the returned one holds what survived: everything synced.
    pub fn crash(&self) -> MemEngine {
        self.crash_keeping(0)
    }

    /// Like [`Self::crash`], but the first `batches` batches after the last sync survive too.
    pub fn crash_keeping(&self, batches: usize) -> MemEngine {
        let mut disk = self.disk.lock();
        disk.crashed = true;
        let survived = match batches.min(disk.unsynced.len()) {
            0 => disk.synced.clone(),
            kept => disk.unsynced[kept - 1].clone(),
        };
        Self::of(survived)
    }

    /// How many batches a crash now could lose.
    pub fn unsynced_batches(&self) -> usize {
        self.disk.lock().unsynced.len()
    }

    /// How many keys there are.
    pub fn len(&self) -> usize {
        self.disk.lock().current.size()
    }

    /// Whether there are no keys.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn snapshot(&self) -> Result<Map, EngineError> {
        let disk = self.disk.lock();
        disk.check()?;
        Ok(disk.current.clone())
    }
}

impl Disk {
    fn check(&self) -> Result<(), EngineError> {
        if self.crashed { Err(EngineError::Io("the device is gone".into())) } else { Ok(()) }
    }

    fn apply(&mut self, batch: &Batch) {
        for op in &batch.ops {
            match op {
                Op::Put { key, value } => self.current.insert_mut(key.clone(), value.clone()),
                Op::Delete { key } => {
                    self.current.remove_mut(key);
                }
                Op::DeleteRange { from, to } => self.remove_range(from, to),
            }
        }
        if self.unsynced.len() == UNSYNCED_STATES {
            self.unsynced.pop_front();
        }
        self.unsynced.push_back(self.current.clone());
    }

    fn remove_range(&mut self, from: &[u8], to: &[u8]) {
        if from >= to {
            return;
        }
        let range = (Bound::Included(from), Bound::Excluded(to));
        let keys: Vec<Vec<u8>> = self.current.range::<[u8], _>(range).map(|(key, _)| key.clone()).collect();
        for key in keys {
            self.current.remove_mut(&key);
        }
    }

    fn sync(&mut self) {
        self.synced = self.current.clone();
        self.unsynced.clear();
    }
}

impl Engine for MemEngine {
    fn write(&self, batch: &Batch, durability: Durability) -> Result<(), EngineError> {
        let hook = self.faults.lock().clone();
        let fault = hook.and_then(|hook| hook(batch, durability));
        if let Some(Fault::Refused(EngineError::NoFile(_))) = &fault {
            self.needs_reopening.store(true, Ordering::Relaxed);
        }
        if self.needs_reopening() {
            return Err(EngineError::NoFile("a write found none".into()));
        }
        let mut disk = self.disk.lock();
        disk.check()?;
        if let Some(Fault::Refused(error)) = fault {
            return Err(error);
        }
        disk.apply(batch);
        if let Some(Fault::Torn(error)) = fault {
            return Err(error);
        }
        if durability == Durability::Synced {
            disk.sync();
        }
        Ok(())
    }

    fn sync(&self) -> Result<(), EngineError> {
        let mut disk = self.disk.lock();
        disk.check()?;
        disk.sync();
        Ok(())
    }

    fn view(&self) -> Arc<dyn Read> {
        Arc::new(MemView(self.disk.lock().current.clone()))
    }

    fn needs_reopening(&self) -> bool {
        self.needs_reopening.load(Ordering::Relaxed)
    }

    fn reopen(&self) -> Result<(), EngineError> {
        self.needs_reopening.store(false, Ordering::Relaxed);
        Ok(())
    }
}

impl Read for MemEngine {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        let disk = self.disk.lock();
        disk.check()?;
        Ok(disk.current.get(key).cloned())
    }

    fn scan(
        &self,
        from: Bound<&[u8]>,
        to: Bound<&[u8]>,
        reverse: bool,
        visit: &mut Visitor<'_>,
    ) -> Result<(), EngineError> {
        MemView(self.snapshot()?).scan(from, to, reverse, visit)
    }
}

struct MemView(Map);

impl Read for MemView {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        Ok(self.0.get(key).cloned())
    }

    fn scan(
        &self,
        from: Bound<&[u8]>,
        to: Bound<&[u8]>,
        reverse: bool,
        visit: &mut Visitor<'_>,
    ) -> Result<(), EngineError> {
        if is_empty_range(from, to) {
            return Ok(());
        }
        let mut pairs = self.0.range::<[u8], _>((from, to));
        while let Some((key, value)) = if reverse { pairs.next_back() } else { pairs.next() } {
            if visit(key, value) == ControlFlow::Break(()) {
                break;
            }
        }
        Ok(())
    }
}

fn is_empty_range(from: Bound<&[u8]>, to: Bound<&[u8]>) -> bool {
    match (from, to) {
        (Bound::Included(a), Bound::Included(b)) => a > b,
        (Bound::Included(a) | Bound::Excluded(a), Bound::Included(b) | Bound::Excluded(b)) => a >= b,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(key: &str, value: &str) -> Batch {
        let mut batch = Batch::default();
        batch.put(key.as_bytes(), value.as_bytes().to_vec());
        batch
    }

    #[test]
    fn a_crash_loses_a_suffix_of_the_unsynced_batches() {
        let disk = MemEngine::new();
        disk.write(&put("a", "1"), Durability::Synced).unwrap();
        disk.write(&put("b", "2"), Durability::Buffered).unwrap();
        disk.write(&put("c", "3"), Durability::Buffered).unwrap();
        let view = disk.view();

        let kept = disk.crash_keeping(1);
        assert_eq!(kept.get(b"b").unwrap().as_deref(), Some(&b"2"[..]));
        assert_eq!(kept.get(b"c").unwrap(), None);
        let synced = disk.crash();
        assert_eq!(synced.get(b"b").unwrap(), None);
        assert!(disk.get(b"a").is_err(), "a crashed device answers nothing");
        assert_eq!(view.get(b"c").unwrap().as_deref(), Some(&b"3"[..]), "a view is memory, not the device");
    }

    #[test]
    fn a_later_sync_covers_earlier_batches() {
        let disk = MemEngine::new();
        disk.write(&put("a", "1"), Durability::Buffered).unwrap();
        disk.write(&put("b", "2"), Durability::Synced).unwrap();
        assert_eq!(disk.crash().len(), 2);
    }

    #[test]
    fn faults_refuse_or_tear() {
        let disk = MemEngine::new();
        let full = EngineError::DiskFull("test".into());
        let refuse = full.clone();
        disk.set_faults(Some(Arc::new(move |_, _| Some(Fault::Refused(refuse.clone())))));
        assert!(disk.write(&put("a", "1"), Durability::Synced).is_err());
        assert!(disk.is_empty());
        disk.set_faults(Some(Arc::new(move |_, _| Some(Fault::Torn(full.clone())))));
        assert!(disk.write(&put("a", "1"), Durability::Synced).is_err());
        assert_eq!(disk.crash_keeping(1).len(), 1, "a torn write may survive");
        assert_eq!(disk.crash().len(), 0, "and may not");
    }
}
