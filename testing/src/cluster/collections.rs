//! The collections of the fake cluster, and their keys.

use bytes::Bytes;
use mira_proto::node_v1 as wire;
use mira_proto::{Code, Problem, Refusal};
use tonic::Status;

use super::node::FakeNode;

/// A key for the ids of a collection's frames: another for each collection, the same in every run.
fn placement_key(collection: u64) -> Bytes {
    Bytes::from(collection.to_be_bytes().repeat(4))
}

/// What is kept from now on; what was kept before stays where nothing is said.
fn retention(said: wire::Retention, there: Option<wire::Retention>) -> wire::Retention {
    let usual = wire::Retention { last: Some(10), days: Some(90), bin_days: Some(7) };
    let there = there.unwrap_or(usual);
    wire::Retention {
        last: said.last.or(there.last),
        days: said.days.or(there.days),
        bin_days: said.bin_days.or(there.bin_days),
    }
}

impl FakeNode {
    pub(super) fn answer_create_collection(
        &self,
        request: wire::CreateCollectionRequest,
    ) -> Result<wire::Collection, Status> {
        let mut state = self.state.lock();
        if let Some(made) = state.answered::<wire::Collection>(&request.request_id)? {
            let is_there = state.collections.get(&made.name).is_some_and(|there| there.id == made.id);
            let placement_key = if is_there { made.placement_key } else { Bytes::new() };
            return Ok(wire::Collection { placement_key, ..made });
        }
        let mut wanted = wire::Collection {
            id: state.next_collection,
            name: request.name.clone(),
            dim: request.dim,
            metric: request.metric,
            quantization: request.quantization,
            partitions: request.partitions,
            ttl_seconds: request.ttl_seconds,
            retention: Some(retention(request.retention.unwrap_or_default(), None)),
            created_ms: 1_800_000_000_000,
            key_version: 1,
            model: request.model,
            first_partitions: request.partitions,
            ef: 0,
            spaces: request.spaces,
            placement_key: placement_key(state.next_collection),
            migration: None,
            rotation: None,
        };
        if let Some(there) = state.collections.get(&request.name) {
            (wanted.id, wanted.placement_key) = (there.id, there.placement_key.clone());
            let kept = retention(request.retention.unwrap_or_default(), there.retention);
            let is_same = wire::Collection { retention: there.retention, ..wanted } == *there;
            let changed = wire::Collection { retention: Some(kept), ..there.clone() };
            if !is_same {
                return Err(Problem::new(Code::AlreadyExists, "the collection has other settings").into());
            }
            state.epoch += u64::from(changed != *there);
            state.collections.insert(request.name, changed.clone());
            return Ok(changed);
        }
        state.next_collection += 1;
        state.epoch += 1;
        state.collections.insert(request.name, wanted.clone());
        state.answer(request.request_id, &wanted);
        Ok(wanted)
    }

    pub(super) fn answer_drop_collection(
        &self,
        request: wire::DropCollectionRequest,
    ) -> Result<wire::DropCollectionReply, Status> {
        let mut state = self.state.lock();
        if let Some(reply) = state.answered(&request.request_id)? {
            return Ok(reply);
        }
        let Some(gone) = state.collections.remove(&request.name) else {
            return Err(Refusal::from(Problem::new(Code::NotFound, "there is no such collection")).into());
        };
        state.frames.retain(|(collection, ..), _| *collection != gone.id);
        state.epoch += 1;
        let reply = wire::DropCollectionReply { epoch: state.epoch, erasure: state.epoch, collection: gone.id };
        state.answer(request.request_id, &reply);
        let faults = state.faults.entry(self.id).or_default();
        if faults.lost_answers > 0 {
            faults.lost_answers -= 1;
            return Err(Status::unavailable("connection reset"));
        }
        Ok(reply)
    }

    /// Grows at once: all frames are where they belong, and only retries of earlier writes are still remembered.
    pub(super) fn answer_grow_collection(
        &self,
        request: wire::GrowCollectionRequest,
    ) -> Result<wire::GrowCollectionReply, Status> {
        let mut state = self.state.lock();
        if let Some(reply) = state.answered(&request.request_id)? {
            return Ok(reply);
        }
        let epoch = state.epoch + u64::from(!request.dry_run);
        let Some(found) = state.collections.get_mut(&request.name) else {
            return Err(Refusal::from(Problem::new(Code::NotFound, "there is no such collection")).into());
        };
        let (id, from, to) = (found.id, found.partitions, request.partitions);
        let shards = |partitions| mira_proto::placement::shards_of_collection(id, partitions, self.shards);
        let (sources, all) = (shards(from), shards(to));
        let added = all.into_iter().filter(|shard| !sources.contains(shard)).collect();
        if !request.dry_run {
            found.partitions = to;
            let step = wire::MigrationStep::Remembering.into();
            found.migration = Some(wire::Migration { from, to, step, done: Vec::new(), epoch });
            state.epoch = epoch;
        }
        let reply = wire::GrowCollectionReply { from, to, sources, targets: added, epoch };
        state.answer(request.request_id, &reply);
        Ok(reply)
    }

    pub(super) fn answer_tune_collection(
        &self,
        request: wire::TuneCollectionRequest,
    ) -> Result<wire::TuneCollectionReply, Status> {
        let wire::TuneCollectionRequest { collection, ef, space } = request;
        let mut state = self.state.lock();
        state.epoch += 1;
        let epoch = state.epoch;
        let seen = self.seen("tune_collection", 0);
        state.seen.push(seen);
        match state.collections.values_mut().find(|found| found.id == collection) {
            Some(found) => match found.spaces.iter_mut().find(|named| named.name == space) {
                Some(named) => named.ef = ef,
                None => found.ef = ef,
            },
            None => return Err(Refusal::from(Problem::new(Code::NotFound, "the collection is gone")).into()),
        }
        Ok(wire::TuneCollectionReply { epoch })
    }

    pub(super) fn answer_rotate_key(&self, request: wire::RotateKeyRequest) -> Result<wire::RotateKeyReply, Status> {
        let mut state = self.state.lock();
        if let Some(reply) = state.answered(&request.request_id)? {
            return Ok(reply);
        }
        if request.own && state.rotating {
            return Err(Refusal::from(Problem::new(Code::Conflict, "the key is being rotated already")).into());
        }
        state.epoch += 1;
        let reply = wire::RotateKeyReply { id: state.epoch, to: "2".into(), epoch: state.epoch };
        state.answer(request.request_id, &reply);
        Ok(reply)
    }
}
