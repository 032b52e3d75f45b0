//! Why groups stopped, for those who decide what to do about it.
//!
//! The consensus library stops a group when its log or state fails, and keeps words only. A failure that passes (no file
//! could be opened, the disk was full) calls for opening the group again where it was; any other one does not.

use std::collections::BTreeMap;
use std::io;

use parking_lot::Mutex;

use crate::engine::EngineError;
use crate::types::GroupId;

/// What went wrong on a node since its groups were opened.
#[derive(Debug, Default)]
pub(crate) struct Failures {
    /// The log of all groups takes nothing any more.
    log: Mutex<Option<EngineError>>,
    groups: Mutex<BTreeMap<GroupId, EngineError>>,
}

impl Failures {
    /// Notes what stops a group, and says it as the library wants to hear it.
    pub(crate) fn of_group(&self, group: GroupId, error: EngineError) -> io::Error {
        self.groups.lock().insert(group, error.clone());
        io_error(error)
    }

    /// Notes what ends the log.
    pub(crate) fn of_log(&self, error: EngineError) {
        *self.log.lock() = Some(error);
    }

    /// What ended the log.
    pub(crate) fn log(&self) -> Option<EngineError> {
        self.log.lock().clone()
    }

    /// Whether what stopped a group passes.
    pub(crate) fn is_passing(&self, group: GroupId) -> bool {
        match self.log() {
            Some(error) => error.is_passing(),
            None => self.groups.lock().get(&group).is_some_and(EngineError::is_passing),
        }
    }

    /// The log takes requests again.
    pub(crate) fn log_is_back(&self) {
        *self.log.lock() = None;
    }

    /// A group is opened again.
    pub(crate) fn group_is_back(&self, group: GroupId) {
        self.groups.lock().remove(&group);
    }
}

pub(crate) fn io_error(error: EngineError) -> io::Error {
    let kind = match &error {
        EngineError::DiskFull(_) => io::ErrorKind::StorageFull,
        EngineError::Damaged(_) => io::ErrorKind::InvalidData,
        EngineError::NoFile(_) | EngineError::Io(_) => io::ErrorKind::Other,
    };
    io::Error::new(kind, error)
}
