//! What is wrong with a JSON text that a caller sent, in words of our own that name the field.
//!
//! A parser says what it met in its own terms and where in bytes; a caller thinks in fields. So the message is put into plain
//! words, and the field is found by walking the text to the place that the parser names. Messages that our own readers make
//! are passed on as they are.

use serde_json::Error;
use serde_json::error::Category;

/// Characters of what was met that are said, at most.
const MAX_ECHO: usize = 80;

/// What is wrong with a text that was not read.
pub fn fault(text: &str, error: &Error) -> String {
    let said = error.to_string();
    let said = said.rsplit_once(" at line ").map_or(&*said, |(said, _)| said);
    let path = path_at(text, offset(text, error));
    match error.classify() {
        Category::Data => of_data(said, &path),
        Category::Syntax | Category::Eof => {
            let within = if path.is_empty() { String::new() } else { format!(", in {path}") };
            format!("{} (line {}, column {}{within})", of_syntax(said), error.line(), error.column())
        }
        Category::Io => said.to_owned(),
    }
}

fn of_syntax(said: &str) -> &'static str {
    let is = |word| said.contains(word);
    match () {
        () if is("EOF") => "the JSON ends early",
        () if is("surrogate") || is("escape") => "an escape in a text stands for no character",
        () if is("control character") => "a control character in a text is not escaped",
        () if is("number out of range") => "a number is out of range",
        () if is("recursion limit") => "the JSON is nested too deeply",
        () if is("trailing characters") => "something follows the JSON value",
        () => "this is no JSON",
    }
}

fn of_data(said: &str, path: &str) -> String {
    let name = if path.is_empty() { "it" } else { path };
    let begins = |word: &str| said.strip_prefix(word);
    if let Some((met, wanted)) = begins("invalid length ").and_then(|rest| rest.split_once(", expected ")) {
        return match wanted.starts_with("struct ") {
            true => format!("{name} must be an object, not a list"),
            false => format!("{name} must have {wanted}, not {met}"),
        };
    }
    let mismatch = begins("invalid type: ").or_else(|| begins("invalid value: "));
    if let Some((met, wanted)) = mismatch.and_then(|rest| rest.rsplit_once(", expected ")) {
        return format!("{name} must be {}, not {}", wanted_kind(wanted), met_kind(met));
    }
    if let Some(field) = begins("missing field ") {
        let within = if path.is_empty() { String::new() } else { format!(" of {path}") };
        return format!("the field {field}{within} is missing");
    }
    if said.starts_with("UUID parsing failed") {
        return format!("{name} is not a UUID");
    }
    if said.starts_with("data did not match any variant") {
        return format!("{name} has none of the forms that it may have");
    }
    said.to_owned()
}

fn wanted_kind(wanted: &str) -> String {
    let kind = match wanted {
        "a map" | "an object" => "an object",
        "a sequence" => "a list",
        "a string" | "a borrowed string" | "string or map" => "a text",
        "a boolean" => "true or false",
        "f32" | "f64" => "a number",
        "u8" | "u16" | "u32" | "u64" | "usize" => "a whole number of its range, not below 0",
        "i8" | "i16" | "i32" | "i64" | "isize" => "a whole number of its range",
        _ if wanted.starts_with("struct ") => "an object",
        _ if wanted.starts_with("a UUID") || wanted.contains("UUID") => "a UUID",
        other => other,
    };
    kind.to_owned()
}

fn met_kind(met: &str) -> String {
    let of = |word: &str| met.strip_prefix(word).map(|rest| rest.trim_matches('`'));
    let echo = |rest: &str| match rest.char_indices().nth(MAX_ECHO) {
        Some((cut, _)) => format!("{}…", &rest[..cut]),
        None => rest.to_owned(),
    };
    match met {
        "sequence" => "a list".to_owned(),
        "map" => "an object".to_owned(),
        _ => match (of("integer ").or(of("floating point ")).or(of("number ")), of("string "), of("boolean ")) {
            (Some(number), _, _) => format!("the number {}", echo(number)),
            (_, Some(text), _) => format!("the text {}", echo(text)),
            (_, _, Some(value)) => value.to_owned(),
            _ => echo(met),
        },
    }
}

/// The byte of a text that an error names; the end of the text if it names none.
fn offset(text: &str, error: &Error) -> usize {
    let before: usize = text.split_inclusive('\n').take(error.line().saturating_sub(1)).map(str::len).sum();
    if error.line() == 0 { text.len() } else { (before + error.column()).min(text.len()) }
}

/// A place within an object or a list.
enum Place<'a> {
    /// A field; whether its name is still to come.
    Field(&'a str, bool),
    Entry(usize),
}

