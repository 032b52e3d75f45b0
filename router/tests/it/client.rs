//! A router in front of a fake cluster, and plain HTTP to talk to it.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::BodyExt;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use mira_embed::{Embedder, HashEmbedder};
use mira_router::{Router, RouterConfig, RunningRouter};
use serde_json::Value;

use mira_testing::FakeCluster;

pub const TOKEN: &str = "test-token";
/// Components of the test embedder's vectors.
pub const DIM: usize = 32;

/// A cluster, a router, a client.
pub struct World {
    pub fake: FakeCluster,
    pub router: RunningRouter,
    http: Client<HttpConnector, Body>,
}

/// An answer.
#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub text: String,
}

impl Answer {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// The JSON of an answer that must be good.
    #[track_caller]
    pub fn ok(&self) -> Value {
        assert_eq!(self.status, StatusCode::OK, "{}", self.text);
        self.json()
    }

    /// The code of a problem, whose document is checked for form.
    #[track_caller]
    pub fn code(&self) -> String {
        assert_eq!(self.headers["content-type"], "application/problem+json", "{self:?}");
        let document = self.json();
        assert_eq!(document["status"], self.status.as_u16(), "{document}");
        let code = document["code"].as_str().unwrap().to_owned();
        assert!(document["type"].as_str().unwrap().ends_with(&format!("/{code}")), "{document}");
        assert!(!document["detail"].as_str().unwrap().is_empty());
        code
    }

    pub fn detail(&self) -> String {
        self.json()["detail"].as_str().unwrap_or_default().to_owned()
    }
}

pub fn config(fake: &FakeCluster) -> RouterConfig {
    let embedder: Arc<dyn Embedder> = Arc::new(HashEmbedder::with_max_words(DIM, 64));
    RouterConfig {
        nodes: fake.addresses(),
        http: "127.0.0.1:0".parse().unwrap(),
        grpc: "127.0.0.1:0".parse().unwrap(),
        tokens: vec![TOKEN.into()],
        embedder: Some(embedder),
        ..RouterConfig::default()
    }
}

impl World {
    /// Three nodes, four shards, a router with the test embedder.
    pub async fn new() -> World {
        World::with(|_| {}).await
    }

    pub async fn with(change: impl FnOnce(&mut RouterConfig)) -> World {
        World::over(FakeCluster::start(3, 4).await, change).await
    }

    /// A router over this cluster. One that takes other tokens than [`TOKEN`] is ready as well: `/readyz` is open.
    pub async fn over(fake: FakeCluster, change: impl FnOnce(&mut RouterConfig)) -> World {
        let mut config = config(&fake);
        change(&mut config);
        let router = Router::start(config).await.unwrap();
        let http = Client::builder(TokioExecutor::new()).build_http();
        let world = World { fake, router, http };
        world.until_ready().await;
        world
    }

    /// The same cluster behind another router.
    pub async fn with_router(self, config: RouterConfig) -> World {
        let router = Router::start(config).await.unwrap();
        let world = World { router, ..self };
        world.until_ready().await;
        world
    }

    async fn until_ready(&self) {
        for _ in 0..500 {
            if self.get("/readyz").await.status == StatusCode::OK {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("the router is not ready: {:?}", self.get("/readyz").await);
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.router.http_addr)
    }

    /// Sends exactly this, with the token added unless there is an authorization already.
    pub async fn send(&self, mut request: Request<Body>) -> Answer {
        let bearer = format!("Bearer {TOKEN}").parse().unwrap();
        request.headers_mut().entry("authorization").or_insert(bearer);
        let response = self.http.request(request).await.unwrap();
        let (parts, body) = response.into_parts();
        let bytes = body.collect().await.unwrap().to_bytes();
        Answer { status: parts.status, headers: parts.headers, text: String::from_utf8(bytes.to_vec()).unwrap() }
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.send(Request::get(self.url(path)).body(Body::empty()).unwrap()).await
    }

    pub async fn post(&self, path: &str, body: Value) -> Answer {
        self.post_with(path, body, &[]).await
    }

    pub async fn post_with(&self, path: &str, body: Value, headers: &[(&str, &str)]) -> Answer {
        self.request(Method::POST, path, body.to_string(), headers).await
    }

    pub async fn request(&self, method: Method, path: &str, body: impl Into<Body>, headers: &[(&str, &str)]) -> Answer {
        let mut request =
            Request::builder().method(method).uri(self.url(path)).header("content-type", "application/json");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        self.send(request.body(body.into()).unwrap()).await
    }

    /// Makes the passphrase record of an owner.
    pub async fn create_passphrase(&self, owner: &[(&str, &str)]) {
        let made = self.request(Method::PUT, "/owner/passphrase", "", owner).await;
        assert_eq!(made.status, StatusCode::NO_CONTENT, "{}", made.text);
    }

    /// Makes a collection spread over `partitions` shards.
    pub async fn collection(&self, name: &str, partitions: u32) {
        let settings = serde_json::json!({ "partitions": partitions });
        self.request(Method::PUT, &format!("/collections/{name}"), settings.to_string(), &[]).await.ok();
    }

    /// Stores texts in one batch and returns their ids.
    pub async fn store_all(&self, collection: &str, texts: &[&str]) -> Vec<String> {
        let items: Vec<Value> =
            texts.iter().map(|text| serde_json::json!({ "content": text, "collection": collection })).collect();
        let reply = self.post("/mcp/store", serde_json::json!({ "items": items })).await.ok();
        let items = reply["items"].as_array().unwrap();
        items.iter().map(|item| item["id"].as_str().unwrap_or_else(|| panic!("{item}")).to_owned()).collect()
    }
}
