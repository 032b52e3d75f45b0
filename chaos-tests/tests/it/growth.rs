//! A collection grows over more shards while it is written, read and searched, and while nodes go and come back.

use std::collections::BTreeSet;

use crate::support::{Cluster, NAME, NAMED_SESSION, SHARDS, Work, Worker, context};
use mira_node::meta::{Growth, GrowthStep};
use mira_node::shard::migration::ownership::{Ownership, Progress};
use mira_proto::model::{ForgetRequest, GrowRequest};
use mira_proto::placement::{Partitioning, shards_of_collection};
use mira_proto::{Code, Problem, ShardId};

impl Cluster {
    async fn grow(&self, partitions: u32, dry_run: bool) -> Result<mira_proto::model::GrowReply, Problem> {
        self.memory.grow_collection(&context(), NAME, GrowRequest { partitions, dry_run }).await
    }

    /// The growth as some node knows it.
    fn growth(&self) -> Option<(u64, Growth)> {
        let newest =
            self.nodes.values().map(|node| node.node().cluster()).max_by_key(|cluster| cluster.header.epoch)?;
        newest.growths.iter().next().map(|(&collection, growth)| (collection, growth.clone()))
    }

    /// What the replicas of a shard know of its part.
    fn ownerships(&self, collection: u64, shard: ShardId) -> Vec<Ownership> {
        let open = self.nodes.values().filter_map(|node| node.node().shard(shard).ok());
        open.filter_map(|shard| shard.ownership(collection).ok().flatten()).collect()
    }

    fn has_step(&self, step: GrowthStep) -> bool {
        self.growth().is_some_and(|(_, growth)| growth.step >= step)
    }
}

