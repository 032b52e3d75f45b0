//! What several callers propose at once goes into one log entry, and is each caller's own for all that.
//!
//! On one thread, so that what is proposed together is handed in before anything is sent.

use mira_raft::{Limits, ProposeError, RequestId, RequestWindow};

use crate::support::{Cluster, PANIC, SHARED, set};

fn key(name: &str) -> String {
    format!("{SHARED}{name}")
}

#[tokio::test]
async fn requests_of_one_entry_have_their_own_answers_and_none_fails_another() {
    let cluster = Cluster::start(3, Limits::default()).await;
    let group = cluster.group(cluster.leader().await).clone();
    let (a, b, c) = (key("a"), key("b"), key("c"));
    let (first, second, again, reused, broken, last) = tokio::join!(
        group.propose(Some(RequestId(1)), set(&a, "1")),
        group.propose(Some(RequestId(2)), set(&b, "2")),
        group.propose(Some(RequestId(1)), set(&a, "1")),
        group.propose(Some(RequestId(2)), set(&b, "other")),
        group.propose(Some(RequestId(3)), set(PANIC, "1")),
        group.propose(None, set(&c, "3")),
    );
    let (first, second, again, last) = (first.unwrap(), second.unwrap(), again.unwrap(), last.unwrap());
    assert_eq!([first.index, second.index, again.index], [last.index; 3], "one entry");
    assert_eq!(&first.response[..], format!("{a}=1").as_bytes());
    assert_eq!(&second.response[..], format!("{b}=1").as_bytes());
    assert_eq!(&last.response[..], format!("{c}=1").as_bytes());
    assert_eq!((first.replayed, again.replayed, &again.response), (false, true, &first.response), "applied once");
    assert_eq!(reused.unwrap_err(), ProposeError::RequestIdReused);
    assert_eq!(broken.unwrap_err(), ProposeError::NotApplicable { index: last.index });

    cluster.agree().await;
    for node in cluster.nodes() {
        let values = [&a, &b, &c].map(|key| cluster.value(node, key));
        assert_eq!(values, ["1", "2", "3"].map(|value| Some(value.into())));
        assert_eq!(cluster.value(node, PANIC), None, "what it wrote is taken back, and nothing else");
        assert_eq!(cluster.times_applied(node, &a), 1);
    }
}

#[tokio::test]
async fn an_entry_keeps_its_bounds_and_who_shares_with_nobody_has_one_alone() {
    let limits = Limits { entry_requests: 2, ..Limits::default() };
    let cluster = Cluster::start(1, limits).await;
    let group = cluster.group(cluster.leader().await).clone();
    let (a, b, c, d) = (key("a"), key("b"), key("c"), key("d"));
    let (first, second, third, alone, fourth) = tokio::join!(
        group.propose(None, set(&a, "1")),
        group.propose(None, set(&b, "1")),
        group.propose(None, set(&c, "1")),
        group.propose(None, set("alone", "1")),
        group.propose(None, set(&d, "1")),
    );
    let index = first.unwrap().index;
    let others = [second, third, alone, fourth].map(|proposed| proposed.unwrap().index);
    assert_eq!(others, [index, index + 1, index + 2, index + 3]);
}

#[tokio::test]
async fn requests_of_one_entry_are_forgotten_one_by_one_also_after_a_restart() {
    let requests = RequestWindow { count: 3, kept: 0, ..RequestWindow::default() };
    let mut cluster = Cluster::start(1, Limits { requests, ..Limits::default() }).await;
    let leader = cluster.leader().await;
    let group = cluster.group(leader).clone();
    let keys: Vec<String> = (0..4).map(|n| key(&n.to_string())).collect();
    let ask = |id: usize| (Some(RequestId(id as u128)), set(&keys[id], "1"));
    let proposals = (0..4).map(ask).map(|(id, payload)| group.propose(id, payload));
    for proposed in futures::future::join_all(proposals).await {
        assert!(!proposed.unwrap().replayed);
    }
    cluster.crash(leader).await;
    cluster.restart(leader).await;
    let group = cluster.group(cluster.leader().await).clone();
    let replayed = async |id| {
        let (request, payload) = ask(id);
        group.propose(request, payload).await.unwrap().replayed
    };
    assert!(replayed(1).await && replayed(2).await && replayed(3).await, "the newest three are known");
    assert!(!replayed(0).await, "the fourth pushed the first out");
    assert!(!replayed(1).await, "which pushed the second out in its turn");
    assert!(replayed(3).await && replayed(0).await);
}

#[tokio::test]
async fn a_caller_that_goes_away_takes_nothing_from_the_others() {
    let cluster = Cluster::start(1, Limits::default()).await;
    let group = cluster.group(cluster.leader().await).clone();
    let (a, b) = (key("a"), key("b"));
    // Handed in first, so that its task would serve both.
    let mut gone = Box::pin(group.propose(None, set(&a, "1")));
    assert!(futures::poll!(&mut gone).is_pending());
    let mut stays = Box::pin(group.propose(None, set(&b, "1")));
    assert!(futures::poll!(&mut stays).is_pending());
    drop(gone);
    let stays = stays.await.unwrap();
    assert_eq!(&stays.response[..], format!("{b}=1").as_bytes());
    assert_eq!(cluster.value(1, &a), Some("1".into()), "what was handed in is done");
}
