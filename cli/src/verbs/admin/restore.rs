//! `mira admin restore`: a backup into an empty cluster, of whatever size.

use clap::Args;
use mira_proto::time::Moment;
use uuid::Uuid;

use super::backup::restored;
use crate::args::{Remote, moment};
use crate::backup::{self, Repository};
use crate::client::Client;
use crate::error::CliError;
use crate::output;

/// Bring a backup back into an empty cluster
///
/// The cluster may have another number of nodes and shards; it must hold the cluster key that the backup was made under,
/// behind its own if that is another. Writes are refused until everything is back. Stopped half-way, the same command
/// goes on.
///
/// With --at, what comes back is what the cluster held at that time (point-in-time recovery), by the clock that its logs carry:
/// the logs that were backed up are replayed over the newest backup before it. `mira admin backup list` shows the recovery
/// points that there are.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  mira admin restore /mnt/backups/mira
  mira admin restore /mnt/backups/mira --at 2026-11-28T14:05:00Z
  mira admin restore s3://backups/mira --backup 01997c1e-4a08-7c62-93c4-5d6f0e1c2b3a")]
pub struct Restore {
    /// Folder or s3://BUCKET/PREFIX
    place: String,
    /// Id of the backup [default: the newest]
    #[arg(long, value_name = "ID")]
    backup: Option<Uuid>,
    /// The recovery point that is to come back, such as 2026-11-28T14:05:00Z
    #[arg(long, value_name = "TIME", conflicts_with = "backup", value_parser = moment)]
    at: Option<Moment>,
    #[command(flatten)]
    remote: Remote,
}

impl Restore {
    /// Restores, and says what came back.
    pub async fn run(self) -> Result<(), CliError> {
        let (client, repository) = (Client::new(&self.remote)?, Repository::open(&self.place, false).await?);
        let reply = match self.at {
            Some(at) => {
                let before_all = |_| CliError::Usage("--at is before 1970: no cluster has been backed up then".into());
                let at_ms = u64::try_from(at.millisecond()).map_err(before_all)?;
                backup::restore_at(&client, &repository, at_ms).await?
            }
            None => backup::restore(&client, &repository, self.backup).await?,
        };
        output::print_answer(&reply, self.remote.json, |reply| restored("is back", reply))
    }
}
