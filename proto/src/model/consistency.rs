//! How fresh a read must be.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How fresh a read must be.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Consistency {
    /// Sees every write acknowledged before the read began; the leader confirms its quorum first.
    Linearizable,
    /// The shard's leader answers at once.
    #[default]
    Leader,
    /// Any replica answers.
    Any,
}
