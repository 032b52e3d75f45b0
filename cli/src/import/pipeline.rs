//! From batches to a summary: several requests under way, progress and checkpoints in order.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::StreamExt;
use serde::Serialize;
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use crate::client::Client;
use crate::error::CliError;
use crate::import::checkpoint::Checkpoint;
use crate::import::manifests::Manifests;
use crate::import::progress::Progress;
use crate::import::reader::{Batch, Emptied, ReadOptions, Reading, read_all};
use crate::import::record::Position;
use crate::import::sightings::Sightings;
use crate::import::source::{Skipped, Source, Sources};
use crate::import::writer::{Outcome, Writer};

/// Between two writes of the list of what was stored, and of the state file.
const SAVE_EVERY: Duration = Duration::from_secs(5);

/// How an import runs.
#[derive(Debug)]
pub struct Options {
    /// How records are read.
    pub read: ReadOptions,
    /// Requests under way at a time.
    pub writers: usize,
    /// Stop at the first record that is refused.
    pub strict: bool,
    /// What sources had before stays.
    pub keep_old: bool,
}

/// What an import did.
#[derive(Debug, Default, Clone, PartialEq, Serialize)]
pub struct Summary {
    /// Stored by this run.
    pub added: u64,
    /// Stored by this run in the place of what their sources said before.
    pub replaced: u64,
    /// There before this run.
    pub already_there: u64,
    /// In one file more than once.
    pub repeated: u64,
    /// Memories that are forgotten because they are no longer in their sources.
    pub ended: u64,
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
        self.added + self.replaced + self.already_there + self.repeated + self.refused
    }
}

/// Reads and stores everything. Ends early, with the state saved, on Ctrl-C, on a cluster that takes no more, and with
/// `strict` on the first refusal. The summary counts what was done even when the end is an error.
pub async fn run(
    found: Sources,
    client: Client,
    writer: Writer,
    checkpoint: Checkpoint,
    options: Options,
) -> (Summary, Result<(), CliError>) {
    let Sources { sources, folders, unreadable, skipped } = found;
    let progress = Progress::new(sources.iter().map(|source| source.length).sum());
    let manifests = Arc::new(Manifests::new(client));
    let mut ledger = Ledger::new(checkpoint.clone(), progress, Sightings::new(manifests.clone(), folders));
    ledger.summary.skipped = skipped;
    ledger.keeps_old = options.keep_old;
    ledger.tell_of_folders(&unreadable);
    if options.strict && !unreadable.is_empty() {
        return (ledger.finish(), Err(stopped_by_refusal()));
    }
    let reading = Reading { checkpoint, options: options.read.clone(), manifests, runtime: Handle::current() };
    let batches = spawn_reader(sources, reading, options.writers);
    let read = work(batches, &writer, &options, &mut ledger).await;
    // What was cut off ends nothing.
    let saved = ledger.save(read.is_ok() && !options.keep_old).await;
    (ledger.finish(), read.and(saved))
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
            if let Some(error) = batch.failed {
                return Err(error);
            }
            let done = Done {
                reached: std::mem::take(&mut batch.reached),
                ended: std::mem::take(&mut batch.ended),
                emptied: std::mem::take(&mut batch.emptied),
            };
            writer.write(batch).await.map(|outcome| (number, done, outcome))
        })
        .buffer_unordered(options.writers);
    let interrupt = tokio::signal::ctrl_c();
    tokio::pin!(interrupt);
    loop {
        let (number, done, outcome) = tokio::select! {
            next = outcomes.next() => match next {
                Some(result) => result?,
                None => return Ok(()),
            },
            _ = &mut interrupt => {
                return Err(CliError::Stopped("interrupted; the same command goes on where this one stopped".to_owned()));
            }
        };
        let refused = !outcome.refused.is_empty();
        ledger.settle(number, done, outcome).await?;
        if refused && options.strict {
            return Err(stopped_by_refusal());
        }
    }
}

fn stopped_by_refusal() -> CliError {
    CliError::Stopped("stopped at the first refusal, as --strict says".to_owned())
}

fn spawn_reader(sources: Vec<Arc<Source>>, reading: Reading, writers: usize) -> mpsc::Receiver<Batch> {
    // As many batches wait as are under way: memory is bounded by twice the writers.
    let (sender, receiver) = mpsc::channel(writers);
    std::thread::spawn(move || read_all(&sources, &reading, &sender));
    receiver
}

/// What a batch leaves behind when it is done.
struct Done {
    reached: Reached,
    /// Sources that were read to their ends.
    ended: Vec<Arc<Source>>,
    /// Those of them in which nothing is left.
    emptied: Vec<Emptied>,
}

/// Where a batch leaves the sources that it touched.
type Reached = Vec<(Arc<Source>, Position)>;

/// Keeps count, and turns batches that end in any order into progress without gaps.
struct Ledger {
    summary: Summary,
    /// What sources had before stays.
    keeps_old: bool,
    progress: Progress,
    checkpoint: Checkpoint,
    /// Batches done ahead of one that is not.
    ahead: BTreeMap<usize, Reached>,
    /// What becomes of the manifests.
    sightings: Sightings,
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
    fn new(checkpoint: Checkpoint, progress: Progress, sightings: Sightings) -> Self {
        Ledger {
            summary: Summary::default(),
            keeps_old: false,
            progress,
            checkpoint,
            ahead: BTreeMap::new(),
            sightings,
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

    async fn settle(&mut self, number: usize, done: Done, outcome: Outcome) -> Result<(), CliError> {
        self.refused(&outcome.refused);
        self.summary.added += outcome.added;
        self.summary.replaced += outcome.replaced;
        self.summary.already_there += outcome.present;
        self.summary.repeated += outcome.repeated;
        self.sightings.note(outcome.landed, &outcome.spoiled, &done.ended);
        for Emptied { source, collection, parts } in done.emptied.iter().filter(|_| !self.keeps_old) {
            let label = console::style("emptied").yellow().for_stderr();
            let noun = if *parts == 1 { "part ends" } else { "parts end" };
            self.progress.report(&format!("{label} {}: {parts} {noun}", source.name));
            self.sightings.note_emptied(collection);
        }
        self.ahead.insert(number, done.reached);
        while let Some(reached) = self.ahead.remove(&self.next) {
            self.next += 1;
            reached.into_iter().for_each(|(source, position)| self.reach(source, position));
        }
        let bytes = self.bytes_before + self.current.as_ref().map_or(0, |(_, position)| position.bytes);
        self.progress.update(self.summary.seen(), bytes);
        if self.saved.elapsed() >= SAVE_EVERY { self.save(false).await } else { Ok(()) }
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

    /// Writes down how far everything is. The list of what was stored comes first: what the state file says is done is not
    /// sent again, and must be known.
    async fn save(&mut self, may_end: bool) -> Result<(), CliError> {
        self.summary.ended += self.sightings.save(may_end).await?;
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
