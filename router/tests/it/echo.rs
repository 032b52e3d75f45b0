//! What is said comes back, over every protocol.

use mira_proto::v1;
use mira_proto::v1::memory_client::MemoryClient;
use serde_json::json;

use crate::client::World;
use crate::errors::authorized;
use crate::mcp;

#[tokio::test]
async fn what_is_said_comes_back() {
    let world = World::new().await;
    assert_eq!(world.post("/mcp/echo", json!({ "text": "hello" })).await.ok(), json!({ "text": "hello" }));
    let long = world.post("/mcp/echo", json!({ "text": "x".repeat(65) })).await;
    assert_eq!(long.code(), "too_large");
    let result = mcp::call(&world, "echo", json!({ "text": "hello" })).await;
    assert_eq!(result["content"][0]["text"], "hello");
    let mut client = MemoryClient::connect(format!("http://{}", world.router.grpc_addr)).await.unwrap();
    let reply = client.echo(authorized(v1::EchoRequest { text: "hello".into() })).await.unwrap().into_inner();
    assert_eq!(reply.text, "hello");
}
