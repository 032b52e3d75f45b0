//! Access tokens, each of a named principal, as a file of them says.
//!
//! A line is `NAME TOKEN`. Owners of private memories and `Idempotency-Key`s belong to the name, so that a token may be
//! replaced: while it is, both stand in the file under one name. A line of a token alone belongs to
//! [`DEFAULT_PRINCIPAL`]. Errors name lines and never repeat what stands there: it may be a token.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use mira_proto::{limits, names};
use zeroize::Zeroizing;

/// The principal of a token that stands alone.
pub const DEFAULT_PRINCIPAL: &str = "default";

/// A token that is let in, and whose it is. Prints no token.
#[derive(Clone)]
pub struct AccessToken {
    /// Who its holder is: a name that is safe to log.
    pub(crate) principal: Arc<str>,
    /// The token.
    pub(crate) token: Zeroizing<String>,
}

/// What is wrong with a file of tokens.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TokenFileError {
    /// Neither form of a line.
    #[error("line {line} has {words} words: it takes a token, or a name and a token")]
    Words {
        /// The line, from 1.
        line: usize,
        /// Words on it.
        words: usize,
    },
    /// The name is none.
    #[error(
        "line {line}: the name before the token breaks the rule of names: letters, digits and _ - . : @, with / between \
         parts, {} bytes at most",
        limits::MAX_NAME_BYTES
    )]
    Name {
        /// The line, from 1.
        line: usize,
    },
    /// Short enough to be guessed, or a name in the place of the token.
    #[error(
        "line {line}: the token has {bytes} bytes, allowed are {} to {}: a line is NAME TOKEN",
        limits::MIN_ACCESS_TOKEN_BYTES,
        limits::MAX_ACCESS_TOKEN_BYTES
    )]
    Length {
        /// The line, from 1.
        line: usize,
        /// Bytes of the token.
        bytes: usize,
    },
    /// No header could carry it.
    #[error("line {line}: the token has a character other than visible ASCII, which no header carries")]
    Character {
        /// The line, from 1.
        line: usize,
    },
    /// Whose it is would be a matter of chance.
    #[error("lines {first} and {line} have the same token: give each line another")]
    Repeated {
        /// The line that has it first.
        first: usize,
        /// The line that has it again.
        line: usize,
    },
    /// Each is compared for each request.
    #[error("there are {count} tokens, the limit is {}", limits::MAX_ACCESS_TOKENS)]
    TooMany {
        /// How many there are.
        count: usize,
    },
}

impl AccessToken {
    /// A principal's token, neither checked.
    pub fn new(principal: &str, token: &str) -> Self {
        AccessToken { principal: principal.into(), token: Zeroizing::new(token.to_owned()) }
    }

    /// Reads the tokens of a file; lines of white space count for nothing.
    pub fn parse_all(text: &str) -> Result<Vec<Self>, TokenFileError> {
        let mut tokens = Vec::new();
        let mut first_lines: HashMap<&str, usize> = HashMap::new();
        for (line, text) in text.lines().enumerate().map(|(at, text)| (at + 1, text)) {
            let words: Vec<&str> = text.split_whitespace().collect();
            let (name, token) = match words[..] {
                [] => continue,
                [token] => (DEFAULT_PRINCIPAL.to_owned(), token),
                [name, token] => (names::collection(name).map_err(|_| TokenFileError::Name { line })?, token),
                _ => return Err(TokenFileError::Words { line, words: words.len() }),
            };
            let allowed = limits::MIN_ACCESS_TOKEN_BYTES..=limits::MAX_ACCESS_TOKEN_BYTES;
            if !allowed.contains(&token.len()) {
                return Err(TokenFileError::Length { line, bytes: token.len() });
            }
            if !token.bytes().all(|byte| byte.is_ascii_graphic()) {
                return Err(TokenFileError::Character { line });
            }
            if let Some(first) = first_lines.insert(token, line) {
                return Err(TokenFileError::Repeated { first, line });
            }
            tokens.push(AccessToken::new(&name, token));
        }
        if tokens.len() > limits::MAX_ACCESS_TOKENS {
            return Err(TokenFileError::TooMany { count: tokens.len() });
        }
        Ok(tokens)
    }
}

/// A token alone, of [`DEFAULT_PRINCIPAL`].
impl From<&str> for AccessToken {
    fn from(token: &str) -> Self {
        AccessToken::new(DEFAULT_PRINCIPAL, token)
    }
}

impl fmt::Debug for AccessToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AccessToken").field("principal", &self.principal).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIRST: &str = "mira_first-token-0";
    const SECOND: &str = "mira_second-token-1";

    #[test]
    fn a_line_is_a_name_and_a_token_or_a_token_alone() {
        let text = format!("ada {FIRST}\r\n\n  ada\t{SECOND}  \nmira_a-token-alone\ncafe\u{301}/x mira_third-token-2");
        let tokens = AccessToken::parse_all(&text).unwrap();
        let read: Vec<(&str, &str)> = tokens.iter().map(|token| (&*token.principal, token.token.as_str())).collect();
        let expected = [
            ("ada", FIRST),
            ("ada", SECOND),
            (DEFAULT_PRINCIPAL, "mira_a-token-alone"),
            ("caf\u{e9}/x", "mira_third-token-2"),
        ];
        assert_eq!(read, expected);
        assert!(AccessToken::parse_all("\n \n").unwrap().is_empty());
    }

    #[test]
    fn what_is_wrong_is_said_by_line_and_shows_no_token() {
        let long = "t".repeat(limits::MAX_ACCESS_TOKEN_BYTES + 1);
        let table = [
            (format!("ada {FIRST}\nada {SECOND} x"), TokenFileError::Words { line: 2, words: 3 }),
            (format!("a,b {FIRST}"), TokenFileError::Name { line: 1 }),
            (format!("../x {FIRST}"), TokenFileError::Name { line: 1 }),
            (format!("a\u{200b} {FIRST}"), TokenFileError::Name { line: 1 }),
            // The wrong way round: the name would be a token, and be logged.
            (format!("{FIRST} ada"), TokenFileError::Length { line: 1, bytes: 3 }),
            (format!("\nada {long}"), TokenFileError::Length { line: 2, bytes: long.len() }),
            (format!("ada {FIRST}\u{e9}"), TokenFileError::Character { line: 1 }),
            (format!("ada {FIRST}\n\nbob {FIRST}"), TokenFileError::Repeated { first: 1, line: 3 }),
            (format!("ada {FIRST}\nada {FIRST}"), TokenFileError::Repeated { first: 1, line: 2 }),
        ];
        for (text, expected) in table {
            let error = AccessToken::parse_all(&text).unwrap_err();
            assert_eq!(error, expected, "{text:?}");
            assert!(!error.to_string().contains("mira_"), "{error}");
        }
        let many: String =
            (0..=limits::MAX_ACCESS_TOKENS).map(|number| format!("token-number-{number:08}\n")).collect();
        let error = AccessToken::parse_all(&many).unwrap_err();
        assert_eq!(error, TokenFileError::TooMany { count: limits::MAX_ACCESS_TOKENS + 1 });
        assert!(!format!("{:?}", AccessToken::new("ada", FIRST)).contains(FIRST));
    }
}
