//! The batcher under load, the model against its reference.

mod batcher;
mod minilm;
