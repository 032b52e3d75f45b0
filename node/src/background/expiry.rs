//! Removing frames whose time is over, in the background: every shard led here is looked at from time to time
//! ([`crate::shard::expiry`]).

use std::sync::Arc;

use mira_proto::limits;
use tokio::sync::watch;

use crate::node::Node;

/// Sweeps until told to stop.
pub async fn drive(node: Arc<Node>, mut stopped: watch::Receiver<bool>) {
    loop {
        let work = async {
            for (id, shard) in node.shards() {
                while shard.group().status().is_leader() {
                    match shard.sweep().await {
                        Ok((removed, more)) => {
                            node.metrics.expired(removed);
                            if !more {
                                break;
                            }
                        }
                        Err(refusal) => {
                            tracing::debug!(shard = id, %refusal, "frames that are over are removed later");
                            break;
                        }
                    }
                }
            }
            tokio::time::sleep(limits::SWEEP_EVERY).await;
        };
        tokio::select! {
            () = work => {}
            _ = stopped.wait_for(|stopped| *stopped) => return,
        }
    }
}
