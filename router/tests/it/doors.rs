//! What the router says it offers, and what texts say it offers, is there.
//!
//! Everything here is asked of a running router: its own description of REST, its own list of tools, and the paths and tools
//! that the README, the documents and the shell name. Nothing reads the table that they are made of.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use axum::body::Body;
use axum::http::{Method, Request, StatusCode};
use serde_json::{Value, json};

use crate::client::{Answer, World};
use crate::mcp;

/// What headers hold that an operation cannot do without.
const HEADERS: [(&str, &str); 3] =
    [("x-mira-owner-passphrase", "old"), ("x-mira-new-passphrase", "new"), ("Upload-Offset", "0")];

/// A world with one of everything that a path may name.
struct Furnished {
    world: World,
    frame: String,
    upload: String,
    node: String,
}

impl Furnished {
    async fn new() -> Furnished {
        let furnished =
            Furnished { world: World::new().await, frame: String::new(), upload: String::new(), node: String::new() };
        furnished.again().await
    }

    /// The same, with what earlier calls may have removed.
    async fn again(self) -> Furnished {
        let world = self.world;
        if world.get("/collections/notes").await.status == StatusCode::NOT_FOUND {
            world.collection("notes", 1).await;
        }
        let frame = world.store_all("notes", &["green tea"]).await.remove(0);
        let begun = world.post("/collections/notes/uploads", json!({ "frame": { "content": "about it" } })).await;
        assert_eq!(begun.status, StatusCode::CREATED, "{}", begun.text);
        let upload = begun.json()["upload"].as_str().unwrap().to_owned();
        let node = world.get("/mcp/status").await.ok()["nodes"][0]["id"].as_str().unwrap().to_owned();
        Furnished { world, frame, upload, node }
    }

    /// A path with something that exists in every place that stands for something.
    fn filled(&self, path: &str) -> String {
        let mut before = "";
        let fill = |segment| {
            let filled = match (before, is_placeholder(segment)) {
                ("collections", true) => "notes",
                ("frames", true) => &self.frame,
                ("uploads", true) => &self.upload,
                ("backup", true) => "begin-backup",
                (_, true) => panic!("{path}: what does {segment} stand for?"),
                (_, false) => segment,
            };
            before = segment;
            filled
        };
        path.split('/').map(fill).collect::<Vec<_>>().join("/")
    }

    /// A small body that the operation understands: what its schema requires, and where that does not say it all, what it
    /// asks for in words.
    fn body(&self, method: &str, path: &str, document: &Value, schema: &Value) -> Value {
        match (method, path) {
            ("POST", "/mcp/store") => json!({ "content": "green tea" }),
            ("POST", "/mcp/search") => json!({ "query": "tea" }),
            ("POST", "/mcp/recall" | "/mcp/forget") => json!({ "session": "talk" }),
            ("POST", "/mcp/change") => json!({ "action": "restore", "id": self.frame, "collection": "notes" }),
            ("POST", "/collections/notes/grow") => json!({ "partitions": 4 }),
            ("POST", "/collections/notes/uploads") => json!({ "frame": { "content": "about it" } }),
            ("POST", "/admin/nodes") => json!({ "action": "drain", "node": self.node, "dry_run": true }),
            _ => required(document, schema),
        }
    }

    /// Calls an operation of the description, with a body as it is described.
    async fn call(&self, method: &str, path: &str, document: &Value, operation: &Value) -> Answer {
        let content = operation["requestBody"]["content"].as_object().and_then(|content| content.iter().next());
        let (media_type, body) = match content {
            Some((json, content)) if json == "application/json" => {
                let body = self.body(method, path, document, &content["schema"]);
                (Some(json.as_str()), Body::from(body.to_string()))
            }
            Some((other, _)) => (Some(other.as_str()), Body::empty()),
            None => (None, Body::empty()),
        };
        let mut request = self.request(method, path);
        if let Some(media_type) = media_type {
            request = request.header("content-type", media_type);
        }
        for parameter in operation["parameters"].as_array().into_iter().flatten() {
            if parameter["in"] == "header" && parameter["required"] == true {
                let (name, value) = HEADERS.into_iter().find(|(name, _)| parameter["name"] == *name).unwrap();
                request = request.header(name, value);
            }
        }
        self.world.send(request.body(body).unwrap()).await
    }

