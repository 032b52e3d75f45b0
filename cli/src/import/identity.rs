//! What names a record in its source, so that importing the source again finds what it made of it.
//!
//! Two records are two memories when they differ in file, heading or time, or stand in two places of a conversation; the
//! same record in the same place is the same memory, however often its source is imported. What a name is made of depends on
//! what the source says:
//!
//! | record | named by | so that |
//! |---|---|---|
//! | one with an `id` or `source_key`, an entity of an MCP memory, a memory of mem0 with an id | that | it keeps its name when anything else of it changes |
//! | a part of a text or Markdown file | its headings, and which one it is of those with the same headings | a part that changes is a new version of itself |
//! | any other one in a session | time, what it says, and which one it is of those that say the same | "continue", said twice, is twice in the conversation; an insert renames nothing |
//! | any other one without a session | time and what it says | a line that is repeated word for word is one memory |
//!
//! A line number would be a poor name: a line that is inserted at the top would rename everything below it.
//!
//! Names hold within a file, and the router gets a hash of file and name as `source_key`, of which it makes the memory's id with
//! a key of the collection's: anybody can compute the hash, so an id that holds it would confirm a guess.
//!
//! The layouts below are persisted: changed, every import would add everything again. Their versions are in the contexts, and
//! a test pins samples.

use std::collections::HashMap;

use mira_proto::model::{DEFAULT_COLLECTION, DEFAULT_TYPE, StoreItem};
use serde_json::Value;

use crate::import::files::FileRef;
use crate::import::source::Format;

/// Domain separation and versions of the layouts.
const OF_CONTENT: &str = "mira import: what a record says, version 1";
const OF_NAME: &str = "mira import: name of a record in its file, version 1";
const OF_KEY: &str = "mira import: source key of a record, version 2";

/// Names of a file that are remembered: some 50 bytes each. Further ones count as the first of their kind.
const MAX_NAMES: usize = 1 << 20;

/// A hash: 2⁶⁴ records before two are likely to share one.
pub type Digest = [u8; 16];

/// Who wrote the metadata of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// The caller: it is part of the memory.
    Record,
    /// The importer: it is a note on where the text was found.
    File,
}

/// A record as it is known in its file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity {
    /// Its name.
    pub name: Digest,
    /// What it says, without the importer's own notes.
    pub said: Digest,
    /// Its `id` or `source_key` names it, and not this importer.
    pub is_own: bool,
    /// What it says is a part of its name: whatever has this name says this.
    pub is_said: bool,
}

/// What the records before it in the same file mean for a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// Nothing: it is another one.
    New,
    /// It was there already.
    Repeated,
    /// One of the same name, given by the source, said something else.
    Contradicts,
}

/// The names of the records of one file, in their order.
#[derive(Debug, Default)]
pub struct Names(HashMap<Digest, Seen>);

#[derive(Debug)]
struct Seen {
    count: u64,
    said: Digest,
}

impl Names {
    /// The name of the next record. Of a file that is gone on with, those before it must have been named too.
    pub fn next(&mut self, format: Format, item: &StoreItem, file: Option<&FileRef>) -> (Identity, Standing) {
        let said = said(item, format.origin(), file);
        let own = item.id.map(|id| ("id", id.to_string())).or(item.source_key.clone().map(|key| ("key", key)));
        if let Some((kind, own)) = own {
            let name = name_of(kind, item, &[&own], 0);
            let standing = match self.see(name, said) {
                (0, _) => Standing::New,
                (_, before) if before == said => Standing::Repeated,
                _ => Standing::Contradicts,
            };
            return (Identity { name, said, is_own: true, is_said: false }, standing);
        }
        let mut named = |kind: &str, parts: &[&str], is_counted: bool| {
            let (before, _) = self.see(name_of(kind, item, parts, 0), said);
            let standing = if before > 0 && !is_counted { Standing::Repeated } else { Standing::New };
            let ordinal = if is_counted { before } else { 0 };
            let name = name_of(kind, item, parts, ordinal);
            (Identity { name, said, is_own: false, is_said: kind == "said" }, standing)
        };
        if let Some(given) = given_name(format, item) {
            return named("given", &[given], true);
        }
        let metadata = |name: &str| item.metadata.as_ref().and_then(|known| known.get(name)?.as_str());
        match (format, metadata("path")) {
            (Format::Text, Some(_)) => named("part", &[], true),
            (Format::Markdown, Some(_)) => named("heading", &[metadata("title").unwrap_or_default()], true),
            _ => {
                // Where a chunk of a video stands is a note on it.
                let origin = if format == Format::Memvid { Origin::File } else { format.origin() };
                let text = hex(&self::said(item, origin, file));
                named("said", &[item.created_at.as_deref().unwrap_or_default(), &text], item.session.is_some())
            }
        }
    }

