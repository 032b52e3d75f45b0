//! An item of `store`, checked.
//!
//! Nothing here looks at the collection: whether vectors fit it is checked where it is known
//! (`validate::vector_fits`).

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use mira_proto::model::{DEFAULT_TYPE, Metadata, StoreItem};
use mira_proto::node_v1::{self, NamedVector, Passage};
use mira_proto::vectors::SpaceNumber;
use mira_proto::{Position, Problem, limits};
use serde_json::Value;
use uuid::Uuid;

use crate::operations::validate::{self, kept_time, optional_name, time, too_large};

/// An item of `store` that is worth sending to its shard.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Draft {
    /// The caller's id, if it gave one.
    pub id: Option<Uuid>,
    /// What names it in its source, instead of an id.
    pub source_key: Option<String>,
    /// The content, text or opaque.
    pub content: Bytes,
    /// Whether it is UTF-8 text.
    pub text: bool,
    /// The type.
    pub kind: String,
    /// The session, or empty.
    pub session: String,
    /// The role, or empty.
    pub role: String,
    /// The metadata as JSON, or empty.
    pub metadata_json: String,
    /// The caller's vector.
    pub vector: Option<Vec<f32>>,
    /// The caller's vectors in named spaces.
    pub vectors: BTreeMap<String, Vec<f32>>,
    /// Replace what is there.
    pub replace: bool,
    /// Only if this version is current.
    pub expected_version: Option<u64>,
    /// When it is forgotten, 0 = never.
    pub expires_ms: u64,
    /// When it was made, 0 = now.
    pub created_ms: u64,
    /// Its place in its session, if its caller gave one.
    pub position: Option<Position>,
    /// The collection.
    pub collection: String,
    /// Sealed by its owner.
    pub private: bool,
    /// Large content, which is there already.
    pub attachment: Option<node_v1::Attachment>,
}

/// Vectors in named spaces, with their numbers.
pub(crate) type Named = Vec<(SpaceNumber, NamedVector)>;

/// A draft with its id, and all that it is found by.
pub(crate) struct Embedded {
    pub(crate) id: Uuid,
    pub(crate) draft: Draft,
    /// Vectors of its passages, or the one that its caller gave.
    pub(crate) passages: Vec<Passage>,
    /// Vectors in named spaces.
    pub(crate) named: Named,
}

impl Draft {
    /// Checks an item of `store`; `now_ms` decides what is in the past.
    pub fn of(item: StoreItem, now_ms: u64) -> Result<Self, Problem> {
        Draft::with_attachment(item, None, now_ms)
    }

    /// As [`Draft::of`], with a large content, beside which it need not have any.
    pub fn with_attachment(
        item: StoreItem,
        attachment: Option<node_v1::Attachment>,
        now_ms: u64,
    ) -> Result<Self, Problem> {
        let has_content = item.content.is_some() || item.bytes.is_some();
        let (content, text) = if attachment.is_none() || has_content {
            content(item.content, item.bytes)?
        } else {
            (Bytes::new(), false)
        };
        if let Some(vector) = &item.vector {
            validate::components(vector)?;
        }
        if item.vectors.len() > limits::MAX_NAMED_VECTORS {
            let (have, limit) = (item.vectors.len(), limits::MAX_NAMED_VECTORS);
            return Err(too_large(format!("vectors has {have} entries, the limit is {limit}")));
        }
        for (name, vector) in &item.vectors {
            validate::components(vector)
                .map_err(|problem| Problem { detail: format!("{name}: {}", problem.detail), ..problem })?;
        }
        if item.id.is_some() && item.source_key.is_some() {
            return Err(Problem::invalid(
                "id and source_key are both given, and each names the frame: send one of them",
            ));
        }
        let is_named = item.id.is_some() || item.source_key.is_some();
        if !is_named && item.replace {
            return Err(Problem::invalid("replace needs the id or source_key of the frame to replace"));
        }
        if !is_named && item.expected_version.is_some() {
            return Err(Problem::invalid("expected_version needs the id or source_key of the frame it speaks of"));
        }
        if item.expected_version == Some(u64::MAX) {
            return Err(Problem::invalid("expected_version is beyond every version that a frame can have"));
        }
        Ok(Draft {
            id: item.id,
            source_key: item.source_key.map(source_key).transpose()?,
            content,
            text,
            kind: optional_name("type", item.kind)?.unwrap_or_else(|| DEFAULT_TYPE.to_owned()),
            session: optional_name("session", item.session)?.unwrap_or_default(),
            role: optional_name("role", item.role)?.unwrap_or_default(),
            metadata_json: item.metadata.as_ref().map(metadata).transpose()?.unwrap_or_default(),
            vector: item.vector,
            vectors: named(item.vectors)?,
            replace: item.replace,
            expected_version: item.expected_version,
            expires_ms: item.expires_at.as_deref().map(|text| expiry(text, now_ms)).transpose()?.unwrap_or_default(),
            created_ms: item.created_at.as_deref().map(|text| creation(text, now_ms)).transpose()?.unwrap_or_default(),
            position: item.position.map(position).transpose()?,
            collection: validate::collection(item.collection)?,
            private: item.private,
            attachment,
        })
    }
}

