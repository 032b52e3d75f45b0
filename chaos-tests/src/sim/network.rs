//! The simulated network: between nodes, and from clients to nodes.
//!
//! A message is a leg there and a leg back. Each leg may be cut, lost, late or (between nodes) out of order or double;
//! without those faults messages of one direction of a link keep their order, as on a connection. What was sent to, or
//! answered by, a process that has died since is lost.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::channel::oneshot;
use futures::future::BoxFuture;
use mira_proto::{NodeId, Refusal};
use mira_raft::{Transport, TransportError};
use parking_lot::Mutex;
use rand::Rng;

use super::protocol::{Answer, Ask};
use super::runtime;
use super::world::World;

/// A process at a node's address.
pub trait Server: Send + Sync + 'static {
    /// Which of the node's processes it is, in order.
    fn life(&self) -> u64;

    /// Answers a message of replication.
    fn handle(&self, request: Bytes) -> BoxFuture<'_, Bytes>;

    /// Answers a client or another node.
    fn serve(&self, ask: Ask) -> BoxFuture<'_, Result<Answer, Refusal>>;
}

/// Something with an address: a node, or (above all nodes) a client.
pub type Endpoint = u64;

/// Addresses of clients begin here.
pub const CLIENTS: Endpoint = 1_000;

/// The kind of message by which nodes hear of each other.
const NODE_HEARTBEAT: u8 = 8;

/// Longer than anyone waits for an answer.
const SILENCE: Duration = Duration::from_secs(12);

/// Probabilities and times that faults change.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct NetworkFaults {
    /// Of a leg to be lost.
    pub loss: f64,
    /// Of a leg to be late.
    pub late: f64,
    /// How late at most.
    pub late_by: Duration,
    /// Of a leg between nodes to overtake or be overtaken.
    pub reorder: f64,
    /// Of a message between nodes to arrive twice.
    pub duplicate: f64,
}

/// The network. One for a run.
pub struct Network {
    world: Arc<World>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    servers: BTreeMap<NodeId, Arc<dyn Server>>,
    /// Directions that are cut.
    cut: BTreeSet<(Endpoint, Endpoint)>,
    faults: NetworkFaults,
    /// When the last message of each direction arrives.
    last_arrival: BTreeMap<(Endpoint, Endpoint), Duration>,
    /// Messages of groups that have arrived; what nodes say of themselves does not count.
    group_messages: u64,
}

impl Network {
    /// A network of nobody, without faults.
    pub fn new(world: Arc<World>) -> Arc<Self> {
        Arc::new(Network { world, state: Mutex::default() })
    }

    /// Makes a process reachable, in place of an earlier one of its node.
    pub fn connect(&self, node: NodeId, server: Arc<dyn Server>) {
        self.state.lock().servers.insert(node, server);
    }

    /// Makes a node unreachable: its process is gone.
    pub fn disconnect(&self, node: NodeId) {
        self.state.lock().servers.remove(&node);
    }

    fn server(&self, node: NodeId) -> Option<Arc<dyn Server>> {
        self.state.lock().servers.get(&node).cloned()
    }

    /// Cuts these directions.
    pub fn cut(&self, directions: &[(Endpoint, Endpoint)]) {
        self.state.lock().cut.extend(directions);
    }

    /// Heals these directions.
    pub fn heal(&self, directions: &[(Endpoint, Endpoint)]) {
        let mut state = self.state.lock();
        directions.iter().for_each(|direction| {
            state.cut.remove(direction);
        });
    }

    /// Changes what happens to messages.
    pub fn change_faults(&self, change: impl FnOnce(&mut NetworkFaults)) {
        change(&mut self.state.lock().faults);
    }

    /// How many messages of groups have arrived.
    pub fn group_messages(&self) -> u64 {
        self.state.lock().group_messages
    }

    /// Ends all faults.
    pub fn heal_all(&self) {
        let mut state = self.state.lock();
        state.cut.clear();
        state.faults = NetworkFaults::default();
    }

    /// Node `from`'s way into the network, for as long as that process lives.
    pub fn transport(self: &Arc<Self>, from: NodeId, life: u64) -> Arc<dyn Transport> {
        Arc::new(NodeTransport { network: self.clone(), from, life })
    }

    /// Whether this process of a node is the one that runs.
    pub fn lives(&self, node: NodeId, life: u64) -> bool {
        self.state.lock().servers.get(&node).is_some_and(|server| server.life() == life)
    }

