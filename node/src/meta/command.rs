//! Commands of the meta group: everything that changes what the cluster *is*.
//!
//! A command is encoded (version byte, then postcard) and sealed with the cluster key before it is proposed, so that
//! the log holds no collection name and no address. Each is safe to propose twice.

use mira_crypto::{CryptoRng, MetaSealer};
use mira_proto::{CollectionId, NodeId};
use serde::{Deserialize, Serialize};

use super::state::{CollectionRecord, NodeRecord};

const VERSION: u8 = 1;
const ASSOCIATED: &[u8] = b"mira meta command";
/// A shard map of the largest cluster is the largest command.
const MAX_BYTES: usize = 4 << 20;

/// One change of the cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum MetaCommand {
    /// Gives the cluster its identity; only the first one counts.
    Form {
        /// Random.
        cluster_id: u128,
        /// Number of shards, for ever.
        shards: u32,
        /// Replicas of each shard.
        replication: u32,
        /// Place the shards once so many nodes have joined.
        expect: u32,
    },
    /// Adds a node, or renews its addresses.
    PutNode(NodeRecord),
    /// Decides the replicas of every shard, if nobody has yet.
    PlaceShards(Vec<Vec<NodeId>>),
    /// Makes a collection, if its name is free.
    CreateCollection(CollectionRecord),
    /// Removes a collection by its name; the number says which one was meant.
    DropCollection {
        /// Its name.
        name: String,
        /// Its number, so that a retry does not drop a successor.
        id: CollectionId,
    },
}

/// What every replica of the meta group answers to a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum MetaAnswer {
    /// It took effect, or had done so before.
    Done,
    /// Something of that name or number is there already.
    Exists,
    /// What it names is not there.
    Missing,
    /// There is no room for more.
    Full,
}

impl MetaCommand {
    /// The sealed payload to propose.
    pub fn seal(&self, sealer: &MetaSealer, rng: &mut dyn CryptoRng) -> Vec<u8> {
        let plain = postcard::to_extend(self, vec![VERSION]).expect("a command is plain data");
        sealer.seal_proposal(ASSOCIATED, &plain, rng)
    }

    /// Reads a proposed payload back.
    pub fn open(sealer: &MetaSealer, sealed: &[u8]) -> Result<Self, String> {
        let plain = sealer.open(ASSOCIATED, sealed, MAX_BYTES).map_err(|error| error.to_string())?;
        match plain.split_first() {
            Some((&VERSION, body)) => postcard::from_bytes(body).map_err(|error| error.to_string()),
            Some((version, _)) => Err(format!("meta command of unknown version {version}")),
            None => Err("empty meta command".into()),
        }
    }
}
