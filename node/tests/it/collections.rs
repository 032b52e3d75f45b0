//! Very many collections: each is made and dropped at the same cost, and nobody who knows of a few is told of all.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use mira_crypto::ClusterKey;
use mira_node::keys::keyring::Keyring;
use mira_node::meta::{
    ClusterState, CollectionChanges, CollectionRecord, META_GROUP, MetaAnswer, MetaCommand, MetaMachine, NameKey,
};
use mira_node::shard::history::Retention;
use mira_proto::{CollectionId, limits};
use mira_raft::engine::MemEngine;
use mira_raft::transport::local::LocalNetwork;
use mira_raft::{Group, HostConfig, RaftHost, StateMachine};
use mira_testing::{eventually, keys::KEY};
use tokio::sync::watch;

const MANY: u64 = 100_000;
const PATIENCE: Duration = Duration::from_secs(60);

struct Meta {
    group: Group,
    keyring: Arc<Keyring>,
    machine: Arc<MetaMachine>,
    cluster: watch::Receiver<Arc<ClusterState>>,
    _host: Arc<RaftHost>,
}

impl Meta {
    /// The meta group of a cluster that was just formed.
    async fn formed() -> Meta {
        let network: LocalNetwork = LocalNetwork::new();
        let engines = [MemEngine::new(), MemEngine::new()].map(Arc::new);
        let [log, state] = engines;
        let host = RaftHost::open(HostConfig::new(1, log, state, network.transport(1))).await.unwrap();
        let keyring = Arc::new(Keyring::new(vec![ClusterKey::from_text(KEY).unwrap()]));
        let (machine, cluster) = MetaMachine::new(keyring.clone());
        let group = host.open_group(META_GROUP, machine.clone()).await.unwrap();
        group.initialize(BTreeSet::from([1])).await.unwrap();
        let leads = async || group.status().is_leader().then_some(());
        eventually("it leads", PATIENCE, leads).await;
        let meta = Meta { group, keyring, machine, cluster, _host: host };
        let form = MetaCommand::Form {
            cluster_id: 1,
            shards: 16,
            replication: 1,
            expect: 1,
            layer_key: vec![1],
            name_key: NameKey([3; 32]),
        };
        assert_eq!(meta.propose(&form).await, MetaAnswer::Done);
        meta
    }

    async fn propose(&self, command: &MetaCommand) -> MetaAnswer {
        let sealed =
            command.seal(self.group.reader().applied_index(), &self.keyring.meta_sealer(), &mut mira_crypto::os_rng());
        let proposed = self.group.propose(None, sealed.into()).await.unwrap();
        postcard::from_bytes(&proposed.response).unwrap()
    }

    async fn create(&self, id: CollectionId) -> MetaAnswer {
        self.propose(&MetaCommand::CreateCollection(record(id, &name(id)))).await
    }

    async fn create_many(&self, ids: std::ops::RangeInclusive<u64>) {
        let made = futures::stream::iter(ids).map(|id| self.create(id)).buffer_unordered(256);
        made.for_each(|answer| async move { assert_eq!(answer, MetaAnswer::Done) }).await;
    }

    fn cluster(&self) -> Arc<ClusterState> {
        self.cluster.borrow().clone()
    }

    /// Makes one more; a router that has the map from before gets that one and no other.
    async fn tells_of_one_more(&self, id: CollectionId) {
        let known = self.cluster().header.epoch;
        assert_eq!(self.create(id).await, MetaAnswer::Done);
        let map = self.cluster().to_map(known, |_| None, |_| Bytes::new());
        assert!(!map.all_changed);
        assert_eq!(map.changed.iter().map(|change| change.collection).collect::<Vec<_>>(), [id]);
    }
}

fn name(id: CollectionId) -> String {
    format!("collection {id:07}")
}

fn record(id: CollectionId, name: &str) -> CollectionRecord {
    CollectionRecord { wrapped_keys: [(0, vec![7; 60]), (1, vec![8; 60])].into(), ..CollectionRecord::new(id, name, 4) }
}

