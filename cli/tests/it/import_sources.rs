//! Sources that change and say things twice: what `mira import` makes of them when they are imported again.

use serde_json::{Value, json};

use crate::import::Import;
use crate::support::text;

/// What a run did; it must have succeeded.
#[derive(Debug, Default, PartialEq, Eq)]
struct Did {
    added: u64,
    replaced: u64,
    there: u64,
    repeated: u64,
    ended: u64,
}

impl Import {
    #[track_caller]
    fn did(&self, args: &[&str]) -> Did {
        let output = self.run(args);
        assert!(output.status.success(), "{args:?}: {}", text(&output.stderr));
        let summary: Value = serde_json::from_slice(&output.stdout).unwrap();
        let count = |name: &str| summary[name].as_u64().unwrap();
        Did {
            added: count("added"),
            replaced: count("replaced"),
            there: count("already_there"),
            repeated: count("repeated"),
            ended: count("ended"),
        }
    }

    fn ids(&self) -> Vec<(String, String)> {
        let id =
            |frame: &Value| (frame["content"].as_str().unwrap().to_owned(), frame["id"].as_str().unwrap().to_owned());
        let mut ids: Vec<_> = self.server.frames().iter().map(|(_, frame)| id(frame)).collect();
        ids.sort();
        ids
    }

    fn remove(&self, name: &str) {
        std::fs::remove_file(self.folder.path().join(name)).unwrap();
    }
}

fn lines(records: &[Value]) -> String {
    records.iter().map(|record| format!("{record}\n")).collect()
}

#[test]
fn what_is_said_again_is_another_memory() {
    let import = Import::new();
    let turn =
        |at: u32| json!({"content": "continue", "session": "s", "created_at": format!("2026-01-01T00:00:{at:02}Z")});
    import.write("chat.jsonl", lines(&[turn(1), turn(2), turn(2)]));
    assert_eq!(import.did(&["chat.jsonl"]), Did { added: 3, ..Did::default() });
    let event = |at: u32| json!({"content": "restarted", "created_at": format!("2026-01-01T00:00:{at:02}Z")});
    import.write("events.jsonl", lines(&[event(1), event(2), event(2)]));
    assert_eq!(import.did(&["events.jsonl"]), Did { added: 2, repeated: 1, ..Did::default() });
    for (name, note) in [("a.md", "one"), ("b.md", "two")] {
        import.write(&format!("notes/{name}"), format!("# {note}\nsaid\n\n## Verdict\nApproved.\n"));
    }
    assert_eq!(import.did(&["notes"]), Did { added: 4, ..Did::default() });
    assert_eq!(import.contents().iter().filter(|content| content.contains("Approved")).count(), 2);
    let mut paths: Vec<_> = import
        .server
        .frames()
        .iter()
        .filter_map(|(_, frame)| Some(frame["metadata"]["path"].as_str()?.to_owned()))
        .collect();
    paths.sort();
    assert_eq!(paths, ["notes/a.md", "notes/a.md", "notes/b.md", "notes/b.md"]);

    // The same sources again.
    let before = import.ids();
    assert_eq!(import.did(&["chat.jsonl"]), Did { there: 3, ..Did::default() });
    assert_eq!(import.did(&["events.jsonl"]), Did { there: 2, repeated: 1, ..Did::default() });
    assert_eq!(import.did(&["notes"]), Did { there: 4, ..Did::default() });
    assert_eq!(import.ids(), before);
}

#[test]
fn a_note_that_changed_supersedes_what_it_said() {
    let import = Import::new();
    import.write("n/a.md", "# Ports\nhttp is 8080\n\n# Names\nnone\n\n# Old\ngone soon\n");
    assert_eq!(import.did(&["n/a.md"]).added, 3);
    let id =
        |import: &Import, with: &str| import.ids().into_iter().find(|(content, _)| content.contains(with)).unwrap().1;
    let ports = id(&import, "8080");

    import.write("n/a.md", "# New\nfirst of all\n\n# Ports\nhttp is 9443\n\n# Names\nnone\n\n");
    assert_eq!(import.did(&["n/a.md"]), Did { added: 1, replaced: 1, there: 1, ended: 1, ..Did::default() });
    let now = ["# Names\nnone\n\n", "# New\nfirst of all\n\n", "# Ports\nhttp is 9443\n\n"];
    assert_eq!(import.contents(), now);
    assert_eq!(id(&import, "9443"), ports, "a new version of the same memory");
    let replaced = import.server.frames().into_iter().find(|(_, frame)| frame["id"] == ports.as_str()).unwrap().1;
    assert_eq!(replaced["version"], 2);

    // Named in another way, it is the same file.
    let whole = import.folder.path().join("n/a.md").display().to_string();
    for path in ["n", "./n/../n/a.md", &whole] {
        assert_eq!(import.did(&[path]), Did { there: 3, ..Did::default() }, "{path}");
    }
    assert_eq!(import.contents(), now);
}