    /// How many had this name before, and what the last of them said.
    fn see(&mut self, name: Digest, said: Digest) -> (u64, Digest) {
        if self.0.len() >= MAX_NAMES && !self.0.contains_key(&name) {
            return (0, said);
        }
        let seen = self.0.entry(name).or_insert(Seen { count: 0, said });
        seen.count += 1;
        (seen.count - 1, seen.said)
    }
}

/// What another program calls the record.
fn given_name(format: Format, item: &StoreItem) -> Option<&str> {
    let of = |name: &str| item.metadata.as_ref().and_then(|known| known.get(name)?.as_str());
    match format {
        Format::McpMemory if item.kind.as_deref() == Some("entity") => of("name"),
        Format::Mem0 => of("mem0_id"),
        _ => None,
    }
}

/// The name of a record. As the router does, it keeps names apart by collection, session and owner, but ids by collection alone.
fn name_of(kind: &str, item: &StoreItem, parts: &[&str], ordinal: u64) -> Digest {
    let mut hash = Fields(blake3::Hasher::new_derive_key(OF_NAME));
    hash.text(Some(kind));
    hash.text(Some(item.collection.as_deref().unwrap_or(DEFAULT_COLLECTION)));
    if item.id.is_none() {
        hash.text(item.session.as_deref());
        hash.0.update(&[u8::from(item.private)]);
    }
    parts.iter().for_each(|part| hash.text(Some(part)));
    hash.0.update(&ordinal.to_le_bytes());
    hash.digest()
}

/// What names a record of a file to the router: hexadecimal digits.
pub fn source_key(path: &str, name: &Digest) -> Digest {
    let mut hash = Fields(blake3::Hasher::new_derive_key(OF_KEY));
    hash.text(Some(path));
    hash.0.update(name);
    hash.digest()
}

/// The name of a version that is kept beside others of its name.
pub fn name_beside(Identity { name, said, .. }: &Identity) -> Digest {
    let mut hash = Fields(blake3::Hasher::new_derive_key(OF_NAME));
    hash.text(Some("beside"));
    hash.0.update(name).update(said);
    hash.digest()
}

