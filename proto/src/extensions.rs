//! Tagged fields beside those that a format names.
//!
//! A persisted or signed value that may outlive the release that wrote it ends with [`Extensions`]. A release that does not
//! know a tag keeps the field when it writes the value again: a frame that is sealed anew, moved, backed up or restored
//! loses nothing. A field that an older release must not pass over raises [`crate::FORMAT_LEVEL`] as well, which no node
//! writes before all know it (ADR 16 says which coming field lies where).
//!
//! Encoded by serde: the number of fields, then tag and bytes of each, by ascending tag.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// What names a field. A number once given stays.
pub type Tag = u32;

/// Fields by tag, in ascending order.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "Vec<(Tag, Bytes)>")]
pub struct Extensions(Vec<(Tag, Bytes)>);

/// Tags that do not ascend.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the extension field {0} stands behind one that is no smaller")]
pub struct OutOfOrder(Tag);

impl TryFrom<Vec<(Tag, Bytes)>> for Extensions {
    type Error = OutOfOrder;

    fn try_from(fields: Vec<(Tag, Bytes)>) -> Result<Self, OutOfOrder> {
        match fields.windows(2).find(|pair| pair[0].0 >= pair[1].0) {
            Some(pair) => Err(OutOfOrder(pair[1].0)),
            None => Ok(Extensions(fields)),
        }
    }
}

impl Extensions {
    /// A field.
    pub fn get(&self, tag: Tag) -> Option<&Bytes> {
        self.0.binary_search_by_key(&tag, |(tag, _)| *tag).ok().map(|at| &self.0[at].1)
    }

    /// Sets a field, in the place of what it was.
    pub fn set(&mut self, tag: Tag, value: impl Into<Bytes>) {
        let value = value.into();
        match self.0.binary_search_by_key(&tag, |(tag, _)| *tag) {
            Ok(at) => self.0[at].1 = value,
            Err(at) => self.0.insert(at, (tag, value)),
        }
    }

    /// Takes over all that `other` has. Of a field that both have the greater value stays, in the order of bytes: a field
    /// of a value that is merged is written so that the later of two is the greater.
    pub fn merge(&mut self, other: &Extensions) {
        for (tag, value) in &other.0 {
            if self.get(*tag).is_none_or(|mine| mine < value) {
                self.set(*tag, value.clone());
            }
        }
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// All fields, by tag.
    pub fn iter(&self) -> impl Iterator<Item = (Tag, &Bytes)> {
        self.0.iter().map(|(tag, value)| (*tag, value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(of: &[(Tag, &'static str)]) -> Extensions {
        let mut extensions = Extensions::default();
        for &(tag, value) in of {
            extensions.set(tag, value);
        }
        extensions
    }

    #[test]
    fn fields_are_kept_in_order_whichever_comes_first() {
        let extensions = fields(&[(9, "nine"), (2, "two"), (9, "other")]);
        assert_eq!(extensions, fields(&[(2, "two"), (9, "other")]));
        assert_eq!((extensions.get(9), extensions.get(3)), (Some(&Bytes::from("other")), None));
        assert_eq!(extensions.iter().map(|(tag, _)| tag).collect::<Vec<_>>(), [2, 9]);
    }

    #[test]
    fn merging_keeps_everything_and_the_greater_of_two() {
        let mut seen = fields(&[(1, "b"), (3, "only here")]);
        seen.merge(&fields(&[(1, "a"), (2, "only there")]));
        seen.merge(&fields(&[(1, "c")]));
        assert_eq!(seen, fields(&[(1, "c"), (2, "only there"), (3, "only here")]));
    }

    #[test]
    fn tags_out_of_order_are_refused() {
        let refused = Extensions::try_from(vec![(2, Bytes::new()), (2, Bytes::new())]);
        assert_eq!(refused, Err(OutOfOrder(2)));
    }
}
