//! A shard's state machine: the rules by which frames enter and leave.
//!
//! Deterministic and blind: it decides by versions, digests and times in clear, and never opens anything. After each
//! batch it tells the indexer which frames changed.

use std::sync::Arc;

use bytes::Bytes;
use mira_proto::{CollectionId, FrameId, ShardId, vectors::SpaceSet};
use mira_raft::{Command, EngineError, StateMachine, StateReader, Txn};
use parking_lot::Mutex;

use crate::shard::{
    command::{
        self, Asker, Condition, MigratedFrame, OwnershipStep, ResealedFrame, ShardAnswer, ShardCommand, StoreFrame,
        StoreOutcome,
    },
    migration::ownership::{Backfill, FrameOwnership, FramePlacement, Ownership, PlacementCache, Progress, Span},
    record::{self, Class, FrameHead, FrameRecord, KeyFloor, OwnedFrame},
    verify::Verifier,
};

/// A change that derived state has to follow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// A frame got a new version.
    Stored {
        /// Its collection.
        collection: CollectionId,
        /// Its id.
        frame: FrameId,
        /// Its version.
        version: u64,
        /// When it was first stored.
        created_ms: u64,
        /// When it is forgotten, 0 = never.
        expires_ms: u64,
        /// The spaces in which it has vectors.
        spaces: SpaceSet,
        /// Its sealed vectors; empty for none.
        vectors: Bytes,
    },
    /// A frame is gone.
    Removed {
        /// Its collection.
        collection: CollectionId,
        /// Its id.
        frame: FrameId,
    },
    /// A collection is gone.
    Purged {
        /// Which.
        collection: CollectionId,
    },
}

impl Change {
    /// The collection that changed.
    pub fn collection(&self) -> CollectionId {
        match self {
            Change::Stored { collection, .. } | Change::Removed { collection, .. } | Change::Purged { collection } => {
                *collection
            }
        }
    }
}

/// Follows the changes of a shard.
pub trait Follower: Send + Sync + 'static {
    /// These changes are visible to readers now; `applied_index` is the log position they end at.
    fn changed(&self, changes: Vec<Change>, applied_index: u64);
    /// The whole state was replaced.
    fn replaced(&self, state: StateReader, applied_index: u64);
}

/// Applies shard commands.
pub struct ShardMachine {
    follower: Arc<dyn Follower>,
    /// Changes of the batch that is being applied.
    pending: Mutex<Vec<Change>>,
    /// The verification that the batch ends with.
    verification: Mutex<Option<u64>>,
    verifier: Arc<Verifier>,
    placement: PlacementCache,
}

impl ShardMachine {
    /// A machine that reports to `follower`.
    pub fn new(follower: Arc<dyn Follower>) -> Self {
        ShardMachine {
            follower,
            pending: Mutex::default(),
            verification: Mutex::default(),
            verifier: Arc::default(),
            placement: PlacementCache::default(),
        }
    }

    /// What verifications of this replica find.
    pub fn verifier(&self) -> &Arc<Verifier> {
        &self.verifier
    }
}

impl StateMachine for ShardMachine {
    fn apply(&self, command: Command<'_>, txn: &mut Txn<'_>) -> Result<Bytes, EngineError> {
        self.carry_out(command::decode(command.payload)?, (command.index, command.time_ms), txn)
    }

    fn ends_batch(&self, payload: &[u8]) -> bool {
        command::is_verify(payload)
    }

    fn committed(&self, applied_index: u64) {
        if let Some(nonce) = self.verification.lock().take() {
            self.verifier.begin(nonce, applied_index);
        }
        let changes = std::mem::take(&mut *self.pending.lock());
        self.follower.changed(changes, applied_index);
    }

    fn restored(&self, state: StateReader, applied_index: u64) {
        self.pending.lock().clear();
        self.verification.lock().take();
        self.verifier.state_is(state.clone());
        self.follower.replaced(state, applied_index);
    }
}

