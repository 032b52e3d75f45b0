//! Documents that are stored and then searched for, by their own vectors.

use rand::Rng;
use serde_json::{Value, json};

use crate::{
    checker::visibility::{Answer, Call, VisibilityOperation},
    client::Attempt,
    history::{History, Outcome},
};

use super::{Caller, outcome, vector};

/// Where the documents are.
pub const COLLECTION: &str = "documents";
/// Documents that are searched once more at the end; all are recalled.
const SEARCHED_AT_THE_END: usize = 100;
/// Ids of one recall.
const RECALLED_AT_ONCE: usize = 500;

/// A document that was acknowledged.
pub struct Document {
    number: u64,
    id: String,
}

/// How a search promises to see what was stored.
enum Promise<'a> {
    /// It is linearizable.
    Linearizable,
    /// Any replica, but no older state than the store's token says.
    Token(&'a str),
}

/// Calls until the round is over; returns what was acknowledged.
pub async fn run(mut caller: Caller, history: History<Call, Answer>) -> Vec<Document> {
    let mut stored: Vec<Document> = Vec::new();
    let mut count: u64 = 0;
    while caller.rest().await {
        count += 1;
        let number = (u64::from(caller.process) << 32) | count;
        let body = json!({ "collection": COLLECTION, "content": content(number), "vector": vector(number) });
        let mut reply = Value::Null;
        let process = caller.process;
        let work = async {
            let attempt = caller.attempt("store", &body, None).await;
            if let Attempt::Done(done) = &attempt {
                reply = done.clone();
            }
            outcome(attempt, |_| Answer::Stored)
        };
        history.record(process, Call::Store { document: number }, work).await;
        if let (Some(id), Some(token)) = (reply["id"].as_str(), reply["consistency_token"].as_str()) {
            stored.push(Document { number, id: id.to_owned() });
            let promise = if caller.rng.random_bool(0.5) { Promise::Linearizable } else { Promise::Token(token) };
            search(&mut caller, stored.last().expect("just stored"), promise, &history).await;
        } else if !stored.is_empty() {
            // Something older: a change of leader must not have hidden it.
            let at = caller.rng.random_range(0..stored.len());
            search(&mut caller, &stored[at], Promise::Linearizable, &history).await;
        }
    }
    stored
}

/// Recalls every document when all faults are healed, and searches for some; returns what is wrong.
pub async fn read_all(mut caller: Caller, documents: &[Document], history: &History<Call, Answer>) -> Vec<String> {
    let mut violations = Vec::new();
    for chunk in documents.chunks(RECALLED_AT_ONCE) {
        let ids: Vec<&str> = chunk.iter().map(|document| document.id.as_str()).collect();
        match caller.insist("recall", &json!({ "collection": COLLECTION, "ids": ids })).await {
            Attempt::Done(reply) => {
                let frames = reply["frames"].as_array().map_or(0, Vec::len);
                if frames != chunk.len() {
                    let missing = &reply["missing"];
                    violations.push(format!("{} acknowledged documents are lost: {missing}", chunk.len() - frames));
                }
            }
            Attempt::Refused(failure) | Attempt::Unknown(failure) => {
                violations.push(format!("documents cannot be read after all faults are healed: {failure:?}"));
            }
        }
    }
    for _ in 0..SEARCHED_AT_THE_END.min(documents.len()) {
        let at = caller.rng.random_range(0..documents.len());
        let found = search(&mut caller, &documents[at], Promise::Linearizable, history).await;
        if !matches!(found, Outcome::Ok(Answer::Found)) {
            let number = documents[at].number;
            violations.push(format!("document {number} is not found after all faults are healed: {found:?}"));
        }
    }
    violations
}

async fn search(
    caller: &mut Caller,
    document: &Document,
    promise: Promise<'_>,
    history: &History<Call, Answer>,
) -> Outcome<Answer> {
    let (consistency, token) = match promise {
        Promise::Linearizable => ("linearizable", None),
        Promise::Token(token) => ("any", Some(token)),
    };
    let body = json!({
        "collection": COLLECTION, "vector": vector(document.number), "k": 3, "exact": true, "consistency": consistency,
    });
    let process = caller.process;
    let work = async { outcome(caller.attempt("search", &body, token).await, |reply| judge(reply, document)) };
    history.record(process, Call::Search { document: document.number }, work).await
}

fn judge(reply: &Value, document: &Document) -> Answer {
    let hits = reply["hits"].as_array().expect("a search has hits");
    match hits.iter().find(|hit| hit["id"] == document.id) {
        Some(hit) if hit["content"] == content(document.number) => Answer::Found,
        Some(hit) => Answer::Wrong(hit["content"].to_string()),
        None if reply["degraded"] == true => Answer::Degraded,
        None => Answer::Missed,
    }
}

fn content(number: u64) -> String {
    format!("document {number}")
}

/// Acknowledged writes are stores.
pub fn is_write(operation: &VisibilityOperation) -> bool {
    matches!(operation.call, Call::Store { .. })
}
