//! Driving the rotation of collections' keys: what this node does next for each, decided from what is.
//!
//! The meta group's record ([`crate::meta::keys`]) and the shards' states say all there is to know, so whatever crashes,
//! whoever leads next goes on. The only thing kept in memory is how far a walk over a shard has come; lost, it begins
//! again, and passes over what is done. Pausing moves ([`crate::meta::MetaCommand::PauseMoves`]) pauses walks too.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use mira_crypto::os_rng;
use mira_proto::{
    Code, CollectionId, FrameId, Problem, Refusal, ShardId, limits, node_v1, placement::shards_of_collection,
};
use tokio::sync::watch;

use crate::{
    meta::{ClusterState, CollectionRecord, MetaAnswer, MetaCommand, Rewrapped, Rotation, RotationStep},
    node::Node,
    shard::Shard,
};

/// Between two looks.
const IDLE: Duration = Duration::from_millis(500);
/// Between two looks while keys rotate.
const ROTATING: Duration = Duration::from_millis(50);
/// Least pause after a page.
const PAGE_PAUSE: Duration = Duration::from_millis(2);
/// For a node to say which cluster keys it holds; its provider may be a service.
const ASK: Duration = Duration::from_secs(15);
/// Rounds of wrapping again what was made meanwhile.
const REWRAPS: usize = 8;

/// Where walks have come to; none when one has just begun.
type Cursors = BTreeMap<(CollectionId, u32, ShardId), Option<FrameId>>;

/// Takes part in every rotation until told to stop.
pub async fn drive(node: Arc<Node>, mut stopped: watch::Receiver<bool>) {
    let mut cursors = Cursors::new();
    loop {
        let pause = round(&node, &mut cursors).await;
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            _ = stopped.wait_for(|stopped| *stopped) => return,
        }
    }
}

async fn round(node: &Arc<Node>, cursors: &mut Cursors) -> Duration {
    let cluster = node.cluster();
    cursors
        .retain(|(collection, to, _), _| cluster.rotations.get(collection).is_some_and(|rotation| rotation.to == *to));
    if cluster.rotations.is_empty() {
        return IDLE;
    }
    let (mut bytes, mut walked) = (0, false);
    for (id, rotation) in &cluster.rotations {
        let Some(record) = cluster.collections.get(id) else { continue };
        let part = Part { node, cluster: &cluster, record, rotation };
        match part.take(cursors).await {
            Ok(Some(sealed)) => (bytes, walked) = (bytes + sealed, true),
            Ok(None) => {}
            Err(refusal) => tracing::debug!(collection = id, %refusal, "rotation goes on later"),
        }
    }
    match walked {
        true => PAGE_PAUSE.max(Duration::from_secs_f64(bytes as f64 / limits::GROWTH_BYTES_PER_SECOND as f64)),
        false => ROTATING,
    }
}

/// This node's part in one rotation.
struct Part<'a> {
    node: &'a Arc<Node>,
    cluster: &'a ClusterState,
    record: &'a CollectionRecord,
    rotation: &'a Rotation,
}

