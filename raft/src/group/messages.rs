//! Messages of other replicas, and how this one answers them.

use std::fmt::Display;

use bytes::Bytes;
use openraft::Snapshot;
use openraft::async_runtime::WatchReceiver;
use openraft::raft::{AppendEntriesRequest, AppendEntriesResponse, TransferLeaderRequest, VoteRequest};
use serde::de::DeserializeOwned;

use super::Group;
use crate::codec::{CodecError, to_postcard};
use crate::freshness;
use crate::quiescence::Standing;
use crate::snapshot::SnapshotData;
use crate::snapshot::receive::Finished;
use crate::threads::run_blocking;
use crate::types::{Runtime, Types, Vote, index_of};
use crate::wire::{self, ChunkHeader, Kind, Refusal, SnapshotFinish, SnapshotOffer, SnapshotReply, Status};

impl<R: Runtime> Group<R> {
    /// Answers another replica's message.
    pub(crate) async fn handle(&self, kind: Kind, body: Bytes) -> Result<Vec<u8>, Refusal> {
        let raft = self.raft();
        match kind {
            Kind::Append => self.handle_append(body).await,
            Kind::Vote => {
                let request: VoteRequest<Types<R>> = parse(&body)?;
                self.check_sender(&request.vote)?;
                self.may_vote()?;
                self.confirm_lease().await;
                let reply = raft.vote(request).await;
                self.end_rest();
                reply.map(|reply| to_postcard(&reply)).map_err(stopped)
            }
            Kind::PreVote => {
                let request: VoteRequest<Types<R>> = parse(&body)?;
                self.check_sender(&request.vote)?;
                self.may_vote()?;
                self.confirm_lease().await;
                self.postpone_waking();
                raft.pre_vote(request).await.map(|reply| to_postcard(&reply)).map_err(stopped)
            }
            Kind::TransferLeader => {
                let request: TransferLeaderRequest<Types<R>> = parse(&body)?;
                self.check_sender(request.from_leader())?;
                self.may_vote()?;
                self.end_rest();
                let reply = raft.handle_transfer_leader(request).await;
                reply.map(|reply| to_postcard(&reply)).map_err(stopped)
            }
            Kind::SnapshotOffer | Kind::SnapshotChunk | Kind::SnapshotFinish => {
                self.end_rest();
                let _turn = self.inner.receiving.lock().await;
                let reply = self.handle_snapshot(kind, body).await?;
                Ok(to_postcard(&reply))
            }
            Kind::NodeHeartbeat => Err(Refusal::new(Status::Malformed, "it is for a node, not for a group")),
        }
    }

    async fn handle_append(&self, body: Bytes) -> Result<Vec<u8>, Refusal> {
        let append = wire::decode_append(body).map_err(malformed)?;
        self.check_sender(&append.vote)?;
        let (quorum_age, committed) = (append.quorum_age, append.commit.clone());
        // A new leader does not know how far its predecessor had got until an entry of its own is committed.
        let knows = committed.as_ref().is_some_and(|at| at.leader_id.term == append.vote.leader_id.term);
        let received = self.since_opened();
        let heartbeat = heartbeat_of(&append);
        let rpc = AppendEntriesRequest {
            vote: append.vote,
            prev_log_id: append.prev,
            leader_commit: append.commit,
            entries: append.entries,
        };
        let reply = self.raft().append_entries(rpc).await;
        // After it, so that timers that run again find the leader heard.
        self.hear_append(heartbeat.as_ref());
        self.campaign_only_with_promises_kept();
        let reply = reply.map_err(stopped)?;
        if knows && !matches!(reply, AppendEntriesResponse::HigherVote(_)) {
            let as_of = freshness::as_of(received, quorum_age, self.config().timing.election_max);
            let applied = self.reader().applied_index();
            self.inner.heard.hear(as_of, index_of(committed.as_ref()), applied);
        }
        Ok(to_postcard(&reply))
    }

    async fn handle_snapshot(&self, kind: Kind, body: Bytes) -> Result<SnapshotReply, Refusal> {
        let (receiver, own_vote) = (self.inner.receiver.clone(), self.vote());
        let threads = self.config().threads.clone();
        match kind {
            Kind::SnapshotChunk => {
                let (header, pairs) = wire::take::<ChunkHeader>(body).map_err(malformed)?;
                let written = run_blocking(threads.as_ref(), move || receiver.chunk(&header, pairs)).await;
                written.map_err(stopped)
            }
            Kind::SnapshotFinish => {
                let finish: SnapshotFinish = parse(&body)?;
                self.check_sender(&finish.vote)?;
                match receiver.finish(&finish, own_vote).map_err(stopped)? {
                    Finished::Answer(reply) => Ok(reply),
                    Finished::Install { generation } => self.install(finish, generation).await,
                }
            }
            _ => {
                let offer: SnapshotOffer = parse(&body)?;
                self.check_sender(&offer.vote)?;
                receiver.offer(&offer, own_vote).map_err(stopped)
            }
        }
    }

    async fn install(&self, finish: SnapshotFinish, generation: u32) -> Result<SnapshotReply, Refusal> {
        let snapshot = Snapshot { meta: finish.meta, snapshot: SnapshotData::Received { generation } };
        let installed = self.raft().install_full_snapshot(finish.vote, snapshot).await;
        self.campaign_only_with_promises_kept();
        installed.map(|reply| SnapshotReply::Installed(reply.vote)).map_err(stopped)
    }

    fn vote(&self) -> Vote {
        self.raft().metrics().borrow_watched().vote
    }
}

/// What a heartbeat says of its group; `None` of a message that brings entries, or that asks for what is missing.
fn heartbeat_of(append: &wire::Append) -> Option<Standing> {
    let log = append.commit.clone().filter(|_| append.entries.is_empty())?;
    append.prev.as_ref().is_none_or(|prev| *prev == log).then_some(Standing { vote: append.vote, log })
}

fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, Refusal> {
    postcard::from_bytes(body).map_err(|error| malformed(error.into()))
}

fn malformed(error: CodecError) -> Refusal {
    Refusal::new(Status::Malformed, error.to_string())
}

fn stopped(error: impl Display) -> Refusal {
    Refusal::new(Status::Stopped, error.to_string())
}
