//! Bounds on what a request may hold, kept while it is read.
//!
//! A body of 32 MiB can name ten million values of a few hundred bytes each, so a check after reading comes too late. Lists
//! of requests stop at their bound (`list`), and whoever reads a request from a caller does it [`within`] a number of
//! bytes that its metadata, filters and searches may take in memory together. Answers, which a client reads, have no such
//! scope and no bound.

use std::cell::Cell;
use std::fmt;
use std::marker::PhantomData;

use serde::de::value::MapAccessDeserializer;
use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, de};
use serde_json::{Map, Number, Value};

use super::frame::Metadata;
use super::vector::Vector;
use crate::limits;

/// Begins the message of an error that is one of size.
pub const TOO_LARGE: &str = "too large: ";

/// Values of a JSON tree, bytes each: a place in a list that has grown to twice what it holds.
const VALUE_BYTES: usize = 2 * size_of::<Value>();
/// An object of a JSON tree, bytes: the first node of its map.
const OBJECT_BYTES: usize = 11 * (size_of::<String>() + size_of::<Value>());

thread_local! {
    /// Bytes that the request being read may still take; none outside of a scope.
    static LEFT: Cell<Option<usize>> = const { Cell::new(None) };
}

/// Runs `read` with so many bytes for all that it reads.
pub fn within<T>(bytes: usize, read: impl FnOnce() -> T) -> T {
    struct Restore(Option<usize>);
    impl Drop for Restore {
        fn drop(&mut self) {
            LEFT.set(self.0);
        }
    }
    let _restore = Restore(LEFT.replace(Some(bytes)));
    read()
}

/// Takes bytes of what the request may take.
pub(crate) fn take<E: Error>(bytes: usize) -> Result<(), E> {
    let Some(left) = LEFT.get() else { return Ok(()) };
    match left.checked_sub(bytes) {
        Some(left) => {
            LEFT.set(Some(left));
            Ok(())
        }
        None => Err(E::custom(format_args!(
            "{TOO_LARGE}the metadata, filters or searches of one request take too much memory: send several requests"
        ))),
    }
}

/// Reads an optional list of at most `MOST` entries.
pub(crate) fn list<'de, D, T, const MOST: usize>(deserializer: D) -> Result<Option<Vec<T>>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    Ok(Option::<List<T, MOST>>::deserialize(deserializer)?.map(|list| list.0))
}

/// A list of at most `MOST` entries.
#[derive(Debug)]
pub(crate) struct List<T, const MOST: usize>(pub(crate) Vec<T>);

impl<'de, T: Deserialize<'de>, const MOST: usize> Deserialize<'de> for List<T, MOST> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries<T, const MOST: usize>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>, const MOST: usize> Visitor<'de> for Entries<T, MOST> {
            type Value = List<T, MOST>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a sequence")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut entries: A) -> Result<Self::Value, A::Error> {
                let mut list = Vec::new();
                while let Some(entry) = entries.next_element()? {
                    if list.len() == MOST {
                        return Err(A::Error::custom(format_args!(
                            "{TOO_LARGE}a list has more than {MOST} entries: send several requests"
                        )));
                    }
                    // Numbers take no more than a few times their text.
                    if size_of::<T>() > size_of::<u128>() {
                        take(size_of::<T>())?;
                    }
                    list.push(entry);
                }
                Ok(List(list))
            }
        }
        deserializer.deserialize_seq(Entries(PhantomData))
    }
}

/// Reads the named vectors of a frame.
pub(crate) fn named_vectors<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<std::collections::BTreeMap<String, Vec<f32>>, D::Error> {
    let named = Named::<Vector>::deserialize(deserializer)?;
    Ok(named.0.into_iter().map(|(name, vector)| (name, vector.0)).collect())
}

/// Reads what the named vectors of a collection are.
pub(crate) fn named<'de, D, T>(deserializer: D) -> Result<std::collections::BTreeMap<String, T>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    Ok(Named::deserialize(deserializer)?.0)
}

/// Reads an optional vector.
pub(crate) fn vector<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Vec<f32>>, D::Error> {
    Ok(Option::<Vector>::deserialize(deserializer)?.map(|vector| vector.0))
}

/// Reads an optional list of vectors.
pub(crate) fn vectors<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Vec<Vec<f32>>>, D::Error> {
    let vectors = list::<D, Vector, { limits::MAX_QUERY_VECTORS + 1 }>(deserializer)?;
    Ok(vectors.map(|vectors| vectors.into_iter().map(|vector| vector.0).collect()))
}

