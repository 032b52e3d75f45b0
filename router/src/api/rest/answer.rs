//! Answers that say what was seen, in their body and in a header.

use axum::Json;
use axum::http::HeaderValue;
use axum::response::{IntoResponse, Response};
use mira_proto::model::{ForgetReply, SearchReply, StoreReply};
use serde::Serialize;

use crate::api::CONSISTENCY_TOKEN;

/// An answer whose consistency token goes into a header too.
pub(in crate::api) struct Tokened<T>(pub(super) T);

/// Answers that say what was seen.
pub(super) trait Seen: Serialize {
    fn token(&self) -> &str;
}

impl Seen for StoreReply {
    fn token(&self) -> &str {
        &self.consistency_token
    }
}

impl Seen for SearchReply {
    fn token(&self) -> &str {
        &self.consistency_token
    }
}

impl Seen for ForgetReply {
    fn token(&self) -> &str {
        &self.consistency_token
    }
}

impl<T: Seen> IntoResponse for Tokened<T> {
    fn into_response(self) -> Response {
        let token = HeaderValue::from_str(self.0.token());
        let mut response = Json(self.0).into_response();
        if let Ok(token) = token {
            response.headers_mut().insert(CONSISTENCY_TOKEN, token);
        }
        response
    }
}