impl ShardMachine {
    /// What a command does, at its place in the log and the log's time there.
    pub(crate) fn carry_out(
        &self,
        command: ShardCommand,
        (index, time_ms): (u64, u64),
        txn: &mut Txn<'_>,
    ) -> Result<Bytes, EngineError> {
        let mut changes = Vec::new();
        let answer = match command {
            ShardCommand::Store(frames) => {
                let now = (index, time_ms);
                let mut claims = Claims::new(&self.placement);
                let mut floors = Floors::default();
                let mut outcomes = Vec::with_capacity(frames.len());
                for frame in frames {
                    outcomes.push(match claims.claim(frame.collection, frame.frame, txn)? {
                        // The caller seals it again, with the newer key.
                        FrameOwnership::Owned if frame.key_version < floors.of(frame.collection, txn)? => {
                            StoreOutcome::Raced(frame.version.saturating_sub(1))
                        }
                        FrameOwnership::Owned => store(frame, now, txn, &mut changes)?,
                        FrameOwnership::MovedAway | FrameOwnership::Pending => StoreOutcome::Moved,
                    });
                }
                ShardAnswer::Store(outcomes)
            }
            ShardCommand::Forget { collection, frames, asker } => {
                let mut claims = Claims::new(&self.placement);
                let (mut mine, mut moved) = (Vec::with_capacity(frames.len()), Vec::new());
                for frame in frames {
                    match claims.claim(collection, frame, txn)? {
                        FrameOwnership::Owned => mine.push(frame),
                        FrameOwnership::MovedAway | FrameOwnership::Pending => moved.push(frame),
                    }
                }
                let removal = Removal { collection, frames: mine, asker, index };
                ShardAnswer::Forget { removed: forget(removal, txn, &mut changes)?, moved }
            }
            ShardCommand::Purge { collection } => {
                for table in record::TABLES {
                    txn.delete_prefix(&record::collection_prefix(table, collection));
                }
                changes.push(Change::Purged { collection });
                ShardAnswer::Purge
            }
            ShardCommand::Expire { collection, frames } => {
                let mut claims = Claims::new(&self.placement);
                let mut over = Vec::with_capacity(frames.len());
                for frame in frames {
                    let stored = txn.get(&record::frame_key(collection, frame))?;
                    let record = stored.map(|stored| FrameRecord::decode(&stored)).transpose()?;
                    let is_over = record.is_some_and(|record| record.expired(time_ms));
                    if is_over && claims.claim(collection, frame, txn)? == FrameOwnership::Owned {
                        over.push(frame);
                    }
                }
                let removal = Removal { collection, frames: over, asker: Asker::Operator, index };
                ShardAnswer::Expire(forget(removal, txn, &mut changes)?.len() as u32)
            }
            ShardCommand::Reseal { collection, to, frames, complete } => {
                ShardAnswer::Reseal(reseal((collection, to), frames, complete.then_some(index), txn)?)
            }
            ShardCommand::Restore { collection, frames } => {
                for frame in frames {
                    adopt(collection, frame, index, txn, &mut changes)?;
                }
                ShardAnswer::Restore
            }
            ShardCommand::Renew { collection, chunks } => {
                let now = (index, time_ms);
                let mut claims = Claims::new(&self.placement);
                let mut renewed = Vec::with_capacity(chunks.len());
                for chunk in chunks {
                    let is_mine = claims.claim(collection, chunk, txn)? == FrameOwnership::Owned;
                    renewed.push(is_mine && renew(collection, chunk, now, txn)?);
                }
                ShardAnswer::Renew(renewed)
            }
            ShardCommand::Collect { collection, chunks } => {
                let mut claims = Claims::new(&self.placement);
                let mut unneeded = Vec::with_capacity(chunks.len());
                for (chunk, changed) in chunks {
                    let stored = txn.get(&record::head_key(collection, chunk))?;
                    let head = stored.map(|stored| FrameHead::decode(&stored)).transpose()?;
                    let is_same = head.is_some_and(|head| head.class == Class::Chunk && head.changed == changed);
                    if is_same && claims.claim(collection, chunk, txn)? == FrameOwnership::Owned {
                        unneeded.push(chunk);
                    }
                }
                let removal = Removal { collection, frames: unneeded, asker: Asker::Operator, index };
                ShardAnswer::Collect(forget(removal, txn, &mut changes)?.len() as u32)
            }
            ShardCommand::Verify { nonce } => {
                *self.verification.lock() = Some(nonce);
                ShardAnswer::Verify
            }
            ShardCommand::Grow { collection, shard, span, step } => {
                let part = Part { collection, shard, span, index };
                ShardAnswer::Grow(part.take(step, &self.placement, txn, &mut changes)?)
            }
        };
        self.pending.lock().append(&mut changes);
        Ok(command::encode(&answer))
    }
}

