//! One thread that reads all sources in order and hands on batches of records with what names them.

use std::collections::{HashSet, VecDeque};
use std::fs::File;
use std::io::{BufRead, BufReader, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use mira_proto::model::StoreItem;
use tokio::sync::mpsc;

use crate::import::checkpoint::Checkpoint;
use crate::import::files::{Attached, FileRef, folder_beside};
use crate::import::foreign::{self, Records};
use crate::import::identity::source_key;
use crate::import::jsonl::{self, JsonLines};
use crate::import::markdown;
use crate::import::record::{Place, Position, Record, RecordError};
use crate::import::source::{Format, Source};
use crate::import::text::TextParts;

/// Content of one batch, bytes: well within one message, and so is an answer that holds the same content.
const MAX_BATCH_BYTES: usize = 4 << 20;

/// Between the places of two files, microseconds: room for four million records before they mix.
const FILE_MICROS: u64 = 1_000;

/// Names of records remembered, so that a repeated record is not sent twice: some 100 bytes each.
const MAX_RECENT: usize = 1 << 18;

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
    /// Records that were in this import already.
    pub repeated: u64,
    /// Where each source stands once this batch and all before it are done.
    pub reached: Vec<(Arc<Source>, Position)>,
    /// Content bytes.
    bytes: usize,
}

