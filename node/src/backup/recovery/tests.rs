//! Recovered forward is what it was: random commands in a real group, against what its own state showed at that moment.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use mira_crypto::os_rng;
use mira_proto::{Extensions, FrameId, Position, vectors::OWN_SPACE};
use mira_raft::{
    Clock, Group, HostConfig, Limits, RaftHost, RequestId, engine::MemEngine, transport::local::LocalNetwork,
};
use proptest::{collection::vec, option, prelude::*};

use super::*;
use crate::shard::{
    command::{Asker, Condition, MigratedFrame, OwnershipStep, SealedAnew, StoreFrame, UndeletedFrame},
    history::{self, HistoryBounds},
    log_archive::beside,
    migration::{ownership::Span, transfer::ended_version},
    pages::Standing,
    record::{Class, FrameFields, FrameHead, FrameRecord, Table},
};

const COLLECTIONS: [CollectionId; 2] = [1, 2];
const GROUP: u32 = 5;
const BACKUP: &[u8] = &[7; 16];
/// Small enough that requests are forgotten while a test runs.
const WINDOW: RequestWindow = RequestWindow { count: 8, millis: 40, kept: 3, response_bytes: 100 };

#[derive(Debug, Clone)]
enum Said {
    Store {
        condition: Condition,
        owner: Option<u8>,
        session: Option<u8>,
        lives_ms: Option<u64>,
        class: Class,
        chunks: Vec<FrameId>,
        content: u8,
        key_version: u32,
    },
    Forget(Asker, bool),
    /// Of the bin: whether it was found, and how many versions stay.
    Undelete(Asker, bool, u32),
    /// So many versions stay, and what ended or was forgotten so long ago goes.
    CutHistory(u32, [u64; 2]),
    Expire,
    Renew,
    /// By its last change, or by an earlier one.
    Collect(u64),
    Verify,
    /// The command of so many steps ago, under its name.
    Again(usize),
}

#[derive(Debug, Clone)]
struct Turn {
    collection: CollectionId,
    frame: FrameId,
    said: Said,
    /// How far the clock goes, or falls back.
    ticks: i64,
}

fn said() -> impl Strategy<Value = Said> {
    let condition = prop_oneof![
        1 => Just(Condition::Create),
        4 => Just(Condition::Replace),
        1 => (0..3u64).prop_map(Condition::Expect),
    ];
    let class = prop_oneof![3 => Just(Class::Memory), 1 => Just(Class::Chunk), 1 => Just(Class::Upload)];
    let whose = (option::weighted(0.3, 1..3u8), option::of(1..3u8), option::weighted(0.3, 1..30u64), class);
    let what = (vec(0..4u128, 0..3), 0..4u8, 1..3u32);
    let store = (condition, whose, what).prop_map(|(condition, whose, (chunks, content, key_version))| {
        let (owner, session, lives_ms, class) = whose;
        Said::Store { condition, owner, session, lives_ms, class, chunks, content, key_version }
    });
    let asker = prop::sample::select(vec![Asker::Anyone, Asker::Owner([1; 16]), Asker::Operator]);
    prop_oneof![
        8 => store,
        3 => (asker.clone(), prop::bool::weighted(0.7)).prop_map(|(asker, into_bin)| Said::Forget(asker, into_bin)),
        2 => (asker, prop::bool::weighted(0.8), 0..3u32).prop_map(|(asker, found, keep)| Said::Undelete(asker, found, keep)),
        1 => (0..3u32, any::<[u8; 2]>()).prop_map(|(last, ago)| Said::CutHistory(last, ago.map(u64::from))),
        1 => Just(Said::Expire),
        1 => Just(Said::Renew),
        2 => (0..2u64).prop_map(Said::Collect),
        1 => Just(Said::Verify),
        2 => (1..12usize).prop_map(Said::Again),
    ]
}

fn turn() -> impl Strategy<Value = Turn> {
    let place = (prop::sample::select(COLLECTIONS.to_vec()), 0..4u128);
    (place, said(), -3..12i64).prop_map(|((collection, frame), said, ticks)| Turn { collection, frame, said, ticks })
}

