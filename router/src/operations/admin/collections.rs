//! Collections: list, read, make, remove. The meta group decides; the map carries them to every router.

use std::sync::Arc;

use bytes::Bytes;
use mira_proto::model::{Collection, CollectionSettings, GrowReply, GrowRequest, NamedVectors};
use mira_proto::node_v1::{
    CreateCollectionRequest, DropCollectionRequest, GrowCollectionRequest, Retention, VectorSpace,
};
use mira_proto::{Code, Problem, limits, node_v1};
use prost::Message;
use tokio::time::{Instant, sleep};

use crate::cluster::CollectionRoute;
use crate::memory::no_collection;
use crate::operations::convert;
use crate::operations::validate::{checked_name, collection_name, too_large};
use crate::{Memory, RequestContext, ids};

impl Memory {
    /// All collections by name.
    pub async fn list_collections(&self, context: &RequestContext) -> Result<Vec<Collection>, Problem> {
        self.bounded("list_collections", context, async {
            // Another router may have made one a moment ago; a list is rare enough to ask.
            self.cluster.all_collections(context).await?.iter().map(convert::collection).collect()
        })
        .await
    }

    /// One collection.
    pub async fn get_collection(&self, context: &RequestContext, name: &str) -> Result<Collection, Problem> {
        self.bounded("get_collection", context, async {
            let route = self.find_collection(context, name).await?.ok_or_else(|| no_collection(name))?;
            convert::collection(&route.info)
        })
        .await
    }

    /// Makes a collection; the same settings again change nothing, but how much of the past is kept.
    pub async fn put_collection(
        &self,
        context: &RequestContext,
        name: &str,
        settings: CollectionSettings,
    ) -> Result<Collection, Problem> {
        self.bounded("put_collection", context, async {
            let create = self.creation(context, name, settings).await?;
            let parts = [&create.encode_to_vec()[..]];
            let request_id = ids::admin_request_id(context, "put_collection", &parts);
            self.create(context, CreateCollectionRequest { request_id, ..create }).await
        })
        .await
    }

    /// Makes a collection that is written to, or answers with the one that is there if it has these settings. Whether it was
    /// made for the same request before does not matter: what is to be written needs one now.
    pub(crate) async fn create_collection(
        &self,
        context: &RequestContext,
        name: &str,
        settings: CollectionSettings,
    ) -> Result<Collection, Problem> {
        let create = self.creation(context, name, settings).await?;
        self.create(context, create).await
    }

    /// What the nodes are asked for, once it is checked.
    async fn creation(
        &self,
        context: &RequestContext,
        name: &str,
        settings: CollectionSettings,
    ) -> Result<CreateCollectionRequest, Problem> {
        let name = collection_name(name)?;
        let view = self.cluster.view_by(context.deadline).await?;
        collection_settings(&settings, view.shard_count())?;
        let dim = match (settings.dim, self.embedding.model()) {
            (Some(dim), _) => dim,
            (None, Some(model)) => model.dim as u32,
            (None, None) => {
                let missing = self.embedding.missing().detail;
                return Err(Problem::invalid(format!("dim is missing, and {missing}")));
            }
        };
        // Texts may be stored in it only if the model's vectors fit.
        let model = self.embedding.model().filter(|model| model.dim == dim as usize);
        Ok(CreateCollectionRequest {
            name,
            dim,
            metric: node_v1::Metric::from(settings.metric).into(),
            quantization: node_v1::Quantization::from(settings.quantization).into(),
            partitions: settings.partitions.unwrap_or(1),
            ttl_seconds: settings.ttl_seconds.unwrap_or_default(),
            model: model.map(|model| model.name.clone()).unwrap_or_default(),
            spaces: settings.vectors.iter().map(|(name, vectors)| space_to(name, vectors)).collect::<Result<_, _>>()?,
            retention: Some(Retention {
                last: settings.versions.and_then(|versions| versions.last),
                days: settings.versions.and_then(|versions| versions.days),
                bin_days: settings.bin_days,
            }),
            request_id: Bytes::new(),
        })
    }

    async fn create(&self, context: &RequestContext, create: CreateCollectionRequest) -> Result<Collection, Problem> {
        let is_new = self.cluster.view_by(context.deadline).await?.collection(&create.name).is_none();
        let Retention { last, days, bin_days } = create.retention.unwrap_or_default();
        let says_what_is_kept = last.is_some() || days.is_some() || bin_days.is_some();
        if is_new {
            self.collections_made.take(&context.principal, Instant::now())?;
        }
        let made = self
            .cluster
            .ask_meta(context, "create_collection", create, |clients, create| async move {
                clients.cluster().create_collection(create).await
            })
            .await;
        // A request that came again may have made one that is gone, and then it made no other.
        let is_there = made.as_ref().is_ok_and(|made| !made.placement_key.is_empty());
        if is_new && !is_there {
            self.collections_made.give_back(&context.principal);
        }
        let made = made?;
        if is_there {
            let is_made = |route: &Arc<CollectionRoute>| {
                route.info.id == made.id && (!says_what_is_kept || route.info.retention == made.retention)
            };
            self.map_with(context, &made.name, |route| route.is_some_and(is_made)).await?;
        }
        convert::collection(&made)
    }

