//! Carrying erasures to their end: destroyed keys leave the files of every node, and the cluster signs a receipt.
//!
//! From the moment keys leave the meta group's state nothing opens what they sealed. What is left are copies of them,
//! wrapped: in the meta group's log, and in files whose blocks were replaced but not yet rewritten. Each node trims the
//! log, removes what is left of the collection, rewrites the files, and says so; when all have, and no repository holds
//! an older copy, the meta leader signs what was done.

use std::{sync::Arc, time::Duration};

use mira_proto::ShardId;
use serde::Serialize;

use crate::{
    background::{Job, Tick},
    data,
    meta::{ClusterState, Erasure, META_GROUP, MetaCommand, Receipt, state::cluster_id_text},
    node::Node,
    shard::{index::SpaceId, index::image::ImageFolder, migration::ownership::Ownership, record},
};

/// Between two looks.
pub const EVERY: Duration = Duration::from_millis(500);

/// Takes part in every erasure.
pub struct ErasureJob(pub Arc<Node>);

impl Job for ErasureJob {
    async fn tick(&mut self) -> Tick {
        let mut tick = Tick::default();
        let cluster = self.0.cluster();
        for (&id, erasure) in cluster.erasures.iter().filter(|(_, erasure)| erasure.receipt.is_none()) {
            let part = ErasurePart { node: &self.0, cluster: &cluster, id, erasure };
            if let Err(why) = part.take().await {
                tracing::debug!(erasure = id, why, "erasure goes on later");
                tick.failures += 1;
            }
        }
        tick
    }
}

/// What a receipt says. These are the bytes that are signed, as JSON.
#[derive(Serialize)]
struct Statement<'a> {
    format: u32,
    erasure: u64,
    cluster: String,
    what: &'static str,
    collection: &'a str,
    collection_number: u64,
    keys: Vec<KeyName>,
    destroyed_at: String,
    destroyed_at_index: u64,
    finished_at: String,
    nodes: Vec<String>,
    repositories: Vec<String>,
}

#[derive(Serialize)]
struct KeyName {
    version: u32,
    id: String,
}

/// This node's part in one erasure.
struct ErasurePart<'a> {
    node: &'a Arc<Node>,
    cluster: &'a ClusterState,
    id: u64,
    erasure: &'a Erasure,
}

impl ErasurePart<'_> {
    async fn take(&self) -> Result<(), String> {
        let me = self.node.id();
        if !self.erasure.done.contains(&me) && self.cluster.nodes.contains_key(&me) {
            self.erase().await?;
            let done = MetaCommand::ErasureDone { erasure: self.id, node: me };
            self.node.propose_meta(&done).await.map_err(|refusal| refusal.to_string())?;
            tracing::info!(erasure = self.id, "this node's files hold the destroyed keys no more");
        }
        let is_over = self.erasure.waits_for_nodes(self.cluster).next().is_none()
            && self.erasure.waits_for_repositories(self.cluster).next().is_none();
        if is_over && self.node.meta().status().is_leader() {
            self.finish().await?;
        }
        Ok(())
    }

    /// Removes what is left on this node.
    async fn erase(&self) -> Result<(), String> {
        self.refuse_isolated_data()?;
        let shards = self.node.shards();
        for (id, shard) in &shards {
            let reader = shard.group().reader();
            let collection = self.erasure.collection;
            let keys = [record::count_key(collection), Ownership::key(collection)];
            let left = reader.multi_get(&keys).map_err(|error| error.to_string())?;
            if self.erasure.whole && left.iter().any(Option::is_some) {
                return Err(format!("shard {id} still holds frames of the collection"));
            }
            self.erase_images(*id)?;
        }
        let trimmed = self.node.meta().trim(self.erasure.index).await.map_err(|error| error.to_string())?;
        if !trimmed {
            return Err("the meta group's log still reaches back to the keys".into());
        }
        let host = self.node.host();
        let text = |error: mira_raft::HostError| error.to_string();
        host.compact_log().await.map_err(text)?;
        host.compact_state(META_GROUP, &[]).await.map_err(text)?;
        if self.erasure.whole {
            for (id, _) in &shards {
                for table in record::TABLES {
                    let prefix = record::collection_prefix(table, self.erasure.collection);
                    host.compact_state(id + 1, &prefix).await.map_err(text)?;
                }
            }
        }
        Ok(())
    }

    /// Images that a destroyed key sealed are of no use to anybody.
    fn erase_images(&self, shard: ShardId) -> Result<(), String> {
        let folder = ImageFolder::new(self.node.data(), shard);
        for space in SpaceId::each_of(self.erasure.collection) {
            let version = folder.key_version(space).map_err(|error| error.to_string())?;
            if version.is_some_and(|version| self.erasure.whole || self.erasure.keys.contains_key(&version)) {
                folder.delete(space).map_err(|error| error.to_string())?;
            }
        }
        Ok(())
    }

    /// Data of an earlier life of this folder may hold the keys too, and only an operator may remove it.
    fn refuse_isolated_data(&self) -> Result<(), String> {
        match data::isolated(self.node.data()).map_err(|error| error.to_string())? {
            None => Ok(()),
            Some(name) => {
                tracing::warn!(erasure = self.id, name, "remove this folder: it may hold keys that were destroyed");
                Err(format!("{name} is still there"))
            }
        }
    }

    async fn finish(&self) -> Result<(), String> {
        let text = |refusal: mira_proto::Refusal| refusal.to_string();
        if self.cluster.receipt_key.is_empty() {
            let key = MetaCommand::SetReceiptKey(self.node.keyring().new_receipt_key());
            self.node.propose_meta(&key).await.map_err(text)?;
            return Err("the cluster has just got a key for receipts".into());
        }
        let key = self.node.keyring().receipts(&self.cluster.receipt_key).map_err(|error| error.to_string())?;
        let statement = self.statement().to_string();
        let signature = key.sign(statement.as_bytes());
        let receipt = Receipt { text: statement, signature };
        self.node.propose_meta(&MetaCommand::FinishErasure { erasure: self.id, receipt }).await.map_err(text)?;
        tracing::info!(erasure = self.id, "the erasure is over");
        Ok(())
    }

    fn statement(&self) -> String {
        let Erasure { collection, name, whole, keys, index, since_ms, done, .. } = self.erasure;
        let statement = Statement {
            format: 1,
            erasure: self.id,
            cluster: cluster_id_text(self.cluster.header.cluster_id),
            what: match (collection, whole) {
                (0, _) => "cluster key",
                (_, true) => "collection with its keys",
                (_, false) => "keys of a collection",
            },
            collection: name,
            collection_number: *collection,
            keys: keys
                .iter()
                .map(|(&version, id)| KeyName { version, id: mira_crypto::KeyId::from_bytes(*id).to_string() })
                .collect(),
            destroyed_at: time_text(*since_ms),
            destroyed_at_index: *index,
            finished_at: time_text(self.node.now_ms()),
            nodes: done.iter().map(|node| format!("{node:016x}")).collect(),
            repositories: self.cluster.repositories.values().map(|repository| repository.place.clone()).collect(),
        };
        serde_json::to_string(&statement).expect("plain data")
    }
}

fn time_text(time_ms: u64) -> String {
    let time = jiff::Timestamp::from_millisecond(time_ms as i64);
    time.map_or_else(|_| time_ms.to_string(), |time| time.to_string())
}
