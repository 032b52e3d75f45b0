//! Driving the rotation of collections' keys: what this node does next for each, decided from what is.
//!
//! The meta group's record (`meta/state/keys.rs`) and the shards' states say all there is to know, so whatever crashes,
//! whoever leads next goes on. The only thing kept in memory is how far a walk over a shard has come; lost, it begins
//! again, and passes over what is done. Pausing moves ([`crate::meta::MetaCommand::PauseMoves`]) pauses walks too.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use mira_proto::{CollectionId, FrameId, Refusal, ShardId, placement::shards_of_collection};

use crate::{
    background::{Job, Tick, pause_after},
    meta::{ClusterState, CollectionRecord, MetaCommand, Rotation, RotationStep},
    node::Node,
    shard::Shard,
};

/// Between two looks.
pub const EVERY: Duration = Duration::from_millis(500);
/// Between two looks while keys rotate.
const ROTATING: Duration = Duration::from_millis(50);
/// Where walks have come to; none when one has just begun.
pub type ResealCursors = BTreeMap<(CollectionId, u32, ShardId), Option<FrameId>>;

/// Takes part in every rotation.
pub struct KeyRotationJob {
    /// The node.
    pub node: Arc<Node>,
    /// Where its walks have come to.
    pub cursors: ResealCursors,
}

impl Job for KeyRotationJob {
    async fn tick(&mut self) -> Tick {
        let cluster = self.node.cluster();
        let rotates = |collection: &CollectionId, to: u32| {
            cluster.rotations.get(collection).is_some_and(|rotation| rotation.to == to)
        };
        self.cursors.retain(|(collection, to, _), _| rotates(collection, *to));
        if cluster.rotations.is_empty() {
            return Tick::default();
        }
        let (mut bytes, mut walked, mut failures) = (0, false, 0);
        for (id, rotation) in &cluster.rotations {
            let Some(record) = cluster.collections.get(id) else { continue };
            let part = RotationPart { node: &self.node, cluster: &cluster, record, rotation };
            match part.take(&mut self.cursors).await {
                Ok(Some(sealed)) => (bytes, walked) = (bytes + sealed, true),
                Ok(None) => {}
                Err(refusal) => {
                    tracing::debug!(collection = id, %refusal, "rotation goes on later");
                    failures += 1;
                }
            }
        }
        Tick { failures, more_after: Some(if walked { pause_after(bytes) } else { ROTATING }) }
    }
}

/// This node's part in one rotation.
struct RotationPart<'a> {
    node: &'a Arc<Node>,
    cluster: &'a ClusterState,
    record: &'a CollectionRecord,
    rotation: &'a Rotation,
}

impl RotationPart<'_> {
    /// Does the next things; the bytes that were sealed anew, if a walk goes on.
    async fn take(&self, cursors: &mut ResealCursors) -> Result<Option<usize>, Refusal> {
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
                    let names = self.node.member().key_names(self.record)?;
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
    async fn walk(&self, shard: &Shard, id: ShardId, cursors: &mut ResealCursors) -> Result<usize, Refusal> {
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
