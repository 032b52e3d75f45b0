//! The vector index of one collection in one shard: documents in, ranked documents out.

mod compaction;

use std::io::{Read, Write};
use std::sync::Arc;

use arc_swap::ArcSwap;
use parking_lot::{Mutex, RwLock};

use crate::document::{Document, Times};
use crate::error::{ImageError, IndexError};
use crate::filter::attributes::Attributes;
use crate::filter::condition::Condition;
use crate::filter::field_types::TypeSet;
use crate::filter::value::Value;
use crate::topk::Hit;
use crate::vector::config::Config;
use crate::vector::image::{self, Snapshot};
use crate::vector::input;
use crate::vector::params::{Explain, SearchParams};
use crate::vector::rows::RowStorage;
use crate::vector::search::Search;
use crate::vector::segment::Segment;

/// Slots looked at to estimate how many documents match: a share of a hundredth is told within a third.
const SAMPLE: u32 = 1_000;

/// Documents (a frame id and its 1..n passage vectors) findable by similarity. All methods take `&self`: any number of
/// threads may insert, remove and search at once.
///
/// A search takes no lock and sees one point in time: each document whole, in exactly one of its versions, from the
/// moment `upsert` returned until `remove` returned.
pub struct VectorIndex {
    segment: ArcSwap<Segment>,
    /// Writers hold it shared; a compaction takes it alone for its last step.
    writers: RwLock<()>,
    compacting: Mutex<()>,
}

/// Sizes of one index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stats {
    /// Documents.
    pub documents: usize,
    /// Vectors of these documents.
    pub live_vectors: usize,
    /// Vectors of removed or replaced documents, which take memory until a compaction.
    pub dead_vectors: usize,
    /// Vectors that wait to be linked into the graph and are scanned meanwhile.
    pub unlinked_vectors: usize,
    /// Bytes of codes and their scales and stamps.
    pub code_bytes: usize,
    /// Bytes of links.
    pub graph_bytes: usize,
    /// Bytes of full-precision rows in memory, without those in a shared cache.
    pub row_bytes: usize,
    /// Bytes of ids, both ways, and times.
    pub id_bytes: usize,
    /// Bytes of attributes and the documents that have them.
    pub attribute_bytes: usize,
}

impl VectorIndex {
    /// An empty index with rows in memory.
    pub fn new(config: Config) -> Result<Self, IndexError> {
        config.check()?;
        Self::with_storage(config, &RowStorage::Memory)
    }

    /// An empty index with rows elsewhere. Without quantisation the codes are the rows, and `storage` is ignored.
    pub fn with_storage(config: Config, storage: &RowStorage) -> Result<Self, IndexError> {
        config.check()?;
        Ok(Self::from_segment(Segment::new(config, storage, None)))
    }

    fn from_segment(segment: Segment) -> Self {
        VectorIndex { segment: ArcSwap::from_pointee(segment), writers: RwLock::new(()), compacting: Mutex::new(()) }
    }

    pub(crate) fn segment(&self) -> Arc<Segment> {
        self.segment.load_full()
    }

    /// The shape it was made with.
    pub fn config(&self) -> Config {
        self.segment.load().config
    }

    /// Adds a document or replaces it: `vectors` are its passages end to end.
    ///
    /// When it returns, every search finds the document. Linking one 384-d vector into a graph takes 100 to 300 µs.
    pub fn upsert(&self, id: u128, vectors: &[f32]) -> Result<(), IndexError> {
        self.upsert_with(Document { id, times: Times::default() }, &Attributes::default(), vectors)
    }

    /// As [`upsert`](Self::upsert), with times and attributes for filters.
    pub fn upsert_with(&self, document: Document, attributes: &Attributes, vectors: &[f32]) -> Result<(), IndexError> {
        let _writing = self.writers.read();
        let segment = self.segment.load();
        input::check_document(segment.config.metric, segment.config.dim, vectors)?;
        segment.upsert(document, attributes, vectors)
    }

    /// The fields of a condition that no document ever had, in order.
    pub fn unknown_fields(&self, condition: &Condition) -> Vec<String> {
        let mut unknown = Default::default();
        self.segment.load().postings.read().unknown_fields(condition, &mut unknown);
        let mut unknown: Vec<_> = unknown.into_iter().collect();
        unknown.sort_unstable();
        unknown
    }

    /// The types of a field's values in all documents, and maybe of some that are gone; none of a field that no document
    /// had, all of one that the index cannot tell.
    pub fn field_types(&self, field: &str) -> TypeSet {
        self.segment.load().postings.field_types(field)
    }

    /// The documents held, in no order; some of those that come or go meanwhile.
    pub fn documents(&self) -> Vec<Document> {
        let segment = self.segment.load();
        let slots = segment.table.slots();
        slots.into_iter().filter_map(|slot| segment.labels.get(slot)).map(|label| label.document()).collect()
    }

