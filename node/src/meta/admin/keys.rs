//! Keys of the cluster as an operator sees them: which there are, which node holds which cluster keys, and putting another
//! key in the place of one.

use std::{collections::BTreeMap, time::Duration};

use mira_crypto::{KeyId, WrappedKey, os_rng};
use mira_proto::{Code, NodeId, Problem, Refusal, node_v1};

use super::{
    newest,
    requests::{Answered, AskedOnce},
};
use crate::{
    meta::{ClusterState, Erasure, MetaAnswer, MetaCommand, Repository, Rewrapped},
    node::Node,
};

/// For a node to say which cluster keys it holds; its provider may be a service.
const ASK: Duration = Duration::from_secs(15);
/// Rounds of wrapping again what was made meanwhile.
const REWRAPS: usize = 8;

/// What there is to know of keys; never a key itself.
pub async fn get(node: &Node, request: &node_v1::GetKeysRequest) -> Result<node_v1::KeysReply, Refusal> {
    let cluster = newest(node.member()).await?;
    let mut collections = Vec::new();
    for record in cluster.collections.values() {
        collections.push(node_v1::CollectionKeys {
            name: record.name.clone(),
            keys: key_infos(&node.member().key_names(record)?),
            rotation: cluster.rotation_to_wire(record),
        });
    }
    let public = if cluster.receipt_key.is_empty() {
        Vec::new()
    } else {
        node.keyring().receipts(&cluster.receipt_key)?.public_key()
    };
    let erasures = cluster.erasures.iter().map(|(&id, erasure)| erasure_info(id, erasure, &cluster));
    let repositories = cluster.repositories.iter().map(|(&id, repository)| repository_info(id, repository));
    Ok(node_v1::KeysReply {
        active: node.keyring().active().to_string(),
        nodes: if request.ask_nodes { held_by_nodes(node).await } else { Vec::new() },
        collections,
        erasures: erasures.collect(),
        repositories: repositories.collect(),
        receipt_public_key: public.into(),
        layer_versions: cluster.header.layer_keys.keys().copied().collect(),
    })
}

fn key_infos(names: &BTreeMap<u32, [u8; 8]>) -> Vec<node_v1::KeyInfo> {
    let info = |(&version, id): (&u32, &[u8; 8])| node_v1::KeyInfo { version, id: KeyId::from_bytes(*id).to_string() };
    names.iter().map(info).collect()
}

fn erasure_info(id: u64, erasure: &Erasure, cluster: &ClusterState) -> node_v1::Erasure {
    let receipt = erasure.receipt.as_ref();
    let older = erasure.waits_for_repositories(cluster).filter(|_| receipt.is_none());
    node_v1::Erasure {
        id,
        name: erasure.name.clone(),
        whole: erasure.whole,
        keys: key_infos(&erasure.keys),
        index: erasure.index,
        since_ms: erasure.since_ms,
        waits_for_nodes: erasure.waits_for_nodes(cluster).collect(),
        waits_for_repositories: older.map(str::to_owned).collect(),
        receipt: receipt.map(|receipt| receipt.text.clone()).unwrap_or_default(),
        signature: receipt.map(|receipt| receipt.signature.clone()).unwrap_or_default().into(),
    }
}

fn repository_info(id: u128, repository: &Repository) -> node_v1::RepositoryInfo {
    node_v1::RepositoryInfo {
        id: id.to_be_bytes().to_vec().into(),
        place: repository.place.clone(),
        keys_epoch: repository.keys_epoch,
        finished_ms: repository.finished_ms,
    }
}

/// Puts another key in the place of a collection's, or of the cluster's if none is named.
pub async fn rotate(node: &Node, request: node_v1::RotateKeyRequest) -> Result<node_v1::RotateKeyReply, Refusal> {
    let cluster = newest(node.member()).await?;
    let asked = AskedOnce::new(&cluster, &request.request_id)?;
    let answered = asked.answered(&cluster)?.map(rotated);
    match (request.collection.is_empty(), answered) {
        (true, answered) => rotate_cluster(node, asked, answered).await,
        (false, Some(answered)) => Ok(answered),
        (false, None) => rotate_collection(node, asked, request).await,
    }
}