/// A state without what it remembers of the way to it.
fn alone(state: &ClusterState) -> ClusterState {
    ClusterState { changes: CollectionChanges::default(), ..state.clone() }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_thousand_collections_are_made_found_and_dropped() {
    let meta = Meta::formed().await;
    meta.tells_of_one_more(1).await;
    meta.create_many(2..=MANY - 1).await;
    meta.tells_of_one_more(MANY).await;

    let cluster = meta.cluster();
    assert_eq!((cluster.collections.len() as u64, u64::from(cluster.header.collections)), (MANY, MANY));
    for id in [1, 777, MANY] {
        assert_eq!(cluster.collection_named(&name(id)).map(|found| found.id), Some(id));
    }
    let page: Vec<_> = cluster.collections.after(&name(500)).take(3).map(|found| found.id).collect();
    assert_eq!(page, [501, 502, 503]);
    assert_eq!(meta.create(777).await, MetaAnswer::Exists);
    let other = MetaCommand::CreateCollection(record(MANY + 1, &name(777)));
    assert_eq!(meta.propose(&other).await, MetaAnswer::Exists, "another number does not free the name");
    assert!(cluster.to_map(0, |_| None, |_| Bytes::new()).all_changed, "who knows nothing is not told everything");

    for id in 1..=50 {
        let gone = MetaCommand::DropCollection { name: name(id), id };
        assert_eq!(meta.propose(&gone).await, MetaAnswer::Done);
    }
    assert_eq!(meta.propose(&MetaCommand::DropCollection { name: name(1), id: 1 }).await, MetaAnswer::Missing);
    let again = MetaCommand::CreateCollection(record(MANY + 2, &name(1)));
    assert_eq!(meta.propose(&again).await, MetaAnswer::Done, "the name is free");
    let followed = meta.cluster();
    assert_eq!(u64::from(followed.header.collections), MANY - 49);
    // What was followed change by change is what there is.
    meta.machine.restored(meta.group.reader(), meta.group.reader().applied_index());
    assert!(alone(&meta.cluster()) == alone(&followed), "read as a whole");
}

/// Every kind of record is followed as it is read as a whole, whatever the order of changes.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_followed_change_by_change_is_what_is_read_as_a_whole() {
    use mira_node::meta::{MoveStep, NodePhase, NodeRecord, Repository};

    let meta = Meta::formed().await;
    let node = |id| NodeRecord {
        id,
        address: format!("n{id}:1"),
        http_address: String::new(),
        zone: String::new(),
        version: String::new(),
        format: mira_proto::FORMAT_LEVEL,
    };
    let owner = |record: &str, replaces: &str| MetaCommand::PutOwner {
        owner: [6; 16],
        record: record.into(),
        replaces: replaces.into(),
    };
    let repository = Repository { place: "somewhere".into(), keys_epoch: 0, finished_ms: 0 };
    let commands = [
        MetaCommand::PutNode(node(1)),
        MetaCommand::PutNode(node(2)),
        MetaCommand::PlaceShards(vec![vec![1]; 16]),
        MetaCommand::SetPhases(vec![(2, NodePhase::Active { ring: 2 })]),
        MetaCommand::CreateCollection(record(7, "notes")),
        MetaCommand::CreateCollection(record(8, "other")),
        MetaCommand::TuneCollection { collection: 7, space: 0, ef: 80 },
        MetaCommand::SetRetention { collection: 7, retention: Retention { last: 1, days: 2, bin_days: 3 } },
        MetaCommand::StartGrowth { collection: 7, to: 4 },
        MetaCommand::StartRotation { collection: 8, to: 2, wrapped: vec![4], request: 3 },
        owner("first", ""),
        owner("second", "first"),
        MetaCommand::PauseMoves(true),
        MetaCommand::PauseMoves(false),
        MetaCommand::StartMove { shard: 3, from: Some(1), to: 2 },
        MetaCommand::CancelMove { shard: 3, to: 2 },
        MetaCommand::StepMove { shard: 3, to: 2, step: MoveStep::Leaving },
        MetaCommand::SetReceiptKey(vec![7]),
        MetaCommand::PutRepository { id: 5, repository },
        MetaCommand::Shred { name: "other".into(), id: 8, names: [(1, [3; 8])].into() },
        MetaCommand::DropCollection { name: "notes".into(), id: 7 },
        MetaCommand::ForgetRepository(5),
        MetaCommand::SetPhases(vec![(2, NodePhase::Lost)]),
        MetaCommand::RemoveNode(2),
    ];
    for command in commands {
        let answer = meta.propose(&command).await;
        assert!(matches!(answer, MetaAnswer::Done), "{command:?}: {answer:?}");
        let followed = meta.cluster();
        meta.machine.restored(meta.group.reader(), meta.group.reader().applied_index());
        assert_eq!(alone(&meta.cluster()), alone(&followed), "after {command:?}");
    }
    assert!(limits::MAX_COLLECTIONS >= MANY as usize);
}
