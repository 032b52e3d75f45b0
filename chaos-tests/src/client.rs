//! A caller over REST, as an agent's client would be: retries what may be retried, until its patience ends.

use std::time::{Duration, Instant};

use mira_proto::model::{NodeChange, NodeChangeReply};
use serde_json::{Value, json};

/// Talks to one or several routers.
#[derive(Clone)]
pub struct Client {
    http: reqwest::Client,
    routers: Vec<String>,
    token: String,
    /// How long a call is tried again.
    pub patience: Duration,
}

/// Why a call failed for good.
#[derive(Debug, Clone, PartialEq)]
pub struct Failure {
    /// HTTP status; 0 when no router could be reached.
    pub status: u16,
    /// The problem document, or what the connection said.
    pub problem: Value,
}

impl Failure {
    /// The problem's code.
    pub fn code(&self) -> &str {
        self.problem["code"].as_str().unwrap_or_default()
    }
}

/// What one try without retries came to.
#[derive(Debug, Clone, PartialEq)]
pub enum Attempt {
    /// The answer.
    Done(Value),
    /// A problem that says that nothing was done, or no connection.
    Refused(Failure),
    /// A timeout, a connection lost on the way, or an internal error: it may have been done.
    Unknown(Failure),
}

/// What travels with one try.
#[derive(Debug, Clone, Default)]
pub struct Try<'a> {
    /// Which of the client's routers is asked.
    pub router: usize,
    /// How long the router may take.
    pub timeout: Duration,
    /// A consistency token to send back.
    pub token: Option<&'a str>,
}

/// What a client waits for an answer beyond what it gave the router.
const GRACE: Duration = Duration::from_secs(4);

impl Client {
    /// Tries once and says what is known of the outcome.
    pub async fn attempt(&self, tool: &str, body: &Value, how: Try<'_>) -> Attempt {
        let router = &self.routers[how.router % self.routers.len()];
        let mut request = self
            .http
            .post(format!("{router}/mcp/{tool}"))
            .bearer_auth(&self.token)
            .timeout(how.timeout + GRACE)
            .header("x-mira-timeout-ms", how.timeout.as_millis() as u64)
            .json(body);
        if let Some(token) = how.token {
            request = request.header("x-mira-consistency-token", token);
        }
        let response = match request.send().await {
            Ok(response) => response,
            Err(error) if error.is_connect() => return Attempt::Refused(lost(error)),
            Err(error) => return Attempt::Unknown(lost(error)),
        };
        let status = response.status().as_u16();
        let body: Value = match response.json().await {
            Ok(body) => body,
            Err(error) => return Attempt::Unknown(lost(error)),
        };
        match status {
            200..300 => Attempt::Done(body),
            // The specification's promise: these did nothing.
            400..500 | 503 => Attempt::Refused(Failure { status, problem: body }),
            _ => Attempt::Unknown(Failure { status, problem: body }),
        }
    }

    /// How many routers it knows.
    pub fn routers(&self) -> usize {
        self.routers.len()
    }

    /// A client that asks the first router that answers.
    pub fn new(routers: Vec<String>, token: &str) -> Self {
        // Plain HTTP on loopback, but the client is built for TLS too. A second install in one process is refused: fine.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let http = reqwest::Client::builder().timeout(Duration::from_secs(60)).no_proxy().build().expect("a client");
        Client { http, routers, token: token.to_owned(), patience: Duration::from_secs(30) }
    }

    /// A collection as some router knows it.
    pub async fn collection(&self, name: &str) -> Result<Value, Failure> {
        let mut last = Failure { status: 0, problem: Value::Null };
        for router in &self.routers {
            let request = self.http.get(format!("{router}/collections/{name}")).bearer_auth(&self.token);
            match answer(request).await {
                Ok(found) => return Ok(found),
                Err(failure) => last = failure,
            }
        }
        Err(last)
    }

