//! Filters: which frames a search or a `forget` means, by session, role, type, time and metadata.
//!
//! A [`Filter`] is what a caller writes, as JSON:
//!
//! ```json
//! {"and": [{"field": "type", "in": ["insight", "code"]},
//!          {"field": "metadata.priority", "gte": 3},
//!          {"not": {"field": "metadata.tags", "eq": "draft"}}]}
//! ```
//!
//! [`Filter::check`] is the one place where it is judged; what comes out is a [`Condition`] that needs no more checks.
//! Fields are `type`, `session`, `role`, `created_at` and `metadata.NAME`, where a dot leads into an object
//! (`metadata.author.name`). A list in metadata has several values, and a test holds if it holds for one of them. Values
//! are compared with values of their own kind: text, number, or true and false.

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_with::skip_serializing_none;

use crate::{Code, Problem, limits};

/// Begins the names of fields of metadata.
pub const METADATA: &str = "metadata.";

/// Which frames are meant: exactly one of `and`, `or`, `not`, or a `field` with a test.
#[skip_serializing_none]
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Filter {
    /// All of these hold.
    pub and: Option<Vec<Filter>>,
    /// One of these holds.
    pub or: Option<Vec<Filter>>,
    /// This does not hold.
    pub not: Option<Box<Filter>>,
    /// The field to test: type, session, role, created_at, or metadata.NAME (a dot leads into an object).
    pub field: Option<String>,
    /// Equal to this.
    pub eq: Option<Scalar>,
    /// Equal to one of these, up to 1,000.
    #[serde(rename = "in")]
    pub one_of: Option<Vec<Scalar>>,
    /// Greater than this; goes with `lt` or `lte`. For created_at, here and in the three below: an RFC 3339 time.
    pub gt: Option<Scalar>,
    /// Greater than this or equal; goes with `lt` or `lte`.
    pub gte: Option<Scalar>,
    /// Less than this; goes with `gt` or `gte`.
    pub lt: Option<Scalar>,
    /// Less than this or equal; goes with `gt` or `gte`.
    pub lte: Option<Scalar>,
    /// Text that begins with this.
    pub prefix: Option<String>,
    /// Whether the field has a value.
    pub exists: Option<bool>,
}

/// A text, a number, true or false.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged, expecting = "expected a text, a number, true or false")]
pub enum Scalar {
    /// True or false.
    Bool(bool),
    /// A number.
    Number(serde_json::Number),
    /// A text.
    Text(String),
}

impl Scalar {
    fn kind(&self) -> &'static str {
        match self {
            Scalar::Bool(_) => "true or false",
            Scalar::Number(_) => "a number",
            Scalar::Text(_) => "a text",
        }
    }
}

/// A filter that was checked.
#[derive(Debug, Clone, PartialEq)]
pub enum Condition {
    /// All of these hold.
    All(Vec<Condition>),
    /// One of these holds.
    Any(Vec<Condition>),
    /// This does not hold.
    Not(Box<Condition>),
    /// One value of the field passes the test.
    Field(String, Test),
    /// Created at or after, and before: milliseconds since 1970.
    Created(std::ops::Range<u64>),
}

/// What a value must be.
#[derive(Debug, Clone, PartialEq)]
pub enum Test {
    /// One of these.
    In(Vec<Scalar>),
    /// Between these, each with whether it belongs to the range; at least one is there, and both are of one kind.
    Between(Option<(Scalar, bool)>, Option<(Scalar, bool)>),
    /// Text that begins so.
    Prefix(String),
    /// Anything.
    Exists,
}

/// How much of a filter was looked at.
#[derive(Default)]
struct Tally {
    tests: usize,
    values: usize,
    bytes: usize,
}

impl Filter {
    /// Checks the filter against every rule and limit.
    pub fn check(&self) -> Result<Condition, Problem> {
        check(self, 1, &mut Tally::default())
    }
}

