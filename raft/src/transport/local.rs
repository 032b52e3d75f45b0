//! Hosts connected within one process: for tests and single-process clusters.

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use parking_lot::RwLock;

use super::{Transport, TransportError};
use crate::host::RaftHost;
use crate::types::{NodeId, Runtime, TokioRuntime};

/// Asked before each call, with caller, callee and request; a refusal loses the message.
pub type Gate = dyn Fn(NodeId, NodeId, &Bytes) -> Result<(), TransportError> + Send + Sync;

/// A network of hosts within the process.
pub struct LocalNetwork<R: Runtime = TokioRuntime> {
    shared: Arc<RwLock<Shared<R>>>,
}

impl<R: Runtime> Clone for LocalNetwork<R> {
    fn clone(&self) -> Self {
        Self { shared: self.shared.clone() }
    }
}

struct Shared<R: Runtime> {
    hosts: BTreeMap<NodeId, Weak<RaftHost<R>>>,
    gate: Option<Arc<Gate>>,
}

impl<R: Runtime> Default for LocalNetwork<R> {
    fn default() -> Self {
        Self { shared: Arc::new(RwLock::new(Shared { hosts: BTreeMap::new(), gate: None })) }
    }
}

impl<R: Runtime> LocalNetwork<R> {
    /// A network of nobody.
    pub fn new() -> Self {
        Self::default()
    }

    /// Node `from`'s way into the network.
    pub fn transport(&self, from: NodeId) -> Arc<dyn Transport> {
        Arc::new(LocalTransport { from, network: self.clone() })
    }

    /// Makes a host reachable, in place of an earlier one of that id.
    pub fn connect(&self, node: NodeId, host: &Arc<RaftHost<R>>) {
        self.shared.write().hosts.insert(node, Arc::downgrade(host));
    }

    /// Makes a node unreachable.
    pub fn disconnect(&self, node: NodeId) {
        self.shared.write().hosts.remove(&node);
    }

    /// Installs (or removes) what decides whether a message gets through.
    pub fn set_gate(&self, gate: Option<Arc<Gate>>) {
        self.shared.write().gate = gate;
    }
}

struct LocalTransport<R: Runtime> {
    from: NodeId,
    network: LocalNetwork<R>,
}

impl<R: Runtime> Transport for LocalTransport<R> {
    fn call(
        &self,
        peer: NodeId,
        request: Bytes,
        timeout: Duration,
    ) -> BoxFuture<'static, Result<Bytes, TransportError>> {
        let (from, network) = (self.from, self.network.clone());
        Box::pin(async move {
            let (host, gate) = {
                let shared = network.shared.read();
                (shared.hosts.get(&peer).and_then(Weak::upgrade), shared.gate.clone())
            };
            if let Some(gate) = gate {
                gate(from, peer, &request)?;
            }
            let host = host.ok_or_else(|| TransportError::Unreachable(peer, "not connected".into()))?;
            match R::timeout(timeout, host.handle(request)).await {
                Ok(reply) => Ok(reply),
                Err(_) => Err(TransportError::Timeout(timeout)),
            }
        })
    }
}
