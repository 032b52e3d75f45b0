//! Index images: a restart goes on from the last whole one and the frames changed since, whatever happened to it.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use mira_index::{Metric, exact_top_k};
use mira_node::RunningNode;
use mira_proto::node_v1;
use mira_testing::eventually;

use crate::common::{Shard, frame, number, start};

const FRAMES: u128 = 3_000;
/// Names the folder of the node that a child process of the crash test runs.
const CHILD: &str = "MIRA_TEST_IMAGE_CHILD";

/// What a frame's vector is in a round.
fn vector(id: u128, round: u64) -> [f32; 4] {
    let part = |salt: u128| ((id * 7_919 + u128::from(round) * 104_729 + salt * 31) % 1_009) as f32 / 500.0 - 1.0;
    [part(1), part(2), part(3), 1.1]
}

fn write(id: u128, round: u64) -> node_v1::FrameWrite {
    node_v1::FrameWrite { replace: true, ..frame(id, &round.to_string(), vector(id, round)) }
}

type Model = BTreeMap<u128, [f32; 4]>;

async fn store(shard: &Shard, ids: impl Iterator<Item = u128>, round: u64, model: &mut Model) {
    let ids: Vec<_> = ids.collect();
    for chunk in ids.chunks(100) {
        let reply = shard.write(chunk.iter().map(|&id| write(id, round)).collect()).await.expect("an answer");
        assert!(reply.outcomes.iter().all(|outcome| outcome.problem.is_none()));
        model.extend(chunk.iter().map(|&id| (id, vector(id, round))));
    }
}

async fn forget(shard: &Shard, ids: impl Iterator<Item = u128>, model: &mut Model) {
    let ids: Vec<_> = ids.collect();
    let request = node_v1::ForgetRequest {
        ids: ids.iter().map(|id| id.to_be_bytes().to_vec().into()).collect(),
        ..Default::default()
    };
    assert_eq!(shard.forget(request).await.len(), ids.len());
    model.retain(|id, _| !ids.contains(id));
}

/// Exact answers equal the model's; those of the graph hold nearly all of them.
async fn check(shard: &Shard, model: &Model) {
    check_recall(shard, model, 95).await;
}

async fn check_recall(shard: &Shard, model: &Model, percent: usize) {
    let (mut found, mut wanted) = (0, 0);
    for query in (0..20).map(|number| vector(number * 1_313 + 5, 77)) {
        let documents = model.iter().map(|(id, vector)| (*id, vector.as_slice()));
        let expected = exact_top_k(Metric::Cosine, 4, &query, documents, 20).unwrap();
        let exact = shard.search_as(query, 20, true).await.unwrap();
        assert_eq!(exact.len(), expected.len());
        for (hit, expected) in exact.iter().zip(&expected) {
            assert!((hit.1 - expected.score).abs() < 2e-3, "{exact:?} {expected:?}");
        }
        let worst = expected.last().map_or(0.0, |hit| hit.score) - 2e-3;
        let walked = shard.search_as(query, 20, false).await.unwrap();
        wanted += expected.len();
        found += walked.iter().filter(|hit| hit.1 >= worst).count();
    }
    assert!(found * 100 >= wanted * percent, "{found} of {wanted}");
}

fn from_images(node: &RunningNode) -> u64 {
    node.node().shards().iter().map(|(_, shard)| shard.index().stats().from_images).sum()
}

