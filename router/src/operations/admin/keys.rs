//! Keys: what there are, by name; others put in their place; and their end. The meta group decides and drives, this file
//! asks it.

use mira_proto::model::{
    CollectionKeys, Erasure, ErasuresReply, KeyInfo, KeysReply, NodeKeys, RotateReply, RotateRequest, SignedReceipt,
};
use mira_proto::node_v1::{self, GetKeysRequest, RotateKeyRequest};
use mira_proto::{Code, Problem};

use crate::operations::convert;
use crate::operations::validate::collection_name;
use crate::{Memory, RequestContext, ids};

impl Memory {
    /// The cluster's keys, by name.
    pub async fn list_keys(&self, context: &RequestContext) -> Result<KeysReply, Problem> {
        self.bounded("list_keys", context, async {
            let keys = self.ask_keys(context, true).await?;
            Ok(KeysReply {
                active: keys.active,
                nodes: keys.nodes.into_iter().map(node_keys).collect(),
                collections: keys.collections.into_iter().map(collection_keys).collect(),
                layer_versions: keys.layer_versions,
            })
        })
        .await
    }

    /// Puts another key in the place of the cluster's or of a collection's.
    pub async fn rotate_key(&self, context: &RequestContext, request: RotateRequest) -> Result<RotateReply, Problem> {
        self.bounded("rotate_key", context, async {
            let collection = request.collection.map(|name| collection_name(&name)).transpose()?.unwrap_or_default();
            self.put_key(context, collection, false).await
        })
        .await
    }

    /// Puts another key in the place of one; with `own`, a rotation that somebody else began will not do.
    async fn put_key(&self, context: &RequestContext, collection: String, own: bool) -> Result<RotateReply, Problem> {
        let operation = if own { "shred_key" } else { "rotate_key" };
        let request_id = ids::admin_request_id(context, operation, &[collection.as_bytes()]);
        let request = RotateKeyRequest { collection, request_id, own };
        let reply = self
            .cluster
            .ask_meta(context, "rotate_key", request, |clients, request| async move {
                clients.keys().rotate_key(request).await
            })
            .await?;
        self.cluster.refresh(reply.epoch).await;
        Ok(RotateReply { id: reply.id, to: reply.to })
    }

    /// Destroys the key that some frames of a collection were sealed with, which are gone already; the number of its end.
    pub(crate) async fn shred_key(&self, context: &RequestContext, collection: &str) -> Result<u64, Problem> {
        match self.put_key(context, collection.to_owned(), true).await {
            Ok(rotation) => Ok(rotation.id),
            Err(problem) if problem.code == Code::Conflict => {
                let detail = format!("what was named is removed, but its key is not shredded yet: {}", problem.detail);
                Err(Problem { detail, ..problem })
            }
            Err(problem) => Err(problem),
        }
    }

    /// Keys that end, and those that have.
    pub async fn list_erasures(&self, context: &RequestContext) -> Result<ErasuresReply, Problem> {
        self.bounded("list_erasures", context, async {
            let keys = self.ask_keys(context, false).await?;
            let public_key = (!keys.receipt_public_key.is_empty()).then(|| convert::hex(&keys.receipt_public_key));
            let under_way = keys.collections.iter().filter_map(|collection| {
                let rotation = collection.rotation.as_ref()?;
                let is_older = |key: &&node_v1::KeyInfo| key.version != 0 && key.version < rotation.to;
                Some(Erasure {
                    id: rotation.id,
                    collection: Some(collection.name.clone()),
                    state: rotation.step().word().to_owned(),
                    keys: collection.keys.iter().filter(is_older).map(key_info).collect(),
                    ..Erasure::default()
                })
            });
            let over = keys.erasures.iter().map(|found| erasure(found, public_key.as_deref().unwrap_or_default()));
            let mut erasures: Vec<Erasure> = under_way.chain(over).collect();
            erasures.sort_by_key(|erasure| erasure.id);
            Ok(ErasuresReply { erasures, public_key })
        })
        .await
    }

    /// What the meta group says of keys, and of places that hold copies of them.
    pub(crate) async fn ask_keys(
        &self,
        context: &RequestContext,
        ask_nodes: bool,
    ) -> Result<node_v1::KeysReply, Problem> {
        let request = GetKeysRequest { ask_nodes };
        Ok(self
            .cluster
            .ask_meta(
                context,
                "get_keys",
                request,
                |clients, request| async move { clients.keys().get_keys(request).await },
            )
            .await?)
    }
}

fn node_keys(keys: node_v1::NodeKeys) -> NodeKeys {
    let error = (!keys.error.is_empty()).then_some(keys.error);
    NodeKeys { node: format!("{:016x}", keys.node), held: keys.held, error }
}

fn collection_keys(keys: node_v1::CollectionKeys) -> CollectionKeys {
    let rotation = keys.rotation.as_ref().map(convert::rotation);
    CollectionKeys { name: keys.name, keys: keys.keys.iter().map(key_info).collect(), rotation }
}

fn key_info(key: &node_v1::KeyInfo) -> KeyInfo {
    KeyInfo { version: key.version, id: key.id.clone() }
}

fn erasure(found: &node_v1::Erasure, public_key: &str) -> Erasure {
    let receipt = (!found.receipt.is_empty()).then(|| SignedReceipt {
        statement: found.receipt.clone(),
        signature: convert::hex(&found.signature),
        public_key: public_key.to_owned(),
    });
    Erasure {
        id: found.id,
        collection: (!found.name.is_empty()).then(|| found.name.clone()),
        whole: found.whole,
        state: if receipt.is_some() { "done" } else { "purging" }.to_owned(),
        keys: found.keys.iter().map(key_info).collect(),
        destroyed_at: Some(convert::rfc3339(found.since_ms)),
        waits_for_nodes: found.waits_for_nodes.iter().map(|node| format!("{node:016x}")).collect(),
        waits_for_repositories: found.waits_for_repositories.clone(),
        receipt,
    }
}
