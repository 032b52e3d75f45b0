//! How frames lie in a shard's state.
//!
//! | key (big-endian numbers) | value |
//! |---|---|
//! | `f` collection 8, frame 16 | [`FrameRecord`]: what replicas must know in clear, and the sealed body |
//! | `h` collection 8, frame 16 | [`FrameHead`]: what the vector index must know, so that it need not read bodies |
//! | `v` collection 8, frame 16 | frame version 8 (little-endian), then the sealed vectors, if the frame has any |
//! | `s` collection 8, session tag 16, position 8, frame 16 | time of creation, 8 bytes: frames of a session in order |
//! | `o` collection 8, owner tag 16, frame 16 | [`OwnedFrame`]: the private frames of an owner |
//! | `q` collection 8, owner tag 16 | log position of the last change to an owner's private frames, 8 bytes |
//! | `x` collection 8, expiry 8, frame 16 | empty: frames by the time at which they are over |
//! | `r` collection 8, frame 16, version 8 | ids of the chunks that the version refers to, 16 bytes each |
//! | `c` collection 8, frame 16 | when the chunk was last said to be needed, 8 bytes: frames that are chunks |
//! | `n` collection 8 | number of frames, 8 bytes; of those that callers stored |
//! | `e` collection 8 | the greatest version that a removed frame had, 8 bytes |
//! | `k` collection 8 | [`KeyFloor`]: the oldest key that frames are still taken under |
//! | `w` | greatest position of a call that has stored here, microseconds, 8 bytes |
//! | `g` collection 8 | [`super::migration::ownership::Ownership`]: the shard's part in the last growth of the collection |
//!
//! Past versions of frames and the bin have tables of their own: [`super::history`].
//!
//! In clear are numbers, times, sizes and keyed digests; text, metadata, names and vectors are sealed: those of a private
//! frame in the three layers of [`mira_crypto::private`], around what its owner's router sealed. Each value but counts
//! begins with a version byte. Session tags and digests are keyed with the collection's tag key, which no rotation
//! changes, so that they stay equal.
//!
//! What a record says in clear ([`FrameFields`]) is bound to its body: whoever alters a time, a class, a tag or a list of
//! chunks on a disk has a body that does not open. Tables `h`, `s`, `o`, `x`, `r` and `c` are made of records, and answer
//! nothing by themselves.

use bytes::Bytes;
use mira_crypto::{Bound, CollectionKey, Context, CryptoError, CryptoRng, Part, frame};
use mira_index::Attributes;
use mira_index::filter::{self, Said};
use mira_proto::vectors::{FrameVectors, SpaceSet};
use mira_proto::{CollectionId, Extensions, FrameId, ShardId, limits, vectors};
use mira_raft::EngineError;
use serde::{Deserialize, Serialize};

/// Version 1 bound nothing to the body and had no room for other fields.
const RECORD_VERSION: u8 = 2;
const BODY_VERSION: u8 = 2;
const HEAD_VERSION: u8 = 1;
const STORED_VECTORS_VERSION: u8 = 1;
const OWNED_VERSION: u8 = 1;
const KEY_FLOOR_VERSION: u8 = 1;

/// Room for everything of a frame beside its content.
pub(super) const MAX_BODY_BYTES: usize = limits::MAX_CONTENT_BYTES + limits::MAX_METADATA_BYTES + (64 << 10);

/// A frame as it is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FrameRecord {
    /// What stands in clear.
    pub fields: FrameFields,
    /// The sealed [`FrameBody`], or the three layers around a private frame's body; bound to `fields`.
    pub body: Bytes,
}

/// What the state machine decides by.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FrameFields {
    /// One more with every replacement; of a new frame, one more than any removed frame of the collection had.
    pub version: u64,
    /// Its place in its session ([`mira_proto::Position`]), that of version 1.
    pub position: u64,
    /// When version 1 was made, milliseconds: by the clock of the leader that took it, or as its caller said.
    pub created_ms: u64,
    /// When a leader took this version.
    pub updated_ms: u64,
    /// When the frame is forgotten; 0 = never.
    pub expires_ms: u64,
    /// Keyed tag of its owner; none for a plain frame.
    pub owner: Option<[u8; 16]>,
    /// Keyed tag of its session.
    pub session: Option<[u8; 16]>,
    /// Keyed digest of what the caller stored.
    pub digest: [u8; 32],
    /// The spaces in which it has vectors that the index may see: none of a private frame.
    pub spaces: SpaceSet,
    /// What it is for.
    pub class: Class,
    /// Chunks that it refers to.
    pub chunks: Vec<FrameId>,
    /// What later releases say in clear.
    pub extensions: Extensions,
}

