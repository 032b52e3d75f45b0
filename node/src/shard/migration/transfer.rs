//! A shard's side of a collection that grows: pages of frames out of a source, into a target, and the steps around them.
//!
//! A page is read from any replica of the source that has applied what the pass began at; its frames are opened and sealed
//! anew for the target on the way, so that only ciphertext travels. The target's leader proposes it to its log, where it takes
//! effect if it is the next page and not otherwise ([`crate::shard::machine`]): repeated, delayed or proposed by two leaders, a
//! page counts once.

use std::sync::Arc;

use bytes::Bytes;
use mira_proto::{Code, CollectionId, FrameId, Problem, Refusal, ShardId, limits, node_v1};
use mira_raft::{EngineError, StateReader};

use crate::meta::CollectionRecord;

use crate::shard::{
    Shard,
    command::{self, MigratedFrame, OwnershipStep, ShardAnswer, ShardCommand},
    machine::decode_count,
    migration::{
        listing::{Listed, Moved, MovingFrames, PageWanted},
        ownership::{Backfill, FramePlacement, Ownership, Shown, Span},
    },
    record, refuse_proposal,
    reseal::Resealer,
};

/// A page of a pass, as a source sent it.
pub struct SentPage<'a> {
    /// The source.
    pub source: ShardId,
    /// The pass.
    pub backfill: &'a Backfill,
    /// It begins behind this frame.
    pub after: Option<FrameId>,
    /// What was sent.
    pub sent: node_v1::ExportReply,
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
        view: &StateReader,
        collection: &CollectionRecord,
        header: &node_v1::ReadHeader,
    ) -> Result<(Shown, Vec<ShardId>), Refusal> {
        let ownership = ownership_of(view, collection.id).map_err(|error| self.unreadable(error))?;
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

    /// Where a pass over this source's frames begins: now, or where the target's frames are frozen, which it does if asked.
    pub async fn begin_pass(&self, request: &node_v1::BeginPassRequest) -> Result<u64, Refusal> {
        self.must_lead()?;
        let span = self.agreed_span(request)?;
        if !request.freeze {
            return self.group.read_index().await.map_err(crate::shard::refuse_read);
        }
        let step = OwnershipStep::Freeze { target: request.target, min_epoch: request.epoch };
        let (ownership, _) = self.grow(request.collection, span, step).await?;
        let frozen_at = ownership
            .filter(|ownership| ownership.span == span)
            .and_then(|ownership| ownership.frozen.get(&request.target).copied());
        frozen_at.ok_or_else(|| Refusal::NotReady("the collection grows otherwise here".into()))
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
        let moving = MovingFrames { reader: &view, collection: collection.id, placement: &placement };
        let wanted = PageWanted { target: request.target, most: self.shared.page_frames, after, since: request.since };
        let mut listed = moving.list_page(&wanted).map_err(|error| self.unreadable(error))?;
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
    pub async fn apply_page(&self, collection: CollectionId, span: Span, page: SentPage<'_>) -> Result<(), Refusal> {
        let SentPage { source, backfill, after, sent } = page;
        let odd = || Problem::internal(format!("shard {source} sent a page that cannot be read"));
        let upto = if sent.upto.is_empty() { None } else { Some(crate::shard::frame_id(&sent.upto)?) };
        let ids: Vec<FrameId> = sent
            .ids
            .chunks(16)
            .map(|id| id.try_into().map(FrameId::from_be_bytes).map_err(|_| odd()))
            .collect::<Result<_, _>>()?;
        let frames: Vec<MigratedFrame> = sent
            .frames
            .iter()
            .map(|frame| MigratedFrame::decode(frame).map_err(|_| odd()))
            .collect::<Result<_, _>>()?;
        let placement = self.placement(collection, span);
        if frames.iter().any(|migrated| placement.of(migrated.frame) != (source, self.id)) {
            return Err(Problem::new(Code::Internal, format!("shard {source} sent frames of others")).into());
        }
        let listed = Listed { ids, changed: Vec::new(), upto };
        let moving = MovingFrames { reader: &self.group.reader(), collection, placement: &placement };
        let gone = moving.list_gone(source, after, &listed).map_err(|error| self.unreadable(error))?;
        let ended_version = sent.ended_version;
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
            self.ownership(collection)?.filter(|ownership| ownership.span == span && ownership.finalized)
        else {
            return Err(Refusal::NotReady("the source is not finalized".into()));
        };
        let placement = self.placement(collection, span);
        let moving = MovingFrames { reader: &self.group.reader(), collection, placement: &placement };
        let Moved { frames, upto } = moving.list_moved(&ownership, after).map_err(|error| self.unreadable(error))?;
        if !frames.is_empty() {
            self.grow(collection, span, OwnershipStep::Cleanup { frames }).await?;
        }
        Ok(upto)
    }

    /// The growth that another node speaks of, if this one knows it too: a node trusts nobody who asks it to give frames up.
    fn agreed_span(&self, request: &node_v1::BeginPassRequest) -> Result<Span, Refusal> {
        let &node_v1::BeginPassRequest { collection, from, to, epoch, .. } = request;
        let cluster = self.shared.cluster.borrow().clone();
        let growth = cluster.growths.get(&collection);
        if growth.is_some_and(|growth| (growth.from, growth.to, growth.epoch) == (from, to, epoch)) {
            return Ok(Span { from, to, shards: cluster.header.shards });
        }
        Err(Refusal::NotReady("this node does not know of that growth".into()))
    }
}

/// The greatest version that a frame had which was removed from a collection.
pub(crate) fn ended_version(reader: &StateReader, collection: CollectionId) -> Result<u64, EngineError> {
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
