//! `mira import` against a router that has good and bad days.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Output;

use mira_proto::placement::Partitioning;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::support::{self, Server, text};

fn lines(count: usize) -> String {
    (0..count).map(|number| format!("{}\n", json!({"content": format!("text {number}")}))).collect()
}

pub struct Import {
    pub server: Server,
    pub folder: tempfile::TempDir,
}

impl Import {
    pub fn new() -> Self {
        Import { server: Server::start(), folder: tempfile::tempdir().unwrap() }
    }

    pub fn write(&self, name: &str, content: impl AsRef<[u8]>) {
        let path = self.folder.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
    }

    pub fn run(&self, args: &[&str]) -> Output {
        let all: Vec<&str> = ["import", "--json"].into_iter().chain(args.iter().copied()).collect();
        self.server.mira(self.folder.path(), &all)
    }

    /// Added or replaced, already there or repeated, refused of a run that must have printed them.
    pub fn counts(output: &Output) -> (u64, u64, u64) {
        let summary: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{output:?}"));
        let count = |name: &str| summary[name].as_u64().unwrap();
        (count("added") + count("replaced"), count("already_there") + count("repeated"), count("refused"))
    }

    pub fn contents(&self) -> Vec<String> {
        let frames = self.server.frames();
        let mut contents: Vec<_> =
            frames.iter().map(|(_, frame)| frame["content"].as_str().unwrap().to_owned()).collect();
        contents.sort();
        contents
    }
}

fn sorted(count: usize) -> Vec<String> {
    let mut texts: Vec<_> = (0..count).map(|number| format!("text {number}")).collect();
    texts.sort();
    texts
}

#[test]
fn a_second_run_adds_nothing() {
    let import = Import::new();
    import.write("a.jsonl", lines(500) + &lines(20));
    let first = import.run(&["a.jsonl"]);
    assert!(first.status.success(), "{first:?}");
    assert_eq!(Import::counts(&first), (500, 20, 0));
    assert_eq!(import.contents(), sorted(500));
    let said = |output: &Output, name: &str| serde_json::from_slice::<Value>(&output.stdout).unwrap()[name].clone();
    assert_eq!((said(&first, "already_there"), said(&first, "repeated")), (json!(0), json!(20)));

    let second = import.run(&["a.jsonl"]);
    assert_eq!(Import::counts(&second), (0, 520, 0));
    assert_eq!((said(&second, "already_there"), said(&second, "repeated")), (json!(500), json!(20)));
    assert_eq!(import.server.embedded_texts(), 500, "nothing was embedded again");
}

#[test]
fn a_second_run_of_private_records_adds_and_embeds_nothing() {
    let import = Import::new();
    let line = |number: usize, private: bool| {
        let record =
            json!({"content": format!("text {number}"), "session": format!("s{}", number % 7), "private": private});
        format!("{record}\n")
    };
    import.write("private.jsonl", (0..150).map(|number| line(number, true)).collect::<String>());
    import.write("plain.jsonl", (0..150).map(|number| line(number, false)).collect::<String>());
    assert_eq!(Import::counts(&import.run(&["private.jsonl"])), (150, 0, 0));
    assert_eq!(Import::counts(&import.run(&["plain.jsonl"])), (150, 0, 0), "the same said aloud is another memory");
    for file in ["private.jsonl", "plain.jsonl"] {
        assert_eq!(Import::counts(&import.run(&[file])), (0, 150, 0), "{file}");
    }
    assert_eq!((import.server.embedded_texts(), import.contents().len()), (300, 300));
}

#[test]
fn an_imported_session_lies_in_one_partition() {
    let import = Import::new();
    let made =
        import.server.mira(import.folder.path(), &["admin", "collections", "create", "wide", "--partitions", "8"]);
    assert!(made.status.success(), "{made:?}");
    let line = |number: usize| {
        let record = json!({
            "content": format!("text {number}"), "session": format!("s{}", number % 3), "private": number % 2 == 1,
        });
        format!("{record}\n")
    };
    import.write("a.jsonl", (0..60).map(line).collect::<String>());
    assert_eq!(Import::counts(&import.run(&["a.jsonl", "--collection", "wide"])), (60, 0, 0));
    let places = Partitioning::new(import.server.cluster.shards_of("wide"));
    let mut shards: BTreeMap<(String, bool), BTreeSet<u32>> = BTreeMap::new();
    for (_, frame) in import.server.frames() {
        let session = frame["session"].as_str().unwrap().to_owned();
        let id: Uuid = frame["id"].as_str().unwrap().parse().unwrap();
        shards.entry((session, frame["private"] == true)).or_default().insert(places.shard_of(id.as_u128()));
    }
    assert_eq!(shards.len(), 6, "{shards:?}");
    assert!(shards.values().all(|shards| shards.len() == 1), "{shards:?}");
}