/// What a frame is for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Class {
    /// What callers stored. The others are hidden from them.
    #[default]
    Memory,
    /// A piece of a large content. Its id says what it holds, so that equal pieces are stored once. It stays as long as a frame refers to it
    /// ([`super::chunks`]).
    Chunk,
    /// How far the upload of a large content has come.
    Upload,
    /// Of heads only: a memory that was forgotten and rests in the bin ([`super::history`]).
    Binned,
}

impl FrameRecord {
    /// The stored form: a version byte, the fields, the body to the end.
    pub fn encode(&self) -> Vec<u8> {
        let mut stored = self.fields.encode();
        stored.extend_from_slice(&self.body);
        stored
    }

    /// Reads the stored form.
    pub fn decode(stored: &[u8]) -> Result<Self, EngineError> {
        match stored.split_first() {
            Some((&RECORD_VERSION, rest)) => {
                let (fields, body) = postcard::take_from_bytes(rest)
                    .map_err(|error| EngineError::Damaged(format!("frame record: {error}")))?;
                Ok(FrameRecord { fields, body: Bytes::copy_from_slice(body) })
            }
            Some((version, _)) => Err(EngineError::Damaged(format!("frame record of unknown version {version}"))),
            None => Err(EngineError::Damaged("empty frame record".into())),
        }
    }
}

impl FrameFields {
    /// As they stand at the head of a record, and as a body is bound to them.
    pub fn encode(&self) -> Vec<u8> {
        postcard::to_extend(self, vec![RECORD_VERSION]).expect("fields are plain data")
    }

    /// Tells them from all others.
    pub fn fingerprint(&self) -> [u8; 16] {
        let digest = blake3::hash(&self.encode());
        digest.as_bytes()[..16].try_into().expect("sixteen bytes")
    }

    /// Whether the frame is over its time.
    pub fn expired(&self, now_ms: u64) -> bool {
        self.expires_ms != 0 && self.expires_ms <= now_ms
    }
}

/// What the vector index must know of a frame; every frame has one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct FrameHead {
    /// Log position of the change that made it what it is.
    pub changed: u64,
    /// As in [`FrameFields`].
    pub created_ms: u64,
    /// As in [`FrameFields`].
    pub expires_ms: u64,
    /// As in [`FrameFields`].
    pub spaces: SpaceSet,
    /// As in [`FrameFields`].
    pub class: Class,
}

impl FrameHead {
    /// The stored form.
    pub fn encode(&self) -> Vec<u8> {
        postcard::to_extend(self, vec![HEAD_VERSION]).expect("a head is plain data")
    }

    /// Reads the stored form.
    pub fn decode(stored: &[u8]) -> Result<Self, EngineError> {
        match stored.split_first() {
            Some((&HEAD_VERSION, rest)) => {
                postcard::from_bytes(rest).map_err(|error| EngineError::Damaged(format!("frame head: {error}")))
            }
            _ => Err(EngineError::Damaged("frame head of unknown version".into())),
        }
    }
}

/// What an owner's router must know of a private frame to search it, beside its vectors.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct OwnedFrame {
    /// Log position of its last change.
    pub changed: u64,
    /// As in [`FrameFields`].
    pub created_ms: u64,
    /// As in [`FrameFields`].
    pub expires_ms: u64,
    /// Bytes of its sealed vectors; 0 when it has none.
    pub vector_bytes: u32,
}

impl OwnedFrame {
    /// The stored form.
    pub fn encode(&self) -> Vec<u8> {
        postcard::to_extend(self, vec![OWNED_VERSION]).expect("plain data")
    }

    /// Reads the stored form.
    pub fn decode(stored: &[u8]) -> Result<Self, EngineError> {
        match stored.split_first() {
            Some((&OWNED_VERSION, rest)) => {
                postcard::from_bytes(rest).map_err(|error| EngineError::Damaged(format!("owned frame: {error}")))
            }
            _ => Err(EngineError::Damaged("owned frame of unknown version".into())),
        }
    }
}

