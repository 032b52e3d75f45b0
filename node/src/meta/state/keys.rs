//! Records of keys that change or end: rotations, erasures, the receipts of these, and places of backups, which hold
//! copies of keys.
//!
//! ```text
//!  rotate a collection's key         shred a collection
//!    StartRotation                     Shred: its keys leave the state at once
//!    Preparing: every node knows it       │
//!    Resealing: shard by shard            │
//!    Retiring: node by node               │
//!    DestroyKeys ────────────────────────▶ Erasure: node by node, until no file holds them any more
//!                                         FinishErasure: the receipt
//! ```
//! Frames are re-sealed by the leaders of shards ([`crate::background::key_rotation`]), files are rewritten by every node
//! ([`crate::background::erasure`]). Every step may be repeated, and goes on from these records whoever crashes.

use std::collections::{BTreeMap, BTreeSet};

use mira_proto::{CollectionId, NodeId, node_v1};
use serde::{Deserialize, Serialize};

use super::ClusterState;

/// A collection on its way to another key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rotation {
    /// Names it; also the erasure that it ends with.
    pub id: u64,
    /// The request that began it.
    pub request: u128,
    /// Version of the key that frames are sealed with from now on.
    pub to: u32,
    /// What is being done.
    pub step: RotationStep,
    /// Log-carried time that it began at.
    pub since_ms: u64,
    /// Shards, or nodes, that have done their part of the step.
    pub done: BTreeSet<u64>,
}

/// The steps of a rotation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum RotationStep {
    /// Every node learns of the key, before anything is sealed with it.
    Preparing,
    /// Leaders of shards seal frames anew.
    Resealing,
    /// Nodes make sure that nothing of theirs needs an older key.
    Retiring,
}

impl From<RotationStep> for node_v1::RotationStep {
    fn from(step: RotationStep) -> Self {
        match step {
            RotationStep::Preparing => Self::Preparing,
            RotationStep::Resealing => Self::Resealing,
            RotationStep::Retiring => Self::Retiring,
        }
    }
}

/// Keys that were destroyed, until no node has them on its disk any more, and the receipt of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Erasure {
    /// Whose keys they were; 0 = the cluster key before this one, with all that was wrapped by it.
    pub collection: CollectionId,
    /// The collection's name; empty of the cluster key.
    pub name: String,
    /// Whether the collection is gone with them.
    pub whole: bool,
    /// The keys by version, by their names.
    pub keys: BTreeMap<u32, [u8; 8]>,
    /// The map's epoch from which on they are gone.
    pub epoch: u64,
    /// Log position of the meta group at which they were destroyed.
    pub index: u64,
    /// Log-carried time of that.
    pub since_ms: u64,
    /// Nodes whose files hold them no more.
    pub done: BTreeSet<NodeId>,
    /// The end of it; none before.
    pub receipt: Option<Receipt>,
}

impl Erasure {
    /// Nodes whose files may still hold the keys.
    pub fn waits_for_nodes(&self, cluster: &ClusterState) -> impl Iterator<Item = NodeId> {
        let is_over = self.receipt.is_some();
        cluster.nodes.keys().copied().filter(move |node| !is_over && !self.done.contains(node))
    }

    /// Repositories whose copy of the keys is older than their end.
    pub fn waits_for_repositories<'a>(&self, cluster: &'a ClusterState) -> impl Iterator<Item = &'a str> + use<'a> {
        let gone_at = self.epoch;
        let older = move |repository: &&Repository| repository.keys_epoch < gone_at;
        cluster.repositories.values().filter(older).map(|repository| repository.place.as_str())
    }
}

/// What a cluster signs when keys are gone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Receipt {
    /// What is said, as JSON: these bytes are signed.
    pub text: String,
    /// Ed25519.
    pub signature: Vec<u8>,
}

/// A place that holds backups of this cluster, and copies of wrapped keys with them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Repository {
    /// Where it is, as the operator says it.
    pub place: String,
    /// The map's epoch that its copy of the keys was written at.
    pub keys_epoch: u64,
    /// Log-carried time of the last whole backup; 0 = none yet.
    pub finished_ms: u64,
}

/// Wrapped keys under another cluster key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rewrapped {
    /// Keys of collections by version.
    pub collections: BTreeMap<CollectionId, BTreeMap<u32, Vec<u8>>>,
    /// Keys of the outermost layer of private frames.
    pub layers: BTreeMap<u32, Vec<u8>>,
    /// The key of receipts; empty for none.
    pub receipts: Vec<u8>,
}
