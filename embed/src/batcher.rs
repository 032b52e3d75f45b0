//! Batching across concurrent callers.
//!
//! Callers hand in texts and await the vectors. Two lanes, each with a bounded queue and a thread of its own, do the
//! work: [`Class::Interactive`] for queries that someone waits for, [`Class::Bulk`] for documents. A lane's thread takes
//! what has gathered while it was busy, from as many callers as fit one batch, embeds it in one call, and answers
//! everyone whose texts are complete. Bulk calls go in small batches, from all callers in turn of arrival, so that an
//! abandoned call stops soon.
//!
//! Why two threads and not one that serves queries between bulk batches: even a small bulk batch takes longer than a
//! query may wait in all (512 tokens are 70 ms of two slow cores, a query should take 15 ms). With two, the kernel
//! shares the processors fairly: measured beside endless bulk work, a query of 5.5 ms takes 6.6 ms.
//!
//! Guarantees: an admitted call is answered or fails, it never hangs; its vectors come in the order of its texts; a text
//! that makes the engine fail or panic fails its own call only, because a failed batch of several calls is repeated call
//! by call; what the queue has no room for is refused at once. Dropping the batcher finishes the batches at work,
//! fails what is still queued with [`EmbedError::Closed`], and joins the threads.

use std::any::Any;
use std::collections::VecDeque;
use std::fmt;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::thread::{self, JoinHandle};

use futures::channel::oneshot;
use parking_lot::{Condvar, Mutex};

use crate::{EmbedError, Embedder, ModelInfo, Passage};

type Vectors = Vec<Vec<f32>>;

/// Who waits for the vectors.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Class {
    /// A query: short, and someone waits for it.
    Interactive,
    /// Documents on their way into the store.
    Bulk,
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Interactive => "interactive",
            Self::Bulk => "bulk",
        })
    }
}

/// Bounds of a batcher, the same for both lanes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatcherLimits {
    /// Texts that may wait in a lane. It bounds the wait: 4,096 texts of 32 tokens are under half a minute of two slow cores.
    pub queued_texts: usize,
    /// Bytes of text that may wait in a lane.
    pub queued_bytes: usize,
    /// Texts of one batch.
    pub batch_texts: usize,
    /// Bytes of text of one batch, unless a single text has more: four bytes are about a token.
    pub batch_bytes: usize,
}

impl Default for BatcherLimits {
    fn default() -> Self {
        Self { queued_texts: 4_096, queued_bytes: 16 << 20, batch_texts: 64, batch_bytes: 8 << 10 }
    }
}

/// Embeds the texts of concurrent callers in common batches: a call that is admitted is answered or fails, it never hangs.
pub struct Batcher {
    embedder: Arc<dyn Embedder>,
    interactive: Lane,
    bulk: Lane,
}

impl Batcher {
    /// Starts the two threads. Panics if a limit is 0.
    pub fn new(embedder: Arc<dyn Embedder>, limits: BatcherLimits) -> Result<Self, EmbedError> {
        let BatcherLimits { queued_texts, queued_bytes, batch_texts, batch_bytes } = limits;
        assert!(![queued_texts, queued_bytes, batch_texts, batch_bytes].contains(&0), "a limit of 0: {limits:?}");
        let interactive = Lane::start(Class::Interactive, embedder.clone(), limits)?;
        let bulk = Lane::start(Class::Bulk, embedder.clone(), limits)?;
        Ok(Self { embedder, interactive, bulk })
    }

    /// The model behind the vectors.
    pub fn model(&self) -> &ModelInfo {
        self.embedder.model()
    }

    /// Cuts a text into passages on the caller's thread; see [`Embedder::passages`].
    pub fn passages(&self, text: &str, limit: usize) -> Result<Vec<Passage>, EmbedError> {
        self.embedder.passages(text, limit)
    }

    /// Queues texts and returns the future of their vectors, one per text in the same order.
    ///
    /// Fails with [`EmbedError::Overloaded`] if the lane has no room at the moment and with
    /// [`EmbedError::CallTooLarge`] if it never has. Dropping the future abandons the call. The index in a
    /// [`EmbedError::TooLong`] counts the texts of this call.
    pub fn submit(&self, class: Class, texts: Vec<String>) -> Result<Pending, EmbedError> {
        match class {
            Class::Interactive => self.interactive.submit(texts),
            Class::Bulk => self.bulk.submit(texts),
        }
    }
}

