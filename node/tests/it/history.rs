//! Past versions and the bin on a node: what is kept and for how long, what readers see of it, and how it ends.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};
use std::time::Duration;

use mira_node::shard::{
    history,
    record::{self, Table},
};
use mira_node::{Formation, NodeConfig, RunningNode};
use mira_proto::{Code, Problem, Refusal, limits, node_v1};
use node_v1::forget_request::Scope;
use tempfile::TempDir;

use crate::common::{ALONE, DAY_MS, DIM, EAST, NOON_MS, NORTH, SetClock, Shard, config, connect, frame};

const ADA: [u8; 16] = [1; 16];
const EVE: [u8; 16] = [2; 16];

/// A node alone, with a collection, whose clock goes when it is told to.
struct World {
    node: RunningNode,
    shard: Shard,
    clock: Arc<AtomicU64>,
    _folder: TempDir,
}

fn settings(retention: Option<node_v1::Retention>) -> node_v1::CreateCollectionRequest {
    node_v1::CreateCollectionRequest {
        name: "c".into(),
        dim: DIM,
        metric: node_v1::Metric::Cosine.into(),
        quantization: node_v1::Quantization::Int8.into(),
        partitions: 1,
        retention,
        ..Default::default()
    }
}

fn keeping(last: u32, days: u32, bin_days: u32) -> Option<node_v1::Retention> {
    Some(node_v1::Retention { last: Some(last), days: Some(days), bin_days: Some(bin_days) })
}

impl World {
    async fn new(retention: Option<node_v1::Retention>) -> World {
        let folder = tempfile::tempdir().expect("a folder");
        let clock = Arc::new(AtomicU64::new(NOON_MS));
        let own = Arc::new(SetClock(clock.clone()));
        let config = NodeConfig { clock: own, ..config(folder.path(), Formation::Bootstrap(ALONE)) };
        let node = RunningNode::start(config).await.expect("the node starts");
        assert!(node.wait_ready(Duration::from_secs(30)).await, "not ready");
        let client = connect(node.grpc_address()).await.expect("a connection");
        let shard = Shard::created(client, settings(retention)).await;
        World { node, shard, clock, _folder: folder }
    }

    fn pass(&self, ms: u64) {
        self.clock.fetch_add(ms, Ordering::Relaxed);
    }

    fn now_ms(&self) -> u64 {
        self.clock.load(Ordering::Relaxed)
    }

    /// Stores a version, and lets a second pass.
    async fn says(&self, id: u128, content: &str) -> u64 {
        let version = self.shard.one(replacing(frame(id, content, EAST))).await.expect("stored");
        self.pass(1_000);
        version
    }

    /// What versions 1 to `upto` of a frame say, those that are there.
    async fn versions(&self, id: u128, upto: u64) -> Vec<(u64, String)> {
        let mut found = Vec::new();
        for version in 1..=upto {
            let request = node_v1::FetchRequest { version, ..Default::default() };
            for frame in self.shard.fetch_as(&[id], request).await {
                assert_eq!(frame.version, version);
                found.push((version, String::from_utf8(frame.content.to_vec()).expect("text")));
            }
        }
        found
    }

    async fn known_at(&self, id: u128, known_at_ms: u64) -> Option<String> {
        let request = node_v1::FetchRequest { known_at_ms, ..Default::default() };
        let found = self.shard.fetch_as(&[id], request).await.pop();
        found.map(|frame| String::from_utf8(frame.content.to_vec()).expect("text"))
    }

    /// What callers see of the collection: by id, by likeness, in the session "talk", and in a scan.
    async fn seen(&self) -> [Vec<u128>; 4] {
        let all: Vec<u128> = (1..=9).collect();
        let number = |frame: &node_v1::Frame| crate::common::number(&frame.id);
        let by_id = self.shard.fetch(&all).await.iter().map(number).collect();
        let mut alike: Vec<u128> = self.shard.search(EAST, 20).await.expect("found").iter().map(|hit| hit.0).collect();
        alike.sort_unstable();
        let header = Some(self.read_header());
        let scan = node_v1::ScanRequest { header, limit: 100, ..Default::default() };
        let scanned = self.shard.client.shards().scan(scan).await.expect("an answer").into_inner().frames;
        let scanned = scanned.iter().filter_map(|scanned| scanned.frame.as_ref()).map(number).collect();
        [by_id, alike, self.shard.session(100, false).await, scanned]
    }

