//! What the fake cluster holds: collections, frames, owners, and what was seen of requests.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use bytes::Bytes;
use mira_index::Attributes;
use mira_index::filter::{self, Said};
use mira_proto::node_v1 as wire;
use mira_proto::{Code, FrameId, NodeId, Position, Problem, REQUEST_KEY_BYTES, Refusal, ShardId};
use prost::Message;
use tonic::Status;

use super::migration::{HandOver, Moving};
use super::{Faults, Seen};

/// Where a frame lies: its collection, its shard, its id.
type Place = (u64, ShardId, Vec<u8>);

/// The state of all nodes.
#[derive(Default)]
pub(super) struct State {
    pub(super) epoch: u64,
    pub(super) collections: BTreeMap<String, wire::Collection>,
    pub(super) next_collection: u64,
    pub(super) leaders: BTreeMap<ShardId, NodeId>,
    pub(super) frames: BTreeMap<Place, Kept>,
    /// Past versions of frames, and when each ended.
    pub(super) past: BTreeMap<Place, Vec<(Kept, u64)>>,
    /// Forgotten frames that may be brought back.
    pub(super) bin: BTreeMap<Place, Kept>,
    /// Past versions of frames that were forgotten before these were stored again.
    pub(super) forgotten_versions: BTreeMap<Place, Vec<u64>>,
    pub(super) undeleted: HashMap<Bytes, wire::UndeleteReply>,
    pub(super) indexes: BTreeMap<ShardId, u64>,
    /// The greatest position of a call in each shard, microseconds.
    pub(super) positions: BTreeMap<ShardId, u64>,
    /// Replies to writes by their request ids, with what was said.
    pub(super) remembered: HashMap<Bytes, (Vec<u8>, wire::WriteReply)>,
    /// What whole requests said, by the ids of their claims.
    pub(super) claimed: HashMap<Bytes, Bytes>,
    pub(super) forgotten: HashMap<Bytes, wire::ForgetReply>,
    /// Replies to changes of the cluster itself, by their request ids.
    pub(super) answered: HashMap<Bytes, Bytes>,
    /// Steps of removals that are done before the others are refused.
    pub(super) forgets_left: Option<usize>,
    pub(super) faults: BTreeMap<NodeId, Faults>,
    pub(super) seen: Vec<Seen>,
    pub(super) clock_ms: u64,
    pub(super) forget_step: usize,
    /// A key is being rotated by somebody else.
    pub(super) rotating: bool,
    /// Frames whose ids this divides are refused the first time.
    pub(super) refused_once: Option<u128>,
    /// Ids that were refused so.
    pub(super) refused: BTreeSet<Vec<u8>>,
    pub(super) vanishing: Option<Vec<u8>>,
    pub(super) owners: HashMap<Bytes, String>,
    /// Index of the last removal from a shard.
    pub(super) gone: BTreeMap<ShardId, u64>,
    /// Collections that move to more shards, by their numbers.
    pub(super) moving: BTreeMap<u64, Moving>,
    pub(super) next_hand_over: Option<HandOver>,
    /// Sealed vectors given out so far.
    pub(super) private_vectors: usize,
}

/// A frame.
#[derive(Clone)]
pub(super) struct Kept {
    pub(super) frame: wire::Frame,
    pub(super) vectors: Vec<Vec<f32>>,
    /// In named spaces.
    pub(super) named: Vec<wire::NamedVector>,
    /// Names, digest and vectors of a private frame, as they came.
    pub(super) private: wire::PrivateWrite,
    pub(super) changed: u64,
    /// Whether a caller stored it; pieces of contents and uploads under way are hidden.
    pub(super) is_memory: bool,
}

impl Kept {
    /// Its id.
    pub(super) fn id(&self) -> FrameId {
        FrameId::from_be_bytes(self.frame.id.as_ref().try_into().expect("it was stored with an id"))
    }

    /// What a second write is compared with.
    pub(super) fn said(&self) -> Bytes {
        if self.private.digest.is_empty() { self.frame.content.clone() } else { self.private.digest.clone() }
    }

    /// Its vectors in a space; the default space is the empty name.
    pub(super) fn in_space(&self, space: &str) -> Vec<&Vec<f32>> {
        match space {
            "" => self.vectors.iter().collect(),
            name => self.named.iter().filter(|named| named.space == name).map(|named| &named.vector).collect(),
        }
    }
}

