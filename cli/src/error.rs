//! Why a verb failed, with the exit code and the line that a person reads.

use std::path::PathBuf;
use std::process::ExitCode;

use mira_proto::Problem;

/// Everything that can go wrong in the program.
#[derive(Debug, thiserror::Error)]
pub enum CliError {
    /// The arguments do not make sense together; the caller must write the command differently.
    #[error("{0}")]
    Usage(String),
    /// The cluster refused; the code says what to do.
    #[error("{}", .0.detail)]
    Problem(#[from] Problem),
    /// No router answered within the time given.
    #[error(
        "no answer from {url}: {cause}; is a router running there? (`mira dev` starts one, MIRA_URL names another)"
    )]
    Unreachable {
        /// Whom we asked.
        url: String,
        /// The innermost cause of the last try.
        cause: String,
    },
    /// Something answered that does not speak MIRA's API.
    #[error("{url} answered {status} but not as a MIRA router does: {start}")]
    NotMira {
        /// Whom we asked.
        url: String,
        /// The HTTP status.
        status: u16,
        /// What was wrong with the body, or its first characters.
        start: String,
    },
    /// A file or stream could not be read or written.
    #[error("{path}: {source}", path = path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A file does not hold what it should.
    #[error("{path}: {detail}", path = path.display())]
    BadFile {
        /// The file.
        path: PathBuf,
        /// What is wrong with it, and what to do.
        detail: String,
    },
    /// A verification found replicas that do not hold the same, or could not ask all of them.
    #[error("{unsound} of {seen} shards are not sound")]
    Unsound {
        /// Shards that are not sound.
        unsound: usize,
        /// Shards that were verified.
        seen: usize,
    },
    /// An import went through, but not with every record.
    #[error("{refused} of {seen} records were refused; each is named above")]
    Refused {
        /// Records that were refused.
        refused: u64,
        /// Records that were read.
        seen: u64,
    },
    /// A batch of searches went through, but not every one was answered.
    #[error("{refused} of {seen} searches were refused; each says why above")]
    SearchesRefused {
        /// Searches that were refused.
        refused: u64,
        /// Searches that were sent.
        seen: u64,
    },
    /// The build lacks what was asked for.
    #[error("{what} is not in this build of mira, which was made without the feature `{feature}`")]
    #[cfg(not(all(feature = "server", feature = "bench", feature = "backup", feature = "parquet")))]
    NotBuilt {
        /// The verb or format.
        what: String,
        /// The feature that has it.
        feature: &'static str,
    },
    /// A server could not start.
    #[cfg(feature = "server")]
    #[error("{0}")]
    Start(String),
    /// There is no figure, because something did not work.
    #[cfg(feature = "bench")]
    #[error("{0}")]
    NoFigure(mira_benches::BenchError),
    /// The person said no, or stopped the work.
    #[error("{0}")]
    Stopped(String),
}

impl CliError {
    /// Wraps an I/O error with the file it concerns.
    pub fn io(path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> CliError {
        let path = path.into();
        move |source| CliError::Io { path, source }
    }

    /// Wraps what a server's crate says about its start.
    #[cfg(feature = "server")]
    pub fn start(error: impl std::error::Error) -> CliError {
        CliError::Start(error.to_string())
    }

    /// Wraps what a measurement says.
    #[cfg(feature = "bench")]
    pub fn bench(error: mira_benches::BenchError) -> CliError {
        CliError::NoFigure(error)
    }

    /// 2 for wrong usage, 1 for everything else.
    pub fn exit_code(&self) -> ExitCode {
        ExitCode::from(match self {
            CliError::Usage(_) => 2,
            #[cfg(not(all(feature = "server", feature = "bench", feature = "backup", feature = "parquet")))]
            CliError::NotBuilt { .. } => 2,
            _ => 1,
        })
    }

    /// The line for standard error: `error[code]: detail`, coloured on a terminal only.
    pub fn render(&self) -> String {
        let label = match self {
            CliError::Problem(problem) => format!("error[{}]:", problem.code),
            _ => "error:".to_owned(),
        };
        format!("{} {self}", console::style(label).red().bold().for_stderr())
    }
}
