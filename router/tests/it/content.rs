//! Large contents over HTTP and gRPC: steps, ranges, and what is wrong with them.

use axum::body::{Body, Bytes};
use axum::http::{Method, Request, StatusCode};
use futures::StreamExt;
use mira_proto::v1;
use mira_proto::v1::memory_client::MemoryClient;
use serde_json::json;

use crate::client::World;
use crate::errors::authorized;

const UPLOADS: &str = "/collections/files/uploads";

/// Text of two and a half chunks, so that the test's client can read it.
fn text() -> String {
    let mut text: String = (0..400_000u32).map(|n| format!("{n:06} ")).collect();
    text.truncate((5 << 20) / 2);
    text
}

impl World {
    async fn begin(&self, request: serde_json::Value) -> String {
        let begun = self.post(UPLOADS, request).await;
        assert_eq!(begun.status, StatusCode::CREATED, "{}", begun.text);
        assert_eq!(begun.json()["offset"], 0);
        format!("{UPLOADS}/{}", begun.json()["upload"].as_str().unwrap())
    }

    async fn patch(&self, upload: &str, offset: usize, body: impl Into<Body>) -> crate::client::Answer {
        self.request(Method::PATCH, upload, body, &[("upload-offset", &offset.to_string())]).await
    }

    async fn range(&self, path: &str, headers: &[(&str, &str)]) -> crate::client::Answer {
        self.request(Method::GET, path, Body::empty(), headers).await
    }
}

#[tokio::test]
async fn a_content_comes_in_steps_and_is_read_in_ranges() {
    let world = World::new().await;
    world.collection("files", 4).await;
    let text = text();
    let frame = json!({ "content": "the log of last night", "metadata": { "host": "a" } });
    let upload = world.begin(json!({ "frame": frame, "content_type": "text/x-log", "size": text.len() })).await;
    let first = 1_500_000;
    assert_eq!(world.patch(&upload, 0, text[..first].to_owned()).await.ok()["offset"], first);
    assert_eq!(world.patch(&upload, 0, text[..first].to_owned()).await.code(), "conflict");
    assert_eq!(world.post(&format!("{upload}/finish"), json!({})).await.code(), "conflict", "some is missing");
    assert_eq!(world.get(&upload).await.ok()["offset"], first);
    assert_eq!(world.patch(&upload, first, format!("{}!", &text[first..])).await.code(), "invalid_argument");
    assert_eq!(world.patch(&upload, first, text[first..].to_owned()).await.ok()["offset"], text.len());
    let done = world.post(&format!("{upload}/finish"), json!({})).await.ok();
    assert_eq!(world.post(&format!("{upload}/finish"), json!({})).await.ok(), done);
    let id = done["stored"]["id"].as_str().unwrap();

    let found = world.post("/mcp/search", json!({ "query": "log of last night", "collection": "files" })).await.ok();
    let hit = &found["hits"][0];
    assert_eq!((&hit["id"], &hit["content"]), (&json!(id), &frame["content"]));
    assert_eq!(hit["attachment"], json!({ "content_type": "text/x-log", "size": text.len() }));

    let content = format!("/collections/files/frames/{id}/content");
    let whole = world.get(&content).await;
    assert_eq!((whole.status, whole.headers["content-type"].to_str().unwrap()), (StatusCode::OK, "text/x-log"));
    assert!(whole.text == text);
    let part = world.range(&content, &[("range", "bytes=1048570-1048579")]).await;
    assert_eq!((part.status, part.text.as_str()), (StatusCode::PARTIAL_CONTENT, &text[1_048_570..1_048_580]));
    assert_eq!(part.headers["content-range"], format!("bytes 1048570-1048579/{}", text.len()));
    let last = world.range(&content, &[("range", "bytes=-5")]).await;
    assert_eq!(last.text, text[text.len() - 5..]);
    let same = whole.headers["etag"].to_str().unwrap();
    assert_eq!(world.range(&content, &[("range", "bytes=0-1"), ("if-range", same)]).await.text.len(), 2);
    let other = world.range(&content, &[("range", "bytes=0-1"), ("if-range", "\"other\"")]).await;
    assert_eq!((other.status, other.text.len()), (StatusCode::OK, text.len()));
    let beyond = world.range(&content, &[("range", "bytes=99999999-")]).await;
    assert_eq!((beyond.status, beyond.code().as_str()), (StatusCode::RANGE_NOT_SATISFIABLE, "invalid_argument"));
    assert_eq!(beyond.headers["content-range"], format!("bytes */{}", text.len()));
}

#[tokio::test]
async fn an_upload_that_is_begun_again_under_its_key_goes_on() {
    let world = World::new().await;
    world.collection("files", 1).await;
    let begin = async |key: &str, size: u64| {
        let request = json!({ "frame": { "content": "a log" }, "size": size });
        world.post_with(UPLOADS, request, &[("idempotency-key", key)]).await
    };
    let first = begin("k", 8).await.json();
    let upload = format!("{UPLOADS}/{}", first["upload"].as_str().unwrap());
    world.patch(&upload, 0, "12345").await.ok();
    let again = begin("k", 8).await.json();
    assert_eq!((&again["upload"], &again["offset"]), (&first["upload"], &json!(5)));
    assert_eq!(begin("k", 9).await.code(), "conflict", "another upload");
    assert_ne!(begin("other", 8).await.json()["upload"], first["upload"]);
    world.patch(&upload, 5, "678").await.ok();
    let done = world.post(&format!("{upload}/finish"), json!({})).await.ok();
    assert_eq!(begin("k", 8).await.json(), done, "it stays finished");
    assert_eq!(world.fake.frame_count(), 1 + 2 + 2, "a frame, a chunk of each step, two uploads");
}