    fn read_header(&self) -> node_v1::ReadHeader {
        let &Shard { epoch, shard, collection, .. } = &self.shard;
        node_v1::ReadHeader { epoch, shard, collection, ..Default::default() }
    }

    async fn forget(&self, scope: Scope, request: node_v1::ForgetRequest) -> Vec<u128> {
        self.shard.forget(node_v1::ForgetRequest { scope: scope.into(), ..request }).await
    }

    async fn undelete_as(&self, request_id: u128, id: u128, owner: &[u8]) -> Result<node_v1::WriteOutcome, Refusal> {
        let &Shard { epoch, shard, collection, .. } = &self.shard;
        let request_id = request_id.to_be_bytes().to_vec().into();
        let request = node_v1::UndeleteRequest {
            header: Some(node_v1::WriteHeader { epoch, shard, collection, request_id, ..Default::default() }),
            ids: vec![id.to_be_bytes().to_vec().into()],
            owner: owner.to_vec().into(),
        };
        let reply = self.shard.client.shards().undelete(request).await?.into_inner();
        Ok(reply.outcomes.into_iter().next().expect("one outcome"))
    }

    /// The version that came back, and whether nothing was to be done.
    async fn undelete(&self, id: u128) -> Result<(u64, bool), Code> {
        let outcome = self.undelete_as(rand::random(), id, &[]).await.expect("an answer");
        match outcome.problem {
            None => Ok((outcome.version, outcome.unchanged)),
            Some(problem) => Err(Problem::from(problem).code),
        }
    }

    async fn sweep(&self) {
        let open = self.node.node().shard(self.shard.shard).expect("open");
        while open.sweep().await.expect("swept").1 {}
    }

    /// Changes what is kept, and returns when the node knows.
    async fn keeps(&self, retention: Option<node_v1::Retention>) -> node_v1::Retention {
        let changed = self.shard.client.cluster().create_collection(settings(retention)).await;
        changed.expect("changed").into_inner().retention.expect("it says so")
    }

    /// Keys of a table in the collection.
    fn keys(&self, table: Table) -> usize {
        let open = self.node.node().shard(self.shard.shard).expect("open");
        let (mut keys, prefix) = (0, record::collection_prefix(table, self.shard.collection));
        let count = &mut |_: &[u8], _: &[u8]| {
            keys += 1;
            std::ops::ControlFlow::Continue(())
        };
        open.group().reader().scan_prefix(&prefix, false, count).expect("readable");
        keys
    }

    /// Nothing is left of any frame, in any table.
    fn is_empty(&self) -> bool {
        let of_frames = record::TABLES.into_iter().filter(|table| {
            !matches!(table, Table::Counts | Table::EndedVersions | Table::VersionBounds | Table::OwnerChanges)
        });
        of_frames.map(|table| self.keys(table)).sum::<usize>() == 0
    }
}

fn replacing(frame: node_v1::FrameWrite) -> node_v1::FrameWrite {
    node_v1::FrameWrite { replace: true, ..frame }
}

fn by_id(id: u128) -> node_v1::ForgetRequest {
    node_v1::ForgetRequest { ids: vec![id.to_be_bytes().to_vec().into()], ..Default::default() }
}

fn texts<const N: usize>(said: [(u64, &str); N]) -> Vec<(u64, String)> {
    said.map(|(version, text)| (version, text.to_owned())).into()
}

