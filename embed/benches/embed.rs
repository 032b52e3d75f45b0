//! Speed of the all-MiniLM-L6-v2 embedder: `cargo bench -p mira-embed`.
//!
//! Prints the latency of one query of 16 tokens, alone and beside bulk work, and the time of 100 documents of 16, 32 and
//! 64 tokens. Needs the files of `make model`; MIRA_MODEL_DIR names another folder.

use std::error::Error;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use futures::executor::block_on;
use mira_embed::{Batcher, BatcherLimits, Class, Embedder, MiniLm};

fn main() -> Result<(), Box<dyn Error>> {
    let folder = match std::env::var_os("MIRA_MODEL_DIR") {
        Some(folder) => PathBuf::from(folder),
        None => {
            PathBuf::from(std::env::var_os("HOME").ok_or("HOME is not set")?).join(".cache/mira/model/all-MiniLM-L6-v2")
        }
    };
    println!("mira-embed {}, {}, {} processors", env!("CARGO_PKG_VERSION"), cpu(), thread::available_parallelism()?);
    let start = Instant::now();
    let model = Arc::new(MiniLm::load(folder)?);
    println!("load: {:.0} ms", millis(start.elapsed()));

    let query = texts(1, 16);
    report("one query of 16 tokens", &sample(300, || model.embed(&as_strs(&query)).map(drop))?);
    for tokens in [16, 32, 64] {
        let documents = texts(100, tokens);
        let times = sample(10, || model.embed(&as_strs(&documents)).map(drop))?;
        let best = times.iter().min().map_or(0.0, |time| 100.0 / time.as_secs_f64());
        report(&format!("100 documents of {tokens} tokens"), &times);
        println!("    {best:.0} documents/s at best");
    }
    beside_bulk(model)
}

/// Queries through the batcher while the bulk lane is never empty.
fn beside_bulk(model: Arc<MiniLm>) -> Result<(), Box<dyn Error>> {
    let batcher = Batcher::new(model, BatcherLimits::default())?;
    let stop = AtomicBool::new(false);
    let (query, documents) = (texts(1, 16), texts(1_000, 32));
    thread::scope(|scope| {
        let bulk = scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                // Dropped unfinished when the queries are done: the batcher forgets it.
                let mut pending = batcher.submit(Class::Bulk, documents.clone()).expect("the queue has room");
                while !stop.load(Ordering::Relaxed) {
                    if let Some(result) = futures::FutureExt::now_or_never(&mut pending) {
                        assert!(result.is_ok());
                        break;
                    }
                    thread::sleep(Duration::from_millis(5));
                }
            }
        });
        let times = sample(200, || block_on(batcher.submit(Class::Interactive, query.clone())?).map(drop));
        stop.store(true, Ordering::Relaxed);
        bulk.join().expect("the bulk caller does not panic");
        report("one query of 16 tokens beside bulk work", &times?);
        Ok(())
    })
}

/// Texts of exactly so many tokens, the two marks included, from words that are one token each.
fn texts(count: usize, tokens: usize) -> Vec<String> {
    let words = "the storage node writes each frame to its log before an answer is sent and every copy then applies it";
    let words: Vec<&str> = words.split(' ').collect();
    let text = |n: usize| (0..tokens - 2).map(|at| words[(n * 7 + at * (1 + n % 5)) % words.len()]).collect::<Vec<_>>();
    (0..count).map(|n| text(n).join(" ")).collect()
}

fn as_strs(texts: &[String]) -> Vec<&str> {
    texts.iter().map(String::as_str).collect()
}

fn sample<E>(times: usize, mut work: impl FnMut() -> Result<(), E>) -> Result<Vec<Duration>, E> {
    work()?;
    (0..times)
        .map(|_| {
            let start = Instant::now();
            work().map(|()| start.elapsed())
        })
        .collect()
}

fn report(what: &str, times: &[Duration]) {
    let mut times = times.to_vec();
    times.sort_unstable();
    let at = |share: f64| millis(times[((times.len() - 1) as f64 * share).round() as usize]);
    println!("{what}: p50 {:.1} ms, p99 {:.1} ms, best {:.1} ms", at(0.5), at(0.99), at(0.0));
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

fn cpu() -> String {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let name = info.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    name.map_or_else(|| std::env::consts::ARCH.to_owned(), |(_, name)| name.to_owned())
}
