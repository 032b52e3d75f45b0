//! Every read of a shard: its message, the method that carries it, and what all their answers say.

use std::future::Future;
use std::time::Duration;

use mira_proto::node_v1::{
    FetchReply, FetchRequest, FieldTypesReply, FieldTypesRequest, ListBinReply, ListBinRequest,
    ListPrivateVectorsReply, ListPrivateVectorsRequest, MeasureRecallReply, MeasureRecallRequest, ReadHeader,
    ReadState, ScanReply, ScanRequest, SearchReply, SearchRequest, SessionReply, SessionRequest, SessionsReply,
    SessionsRequest,
};
use mira_proto::{ShardId, limits};
use tonic::{Response, Status};

use super::NodeClients;

/// An answer of a shard, or what was made of several of its answers.
pub trait ShardAnswer {
    /// Of a shard that is added to a collection: the shards whose frames it had taken over when it was first asked.
    fn taken_over(&self) -> &[ShardId];
}

/// A message that reads one shard.
pub trait ShardRead: Clone + Send + Sync {
    /// The answer.
    type Reply: ShardAnswer + Send;
    /// Its name in metrics.
    const OPERATION: &'static str;
    /// When to give up on one replica and try another.
    const TRY_FOR: Duration;

    /// What every read says.
    fn header(&mut self) -> &mut Option<ReadHeader>;

    /// Sends it to one node.
    fn send(self, clients: NodeClients) -> impl Future<Output = Result<Response<Self::Reply>, Status>> + Send;
}

/// States a read, its answer, the method and how long one try may take.
macro_rules! reads {
    ($($request:ty => $reply:ty: $method:ident within $try_for:expr;)+) => {$(
        impl ShardRead for $request {
            type Reply = $reply;
            const OPERATION: &'static str = stringify!($method);
            const TRY_FOR: Duration = $try_for;

            fn header(&mut self) -> &mut Option<ReadHeader> {
                &mut self.header
            }

            async fn send(self, clients: NodeClients) -> Result<Response<$reply>, Status> {
                clients.shards().$method(self).await
            }
        }
    )+};
}

reads! {
    SearchRequest => SearchReply: search within limits::READ_TRY;
    FetchRequest => FetchReply: fetch within limits::READ_TRY;
    SessionRequest => SessionReply: session within limits::READ_TRY;
    SessionsRequest => SessionsReply: sessions within limits::READ_TRY;
    ScanRequest => ScanReply: scan within limits::READ_TRY;
    ListPrivateVectorsRequest => ListPrivateVectorsReply: list_private_vectors within limits::READ_TRY;
    // Looking at a step of frames takes about as long as removing one.
    FieldTypesRequest => FieldTypesReply: field_types within limits::WRITE_TRY;
    ListBinRequest => ListBinReply: list_bin within limits::WRITE_TRY;
    // It reads every vector of the shard: the whole time that the caller gives is for one try.
    MeasureRecallRequest => MeasureRecallReply: measure_recall within Duration::MAX;
}

fn taken_over(state: Option<&ReadState>) -> &[ShardId] {
    state.map_or(&[], |state| &state.taken_over)
}

macro_rules! answers {
    ($($reply:ty),+) => {$(
        impl ShardAnswer for $reply {
            fn taken_over(&self) -> &[ShardId] {
                taken_over(self.state.as_ref())
            }
        }
    )+};
}

answers!(
    SearchReply,
    FetchReply,
    SessionReply,
    SessionsReply,
    ScanReply,
    ListPrivateVectorsReply,
    FieldTypesReply,
    ListBinReply,
    MeasureRecallReply
);