    /// Spreads a collection over more shards, or says what that means.
    pub async fn grow_collection(
        &self,
        context: &RequestContext,
        name: &str,
        request: GrowRequest,
    ) -> Result<GrowReply, Problem> {
        self.bounded("grow_collection", context, async {
            let GrowRequest { partitions, dry_run } = request;
            let parts = [name.as_bytes(), &partitions.to_be_bytes()];
            let request_id = match dry_run {
                true => Bytes::new(),
                false => ids::admin_request_id(context, "grow_collection", &parts),
            };
            let grow = GrowCollectionRequest { name: name.to_owned(), partitions, dry_run, request_id };
            let reply = self
                .cluster
                .ask_meta(context, "grow_collection", grow, |clients, grow| async move {
                    clients.migration().grow_collection(grow).await
                })
                .await?;
            self.cluster.refresh(reply.epoch).await;
            Ok(GrowReply { from: reply.from, to: reply.to, shards: reply.sources, added_shards: reply.targets })
        })
        .await
    }

    /// Removes a collection with all its frames.
    pub async fn delete_collection(&self, context: &RequestContext, name: &str) -> Result<(), Problem> {
        self.bounded("delete_collection", context, async { self.drop_collection(context, name, false).await.map(drop) })
            .await
    }

    /// Removes a collection, and with `shred` its keys; the number of their end. The nodes say whether it is there: one that
    /// this very request removed is not, and another may have its name since.
    pub(crate) async fn drop_collection(
        &self,
        context: &RequestContext,
        name: &str,
        shred: bool,
    ) -> Result<u64, Problem> {
        let operation = if shred { "shred_collection" } else { "delete_collection" };
        let request_id = ids::admin_request_id(context, operation, &[name.as_bytes()]);
        let request = DropCollectionRequest { name: name.to_owned(), shred, request_id };
        let dropped = self
            .cluster
            .ask_meta(context, "drop_collection", request, |clients, request| async move {
                clients.cluster().drop_collection(request).await
            })
            .await?;
        self.cluster.refresh(dropped.epoch).await;
        let is_gone =
            |route: Option<&Arc<CollectionRoute>>| route.is_none_or(|route| route.info.id != dropped.collection);
        self.map_with(context, name, is_gone).await?;
        Ok(dropped.erasure)
    }

    /// Waits until this router's map shows a change that was just made, so that its next request follows it.
    pub(crate) async fn map_with(
        &self,
        context: &RequestContext,
        name: &str,
        shown: impl Fn(Option<&Arc<CollectionRoute>>) -> bool,
    ) -> Result<(), Problem> {
        loop {
            let known = self.cluster.collection(name, context.deadline).await?;
            if shown(known.as_ref()) {
                return Ok(());
            }
            self.cluster.newer_map().await;
            if context.remaining() < limits::RETRY_PAUSE {
                let detail = "the change was made, but this router has not learned of it yet: try again";
                return Err(Problem::new(Code::DeadlineExceeded, detail));
            }
            if !shown(self.cluster.collection(name, context.deadline).await?.as_ref()) {
                sleep(limits::RETRY_PAUSE / 5).await;
            }
        }
    }
}

/// Checks the settings of a new collection against a cluster of `shard_count` shards.
pub fn collection_settings(settings: &CollectionSettings, shard_count: u32) -> Result<(), Problem> {
    if let Some(dim) = settings.dim
        && (dim == 0 || dim > limits::MAX_DIM)
    {
        return Err(Problem::invalid(format!("dim is {dim}, it must be 1 to {}", limits::MAX_DIM)));
    }
    if let Some(partitions) = settings.partitions
        && (partitions == 0 || partitions > shard_count)
    {
        let detail = format!("partitions is {partitions}, it must be 1 to {shard_count}, the shards of this cluster");
        return Err(Problem::invalid(detail));
    }
    if settings.vectors.len() > limits::MAX_NAMED_VECTORS {
        let (have, limit) = (settings.vectors.len(), limits::MAX_NAMED_VECTORS);
        return Err(too_large(format!("vectors has {have} entries, the limit is {limit}")));
    }
    for (name, vectors) in &settings.vectors {
        checked_name("a name in vectors", name)?;
        if vectors.dim == 0 || vectors.dim > limits::MAX_DIM {
            let (dim, limit) = (vectors.dim, limits::MAX_DIM);
            return Err(Problem::invalid(format!(
                "dim of the vectors named {name:?} is {dim}, it must be 1 to {limit}"
            )));
        }
        if vectors.ef.is_some() {
            return Err(Problem::invalid(format!("ef of the vectors named {name:?} is no setting: tune finds it")));
        }
    }
    let kept = settings.versions.unwrap_or_default();
    for (field, said, most) in [
        ("versions.last", kept.last, limits::MAX_VERSIONS),
        ("versions.days", kept.days, limits::MAX_DAYS),
        ("bin_days", settings.bin_days, limits::MAX_DAYS),
    ] {
        if let Some(said) = said.filter(|&said| said > most) {
            return Err(Problem::invalid(format!("{field} is {said}, it must be 0 to {most}")));
        }
    }
    if settings.ttl_seconds == Some(0) {
        return Err(Problem::invalid("ttl_seconds is 0: leave it out to keep frames until they are forgotten"));
    }
    Ok(())
}

fn space_to(name: &str, vectors: &NamedVectors) -> Result<VectorSpace, Problem> {
    Ok(VectorSpace {
        name: checked_name("a name in vectors", name)?,
        dim: vectors.dim,
        metric: node_v1::Metric::from(vectors.metric).into(),
        quantization: node_v1::Quantization::from(vectors.quantization).into(),
        ef: 0,
    })
}
