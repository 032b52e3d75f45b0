//! Production's transport: gRPC, one HTTP/2 connection and one bidirectional stream per peer, for all groups.
//!
//! Messages that wait while the stream is busy travel together, so heartbeats of many groups that share a peer cost one
//! frame. A lost connection fails what was under way and is made again, with growing pauses; during a pause calls fail
//! at once, so that the consensus library's own backoff sees an unreachable peer and not a slow one.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use futures::{FutureExt, Stream, StreamExt};
use mira_net::Dialer;
use mira_proto::raft_v1::raft_client::RaftClient;
use mira_proto::raft_v1::raft_server::{Raft, RaftServer};
use mira_proto::raft_v1::{Envelope, Envelopes};
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};
use tracing::{debug, info};

use super::{Transport, TransportError};
use crate::host::RaftHost;
use crate::types::NodeId;

/// Names, in the request's metadata, the node a stream is meant for: an address may have passed to another node.
const TARGET: &str = "mira-target-node";

/// Envelopes and bytes of one message; a single larger envelope travels alone.
const BATCH_ENVELOPES: usize = 512;
const BATCH_BYTES: usize = 1 << 20;
/// Longest message accepted: a full batch and the longest proposal behind it.
const MESSAGE_BYTES: usize = 64 << 20;
/// Messages handed to the stream that it has not sent yet.
const STREAM_MESSAGES: usize = 8;
/// Requests of one peer that are being handled at once; more wait in the stream.
const HANDLED_AT_ONCE: usize = 1024;

/// Where nodes are.
pub trait Peers: Send + Sync + 'static {
    /// The address of a node's gRPC port, `host:port`; `None` if it is not known.
    fn address(&self, node: NodeId) -> Option<String>;
}

/// How peers are reached.
#[derive(Clone)]
pub struct GrpcOptions {
    /// Calls to one peer under way at once; more are refused.
    pub in_flight: usize,
    /// Pause before a lost connection is tried again, at first; it doubles with each failure.
    pub min_pause: Duration,
    /// Longest pause.
    pub max_pause: Duration,
    /// Makes the connections.
    pub dialer: Dialer,
}

impl Default for GrpcOptions {
    fn default() -> Self {
        Self {
            in_flight: 4096,
            min_pause: Duration::from_millis(20),
            max_pause: Duration::from_millis(500),
            dialer: Dialer::default(),
        }
    }
}

/// The client side, for all peers.
pub struct GrpcTransport {
    peers: Arc<dyn Peers>,
    options: GrpcOptions,
    links: Mutex<BTreeMap<NodeId, PeerLink>>,
}

/// The way to one peer: a queue to the task that owns the connection.
#[derive(Clone)]
struct PeerLink {
    queue: mpsc::Sender<Call>,
    in_flight: Arc<Semaphore>,
}

struct Call {
    request: Bytes,
    reply: oneshot::Sender<Result<Bytes, TransportError>>,
    counted: OwnedSemaphorePermit,
}

impl GrpcTransport {
    /// A transport that finds nodes through `peers`. Connections are made when they are first needed.
    pub fn new(peers: Arc<dyn Peers>, options: GrpcOptions) -> Arc<Self> {
        Arc::new(Self { peers, options, links: Mutex::default() })
    }

    fn link(&self, peer: NodeId) -> PeerLink {
        let mut links = self.links.lock();
        let link = links.entry(peer).or_insert_with(|| {
            let (queue, calls) = mpsc::channel(self.options.in_flight);
            let connection = Connection { peer, peers: self.peers.clone(), options: self.options.clone(), calls };
            tokio::spawn(connection.run());
            PeerLink { queue, in_flight: Arc::new(Semaphore::new(self.options.in_flight)) }
        });
        link.clone()
    }
}

