//! A node as a member of its cluster: the replicas that it has here, and the peers that it asks.
//!
//! What drives a node ([`crate::placement::executor`], [`crate::background::migration`]) stands on this and on nothing that is
//! bound to sockets, files or threads, so that a simulator drives its nodes by the same code.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use bytes::Bytes;
use mira_proto::{Code, CollectionId, NodeId, Problem, Refusal, ShardId, limits, node_v1};
use mira_raft::{Group, GroupId, HostError, RaftHost, RequestId, Role, Runtime, StateMachine, TokioRuntime};
use parking_lot::{Mutex, RwLock};

use crate::{
    leftovers::Leftovers,
    meta::{
        ClusterState, CollectionRecord, META_GROUP, MetaAnswer, MetaCommand,
        command::{MAX_AGE_ENTRIES, OpenedCommand, RequestOutcome},
    },
    peers::{Peer, within},
    replicas::Replicas,
    shard::{
        Shard, Shared,
        index::{IndexParts, ShardIndex, image::ImageFolder},
        machine::ShardMachine,
        migration::ownership::Ownership,
        record, refuse_proposal, refuse_read,
        verify::Verifier,
    },
};

/// Stands a watcher in front of a group's state machine; a node that serves has none.
pub type Watcher = Arc<dyn Fn(GroupId, Arc<dyn StateMachine>) -> Arc<dyn StateMachine> + Send + Sync>;

/// What a member is made of.
pub struct MemberParts<R: Runtime> {
    /// Replication of all groups.
    pub host: Arc<RaftHost<R>>,
    /// The meta group, open.
    pub meta: Group<R>,
    /// What its shards share.
    pub shared: Shared,
    /// What the indexes of its shards share.
    pub index: IndexParts,
    /// The way to the other nodes.
    pub peers: Arc<dyn Peer>,
    /// The data folder; images of indexes lie there.
    pub data: PathBuf,
    /// Stands in front of the shards' state machines.
    pub watcher: Option<Watcher>,
}

/// The replicas of this node, and the way to its peers.
pub struct Member<R: Runtime = TokioRuntime> {
    host: Arc<RaftHost<R>>,
    meta: RwLock<Group<R>>,
    shared: Shared,
    index: IndexParts,
    peers: Arc<dyn Peer>,
    data: PathBuf,
    watcher: Option<Watcher>,
    replicas: Replicas<R>,
    leftovers: Mutex<Leftovers<R::Instant>>,
    /// It gives its leaderships away and wants none back.
    leaving: AtomicBool,
}

impl<R: Runtime> Member<R> {
    /// A member whose shards are not open yet.
    ///
    /// # Errors
    /// When an engine cannot be read.
    pub fn new(parts: MemberParts<R>) -> Result<Self, HostError> {
        let MemberParts { host, meta, shared, index, peers, data, watcher } = parts;
        let present = host.existing_groups()?.into_iter().filter_map(|group| group.checked_sub(META_GROUP + 1));
        let (replicas, leaving) = (Replicas::new(present), AtomicBool::new(false));
        let (meta, leftovers) = (RwLock::new(meta), Mutex::default());
        Ok(Member { host, meta, shared, index, peers, data, watcher, replicas, leftovers, leaving })
    }

    /// This node's id.
    pub fn id(&self) -> NodeId {
        self.shared.node_id
    }

    /// The cluster as this node knows it.
    pub fn cluster(&self) -> Arc<ClusterState> {
        self.shared.cluster.borrow().clone()
    }

    /// What its shards share.
    pub fn shared(&self) -> &Shared {
        &self.shared
    }

    /// What the indexes of its shards share.
    pub fn index_parts(&self) -> &IndexParts {
        &self.index
    }

    /// Replication of all groups.
    pub fn host(&self) -> &Arc<RaftHost<R>> {
        &self.host
    }

    /// The other nodes.
    pub fn peers(&self) -> &dyn Peer {
        self.peers.as_ref()
    }

    /// The meta group.
    pub fn meta(&self) -> Group<R> {
        self.meta.read().clone()
    }

    /// Replaces the meta group after it was opened again.
    pub fn set_meta(&self, meta: Group<R>) {
        *self.meta.write() = meta;
    }

