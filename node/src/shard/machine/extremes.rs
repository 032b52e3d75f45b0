//! No command, whatever its fields hold, may end a replica: it would end all of them, and again after every start.

use std::sync::Arc;
use std::time::Duration;

use mira_raft::{
    Group, HostConfig, ProposeError, RaftHost, StateReader, engine::MemEngine, transport::local::LocalNetwork,
};
use mira_testing::extremes;

use super::{Change, Follower, ShardMachine};
use crate::shard::command::ShardCommand;

struct Nobody;

impl Follower for Nobody {
    fn changed(&self, _: Vec<Change>, _: u64) {}
    fn replaced(&self, _: StateReader, _: u64) {}
}

/// A group of one.
async fn group() -> (Arc<RaftHost>, Group) {
    let network: LocalNetwork = LocalNetwork::default();
    let engine = || Arc::new(MemEngine::new());
    let host = RaftHost::open(HostConfig::new(1, engine(), engine(), network.transport(1))).await.unwrap();
    let group = host.open_group(1, Arc::new(ShardMachine::new(Arc::new(Nobody), Arc::default()))).await.unwrap();
    group.initialize([1].into()).await.unwrap();
    group.watch().wait_for(Duration::from_secs(60), |status| status.is_leader()).await.unwrap();
    (host, group)
}

#[tokio::test]
async fn no_command_at_any_extreme_of_its_fields_stops_a_shard() {
    let (_host, group) = group().await;
    let mut answered = 0;
    for seed in 0..6_000 {
        let Some(command) = extremes::draw::<ShardCommand>(seed) else { continue };
        match group.propose(None, command.encode()).await {
            Ok(_) => answered += 1,
            Err(error @ ProposeError::TooLarge { .. }) => drop(error),
            Err(error) => panic!("seed {seed}: {error}: {command:?}"),
        }
    }
    assert!(answered > 5_000, "{answered} commands were drawn");
}
