//! A search in a shard's index: the tail exactly, the index for everything that the tail does not mention.

use std::{
    collections::HashMap,
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use mira_index::{
    Condition, Document, Explain, Filter, Hit, Place, SearchParams, Times, VectorIndex, Where, indexed_top_k,
    merge_top_k,
};
use mira_proto::{Code, FrameId, Problem, vectors::SpaceNumber};
use parking_lot::Mutex;

use super::{
    ShardIndex,
    field_types::FieldTypes,
    space::{SpaceIndex, config},
    tail::Tail,
};
use crate::{
    meta::{CollectionRecord, Space},
    shard::migration::ownership::Shown,
};

/// A nearest-neighbour question to one collection of a shard.
#[derive(Debug, Clone)]
pub struct Query {
    /// The space to look in.
    pub space: SpaceNumber,
    /// As many components as the vectors of the space have, checked.
    pub vector: Vec<f32>,
    /// Hits wanted.
    pub k: usize,
    /// Beam width; one that widens by itself if `None`.
    pub ef: Option<usize>,
    /// Only what ranks after this, exactly.
    pub after: Option<Place>,
    /// Look at every vector.
    pub exact: bool,
    /// Name the fields of the condition that are unknown.
    pub explain: bool,
    /// Only frames created in this time.
    pub created_ms: Range<u64>,
    /// Only frames that meet this.
    pub condition: Option<Condition>,
    /// Only these frames, in ascending order, exactly.
    pub among: Option<Vec<FrameId>>,
    /// Frames whose time is over by now are not hits.
    pub now_ms: u64,
    /// Set when nobody waits for the answer any more.
    pub stopped: Arc<AtomicBool>,
    /// While the collection grows: the frames that this shard shows.
    pub shown: Shown,
}

impl Query {
    /// Whether only frames of some time are wanted.
    pub(in crate::shard) fn is_ranged(&self) -> bool {
        self.created_ms != (0..u64::MAX)
    }

    fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Relaxed)
    }

    /// Whether a frame was created in the time that is asked for and is not over its own.
    fn covers(&self, times: &Times) -> bool {
        self.created_ms.contains(&times.created_ms) && (times.expires_ms == 0 || times.expires_ms > self.now_ms)
    }
}

/// The answer to a [`Query`].
#[derive(Debug, Default)]
pub struct Found {
    /// Best first.
    pub hits: Vec<Hit>,
    /// Frames with vectors in the collection.
    pub searched: u64,
    /// Of them, in the tail.
    pub tail: u64,
    /// What was done, if anything is indexed.
    pub explain: Option<Explain>,
    /// Whether no nearer frame was missed.
    pub is_exact: bool,
    /// With `explain`: fields of the condition that no indexed frame has had.
    pub unknown_fields: Vec<String>,
    /// With a condition: what the fields that it compares hold.
    pub field_types: Option<FieldTypes>,
}

/// Why a search has no answer here.
#[derive(Debug, Clone, thiserror::Error)]
pub enum IndexError {
    /// The index is being built; another replica may have its own.
    #[error("the index is being built")]
    Building,
    /// Nobody waits for the answer any more.
    #[error("the search was given up")]
    Stopped,
    /// The caller's fault, or damage.
    #[error(transparent)]
    Refused(#[from] Problem),
}

pub(in crate::shard) fn refuse(error: mira_index::IndexError) -> IndexError {
    if let mira_index::IndexError::Aborted = error {
        return IndexError::Stopped;
    }
    Problem::new(Code::InvalidArgument, error.to_string()).into()
}

impl ShardIndex {
    /// The nearest frames of a collection, best first.
    pub fn search(&self, collection: &CollectionRecord, query: &Query) -> Result<Found, IndexError> {
        let unknown = || Problem::invalid(format!("collection {:?} has no space {}", collection.name, query.space));
        let space = collection.space(query.space).ok_or_else(unknown)?;
        let generation = self.generation.load(Ordering::Acquire);
        if !self.ready.load(Ordering::Acquire) {
            return Err(IndexError::Building);
        }
        let found = self.search_space(&space, query).inspect_err(|error| {
            if let IndexError::Stopped = error {
                self.given_up.fetch_add(1, Ordering::Relaxed);
            }
        })?;
        // The state was replaced meanwhile: what was found belongs to no one state.
        if self.generation.load(Ordering::Acquire) != generation {
            return Err(IndexError::Building);
        }
        Ok(found)
    }

