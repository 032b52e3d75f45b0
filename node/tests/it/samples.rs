//! What a node writes to its log, its state and its files, held against committed samples of it.

use std::collections::BTreeMap;

use mira_crypto::{ClusterKey, MetaSealer, meta::position_nonce};
use mira_node::identity::Identity;
use mira_node::meta::state::RestoredCluster;
use mira_node::meta::{
    AnsweredRequest, CollectionRecord, Erasure, Growth, GrowthStep, MetaAnswer, MetaCommand, Move, MoveStep, NameKey,
    NamedSpace, NodePhase, NodeRecord, Receipt, Repository, Rewrapped, Rotation, RotationStep,
};
use mira_node::shard::command::{
    self, Asker, Condition, MigratedFrame, OwnershipStep, ResealedVersion, SealedAnew, ShardAnswer, ShardCommand,
    StoreFrame, StoreOutcome, UndeleteOutcome, UndeletedFrame,
};
use mira_node::shard::history::{self, Ending, History, HistoryBounds, PastHead, PastVersion, Retention, VersionBound};
use mira_node::shard::migration::ownership::{Backfill, Ownership, Progress, Span};
use mira_node::shard::pages::{PageBody, Standing};
use mira_node::shard::record::{
    self, Attachment, Class, FrameBody, FrameFields, FrameHead, FrameRecord, KeyFloor, OwnedFrame,
};
use mira_proto::{Extensions, vectors::SpaceSet};
use mira_testing::keys::KEY;
use serde::{Serialize, de::DeserializeOwned};

#[path = "../../../proto/tests/support/samples.rs"]
mod committed;

use committed::Samples;

const FRAME: u128 = 0x0192_f0c4_a5b6_7c8d_9e0f_1122_3344_5566;
const TIME: u64 = 1_800_000_000_123;

fn frame_record() -> FrameRecord {
    let fields = FrameFields {
        version: 3,
        position: TIME << 22,
        created_ms: TIME,
        updated_ms: TIME + 5,
        expires_ms: TIME + 9_000,
        owner: Some([6; 16]),
        session: Some([4; 16]),
        digest: [5; 32],
        spaces: SpaceSet::from_iter([0, 2]),
        class: Class::Memory,
        chunks: vec![7, 8],
        extensions: later(),
    };
    FrameRecord { fields, body: "sealed body".into() }
}

/// Fields that this release does not know.
fn later() -> Extensions {
    let mut extensions = Extensions::default();
    extensions.set(1_000, "of a later release");
    extensions.set(9, [1, 2, 3].as_slice());
    extensions
}

fn ownership() -> Ownership {
    let mut ownership = Ownership::new(3, Span { from: 2, to: 4, shards: 16 });
    ownership.min_epoch = 9;
    ownership.frozen.insert(5, 77);
    let at = Progress::Running(Some(FRAME));
    ownership.backfills.insert(1, Backfill { pass: 2, start: 80, since: 40, last: true, brought: 6, at });
    ownership
}

fn migrated_frame() -> MigratedFrame {
    let ending = Ending { ended_ms: TIME + 3, forgotten_ms: TIME + 4 };
    let past = PastVersion { ending, record: frame_record(), vectors: "past vectors".into() };
    let vectors = "sealed vectors".into();
    MigratedFrame { frame: FRAME, record: frame_record(), vectors, binned: Some(ending), past: vec![past] }
}

