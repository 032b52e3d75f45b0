//! Whether a request makes sense, before anything is done about it.
//!
//! Pure functions from requests to checked values; the shard never sees what they refuse. Every message says what was
//! wrong, the limit, and never the content. What depends on the collection (its dimension, whether it exists) is
//! checked where the collection is known, by [`vector_fits`].

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use bytes::Bytes;
use mira_index::Condition;
use mira_proto::filter::{self, Filter};
use mira_proto::model::{
    CollectionSettings, Combine, DEFAULT_COLLECTION, DEFAULT_TYPE, ForgetRequest, Metadata, Metric, RecallRequest,
    Recency, ScanRequest, SearchMode, SearchRequest, SessionsRequest, StoreItem,
};
use mira_proto::{Code, Problem, limits, node_v1};
use serde_json::Value;
use uuid::Uuid;

use crate::convert::Space;
use crate::cursor::Cursor;
use crate::words::Words;

/// An item of `store` that is worth sending to its shard.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Draft {
    /// The caller's id, if it gave one.
    pub id: Option<Uuid>,
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
    /// The collection.
    pub collection: String,
    /// Sealed by its owner.
    pub private: bool,
    /// Large content, which is there already.
    pub attachment: Option<node_v1::Attachment>,
}

/// Checks an item of `store`; `now_ms` decides what is in the past.
pub fn item(item: StoreItem, now_ms: u64) -> Result<Draft, Problem> {
    with_attachment(item, None, now_ms)
}

/// As [`item`], with a large content, beside which it need not have any.
pub fn with_attachment(
    item: StoreItem,
    attachment: Option<node_v1::Attachment>,
    now_ms: u64,
) -> Result<Draft, Problem> {
    let has_content = item.content.is_some() || item.bytes.is_some();
    let (content, text) = match attachment.is_none() || has_content {
        true => content(item.content, item.bytes)?,
        false => (Bytes::new(), false),
    };
    if let Some(vector) = &item.vector {
        components(vector)?;
    }
    if item.vectors.len() > limits::MAX_NAMED_VECTORS {
        let (have, limit) = (item.vectors.len(), limits::MAX_NAMED_VECTORS);
        return Err(too_large(format!("vectors has {have} entries, the limit is {limit}")));
    }
    for (name, vector) in &item.vectors {
        components(vector).map_err(|problem| Problem { detail: format!("{name}: {}", problem.detail), ..problem })?;
    }
    if item.id.is_none() && item.replace {
        return Err(Problem::invalid("replace needs the id of the frame to replace"));
    }
    if item.id.is_none() && item.expected_version.is_some() {
        return Err(Problem::invalid("expected_version needs the id of the frame it speaks of"));
    }
    Ok(Draft {
        id: item.id,
        content,
        text,
        kind: optional_name("type", item.kind)?.unwrap_or_else(|| DEFAULT_TYPE.to_owned()),
        session: optional_name("session", item.session)?.unwrap_or_default(),
        role: optional_name("role", item.role)?.unwrap_or_default(),
        metadata_json: item.metadata.as_ref().map(metadata).transpose()?.unwrap_or_default(),
        vector: item.vector,
        vectors: item.vectors,
        replace: item.replace,
        expected_version: item.expected_version,
        expires_ms: item.expires_at.as_deref().map(|text| expiry(text, now_ms)).transpose()?.unwrap_or_default(),
        created_ms: item.created_at.as_deref().map(|text| creation(text, now_ms)).transpose()?.unwrap_or_default(),
        collection: collection(item.collection)?,
        private: item.private,
        attachment,
    })
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
    match time("expires_at", text)? {
        past if past <= now_ms => Err(Problem::invalid("expires_at lies in the past")),
        expires_ms => Ok(expires_ms),
    }
}

fn creation(text: &str, now_ms: u64) -> Result<u64, Problem> {
    match time("created_at", text)? {
        0 => Err(Problem::invalid("created_at is not after 1970")),
        future if future > now_ms => Err(Problem::invalid("created_at lies in the future")),
        created_ms => Ok(created_ms),
    }
}

/// The page of a scan: its first id is greater than this, and it has so many frames at most.
pub fn scan(request: &ScanRequest) -> Result<(Option<Uuid>, u32), Problem> {
    match request.limit.unwrap_or(limits::DEFAULT_SCAN) {
        limit @ 1..=limits::MAX_SCAN => Ok((request.after, limit)),
        limit => Err(Problem::invalid(format!("limit is {limit}, allowed are 1 to {}", limits::MAX_SCAN))),
    }
}