#[test]
fn a_record_that_its_source_names_is_known_by_that_name() {
    let import = Import::new();
    import.write("a.jsonl", r#"{"content": "tea", "source_key": "notes/1"}"#);
    assert_eq!(Import::counts(&import.run(&["a.jsonl"])), (1, 0, 0));
    assert_eq!(Import::counts(&import.run(&["a.jsonl"])), (0, 1, 0));
    // Another file may not change what this one has brought, unless it says so.
    import.write("b.jsonl", r#"{"content": "coffee", "source_key": "notes/1"}"#);
    let changed = import.run(&["b.jsonl"]);
    assert_eq!(Import::counts(&changed), (0, 0, 1));
    assert!(text(&changed.stderr).contains("b.jsonl:1: conflict: the source_key names"), "{changed:?}");
    import.write("b.jsonl", r#"{"content": "coffee", "source_key": "notes/1", "replace": true}"#);
    assert_eq!(Import::counts(&import.run(&["b.jsonl"])), (1, 0, 0));
    assert_eq!(import.contents(), ["coffee"]);
}

#[test]
fn the_same_text_elsewhere_is_another_memory_and_a_file_that_moves_to_a_session_leaves_none_behind() {
    let import = Import::new();
    import.write("a.jsonl", lines(5));
    for (flags, added) in
        [(&["a.jsonl"][..], 5), (&["a.jsonl", "--session", "s"], 5), (&["a.jsonl", "--collection", "c"], 5)]
    {
        assert_eq!(Import::counts(&import.run(flags)).0, added, "{flags:?}");
    }
    assert_eq!(import.contents().len(), 10);
}

#[test]
fn bad_records_are_named_counted_and_passed_over() {
    let import = Import::new();
    let mut input = lines(2).into_bytes();
    input.extend_from_slice(
        b"{\"content\": \"\xff\"}\n{\"contnet\": \"x\"}\n{\"content\": \" \"}\n{\"content\": \"last\"}\n",
    );
    import.write("a.jsonl", input);
    let output = import.run(&["a.jsonl"]);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(Import::counts(&output), (3, 0, 3));
    let errors = text(&output.stderr);
    for expected in [
        "refused a.jsonl:3: not UTF-8 from byte 13 of the record on",
        "refused a.jsonl:4: unknown field `contnet`, expected one of",
        "refused a.jsonl:5: invalid_argument: content is empty",
        "error: 3 of 6 records were refused",
    ] {
        assert!(errors.contains(expected), "{errors}");
    }
}

#[test]
fn strict_stops_at_the_first_refusal() {
    let import = Import::new();
    import.write("a.jsonl", "{\"contnet\": 1}\n".to_owned() + &lines(5_000));
    let output = import.run(&["a.jsonl", "--strict", "--batch", "10", "--writers", "1"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(import.contents().len() < 100, "{}", import.contents().len());
}

#[test]
fn an_import_that_was_cut_off_goes_on_where_it_was() {
    // Where the cluster takes nothing any more, how far the import came cannot be written down in it.
    for writers in ["1", "3"] {
        let import = Import::new();
        import.write("a.jsonl", lines(400));
        import.server.conduct().breaks_after_stores = Some(12);
        let flags = ["a.jsonl", "--state", "state", "--batch", "20", "--writers", writers];
        let output = import.run(&flags);
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        assert!(text(&output.stderr).contains("error[internal]: told to break"), "{output:?}");
        let stored = import.contents().len();
        assert!((20..400).contains(&stored), "{stored}");

        import.server.conduct().breaks_after_stores = None;
        let embedded = import.server.embedded_texts();
        let output = import.run(&flags);
        assert!(output.status.success(), "{output:?}");
        assert_eq!(import.contents(), sorted(400));
        // With one writer nothing was under way when it broke.
        if writers == "1" {
            let again = import.server.embedded_texts() - embedded;
            assert_eq!(again, 400 - stored as u64, "what was there was not embedded again");
        }

        import.server.conduct().store_sizes.clear();
        assert_eq!(Import::counts(&import.run(&flags)), (0, 0, 0));
        assert!(import.server.conduct().store_sizes.is_empty(), "what is done is not sent again");
        import.write("a.jsonl", lines(402));
        assert_eq!(Import::counts(&import.run(&flags)), (2, 0, 0), "a file that grew");
    }
}

#[test]
fn a_cluster_that_comes_and_goes_loses_and_doubles_nothing() {
    let import = Import::new();
    import.write("a.jsonl", lines(300));
    import.server.conduct().every_nth_unavailable = Some(3);
    import.server.cluster.refuse_frames_once(5);
    let output = import.run(&["a.jsonl", "--batch", "25", "--writers", "4"]);
    assert!(output.status.success(), "{output:?}");
    assert_eq!(Import::counts(&output), (300, 0, 0));
    assert_eq!(import.contents(), sorted(300));
}

#[test]
fn requests_shrink_until_a_slow_cluster_can_answer_them() {
    let import = Import::new();
    import.write("a.jsonl", lines(200));
    import.server.conduct().most_items_in_time = Some(7);
    let output = import.run(&["a.jsonl"]);
    assert!(output.status.success(), "{output:?}");
    assert_eq!(import.contents(), sorted(200));
    assert!(import.server.conduct().store_sizes.iter().all(|size| *size <= 7));
}

#[test]
fn a_text_that_never_embeds_is_named_counted_and_passed_over() {
    let import = Import::new();
    import.write("a.jsonl", lines(30) + "{\"content\": \"endless\"}\n" + &lines(60));
    import.server.conduct().never_in_time = Some("endless".into());
    let output = import.run(&["a.jsonl", "--writers", "2"]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert_eq!(Import::counts(&output), (60, 30, 1));
    let errors = text(&output.stderr);
    assert!(errors.contains("refused a.jsonl:31: deadline_exceeded: "), "{errors}");
    // As long as a cluster gives at all.
    assert!(import.server.conduct().times_given.iter().max().unwrap() > &590_000);
}

#[test]
fn a_long_text_gets_the_time_that_it_needs() {
    let import = Import::new();
    import.write("long.txt", "some words that go on and on\n".repeat(30_000));
    assert!(import.run(&["long.txt"]).status.success());
    let longest = import.server.conduct().times_given.iter().max().copied().unwrap();
    assert!((100_000..200_000).contains(&longest), "{longest} ms for 870 KB");
}

#[test]
fn a_record_that_spoils_its_request_is_refused_alone() {
    let import = Import::new();
    import.write("a.jsonl", lines(20) + "{\"content\": \"spoiled\"}\n" + &lines(41));
    import.server.conduct().spoils_its_request = Some("spoiled".into());
    let output = import.run(&["a.jsonl"]);
    assert_eq!(Import::counts(&output), (41, 20, 1), "{output:?}");
    assert!(text(&output.stderr).contains("refused a.jsonl:21: invalid_argument: told to refuse"), "{output:?}");
}

#[test]
fn what_is_left_out_of_a_folder_is_counted_and_named() {
    let import = Import::new();
    import.write("notes/a.md", "# One\nfirst\n");
    import.write("notes/.hidden.md", "x");
    import.write("notes/picture.png", "x");
    let notes = import.folder.path().join("notes");
    std::os::unix::fs::symlink(notes.join("a.md"), notes.join("link.md")).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(notes.join("socket.md")).unwrap();
    let output = import.run(&["notes"]);
    assert!(output.status.success(), "{output:?}");
    assert_eq!(Import::counts(&output), (1, 0, 0));
    let summary: Value = serde_json::from_slice(&output.stdout).unwrap();
    let skipped = json!({ "files": 1, "hidden": 1, "links": ["notes/link.md"], "special": ["notes/socket.md"] });
    assert_eq!(summary["skipped"], skipped);
    let said = text(&output.stderr);
    assert!(said.contains("skipped notes/link.md: a link") && said.contains("skipped notes/socket.md: "), "{said}");
}

#[test]
fn a_router_that_starts_late_is_waited_for() {
    let folder = tempfile::tempdir().unwrap();
    // Bound and let go, so that it is free and nobody listens there yet.
    let address = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let path = folder.path().to_owned();
    let client = std::thread::spawn(move || support::mira(address, &path, &["store", "tea"]));
    // Long enough for a first try; a later start makes the test no less true.
    std::thread::sleep(std::time::Duration::from_millis(300));
    let _server = Server::start_at(address);
    let output = client.join().unwrap();
    assert!(output.status.success(), "{output:?}");
}

#[test]
fn folders_of_documents_become_sections_and_may_move() {
    let import = Import::new();
    import.write("docs/a.md", "# One\nfirst\n\n## Two\nsecond\n");
    import.write("docs/sub/b.txt", "plain text\n");
    import.write("docs/c.png", "x");
    import.write("docs/copy.txt", "plain text\n");
    let output = import.run(&["docs"]);
    assert!(output.status.success(), "{output:?}");
    assert_eq!(Import::counts(&output), (4, 0, 0));
    assert_eq!(import.contents(), ["# One\nfirst\n\n", "## Two\nsecond\n", "plain text\n", "plain text\n"]);
    let metadata: Vec<Value> = import.server.frames().iter().map(|(_, frame)| frame["metadata"].clone()).collect();
    assert!(metadata.contains(&json!({"path": "docs/a.md", "title": "One > Two", "line": 4})), "{metadata:?}");

    std::fs::rename(import.folder.path().join("docs"), import.folder.path().join("moved")).unwrap();
    assert_eq!(Import::counts(&import.run(&["moved"])), (0, 4, 0));
}

#[test]
fn lenient_keeps_unknown_fields_as_metadata() {
    let import = Import::new();
    import.write("a.jsonl", r#"{"content": "x", "author": "y"}"#);
    assert_eq!(import.run(&["a.jsonl"]).status.code(), Some(1));
    assert!(import.run(&["a.jsonl", "--lenient"]).status.success());
    let (_, frame) = &import.server.frames()[0];
    assert_eq!(frame["metadata"], json!({"author": "y"}));
}

#[test]
fn state_of_another_import_is_refused() {
    let import = Import::new();
    import.write("a.jsonl", lines(3));
    assert!(import.run(&["a.jsonl", "--state", "s"]).status.success());
    let output = import.run(&["a.jsonl", "--state", "s", "--collection", "other"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("belongs to an import with another"), "{output:?}");
    assert!(Path::new(&import.folder.path().join("s")).exists());
}
