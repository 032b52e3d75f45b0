//! The gRPC server: its listener, its limits, who is let in.

use std::sync::Arc;

use mira_proto::v1::admin_server::AdminServer;
use mira_proto::v1::memory_server::MemoryServer;
use mira_proto::{Problem, limits};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tonic::Request;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tracing::warn;

use crate::RequestContext;
use crate::api::Api;

/// The HTTP/2 window of a connection: an ingest stream should not wait for permission between its batches.
const WINDOW_BYTES: u32 = 4 << 20;

/// Serves until told to stop, then until the calls at work have ended.
pub async fn serve(listener: TcpListener, api: Arc<Api>, stop: CancellationToken) {
    let service = Grpc { api };
    let memory = MemoryServer::new(service.clone())
        .max_decoding_message_size(limits::MAX_MESSAGE_BYTES)
        .max_encoding_message_size(2 * limits::MAX_MESSAGE_BYTES);
    let admin = AdminServer::new(service)
        .max_decoding_message_size(limits::MAX_MESSAGE_BYTES)
        .max_encoding_message_size(2 * limits::MAX_MESSAGE_BYTES);
    let served = Server::builder()
        .initial_stream_window_size(WINDOW_BYTES)
        .initial_connection_window_size(WINDOW_BYTES)
        .add_service(memory)
        .add_service(admin)
        .serve_with_incoming_shutdown(TcpIncoming::from(listener).with_nodelay(Some(true)), stop.cancelled_owned())
        .await;
    if let Err(error) = served {
        warn!(%error, "grpc server ended");
    }
}

/// Both services; every call goes to [`Api::memory`].
#[derive(Clone)]
pub(super) struct Grpc {
    pub(super) api: Arc<Api>,
}

impl Grpc {
    /// Lets the caller in and reads its metadata.
    pub(super) fn enter<T>(&self, request: Request<T>) -> Result<(RequestContext, T), Problem> {
        let (metadata, _, message) = request.into_parts();
        let headers = metadata.into_headers();
        let principal = self.api.gate.admit(&headers)?;
        Ok((self.api.context(principal, &headers)?, message))
    }
}
