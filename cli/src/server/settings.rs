//! Settings from three places: the command line wins over the environment, both win over a TOML file.
//!
//! The file has the long names of the options with underscores (`cluster_key_file = "…"`). A name that is none is an
//! error, so that a misspelt setting is not silently ignored.

use std::path::Path;

use serde::de::DeserializeOwned;

use crate::error::CliError;

/// Settings in which what is missing can come from elsewhere.
pub trait Layer: DeserializeOwned {
    /// These, and from `below` what these do not say.
    fn over(self, below: Self) -> Self;
}

/// The settings of the command line and environment over those of a file, if there is one.
pub fn with_file<S: Layer>(above: S, file: Option<&Path>) -> Result<S, CliError> {
    let Some(file) = file else {
        return Ok(above);
    };
    let text = std::fs::read_to_string(file).map_err(CliError::io(file))?;
    let below = toml::from_str(&text).map_err(|error| CliError::BadFile {
        path: file.to_owned(),
        detail: error.to_string().trim_end().to_owned(),
    })?;
    Ok(above.over(below))
}

/// A list where the upper one wins as a whole.
pub fn list<T>(above: Vec<T>, below: Vec<T>) -> Vec<T> {
    if above.is_empty() { below } else { above }
}