fn check(filter: &Filter, depth: usize, tally: &mut Tally) -> Result<Condition, Problem> {
    if depth > limits::MAX_FILTER_DEPTH {
        return Err(too_large(format!("filter is nested deeper than {} levels", limits::MAX_FILTER_DEPTH)));
    }
    tally.count(filter)?;
    let forms = [filter.and.is_some(), filter.or.is_some(), filter.not.is_some(), filter.field.is_some()];
    if forms.into_iter().filter(|is_there| *is_there).count() != 1 {
        return Err(invalid("each part of a filter has exactly one of and, or, not and field"));
    }
    if filter.field.is_none() && has_test(filter) {
        return Err(invalid("a filter's test goes with a field, not with and, or or not"));
    }
    let mut parts =
        |parts: &[Filter]| parts.iter().map(|part| check(part, depth + 1, tally)).collect::<Result<Vec<_>, _>>();
    match filter {
        Filter { and: Some(all), .. } => Ok(Condition::All(parts(all)?)),
        Filter { or: Some(any), .. } if any.is_empty() => Err(invalid("or is empty: it would match nothing")),
        Filter { or: Some(any), .. } => Ok(Condition::Any(parts(any)?)),
        Filter { not: Some(part), .. } => Ok(Condition::Not(Box::new(check(part, depth + 1, tally)?))),
        Filter { field: Some(field), .. } => check_field(field, filter),
        _ => Err(invalid("each part of a filter has exactly one of and, or, not and field")),
    }
}

impl Tally {
    fn count(&mut self, filter: &Filter) -> Result<(), Problem> {
        self.tests += 1;
        self.values += filter.one_of.as_ref().map_or(0, Vec::len);
        let ends = [&filter.eq, &filter.gt, &filter.gte, &filter.lt, &filter.lte].into_iter().flatten();
        let texts = ends.chain(filter.one_of.iter().flatten()).map(|value| match value {
            Scalar::Text(text) => text.len(),
            _ => 8,
        });
        self.bytes += texts.sum::<usize>()
            + [&filter.field, &filter.prefix].into_iter().flatten().map(String::len).sum::<usize>();
        let table = [
            ("parts", self.tests, limits::MAX_FILTER_PARTS),
            ("values", self.values, limits::MAX_FILTER_VALUES),
            ("bytes of text", self.bytes, limits::MAX_FILTER_BYTES),
        ];
        match table.into_iter().find(|(_, have, limit)| have > limit) {
            Some((what, have, limit)) => Err(too_large(format!("filter has {have} {what}, the limit is {limit}"))),
            None => Ok(()),
        }
    }
}

fn has_test(filter: &Filter) -> bool {
    filter.eq.is_some()
        || filter.one_of.is_some()
        || has_range(filter)
        || filter.prefix.is_some()
        || filter.exists.is_some()
}

fn has_range(filter: &Filter) -> bool {
    filter.gt.is_some() || filter.gte.is_some() || filter.lt.is_some() || filter.lte.is_some()
}

/// What kinds of values a field has, as far as that is known before looking.
enum Kind {
    Text,
    Time,
    Any,
}

fn kind_of(field: &str) -> Result<Kind, Problem> {
    match field {
        "type" | "session" | "role" => Ok(Kind::Text),
        "created_at" => Ok(Kind::Time),
        _ => match field.strip_prefix(METADATA) {
            Some("") => Err(invalid("filter field metadata. names no field")),
            Some(_) => Ok(Kind::Any),
            None => Err(invalid(format!(
                "filter field {:?} is unknown: there are type, session, role, created_at and metadata.NAME",
                field.chars().take(64).collect::<String>()
            ))),
        },
    }
}

fn check_field(field: &str, filter: &Filter) -> Result<Condition, Problem> {
    let kind = kind_of(field)?;
    let tests = [
        filter.eq.is_some(),
        filter.one_of.is_some(),
        has_range(filter),
        filter.prefix.is_some(),
        filter.exists.is_some(),
    ];
    if tests.into_iter().filter(|is_there| *is_there).count() != 1 {
        let detail = "needs exactly one test: eq, in, a range (gt, gte, lt, lte), prefix or exists";
        return Err(invalid(format!("filter field {field} {detail}")));
    }
    if let Kind::Time = kind {
        return created(filter);
    }
    let fits = |value: &Scalar| match (&kind, value) {
        (Kind::Text, Scalar::Bool(_) | Scalar::Number(_)) => {
            Err(invalid(format!("filter field {field} has text, and is compared with {}", value.kind())))
        }
        _ => Ok(()),
    };
    let of = |test| Condition::Field(field.to_owned(), test);
    if let Some(value) = &filter.eq {
        fits(value)?;
        return Ok(of(Test::In(vec![value.clone()])));
    }
    if let Some(values) = &filter.one_of {
        if values.is_empty() {
            return Err(invalid(format!("filter field {field}: in is empty")));
        }
        values.iter().try_for_each(fits)?;
        return Ok(of(Test::In(values.clone())));
    }
    if let Some(prefix) = &filter.prefix {
        return Ok(of(Test::Prefix(prefix.clone())));
    }
    match filter.exists {
        Some(true) => Ok(of(Test::Exists)),
        Some(false) => Ok(Condition::Not(Box::new(of(Test::Exists)))),
        None => {
            let (lower, upper) = ends(field, filter)?;
            [&lower, &upper].into_iter().flatten().try_for_each(|(value, _)| fits(value))?;
            Ok(of(Test::Between(lower, upper)))
        }
    }
}

