//! Typed errors that callers see, the same on every protocol.
//!
//! A [`Problem`] has a [`Code`] from SPEC section 2 and a sentence that says what was wrong and what to do. The one
//! mapping from code to HTTP status and gRPC code stands here.

use serde::{Deserialize, Serialize};

/// The kinds of problems. The text form is the name in `snake_case`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Code {
    /// The request itself is wrong; it will fail again unchanged.
    InvalidArgument,
    /// A vector has another number of components than its collection.
    DimensionMismatch,
    /// Something is over its limit.
    TooLarge,
    /// The id or collection does not exist.
    NotFound,
    /// The frame's current version or content is another than the caller expected.
    Conflict,
    /// The collection exists with other settings.
    AlreadyExists,
    /// The token is missing, wrong or expired.
    Unauthenticated,
    /// The token is good but does not allow this.
    PermissionDenied,
    /// The owner key does not open this private frame.
    WrongOwnerKey,
    /// Stored data failed its checksum or seal.
    Damaged,
    /// The caller sends faster than it may.
    RateLimited,
    /// The server has no room for the request now.
    Overloaded,
    /// No quorum, or no replica that may answer.
    Unavailable,
    /// The deadline passed; a write may still take effect.
    DeadlineExceeded,
    /// A format or protocol version that this build does not know.
    UnsupportedVersion,
    /// A fault of MIRA itself.
    Internal,
}

impl Code {
    /// Every code, for tables and documentation.
    pub const ALL: [Code; 16] = [
        Code::InvalidArgument,
        Code::DimensionMismatch,
        Code::TooLarge,
        Code::NotFound,
        Code::Conflict,
        Code::AlreadyExists,
        Code::Unauthenticated,
        Code::PermissionDenied,
        Code::WrongOwnerKey,
        Code::Damaged,
        Code::RateLimited,
        Code::Overloaded,
        Code::Unavailable,
        Code::DeadlineExceeded,
        Code::UnsupportedVersion,
        Code::Internal,
    ];

    /// Name, HTTP status and gRPC code (SPEC section 2).
    const fn row(self) -> (&'static str, u16, tonic::Code) {
        use tonic::Code as Grpc;
        match self {
            Code::InvalidArgument => ("invalid_argument", 400, Grpc::InvalidArgument),
            Code::DimensionMismatch => ("dimension_mismatch", 400, Grpc::InvalidArgument),
            Code::TooLarge => ("too_large", 413, Grpc::InvalidArgument),
            Code::NotFound => ("not_found", 404, Grpc::NotFound),
            Code::Conflict => ("conflict", 409, Grpc::FailedPrecondition),
            Code::AlreadyExists => ("already_exists", 409, Grpc::AlreadyExists),
            Code::Unauthenticated => ("unauthenticated", 401, Grpc::Unauthenticated),
            Code::PermissionDenied => ("permission_denied", 403, Grpc::PermissionDenied),
            Code::WrongOwnerKey => ("wrong_owner_key", 403, Grpc::PermissionDenied),
            Code::Damaged => ("damaged", 500, Grpc::DataLoss),
            Code::RateLimited => ("rate_limited", 429, Grpc::ResourceExhausted),
            Code::Overloaded => ("overloaded", 503, Grpc::ResourceExhausted),
            Code::Unavailable => ("unavailable", 503, Grpc::Unavailable),
            Code::DeadlineExceeded => ("deadline_exceeded", 504, Grpc::DeadlineExceeded),
            Code::UnsupportedVersion => ("unsupported_version", 400, Grpc::Unimplemented),
            Code::Internal => ("internal", 500, Grpc::Internal),
        }
    }

    /// The code as callers see it.
    pub const fn as_str(self) -> &'static str {
        self.row().0
    }

    /// The REST status.
    pub const fn http_status(self) -> u16 {
        self.row().1
    }

    /// The gRPC status code.
    pub const fn grpc(self) -> tonic::Code {
        self.row().2
    }

    /// Reads a code back; unknown ones (of a newer peer) are `Internal`.
    pub fn parse(text: &str) -> Code {
        Code::ALL.into_iter().find(|code| code.as_str() == text).unwrap_or(Code::Internal)
    }
}

impl std::fmt::Display for Code {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What went wrong, for the caller.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error, schemars::JsonSchema)]
#[error("{code}: {detail}")]
pub struct Problem {
    /// The kind.
    pub code: Code,
    /// What was wrong and what to do, in a sentence. Never content, never a secret.
    pub detail: String,
    /// Seconds after which trying again is worth it, where that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after: Option<u32>,
}

