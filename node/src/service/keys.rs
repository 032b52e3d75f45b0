//! Keys and owners' passphrase records, as operators and routers ask for them.

use mira_proto::node_v1;
use tonic::{Request, Response};

use super::{Answer, NodeService};
use crate::meta::admin::{keys, owners};

#[tonic::async_trait]
impl node_v1::key_service_server::KeyService for NodeService {
    async fn get_keys(&self, request: Request<node_v1::GetKeysRequest>) -> Answer<node_v1::KeysReply> {
        Ok(Response::new(keys::get(&self.0, request.get_ref()).await?))
    }

    async fn hold_keys(&self, _: Request<node_v1::HoldKeysRequest>) -> Answer<node_v1::HoldKeysReply> {
        Ok(Response::new(node_v1::HoldKeysReply { held: self.0.hold_keys().await? }))
    }

    async fn rotate_key(&self, request: Request<node_v1::RotateKeyRequest>) -> Answer<node_v1::RotateKeyReply> {
        Ok(Response::new(keys::rotate(&self.0, request.into_inner()).await?))
    }

    async fn get_owner(&self, request: Request<node_v1::GetOwnerRequest>) -> Answer<node_v1::OwnerReply> {
        Ok(Response::new(owners::get(self.0.member(), request.get_ref()).await?))
    }

    async fn put_owner(&self, request: Request<node_v1::PutOwnerRequest>) -> Answer<node_v1::OwnerReply> {
        Ok(Response::new(owners::put(self.0.member(), request.into_inner()).await?))
    }
}