type End = Option<(Scalar, bool)>;

fn ends(field: &str, filter: &Filter) -> Result<(End, End), Problem> {
    let end = |open: &Option<Scalar>, closed: &Option<Scalar>, names: &str| match (open, closed) {
        (Some(_), Some(_)) => Err(invalid(format!("filter field {field}: {names} exclude each other"))),
        (open, closed) => {
            let open = open.clone().map(|value| (value, false));
            Ok(open.or(closed.clone().map(|value| (value, true))))
        }
    };
    let lower = end(&filter.gt, &filter.gte, "gt and gte")?;
    let upper = end(&filter.lt, &filter.lte, "lt and lte")?;
    if let (Some((lower, _)), Some((upper, _))) = (&lower, &upper)
        && lower.kind() != upper.kind()
    {
        let (lower, upper) = (lower.kind(), upper.kind());
        return Err(invalid(format!("filter field {field}: the range goes from {lower} to {upper}")));
    }
    Ok((lower, upper))
}

/// Times are compared in milliseconds, as they are kept.
fn created(filter: &Filter) -> Result<Condition, Problem> {
    let time = |value: &Scalar| match value {
        Scalar::Text(text) => milliseconds(text).ok_or_else(|| {
            invalid(
                "filter field created_at is compared with RFC 3339 times such as 2026-11-22T10:00:00Z, not before 1970",
            )
        }),
        other => Err(invalid(format!("filter field created_at has a time, and is compared with {}", other.kind()))),
    };
    if let Some(value) = &filter.eq {
        let at = time(value)?;
        return Ok(Condition::Created(at..at.saturating_add(1)));
    }
    if !has_range(filter) {
        return Err(invalid("filter field created_at takes eq and ranges (gt, gte, lt, lte) only"));
    }
    let (lower, upper) = ends("created_at", filter)?;
    let mut range = 0..u64::MAX;
    if let Some((value, is_closed)) = lower {
        range.start = time(&value)?.saturating_add(u64::from(!is_closed));
    }
    if let Some((value, is_closed)) = upper {
        range.end = time(&value)?.saturating_add(u64::from(is_closed));
    }
    Ok(Condition::Created(range))
}

/// An RFC 3339 time as milliseconds since 1970; `None` for what is none, or before.
pub fn milliseconds(text: &str) -> Option<u64> {
    let time: Timestamp = text.parse().ok()?;
    u64::try_from(time.as_millisecond()).ok()
}

fn invalid(detail: impl Into<String>) -> Problem {
    Problem::invalid(detail)
}

