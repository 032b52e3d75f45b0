//! The REST client: one request, one typed answer, within one deadline.
//!
//! A request that found no router, or one that was too busy, is sent again until the deadline. Every write carries an
//! `Idempotency-Key` that stays the same over its tries, so that the cluster applies it once however often it arrives.

use std::error::Error as _;
use std::io::ErrorKind;
use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use mira_proto::model::{
    Collection, CollectionSettings, ErasuresReply, ForgetReply, ForgetRequest, GrowReply, GrowRequest, KeysReply,
    MovesSetting, NodeChange, NodeChangeReply, RecallReply, RecallRequest, RepositoriesReply, RotateReply,
    RotateRequest, ScanReply, ScanRequest, SearchReply, SearchRequest, SessionsReply, SessionsRequest, StatusReply,
    StatusRequest, StoreReply, StoreRequest, TuneReply, TuneRequest, UploadReply, UploadRequest, VerifyReply,
    VerifyRequest,
};
use mira_proto::{Code, Problem};
use prost::Message;
use reqwest::header::{
    AUTHORIZATION, CONTENT_TYPE, ETAG, HeaderMap, HeaderName, HeaderValue, IF_RANGE, RANGE, RETRY_AFTER,
};
use reqwest::{Method, RequestBuilder, Response, Url};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::time::Instant;
use uuid::Uuid;

use crate::args::{Remote, default_data_folder};
use crate::backoff::backoff;
use crate::error::CliError;

/// The header that bounds a request's time in the cluster, in milliseconds.
const TIMEOUT_MS: &str = "x-mira-timeout-ms";
/// The headers that carry the owner's key, or a passphrase in its place.
const OWNER_KEY: &str = "x-mira-owner-key";
const OWNER_PASSPHRASE: &str = "x-mira-owner-passphrase";

/// The header with what a reader has seen.
const CONSISTENCY_TOKEN: &str = "x-mira-consistency-token";

/// How much longer an answer may take to arrive than the cluster may take to give it.
const ANSWER_GRACE: Duration = Duration::from_secs(1);

/// A content on its way here.
pub struct Content {
    /// How many there are to come.
    pub bytes: u64,
    /// Names the version.
    pub etag: Option<String>,
    /// It begins with the first byte.
    pub is_whole: bool,
    url: String,
    response: Response,
}

