//! Filters of callers: what a frame's attributes are, and what a checked filter asks of them.
//!
//! Attributes are the type, session and role of a frame and the scalars of its metadata: `{"a": {"b": [1, 2]}}` gives the
//! field `metadata.a.b` the values 1 and 2. A null is no value. They lie in the sealed body of a frame. A node keeps those of
//! plain frames in memory (`crate::filter::postings`), beside codes and graph; a router reads those of private frames when a
//! search asks about them. Both make them here, so that a filter means the same to either.

use std::ops::Range;

use mira_proto::{
    Problem,
    filter::{self, Filter, METADATA, Scalar},
};
use serde_json::Value as Json;

use crate::filter::condition::{Attributes, Condition, Number, Span, Test, Value};

/// What a frame says of itself beside its content.
#[derive(Debug, Clone, Copy, Default)]
pub struct Said<'a> {
    /// The type.
    pub kind: &'a str,
    /// The session; empty for none.
    pub session: &'a str,
    /// The role; empty for none.
    pub role: &'a str,
    /// A JSON object, or empty.
    pub metadata_json: &'a str,
}

/// The attributes of a frame.
pub fn attributes(said: &Said<'_>) -> Attributes {
    let mut pairs = Vec::new();
    for (field, text) in [("type", said.kind), ("session", said.session), ("role", said.role)] {
        if !text.is_empty() {
            pairs.push((field.to_owned(), text.into()));
        }
    }
    // The router wrote it from an object; what is no JSON has no attributes, and reading the frame says what is wrong.
    if let Ok(Json::Object(metadata)) = serde_json::from_str(said.metadata_json) {
        for (name, value) in metadata {
            flatten(format!("{METADATA}{name}"), value, &mut pairs);
        }
    }
    Attributes::new(pairs)
}

fn flatten(field: String, json: Json, pairs: &mut Vec<(String, Value)>) {
    match json {
        Json::Null => {}
        Json::Bool(value) => pairs.push((field, Value::Bool(value))),
        Json::Number(value) => pairs.extend(number(&value).map(|value| (field, Value::Number(value)))),
        Json::String(value) => pairs.push((field, Value::Text(value.into()))),
        Json::Array(values) => values.into_iter().for_each(|value| flatten(field.clone(), value, pairs)),
        Json::Object(values) => {
            values.into_iter().for_each(|(name, value)| flatten(format!("{field}.{name}"), value, pairs));
        }
    }
}

fn number(json: &serde_json::Number) -> Option<Number> {
    let whole = json.as_i64().map(Number::from).or(json.as_u64().map(Number::from));
    whole.or_else(|| Number::from_f64(json.as_f64()?))
}

/// What a request's filter asks: of the time of creation, which every frame of an index has at hand, and of the rest.
#[derive(Debug, Clone, PartialEq)]
pub struct Wanted {
    /// Created in this time, milliseconds.
    pub created_ms: Range<u64>,
    /// What else must hold.
    pub condition: Option<Condition>,
}

/// The first value of a field, as JSON.
pub fn to_json(value: &Value) -> String {
    match value {
        Value::Bool(value) => value.to_string(),
        Value::Number(number) => number.to_string(),
        Value::Text(text) => Json::from(text.as_ref()).to_string(),
    }
}

/// Reads the filter of a request, `None` if it is empty. A router checks it with better words before; a node trusts
/// no router.
pub fn parse(json: &str) -> Result<Option<filter::Condition>, Problem> {
    if json.is_empty() {
        return Ok(None);
    }
    let filter: Filter =
        serde_json::from_str(json).map_err(|error| Problem::invalid(format!("the filter is wrong: {error}")))?;
    filter.check().map(Some)
}

/// Splits what a filter asks of the time of creation off, where it must hold as a whole.
pub fn split(filter: Option<filter::Condition>, created_ms: Range<u64>) -> Wanted {
    let parts = match filter {
        None => Vec::new(),
        Some(filter::Condition::All(parts)) => parts,
        Some(other) => vec![other],
    };
    let mut wanted = Wanted { created_ms, condition: None };
    let mut rest = Vec::new();
    for part in parts {
        match condition(part) {
            Condition::Created(range) => {
                let Range { start, end } = wanted.created_ms;
                wanted.created_ms = start.max(range.start)..end.min(range.end);
            }
            other => rest.push(other),
        }
    }
    wanted.condition = match rest.len() {
        0 => None,
        1 => rest.pop(),
        _ => Some(Condition::All(rest)),
    };
    wanted
}

