//! How many files and connections a process may have open at once.
//!
//! Connections of strangers and files of the storage engine come out of one number. So a program adds up what its settings
//! need, has the system allow that much, and does not start with less: then no number of connections takes a file from the
//! engine.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::server::ServerSettings;

/// Descriptors of a program beside its listeners' connections and its engines' files: its libraries, log, runtime, and the
/// connections that it makes itself.
pub const OWN_DESCRIPTORS: u64 = 256;

/// Why a program does not start.
#[derive(Debug, thiserror::Error)]
pub enum DescriptorsError {
    /// The system allows fewer than the settings need.
    #[error(
        "this program may have {allowed} files and connections open at once (RLIMIT_NOFILE), and its settings need \
         {needed}: allow more (`ulimit -Hn`, LimitNOFILE of systemd, --ulimit nofile of a container) or set fewer \
         connections (--connections)"
    )]
    TooFew {
        /// What the settings need.
        needed: u64,
        /// What the system allows at most.
        allowed: u64,
    },
    /// The system did not raise the limit although it allows so many.
    #[error("the limit of open files (RLIMIT_NOFILE) cannot be raised to {needed}: {source}")]
    NotRaised {
        /// What the settings need.
        needed: u64,
        /// What the system said.
        source: std::io::Error,
    },
}

/// Descriptors that a listener with these settings may take.
pub fn of_listener(settings: &ServerSettings) -> u64 {
    settings.connections as u64 + 1
}

/// Has the process allowed `needed` descriptors, or as many as it has already if those are more. Returns how many it has.
///
/// # Errors
/// When the system allows fewer.
pub fn ensure(needed: u64) -> Result<u64, DescriptorsError> {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let Some(current) = current else { return Ok(u64::MAX) };
    if current >= needed {
        return Ok(current);
    }
    let allowed = maximum.unwrap_or(u64::MAX);
    if allowed < needed {
        return Err(DescriptorsError::TooFew { needed, allowed });
    }
    setrlimit(Resource::Nofile, Rlimit { current: Some(needed), maximum })
        .map_err(|error| DescriptorsError::NotRaised { needed, source: error.into() })?;
    Ok(needed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_than_the_system_allows_is_refused_with_what_to_do() {
        let Some(allowed) = getrlimit(Resource::Nofile).maximum else { return };
        let refused = ensure(allowed + 1).unwrap_err();
        assert!(matches!(refused, DescriptorsError::TooFew { needed, .. } if needed == allowed + 1));
        let text = refused.to_string();
        assert!(text.contains("RLIMIT_NOFILE") && text.contains(&allowed.to_string()), "{text}");
    }

    #[test]
    fn what_is_allowed_is_raised_to_what_is_needed() {
        let Rlimit { current: Some(current), maximum } = getrlimit(Resource::Nofile) else { return };
        assert_eq!(ensure(1).unwrap(), current, "it is never lowered");
        if maximum.is_none_or(|maximum| maximum > current) {
            assert_eq!(ensure(current + 1).unwrap(), current + 1);
            assert_eq!(getrlimit(Resource::Nofile).current, Some(current + 1));
        }
    }
}