fn position(packed: u64) -> Result<Position, Problem> {
    Position::of_packed(packed)
        .ok_or_else(|| Problem::invalid("position is 0: leave it out, and the memory comes last"))
}

fn source_key(key: String) -> Result<String, Problem> {
    match key.len() {
        0 => Err(Problem::invalid("source_key is empty")),
        have if have > limits::MAX_SOURCE_KEY_BYTES => {
            let limit = limits::MAX_SOURCE_KEY_BYTES;
            Err(too_large(format!("source_key has {have} bytes, the limit is {limit}")))
        }
        _ => Ok(key),
    }
}

/// Named vectors under their names as they are kept.
fn named(vectors: BTreeMap<String, Vec<f32>>) -> Result<BTreeMap<String, Vec<f32>>, Problem> {
    let mut named = BTreeMap::new();
    for (name, vector) in vectors {
        let name = validate::checked_name("a name in vectors", &name)?;
        if named.contains_key(&name) {
            return Err(Problem::invalid(format!("vectors has two entries named {name:?}")));
        }
        named.insert(name, vector);
    }
    Ok(named)
}

fn content(content: Option<String>, bytes: Option<String>) -> Result<(Bytes, bool), Problem> {
    let (content, text) = match (content, bytes) {
        (Some(_), Some(_)) => return Err(Problem::invalid("content and bytes are both given: send one of them")),
        (None, None) => return Err(Problem::invalid("content is missing: send content (text) or bytes (base64)")),
        (Some(text), None) if text.trim().is_empty() => return Err(Problem::invalid("content is empty")),
        (Some(text), None) => (Bytes::from(text), true),
        (None, Some(base64)) => (decoded(&base64)?, false),
    };
    if content.len() > limits::MAX_CONTENT_BYTES {
        let (have, limit) = (content.len(), limits::MAX_CONTENT_BYTES);
        return Err(too_large(format!("content has {have} bytes, the limit is {limit}: upload it instead")));
    }
    Ok((content, text))
}

fn decoded(base64: &str) -> Result<Bytes, Problem> {
    let bytes = STANDARD.decode(base64).map_err(|error| Problem::invalid(format!("bytes is not base64: {error}")))?;
    if bytes.is_empty() {
        return Err(Problem::invalid("bytes is empty"));
    }
    Ok(bytes.into())
}

fn metadata(metadata: &Metadata) -> Result<String, Problem> {
    let depth = 1 + metadata.values().map(depth).max().unwrap_or_default();
    if depth > limits::MAX_METADATA_DEPTH {
        let limit = limits::MAX_METADATA_DEPTH;
        return Err(too_large(format!("metadata is nested {depth} deep, the limit is {limit}")));
    }
    let json = serde_json::to_string(metadata).map_err(|error| Problem::invalid(format!("metadata: {error}")))?;
    if json.len() > limits::MAX_METADATA_BYTES {
        let (have, limit) = (json.len(), limits::MAX_METADATA_BYTES);
        return Err(too_large(format!("metadata has {have} bytes as JSON, the limit is {limit}")));
    }
    Ok(json)
}

