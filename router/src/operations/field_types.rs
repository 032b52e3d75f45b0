//! Whether a filter compares a field with a type of value that it holds nowhere.
//!
//! Shards say with their answers what the fields of the filter hold ([`node_v1::KnownFieldTypes`]); of private frames the router
//! learns it from those that it opens. Only when every shard has said so, and all private frames that the search could mean
//! were opened, is it certain that a comparison meets nothing, and the request is refused: an empty answer would hide a
//! mistake, and `not` around it would mean everything.

use std::collections::BTreeMap;

use mira_index::{Attributes, Condition, TypeMismatch, TypeSet, filter};
use mira_proto::{Problem, node_v1};

/// What the fields of a filter hold, as far as it was said.
#[derive(Debug, Default, Clone)]
pub(crate) struct FieldTypes {
    fields: BTreeMap<String, TypeSet>,
    is_partial: bool,
}

impl FieldTypes {
    /// Adds what a shard says; a node that says nothing may hold anything.
    pub(crate) fn note(&mut self, said: Option<node_v1::KnownFieldTypes>) {
        let Some(said) = said else {
            self.is_partial = true;
            return;
        };
        for node_v1::FieldTypes { field, types } in said.fields {
            self.add(field, TypeSet::from_bits(types));
        }
    }

    /// Adds what a frame shows that was opened.
    pub(crate) fn note_frame(&mut self, compared: &[String], attributes: &Attributes) {
        for field in compared {
            let types = attributes.of(field).fold(TypeSet::NONE, |types, value| types.with(TypeSet::of(value)));
            self.add(field.clone(), types);
        }
    }

    /// Adds what is known elsewhere.
    pub(crate) fn merge(&mut self, other: FieldTypes) {
        self.is_partial |= other.is_partial;
        other.fields.into_iter().for_each(|(field, types)| self.add(field, types));
    }

    fn add(&mut self, field: String, types: TypeSet) {
        let held = self.fields.entry(field).or_default();
        *held = held.with(types);
    }

    /// Whether everybody said what there is.
    pub(crate) fn is_whole(&self) -> bool {
        !self.is_partial
    }

    /// What clashes, if it is certain.
    pub(crate) fn clash(&self, condition: &Condition) -> Option<TypeMismatch> {
        if self.is_partial {
            return None;
        }
        condition.type_mismatch(&|field| self.fields.get(field).copied().unwrap_or_default())
    }

    /// Refuses a filter of a request that was checked, for a collection.
    pub(crate) fn check(&self, filter_json: &str, collection: &str) -> Result<(), Problem> {
        let Some(condition) = filter::parse(filter_json)? else { return Ok(()) };
        self.clash(&condition).map_or(Ok(()), |clash| Err(refusal(&clash, collection)))
    }
}

fn refusal(TypeMismatch { field, holds, wanted }: &TypeMismatch, collection: &str) -> Problem {
    Problem::invalid(format!(
        "filter field {field} holds {holds} in collection {collection:?}, and is compared with {wanted}"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use mira_proto::Code;

    fn said(fields: &[(&str, TypeSet)]) -> Option<node_v1::KnownFieldTypes> {
        let fields = fields
            .iter()
            .map(|(field, types)| node_v1::FieldTypes { field: (*field).to_owned(), types: types.bits().into() });
        Some(node_v1::KnownFieldTypes { fields: fields.collect() })
    }

    const FILTER: &str = r#"{"field": "metadata.n", "gt": "x"}"#;

    #[test]
    fn only_what_every_shard_says_is_certain() {
        let number = || said(&[("metadata.n", TypeSet::NUMBER)]);
        let table = [
            (vec![number(), number()], true),
            (vec![number(), said(&[])], true),
            (vec![said(&[]), said(&[])], false),
            (vec![number(), said(&[("metadata.n", TypeSet::TEXT)])], false),
            (vec![number(), None], false),
            (vec![said(&[("metadata.other", TypeSet::NUMBER)])], false),
        ];
        for (answers, is_refused) in table {
            let mut known = FieldTypes::default();
            answers.iter().cloned().for_each(|said| known.note(said));
            let refused = known.check(FILTER, "c");
            assert_eq!(refused.is_err(), is_refused, "{answers:?}");
        }
    }

    #[test]
    fn a_refusal_says_what_is_there_and_what_was_asked_for() {
        let mut known = FieldTypes::default();
        known.note(said(&[("metadata.n", TypeSet::NUMBER.with(TypeSet::BOOL))]));
        let refused = known.check(FILTER, "notes").unwrap_err();
        assert_eq!(refused.code, Code::InvalidArgument);
        let detail = "filter field metadata.n holds true or false and numbers in collection \"notes\", and is compared with text";
        assert_eq!(refused.detail, detail);
    }

    #[test]
    fn an_opened_frame_says_what_it_has() {
        let mut known = FieldTypes::default();
        known.note(said(&[("metadata.n", TypeSet::NUMBER)]));
        let attributes = Attributes::new(vec![("metadata.n".into(), "x".into()), ("metadata.m".into(), "y".into())]);
        let mut opened = FieldTypes::default();
        opened.note_frame(&["metadata.n".into()], &attributes);
        known.merge(opened);
        assert!(known.check(FILTER, "c").is_ok());
        assert!(!known.fields.contains_key("metadata.m"));
    }
}
