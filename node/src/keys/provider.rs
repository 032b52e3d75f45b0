//! Where a node's cluster keys come from.

use async_trait::async_trait;
use mira_crypto::ClusterKey;

/// Gives a node its cluster keys: a file, the environment, a key service.
#[async_trait]
pub trait KeyProvider: Send + Sync {
    /// All cluster keys that this node may use: the first is to seal, the others only open. Never empty.
    ///
    /// # Errors
    /// See [`ProviderError`]. Asked again when keys are rotated.
    async fn load(&self) -> Result<Vec<ClusterKey>, ProviderError>;

    /// Where they come from, for people; never a secret.
    fn describe(&self) -> String;
}

/// Why a provider gave no keys.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProviderError {
    /// The service did not answer: it may be tried again.
    #[error("{place} cannot be reached: {detail}")]
    Unreachable {
        /// The service.
        place: String,
        /// What happened.
        detail: String,
    },
    /// The service, or the file system, does not let this node have them.
    #[error("{place} refuses: {detail}")]
    Denied {
        /// The service or the file that refuses.
        place: String,
        /// What it says.
        detail: String,
    },
    /// There is no such key or file.
    #[error("{place}: {detail}")]
    NotFound {
        /// Where it was looked for.
        place: String,
        /// What is missing.
        detail: String,
    },
    /// What is there is no cluster key, or does not open.
    #[error("{place}: {detail}")]
    Malformed {
        /// The service or the file.
        place: String,
        /// What is wrong, without what it says.
        detail: String,
    },
}
