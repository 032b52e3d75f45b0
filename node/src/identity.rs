//! Who this node is: an id made once, and the cluster it belongs to, kept in a small file of the data folder.
//!
//! A folder without the file is a new node, whatever address it runs under: an emptied disk never votes with a memory
//! it no longer has.

use std::{
    fs, io,
    io::Write,
    path::{Path, PathBuf},
};

use mira_proto::NodeId;
use serde::{Deserialize, Serialize};

const FILE: &str = "identity.json";
const FORMAT: u32 = 1;

/// The contents of `identity.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Identity {
    format: u32,
    /// Made once, at random; never 0.
    pub node_id: NodeId,
    /// The cluster it joined; 0 = none yet.
    #[serde(with = "cluster_id")]
    pub cluster_id: u128,
}

/// Why the identity cannot be read or kept.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// The file system refused.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What it said.
        source: io::Error,
    },
    /// The file is not what this build writes; it must not be guessed at.
    #[error("{path} is damaged ({why}); restore it, or empty the data folder to rejoin as a new node")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// The file was written by a newer build.
    #[error("{path} has format {found}, this build knows {FORMAT}; run a newer build")]
    UnknownVersion {
        /// The file.
        path: PathBuf,
        /// Its format.
        found: u32,
    },
}

impl Identity {
    /// Reads the identity of a data folder, or makes one with `new_id` in a folder that has none.
    pub fn load_or_create(folder: &Path, new_id: impl FnOnce() -> NodeId) -> Result<Self, IdentityError> {
        let path = folder.join(FILE);
        match fs::read(&path) {
            Ok(bytes) => {
                let identity: Identity = serde_json::from_slice(&bytes)
                    .map_err(|error| IdentityError::Damaged { path: path.clone(), why: error.to_string() })?;
                if identity.format != FORMAT {
                    return Err(IdentityError::UnknownVersion { path, found: identity.format });
                }
                Ok(identity)
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Identity::renew(folder, new_id),
            Err(source) => Err(IdentityError::Io { path, source }),
        }
    }

    /// Makes a new identity in place of one whose data is lost.
    pub fn renew(folder: &Path, new_id: impl FnOnce() -> NodeId) -> Result<Self, IdentityError> {
        let identity = Identity { format: FORMAT, node_id: new_id(), cluster_id: 0 };
        identity.save(folder)?;
        Ok(identity)
    }

    /// Keeps the identity: written beside, synced, renamed over, so that a crash leaves the old file or the new one.
    pub fn save(&self, folder: &Path) -> Result<(), IdentityError> {
        let path = folder.join(FILE);
        let write = || -> io::Result<()> {
            let beside = folder.join("identity.json.new");
            let mut file = fs::File::create(&beside)?;
            file.write_all(serde_json::to_string_pretty(self)?.as_bytes())?;
            file.sync_all()?;
            fs::rename(&beside, &path)?;
            fs::File::open(folder)?.sync_all()
        };
        write().map_err(|source| IdentityError::Io { path: path.clone(), source })
    }
}

/// Cluster ids as UUID text, empty for none.
mod cluster_id {
    use serde::{Deserialize, Deserializer, Serializer};

    pub fn serialize<S: Serializer>(id: &u128, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&crate::meta::state::cluster_id_text(*id))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u128, D::Error> {
        let text = String::deserialize(deserializer)?;
        if text.is_empty() {
            return Ok(0);
        }
        uuid::Uuid::parse_str(&text).map(|id| id.as_u128()).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identity_is_made_once_and_kept() {
        let folder = tempfile::tempdir().unwrap();
        let mut first = Identity::load_or_create(folder.path(), || 77).unwrap();
        first.cluster_id = 5;
        first.save(folder.path()).unwrap();
        assert_eq!(Identity::load_or_create(folder.path(), || unreachable!()).unwrap(), first);
    }

    #[test]
    fn a_damaged_or_newer_file_is_not_overwritten() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(FILE);
        let files: [(&[u8], bool); 3] =
            [(br#"{"format": 1"#, false), (b"\xff{}", false), (br#"{"format":9,"node_id":1,"cluster_id":""}"#, true)];
        for (bytes, newer) in files {
            fs::write(&path, bytes).unwrap();
            let error = Identity::load_or_create(folder.path(), || 1).unwrap_err();
            assert_eq!(matches!(error, IdentityError::UnknownVersion { .. }), newer, "{error}");
            assert_eq!(fs::read(&path).unwrap(), bytes);
        }
    }
}