/// The field that a text is in at a byte, such as `items[3].content`.
fn path_at(text: &str, offset: usize) -> String {
    let bytes = text.as_bytes();
    let (mut places, mut at): (Vec<Place<'_>>, usize) = (Vec::new(), 0);
    while at < offset {
        match bytes[at] {
            // What has just begun is met as a whole.
            b'{' if at + 1 < offset => places.push(Place::Field("", true)),
            b'[' if at + 1 < offset => places.push(Place::Entry(0)),
            b'}' | b']' => drop(places.pop()),
            b',' => match places.last_mut() {
                Some(Place::Field(_, awaits)) => *awaits = true,
                Some(Place::Entry(entry)) => *entry += 1,
                None => {}
            },
            b'"' => {
                let end = end_of_text(bytes, at + 1);
                if let Some(Place::Field(name, awaits)) = places.last_mut().filter(|_| end <= text.len())
                    && *awaits
                {
                    (*name, *awaits) = (text.get(at + 1..end).unwrap_or_default(), false);
                }
                at = end;
            }
            _ => {}
        }
        at += 1;
    }
    let mut path = String::new();
    for place in places {
        match place {
            Place::Field("", _) => {}
            Place::Field(name, _) if path.is_empty() => path.push_str(name),
            Place::Field(name, _) => path.extend([".", name]),
            Place::Entry(entry) => path.push_str(&format!("[{entry}]")),
        }
    }
    match path.char_indices().nth(MAX_ECHO) {
        Some((cut, _)) => format!("{}…", &path[..cut]),
        None => path,
    }
}

/// Where the text that begins at a byte has its closing quotation mark.
fn end_of_text(bytes: &[u8], mut at: usize) -> usize {
    while at < bytes.len() && bytes[at] != b'"' {
        at += if bytes[at] == b'\\' { 2 } else { 1 };
    }
    at.min(bytes.len())
}

#[cfg(test)]
mod tests {
    use serde::de::DeserializeOwned;

    use super::*;
    use crate::model::{ForgetRequest, SearchRequest, StoreItem, StoreRequest};

    fn said<T: DeserializeOwned>(text: &str) -> String {
        match serde_json::from_str::<T>(text) {
            Ok(_) => panic!("{text} is read"),
            Err(error) => fault(text, &error),
        }
    }

    #[test]
    fn a_wrong_value_is_named_by_its_field() {
        assert_eq!(said::<StoreRequest>("[]"), "it must be an object, not a list");
        assert_eq!(said::<StoreRequest>("7"), "it must be an object, not the number 7");
        assert_eq!(said::<ForgetRequest>("[]"), "it must be an object, not a list");
        assert_eq!(said::<StoreItem>(r#"{"role": "a", "content": 7}"#), "content must be a text, not the number 7");
        assert_eq!(said::<StoreItem>(r#"{"content": ["a"]}"#), "content must be a text, not a list");
        assert_eq!(
            said::<StoreItem>(r#"{"replace": "yes", "role": "a"}"#),
            r#"replace must be true or false, not the text "yes""#
        );
        assert_eq!(said::<StoreItem>(r#"{"id": "7"}"#), "id is not a UUID");
        assert_eq!(said::<ForgetRequest>(r#"{"ids": ["7"]}"#), "ids[0] is not a UUID");
        assert_eq!(
            said::<SearchRequest>("{\n  \"query\": \"a, \\\"b\\\"\",\n  \"k\": -1\n}"),
            "k must be a whole number of its range, not below 0, not the number -1"
        );
        assert!(said::<StoreItem>(r#"{"contents": 1}"#).starts_with("unknown field `contents`"));
    }

    #[test]
    fn what_is_no_json_is_said_with_its_place() {
        let escape = said::<StoreItem>(r#"{"content": "\ud800"}"#);
        assert!(escape.starts_with("an escape in a text stands for no character (line 1"), "{escape}");
        assert!(escape.ends_with("in content)"), "{escape}");
        assert!(said::<StoreItem>("{\"content\": ").starts_with("the JSON ends early (line 1"));
        assert!(said::<StoreItem>(r#"{"expected_version": 1e999}"#).starts_with("a number is out of range"));
        assert!(said::<StoreItem>("{} x").starts_with("something follows the JSON value"));
        assert!(said::<StoreItem>("nothing").starts_with("this is no JSON"));
    }

    #[test]
    fn no_cut_of_a_text_and_no_place_in_it_ends_the_walk_badly() {
        let text = r#"{"a": [{"b": "ü\\\"x"}, 2], "c": {"d": [[1], {"e": null}]}}"#;
        for cut in (0..=text.len()).filter(|&cut| text.is_char_boundary(cut)) {
            for offset in 0..=cut {
                path_at(&text[..cut], offset);
            }
        }
        assert_eq!(path_at(text, text.find("null").unwrap()), "c.d[1].e");
    }
}