fn commands() -> Vec<(&'static str, ShardCommand)> {
    let store = StoreFrame {
        collection: 7,
        frame: FRAME,
        condition: Condition::Expect(2),
        keeps_origin: true,
        record: frame_record(),
        vectors: "sealed vectors".into(),
        key_version: 2,
        keep_versions: 10,
    };
    let forget = |asker| ShardCommand::Forget {
        collection: 7,
        frames: vec![FRAME],
        asker,
        into_bin: asker == Asker::Anyone,
        more: true,
    };
    let grow = |step| ShardCommand::Grow { collection: 7, shard: 3, span: Span { from: 2, to: 4, shards: 16 }, step };
    let frames = vec![migrated_frame()];
    let resealed = ResealedVersion {
        frame: FRAME,
        version: 3,
        fields: [9; 16],
        body: "body anew".into(),
        vectors: "vectors anew".into(),
    };
    let anew = SealedAnew { from: 3, record: frame_record(), vectors: "vectors anew".into(), key_version: 2 };
    let bounds = HistoryBounds { last: 10, ended_ms: TIME, forgotten_ms: TIME + 1 };
    vec![
        ("command_store", ShardCommand::Store(vec![store])),
        ("command_forget", forget(Asker::Anyone)),
        ("command_forget_owner", forget(Asker::Owner([6; 16]))),
        ("command_forget_operator", forget(Asker::Operator)),
        ("command_purge", ShardCommand::Purge { collection: 7 }),
        ("command_expire", ShardCommand::Expire { collection: 7, frames: vec![FRAME] }),
        ("command_verify", ShardCommand::Verify { nonce: 300 }),
        ("command_grow_release", grow(OwnershipStep::Freeze { target: 5, min_epoch: 9 })),
        ("command_grow_begin", grow(OwnershipStep::BeginPass { source: 1, pass: 2, start: 80, last: true })),
        (
            "command_grow_adopt",
            grow(OwnershipStep::ApplyPage {
                source: 1,
                pass: 2,
                after: Some(FRAME - 1),
                upto: Some(FRAME),
                frames: frames.clone(),
                gone: vec![FRAME - 2],
                ended_version: 5,
            }),
        ),
        ("command_reseal", ShardCommand::Reseal { collection: 7, to: 2, versions: vec![resealed], complete: true }),
        ("command_restore", ShardCommand::Restore { collection: 7, frames, ended_version: 4 }),
        ("command_renew", ShardCommand::Renew { collection: 7, chunks: vec![FRAME] }),
        ("command_collect", ShardCommand::Collect { collection: 7, chunks: vec![(FRAME, 70)] }),
        (
            "command_cut_history",
            ShardCommand::CutHistory { collection: 7, frames: vec![FRAME], bounds, complete: true },
        ),
        (
            "command_undelete",
            ShardCommand::Undelete {
                collection: 7,
                frames: vec![
                    UndeletedFrame { frame: FRAME, anew: Some(anew) },
                    UndeletedFrame { frame: FRAME + 1, anew: None },
                ],
                asker: Asker::Anyone,
                keep_versions: 10,
            },
        ),
        ("command_grow_settle", grow(OwnershipStep::Finalize { min_epoch: 9 })),
        ("command_grow_clear", grow(OwnershipStep::Cleanup { frames: vec![FRAME] })),
    ]
}

fn answers() -> Vec<(&'static str, ShardAnswer)> {
    use StoreOutcome::{Conflict, Foreign, Moved, Raced, Same, Stored};
    vec![
        ("answer_store", ShardAnswer::Store(vec![Stored(1), Same(2), Conflict(3), Raced(4), Moved, Foreign])),
        (
            "answer_forget",
            ShardAnswer::Forget { removed: vec![FRAME], moved: vec![FRAME + 1], more: true, binned_ms: TIME },
        ),
        ("answer_purge", ShardAnswer::Purge),
        ("answer_expire", ShardAnswer::Expire(2)),
        ("answer_verify", ShardAnswer::Verify),
        ("answer_grow", ShardAnswer::Grow(Some(ownership()))),
        ("answer_reseal", ShardAnswer::Reseal(4)),
        ("answer_restore", ShardAnswer::Restore),
        ("answer_renew", ShardAnswer::Renew(vec![true, false])),
        ("answer_collect", ShardAnswer::Collect(3)),
        ("answer_cut_history", ShardAnswer::CutHistory(5)),
        (
            "answer_undelete",
            ShardAnswer::Undelete(vec![
                UndeleteOutcome::Restored(4),
                UndeleteOutcome::Current(3),
                UndeleteOutcome::Missing,
                UndeleteOutcome::Raced,
                UndeleteOutcome::Moved,
                UndeleteOutcome::Foreign,
            ]),
        ),
    ]
}

