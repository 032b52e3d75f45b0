//! Batches: entries that are read each by itself, so that one that is wrong leaves the others alone.

use std::cell::Cell;
use std::fmt;
use std::marker::PhantomData;

use serde::de::{IgnoredAny, SeqAccess, Visitor};
use serde::ser::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::value::RawValue;

use super::bounded;
use crate::{Code, Problem, json, limits};

/// Characters of what a caller is told of its own words, at most.
const MAX_ECHO: usize = 400;

thread_local! {
    /// Whether an entry of a batch is being read: what it has of further batches is counted and not kept.
    static INSIDE: Cell<bool> = const { Cell::new(false) };
}

/// What a batch may hold.
pub trait BatchEntry: Serialize + for<'de> Deserialize<'de> {
    /// How many of them.
    const MOST: usize;
    /// The field that holds them.
    const FIELD: &'static str;
}

impl BatchEntry for super::StoreItem {
    const MOST: usize = limits::MAX_BATCH_ITEMS;
    const FIELD: &'static str = "items";
}

impl BatchEntry for super::SearchRequest {
    const MOST: usize = limits::MAX_BATCH_SEARCHES;
    const FIELD: &'static str = "searches";
}

/// The entries of one call, in order: what each says, or why it cannot be read. Beyond the bound they are only counted.
#[derive(Debug, Clone, PartialEq)]
pub struct Batch<T> {
    entries: Vec<Result<T, Problem>>,
    count: usize,
}

impl<T: BatchEntry> Batch<T> {
    /// The entries. Refuses a batch of none, or of too many.
    pub fn read(self) -> Result<Vec<Result<T, Problem>>, Problem> {
        check_count::<T>(self.count)?;
        Ok(self.entries)
    }
}

/// Refuses a batch of no entries, or of too many.
pub fn check_count<T: BatchEntry>(count: usize) -> Result<(), Problem> {
    let (field, most) = (T::FIELD, T::MOST);
    match count {
        0 => Err(Problem::invalid(format!("{field} is empty"))),
        have if have > most => {
            let detail = format!("{field} has {have} entries, the limit is {most}: send several");
            Err(Problem::new(Code::TooLarge, detail))
        }
        _ => Ok(()),
    }
}

/// Reads one entry.
fn read_entry<T: BatchEntry>(text: &RawValue) -> Result<T, Problem> {
    struct Outside;

    impl Drop for Outside {
        fn drop(&mut self) {
            INSIDE.set(false);
        }
    }

    INSIDE.set(true);
    let _outside = Outside;
    serde_json::from_str(text.get()).map_err(|error| wrong(text.get(), &error))
}

/// What is wrong with an entry.
fn wrong(text: &str, error: &serde_json::Error) -> Problem {
    let what = json::fault(text, error);
    let what = what.as_str();
    if let Some(what) = what.strip_prefix(bounded::TOO_LARGE) {
        return Problem::new(Code::TooLarge, what);
    }
    // It may quote what was sent.
    match what.char_indices().nth(MAX_ECHO) {
        Some((cut, _)) => Problem::invalid(format!("{}…", &what[..cut])),
        None => Problem::invalid(what),
    }
}

impl<T> From<Vec<T>> for Batch<T> {
    fn from(entries: Vec<T>) -> Self {
        Batch { count: entries.len(), entries: entries.into_iter().map(Ok).collect() }
    }
}

impl<T> FromIterator<T> for Batch<T> {
    fn from_iter<I: IntoIterator<Item = T>>(entries: I) -> Self {
        entries.into_iter().collect::<Vec<T>>().into()
    }
}

impl<T: Serialize> Serialize for Batch<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let entries: Result<Vec<&T>, &Problem> = self.entries.iter().map(Result::as_ref).collect();
        entries.map_err(S::Error::custom)?.serialize(serializer)
    }
}

