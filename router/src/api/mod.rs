//! The front ends: MCP, REST and gRPC, each a thin adapter over [`Memory`].
//!
//! What they share stands here: who is let in ([`auth`]) and how headers become a [`RequestContext`]. An adapter turns
//! its protocol's message into a request of [`mira_proto::model`], calls one method, and turns the answer or the
//! [`Problem`] back. Nothing is decided in an adapter, so the same input has the same outcome on all three. The routes of
//! HTTP, their description and MCP's tools are made of one table, `operations.rs`.

mod access;
pub mod auth;
mod body;
mod content;
mod extract;
mod failure;
pub mod grpc;
pub mod mcp;
mod openapi;
mod operation;
mod operations;
pub mod rest;

use std::sync::Arc;
use std::time::Duration;

use axum::http::HeaderMap;
use mira_proto::{Code, Problem, limits, names};

use crate::cluster::Cluster;
use crate::metrics::Metrics;
use crate::private::credential::{Credential, NewPassphrase};
use crate::{Memory, RequestContext, RouterConfig};
use auth::Gate;
use body::BodyRoom;
use mcp::cancel::RunningCalls;

/// The header that carries a consistency token, in requests and answers.
pub const CONSISTENCY_TOKEN: &str = "x-mira-consistency-token";
/// The header that bounds a request's time, in milliseconds.
pub const TIMEOUT_MS: &str = "x-mira-timeout-ms";
/// The header that names a request, so that sending it again is safe.
pub const IDEMPOTENCY_KEY: &str = "idempotency-key";
/// The header that carries the key of an owner of private frames: base64 of 32 bytes.
pub const OWNER_KEY: &str = "x-mira-owner-key";
/// The header that carries a passphrase in the place of a key.
pub const OWNER_PASSPHRASE: &str = "x-mira-owner-passphrase";
/// The passphrase that is to take its place.
pub const NEW_PASSPHRASE: &str = "x-mira-new-passphrase";
/// The header that says whose private memories a request is about: the caller's own, which it is without it, or any owner's
/// where the router allows it.
pub const OWNER: &str = "x-mira-owner";
/// gRPC's own header for a request's time.
const GRPC_TIMEOUT: &str = "grpc-timeout";

/// What the adapters work with.
pub struct Api {
    pub(crate) memory: Arc<Memory>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) gate: Gate,
    any_owner: bool,
    pub(crate) open_metrics: bool,
    pub(crate) allowed_hosts: Vec<String>,
    pub(crate) allowed_origins: Vec<String>,
    /// Room for bodies that are whole in memory.
    bodies: BodyRoom,
    /// Requests at work that a client may cancel.
    calls: RunningCalls,
    /// Room for bodies that are not whole in memory.
    streams: Arc<tokio::sync::Semaphore>,
    cluster: Arc<Cluster>,
    model: Option<String>,
    default_deadline: Duration,
}

impl Api {
    /// The front ends' common part.
    pub fn new(memory: Arc<Memory>, metrics: Arc<Metrics>, config: &RouterConfig) -> Self {
        Api {
            bodies: BodyRoom::default(),
            calls: RunningCalls::default(),
            streams: Arc::new(tokio::sync::Semaphore::new(limits::MAX_STREAMS)),
            cluster: memory.cluster.clone(),
            model: memory.embedding.model().map(|model| model.name.clone()),
            memory,
            metrics,
            gate: Gate::new(&config.tokens),
            any_owner: config.any_owner,
            open_metrics: config.open_metrics,
            allowed_hosts: config.allowed_hosts.clone(),
            allowed_origins: config.allowed_origins.clone(),
            default_deadline: config.default_deadline,
        }
    }

    /// The circumstances of a request that was let in, from its headers (gRPC: its metadata).
    pub(crate) fn context(&self, principal: Arc<str>, headers: &HeaderMap) -> Result<RequestContext, Problem> {
        let named = match (text(headers, TIMEOUT_MS)?, text(headers, GRPC_TIMEOUT)?) {
            (Some(ms), _) => Some(milliseconds(ms)?),
            (None, Some(timeout)) => Some(grpc_timeout(timeout)?),
            (None, None) => None,
        };
        let timeout = named.unwrap_or(self.default_deadline).min(limits::MAX_DEADLINE);
        let mut context = RequestContext { names_deadline: named.is_some(), ..RequestContext::new(principal, timeout) };
        if let Some(token) = text(headers, CONSISTENCY_TOKEN)? {
            context.token = token.parse().map_err(Problem::from)?;
        }
        context.idempotency_key = text(headers, IDEMPOTENCY_KEY)?.map(idempotency_key).transpose()?;
        let owner = self.owner_name(&context.principal, headers)?;
        context.owner = credential(&owner, headers)?;
        Ok(context)
    }

