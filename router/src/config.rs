//! What a router is started with.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use mira_crypto::PassphraseCost;
use mira_embed::Embedder;
use mira_net::descriptors;
use mira_proto::limits;

use crate::{AccessToken, server};

/// Settings of one router.
#[derive(Clone)]
pub struct RouterConfig {
    /// Addresses (host:port) of storage nodes to learn the cluster map from; any one that answers is enough.
    pub nodes: Vec<String>,
    /// Where MCP, REST, metrics and health are served; port 0 picks a free one.
    pub http: SocketAddr,
    /// Where gRPC is served; port 0 picks a free one.
    pub grpc: SocketAddr,
    /// Bearer tokens that are let in, each of a principal. Empty only together with `insecure_without_tokens`.
    pub tokens: Vec<AccessToken>,
    /// Serve without any token: for tests, and behind something else that checks callers.
    pub insecure_without_tokens: bool,
    /// Let every principal name any owner of private memories (`X-Mira-Owner`), and not itself alone: for one caller that
    /// acts for many people.
    pub any_owner: bool,
    /// Serve `/metrics` without a token, as scrapers expect.
    pub open_metrics: bool,
    /// Turns texts into vectors. Without one, callers must give vectors.
    pub embedder: Option<Arc<dyn Embedder>>,
    /// `Host` headers that MCP requests may carry, beside loopback and the HTTP address itself (DNS rebinding).
    pub allowed_hosts: Vec<String>,
    /// `Origin` headers that MCP requests may carry, such as `https://app.example.com:443`; any other is refused.
    pub allowed_origins: Vec<String>,
    /// Connections of each port at a time.
    pub connections: usize,
    /// Time a request gets when it names none.
    pub default_deadline: Duration,
    /// What one guess at an owner's passphrase costs; records that cost less are replaced when they are next opened.
    pub passphrase_cost: PassphraseCost,
}

impl Default for RouterConfig {
    /// Loopback on the standard ports, nobody let in, no nodes.
    fn default() -> Self {
        RouterConfig {
            nodes: Vec::new(),
            http: (Ipv4Addr::LOCALHOST, 7890).into(),
            grpc: (Ipv4Addr::LOCALHOST, 7891).into(),
            tokens: Vec::new(),
            insecure_without_tokens: false,
            any_owner: false,
            open_metrics: true,
            embedder: None,
            allowed_hosts: Vec::new(),
            allowed_origins: Vec::new(),
            connections: mira_net::limits::MAX_CONNECTIONS,
            default_deadline: limits::DEFAULT_DEADLINE,
            passphrase_cost: PassphraseCost::RECOMMENDED,
        }
    }
}

impl RouterConfig {
    /// Files and connections that the router may have open at once.
    pub fn descriptors(&self) -> u64 {
        2 * descriptors::of_listener(&server::settings(self.connections)) + descriptors::OWN_DESCRIPTORS
    }
}
