//! A router's file of tokens, read again while it serves: a new token is let in, and one that is taken out is not any more,
//! without a restart.
//!
//! The file is looked at every few seconds, and at once on SIGHUP. One that cannot be read, breaks the rules or holds no token
//! changes nothing; that is logged once.

use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::time::Duration;

use mira_router::{AccessToken, RunningRouter};
use tokio::signal::unix::{SignalKind, signal};
use tracing::{error, info};

use crate::error::CliError;
use crate::server::secrets;

/// Between two looks at the file.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// Reads the tokens of a file.
pub fn read(file: &Path) -> Result<Vec<AccessToken>, CliError> {
    parse(file, &secrets::read(file)?)
}

fn parse(file: &Path, text: &str) -> Result<Vec<AccessToken>, CliError> {
    AccessToken::parse_all(text).map_err(|error| secrets::bad(file, error.to_string()))
}

/// Keeps a router's tokens those of its file, for ever; waits for ever where it has none.
pub async fn follow(file: Option<PathBuf>, router: &RunningRouter) -> Result<Infallible, CliError> {
    let Some(file) = file else { return std::future::pending().await };
    let mut hangup = signal(SignalKind::hangup()).map_err(CliError::io("signal SIGHUP"))?;
    let mut followed = Followed::new(&file);
    let mut look = tokio::time::interval(LOOK_EVERY);
    loop {
        let is_asked = tokio::select! {
            _ = hangup.recv() => true,
            _ = look.tick() => false,
        };
        let Some(found) = followed.look(is_asked) else { continue };
        let replaced =
            found.and_then(|tokens| router.replace_tokens(&tokens).map_err(CliError::start).map(|()| tokens));
        match replaced {
            Ok(tokens) => info!(tokens = tokens.len(), "the file of tokens was read again"),
            Err(error) => error!(%error, "the file of tokens is not as it must be; the tokens from before are let in"),
        }
    }
}

/// A file of tokens, and what it said last.
struct Followed<'a> {
    file: &'a Path,
    /// Its text, or why there was none.
    said: Result<String, String>,
}

impl<'a> Followed<'a> {
    fn new(file: &'a Path) -> Self {
        Followed { file, said: Followed::text(file) }
    }

    fn text(file: &Path) -> Result<String, String> {
        secrets::read(file).map_err(|error| error.to_string())
    }

    /// What it says, if that has changed or somebody wants to know.
    fn look(&mut self, is_asked: bool) -> Option<Result<Vec<AccessToken>, CliError>> {
        let now = Followed::text(self.file);
        if now == self.said && !is_asked {
            return None;
        }
        self.said = now;
        Some(match &self.said {
            Ok(text) => parse(self.file, text),
            Err(detail) => Err(secrets::bad(self.file, detail.clone())),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_file_is_read_again_when_it_changed_or_somebody_asks_and_what_is_wrong_is_told_once() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("tokens");
        let write = |text: &str| {
            std::fs::write(&file, text).unwrap();
            std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
        };
        write("ada mira_first-token-0\n");
        let mut followed = Followed::new(&file);
        let count =
            |found: Option<Result<Vec<AccessToken>, CliError>>| found.map(|found| found.map(|all| all.len()).ok());
        assert_eq!(count(followed.look(false)), None);
        assert_eq!(count(followed.look(true)), Some(Some(1)));
        write("ada mira_first-token-0\nbob mira_second-token-1\n");
        assert_eq!(count(followed.look(false)), Some(Some(2)));
        write("ada short\n");
        assert_eq!([count(followed.look(false)), count(followed.look(false))], [Some(None), None]);
        std::fs::remove_file(&file).unwrap();
        assert_eq!([count(followed.look(false)), count(followed.look(false))], [Some(None), None]);
        write("bob mira_second-token-1\n");
        assert_eq!(count(followed.look(false)), Some(Some(1)));
    }
}
