//! What strangers, and callers with a token who mean no good, cannot do to a program that serves.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use mira_testing::eventually_blocking;
use serde_json::Value;

const TOKEN: &str = "a-token-that-nobody-guesses";
const MIB: usize = 1 << 20;

/// A router in front of nobody, killed when the test ends.
struct Router {
    child: Child,
    http: SocketAddr,
    log: Arc<Mutex<Vec<String>>>,
}

fn mira(folder: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mira"));
    command.env_clear().env("HOME", folder).env("MIRA_MODEL_DIR", folder.join("no-model")).stdin(Stdio::null());
    command
}

impl Router {
    fn start(folder: &Path, log_level: &str) -> Router {
        let mut command = mira(folder);
        command.env("MIRA_TOKEN", TOKEN).env("RUST_LOG", log_level).args(["router", "--log-format", "json"]);
        // Nobody listens there.
        command.args(["--nodes", "127.0.0.1:1", "--http", "127.0.0.1:0", "--grpc", "127.0.0.1:0"]);
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        let log = Arc::new(Mutex::new(Vec::new()));
        let (lines, kept) = (BufReader::new(child.stderr.take().unwrap()).lines(), log.clone());
        thread::spawn(move || lines.map_while(Result::ok).for_each(|line| kept.lock().unwrap().push(line)));
        let serves = || {
            let log = log.lock().unwrap();
            let line = log.iter().find(|line| line.contains("router serves"))?;
            serde_json::from_str::<Value>(line).unwrap()["http_addr"].as_str()?.parse().ok()
        };
        let http = eventually_blocking("the router serves", Duration::from_secs(30), serves);
        Router { child, http, log }
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.http).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(120))).unwrap();
        stream
    }

    /// Sends a request whose body comes in pieces, and returns the status and the answer.
    fn post(&self, path: &str, headers: &str, body: &[&[u8]]) -> (u16, String) {
        let mut stream = self.connect();
        let bytes: usize = body.iter().map(|piece| piece.len()).sum();
        let head = format!(
            "POST {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-type: application/json\r\n\
             content-length: {bytes}\r\n{headers}\r\n"
        );
        stream.write_all(head.as_bytes()).unwrap();
        for piece in body {
            // The router need not read what it refuses.
            if stream.write_all(piece).is_err() {
                break;
            }
        }
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        let answer = String::from_utf8_lossy(&answer).into_owned();
        let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or_default();
        (status, answer)
    }

    /// The most memory that it ever had, bytes.
    fn peak(&self) -> usize {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<usize>().unwrap() * 1024
    }

    fn logged(&self, text: &str) -> bool {
        self.log.lock().unwrap().iter().any(|line| line.contains(text))
    }
}

