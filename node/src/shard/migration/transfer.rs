//! A shard's side of a collection that grows: pages of frames out of a source, into a target, and the steps around them.
//!
//! A page is read from any replica of the source that has applied what the pass began at; its frames are opened and sealed
//! anew for the target on the way, so that only ciphertext travels. The target's leader proposes it to its log, where it takes
//! effect if it is the next page and not otherwise ([`crate::shard::machine`]): repeated, delayed or proposed by two leaders, a
//! page counts once.

use std::{collections::BTreeSet, ops::Bound, ops::ControlFlow, sync::Arc};

use bytes::Bytes;
use mira_proto::{Code, CollectionId, FrameId, Problem, Refusal, ShardId, limits, node_v1};
use mira_raft::{EngineError, StateReader};

use crate::meta::CollectionRecord;

use crate::shard::{
    Shard,
    command::{self, MigratedFrame, OwnershipStep, ShardAnswer, ShardCommand},
    machine::decode_count,
    migration::ownership::{Backfill, FrameOwnership, FramePlacement, Ownership, Shown, Span},
    record::{self, FrameHead},
    refuse_proposal,
    reseal::Resealer,
};

/// Frames of a source that move to one target, in order of their ids.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Listed {
    /// All of them in the range that was looked at.
    pub ids: Vec<FrameId>,
    /// Those that changed since; of them, the bodies are sent.
    pub changed: Vec<FrameId>,
    /// The last frame looked at; none when there are no more.
    pub upto: Option<FrameId>,
}

/// Lists frames of a source behind `after` that move to `target`, and which of them changed after `since`, until there are
/// `most` of the latter or enough heads were looked at.
pub fn list_moving(
    reader: &StateReader,
    collection: CollectionId,
    placement: &FramePlacement,
    (target, most): (ShardId, usize),
    (after, since): (Option<FrameId>, u64),
) -> Result<Listed, EngineError> {
    let start = after.map(|after| record::head_key(collection, after));
    let prefix = record::collection_prefix(record::Table::Heads, collection);
    let from = start.as_ref().map_or(Bound::Included(&prefix[..]), |start| Bound::Excluded(&start[..]));
    let end = record::head_key(collection, FrameId::MAX);
    let (mut listed, mut looked, mut failed) = (Listed::default(), 0, None);
    reader.scan(from, Bound::Included(&end), false, &mut |key, value| {
        if looked == limits::GROWTH_PAGE_HEADS || listed.changed.len() == most {
            return ControlFlow::Break(());
        }
        let Some((_, frame)) = record::parse_pair_key(key) else { return ControlFlow::Continue(()) };
        match FrameHead::decode(value) {
            Ok(head) if placement.of(frame).1 == target => {
                listed.ids.push(frame);
                if head.changed > since {
                    listed.changed.push(frame);
                }
            }
            Ok(_) => {}
            Err(error) => {
                failed = Some(error);
                return ControlFlow::Break(());
            }
        }
        looked += 1;
        listed.upto = Some(frame);
        ControlFlow::Continue(())
    })?;
    if let Some(error) = failed {
        return Err(error);
    }
    // Fewer than would have ended the page: there are no more.
    if looked < limits::GROWTH_PAGE_HEADS && listed.changed.len() < most {
        listed.upto = None;
    }
    Ok(listed)
}

/// Frames of a target in a range that it has from `source` and the source does not have any more.
pub fn list_gone(
    reader: &StateReader,
    collection: CollectionId,
    placement: &FramePlacement,
    source: ShardId,
    (after, listed): (Option<FrameId>, &Listed),
) -> Result<Vec<FrameId>, EngineError> {
    let start = after.map(|after| record::head_key(collection, after));
    let prefix = record::collection_prefix(record::Table::Heads, collection);
    let from = start.as_ref().map_or(Bound::Included(&prefix[..]), |start| Bound::Excluded(&start[..]));
    let end = record::head_key(collection, listed.upto.unwrap_or(FrameId::MAX));
    let there: BTreeSet<FrameId> = listed.ids.iter().copied().collect();
    let mut gone = Vec::new();
    reader.scan(from, Bound::Included(&end), false, &mut |key, _| {
        let frame = record::parse_pair_key(key).map(|(_, frame)| frame);
        gone.extend(frame.filter(|frame| placement.of(*frame).0 == source && !there.contains(frame)));
        ControlFlow::Continue(())
    })?;
    Ok(gone)
}

