//! The filter of a request, read into what an index is asked.

use std::ops::Range;

use mira_proto::Problem;
use mira_proto::filter::Filter;

use crate::filter::check::check;
use crate::filter::condition::Condition;

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
pub fn parse(json: &str) -> Result<Option<Condition>, Problem> {
    if json.is_empty() {
        return Ok(None);
    }
    let filter: Filter =
        serde_json::from_str(json).map_err(|error| Problem::invalid(format!("the filter is wrong: {error}")))?;
    check(&filter).map(Some)
}

/// Splits what a filter asks of the time of creation off, where it must hold as a whole.
pub fn split(filter: Option<Condition>, created_ms: Range<u64>) -> Wanted {
    let parts = match filter {
        None => Vec::new(),
        Some(Condition::All(parts)) => parts,
        Some(other) => vec![other],
    };
    let mut wanted = Wanted { created_ms, condition: None };
    let mut rest = Vec::new();
    for part in parts {
        match part {
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
            assert_eq!(checked.clone().unwrap().matches(&frame, &times), holds, "{json}");
            let Wanted { created_ms, condition } = split(checked, 0..u64::MAX);
            let rest = condition.is_none_or(|condition| condition.matches(&frame, &times));
            assert_eq!(created_ms.contains(&times.created_ms) && rest, holds, "{json}");
        }
        assert!(parse("{}").is_err());
        assert!(parse("[").is_err());
    }
}