impl Drop for Router {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn authorized(more: &str) -> String {
    format!("authorization: Bearer {TOKEN}\r\nx-mira-timeout-ms: 1500\r\n{more}")
}

#[test]
fn twenty_callers_with_the_worst_bodies_keep_a_router_under_half_a_gigabyte() {
    let folder = tempfile::tempdir().unwrap();
    let router = Router::start(folder.path(), "warn,mira_router=info");
    let accept = "accept: application/json, text/event-stream\r\nmcp-protocol-version: 2025-11-25\r\n";
    let call = r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"store","arguments":"#;
    let fill = |entry: &str| entry.repeat(31 * MIB / entry.len()).into_bytes();
    let content = format!(r#"{{"content":"{}"}},"#, "x".repeat(MIB - 100));
    let metadata = format!(r#"{{"content":"a","metadata":{{"a":[{}0]}}}},"#, "{\"a\":0},".repeat(8_000));
    // Path, headers, what comes before, in between, and after.
    let bodies: Vec<(&str, String, String, Vec<u8>, &str)> = vec![
        ("/mcp/store", authorized(""), r#"{"items":["#.into(), fill("{},"), "{}]}"),
        ("/mcp/store", authorized(""), r#"{"metadata":{"a":["#.into(), fill("{},"), "{}]}}"),
        ("/mcp/store", authorized(""), r#"{"items":["#.into(), fill(&content), r#"{"content":"a"}]}"#),
        ("/mcp/store", authorized(""), r#"{"items":["#.into(), fill(&metadata), r#"{"content":"a"}]}"#),
        ("/mcp/search", authorized(""), r#"{"searches":[{"searches":["#.into(), fill("{},"), "{}]}]}"),
        ("/mcp/search", authorized(""), r#"{"query":"a","filter":{"or":["#.into(), fill(r#"{"or":[{},{}]},"#), "{}]}}"),
        ("/mcp/search", authorized(""), r#"{"query":"a","filter":{"field":"role","eq":["#.into(), fill("0,"), "0]}}"),
        ("/mcp", authorized(accept), format!(r#"{call}{{"vector":["#), fill("0,"), "0]}}}"),
        ("/mcp", authorized(accept), format!(r#"{call}{{"items":["#), fill("{},"), "{}]}}}"),
        ("/mcp", authorized(accept), r#"{"jsonrpc":"2.0","method":"ping","id":["#.into(), fill("0,"), "0]}"),
    ];
    let before = router.peak();
    let statuses: Vec<u16> = thread::scope(|scope| {
        let callers: Vec<_> = (0..20)
            .map(|caller| {
                let (path, headers, start, middle, end) = &bodies[caller % bodies.len()];
                let router = &router;
                scope.spawn(move || router.post(path, headers, &[start.as_bytes(), middle, end.as_bytes()]).0)
            })
            .collect();
        callers.into_iter().map(|caller| caller.join().unwrap()).collect()
    });
    let (peak, mib) = (router.peak(), |bytes: usize| bytes / MIB);
    println!("peak {} MiB, {} MiB at rest; answers {statuses:?}", mib(peak), mib(before));
    // Some do not hear the answer, because it comes while they still send.
    assert!(statuses.iter().all(|status| [0, 200, 400, 413, 503, 504].contains(status)), "{statuses:?}");
    assert!(statuses.iter().filter(|status| **status > 0).count() >= 10, "{statuses:?}");
    assert!(peak < 500_000_000, "{} MiB", mib(peak));
}

#[test]
fn a_body_is_not_read_before_its_token_was_seen() {
    let folder = tempfile::tempdir().unwrap();
    let router = Router::start(folder.path(), "warn,mira_router=info");
    for path in ["/mcp/store", "/mcp", "/admin/backup/begin-backup", "/collections/c/uploads"] {
        let mut stream = router.connect();
        let head = format!(
            "POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: 1000000\r\n"
        );
        stream.write_all(format!("{head}authorization: Bearer wrong\r\n\r\n").as_bytes()).unwrap();
        // Not a byte of the body is sent.
        let mut answer = [0; 12];
        stream.read_exact(&mut answer).unwrap();
        assert_eq!(&answer, b"HTTP/1.1 401", "{path}");
    }
    let failed = || router.logged("401 unauthenticated").then_some(());
    eventually_blocking("a failed login has a line", Duration::from_secs(10), failed);
}

#[test]
fn a_log_holds_a_line_for_each_request_and_nothing_of_what_it_said() {
    let folder = tempfile::tempdir().unwrap();
    let router = Router::start(folder.path(), "trace");
    let secret = "the key lies under the mat";
    let item = format!(r#"{{"content":"{secret}","session":"{secret}","vector":[1,2]}}"#);
    router.post("/mcp/store", &authorized("x-mira-owner-passphrase: hunter2hunter2\r\n"), &[item.as_bytes()]);
    let forged = r#"1\n{\"level\":\"ERROR\",\"message\":\"all is lost\"}"#;
    let call = format!(
        r#"{{"jsonrpc":"2.0","id":"{forged}","method":"tools/call","params":{{"name":"store","arguments":{item}}}}}"#
    );
    let accept = "accept: application/json, text/event-stream\r\nmcp-protocol-version: 2025-11-25\r\n";
    router.post("/mcp", &authorized(accept), &[call.as_bytes()]);
    router.post(&format!("/collections/{}/uploads", "under-the-mat"), &authorized(""), &[item.as_bytes()]);
    for line in [r#""route":"/mcp/store""#, r#""tool":"store""#, r#""route":"/collections/{name}/uploads""#] {
        eventually_blocking(line, Duration::from_secs(10), || router.logged(line).then_some(()));
    }
    let log = router.log.lock().unwrap();
    for line in log.iter() {
        let parsed: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        assert_ne!(parsed["message"], "all is lost");
        for kept in [secret, TOKEN, "hunter2hunter2", "under-the-mat", "all is lost"] {
            assert!(!line.contains(kept), "{line}");
        }
    }
    let requests = log.iter().filter(|line| line.contains("mira_router::access")).count();
    assert_eq!(requests, 3, "one line each");
}

#[test]
fn a_program_that_may_open_too_few_files_says_so_and_does_not_start() {
    let folder = tempfile::tempdir().unwrap();
    let program = env!("CARGO_BIN_EXE_mira");
    let start = |limit: &str, verb: &str| {
        let command = format!("ulimit {limit}; exec {program} {verb}");
        let mut shell = Command::new("sh");
        shell.env_clear().env("HOME", folder.path()).env("MIRA_TOKEN", TOKEN).args(["-c", &command]);
        shell
    };
    let router = "router --nodes 127.0.0.1:1 --http 127.0.0.1:0 --grpc 127.0.0.1:0";
    let key = folder.path().join("key");
    std::fs::write(&key, mira_testing::keys::KEY).unwrap();
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o600)).unwrap();
    let node = format!("node --data {}/n --cluster-key-file {} --bootstrap", folder.path().display(), key.display());
    for verb in [router, &node, "dev --http 127.0.0.1:0"] {
        let refused = start("-n 300", verb).output().unwrap();
        let said = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert_eq!(refused.status.code(), Some(1), "{verb}: {said}");
        assert!(said.contains("RLIMIT_NOFILE") && said.contains("300"), "{verb}: {said}");
    }
    // Where more is allowed than it has, it takes what it needs.
    let mut child = start("-Sn 300", &format!("{router} --connections 500")).stderr(Stdio::null()).spawn().unwrap();
    let raised = || {
        let limits = std::fs::read_to_string(format!("/proc/{}/limits", child.id())).ok()?;
        let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
        line.split_whitespace().next()?.parse::<u64>().ok().filter(|limit| *limit > 1_000)
    };
    eventually_blocking("the limit is raised", Duration::from_secs(30), raised);
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn connections_that_say_nothing_end_and_others_get_their_places() {
    let folder = tempfile::tempdir().unwrap();
    let router = Router::start(folder.path(), "warn,mira_router=info");
    let idle: Vec<TcpStream> = (0..900)
        .map(|number| {
            let mut stream = router.connect();
            if number % 2 == 0 {
                stream.write_all(b"GET /healthz HTTP/1.1\r\nhost: loc").unwrap();
            }
            stream
        })
        .collect();
    let (status, _) = router.post("/mcp/status", &authorized(""), &[b"{}"]);
    assert!([200, 503].contains(&status), "others are served meanwhile: {status}");
    for mut stream in idle {
        let mut byte = [0];
        assert!(matches!(stream.read(&mut byte), Ok(0) | Err(_)), "it is closed, and nobody answers half a head");
    }
}
