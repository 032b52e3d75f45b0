//! Map epochs only grow: what a process publishes, and what a client routes by; and one epoch is one map.
//!
//! (A process that was restarted may begin with an older map than its predecessor had, because it applies its log anew:
//! that is why a client never takes an older one.)

use std::collections::BTreeMap;
use std::sync::Arc;

use mira_node::meta::{ClusterState, CollectionChanges};
use mira_proto::NodeId;

/// Maps seen.
#[derive(Default)]
pub struct MapEpochs {
    newest: BTreeMap<(NodeId, u64), u64>,
    maps: BTreeMap<u64, ClusterState>,
}

impl MapEpochs {
    /// A process (node and life) published this map; a client counts as a process.
    pub fn seen(&mut self, process: (NodeId, u64), map: &Arc<ClusterState>) -> Result<(), String> {
        let epoch = map.header.epoch;
        let newest = self.newest.entry(process).or_default();
        if epoch < *newest {
            return Err(format!("life {} of node {} went back from epoch {newest} to {epoch}", process.1, process.0));
        }
        *newest = epoch;
        // What a process remembers of changes is its own.
        let map = ClusterState { changes: CollectionChanges::default(), ..ClusterState::clone(map) };
        if *self.maps.entry(epoch).or_insert_with(|| map.clone()) == map {
            Ok(())
        } else {
            Err(format!("there are two maps of epoch {epoch}"))
        }
    }
}
