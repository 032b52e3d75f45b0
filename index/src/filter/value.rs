//! Values of attributes, in one order.

use std::cmp::Ordering;
use std::sync::Arc;

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

    /// Its form in an image: which form it is, with eight bytes.
    pub(crate) fn to_parts(self) -> (u8, u64) {
        match self.0 {
            Repr::Int(value) => (0, value as u64),
            Repr::Big(value) => (1, value),
            Repr::Float(value) => (2, value.to_bits()),
        }
    }

    pub(crate) fn from_parts(form: u8, bits: u64) -> Option<Number> {
        match form {
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
        let against =
            |number: i128, float: f64| if number <= float.floor() as i128 { Ordering::Less } else { Ordering::Greater };
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

/// A value of an attribute. Values of different types are ordered by type, which only keeps them apart.
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
    /// The place of its type in the order of values.
    pub(crate) fn type_order(&self) -> u8 {
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

/// A value as JSON.
pub fn to_json(value: &Value) -> String {
    match value {
        Value::Bool(value) => value.to_string(),
        Value::Number(number) => number.to_string(),
        Value::Text(text) => serde_json::Value::from(text.as_ref()).to_string(),
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
            let (form, bits) = a.to_parts();
            assert_eq!(Number::from_parts(form, bits), Some(*a));
        }
        assert_eq!(Number::from_f64(1.0), Some(1i64.into()));
        assert_eq!(Number::from_f64(-0.0), Some(0u64.into()));
        assert_eq!(Number::from_f64(2f64.powi(63)), Some((1u64 << 63).into()));
        assert_eq!(Number::from_f64(f64::NAN), None);
    }
}
