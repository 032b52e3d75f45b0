//! What names a record that has no name of its own, so that importing the same thing again adds nothing.
//!
//! The name is a BLAKE3 hash of what makes the memory: collection, content or bytes, type, session and role, and for
//! records of JSON Lines also metadata, vector and expiry, because there the caller wrote them. The metadata of text and
//! Markdown files (path, title) is the importer's own note about where it found the text: it stays out, so that a file that
//! was moved, or lies in two folders, is one memory.
//!
//! It goes to the router as `source_key`, which makes the memory's id of it with a key of the collection's: anybody can
//! compute this hash, so an id that holds it would confirm a guess at the content.
//!
//! The layout below is a persisted format: changed, every import would add everything again. Its version is in
//! [`CONTEXT`], and a test pins a sample.

use mira_proto::model::{DEFAULT_COLLECTION, DEFAULT_TYPE, StoreItem};
use serde_json::Value;

/// Domain separation and version of the layout.
const CONTEXT: &str = "mira import: source key of a record, version 1";
/// Bytes of the hash: 2⁶⁴ records before two are likely to share a name.
const NAME_BYTES: usize = 16;

/// Who wrote the metadata of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// The caller: it is part of the memory.
    Record,
    /// The importer: it is a note on where the text was found.
    File,
}

/// What names a record by what it says: hexadecimal digits.
pub fn source_key(item: &StoreItem, origin: Origin) -> String {
    let mut hash = Fields(blake3::Hasher::new_derive_key(CONTEXT));
    hash.text(Some(item.collection.as_deref().unwrap_or(DEFAULT_COLLECTION)));
    hash.text(Some(item.kind.as_deref().unwrap_or(DEFAULT_TYPE)));
    for field in [&item.session, &item.role, &item.content, &item.bytes] {
        hash.text(field.as_deref());
    }
    if origin == Origin::Record {
        hash.text(item.expires_at.as_deref());
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
    hash.0.finalize().to_hex()[..2 * NAME_BYTES].to_owned()
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
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item(json: &str) -> StoreItem {
        serde_json::from_str(json).unwrap()
    }

    fn record_key(json: &str) -> String {
        source_key(&item(json), Origin::Record)
    }

    #[test]
    fn the_layout_does_not_change() {
        let key = record_key(r#"{"content": "tea", "session": "s", "metadata": {"b": [1, "x", null], "a": true}}"#);
        assert_eq!(key, "793abe3fb4700de2c84e712bb30e4dd8");
    }

    #[test]
    fn defaults_and_the_order_of_keys_make_no_difference() {
        let plain = record_key(r#"{"content": "tea", "metadata": {"a": 1, "b": 2}}"#);
        assert_eq!(plain, record_key(r#"{"metadata": {"b": 2, "a": 1}, "type": "general", "content": "tea"}"#));
        assert_eq!(plain, record_key(r#"{"content": "tea", "collection": "default", "metadata": {"a": 1, "b": 2}}"#));
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
            r#"{"content": "tea", "collection": "a"}"#,
            r#"{"content": "tea", "metadata": {"a": 1}}"#,
            r#"{"content": "tea", "metadata": {"a": "1"}}"#,
            r#"{"content": "tea", "metadata": {"a": [1]}}"#,
            r#"{"content": "tea", "vector": [1]}"#,
            r#"{"content": "tea", "expires_at": "2030-01-01T00:00:00Z"}"#,
        ];
        let keys: std::collections::BTreeSet<_> = variants.iter().map(|json| record_key(json)).collect();
        assert_eq!(keys.len(), variants.len());
    }

    #[test]
    fn a_file_that_moved_is_the_same_memory() {
        let here = item(r#"{"content": "tea", "metadata": {"path": "a.md"}}"#);
        let there = item(r#"{"content": "tea", "metadata": {"path": "b/a.md"}}"#);
        assert_eq!(source_key(&here, Origin::File), source_key(&there, Origin::File));
    }
}