#[test]
fn old_parts_are_kept_by_those_who_want_them() {
    let import = Import::new();
    import.write("a.md", "# Ports\n8080\n\n# Old\nold\n");
    import.write("a.txt", "one");
    assert_eq!(import.did(&["a.md", "a.txt"]).added, 3);
    import.write("a.md", "# Ports\n9443\n\n");
    import.write("a.txt", "two");
    let keep = ["a.md", "a.txt", "--keep-old"];
    assert_eq!(import.did(&keep), Did { added: 2, ..Did::default() });
    assert_eq!(import.did(&keep), Did { there: 2, ..Did::default() });
    assert_eq!(import.contents(), ["# Old\nold\n", "# Ports\n8080\n\n", "# Ports\n9443\n\n", "one", "two"]);
    // Without it, what is not there any more ends after all.
    assert_eq!(import.did(&["a.md", "a.txt"]), Did { replaced: 2, ended: 3, ..Did::default() });
    assert_eq!(import.contents(), ["# Ports\n9443\n\n", "two"]);
}

#[test]
fn a_line_that_is_inserted_shifts_nothing_and_one_that_changed_takes_the_place_of_the_old() {
    let import = Import::new();
    let turn = |content: &str| json!({"content": content, "session": "s"});
    import.write("a.jsonl", lines(&[turn("one"), turn("go on"), turn("two"), turn("go on")]));
    assert_eq!(import.did(&["a.jsonl"]).added, 4);
    let before = import.ids();
    import.write("a.jsonl", lines(&[turn("zero"), turn("one"), turn("go on"), turn("two"), turn("go on")]));
    assert_eq!(import.did(&["a.jsonl"]), Did { added: 1, there: 4, ..Did::default() });
    let now = import.ids();
    assert!(before.iter().all(|known| now.contains(known)), "{before:?} {now:?}");
    import.write("a.jsonl", lines(&[turn("zero"), turn("one"), turn("2"), turn("go on")]));
    assert_eq!(import.did(&["a.jsonl"]), Did { added: 1, there: 3, ended: 2, ..Did::default() });
    assert_eq!(import.contents(), ["2", "go on", "one", "zero"]);
}

#[test]
fn a_record_with_a_name_of_its_own_is_replaced_and_ends_if_this_file_brought_it() {
    let import = Import::new();
    let id = |n: u32| format!("01999999-0000-7000-8000-{n:012}");
    let record = |n: u32, content: &str| json!({"content": content, "id": id(n)});
    import.server.store("default", record(3, "from elsewhere"));
    import.server.store("default", record(4, "as it is"));
    import.write("a.jsonl", lines(&[record(1, "one"), record(2, "two"), record(3, "three"), record(4, "as it is")]));
    let first = import.run(&["a.jsonl"]);
    assert_eq!(Import::counts(&first), (2, 1, 1));
    assert!(text(&first.stderr).contains("a.jsonl:3: conflict"), "{first:?}");

    import.write("a.jsonl", lines(&[record(1, "uno"), record(5, "five")]));
    assert_eq!(import.did(&["a.jsonl"]), Did { added: 1, replaced: 1, ended: 1, ..Did::default() });
    assert_eq!(import.contents(), ["as it is", "five", "from elsewhere", "uno"]);
    // Twice in one file, with two contents: neither may win by the order of two imports.
    import.write("b.jsonl", lines(&[record(6, "a"), record(6, "a"), record(6, "b")]));
    for _ in 0..2 {
        let twice = import.run(&["b.jsonl"]);
        assert_eq!(Import::counts(&twice).2, 1, "{twice:?}");
        assert!(import.contents().contains(&"a".to_owned()));
    }
}