/// Frames of a settled source that have moved, behind `after`: at most [`limits::MAX_FORGET_STEP`] of them, and the last
/// frame looked at if there may be more.
pub fn list_moved(
    reader: &StateReader,
    collection: CollectionId,
    (ownership, placement): (&Ownership, &FramePlacement),
    after: Option<FrameId>,
) -> Result<(Vec<FrameId>, Option<FrameId>), EngineError> {
    let start = after.map(|after| record::head_key(collection, after));
    let prefix = record::collection_prefix(record::Table::Heads, collection);
    let from = start.as_ref().map_or(Bound::Included(&prefix[..]), |start| Bound::Excluded(&start[..]));
    let end = record::head_key(collection, FrameId::MAX);
    let (mut moved, mut looked, mut upto) = (Vec::new(), 0, None);
    reader.scan(from, Bound::Included(&end), false, &mut |key, _| {
        if looked == limits::GROWTH_PAGE_HEADS || moved.len() == limits::MAX_FORGET_STEP {
            upto = record::parse_pair_key(key).map(|(_, frame)| frame);
            return ControlFlow::Break(());
        }
        let frame = record::parse_pair_key(key).map(|(_, frame)| frame);
        moved.extend(frame.filter(|frame| ownership.claim(placement, *frame) == FrameOwnership::MovedAway));
        looked += 1;
        ControlFlow::Continue(())
    })?;
    // The frame that was looked at last but not judged comes first next time.
    Ok((moved, upto.map(|frame| frame - 1)))
}

impl<R: mira_raft::Runtime> Shard<R> {
    /// This shard's part in the last growth of a collection, as far as this replica has applied it.
    pub fn ownership(&self, collection: CollectionId) -> Result<Option<Ownership>, Refusal> {
        ownership_of(&self.group.reader(), collection).map_err(|error| self.unreadable(error))
    }

    /// Where the frames of a growing collection are and will be.
    pub fn placement(&self, collection: CollectionId, span: Span) -> Arc<FramePlacement> {
        self.placement.get(collection, span)
    }

    /// Which frames a read shows, and of a target, from which sources; refuses readers whose map is too old.
    pub(in crate::shard) fn shown(
        &self,
        collection: &CollectionRecord,
        header: &node_v1::ReadHeader,
    ) -> Result<(Shown, Vec<ShardId>), Refusal> {
        let ownership = self.ownership(collection.id)?;
        if let Some(ownership) = ownership.as_ref().filter(|ownership| ownership.min_epoch > header.epoch) {
            return Err(Refusal::StaleMap {
                epoch: ownership.min_epoch.max(self.shared.cluster.borrow().header.epoch),
            });
        }
        let grown_to = header.grown_to;
        let Some(growing) = header.migration.as_ref() else {
            // To this reader every frame is where it belongs: so it is, or this replica has not heard of a growth.
            let knows = |ownership: &Ownership| {
                ownership.has_grown_to(&self.placement(collection.id, ownership.span), grown_to)
            };
            if grown_to == 0 || ownership.is_some_and(|ownership| knows(&ownership)) {
                return Ok((Shown::all(), Vec::new()));
            }
            return Err(Refusal::NotReady("frames of the collection are still on their way here".into()));
        };
        let span = Span { from: growing.from, to: growing.to, shards: self.shared.cluster.borrow().header.shards };
        check_span(span)?;
        let placement = self.placement(collection.id, span);
        if placement.sources().contains(&self.id) {
            return Ok((Shown::of_source(placement, self.id, growing.without.iter().copied().collect()), Vec::new()));
        }
        let open =
            ownership.filter(|ownership| ownership.span == span).map(|ownership| ownership.open()).unwrap_or_default();
        Ok((Shown::of_target(placement, self.id, open.clone()), open.into_iter().collect()))
    }

