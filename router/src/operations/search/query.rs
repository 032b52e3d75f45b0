//! A search, checked.

use mira_proto::filter;
use mira_proto::model::{self, Combine, SearchMode, SearchRequest};
use mira_proto::{Problem, limits};

use crate::operations::convert::{self, Space};
use crate::operations::validate::{self, checked_filter, optional_name, range, too_large};
use crate::private::text::Words;
use crate::ranking::cursor::Cursor;

/// What to look for.
#[derive(Debug, Clone, PartialEq)]
pub enum Probe {
    /// Words, to be embedded.
    Text(String),
    /// A vector of the caller's.
    Vector(Vec<f32>),
}

/// How much newer memories are preferred.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Recency {
    /// The age at which the bonus is half, milliseconds.
    pub half_life_ms: u64,
    /// The bonus' part of the score, above 0 to 1.
    pub weight: f32,
}

/// How hits are grouped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grouping {
    /// The field whose value makes a group.
    pub field: String,
    /// Hits of each group at most.
    pub size: u32,
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
    /// The name of the collection to look in.
    pub collection: String,
    /// Created at or after, milliseconds; 0 = open.
    pub created_from_ms: u64,
    /// Created before, milliseconds; 0 = open.
    pub created_to_ms: u64,
    /// Refuse an answer that misses a shard.
    pub strict: bool,
    /// Compare with every vector.
    pub exact: bool,
    /// How wide a beam; the collection's own, or one that widens by itself, if `None`.
    pub ef: Option<u32>,
    /// Only frames that this filter means, as JSON; empty = all.
    pub filter_json: String,
    /// Say how the answer came about.
    pub explain: bool,
    /// The least score.
    pub min_score: Option<f32>,
    /// Only what ranks after the place that this marks.
    pub cursor: Option<Cursor>,
    /// The bonus of what is new.
    pub recency: Option<Recency>,
    /// Hits come in groups.
    pub group: Option<Grouping>,
    /// How much hits that differ are preferred to more of the same.
    pub diversity: Option<f32>,
    /// A digest of all this but `k`, `ef`, the cursor and `explain`: a cursor goes with one question.
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

/// A search whose collection is known, with the vectors of what it looks for.
pub(crate) struct ResolvedQuery<'a> {
    /// The search.
    pub(crate) query: &'a Query,
    /// The space to look in.
    pub(crate) space: Space,
    /// One for each probe; none of a search by words only.
    pub(crate) vectors: Vec<Vec<f32>>,
    /// The time that ages are counted from.
    pub(crate) now_ms: u64,
}

/// How many times `k` candidates a diverse answer is chosen from.
const DIVERSE_POOL: u32 = 4;
/// `weight` of a recency that names none.
const RECENCY_WEIGHT: f32 = 0.2;

impl Query {
    /// Checks a search.
    pub fn of(request: SearchRequest) -> Result<Self, Problem> {
        if request.searches.is_some() {
            return Err(Problem::invalid("a search of a batch has no searches of its own"));
        }
        let k = checked_k(&request)?;
        if request.min_score.is_some_and(|score| !score.is_finite()) {
            return Err(Problem::invalid("min_score is not a finite number"));
        }
        check_order(&request)?;
        let cursor = request.cursor.as_deref().map(Cursor::decode).transpose()?;
        let ef = request.ef.map(checked_ef).transpose()?;
        let question = question(&request);
        let (created_from_ms, created_to_ms) = range(request.created_from.as_deref(), request.created_to.as_deref())?;
        let is_by_words = matches!(request.mode, SearchMode::Text | SearchMode::Hybrid);
        let refused = if is_by_words { refusal_of_words(&request) } else { None };
        let probes = probes(request.query, request.vector, request.queries, request.vectors)?;
        if request.combine.is_some() && probes.len() == 1 {
            return Err(Problem::invalid("combine goes with several queries or vectors"));
        }
        let is_pooled = probes.len() > 1 || request.recency.is_some();
        if is_pooled && cursor.as_ref().is_some_and(|cursor| !reaches(cursor.seen, k)) {
            return Err(too_large(format!("paging reaches {} hits: narrow the search by a filter", limits::MAX_POOL)));
        }
        let words = words(&request.mode, &probes)?;
        if let Some(refused) = refused {
            return Err(refused);
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
            collection: validate::collection(request.collection)?,
            created_from_ms,
            created_to_ms,
            strict: request.strict,
            exact: request.exact,
            ef,
            filter_json: request.filter.as_ref().map(checked_filter).transpose()?.unwrap_or_default(),
            explain: request.explain,
            min_score: request.min_score,
            cursor,
            recency: request.recency.map(Recency::of).transpose()?,
            group: grouping(request.group_by, request.group_size, k)?,
            diversity: request.diversity.map(|value| share("diversity", value)).transpose()?,
            question,
            include_private: request.include_private || request.only_private,
            only_private: request.only_private,
            mode: request.mode,
            words,
        })
    }

    /// How many candidates each shard names.
    pub(crate) fn pool(&self) -> u32 {
        match self.diversity {
            Some(_) => self.k.saturating_mul(DIVERSE_POOL).clamp(self.k, limits::MAX_K),
            None => self.k,
        }
    }

    /// How many hits an answer has at most: with groups, `k` counts those.
    pub(crate) fn most_hits(&self) -> usize {
        self.k as usize * self.group.as_ref().map_or(1, |group| group.size as usize)
    }

    /// The time that ages are counted from, the same on every page.
    pub(crate) fn now_ms(&self) -> u64 {
        self.cursor.as_ref().map_or_else(convert::now_ms, |cursor| cursor.now_ms)
    }

    /// Whether hits come in an order of places, so that pages may follow each other.
    pub(crate) fn is_by_place(&self) -> bool {
        self.group.is_none() && self.diversity.is_none() && self.words.is_none()
    }

    /// Whether shards look through a pool of the most similar frames for it, which has a largest size.
    pub(crate) fn is_pooled(&self) -> bool {
        self.probes.len() > 1 || self.recency.is_some()
    }
}

