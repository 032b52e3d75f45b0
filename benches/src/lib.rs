//! Measuring MIRA from outside: load, latencies, and reports that say what they were measured on.
//!
//! - [`caller`]: one client of a router over gRPC, with the default retries of a client; [`mcp`]: one over MCP;
//!   [`rest`]: one over REST, without retries;
//! - [`load`]: many callers at once, their latencies and their failures;
//! - [`machine`]: what it all ran on, and what its disk can do;
//! - [`input`]: real [`texts`] and [`vectors`], from this machine or a folder;
//! - [`suite`]: the measurements, one file each, on any running cluster;
//! - [`report`]: figures beside the goals of SPEC section 5, as JSON and Markdown; [`page`]: as HTML, with [`chart`]s.
//!
//! Nothing here starts a cluster. `benches/cluster` does, with processes that it can kill; `mira benchmark` asks the one
//! it is told. A figure from a run with a failed operation is not a figure: every measurement fails instead.

pub mod caller;
pub mod chart;
pub mod input;
pub mod load;
pub mod machine;
pub mod mcp;
pub mod page;
pub mod report;
pub mod rest;
pub mod servers;
pub mod suite;
pub mod texts;
pub mod vectors;

mod numbers;

use std::path::PathBuf;

/// Why there is no figure.
#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    /// The cluster refused or did not answer, after the retries of a client.
    #[error("{what}: {problem}")]
    Refused {
        /// What was asked.
        what: String,
        /// The answer.
        problem: mira_proto::Problem,
    },
    /// The cluster answered, but not what it must.
    #[error("{0}")]
    Wrong(String),
    /// Something did not come to pass in time.
    #[error("not in time: {0}")]
    Late(String),
    /// A file could not be read or written.
    #[error("{path}: {source}", path = path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Input that cannot be used.
    #[error("{0}")]
    Input(String),
}

impl BenchError {
    /// Wraps an I/O error with the file it concerns.
    pub fn io(path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> BenchError {
        let path = path.into();
        move |source| BenchError::Io { path, source }
    }

    /// Wraps a problem with what was asked.
    pub fn refused(what: impl Into<String>) -> impl FnOnce(mira_proto::Problem) -> BenchError {
        let what = what.into();
        move |problem| BenchError::Refused { what, problem }
    }
}
