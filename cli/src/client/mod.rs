//! The REST client: one request, one typed answer, within one deadline.
//!
//! A request that found no router, or one that was too busy, is sent again until the deadline. Every write carries an
//! `Idempotency-Key` that stays the same over its tries, so that the cluster applies it once however often it arrives.

mod credentials;
mod operations;

use std::error::Error as _;
use std::time::Duration;

use mira_net::rest::client_builder_for;
use mira_proto::{Code, Problem};
use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderValue, RETRY_AFTER};
use reqwest::{Method, RequestBuilder, Response, Url};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::time::Instant;

use crate::args::Remote;
use crate::backoff::backoff;
use crate::error::CliError;

#[cfg(feature = "bench")]
pub use credentials::find_token;
pub use operations::Received;

/// The header that bounds a request's time in the cluster, in milliseconds.
const TIMEOUT_MS: &str = "x-mira-timeout-ms";
/// The header with what a reader has seen.
const CONSISTENCY_TOKEN: &str = "x-mira-consistency-token";

/// How much longer an answer may take to arrive than the cluster may take to give it.
const ANSWER_GRACE: Duration = Duration::from_secs(1);

/// A connection to a router. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Client {
    http: reqwest::Client,
    base: Url,
    timeout: Duration,
    /// What a read must have seen.
    seen: Option<HeaderValue>,
}

impl Client {
    /// A client for the router that the arguments name. Connects with the first request.
    pub fn new(remote: &Remote) -> Result<Self, CliError> {
        let base = remote.url.clone();
        if !matches!(base.scheme(), "http" | "https") || base.cannot_be_a_base() {
            return Err(CliError::Usage(format!("{base} is not an http:// or https:// address")));
        }
        let mut headers = HeaderMap::new();
        if let Some(token) = credentials::find_token(remote)? {
            headers.insert(AUTHORIZATION, credentials::bearer(&token)?);
        }
        headers.extend(credentials::owner_header(remote)?);
        let builder = client_builder_for(base.as_str());
        let builder = builder.default_headers(headers).user_agent(concat!("mira/", env!("CARGO_PKG_VERSION")));
        let http =
            builder.build().map_err(|error| CliError::Usage(format!("cannot set up HTTP: {}", innermost(&error))))?;
        Ok(Client { http, base, timeout: remote.timeout, seen: None })
    }

    /// The same, reading no older state than the one this consistency token names.
    pub fn having_seen(self, token: Option<&str>) -> Result<Self, CliError> {
        let seen = token.map(HeaderValue::from_str).transpose();
        let seen = seen.map_err(|_| CliError::Usage("a consistency token is a word of letters and digits".into()))?;
        Ok(Client { seen, ..self })
    }

    async fn write<Q: Serialize, A: DeserializeOwned>(
        &self,
        method: Method,
        path: &[&str],
        body: Option<&Q>,
    ) -> Result<A, CliError> {
        let key = idempotency_key();
        let url = self.url(path)?;
        self.answer(|| with_body(self.http.request(method.clone(), url.clone()), body).header("idempotency-key", &key))
            .await
    }

    async fn read<Q: Serialize, A: DeserializeOwned>(
        &self,
        method: Method,
        path: &[&str],
        body: Option<&Q>,
    ) -> Result<A, CliError> {
        let url = self.url(path)?;
        self.answer(|| {
            let request = with_body(self.http.request(method.clone(), url.clone()), body);
            self.seen.iter().fold(request, |request, seen| request.header(CONSISTENCY_TOKEN, seen))
        })
        .await
    }

    async fn answer<A: DeserializeOwned>(&self, request: impl Fn() -> RequestBuilder) -> Result<A, CliError> {
        let body = self.send(request).await?;
        serde_json::from_slice(&body).map_err(|error| CliError::NotMira {
            url: self.base.to_string(),
            status: 200,
            start: error.to_string(),
        })
    }

    /// Sends until an answer comes that another try would not change, or the time is up.
    async fn send(&self, request: impl Fn() -> RequestBuilder) -> Result<Vec<u8>, CliError> {
        let deadline = Instant::now() + self.timeout;
        for attempt in 0.. {
            let left = deadline.saturating_duration_since(Instant::now());
            // The router gets the time that is left, so that it says itself what took too long; a little more is for
            // its answer to arrive.
            let request = request().header(TIMEOUT_MS, left.as_millis().max(1) as u64).timeout(left + ANSWER_GRACE);
            let failure = match self.try_once(request).await {
                Ok(body) => return Ok(body),
                Err(failure) => failure,
            };
            let pause = failure.retry_after.unwrap_or_default().max(backoff(attempt, rand::random()));
            if !failure.worth_retrying || Instant::now() + pause >= deadline {
                return Err(failure.error);
            }
            tokio::time::sleep(pause).await;
        }
        unreachable!("the tries are numbered without end")
    }

