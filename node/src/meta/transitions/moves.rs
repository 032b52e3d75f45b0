//! Transitions of the placement: replicas are placed, move from node to node, and get a preferred leader.

use mira_proto::{NodeId, ShardId};
use mira_raft::EngineError;

use crate::meta::{
    command::MetaAnswer,
    records::{RecordKey, Records},
    state::{ClusterState, Move, MoveStep},
};

/// Decides the replicas of every shard, once.
pub fn place_shards(placement: &Vec<Vec<NodeId>>, records: &mut Records<'_, '_>) -> Result<MetaAnswer, EngineError> {
    if records.has(RecordKey::Placement)? {
        return Ok(MetaAnswer::Exists);
    }
    records.put(RecordKey::Placement, placement);
    Ok(MetaAnswer::Done)
}

/// Starts to move a replica, unless the shard has a move already.
pub fn start(
    shard: ShardId,
    from: Option<NodeId>,
    to: NodeId,
    records: &mut Records<'_, '_>,
) -> Result<MetaAnswer, EngineError> {
    if records.has(RecordKey::Move(shard))? {
        return Ok(MetaAnswer::Exists);
    }
    let placement = records.placement()?;
    let Some(replicas) = placement.get(shard as usize) else { return Ok(MetaAnswer::Missing) };
    let rebuilds = from == Some(to);
    let fits = from.is_none_or(|from| replicas.contains(&from)) && replicas.contains(&to) == rebuilds;
    if !fits || !records.has(RecordKey::Node(to))? {
        return Ok(MetaAnswer::Refused);
    }
    let step = if rebuilds { MoveStep::Leaving } else { MoveStep::Joining };
    records.put(RecordKey::Move(shard), &Move { from, to, step });
    Ok(MetaAnswer::Done)
}

/// A move has come as far as this step.
pub fn step(
    shard: ShardId,
    to: NodeId,
    step: MoveStep,
    records: &mut Records<'_, '_>,
) -> Result<MetaAnswer, EngineError> {
    match records.move_to(shard, to)? {
        Some(found) if found.is_given_up() => {
            // Its target has left the group: nothing of it is left.
            records.delete(RecordKey::Move(shard));
            Ok(MetaAnswer::Done)
        }
        Some(found) if found.step < step => {
            records.put(RecordKey::Move(shard), &Move { step, ..found });
            Ok(MetaAnswer::Done)
        }
        Some(_) => Ok(MetaAnswer::Exists),
        None => Ok(MetaAnswer::Missing),
    }
}

/// A move is done: the placement follows.
pub fn finish(shard: ShardId, to: NodeId, records: &mut Records<'_, '_>) -> Result<MetaAnswer, EngineError> {
    let Some(found) = records.move_to(shard, to)? else { return Ok(MetaAnswer::Missing) };
    if found.step != MoveStep::Joining {
        return Ok(MetaAnswer::Refused);
    }
    let state = ClusterState { placement: records.placement()?, moves: [(shard, found)].into(), ..Default::default() };
    let mut placement = state.placement.clone();
    placement[shard as usize] = state.replicas_after_move(shard);
    records.put(RecordKey::Placement, &placement);
    records.delete(RecordKey::Move(shard));
    Ok(MetaAnswer::Done)
}

/// Gives a move up: its target will not come. It may have a vote already, so it leaves the group first, and keeps what it has
/// until then: a voter that forgets what it promised could help to lose what was acknowledged.
pub fn cancel(shard: ShardId, to: NodeId, records: &mut Records<'_, '_>) -> Result<MetaAnswer, EngineError> {
    match records.move_to(shard, to)? {
        None => return Ok(MetaAnswer::Missing),
        Some(found) if found.is_given_up() => return Ok(MetaAnswer::Exists),
        // It is a replica, whatever becomes of the move.
        Some(found) if found.from == Some(to) => records.delete(RecordKey::Move(shard)),
        Some(found) => records.put(RecordKey::Move(shard), &Move { step: MoveStep::Leaving, ..found }),
    }
    Ok(MetaAnswer::Done)
}

/// Names the preferred leader of every shard; one that is no replica is passed over.
pub fn prefer_leaders(leaders: &[NodeId], records: &mut Records<'_, '_>) -> Result<MetaAnswer, EngineError> {
    let mut placement = records.placement()?;
    for (replicas, leader) in placement.iter_mut().zip(leaders) {
        if let Some(at) = replicas.iter().position(|node| node == leader) {
            replicas.swap(0, at);
        }
    }
    records.put(RecordKey::Placement, &placement);
    Ok(MetaAnswer::Done)
}

/// Forbids or allows moves other than those that repair damage.
pub fn pause(paused: bool, records: &mut Records<'_, '_>) -> MetaAnswer {
    records.put(RecordKey::MovesPaused, &paused);
    MetaAnswer::Done
}