/// A checked filter in the words of the index.
pub fn condition(checked: filter::Condition) -> Condition {
    let all = |parts: Vec<filter::Condition>| parts.into_iter().map(condition).collect();
    match checked {
        filter::Condition::All(parts) => Condition::All(all(parts)),
        filter::Condition::Any(parts) => Condition::Any(all(parts)),
        filter::Condition::Not(part) => Condition::Not(Box::new(condition(*part))),
        filter::Condition::Created(range) => Condition::Created(range),
        filter::Condition::Field(field, test) => Condition::Field(field, self::test(test)),
    }
}

fn test(test: filter::Test) -> Test {
    let end = |end: Option<(Scalar, bool)>| end.and_then(|(scalar, included)| Some((value(scalar)?, included)));
    match test {
        filter::Test::In(values) => Test::In(values.into_iter().filter_map(value).collect()),
        // A checked range has an end and its ends are of one kind.
        filter::Test::Between(lower, upper) => {
            Span::new(end(lower), end(upper)).map_or(Test::In(Vec::new()), Test::Within)
        }
        filter::Test::Prefix(prefix) => Test::Prefix(prefix),
        filter::Test::Exists => Test::Exists,
    }
}

fn value(scalar: Scalar) -> Option<Value> {
    match scalar {
        Scalar::Bool(value) => Some(Value::Bool(value)),
        Scalar::Number(value) => number(&value).map(Value::Number),
        Scalar::Text(value) => Some(Value::Text(value.into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vector::table::Times;

    fn said(metadata_json: &str) -> Said<'_> {
        Said { kind: "insight", session: "s1", metadata_json, ..Said::default() }
    }

    #[test]
    fn metadata_is_flattened_to_scalars() {
        let found = attributes(&said(
            r#"{"a": {"b": [1, 2.5, "x", null, {"c": true}]}, "big": 18446744073709551615, "n": null}"#,
        ));
        let number = |value: f64| Value::Number(Number::from_f64(value).unwrap());
        let expected = Attributes::new(vec![
            ("type".into(), "insight".into()),
            ("session".into(), "s1".into()),
            ("metadata.a.b".into(), number(1.0)),
            ("metadata.a.b".into(), number(2.5)),
            ("metadata.a.b".into(), "x".into()),
            ("metadata.a.b.c".into(), Value::Bool(true)),
            ("metadata.big".into(), Value::Number(u64::MAX.into())),
        ]);
        assert_eq!(found, expected);
    }

    #[test]
    fn filters_mean_the_same_here() {
        let frame = attributes(&said(r#"{"n": 5, "tags": ["a", "b"], "author": {"name": "Ada"}}"#));
        let times = Times { created_ms: 1_500, expires_ms: 0 };
        let table = [
            (r#"{"field": "type", "eq": "insight"}"#, true),
            (r#"{"field": "role", "exists": false}"#, true),
            (r#"{"field": "metadata.n", "eq": 5.0}"#, true),
            (r#"{"field": "metadata.n", "eq": "5"}"#, false),
            (r#"{"field": "metadata.n", "gt": 4.5, "lt": 6}"#, true),
            (r#"{"field": "metadata.tags", "in": ["c", "b"]}"#, true),
            (r#"{"not": {"field": "metadata.tags", "eq": "a"}}"#, false),
            (r#"{"field": "metadata.author.name", "prefix": "A"}"#, true),
            (
                r#"{"and": [{"field": "created_at", "gte": "1970-01-01T00:00:01Z"}, {"field": "session", "eq": "s1"}]}"#,
                true,
            ),
            (
                r#"{"or": [{"field": "created_at", "gte": "1970-01-01T00:00:02Z"}, {"field": "session", "eq": "s2"}]}"#,
                false,
            ),
        ];
        for (json, holds) in table {
            let checked = parse(json).unwrap();
            assert_eq!(condition(checked.clone().unwrap()).matches(&frame, &times), holds, "{json}");
            let Wanted { created_ms, condition } = split(checked, 0..u64::MAX);
            let rest = condition.is_none_or(|condition| condition.matches(&frame, &times));
            assert_eq!(created_ms.contains(&times.created_ms) && rest, holds, "{json}");
        }
        assert!(parse("{}").is_err());
        assert!(parse("[").is_err());
    }
}
