//! Turning texts into vectors, for stores and for searches.
//!
//! Both go through one [`Batcher`], so that the texts of concurrent requests share batches. A stored text may have many
//! passages, each a vector. A query has one: an agent repeats its questions, so the vectors of recent queries are kept,
//! under a hash of their text. A query longer than one passage of the model is embedded as the mean of its passages,
//! because a vector of its beginning would answer another question without saying so.
//!
//! A router without a model serves whoever brings vectors; everyone else is told that there is none.

use std::num::NonZeroUsize;
use std::sync::Arc;

use lru::LruCache;
use mira_embed::{Batcher, BatcherLimits, Class, EmbedError, Embedder, ModelInfo};
use mira_proto::{Code, Problem, limits, node_v1};
use parking_lot::Mutex;
use tokio::time::{Instant, sleep, timeout_at};
use tracing::error;

use crate::RequestContext;
use crate::metrics::Metrics;

/// More texts than this in one store are bulk: nobody waits for a single one of them.
const INTERACTIVE_TEXTS: usize = 8;

/// Texts of no more bytes together are cut where they are: that takes as long as handing them to another thread.
const INLINE_CUT_BYTES: usize = 4 << 10;

/// What is handed to the batcher at once; small enough that several callers share its queue.
const SLICE_TEXTS: usize = 256;
const SLICE_BYTES: usize = 1 << 20;

/// The router's embedding model, or the knowledge that there is none.
pub struct Embedding {
    batcher: Option<Arc<Batcher>>,
    queries: Mutex<LruCache<[u8; 32], Arc<[f32]>>>,
    metrics: Arc<Metrics>,
}

impl Embedding {
    /// Starts the batcher's threads, if there is a model.
    pub fn start(embedder: Option<Arc<dyn Embedder>>, metrics: Arc<Metrics>) -> Result<Self, EmbedError> {
        let batcher = embedder.map(|embedder| Batcher::new(embedder, BatcherLimits::default())).transpose()?;
        let capacity = NonZeroUsize::new(limits::QUERY_CACHE).expect("the cache holds something");
        Ok(Embedding { batcher: batcher.map(Arc::new), queries: Mutex::new(LruCache::new(capacity)), metrics })
    }

    /// The model, if there is one.
    pub fn model(&self) -> Option<&ModelInfo> {
        self.batcher.as_deref().map(Batcher::model)
    }

    /// What to tell a caller whose text needs a model that is not there.
    pub fn missing(&self) -> Problem {
        Problem::invalid("this router has no embedding model: send a vector, or have its operator run `make model`")
    }

    /// Passages with their vectors for each text, in order. A text may fail by itself; the call fails as a whole when
    /// there is no model, no room, or no time.
    pub async fn documents(
        &self,
        context: &RequestContext,
        texts: Vec<String>,
    ) -> Result<Vec<Result<Vec<node_v1::Passage>, Problem>>, Problem> {
        let batcher = self.batcher.clone().ok_or_else(|| self.missing())?;
        let class = if texts.len() > INTERACTIVE_TEXTS { Class::Bulk } else { Class::Interactive };
        let (parts, plan) = if texts.iter().map(String::len).sum::<usize>() <= INLINE_CUT_BYTES {
            cut_all(&batcher, &texts)
        } else {
            // The tokenizer takes milliseconds for long texts: too long for a thread that serves connections.
            let cutter = batcher.clone();
            let cut = tokio::task::spawn_blocking(move || cut_all(&cutter, &texts));
            cut.await.map_err(|_| Problem::internal("cutting texts into passages failed"))?
        };
        let mut vectors = Vec::with_capacity(parts.len());
        for slice in slices(parts) {
            vectors.extend(self.embed(context, &batcher, class, slice).await?);
        }
        let mut vectors = vectors.into_iter();
        let filled = plan.into_iter().map(|ranges| {
            let passage = |(start, end)| node_v1::Passage { start, end, vector: vectors.next().unwrap_or_default() };
            Ok(ranges?.into_iter().map(passage).collect())
        });
        Ok(filled.collect())
    }

    /// The vector of a query.
    pub async fn query(&self, context: &RequestContext, text: &str) -> Result<Arc<[f32]>, Problem> {
        let batcher = self.batcher.as_deref().ok_or_else(|| self.missing())?;
        let key = *blake3::hash(text.as_bytes()).as_bytes();
        let cached = self.queries.lock().get(&key).cloned();
        self.metrics.query_cache(cached.is_some());
        if let Some(vector) = cached {
            return Ok(vector);
        }
        let parts: Vec<String> = batcher
            .passages(text, limits::MAX_PASSAGES)
            .map_err(problem_of)?
            .into_iter()
            .map(|passage| text[passage.range].to_owned())
            .collect();
        let vectors = self.embed(context, batcher, Class::Interactive, parts).await?;
        let vector: Arc<[f32]> = mean_direction(vectors).into();
        self.queries.lock().put(key, vector.clone());
        Ok(vector)
    }

    /// Embeds what fits the batcher's queue, waiting for room until the deadline.
    async fn embed(
        &self,
        context: &RequestContext,
        batcher: &Batcher,
        class: Class,
        texts: Vec<String>,
    ) -> Result<Vec<Vec<f32>>, Problem> {
        let started = Instant::now();
        let pending = loop {
            match batcher.submit(class, texts.clone()) {
                Err(EmbedError::Overloaded { .. }) if context.remaining() > limits::RETRY_PAUSE => {
                    sleep(limits::RETRY_PAUSE).await;
                }
                other => break other.map_err(problem_of)?,
            }
        };
        let vectors = timeout_at(context.deadline, pending)
            .await
            .map_err(|_| Problem::new(Code::DeadlineExceeded, "the text was not embedded before the deadline"))?
            .map_err(problem_of)?;
        self.metrics.embedded(vectors.len(), started.elapsed());
        Ok(vectors)
    }
}

