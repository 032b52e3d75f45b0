//! Who is let in: holders of a bearer token, each of a named principal.
//!
//! Tokens are kept and compared as hashes, in constant time and all of them for each request, so that neither a
//! token's length nor how much of it was guessed nor whose it is shows in the time an answer takes.

use std::sync::Arc;

use axum::http::HeaderMap;
use axum::http::header::AUTHORIZATION;
use mira_proto::{Code, Problem};
use parking_lot::RwLock;
use subtle::{ConditionallySelectable, ConstantTimeEq};

use crate::AccessToken;

/// The principal of everybody where no token is asked for.
const ANONYMOUS: &str = "anonymous";

/// The tokens that open the door; with none it stands open. They may be replaced while requests come.
pub struct Gate(RwLock<Arc<Known>>);

/// Tokens that are let in.
struct Known {
    hashes: Vec<[u8; 32]>,
    /// Whose each of them is.
    principals: Vec<Arc<str>>,
}

impl Known {
    fn new(tokens: &[AccessToken]) -> Arc<Self> {
        Arc::new(Known {
            hashes: tokens.iter().map(|token| hash(&token.token)).collect(),
            principals: tokens.iter().map(|token| token.principal.clone()).collect(),
        })
    }
}

impl Gate {
    /// Lets the holders of these tokens in.
    pub fn new(tokens: &[AccessToken]) -> Self {
        Gate(RwLock::new(Known::new(tokens)))
    }

    /// Lets the holders of these tokens in from now on, and nobody else.
    pub fn replace(&self, tokens: &[AccessToken]) {
        *self.0.write() = Known::new(tokens);
    }

    /// The caller's name, or why it has to stay outside.
    pub fn admit(&self, headers: &HeaderMap) -> Result<Arc<str>, Problem> {
        let known = self.0.read().clone();
        if known.hashes.is_empty() {
            return Ok(ANONYMOUS.into());
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
        // One more than there are stands for none.
        let mut found = known.hashes.len() as u32;
        for (at, hash) in known.hashes.iter().enumerate() {
            found.conditional_assign(&(at as u32), hash.ct_eq(&offered));
        }
        let principal = known.principals.get(found as usize);
        principal.cloned().ok_or_else(|| refused("the token is not one of this router's"))
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
    fn a_caller_is_whom_its_token_names_and_a_principal_may_have_several_tokens() {
        let tokens = [("ada", "alpha"), ("bob", "beta"), ("ada", "gamma")];
        let gate = Gate::new(&tokens.map(|(principal, token)| AccessToken::new(principal, token)));
        for (principal, token) in tokens {
            assert_eq!(&*admit(&gate, Some(&format!("Bearer {token}"))).unwrap(), principal, "{token}");
        }
        assert_eq!(&*admit(&Gate::new(&["alone".into()]), Some("Bearer alone")).unwrap(), crate::DEFAULT_PRINCIPAL);
        assert_eq!(&*admit(&Gate::new(&[]), None).unwrap(), "anonymous");
    }
}
