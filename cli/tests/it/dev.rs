//! `mira dev` for real: a cluster in one process that keeps what it was told over a restart.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use mira_testing::eventually_blocking;

/// A running `mira dev`, killed when the test ends.
struct Dev {
    child: Child,
    url: String,
    grpc: String,
    data: PathBuf,
}

fn mira(data: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mira"));
    command.env_clear().env("HOME", data).env("MIRA_MODEL_DIR", data.join("no-model")).stdin(Stdio::null());
    command
}

impl Dev {
    /// Starts on free ports and waits until it says that it is ready.
    fn start(data: &Path) -> Dev {
        Dev::start_with(data, &[])
    }

    fn start_with(data: &Path, more: &[&str]) -> Dev {
        let mut command = mira(data);
        command.args(["dev", "--http", "127.0.0.1:0", "--data"]).arg(data.join("cluster")).args(more);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::inherit()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let (mut url, mut grpc) = (None, None);
        for line in lines.map(Result::unwrap) {
            if let Some((url_before, _)) =
                line.trim().strip_prefix("MCP").and_then(|rest| rest.trim().split_once("/mcp"))
            {
                url = Some(url_before.to_owned());
            }
            if let Some((address, _)) = line.trim().strip_prefix("gRPC").and_then(|rest| rest.trim().split_once(',')) {
                grpc = Some(address.to_owned());
            }
            if line.starts_with("Ctrl-C stops it") {
                break;
            }
        }
        let (url, grpc) = (url.expect("it says where MCP is"), grpc.expect("and gRPC"));
        Dev { child, url, grpc, data: data.to_owned() }
    }

    fn run(&self, args: &[&str]) -> Output {
        let token = self.data.join("cluster/token");
        let mut command = mira(&self.data);
        command
            .args(args)
            .current_dir(&self.data)
            .env("MIRA_URL", &self.url)
            .env("MIRA_GRPC_URL", &self.grpc)
            .env("MIRA_TOKEN_FILE", token);
        command.output().unwrap()
    }

