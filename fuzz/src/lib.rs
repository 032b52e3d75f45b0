//! What every decoder of bytes from a disk or a wire is held to: no input makes it panic, hang or take memory that the
//! input does not account for; and what it accepts is written again as what it read.
//!
//! One function for each target in `fuzz_targets/`. The first byte of an input chooses among several decoders of a family
//! where they share a target, so that one corpus serves them all.

use std::{io::Cursor, sync::LazyLock};

use bytes::Bytes;
use mira_crypto::{
    ClusterKey, ClusterLayerKey, CollectionKey, Context, MetaSealer, OwnerContext, OwnerKey, PageSealer, Part,
    PassphraseCost, WrappedKey, frame, meta, page, page::PagePosition, private,
};
use mira_index::{Config, Metric, RowStorage, VectorIndex, filter};
use mira_node::{
    meta::MetaCommand,
    shard::{
        log_archive,
        command::{self, ShardAnswer, ShardCommand},
        history::{History, HistoryBounds, PastVersion, VersionBound},
        machine::decode_count,
        record::{self, FrameFields, FrameHead, FramePlace, FrameRecord, OwnedFrame},
        pages::PageBody,
        migration::ownership::Ownership,
    },
};
use mira_proto::{model, node_v1};
use prost::Message;
use rand::{SeedableRng, rngs::StdRng};

/// Magic and version before the chunks of an image.
const IMAGE_HEADER: usize = 12;
const IMAGE_CHUNK: usize = 1 << 18;
/// Longest plaintext that is opened.
const MAX_PLAIN: usize = 1 << 20;
const PLACE: FramePlace = FramePlace { collection: 7, shard: 3, frame: 11, version: 2 };

fn cluster_key() -> ClusterKey {
    ClusterKey::from_text("AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=").expect("a key of 32 bytes")
}

fn collection_key() -> CollectionKey {
    CollectionKey::generate(7, 1, &mut StdRng::seed_from_u64(1))
}

/// Log entries, records and messages of replication.
pub fn replication(data: &[u8]) {
    mira_raft::fuzzing::decode_all(data);
}

/// Records of frames in a shard's state.
pub fn shard_records(data: &[u8]) {
    let Some((&which, rest)) = data.split_first() else { return };
    match which % 11 {
        0 => drop(FrameRecord::decode(rest).map(|read| assert_eq!(FrameRecord::decode(&read.encode()).ok(), Some(read)))),
        1 => drop(FrameHead::decode(rest).map(|read| assert_eq!(FrameHead::decode(&read.encode()).ok(), Some(read)))),
        2 => drop(Ownership::decode(rest).map(|read| assert_eq!(Ownership::decode(&read.encode()).ok(), Some(read)))),
        3 => drop(record::decode_vectors(rest).map(|(version, sealed)| {
            assert_eq!(record::encode_vectors(version, sealed), rest);
        })),
        4 => drop(decode_count(Some(rest))),
        5 => drop(OwnedFrame::decode(rest).map(|read| assert_eq!(OwnedFrame::decode(&read.encode()).ok(), Some(read)))),
        6 => drop((record::parse_session_key(rest), record::parse_pair_key(rest))),
        7 => drop(History::decode(rest).map(|read| {
            // Whatever it says, none of its rules fails.
            let mut cut = read.clone();
            cut.cut(&HistoryBounds { last: 2, ended_ms: 5, forgotten_ms: 5 }, 1_000);
            assert_eq!(History::decode(&read.encode()).ok(), Some(read));
        })),
        8 => drop(PastVersion::decode(rest).map(|(record, vectors)| {
            assert_eq!(PastVersion::decode(&PastVersion::encode(&record, &vectors)).ok(), Some((record, vectors)));
        })),
        9 => drop(VersionBound::decode(rest).map(|read| assert_eq!(VersionBound::decode(&read.encode()).ok(), Some(read)))),
        _ => drop((record::parse_owned_key(rest), record::parse_time_key(rest))),
    }
}

