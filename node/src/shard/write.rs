//! Writing, on the shard's leader: seal, propose, answer.
//!
//! A frame is sealed as the version it will get, and with the times that are bound to its body, so the leader looks up
//! the current one first. Two writers of one frame
//! would seal the same version; on one leader a lock per frame (striped) keeps them apart, and after a change of leader
//! the state machine answers `Raced` and the leader seals again. Each round of a request has a request id of its own,
//! derived from the caller's, so that a retry walks through the same rounds and applies none twice.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::Bytes;
use mira_crypto::{ClusterLayerKey, CollectionKey, CryptoRng};
use mira_proto::{Code, CollectionId, Extensions, FrameId, Position, Problem, Refusal, limits, node_v1};
use mira_raft::{EngineError, RequestId, StateReader};
use tokio::sync::{Mutex, MutexGuard};

use crate::meta::CollectionRecord;

use crate::shard::{
    Shard,
    command::{self, Condition, ShardAnswer, ShardCommand, StoreFrame, StoreOutcome},
    draft::{Content, Draft},
    history, machine,
    migration::{ownership::FrameOwnership, transfer::ended_version},
    read::private,
    record::{self, Class, FrameFields, FramePlace, FrameRecord},
    refuse_engine, refuse_proposal,
};

const REQUEST_ID_BYTES: usize = 16;
/// Locks of a shard. Two frames may share one; that costs time, never correctness.
const STRIPES: usize = 256;
/// Rounds of sealing again before a writer is told that others keep winning. Only a change of leader makes a second.
pub const MAX_ROUNDS: u32 = 16;

/// Keeps writers of one frame apart while they seal and propose.
pub struct FrameLocks(Vec<Mutex<()>>);

impl Default for FrameLocks {
    fn default() -> Self {
        FrameLocks((0..STRIPES).map(|_| Mutex::new(())).collect())
    }
}

impl FrameLocks {
    /// Locks the stripes of these frames, in order, so that two batches never wait for each other in a circle.
    pub(super) async fn lock(&self, frames: impl Iterator<Item = FrameId>) -> Vec<MutexGuard<'_, ()>> {
        let stripes: BTreeSet<usize> = frames.map(|frame| (frame % STRIPES as u128) as usize).collect();
        let mut guards = Vec::with_capacity(stripes.len());
        for stripe in stripes {
            guards.push(self.0[stripe].lock().await);
        }
        guards
    }
}

impl<R: mira_raft::Runtime> Shard<R> {
    /// Stores frames; each is stored or refused by itself.
    pub async fn write(&self, request: node_v1::WriteRequest) -> Result<node_v1::WriteReply, Refusal> {
        let (header, collection) = self.begin_write(request.header.as_ref()).await?;
        let tags = self.shared.keyring.tags(&collection)?;
        let request_id = keyed_request_id(&tags, &header.request_id)?;
        let drafts: Vec<Result<Draft, Problem>> =
            request.frames.into_iter().map(|frame| Draft::of(frame, &collection, &tags)).collect();
        let call = CallPosition { micros: request.position, is_fixed: request.position_fixed };
        let position = self.give_position(call)?;
        let ready: Vec<&Draft> = drafts.iter().filter_map(|draft| draft.as_ref().ok()).collect();
        self.must_have_arrived(collection.id, ready.iter().map(|draft| draft.frame))?;

        // Frames that only ever create an id of their own cannot race: no need to wait for each other.
        let contended = ready.iter().filter(|draft| draft.condition != Condition::Create).map(|draft| draft.frame);
        let guards = self.locks.lock(contended).await;
        let (outcomes, index) = if ready.iter().all(|draft| draft.class == Class::Chunk) {
            self.store_chunks(&collection, request_id, &ready, position).await?
        } else {
            self.store(&collection, request_id, &ready, position).await?
        };
        drop(guards);

        let mut outcomes = outcomes.into_iter();
        let mut answers = Vec::with_capacity(drafts.len());
        for draft in &drafts {
            answers.push(match draft {
                Ok(draft) => match outcomes.next().expect("one outcome for each ready draft") {
                    StoreOutcome::Conflict(version) => refused(self.conflict(&collection, draft, version)?),
                    outcome => to_wire(outcome),
                },
                Err(problem) => refused(problem.clone()),
            });
        }
        let outcomes = answers;
        Ok(node_v1::WriteReply { outcomes, index, position })
    }

