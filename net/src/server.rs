//! The accept loop.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::address_counts::AddressCounts;
use crate::connection::HttpServer;
use crate::limits;
use crate::security::Security;

/// How a port is served.
#[derive(Debug, Clone)]
pub struct ServerSettings {
    /// How connections are secured.
    pub security: Security,
    /// Connections at a time.
    pub connections: usize,
    /// Connections of one peer address at a time.
    pub connections_per_address: usize,
    /// From a connection's or a request's first moment to the end of the request's head.
    pub head_timeout: Duration,
    /// For the next piece of a request's body in HTTP/1.
    pub body_timeout: Duration,
    /// For a peer to take the next bytes of an answer.
    pub write_timeout: Duration,
    /// Requests under way on one HTTP/2 connection.
    pub streams: u32,
    /// The HTTP/2 window of a request and of a connection, bytes.
    pub window_bytes: u32,
    /// A connection without requests is kept this long.
    pub idle_timeout: Duration,
    /// For requests under way when the server stops.
    pub drain: Duration,
}

impl Default for ServerSettings {
    fn default() -> Self {
        Self {
            security: Security::default(),
            connections: limits::MAX_CONNECTIONS,
            connections_per_address: limits::MAX_CONNECTIONS_PER_ADDRESS,
            head_timeout: limits::HEAD_TIMEOUT,
            body_timeout: limits::BODY_TIMEOUT,
            write_timeout: limits::WRITE_TIMEOUT,
            streams: limits::MAX_HTTP2_STREAMS,
            window_bytes: limits::STREAM_WINDOW_BYTES,
            idle_timeout: limits::IDLE_TIMEOUT,
            drain: limits::DRAIN,
        }
    }
}

impl ServerSettings {
    /// As [`ServerSettings::default`], for a port that strangers reach.
    pub fn public() -> Self {
        Self { streams: limits::MAX_PUBLIC_HTTP2_STREAMS, window_bytes: limits::PUBLIC_WINDOW_BYTES, ..Self::default() }
    }
}

/// Where connections come from; a listener, or in tests one that fails.
pub trait Accept: Send {
    /// The next connection. Cancelling it loses none.
    fn accept(&mut self) -> impl Future<Output = io::Result<(TcpStream, SocketAddr)>> + Send;
}

impl Accept for TcpListener {
    async fn accept(&mut self) -> io::Result<(TcpStream, SocketAddr)> {
        TcpListener::accept(self).await
    }
}

/// Listens on `address`, and says which address that is: port 0 means any.
pub async fn listen(address: SocketAddr) -> io::Result<(TcpListener, SocketAddr)> {
    let listener = TcpListener::bind(address).await?;
    let bound = listener.local_addr()?;
    Ok((listener, bound))
}

/// Serves `app` in HTTP/1 and HTTP/2 until `stop` is ready, and then until the requests under way are answered, at most
/// [`ServerSettings::drain`]. Dropping it ends all connections at once.
///
/// gRPC services come as `tonic::service::Routes::into_axum_router`.
pub async fn serve(mut listener: impl Accept, app: Router, settings: ServerSettings, stop: impl Future<Output = ()>) {
    let slots = Arc::new(Semaphore::new(settings.connections));
    let addresses = AddressCounts::new(settings.connections_per_address);
    let http = Arc::new(HttpServer::new(app, &settings));
    let closing = CancellationToken::new();
    let mut connections = JoinSet::new();
    let mut stop = pin!(stop);
    loop {
        let (slot, stream, address) = tokio::select! {
            biased;
            () = &mut stop => break,
            Some(_) = connections.join_next() => continue,
            accepted = next_connection(&mut listener, &slots) => accepted,
        };
        let Some(place) = addresses.take(address.ip()) else {
            debug!(%address, "connection closed: its address has as many as it may");
            continue;
        };
        let (http, settings, closing) = (http.clone(), settings.clone(), closing.clone());
        connections.spawn(async move {
            let _held = (slot, place);
            // Without it small answers wait 40 ms for an acknowledgement that the peer delays.
            let _ = stream.set_nodelay(true);
            match timeout(settings.head_timeout, settings.security.accept(stream, address)).await {
                Ok(Ok((stream, peer))) => http.serve(stream, peer, &settings, &closing).await,
                Ok(Err(error)) => debug!(%address, %error, "connection not secured"),
                Err(_) => debug!(%address, "connection not secured in time"),
            }
        });
    }
    drop(listener);
    closing.cancel();
    let drained = async { while connections.join_next().await.is_some() {} };
    if timeout(settings.drain, drained).await.is_err() {
        warn!(connections = connections.len(), "requests were still under way when the server stopped");
    }
}

/// The next connection, once there is a slot for it.
async fn next_connection(
    listener: &mut impl Accept,
    slots: &Arc<Semaphore>,
) -> (OwnedSemaphorePermit, TcpStream, SocketAddr) {
    let slot = slots.clone().acquire_owned().await.expect("never closed");
    loop {
        match listener.accept().await {
            Ok((stream, address)) => return (slot, stream, address),
            Err(error) if is_of_one_connection(&error) => {}
            Err(error) => {
                warn!(%error, "cannot accept connections now");
                sleep(limits::ACCEPT_PAUSE).await;
            }
        }
    }
}

/// An error of a connection that ended before it was accepted.
fn is_of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}