impl Transport for GrpcTransport {
    fn call(
        &self,
        peer: NodeId,
        request: Bytes,
        timeout: Duration,
    ) -> BoxFuture<'static, Result<Bytes, TransportError>> {
        let link = self.link(peer);
        let Ok(counted) = link.in_flight.try_acquire_owned() else {
            return Box::pin(async move { Err(TransportError::Overloaded(peer)) });
        };
        // Queued here, not in the future: calls keep the order in which they were made.
        let (reply, answer) = oneshot::channel();
        let queued = link.queue.try_send(Call { request, reply, counted });
        Box::pin(async move {
            if queued.is_err() {
                return Err(TransportError::Overloaded(peer));
            }
            match tokio::time::timeout(timeout, answer).await {
                Ok(Ok(answer)) => answer,
                Ok(Err(_)) => Err(TransportError::Lost("the transport has stopped".into())),
                Err(_) => Err(TransportError::Timeout(timeout)),
            }
        })
    }
}

/// The task that owns the connection to one peer; ends with the transport.
struct Connection {
    peer: NodeId,
    peers: Arc<dyn Peers>,
    options: GrpcOptions,
    calls: mpsc::Receiver<Call>,
}

impl Connection {
    async fn run(mut self) {
        let mut pause = self.options.min_pause;
        while let Some(first) = self.calls.recv().await {
            match self.open().await {
                Ok((outgoing, incoming)) => {
                    info!(peer = self.peer, "connected");
                    let started = Instant::now();
                    let ended = self.exchange(first, outgoing, incoming).await;
                    debug!(peer = self.peer, %ended, "connection ended");
                    // A connection that breaks as soon as it is made is no better than none.
                    if started.elapsed() > self.options.max_pause {
                        pause = self.options.min_pause;
                    }
                }
                Err(cause) => {
                    let _ = first.reply.send(Err(TransportError::Unreachable(self.peer, cause.clone())));
                    self.refuse_for(pause, &cause).await;
                    pause = (pause * 2).min(self.options.max_pause);
                }
            }
        }
    }

    async fn open(&self) -> Result<(mpsc::Sender<Envelopes>, Streaming<Envelopes>), String> {
        let address = self.peers.address(self.peer).ok_or("its address is not known")?;
        let dialer = &self.options.dialer;
        let channel = dialer.connect(&address).await.map_err(|error| error.to_string())?;
        let mut client =
            RaftClient::new(channel).max_decoding_message_size(MESSAGE_BYTES).max_encoding_message_size(MESSAGE_BYTES);
        let (outgoing, envelopes) = mpsc::channel(STREAM_MESSAGES);
        let mut request = Request::new(ReceiverStream::new(envelopes));
        request.metadata_mut().insert(TARGET, self.peer.into());
        let opened = tokio::time::timeout(dialer.connect_timeout, client.exchange(request)).await;
        let stream = opened.map_err(|_| "no stream in time".to_string())?.map_err(|status| status.to_string())?;
        Ok((outgoing, stream.into_inner()))
    }

    async fn refuse_for(&mut self, pause: Duration, cause: &str) {
        let until = Instant::now() + pause;
        while let Ok(Some(call)) = tokio::time::timeout_at(until, self.calls.recv()).await {
            let _ = call.reply.send(Err(TransportError::Unreachable(self.peer, cause.into())));
        }
    }

    /// Serves calls over one stream until it breaks; what is under way then has failed.
    async fn exchange(
        &mut self,
        first: Call,
        outgoing: mpsc::Sender<Envelopes>,
        mut incoming: Streaming<Envelopes>,
    ) -> String {
        let mut under_way = UnderWay::default();
        let mut waiting = VecDeque::from([first]);
        let cause = loop {
            tokio::select! {
                biased;
                answers = incoming.message() => match answers {
                    Ok(Some(answers)) => under_way.answer(answers),
                    Ok(None) => break "peer closed the stream".into(),
                    Err(status) => break status.to_string(),
                },
                // Whatever came in while the stream was busy goes with the next message.
                place = outgoing.reserve(), if !waiting.is_empty() => match place {
                    Ok(place) => place.send(under_way.batch(&mut waiting)),
                    Err(_) => break "stream closed".into(),
                },
                call = self.calls.recv(), if waiting.len() < BATCH_ENVELOPES => match call {
                    Some(call) => {
                        waiting.push_back(call);
                        while waiting.len() < BATCH_ENVELOPES && let Ok(call) = self.calls.try_recv() {
                            waiting.push_back(call);
                        }
                    }
                    None => break "transport dropped".into(),
                },
            }
        };
        under_way.fail(&cause);
        for call in waiting {
            let _ = call.reply.send(Err(TransportError::Lost(cause.clone())));
        }
        cause
    }
}

