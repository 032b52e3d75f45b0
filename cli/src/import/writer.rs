//! One batch into the cluster: stored unless it is there, refusals reported.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use mira_proto::limits::{MAX_DEADLINE, embedding_time};
use mira_proto::model::{
    AttachmentInfo, Consistency, DEFAULT_COLLECTION, DEFAULT_TYPE, Frame, ItemResult, RecallRequest, StoreItem,
    StoreRequest, Stored, UploadRequest,
};
use mira_proto::{Code, Problem};
use tokio::time::Instant;
use uuid::Uuid;

use crate::backoff::backoff;
use crate::client::Client;
use crate::error::CliError;
use crate::import::files::CheckedFile;
use crate::import::identity;
use crate::import::known::{Match, own_key};
use crate::import::reader::{Batch, Landed, Prepared, key_of};
use crate::import::record::Place;
use crate::import::source::Source;
use crate::transfer::{self, MemoryPlace, Upload};

/// A request should take about this long: short enough to stay far from deadlines while others queue for the same
/// embedder, long enough that the way there and back does not count.
const REQUEST_TIME: Duration = Duration::from_secs(4);

/// Items of the first request, before anything is known of the cluster's speed.
const FIRST_REQUEST: usize = 16;

/// What became of a batch.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Stored now.
    pub added: u64,
    /// Stored now, in the place of what was there under their names.
    pub replaced: u64,
    /// There already.
    pub present: u64,
    /// Earlier in their file already.
    pub repeated: u64,
    /// Refused, with the place and the reason.
    pub refused: Vec<(String, String)>,
    /// What is in the collection now.
    pub landed: Vec<Landed>,
    /// Sources that were not taken whole.
    pub spoiled: Vec<Arc<Source>>,
}

impl Outcome {
    /// Counts a record whose memory is left as it is.
    fn stay(&mut self, Sent { prepared, attempt }: Sent) {
        self.present += 1;
        let id = prepared.found.part.map(|part| part.id);
        self.landed.push(landed(prepared, attempt, id));
    }

    fn refuse(&mut self, place: &Place, reason: String) {
        self.refused.push((place.to_string(), reason));
        self.spoiled.push(place.source.clone());
    }

    /// Counts a record that is in the collection now, and notes where. One that its source names, and that was there before this
    /// importer came, is not its own to end.
    fn land(&mut self, Sent { prepared, attempt }: Sent, Stored { id, version, unchanged }: Stored) {
        let is_ours = !unchanged || !prepared.found.identity.is_own || prepared.found.part.is_some();
        match unchanged {
            true => self.present += 1,
            false if attempt == Attempt::Replace || (prepared.item.replace && version > 1) => self.replaced += 1,
            false => self.added += 1,
        }
        self.landed.push(landed(prepared, attempt, is_ours.then_some(id)));
    }
}

fn landed(prepared: Prepared, attempt: Attempt, id: Option<Uuid>) -> Landed {
    let Prepared { place, item, mut found, order, .. } = prepared;
    // What was replaced stands where it stood.
    let position = item.position.or(found.part.map(|part| part.position)).unwrap_or_default();
    if attempt == Attempt::Beside {
        found.identity.name = identity::name_beside(&found.identity);
        (found.part, found.moved_from) = (None, None);
    }
    Landed { source: place.source, key: key_of(&item), found, order, id, position }
}

/// What there is of the id of a record with a file.
enum Kept {
    Nothing,
    /// The record, file and all.
    Same(Stored),
    Other,
}

/// How a record is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Attempt {
    /// Under its name, if nothing else is there.
    Create,
    /// In the place of what is there under its name.
    Replace,
    /// Under a name that it shares with nothing else.
    Beside,
}

/// A record on its way.
#[derive(Debug)]
struct Sent {
    prepared: Prepared,
    attempt: Attempt,
}

impl Sent {
    /// After something else was found under the name: whether there is another way to store it, which it takes from now on.
    fn turns_after_conflict(&mut self, keep_old: bool) -> bool {
        let prepared = &mut self.prepared;
        let Match { identity, part, .. } = &prepared.found;
        let (identity, part) = (*identity, *part);
        let is_ours = !prepared.contradicts && (!identity.is_own || part.is_some());
        let says_how = prepared.item.replace || prepared.item.expected_version.is_some();
        if self.attempt != Attempt::Create || !is_ours || says_how || (keep_old && identity.is_own) {
            return false;
        }
        if keep_old {
            self.attempt = Attempt::Beside;
            let key = own_key(&prepared.place.source, &identity::name_beside(&identity));
            prepared.item.source_key = Some(identity::hex(&key));
            return true;
        }
        self.attempt = Attempt::Replace;
        prepared.item.replace = true;
        // A new version stands where the old one stood, unless its source says where.
        if !prepared.says_position {
            prepared.item.position = None;
        }
        true
    }