/// The answer to come of one call of [`Batcher::submit`].
#[derive(Debug)]
pub struct Pending(oneshot::Receiver<Result<Vectors, EmbedError>>);

impl Future for Pending {
    type Output = Result<Vectors, EmbedError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0).poll(context).map(|answer| answer.unwrap_or(Err(EmbedError::Closed)))
    }
}

/// One queue and the thread that serves it.
struct Lane {
    class: Class,
    limits: BatcherLimits,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    queue: Mutex<Queue>,
    filled: Condvar,
}

/// Calls in order of arrival. `texts` and `bytes` count what their callers handed in and have not been given back.
#[derive(Default)]
struct Queue {
    calls: VecDeque<Call>,
    texts: usize,
    bytes: usize,
    closed: bool,
}

/// One caller's texts. Those before `vectors.len()` are done.
struct Call {
    texts: Vec<String>,
    vectors: Vectors,
    answer: oneshot::Sender<Result<Vectors, EmbedError>>,
}

impl Call {
    fn bytes(&self) -> usize {
        self.texts.iter().map(String::len).sum()
    }

    fn rest(&self) -> &[String] {
        &self.texts[self.vectors.len()..]
    }
}

impl Lane {
    fn start(class: Class, embedder: Arc<dyn Embedder>, limits: BatcherLimits) -> Result<Self, EmbedError> {
        let shared = Arc::new(Shared { queue: Mutex::default(), filled: Condvar::new() });
        let worker = shared.clone();
        let thread = thread::Builder::new()
            .name(format!("embed-{class}"))
            .spawn(move || worker.serve(&*embedder, limits))
            .map_err(|error| EmbedError::Thread { reason: error.to_string() })?;
        Ok(Self { class, limits, shared, thread: Some(thread) })
    }

    fn submit(&self, texts: Vec<String>) -> Result<Pending, EmbedError> {
        let (answer, pending) = oneshot::channel();
        let call = Call { vectors: Vec::with_capacity(texts.len()), texts, answer };
        let (class, texts, bytes) = (self.class, call.texts.len(), call.bytes());
        if texts > self.limits.queued_texts || bytes > self.limits.queued_bytes {
            return Err(EmbedError::CallTooLarge { class, texts, bytes });
        }
        if texts == 0 {
            // The receiver is at hand, so this cannot fail.
            let _ = call.answer.send(Ok(Vec::new()));
            return Ok(Pending(pending));
        }
        let mut queue = self.shared.queue.lock();
        if queue.texts + texts > self.limits.queued_texts || queue.bytes + bytes > self.limits.queued_bytes {
            return Err(EmbedError::Overloaded { class });
        }
        queue.texts += texts;
        queue.bytes += bytes;
        queue.calls.push_back(call);
        drop(queue);
        self.shared.filled.notify_one();
        Ok(Pending(pending))
    }
}