    /// What a command prints; it must succeed.
    fn says(&self, args: &[&str]) -> String {
        let output = self.run(args);
        assert!(output.status.success(), "{args:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// Asks it to end, as a service manager would.
    fn stop(mut self) {
        let killed = Command::new("kill").args(["-TERM", &self.child.id().to_string()]).status().unwrap();
        assert!(killed.success());
        let ended = || self.child.try_wait().unwrap();
        let status = eventually_blocking("the program ends", Duration::from_secs(30), ended);
        assert!(status.success(), "{status}");
    }
}

impl Drop for Dev {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn last_word(line: &str) -> &str {
    line.rsplit(' ').next().unwrap()
}

/// Position and id of an exported memory of session s1.
fn place_in_s1(line: &str) -> Option<(u64, String)> {
    let memory: serde_json::Value = serde_json::from_str(line).unwrap();
    (memory["session"] == "s1")
        .then(|| (memory["position"].as_u64().unwrap(), memory["id"].as_str().unwrap().to_owned()))
}

#[test]
fn a_local_cluster_keeps_what_it_was_told() {
    let folder = tempfile::tempdir().unwrap();
    let records = r#"{"content": "north", "session": "s", "vector": [1, 0, 0, 0]}
{"content": "east", "session": "s", "vector": [0, 1, 0, 0]}
{"content": "north-east", "session": "s", "vector": [0.8, 0.6, 0, 0]}
"#;
    std::fs::write(folder.path().join("records.jsonl"), records).unwrap();
    std::fs::write(folder.path().join("query.json"), "[1, 0.1, 0, 0]").unwrap();

    let dev = Dev::start(folder.path());
    dev.says(&["admin", "collections", "create", "ways", "--dim", "4"]);
    let import = ["import", "records.jsonl", "--collection", "ways"];
    assert!(dev.says(&import).starts_with("added 3, already there 0, refused 0"));
    let search = ["search", "--vector", "query.json", "--collection", "ways", "-k", "2"];
    let found = dev.says(&search);
    assert!(found.find("north").unwrap() < found.find("north-east").unwrap(), "{found}");
    assert_eq!(dev.run(&["store", "a text", "--collection", "ways"]).status.code(), Some(1), "there is no model");
    dev.stop();

    let started = Instant::now();
    let dev = Dev::start(folder.path());
    assert!(started.elapsed() < Duration::from_secs(30), "{:?}", started.elapsed());
    assert!(dev.says(&import).starts_with("added 0, already there 3, refused 0"));
    let hits = |said: &str| said.split("there is more").next().unwrap().to_owned();
    assert_eq!(hits(&dev.says(&search)), hits(&found));
    let session = dev.says(&["recall", "--session", "s", "--collection", "ways"]);
    assert!(["north", "east", "north-east"].iter().all(|text| session.contains(&format!("\n{text}\n"))), "{session}");
    eventually_blocking("every replica has caught up", Duration::from_secs(30), || {
        dev.says(&["status"]).contains("is ok")
    });
    dev.stop();
}

/// A connection to a router that is kept open.
struct Kept {
    stream: TcpStream,
    token: String,
}

impl Kept {
    fn open(dev: &Dev) -> Kept {
        let stream = TcpStream::connect(dev.url.trim_start_matches("http://")).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        let token = std::fs::read_to_string(dev.data.join("cluster/token")).unwrap().trim().to_owned();
        Kept { stream, token }
    }

    /// The status of an answer, and what it says; none if the connection is lost.
    fn ask(&mut self, method: &str, path: &str, body: &str) -> Option<(u16, String)> {
        let head = format!(
            "{method} {path} HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {}\r\nx-mira-timeout-ms: 4000\r\n\
             content-type: application/json\r\ncontent-length: {}\r\n\r\n",
            self.token,
            body.len()
        );
        self.stream.write_all(head.as_bytes()).ok()?;
        self.stream.write_all(body.as_bytes()).ok()?;
        let mut answer = Vec::new();
        while !answer.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            self.stream.read_exact(&mut byte).ok()?;
            answer.push(byte[0]);
        }
        let head = String::from_utf8(answer).ok()?.to_lowercase();
        let status = head.split(' ').nth(1)?.parse().ok()?;
        let bytes = head.lines().find_map(|line| line.strip_prefix("content-length: "))?.parse().ok()?;
        let mut body = vec![0; bytes];
        self.stream.read_exact(&mut body).ok()?;
        Some((status, String::from_utf8(body).ok()?))
    }
}

/// A memory of a megabyte that does not compress.
fn large(number: u32) -> String {
    let mut state = u64::from(number) + 1;
    let mut content = String::with_capacity(1 << 20);
    while content.len() < 900_000 {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        content.push_str(&format!("{:016x}", state ^ (state >> 31)));
    }
    format!(r#"{{"content":"{content}","vector":[1,0,0,0],"collection":"ways"}}"#)
}

#[test]
fn a_cluster_that_ran_out_of_files_goes_on_by_itself_when_there_are_some() {
    let folder = tempfile::tempdir().unwrap();
    let dev = Dev::start_with(folder.path(), &["--nodes", "1"]);
    dev.says(&["admin", "collections", "create", "ways", "--dim", "4"]);
    let mut kept = Kept::open(&dev);
    let (status, stored) = kept.ask("POST", "/mcp/store", &large(0)).unwrap();
    assert_eq!(status, 200, "{stored}");
    let pid = dev.child.id().to_string();
    let allow = |files: &str| {
        let files = format!("--nofile={files}:");
        assert!(Command::new("prlimit").args(["--pid", &pid, &files]).status().unwrap().success());
    };
    // Every descriptor that low is taken, so no file can be opened any more.
    allow("10");
    let failed = (1..200).find(|number| !matches!(kept.ask("POST", "/mcp/store", &large(*number)), Some((200, _))));
    println!("a store fails after {failed:?} without new files");
    assert!(failed.is_some(), "new files are needed sooner or later");
    allow("4000");
    let again = || {
        let mut kept = Kept::open(&dev);
        let answer = kept.ask("POST", "/mcp/store", &large(1_000));
        matches!(answer, Some((200, _))) && matches!(kept.ask("GET", "/readyz", ""), Some((200, _)))
    };
    eventually_blocking("it stores again and is ready", Duration::from_secs(60), again);
    let id = serde_json::from_str::<serde_json::Value>(&stored).unwrap()["id"].clone();
    let recall = serde_json::json!({ "id": id, "collection": "ways" }).to_string();
    assert_eq!(Kept::open(&dev).ask("POST", "/mcp/recall", &recall).unwrap().0, 200, "nothing is lost");
    dev.stop();
}

#[test]
fn a_key_that_others_can_read_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let key = folder.path().join("cluster/cluster.key");
    std::fs::create_dir(key.parent().unwrap()).unwrap();
    std::fs::write(&key, "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=").unwrap();
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o644)).unwrap();
    let mut command = mira(folder.path());
    command.args(["dev", "--http", "127.0.0.1:0", "--data"]).arg(folder.path().join("cluster"));
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let status = child.wait().unwrap();
    let mut error = String::new();
    child.stderr.take().unwrap().read_to_string(&mut error).unwrap();
    assert_eq!(status.code(), Some(1));
    assert!(error.contains("others can read this secret"), "{error}");
}

