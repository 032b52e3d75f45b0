//! Snapshots: a view of one generation of a group's state, and how it travels.
//!
//! Building one copies nothing. Sending one streams the pairs of the view in bounded chunks, each checked by itself and
//! chained to its predecessors by hash; the receiver writes them into a fresh generation together with how far it has
//! come, so that an interrupted transfer goes on after the last chunk written, also after a restart of the receiver.

use std::ops::{Bound, ControlFlow};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use parking_lot::Mutex;

use crate::engine::{Batch, Durability, EngineError, KeyBounds, Read};
use crate::state::{GroupState, generation_prefix, join, scan_table};
use crate::types::{SnapshotMeta, digest};

pub(crate) mod receive;
pub(crate) mod send;

/// What the library passes around as a snapshot.
#[derive(Clone)]
pub(crate) enum SnapshotData {
    /// Of this node's own state.
    View(Arc<SnapshotView>),
    /// Received whole from a leader, not yet live.
    Received { generation: u32 },
}

/// A moment of a group's state, ready to be sent.
pub(crate) struct SnapshotView {
    pub id: u128,
    pub meta: SnapshotMeta,
    read: Arc<dyn Read>,
    prefix: Vec<u8>,
    /// What is known of its chunks: each transfer cuts the view alike, so the first to come by notes where each ends.
    marks: Mutex<Vec<Mark>>,
    last_used: AtomicU64,
}

/// The stream up to and including one chunk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Mark {
    pub last_key: Vec<u8>,
    pub chain: [u8; 16],
    pub pairs: u64,
}

impl Mark {
    fn start() -> Self {
        Self { last_key: Vec::new(), chain: [0; 16], pairs: 0 }
    }
}

/// A piece of a snapshot: pairs as `key length (4, little-endian) · value length (4) · key · value`, keys without group
/// and generation.
pub(crate) struct Chunk {
    pub pairs: u64,
    pub body: Bytes,
    pub mark: Mark,
}

impl SnapshotView {
    pub(crate) fn new(id: u128, meta: SnapshotMeta, state: &GroupState, generation: u32) -> Self {
        Self {
            id,
            meta,
            read: state.engine.view(),
            prefix: generation_prefix(state.group, generation),
            marks: Mutex::new(Vec::new()),
            last_used: AtomicU64::new(0),
        }
    }

    /// The mark after `chunks` chunks, if a transfer has come that far.
    pub(crate) fn mark(&self, chunks: u64) -> Option<Mark> {
        match chunks {
            0 => Some(Mark::start()),
            _ => self.marks.lock().get(chunks as usize - 1).cloned(),
        }
    }

    /// The chunk after the one that `after` marks; `None` at the end. At least one pair, then as many as fit
    /// `max_bytes`.
    pub(crate) fn chunk(&self, seq: u64, after: &Mark, max_bytes: usize) -> Result<Option<Chunk>, EngineError> {
        let mut body = BytesMut::new();
        let mut last_key = Vec::new();
        let mut pairs = 0;
        let from = if seq == 0 { Bound::Unbounded } else { Bound::Excluded(&after.last_key[..]) };
        scan_table(
            self.read.as_ref(),
            &self.prefix,
            KeyBounds { from, to: Bound::Unbounded },
            false,
            &mut |key, value| {
                if pairs > 0 && body.len() + key.len() + value.len() + 8 > max_bytes {
                    return ControlFlow::Break(());
                }
                put_pair(&mut body, key, value);
                last_key.clear();
                last_key.extend_from_slice(key);
                pairs += 1;
                ControlFlow::Continue(())
            },
        )?;
        if pairs == 0 {
            return Ok(None);
        }
        let body = body.freeze();
        let mark = Mark { last_key, chain: chain(&after.chain, &body), pairs: after.pairs + pairs };
        let mut marks = self.marks.lock();
        if marks.len() as u64 == seq {
            marks.push(mark.clone());
        }
        Ok(Some(Chunk { pairs, body, mark }))
    }
}

/// The hash of a stream that was `before` and goes on with `body`.
pub(crate) fn chain(before: &[u8; 16], body: &[u8]) -> [u8; 16] {
    let link = [&before[..], &digest(body)[..]].concat();
    digest(&link)
}

fn put_pair(body: &mut BytesMut, key: &[u8], value: &[u8]) {
    body.put_u32_le(key.len() as u32);
    body.put_u32_le(value.len() as u32);
    body.put_slice(key);
    body.put_slice(value);
}

