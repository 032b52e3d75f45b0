//! `mira completions`: words that a shell can complete.

use clap::{Args, CommandFactory};
use clap_complete::Shell;

use crate::error::CliError;
use crate::output;
use crate::verbs::Cli;

/// Print a completion script for a shell
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  mira completions bash > ~/.local/share/bash-completion/completions/mira
  mira completions zsh > ~/.zfunc/_mira
  mira completions fish > ~/.config/fish/completions/mira.fish")]
pub struct Completions {
    /// Which shell
    shell: Shell,
}

impl Completions {
    /// Prints the script.
    pub fn run(self) -> Result<(), CliError> {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut Cli::command(), "mira", &mut script);
        output::print(&String::from_utf8_lossy(&script))
    }
}
