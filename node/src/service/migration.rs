//! What is asked of a collection that moves to more shards.

use super::*;

impl NodeService {
    async fn grow(&self, request: node_v1::GrowCollectionRequest) -> Result<node_v1::GrowCollectionReply, Refusal> {
        self.meta_leader()?;
        self.0.meta().read_index().await.map_err(refuse_read)?;
        let cluster = self.0.cluster();
        let node_v1::GrowCollectionRequest { name, partitions: to, dry_run } = request;
        let missing = || Problem::new(Code::NotFound, format!("no collection is named {name:?}"));
        let collection = cluster.collection_named(&name).ok_or_else(missing)?;
        let shards = cluster.header.shards;
        let conflict = |detail: String| Err(Problem::new(Code::Conflict, detail).into());
        if let Some(growth) = cluster.growths.get(&collection.id) {
            if growth.to == to {
                return Ok(growth_reply(collection.id, growth, &cluster));
            }
            return conflict(match growth.step {
                GrowthStep::Copying | GrowthStep::Clearing => {
                    format!("it is growing to {} partitions: wait until it has", growth.to)
                }
                GrowthStep::Remembering => format!(
                    "it has grown a moment ago, and retries of earlier writes must still find their way: try again {} \
                     minutes after that",
                    limits::GROWTH_MEMORY.as_secs() / 60
                ),
            });
        }
        if cluster.rotations.contains_key(&collection.id) {
            return conflict("its key is being rotated: wait until that is over".into());
        }
        if to <= collection.partitions || to > shards {
            let have = collection.partitions;
            let detail =
                format!("partitions is {to}, allowed are {} to {shards}: it has {have}, and never shrinks", have + 1);
            return Err(Problem::invalid(detail).into());
        }
        let planned = Growth {
            from: collection.partitions,
            to,
            step: GrowthStep::Copying,
            epoch: cluster.header.epoch,
            since_ms: 0,
            done: BTreeSet::new(),
        };
        let reply = growth_reply(collection.id, &planned, &cluster);
        if dry_run {
            return Ok(reply);
        }
        match self.0.propose_meta(&MetaCommand::StartGrowth { collection: collection.id, to }).await? {
            MetaAnswer::Done => Ok(node_v1::GrowCollectionReply { epoch: self.0.cluster().header.epoch, ..reply }),
            MetaAnswer::Full => conflict(format!("{} collections grow already: wait for one", limits::MAX_GROWTHS)),
            _ => conflict("the collection changed meanwhile: ask again".into()),
        }
    }
}

fn growth_reply(collection: CollectionId, growth: &Growth, cluster: &ClusterState) -> node_v1::GrowCollectionReply {
    let (sources, heirs) = growth.shards(collection, cluster.header.shards);
    node_v1::GrowCollectionReply {
        from: growth.from,
        to: growth.to,
        sources,
        targets: heirs,
        epoch: cluster.header.epoch,
    }
}

#[tonic::async_trait]
impl node_v1::migration_service_server::MigrationService for NodeService {
    async fn grow_collection(
        &self,
        request: Request<node_v1::GrowCollectionRequest>,
    ) -> Answer<node_v1::GrowCollectionReply> {
        Ok(Response::new(self.grow(request.into_inner()).await?))
    }

    async fn begin_pass(&self, request: Request<node_v1::BeginPassRequest>) -> Answer<node_v1::BeginPassReply> {
        let request = request.into_inner();
        let start = self.0.shard(request.shard)?.begin_pass(&request).await?;
        Ok(Response::new(node_v1::BeginPassReply { start }))
    }

    async fn export(&self, request: Request<node_v1::ExportRequest>) -> Answer<node_v1::ExportReply> {
        let request = request.into_inner();
        let shard = self.0.shard(request.shard)?;
        self.timed("export", shard.export(&request)).await
    }
}
