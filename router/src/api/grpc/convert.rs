//! Between the messages of `mira.v1` and the values that operations take and give.

use std::collections::{BTreeMap, HashMap};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use mira_proto::{Code, Problem, limits, model, v1};
use serde::de::DeserializeOwned;
use uuid::Uuid;

use crate::operations::{convert, validate};

pub(super) fn item_of(item: v1::StoreRequest) -> Result<model::StoreItem, Problem> {
    let metadata = match item.metadata_json.as_str() {
        "" => None,
        json if json.len() > limits::MAX_METADATA_BYTES => {
            let (have, limit) = (json.len(), limits::MAX_METADATA_BYTES);
            return Err(Problem::new(Code::TooLarge, format!("metadata has {have} bytes, the limit is {limit}")));
        }
        json => Some(
            model::parse_metadata(json)
                .map_err(|error| Problem::invalid(format!("metadata_json is not a JSON object to keep: {error}")))?,
        ),
    };
    Ok(model::StoreItem {
        content: item.content,
        bytes: item.bytes.map(|bytes| STANDARD.encode(bytes)),
        kind: present(item.r#type),
        session: present(item.session),
        role: present(item.role),
        metadata,
        vector: (!item.vector.is_empty()).then_some(item.vector),
        vectors: item.named_vectors.into_iter().map(|(name, vector)| (name, vector.components)).collect(),
        id: present(item.id).map(|id| uuid(&id)).transpose()?,
        replace: item.replace,
        expected_version: item.expected_version,
        expires_at: present(item.expires_at),
        created_at: present(item.created_at),
        collection: present(item.collection),
        private: item.private,
        source_key: present(item.source_key),
        position: (item.position != 0).then_some(item.position),
    })
}

pub(super) fn search_of(request: v1::SearchRequest) -> Result<model::SearchRequest, Problem> {
    Ok(model::SearchRequest {
        query: present(request.query),
        vector: (!request.vector.is_empty()).then_some(request.vector),
        using: present(request.using),
        k: (request.k != 0).then_some(request.k),
        mode: word("mode", &request.mode)?.unwrap_or_default(),
        collection: present(request.collection),
        consistency: word("consistency", &request.consistency)?,
        created_from: present(request.created_from),
        created_to: present(request.created_to),
        strict: request.strict,
        exact: request.exact,
        ef: (request.ef != 0).then_some(request.ef),
        filter: filter_of(&request.filter_json)?,
        explain: request.explain,
        queries: (!request.queries.is_empty()).then_some(request.queries),
        vectors: (!request.vectors.is_empty())
            .then(|| request.vectors.into_iter().map(|vector| vector.components).collect()),
        combine: word("combine", &request.combine)?,
        min_score: request.min_score,
        cursor: present(request.cursor),
        recency: request.recency.map(|recency| model::Recency {
            half_life_seconds: recency.half_life_seconds,
            weight: (recency.weight != 0.0).then_some(recency.weight),
        }),
        group_by: present(request.group_by),
        group_size: (request.group_size != 0).then_some(request.group_size),
        diversity: request.diversity,
        searches: None,
        include_private: request.include_private,
        only_private: request.only_private,
    })
}

pub(super) fn by_name<T, U>(found: BTreeMap<String, T>, to: impl Fn(T) -> U) -> HashMap<String, U> {
    found.into_iter().map(|(name, value)| (name, to(value))).collect()
}

pub(super) fn named_vectors_of(vectors: v1::NamedVectors) -> Result<model::NamedVectors, Problem> {
    Ok(model::NamedVectors {
        dim: vectors.dim,
        metric: word("metric", &vectors.metric)?.unwrap_or_default(),
        quantization: word("quantization", &vectors.quantization)?.unwrap_or_default(),
        ef: vectors.ef,
    })
}

pub(super) fn filter_of(json: &str) -> Result<Option<model::Filter>, Problem> {
    if json.is_empty() {
        return Ok(None);
    }
    let wrong = |error| Problem::invalid(format!("filter_json is wrong: {}", mira_proto::json::fault(json, &error)));
    serde_json::from_str(json).map(Some).map_err(wrong)
}

pub(super) fn search_to(reply: model::SearchReply) -> Result<v1::SearchReply, Problem> {
    Ok(v1::SearchReply {
        hits: reply.hits.into_iter().map(hit_to).collect::<Result<_, _>>()?,
        degraded: reply.degraded,
        missing_shards: reply.missing_shards,
        consistency_token: reply.consistency_token,
        next_cursor: reply.next_cursor.unwrap_or_default(),
        explain_json: reply.explain.map(|explain| json_of(&explain)).transpose()?.unwrap_or_default(),
        staleness_ms: reply.staleness_ms,
        lagging: reply.lagging,
        looked_through: reply.looked_through,
        damaged: reply.damaged.iter().map(ToString::to_string).collect(),
    })
}

pub(super) fn recall_of(request: v1::RecallRequest) -> Result<model::RecallRequest, Problem> {
    let (id, ids) = one_or_many(request.ids)?;
    Ok(model::RecallRequest {
        id,
        ids,
        version: request.version,
        known_at: present(request.known_at),
        session: present(request.session),
        created_from: present(request.created_from),
        created_to: present(request.created_to),
        limit: (request.limit != 0).then_some(request.limit),
        last: request.last,
        cursor: present(request.cursor),
        collection: present(request.collection),
        consistency: word("consistency", &request.consistency)?,
    })
}

/// A single id is asked for as one, so that its absence is a problem here as it is elsewhere.
pub(super) fn one_or_many(ids: Vec<String>) -> Result<(Option<Uuid>, Option<Vec<Uuid>>), Problem> {
    let ids = ids.iter().map(|id| uuid(id)).collect::<Result<Vec<Uuid>, _>>()?;
    Ok(match ids[..] {
        [] => (None, None),
        [id] => (Some(id), None),
        _ => (None, Some(ids)),
    })
}

pub(super) fn uuid(text: &str) -> Result<Uuid, Problem> {
    text.parse()
        .map_err(|_| Problem::invalid("an id is not a UUID: it has 32 hexadecimal digits, with or without hyphens"))
}

/// A setting by its JSON name; empty means absent.
pub(super) fn word<T: DeserializeOwned>(field: &str, text: &str) -> Result<Option<T>, Problem> {
    if text.is_empty() {
        return Ok(None);
    }
    serde_json::from_value(text.into()).map(Some).map_err(|error| Problem::invalid(format!("{field}: {error}")))
}

/// What gRPC carries as the JSON document that REST gives.
pub(super) fn json_of(document: &impl serde::Serialize) -> Result<String, Problem> {
    serde_json::to_string(document).map_err(|error| Problem::internal(error.to_string()))
}

pub(super) fn present(text: String) -> Option<String> {
    (!text.is_empty()).then_some(text)
}

pub(super) fn hit_to(hit: model::Hit) -> Result<v1::Hit, Problem> {
    let vector = hit.why.vector.map(|reason| v1::VectorReason {
        rank: reason.rank,
        score: reason.score,
        passage_start: reason.passage.map(|(start, _)| start),
        passage_end: reason.passage.map(|(_, end)| end),
    });
    let text = hit.why.text.map(|reason| v1::TextReason {
        rank: reason.rank,
        score: reason.score,
        highlights: reason.highlights.into_iter().flat_map(|(start, end)| [start, end]).collect(),
    });
    let group_json = hit.group.map(|group| json_of(&group)).transpose()?.unwrap_or_default();
    Ok(v1::Hit { score: hit.score, frame: Some(frame_to(hit.frame)?), vector, group_json, text })
}

/// The collection that a request names, or the default one.
pub(super) fn collection_of(name: String) -> Result<String, Problem> {
    validate::collection(present(name))
}

pub(super) fn upload_of(name: v1::UploadName) -> Result<(String, Uuid), Problem> {
    let collection = collection_of(name.collection)?;
    Ok((collection, uuid(&name.upload)?))
}

pub(super) fn upload_to(reply: model::UploadReply) -> v1::UploadState {
    v1::UploadState {
        upload: reply.upload.to_string(),
        offset: reply.offset,
        size: reply.size,
        id: reply.stored.as_ref().map(|stored| stored.id.to_string()).unwrap_or_default(),
        version: reply.stored.as_ref().map(|stored| stored.version).unwrap_or_default(),
        unchanged: reply.stored.is_some_and(|stored| stored.unchanged),
    }
}

pub(super) fn frame_to(frame: model::Frame) -> Result<v1::Frame, Problem> {
    let bytes = frame.bytes.map(|base64| STANDARD.decode(base64)).transpose();
    let metadata_json =
        if frame.metadata.is_empty() { String::new() } else { serde_json::Value::Object(frame.metadata).to_string() };
    Ok(v1::Frame {
        id: frame.id.to_string(),
        content: frame.content,
        bytes: bytes.map_err(|error| Problem::internal(error.to_string()))?.map(Into::into),
        r#type: frame.kind,
        session: frame.session.unwrap_or_default(),
        role: frame.role.unwrap_or_default(),
        metadata_json,
        version: frame.version,
        created_at: frame.created_at,
        updated_at: frame.updated_at,
        expires_at: frame.expires_at.unwrap_or_default(),
        private: frame.private,
        attachment: frame
            .attachment
            .map(|found| v1::AttachmentInfo { content_type: found.content_type, size: found.size }),
    })
}

pub(super) fn collection_to(collection: model::Collection) -> v1::Collection {
    v1::Collection {
        metric: convert::name_of(&collection.metric),
        quantization: convert::name_of(&collection.quantization),
        name: collection.name,
        dim: collection.dim,
        partitions: collection.partitions,
        ttl_seconds: collection.ttl_seconds,
        versions: Some(v1::VersionsKept { last: collection.versions.last, days: collection.versions.days }),
        bin_days: collection.bin_days,
        created_at: collection.created_at,
        model: collection.model.unwrap_or_default(),
        growth: collection.growth.map(|growth| v1::GrowthStatus {
            from: growth.from,
            to: growth.to,
            step: growth.step,
            done: growth.done,
            of: growth.of,
        }),
        ef: collection.ef,
        vectors: by_name(collection.vectors, |vectors| v1::NamedVectors {
            dim: vectors.dim,
            metric: convert::name_of(&vectors.metric),
            quantization: convert::name_of(&vectors.quantization),
            ef: vectors.ef,
        }),
        rotation: collection.rotation.map(rotation_to),
    }
}

fn rotation_to(rotation: model::RotationStatus) -> v1::RotationStatus {
    v1::RotationStatus { id: rotation.id, to: rotation.to, step: rotation.step, done: rotation.done, of: rotation.of }
}

pub(super) fn keys_to(reply: model::KeysReply) -> v1::ListKeysReply {
    let node = |keys: model::NodeKeys| v1::NodeKeys {
        node: keys.node,
        held: keys.held,
        error: keys.error.unwrap_or_default(),
    };
    let collection = |keys: model::CollectionKeys| v1::CollectionKeys {
        name: keys.name,
        keys: keys.keys.into_iter().map(key_to).collect(),
        rotation: keys.rotation.map(rotation_to),
    };
    v1::ListKeysReply {
        active: reply.active,
        nodes: reply.nodes.into_iter().map(node).collect(),
        collections: reply.collections.into_iter().map(collection).collect(),
        layer_versions: reply.layer_versions,
    }
}

fn key_to(key: model::KeyInfo) -> v1::KeyInfo {
    v1::KeyInfo { version: key.version, id: key.id }
}

pub(super) fn erasure_to(erasure: model::Erasure) -> v1::Erasure {
    v1::Erasure {
        id: erasure.id,
        collection: erasure.collection.unwrap_or_default(),
        whole: erasure.whole,
        state: erasure.state,
        keys: erasure.keys.into_iter().map(key_to).collect(),
        destroyed_at: erasure.destroyed_at.unwrap_or_default(),
        waits_for_nodes: erasure.waits_for_nodes,
        waits_for_repositories: erasure.waits_for_repositories,
        receipt: erasure.receipt.map(|receipt| v1::SignedReceipt {
            statement: receipt.statement,
            signature: receipt.signature,
            public_key: receipt.public_key,
        }),
    }
}
