//! Chroma beside MIRA on the same vectors, at equal recall, by the same program in turns.
//!
//! MIRA is asked as always: through a router, of three nodes that replicate, over REST and over gRPC. Chroma is one process
//! without replicas. Two pairs are compared: MIRA's own beam with the narrowest of Chroma's that finds as much, and the
//! narrowest beam of each that finds [`RECALL`].

use std::sync::Arc;
use std::time::Instant;

use mira_benches::BenchError;
use mira_benches::load::{Limit, Outcome, Summary, closed_loop};
use mira_benches::machine::Usage;
use mira_benches::report::Figure;
use mira_benches::rest::RestCaller;
use mira_benches::servers::Servers;
use mira_benches::suite::search::{K, RECALL, by_vector, recall};
use mira_benches::suite::store::plural;
use mira_benches::suite::{Bench, Documents, document_id, import, row_of, wait_until_indexed};
use mira_benches::texts::Texts;
use mira_benches::vectors::Vectors;
use mira_chaos_tests::cluster::Cluster;
use mira_proto::Problem;

use super::chroma::{self, Chroma, ChromaCaller};
use super::{MIB, processes};

/// Chroma's beams, as MIRA's tuning tries them.
const BEAMS: [u32; 13] = [10, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768];
/// Recalls that MIRA's tuning is asked for, in order: it asks with stored vectors, which are found a little more easily
/// than questions.
const TUNED: [f64; 6] = [0.95, 0.96, 0.97, 0.98, 0.99, 0.995];
/// Callers of the loads.
const CALLERS: [usize; 2] = [1, 20];
/// Documents of one request while Chroma is filled, and requests under way.
const BATCH: usize = 100;
const UNDER_WAY: usize = 4;
/// Bytes of a document's text.
const TEXT_BYTES: usize = 60;
/// MIRA's throughput over Chroma's.
const GOAL: f64 = 3.0;
/// p99 with many callers over that with one, the wait for the processors left out.
const SPREAD: f64 = 1.5;

/// Throughput, latencies and memory of both.
pub async fn measure(bench: &mut Bench, cluster: &mut Cluster, count: usize) -> Result<Vec<Figure>, BenchError> {
    let installed = tokio::task::spawn_blocking(chroma::install).await;
    let program = match installed.map_err(|error| BenchError::Wrong(error.to_string()))? {
        Ok(program) => program,
        Err(why) => return Ok(vec![Figure::absent("chroma beside it", format!("not measured: {why}"))]),
    };
    let ours = memory(cluster)?;
    let collection = bench.collection("beside-chroma", 1).await?;
    let document = import::document(bench, &collection, TEXT_BYTES);
    let started = Instant::now();
    import::store(bench, 0..count, document).await?;
    wait_until_indexed(&bench.callers(1).await?[0]).await?;
    let our_ingest = started.elapsed().as_secs_f64();
    let stored = import::Imported::default();
    let documents = Documents { collection, count, stored };
    eprintln!("  MIRA has {count} documents after {our_ingest:.1} s");

    let chroma = Chroma::start(program, &cluster.folder().join("chroma")).await?;
    let theirs = chroma.resident_bytes()?;
    let mut pair = Pair { bench, documents, chroma };
    let their_ingest = pair.fill().await?;
    eprintln!("  chroma has them after {their_ingest:.1} s");
    let with = format!("{count} documents");
    let mut figures = vec![
        Figure::amount(
            format!("MIRA, three nodes: ingest of {with} until indexed"),
            count as f64 / our_ingest,
            "documents/s",
        ),
        Figure::amount(format!("chroma, one process: ingest of {with}"), count as f64 / their_ingest, "documents/s"),
    ];
    for (who, before, after) in [
        ("MIRA, three nodes and the router", ours, memory(cluster)?),
        ("chroma, one process", theirs, pair.chroma.resident_bytes()?),
    ] {
        figures.push(Figure::amount(format!("{who}: resident memory with {with}"), after / MIB, "MiB"));
        figures.push(Figure::amount(format!("{who}: growth of it from none"), (after - before) / MIB, "MiB"));
    }
    figures.extend(pair.compare().await?);
    Ok(figures)
}

/// Resident memory of all processes of the cluster, bytes.
fn memory(cluster: &mut Cluster) -> Result<f64, BenchError> {
    processes(cluster).iter().map(|(_, process)| Ok(Usage::of(*process)?.resident_bytes as f64)).sum()
}

/// Both, filled with the same documents.
struct Pair<'a> {
    bench: &'a Bench,
    documents: Documents,
    chroma: Chroma,
}