#[test]
fn a_shard_reads_what_was_written_before() {
    let mut samples = Samples::of(env!("CARGO_MANIFEST_DIR"));
    for (name, written) in commands() {
        let committed = samples.check(name, &written.encode());
        assert_eq!(ShardCommand::decode(&committed).expect("readable"), written, "{name}");
    }
    for (name, written) in answers() {
        let committed = samples.check(name, &command::encode(&written));
        assert_eq!(command::decode::<ShardAnswer>(&committed).expect("readable"), written, "{name}");
    }
    let committed = samples.check("frame_record", &frame_record().encode());
    assert_eq!(FrameRecord::decode(&committed).expect("readable"), frame_record());
    let spaces = SpaceSet::from_iter([0, 2]);
    let head = FrameHead { changed: 70, created_ms: TIME, expires_ms: 0, spaces, class: Class::Upload };
    let committed = samples.check("frame_head", &head.encode());
    assert_eq!(FrameHead::decode(&committed).expect("readable"), head);
    let owned = OwnedFrame { changed: 70, created_ms: TIME, expires_ms: 0, vector_bytes: 1_600 };
    let committed = samples.check("frame_owned", &owned.encode());
    assert_eq!(OwnedFrame::decode(&committed).expect("readable"), owned);
    let committed = samples.check("frame_vectors", &record::encode_vectors(3, b"sealed vectors"));
    assert_eq!(record::decode_vectors(&committed).expect("readable"), (3, &b"sealed vectors"[..]));
    past(&mut samples);
    let floor = KeyFloor { version: 2, complete_at: 90 };
    let committed = samples.check("key_floor", &floor.encode());
    assert_eq!(KeyFloor::decode(&committed).expect("readable"), floor);
    let committed = samples.check("ownership", &ownership().encode());
    assert_eq!(Ownership::decode(&committed).expect("readable"), ownership());
    let body = FrameBody {
        content: "Tea".into(),
        text: true,
        kind: "insight".into(),
        session: "talk".into(),
        role: "user".into(),
        metadata_json: "{\"a\":1}".into(),
        passages: vec![(0, 2), (1, 3)],
        language: "en".into(),
        attachment: Some(Attachment { content_type: "text/csv".into(), chunks: vec![(7, 1 << 20), (8, 5)] }),
        extensions: later(),
    };
    read_plain(&mut samples, "frame_body", &body);
    backup(&mut samples);
    keys(&mut samples);
    meta(&mut samples);
    identity(&mut samples);
    samples.finish();
}

/// What is kept of past versions and of the bin.
fn past(samples: &mut Samples) {
    let ending = Ending { ended_ms: TIME + 3, forgotten_ms: TIME + 4 };
    let head = PastHead { version: 3, since_ms: TIME, ending, expires_ms: TIME + 9_000, bytes: 4_000 };
    let history = History { binned_ms: TIME + 4, owner: Some([6; 16]), versions: vec![head], extensions: later() };
    let committed = samples.check("frame_history", &history.encode());
    assert_eq!(History::decode(&committed).expect("readable"), history);
    let committed = samples.check("past_version", &PastVersion::encode(&frame_record(), b"past vectors"));
    let read = PastVersion::decode(&committed).expect("readable");
    assert_eq!(read, (frame_record(), bytes::Bytes::from_static(b"past vectors")));
    let bound = VersionBound { last: 10, is_kept: true };
    let committed = samples.check("version_bound", &bound.encode());
    assert_eq!(VersionBound::decode(&committed).expect("readable"), bound);
}

/// What is sealed before it is written: its plain form.
fn read_plain<T: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug>(
    samples: &mut Samples,
    name: &str,
    value: &T,
) {
    let committed = samples.check(name, &postcard::to_stdvec(value).expect("plain data"));
    assert_eq!(&postcard::from_bytes::<T>(&committed).expect("readable"), value, "{name}");
}

/// What is sealed in pages of backups.
fn backup(samples: &mut Samples) {
    let frames = vec![migrated_frame()];
    let committed = samples.check("migrated_frame", &frames[0].encode());
    assert_eq!(MigratedFrame::decode(&committed).expect("readable"), frames[0]);
    let floor = Some(KeyFloor { version: 2, complete_at: 90 });
    let version_bound = Some(VersionBound { last: 10, is_kept: false });
    let standing = Some(Standing { ownership: Some(ownership()), floor, ended_version: 12, version_bound });
    let page = PageBody { frames, changed: vec![70], standing, extensions: later() };
    let committed = samples.check("backup_page", &page.encode());
    assert_eq!(PageBody::decode(&committed).expect("readable"), page);
    let entries = vec![bytes::Bytes::from_static(b"an entry"), "another".into()];
    let committed = samples.check("backup_log_page", &command::encode(&entries));
    assert_eq!(command::decode::<Vec<bytes::Bytes>>(&committed).expect("readable"), entries);
}

