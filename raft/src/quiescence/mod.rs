//! Groups at rest: no timers and no messages of their own, as long as the nodes that hold them hear of each other.
//!
//! A group whose leader was not called for a while, and whose members all hold and have applied the same entries, rests:
//! the timers of all its replicas stand still. In place of the heartbeats of each group, a node then sends one *node
//! heartbeat* to each peer ([`NodeHeartbeat`]), which names the groups that it leads at rest and what they hold.
//!
//! ```text
//!            offers: group, vote, last entry, age of quorum
//!   leader's node ────────────────────────────────────> follower's node    holds the same: accepts, its timers stand still
//!                 <────────────────────────────────────                    holds something else: refuses by name
//!            refused groups, and its own offers
//! ```
//!
//! The reply carries the other side's offers, so two messages serve both directions; the node with the smaller id asks, and
//! the other one only when it is not asked.
//!
//! What wakes a group:
//! - *a call for its leader* (a proposal, a confirmed read, a change of members): the leader wakes at once and sends
//!   heartbeats; followers wake by the entries that come;
//! - *a node that is not heard of*: a follower waits for the leader's node as long as it would have waited for heartbeats,
//!   with the same random part, and campaigns; a leader that one member's node has not answered wakes, speaks to all, and
//!   does not rest again before that member answers;
//! - *a disagreement*: a member that holds something else than it is offered, or whose group has just been opened, refuses,
//!   and the leader wakes.
//!
//! Guarantees:
//! - Resting takes nothing from the safety of consensus, which needs no timers. An acknowledged write is on a majority, a
//!   confirmed read asks a quorum.
//! - A leader at rest cannot be replaced while its nodes hear of it. Whoever asks for a vote, a follower at rest first has
//!   consensus hear the heartbeat that its leader's node stands for, so that the lease holds; a leader at rest first asks
//!   its quorum.
//! - The age that a replica at rest gives of itself is true: an offer says how long ago a quorum accepted it, by when that
//!   quorum's node heartbeats were sent, and it is composed while no proposal can slip in between.

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;

use crate::codec::to_postcard;
use crate::config::Timing;
use crate::host::RaftHost;
use crate::types::{GroupId, NodeId, Runtime};
use crate::wire::{self, Heard, Kind, NodeHeartbeat, NodeHeartbeatReply, RestingGroup};

mod state;

pub(crate) use state::{Observed, Pace, Quiescence, Standing, Timers};

impl Timing {
    pub(crate) fn pace(&self) -> Pace {
        Pace { quiet: self.quiet, patience: self.election_max * 3 / 2, lease: self.election_max }
    }

    /// How long a follower at rest waits for its leader's node: as long as it would have waited for heartbeats.
    pub(crate) fn follower_patience(&self, random: u64) -> Duration {
        let spread = (self.election_max - self.election_min).as_millis().max(1) as u64;
        self.election_max + self.election_min + Duration::from_millis(random % spread)
    }
}

/// What a node knows of its exchange with the others.
#[derive(Default)]
pub(crate) struct NodeHeartbeats(Mutex<Exchanges>);

#[derive(Default)]
struct Exchanges {
    next_at: Duration,
    peers: BTreeMap<NodeId, Exchange>,
}

#[derive(Default)]
struct Exchange {
    /// A request of this node is under way.
    calling: bool,
    /// When a request of the peer came last.
    asked_at: Option<Duration>,
    /// What was offered in the last reply to the peer; its answer comes with its next request.
    offered: Option<Offered>,
    /// The answer to what the peer's last reply offered.
    owed: Option<Heard>,
}

/// Offers that wait for an answer.
struct Offered {
    number: u64,
    sent_at: Duration,
    groups: Vec<(GroupId, Standing)>,
}

impl Exchanges {
    /// Whether this node is to ask `peer` now. The smaller id asks, so that one exchange serves both; the other one asks
    /// when it is not asked.
    fn is_due(&self, me: NodeId, peer: NodeId, now: Duration, every: Duration) -> bool {
        let Some(exchange) = self.peers.get(&peer) else { return true };
        let waits = if me < peer { every / 2 } else { every * 3 / 2 };
        let asked = exchange.asked_at.is_some_and(|at| now.saturating_sub(at) < waits);
        !exchange.calling && !asked
    }
}

