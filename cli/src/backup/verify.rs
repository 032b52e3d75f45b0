//! Checking that a backup could come back, without a change to any cluster.

use uuid::Uuid;

use super::logs::check_logs;
use super::repository::Repository;
use super::restore::{Reading, Restored};
use crate::client::Client;
use crate::error::CliError;

/// Reads a backup whole and has the cluster open every frame of it, without storing any; and compares every piece of the
/// place's logs with its checksum.
pub async fn verify(client: &Client, repository: &Repository, backup: Option<Uuid>) -> Result<Restored, CliError> {
    check_logs(repository).await?;
    Reading::begin(client, repository, backup, true).await?.all().await
}
