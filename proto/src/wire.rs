//! Words and values of the enums on the nodes' wire.
//!
//! What callers read stays a word (`leaving`, `cosine`); what nodes and routers compare is an enum. This file is the one
//! place where the two meet. A value that a peer left out, or that this build does not know, is refused and never taken
//! for another.

use crate::model::{Metric, Quantization};
use crate::{Problem, node_v1};

/// Gives each value of a wire enum its word; the word of an unspecified value is empty.
macro_rules! words {
    ($($name:ident { $($value:ident => $word:literal),+ $(,)? })+) => {$(
        impl node_v1::$name {
            /// The word that callers read for it; empty when it is unspecified.
            pub fn word(self) -> &'static str {
                match self { $(node_v1::$name::$value => $word),+ }
            }
        }
    )+};
}

words! {
    MoveStep { Unspecified => "", Leaving => "leaving", Clearing => "clearing", Joining => "joining" }
    MigrationStep { Unspecified => "", Copying => "copying", Clearing => "clearing", Remembering => "remembering" }
    RotationStep { Unspecified => "", Preparing => "preparing", Resealing => "resealing", Retiring => "retiring" }
    NodePhase {
        Unspecified => "", Standby => "standby", Active => "active", Draining => "draining", Drained => "drained",
        Lost => "lost",
    }
    ReplicaRole {
        Unspecified => "", Leader => "leader", Follower => "follower", Learner => "learner", Candidate => "candidate",
        Stopped => "stopped",
    }
    SearchPlan { Unspecified => "", Scan => "scan", Graph => "graph", GraphThenScan => "graph_then_scan" }
    VerificationState {
        Unknown => "unknown", Running => "running", Done => "done", Failed => "failed", Unreachable => "unreachable",
    }
}

impl From<Metric> for node_v1::Metric {
    fn from(metric: Metric) -> Self {
        match metric {
            Metric::Cosine => node_v1::Metric::Cosine,
            Metric::Dot => node_v1::Metric::Dot,
            Metric::L2 => node_v1::Metric::L2,
        }
    }
}

impl TryFrom<node_v1::Metric> for Metric {
    type Error = Problem;

    fn try_from(metric: node_v1::Metric) -> Result<Self, Problem> {
        match metric {
            node_v1::Metric::Cosine => Ok(Metric::Cosine),
            node_v1::Metric::Dot => Ok(Metric::Dot),
            node_v1::Metric::L2 => Ok(Metric::L2),
            node_v1::Metric::Unspecified => Err(Problem::invalid("metric is missing, allowed are cosine, dot and l2")),
        }
    }
}

impl From<Quantization> for node_v1::Quantization {
    fn from(quantization: Quantization) -> Self {
        match quantization {
            Quantization::None => node_v1::Quantization::None,
            Quantization::Int8 => node_v1::Quantization::Int8,
            Quantization::Binary => node_v1::Quantization::Binary,
        }
    }
}

impl TryFrom<node_v1::Quantization> for Quantization {
    type Error = Problem;

    fn try_from(quantization: node_v1::Quantization) -> Result<Self, Problem> {
        match quantization {
            node_v1::Quantization::None => Ok(Quantization::None),
            node_v1::Quantization::Int8 => Ok(Quantization::Int8),
            node_v1::Quantization::Binary => Ok(Quantization::Binary),
            node_v1::Quantization::Unspecified => {
                Err(Problem::invalid("quantization is missing, allowed are none, int8 and binary"))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_and_quantizations_survive_the_wire_and_a_missing_one_is_refused() {
        for metric in [Metric::Cosine, Metric::Dot, Metric::L2] {
            assert_eq!(Metric::try_from(node_v1::Metric::from(metric)), Ok(metric));
        }
        for quantization in [Quantization::None, Quantization::Int8, Quantization::Binary] {
            assert_eq!(Quantization::try_from(node_v1::Quantization::from(quantization)), Ok(quantization));
        }
        assert!(Metric::try_from(node_v1::Metric::Unspecified).is_err());
        assert!(Quantization::try_from(node_v1::Quantization::Unspecified).is_err());
    }

    #[test]
    fn each_word_is_the_name_of_its_value_on_the_wire() {
        macro_rules! check {
            ($($name:ident $prefix:literal $values:expr;)+) => {$(
                for number in $values {
                    let value = node_v1::$name::try_from(number).expect("a value");
                    assert_eq!(value.as_str_name(), format!("{}{}", $prefix, value.word().to_uppercase()));
                }
            )+};
        }
        check! {
            MoveStep "MOVE_STEP_" 1..=3;
            MigrationStep "MIGRATION_STEP_" 1..=3;
            RotationStep "ROTATION_STEP_" 1..=3;
            NodePhase "NODE_PHASE_" 1..=5;
            ReplicaRole "REPLICA_ROLE_" 1..=5;
            SearchPlan "SEARCH_PLAN_" 1..=3;
            VerificationState "VERIFICATION_STATE_" 0..=4;
        }
        assert_eq!(node_v1::SearchPlan::Unspecified.word(), "", "callers are told nothing");
    }
}
