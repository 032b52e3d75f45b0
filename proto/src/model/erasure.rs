//! The end of keys: how far each is, with its receipt.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_with::skip_serializing_none;

use super::keys::KeyInfo;

/// Keys that end, and those that have.
#[skip_serializing_none]
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ErasuresReply {
    /// From the oldest on.
    pub erasures: Vec<Erasure>,
    /// What receipts are checked with (Ed25519, 64 hex digits); absent before the first.
    pub public_key: Option<String>,
}

/// The end of keys.
#[skip_serializing_none]
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Erasure {
    /// Names it.
    pub id: u64,
    /// Of this collection; absent of a cluster key.
    pub collection: Option<String>,
    /// Whether the collection is gone with them.
    pub whole: bool,
    /// preparing, resealing or retiring (the keys are still needed, see the collection's rotation), purging (they are
    /// destroyed; copies are being removed from files) or done.
    pub state: String,
    /// The keys.
    pub keys: Vec<KeyInfo>,
    /// When they were destroyed.
    pub destroyed_at: Option<String>,
    /// Nodes whose files may still hold the keys, wrapped.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub waits_for_nodes: Vec<String>,
    /// Places of backups whose copies of the keys are older.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub waits_for_repositories: Vec<String>,
    /// What the cluster says in the end.
    pub receipt: Option<SignedReceipt>,
}

/// What a cluster says of keys that have ended, and its signature.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SignedReceipt {
    /// JSON; the signature is over exactly these bytes.
    pub statement: String,
    /// Ed25519, 128 hex digits.
    pub signature: String,
    /// Whose signature it is, 64 hex digits.
    pub public_key: String,
}
