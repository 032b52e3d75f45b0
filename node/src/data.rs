//! The data folder of a node: its identity, its two engines, and what becomes of them when the log is lost.
//!
//! A node whose log is gone has forgotten votes that it gave and entries that it acknowledged, so it must not go on under
//! its old id. It gets a new one, and what is left of its state is moved out of the way.

use std::{fs, io, path::Path};

use mira_proto::NodeId;
use mira_raft::engine::{EngineOptions, EngineRole, RocksEngine};

use crate::{
    config::{Formation, NodeConfig},
    error::StartError,
    identity::Identity,
    meta::META_GROUP,
};

/// What is opened of a data folder before anything else.
pub struct DataFolder {
    /// Who the node is.
    pub identity: Identity,
    /// The log of all groups.
    pub log: RocksEngine,
    /// The state of all groups.
    pub state: RocksEngine,
}

impl DataFolder {
    /// Opens the folder, or makes it.
    ///
    /// # Errors
    /// See [`StartError`]; among them a lost log of a node that is told to make a new cluster.
    pub fn open(config: &NodeConfig) -> Result<Self, StartError> {
        let data_error = |source| StartError::Data { path: config.data.display().to_string(), source };
        fs::create_dir_all(&config.data).map_err(data_error)?;
        let identity = Identity::load_or_create(&config.data, new_node_id)?;
        let folder = DataFolder::with_engines(config, identity)?;
        if !folder.has_lost_log()? {
            return Ok(folder);
        }
        let lost = folder.identity.node_id;
        if matches!(config.formation, Formation::Bootstrap(_)) {
            return Err(StartError::LostLog(lost));
        }
        tracing::error!(node = %format_args!("{lost:016x}"), "this node's log is gone: it joins as a new node");
        drop(folder);
        // The new identity first: a crash before the rest finds state without its log again, under another name.
        let identity = Identity::renew(&config.data, new_node_id)?;
        isolate(&config.data, lost).map_err(data_error)?;
        DataFolder::with_engines(config, identity)
    }

    fn with_engines(config: &NodeConfig, identity: Identity) -> Result<Self, StartError> {
        let options = |role| EngineOptions { open_files: config.engine_files, ..EngineOptions::new(role) };
        let state_options = EngineOptions { cache_bytes: config.cache_bytes, ..options(EngineRole::State) };
        Ok(DataFolder {
            identity,
            log: RocksEngine::open(&config.data.join("log"), options(EngineRole::Log))?,
            state: RocksEngine::open(&config.data.join("state"), state_options)?,
        })
    }

    /// Whether votes that this node gave, or entries it acknowledged, are gone.
    fn has_lost_log(&self) -> Result<bool, StartError> {
        let expected = (self.identity.cluster_id != 0).then_some(META_GROUP);
        Ok(mira_raft::has_lost_log(&self.log, &self.state, expected)?)
    }
}

fn new_node_id() -> NodeId {
    rand::random_range(1..=u64::MAX)
}

/// Ends the names of folders that hold what is left of a lost node.
const ISOLATED: &str = ".lost-";

/// Moves what is left of a lost node's data out of the way; an operator may look at it, and remove it.
fn isolate(data: &Path, lost: NodeId) -> io::Result<()> {
    for name in ["log", "state"] {
        fs::rename(data.join(name), data.join(format!("{name}{ISOLATED}{lost:016x}")))?;
    }
    Ok(())
}

/// The name of a folder with data of a lost node, if there is one.
pub fn isolated(data: &Path) -> io::Result<Option<String>> {
    let names = fs::read_dir(data)?.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned());
    Ok(names.into_iter().find(|name| name.contains(ISOLATED)))
}
