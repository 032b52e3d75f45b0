//! Whether a condition compares a field with a type that its values never had.
//!
//! A test compares values of one type only, so a condition on a field that holds numbers, compared with a text, meets
//! nothing: most likely a mistake of whoever wrote it, which an empty answer would hide.

use super::{Condition, Test};
use crate::filter::field_types::TypeSet;

/// A field that holds no value of the type it is compared with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TypeMismatch {
    /// The field.
    pub field: String,
    /// What its values are.
    pub holds: TypeSet,
    /// What they are compared with.
    pub wanted: TypeSet,
}

impl Test {
    /// The types that pass it at all; none if that does not depend on the type.
    fn wants(&self) -> TypeSet {
        match self {
            Test::In(values) => values.iter().fold(TypeSet::NONE, |types, value| types.with(TypeSet::of(value))),
            Test::Within(span) => span.end().map_or(TypeSet::NONE, TypeSet::of),
            Test::Prefix(_) => TypeSet::TEXT,
            Test::Exists => TypeSet::NONE,
        }
    }
}

impl Condition {
    /// The first field that is compared with a type which it does not hold, if that leaves the condition without a sense.
    ///
    /// `and` makes no sense if one part does not, `or` if none does, `not` if its part does not. A field that nobody knows
    /// (`TypeSet::NONE`) and a question whether there is a value make sense always.
    pub fn type_mismatch(&self, types: &dyn Fn(&str) -> TypeSet) -> Option<TypeMismatch> {
        match self {
            Condition::All(parts) => parts.iter().find_map(|part| part.type_mismatch(types)),
            Condition::Any(parts) => {
                let mismatches: Option<Vec<TypeMismatch>> =
                    parts.iter().map(|part| part.type_mismatch(types)).collect();
                mismatches?.into_iter().next()
            }
            Condition::Not(part) => part.type_mismatch(types),
            Condition::Field(field, test) => {
                let (holds, wanted) = (types(field), test.wants());
                let is_mismatch = !holds.is_none() && !wanted.is_none() && !holds.meets(wanted);
                is_mismatch.then(|| TypeMismatch { field: field.clone(), holds, wanted })
            }
            Condition::Created(_) => None,
        }
    }

    /// Whether each field that it compares holds a value of a type that it is compared with: nothing is mismatched, whatever else
    /// the fields may hold.
    pub fn is_well_typed(&self, types: &dyn Fn(&str) -> TypeSet) -> bool {
        match self {
            Condition::All(parts) | Condition::Any(parts) => parts.iter().all(|part| part.is_well_typed(types)),
            Condition::Not(part) => part.is_well_typed(types),
            Condition::Field(field, test) => test.wants().is_none() || types(field).meets(test.wants()),
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

#[cfg(test)]
mod tests {
    use std::ops::Bound;

    use super::super::Span;
    use super::*;
    use crate::filter::value::Value;

    fn types_of(field: &str) -> TypeSet {
        match field {
            "count" => TypeSet::NUMBER,
            "name" => TypeSet::TEXT,
            "mixed" => TypeSet::NUMBER.with(TypeSet::TEXT),
            "done" => TypeSet::BOOL,
            _ => TypeSet::NONE,
        }
    }

    #[test]
    fn a_condition_is_mismatched_when_no_value_could_meet_it() {
        let is = |field: &str, value: Value| Condition::Field(field.into(), Test::In(vec![value]));
        let number = || Value::Number(1i64.into());
        let text = || Value::from("x");
        let above = |value| Test::Within(Span::new(Bound::Included(value), Bound::Unbounded).unwrap());
        let mismatched = || is("count", text());
        let sound = || is("count", number());
        let exists = |field: &str| Condition::Field(field.into(), Test::Exists);
        let table = [
            (mismatched(), Some("count")),
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
            (Condition::All(vec![sound(), mismatched()]), Some("count")),
            (Condition::All(vec![]), None),
            (Condition::Any(vec![sound(), mismatched()]), None),
            (Condition::Any(vec![is("done", text()), mismatched()]), Some("done")),
            (Condition::Any(vec![exists("absent"), mismatched()]), None),
            (Condition::Any(vec![is("absent", text()), mismatched()]), None),
            (Condition::Not(Box::new(mismatched())), Some("count")),
            (Condition::Not(Box::new(sound())), None),
            (Condition::Not(Box::new(exists("count"))), None),
        ];
        for (condition, field) in table {
            let mismatch = condition.type_mismatch(&types_of);
            assert_eq!(mismatch.as_ref().map(|mismatch| mismatch.field.as_str()), field, "{condition:?}");
            assert!(mismatch.as_ref().is_none_or(|mismatch| !mismatch.holds.meets(mismatch.wanted)));
            assert!(mismatch.is_none() || !condition.is_well_typed(&types_of), "{condition:?}");
        }
    }
}
