//! Callers at work: what they ask, and what they note of the answers.
//!
//! - [`register`]: frames that are replaced, compared-and-set and read;
//! - [`set`]: frames added to sessions that are read whole;
//! - [`visibility`]: documents stored and searched for.
//!
//! Each caller is a process that does one thing after the other, through the router it prefers and through another when
//! that one fails. None tries anything twice: a retry would hide what the first try did.

pub mod register;
pub mod set;
pub mod visibility;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use rand::{Rng, SeedableRng, rngs::StdRng};
use serde_json::{Value, json};

use crate::{
    client::{Attempt, Client, Failure, Try},
    history::Outcome,
};

/// What a caller gives a router for one request: longer than an election, short enough that callers are not all stuck
/// in one shard for the whole of a fault.
const TIMEOUT: Duration = Duration::from_secs(4);
/// A caller rests this long at most between two requests: the machine has other work.
const REST_MS: u64 = 40;
/// How long a last reader, after all faults, tries to get its answer.
const LAST_PATIENCE: Duration = Duration::from_secs(60);
/// Components of all vectors.
pub const DIM: usize = 8;

/// One process that calls.
pub struct Caller {
    /// Its number in the history.
    pub process: u32,
    /// What it decides by.
    pub rng: StdRng,
    client: Client,
    router: usize,
    stop: Arc<AtomicBool>,
}

impl Caller {
    /// The process `process` of a round.
    pub fn new(process: u32, seed: u64, client: Client, stop: Arc<AtomicBool>) -> Caller {
        let rng = StdRng::seed_from_u64(seed.wrapping_mul(1_000).wrapping_add(u64::from(process)));
        Caller { process, rng, client, router: process as usize, stop }
    }

    /// Rests a little; `false` when the round is over.
    pub async fn rest(&mut self) -> bool {
        tokio::time::sleep(Duration::from_millis(self.rng.random_range(0..REST_MS))).await;
        !self.stop.load(Ordering::Relaxed)
    }

    /// Tries once.
    pub async fn attempt(&mut self, tool: &str, body: &Value, token: Option<&str>) -> Attempt {
        let how = Try { router: self.router, timeout: TIMEOUT, token };
        let attempt = self.client.attempt(tool, body, how).await;
        if let Attempt::Refused(Failure { status: 0, .. }) | Attempt::Unknown(Failure { status: 0, .. }) = attempt {
            self.router += 1;
        }
        attempt
    }

    /// Reads until there is an answer, after all faults. Reads only: a write must not be repeated here.
    pub async fn insist(&mut self, tool: &str, body: &Value) -> Attempt {
        let started = Instant::now();
        loop {
            let attempt = self.attempt(tool, body, None).await;
            let settled = match &attempt {
                Attempt::Done(_) => true,
                Attempt::Refused(failure) => (400..500).contains(&failure.status),
                Attempt::Unknown(_) => false,
            };
            if settled || started.elapsed() > LAST_PATIENCE {
                return attempt;
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }
}

/// The workloads' collections.
const COLLECTIONS: [&str; 3] = [register::COLLECTION, set::COLLECTION, visibility::COLLECTION];
/// Between two looks at a growth.
const LOOK: Duration = Duration::from_millis(200);

/// Makes the workloads' collections, over half of the shards: they are to grow.
pub async fn prepare(client: &Client, shards: u32) {
    for name in COLLECTIONS {
        let settings = json!({ "dim": DIM, "partitions": (shards / 2).max(1) });
        client.put_collection(name, &settings).await.unwrap_or_else(|failure| panic!("collection {name}: {failure:?}"));
    }
}

/// Grows each of the workloads' collections over all shards, one after the other from some time on, in the midst of
/// whatever happens; returns when every one has grown, and how long that took.
pub async fn grow(client: Client, shards: u32, after: Duration) -> Duration {
    tokio::time::sleep(after).await;
    let began = Instant::now();
    for name in COLLECTIONS {
        loop {
            match client.collection(name).await {
                Ok(found) if found["partitions"] == shards && found["growth"]["step"] != "clearing" => break,
                // Whether it grows already is asked again: an answer may have been lost.
                Ok(found) if found["growth"].is_null() => drop(client.grow(name, shards).await),
                _ => {}
            }
            tokio::time::sleep(LOOK).await;
        }
    }
    began.elapsed()
}

/// The outcome of an attempt, with what its answer says.
fn outcome<A>(attempt: Attempt, answer: impl FnOnce(&Value) -> A) -> (Outcome<A>, Option<u32>) {
    match attempt {
        Attempt::Done(reply) => (Outcome::Ok(answer(&reply)), shard_of(&reply)),
        Attempt::Refused(failure) => (Outcome::Refused(reason(&failure)), None),
        Attempt::Unknown(failure) => (Outcome::Unknown(reason(&failure)), None),
    }
}

fn reason(failure: &Failure) -> String {
    match failure.code() {
        "" => failure.problem["detail"].as_str().unwrap_or("no reason").to_owned(),
        code => code.to_owned(),
    }
}

/// The first shard of a consistency token: after the version byte its number, big-endian.
fn shard_of(reply: &Value) -> Option<u32> {
    let token = URL_SAFE_NO_PAD.decode(reply["consistency_token"].as_str()?).ok()?;
    Some(u32::from_be_bytes(token.get(1..5)?.try_into().ok()?))
}

/// A vector that belongs to a number alone.
fn vector(number: u64) -> Vec<f32> {
    let mut rng = StdRng::seed_from_u64(number);
    (0..DIM).map(|_| rng.random_range(-1.0..1.0)).collect()
}

/// A frame's id that belongs to a number alone.
fn frame_id(seed: u64, number: u32) -> uuid::Uuid {
    uuid::Builder::from_custom_bytes(((u128::from(seed) << 64) | u128::from(number)).to_be_bytes()).into_uuid()
}
