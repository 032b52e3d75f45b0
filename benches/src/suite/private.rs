//! Private memories beside plain ones: what sealing them costs a writer, and what finding them costs their owner.

use std::sync::Arc;
use std::time::{Duration, Instant};

use mira_proto::Problem;
use mira_proto::v1::{Hit, SearchRequest, StoreRequest};

use super::Bench;
use super::search::{K, vector_request};
use super::store::Load;
use crate::BenchError;
use crate::caller::Caller;
use crate::load::{Limit, Outcome, closed_loop, milliseconds};
use crate::report::Figure;
use crate::vectors::Vectors;

/// Somebody's key; in a benchmark it keeps no secrets.
pub(super) const OWNER_KEY: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
/// Plain and private writes take turns: what the machine does meanwhile is shared alike.
const TURNS: u32 = 4;
/// Frames of one request while the owner's memories are filled in.
const BATCH: u64 = 100;
/// What a private write may cost beyond a plain one at p50, milliseconds (SPEC section 5).
const MAX_EXTRA_MS: f64 = 1.0;
/// In which 10,000 private frames are to be searched.
const MAX_SEARCH: Duration = Duration::from_millis(100);
/// Private frames have a number from 0 below this in their metadata; a filtered search wants those of one number.
const TENTHS: u64 = 10;
/// The number that is wanted.
const WANTED: u64 = 3;

/// Writes in turns, then searches of an owner's frames: the first, for which the router reads them, and later ones.
pub async fn measure(bench: &mut Bench) -> Result<Vec<Figure>, BenchError> {
    let collection = bench.collection("private", 1).await?;
    let load = Arc::new(Load::new(collection.clone(), bench.vectors.clone()));
    let plain = bench.callers(1).await?;
    let owner = vec![plain[0].as_owner(OWNER_KEY).map_err(BenchError::refused("an owner"))?];
    let turn = bench.scale.run.times(1.0 / f64::from(TURNS));
    let (mut plain_done, mut private_done) = (Outcome::default(), Outcome::default());
    write(&owner, &load, true, turn.clone()).await.summary("warming up")?;
    for _ in 0..TURNS {
        plain_done.then(bench.servers.during(write(&plain, &load, false, turn.clone())).await);
        private_done.then(bench.servers.during(write(&owner, &load, true, turn.clone())).await);
    }
    let (plain_done, private_done) = (plain_done.summary("plain writes")?, private_done.summary("private writes")?);
    let extra = private_done.p50_ms - plain_done.p50_ms;
    let mut figures = vec![
        Figure::latency("store a 1 KiB frame, plain, 1 writer", plain_done),
        Figure::latency("the same, private, in turns with it", private_done),
        Figure::amount("the difference at p50", extra, "ms")
            .goal(format!("≤ {MAX_EXTRA_MS} ms"), extra <= MAX_EXTRA_MS),
    ];

    figures.extend(searched(bench, &owner).await?);
    Ok(figures)
}

/// Searches of an owner's frames, with and without a filter that a tenth of them meets.
async fn searched(bench: &mut Bench, owner: &[Caller]) -> Result<Vec<Figure>, BenchError> {
    let (collection, count) = (bench.collection("private-search", 1).await?, bench.scale.private);
    let load = Load::new(collection.clone(), bench.vectors.clone());
    let numbered = |number| {
        let metadata_json = format!("{{\"tenth\":{}}}", number % TENTHS);
        StoreRequest { metadata_json, ..private(load.frame(number)) }
    };
    for first in (0..count).step_by(BATCH as usize) {
        let batch = (first..count.min(first + BATCH)).map(numbered).collect();
        owner[0].store_batch(batch).await.map_err(BenchError::refused("private frames"))?;
    }
    let search = Search { vectors: bench.vectors.clone(), collection, filter_json: String::new() };
    let filter_json = format!("{{\"field\":\"metadata.tenth\",\"eq\":{WANTED}}}");
    let filtered = Search { filter_json, ..search.clone() };
    let mut figures = search.first_and_later(bench, owner, format!("search {count} private frames")).await?;
    let what = format!("search {count} private frames, of which a filter keeps a tenth,");
    figures.extend(filtered.first_and_later(bench, owner, what).await?);
    Ok(figures)
}

/// Searches of an owner.
#[derive(Clone)]
struct Search {
    vectors: Arc<Vectors>,
    collection: String,
    /// Empty, or for the frames with [`WANTED`].
    filter_json: String,
}

impl Search {
    /// The first search, for which the router reads what it needs, and the latencies of later ones.
    async fn first_and_later(self, bench: &Bench, owner: &[Caller], what: String) -> Result<Vec<Figure>, BenchError> {
        let started = Instant::now();
        self.ask(&owner[0], 0).await.map_err(BenchError::refused("a search"))?;
        let first = milliseconds(started.elapsed());
        let search = move |caller: Caller, number: u64| {
            let search = self.clone();
            async move { search.ask(&caller, number).await }
        };
        let again = format!("{what} again, 1 caller");
        let load = closed_loop(owner, bench.scale.run.clone(), search);
        let later = bench.servers.during(load).await.summary(&again)?;
        let met = later.p99_ms < milliseconds(MAX_SEARCH);
        Ok(vec![
            Figure::amount(format!("{what} for the first time"), first, "ms"),
            Figure::latency(again, later).goal("p99 < 100 ms", met),
        ])
    }

    async fn ask(&self, caller: &Caller, number: u64) -> Result<(), Problem> {
        let request = SearchRequest {
            include_private: true,
            filter_json: self.filter_json.clone(),
            ..vector_request(&self.collection, self.vectors.query(number as usize))
        };
        let hits = caller.search(request).await?.hits;
        let wanted = format!("{{\"tenth\":{WANTED}}}");
        let fits = |hit: &Hit| hit.frame.as_ref().is_some_and(|frame| frame.private && frame.metadata_json == wanted);
        if hits.len() == K && (self.filter_json.is_empty() || hits.iter().all(fits)) {
            Ok(())
        } else {
            Err(Problem::internal(format!("a search found {} hits, or others than the filter's", hits.len())))
        }
    }
}

async fn write(callers: &[Caller], load: &Arc<Load>, is_private: bool, limit: Limit) -> Outcome {
    let load = load.clone();
    let store = move |caller: Caller, number| {
        let frame = StoreRequest { private: is_private, ..load.frame(number) };
        async move { caller.store(frame).await.map(drop) }
    };
    closed_loop(callers, limit, store).await
}

fn private(frame: StoreRequest) -> StoreRequest {
    StoreRequest { private: true, ..frame }
}
