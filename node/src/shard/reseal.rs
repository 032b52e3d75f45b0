//! Opening frames where they are and sealing them anew: for another shard, or with another key.
//!
//! When a collection's key is rotated, the leader of each of its shards takes no more frames under an older key
//! ([`record::KeyFloor`]), walks over all that is there, past versions too, seals it with the new key and proposes it, version
//! by version. What becomes current meanwhile was sealed with the new key by whoever stored it; what was current then is
//! a past version by the time the page is applied, and found there. Interrupted at any point, the next leader walks again; the
//! last page says in the log that the walk is complete.

use std::{ops, ops::ControlFlow, sync::Arc};

use bytes::Bytes;
use mira_crypto::{Bound, CollectionKey};
use mira_proto::{CollectionId, FrameId, Problem, Refusal, ShardId, limits};
use mira_raft::{EngineError, StateReader};

use crate::{
    keys::keyring::KeyError,
    meta::{ClusterState, CollectionRecord},
};

use crate::shard::{
    Shard, Shared,
    command::{self, MigratedFrame, ResealedVersion, ShardAnswer, ShardCommand},
    history::{self, PastVersion},
    read::private,
    record::{self, FrameFields, FramePlace, FrameRecord, KeyFloor},
    refuse_proposal,
};

/// Opens pieces of a collection's frames and seals them with the key that seals now.
pub struct Resealer<'a> {
    shared: &'a Shared,
    cluster: Arc<ClusterState>,
    collection: &'a CollectionRecord,
    rng: rand::rngs::StdRng,
}

impl<'a> Resealer<'a> {
    /// For frames of this collection.
    pub fn new(shared: &'a Shared, collection: &'a CollectionRecord) -> Self {
        let cluster = shared.cluster.borrow().clone();
        Resealer { shared, cluster, collection, rng: (shared.randomness)() }
    }

    /// A frame of shard `from` with all its versions, sealed for shard `to`; what stands in clear stays as it is, and bound.
    pub fn moved(&mut self, stored: MigratedFrame, from: ShardId, to: ShardId) -> Result<MigratedFrame, KeyError> {
        let MigratedFrame { frame, record, vectors, binned, past } = stored;
        let (record, vectors) = self.version((frame, from, to), record, vectors)?;
        let mut moved = Vec::with_capacity(past.len());
        for PastVersion { ending, record, vectors } in past {
            let (record, vectors) = self.version((frame, from, to), record, vectors)?;
            moved.push(PastVersion { ending, record, vectors });
        }
        Ok(MigratedFrame { frame, record, vectors, binned, past: moved })
    }

    fn version(
        &mut self,
        (frame, from, to): (FrameId, ShardId, ShardId),
        record: FrameRecord,
        vectors: Bytes,
    ) -> Result<(FrameRecord, Bytes), KeyError> {
        let here = FramePlace { collection: self.collection.id, shard: from, frame, version: record.fields.version };
        let fields = record.fields.clone();
        self.anew(here, (record, vectors), (FramePlace { shard: to, ..here }, fields))
    }

    /// A version of a frame, sealed for another place and bound to other fields.
    pub(super) fn anew(
        &mut self,
        here: FramePlace,
        (record, vectors): (FrameRecord, Bytes),
        (there, fields): (FramePlace, FrameFields),
    ) -> Result<(FrameRecord, Bytes), KeyError> {
        let (body, vectors) = if record.fields.owner.is_some() {
            let (before, after) = (record.fields.encode(), fields.encode());
            let body = self.layers(here.body_bound(&before), there.body_bound(&after), &record.body)?;
            (body, self.private_vectors(here, there, vectors)?)
        } else {
            let body = here.open_body(&*self.key_of(&record.body)?, &record)?;
            let body = there.seal_body(&*self.current()?, &fields, &body, &mut self.rng).into();
            (body, self.vectors(here, there, vectors)?)
        };
        Ok((FrameRecord { fields, body }, vectors))
    }

    fn vectors(&mut self, here: FramePlace, there: FramePlace, sealed: Bytes) -> Result<Bytes, KeyError> {
        if sealed.is_empty() {
            return Ok(sealed);
        }
        let vectors = here.open_vectors(&*self.key_of(&sealed)?, &sealed)?;
        Ok(there.seal_vectors(&*self.current()?, &vectors, &mut self.rng).into())
    }

    fn private_vectors(&mut self, here: FramePlace, there: FramePlace, sealed: Bytes) -> Result<Bytes, KeyError> {
        if sealed.is_empty() {
            return Ok(sealed);
        }
        self.layers(here.vectors_bound(), there.vectors_bound(), &sealed)
    }

    /// The two outer layers of a private piece; what its owner sealed stays as it is.
    fn layers(&mut self, here: Bound<'_>, there: Bound<'_>, sealed: &[u8]) -> Result<Bytes, KeyError> {
        let keyring = &self.shared.keyring;
        let inner = private::open(keyring, &self.cluster, self.collection, here, sealed)?;
        let layer = keyring.current_layer(&self.cluster)?;
        Ok(private::seal(&*self.current()?, &layer, there, &inner, &mut self.rng))
    }

    fn current(&self) -> Result<Arc<CollectionKey>, KeyError> {
        self.shared.keyring.current(self.collection)
    }

    fn key_of(&self, sealed: &[u8]) -> Result<Arc<CollectionKey>, KeyError> {
        self.shared.keyring.version(self.collection, mira_crypto::frame::key_version(sealed)?)
    }
}