#[test]
fn memories_of_other_programs_supersede_what_they_were() {
    let import = Import::new();
    let cases = [
        (
            "mcp-memory",
            lines(&[
                json!({"type": "entity", "name": "Ada", "entityType": "person", "observations": ["likes tea"]}),
                json!({"type": "relation", "from": "Ada", "to": "Engine", "relationType": "built"}),
            ]),
            lines(&[
                json!({"type": "entity", "name": "Ada", "entityType": "person", "observations": ["likes coffee"]}),
                json!({"type": "relation", "from": "Ada", "to": "Engine", "relationType": "programs"}),
            ]),
            Did { added: 1, replaced: 1, ended: 1, ..Did::default() },
            vec!["Ada (person)\n- likes coffee", "Ada programs Engine"],
        ),
        (
            "mem0",
            json!([{"id": "01999999-0000-7000-8000-000000000001", "memory": "port 8080"}, {"id": "m2", "memory": "tea"}, {"memory": "no id"}]).to_string(),
            json!([{"id": "01999999-0000-7000-8000-000000000001", "memory": "port 9443"}, {"id": "m2", "memory": "coffee"}, {"memory": "none"}]).to_string(),
            Did { added: 1, replaced: 2, ended: 1, ..Did::default() },
            vec!["coffee", "none", "port 9443"],
        ),
        (
            "memvid",
            json!({"metadata": [{"id": 0, "text": "one", "frame": 0}, {"id": 1, "text": "two", "frame": 1}]}).to_string(),
            json!({"metadata": [{"id": 0, "text": "zero", "frame": 0}, {"id": 1, "text": "two", "frame": 2}]}).to_string(),
            Did { added: 1, there: 1, ended: 1, ..Did::default() },
            vec!["two", "zero"],
        ),
    ];
    for (format, first, second, did, contents) in cases {
        let import = if format == "mcp-memory" { &import } else { &Import::new() };
        let args = ["in.json", "--format", format];
        import.write("in.json", first);
        let added = import.did(&args);
        assert_eq!(added, Did { added: added.added, ..Did::default() }, "{format}");
        assert_eq!(import.did(&args), Did { there: added.added, ..Did::default() }, "{format}");
        import.write("in.json", second);
        assert_eq!(import.did(&args), did, "{format}");
        assert_eq!(import.contents(), contents, "{format}");
    }
}

#[test]
fn a_table_supersedes_what_it_had() {
    let import = Import::new();
    let turn = |content: &str| json!({"content": content, "session": "s", "created_at": "2026-01-01T00:00:00Z"});
    import.write("a.jsonl", lines(&[turn("one"), turn("go on"), turn("go on")]));
    assert_eq!(import.did(&["a.jsonl"]).added, 3);
    let export = |import: &Import| {
        let done = import.server.mira(import.folder.path(), &["export", "--format", "parquet", "-o", "t.parquet"]);
        assert!(done.status.success(), "{done:?}");
    };
    export(&import);
    let other = Import::new();
    let copy = |to: &Import| {
        std::fs::copy(import.folder.path().join("t.parquet"), to.folder.path().join("t.parquet")).unwrap()
    };
    copy(&other);
    assert_eq!(other.did(&["t.parquet"]), Did { added: 3, ..Did::default() });
    import.write("a.jsonl", lines(&[turn("two"), turn("go on"), turn("go on")]));
    assert_eq!(import.did(&["a.jsonl"]).ended, 1);
    export(&import);
    copy(&other);
    assert_eq!(other.did(&["t.parquet"]), Did { added: 1, there: 2, ended: 1, ..Did::default() });
    assert_eq!(other.contents(), ["go on", "go on", "two"]);
}

#[test]
fn a_source_that_was_not_read_whole_ends_nothing() {
    let import = Import::new();
    let turn = |content: &str| json!({"content": content});
    import.write("a.jsonl", lines(&[turn("one"), turn("two"), turn("three")]));
    assert_eq!(import.did(&["a.jsonl"]).added, 3);
    let all = import.contents();
    // Cut within a line; with something that is refused; of standard input, which has no name.
    import.write("a.jsonl", "{\"content\": \"one\"}\n{\"cont");
    assert_eq!(Import::counts(&import.run(&["a.jsonl"])), (0, 1, 1));
    import.write("a.jsonl", "{\"content\": \"one\"}\n{\"content\": \" \"}\n");
    assert_eq!(Import::counts(&import.run(&["a.jsonl"])), (0, 1, 1));
    assert_eq!(import.contents(), all);
    // Broken off, and gone on with.
    import.write("a.jsonl", lines(&[turn("one"), turn("four"), turn("five")]));
    import.server.conduct().breaks_after_stores = Some(1);
    assert!(!import.run(&["a.jsonl", "--batch", "1", "--writers", "1"]).status.success());
    assert!(all.iter().all(|content| import.contents().contains(content)), "{:?}", import.contents());
    import.server.conduct().breaks_after_stores = None;
    assert_eq!(import.did(&["a.jsonl"]).ended, 2);
    assert_eq!(import.contents(), ["five", "four", "one"]);
    assert_eq!(import.did(&["a.jsonl"]), Did { there: 3, ..Did::default() });
}