    /// Whether an import has stored what the record says: what is different since then was changed in the collection,
    /// or is a note of the importer's, such as the line.
    fn said_so_before(&self) -> bool {
        let Match { identity, part, .. } = &self.prepared.found;
        self.attempt == Attempt::Create
            && !self.prepared.contradicts
            && (identity.is_said || part.is_some_and(|part| part.said == identity.said))
    }
}

/// Stores batches; shared by all that are under way.
#[derive(Debug)]
pub struct Writer {
    client: Client,
    /// Items of the next request.
    request_items: AtomicUsize,
    max_items: usize,
    timeout: Duration,
    keep_old: bool,
}

impl Writer {
    /// A writer that puts at most `max_items` into a request and tries each for `timeout`.
    pub fn new(client: Client, max_items: usize, timeout: Duration) -> Self {
        let request_items = AtomicUsize::new(FIRST_REQUEST.min(max_items));
        Writer { client, request_items, max_items, timeout, keep_old: false }
    }

    /// The same; what sources said before stays beside what they say now.
    pub fn keeping_old(self, keep_old: bool) -> Self {
        Writer { keep_old, ..self }
    }

    /// Stores a batch. An error means that the cluster took no more; what it had taken is safe.
    pub async fn write(&self, batch: Batch) -> Result<Outcome, CliError> {
        let Batch { items, unreadable, repeated, landed, spoiled, .. } = batch;
        let mut outcome = Outcome { repeated, landed, spoiled, ..Outcome::default() };
        unreadable.into_iter().for_each(|(place, error)| outcome.refuse(&place, error.to_string()));
        let (with_files, items): (Vec<_>, Vec<_>) = items.into_iter().partition(|prepared| prepared.attached.is_some());
        let items = items.into_iter().map(|prepared| Sent { prepared, attempt: Attempt::Create });
        self.store_all(items.collect(), &mut outcome).await?;
        for prepared in with_files {
            self.store_with_file(Sent { prepared, attempt: Attempt::Create }, &mut outcome).await?;
        }
        Ok(outcome)
    }

