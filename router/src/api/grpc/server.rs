//! The gRPC server: its listener, its limits, who is let in.

use std::sync::Arc;

use mira_proto::v1::admin_server::AdminServer;
use mira_proto::v1::memory_server::MemoryServer;
use mira_proto::{Problem, limits};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tonic::Request;
use tonic::service::Routes;

use crate::api::Api;
use crate::{RequestContext, server};

/// Serves until told to stop, then until the calls at work have ended.
pub async fn serve(listener: TcpListener, api: Arc<Api>, stop: CancellationToken) {
    let service = Grpc { api };
    let memory = MemoryServer::new(service.clone())
        .max_decoding_message_size(limits::MAX_MESSAGE_BYTES)
        .max_encoding_message_size(2 * limits::MAX_MESSAGE_BYTES);
    let admin = AdminServer::new(service)
        .max_decoding_message_size(limits::MAX_MESSAGE_BYTES)
        .max_encoding_message_size(2 * limits::MAX_MESSAGE_BYTES);
    let app = Routes::new(memory).add_service(admin).into_axum_router();
    mira_net::serve(listener, app, server::settings(), stop.cancelled_owned()).await;
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