/// What has a name for each vector, one more than allowed at most: whoever checks it says so.
struct Named<T>(std::collections::BTreeMap<String, T>);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Named<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for Entries<T> {
            type Value = Named<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a map")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Self::Value, A::Error> {
                let mut named = std::collections::BTreeMap::new();
                while let Some((name, value)) = entries.next_entry()? {
                    named.insert(name, value);
                    if named.len() > limits::MAX_NAMED_VECTORS {
                        let limit = limits::MAX_NAMED_VECTORS;
                        return Err(A::Error::custom(format_args!("{TOO_LARGE}vectors has more than {limit} entries")));
                    }
                }
                Ok(Named(named))
            }
        }
        deserializer.deserialize_map(Entries(PhantomData))
    }
}

/// Reads the JSON object that a text is.
pub(super) fn metadata(json: &str) -> serde_json::Result<Metadata> {
    struct Object;
    impl<'de> Visitor<'de> for Object {
        type Value = Metadata;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a map")
        }

        fn visit_map<A: MapAccess<'de>>(self, entries: A) -> Result<Metadata, A::Error> {
            object(entries)
        }
    }
    let mut deserializer = serde_json::Deserializer::from_str(json);
    let metadata = deserializer.deserialize_map(Object)?;
    deserializer.end()?;
    Ok(metadata)
}

/// The entries of an object.
fn object<'de, A: MapAccess<'de>>(mut entries: A) -> Result<Map<String, Value>, A::Error> {
    let mut object = Map::new();
    while let Some(name) = entries.next_key::<String>()? {
        if object.is_empty() {
            take(OBJECT_BYTES)?;
        }
        // Nodes of its map are half full at worst.
        take(VALUE_BYTES + 2 * size_of::<String>())?;
        object.insert(name, entries.next_value_seed(Tree)?);
    }
    Ok(object)
}

/// A JSON tree within the scope's bytes.
struct Tree;

impl<'de> DeserializeSeed<'de> for Tree {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Tree {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any valid JSON value")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(Value::String(value))
    }

    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(entry) = entries.next_element_seed(Tree)? {
            take(VALUE_BYTES)?;
            list.push(entry);
        }
        Ok(Value::Array(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, entries: A) -> Result<Value, A::Error> {
        object(entries).map(Value::Object)
    }
}

/// A text, a number or a truth value, read without keeping anything else first.
pub(crate) struct Plain;

/// What [`Plain`] reads.
pub(crate) enum PlainValue {
    Bool(bool),
    Number(Number),
    Text(String),
}

impl<'de> Visitor<'de> for Plain {
    type Value = PlainValue;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a text, a number, true or false")
    }