/// The answer to a request that has begun a rotation, which is named by the epoch that it made.
fn rotated(answered: Answered<node_v1::RotateKeyReply>) -> node_v1::RotateKeyReply {
    let Answered { reply, epoch, .. } = answered;
    node_v1::RotateKeyReply { id: epoch, epoch, ..reply }
}

/// Starts to rotate a collection's key, or says what runs already.
async fn rotate_collection(
    node: &Node,
    asked: AskedOnce,
    request: node_v1::RotateKeyRequest,
) -> Result<node_v1::RotateKeyReply, Refusal> {
    let node_v1::RotateKeyRequest { collection: name, own, .. } = request;
    let cluster = node.cluster();
    let missing = || Problem::new(Code::NotFound, format!("no collection is named {name:?}"));
    let record = cluster.collection_named(&name).ok_or_else(missing)?;
    let (collection, to) = (record.id, record.key_version + 1);
    if !cluster.rotations.contains_key(&collection) {
        let wrapped = node.keyring().new_collection_key(collection, to);
        let command = MetaCommand::StartRotation { collection, to, wrapped, request: asked.number() };
        let reply = node_v1::RotateKeyReply { to: to.to_string(), ..Default::default() };
        let answer = asked.propose(node.member(), &command, &reply).await?;
        if let Some(answered) = asked.answered(&node.cluster())? {
            return Ok(rotated(answered));
        }
        if answer == MetaAnswer::Refused {
            let detail = "the collection grows, or did a moment ago: rotate its key when that is over";
            return Err(Problem::new(Code::Conflict, detail).into());
        }
    }
    let cluster = node.cluster();
    let begun = cluster.rotations.get(&collection);
    let rotation = begun.ok_or_else(|| Refusal::NotReady("the rotation is over already".into()))?;
    if own && rotation.request != asked.number() {
        let detail = format!(
            "the key of {name:?} is being rotated already: wait until rotation {} is over, and ask again",
            rotation.id
        );
        return Err(Problem::new(Code::Conflict, detail).into());
    }
    let (id, epoch) = (rotation.id, cluster.header.epoch);
    Ok(node_v1::RotateKeyReply { id, to: rotation.to.to_string(), epoch })
}

/// Puts the first of the provider's cluster keys in the place of the one in use. Every node must hold it before anything
/// is sealed with it. A request that did so and comes again goes on where it was cut off.
async fn rotate_cluster(
    node: &Node,
    asked: AskedOnce,
    answered: Option<node_v1::RotateKeyReply>,
) -> Result<node_v1::RotateKeyReply, Refusal> {
    node.hold_keys().await?;
    let ids = node.keyring().cluster_key_ids();
    let new = *ids.first().expect("a node holds a cluster key");
    let before = node.keyring().active();
    match &answered {
        None if new == before => {
            let detail = format!(
                "the cluster seals with {new}, which is the first of this node's cluster keys: put a new one before it, \
                 on every node"
            );
            return Err(Problem::new(Code::Conflict, detail).into());
        }
        // Another key is the first since.
        Some(answered) if answered.to != new.to_string() || before != new => return Ok(answered.clone()),
        _ => {}
    }
    let held = if answered.is_none() { held_by_nodes(node).await } else { Vec::new() };
    let lacking: Vec<String> = held.iter().filter_map(|keys| lacks(keys, new)).collect();
    if !lacking.is_empty() {
        let detail = format!("not every node holds {new}, and nothing was changed: {}", lacking.join("; "));
        return Err(Problem::new(Code::Conflict, detail).into());
    }
    let sealer = node.keyring().sealer(new)?;
    let reply = node_v1::RotateKeyReply { to: new.to_string(), ..Default::default() };
    for round in 0..REWRAPS {
        let rewrapped = rewrapped(node, new)?;
        if node.keyring().active() == new && rewrapped.is_none() {
            break;
        }
        let empty = || Rewrapped { collections: BTreeMap::new(), layers: BTreeMap::new(), receipts: Vec::new() };
        let command = MetaCommand::Rewrap(rewrapped.unwrap_or_else(empty));
        let position = node.meta().reader().applied_index();
        // The first round is what it is about; later ones wrap what was made meanwhile.
        let outcome = asked.outcome(&reply).filter(|_| round == 0 && answered.is_none());
        let sealed = command.seal_for(outcome.as_ref(), position, &sealer, &mut os_rng());
        node.propose_sealed(sealed.into()).await?;
    }
    if let Some(answered) = answered {
        return Ok(answered);
    }
    let cluster = node.cluster();
    let of_cluster = cluster.erasures.iter().rev().find(|(_, erasure)| erasure.collection == 0);
    let id = of_cluster.map(|(&id, _)| id).unwrap_or_default();
    tracing::info!(%before, after = %new, "the cluster key was rotated");
    Ok(node_v1::RotateKeyReply { id, epoch: cluster.header.epoch, ..reply })
}