/// Exchanges node heartbeats until the host is gone.
pub(crate) async fn run<R: Runtime>(host: Weak<RaftHost<R>>) {
    loop {
        let Some(host) = host.upgrade() else { return };
        if *host.stopped().borrow() {
            return;
        }
        let pause = host.keep_resting();
        host.bound_logs();
        drop(host);
        R::sleep(pause).await;
    }
}

impl<R: Runtime> RaftHost<R> {
    /// Looks at every group, asks the peers whose turn it is, and says when to look again.
    fn keep_resting(self: &Arc<Self>) -> Duration {
        let (now, every) = (self.since_opened(), self.config().timing.node_heartbeat);
        let groups = self.groups();
        groups.iter().for_each(|group| group.end_rest_if_overdue());
        let mut exchanges = self.node_heartbeats().0.lock();
        if exchanges.next_at <= now {
            exchanges.next_at = now + every;
            groups.iter().for_each(|group| group.look_whether_to_rest());
            let mut partners: Vec<NodeId> = groups.iter().flat_map(|group| group.partners()).collect();
            partners.sort_unstable();
            partners.dedup();
            for peer in partners {
                if exchanges.is_due(self.node_id(), peer, now, every) {
                    exchanges.peers.entry(peer).or_default().calling = true;
                    drop(R::spawn(ask(Arc::downgrade(self), peer)));
                }
            }
        }
        let wakes_at = groups.iter().filter_map(|group| group.wakes_at()).min();
        wakes_at.map_or(exchanges.next_at, |at| at.min(exchanges.next_at)).saturating_sub(now)
    }

    /// What this node offers to a peer now.
    fn offers_to(&self, peer: NodeId) -> Vec<(RestingGroup, Standing)> {
        self.groups().iter().filter_map(|group| group.offer_to(peer)).collect()
    }

    /// Answers what a peer offers: the groups that do not rest here as it says.
    fn hear_offers(&self, peer: NodeId, offers: &[RestingGroup]) -> Vec<GroupId> {
        let accepts =
            |offer: &&RestingGroup| self.group(offer.group).is_some_and(|group| group.hear_offer(peer, offer));
        offers.iter().filter(|offer| !accepts(offer)).map(|offer| offer.group).collect()
    }

    fn note_answer(&self, peer: NodeId, offered: &Offered, refused: &[GroupId]) {
        for (id, standing) in &offered.groups {
            if let Some(group) = self.group(*id) {
                group.note_answer(peer, standing, (!refused.contains(id)).then_some(offered.sent_at));
            }
        }
    }

    /// Answers a node heartbeat.
    pub(crate) fn handle_node_heartbeat(&self, body: &[u8]) -> Result<Bytes, wire::Refusal> {
        let request: NodeHeartbeat = postcard::from_bytes(body)
            .map_err(|error| wire::Refusal::new(wire::Status::Malformed, error.to_string()))?;
        let (peer, now) = (request.from, self.since_opened());
        if !self.groups().iter().any(|group| group.has_member(peer)) {
            let text = format!("node {peer:016x} is a member of no group that is open here");
            return Err(wire::Refusal::new(wire::Status::Malformed, text));
        }
        let answered = {
            let mut exchanges = self.node_heartbeats().0.lock();
            let exchange = exchanges.peers.entry(peer).or_default();
            exchange.asked_at = Some(now);
            let heard = |offered: &Offered| request.heard.as_ref().is_some_and(|heard| heard.number == offered.number);
            exchange.offered.take_if(|offered| heard(offered))
        };
        if let (Some(offered), Some(heard)) = (answered, &request.heard) {
            self.note_answer(peer, &offered, &heard.refused);
        }
        let refused = self.hear_offers(peer, &request.groups);
        let (groups, standings): (Vec<_>, Vec<_>) = self.offers_to(peer).into_iter().unzip();
        let number = (self.config().randomness)();
        let offered = groups.iter().map(|offer| offer.group).zip(standings).collect();
        let exchange = Offered { number, sent_at: now, groups: offered };
        self.node_heartbeats().0.lock().peers.entry(peer).or_default().offered = Some(exchange);
        Ok(wire::reply(wire::Status::Ok, &to_postcard(&NodeHeartbeatReply { refused, number, groups })))
    }
}

