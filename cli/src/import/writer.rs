//! One batch into the cluster: stored unless it is there, refusals reported.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use mira_proto::limits::{MAX_DEADLINE, embedding_time};
use mira_proto::model::{
    AttachmentInfo, Consistency, DEFAULT_COLLECTION, DEFAULT_TYPE, Frame, ItemResult, RecallRequest, StoreItem,
    StoreRequest, UploadRequest,
};
use mira_proto::{Code, Problem};
use tokio::time::Instant;

use crate::backoff::backoff;
use crate::client::Client;
use crate::error::CliError;
use crate::import::files::CheckedFile;
use crate::import::reader::{Batch, Prepared};
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
    /// There already.
    pub present: u64,
    /// Earlier in this import already.
    pub repeated: u64,
    /// Refused, with the place and the reason.
    pub refused: Vec<(String, String)>,
}

/// Stores batches; shared by all that are under way.
#[derive(Debug)]
pub struct Writer {
    client: Client,
    /// Items of the next request.
    request_items: AtomicUsize,
    max_items: usize,
    timeout: Duration,
}

impl Writer {
    /// A writer that puts at most `max_items` into a request and tries each for `timeout`.
    pub fn new(client: Client, max_items: usize, timeout: Duration) -> Self {
        Writer { client, request_items: AtomicUsize::new(FIRST_REQUEST.min(max_items)), max_items, timeout }
    }

    /// Stores a batch. An error means that the cluster took no more; what it had taken is safe.
    pub async fn write(&self, batch: Batch) -> Result<Outcome, CliError> {
        let mut outcome = Outcome { repeated: batch.repeated, ..Outcome::default() };
        outcome.refused =
            batch.unreadable.iter().map(|(place, error)| (place.to_string(), error.to_string())).collect();
        let (with_files, items): (Vec<_>, Vec<_>) =
            batch.items.into_iter().partition(|prepared| prepared.attached.is_some());
        self.store_all(items, &mut outcome).await?;
        for prepared in with_files {
            let place = prepared.place.to_string();
            match self.store_with_file(prepared).await? {
                Settled::Added => outcome.added += 1,
                Settled::Present => outcome.present += 1,
                Settled::Refused(reason) => outcome.refused.push((place, reason)),
            }
        }
        Ok(outcome)
    }

    /// Uploads a record's file and makes the memory of both. What was sent before a stop is not sent again: the upload's
    /// key is made of the record and its file. A memory that is there is compared, file and all.
    async fn store_with_file(&self, Prepared { item, attached, .. }: Prepared) -> Result<Settled, CliError> {
        let Some(attached) = attached else { return Ok(Settled::Refused("it names no file".to_owned())) };
        let found = tokio::task::spawn_blocking(move || attached.check()).await;
        let found = match found.map_err(|error| Problem::internal(format!("reading a file: {error}")))? {
            Ok(found) => found,
            Err(fault) => return Ok(Settled::Refused(fault.to_string())),
        };
        let collection = item.collection.clone().unwrap_or_else(|| DEFAULT_COLLECTION.to_owned());
        if !item.replace && item.expected_version.is_none() {
            match self.kept(&collection, &item, &found).await? {
                None => {}
                Some(true) => return Ok(Settled::Present),
                Some(false) => return Ok(Settled::Refused("conflict: this id has another content".to_owned())),
            }
        }
        let request = UploadRequest { frame: item, content_type: Some(found.content_type), size: Some(found.size) };
        let key = upload_key(&collection, &request, &found.blake3)?;
        let client = self.client.within(self.time_for(std::slice::from_ref(&request.frame)));
        let upload = Upload { client: &client, collection: &collection, path: &found.path, is_quiet: true };
        match upload.begin_or_go_on(request, &key).await {
            Ok(stored) if stored.unchanged => Ok(Settled::Present),
            Ok(_) => Ok(Settled::Added),
            Err(CliError::Problem(problem)) if !is_passing(problem.code) || problem.code == Code::DeadlineExceeded => {
                Ok(Settled::Refused(problem.to_string()))
            }
            Err(error @ CliError::BadFile { .. }) => Ok(Settled::Refused(error.to_string())),
            Err(error) => Err(error),
        }
    }

    /// Whether there is a memory of this id, and it is this one.
    async fn kept(&self, collection: &str, item: &StoreItem, found: &CheckedFile) -> Result<Option<bool>, CliError> {
        let Some(id) = item.id else { return Ok(None) };
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
        let Some(frame) = frame else { return Ok(None) };
        let info = AttachmentInfo { content_type: found.content_type.clone(), size: found.size };
        if !says_the_same(&frame, item) || frame.attachment != Some(info) {
            return Ok(Some(false));
        }
        let theirs = transfer::digest(&self.client, MemoryPlace { collection, id }).await?;
        Ok(Some(theirs.blake3 == found.blake3))
    }

    /// Stores in requests of a size that the cluster answers in good time. A record that cannot be stored is refused by
    /// itself, whatever of a request it spoils; a long text gets the time that it needs.
    async fn store_all(&self, mut waiting: Vec<Prepared>, outcome: &mut Outcome) -> Result<(), CliError> {
        let mut deadline = Instant::now() + self.timeout;
        let mut attempt = 0;
        let mut patience = Duration::ZERO;
        while !waiting.is_empty() {
            let size = self.request_items.load(Ordering::Relaxed).min(waiting.len());
            let items: Vec<StoreItem> = waiting[..size].iter().map(|prepared| prepared.item.clone()).collect();
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
            let again = settle(sent, results, outcome);
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
            waiting.extend(again.into_iter().map(|(prepared, _)| prepared));
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
        again: Vec<(Prepared, Problem)>,
        waiting: &mut Vec<Prepared>,
        outcome: &mut Outcome,
    ) -> Duration {
        if size == 1 && time >= MAX_DEADLINE {
            outcome.refused.extend(again.into_iter().map(|(prepared, problem)| {
                (prepared.place.to_string(), format!("{problem}, within {} s", time.as_secs()))
            }));
            return Duration::ZERO;
        }
        if size > 1 {
            self.shrink(size);
        }
        waiting.splice(..0, again.into_iter().map(|(prepared, _)| prepared));
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

/// What became of one record.
enum Settled {
    Added,
    Present,
    Refused(String),
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
fn is_passing(code: Code) -> bool {
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

/// Counts what is settled; gives back what another try may store.
fn settle(sent: Vec<Prepared>, results: Vec<ItemResult>, outcome: &mut Outcome) -> Vec<(Prepared, Problem)> {
    let mut again = Vec::new();
    for (prepared, result) in sent.into_iter().zip(results) {
        match result {
            ItemResult::Stored(stored) if stored.unchanged => outcome.present += 1,
            ItemResult::Stored(_) => outcome.added += 1,
            ItemResult::Refused { error } => match error.code {
                code if is_passing(code) => again.push((prepared, error)),
                // Its name was made from the content, so the memory is there; only notes such as its path differ.
                Code::Conflict if prepared.derived => outcome.present += 1,
                _ => outcome.refused.push((prepared.place.to_string(), error.to_string())),
            },
        }
    }
    again
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
