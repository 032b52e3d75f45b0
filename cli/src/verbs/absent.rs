//! A verb that this build does not have, because a feature was switched off when it was made.

use clap::Args;

use crate::error::CliError;

/// Whatever follows the verb.
#[derive(Debug, Args)]
#[command(disable_help_flag = true)]
pub struct Absent {
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    words: Vec<String>,
}

impl Absent {
    /// Refuses the verb, with the feature that it needs.
    pub fn refuse(self, verb: &str, feature: &'static str) -> Result<(), CliError> {
        let said = [&["mira".to_owned(), verb.to_owned()][..], &self.words].concat().join(" ");
        Err(CliError::NotBuilt { what: format!("`{said}`"), feature })
    }
}