    fn request(&self, method: &str, path: &str) -> axum::http::request::Builder {
        Request::builder().method(method).uri(self.world.url(path))
    }

    /// A method that no operation has: a path that is there does not take it, and one that is not there is not found.
    async fn options(&self, path: &str) -> StatusCode {
        self.world.send(self.request("OPTIONS", path).body(Body::empty()).unwrap()).await.status
    }
}

/// The least document that a schema allows.
fn required(document: &Value, schema: &Value) -> Value {
    if let Some(reference) = schema["$ref"].as_str() {
        return required(document, document.pointer(reference.trim_start_matches('#')).unwrap());
    }
    if let Some(first) = schema["enum"].as_array().and_then(|values| values.first()) {
        return first.clone();
    }
    match schema["type"].as_str() {
        Some("object") => {
            let names = schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str);
            names.map(|name| (name.to_owned(), required(document, &schema["properties"][name]))).collect()
        }
        Some("array") => json!([]),
        Some("boolean") => json!(false),
        Some("integer" | "number") => {
            schema.get("minimum").filter(|least| **least != json!(0)).cloned().unwrap_or(1.into())
        }
        Some("string") => json!("green tea"),
        _ => panic!("what is the least of {schema}?"),
    }
}

/// Whether an answer comes from an operation, and not from its absence or from a mistake of ours.
#[track_caller]
fn assert_answered(answer: &Answer, what: &str) {
    let absent = [StatusCode::NOT_FOUND, StatusCode::METHOD_NOT_ALLOWED, StatusCode::UNSUPPORTED_MEDIA_TYPE];
    assert!(!absent.contains(&answer.status), "{what}: {answer:?}");
    assert_ne!(answer.status, StatusCode::INTERNAL_SERVER_ERROR, "{what}: {answer:?}");
}

#[tokio::test]
async fn every_path_of_the_description_answers() {
    let mut furnished = Furnished::new().await;
    let document = furnished.world.get("/openapi.json").await.ok();
    let mut called = 0;
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap().iter().filter(|(name, _)| *name != "parameters") {
            furnished = furnished.again().await;
            let (method, filled) = (method.to_uppercase(), furnished.filled(path));
            let answer = furnished.call(&method, &filled, &document, operation).await;
            assert_answered(&answer, &format!("{method} {path}"));
            called += 1;
        }
    }
    assert!(called > 30, "only {called} operations are described");
}

#[tokio::test]
async fn grpc_offers_what_rest_describes() {
    let world = World::new().await;
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join("proto/proto/mira/v1");
    let protos = ["memory.proto", "admin.proto"].map(|name| std::fs::read_to_string(folder.join(name)).unwrap());
    let methods = protos.iter().flat_map(|proto| proto.split("rpc ").skip(1)).filter_map(|rest| rest.split('(').next());
    let methods: BTreeSet<String> = methods.map(snake_case).collect();
    // What a load balancer or a browser asks; and two that gRPC has under another name.
    let of_http = ["health", "readiness", "metrics", "openapi", "get_status"];
    let document = world.get("/openapi.json").await.ok();
    let items = document["paths"].as_object().unwrap().values().flat_map(|item| item.as_object().unwrap().values());
    let ids: BTreeSet<&str> = items.filter_map(|operation| operation["operationId"].as_str()).collect();
    assert!(ids.len() > 30, "{ids:?}");
    for id in ids.into_iter().filter(|id| !of_http.contains(id)) {
        let name = if id == "append_upload" { "upload" } else { id };
        assert!(methods.contains(name), "gRPC has no {id}");
    }
}