#[test]
fn what_was_stopped_by_a_refusal_goes_on_with_the_rest_and_ends_in_the_same_state() {
    let record = |n: usize| json!({"content": format!("text {n:03}"), "session": "s"});
    let good: Vec<Value> = (0..60).map(record).collect();
    let import = Import::new();
    import.write("a.jsonl", lines(&good[..50]));
    let state = ["a.jsonl", "--state", "state", "--batch", "10", "--writers", "1"];
    assert_eq!(import.did(&state).added, 50);
    let changed = [&good[..20], &[json!({"contnet": 1})], &good[30..]].concat();
    import.write("a.jsonl", lines(&changed));
    assert!(!import.run(&[&state[..], &["--strict"]].concat()).status.success());
    assert!(import.contents().len() >= 50, "a stop ends nothing");
    let repaired = [&good[..20], &good[30..]].concat();
    import.write("a.jsonl", lines(&repaired));
    assert_eq!(import.did(&state).ended, 10);
    let whole = Import::new();
    whole.write("a.jsonl", lines(&repaired));
    assert_eq!(whole.did(&["a.jsonl"]).added, 50);
    assert_eq!(import.contents(), whole.contents());
}

#[test]
fn files_that_are_gone_from_a_folder_end_and_those_that_moved_do_not() {
    let import = Import::new();
    let note = |name: &str| format!("# {name}\nabout {name}\n\n# Verdict\nApproved.\n");
    for name in ["n/a.md", "n/sub/b.md", "other/a.md"] {
        import.write(name, note(name));
    }
    assert_eq!(import.did(&["n", "other"]), Did { added: 6, ..Did::default() });
    let before = import.ids();
    import.remove("n/sub/b.md");
    assert_eq!(import.did(&["n/a.md"]), Did { there: 2, ..Did::default() }, "a file alone says nothing of its folder");
    assert_eq!(import.did(&["n"]), Did { there: 2, ended: 2, ..Did::default() });
    assert_eq!(import.contents().len(), 4);

    let path = |name: &str| import.folder.path().join(name);
    std::fs::rename(path("n"), path("moved")).unwrap();
    assert_eq!(import.did(&["moved"]), Did { there: 2, ..Did::default() });
    assert!(import.ids().iter().all(|known| before.contains(known)), "the same memories");
    import.write("moved/a.md", "# n/a.md\nabout something else\n\n# Verdict\nApproved.\n");
    assert_eq!(import.did(&["moved"]), Did { there: 1, replaced: 1, ..Did::default() }, "and they are its own now");
    // A copy is another source.
    std::fs::create_dir(path("copy")).unwrap();
    std::fs::copy(path("moved/a.md"), path("copy/a.md")).unwrap();
    assert_eq!(import.did(&["copy"]), Did { added: 2, ..Did::default() });
    // A folder that is empty may not be mounted.
    import.remove("copy/a.md");
    assert_eq!(import.did(&["copy"]), Did::default());
    assert_eq!(import.contents().len(), 6);
}

#[test]
fn private_records_supersede_what_they_were() {
    let import = Import::new();
    let record = |content: &str| json!({"content": content, "private": true, "session": "s"});
    let own =
        |content: &str| json!({"content": content, "private": true, "id": "01999999-0000-7000-8000-000000000001"});
    import.write("a.jsonl", lines(&[record("one"), record("two"), own("mine"), json!({"content": "plain"})]));
    assert_eq!(import.did(&["a.jsonl"]).added, 4);
    import.write("a.jsonl", lines(&[record("two"), own("still mine"), json!({"content": "plain"})]));
    assert_eq!(import.did(&["a.jsonl"]), Did { replaced: 1, there: 2, ended: 1, ..Did::default() });
    assert_eq!(import.contents(), ["plain", "still mine", "two"]);
    import.write("a.jsonl", lines(&[json!({"content": "plain"})]));
    assert_eq!(import.did(&["a.jsonl"]), Did { there: 1, ended: 2, ..Did::default() });
    assert_eq!(import.contents(), ["plain"]);
}

