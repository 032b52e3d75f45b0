//! Large contents of memories on their way out with `mira export` and back with `mira import`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Output;

use serde_json::{Value, json};
use uuid::Uuid;

use crate::support::{STEP, Server, text};

/// A router, and a folder where the program runs.
struct World {
    server: Server,
    folder: tempfile::TempDir,
}

/// What makes a memory, with its content.
#[derive(Debug, PartialEq)]
struct Memory {
    content: Option<String>,
    kind: String,
    private: bool,
    metadata: Value,
    attachment: Value,
    file: Option<Vec<u8>>,
}

fn id(number: u128) -> Uuid {
    Uuid::from_u128(0x0198_0000_0000_7000_8000_0000_0000_0000 + number)
}

fn noise(seed: u8, bytes: usize) -> Vec<u8> {
    let mut out = vec![0; bytes];
    blake3::Hasher::new_keyed(&[seed; 32]).finalize_xof().fill(&mut out);
    out
}

impl World {
    fn new() -> World {
        World { server: Server::start(), folder: tempfile::tempdir().unwrap() }
    }

    /// Plain text, text with a file, a file alone, a private text with a file.
    fn with_memories() -> World {
        let world = World::new();
        world.put(1, Some("plain words"), false, None);
        world.put(2, Some("the minutes"), false, Some(("video/webm", noise(2, 3 * STEP + 77))));
        world.put(3, None, false, Some(("image/png", noise(3, 10_000))));
        world.put(4, Some("a thought"), true, Some(("text/plain", b"of mine".to_vec())));
        world
    }

