use std::fs;
use std::ops::ControlFlow;
use std::time::Duration;

use super::*;

fn keys(read: &dyn Read, from: Bound<&[u8]>, to: Bound<&[u8]>, reverse: bool) -> Vec<Vec<u8>> {
    let mut keys = Vec::new();
    read.scan(from, to, reverse, &mut |key, _| {
        keys.push(key.to_vec());
        ControlFlow::Continue(())
    })
    .unwrap();
    keys
}

#[test]
fn a_database_that_does_not_open_is_damaged() {
    let times = OpenTimes { warning: Duration::from_millis(1), limit: Duration::from_millis(20) };
    let (release, held) = std::sync::mpsc::channel::<()>();
    let stuck = move || held.recv().map_err(|_| EngineError::Io("released".into()));
    let failed = open_within(Path::new("here"), &times, stuck);
    assert!(matches!(failed, Err(EngineError::Damaged(_))), "{failed:?}");
    drop(release);
    let panics = || -> Result<(), EngineError> { panic!("as told") };
    let panicked = open_within(Path::new("here"), &OpenTimes::default(), panics);
    assert!(matches!(panicked, Err(EngineError::Io(_))), "{panicked:?}");
}

#[test]
fn a_database_is_closed_when_its_last_view_is_gone() {
    let folder = tempfile::tempdir().unwrap();
    let rocks = RocksEngine::open(folder.path(), EngineOptions::new(EngineRole::State)).unwrap();
    let (view, closing) = (rocks.view(), rocks.closing());
    drop(rocks);
    assert!(!closing.is_done());
    drop(view);
    assert!(closing.is_done());
    RocksEngine::open(folder.path(), EngineOptions::new(EngineRole::State)).unwrap();
}

#[test]
fn a_database_that_is_opened_again_has_all_that_it_had() {
    let folder = tempfile::tempdir().unwrap();
    let rocks = RocksEngine::open(folder.path(), EngineOptions::new(EngineRole::State)).unwrap();
    let mut batch = Batch::default();
    batch.put(b"a", "1");
    rocks.write(&batch, Durability::Buffered).unwrap();
    let view = rocks.view();
    let refused = rocks.reopen().unwrap_err();
    assert!(matches!(refused, EngineError::NoFile(_)) && refused.is_passing(), "it is still read: {refused}");
    assert_eq!(rocks.get(b"a").unwrap().unwrap(), "1", "and serves on");
    drop(view);
    rocks.reopen().unwrap();
    assert_eq!(rocks.get(b"a").unwrap().unwrap(), "1");
    rocks.write(&batch, Durability::Synced).unwrap();
    let closing = rocks.closing();
    drop(rocks);
    assert!(closing.is_done());
}

/// The files of a folder that hold what is looked for.
fn files_with(folder: &Path, sought: &[u8]) -> Vec<PathBuf> {
    let paths = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let holds = |path: &PathBuf| fs::read(path).unwrap().windows(sought.len()).any(|window| window == sought);
    paths.filter(holds).collect()
}

#[test]
fn what_was_deleted_is_in_no_file_after_a_compaction_whoever_reads_meanwhile() {
    for role in [EngineRole::Log, EngineRole::State] {
        let folder = tempfile::tempdir().unwrap();
        let options = EngineOptions { memtable_bytes: 1 << 20, ..EngineOptions::new(role) };
        let rocks = RocksEngine::open(folder.path(), options).unwrap();
        let write = |change: &dyn Fn(&mut Batch)| {
            let mut batch = Batch::default();
            change(&mut batch);
            rocks.write(&batch, Durability::Synced).unwrap();
        };
        // Late in a long write-ahead log, so that the next one does not just happen to write over it.
        for number in 0..10u32 {
            write(&|batch| batch.put(number.to_be_bytes(), vec![7; 50_000]));
        }
        write(&|batch| batch.put(b"a", "a secret that is to go"));
        rocks.compact(&[], &[]).unwrap();
        assert!(!files_with(folder.path(), b"a secret").is_empty());
        let before = rocks.view();
        write(&|batch| batch.delete(b"a"));
        let _after = rocks.view();

        let kept = rocks.compact(&[], &[]).unwrap_err();
        assert!(matches!(kept, EngineError::Io(_)), "it is still read: {kept}");
        assert!(before.get(b"a").unwrap().is_some());
        let reader = thread::spawn(move || {
            thread::sleep(Duration::from_millis(100));
            drop(before);
        });
        rocks.compact(&[], &[]).unwrap();
        reader.join().unwrap();
        // RocksDB removes files behind the back of those who wait for a flush.
        let until = Instant::now() + Duration::from_secs(10);
        while !files_with(folder.path(), b"a secret").is_empty() {
            assert!(Instant::now() < until, "{role:?}: {:?}", files_with(folder.path(), b"a secret"));
            thread::sleep(Duration::from_millis(20));
        }
        assert_eq!(rocks.get(&3u32.to_be_bytes()).unwrap().unwrap(), vec![7; 50_000]);
    }
}

