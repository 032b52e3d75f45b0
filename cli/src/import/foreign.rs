//! Memories of other programs, in the formats that these document or write in the open.
//!
//! - The MCP reference memory server (`@modelcontextprotocol/server-memory`): JSON Lines of entities with their
//!   observations, and of relations between them.
//! - mem0: what `get_all` and the export of its platform answer, `{"results": […], "relations": […]}` or a bare list.
//! - memvid, version 1: the `…_index.json` beside a video, whose `metadata` has the text of every chunk. The `.mv2` files of
//!   version 2 are no documented format: they are refused by name.
//!
//! What a memory of ours has no field for goes into its metadata under the name that it had.

use std::io::Read;
use std::sync::Arc;

use mira_proto::model::{Metadata, StoreItem};
use mira_proto::{json, numbers};
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::import::record::{Place, Position, Record, RecordError};
use crate::import::source::Source;

/// The largest document: it is one JSON value, and so it is read as a whole.
const MAX_DOCUMENT_BYTES: usize = 256 << 20;

/// A line of the MCP memory server's file.
#[derive(Deserialize)]
#[serde(tag = "type", rename_all = "camelCase")]
enum McpLine {
    #[serde(rename_all = "camelCase")]
    Entity { name: String, entity_type: String, observations: Vec<String> },
    #[serde(rename_all = "camelCase")]
    Relation { from: String, to: String, relation_type: String },
}

/// An entity as a text that says all that is known of it, a relation as a sentence.
pub fn mcp_line(line: &[u8]) -> Result<StoreItem, RecordError> {
    let text = std::str::from_utf8(line).map_err(|error| RecordError::Utf8(error.valid_up_to()))?;
    Ok(match serde_json::from_str(text).map_err(|error| RecordError::Json(json::fault(text, &error)))? {
        McpLine::Entity { name, entity_type, observations } => {
            let told: String = observations.iter().map(|told| format!("\n- {told}")).collect();
            StoreItem {
                content: Some(format!("{name} ({entity_type}){told}")),
                kind: Some("entity".into()),
                metadata: Some(metadata(
                    json!({ "name": name, "entityType": entity_type, "observations": observations }),
                )),
                ..StoreItem::default()
            }
        }
        McpLine::Relation { from, to, relation_type } => relation(&from, &relation_type, &to),
    })
}

fn relation(from: &str, relation_type: &str, to: &str) -> StoreItem {
    StoreItem {
        content: Some(format!("{from} {relation_type} {to}")),
        kind: Some("relation".into()),
        metadata: Some(metadata(json!({ "from": from, "to": to, "relationType": relation_type }))),
        ..StoreItem::default()
    }
}

fn metadata(value: Value) -> Metadata {
    match value {
        Value::Object(fields) => fields,
        _ => Metadata::new(),
    }
}

/// The records of mem0's answer.
pub fn mem0(input: impl Read, source: Arc<Source>) -> Records {
    document(input, source, |text| {
        let not_mem0 = |what: &str| RecordError::Json(format!("{what}: not what mem0 exports"));
        let found = match text.trim_start().as_bytes().first() {
            Some(b'[') => {
                let results =
                    serde_json::from_str(text).map_err(|error| RecordError::Json(json::fault(text, &error)))?;
                Mem0 { results, relations: None }
            }
            Some(b'{') => serde_json::from_str(text).map_err(|error| match error.is_data() {
                true => not_mem0("it has no list `results`"),
                false => RecordError::Json(json::fault(text, &error)),
            })?,
            _ => return Err(not_mem0("neither a list nor an object")),
        };
        let results = found.results.into_iter().map(|found| mem0_memory(kept(found)?));
        let relations = found.relations.into_iter().flatten().map(|found| mem0_relation(kept(found)?));
        Ok(results.chain(relations).collect())
    })
}

/// What mem0 exports, each memory as its text.
#[derive(Deserialize)]
struct Mem0<'a> {
    #[serde(borrow)]
    results: Vec<&'a RawValue>,
    #[serde(borrow)]
    relations: Option<Vec<&'a RawValue>>,
}

/// A record of a document, if its numbers can be kept.
fn kept(record: &RawValue) -> Result<Value, RecordError> {
    if let Some(number) = numbers::unkept(record.get()) {
        return Err(RecordError::Json(numbers::refusal(number)));
    }
    serde_json::from_str(record.get()).map_err(|error| RecordError::Json(json::fault(record.get(), &error)))
}