fn private(id: u128, owner: [u8; 16], said: &str) -> node_v1::FrameWrite {
    node_v1::FrameWrite {
        id: id.to_be_bytes().to_vec().into(),
        private: Some(node_v1::PrivateWrite {
            owner: owner.to_vec().into(),
            session: vec![9; 16].into(),
            digest: blake3::hash(said.as_bytes()).as_bytes().to_vec().into(),
            body: format!("sealed {said}").into(),
            vectors: format!("vectors {said}").into(),
        }),
        ..Default::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replaced_version_is_read_by_number_and_by_time_and_found_by_nothing_else() {
    let world = World::new(None).await;
    for (version, text) in [(1, "tea"), (2, "coffee"), (3, "water")] {
        assert_eq!(world.says(1, text).await, version);
    }
    assert_eq!(world.versions(1, 4).await, texts([(1, "tea"), (2, "coffee"), (3, "water")]));
    let at = async |seconds: u64| world.known_at(1, NOON_MS + seconds * 1_000).await;
    assert_eq!(world.known_at(1, NOON_MS - 1).await, None);
    assert_eq!(at(0).await.as_deref(), Some("tea"));
    assert_eq!(world.known_at(1, NOON_MS + 999).await.as_deref(), Some("tea"));
    assert_eq!(at(1).await.as_deref(), Some("coffee"));
    assert_eq!(at(2).await.as_deref(), Some("water"));
    assert_eq!(at(9_000_000).await.as_deref(), Some("water"));
    assert_eq!(world.seen().await, [vec![1], vec![1], vec![], vec![1]]);
    let first = world.shard.fetch_as(&[1], node_v1::FetchRequest { version: 1, ..Default::default() }).await.remove(0);
    assert_eq!((first.created_ms, first.updated_ms), (NOON_MS, NOON_MS));
    let both = node_v1::FetchRequest {
        header: Some(world.read_header()),
        version: 1,
        known_at_ms: NOON_MS,
        ids: vec![1u128.to_be_bytes().to_vec().into()],
        ..Default::default()
    };
    let refused = world.shard.client.shards().fetch(both).await.map_err(Refusal::from).expect_err("refused");
    assert!(matches!(refused, Refusal::Problem(problem) if problem.code == Code::InvalidArgument));
    world.node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn versions_are_kept_by_number_and_by_days_and_the_next_sweep_follows_the_settings() {
    let world = World::new(keeping(2, 10, 7)).await;
    for text in ["one", "two", "three", "four"] {
        world.says(1, text).await;
    }
    assert_eq!(world.versions(1, 4).await, texts([(2, "two"), (3, "three"), (4, "four")]));
    world.pass(10 * DAY_MS - 2_000);
    world.sweep().await;
    assert_eq!(world.versions(1, 4).await, texts([(3, "three"), (4, "four")]), "2 ended ten days ago");
    world.says(1, "five").await;
    assert_eq!(world.versions(1, 5).await, texts([(3, "three"), (4, "four"), (5, "five")]));

    // What is said is changed, and the rest stays.
    let said = node_v1::Retention { last: Some(1), ..Default::default() };
    let kept = world.keeps(Some(said)).await;
    assert_eq!(Some(kept), keeping(1, 10, 7));
    world.sweep().await;
    assert_eq!(world.versions(1, 5).await, texts([(4, "four"), (5, "five")]));
    world.keeps(keeping(9, 10, 7)).await;
    world.sweep().await;
    for text in ["six", "seven"] {
        world.says(1, text).await;
    }
    assert_eq!(world.versions(1, 7).await.len(), 4, "more are kept again");
    world.keeps(keeping(9, 0, 7)).await;
    world.sweep().await;
    world.says(1, "eight").await;
    assert_eq!(world.versions(1, 8).await, texts([(8, "eight")]), "no days: none are kept");
    assert_eq!((world.keys(Table::Past), world.keys(Table::Histories), world.keys(Table::Ended)), (0, 0, 0));
    let wrong = settings(keeping(limits::MAX_VERSIONS + 1, 10, 7));
    let refused = world.shard.client.cluster().create_collection(wrong).await.map_err(Refusal::from);
    let Refusal::Problem(problem) = refused.expect_err("refused") else { panic!("not a problem") };
    assert!(problem.code == Code::InvalidArgument && problem.detail.contains("versions.last is 101"), "{problem}");
    world.node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn past_versions_are_bounded_in_bytes_and_the_oldest_go_first() {
    let world = World::new(keeping(100, 90, 7)).await;
    for version in 1..=9u64 {
        let mut content = vec![0; limits::MAX_CONTENT_BYTES - 64];
        rand::fill(&mut content[..]);
        let large = node_v1::FrameWrite { content: content.into(), text: false, ..frame(1, "", EAST) };
        assert_eq!(world.shard.one(replacing(large)).await, Ok(version));
    }
    let mut there = Vec::new();
    for version in 1..=9 {
        let request = node_v1::FetchRequest { version, ..Default::default() };
        there.extend(world.shard.fetch_as(&[1], request).await.iter().map(|frame| frame.version));
    }
    assert_eq!(there, [5, 6, 7, 8, 9]);
    world.node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_forgotten_frame_is_seen_by_nobody_and_comes_back_as_a_new_version() {
    let world = World::new(None).await;
    let talk = |id, text| node_v1::FrameWrite { session: "talk".into(), ..frame(id, text, EAST) };
    for (id, text) in [(1, "tea"), (2, "coffee"), (3, "water")] {
        world.shard.one(talk(id, text)).await.expect("stored");
        world.pass(1_000);
    }
    let before = world.shard.fetch(&[2]).await.remove(0);
    let forgotten = world.shard.forgotten(by_id(2)).await;
    assert_eq!(forgotten.removed.len(), 1);
    assert_eq!(forgotten.restorable_until_ms, world.now_ms() + 7 * DAY_MS);
    world.pass(1_000);
    let rest = vec![1, 3];
    assert_eq!(world.seen().await, [rest.clone(), rest.clone(), rest.clone(), rest]);
    assert_eq!(world.versions(2, 3).await, texts([]));
    assert_eq!(world.known_at(2, before.updated_ms).await, None, "nothing is told of what was forgotten");
    assert_eq!(world.shard.forget(by_id(2)).await, [0u128; 0], "it is forgotten already");

    let name: u128 = rand::random();
    let restored = world.undelete_as(name, 2, &[]).await.expect("an answer");
    assert_eq!((restored.version, restored.unchanged, restored.problem), (2, false, None));
    let all = vec![1, 2, 3];
    assert_eq!(world.seen().await, [all.clone(), all.clone(), all.clone(), all]);
    let after = world.shard.fetch(&[2]).await.remove(0);
    let node_v1::Frame { version, updated_ms, .. } = after;
    assert_eq!((version, updated_ms), (2, world.now_ms()));
    assert_eq!(after, node_v1::Frame { version, updated_ms, ..before.clone() }, "all else is as it was");
    assert_eq!(world.versions(2, 3).await, texts([(1, "coffee"), (2, "coffee")]));
    assert_eq!(world.known_at(2, before.updated_ms).await.as_deref(), Some("coffee"));
    assert_eq!(world.known_at(2, updated_ms - 1).await, None, "it was forgotten then");

    // Again, it is what it was the first time, whatever became of it; under another name, nothing is to be done.
    assert_eq!(world.undelete(2).await, Ok((2, true)));
    world.shard.forget(by_id(2)).await;
    assert_eq!(world.undelete_as(name, 2, &[]).await.expect("an answer").version, 2);
    assert!(world.shard.fetch(&[2]).await.is_empty(), "a retry changes nothing");
    assert_eq!(world.undelete(2).await, Ok((3, false)));
    assert_eq!(world.undelete(77).await, Err(Code::NotFound));
    world.node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frame_leaves_the_bin_for_good_when_its_days_are_over() {
    let world = World::new(None).await;
    world.says(1, "tea").await;
    world.says(1, "coffee").await;
    world.shard.forget(by_id(1)).await;
    world.pass(7 * DAY_MS - 1);
    world.sweep().await;
    assert_eq!((world.keys(Table::Past), world.keys(Table::Forgotten)), (2, 1));
    world.pass(1);
    world.sweep().await;
    assert!(world.is_empty());
    assert_eq!(world.undelete(1).await, Err(Code::NotFound));
    assert_eq!(world.says(1, "again").await, 3, "no version is given twice");

    // A shorter time takes effect at the next sweep.
    world.shard.forget(by_id(1)).await;
    world.pass(DAY_MS);
    world.sweep().await;
    assert!(!world.is_empty());
    world.keeps(keeping(10, 90, 1)).await;
    world.sweep().await;
    assert!(world.is_empty());
    world.keeps(keeping(10, 90, 0)).await;
    world.says(2, "no bin").await;
    world.says(2, "at all").await;
    let forgotten = world.shard.forgotten(by_id(2)).await;
    assert_eq!((forgotten.removed.len(), forgotten.restorable_until_ms), (1, 0));
    assert!(world.is_empty());
    world.node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_forgotten_for_good_goes_from_the_bin_too_however_it_is_named() {
    let world = World::new(None).await;
    let named =
        |id, kind: &str| node_v1::FrameWrite { session: "talk".into(), r#type: kind.into(), ..frame(id, "tea", EAST) };
    let store = async || {
        for (id, kind) in [(1, "draft"), (2, "draft"), (3, "note"), (4, "note")] {
            world.shard.one(replacing(named(id, kind))).await.expect("stored");
            world.shard.one(replacing(frame(id, "another version", NORTH))).await.expect("stored");
            world.shard.one(replacing(named(id, kind))).await.expect("stored");
        }
        for id in [2, 4] {
            assert_eq!(world.shard.forget(by_id(id)).await, [id]);
        }
    };
    let drafts =
        || node_v1::ForgetRequest { filter_json: r#"{"field": "type", "eq": "draft"}"#.into(), ..Default::default() };
    let talk = || node_v1::ForgetRequest { session: "talk".into(), ..Default::default() };
    let all = || node_v1::ForgetRequest { all: true, ..Default::default() };
    store().await;
    assert_eq!(world.forget(Scope::ForGood, by_id(1)).await, [1]);
    assert_eq!(world.forget(Scope::ForGood, by_id(2)).await, [2], "it rested in the bin");
    for request in [drafts, talk, all] as [fn() -> node_v1::ForgetRequest; 3] {
        world.forget(Scope::ForGood, all()).await;
        world.forget(Scope::FromBin, all()).await;
        assert!(world.is_empty());
        store().await;
        let there = world.forget(Scope::ForGood, request()).await;
        let binned = world.forget(Scope::FromBin, request()).await;
        match request().filter_json.is_empty() {
            false => assert_eq!((there, binned), (vec![1], vec![2])),
            true => assert_eq!((there, binned), (vec![1, 3], vec![2, 4])),
        }
        assert_eq!(world.undelete(2).await, Err(Code::NotFound));
    }
    world.node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_id_in_the_bin_may_be_stored_again_and_what_was_forgotten_goes_no_later() {
    let world = World::new(None).await;
    world.says(1, "tea").await;
    world.shard.forget(by_id(1)).await;
    world.pass(DAY_MS);
    let fresh = node_v1::FrameWrite { expected_version: Some(0), ..frame(1, "coffee", EAST) };
    assert_eq!(world.shard.one(fresh).await, Ok(2), "above what was forgotten");
    assert_eq!(world.seen().await[1], [1]);
    assert_eq!(world.undelete(1).await, Ok((2, true)), "it is there");
    let said = world.undelete_as(77, 1, &[]).await.expect("an answer");
    assert_eq!((said.unchanged, said.forgotten), (true, vec![1]), "what was forgotten is a past version now");
    let header = Some(world.read_header());
    let list = node_v1::ListBinRequest { header, all: true, ..Default::default() };
    let in_bin = async || world.shard.client.shards().list_bin(list.clone()).await.expect("an answer").into_inner().ids;
    assert!(in_bin().await.is_empty(), "it left the bin");
    world.says(2, "rests").await;
    world.shard.forget(by_id(2)).await;
    assert_eq!(in_bin().await, [bytes::Bytes::copy_from_slice(&2u128.to_be_bytes())]);
    assert_eq!(world.versions(1, 2).await, texts([(1, "tea"), (2, "coffee")]));
    world.says(1, "water").await;
    world.pass(6 * DAY_MS);
    world.sweep().await;
    assert_eq!(world.versions(1, 3).await, texts([(2, "coffee"), (3, "water")]), "seven days after it was forgotten");
    world.node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_past_of_a_private_frame_is_its_owners_and_what_was_open_does_not_lie_beside_it() {
    let world = World::new(None).await;
    world.shard.one(private(1, ADA, "mine")).await.expect("stored");
    world.pass(1_000);
    world.shard.one(replacing(private(1, ADA, "better"))).await.expect("stored");
    let first = world.shard.fetch_as(&[1], node_v1::FetchRequest { version: 1, ..Default::default() }).await;
    assert_eq!(first[0].private, "sealed mine", "as its owner sealed it");
    let owner = |owner: [u8; 16]| node_v1::ForgetRequest { owner: owner.to_vec().into(), ..by_id(1) };
    assert_eq!(world.shard.forget(owner(ADA)).await, [1]);
    let code = |outcome: node_v1::WriteOutcome| outcome.problem.map(|problem| Problem::from(problem).code);
    for (asker, expected) in [(&[][..], Code::WrongOwnerKey), (&EVE, Code::WrongOwnerKey)] {
        assert_eq!(code(world.undelete_as(rand::random(), 1, asker).await.expect("an answer")), Some(expected));
        let store = if asker.is_empty() { frame(1, "plain", EAST) } else { private(1, EVE, "hers") };
        assert_eq!(world.shard.one(store).await.map_err(|problem| problem.code), Err(expected));
    }
    let for_good = node_v1::ForgetRequest { scope: Scope::ForGood.into(), ..owner(EVE) };
    let header = node_v1::WriteHeader {
        epoch: world.shard.epoch,
        shard: world.shard.shard,
        collection: world.shard.collection,
        request_id: vec![7; 16].into(),
        ..Default::default()
    };
    let for_good = node_v1::ForgetRequest { header: Some(header), ..for_good };
    let refused = world.shard.client.shards().forget(for_good).await.map_err(Refusal::from).expect_err("refused");
    assert!(matches!(refused, Refusal::Problem(problem) if problem.code == Code::WrongOwnerKey));
    assert_eq!(world.undelete_as(rand::random(), 1, &ADA).await.expect("an answer").version, 3);
    let back = world.shard.fetch(&[1]).await;
    assert_eq!((&back[0].private[..], back[0].version), (&b"sealed better"[..], 3));

    let first = world.says(2, "said in the open").await;
    let second = world.says(2, "and once more").await;
    assert_eq!(world.versions(2, second).await.len(), 2);
    let private_now = world.shard.one(replacing(private(2, ADA, "private now"))).await.expect("stored");
    let request = |version| node_v1::FetchRequest { version, ..Default::default() };
    for version in [first, second] {
        assert!(world.shard.fetch_as(&[2], request(version)).await.is_empty(), "{version}");
    }
    assert_eq!(world.shard.fetch_as(&[2], request(private_now)).await.len(), 1);
    world.node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn past_versions_and_frames_in_the_bin_end_with_their_own_time() {
    let world = World::new(None).await;
    let until = |id, text, expires_ms| node_v1::FrameWrite { expires_ms, ..replacing(frame(id, text, EAST)) };
    world.shard.one(until(1, "for an hour", NOON_MS + 3_600_000)).await.expect("stored");
    world.pass(1_000);
    world.shard.one(frame_for_ever(1)).await.expect("stored");
    world.shard.one(until(2, "for an hour", NOON_MS + 3_600_000)).await.expect("stored");
    world.shard.one(until(3, "replaced", 0)).await.expect("stored");
    world.shard.one(until(3, "for an hour", NOON_MS + 3_600_000)).await.expect("stored");
    world.shard.forget(by_id(2)).await;
    assert_eq!(world.versions(1, 2).await, texts([(1, "for an hour"), (2, "for ever")]));
    assert_eq!(world.versions(3, 2).await.len(), 2);

    world.pass(3_600_000);
    assert_eq!(world.versions(1, 2).await, texts([(2, "for ever")]), "hidden before it is swept");
    assert_eq!(world.versions(3, 2).await, texts([]), "a frame that is over has no past");
    assert_eq!(world.undelete(2).await, Err(Code::NotFound));
    world.sweep().await;
    assert_eq!((world.keys(Table::Past), world.keys(Table::Histories), world.keys(Table::Expiry)), (0, 0, 0));
    assert_eq!(world.seen().await[0], [1]);
    world.node.shutdown().await;
}

fn frame_for_ever(id: u128) -> node_v1::FrameWrite {
    replacing(frame(id, "for ever", EAST))
}

#[tokio::test(flavor = "multi_thread")]
async fn large_frames_go_into_the_bin_in_steps_and_none_is_left_out_or_named_twice() {
    let world = World::new(None).await;
    let large = |id| {
        let mut content = vec![0; limits::MAX_CONTENT_BYTES - 64];
        rand::fill(&mut content[..]);
        let talk = node_v1::FrameWrite { session: "talk".into(), ..frame(id, "", EAST) };
        node_v1::FrameWrite { content: content.into(), text: false, ..talk }
    };
    for (first, by_ids) in [(1, true), (11, false)] {
        for id in first..first + 6 {
            world.shard.one(large(id)).await.expect("stored");
        }
        let ids = (first..first + 6).map(|id: u128| id.to_be_bytes().to_vec().into()).collect();
        let mut request = if by_ids {
            node_v1::ForgetRequest { ids, ..Default::default() }
        } else {
            node_v1::ForgetRequest { session: "talk".into(), ..Default::default() }
        };
        let (mut removed, mut steps) = (Vec::new(), 0);
        loop {
            let reply = world.shard.forgotten(request.clone()).await;
            removed.extend(reply.removed.iter().map(|id| crate::common::number(id)));
            steps += 1;
            if !reply.more {
                break;
            }
            request.after = reply.next;
        }
        assert_eq!(removed, (first..first + 6).collect::<Vec<_>>());
        assert!(steps > 1, "{steps} steps");
    }
    world.node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chunk_is_referred_to_as_long_as_any_version_does() {
    let world = World::new(keeping(1, 90, 7)).await;
    let with_chunk = |id: u128, chunk: u128| node_v1::FrameWrite {
        chunks: vec![chunk.to_be_bytes().to_vec().into()],
        ..replacing(frame(id, &format!("chunk {chunk}"), EAST))
    };
    let references = async || {
        let (shard, collection) = (world.shard.shard, world.shard.collection);
        let request = node_v1::ListReferencesRequest { shard, collection, ..Default::default() };
        let reply = world.shard.client.shards().list_references(request).await.expect("an answer").into_inner();
        reply.chunks.chunks(16).map(crate::common::number).collect::<Vec<u128>>()
    };
    for chunk in [21, 22, 23] {
        world.shard.one(with_chunk(1, chunk)).await.expect("stored");
        world.pass(1_000);
    }
    assert_eq!(references().await, [22, 23], "one past version is kept");
    world.shard.forget(by_id(1)).await;
    assert_eq!(references().await, [22, 23]);
    assert_eq!(world.undelete(1).await, Ok((4, false)));
    assert_eq!(references().await, [23, 23], "the version that was forgotten, and the one that came back");
    world.forget(Scope::ForGood, by_id(1)).await;
    assert_eq!(references().await, [0u128; 0]);
    assert!(world.is_empty());
    world.node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_collection_leaves_nothing_of_its_past() {
    let world = World::new(None).await;
    world.says(1, "tea").await;
    world.says(1, "coffee").await;
    world.says(2, "water").await;
    world.shard.forget(by_id(2)).await;
    assert!(world.keys(Table::Past) == 2 && world.keys(Table::Forgotten) == 1);
    let open = world.node.node().shard(world.shard.shard).expect("open");
    open.purge(world.shard.collection).await.expect("purged");
    assert!(record::TABLES.into_iter().all(|table| world.keys(table) == 0));
    let key = history::bound_key(world.shard.collection);
    assert_eq!(open.group().reader().get(&key).expect("readable"), None);
    world.node.shutdown().await;
}
