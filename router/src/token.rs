//! Consistency tokens: what a client has seen, carried by the client.
//!
//! A write answers with the log index that holds it; a read at that index or later sees it, on whichever replica and
//! through whichever router. The token is a list of (shard, index). In bytes: one version byte (1), then for each shard
//! in ascending order its number (u32) and index (u64), big-endian; as text, unpadded URL-safe base64 of that. It holds
//! no secret and proves nothing: a made-up index merely makes its sender wait.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use mira_proto::{Code, Problem, ShardId, limits};

const VERSION: u8 = 1;
const PAIR_BYTES: usize = 4 + 8;

/// For each shard the log index that a read must have applied.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ConsistencyToken {
    seen: BTreeMap<ShardId, u64>,
}

/// Why a text is no token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// Not base64, cut short, or out of order.
    #[error("the consistency token is not one that MIRA gave out: send it back unchanged or leave it out")]
    Malformed,
    /// Of a later release.
    #[error("the consistency token has version {0}, this router knows version 1: leave it out")]
    UnknownVersion(u8),
}

impl ConsistencyToken {
    /// Notes that `shard` was seen at `index`.
    pub fn note(&mut self, shard: ShardId, index: u64) {
        let seen = self.seen.entry(shard).or_default();
        *seen = (*seen).max(index);
    }

    /// Notes all that `other` has seen.
    pub fn merge(&mut self, other: &ConsistencyToken) {
        for (&shard, &index) in &other.seen {
            self.note(shard, index);
        }
    }

    /// The index that a read of `shard` must have applied; 0 when it may be any.
    pub fn at_least(&self, shard: ShardId) -> u64 {
        self.seen.get(&shard).copied().unwrap_or_default()
    }
}

impl fmt::Display for ConsistencyToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut bytes = Vec::with_capacity(1 + self.seen.len() * PAIR_BYTES);
        bytes.push(VERSION);
        for (shard, index) in &self.seen {
            bytes.extend(shard.to_be_bytes());
            bytes.extend(index.to_be_bytes());
        }
        f.write_str(&URL_SAFE_NO_PAD.encode(bytes))
    }
}

impl FromStr for ConsistencyToken {
    type Err = TokenError;

    fn from_str(text: &str) -> Result<Self, TokenError> {
        let bytes = URL_SAFE_NO_PAD.decode(text.trim()).map_err(|_| TokenError::Malformed)?;
        let (&version, pairs) = bytes.split_first().ok_or(TokenError::Malformed)?;
        if version != VERSION {
            return Err(TokenError::UnknownVersion(version));
        }
        if pairs.len() % PAIR_BYTES != 0 || pairs.len() / PAIR_BYTES > limits::MAX_SHARDS as usize {
            return Err(TokenError::Malformed);
        }
        let mut seen = BTreeMap::new();
        for pair in pairs.chunks_exact(PAIR_BYTES) {
            let (shard, index) = pair.split_at(4);
            let shard = ShardId::from_be_bytes(shard.try_into().expect("four bytes"));
            let index = u64::from_be_bytes(index.try_into().expect("eight bytes"));
            if seen.last_key_value().is_some_and(|(&last, _)| last >= shard) {
                return Err(TokenError::Malformed);
            }
            seen.insert(shard, index);
        }
        Ok(ConsistencyToken { seen })
    }
}

impl From<TokenError> for Problem {
    fn from(error: TokenError) -> Self {
        let code = match error {
            TokenError::Malformed => Code::InvalidArgument,
            TokenError::UnknownVersion(_) => Code::UnsupportedVersion,
        };
        Problem::new(code, error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(pairs: &[(ShardId, u64)]) -> ConsistencyToken {
        let mut token = ConsistencyToken::default();
        for &(shard, index) in pairs {
            token.note(shard, index);
        }
        token
    }

    #[test]
    fn version_1_reads_as_it_was_written() {
        assert_eq!(token(&[]).to_string(), "AQ");
        let text = "AQAAAAMAAAAAAAAAKgAAAAcAAAAAAAAAAQ";
        assert_eq!(token(&[(7, 1), (3, 42)]).to_string(), text);
        assert_eq!(text.parse::<ConsistencyToken>().unwrap(), token(&[(3, 42), (7, 1)]));
    }

    #[test]
    fn what_is_no_token_is_refused_by_kind() {
        for bad in ["", "?", "AQAA", "AQAAAAcAAAAAAAAAAQAAAAMAAAAAAAAAKg"] {
            assert_eq!(bad.parse::<ConsistencyToken>(), Err(TokenError::Malformed), "{bad}");
        }
        assert_eq!("Ag".parse::<ConsistencyToken>(), Err(TokenError::UnknownVersion(2)));
    }

    #[test]
    fn merging_keeps_the_later_index() {
        let mut seen = token(&[(1, 5), (2, 9)]);
        seen.merge(&token(&[(1, 7), (2, 3), (4, 1)]));
        assert_eq!(seen, token(&[(1, 7), (2, 9), (4, 1)]));
        assert_eq!((seen.at_least(2), seen.at_least(3)), (9, 0));
    }
}
