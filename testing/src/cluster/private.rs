//! Private frames of the fake cluster: their sealed vectors, and the passphrase records of owners.

use bytes::Bytes;
use mira_proto::node_v1 as wire;
use tonic::Status;

use super::node::FakeNode;

/// Private frames of one page: few, so that a test sees several pages.
const PRIVATE_PAGE: usize = 3;

impl FakeNode {
    pub(super) fn answer_list_private_vectors(
        &self,
        request: wire::ListPrivateVectorsRequest,
    ) -> Result<wire::ListPrivateVectorsReply, Status> {
        let mut state = self.state.lock();
        let header = request.header.unwrap_or_default();
        let read = self.begin_read(&mut state, "list_private_vectors", &header)?;
        let mine = state.shown(&header).filter(|kept| kept.private.owner == request.owner);
        let owned: Vec<wire::PrivateVectors> = mine
            .map(|kept| wire::PrivateVectors {
                id: kept.frame.id.clone(),
                changed: kept.changed,
                created_ms: kept.frame.created_ms,
                expires_ms: kept.frame.expires_ms,
                vectors: if kept.changed > request.known { kept.private.vectors.clone() } else { Bytes::new() },
            })
            .collect();
        let gone = state.gone.get(&header.shard).copied().unwrap_or_default();
        if request.known > 0 && request.after.is_empty() && gone.max(newest(&owned)) <= request.known {
            return Ok(wire::ListPrivateVectorsReply { state: read, unchanged: true, ..Default::default() });
        }
        let mut frames: Vec<wire::PrivateVectors> =
            owned.into_iter().filter(|frame| frame.id > request.after).collect();
        let more = frames.len() > PRIVATE_PAGE;
        frames.truncate(PRIVATE_PAGE);
        state.private_vectors += frames.iter().filter(|frame| !frame.vectors.is_empty()).count();
        Ok(wire::ListPrivateVectorsReply { state: read, frames, more, ..Default::default() })
    }

    pub(super) fn answer_get_owner(&self, request: wire::GetOwnerRequest) -> Result<wire::OwnerReply, Status> {
        let state = self.state.lock();
        let record = state.owners.get(&request.owner).cloned().unwrap_or_default();
        let carried_out = state.answered::<wire::OwnerReply>(&request.request_id)?.is_some();
        Ok(wire::OwnerReply { record, carried_out })
    }

    pub(super) fn answer_put_owner(&self, request: wire::PutOwnerRequest) -> Result<wire::OwnerReply, Status> {
        let mut state = self.state.lock();
        let owner = request.owner.clone();
        let there = state.owners.entry(request.owner).or_default();
        let is_replaced = *there == request.replaces;
        if is_replaced {
            *there = request.record;
        }
        let record = there.clone();
        state.owners.retain(|name, record| *name != owner || !record.is_empty());
        if is_replaced {
            state.answer(request.request_id, &wire::OwnerReply::default());
        }
        Ok(wire::OwnerReply { record, carried_out: false })
    }
}

fn newest(owned: &[wire::PrivateVectors]) -> u64 {
    owned.iter().map(|frame| frame.changed).max().unwrap_or_default()
}