/// Commands of shards and of the meta group, and their answers.
pub fn commands(data: &[u8]) {
    let Some((&which, rest)) = data.split_first() else { return };
    match which % 5 {
        0 => drop(ShardCommand::decode(rest).map(|read| log_archive::touched(&read))),
        1 => drop(command::decode::<ShardAnswer>(rest)),
        // What is sealed in pages of backups and of their logs.
        2 => drop(PageBody::decode(rest).map(|read| assert_eq!(PageBody::decode(&read.encode()).ok(), Some(read)))),
        3 => drop(command::decode::<Vec<bytes::Bytes>>(rest)),
        _ => {
            // As whoever holds the cluster key would have sealed it.
            let sealer = MetaSealer::new(&cluster_key());
            let sealed = sealer.seal_proposal(b"mira meta command", rest, &mut StdRng::seed_from_u64(2));
            let _ = MetaCommand::open(&sealer, &sealed);
            let _ = MetaCommand::open(&sealer, rest);
        }
    }
}

fn fields() -> FrameFields {
    FrameFields {
        version: 1,
        position: 1,
        created_ms: 1,
        updated_ms: 1,
        expires_ms: 0,
        owner: None,
        session: None,
        digest: [0; 32],
        spaces: Default::default(),
        class: Default::default(),
        chunks: Vec::new(),
        extensions: Default::default(),
    }
}

/// Sealed pieces: bytes that nobody sealed, and plaintexts that somebody did.
pub fn sealed(data: &[u8]) {
    let Some((&which, rest)) = data.split_first() else { return };
    let (key, mut rng) = (collection_key(), StdRng::seed_from_u64(3));
    let context =
        |part| Context { collection: PLACE.collection, shard: PLACE.shard, frame: PLACE.frame, version: PLACE.version, part };
    match which % 9 {
        0 => assert!(frame::open(&key, &context(Part::Body), rest, MAX_PLAIN).is_err(), "nobody sealed that"),
        1 => {
            // As a record that lies on a disk, and as somebody sealed it.
            let fields = FrameFields { version: PLACE.version, ..fields() };
            let body = frame::seal(&key, PLACE.body_bound(&fields.encode()), rest, &mut rng);
            let _ = PLACE.open_body(&key, &FrameRecord { fields, body: body.into() });
            let _ = FrameRecord::decode(rest).map(|record| PLACE.open_body(&key, &record));
        }
        2 => drop(PLACE.open_vectors(&key, &frame::seal(&key, &context(Part::Vectors), rest, &mut rng))),
        3 => {
            let position = PagePosition { number: 0, last: true };
            assert!(PageSealer::new(&key, 5).open(position, rest).is_err(), "nobody sealed that");
            let _ = page::key_version(rest);
        }
        4 => {
            let _ = WrappedKey::from_bytes(rest).map(|wrapped| wrapped.cluster_key_id());
            let _ = frame::key_version(rest);
            let _ = meta::key_id(rest);
        }
        5 => drop(ClusterKey::from_text(&String::from_utf8_lossy(rest))),
        6 => {
            // The layers of private frames, one inside the other, around anything.
            let layer = ClusterLayerKey::generate(1, &mut rng);
            let owner = OwnerKey::generate(&mut rng);
            let _ = private::open_cluster(&layer, &context(Part::Body), rest, MAX_PLAIN);
            let _ = private::open_collection(&key, &context(Part::Body), rest, MAX_PLAIN);
            let of_owner = OwnerContext { collection: PLACE.collection, frame: PLACE.frame, part: Part::Body };
            assert!(private::open_owner(&owner, &of_owner, rest, MAX_PLAIN).is_err(), "nobody sealed that");
            let inner = private::seal_collection(&key, &context(Part::Body), rest, &mut rng);
            let sealed = private::seal_cluster(&layer, &context(Part::Body), &inner, &mut rng);
            let opened = private::open_cluster(&layer, &context(Part::Body), &sealed, 2 * MAX_PLAIN);
            assert_eq!(opened.as_deref(), Ok(&inner[..]));
        }
        7 => drop(PassphraseCost::of_record(&String::from_utf8_lossy(rest))),
        _ => assert!(MetaSealer::new(&cluster_key()).open(b"x", rest, MAX_PLAIN).is_err(), "nobody sealed that"),
    }
}

/// Images of vector indexes.
pub fn index_image(data: &[u8]) {
    // As it is, behind the checksums that it would need, and as changes of an image that is right.
    let mut changed = content_of(&written(&small_index(40)));
    let (changes, _) = data.as_chunks::<3>();
    for &[low, high, byte] in changes {
        let at = usize::from(u16::from_le_bytes([low, high])) % changed.len();
        changed[at] ^= byte;
    }
    for image in [data.to_vec(), image_of(data), image_of(&changed)] {
        let Ok(index) = VectorIndex::read_image(Cursor::new(image), &RowStorage::Memory) else { continue };
        let again = VectorIndex::read_image(Cursor::new(written(&index)), &RowStorage::Memory);
        assert_eq!(again.expect("it was written here").len(), index.len());
    }
}

