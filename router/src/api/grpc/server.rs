//! The gRPC server: its listener, its limits, who is let in.

use std::sync::Arc;

use axum::middleware;
use mira_net::ServerSettings;
use mira_proto::v1::admin_server::AdminServer;
use mira_proto::v1::memory_server::MemoryServer;
use mira_proto::{Problem, limits};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tonic::Request;
use tonic::service::Routes;

use super::admit::admit;
use crate::RequestContext;
use crate::api::extract::Principal;
use crate::api::{Api, access};

/// Serves until told to stop, then until the calls at work have ended.
pub async fn serve(listener: TcpListener, api: Arc<Api>, settings: ServerSettings, stop: CancellationToken) {
    let service = Grpc { api: api.clone() };
    let memory = MemoryServer::new(service.clone())
        .max_decoding_message_size(limits::MAX_MESSAGE_BYTES)
        .max_encoding_message_size(2 * limits::MAX_MESSAGE_BYTES);
    let admin = AdminServer::new(service)
        .max_decoding_message_size(limits::MAX_MESSAGE_BYTES)
        .max_encoding_message_size(2 * limits::MAX_MESSAGE_BYTES);
    let app = Routes::new(memory)
        .add_service(admin)
        .into_axum_router()
        .layer(middleware::from_fn_with_state(api, admit))
        .layer(middleware::from_fn(access::logged));
    mira_net::serve(listener, app, settings, stop.cancelled_owned()).await;
}

/// Both services; every call goes to [`Api::memory`].
#[derive(Clone)]
pub(super) struct Grpc {
    pub(super) api: Arc<Api>,
}

impl Grpc {
    /// Reads the metadata of a caller that was let in.
    pub(super) fn enter<T>(&self, request: Request<T>) -> Result<(RequestContext, T), Problem> {
        let (metadata, extensions, message) = request.into_parts();
        let Some(Principal(principal)) = extensions.get().cloned() else {
            return Err(Problem::internal("a request came past the gate"));
        };
        Ok((self.api.context(principal, &metadata.into_headers())?, message))
    }
}
