//! `mira owner`: what owners of private memories do with their keys.

use clap::{Args, Subcommand};

use crate::args::Remote;
use crate::client::Client;
use crate::error::CliError;
use crate::output;

/// Look after the key of your private memories
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  MIRA_OWNER_PASSPHRASE=… mira owner create-passphrase
  MIRA_OWNER_PASSPHRASE=… MIRA_NEW_PASSPHRASE=… mira owner change-passphrase")]
pub struct Owner {
    #[command(subcommand)]
    action: OwnerAction,
}

#[derive(Debug, Subcommand)]
enum OwnerAction {
    /// Make a key for your private memories, behind your passphrase (MIRA_OWNER_PASSPHRASE)
    ///
    /// Private memories can be stored by it from then on. Who forgets the passphrase has lost them: there is no other copy
    /// of the key.
    #[command(name = "create-passphrase")]
    Create(#[command(flatten)] Remote),
    /// Put another passphrase (MIRA_NEW_PASSPHRASE) in the place of yours (MIRA_OWNER_PASSPHRASE)
    ///
    /// The key behind it stays, and with it everything that is private. Routers that have just seen the old passphrase may
    /// take it for a minute more.
    #[command(name = "change-passphrase")]
    Change(#[command(flatten)] Remote),
    /// Remove what the cluster keeps of your passphrase (MIRA_OWNER_PASSPHRASE)
    ///
    /// The key behind it goes too: private memories that were stored by this passphrase cannot be opened any more, by anyone.
    #[command(name = "remove-passphrase")]
    Remove {
        /// Yes, my private memories may be lost
        #[arg(long)]
        lose_memories: bool,
        #[command(flatten)]
        remote: Remote,
    },
}

impl Owner {
    /// Does it, and says so.
    pub async fn run(self) -> Result<(), CliError> {
        let remote = match self.action {
            OwnerAction::Create(remote) => {
                Client::new(&remote)?.create_passphrase().await?;
                let done = serde_json::json!({ "created": true });
                return output::print_answer(&done, remote.json, |_| "the passphrase is set\n".to_owned());
            }
            OwnerAction::Change(remote) => remote,
            OwnerAction::Remove { lose_memories: false, .. } => {
                let detail =
                    "private memories stored by this passphrase cannot be opened after this: say --lose-memories";
                return Err(CliError::Usage(detail.to_owned()));
            }
            OwnerAction::Remove { remote, .. } => {
                Client::new(&remote)?.remove_passphrase().await?;
                let done = serde_json::json!({ "removed": true });
                return output::print_answer(&done, remote.json, |_| "the passphrase is removed\n".to_owned());
            }
        };
        let new = std::env::var("MIRA_NEW_PASSPHRASE").ok().filter(|new| !new.is_empty());
        let new = new.ok_or_else(|| CliError::Usage("set MIRA_NEW_PASSPHRASE to the new passphrase".to_owned()))?;
        Client::new(&remote)?.change_passphrase(&new).await?;
        let done = serde_json::json!({ "changed": true });
        output::print_answer(&done, remote.json, |_| "the passphrase is changed\n".to_owned())
    }
}
