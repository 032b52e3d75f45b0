//! Verification in the background: from time to time every shard's replicas are compared, and what is wrong is rebuilt.
//!
//! Damage that no reader meets stays unseen until the other replicas are gone as well. The leader of each shard has all
//! replicas digest what they hold (as `mira admin shards verify` does, [`crate::shard::verify`]), asks for their digests, and
//! compares. Times are spread: each shard has its own place in the period, following from its number, and a node verifies one
//! at a time; each replica reads at a bounded rate. What differs from the majority is counted, said in the log, and, unless
//! that is forbidden, leaves its group and is rebuilt from the others, as a replica that meets damage by itself does.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant},
};

use mira_proto::{
    NodeId, Refusal, ShardId, limits,
    node_v1::{self, VerificationState},
    verification,
};

use crate::{
    background::{Job, Tick},
    meta::{MetaAnswer, MetaCommand},
    node::Node,
};

/// Between two looks whether a shard's turn has come, at most.
const LOOK: Duration = Duration::from_secs(30);
/// Between two questions whether a digest is ready.
const ASK_EVERY: Duration = Duration::from_millis(500);

/// Where a shard's first turn is in a period that begins when its leader began to lead: a fraction that differs from shard
/// to shard, so that they do not all read at once.
fn first_turn(shard: ShardId, every: Duration) -> Duration {
    // The golden ratio spreads any number of them evenly.
    every.mul_f64((f64::from(shard) * 0.618_033_988_749_894_9 + 0.5).fract())
}

/// Between two looks of a node that verifies each shard once in `every`.
pub fn look_every(every: Duration) -> Duration {
    LOOK.min(every / 10).max(Duration::from_millis(20))
}

/// Verifies the shards that this node leads, one after the other.
pub struct VerificationJob {
    /// The node.
    pub node: Arc<Node>,
    /// Between two verifications of a shard.
    pub every: Duration,
    /// Whether a replica that is wrong is rebuilt from the others.
    pub repairs: bool,
    /// When the next turn of each shard is.
    pub due: BTreeMap<ShardId, Instant>,
}

impl Job for VerificationJob {
    async fn tick(&mut self) -> Tick {
        let Some(shard) = self.next_due() else { return Tick::default() };
        self.due.insert(shard, Instant::now() + self.every);
        let verified = self.verify(shard).await;
        if let Err(refusal) = &verified {
            tracing::debug!(shard, %refusal, "not verified now");
        }
        Tick { failures: u64::from(verified.is_err()), more_after: Some(Duration::ZERO) }
    }
}

impl VerificationJob {
    /// The shard whose turn it is longest, of those that this node leads.
    fn next_due(&mut self) -> Option<ShardId> {
        let now = Instant::now();
        let shards = self.node.shards();
        let led: BTreeSet<ShardId> = shards
            .iter()
            .filter(|(_, open)| open.group().status().is_leader() && !open.verifier().damaged())
            .map(|(id, _)| *id)
            .collect();
        self.due.retain(|shard, _| led.contains(shard));
        for shard in led {
            self.due.entry(shard).or_insert_with(|| now + first_turn(shard, self.every));
        }
        let (&longest, &at) = self.due.iter().min_by_key(|(_, at)| **at)?;
        (at <= now).then_some(longest)
    }

    /// Compares the replicas of a shard, and has those that are wrong rebuilt.
    async fn verify(&self, shard: ShardId) -> Result<(), Refusal> {
        let replies = self.compare(shard).await?;
        let verdict = verification::verdict(&replies);
        self.node.metrics.verified(verdict);
        let wrong = verification::wrong(&replies);
        match verdict {
            "sound" => tracing::info!(shard, "replicas verified"),
            "incomplete" => tracing::info!(shard, "replicas verified as far as they answered"),
            _ => tracing::error!(shard, verdict, ?wrong, "replicas do not hold the same, or cannot be read"),
        }
        for replica in wrong.into_iter().filter(|_| self.repairs) {
            let command = MetaCommand::StartMove { shard, from: Some(replica), to: replica };
            match self.node.propose_meta(&command).await {
                Ok(MetaAnswer::Done) => {
                    self.node.metrics.repaired();
                    tracing::warn!(shard, replica = %format_args!("{replica:016x}"), "the replica is rebuilt");
                }
                // It moves already; the next verification says whether that was enough.
                other => tracing::info!(shard, ?other, "the replica is not rebuilt now"),
            }
        }
        Ok(())
    }

    /// What each replica says of one verification, when all have said it or there is no patience left.
    async fn compare(&self, shard: ShardId) -> Result<Vec<(NodeId, node_v1::VerifyShardReply)>, Refusal> {
        let nonce = rand::random();
        self.node.shard(shard)?.verify(nonce).await?;
        let until = Instant::now() + self.every.min(limits::VERIFY_PATIENCE);
        let pause = ASK_EVERY.min(self.every / 10);
        let request = node_v1::VerifyShardRequest { shard, nonce, begin: false };
        let replicas = self.node.cluster().replicas(shard).to_vec();
        let asked = replicas.into_iter().map(|replica| async move {
            loop {
                let reply = ask_replica(&self.node, replica, request).await;
                if matches!(reply.state(), VerificationState::Done | VerificationState::Failed)
                    || Instant::now() >= until
                {
                    return (replica, reply);
                }
                tokio::time::sleep(pause).await;
            }
        });
        Ok(futures::future::join_all(asked).await)
    }
}

async fn ask_replica(node: &Node, replica: NodeId, request: node_v1::VerifyShardRequest) -> node_v1::VerifyShardReply {
    let unreachable =
        || node_v1::VerifyShardReply { state: VerificationState::Unreachable.into(), ..Default::default() };
    let Ok(client) = node.peers().client_of(replica) else { return unreachable() };
    match tokio::time::timeout(limits::STATUS_TRY, client.shards().verify_shard(request)).await {
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