impl Content {
    /// The next few bytes; none at the end.
    pub async fn next(&mut self) -> Result<Option<Bytes>, CliError> {
        let next = self.response.chunk().await;
        next.map_err(|error| CliError::Unreachable { url: self.url.clone(), cause: innermost(&error) })
    }
}

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
        if let Some(token) = find_token(remote)? {
            headers.insert(AUTHORIZATION, bearer(&token)?);
        }
        headers.extend(owner_header(remote)?);
        // The process-wide choice of TLS provider; a second client finds it made already, which is no error.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let mut builder =
            reqwest::Client::builder().default_headers(headers).user_agent(concat!("mira/", env!("CARGO_PKG_VERSION")));
        if base.scheme() == "http" {
            // Without TLS nobody needs the machine's root certificates, which take time to read and may be missing.
            builder = builder.tls_certs_only([]);
        }
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

    /// Stores one item or a batch.
    pub async fn store(&self, request: &StoreRequest) -> Result<StoreReply, CliError> {
        self.write(Method::POST, &["mcp", "store"], Some(request)).await
    }

    /// Searches.
    pub async fn search(&self, request: &SearchRequest) -> Result<SearchReply, CliError> {
        self.read(Method::POST, &["mcp", "search"], Some(request)).await
    }

    /// Recalls.
    pub async fn recall(&self, request: &RecallRequest) -> Result<RecallReply, CliError> {
        self.read(Method::POST, &["mcp", "recall"], Some(request)).await
    }

    /// Forgets.
    pub async fn forget(&self, request: &ForgetRequest) -> Result<ForgetReply, CliError> {
        self.write(Method::POST, &["mcp", "forget"], Some(request)).await
    }

    /// Begins an upload. The same key with the same request goes on with the upload that it began before.
    pub async fn begin_upload(
        &self,
        collection: &str,
        request: &UploadRequest,
        key: Option<&str>,
    ) -> Result<UploadReply, CliError> {
        let key = key.map_or_else(idempotency_key, str::to_owned);
        let url = self.url(&["collections", collection, "uploads"]);
        self.answer(|| self.http.post(url.clone()).json(request).header("idempotency-key", &key)).await
    }

    /// How far an upload has come.
    pub async fn upload(&self, collection: &str, upload: Uuid) -> Result<UploadReply, CliError> {
        self.read(Method::GET, &["collections", collection, "uploads", &upload.to_string()], None::<&()>).await
    }

    /// Adds bytes to an upload.
    pub async fn append(
        &self,
        collection: &str,
        upload: Uuid,
        offset: u64,
        bytes: Bytes,
    ) -> Result<UploadReply, CliError> {
        let url = self.url(&["collections", collection, "uploads", &upload.to_string()]);
        self.answer(|| self.http.patch(url.clone()).header("upload-offset", offset).body(bytes.clone())).await
    }

    /// Makes a frame of an upload.
    pub async fn finish_upload(&self, collection: &str, upload: Uuid) -> Result<UploadReply, CliError> {
        self.write(Method::POST, &["collections", collection, "uploads", &upload.to_string(), "finish"], None::<&()>)
            .await
    }

    /// A memory's content from a byte on; of another version than `etag`, all of it.
    pub async fn content(
        &self,
        collection: &str,
        id: Uuid,
        (from, etag): (u64, Option<&str>),
    ) -> Result<Content, CliError> {
        let mut request = self.http.get(self.url(&["collections", collection, "frames", &id.to_string(), "content"]));
        if let Some(etag) = etag {
            request = request.header(RANGE, format!("bytes={from}-")).header(IF_RANGE, etag);
        }
        let response = request.send().await.map_err(|error| self.no_answer(&error).error)?;
        if !response.status().is_success() {
            return Err(self.refused(response).await.error);
        }
        let text = |name| response.headers().get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
        Ok(Content {
            bytes: response.content_length().unwrap_or_default(),
            etag: text(ETAG),
            is_whole: response.status() == reqwest::StatusCode::OK,
            url: self.base.to_string(),
            response,
        })
    }

    /// The state of the cluster.
    pub async fn status(&self, request: &StatusRequest) -> Result<StatusReply, CliError> {
        let url = self.url(&["mcp", "status"]);
        self.answer(|| self.http.get(url.clone()).query(&[("detailed", request.detailed)])).await
    }

    /// Every collection.
    pub async fn collections(&self) -> Result<Vec<Collection>, CliError> {
        let reply: CollectionList = self.read(Method::GET, &["collections"], None::<&()>).await?;
        Ok(reply.collections)
    }

    /// One collection.
    pub async fn collection(&self, name: &str) -> Result<Collection, CliError> {
        self.read(Method::GET, &["collections", name], None::<&()>).await
    }

    /// A page of the sessions of a collection.
    pub async fn sessions(&self, name: &str, request: &SessionsRequest) -> Result<SessionsReply, CliError> {
        let url = self.url(&["collections", name, "sessions"]);
        self.answer(|| self.http.get(url.clone()).query(request)).await
    }

    /// A page of everything in a collection.
    pub async fn scan(&self, name: &str, request: &ScanRequest) -> Result<ScanReply, CliError> {
        let url = self.url(&["collections", name, "frames"]);
        self.answer(|| self.http.get(url.clone()).query(request)).await
    }

    /// Makes a collection; one that exists with the same settings is left as it is.
    pub async fn put_collection(&self, name: &str, settings: &CollectionSettings) -> Result<Collection, CliError> {
        self.write(Method::PUT, &["collections", name], Some(settings)).await
    }

    /// Spreads a collection over more shards, or says what that means.
    pub async fn grow_collection(&self, name: &str, request: &GrowRequest) -> Result<GrowReply, CliError> {
        self.write(Method::POST, &["collections", name, "grow"], Some(request)).await
    }

    /// Finds and sets the beam with which searches of a collection reach a recall.
    pub async fn tune_collection(&self, name: &str, request: &TuneRequest) -> Result<TuneReply, CliError> {
        self.write(Method::POST, &["collections", name, "tune"], Some(request)).await
    }

    /// Removes a collection with everything in it.
    pub async fn delete_collection(&self, name: &str) -> Result<(), CliError> {
        let key = idempotency_key();
        let url = self.url(&["collections", name]);
        self.send(|| self.http.delete(url.clone()).header("idempotency-key", &key)).await.map(drop)
    }

    /// Adds, drains, replaces or removes a storage node, or says what that would move.
    pub async fn change_node(&self, change: &NodeChange) -> Result<NodeChangeReply, CliError> {
        self.write(Method::POST, &["admin", "nodes"], Some(change)).await
    }

    /// Stops moves of replicas for now, or lets them go on.
    pub async fn set_moves(&self, setting: &MovesSetting) -> Result<MovesSetting, CliError> {
        self.write(Method::POST, &["admin", "moves"], Some(setting)).await
    }

    /// Compares what the replicas of shards hold.
    pub async fn verify(&self, request: &VerifyRequest) -> Result<VerifyReply, CliError> {
        self.read(Method::POST, &["admin", "shards", "verify"], Some(request)).await
    }

    /// Puts another passphrase in the place of the owner's.
    pub async fn change_passphrase(&self, new: &str) -> Result<(), CliError> {
        let mut new = HeaderValue::from_str(new)
            .map_err(|_| CliError::Usage("the new passphrase has characters that no header carries".to_owned()))?;
        new.set_sensitive(true);
        let url = self.url(&["owner", "passphrase"]);
        self.send(|| self.http.post(url.clone()).header("x-mira-new-passphrase", &new)).await.map(drop)
    }

    /// The cluster's keys, by name.
    pub async fn keys(&self) -> Result<KeysReply, CliError> {
        self.read(Method::GET, &["admin", "keys"], None::<&()>).await
    }

    /// Puts another key in the place of the cluster's or of a collection's.
    pub async fn rotate_key(&self, request: &RotateRequest) -> Result<RotateReply, CliError> {
        self.write(Method::POST, &["admin", "keys", "rotate"], Some(request)).await
    }

    /// Keys that end, and those that have.
    pub async fn erasures(&self) -> Result<ErasuresReply, CliError> {
        self.read(Method::GET, &["admin", "erasures"], None::<&()>).await
    }

    /// Places that hold backups.
    pub async fn repositories(&self) -> Result<RepositoriesReply, CliError> {
        self.read(Method::GET, &["admin", "repositories"], None::<&()>).await
    }

    /// One step of a backup or a restore. Each may be repeated.
    pub async fn backup_step<Q: Message, A: Message + Default>(&self, step: &str, request: &Q) -> Result<A, CliError> {
        let url = self.url(&["admin", "backup", step]);
        let body = bytes::Bytes::from(request.encode_to_vec());
        let post = || self.http.post(url.clone()).header(CONTENT_TYPE, "application/x-protobuf").body(body.clone());
        let answer = self.send(post).await?;
        A::decode(&answer[..]).map_err(|error| CliError::NotMira {
            url: self.base.to_string(),
            status: 200,
            start: error.to_string(),
        })
    }

    async fn write<Q: Serialize, A: DeserializeOwned>(
        &self,
        method: Method,
        path: &[&str],
        body: Option<&Q>,
    ) -> Result<A, CliError> {
        let key = idempotency_key();
        let url = self.url(path);
        self.answer(|| with_body(self.http.request(method.clone(), url.clone()), body).header("idempotency-key", &key))
            .await
    }

    async fn read<Q: Serialize, A: DeserializeOwned>(
        &self,
        method: Method,
        path: &[&str],
        body: Option<&Q>,
    ) -> Result<A, CliError> {
        let url = self.url(path);
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

    fn url(&self, path: &[&str]) -> Url {
        let mut url = self.base.clone();
        // Checked in `new`: every http URL can be a base.
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().extend(path);
        }
        url
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

#[derive(serde::Deserialize)]
struct CollectionList {
    collections: Vec<Collection>,
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

fn bearer(token: &str) -> Result<HeaderValue, CliError> {
    let mut value = HeaderValue::from_str(&format!("Bearer {token}"))
        .map_err(|_| CliError::Usage("the token has characters that no token has".to_owned()))?;
    value.set_sensitive(true);
    Ok(value)
}

/// MIRA_OWNER_KEY, else MIRA_OWNER_PASSPHRASE, else the key in the file named. Never an argument: other users of the
/// machine see those.
fn owner_header(remote: &Remote) -> Result<Option<(HeaderName, HeaderValue)>, CliError> {
    let set = |name: &str| std::env::var(name).ok().filter(|value| !value.trim().is_empty());
    let (name, secret) = match (set("MIRA_OWNER_KEY"), set("MIRA_OWNER_PASSPHRASE"), &remote.owner_key_file) {
        (Some(key), _, _) => (OWNER_KEY, key.trim().to_owned()),
        (None, Some(passphrase), _) => (OWNER_PASSPHRASE, passphrase),
        (None, None, Some(file)) => (OWNER_KEY, read_owner_key(file)?),
        (None, None, None) => return Ok(None),
    };
    let mut value = HeaderValue::from_str(&secret).map_err(|_| {
        CliError::Usage("the owner's key or passphrase has characters that no header carries".to_owned())
    })?;
    value.set_sensitive(true);
    Ok(Some((HeaderName::from_static(name), value)))
}

/// Refuses a key that others on this machine can read.
fn read_owner_key(file: &Path) -> Result<String, CliError> {
    let mode = std::fs::metadata(file).map_err(CliError::io(file))?.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        let detail = format!("others can read this key (mode {mode:03o}); run `chmod 600` on it");
        return Err(CliError::BadFile { path: file.into(), detail });
    }
    Ok(std::fs::read_to_string(file).map_err(CliError::io(file))?.trim().to_owned())
}

/// MIRA_TOKEN, else the file named, else what `mira dev` left for this machine.
pub fn find_token(remote: &Remote) -> Result<Option<String>, CliError> {
    if let Some(token) = std::env::var("MIRA_TOKEN").ok().filter(|token| !token.trim().is_empty()) {
        return Ok(Some(token.trim().to_owned()));
    }
    if let Some(file) = &remote.token_file {
        let token = std::fs::read_to_string(file).map_err(CliError::io(file))?;
        return Ok(Some(token.trim().to_owned()));
    }
    // Never to another machine: whoever listens there would learn the key to this one.
    if !is_loopback(&remote.url) {
        return Ok(None);
    }
    default_data_folder().map_or(Ok(None), |folder| read_if_there(&folder.join("token")))
}

fn read_if_there(file: &Path) -> Result<Option<String>, CliError> {
    match std::fs::read_to_string(file) {
        Ok(token) => Ok(Some(token.trim().to_owned())),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(CliError::io(file)(error)),
    }
}

fn is_loopback(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']);
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_this_machine_counts_as_loopback() {
        for (url, expected) in [
            ("http://127.0.0.1:7890", true),
            ("http://localhost:7890", true),
            ("http://[::1]:7890", true),
            ("https://memory.example.org", false),
            ("http://127.0.0.1.example.org", false),
            ("http://10.0.0.1", false),
        ] {
            assert_eq!(is_loopback(&url.parse().unwrap()), expected, "{url}");
        }
    }

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
        assert_eq!(client.url(&["collections", "a/b c"]).as_str(), "http://h/behind/a/proxy/collections/a%2Fb%20c");
    }
}