    fn visit_bool<E>(self, value: bool) -> Result<PlainValue, E> {
        Ok(PlainValue::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<PlainValue, E> {
        Ok(PlainValue::Number(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<PlainValue, E> {
        Ok(PlainValue::Number(value.into()))
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<PlainValue, E> {
        let number = Number::from_f64(value);
        number.map(PlainValue::Number).ok_or_else(|| E::invalid_value(de::Unexpected::Float(value), &self))
    }

    fn visit_str<E>(self, value: &str) -> Result<PlainValue, E> {
        Ok(PlainValue::Text(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<PlainValue, E> {
        Ok(PlainValue::Text(value))
    }
}

/// The fields of a map, but for one, which is read on the way past.
pub(crate) struct Without<'a, A, T> {
    pub(crate) fields: A,
    pub(crate) name: &'static str,
    pub(crate) value: &'a mut Option<T>,
}

impl<'a, A, T> Without<'a, A, T> {
    /// As what is read from it.
    pub(crate) fn into_deserializer(self) -> MapAccessDeserializer<Self> {
        MapAccessDeserializer::new(self)
    }
}

impl<'de, A: MapAccess<'de>, T: Deserialize<'de>> MapAccess<'de> for Without<'_, A, T> {
    type Error = A::Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, A::Error> {
        while let Some(name) = self.fields.next_key::<String>()? {
            if name != self.name {
                return seed.deserialize(de::value::StringDeserializer::new(name)).map(Some);
            }
            if self.value.is_some() {
                return Err(A::Error::duplicate_field(self.name));
            }
            *self.value = Some(self.fields.next_value()?);
        }
        Ok(None)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, A::Error> {
        self.fields.next_value_seed(seed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Code;
    use crate::filter::Filter;
    use crate::model::{SearchRequest, StoreItem, StoreRequest};

    /// Reads a request as a router does.
    fn read<T: for<'de> Deserialize<'de>>(text: &str) -> Result<T, String> {
        within(1 << 20, || serde_json::from_str(text)).map_err(|error| error.to_string())
    }

    #[track_caller]
    fn too_large<T: for<'de> Deserialize<'de>>(text: &str) {
        match read::<T>(text) {
            Ok(_) => panic!("{} bytes are taken", text.len()),
            Err(error) => assert!(error.starts_with(TOO_LARGE), "{error}"),
        }
    }

    fn listed(entry: &str, count: usize) -> String {
        format!("[{}]", vec![entry; count].join(","))
    }

    #[test]
    fn lists_of_a_request_end_at_their_bound() {
        let zeros = listed("0", 5_000);
        too_large::<StoreItem>(&format!(r#"{{"vector":{zeros}}}"#));
        too_large::<StoreItem>(&format!(r#"{{"vectors":{{"a":{zeros}}}}}"#));
        let encoded = "A".repeat(30_000);
        too_large::<StoreItem>(&format!(r#"{{"vector":"{encoded}"}}"#));
        too_large::<StoreItem>(&format!(r#"{{"vectors":{{"a":"{encoded}"}}}}"#));
        too_large::<SearchRequest>(&format!(r#"{{"vectors":["{encoded}"]}}"#));
        let names: Vec<String> = (0..100).map(|name| format!(r#""{name}":[]"#)).collect();
        too_large::<StoreItem>(&format!(r#"{{"vectors":{{{}}}}}"#, names.join(",")));
        too_large::<SearchRequest>(&format!(r#"{{"queries":{}}}"#, listed(r#""a""#, 50)));
        too_large::<SearchRequest>(&format!(r#"{{"vectors":[{zeros}]}}"#));
        too_large::<SearchRequest>(&format!(r#"{{"vectors":{}}}"#, listed("[]", 50)));
        too_large::<Filter>(&format!(r#"{{"and":{}}}"#, listed("{}", 2_000)));
        too_large::<Filter>(&format!(r#"{{"field":"role","in":{}}}"#, listed("0", 5_000)));
    }

    #[test]
    fn trees_of_a_request_end_at_the_bytes_of_its_scope() {
        for tree in [listed("0", 30_000), listed("{}", 30_000), listed(r#"{"a":0}"#, 3_000)] {
            let item = format!(r#"{{"metadata":{{"a":{tree}}}}}"#);
            too_large::<StoreItem>(&item);
            too_large::<StoreRequest>(&item);
            assert!(serde_json::from_str::<StoreItem>(&item).is_ok(), "without a scope there is no bound");
        }
        let nested = (0..20).fold("{}".to_owned(), |inner, _| format!(r#"{{"and":{}}}"#, listed(&inner, 1)));
        assert!(read::<Filter>(&nested).is_ok());
        let wide = (0..3).fold("{}".to_owned(), |inner, _| format!(r#"{{"or":{}}}"#, listed(&inner, 100)));
        too_large::<Filter>(&wide);
    }

    #[test]
    fn entries_of_a_batch_share_the_bytes_of_its_scope() {
        let entry = format!(r#"{{"metadata":{{"a":{}}}}}"#, listed("0", 10_000));
        let request = format!(r#"{{"items":{}}}"#, listed(&entry, 3));
        let read = read::<StoreRequest>(&request).unwrap().items.unwrap().read().unwrap();
        let refused = read[2].as_ref().unwrap_err();
        assert!(read[0].is_ok(), "{read:?}");
        assert_eq!(refused.code, Code::TooLarge, "{refused}");
        assert!(!refused.detail.contains(TOO_LARGE.trim_end()), "{refused}");
    }

    #[test]
    fn metadata_is_read_as_it_is() {
        let text = r#"{"metadata":{"a":[1,-2,0.5,null,true,"x",{"b":{}}],"c":18446744073709551615}}"#;
        let plain: Value = serde_json::from_str(text).unwrap();
        let item: StoreItem = read(text).unwrap();
        assert_eq!(Value::Object(item.metadata.unwrap()), plain["metadata"]);
        assert_eq!(read::<StoreItem>(r#"{"metadata":null}"#).unwrap().metadata, None);
        let error = read::<StoreItem>(r#"{"metadata":[1]}"#).unwrap_err();
        assert!(error.contains("metadata: it must be an object, not a list"), "{error}");
    }
}
