//! What is asked about keys, their rotations, and owners' passphrase records.

use super::*;

impl NodeService {
    async fn keys(&self, request: node_v1::GetKeysRequest) -> Result<node_v1::KeysReply, Refusal> {
        self.meta_leader()?;
        self.0.meta().read_index().await.map_err(refuse_read)?;
        let cluster = self.0.cluster();
        let name =
            |(&version, id): (&u32, &[u8; 8])| node_v1::KeyInfo { version, id: KeyId::from_bytes(*id).to_string() };
        let of_collection = |record: &CollectionRecord| {
            Ok(node_v1::CollectionKeys {
                name: record.name.clone(),
                keys: self.0.key_names(record)?.iter().map(name).collect(),
                rotation: cluster.collection_to_wire(record).rotation,
            })
        };
        let of_erasure = |(&id, erasure): (&u64, &Erasure)| {
            let receipt = erasure.receipt.as_ref();
            let older = erasure.waits_for_repositories(&cluster).filter(|_| receipt.is_none());
            node_v1::Erasure {
                id,
                name: erasure.name.clone(),
                whole: erasure.whole,
                keys: erasure.keys.iter().map(name).collect(),
                index: erasure.index,
                since_ms: erasure.since_ms,
                waits_for_nodes: erasure.waits_for_nodes(&cluster).collect(),
                waits_for_repositories: older.map(str::to_owned).collect(),
                receipt: receipt.map(|receipt| receipt.text.clone()).unwrap_or_default(),
                signature: receipt.map(|receipt| receipt.signature.clone()).unwrap_or_default().into(),
            }
        };
        let of_repository = |(id, repository): (&u128, &Repository)| node_v1::RepositoryInfo {
            id: id.to_be_bytes().to_vec().into(),
            place: repository.place.clone(),
            keys_epoch: repository.keys_epoch,
            finished_ms: repository.finished_ms,
        };
        let public = match cluster.receipt_key.is_empty() {
            true => Vec::new(),
            false => self.0.keyring().receipts(&cluster.receipt_key)?.public_key(),
        };
        Ok(node_v1::KeysReply {
            active: self.0.keyring().active().to_string(),
            nodes: if request.ask_nodes { self.0.ask_for_keys().await } else { Vec::new() },
            collections: cluster.collections.values().map(of_collection).collect::<Result<_, Refusal>>()?,
            erasures: cluster.erasures.iter().map(of_erasure).collect(),
            repositories: cluster.repositories.iter().map(of_repository).collect(),
            receipt_public_key: public.into(),
            layer_versions: cluster.header.layer_keys.keys().copied().collect(),
        })
    }

    async fn keep_owner(&self, request: node_v1::PutOwnerRequest) -> Result<node_v1::OwnerReply, Refusal> {
        self.meta_leader()?;
        let owner = owner_name(&request.owner)?;
        // Whoever opens it is made to spend what it says: nothing else may be kept.
        PassphraseCost::of_record(&request.record).map_err(|error| Problem::invalid(error.to_string()))?;
        let node_v1::PutOwnerRequest { record, replaces, .. } = request;
        match self.0.propose_meta(&MetaCommand::PutOwner { owner, record, replaces }).await? {
            MetaAnswer::Full => {
                let detail = format!("a cluster has at most {} owners with a passphrase", limits::MAX_OWNERS);
                Err(Problem::new(Code::TooLarge, detail).into())
            }
            // Done, there already, or another was quicker: the caller gets what is there now.
            _ => {
                let record = self.0.cluster().owners.get(&owner).cloned().unwrap_or_default();
                Ok(node_v1::OwnerReply { record })
            }
        }
    }
}

fn owner_name(bytes: &[u8]) -> Result<OwnerName, Refusal> {
    bytes.try_into().map_err(|_| Problem::invalid("an owner's name has 16 bytes").into())
}

#[tonic::async_trait]
impl node_v1::key_service_server::KeyService for NodeService {
    async fn get_keys(&self, request: Request<node_v1::GetKeysRequest>) -> Answer<node_v1::KeysReply> {
        Ok(Response::new(self.keys(request.into_inner()).await?))
    }

    async fn hold_keys(&self, _: Request<node_v1::HoldKeysRequest>) -> Answer<node_v1::HoldKeysReply> {
        Ok(Response::new(node_v1::HoldKeysReply { held: self.0.hold_keys().await? }))
    }

    async fn rotate_key(&self, request: Request<node_v1::RotateKeyRequest>) -> Answer<node_v1::RotateKeyReply> {
        self.newest_meta().await?;
        let request = request.into_inner();
        let rotated = match request.collection.is_empty() {
            true => self.0.rotate_cluster().await?,
            false => self.0.rotate_collection(request).await?,
        };
        Ok(Response::new(rotated))
    }

    async fn get_owner(&self, request: Request<node_v1::GetOwnerRequest>) -> Answer<node_v1::OwnerReply> {
        self.meta_leader()?;
        self.0.meta().read_index().await.map_err(refuse_read)?;
        let owner = owner_name(&request.into_inner().owner)?;
        let record = self.0.cluster().owners.get(&owner).cloned().unwrap_or_default();
        Ok(Response::new(node_v1::OwnerReply { record }))
    }

    async fn put_owner(&self, request: Request<node_v1::PutOwnerRequest>) -> Answer<node_v1::OwnerReply> {
        Ok(Response::new(self.keep_owner(request.into_inner()).await?))
    }
}