impl Part<'_> {
    /// Does the next things; the bytes that were sealed anew, if a walk goes on.
    async fn take(&self, cursors: &mut Cursors) -> Result<Option<usize>, Refusal> {
        let me = self.node.id();
        match self.rotation.step {
            RotationStep::Preparing => {
                if self.cluster.living_nodes().any(|node| node == me) {
                    self.report(me).await?;
                }
                Ok(None)
            }
            RotationStep::Resealing => {
                let mut bytes = None;
                for id in self.shards() {
                    let Ok(shard) = self.node.shard(id) else { continue };
                    if shard.group().status().is_leader() && !self.rotation.done.contains(&id.into()) {
                        *bytes.get_or_insert(0) += self.walk(&shard, id, cursors).await?;
                    }
                }
                Ok(bytes)
            }
            RotationStep::Retiring => {
                let holders = self.cluster.holders(self.record);
                if holders.contains(&me) && self.needs_no_older_key().await? {
                    self.report(me).await?;
                }
                let all_done = holders.iter().all(|node| self.rotation.done.contains(node));
                if all_done && self.node.meta().status().is_leader() {
                    let names = self.node.key_names(self.record)?;
                    let (collection, to) = (self.record.id, self.rotation.to);
                    self.node.propose_meta(&MetaCommand::DestroyKeys { collection, to, names }).await?;
                    tracing::info!(collection, to, "older keys are destroyed");
                }
                Ok(None)
            }
        }
    }

    fn shards(&self) -> Vec<ShardId> {
        shards_of_collection(self.record.id, self.record.partitions, self.cluster.header.shards)
    }

    /// One page of a walk over a shard led here.
    async fn walk(&self, shard: &Shard, id: ShardId, cursors: &mut Cursors) -> Result<usize, Refusal> {
        let (collection, to) = (self.record.id, self.rotation.to);
        let floor = shard.key_floor(collection)?;
        if floor.version == to && floor.complete_at != 0 {
            self.report(id.into()).await?;
            return Ok(0);
        }
        if self.cluster.moves_paused {
            return Ok(0);
        }
        let key = (collection, to, id);
        let after = match cursors.get(&key) {
            Some(&after) => after,
            None => {
                shard.begin_resealing(collection, to).await?;
                None
            }
        };
        let walked = shard.reseal(self.record, after).await?;
        match walked.upto {
            Some(_) => drop(cursors.insert(key, walked.upto)),
            None => self.report(id.into()).await?,
        }
        Ok(walked.bytes)
    }

    /// Whether nothing on this node needs an older key: its replicas have every frame under the new one, their logs hold
    /// no older frames that a restart would apply again, and their indexes have followed.
    async fn needs_no_older_key(&self) -> Result<bool, Refusal> {
        let me = self.node.id();
        for id in self.shards() {
            if !self.cluster.holds(me, id) {
                continue;
            }
            let shard = self.node.shard(id)?;
            let floor = shard.key_floor(self.record.id)?;
            if floor.version != self.rotation.to || floor.complete_at == 0 {
                return Ok(false);
            }
            let trimmed = shard.group().trim(floor.complete_at).await;
            let trimmed = trimmed.map_err(|error| Refusal::NotReady(error.to_string()))?;
            if !trimmed || shard.index().stats().lag > 0 {
                return Ok(false);
            }
        }
        Ok(true)
    }

    async fn report(&self, who: u64) -> Result<(), Refusal> {
        if self.rotation.done.contains(&who) {
            return Ok(());
        }
        let (collection, to, step) = (self.record.id, self.rotation.to, self.rotation.step);
        self.node.propose_meta(&MetaCommand::RotationDone { collection, to, step, who }).await?;
        Ok(())
    }
}

impl Node {
    /// The names of a collection's keys by version.
    pub(crate) fn key_names(&self, record: &CollectionRecord) -> Result<BTreeMap<u32, [u8; 8]>, Refusal> {
        let names = self.keyring().key_names(record)?;
        Ok(names.into_iter().map(|(version, id)| (version, *id.as_bytes())).collect())
    }

    /// Starts to rotate a collection's key, or says what runs already; on the meta leader.
    pub(crate) async fn rotate_collection(
        &self,
        asked: node_v1::RotateKeyRequest,
    ) -> Result<node_v1::RotateKeyReply, Refusal> {
        let name = &asked.collection;
        let request = request_number(&asked.request_id)?;
        let cluster = self.cluster();
        let missing = || Problem::new(Code::NotFound, format!("no collection is named {name:?}"));
        let record = cluster.collection_named(name).ok_or_else(missing)?;
        let (collection, to) = (record.id, record.key_version + 1);
        if !cluster.rotations.contains_key(&collection) {
            let wrapped = self.keyring().new_collection_key(collection, to);
            let answer = self.propose_meta(&MetaCommand::StartRotation { collection, to, wrapped, request }).await?;
            if answer == MetaAnswer::Refused {
                let detail = "the collection grows, or did a moment ago: rotate its key when that is over";
                return Err(Problem::new(Code::Conflict, detail).into());
            }
        }
        let cluster = self.cluster();
        let begun = cluster.rotations.get(&collection);
        let rotation = begun.ok_or_else(|| Refusal::NotReady("the rotation is over already".into()))?;
        if asked.own && rotation.request != request {
            let detail = format!(
                "the key of {name:?} is being rotated already: wait until rotation {} is over, and ask again",
                rotation.id
            );
            return Err(Problem::new(Code::Conflict, detail).into());
        }
        let (id, epoch) = (rotation.id, cluster.header.epoch);
        Ok(node_v1::RotateKeyReply { id, to: rotation.to.to_string(), epoch })
    }

