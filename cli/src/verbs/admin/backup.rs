//! `mira admin backup`: backups of the whole cluster in a folder or an S3-compatible store.

use clap::{Args, Subcommand};
use uuid::Uuid;

use crate::args::Remote;
use crate::backup::{self, Contents, Created, Repository, Restored};
use crate::client::Client;
use crate::error::CliError;
use crate::output;

/// Make, list and check backups
///
/// PLACE is a folder, or s3://BUCKET/PREFIX with what the usual AWS_ variables say (AWS_ENDPOINT and AWS_ALLOW_HTTP for
/// other services). Everything there is sealed; it is of no use without the cluster key, so keep that key elsewhere.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  mira admin backup create /mnt/backups/mira
  mira admin backup create s3://backups/mira --full
  mira admin backup create /mnt/backups/mira --log
  mira admin backup verify /mnt/backups/mira
  mira admin restore /mnt/backups/mira")]
pub struct Backup {
    #[command(subcommand)]
    action: BackupAction,
}

#[derive(Debug, Subcommand)]
enum BackupAction {
    /// Back up what has changed since the last backup there, or everything if there is none
    Create {
        /// Folder or s3://BUCKET/PREFIX
        place: String,
        /// Everything, whatever is there
        #[arg(long)]
        full: bool,
        /// Only what happened since the last backup, for `mira admin restore --at`: quick enough for every minute
        #[arg(long, conflicts_with = "full")]
        log: bool,
        #[command(flatten)]
        remote: Remote,
    },
    /// List the backups of a place, and the recovery points that they offer
    List {
        /// Folder or s3://BUCKET/PREFIX
        place: String,
        /// Print the answer as JSON
        #[arg(long)]
        json: bool,
    },
    /// Read a backup whole and have the cluster open all of it, without storing anything
    Verify {
        /// Folder or s3://BUCKET/PREFIX
        place: String,
        /// Id of the backup [default: the newest]
        #[arg(long, value_name = "ID")]
        backup: Option<Uuid>,
        #[command(flatten)]
        remote: Remote,
    },
    /// Write the key file of a place again, so that keys which were destroyed since leave it
    Keys {
        /// Folder or s3://BUCKET/PREFIX
        place: String,
        #[command(flatten)]
        remote: Remote,
    },
    /// List the places that the cluster knows
    Places(#[command(flatten)] Remote),
    /// Tell the cluster that a place is gone, with everything in it: the end of keys waits for it no more
    Forget {
        /// Its id, as `places` shows it
        id: Uuid,
        #[command(flatten)]
        remote: Remote,
    },
}

impl Backup {
    /// Does it, and prints.
    pub async fn run(self) -> Result<(), CliError> {
        match self.action {
            BackupAction::Create { place, full, log, remote } => {
                let (client, repository) = (Client::new(&remote)?, Repository::open(&place, true).await?);
                let what = if full {
                    Contents::Everything
                } else if log {
                    Contents::Log
                } else {
                    Contents::Changes
                };
                let created = backup::create(&client, &repository, what).await?;
                output::print_answer(&created, remote.json, summary)
            }
            BackupAction::List { place, json } => {
                let listed = Repository::open(&place, false).await?.list().await?;
                output::print_answer(&listed, json, |listed| output::backups(listed))
            }
            BackupAction::Verify { place, backup, remote } => {
                let (client, repository) = (Client::new(&remote)?, Repository::open(&place, false).await?);
                let verified = backup::verify(&client, &repository, backup).await?;
                output::print_answer(&verified, remote.json, |verified| restored("is sound", verified))
            }
            BackupAction::Keys { place, remote } => {
                let (client, repository) = (Client::new(&remote)?, Repository::open(&place, false).await?);
                backup::rewrite_keys(&client, &repository).await?;
                let done = serde_json::json!({ "rewritten": place });
                output::print_answer(&done, remote.json, |_| format!("{place} has the keys of today, and no others\n"))
            }
            BackupAction::Places(remote) => {
                let reply = Client::new(&remote)?.repositories().await?;
                output::print_answer(&reply, remote.json, |reply| output::repositories(&reply.repositories))
            }
            BackupAction::Forget { id, remote } => {
                backup::forget(&Client::new(&remote)?, id).await?;
                let done = serde_json::json!({ "forgotten": id });
                output::print_answer(&done, remote.json, |_| format!("forgot {id}\n"))
            }
        }
    }
}

fn summary(created: &Created) -> String {
    let Created { backup, base, frames, bytes, log_only, forgotten, seconds } = created;
    let (size, rate) = (output::bytes(*bytes), output::bytes((*bytes as f64 / seconds.max(0.001)) as u64));
    let mut text = if *log_only {
        format!("backup {backup} holds what happened since the last one: {size} written in {seconds:.1} s\n")
    } else {
        let what = base.map_or("everything".to_owned(), |base| format!("what has changed since {base}"));
        format!("backup {backup} holds {what}: {frames} memories, {size} written in {seconds:.1} s ({rate}/s)\n")
    };
    if !forgotten.is_empty() {
        text += &format!(
            "shards {} did not keep their logs since the last backup: not every recovery point between can be restored; \
             back up more often, or logs alone (--log)\n",
            forgotten.iter().map(u32::to_string).collect::<Vec<_>>().join(", ")
        );
    }
    text
}

/// What a restore or a check says.
pub fn restored(what: &str, restored: &Restored) -> String {
    let Restored { backup, at, collections, shredded, frames, frames_shredded, bytes, seconds } = restored;
    let at = at.as_ref().map(|at| format!(", as of {at},")).unwrap_or_default();
    let (size, rate) = (output::bytes(*bytes), output::bytes((*bytes as f64 / seconds.max(0.001)) as u64));
    let mut text = format!(
        "backup {backup}{at} {what}: {frames} memories in {} collections, {size} read in {seconds:.1} s ({rate}/s)\n",
        collections.len()
    );
    if !shredded.is_empty() || *frames_shredded > 0 {
        text += &format!(
            "of {frames_shredded} memories the key was destroyed since; whole collections: {}\n",
            if shredded.is_empty() { "none".to_owned() } else { shredded.join(", ") }
        );
    }
    text
}
