//! Keys of the cluster as an operator sees them: rotating the key of a collection or of the cluster, and which node holds
//! which cluster keys.

use std::{collections::BTreeMap, time::Duration};

use mira_crypto::os_rng;
use mira_proto::{Code, Problem, Refusal, node_v1};

use crate::{
    meta::{MetaAnswer, MetaCommand, Rewrapped},
    node::Node,
};

/// For a node to say which cluster keys it holds; its provider may be a service.
const ASK: Duration = Duration::from_secs(15);
/// Rounds of wrapping again what was made meanwhile.
const REWRAPS: usize = 8;

impl Node {
    /// Starts to rotate a collection's key, or says what runs already; on the meta leader.
    pub(crate) async fn rotate_collection(
        &self,
        asked: node_v1::RotateKeyRequest,
    ) -> Result<node_v1::RotateKeyReply, Refusal> {
        let name = &asked.collection;
        let request = request_number(&asked.request_id)?;
        let cluster = self.cluster();
        let missing = || Problem::new(Code::NotFound, format!("no collection is named {name:?}"));
        let record = cluster.collection_named(name).ok_or_else(missing)?;
        let (collection, to) = (record.id, record.key_version + 1);
        if !cluster.rotations.contains_key(&collection) {
            let wrapped = self.keyring().new_collection_key(collection, to);
            let answer = self.propose_meta(&MetaCommand::StartRotation { collection, to, wrapped, request }).await?;
            if answer == MetaAnswer::Refused {
                let detail = "the collection grows, or did a moment ago: rotate its key when that is over";
                return Err(Problem::new(Code::Conflict, detail).into());
            }
        }
        let cluster = self.cluster();
        let begun = cluster.rotations.get(&collection);
        let rotation = begun.ok_or_else(|| Refusal::NotReady("the rotation is over already".into()))?;
        if asked.own && rotation.request != request {
            let detail = format!(
                "the key of {name:?} is being rotated already: wait until rotation {} is over, and ask again",
                rotation.id
            );
            return Err(Problem::new(Code::Conflict, detail).into());
        }
        let (id, epoch) = (rotation.id, cluster.header.epoch);
        Ok(node_v1::RotateKeyReply { id, to: rotation.to.to_string(), epoch })
    }

    /// Puts the first of the provider's cluster keys in the place of the one in use; on the meta leader. Every node must
    /// hold it before anything is sealed with it.
    pub(crate) async fn rotate_cluster(&self) -> Result<node_v1::RotateKeyReply, Refusal> {
        self.hold_keys().await?;
        let ids = self.keyring().cluster_key_ids();
        let new = *ids.first().expect("a node holds a cluster key");
        let before = self.keyring().active();
        if new == before {
            let detail = format!(
                "the cluster seals with {new}, which is the first of this node's cluster keys: put a new one before it, on \
                 every node"
            );
            return Err(Problem::new(Code::Conflict, detail).into());
        }
        let lacking: Vec<String> = self.ask_for_keys().await.into_iter().filter_map(|keys| lacks(&keys, new)).collect();
        if !lacking.is_empty() {
            let detail = format!("not every node holds {new}, and nothing was changed: {}", lacking.join("; "));
            return Err(Problem::new(Code::Conflict, detail).into());
        }
        let sealer = self.keyring().sealer(new)?;
        for _ in 0..REWRAPS {
            let rewrapped = self.rewrapped(new)?;
            if self.keyring().active() == new && rewrapped.is_none() {
                break;
            }
            let empty = || Rewrapped { collections: BTreeMap::new(), layers: BTreeMap::new(), receipts: Vec::new() };
            let command = MetaCommand::Rewrap(rewrapped.unwrap_or_else(empty));
            self.propose_sealed(command.seal(&sealer, &mut os_rng()).into()).await?;
        }
        let cluster = self.cluster();
        let of_cluster = cluster.erasures.iter().rev().find(|(_, erasure)| erasure.collection == 0);
        let id = of_cluster.map(|(&id, _)| id).unwrap_or_default();
        tracing::info!(%before, after = %new, "the cluster key was rotated");
        Ok(node_v1::RotateKeyReply { id, to: new.to_string(), epoch: cluster.header.epoch })
    }

    /// Wrapped keys that are not wrapped by `to` yet, wrapped by it; none if there are none.
    fn rewrapped(&self, to: mira_crypto::KeyId) -> Result<Option<Rewrapped>, Refusal> {
        let cluster = self.cluster();
        let is_older = |wrapped: &Vec<u8>| {
            mira_crypto::WrappedKey::from_bytes(wrapped).is_ok_and(|wrapped| wrapped.cluster_key_id() != to)
        };
        let mut collections = BTreeMap::new();
        for (&id, record) in &cluster.collections {
            if record.wrapped_keys.values().any(is_older) {
                collections.insert(id, self.keyring().rewrap_collection(id, &record.wrapped_keys, to)?);
            }
        }
        let layers = match cluster.header.layer_keys.values().any(is_older) {
            true => self.keyring().rewrap_layers(&cluster.header.layer_keys, to)?,
            false => BTreeMap::new(),
        };
        let receipts = match is_older(&cluster.receipt_key) {
            true => self.keyring().rewrap_receipts(&cluster.receipt_key, to)?,
            false => Vec::new(),
        };
        let nothing = collections.is_empty() && layers.is_empty() && receipts.is_empty();
        Ok((!nothing).then_some(Rewrapped { collections, layers, receipts }))
    }

    /// Which cluster keys every node holds.
    pub(crate) async fn ask_for_keys(&self) -> Vec<node_v1::NodeKeys> {
        let cluster = self.cluster();
        let asked = cluster.living_nodes().map(|node| async move {
            let held = match node == self.id() {
                true => self.hold_keys().await.map_err(|refusal| refusal.to_string()),
                false => self.ask_node_for_keys(node).await,
            };
            let error = held.as_ref().err().cloned().unwrap_or_default();
            node_v1::NodeKeys { node, held: held.unwrap_or_default(), error }
        });
        futures::future::join_all(asked).await
    }

    async fn ask_node_for_keys(&self, node: u64) -> Result<Vec<String>, String> {
        let mut client = self.peers().client_of(node).map_err(|status| status.message().to_owned())?;
        let asked = tokio::time::timeout(ASK, client.hold_keys(node_v1::HoldKeysRequest {})).await;
        let reply = asked.map_err(|_| "no answer".to_owned())?.map_err(|status| status.message().to_owned())?;
        Ok(reply.into_inner().held)
    }
}

fn request_number(bytes: &[u8]) -> Result<u128, Problem> {
    let bytes = bytes.try_into().map_err(|_| Problem::invalid("a request id has 16 bytes"))?;
    Ok(u128::from_be_bytes(bytes))
}

fn lacks(keys: &node_v1::NodeKeys, new: mira_crypto::KeyId) -> Option<String> {
    let (node, new) = (keys.node, new.to_string());
    match (keys.error.is_empty(), keys.held.contains(&new)) {
        (true, true) => None,
        (true, false) => Some(format!("node {node:016x} does not")),
        (false, _) => Some(format!("node {node:016x} says nothing: {}", keys.error)),
    }
}
