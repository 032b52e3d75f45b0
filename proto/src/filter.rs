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
//! `mira_index::filter::check` is the one place where it is judged; what comes out is a condition that needs no more checks.
//! Fields are `type`, `session`, `role`, `created_at` and `metadata.NAME`, where a dot leads into an object
//! (`metadata.author.name`). A list in metadata has several values, and a test holds if it holds for one of them. Values
//! are compared with values of their own type: text, number, or true and false.

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize};
use serde_with::skip_serializing_none;

use crate::limits;
use crate::model::bounded::{self, Plain, PlainValue};

/// Begins the names of fields of metadata.
pub const METADATA: &str = "metadata.";

/// Which frames are meant: exactly one of `and`, `or`, `not`, or a `field` with a test.
#[skip_serializing_none]
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Filter {
    /// All of these hold.
    #[serde(default, deserialize_with = "bounded::list::<_, _, { limits::MAX_FILTER_PARTS + 1 }>")]
    pub and: Option<Vec<Filter>>,
    /// One of these holds.
    #[serde(default, deserialize_with = "bounded::list::<_, _, { limits::MAX_FILTER_PARTS + 1 }>")]
    pub or: Option<Vec<Filter>>,
    /// This does not hold.
    pub not: Option<Box<Filter>>,
    /// The field to test: type, session, role, created_at, or metadata.NAME (a dot leads into an object).
    pub field: Option<String>,
    /// Equal to this.
    pub eq: Option<Scalar>,
    /// Equal to one of these, up to 1,000.
    #[serde(rename = "in", default, deserialize_with = "bounded::list::<_, _, { limits::MAX_FILTER_VALUES + 1 }>")]
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
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
#[serde(untagged)]
pub enum Scalar {
    /// True or false.
    Bool(bool),
    /// A number.
    Number(serde_json::Number),
    /// A text.
    Text(String),
}

impl<'de> Deserialize<'de> for Scalar {
    /// By hand, because serde keeps all of what is none before it says so.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(match deserializer.deserialize_any(Plain)? {
            PlainValue::Bool(value) => Scalar::Bool(value),
            PlainValue::Number(number) => Scalar::Number(number),
            PlainValue::Text(text) => Scalar::Text(text),
        })
    }
}
