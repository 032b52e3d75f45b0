//! Messages of strangers, and of a term that nobody can have.

use std::sync::Arc;
use std::time::Duration;

use openraft::raft::VoteRequest;

use crate::engine::MemEngine;
use crate::tests::library_suite::Journal;
use crate::transport::local::LocalNetwork;
use crate::types::{Types, Vote};
use crate::wire::{self, Append, Kind, Status};
use crate::{HostConfig, RaftHost, TokioRuntime};

const GROUP: u32 = 3;
const STRANGER: u64 = 99;
/// No member yet as the group knows it, and meant to be one.
const NEWCOMER: u64 = 2;

#[tokio::test]
async fn strangers_and_terms_that_leap_are_refused_before_anything_changes() {
    let network: LocalNetwork = LocalNetwork::new();
    let engine = || Arc::new(MemEngine::new());
    let members = Arc::new(|_, node| node == NEWCOMER);
    let config = HostConfig { members, ..HostConfig::new(1, engine(), engine(), network.transport(1)) };
    let host: Arc<RaftHost> = RaftHost::open(config).await.unwrap();
    let group = host.open_group(GROUP, Arc::new(Journal)).await.unwrap();
    group.initialize([1].into()).await.unwrap();
    group.watch().wait_for(Duration::from_secs(60), |status| status.is_leader()).await.unwrap();
    let term = group.status().term;

    let refused = async |vote: Vote| {
        let asked: VoteRequest<Types<TokioRuntime>> = VoteRequest::new(vote, None);
        let asked = crate::codec::to_postcard(&asked);
        let vote = Vote::new_committed(vote.leader_id.term, vote.leader_id.node_id);
        let append = Append { vote, prev: None, commit: None, quorum_age: Duration::ZERO, entries: Vec::new() };
        let messages = [
            wire::request(Kind::PreVote, GROUP, &asked).freeze(),
            wire::request(Kind::Vote, GROUP, &asked).freeze(),
            wire::encode_append(GROUP, &append),
        ];
        let mut refused = Vec::new();
        for message in messages {
            refused.push(match wire::parse_reply(host.handle(message).await) {
                Ok(_) => false,
                Err(refusal) => matches!(refusal.status, Status::Malformed),
            });
        }
        refused
    };
    assert_eq!(refused(Vote::new(term + 1, STRANGER)).await, [true; 3]);
    assert_eq!(refused(Vote::new(u64::MAX, NEWCOMER)).await, [true; 3]);
    assert_eq!(refused(Vote::new(u64::MAX, 1)).await, [true; 3]);
    let status = group.status();
    assert_eq!((status.term, status.is_leader()), (term, true), "nothing changed");
    assert_eq!(refused(Vote::new(term + 1, NEWCOMER)).await, [false; 3], "who is meant to be a member is heard");
}