fn too_large(detail: String) -> Problem {
    Problem::new(Code::TooLarge, detail)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: &str) -> Result<Condition, Problem> {
        let filter: Filter = serde_json::from_str(json).map_err(|error| Problem::invalid(error.to_string()))?;
        let again = serde_json::to_string(&filter).expect("a filter is JSON");
        assert_eq!(serde_json::from_str::<Filter>(&again).expect("it reads back"), filter);
        filter.check()
    }

    #[test]
    fn good_filters_say_what_they_mean() {
        let field = |name: &str, test| Condition::Field(name.into(), test);
        let text = |text: &str| Scalar::Text(text.into());
        let number = |number: i64| Scalar::Number(number.into());
        let table = [
            (r#"{"field": "type", "eq": "insight"}"#, field("type", Test::In(vec![text("insight")]))),
            (
                r#"{"field": "metadata.n", "in": [1, "1", true]}"#,
                field("metadata.n", Test::In(vec![number(1), text("1"), Scalar::Bool(true)])),
            ),
            (
                r#"{"field": "metadata.n", "gt": 1, "lte": 5}"#,
                field("metadata.n", Test::Between(Some((number(1), false)), Some((number(5), true)))),
            ),
            (r#"{"field": "session", "prefix": "talk-"}"#, field("session", Test::Prefix("talk-".into()))),
            (r#"{"not": {"field": "role", "exists": true}}"#, Condition::Not(Box::new(field("role", Test::Exists)))),
            (r#"{"field": "role", "exists": false}"#, Condition::Not(Box::new(field("role", Test::Exists)))),
            (r#"{"and": []}"#, Condition::All(vec![])),
            (
                r#"{"field": "created_at", "gte": "1970-01-01T00:00:01Z", "lt": "1970-01-01T00:00:02Z"}"#,
                Condition::Created(1_000..2_000),
            ),
            (
                r#"{"field": "created_at", "gt": "1970-01-01T00:00:01Z", "lte": "1970-01-01T00:00:02Z"}"#,
                Condition::Created(1_001..2_001),
            ),
            (r#"{"field": "created_at", "eq": "1970-01-01T00:00:01Z"}"#, Condition::Created(1_000..1_001)),
        ];
        for (json, expected) in table {
            assert_eq!(read(json), Ok(expected), "{json}");
        }
    }

    #[test]
    fn bad_filters_say_what_is_wrong() {
        let table = [
            (r#"{}"#, "exactly one of and, or, not and field"),
            (r#"{"and": [], "or": []}"#, "exactly one of"),
            (r#"{"or": []}"#, "or is empty"),
            (r#"{"eq": 1}"#, "exactly one of"),
            (r#"{"and": [], "eq": 1}"#, "goes with a field"),
            (r#"{"field": "color", "eq": "red"}"#, "\"color\" is unknown"),
            (r#"{"field": "metadata.", "eq": "red"}"#, "names no field"),
            (r#"{"field": "metadata.a"}"#, "exactly one test"),
            (r#"{"field": "metadata.a", "eq": 1, "prefix": "x"}"#, "exactly one test"),
            (r#"{"field": "metadata.a", "in": []}"#, "in is empty"),
            (r#"{"field": "metadata.a", "eq": [1]}"#, "a text, a number, true or false"),
            (r#"{"field": "metadata.a", "equals": 1}"#, "unknown field"),
            (r#"{"field": "type", "eq": 5}"#, "has text, and is compared with a number"),
            (r#"{"field": "session", "in": ["a", true]}"#, "compared with true or false"),
            (r#"{"field": "role", "gt": 5}"#, "compared with a number"),
            (r#"{"field": "metadata.a", "gt": 1, "lt": "2"}"#, "from a number to a text"),
            (r#"{"field": "metadata.a", "gt": 1, "gte": 2}"#, "exclude each other"),
            (r#"{"field": "created_at", "gt": 5}"#, "has a time"),
            (r#"{"field": "created_at", "gt": "noon"}"#, "RFC 3339"),
            (r#"{"field": "created_at", "prefix": "2026"}"#, "takes eq and ranges"),
        ];
        for (json, part) in table {
            let problem = read(json).expect_err(json);
            assert_eq!(problem.code, Code::InvalidArgument, "{json}");
            assert!(problem.detail.contains(part), "{json}: {}", problem.detail);
        }
    }

    #[test]
    fn filters_are_bounded() {
        let leaf = r#"{"field": "metadata.a", "eq": 1}"#;
        let nested = |depth: usize| format!("{}{leaf}{}", r#"{"not": "#.repeat(depth - 1), "}".repeat(depth - 1));
        assert!(read(&nested(limits::MAX_FILTER_DEPTH)).is_ok());
        let many = |count: usize| format!(r#"{{"and": [{}]}}"#, vec![leaf; count].join(","));
        assert!(read(&many(limits::MAX_FILTER_PARTS - 1)).is_ok());
        let values = |count: usize| format!(r#"{{"field": "metadata.a", "in": [{}]}}"#, vec!["1"; count].join(","));
        assert!(read(&values(limits::MAX_FILTER_VALUES)).is_ok());
        let long = format!(r#"{{"field": "type", "prefix": "{}"}}"#, "x".repeat(limits::MAX_FILTER_BYTES));
        for bad in [
            nested(limits::MAX_FILTER_DEPTH + 1),
            many(limits::MAX_FILTER_PARTS),
            values(limits::MAX_FILTER_VALUES + 1),
            long,
        ] {
            assert_eq!(read(&bad).unwrap_err().code, Code::TooLarge);
        }
        // Far deeper than the limit, the JSON reader refuses.
        assert_eq!(read(&nested(500)).unwrap_err().code, Code::InvalidArgument);
    }
}
