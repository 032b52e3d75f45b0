//! Recovering a shard forward: from what a backup shows of it to a later moment, with the log that was archived since.
//!
//! A recovery has a small database of its own, in a folder that goes with it. Into this go the frames that the log names, as the
//! backup has them, and how the shard stood to their collections. Then the entries of the log are applied by the machine that
//! every shard runs ([`crate::shard::machine`]), under the rules that every replica follows ([`mira_raft::archive`]). What the log
//! does not name is as it was, and never comes here. What came of the rest is given out as pages of a backup.
//!
//! Each collection of a backup is read at a position of its own, so of each only what stands behind that is applied; clock
//! and remembered requests follow every entry from the start on.
//!
//! A collection that grows, changes its key or is removed on the way cannot be recovered forward: its frames would be in two
//! shards, or sealed with a key that is gone. Such a recovery is refused, with the time.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    sync::Arc,
    time::Instant,
};

use bytes::Bytes;
use mira_crypto::RepositoryKey;
use mira_proto::{Code, CollectionId, Problem, Refusal, ShardId, limits, node_v1};
use mira_raft::{
    Command, EngineError, RequestWindow, StateMachine, StateReader, Txn,
    archive::{Replay, ReplayOptions, Replayed},
    engine::{Engine, EngineOptions, EngineRole, RocksEngine},
};
use node_v1::replay_request::Step;
use parking_lot::Mutex;

use crate::shard::{
    command::ShardCommand,
    frame_id,
    history::{self, VersionBound},
    log_archive::{LogPlace, start_place},
    machine::{Change, Follower, LogStamp, ShardMachine, Transition, ingest},
    migration::ownership::{Ownership, PlacementCache},
    pages::{PageBody, PagePlace, PageRange, Standing, read_ids, read_page, write_ids},
    record::{self, KeyFloor},
};

/// Of a recovery's database: its frames are read once and written a few times.
const OPTIONS: EngineOptions =
    EngineOptions { role: EngineRole::State, cache_bytes: 8 << 20, memtable_bytes: 8 << 20, open_files: 64 };

/// Nothing is derived from the state of a recovery.
struct Nobody;

impl Follower for Nobody {
    fn changed(&self, _: Vec<Change>, _: u64) {}
    fn replaced(&self, _: StateReader, _: u64) {}
}

/// A shard's machine, kept to some collections and to what a backup does not show of them yet.
struct Recovering {
    machine: ShardMachine,
    /// The position that the backup shows, by collection.
    positions: BTreeMap<CollectionId, u64>,
    /// Why the recovery cannot go on.
    refused: Mutex<Option<Problem>>,
}

impl Recovering {
    fn new(positions: BTreeMap<CollectionId, u64>) -> Self {
        Recovering {
            machine: ShardMachine::new(Arc::new(Nobody), Arc::default()),
            positions,
            refused: Mutex::default(),
        }
    }

    /// What of a command is to be carried out.
    fn wanted(&self, command: ShardCommand, index: u64) -> Option<ShardCommand> {
        let is_new = |collection: &CollectionId| self.positions.get(collection).is_some_and(|&shown| shown < index);
        match command {
            ShardCommand::Store(mut frames) => {
                frames.retain(|frame| is_new(&frame.collection));
                (!frames.is_empty()).then_some(ShardCommand::Store(frames))
            }
            ShardCommand::Verify { .. } => None,
            ShardCommand::Forget { collection, .. }
            | ShardCommand::Purge { collection }
            | ShardCommand::Expire { collection, .. }
            | ShardCommand::Grow { collection, .. }
            | ShardCommand::Reseal { collection, .. }
            | ShardCommand::Restore { collection, .. }
            | ShardCommand::Renew { collection, .. }
            | ShardCommand::Collect { collection, .. }
            | ShardCommand::CutHistory { collection, .. }
            | ShardCommand::Undelete { collection, .. } => is_new(&collection).then_some(command),
        }
    }

