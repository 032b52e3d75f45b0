//! Full-precision vectors for the index, read from the shard's state: they lie there sealed anyway, so the index keeps
//! only those used last in memory (`index/src/rows.rs`).
//!
//! The state may be ahead of the index. A frame that changed since is in the tail, which a search asks first, so what is
//! found here for it does not matter; one that is gone is passed over.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use mira_index::{Attributes, Passage, RowSource, RowsError};
use mira_proto::{FrameId, ShardId, vectors::FrameVectors};
use mira_raft::StateReader;
use tokio::sync::watch;

use crate::{
    keys::keyring::Keyring,
    meta::{ClusterState, CollectionRecord},
};

use crate::shard::index::SpaceId;
use crate::shard::record::{self, FrameBody, FramePlace, FrameRecord};
use crate::shard::verify::Verifier;

/// Opens sealed vectors and attributes of one shard.
#[derive(Clone)]
pub struct Opener {
    /// The shard.
    pub shard: ShardId,
    /// The node's keys.
    pub keyring: Arc<Keyring>,
    /// Frames whose vectors could not be opened.
    pub damaged: Arc<AtomicU64>,
    /// Told of damage to the state.
    pub verifier: Arc<Verifier>,
}

impl Opener {
    /// The vectors of a frame; `None` (counted, logged) if they cannot be opened.
    pub fn open(
        &self,
        collection: &CollectionRecord,
        frame: FrameId,
        version: u64,
        sealed: &[u8],
    ) -> Option<FrameVectors> {
        // A private frame took a plain one's place, which the index is about to hear.
        if mira_crypto::private::cluster_layer_version(sealed).is_ok() {
            return None;
        }
        let place = FramePlace { collection: collection.id, shard: self.shard, frame, version };
        let opened = mira_crypto::frame::key_version(sealed)
            .map_err(|error| error.to_string())
            .and_then(|version| self.keyring.version(collection, version).map_err(|error| error.to_string()))
            .and_then(|key| place.open_vectors(&key, sealed).map_err(|error| error.to_string()));
        opened.map_err(|error| self.report(frame, &error)).ok()
    }

    /// The vectors of a frame as they are stored.
    pub fn open_stored(&self, collection: &CollectionRecord, frame: FrameId, stored: &[u8]) -> Option<FrameVectors> {
        match record::decode_vectors(stored) {
            Ok((version, sealed)) => self.open(collection, frame, version, sealed),
            Err(error) => {
                self.report(frame, &error.to_string());
                None
            }
        }
    }

    /// The attributes of a frame as it is stored.
    pub fn open_attributes(&self, collection: &CollectionRecord, frame: FrameId, stored: &[u8]) -> Option<Attributes> {
        self.open_body(collection, frame, stored).map(|body| body.attributes())
    }

    fn open_body(&self, collection: &CollectionRecord, frame: FrameId, stored: &[u8]) -> Option<FrameBody> {
        let record = FrameRecord::decode(stored).map_err(|error| self.report(frame, &error.to_string())).ok()?;
        // It took a plain frame's place, which the index is about to hear.
        if record.fields.owner.is_some() {
            return None;
        }
        let place = FramePlace { collection: collection.id, shard: self.shard, frame, version: record.fields.version };
        let opened = mira_crypto::frame::key_version(&record.body)
            .map_err(|error| error.to_string())
            .and_then(|version| self.keyring.version(collection, version).map_err(|error| error.to_string()))
            .and_then(|key| place.open_body(&key, &record).map_err(|error| error.to_string()));
        opened.map_err(|error| self.report(frame, &error)).ok()
    }

    /// Counts and logs a frame that is of no use to the index.
    pub fn report(&self, frame: FrameId, error: &str) {
        self.damaged.fetch_add(1, Ordering::Relaxed);
        tracing::error!(shard = self.shard, frame = %uuid::Uuid::from_u128(frame), error, "frame cannot be indexed");
    }
}

/// The vectors of one space in a shard's state.
pub struct StateRows {
    /// The state, live.
    pub state: StateReader,
    /// Collections and their keys.
    pub cluster: watch::Receiver<Arc<ClusterState>>,
    /// Which space.
    pub space: SpaceId,
    /// Components of its vectors.
    pub dim: usize,
    /// How its vectors are opened.
    pub opener: Opener,
}

impl RowSource for StateRows {
    fn read(&self, wanted: &[Passage], visit: &mut dyn FnMut(usize, &[f32])) -> Result<(), RowsError> {
        let cluster = self.cluster.borrow().clone();
        let SpaceId { collection, number } = self.space;
        let Some(record) = cluster.collections.get(&collection) else { return Ok(()) };
        let keys: Vec<_> = wanted.iter().map(|wanted| record::vectors_key(collection, wanted.id)).collect();
        let stored = self.state.multi_get(&keys).map_err(|error| {
            self.opener.verifier.met(&error);
            RowsError::Source(error.to_string())
        })?;
        for (position, (wanted, stored)) in wanted.iter().zip(stored).enumerate() {
            let opened = stored.and_then(|stored| self.opener.open_stored(record, wanted.id, &stored));
            let vectors = opened.as_ref().map(|opened| opened.in_space(number).chunks_exact(self.dim));
            let passage = vectors.and_then(|mut vectors| vectors.nth(wanted.passage as usize));
            if let Some(vector) = passage {
                visit(position, vector);
            }
        }
        Ok(())
    }
}
