//! The cluster as a whole, as operators, routers and other nodes ask for it: its map, nodes, collections and status.

use mira_proto::{PROTOCOL_VERSION, limits, node_v1};
use tonic::{Request, Response};

use super::{Answer, NodeService};
use crate::{
    meta::{
        admin::{self, collections, nodes},
        state::cluster_id_text,
    },
    status,
};

#[tonic::async_trait]
impl node_v1::cluster_service_server::ClusterService for NodeService {
    async fn get_map(&self, request: Request<node_v1::GetMapRequest>) -> Answer<node_v1::ClusterMap> {
        let request = request.into_inner();
        if request.linearizable {
            admin::newest(self.0.member()).await?;
        }
        if request.wait {
            let mut cluster = self.0.watch_cluster();
            let newer = cluster.wait_for(|cluster| cluster.header.epoch > request.newer_than);
            // The same map after the wait is an answer too.
            let _ = tokio::time::timeout(limits::MAP_WAIT, newer).await;
        }
        Ok(Response::new(self.0.map(request.newer_than)))
    }

    async fn join(&self, request: Request<node_v1::JoinRequest>) -> Answer<node_v1::JoinReply> {
        Ok(Response::new(nodes::join(&self.0, request.into_inner()).await?))
    }

    async fn identify(&self, _: Request<node_v1::IdentifyRequest>) -> Answer<node_v1::Identity> {
        Ok(Response::new(node_v1::Identity {
            node_id: self.0.id(),
            cluster_id: cluster_id_text(self.0.cluster_id()),
            protocol_version: PROTOCOL_VERSION,
            cluster_key_id: self.0.keyring().active().to_string(),
            version: env!("CARGO_PKG_VERSION").into(),
            challenge: self.0.challenges().new_challenge().into(),
        }))
    }

    async fn status(&self, request: Request<node_v1::StatusRequest>) -> Answer<node_v1::NodeStatus> {
        let status =
            if request.get_ref().groups_only { status::groups_only(&self.0) } else { status::node_status(&self.0) };
        Ok(Response::new(status))
    }

    async fn hand_over(&self, _: Request<node_v1::HandOverRequest>) -> Answer<node_v1::HandOverReply> {
        Ok(Response::new(node_v1::HandOverReply { moved: self.0.hand_over().await }))
    }

    async fn change_node(&self, request: Request<node_v1::ChangeNodeRequest>) -> Answer<node_v1::ChangeNodeReply> {
        Ok(Response::new(nodes::change(&self.0, request.into_inner()).await?))
    }

    async fn pause_moves(&self, request: Request<node_v1::PauseMovesRequest>) -> Answer<node_v1::PauseMovesReply> {
        Ok(Response::new(nodes::pause_moves(self.0.member(), request.into_inner()).await?))
    }

    async fn repair_replica(
        &self,
        request: Request<node_v1::RepairReplicaRequest>,
    ) -> Answer<node_v1::RepairReplicaReply> {
        Ok(Response::new(nodes::repair_replica(self.0.member(), request.into_inner()).await?))
    }

    async fn create_collection(
        &self,
        request: Request<node_v1::CreateCollectionRequest>,
    ) -> Answer<node_v1::Collection> {
        Ok(Response::new(collections::create(self.0.member(), request.into_inner()).await?))
    }

    async fn get_collection(
        &self,
        request: Request<node_v1::GetCollectionRequest>,
    ) -> Answer<node_v1::GetCollectionReply> {
        Ok(Response::new(collections::get(self.0.member(), &request.into_inner())))
    }

    async fn list_collections(
        &self,
        request: Request<node_v1::ListCollectionsRequest>,
    ) -> Answer<node_v1::ListCollectionsReply> {
        Ok(Response::new(collections::list(self.0.member(), &request.into_inner()).await?))
    }

    async fn drop_collection(
        &self,
        request: Request<node_v1::DropCollectionRequest>,
    ) -> Answer<node_v1::DropCollectionReply> {
        Ok(Response::new(collections::drop_collection(self.0.member(), request.into_inner()).await?))
    }

    async fn tune_collection(
        &self,
        request: Request<node_v1::TuneCollectionRequest>,
    ) -> Answer<node_v1::TuneCollectionReply> {
        Ok(Response::new(collections::tune(self.0.member(), request.into_inner()).await?))
    }

    async fn propose_meta(&self, request: Request<node_v1::ProposeMetaRequest>) -> Answer<node_v1::ProposeMetaReply> {
        admin::must_lead(self.0.member())?;
        let answer = self.0.propose_sealed(request.into_inner().sealed).await?;
        Ok(Response::new(node_v1::ProposeMetaReply { answer }))
    }
}
