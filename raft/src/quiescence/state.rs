//! Whether one replica rests: what it has agreed with the others, and what ends its rest.
//!
//! Pure: time is handed in, as what has passed since the host was opened, and what is to be done with the replica's timers
//! is the answer ([`Timers`]).

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::types::{LogId, NodeId, Vote};

/// What is to become of a replica's timers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Timers {
    /// They stay as they are.
    Unchanged,
    /// They run again.
    Start,
    /// They stand still.
    Stop,
}

/// What all replicas of a resting group hold: the leader they follow, and the last entry, which each has applied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Standing {
    pub vote: Vote,
    pub log: LogId,
}

impl Standing {
    /// The leader that they follow.
    pub fn leader(&self) -> NodeId {
        self.vote.leader_id.node_id
    }
}

/// A replica as the consensus library shows it.
#[derive(Debug, Clone)]
pub(crate) struct Observed {
    /// Its own standing, if it has applied all that is in its log.
    pub standing: Option<Standing>,
    /// It follows, with or without a vote.
    pub follows: bool,
    /// It leads, every other member has what it has, no proposal is under way, and no change of the membership.
    pub leads_settled: bool,
    /// Members beside itself.
    pub others: BTreeSet<NodeId>,
    /// Who votes, itself perhaps among them.
    pub voters: BTreeSet<NodeId>,
}

/// The times by which a replica rests and wakes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pace {
    /// Without any call for so long, a leader offers its group a rest.
    pub quiet: Duration,
    /// A leader that a member has not answered for so long wakes its group.
    pub patience: Duration,
    /// A follower that heard of its leader within this time grants nobody a vote.
    pub lease: Duration,
}

/// A rest that a leader has offered.
#[derive(Debug, Clone)]
struct Offer {
    standing: Standing,
    /// Every other member.
    others: BTreeSet<NodeId>,
    voters: BTreeSet<NodeId>,
    /// When the newest node heartbeat was sent whose offer a member accepted.
    accepted: BTreeMap<NodeId, Duration>,
    /// All have accepted, and its own timers stand still.
    rests: bool,
}

/// A rest that a follower has accepted.
#[derive(Debug, Clone)]
struct Accepted {
    standing: Standing,
    leader: NodeId,
    heard_at: Duration,
    /// Without another word from the leader's node its timers run again then.
    wakes_at: Duration,
    /// Another replica has asked for a vote since.
    postponed: bool,
}

#[derive(Debug, Clone, Default)]
enum Phase {
    /// Its timers run.
    #[default]
    Awake,
    Leads(Offer),
    Follows(Accepted),
}

/// One replica's part in the rest of its group.
#[derive(Debug, Default)]
pub(crate) struct Quiescence {
    phase: Phase,
    /// When it was last called for something that needs a leader, or was woken.
    active_at: Duration,
}

impl Quiescence {
    /// Of a replica that is opened now.
    pub fn opened(now: Duration) -> Self {
        Quiescence { phase: Phase::Awake, active_at: now }
    }

    /// Whether its timers stand still.
    pub fn rests(&self) -> bool {
        match &self.phase {
            Phase::Awake => false,
            Phase::Leads(offer) => offer.rests,
            Phase::Follows(_) => true,
        }
    }

    /// Whether it leads a group at rest.
    pub fn leads_at_rest(&self) -> bool {
        matches!(&self.phase, Phase::Leads(offer) if offer.rests)
    }

    /// Somebody needs this group's leader. A follower's rest goes on: it is no use to them.
    pub fn active(&mut self, now: Duration) -> Timers {
        self.active_at = now;
        if matches!(self.phase, Phase::Leads(_)) { self.wake(now) } else { Timers::Unchanged }
    }

    /// Ends its rest, whatever its part.
    pub fn wake(&mut self, now: Duration) -> Timers {
        let rested = self.rests();
        if !matches!(self.phase, Phase::Awake) {
            self.phase = Phase::Awake;
            self.active_at = self.active_at.max(now);
        }
        if rested { Timers::Start } else { Timers::Unchanged }
    }

