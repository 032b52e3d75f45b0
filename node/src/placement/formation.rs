//! How a node comes to its cluster, and stays known there.
//!
//! A node that belongs to a cluster only renews its address if that has changed. One that does not makes a cluster or
//! asks to be let in, as it was told ([`Formation`]). With a fixed list of peers, a new cluster is made only by the
//! list's first node, and only when *every* peer answers that it belongs to none: an emptied disk next to two full ones
//! must never found a second cluster.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use mira_proto::{PROTOCOL_VERSION, Refusal, node_v1};

use crate::{
    config::{Formation, Shape},
    meta::{MetaAnswer, MetaCommand, NameKey, NodeRecord},
    node::Node,
};

/// Between two tries.
const PAUSE: Duration = Duration::from_millis(300);
/// For one question to a peer.
const ASK: Duration = Duration::from_secs(3);

/// Brings the node to its cluster; returns when it belongs to one and its address is known there.
pub async fn form(node: &Arc<Node>, formation: &Formation, me: &NodeRecord) {
    if node.cluster_id() != 0 {
        return renew(node, formation, me).await;
    }
    match formation {
        Formation::Bootstrap(shape) => bootstrap(node, *shape, me).await,
        Formation::Join(addresses) => join(node, addresses, me).await,
        Formation::Peers(addresses, shape) => find_peers(node, addresses, *shape, me).await,
    }
}

async fn bootstrap(node: &Arc<Node>, shape: Shape, me: &NodeRecord) {
    let cluster_id = uuid::Uuid::new_v4().as_u128();
    loop {
        // Refused when a first try got as far as this before a crash; the rest is done again.
        if let Err(error) = node.meta().initialize(BTreeSet::from([me.id])).await {
            tracing::debug!(%error, "meta group not initialized now");
        }
        let Shape { shards, replication, expect } = shape;
        let layer_key = node.keyring().new_layer_key();
        let name_key = NameKey(rand::random());
        let form = MetaCommand::Form { cluster_id, shards, replication, expect, layer_key, name_key };
        let commands = [form, MetaCommand::PutNode(me.clone())];
        match propose_all(node, &commands).await {
            Ok(()) => break,
            Err(error) => tracing::debug!(%error, "cluster not formed yet"),
        }
        tokio::time::sleep(PAUSE).await;
    }
    let cluster_id = node.cluster().header.cluster_id;
    node.remember_cluster(cluster_id);
    tracing::info!(cluster = %uuid::Uuid::from_u128(cluster_id), "cluster formed");
}

async fn propose_all(node: &Arc<Node>, commands: &[MetaCommand]) -> Result<(), Refusal> {
    for command in commands {
        node.propose_meta(command).await?;
    }
    Ok(())
}

async fn join(node: &Arc<Node>, addresses: &[String], me: &NodeRecord) {
    let mut warned = String::new();
    loop {
        for address in addresses.iter().filter(|address| **address != me.address) {
            match ask_to_join(node, address, me).await {
                Ok(cluster_id) => {
                    node.remember_cluster(cluster_id);
                    tracing::info!(cluster = %uuid::Uuid::from_u128(cluster_id), via = %address, "joined");
                    return;
                }
                Err(error) if error.to_string() != warned => {
                    warned = error.to_string();
                    tracing::warn!(%address, %error, "not joined yet");
                }
                Err(_) => {}
            }
        }
        tokio::time::sleep(PAUSE).await;
    }
}

async fn ask_to_join(node: &Arc<Node>, address: &str, me: &NodeRecord) -> Result<u128, Refusal> {
    let client = node.peers().client(address)?;
    let silent = |_| Refusal::Unknown(format!("{address} did not answer"));
    let identify = async { client.cluster().identify(node_v1::IdentifyRequest {}).await };
    let challenge = tokio::time::timeout(ASK, identify).await.map_err(silent)??.into_inner().challenge;
    let request = node_v1::JoinRequest {
        node: Some(me.to_wire()),
        cluster_id: crate::meta::state::cluster_id_text(node.cluster_id()),
        protocol_version: PROTOCOL_VERSION,
        proof: node.join_proof(me, &challenge).into(),
        challenge,
    };
    let reply = tokio::time::timeout(ASK, client.cluster().join(request)).await.map_err(silent)??;
    let id = reply.into_inner().cluster_id;
    uuid::Uuid::parse_str(&id)
        .map(|id| id.as_u128())
        .map_err(|_| Refusal::NotReady(format!("{address} belongs to no cluster yet")))
}

async fn find_peers(node: &Arc<Node>, addresses: &[String], shape: Shape, me: &NodeRecord) {
    loop {
        let identities = identify_all(node, addresses, me).await;
        let formed: Vec<String> = identities
            .iter()
            .filter(|(_, identity)| identity.as_ref().is_some_and(|identity| !identity.cluster_id.is_empty()))
            .map(|(address, _)| address.clone())
            .collect();
        if !formed.is_empty() {
            return join(node, &formed, me).await;
        }
        let all_answer = identities.iter().all(|(_, identity)| identity.is_some());
        if all_answer && addresses.first() == Some(&me.address) {
            return bootstrap(node, shape, me).await;
        }
        tokio::time::sleep(PAUSE).await;
    }
}

async fn identify_all(
    node: &Arc<Node>,
    addresses: &[String],
    me: &NodeRecord,
) -> Vec<(String, Option<node_v1::Identity>)> {
    let others = addresses.iter().filter(|address| **address != me.address);
    let ask = others.map(|address| async move {
        let answer =
            async { node.peers().client(address).ok()?.cluster().identify(node_v1::IdentifyRequest {}).await.ok() };
        let identity = tokio::time::timeout(ASK, answer).await.ok().flatten();
        (address.clone(), identity.map(tonic::Response::into_inner))
    });
    futures::future::join_all(ask).await
}

/// Tells the cluster where this node is now, if it moved or runs another build than recorded.
async fn renew(node: &Arc<Node>, formation: &Formation, me: &NodeRecord) {
    let mut asked: Vec<String> = match formation {
        Formation::Bootstrap(_) => Vec::new(),
        Formation::Join(addresses) | Formation::Peers(addresses, _) => addresses.clone(),
    };
    loop {
        let cluster = node.cluster();
        if cluster.nodes.get(&me.id) == Some(me) {
            return;
        }
        match node.propose_meta(&MetaCommand::PutNode(me.clone())).await {
            Ok(MetaAnswer::Refused) => tracing::error!(
                "the cluster does not take this node: it was removed, or its build does not know the cluster's formats"
            ),
            Ok(_) => continue,
            Err(_) => {}
        }
        asked.extend(cluster.nodes.values().filter(|other| other.id != me.id).map(|other| other.address.clone()));
        asked.dedup();
        for address in asked.iter().filter(|address| **address != me.address) {
            match ask_to_join(node, address, me).await {
                Ok(_) => return,
                Err(error) => tracing::debug!(%address, %error, "address not renewed yet"),
            }
        }
        tokio::time::sleep(PAUSE).await;
    }
}