/// Adds the pairs of a chunk's body to `batch`, under `prefix`; how many there were, or `None` if it is malformed.
pub(crate) fn put_pairs(batch: &mut Batch, prefix: &[u8], mut body: Bytes) -> Option<u64> {
    let mut pairs = 0;
    while body.has_remaining() {
        let key_len = body.try_get_u32_le().ok()? as usize;
        let value_len = body.try_get_u32_le().ok()? as usize;
        if body.remaining() < key_len.checked_add(value_len)? {
            return None;
        }
        let key = body.split_to(key_len);
        batch.put(join(prefix, &key), body.split_to(value_len));
        pairs += 1;
    }
    Some(pairs)
}

/// Copies a view of this process into a fresh generation of `state`.
pub(crate) fn copy_into(view: &SnapshotView, state: &GroupState) -> Result<u32, EngineError> {
    const BYTES: usize = 1 << 20;
    let generation = state.fresh_generation()?;
    let prefix = generation_prefix(state.group, generation);
    let (mut seq, mut mark) = (0, Mark::start());
    while let Some(chunk) = view.chunk(seq, &mark, BYTES)? {
        let mut batch = Batch::default();
        put_pairs(&mut batch, &prefix, chunk.body).expect("a chunk made here is well formed");
        state.write(&batch, Durability::Buffered)?;
        (seq, mark) = (seq + 1, chunk.mark);
    }
    Ok(generation)
}

/// A group's snapshots: whether the log may point to one, and the view that is being sent.
pub(crate) struct SnapshotKeeper {
    built: AtomicBool,
    held: Mutex<Option<Arc<SnapshotView>>>,
    randomness: Arc<dyn Fn() -> u64 + Send + Sync>,
    uses: AtomicU64,
}

/// A view nobody asked for during this many requests or builds is let go, so that the engine can compact what it pins.
const IDLE_USES: u64 = 2;

impl SnapshotKeeper {
    pub(crate) fn new(randomness: Arc<dyn Fn() -> u64 + Send + Sync>) -> Self {
        Self { built: AtomicBool::new(false), held: Mutex::new(None), randomness, uses: AtomicU64::new(0) }
    }

    pub(crate) fn next_id(&self) -> u128 {
        (u128::from((self.randomness)()) << 64) | u128::from((self.randomness)())
    }

    pub(crate) fn has_built(&self) -> bool {
        self.built.load(Ordering::Acquire)
    }

    pub(crate) fn built(&self) {
        self.built.store(true, Ordering::Release);
        let now = self.uses.fetch_add(1, Ordering::Relaxed);
        let mut held = self.held.lock();
        if let Some(view) = held.as_ref()
            && Arc::strong_count(view) == 1
            && view.last_used.load(Ordering::Relaxed) + IDLE_USES < now
        {
            *held = None;
        }
    }

    pub(crate) fn installed(&self, _meta: SnapshotMeta) {
        *self.held.lock() = None;
        self.built.store(true, Ordering::Release);
    }

    /// The view that is being sent, if the log goes on where it ends.
    pub(crate) fn held(&self, purged_index: u64) -> Option<Arc<SnapshotView>> {
        let mut held = self.held.lock();
        let useful =
            |view: &Arc<SnapshotView>| view.meta.last_log_id.as_ref().is_some_and(|last| last.index >= purged_index);
        if !held.as_ref().is_some_and(useful) {
            *held = None;
        }
        held.as_ref()
            .inspect(|view| view.last_used.store(self.uses.load(Ordering::Relaxed), Ordering::Relaxed))
            .cloned()
    }

    pub(crate) fn hold(&self, view: Arc<SnapshotView>) -> Arc<SnapshotView> {
        view.last_used.store(self.uses.load(Ordering::Relaxed), Ordering::Relaxed);
        *self.held.lock() = Some(view.clone());
        view
    }

    /// A transfer of `view` came to its end; unless another is under way, nobody needs it any more.
    pub(crate) fn sent(&self, view: &Arc<SnapshotView>) {
        let mut held = self.held.lock();
        // Two: this keeper and the transfer that ends.
        if held.as_ref().is_some_and(|own| Arc::ptr_eq(own, view)) && Arc::strong_count(view) <= 2 {
            *held = None;
        }
    }
}