    /// How long a leg takes; `None` if it does not arrive.
    fn leg(&self, from: Endpoint, to: Endpoint, rpc: bool) -> Option<Duration> {
        let mut state = self.state.lock();
        let faults = state.faults;
        if state.cut.contains(&(from, to)) || self.world.chance(faults.loss) {
            return None;
        }
        let mut takes = Duration::from_micros(self.world.draw(|rng| rng.random_range(100..1_500)));
        if self.world.chance(faults.late) {
            takes += self.world.draw(|rng| faults.late_by.mul_f64(rng.random_range(0.0..1.0)));
        }
        let now = runtime::now();
        let last = state.last_arrival.entry((from, to)).or_default();
        if !(rpc && self.world.chance(faults.reorder)) {
            takes = takes.max(last.saturating_sub(now) + Duration::from_nanos(1));
        }
        *last = (*last).max(now + takes);
        Some(takes)
    }

    /// Sends a request from node to node; the reply comes over the channel, unless something goes wrong.
    fn deliver(
        self: &Arc<Self>,
        from: (NodeId, u64),
        to: NodeId,
        request: Bytes,
        reply: Option<oneshot::Sender<Bytes>>,
    ) {
        let Some(takes) = self.leg(from.0, to, true) else {
            self.world.note(format_args!("n{} -> n{to} lost", from.0));
            // Half of the time the sender finds out at once, half of the time only by waiting.
            if self.world.chance(0.5) {
                runtime::spawn(async move {
                    runtime::sleep(SILENCE).await;
                    drop(reply);
                });
            }
            return;
        };
        let network = self.clone();
        runtime::spawn(async move {
            runtime::sleep(takes).await;
            let Some(server) = network.server(to) else { return };
            let crc = crc32fast::hash(&request);
            if request[1] != NODE_HEARTBEAT {
                network.state.lock().group_messages += 1;
            }
            network.world.note(format_args!(
                "n{} -> n{to} kind {} {} bytes {crc:08x}",
                from.0,
                request[1],
                request.len()
            ));
            let answer = server.handle(request).await;
            let Some(takes) = network.leg(to, from.0, true) else { return };
            runtime::sleep(takes).await;
            if let Some(reply) = reply
                && network.lives(from.0, from.1)
                && network.lives(to, server.life())
            {
                // A caller that gave up listens no more.
                let _ = reply.send(answer);
            }
        });
    }

    /// A client's request to a node, as over a connection: in order, never double, but it may break.
    pub async fn ask(self: &Arc<Self>, client: Endpoint, to: NodeId, ask: Ask) -> Result<Answer, Refusal> {
        let lost = || Refusal::Unknown("connection lost".into());
        let refused = || Refusal::NotReady("connection refused".into());
        let leg = self.leg(client, to, false);
        if leg.is_none() && self.world.chance(0.5) {
            runtime::sleep(SILENCE).await;
        }
        runtime::sleep(leg.ok_or_else(lost)?).await;
        let server = self.server(to).ok_or_else(refused)?;
        let (done, answer) = oneshot::channel();
        let (network, life) = (self.clone(), server.life());
        self.world.spawn("service", async move {
            let answer = server.serve(ask).await;
            let Some(takes) = network.leg(to, client, false) else { return };
            runtime::sleep(takes).await;
            if network.lives(to, life) {
                let _ = done.send(answer);
            }
        });
        answer.await.unwrap_or_else(|_| Err(lost()))
    }
}

struct NodeTransport {
    network: Arc<Network>,
    from: NodeId,
    life: u64,
}

impl Transport for NodeTransport {
    fn call(
        &self,
        peer: NodeId,
        request: Bytes,
        timeout: Duration,
    ) -> BoxFuture<'static, Result<Bytes, TransportError>> {
        let (network, from) = (self.network.clone(), (self.from, self.life));
        Box::pin(async move {
            if !network.lives(from.0, from.1) {
                return Err(TransportError::Lost("this process is dead".into()));
            }
            if network.server(peer).is_none() {
                return Err(TransportError::Unreachable(peer, "connection refused".into()));
            }
            let duplicate = network.state.lock().faults.duplicate;
            if network.world.chance(duplicate) {
                network.deliver(from, peer, request.clone(), None);
            }
            let (reply, answer) = oneshot::channel();
            network.deliver(from, peer, request, Some(reply));
            match runtime::timeout(timeout, answer).await {
                Some(Ok(answer)) => Ok(answer),
                Some(Err(_)) => Err(TransportError::Lost("connection lost".into())),
                None => Err(TransportError::Timeout(timeout)),
            }
        })
    }
}