/// The bytes of an index as an image.
fn written(index: &VectorIndex) -> Vec<u8> {
    let mut image = Vec::new();
    index.write_image(&mut image).expect("memory takes everything");
    image
}

/// An image with this content: chunks with their lengths, each followed by the checksum of everything before it, then an
/// empty one.
fn image_of(content: &[u8]) -> Vec<u8> {
    static HEADER: LazyLock<Vec<u8>> = LazyLock::new(|| written(&small_index(0))[..IMAGE_HEADER].to_vec());
    let mut image = HEADER.clone();
    for chunk in content.chunks(IMAGE_CHUNK).chain([&[][..]]) {
        image.extend((chunk.len() as u32).to_le_bytes());
        image.extend(chunk);
        let sum = crc32fast::hash(&image);
        image.extend(sum.to_le_bytes());
    }
    image
}

/// What an image holds behind its header, without lengths and checksums.
fn content_of(image: &[u8]) -> Vec<u8> {
    let (mut rest, mut content) = (&image[IMAGE_HEADER..], Vec::new());
    while let Some((length, more)) = rest.split_first_chunk() {
        let (chunk, more) = more.split_at(u32::from_le_bytes(*length) as usize);
        content.extend(chunk);
        rest = &more[4..];
    }
    content
}

/// An index of so many documents.
fn small_index(documents: u32) -> VectorIndex {
    let index = VectorIndex::new(Config::new(4, Metric::Cosine)).expect("a config");
    for number in 1..=documents {
        index.upsert(number.into(), &[number as f32, 1.0, -0.5, 0.25]).expect("it fits");
    }
    index
}

/// Requests of callers as JSON, with tokens, cursors and filters in them.
pub fn requests(data: &[u8]) {
    let Some((&which, rest)) = data.split_first() else { return };
    let text = String::from_utf8_lossy(rest);
    match which % 7 {
        0 => drop(text.parse::<mira_router::ConsistencyToken>().map(|token| {
            assert_eq!(token.to_string().parse::<mira_router::ConsistencyToken>().ok(), Some(token));
        })),
        1 => drop(serde_json::from_str::<model::StoreRequest>(&text).map(|request| {
            let items = request.items.unwrap_or_default();
            items.into_iter().chain([request.item]).for_each(|item| drop(mira_router::operations::store::draft::Draft::of(item, 1)));
        })),
        2 => drop(serde_json::from_str::<model::SearchRequest>(&text).map(mira_router::operations::search::query::Query::of)),
        3 => drop(serde_json::from_str::<model::RecallRequest>(&text).map(mira_router::operations::recall::wanted)),
        4 => drop(serde_json::from_str::<model::ForgetRequest>(&text).map(mira_router::operations::forget::removal)),
        5 => drop(
            serde_json::from_str::<model::CollectionSettings>(&text)
                .map(|settings| mira_router::operations::admin::collections::collection_settings(&settings, 16)),
        ),
        _ => drop(filter::parse(&text).map(|condition| filter::split(condition, 0..u64::MAX))),
    }
}

/// Messages between routers and nodes.
pub fn messages(data: &[u8]) {
    let Some((&which, rest)) = data.split_first() else { return };
    fn read<T: Message + Default>(bytes: &[u8]) {
        if let Ok(message) = T::decode(bytes) {
            let again = T::decode(Bytes::from(message.encode_to_vec())).expect("it was written here");
            assert_eq!(again.encode_to_vec(), message.encode_to_vec());
        }
    }
    match which % 8 {
        0 => read::<node_v1::ClusterMap>(rest),
        1 => read::<node_v1::WriteManyRequest>(rest),
        2 => read::<node_v1::SearchRequest>(rest),
        3 => read::<node_v1::SearchReply>(rest),
        4 => read::<node_v1::FetchReply>(rest),
        5 => read::<node_v1::ExportReply>(rest),
        6 => read::<node_v1::ForgetRequest>(rest),
        // What a peer's status may carry.
        _ => drop(node_v1::Problem::decode(rest).map(mira_proto::Refusal::from)),
    }
}