    /// Whose private memories a request is about: the caller's own, unless the router lets it name others.
    fn owner_name(&self, principal: &Arc<str>, headers: &HeaderMap) -> Result<Arc<str>, Problem> {
        let Some(value) = headers.get(OWNER) else { return Ok(principal.clone()) };
        // Letters of all scripts may stand in a name.
        let named = std::str::from_utf8(value.as_bytes())
            .map_err(|_| Problem::invalid(format!("header {OWNER} is not UTF-8")))?;
        let named = names::collection(named).map_err(|error| Problem::invalid(format!("header {OWNER} {error}")))?;
        if *named == **principal || self.any_owner {
            return Ok(named.into());
        }
        let detail = format!("header {OWNER} names another owner than the caller, who is {principal:?}: leave it out");
        Err(Problem::new(Code::PermissionDenied, detail))
    }

    /// Whether this router can serve, and what stands against it.
    pub(crate) async fn readiness(&self) -> (bool, serde_json::Value) {
        let view = self.cluster.view();
        let health = match &view {
            Some(view) => Some(self.cluster.group_health(view).await),
            None => None,
        };
        let ready = health.as_ref().is_some_and(|health| health.is_good());
        let stopped = health.iter().flat_map(|health| &health.stopped).map(|(shard, node)| match shard {
            Some(shard) => format!("shard {shard} on node {node:016x}"),
            None => format!("the meta group on node {node:016x}"),
        });
        let body = serde_json::json!({
            "ready": ready,
            "cluster_map_epoch": view.map(|view| view.epoch),
            "meta_group_has_leader": health.as_ref().map(|health| health.meta_led),
            "leaderless_shards": health.as_ref().map(|health| &health.leaderless),
            "stopped": stopped.collect::<Vec<_>>(),
            "model": self.model,
        });
        (ready, body)
    }
}

fn credential(owner: &str, headers: &HeaderMap) -> Result<Option<Credential>, Problem> {
    match (text(headers, OWNER_KEY)?, text(headers, OWNER_PASSPHRASE)?) {
        (Some(_), Some(_)) => Err(Problem::invalid(format!(
            "headers {OWNER_KEY} and {OWNER_PASSPHRASE} are both given: send one of them"
        ))),
        (Some(key), None) => Credential::key(key).map(Some),
        (None, Some(passphrase)) => Credential::passphrase(owner, passphrase).map(Some),
        (None, None) => Ok(None),
    }
}

fn new_passphrase(headers: &HeaderMap) -> Result<NewPassphrase, Problem> {
    let missing = || Problem::invalid(format!("header {NEW_PASSPHRASE} is missing"));
    NewPassphrase::new(text(headers, NEW_PASSPHRASE)?.ok_or_else(missing)?)
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> Result<Option<&'a str>, Problem> {
    let value = headers.get(name).map(|value| value.to_str());
    value.transpose().map_err(|_| Problem::invalid(format!("header {name} is not plain text")))
}

fn milliseconds(text: &str) -> Result<Duration, Problem> {
    match text.trim().parse::<u64>() {
        Ok(ms) if ms > 0 => Ok(Duration::from_millis(ms)),
        _ => Err(Problem::invalid(format!("header {TIMEOUT_MS} is not a positive number of milliseconds"))),
    }
}

/// gRPC's form: at most eight digits and a unit (H, M, S, m, u, n).
fn grpc_timeout(text: &str) -> Result<Duration, Problem> {
    let bad = || Problem::invalid(format!("header {GRPC_TIMEOUT} is not a gRPC timeout such as 500m"));
    let unit = text.chars().last().filter(char::is_ascii).ok_or_else(bad)?;
    let count: u64 = text[..text.len() - 1].parse().map_err(|_| bad())?;
    match unit {
        'H' => Ok(Duration::from_secs(count.saturating_mul(3_600))),
        'M' => Ok(Duration::from_secs(count.saturating_mul(60))),
        'S' => Ok(Duration::from_secs(count)),
        'm' => Ok(Duration::from_millis(count)),
        'u' => Ok(Duration::from_micros(count)),
        'n' => Ok(Duration::from_nanos(count)),
        _ => Err(bad()),
    }
}

fn idempotency_key(key: &str) -> Result<Arc<str>, Problem> {
    match key.len() {
        0 => Err(Problem::invalid(format!("header {IDEMPOTENCY_KEY} is empty"))),
        have if have > limits::MAX_IDEMPOTENCY_KEY_BYTES => {
            let limit = limits::MAX_IDEMPOTENCY_KEY_BYTES;
            Err(Problem::invalid(format!("header {IDEMPOTENCY_KEY} has {have} bytes, the limit is {limit}")))
        }
        _ => Ok(key.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grpc_timeouts_have_units() {
        let table = [
            ("1H", Some(3_600_000_000)),
            ("2M", Some(120_000_000)),
            ("3S", Some(3_000_000)),
            ("4m", Some(4_000)),
            ("5u", Some(5)),
            ("6000n", Some(6)),
            ("7", None),
            ("m", None),
            ("", None),
            ("1x", None),
        ];
        for (text, micros) in table {
            assert_eq!(grpc_timeout(text).ok(), micros.map(Duration::from_micros), "{text}");
        }
    }

    #[test]
    fn a_timeout_in_milliseconds_is_a_positive_number() {
        assert_eq!(milliseconds("250").unwrap(), Duration::from_millis(250));
        for bad in ["0", "-1", "1.5", "soon", ""] {
            assert!(milliseconds(bad).is_err(), "{bad}");
        }
    }
}
