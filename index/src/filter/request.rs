//! The filter of a request, read into what an index is asked.

use std::ops::{Bound, Range};

use mira_proto::Problem;
use mira_proto::filter::{self, Filter, Scalar};

use crate::filter::attributes::number;
use crate::filter::condition::{Condition, Span, Test};
use crate::filter::value::Value;

/// What a request's filter asks: of the time of creation, which every frame of an index has at hand, and of the rest.
#[derive(Debug, Clone, PartialEq)]
pub struct Wanted {
    /// Created in this time, milliseconds.
    pub created_ms: Range<u64>,
    /// What else must hold.
    pub condition: Option<Condition>,
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
    let bound = |end: Option<(Scalar, bool)>| match end.and_then(|(scalar, included)| Some((value(scalar)?, included)))
    {
        Some((value, true)) => Bound::Included(value),
        Some((value, false)) => Bound::Excluded(value),
        None => Bound::Unbounded,
    };
    match test {
        filter::Test::In(values) => Test::In(values.into_iter().filter_map(value).collect()),
        // A checked range has an end and its ends are of one type.
        filter::Test::Between(lower, upper) => {
            Span::new(bound(lower), bound(upper)).map_or(Test::In(Vec::new()), Test::Within)
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
    use crate::document::Times;
    use crate::filter::attributes::{Said, attributes};

    #[test]
    fn filters_mean_the_same_here() {
        let metadata_json = r#"{"n": 5, "tags": ["a", "b"], "author": {"name": "Ada"}}"#;
        let frame = attributes(&Said { kind: "insight", session: "s1", metadata_json, ..Said::default() });
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