/// The oldest keys that frames of one command may be sealed with.
#[derive(Default)]
struct Floors(Option<(CollectionId, u32)>);

impl Floors {
    fn of(&mut self, collection: CollectionId, txn: &Txn<'_>) -> Result<u32, EngineError> {
        if let Some((_, floor)) = self.0.filter(|(known, _)| *known == collection) {
            return Ok(floor);
        }
        let stored = txn.get(&record::key_floor_key(collection))?;
        let floor = stored.map(|stored| KeyFloor::decode(&stored)).transpose()?.unwrap_or_default().version;
        self.0 = Some((collection, floor));
        Ok(floor)
    }
}

/// Puts frames sealed anew in the place of what they were made from; `complete` is where the log stands if they are the
/// last. What an earlier rotation says late changes nothing.
fn reseal(
    (collection, to): (CollectionId, u32),
    frames: Vec<ResealedFrame>,
    complete: Option<u64>,
    txn: &mut Txn<'_>,
) -> Result<u32, EngineError> {
    let floor_key = record::key_floor_key(collection);
    let mut floor = txn.get(&floor_key)?.map(|stored| KeyFloor::decode(&stored)).transpose()?.unwrap_or_default();
    if floor.version > to || floor.version == to && floor.complete_at != 0 {
        return Ok(0);
    }
    floor = KeyFloor { version: to, complete_at: complete.unwrap_or_default() };
    txn.put(&floor_key, floor.encode());
    let mut replaced = 0;
    for ResealedFrame { frame, changed, body, vectors } in frames {
        let head =
            txn.get(&record::head_key(collection, frame))?.map(|stored| FrameHead::decode(&stored)).transpose()?;
        // What has changed since was sealed with the newer key, or is gone.
        if head.is_none_or(|head| head.changed != changed) {
            continue;
        }
        let key = record::frame_key(collection, frame);
        let Some(stored) = txn.get(&key)? else { continue };
        let there = FrameRecord::decode(&stored)?;
        if !vectors.is_empty() {
            txn.put(&record::vectors_key(collection, frame), record::encode_vectors(there.version, &vectors));
        }
        txn.put(&key, FrameRecord { body, ..there }.encode());
        replaced += 1;
    }
    Ok(replaced)
}

/// What the shard is to the frames of one command.
struct Claims<'a> {
    cache: &'a PlacementCache,
    known: Option<(CollectionId, Option<Known>)>,
}

type Known = (Ownership, Arc<FramePlacement>);

impl<'a> Claims<'a> {
    fn new(cache: &'a PlacementCache) -> Self {
        Claims { cache, known: None }
    }

    fn claim(
        &mut self,
        collection: CollectionId,
        frame: FrameId,
        txn: &Txn<'_>,
    ) -> Result<FrameOwnership, EngineError> {
        if self.known.as_ref().is_none_or(|(known, _)| *known != collection) {
            let ownership = ownership_of(collection, txn)?;
            let found = ownership.map(|ownership| {
                let placement = self.cache.get(collection, ownership.span);
                (ownership, placement)
            });
            self.known = Some((collection, found));
        }
        let ownership = self.known.as_ref().and_then(|(_, ownership)| ownership.as_ref());
        // A collection that never grew has been here from its beginning.
        Ok(ownership.map_or(FrameOwnership::Owned, |(ownership, placement)| ownership.claim(placement, frame)))
    }
}

fn ownership_of(collection: CollectionId, txn: &Txn<'_>) -> Result<Option<Ownership>, EngineError> {
    txn.get(&Ownership::key(collection))?.map(|stored| Ownership::decode(&stored)).transpose()
}

/// A shard's part in a growth, as one command sees it.
struct Part {
    collection: CollectionId,
    shard: ShardId,
    span: Span,
    index: u64,
}

impl Part {
    /// Frames that are to go because they lie elsewhere, whoever they belong to.
    fn moved(&self, frames: Vec<FrameId>) -> Removal {
        Removal { collection: self.collection, frames, asker: Asker::Operator, index: self.index }
    }