fn mem0_memory(found: Value) -> Result<StoreItem, RecordError> {
    let Value::Object(mut fields) = found else { return Err(RecordError::NotAnObject) };
    let mut text = |name: &str| -> Result<Option<String>, RecordError> {
        match fields.remove(name) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(RecordError::Json(format!("`{name}` is not a text"))),
        }
    };
    let content = text("memory")?.ok_or_else(|| RecordError::Json("`memory` is missing".into()))?;
    let (id, session, role, created_at) = (text("id")?, text("run_id")?, text("role")?, text("created_at")?);
    let mut known = match fields.remove("metadata") {
        None | Some(Value::Null) => Metadata::new(),
        Some(Value::Object(known)) => known,
        Some(_) => return Err(RecordError::Json("`metadata` is not an object".into())),
    };
    // Who it is of, when it changed, its hash: whatever else is said of it, but for the rank in some answer.
    fields.remove("score");
    for (name, value) in fields.into_iter().filter(|(_, value)| !value.is_null()) {
        if known.contains_key(&name) {
            return Err(RecordError::TwoValues(name));
        }
        known.insert(name, value);
    }
    let parsed = id.as_ref().and_then(|id| id.parse::<Uuid>().ok());
    if let Some(id) = id.filter(|_| parsed.is_none()) {
        known.insert("mem0_id".into(), Value::String(id));
    }
    Ok(StoreItem {
        content: Some(content),
        id: parsed,
        session,
        role,
        created_at,
        metadata: (!known.is_empty()).then_some(known),
        ..StoreItem::default()
    })
}

fn mem0_relation(found: Value) -> Result<StoreItem, RecordError> {
    let part = |names: [&str; 2]| {
        let value = names.iter().find_map(|name| found[*name].as_str());
        value.ok_or_else(|| RecordError::Json(format!("a relation without `{}`", names[0])))
    };
    Ok(relation(part(["source", "from"])?, part(["relationship", "relation"])?, part(["target", "destination"])?))
}

/// The chunks of a memvid index.
pub fn memvid(input: impl Read, source: Arc<Source>) -> Records {
    document(input, source, |text| {
        let index: Memvid<'_> = serde_json::from_str(text).map_err(|error| match error.is_data() {
            true => RecordError::Json("it has no list `metadata`: not the index of a memvid video".into()),
            false => RecordError::Json(json::fault(text, &error)),
        })?;
        Ok(index.metadata.into_iter().map(|found| memvid_chunk(kept(found)?)).collect())
    })
}

/// The index of a memvid video, each chunk as its text.
#[derive(Deserialize)]
struct Memvid<'a> {
    #[serde(borrow)]
    metadata: Vec<&'a RawValue>,
}

fn memvid_chunk(found: Value) -> Result<StoreItem, RecordError> {
    let Value::Object(mut chunk) = found else { return Err(RecordError::NotAnObject) };
    let Some(Value::String(content)) = chunk.remove("text") else {
        return Err(RecordError::Json("a chunk without `text`".into()));
    };
    // How long the text is shows; `id` and `frame` say where it stood.
    chunk.remove("length");
    let known: Metadata = chunk.into_iter().map(|(name, value)| (format!("memvid_{name}"), value)).collect();
    Ok(StoreItem { content: Some(content), metadata: Some(known), ..StoreItem::default() })
}

/// What is read from a document.
pub type Records = Box<dyn Iterator<Item = Record> + Send>;

