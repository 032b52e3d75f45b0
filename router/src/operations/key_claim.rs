//! Claiming an `Idempotency-Key` for a request of many steps, before the first of them.
//!
//! A step is remembered by the shard that it concerns, so that another request under the same key might meet shards that know
//! nothing of the first one. So one shard of the collection, which follows from the key, remembers what the whole request
//! says: another one is refused there, and nothing of it is done. As long as shards remember requests, and until the collection
//! grows.

use mira_proto::{Problem, node_v1};
use serde::Serialize;
use uuid::Uuid;

use crate::cluster::{Call, CallError, CollectionRoute, Selected};
use crate::ids::{self, WriteIdentity};
use crate::memory::MAX_REROUTES;
use crate::{Memory, RequestContext};

/// What tells a claim from other writes.
const OPERATION: &str = "claim of a key";

impl Memory {
    /// Claims the key of a request, if it has one and its collection is there; a `conflict` if it was used for another one.
    pub(crate) async fn claim_key(
        &self,
        context: &RequestContext,
        collection: &str,
        (operation, request): (&str, &impl Serialize),
    ) -> Result<(), Problem> {
        if context.idempotency_key.is_none() {
            return Ok(());
        }
        let request =
            serde_json::to_vec(request).map_err(|error| Problem::internal(format!("a request as JSON: {error}")))?;
        let said = blake3::hash(&[operation.as_bytes(), b"\0", &request].concat());
        for _ in 0..MAX_REROUTES {
            let Some(route) = self.find_collection(context, collection).await? else { return Ok(()) };
            match self.claim_in(context, &route, said).await {
                Err(CallError::Moved) => {
                    self.cluster.newer_map().await;
                }
                claimed => return Ok(claimed?),
            }
        }
        Err(CallError::Moved.into())
    }

    async fn claim_in(
        &self,
        context: &RequestContext,
        route: &CollectionRoute,
        said: blake3::Hash,
    ) -> Result<(), CallError> {
        let of_shard = |shard| WriteIdentity { operation: OPERATION, collection: route.info.id, shard, parts: &[] };
        let request_id = ids::request_id(context, &of_shard(0));
        let place =
            Uuid::from_slice(&request_id).map_err(|_| CallError::refused(Problem::internal("an odd request id")))?;
        let Some(part) = route.first_parts(Selected::Ids(&[place])).pop() else { return Err(CallError::Moved) };
        let header = node_v1::WriteHeader { request_id, ..route.write_header(context, part.shard) };
        let request = node_v1::ForgetRequest {
            header: Some(header),
            may_be_retry: true,
            said: said.as_bytes().to_vec().into(),
            ..Default::default()
        };
        let call = Call::to_write(context, route, "forget", part.shard, part.constraint);
        self.cluster
            .call(&call, |clients, attempt| {
                let mut request = request.clone();
                if let Some(header) = &mut request.header {
                    header.epoch = attempt.epoch;
                }
                async move { clients.shards().forget(request).await }
            })
            .await
            .map(drop)
    }
}
