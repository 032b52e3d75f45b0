//! `store`: what a caller wants remembered.

use std::collections::BTreeMap;
use std::fmt;

use schemars::JsonSchema;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde::{Deserialize, Serialize};
use serde_with::skip_serializing_none;
use uuid::Uuid;

use super::batch::Batch;
use super::bounded;
use super::frame::{self, Metadata};
use super::vector::Vector;
use crate::Problem;

/// One thing to remember.
#[skip_serializing_none]
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct StoreItem {
    /// The text to remember, at most 1 MiB of UTF-8. Either this or `bytes`.
    pub content: Option<String>,
    /// Opaque bytes in base64 instead of text; found by `vector` or id only.
    pub bytes: Option<String>,
    /// What kind of memory this is: general (default), insight, conversation, code, thought, or a word of your own.
    #[serde(rename = "type")]
    pub kind: Option<String>,
    /// The conversation or task it belongs to.
    pub session: Option<String>,
    /// Who said it: user, assistant, tool, system, or a word of your own.
    pub role: Option<String>,
    /// Any JSON object, at most 64 KiB. Whole numbers beyond 64 bits are refused: send them as texts.
    #[serde(default, deserialize_with = "frame::given_metadata")]
    pub metadata: Option<Metadata>,
    /// An embedding of your own, as long as the collection's dimension; otherwise the router embeds the text. A list of
    /// numbers, or its 32-bit floats, little-endian, in base64.
    #[serde(default, deserialize_with = "bounded::vector")]
    #[schemars(with = "Option<Vector>")]
    pub vector: Option<Vec<f32>>,
    /// Further embeddings, one for each named vector that the collection has, such as {"state": [0.1, …]}; found by `using`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty", deserialize_with = "bounded::named_vectors")]
    #[schemars(with = "BTreeMap<String, Vector>")]
    pub vectors: BTreeMap<String, Vec<f32>>,
    /// A UUID of your own; storing the same content under it again changes nothing.
    pub id: Option<Uuid>,
    /// Put a new version in place of the frame with this `id` or `source_key`.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub replace: bool,
    /// Store a new version only if this one is current; 0 = the id must not exist.
    pub expected_version: Option<u64>,
    /// RFC 3339 time at which the frame is forgotten.
    pub expires_at: Option<String>,
    /// RFC 3339 time at which it was made, of a memory that is brought from elsewhere; otherwise now.
    pub created_at: Option<String>,
    /// Its place in its session, of a memory that is brought from elsewhere, as an export gives it; otherwise behind everything
    /// that was stored before.
    pub position: Option<u64>,
    /// The collection; `default` when absent.
    pub collection: Option<String>,
    /// Seal it with the key of its owner, which the request carries in a header: nobody else can read or find it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub private: bool,
    /// Names the record in the source it comes from, instead of an `id`; sent again with the same session, it is the same frame.
    pub source_key: Option<String>,
}

/// `store`: one item in place, or up to 1,000 under `items`.
#[skip_serializing_none]
#[derive(Debug, Clone, Default, PartialEq, Serialize, JsonSchema)]
#[schemars(extend("additionalProperties" = false))]
pub struct StoreRequest {
    /// The one item.
    #[serde(flatten)]
    pub item: StoreItem,
    /// Several items instead, each stored or refused by itself.
    #[schemars(with = "Option<Vec<StoreItem>>")]
    pub items: Option<Batch<StoreItem>>,
}

impl<'de> Deserialize<'de> for StoreRequest {
    /// By hand, because serde cannot refuse unknown fields beside a flattened struct, and keeps all that it reads first.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Fields;
        impl<'de> Visitor<'de> for Fields {
            type Value = StoreRequest;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a map")
            }

            fn visit_map<A: MapAccess<'de>>(self, fields: A) -> Result<StoreRequest, A::Error> {
                let mut items: Option<Option<Batch<StoreItem>>> = None;
                let item = bounded::Without { fields, name: "items", value: &mut items };
                let item = StoreItem::deserialize(item.into_deserializer())?;
                Ok(StoreRequest { item, items: items.flatten() })
            }
        }
        deserializer.deserialize_map(Fields)
    }
}

/// Where a frame went.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Stored {
    /// The frame's id.
    pub id: Uuid,
    /// Its version: 1 for a new frame; where frames were forgotten, one that none of them had.
    pub version: u64,
    /// The same content was there already: nothing was stored.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub unchanged: bool,
}

/// One answer of a batch.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum ItemResult {
    /// Stored, or already there with the same content.
    Stored(Stored),
    /// Refused; nothing of it was stored.
    Refused {
        /// Why it was refused.
        error: Problem,
    },
}

/// Answer to `store`.
#[skip_serializing_none]
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct StoreReply {
    /// The frame's id, when one item was stored.
    pub id: Option<Uuid>,
    /// Its version.
    pub version: Option<u64>,
    /// The same content was there already: nothing was stored.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub unchanged: bool,
    /// One answer for each of `items`, in order.
    pub items: Option<Vec<ItemResult>>,
    /// Send it back with a read that must see this write.
    pub consistency_token: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn store_takes_one_item_or_many_and_nothing_unknown() {
        let one: StoreRequest = serde_json::from_str(r#"{"content": "tea", "type": "insight"}"#).unwrap();
        assert_eq!(one.item.content.as_deref(), Some("tea"));
        let many: StoreRequest = serde_json::from_str(r#"{"items": [{"content": "a"}, {"content": "b"}]}"#).unwrap();
        assert_eq!(many.items.unwrap().read().unwrap().len(), 2);
        let error = serde_json::from_str::<StoreRequest>(r#"{"contents": "tea"}"#).unwrap_err().to_string();
        assert!(error.contains("unknown field"), "{error}");
        for bad in [r#"{"items": [{"contents": "a"}]}"#, r#"{"items": [{"items": []}]}"#] {
            let request: StoreRequest = serde_json::from_str(bad).unwrap();
            let item = request.items.unwrap().read().unwrap().remove(0);
            assert!(item.unwrap_err().detail.contains("unknown field"), "{bad}");
        }
        let twice = serde_json::from_str::<StoreRequest>(r#"{"items": [], "items": []}"#).unwrap_err().to_string();
        assert!(twice.contains("duplicate field `items`"), "{twice}");
    }
}