impl Pair<'_> {
    /// Fills Chroma; the seconds that it took.
    async fn fill(&self) -> Result<f64, BenchError> {
        let count = self.documents.count;
        let (vectors, texts) = (self.bench.vectors.clone(), self.bench.texts.clone());
        let add = move |caller: ChromaCaller, number: u64| {
            let first = number as usize * BATCH;
            let (vectors, texts) = (vectors.clone(), texts.clone());
            async move { add(&caller, first..count.min(first + BATCH), &vectors, &texts).await }
        };
        let started = Instant::now();
        let batches = Limit::Operations(count.div_ceil(BATCH) as u64);
        closed_loop(&self.chroma.callers(UNDER_WAY)?, batches, add).await.summary("chroma's ingest")?;
        // What is acknowledged may not be in the graph yet: a search waits for it.
        let caller = &self.chroma.callers(1)?[0];
        caller.search(self.bench.vectors.query(0), K).await.map_err(BenchError::refused("chroma"))?;
        Ok(started.elapsed().as_secs_f64())
    }

    async fn compare(&mut self) -> Result<Vec<Figure>, BenchError> {
        let own = recall(self.bench, &self.documents).await?;
        let (enough, as_much) = self.beams(own).await?;
        let mut figures = Vec::new();
        let what = format!("MIRA's own beam (recall@10 {own:.3}) and {as_much}");
        figures.extend(self.side_by_side(&what, as_much.ef).await?);
        let ours = self.tuned().await?;
        let what = format!("{ours} and {enough}");
        figures.extend(self.side_by_side(&what, enough.ef).await?);
        Ok(figures)
    }

    /// Chroma's narrowest beam that finds [`RECALL`], and that which finds as much as MIRA's own.
    async fn beams(&mut self, own: f64) -> Result<(Beam, Beam), BenchError> {
        let mut enough = None;
        for ef in BEAMS {
            self.chroma.set_ef(ef).await?;
            let beam = Beam { ef, recall: self.chroma_recall().await? };
            eprintln!("  {beam}");
            if beam.recall >= RECALL {
                enough.get_or_insert(beam);
            }
            if let (Some(enough), true) = (enough, beam.recall >= own) {
                return Ok((enough, beam));
            }
        }
        Err(BenchError::Wrong(format!("no beam of chroma's finds {own:.3} and {RECALL}")))
    }

    async fn chroma_recall(&self) -> Result<f64, BenchError> {
        let caller = &self.chroma.callers(1)?[0];
        let (vectors, count) = (&self.bench.vectors, self.documents.count);
        let judged = self.bench.scale.judged.min(vectors.queries());
        let mut sum = 0.0;
        for query in 0..judged {
            let ids = caller.search(vectors.query(query), K).await.map_err(BenchError::refused("chroma"))?;
            let rows: Result<Vec<usize>, Problem> = ids.iter().map(|id| row_of(id)).collect();
            sum += vectors.recall(query, count, &rows.map_err(BenchError::refused("chroma"))?, K);
        }
        Ok(sum / judged as f64)
    }

    /// Tunes MIRA's collection to the narrowest beam that finds [`RECALL`]; the beam in words.
    async fn tuned(&self) -> Result<String, BenchError> {
        let caller = &self.bench.callers(1).await?[0];
        let mut found = 0.0;
        for wanted in TUNED {
            let tuned = caller.tune(&self.documents.collection, Some(wanted)).await;
            let tuned = tuned.map_err(BenchError::refused("tune"))?;
            found = recall(self.bench, &self.documents).await?;
            if found >= RECALL {
                let beam = tuned.ef.map_or("comparing with all".to_owned(), |ef| format!("ef {ef}"));
                return Ok(format!("MIRA tuned ({beam}, recall@10 {found:.3})"));
            }
        }
        Err(BenchError::Wrong(format!("no tuning finds {RECALL}; the last {found:.3}")))
    }

    /// Loads in turns, so that both meet the same machine.
    async fn side_by_side(&mut self, what: &str, ef: u32) -> Result<Vec<Figure>, BenchError> {
        self.chroma.set_ef(ef).await?;
        let turn = self.bench.scale.run.times(0.5);
        let mut by_callers = Vec::new();
        for callers in CALLERS {
            self.chroma_load(callers, turn.times(0.25)).await?.summary("chroma warming up")?;
            self.rest_load(callers, turn.times(0.25)).await?.summary("warming up")?;
            let mut turns = Turns::default();
            for _ in 0..self.bench.scale.rounds {
                turns.chroma.then(self.chroma_load(callers, turn.clone()).await?);
                turns.rest.then(self.rest_load(callers, turn.clone()).await?);
                turns.grpc.then(by_vector(self.bench, &self.documents, callers, turn.clone()).await?);
            }
            by_callers.push((callers, turns.summaries()?));
        }
        Ok(figures(what, &by_callers))
    }

    async fn chroma_load(&self, callers: usize, limit: Limit) -> Result<Outcome, BenchError> {
        let vectors = self.bench.vectors.clone();
        let expected = K.min(self.documents.count);
        let search = move |caller: ChromaCaller, number: u64| {
            let query = vectors.query(number as usize).to_vec();
            async move { whole(caller.search(&query, K).await?.len(), expected) }
        };
        let chroma = Servers::new(self.chroma.process_id());
        Ok(chroma.during(closed_loop(&self.chroma.callers(callers)?, limit, search)).await)
    }

    async fn rest_load(&self, callers: usize, limit: Limit) -> Result<Outcome, BenchError> {
        let (vectors, collection) = (self.bench.vectors.clone(), self.documents.collection.clone());
        let expected = K.min(self.documents.count);
        let search = move |caller: RestCaller, number: u64| {
            let (query, collection) = (vectors.query(number as usize).to_vec(), collection.clone());
            async move { whole(caller.search(&collection, &query, K).await?.hits.len(), expected) }
        };
        // A client for each: connections are not shared.
        let callers: Result<Vec<RestCaller>, _> = (0..callers).map(|_| RestCaller::new(&self.bench.target)).collect();
        let callers = callers.map_err(BenchError::refused("connecting over REST"))?;
        Ok(self.bench.servers.during(closed_loop(&callers, limit, search)).await)
    }
}

