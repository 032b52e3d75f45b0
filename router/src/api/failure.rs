//! Problems as HTTP answers: RFC 9457 documents.

use axum::http::header::{CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use mira_proto::Problem;

/// A problem on its way out, with its HTTP status.
#[derive(Debug)]
pub(super) struct Failure {
    status: StatusCode,
    problem: Problem,
}

impl Failure {
    /// A problem of HTTP itself, whose status is not that of its code.
    pub(super) fn with(status: StatusCode, problem: Problem) -> Self {
        Failure { status, problem }
    }
}

impl From<Problem> for Failure {
    fn from(problem: Problem) -> Self {
        let status = StatusCode::from_u16(problem.code.http_status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        Failure { status, problem }
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let mut document = self.problem.to_json();
        document["status"] = self.status.as_u16().into();
        let media_type = HeaderValue::from_static("application/problem+json");
        let mut response = (self.status, [(CONTENT_TYPE, media_type)], document.to_string()).into_response();
        if let Some(seconds) = self.problem.retry_after {
            response.headers_mut().insert(RETRY_AFTER, seconds.into());
        }
        response.extensions_mut().insert(self.problem.code);
        if self.status == StatusCode::UNAUTHORIZED {
            response.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}