/// Calls sent on one stream that have no answer yet.
#[derive(Default)]
struct UnderWay {
    next_id: u64,
    calls: HashMap<u64, (oneshot::Sender<Result<Bytes, TransportError>>, OwnedSemaphorePermit)>,
}

impl UnderWay {
    /// As many of the waiting calls as go into one message.
    fn batch(&mut self, waiting: &mut VecDeque<Call>) -> Envelopes {
        let mut envelopes = Vec::with_capacity(waiting.len());
        let mut bytes = 0;
        while bytes < BATCH_BYTES
            && let Some(call) = waiting.pop_front()
        {
            // Its caller gave up while it waited.
            if call.reply.is_closed() {
                continue;
            }
            self.next_id += 1;
            bytes += call.request.len();
            self.calls.insert(self.next_id, (call.reply, call.counted));
            envelopes.push(Envelope { id: self.next_id, body: call.request, error: String::new() });
        }
        // Answers that never come would be remembered for ever.
        if self.next_id.is_multiple_of(1024) {
            self.calls.retain(|_, (reply, _)| !reply.is_closed());
        }
        Envelopes { envelopes }
    }

    fn answer(&mut self, answers: Envelopes) {
        for envelope in answers.envelopes {
            if let Some((reply, _counted)) = self.calls.remove(&envelope.id) {
                let answer = if envelope.error.is_empty() {
                    Ok(envelope.body)
                } else {
                    Err(TransportError::Lost(envelope.error))
                };
                let _ = reply.send(answer);
            }
        }
    }

    fn fail(self, cause: &str) {
        for (reply, _counted) in self.calls.into_values() {
            let _ = reply.send(Err(TransportError::Lost(cause.into())));
        }
    }
}

/// The server side: mount it on the node's gRPC server.
pub struct RaftService {
    host: Arc<RaftHost>,
    node: NodeId,
}

impl RaftService {
    /// The service of `node`, whose messages go to `host`.
    pub fn new(node: NodeId, host: Arc<RaftHost>) -> RaftServer<Self> {
        RaftServer::new(Self { host, node })
            .max_decoding_message_size(MESSAGE_BYTES)
            .max_encoding_message_size(MESSAGE_BYTES)
    }
}

#[tonic::async_trait]
impl Raft for RaftService {
    type ExchangeStream = Pin<Box<dyn Stream<Item = Result<Envelopes, Status>> + Send>>;

    async fn exchange(&self, request: Request<Streaming<Envelopes>>) -> Result<Response<Self::ExchangeStream>, Status> {
        let target = request.metadata().get(TARGET).and_then(|node| node.to_str().ok()?.parse::<NodeId>().ok());
        if target != Some(self.node) {
            return Err(Status::failed_precondition(format!("this is node {}, not {target:?}", self.node)));
        }
        let (answers, stream) = mpsc::channel(STREAM_MESSAGES);
        let host = self.host.clone();
        let handle = move |request| {
            let host = host.clone();
            async move { host.handle(request).await }
        };
        let mut stopped = self.host.stopped();
        tokio::spawn(async move {
            tokio::select! {
                () = serve(handle, request.into_inner(), answers) => {}
                // A stream has no end of its own, and would keep the host alive.
                _ = stopped.changed() => {}
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(stream))))
    }
}

