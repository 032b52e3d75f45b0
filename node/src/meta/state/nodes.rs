//! Records of nodes, and of replicas on their way from one node to another.

use mira_proto::{NodeId, ShardId, node_v1};
use serde::{Deserialize, Serialize};

/// A storage node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeRecord {
    /// Its id for life.
    pub id: NodeId,
    /// host:port of its gRPC.
    pub address: String,
    /// host:port of its HTTP.
    pub http_address: String,
    /// Failure domain; empty = none named.
    pub zone: String,
    /// Build that it runs.
    pub version: String,
    /// The highest format level that the build knows.
    pub format: u32,
}

/// What a node is to the placement of shards. A node without a record of it is active on a seat of its own: those that
/// were there when the shards were placed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum NodePhase {
    /// It has joined and holds nothing until it is added.
    Standby,
    /// It holds replicas, at this place of the hash ring.
    Active {
        /// Its own id, or that of the node it replaced.
        ring: u64,
    },
    /// Its replicas move away.
    Draining,
    /// It is gone for good; its replicas move to others without its help.
    Lost,
}

/// One replica of a shard on its way. There is at most one for each shard, and every step is safe to repeat, so
/// whatever crashes, the move goes on where it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Move {
    /// Whose replica goes; none when the shard gets one more; `to` itself when a damaged replica is rebuilt.
    pub from: Option<NodeId>,
    /// Who gets one.
    pub to: NodeId,
    /// How far it has come.
    pub step: MoveStep,
}

/// The steps of a move. A plain move begins with the last one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum MoveStep {
    /// The damaged replica leaves its group, so that its lost memory can never vote; of a move that was given up, the target
    /// does, and then it is over.
    Leaving,
    /// It has left; its node removes what it has of the shard.
    Clearing,
    /// `to` follows as a learner, is brought up to date, gets its vote, and `from` leaves.
    Joining,
}

impl Move {
    /// Whether its target will not come: it leaves the group again.
    pub fn is_given_up(&self) -> bool {
        self.step == MoveStep::Leaving && self.from != Some(self.to)
    }

    /// As routers and peers see it.
    pub fn to_wire(self, shard: ShardId) -> node_v1::Move {
        let step = match self.step {
            MoveStep::Leaving => node_v1::MoveStep::Leaving,
            MoveStep::Clearing => node_v1::MoveStep::Clearing,
            MoveStep::Joining => node_v1::MoveStep::Joining,
        };
        node_v1::Move { shard, from: self.from.unwrap_or_default(), to: self.to, step: step.into() }
    }
}

impl NodeRecord {
    /// As routers and peers see it.
    pub fn to_wire(&self) -> node_v1::NodeInfo {
        node_v1::NodeInfo {
            id: self.id,
            address: self.address.clone(),
            http_address: self.http_address.clone(),
            zone: self.zone.clone(),
            version: self.version.clone(),
            phase: node_v1::NodePhase::Unspecified.into(),
            format: self.format,
        }
    }
}

impl From<node_v1::NodeInfo> for NodeRecord {
    fn from(info: node_v1::NodeInfo) -> Self {
        NodeRecord {
            id: info.id,
            address: info.address,
            http_address: info.http_address,
            zone: info.zone,
            version: info.version,
            format: info.format,
        }
    }
}
