//! What stands between the program and the router: it relays, writes down what was asked, and breaks what it is told to.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::Response;
use bytes::Bytes;
use mira_proto::{Code, Problem};
use reqwest::Client;
use serde_json::{Value, json};
use uuid::Uuid;

/// The largest body that is relayed.
const MAX_BODY: usize = 32 << 20;

/// What the proxy was told to do wrong, and what it saw.
#[derive(Default)]
pub struct Conduct {
    /// Method, path and idempotency key of every request.
    pub requests: Vec<(String, String, Option<String>)>,
    /// Every search, also those of batches, as it arrived.
    pub searches: Vec<Value>,
    /// Searches of every batch.
    pub batch_sizes: Vec<usize>,
    /// Items of every `store` that was let through.
    pub store_sizes: Vec<usize>,
    /// Bytes that came in uploads.
    pub uploaded_bytes: u64,
    /// Contents that were read.
    pub contents_read: usize,
    /// The next so many requests are answered with this problem.
    pub failing: Option<(u32, Code)>,
    /// After so many more stores every request is refused with `internal`.
    pub breaks_after_stores: Option<u32>,
    /// After so many more steps of uploads every request is refused with `internal`.
    pub breaks_after_steps: Option<u32>,
    /// Every n-th request is `unavailable`.
    pub every_nth_unavailable: Option<usize>,
    /// More items than this take too long.
    pub most_items_in_time: Option<usize>,
    /// A text that begins with this takes too long.
    pub never_in_time: Option<String>,
    /// A request with a text that begins with this is refused as a whole.
    pub spoils_its_request: Option<String>,
    /// The times that stores were given, in milliseconds.
    pub times_given: Vec<u64>,
    /// The next content that is read is of a frame that is replaced before it can be looked at again.
    pub replaces_while_read: Option<Vec<u8>>,
    /// Idempotency keys in the order in which they came.
    keys: BTreeMap<String, usize>,
}

/// A proxy that serves.
pub struct Proxy {
    pub address: SocketAddr,
    conduct: Arc<Mutex<Conduct>>,
}

/// What a request is relayed with.
#[derive(Clone)]
struct Relay {
    conduct: Arc<Mutex<Conduct>>,
    router: SocketAddr,
    http: Client,
}

impl Proxy {
    pub async fn start(address: SocketAddr, router: SocketAddr, http: Client) -> Proxy {
        let conduct = Arc::<Mutex<Conduct>>::default();
        let listener = tokio::net::TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let app = Router::new().fallback(relay).with_state(Relay { conduct: conduct.clone(), router, http });
        tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
        Proxy { address, conduct }
    }

    pub fn conduct(&self) -> MutexGuard<'_, Conduct> {
        self.conduct.lock().unwrap()
    }
}

/// What one request is, for those who look at it.
struct Asked<'a> {
    method: &'a str,
    path: &'a str,
    body: &'a Bytes,
}

impl Asked<'_> {
    fn json(&self) -> Value {
        serde_json::from_slice(self.body).unwrap_or_default()
    }

    fn is_content(&self) -> bool {
        self.method == "GET" && self.path.ends_with("/content")
    }

    fn is_step(&self) -> bool {
        self.method == "PATCH" && self.path.contains("/uploads/")
    }
}

async fn relay(State(relay): State<Relay>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let body = to_bytes(body, MAX_BODY).await.unwrap();
    let path = parts.uri.path_and_query().map(ToString::to_string).unwrap_or_default();
    let method = parts.method.to_string();
    let asked = Asked { method: &method, path: &path, body: &body };
    let mut headers = parts.headers;
    let looked_at = relay.conduct.lock().unwrap().look_at(&asked, &mut headers);
    if let Err(problem) = looked_at {
        return refused(&problem);
    }
    headers.remove("host");
    let request = relay.http.request(parts.method, format!("http://{}{path}", relay.router));
    let answer = request.headers(headers.clone()).body(body.clone()).send().await.unwrap();
    let (status, mut answered) = (answer.status(), answer.headers().clone());
    answered.remove("transfer-encoding");
    let body = answer.bytes().await.unwrap();
    let replacement = if asked.is_content() { relay.conduct.lock().unwrap().replaces_while_read.take() } else { None };
    if let Some(bytes) = replacement {
        relay.replace(&path, headers, bytes).await;
    }
    let mut response = Response::new(Body::from(body));
    (*response.status_mut(), *response.headers_mut()) = (status, answered);
    response
}

fn refused(problem: &Problem) -> Response {
    let mut response = Response::new(Body::from(problem.to_json().to_string()));
    *response.status_mut() = StatusCode::from_u16(problem.code.http_status()).unwrap();
    response.headers_mut().insert("content-type", HeaderValue::from_static("application/problem+json"));
    response
}