/// Handles the requests of one stream until it ends. One task first polls each request in the order of the stream, so
/// that pipelined appends reach their group in order; their answers go back as they come, those that are ready together
/// in one message.
///
/// The order needs `unconstrained`: a task that has done much in one turn gets `Pending` from Tokio's channels although
/// they have room, and a request that was put off that way would be overtaken by the ones behind it. After a partition
/// hundreds of requests arrive at once.
async fn serve<F: Future<Output = Bytes>>(
    handle: impl Fn(Bytes) -> F,
    mut requests: impl Stream<Item = Result<Envelopes, Status>> + Unpin,
    answers: mpsc::Sender<Result<Envelopes, Status>>,
) {
    let mut handled = FuturesUnordered::new();
    loop {
        tokio::select! {
            biased;
            request = requests.next(), if handled.len() < HANDLED_AT_ONCE => match request {
                Some(Ok(request)) => handled.extend(request.envelopes.into_iter().map(|envelope| {
                    let reply = handle(envelope.body);
                    tokio::task::unconstrained(async move {
                        Envelope { id: envelope.id, body: reply.await, error: envelope.error }
                    })
                })),
                Some(Err(_)) | None => return,
            },
            Some(answer) = handled.next() => {
                let mut envelopes = vec![answer];
                while envelopes.len() < BATCH_ENVELOPES && let Some(Some(answer)) = handled.next().now_or_never() {
                    envelopes.push(answer);
                }
                if answers.send(Ok(Envelopes { envelopes })).await.is_err() {
                    return;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(counted: &Arc<Semaphore>) -> (Call, oneshot::Receiver<Result<Bytes, TransportError>>) {
        let (reply, answer) = oneshot::channel();
        let counted = counted.clone().try_acquire_owned().unwrap();
        (Call { request: Bytes::from_static(b"x"), reply, counted }, answer)
    }

    #[tokio::test]
    async fn a_burst_of_requests_is_handled_in_its_order() {
        const BURST: u64 = 1_000;
        let (seen, mut order) = mpsc::channel(BURST as usize);
        let handle = move |request: Bytes| {
            let seen = seen.clone();
            async move {
                seen.send(request.clone()).await.expect("the test listens");
                request
            }
        };
        let body = |id: u64| Bytes::copy_from_slice(&id.to_be_bytes());
        let envelope = |id| Envelope { id, body: body(id), error: String::new() };
        let messages: Vec<_> = (0..BURST / 50)
            .map(|message| Ok(Envelopes { envelopes: (message * 50..(message + 1) * 50).map(envelope).collect() }))
            .collect();
        let (answers, mut answered) = mpsc::channel(STREAM_MESSAGES);
        // The stream stays open until all is answered.
        let requests = futures::stream::iter(messages).chain(futures::stream::pending());
        let serving = tokio::spawn(serve(handle, Box::pin(requests), answers));
        let mut count = 0;
        while count < BURST {
            count += answered.recv().await.expect("answers").expect("no status").envelopes.len() as u64;
        }
        serving.abort();
        for id in 0..BURST {
            assert_eq!(order.recv().await, Some(body(id)));
        }
    }

    #[test]
    fn calls_that_wait_travel_together_and_answers_find_them() {
        let counted = Arc::new(Semaphore::new(3));
        let (calls, mut answers): (VecDeque<Call>, Vec<_>) = (0..3).map(|_| call(&counted)).unzip();
        let mut waiting = calls;
        drop(answers.pop());
        let mut under_way = UnderWay::default();
        let batch = under_way.batch(&mut waiting);
        assert_eq!(batch.envelopes.len(), 2, "the caller of the third is gone");
        assert_eq!(counted.available_permits(), 1);

        let second = Envelope { id: batch.envelopes[1].id, body: Bytes::from_static(b"y"), error: String::new() };
        under_way.answer(Envelopes { envelopes: vec![second] });
        assert_eq!(answers[1].try_recv().unwrap(), Ok(Bytes::from_static(b"y")));
        under_way.fail("broken");
        assert_eq!(answers[0].try_recv().unwrap(), Err(TransportError::Lost("broken".into())));
        assert_eq!(counted.available_permits(), 3);
    }
}
