//! The measurements. Each takes a [`Bench`] and returns figures; none knows how the cluster was started.
//!
//! Collections are made fresh under the prefix `bench-` and, apart from the documents that several measurements share,
//! removed again by [`Bench::clean_up`].

pub mod batch;
pub mod import;
pub mod interference;
pub mod mcp;
pub mod private;
pub mod recall;
pub mod resources;
pub mod search;
pub mod status;
pub mod store;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use mira_proto::Problem;
use mira_proto::model::StatusReply;
use tokio::time::{Instant, sleep};
use uuid::Uuid;

use crate::BenchError;
use crate::caller::{Caller, Target};
use crate::load::{Limit, Summary};
use crate::servers::Servers;
use crate::texts::Texts;
use crate::vectors::Vectors;

/// Bytes of a stored frame's text (SPEC section 5: the payload that an etcd gets too).
pub const FRAME_BYTES: usize = 1024;
/// Longest wait for indexes to hold what was stored: building a graph of 50,000 on a busy core.
const INDEXED_WITHIN: Duration = Duration::from_secs(240);

/// Between two looks at indexes: a tenth of what the smallest import takes.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// How much is measured.
#[derive(Debug, Clone)]
pub struct Scale {
    /// Length of one load.
    pub run: Limit,
    /// Writers of the store measurement.
    pub writers: Vec<usize>,
    /// Callers of the read measurements.
    pub callers: Vec<usize>,
    /// Documents of the collections that are searched.
    pub documents: Vec<usize>,
    /// Queries whose answers are judged.
    pub judged: usize,
    /// Texts that are imported through the model.
    pub texts: usize,
    /// Agents of the MCP measurement.
    pub agents: usize,
    /// Leaders that the fail-over measurement kills.
    pub kills: usize,
    /// Frames in the cluster while nodes come and go.
    pub moved: usize,
    /// Private frames of the owner who searches them.
    pub private: u64,
    /// Rounds in which a peer and MIRA take turns.
    pub rounds: usize,
    /// Bytes of the large content that is uploaded and downloaded.
    pub large: usize,
}

impl Scale {
    /// For figures: minutes.
    pub fn full() -> Scale {
        Scale {
            run: Limit::Time(Duration::from_secs(6)),
            writers: vec![1, 8, 64],
            callers: vec![1, 20],
            documents: vec![10_000, 50_000],
            judged: 300,
            texts: 1_000,
            agents: 20,
            kills: 4,
            moved: 100_000,
            private: 10_000,
            rounds: 3,
            large: 256 << 20,
        }
    }

    /// To see that it works: seconds.
    pub fn quick() -> Scale {
        Scale {
            run: Limit::Time(Duration::from_millis(300)),
            writers: vec![1, 8],
            callers: vec![1, 4],
            documents: vec![300],
            judged: 20,
            texts: 10,
            agents: 4,
            kills: 1,
            moved: 300,
            private: 300,
            rounds: 1,
            large: 5 << 20,
        }
    }

    /// The largest number of documents that are searched.
    pub fn most_documents(&self) -> usize {
        self.documents.iter().copied().max().unwrap_or(0)
    }

    /// How many vectors all measurements together need.
    pub fn rows(&self) -> usize {
        (interference::IMPORTS * self.most_documents()).max(self.moved)
    }
}

/// A cluster to measure, and what to measure it with.
pub struct Bench {
    /// Whom to ask.
    pub target: Target,
    /// How much.
    pub scale: Scale,
    /// What to store and search.
    pub vectors: Arc<Vectors>,
    /// What to embed.
    pub texts: Arc<Texts>,
    /// What this disk can do.
    pub fdatasync: Summary,
    /// The processes of the cluster, where they run on this machine.
    pub servers: Servers,
    /// Tells this run's collections from another's.
    run: String,
    documents: BTreeMap<usize, Documents>,
    collections: Vec<String>,
}

/// A collection of documents whose index is complete.
#[derive(Debug, Clone)]
pub struct Documents {
    /// Its collection.
    pub collection: String,
    /// How many.
    pub count: usize,
    /// Storing them, in batches.
    pub stored: import::Imported,
}

impl Bench {
    /// For a running cluster.
    pub fn new(target: Target, scale: Scale, vectors: Arc<Vectors>, texts: Arc<Texts>, fdatasync: Summary) -> Bench {
        let run = Uuid::new_v4().simple().to_string()[..8].to_owned();
        let (servers, documents, collections) = Default::default();
        Bench { target, scale, vectors, texts, fdatasync, servers, run, documents, collections }
    }

