//! Private memories beside plain ones: what sealing them costs a writer, and what finding them costs their owner.

use std::sync::Arc;
use std::time::{Duration, Instant};

use mira_proto::v1::{SearchRequest, StoreRequest};

use super::Bench;
use super::store::Load;
use crate::BenchError;
use crate::caller::Caller;
use crate::load::{Limit, Outcome, closed_loop, milliseconds};
use crate::report::Figure;

/// Somebody's key; in a benchmark it keeps no secrets.
const OWNER_KEY: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
/// Plain and private writes take turns: what the machine does meanwhile is shared alike.
const TURNS: u32 = 4;
/// Frames of one request while the owner's memories are filled in.
const BATCH: u64 = 100;
/// What a private write may cost beyond a plain one at p50, milliseconds (SPEC section 5).
const MAX_EXTRA_MS: f64 = 1.0;
/// In which 10,000 private frames are to be searched.
const MAX_SEARCH: Duration = Duration::from_millis(100);

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
        plain_done.then(write(&plain, &load, false, turn.clone()).await);
        private_done.then(write(&owner, &load, true, turn.clone()).await);
    }
    let (plain_done, private_done) = (plain_done.summary("plain writes")?, private_done.summary("private writes")?);
    let extra = private_done.p50_ms - plain_done.p50_ms;
    let mut figures = vec![
        Figure::latency("store a 1 KiB frame, plain, 1 writer", plain_done),
        Figure::latency("the same, private, in turns with it", private_done),
        Figure::amount("the difference at p50", extra, "ms")
            .goal(format!("≤ {MAX_EXTRA_MS} ms"), extra <= MAX_EXTRA_MS),
    ];

    let (collection, count) = (bench.collection("private-search", 1).await?, bench.scale.private);
    let load = Load::new(collection.clone(), bench.vectors.clone());
    for first in (0..count).step_by(BATCH as usize) {
        let batch = (first..count.min(first + BATCH)).map(|number| private(load.frame(number))).collect();
        owner[0].store_batch(batch).await.map_err(BenchError::refused("private frames"))?;
    }
    let vectors = bench.vectors.clone();
    let search = move |caller: Caller, number: u64| {
        let request = SearchRequest {
            vector: vectors.query(number as usize).to_vec(),
            k: 10,
            collection: collection.clone(),
            include_private: true,
            ..Default::default()
        };
        async move { caller.search(request).await.map(drop) }
    };
    let started = Instant::now();
    search(owner[0].clone(), 0).await.map_err(BenchError::refused("a search"))?;
    figures.push(Figure::amount(
        format!("search {count} private frames for the first time"),
        milliseconds(started.elapsed()),
        "ms",
    ));
    let what = format!("search {count} private frames again, 1 caller");
    let later = closed_loop(&owner, bench.scale.run.clone(), search).await.summary(&what)?;
    let met = later.p99_ms < milliseconds(MAX_SEARCH);
    figures.push(Figure::latency(what, later).goal("p99 < 100 ms", met));
    Ok(figures)
}

async fn write(callers: &[Caller], load: &Arc<Load>, is_private: bool, limit: Limit) -> Outcome {
    let load = load.clone();
    let store = move |caller: Caller, number| {
        let frame = load.frame(number);
        let frame = if is_private { private(frame) } else { frame };
        async move { caller.store(frame).await.map(drop) }
    };
    closed_loop(callers, limit, store).await
}

fn private(frame: StoreRequest) -> StoreRequest {
    StoreRequest { private: true, ..frame }
}
