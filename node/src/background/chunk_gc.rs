//! Removing chunks that no frame refers to any more: every shard led here is looked at from time to time. What is safe to
//! remove, and why, says [`crate::shard::chunks`].

use std::{
    collections::BTreeSet,
    sync::Arc,
    time::{Duration, Instant},
};

use mira_proto::{CollectionId, FrameId, Refusal, ShardId, limits, node_v1, placement::shards_of_collection};

use crate::{
    background::{Job, Tick},
    meta::{ClusterState, CollectionRecord},
    node::Node,
    shard::Shard,
};

/// Removes the chunks that nothing refers to from every shard that this node leads.
pub struct ChunkGc {
    /// The node.
    pub node: Arc<Node>,
    /// How long ago a chunk must have been stored last.
    pub idle: Duration,
}

impl Job for ChunkGc {
    async fn tick(&mut self) -> Tick {
        let mut tick = Tick::default();
        let cluster = self.node.cluster();
        for (id, shard) in self.node.shards() {
            if !shard.group().status().is_leader() {
                continue;
            }
            let with_chunks = tokio::task::block_in_place(|| shard.collections_with_chunks());
            let Ok(with_chunks) = with_chunks else {
                tick.failures += 1;
                continue;
            };
            let known = with_chunks.iter().filter_map(|collection| cluster.collections.get(collection));
            for collection in known.filter(|found| is_whole(&cluster, found.id)) {
                let chunks = ShardChunks { node: &self.node, cluster: &cluster, collection, shard: &shard };
                if let Err(refusal) = chunks.collect(self.idle).await {
                    let collection = collection.id;
                    tracing::debug!(shard = id, collection, %refusal, "chunks that nothing needs are removed later");
                    tick.failures += 1;
                }
            }
        }
        tick
    }
}

/// Whether every frame of a collection is found where it belongs: one that moves may be looked for where it is not any
/// more, or not yet, and one that a backup brings may come after its chunks, which are as old as in the backup.
fn is_whole(cluster: &ClusterState, collection: CollectionId) -> bool {
    cluster.restoring.is_none() && !cluster.growths.contains_key(&collection)
}

/// A collection's chunks in one shard.
struct ShardChunks<'a> {
    node: &'a Arc<Node>,
    cluster: &'a ClusterState,
    collection: &'a CollectionRecord,
    shard: &'a Shard,
}

impl ShardChunks<'_> {
    async fn collect(&self, idle: Duration) -> Result<(), Refusal> {
        if !self.shard.group().status().is_leader() {
            return Ok(());
        }
        let (collection, started) = (self.collection.id, Instant::now());
        let mut idle = tokio::task::block_in_place(|| self.shard.idle_chunks(collection, idle))?;
        let shards = shards_of_collection(collection, self.collection.partitions, self.cluster.header.shards);
        for shard in shards {
            if idle.is_empty() {
                return Ok(());
            }
            let needed = self.references(shard).await?;
            idle.retain(|(chunk, _)| !needed.contains(chunk));
        }
        if !is_whole(&self.node.cluster(), collection) || started.elapsed() > limits::CHUNK_GC_PATIENCE {
            return Err(Refusal::NotReady("asking every shard took too long, or frames are on their way".into()));
        }
        let gone = self.shard.collect(collection, &idle).await?;
        if gone > 0 {
            tracing::info!(collection, gone, "chunks that nothing refers to were removed");
        }
        Ok(())
    }

    /// What frames of a shard refer to.
    async fn references(&self, shard: ShardId) -> Result<BTreeSet<FrameId>, Refusal> {
        let mut needed = BTreeSet::new();
        let mut request =
            node_v1::ListReferencesRequest { shard, collection: self.collection.id, ..Default::default() };
        loop {
            let replicas = self.node.replicas_leader_first(self.cluster, shard);
            let asked = self.node.peers().ask(&replicas, |client| {
                let request = request.clone();
                async move { client.shards().list_references(request).await }
            });
            let page = asked.await?;
            needed.extend(page.chunks.as_chunks::<16>().0.iter().map(|chunk| FrameId::from_be_bytes(*chunk)));
            if page.upto.is_empty() {
                return Ok(needed);
            }
            request.after = page.upto;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::meta::{Growth, GrowthStep};

    #[test]
    fn a_collection_is_whole_when_nothing_of_it_is_on_its_way() {
        let growth =
            Growth { from: 1, to: 2, step: GrowthStep::Remembering, epoch: 5, since_ms: 0, done: BTreeSet::new() };
        let still = ClusterState::default();
        let grows = ClusterState { growths: [(7, growth)].into(), ..ClusterState::default() };
        let restores = ClusterState { restoring: Some(1), ..ClusterState::default() };
        let table = [(&still, 7, true), (&grows, 7, false), (&grows, 8, true), (&restores, 7, false)];
        for (cluster, collection, whole) in table {
            assert_eq!(is_whole(cluster, collection), whole, "{collection}");
        }
    }
}