/// The records of a file that is one JSON value. Places are numbers of records.
fn document(
    mut input: impl Read,
    source: Arc<Source>,
    records: impl FnOnce(&str) -> Result<Vec<Result<StoreItem, RecordError>>, RecordError>,
) -> Records {
    let mut bytes = Vec::new();
    let read = (&mut input).take(MAX_DOCUMENT_BYTES as u64 + 1).read_to_end(&mut bytes);
    let length = bytes.len() as u64;
    let parsed = read.map_err(RecordError::from).and_then(|_| {
        if bytes.len() > MAX_DOCUMENT_BYTES {
            return Err(RecordError::TooLong(MAX_DOCUMENT_BYTES));
        }
        records(std::str::from_utf8(&bytes).map_err(|error| RecordError::Utf8(error.valid_up_to()))?)
    });
    drop(bytes);
    let items = match parsed {
        Ok(items) => items,
        Err(error) => vec![Err(error)],
    };
    let count = items.len() as u64;
    Box::new(items.into_iter().zip(1..).map(move |(item, number)| {
        // As far into the file as into its records; the number of these is what says where to go on.
        let bytes = (u128::from(length) * u128::from(number) / u128::from(count)) as u64;
        let place = Place { source: source.clone(), line: number };
        Record { place, next: Position { bytes, lines: number }, item, file: None }
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::import::source::Format;

    fn source(format: Format) -> Arc<Source> {
        Arc::new(Source { name: "in.json".into(), path: None, format, length: 0, full_path: None })
    }

    fn items(records: Records) -> Vec<Result<StoreItem, String>> {
        records.map(|record| record.item.map_err(|error| error.to_string())).collect()
    }

    #[test]
    fn an_mcp_memory_loses_nothing() {
        let entity = br#"{"type":"entity","name":"Ada","entityType":"person","observations":["likes tea","writes"]}"#;
        let ada = mcp_line(entity).unwrap();
        assert_eq!(ada.content.as_deref(), Some("Ada (person)\n- likes tea\n- writes"));
        let known = json!({"name": "Ada", "entityType": "person", "observations": ["likes tea", "writes"]});
        assert_eq!((ada.kind.as_deref(), Value::Object(ada.metadata.unwrap())), (Some("entity"), known));
        let relation = br#"{"type":"relation","from":"Ada","to":"Engine","relationType":"programs"}"#;
        assert_eq!(mcp_line(relation).unwrap().content.as_deref(), Some("Ada programs Engine"));
        for wrong in [&br#"{"type":"thing"}"#[..], br#"{"type":"entity","name":"x"}"#, b"[]"] {
            assert!(mcp_line(wrong).is_err());
        }
    }

    #[test]
    fn what_mem0_says_of_a_memory_is_kept() {
        let id = "0d5d6d5c-7b1a-4d7e-9c55-6f2f7c1e4a11";
        let export = json!({ "results": [
            { "id": id, "memory": "likes tea", "hash": "h", "metadata": {"category": "taste"}, "user_id": "ada",
              "run_id": "talk", "created_at": "2024-07-20T01:30:36.275141-07:00", "updated_at": null, "score": 0.4 },
            { "id": "17", "memory": "walks", "metadata": null },
            { "id": "18" },
            { "memory": "x", "user_id": "a", "metadata": {"user_id": "b"} },
        ], "relations": [{ "source": "ada", "relationship": "likes", "target": "tea" }] });
        let found = items(mem0(export.to_string().as_bytes(), source(Format::Mem0)));
        let first = found[0].as_ref().unwrap();
        assert_eq!((first.id, first.session.as_deref()), (Some(id.parse().unwrap()), Some("talk")));
        assert!(first.created_at.is_some());
        let known = Value::Object(first.metadata.clone().unwrap());
        assert_eq!(known, json!({ "category": "taste", "hash": "h", "user_id": "ada" }));
        assert_eq!(found[1].as_ref().unwrap().metadata.as_ref().unwrap()["mem0_id"], "17");
        assert_eq!(found[2].as_ref().unwrap_err(), "`memory` is missing");
        assert!(found[3].as_ref().unwrap_err().contains("user_id"));
        assert_eq!(found[4].as_ref().unwrap().content.as_deref(), Some("ada likes tea"));
        let long = r#"[{"memory": "a", "n": 18446744073709551616}, {"memory": "b"}]"#;
        let long = items(mem0(long.as_bytes(), source(Format::Mem0)));
        assert!(long[0].as_ref().unwrap_err().contains("18446744073709551616") && long[1].is_ok(), "{long:?}");
        let bare = items(mem0(&br#"[{"memory": "a"}]"#[..], source(Format::Mem0)));
        assert_eq!(bare[0].as_ref().unwrap().content.as_deref(), Some("a"));
        for wrong in ["{}", "3", "{\"results\": 1}", "[", ""] {
            assert!(items(mem0(wrong.as_bytes(), source(Format::Mem0)))[0].is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_memvid_index_gives_its_texts() {
        let index = json!({
            "metadata": [{"id": 0, "text": "one", "frame": 0, "length": 3}, {"id": 1, "text": "two", "frame": 1}, {}],
            "chunk_to_frame": {"0": 0}, "frame_to_chunks": {"0": [0]}, "config": {},
        });
        let text = index.to_string();
        let found: Vec<Record> = memvid(text.as_bytes(), source(Format::Memvid)).collect();
        let first = found[0].item.as_ref().unwrap();
        assert_eq!(first.content.as_deref(), Some("one"));
        assert_eq!(Value::Object(first.metadata.clone().unwrap()), json!({ "memvid_id": 0, "memvid_frame": 0 }));
        assert!(found[2].item.is_err());
        assert_eq!((found.len(), found[1].place.line, found[2].next.bytes), (3, 2, text.len() as u64));
    }
}
