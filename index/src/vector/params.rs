//! The question of one search: a query, filters, bounds, with how the answer is explained.

use crate::document::Document;
use crate::filter::condition::Condition;
use crate::topk::Place;

/// Which documents a search may return.
#[derive(Clone, Copy)]
pub struct Filter<'a> {
    /// Whether the document may be returned. Asked once or more per document looked at, from the searching thread.
    pub matches: &'a (dyn Fn(&Document) -> bool + Sync),
    /// The share of documents that match, if the caller has an estimate, in [0, 1].
    pub selectivity: Option<f64>,
}

/// Which documents a search may return, by their attributes.
#[derive(Clone, Copy)]
pub struct Where<'a> {
    /// What they must be.
    pub condition: &'a Condition,
    /// Whether a document meets the condition, for the few of which the index does not hold all attributes. Asked once or
    /// more per such document looked at.
    pub verify: &'a (dyn Fn(&Document) -> bool + Sync),
}

/// One search.
#[derive(Clone, Copy)]
pub struct SearchParams<'a> {
    /// The query vector.
    pub query: &'a [f32],
    /// Documents wanted, 1 to [`MAX_K`](crate::MAX_K).
    pub k: usize,
    /// Beam width: more finds more and costs more. At least `k` is used. If `None`, it begins narrow and widens until the
    /// best hits change no more.
    pub ef: Option<usize>,
    /// How much longer than usual the best hits must have stayed the same, where no beam is named; 1 is usual.
    pub effort: f32,
    /// Only what ranks after this, found by looking at everything, as if by
    /// [`search_exact`](crate::VectorIndex::search_exact).
    pub after: Option<&'a Place>,
    /// Which documents may be returned; all if `None`.
    pub filter: Option<Filter<'a>>,
    /// Which of them, by their attributes; all if `None`.
    pub condition: Option<Where<'a>>,
    /// Asked every few microseconds; true stops the search with [`crate::IndexError::Aborted`].
    pub abort: Option<&'a (dyn Fn() -> bool + Sync)>,
}

impl<'a> SearchParams<'a> {
    /// The best `k` for a query, without a filter and without a deadline.
    pub fn new(query: &'a [f32], k: usize) -> Self {
        SearchParams { query, k, ef: None, effort: 1.0, after: None, filter: None, condition: None, abort: None }
    }

    pub(crate) fn is_aborted(&self) -> bool {
        self.abort.is_some_and(|abort| abort())
    }
}

/// How a search was answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Plan {
    /// Every vector was looked at; with a condition, those of every document that meets it.
    Scan,
    /// The graph was walked.
    Graph,
    /// The graph was walked and gave too little or cost too much; then as [`Plan::Scan`].
    GraphThenScan,
}

/// What a search did, for `explain`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Explain {
    /// How it was answered.
    pub plan: Plan,
    /// The beam that was used last, which may have widened; 0 for a scan.
    pub ef: usize,
    /// Whether nothing that is nearer was missed.
    pub is_exact: bool,
    /// Passages scored in full precision.
    pub rescored: usize,
    /// Vectors compared, by their codes or in full.
    pub compared: usize,
    /// Documents that may meet the condition, of all the index has had since its last compaction, if there is one.
    pub matching: Option<(usize, usize)>,
}