fn keys(samples: &mut Samples) {
    samples.check("key_frame", &record::frame_key(7, FRAME));
    samples.check("key_head", &record::head_key(7, FRAME));
    samples.check("key_vectors", &record::vectors_key(7, FRAME));
    samples.check("key_past", &history::past_key(7, FRAME, 3));
    samples.check("key_history", &history::history_key(7, FRAME));
    samples.check("key_ended", &record::time_key(record::Table::Ended, 7, TIME, FRAME));
    samples.check("key_forgotten", &record::time_key(record::Table::Forgotten, 7, TIME, FRAME));
    samples.check("key_version_bound", &history::bound_key(7));
    samples.check("key_references", &record::references_key(7, FRAME, 3));
    samples.check("key_last_position", record::LAST_POSITION_KEY);
    samples.check("key_count", &record::count_key(7));
    let committed = samples.check("key_owned", &record::owned_key(7, &[6; 16], FRAME));
    assert_eq!(record::parse_owned_key(&committed), Some(FRAME));
    let committed = samples.check("key_expiry", &record::expiry_key(7, TIME, FRAME));
    assert_eq!(record::parse_time_key(&committed), Some((7, TIME, FRAME)));
    samples.check("key_owner_changed", &record::owner_changed_key(7, &[6; 16]));
    samples.check("key_ownership", &Ownership::key(7));
    samples.check("key_key_floor", &record::key_floor_key(7));
    let committed = samples.check("key_session", &record::session_key(7, &[4; 16], TIME, FRAME));
    assert_eq!(record::parse_session_key(&committed), Some(FRAME));
}

