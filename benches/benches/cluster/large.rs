//! A large content through REST, as `mira store --file` sends it and `mira recall --file` reads it: how fast, and what the
//! processes hold of it meanwhile.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use mira_benches::BenchError;
use mira_benches::machine::Usage;
use mira_benches::report::Figure;
use mira_benches::rest::{RestCaller, lost};
use mira_benches::suite::Bench;
use mira_chaos_tests::cluster::Cluster;
use mira_proto::{Problem, limits};
use rand::rngs::StdRng;
use rand::{RngCore, SeedableRng};
use tokio::time::sleep;

use super::{MIB, processes};

/// Bytes of one request of an upload, as the shell sends them.
const STEP: usize = limits::CHUNKS_IN_FLIGHT * limits::MAX_CONTENT_BYTES;
/// Between two looks at the processes' memory.
const LOOK: Duration = Duration::from_millis(20);

/// Uploads, downloads, compares.
pub async fn measure(bench: &mut Bench, cluster: &mut Cluster) -> Result<Vec<Figure>, BenchError> {
    let collection = bench.collection("large", 1).await?;
    let caller = RestCaller::new(&bench.target).map_err(BenchError::refused("connecting over REST"))?;
    // Nothing in it repeats or compresses: identical pieces would be stored once.
    let mut content = vec![0; bench.scale.large];
    StdRng::seed_from_u64(23).fill_bytes(&mut content);
    let size = content.len() as f64 / MIB;
    let processes = processes(cluster);

    let (uploaded, sent) = watched(&processes, upload(&caller, &collection, &content)).await?;
    let (id, upload_took) = uploaded.map_err(BenchError::refused("an upload"))?;
    let (downloaded, received) = watched(&processes, download(&caller, &collection, &id, &content)).await?;
    let download_took = downloaded.map_err(BenchError::refused("a download"))?;

    let mut figures = vec![
        Figure::amount(format!("upload {size:.0} MiB over REST, replication 3"), size / upload_took, "MiB/s"),
        Figure::amount(format!("download {size:.0} MiB over REST"), size / download_took, "MiB/s"),
    ];
    for (word, peaks) in [("upload", sent), ("download", received)] {
        for (process, peak) in peaks {
            let what = format!("resident memory of {process} during the {word}");
            figures.push(Figure::amount(format!("{what}, at most"), peak.most / MIB, "MiB"));
            figures.push(Figure::amount(format!("{what}, beyond before"), peak.growth / MIB, "MiB"));
        }
    }
    Ok(figures)
}

/// Sends a content; its frame's id, and the seconds that it took.
async fn upload(caller: &RestCaller, collection: &str, content: &[u8]) -> Result<(String, f64), Problem> {
    let started = Instant::now();
    let mut known = caller.begin_upload(collection, content.len()).await?;
    for step in content.chunks(STEP) {
        known = caller.append(collection, &known, step.to_vec()).await?;
    }
    let done = caller.finish_upload(collection, &known).await?;
    let stored = done.stored.ok_or_else(|| Problem::internal("a finished upload without a frame"))?;
    Ok((stored.id.to_string(), started.elapsed().as_secs_f64()))
}

/// Reads a content and compares it; the seconds that it took.
async fn download(caller: &RestCaller, collection: &str, id: &str, content: &[u8]) -> Result<f64, Problem> {
    let started = Instant::now();
    let mut response = caller.content(collection, id).await?;
    let mut rest = content;
    while let Some(piece) = response.chunk().await.map_err(lost)? {
        let (wanted, after) = rest.split_at_checked(piece.len()).unwrap_or((&[], &[]));
        if wanted != &piece[..] {
            return Err(Problem::internal("what came back is not what was stored"));
        }
        rest = after;
    }
    if rest.is_empty() {
        Ok(started.elapsed().as_secs_f64())
    } else {
        Err(Problem::internal(format!("{} bytes did not come back", rest.len())))
    }
}

/// Resident memory, bytes.
struct Peak {
    most: f64,
    growth: f64,
}

/// Does something, and says how much memory each process had at most meanwhile.
async fn watched<A>(
    processes: &[(String, u32)],
    work: impl Future<Output = A>,
) -> Result<(A, Vec<(String, Peak)>), BenchError> {
    let resident = |processes: &[(String, u32)]| -> Result<Vec<u64>, BenchError> {
        processes.iter().map(|(_, process)| Ok(Usage::of(*process)?.resident_bytes)).collect()
    };
    let before = resident(processes)?;
    let over = Arc::new(AtomicBool::new(false));
    let watching = {
        let (over, processes, mut most) = (over.clone(), processes.to_vec(), before.clone());
        // A task of its own: the work keeps the thread that polls it busy.
        tokio::spawn(async move {
            while !over.load(Ordering::Relaxed) {
                let now = resident(&processes)?;
                most.iter_mut().zip(now).for_each(|(most, now)| *most = (*most).max(now));
                sleep(LOOK).await;
            }
            Ok::<_, BenchError>(most)
        })
    };
    let done = work.await;
    over.store(true, Ordering::Relaxed);
    let most = watching.await.map_err(|error| BenchError::Wrong(error.to_string()))??;
    let peak = |(before, most): (&u64, u64)| Peak { most: most as f64, growth: (most - before) as f64 };
    let peaks = before.iter().zip(most).map(peak);
    Ok((done, processes.iter().map(|(name, _)| name.clone()).zip(peaks).collect()))
}
