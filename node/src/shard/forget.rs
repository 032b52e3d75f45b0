//! Removing frames, on the shard's leader: find what a request means, propose, answer.
//!
//! A request may mean more frames than one command should remove: each step finds some, and says whether there are more. What
//! goes into the bin is written once more, so such a step is bounded in bytes too.

use bytes::Bytes;
use mira_crypto::CollectionKey;
use mira_index::filter;
use mira_proto::{CollectionId, FrameId, Problem, Refusal, ShardId, limits, node_v1};
use mira_raft::{EngineError, StateReader};
use node_v1::forget_request::Scope as ForgetScope;

use crate::meta::CollectionRecord;

use crate::shard::{
    Shard,
    command::{self, Asker, ShardAnswer, ShardCommand},
    frame_id,
    migration::{
        ownership::{FrameOwnership, Ownership},
        transfer::ownership_of,
    },
    read::{self, private},
    record::{self, FrameRecord},
    refuse_engine, refuse_proposal, refuse_read,
    write::keyed_request_id,
};

/// Frames whose sizes are looked up at once: their contents are read for that.
const FITTED_AT_ONCE: usize = 16;

/// Where a request looks for what it means.
struct LookedAt {
    view: StateReader,
    collection: CollectionRecord,
    ownership: Option<Ownership>,
}

/// Frames that one step of a request removes.
#[derive(Default)]
pub(in crate::shard) struct ForgetStep {
    pub(in crate::shard) frames: Vec<FrameId>,
    /// Private frames of other owners than the asker that the request means and that stay.
    foreign: Vec<FrameId>,
    /// Whether there may be more.
    more: bool,
    /// Where a request goes on that does not find what it looks for by asking again.
    pub(in crate::shard) next: Option<FrameId>,
}

impl ForgetStep {
    /// Of the first frames that a scan found.
    fn of_scan(frames: Vec<FrameId>) -> Self {
        ForgetStep { more: frames.len() == limits::MAX_FORGET_STEP, frames, ..ForgetStep::default() }
    }

    /// Of a walk: the frames that it found, and where it ended, unless it was at the end.
    fn of_walk((frames, next): (Vec<FrameId>, Option<FrameId>)) -> Self {
        ForgetStep { frames, more: next.is_some(), next, ..ForgetStep::default() }
    }

    /// The first frames of it.
    fn truncate(&mut self, most: usize, goes_on_behind: bool) {
        if self.frames.len() > most {
            self.frames.truncate(most);
            self.more = true;
            self.next = self.frames.last().copied().filter(|_| goes_on_behind);
        }
    }

    /// How many private frames of others it has passed over; what lies behind its end is the next step's to count.
    fn private_left(&self) -> u64 {
        self.foreign.iter().filter(|&&frame| self.next.is_none_or(|next| frame <= next)).count() as u64
    }
}

