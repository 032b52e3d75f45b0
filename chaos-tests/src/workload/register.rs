//! A few frames that everybody replaces, compares-and-sets and reads.

use serde_json::json;

use crate::{
    checker::register::{Action, Answer, Call, RegisterOperation},
    client::Attempt,
    history::{History, Outcome},
};

use super::{Caller, frame_id, outcome, vector};

/// Where the registers are.
pub const COLLECTION: &str = "registers";
/// Few, so that callers meet; more than shards, so that every shard has some.
pub const KEYS: u32 = 8;

/// Calls until the round is over.
pub async fn run(mut caller: Caller, seed: u64, history: History<Call, Answer>) {
    let mut last_seen = [0; KEYS as usize];
    let mut count: u64 = 0;
    while caller.rest().await {
        let key = rand::Rng::random_range(&mut caller.rng, 0..KEYS);
        count += 1;
        let value = (u64::from(caller.process) << 32) | count;
        let expected = last_seen[key as usize];
        let action = match rand::Rng::random_range(&mut caller.rng, 0..10) {
            0..4 => Action::Read,
            4..7 => Action::Write { value },
            _ => Action::CompareAndSet { expected, value },
        };
        match call(&mut caller, seed, Call { key, action }, &history).await {
            Outcome::Ok(Answer::Written(version) | Answer::Value { version, .. }) => last_seen[key as usize] = version,
            // What is current now, a read will tell.
            Outcome::Ok(Answer::Conflict) | Outcome::Refused(_) | Outcome::Unknown(_) => {}
        }
    }
}

/// Reads every register once more when all faults are healed; returns the keys that cannot be read.
pub async fn read_all(mut caller: Caller, seed: u64, history: History<Call, Answer>) -> Vec<String> {
    let mut unread = Vec::new();
    for key in 0..KEYS {
        let body = json!({ "collection": COLLECTION, "id": frame_id(seed, key) });
        let process = caller.process;
        let work = async { read(caller.insist("recall", &body).await) };
        let read = history.record(process, Call { key, action: Action::Read }, work).await;
        if let Outcome::Refused(why) | Outcome::Unknown(why) = read {
            unread.push(format!("register {key} cannot be read after all faults are healed: {why}"));
        }
    }
    unread
}

async fn call(caller: &mut Caller, seed: u64, call: Call, history: &History<Call, Answer>) -> Outcome<Answer> {
    let id = frame_id(seed, call.key);
    let stored = |value: u64| json!({ "collection": COLLECTION, "id": id, "content": value.to_string(), "vector": vector(value) });
    let process = caller.process;
    let work = async {
        match call.action {
            Action::Read => {
                let body = json!({ "collection": COLLECTION, "id": id });
                read(caller.attempt("recall", &body, None).await)
            }
            Action::Write { value } => {
                let mut body = stored(value);
                body["replace"] = json!(true);
                outcome(caller.attempt("store", &body, None).await, written)
            }
            Action::CompareAndSet { expected, value } => {
                let mut body = stored(value);
                body["expected_version"] = json!(expected);
                match caller.attempt("store", &body, None).await {
                    Attempt::Refused(failure) if failure.code() == "conflict" => (Outcome::Ok(Answer::Conflict), None),
                    other => outcome(other, written),
                }
            }
        }
    };
    history.record(process, call, work).await
}

fn written(reply: &serde_json::Value) -> Answer {
    Answer::Written(reply["version"].as_u64().expect("a stored frame has a version"))
}

fn read(attempt: Attempt) -> (Outcome<Answer>, Option<u32>) {
    match attempt {
        Attempt::Refused(failure) if failure.code() == "not_found" => {
            (Outcome::Ok(Answer::Value { version: 0, value: 0 }), None)
        }
        other => outcome(other, |reply| {
            let frame = &reply["frames"][0];
            let value = frame["content"].as_str().and_then(|content| content.parse().ok());
            let version = frame["version"].as_u64();
            Answer::Value {
                version: version.expect("a frame has a version"),
                value: value.expect("a register holds a number"),
            }
        }),
    }
}

/// Acknowledged writes are those with an answer.
pub fn is_write(operation: &RegisterOperation) -> bool {
    operation.call.action != Action::Read
}
