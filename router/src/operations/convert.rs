//! From what nodes say to what callers see.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use mira_proto::model::{
    AttachmentInfo, Collection, Frame, GrowthStatus, Metadata, Metric, NamedVectors, RotationStatus, VersionsKept,
};
use mira_proto::node_v1::{self, MigrationStep};
use mira_proto::vectors::{OWN_SPACE, SpaceNumber};
use mira_proto::{Code, Problem, time};
use uuid::Uuid;

/// This router's clock, milliseconds since 1970.
pub fn now_ms() -> u64 {
    u64::try_from(Timestamp::now().as_millisecond()).unwrap_or_default()
}

/// A time of the wire as RFC 3339, to the millisecond.
pub fn rfc3339(ms: u64) -> String {
    time::format(ms)
}

/// A frame as callers see it. Fails with `damaged` when it is not what a node should give out.
pub fn frame(frame: node_v1::Frame) -> Result<Frame, Problem> {
    let id = Uuid::from_slice(&frame.id).map_err(|_| damaged("a frame without an id"))?;
    let metadata: Metadata = match frame.metadata_json.as_str() {
        "" => Metadata::new(),
        json => serde_json::from_str(json).map_err(|_| damaged(&format!("metadata of frame {id}")))?,
    };
    let attachment = frame.attachment.as_ref().map(attachment);
    let (content, bytes) = if attachment.is_some() && frame.content.is_empty() {
        (None, None)
    } else if frame.text {
        let text = String::from_utf8(frame.content.into()).map_err(|_| damaged(&format!("text of frame {id}")))?;
        (Some(text), None)
    } else {
        (None, Some(STANDARD.encode(&frame.content)))
    };
    Ok(Frame {
        id,
        content,
        bytes,
        metadata,
        kind: frame.r#type,
        session: present(frame.session),
        role: present(frame.role),
        created_at: rfc3339(frame.created_ms),
        updated_at: rfc3339(frame.updated_ms),
        expires_at: (frame.expires_ms != 0).then(|| rfc3339(frame.expires_ms)),
        version: frame.version,
        private: false,
        attachment,
    })
}

fn attachment(found: &node_v1::Attachment) -> AttachmentInfo {
    let size = found.chunks.iter().map(|chunk| u64::from(chunk.bytes)).sum();
    AttachmentInfo { content_type: found.content_type.clone(), size }
}

/// A collection as callers see it.
pub fn collection(info: &node_v1::Collection) -> Result<Collection, Problem> {
    Ok(Collection {
        name: info.name.clone(),
        dim: info.dim,
        metric: metric(info)?,
        quantization: known(info.quantization())?,
        partitions: info.partitions,
        ttl_seconds: (info.ttl_seconds != 0).then_some(info.ttl_seconds),
        versions: info.retention.map(|kept| VersionsKept { last: kept.last, days: kept.days }).unwrap_or_default(),
        bin_days: info.retention.and_then(|kept| kept.bin_days).unwrap_or_default(),
        ef: (info.ef != 0).then_some(info.ef),
        vectors: info.spaces.iter().map(named_vectors).collect::<Result<_, _>>()?,
        created_at: rfc3339(info.created_ms),
        model: present(info.model.clone()),
        growth: info.migration.as_ref().map(growth),
        rotation: info.rotation.as_ref().map(rotation),
    })
}

/// A space of a collection's vectors.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Space {
    /// Its number.
    pub number: SpaceNumber,
    /// Components of its vectors.
    pub dim: u32,
    /// How they are compared.
    pub metric: Metric,
    /// Beam of its searches; 0 = the index's own.
    pub ef: u32,
}

/// The space of a name; the collection's own for none.
pub fn space(info: &node_v1::Collection, name: &str) -> Result<Space, Problem> {
    if name.is_empty() {
        return Ok(Space { number: OWN_SPACE, dim: info.dim, metric: metric(info)?, ef: info.ef });
    }
    let Some((number, found)) = (OWN_SPACE + 1..).zip(&info.spaces).find(|(_, space)| space.name == name) else {
        let names: Vec<&str> = info.spaces.iter().map(|space| space.name.as_str()).collect();
        let have = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
        let detail = format!("collection {:?} has no vectors named {name:?}; named are: {have}", info.name);
        return Err(Problem::invalid(detail));
    };
    Ok(Space { number, dim: found.dim, metric: known(found.metric())?, ef: found.ef })
}

