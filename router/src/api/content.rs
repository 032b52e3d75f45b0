//! Large contents: bodies in and out that are never whole in memory. The handlers are those of HTTP; what reads and makes
//! the bodies is gRPC's too.

use std::fmt::Display;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::body::{Body, Bytes};
use axum::extract::{FromRequestParts, Path, State};
use axum::http::header::{ACCEPT_RANGES, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG, IF_RANGE, RANGE};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use bytes::BytesMut;
use futures::{Stream, StreamExt, stream};
use mira_proto::model::{UploadReply, UploadRequest};
use mira_proto::{Code, Problem, limits};
use tokio::sync::OwnedSemaphorePermit;
use uuid::Uuid;

use super::rest::{Caller, Document, Failure, Name};
use super::{Api, text};
use crate::operations::content::{ContentPart, FrameContent, FrameRef};
use crate::operations::uploads::UploadRef;
use crate::{Memory, RequestContext};

/// The header that says where the bytes of a body begin in the content.
const UPLOAD_OFFSET: &str = "upload-offset";
/// How long a body may stand still.
const STREAM_IDLE: Duration = Duration::from_secs(60);

/// A collection, and an upload or a frame in it, in the path.
pub(super) struct Named(String, Uuid);

impl FromRequestParts<Arc<Api>> for Named {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, api: &Arc<Api>) -> Result<Self, Failure> {
        match Path::from_request_parts(parts, api).await {
            Ok(Path((collection, id))) => Ok(Named(collection, id)),
            Err(rejection) => Err(Problem::invalid(rejection.body_text()).into()),
        }
    }
}

pub(super) async fn begin(
    State(api): State<Arc<Api>>,
    Caller(context): Caller,
    Name(collection): Name,
    Document(request): Document<UploadRequest>,
) -> Result<(StatusCode, Json<UploadReply>), Failure> {
    Ok((StatusCode::CREATED, Json(api.memory.begin_upload(&context, &collection, request).await?)))
}

pub(super) async fn state(
    State(api): State<Arc<Api>>,
    Caller(context): Caller,
    Named(collection, id): Named,
) -> Result<Json<UploadReply>, Failure> {
    Ok(Json(api.memory.get_upload(&context, UploadRef { collection: &collection, upload: id }).await?))
}

pub(super) async fn append(
    State(api): State<Arc<Api>>,
    Caller(context): Caller,
    Named(collection, id): Named,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<UploadReply>, Failure> {
    let offset = text(&headers, UPLOAD_OFFSET)?.and_then(|offset| offset.parse().ok());
    let missing = || Problem::invalid(format!("header {UPLOAD_OFFSET} must say where the bytes begin: 0 at first"));
    let _permit = api.stream()?;
    let upload = Receiving::new(&api.memory, context, UploadRef { collection: &collection, upload: id });
    Ok(Json(upload.receive(offset.ok_or_else(missing)?, body.into_data_stream()).await?))
}

pub(super) async fn finish(
    State(api): State<Arc<Api>>,
    Caller(context): Caller,
    Named(collection, id): Named,
) -> Result<Json<UploadReply>, Failure> {
    Ok(Json(api.memory.finish_upload(&context, UploadRef { collection: &collection, upload: id }).await?))
}

pub(super) async fn cancel(
    State(api): State<Arc<Api>>,
    Caller(context): Caller,
    Named(collection, id): Named,
) -> Result<StatusCode, Failure> {
    api.memory.cancel_upload(&context, UploadRef { collection: &collection, upload: id }).await?;
    Ok(StatusCode::NO_CONTENT)
}

pub(super) async fn read(
    State(api): State<Arc<Api>>,
    Caller(context): Caller,
    Named(collection, id): Named,
    headers: HeaderMap,
) -> Result<Response, Failure> {
    let permit = api.stream()?;
    let content = api.memory.read_content(&context, FrameRef { collection: &collection, id }).await?;
    let (size, etag) = (content.size(), format!("\"{id}-{}\"", content.version));
    // What was begun of another version is not gone on with.
    let is_other = text(&headers, IF_RANGE.as_str())?.is_some_and(|known| known != etag);
    let asked = text(&headers, RANGE.as_str())?.filter(|_| !is_other);
    let Ok(range) = asked.map(|asked| one_range(asked, size)).transpose() else {
        let problem = Problem::invalid(format!("the content has {size} bytes: one range within them can be asked for"));
        let mut response = Failure::with(StatusCode::RANGE_NOT_SATISFIABLE, problem).into_response();
        response.headers_mut().insert(CONTENT_RANGE, header(&format!("bytes */{size}")));
        return Ok(response);
    };
    let wanted = range.clone().unwrap_or(0..size);
    let content_type = header(&content.content_type);
    let reading = Reading { memory: api.memory.clone(), context, collection, content, _permit: permit };
    let mut response = Body::from_stream(reading.pieces(wanted.clone())).into_response();
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, content_type);
    headers.insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    headers.insert(CONTENT_LENGTH, (wanted.end - wanted.start).into());
    headers.insert(ETAG, header(&etag));
    // What was stored is no page of this site, whatever it says it is.
    headers.insert("content-disposition", HeaderValue::from_static("attachment"));
    headers.insert("x-content-type-options", HeaderValue::from_static("nosniff"));
    if range.is_some() {
        headers.insert(CONTENT_RANGE, header(&format!("bytes {}-{}/{size}", wanted.start, wanted.end - 1)));
        *response.status_mut() = StatusCode::PARTIAL_CONTENT;
    }
    Ok(response)
}