async fn add(
    caller: &ChromaCaller,
    rows: std::ops::Range<usize>,
    vectors: &Arc<Vectors>,
    texts: &Arc<Texts>,
) -> Result<(), Problem> {
    let ids = rows.clone().map(|row| document_id(row).to_string()).collect();
    let embeddings = rows.clone().map(|row| vectors.row(row)).collect();
    let documents = rows.map(|row| import::cut(texts.text(row), TEXT_BYTES)).collect();
    caller.add(ids, embeddings, documents).await
}

fn whole(found: usize, expected: usize) -> Result<(), Problem> {
    if found == expected { Ok(()) } else { Err(Problem::internal(format!("a search found {found} of {expected}"))) }
}

/// A beam of Chroma's and what it finds.
#[derive(Clone, Copy)]
struct Beam {
    ef: u32,
    recall: f64,
}

impl std::fmt::Display for Beam {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "chroma's ef {} (recall@10 {:.3})", self.ef, self.recall)
    }
}

/// What each did in its turns.
#[derive(Default)]
struct Turns {
    chroma: Outcome,
    rest: Outcome,
    grpc: Outcome,
}

/// What came of them.
struct Summaries {
    chroma: Summary,
    rest: Summary,
    grpc: Summary,
}

impl Turns {
    fn summaries(&self) -> Result<Summaries, BenchError> {
        let (chroma, rest) = (self.chroma.summary("chroma")?, self.rest.summary("search over REST")?);
        Ok(Summaries { chroma, rest, grpc: self.grpc.summary("search over gRPC")? })
    }
}

/// Latencies, MIRA's throughput over Chroma's, and what many callers do to MIRA's p99.
fn figures(what: &str, by_callers: &[(usize, Summaries)]) -> Vec<Figure> {
    let mut figures = Vec::new();
    for (callers, summaries) in by_callers {
        let with = plural(*callers, "caller");
        let latency = |who: &str, of: &Summary| Figure::latency(format!("{what}: {who}, {with}"), of.clone());
        figures.push(latency("chroma over HTTP", &summaries.chroma));
        for (who, of) in [("MIRA over REST", &summaries.rest), ("MIRA over gRPC", &summaries.grpc)] {
            let times = of.per_second / summaries.chroma.per_second;
            figures.push(latency(who, of));
            figures.push(
                Figure::amount(format!("{what}: throughput of {who} over chroma's, {with}"), times, "×")
                    .goal(format!("≥ {GOAL} ×"), times >= GOAL),
            );
        }
    }
    let (Some((_, alone)), Some((callers, many))) = (by_callers.first(), by_callers.last()) else { return figures };
    for (who, alone, many) in [("REST", &alone.rest, &many.rest), ("gRPC", &alone.grpc, &many.grpc)] {
        let times = (many.p99_ms - queueing_ms(*callers, alone, many)) / alone.p99_ms;
        let name = format!(
            "{what}: MIRA over {who}, p99 with {callers} callers less the wait for a processor, over that with 1"
        );
        figures.push(Figure::amount(name, times, "×").goal(format!("≤ {SPREAD} ×"), times <= SPREAD));
    }
    figures
}

/// How much longer a request takes among many on average because all of them want the same processors: by Little's law,
/// callers over throughput, less the same for one.
fn queueing_ms(callers: usize, alone: &Summary, many: &Summary) -> f64 {
    (callers as f64 / many.per_second - 1.0 / alone.per_second) * 1000.0
}