    fn refuse(&self, collection: CollectionId, what: &str, time_ms: u64) {
        let at = jiff::Timestamp::from_millisecond(time_ms as i64).map_or_else(|_| "?".into(), |at| at.to_string());
        let detail = format!("collection number {collection} {what} at {at}: restore to before that, or to a backup");
        self.refused.lock().get_or_insert_with(|| Problem::new(Code::Conflict, detail));
    }

    /// What of the collection's shape a command may change.
    fn shape(&self, command: &ShardCommand, txn: &Txn<'_>) -> Result<Option<Shape>, EngineError> {
        let (collection, what) = match command {
            ShardCommand::Grow { collection, .. } => (*collection, "grew"),
            ShardCommand::Reseal { collection, .. } => (*collection, "got another key"),
            _ => return Ok(None),
        };
        let ownership = txn.get(&Ownership::key(collection))?;
        let floor = txn.get(&record::key_floor_key(collection))?;
        Ok(Some(Shape { collection, what, stored: (ownership, floor) }))
    }
}

#[derive(PartialEq, Eq)]
struct Shape {
    collection: CollectionId,
    what: &'static str,
    stored: (Option<Bytes>, Option<Bytes>),
}

impl StateMachine for Recovering {
    fn apply(&self, command: Command<'_>, txn: &mut Txn<'_>) -> Result<Bytes, EngineError> {
        let Some(wanted) = self.wanted(ShardCommand::decode(command.payload)?, command.index) else {
            return Ok(Bytes::new());
        };
        if let ShardCommand::Purge { collection } = wanted {
            self.refuse(collection, "was removed", command.time_ms);
        }
        let before = self.shape(&wanted, txn)?;
        let repeated = before.is_some().then(|| wanted.clone());
        let answer =
            self.machine.carry_out(wanted, LogStamp { index: command.index, time_ms: command.time_ms }, txn)?;
        // A step that comes late changes nothing, and is no reason to refuse.
        if let (Some(before), Some(command_again)) = (before, repeated)
            && self.shape(&command_again, txn)?.is_some_and(|after| after != before)
        {
            self.refuse(before.collection, before.what, command.time_ms);
        }
        Ok(answer)
    }

    fn committed(&self, applied_index: u64) {
        self.machine.committed(applied_index);
    }

    fn restored(&self, _: StateReader, _: u64) {}
}

/// A folder that goes with whoever has it.
struct Scratch(PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.0) {
            tracing::warn!(path = %self.0.display(), %error, "what a restore left is removed at the next start");
        }
    }
}

/// A shard on its way to a later moment.
pub struct Recovery {
    shard: ShardId,
    replay: Replay,
    machine: Arc<Recovering>,
    // Declared, and so dropped, after the database in it.
    _scratch: Option<Scratch>,
}

/// An engine that fails is this node's trouble; damage is the backup's.
fn refuse(error: EngineError) -> Refusal {
    match error {
        EngineError::Damaged(what) => Problem::new(Code::Damaged, format!("the backup: {what}")).into(),
        other => {
            tracing::error!(error = %other, "a recovery failed");
            Refusal::NotReady("a recovery failed: the node's log says why".to_owned())
        }
    }
}

impl Recovery {
    /// Begins over an empty engine.
    ///
    /// # Errors
    /// When the start does not open or the engine fails.
    pub fn begin(
        engine: Arc<dyn Engine>,
        window: RequestWindow,
        key: &RepositoryKey,
        begin: &node_v1::ReplayBegin,
    ) -> Result<Self, Refusal> {
        let place = start_place(&begin.backup, begin.shard);
        let start = key.open(&place, &begin.start, limits::MAX_MESSAGE_BYTES);
        let start = start.map_err(|error| {
            let detail = format!("the start of shard {} in the backup: {error}", begin.shard);
            Refusal::from(Problem::new(Code::Damaged, detail))
        })?;
        let positions = begin.parts.iter().map(|part| (part.collection, part.position)).collect();
        let machine = Arc::new(Recovering::new(positions));
        let options = ReplayOptions { window, until_ms: begin.until_ms };
        let replay = Replay::begin(engine, &start, options, machine.clone()).map_err(refuse)?;
        Ok(Recovery { shard: begin.shard, replay, machine, _scratch: None })
    }

