//! Text to vectors.
//!
//! An [`Embedder`] turns texts into vectors of unit length whose cosine says how near the texts are in meaning.
//! [`MiniLm`] is the one that ships: all-MiniLM-L6-v2, 384 dimensions, computed on the CPU in f32. [`HashEmbedder`]
//! needs no model files and stands in for it in tests.
//!
//! A model sees only so many tokens at once. What is longer is first cut into overlapping passages
//! ([`Embedder::passages`]), each of which becomes a vector; [`Embedder::embed`] refuses a longer text instead of
//! embedding its beginning, because a vector of half a text finds the wrong things without saying so.
//!
//! Embedding is CPU work and synchronous. A server puts a [`Batcher`] in front, which gathers the texts of concurrent
//! callers into common batches on threads of its own, keeps queries from waiting behind bulk work, and refuses what
//! would pile up. The crate uses no async runtime: a [`Pending`] answer is a plain future.

mod batcher;
mod error;
mod hash;
mod minilm;
mod passages;

pub use batcher::{Batcher, BatcherLimits, Class, Pending};
pub use error::EmbedError;
pub use hash::HashEmbedder;
pub use minilm::MiniLm;
pub use passages::{MAX_OVERLAP_SHARE, PASSAGE_OVERLAP_TOKENS, Passage, PassagePlan, Token, passages};

/// What a caller needs to know of a model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelInfo {
    /// Name of the model, the same wherever its vectors can be compared.
    pub name: String,
    /// Components of a vector.
    pub dim: usize,
    /// Tokens of one text that the model takes at most, its own start and end marks included.
    pub max_tokens: usize,
}

/// Turns texts into vectors.
///
/// Implementations are deterministic, and the vector of a text does not depend on what else is in the batch beyond
/// rounding (1e-5 per component).
pub trait Embedder: Send + Sync {
    /// The model behind the vectors.
    fn model(&self) -> &ModelInfo;

    /// One vector of length 1 and `model().dim` components per text, in the order of `texts`.
    ///
    /// Blocks for as long as the computation takes. An empty text has a vector too: the model's for no words.
    /// Fails with [`EmbedError::TooLong`] if a text has more than `model().max_tokens` tokens.
    fn embed(&self, texts: &[&str]) -> Result<Vec<Vec<f32>>, EmbedError>;

    /// Cuts a text into passages that [`Embedder::embed`] accepts, in order, overlapping, covering the whole text.
    ///
    /// A text that fits is one passage. Fails with [`EmbedError::TooManyPassages`] if more than `limit` are needed.
    fn passages(&self, text: &str, limit: usize) -> Result<Vec<Passage>, EmbedError>;
}