struct TestClock(AtomicU64);

impl Clock for TestClock {
    fn now_ms(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A group of one, its clock, and what was proposed.
struct Live {
    _host: Arc<RaftHost>,
    group: Group,
    clock: Arc<TestClock>,
    proposed: Vec<(RequestId, Bytes)>,
}

impl Live {
    async fn start() -> Self {
        let clock = Arc::new(TestClock(AtomicU64::new(10_000)));
        let network: LocalNetwork = LocalNetwork::default();
        let transport = network.transport(1);
        let mut config = HostConfig::new(1, Arc::new(MemEngine::new()), Arc::new(MemEngine::new()), transport);
        config.clock = clock.clone();
        config.limits = Limits { requests: WINDOW, ..Limits::default() };
        let host = RaftHost::open(config).await.expect("a host");
        let machine = Arc::new(ShardMachine::new(Arc::new(Nobody), Arc::default()));
        let group = host.open_group(GROUP, machine).await.expect("a group");
        group.initialize([1].into()).await.expect("initialized");
        let mut watch = group.watch();
        watch.wait_for(Duration::from_secs(60), |status| status.is_leader()).await.expect("it leads");
        Live { _host: host, group, clock, proposed: Vec::new() }
    }

    async fn take(&mut self, turn: &Turn) {
        let now = self.clock.now_ms().saturating_add_signed(turn.ticks);
        self.clock.0.store(now, Ordering::Relaxed);
        let proposal = match turn.said {
            Said::Again(ago) => match self.proposed.len().checked_sub(ago) {
                Some(at) => self.proposed[at].clone(),
                None => return,
            },
            _ => (RequestId(self.proposed.len() as u128), self.command(turn, now).encode()),
        };
        let (request, payload) = proposal.clone();
        // Refused or repeated, it is in the log all the same.
        let _ = self.group.propose_content(request, &payload, payload.clone()).await;
        self.proposed.push(proposal);
    }

    fn command(&self, turn: &Turn, now_ms: u64) -> ShardCommand {
        let Turn { collection, frame, .. } = *turn;
        let head = self.group.reader().get(&record::head_key(collection, frame)).expect("readable");
        let changed = head.map_or(0, |head| FrameHead::decode(&head).expect("a head").changed);
        match turn.said.clone() {
            Said::Store { condition, owner, session, lives_ms, class, chunks, content, key_version } => {
                let keep_versions = u32::from(content);
                let stored = self.group.reader().get(&record::frame_key(collection, frame)).expect("readable");
                let ended = ended_version(&self.group.reader(), collection).expect("readable");
                let version =
                    stored.map_or(ended, |stored| FrameRecord::decode(&stored).expect("a record").fields.version);
                let fields = FrameFields {
                    version: version + 1,
                    position: Position::new(now_ms * 1_000, 0).packed(),
                    created_ms: now_ms,
                    updated_ms: now_ms,
                    expires_ms: lives_ms.map_or(0, |lives_ms| now_ms + lives_ms),
                    owner: owner.map(|owner| [owner; 16]),
                    session: session.map(|session| [session; 16]),
                    digest: [content; 32],
                    spaces: [OWN_SPACE].into_iter().collect(),
                    class,
                    chunks,
                    extensions: Extensions::default(),
                };
                ShardCommand::Store(vec![StoreFrame {
                    collection,
                    frame,
                    condition,
                    keeps_origin: false,
                    record: FrameRecord { fields, body: vec![content; 20].into() },
                    vectors: if content == 0 { Bytes::new() } else { vec![content; 16].into() },
                    key_version,
                    keep_versions,
                }])
            }
            Said::Forget(asker, into_bin) => {
                ShardCommand::Forget { collection, frames: vec![frame, frame + 1], asker, into_bin, more: false }
            }
            Said::Undelete(asker, found, keep_versions) => {
                let anew = if found { self.anew((collection, frame), now_ms) } else { None };
                let frames = vec![UndeletedFrame { frame, anew }];
                ShardCommand::Undelete { collection, frames, asker, keep_versions }
            }
            Said::CutHistory(last, ago_ms) => {
                let [ended_ms, forgotten_ms] = ago_ms.map(|ago_ms| now_ms.saturating_sub(ago_ms));
                let bounds = HistoryBounds { last, ended_ms, forgotten_ms };
                ShardCommand::CutHistory { collection, frames: (0..4).collect(), bounds, complete: last == 1 }
            }
            Said::Expire => ShardCommand::Expire { collection, frames: (0..4).collect() },
            Said::Renew => ShardCommand::Renew { collection, chunks: (0..4).collect() },
            Said::Collect(back) => {
                ShardCommand::Collect { collection, chunks: vec![(frame, changed.saturating_sub(back))] }
            }
            Said::Verify | Said::Again(_) => ShardCommand::Verify { nonce: 1 },
        }
    }

    /// What rests in the bin, as the version that it would become.
    fn anew(&self, (collection, frame): (CollectionId, FrameId), now_ms: u64) -> Option<SealedAnew> {
        let reader = self.group.reader();
        let history = history::read(&reader, collection, frame).expect("readable");
        let binned = history.binned()?;
        let there = history::read_version(&reader, collection, (frame, binned)).expect("readable");
        let version = ended_version(&reader, collection).expect("readable") + 1;
        let fields = FrameFields { version, updated_ms: now_ms, ..there.record.fields };
        let record = FrameRecord { fields, body: there.record.body };
        Some(SealedAnew { from: binned.version, record, vectors: there.vectors, key_version: 2 })
    }

    fn view(&self) -> StateReader {
        self.group.reader().view().expect("a view")
    }
}

type Frames = BTreeMap<FrameId, (MigratedFrame, u64)>;

fn frames(view: &StateReader, collection: CollectionId) -> Frames {
    let page = read_page(view, collection, PageRange::default()).expect("readable");
    assert!(page.upto.is_none(), "they fit one page");
    let frames = page.body.frames.into_iter().zip(page.body.changed);
    frames.map(|(frame, changed)| (frame.frame, (frame, changed))).collect()
}

/// The pages of the log behind an entry, as a backup has them, and the frames that they name.
fn archived(
    key: &RepositoryKey,
    group: &Group,
    after: u64,
) -> (Vec<node_v1::ReplayEntries>, BTreeSet<(CollectionId, FrameId)>) {
    let (mut pages, mut named, mut after) = (Vec::new(), BTreeSet::new(), after);
    loop {
        let found = group.archive(after, 700).expect("readable");
        if found.entries.is_empty() {
            return (pages, named);
        }
        for payload in &found.payloads {
            named.extend(crate::shard::log_archive::touched(&ShardCommand::decode(payload).expect("a command")));
        }
        let touched = beside(&found.payloads).expect("commands");
        let number = pages.len() as u32;
        let place = LogPlace { backup: BACKUP, shard: 3, number, after, touched: &touched };
        let page = place.seal(key, &found.entries);
        pages.push(node_v1::ReplayEntries {
            backup: Bytes::from_static(BACKUP),
            number,
            after,
            touched: touched.clone(),
            page,
        });
        after = found.upto;
    }
}

/// A page of a backup with some frames, of a collection in a shard.
fn base(
    key: &RepositoryKey,
    collection: CollectionId,
    view: &StateReader,
    named: &BTreeSet<(CollectionId, FrameId)>,
) -> node_v1::ReplayBase {
    let body = read_page(view, collection, PageRange::default()).expect("readable");
    let (ids, changed) = (write_ids(&body.ids), write_ids(&body.changed()));
    let wanted: Vec<FrameId> = body.ids.iter().copied().filter(|&frame| named.contains(&(collection, frame))).collect();
    let place = PagePlace { backup: BACKUP, shard: 3, collection, number: 0, ids: &ids, changed: &changed };
    let standing = Some(Standing::read(view, collection).expect("readable"));
    let page = place.seal(key, &PageBody { standing, ..body.body });
    let backup = Bytes::from_static(BACKUP);
    node_v1::ReplayBase { backup, collection, number: 0, ids, changed, page, wanted: write_ids(&wanted), first: true }
}

fn begin(key: &RepositoryKey, start: &[u8], until_ms: u64, positions: &[(CollectionId, u64)]) -> node_v1::ReplayBegin {
    let parts = positions.iter().map(|&(collection, position)| node_v1::ReplayPart { collection, position });
    node_v1::ReplayBegin {
        backup: Bytes::from_static(BACKUP),
        shard: 3,
        start: key.seal(&start_place(BACKUP, 3), start, &mut os_rng()).into(),
        until_ms,
        parts: parts.collect(),
    }
}

fn recovery(key: &RepositoryKey, begin: &node_v1::ReplayBegin) -> Recovery {
    Recovery::begin(Arc::new(MemEngine::new()), WINDOW, key, begin).expect("it begins")
}

/// Keys of a table in a collection, without what is the same in all of them.
fn keys(view: &StateReader, table: Table, collection: CollectionId) -> BTreeSet<Vec<u8>> {
    let mut keys = BTreeSet::new();
    view.scan_prefix(&record::collection_prefix(table, collection), false, &mut |key, _| {
        keys.insert(key.to_vec());
        std::ops::ControlFlow::Continue(())
    })
    .expect("readable");
    keys
}

/// Every table says what follows from records, past versions and histories.
fn tables_agree(view: &StateReader, collection: CollectionId) {
    let (mut past, mut references, mut expiries) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    let (mut ended, mut forgotten, mut histories, mut memories) =
        (BTreeSet::new(), BTreeSet::new(), BTreeSet::new(), 0);
    let mut note = |frame, record: &FrameRecord| {
        let fields = &record.fields;
        if !fields.chunks.is_empty() {
            references.insert(record::references_key(collection, frame, fields.version).to_vec());
        }
        if fields.expires_ms != 0 {
            expiries.insert(record::expiry_key(collection, fields.expires_ms, frame).to_vec());
        }
    };
    for key in keys(view, Table::Heads, collection) {
        let (_, frame) = record::parse_pair_key(&key).expect("a key");
        let head = FrameHead::decode(&view.get(&key).expect("readable").expect("it is there")).expect("a head");
        let found = history::read_frame(view, collection, frame).expect("a frame");
        assert_eq!(head.class == Class::Binned, found.binned.is_some(), "{frame}");
        note(frame, &found.record);
        memories += u64::from(found.binned.is_none() && found.record.fields.class == Class::Memory);
        let history = history::read(view, collection, frame).expect("readable");
        let numbers: Vec<u64> = history.versions.iter().map(|past| past.version).collect();
        assert!(numbers.is_sorted_by(|a, b| a < b), "{numbers:?}");
        let all = found.past.iter().map(|past| (&past.record, &past.vectors, past.ending));
        let binned = found.binned.map(|ending| (&found.record, &found.vectors, ending));
        for ((record, vectors, ending), head) in all.chain(binned).zip(&history.versions) {
            assert_eq!(*head, history::PastHead::new(record, vectors, ending));
            assert!(record.fields.owner == history.owner && record.fields.class == Class::Memory);
            assert!(found.binned.is_some() || head.version < found.record.fields.version);
            past.insert(history::past_key(collection, frame, head.version).to_vec());
            note(frame, record);
        }
        if let Some(binned) = history.binned() {
            assert!(ended_version(view, collection).expect("readable") >= binned.version);
        }
        let time = |table, time_ms| record::time_key(table, collection, time_ms, frame).to_vec();
        ended.extend(history.oldest_ended().map(|time_ms| time(Table::Ended, time_ms)));
        forgotten.extend(history.oldest_forgotten().map(|time_ms| time(Table::Forgotten, time_ms)));
        if !history.versions.is_empty() {
            histories.insert(history::history_key(collection, frame).to_vec());
        }
    }
    for (table, expected) in [
        (Table::Past, past),
        (Table::References, references),
        (Table::Expiry, expiries),
        (Table::Ended, ended),
        (Table::Forgotten, forgotten),
        (Table::Histories, histories),
    ] {
        assert_eq!(keys(view, table, collection), expected, "{table:?}");
    }
    let count = view.get(&record::count_key(collection)).expect("readable");
    assert_eq!(crate::shard::machine::decode_count(count.as_deref()).expect("a count"), memories);
}

async fn recovered_is_what_it_was(turns: &[Turn], [started, first, second, wanted]: [usize; 4]) {
    let key = RepositoryKey::generate(&mut os_rng());
    let mut live = Live::start().await;
    let (mut start, mut shown, mut moments) = (None, BTreeMap::new(), Vec::new());
    for (at, turn) in turns.iter().enumerate() {
        if at == started {
            start = Some(live.group.archive_start().expect("readable"));
        }
        for (collection, when) in COLLECTIONS.into_iter().zip([first, second]) {
            if at == when {
                shown.insert(collection, live.view());
            }
        }
        live.take(turn).await;
        tables_agree(&live.view(), turn.collection);
        moments.push(live.view());
    }
    let time = |view: &StateReader| view.clock_ms().expect("a view");
    let until_ms = time(&moments[wanted]);
    let then = moments.iter().rfind(|view| time(view) <= until_ms).expect("the wanted one at least");

    let start = start.expect("it begins with a step");
    let (pages, named) = archived(&key, &live.group, start.index);
    let positions: Vec<_> = shown.iter().map(|(&collection, view)| (collection, view.applied_index())).collect();
    let mut recovery = recovery(&key, &begin(&key, &start.encoded, until_ms, &positions));
    for (&collection, view) in &shown {
        recovery.base(&key, &base(&key, collection, view, &named)).expect("a page");
    }
    let mut later = false;
    for page in &pages {
        later = recovery.log(&key, page).expect("a page of the log");
        if later {
            break;
        }
    }
    assert!(later || recovery.applied_index() == live.group.status().applied);
    assert!(recovery.applied_index() >= then.applied_index());
    let recovered = recovery.reader().expect("readable");
    for (&collection, view) in &shown {
        let untouched =
            frames(view, collection).into_iter().filter(|(frame, _)| !named.contains(&(collection, *frame)));
        let mut found: Frames = untouched.collect();
        found.extend(frames(&recovered, collection));
        assert_eq!(found, frames(then, collection), "collection {collection} at {until_ms}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    /// Whatever is said, wherever the backup begins and reads each collection, and whatever moment is wanted after that.
    #[test]
    fn a_moment_comes_back_as_it_was(
        turns in vec(turn(), 20..90),
        cuts in any::<[prop::sample::Index; 4]>(),
    ) {
        let mut cuts = cuts.map(|cut| cut.index(turns.len()));
        cuts.sort_unstable();
        // Either collection may be read first.
        if turns[0].ticks % 2 == 0 {
            cuts.swap(1, 2);
        }
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
        runtime.block_on(recovered_is_what_it_was(&turns, cuts));
    }
}

/// It would end the shard's replicas if it were counted when it goes, and not when it comes.
#[tokio::test(flavor = "multi_thread")]
async fn a_memory_that_takes_the_id_of_a_hidden_frame_is_counted() {
    let mut live = Live::start().await;
    let store = |class, lives_ms| Said::Store {
        condition: Condition::Create,
        owner: None,
        session: None,
        lives_ms,
        class,
        chunks: Vec::new(),
        content: 2,
        key_version: 1,
    };
    let turn = |said, ticks| Turn { collection: 1, frame: 1, said, ticks };
    let count = |live: &Live| {
        let stored = live.group.reader().get(&record::count_key(1)).expect("readable");
        crate::shard::machine::decode_count(stored.as_deref()).expect("a count")
    };
    live.take(&turn(store(Class::Upload, Some(3)), 0)).await;
    assert_eq!(count(&live), 0);
    live.take(&turn(store(Class::Memory, None), 10)).await;
    assert_eq!(count(&live), 1);
    live.take(&turn(Said::Forget(Asker::Operator, true), 1)).await;
    assert_eq!(count(&live), 0);
    live.take(&turn(store(Class::Memory, None), 1)).await;
    assert_eq!(count(&live), 1, "it is still served");
    live.take(&turn(Said::Forget(Asker::Operator, true), 1)).await;
    live.take(&turn(Said::Undelete(Asker::Anyone, true, 3), 1)).await;
    assert_eq!(count(&live), 1, "it is back");
    live.take(&turn(Said::Forget(Asker::Operator, false), 1)).await;
    live.take(&turn(Said::Forget(Asker::Operator, false), 1)).await;
    assert_eq!(count(&live), 0);
}

fn code(refusal: Refusal) -> Code {
    match refusal {
        Refusal::Problem(problem) => problem.code,
        other => panic!("{other:?}"),
    }
}

/// A store of a memory in place of what is there.
fn a_memory() -> Said {
    Said::Store {
        condition: Condition::Replace,
        owner: None,
        session: None,
        lives_ms: None,
        class: Class::Memory,
        chunks: Vec::new(),
        content: 1,
        key_version: 1,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_recovered_or_does_not_fit_is_refused() {
    let key = RepositoryKey::generate(&mut os_rng());
    let mut live = Live::start().await;
    let store = a_memory();
    let turn = |frame, ticks| Turn { collection: 1, frame, said: store.clone(), ticks };
    let start = live.group.archive_start().expect("readable");

    for frame in 0..40 {
        live.take(&turn(frame, 5)).await;
    }
    let (pages, _) = archived(&key, &live.group, start.index);
    assert!(pages.len() > 3, "{}", pages.len());
    let begun = |until_ms| begin(&key, &start.encoded, until_ms, &[(1, start.index)]);
    let log = |recovery: &mut Recovery, page: &node_v1::ReplayEntries| recovery.log(&key, page).map_err(code);

    // A page that is missing, altered, or in another's place.
    let mut hole = recovery(&key, &begun(u64::MAX));
    assert_eq!(log(&mut hole, &pages[0]), Ok(false));
    assert_eq!(log(&mut hole, &pages[2]), Err(Code::Damaged));
    let swapped = node_v1::ReplayEntries { page: pages[2].page.clone(), ..pages[1].clone() };
    assert_eq!(log(&mut hole, &swapped), Err(Code::Damaged));
    let less = node_v1::ReplayEntries { touched: Bytes::new(), ..pages[1].clone() };
    assert_eq!(log(&mut hole, &less), Err(Code::Damaged));
    assert_eq!(log(&mut hole, &pages[1]), Ok(false));
    assert_eq!(log(&mut hole, &pages[0]), Ok(false), "what it has already changes nothing");
    let mut altered = begun(u64::MAX);
    altered.shard = 4;
    let other = Recovery::begin(Arc::new(MemEngine::new()), WINDOW, &key, &altered).map(drop);
    assert_eq!(other.map_err(code), Err(Code::Damaged));

    // What changes a collection's shape, unless it is of one that does not come back, or later than what is wanted.
    let before_ms = live.clock.now_ms();
    live.clock.0.fetch_add(1, Ordering::Relaxed);
    let span = Span { from: 1, to: 2, shards: 4 };
    let settle = OwnershipStep::BeginPass { source: 0, pass: 1, start: 5, last: false };
    for shape in [
        ShardCommand::Grow { collection: 1, shard: 3, span, step: settle },
        ShardCommand::Reseal { collection: 1, to: 2, versions: Vec::new(), complete: true },
        ShardCommand::Purge { collection: 1 },
    ] {
        let from = live.group.archive_start().expect("readable");
        let payload = shape.encode();
        live.group.propose(None, payload).await.expect("proposed");
        let (pages, _) = archived(&key, &live.group, from.index);
        let recovered = |until_ms, collection| {
            let begin = begin(&key, &from.encoded, until_ms, &[(collection, from.index)]);
            let mut recovery = recovery(&key, &begin);
            pages.iter().map(|page| log(&mut recovery, page)).find(|step| *step != Ok(false)).unwrap_or(Ok(false))
        };
        assert_eq!(recovered(u64::MAX, 1), Err(Code::Conflict), "{shape:?}");
        assert_eq!(recovered(u64::MAX, 2), Ok(false), "{shape:?}");
        if matches!(shape, ShardCommand::Grow { .. }) {
            assert_eq!(recovered(before_ms, 1), Ok(true), "{shape:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn versions_that_had_ended_are_told_by_a_recovery_and_taken_by_a_restore() {
    let key = RepositoryKey::generate(&mut os_rng());
    let mut live = Live::start().await;
    let start = live.group.archive_start().expect("readable");
    let propose = async |live: &Live, command: ShardCommand| {
        live.group.propose(None, command.encode()).await.expect("proposed");
        ended_version(&live.group.reader(), 1).expect("readable")
    };
    let store = a_memory();
    live.take(&Turn { collection: 1, frame: 9, said: store, ticks: 1 }).await;
    let forget =
        ShardCommand::Forget { collection: 1, frames: vec![9], asker: Asker::Operator, more: false, into_bin: false };
    let ended = propose(&live, forget).await;
    assert!(ended > 0);

    let mut recovery = recovery(&key, &begin(&key, &start.encoded, u64::MAX, &[(1, start.index)]));
    for page in archived(&key, &live.group, start.index).0 {
        recovery.log(&key, &page).expect("a page of the log");
    }
    let page = node_v1::ReplayPage { backup: Bytes::from_static(BACKUP), collection: 1, ..Default::default() };
    let reply = recovery.step(&key, &Step::Page(page)).expect("a page");
    assert!(reply.ids.is_empty(), "no frame is left");
    let place = PagePlace { backup: BACKUP, shard: 3, collection: 1, number: 0, ids: &[], changed: &[] };
    let body = place.open(&key, &reply.page).expect("it opens");
    assert_eq!(body.standing.map(|standing| standing.ended_version), Some(ended));

    let restore = |ended_version| ShardCommand::Restore { collection: 1, frames: Vec::new(), ended_version };
    assert_eq!(propose(&live, restore(ended + 4)).await, ended + 4);
    assert_eq!(propose(&live, restore(ended)).await, ended + 4, "it never goes back");
}

#[test]
fn recoveries_are_bounded_and_leave_nothing_behind() {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::create_dir_all(folder.path().join("recoveries/left")).expect("made");
    let recoveries = Recoveries::new(folder.path(), WINDOW).expect("recoveries");
    assert!(!folder.path().join("recoveries").exists(), "what an earlier run left is gone");
    let key = RepositoryKey::generate(&mut os_rng());
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    let start = runtime.block_on(async { Live::start().await.group.archive_start().expect("readable") });
    let first = |until_ms| Step::Begin(begin(&key, &start.encoded, until_ms, &[]));
    let begin = |until_ms| recoveries.step(&key, 0, &first(until_ms));
    let begun: Vec<u64> =
        (0..limits::MAX_RECOVERIES as u64).map(|until_ms| begin(until_ms).expect("it begins").replay).collect();
    assert!(matches!(begin(1_000), Err(Refusal::NotReady(_))));
    // Whoever begins the same again has given up the one before.
    let again = begin(2).expect("it begins").replay;
    let hold = Step::Hold(node_v1::ReplayHold {});
    assert_eq!(code(recoveries.step(&key, begun[2], &hold).expect_err("it is gone")), Code::NotFound);
    recoveries.step(&key, again, &hold).expect("it is there");
    let end = Step::End(node_v1::ReplayEnd {});
    recoveries.step(&key, begun[0], &end).expect("it ends");
    assert_eq!(
        std::fs::read_dir(folder.path().join("recoveries")).expect("a folder").count(),
        limits::MAX_RECOVERIES - 1
    );
    let page =
        Step::Page(node_v1::ReplayPage { backup: Bytes::from_static(BACKUP), collection: 1, ..Default::default() });
    assert_eq!(code(recoveries.step(&key, begun[0], &page).expect_err("it is gone")), Code::NotFound);
    assert!(recoveries.step(&key, begun[1], &page).expect("there").ids.is_empty());
    recoveries.clear();
    assert_eq!(std::fs::read_dir(folder.path().join("recoveries")).expect("a folder").count(), 0);
}