/// A body on its way out.
pub(super) struct Reading {
    pub(super) memory: Arc<Memory>,
    pub(super) context: RequestContext,
    pub(super) collection: String,
    pub(super) content: FrameContent,
    /// Its room in the router, held until the last piece is gone.
    pub(super) _permit: OwnedSemaphorePermit,
}

impl Reading {
    /// The bytes of a range, piece by piece, a few of them fetched ahead; each gets the whole time of the request.
    pub(super) fn pieces(self, range: Range<u64>) -> impl Stream<Item = Result<Bytes, Problem>> + Send + 'static {
        let (parts, patience) = (self.content.parts(range), self.context.remaining());
        let reading = Arc::new(self);
        let piece = move |part: ContentPart| {
            let reading = reading.clone();
            async move {
                let context = reading.context.anew(patience);
                reading.memory.read_content_part(&context, &reading.collection, &reading.content, &part).await
            }
        };
        stream::iter(parts).map(piece).buffered(limits::CHUNKS_IN_FLIGHT)
    }
}

impl Api {
    /// Room for one more body that is not whole in memory.
    pub(super) fn stream(&self) -> Result<OwnedSemaphorePermit, Problem> {
        let full = |_| {
            let detail = format!("{} contents are on their way through this router: try again", limits::MAX_STREAMS);
            Problem::new(Code::Overloaded, detail)
        };
        self.streams.clone().try_acquire_owned().map_err(full)
    }
}

/// An upload that a body is added to.
pub(super) struct Receiving<'a> {
    memory: &'a Memory,
    context: RequestContext,
    /// For each step.
    patience: Duration,
    upload: UploadRef<'a>,
}

impl<'a> Receiving<'a> {
    pub(super) fn new(memory: &'a Memory, context: RequestContext, upload: UploadRef<'a>) -> Self {
        Receiving { memory, patience: context.remaining(), context, upload }
    }

    /// Adds a body chunk by chunk. When it breaks off, what came whole is kept.
    pub(super) async fn receive<E: Display>(
        &self,
        mut offset: u64,
        mut body: impl Stream<Item = Result<Bytes, E>> + Unpin,
    ) -> Result<UploadReply, Problem> {
        let mut buffer = BytesMut::new();
        loop {
            let came = fill(&mut buffer, &mut body).await;
            let is_last = !matches!(came, Ok(true));
            let mut chunks = Vec::new();
            while buffer.len() >= limits::MAX_CONTENT_BYTES {
                chunks.push(buffer.split_to(limits::MAX_CONTENT_BYTES).freeze());
            }
            // The end of the body ends a chunk; a connection that was lost does not.
            if came == Ok(false) && !buffer.is_empty() {
                chunks.push(buffer.split().freeze());
            }
            let context = self.context.anew(self.patience);
            let reply = if chunks.is_empty() {
                self.memory.get_upload(&context, self.upload).await?
            } else {
                self.memory.append_upload(&context, self.upload, offset, chunks).await?
            };
            offset = reply.offset;
            came?;
            if is_last {
                return Ok(reply);
            }
        }
    }
}

/// Reads until there is enough for a step, or the body ends: whether there may be more.
async fn fill<E: Display>(
    buffer: &mut BytesMut,
    body: &mut (impl Stream<Item = Result<Bytes, E>> + Unpin),
) -> Result<bool, Problem> {
    while buffer.len() < limits::CHUNKS_IN_FLIGHT * limits::MAX_CONTENT_BYTES {
        match tokio::time::timeout(STREAM_IDLE, body.next()).await {
            Ok(Some(Ok(bytes))) => buffer.extend_from_slice(&bytes),
            Ok(Some(Err(error))) => return Err(Problem::invalid(format!("the body broke off: {error}"))),
            Ok(None) => return Ok(false),
            Err(_) => return Err(Problem::new(Code::DeadlineExceeded, "the body stood still for a minute")),
        }
    }
    Ok(true)
}

/// The one range of a `Range` header (RFC 9110, section 14), end excluded.
fn one_range(asked: &str, size: u64) -> Result<Range<u64>, ()> {
    let ranges = http_range_header::parse_range_header(asked).map_err(drop)?;
    match &ranges.validate(size).map_err(drop)?[..] {
        [one] if *one.start() < size => Ok(*one.start()..size.min(one.end() + 1)),
        _ => Err(()),
    }
}

fn header(text: &str) -> HeaderValue {
    HeaderValue::from_str(text).unwrap_or(HeaderValue::from_static("application/octet-stream"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_range_within_the_content_can_be_asked_for() {
        let table = [
            ("bytes=0-3", Ok(0..4)),
            ("bytes=4-", Ok(4..10)),
            ("bytes=-2", Ok(8..10)),
            ("bytes=9-9", Ok(9..10)),
            ("bytes=4-100", Ok(4..10)),
            ("bytes=10-12", Err(())),
            ("bytes=0-1,4-5", Err(())),
            ("lines=0-3", Err(())),
            ("bytes=3-2", Err(())),
        ];
        for (asked, range) in table {
            assert_eq!(one_range(asked, 10), range, "{asked}");
        }
        assert_eq!(one_range("bytes=0-", 0), Err(()));
    }
}
