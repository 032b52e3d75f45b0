//! Letting gRPC calls in: by their headers, before a byte of their messages is kept, and then within the room for bodies.
//!
//! A call of one message takes room for it as soon as the message's length has arrived. A stream takes one of the places
//! for streams instead (its handler does), and each of its messages is bounded.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use axum::body::{Body, HttpBody};
use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::Response;
use bytes::{Buf, Bytes};
use futures::future::BoxFuture;
use hyper::body::{Frame, SizeHint};
use mira_proto::{Code, Problem, limits};
use tokio::sync::OwnedSemaphorePermit;
use tonic::Status;

use crate::api::Api;
use crate::api::body::{self, TakenRoom};
use crate::api::extract::Principal;

/// Calls whose messages stream in.
const STREAMS: [&str; 2] = ["/mira.v1.Memory/Ingest", "/mira.v1.Memory/Upload"];

/// Before each message: whether it is compressed, and its length.
const PREFIX: usize = 5;

/// Turns away who has no token, before a message is read, and has the others' messages wait for their room.
pub(super) async fn admit(State(api): State<Arc<Api>>, mut request: Request, next: Next) -> Response {
    let principal = match api.gate.admit(request.headers()) {
        Ok(principal) => Principal(principal),
        Err(problem) => return Status::from(problem).into_http(),
    };
    request.extensions_mut().insert(principal.clone());
    let room = TakenRoom::default();
    let streams = STREAMS.contains(&request.uri().path());
    let request = request.map(|body| {
        let messages = Messages { streams, prefix: Vec::with_capacity(PREFIX), left: 0, seen: 0 };
        Body::new(AdmittedBody { body, messages, api, room: room.clone(), waiting: None, frame: None })
    });
    let mut response = next.run(request).await;
    response.extensions_mut().insert(principal);
    drop(room);
    response
}

/// A request's body, of which no more is read than there is room for.
struct AdmittedBody {
    body: Body,
    messages: Messages,
    api: Arc<Api>,
    room: TakenRoom,
    /// Room on its way, and the bytes that it is for.
    waiting: Option<BoxFuture<'static, Result<OwnedSemaphorePermit, Problem>>>,
    frame: Option<Bytes>,
}

impl HttpBody for AdmittedBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if self.waiting.is_none() {
            let frame = match ready!(Pin::new(&mut self.body).poll_frame(context)) {
                None => return Poll::Ready(None),
                Some(Err(_)) => return Poll::Ready(Some(Err(Status::cancelled("the request broke off")))),
                Some(Ok(frame)) => frame,
            };
            let bytes = match frame.into_data() {
                Ok(bytes) => bytes,
                Err(frame) => return Poll::Ready(Some(Ok(frame))),
            };
            match self.messages.read(&bytes) {
                Err(problem) => return Poll::Ready(Some(Err(problem.into()))),
                Ok(None) => return Poll::Ready(Some(Ok(Frame::data(bytes)))),
                Ok(Some(wanted)) => {
                    let api = self.api.clone();
                    self.waiting = Some(Box::pin(async move { api.bodies.take(wanted).await }));
                    self.frame = Some(bytes);
                }
            }
        }
        let Some(waiting) = &mut self.waiting else { return Poll::Ready(None) };
        let taken = ready!(waiting.as_mut().poll(context));
        self.waiting = None;
        Poll::Ready(match taken {
            Ok(permit) => {
                self.room.add(permit);
                self.frame.take().map(|bytes| Ok(Frame::data(bytes)))
            }
            Err(problem) => Some(Err(problem.into())),
        })
    }

    fn is_end_stream(&self) -> bool {
        self.frame.is_none() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Where in its messages a body is.
struct Messages {
    streams: bool,
    prefix: Vec<u8>,
    /// Bytes of the message that has begun.
    left: usize,
    /// Messages that have begun.
    seen: usize,
}

impl Messages {
    /// Goes over the next bytes of a body. Says how much room the message takes that begins in them, if one does that
    /// needs any.
    fn read(&mut self, mut bytes: &[u8]) -> Result<Option<usize>, Problem> {
        let mut wanted = None;
        while !bytes.is_empty() {
            let passed = self.left.min(bytes.len());
            bytes.advance(passed);
            self.left -= passed;
            if self.left > 0 || bytes.is_empty() {
                continue;
            }
            let prefix = (PREFIX - self.prefix.len()).min(bytes.len());
            self.prefix.extend_from_slice(&bytes[..prefix]);
            bytes.advance(prefix);
            if self.prefix.len() < PREFIX {
                continue;
            }
            let length = u32::from_be_bytes(self.prefix[1..].try_into().expect("four bytes")) as usize;
            self.prefix.clear();
            (self.left, self.seen) = (length, self.seen + 1);
            if self.streams {
                let limit = limits::MAX_STREAM_MESSAGE_BYTES;
                if length > limit {
                    let detail = format!("a message of the stream has {length} bytes, the limit is {limit}");
                    return Err(Problem::new(Code::TooLarge, detail));
                }
            } else if self.seen > 1 {
                return Err(Problem::invalid("this method takes one message"));
            } else if length > limits::MAX_MESSAGE_BYTES {
                return Err(body::too_large());
            } else {
                wanted = Some(length);
            }
        }
        Ok(wanted)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(length: usize) -> Vec<u8> {
        let mut bytes = vec![0];
        bytes.extend((length as u32).to_be_bytes());
        bytes.extend(vec![7; length]);
        bytes
    }

    fn messages(streams: bool) -> Messages {
        Messages { streams, prefix: Vec::new(), left: 0, seen: 0 }
    }

    #[test]
    fn a_message_asks_for_room_when_its_length_has_arrived_however_it_is_cut() {
        let bytes = message(1_000);
        for cut in 1..20 {
            let mut read = messages(false);
            let asked: Vec<_> = bytes.chunks(cut).filter_map(|piece| read.read(piece).unwrap()).collect();
            assert_eq!(asked, [1_000], "in pieces of {cut}");
        }
        assert_eq!(messages(false).read(&[message(3), message(3)].concat()).unwrap_err().code, Code::InvalidArgument);
        let long = [0u8, 0xff, 0, 0, 0];
        assert_eq!(messages(false).read(&long).unwrap_err().code, Code::TooLarge);
    }

    #[test]
    fn messages_of_a_stream_are_bounded_one_by_one() {
        let mut read = messages(true);
        assert_eq!(read.read(&[message(3), message(0), message(9)].concat()).unwrap(), None);
        assert_eq!(read.seen, 3);
        let long = (limits::MAX_STREAM_MESSAGE_BYTES as u32 + 1).to_be_bytes();
        assert_eq!(read.read(&[&[0][..], &long].concat()).unwrap_err().code, Code::TooLarge);
    }
}
