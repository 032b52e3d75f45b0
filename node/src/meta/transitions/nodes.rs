//! Transitions of the cluster's nodes: the first one forms it, others come, change what they are to the placement, and go.

use mira_proto::{FORMAT_LEVEL, NodeId};
use mira_raft::EngineError;

use crate::{
    keys::keyring::FIRST_KEY,
    meta::{
        command::MetaAnswer,
        records::{RecordKey, Records},
        state::{ClusterHeader, NameKey, NodePhase, NodeRecord},
    },
};

/// Identity and shape of a cluster that is formed.
pub struct NewCluster {
    /// Random.
    pub cluster_id: u128,
    /// Number of shards, for ever.
    pub shards: u32,
    /// Replicas of each shard.
    pub replication: u32,
    /// Nodes to wait for before shards are placed.
    pub expect: u32,
    /// The first key of private frames' outermost layer, wrapped.
    pub layer_key: Vec<u8>,
    /// Keys the names that records lie under.
    pub name_key: NameKey,
}

/// Gives the cluster its identity, once.
pub fn form(new: NewCluster, records: &mut Records<'_, '_>) -> MetaAnswer {
    if records.header.cluster_id != 0 {
        return MetaAnswer::Exists;
    }
    let NewCluster { cluster_id, shards, replication, expect, layer_key, name_key } = new;
    let layer_keys = [(FIRST_KEY, layer_key)].into();
    records.put(RecordKey::NameKey, &name_key);
    records.header = ClusterHeader {
        cluster_id,
        epoch: 0,
        shards,
        replication,
        expect,
        format: FORMAT_LEVEL,
        layer_keys,
        collections: 0,
    };
    MetaAnswer::Done
}

/// Adds a node, or renews its addresses. One whose build does not know the formats that are written stays out.
pub fn put_node(node: &NodeRecord, records: &mut Records<'_, '_>) -> Result<MetaAnswer, EngineError> {
    if records.has(RecordKey::Removed(node.id))? || node.format < records.header.format {
        return Ok(MetaAnswer::Refused);
    }
    let key = RecordKey::Node(node.id);
    let known: Option<NodeRecord> = records.get(key)?;
    if known.as_ref() == Some(node) {
        return Ok(MetaAnswer::Exists);
    }
    // Who comes after the shards were placed holds none until an operator says so.
    if known.is_none() && records.has(RecordKey::Placement)? {
        records.put(RecordKey::Phase(node.id), &NodePhase::Standby);
    }
    records.put(key, node);
    Ok(MetaAnswer::Done)
}

/// Says what nodes are to the placement, all at once.
pub fn set_phases(phases: &[(NodeId, NodePhase)], records: &mut Records<'_, '_>) -> Result<MetaAnswer, EngineError> {
    for (node, _) in phases {
        if !records.has(RecordKey::Node(*node))? {
            return Ok(MetaAnswer::Missing);
        }
    }
    for (node, phase) in phases {
        records.put(RecordKey::Phase(*node), phase);
    }
    Ok(MetaAnswer::Done)
}

/// Switches a format level on, if every node knows it; levels do not go back.
pub fn raise_format(level: u32, records: &mut Records<'_, '_>) -> Result<MetaAnswer, EngineError> {
    if level <= records.header.format {
        return Ok(MetaAnswer::Exists);
    }
    if records.nodes()?.values().any(|node| node.format < level) {
        return Ok(MetaAnswer::Refused);
    }
    records.header.format = level;
    Ok(MetaAnswer::Done)
}

/// Removes a node that holds nothing, for good.
pub fn remove_node(node: NodeId, records: &mut Records<'_, '_>) -> Result<MetaAnswer, EngineError> {
    if !records.has(RecordKey::Node(node))? {
        return Ok(MetaAnswer::Missing);
    }
    let holds = records.placement()?.iter().any(|replicas| replicas.contains(&node));
    if holds || records.moves()?.values().any(|found| found.to == node || found.from == Some(node)) {
        return Ok(MetaAnswer::Refused);
    }
    records.delete(RecordKey::Node(node));
    records.delete(RecordKey::Phase(node));
    records.put(RecordKey::Removed(node), &());
    Ok(MetaAnswer::Done)
}