    /// The leader's look at its group: offers a rest, begins it when all have accepted, ends it when one is not heard of.
    pub fn look(&mut self, now: Duration, observed: &Observed, pace: &Pace) -> Timers {
        let standing = observed.standing.as_ref().filter(|_| observed.leads_settled);
        let Some(standing) = standing else {
            return if matches!(self.phase, Phase::Leads(_)) { self.wake(now) } else { Timers::Unchanged };
        };
        if let Phase::Leads(offer) = &mut self.phase
            && (&offer.standing, &offer.others, &offer.voters) == (standing, &observed.others, &observed.voters)
        {
            let all_answer = offer.all_answer(now, pace);
            return match (offer.rests, all_answer) {
                (true, false) => self.wake(now),
                (false, true) => {
                    offer.rests = true;
                    Timers::Stop
                }
                (true, true) | (false, false) => Timers::Unchanged,
            };
        }
        let woken = self.wake(now);
        if woken == Timers::Unchanged && now.saturating_sub(self.active_at) >= pace.quiet {
            self.phase = Phase::Leads(Offer {
                standing: standing.clone(),
                others: observed.others.clone(),
                voters: observed.voters.clone(),
                accepted: BTreeMap::new(),
                rests: false,
            });
        }
        woken
    }

    /// Those whose nodes must hear of this one, or be heard of, for the rest to go on.
    pub fn partners(&self) -> BTreeSet<NodeId> {
        match &self.phase {
            Phase::Awake => BTreeSet::new(),
            Phase::Leads(offer) => offer.others.clone(),
            Phase::Follows(accepted) => BTreeSet::from([accepted.leader]),
        }
    }

    /// What a node heartbeat says of this group to a member, if it leads: its standing, and how long ago a quorum accepted it.
    pub fn offer_to(&self, member: NodeId, me: NodeId, now: Duration) -> Option<(Standing, Duration)> {
        let Phase::Leads(offer) = &self.phase else { return None };
        offer.others.contains(&member).then(|| (offer.standing.clone(), offer.quorum_age(me, now)))
    }

    /// How long ago a quorum accepted the rest that this replica leads.
    pub fn quorum_age(&self, me: NodeId, now: Duration) -> Option<Duration> {
        let Phase::Leads(offer) = &self.phase else { return None };
        Some(offer.quorum_age(me, now))
    }

    /// A member has accepted what was sent to it at `sent_at`.
    pub fn accepted(&mut self, member: NodeId, standing: &Standing, sent_at: Duration) {
        if let Phase::Leads(offer) = &mut self.phase
            && offer.standing == *standing
            && offer.others.contains(&member)
        {
            let newest = offer.accepted.entry(member).or_default();
            *newest = sent_at.max(*newest);
        }
    }

    /// A member does not hold what was offered, or its timers run: it needs a leader that speaks to it.
    pub fn refused(&mut self, member: NodeId, standing: &Standing, now: Duration) -> Timers {
        match &mut self.phase {
            Phase::Leads(offer) if offer.standing == *standing => {
                offer.accepted.remove(&member);
                if offer.rests { self.wake(now) } else { Timers::Unchanged }
            }
            _ => Timers::Unchanged,
        }
    }

    /// A leader's node offers a rest, or confirms it; whether this replica accepts. `patience` is how long it then waits
    /// for the next word.
    pub fn hear(
        &mut self,
        now: Duration,
        standing: &Standing,
        observed: &Observed,
        patience: Duration,
    ) -> (bool, Timers) {
        let leader = standing.leader();
        let holds = observed.follows && observed.standing.as_ref() == Some(standing);
        if !holds || !standing.vote.is_committed() {
            let rests_by_it = matches!(&self.phase, Phase::Follows(accepted) if accepted.leader == leader);
            return (false, if rests_by_it { self.wake(now) } else { Timers::Unchanged });
        }
        let timers = if matches!(self.phase, Phase::Follows(_)) { Timers::Unchanged } else { Timers::Stop };
        self.phase = Phase::Follows(Accepted {
            standing: standing.clone(),
            leader,
            heard_at: now,
            wakes_at: now + patience,
            postponed: false,
        });
        (true, timers)
    }

    /// A heartbeat of the group itself came, with nothing new in it: the rest goes on. Anything else ends it.
    pub fn hear_heartbeat(&mut self, now: Duration, standing: &Standing) -> bool {
        match &mut self.phase {
            Phase::Follows(accepted) if accepted.standing == *standing => {
                let patience = accepted.wakes_at.saturating_sub(accepted.heard_at);
                (accepted.heard_at, accepted.wakes_at) = (now, now + patience);
                true
            }
            _ => false,
        }
    }