    /// Takes a step, if it is the next one; answers how the shard stands then.
    fn take(
        &self,
        step: OwnershipStep,
        cache: &PlacementCache,
        txn: &mut Txn<'_>,
        changes: &mut Vec<Change>,
    ) -> Result<Option<Ownership>, EngineError> {
        let there = ownership_of(self.collection, txn)?;
        let begins = matches!(
            step,
            OwnershipStep::Freeze { .. } | OwnershipStep::BeginPass { .. } | OwnershipStep::Finalize { .. }
        );
        let mut ownership = match there {
            Some(ownership) if ownership.span == self.span => ownership,
            // A step of an earlier growth that comes late.
            Some(ownership) if ownership.span.to > self.span.from => return Ok(Some(ownership)),
            there if !begins => return Ok(there),
            _ => Ownership::new(self.shard, self.span),
        };
        match step {
            OwnershipStep::Freeze { target, min_epoch } => {
                ownership.released.entry(target).or_insert(self.index);
                ownership.min_epoch = ownership.min_epoch.max(min_epoch);
            }
            OwnershipStep::Finalize { min_epoch } => {
                ownership.settled = true;
                ownership.min_epoch = ownership.min_epoch.max(min_epoch);
            }
            OwnershipStep::BeginPass { source, pass, start, last } => {
                let there = ownership.backfills.get(&source);
                let follows = match there {
                    None => pass == 1 && !last,
                    Some(there) => there.at == Progress::Complete && pass == there.pass + 1 && start >= there.start,
                };
                if follows {
                    let since = there.map_or(0, |there| there.start);
                    let at = Progress::Running(None);
                    ownership.backfills.insert(source, Backfill { pass, start, since, last, brought: 0, at });
                }
            }
            OwnershipStep::ApplyPage { source, pass, after, upto, frames, gone } => {
                let Some(backfill) = ownership.backfills.get_mut(&source) else { return Ok(Some(ownership)) };
                // A page that another leader of this shard has taken already, or one of an earlier pass.
                if backfill.pass != pass || backfill.at != Progress::Running(after) {
                    return Ok(Some(ownership));
                }
                backfill.brought += frames.len() as u64;
                backfill.at = match (upto, backfill.last) {
                    (Some(upto), _) => Progress::Running(Some(upto)),
                    (None, false) => Progress::Complete,
                    (None, true) => Progress::Open,
                };
                forget(self.moved(gone), txn, changes)?;
                frames.into_iter().try_for_each(|frame| adopt(self.collection, frame, self.index, txn, changes))?;
            }
            OwnershipStep::Cleanup { frames } => {
                let placement = cache.get(self.collection, ownership.span);
                let moved = |frame: &FrameId| {
                    ownership.settled && ownership.claim(&placement, *frame) == FrameOwnership::MovedAway
                };
                forget(self.moved(frames.into_iter().filter(moved).collect()), txn, changes)?;
            }
        }
        txn.put(&Ownership::key(self.collection), ownership.encode());
        Ok(Some(ownership))
    }
}

