//! Private frames, as far as a node knows them.
//!
//! What they say was sealed by their owner's router and stays so: the node adds the layers of the collection and of the
//! cluster ([`mira_crypto::private`]), keeps the result, and on the way out takes its two layers off again. It knows an
//! owner and an owner's session by a name that only the owner's key makes, and stores a keyed tag of that name. No index
//! holds anything of a private frame; instead [`Shard::list_private_vectors`] hands an owner's sealed vectors to the
//! router, page by page, and only those that have changed since the router last asked.
//!
//! A plain frame may be replaced by a private one. A private frame is replaced and removed by its owner only, or goes
//! with its collection.

use std::{ops, ops::ControlFlow, sync::Arc};

use bytes::Bytes;
use mira_crypto::{Bound, ClusterLayerKey, CollectionKey, CryptoRng, Part, private};
use mira_proto::{Code, FrameId, Problem, Refusal, ShardId, limits, node_v1, vectors};
use mira_raft::{EngineError, StateReader};

use crate::{
    keys::keyring::{KeyError, Keyring},
    meta::{ClusterState, CollectionRecord},
};

use crate::shard::{
    Shard,
    command::Asker,
    frame_id,
    history::{self, History},
    migration::ownership::Shown,
    read::ReadView,
    record::{self, FramePlace, FrameRecord, OwnedFrame},
    refuse_engine,
};

/// Bytes of the names that an owner's key makes.
const NAME_BYTES: usize = 16;
const DIGEST_BYTES: usize = 32;
/// Frames of a page that are read at once.
const STEP: usize = 128;

/// Adds the collection's and the cluster's layer.
pub fn seal(
    key: &CollectionKey,
    layer: &ClusterLayerKey,
    bound: Bound<'_>,
    inner: &[u8],
    rng: &mut dyn CryptoRng,
) -> Bytes {
    let middle = private::seal_collection(key, &bound.context, inner, rng);
    private::seal_cluster(layer, bound, &middle, rng).into()
}

/// Takes the cluster's and the collection's layer off: what is left is what the owner sealed.
pub fn open(
    keyring: &Keyring,
    cluster: &ClusterState,
    collection: &CollectionRecord,
    bound: Bound<'_>,
    sealed: &[u8],
) -> Result<Vec<u8>, KeyError> {
    let max_len = private::OVERHEAD
        + match bound.context.part {
            Part::Vectors => vectors::MAX_BYTES,
            _ => record::MAX_BODY_BYTES,
        };
    let layer = keyring.layer(cluster, private::cluster_layer_version(sealed)?)?;
    let middle = private::open_cluster(&layer, bound, sealed, max_len)?;
    let key = keyring.version(collection, private::collection_key_version(&middle)?)?;
    Ok(private::open_collection(&key, &bound.context, &middle, max_len)?)
}

/// Refuses what no router of ours would send: a node trusts none.
pub fn check(frame: &node_v1::FrameWrite, sealed: &node_v1::PrivateWrite) -> Result<(), Problem> {
    let names = frame.session.len() + frame.role.len() + frame.r#type.len() + frame.language.len();
    if names + frame.content.len() + frame.metadata_json.len() + frame.passages.len() + frame.named.len() > 0 {
        return Err(Problem::invalid("a private frame has a part that its owner did not seal"));
    }
    let odd_name = |name: &[u8]| name.len() != NAME_BYTES;
    if odd_name(&sealed.owner) || (!sealed.session.is_empty() && odd_name(&sealed.session)) {
        return Err(Problem::invalid(format!("the name of an owner or of its session has {NAME_BYTES} bytes")));
    }
    if sealed.digest.len() != DIGEST_BYTES {
        return Err(Problem::invalid(format!("a digest has {DIGEST_BYTES} bytes")));
    }
    if sealed.body.is_empty() {
        return Err(Problem::invalid("a private frame without a body"));
    }
    let bounds = [(&sealed.body, record::MAX_BODY_BYTES), (&sealed.vectors, vectors::MAX_BYTES)];
    match bounds.into_iter().find(|(piece, limit)| piece.len() > limit + private::OWNER_OVERHEAD) {
        Some((piece, limit)) => {
            let detail = format!("a sealed piece has {} bytes, the limit is {limit}", piece.len());
            Err(Problem::new(Code::TooLarge, detail))
        }
        None => Ok(()),
    }
}

