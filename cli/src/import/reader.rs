//! One thread that reads all sources in order and hands on batches of records with what names them.

use std::fs::File;
use std::io::{BufRead, BufReader, Seek};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use mira_proto::model::{DEFAULT_COLLECTION, StoreItem};
use tokio::runtime::Handle;
use tokio::sync::mpsc;

use crate::error::CliError;
use crate::import::checkpoint::Checkpoint;
use crate::import::files::{Attached, FileRef, folder_beside};
use crate::import::foreign::{self, Records};
use crate::import::identity::{self, Names, Standing};
use crate::import::jsonl::{self, JsonLines};
use crate::import::known::{Known, Match};
use crate::import::manifest::Part;
use crate::import::manifests::{ManifestKey, Manifests};
use crate::import::markdown;
use crate::import::record::{Place, Position, Record, RecordError};
use crate::import::source::{Format, Source};
use crate::import::text::TextParts;

/// Content of one batch, bytes: well within one message, and so is an answer that holds the same content.
const MAX_BATCH_BYTES: usize = 4 << 20;

/// Between the places of two files, microseconds: room for 65,536 records before they mix.
const FILE_MICROS: u64 = 4_000;

/// Between the places of two records: room for those that are put between them later, some sixty one after another.
const RECORD_ROOM: u64 = 256;

/// Which part of the room up to the next record one takes that is put before it.
const TAKEN_ROOM: u64 = 16;

/// What the command line says about every record.
#[derive(Debug, Clone)]
pub struct ReadOptions {
    /// Most records of a batch.
    pub batch: usize,
    /// Collection of records that name none.
    pub collection: Option<String>,
    /// Type of records that name none.
    pub kind: Option<String>,
    /// Session of records that name none.
    pub session: Option<String>,
    /// Unknown fields become metadata.
    pub lenient: bool,
    /// Where files are, if not beside each source.
    pub files: Option<PathBuf>,
}

/// Records that go to the cluster together.
#[derive(Debug, Default)]
pub struct Batch {
    /// What to store, each with an id or a source key.
    pub items: Vec<Prepared>,
    /// What could not be read.
    pub unreadable: Vec<(Place, RecordError)>,
    /// Records that were in their file already.
    pub repeated: u64,
    /// What an earlier run has stored, and was not sent again.
    pub landed: Vec<Landed>,
    /// Sources of which something could not be read, now or by an earlier run.
    pub spoiled: Vec<Arc<Source>>,
    /// Sources that were read to their ends.
    pub ended: Vec<Arc<Source>>,
    /// Sources in which nothing is left, though they had parts.
    pub emptied: Vec<Emptied>,
    /// Why nothing more can be read.
    pub failed: Option<CliError>,
    /// Where each source stands once this batch and all before it are done.
    pub reached: Vec<(Arc<Source>, Position)>,
    /// Content bytes.
    bytes: usize,
}

impl Batch {
    /// Records in it.
    pub fn len(&self) -> usize {
        self.items.len() + self.unreadable.len() + self.landed.len() + self.repeated as usize
    }

    fn is_full(&self, records: usize) -> bool {
        self.len() >= records || self.bytes >= MAX_BATCH_BYTES
    }

    fn push(&mut self, prepared: Prepared) {
        let item = &prepared.item;
        self.bytes += item.content.as_ref().or(item.bytes.as_ref()).map_or(0, String::len);
        self.items.push(prepared);
    }

    fn reach(&mut self, source: &Arc<Source>, position: Position) {
        match self.reached.last_mut() {
            Some((last, at)) if Arc::ptr_eq(last, source) => *at = position,
            _ => self.reached.push((source.clone(), position)),
        }
    }
}

/// A source in which nothing is left.
#[derive(Debug)]
pub struct Emptied {
    /// Which.
    pub source: Arc<Source>,
    /// Where its parts are.
    pub collection: String,
    /// How many it had, private ones not counted.
    pub parts: usize,
}