/// Puts a frame that comes from another shard into the place of what is there of it.
pub(crate) fn adopt(
    collection: CollectionId,
    adopted: MigratedFrame,
    index: u64,
    txn: &mut Txn<'_>,
    changes: &mut Vec<Change>,
) -> Result<(), EngineError> {
    let MigratedFrame { frame, record, vectors } = adopted;
    let key = record::frame_key(collection, frame);
    let old = txn.get(&key)?.map(|stored| FrameRecord::decode(&stored)).transpose()?;
    refer(collection, frame, (chunks_of(old.as_ref()), chunks_of(Some(&record))), txn);
    let was_counted = counted(old.as_ref().map(|old| old.class));
    if let Some(old) = old {
        if let Some(session) = &old.session {
            txn.delete(&record::session_key(collection, session, old.created_ms, frame));
        }
        if let Some(owner) = &old.owner {
            own(collection, owner, (frame, None), index, txn);
        }
        outlives(collection, frame, (old.expires_ms, 0), txn);
        txn.delete(&record::vectors_key(collection, frame));
    }
    add_to_count(collection, counted(Some(record.class)) - was_counted, txn)?;
    let (created_ms, expires_ms) = (record.created_ms, record.expires_ms);
    if let Some(session) = &record.session {
        txn.put(&record::session_key(collection, session, created_ms, frame), Bytes::new());
    }
    if !vectors.is_empty() {
        txn.put(&record::vectors_key(collection, frame), record::encode_vectors(record.version, &vectors));
    }
    outlives(collection, frame, (0, expires_ms), txn);
    let is_private = record.owner.is_some();
    if let Some(owner) = record.owner.as_ref().filter(|_| record.class == Class::Memory) {
        let owned = OwnedFrame { changed: index, created_ms, expires_ms, vector_bytes: vectors.len() as u32 };
        own(collection, owner, (frame, Some(owned)), index, txn);
    }
    txn.put(&key, record.encode());
    let head = FrameHead { changed: index, created_ms, expires_ms, spaces: record.spaces, class: record.class };
    txn.put(&record::head_key(collection, frame), head.encode());
    let version = record.version;
    // The index never sees those of a private frame.
    let vectors = if is_private { Bytes::new() } else { vectors };
    let spaces = record.spaces;
    changes.push(Change::Stored { collection, frame, version, created_ms, expires_ms, spaces, vectors });
    Ok(())
}

/// What is to happen with a frame, given what is there. A pure table, so that the rule reads in one place.
fn decide(condition: Condition, same: bool, current: u64) -> Result<(), StoreOutcome> {
    match condition {
        Condition::Create | Condition::Replace if current == 0 => Ok(()),
        Condition::Expect(expected) if expected == current => Ok(()),
        // A retry after the first try took effect: its version is the one after the expected.
        Condition::Expect(expected) if same && current == expected + 1 => Err(StoreOutcome::Same(current)),
        Condition::Create | Condition::Replace if same => Err(StoreOutcome::Same(current)),
        Condition::Replace => Ok(()),
        Condition::Create | Condition::Expect(_) => Err(StoreOutcome::Conflict(current)),
    }
}

fn store(
    new: StoreFrame,
    (index, now_ms): (u64, u64),
    txn: &mut Txn<'_>,
    changes: &mut Vec<Change>,
) -> Result<StoreOutcome, EngineError> {
    let key = record::frame_key(new.collection, new.frame);
    let old = txn.get(&key)?.map(|stored| FrameRecord::decode(&stored)).transpose()?;
    let current = old.as_ref().map_or(0, |old| old.version);
    if old.as_ref().is_some_and(|old| old.owner.is_some() && old.owner != new.owner) {
        return Ok(StoreOutcome::Foreign);
    }
    // One that is over is as good as gone, but its versions are not given again.
    let lives = old.as_ref().filter(|old| !old.expired(now_ms));
    if let Some(lives) = lives.filter(|old| old.class != new.class) {
        // Ids of hidden frames are drawn at random or keyed: nobody comes upon one.
        return Ok(StoreOutcome::Conflict(lives.version));
    }
    let same = lives.is_some_and(|old| old.digest == new.digest);
    if let Err(outcome) = decide(new.condition, same, lives.map_or(0, |old| old.version)) {
        if new.class == Class::Chunk {
            renew(new.collection, new.frame, (index, now_ms), txn)?;
        }
        return Ok(outcome);
    }
    if new.version != current + 1 {
        return Ok(StoreOutcome::Raced(current));
    }
    let created_ms = match new.created_ms {
        0 => lives.map_or(now_ms, |old| old.created_ms),
        // The leader that let it in may have a clock that is ahead.
        elsewhere => elsewhere.min(now_ms),
    };
    let expires_ms = match (new.expires_ms, new.ttl_ms) {
        (0, 0) => 0,
        (0, ttl_ms) => now_ms.saturating_add(ttl_ms),
        (expires_ms, _) => expires_ms,
    };
    if let Some((session, created_ms)) = old.as_ref().and_then(|old| Some((old.session?, old.created_ms))) {
        txn.delete(&record::session_key(new.collection, &session, created_ms, new.frame));
    }
    outlives(new.collection, new.frame, (old.as_ref().map_or(0, |old| old.expires_ms), expires_ms), txn);
    if let Some(session) = &new.session {
        txn.put(&record::session_key(new.collection, session, created_ms, new.frame), Bytes::new());
    }
    // One that is over may have been of another class.
    add_to_count(new.collection, counted(Some(new.class)) - counted(old.as_ref().map(|old| old.class)), txn)?;
    let references = (new.class == Class::Chunk, &new.chunks[..]);
    refer(new.collection, new.frame, (chunks_of(old.as_ref()), references), txn);
    let vectors_key = record::vectors_key(new.collection, new.frame);
    if !new.vectors.is_empty() {
        txn.put(&vectors_key, record::encode_vectors(new.version, &new.vectors));
    } else if old.is_some() {
        txn.delete(&vectors_key);
    }
    if let Some(owner) = new.owner.as_ref().filter(|_| new.class == Class::Memory) {
        let vector_bytes = new.vectors.len() as u32;
        let owned = OwnedFrame { changed: index, created_ms, expires_ms, vector_bytes };
        own(new.collection, owner, (new.frame, Some(owned)), index, txn);
    }
    let record = FrameRecord {
        version: new.version,
        created_ms,
        updated_ms: now_ms,
        expires_ms,
        owner: new.owner,
        session: new.session,
        digest: new.digest,
        spaces: new.spaces,
        class: new.class,
        chunks: new.chunks,
        body: new.body,
    };
    txn.put(&key, record.encode());
    let head = FrameHead { changed: index, created_ms, expires_ms, spaces: new.spaces, class: new.class };
    txn.put(&record::head_key(new.collection, new.frame), head.encode());
    changes.push(Change::Stored {
        collection: new.collection,
        frame: new.frame,
        version: new.version,
        created_ms,
        expires_ms,
        spaces: new.spaces,
        // The index never sees those of a private frame.
        vectors: if new.owner.is_some() { Bytes::new() } else { new.vectors },
    });
    Ok(StoreOutcome::Stored(new.version))
}

