//! What kinds of values each field holds, and whether a condition compares with a kind that its field never had.
//!
//! A test compares values of one kind only, so a condition on a field that holds numbers, compared with a text, meets
//! nothing: most likely a mistake of whoever wrote it, which an empty answer would hide. An index therefore keeps one
//! small set per field, of every kind that any of its documents had, also of values that are too long or too many to
//! have postings. [`Condition::clash`] judges a condition by the sets of a whole collection.
//!
//! **Invariant.** The set of a field holds the kind of each of its values in documents that can be found. It may hold more:
//! kinds of documents that are gone stay until a compaction counts anew, and a field of which nothing can be said (names
//! are bounded) holds all. So a clash is never called wrongly; one may go unseen.

use std::collections::HashMap;
use std::fmt;

use crate::filter::condition::{Condition, Test, Value};

/// Most fields whose kinds are known; more than have postings, because a set is small.
pub(crate) const MAX_NAMED: usize = 4_096;
/// Most bytes of their names together.
pub(crate) const MAX_NAME_BYTES: usize = 256 << 10;
/// What a field takes beside its name: the set, its place in the table, an allocation.
const ENTRY_BYTES: usize = 48;

/// A set of kinds of values.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Kinds(u8);

impl Kinds {
    /// No kind: a field that no document has.
    pub const NONE: Kinds = Kinds(0);
    /// True or false.
    pub const BOOL: Kinds = Kinds(1);
    /// Numbers.
    pub const NUMBER: Kinds = Kinds(2);
    /// Text.
    pub const TEXT: Kinds = Kinds(4);
    /// Any kind: nothing can be said.
    pub const ALL: Kinds = Kinds(7);

    /// That of one value.
    pub fn of(value: &Value) -> Kinds {
        match value {
            Value::Bool(_) => Kinds::BOOL,
            Value::Number(_) => Kinds::NUMBER,
            Value::Text(_) => Kinds::TEXT,
        }
    }

    /// Its form on the wire and in an image: one bit a kind.
    pub fn bits(self) -> u8 {
        self.0
    }

    /// From its form; what another version may have added counts as any kind.
    pub fn from_bits(bits: u32) -> Kinds {
        u8::try_from(bits).ok().filter(|bits| *bits <= Kinds::ALL.0).map_or(Kinds::ALL, Kinds)
    }

    /// Both together.
    #[must_use]
    pub fn with(self, other: Kinds) -> Kinds {
        Kinds(self.0 | other.0)
    }

    /// Whether some kind is in both.
    pub fn meets(self, other: Kinds) -> bool {
        self.0 & other.0 != 0
    }

    /// Whether each kind of the other is in it.
    pub fn holds(self, other: Kinds) -> bool {
        self.0 & other.0 == other.0
    }

    /// Whether it is empty.
    pub fn is_none(self) -> bool {
        self.0 == 0
    }
}

impl fmt::Display for Kinds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = [(Kinds::BOOL, "true or false"), (Kinds::NUMBER, "numbers"), (Kinds::TEXT, "text")];
        let held: Vec<_> = names.into_iter().filter(|(kind, _)| self.meets(*kind)).map(|(_, name)| name).collect();
        f.write_str(&held.join(" and "))
    }
}

/// A field that holds no value of the kind it is compared with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Clash {
    /// The field.
    pub field: String,
    /// What its values are.
    pub holds: Kinds,
    /// What they are compared with.
    pub wanted: Kinds,
}

impl Test {
    /// The kinds that pass it at all; none if that does not depend on the kind.
    fn wants(&self) -> Kinds {
        match self {
            Test::In(values) => values.iter().fold(Kinds::NONE, |kinds, value| kinds.with(Kinds::of(value))),
            Test::Within(span) => span.kind(),
            Test::Prefix(_) => Kinds::TEXT,
            Test::Exists => Kinds::NONE,
        }
    }
}