/// How far a collection's rotation to another key has come in this shard.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyFloor {
    /// Frames sealed with an older version of the key are not taken any more; 0 = any is.
    pub version: u32,
    /// Log position from which on every frame is sealed with this version or a newer one; 0 = not yet.
    pub complete_at: u64,
}

impl KeyFloor {
    /// The stored form.
    pub fn encode(&self) -> Vec<u8> {
        postcard::to_extend(self, vec![KEY_FLOOR_VERSION]).expect("plain data")
    }

    /// Reads the stored form.
    pub fn decode(stored: &[u8]) -> Result<Self, EngineError> {
        match stored.split_first() {
            Some((&KEY_FLOOR_VERSION, rest)) => {
                postcard::from_bytes(rest).map_err(|error| EngineError::Damaged(format!("key floor: {error}")))
            }
            _ => Err(EngineError::Damaged("key floor of unknown version".into())),
        }
    }
}

/// Key of a collection's [`KeyFloor`].
pub fn key_floor_key(collection: CollectionId) -> [u8; 9] {
    collection_prefix(Table::KeyFloors, collection)
}

/// The stored form of a frame's sealed vectors.
pub fn encode_vectors(frame_version: u64, sealed: &[u8]) -> Vec<u8> {
    [&[STORED_VECTORS_VERSION], &frame_version.to_le_bytes()[..], sealed].concat()
}

/// The frame's version and its sealed vectors.
pub fn decode_vectors(stored: &[u8]) -> Result<(u64, &[u8]), EngineError> {
    let damaged = || EngineError::Damaged("stored vectors of unknown version or too short".into());
    let rest = stored.strip_prefix(&[STORED_VECTORS_VERSION]).ok_or_else(damaged)?;
    let (version, sealed) = rest.split_first_chunk().ok_or_else(damaged)?;
    Ok((u64::from_le_bytes(*version), sealed))
}

/// The sealed part of a frame.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FrameBody {
    /// Text or opaque bytes.
    pub content: Bytes,
    /// Whether `content` is UTF-8 text.
    pub text: bool,
    /// The caller's type of memory.
    pub kind: String,
    /// Empty for none.
    pub session: String,
    /// Empty for none.
    pub role: String,
    /// A JSON object, or empty.
    pub metadata_json: String,
    /// Byte range of the content that each vector stands for.
    pub passages: Vec<(u32, u32)>,
    /// Detected language; empty for none.
    pub language: String,
    /// Large content beside `content`.
    pub attachment: Option<Attachment>,
    /// What later releases seal with it.
    pub extensions: Extensions,
}

/// Large content of a frame.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attachment {
    /// Its media type.
    pub content_type: String,
    /// Its chunks in order, with their sizes in bytes. The list in clear beside the body is for those who clear up; this
    /// one, sealed, is what the content is.
    pub chunks: Vec<(FrameId, u32)>,
}

impl FrameBody {
    /// What a filter may ask about.
    pub fn attributes(&self) -> Attributes {
        let FrameBody { kind, session, role, metadata_json, .. } = self;
        filter::attributes(&Said { kind, session, role, metadata_json })
    }
}

/// Where a frame lives: what its sealed parts are bound to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FramePlace {
    /// Its collection.
    pub collection: CollectionId,
    /// Its shard.
    pub shard: ShardId,
    /// Its id.
    pub frame: FrameId,
    /// Its version.
    pub version: u64,
}

impl FramePlace {
    fn context(&self, part: Part) -> Context {
        Context { collection: self.collection, shard: self.shard, frame: self.frame, version: self.version, part }
    }

