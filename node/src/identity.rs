//! Who this node is: an id made once, and the cluster it belongs to, kept in a small file of the data folder.
//!
//! A folder without the file is a new node, whatever address it runs under: an emptied disk never votes with a memory
//! it no longer has. A file that is half written or was altered is not believed either: it carries a checksum of what it
//! says, because one wrong digit would be another node's vote.

use std::{
    fs, io,
    io::Write,
    path::{Path, PathBuf},
};

use mira_proto::NodeId;
use serde::{Deserialize, Serialize};

const FILE: &str = "identity.json";
const FORMAT: u32 = 1;

/// Who a node is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// Made once, at random; never 0.
    pub node_id: NodeId,
    /// The cluster it joined; 0 = none yet.
    pub cluster_id: u128,
    /// Replicas that cluster keeps of each shard, as far as the node has heard; 0 = it has not. What this node may give up
    /// of its own data when it is damaged depends on it, and is decided before anything else can be read.
    pub replication: u32,
}

/// The contents of `identity.json`.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StoredIdentity {
    format: u32,
    node_id: NodeId,
    #[serde(with = "cluster_id")]
    cluster_id: u128,
    replication: u32,
    /// BLAKE3 over the numbers above, big-endian and in their order: the first 16 hex digits.
    checksum: String,
}

/// What tells a file of another format from a damaged one.
#[derive(Deserialize)]
struct Format {
    format: u32,
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
            Ok(bytes) => Identity::parse(&bytes, &path),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Identity::renew(folder, new_id),
            Err(source) => Err(IdentityError::Io { path, source }),
        }
    }

    fn parse(bytes: &[u8], path: &Path) -> Result<Self, IdentityError> {
        let damaged = |why: String| IdentityError::Damaged { path: path.to_owned(), why };
        let Format { format } = serde_json::from_slice(bytes).map_err(|error| damaged(error.to_string()))?;
        if format != FORMAT {
            return Err(IdentityError::UnknownVersion { path: path.to_owned(), found: format });
        }
        let stored: StoredIdentity = serde_json::from_slice(bytes).map_err(|error| damaged(error.to_string()))?;
        let identity =
            Identity { node_id: stored.node_id, cluster_id: stored.cluster_id, replication: stored.replication };
        if stored.checksum != identity.checksum() || identity.node_id == 0 {
            return Err(damaged("its checksum does not fit".into()));
        }
        Ok(identity)
    }

    fn checksum(&self) -> String {
        let mut hasher = blake3::Hasher::new_derive_key("mira 2026 node identity");
        hasher.update(&FORMAT.to_be_bytes()).update(&self.node_id.to_be_bytes()).update(&self.cluster_id.to_be_bytes());
        hasher.update(&self.replication.to_be_bytes());
        hasher.finalize().to_hex()[..16].to_owned()
    }

    /// Makes a new identity in place of one whose data is lost.
    pub fn renew(folder: &Path, new_id: impl FnOnce() -> NodeId) -> Result<Self, IdentityError> {
        let identity = Identity { node_id: new_id(), cluster_id: 0, replication: 0 };
        identity.save(folder)?;
        Ok(identity)
    }

    /// Keeps the identity: written beside, synced, renamed over, so that a crash leaves the old file or the new one.
    pub fn save(&self, folder: &Path) -> Result<(), IdentityError> {
        let path = folder.join(FILE);
        let write = || -> io::Result<()> {
            let beside = folder.join("identity.json.new");
            let mut file = fs::File::create(&beside)?;
            let Identity { node_id, cluster_id, replication } = *self;
            let stored = StoredIdentity { format: FORMAT, node_id, cluster_id, replication, checksum: self.checksum() };
            file.write_all(serde_json::to_string_pretty(&stored)?.as_bytes())?;
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

    /// Every file of a folder's past that a crash or a disk may have left: cut anywhere, or with one byte altered.
    #[test]
    fn a_half_written_or_altered_file_is_damaged_and_says_so() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(FILE);
        let identity = Identity { node_id: 77, cluster_id: 5, replication: 3 };
        identity.save(folder.path()).unwrap();
        let good = fs::read(&path).unwrap();
        assert_eq!(Identity::parse(&good, &path).unwrap(), identity);
        let refused = |bytes: &[u8], what: &str| match Identity::parse(bytes, &path) {
            Err(IdentityError::Damaged { .. } | IdentityError::UnknownVersion { .. }) => {}
            // White space may change without changing what the file says.
            Ok(same) => assert!(same == identity && what.starts_with("byte"), "{what}"),
            Err(other) => panic!("{what}: {other}"),
        };
        (0..good.len()).for_each(|length| refused(&good[..length], "cut"));
        for at in 0..good.len() {
            for flip in [0x01, 0x10, 0x80] {
                let mut altered = good.clone();
                altered[at] ^= flip;
                refused(&altered, &format!("byte {at}"));
            }
        }
        let other_node = String::from_utf8(good).unwrap().replace("77", "78");
        assert!(matches!(Identity::parse(other_node.as_bytes(), &path), Err(IdentityError::Damaged { .. })));
    }
}
