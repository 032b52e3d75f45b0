//! Reading the shards' logs that a place of backups holds.

use super::manifest::{Manifest, damaged, log_name, start_name};
use super::page::SealedLogPage;
use super::recovery_points::Placed;
use super::repository::Repository;
use crate::error::CliError;

/// Checks every piece of the logs in a place against its checksum.
pub(super) async fn check_logs(repository: &Repository) -> Result<(), CliError> {
    for found in repository.manifests().await? {
        let Manifest { backup, starts, logs, .. } = found.manifest;
        for start in &starts {
            repository.piece(backup, &start_name(backup, start.shard), &start.object).await?;
        }
        for (shard, page) in logs.iter().flat_map(|log| log.pages.iter().map(|page| (log.shard, page))) {
            read_log(repository, shard, &Placed { backup, number: page.number, after: 0, object: page.object.clone() })
                .await?;
        }
    }
    Ok(())
}

/// A page of a shard's log, if it is what it was.
pub(super) async fn read_log(repository: &Repository, shard: u32, page: &Placed) -> Result<SealedLogPage, CliError> {
    let name = log_name(page.backup, shard, page.number);
    let bytes = repository.piece(page.backup, &name, &page.object).await?;
    SealedLogPage::decode(bytes).map_err(|what| damaged(page.backup, &format!("{name}: {what}")).into())
}