    /// The first value of a document's field, in the order of values; `Some(None)` if the document has none. `None` if the
    /// index does not hold the document or not all of its attributes.
    pub fn first_value(&self, id: u128, field: &str) -> Option<Option<Value>> {
        let segment = self.segment.load();
        let label = segment.table.get(&segment.labels, id)?;
        segment.postings.first_value(label.first, field)
    }

    /// The share of documents for which `matches` holds, from a sample; at least half of what one of it stands for.
    pub fn share(&self, matches: &dyn Fn(&Document) -> bool) -> f64 {
        let segment = self.segment.load();
        let slots = segment.view().slots;
        let step = (slots / SAMPLE).max(1) as usize;
        let sampled = (0..slots).step_by(step).filter_map(|slot| segment.labels.get(slot));
        let (asked, held) =
            sampled.fold((0, 0), |(asked, held), label| (asked + 1, held + usize::from(matches(&label.document()))));
        (held as f64).max(0.5) / (asked as f64).max(1.0)
    }

    /// Removes a document; false if there is none. Its memory is freed by the next [`compact`](Self::compact).
    pub fn remove(&self, id: u128) -> bool {
        let _writing = self.writers.read();
        self.segment.load().remove(id)
    }

    /// Whether the index holds a document.
    pub fn contains(&self, id: u128) -> bool {
        let segment = self.segment.load();
        segment.table.get(&segment.labels, id).is_some()
    }

    /// The best `k` documents, each with its best passage, best first.
    pub fn search(&self, params: &SearchParams<'_>) -> Result<Vec<Hit>, IndexError> {
        self.search_explained(params).map(|(hits, _)| hits)
    }

    /// As [`search`](Self::search), and how the answer came about.
    pub fn search_explained(&self, params: &SearchParams<'_>) -> Result<(Vec<Hit>, Explain), IndexError> {
        Search::new(&self.segment.load(), params)?.run()
    }

    /// As [`search`](Self::search) by looking at every vector: the oracle.
    pub fn search_exact(&self, params: &SearchParams<'_>) -> Result<Vec<Hit>, IndexError> {
        self.search_exact_explained(params).map(|(hits, _)| hits)
    }

    /// As [`search_exact`](Self::search_exact), and how the answer came about.
    pub fn search_exact_explained(&self, params: &SearchParams<'_>) -> Result<(Vec<Hit>, Explain), IndexError> {
        let segment = self.segment.load();
        Search::new(&segment, params)?.scan_exactly()
    }

    /// The best `k` among the documents listed, exactly; ids that the index does not hold are passed over.
    ///
    /// Filter, condition and beam of `params` are not used. Cost: a table look-up and a row per document.
    pub fn search_among(&self, ids: &[u128], params: &SearchParams<'_>) -> Result<Vec<Hit>, IndexError> {
        let segment = self.segment.load();
        let search = Search::new(&segment, params)?;
        let mut labels: Vec<_> = ids.iter().filter_map(|id| segment.table.get(&segment.labels, *id)).collect();
        labels.sort_unstable_by_key(|label| label.first);
        labels.dedup();
        search.score_all(labels.iter().flat_map(|label| label.slots()))
    }

    /// Whether a search may walk a graph; without one it looks at every vector.
    pub fn has_graph(&self) -> bool {
        self.segment.load().graph.get().is_some()
    }

    /// Takes the present state, to be written as an image later. Costs nothing; everything that `upsert` and `remove`
    /// have returned from is in it.
    pub fn snapshot(&self) -> Snapshot {
        Snapshot::of(self.segment())
    }

    /// Writes the present state as an image.
    pub fn write_image(&self, writer: &mut impl Write) -> Result<(), ImageError> {
        self.snapshot().write(writer)
    }

    /// Reads an image back, whose rows lay where `storage` says. Nothing is linked again, so it takes about as long as
    /// copying.
    pub fn read_image(reader: impl Read, storage: &RowStorage) -> Result<VectorIndex, ImageError> {
        Ok(Self::from_segment(image::read(reader, storage)?))
    }

    /// Documents held.
    pub fn len(&self) -> usize {
        self.segment.load().clock.lock().documents as usize
    }

    /// Whether no document is held.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Sizes by part. Memory is allocated in chunks that double, of which pages never written are not resident; the figures
    /// count what is written.
    pub fn stats(&self) -> Stats {
        let segment = self.segment.load();
        let (documents, live, dead, slots) = {
            let clock = segment.clock.lock();
            (clock.documents, clock.live, clock.dead, clock.next_slot)
        };
        Stats {
            documents: documents as usize,
            live_vectors: live as usize,
            dead_vectors: dead as usize,
            unlinked_vectors: segment.unlinked().len(),
            code_bytes: segment.codes.records().bytes(slots),
            graph_bytes: segment.graph.get().map_or(0, |graph| graph.bytes(slots)),
            row_bytes: segment.rows.bytes(slots),
            id_bytes: segment.labels.bytes(slots) + segment.table.bytes(),
            attribute_bytes: segment.postings.bytes(),
        }
    }
}
