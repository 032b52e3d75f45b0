//! Requests of several callers, put into one log entry.
//!
//! An entry costs every replica more than the request in it: a message to the library, a record of the log, a wake-up. So
//! requests are collected as they come, and a task that the first of them starts takes all there are into one entry. It
//! waits for nothing: on the thread that started it, it runs once the caller has gone on to wait, and whatever was handed
//! in until then goes along, such as the writes of one message. While the library's queue is full, more come together.
//!
//! Guarantees:
//! - requests enter the log in the order in which they were handed in, and share an entry within the bounds in
//!   [`Limits`](crate::Limits), as far as the [state machine](crate::StateMachine::shares_entry) lets them;
//! - each keeps its id, its digest and its answer; a caller that goes away takes nothing from the others;
//! - a refusal of the entry is a refusal of each, and none was done.

use std::collections::VecDeque;

use openraft::async_runtime::{Oneshot, OneshotSender, WatchReceiver};
use openraft::errors::{Fatal, RaftError};
use openraft::raft::ClientWriteResult;
use parking_lot::Mutex;

use super::Group;
use super::error::WriteFailure;
use crate::codec::request_len;
use crate::types::{Answer, Callback, LoggedRequest, Proposal, Runtime, Types};

/// Where in the log a request was applied, and what that gave; or why it was not.
type Outcome<R> = Result<(u64, Answer), WriteFailure<R>>;
type Reply<R> = <<R as openraft::AsyncRuntime>::Oneshot as Oneshot>::Sender<Outcome<R>>;

/// A request on its way, and who waits for it.
struct Waiting<R: Runtime> {
    request: LoggedRequest,
    reply: Reply<R>,
    /// Whether it may share an entry.
    shares: bool,
}

/// What was handed in and is in no entry yet. Bounded by the proposals that a group has under way.
pub(super) struct Proposals<R: Runtime>(Mutex<Queue<R>>);

struct Queue<R: Runtime> {
    waiting: VecDeque<Waiting<R>>,
    /// Whether a task is there that takes them.
    is_served: bool,
}

impl<R: Runtime> Default for Proposals<R> {
    fn default() -> Self {
        Self(Mutex::new(Queue { waiting: VecDeque::new(), is_served: false }))
    }
}

impl<R: Runtime> Queue<R> {
    /// The next entry: what may share it, in order, up to the bounds. Nothing when nobody waits.
    fn next_entry(&mut self, most_bytes: usize, most_requests: usize) -> (Vec<LoggedRequest>, Vec<Reply<R>>) {
        let (mut requests, mut replies) = (Vec::new(), Vec::new());
        let (mut bytes, mut shares) = (0, true);
        while let Some(next) = self.waiting.front() {
            bytes += request_len(&next.request);
            let fits = shares && next.shares && bytes <= most_bytes && requests.len() < most_requests;
            if !requests.is_empty() && !fits {
                break;
            }
            shares = next.shares;
            let Some(Waiting { request, reply, .. }) = self.waiting.pop_front() else { break };
            requests.push(request);
            replies.push(reply);
        }
        (requests, replies)
    }
}

impl<R: Runtime> Group<R> {
    /// Has a request enter the log, alone or in company; answers when its entry is applied.
    pub(super) async fn enter_log(&self, request: LoggedRequest) -> Outcome<R> {
        let (reply, answered) = <R::Oneshot as Oneshot>::channel();
        let shares = self.inner.parts.app.shares_entry(&request.payload);
        let is_first = {
            let mut queue = self.inner.proposals.0.lock();
            queue.waiting.push_back(Waiting { request, reply, shares });
            !std::mem::replace(&mut queue.is_served, true)
        };
        if is_first {
            drop(R::spawn(self.clone().serve_proposals()));
        }
        // Whoever holds the other end lets go of it only when the replica stops.
        answered.await.unwrap_or_else(|_| Err(RaftError::Fatal(self.why_stopped())))
    }

