//! Nothing that a caller said is readable on any node's disk, through whichever door it came.

use base64::{Engine, engine::general_purpose::STANDARD};
use mira_chaos_tests::{
    cluster::{Cluster, Shape},
    scan::scan,
};
use mira_proto::v1::{StoreRequest, memory_client::MemoryClient};
use serde_json::{Value, json};

/// The marks, and the door and field each of them goes through.
const MARKS: [&str; 20] = [
    "zebra-rest-content-4711",
    "zebra-rest-meta-key-4711",
    "zebra-rest-meta-value-4711",
    "zebra-rest-session-4711",
    "zebra-rest-role-4711",
    "zebra-rest-type-4711",
    "zebra-rest-bytes-4711",
    "zebra-collection-4711",
    "zebra-batch-content-4711",
    "zebra-mcp-content-4711",
    "zebra-grpc-content-4711",
    "zebra-ingest-content-4711",
    "zebra-replaced-content-4711",
    "zebra-query-text-4711",
    "zebra-private-content-4711",
    "zebra-private-session-4711",
    "zebra-private-role-4711",
    "zebra-private-meta-4711",
    "zebra-private-batch-4711",
    OWNER_KEY,
];

/// An owner's key is on no disk either, nor in any log.
const OWNER_KEY: &str = "emVicmEtb3duZXIta2V5LTQ3MTEtemVicmEtb3duZXI=";

fn vector(seed: f32) -> Value {
    json!((0..8).map(|axis| (seed + axis as f32).cos()).collect::<Vec<f32>>())
}

#[tokio::test(flavor = "multi_thread")]
async fn no_byte_on_disk_betrays_what_was_stored() {
    let mut cluster = Cluster::start(Shape::default()).await;
    let client = cluster.client(0);
    client.put_collection("default", &json!({ "dim": 8, "partitions": 4 })).await.expect("a collection");
    client.put_collection("zebra-collection-4711", &json!({ "dim": 8 })).await.expect("a collection");

    let rest = json!({
        "content": "zebra-rest-content-4711 and more", "type": "zebra-rest-type-4711",
        "session": "zebra-rest-session-4711", "role": "zebra-rest-role-4711",
        "metadata": { "zebra-rest-meta-key-4711": "zebra-rest-meta-value-4711" }, "vector": vector(1.0),
    });
    let id = client.store(&rest).await.expect("stored");
    let bytes = STANDARD.encode("zebra-rest-bytes-4711");
    client.store(&json!({ "bytes": bytes, "vector": vector(2.0) })).await.expect("stored");
    let other = json!({ "collection": "zebra-collection-4711", "content": "x", "vector": vector(3.0) });
    client.store(&other).await.expect("stored");
    let items = json!({ "items": [{ "content": "zebra-batch-content-4711", "vector": vector(4.0) }] });
    client.call("store", &items).await.expect("stored");
    let replaced =
        json!({ "id": id, "replace": true, "content": "zebra-replaced-content-4711", "vector": vector(5.0) });
    client.store(&replaced).await.expect("replaced");
    private_store(&cluster).await;
    mcp_store(&cluster, "zebra-mcp-content-4711").await;
    grpc_store(&cluster).await;
    // The search may be refused for want of a model: the query must not be on disk either way.
    let _ = client.call("search", &json!({ "query": "zebra-query-text-4711" })).await;
    // Enough further writes that the logs are snapshotted and tables flushed at the stop.
    for round in 0..20 {
        let items: Vec<Value> = (0..100)
            .map(|item| json!({ "content": format!("zebra-batch-content-4711 {round} {item}"), "vector": vector(item as f32) }))
            .collect();
        client.call("store", &json!({ "items": items })).await.expect("stored");
    }
    let status = client.call("status", &json!({})).await.expect("a status");
    assert!(status["frames"].as_u64().unwrap() > 2_000);
    for node in 0..3 {
        cluster.stop_node(node).await;
    }
    cluster.kill_router(0);

    let seen = scan(cluster.folder(), &MARKS).expect("a scan");
    assert_eq!(seen.findings, [], "plaintext on disk");
    assert!(seen.bytes > 1_000_000, "only {} bytes in {} files: is this the data?", seen.bytes, seen.files);
    let control = scan(cluster.folder(), &["node_id"]).expect("a scan");
    let identities = control.findings.iter().filter(|finding| finding.file.ends_with("identity.json"));
    assert_eq!(identities.count(), 3, "the scan finds what is there in clear");
}

/// Stores, finds and reads private frames with their owner's key.
async fn private_store(cluster: &Cluster) {
    let ask = async |tool: &str, body: Value| {
        let request = reqwest::Client::new().post(format!("{}/mcp/{tool}", cluster.router_url(0)));
        let request = request.bearer_auth(cluster.token()).header("x-mira-owner-key", OWNER_KEY).json(&body);
        let answer = request.send().await.expect("an answer");
        assert!(answer.status().is_success(), "{tool}: {answer:?}");
        answer.json::<Value>().await.expect("JSON")
    };
    let one = json!({
        "content": "zebra-private-content-4711 and more", "private": true, "session": "zebra-private-session-4711",
        "role": "zebra-private-role-4711", "metadata": { "k": "zebra-private-meta-4711" }, "vector": vector(7.0),
    });
    let id = ask("store", one).await["id"].clone();
    let items: Vec<Value> = (0..300)
        .map(|n| json!({ "content": format!("zebra-private-batch-4711 {n}"), "private": true, "vector": vector(n as f32) }))
        .collect();
    ask("store", json!({ "items": items })).await;
    let recalled = ask("recall", json!({ "id": id })).await;
    assert_eq!(recalled["frames"][0]["content"], "zebra-private-content-4711 and more");
    let found = ask("search", json!({ "vector": vector(7.0), "k": 400, "include_private": true })).await;
    let private = found["hits"].as_array().expect("hits").iter().filter(|hit| hit["private"] == true).count();
    assert_eq!(private, 301);
}

async fn mcp_store(cluster: &Cluster, content: &str) {
    let message = json!({ "jsonrpc": "2.0", "id": 1, "method": "tools/call",
        "params": { "name": "store", "arguments": { "content": content, "vector": vector(6.0) } } });
    let answer = reqwest::Client::new()
        .post(format!("{}/mcp", cluster.router_url(0)))
        .bearer_auth(cluster.token())
        .header("accept", "application/json, text/event-stream")
        .header("mcp-protocol-version", "2025-11-25")
        .json(&message)
        .send()
        .await
        .expect("an answer");
    let text = answer.text().await.expect("an answer");
    assert!(text.contains("\"isError\":false"), "{text}");
}

async fn grpc_store(cluster: &Cluster) {
    let bearer = format!("Bearer {}", cluster.token());
    let mut client = MemoryClient::connect(format!("http://{}", cluster.router_grpc(0))).await.expect("gRPC");
    let store = |content: &str| StoreRequest {
        content: Some(content.into()),
        vector: (0..8).map(|axis| axis as f32 + 1.0).collect(),
        ..Default::default()
    };
    let mut request = tonic::Request::new(store("zebra-grpc-content-4711"));
    request.metadata_mut().insert("authorization", bearer.parse().expect("a header"));
    client.store(request).await.expect("stored");
    let items = tokio_stream::iter([store("zebra-ingest-content-4711")]);
    let mut request = tonic::Request::new(items);
    request.metadata_mut().insert("authorization", bearer.parse().expect("a header"));
    let mut answers = client.ingest(request).await.expect("a stream").into_inner();
    let answer = answers.message().await.expect("an answer").expect("one answer");
    assert!(answer.problem.is_none(), "{answer:?}");
}
