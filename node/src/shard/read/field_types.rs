//! Which types of values the fields of a filter have in a shard, so that a router can refuse a comparison that no frame
//! could meet ([`mira_index::Condition::type_mismatch`]).
//!
//! A search says so with its answer (`index::field_types`). Frames without vectors are in no index; a search never finds
//! them, but `forget` by filter removes them too. It asks the index first and, only if that would have it refuse, walks
//! over all frames step by step.

use mira_index::{Condition, TypeSet, filter};
use mira_proto::{FrameId, Problem, Refusal, limits, node_v1};

use super::ReadView;
use crate::shard::{
    Shard, frame_id,
    index::{FieldTypes, add_types},
};

/// As routers read it.
pub(super) fn to_wire(fields: FieldTypes) -> node_v1::KnownFieldTypes {
    let known = fields.into_iter().filter(|(_, types)| !types.is_none());
    let fields = known.map(|(field, types)| node_v1::FieldTypes { field, types: types.bits().into() });
    node_v1::KnownFieldTypes { fields: fields.collect() }
}

impl<R: mira_raft::Runtime> Shard<R> {
    /// What the fields of a filter hold, in the index or, by steps, in all plain frames.
    pub async fn field_types(&self, request: node_v1::FieldTypesRequest) -> Result<node_v1::FieldTypesReply, Refusal> {
        let read = self.begin_read(request.header.as_ref()).await?;
        let condition = filter::parse(&request.filter_json)?.ok_or_else(|| Problem::invalid("the filter is empty"))?;
        if !request.walk {
            // While the index is being made only a walk can tell.
            let field_types = self.index.field_types(&read.collection, &condition).map(to_wire);
            let state = Some(self.look_again(request.header.as_ref(), read)?.state);
            return Ok(node_v1::FieldTypesReply { state, field_types, ..Default::default() });
        }
        let after = if request.after.is_empty() { None } else { Some(frame_id(&request.after)?) };
        let (fields, next) = tokio::task::block_in_place(|| self.types_of_frames(&read, &condition, after))?;
        let (more, next) = (next.is_some(), next.map(|frame| frame.to_be_bytes().to_vec().into()).unwrap_or_default());
        Ok(node_v1::FieldTypesReply { state: Some(read.state), field_types: Some(to_wire(fields)), more, next })
    }

    /// Of the next frames, and where to go on.
    fn types_of_frames(
        &self,
        ReadView { collection, view, .. }: &ReadView,
        condition: &Condition,
        after: Option<FrameId>,
    ) -> Result<(FieldTypes, Option<FrameId>), Refusal> {
        let compared = condition.compared_fields().into_iter();
        let mut fields: FieldTypes = compared.map(|field| (field.to_owned(), TypeSet::NONE)).collect();
        let (mut looked_at, mut last) = (0, None);
        self.walk_plain(view, collection, after, &mut |frame, read| {
            looked_at += 1;
            last = Some(frame);
            if let Some((attributes, _)) = read.as_ref() {
                add_types(&mut fields, attributes);
            }
            looked_at < limits::MAX_FILTER_STEP
        })?;
        Ok((fields, last.filter(|_| looked_at == limits::MAX_FILTER_STEP)))
    }
}