    /// Takes frames of a backup's page.
    ///
    /// # Errors
    /// When the page does not open, or does not say enough.
    pub fn base(&mut self, key: &RepositoryKey, base: &node_v1::ReplayBase) -> Result<(), Refusal> {
        let place = PagePlace {
            backup: &base.backup,
            shard: self.shard,
            collection: base.collection,
            number: base.number,
            ids: &base.ids,
            changed: &base.changed,
        };
        let PageBody { frames, changed, standing, .. } = place.open(key, &base.page)?;
        let wanted: BTreeSet<_> = read_ids(&base.wanted)?.into_iter().collect();
        if base.first && standing.is_none() {
            let detail = "the first page of a part does not say how its shard stood";
            return Err(Problem::new(Code::Damaged, detail).into());
        }
        let taken = frames.into_iter().zip(changed).filter(|(frame, _)| wanted.contains(&frame.frame));
        let put = |txn: &mut Txn<'_>| {
            let placement = PlacementCache::default();
            for (frame, changed) in taken {
                // Frames keep the times that their records have.
                let at = LogStamp { index: changed, time_ms: 0 };
                ingest(base.collection, frame, &mut Transition::new(at, &placement, txn))?;
            }
            if let Some(standing) = standing.filter(|_| base.first) {
                standing
                    .ownership
                    .iter()
                    .for_each(|ownership| txn.put(&Ownership::key(base.collection), ownership.encode()));
                let floor = |floor: &KeyFloor| txn.put(&record::key_floor_key(base.collection), floor.encode());
                standing.floor.iter().for_each(floor);
                let bound = |bound: &VersionBound| txn.put(&history::bound_key(base.collection), bound.encode());
                standing.version_bound.iter().for_each(bound);
                if standing.ended_version > 0 {
                    let ended = standing.ended_version.to_be_bytes().to_vec();
                    txn.put(&record::ended_version_key(base.collection), ended);
                }
            }
            Ok(())
        };
        self.replay.put(put).map_err(refuse)
    }

    /// Applies a page of the log; whether it holds an entry of a later time than is wanted.
    ///
    /// # Errors
    /// When the page does not open, does not follow on what was applied, or holds what cannot be recovered over.
    pub fn log(&mut self, key: &RepositoryKey, log: &node_v1::ReplayEntries) -> Result<bool, Refusal> {
        let place = LogPlace {
            backup: &log.backup,
            shard: self.shard,
            number: log.number,
            after: log.after,
            touched: &log.touched,
        };
        for entry in place.open(key, &log.page)? {
            let replayed = self.replay.apply(&entry).map_err(refuse)?;
            if let Some(problem) = self.machine.refused.lock().take() {
                return Err(problem.into());
            }
            if replayed == Replayed::Later {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The last log entry that is in it.
    pub fn applied_index(&self) -> u64 {
        self.replay.applied_index()
    }

    fn page(&mut self, key: &RepositoryKey, page: &node_v1::ReplayPage) -> Result<node_v1::ReplayReply, Refusal> {
        let after = if page.after.is_empty() { None } else { Some(frame_id(&page.after)?) };
        let view = self.replay.reader().map_err(refuse)?;
        let mut found = read_page(&view, page.collection, PageRange { after, since: 0 }).map_err(refuse)?;
        if page.number == 0 {
            found.body.standing = Some(Standing::read(&view, page.collection).map_err(refuse)?);
        }
        let ids = write_ids(&found.ids);
        let place = PagePlace {
            backup: &page.backup,
            shard: self.shard,
            collection: page.collection,
            number: page.number,
            ids: &ids,
            changed: &ids,
        };
        let upto = found.upto.map(|upto| upto.to_be_bytes().to_vec()).unwrap_or_default().into();
        Ok(node_v1::ReplayReply { page: place.seal(key, &found.body), ids, upto, ..Default::default() })
    }

    /// Takes a step, but the first and the last.
    ///
    /// # Errors
    /// As the steps do.
    pub fn step(&mut self, key: &RepositoryKey, step: &Step) -> Result<node_v1::ReplayReply, Refusal> {
        let reply = match step {
            Step::Begin(_) | Step::Hold(_) | Step::End(_) => node_v1::ReplayReply::default(),
            Step::Base(base) => {
                self.base(key, base)?;
                node_v1::ReplayReply::default()
            }
            Step::Log(log) => node_v1::ReplayReply { later: self.log(key, log)?, ..Default::default() },
            Step::Page(page) => self.page(key, page)?,
        };
        Ok(node_v1::ReplayReply { applied: self.applied_index(), ..reply })
    }

    /// The state as it is now.
    ///
    /// # Errors
    /// When the engine fails.
    #[cfg(test)]
    fn reader(&mut self) -> Result<StateReader, EngineError> {
        self.replay.reader()
    }
}

/// The recoveries of a node.
pub struct Recoveries {
    folder: PathBuf,
    window: RequestWindow,
    open: Mutex<BTreeMap<u64, Open>>,
}

struct Open {
    /// What is recovered forward to what: whoever begins that again has given up the one before.
    name: (Bytes, ShardId, u64),
    recovery: Arc<Mutex<Recovery>>,
    used: Instant,
}

impl Recoveries {
    /// In a folder of their own; what an earlier run left there is removed.
    ///
    /// # Errors
    /// When that cannot be removed.
    pub fn new(data: &Path, window: RequestWindow) -> std::io::Result<Self> {
        let folder = data.join("recoveries");
        match std::fs::remove_dir_all(&folder) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
            _ => Ok(Recoveries { folder, window, open: Mutex::default() }),
        }
    }

    /// Takes a step of a recovery; the first makes it and the last ends it.
    ///
    /// # Errors
    /// When there are too many, or this node does not know the recovery, and as the steps do.
    pub fn step(&self, key: &RepositoryKey, token: u64, step: &Step) -> Result<node_v1::ReplayReply, Refusal> {
        let (token, recovery) = match step {
            Step::Begin(begin) => self.begin(key, begin)?,
            Step::End(_) => {
                self.open.lock().remove(&token);
                return Ok(node_v1::ReplayReply::default());
            }
            _ => (token, self.get(token)?),
        };
        let reply = recovery.lock().step(key, step)?;
        Ok(node_v1::ReplayReply { replay: token, ..reply })
    }

    /// Ends all of them.
    pub fn clear(&self) {
        let all = std::mem::take(&mut *self.open.lock());
        drop(all);
    }

    fn begin(&self, key: &RepositoryKey, begin: &node_v1::ReplayBegin) -> Result<(u64, Arc<Mutex<Recovery>>), Refusal> {
        let token = rand::random_range(1..u64::MAX);
        // Held while the database is made, so that their number is right.
        let mut open = self.open.lock();
        let name = (begin.backup.clone(), begin.shard, begin.until_ms);
        open.retain(|_, open| open.used.elapsed() < limits::RECOVERY_IDLE && open.name != name);
        if open.len() >= limits::MAX_RECOVERIES {
            let most = limits::MAX_RECOVERIES;
            return Err(Refusal::NotReady(format!("{most} shards are recovered forward here at once: wait for one")));
        }
        let folder = self.folder.join(format!("{token:016x}"));
        let failed = |error: std::io::Error| Refusal::NotReady(format!("{}: {error}", folder.display()));
        std::fs::create_dir_all(&folder).map_err(failed)?;
        let scratch = Scratch(folder.clone());
        let engine = Arc::new(RocksEngine::open(&folder, OPTIONS).map_err(refuse)?);
        let recovery = Recovery { _scratch: Some(scratch), ..Recovery::begin(engine, self.window, key, begin)? };
        let recovery = Arc::new(Mutex::new(recovery));
        open.insert(token, Open { name, recovery: recovery.clone(), used: Instant::now() });
        Ok((token, recovery))
    }

    fn get(&self, token: u64) -> Result<Arc<Mutex<Recovery>>, Refusal> {
        let mut open = self.open.lock();
        let lost = || Problem::new(Code::NotFound, "this node does not know that recovery: begin the shard again");
        let found = open.get_mut(&token).ok_or_else(lost)?;
        found.used = Instant::now();
        Ok(found.recovery.clone())
    }
}

#[cfg(test)]
mod tests;
