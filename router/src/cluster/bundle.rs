//! Small writes of many callers, sent to a shard's leader in one message.
//!
//! A message costs the processor more than the frame in it: headers, tasks and wake-ups on both sides. So while one
//! message of writes is under way to a shard, those that come meanwhile wait for it to be answered, though for
//! [`limits::BUNDLE_WINDOW`] at most, and then go together. A write that meets no other goes at once.
//!
//! Only the way is shared. Each write keeps its request id, its epoch and its answer; one that is refused is tried again
//! by its own caller, alone or in another company.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use mira_proto::node_v1::{FrameWrite, WriteManyReply, WriteManyRequest, WriteReply, WriteRequest, WriteResult};
use mira_proto::{NodeId, Refusal, ShardId, limits};
use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep_until, timeout};
use tonic::{Response, Status};

use super::Client;

/// A lane that carried nothing for so long is given up.
const IDLE: Duration = Duration::from_secs(10);

type Answer = Result<WriteReply, Status>;

/// A write on its way, and who waits for the answer.
struct Item {
    client: Client,
    write: WriteRequest,
    answer: oneshot::Sender<Answer>,
}

/// Lanes by where they lead.
type Lanes = Mutex<HashMap<(NodeId, ShardId), mpsc::UnboundedSender<Item>>>;

/// Bundles the small writes of all requests of a router.
#[derive(Default)]
pub struct Bundler {
    // Every item belongs to a request that waits for it: the router's bound of those bounds the lanes too.
    lanes: Arc<Lanes>,
}

impl Bundler {
    /// Sends a write to `node`, in company if it is small.
    pub async fn write(
        &self,
        (node, mut client): (NodeId, Client),
        write: WriteRequest,
    ) -> Result<Response<WriteReply>, Status> {
        if !is_small(&write) {
            return client.write(write).await;
        }
        let (answer, answered) = oneshot::channel();
        self.enqueue((node, write.shard), Item { client, write, answer });
        // A lane that ends without an answer was stopped with its runtime.
        answered.await.unwrap_or_else(|_| Err(Status::unavailable("the router is stopping"))).map(Response::new)
    }

    fn enqueue(&self, to: (NodeId, ShardId), item: Item) {
        let mut lanes = self.lanes.lock();
        let refused = match lanes.get(&to) {
            Some(lane) => lane.send(item).err().map(|refused| refused.0),
            None => Some(item),
        };
        if let Some(item) = refused {
            let (lane, items) = mpsc::unbounded_channel();
            let _ = lane.send(item);
            lanes.insert(to, lane);
            tokio::spawn(run(to, items, self.lanes.clone()));
        }
    }
}

fn is_small(write: &WriteRequest) -> bool {
    write.frames.iter().map(size_of_frame).sum::<usize>() <= limits::BUNDLE_WRITE_BYTES
}

/// Bytes of a frame on its way, about.
pub fn size_of_frame(frame: &FrameWrite) -> usize {
    let vectors: usize = frame.passages.iter().map(|passage| size_of_val(&passage.vector[..])).sum();
    let sealed = frame.private.as_ref().map_or(0, |private| private.body.len() + private.vectors.len());
    frame.content.len() + frame.metadata_json.len() + frame.session.len() + frame.role.len() + vectors + sealed
}

/// One lane: collects, and sends.
async fn run(to: (NodeId, ShardId), mut items: mpsc::UnboundedReceiver<Item>, lanes: Arc<Lanes>) {
    let mut waiting: Vec<Item> = Vec::new();
    let mut since = Instant::now();
    let mut under_way = FuturesUnordered::new();
    loop {
        let full = waiting.len() >= limits::MAX_PROPOSAL_FRAMES;
        if !waiting.is_empty() && (full || under_way.is_empty() || since.elapsed() >= limits::BUNDLE_WINDOW) {
            // A task of its own: several processors may have several messages in hand.
            under_way.push(tokio::spawn(send(std::mem::take(&mut waiting))));
            continue;
        }
        tokio::select! {
            item = items.recv() => {
                let Some(item) = item else { break };
                if waiting.is_empty() {
                    since = Instant::now();
                }
                waiting.push(item);
                // Whoever is there already comes along.
                while waiting.len() < limits::MAX_PROPOSAL_FRAMES && let Ok(item) = items.try_recv() {
                    waiting.push(item);
                }
            }
            Some(_) = under_way.next() => {}
            () = sleep_until(since + limits::BUNDLE_WINDOW), if !waiting.is_empty() => {}
            () = tokio::time::sleep(IDLE), if waiting.is_empty() && under_way.is_empty() => {
                let mut lanes = lanes.lock();
                if items.is_empty() {
                    lanes.remove(&to);
                    return;
                }
            }
        }
    }
}

/// Sends what has come together, and gives everybody their answer.
async fn send(mut items: Vec<Item>) {
    // Nobody waits any more for a write whose caller has gone.
    items.retain(|item| !item.answer.is_closed());
    let Some(mut client) = items.first().map(|item| item.client.clone()) else { return };
    let (answers, writes): (Vec<_>, Vec<_>) = items.into_iter().map(|item| (item.answer, item.write)).unzip();
    let results = answer_all(&mut client, writes, answers.len()).await;
    for (waiting, result) in answers.into_iter().zip(results) {
        let _ = waiting.send(result);
    }
}

async fn answer_all(client: &mut Client, mut writes: Vec<WriteRequest>, count: usize) -> Vec<Answer> {
    if count == 1
        && let Some(write) = writes.pop()
    {
        return vec![client.write(write).await.map(Response::into_inner)];
    }
    let sent = timeout(limits::WRITE_TRY, client.write_many(WriteManyRequest { writes })).await;
    let failed = match sent {
        Ok(Ok(reply)) => {
            let WriteManyReply { results } = reply.into_inner();
            if results.len() == count {
                return results.into_iter().map(result).collect();
            }
            Status::internal("the node answered another number of writes")
        }
        Ok(Err(status)) => status,
        Err(_) => Status::deadline_exceeded(format!("no answer within {:?}", limits::WRITE_TRY)),
    };
    vec![Err(failed); count]
}

fn result(result: WriteResult) -> Answer {
    match (result.reply, result.problem) {
        (Some(reply), None) => Ok(reply),
        (_, Some(problem)) => Err(Refusal::from(problem).into()),
        (None, None) => Err(Status::internal("the node answered a write with nothing")),
    }
}
