//! Large contents over REST, as bytes.

use std::ops::Range;
use std::sync::Arc;

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::header::{ACCEPT_RANGES, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG, IF_RANGE, RANGE};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use mira_proto::Problem;
use mira_proto::model::UploadReply;

use crate::api::content::{Reading, Receiving};
use crate::api::extract::{Caller, NameAndId};
use crate::api::failure::Failure;
use crate::api::{Api, text};
use crate::operations::content::FrameRef;
use crate::operations::uploads::UploadRef;

/// The header that says where the bytes of a body begin in the content.
const UPLOAD_OFFSET: &str = "upload-offset";

pub(in crate::api) async fn append_upload(
    State(api): State<Arc<Api>>,
    Caller(context): Caller,
    NameAndId(collection, id): NameAndId,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<UploadReply>, Failure> {
    let offset = text(&headers, UPLOAD_OFFSET)?.and_then(|offset| offset.parse().ok());
    let missing = || Problem::invalid(format!("header {UPLOAD_OFFSET} must say where the bytes begin: 0 at first"));
    let _permit = api.stream()?;
    let upload = Receiving::new(&api.memory, context, UploadRef { collection: &collection, upload: id });
    Ok(Json(upload.receive(offset.ok_or_else(missing)?, body.into_data_stream()).await?))
}

pub(in crate::api) async fn read_content(
    State(api): State<Arc<Api>>,
    Caller(context): Caller,
    NameAndId(collection, id): NameAndId,
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
