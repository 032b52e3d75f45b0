//! A server that is told to stop.

use std::time::Duration;

use mira_net::ServerSettings;
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::support::{PATIENCE, Server};

#[tokio::test]
async fn what_is_under_way_is_answered_and_what_is_idle_is_closed() {
    let server = Server::start(ServerSettings::default()).await;
    let mut idle = server.connect().await;
    idle.get("/", "hello").await;
    let mut busy = server.connect().await;
    busy.say("GET /wait HTTP/1.1\r\nhost: x\r\n\r\n").await;
    server.began.notified().await;

    server.stop.send(()).unwrap();
    assert_eq!(idle.closed().await, "");
    assert!(TcpStream::connect(server.address).await.is_err(), "nobody listens any more");
    assert!(!server.ended.is_finished());
    server.go_on.notify_one();
    assert!(busy.closed().await.ends_with("done"));
    timeout(PATIENCE, server.ended).await.expect("the server ends").unwrap();
}

#[tokio::test]
async fn what_takes_too_long_is_dropped() {
    let settings = ServerSettings { drain: Duration::from_millis(200), ..ServerSettings::default() };
    let server = Server::start(settings).await;
    let mut busy = server.connect().await;
    busy.say("GET /wait HTTP/1.1\r\nhost: x\r\n\r\n").await;
    server.began.notified().await;
    server.stop.send(()).unwrap();
    timeout(PATIENCE, server.ended).await.expect("the server ends").unwrap();
    assert_eq!(busy.closed().await, "");
}