/// One exchange with a peer, begun here.
async fn ask<R: Runtime>(host: Weak<RaftHost<R>>, peer: NodeId) {
    let Some((call, offered)) = host.upgrade().map(|host| begin(&host, peer)) else { return };
    let reply = call.await;
    let Some(host) = host.upgrade() else { return };
    let reply = reply.and_then(|body| postcard::from_bytes::<NodeHeartbeatReply>(&body).ok());
    if let Some(reply) = &reply {
        host.note_answer(peer, &offered, &reply.refused);
    }
    let owed = reply.map(|reply| Heard { number: reply.number, refused: host.hear_offers(peer, &reply.groups) });
    let mut exchanges = host.node_heartbeats().0.lock();
    let exchange = exchanges.peers.entry(peer).or_default();
    exchange.calling = false;
    exchange.owed = owed;
}

/// Composes a request to a peer and hands it to the transport; the body of its reply, if one comes in time.
fn begin<R: Runtime>(host: &RaftHost<R>, peer: NodeId) -> (impl Future<Output = Option<Bytes>> + use<R>, Offered) {
    let heard = host.node_heartbeats().0.lock().peers.entry(peer).or_default().owed.take();
    let sent_at = host.since_opened();
    let (groups, standings): (Vec<_>, Vec<_>) = host.offers_to(peer).into_iter().unzip();
    let offered = groups.iter().map(|offer| offer.group).zip(standings).collect();
    let message = NodeHeartbeat { from: host.node_id(), heard, groups };
    // It belongs to no group; the place of the group's id stays empty.
    let request = wire::request(Kind::NodeHeartbeat, 0, &to_postcard(&message)).freeze();
    let timeout = host.config().timing.election_max;
    let call = host.config().transport.call(peer, request, timeout);
    let call = async move {
        // The transport keeps the time as well; this is for one that cannot.
        let reply = R::timeout(timeout, call).await.ok()?.ok()?;
        wire::parse_reply(reply).ok()
    };
    (call, Offered { number: 0, sent_at, groups: offered })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_two_nodes_the_one_with_the_smaller_id_asks_unless_it_fails_to() {
        let every = Duration::from_millis(300);
        let ms = Duration::from_millis;
        let at = |asked_at, calling| {
            let exchange = Exchange { calling, asked_at, ..Exchange::default() };
            Exchanges { peers: BTreeMap::from([(5, exchange)]), ..Exchanges::default() }
        };
        // asked by the peer, a call under way, this node, whether it asks at 1,000 ms
        let table = [
            (None, false, 1, true),
            (None, false, 9, true),
            (None, true, 1, false),
            (Some(ms(700)), false, 1, true),
            (Some(ms(700)), false, 9, false),
            (Some(ms(549)), false, 9, true),
            (Some(ms(900)), false, 1, false),
        ];
        for (asked_at, calling, me, due) in table {
            assert_eq!(at(asked_at, calling).is_due(me, 5, ms(1_000), every), due, "{me} asked at {asked_at:?}");
        }
        assert!(Exchanges::default().is_due(9, 5, ms(1_000), every), "it never heard of it");
    }

    #[test]
    fn a_follower_waits_for_a_node_as_long_as_for_heartbeats() {
        let timing = Timing::default();
        let (least, most) = (timing.follower_patience(0), timing.follower_patience(249));
        assert_eq!((least, most), (Duration::from_millis(750), Duration::from_millis(999)));
        assert_eq!(timing.follower_patience(250), least);
    }
}