fn meta(samples: &mut Samples) {
    let collection = CollectionRecord {
        id: 7,
        name: "notes".into(),
        dim: 384,
        metric: mira_proto::model::Metric::Cosine,
        quantization: mira_proto::model::Quantization::Int8,
        partitions: 4,
        first_partitions: 2,
        ttl_seconds: 60,
        retention: Retention { last: 3, days: 30, bin_days: 2 },
        created_ms: TIME,
        model: "m".into(),
        ef: 300,
        spaces: vec![NamedSpace {
            name: "state".into(),
            dim: 1_536,
            metric: mira_proto::model::Metric::Dot,
            quantization: mira_proto::model::Quantization::Binary,
            ef: 64,
        }],
        key_version: 1,
        wrapped_keys: [(1, vec![1, 2, 3])].into(),
    };
    let node = NodeRecord {
        id: 2,
        address: "h:1".into(),
        http_address: "h:2".into(),
        zone: "z".into(),
        version: "1.0.0".into(),
        format: 1,
    };
    let growth = Growth { from: 2, to: 4, step: GrowthStep::Clearing, epoch: 9, since_ms: TIME, done: [1, 5].into() };
    let rotation =
        Rotation { id: 9, request: 3, to: 2, step: RotationStep::Resealing, since_ms: TIME, done: [1, 5].into() };
    let receipt = Receipt { text: "{}".into(), signature: vec![9; 64] };
    let erasure = Erasure {
        collection: 7,
        name: "notes".into(),
        whole: true,
        keys: [(1, [3; 8])].into(),
        epoch: 12,
        index: 70,
        since_ms: TIME,
        done: [2].into(),
        receipt: Some(receipt.clone()),
    };
    let repository = Repository { place: "/backups".into(), keys_epoch: 9, finished_ms: TIME };
    let names = BTreeMap::from([(1, [3; 8])]);
    let rewrapped = Rewrapped {
        collections: [(7, [(1, vec![4, 5])].into())].into(),
        layers: [(1, vec![6])].into(),
        receipts: vec![7],
    };
    let restored = RestoredCluster {
        backup: 6,
        collections: vec![collection.clone()],
        layer_keys: [(1, vec![6])].into(),
        owners: [([6; 16], "record".into())].into(),
        empty: vec![1],
    };
    let commands = [
        (
            "meta_form",
            MetaCommand::Form {
                cluster_id: 5,
                shards: 16,
                replication: 3,
                expect: 3,
                layer_key: vec![7, 8],
                name_key: NameKey([9; 32]),
            },
        ),
        ("meta_put_node", MetaCommand::PutNode(node.clone())),
        ("meta_place_shards", MetaCommand::PlaceShards(vec![vec![1, 2, 3]])),
        ("meta_create_collection", MetaCommand::CreateCollection(collection.clone())),
        ("meta_drop_collection", MetaCommand::DropCollection { name: "notes".into(), id: 7 }),
        ("meta_raise_format", MetaCommand::RaiseFormat(2)),
        ("meta_set_phases", MetaCommand::SetPhases(vec![(2, NodePhase::Active { ring: 9 })])),
        ("meta_remove_node", MetaCommand::RemoveNode(2)),
        ("meta_start_move", MetaCommand::StartMove { shard: 3, from: Some(1), to: 2 }),
        ("meta_step_move", MetaCommand::StepMove { shard: 3, to: 2, step: MoveStep::Joining }),
        ("meta_finish_move", MetaCommand::FinishMove { shard: 3, to: 2 }),
        ("meta_cancel_move", MetaCommand::CancelMove { shard: 3, to: 2 }),
        ("meta_prefer_leaders", MetaCommand::PreferLeaders(vec![1, 2])),
        ("meta_pause_moves", MetaCommand::PauseMoves(true)),
        ("meta_start_growth", MetaCommand::StartGrowth { collection: 7, to: 4 }),
        ("meta_growth_done", MetaCommand::GrowthDone { collection: 7, to: 4, step: GrowthStep::Copying, shard: 5 }),
        ("meta_put_owner", MetaCommand::PutOwner { owner: [6; 16], record: "new".into(), replaces: "old".into() }),
        ("meta_end_growth", MetaCommand::EndGrowth { collection: 7, to: 4 }),
        ("meta_rewrap", MetaCommand::Rewrap(rewrapped)),
        ("meta_set_receipt_key", MetaCommand::SetReceiptKey(vec![7])),
        ("meta_start_rotation", MetaCommand::StartRotation { collection: 7, to: 2, wrapped: vec![4], request: 3 }),
        (
            "meta_rotation_done",
            MetaCommand::RotationDone { collection: 7, to: 2, step: RotationStep::Retiring, who: 5 },
        ),
        ("meta_destroy_keys", MetaCommand::DestroyKeys { collection: 7, to: 2, names: names.clone() }),
        ("meta_shred", MetaCommand::Shred { name: "notes".into(), id: 7, names }),
        ("meta_erasure_done", MetaCommand::ErasureDone { erasure: 9, node: 2 }),
        ("meta_finish_erasure", MetaCommand::FinishErasure { erasure: 9, receipt }),
        ("meta_put_repository", MetaCommand::PutRepository { id: 8, repository: repository.clone() }),
        ("meta_forget_repository", MetaCommand::ForgetRepository(8)),
        ("meta_begin_restore", MetaCommand::BeginRestore(restored)),
        ("meta_end_restore", MetaCommand::EndRestore { backup: 6 }),
        (
            "meta_set_retention",
            MetaCommand::SetRetention { collection: 7, retention: Retention { last: 3, days: 30, bin_days: 2 } },
        ),
        ("meta_tune_collection", MetaCommand::TuneCollection { collection: 7, space: 2, ef: 300 }),
    ];
    for (name, written) in commands {
        read_plain(samples, name, &written);
    }
    read_plain(samples, "record_collection", &collection);
    read_plain(samples, "record_node", &node);
    read_plain(samples, "record_growth", &growth);
    read_plain(samples, "record_rotation", &rotation);
    read_plain(samples, "record_erasure", &erasure);
    read_plain(samples, "record_repository", &repository);
    let answered = AnsweredRequest { name: [5; 16], epoch: 12, at_ms: TIME, reply: vec![8, 7] };
    read_plain(samples, "record_request", &answered);
    read_plain(samples, "record_move", &Move { from: None, to: 2, step: MoveStep::Clearing });
    read_plain(samples, "record_phase", &NodePhase::Draining);
    read_plain(samples, "meta_answer", &MetaAnswer::Refused);
    // Sealed as the state machine seals a record: the nonce is its place in the log.
    let sealer = MetaSealer::new(&ClusterKey::from_text(KEY).expect("a key"));
    let written = sealer.seal(&position_nonce(70, 1), b"record", b"plain");
    let committed = samples.check("record_sealed", &written);
    assert_eq!(sealer.open(b"record", &committed, 1_024).expect("opens"), b"plain");
}

fn identity(samples: &mut Samples) {
    let folder = tempfile::tempdir().expect("a folder");
    let identity = Identity { node_id: 77, cluster_id: 5, replication: 3 };
    identity.save(folder.path()).expect("written");
    let path = folder.path().join("identity.json");
    let committed = samples.check("identity_file", &std::fs::read(&path).expect("it is there"));
    std::fs::write(&path, committed).expect("written");
    assert_eq!(Identity::load_or_create(folder.path(), || unreachable!()).expect("readable"), identity);
}
