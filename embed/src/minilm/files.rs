//! The model folder: reading its files and checking that they are the right ones.

use std::path::Path;

use serde::Deserialize;
use sha2::{Digest, Sha256};

use crate::EmbedError;

/// The files of the model and their SHA-256, as `make model` checks them too.
const SUMS: &str = include_str!("../../model.sha256");

/// Reads a file of the model and checks it against its known SHA-256.
pub(super) fn read_checked(folder: &Path, name: &str) -> Result<Vec<u8>, EmbedError> {
    let path = folder.join(name);
    let bytes = match std::fs::read(&path) {
        Ok(bytes) => bytes,
        Err(error) => return Err(EmbedError::ModelMissing { path, reason: error.to_string() }),
    };
    let expected = SUMS
        .lines()
        .filter_map(|line| line.split_once("  "))
        .find_map(|(sum, file)| (file == name).then_some(sum))
        .expect("model.sha256 names every file that is read");
    let found: String = Sha256::digest(&bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    if found != expected {
        let reason = format!("its SHA-256 is {found}, not {expected}");
        return Err(EmbedError::ModelDamaged { path, reason });
    }
    Ok(bytes)
}

/// What config.json says of the network's shape.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
pub(super) struct Config {
    pub hidden_size: usize,
    pub intermediate_size: usize,
    pub num_attention_heads: usize,
    pub num_hidden_layers: usize,
    pub max_position_embeddings: usize,
    pub vocab_size: usize,
}

impl Config {
    /// Reads config.json and checks that the kernels can run such a network.
    pub(super) fn parse(json: &[u8]) -> Result<Self, String> {
        let config: Self = serde_json::from_slice(json).map_err(|error| error.to_string())?;
        let sizes = [config.hidden_size, config.intermediate_size, config.vocab_size, config.max_position_embeddings];
        let heads_fit = config.num_attention_heads > 0 && config.hidden_size.is_multiple_of(config.num_attention_heads);
        if sizes.contains(&0) || !heads_fit {
            return Err(format!("impossible sizes: {config:?}"));
        }
        let panel_sizes = [config.hidden_size, config.intermediate_size, config.head_size()];
        if !panel_sizes.iter().all(|size| size.is_multiple_of(super::kernels::PANEL)) {
            return Err(format!("sizes that are no multiple of {}: {config:?}", super::kernels::PANEL));
        }
        Ok(config)
    }

    /// Components of one attention head.
    pub(super) fn head_size(&self) -> usize {
        self.hidden_size / self.num_attention_heads
    }
}