#[tokio::test]
async fn a_body_that_breaks_off_leaves_what_came_whole() {
    let world = World::new().await;
    world.collection("files", 1).await;
    let upload = world.begin(json!({})).await;
    let broken = Body::from_stream(futures::stream::iter([
        Ok(Bytes::from(vec![b'a'; 1 << 20])),
        Ok(Bytes::from(vec![b'b'; 300])),
        Err(std::io::Error::other("the line is dead")),
    ]));
    let request = Request::patch(format!("http://{}{upload}", world.router.http_addr)).header("upload-offset", 0);
    let request = request.header("authorization", format!("Bearer {}", crate::client::TOKEN)).body(broken).unwrap();
    let connection = hyper_util::client::legacy::Client::builder(hyper_util::rt::TokioExecutor::new()).build_http();
    connection.request(request).await.expect_err("it was cut off");
    let started = std::time::Instant::now();
    while world.get(&upload).await.ok()["offset"] != 1 << 20 {
        assert!(started.elapsed() < std::time::Duration::from_secs(10), "what came whole was not kept");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    assert_eq!(world.patch(&upload, 1 << 20, "tail").await.ok()["offset"], (1 << 20) + 4);
    let done = world.post(&format!("{upload}/finish"), json!({})).await.ok();
    let id = done["stored"]["id"].as_str().unwrap();
    let recalled = world.post("/mcp/recall", json!({ "id": id, "collection": "files" })).await.ok();
    let frame = &recalled["frames"][0];
    assert_eq!(frame["attachment"], json!({ "content_type": "application/octet-stream", "size": (1 << 20) + 4 }));
    assert!(frame.get("content").is_none() && frame.get("bytes").is_none(), "{frame}");
}

#[tokio::test]
async fn wrong_requests_say_what_is_wrong() {
    let world = World::new().await;
    world.collection("files", 1).await;
    let refused = [
        (json!({ "size": (256u64 << 20) + 1 }), "too_large"),
        (json!({ "content_type": "no type" }), "invalid_argument"),
        (json!({ "frame": { "content": " " } }), "invalid_argument"),
        (json!({ "frame": { "collection": "other" } }), "invalid_argument"),
        (json!({ "frame": { "replace": true } }), "invalid_argument"),
        (json!({ "frame": { "private": true } }), "invalid_argument"),
        (json!({ "sise": 4 }), "invalid_argument"),
    ];
    for (request, code) in refused {
        assert_eq!(world.post(UPLOADS, request.clone()).await.code(), code, "{request}");
    }
    let upload = world.begin(json!({})).await;
    let headless = world.request(Method::PATCH, &upload, "x", &[]).await;
    assert_eq!(headless.code(), "invalid_argument");
    assert_eq!(world.patch(&upload, 7, "x").await.code(), "conflict");
    let nowhere = format!("{UPLOADS}/01999999-0000-7000-8000-000000000001");
    assert_eq!(world.patch(&nowhere, 0, "x").await.code(), "not_found");
    assert_eq!(world.get(&format!("{UPLOADS}/7")).await.code(), "invalid_argument");
    assert_eq!(
        world.get("/collections/none/frames/01999999-0000-7000-8000-000000000001/content").await.code(),
        "not_found"
    );
    let gone = world.request(Method::DELETE, &upload, Body::empty(), &[]).await;
    assert_eq!(gone.status, StatusCode::NO_CONTENT);
}

#[tokio::test]
async fn grpc_uploads_and_reads_the_same() {
    let world = World::new().await;
    world.collection("files", 4).await;
    let mut client = MemoryClient::connect(format!("http://{}", world.router.grpc_addr)).await.unwrap();
    let text = text();
    let frame = v1::StoreRequest { collection: "files".into(), ..Default::default() };
    let begin = v1::BeginUploadRequest { frame: Some(frame), content_type: "text/plain".into(), size: None };
    let begun = client.begin_upload(authorized(begin)).await.unwrap().into_inner();
    let name = v1::UploadName { collection: "files".into(), upload: begun.upload };
    let pieces: Vec<v1::UploadPiece> = text
        .as_bytes()
        .chunks(70_000)
        .enumerate()
        .map(|(at, bytes)| v1::UploadPiece {
            name: (at == 0).then(|| name.clone()),
            bytes: bytes.to_vec().into(),
            ..Default::default()
        })
        .collect();
    let state = client.upload(authorized(tokio_stream::iter(pieces))).await.unwrap().into_inner();
    assert_eq!(state.offset, text.len() as u64);
    let done = client.finish_upload(authorized(name.clone())).await.unwrap().into_inner();
    assert_eq!(client.get_upload(authorized(name)).await.unwrap().into_inner(), done);
    let read = |from, length| v1::ReadContentRequest { collection: "files".into(), id: done.id.clone(), from, length };
    for (from, length) in [(0, 0), (1_000_000, 200_000), (text.len() as u64 - 1, 1)] {
        let pieces = client.read_content(authorized(read(from, length))).await.unwrap().into_inner();
        let pieces: Vec<v1::ContentPiece> = pieces.map(Result::unwrap).collect().await;
        assert_eq!((pieces[0].content_type.as_str(), pieces[0].size), ("text/plain", text.len() as u64));
        let bytes: Vec<u8> = pieces.iter().flat_map(|piece| piece.bytes.to_vec()).collect();
        let to = if length == 0 { text.len() } else { (from + length) as usize };
        assert!(bytes == text.as_bytes()[from as usize..to]);
    }
    let beyond = client.read_content(authorized(read(text.len() as u64, 1))).await.unwrap_err();
    assert_eq!(beyond.code(), tonic::Code::InvalidArgument);
}