/// Which sessions are asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WantedSessions {
    /// Only of this agent.
    pub agent: Option<String>,
    /// Only with a frame that is not older.
    pub active_since_ms: u64,
    /// The tag of the last one of the page before; empty for the first.
    pub after: Bytes,
    /// So many at most.
    pub limit: u32,
}

/// Checks what sessions are asked for.
pub fn sessions(request: SessionsRequest) -> Result<WantedSessions, Problem> {
    let after = request.after.as_deref().map(|text| URL_SAFE_NO_PAD.decode(text)).transpose();
    let after = after.ok().filter(|after| after.as_ref().is_none_or(|tag| tag.len() == 16));
    let after = after.ok_or_else(|| Problem::invalid("after is not what an earlier page gave as next"))?;
    let (_, limit) = scan(&ScanRequest { after: None, limit: request.limit })?;
    let since = request.active_since.as_deref().map(|text| time("active_since", text)).transpose()?;
    Ok(WantedSessions {
        agent: optional_name("agent", request.agent)?,
        active_since_ms: since.unwrap_or_default(),
        after: after.unwrap_or_default().into(),
        limit,
    })
}

/// An RFC 3339 time as milliseconds since 1970.
fn time(field: &str, text: &str) -> Result<u64, Problem> {
    filter::milliseconds(text).ok_or_else(|| {
        let example = "an RFC 3339 time such as 2026-11-22T10:00:00Z, not before 1970";
        Problem::invalid(format!("{field} is not {example}"))
    })
}

/// A half-open range of creation times in milliseconds, 0 = open.
fn range(from: Option<&str>, to: Option<&str>) -> Result<(u64, u64), Problem> {
    let from = from.map(|text| time("created_from", text)).transpose()?.unwrap_or_default();
    let to = to.map(|text| time("created_to", text)).transpose()?;
    if to.is_some_and(|to| to <= from) {
        return Err(Problem::invalid("created_to is not after created_from"));
    }
    Ok((from, to.unwrap_or_default()))
}

fn optional_name(field: &str, name: Option<String>) -> Result<Option<String>, Problem> {
    name.map(|name| checked_name(field, name)).transpose()
}

/// A name that is a key: not empty, bounded, printable.
pub fn checked_name(field: &str, name: String) -> Result<String, Problem> {
    if name.trim().is_empty() {
        return Err(Problem::invalid(format!("{field} is empty")));
    }
    if name.len() > limits::MAX_NAME_BYTES {
        let (have, limit) = (name.len(), limits::MAX_NAME_BYTES);
        return Err(too_large(format!("{field} has {have} bytes, the limit is {limit}")));
    }
    if name.chars().any(char::is_control) {
        return Err(Problem::invalid(format!("{field} contains a control character")));
    }
    Ok(name)
}

fn collection(name: Option<String>) -> Result<String, Problem> {
    Ok(optional_name("collection", name)?.unwrap_or_else(|| DEFAULT_COLLECTION.to_owned()))
}

fn components(vector: &[f32]) -> Result<(), Problem> {
    if vector.is_empty() {
        return Err(Problem::invalid("vector is empty"));
    }
    if vector.len() > limits::MAX_DIM as usize {
        let (have, limit) = (vector.len(), limits::MAX_DIM);
        return Err(too_large(format!("vector has {have} components, the limit is {limit}")));
    }
    match vector.iter().position(|component| !component.is_finite()) {
        Some(at) => Err(Problem::invalid(format!("vector component {at} is not a finite number"))),
        None => Ok(()),
    }
}

/// Whether a vector can be compared with those of a collection that have this name; its own, for an empty one.
pub fn vector_fits(vector: &[f32], (collection, name): (&str, &str), space: Space) -> Result<(), Problem> {
    if vector.len() != space.dim as usize {
        let (have, dim) = (vector.len(), space.dim);
        let named = if name.is_empty() { String::new() } else { format!(" named {name:?}") };
        let detail = format!("vector has {have} components, those of collection {collection:?}{named} have {dim}");
        return Err(Problem::new(Code::DimensionMismatch, detail));
    }
    if space.metric == Metric::Cosine && vector.iter().all(|&component| component == 0.0) {
        return Err(Problem::invalid("vector is all zeros: it has no direction to compare by cosine"));
    }
    Ok(())
}

