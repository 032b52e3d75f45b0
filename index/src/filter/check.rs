//! Checking a caller's filter against every rule and limit.

use std::borrow::Cow;
use std::ops::Bound;

use mira_proto::filter::{Filter, METADATA, Scalar};
use mira_proto::time::Moment;
use mira_proto::{Code, Problem, limits, names};

use crate::filter::attributes::number;
use crate::filter::condition::{Condition, Span, Test};
use crate::filter::value::Value;

/// How much of a filter was looked at.
#[derive(Default)]
struct Tally {
    tests: usize,
    values: usize,
    bytes: usize,
}

/// What a filter asks; says what is wrong with one that breaks a rule or a limit.
pub fn check(filter: &Filter) -> Result<Condition, Problem> {
    check_part(filter, 1, &mut Tally::default())
}

fn check_part(filter: &Filter, depth: usize, tally: &mut Tally) -> Result<Condition, Problem> {
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
        |parts: &[Filter]| parts.iter().map(|part| check_part(part, depth + 1, tally)).collect::<Result<Vec<_>, _>>();
    match filter {
        Filter { and: Some(all), .. } => Ok(Condition::All(parts(all)?)),
        Filter { or: Some(any), .. } if any.is_empty() => Err(invalid("or is empty: it would match nothing")),
        Filter { or: Some(any), .. } => Ok(Condition::Any(parts(any)?)),
        Filter { not: Some(part), .. } => Ok(Condition::Not(Box::new(check_part(part, depth + 1, tally)?))),
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

/// Which type of values a field has, as far as that is known before looking.
enum FieldType {
    Text,
    Time,
    Any,
}

fn type_of(field: &str) -> Result<FieldType, Problem> {
    match field {
        "type" | "session" | "role" => Ok(FieldType::Text),
        "created_at" => Ok(FieldType::Time),
        _ => match field.strip_prefix(METADATA) {
            Some("") => Err(invalid("filter field metadata. names no field")),
            Some(_) => Ok(FieldType::Any),
            None => Err(invalid(format!(
                "filter field {:?} is unknown: there are type, session, role, created_at and metadata.NAME",
                field.chars().take(64).collect::<String>()
            ))),
        },
    }
}

fn check_field(field: &str, filter: &Filter) -> Result<Condition, Problem> {
    let field_type = type_of(field)?;
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
    if let FieldType::Time = field_type {
        return created(filter);
    }
    let fits = |value: &Scalar| match (&field_type, value) {
        (FieldType::Text, Scalar::Bool(_) | Scalar::Number(_)) => {
            Err(invalid(format!("filter field {field} has text, and is compared with {}", type_name(value))))
        }
        _ => Ok(()),
    };
    let of = |test| Condition::Field(field.to_owned(), test);
    let value_of = |value: &Scalar| value_of(value, &field_type);
    if let Some(value) = &filter.eq {
        fits(value)?;
        return Ok(of(Test::In(vec![value_of(value)?])));
    }
    if let Some(values) = &filter.one_of {
        if values.is_empty() {
            return Err(invalid(format!("filter field {field}: in is empty")));
        }
        values.iter().try_for_each(fits)?;
        return Ok(of(Test::In(values.iter().map(value_of).collect::<Result<_, _>>()?)));
    }
    if let Some(prefix) = &filter.prefix {
        return Ok(of(Test::Prefix(as_kept(prefix, &field_type).into_owned())));
    }
    match filter.exists {
        Some(true) => Ok(of(Test::Exists)),
        Some(false) => Ok(Condition::Not(Box::new(of(Test::Exists)))),
        None => {
            let (lower, upper) = ends(field, filter)?;
            [lower, upper].into_iter().filter_map(scalar_of).try_for_each(fits)?;
            let span = Span::new(bound(lower, &field_type)?, bound(upper, &field_type)?);
            // It has an end, and both are of one type.
            span.map(|span| of(Test::Within(span)))
                .ok_or_else(|| invalid(format!("filter field {field}: the range has no end")))
        }
    }
}

/// The ends of a filter's range.
fn ends<'a>(field: &str, filter: &'a Filter) -> Result<(Bound<&'a Scalar>, Bound<&'a Scalar>), Problem> {
    let end = |open: &'a Option<Scalar>, closed: &'a Option<Scalar>, names: &str| match (open, closed) {
        (Some(_), Some(_)) => Err(invalid(format!("filter field {field}: {names} exclude each other"))),
        (Some(value), None) => Ok(Bound::Excluded(value)),
        (None, Some(value)) => Ok(Bound::Included(value)),
        (None, None) => Ok(Bound::Unbounded),
    };
    let lower = end(&filter.gt, &filter.gte, "gt and gte")?;
    let upper = end(&filter.lt, &filter.lte, "lt and lte")?;
    if let (Some(lower), Some(upper)) = (scalar_of(lower).map(type_name), scalar_of(upper).map(type_name))
        && lower != upper
    {
        return Err(invalid(format!("filter field {field}: the range goes from {lower} to {upper}")));
    }
    Ok((lower, upper))
}

fn scalar_of(end: Bound<&Scalar>) -> Option<&Scalar> {
    match end {
        Bound::Included(scalar) | Bound::Excluded(scalar) => Some(scalar),
        Bound::Unbounded => None,
    }
}

fn bound(end: Bound<&Scalar>, field_type: &FieldType) -> Result<Bound<Value>, Problem> {
    Ok(match end {
        Bound::Included(scalar) => Bound::Included(value_of(scalar, field_type)?),
        Bound::Excluded(scalar) => Bound::Excluded(value_of(scalar, field_type)?),
        Bound::Unbounded => Bound::Unbounded,
    })
}

/// A text as frames have it in such a field: names are kept in form NFC.
fn as_kept<'a>(text: &'a str, field_type: &FieldType) -> Cow<'a, str> {
    match field_type {
        FieldType::Text => names::normal(text),
        FieldType::Time | FieldType::Any => text.into(),
    }
}