#[test]
fn want_of_files_is_told_from_other_failures() {
    for text in [
        "IO error: While open a file for appending: /x/000012.log: Too many open files",
        "Too many open files in system",
    ] {
        assert!(matches!(io_error(std::io::Error::other(text)), EngineError::NoFile(_)), "{text}");
    }
    assert!(matches!(io_error(std::io::Error::from_raw_os_error(24)), EngineError::NoFile(_)));
    assert!(matches!(io_error(std::io::Error::other("Input/output error")), EngineError::Io(_)));
}

/// Flips a bit in every place where the file says `text`.
fn damage(folder: &Path, text: &[u8]) {
    let mut hits = 0;
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "sst") {
            let mut bytes = fs::read(&path).unwrap();
            while let Some(at) = bytes.windows(text.len()).position(|window| window == text) {
                bytes[at] ^= 1;
                hits += 1;
            }
            fs::write(&path, bytes).unwrap();
        }
    }
    assert!(hits > 0, "nothing was damaged");
}

#[test]
fn what_is_readable_of_a_damaged_database_is_saved() {
    let folder = tempfile::tempdir().unwrap();
    let options = EngineOptions::new(EngineRole::State);
    let range = |group: u8| KeyRange { from: vec![group], to: vec![group + 1] };
    let key = |group: u8, number: u32| [&[group][..], &number.to_be_bytes()].concat();
    // Incompressible and short: a group has many blocks in one file.
    let value = |group: u8, number: u32| {
        let mut bytes = [0; 200];
        blake3::Hasher::new().update(&key(group, number)).finalize_xof().fill(&mut bytes);
        bytes
    };
    let rocks = RocksEngine::open(folder.path(), options).unwrap();
    let mut batch = Batch::default();
    for (group, number) in (0..3).flat_map(|group| (0..200).map(move |number| (group, number))) {
        batch.put(key(group, number), value(group, number).to_vec());
    }
    rocks.write(&batch, Durability::Synced).unwrap();
    rocks.compact(&[], &[]).unwrap();
    drop(rocks);
    damage(folder.path(), &value(1, 150)[..8]);

    let rocks = RocksEngine::open(folder.path(), options).unwrap();
    assert!(matches!(rocks.get(&key(1, 150)), Err(EngineError::Damaged(_))));
    // Compaction meets the block, and from then on nothing is written.
    let mut later = Batch::default();
    (0..3).for_each(|group| later.put(key(group, 500), vec![group; 10]));
    rocks.write(&later, Durability::Synced).unwrap();
    rocks.compact(&[], &[]).unwrap();
    let refused = rocks.write(&later, Durability::Buffered);
    assert!(matches!(refused, Err(EngineError::Damaged(_))) && rocks.is_out_of_service(), "{refused:?}");

    let view = rocks.view();
    assert_eq!(rocks.rebuild(&[range(0), range(1), range(2)]).unwrap(), [1]);
    assert!(!rocks.is_out_of_service());
    assert_eq!(keys(&rocks, Bound::Unbounded, Bound::Unbounded, false).len(), 2 * 201);
    rocks.write(&later, Durability::Synced).unwrap();
    assert!(view.get(&key(2, 7)).unwrap().is_some(), "views of the old database live on");
    drop(view);
    rocks.compact(&[], &[]).unwrap();
    drop(rocks);

    // Half of another, from a crash while it was made.
    fs::create_dir(folder.path().join("rebuilt-2")).unwrap();
    let rocks = RocksEngine::open(folder.path(), options).unwrap();
    for (group, number) in [0, 2].into_iter().flat_map(|group| (0..200).map(move |number| (group, number))) {
        assert_eq!(rocks.get(&key(group, number)).unwrap().as_deref(), Some(&value(group, number)[..]));
    }
    assert_eq!(rocks.get(&key(1, 3)).unwrap(), None);
    assert_eq!(rocks.get(&key(1, 500)).unwrap().as_deref(), Some(&[1; 10][..]), "written after");
    let left: Vec<_> = fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["rebuilt-1"], "the old files are gone");
}