/// Notes that a chunk is needed again; whether it is there.
fn renew(
    collection: CollectionId,
    chunk: FrameId,
    (index, now_ms): (u64, u64),
    txn: &mut Txn<'_>,
) -> Result<bool, EngineError> {
    let keys = (record::frame_key(collection, chunk), record::head_key(collection, chunk));
    let (Some(stored), Some(head)) = (txn.get(&keys.0)?, txn.get(&keys.1)?) else { return Ok(false) };
    let (record, head) = (FrameRecord::decode(&stored)?, FrameHead::decode(&head)?);
    if record.class != Class::Chunk {
        return Ok(false);
    }
    // The record too: what moves to another shard is made of it.
    txn.put(&keys.0, FrameRecord { created_ms: now_ms, ..record }.encode());
    txn.put(&keys.1, FrameHead { created_ms: now_ms, changed: index, ..head }.encode());
    Ok(true)
}

/// What a record says of chunks: whether it is one, and which it refers to.
fn chunks_of(record: Option<&FrameRecord>) -> (bool, &[FrameId]) {
    record.map_or((false, &[]), |record| (record.class == Class::Chunk, &record.chunks))
}

/// Notes in the tables of chunks what is new of a frame, in the place of what was.
fn refer(collection: CollectionId, frame: FrameId, (old, new): (Chunks<'_>, Chunks<'_>), txn: &mut Txn<'_>) {
    let (chunk, references) = (record::chunk_key(collection, frame), record::references_key(collection, frame));
    match (old.0, new.0) {
        (false, true) => txn.put(&chunk, Bytes::new()),
        (true, false) => txn.delete(&chunk),
        _ => {}
    }
    if !new.1.is_empty() {
        txn.put(&references, new.1.iter().flat_map(|chunk| chunk.to_be_bytes()).collect::<Vec<u8>>());
    } else if !old.1.is_empty() {
        txn.delete(&references);
    }
}

type Chunks<'a> = (bool, &'a [FrameId]);

/// Notes when a frame will be over, in the place of when it would have been; 0 = never.
fn outlives(collection: CollectionId, frame: FrameId, (old_ms, new_ms): (u64, u64), txn: &mut Txn<'_>) {
    if old_ms != 0 && old_ms != new_ms {
        txn.delete(&record::expiry_key(collection, old_ms, frame));
    }
    if new_ms != 0 {
        txn.put(&record::expiry_key(collection, new_ms, frame), Bytes::new());
    }
}

