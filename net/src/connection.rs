//! Serving HTTP on one connection, from its first byte to its end.

use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use axum::Router;
use hyper::body::Incoming;
use hyper::service::{Service, service_fn};
use hyper::{Request, Version};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use tracing::debug;

use crate::activity::{Activity, Due};
use crate::body::{AnswerBody, RequestBody, RunningRequest};
use crate::limits;
use crate::security::{Peer, ServedStream};
use crate::server::ServerSettings;

/// The first bytes of every HTTP/2 connection.
const HTTP2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// What the connections of one listener share.
pub(crate) struct HttpServer {
    app: TowerToHyperService<Router>,
    http: Builder<TokioExecutor>,
}

impl HttpServer {
    pub(crate) fn new(app: Router, settings: &ServerSettings) -> Self {
        let mut http = Builder::new(TokioExecutor::new());
        // The time for heads is kept by `Activity`: hyper's own would also end connections that are merely idle.
        http.http1().timer(TokioTimer::new()).header_read_timeout(None).max_buf_size(limits::MAX_HTTP1_HEAD_BYTES);
        http.http2()
            .timer(TokioTimer::new())
            .keep_alive_interval(limits::SERVER_KEEP_ALIVE)
            .keep_alive_timeout(limits::SERVER_KEEP_ALIVE)
            .max_concurrent_streams(settings.streams)
            .max_header_list_size(limits::MAX_HTTP2_HEADER_BYTES)
            .initial_stream_window_size(settings.window_bytes)
            .initial_connection_window_size(settings.window_bytes);
        Self { app: TowerToHyperService::new(app.with_state(())), http }
    }

    /// Serves `stream` until the peer ends it, its time is over, or, after `stop`, its requests are answered.
    pub(crate) async fn serve(
        &self,
        stream: ServedStream,
        peer: Peer,
        settings: &ServerSettings,
        stop: &CancellationToken,
    ) {
        let activity = Arc::new(Activity::new(settings, Instant::now()));
        let service = service_fn(|mut request: Request<Incoming>| {
            let running = RunningRequest::new(activity.clone());
            request.extensions_mut().insert(peer.clone());
            let patience = (request.version() < Version::HTTP_2).then_some(settings.body_timeout);
            let answer = self.app.call(request.map(|body| RequestBody::new(body, patience)));
            async move { Ok::<_, Infallible>(answer.await?.map(|body| AnswerBody::new(body, running))) }
        });
        let stream = WatchedStream { stream, preface_bytes: Some(0), speaks_http2: false, activity: activity.clone() };
        let mut connection = pin!(self.http.serve_connection(TokioIo::new(stream), service));
        let mut stopping = pin!(stop.cancelled());
        let mut alarm = pin!(sleep_until(Instant::now()));
        let mut told_to_stop = false;
        poll_fn(|context| {
            loop {
                if let Poll::Ready(ended) = connection.as_mut().poll(context) {
                    if let Err(error) = ended {
                        debug!(peer = %peer.address, %error, "connection ended");
                    }
                    return Poll::Ready(());
                }
                if !told_to_stop && stopping.as_mut().poll(context).is_ready() {
                    told_to_stop = true;
                    connection.as_mut().graceful_shutdown();
                    continue;
                }
                // What the connection did just now may have moved its deadline.
                match activity.due(Instant::now()) {
                    Due::Wait(until) => {
                        alarm.as_mut().reset(until);
                        ready!(alarm.as_mut().poll(context));
                    }
                    Due::Close => {
                        activity.closing(Instant::now());
                        connection.as_mut().graceful_shutdown();
                    }
                    Due::Cut => {
                        debug!(peer = %peer.address, "connection cut off: nothing came, or was taken, in time");
                        return Poll::Ready(());
                    }
                }
            }
        })
        .await;
    }
}

/// A stream that tells its [`Activity`] when a request begins to arrive.
struct WatchedStream {
    stream: ServedStream,
    /// How much of the preface has arrived, as long as all that arrived is preface.
    preface_bytes: Option<usize>,
    speaks_http2: bool,
    activity: Arc<Activity>,
}

impl WatchedStream {
    fn arrived(&mut self, bytes: &[u8]) {
        if let Some(before) = self.preface_bytes {
            let expected = &HTTP2_PREFACE[before..];
            let compared = expected.len().min(bytes.len());
            let is_preface = expected[..compared] == bytes[..compared];
            self.preface_bytes = (is_preface && compared < expected.len()).then_some(before + compared);
            if is_preface && compared == expected.len() {
                self.speaks_http2 = true;
                self.activity.opened(Instant::now());
            }
        } else if !self.speaks_http2 {
            // In HTTP/2 bytes say little: most belong to settings and signs of life.
            self.activity.head_begins(Instant::now());
        }
    }
}

impl AsyncRead for WatchedStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(context, buffer))?;
        let bytes = &buffer.filled()[before..];
        if !bytes.is_empty() {
            self.arrived(bytes);
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for WatchedStream {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.activity.wrote(written.is_ready(), Instant::now());
        written
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, slices);
        self.activity.wrote(written.is_ready(), Instant::now());
        written
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