impl<'de, T: BatchEntry> Deserialize<'de> for Batch<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries<T>(PhantomData<T>);

        impl<'de, T: BatchEntry> Visitor<'de> for Entries<T> {
            type Value = Batch<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a sequence")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<Batch<T>, A::Error> {
                let mut entries = Vec::new();
                while entries.len() < T::MOST
                    && !INSIDE.get()
                    && let Some(text) = sequence.next_element::<Box<RawValue>>()?
                {
                    entries.push(read_entry(&text));
                }
                let mut count = entries.len();
                while sequence.next_element::<IgnoredAny>()?.is_some() {
                    count += 1;
                }
                Ok(Batch { entries, count })
            }
        }

        deserializer.deserialize_seq(Entries(PhantomData))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{SearchRequest, StoreItem, StoreRequest};

    fn items(json: &str) -> Vec<Result<Option<String>, String>> {
        let request: StoreRequest = serde_json::from_str(json).unwrap();
        let read = request.items.unwrap().read().unwrap().into_iter();
        read.map(|item| item.map(|item| item.content).map_err(|problem| problem.detail)).collect()
    }

    #[test]
    fn an_entry_that_is_wrong_leaves_the_others_alone() {
        let json = r#"{"items": [{"content": "a"}, {"content": 7}, {"contents": "b"}, 3, null, {"content": "c"}]}"#;
        let read = items(json);
        assert_eq!((&read[0], &read[5]), (&Ok(Some("a".into())), &Ok(Some("c".into()))));
        let words =
            ["content must be a text, not the number 7", "unknown field `contents`", "not the number 3", "null"];
        for (item, word) in read[1..5].iter().zip(words) {
            let wrong = item.as_ref().unwrap_err();
            assert!(wrong.contains(word) && !wrong.contains("line"), "{wrong}");
        }
        let searches: SearchRequest = serde_json::from_str(r#"{"searches": [{"k": "x"}, {"query": "tea"}]}"#).unwrap();
        let read = searches.searches.unwrap().read().unwrap();
        assert!(read[0].is_err());
        assert_eq!(read[1].as_ref().unwrap().query.as_deref(), Some("tea"));
    }

    #[test]
    fn what_is_said_of_an_entry_does_not_hand_it_back() {
        let json = format!(r#"{{"items": [{{"replace": "{}"}}]}}"#, "ü".repeat(100_000));
        let refused = items(&json).remove(0).unwrap_err();
        assert!(refused.chars().count() <= MAX_ECHO + 1 && refused.ends_with('…'), "{}", refused.len());
    }

    #[test]
    fn what_is_no_json_or_no_list_is_no_batch() {
        for bad in [r#"{"items": {}}"#, r#"{"items": 7}"#, r#"{"items": [{"content": ]}"#, r#"{"items": [1] "a"}"#] {
            assert!(serde_json::from_str::<StoreRequest>(bad).is_err(), "{bad}");
        }
        assert!(items_of(0).unwrap_err().detail.contains("items is empty"));
        assert_eq!(items_of(limits::MAX_BATCH_ITEMS).unwrap().len(), limits::MAX_BATCH_ITEMS);
        let many = items_of(limits::MAX_BATCH_ITEMS + 1).unwrap_err();
        assert_eq!((many.code, many.detail.contains("items has 1001 entries")), (Code::TooLarge, true), "{many}");
    }

    fn items_of(count: usize) -> Result<Vec<Result<StoreItem, Problem>>, Problem> {
        let json = format!(r#"{{"items": [{}]}}"#, vec!["{}"; count].join(","));
        serde_json::from_str::<StoreRequest>(&json).unwrap().items.unwrap().read()
    }

    #[test]
    fn searches_within_searches_are_seen_and_not_kept() {
        let json = (0..20_000).fold("{}".to_owned(), |inner, _| format!(r#"{{"searches":[{inner}]}}"#));
        for _ in 0..2 {
            let outer: SearchRequest = serde_json::from_str(&json).unwrap();
            let inner = outer.searches.unwrap().read().unwrap().remove(0).unwrap();
            assert_eq!(inner.searches, Some(Batch { entries: Vec::new(), count: 1 }));
        }
    }

    #[test]
    fn a_number_beyond_64_bits_refuses_its_item_alone() {
        let read = items(
            r#"{"items": [{"content": "a", "metadata": {"n": 18446744073709551616}}, {"content": "b", "metadata": {"n": 1}}]}"#,
        );
        assert!(read[0].as_ref().unwrap_err().contains("18446744073709551616"), "{read:?}");
        assert_eq!(read[1], Ok(Some("b".into())));
    }
}