    /// Has the shard take a step in the growth of a collection; on the leader only.
    pub async fn grow(
        &self,
        collection: CollectionId,
        span: Span,
        step: OwnershipStep,
    ) -> Result<(Option<Ownership>, u64), Refusal> {
        self.must_lead()?;
        let payload = ShardCommand::Grow { collection, shard: self.id, span, step }.encode();
        let proposed = self.group.propose(None, payload).await.map_err(refuse_proposal)?;
        match command::decode(&proposed.response).map_err(|error| self.unreadable(error))? {
            ShardAnswer::Grow(ownership) => Ok((ownership, proposed.index)),
            other => Err(Problem::internal(format!("a step of a growth was answered with {other:?}")).into()),
        }
    }

    /// Where a pass over this source's frames begins: now, or at the release of the target's frames, which it does if asked.
    pub async fn begin_pass(&self, request: &node_v1::BeginPassRequest) -> Result<u64, Refusal> {
        self.must_lead()?;
        let span = self.agreed_span(request.collection, (request.from, request.to), request.epoch)?;
        if !request.freeze {
            return self.group.read_index().await.map_err(crate::shard::refuse_read);
        }
        let step = OwnershipStep::Freeze { target: request.target, min_epoch: request.epoch };
        let (ownership, _) = self.grow(request.collection, span, step).await?;
        let released = ownership
            .filter(|ownership| ownership.span == span)
            .and_then(|ownership| ownership.released.get(&request.target).copied());
        released.ok_or_else(|| Refusal::NotReady("the collection grows otherwise here".into()))
    }

    /// One page of a pass over this source's frames.
    pub async fn export(&self, request: &node_v1::ExportRequest) -> Result<node_v1::ExportReply, Refusal> {
        let span = Span { from: request.from, to: request.to, shards: self.shared.cluster.borrow().header.shards };
        check_span(span)?;
        self.group.wait_applied(request.start, limits::READ_TRY / 2).await.map_err(crate::shard::refuse_read)?;
        let collection = self.collection(u64::MAX, request.collection)?;
        let after = if request.after.is_empty() { None } else { Some(crate::shard::frame_id(&request.after)?) };
        let view = self.group.reader().view().map_err(|error| self.unreadable(error))?;
        let placement = self.placement(collection.id, span);
        let page = (request.target, self.shared.page_frames);
        let mut listed = list_moving(&view, collection.id, &placement, page, (after, request.since))
            .map_err(|error| self.unreadable(error))?;
        let mut frames: Vec<Bytes> = Vec::new();
        let mut bytes = 0;
        let mut resealer = Resealer::new(&self.shared, &collection);
        for &frame in &listed.changed {
            let stored = self.stored(&view, collection.id, frame)?;
            let moved =
                resealer.moved(stored, self.id, request.target).map_err(|error| self.unopened(frame, &error))?;
            let sealed = moved.encode();
            if !frames.is_empty() && bytes + sealed.len() > limits::GROWTH_PAGE_BYTES {
                // The page ends before this frame.
                listed.upto = Some(frame - 1);
                listed.ids.retain(|&id| id < frame);
                break;
            }
            bytes += sealed.len();
            frames.push(sealed);
        }
        Ok(node_v1::ExportReply {
            ids: listed.ids.iter().flat_map(|id| id.to_be_bytes()).collect::<Vec<u8>>().into(),
            frames,
            upto: listed.upto.map(|upto| upto.to_be_bytes().to_vec()).unwrap_or_default().into(),
            ended_version: ended_version(&view, collection.id).map_err(|error| self.unreadable(error))?,
        })
    }