    /// Puts the first of the provider's cluster keys in the place of the one in use; on the meta leader. Every node must
    /// hold it before anything is sealed with it.
    pub(crate) async fn rotate_cluster(&self) -> Result<node_v1::RotateKeyReply, Refusal> {
        self.hold_keys().await?;
        let ids = self.keyring().cluster_key_ids();
        let new = *ids.first().expect("a node holds a cluster key");
        let before = self.keyring().active();
        if new == before {
            let detail = format!(
                "the cluster seals with {new}, which is the first of this node's cluster keys: put a new one before it, on \
                 every node"
            );
            return Err(Problem::new(Code::Conflict, detail).into());
        }
        let lacking: Vec<String> = self.ask_for_keys().await.into_iter().filter_map(|keys| lacks(&keys, new)).collect();
        if !lacking.is_empty() {
            let detail = format!("not every node holds {new}, and nothing was changed: {}", lacking.join("; "));
            return Err(Problem::new(Code::Conflict, detail).into());
        }
        let sealer = self.keyring().sealer(new)?;
        for _ in 0..REWRAPS {
            let rewrapped = self.rewrapped(new)?;
            if self.keyring().active() == new && rewrapped.is_none() {
                break;
            }
            let empty = || Rewrapped { collections: BTreeMap::new(), layers: BTreeMap::new(), receipts: Vec::new() };
            let command = MetaCommand::Rewrap(rewrapped.unwrap_or_else(empty));
            self.propose_sealed(command.seal(&sealer, &mut os_rng()).into()).await?;
        }
        let cluster = self.cluster();
        let of_cluster = cluster.erasures.iter().rev().find(|(_, erasure)| erasure.collection == 0);
        let id = of_cluster.map(|(&id, _)| id).unwrap_or_default();
        tracing::info!(%before, after = %new, "the cluster key was rotated");
        Ok(node_v1::RotateKeyReply { id, to: new.to_string(), epoch: cluster.header.epoch })
    }

    /// Wrapped keys that are not wrapped by `to` yet, wrapped by it; none if there are none.
    fn rewrapped(&self, to: mira_crypto::KeyId) -> Result<Option<Rewrapped>, Refusal> {
        let cluster = self.cluster();
        let is_older = |wrapped: &Vec<u8>| {
            mira_crypto::WrappedKey::from_bytes(wrapped).is_ok_and(|wrapped| wrapped.cluster_key_id() != to)
        };
        let mut collections = BTreeMap::new();
        for (&id, record) in &cluster.collections {
            if record.wrapped_keys.values().any(is_older) {
                collections.insert(id, self.keyring().rewrap_collection(id, &record.wrapped_keys, to)?);
            }
        }
        let layers = match cluster.header.layer_keys.values().any(is_older) {
            true => self.keyring().rewrap_layers(&cluster.header.layer_keys, to)?,
            false => BTreeMap::new(),
        };
        let receipts = match is_older(&cluster.receipt_key) {
            true => self.keyring().rewrap_receipts(&cluster.receipt_key, to)?,
            false => Vec::new(),
        };
        let nothing = collections.is_empty() && layers.is_empty() && receipts.is_empty();
        Ok((!nothing).then_some(Rewrapped { collections, layers, receipts }))
    }

    /// Asks the provider again which cluster keys this node may use.
    pub(crate) async fn hold_keys(&self) -> Result<Vec<String>, Refusal> {
        let loaded = self.provider().load().await;
        let keys = loaded.map_err(|error| Refusal::NotReady(format!("its cluster keys cannot be had: {error}")))?;
        self.keyring().hold(keys);
        Ok(self.keyring().cluster_key_ids().iter().map(ToString::to_string).collect())
    }

    /// Which cluster keys every node holds.
    pub(crate) async fn ask_for_keys(&self) -> Vec<node_v1::NodeKeys> {
        let cluster = self.cluster();
        let asked = cluster.living_nodes().map(|node| async move {
            let held = match node == self.id() {
                true => self.hold_keys().await.map_err(|refusal| refusal.to_string()),
                false => self.ask_node_for_keys(node).await,
            };
            let error = held.as_ref().err().cloned().unwrap_or_default();
            node_v1::NodeKeys { node, held: held.unwrap_or_default(), error }
        });
        futures::future::join_all(asked).await
    }

    async fn ask_node_for_keys(&self, node: u64) -> Result<Vec<String>, String> {
        let mut client = self.peers().client_of(node).map_err(|status| status.message().to_owned())?;
        let asked = tokio::time::timeout(ASK, client.hold_keys(node_v1::HoldKeysRequest {})).await;
        let reply = asked.map_err(|_| "no answer".to_owned())?.map_err(|status| status.message().to_owned())?;
        Ok(reply.into_inner().held)
    }
}

fn request_number(bytes: &[u8]) -> Result<u128, Problem> {
    let bytes = bytes.try_into().map_err(|_| Problem::invalid("a request id has 16 bytes"))?;
    Ok(u128::from_be_bytes(bytes))
}

fn lacks(keys: &node_v1::NodeKeys, new: mira_crypto::KeyId) -> Option<String> {
    let (node, new) = (keys.node, new.to_string());
    match (keys.error.is_empty(), keys.held.contains(&new)) {
        (true, true) => None,
        (true, false) => Some(format!("node {node:016x} does not")),
        (false, _) => Some(format!("node {node:016x} says nothing: {}", keys.error)),
    }
}