/// What a filter sees of a frame.
pub(super) fn attributes(frame: &wire::Frame) -> Attributes {
    let wire::Frame { r#type: kind, session, role, metadata_json, .. } = frame;
    filter::attributes(&Said { kind, session, role, metadata_json })
}

/// A refusal of another request under a key that was used.
pub(super) fn key_reused() -> Status {
    Refusal::from(Problem::new(Code::Conflict, "the Idempotency-Key was used before for another request")).into()
}

impl State {
    /// What a change of the cluster itself was answered, if it comes again; refused if its key was used for another.
    pub(super) fn answered<T: Message + Default>(&self, request_id: &Bytes) -> Result<Option<T>, Status> {
        let Some(key) = request_id.get(..REQUEST_KEY_BYTES) else { return Ok(None) };
        match self.answered.iter().find(|(known, _)| known.starts_with(key)) {
            None => Ok(None),
            Some((known, _)) if known != request_id => Err(key_reused()),
            Some((_, reply)) => Ok(Some(T::decode(reply.clone()).expect("it was encoded here"))),
        }
    }

    /// Remembers what a change of the cluster itself is answered.
    pub(super) fn answer(&mut self, request_id: Bytes, reply: &impl Message) {
        if !request_id.is_empty() {
            self.answered.insert(request_id, reply.encode_to_vec().into());
        }
    }

    /// The place of a call in a shard, microseconds.
    pub(super) fn give_position(&mut self, shard: ShardId, request: &wire::WriteRequest) -> u64 {
        let last = self.positions.entry(shard).or_default();
        let given = if request.position_fixed { request.position } else { request.position.max(*last + 1) };
        *last = given.max(*last);
        given
    }

    /// Stores a frame of the call at `position`.
    pub(super) fn write(
        &mut self,
        collection: u64,
        shard: ShardId,
        position: u64,
        write: wire::FrameWrite,
    ) -> wire::WriteOutcome {
        let key = (collection, shard, write.id.to_vec());
        let current = self
            .frames
            .get(&key)
            .map(|kept| (kept.frame.version, kept.said(), kept.frame.created_ms, kept.frame.position));
        let refuse_as = |code, detail: String| wire::WriteOutcome {
            problem: Some(Problem::new(code, detail).into()),
            ..Default::default()
        };
        let refuse = |detail| refuse_as(Code::Conflict, detail);
        let id = u128::from_be_bytes(write.id.as_ref().try_into().expect("an id has 16 bytes"));
        if self.refused_once.is_some_and(|nth| id.is_multiple_of(nth)) && self.refused.insert(write.id.to_vec()) {
            return refuse_as(Code::Unavailable, "told to refuse this frame once".to_owned());
        }
        let have = current.as_ref().map_or(0, |(version, ..)| *version);
        let binned = self.bin.get(&key).map_or(0, |kept| kept.frame.version);
        if let Some(expected) = write.expected_version
            && expected != have
        {
            return refuse(match (have, binned) {
                (0, 0) => format!("expected_version is {expected}, and there is no memory of this id"),
                (0, binned) => format!("expected_version is {expected}, and version {binned} rests in the bin"),
                (have, _) => format!("expected_version is {expected}, and version {have} is current"),
            });
        }
        if let Some((version, content, ..)) = &current
            && !write.replace
            && write.expected_version.is_none()
        {
            let said = write.private.as_ref().map_or(&write.content, |private| &private.digest);
            return if content == said {
                wire::WriteOutcome { version: *version, unchanged: true, ..Default::default() }
            } else {
                refuse("the id holds a memory that differs in content or another field".into())
            };
        }
        self.clock_ms += 1;
        let private = write.private.unwrap_or_default();
        let frame = wire::Frame {
            id: write.id,
            content: write.content,
            text: write.text,
            r#type: write.r#type,
            session: write.session,
            role: write.role,
            metadata_json: write.metadata_json,
            version: have.max(binned) + 1,
            position: match (&current, write.position) {
                (_, said) if said != 0 => said,
                (Some((.., position)), _) => *position,
                (None, _) => Position::new(position, write.index as usize).packed(),
            },
            created_ms: match (current, write.created_ms) {
                (Some((_, _, created_ms, _)), _) => created_ms,
                (None, 0) => self.clock_ms,
                (None, said) => said,
            },
            updated_ms: self.clock_ms,
            expires_ms: write.expires_ms,
            passage_ranges: write.passages.iter().flat_map(|passage| [passage.start, passage.end]).collect(),
            language: String::new(),
            private: private.body.clone(),
            attachment: write.attachment,
        };
        let is_memory = write.class == wire::FrameClass::Memory as i32;
        let vectors = write.passages.into_iter().map(|passage| passage.vector).collect();
        let changed = self.index(shard) + 1;
        let version = frame.version;
        let now = Kept { frame, vectors, named: write.named, private, changed, is_memory };
        let before = self.frames.insert(key.clone(), now).or_else(|| {
            let binned = self.bin.remove(&key)?;
            self.forgotten_versions.entry(key.clone()).or_default().push(binned.frame.version);
            Some(binned)
        });
        let ended_ms = self.clock_ms;
        self.past.entry(key).or_default().extend(before.map(|before| (before, ended_ms)));
        wire::WriteOutcome { version, ..Default::default() }
    }

    pub(super) fn of_shard(&self, collection: u64, shard: ShardId) -> impl Iterator<Item = &Kept> {
        self.frames.iter().filter(move |((c, s, _), _)| (*c, *s) == (collection, shard)).map(|(_, kept)| kept)
    }

    pub(super) fn index(&self, shard: ShardId) -> u64 {
        self.indexes.get(&shard).copied().unwrap_or_default()
    }
}