/// What to look for.
#[derive(Debug, Clone, PartialEq)]
pub enum Probe {
    /// Words, to be embedded.
    Text(String),
    /// A vector of the caller's.
    Vector(Vec<f32>),
}

/// A search that makes sense.
#[derive(Debug, Clone, PartialEq)]
pub struct Query {
    /// What to look for, one thing or several.
    pub probes: Vec<Probe>,
    /// The name of the vectors to compare with; empty for the collection's own.
    pub using: String,
    /// Of several: whether a hit's similarity is the mean of those to all of them, not the best.
    pub is_mean: bool,
    /// How many hits.
    pub k: u32,
    /// Where.
    pub collection: String,
    /// Created at or after, milliseconds; 0 = open.
    pub created_from_ms: u64,
    /// Created before, milliseconds; 0 = open.
    pub created_to_ms: u64,
    /// Refuse an answer that misses a shard.
    pub strict: bool,
    /// Compare with every vector.
    pub exact: bool,
    /// Only frames that this filter means, as JSON; empty = all.
    pub filter_json: String,
    /// Say how the answer came about.
    pub explain: bool,
    /// The least score.
    pub min_score: Option<f32>,
    /// Only what ranks after the place that this marks.
    pub cursor: Option<Cursor>,
    /// Half-life in milliseconds, and the bonus' part of the score.
    pub recency: Option<(u64, f32)>,
    /// The field that makes groups, and how many hits of each.
    pub group: Option<(String, u32)>,
    /// How much hits that differ are preferred to more of the same.
    pub diversity: Option<f32>,
    /// A digest of all this but `k`, the cursor and `explain`: a cursor goes with one question.
    pub question: [u8; 16],
    /// Also the owner's private frames.
    pub include_private: bool,
    /// These only.
    pub only_private: bool,
    /// What similarity is: of meaning, of words, or of both.
    pub mode: SearchMode,
    /// The words to look for, of a search by words.
    pub words: Option<Words>,
}

/// `weight` of a recency that names none.
const RECENCY_WEIGHT: f32 = 0.2;

/// Checks a search.
pub fn search(request: SearchRequest) -> Result<Query, Problem> {
    if request.searches.is_some() {
        return Err(Problem::invalid("a search of a batch has no searches of its own"));
    }
    let default_k = if request.min_score.is_some() { limits::MAX_K } else { limits::DEFAULT_K };
    let k = request.k.unwrap_or(default_k);
    if k == 0 || k > limits::MAX_K {
        return Err(Problem::invalid(format!("k is {k}, it must be 1 to {}", limits::MAX_K)));
    }
    if request.min_score.is_some_and(|score| !score.is_finite()) {
        return Err(Problem::invalid("min_score is not a finite number"));
    }
    let question = question(&request);
    let cursor = request.cursor.as_deref().map(Cursor::decode).transpose()?;
    let group = group(request.group_by, request.group_size, k)?;
    let diversity = request.diversity.map(|value| part("diversity", value)).transpose()?;
    if cursor.is_some() && (group.is_some() || diversity.is_some()) {
        return Err(Problem::invalid(
            "cursor goes with neither group_by nor diversity, whose order is not one of places",
        ));
    }
    if group.is_some() && diversity.is_some() {
        return Err(Problem::invalid("group_by and diversity exclude each other: send one of them"));
    }
    if cursor.is_some_and(|cursor| cursor.seen.saturating_add(k) as usize > limits::MAX_POOL) {
        return Err(too_large(format!("paging reaches {} hits: narrow the search by a filter", limits::MAX_POOL)));
    }
    let (created_from_ms, created_to_ms) = range(request.created_from.as_deref(), request.created_to.as_deref())?;
    let probes = probes(request.query, request.vector, request.queries, request.vectors)?;
    if request.combine.is_some() && probes.len() == 1 {
        return Err(Problem::invalid("combine goes with several queries or vectors"));
    }
    let words = words(&request.mode, &probes)?;
    if words.is_some() {
        if !request.only_private {
            let detail = "mode text and hybrid look among private memories only so far: send only_private: true";
            return Err(Problem::invalid(detail));
        }
        let without = [
            ("cursor", cursor.is_some()),
            ("diversity", diversity.is_some()),
            ("recency", request.recency.is_some()),
            ("using", request.using.is_some()),
        ];
        if let Some((name, _)) = without.into_iter().find(|(_, is_there)| *is_there) {
            return Err(Problem::invalid(format!("{name} goes with a search by meaning only (mode vector)")));
        }
    }
    let using = optional_name("using", request.using)?.unwrap_or_default();
    if !using.is_empty() && probes.iter().any(|probe| matches!(probe, Probe::Text(_))) {
        let detail = format!("words cannot be compared with the vectors named {using:?}: send vector or vectors");
        return Err(Problem::invalid(detail));
    }
    Ok(Query {
        using,
        is_mean: probes.len() > 1 && request.combine == Some(Combine::Mean),
        probes,
        k,
        collection: collection(request.collection)?,
        created_from_ms,
        created_to_ms,
        strict: request.strict,
        exact: request.exact,
        filter_json: request.filter.as_ref().map(checked_filter).transpose()?.unwrap_or_default(),
        explain: request.explain,
        min_score: request.min_score,
        cursor,
        recency: request.recency.map(recency).transpose()?,
        group,
        diversity,
        question,
        include_private: request.include_private || request.only_private,
        only_private: request.only_private,
        mode: request.mode,
        words,
    })
}