    /// Asks every router in turn to grow a collection, until one has it done or refuses.
    pub async fn grow(&self, name: &str, partitions: u32) -> Result<Value, Failure> {
        let mut last = Failure { status: 0, problem: Value::Null };
        for router in &self.routers {
            let request = self.http.post(format!("{router}/collections/{name}/grow")).bearer_auth(&self.token);
            match answer(request.json(&json!({ "partitions": partitions }))).await {
                Err(failure) if retryable(failure.status) => last = failure,
                done => return done,
            }
        }
        Err(last)
    }

    /// Calls a tool once, on the first router.
    pub async fn once(&self, tool: &str, body: &Value) -> Result<Value, Failure> {
        self.post(&self.routers[0], tool, body, None).await
    }

    /// Calls a tool once, giving the router so many milliseconds.
    pub async fn once_within(&self, tool: &str, body: &Value, timeout_ms: u64) -> Result<Value, Failure> {
        let request = self.http.post(format!("{}/mcp/{tool}", self.routers[0])).bearer_auth(&self.token);
        answer(request.header("x-mira-timeout-ms", timeout_ms).json(body)).await
    }

    async fn post(&self, router: &str, tool: &str, body: &Value, key: Option<&str>) -> Result<Value, Failure> {
        let mut request = self.http.post(format!("{router}/mcp/{tool}")).bearer_auth(&self.token).json(body);
        if let Some(key) = key {
            request = request.header("idempotency-key", key);
        }
        answer(request).await
    }

    /// Calls a tool until it succeeds, is refused for good, or patience ends. Safe for writes: each try carries the
    /// same idempotency key.
    pub async fn call(&self, tool: &str, body: &Value) -> Result<Value, Failure> {
        let started = Instant::now();
        let key = uuid::Uuid::new_v4().to_string();
        for attempt in 0.. {
            let router = &self.routers[attempt % self.routers.len()];
            match self.post(router, tool, body, Some(&key)).await {
                Err(failure) if retryable(failure.status) && started.elapsed() < self.patience => {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
                done => return done,
            }
        }
        unreachable!("the loop has no end")
    }

    /// Stores one frame and returns its id.
    pub async fn store(&self, body: &Value) -> Result<String, Failure> {
        let reply = self.call("store", body).await?;
        Ok(reply["id"].as_str().expect("a stored frame has an id").to_owned())
    }

    /// GET of a path, as text.
    pub async fn get(&self, path: &str) -> Result<(u16, String), Failure> {
        let request = self.http.get(format!("{}{path}", self.routers[0])).bearer_auth(&self.token);
        let response = request.send().await.map_err(lost)?;
        Ok((response.status().as_u16(), response.text().await.map_err(lost)?))
    }

    /// Asks for a change of the nodes, or, with `dry_run`, what it would move.
    pub async fn change_node(&self, change: &NodeChange) -> Result<NodeChangeReply, Failure> {
        let url = format!("{}/admin/nodes", self.routers[0]);
        let reply = answer(self.http.post(url).bearer_auth(&self.token).json(change)).await?;
        serde_json::from_value(reply)
            .map_err(|error| Failure { status: 0, problem: json!({ "detail": error.to_string() }) })
    }

    /// PUT of a collection.
    pub async fn put_collection(&self, name: &str, settings: &Value) -> Result<Value, Failure> {
        let started = Instant::now();
        loop {
            let url = format!("{}/collections/{name}", self.routers[0]);
            match answer(self.http.put(url).bearer_auth(&self.token).json(settings)).await {
                Err(failure) if retryable(failure.status) && started.elapsed() < self.patience => {
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
                done => return done,
            }
        }
    }
}

async fn answer(request: reqwest::RequestBuilder) -> Result<Value, Failure> {
    let response = request.send().await.map_err(lost)?;
    let status = response.status();
    let body: Value = response.json().await.map_err(lost)?;
    if status.is_success() { Ok(body) } else { Err(Failure { status: status.as_u16(), problem: body }) }
}

fn lost(error: reqwest::Error) -> Failure {
    Failure { status: 0, problem: json!({ "detail": error.to_string() }) }
}

/// No router, no quorum, no room, no time: worth another try.
fn retryable(status: u16) -> bool {
    matches!(status, 0 | 429 | 503 | 504)
}
