//! Removing frames whose time is over: every shard led here is looked at from time to time ([`crate::shard::expiry`]).

use std::sync::Arc;

use crate::{
    background::{Job, Tick},
    node::Node,
};

/// Removes what is over in every shard that this node leads.
pub struct ExpiryJob(pub Arc<Node>);

impl Job for ExpiryJob {
    async fn tick(&mut self) -> Tick {
        let mut tick = Tick::default();
        for (id, shard) in self.0.shards() {
            while shard.group().status().is_leader() {
                match shard.sweep().await {
                    Ok((removed, more)) => {
                        self.0.metrics.expired(removed);
                        if !more {
                            break;
                        }
                    }
                    Err(refusal) => {
                        tracing::debug!(shard = id, %refusal, "frames that are over are removed later");
                        tick.failures += 1;
                        break;
                    }
                }
            }
        }
        tick
    }
}
