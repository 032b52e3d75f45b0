//! What the shard is to the frames of one command.

use std::sync::Arc;

use mira_proto::{CollectionId, FrameId};
use mira_raft::{EngineError, Txn};

use crate::shard::migration::ownership::{FrameOwnership, FramePlacement, Ownership, PlacementCache};

/// Looks up a collection's ownership once for all the frames that a command names in a row.
pub(super) struct OwnershipLookup<'a> {
    cache: &'a PlacementCache,
    last: Option<LookedUp>,
}

/// The collection that was asked about last.
struct LookedUp {
    collection: CollectionId,
    /// None of a collection that never grew.
    growth: Option<GrowthOwnership>,
}

/// The shard's part in a growth.
struct GrowthOwnership {
    ownership: Ownership,
    placement: Arc<FramePlacement>,
}

impl<'a> OwnershipLookup<'a> {
    /// Nothing is looked up yet.
    pub(super) fn new(cache: &'a PlacementCache) -> Self {
        OwnershipLookup { cache, last: None }
    }

    /// What the shard is to a frame, as the command finds the state.
    pub(super) fn of_frame(
        &mut self,
        collection: CollectionId,
        frame: FrameId,
        txn: &Txn<'_>,
    ) -> Result<FrameOwnership, EngineError> {
        let looked = match self.last.take() {
            Some(looked) if looked.collection == collection => looked,
            _ => self.look_up(collection, txn)?,
        };
        let growth = self.last.insert(looked).growth.as_ref();
        // A collection that never grew has been here from its beginning.
        Ok(growth.map_or(FrameOwnership::Owned, |growth| growth.ownership.of_frame(&growth.placement, frame)))
    }

    fn look_up(&self, collection: CollectionId, txn: &Txn<'_>) -> Result<LookedUp, EngineError> {
        let growth = ownership_of(collection, txn)?.map(|ownership| {
            let placement = self.cache.get(collection, ownership.span);
            GrowthOwnership { ownership, placement }
        });
        Ok(LookedUp { collection, growth })
    }
}

/// The shard's part in the last growth of a collection.
pub(super) fn ownership_of(collection: CollectionId, txn: &Txn<'_>) -> Result<Option<Ownership>, EngineError> {
    txn.get(&Ownership::key(collection))?.map(|stored| Ownership::decode(&stored)).transpose()
}