/// A record ready to be stored.
#[derive(Debug)]
pub struct Prepared {
    /// Where it came from.
    pub place: Place,
    /// The item, with an id or a source key.
    pub item: StoreItem,
    /// The file that goes with it.
    pub attached: Option<Attached>,
    /// What it is in its source.
    pub found: Match,
    /// Its number in its source.
    pub order: u64,
    /// Its source says where it stands in its session.
    pub says_position: bool,
    /// Another record of its name in the same file says something else.
    pub contradicts: bool,
}

/// A record that is in the collection.
#[derive(Debug)]
pub struct Landed {
    /// Where it came from.
    pub source: Arc<Source>,
    /// The manifest that lists it.
    pub key: ManifestKey,
    /// What it is in its source.
    pub found: Match,
    /// Its number in its source.
    pub order: u64,
    /// Its memory; none of one that this importer did not make.
    pub id: Option<uuid::Uuid>,
    /// Where it stands in its session; 0 = not known.
    pub position: u64,
}

/// What the reader reads with.
pub struct Reading {
    /// How far an earlier run came.
    pub checkpoint: Checkpoint,
    /// What the command line says.
    pub options: ReadOptions,
    /// What earlier imports have made.
    pub manifests: Arc<Manifests>,
    /// Where those are asked for.
    pub runtime: Handle,
}

/// Reads everything into batches until the end or until nobody takes them any more.
pub fn read_all(sources: &[Arc<Source>], reading: &Reading, batches: &mpsc::Sender<Batch>) {
    let mut reader = Reader { reading, known: Known::default(), batch: Batch::default() };
    for (file, source) in sources.iter().enumerate() {
        let read = reader.read(file, source, batches);
        if let Err(stop) = read {
            if let Stop::Failed(error) = stop {
                reader.batch.failed = Some(error);
                let _ = batches.blocking_send(reader.batch);
            }
            return;
        }
    }
    // The receiver may be gone: then the import was stopped and nobody misses the last batch.
    let _ = batches.blocking_send(reader.batch);
}

/// Why reading ends early.
enum Stop {
    /// Nobody takes what is read.
    Unwanted,
    /// The collection does not say what it has.
    Failed(CliError),
}

struct Reader<'a> {
    reading: &'a Reading,
    known: Known,
    batch: Batch,
}

