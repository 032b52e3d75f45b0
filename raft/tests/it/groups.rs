//! Groups of three nodes in one process: what replication promises, and what happens when nodes, disks and messages go.

use std::collections::BTreeSet;
use std::ops::{Bound, ControlFlow};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use crate::support::{Cluster, GROUP, PANIC, Register, SECONDS, eventually, set};
use bytes::Bytes;
use mira_raft::engine::{Batch, Durability, Engine, Fault, Read};
use mira_raft::transport::local::Gate;
use mira_raft::{
    ChangeError, EngineError, Freshness, Group, HostError, Limits, Others, ProposeError, ReadError, RequestId, Role,
    TransportError,
};

/// Snapshots and trimming early, chunks small: every path in few writes.
fn eager() -> Limits {
    Limits { snapshot_every: 40, log_kept: 10, chunk_bytes: 2_000, ..Limits::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn proposals_reach_every_replica_and_reads_see_them() {
    let cluster = Cluster::start(3, Limits::default()).await;
    let leader = cluster.leader().await;
    for n in 0..20 {
        let done = cluster.group(leader).propose(None, set(&format!("k{n}"), "v")).await.unwrap();
        assert!(!done.replayed);
        assert_eq!(done.response, Bytes::from(format!("k{n}=1")));
    }
    let index = cluster.group(leader).read_index().await.unwrap();
    for node in cluster.nodes() {
        cluster.group(node).wait_applied(index, SECONDS).await.unwrap();
        assert_eq!(cluster.contents(node), cluster.contents(leader));
        assert_eq!(cluster.value(node, "k19"), Some("v".into()));
    }
    let follower = cluster.another(leader);
    let refused = cluster.group(follower).propose(None, set("x", "y")).await.unwrap_err();
    assert_eq!(refused, ProposeError::NotLeader { leader: Some(leader) });
    assert_eq!(cluster.group(follower).read_index().await.unwrap_err(), ReadError::NotLeader { leader: Some(leader) });
    let again = cluster.group(leader).initialize(BTreeSet::from([leader])).await.unwrap_err();
    assert!(matches!(again, ChangeError::Refused(_)), "{again}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crashed_leader_is_replaced_and_comes_back() {
    let mut cluster = Cluster::start(3, Limits::default()).await;
    let first = cluster.leader().await;
    let mut acknowledged = cluster.write_many("before", 30).await;
    cluster.crash(first).await;
    acknowledged.extend(cluster.write_many("without", 30).await);
    assert_ne!(cluster.leader().await, first);
    cluster.restart(first).await;
    acknowledged.extend(cluster.write_many("after", 10).await);
    cluster.agree().await;
    for key in &acknowledged {
        assert_eq!(cluster.value(first, key), Some("v".into()), "{key} was acknowledged");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_power_cut_of_all_nodes_loses_nothing_acknowledged() {
    let mut cluster = Cluster::start(3, eager()).await;
    let mut acknowledged = Vec::new();
    for round in 0..3 {
        acknowledged.extend(cluster.write_many(&format!("round{round}"), 50).await);
        for node in cluster.nodes() {
            cluster.crash(node).await;
        }
        for node in cluster.nodes() {
            cluster.restart(node).await;
        }
    }
    cluster.write_many("end", 1).await;
    cluster.agree().await;
    for key in &acknowledged {
        assert_eq!(cluster.value(1, key), Some("v".into()), "{key} was acknowledged");
        assert_eq!(cluster.times_applied(1, key), 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn leadership_moves_on_request() {
    let cluster = Cluster::start(3, Limits::default()).await;
    let leader = cluster.leader().await;
    let target = cluster.another(leader);
    cluster.write_many("k", 5).await;
    cluster.group(leader).transfer_leader(target).await.unwrap();
    assert_eq!(cluster.leader().await, target);
    cluster.group(target).propose(None, set("a", "b")).await.unwrap();
    let refused = cluster.group(target).transfer_leader(99).await.unwrap_err();
    assert!(matches!(refused, ChangeError::Refused(_)), "{refused}");
    assert!(matches!(cluster.group(leader).transfer_leader(leader).await, Err(ChangeError::NotLeader { .. })));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_minority_acknowledges_nothing() {
    let cluster = Cluster::start(3, Limits::default()).await;
    let leader = cluster.leader().await;
    for node in cluster.nodes().filter(|node| *node != leader) {
        cluster.network.disconnect(node);
    }
    let (proposed, read) =
        tokio::join!(cluster.group(leader).propose(None, set("a", "b")), cluster.group(leader).read_index());
    assert!(
        matches!(proposed, Err(ProposeError::Timeout(_) | ProposeError::Unknown { .. } | ProposeError::NoQuorum)),
        "{proposed:?}"
    );
    assert!(matches!(read, Err(ReadError::NoQuorum | ReadError::NotLeader { .. })), "{read:?}");
    assert_eq!(cluster.value(leader, "a"), None);
    let later = cluster.group(leader).propose(None, set("a", "b")).await;
    assert!(matches!(later, Err(ProposeError::NoQuorum | ProposeError::NotLeader { .. })), "{later:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retry_is_applied_once_whoever_leads() {
    let cluster = Cluster::start(3, Limits::default()).await;
    let leader = cluster.leader().await;
    let id = Some(RequestId(77));
    let first = cluster.group(leader).propose(id, set("a", "1")).await.unwrap();
    let again = cluster.group(leader).propose(id, set("a", "1")).await.unwrap();
    assert!(again.replayed);
    assert_eq!((again.index, &again.response), (first.index, &first.response));

    let target = cluster.another(leader);
    cluster.group(leader).transfer_leader(target).await.unwrap();
    assert_eq!(cluster.leader().await, target);
    let elsewhere = cluster.group(target).propose(id, set("a", "1")).await.unwrap();
    assert!(elsewhere.replayed);
    let other = cluster.group(target).propose(id, set("a", "2")).await.unwrap_err();
    assert_eq!(other, ProposeError::RequestIdReused);
    assert_eq!(cluster.times_applied(target, "a"), 1);
    assert_eq!(cluster.value(target, "a"), Some("1".into()));
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_are_forgotten_by_count_and_by_log_carried_time() {
    let window = mira_raft::RequestWindow { count: 3, millis: 1_000, kept: 0, response_bytes: 4 };
    let cluster = Cluster::start(1, Limits { requests: window, ..Limits::default() }).await;
    let group = cluster.group(cluster.leader().await);
    for id in 0..4u128 {
        group.propose(Some(RequestId(id)), set("a", "1")).await.unwrap();
    }
    let forgotten = group.propose(Some(RequestId(0)), set("a", "other")).await.unwrap();
    assert!(!forgotten.replayed, "the fourth pushed the first out");
    // The answer "a=N" has three bytes and is kept; "longer=1" is not.
    group.propose(Some(RequestId(9)), set("longer", "1")).await.unwrap();
    let before = group.propose(Some(RequestId(9)), set("longer", "1")).await.unwrap_err();
    assert!(matches!(before, ProposeError::AppliedBefore { .. }), "{before}");
    cluster.clock.fetch_add(1_001, Ordering::Relaxed);
    let expired = group.propose(Some(RequestId(9)), set("longer", "1")).await.unwrap();
    assert!(!expired.replayed);
    // A clock that jumps back changes nothing: replicated time does not run backwards.
    cluster.clock.fetch_sub(5_000, Ordering::Relaxed);
    assert!(
        group
            .propose(Some(RequestId(9)), set("longer", "1"))
            .await
            .is_err_and(|error| error != ProposeError::Overloaded)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_jump_of_the_clock_forgets_no_request_that_may_be_tried_again() {
    let cluster = Cluster::start(1, Limits::default()).await;
    let group = cluster.group(cluster.leader().await);
    group.propose(Some(RequestId(1)), set("a", "1")).await.unwrap();
    let day = 24 * 60 * 60 * 1000;
    cluster.clock.fetch_add(day, Ordering::Relaxed);
    group.propose(Some(RequestId(2)), set("a", "2")).await.unwrap();
    assert!(group.propose(Some(RequestId(1)), set("a", "1")).await.unwrap().replayed);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_was_away_catches_up_by_snapshot_and_knows_old_requests() {
    let cluster = Cluster::start(3, eager()).await;
    let leader = cluster.leader().await;
    let away = cluster.another(leader);
    let id = Some(RequestId(5));
    cluster.network.disconnect(away);
    let first = cluster.group(leader).propose(id, set("once", "1")).await.unwrap();
    cluster.write_many("k", 200).await;
    cluster.until(leader, |status| status.purged > first.index).await;
    cluster.network.connect(away, cluster.host(away));
    cluster.agree().await;
    // It came by snapshot, not by log.
    cluster.until(away, |status| status.snapshot_index > first.index).await;
    assert!(cluster.restored(away) >= 2, "the application was told");

    let leader = cluster.leader().await;
    if leader != away {
        cluster.group(leader).transfer_leader(away).await.unwrap();
    }
    cluster.leader().await;
    let again = cluster.group(away).propose(id, set("once", "1")).await.unwrap();
    assert!(again.replayed);
    assert_eq!(again.index, first.index);
    assert_eq!(cluster.group(away).propose(id, set("once", "2")).await.unwrap_err(), ProposeError::RequestIdReused);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_state_is_rebuilt_from_a_whole_log() {
    let mut cluster = Cluster::start(3, Limits::default()).await;
    let keys = cluster.write_many("k", 30).await;
    cluster.agree().await;
    let node = cluster.another(cluster.leader().await);
    assert!(cluster.host(node).discard_state(GROUP).await.unwrap());
    cluster.stop(node).await;
    cluster.restart(node).await;
    cluster.agree().await;
    for key in &keys {
        assert_eq!(cluster.times_applied(node, key), 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_removal_that_stopped_half_way_is_finished_before_the_group_is_opened_again() {
    let cluster = Cluster::start(3, eager()).await;
    cluster.write_many("k", 200).await;
    cluster.agree().await;
    let node = cluster.another(cluster.leader().await);
    cluster.until(node, |status| status.purged > 0).await;
    // The state goes first; that the log does not follow is what a crash, or a disk that fails, leaves behind.
    cluster.host(node).close_group(GROUP).await;
    let [log, state] = cluster.engines(node);
    let (mut removing, mut emptied) = (Batch::default(), Batch::default());
    // The log's note of a removal (`raft/src/log_store.rs`): version, checksum of nothing, nothing.
    let key = [&[5][..], &GROUP.to_be_bytes(), &0u64.to_be_bytes()].concat();
    removing.put(key, vec![1, 0, 0, 0, 0]);
    emptied.delete_range(vec![], vec![u8::MAX; 64]);
    log.write(&removing, Durability::Synced).unwrap();
    state.write(&emptied, Durability::Synced).unwrap();
    let group = cluster.host(node).open_group(GROUP, Arc::new(Register::default())).await.expect("it is new");
    let status = group.status();
    assert_eq!((status.last_log_index, status.voters.len()), (0, 0), "nothing is left of what it was");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_state_that_ends_before_its_log_begins_is_damaged() {
    let cluster = Cluster::start(3, eager()).await;
    cluster.write_many("k", 200).await;
    cluster.agree().await;
    let node = cluster.another(cluster.leader().await);
    cluster.until(node, |status| status.purged > 0).await;
    assert!(!cluster.host(node).discard_state(GROUP).await.unwrap(), "its log was trimmed");

    let mut batch = Batch::default();
    batch.delete_range(vec![], vec![u8::MAX; 64]);
    cluster.engines(node)[1].write(&batch, Durability::Synced).unwrap();
    match cluster.host(node).open_group(GROUP, Arc::new(Register::default())).await {
        Err(HostError::Engine(EngineError::Damaged(text))) => assert!(text.contains("its log begins"), "{text}"),
        other => panic!("{:?}", other.map(|group| group.status())),
    }
}

/// Kind of a request, by the wire format.
const CHUNK: u8 = 6;

#[tokio::test(flavor = "multi_thread")]
async fn an_interrupted_snapshot_goes_on_where_it_stopped() {
    let mut cluster = Cluster::start(3, eager()).await;
    let leader = cluster.leader().await;
    let away = cluster.another(leader);
    cluster.network.disconnect(away);
    cluster.write_many("k", 300).await;
    cluster.until(leader, |status| status.purged > 200).await;

    let delivered = Arc::new(parking_lot::Mutex::new(Vec::<Bytes>::new()));
    let (open, refused) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let gate = {
        let (delivered, open, refused) = (delivered.clone(), open.clone(), refused.clone());
        move |_from, to, request: &Bytes| {
            if request[1] != CHUNK || to != away {
                return Ok(());
            }
            let mut delivered = delivered.lock();
            if delivered.len() >= 4 && !open.load(Ordering::Relaxed) {
                refused.fetch_add(1, Ordering::Relaxed);
                return Err(TransportError::Lost("cut".into()));
            }
            delivered.push(request.clone());
            Ok(())
        }
    };
    cluster.network.set_gate(Some(Arc::new(gate)));
    cluster.network.connect(away, cluster.host(away));
    let cut_twice = async || (refused.load(Ordering::Relaxed) >= 2).then_some(());
    eventually("the snapshot is cut off twice", SECONDS, cut_twice).await;
    assert_eq!(cluster.value(away, "k299"), None, "nothing of half a snapshot shows");
    // The receiver restarts in the middle; what it has written stays written.
    cluster.stop(away).await;
    cluster.restart(away).await;
    open.store(true, Ordering::Relaxed);
    cluster.agree().await;

    let delivered = delivered.lock().clone();
    let bytes: usize = delivered.iter().map(Bytes::len).sum();
    let distinct: BTreeSet<Bytes> = delivered.iter().cloned().collect();
    let resent = bytes - distinct.iter().map(Bytes::len).sum::<usize>();
    assert!(delivered.len() > 10, "it took many chunks: {}", delivered.len());
    assert_eq!(resent, 0, "of {bytes} bytes; nothing that arrived is sent again");
    assert_eq!(cluster.value(away, "k299"), Some("v".into()));
}

#[tokio::test(flavor = "multi_thread")]
async fn members_join_and_leave() {
    let cluster = Cluster::start(4, eager()).await;
    // Cluster::start makes the first three voters; node 4 is open and waits.
    let leader = cluster.leader().await;
    cluster.write_many("k", 100).await;
    assert!(matches!(
        cluster.group(leader).change_voters(BTreeSet::from([1, 2, 9]), Others::Leave).await,
        Err(ChangeError::Refused(_))
    ));
    cluster.group(leader).add_learner(4).await.unwrap();
    cluster.group(leader).add_learner(4).await.unwrap();
    let status = cluster.until(leader, |status| status.lag.get(&4) == Some(&Some(0))).await;
    assert_eq!(status.learners, BTreeSet::from([4]));
    let leaving = (1..=3).find(|node| *node != leader).unwrap();
    let voters: BTreeSet<u64> = (1..=4).filter(|node| *node != leaving).collect();
    cluster.group(leader).change_voters(voters.clone(), Others::Leave).await.unwrap();
    assert_eq!(cluster.group(leader).status().voters, voters);
    cluster.host(leaving).destroy_group(GROUP).await.unwrap();
    assert!(cluster.host(leaving).existing_groups().unwrap().is_empty());
    let [log, state] = cluster.engines(leaving);
    assert!(state.is_empty(), "nothing of it is left");
    let mut kept = 0;
    log.scan(Bound::Unbounded, Bound::Unbounded, false, &mut |_, _| {
        kept += 1;
        ControlFlow::Continue(())
    })
    .unwrap();
    assert_eq!(kept, 2, "its vote, and how far its log went");
    cluster.write_many("without", 5).await;
}

/// A replica that left, was removed and is back has nothing yet of what its predecessor had said to have; a member that was
/// away all the time still counts on that one. The two together are a majority of the members as they were.
#[tokio::test(flavor = "multi_thread")]
async fn one_that_left_and_came_back_empty_elects_nobody_who_was_away() {
    let mut cluster = Cluster::start(4, Limits::default()).await;
    let leader = cluster.leader().await;
    let mut others = (1..=3).filter(|node| *node != leader);
    let (away, leaving) = (others.next().unwrap(), others.next().unwrap());
    cluster.write_many("all", 5).await;
    let part = |one: BTreeSet<u64>| -> Option<Arc<Gate>> {
        let lost = || TransportError::Lost("cut".into());
        Some(Arc::new(move |from, to, _| (one.contains(&from) == one.contains(&to)).then_some(()).ok_or_else(lost)))
    };
    cluster.network.set_gate(part(BTreeSet::from([away])));
    cluster.write_many("two", 5).await;
    cluster.group(leader).add_learner(4).await.unwrap();
    cluster.until(leader, |status| status.lag.get(&4) == Some(&Some(0))).await;
    cluster.group(leader).change_voters(BTreeSet::from([leader, away, 4]), Others::Leave).await.unwrap();
    cluster.write_many("without", 5).await;
    cluster.host(leaving).destroy_group(GROUP).await.unwrap();
    cluster.reopen_group(leaving).await;

    cluster.network.set_gate(part(BTreeSet::from([away, leaving])));
    let refused = cluster.group(leaving).campaign().await.unwrap_err();
    assert!(matches!(refused, ChangeError::Refused(_)), "{refused}");
    let elected = cluster.group(away).watch().wait_for(Duration::from_secs(5), |status| status.is_leader()).await;
    assert!(elected.is_none(), "{elected:?}");
    cluster.write_many("meanwhile", 5).await;

    // Once it has as much, it votes like any other.
    cluster.network.set_gate(None);
    cluster.group(leader).add_learner(leaving).await.unwrap();
    cluster.until(leader, |status| status.lag.get(&leaving) == Some(&Some(0))).await;
    cluster.group(leader).change_voters(BTreeSet::from([leader, away, leaving]), Others::Leave).await.unwrap();
    cluster.group(leader).transfer_leader(leaving).await.unwrap();
    cluster.write_many("again", 5).await;
}

/// Waits until a replica's age is as `wanted` has it.
async fn until_fresh(group: &Group, wanted: impl Fn(Freshness) -> bool) -> Freshness {
    eventually("the age that is wanted", SECONDS, async || Some(group.freshness()).filter(|found| wanted(*found))).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_knows_how_old_it_is() {
    let cluster = Cluster::start(3, Limits::default()).await;
    let leader = cluster.leader().await;
    cluster.write_many("before", 10).await;
    let young = |freshness: Freshness| freshness.age.is_some_and(|age| age < Duration::from_millis(500));
    for node in cluster.nodes() {
        let freshness = until_fresh(cluster.group(node), |freshness| young(freshness) && freshness.behind == 0).await;
        assert!(node != leader || freshness.age == Some(Duration::ZERO), "{freshness:?}");
    }
    // A follower that hears nothing grows older, however often it is asked, until it hears again.
    let follower = cluster.another(leader);
    let cut = move |from: u64, to: u64, _: &Bytes| {
        if from == follower || to == follower { Err(TransportError::Lost("cut".into())) } else { Ok(()) }
    };
    cluster.network.set_gate(Some(Arc::new(cut)));
    cluster.write_many("without", 10).await;
    let old = |freshness: Freshness| freshness.age.is_some_and(|age| age > Duration::from_secs(1));
    until_fresh(cluster.group(follower), old).await;
    assert!(young(cluster.group(cluster.leader().await).freshness()));
    cluster.network.set_gate(None);
    until_fresh(cluster.group(follower), young).await;
    cluster.agree().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_cut_off_with_a_learner_does_not_keep_it_young() {
    let cluster = Cluster::start(4, Limits::default()).await;
    let leader = cluster.leader().await;
    cluster.group(leader).add_learner(4).await.unwrap();
    cluster.write_many("before", 10).await;
    let young = |freshness: Freshness| freshness.age.is_some_and(|age| age < Duration::from_millis(500));
    until_fresh(cluster.group(4), young).await;
    // Leader and learner on one side, the other two voters on the other, where they elect a leader and go on.
    let cut = move |from: u64, to: u64, _: &Bytes| {
        if (from == leader || from == 4) == (to == leader || to == 4) {
            Ok(())
        } else {
            Err(TransportError::Lost("cut".into()))
        }
    };
    cluster.network.set_gate(Some(Arc::new(cut)));
    let old = |freshness: Freshness| freshness.age.is_some_and(|age| age > Duration::from_secs(2));
    until_fresh(cluster.group(4), old).await;
    until_fresh(cluster.group(leader), old).await;
    cluster.network.set_gate(None);
    until_fresh(cluster.group(4), young).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_refuses_writes_and_recovers_by_itself() {
    let cluster = Cluster::start(1, Limits::default()).await;
    let group = cluster.group(cluster.leader().await).clone();
    group.propose(None, set("a", "1")).await.unwrap();
    let [log, _] = cluster.engines(1);
    let full = || Some(Fault::Refused(EngineError::DiskFull("test".into())));
    log.set_faults(Some(Arc::new(move |_, _| full())));
    let stuck = {
        let group = group.clone();
        tokio::spawn(async move { group.propose(None, set("b", "1")).await })
    };
    eventually("the disk is full", SECONDS, async || group.disk_full().then_some(())).await;
    assert_eq!(group.propose(None, set("c", "1")).await.unwrap_err(), ProposeError::DiskFull);
    assert_eq!(cluster.value(1, "a"), Some("1".into()), "reads go on");
    log.set_faults(None);
    stuck.await.unwrap().expect("what waited for room is done");
    group.propose(None, set("c", "1")).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failing_device_stops_the_group_and_says_so() {
    let cluster = Cluster::start(1, Limits::default()).await;
    let group = cluster.group(cluster.leader().await).clone();
    let [log, _] = cluster.engines(1);
    log.set_faults(Some(Arc::new(|_, _| Some(Fault::Torn(EngineError::Io("test".into()))))));
    let torn = group.propose(None, set("a", "1")).await.unwrap_err();
    assert_eq!(torn, ProposeError::Unknown { leader: None }, "the write may have survived");
    let stopped = group.watch().wait_for(SECONDS, |status| matches!(status.role, Role::Stopped(_))).await;
    assert!(stopped.is_some());
    let refused = group.propose(None, set("b", "1")).await.unwrap_err();
    assert!(matches!(refused, ProposeError::Stopped(_)), "{refused:?}");
}

/// The failure of a device that can open no file.
fn no_file() -> Option<Fault> {
    Some(Fault::Refused(EngineError::NoFile("test".into())))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_that_stopped_for_want_of_files_is_opened_again_where_it_was() {
    let mut cluster = Cluster::start(1, Limits::default()).await;
    let host = cluster.host(cluster.leader().await).clone();
    for engine in 0..2 {
        let group = cluster.group(1).clone();
        group.propose(None, set("a", "1")).await.unwrap();
        assert!(!host.needs_reopening());
        cluster.engines(1)[engine].set_faults(Some(Arc::new(|_, _| no_file())));
        group.propose(None, set("b", "1")).await.unwrap_err();
        let stopped = group.watch().wait_for(SECONDS, |status| status.is_stopped()).await.expect("it stops");
        assert_eq!(stopped.leader, None, "it hears of none any more");
        assert!(group.has_stopped_in_passing() && host.needs_reopening(), "engine {engine}");
        cluster.engines(1)[engine].set_faults(None);
        assert!(host.needs_reopening(), "it does not come back by itself");
        drop(group);
        host.reopen().await.unwrap();
        cluster.reopen_group(1).await;
        let group = cluster.group(1).clone();
        group.watch().wait_for(SECONDS, |status| status.is_leader()).await.expect("it leads again");
        assert!(!group.has_stopped_in_passing());
        group.propose(None, set("c", "1")).await.unwrap();
        assert_eq!(cluster.value(1, "a"), Some("1".into()));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_that_fails_for_good_is_not_opened_again() {
    let cluster = Cluster::start(1, Limits::default()).await;
    let group = cluster.group(cluster.leader().await).clone();
    cluster.engines(1)[0].set_faults(Some(Arc::new(|_, _| Some(Fault::Refused(EngineError::Io("test".into()))))));
    group.propose(None, set("a", "1")).await.unwrap_err();
    group.watch().wait_for(SECONDS, |status| status.is_stopped()).await.expect("it stops");
    assert!(!group.has_stopped_in_passing() && !cluster.host(1).needs_reopening());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_that_cannot_be_applied_is_passed_over_by_all_replicas() {
    let cluster = Cluster::start(3, Limits::default()).await;
    let group = cluster.group(cluster.leader().await).clone();
    group.propose(None, set("a", "1")).await.unwrap();
    // The state machine writes half of it and panics.
    let failed = group.propose(None, set(PANIC, "1")).await.unwrap_err();
    assert!(matches!(failed, ProposeError::NotApplicable { .. }), "{failed}");
    group.propose(None, set("b", "1")).await.unwrap();
    cluster.agree().await;
    for node in cluster.nodes() {
        assert!(!cluster.group(node).status().is_stopped());
        assert_eq!(cluster.value(node, PANIC), None, "what it wrote is taken back");
        assert_eq!(cluster.value(node, "b"), Some("1".into()));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn bounds_are_kept() {
    let limits = Limits { payload_bytes: 100, in_flight: 1, ..Limits::default() };
    let cluster = Cluster::start(3, limits).await;
    let leader = cluster.leader().await;
    let group = cluster.group(leader);
    let large = group.propose(None, Bytes::from(vec![0; 101])).await.unwrap_err();
    assert_eq!(large, ProposeError::TooLarge { bytes: 101, limit: 100 });
    // Without a quorum the first one stays under way.
    for node in cluster.nodes().filter(|node| *node != leader) {
        cluster.network.disconnect(node);
    }
    let (_, second) = tokio::join!(group.propose(None, set("a", "1")), group.propose(None, set("b", "1")));
    assert_eq!(second.unwrap_err(), ProposeError::Overloaded);
}