impl Batch {
    /// Records in it.
    pub fn len(&self) -> usize {
        self.items.len() + self.unreadable.len() + self.repeated as usize
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

/// A record ready to be stored.
#[derive(Debug)]
pub struct Prepared {
    /// Where it came from.
    pub place: Place,
    /// The item, with an id or a source key.
    pub item: StoreItem,
    /// The file that goes with it.
    pub attached: Option<Attached>,
    /// Whether its source key was made from the content, so that a memory of this name is this memory.
    pub derived: bool,
}

/// Reads everything into batches until the end or until nobody takes them any more.
pub fn read_all(
    sources: &[Arc<Source>],
    checkpoint: &Checkpoint,
    options: &ReadOptions,
    batches: &mpsc::Sender<Batch>,
) {
    let mut recent = Recent::default();
    let mut batch = Batch::default();
    for (file, source) in sources.iter().enumerate() {
        let mut order = FileOrder { began: checkpoint.began() + file as u64 * FILE_MICROS, next: 0 };
        for record in records(source, checkpoint, options) {
            batch.reach(source, record.next);
            let position = order.position(record.place.line);
            match record.item {
                Ok(mut item) => {
                    item.position = item.position.or(Some(position));
                    let attached = record.file.map(|file| attached(file, &record.place, options));
                    match prepare(item, attached, record.place, options, &mut recent) {
                        Some(prepared) => batch.push(prepared),
                        None => batch.repeated += 1,
                    }
                }
                Err(error) => batch.unreadable.push((record.place, error)),
            }
            if batch.is_full(options.batch) && batches.blocking_send(std::mem::take(&mut batch)).is_err() {
                return;
            }
        }
    }
    // The receiver may be gone: then the import was stopped and nobody misses the last batch.
    let _ = batches.blocking_send(batch);
}

/// The order of a file's records, whenever each is stored: that of the file.
struct FileOrder {
    /// Where the file stands, microseconds.
    began: u64,
    /// The place of the next record, at least.
    next: u64,
}

impl FileOrder {
    /// The place of the record on that line: the same in every try.
    fn position(&mut self, line: u64) -> u64 {
        let place = line.max(self.next);
        self.next = place + 1;
        mira_proto::Position::new(self.began, place as usize).packed()
    }
}

/// A file that a record names, with the folder where it is looked for.
fn attached(file: FileRef, place: &Place, options: &ReadOptions) -> Attached {
    let beside = || place.source.path.as_deref().map(folder_beside);
    Attached { folder: options.files.clone().or_else(beside), file }
}

/// A record with what the options say and with a name; none if it was seen before.
fn prepare(
    mut item: StoreItem,
    attached: Option<Attached>,
    place: Place,
    options: &ReadOptions,
    recent: &mut Recent,
) -> Option<Prepared> {
    item.collection = item.collection.or_else(|| options.collection.clone());
    item.kind = item.kind.or_else(|| options.kind.clone());
    item.session = item.session.or_else(|| options.session.clone());
    let derived = item.id.is_none() && item.source_key.is_none();
    if derived {
        let key = source_key(&item, place.source.format.origin());
        if !recent.insert(&key) {
            return None;
        }
        item.source_key = Some(key);
    }
    Some(Prepared { place, item, attached, derived })
}

/// The last names seen.
#[derive(Default)]
struct Recent {
    keys: HashSet<Arc<str>>,
    order: VecDeque<Arc<str>>,
}

impl Recent {
    /// Whether the name is new.
    fn insert(&mut self, key: &str) -> bool {
        if self.keys.contains(key) {
            return false;
        }
        let key: Arc<str> = key.into();
        self.keys.insert(key.clone());
        self.order.push_back(key);
        if self.order.len() > MAX_RECENT
            && let Some(oldest) = self.order.pop_front()
        {
            self.keys.remove(&oldest);
        }
        true
    }
}

/// The records of one source that are not done yet.
fn records(source: &Arc<Source>, checkpoint: &Checkpoint, options: &ReadOptions) -> Records {
    let Some(path) = &source.path else {
        if source.format == Format::Parquet {
            return failed(source, std::io::Error::other("a table is read from a file, not from standard input"));
        }
        let input = BufReader::new(std::io::stdin());
        return parsed(input, source.clone(), Position::default(), options);
    };
    match open(path, source, checkpoint) {
        #[cfg(feature = "parquet")]
        Ok((input, position)) if source.format == Format::Parquet => {
            crate::import::parquet::read(input.into_inner(), source.clone(), position.lines, options.lenient)
        }
        Ok((input, position)) => parsed(input, source.clone(), position, options),
        Err(error) => failed(source, error),
    }
}

fn failed(source: &Arc<Source>, error: std::io::Error) -> Records {
    let place = Place { source: source.clone(), line: 1 };
    Box::new(std::iter::once(Record { place, next: Position::default(), item: Err(error.into()), file: None }))
}

/// Opens a file where an earlier import stopped.
fn open(path: &Path, source: &Source, checkpoint: &Checkpoint) -> std::io::Result<(BufReader<File>, Position)> {
    let mut file = File::open(path)?;
    let position = checkpoint.resume(source, &mut file)?;
    // A document is parsed as a whole; its reader leaves out what is done.
    let start = if source.format.is_document() { 0 } else { position.bytes };
    file.seek(SeekFrom::Start(start))?;
    Ok((BufReader::with_capacity(1 << 16, file), position))
}

fn parsed(
    input: impl BufRead + Send + 'static,
    source: Arc<Source>,
    position: Position,
    options: &ReadOptions,
) -> Records {
    match source.format {
        Format::Jsonl => {
            let parse: jsonl::Parse = if options.lenient { jsonl::lenient } else { jsonl::strict };
            Box::new(JsonLines::new(input, source, position, parse))
        }
        Format::McpMemory => {
            let parse: jsonl::Parse = |line| foreign::mcp_line(line).map(|item| (item, None));
            Box::new(JsonLines::new(input, source, position, parse))
        }
        Format::Mem0 => foreign::mem0(input, source, position.lines),
        Format::Memvid => foreign::memvid(input, source, position.lines),
        Format::Parquet => failed(&source, std::io::Error::other("a table is read from a file")),
        Format::Text => Box::new(TextParts::new(input, source, position)),
        Format::Markdown => markdown::read(input, source, position.bytes),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn recent_names_are_bounded() {
        let mut recent = Recent::default();
        assert!((0..=MAX_RECENT).all(|number| recent.insert(&number.to_string())));
        assert_eq!(recent.keys.len(), MAX_RECENT);
        assert!(recent.insert("0"), "the oldest was dropped");
        assert!(!recent.insert("2"));
    }
}
