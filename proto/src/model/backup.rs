//! The places that hold backups of the cluster.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_with::skip_serializing_none;
use uuid::Uuid;

/// Places that hold backups of the cluster.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct RepositoriesReply {
    /// All of them.
    pub repositories: Vec<BackupRepository>,
}

/// A place that holds backups of the cluster.
#[skip_serializing_none]
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct BackupRepository {
    /// Names it.
    pub id: Uuid,
    /// Where it is, as whoever made the backup said it.
    pub place: String,
    /// When the last backup there was finished; absent before the first.
    pub finished_at: Option<String>,
}
