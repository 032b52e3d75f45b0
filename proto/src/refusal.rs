//! How a storage node refuses a request of a router, and what the router does about it.
//!
//! A refusal travels as a gRPC status whose details hold a `mira.node.v1.Problem`. Four kinds are between router and
//! node only and never reach a caller: they say where to go instead.

use prost::Message;

use crate::problem::{code_of_bare_status, said_of_bare_status};
use crate::{Code, NodeId, Problem, node_v1};

/// Why a node did not do what a router asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Another replica leads the shard; ask there, or ask again soon when none is known. Nothing was done.
    #[error("another replica leads: {leader:?}")]
    NotLeader {
        /// The node that leads, if known.
        leader: Option<NodeId>,
    },
    /// The request was routed with another map than the node's; fetch a map at least as new as `epoch` and route again.
    /// Nothing was done.
    #[error("the cluster map has epoch {epoch}")]
    StaleMap {
        /// The node's epoch.
        epoch: u64,
    },
    /// The replica is further behind than one that is asked should be: ask another, and if there is none, this one again as
    /// the last resort. Nothing was done.
    #[error("this replica lags: its state is {} old", age_text(*staleness_ms))]
    Lagging {
        /// How old its state is; `u64::MAX` if it does not know.
        staleness_ms: u64,
    },
    /// The replica is not ready for this yet (opening, rebuilding, behind); ask another or again soon. Nothing was done.
    #[error("not ready: {0}")]
    NotReady(String),
    /// The request may or may not have taken effect (connection lost, quorum lost on the way). Safe to try again,
    /// because writes carry request ids.
    #[error("unknown outcome: {0}")]
    Unknown(String),
    /// For the caller.
    #[error(transparent)]
    Problem(#[from] Problem),
}

const NOT_LEADER: &str = "not_leader";
const STALE_MAP: &str = "stale_map";
const LAGGING: &str = "lagging";
const NOT_READY: &str = "not_ready";
const UNKNOWN: &str = "unknown_outcome";

impl From<Refusal> for tonic::Status {
    fn from(refusal: Refusal) -> Self {
        let detail = refusal.to_string();
        let grpc = match &refusal {
            Refusal::Problem(problem) => problem.code.grpc(),
            _ => tonic::Code::Unavailable,
        };
        let problem = node_v1::Problem::from(refusal);
        tonic::Status::with_details(grpc, detail, problem.encode_to_vec().into())
    }
}

impl From<Refusal> for node_v1::Problem {
    fn from(refusal: Refusal) -> Self {
        let detail = refusal.to_string();
        match refusal {
            Refusal::NotLeader { leader } => wire(NOT_LEADER, &detail, leader.unwrap_or_default(), 0),
            Refusal::StaleMap { epoch } => wire(STALE_MAP, &detail, 0, epoch),
            Refusal::Lagging { staleness_ms } => node_v1::Problem { staleness_ms, ..wire(LAGGING, &detail, 0, 0) },
            Refusal::NotReady(why) => wire(NOT_READY, &why, 0, 0),
            Refusal::Unknown(why) => wire(UNKNOWN, &why, 0, 0),
            Refusal::Problem(problem) => problem.into(),
        }
    }
}

impl From<tonic::Status> for Refusal {
    /// A status without our details comes from the transport: what happened to the request is unknown.
    fn from(status: tonic::Status) -> Self {
        match node_v1::Problem::decode(status.details()) {
            Ok(problem) if !problem.code.is_empty() => problem.into(),
            _ => bare(status),
        }
    }
}

impl From<node_v1::Problem> for Refusal {
    fn from(problem: node_v1::Problem) -> Self {
        match problem.code.as_str() {
            NOT_LEADER => Refusal::NotLeader { leader: (problem.leader != 0).then_some(problem.leader) },
            STALE_MAP => Refusal::StaleMap { epoch: problem.epoch },
            LAGGING => Refusal::Lagging { staleness_ms: problem.staleness_ms },
            NOT_READY => Refusal::NotReady(problem.detail),
            UNKNOWN => Refusal::Unknown(problem.detail),
            _ => Refusal::Problem(problem.into()),
        }
    }
}

fn bare(status: tonic::Status) -> Refusal {
    match code_of_bare_status(status.code()) {
        // A connection that is torn down under a request is told as any of these, also as an internal error of HTTP/2.
        Code::Unavailable | Code::DeadlineExceeded | Code::Internal => Refusal::Unknown(status.message().to_owned()),
        code => Refusal::Problem(Problem::new(code, said_of_bare_status(code))),
    }
}

fn wire(code: &str, detail: &str, leader: NodeId, epoch: u64) -> node_v1::Problem {
    node_v1::Problem { code: code.into(), detail: detail.into(), leader, epoch, staleness_ms: 0 }
}

/// An age for people.
fn age_text(staleness_ms: u64) -> String {
    if staleness_ms == u64::MAX { "not known how".to_owned() } else { format!("{staleness_ms} ms") }
}

impl From<Problem> for node_v1::Problem {
    fn from(problem: Problem) -> Self {
        wire(problem.code.as_str(), &problem.detail, 0, 0)
    }
}

impl From<node_v1::Problem> for Problem {
    fn from(problem: node_v1::Problem) -> Self {
        Problem::new(Code::parse(&problem.code), problem.detail)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_survive_the_wire() {
        for refusal in [
            Refusal::NotLeader { leader: Some(7) },
            Refusal::NotLeader { leader: None },
            Refusal::StaleMap { epoch: 12 },
            Refusal::Lagging { staleness_ms: 7_000 },
            Refusal::Lagging { staleness_ms: u64::MAX },
            Refusal::NotReady("opening".into()),
            Refusal::Unknown("connection lost".into()),
            Refusal::Problem(Problem::invalid("k is 0")),
        ] {
            assert_eq!(Refusal::from(tonic::Status::from(refusal.clone())), refusal);
        }
        use tonic::Status;
        let torn_down = [Status::unavailable("reset"), Status::internal("h2 protocol error: http2 error")];
        for status in torn_down.into_iter().chain([Status::cancelled("gone"), Status::unknown("broken pipe")]) {
            assert!(matches!(Refusal::from(status.clone()), Refusal::Unknown(_)), "{status}");
        }
        assert!(matches!(Refusal::from(Status::unimplemented("older")), Refusal::Problem(_)));
        // An internal error that a node reports is not taken for a broken connection.
        let internal = Refusal::Problem(Problem::internal("odd"));
        assert_eq!(Refusal::from(Status::from(internal.clone())), internal);
    }
}
