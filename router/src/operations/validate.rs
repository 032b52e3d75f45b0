//! What several operations check of a request, before anything is done about it.
//!
//! Pure functions from requests to checked values; the shard never sees what they refuse. Every message says what was
//! wrong, the limit, and never the content. What depends on the collection (its dimension, whether it exists) is
//! checked where the collection is known, by `vector_fits`.

use mira_proto::filter::Filter;
use mira_proto::model::DEFAULT_COLLECTION;
use mira_proto::names::{self, NameError};
use mira_proto::time::{self, Moment};
use mira_proto::vectors::{self, VectorFault};
use mira_proto::{Code, Problem, limits};
use uuid::Uuid;

use crate::operations::convert::Space;

/// How many entries a page has at most.
pub(crate) fn page_size(limit: Option<u32>) -> Result<u32, Problem> {
    match limit.unwrap_or(limits::DEFAULT_SCAN) {
        limit @ 1..=limits::MAX_SCAN => Ok(limit),
        limit => Err(Problem::invalid(format!("limit is {limit}, allowed are 1 to {}", limits::MAX_SCAN))),
    }
}

/// An RFC 3339 time that something is compared with, of any year.
pub(crate) fn time(field: &str, text: &str) -> Result<Moment, Problem> {
    let wrong = || Problem::invalid(format!("{field} is not an RFC 3339 time such as 2026-11-22T10:00:00Z"));
    Moment::parse(text).ok_or_else(wrong)
}

/// An RFC 3339 time that is kept, as milliseconds since 1970.
pub(crate) fn kept_time(field: &str, text: &str) -> Result<u64, Problem> {
    let outside =
        || Problem::invalid(format!("{field} is kept: it must lie after 1970-01-01T00:00:00Z, within the year 9999"));
    match u64::try_from(time(field, text)?.millisecond()) {
        Ok(ms @ 1..=time::MAX_MS) => Ok(ms),
        _ => Err(outside()),
    }
}

/// A half-open range of creation times in milliseconds, 0 = open.
pub(crate) fn range(from: Option<&str>, to: Option<&str>) -> Result<(u64, u64), Problem> {
    let from = from.map(|text| time("created_from", text)).transpose()?;
    let to = to.map(|text| time("created_to", text)).transpose()?;
    if let (Some(from), Some(to)) = (from, to)
        && to <= from
    {
        return Err(Problem::invalid("created_to is not after created_from"));
    }
    // No frame was made in the first millisecond of 1970, nor before.
    let to = to.map(|to| to.first_from().max(1));
    Ok((from.map_or(0, |from| from.first_from()), to.unwrap_or_default()))
}

pub(crate) fn optional_name(field: &str, name: Option<String>) -> Result<Option<String>, Problem> {
    name.map(|name| checked_name(field, &name)).transpose()
}

/// A name that is a key, as it is kept.
pub(crate) fn checked_name(field: &str, name: &str) -> Result<String, Problem> {
    names::label(name).map_err(|error| wrong_name(field, &error))
}

/// The name of a collection, as it is kept.
pub(crate) fn collection_name(name: &str) -> Result<String, Problem> {
    names::collection(name).map_err(|error| wrong_name("collection", &error))
}

fn wrong_name(field: &str, error: &NameError) -> Problem {
    let code = if let NameError::TooLong(_) = error { Code::TooLarge } else { Code::InvalidArgument };
    Problem::new(code, format!("{field} {error}"))
}

pub(crate) fn collection(name: Option<String>) -> Result<String, Problem> {
    name.map_or_else(|| Ok(DEFAULT_COLLECTION.to_owned()), |name| collection_name(&name))
}

pub(crate) fn components(vector: &[f32]) -> Result<(), Problem> {
    if vector.is_empty() {
        return Err(Problem::invalid("vector is empty"));
    }
    if vector.len() > limits::MAX_DIM as usize {
        let (have, limit) = (vector.len(), limits::MAX_DIM);
        return Err(too_large(format!("vector has {have} components, the limit is {limit}")));
    }
    vectors::check_finite(vector).map_err(|fault| Problem::invalid(format!("vector {fault}")))
}