    fn search_space(&self, space: &Space<'_>, query: &Query) -> Result<Found, IndexError> {
        let Some(index) = self.index_of(space.into()) else {
            let field_types = query.condition.as_ref().map(|_| FieldTypes::new());
            return Ok(Found { field_types, is_exact: true, ..Found::default() });
        };
        // The tail first: a frame that moves to the index meanwhile is then seen twice, not missed, and counts once.
        let tail: Tail = index.tail.lock().clone();
        SpaceSearch { shard: self, space, index: &index, query, tail }.run()
    }
}

/// One search of one space.
struct SpaceSearch<'a> {
    shard: &'a ShardIndex,
    space: &'a Space<'a>,
    index: &'a SpaceIndex,
    query: &'a Query,
    /// The tail as it was when the search began.
    tail: Tail,
}

impl SpaceSearch<'_> {
    fn run(&self) -> Result<Found, IndexError> {
        let condition = self.query.condition.as_ref();
        let mut lists = vec![self.in_tail()?];
        let mut found = Found { is_exact: true, ..Found::default() };
        if let Some(vectors) = self.index.vectors.get() {
            let (hits, explain) = self.in_index(vectors)?;
            lists.push(hits);
            found.is_exact = explain.is_none_or(|explain| explain.is_exact);
            found.explain = explain;
            let unknown = |condition| vectors.unknown_fields(condition);
            found.unknown_fields = condition.filter(|_| self.query.explain).map(unknown).unwrap_or_default();
            found.searched = vectors.len() as u64;
        }
        let known = |condition| self.shard.known_types(self.space.collection, condition, self.index, &self.tail);
        found.field_types = condition.map(known);
        found.tail = self.tail.values().filter(|entry| entry.stored.is_some()).count() as u64;
        found.searched += found.tail;
        found.hits = merge_top_k(lists, self.query.k);
        Ok(found)
    }

    fn in_tail(&self) -> Result<Vec<Hit>, IndexError> {
        let &SpaceSearch { shard, space, query, ref tail, .. } = self;
        let documents = tail.iter().filter_map(|(&frame, entry)| {
            if query.among.as_ref().is_some_and(|among| among.binary_search(&frame).is_err()) {
                return None;
            }
            let stored =
                entry.stored.as_deref().filter(|stored| query.covers(&stored.times) && query.shown.shows(frame))?;
            if let Some(condition) = &query.condition
                && !condition.matches(shard.attributes_of(space.collection, frame, stored), &stored.times)
            {
                return None;
            }
            let rows = entry.rows.get_or_init(|| shard.rows_of(space, frame, stored));
            Some((frame, rows.as_ref()?))
        });
        indexed_top_k(&config(space), &query.vector, documents, query.k, query.after.as_ref()).map_err(refuse)
    }

    /// Asks the index for everything that the tail does not mention.
    fn in_index(&self, vectors: &VectorIndex) -> Result<(Vec<Hit>, Option<Explain>), IndexError> {
        let &SpaceSearch { index, query, ref tail, .. } = self;
        let by_time = query.is_ranged() || index.expiring.load(Ordering::Relaxed);
        let matches = |document: &Document| {
            !tail.contains_key(&document.id)
                && (!by_time || query.covers(&document.times))
                && query.shown.shows(document.id)
        };
        let filtered = by_time || !tail.is_empty() || !query.shown.is_all();
        let is_stopped = || query.is_stopped();
        let verified = Mutex::new(HashMap::new());
        let verify = |document: &Document| {
            // Each opens a frame: nobody waits for them any more.
            if is_stopped() {
                return false;
            }
            *verified.lock().entry(document.id).or_insert_with(|| self.meets_condition(document))
        };
        let selectivity = query.is_ranged().then(|| vectors.share(&|document| query.covers(&document.times)));
        let params = SearchParams {
            ef: query.ef,
            effort: index.effort.factor(),
            after: query.after.as_ref(),
            filter: filtered.then_some(Filter { matches: &matches, selectivity }),
            condition: query.condition.as_ref().map(|condition| Where { condition, verify: &verify }),
            abort: Some(&is_stopped),
            ..SearchParams::new(&query.vector, query.k)
        };
        if let Some(among) = &query.among {
            let among: Vec<FrameId> = among.iter().copied().filter(|frame| !tail.contains_key(frame)).collect();
            return vectors.search_among(&among, &params).map(|hits| (hits, None)).map_err(refuse);
        }
        let found =
            if query.exact { vectors.search_exact_explained(&params) } else { vectors.search_explained(&params) };
        let found = found.map(|(hits, explain)| (hits, Some(explain)));
        // What was passed over because nobody waits is missing from the answer.
        if is_stopped() { Err(IndexError::Stopped) } else { found.map_err(refuse) }
    }

    /// Whether the frame behind a document meets the condition, by its attributes as the state has them.
    fn meets_condition(&self, document: &Document) -> bool {
        let (Some(condition), Some(attributes)) =
            (&self.query.condition, self.shard.read_attributes(self.space.collection, document.id))
        else {
            return false;
        };
        condition.matches(&attributes, &document.times)
    }
}
