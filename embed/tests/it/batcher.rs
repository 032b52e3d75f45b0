//! What callers of the batcher can rely on, with engines that wait, fail and panic on command.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread;

use futures::executor::block_on;
use futures::future::join_all;
use mira_embed::{Batcher, BatcherLimits, Class, EmbedError, Embedder, HashEmbedder, ModelInfo, Passage};
use parking_lot::{Mutex, RwLock};

/// Embeds by hash, keeps a record of its batches, and obeys words in the texts. While `gate` is locked for writing,
/// every text but "query" waits.
struct Engine {
    hash: HashEmbedder,
    gate: RwLock<()>,
    batches: Mutex<Vec<Vec<String>>>,
    entered: AtomicUsize,
}

impl Engine {
    fn new() -> Arc<Self> {
        let (gate, batches) = (RwLock::new(()), Mutex::new(Vec::new()));
        Arc::new(Self { hash: HashEmbedder::new(16), gate, batches, entered: AtomicUsize::new(0) })
    }

    /// Waits until so many batches have begun.
    fn wait_entered(&self, batches: usize) {
        while self.entered.load(Ordering::SeqCst) < batches {
            thread::yield_now();
        }
    }
}

impl Embedder for Engine {
    fn model(&self) -> &ModelInfo {
        self.hash.model()
    }

    fn embed(&self, texts: &[&str]) -> Result<Vec<Vec<f32>>, EmbedError> {
        self.batches.lock().push(texts.iter().map(|&text| text.to_owned()).collect());
        self.entered.fetch_add(1, Ordering::SeqCst);
        if !texts.contains(&"query") {
            drop(self.gate.read());
        }
        assert!(!texts.contains(&"panic"), "asked to panic");
        if let Some(index) = texts.iter().position(|&text| text == "long") {
            return Err(EmbedError::TooLong { index, tokens: 300, max: 256 });
        }
        let kept = if texts.contains(&"lose one") { &texts[1..] } else { texts };
        self.hash.embed(kept)
    }

    fn passages(&self, text: &str, limit: usize) -> Result<Vec<Passage>, EmbedError> {
        self.hash.passages(text, limit)
    }
}

fn batcher(engine: &Arc<Engine>, limits: BatcherLimits) -> Batcher {
    Batcher::new(engine.clone(), limits).unwrap()
}

fn small() -> BatcherLimits {
    BatcherLimits { queued_texts: 20, queued_bytes: 2_000, batch_texts: 4, batch_bytes: 100 }
}

fn owned(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|&text| text.to_owned()).collect()
}

fn numbered(count: usize) -> Vec<String> {
    (0..count).map(|n| format!("document {n}")).collect()
}

fn expect(texts: &[String]) -> Vec<Vec<f32>> {
    HashEmbedder::new(16).embed(&texts.iter().map(String::as_str).collect::<Vec<_>>()).unwrap()
}

#[test]
fn every_caller_gets_its_own_vectors_in_order() {
    let engine = Engine::new();
    let batcher = batcher(&engine, BatcherLimits::default());
    thread::scope(|scope| {
        for caller in 0..16 {
            let batcher = &batcher;
            scope.spawn(move || {
                let class = if caller % 2 == 0 { Class::Interactive } else { Class::Bulk };
                for round in 0..20 {
                    let texts: Vec<_> = (0..round).map(|n| format!("text {n} of {caller} in {round}")).collect();
                    let found = block_on(batcher.submit(class, texts.clone()).unwrap()).unwrap();
                    assert_eq!(found, expect(&texts));
                }
            });
        }
    });
}

#[test]
fn what_gathers_while_the_engine_is_busy_becomes_one_batch() {
    let engine = Engine::new();
    let batcher = batcher(&engine, small());
    let gate = engine.gate.write();
    let first = batcher.submit(Class::Bulk, owned(&["first"])).unwrap();
    engine.wait_entered(1);
    let others = ["a", "b", "c"].map(|text| batcher.submit(Class::Bulk, owned(&[text])).unwrap());
    drop(gate);
    assert!(block_on(first).is_ok() && block_on(join_all(others)).iter().all(Result::is_ok));
    assert_eq!(*engine.batches.lock(), [owned(&["first"]), owned(&["a", "b", "c"])]);
}

#[test]
fn bulk_calls_go_in_small_batches() {
    let engine = Engine::new();
    let batcher = batcher(&engine, small());
    let mut texts = numbered(9);
    texts.push("x".repeat(150));
    texts.push("last".to_owned());
    assert_eq!(block_on(batcher.submit(Class::Bulk, texts.clone()).unwrap()).unwrap(), expect(&texts));
    let sizes: Vec<usize> = engine.batches.lock().iter().map(Vec::len).collect();
    assert_eq!(sizes, [4, 4, 1, 1, 1], "four texts or a hundred bytes, but a long text alone");
}

#[test]
fn a_query_does_not_wait_for_bulk_work() {
    let engine = Engine::new();
    let batcher = batcher(&engine, BatcherLimits::default());
    let gate = engine.gate.write();
    let mut bulk = batcher.submit(Class::Bulk, numbered(1_000)).unwrap();
    engine.wait_entered(1);
    // The bulk lane stands still, so this would hang if the query had to wait for it.
    let query = batcher.submit(Class::Interactive, owned(&["query"])).unwrap();
    assert_eq!(block_on(query).unwrap(), expect(&owned(&["query"])));
    drop(gate);
    assert_eq!(block_on(&mut bulk).unwrap(), expect(&numbered(1_000)));
}

