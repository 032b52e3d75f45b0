//! Reading request bodies within the room that a router has for them.
//!
//! A body's bytes are in memory several times over until its request is answered, so room for them is taken before the first
//! one is read, and held to the end. Large bodies wait for it in their order; small ones have room of their own. Whoever
//! gets none is told `overloaded`, and when to come again.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{FromRequest, Request};
use axum::http::HeaderMap;
use axum::http::header::CONTENT_LENGTH;
use axum::http::request::Parts;
use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use mira_proto::model::bounded;
use mira_proto::{Code, Problem, json, limits};
use parking_lot::Mutex;
use serde::de::DeserializeOwned;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use super::Api;
use super::failure::Failure;

/// Room is counted in pieces of so many bytes.
const PIECE: usize = 1 << 10;
/// What a caller is told of its own words is not longer than this.
const MAX_ECHO_BYTES: usize = 400;

/// The room that a router has for bodies.
pub(super) struct BodyRoom {
    large: Arc<Semaphore>,
    small: Arc<Semaphore>,
    /// For a large body to wait.
    patience: Duration,
}

impl Default for BodyRoom {
    fn default() -> Self {
        BodyRoom {
            large: Arc::new(Semaphore::new(limits::BODY_BYTES / PIECE)),
            small: Arc::new(Semaphore::new(limits::BODY_BYTES / limits::SMALL_BODY_BYTES)),
            patience: limits::BODY_PATIENCE,
        }
    }
}

impl BodyRoom {
    /// Room for a body of so many bytes.
    pub(super) async fn take(&self, bytes: usize) -> Result<OwnedSemaphorePermit, Problem> {
        let full = || {
            let detail = "this router has no room for the request's body now: try again, or send less at once";
            Problem::new(Code::Overloaded, detail)
        };
        if bytes <= limits::SMALL_BODY_BYTES {
            return self.small.clone().try_acquire_owned().map_err(|_| full());
        }
        if bytes > limits::BODY_BYTES {
            return Err(too_large());
        }
        let pieces = bytes.div_ceil(PIECE) as u32;
        match timeout(self.patience, self.large.clone().acquire_many_owned(pieces)).await {
            Ok(Ok(permit)) => Ok(permit),
            Ok(Err(_)) | Err(_) => Err(full()),
        }
    }
}

/// The room that a request has taken, given back when the last copy of this is gone.
#[derive(Clone, Default)]
pub(super) struct TakenRoom(Arc<Mutex<Vec<OwnedSemaphorePermit>>>);

impl TakenRoom {
    pub(super) fn add(&self, permit: OwnedSemaphorePermit) {
        self.0.lock().push(permit);
    }
}

/// The whole body of a request.
pub(super) struct WholeBody(pub(super) Bytes);

impl FromRequest<Arc<Api>> for WholeBody {
    type Rejection = Failure;

    async fn from_request(request: Request, api: &Arc<Api>) -> Result<Self, Failure> {
        Ok(WholeBody(read(request, api).await?))
    }
}

/// Reads a body, after there is room for it.
pub(super) async fn read(request: Request, api: &Api) -> Result<Bytes, Problem> {
    let (parts, body) = request.into_parts();
    read_of(&parts, body, api).await
}

/// Reads the body of a request that was taken apart.
pub(super) async fn read_of(parts: &Parts, body: Body, api: &Api) -> Result<Bytes, Problem> {
    let room = parts.extensions.get::<TakenRoom>().cloned().unwrap_or_default();
    let declared = declared_bytes(&parts.headers)?;
    room.add(api.bodies.take(declared.unwrap_or_default()).await?);
    let reading = async {
        let mut body = body.into_data_stream();
        let mut read = BytesMut::with_capacity(declared.unwrap_or(limits::SMALL_BODY_BYTES));
        let mut grown = None;
        while let Some(piece) = body.next().await {
            let piece = piece.map_err(|_| Problem::invalid("the body broke off, or stood still for too long"))?;
            let bytes = read.len() + piece.len();
            if bytes > limits::MAX_MESSAGE_BYTES {
                return Err(too_large());
            }
            // A body that did not say how long it is has room for a small one at first, then for the largest.
            if declared.is_none() && bytes > limits::SMALL_BODY_BYTES && grown.is_none() {
                grown = Some(api.bodies.take(limits::MAX_MESSAGE_BYTES).await?);
            }
            read.extend_from_slice(&piece);
        }
        if let Some(mut permit) = grown {
            let unneeded = permit.num_permits().saturating_sub(read.len().div_ceil(PIECE));
            drop(permit.split(unneeded));
            room.add(permit);
        }
        Ok(read.freeze())
    };
    // While it has room that others wait for.
    let late = |_| Problem::new(Code::DeadlineExceeded, "the body did not arrive in time: send less at once");
    timeout(limits::BODY_TIME + limits::BODY_PATIENCE, reading).await.map_err(late)?
}