impl Reader<'_> {
    fn read(&mut self, file: usize, source: &Arc<Source>, batches: &mpsc::Sender<Batch>) -> Result<(), Stop> {
        let Reading { checkpoint, options, .. } = self.reading;
        let mut order = FileOrder { began: checkpoint.began() + file as u64 * FILE_MICROS, next: 0, last: 0 };
        let mut names = Names::default();
        let (done, records) = records(source, checkpoint, options);
        let mut count = 0;
        for record in records {
            let Record { place, next, item, file } = record;
            let is_done = next.bytes <= done.bytes && next.lines <= done.lines;
            count += 1;
            let line = order.line(place.line);
            self.batch.reach(source, next.max(done));
            match item {
                Ok(item) => {
                    let says_position = item.position.is_some();
                    let mut item = with_options(item, options);
                    let (identity, standing) = names.next(source.format, &item, file.as_ref());
                    if standing == Standing::Repeated {
                        self.batch.repeated += u64::from(!is_done);
                    } else {
                        let attached = file.map(|file| attached(file, &place, options));
                        let found = self.known_as(source, &item, identity)?;
                        if !says_position {
                            let key = key_of(&item);
                            let after = |place| self.known.position_after(&key, source, place);
                            item.position = Some(order.position(line, found.part, after));
                        }
                        let contradicts = standing == Standing::Contradicts;
                        let prepared =
                            Prepared { place, item, attached, found, order: count, says_position, contradicts };
                        self.put(prepared, is_done);
                    }
                }
                // The earlier run has told of it.
                Err(_) if is_done => self.batch.spoiled.push(source.clone()),
                Err(error) => self.batch.unreadable.push((place, error)),
            }
            if self.batch.is_full(options.batch) && batches.blocking_send(std::mem::take(&mut self.batch)).is_err() {
                return Err(Stop::Unwanted);
            }
        }
        // One that changed meanwhile may be on its way to what it is to be.
        if !has_length(source) {
            self.batch.spoiled.push(source.clone());
        } else if count == 0 {
            self.note_emptied(source)?;
        }
        self.batch.ended.push(source.clone());
        Ok(())
    }

    /// Notes a file that says nothing any more, if it did. Records that named a collection of their own lie where nothing
    /// leads any more, and stay.
    fn note_emptied(&mut self, source: &Arc<Source>) -> Result<(), Stop> {
        let collection = self.reading.options.collection.clone().unwrap_or_else(|| DEFAULT_COLLECTION.to_owned());
        let key = ManifestKey { collection, private: false };
        self.open(&key)?;
        let parts = self.known.count(&key, source);
        if parts > 0 {
            self.batch.emptied.push(Emptied { source: source.clone(), collection: key.collection, parts });
        }
        Ok(())
    }

    fn open(&mut self, key: &ManifestKey) -> Result<(), Stop> {
        if !self.known.has(key) {
            let opened = self.reading.runtime.block_on(self.reading.manifests.open(key));
            self.known.add(key.clone(), &opened.map_err(Stop::Failed)?.manifest);
        }
        Ok(())
    }

    /// What earlier imports know of a record.
    fn known_as(
        &mut self,
        source: &Arc<Source>,
        item: &StoreItem,
        identity: identity::Identity,
    ) -> Result<Match, Stop> {
        let key = key_of(item);
        self.open(&key)?;
        Ok(self.known.find(&key, source, identity))
    }

    /// A record to be stored. One that an earlier run of the same import is done with is not sent again.
    fn put(&mut self, mut prepared: Prepared, is_done: bool) {
        let Prepared { place, item, found, order, .. } = &mut prepared;
        if let Some(part) = found.part.filter(|part| is_done && part.said == found.identity.said) {
            let (source, key) = (place.source.clone(), key_of(item));
            let (id, position) = (Some(part.id), part.position);
            let landed = Landed { source, key, found: found.clone(), order: *order, id, position };
            return self.batch.landed.push(landed);
        }
        if !found.identity.is_own {
            item.source_key = Some(identity::hex(&found.source_key(&place.source)));
        }
        self.batch.push(prepared);
    }
}

/// Whether a file is as long as when it was found.
fn has_length(source: &Source) -> bool {
    source.path.as_ref().is_some_and(|path| std::fs::metadata(path).is_ok_and(|found| found.len() == source.length))
}

/// The manifest that lists a record.
pub fn key_of(item: &StoreItem) -> ManifestKey {
    let collection = item.collection.clone().unwrap_or_else(|| DEFAULT_COLLECTION.to_owned());
    ManifestKey { collection, private: item.private }
}

/// The order of a file's records, whenever each is stored: that of the file.
struct FileOrder {
    /// Where the file stands, microseconds.
    began: u64,
    /// The line of the next record, at least.
    next: u64,
    /// The place of the last record; 0 before the first.
    last: u64,
}

impl FileOrder {
    /// The line of a record, another for each.
    fn line(&mut self, line: u64) -> u64 {
        let line = line.max(self.next);
        self.next = line + 1;
        line
    }

    /// The place of the record on that line, the same in every try: where it stood in an earlier import, or before what stands
    /// behind it there (`after`), or behind everything.
    fn position(&mut self, line: u64, known: Option<Part>, after: impl Fn(u64) -> Option<u64>) -> u64 {
        let behind = || mira_proto::Position::new(self.began, (line * RECORD_ROOM) as usize).packed();
        let stood = known.map(|part| part.position).filter(|&position| position != 0);
        self.last = match (stood, after(self.last)) {
            (Some(position), _) => position,
            (None, None) => behind(),
            (None, Some(next)) if self.last == 0 => next.saturating_sub(RECORD_ROOM),
            (None, Some(next)) => {
                let room = next - self.last;
                // Where there is none, two stand in one place.
                self.last + (room / TAKEN_ROOM).max(1).min(room - 1)
            }
        };
        self.last
    }
}

