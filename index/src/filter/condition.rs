//! What a filter asks of a document's attributes: typed values, tests and their combinations.
//!
//! An attribute is a field and a value; a document may have several values of one field (a list), and a test holds if it
//! holds for one of them. A test compares values of one kind only: `5` is neither below nor equal to `"5"`. A document
//! without the field passes no test but the negation of one. The same rules hold wherever a condition is evaluated: on
//! postings ([`crate::filter::postings`]) and on the attributes of one document ([`Condition::matches`]), which is the oracle.

use std::cmp::Ordering;
use std::ops::Range;
use std::sync::Arc;

use crate::filter::field_types::Kinds;
use crate::vector::table::Times;

/// A number, compared by its exact value: 2⁶³ + 1 differs from 2⁶³, and 1.0 is 1.
#[derive(Debug, Clone, Copy)]
pub struct Number(Repr);

/// Whole numbers of 64 bits are never `Float`, so that each number has one form.
#[derive(Debug, Clone, Copy)]
enum Repr {
    Int(i64),
    /// Above `i64::MAX`.
    Big(u64),
    Float(f64),
}

impl Number {
    /// A finite float; `None` for others.
    pub fn from_f64(value: f64) -> Option<Number> {
        const TWO_63: f64 = 9_223_372_036_854_775_808.0;
        let is_whole = value.fract() == 0.0;
        match value {
            _ if !value.is_finite() => None,
            _ if is_whole && (-TWO_63..TWO_63).contains(&value) => Some(Number(Repr::Int(value as i64))),
            _ if is_whole && (TWO_63..2.0 * TWO_63).contains(&value) => Some(Number(Repr::Big(value as u64))),
            _ => Some(Number(Repr::Float(value))),
        }
    }

    /// Its form in an image: a kind and eight bytes.
    pub(crate) fn to_parts(self) -> (u8, u64) {
        match self.0 {
            Repr::Int(value) => (0, value as u64),
            Repr::Big(value) => (1, value),
            Repr::Float(value) => (2, value.to_bits()),
        }
    }

    pub(crate) fn from_parts(kind: u8, bits: u64) -> Option<Number> {
        match kind {
            0 => Some(Number(Repr::Int(bits as i64))),
            1 => Some(bits.into()),
            2 => Number::from_f64(f64::from_bits(bits)),
            _ => None,
        }
    }
}

impl From<i64> for Number {
    fn from(value: i64) -> Self {
        Number(Repr::Int(value))
    }
}

impl From<u64> for Number {
    fn from(value: u64) -> Self {
        Number(i64::try_from(value).map_or(Repr::Big(value), Repr::Int))
    }
}

impl std::fmt::Display for Number {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            Repr::Int(value) => value.fmt(f),
            Repr::Big(value) => value.fmt(f),
            Repr::Float(value) => value.fmt(f),
        }
    }
}

impl Ord for Number {
    fn cmp(&self, other: &Self) -> Ordering {
        let whole = |repr| match repr {
            Repr::Int(value) => Ok(i128::from(value)),
            Repr::Big(value) => Ok(i128::from(value)),
            Repr::Float(value) => Err(value),
        };
        // A float that is not whole lies between its floor and the number after; a huge one beyond all whole ones, and
        // the conversion to i128 keeps it there.
        let against = |number: i128, float: f64| match number <= float.floor() as i128 {
            true => Ordering::Less,
            false => Ordering::Greater,
        };
        match (whole(self.0), whole(other.0)) {
            (Ok(a), Ok(b)) => a.cmp(&b),
            (Ok(a), Err(b)) => against(a, b),
            (Err(a), Ok(b)) => against(b, a).reverse(),
            (Err(a), Err(b)) => a.total_cmp(&b),
        }
    }
}

impl PartialOrd for Number {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Number {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Number {}

/// A value of an attribute. Values of different kinds are ordered by kind, which only keeps them apart.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Value {
    /// True or false.
    Bool(bool),
    /// A number.
    Number(Number),
    /// Text, compared byte by byte.
    Text(Arc<str>),
}

impl Value {
    fn kind(&self) -> u8 {
        match self {
            Value::Bool(_) => 0,
            Value::Number(_) => 1,
            Value::Text(_) => 2,
        }
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Value::Text(text.into())
    }
}

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

/// A range of values of one kind, with at least one end.
#[derive(Debug, Clone, PartialEq)]
pub struct Span {
    lower: Option<(Value, bool)>,
    upper: Option<(Value, bool)>,
}

impl Span {
    /// Ends with whether they belong to the range; `None` if there is no end, or two of different kinds.
    pub fn new(lower: Option<(Value, bool)>, upper: Option<(Value, bool)>) -> Option<Span> {
        match (&lower, &upper) {
            (None, None) => None,
            (Some((lower, _)), Some((upper, _))) if lower.kind() != upper.kind() => None,
            _ => Some(Span { lower, upper }),
        }
    }