    /// Takes a page of a pass over a source's frames into this target.
    pub async fn adopt(
        &self,
        collection: CollectionId,
        span: Span,
        (source, backfill, after): (ShardId, &Backfill, Option<FrameId>),
        page: node_v1::ExportReply,
    ) -> Result<(), Refusal> {
        let odd = || Problem::internal(format!("shard {source} sent a page that cannot be read"));
        let upto = if page.upto.is_empty() { None } else { Some(crate::shard::frame_id(&page.upto)?) };
        let ids: Vec<FrameId> = page
            .ids
            .chunks(16)
            .map(|id| id.try_into().map(FrameId::from_be_bytes).map_err(|_| odd()))
            .collect::<Result<_, _>>()?;
        let frames: Vec<MigratedFrame> = page
            .frames
            .iter()
            .map(|frame| MigratedFrame::decode(frame).map_err(|_| odd()))
            .collect::<Result<_, _>>()?;
        let placement = self.placement(collection, span);
        if frames.iter().any(|adopted| placement.of(adopted.frame) != (source, self.id)) {
            return Err(Problem::new(Code::Internal, format!("shard {source} sent frames of others")).into());
        }
        let listed = Listed { ids, changed: Vec::new(), upto };
        let gone = list_gone(&self.group.reader(), collection, &placement, source, (after, &listed))
            .map_err(|error| self.unreadable(error))?;
        let ended_version = page.ended_version;
        let step = OwnershipStep::ApplyPage { source, pass: backfill.pass, after, upto, frames, gone, ended_version };
        self.grow(collection, span, step).await.map(drop)
    }

    /// Removes some of the frames that have moved away; returns where to go on, or none when there are no more.
    pub async fn clear_moved(
        &self,
        collection: CollectionId,
        span: Span,
        after: Option<FrameId>,
    ) -> Result<Option<FrameId>, Refusal> {
        self.must_lead()?;
        let Some(ownership) =
            self.ownership(collection)?.filter(|ownership| ownership.span == span && ownership.settled)
        else {
            return Err(Refusal::NotReady("the source has not settled".into()));
        };
        let placement = self.placement(collection, span);
        let (frames, upto) = list_moved(&self.group.reader(), collection, (&ownership, &placement), after)
            .map_err(|error| self.unreadable(error))?;
        if !frames.is_empty() {
            self.grow(collection, span, OwnershipStep::Cleanup { frames }).await?;
        }
        Ok(upto)
    }

    /// The growth that another node speaks of, if this one knows it too: a node trusts nobody who asks it to give frames up.
    fn agreed_span(&self, collection: CollectionId, (from, to): (u32, u32), epoch: u64) -> Result<Span, Refusal> {
        let cluster = self.shared.cluster.borrow().clone();
        let growth = cluster.growths.get(&collection);
        if growth.is_some_and(|growth| (growth.from, growth.to, growth.epoch) == (from, to, epoch)) {
            return Ok(Span { from, to, shards: cluster.header.shards });
        }
        Err(Refusal::NotReady("this node does not know of that growth".into()))
    }
}

/// The greatest version that a frame had which was removed from a collection.
pub(in crate::shard) fn ended_version(reader: &StateReader, collection: CollectionId) -> Result<u64, EngineError> {
    decode_count(reader.get(&record::ended_version_key(collection))?.as_deref())
}

/// A shard's part in the last growth of a collection.
pub fn ownership_of(reader: &StateReader, collection: CollectionId) -> Result<Option<Ownership>, EngineError> {
    reader.get(&Ownership::key(collection))?.map(|stored| Ownership::decode(&stored)).transpose()
}

/// What a hash ring can be made from.
fn check_span(span: Span) -> Result<(), Refusal> {
    if span.from >= 1 && span.from < span.to && span.to <= span.shards {
        return Ok(());
    }
    Err(Problem::invalid(format!("{} partitions cannot become {}", span.from, span.to)).into())
}