#[test]
fn a_cluster_is_measured_and_the_figures_become_a_page() {
    let folder = tempfile::tempdir().unwrap();
    let dev = Dev::start(folder.path());
    let json = ["--report-json", "figures.json"];
    let frames = dev.says(&[&["benchmark", "vidmem", "--operations", "20"][..], &json].concat());
    assert!(frames.contains("| store a 1 KiB frame, 1 writer |"), "{frames}");
    let states = ["--vector-type", "consciousness", "--dataset-size", "100", "--iterations", "20"];
    let states = dev.says(&[&["benchmark", "chromadb"][..], &states, &json].concat());
    assert!(states.contains("| recall@10 among 100 vectors |"), "{states}");
    assert!(dev.says(&["admin", "collections", "list"]).starts_with("no collections yet"), "nothing is left");

    let page = dev.says(&["benchmark", "report", "--output", "page.html", "figures.json"]);
    assert_eq!(page.trim(), "page.html");
    let page = std::fs::read_to_string(folder.path().join("page.html")).unwrap();
    assert!(page.contains("<h2>vidmem</h2>") && page.contains("<h2>chromadb</h2>"), "{page}");
    std::fs::write(folder.path().join("other.json"), "{}").unwrap();
    let refused = dev.run(&["benchmark", "report", "other.json"]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("not a report"), "{refused:?}");
    dev.stop();
}

#[test]
fn storage_speed_is_measured_on_a_cluster_that_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let disk = folder.path().join("disk");
    std::fs::create_dir(&disk).unwrap();
    let output = mira(folder.path()).args(["test", "storage-speed", "--json", "--data"]).arg(&disk).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let figures = report["parts"][0]["figures"].as_array().unwrap();
    for wanted in ["fdatasync", "store a 1 KiB frame, 1 writer", "recall by id"] {
        assert!(figures.iter().any(|figure| figure["what"].as_str().unwrap().contains(wanted)), "{wanted}: {report}");
    }
    assert_eq!(std::fs::read_dir(&disk).unwrap().count(), 0);
}