    /// What stands against a draft: `version` is what was current of its id, 0 if nothing was.
    fn conflict(&self, collection: &CollectionRecord, draft: &Draft, version: u64) -> Result<Problem, Refusal> {
        let view = self.group.reader().view().map_err(refuse_engine)?;
        let history = history::read(&view, collection.id, draft.frame).map_err(refuse_engine)?;
        let binned = history.binned().map(|binned| binned.version);
        Ok(Problem::new(Code::Conflict, conflict_text(draft.condition, version, binned)))
    }

    /// Whether frames may be put into a collection here and now: its record, with what the request says beside them.
    pub(super) async fn begin_write<'a>(
        &self,
        header: Option<&'a node_v1::WriteHeader>,
    ) -> Result<(&'a node_v1::WriteHeader, CollectionRecord), Refusal> {
        self.must_lead()?;
        self.index.has_room().await;
        self.begin_change(header)
    }

    /// Whether frames of a collection may be changed here and now: its record, with what the request says beside them.
    pub(super) fn begin_change<'a>(
        &self,
        header: Option<&'a node_v1::WriteHeader>,
    ) -> Result<(&'a node_v1::WriteHeader, CollectionRecord), Refusal> {
        self.must_lead()?;
        let header = write_header(header)?;
        let collection = self.collection(header.epoch, header.collection)?;
        if self.shared.cluster.borrow().restoring.is_some() {
            return Err(Refusal::NotReady("a backup is being restored".into()));
        }
        Ok((header, collection))
    }

    /// A target takes no writes of frames that their source has not handed over: what it would answer to them would be
    /// remembered under their request ids, and be wrong soon after.
    pub(super) fn must_have_arrived(
        &self,
        collection: CollectionId,
        mut frames: impl Iterator<Item = FrameId>,
    ) -> Result<(), Refusal> {
        let Some(ownership) = self.ownership(collection)? else { return Ok(()) };
        let placement = self.placement(collection, ownership.span);
        if frames.any(|frame| ownership.of_frame(&placement, frame) == FrameOwnership::Pending) {
            return Err(Refusal::NotReady("the frame is still on its way to this shard".into()));
        }
        Ok(())
    }

    /// Where a call stands among those of this shard, microseconds.
    fn give_position(&self, call: CallPosition) -> Result<u64, Refusal> {
        let stored = self.group.reader().get(record::LAST_POSITION_KEY).and_then(machine::last_position);
        let stored = stored.map_err(refuse_engine)?;
        let now_ms = self.group.time_ms();
        Ok(self.positions.give(call, stored, now_ms))
    }

    /// Proposes drafts until each has a final outcome; also returns the log position of the last round.
    pub(super) async fn store(
        &self,
        collection: &CollectionRecord,
        request_id: RequestId,
        drafts: &[&Draft],
        position: u64,
    ) -> Result<(Vec<StoreOutcome>, u64), Refusal> {
        let mut outcomes = vec![StoreOutcome::Raced(0); drafts.len()];
        let mut index = self.group.reader().applied_index();
        for round in 0..MAX_ROUNDS {
            let open: Vec<usize> =
                (0..drafts.len()).filter(|&at| matches!(outcomes[at], StoreOutcome::Raced(_))).collect();
            if open.is_empty() {
                break;
            }
            let round_drafts: Vec<&Draft> = open.iter().map(|&at| drafts[at]).collect();
            let (answers, at_index) =
                self.propose(collection, round_id(request_id, round), &round_drafts, position).await?;
            for (at, outcome) in open.into_iter().zip(answers) {
                outcomes[at] = outcome;
            }
            index = at_index;
        }
        Ok((outcomes, index))
    }

    async fn propose(
        &self,
        collection: &CollectionRecord,
        request_id: RequestId,
        drafts: &[&Draft],
        position: u64,
    ) -> Result<(Vec<StoreOutcome>, u64), Refusal> {
        // What seals may have changed since the last round.
        let newest = self.shared.cluster.borrow().collections.get(&collection.id).cloned();
        let sealed = self.seal(newest.as_ref().unwrap_or(collection), drafts, position)?;
        let payload = ShardCommand::Store(sealed).encode();
        // Sealing twice gives different bytes, so what tells a retry from another request is what the caller said.
        let fingerprint: Vec<u8> = drafts.iter().flat_map(|draft| fingerprint(draft)).collect();
        let proposed = self.group.propose_content(request_id, &fingerprint, payload).await.map_err(refuse_proposal)?;
        match command::decode(&proposed.response).map_err(refuse_engine)? {
            ShardAnswer::Store(outcomes) if outcomes.len() == drafts.len() => Ok((outcomes, proposed.index)),
            other => Err(Problem::internal(format!("a store was answered with {other:?}")).into()),
        }
    }

    /// Seals drafts of the call at `position` on top of what is there.
    fn seal(
        &self,
        collection: &CollectionRecord,
        drafts: &[&Draft],
        position: u64,
    ) -> Result<Vec<StoreFrame>, Refusal> {
        let keys = DraftKeys {
            key: self.shared.keyring.current(collection)?,
            layer: self.shared.keyring.current_layer(&self.shared.cluster.borrow())?,
        };
        let view = self.group.reader().cached_view().map_err(refuse_engine)?;
        let before = versions_before(&view, collection.id, drafts).map_err(refuse_engine)?;
        let ended = ended_version(&view, collection.id).map_err(refuse_engine)?;
        let now_ms = self.group.time_ms();
        let mut rng = (self.shared.randomness)();
        let sealed = drafts.iter().zip(before).map(|(draft, before)| {
            let origin = Origin::of(draft, before.as_ref(), now_ms, position);
            let version = before.map_or(ended, |before| before.version) + 1;
            let place = FramePlace { collection: collection.id, shard: self.id, frame: draft.frame, version };
            let fields = FrameFields {
                version,
                position: origin.position,
                created_ms: origin.created_ms,
                updated_ms: now_ms,
                expires_ms: expires_ms(draft, collection, now_ms),
                owner: draft.owner,
                session: draft.session,
                digest: draft.digest,
                spaces: draft.content.spaces(),
                class: draft.class,
                chunks: draft.chunks.clone(),
                extensions: Extensions::default(),
            };
            let SealedContent { body, vectors } = keys.seal(&draft.content, &fields, &place, &mut rng);
            StoreFrame {
                collection: collection.id,
                frame: draft.frame,
                condition: draft.condition,
                keeps_origin: origin.is_kept,
                record: FrameRecord { fields, body },
                vectors,
                key_version: keys.key.version(),
                keep_versions: collection.retention.versions(),
            }
        });
        Ok(sealed.collect())
    }
}