#[test]
fn scans_like_the_engine_in_memory() {
    let folder = tempfile::tempdir().unwrap();
    let rocks = RocksEngine::open(folder.path(), EngineOptions::new(EngineRole::State)).unwrap();
    let memory = crate::engine::MemEngine::new();
    let mut batch = Batch::default();
    for key in [&b"a"[..], b"b", b"ba", b"c", b"\xff"] {
        batch.put(key, vec![7; 5000]);
    }
    batch.delete(b"c".to_vec());
    batch.put(b"d".to_vec(), vec![1]);
    batch.delete_range(b"ba".to_vec(), b"bb".to_vec());
    rocks.write(&batch, Durability::Synced).unwrap();
    memory.write(&batch, Durability::Synced).unwrap();
    let view = rocks.view();
    let mut later = Batch::default();
    later.delete_range(Vec::new(), vec![0xff; 4]);
    rocks.write(&later, Durability::Buffered).unwrap();

    let bounds = [Bound::Unbounded, Bound::Included(&b"b"[..]), Bound::Excluded(b"b"), Bound::Included(b"d")];
    for (from, to) in bounds.iter().flat_map(|from| bounds.iter().map(move |to| (*from, *to))) {
        for reverse in [false, true] {
            assert_eq!(keys(view.as_ref(), from, to, reverse), keys(&memory, from, to, reverse), "{from:?} {to:?}");
        }
    }
    assert!(keys(&rocks, Bound::Unbounded, Bound::Unbounded, false).is_empty(), "a view holds what is gone");
    assert_eq!(view.get(b"a").unwrap().map(|value| value.len()), Some(5000));
    drop(rocks);
    assert_eq!(view.multi_get(&[b"d".to_vec(), b"c".to_vec()]).unwrap(), [Some(Bytes::from_static(&[1])), None]);
}

/// On a file system of a few dozen megabytes, for instance `mount -t tmpfs -o size=32m tmpfs DIR`.
#[test]
#[ignore = "needs a small file system: MIRA_SMALL_DISK=DIR"]
fn a_full_disk_is_named_and_left_behind() {
    let disk = std::path::PathBuf::from(std::env::var_os("MIRA_SMALL_DISK").expect("MIRA_SMALL_DISK"));
    for role in [EngineRole::Log, EngineRole::State] {
        let folder = tempfile::tempdir_in(&disk).unwrap();
        let filler = folder.path().join("filler");
        std::fs::write(&filler, vec![1; 12 << 20]).unwrap();
        let options = EngineOptions { memtable_bytes: 1 << 20, ..EngineOptions::new(role) };
        let engine = RocksEngine::open(&folder.path().join("db"), options).unwrap();
        let value = |n: u64| {
            // Incompressible, so that the disk fills.
            let mut bytes = vec![0; 32 << 10];
            blake3::Hasher::new().update(&n.to_le_bytes()).finalize_xof().fill(&mut bytes);
            bytes
        };
        let write = |n: u64| {
            let mut batch = Batch::default();
            batch.put(n.to_be_bytes(), value(n));
            engine.write(&batch, Durability::Synced)
        };
        let mut n = 0;
        let refused = loop {
            match write(n) {
                Ok(()) => n += 1,
                Err(error) => break error,
            }
            assert!(n < 10_000, "the disk is not small");
        };
        assert!(matches!(refused, EngineError::DiskFull(_)), "{role:?}: {refused}");
        assert_eq!(engine.get(&0u64.to_be_bytes()).unwrap().as_deref(), Some(&value(0)[..]), "reads go on");
        std::fs::remove_file(&filler).unwrap();
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
        while let Err(error) = write(n) {
            assert!(std::time::Instant::now() < deadline, "{role:?}: {error}");
            std::thread::sleep(std::time::Duration::from_millis(100));
        }
        for key in 0..=n {
            assert_eq!(engine.get(&key.to_be_bytes()).unwrap().as_deref(), Some(&value(key)[..]), "{role:?}");
        }
    }
}
