//! From batches to a summary: several requests under way, progress and checkpoints in order.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::StreamExt;
use serde::Serialize;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use crate::error::CliError;
use crate::import::checkpoint::Checkpoint;
use crate::import::progress::Progress;
use crate::import::reader::{Batch, ReadOptions, read_all};
use crate::import::record::Position;
use crate::import::source::{Skipped, Source, Sources};
use crate::import::writer::{Outcome, Writer};

/// Between two writes of the state file.
const SAVE_EVERY: Duration = Duration::from_secs(1);

/// How an import runs.
#[derive(Debug)]
pub struct Options {
    /// How records are read.
    pub read: ReadOptions,
    /// Requests under way at a time.
    pub writers: usize,
    /// Stop at the first record that is refused.
    pub strict: bool,
}

/// What an import did.
#[derive(Debug, Default, Clone, PartialEq, Serialize)]
pub struct Summary {
    /// Stored by this run.
    pub added: u64,
    /// There before this run.
    pub already_there: u64,
    /// In the sources more than once.
    pub repeated: u64,
    /// Unreadable or refused.
    pub refused: u64,
    /// Left out of folders.
    pub skipped: Skipped,
    /// Wall time.
    pub seconds: f64,
    /// Records handled in a second.
    pub docs_per_second: f64,
}

impl Summary {
    /// Records seen.
    pub fn seen(&self) -> u64 {
        self.added + self.already_there + self.repeated + self.refused
    }
}

/// Reads and stores everything. Ends early, with the state saved, on Ctrl-C, on a cluster that takes no more, and with
/// `strict` on the first refusal. The summary counts what was done even when the end is an error.
pub async fn run(
    found: Sources,
    writer: Writer,
    checkpoint: Checkpoint,
    options: Options,
) -> (Summary, Result<(), CliError>) {
    let Sources { sources, unreadable, skipped } = found;
    let progress = Progress::new(sources.iter().map(|source| source.length).sum());
    let mut ledger = Ledger::new(checkpoint.clone(), progress);
    ledger.summary.skipped = skipped;
    ledger.tell_of_folders(&unreadable);
    if options.strict && !unreadable.is_empty() {
        return (ledger.finish(), Err(stopped_by_refusal()));
    }
    let batches = spawn_reader(sources, checkpoint, &options);
    let ended = work(batches, &writer, &options, &mut ledger).await;
    let saved = ledger.save();
    (ledger.finish(), ended.and(saved))
}

async fn work(
    batches: mpsc::Receiver<Batch>,
    writer: &Writer,
    options: &Options,
    ledger: &mut Ledger,
) -> Result<(), CliError> {
    let mut outcomes = ReceiverStream::new(batches)
        .enumerate()
        .map(|(number, mut batch)| async move {
            let reached = std::mem::take(&mut batch.reached);
            writer.write(batch).await.map(|outcome| (number, reached, outcome))
        })
        .buffer_unordered(options.writers);
    let interrupt = tokio::signal::ctrl_c();
    tokio::pin!(interrupt);
    loop {
        let (number, reached, outcome) = tokio::select! {
            next = outcomes.next() => match next {
                Some(result) => result?,
                None => return Ok(()),
            },
            _ = &mut interrupt => {
                return Err(CliError::Stopped("interrupted; the same command goes on where this one stopped".to_owned()));
            }
        };
        let refused = !outcome.refused.is_empty();
        ledger.settle(number, reached, outcome)?;
        if refused && options.strict {
            return Err(stopped_by_refusal());
        }
    }
}

fn stopped_by_refusal() -> CliError {
    CliError::Stopped("stopped at the first refusal, as --strict says".to_owned())
}

fn spawn_reader(sources: Vec<Arc<Source>>, checkpoint: Checkpoint, options: &Options) -> mpsc::Receiver<Batch> {
    // As many batches wait as are under way: memory is bounded by twice the writers.
    let (sender, receiver) = mpsc::channel(options.writers);
    let read = options.read.clone();
    std::thread::spawn(move || read_all(&sources, &checkpoint, &read, &sender));
    receiver
}