impl Condition {
    /// The first field that is compared with a kind which it does not hold, if that leaves the condition without a sense.
    ///
    /// `and` makes no sense if one part does not, `or` if none does, `not` if its part does not. A field that nobody knows
    /// (`Kinds::NONE`) and a question whether there is a value make sense always.
    pub fn clash(&self, kinds: &dyn Fn(&str) -> Kinds) -> Option<Clash> {
        match self {
            Condition::All(parts) => parts.iter().find_map(|part| part.clash(kinds)),
            Condition::Any(parts) => {
                let clashes: Option<Vec<Clash>> = parts.iter().map(|part| part.clash(kinds)).collect();
                clashes?.into_iter().next()
            }
            Condition::Not(part) => part.clash(kinds),
            Condition::Field(field, test) => {
                let (holds, wanted) = (kinds(field), test.wants());
                let is_clash = !holds.is_none() && !wanted.is_none() && !holds.meets(wanted);
                is_clash.then(|| Clash { field: field.clone(), holds, wanted })
            }
            Condition::Created(_) => None,
        }
    }

    /// Whether each field that it compares holds a value of a kind that it is compared with: nothing clashes, whatever else
    /// the fields may hold.
    pub fn is_plain(&self, kinds: &dyn Fn(&str) -> Kinds) -> bool {
        match self {
            Condition::All(parts) | Condition::Any(parts) => parts.iter().all(|part| part.is_plain(kinds)),
            Condition::Not(part) => part.is_plain(kinds),
            Condition::Field(field, test) => test.wants().is_none() || kinds(field).meets(test.wants()),
            Condition::Created(_) => true,
        }
    }

    /// The fields that it compares with something, each once, in order.
    pub fn compared_fields(&self) -> Vec<&str> {
        let mut fields = Vec::new();
        self.add_compared(&mut fields);
        fields.sort_unstable();
        fields.dedup();
        fields
    }

    fn add_compared<'a>(&'a self, fields: &mut Vec<&'a str>) {
        match self {
            Condition::All(parts) | Condition::Any(parts) => parts.iter().for_each(|part| part.add_compared(fields)),
            Condition::Not(part) => part.add_compared(fields),
            Condition::Field(field, test) if !test.wants().is_none() => fields.push(field),
            Condition::Field(..) | Condition::Created(_) => {}
        }
    }
}

/// The kinds of every field of an index.
#[derive(Debug, Default, Clone)]
pub(crate) struct FieldKinds {
    by_name: HashMap<Box<str>, Kinds>,
    name_bytes: usize,
    /// Some fields are not among them, because there were too many.
    is_full: bool,
}

impl FieldKinds {
    /// Notes a value's kind.
    pub(crate) fn add(&mut self, field: &str, kinds: Kinds) {
        if let Some(held) = self.by_name.get_mut(field) {
            *held = held.with(kinds);
        } else if self.by_name.len() == MAX_NAMED || self.name_bytes + field.len() > MAX_NAME_BYTES {
            self.is_full = true;
        } else {
            self.name_bytes += field.len();
            self.by_name.insert(field.into(), kinds);
        }
    }

    /// What a field holds.
    pub(crate) fn of(&self, field: &str) -> Kinds {
        let unknown = if self.is_full { Kinds::ALL } else { Kinds::NONE };
        self.by_name.get(field).copied().unwrap_or(unknown)
    }