impl<R: mira_raft::Runtime> Shard<R> {
    /// Removes frames by id, of a session, by filter, or all of a collection, into the bin or for good; at most
    /// [`limits::MAX_FORGET_STEP`] of them, and says whether there are more. Private frames go for their owner only: of those
    /// that are named by their ids the request is refused, of all of a collection they are passed over and counted.
    pub async fn forget(&self, request: node_v1::ForgetRequest) -> Result<node_v1::ForgetReply, Refusal> {
        let (header, collection) = self.begin_change(request.header.as_ref())?;
        let tags = self.shared.keyring.tags(&collection)?;
        let request_id = keyed_request_id(&tags, &header.request_id)?;
        let asker = private::asker_named(&self.shared.keyring, &collection, &request.owner)?;
        if request.ids.is_empty() {
            // A leader that has just been elected may not have applied what its predecessor acknowledged, and would miss it.
            self.group.read_index().await.map_err(refuse_read)?;
        }
        let view = self.group.reader().cached_view().map_err(|error| self.unreadable(error))?;
        let ownership = ownership_of(&view, collection.id).map_err(|error| self.unreadable(error))?;
        must_have_opened(ownership.as_ref(), &request.taken_over_from)?;
        must_know_growth(ownership.as_ref(), header.epoch, &request)?;
        let bin_ms = collection.retention.bin_ms().filter(|_| request.scope() == ForgetScope::IntoBin);
        let looked_at = LookedAt { view, collection, ownership };
        let mut step = self.next_step(&looked_at, &request, asker)?;
        let LookedAt { view, collection, .. } = looked_at;
        if bin_ms.is_some() {
            let fitting = fitting(&view, collection.id, &step.frames).map_err(|error| self.unreadable(error))?;
            let goes_by_asking_again = !request.session.is_empty() || !request.private_session.is_empty();
            step.truncate(fitting, !goes_by_asking_again);
        }
        let private_left = step.private_left();
        if step.frames.is_empty() && !request.may_be_retry {
            return Ok(node_v1::ForgetReply {
                index: view.applied_index(),
                more: step.more,
                next: step.next.map(wire).unwrap_or_default(),
                frozen_for: self.frozen_for(collection.id)?,
                private_left,
                ..Default::default()
            });
        }
        let frames = step.frames.clone();
        let (into_bin, more) = (bin_ms.is_some(), step.more);
        let command = ShardCommand::Forget { collection: collection.id, frames, asker, into_bin, more };
        let (payload, fingerprint) = (command.encode(), fingerprint(&request, &tags));
        let proposed = self.group.propose_content(request_id, &fingerprint, payload).await.map_err(refuse_proposal)?;
        let (removed, moved, more, binned_ms) = match command::decode(&proposed.response).map_err(refuse_engine)? {
            ShardAnswer::Forget { removed, moved, more, binned_ms } => (removed, moved, more, binned_ms),
            other => return Err(Problem::internal(format!("a forget was answered with {other:?}")).into()),
        };
        // Answered with what an earlier try did, which may have been cut off behind it: what was found now is for a later step.
        let next = if proposed.replayed { request.after } else { step.next.map(wire).unwrap_or_default() };
        // What was found and is not the asker's stays, and every step would find it again.
        let goes_on = proposed.replayed || step.next.is_some() || !removed.is_empty();
        let is_binned = binned_ms != 0 && !removed.is_empty();
        let bin_ms = collection.retention.bin_ms().filter(|_| is_binned).unwrap_or_default();
        Ok(node_v1::ForgetReply {
            removed: removed.into_iter().map(wire).collect(),
            index: proposed.index,
            more: more && goes_on,
            next,
            moved: moved.into_iter().map(wire).collect(),
            frozen_for: self.frozen_for(collection.id)?,
            restorable_until_ms: if bin_ms > 0 { binned_ms.saturating_add(bin_ms) } else { 0 },
            // A step that was done before is gone over again behind it.
            private_left: if proposed.replayed { 0 } else { private_left },
        })
    }

    /// The frames that a request means, as many as one step removes.
    fn next_step(
        &self,
        looked_at: &LookedAt,
        request: &node_v1::ForgetRequest,
        asker: Asker,
    ) -> Result<ForgetStep, Refusal> {
        let LookedAt { view, collection, ownership } = looked_at;
        // What another shard decides about is not removed here, and would be found again by every step.
        let mine = |frame: FrameId| {
            let judge =
                |ownership: &Ownership| ownership.of_frame(&self.placement(collection.id, ownership.span), frame);
            ownership.as_ref().is_none_or(|ownership| judge(ownership) == FrameOwnership::Owned)
        };
        if request.scope() == ForgetScope::FromBin && request.ids.is_empty() {
            let mut step = self.found_in_bin((view, collection), request, asker)?;
            step.frames.retain(|&frame| mine(frame));
            return Ok(step);
        }
        if !request.filter_json.is_empty() {
            let mut step = ForgetStep::of_walk(self.filtered(looked_at, request)?);
            step.frames.retain(|&frame| mine(frame));
            return Ok(step);
        }
        let most = limits::MAX_FORGET_STEP;
        if request.all {
            let all = read::FramesAfter { collection: collection.id, after: after(request)? };
            let step = read::frames_of_collection(view, &all, most, mine)
                .and_then(|frames| of_asker(view, collection.id, frames, asker));
            return step.map_err(|error| self.unreadable(error));
        }
        if let Some(tag) = self.session_to_forget(collection, request)? {
            let session = read::SessionOf { collection: collection.id, tag };
            let frames = read::frames_of_session(view, &session, most, mine);
            let frames = frames.map_err(|error| self.unreadable(error))?;
            return Ok(ForgetStep::of_scan(frames));
        }
        let mut frames: Vec<FrameId> = request.ids.iter().map(|id| frame_id(id)).collect::<Result<_, _>>()?;
        self.must_have_arrived(collection.id, frames.iter().copied())?;
        let decided: Vec<FrameId> = frames.iter().copied().filter(|&frame| mine(frame)).collect();
        self.must_be_askers(collection, &decided, asker)?;
        if let Some(after) = after(request)? {
            let done = frames.iter().position(|&frame| frame == after).map_or(0, |at| at + 1);
            frames.drain(..done);
        }
        Ok(ForgetStep { frames, ..ForgetStep::default() })
    }

