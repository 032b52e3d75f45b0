//! What sealing costs: `cargo bench -p mira-crypto`.

// The functions that criterion's macros write have no documentation.
#![allow(missing_docs)]

use std::hint::black_box;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use mira_crypto::{
    ClusterKey, ClusterLayerKey, CollectionKey, Context, MetaSealer, OwnerKey, PageSealer, Part, PassphraseCost, frame,
    page::{PAGE_LEN, PagePosition},
    private,
};
use rand::{RngCore, rngs::ThreadRng};

const CONTEXT: Context = Context { collection: 1, shard: 2, frame: 3, version: 4, part: Part::Body };
const VECTORS: Context = Context { part: Part::Vectors, ..CONTEXT };
const KIB: usize = 1_024;

/// English-like text, which lz4 shrinks to about a half.
fn text(len: usize) -> Vec<u8> {
    let words = ["memory", "of", "the", "agent", "that", "said", "and", "thought", "package", "library", "search"];
    let mut rng = rand::rng();
    let mut text = Vec::with_capacity(len + 16);
    while text.len() < len {
        text.extend_from_slice(words[rng.next_u32() as usize % words.len()].as_bytes());
        text.push(b' ');
    }
    text.truncate(len);
    text
}

fn frames(c: &mut Criterion) {
    let mut rng = rand::rng();
    let key = CollectionKey::generate(1, 1, &mut rng);
    for (name, context) in [("text", CONTEXT), ("vectors", VECTORS)] {
        let mut group = c.benchmark_group(format!("frame/{name}"));
        for len in [KIB, 64 * KIB] {
            let plain = text(len);
            let sealed = frame::seal(&key, &context, &plain, &mut rng);
            group.throughput(Throughput::Bytes(len as u64));
            group.bench_function(format!("seal/{}KiB", len / KIB), |b| {
                b.iter(|| frame::seal(&key, &context, black_box(&plain), &mut rng))
            });
            group.bench_function(format!("open/{}KiB", len / KIB), |b| {
                b.iter(|| frame::open(&key, &context, black_box(&sealed), len).expect("opens"))
            });
        }
    }
    // An empty piece: what deriving and expanding the frame's key costs.
    c.bench_function("frame/empty/seal", |b| b.iter(|| frame::seal(&key, &VECTORS, black_box(&[]), &mut rng)));
}

fn pages(c: &mut Criterion) {
    let mut rng = rand::rng();
    let sealer = PageSealer::new(&CollectionKey::generate(1, 1, &mut rng), 1);
    let position = PagePosition { number: 0, last: false };
    let page = text(PAGE_LEN);
    let sealed = sealer.seal(position, &page, &mut rng);
    let mut group = c.benchmark_group("page");
    group.throughput(Throughput::Bytes(PAGE_LEN as u64));
    group.bench_function("seal/64KiB", |b| b.iter(|| sealer.seal(position, black_box(&page), &mut rng)));
    group.bench_function("open/64KiB", |b| b.iter(|| sealer.open(position, black_box(&sealed)).expect("opens")));
}

fn keys(c: &mut Criterion) {
    let mut rng = rand::rng();
    let cluster = ClusterKey::generate(&mut rng);
    let key = CollectionKey::generate(1, 1, &mut rng);
    let wrapped = key.wrap(&cluster, &mut rng);
    c.bench_function("key/generate", |b| b.iter(|| CollectionKey::generate(1, 1, &mut rng)));
    c.bench_function("key/wrap", |b| b.iter(|| key.wrap(&cluster, &mut rng)));
    c.bench_function("key/unwrap", |b| b.iter(|| CollectionKey::unwrap(&wrapped, 1, 1, &cluster).expect("opens")));
    c.bench_function("tag/16B", |b| b.iter(|| key.tag("session", black_box(&[7; 16]))));
    let sealer = MetaSealer::new(&cluster);
    let record = text(256);
    c.bench_function("meta/seal/256B", |b| b.iter(|| sealer.seal_proposal(b"key", black_box(&record), &mut rng)));
}

fn private_frames(c: &mut Criterion) {
    let mut rng = rand::rng();
    let layers =
        (OwnerKey::generate(&mut rng), CollectionKey::generate(1, 1, &mut rng), ClusterLayerKey::generate(1, &mut rng));
    let plain = text(KIB);
    let seal = |rng: &mut ThreadRng| {
        let inner = private::seal_owner(&layers.0, &CONTEXT.owner(), black_box(&plain), rng);
        let middle = private::seal_collection(&layers.1, &CONTEXT, &inner, rng);
        private::seal_cluster(&layers.2, &CONTEXT, &middle, rng)
    };
    let sealed = seal(&mut rng);
    c.bench_function("private/seal three layers/1KiB", |b| b.iter(|| seal(&mut rng)));
    c.bench_function("private/open three layers/1KiB", |b| {
        b.iter(|| {
            let middle = private::open_cluster(&layers.2, &CONTEXT, black_box(&sealed), KIB * 2).expect("opens");
            let inner = private::open_collection(&layers.1, &CONTEXT, &middle, KIB * 2).expect("opens");
            private::open_owner(&layers.0, &CONTEXT.owner(), &inner, KIB).expect("opens")
        })
    });
    let vectors = private::seal_owner(&layers.0, &VECTORS.owner(), &text(384 * 4), &mut rng);
    c.bench_function("private/open owner layer/384 floats", |b| {
        b.iter(|| private::open_owner(&layers.0, &VECTORS.owner(), black_box(&vectors), 2 * KIB).expect("opens"))
    });
}

fn passphrase(c: &mut Criterion) {
    let mut rng = rand::rng();
    let owner = OwnerKey::generate(&mut rng);
    let record = owner.protect("correct horse", PassphraseCost::RECOMMENDED, &mut rng).expect("protects");
    let mut group = c.benchmark_group("passphrase");
    group.sample_size(10);
    group.bench_function("open recommended", |b| {
        b.iter_batched(|| record.clone(), |r| OwnerKey::from_passphrase("correct horse", &r), BatchSize::PerIteration)
    });
}

criterion_group!(benches, frames, pages, keys, private_frames, passphrase);
criterion_main!(benches);
