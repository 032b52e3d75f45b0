//! Consistency tokens: what a client has seen, carried by the client.
//!
//! Beside the indexes it has the greatest position of a call that its client has seen ([`mira_proto::Position`]), so that what
//! the client stores next stands behind it. A write answers with the log index that holds it; a read at that index or later sees it, on whichever replica and
//! through whichever router. In bytes: one version byte (2), then in postcard a list of (shard, index) by ascending shard,
//! then [`Extensions`], which a router that does not know them gives back as it got them; as text, unpadded URL-safe base64
//! of that. It holds no secret and proves nothing: a made-up index merely makes its sender wait.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use mira_proto::extensions::Tag;
use mira_proto::{Code, Extensions, Problem, ShardId, limits};

const VERSION: u8 = 2;
/// Of a token's text: the indexes of as many shards as there may be, and a little more.
const MAX_TEXT: usize = (limits::MAX_SHARDS as usize * 15 + 4096) / 3 * 4;

/// The greatest position of a call, microseconds, 8 bytes big-endian.
const POSITION: Tag = 1;

/// For each shard the log index that a read must have applied.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ConsistencyToken {
    seen: BTreeMap<ShardId, u64>,
    /// What later releases say in it.
    extensions: Extensions,
}

/// Why a text is no token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// Not base64, cut short, or out of order.
    #[error("the consistency token is not one that MIRA gave out: send it back unchanged or leave it out")]
    Malformed,
    /// Of a later release.
    #[error("the consistency token has version {0}, this router knows version 2: leave it out")]
    UnknownVersion(u8),
}

impl ConsistencyToken {
    /// Notes that `shard` was seen at `index`.
    pub fn note(&mut self, shard: ShardId, index: u64) {
        let seen = self.seen.entry(shard).or_default();
        *seen = (*seen).max(index);
    }

    /// Notes that a frame of the call at that position was stored or seen, microseconds.
    pub fn note_position(&mut self, micros: u64) {
        if micros > self.position() {
            self.extensions.set(POSITION, micros.to_be_bytes().to_vec());
        }
    }

    /// The greatest position of a call that was seen, microseconds; 0 = none.
    pub fn position(&self) -> u64 {
        let stored = self.extensions.get(POSITION).and_then(|value| value[..].try_into().ok());
        stored.map_or(0, u64::from_be_bytes)
    }

    /// Notes all that `other` has seen.
    pub fn merge(&mut self, other: &ConsistencyToken) {
        for (&shard, &index) in &other.seen {
            self.note(shard, index);
        }
        self.extensions.merge(&other.extensions);
    }

    /// The index that a read of `shard` must have applied; 0 when it may be any.
    pub fn at_least(&self, shard: ShardId) -> u64 {
        self.seen.get(&shard).copied().unwrap_or_default()
    }
}

impl fmt::Display for ConsistencyToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seen: Vec<(ShardId, u64)> = self.seen.iter().map(|(&shard, &index)| (shard, index)).collect();
        let bytes = postcard::to_extend(&(seen, &self.extensions), vec![VERSION]).expect("plain data");
        f.write_str(&URL_SAFE_NO_PAD.encode(bytes))
    }
}

impl FromStr for ConsistencyToken {
    type Err = TokenError;

    fn from_str(text: &str) -> Result<Self, TokenError> {
        if text.len() > MAX_TEXT {
            return Err(TokenError::Malformed);
        }
        let bytes = URL_SAFE_NO_PAD.decode(text.trim()).map_err(|_| TokenError::Malformed)?;
        let (&version, rest) = bytes.split_first().ok_or(TokenError::Malformed)?;
        if version != VERSION {
            return Err(TokenError::UnknownVersion(version));
        }
        let (pairs, extensions): (Vec<(ShardId, u64)>, Extensions) =
            postcard::from_bytes(rest).map_err(|_| TokenError::Malformed)?;
        if pairs.len() > limits::MAX_SHARDS as usize || pairs.windows(2).any(|pair| pair[0].0 >= pair[1].0) {
            return Err(TokenError::Malformed);
        }
        Ok(ConsistencyToken { seen: pairs.into_iter().collect(), extensions })
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
    fn version_2_reads_as_it_was_written() {
        assert_eq!(token(&[]).to_string(), "AgAA");
        let text = "AgIDKgcBAA";
        assert_eq!(token(&[(7, 1), (3, 42)]).to_string(), text);
        assert_eq!(text.parse::<ConsistencyToken>().unwrap(), token(&[(3, 42), (7, 1)]));
    }

    #[test]
    fn what_a_later_release_says_goes_on() {
        let mut later = token(&[(1, 5)]);
        later.extensions.set(1_000, "of a later release");
        let mut read: ConsistencyToken = later.to_string().parse().unwrap();
        read.merge(&token(&[(2, 9)]));
        assert_eq!(read.extensions.get(1_000).map(|value| &value[..]), Some(&b"of a later release"[..]));
        assert_eq!((read.at_least(1), read.at_least(2)), (5, 9));
    }

    #[test]
    fn the_greatest_position_is_kept() {
        let mut seen = token(&[(1, 5)]);
        assert_eq!(seen.position(), 0);
        for micros in [300, 200, 70_000] {
            seen.note_position(micros);
        }
        seen.merge(&token(&[(2, 1)]));
        let mut other: ConsistencyToken = seen.to_string().parse().unwrap();
        assert_eq!(other.position(), 70_000);
        other.note_position(1 << 40);
        seen.merge(&other);
        assert_eq!(seen.position(), 1 << 40);
    }

    #[test]
    fn what_is_no_token_is_refused_by_kind() {
        let downwards = URL_SAFE_NO_PAD.encode([2, 2, 7, 1, 3, 42, 0]);
        for bad in ["", "?", "AgI", "AgIDKgcB", &downwards, &"A".repeat(MAX_TEXT + 1)] {
            assert_eq!(bad.parse::<ConsistencyToken>(), Err(TokenError::Malformed), "{bad}");
        }
        for version in [1, 3] {
            let text = URL_SAFE_NO_PAD.encode([version, 0, 0]);
            assert_eq!(text.parse::<ConsistencyToken>(), Err(TokenError::UnknownVersion(version)));
        }
    }

    #[test]
    fn merging_keeps_the_later_index() {
        let mut seen = token(&[(1, 5), (2, 9)]);
        seen.merge(&token(&[(1, 7), (2, 3), (4, 1)]));
        assert_eq!(seen, token(&[(1, 7), (2, 9), (4, 1)]));
        assert_eq!((seen.at_least(2), seen.at_least(3)), (9, 0));
    }
}
