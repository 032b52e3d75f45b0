//! What a filter asks of a document's attributes: tests of values with their combinations.
//!
//! A document may have several values of one field (a list), and a test holds if it holds for one of them. A test compares
//! values of one type only: `5` is neither below nor equal to `"5"`. A document without the field passes no test but the
//! negation of one. The same rules hold wherever a condition is evaluated: on postings ([`crate::filter::postings`]) and on
//! the attributes of one document ([`Condition::matches`]), which is the oracle.

mod type_check;

use std::cmp::Ordering;
use std::ops::{Bound, Range};

use crate::document::Times;
use crate::filter::attributes::Attributes;
use crate::filter::value::Value;

pub use type_check::TypeMismatch;

/// What one value of a field must be.
#[derive(Debug, Clone, PartialEq)]
pub enum Test {
    /// Equal to one of these.
    In(Vec<Value>),
    /// Within a range of values.
    Within(Span),
    /// Text that begins so.
    Prefix(String),
    /// Anything.
    Exists,
}

/// A range of values of one type, with at least one end.
#[derive(Debug, Clone, PartialEq)]
pub struct Span {
    lower: Bound<Value>,
    upper: Bound<Value>,
}

impl Span {
    /// A range between two ends; `None` if there is no end, or two of different types.
    pub fn new(lower: Bound<Value>, upper: Bound<Value>) -> Option<Span> {
        match (value_of(&lower), value_of(&upper)) {
            (None, None) => None,
            (Some(lower), Some(upper)) if lower.type_order() != upper.type_order() => None,
            _ => Some(Span { lower, upper }),
        }
    }

    /// One of its ends: values in the range are of its type.
    fn end(&self) -> Option<&Value> {
        value_of(&self.lower).or(value_of(&self.upper))
    }

    /// Whether a value lies before, in or after the range.
    fn position(&self, value: &Value) -> Ordering {
        let is_before = match &self.lower {
            Bound::Included(end) => value < end,
            Bound::Excluded(end) => value <= end,
            Bound::Unbounded => false,
        };
        let is_after = match &self.upper {
            Bound::Included(end) => value > end,
            Bound::Excluded(end) => value >= end,
            Bound::Unbounded => false,
        };
        match value.type_order().cmp(&self.end().map_or(0, Value::type_order)) {
            Ordering::Equal if is_before => Ordering::Less,
            Ordering::Equal if is_after => Ordering::Greater,
            other => other,
        }
    }
}

fn value_of(end: &Bound<Value>) -> Option<&Value> {
    match end {
        Bound::Included(value) | Bound::Excluded(value) => Some(value),
        Bound::Unbounded => None,
    }
}

impl Test {
    /// Whether a value lies before, in or after what is wanted, in the order of values, for tests that want one run of it.
    pub(crate) fn position(&self, value: &Value) -> Ordering {
        match self {
            Test::In(values) => values.first().map_or(Ordering::Greater, |wanted| value.cmp(wanted)),
            Test::Within(span) => span.position(value),
            Test::Prefix(prefix) => match value {
                Value::Text(text) if text.starts_with(prefix.as_str()) => Ordering::Equal,
                Value::Text(text) => text.as_ref().cmp(prefix.as_str()),
                _ => Ordering::Less,
            },
            Test::Exists => Ordering::Equal,
        }
    }

    fn holds(&self, value: &Value) -> bool {
        match self {
            Test::In(values) => values.contains(value),
            other => other.position(value) == Ordering::Equal,
        }
    }
}

/// What a document must be.
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
    /// The document was made in this time, in milliseconds.
    Created(Range<u64>),
}

impl Condition {
    /// Whether a document meets it.
    pub fn matches(&self, attributes: &Attributes, times: &Times) -> bool {
        match self {
            Condition::All(parts) => parts.iter().all(|part| part.matches(attributes, times)),
            Condition::Any(parts) => parts.iter().any(|part| part.matches(attributes, times)),
            Condition::Not(part) => !part.matches(attributes, times),
            Condition::Field(field, test) => attributes.of(field).any(|value| test.holds(value)),
            Condition::Created(range) => range.contains(&times.created_ms),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tests_compare_values_of_one_type() {
        let number = |value: i64| Value::Number(value.into());
        let document = Attributes::new(vec![
            ("n".into(), number(5)),
            ("tag".into(), "apple".into()),
            ("tag".into(), "pear".into()),
            ("done".into(), Value::Bool(true)),
        ]);
        let within = |lower: Bound<Value>, upper| Test::Within(Span::new(lower, upper).unwrap());
        // field, test, holds?
        let table = [
            ("n", Test::In(vec![number(4), number(5)]), true),
            ("n", Test::In(vec!["5".into()]), false),
            ("n", within(Bound::Included(number(5)), Bound::Unbounded), true),
            ("n", within(Bound::Excluded(number(5)), Bound::Unbounded), false),
            ("n", within(Bound::Unbounded, Bound::Excluded(number(6))), true),
            ("n", within(Bound::Unbounded, Bound::Excluded("6".into())), false),
            ("tag", Test::In(vec!["pear".into()]), true),
            ("tag", Test::Prefix("app".into()), true),
            ("tag", Test::Prefix("apq".into()), false),
            ("tag", within(Bound::Included("b".into()), Bound::Included("q".into())), true),
            ("tag", within(Bound::Included(number(0)), Bound::Unbounded), false),
            ("done", Test::In(vec![Value::Bool(true)]), true),
            ("done", Test::Exists, true),
            ("absent", Test::Exists, false),
        ];
        for (field, test, holds) in table {
            let condition = Condition::Field(field.into(), test);
            assert_eq!(condition.matches(&document, &Times::default()), holds, "{condition:?}");
            let not = Condition::Not(Box::new(condition));
            assert_eq!(not.matches(&document, &Times::default()), !holds);
        }
        assert_eq!(Span::new(Bound::Included(number(1)), Bound::Included("1".into())), None);
        assert_eq!(Span::new(Bound::Unbounded, Bound::Unbounded), None);
    }
}