/// Levels of objects and arrays; the JSON reader has bounded them to 128 already.
fn depth(value: &Value) -> usize {
    match value {
        Value::Array(values) => 1 + values.iter().map(depth).max().unwrap_or_default(),
        Value::Object(fields) => 1 + fields.values().map(depth).max().unwrap_or_default(),
        _ => 0,
    }
}

fn expiry(text: &str, now_ms: u64) -> Result<u64, Problem> {
    if time("expires_at", text)?.first_from() <= now_ms {
        return Err(Problem::invalid("expires_at lies in the past"));
    }
    kept_time("expires_at", text)
}

/// A time a little ahead is taken, and the shard makes its own of it: clocks differ.
fn creation(text: &str, now_ms: u64) -> Result<u64, Problem> {
    let skew_ms = limits::MAX_CLOCK_SKEW.as_millis() as u64;
    match kept_time("created_at", text)? {
        future if future > now_ms.saturating_add(skew_ms) => Err(Problem::invalid("created_at lies in the future")),
        created_ms => Ok(created_ms),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mira_proto::Code;

    use crate::operations::convert;
    use crate::operations::validate::tests::refused;

    const NOW_MS: u64 = 1_800_000_000_000;

    fn text(content: &str) -> StoreItem {
        StoreItem { content: Some(content.to_owned()), ..Default::default() }
    }

    #[test]
    fn an_item_is_filled_in_with_defaults() {
        let draft = Draft::of(text("tea"), NOW_MS).unwrap();
        assert_eq!((draft.kind.as_str(), draft.collection.as_str()), ("general", "default"));
        assert!(draft.text && draft.session.is_empty() && draft.metadata_json.is_empty() && draft.expires_ms == 0);
    }

    #[test]
    fn limits_are_inclusive() {
        assert!(Draft::of(text(&"x".repeat(limits::MAX_CONTENT_BYTES)), NOW_MS).is_ok());
        refused(Draft::of(text(&"x".repeat(limits::MAX_CONTENT_BYTES + 1)), NOW_MS), Code::TooLarge, "1048577");
        let named = |bytes: usize| StoreItem { session: Some("s".repeat(bytes)), ..text("a") };
        assert!(Draft::of(named(limits::MAX_NAME_BYTES), NOW_MS).is_ok());
        refused(Draft::of(named(limits::MAX_NAME_BYTES + 1), NOW_MS), Code::TooLarge, "session");
        let vector = |dim: usize| StoreItem { vector: Some(vec![1.0; dim]), ..text("a") };
        assert!(Draft::of(vector(limits::MAX_DIM as usize), NOW_MS).is_ok());
        refused(Draft::of(vector(limits::MAX_DIM as usize + 1), NOW_MS), Code::TooLarge, "4096");
    }

    #[test]
    fn a_frame_is_named_by_its_id_or_by_what_names_it_in_its_source() {
        let id = Some(Uuid::from_u128(7));
        let named = |bytes: usize| StoreItem { source_key: Some("k".repeat(bytes)), ..text("a") };
        let longest = limits::MAX_SOURCE_KEY_BYTES;
        assert_eq!(Draft::of(named(longest), NOW_MS).unwrap().source_key.map(|key| key.len()), Some(longest));
        refused(Draft::of(named(longest + 1), NOW_MS), Code::TooLarge, "source_key");
        refused(Draft::of(named(0), NOW_MS), Code::InvalidArgument, "source_key is empty");
        refused(Draft::of(StoreItem { id, ..named(1) }, NOW_MS), Code::InvalidArgument, "id and source_key");
        for item in [named(1), StoreItem { id, ..text("a") }] {
            assert!(Draft::of(StoreItem { replace: true, ..item.clone() }, NOW_MS).unwrap().replace);
            assert!(Draft::of(StoreItem { expected_version: Some(1), ..item }, NOW_MS).is_ok());
        }
        refused(Draft::of(StoreItem { replace: true, ..text("a") }, NOW_MS), Code::InvalidArgument, "source_key");
        let expecting = StoreItem { expected_version: Some(1), ..text("a") };
        refused(Draft::of(expecting, NOW_MS), Code::InvalidArgument, "source_key");
    }

    #[test]
    fn named_vectors_have_one_name_each() {
        let item = |names: &[&str]| StoreItem {
            vectors: names.iter().map(|name| ((*name).to_owned(), vec![1.0])).collect(),
            ..text("a")
        };
        let draft = Draft::of(item(&["e\u{301}"]), NOW_MS).unwrap();
        assert_eq!(draft.vectors.into_keys().collect::<Vec<_>>(), ["\u{e9}"]);
        refused(Draft::of(item(&["e\u{301}", "\u{e9}"]), NOW_MS), Code::InvalidArgument, "two entries");
    }

    #[test]
    fn content_is_measured_after_decoding() {
        let opaque = |bytes: usize| StoreItem { bytes: Some(STANDARD.encode(vec![7; bytes])), ..Default::default() };
        assert_eq!(
            Draft::of(opaque(limits::MAX_CONTENT_BYTES), NOW_MS).unwrap().content.len(),
            limits::MAX_CONTENT_BYTES
        );
        refused(Draft::of(opaque(limits::MAX_CONTENT_BYTES + 1), NOW_MS), Code::TooLarge, "content");
        refused(Draft::of(opaque(0), NOW_MS), Code::InvalidArgument, "bytes is empty");
    }

    #[test]
    fn components_must_be_finite() {
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let vector = Some(vec![0.5, bad]);
            refused(Draft::of(StoreItem { vector, ..text("a") }, NOW_MS), Code::InvalidArgument, "component 1");
        }
        refused(
            Draft::of(StoreItem { vector: Some(vec![]), ..text("a") }, NOW_MS),
            Code::InvalidArgument,
            "vector is empty",
        );
    }

    #[test]
    fn metadata_may_be_as_deep_as_the_limit() {
        let nested = |depth: usize| {
            let inner = (1..depth).fold(Value::Null, |inner, _| Value::Array(vec![inner]));
            StoreItem { metadata: Some(Metadata::from_iter([("k".to_owned(), inner)])), ..text("a") }
        };
        assert!(Draft::of(nested(limits::MAX_METADATA_DEPTH), NOW_MS).is_ok());
        refused(Draft::of(nested(limits::MAX_METADATA_DEPTH + 1), NOW_MS), Code::TooLarge, "33 deep");
    }

    #[test]
    fn expiry_lies_ahead() {
        let expires = |text_: &str| StoreItem { expires_at: Some(text_.to_owned()), ..text("a") };
        assert_eq!(Draft::of(expires("2027-01-15T08:00:00.001Z"), NOW_MS).unwrap().expires_ms, NOW_MS + 1);
        assert_eq!(Draft::of(expires("2027-01-15T09:00:01+01:00"), NOW_MS).unwrap().expires_ms, NOW_MS + 1_000);
        for (bad, word) in
            [("2027-01-15T08:00:00Z", "past"), ("2027-01-15", "RFC 3339"), ("1960-01-01T00:00:00Z", "past")]
        {
            refused(Draft::of(expires(bad), NOW_MS), Code::InvalidArgument, word);
        }
        let end = Draft::of(expires("9999-12-31T23:59:59Z"), NOW_MS).unwrap();
        assert_eq!(convert::rfc3339(end.expires_ms), "9999-12-31T23:59:59.000Z");
        refused(Draft::of(expires("9999-12-31T23:59:59-01:00"), NOW_MS), Code::InvalidArgument, "9999");
    }

    #[test]
    fn a_clock_that_is_a_little_ahead_is_no_reason_to_refuse() {
        let created = |text_: &str| StoreItem { created_at: Some(text_.to_owned()), ..text("a") };
        assert_eq!(Draft::of(created("2027-01-15T08:00:05Z"), NOW_MS).unwrap().created_ms, NOW_MS + 5_000);
        assert_eq!(Draft::of(created("1970-01-01T00:00:00.001Z"), NOW_MS).unwrap().created_ms, 1);
        for (bad, word) in [
            ("2027-01-15T08:05:00Z", "future"),
            ("1969-07-20T20:17:40Z", "1970"),
            ("9999-12-31T23:59:59Z", "future"),
            ("yesterday", "RFC 3339"),
        ] {
            refused(Draft::of(created(bad), NOW_MS), Code::InvalidArgument, word);
        }
    }
}
