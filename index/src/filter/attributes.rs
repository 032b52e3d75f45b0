//! The attributes of a document, with how those of a frame are made.
//!
//! An attribute is a field and a value; a document may have several values of one field. Those of a frame are its type,
//! session and role and the scalars of its metadata: `{"a": {"b": [1, 2]}}` gives the field `metadata.a.b` the values 1 and 2.
//! A null is no value. They lie in the sealed body of a frame. A node keeps those of plain frames in memory
//! ([`crate::filter::postings`]), beside codes and graph; a router reads those of private frames when a search asks about
//! them. Both make them here, so that a filter means the same to either.

use mira_proto::filter::METADATA;
use serde_json::Value as Json;

use crate::filter::value::{Number, Value};

/// The attributes of one document.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Attributes(Vec<(String, Value)>);

impl Attributes {
    /// Attributes in any order; repeated ones count once.
    pub fn new(mut pairs: Vec<(String, Value)>) -> Self {
        pairs.sort_unstable();
        pairs.dedup();
        Attributes(pairs)
    }

    /// Fields and values, in order.
    pub fn pairs(&self) -> &[(String, Value)] {
        &self.0
    }

    /// The values of a field, in order.
    pub fn of<'a>(&'a self, field: &'a str) -> impl Iterator<Item = &'a Value> {
        let first = self.0.partition_point(|(name, _)| name.as_str() < field);
        self.0[first..].iter().take_while(move |(name, _)| name == field).map(|(_, value)| value)
    }
}

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

pub(crate) fn number(json: &serde_json::Number) -> Option<Number> {
    let whole = json.as_i64().map(Number::from).or(json.as_u64().map(Number::from));
    whole.or_else(|| Number::from_f64(json.as_f64()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metadata_is_flattened_to_scalars() {
        let found = attributes(&Said {
            kind: "insight",
            session: "s1",
            metadata_json: r#"{"a": {"b": [1, 2.5, "x", null, {"c": true}]}, "big": 18446744073709551615, "n": null}"#,
            ..Said::default()
        });
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
}
