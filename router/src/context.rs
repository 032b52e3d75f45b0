//! What travels with a request through every function: how long it may take, who asks, how fresh an answer must be.

use std::sync::Arc;
use std::time::Duration;

use mira_crypto::OwnerKey;
use mira_proto::model::Consistency;
use mira_proto::{ShardId, limits, node_v1};
use tokio::time::Instant;

use crate::ConsistencyToken;
use crate::private::credential::Credential;

/// Share of the time left that the first of two phases may take.
const FIRST_PHASE: f64 = 0.75;

/// One request's circumstances.
#[derive(Debug, Clone)]
pub struct RequestContext {
    /// When the caller stops waiting. Every wait below ends by then.
    pub deadline: Instant,
    /// Whether the caller named the time itself; if not, it grows with the work.
    pub names_deadline: bool,
    /// Who asks: a name that is safe to log, never the token itself.
    pub principal: Arc<str>,
    /// How fresh a read must be; each operation sets it from its request.
    pub consistency: Consistency,
    /// What the caller has seen already: reads answer from no older state.
    pub token: ConsistencyToken,
    /// The caller's name for this request, the same when it sends it again.
    pub idempotency_key: Option<Arc<str>>,
    /// Items of the request that were stored before: a stream is stored in parts.
    pub items_before: u64,
    /// What the caller says to be the owner of private frames.
    pub owner: Option<Credential>,
}

impl RequestContext {
    /// A request that may take `timeout` from now.
    pub fn new(principal: impl Into<Arc<str>>, timeout: Duration) -> Self {
        RequestContext {
            deadline: Instant::now() + timeout,
            names_deadline: true,
            principal: principal.into(),
            consistency: Consistency::default(),
            token: ConsistencyToken::default(),
            idempotency_key: None,
            items_before: 0,
            owner: None,
        }
    }

    /// The same request, reading at this level.
    pub fn reading(&self, consistency: Consistency) -> Self {
        RequestContext { consistency, ..self.clone() }
    }

    /// The same request, with no more than `patience` from now.
    pub fn within(&self, patience: Duration) -> Self {
        RequestContext { deadline: self.deadline.min(Instant::now() + patience), ..self.clone() }
    }

    /// The same request, with time to embed texts of so many bytes, unless its caller named the time.
    pub fn with_time_for(&self, text_bytes: usize) -> Self {
        if self.names_deadline {
            return self.clone();
        }
        let deadline = self.deadline + limits::embedding_time(text_bytes);
        RequestContext { deadline: deadline.min(Instant::now() + limits::MAX_DEADLINE), ..self.clone() }
    }

    /// The same request, which ends by `deadline`.
    pub fn until(&self, deadline: Instant) -> Self {
        RequestContext { deadline: self.deadline.min(deadline), ..self.clone() }
    }

    /// The first of two phases of a read: a shard that does not answer must not take the time in which the frames of the
    /// others are fetched.
    pub fn for_first_phase(&self) -> Self {
        self.within(limits::SHARD_PATIENCE.min(self.remaining().mul_f64(FIRST_PHASE)))
    }

    /// The same request, for which `patience` begins now: the next step of something that takes many.
    pub fn with_patience(&self, patience: Duration) -> Self {
        RequestContext { deadline: Instant::now() + patience, ..self.clone() }
    }

    /// The same request, which has now also seen `token`.
    pub fn having_seen(&self, token: &ConsistencyToken) -> Self {
        let mut context = self.clone();
        context.token.merge(token);
        context
    }

    /// What a read of `shard` must promise.
    pub fn read_level(&self, shard: ShardId) -> node_v1::ReadLevel {
        let kind = match self.consistency {
            Consistency::Leader => node_v1::read_level::Kind::Leader,
            Consistency::Linearizable => node_v1::read_level::Kind::Linearizable,
            Consistency::Any => node_v1::read_level::Kind::Any,
        };
        node_v1::ReadLevel { kind: kind.into(), at_least: self.token.at_least(shard), last_resort: false }
    }

    /// The owner's key, once [`crate::Memory::with_owner`] has found it.
    pub(crate) fn owner_key(&self) -> Option<&OwnerKey> {
        match &self.owner {
            Some(Credential::Key(key)) => Some(key),
            Some(Credential::Passphrase(_)) | None => None,
        }
    }

    /// The same, to be taken to other threads.
    pub(crate) fn shared_owner_key(&self) -> Option<Arc<OwnerKey>> {
        match &self.owner {
            Some(Credential::Key(key)) => Some(key.clone()),
            Some(Credential::Passphrase(_)) | None => None,
        }
    }

    /// Time left, zero when the deadline has passed.
    pub fn remaining(&self) -> Duration {
        self.deadline.saturating_duration_since(Instant::now())
    }
}
