//! Removing frames, on the shard's leader: find what a request means, propose, answer.
//!
//! A request may mean more frames than one command should remove: each step finds some, and says whether there are more.

use bytes::Bytes;
use mira_crypto::CollectionKey;
use mira_index::filter;
use mira_proto::{CollectionId, FrameId, Problem, Refusal, ShardId, limits, node_v1};
use mira_raft::StateReader;

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
    refuse_engine, refuse_proposal, refuse_read,
    write::{keyed_request_id, write_header},
};

/// Where a request looks for what it means.
struct LookedAt {
    view: StateReader,
    collection: CollectionRecord,
    ownership: Option<Ownership>,
}

/// Frames that one step of a request removes.
struct ForgetStep {
    frames: Vec<FrameId>,
    /// Whether there may be more.
    more: bool,
    /// Where a filter goes on.
    next: Option<FrameId>,
}

impl ForgetStep {
    /// Of the first frames that a scan found.
    fn of_scan(frames: Vec<FrameId>) -> Self {
        ForgetStep { more: frames.len() == limits::MAX_FORGET_STEP, frames, next: None }
    }
}

impl<R: mira_raft::Runtime> Shard<R> {
    /// Removes frames by id, of a session, by filter, or all of a collection; at most [`limits::MAX_FORGET_STEP`] of them,
    /// and says whether there are more.
    pub async fn forget(&self, request: node_v1::ForgetRequest) -> Result<node_v1::ForgetReply, Refusal> {
        self.must_lead()?;
        let header = write_header(request.header.as_ref())?;
        let collection = self.collection(header.epoch, header.collection)?;
        let tags = self.shared.keyring.tags(&collection)?;
        let request_id = keyed_request_id(&tags, &header.request_id)?;
        let asker = private::asker(&self.shared.keyring, &collection, &request)?;
        if request.ids.is_empty() {
            // A leader that has just been elected may not have applied what its predecessor acknowledged, and would miss it.
            self.group.read_index().await.map_err(refuse_read)?;
        }
        let view = self.group.reader().cached_view().map_err(|error| self.unreadable(error))?;
        let ownership = ownership_of(&view, collection.id).map_err(|error| self.unreadable(error))?;
        must_have_opened(ownership.as_ref(), &request.taken_over_from)?;
        must_know_growth(ownership.as_ref(), header.epoch, &request)?;
        let looked_at = LookedAt { view, collection, ownership };
        let step = self.next_step(&looked_at, &request, asker)?;
        let LookedAt { view, collection, .. } = looked_at;
        if step.frames.is_empty() && !request.may_be_retry {
            let index = view.applied_index();
            let next = step.next.map(wire).unwrap_or_default();
            let frozen_for = self.frozen_for(collection.id)?;
            return Ok(node_v1::ForgetReply { index, more: step.more, next, frozen_for, ..Default::default() });
        }
        let frames = step.frames.clone();
        let command = ShardCommand::Forget { collection: collection.id, frames, asker, more: step.more };
        let (payload, fingerprint) = (command.encode(), fingerprint(&request, &tags));
        let proposed = self.group.propose_content(request_id, &fingerprint, payload).await.map_err(refuse_proposal)?;
        let (removed, moved, more) = match command::decode(&proposed.response).map_err(refuse_engine)? {
            ShardAnswer::Forget { removed, moved, more } => (removed, moved, more),
            other => return Err(Problem::internal(format!("a forget was answered with {other:?}")).into()),
        };
        // Answered with what an earlier try did, which may have been cut off behind it: what was found now is for a later step.
        let next = if proposed.replayed { request.after } else { step.next.map(wire).unwrap_or_default() };
        // What was found and is not the asker's stays, and every step would find it again.
        let goes_on = proposed.replayed || step.next.is_some() || !removed.is_empty();
        Ok(node_v1::ForgetReply {
            removed: removed.into_iter().map(wire).collect(),
            index: proposed.index,
            more: more && goes_on,
            next,
            moved: moved.into_iter().map(wire).collect(),
            frozen_for: self.frozen_for(collection.id)?,
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
        if !request.filter_json.is_empty() {
            let (frames, next) = self.filtered(looked_at, request)?;
            let frames = frames.into_iter().filter(|&frame| mine(frame)).collect();
            return Ok(ForgetStep { frames, more: next.is_some(), next });
        }
        let most = limits::MAX_FORGET_STEP;
        if request.all {
            let frames = read::frames_of_collection(view, collection.id, most, mine);
            let frames = frames.map_err(|error| self.unreadable(error))?;
            return Ok(ForgetStep::of_scan(frames));
        }
        if let Some(tag) = self.session_to_forget(collection, request)? {
            let session = read::SessionOf { collection: collection.id, tag };
            let frames = read::frames_of_session(view, &session, most, mine);
            let frames = frames.map_err(|error| self.unreadable(error))?;
            return Ok(ForgetStep::of_scan(frames));
        }
        let frames: Vec<FrameId> = request.ids.iter().map(|id| frame_id(id)).collect::<Result<_, _>>()?;
        self.must_have_arrived(collection.id, frames.iter().copied())?;
        let decided: Vec<FrameId> = frames.iter().copied().filter(|&frame| mine(frame)).collect();
        self.must_be_askers(collection, &decided, asker)?;
        Ok(ForgetStep { frames, more: false, next: None })
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
        let after = if request.after.is_empty() { None } else { Some(frame_id(&request.after)?) };
        tokio::task::block_in_place(|| self.matching_frames(view, collection, &condition, after))
    }

    /// Removes what a dropped collection left.
    pub async fn purge(&self, collection: u64) -> Result<(), Refusal> {
        let payload = ShardCommand::Purge { collection }.encode();
        self.group.propose(None, payload).await.map_err(refuse_proposal)?;
        Ok(())
    }
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
    let (ids, all) = (request.ids.concat(), [u8::from(request.all)]);
    let (session, filter) = (request.session.as_bytes(), request.filter_json.as_bytes());
    let mut hasher = tags.content_hasher();
    for part in [&ids[..], &all, session, filter, &request.private_session] {
        hasher.update(&(part.len() as u64).to_le_bytes());
        hasher.update(part);
    }
    hasher.finish()
}

fn wire(frame: FrameId) -> Bytes {
    frame.to_be_bytes().to_vec().into()
}