/// Files of images, whole or not.
fn files(folder: &Path) -> Vec<PathBuf> {
    let shards = fs::read_dir(folder.join("index")).into_iter().flatten().flatten();
    let mut files: Vec<PathBuf> =
        shards.flat_map(|shard| fs::read_dir(shard.path()).unwrap().map(|file| file.unwrap().path())).collect();
    files.sort();
    files
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_goes_on_from_the_image_and_what_changed_since() {
    // Four bits tell few vectors apart: over binary codes only the exact answers say anything.
    use node_v1::Quantization::{Binary, Int8, None};
    for (quantization, percent) in [(Int8, 95), (Binary, 0), (None, 95)] {
        let folder = tempfile::tempdir().unwrap();
        let (node, client) = start(folder.path()).await;
        let shard = Shard::quantised(client, "c", quantization).await;
        let mut model = Model::new();
        store(&shard, 0..FRAMES, 0, &mut model).await;
        assert_eq!(from_images(&node), 0);
        node.shutdown().await;
        let image = files(folder.path());
        assert_eq!(image.len(), 1, "{image:?}");
        let bytes = fs::read(&image[0]).unwrap();

        let (node, client) = start(folder.path()).await;
        let shard = Shard::quantised(client, "c", quantization).await;
        assert_eq!(from_images(&node), FRAMES as u64);
        check_recall(&shard, &model, percent).await;
        store(&shard, (0..FRAMES).step_by(30), 1, &mut model).await;
        forget(&shard, (1..FRAMES).step_by(30), &mut model).await;
        // Forgotten and stored again, a frame has its old version and another vector.
        forget(&shard, (2..FRAMES).step_by(30), &mut model).await;
        store(&shard, (2..FRAMES).step_by(30), 2, &mut model).await;
        store(&shard, FRAMES..FRAMES + 50, 0, &mut model).await;
        // Without vectors it cannot be found any more.
        let bare = node_v1::FrameWrite { passages: vec![], ..write(9, 3) };
        shard.write(vec![bare]).await.unwrap();
        model.remove(&9);
        check_recall(&shard, &model, percent).await;
        node.shutdown().await;
        assert_eq!(fs::read(&image[0]).unwrap(), bytes, "few changes are no reason for another image");

        let (node, client) = start(folder.path()).await;
        let shard = Shard::quantised(client, "c", quantization).await;
        assert_eq!(from_images(&node), FRAMES as u64 - 301);
        check_recall(&shard, &model, percent).await;
        // The index goes on from there.
        store(&shard, FRAMES..FRAMES + 1_500, 4, &mut model).await;
        check_recall(&shard, &model, percent).await;
        node.shutdown().await;
        assert_ne!(fs::read(&image[0]).unwrap(), bytes);
        let (node, client) = start(folder.path()).await;
        assert_eq!(from_images(&node), model.len() as u64);
        check_recall(&Shard::quantised(client, "c", quantization).await, &model, percent).await;
        node.shutdown().await;
    }
}

fn copy_all(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().map(|entry| entry.unwrap()) {
        let to = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_all(&entry.path(), &to);
        } else {
            fs::copy(entry.path(), to).unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_image_is_thrown_away_and_the_index_built_from_frames() {
    let folder = tempfile::tempdir().unwrap();
    let (node, client) = start(folder.path()).await;
    let shard = Shard::new(client.clone(), "c").await;
    let other = Shard::new(client, "other").await;
    let mut model = Model::new();
    store(&shard, 0..FRAMES, 0, &mut model).await;
    store(&other, 0..FRAMES, 9, &mut Model::new()).await;
    node.shutdown().await;
    let name = |collection: u64| format!("{collection:016x}-0.image");
    let path = |folder: &Path, collection: u64| folder.join("index").join("shard-0").join(name(collection));
    let whole = fs::read(path(folder.path(), shard.collection)).unwrap();
    let foreign = fs::read(path(folder.path(), other.collection)).unwrap();
    let before = tempfile::tempdir().unwrap();
    copy_all(folder.path(), before.path());

    // An image of a later state.
    let (node, client) = start(folder.path()).await;
    let shard = Shard::new(client, "c").await;
    store(&shard, FRAMES..FRAMES + 1_500, 1, &mut Model::new()).await;
    node.shutdown().await;
    let later = fs::read(path(folder.path(), shard.collection)).unwrap();
    assert_ne!(later, whole);

    let changed = |place: usize, to: u8| {
        let mut bytes = whole.clone();
        bytes[place] = to;
        bytes
    };
    let bad = [
        ("empty", vec![]),
        ("not an image", b"something else, and quite long enough for a header".to_vec()),
        ("of a future version", changed(8, 99)),
        ("of an unknown key", changed(12, 99)),
        ("of another file id", changed(20, whole[20] ^ 1)),
        ("damaged", changed(whole.len() / 2, whole[whole.len() / 2] ^ 1)),
        ("cut within a page", whole[..whole.len() - 3].to_vec()),
        ("cut at a page", whole[..32 + mira_crypto::page::SEALED_PAGE_LEN].to_vec()),
        ("too long", [&whole[..], &[0; 100]].concat()),
        ("of another collection", foreign),
        ("of a later state", later),
    ];
    for (what, bytes) in bad {
        let folder = tempfile::tempdir().unwrap();
        copy_all(before.path(), folder.path());
        fs::write(path(folder.path(), shard.collection), &bytes).unwrap();
        let half_written = folder.path().join("index/shard-0/0000000000000001.image-new");
        fs::write(&half_written, &whole[..1_000]).unwrap();
        let (node, client) = start(folder.path()).await;
        assert_eq!(from_images(&node), FRAMES as u64, "{what}: the other collection's is whole");
        assert!(!half_written.exists());
        let now = fs::read(path(folder.path(), shard.collection)).ok();
        assert_ne!(now, Some(bytes), "{what}: it is gone, or there is a new one");
        check(&Shard::new(client, "c").await, &model).await;
        node.shutdown().await;
        if what != "damaged" {
            continue;
        }
        // The next start has a whole one again.
        let (node, client) = start(folder.path()).await;
        assert_eq!(from_images(&node), 2 * FRAMES as u64, "{what}");
        check(&Shard::new(client, "c").await, &model).await;
        node.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn dropping_a_collection_deletes_its_image_and_its_rows() {
    let folder = tempfile::tempdir().unwrap();
    let (node, client) = start(folder.path()).await;
    store(&Shard::new(client, "c").await, 0..FRAMES, 0, &mut Model::new()).await;
    node.shutdown().await;
    assert_eq!(files(folder.path()).len(), 1);
    let (node, client) = start(folder.path()).await;
    let shard = Shard::new(client, "c").await;
    shard.search(vector(1, 1), 5).await.unwrap();
    assert!(node.node().row_cache().bytes() > 0);
    shard
        .client
        .cluster()
        .drop_collection(node_v1::DropCollectionRequest { name: "c".into(), ..Default::default() })
        .await
        .unwrap();
    eventually("image and rows go with the collection", Duration::from_secs(10), async || {
        files(folder.path()).is_empty() && node.node().row_cache().bytes() == 0
    })
    .await;
    node.shutdown().await;
    assert_eq!(files(folder.path()), [] as [PathBuf; 0]);
}

/// Not a test of its own: the node that [`images_survive_kill_9`] kills. It changes frames and writes images for ever.
#[tokio::test(flavor = "multi_thread")]
async fn child_of_the_crash_test() {
    let Ok(folder) = std::env::var(CHILD) else { return };
    let (node, client) = start(Path::new(&folder)).await;
    let shard = Shard::new(client, "c").await;
    let mut model = Model::new();
    let first = u64::from(std::process::id());
    for round in first.. {
        // Half of the frames stay as the first image has them: however far a later round comes, that image serves.
        let changed = if round == first { FRAMES } else { FRAMES / 2 };
        store(&shard, 0..changed, round, &mut model).await;
        let shards = node.node().shards();
        tokio::task::spawn_blocking(move || shards.iter().for_each(|(_, shard)| shard.index().save_images()))
            .await
            .unwrap();
        println!("round over");
    }
}

/// A node is killed again and again while it changes frames and writes images. Each time it starts from a whole image
/// and answers as an exact scan of its frames does.
#[tokio::test(flavor = "multi_thread")]
async fn images_survive_kill_9() {
    use std::io::BufRead;
    let folder = tempfile::tempdir().unwrap();
    for kill in 0..5u64 {
        let mut child = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "images::child_of_the_crash_test", "--nocapture"])
            .env(CHILD, folder.path())
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = std::io::BufReader::new(child.stdout.take().unwrap()).lines();
        let over = lines.by_ref().map_while(Result::ok).find(|line| line.contains("round over"));
        assert!(over.is_some(), "the child ended");
        // Any moment of the next rounds will do: storing, writing, renaming.
        std::thread::sleep(Duration::from_millis(kill * 37));
        child.kill().unwrap();
        child.wait().unwrap();

        let (node, client) = start(folder.path()).await;
        assert!(from_images(&node) > 0, "kill {kill}: no image was used");
        let shard = Shard::new(client, "c").await;
        let mut model = Model::new();
        let ids: Vec<u128> = (0..FRAMES).collect();
        for chunk in ids.chunks(500) {
            for frame in shard.fetch(chunk).await {
                let round: u64 = std::str::from_utf8(&frame.content).unwrap().parse().unwrap();
                let id = number(&frame.id);
                model.insert(id, vector(id, round));
            }
        }
        assert_eq!(model.len() as u128, FRAMES);
        check(&shard, &model).await;
        node.shutdown().await;
    }
}

/// Run by hand: `MIRA_TEST_VECTORS=1000000 cargo nextest run -p mira-node --run-ignored only restart_of_a_large --no-capture`
/// prints how long a restart takes with an image and without, and what a search costs with rows on disk.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement"]
async fn restart_of_a_large_collection() {
    use std::time::Instant;

    use rand::{Rng, SeedableRng, rngs::StdRng};

    const WIDE: usize = 384;
    let count: u128 = std::env::var("MIRA_TEST_VECTORS").map_or(100_000, |text| text.parse().expect("a number"));
    let mut random = StdRng::seed_from_u64(1);
    let mut wide = |centre: &[f32]| -> Vec<f32> {
        (0..WIDE).map(|at| centre.get(at).copied().unwrap_or(0.0) + random.random_range(-1.0..1.0)).collect()
    };
    let centres: Vec<Vec<f32>> = (0..500).map(|_| wide(&[])).collect();
    let folder = tempfile::tempdir().unwrap();
    let (node, client) = start(folder.path()).await;
    let request = node_v1::CreateCollectionRequest {
        name: "large".into(),
        dim: WIDE as u32,
        metric: node_v1::Metric::Cosine.into(),
        quantization: node_v1::Quantization::Int8.into(),
        partitions: 1,
        ..Default::default()
    };
    let collection = client.cluster().create_collection(request).await.unwrap().into_inner();
    let epoch = client.cluster().get_map(node_v1::GetMapRequest::default()).await.unwrap().into_inner().epoch;
    let shard = Shard { client, collection: collection.id, shard: 0, epoch };
    let began = Instant::now();
    for first in (0..count).step_by(100) {
        let frames = (first..(first + 100).min(count)).map(|id| node_v1::FrameWrite {
            passages: vec![node_v1::Passage { start: 0, end: 0, vector: wide(&centres[id as usize % 500]) }],
            ..frame(id, "text of a frame, as long as texts of frames are, or a little shorter", [0.0; 4])
        });
        shard.write(frames.collect()).await.unwrap();
    }
    eventually("the index has followed", Duration::from_secs(3_600), async || {
        node.node().shards().iter().all(|(_, shard)| shard.index().stats().lag == 0)
    })
    .await;
    println!("{count} frames stored and indexed in {:.1} s", began.elapsed().as_secs_f64());
    let began = Instant::now();
    node.shutdown().await;
    let bytes: u64 = files(folder.path()).iter().map(|file| fs::metadata(file).unwrap().len()).sum();
    println!("stopped in {:.1} s, image of {bytes} bytes", began.elapsed().as_secs_f64());
    for what in ["with an image", "without"] {
        let began = Instant::now();
        let (node, client) = start(folder.path()).await;
        println!("{what}: ready in {:.1} s, {} from the image", began.elapsed().as_secs_f64(), from_images(&node));
        for round in ["first", "again"] {
            let queries: Vec<_> = (0..200).map(|at| (at, wide(&centres[at % 500]))).collect();
            let mut took: Vec<Duration> = Vec::new();
            for (_, vector) in queries {
                let request = node_v1::SearchRequest {
                    header: Some(node_v1::ReadHeader { epoch, collection: collection.id, ..Default::default() }),
                    vector,
                    k: 10,
                    ..Default::default()
                };
                let began = Instant::now();
                client.clone().shards().search(request).await.unwrap();
                took.push(began.elapsed());
            }
            took.sort_unstable();
            println!("  search {round}: p50 {:?}, p99 {:?}", took[took.len() / 2], took[took.len() * 99 / 100]);
        }
        let stats: Vec<_> = node.node().shards().iter().map(|(_, shard)| shard.index().stats()).collect();
        println!("  {stats:?}, cached rows {} bytes", node.node().row_cache().bytes());
        node.shutdown().await;
        files(folder.path()).iter().for_each(|file| fs::remove_file(file).unwrap());
    }
}