    /// What a frame's body is bound to: its place, and `fields` as [`FrameFields::encode`] gives them.
    pub fn body_bound<'a>(&self, fields: &'a [u8]) -> Bound<'a> {
        Bound { context: self.context(Part::Body), beside: fields }
    }

    /// What a frame's vectors are bound to: a search opens them without the record beside them.
    pub fn vectors_bound(&self) -> Bound<'static> {
        Bound::from(&self.context(Part::Vectors))
    }

    /// Seals a body and binds it to the fields beside it.
    pub fn seal_body(
        &self,
        key: &CollectionKey,
        fields: &FrameFields,
        body: &FrameBody,
        rng: &mut dyn CryptoRng,
    ) -> Vec<u8> {
        let plain = postcard::to_extend(body, vec![BODY_VERSION]).expect("a body is plain data");
        frame::seal(key, self.body_bound(&fields.encode()), &plain, rng)
    }

    /// Opens the body of a record.
    pub fn open_body(&self, key: &CollectionKey, record: &FrameRecord) -> Result<FrameBody, CryptoError> {
        let fields = record.fields.encode();
        let plain = frame::open(key, self.body_bound(&fields), &record.body, MAX_BODY_BYTES)?;
        match plain.split_first() {
            Some((&BODY_VERSION, rest)) => postcard::from_bytes(rest).map_err(|_| CryptoError::Damaged),
            _ => Err(CryptoError::Damaged),
        }
    }

    /// Seals a frame's vectors.
    pub fn seal_vectors(&self, key: &CollectionKey, vectors: &FrameVectors, rng: &mut dyn CryptoRng) -> Vec<u8> {
        frame::seal(key, self.vectors_bound(), &vectors.encode(), rng)
    }

    /// Opens a frame's vectors.
    pub fn open_vectors(&self, key: &CollectionKey, sealed: &[u8]) -> Result<FrameVectors, CryptoError> {
        let plain = frame::open(key, self.vectors_bound(), sealed, vectors::MAX_BYTES)?;
        FrameVectors::decode(&plain).map_err(|_| CryptoError::Damaged)
    }
}

/// Domain of session tags.
pub const SESSION_TAG: &str = "session";

/// Domain of session tags of private frames, over the name that the owner's router gave the session.
pub const PRIVATE_SESSION_TAG: &str = "private session";
/// Domain of what requests are remembered under, over the ids that routers give them.
pub const REQUEST_TAG: &str = "request";
/// Domain of the ids of chunks, over the digest of what they hold.
pub const CHUNK_TAG: &str = "chunk";
/// Domain of owner tags, over the name that the owner's router gave the owner.
pub const OWNER_TAG: &str = "owner";

/// A table of a shard in which something of a collection lies; the byte is the first one of its keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Table {
    /// Records of frames.
    Records = b'f',
    /// Heads of frames.
    Heads = b'h',
    /// Sealed vectors of frames.
    Vectors = b'v',
    /// Frames of a session.
    Sessions = b's',
    /// Private frames of an owner.
    Owned = b'o',
    /// Last changes to owners' private frames.
    OwnerChanges = b'q',
    /// Frames by the time at which they are over.
    Expiry = b'x',
    /// Numbers of frames.
    Counts = b'n',
    /// Oldest keys that frames are taken under.
    KeyFloors = b'k',
    /// The shard's part in the growth of collections.
    Ownership = b'g',
    /// What frames refer to.
    References = b'r',
    /// Frames that are chunks.
    Chunks = b'c',
    /// Greatest versions that removed frames had.
    EndedVersions = b'e',
    /// Past versions of frames.
    Past = b'p',
    /// What is to be known of the past versions of each frame.
    Histories = b'l',
    /// Frames by the time at which their oldest past version ended.
    Ended = b'd',
    /// Frames by the time at which they were forgotten.
    Forgotten = b'b',
    /// How many past versions frames have at most.
    VersionBounds = b'm',
}

/// All tables.
pub const TABLES: [Table; 18] = [
    Table::Records,
    Table::Heads,
    Table::Vectors,
    Table::Sessions,
    Table::Owned,
    Table::OwnerChanges,
    Table::Expiry,
    Table::Counts,
    Table::Ownership,
    Table::KeyFloors,
    Table::References,
    Table::Chunks,
    Table::EndedVersions,
    Table::Past,
    Table::Histories,
    Table::Ended,
    Table::Forgotten,
    Table::VersionBounds,
];

impl From<Table> for u8 {
    fn from(table: Table) -> u8 {
        table as u8
    }
}

/// Key of a frame's record.
pub fn frame_key(collection: CollectionId, frame: FrameId) -> [u8; 25] {
    pair_key(Table::Records, collection, frame)
}

/// Key of a frame's head.
pub fn head_key(collection: CollectionId, frame: FrameId) -> [u8; 25] {
    pair_key(Table::Heads, collection, frame)
}

