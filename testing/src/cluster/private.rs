//! Private frames of the fake cluster: their sealed vectors, and the passphrase records of owners.

use bytes::Bytes;
use mira_proto::node_v1 as wire;
use tonic::Status;

use super::node::FakeNode;

/// Private frames of one page: few, so that a test sees several pages.
const OWNED_PAGE: usize = 3;

impl FakeNode {
    pub(super) fn answer_owned(&self, request: wire::OwnedRequest) -> Result<wire::OwnedReply, Status> {
        let mut state = self.state.lock();
        let seen = self.seen("owned", request.shard, request.level);
        self.check(&mut state, seen, request.epoch)?;
        let applied = state.index(request.shard);
        let mine = state.of_shard(request.collection, request.shard).filter(|kept| kept.private.owner == request.owner);
        let owned: Vec<wire::Owned> = mine
            .map(|kept| wire::Owned {
                id: kept.frame.id.clone(),
                changed: kept.changed,
                created_ms: kept.frame.created_ms,
                expires_ms: kept.frame.expires_ms,
                vectors: if kept.changed > request.known { kept.private.vectors.clone() } else { Bytes::new() },
            })
            .collect();
        let gone = state.gone.get(&request.shard).copied().unwrap_or_default();
        if request.known > 0 && request.after.is_empty() && gone.max(newest(&owned)) <= request.known {
            return Ok(wire::OwnedReply { applied, unchanged: true, ..Default::default() });
        }
        let mut frames: Vec<wire::Owned> = owned.into_iter().filter(|frame| frame.id > request.after).collect();
        let more = frames.len() > OWNED_PAGE;
        frames.truncate(OWNED_PAGE);
        state.owned_vectors += frames.iter().filter(|frame| !frame.vectors.is_empty()).count();
        Ok(wire::OwnedReply { frames, applied, more, ..Default::default() })
    }

    pub(super) fn answer_get_owner(&self, request: wire::GetOwnerRequest) -> Result<wire::OwnerReply, Status> {
        let state = self.state.lock();
        let record = state.owners.get(&request.owner).cloned().unwrap_or_default();
        Ok(wire::OwnerReply { record })
    }

    pub(super) fn answer_put_owner(&self, request: wire::PutOwnerRequest) -> Result<wire::OwnerReply, Status> {
        let mut state = self.state.lock();
        let there = state.owners.entry(request.owner).or_default();
        if *there == request.replaces {
            *there = request.record;
        }
        Ok(wire::OwnerReply { record: there.clone() })
    }
}

fn newest(owned: &[wire::Owned]) -> u64 {
    owned.iter().map(|frame| frame.changed).max().unwrap_or_default()
}