/// What a draft's caller said.
fn fingerprint(draft: &Draft) -> impl Iterator<Item = u8> {
    let position = draft.position.map_or(0, Position::packed);
    let (kind, expected) = match draft.condition {
        Condition::Create => (0, 0),
        Condition::Replace => (1, 0),
        Condition::Expect(version) => (2, version),
    };
    let numbers = [draft.created_ms, position, kind, expected];
    draft.digest.into_iter().chain(numbers.into_iter().flat_map(u64::to_le_bytes))
}

/// What is there of drafts' frames, also of those that are over their time: their versions are not given again.
fn versions_before(
    view: &StateReader,
    collection: CollectionId,
    drafts: &[&Draft],
) -> Result<Vec<Option<FrameFields>>, EngineError> {
    let keys: Vec<_> = drafts.iter().map(|draft| record::frame_key(collection, draft.frame)).collect();
    let stored = view.multi_get(&keys)?;
    stored
        .into_iter()
        .map(|stored| Ok(stored.map(|stored| FrameRecord::decode(&stored)).transpose()?.map(|record| record.fields)))
        .collect()
}

/// Where and when a frame began: kept by its later versions.
struct Origin {
    /// Its place in its session.
    position: u64,
    created_ms: u64,
    /// Whether it is that of the version before.
    is_kept: bool,
}

impl Origin {
    fn of(draft: &Draft, before: Option<&FrameFields>, now_ms: u64, call: u64) -> Self {
        let kept = before.filter(|before| !before.expired(now_ms));
        let position = match (draft.position, kept) {
            // As for calls: not so far ahead of the clock that it leads later ones astray.
            (Some(said), _) => said.packed().min(Position::new(furthest_position(now_ms), 0).packed()),
            (None, Some(before)) if before.session == draft.session => before.position,
            (None, _) => Position::new(call, draft.index).packed(),
        };
        let created_ms = match (draft.created_ms, kept) {
            (0, Some(before)) => before.created_ms,
            (0, None) => now_ms,
            (said_ms, _) => said_ms.min(now_ms),
        };
        let is_kept = kept.is_some_and(|before| (before.position, before.created_ms) == (position, created_ms));
        Origin { position, created_ms, is_kept }
    }
}

