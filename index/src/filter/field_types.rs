//! Which types of values each field of an index holds.
//!
//! An index keeps one small set per field, of every type that any of its documents had, also of values that are too long or
//! too many to have postings. [`Condition::type_mismatch`](crate::Condition::type_mismatch) judges a condition by the sets of
//! a whole collection.
//!
//! **Invariant.** The set of a field holds the type of each of its values in documents that can be found. It may hold more:
//! types of documents that are gone stay until a compaction counts again, and a field of which nothing can be said (names
//! are bounded) holds all. So a mismatch is never called wrongly; one may go unseen.

use std::collections::HashMap;
use std::fmt;

use crate::filter::value::Value;

/// Most fields whose types are known; more than have postings, because a set is small.
pub(crate) const MAX_NAMED: usize = 4_096;
/// Most bytes of their names together.
pub(crate) const MAX_NAME_BYTES: usize = 256 << 10;
/// What a field takes beside its name: the set, its place in the table, an allocation.
const ENTRY_BYTES: usize = 48;

/// A set of types of values.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct TypeSet(u8);

impl TypeSet {
    /// No type: a field that no document has.
    pub const NONE: TypeSet = TypeSet(0);
    /// True or false.
    pub const BOOL: TypeSet = TypeSet(1);
    /// Numbers.
    pub const NUMBER: TypeSet = TypeSet(2);
    /// Text.
    pub const TEXT: TypeSet = TypeSet(4);
    /// Any type: nothing can be said.
    pub const ALL: TypeSet = TypeSet(7);

    /// That of one value.
    pub fn of(value: &Value) -> TypeSet {
        match value {
            Value::Bool(_) => TypeSet::BOOL,
            Value::Number(_) => TypeSet::NUMBER,
            Value::Text(_) => TypeSet::TEXT,
        }
    }

    /// Its form on the wire and in an image: one bit a type.
    pub fn bits(self) -> u8 {
        self.0
    }

    /// From its form; what another version may have added counts as any type.
    pub fn from_bits(bits: u32) -> TypeSet {
        u8::try_from(bits).ok().filter(|bits| *bits <= TypeSet::ALL.0).map_or(TypeSet::ALL, TypeSet)
    }

    /// Both together.
    #[must_use]
    pub fn with(self, other: TypeSet) -> TypeSet {
        TypeSet(self.0 | other.0)
    }

    /// Whether some type is in both.
    pub fn meets(self, other: TypeSet) -> bool {
        self.0 & other.0 != 0
    }

    /// Whether each type of the other is in it.
    pub fn holds(self, other: TypeSet) -> bool {
        self.0 & other.0 == other.0
    }

    /// Whether it is empty.
    pub fn is_none(self) -> bool {
        self.0 == 0
    }
}

impl fmt::Display for TypeSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = [(TypeSet::BOOL, "true or false"), (TypeSet::NUMBER, "numbers"), (TypeSet::TEXT, "text")];
        let held: Vec<_> = names.into_iter().filter(|(one, _)| self.meets(*one)).map(|(_, name)| name).collect();
        f.write_str(&held.join(" and "))
    }
}

/// The types of every field of an index.
#[derive(Debug, Default, Clone)]
pub(crate) struct FieldTypes {
    by_name: HashMap<Box<str>, TypeSet>,
    name_bytes: usize,
    /// Some fields are not among them, because there were too many.
    is_full: bool,
}

impl FieldTypes {
    /// Notes a value's type.
    pub(crate) fn add(&mut self, field: &str, types: TypeSet) {
        if let Some(held) = self.by_name.get_mut(field) {
            *held = held.with(types);
        } else if self.by_name.len() == MAX_NAMED || self.name_bytes + field.len() > MAX_NAME_BYTES {
            self.is_full = true;
        } else {
            self.name_bytes += field.len();
            self.by_name.insert(field.into(), types);
        }
    }

    /// What a field holds.
    pub(crate) fn of(&self, field: &str) -> TypeSet {
        let unknown = if self.is_full { TypeSet::ALL } else { TypeSet::NONE };
        self.by_name.get(field).copied().unwrap_or(unknown)
    }

    /// Takes over what another one knows of those fields that are wanted.
    pub(crate) fn inherit(&mut self, other: &FieldTypes, is_wanted: impl Fn(&str) -> bool) {
        for (field, types) in other.sorted() {
            if is_wanted(field) {
                self.add(field, types);
            }
        }
    }

    /// Nothing can be said of a field that is not named.
    pub(crate) fn fill(&mut self) {
        self.is_full = true;
    }

    pub(crate) fn is_full(&self) -> bool {
        self.is_full
    }

    /// Fields and their types, by name.
    pub(crate) fn sorted(&self) -> Vec<(&str, TypeSet)> {
        let mut all: Vec<_> = self.by_name.iter().map(|(field, types)| (field.as_ref(), *types)).collect();
        all.sort_unstable_by_key(|(field, _)| *field);
        all
    }

    pub(crate) fn bytes(&self) -> usize {
        self.name_bytes + self.by_name.len() * ENTRY_BYTES
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_beyond_the_bounds_hold_anything() {
        let mut types = FieldTypes::default();
        for number in 0..MAX_NAMED {
            types.add(&format!("field {number}"), TypeSet::NUMBER);
        }
        assert_eq!((types.of("field 7"), types.of("other")), (TypeSet::NUMBER, TypeSet::NONE));
        types.add("other", TypeSet::TEXT);
        assert_eq!(
            (types.of("field 7"), types.of("other"), types.of("more")),
            (TypeSet::NUMBER, TypeSet::ALL, TypeSet::ALL)
        );
        types.add("field 7", TypeSet::TEXT);
        assert_eq!(types.of("field 7"), TypeSet::NUMBER.with(TypeSet::TEXT));
        let mut long = FieldTypes::default();
        long.add(&"x".repeat(MAX_NAME_BYTES + 1), TypeSet::TEXT);
        assert_eq!((long.of("y"), long.bytes()), (TypeSet::ALL, 0));
    }

    #[test]
    fn sets_are_named_and_numbered() {
        assert_eq!(TypeSet::ALL.to_string(), "true or false and numbers and text");
        assert_eq!(TypeSet::NUMBER.to_string(), "numbers");
        for bits in 0..8 {
            assert_eq!(u32::from(TypeSet::from_bits(bits).bits()), bits);
        }
        assert_eq!((TypeSet::from_bits(8), TypeSet::from_bits(u32::MAX)), (TypeSet::ALL, TypeSet::ALL));
        assert!(
            TypeSet::ALL.holds(TypeSet::TEXT)
                && !TypeSet::TEXT.holds(TypeSet::ALL)
                && TypeSet::NONE.holds(TypeSet::NONE)
        );
    }
}
