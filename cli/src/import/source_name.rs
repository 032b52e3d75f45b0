//! What names a record by its place in its source.
//!
//! Two records are two memories when they differ in file, heading or time, or stand in two places of one file; the same
//! record in the same place is the same memory, however often its source is imported. So a name says the file, the path of
//! headings above, the time that the record gives, and which one it is of those that have all of this in common.
//!
//! | source | what its parts have in common | so that |
//! |---|---|---|
//! | text, Markdown | file and headings | a part keeps its name when its text changes |
//! | records in a session | what they say, their time | "continue", said twice, is twice in the conversation |
//! | other records | what they say, their time | a line that is repeated word for word has one name, and counts as repeated |
//!
//! The name is the text of a `source_key`: a JSON list, so that no two lists of parts look alike. The layout is a persisted
//! format, which a test pins: changed, every import would add everything again.

use std::collections::HashMap;

use serde_json::json;

use mira_proto::model::StoreItem;

/// A name longer than this is cut down to a hash of it: routers take keys of 4 KiB.
const MAX_NAME_BYTES: usize = 2 << 10;

/// Names the records of one source, in their order.
#[derive(Debug, Default)]
pub struct Names {
    /// How many records have had this in common, by a hash of it.
    counts: HashMap<[u8; 16], u64>,
}

/// A record, as it is named.
#[derive(Debug, Clone, Copy)]
pub struct Part<'a> {
    /// The file, as the importer names it.
    pub file: &'a str,
    /// The headings above it, of a document.
    pub heading: Option<&'a str>,
    /// A digest of what it says; none of a part of a document.
    pub said: Option<&'a str>,
    /// What it says itself.
    pub item: &'a StoreItem,
}

impl Names {
    /// The name of the next record. Of a source that is gone on with, those before it must have been named too.
    pub fn next(&mut self, part: Part<'_>) -> String {
        let Part { file, heading, said, item } = part;
        let common = json!([file, heading, item.created_at, said]).to_string();
        let is_repeated = said.is_some() && item.session.is_none();
        let ordinal = if is_repeated { 0 } else { self.count(&common) };
        let name = json!([file, heading, item.created_at, said, ordinal]).to_string();
        if name.len() <= MAX_NAME_BYTES {
            name
        } else {
            json!([blake3::hash(name.as_bytes()).to_hex().as_str()]).to_string()
        }
    }

    fn count(&mut self, common: &str) -> u64 {
        let mut hash = [0; 16];
        hash.copy_from_slice(&blake3::hash(common.as_bytes()).as_bytes()[..16]);
        let count = self.counts.entry(hash).or_default();
        *count += 1;
        *count - 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item(json: &str) -> StoreItem {
        serde_json::from_str(json).unwrap()
    }

    fn names(parts: &[(&str, Option<&str>, Option<&str>, &str)]) -> Vec<String> {
        let mut names = Names::default();
        let name = |&(file, heading, said, json): &(&str, Option<&str>, Option<&str>, &str)| {
            names.next(Part { file, heading, said, item: &item(json) })
        };
        parts.iter().map(name).collect()
    }

    #[test]
    fn the_layout_does_not_change() {
        let found = names(&[
            ("a.md", Some("One > Two"), None, "{}"),
            ("a.jsonl", None, Some("d1"), r#"{"created_at": "2026-01-01T00:00:00Z", "session": "s"}"#),
        ]);
        assert_eq!(found[0], r#"["a.md","One > Two",null,null,0]"#);
        assert_eq!(found[1], r#"["a.jsonl",null,"2026-01-01T00:00:00Z","d1",0]"#);
    }

    #[test]
    fn file_heading_time_and_place_make_a_difference() {
        let found = names(&[
            ("a.md", Some("Verdict"), None, "{}"),
            ("b.md", Some("Verdict"), None, "{}"),
            ("a.md", Some("Verdict"), None, "{}"),
            ("a.md", Some("Other"), None, "{}"),
            ("a.md", None, None, "{}"),
            ("c.jsonl", None, Some("d"), r#"{"created_at": "2026-01-01T00:00:00Z"}"#),
            ("c.jsonl", None, Some("d"), r#"{"created_at": "2026-01-01T00:00:01Z"}"#),
            ("c.jsonl", None, Some("d"), r#"{"session": "s"}"#),
            ("c.jsonl", None, Some("d"), r#"{"session": "s"}"#),
            ("c.jsonl", None, Some("e"), r#"{"session": "s"}"#),
        ]);
        let different: std::collections::BTreeSet<_> = found.iter().collect();
        assert_eq!(different.len(), found.len(), "{found:?}");
    }

    #[test]
    fn the_same_source_has_the_same_names_and_a_repeated_line_one() {
        let parts = [
            ("a.md", Some("One"), None, r#"{"content": "before"}"#),
            ("a.jsonl", None, Some("d"), "{}"),
            ("a.jsonl", None, Some("d"), "{}"),
        ];
        let found = names(&parts);
        assert_eq!(found, names(&parts));
        assert_eq!(found[1], found[2]);
        let edited = [("a.md", Some("One"), None, r#"{"content": "after"}"#)];
        assert_eq!(names(&edited)[0], found[0], "a part keeps its name when its text changes");
    }

    #[test]
    fn a_long_name_is_a_hash() {
        let (long, longer) = ("h".repeat(MAX_NAME_BYTES), "h".repeat(MAX_NAME_BYTES + 1));
        let found = names(&[("a", Some(&long), None, "{}"), ("a", Some(&longer), None, "{}")]);
        assert!(found.iter().all(|name| name.len() < 100), "{found:?}");
        assert_ne!(found[0], found[1]);
    }
}