/// When a frame will be over; 0 = never.
fn expires_ms(draft: &Draft, collection: &CollectionRecord, now_ms: u64) -> u64 {
    match (draft.expires_ms, ttl_ms(draft.class, collection)) {
        (0, 0) => 0,
        (0, ttl_ms) => now_ms.saturating_add(ttl_ms),
        (said_ms, _) => said_ms,
    }
}

/// The furthest position, microseconds, that is taken from a caller.
fn furthest_position(now_ms: u64) -> u64 {
    now_ms.saturating_mul(1_000).saturating_add(limits::MAX_POSITION_LEAD.as_micros() as u64)
}

/// Where a call wants to stand among others.
#[derive(Debug, Clone, Copy)]
struct CallPosition {
    /// Not before this, microseconds.
    micros: u64,
    /// This very one.
    is_fixed: bool,
}

/// Gives calls of a shard their places, on its leader: each later than those before.
#[derive(Default)]
pub struct Positions(AtomicU64);

impl Positions {
    /// The place of a call, microseconds, where `stored` is the greatest one in the state. One that is wanted too far ahead
    /// of the clock is as far ahead as may be.
    fn give(&self, call: CallPosition, stored: u64, now_ms: u64) -> u64 {
        let now = now_ms.saturating_mul(1_000);
        let wanted = call.micros.min(furthest_position(now_ms));
        let after = |last: u64| if call.is_fixed { wanted } else { wanted.max(now).max(last.max(stored) + 1) };
        let last = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |last| Some(last.max(after(last))));
        after(last.unwrap_or_else(|last| last))
    }
}

/// What drafts are sealed with.
struct DraftKeys {
    key: Arc<CollectionKey>,
    layer: Arc<ClusterLayerKey>,
}

/// The content of a draft, sealed.
struct SealedContent {
    body: Bytes,
    vectors: Bytes,
}

impl DraftKeys {
    fn seal(
        &self,
        content: &Content,
        fields: &FrameFields,
        place: &FramePlace,
        rng: &mut dyn CryptoRng,
    ) -> SealedContent {
        match content {
            Content::Plain { body, vectors } => {
                let vectors =
                    if vectors.is_empty() { Bytes::new() } else { place.seal_vectors(&self.key, vectors, rng).into() };
                SealedContent { body: place.seal_body(&self.key, fields, body, rng).into(), vectors }
            }
            Content::Private { body, vectors } => {
                let mut seal = |bound, inner: &Bytes| private::seal(&self.key, &self.layer, bound, inner, rng);
                let vectors = if vectors.is_empty() { Bytes::new() } else { seal(place.vectors_bound(), vectors) };
                SealedContent { body: seal(place.body_bound(&fields.encode()), body), vectors }
            }
        }
    }
}

/// How long a frame lives when no time is named: what is hidden lives as long as what needs it.
fn ttl_ms(class: Class, collection: &CollectionRecord) -> u64 {
    match class {
        Class::Memory => collection.ttl_seconds.saturating_mul(1_000),
        Class::Chunk | Class::Upload | Class::Binned => 0,
    }
}

fn write_header(header: Option<&node_v1::WriteHeader>) -> Result<&node_v1::WriteHeader, Problem> {
    header.ok_or_else(|| Problem::invalid("the write has no header"))
}

/// What a request is remembered under, in log and state. A router may have made the request's id of what is stored, so that
/// a repeated call has the same: keyed, it confirms no guess to whoever has a disk. The key is the collection's, the same in
/// every shard.
pub(super) fn keyed_request_id(tags: &CollectionKey, id: &[u8]) -> Result<RequestId, Refusal> {
    if id.len() != REQUEST_ID_BYTES {
        return Err(
            Problem::invalid(format!("a request id has {} bytes instead of {REQUEST_ID_BYTES}", id.len())).into()
        );
    }
    Ok(RequestId(u128::from_be_bytes(tags.tag(record::REQUEST_TAG, id))))
}

/// Request ids of later rounds: far apart from every id that a router draws at random, and the same on each retry.
pub fn round_id(request: RequestId, round: u32) -> RequestId {
    RequestId(request.0.wrapping_add((u128::from(round)) << 96))
}