/// Where a batch leaves the sources that it touched.
type Reached = Vec<(Arc<Source>, Position)>;

/// Keeps count, and turns batches that end in any order into progress without gaps.
struct Ledger {
    summary: Summary,
    progress: Progress,
    checkpoint: Checkpoint,
    /// Batches done ahead of one that is not.
    ahead: BTreeMap<usize, Reached>,
    /// The first batch that is not done.
    next: usize,
    /// Done without a gap, not yet in the checkpoint; the last entry of a source counts.
    unsaved: Reached,
    /// Bytes of the sources before the current one.
    bytes_before: u64,
    current: Option<(Arc<Source>, Position)>,
    saved: Instant,
}

impl Ledger {
    fn new(checkpoint: Checkpoint, progress: Progress) -> Self {
        Ledger {
            summary: Summary::default(),
            progress,
            checkpoint,
            ahead: BTreeMap::new(),
            next: 0,
            unsaved: Vec::new(),
            bytes_before: 0,
            current: None,
            saved: Instant::now(),
        }
    }

    /// Says what of the folders is not read.
    fn tell_of_folders(&mut self, unreadable: &[(String, String)]) {
        self.refused(unreadable);
        let Skipped { links, special, .. } = &self.summary.skipped;
        let skipped = |name: &String, what| {
            self.progress.report(&format!("{} {name}: {what}", console::style("skipped").yellow().for_stderr()))
        };
        links.iter().for_each(|name| skipped(name, "a link, which is not followed"));
        special.iter().for_each(|name| skipped(name, "no file: a pipe, a socket or a device"));
    }

    /// Names what was refused, and counts it.
    fn refused(&mut self, refused: &[(String, String)]) {
        for (place, reason) in refused {
            self.progress.report(&format!("{} {place}: {reason}", console::style("refused").red().for_stderr()));
        }
        self.summary.refused += refused.len() as u64;
    }

    fn settle(&mut self, number: usize, reached: Reached, outcome: Outcome) -> Result<(), CliError> {
        self.refused(&outcome.refused);
        self.summary.added += outcome.added;
        self.summary.already_there += outcome.present;
        self.summary.repeated += outcome.repeated;
        self.ahead.insert(number, reached);
        while let Some(reached) = self.ahead.remove(&self.next) {
            self.next += 1;
            reached.into_iter().for_each(|(source, position)| self.reach(source, position));
        }
        let bytes = self.bytes_before + self.current.as_ref().map_or(0, |(_, position)| position.bytes);
        self.progress.update(self.summary.seen(), bytes);
        if self.saved.elapsed() >= SAVE_EVERY { self.save() } else { Ok(()) }
    }

    /// Sources are read one after the other, so a new one means that the last is done.
    fn reach(&mut self, source: Arc<Source>, position: Position) {
        match &mut self.current {
            Some((current, at)) if Arc::ptr_eq(current, &source) => *at = position,
            current => {
                self.bytes_before += current.as_ref().map_or(0, |(_, position)| position.bytes);
                *current = Some((source.clone(), position));
            }
        }
        match self.unsaved.last_mut() {
            Some((last, at)) if Arc::ptr_eq(last, &source) => *at = position,
            _ => self.unsaved.push((source, position)),
        }
    }

    fn save(&mut self) -> Result<(), CliError> {
        for (source, position) in self.unsaved.drain(..) {
            self.checkpoint.advance(&source, position)?;
        }
        self.saved = Instant::now();
        self.checkpoint.save()
    }

    fn finish(self) -> Summary {
        let seconds = self.progress.finish().as_secs_f64();
        let docs_per_second = self.summary.seen() as f64 / seconds.max(0.001);
        Summary { seconds, docs_per_second, ..self.summary }
    }
}