fn value_of(scalar: &Scalar, field_type: &FieldType) -> Result<Value, Problem> {
    match scalar {
        Scalar::Bool(value) => Ok(Value::Bool(*value)),
        Scalar::Number(value) => number(value)
            .map(Value::Number)
            .ok_or_else(|| invalid(format!("the filter's number {value} is out of range"))),
        Scalar::Text(value) => Ok(Value::Text(as_kept(value, field_type).into())),
    }
}

fn type_name(scalar: &Scalar) -> &'static str {
    match scalar {
        Scalar::Bool(_) => "true or false",
        Scalar::Number(_) => "a number",
        Scalar::Text(_) => "a text",
    }
}

/// Times are kept in milliseconds, from 1970 on; what they are compared with may be any time.
fn created(filter: &Filter) -> Result<Condition, Problem> {
    let time = |value: &Scalar| match value {
        Scalar::Text(text) => Moment::parse(text).ok_or_else(|| {
            invalid("filter field created_at is compared with RFC 3339 times such as 2026-11-22T10:00:00Z")
        }),
        other => Err(invalid(format!("filter field created_at has a time, and is compared with {}", type_name(other)))),
    };
    if let Some(value) = &filter.eq {
        let at = time(value)?;
        return Ok(Condition::Created(at.first_from()..at.first_after()));
    }
    if !has_range(filter) {
        return Err(invalid("filter field created_at takes eq and ranges (gt, gte, lt, lte) only"));
    }
    let (lower, upper) = ends("created_at", filter)?;
    let mut range = 0..u64::MAX;
    match lower {
        Bound::Included(value) => range.start = time(value)?.first_from(),
        Bound::Excluded(value) => range.start = time(value)?.first_after(),
        Bound::Unbounded => {}
    }
    match upper {
        Bound::Included(value) => range.end = time(value)?.first_after(),
        Bound::Excluded(value) => range.end = time(value)?.first_from(),
        Bound::Unbounded => {}
    }
    Ok(Condition::Created(range))
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
        check(&filter)
    }

    #[test]
    fn good_filters_say_what_they_mean() {
        let field = |name: &str, test| Condition::Field(name.into(), test);
        let text = |text: &str| Value::from(text);
        let number = |number: i64| Value::Number(number.into());
        let table = [
            (r#"{"field": "type", "eq": "insight"}"#, field("type", Test::In(vec![text("insight")]))),
            (
                r#"{"field": "metadata.n", "in": [1, "1", true]}"#,
                field("metadata.n", Test::In(vec![number(1), text("1"), Value::Bool(true)])),
            ),
            (
                r#"{"field": "metadata.n", "gt": 1, "lte": 5}"#,
                field(
                    "metadata.n",
                    Test::Within(Span::new(Bound::Excluded(number(1)), Bound::Included(number(5))).unwrap()),
                ),
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
            (r#"{"field": "created_at", "eq": "1970-01-01T00:00:01.0005Z"}"#, Condition::Created(1_001..1_001)),
            (r#"{"field": "created_at", "eq": "1969-07-20T20:17:40Z"}"#, Condition::Created(0..0)),
            (r#"{"field": "created_at", "gte": "1969-07-20T20:17:40Z"}"#, Condition::Created(0..u64::MAX)),
            (r#"{"field": "created_at", "lt": "1969-07-20T20:17:40Z"}"#, Condition::Created(0..0)),
            (
                r#"{"field": "created_at", "gt": "9999-12-31T23:59:59Z"}"#,
                Condition::Created(253_402_300_799_001..u64::MAX),
            ),
            (r#"{"field": "session", "eq": "cafe\u0301"}"#, field("session", Test::In(vec![text("caf\u{e9}")]))),
            (r#"{"field": "session", "prefix": "e\u0301"}"#, field("session", Test::Prefix("\u{e9}".into()))),
            (
                r#"{"field": "metadata.name", "eq": "e\u0301"}"#,
                field("metadata.name", Test::In(vec![text("e\u{301}")])),
            ),
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