    async fn try_once(&self, request: RequestBuilder) -> Result<Vec<u8>, Failure> {
        let response = request.send().await.map_err(|error| self.no_answer(&error))?;
        if response.status().is_success() {
            return response.bytes().await.map(Into::into).map_err(|error| self.no_answer(&error));
        }
        Err(self.refused(response).await)
    }

    /// A request that broke off may have been applied; its key makes sending it again safe.
    fn no_answer(&self, error: &reqwest::Error) -> Failure {
        Failure {
            error: CliError::Unreachable { url: self.base.to_string(), cause: innermost(error) },
            worth_retrying: !error.is_builder() && !error.is_redirect(),
            retry_after: None,
        }
    }

    async fn refused(&self, response: Response) -> Failure {
        let status = response.status().as_u16();
        let retry_after = response
            .headers()
            .get(RETRY_AFTER)
            .and_then(|value| value.to_str().ok()?.parse().ok())
            .map(Duration::from_secs);
        let body = response.bytes().await.unwrap_or_default();
        let error = match serde_json::from_slice::<ProblemDocument>(&body) {
            Ok(document) => Problem::new(Code::parse(&document.code), document.detail).into(),
            Err(_) => CliError::NotMira { url: self.base.to_string(), status, start: excerpt(&body) },
        };
        // 502: a proxy in front of the routers lost its own. Not 504: the cluster has tried that long already.
        Failure { error, worth_retrying: matches!(status, 429 | 502 | 503), retry_after }
    }

    /// The address of what these parts of a path name. A name in it is one part, whatever it holds; one that would lead
    /// elsewhere is none.
    fn url(&self, path: &[&str]) -> Result<Url, CliError> {
        if let Some(part) = path.iter().find(|part| ["", ".", ".."].contains(part)) {
            return Err(CliError::Usage(format!("{part:?} names nothing: a path would lead elsewhere")));
        }
        let mut url = self.base.clone();
        // Checked in `new`: every http URL can be a base.
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().extend(path);
        }
        Ok(url)
    }

    /// The same, with another time for each request.
    pub fn within(&self, timeout: Duration) -> Self {
        Client { timeout, ..self.clone() }
    }
}

/// A try that did not succeed.
struct Failure {
    error: CliError,
    worth_retrying: bool,
    retry_after: Option<Duration>,
}

#[derive(serde::Deserialize)]
struct ProblemDocument {
    code: String,
    #[serde(default)]
    detail: String,
}

fn idempotency_key() -> String {
    uuid::Uuid::new_v4().to_string()
}

fn with_body<Q: Serialize>(request: RequestBuilder, body: Option<&Q>) -> RequestBuilder {
    match body {
        Some(body) => request.json(body),
        None => request,
    }
}

/// What the system said below the layers of HTTP: "Connection refused" rather than "error sending request".
fn innermost(error: &reqwest::Error) -> String {
    let mut cause = error.source();
    while let Some(next) = cause.and_then(|error| error.source()) {
        cause = Some(next);
    }
    cause.map_or_else(|| error.to_string(), ToString::to_string)
}

fn excerpt(body: &[u8]) -> String {
    let text = String::from_utf8_lossy(body);
    let line: String = text.trim().chars().take_while(|c| *c != '\n').take(120).collect();
    if line.is_empty() { "an empty body".to_owned() } else { line }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_become_one_path_segment() {
        let remote = Remote {
            url: "http://h/behind/a/proxy/".parse().unwrap(),
            token_file: Some("/dev/null".into()),
            owner_key_file: None,
            timeout: Duration::from_secs(1),
            json: false,
        };
        let client = Client::new(&remote).unwrap();
        let url = |name: &str| client.url(&["collections", name]).map(String::from);
        assert_eq!(url("a/b c").unwrap(), "http://h/behind/a/proxy/collections/a%2Fb%20c");
        for elsewhere in ["", ".", ".."] {
            assert!(matches!(url(elsewhere), Err(CliError::Usage(_))), "{elsewhere:?}");
        }
        assert_eq!(url("%2e%2e").unwrap(), "http://h/behind/a/proxy/collections/%252e%252e");
    }
}