/// What a store was told, told again from an export: nothing is lost but versions.
#[test]
fn an_export_is_imported_without_loss() {
    let folder = tempfile::tempdir().unwrap();
    let dev = Dev::start(folder.path());
    let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
    dev.says(&["admin", "collections", "create", "kept", "--dim", "4", "--partitions", "3"]);
    let line = |n: u32| {
        let session = if n.is_multiple_of(3) { String::new() } else { format!(r#","session":"s{}""#, n % 3) };
        let body = match n % 5 {
            0 => format!(r#""bytes":"{}""#, ["AAEC", "/////w==", "AQ=="][n as usize % 3]),
            _ => format!(r#""content":"text {n} ünd \"so\"""#),
        };
        format!(
            r#"{{{body},"type":"note","role":"user","metadata":{{"n":{n},"x":[1.5,null]}},"vector":[0.{n},1.5,-2.25,0.25],"id":"01999999-0000-7000-8000-{n:012}","created_at":"2024-03-01T10:00:{:02}.250Z","expires_at":"2099-01-01T00:00:00Z"{session}}}"#,
            n % 60
        )
    };
    let lines: String = (1..=950).map(|n| line(n) + "\n").collect();
    write("in.jsonl", &lines);
    dev.says(&["import", "in.jsonl", "--collection", "kept"]);
    let owner = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
    let private = r#"{"content":"mine","vector":[1,2,3,4],"id":"01999999-0000-7000-8000-000000009999","private":true}"#;
    write("private.jsonl", private);
    write("owner.key", owner);
    std::fs::set_permissions(folder.path().join("owner.key"), std::fs::Permissions::from_mode(0o600)).unwrap();
    dev.says(&["import", "private.jsonl", "--collection", "kept", "--owner-key-file", "owner.key"]);

    let said = dev.says(&["export", "--collection", "kept", "-o", "out.jsonl"]);
    // The memory, and the three that its owner's list of imported parts is kept in.
    assert!(said.contains("exported 950 memories") && said.contains("left out 4 private"), "{said}");
    dev.says(&["export", "--collection", "kept", "-o", "mine.jsonl", "--owner-key-file", "owner.key"]);
    let read = |name: &str| std::fs::read_to_string(folder.path().join(name)).unwrap();
    assert_eq!(read("mine.jsonl").lines().count(), 951);

    dev.says(&["admin", "collections", "create", "again", "--dim", "4", "--partitions", "1"]);
    dev.says(&["import", "mine.jsonl", "--collection", "again", "--owner-key-file", "owner.key"]);
    dev.says(&["export", "--collection", "again", "-o", "again.jsonl", "--owner-key-file", "owner.key"]);
    assert!(read("again.jsonl") == read("mine.jsonl"), "what was imported is exported as it was");
    let first: serde_json::Value = serde_json::from_str(read("out.jsonl").lines().next().unwrap()).unwrap();
    let told: serde_json::Value = serde_json::from_str(&line(1)).unwrap();
    for field in ["content", "type", "role", "metadata", "vector", "id", "session", "created_at"] {
        assert_eq!(first[field], told[field], "{field}");
    }

    let listed = dev.says(&["sessions", "--collection", "kept", "--json"]);
    let listed: serde_json::Value = serde_json::from_str(&listed).unwrap();
    let counts: Vec<_> = listed.as_array().unwrap().iter().map(|one| (&one["session"], &one["frames"])).collect();
    assert_eq!(counts.len(), 2, "{listed}");
    assert!(counts.iter().all(|(name, count)| (**name == "s1" || **name == "s2") && **count == 317), "{listed}");
    assert_eq!(dev.says(&["sessions", "--collection", "kept", "--active", "1d"]), "no sessions\n");

    // One that was stopped after some lines, in the middle of another, goes on there.
    let whole = read("out.jsonl");
    let mut by_id: Vec<&str> = whole.split_inclusive('\n').collect();
    by_id.sort_by_key(|line| line.split_once(r#""id":""#).unwrap().1);
    let by_id = by_id.concat();
    let cut = by_id.match_indices('\n').nth(399).unwrap().0 + 20;
    write("out.jsonl.kept.part", &by_id[..cut]);
    let said = dev.says(&["export", "--collection", "kept", "-o", "out.jsonl"]);
    assert!(said.contains("exported 550 memories") && said.contains("after 400 of an earlier export"), "{said}");
    assert!(read("out.jsonl") == whole);

    // As a table, and back.
    let table =
        ["export", "--collection", "kept", "--format", "parquet", "-o", "t.parquet", "--owner-key-file", "owner.key"];
    assert!(dev.says(&table).contains("exported 951 memories"));
    dev.says(&["admin", "collections", "create", "tabled", "--dim", "4", "--partitions", "2"]);
    dev.says(&["import", "t.parquet", "--collection", "tabled", "--owner-key-file", "owner.key"]);
    dev.says(&["export", "--collection", "tabled", "-o", "tabled.jsonl", "--owner-key-file", "owner.key"]);
    assert!(read("tabled.jsonl") == read("mine.jsonl"), "a table loses nothing either");

    let said = dev.says(&["export", "--collection", "kept", "--format", "markdown", "-o", "read"]);
    assert!(said.contains("3 sessions"), "{said}");
    let session = read("read/s1.md");
    let ids: Vec<&str> = session.lines().filter(|line| line.starts_with("## user · ")).map(last_word).collect();
    let in_order: Vec<(u64, String)> = read("out.jsonl").lines().filter_map(place_in_s1).collect();
    assert!(in_order.is_sorted(), "a file of JSON Lines has a session in its order");
    assert!(ids.len() > 300, "{}", ids.len());
    assert!(in_order.iter().map(|(_, id)| id.as_str()).eq(ids), "in the order of the session");
    let refused = dev.run(&["export", "--collection", "nothing", "-o", "nothing.jsonl"]);
    assert!(!refused.status.success() && !folder.path().join("nothing.jsonl").exists());
    dev.stop();
}

/// Large contents, plain and private, through JSON Lines and a table; and filters that make no sense.
#[test]
fn files_come_along_and_a_filter_must_make_sense() {
    let folder = tempfile::tempdir().unwrap();
    let dev = Dev::start(folder.path());
    let path = |name: &str| folder.path().join(name);
    let mut noise = vec![0; (5 << 20) + 77];
    blake3::Hasher::new().finalize_xof().fill(&mut noise);
    std::fs::write(path("big.bin"), &noise).unwrap();
    std::fs::write(path("small.txt"), "of mine").unwrap();
    std::fs::write(path("owner.key"), "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=").unwrap();
    std::fs::set_permissions(path("owner.key"), std::fs::Permissions::from_mode(0o600)).unwrap();
    let records = r#"{"content":"beside a file","vector":[1,0,0,0],"id":"01999999-0000-7000-8000-000000000001","metadata":{"count":3},"attachment":{"path":"big.bin"}}
{"content":"alone","vector":[0,1,0,0],"id":"01999999-0000-7000-8000-000000000002","metadata":{"count":4}}
{"content":"my own","vector":[0,0,1,0],"id":"01999999-0000-7000-8000-000000000003","private":true,"attachment":{"path":"small.txt"}}
"#;
    std::fs::write(path("in.jsonl"), records).unwrap();
    for name in ["kept", "lines", "table"] {
        dev.says(&["admin", "collections", "create", name, "--dim", "4", "--partitions", "2"]);
    }
    let owner = ["--owner-key-file", "owner.key"];
    let with_key = |args: &[&str]| dev.says(&[args, &owner].concat());
    with_key(&["import", "in.jsonl", "--collection", "kept", "--files", "."]);
    with_key(&["store", "--file", "big.bin", "--collection", "kept", "--id", "01999999-0000-7000-8000-000000000004"]);

    let said = dev.says(&["export", "--collection", "kept", "-o", "others.jsonl"]);
    assert!(said.contains("exported 3 memories") && said.contains("left out 4 private"), "{said}");
    let said = with_key(&["export", "--collection", "kept", "-o", "out.jsonl"]);
    assert!(said.contains("exported 4 memories") && said.contains("3 files of"), "{said}");
    let read = |name: &str| std::fs::read_to_string(path(name)).unwrap();
    for (format, out, collection) in [("jsonl", "out.jsonl", "lines"), ("parquet", "t.parquet", "table")] {
        with_key(&["export", "--collection", "kept", "--format", format, "-o", out]);
        let import = ["import", out, "--collection", collection, "--json"];
        let counts = |said: String| serde_json::from_str::<serde_json::Value>(&said).unwrap()["refused"].clone();
        assert_eq!(counts(with_key(&import)), 0);
        assert_eq!(counts(with_key(&import)), 0, "again: everything is there");
        let back = format!("{collection}.jsonl");
        with_key(&["export", "--collection", collection, "-o", &back]);
        assert_eq!(read(&back), read("out.jsonl"), "{format}");
    }
    let last: serde_json::Value = serde_json::from_str(read("table.jsonl").lines().nth(3).unwrap()).unwrap();
    let file = path("table.jsonl.files").join(last["attachment"]["path"].as_str().unwrap());
    assert!(std::fs::read(file).unwrap() == noise);

    std::fs::write(path("query.json"), "[1, 0, 0, 0]").unwrap();
    let filtered =
        |verb: &[&str], filter: &str| dev.run(&[verb, &["--collection", "kept", "--filter", filter]].concat());
    let search = ["search", "--vector", "query.json"];
    let clash = r#"{"field": "metadata.count", "gt": "x"}"#;
    let not = format!(r#"{{"not": {clash}}}"#);
    for (verb, filter) in [(&search[..], clash), (&search[..], &not), (&["forget", "--yes"], &not)] {
        let refused = filtered(verb, filter);
        let said = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert_eq!(refused.status.code(), Some(1), "{verb:?} {filter}");
        assert!(said.contains("invalid_argument") && said.contains("metadata.count holds numbers"), "{said}");
    }
    let found = filtered(&search, r#"{"field": "metadata.count", "gt": 3}"#);
    assert!(found.status.success() && String::from_utf8_lossy(&found.stdout).contains("alone"), "{found:?}");
    assert!(dev.says(&["export", "--collection", "kept", "-o", "after.jsonl"]).contains("exported 3 memories"));
    dev.stop();
}