    /// The next frames in the bin that a request means, and where to go on if not all were looked at.
    pub(in crate::shard) fn found_in_bin(
        &self,
        (view, collection): (&StateReader, &CollectionRecord),
        request: &node_v1::ForgetRequest,
        asker: Asker,
    ) -> Result<ForgetStep, Refusal> {
        let condition = filter::parse(&request.filter_json)?;
        let session = self.session_to_forget(collection, request)?;
        let mut foreign = Vec::new();
        let mut walk = || {
            self.walk_bin(view, collection.id, after(request)?, &mut |frame, record| {
                Ok(match (&condition, session) {
                    _ if request.all && !asker.may_remove(record.fields.owner) => {
                        foreign.push(frame);
                        false
                    }
                    _ if request.all => true,
                    (Some(condition), _) => self
                        .read_plain(collection, frame, record)?
                        .is_some_and(|(attributes, times)| condition.matches(&attributes, &times)),
                    (None, session) => session.is_some() && record.fields.session == session,
                })
            })
        };
        let step = ForgetStep::of_walk(tokio::task::block_in_place(&mut walk)?);
        Ok(ForgetStep { foreign, ..step })
    }

    /// The tag of the session that a request means, if it means one.
    fn session_to_forget(
        &self,
        collection: &CollectionRecord,
        request: &node_v1::ForgetRequest,
    ) -> Result<Option<[u8; 16]>, Refusal> {
        if !request.session.is_empty() {
            self.session_tag(collection, &request.session).map(Some)
        } else if !request.private_session.is_empty() {
            private::session_tag(&self.shared.keyring, collection, &request.private_session).map(Some)
        } else {
            Ok(None)
        }
    }

    /// The targets for which this shard has frozen frames, in a growth that is not known to be over.
    fn frozen_for(&self, collection: CollectionId) -> Result<Vec<ShardId>, Refusal> {
        Ok(self.ownership(collection)?.map(|ownership| ownership.frozen.into_keys().collect()).unwrap_or_default())
    }

    /// The next frames that a filter means. Opening them is work of up to a second, for which this thread lets its other
    /// tasks go.
    fn filtered(
        &self,
        LookedAt { view, collection, .. }: &LookedAt,
        request: &node_v1::ForgetRequest,
    ) -> Result<(Vec<FrameId>, Option<FrameId>), Refusal> {
        let condition = filter::parse(&request.filter_json)?.ok_or_else(|| Problem::invalid("the filter is empty"))?;
        let after = after(request)?;
        tokio::task::block_in_place(|| self.matching_frames(view, collection, &condition, after))
    }

    /// Removes what a dropped collection left.
    pub async fn purge(&self, collection: u64) -> Result<(), Refusal> {
        let payload = ShardCommand::Purge { collection }.encode();
        self.group.propose(None, payload).await.map_err(refuse_proposal)?;
        Ok(())
    }
}

