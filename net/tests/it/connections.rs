//! What a connection may do, and for how long.

use std::io;
use std::time::Duration;

use mira_net::{ServerSettings, limits};
use tokio::io::AsyncWriteExt;

use crate::support::{Failing, Server};

const SHORT: Duration = Duration::from_millis(300);
const LONG: Duration = Duration::from_secs(600);

fn impatient() -> ServerSettings {
    ServerSettings { head_timeout: SHORT, idle_timeout: LONG, ..ServerSettings::default() }
}

#[tokio::test]
async fn a_silent_connection_is_closed() {
    let server = Server::start(impatient()).await;
    assert_eq!(server.connect().await.closed().await, "");
}

#[tokio::test]
async fn half_a_head_is_cut_off() {
    let server = Server::start(impatient()).await;
    for half in ["G", "GET / HTTP/1.1\r\nhost: x\r\nx-slow: ", "PRI * HTTP/2.0\r\n\r\n"] {
        let mut connection = server.connect().await;
        connection.say(half).await;
        assert_eq!(connection.closed().await, "", "after {half:?}");
    }
}

#[tokio::test]
async fn half_a_head_is_cut_off_on_a_connection_that_has_served_too() {
    let server = Server::start(impatient()).await;
    let mut connection = server.connect().await;
    connection.get("/", "hello").await;
    connection.is_silent_for(3 * SHORT).await;
    connection.get("/", "hello").await;
    connection.say("GET / HT").await;
    assert_eq!(connection.closed().await, "");
}

#[tokio::test]
async fn a_head_that_trickles_in_is_cut_off() {
    let server = Server::start(impatient()).await;
    let mut connection = server.connect().await;
    let trickle = async {
        loop {
            tokio::time::sleep(SHORT / 10).await;
            if connection.0.write_all(b"x").await.is_err() {
                return;
            }
        }
    };
    tokio::time::timeout(10 * SHORT, trickle).await.expect("the server does not wait for ever");
}

#[tokio::test]
async fn a_request_that_is_worked_at_has_its_time() {
    let settings = ServerSettings { idle_timeout: SHORT, ..impatient() };
    let server = Server::start(settings).await;
    let mut connection = server.connect().await;
    connection.say("GET /wait HTTP/1.1\r\nhost: x\r\n\r\n").await;
    server.began.notified().await;
    connection.is_silent_for(4 * SHORT).await;
    server.go_on.notify_one();
    connection.hear("done").await;
}

#[tokio::test]
async fn an_idle_connection_is_closed_in_either_version() {
    let server = Server::start(ServerSettings { idle_timeout: SHORT, ..impatient() }).await;
    let mut connection = server.connect().await;
    connection.get("/", "hello").await;
    assert_eq!(connection.closed().await, "");

    // The preface and empty settings: a connection of HTTP/2 without requests. It does not answer the goodbye either.
    const GOAWAY: &str = "\0\0\x08\x07\0\0\0\0\0";
    let mut connection = server.connect().await;
    connection.say("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await;
    let said = connection.closed().await;
    assert!(said.contains(GOAWAY), "it says goodbye: {said:?}");
}

#[tokio::test]
async fn a_head_may_not_be_of_any_size() {
    let server = Server::start(ServerSettings::default()).await;
    let mut connection = server.connect().await;
    let long = "x".repeat(limits::MAX_HTTP1_HEAD_BYTES);
    connection.say(&format!("GET / HTTP/1.1\r\nhost: x\r\nx-long: {long}\r\n\r\n")).await;
    assert!(connection.closed().await.starts_with("HTTP/1.1 431 "));

    let mut connection = server.connect().await;
    let many = "x: y\r\n".repeat(101);
    connection.say(&format!("GET / HTTP/1.1\r\n{many}\r\n")).await;
    assert!(connection.closed().await.starts_with("HTTP/1.1 431 "));
}

#[tokio::test]
async fn a_long_body_passes_the_bound_of_heads() {
    let server = Server::start(ServerSettings::default()).await;
    let mut connection = server.connect().await;
    let length = 8 * limits::MAX_HTTP1_HEAD_BYTES;
    connection.say(&format!("POST /length HTTP/1.1\r\nhost: x\r\ncontent-length: {length}\r\n\r\n")).await;
    connection.say(&"x".repeat(length)).await;
    connection.hear(&format!("\r\n\r\n{length}")).await;
}

#[tokio::test]
async fn half_a_body_is_refused() {
    let server = Server::start(ServerSettings { body_timeout: SHORT, ..ServerSettings::default() }).await;
    let mut connection = server.connect().await;
    connection.say("POST /length HTTP/1.1\r\nhost: x\r\ncontent-length: 10\r\n\r\nhalf").await;
    assert!(connection.closed().await.starts_with("HTTP/1.1 400 "));
}

#[tokio::test]
async fn a_request_says_whom_it_comes_from() {
    let server = Server::start(ServerSettings::default()).await;
    let mut connection = server.connect().await;
    let own = connection.0.local_addr().unwrap().to_string();
    connection.get("/from", &own).await;
}

#[tokio::test]
async fn an_address_has_so_many_connections_and_no_more() {
    let settings = ServerSettings { connections_per_address: 2, ..ServerSettings::default() };
    let server = Server::start(settings).await;
    let mut first = server.connect().await;
    let mut second = server.connect().await;
    first.get("/", "hello").await;
    second.get("/", "hello").await;
    assert_eq!(server.connect().await.closed().await, "", "a third is closed at once");

    drop(first);
    // The server learns of the end a little later.
    loop {
        let mut next = server.connect().await;
        let _ = next.0.write_all(b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await;
        if next.closed().await.ends_with("hello") {
            break;
        }
    }
    second.get("/", "hello").await;
}

#[tokio::test]
async fn a_listener_has_so_many_connections_and_the_next_waits_for_a_place() {
    let settings = ServerSettings { connections: 2, ..ServerSettings::default() };
    let server = Server::start(settings).await;
    let mut first = server.connect().await;
    let mut second = server.connect().await;
    first.get("/", "hello").await;
    second.get("/", "hello").await;
    let mut third = server.connect().await;
    third.say("GET / HTTP/1.1\r\nhost: x\r\n\r\n").await;
    third.is_silent_for(SHORT).await;
    drop(first);
    third.hear("hello").await;
}

#[tokio::test]
async fn a_lack_of_descriptors_passes() {
    const EMFILE: i32 = 24;
    let errors = [
        io::Error::from_raw_os_error(EMFILE),
        io::Error::from(io::ErrorKind::ConnectionAborted),
        io::Error::from_raw_os_error(EMFILE),
    ];
    let wrap = |listener| Failing { errors: errors.into(), listener };
    let server = Server::start_on(ServerSettings::default(), wrap).await;
    server.connect().await.get("/", "hello").await;
}