/// Key of a frame's sealed vectors.
pub fn vectors_key(collection: CollectionId, frame: FrameId) -> [u8; 25] {
    pair_key(Table::Vectors, collection, frame)
}

pub(super) fn pair_key(table: Table, collection: CollectionId, frame: FrameId) -> [u8; 25] {
    let mut key = [table as u8; 25];
    key[1..9].copy_from_slice(&collection.to_be_bytes());
    key[9..].copy_from_slice(&frame.to_be_bytes());
    key
}

pub(super) fn version_key(table: Table, collection: CollectionId, frame: FrameId, version: u64) -> [u8; 33] {
    let mut key = [0; 33];
    key[..25].copy_from_slice(&pair_key(table, collection, frame));
    key[25..].copy_from_slice(&version.to_be_bytes());
    key
}

/// Key of what a version of a frame refers to, current or past.
pub fn references_key(collection: CollectionId, frame: FrameId, version: u64) -> [u8; 33] {
    version_key(Table::References, collection, frame, version)
}

/// Key of a chunk among the chunks.
pub fn chunk_key(collection: CollectionId, chunk: FrameId) -> [u8; 25] {
    pair_key(Table::Chunks, collection, chunk)
}

/// Start of all keys of a collection in a [`Table`].
pub fn collection_prefix(table: Table, collection: CollectionId) -> [u8; 9] {
    let mut key = [table as u8; 9];
    key[1..].copy_from_slice(&collection.to_be_bytes());
    key
}

/// Key of the number of a collection's frames.
pub fn count_key(collection: CollectionId) -> [u8; 9] {
    collection_prefix(Table::Counts, collection)
}

/// Key of the greatest position of a call, microseconds.
pub const LAST_POSITION_KEY: &[u8] = b"w";

/// Key of the greatest version that a removed frame of a collection had. A frame that is stored anew gets a greater one, so
/// that no version of an id is given twice; what was removed need not be remembered by itself for that.
pub fn ended_version_key(collection: CollectionId) -> [u8; 9] {
    collection_prefix(Table::EndedVersions, collection)
}

/// Start of the keys of one session's frames.
pub fn session_prefix(collection: CollectionId, session: &[u8; 16]) -> [u8; 25] {
    let mut key = [0; 25];
    key[..9].copy_from_slice(&collection_prefix(Table::Sessions, collection));
    key[9..].copy_from_slice(session);
    key
}

/// Key of one frame of a session.
pub fn session_key(collection: CollectionId, session: &[u8; 16], position: u64, frame: FrameId) -> [u8; 49] {
    let mut key = [0; 49];
    key[..25].copy_from_slice(&session_prefix(collection, session));
    key[25..33].copy_from_slice(&position.to_be_bytes());
    key[33..].copy_from_slice(&frame.to_be_bytes());
    key
}

/// Start of the keys of an owner's private frames.
pub fn owned_prefix(collection: CollectionId, owner: &[u8; 16]) -> [u8; 25] {
    let mut key = [0; 25];
    key[..9].copy_from_slice(&collection_prefix(Table::Owned, collection));
    key[9..].copy_from_slice(owner);
    key
}

/// Key of one private frame of an owner.
pub fn owned_key(collection: CollectionId, owner: &[u8; 16], frame: FrameId) -> [u8; 41] {
    let mut key = [0; 41];
    key[..25].copy_from_slice(&owned_prefix(collection, owner));
    key[25..].copy_from_slice(&frame.to_be_bytes());
    key
}

/// The frame of an [`owned_key`].
pub fn parse_owned_key(key: &[u8]) -> Option<FrameId> {
    Some(u128::from_be_bytes(key.get(25..41)?.try_into().ok()?))
}

/// Key of the last change to an owner's private frames.
pub fn owner_changed_key(collection: CollectionId, owner: &[u8; 16]) -> [u8; 25] {
    let mut key = owned_prefix(collection, owner);
    key[0] = Table::OwnerChanges as u8;
    key
}

/// Key of a frame among those that will be over some day.
pub fn expiry_key(collection: CollectionId, expires_ms: u64, frame: FrameId) -> [u8; 33] {
    time_key(Table::Expiry, collection, expires_ms, frame)
}

