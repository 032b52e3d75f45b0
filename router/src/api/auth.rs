//! Who is let in: holders of a bearer token.
//!
//! Tokens are kept and compared as hashes, in constant time and all of them for each request, so that neither a
//! token's length nor how much of it was guessed shows in the time an answer takes.

use std::sync::Arc;

use axum::http::HeaderMap;
use axum::http::header::AUTHORIZATION;
use mira_proto::{Code, Problem};
use subtle::{Choice, ConstantTimeEq};

/// The tokens that open the door; with none it stands open.
pub struct Gate {
    hashes: Vec<[u8; 32]>,
}

impl Gate {
    /// Lets the holders of these tokens in.
    pub fn new(tokens: &[String]) -> Self {
        Gate { hashes: tokens.iter().map(|token| hash(token)).collect() }
    }

    /// The caller's name, or why it has to stay outside.
    pub fn admit(&self, headers: &HeaderMap) -> Result<Arc<str>, Problem> {
        if self.hashes.is_empty() {
            return Ok("anonymous".into());
        }
        let refused = |detail: &str| Problem::new(Code::Unauthenticated, detail);
        let header = headers
            .get(AUTHORIZATION)
            .ok_or_else(|| refused("no token: send the header Authorization: Bearer TOKEN"))?;
        let token = header
            .to_str()
            .ok()
            .and_then(bearer)
            .ok_or_else(|| refused("the Authorization header is not of the form Bearer TOKEN"))?;
        let offered = hash(token);
        let known = self.hashes.iter().fold(Choice::from(0), |known, hash| known | hash.ct_eq(&offered));
        if !bool::from(known) {
            return Err(refused("the token is not one of this router's"));
        }
        // A name that tells callers apart in logs and ids, and gives nothing of the token away.
        Ok(format!("token-{}", &blake3::hash(&offered).to_hex()[..12]).into())
    }
}

fn hash(token: &str) -> [u8; 32] {
    blake3::derive_key("mira 2026 bearer token", token.as_bytes())
}

fn bearer(header: &str) -> Option<&str> {
    let (scheme, token) = header.split_once(' ')?;
    let token = token.trim();
    (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then_some(token)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn admit(gate: &Gate, header: Option<&str>) -> Result<Arc<str>, Code> {
        let mut headers = HeaderMap::new();
        if let Some(header) = header {
            headers.insert(AUTHORIZATION, header.parse().unwrap());
        }
        gate.admit(&headers).map_err(|problem| problem.code)
    }

    #[test]
    fn only_a_known_token_opens() {
        let gate = Gate::new(&["alpha".into(), "beta".into()]);
        assert!(admit(&gate, Some("Bearer alpha")).is_ok());
        assert!(admit(&gate, Some("bearer beta")).is_ok());
        let wrong =
            [None, Some("Bearer"), Some("Bearer "), Some("Bearer alph"), Some("Bearer alphaa"), Some("Basic alpha")];
        for header in wrong {
            assert_eq!(admit(&gate, header), Err(Code::Unauthenticated), "{header:?}");
        }
    }

    #[test]
    fn principals_differ_and_do_not_show_the_token() {
        let gate = Gate::new(&["alpha".into(), "beta".into()]);
        let (alpha, beta) = (admit(&gate, Some("Bearer alpha")).unwrap(), admit(&gate, Some("Bearer beta")).unwrap());
        assert_ne!(alpha, beta);
        assert!(!alpha.contains("alpha"));
        assert_eq!(&*admit(&Gate::new(&[]), None).unwrap(), "anonymous");
    }
}
