//! What things may be called.
//!
//! Two names that look alike are one name: every name is brought into Unicode's form NFC, and characters that nobody sees
//! (controls, zero width, direction marks, fillers) are refused. A collection's name also stands in paths and on command
//! lines, so it holds less: letters, digits and `_ - . : @`, in parts with a `/` between them.

use std::borrow::Cow;

use unicode_normalization::char::is_combining_mark;
use unicode_normalization::{UnicodeNormalization, is_nfc};

use crate::limits::MAX_NAME_BYTES;

/// Why something may not be called so.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Nothing, or white space.
    #[error("is empty")]
    Empty,
    /// Longer than a key may be.
    #[error("has {0} bytes, the limit is {MAX_NAME_BYTES}")]
    TooLong(usize),
    /// Nobody would see that it is there.
    #[error("has the character U+{:04X}, which cannot be seen", u32::from(*.0))]
    Unseen(char),
    /// Collections have fewer characters than other names.
    #[error("has the character {0:?}: letters, digits and _ - . : @ are allowed, and / between parts")]
    Character(char),
    /// It begins or ends with a slash, or has two in a row.
    #[error("has a / that does not stand between two parts")]
    EmptyPart,
    /// A path would lead elsewhere.
    #[error("has the part {0:?}, which means another place in a path")]
    DotPart(String),
}

/// A name as it is kept, in form NFC.
pub fn normal(name: &str) -> Cow<'_, str> {
    if is_nfc(name) { Cow::Borrowed(name) } else { Cow::Owned(name.nfc().collect()) }
}

/// The name of a session, a type, a role, a space of vectors and the like: any text that can be seen.
pub fn label(name: &str) -> Result<String, NameError> {
    // Its normal form may be longer or shorter, but not by so much.
    if name.len() > 4 * MAX_NAME_BYTES {
        return Err(NameError::TooLong(name.len()));
    }
    let name = normal(name);
    if name.trim().is_empty() {
        return Err(NameError::Empty);
    }
    if name.len() > MAX_NAME_BYTES {
        return Err(NameError::TooLong(name.len()));
    }
    match name.chars().find(|&c| is_unseen(c)) {
        Some(unseen) => Err(NameError::Unseen(unseen)),
        None => Ok(name.into_owned()),
    }
}

/// The name of a collection.
pub fn collection(name: &str) -> Result<String, NameError> {
    let name = label(name)?;
    let is_allowed = |c: char| c.is_alphanumeric() || is_combining_mark(c) || "_-.:@/".contains(c);
    if let Some(other) = name.chars().find(|&c| !is_allowed(c)) {
        return Err(NameError::Character(other));
    }
    match name.split('/').find(|part| ["", ".", ".."].contains(part)) {
        Some("") => Err(NameError::EmptyPart),
        Some(part) => Err(NameError::DotPart(part.to_owned())),
        None => Ok(name),
    }
}

/// Controls, breaks of lines, spaces other than the usual one, and what Unicode says to leave out where it is not known
/// (Default_Ignorable_Code_Point): marks of direction, zero width, fillers, selectors of variants, tags.
fn is_unseen(c: char) -> bool {
    c.is_control()
        || c.is_whitespace() && c != ' '
        || matches!(
            c,
            '\u{ad}'
                | '\u{34f}'
                | '\u{61c}'
                | '\u{115f}'..='\u{1160}'
                | '\u{17b4}'..='\u{17b5}'
                | '\u{180b}'..='\u{180f}'
                | '\u{200b}'..='\u{200f}'
                | '\u{202a}'..='\u{202e}'
                | '\u{2060}'..='\u{206f}'
                | '\u{2800}'
                | '\u{3164}'
                | '\u{fe00}'..='\u{fe0f}'
                | '\u{feff}'
                | '\u{ffa0}'
                | '\u{fff0}'..='\u{fffb}'
                | '\u{1bca0}'..='\u{1bca3}'
                | '\u{1d173}'..='\u{1d17a}'
                | '\u{e0000}'..='\u{e0fff}'
        )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_look_alike_are_one_name() {
        for name in ["caf\u{e9}", "cafe\u{301}"] {
            assert_eq!(collection(name).as_deref(), Ok("caf\u{e9}"));
            assert_eq!(label(name).as_deref(), Ok("caf\u{e9}"));
        }
        assert_eq!(label("ﬁle").as_deref(), Ok("ﬁle"), "what looks different stays different");
    }

    #[test]
    fn a_collection_is_named_by_letters_digits_and_a_few_signs() {
        for good in ["notes", "a/b/c", "Über-uns_2", "user:7@host", "v1.2", "...", "हिन्दी", "日本/語", &"n".repeat(256)]
        {
            assert_eq!(collection(good).as_deref(), Ok(good));
        }
        let dot = |part: &str| NameError::DotPart(part.to_owned());
        let table = [
            ("", NameError::Empty),
            ("  ", NameError::Empty),
            (".", dot(".")),
            ("..", dot("..")),
            ("a/../b", dot("..")),
            ("a/.", dot(".")),
            ("/a", NameError::EmptyPart),
            ("a/", NameError::EmptyPart),
            ("a//b", NameError::EmptyPart),
            ("/", NameError::EmptyPart),
            ("my notes", NameError::Character(' ')),
            ("a\\b", NameError::Character('\\')),
            ("a?b", NameError::Character('?')),
            ("a%2Fb", NameError::Character('%')),
            ("tea🍵", NameError::Character('🍵')),
            ("a\u{202e}b", NameError::Unseen('\u{202e}')),
            ("a\u{200b}b", NameError::Unseen('\u{200b}')),
            ("a\nb", NameError::Unseen('\n')),
        ];
        for (bad, error) in table {
            assert_eq!(collection(bad), Err(error), "{bad:?}");
        }
        assert_eq!(collection(&"n".repeat(257)), Err(NameError::TooLong(257)));
        assert_eq!(collection(&"é".repeat(129)), Err(NameError::TooLong(258)), "bytes count, of the normal form");
        assert_eq!(collection(&"e\u{301}".repeat(128)).map(|name| name.len()), Ok(256));
    }

    #[test]
    fn other_names_may_be_any_text_that_can_be_seen() {
        for good in ["Monday's talk, part 2/3", ".", "tea 🍵", "a\\b"] {
            assert_eq!(label(good).as_deref(), Ok(good));
        }
        let unseen = [
            '\0',
            '\t',
            '\u{7f}',
            '\u{85}',
            '\u{a0}',
            '\u{ad}',
            '\u{61c}',
            '\u{1160}',
            '\u{200d}',
            '\u{200e}',
            '\u{2028}',
            '\u{2066}',
            '\u{2800}',
            '\u{3164}',
            '\u{fe0f}',
            '\u{feff}',
            '\u{e0041}',
        ];
        for c in unseen {
            assert_eq!(label(&format!("a{c}b")), Err(NameError::Unseen(c)), "U+{:04X}", u32::from(c));
        }
        assert_eq!(NameError::Unseen('\u{202e}').to_string(), "has the character U+202E, which cannot be seen");
    }
}
