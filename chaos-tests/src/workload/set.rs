//! Sessions to which everybody adds, and which everybody reads whole.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use base64::{Engine, engine::general_purpose::STANDARD};
use rand::Rng;
use serde_json::{Value, json};

use crate::{
    checker::set::{Answer, Call, SetOperation},
    client::Attempt,
    history::{History, Outcome},
};

use super::{Caller, outcome};

/// Where the sets are.
pub const COLLECTION: &str = "sets";
/// Elements of one set; a recall gives at most 1,000.
const SET_SIZE: u64 = 400;
const RECALL_LIMIT: u32 = 1_000;

/// Calls until the round is over. `elements` counts what was added by anybody.
pub async fn run(mut caller: Caller, elements: Arc<AtomicU64>, history: History<Call, Answer>) {
    while caller.rest().await {
        if caller.rng.random_bool(0.6) {
            let element = elements.fetch_add(1, Ordering::Relaxed);
            let set = (element / SET_SIZE) as u32;
            let body = json!({
                "collection": COLLECTION, "session": session(set), "bytes": STANDARD.encode(element.to_string()),
            });
            let process = caller.process;
            let work = async { outcome(caller.attempt("store", &body, None).await, |_| Vec::new()) };
            history.record(process, Call::Add { set, element }, work).await;
        } else {
            let newest = (elements.load(Ordering::Relaxed) / SET_SIZE) as u32;
            let set = newest.saturating_sub(caller.rng.random_range(0..2));
            let process = caller.process;
            let work = async { all_of(caller.attempt("recall", &whole(set), None).await) };
            history.record(process, Call::ReadAll { set }, work).await;
        }
    }
}

/// Reads every set once more when all faults are healed; returns those that cannot be read.
pub async fn read_all(mut caller: Caller, elements: u64, history: History<Call, Answer>) -> Vec<String> {
    let mut unread = Vec::new();
    for set in 0..=(elements / SET_SIZE) as u32 {
        let process = caller.process;
        let work = async { all_of(caller.insist("recall", &whole(set)).await) };
        let read = history.record(process, Call::ReadAll { set }, work).await;
        if let Outcome::Refused(why) | Outcome::Unknown(why) = read {
            unread.push(format!("set {set} cannot be read after all faults are healed: {why}"));
        }
    }
    unread
}

fn session(set: u32) -> String {
    format!("set {set}")
}

fn whole(set: u32) -> Value {
    json!({ "collection": COLLECTION, "session": session(set), "limit": RECALL_LIMIT })
}

fn all_of(attempt: Attempt) -> (Outcome<Answer>, Option<u32>) {
    outcome(attempt, |reply| {
        let frames = reply["frames"].as_array().expect("a recall has frames");
        frames.iter().map(element_of).collect()
    })
}

fn element_of(frame: &Value) -> u64 {
    let bytes = STANDARD.decode(frame["bytes"].as_str().expect("an element has bytes")).expect("base64");
    String::from_utf8(bytes).expect("an element is a number").parse().expect("an element is a number")
}

/// Acknowledged writes are additions.
pub fn is_write(operation: &SetOperation) -> bool {
    matches!(operation.call, Call::Add { .. })
}
