//! What to do after a refusal. Plain functions, so that the whole behaviour can be read and tested as tables.

use std::time::Duration;

use mira_proto::{Code, NodeId, Problem, Refusal, limits};
use tracing::debug;

use super::{CallError, Group};

/// After so many referrals in a row the replicas disagree about who leads: an election is under way.
const MAX_REFERRALS: u32 = 2;
/// The longest pause between two tries, in units of [`limits::RETRY_PAUSE`].
const MAX_PAUSES: f64 = 5.0;

/// What to do next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Ask this node at once: it leads.
    GoTo(NodeId),
    /// Fetch a map of this epoch or later, then ask again.
    Refresh {
        /// The epoch.
        at_least: u64,
    },
    /// Ask the next replica.
    Next {
        /// But wait first.
        pause: bool,
    },
    /// Tell the caller.
    Fail(Problem),
}

/// The tries of one call so far.
#[derive(Debug, Clone, Default)]
pub struct Tries {
    /// How many there were.
    pub count: u32,
    /// A try may have taken effect, though it had no answer.
    pub unknown_outcome: bool,
    referrals: u32,
    /// The replica that lags least of those that refused for it, and its age.
    lagging: Option<(u64, NodeId)>,
    last: Option<(NodeId, Refusal)>,
}

impl Tries {
    /// Notes that `asked` refused, and decides what follows. `epoch` is that of the map the try was routed by,
    /// `replicas` the number of nodes that may be asked.
    pub fn after(&mut self, asked: NodeId, refusal: Refusal, epoch: u64, replicas: usize) -> Step {
        self.count += 1;
        let referral = matches!(refusal, Refusal::NotLeader { leader: Some(leader) } if leader != asked);
        self.referrals = if referral { self.referrals + 1 } else { 0 };
        self.unknown_outcome |= matches!(refusal, Refusal::Unknown(_));
        debug!(node = asked, %refusal, "a node refused");
        let step = match &refusal {
            Refusal::NotLeader { leader: Some(leader) } if referral && self.referrals <= MAX_REFERRALS => {
                Step::GoTo(*leader)
            }
            Refusal::NotLeader { .. } => Step::Next { pause: true },
            Refusal::StaleMap { epoch: theirs } if *theirs > epoch => Step::Refresh { at_least: *theirs },
            // The node is the one that is behind: another replica may not be.
            Refusal::StaleMap { .. } => Step::Next { pause: true },
            Refusal::Lagging { staleness_ms } => {
                let known = self.lagging.filter(|(least, _)| least <= staleness_ms);
                self.lagging = known.or(Some((*staleness_ms, asked)));
                Step::Next { pause: self.count as usize > replicas }
            }
            // The first round over the replicas goes without waiting: most likely only one of them has a problem.
            Refusal::NotReady(_) | Refusal::Unknown(_) => Step::Next { pause: self.count as usize >= replicas },
            Refusal::Problem(problem) if problem.code == Code::Unavailable => Step::Next { pause: true },
            Refusal::Problem(problem) => Step::Fail(problem.clone()),
        };
        self.last = Some((asked, refusal));
        step
    }

    /// Whether a replica may answer although it lags: every one has been asked, and some refused for no other reason.
    /// Better an old answer that says so than none.
    pub fn last_resort(&self, replicas: usize) -> bool {
        self.lagging.is_some() && self.count as usize >= replicas
    }