impl Drop for Lane {
    fn drop(&mut self) {
        self.shared.queue.lock().closed = true;
        self.shared.filled.notify_one();
        // A panic of the engine was caught; one of the lane itself has already failed its callers by dropping them.
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

impl Shared {
    fn serve(&self, embedder: &dyn Embedder, limits: BatcherLimits) {
        while let Some(mut batch) = self.next_batch(limits) {
            batch.run(embedder);
            self.give_back(batch);
        }
        // Dropping the calls tells their callers.
        self.queue.lock().calls.clear();
    }

    /// Waits for calls and takes the first ones that make up a batch; `None` once closed.
    fn next_batch(&self, limits: BatcherLimits) -> Option<Batch> {
        let mut queue = self.queue.lock();
        loop {
            if queue.closed {
                return None;
            }
            queue.forget_abandoned();
            if !queue.calls.is_empty() {
                return Some(queue.take_batch(limits));
            }
            self.filled.wait(&mut queue);
        }
    }

    /// Puts unfinished calls back in front; finished ones leave the queue's count.
    fn give_back(&self, batch: Batch) {
        let mut queue = self.queue.lock();
        queue.texts -= batch.finished_texts;
        queue.bytes -= batch.finished_bytes;
        for (call, _) in batch.calls.into_iter().rev() {
            queue.calls.push_front(call);
        }
    }
}

impl Queue {
    fn forget_abandoned(&mut self) {
        let (texts, bytes) = (&mut self.texts, &mut self.bytes);
        self.calls.retain(|call| {
            let abandoned = call.answer.is_canceled();
            if abandoned {
                *texts -= call.texts.len();
                *bytes -= call.bytes();
            }
            !abandoned
        });
    }

    fn take_batch(&mut self, limits: BatcherLimits) -> Batch {
        let mut batch = Batch::default();
        let (mut texts, mut bytes) = (0, 0);
        while let Some(call) = self.calls.pop_front() {
            let mut taken = 0;
            for text in call.rest() {
                if texts == limits.batch_texts || (texts > 0 && bytes + text.len() > limits.batch_bytes) {
                    break;
                }
                (texts, bytes, taken) = (texts + 1, bytes + text.len(), taken + 1);
            }
            if taken == 0 {
                self.calls.push_front(call);
                break;
            }
            batch.calls.push((call, taken));
        }
        batch
    }
}

/// Calls with the number of their next texts that take part.
#[derive(Default)]
struct Batch {
    calls: Vec<(Call, usize)>,
    finished_texts: usize,
    finished_bytes: usize,
}

impl Batch {
    /// Embeds the texts, answers the calls that are complete or failed, and keeps the others.
    fn run(&mut self, embedder: &dyn Embedder) {
        let calls = std::mem::take(&mut self.calls);
        let texts: Vec<&str> =
            calls.iter().flat_map(|(call, taken)| &call.rest()[..*taken]).map(String::as_str).collect();
        match embed_caught(embedder, &texts) {
            Ok(vectors) => {
                let mut vectors = vectors.into_iter();
                for (call, taken) in calls {
                    self.settle(call, Ok(vectors.by_ref().take(taken).collect()));
                }
            }
            Err(error) if calls.len() == 1 => {
                calls.into_iter().for_each(|(call, _)| self.settle(call, Err(error.clone())));
            }
            Err(_) => {
                for (call, taken) in calls {
                    let texts: Vec<&str> = call.rest()[..taken].iter().map(String::as_str).collect();
                    let result = embed_caught(embedder, &texts);
                    self.settle(call, result);
                }
            }
        }
    }

    fn settle(&mut self, mut call: Call, result: Result<Vectors, EmbedError>) {
        let answer = match result {
            Ok(vectors) => {
                call.vectors.extend(vectors);
                if !call.rest().is_empty() {
                    self.calls.push((call, 0));
                    return;
                }
                Ok(std::mem::take(&mut call.vectors))
            }
            Err(EmbedError::TooLong { index, tokens, max }) => {
                Err(EmbedError::TooLong { index: index + call.vectors.len(), tokens, max })
            }
            Err(error) => Err(error),
        };
        self.finished_texts += call.texts.len();
        self.finished_bytes += call.bytes();
        // A caller that has gone needs no answer.
        let _ = call.answer.send(answer);
    }
}

/// Embeds, and turns a panic or a wrong number of vectors into an error.
fn embed_caught(embedder: &dyn Embedder, texts: &[&str]) -> Result<Vectors, EmbedError> {
    // Unwind safety: the embedder is only read, and it is `Sync`, so a lock of its own would be poisoned.
    let result = catch_unwind(AssertUnwindSafe(|| embedder.embed(texts)));
    match result {
        Ok(Ok(vectors)) if vectors.len() != texts.len() => {
            let reason = format!("{} vectors for {} texts", vectors.len(), texts.len());
            Err(EmbedError::EngineFailed { reason })
        }
        Ok(result) => result,
        Err(panic) => Err(EmbedError::EngineFailed { reason: message_of(&*panic) }),
    }
}

fn message_of(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "panic without a message".to_owned())
}