    /// Uploads a record's file and makes the memory of both. What was sent before a stop is not sent again: the upload's
    /// key is made of the record and its file. A memory that is there is compared, file and all.
    async fn store_with_file(&self, mut sent: Sent, outcome: &mut Outcome) -> Result<(), CliError> {
        let place = sent.prepared.place.clone();
        let Some(attached) = sent.prepared.attached.clone() else { return Ok(()) };
        let says_hash = attached.file.blake3.is_some();
        let found = tokio::task::spawn_blocking(move || attached.check()).await;
        let found = match found.map_err(|error| Problem::internal(format!("reading a file: {error}")))? {
            Ok(found) => found,
            Err(fault) => {
                outcome.refuse(&place, fault.to_string());
                return Ok(());
            }
        };
        let item = &sent.prepared.item;
        let collection = item.collection.clone().unwrap_or_else(|| DEFAULT_COLLECTION.to_owned());
        if !item.replace && item.expected_version.is_none() {
            match self.kept(&collection, item, &found).await? {
                Kept::Nothing => {}
                Kept::Same(stored) => {
                    outcome.land(sent, stored);
                    return Ok(());
                }
                // Without a hash in the record, the file may be what has changed.
                Kept::Other if says_hash && sent.said_so_before() => {
                    outcome.stay(sent);
                    return Ok(());
                }
                Kept::Other if sent.turns_after_conflict(self.keep_old) => {}
                Kept::Other => {
                    outcome.refuse(&place, "conflict: this id has another content".to_owned());
                    return Ok(());
                }
            }
        }
        let request = UploadRequest {
            frame: sent.prepared.item.clone(),
            content_type: Some(found.content_type),
            size: Some(found.size),
        };
        let key = upload_key(&collection, &request, &found.blake3)?;
        let client = self.client.within(self.time_for(std::slice::from_ref(&request.frame)));
        let upload = Upload { client: &client, collection: &collection, path: &found.path, is_quiet: true };
        match upload.begin_or_go_on(request, &key).await {
            Ok(stored) => outcome.land(sent, stored),
            Err(CliError::Problem(problem)) if !is_passing(problem.code) || problem.code == Code::DeadlineExceeded => {
                outcome.refuse(&place, problem.to_string());
            }
            Err(error @ CliError::BadFile { .. }) => outcome.refuse(&place, error.to_string()),
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// What there is of this id.
    async fn kept(&self, collection: &str, item: &StoreItem, found: &CheckedFile) -> Result<Kept, CliError> {
        let Some(id) = item.id else { return Ok(Kept::Nothing) };
        let request = RecallRequest {
            ids: Some(vec![id]),
            collection: Some(collection.to_owned()),
            consistency: Some(Consistency::Leader),
            ..RecallRequest::default()
        };
        let frame = match self.client.recall(&request).await {
            Ok(reply) => reply.frames.into_iter().next(),
            Err(CliError::Problem(problem)) if problem.code == Code::NotFound => None,
            Err(error) => return Err(error),
        };
        let Some(frame) = frame else { return Ok(Kept::Nothing) };
        let info = AttachmentInfo { content_type: found.content_type.clone(), size: found.size };
        if !says_the_same(&frame, item) || frame.attachment != Some(info) {
            return Ok(Kept::Other);
        }
        let theirs = transfer::digest(&self.client, MemoryPlace { collection, id }).await?;
        let stored = Stored { id, version: frame.version, unchanged: true };
        Ok(if theirs.blake3 == found.blake3 { Kept::Same(stored) } else { Kept::Other })
    }

    /// Stores in requests of a size that the cluster answers in good time. A record that cannot be stored is refused by
    /// itself, whatever of a request it spoils; a long text gets the time that it needs.
    async fn store_all(&self, mut waiting: Vec<Sent>, outcome: &mut Outcome) -> Result<(), CliError> {
        let mut deadline = Instant::now() + self.timeout;
        let mut attempt = 0;
        let mut patience = Duration::ZERO;
        while !waiting.is_empty() {
            let size = self.request_items.load(Ordering::Relaxed).min(waiting.len());
            let items: Vec<StoreItem> = waiting[..size].iter().map(|sent| sent.prepared.item.clone()).collect();
            let time = self.time_for(&items).max(patience);
            let started = Instant::now();
            let request = StoreRequest { item: StoreItem::default(), items: Some(items.into()) };
            let answered = self.client.within(time).store(&request).await;
            let results = match answered {
                Ok(reply) => reply.items.unwrap_or_default(),
                Err(error) => match refusal(&error) {
                    // One of them may be to blame: smaller requests tell which.
                    Some(_) if size > 1 => {
                        self.shrink(size);
                        continue;
                    }
                    Some(problem) => vec![ItemResult::Refused { error: problem }],
                    None => return Err(error),
                },
            };
            if results.len() != size {
                let detail = format!("{} answers for {size} items", results.len());
                return Err(Problem::internal(detail).into());
            }
            self.adapt(size, started.elapsed());
            let rest = waiting.split_off(size);
            let sent = std::mem::replace(&mut waiting, rest);
            let (again, otherwise) = settle(sent, results, outcome, self.keep_old);
            waiting.extend(otherwise);
            if again.len() < size {
                (deadline, attempt) = (Instant::now() + self.timeout, 0);
            }
            if again.iter().any(|(_, problem)| problem.code == Code::DeadlineExceeded) {
                (deadline, attempt) = (Instant::now() + self.timeout, 0);
                patience = self.more_patience((size, time), again, &mut waiting, outcome);
                continue;
            }
            patience = Duration::ZERO;
            if let Some((_, problem)) = again.first() {
                let pause = backoff(attempt, rand::random());
                attempt += 1;
                if Instant::now() + pause >= deadline {
                    return Err(problem.clone().into());
                }
                tokio::time::sleep(pause).await;
            }
            waiting.extend(again.into_iter().map(|(sent, _)| sent));
        }
        Ok(())
    }

    /// How long a request with these records may take.
    fn time_for(&self, items: &[StoreItem]) -> Duration {
        let texts = items.iter().filter(|item| item.vector.is_none()).filter_map(|item| item.content.as_ref());
        let time = self.timeout + embedding_time(texts.map(String::len).sum());
        time.min(MAX_DEADLINE.max(self.timeout))
    }

    /// After a request that was too long for its time: a smaller one, or for a single record more time, up to what a cluster
    /// gives at all. How long the next one may take at least.
    fn more_patience(
        &self,
        (size, time): (usize, Duration),
        again: Vec<(Sent, Problem)>,
        waiting: &mut Vec<Sent>,
        outcome: &mut Outcome,
    ) -> Duration {
        if size == 1 && time >= MAX_DEADLINE {
            for (sent, problem) in again {
                outcome.refuse(&sent.prepared.place, format!("{problem}, within {} s", time.as_secs()));
            }
            return Duration::ZERO;
        }
        if size > 1 {
            self.shrink(size);
        }
        waiting.splice(..0, again.into_iter().map(|(sent, _)| sent));
        if size > 1 { Duration::ZERO } else { (2 * time).min(MAX_DEADLINE) }
    }

    /// The next request has half as many.
    fn shrink(&self, size: usize) {
        self.request_items.store((size / 2).max(1), Ordering::Relaxed);
    }

    fn adapt(&self, size: usize, took: Duration) {
        let next = next_size(size, took, self.max_items);
        // A small last request of a batch says nothing against larger ones.
        if next > size || size >= self.request_items.load(Ordering::Relaxed) {
            self.request_items.store(next.max(1), Ordering::Relaxed);
        }
    }
}

/// What is said of the records of a request by a refusal of the whole; none if it says nothing of them, and others would
/// fare no better.
fn refusal(error: &CliError) -> Option<Problem> {
    match error {
        CliError::Problem(problem) => {
            let of_records = matches!(
                problem.code,
                Code::InvalidArgument
                    | Code::DimensionMismatch
                    | Code::TooLarge
                    | Code::NotFound
                    | Code::Conflict
                    | Code::AlreadyExists
                    | Code::DeadlineExceeded
            );
            of_records.then(|| problem.clone())
        }
        // Of a proxy in between, which takes less than a router.
        CliError::NotMira { status: 413, .. } => Some(Problem::new(Code::TooLarge, error.to_string())),
        _ => None,
    }
}

/// Whether a memory is what a record says, beside its file.
fn says_the_same(frame: &Frame, item: &StoreItem) -> bool {
    frame.content == item.content
        && frame.bytes == item.bytes
        && frame.kind == item.kind.as_deref().unwrap_or(DEFAULT_TYPE)
        && frame.session == item.session
        && frame.role == item.role
        && frame.metadata == item.metadata.clone().unwrap_or_default()
        && frame.private == item.private
}

/// The same for the same record with the same file.
fn upload_key(collection: &str, request: &UploadRequest, file: &blake3::Hash) -> Result<String, CliError> {
    let request = serde_json::to_vec(request).map_err(|error| Problem::internal(format!("a record: {error}")))?;
    let mut hash = blake3::Hasher::new_derive_key("mira import: key of an upload, version 1");
    hash.update(&(collection.len() as u64).to_le_bytes()).update(collection.as_bytes());
    hash.update(&request).update(file.as_bytes());
    Ok(hash.finalize().to_hex()[..32].to_owned())
}

/// Whether it may pass by itself.
pub fn is_passing(code: Code) -> bool {
    matches!(code, Code::Unavailable | Code::Overloaded | Code::RateLimited | Code::DeadlineExceeded)
}

/// Items of the next request after one of `size` items took `took`.
fn next_size(size: usize, took: Duration, max: usize) -> usize {
    let next = match took {
        took if took > REQUEST_TIME => size * 3 / 4,
        took if took < REQUEST_TIME / 4 => size * 2,
        _ => size,
    };
    next.clamp(1, max)
}

/// Counts what is settled; gives back what the same try again may store, and what is to be stored otherwise.
fn settle(
    sent: Vec<Sent>,
    results: Vec<ItemResult>,
    outcome: &mut Outcome,
    keep_old: bool,
) -> (Vec<(Sent, Problem)>, Vec<Sent>) {
    let (mut again, mut otherwise) = (Vec::new(), Vec::new());
    for (mut sent, result) in sent.into_iter().zip(results) {
        match result {
            ItemResult::Stored(stored) => outcome.land(sent, stored),
            ItemResult::Refused { error } => match error.code {
                code if is_passing(code) => again.push((sent, error)),
                Code::Conflict if sent.said_so_before() => outcome.stay(sent),
                Code::Conflict if sent.turns_after_conflict(keep_old) => otherwise.push(sent),
                _ => outcome.refuse(&sent.prepared.place, error.to_string()),
            },
        }
    }
    (again, otherwise)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_shrink_when_slow_and_grow_when_quick() {
        for (size, seconds, expected) in [(16, 0.2, 32), (64, 0.2, 100), (16, 2.0, 16), (16, 9.0, 12), (1, 9.0, 1)] {
            let took = Duration::from_secs_f64(seconds);
            assert_eq!(next_size(size, took, 100), expected, "{size} items in {took:?}");
        }
    }
}
