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

use mira_proto::node_v1::{FrameWrite, WriteManyReply, WriteManyRequest, WriteReply, WriteRequest, WriteResult};
use mira_proto::{NodeId, Problem, Refusal, ShardId, limits};
use parking_lot::Mutex;
use tokio::sync::oneshot;
use tokio::time::{sleep, timeout};
use tonic::{Response, Status};

use super::NodeClients;

type Answer = Result<WriteReply, Status>;
/// Where a lane leads.
type To = (NodeId, ShardId);

/// A write that waits for its turn, and who waits for its answer.
struct Item {
    clients: NodeClients,
    write: WriteRequest,
    answer: oneshot::Sender<Answer>,
}

/// Writes to one shard's leader. There is one as long as a message is under way or somebody waits.
#[derive(Default)]
struct Lane {
    /// Messages that are not answered yet.
    under_way: usize,
    waiting: Vec<Item>,
    /// Counts messages: tells whom a timer was set for.
    sent: u64,
}

impl Lane {
    /// Those who wait, as a message that is under way from here on.
    fn depart(&mut self) -> Vec<Item> {
        self.under_way += 1;
        self.sent += 1;
        std::mem::take(&mut self.waiting)
    }
}

/// Bundles the small writes of all requests of a router.
// Every item belongs to a request that waits for it: the router's bound of those bounds the lanes too.
#[derive(Clone, Default)]
pub struct Bundler(Arc<Mutex<HashMap<To, Lane>>>);

/// Whether a write goes now, or with others.
enum Turn {
    Now(Box<(NodeClients, WriteRequest)>),
    Later(oneshot::Receiver<Answer>),
}

/// Ends a message's being under way, also when its caller has gone.
struct UnderWay<'a>(&'a Bundler, To);

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.0.arrived(self.1);
    }
}

impl Bundler {
    /// Sends a write to `node`, in company if it is small and meets others.
    pub async fn write(
        &self,
        node: NodeId,
        clients: NodeClients,
        write: WriteRequest,
    ) -> Result<Response<WriteReply>, Status> {
        if !is_small(&write) {
            return clients.shards().write(write).await;
        }
        let to = (node, write.header.as_ref().map_or(0, |header| header.shard));
        match self.enter(to, clients, write) {
            Turn::Now(now) => {
                let (clients, write) = *now;
                let _under_way = UnderWay(self, to);
                clients.shards().write(write).await
            }
            // Without an answer the task that would have given it was stopped with its runtime.
            Turn::Later(answered) => {
                answered.await.unwrap_or_else(|_| Err(Status::unavailable("the router is stopping"))).map(Response::new)
            }
        }
    }

    fn enter(&self, to: To, clients: NodeClients, write: WriteRequest) -> Turn {
        let mut lanes = self.0.lock();
        let lane = lanes.entry(to).or_default();
        if lane.under_way == 0 {
            lane.under_way = 1;
            return Turn::Now(Box::new((clients, write)));
        }
        let (answer, answered) = oneshot::channel();
        lane.waiting.push(Item { clients, write, answer });
        if lane.waiting.len() >= limits::MAX_PROPOSAL_FRAMES {
            let items = lane.depart();
            self.send(to, items);
        } else if lane.waiting.len() == 1 {
            tokio::spawn(self.clone().depart_in_time(to, lane.sent));
        }
        Turn::Later(answered)
    }

    /// A message was answered: those who waited for that go now.
    fn arrived(&self, to: To) {
        let mut lanes = self.0.lock();
        let Some(lane) = lanes.get_mut(&to) else { return };
        lane.under_way -= 1;
        if !lane.waiting.is_empty() {
            let items = lane.depart();
            self.send(to, items);
        } else if lane.under_way == 0 {
            lanes.remove(&to);
        }
    }

    /// Sends those who wait since message `sent`, if nothing else has by then.
    async fn depart_in_time(self, to: To, sent: u64) {
        sleep(limits::BUNDLE_WINDOW).await;
        let mut lanes = self.0.lock();
        if let Some(lane) = lanes.get_mut(&to).filter(|lane| lane.sent == sent && !lane.waiting.is_empty()) {
            let items = lane.depart();
            self.send(to, items);
        }
    }

    /// Sends what has come together and gives everybody their answer, in a task of its own: several processors may have
    /// several messages in hand.
    fn send(&self, to: To, mut items: Vec<Item>) {
        let bundler = self.clone();
        tokio::spawn(async move {
            let _under_way = UnderWay(&bundler, to);
            // Nobody waits any more for a write whose caller has gone.
            items.retain(|item| !item.answer.is_closed());
            let Some(clients) = items.first().map(|item| item.clients.clone()) else { return };
            let (answers, writes): (Vec<_>, Vec<_>) = items.into_iter().map(|item| (item.answer, item.write)).unzip();
            let results = answer_all(clients, writes).await;
            for (waiting, result) in answers.into_iter().zip(results) {
                let _ = waiting.send(result);
            }
        });
    }
}

fn is_small(write: &WriteRequest) -> bool {
    write.frames.iter().map(size_of_frame).sum::<usize>() <= limits::BUNDLE_WRITE_BYTES
}

/// Bytes of a frame on its way, about.
pub fn size_of_frame(frame: &FrameWrite) -> usize {
    let passages: usize = frame.passages.iter().map(|passage| size_of_val(&passage.vector[..])).sum();
    let named: usize = frame.named.iter().map(|named| size_of_val(&named.vector[..])).sum();
    let sealed = frame.private.as_ref().map_or(0, |private| private.body.len() + private.vectors.len());
    frame.content.len() + frame.metadata_json.len() + frame.session.len() + frame.role.len() + passages + named + sealed
}

/// The answers to some writes of one shard, in their order.
async fn answer_all(clients: NodeClients, writes: Vec<WriteRequest>) -> Vec<Answer> {
    let count = writes.len();
    let sent = timeout(limits::WRITE_TRY, clients.shards().write_many(WriteManyRequest { writes })).await;
    let failed = match sent {
        Ok(Ok(reply)) => {
            let WriteManyReply { results } = reply.into_inner();
            if results.len() == count {
                return results.into_iter().map(result).collect();
            }
            Refusal::from(Problem::internal("the node answered another number of writes")).into()
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
        (None, None) => Err(Refusal::from(Problem::internal("the node answered a write with nothing")).into()),
    }
}
