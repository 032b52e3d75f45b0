//! Small frames in bulk, plain beside private: by the number of frames in a request, and one by one from many writers,
//! whose frames the leader bundles.
//!
//! Each frame has its vector, so that no model is measured; of frames this small it is the larger part.

use std::sync::Arc;

use mira_proto::v1::StoreRequest;

use super::private::OWNER_KEY;
use super::store::{Load, plural};
use super::{Bench, wait_until_indexed};
use crate::BenchError;
use crate::caller::Caller;
use crate::load::{Limit, Outcome, Summary, closed_loop};
use crate::report::Figure;

/// Bytes of a frame's text.
const CONTENTS: [usize; 2] = [256, 1024];
/// Frames of a request, from one writer.
const ITEMS: [u64; 4] = [1, 10, 100, 1_000];
/// Plain and private requests take turns: what the machine does meanwhile is shared alike.
const TURNS: u32 = 2;
/// The length of a turn, of a whole load's.
const TURN: f64 = 0.25;

/// How frames are sent.
#[derive(Clone, Copy)]
struct Shape {
    writers: usize,
    items: u64,
}

/// Latencies of requests, and frames per second.
pub async fn measure(bench: &mut Bench) -> Result<Vec<Figure>, BenchError> {
    let most = bench.scale.writers.iter().copied().max().unwrap_or(1);
    let mut shapes: Vec<Shape> = ITEMS.into_iter().map(|items| Shape { writers: 1, items }).collect();
    shapes.push(Shape { writers: most, items: 1 });
    let mut figures = Vec::new();
    for bytes in CONTENTS {
        let collection = bench.collection(&format!("batch-{bytes}"), 1).await?;
        let load = Arc::new(Load::of(collection, bench.vectors.clone(), bytes));
        for &shape in &shapes {
            figures.extend(side_by_side(bench, &load, shape, bytes).await?);
            // The next shape is not to wait for this one's vectors.
            wait_until_indexed(&bench.callers(1).await?[0]).await?;
        }
    }
    Ok(figures)
}

async fn side_by_side(bench: &Bench, load: &Arc<Load>, shape: Shape, bytes: usize) -> Result<Vec<Figure>, BenchError> {
    let plain = bench.callers(shape.writers).await?;
    let owner: Result<Vec<Caller>, _> = plain.iter().map(|caller| caller.as_owner(OWNER_KEY)).collect();
    let owner = owner.map_err(BenchError::refused("an owner"))?;
    let turn = bench.scale.run.times(TURN);
    let (mut plain_done, mut private_done) = (Outcome::default(), Outcome::default());
    for _ in 0..TURNS {
        let plain = write(&plain, load, shape.items, false, turn.clone());
        plain_done.then(bench.servers.during(plain).await);
        let private = write(&owner, load, shape.items, true, turn.clone());
        private_done.then(bench.servers.during(private).await);
    }
    let frames = plural(shape.items as usize, "frame");
    let what = format!("store {frames} of {bytes} bytes a request, {}", plural(shape.writers, "writer"));
    let figure = |done: Outcome, kind: &str| {
        let what = format!("{what}, {kind} (frames a second)");
        done.summary(&what).map(|summary| Figure::latency(what, in_frames(summary, shape.items)))
    };
    Ok(vec![figure(plain_done, "plain")?, figure(private_done, "private")?])
}

async fn write(callers: &[Caller], load: &Arc<Load>, items: u64, private: bool, limit: Limit) -> Outcome {
    let load = load.clone();
    let store = move |caller: Caller, number: u64| {
        let frame = |number| StoreRequest { private, ..load.frame(number) };
        let frames: Vec<StoreRequest> = (number * items..(number + 1) * items).map(frame).collect();
        async move { caller.store_batch(frames).await }
    };
    closed_loop(callers, limit, store).await
}

/// The latencies of requests, with the throughput of their frames and what servers spend on one.
fn in_frames(requests: Summary, items: u64) -> Summary {
    let each = |of_request: Option<f64>| of_request.map(|time| time / items as f64);
    Summary {
        per_second: requests.per_second * items as f64,
        servers_us: each(requests.servers_us),
        indexing_us: each(requests.indexing_us),
        ..requests
    }
}
