//! The chunks of an upload: hidden frames, named by what they hold.
//!
//! Equal pieces are stored once, and sending one again changes nothing. A private content's chunks are sealed, and named,
//! with its owner's key; of a plain one the nodes make the names.

use std::collections::HashMap;

use bytes::Bytes;
use mira_proto::node_v1::{self, FrameClass, FrameWrite};
use mira_proto::{Code, CollectionId, Problem, limits};
use uuid::Uuid;

use super::progress::Upload;
use crate::cluster::{Call, CollectionRoute, Group, ReplicaChoice, RouteConstraint};
use crate::operations::store::draft::Draft;
use crate::operations::store::draft::Embedded;
use crate::operations::store::{Outcomes, Pending, frame_write};
use crate::private::seal;
use crate::{Memory, RequestContext, ids};

/// Refuses a content that is larger than any may be.
pub(super) fn within_limit(bytes: u64) -> Result<(), Problem> {
    let limit = limits::MAX_ATTACHMENT_BYTES;
    if bytes > limit {
        return Err(Problem::new(Code::TooLarge, format!("a content has at most {limit} bytes")));
    }
    Ok(())
}

/// A frame that callers do not see.
pub(super) struct HiddenFrame {
    pub(super) id: Uuid,
    pub(super) class: FrameClass,
    pub(super) content: Bytes,
    pub(super) is_private: bool,
}

impl HiddenFrame {
    /// As its shard takes it, sealed if it is private.
    pub(super) fn write(self, context: &RequestContext, collection: CollectionId) -> Result<FrameWrite, Problem> {
        let HiddenFrame { id, class, content, is_private } = self;
        let draft = Draft { content, private: is_private, ..Draft::default() };
        let embedded = Embedded { id, draft, passages: Vec::new(), named: Vec::new() };
        let missing = || Problem::new(Code::WrongOwnerKey, "it is private: send its owner's key");
        let frame = if is_private {
            seal::seal(context.owner_key().ok_or_else(missing)?, collection, embedded)
        } else {
            frame_write(embedded)
        };
        Ok(FrameWrite { class: class as i32, ..frame })
    }
}

impl Memory {
    /// Stores chunks of an upload; their ids in order.
    pub(super) async fn store_chunks(
        &self,
        context: &RequestContext,
        upload: &Upload,
        chunks: Vec<Bytes>,
    ) -> Result<Vec<Uuid>, Problem> {
        let (route, is_private) = (&upload.route, upload.progress.frame.private);
        let names = match context.owner_key().filter(|_| is_private) {
            Some(owner) => {
                let collection = route.info.id;
                digests(&chunks).map(|digest| seal::chunk_name(owner, collection, &digest)).collect()
            }
            None => self.name_chunks(context, route, &chunks).await?,
        };
        let names = ids_of(&names, chunks.len())?;
        // Equal pieces are one.
        let distinct: HashMap<Uuid, Bytes> = names.iter().copied().zip(chunks).collect();
        let mut pending = Vec::with_capacity(distinct.len());
        for (at, (id, content)) in distinct.into_iter().enumerate() {
            let hidden = HiddenFrame { id, class: FrameClass::Chunk, content, is_private };
            pending.push(Pending::new(at, id, hidden.write(context, route.info.id)?));
        }
        let mut outcomes = Outcomes::of(pending.len(), context.token.clone());
        self.write_frames(context, route.clone(), pending, &mut outcomes).await;
        outcomes.into_parts().0.into_iter().try_for_each(|outcome| outcome.map(drop))?;
        Ok(names)
    }

    /// Names of plain chunks, which the nodes make with a key of the collection's.
    async fn name_chunks(
        &self,
        context: &RequestContext,
        route: &CollectionRoute,
        chunks: &[Bytes],
    ) -> Result<Vec<Bytes>, Problem> {
        let digests = digests(chunks).collect();
        let request = node_v1::NameChunksRequest { epoch: 0, collection: route.info.id, digests };
        let call = Call {
            operation: "name_chunks",
            group: Group::Meta,
            replica: ReplicaChoice::Any,
            deadline: context.deadline,
            try_for: limits::READ_TRY,
            route: None,
            constraint: RouteConstraint::Whole,
        };
        let named = self.cluster.call(&call, |clients, attempt| {
            let request = node_v1::NameChunksRequest { epoch: attempt.epoch, ..request.clone() };
            async move { clients.shards().name_chunks(request).await }
        });
        Ok(named.await?.ids)
    }
}

fn digests(chunks: &[Bytes]) -> impl Iterator<Item = Bytes> {
    chunks.iter().map(|chunk| Bytes::copy_from_slice(blake3::hash(chunk).as_bytes()))
}

/// The names as ids, of which there must be so many.
fn ids_of(names: &[Bytes], count: usize) -> Result<Vec<Uuid>, Problem> {
    let odd = || Problem::internal("a storage node named chunks otherwise than asked");
    let ids: Option<Vec<Uuid>> = names.iter().map(|name| ids::id_from_bytes(name).map(Uuid::from_u128)).collect();
    ids.filter(|ids| ids.len() == count).ok_or_else(odd)
}