    /// Makes entries of what waits, until nothing does.
    async fn serve_proposals(self) {
        loop {
            let (requests, replies) = {
                let limits = &self.config().limits;
                let mut queue = self.inner.proposals.0.lock();
                let entry = queue.next_entry(limits.entry_bytes, limits.entry_requests);
                queue.is_served = !entry.0.is_empty();
                entry
            };
            if requests.is_empty() {
                return;
            }
            let proposal = Proposal { time_ms: self.config().clock.now_ms(), requests };
            // Refused, the library lets go of the callback, and those who wait learn that the replica has stopped.
            let _ = self.raft().client_write_ff(proposal, Some(answer_each::<R>(replies))).await;
        }
    }

    /// Why this replica takes no proposal any more.
    fn why_stopped(&self) -> Fatal<Types<R>> {
        let metrics = self.raft().metrics();
        let running = metrics.borrow_watched().running_state.clone();
        running.err().unwrap_or(Fatal::Stopped)
    }
}

/// Gives each request of an entry its own answer, on the thread that has applied it.
fn answer_each<R: Runtime>(replies: Vec<Reply<R>>) -> Callback<ClientWriteResult<Types<R>>> {
    Callback(Box::new(move |written: ClientWriteResult<Types<R>>| match written {
        Ok(written) => {
            let (index, answers) = (written.log_id.index, written.data);
            assert_eq!(answers.len(), replies.len(), "an answer for each request of entry {index}");
            // A caller that went away lost interest, not the write.
            replies.into_iter().zip(answers).for_each(|(reply, answer)| drop(reply.send(Ok((index, answer)))));
        }
        Err(error) => {
            replies.into_iter().for_each(|reply| drop(reply.send(Err(RaftError::APIError(error.clone())))));
        }
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::TokioRuntime;

    /// Queues requests of so many bytes each, and takes entries of at most `most_bytes` and three requests.
    fn entries(requests: &[(usize, bool)], most_bytes: usize) -> Vec<Vec<usize>> {
        let mut queue: Queue<TokioRuntime> = Queue { waiting: VecDeque::new(), is_served: false };
        for &(bytes, shares) in requests {
            let (reply, _) = <<TokioRuntime as openraft::AsyncRuntime>::Oneshot as Oneshot>::channel();
            let request = LoggedRequest { fingerprint: None, payload: vec![0; bytes].into() };
            queue.waiting.push_back(Waiting { request, reply, shares });
        }
        let mut entries = Vec::new();
        loop {
            let (requests, replies) = queue.next_entry(most_bytes, 3);
            assert_eq!(requests.len(), replies.len());
            if requests.is_empty() {
                return entries;
            }
            entries.push(requests.iter().map(|request| request.payload.len()).collect());
        }
    }

    #[test]
    fn requests_share_an_entry_in_order_and_within_its_bounds() {
        let of = |bytes: &[usize]| -> Vec<(usize, bool)> { bytes.iter().map(|&bytes| (bytes, true)).collect() };
        assert_eq!(entries(&[], 1_000), Vec::<Vec<usize>>::new());
        assert_eq!(entries(&of(&[1, 2]), 1_000), [vec![1, 2]]);
        assert_eq!(entries(&of(&[1, 2, 3, 4]), 1_000), [vec![1, 2, 3], vec![4]], "three at most");
        assert_eq!(
            entries(&of(&[300, 400, 500]), 1_000),
            [vec![300, 400], vec![500]],
            "bytes beside the payload count"
        );
        assert_eq!(entries(&of(&[1, 5_000, 2]), 1_000), [vec![1], vec![5_000], vec![2]], "a long one has its own");
    }

    #[test]
    fn a_request_that_shares_with_nobody_is_alone_in_its_place() {
        let requests = [(1, true), (2, true), (3, false), (4, false), (5, true), (6, true)];
        assert_eq!(entries(&requests, 1_000), [vec![1, 2], vec![3], vec![4], vec![5, 6]]);
    }
}
