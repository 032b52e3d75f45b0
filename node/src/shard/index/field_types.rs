//! Which types of values the fields of a filter have in a shard's indexes.
//!
//! An index knows it of everything that it has taken. The tail is looked at only for fields that would clash without it,
//! so that a search which makes sense pays for a few look-ups.

use std::sync::atomic::Ordering;

use mira_index::{Attributes, Condition, TypeSet, VectorIndex};

use super::{ShardIndex, space::SpaceIndex, tail::Tail};
use crate::meta::CollectionRecord;

/// Fields, each with the types of its values.
pub type FieldTypes = Vec<(String, TypeSet)>;

impl ShardIndex {
    /// What the fields that a condition compares hold in frames with vectors of their own; `None` while the index is being
    /// built.
    pub(in crate::shard) fn field_types(
        &self,
        collection: &CollectionRecord,
        condition: &Condition,
    ) -> Option<FieldTypes> {
        let generation = self.generation.load(Ordering::Acquire);
        let index = self.index_of((&collection.own_space()).into());
        let fields = index.map(|index| {
            let tail = index.tail.lock().clone();
            self.known_types(collection, condition, &index, &tail)
        });
        let is_sound = self.is_ready() && self.generation.load(Ordering::Acquire) == generation;
        is_sound.then(|| fields.unwrap_or_default())
    }

    /// The same of one space, with its tail as it was at one moment.
    pub(super) fn known_types(
        &self,
        collection: &CollectionRecord,
        condition: &Condition,
        index: &SpaceIndex,
        tail: &Tail,
    ) -> FieldTypes {
        let stored = tail.iter().filter_map(|(&frame, entry)| Some((frame, entry.stored.as_deref()?)));
        let attributes = stored.map(|(frame, stored)| self.attributes_of(collection, frame, stored));
        known(condition, index.vectors.get(), attributes)
    }
}

/// What an index knows of the fields that a condition compares, and more of the tail where that matters.
fn known<'a>(
    condition: &Condition,
    vectors: Option<&VectorIndex>,
    tail: impl Iterator<Item = &'a Attributes>,
) -> FieldTypes {
    let of = |field: &str| vectors.map_or(TypeSet::NONE, |vectors| vectors.field_types(field));
    let mut fields: FieldTypes =
        condition.compared_fields().into_iter().map(|field| (field.to_owned(), of(field))).collect();
    // Not asked of the index once more: whoever asks waits for what is being indexed.
    let held = |field: &str| fields.iter().find(|(name, _)| name == field).map_or(TypeSet::NONE, |&(_, types)| types);
    if !condition.is_well_typed(&held) {
        tail.for_each(|attributes| add_types(&mut fields, attributes));
    }
    fields
}

/// Adds what the fields hold in one frame.
pub(in crate::shard) fn add_types(fields: &mut FieldTypes, attributes: &Attributes) {
    for (field, types) in fields {
        *types = attributes.of(field).fold(*types, |types, value| types.with(TypeSet::of(value)));
    }
}