    /// What a follower at rest holds of a leader whose node was heard of within the lease: it must grant nobody a vote.
    pub fn lease(&self, now: Duration, pace: &Pace) -> Option<Standing> {
        let Phase::Follows(accepted) = &self.phase else { return None };
        (now.saturating_sub(accepted.heard_at) <= pace.lease).then(|| accepted.standing.clone())
    }

    /// Another replica asks whether it would get a vote. If it campaigns next, this one need not; once, since who cannot
    /// win may ask for ever.
    pub fn postpone(&mut self, now: Duration, by: Duration) {
        if let Phase::Follows(accepted) = &mut self.phase
            && !accepted.postponed
        {
            accepted.postponed = true;
            accepted.wakes_at = accepted.wakes_at.max(now + by);
        }
    }

    /// When a follower's rest ends unless its leader's node is heard of.
    pub fn wakes_at(&self) -> Option<Duration> {
        let Phase::Follows(accepted) = &self.phase else { return None };
        Some(accepted.wakes_at)
    }

    /// Ends the rest of a follower that has waited long enough for its leader's node.
    pub fn end_if_overdue(&mut self, now: Duration) -> Timers {
        if self.wakes_at().is_some_and(|at| at <= now) { self.wake(now) } else { Timers::Unchanged }
    }
}

impl Offer {
    fn all_answer(&self, now: Duration, pace: &Pace) -> bool {
        let answers = |at: &Duration| now.saturating_sub(*at) <= pace.patience;
        self.others.iter().all(|member| self.accepted.get(member).is_some_and(answers))
    }

