//! What the verbs that serve (`dev`, `node`, `router`) share.
//!
//! They are behind the cargo feature `server`, on by default: without it the program is a small client that links no
//! storage engine.

pub mod keys;
pub mod logging;
pub mod secrets;
pub mod settings;
pub mod tokens;

use std::future::Future;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use mira_embed::{EmbedError, Embedder, MiniLm};
use tokio::signal::unix::{SignalKind, signal};

pub use self::logging::{LogFormat, start_logging};
use crate::error::CliError;

/// Runs a server on all cores.
pub fn serve(work: impl Future<Output = Result<(), CliError>>) -> Result<(), CliError> {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(CliError::io("the async runtime"))?;
    runtime.block_on(work)
}

/// Returns when someone asks the program to end: Ctrl-C, or the SIGTERM of a service manager.
pub async fn asked_to_stop() -> Result<(), CliError> {
    let mut terminate = signal(SignalKind::terminate()).map_err(CliError::io("signal SIGTERM"))?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(CliError::io("signal SIGINT"))?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    Ok(())
}

/// Where `make model` puts the model: `$XDG_CACHE_HOME/mira/model/…`, else under `~/.cache`.
pub fn default_model_folder() -> Option<PathBuf> {
    let base = match std::env::var_os("XDG_CACHE_HOME").filter(|value| !value.is_empty()) {
        Some(base) => PathBuf::from(base),
        None => std::env::home_dir()?.join(".cache"),
    };
    Some(base.join("mira/model/all-MiniLM-L6-v2"))
}

/// Loads the embedding model. A folder without one is no error (callers may bring vectors of their own) but is said
/// aloud; a damaged one is an error, because its vectors would be wrong.
pub fn load_model(folder: &Path) -> Result<Option<Arc<dyn Embedder>>, CliError> {
    match MiniLm::load(folder) {
        Ok(model) => Ok(Some(Arc::new(model))),
        Err(EmbedError::ModelMissing { path, reason }) => {
            tracing::warn!(path = %path.display(), reason, "no embedding model: texts need vectors of their own; run make model");
            Ok(None)
        }
        Err(error) => Err(CliError::Start(error.to_string())),
    }
}