fn to_wire(outcome: StoreOutcome) -> node_v1::WriteOutcome {
    match outcome {
        StoreOutcome::Stored(version) => node_v1::WriteOutcome { version, ..Default::default() },
        StoreOutcome::Same(version) => node_v1::WriteOutcome { version, unchanged: true, ..Default::default() },
        StoreOutcome::Moved => node_v1::WriteOutcome { moved: true, ..Default::default() },
        StoreOutcome::Conflict(version) => {
            refused(Problem::new(Code::Conflict, conflict_text(Condition::Create, version, None)))
        }
        StoreOutcome::Raced(_) => {
            refused(Problem::new(Code::Conflict, "other writers keep replacing this memory; try again"))
        }
        StoreOutcome::Foreign => refused(private::foreign()),
    }
}

/// What a caller is told whose condition does not hold for what is there: `version` is current, 0 if nothing is, and
/// `binned` rests in the bin.
fn conflict_text(condition: Condition, version: u64, binned: Option<u64>) -> String {
    match (condition, version, binned) {
        (Condition::Expect(expected), 0, Some(binned)) => format!(
            "expected_version is {expected}, and the memory was forgotten: version {binned} of it rests in the bin; bring it back \
             (change, action restore), or store anew with expected_version 0"
        ),
        (Condition::Expect(expected), 0, None) => {
            format!("expected_version is {expected}, and there is no memory of this id")
        }
        (Condition::Expect(0), version, _) => {
            format!("expected_version is 0, and the id holds a memory, version {version}")
        }
        (Condition::Expect(expected), version, _) => {
            format!("expected_version is {expected}, and version {version} is current")
        }
        (Condition::Create | Condition::Replace, version, _) => format!(
            "the id holds a memory that differs in content or another field, version {version}; use replace or expected_version \
             to store a new one"
        ),
    }
}

fn refused(problem: Problem) -> node_v1::WriteOutcome {
    node_v1::WriteOutcome { problem: Some(problem.into()), ..Default::default() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_conflict_names_what_is_there() {
        use Condition::{Create, Expect};
        let table = [
            (Expect(3), 0, Some(2), "version 2 of it rests in the bin"),
            (Expect(3), 0, None, "expected_version is 3, and there is no memory of this id"),
            (Expect(0), 4, None, "the id holds a memory, version 4"),
            (Expect(3), 4, None, "expected_version is 3, and version 4 is current"),
            (Create, 4, None, "differs in content or another field, version 4"),
        ];
        for (condition, version, binned, expected) in table {
            let text = conflict_text(condition, version, binned);
            assert!(text.contains(expected), "{text}");
        }
    }

    const NOW_MS: u64 = 1_800_000_000_000;
    const NOW: u64 = NOW_MS * 1_000;

    fn at(micros: u64) -> CallPosition {
        CallPosition { micros, is_fixed: false }
    }

    #[test]
    fn positions_follow_the_clock_what_was_seen_and_one_another() {
        let positions = Positions::default();
        assert_eq!(positions.give(at(0), 0, NOW_MS), NOW);
        assert_eq!(positions.give(at(0), 0, NOW_MS), NOW + 1, "two calls in one millisecond");
        assert_eq!(positions.give(at(NOW + 500), 0, NOW_MS), NOW + 500, "not before what was seen");
        assert_eq!(positions.give(at(0), 0, NOW_MS - 7), NOW + 501, "nor when the clock goes back");
        assert_eq!(positions.give(at(0), NOW + 900, NOW_MS), NOW + 901, "nor before what another leader gave");
        assert_eq!(positions.give(at(0), 0, NOW_MS + 5), NOW + 5_000);
    }

    #[test]
    fn a_position_that_is_made_up_leads_nobody_far_astray() {
        let positions = Positions::default();
        let lead = limits::MAX_POSITION_LEAD.as_micros() as u64;
        for made_up in [u64::MAX, u64::MAX >> 12, NOW + lead + 1] {
            let given = positions.give(at(made_up), 0, NOW_MS);
            assert!((NOW + lead..NOW + lead + 9).contains(&given), "{given}");
        }
        let fixed = CallPosition { micros: u64::MAX, is_fixed: true };
        assert_eq!(positions.give(fixed, 0, NOW_MS), NOW + lead);
    }

    #[test]
    fn a_fixed_position_is_given_as_it_is_and_later_ones_follow_it() {
        let positions = Positions::default();
        positions.give(at(0), 0, NOW_MS);
        let fixed = |micros| CallPosition { micros, is_fixed: true };
        assert_eq!(positions.give(fixed(NOW - 90), 0, NOW_MS), NOW - 90);
        assert_eq!(positions.give(fixed(NOW + 90), 0, NOW_MS), NOW + 90);
        assert_eq!(positions.give(at(0), 0, NOW_MS), NOW + 91);
    }
}