fn named_vectors(space: &node_v1::VectorSpace) -> Result<(String, NamedVectors), Problem> {
    let vectors = NamedVectors {
        dim: space.dim,
        metric: known(space.metric())?,
        quantization: known(space.quantization())?,
        ef: (space.ef != 0).then_some(space.ef),
    };
    Ok((space.name.clone(), vectors))
}

/// How far a rotation is, as callers see it.
pub fn rotation(found: &node_v1::Rotation) -> RotationStatus {
    RotationStatus { id: found.id, to: found.to, step: found.step().word().to_owned(), done: found.done, of: found.of }
}

/// Bytes as hex digits.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn growth(found: &node_v1::Migration) -> GrowthStatus {
    let step = found.step();
    let (done, of) = match step {
        MigrationStep::Copying => (found.done.len() as u32, found.to.saturating_sub(found.from)),
        MigrationStep::Clearing => (found.done.len() as u32, found.from),
        MigrationStep::Remembering | MigrationStep::Unspecified => (0, 0),
    };
    GrowthStatus { from: found.from, to: found.to, step: step.word().to_owned(), done, of }
}

/// How the collection's own vectors are compared.
fn metric(info: &node_v1::Collection) -> Result<Metric, Problem> {
    known(info.metric())
}

/// The wire's name of a setting: the same as in JSON.
pub fn name_of(setting: &impl serde::Serialize) -> String {
    match serde_json::to_value(setting) {
        Ok(serde_json::Value::String(name)) => name,
        other => unreachable!("a setting is a word: {other:?}"),
    }
}

/// A setting as nodes say it.
fn known<W, T: TryFrom<W>>(setting: W) -> Result<T, Problem> {
    setting.try_into().map_err(|_| {
        let detail = "the collection has a setting that this router does not know: update the router";
        Problem::new(Code::UnsupportedVersion, detail)
    })
}

fn present(text: String) -> Option<String> {
    (!text.is_empty()).then_some(text)
}

fn damaged(what: &str) -> Problem {
    Problem::new(Code::Damaged, format!("a storage node gave out {what} that cannot be read"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use mira_proto::model::Quantization;

    #[test]
    fn times_have_milliseconds() {
        assert_eq!(rfc3339(0), "1970-01-01T00:00:00.000Z");
        assert_eq!(rfc3339(1_795_000_000_120), "2026-11-18T11:06:40.120Z");
    }

    #[test]
    fn a_frame_that_is_not_what_it_says_is_damaged() {
        let good = node_v1::Frame { id: vec![7; 16].into(), content: "tea".into(), text: true, ..Default::default() };
        assert_eq!(frame(good.clone()).unwrap().content.as_deref(), Some("tea"));
        let opaque = frame(node_v1::Frame { text: false, ..good.clone() }).unwrap();
        assert_eq!((opaque.content, opaque.bytes.as_deref()), (None, Some("dGVh")));
        for bad in [
            node_v1::Frame { id: vec![7; 3].into(), ..good.clone() },
            node_v1::Frame { content: vec![0xff].into(), ..good.clone() },
            node_v1::Frame { metadata_json: "[]".into(), ..good },
        ] {
            assert_eq!(frame(bad).unwrap_err().code, Code::Damaged);
        }
    }

    #[test]
    fn settings_have_the_same_names_in_json_and_between_nodes() {
        assert_eq!(name_of(&Metric::L2), "l2");
        assert_eq!(name_of(&Quantization::None), "none");
        assert_eq!(known::<_, Metric>(node_v1::Metric::Dot).unwrap(), Metric::Dot);
        assert_eq!(known::<_, Metric>(node_v1::Metric::Unspecified).unwrap_err().code, Code::UnsupportedVersion);
    }
}