    /// Why the last try was refused, for metrics.
    pub fn last_reason(&self) -> &'static str {
        match &self.last {
            Some((_, Refusal::NotLeader { .. })) => "not_leader",
            Some((_, Refusal::StaleMap { .. })) => "stale_map",
            Some((_, Refusal::Lagging { .. })) => "lagging",
            Some((_, Refusal::NotReady(_))) => "not_ready",
            Some((_, Refusal::Unknown(_))) => "unknown_outcome",
            Some((_, Refusal::Problem(_))) | None => "unavailable",
        }
    }

    /// What the caller is told when there is no time for another try.
    pub fn unreached(&self, group: Group) -> CallError {
        let whom = match group {
            Group::Meta => "the cluster's meta group".to_owned(),
            Group::Shard(shard) => format!("shard {shard}"),
        };
        let why = match &self.last {
            Some((_, Refusal::NotLeader { .. })) => "no replica leads".to_owned(),
            Some((node, refusal)) => format!("node {node:016x} {}", said(refusal)),
            None => "it has no replica in the cluster map".to_owned(),
        };
        CallError::Unreached(if self.unknown_outcome {
            let detail = format!("{whom} did not answer in time ({why}); a write may still take effect");
            Problem::new(Code::DeadlineExceeded, detail)
        } else {
            Problem::new(Code::Unavailable, format!("{whom} is unavailable ({why}); nothing was done"))
        })
    }
}

/// What a caller is told of a node's refusal: the words of the transport and of the node are for logs.
fn said(refusal: &Refusal) -> String {
    match refusal {
        Refusal::NotReady(_) => "is not ready".to_owned(),
        Refusal::Unknown(_) => "did not answer".to_owned(),
        Refusal::Problem(problem) => format!("refused: {}", problem.detail),
        Refusal::NotLeader { .. } => "does not lead".to_owned(),
        Refusal::StaleMap { .. } => "has another cluster map".to_owned(),
        Refusal::Lagging { .. } => "lags".to_owned(),
    }
}

/// Which replica to ask: the hinted one unless it has just refused, then one after the other; after a round in which some
/// lagged, first the one that lagged least.
pub fn next_replica(replicas: &[NodeId], tries: &Tries, hint: Option<NodeId>) -> Option<NodeId> {
    if let Some((_, least)) = tries.lagging.filter(|_| tries.count as usize == replicas.len()) {
        return Some(least);
    }
    let Some((last, _)) = &tries.last else {
        return hint.or_else(|| replicas.first().copied());
    };
    let after_last = replicas.iter().position(|replica| replica == last).map_or(0, |at| at + 1);
    let in_turn = replicas.get(after_last % replicas.len().max(1)).copied();
    hint.filter(|hint| hint != last).or(in_turn)
}

/// Another replica than this one: the next in turn.
pub fn other_replica(replicas: &[NodeId], asked: NodeId) -> Option<NodeId> {
    let at = replicas.iter().position(|&replica| replica == asked)?;
    let next = replicas[(at + 1) % replicas.len()];
    (next != asked).then_some(next)
}

/// How long to wait before try `count`: growing a little, spread by `jitter` in 0..1 so that routers do not march in
/// step.
pub fn pause(count: u32, jitter: f64) -> Duration {
    let pauses = (1.0 + 0.25 * f64::from(count)).min(MAX_PAUSES);
    limits::RETRY_PAUSE.mul_f64(pauses * (0.5 + jitter))
}

#[cfg(test)]
mod tests {
    use super::*;

    const REPLICAS: [NodeId; 3] = [1, 2, 3];

    fn not_leader(leader: Option<NodeId>) -> Refusal {
        Refusal::NotLeader { leader }
    }

    #[test]
    fn each_refusal_has_its_step() {
        let unavailable = Problem::new(Code::Unavailable, "no quorum");
        let conflict = Problem::new(Code::Conflict, "version 3 is current");
        let table = [
            (not_leader(Some(2)), Step::GoTo(2)),
            (not_leader(Some(1)), Step::Next { pause: true }), // refers to itself
            (not_leader(None), Step::Next { pause: true }),
            (Refusal::StaleMap { epoch: 8 }, Step::Refresh { at_least: 8 }),
            (Refusal::StaleMap { epoch: 6 }, Step::Next { pause: true }),
            (Refusal::Lagging { staleness_ms: 9_000 }, Step::Next { pause: false }),
            (Refusal::NotReady("opening".into()), Step::Next { pause: false }),
            (Refusal::Unknown("reset".into()), Step::Next { pause: false }),
            (Refusal::Problem(unavailable), Step::Next { pause: true }),
            (Refusal::Problem(conflict.clone()), Step::Fail(conflict)),
        ];
        for (refusal, step) in table {
            assert_eq!(Tries::default().after(1, refusal.clone(), 7, 3), step, "{refusal:?}");
        }
    }