/// Wrapped keys that are not wrapped by `to` yet, wrapped by it; none if there are none.
fn rewrapped(node: &Node, to: KeyId) -> Result<Option<Rewrapped>, Refusal> {
    let (cluster, keyring) = (node.cluster(), node.keyring());
    let mut collections = BTreeMap::new();
    for (&id, record) in cluster.collections.iter() {
        if record.wrapped_keys.values().any(|wrapped| is_wrapped_by_another(wrapped, to)) {
            collections.insert(id, keyring.rewrap_collection(id, &record.wrapped_keys, to)?);
        }
    }
    let mut layers = BTreeMap::new();
    if cluster.header.layer_keys.values().any(|wrapped| is_wrapped_by_another(wrapped, to)) {
        layers = keyring.rewrap_layers(&cluster.header.layer_keys, to)?;
    }
    let mut receipts = Vec::new();
    if is_wrapped_by_another(&cluster.receipt_key, to) {
        receipts = keyring.rewrap_receipts(&cluster.receipt_key, to)?;
    }
    let nothing = collections.is_empty() && layers.is_empty() && receipts.is_empty();
    Ok((!nothing).then_some(Rewrapped { collections, layers, receipts }))
}

fn is_wrapped_by_another(wrapped: &[u8], to: KeyId) -> bool {
    WrappedKey::from_bytes(wrapped).is_ok_and(|wrapped| wrapped.cluster_key_id() != to)
}

/// Which cluster keys every node holds.
async fn held_by_nodes(node: &Node) -> Vec<node_v1::NodeKeys> {
    let cluster = node.cluster();
    let asked = cluster.living_nodes().map(|asked| async move {
        let held = if asked == node.id() {
            node.hold_keys().await.map_err(|refusal| refusal.to_string())
        } else {
            ask_node(node, asked).await
        };
        let error = held.as_ref().err().cloned().unwrap_or_default();
        node_v1::NodeKeys { node: asked, held: held.unwrap_or_default(), error }
    });
    futures::future::join_all(asked).await
}

async fn ask_node(node: &Node, asked: NodeId) -> Result<Vec<String>, String> {
    let client = node.peers().client_of(asked).map_err(|status| status.message().to_owned())?;
    let reply = tokio::time::timeout(ASK, client.keys().hold_keys(node_v1::HoldKeysRequest {})).await;
    let reply = reply.map_err(|_| "no answer".to_owned())?.map_err(|status| status.message().to_owned())?;
    Ok(reply.into_inner().held)
}

/// Why a node cannot do with a new cluster key; none if it holds it.
fn lacks(keys: &node_v1::NodeKeys, new: KeyId) -> Option<String> {
    let node = keys.node;
    if !keys.error.is_empty() {
        return Some(format!("node {node:016x} says nothing: {}", keys.error));
    }
    let holds = keys.held.contains(&new.to_string());
    (!holds).then(|| format!("node {node:016x} does not"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_lacks_a_key_that_it_does_not_name_or_when_it_says_nothing() {
        let new = KeyId::from_bytes([7; 8]);
        let keys = |held: &[KeyId], error: &str| node_v1::NodeKeys {
            node: 3,
            held: held.iter().map(ToString::to_string).collect(),
            error: error.into(),
        };
        assert_eq!(lacks(&keys(&[KeyId::from_bytes([1; 8]), new], ""), new), None);
        assert_eq!(lacks(&keys(&[], ""), new).expect("it lacks it"), "node 0000000000000003 does not");
        let said = lacks(&keys(&[], "no answer"), new).expect("nobody knows");
        assert_eq!(said, "node 0000000000000003 says nothing: no answer");
    }
}