/// A file that a record names, with the folder where it is looked for.
fn attached(file: FileRef, place: &Place, options: &ReadOptions) -> Attached {
    let beside = || place.source.path.as_deref().map(folder_beside);
    Attached { folder: options.files.clone().or_else(beside), file }
}

/// A record with what the options say.
fn with_options(item: StoreItem, options: &ReadOptions) -> StoreItem {
    StoreItem {
        collection: item.collection.or_else(|| options.collection.clone()),
        kind: item.kind.or_else(|| options.kind.clone()),
        session: item.session.or_else(|| options.session.clone()),
        ..item
    }
}

/// The records of one source, and how far an earlier run came with them. Those that are done are read too: they take part in
/// the names of the others.
fn records(source: &Arc<Source>, checkpoint: &Checkpoint, options: &ReadOptions) -> (Position, Records) {
    let Some(path) = &source.path else {
        if source.format == Format::Parquet {
            let error = std::io::Error::other("a table is read from a file, not from standard input");
            return (Position::default(), failed(source, error));
        }
        return (Position::default(), parsed(BufReader::new(std::io::stdin()), source.clone(), options));
    };
    match open(path, source, checkpoint) {
        #[cfg(feature = "parquet")]
        Ok((file, done)) if source.format == Format::Parquet => {
            (done, crate::import::parquet::read(file, source.clone(), options.lenient))
        }
        Ok((file, done)) => (done, parsed(BufReader::with_capacity(1 << 16, file), source.clone(), options)),
        Err(error) => (Position::default(), failed(source, error)),
    }
}

fn failed(source: &Arc<Source>, error: std::io::Error) -> Records {
    let place = Place { source: source.clone(), line: 1 };
    Box::new(std::iter::once(Record { place, next: Position::default(), item: Err(error.into()), file: None }))
}

/// Opens a file, and says where an earlier import stopped.
fn open(path: &Path, source: &Source, checkpoint: &Checkpoint) -> std::io::Result<(File, Position)> {
    let mut file = File::open(path)?;
    let position = checkpoint.resume(source, &mut file)?;
    file.rewind()?;
    Ok((file, position))
}

fn parsed(input: impl BufRead + Send + 'static, source: Arc<Source>, options: &ReadOptions) -> Records {
    match source.format {
        Format::Jsonl => {
            let parse: jsonl::Parse = if options.lenient { jsonl::lenient } else { jsonl::strict };
            Box::new(JsonLines::new(input, source, parse))
        }
        Format::McpMemory => {
            let parse: jsonl::Parse = |line| foreign::mcp_line(line).map(|item| (item, None));
            Box::new(JsonLines::new(input, source, parse))
        }
        Format::Mem0 => foreign::mem0(input, source),
        Format::Memvid => foreign::memvid(input, source),
        Format::Parquet => failed(&source, std::io::Error::other("a table is read from a file")),
        Format::Text => Box::new(TextParts::new(input, source)),
        Format::Markdown => markdown::read(input, source),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn part(position: u64) -> Part {
        Part { name: [1; 16], said: [1; 16], key: None, id: uuid::Uuid::nil(), position }
    }

    #[test]
    fn a_record_stands_where_it_stood_and_a_new_one_between_those_beside_it() {
        let order = || FileOrder { began: 1_000, next: 0, last: 0 };
        let mut first = order();
        let stood: Vec<u64> = (1..=3).map(|line| first.position(line, None, |_| None)).collect();
        assert!(stood.is_sorted_by(|a, b| a < b), "{stood:?}");
        let set: BTreeSet<u64> = stood.iter().copied().collect();
        let after = |place: u64| set.range(place + 1..).next().copied();
        let mut again = FileOrder { began: 9_000, ..order() };
        // Two before the first, forty between the first and the second, one at the end.
        let known = [None, None, Some(0)].into_iter().chain([None; 40]).chain([Some(1), Some(2), None]);
        let places: Vec<u64> = known
            .zip(1..)
            .map(|(known, line)| again.position(line, known.map(|at: usize| part(stood[at])), after))
            .collect();
        assert!(places.is_sorted_by(|a, b| a < b), "{places:?}");
        assert_eq!([places[2], places[43], places[44]], stood[..]);
    }
}
