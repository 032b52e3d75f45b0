//! Clusters within the process, on in-memory disks.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::{Bound, ControlFlow};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use mira_raft::engine::MemEngine;
use mira_raft::transport::local::LocalNetwork;
use mira_raft::{
    Clock, Command, EngineError, Group, GroupId, GroupStatus, HostConfig, Limits, NodeId, ProposeError, RaftHost,
    RequestId, StateMachine, StateReader, Timing, Txn,
};

pub const GROUP: GroupId = 3;
/// Whoever applies a command that sets this key panics half way.
pub const PANIC: &str = "panic";
/// What sets keys that begin with this may share a log entry. Others do not: tests count entries.
pub const SHARED: &str = "shared ";
/// Longer than anything takes on a loaded machine; a test that waits this long has failed.
pub const SECONDS: Duration = Duration::from_secs(60);

/// Asks again and again until `condition` gives something, for `within` at most.
pub async fn eventually<T>(what: &str, within: Duration, mut condition: impl AsyncFnMut() -> Option<T>) -> T {
    let until = tokio::time::Instant::now() + within;
    loop {
        if let Some(value) = condition().await {
            return value;
        }
        assert!(tokio::time::Instant::now() < until, "waited {within:?} in vain: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// A payload that sets `key` to `value`.
pub fn set(key: &str, value: &str) -> Bytes {
    [&[key.len() as u8], key.as_bytes(), value.as_bytes()].concat().into()
}

/// Sets keys, counts how often each was set, and answers with that.
#[derive(Default)]
pub struct Register {
    pub restored: AtomicUsize,
    pub committed: AtomicU64,
    reader: Mutex<Option<StateReader>>,
}

impl StateMachine for Register {
    fn apply(&self, command: Command<'_>, txn: &mut Txn<'_>) -> Result<Bytes, EngineError> {
        let (length, rest) = command.payload.split_first().expect("a payload of `set`");
        let (key, value) = rest.split_at(*length as usize);
        let counter = [b"#", key].concat();
        let times = txn.get(&counter)?.map_or(0, |times| times[0]) + 1;
        txn.put(&counter, vec![times]);
        txn.put(&[b"=", key].concat(), value.to_vec());
        assert_ne!(key, PANIC.as_bytes(), "as told");
        Ok(format!("{}={times}", String::from_utf8_lossy(key)).into())
    }

    fn shares_entry(&self, payload: &[u8]) -> bool {
        payload.get(1..).is_some_and(|key| [SHARED, PANIC].iter().any(|start| key.starts_with(start.as_bytes())))
    }

    fn committed(&self, applied_index: u64) {
        let before = self.committed.swap(applied_index, Ordering::Relaxed);
        assert!(before < applied_index, "{before} then {applied_index}");
        // Whoever waits for this index must not go on before the application has heard of it.
        let reader = self.reader.lock().unwrap().clone().expect("restored comes first");
        assert!(reader.applied_index() < applied_index);
        assert_eq!(reader.view().unwrap().applied_index(), applied_index);
    }

    fn restored(&self, state: StateReader, applied_index: u64) {
        assert!(state.applied_index() <= applied_index);
        assert_eq!(state.view().unwrap().applied_index(), applied_index);
        *self.reader.lock().unwrap() = Some(state);
        self.committed.store(applied_index, Ordering::Relaxed);
        self.restored.fetch_add(1, Ordering::Relaxed);
    }
}

struct TestClock(Arc<AtomicU64>);

impl Clock for TestClock {
    fn now_ms(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

struct Node {
    engines: [MemEngine; 2],
    host: Arc<RaftHost>,
    group: Group,
    app: Arc<Register>,
}

/// Nodes 1, 2, 3, …; the first three vote.
pub struct Cluster {
    pub network: LocalNetwork,
    pub clock: Arc<AtomicU64>,
    limits: Limits,
    timing: Timing,
    nodes: BTreeMap<NodeId, Node>,
    requests: AtomicU64,
}

impl Cluster {
    pub async fn start(size: u64, limits: Limits) -> Self {
        Self::start_with(size, limits, Timing { propose: Duration::from_secs(3), ..Timing::default() }).await
    }

    pub async fn start_with(size: u64, limits: Limits, timing: Timing) -> Self {
        let mut cluster = Self {
            network: LocalNetwork::new(),
            clock: Arc::new(AtomicU64::new(1_000_000)),
            limits,
            timing,
            nodes: BTreeMap::new(),
            requests: AtomicU64::new(1 << 32),
        };
        for id in 1..=size {
            let node = cluster.open(id, [MemEngine::new(), MemEngine::new()]).await;
            cluster.nodes.insert(id, node);
        }
        let voters: BTreeSet<NodeId> = (1..=size.min(3)).collect();
        cluster.group(1).initialize(voters).await.unwrap();
        // Until then the first membership is a change under way, and others are refused.
        let committed = async || cluster.nodes().any(|node| cluster.group(node).status().committed > 0).then_some(());
        eventually("the first membership is committed", SECONDS, committed).await;
        cluster
    }

    async fn open(&self, id: NodeId, engines: [MemEngine; 2]) -> Node {
        let [log, state] = engines.clone().map(Arc::new);
        let config = HostConfig {
            clock: Arc::new(TestClock(self.clock.clone())),
            timing: self.timing,
            limits: self.limits,
            ..HostConfig::new(id, log, state, self.network.transport(id))
        };
        let host = RaftHost::open(config).await.unwrap();
        let app = Arc::new(Register::default());
        let group = host.open_group(GROUP, app.clone()).await.unwrap();
        self.network.connect(id, &host);
        Node { engines, host, group, app }
    }

    /// Opens a node's group again after its host was.
    pub async fn reopen_group(&mut self, id: NodeId) {
        let node = self.nodes.get_mut(&id).unwrap();
        node.group = node.host.open_group(GROUP, node.app.clone()).await.unwrap();
    }

    pub fn nodes(&self) -> impl Iterator<Item = NodeId> + use<> {
        self.nodes.keys().copied().collect::<Vec<_>>().into_iter()
    }

    pub fn another(&self, than: NodeId) -> NodeId {
        self.nodes().find(|node| *node != than).unwrap()
    }

    pub fn group(&self, node: NodeId) -> &Group {
        &self.nodes[&node].group
    }

    pub fn host(&self, node: NodeId) -> &Arc<RaftHost> {
        &self.nodes[&node].host
    }

    /// Log and state.
    pub fn engines(&self, node: NodeId) -> &[MemEngine; 2] {
        &self.nodes[&node].engines
    }

    pub fn restored(&self, node: NodeId) -> usize {
        self.nodes[&node].app.restored.load(Ordering::Relaxed)
    }

    /// The node that leads, in the newest term anyone knows.
    pub async fn leader(&self) -> NodeId {
        eventually("a leader", SECONDS, async || {
            let statuses = self.nodes.iter().map(|(id, node)| (*id, node.group.status()));
            let (id, status) = statuses.max_by_key(|(_, status)| (status.term, status.is_leader()))?;
            status.is_leader().then_some(id)
        })
        .await
    }

    pub async fn until(&self, node: NodeId, condition: impl Fn(&GroupStatus) -> bool + Send + Sync) -> GroupStatus {
        let met = self.group(node).watch().wait_for(SECONDS, condition).await;
        met.unwrap_or_else(|| panic!("not in time: {:?}", self.group(node).status()))
    }

    /// Writes `count` keys, eight at a time, retrying each under its request id until it is acknowledged; their names.
    pub async fn write_many(&self, prefix: &str, count: usize) -> Vec<String> {
        use futures::StreamExt;
        let keys: Vec<String> = (0..count).map(|n| format!("{prefix}{n}")).collect();
        let writes = keys.iter().map(|key| self.write_until_acknowledged(key));
        futures::stream::iter(writes).buffer_unordered(8).collect::<Vec<()>>().await;
        keys
    }

    async fn write_until_acknowledged(&self, key: &str) {
        let id = RequestId(u128::from(self.requests.fetch_add(1, Ordering::Relaxed)));
        eventually(&format!("{key} is acknowledged"), SECONDS, async || {
            let leader = self.leader().await;
            let proposed = self.group(leader).propose(Some(id), set(key, "v")).await;
            assert_ne!(proposed, Err(ProposeError::RequestIdReused));
            proposed.ok()
        })
        .await;
    }

    /// Waits until all nodes have applied what the leader has, and checks that they hold the same.
    pub async fn agree(&self) {
        let leader = self.leader().await;
        let index = self.group(leader).status().last_log_index;
        for node in self.nodes() {
            let waited = self.group(node).wait_applied(index, SECONDS).await;
            assert!(waited.is_ok(), "{waited:?}: {:?}", self.group(node).status());
        }
        for node in self.nodes() {
            assert_eq!(self.contents(node), self.contents(leader), "node {node} and leader {leader}");
        }
    }

    /// Cuts the power of a node.
    pub async fn crash(&mut self, id: NodeId) {
        self.network.disconnect(id);
        let node = self.nodes.get_mut(&id).unwrap();
        let survived = node.engines.each_ref().map(MemEngine::crash);
        node.host.shutdown().await;
        node.engines = survived;
    }

    /// Stops a node in good order.
    pub async fn stop(&mut self, id: NodeId) {
        self.network.disconnect(id);
        self.nodes[&id].host.shutdown().await;
    }

    pub async fn restart(&mut self, id: NodeId) {
        let engines = self.nodes[&id].engines.clone();
        let node = self.open(id, engines).await;
        self.nodes.insert(id, node);
    }

    pub fn contents(&self, node: NodeId) -> BTreeMap<Vec<u8>, Vec<u8>> {
        let mut contents = BTreeMap::new();
        let view = self.group(node).reader().view().unwrap();
        view.scan(Bound::Unbounded, Bound::Unbounded, false, &mut |key, value| {
            contents.insert(key.to_vec(), value.to_vec());
            ControlFlow::Continue(())
        })
        .unwrap();
        contents
    }

    pub fn value(&self, node: NodeId, key: &str) -> Option<String> {
        let value = self.group(node).reader().get(format!("={key}").as_bytes()).unwrap()?;
        Some(String::from_utf8(value.to_vec()).unwrap())
    }

    pub fn times_applied(&self, node: NodeId, key: &str) -> u8 {
        self.group(node).reader().get(format!("#{key}").as_bytes()).unwrap().map_or(0, |times| times[0])
    }
}
