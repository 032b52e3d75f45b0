//! Collections: list, read, make, remove. The meta group decides; the map carries them to every router.

use std::sync::Arc;

use mira_proto::model::{Collection, CollectionSettings, GrowReply, GrowRequest, NamedVectors};
use mira_proto::node_v1::{
    CreateCollectionRequest, DropCollectionReply, DropCollectionRequest, GrowCollectionRequest, VectorSpace,
};
use mira_proto::{Code, Problem, limits, node_v1};
use tokio::time::{Instant, sleep};

use crate::cluster::{CallError, CollectionRoute};
use crate::memory::no_collection;
use crate::operations::convert;
use crate::operations::validate::{checked_name, collection_name, too_large};
use crate::{Memory, RequestContext};

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
        self.bounded("put_collection", context, self.create_collection(context, name, settings)).await
    }

    /// Makes a collection, or answers with the one that is there if it has these settings.
    pub(crate) async fn create_collection(
        &self,
        context: &RequestContext,
        name: &str,
        settings: CollectionSettings,
    ) -> Result<Collection, Problem> {
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
        let create = CreateCollectionRequest {
            name,
            dim,
            metric: node_v1::Metric::from(settings.metric).into(),
            quantization: node_v1::Quantization::from(settings.quantization).into(),
            partitions: settings.partitions.unwrap_or(1),
            ttl_seconds: settings.ttl_seconds.unwrap_or_default(),
            model: model.map(|model| model.name.clone()).unwrap_or_default(),
            spaces: settings.vectors.iter().map(|(name, vectors)| space_to(name, vectors)).collect::<Result<_, _>>()?,
            retention: Some(node_v1::Retention {
                last: settings.versions.and_then(|versions| versions.last),
                days: settings.versions.and_then(|versions| versions.days),
                bin_days: settings.bin_days,
            }),
        };
        let is_new = view.collection(&create.name).is_none();
        if is_new {
            self.collections_made.take(&context.principal, Instant::now())?;
        }
        let made = self
            .cluster
            .ask_meta(context, "create_collection", create, |clients, create| async move {
                clients.cluster().create_collection(create).await
            })
            .await;
        let made = made.inspect_err(|_| {
            if is_new {
                self.collections_made.give_back(&context.principal);
            }
        })?;
        let says_what_is_kept = settings.versions.is_some() || settings.bin_days.is_some();
        let is_made = |route: &Arc<CollectionRoute>| {
            route.info.id == made.id && (!says_what_is_kept || route.info.retention == made.retention)
        };
        self.map_with(context, &made.name, |route| route.is_some_and(is_made)).await?;
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
            let grow = GrowCollectionRequest { name: name.to_owned(), partitions, dry_run };
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
        self.bounded("delete_collection", context, async {
            let Some(removed) = self.find_collection(context, name).await? else { return Err(no_collection(name)) };
            let drop = DropCollectionRequest { name: name.to_owned(), shred: false };
            match self.drop_named(context, drop).await {
                Ok(_) => {}
                // An earlier try of ours removed it, and its answer was lost.
                Err(CallError::Refused { problem, after_unknown_outcome: true }) if problem.code == Code::NotFound => {}
                Err(error) => return Err(error.into()),
            }
            self.map_with(context, name, |route| route.is_none_or(|route| route.info.id != removed.info.id)).await
        })
        .await
    }

    pub(crate) async fn drop_named(
        &self,
        context: &RequestContext,
        drop: DropCollectionRequest,
    ) -> Result<DropCollectionReply, CallError> {
        self.cluster
            .ask_meta(context, "drop_collection", drop, |clients, drop| async move {
                clients.cluster().drop_collection(drop).await
            })
            .await
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
