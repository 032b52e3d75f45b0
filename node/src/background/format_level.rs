//! Switching format levels on: once every node of the cluster knows a level, its meta leader has it written.
//!
//! So a cluster is updated node by node: as long as one runs the release before, everybody writes what that one reads, and
//! any of them may go back. When the last one has said that it knows more, the level goes up, and does not go back: a node
//! of the release before is not let in any more, and does not start.

use std::{sync::Arc, time::Duration};

use crate::{
    background::{Job, Tick},
    meta::{ClusterState, MetaCommand},
    node::Node,
};

/// Between two looks at a cluster that does not change.
pub const EVERY: Duration = Duration::from_secs(10);

/// Raises the cluster's format level, where this node leads the meta group.
pub struct FormatLevelJob(pub Arc<Node>);

impl Job for FormatLevelJob {
    async fn tick(&mut self) -> Tick {
        let mut tick = Tick::default();
        if let Some(level) = next_level(&self.0.cluster())
            && self.0.meta().status().is_leader()
        {
            match self.0.propose_meta(&MetaCommand::RaiseFormat(level)).await {
                Ok(answer) => tracing::info!(level, ?answer, "format level"),
                Err(refusal) => {
                    tracing::debug!(level, %refusal, "the format level goes up later");
                    tick.failures += 1;
                }
            }
        }
        tick
    }
}

/// The level that every node knows, if it is higher than the one that is switched on.
fn next_level(cluster: &ClusterState) -> Option<u32> {
    cluster.nodes.values().map(|node| node.format).min().filter(|&level| level > cluster.header.format)
}
