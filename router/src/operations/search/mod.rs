//! `search`: the memories nearest to a question.
//!
//! Two phases. First every shard of the collection names its best `k`, ids and scores only (`gather`); the router
//! merges them. Then the frames of the winners are fetched from their shards (`answer`). A collection on one shard
//! needs no merge and sends its frames along at once. A winner that was forgotten in between is left out, and the next
//! one moves up.
//!
//! A shard that no replica answers for within [`limits::SHARD_PATIENCE`] is left out and named: the answer is
//! `degraded`, unless the caller asked for all or nothing (`strict`), or no shard answered at all.

mod answer;
mod gather;
pub mod query;
mod route;

use futures::StreamExt;
use mira_proto::model::{
    Consistency, DEFAULT_COLLECTION, SearchMode, SearchReply, SearchRequest, SearchResult, check_count,
};
use mira_proto::{Problem, limits};
use tokio::time::Instant;

use crate::cluster::{CallError, CollectionRoute};
use crate::memory::{MAX_REROUTES, no_collection};
use crate::operations::convert::{self, Space};
use crate::operations::validate;
use crate::{Memory, RequestContext};
use query::{Probe, Query, ResolvedQuery, stands_alone};

impl Memory {
    /// Finds memories by meaning; a batch of searches is answered one by one.
    pub async fn search(&self, context: &RequestContext, mut request: SearchRequest) -> Result<SearchReply, Problem> {
        self.bounded("search", context, async {
            match request.searches.take() {
                Some(searches) => {
                    stands_alone(&request)?;
                    self.search_all(context, searches.read()?).await
                }
                None => self.search_one(context, request).await,
            }
        })
        .await
    }

    /// As [`Memory::search`], of searches that were read elsewhere, or could not be.
    pub async fn search_batch(
        &self,
        context: &RequestContext,
        searches: Vec<Result<SearchRequest, Problem>>,
    ) -> Result<SearchReply, Problem> {
        self.bounded("search", context, async {
            check_count::<SearchRequest>(searches.len())?;
            self.search_all(context, searches).await
        })
        .await
    }

    /// Answers each by itself, some at a time.
    async fn search_all(
        &self,
        context: &RequestContext,
        searches: Vec<Result<SearchRequest, Problem>>,
    ) -> Result<SearchReply, Problem> {
        let asked = searches.into_iter().map(|request| async move { self.search_one(context, request?).await });
        let results: Vec<_> = futures::stream::iter(asked).buffered(limits::MAX_BATCH_IN_FLIGHT).collect().await;
        let mut seen = context.token.clone();
        let mut answers = Vec::with_capacity(results.len());
        for result in results {
            answers.push(match result {
                Ok(reply) => {
                    seen.merge(&reply.consistency_token.parse().map_err(Problem::from)?);
                    SearchResult::Answered(Box::new(reply))
                }
                Err(error) => SearchResult::Refused { error },
            });
        }
        let consistency_token = seen.to_string();
        Ok(SearchReply { answers: Some(answers), consistency_token, ..SearchReply::default() })
    }

    async fn search_one(&self, context: &RequestContext, request: SearchRequest) -> Result<SearchReply, Problem> {
        let context = context.reading(request.consistency.unwrap_or(Consistency::Leader));
        let query = Query::of(request)?;
        let context = self.searching_owner(&context, query.include_private).await?;
        for _ in 0..MAX_REROUTES {
            let Some(route) = self.find_collection(&context, &query.collection).await? else {
                return nothing_in(&query.collection, &context);
            };
            if let Some(cursor) = &query.cursor {
                cursor.belongs_to(route.info.id, query.question)?;
            }
            let started = Instant::now();
            let space = convert::space(&route.info, &query.using)?;
            let vectors = match query.mode {
                SearchMode::Text => Vec::new(),
                _ => self.query_vectors(&context, &route, &query, space).await?,
            };
            let embed_us = micros(started);
            let resolved = ResolvedQuery { query: &query, space, vectors, now_ms: query.now_ms() };
            let plain = self.gather(&context, &route, &resolved);
            let (plain, private) = tokio::join!(plain, self.gather_private(&context, &route, &resolved));
            let answered = match (plain, private) {
                (Ok(mut gathered), Ok(private)) => {
                    gathered.explain.embed_us = embed_us;
                    private.into_iter().for_each(|private| gathered.add(private));
                    self.answer(&context, &route, &resolved, gathered).await
                }
                (Err(error), _) | (_, Err(error)) => Err(error),
            };
            match answered {
                Err(CallError::Moved) => {}
                other => return Ok(other?),
            }
        }
        Err(CallError::Moved.into())
    }

    async fn query_vectors(
        &self,
        context: &RequestContext,
        route: &CollectionRoute,
        query: &Query,
        space: Space,
    ) -> Result<Vec<Vec<f32>>, Problem> {
        let mut vectors = Vec::with_capacity(query.probes.len());
        for probe in &query.probes {
            let vector = match probe {
                Probe::Vector(vector) => vector.clone(),
                Probe::Text(text) => {
                    self.model_fits(&route.info)?;
                    self.embedding.query(context, text).await?.to_vec()
                }
            };
            validate::vector_fits(&vector, space, &query.collection, &query.using)?;
            vectors.push(vector);
        }
        Ok(vectors)
    }
}

/// The default collection exists for every caller, made or not.
fn nothing_in(collection: &str, context: &RequestContext) -> Result<SearchReply, Problem> {
    if collection != DEFAULT_COLLECTION {
        return Err(no_collection(collection));
    }
    Ok(SearchReply { consistency_token: context.token.to_string(), ..Default::default() })
}

fn micros(since: Instant) -> u64 {
    since.elapsed().as_micros() as u64
}