/// Who asks, by the name of an owner; anyone without.
pub fn asker_named(keyring: &Keyring, collection: &CollectionRecord, owner: &[u8]) -> Result<Asker, Refusal> {
    if owner.is_empty() {
        return Ok(Asker::Anyone);
    }
    Ok(Asker::Owner(keyed(keyring, collection, record::OWNER_TAG, owner)?))
}

/// The stored tag of an owner's session.
pub fn session_tag(keyring: &Keyring, collection: &CollectionRecord, name: &[u8]) -> Result<[u8; 16], Refusal> {
    keyed(keyring, collection, record::PRIVATE_SESSION_TAG, name)
}

/// A refusal to touch another owner's frame.
pub fn foreign() -> Problem {
    Problem::new(Code::WrongOwnerKey, "the id holds a private memory: only its owner's key may replace or remove it")
}

fn keyed(keyring: &Keyring, collection: &CollectionRecord, domain: &str, name: &[u8]) -> Result<[u8; 16], Refusal> {
    match name.len() {
        NAME_BYTES => Ok(keyring.tags(collection)?.tag(domain, name)),
        other => Err(Problem::invalid(format!("a name has {other} bytes instead of {NAME_BYTES}")).into()),
    }
}

impl<R: mira_raft::Runtime> Shard<R> {
    /// Refuses, before anything is proposed, to remove private frames that are not the asker's.
    pub(in crate::shard) fn must_be_askers(
        &self,
        collection: &CollectionRecord,
        frames: &[FrameId],
        asker: Asker,
    ) -> Result<(), Refusal> {
        let keys: Vec<_> = frames.iter().map(|&frame| record::frame_key(collection.id, frame)).collect();
        let stored = self.group.reader().multi_get(&keys).map_err(refuse_engine)?;
        for stored in stored.into_iter().flatten() {
            if !asker.may_remove(FrameRecord::decode(&stored).map_err(refuse_engine)?.fields.owner) {
                return Err(foreign().into());
            }
        }
        let keys: Vec<_> = frames.iter().map(|&frame| history::history_key(collection.id, frame)).collect();
        let stored = self.group.reader().multi_get(&keys).map_err(refuse_engine)?;
        for stored in stored.into_iter().flatten() {
            let history = History::decode(&stored).map_err(refuse_engine)?;
            if history.is_binned() && !asker.may_remove(history.owner) {
                return Err(foreign().into());
            }
        }
        Ok(())
    }

    /// A private frame as its owner's router gets it: without the node's layers.
    pub(super) fn open_private(
        &self,
        collection: &CollectionRecord,
        place: FramePlace,
        record: &FrameRecord,
    ) -> Result<node_v1::Frame, Refusal> {
        let cluster = self.shared.cluster.borrow().clone();
        let fields = record.fields.encode();
        let inner = open(&self.shared.keyring, &cluster, collection, place.body_bound(&fields), &record.body)
            .map_err(|error| self.unreadable(damaged(place.frame, &error)))?;
        Ok(node_v1::Frame {
            id: place.frame.to_be_bytes().to_vec().into(),
            version: record.fields.version,
            position: record.fields.position,
            created_ms: record.fields.created_ms,
            updated_ms: record.fields.updated_ms,
            expires_ms: record.fields.expires_ms,
            private: inner.into(),
            ..Default::default()
        })
    }

    /// One page of an owner's private frames with their sealed vectors, in order of their ids.
    pub async fn list_private_vectors(
        &self,
        request: node_v1::ListPrivateVectorsRequest,
    ) -> Result<node_v1::ListPrivateVectorsReply, Refusal> {
        let ReadView { collection, shown, view, state } = self.begin_read(request.header.as_ref()).await?;
        let page = PrivatePage {
            owner: keyed(&self.shared.keyring, &collection, record::OWNER_TAG, &request.owner)?,
            after: if request.after.is_empty() { None } else { Some(frame_id(&request.after)?) },
            known: request.known,
            shard: self.id,
            cluster: self.shared.cluster.borrow().clone(),
            keyring: self.shared.keyring.clone(),
            collection,
            view,
            shown,
        };
        // Opening layers is work of milliseconds: not on the threads that carry heartbeats.
        let page = tokio::task::spawn_blocking(move || page.read())
            .await
            .map_err(|_| Problem::internal("reading private frames failed: the node's log says why"))?
            .map_err(|error| self.unreadable(error))?;
        Ok(node_v1::ListPrivateVectorsReply { state: Some(state), ..page })
    }
}