    /// The age of the newest acceptance that a majority of the voters has matched; this node's own counts as of now.
    fn quorum_age(&self, me: NodeId, now: Duration) -> Duration {
        let age = |voter: &NodeId| match self.accepted.get(voter) {
            _ if *voter == me => Duration::ZERO,
            Some(at) => now.saturating_sub(*at),
            None => Duration::MAX,
        };
        let mut ages: Vec<Duration> = self.voters.iter().map(age).collect();
        ages.sort();
        ages.get(self.voters.len() / 2).copied().unwrap_or(Duration::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PACE: Pace = Pace { quiet: ms(1_000), patience: ms(750), lease: ms(500) };

    const fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    fn standing(term: u64, index: u64) -> Standing {
        let vote = Vote::new_committed(term, 1);
        Standing { vote, log: LogId { leader_id: vote.leader_id, index } }
    }

    fn observed(standing: Option<Standing>, leads: bool) -> Observed {
        Observed {
            standing,
            follows: !leads,
            leads_settled: leads,
            others: BTreeSet::from([2, 3]),
            voters: BTreeSet::from([1, 2, 3]),
        }
    }

    /// A leader whose group rests since two seconds.
    fn leader_at_rest() -> Quiescence {
        let (mut leader, held) = (Quiescence::default(), standing(4, 9));
        let settled = observed(Some(held.clone()), true);
        assert_eq!(leader.look(ms(2_000), &settled, &PACE), Timers::Unchanged);
        for member in [2, 3] {
            assert_eq!(leader.look(ms(2_000), &settled, &PACE), Timers::Unchanged, "not all have accepted");
            leader.accepted(member, &held, ms(2_000));
        }
        assert_eq!(leader.look(ms(2_000), &settled, &PACE), Timers::Stop);
        assert!(leader.rests());
        leader
    }

    #[test]
    fn a_group_rests_when_it_was_quiet_and_every_member_holds_the_same() {
        let (mut leader, held) = (Quiescence::default(), standing(4, 9));
        let settled = observed(Some(held.clone()), true);
        leader.active(ms(500));
        leader.look(ms(1_400), &settled, &PACE);
        assert_eq!(leader.offer_to(2, 1, ms(1_400)), None, "it was called 900 ms ago");
        leader.look(ms(1_500), &settled, &PACE);
        assert_eq!(leader.offer_to(2, 1, ms(1_500)), Some((held.clone(), Duration::MAX)), "nobody has accepted yet");
        assert_eq!(leader.offer_to(7, 1, ms(1_500)), None, "no member");
        leader.accepted(2, &standing(4, 8), ms(1_500));
        leader.accepted(7, &held, ms(1_500));
        leader.accepted(3, &held, ms(1_500));
        assert_eq!(leader.look(ms(1_600), &settled, &PACE), Timers::Unchanged, "node 2 accepted something else");
        assert_eq!(leader.quorum_age(1, ms(1_600)), Some(ms(100)));
        leader.accepted(2, &held, ms(1_550));
        assert_eq!(leader.look(ms(1_600), &settled, &PACE), Timers::Stop);
    }

    #[test]
    fn what_ends_a_leaders_rest() {
        let (held, now) = (standing(4, 9), ms(2_300));
        let settled = observed(Some(held.clone()), true);
        assert_eq!(leader_at_rest().look(now, &settled, &PACE), Timers::Unchanged);
        assert_eq!(leader_at_rest().active(now), Timers::Start, "a call");
        assert_eq!(leader_at_rest().refused(3, &held, now), Timers::Start, "a member that holds something else");
        assert_eq!(leader_at_rest().refused(3, &standing(4, 8), now), Timers::Unchanged, "an answer to an old offer");
        assert_eq!(leader_at_rest().look(ms(2_751), &settled, &PACE), Timers::Start, "members that are not heard of");
        let deposed = observed(Some(standing(5, 9)), false);
        assert_eq!(leader_at_rest().look(now, &deposed, &PACE), Timers::Start, "another leader");
        let more = observed(Some(standing(4, 10)), true);
        assert_eq!(leader_at_rest().look(now, &more, &PACE), Timers::Start, "another entry");
        let joined = Observed { others: BTreeSet::from([2, 3, 4]), ..settled };
        assert_eq!(leader_at_rest().look(now, &joined, &PACE), Timers::Start, "another member");
        // Once awake it stays so for the quiet time.
        let mut woken = leader_at_rest();
        woken.wake(now);
        woken.look(now + ms(999), &joined, &PACE);
        assert_eq!(woken.offer_to(2, 1, now), None);
    }

    #[test]
    fn a_member_alone_needs_nobody_to_rest() {
        let mut leader = Quiescence::default();
        let held = standing(4, 9);
        let (others, voters) = (BTreeSet::new(), BTreeSet::from([1]));
        let alone = Observed { others, voters, ..observed(Some(held), true) };
        assert_eq!(leader.look(ms(1_000), &alone, &PACE), Timers::Unchanged);
        assert_eq!(leader.look(ms(1_300), &alone, &PACE), Timers::Stop);
        assert_eq!(leader.quorum_age(1, ms(9_000)), Some(ms(0)));
        assert_eq!(leader.look(ms(99_000), &alone, &PACE), Timers::Unchanged);
    }

    #[test]
    fn a_follower_rests_only_with_what_its_leader_holds() {
        let held = standing(4, 9);
        let table = [
            (observed(Some(held.clone()), false), true),
            (observed(Some(standing(4, 8)), false), false),
            (observed(Some(standing(5, 9)), false), false),
            (observed(None, false), false),
            (observed(Some(held.clone()), true), false),
        ];
        for (observed, accepts) in table {
            let mut follower = Quiescence::default();
            let timers = if accepts { Timers::Stop } else { Timers::Unchanged };
            assert_eq!(follower.hear(ms(0), &held, &observed, ms(800)), (accepts, timers), "{observed:?}");
            assert_eq!(follower.rests(), accepts);
        }
        let mut follower = Quiescence::default();
        follower.hear(ms(0), &held, &observed(Some(held.clone()), false), ms(800));
        let other = follower.hear(ms(10), &standing(4, 11), &observed(Some(held.clone()), false), ms(800));
        assert_eq!(other, (false, Timers::Start), "its leader went on without it");
    }

    #[test]
    fn a_follower_wakes_when_its_leaders_node_falls_silent() {
        let held = standing(4, 9);
        let seen = observed(Some(held.clone()), false);
        let mut follower = Quiescence::default();
        follower.hear(ms(0), &held, &seen, ms(800));
        follower.hear(ms(300), &held, &seen, ms(800));
        assert!(follower.hear_heartbeat(ms(400), &held));
        assert_eq!(follower.end_if_overdue(ms(1_199)), Timers::Unchanged);
        assert!(follower.lease(ms(900), &PACE).is_some() && follower.lease(ms(901), &PACE).is_none());
        follower.postpone(ms(1_150), ms(250));
        follower.postpone(ms(1_390), ms(250));
        assert_eq!(follower.wakes_at(), Some(ms(1_400)), "put off once");
        assert_eq!(follower.end_if_overdue(ms(1_400)), Timers::Start);
        assert!(!follower.hear_heartbeat(ms(1_500), &held), "awake, it hears heartbeats by its timers");
        assert_eq!(follower.active(ms(1_500)), Timers::Unchanged);
    }
}
