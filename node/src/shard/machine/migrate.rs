//! Takes the steps of a collection that grows, in the order that its ownership allows.

use mira_proto::{CollectionId, FrameId, ShardId};
use mira_raft::EngineError;

use super::{Transition, forget, ingest::ingest};
use crate::shard::{
    command::{Asker, MigratedFrame, OwnershipStep, ShardAnswer},
    migration::ownership::{Backfill, FrameOwnership, Ownership, Progress, Span},
};

/// A growth that a shard takes part in.
pub(super) struct GrowthPart {
    pub(super) collection: CollectionId,
    pub(super) shard: ShardId,
    pub(super) span: Span,
}

/// A pass that a target wants to begin.
struct NextPass {
    source: ShardId,
    pass: u32,
    start: u64,
    last: bool,
}

/// A page of a pass.
struct BackfillPage {
    source: ShardId,
    pass: u32,
    after: Option<FrameId>,
    upto: Option<FrameId>,
    frames: Vec<MigratedFrame>,
    gone: Vec<FrameId>,
    ended_version: u64,
}

/// Takes a step, if it is the next one; answers how the shard stands then.
pub(super) fn take_step(
    part: GrowthPart,
    step: OwnershipStep,
    state: &mut Transition<'_, '_>,
) -> Result<ShardAnswer, EngineError> {
    let GrowthPart { collection, shard, span } = part;
    if !span.is_possible() {
        return Ok(ShardAnswer::Grow(state.ownership(collection)?));
    }
    let mut ownership = match state.ownership(collection)? {
        Some(ownership) if ownership.span == span => ownership,
        // A step of an earlier growth that comes late.
        Some(ownership) if ownership.span.to > span.from => return Ok(ShardAnswer::Grow(Some(ownership))),
        there if !begins(&step) => return Ok(ShardAnswer::Grow(there)),
        _ => Ownership::new(shard, span),
    };
    match step {
        OwnershipStep::Freeze { target, min_epoch } => {
            ownership.frozen.entry(target).or_insert(state.at.index);
            ownership.min_epoch = ownership.min_epoch.max(min_epoch);
        }
        OwnershipStep::Finalize { min_epoch } => {
            ownership.finalized = true;
            ownership.min_epoch = ownership.min_epoch.max(min_epoch);
        }
        OwnershipStep::BeginPass { source, pass, start, last } => {
            begin_pass(&mut ownership, NextPass { source, pass, start, last });
        }
        OwnershipStep::ApplyPage { source, pass, after, upto, frames, gone, ended_version } => {
            let page = BackfillPage { source, pass, after, upto, frames, gone, ended_version };
            if !apply_page(collection, &mut ownership, page, state)? {
                return Ok(ShardAnswer::Grow(Some(ownership)));
            }
        }
        OwnershipStep::Cleanup { frames } => clean_up(collection, &ownership, frames, state)?,
    }
    state.txn.put(&Ownership::key(collection), ownership.encode());
    Ok(ShardAnswer::Grow(Some(ownership)))
}

/// Whether a shard that has done nothing for a growth yet may begin with that step.
fn begins(step: &OwnershipStep) -> bool {
    matches!(step, OwnershipStep::Freeze { .. } | OwnershipStep::BeginPass { .. } | OwnershipStep::Finalize { .. })
}

/// Begins a pass, if it follows on the one before.
fn begin_pass(ownership: &mut Ownership, next: NextPass) {
    let NextPass { source, pass, start, last } = next;
    let there = ownership.backfills.get(&source);
    let follows = match there {
        None => pass == 1 && !last,
        Some(there) => there.at == Progress::Complete && pass == there.pass + 1 && start >= there.start,
    };
    if follows {
        let since = there.map_or(0, |there| there.start);
        let at = Progress::Running(None);
        ownership.backfills.insert(source, Backfill { pass, start, since, last, brought: 0, at });
    }
}

/// Takes a page, if it is the next one; whether it is.
fn apply_page(
    collection: CollectionId,
    ownership: &mut Ownership,
    page: BackfillPage,
    state: &mut Transition<'_, '_>,
) -> Result<bool, EngineError> {
    let Some(backfill) = ownership.backfills.get_mut(&page.source) else { return Ok(false) };
    // A page that another leader of this shard has taken already, or one of an earlier pass.
    if backfill.pass != page.pass || backfill.at != Progress::Running(page.after) {
        return Ok(false);
    }
    backfill.brought += page.frames.len() as u64;
    backfill.at = match (page.upto, backfill.last) {
        (Some(upto), _) => Progress::Running(Some(upto)),
        (None, false) => Progress::Complete,
        (None, true) => Progress::Open,
    };
    // They lie elsewhere, whoever they belong to.
    forget::remove(collection, page.gone, Asker::Operator, state)?;
    page.frames.into_iter().try_for_each(|frame| ingest(collection, frame, state))?;
    state.note_ended(collection, page.ended_version)?;
    Ok(true)
}

/// Removes frames of a finalized source that have moved away.
fn clean_up(
    collection: CollectionId,
    ownership: &Ownership,
    mut frames: Vec<FrameId>,
    state: &mut Transition<'_, '_>,
) -> Result<(), EngineError> {
    let placement = state.placement.get(collection, ownership.span);
    frames.retain(|frame| ownership.finalized && ownership.of_frame(&placement, *frame) == FrameOwnership::MovedAway);
    forget::remove(collection, frames, Asker::Operator, state).map(drop)
}
