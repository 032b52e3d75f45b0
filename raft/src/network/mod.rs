//! The library's network trait over [`Transport`].
//!
//! Replication is pipelined: requests go out while earlier ones are under way, and their answers are taken in order.
//! (`openraft-multi`'s adapter answers one request before it sends the next, which is why this implements the
//! library's trait itself.)

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::{BoxStream, FuturesOrdered};
use futures::{Stream, StreamExt};
use openraft::errors::{NetworkError, RPCError, ReplicationClosed, StreamingError};
use openraft::network::{RPCOption, RPCTypes, RaftNetworkFactory};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, StreamAppendError, StreamAppendResult,
    TransferLeaderRequest, TransferLeaderResponse, VoteRequest, VoteResponse,
};
use openraft::{RaftNetworkV2, Snapshot};

use crate::codec::to_postcard;
use crate::snapshot::SnapshotData;
use crate::snapshot::send::SnapshotSender;
use crate::types::{LogId, Node, NodeId, Runtime, Types, Vote};
use crate::wire::{self, Append, Kind};

pub(crate) mod link;

use link::{Link, Wires};

/// Requests to one follower that may be under way at once.
const PIPELINE: usize = 32;

/// Makes the links of one group.
#[derive(Clone)]
pub(crate) struct Links(pub Wires);

impl<R: Runtime> RaftNetworkFactory<Types<R>> for Links {
    type Network = Link;

    async fn new_client(&mut self, target: NodeId, _node: &Node) -> Link {
        Link { wires: self.0.clone(), peer: target }
    }
}

async fn append<R: Runtime>(
    link: Link,
    rpc: AppendEntriesRequest<Types<R>>,
    ttl: Duration,
) -> Result<AppendEntriesResponse<Types<R>>, RPCError<Types<R>>> {
    let timeout = if rpc.entries.is_empty() { ttl } else { ttl.max(link.wires.append_timeout) };
    // Who does not know is not believed.
    let quorum_age = link.wires.quorum_age.get().and_then(|age| age()).unwrap_or(Duration::MAX);
    let append =
        Append { vote: rpc.vote, prev: rpc.prev_log_id, commit: rpc.leader_commit, quorum_age, entries: rpc.entries };
    let request = wire::encode_append(link.wires.group, &append);
    link.ask(request, RPCTypes::AppendEntries, timeout).await
}

/// Sends one request of a stream; its answer, and whether the stream goes on after it.
async fn append_in_stream<R: Runtime>(link: Link, rpc: AppendEntriesRequest<Types<R>>, ttl: Duration) -> Answered<R> {
    let prev = rpc.prev_log_id.clone();
    let last = rpc.entries.last().map(|entry| entry.log_id.clone()).or_else(|| prev.clone());
    let answer = append(link, rpc, ttl).await?;
    let goes_on = match &answer {
        AppendEntriesResponse::Success => true,
        AppendEntriesResponse::PartialSuccess(reached) => *reached == last,
        AppendEntriesResponse::Conflict | AppendEntriesResponse::HigherVote(_) => false,
    };
    Ok((answer.into_stream_result(prev, last), goes_on))
}

type Answered<R> = Result<(StreamAppendResult<Types<R>>, bool), RPCError<Types<R>>>;