/// A page of private frames to be read.
struct PrivatePage {
    view: StateReader,
    keyring: Arc<Keyring>,
    cluster: Arc<ClusterState>,
    collection: CollectionRecord,
    shard: ShardId,
    owner: [u8; 16],
    known: u64,
    after: Option<FrameId>,
    /// While the collection grows: the frames that this shard shows, and whose it has taken over.
    shown: Shown,
}

impl PrivatePage {
    fn read(mut self) -> Result<node_v1::ListPrivateVectorsReply, EngineError> {
        let mut reply = node_v1::ListPrivateVectorsReply::default();
        if self.known > 0 && self.after.is_none() && self.changed()? <= self.known {
            reply.unchanged = true;
            return Ok(reply);
        }
        let mut bytes = 0;
        loop {
            let entries = self.next_entries(limits::PRIVATE_PAGE_BYTES - bytes)?;
            let Some(&(last, _)) = entries.last() else { return Ok(reply) };
            for (frame, owned) in entries.into_iter().filter(|(frame, _)| self.shown.shows(*frame)) {
                let is_wanted = owned.changed > self.known && owned.vector_bytes > 0;
                let vectors = if is_wanted { self.vectors(frame)? } else { Vec::new() };
                bytes += vectors.len();
                reply.frames.push(node_v1::PrivateVectors {
                    id: frame.to_be_bytes().to_vec().into(),
                    changed: owned.changed,
                    created_ms: owned.created_ms,
                    expires_ms: owned.expires_ms,
                    vectors: vectors.into(),
                });
            }
            self.after = Some(last);
            if bytes >= limits::PRIVATE_PAGE_BYTES || reply.frames.len() >= limits::PRIVATE_PAGE_FRAMES {
                reply.more = true;
                return Ok(reply);
            }
        }
    }

    /// Log position of the last change to the owner's frames.
    fn changed(&self) -> Result<u64, EngineError> {
        match self.view.get(&record::owner_changed_key(self.collection.id, &self.owner))? {
            Some(stored) => {
                let stored = stored.as_ref().try_into();
                stored.map(u64::from_be_bytes).map_err(|_| EngineError::Damaged("position of wrong size".into()))
            }
            None => Ok(0),
        }
    }

    /// The next few frames, with no more vectors than there is room for; one at least, however large.
    fn next_entries(&self, room: usize) -> Result<Vec<(FrameId, OwnedFrame)>, EngineError> {
        let prefix = record::owned_prefix(self.collection.id, &self.owner);
        let from = self.after.map(|frame| record::owned_key(self.collection.id, &self.owner, frame));
        let from = from.as_ref().map_or(ops::Bound::Included(&prefix[..]), |key| ops::Bound::Excluded(&key[..]));
        let end = record::owned_key(self.collection.id, &self.owner, FrameId::MAX);
        let (mut entries, mut bytes, mut failed) = (Vec::new(), 0, None);
        self.view.scan(from, ops::Bound::Included(&end), false, &mut |key, stored| {
            let Some(frame) = record::parse_owned_key(key) else { return ControlFlow::Continue(()) };
            match OwnedFrame::decode(stored) {
                Ok(owned) => {
                    bytes += if owned.changed > self.known { owned.vector_bytes as usize } else { 0 };
                    if bytes > room && !entries.is_empty() {
                        return ControlFlow::Break(());
                    }
                    entries.push((frame, owned));
                }
                Err(error) => failed = Some(error),
            }
            if failed.is_some() || entries.len() == STEP { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })?;
        failed.map_or(Ok(entries), Err)
    }

    /// The vectors of a frame as its owner sealed them; none when it has none.
    fn vectors(&self, frame: FrameId) -> Result<Vec<u8>, EngineError> {
        let Some(stored) = self.view.get(&record::vectors_key(self.collection.id, frame))? else {
            return Ok(Vec::new());
        };
        let (version, sealed) = record::decode_vectors(&stored)?;
        let place = FramePlace { collection: self.collection.id, shard: self.shard, frame, version };
        open(&self.keyring, &self.cluster, &self.collection, place.vectors_bound(), sealed)
            .map_err(|error| damaged(frame, &error))
    }
}

fn damaged(frame: FrameId, error: &KeyError) -> EngineError {
    EngineError::Damaged(format!("private frame {frame:032x}: {error}"))
}