impl Problem {
    /// A problem of a kind.
    pub fn new(code: Code, detail: impl Into<String>) -> Self {
        Problem { code, detail: detail.into(), retry_after: (code == Code::Overloaded).then_some(1) }
    }

    /// The same, worth another try after so many seconds.
    pub fn after(self, seconds: u32) -> Self {
        Problem { retry_after: Some(seconds), ..self }
    }

    /// The request is wrong.
    pub fn invalid(detail: impl Into<String>) -> Self {
        Problem::new(Code::InvalidArgument, detail)
    }

    /// A fault of MIRA itself.
    pub fn internal(detail: impl Into<String>) -> Self {
        Problem::new(Code::Internal, detail)
    }

    /// The RFC 9457 document of this problem.
    pub fn to_json(&self) -> serde_json::Value {
        let mut document = serde_json::json!({
            "type": format!("https://mira.dev/problems/{}", self.code),
            "title": self.code.as_str().replace('_', " "),
            "status": self.code.http_status(),
            "code": self.code,
            "detail": self.detail,
        });
        if let Some(seconds) = self.retry_after {
            document["retry_after"] = seconds.into();
        }
        document
    }
}

impl From<Problem> for crate::v1::Problem {
    fn from(problem: Problem) -> Self {
        let Problem { code, detail, retry_after } = problem;
        crate::v1::Problem { code: code.as_str().into(), detail, retry_after }
    }
}

impl From<Problem> for tonic::Status {
    fn from(problem: Problem) -> Self {
        let (code, detail, retry_after) = (problem.code.grpc(), problem.detail.clone(), problem.retry_after);
        let bytes = prost::Message::encode_to_vec(&crate::v1::Problem::from(problem));
        let mut status = tonic::Status::with_details(code, detail, bytes.into());
        if let Some(seconds) = retry_after {
            status.metadata_mut().insert("retry-after", seconds.into());
        }
        status
    }
}

impl From<tonic::Status> for Problem {
    /// Reads the details that [`Problem`] put there; a status without them comes from the transport, whose own words tell of
    /// addresses and libraries, and are no caller's business.
    fn from(status: tonic::Status) -> Self {
        match <crate::v1::Problem as prost::Message>::decode(status.details()) {
            Ok(details) if !details.code.is_empty() => {
                let crate::v1::Problem { code, detail, retry_after } = details;
                Problem { code: Code::parse(&code), detail, retry_after }
            }
            _ => {
                let code = code_of_bare_status(status.code());
                Problem::new(code, said_of_bare_status(code))
            }
        }
    }
}

/// What a caller is told of a status without details.
pub(crate) fn said_of_bare_status(code: Code) -> &'static str {
    match code {
        Code::Unavailable => "a storage node cannot be reached",
        Code::DeadlineExceeded => "a storage node did not answer in time",
        Code::Overloaded => "a storage node has no room for the request now",
        Code::UnsupportedVersion => "a storage node is of another version and does not know this request",
        _ => "a storage node did not take the request",
    }
}

pub(crate) fn code_of_bare_status(code: tonic::Code) -> Code {
    match code {
        tonic::Code::InvalidArgument | tonic::Code::OutOfRange => Code::InvalidArgument,
        tonic::Code::DeadlineExceeded => Code::DeadlineExceeded,
        tonic::Code::NotFound => Code::NotFound,
        tonic::Code::PermissionDenied => Code::PermissionDenied,
        tonic::Code::Unauthenticated => Code::Unauthenticated,
        tonic::Code::ResourceExhausted => Code::Overloaded,
        tonic::Code::Unavailable | tonic::Code::Cancelled | tonic::Code::Unknown => Code::Unavailable,
        tonic::Code::Unimplemented => Code::UnsupportedVersion,
        _ => Code::Internal,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_survives_the_way_through_grpc() {
        for code in Code::ALL {
            let sent = Problem::new(code, "what to do");
            assert_eq!(Problem::from(tonic::Status::from(sent.clone())), sent);
        }
    }

    #[test]
    fn a_problem_document_has_the_fields_of_rfc_9457() {
        let document = Problem::new(Code::TooLarge, "content has 2 MiB").to_json();
        assert_eq!(document["status"], 413);
        assert_eq!(document["code"], "too_large");
        assert!(document["type"].as_str().unwrap().ends_with("/too_large"));
    }
}
