//! Challenges: what a joiner's proof is made over, so that a proof that somebody has kept proves nothing.
//!
//! A challenge says when it was given out and that it was given out here; nothing is remembered of it until it is answered.
//! It is good for half a minute, for one answer.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// How long a challenge is good for: a joiner answers at once.
const LIFE: Duration = Duration::from_secs(30);
/// Milliseconds since the node's start, random bytes, and a keyed hash of both.
const BYTES: usize = 8 + 16 + 32;

/// Gives out challenges, and knows them again.
pub struct Challenges {
    secret: [u8; 32],
    started: Instant,
    /// Those that were answered, by when they were given out.
    answered: Mutex<BTreeMap<[u8; BYTES], Duration>>,
}

impl Default for Challenges {
    fn default() -> Self {
        Challenges { secret: rand::random(), started: Instant::now(), answered: Mutex::default() }
    }
}

impl Challenges {
    /// One more.
    pub fn new_challenge(&self) -> Vec<u8> {
        self.made_at(self.started.elapsed())
    }

    fn made_at(&self, age: Duration) -> Vec<u8> {
        let mut challenge = Vec::with_capacity(BYTES);
        challenge.extend((age.as_millis() as u64).to_be_bytes());
        challenge.extend(rand::random::<[u8; 16]>());
        challenge.extend(blake3::keyed_hash(&self.secret, &challenge).as_bytes());
        challenge
    }

    /// Whether a challenge was given out here, lately, and is answered for the first time; it is answered then.
    pub fn take(&self, challenge: &[u8]) -> bool {
        self.taken_at(challenge, self.started.elapsed())
    }

    fn taken_at(&self, challenge: &[u8], now: Duration) -> bool {
        let Ok(challenge) = <[u8; BYTES]>::try_from(challenge) else { return false };
        let (said, hash) = challenge.split_at(BYTES - 32);
        // Compared in constant time.
        let expected = blake3::keyed_hash(&self.secret, said);
        if expected != blake3::Hash::from_bytes(hash.try_into().expect("32 bytes")) {
            return false;
        }
        let made = Duration::from_millis(u64::from_be_bytes(said[..8].try_into().expect("eight bytes")));
        if now.saturating_sub(made) > LIFE {
            return false;
        }
        let mut answered = self.answered.lock();
        answered.retain(|_, made| now.saturating_sub(*made) <= LIFE);
        answered.insert(challenge, made).is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_challenge_is_good_once_for_a_while_and_where_it_was_given_out() {
        let (here, there) = (Challenges::default(), Challenges::default());
        let challenge = here.new_challenge();
        assert!(!there.take(&challenge), "of another node, or of this one before its last start");
        assert!(here.take(&challenge));
        assert!(!here.take(&challenge), "answered already");
        let now = here.started.elapsed();
        let old = here.made_at(now);
        assert!(!here.taken_at(&old, now + LIFE + Duration::from_millis(2)));
        let mut forged = here.new_challenge();
        forged[0] ^= 1;
        assert!(!here.take(&forged) && !here.take(b"") && !here.take(&[0; BYTES]));
    }
}