/// Answers in order, with up to [`PIPELINE`] requests ahead of them. It ends after the first failure: what was sent
/// behind it has no ground to stand on.
///
/// A request that overtook its predecessor on the way was refused for want of what the predecessor then brought. That is
/// no conflict, which the library would take for a follower that lost entries it had acknowledged, but a failed call.
fn pipeline<'s, R, S>(
    link: Link,
    input: S,
    ttl: Duration,
) -> BoxStream<'s, Result<StreamAppendResult<Types<R>>, RPCError<Types<R>>>>
where
    R: Runtime,
    S: Stream<Item = AppendEntriesRequest<Types<R>>> + Send + Unpin + 'static,
{
    let mut input = input.fuse();
    let mut acknowledged: Option<LogId> = None;
    let mut under_way: FuturesOrdered<BoxFuture<'static, Answered<R>>> = FuturesOrdered::new();
    let mut ended = false;
    Box::pin(futures::stream::poll_fn(move |context| {
        if ended {
            return Poll::Ready(None);
        }
        let mut input_waits = false;
        while under_way.len() < PIPELINE && !input.is_done() && !input_waits {
            match Pin::new(&mut input).poll_next(context) {
                Poll::Ready(Some(rpc)) => under_way.push_back(Box::pin(append_in_stream(link.clone(), rpc, ttl))),
                Poll::Ready(None) => break,
                Poll::Pending => input_waits = true,
            }
        }
        match Pin::new(&mut under_way).poll_next(context) {
            Poll::Ready(Some(Ok((Err(StreamAppendError::Conflict(at)), _)))) if Some(&at) <= acknowledged.as_ref() => {
                ended = true;
                let error = NetworkError::from_string(format!("the request after {at} overtook the one before it"));
                Poll::Ready(Some(Err(RPCError::Network(error))))
            }
            Poll::Ready(Some(Ok((result, goes_on)))) => {
                ended = !goes_on;
                if let Ok(reached) = &result {
                    acknowledged = acknowledged.take().max(reached.clone());
                }
                Poll::Ready(Some(Ok(result)))
            }
            Poll::Ready(Some(Err(error))) => {
                ended = true;
                Poll::Ready(Some(Err(error)))
            }
            Poll::Ready(None) if input.is_done() => Poll::Ready(None),
            Poll::Ready(None) | Poll::Pending => Poll::Pending,
        }
    }))
}

impl<R: Runtime> RaftNetworkV2<Types<R>> for Link {
    type SnapshotData = SnapshotData;

    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<Types<R>>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<Types<R>>, RPCError<Types<R>>> {
        append(self.clone(), rpc, option.hard_ttl()).await
    }

    fn stream_append<'s, S>(
        &'s mut self,
        input: S,
        option: RPCOption,
    ) -> BoxFuture<
        's,
        Result<BoxStream<'s, Result<StreamAppendResult<Types<R>>, RPCError<Types<R>>>>, RPCError<Types<R>>>,
    >
    where
        S: Stream<Item = AppendEntriesRequest<Types<R>>> + Send + Unpin + 'static,
    {
        let stream = pipeline::<R, S>(self.clone(), input, option.hard_ttl());
        Box::pin(async move { Ok(stream) })
    }

    async fn vote(
        &mut self,
        rpc: VoteRequest<Types<R>>,
        option: RPCOption,
    ) -> Result<VoteResponse<Types<R>>, RPCError<Types<R>>> {
        let request = wire::request(Kind::Vote, self.wires.group, &to_postcard(&rpc)).freeze();
        self.ask::<R, _>(request, RPCTypes::Vote, option.hard_ttl()).await
    }

    async fn pre_vote(
        &mut self,
        rpc: VoteRequest<Types<R>>,
        option: RPCOption,
    ) -> Result<VoteResponse<Types<R>>, RPCError<Types<R>>> {
        let request = wire::request(Kind::PreVote, self.wires.group, &to_postcard(&rpc)).freeze();
        self.ask::<R, _>(request, RPCTypes::Vote, option.hard_ttl()).await
    }

    async fn transfer_leader(
        &mut self,
        rpc: TransferLeaderRequest<Types<R>>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<Types<R>>, RPCError<Types<R>>> {
        let request = wire::request(Kind::TransferLeader, self.wires.group, &to_postcard(&rpc)).freeze();
        self.ask::<R, _>(request, RPCTypes::TransferLeader, option.hard_ttl()).await
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: openraft::type_config::alias::SnapshotOf<Types<R>, SnapshotData>,
        cancel: impl Future<Output = ReplicationClosed> + Send + 'static,
        option: RPCOption,
    ) -> Result<SnapshotResponse<Types<R>>, StreamingError<Types<R>>> {
        let Snapshot { meta: _, snapshot: SnapshotData::View(view) } = snapshot else {
            let error = io::Error::other("only a snapshot of the own state can be sent");
            return Err(StreamingError::Network(NetworkError::new(&error)));
        };
        let keeper = self.wires.keeper.clone();
        let sender = SnapshotSender { link: self, view: &view, vote, timeout: option.hard_ttl() };
        let sent = std::pin::pin!(sender.send::<R>());
        let cancel = std::pin::pin!(cancel);
        let vote = match R::select2(cancel, sent).await {
            openraft::async_runtime::Select2::First(closed) => return Err(StreamingError::Closed(closed)),
            openraft::async_runtime::Select2::Second(sent) => sent?,
        };
        keeper.sent(&view);
        Ok(SnapshotResponse::new(vote))
    }
}