/// Hexadecimal digits.
pub fn hex(digest: &Digest) -> String {
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// What a record says.
fn said(item: &StoreItem, origin: Origin, file: Option<&FileRef>) -> Digest {
    let mut hash = Fields(blake3::Hasher::new_derive_key(OF_CONTENT));
    hash.text(Some(item.kind.as_deref().unwrap_or(DEFAULT_TYPE)));
    for field in [&item.session, &item.role, &item.content, &item.bytes] {
        hash.text(field.as_deref());
    }
    hash.0.update(&[u8::from(item.private)]);
    if origin == Origin::Record {
        hash.text(item.expires_at.as_deref());
        hash.text(file.and_then(|file| file.blake3.as_deref()));
        hash.value(&Value::Object(item.metadata.clone().unwrap_or_default()));
        for component in item.vector.iter().flatten() {
            hash.0.update(&component.to_le_bytes());
        }
        for (name, vector) in &item.vectors {
            hash.text(Some(name));
            vector.iter().for_each(|component| {
                hash.0.update(&component.to_le_bytes());
            });
        }
    }
    hash.digest()
}

/// A hash of values with their lengths and kinds, so that no two lists of fields look alike.
struct Fields(blake3::Hasher);

impl Fields {
    fn text(&mut self, text: Option<&str>) {
        match text {
            None => self.tagged(0, 0),
            Some(text) => {
                self.tagged(1, text.len());
                self.0.update(text.as_bytes());
            }
        }
    }

    /// JSON with the keys of objects in order, whatever order the map type keeps.
    fn value(&mut self, value: &Value) {
        match value {
            Value::Null | Value::Bool(_) | Value::Number(_) => self.text(Some(&value.to_string())),
            Value::String(text) => {
                self.tagged(2, 0);
                self.text(Some(text));
            }
            Value::Array(values) => {
                self.tagged(3, values.len());
                values.iter().for_each(|value| self.value(value));
            }
            Value::Object(map) => {
                self.tagged(4, map.len());
                let mut entries: Vec<_> = map.iter().collect();
                entries.sort_by_key(|(name, _)| *name);
                for (name, value) in entries {
                    self.text(Some(name));
                    self.value(value);
                }
            }
        }
    }

    fn tagged(&mut self, kind: u8, length: usize) {
        self.0.update(&[kind]).update(&(length as u64).to_le_bytes());
    }

    fn digest(self) -> Digest {
        let mut digest = Digest::default();
        self.0.finalize_xof().fill(&mut digest);
        digest
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn item(json: &str) -> StoreItem {
        serde_json::from_str(json).unwrap()
    }

    /// Names and standings of the records of a file.
    fn named(format: Format, records: &[&str]) -> Vec<(String, Standing)> {
        let mut names = Names::default();
        let next = |json: &&str| names.next(format, &item(json), None);
        records.iter().map(next).map(|(identity, standing)| (hex(&identity.name), standing)).collect()
    }

    fn different(found: &[(String, Standing)]) -> usize {
        found.iter().map(|(name, _)| name).collect::<BTreeSet<_>>().len()
    }

    #[test]
    fn the_layouts_do_not_change() {
        let record = r#"{"content": "tea", "session": "s", "metadata": {"b": [1, "x", null], "a": true}}"#;
        let (identity, _) = Names::default().next(Format::Jsonl, &item(record), None);
        let found = [&identity.said, &identity.name, &source_key("/a/b.jsonl", &identity.name)].map(hex);
        assert_eq!(
            found,
            [
                "ab7c74c9eb1ed92630bdafa32c06f76d",
                "d7fcdfa3fd071b432c48a1a558c1c235",
                "29cd68a62f62aecdebbc5a72f66669da"
            ]
        );
    }

    #[test]
    fn defaults_and_the_order_of_keys_make_no_difference() {
        let same = [
            r#"{"content": "tea", "metadata": {"a": 1, "b": 2}}"#,
            r#"{"metadata": {"b": 2, "a": 1}, "type": "general", "content": "tea"}"#,
            r#"{"content": "tea", "collection": "default", "metadata": {"a": 1, "b": 2}}"#,
        ];
        assert_eq!(different(&named(Format::Jsonl, &same)), 1);
    }

    #[test]
    fn everything_a_record_says_makes_a_difference() {
        let variants = [
            r#"{"content": "tea"}"#,
            r#"{"content": "tea "}"#,
            r#"{"bytes": "tea"}"#,
            r#"{"content": "tea", "type": "insight"}"#,
            r#"{"content": "tea", "session": "a"}"#,
            r#"{"content": "tea", "role": "a"}"#,
            r#"{"content": "tea", "metadata": {"a": 1}}"#,
            r#"{"content": "tea", "metadata": {"a": "1"}}"#,
            r#"{"content": "tea", "metadata": {"a": [1]}}"#,
            r#"{"content": "tea", "vector": [1]}"#,
            r#"{"content": "tea", "expires_at": "2030-01-01T00:00:00Z"}"#,
            r#"{"content": "tea", "created_at": "2026-01-01T00:00:00Z"}"#,
            r#"{"content": "tea", "created_at": "2026-01-01T00:00:01Z"}"#,
            r#"{"content": "tea", "private": true}"#,
            r#"{"content": "tea", "collection": "a"}"#,
        ];
        assert_eq!(different(&named(Format::Jsonl, &variants)), variants.len());
    }

    #[test]
    fn what_is_said_again_in_a_conversation_is_another_turn_and_a_repeated_line_is_not() {
        let turns = named(Format::Jsonl, &[r#"{"content": "continue", "session": "s"}"#; 3]);
        assert_eq!(different(&turns), 3);
        assert!(turns.iter().all(|(_, standing)| *standing == Standing::New));
        let lines = named(Format::Parquet, &[r#"{"content": "continue"}"#; 2]);
        assert_eq!((different(&lines), lines[1].1), (1, Standing::Repeated));
        let inserted = [r#"{"content": "first", "session": "s"}"#, r#"{"content": "continue", "session": "s"}"#];
        assert_eq!(named(Format::Jsonl, &inserted)[1], turns[0], "an insert renames nothing");
    }

    #[test]
    fn a_part_of_a_document_keeps_its_name_when_its_text_changes() {
        let section = |title: &str, text: &str| {
            format!(
                r#"{{"content": "{text}", "metadata": {{"path": "a.md", "title": "{title}", "line": {}}}}}"#,
                text.len()
            )
        };
        let sections = [section("A > Verdict", "yes"), section("B > Verdict", "yes"), section("A > Verdict", "no")];
        let found = named(Format::Markdown, &sections.each_ref().map(String::as_str));
        assert_eq!(different(&found), 3);
        assert_eq!(named(Format::Markdown, &[&section("A > Verdict", "maybe")])[0], found[0]);
        let parts = named(Format::Text, &[&section("a", "one"), &section("a", "one")]);
        assert_eq!(different(&parts), 2);
        let said = |json: &str| Names::default().next(Format::Markdown, &item(json), None).0.said;
        let moved = r#"{"content": "yes", "metadata": {"path": "b/a.md", "title": "A > Verdict"}}"#;
        assert_eq!(said(moved), said(&sections[0]), "a file that moved says the same");
    }

    #[test]
    fn what_its_source_names_keeps_its_name() {
        let id = "01999999-0000-7000-8000-000000000001";
        for own in [format!(r#""id": "{id}""#), r#""source_key": "k""#.to_owned()] {
            let record = |text: &str| format!(r#"{{"content": "{text}", {own}}}"#);
            let found = named(Format::Jsonl, &[&record("a"), &record("a"), &record("b")]);
            assert_eq!(different(&found), 1);
            let standings: Vec<_> = found.iter().map(|(_, standing)| *standing).collect();
            assert_eq!(standings, [Standing::New, Standing::Repeated, Standing::Contradicts]);
        }
        let entity = |told: &str| {
            format!(r#"{{"type": "entity", "content": "Ada {told}", "metadata": {{"name": "Ada", "told": "{told}"}}}}"#)
        };
        assert_eq!(named(Format::McpMemory, &[&entity("x")]), named(Format::McpMemory, &[&entity("y")]));
        let memory = |text: &str| format!(r#"{{"content": "{text}", "metadata": {{"mem0_id": "17"}}}}"#);
        assert_eq!(named(Format::Mem0, &[&memory("x")]), named(Format::Mem0, &[&memory("y")]));
        let chunk = |at: u32| format!(r#"{{"content": "x", "metadata": {{"memvid_id": {at}}}}}"#);
        assert_eq!(named(Format::Memvid, &[&chunk(1)]), named(Format::Memvid, &[&chunk(2)]));
    }
}
