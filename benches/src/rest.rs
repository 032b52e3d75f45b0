//! A client of a router over REST, on one connection that stays open. It sends nothing twice: what a measurement over
//! REST gets refused is a failure of the measurement.

use std::time::Duration;

use mira_proto::model::{SearchReply, UploadReply};
use mira_proto::{Code, Problem};
use reqwest::{RequestBuilder, Response};
use serde::de::DeserializeOwned;
use serde_json::json;

use crate::caller::Target;

/// How long a request may take, a download of the largest content included.
const PATIENCE: Duration = Duration::from_secs(120);

/// An HTTP client with connections of its own, for a server at `url`.
pub fn http_client(url: &str) -> Result<reqwest::Client, Problem> {
    // The process-wide choice of TLS provider; a second client finds it made already, which is no error.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let mut http = reqwest::Client::builder().timeout(PATIENCE).tcp_nodelay(true);
    if url.starts_with("http://") {
        // Without TLS nobody needs the machine's root certificates, which take time to read and may be missing.
        http = http.tls_certs_only([]);
    }
    http.build().map_err(|error| Problem::internal(format!("no HTTP client: {error}")))
}

/// Sends a request and reads the JSON of the answer.
///
/// # Errors
/// When there is no answer, or one of another status than success; the problem then has the answer's text.
pub async fn answer<A: DeserializeOwned>(request: RequestBuilder) -> Result<A, Problem> {
    successful(request).await?.json().await.map_err(lost)
}

/// Connects to a router as a REST caller.
#[derive(Clone)]
pub struct RestCaller {
    http: reqwest::Client,
    url: String,
    token: String,
}

impl RestCaller {
    /// For a router; the connection is made by the first request.
    pub fn new(target: &Target) -> Result<RestCaller, Problem> {
        let http = http_client(&target.url)?;
        Ok(RestCaller { http, url: target.url.clone(), token: target.token.clone() })
    }

    /// The ten nearest of a vector, or however many are asked for; an answer that misses a shard is a problem.
    pub async fn search(&self, collection: &str, vector: &[f32], k: usize) -> Result<SearchReply, Problem> {
        let request = json!({ "vector": vector, "k": k, "collection": collection });
        let reply: SearchReply = answer(self.post("/mcp/search").json(&request)).await?;
        if reply.degraded {
            Err(Problem::new(Code::Unavailable, format!("shards {:?} did not answer", reply.missing_shards)))
        } else {
            Ok(reply)
        }
    }

    /// Begins the upload of so many bytes.
    pub async fn begin_upload(&self, collection: &str, size: usize) -> Result<UploadReply, Problem> {
        answer(self.post(&format!("/collections/{collection}/uploads")).json(&json!({ "size": size }))).await
    }

    /// Adds bytes to an upload, from `offset` on.
    pub async fn append(&self, collection: &str, known: &UploadReply, bytes: Vec<u8>) -> Result<UploadReply, Problem> {
        let url = format!("{}/collections/{collection}/uploads/{}", self.url, known.upload);
        let request = self.http.patch(url).bearer_auth(&self.token).header("upload-offset", known.offset);
        answer(request.body(bytes)).await
    }

    /// Makes a frame of an upload.
    pub async fn finish_upload(&self, collection: &str, known: &UploadReply) -> Result<UploadReply, Problem> {
        answer(self.post(&format!("/collections/{collection}/uploads/{}/finish", known.upload))).await
    }

    /// The content of a frame, to be read piece by piece.
    pub async fn content(&self, collection: &str, id: &str) -> Result<Response, Problem> {
        let url = format!("{}/collections/{collection}/frames/{id}/content", self.url);
        successful(self.http.get(url).bearer_auth(&self.token)).await
    }

    fn post(&self, path: &str) -> RequestBuilder {
        self.http.post(format!("{}{path}", self.url)).bearer_auth(&self.token)
    }
}

async fn successful(request: RequestBuilder) -> Result<Response, Problem> {
    let response = request.send().await.map_err(lost)?;
    let status = response.status();
    if status.is_success() {
        Ok(response)
    } else {
        Err(Problem::internal(format!("{status}: {}", response.text().await.unwrap_or_default())))
    }
}

/// What a connection said.
pub fn lost(error: reqwest::Error) -> Problem {
    let cause = std::error::Error::source(&error).map(|cause| format!(": {cause}")).unwrap_or_default();
    Problem::new(Code::Unavailable, format!("{error}{cause}"))
}