#[test]
fn what_was_changed_or_forgotten_in_the_collection_follows_its_source() {
    let import = Import::new();
    import.write("a.md", "# A\none\n\n# B\ntwo\n");
    assert_eq!(import.did(&["a.md"]).added, 2);
    let (a, b) = (import.ids()[0].1.clone(), import.ids()[1].1.clone());
    import.server.store("default", json!({"id": a, "content": "corrected", "replace": true}));
    import.server.forget("default", &b);
    assert_eq!(import.did(&["a.md"]), Did { added: 1, there: 1, ..Did::default() });
    assert_eq!(import.contents(), ["# B\ntwo\n", "corrected"], "an unchanged source undoes no correction");
    import.write("a.md", "# A\nthree\n\n# B\ntwo\n");
    assert_eq!(import.did(&["a.md"]), Did { replaced: 1, there: 1, ..Did::default() });
    assert_eq!(import.contents(), ["# A\nthree\n\n", "# B\ntwo\n"]);
}

#[test]
fn an_unchanged_source_writes_and_embeds_nothing() {
    let import = Import::new();
    import.write("a.jsonl", lines(&(0..300).map(|n| json!({"content": format!("text {n}")})).collect::<Vec<_>>()));
    import.write("n/a.md", "# A\none\n\n# B\ntwo\n");
    assert_eq!(import.did(&["a.jsonl", "n"]).added, 302);
    let embedded = import.server.embedded_texts();
    let notes = |import: &Import| {
        let requests = &import.server.conduct().requests;
        requests.iter().filter(|(_, path, _)| path != "/mcp/recall" && path != "/mcp/store").count()
    };
    let other = notes(&import);
    let stores = import.server.conduct().requests.len();
    import.server.conduct().store_sizes.clear();
    assert_eq!(import.did(&["a.jsonl", "n"]), Did { there: 302, ..Did::default() });
    assert_eq!((import.server.embedded_texts(), notes(&import)), (embedded, other));
    let sent: usize = import.server.conduct().store_sizes.iter().sum();
    assert_eq!(sent, 302, "each record once, and nothing of the list");
    // What the list of parts takes: its root, its pages.
    let recalls =
        import.server.conduct().requests[stores..].iter().filter(|(_, path, _)| path == "/mcp/recall").count();
    assert_eq!(recalls, 2);
}

#[test]
fn an_export_shows_memories_alone() {
    let import = Import::new();
    import.write("a.jsonl", lines(&[json!({"content": "one", "session": "s"})]));
    assert_eq!(import.did(&["a.jsonl"]).added, 1);
    let exported = import.server.mira(import.folder.path(), &["export"]);
    assert_eq!(text(&exported.stdout).lines().count(), 1, "{exported:?}");
}

#[test]
fn a_note_that_was_emptied_ends_what_it_said_and_says_so() {
    let import = Import::new();
    import.write("n/a.md", "# A\none\n\n# B\ntwo\n");
    import.write("n/b.md", "# C\nthree\n");
    assert_eq!(import.did(&["n"]).added, 3);
    import.write("n/a.md", "");
    let kept = import.run(&["n", "--keep-old"]);
    assert!(!text(&kept.stderr).contains("emptied"), "{kept:?}");
    assert_eq!(import.contents().len(), 3);
    let emptied = import.run(&["n/a.md"]);
    assert!(text(&emptied.stderr).contains("emptied n/a.md: 2 parts end"), "{emptied:?}");
    assert_eq!(import.contents(), ["# C\nthree\n"]);
    let again = import.run(&["n"]);
    assert!(!text(&again.stderr).contains("emptied"), "only once: {again:?}");
}

#[test]
fn turns_that_are_put_into_a_conversation_are_recalled_where_they_stand_in_it() {
    let import = Import::new();
    let turns = |said: &[&str]| -> String {
        said.iter().map(|said| format!("{}\n", json!({ "content": said, "session": "s" }))).collect()
    };
    let recalled = || -> Vec<String> {
        let output = import.server.mira(import.folder.path(), &["recall", "--session", "s", "--json"]);
        let reply: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{output:?}"));
        reply["frames"].as_array().unwrap().iter().map(|frame| frame["content"].as_str().unwrap().into()).collect()
    };
    for said in [
        &["one", "two", "three"][..],
        &["zero", "one", "one and a half", "two", "three", "four"],
        &["zero", "a half", "one", "one and a half", "almost two", "two", "two again", "three", "four", "five"],
        &["zero", "one", "two", "three", "the end", "five"],
    ] {
        import.write("chat.jsonl", turns(said));
        import.did(&["chat.jsonl"]);
        assert_eq!(recalled(), said);
    }
}