/// Whether a vector can be compared with those of a collection that have this name; its own, for an empty one.
pub(crate) fn vector_fits(vector: &[f32], space: Space, collection: &str, name: &str) -> Result<(), Problem> {
    let named = if name.is_empty() { String::new() } else { format!(" named {name:?}") };
    vectors::check(vector, space.dim as usize, space.metric).map_err(|fault| match fault {
        VectorFault::Dimension { have, want } => {
            let detail = format!("vector has {have} components, those of collection {collection:?}{named} have {want}");
            Problem::new(Code::DimensionMismatch, detail)
        }
        fault => Problem::invalid(format!("vector{named}: {fault}")),
    })
}

/// A filter that was checked, as the shards read it.
pub(crate) fn checked_filter(filter: &Filter) -> Result<String, Problem> {
    mira_index::filter::check(filter)?;
    serde_json::to_string(filter).map_err(|error| Problem::internal(format!("the filter is no JSON: {error}")))
}

pub(crate) fn id_list(ids: Vec<Uuid>, limit: usize) -> Result<Vec<Uuid>, Problem> {
    match ids.len() {
        0 => Err(Problem::invalid("ids is empty")),
        have if have > limit => Err(too_large(format!("ids has {have} entries, the limit is {limit}"))),
        _ => Ok(ids),
    }
}

pub(crate) fn too_large(detail: String) -> Problem {
    Problem::new(Code::TooLarge, detail)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use mira_proto::model::Metric;

    #[track_caller]
    pub(crate) fn refused<T: std::fmt::Debug>(result: Result<T, Problem>, code: Code, word: &str) {
        let problem = result.unwrap_err();
        assert!(problem.code == code && problem.detail.contains(word), "{problem}, expected {code} and {word:?}");
    }

    #[test]
    fn vectors_fit_their_collection() {
        let fits = |vector: &[f32], metric| vector_fits(vector, Space { number: 0, dim: 2, metric, ef: 0 }, "c", "");
        assert!(fits(&[0.0, 1.0], Metric::Cosine).is_ok());
        assert!(fits(&[0.0, 0.0], Metric::L2).is_ok());
        refused(fits(&[0.0, 0.0], Metric::Cosine), Code::InvalidArgument, "zeros");
        refused(fits(&[1.0], Metric::Dot), Code::DimensionMismatch, "have 2");
        refused(fits(&[2e15, 1.0], Metric::Dot), Code::InvalidArgument, "component 0 is beyond ±1e15");
        refused(fits(&[1.0, -2e15], Metric::L2), Code::InvalidArgument, "component 1");
        assert!(fits(&[2e15, 1.0], Metric::Cosine).is_ok());
    }

    #[test]
    fn bounds_may_be_any_time_and_times_that_are_kept_may_not() {
        let (moon, end) = ("1969-07-20T20:17:40Z", "9999-12-31T23:59:59Z");
        assert_eq!(range(Some(moon), Some(end)).unwrap(), (0, time::MAX_MS - 999));
        assert_eq!(range(None, Some(moon)).unwrap(), (0, 1), "nothing, and not everything");
        assert_eq!(range(Some(end), None).unwrap(), (time::MAX_MS - 999, 0));
        refused(range(Some(end), Some(moon)), Code::InvalidArgument, "created_to is not after");
        refused(range(Some(moon), Some(moon)), Code::InvalidArgument, "created_to is not after");
        refused(range(Some("noon"), None), Code::InvalidArgument, "created_from is not an RFC 3339 time");
        assert_eq!(kept_time("expires_at", end).unwrap(), time::MAX_MS - 999);
        for outside in [moon, "1970-01-01T00:00:00Z", "9999-12-31T23:59:59-01:00"] {
            refused(kept_time("created_at", outside), Code::InvalidArgument, "created_at is kept");
        }
    }

    #[test]
    fn names_are_one_whichever_way_they_are_written() {
        assert_eq!(checked_name("session", "cafe\u{301}").unwrap(), "caf\u{e9}");
        assert_eq!(collection(Some("cafe\u{301}/x".into())).unwrap(), "caf\u{e9}/x");
        assert_eq!(collection(None).unwrap(), "default");
        refused(collection(Some("..".into())), Code::InvalidArgument, "collection has the part");
        refused(checked_name("role", "a\u{202e}b"), Code::InvalidArgument, "role has the character U+202E");
        refused(checked_name("type", &"x".repeat(257)), Code::TooLarge, "type has 257 bytes");
    }
}