    /// The kind of the values in the range.
    pub(crate) fn kind(&self) -> Kinds {
        self.lower.as_ref().or(self.upper.as_ref()).map_or(Kinds::NONE, |(end, _)| Kinds::of(end))
    }

    /// Whether a value lies before, in or after the range.
    fn position(&self, value: &Value) -> Ordering {
        let kind = self.lower.as_ref().or(self.upper.as_ref()).map_or(0, |(end, _)| end.kind());
        let is_before = |(end, included): &(Value, bool)| value < end || (value == end && !included);
        let is_after = |(end, included): &(Value, bool)| value > end || (value == end && !included);
        match value.kind().cmp(&kind) {
            Ordering::Equal if self.lower.as_ref().is_some_and(is_before) => Ordering::Less,
            Ordering::Equal if self.upper.as_ref().is_some_and(is_after) => Ordering::Greater,
            other => other,
        }
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
    fn numbers_are_ordered_by_value_whatever_their_form() {
        let ascending = [
            Number::from_f64(-1e300),
            Some(i64::MIN.into()),
            Number::from_f64(-2.5),
            Some((-2i64).into()),
            Number::from_f64(-0.5),
            Some(0i64.into()),
            Number::from_f64(0.1),
            Some(1i64.into()),
            Number::from_f64(1.5),
            Some((1i64 << 53).into()),
            Some(((1i64 << 53) + 1).into()),
            Some(i64::MAX.into()),
            Some((1u64 << 63).into()),
            Some(((1u64 << 63) + 1).into()),
            Some(u64::MAX.into()),
            Number::from_f64(1e20),
        ];
        let ascending: Vec<Number> = ascending.into_iter().flatten().collect();
        assert_eq!(ascending.len(), 16);
        for (at, a) in ascending.iter().enumerate() {
            for (other, b) in ascending.iter().enumerate() {
                assert_eq!(a.cmp(b), at.cmp(&other), "{a:?} {b:?}");
            }
            let (kind, bits) = a.to_parts();
            assert_eq!(Number::from_parts(kind, bits), Some(*a));
        }
        assert_eq!(Number::from_f64(1.0), Some(1i64.into()));
        assert_eq!(Number::from_f64(-0.0), Some(0u64.into()));
        assert_eq!(Number::from_f64(2f64.powi(63)), Some((1u64 << 63).into()));
        assert_eq!(Number::from_f64(f64::NAN), None);
    }

    #[test]
    fn tests_compare_values_of_one_kind() {
        let number = |value: i64| Value::Number(value.into());
        let document = Attributes::new(vec![
            ("n".into(), number(5)),
            ("tag".into(), "apple".into()),
            ("tag".into(), "pear".into()),
            ("done".into(), Value::Bool(true)),
        ]);
        let within = |lower: Option<(Value, bool)>, upper| Test::Within(Span::new(lower, upper).unwrap());
        // field, test, holds?
        let table = [
            ("n", Test::In(vec![number(4), number(5)]), true),
            ("n", Test::In(vec!["5".into()]), false),
            ("n", within(Some((number(5), true)), None), true),
            ("n", within(Some((number(5), false)), None), false),
            ("n", within(None, Some((number(6), false))), true),
            ("n", within(None, Some(("6".into(), false))), false),
            ("tag", Test::In(vec!["pear".into()]), true),
            ("tag", Test::Prefix("app".into()), true),
            ("tag", Test::Prefix("apq".into()), false),
            ("tag", within(Some(("b".into(), true)), Some(("q".into(), true))), true),
            ("tag", within(Some((number(0), true)), None), false),
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
        assert_eq!(Span::new(Some((number(1), true)), Some(("1".into(), true))), None);
        assert_eq!(Span::new(None, None), None);
    }
}
