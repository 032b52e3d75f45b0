//! Store, then search: what was acknowledged is found by every search that begins later and promises to see it.
//!
//! A search may fail, or say that it is degraded; what it may not do is answer whole without the frame.

use std::{collections::BTreeMap, time::Duration};

use serde::Serialize;

use crate::history::{Operation, Outcome};

/// What is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Call {
    /// `store` of a document with a vector of its own.
    Store {
        /// Which document.
        document: u64,
    },
    /// `search` for exactly that vector.
    Search {
        /// Which document.
        document: u64,
    },
}

/// What is answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// The document was stored.
    Stored,
    /// It was found, with the content it was stored with.
    Found,
    /// The answer is whole, and the document is not in it.
    Missed,
    /// The answer says that shards are missing.
    Degraded,
    /// It was found with other content.
    Wrong(String),
}

/// A store or a search.
pub type VisibilityOperation = Operation<Call, Answer>;

/// Judges a history.
pub fn check(history: &[VisibilityOperation]) -> Vec<String> {
    let mut certain_from: BTreeMap<u64, Duration> = BTreeMap::new();
    for operation in history {
        if let (Call::Store { document }, Some(from)) = (operation.call, operation.certain_from()) {
            certain_from.insert(document, from);
        }
    }
    let judge = |operation: &VisibilityOperation| {
        let Call::Search { document } = operation.call else { return None };
        let due = certain_from.get(&document).is_some_and(|&from| from < operation.called);
        let (from, to) = (operation.called.as_secs_f64(), operation.returned.as_secs_f64());
        match &operation.outcome {
            Outcome::Ok(Answer::Missed) if due => {
                Some(format!("document {document} is stored and not found [{from:.3} s, {to:.3} s]"))
            }
            Outcome::Ok(Answer::Wrong(content)) => {
                Some(format!("document {document} is found as {content:?} [{from:.3} s, {to:.3} s]"))
            }
            _ => None,
        }
    };
    history.iter().filter_map(judge).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn history(stored: Outcome<Answer>, found: Answer) -> Vec<VisibilityOperation> {
        let operation = |from: u64, call, outcome| Operation {
            process: 1,
            called: Duration::from_millis(from),
            returned: Duration::from_millis(from + 1),
            call,
            outcome,
            shard: None,
        };
        vec![
            operation(0, Call::Store { document: 1 }, stored),
            operation(2, Call::Search { document: 1 }, Outcome::Ok(found)),
        ]
    }

    #[test]
    fn what_is_stored_must_be_found() {
        let stored = || Outcome::Ok(Answer::Stored);
        let unknown = || Outcome::Unknown("timeout".into());
        for good in [
            history(stored(), Answer::Found),
            history(stored(), Answer::Degraded),
            history(unknown(), Answer::Missed),
            history(unknown(), Answer::Found),
        ] {
            assert_eq!(check(&good), Vec::<String>::new(), "{good:?}");
        }
        for bad in [
            history(stored(), Answer::Missed),
            history(stored(), Answer::Wrong("else".into())),
            history(unknown(), Answer::Wrong("else".into())),
        ] {
            assert_eq!(check(&bad).len(), 1, "{bad:?}");
        }
    }
}
