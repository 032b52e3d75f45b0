//! A server to talk to, and a client that says exactly what it is told.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::routing::{get, post};
use futures::stream::BoxStream;
use futures::{Stream, StreamExt};
use mira_net::{Accept, Peer, ServerSettings, listen, serve};
use mira_proto::raft_v1::raft_server::{Raft, RaftServer};
use mira_proto::raft_v1::{Envelope, Envelopes};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, oneshot};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tonic::service::Routes;
use tonic::{Request, Response, Status, Streaming};

/// More than any test needs.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// A server under test.
pub struct Server {
    pub address: SocketAddr,
    pub stop: oneshot::Sender<()>,
    pub ended: JoinHandle<()>,
    /// Lets `GET /wait` answer.
    pub go_on: Arc<Notify>,
    /// `GET /wait` has begun.
    pub began: Arc<Notify>,
}

impl Server {
    pub async fn start(settings: ServerSettings) -> Self {
        Self::start_on(settings, |listener| listener).await
    }

    /// Serves on what `wrap` makes of a listener.
    pub async fn start_on<A: Accept + 'static>(settings: ServerSettings, wrap: impl FnOnce(TcpListener) -> A) -> Self {
        let (listener, address) = listen("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let (go_on, began) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let (stop, stopped) = oneshot::channel();
        let app = app(go_on.clone(), began.clone());
        let stop_asked = async move {
            let _ = stopped.await;
        };
        let ended = tokio::spawn(serve(wrap(listener), app, settings, stop_asked));
        Self { address, stop, ended, go_on, began }
    }

    pub async fn connect(&self) -> Connection {
        Connection(TcpStream::connect(self.address).await.unwrap())
    }
}

fn app(go_on: Arc<Notify>, began: Arc<Notify>) -> Router {
    let wait = move || async move {
        began.notify_one();
        go_on.notified().await;
        "done"
    };
    let from = |peer: axum::Extension<Peer>| async move { peer.address.to_string() };
    let rest = Router::new()
        .route("/", get(|| async { "hello" }))
        .route("/from", get(from))
        .route("/wait", get(wait))
        .route("/length", post(|body: axum::body::Bytes| async move { body.len().to_string() }));
    Routes::new(RaftServer::new(Echo)).into_axum_router().merge(rest)
}

/// Answers each message with itself; says in the first whom it talks to.
struct Echo;

#[tonic::async_trait]
impl Raft for Echo {
    type ExchangeStream = BoxStream<'static, Result<Envelopes, Status>>;

    async fn exchange(&self, request: Request<Streaming<Envelopes>>) -> Result<Response<Self::ExchangeStream>, Status> {
        let peer = request.extensions().get::<Peer>().expect("the server says who calls").address.to_string();
        let hello = Envelopes { envelopes: vec![Envelope { id: 0, body: peer.into(), error: String::new() }] };
        let hello = futures::stream::iter([Ok(hello)]);
        Ok(Response::new(hello.chain(request.into_inner()).boxed()))
    }
}

/// Messages of one envelope each, with these ids.
pub fn envelopes(ids: impl IntoIterator<Item = u64, IntoIter: Send + 'static>) -> impl Stream<Item = Envelopes> + Send {
    let envelope = |id| Envelopes { envelopes: vec![Envelope { id, ..Envelope::default() }] };
    futures::stream::iter(ids.into_iter().map(envelope))
}

/// A connection that says what it is told.
pub struct Connection(pub TcpStream);

impl Connection {
    pub async fn say(&mut self, text: &str) {
        self.0.write_all(text.as_bytes()).await.unwrap();
    }

    /// Reads until what arrived ends with `end`.
    pub async fn hear(&mut self, end: &str) -> String {
        let mut heard = Vec::new();
        let reading = async {
            while !heard.ends_with(end.as_bytes()) {
                heard.push(self.0.read_u8().await.unwrap_or_else(|error| panic!("the server ended: {error}")));
            }
        };
        let in_time = timeout(PATIENCE, reading).await;
        let heard = String::from_utf8_lossy(&heard).into_owned();
        assert!(in_time.is_ok(), "no {end:?} in {heard:?}");
        heard
    }

    /// `GET path`; the answer, which has to end with `end`.
    pub async fn get(&mut self, path: &str, end: &str) -> String {
        self.say(&format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n")).await;
        self.hear(end).await
    }

    /// What the server says until it closes the connection.
    pub async fn closed(&mut self) -> String {
        let mut heard = Vec::new();
        let read = timeout(PATIENCE, self.0.read_to_end(&mut heard)).await.expect("the server closes the connection");
        match read {
            Err(error) if error.kind() != io::ErrorKind::ConnectionReset => panic!("{error}"),
            _ => String::from_utf8_lossy(&heard).into_owned(),
        }
    }

    /// Nothing comes, and the connection stays open, for a while.
    pub async fn is_silent_for(&mut self, while_: Duration) {
        let mut byte = [0];
        let read = timeout(while_, self.0.read(&mut byte)).await;
        assert!(read.is_err(), "the server said something or closed the connection: {read:?}");
    }
}

/// A listener that first fails in these ways.
pub struct Failing {
    pub errors: VecDeque<io::Error>,
    pub listener: TcpListener,
}

impl Accept for Failing {
    async fn accept(&mut self) -> io::Result<(TcpStream, SocketAddr)> {
        match self.errors.pop_front() {
            Some(error) => Err(error),
            None => self.listener.accept().await,
        }
    }
}