#[test]
fn a_full_queue_refuses_and_recovers() {
    let engine = Engine::new();
    let batcher = batcher(&engine, small());
    let gate = engine.gate.write();
    let admitted = batcher.submit(Class::Bulk, numbered(19)).unwrap();
    engine.wait_entered(1);
    let overloaded = EmbedError::Overloaded { class: Class::Bulk };
    assert_eq!(batcher.submit(Class::Bulk, numbered(2)).unwrap_err(), overloaded);
    assert_eq!(batcher.submit(Class::Bulk, vec!["x".repeat(1_999)]).unwrap_err(), overloaded);
    let last = batcher.submit(Class::Bulk, numbered(1)).unwrap();
    assert!(block_on(batcher.submit(Class::Interactive, owned(&["query"])).unwrap()).is_ok());
    drop(gate);
    assert!(block_on(admitted).is_ok() && block_on(last).is_ok());
    // All room is back.
    for _ in 0..3 {
        while let Err(error) = batcher.submit(Class::Bulk, numbered(20)).map(|pending| block_on(pending).unwrap()) {
            assert_eq!(error, overloaded);
            thread::yield_now();
        }
    }
}

#[test]
fn a_call_beyond_the_queue_is_told_so() {
    let engine = Engine::new();
    let batcher = batcher(&engine, small());
    let error = batcher.submit(Class::Bulk, numbered(21)).unwrap_err();
    assert!(matches!(error, EmbedError::CallTooLarge { class: Class::Bulk, texts: 21, .. }));
    let error = batcher.submit(Class::Interactive, vec!["x".repeat(2_001)]).unwrap_err();
    assert_eq!(error, EmbedError::CallTooLarge { class: Class::Interactive, texts: 1, bytes: 2_001 });
}

#[test]
fn a_panic_fails_its_own_caller_only_and_the_lane_goes_on() {
    let engine = Engine::new();
    let batcher = batcher(&engine, small());
    let gate = engine.gate.write();
    let first = batcher.submit(Class::Bulk, owned(&["first"])).unwrap();
    engine.wait_entered(1);
    let good = batcher.submit(Class::Bulk, owned(&["good"])).unwrap();
    let bad = batcher.submit(Class::Bulk, owned(&["panic"])).unwrap();
    let lost = batcher.submit(Class::Bulk, owned(&["lose one"])).unwrap();
    drop(gate);
    assert!(block_on(first).is_ok());
    assert_eq!(block_on(good).unwrap(), expect(&owned(&["good"])));
    assert_eq!(block_on(bad).unwrap_err(), EmbedError::EngineFailed { reason: "asked to panic".into() });
    assert_eq!(block_on(lost).unwrap_err(), EmbedError::EngineFailed { reason: "0 vectors for 1 texts".into() });
    assert!(block_on(batcher.submit(Class::Bulk, owned(&["after"])).unwrap()).is_ok());
}

#[test]
fn an_error_names_the_text_of_the_call() {
    let engine = Engine::new();
    let batcher = batcher(&engine, small());
    let mut texts = numbered(6);
    texts.push("long".to_owned());
    let error = block_on(batcher.submit(Class::Bulk, texts).unwrap()).unwrap_err();
    assert_eq!(error, EmbedError::TooLong { index: 6, tokens: 300, max: 256 });
}

#[test]
fn an_abandoned_call_is_not_computed_and_gives_its_room_back() {
    let engine = Engine::new();
    let batcher = batcher(&engine, small());
    let gate = engine.gate.write();
    let first = batcher.submit(Class::Bulk, owned(&["first"])).unwrap();
    engine.wait_entered(1);
    drop(batcher.submit(Class::Bulk, numbered(19)).unwrap());
    drop(gate);
    assert!(block_on(first).is_ok());
    while batcher.submit(Class::Bulk, numbered(20)).map(|pending| block_on(pending).unwrap()).is_err() {
        thread::yield_now();
    }
    let batches = engine.batches.lock();
    assert_eq!(batches.len(), 1 + 5, "{batches:?}");
}

#[test]
fn dropping_joins_the_threads_and_fails_what_waits() {
    let engine = Engine::new();
    let batcher = batcher(&engine, small());
    let gate = engine.gate.write();
    let working = batcher.submit(Class::Bulk, owned(&["working"])).unwrap();
    engine.wait_entered(1);
    let waiting = batcher.submit(Class::Bulk, owned(&["waiting"])).unwrap();
    let (dropped, is_dropped) = mpsc::channel();
    let dropper = thread::spawn(move || {
        drop(batcher);
        dropped.send(()).unwrap();
    });
    assert!(is_dropped.try_recv().is_err(), "the drop waits for the batch at work");
    drop(gate);
    dropper.join().unwrap();
    // What waited behind the batch may have been taken before the drop was noticed.
    assert!(block_on(working).is_ok());
    assert!(matches!(block_on(waiting), Ok(_) | Err(EmbedError::Closed)));
    assert_eq!(Arc::strong_count(&engine), 1, "the threads are gone");
}