    #[test]
    fn replicas_that_refer_to_each_other_are_not_believed_for_long() {
        let mut tries = Tries::default();
        assert_eq!(tries.after(1, not_leader(Some(2)), 7, 3), Step::GoTo(2));
        assert_eq!(tries.after(2, not_leader(Some(1)), 7, 3), Step::GoTo(1));
        assert_eq!(tries.after(1, not_leader(Some(2)), 7, 3), Step::Next { pause: true });
    }

    #[test]
    fn a_full_round_of_silence_is_followed_by_a_pause() {
        let mut tries = Tries::default();
        let pauses: Vec<_> = (1..=4).map(|node| tries.after(node, Refusal::Unknown("reset".into()), 7, 3)).collect();
        let next = |pause| Step::Next { pause };
        assert_eq!(pauses, [next(false), next(false), next(true), next(true)]);
    }

    #[test]
    fn replicas_are_asked_in_turn_unless_a_hint_says_otherwise() {
        let refused_by = |node| Tries { last: Some((node, not_leader(None))), ..Tries::default() };
        let table = [
            (Tries::default(), None, Some(1)),
            (Tries::default(), Some(3), Some(3)),
            (refused_by(1), None, Some(2)),
            (refused_by(3), None, Some(1)),
            (refused_by(2), Some(2), Some(3)), // the hint has just refused
            (refused_by(2), Some(1), Some(1)),
            (refused_by(9), None, Some(1)), // no longer a replica
        ];
        for (tries, hint, expected) in table {
            assert_eq!(next_replica(&REPLICAS, &tries, hint), expected, "{tries:?} {hint:?}");
        }
        assert_eq!(next_replica(&[], &Tries::default(), None), None);
    }

    #[test]
    fn when_all_lag_the_one_that_lags_least_is_asked_again_and_may_answer() {
        let mut tries = Tries::default();
        for (node, staleness_ms, all_asked) in [(2, 9_000, false), (3, 4_000, false), (1, u64::MAX, true)] {
            assert_eq!(tries.after(node, Refusal::Lagging { staleness_ms }, 7, 3), Step::Next { pause: false });
            assert_eq!(tries.last_resort(3), all_asked);
        }
        assert_eq!(tries.last_reason(), "lagging");
        assert_eq!(next_replica(&REPLICAS, &tries, None), Some(3));
        tries.after(3, Refusal::Unknown("reset".into()), 7, 3);
        assert_eq!(next_replica(&REPLICAS, &tries, None), Some(1), "it has gone: the next in turn");
        assert!(tries.last_resort(3));
        let mut down = Tries::default();
        (1..=3).for_each(|node| drop(down.after(node, Refusal::NotReady("opening".into()), 7, 3)));
        assert!(!down.last_resort(3), "nobody lagged");
    }

    #[test]
    fn the_last_word_says_whether_something_may_have_happened() {
        let mut tries = Tries::default();
        tries.after(1, not_leader(None), 7, 3);
        let CallError::Unreached(problem) = tries.unreached(Group::Shard(4)) else { panic!() };
        assert_eq!(problem.code, Code::Unavailable);
        assert!(problem.detail.contains("shard 4") && problem.detail.contains("no replica leads"), "{problem}");
        tries.after(2, Refusal::Unknown("reset".into()), 7, 3);
        tries.after(3, not_leader(None), 7, 3);
        let CallError::Unreached(problem) = tries.unreached(Group::Shard(4)) else { panic!() };
        assert_eq!(problem.code, Code::DeadlineExceeded);
    }

    #[test]
    fn pauses_grow_and_stay_bounded() {
        assert_eq!(pause(0, 0.5), limits::RETRY_PAUSE);
        assert!(pause(4, 0.5) > pause(1, 0.5));
        assert!(pause(1_000, 1.0) <= limits::RETRY_PAUSE.mul_f64(1.5 * MAX_PAUSES));
    }
}
