//! A router over a cluster in memory, and a way to run the program against it.
//!
//! The router is the one that ships. Between it and the program stands a [`Proxy`], which writes down what was asked and
//! has bad days on demand; the cluster behind it has those of storage nodes.

pub mod proxy;

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::{Command, Output};
use std::sync::{Arc, MutexGuard};
use std::time::Duration;

use mira_embed::HashEmbedder;
use mira_net::rest::client_builder_for;
use mira_router::{Router, RouterConfig, RunningRouter};
use mira_testing::{FakeCluster, eventually};
use reqwest::{Client, Method, RequestBuilder};
use serde_json::{Value, json};
use uuid::Uuid;

use proxy::{Conduct, Proxy};

/// The token that the router lets in.
const TOKEN: &str = "secret";
/// The key of everybody's private memories.
const OWNER_KEY: &str = mira_testing::keys::KEY;
/// Components of the test embedder's vectors.
const DIM: usize = 16;

/// A cluster of two nodes and eight shards with a router in front.
pub struct Server {
    /// Where the program finds it.
    pub address: SocketAddr,
    pub cluster: FakeCluster,
    proxy: Proxy,
    router: SocketAddr,
    http: Client,
    // Dropped last: everything above runs on it.
    _router: RunningRouter,
    runtime: tokio::runtime::Runtime,
}

impl Server {
    pub fn start() -> Server {
        Server::start_at((Ipv4Addr::LOCALHOST, 0).into())
    }

    pub fn start_at(address: SocketAddr) -> Server {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        runtime.block_on(async { Server::serve(address).await }).with(runtime)
    }

    async fn serve(address: SocketAddr) -> Parts {
        let cluster = FakeCluster::start(2, 8).await;
        let any_port = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let config = RouterConfig {
            nodes: cluster.addresses(),
            http: any_port,
            grpc: any_port,
            tokens: vec![TOKEN.into()],
            embedder: Some(Arc::new(HashEmbedder::new(DIM))),
            ..RouterConfig::default()
        };
        let router = Router::start(config).await.unwrap();
        let ready = format!("http://{}/readyz", router.http_addr);
        let http = client_builder_for(&ready).build().unwrap();
        eventually("the router is ready", Duration::from_secs(30), async || {
            http.get(&ready).send().await.is_ok_and(|answer| answer.status().is_success())
        })
        .await;
        let proxy = Proxy::start(address, router.http_addr, http.clone()).await;
        Parts { cluster, proxy, router, http }
    }

    /// How the proxy behaves, and what it saw.
    pub fn conduct(&self) -> MutexGuard<'_, Conduct> {
        self.proxy.conduct()
    }

    /// Runs the program against this server, in `folder`, with nothing of the caller's environment but the path.
    pub fn mira(&self, folder: &Path, args: &[&str]) -> Output {
        mira(self.address, folder, args)
    }

    /// Stores a memory in a collection, without the program.
    pub fn store(&self, collection: &str, item: Value) {
        let path = "mcp/store".to_owned();
        let mut item = item;
        item["collection"] = collection.into();
        self.ask(Method::POST, path, |request| request.json(&item));
    }

    /// Forgets a memory, without the program.
    pub fn forget(&self, collection: &str, id: &str) {
        self.ask(Method::POST, "mcp/forget".to_owned(), |request| {
            request.json(&json!({ "collection": collection, "id": id }))
        });
    }

    /// Stores a memory with a file, without the program.
    pub fn upload(&self, collection: &str, frame: &Value, content_type: &str, bytes: &[u8]) {
        let begun = json!({ "frame": frame, "content_type": content_type, "size": bytes.len() });
        let begun = self.ask(Method::POST, format!("collections/{collection}/uploads"), |request| {
            request.json(&begun).header("idempotency-key", Uuid::new_v4().to_string())
        });
        let upload = format!("collections/{collection}/uploads/{}", begun["upload"].as_str().unwrap());
        for (number, step) in bytes.chunks(STEP).enumerate() {
            let offset = number * STEP;
            self.ask(Method::PATCH, upload.clone(), |request| {
                request.header("upload-offset", offset).body(step.to_vec())
            });
        }
        self.ask(Method::POST, format!("{upload}/finish"), |request| request);
    }

    /// The memories of all collections, each with the name of its collection, by id; without what imports note of them.
    pub fn frames(&self) -> Vec<(String, Value)> {
        let collections = self.ask(Method::GET, "collections".to_owned(), |request| request);
        let names = collections["collections"].as_array().unwrap().iter();
        let mut frames: Vec<(String, Value)> = Vec::new();
        for name in names.map(|collection| collection["name"].as_str().unwrap()) {
            let page = self
                .ask(Method::GET, format!("collections/{name}/frames"), |request| request.query(&[("limit", "1000")]));
            assert!(page["next"].is_null(), "a test has few frames");
            frames.extend(page["frames"].as_array().unwrap().iter().map(|frame| (name.to_owned(), frame.clone())));
        }
        frames.retain(|(_, frame)| frame["type"] != "import-manifest");
        frames.sort_by_key(|(_, frame)| frame["id"].as_str().unwrap().to_owned());
        frames
    }

    /// Texts that the router has embedded so far.
    pub fn embedded_texts(&self) -> u64 {
        let request = self.request(Method::GET, "metrics".to_owned());
        let metrics = self.runtime.block_on(async { request.send().await.unwrap().text().await.unwrap() });
        let line = metrics.lines().find(|line| line.starts_with("mira_router_embedded_texts_total "));
        line.expect("a metric").split_whitespace().last().unwrap().parse().unwrap()
    }

    /// The file of a memory.
    pub fn content(&self, collection: &str, id: Uuid) -> Vec<u8> {
        let request = self.request(Method::GET, format!("collections/{collection}/frames/{id}/content"));
        self.runtime.block_on(async { request.send().await.unwrap().bytes().await.unwrap().to_vec() })
    }

    /// Asks the router itself, past the proxy; the answer must be good.
    fn ask(&self, method: Method, path: String, build: impl Fn(RequestBuilder) -> RequestBuilder) -> Value {
        let request = build(self.request(method, path.clone()));
        self.runtime.block_on(async {
            let answer = request.send().await.unwrap();
            let (status, body) = (answer.status(), answer.bytes().await.unwrap());
            assert!(status.is_success(), "{path}: {status}: {}", text(&body));
            serde_json::from_slice(&body).unwrap()
        })
    }

    fn request(&self, method: Method, path: String) -> RequestBuilder {
        let request = self.http.request(method, format!("http://{}/{path}", self.router));
        request.bearer_auth(TOKEN).header("x-mira-owner-key", OWNER_KEY)
    }
}

/// A server without its runtime.
struct Parts {
    cluster: FakeCluster,
    proxy: Proxy,
    router: RunningRouter,
    http: Client,
}

impl Parts {
    fn with(self, runtime: tokio::runtime::Runtime) -> Server {
        let Parts { cluster, proxy, router, http } = self;
        let (address, router_address) = (proxy.address, router.http_addr);
        Server { address, cluster, proxy, router: router_address, http, _router: router, runtime }
    }
}

/// Bytes of a step of an upload.
pub const STEP: usize = 4 << 20;

pub fn mira(address: SocketAddr, folder: &Path, args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_mira"))
        .args(args)
        .current_dir(folder)
        .env_clear()
        .env("HOME", folder)
        .env("MIRA_URL", format!("http://{address}"))
        .env("MIRA_TOKEN", TOKEN)
        .env("MIRA_OWNER_KEY", OWNER_KEY)
        .stdin(std::process::Stdio::null())
        .output()
        .unwrap()
}

pub fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}