/// How long a body says that it is; one that is too long is refused at that.
fn declared_bytes(headers: &HeaderMap) -> Result<Option<usize>, Problem> {
    let Some(declared) = headers.get(CONTENT_LENGTH) else { return Ok(None) };
    let declared = declared.to_str().ok().and_then(|text| text.parse().ok());
    match declared.ok_or_else(|| Problem::invalid("the header Content-Length is no number"))? {
        bytes if bytes > limits::MAX_MESSAGE_BYTES => Err(too_large()),
        bytes => Ok(Some(bytes)),
    }
}

pub(super) fn too_large() -> Problem {
    let limit = limits::MAX_MESSAGE_BYTES;
    Problem::new(Code::TooLarge, format!("the body has more than {limit} bytes: send less at once"))
}

/// Reads a request from a document; a large one on a thread of its own. `what` is said of one that is no such request.
pub(super) async fn parse<T: DeserializeOwned + Send + 'static>(
    document: Bytes,
    what: &'static str,
) -> Result<T, Problem> {
    if document.len() <= limits::INLINE_PARSE_BYTES {
        return parse_here(&document, what);
    }
    let parsed = tokio::task::spawn_blocking(move || parse_here(&document, what)).await;
    parsed.map_err(|_| Problem::internal("reading the body failed"))?
}

/// The message says where and what is wrong.
fn parse_here<T: DeserializeOwned>(document: &[u8], what: &str) -> Result<T, Problem> {
    let text = std::str::from_utf8(document)
        .map_err(|error| Problem::invalid(format!("the body is not UTF-8 from byte {} on", error.valid_up_to())))?;
    bounded::within(limits::MAX_REQUEST_TREES_BYTES, || serde_json::from_str(text)).map_err(|error| {
        let said = json::fault(text, &error);
        if let Some(said) = said.strip_prefix(bounded::TOO_LARGE) {
            return Problem::new(Code::TooLarge, said);
        }
        let what = if error.is_data() { what } else { "the body is not valid JSON" };
        Problem::invalid(format!("{what}: {}", shortened(&said)))
    })
}

/// A message that may quote what was sent, cut.
fn shortened(said: &str) -> String {
    match said.char_indices().find(|(at, _)| *at >= MAX_ECHO_BYTES) {
        Some((cut, _)) => format!("{}…", &said[..cut]),
        None => said.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use mira_proto::model::{StoreItem, StoreRequest};

    use super::*;

    #[tokio::test]
    async fn large_bodies_wait_for_their_room_and_small_ones_do_not() {
        let room = BodyRoom { patience: Duration::from_millis(20), ..BodyRoom::default() };
        let first = room.take(limits::MAX_MESSAGE_BYTES).await.unwrap();
        let second = room.take(limits::MAX_MESSAGE_BYTES).await.unwrap();
        let refused = room.take(limits::MAX_MESSAGE_BYTES).await.unwrap_err();
        assert_eq!((refused.code, refused.retry_after), (Code::Overloaded, Some(1)));
        let _small = room.take(limits::SMALL_BODY_BYTES).await.unwrap();
        drop(first);
        assert!(room.take(limits::MAX_MESSAGE_BYTES).await.is_ok());
        drop(second);
        assert_eq!(room.take(limits::BODY_BYTES + 1).await.unwrap_err().code, Code::TooLarge);
    }

    #[tokio::test]
    async fn small_bodies_are_bounded_too() {
        let room = BodyRoom::default();
        let mut taken = Vec::new();
        for _ in 0..limits::BODY_BYTES / limits::SMALL_BODY_BYTES {
            taken.push(room.take(1).await.unwrap());
        }
        assert_eq!(room.take(1).await.unwrap_err().code, Code::Overloaded);
    }

    #[test]
    fn what_is_too_large_is_told_from_what_is_wrong() {
        let long = format!(r#"{{"vector":[{}]}}"#, vec!["0"; 5_000].join(","));
        assert_eq!(parse_here::<StoreRequest>(long.as_bytes(), "wrong").unwrap_err().code, Code::TooLarge);
        let error = parse_here::<StoreRequest>(br#"{"contents":"a"}"#, "the request is wrong").unwrap_err();
        assert_eq!(error.code, Code::InvalidArgument);
        assert!(error.detail.starts_with("the request is wrong: unknown field `contents`"), "{error}");
        assert!(parse_here::<StoreItem>(b"{", "x").unwrap_err().detail.contains("not valid JSON"));
    }

    #[test]
    fn a_message_does_not_hand_back_a_megabyte() {
        let text = format!(r#"{{"replace":"{}"}}"#, "ü".repeat(100_000));
        let error = parse_here::<StoreItem>(text.as_bytes(), "the request is wrong").unwrap_err();
        assert!(error.detail.len() < 600 && error.detail.contains("replace must be true or false"), "{error}");
    }
}