/// Notes what became of a private frame, for its owner's searches.
fn own(
    collection: CollectionId,
    owner: &[u8; 16],
    (frame, owned): (FrameId, Option<OwnedFrame>),
    index: u64,
    txn: &mut Txn<'_>,
) {
    let key = record::owned_key(collection, owner, frame);
    match owned {
        Some(owned) => txn.put(&key, owned.encode()),
        None => txn.delete(&key),
    }
    txn.put(&record::owner_changed_key(collection, owner), index.to_be_bytes().to_vec());
}

/// Frames that are to go, and by whose word.
struct Removal {
    collection: CollectionId,
    frames: Vec<FrameId>,
    asker: Asker,
    index: u64,
}

fn forget(
    Removal { collection, frames, asker, index }: Removal,
    txn: &mut Txn<'_>,
    changes: &mut Vec<Change>,
) -> Result<Vec<FrameId>, EngineError> {
    let (mut removed, mut counted) = (Vec::new(), 0);
    for frame in frames {
        let key = record::frame_key(collection, frame);
        let Some(stored) = txn.get(&key)? else { continue };
        let old = FrameRecord::decode(&stored)?;
        let is_hidden = old.class != Class::Memory;
        if !asker.may_remove(old.owner) || is_hidden && asker != Asker::Operator {
            continue;
        }
        counted += i64::from(!is_hidden);
        if let Some(owner) = old.owner.as_ref().filter(|_| !is_hidden) {
            own(collection, owner, (frame, None), index, txn);
        }
        txn.delete(&key);
        txn.delete(&record::head_key(collection, frame));
        txn.delete(&record::vectors_key(collection, frame));
        refer(collection, frame, (chunks_of(Some(&old)), chunks_of(None)), txn);
        outlives(collection, frame, (old.expires_ms, 0), txn);
        if let Some(session) = &old.session {
            txn.delete(&record::session_key(collection, session, old.created_ms, frame));
        }
        changes.push(Change::Removed { collection, frame });
        removed.push(frame);
    }
    add_to_count(collection, -counted, txn)?;
    Ok(removed)
}

/// What a frame of this class adds to the number of frames: those that callers stored count.
fn counted(class: Option<Class>) -> i64 {
    i64::from(class == Some(Class::Memory))
}

fn add_to_count(collection: CollectionId, change: i64, txn: &mut Txn<'_>) -> Result<(), EngineError> {
    if change == 0 {
        return Ok(());
    }
    let key = record::count_key(collection);
    let count = decode_count(txn.get(&key)?.as_deref())?;
    let count =
        count.checked_add_signed(change).ok_or_else(|| EngineError::Damaged("frame count below zero".into()))?;
    txn.put(&key, count.to_be_bytes().to_vec());
    Ok(())
}

/// Reads a stored count; none is zero.
pub fn decode_count(stored: Option<&[u8]>) -> Result<u64, EngineError> {
    let Some(stored) = stored else { return Ok(0) };
    stored.try_into().map(u64::from_be_bytes).map_err(|_| EngineError::Damaged("frame count of wrong size".into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rules_of_replacing() {
        use Condition::{Create, Expect, Replace};
        use StoreOutcome::{Conflict, Same};
        // condition, same content is there, current version, what happens
        let table = [
            (Create, false, 0, Ok(())),
            (Create, true, 3, Err(Same(3))),
            (Create, false, 3, Err(Conflict(3))),
            (Replace, false, 0, Ok(())),
            (Replace, false, 3, Ok(())),
            (Replace, true, 3, Err(Same(3))),
            (Expect(0), false, 0, Ok(())),
            (Expect(0), true, 1, Err(Same(1))),
            (Expect(0), true, 2, Err(Conflict(2))),
            (Expect(0), false, 1, Err(Conflict(1))),
            (Expect(3), false, 3, Ok(())),
            (Expect(3), true, 3, Ok(())),
            (Expect(3), true, 4, Err(Same(4))),
            (Expect(3), false, 4, Err(Conflict(4))),
            (Expect(3), false, 2, Err(Conflict(2))),
        ];
        for (condition, same, current, expected) in table {
            assert_eq!(decide(condition, same, current), expected, "{condition:?} same={same} current={current}");
        }
    }
}