    /// Connections.
    pub async fn callers(&self, count: usize) -> Result<Vec<Caller>, BenchError> {
        Caller::connect_all(&self.target, count).await.map_err(BenchError::refused("connecting"))
    }

    /// A fresh collection for vectors of this bench.
    pub async fn collection(&mut self, name: &str, partitions: u32) -> Result<String, BenchError> {
        let name = format!("bench-{}-{name}", self.run);
        let caller = &self.callers(1).await?[0];
        let made = caller.make_collection(&name, self.vectors.dim() as u32, partitions).await;
        made.map_err(BenchError::refused("making a collection"))?;
        self.collections.push(name.clone());
        Ok(name)
    }

    /// A collection with the first `count` vectors, indexed; stored on first use.
    pub async fn documents(&mut self, count: usize) -> Result<Documents, BenchError> {
        if let Some(known) = self.documents.get(&count) {
            return Ok(known.clone());
        }
        let collection = self.collection(&format!("documents-{count}"), 1).await?;
        let stored = import::vectors(self, &collection, count).await?;
        let documents = Documents { collection, count, stored };
        self.documents.insert(count, documents.clone());
        Ok(documents)
    }

    /// Removes the collections of this bench.
    pub async fn clean_up(&mut self) -> Result<(), BenchError> {
        let caller = &self.callers(1).await?[0];
        self.documents.clear();
        for name in self.collections.drain(..) {
            caller.delete_collection(&name).await.map_err(BenchError::refused("removing a collection"))?;
        }
        Ok(())
    }
}

/// Waits until every replica has applied and indexed everything.
pub async fn wait_until_indexed(caller: &Caller) -> Result<StatusReply, BenchError> {
    wait_until_indexed_within(caller, INDEXED_WITHIN).await
}

/// As [`wait_until_indexed`], as long as that may take.
pub async fn wait_until_indexed_within(caller: &Caller, patience: Duration) -> Result<StatusReply, BenchError> {
    let deadline = Instant::now() + patience;
    loop {
        let status = caller.status().await.map_err(BenchError::refused("status"))?;
        let replicas = || status.groups.iter().flat_map(|group| &group.replicas);
        let behind: u64 = replicas().map(|replica| replica.apply_lag + replica.index_lag).sum();
        if behind == 0 && replicas().all(|replica| replica.role != "unreachable") {
            return Ok(status);
        }
        if Instant::now() > deadline {
            return Err(BenchError::Late(format!("replicas are {behind} changes behind")));
        }
        sleep(LOOK_AGAIN).await;
    }
}

/// The id of a document: the same for the same row, and the row can be read from it. Documents have no session: each row is
/// placed by itself.
pub fn document_id(row: usize) -> Uuid {
    uuid::Builder::from_custom_bytes((row as u128).to_be_bytes()).into_uuid()
}

/// The row that an id was made from.
pub fn row_of(id: &str) -> Result<usize, Problem> {
    let id: Uuid = id.parse().map_err(|_| Problem::internal(format!("{id} is no id")))?;
    Ok((id.as_u128() & u128::from(u32::MAX)) as usize)
}

#[cfg(test)]
mod tests {
    use mira_proto::placement::{Partitioning, shards_of_collection};

    use super::*;

    /// What is measured of several partitions would otherwise be measured of the fullest.
    #[test]
    fn documents_spread_over_partitions_as_ids_at_random_do() {
        for partitions in [4, 16] {
            let places = Partitioning::new(shards_of_collection(1, partitions, 16));
            let mut rows: BTreeMap<u32, usize> = BTreeMap::new();
            let mut random = rows.clone();
            for row in 0..40_000 {
                *rows.entry(places.shard_of(document_id(row).as_u128())).or_default() += 1;
                let id = (row as u128).wrapping_mul(0x9E37_79B9_7F4A_7C15_F39C_C060_5CED_C835);
                *random.entry(places.shard_of(id)).or_default() += 1;
            }
            assert_eq!(rows.len(), partitions as usize);
            for (shard, count) in rows {
                let share = count as f64 / random[&shard] as f64;
                assert!((0.85..1.15).contains(&share), "{count} in shard {shard} of {partitions}: {share}");
            }
        }
    }

    #[test]
    fn a_row_can_be_read_from_its_id() {
        for row in [0, 1, 49_999, u32::MAX as usize] {
            assert_eq!(row_of(&document_id(row).to_string()).unwrap(), row);
        }
    }
}