/// Key of a frame in a table that is in order of times.
pub fn time_key(table: Table, collection: CollectionId, time_ms: u64, frame: FrameId) -> [u8; 33] {
    let mut key = [0; 33];
    key[..9].copy_from_slice(&collection_prefix(table, collection));
    key[9..17].copy_from_slice(&time_ms.to_be_bytes());
    key[17..].copy_from_slice(&frame.to_be_bytes());
    key
}

/// Collection, time and frame of a [`time_key`].
pub fn parse_time_key(key: &[u8]) -> Option<(CollectionId, u64, FrameId)> {
    let collection = key.get(1..9)?.try_into().ok()?;
    let expires = key.get(9..17)?.try_into().ok()?;
    let frame = key.get(17..33)?.try_into().ok()?;
    Some((u64::from_be_bytes(collection), u64::from_be_bytes(expires), u128::from_be_bytes(frame)))
}

/// The frame of a [`session_key`].
pub fn parse_session_key(key: &[u8]) -> Option<FrameId> {
    Some(u128::from_be_bytes(key.get(33..49)?.try_into().ok()?))
}

/// Reads a time or a position beside a key.
pub fn parse_number(stored: &[u8]) -> Result<u64, EngineError> {
    let damaged = |_| EngineError::Damaged(format!("a number of {} bytes", stored.len()));
    stored.try_into().map(u64::from_be_bytes).map_err(damaged)
}

/// Collection and frame of a [`frame_key`], [`head_key`], [`vectors_key`] or [`references_key`], and of a key of a history.
pub fn parse_pair_key(key: &[u8]) -> Option<(CollectionId, FrameId)> {
    let collection = key.get(1..9)?.try_into().ok()?;
    let frame = key.get(9..25)?.try_into().ok()?;
    Some((u64::from_be_bytes(collection), u128::from_be_bytes(frame)))
}

#[cfg(test)]
mod tests {
    use super::*;

    type Alter = fn(&mut FrameFields);

    #[test]
    fn a_body_opens_only_beside_its_own_fields() {
        let mut rng = mira_crypto::os_rng();
        let key = CollectionKey::generate(7, 1, &mut rng);
        let place = FramePlace { collection: 7, shard: 3, frame: 11, version: 2 };
        let mut extensions = Extensions::default();
        extensions.set(1_000, "of a later release");
        let fields = FrameFields {
            version: 2,
            position: 9,
            created_ms: 1,
            updated_ms: 2,
            expires_ms: 3,
            owner: None,
            session: Some([4; 16]),
            digest: [5; 32],
            spaces: SpaceSet::from_iter([0]),
            class: Class::Memory,
            chunks: vec![6],
            extensions,
        };
        let body = FrameBody { content: "tea".into(), ..FrameBody::default() };
        let sealed = Bytes::from(place.seal_body(&key, &fields, &body, &mut rng));
        let open = |fields: FrameFields| place.open_body(&key, &FrameRecord { fields, body: sealed.clone() });
        assert_eq!(open(fields.clone()), Ok(body));
        let altered: [(&str, Alter); 13] = [
            ("position", |fields| fields.position = 8),
            ("version", |fields| fields.version = 3),
            ("created_ms", |fields| fields.created_ms = 0),
            ("updated_ms", |fields| fields.updated_ms = 0),
            ("expires_ms", |fields| fields.expires_ms = 0),
            ("owner", |fields| fields.owner = Some([0; 16])),
            ("session", |fields| fields.session = None),
            ("digest", |fields| fields.digest[0] = 0),
            ("spaces", |fields| fields.spaces = SpaceSet::default()),
            ("class", |fields| fields.class = Class::Chunk),
            ("chunks", |fields| fields.chunks.clear()),
            ("an extension", |fields| fields.extensions.set(1_000, "other")),
            ("another extension", |fields| fields.extensions.set(1, "")),
        ];
        for (what, alter) in altered {
            let mut other = fields.clone();
            alter(&mut other);
            assert_eq!(open(other), Err(CryptoError::Damaged), "{what}");
        }
    }

    /// They lie on disks: a byte once given stays.
    #[test]
    fn the_bytes_of_tables_stay_as_they_are() {
        assert_eq!(TABLES.map(u8::from), *b"fhvsoqxngkrcepldbm");
    }
}
