//! The shards of which this node has a replica: which are open, which could not be opened, and of which there is data.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use mira_proto::ShardId;
use mira_raft::{EngineError, HostError, Role, Runtime, TokioRuntime};
use parking_lot::{Mutex, RwLock};

use crate::shard::Shard;

/// The replicas of one node.
pub struct Replicas<R: Runtime = TokioRuntime> {
    open: RwLock<BTreeMap<ShardId, Arc<Shard<R>>>>,
    /// Shards of which there is data here, open or not.
    present: Mutex<BTreeSet<ShardId>>,
    /// Shards that could not be opened, and why.
    unopened: Mutex<BTreeMap<ShardId, String>>,
    /// Those of them whose data is damaged.
    damaged: Mutex<BTreeSet<ShardId>>,
}

impl<R: Runtime> Replicas<R> {
    /// Of a node that has data of these shards; none is open.
    pub fn new(present: impl IntoIterator<Item = ShardId>) -> Self {
        let present = Mutex::new(present.into_iter().collect());
        Replicas { open: RwLock::default(), present, unopened: Mutex::default(), damaged: Mutex::default() }
    }

    /// An open shard.
    pub fn get(&self, shard: ShardId) -> Option<Arc<Shard<R>>> {
        self.open.read().get(&shard).cloned()
    }

    /// The open shards, in order.
    pub fn open(&self) -> Vec<(ShardId, Arc<Shard<R>>)> {
        self.open.read().iter().map(|(&id, shard)| (id, shard.clone())).collect()
    }

    /// The shards of which there is data here, open or not.
    pub fn present(&self) -> BTreeSet<ShardId> {
        self.present.lock().clone()
    }

    /// Shards whose replica here cannot be opened or read, or has stopped for good.
    pub fn damaged(&self) -> BTreeSet<ShardId> {
        let mut damaged = self.damaged.lock().clone();
        let has_stopped = |shard: &Shard<R>| {
            matches!(shard.group().status().role, Role::Stopped(_)) && !shard.group().has_stopped_in_passing()
        };
        let unsound = |shard: &Shard<R>| shard.verifier().damaged() || has_stopped(shard);
        damaged.extend(self.open().into_iter().filter(|(_, shard)| unsound(shard)).map(|(id, _)| id));
        damaged
    }

    /// There is data of a shard from now on.
    pub fn note_present(&self, shard: ShardId) {
        self.present.lock().insert(shard);
    }

    /// A shard was opened.
    pub fn insert(&self, id: ShardId, shard: Arc<Shard<R>>) {
        self.unopened.lock().remove(&id);
        self.open.write().insert(id, shard);
    }

    /// A shard could not be opened. It is tried again every half second, and each reason is said once.
    pub fn note_unopened(&self, shard: ShardId, error: &HostError) {
        if let HostError::Engine(EngineError::Damaged(_)) = error {
            self.damaged.lock().insert(shard);
        }
        let error = error.to_string();
        let mut unopened = self.unopened.lock();
        if unopened.get(&shard) != Some(&error) {
            tracing::error!(shard, error, "shard cannot be opened, this replica is out of service");
            unopened.insert(shard, error);
        }
    }

    /// Takes a shard out of service.
    pub fn remove(&self, shard: ShardId) -> Option<Arc<Shard<R>>> {
        self.open.write().remove(&shard)
    }

    /// Nothing is left of a shard here.
    pub fn forget(&self, shard: ShardId) {
        self.present.lock().remove(&shard);
        self.unopened.lock().remove(&shard);
        self.damaged.lock().remove(&shard);
    }

    /// Takes all shards out of service.
    pub fn close_all(&self) {
        self.open.write().clear();
    }

    /// Forgets what was found damaged: it is found again when a shard is opened.
    pub fn forget_damage(&self) {
        self.damaged.lock().clear();
        self.unopened.lock().clear();
    }
}