impl Conduct {
    /// Writes a request down, and refuses it if it was to be refused. Its idempotency key becomes a number, so that the ids
    /// that the router makes of it are the same in every run.
    fn look_at(&mut self, asked: &Asked<'_>, headers: &mut HeaderMap) -> Result<(), Problem> {
        let key = headers.get("idempotency-key").map(|value| value.to_str().unwrap().to_owned());
        if let Some(key) = &key {
            let next = self.keys.len() + 1;
            let number = *self.keys.entry(key.clone()).or_insert(next);
            headers.insert("idempotency-key", HeaderValue::from_str(&format!("key {number}")).unwrap());
        }
        self.requests.push((asked.method.to_owned(), asked.path.to_owned(), key));
        self.refuse_at_all()?;
        match asked.path {
            "/mcp/store" => {
                let time = headers.get("x-mira-timeout-ms").and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
                self.times_given.extend(time);
                self.look_at_store(&asked.json())?;
            }
            "/mcp/search" => self.look_at_search(asked.json()),
            _ if asked.is_content() => self.contents_read += 1,
            _ if asked.is_step() => {
                self.uploaded_bytes += asked.body.len() as u64;
                if let Some(left) = &mut self.breaks_after_steps {
                    *left -= 1;
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn refuse_at_all(&mut self) -> Result<(), Problem> {
        if let Some((left, code)) = &mut self.failing
            && *left > 0
        {
            *left -= 1;
            return Err(Problem::new(*code, "told to fail"));
        }
        if self.breaks_after_stores == Some(0) || self.breaks_after_steps == Some(0) {
            return Err(Problem::internal("told to break"));
        }
        if self.every_nth_unavailable.is_some_and(|nth| self.requests.len().is_multiple_of(nth)) {
            return Err(Problem::new(Code::Unavailable, "told to be away now and then"));
        }
        Ok(())
    }

    fn look_at_store(&mut self, request: &Value) -> Result<(), Problem> {
        if let Some(left) = &mut self.breaks_after_stores {
            *left -= 1;
        }
        let begins = |item: &Value, with: &Option<String>| {
            let content = item["content"].as_str().unwrap_or_default();
            with.as_ref().is_some_and(|with| content.starts_with(with))
        };
        let has =
            |with: &Option<String>| request["items"].as_array().into_iter().flatten().any(|item| begins(item, with));
        if has(&self.never_in_time) {
            return Err(Problem::new(Code::DeadlineExceeded, "a text was not embedded before the deadline"));
        }
        if has(&self.spoils_its_request) {
            return Err(Problem::invalid("told to refuse all of it"));
        }
        let Some(items) = request["items"].as_array().map(Vec::len) else { return Ok(()) };
        if self.most_items_in_time.is_some_and(|most| items > most) {
            return Err(Problem::new(Code::DeadlineExceeded, "too many items for the time given"));
        }
        self.store_sizes.push(items);
        Ok(())
    }

    fn look_at_search(&mut self, request: Value) {
        match request["searches"].as_array() {
            Some(searches) => {
                self.batch_sizes.push(searches.len());
                self.searches.extend(searches.iter().cloned());
            }
            None => self.searches.push(request),
        }
    }
}

impl Relay {
    /// Puts another file in the place of the one whose content was read.
    async fn replace(&self, path: &str, mut headers: HeaderMap, bytes: Vec<u8>) {
        let (frame, _) = path.rsplit_once("/content").unwrap();
        let (collection, id) = frame.rsplit_once("/frames/").unwrap();
        for name in ["range", "if-range"] {
            headers.remove(name);
        }
        headers.insert("idempotency-key", HeaderValue::from_str(&Uuid::new_v4().to_string()).unwrap());
        let uploads = format!("http://{}{collection}/uploads", self.router);
        let begun =
            json!({ "frame": { "id": id, "replace": true }, "content_type": "text/plain", "size": bytes.len() });
        let begun = self.http.post(&uploads).headers(headers.clone()).json(&begun).send().await.unwrap();
        let begun: Value = begun.error_for_status().unwrap().json().await.unwrap();
        let upload = format!("{uploads}/{}", begun["upload"].as_str().unwrap());
        let step = self.http.patch(&upload).headers(headers.clone()).header("upload-offset", 0).body(bytes);
        step.send().await.unwrap().error_for_status().unwrap();
        let finish = self.http.post(format!("{upload}/finish")).headers(headers);
        finish.send().await.unwrap().error_for_status().unwrap();
    }
}
