//! Verification in the background: from time to time every shard's replicas are compared, and what is wrong is made anew.
//!
//! Damage that no reader meets stays unseen until the other replicas are gone as well. The leader of each shard has all
//! replicas digest what they hold (as `mira admin shards verify` does, [`crate::shard::verify`]), asks for their digests, and
//! compares. Times are spread: each shard has its own place in the period, following from its number, and a node verifies one
//! at a time; each replica reads at a bounded rate. What differs from the majority is counted, said in the log, and, unless
//! that is forbidden, leaves its group and is made anew from the others, as a replica that meets damage by itself does.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use mira_proto::{NodeId, Refusal, ShardId, limits, node_v1, verification};
use tokio::sync::watch;

use crate::{
    meta::{MetaAnswer, MetaCommand},
    node::Node,
};

/// Between two looks whether a shard's turn has come, at most.
const LOOK: Duration = Duration::from_secs(30);
/// Between two questions whether a digest is ready.
const ASK_EVERY: Duration = Duration::from_millis(500);

/// When and how replicas are verified.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Verification {
    /// Each shard this often; never if none.
    pub every: Option<Duration>,
    /// Whether a replica that is wrong is made anew.
    pub mends: bool,
}

impl Default for Verification {
    fn default() -> Self {
        Verification { every: Some(limits::VERIFY_EVERY), mends: true }
    }
}

/// Where a shard's first turn is in a period that begins when its leader began to lead: a fraction that differs from shard
/// to shard, so that they do not all read at once.
fn first_turn(shard: ShardId, every: Duration) -> Duration {
    // The golden ratio spreads any number of them evenly.
    every.mul_f64((f64::from(shard) * 0.618_033_988_749_894_9 + 0.5).fract())
}

/// Verifies the shards that this node leads, one after the other, until told to stop.
pub async fn drive(node: Arc<Node>, plan: Verification, mut stopped: watch::Receiver<bool>) {
    let Some(every) = plan.every else { return };
    let mut due: BTreeMap<ShardId, Instant> = BTreeMap::new();
    let look = LOOK.min(every / 10).max(Duration::from_millis(20));
    loop {
        let work = async {
            let next = next_due(&node, every, &mut due);
            match next {
                None => tokio::time::sleep(look).await,
                Some(shard) => {
                    due.insert(shard, Instant::now() + every);
                    verify(&node, shard, plan.mends, every).await;
                }
            }
        };
        tokio::select! {
            () = work => {}
            _ = stopped.wait_for(|stopped| *stopped) => return,
        }
    }
}

/// The shard whose turn it is longest, of those that this node leads.
fn next_due(node: &Node, every: Duration, due: &mut BTreeMap<ShardId, Instant>) -> Option<ShardId> {
    let now = Instant::now();
    let shards = node.shards();
    let leads = |shard: &ShardId| {
        shards.iter().any(|(id, open)| id == shard && open.group().status().is_leader() && !open.verifier().damaged())
    };
    due.retain(|shard, _| leads(shard));
    for shard in shards.iter().map(|(id, _)| *id).filter(leads) {
        due.entry(shard).or_insert_with(|| now + first_turn(shard, every));
    }
    let longest = due.iter().min_by_key(|(_, at)| **at)?;
    (*longest.1 <= now).then_some(*longest.0)
}

async fn verify(node: &Arc<Node>, shard: ShardId, mends: bool, patience: Duration) {
    let replies = match compare(node, shard, patience).await {
        Ok(replies) => replies,
        Err(refusal) => return tracing::debug!(shard, %refusal, "not verified now"),
    };
    let verdict = verification::verdict(&replies);
    node.metrics.verified(verdict);
    let wrong = verification::wrong(&replies);
    match verdict {
        "sound" => tracing::info!(shard, "replicas verified"),
        "incomplete" => tracing::info!(shard, "replicas verified as far as they answered"),
        _ => tracing::error!(shard, verdict, ?wrong, "replicas do not hold the same, or cannot be read"),
    }
    for replica in wrong.into_iter().filter(|_| mends) {
        let command = MetaCommand::StartMove { shard, from: Some(replica), to: replica };
        match node.propose_meta(&command).await {
            Ok(MetaAnswer::Done) => {
                node.metrics.mended();
                tracing::warn!(shard, replica = %format_args!("{replica:016x}"), "the replica is made anew");
            }
            // It moves already; the next verification says whether that was enough.
            other => tracing::info!(shard, ?other, "the replica is not made anew now"),
        }
    }
}

/// What each replica says of one verification, when all have said it or there is no patience left.
async fn compare(
    node: &Arc<Node>,
    shard: ShardId,
    patience: Duration,
) -> Result<Vec<(NodeId, node_v1::VerifyShardReply)>, Refusal> {
    let nonce = rand::random();
    node.shard(shard)?.verify(nonce).await?;
    let until = Instant::now() + patience.min(limits::VERIFY_PATIENCE);
    let replicas = node.cluster().replicas(shard).to_vec();
    let asked = replicas.into_iter().map(|replica| async move {
        loop {
            let reply = ask(node, replica, (shard, nonce)).await;
            if matches!(reply.state.as_str(), "done" | "failed") || Instant::now() >= until {
                return (replica, reply);
            }
            tokio::time::sleep(ASK_EVERY.min(patience / 10)).await;
        }
    });
    Ok(futures::future::join_all(asked).await)
}

async fn ask(node: &Node, replica: NodeId, (shard, nonce): (ShardId, u64)) -> node_v1::VerifyShardReply {
    let request = node_v1::VerifyShardRequest { shard, nonce, begin: false };
    let unreachable = || node_v1::VerifyShardReply { state: "unreachable".into(), ..Default::default() };
    let Ok(mut client) = node.peers().client_of(replica) else { return unreachable() };
    match tokio::time::timeout(limits::STATUS_TRY, client.verify_shard(request)).await {
        Ok(Ok(reply)) => reply.into_inner(),
        _ => unreachable(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shards_take_their_turns_all_over_the_period() {
        let every = Duration::from_secs(1_000);
        let mut turns: Vec<Duration> = (0..16).map(|shard| first_turn(shard, every)).collect();
        assert!(turns.iter().all(|turn| *turn < every));
        turns.sort();
        let gaps = turns.windows(2).map(|pair| pair[1] - pair[0]);
        let (least, most) = (gaps.clone().min().expect("gaps"), gaps.max().expect("gaps"));
        assert!(least > Duration::from_secs(20) && most < Duration::from_secs(110), "{least:?} {most:?}");
    }
}
