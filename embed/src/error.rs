//! Why a text could not be embedded.

use std::path::PathBuf;

use crate::Class;

/// Why a model could not be loaded or a text not be embedded. Each variant says what the caller can do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EmbedError {
    /// A file of the model is not there or cannot be read.
    #[error("model file {} cannot be read ({reason}): run make model", path.display())]
    ModelMissing {
        /// The file.
        path: PathBuf,
        /// What the system said.
        reason: String,
    },
    /// A file of the model is not what it should be: cut short, altered, or of another model.
    #[error("model file {} is damaged ({reason}): run make model", path.display())]
    ModelDamaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The weights are readable but not those of the expected network.
    #[error("model tensor {tensor} has the wrong shape (expected {expected}, found {found}): run make model")]
    ModelShape {
        /// Name of the tensor.
        tensor: String,
        /// Type and dimensions that the network needs.
        expected: String,
        /// Type and dimensions in the file, or `nothing`.
        found: String,
    },
    /// A text has more tokens than the model takes; cut it into passages first.
    #[error("text {index} has {tokens} tokens, the model takes {max}; split it into passages")]
    TooLong {
        /// Position of the text in the call.
        index: usize,
        /// Its tokens.
        tokens: usize,
        /// The model's limit.
        max: usize,
    },
    /// A text needs more passages than the caller allows; store less text at once.
    #[error("a text of {bytes} bytes needs more than {limit} passages")]
    TooManyPassages {
        /// Length of the text.
        bytes: usize,
        /// The caller's limit.
        limit: usize,
    },
    /// The tokenizer refused a text.
    #[error("the tokenizer failed: {reason}")]
    Tokenizer {
        /// What it said.
        reason: String,
    },
    /// A single call is larger than the queue; send it in parts.
    #[error("{texts} texts of {bytes} bytes are more than the {class} queue takes at all; send them in parts")]
    CallTooLarge {
        /// The queue.
        class: Class,
        /// Texts of the call.
        texts: usize,
        /// Their bytes.
        bytes: usize,
    },
    /// The queue is full; try again later.
    #[error("the {class} queue for embedding is full; try again later")]
    Overloaded {
        /// The queue.
        class: Class,
    },
    /// The engine panicked or broke its contract on these texts. Others are not concerned.
    #[error("the embedding engine failed: {reason}")]
    EngineFailed {
        /// The panic's message, or what was broken.
        reason: String,
    },
    /// The batcher was shut down before the answer was there.
    #[error("embedding was shut down")]
    Closed,
    /// A thread could not be started.
    #[error("the embedding thread could not be started: {reason}")]
    Thread {
        /// What the system said.
        reason: String,
    },
}