/// Where the step before ended.
fn after(request: &node_v1::ForgetRequest) -> Result<Option<FrameId>, Refusal> {
    if request.after.is_empty() { Ok(None) } else { frame_id(&request.after).map(Some) }
}

/// Those of these frames of a collection that the asker may remove, and apart from them those that it may not; as many as a
/// look at their records may take.
fn of_asker(
    view: &StateReader,
    collection: CollectionId,
    frames: Vec<FrameId>,
    asker: Asker,
) -> Result<ForgetStep, EngineError> {
    let (mut step, mut bytes, mut looked_at) = (ForgetStep::default(), 0, 0);
    for some in frames.chunks(FITTED_AT_ONCE) {
        if bytes > limits::BIN_STEP_BYTES {
            break;
        }
        let keys: Vec<_> = some.iter().map(|&frame| record::frame_key(collection, frame)).collect();
        for (&frame, stored) in some.iter().zip(view.multi_get(&keys)?) {
            let Some(stored) = stored else { continue };
            bytes += stored.len();
            let owner = FrameRecord::decode(&stored)?.fields.owner;
            if asker.may_remove(owner) { step.frames.push(frame) } else { step.foreign.push(frame) }
        }
        looked_at += some.len();
    }
    let is_cut = looked_at < frames.len() || frames.len() == limits::MAX_FORGET_STEP;
    step.next = frames[..looked_at].last().copied().filter(|_| is_cut);
    step.more = is_cut;
    Ok(step)
}

/// How many of these frames may go into the bin in one step, one at least.
fn fitting(view: &StateReader, collection: CollectionId, frames: &[FrameId]) -> Result<usize, EngineError> {
    let (mut bytes, mut fitting) = (0, 0);
    for some in frames.chunks(FITTED_AT_ONCE) {
        let keys: Vec<_> = some
            .iter()
            .flat_map(|&frame| [record::frame_key(collection, frame), record::vectors_key(collection, frame)])
            .collect();
        let sizes: Vec<usize> = view.multi_get(&keys)?.iter().map(|part| part.as_ref().map_or(0, Bytes::len)).collect();
        for parts in sizes.chunks(2) {
            bytes += parts.iter().sum::<usize>();
            if bytes > limits::BIN_STEP_BYTES && fitting > 0 {
                return Ok(fitting);
            }
            fitting += 1;
        }
    }
    Ok(fitting)
}

/// Refuses a request after a map so old that its sender does not know that others have to be asked too.
fn must_know_growth(
    ownership: Option<&Ownership>,
    epoch: u64,
    request: &node_v1::ForgetRequest,
) -> Result<(), Refusal> {
    match ownership.filter(|ownership| ownership.min_epoch > epoch && request.ids.is_empty()) {
        Some(ownership) => Err(Refusal::StaleMap { epoch: ownership.min_epoch }),
        None => Ok(()),
    }
}

/// Whether a target has opened what these sources have frozen for it.
fn must_have_opened(ownership: Option<&Ownership>, sources: &[ShardId]) -> Result<(), Refusal> {
    if sources.iter().all(|&source| ownership.is_some_and(|ownership| ownership.is_open(source))) {
        return Ok(());
    }
    Err(Refusal::NotReady("frames of the collection are still on their way to this shard".into()))
}

/// What tells a retry of a request from another request: keyed, because it is kept on disks. Not where its steps stand, for
/// one that is sent again begins anew.
fn fingerprint(request: &node_v1::ForgetRequest, tags: &CollectionKey) -> [u8; 32] {
    let (ids, all) = (request.ids.concat(), [u8::from(request.all), request.scope as u8]);
    let (session, filter) = (request.session.as_bytes(), request.filter_json.as_bytes());
    let mut hasher = tags.content_hasher();
    for part in [&ids[..], &all, session, filter, &request.private_session, &request.said] {
        hasher.update(&(part.len() as u64).to_le_bytes());
        hasher.update(part);
    }
    hasher.finish()
}

fn wire(frame: FrameId) -> Bytes {
    frame.to_be_bytes().to_vec().into()
}