/// Checks the shape of a batch of searches; each of them is checked by itself when its turn comes.
pub fn batch(around: &SearchRequest, searches: &[SearchRequest]) -> Result<(), Problem> {
    if *around != SearchRequest::default() {
        return Err(Problem::invalid("searches stands alone: put everything else into the searches"));
    }
    match searches.len() {
        0 => Err(Problem::invalid("searches is empty")),
        have if have > limits::MAX_BATCH_SEARCHES => {
            Err(too_large(format!("searches has {have} entries, the limit is {}", limits::MAX_BATCH_SEARCHES)))
        }
        _ => Ok(()),
    }
}

/// What stays the same from page to page.
fn question(request: &SearchRequest) -> [u8; 16] {
    let same =
        SearchRequest { k: None, cursor: None, explain: false, strict: false, consistency: None, ..request.clone() };
    let json = serde_json::to_vec(&same).unwrap_or_default();
    blake3::hash(&json).as_bytes()[..16].try_into().expect("a hash is longer")
}

fn recency(recency: Recency) -> Result<(u64, f32), Problem> {
    let weight = part("recency.weight", recency.weight.unwrap_or(RECENCY_WEIGHT))?;
    if recency.half_life_seconds == 0 || weight == 0.0 {
        return Err(Problem::invalid("recency needs a half_life_seconds and a weight above 0"));
    }
    Ok((recency.half_life_seconds.saturating_mul(1_000), weight))
}

/// A number from 0 to 1.
fn part(name: &str, value: f32) -> Result<f32, Problem> {
    match (0.0..=1.0).contains(&value) {
        true => Ok(value),
        false => Err(Problem::invalid(format!("{name} is {value}, it must be 0 to 1"))),
    }
}

fn group(field: Option<String>, size: Option<u32>, k: u32) -> Result<Option<(String, u32)>, Problem> {
    let Some(field) = field else {
        return match size {
            Some(_) => Err(Problem::invalid("group_size goes with group_by only")),
            None => Ok(None),
        };
    };
    let is_known = ["session", "type", "role"].contains(&field.as_str())
        || field.strip_prefix(filter::METADATA).is_some_and(|name| !name.is_empty());
    if !is_known || field.len() > limits::MAX_NAME_BYTES {
        return Err(Problem::invalid("group_by is session, type, role or metadata.NAME"));
    }
    let size = size.unwrap_or(1);
    if size == 0 || size > limits::MAX_GROUP_SIZE {
        return Err(Problem::invalid(format!("group_size is {size}, it must be 1 to {}", limits::MAX_GROUP_SIZE)));
    }
    if k.saturating_mul(size) > limits::MAX_K {
        return Err(too_large(format!("k times group_size is more than {} hits", limits::MAX_K)));
    }
    Ok(Some((field, size)))
}