/// The growth is over: every frame is in its new shard, nothing is left in another, and all are as they must be.
async fn settled(cluster: &Cluster, workers: &[Worker]) {
    cluster.until("everything is cleared", |cluster| cluster.has_step(GrowthStep::Remembering)).await;
    for worker in workers {
        worker.check_all().await;
    }
    let (collection, growth) = cluster.growth().expect("it is remembered");
    let frames: u64 = workers.iter().map(|worker| worker.frames.len() as u64).sum();
    cluster
        .until("every shard has a leader", |cluster| (0..SHARDS).all(|shard| cluster.leader_of(shard).is_some()))
        .await;
    let held = cluster.held(collection);
    assert_eq!(held.values().sum::<u64>(), frames, "{held:?}");
    assert_eq!(held.len(), growth.to as usize, "{held:?}");
    let info = cluster.memory.get_collection(&context(), NAME).await.expect("it is there");
    assert_eq!((info.partitions, info.growth.expect("remembered").step.as_str()), (growth.to, "remembering"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collection_grows_while_it_is_used_and_nothing_is_lost_doubled_or_hidden() {
    let cluster = Cluster::start().await;
    let work = Work::begin(&cluster, 4, 250).await;
    let planned = cluster.grow(5, true).await.expect("a plan");
    assert_eq!((planned.from, planned.to), (2, 5));
    assert_eq!((planned.shards.len(), planned.added_shards.len()), (2, 3));
    assert!(cluster.growth().is_none(), "a dry run changes nothing");
    for wrong in [1, 2, SHARDS + 1] {
        assert_eq!(cluster.grow(wrong, false).await.expect_err("refused").code, Code::InvalidArgument, "{wrong}");
    }
    work.some_more().await;
    let (named, _) = cluster.store_named("a").await;
    let mut session = vec![named, cluster.store_beside_named().await];
    cluster.make_a_past().await;
    assert_eq!(cluster.grow(5, false).await.expect("it begins"), planned);
    assert_eq!(cluster.grow(4, false).await.expect_err("it grows already").code, Code::Conflict);
    assert_eq!(cluster.grow(5, false).await.expect("asking again does no harm"), planned);
    session.push(cluster.store_beside_named().await);
    work.some_more().await;
    cluster.until("everything is cleared", |cluster| cluster.has_step(GrowthStep::Remembering)).await;
    work.some_more().await;
    assert_eq!(cluster.grow(6, false).await.expect_err("retries still go the old way").code, Code::Conflict);
    session.push(cluster.store_beside_named().await);
    assert_eq!(cluster.store_named("a").await, (named, true));
    cluster.has_its_past().await;
    let collection = cluster.growth().expect("it is remembered").0;
    for partitions in [2, 5] {
        let places = Partitioning::new(shards_of_collection(collection, partitions, SHARDS));
        let shards: BTreeSet<u32> = session.iter().map(|id| places.shard_of(id.as_u128())).collect();
        assert_eq!(shards.len(), 1, "a session lies in one partition before and after: {session:?}");
    }
    let forget = ForgetRequest {
        session: Some(NAMED_SESSION.to_owned()),
        collection: Some(NAME.to_owned()),
        ..Default::default()
    };
    assert_eq!(cluster.memory.forget(&context(), forget).await.expect("forgotten").removed, session.len() as u64);
    settled(&cluster, &work.end().await).await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_growth_goes_on_after_its_drivers_and_every_node_were_restarted_at_each_of_its_steps() {
    let mut cluster = Cluster::start().await;
    let work = Work::begin(&cluster, 2, 250).await;
    cluster.make_a_past().await;
    let planned = cluster.grow(4, false).await.expect("it begins");
    let (source, target) = (planned.shards[1], planned.added_shards[0]);
    let collection = cluster.growth().expect("it has begun").0;
    let backfills = |cluster: &Cluster, wanted: fn(&mira_node::shard::migration::ownership::Backfill) -> bool| {
        let ownerships = cluster.ownerships(collection, target);
        ownerships.iter().any(|ownership| ownership.backfills.values().any(wanted))
            || cluster.has_step(GrowthStep::Clearing)
    };
    type Moment<'a> = (&'a str, Box<dyn Fn(&Cluster) -> bool + 'a>, ShardId);
    let moments: Vec<Moment<'_>> = vec![
        ("a pass runs", Box::new(|cluster| backfills(cluster, |backfill| backfill.brought > 0)), target),
        ("a second pass", Box::new(|cluster| backfills(cluster, |backfill| backfill.pass > 1)), source),
        (
            "frames are frozen",
            Box::new(|cluster| {
                let frozen = |ownership: &Ownership| ownership.frozen.contains_key(&target);
                cluster.ownerships(collection, source).iter().any(frozen) || cluster.has_step(GrowthStep::Clearing)
            }),
            target,
        ),
        ("a source is open", Box::new(|cluster| backfills(cluster, |backfill| backfill.at == Progress::Open)), target),
        ("clearing", Box::new(|cluster| cluster.has_step(GrowthStep::Clearing)), source),
        ("remembering", Box::new(|cluster| cluster.has_step(GrowthStep::Remembering)), source),
    ];
    for (what, is_there, shard) in &moments {
        cluster.until(what, is_there).await;
        let leader = cluster.leader_of(*shard).unwrap_or(0);
        cluster.restart(leader).await;
        work.some_more().await;
    }
    // Everything at once, and the growth's own record is all that is left of it.
    let workers = work.end().await;
    for at in 0..3 {
        cluster.restart(at).await;
    }
    cluster.has_its_past().await;
    settled(&cluster, &workers).await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_growth_can_be_paused_and_a_dropped_collection_ends_it() {
    let cluster = Cluster::start().await;
    let work = Work::begin(&cluster, 2, 100).await;
    cluster.memory.set_moves(&context(), true).await.expect("paused");
    let planned = cluster.grow(4, false).await.expect("it begins");
    let collection = cluster.growth().expect("it has begun").0;
    work.some_more().await;
    let begun = |cluster: &Cluster| {
        planned.added_shards.iter().any(|&target| !cluster.ownerships(collection, target).is_empty())
    };
    assert!(!begun(&cluster), "nothing moves while moves are paused");
    cluster.memory.set_moves(&context(), false).await.expect("it goes on");
    cluster.until("frames move", begun).await;
    drop(work.end().await);
    cluster.memory.delete_collection(&context(), NAME).await.expect("dropped");
    let left = |cluster: &Cluster| {
        (0..SHARDS).any(|shard| !cluster.ownerships(collection, shard).is_empty())
            || !cluster.held(collection).is_empty()
    };
    cluster.until("nothing of it is left", |cluster| cluster.growth().is_none() && !left(cluster)).await;
    cluster.stop().await;
}
