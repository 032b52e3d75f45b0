//! Receiving a snapshot into a fresh generation.

use std::sync::Arc;

use bytes::Bytes;

use super::{chain, put_pairs};
use crate::engine::{Batch, Durability, EngineError};
use crate::state::{Applied, GroupState, Incoming, generation_prefix, successor};
use crate::types::Vote;
use crate::wire::{ChunkHeader, SnapshotFinish, SnapshotOffer, SnapshotReply};

/// The receiving end of one group. One message at a time; whoever calls keeps to that.
pub(crate) struct SnapshotReceiver {
    state: Arc<GroupState>,
}

/// What a finish asks of the caller.
pub(crate) enum Finished {
    /// All is here: install this generation.
    Install { generation: u32 },
    /// Nothing to do but answer.
    Answer(SnapshotReply),
}

impl SnapshotReceiver {
    pub(crate) fn new(state: Arc<GroupState>) -> Self {
        Self { state }
    }

    /// Accepts a snapshot: goes on with it if it was under way, starts it otherwise. `own_vote` is this replica's.
    pub(crate) fn offer(&self, offer: &SnapshotOffer, own_vote: Vote) -> Result<SnapshotReply, EngineError> {
        if own_vote > offer.vote {
            return Ok(SnapshotReply::HigherVote(own_vote));
        }
        if self.has_applied(&offer.last)? {
            return Ok(SnapshotReply::Installed(own_vote));
        }
        let known = self.incoming()?;
        match &known {
            Some(known) if known.snapshot == offer.snapshot && !offer.from_start => Ok(progress(known)),
            _ => self.start(offer.snapshot, known),
        }
    }

    fn start(&self, snapshot: u128, known: Option<Incoming>) -> Result<SnapshotReply, EngineError> {
        let generation = self.state.fresh_generation()?;
        let mut batch = Batch::default();
        if let Some(known) = known {
            let prefix = generation_prefix(self.state.group, known.generation);
            batch.delete_range(prefix.clone(), successor(prefix));
        }
        let incoming = Incoming { snapshot, generation, chunks: 0, pairs: 0, chain: [0; 16] };
        incoming.save(&mut batch, self.state.group);
        self.state.write(&batch, Durability::Buffered)?;
        Ok(progress(&incoming))
    }

    /// Writes one chunk and the progress it makes, as one batch.
    pub(crate) fn chunk(&self, header: &ChunkHeader, body: Bytes) -> Result<SnapshotReply, EngineError> {
        let Some(mut incoming) = self.incoming()?.filter(|incoming| incoming.snapshot == header.snapshot) else {
            return Ok(SnapshotReply::Restart);
        };
        // A duplicate, or a chunk that overtook another: say what is here.
        if header.seq != incoming.chunks || header.crc != crc32fast::hash(&body) {
            return Ok(progress(&incoming));
        }
        let mut batch = Batch::default();
        let chain = chain(&incoming.chain, &body);
        let pairs = put_pairs(&mut batch, &generation_prefix(self.state.group, incoming.generation), body);
        if pairs != Some(header.pairs) {
            return Ok(SnapshotReply::Restart);
        }
        incoming.chunks += 1;
        incoming.pairs += header.pairs;
        incoming.chain = chain;
        incoming.save(&mut batch, self.state.group);
        self.state.write(&batch, Durability::Buffered)?;
        Ok(progress(&incoming))
    }

    /// Checks that all of the snapshot is here.
    pub(crate) fn finish(&self, finish: &SnapshotFinish, own_vote: Vote) -> Result<Finished, EngineError> {
        if own_vote > finish.vote {
            return Ok(Finished::Answer(SnapshotReply::HigherVote(own_vote)));
        }
        if self.has_applied(&finish.meta.last_log_id)? {
            return Ok(Finished::Answer(SnapshotReply::Installed(own_vote)));
        }
        let whole = self.incoming()?.filter(|incoming| {
            incoming.snapshot == finish.snapshot
                && incoming.chunks == finish.chunks
                && incoming.pairs == finish.pairs
                && incoming.chain == finish.chain
        });
        Ok(match whole {
            Some(incoming) => Finished::Install { generation: incoming.generation },
            None => Finished::Answer(SnapshotReply::Restart),
        })
    }

    fn incoming(&self) -> Result<Option<Incoming>, EngineError> {
        Incoming::load(self.state.engine.as_ref(), self.state.group)
    }

    fn has_applied(&self, last: &Option<crate::types::LogId>) -> Result<bool, EngineError> {
        let generation = self.state.generation();
        let applied = Applied::load(self.state.engine.as_ref(), self.state.group, generation)?;
        Ok(applied.last >= *last)
    }
}

fn progress(incoming: &Incoming) -> SnapshotReply {
    SnapshotReply::Continue { chunks: incoming.chunks, chain: incoming.chain }
}