/// `ListKeys` as `list_keys`.
fn snake_case(name: &str) -> String {
    let snake =
        name.chars().flat_map(|c| c.is_ascii_uppercase().then_some('_').into_iter().chain([c.to_ascii_lowercase()]));
    snake.collect::<String>().trim_start_matches('_').to_owned()
}

#[tokio::test]
async fn every_tool_that_is_listed_can_be_called() {
    let world = World::new().await;
    let id = world.store_all("default", &["green tea"]).await.remove(0);
    for (name, input) in tools(&world).await {
        let arguments = match name.as_str() {
            "store" => json!({ "content": "green tea" }),
            "search" => json!({ "query": "tea" }),
            "recall" | "forget" => json!({ "session": "talk" }),
            "change" => json!({ "action": "restore", "id": id }),
            _ => required(&input, &input),
        };
        let result = mcp::call(&world, &name, arguments).await;
        assert_eq!(result["isError"], false, "{name}: {result}");
    }
}

/// The tools that a running server lists, with the schemas of what they take.
async fn tools(world: &World) -> BTreeMap<String, Value> {
    let accept = ("accept", "application/json, text/event-stream");
    let list = json!({ "jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": {} });
    let answer = world.post_with("/mcp", list, &[accept, ("mcp-protocol-version", "2025-11-25")]).await.ok();
    let tools = answer["result"]["tools"].as_array().unwrap();
    tools.iter().map(|tool| (tool["name"].as_str().unwrap().to_owned(), tool["inputSchema"].clone())).collect()
}

#[tokio::test]
async fn every_path_and_tool_that_texts_name_is_there() {
    let mut furnished = Furnished::new().await;
    let tools = tools(&furnished.world).await;
    let document = furnished.world.get("/openapi.json").await.ok();
    let mut named: BTreeMap<(Option<String>, String), PathBuf> = BTreeMap::new();
    for file in texts() {
        let text = std::fs::read_to_string(&file).unwrap();
        for call in paths_in(&text).into_iter().chain(calls_in(&text)) {
            named.entry(call).or_insert_with(|| file.clone());
        }
        for tool in tools_in(&text) {
            assert!(tools.contains_key(&tool), "{}: there is no tool {tool}", file.display());
        }
    }
    assert!(named.len() > 20, "only these paths are named: {named:?}");
    for ((method, path), file) in named {
        furnished = furnished.again().await;
        let what = format!("{}: {} {path}", file.display(), method.as_deref().unwrap_or_default());
        let filled = furnished.filled(&path);
        let Some(method) = method else {
            assert_ne!(furnished.options(&filled).await, StatusCode::NOT_FOUND, "{what}");
            continue;
        };
        let mut items = document["paths"].as_object().unwrap().iter();
        let (_, item) = items.find(|(path, _)| furnished.filled(path) == filled).unwrap_or_else(|| panic!("{what}"));
        let answer = furnished.call(&method, &filled, &document, &item[method.to_lowercase()]).await;
        assert_answered(&answer, &what);
    }
}

/// The README, the documents, and the shell's source.
fn texts() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let mut texts = vec![root.join("README.md")];
    let mut folders = vec![root.join("docs"), root.join("cli/src")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "md" || extension == "rs") {
                texts.push(path);
            }
        }
    }
    assert!(texts.len() > 20, "{texts:?}");
    texts
}

const ROOTS: [&str; 8] = ["collections", "mcp", "admin", "owner", "openapi.json", "healthz", "readyz", "metrics"];
const METHODS: [&str; 5] = ["GET", "POST", "PUT", "PATCH", "DELETE"];