    /// An open shard.
    pub fn shard(&self, shard: ShardId) -> Result<Arc<Shard<R>>, Refusal> {
        if let Some(open) = self.replicas.get(shard) {
            return Ok(open);
        }
        let cluster = self.cluster();
        if cluster.replicas(shard).contains(&self.id()) {
            return Err(Refusal::NotReady(format!("shard {shard} is being opened")));
        }
        Err(Refusal::StaleMap { epoch: cluster.header.epoch })
    }

    /// The shards of which it has a replica.
    pub fn replicas(&self) -> &Replicas<R> {
        &self.replicas
    }

    /// Opens this node's replica of a shard.
    ///
    /// # Errors
    /// When its group cannot be opened; damage is remembered, see [`Replicas::damaged`].
    pub async fn open_shard(&self, id: ShardId) -> Result<(), HostError> {
        let verifier: Arc<Verifier> = Arc::default();
        let index = ShardIndex::new(id, self.index.clone(), &self.data, verifier.clone());
        self.index.workers.register(&index);
        let machine = Arc::new(ShardMachine::new(Arc::new(index.clone()), verifier.clone()));
        let machine: Arc<dyn StateMachine> = match &self.watcher {
            Some(watcher) => watcher(id + 1, machine),
            None => machine,
        };
        self.replicas.note_present(id);
        let opened = self.host.open_group(id + 1, machine).await;
        let group = opened.inspect_err(|error| self.replicas.note_unopened(id, error))?;
        self.replicas.insert(id, Arc::new(Shard::new(id, group, index, verifier, self.shared.clone())));
        Ok(())
    }

    /// Closes a shard; what this node has of it stays.
    pub(crate) async fn close_shard(&self, id: ShardId) {
        if let Some(shard) = self.replicas.remove(id) {
            shard.index().discard();
        }
        self.host.close_group(id + 1).await;
    }

    /// Removes all this node has of a shard, which is closed.
    pub(crate) async fn destroy_shard(&self, id: ShardId) -> Result<(), String> {
        self.host.destroy_group(id + 1).await.map_err(|error| error.to_string())?;
        // Also those of a shard that was not opened since the start.
        ImageFolder::new(&self.data, id).delete_all().map_err(|error| error.to_string())?;
        self.replicas.forget(id);
        tracing::info!(shard = id, "replica removed");
        Ok(())
    }

    /// Dropped collections that still have frames in shards that this node leads.
    pub fn leftovers(&self, cluster: &ClusterState) -> Vec<(ShardId, CollectionId)> {
        let leads = |(id, shard): (ShardId, Arc<Shard<R>>)| {
            let status = shard.group().status();
            status.is_leader().then_some((id, status.term, shard))
        };
        let led: Vec<_> = self.replicas.open().into_iter().filter_map(leads).collect();
        let mut leftovers = self.leftovers.lock();
        let terms = led.iter().map(|(id, term, _)| (*id, *term)).collect();
        let looks = leftovers.looks(cluster, terms, R::now());
        let mut found = Vec::new();
        for (id, _, shard) in &led {
            let reader = shard.group().reader();
            let full = |collection: &&CollectionId| {
                let keys = [record::count_key(**collection), Ownership::key(**collection)];
                reader.multi_get(&keys).is_ok_and(|found| found.iter().any(Option::is_some))
            };
            let at = looks.get(id).into_iter().flatten();
            found.extend(at.filter(full).map(|&collection| (*id, collection)));
        }
        leftovers.found(found.iter().map(|(_, collection)| *collection), R::now());
        found
    }

    /// The map as a router gets it that has the one of epoch `known`.
    pub fn map(&self, known: u64) -> node_v1::ClusterMap {
        let placement_key = |record: &CollectionRecord| self.placement_key(record);
        self.cluster().to_map(known, |shard| self.host.group(shard + 1)?.status().leader, placement_key)
    }

    /// What routers make the ids of a collection's frames with.
    pub fn placement_key(&self, record: &CollectionRecord) -> Bytes {
        // A node that has not been given every cluster key may lack some. The rest is right all the same.
        self.shared.keyring.placement_key(record).unwrap_or_else(|error| {
            tracing::warn!(collection = record.id, %error, "no placement key for routers");
            Bytes::new()
        })
    }

    /// The names of a collection's keys by version.
    pub(crate) fn key_names(&self, record: &CollectionRecord) -> Result<BTreeMap<u32, [u8; 8]>, Refusal> {
        let names = self.shared.keyring.key_names(record)?;
        Ok(names.into_iter().map(|(version, id)| (version, *id.as_bytes())).collect())
    }