/// One thing to look for, or several.
fn probes(
    query: Option<String>,
    vector: Option<Vec<f32>>,
    queries: Option<Vec<String>>,
    vectors: Option<Vec<Vec<f32>>>,
) -> Result<Vec<Probe>, Problem> {
    if queries.is_none() && vectors.is_none() {
        return Ok(vec![probe(query, vector)?]);
    }
    if query.is_some() || vector.is_some() {
        return Err(Problem::invalid("query and vector exclude queries and vectors: send one or several"));
    }
    let texts = queries.into_iter().flatten().map(|query| probe(Some(query), None));
    let vectors = vectors.into_iter().flatten().map(|vector| probe(None, Some(vector)));
    let probes = texts.chain(vectors).take(limits::MAX_QUERY_VECTORS + 1).collect::<Result<Vec<_>, _>>()?;
    match probes.len() {
        0 => Err(Problem::invalid("nothing to look for: queries and vectors are empty")),
        have if have > limits::MAX_QUERY_VECTORS => {
            Err(too_large(format!("queries and vectors are more than {}", limits::MAX_QUERY_VECTORS)))
        }
        _ => Ok(probes),
    }
}

/// What a search by words looks for; none of one by meaning.
fn words(mode: &SearchMode, probes: &[Probe]) -> Result<Option<Words>, Problem> {
    match (mode, probes) {
        (SearchMode::Auto | SearchMode::Vector, _) => Ok(None),
        (SearchMode::Text | SearchMode::Hybrid, [Probe::Text(query)]) => {
            let words = Words::of(query);
            match words.is_empty() {
                true => Err(Problem::invalid("query has no word to look for")),
                false => Ok(Some(words)),
            }
        }
        _ => Err(Problem::invalid("mode text and hybrid go with one query, in words")),
    }
}

/// A filter that was checked, as the shards read it.
fn checked_filter(filter: &Filter) -> Result<String, Problem> {
    mira_index::filter::check(filter)?;
    serde_json::to_string(filter).map_err(|error| Problem::internal(format!("the filter is no JSON: {error}")))
}

fn probe(query: Option<String>, vector: Option<Vec<f32>>) -> Result<Probe, Problem> {
    match (query, vector) {
        (Some(_), Some(_)) => Err(Problem::invalid("query and vector are both given: send one of them")),
        (None, None) => Err(Problem::invalid("nothing to look for: send query (words) or vector")),
        (Some(query), None) if query.trim().is_empty() => Err(Problem::invalid("query is empty")),
        (Some(query), None) if query.len() > limits::MAX_QUERY_BYTES => {
            let (have, limit) = (query.len(), limits::MAX_QUERY_BYTES);
            Err(too_large(format!("query has {have} bytes, the limit is {limit}")))
        }
        (Some(query), None) => Ok(Probe::Text(query)),
        (None, Some(vector)) => components(&vector).map(|()| Probe::Vector(vector)),
    }
}

/// Which frames a recall is after.
#[derive(Debug, Clone, PartialEq)]
pub enum Wanted {
    /// One frame; that it is unknown is a problem.
    One(Uuid),
    /// These frames; unknown ones are listed.
    Many(Vec<Uuid>),
    /// A session in order of creation.
    Session {
        /// Its name.
        session: String,
        /// Created at or after, milliseconds; 0 = open.
        from_ms: u64,
        /// Created before, milliseconds; 0 = open.
        to_ms: u64,
        /// How many at most.
        limit: u32,
        /// The newest instead of the oldest.
        last: bool,
    },
}

/// Checks a recall; returns the collection and what is wanted of it.
pub fn recall(request: RecallRequest) -> Result<(String, Wanted), Problem> {
    let collection = collection(request.collection)?;
    let ranged = request.created_from.is_some() || request.created_to.is_some();
    let session_only = ranged || request.limit.is_some() || request.last;
    let wanted = match (request.id, request.ids, request.session) {
        (Some(id), None, None) => Wanted::One(id),
        (None, Some(ids), None) => Wanted::Many(id_list(ids, limits::MAX_RECALL as usize)?),
        (None, None, Some(session)) => {
            let (from_ms, to_ms) = range(request.created_from.as_deref(), request.created_to.as_deref())?;
            let limit = request.limit.unwrap_or(limits::DEFAULT_RECALL);
            if limit == 0 || limit > limits::MAX_RECALL {
                return Err(Problem::invalid(format!("limit is {limit}, it must be 1 to {}", limits::MAX_RECALL)));
            }
            let session = checked_name("session", session)?;
            Wanted::Session { session, from_ms, to_ms, limit, last: request.last }
        }
        (None, None, None) => return Err(Problem::invalid("nothing to recall: send id, ids or session")),
        _ => return Err(Problem::invalid("id, ids and session exclude each other: send one of them")),
    };
    if session_only && !matches!(wanted, Wanted::Session { .. }) {
        return Err(Problem::invalid("created_from, created_to, limit and last go with session only"));
    }
    Ok((collection, wanted))
}