    fn put(&self, number: u128, content: Option<&str>, private: bool, file: Option<(&str, Vec<u8>)>) {
        let frame = json!({
            "id": id(number), "content": content, "metadata": { "n": number as u64 }, "session": "s",
            "created_at": "2026-01-02T03:04:05Z", "private": private,
        });
        match file {
            Some((content_type, bytes)) => self.server.upload("notes", &frame, content_type, &bytes),
            None => self.server.store("notes", frame),
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn run(&self, args: &[&str]) -> Output {
        self.server.mira(self.folder.path(), args)
    }

    /// The JSON that a command prints; it must succeed.
    #[track_caller]
    fn says(&self, args: &[&str]) -> Value {
        let output = self.run(&[args, &["--json"]].concat());
        assert!(output.status.success(), "{args:?}: {}", text(&output.stderr));
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// Imports what another world has exported here.
    fn import(&self, from: &World, file: &str, more: &[&str]) -> Output {
        let path = from.path(file).display().to_string();
        self.run(&[&["import", &path, "--collection", "notes", "--json"], more].concat())
    }

    fn memories(&self) -> BTreeMap<Uuid, Memory> {
        let memory = |(collection, frame): (String, Value)| {
            let id: Uuid = frame["id"].as_str().unwrap().parse().unwrap();
            let attachment = frame["attachment"].clone();
            let memory = Memory {
                content: frame["content"].as_str().map(str::to_owned),
                kind: frame["type"].as_str().unwrap().to_owned(),
                private: frame["private"].as_bool().unwrap_or_default(),
                metadata: frame["metadata"].clone(),
                file: attachment.is_object().then(|| self.server.content(&collection, id)),
                attachment,
            };
            (id, memory)
        };
        self.server.frames().into_iter().map(memory).collect()
    }
}

/// Added, already there, refused, whatever the exit code.
fn counts(output: &Output) -> (u64, u64, u64) {
    let summary: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{output:?}"));
    let count = |name: &str| summary[name].as_u64().unwrap();
    (count("added"), count("already_there"), count("refused"))
}

fn files_in(folder: &Path) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    let mut found: Vec<String> = entries
        .flat_map(|entry| {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            match path.is_dir() {
                true => files_in(&path).into_iter().map(|inner| format!("{name}/{inner}")).collect(),
                false => vec![name],
            }
        })
        .collect();
    found.sort();
    found
}

#[test]
fn a_way_through_files_loses_nothing() {
    for (format, name) in [("jsonl", "notes.jsonl"), ("parquet", "notes.parquet")] {
        let from = World::with_memories();
        let export = ["export", "--collection", "notes", "--format", format, "-o", name];
        let said = from.says(&export);
        assert_eq!((&said["frames"], &said["files"], &said["files_left_out"]), (&json!(4), &json!(3), &json!(0)));
        assert_eq!(said["file_bytes"], 3 * STEP + 77 + 10_000 + 7);
        let folder = from.path(&format!("{name}.files"));
        let names: Vec<String> = (2..5).map(|n| format!("0{n}/{}.v1", id(n))).collect();
        assert_eq!(files_in(&folder), names, "{format}: no half files");

        let to = World::new();
        let first = to.import(&from, name, &[]);
        assert_eq!(counts(&first), (4, 0, 0), "{format}: {}", text(&first.stderr));
        assert_eq!(to.memories(), from.memories(), "{format}");
        let uploaded = to.server.conduct().uploaded_bytes;
        let second = to.import(&from, name, &[]);
        assert_eq!(counts(&second).2, 0, "{format}: {}", text(&second.stderr));
        assert_eq!((to.memories(), to.server.conduct().uploaded_bytes), (from.memories(), uploaded), "{format}");
    }
}

#[test]
fn files_go_where_they_are_told_or_nowhere() {
    let world = World::with_memories();
    let said = world.says(&["export", "--collection", "notes", "-o", "a.jsonl", "--files", "elsewhere/deep"]);
    assert_eq!((&said["files"], files_in(&world.path("elsewhere/deep")).len()), (&json!(3), 3));
    let to = World::new();
    let folder = world.path("elsewhere/deep").display().to_string();
    let missing = to.import(&world, "a.jsonl", &[]);
    assert_eq!((counts(&missing), missing.status.code()), ((1, 0, 3), Some(1)));
    assert!(text(&missing.stderr).contains("a.jsonl:2: attachment \"02/"), "{}", text(&missing.stderr));
    // The one without a file is there from the try before.
    assert_eq!(counts(&to.import(&world, "a.jsonl", &["--files", &folder])), (3, 1, 0));
    assert_eq!(to.memories(), world.memories());

    let said = world.says(&["export", "--collection", "notes", "-o", "b.jsonl", "--no-files"]);
    // The one that is a file alone has nothing that a line could hold.
    assert_eq!((&said["frames"], &said["files"], &said["files_left_out"]), (&json!(3), &json!(0), &json!(3)));
    assert!(!world.path("b.jsonl.files").exists());
    let piped = world.run(&["export", "--collection", "notes"]);
    assert!(text(&piped.stderr).contains("left out 3 files"), "{}", text(&piped.stderr));
    assert_eq!(text(&piped.stdout).lines().count(), 3);
}

#[test]
fn markdown_links_to_its_files() {
    let world = World::with_memories();
    world.says(&["export", "--collection", "notes", "--format", "markdown", "-o", "out"]);
    let page = std::fs::read_to_string(world.path("out/s.md")).unwrap();
    let link = format!("the minutes\n\n[video/webm, {} bytes](<files/02/{}.v1>)", 3 * STEP + 77, id(2));
    assert!(page.contains(&link), "{page}");
    assert_eq!(files_in(&world.path("out/files")).len(), 3);
}

#[test]
fn an_export_that_was_stopped_fetches_no_file_twice() {
    let world = World::with_memories();
    world.says(&["export", "--collection", "notes", "-o", "whole.jsonl"]);
    let whole = std::fs::read_to_string(world.path("whole.jsonl")).unwrap();
    let read = world.server.conduct().contents_read;
    assert_eq!(read, 3);
    // As a stop leaves it: two lines, the files of these and half of the next.
    let (first, second) = (whole.lines().next().unwrap(), whole.lines().nth(1).unwrap());
    std::fs::write(world.path("again.jsonl.notes.part"), format!("{first}\n{second}\n{{\"cont")).unwrap();
    std::fs::create_dir_all(world.path("again.jsonl.files/02")).unwrap();
    std::fs::create_dir_all(world.path("again.jsonl.files/03")).unwrap();
    let name = |n: u128| format!("{n:02}/{}.v1", id(n));
    let copy = |n| {
        let (from, to) = (world.path("whole.jsonl.files"), world.path("again.jsonl.files"));
        std::fs::copy(from.join(name(n)), to.join(name(n))).unwrap();
    };
    copy(2);
    std::fs::write(world.path(&format!("again.jsonl.files/{}.part", name(3))), "half").unwrap();
    let said = world.says(&["export", "--collection", "notes", "-o", "again.jsonl"]);
    assert_eq!((&said["frames"], &said["frames_before"]), (&json!(2), &json!(2)));
    assert_eq!(world.server.conduct().contents_read - read, 2);
    assert_eq!(std::fs::read_to_string(world.path("again.jsonl")).unwrap(), whole);
    assert_eq!(files_in(&world.path("again.jsonl.files")), files_in(&world.path("whole.jsonl.files")));
    // A table begins anew, but its files do not.
    world.says(&["export", "--collection", "notes", "--format", "parquet", "-o", "t", "--files", "again.jsonl.files"]);
    assert_eq!(world.server.conduct().contents_read - read, 2);
}

#[test]
fn a_memory_that_is_replaced_while_it_is_read_is_exported_as_one_version() {
    let world = World::with_memories();
    world.server.conduct().replaces_while_read = Some(b"new content".to_vec());
    world.says(&["export", "--collection", "notes", "-o", "a.jsonl"]);
    let lines = std::fs::read_to_string(world.path("a.jsonl")).unwrap();
    let mut lines = lines.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let line = lines.find(|line| line["id"] == json!(id(2))).unwrap();
    assert_eq!(line["attachment"]["size"], 11);
    let file = world.path("a.jsonl.files").join(line["attachment"]["path"].as_str().unwrap());
    assert_eq!(std::fs::read(file).unwrap(), b"new content");
    assert_eq!(files_in(&world.path("a.jsonl.files")).len(), 3, "nothing of the old version");
}

#[test]
fn an_import_that_was_stopped_goes_on_within_a_file() {
    let from = World::with_memories();
    from.says(&["export", "--collection", "notes", "-o", "notes.jsonl"]);
    let to = World::new();
    to.server.conduct().breaks_after_steps = Some(2);
    let stopped = to.import(&from, "notes.jsonl", &["--writers", "1"]);
    assert!(!stopped.status.success());
    assert_eq!(to.server.conduct().uploaded_bytes, 2 * STEP as u64);
    to.server.conduct().breaks_after_steps = None;
    let done = to.import(&from, "notes.jsonl", &["--writers", "1"]);
    assert!(done.status.success(), "{}", text(&done.stderr));
    assert_eq!(to.memories(), from.memories());
    let all = (3 * STEP + 77 + 10_000 + 7) as u64;
    assert_eq!(to.server.conduct().uploaded_bytes, all, "no byte went twice");
}

#[test]
fn a_file_that_is_not_what_its_record_says_refuses_its_record_alone() {
    let from = World::with_memories();
    from.says(&["export", "--collection", "notes", "-o", "notes.jsonl"]);
    let file = |n: u128| from.path("notes.jsonl.files").join(format!("{n:02}/{}.v1", id(n)));
    let mut altered = noise(2, 3 * STEP + 77);
    altered[STEP] ^= 1;
    std::fs::write(file(2), altered).unwrap();
    std::fs::write(file(3), noise(3, 9_999)).unwrap();
    std::fs::remove_file(file(4)).unwrap();
    std::fs::write(from.path("secret"), "s").unwrap();
    let lines = std::fs::read_to_string(from.path("notes.jsonl")).unwrap();
    let escaping = json!({ "id": id(9), "attachment": { "path": "../secret" } });
    let anonymous = json!({ "attachment": { "path": "02/x" } });
    let odd = json!({ "id": id(9), "attachment": { "file": "x" } });
    std::fs::write(from.path("notes.jsonl"), format!("{lines}{escaping}\n{anonymous}\n{odd}\n")).unwrap();
    let to = World::new();
    let output = to.import(&from, "notes.jsonl", &[]);
    assert_eq!((counts(&output), output.status.code()), ((1, 0, 6), Some(1)));
    let said = text(&output.stderr);
    for (line, word) in [
        (2, "was altered"),
        (3, "has 9999 bytes, its record says 10000"),
        (4, "No such file"),
        (5, "no path within the folder"),
        (6, "needs an id"),
        (7, "attachment: unknown field `file`"),
    ] {
        let is_named = said.lines().any(|said| said.contains(&format!("notes.jsonl:{line}: ")) && said.contains(word));
        assert!(is_named, "{line}: {word}: {said}");
    }
    assert_eq!(to.memories().len(), 1);
}

#[test]
fn an_id_with_another_file_is_a_conflict() {
    let from = World::with_memories();
    from.says(&["export", "--collection", "notes", "-o", "notes.jsonl"]);
    let to = World::new();
    to.put(3, None, false, Some(("image/png", noise(30, 10_000))));
    let output = to.import(&from, "notes.jsonl", &[]);
    assert_eq!(counts(&output), (3, 0, 1));
    assert!(text(&output.stderr).contains("notes.jsonl:3: conflict"), "{}", text(&output.stderr));
    assert_eq!(to.memories()[&id(3)].file, Some(noise(30, 10_000)), "what was there is untouched");
}