    /// The map as a quorum of the meta group knows it; on its leader only.
    pub async fn confirmed_map(&self) -> Result<node_v1::ClusterMap, Refusal> {
        self.meta().read_index().await.map_err(refuse_read)?;
        // Whoever asks wants to know where replicas are.
        let known = self.cluster().header.epoch;
        Ok(self.map(known))
    }

    /// Has a meta command applied: here, if this node leads the meta group, else by the node that does.
    pub async fn propose_meta(&self, command: &MetaCommand) -> Result<MetaAnswer, Refusal> {
        self.propose_meta_for(None, command).await
    }

    /// As [`Member::propose_meta`], for a request that is to be remembered.
    pub async fn propose_meta_for(
        &self,
        request: Option<&RequestOutcome>,
        command: &MetaCommand,
    ) -> Result<MetaAnswer, Refusal> {
        let position = self.meta().reader().applied_index();
        let sealer = self.shared.keyring.meta_sealer();
        let sealed: Bytes = command.seal_for(request, position, &sealer, &mut (self.shared.randomness)()).into();
        let answer = match self.meta().status().leader {
            Some(leader) if leader != self.id() => {
                let asked = self.peers.propose_meta(leader, sealed);
                within::<R, Bytes>(limits::WRITE_TRY, asked, "the meta leader").await?
            }
            _ => self.propose_sealed(sealed).await?,
        };
        postcard::from_bytes(&answer).map_err(|error| Problem::internal(format!("meta answer: {error}")).into())
    }

    /// Has a sealed meta command applied; on the meta leader only. One that does not open was sealed by nobody of this
    /// cluster and is refused before it reaches the log.
    pub async fn propose_sealed(&self, sealed: Bytes) -> Result<Bytes, Refusal> {
        let refused = |error: String| Problem::new(Code::PermissionDenied, format!("meta command: {error}"));
        let sealer = self.shared.keyring.sealer_of(&sealed).map_err(|error| refused(error.to_string()))?;
        let position = OpenedCommand::open(&sealer, &sealed).map_err(refused)?.position;
        let applied = self.meta().reader().applied_index();
        if position.is_some_and(|position| applied.saturating_sub(position) > MAX_AGE_ENTRIES / 2) {
            return Err(Refusal::NotReady(
                "the command was made by a node that knows little of the cluster yet".into(),
            ));
        }
        // No two commands are the same bytes: what comes again was kept by somebody.
        let hash = blake3::derive_key("mira 2026 sealed meta command", &sealed);
        let name = RequestId(u128::from_be_bytes(hash[..16].try_into().expect("sixteen bytes")));
        let proposed = self.meta().propose(Some(name), sealed).await.map_err(refuse_proposal)?;
        if proposed.replayed {
            return Err(refused("it was carried out before".to_owned()).into());
        }
        Ok(proposed.response)
    }

    /// The replicas of a shard, most likely leader first.
    pub fn replicas_leader_first(&self, cluster: &ClusterState, shard: ShardId) -> Vec<NodeId> {
        let known = self.replicas.get(shard).and_then(|shard| shard.group().status().leader);
        let mut replicas: Vec<NodeId> = known.into_iter().collect();
        replicas.extend(cluster.replicas(shard).iter().copied().filter(|&replica| Some(replica) != known));
        replicas
    }

    /// Whether the node gives its leaderships away and wants none back.
    pub fn is_leaving(&self) -> bool {
        self.leaving.load(Ordering::Relaxed)
    }

    /// Gives every leadership to another voter, best informed first; returns how many were given away.
    pub async fn hand_over(&self) -> u32 {
        self.leaving.store(true, Ordering::Relaxed);
        let handed = self.host.groups().into_iter().map(|group| async move {
            let status = group.status();
            if status.role != Role::Leader {
                return false;
            }
            let best = status
                .voters
                .iter()
                .filter(|voter| **voter != self.id())
                .min_by_key(|voter| status.lag.get(voter).copied().flatten().unwrap_or(u64::MAX));
            let Some(&target) = best else { return false };
            group.transfer_leader(target).await.is_ok()
        });
        futures::future::join_all(handed).await.into_iter().filter(|&moved| moved).count() as u32
    }
}