/// Which frames a `forget` removes.
#[derive(Debug, Clone, PartialEq)]
pub enum Doomed {
    /// These.
    Ids(Vec<Uuid>),
    /// All of a session.
    Session(String),
    /// All that this filter means, as JSON.
    Filtered(String),
    /// All of the collection.
    All,
}

/// Checks a `forget`; returns the collection and what goes.
pub fn forget(request: ForgetRequest) -> Result<(String, Doomed), Problem> {
    let collection = collection(request.collection)?;
    let doomed = match (request.id, request.ids, request.session, request.filter, request.all) {
        (Some(id), None, None, None, false) => Doomed::Ids(vec![id]),
        (None, Some(ids), None, None, false) => Doomed::Ids(id_list(ids, limits::MAX_FORGET_STEP)?),
        (None, None, Some(session), None, false) => Doomed::Session(checked_name("session", session)?),
        (None, None, None, Some(filter), false) => Doomed::Filtered(meaningful(&filter)?),
        (None, None, None, None, true) => Doomed::All,
        (None, None, None, None, false) => {
            return Err(Problem::invalid("nothing to forget: send id, ids, session, filter, or all: true"));
        }
        _ => return Err(Problem::invalid("id, ids, session, filter and all exclude each other: send one of them")),
    };
    Ok((collection, doomed))
}

/// A filter that leaves something out: to forget everything must be asked for in so many words.
fn meaningful(filter: &Filter) -> Result<String, Problem> {
    match mira_index::filter::check(filter)? {
        Condition::All(parts) if parts.is_empty() => {
            Err(Problem::invalid("the filter matches everything: send all: true if that is meant"))
        }
        _ => checked_filter(filter),
    }
}

fn id_list(ids: Vec<Uuid>, limit: usize) -> Result<Vec<Uuid>, Problem> {
    match ids.len() {
        0 => Err(Problem::invalid("ids is empty")),
        have if have > limit => Err(too_large(format!("ids has {have} entries, the limit is {limit}"))),
        _ => Ok(ids),
    }
}

/// Checks the settings of a new collection against a cluster of `shard_count` shards.
pub fn collection_settings(settings: &CollectionSettings, shard_count: u32) -> Result<(), Problem> {
    if let Some(dim) = settings.dim
        && (dim == 0 || dim > limits::MAX_DIM)
    {
        return Err(Problem::invalid(format!("dim is {dim}, it must be 1 to {}", limits::MAX_DIM)));
    }
    if let Some(partitions) = settings.partitions
        && (partitions == 0 || partitions > shard_count)
    {
        let detail = format!("partitions is {partitions}, it must be 1 to {shard_count}, the shards of this cluster");
        return Err(Problem::invalid(detail));
    }
    if settings.vectors.len() > limits::MAX_NAMED_VECTORS {
        let (have, limit) = (settings.vectors.len(), limits::MAX_NAMED_VECTORS);
        return Err(too_large(format!("vectors has {have} entries, the limit is {limit}")));
    }
    for (name, vectors) in &settings.vectors {
        checked_name("a name in vectors", name.clone())?;
        if vectors.dim == 0 || vectors.dim > limits::MAX_DIM {
            let (dim, limit) = (vectors.dim, limits::MAX_DIM);
            return Err(Problem::invalid(format!(
                "dim of the vectors named {name:?} is {dim}, it must be 1 to {limit}"
            )));
        }
        if vectors.ef.is_some() {
            return Err(Problem::invalid(format!("ef of the vectors named {name:?} is no setting: tune finds it")));
        }
    }
    if settings.ttl_seconds == Some(0) {
        return Err(Problem::invalid("ttl_seconds is 0: leave it out to keep frames until they are forgotten"));
    }
    Ok(())
}

fn too_large(detail: String) -> Problem {
    Problem::new(Code::TooLarge, detail)
}

#[cfg(test)]
mod tests;