/// Paths in prose and in commands, with the method where one stands before them.
fn paths_in(text: &str) -> Vec<(Option<String>, String)> {
    let mut found = Vec::new();
    for (at, _) in text.match_indices('/') {
        let (before, after) = text.split_at(at);
        let is_path = |c: char| c.is_ascii_alphanumeric() || "/_{}.<>$-".contains(c);
        let path = after.split(|c: char| !is_path(c)).next().unwrap_or_default().trim_end_matches(['.', '/']);
        let root = path.split('/').nth(1).unwrap_or_default();
        // A folder of the source, a file, a word of a longer path.
        let is_part = before.ends_with(|c: char| c.is_ascii_alphabetic() || "./-_>}]*".contains(c));
        if !is_part && ROOTS.contains(&root) {
            let method = before.trim_end_matches(' ').rsplit(|c: char| !c.is_ascii_uppercase()).next();
            let method = method.filter(|word| METHODS.contains(word)).map(str::to_owned);
            found.push((method, path.to_owned()));
        }
    }
    found
}

/// Paths that the shell's source puts together: `Method::PUT, &["collections", name]`.
fn calls_in(text: &str) -> Vec<(Option<String>, String)> {
    let mut found = Vec::new();
    for (at, _) in text.match_indices("&[\"") {
        let Some((inside, _)) = text[at + 2..].split_once(']') else { continue };
        let segment = |part: &str| match part.trim().strip_prefix('"').and_then(|part| part.strip_suffix('"')) {
            Some(literal) if !literal.contains([' ', '/']) => literal.to_owned(),
            _ => "{}".to_owned(),
        };
        let segments: Vec<String> = inside.split(',').filter(|part| !part.trim().is_empty()).map(segment).collect();
        if ROOTS.contains(&segments[0].as_str()) {
            let method = text[..at].trim_end().strip_suffix(',').and_then(|before| before.rsplit("Method::").next());
            let method = method.filter(|word| METHODS.contains(word)).map(str::to_owned);
            found.push((method, format!("/{}", segments.join("/"))));
        }
    }
    found
}

/// Tools that a sentence lists.
fn tools_in(text: &str) -> Vec<String> {
    let Some((_, list)) = text.split_once("The tools are ") else { return Vec::new() };
    let sentence = list.split_once('.').map_or(list, |(sentence, _)| sentence);
    sentence.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

fn is_placeholder(segment: &str) -> bool {
    let is_name = segment.len() > 1 && segment.chars().all(|c| c.is_ascii_uppercase() || c == '_');
    is_name || segment.starts_with(['{', '<', '$'])
}

#[test]
fn paths_are_found_in_texts() {
    let some = |method: &str, path: &str| (Some(method.to_owned()), path.to_owned());
    let none = |path: &str| (None, path.to_owned());
    let prose = "Ask `GET /collections/NAME/frames`, or curl localhost:7878/mcp/search. See /collections/{name}/uploads, not \
        docs/collections.md or src/api/mcp/mod.rs.";
    let expected = [some("GET", "/collections/NAME/frames"), none("/mcp/search"), none("/collections/{name}/uploads")];
    assert_eq!(paths_in(prose), expected);
    let source =
        r#"self.write(Method::PUT, &["collections", name], Some(x)); url(&["admin", "backup", step]); f(&["a"])"#;
    assert_eq!(calls_in(source), [some("PUT", "/collections/{}"), none("/admin/backup/{}")]);
    assert_eq!(tools_in("The tools are `store` and `search`. Others: `x`."), ["store", "search"]);
    assert!(is_placeholder("NAME") && is_placeholder("{id}") && !is_placeholder("frames"));
}

#[tokio::test]
async fn a_path_that_is_not_there_is_told_from_one_that_is() {
    let furnished = Furnished::new().await;
    assert_eq!(furnished.options("/collections/notes/shrink").await, StatusCode::NOT_FOUND);
    assert_eq!(furnished.options("/collections/notes/grow").await, StatusCode::METHOD_NOT_ALLOWED);
    assert_eq!(furnished.world.request(Method::PUT, "/mcp/store", "{}", &[]).await.code(), "invalid_argument");
}