/// How many hits, or groups of them, are asked for.
fn checked_k(request: &SearchRequest) -> Result<u32, Problem> {
    let default_k = if request.min_score.is_some() { limits::MAX_K } else { limits::DEFAULT_K };
    match request.k.unwrap_or(default_k) {
        k @ 1..=limits::MAX_K => Ok(k),
        k => Err(Problem::invalid(format!("k is {k}, it must be 1 to {}", limits::MAX_K))),
    }
}

/// Whether a page of `k` hits after so many lies within the largest pool.
pub(crate) fn reaches(seen: u32, k: u32) -> bool {
    seen.saturating_add(k) as usize <= limits::MAX_POOL
}

fn checked_ef(ef: u32) -> Result<u32, Problem> {
    match ef {
        1..=limits::MAX_TUNED_EF => Ok(ef),
        _ => Err(Problem::invalid(format!("ef is {ef}, it must be 1 to {}", limits::MAX_TUNED_EF))),
    }
}

/// Refuses orders of hits that exclude each other.
fn check_order(request: &SearchRequest) -> Result<(), Problem> {
    let (is_grouped, is_diverse) = (request.group_by.is_some(), request.diversity.is_some());
    if request.cursor.is_some() && (is_grouped || is_diverse) {
        let detail = "cursor goes with neither group_by nor diversity, whose order is not one of places";
        return Err(Problem::invalid(detail));
    }
    if is_grouped && is_diverse {
        return Err(Problem::invalid("group_by and diversity exclude each other: send one of them"));
    }
    Ok(())
}

/// What stands against a search by words.
fn refusal_of_words(request: &SearchRequest) -> Option<Problem> {
    if !request.only_private {
        let detail = "mode text and hybrid look among private memories only so far: send only_private: true";
        return Some(Problem::invalid(detail));
    }
    let without = [
        ("cursor", request.cursor.is_some()),
        ("diversity", request.diversity.is_some()),
        ("recency", request.recency.is_some()),
        ("using", request.using.is_some()),
    ];
    let (name, _) = without.into_iter().find(|(_, is_there)| *is_there)?;
    Some(Problem::invalid(format!("{name} goes with a search by meaning only (mode vector)")))
}

/// Refuses a batch of searches with anything beside it.
pub(crate) fn stands_alone(around: &SearchRequest) -> Result<(), Problem> {
    if *around == SearchRequest::default() {
        return Ok(());
    }
    Err(Problem::invalid("searches stands alone: put everything else into the searches"))
}

/// What stays the same from page to page.
fn question(request: &SearchRequest) -> [u8; 16] {
    let same = SearchRequest {
        k: None,
        ef: None,
        cursor: None,
        explain: false,
        strict: false,
        consistency: None,
        ..request.clone()
    };
    let json = serde_json::to_vec(&same).unwrap_or_default();
    blake3::hash(&json).as_bytes()[..16].try_into().expect("a hash is longer")
}

impl Recency {
    fn of(recency: model::Recency) -> Result<Self, Problem> {
        let weight = share("recency.weight", recency.weight.unwrap_or(RECENCY_WEIGHT))?;
        if recency.half_life_seconds == 0 || weight == 0.0 {
            return Err(Problem::invalid("recency needs a half_life_seconds and a weight above 0"));
        }
        Ok(Recency { half_life_ms: recency.half_life_seconds.saturating_mul(1_000), weight })
    }
}

/// A number from 0 to 1.
fn share(name: &str, value: f32) -> Result<f32, Problem> {
    if (0.0..=1.0).contains(&value) {
        Ok(value)
    } else {
        Err(Problem::invalid(format!("{name} is {value}, it must be 0 to 1")))
    }
}

fn grouping(field: Option<String>, size: Option<u32>, k: u32) -> Result<Option<Grouping>, Problem> {
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
    Ok(Some(Grouping { field, size }))
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
            if words.is_empty() {
                return Err(Problem::invalid("query has no word to look for"));
            }
            Ok(Some(words))
        }
        _ => Err(Problem::invalid("mode text and hybrid go with one query, in words")),
    }
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
        (None, Some(vector)) => validate::components(&vector).map(|()| Probe::Vector(vector)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mira_proto::Code;

    use crate::operations::validate::tests::refused;

    #[test]
    fn searches_have_defaults_and_bounds() {
        let ask = |k| SearchRequest { query: Some("tea".into()), k, ..Default::default() };
        assert_eq!(Query::of(ask(None)).unwrap().k, limits::DEFAULT_K);
        assert_eq!(Query::of(ask(Some(limits::MAX_K))).unwrap().k, limits::MAX_K);
        for bad in [0, limits::MAX_K + 1] {
            refused(Query::of(ask(Some(bad))), Code::InvalidArgument, "1 to 1000");
        }
        let walk = |ef| Query::of(SearchRequest { ef, ..ask(None) });
        assert_eq!((walk(None).unwrap().ef, walk(Some(2_048)).unwrap().ef), (None, Some(2_048)));
        for bad in [0, 2_049] {
            refused(walk(Some(bad)), Code::InvalidArgument, "ef is");
        }
        assert_eq!(walk(Some(7)).unwrap().question, walk(None).unwrap().question, "pages may differ in it");
    }
}