    /// Takes over what another one knows of those fields that are wanted.
    pub(crate) fn inherit(&mut self, other: &FieldKinds, is_wanted: impl Fn(&str) -> bool) {
        for (field, kinds) in other.sorted() {
            if is_wanted(field) {
                self.add(field, kinds);
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

    /// Fields and their kinds, by name.
    pub(crate) fn sorted(&self) -> Vec<(&str, Kinds)> {
        let mut all: Vec<_> = self.by_name.iter().map(|(field, kinds)| (field.as_ref(), *kinds)).collect();
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
    use crate::filter::condition::Span;

    fn kinds_of(field: &str) -> Kinds {
        match field {
            "count" => Kinds::NUMBER,
            "name" => Kinds::TEXT,
            "mixed" => Kinds::NUMBER.with(Kinds::TEXT),
            "done" => Kinds::BOOL,
            _ => Kinds::NONE,
        }
    }

    #[test]
    fn a_condition_clashes_when_no_value_could_meet_it() {
        let is = |field: &str, value: Value| Condition::Field(field.into(), Test::In(vec![value]));
        let number = || Value::Number(1i64.into());
        let text = || Value::from("x");
        let above = |value| Test::Within(Span::new(Some((value, true)), None).unwrap());
        let clashing = || is("count", text());
        let sound = || is("count", number());
        let exists = |field: &str| Condition::Field(field.into(), Test::Exists);
        let table = [
            (clashing(), Some("count")),
            (sound(), None),
            (Condition::Field("count".into(), above(text())), Some("count")),
            (Condition::Field("count".into(), above(number())), None),
            (Condition::Field("count".into(), Test::Prefix("1".into())), Some("count")),
            (Condition::Field("name".into(), Test::Prefix("1".into())), None),
            (Condition::Field("count".into(), Test::In(vec![text(), number()])), None),
            (Condition::Field("count".into(), Test::In(vec![text(), Value::Bool(true)])), Some("count")),
            (is("mixed", text()), None),
            (is("mixed", Value::Bool(true)), Some("mixed")),
            (is("done", number()), Some("done")),
            (is("absent", number()), None),
            (exists("count"), None),
            (Condition::Created(0..1), None),
            (Condition::All(vec![sound(), clashing()]), Some("count")),
            (Condition::All(vec![]), None),
            (Condition::Any(vec![sound(), clashing()]), None),
            (Condition::Any(vec![is("done", text()), clashing()]), Some("done")),
            (Condition::Any(vec![exists("absent"), clashing()]), None),
            (Condition::Any(vec![is("absent", text()), clashing()]), None),
            (Condition::Not(Box::new(clashing())), Some("count")),
            (Condition::Not(Box::new(sound())), None),
            (Condition::Not(Box::new(exists("count"))), None),
        ];
        for (condition, field) in table {
            let clash = condition.clash(&kinds_of);
            assert_eq!(clash.as_ref().map(|clash| clash.field.as_str()), field, "{condition:?}");
            assert!(clash.as_ref().is_none_or(|clash| !clash.holds.meets(clash.wanted)));
            assert!(clash.is_none() || !condition.is_plain(&kinds_of), "{condition:?}");
        }
    }

    #[test]
    fn fields_beyond_the_bounds_hold_anything() {
        let mut kinds = FieldKinds::default();
        for number in 0..MAX_NAMED {
            kinds.add(&format!("field {number}"), Kinds::NUMBER);
        }
        assert_eq!((kinds.of("field 7"), kinds.of("other")), (Kinds::NUMBER, Kinds::NONE));
        kinds.add("other", Kinds::TEXT);
        assert_eq!((kinds.of("field 7"), kinds.of("other"), kinds.of("more")), (Kinds::NUMBER, Kinds::ALL, Kinds::ALL));
        kinds.add("field 7", Kinds::TEXT);
        assert_eq!(kinds.of("field 7"), Kinds::NUMBER.with(Kinds::TEXT));
        let mut long = FieldKinds::default();
        long.add(&"x".repeat(MAX_NAME_BYTES + 1), Kinds::TEXT);
        assert_eq!((long.of("y"), long.bytes()), (Kinds::ALL, 0));
    }

    #[test]
    fn sets_are_named_and_numbered() {
        assert_eq!(Kinds::ALL.to_string(), "true or false and numbers and text");
        assert_eq!(Kinds::NUMBER.to_string(), "numbers");
        for bits in 0..8 {
            assert_eq!(u32::from(Kinds::from_bits(bits).bits()), bits);
        }
        assert_eq!((Kinds::from_bits(8), Kinds::from_bits(u32::MAX)), (Kinds::ALL, Kinds::ALL));
        assert!(Kinds::ALL.holds(Kinds::TEXT) && !Kinds::TEXT.holds(Kinds::ALL) && Kinds::NONE.holds(Kinds::NONE));
    }
}