/// Byte ranges of a text's passages, or why it has none.
type PassageRanges = Result<Vec<(u32, u32)>, Problem>;

/// Cuts every text; returns all passages' texts in order, and for each text their ranges.
fn cut_all(batcher: &Batcher, texts: &[String]) -> (Vec<String>, Vec<PassageRanges>) {
    let mut parts = Vec::with_capacity(texts.len());
    let plan = texts.iter().map(|text| {
        let passages = batcher.passages(text, limits::MAX_PASSAGES).map_err(problem_of)?;
        parts.extend(passages.iter().map(|passage| text[passage.range.clone()].to_owned()));
        // Content is at most 1 MiB, so positions fit 32 bits.
        Ok(passages.iter().map(|passage| (passage.range.start as u32, passage.range.end as u32)).collect())
    });
    let plan = plan.collect();
    (parts, plan)
}

/// Splits texts into runs that the batcher takes.
fn slices(parts: Vec<String>) -> Vec<Vec<String>> {
    let mut slices: Vec<Vec<String>> = Vec::new();
    let mut bytes = 0;
    for part in parts {
        bytes += part.len();
        match slices.last_mut() {
            Some(slice) if slice.len() < SLICE_TEXTS && bytes <= SLICE_BYTES => slice.push(part),
            _ => {
                bytes = part.len();
                slices.push(vec![part]);
            }
        }
    }
    slices
}

/// The direction of the sum of unit vectors; the vector itself when there is one.
fn mean_direction(mut vectors: Vec<Vec<f32>>) -> Vec<f32> {
    if vectors.len() == 1 {
        return vectors.swap_remove(0);
    }
    let dim = vectors.first().map_or(0, Vec::len);
    let sum: Vec<f32> = (0..dim).map(|at| vectors.iter().map(|vector| vector[at]).sum()).collect();
    let length = sum.iter().map(|x| x * x).sum::<f32>().sqrt().max(f32::MIN_POSITIVE);
    sum.into_iter().map(|x| x / length).collect()
}

/// What an embedding failure means to a caller.
fn problem_of(error: EmbedError) -> Problem {
    let code = match &error {
        EmbedError::TooLong { .. } | EmbedError::TooManyPassages { .. } | EmbedError::CallTooLarge { .. } => {
            Code::TooLarge
        }
        EmbedError::Overloaded { .. } => Code::Overloaded,
        EmbedError::Closed => Code::Unavailable,
        EmbedError::ModelMissing { .. }
        | EmbedError::ModelDamaged { .. }
        | EmbedError::ModelShape { .. }
        | EmbedError::Tokenizer { .. }
        | EmbedError::EngineFailed { .. }
        | EmbedError::Thread { .. } => {
            // Its text may name files of this machine.
            error!(%error, "a text was not embedded");
            return Problem::internal("the text could not be embedded: the router's log says why");
        }
    };
    Problem::new(code, error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use mira_embed::HashEmbedder;
    use std::time::Duration;

    fn embedding() -> Embedding {
        let embedder: Arc<dyn Embedder> = Arc::new(HashEmbedder::with_max_words(8, 16));
        Embedding::start(Some(embedder), Arc::new(Metrics::new())).unwrap()
    }

    fn context() -> RequestContext {
        RequestContext::new("test", Duration::from_secs(5))
    }

    #[tokio::test]
    async fn a_long_document_gets_a_vector_for_every_passage() {
        let long = "one two three four five six seven eight nine ten ".repeat(5);
        let answers = embedding().documents(&context(), vec!["short".into(), long.clone()]).await.unwrap();
        let short = answers[0].as_ref().unwrap();
        assert_eq!((short.len(), short[0].start, short[0].end), (1, 0, 5));
        let passages = answers[1].as_ref().unwrap();
        assert!(passages.len() > 2, "{}", passages.len());
        assert_eq!(passages.last().unwrap().end as usize, long.len());
        assert!(passages.iter().all(|passage| passage.vector.len() == 8));
    }

    #[tokio::test]
    async fn a_repeated_query_is_embedded_once() {
        let embedding = embedding();
        let first = embedding.query(&context(), "green tea").await.unwrap();
        let second = embedding.query(&context(), "green tea").await.unwrap();
        assert!(Arc::ptr_eq(&first, &second));
    }

    #[tokio::test]
    async fn a_query_longer_than_a_passage_has_unit_length_too() {
        let query = "words that go on and on without an end ".repeat(10);
        let vector = embedding().query(&context(), &query).await.unwrap();
        let length: f32 = vector.iter().map(|x| x * x).sum();
        assert!((length - 1.0).abs() < 1e-5, "{length}");
    }

    #[tokio::test]
    async fn without_a_model_it_is_said_what_to_do() {
        let embedding = Embedding::start(None, Arc::new(Metrics::new())).unwrap();
        let problem = embedding.query(&context(), "tea").await.unwrap_err();
        assert_eq!(problem.code, Code::InvalidArgument);
        assert!(problem.detail.contains("make model") && problem.detail.contains("vector"), "{problem}");
    }

    #[test]
    fn slices_keep_order_and_stay_within_bounds() {
        let parts: Vec<String> = (0..600).map(|n| format!("{n:0>5000}")).collect();
        let slices = slices(parts.clone());
        assert!(slices.iter().all(|slice| slice.len() <= SLICE_TEXTS));
        assert!(slices.iter().all(|slice| slice.iter().map(String::len).sum::<usize>() <= SLICE_BYTES));
        assert_eq!(slices.concat(), parts);
    }
}