/// Where a walk over a shard's frames has come to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Walked {
    /// The last frame looked at; none when there are no more.
    pub upto: Option<FrameId>,
    /// Bytes that were sealed anew.
    pub bytes: usize,
}

impl<R: mira_raft::Runtime> Shard<R> {
    /// How far a collection's rotation has come here, as far as this replica has applied it.
    pub fn key_floor(&self, collection: CollectionId) -> Result<KeyFloor, Refusal> {
        let stored = self.group.reader().get(&record::key_floor_key(collection));
        let stored = stored.map_err(|error| self.unreadable(error))?;
        let floor = stored.map(|stored| KeyFloor::decode(&stored)).transpose();
        Ok(floor.map_err(|error| self.unreadable(error))?.unwrap_or_default())
    }

    /// Begins to take frames under this version of the key only; on the leader.
    pub async fn begin_resealing(&self, collection: CollectionId, to: u32) -> Result<(), Refusal> {
        self.propose_reseal(collection, to, Vec::new(), false).await
    }

    /// Seals the next frames behind `after` with the collection's key; on the leader.
    pub async fn reseal(&self, collection: &CollectionRecord, after: Option<FrameId>) -> Result<Walked, Refusal> {
        let (versions, walked) = tokio::task::block_in_place(|| self.resealed(collection, after))?;
        let complete = walked.upto.is_none();
        if complete || !versions.is_empty() {
            self.propose_reseal(collection.id, collection.key_version, versions, complete).await?;
        }
        Ok(walked)
    }

    async fn propose_reseal(
        &self,
        collection: CollectionId,
        to: u32,
        versions: Vec<ResealedVersion>,
        complete: bool,
    ) -> Result<(), Refusal> {
        self.must_lead()?;
        let payload = ShardCommand::Reseal { collection, to, versions, complete }.encode();
        let proposed = self.group.propose(None, payload).await.map_err(refuse_proposal)?;
        match command::decode(&proposed.response).map_err(|error| self.unreadable(error))? {
            ShardAnswer::Reseal(_) => Ok(()),
            other => Err(Problem::internal(format!("a resealing was answered with {other:?}")).into()),
        }
    }

    fn resealed(
        &self,
        collection: &CollectionRecord,
        after: Option<FrameId>,
    ) -> Result<(Vec<ResealedVersion>, Walked), Refusal> {
        let view = self.group.reader().view().map_err(|error| self.unreadable(error))?;
        let prefix = record::collection_prefix(record::Table::Heads, collection.id);
        let from = after.map(|after| record::head_key(collection.id, after));
        let from = from.as_ref().map_or(ops::Bound::Included(&prefix[..]), |from| ops::Bound::Excluded(&from[..]));
        let end = record::head_key(collection.id, FrameId::MAX);
        let mut frames: Vec<FrameId> = Vec::new();
        let page = &mut |key: &[u8], _: &[u8]| {
            frames.extend(record::parse_pair_key(key).map(|(_, frame)| frame));
            if frames.len() == limits::GROWTH_PAGE_FRAMES { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        };
        view.scan(from, ops::Bound::Included(&end), false, page).map_err(|error| self.unreadable(error))?;
        let is_last = frames.len() < limits::GROWTH_PAGE_FRAMES;
        let mut resealer = Resealer::new(&self.shared, collection);
        let (mut versions, mut walked) = (Vec::new(), Walked::default());
        for frame in frames {
            let MigratedFrame { record, vectors, past, .. } = self.stored(&view, collection.id, frame)?;
            let past = past.into_iter().map(|past| (past.record, past.vectors));
            for (record, vectors) in past.chain([(record, vectors)]) {
                if is_current(&record, collection) {
                    continue;
                }
                let (version, fields) = (record.fields.version, record.fields.fingerprint());
                let sealed = resealer.version((frame, self.id, self.id), record, vectors);
                let (FrameRecord { body, .. }, vectors) = sealed.map_err(|error| self.unopened(frame, &error))?;
                walked.bytes += body.len() + vectors.len();
                versions.push(ResealedVersion { frame, version, fields, body, vectors });
            }
            walked.upto = Some(frame);
            if walked.bytes >= limits::GROWTH_PAGE_BYTES {
                return Ok((versions, walked));
            }
        }
        if is_last {
            walked.upto = None;
        }
        Ok((versions, walked))
    }

    /// A frame with its past as it lies in the state.
    pub(super) fn stored(
        &self,
        view: &StateReader,
        collection: CollectionId,
        frame: FrameId,
    ) -> Result<MigratedFrame, Refusal> {
        history::read_frame(view, collection, frame).map_err(|error| self.unreadable(error))
    }

    /// The refusal when a frame does not open: damage, but for a key that this node does not know, or not any more.
    pub(super) fn unopened(&self, frame: FrameId, error: &KeyError) -> Refusal {
        match error {
            KeyError::Crypto(_) => self.unreadable(EngineError::Damaged(format!("frame {frame:032x}: {error}"))),
            _ => error.clone().into(),
        }
    }
}

/// Whether a version is known to be sealed with the key that seals now. Of a private one, only opening it would tell.
fn is_current(record: &FrameRecord, collection: &CollectionRecord) -> bool {
    record.fields.owner.is_none() && mira_crypto::frame::key_version(&record.body) == Ok(collection.key_version)
}
