//! Markdown: one memory for each section under a heading.
//!
//! A heading with nothing under it but the next heading goes with that one, so that no text is lost and none is stored
//! that says nothing. The title of a section is the path of headings above it.

use std::io::Read;
use std::ops::Range;
use std::sync::Arc;

use mira_proto::limits::MAX_CONTENT_BYTES;
use pulldown_cmark::{Event, Options, Parser, Tag, TagEnd};

use crate::import::record::{Place, Position, Record, RecordError};
use crate::import::source::Source;
use crate::import::text::{cut, file_item};

/// The largest document: it is read as a whole, because headings are known only to who has parsed what is before them.
const MAX_DOCUMENT_BYTES: usize = 64 << 20;

/// Reads a document and gives its sections.
pub fn read(mut input: impl Read, source: Arc<Source>) -> Box<dyn Iterator<Item = Record> + Send> {
    let mut bytes = Vec::new();
    let refused = match (&mut input).take(MAX_DOCUMENT_BYTES as u64 + 1).read_to_end(&mut bytes) {
        Err(error) => Some(error.into()),
        Ok(_) if bytes.len() > MAX_DOCUMENT_BYTES => Some(RecordError::TooLong(MAX_DOCUMENT_BYTES)),
        Ok(_) => std::str::from_utf8(&bytes).err().map(|error| RecordError::Utf8(error.valid_up_to())),
    };
    if let Some(error) = refused {
        let next = Position::default().after(&bytes);
        let place = Place { source, line: 1 };
        return Box::new(std::iter::once(Record { place, next, item: Err(error), file: None }));
    }
    // Checked just above.
    let text = String::from_utf8(bytes).unwrap_or_default();
    let sections = sections(&text, MAX_CONTENT_BYTES);
    let mut position = Position::default();
    Box::new(sections.into_iter().filter_map(move |section| {
        let start = position;
        let content = &text[section.range];
        position = start.after(content.as_bytes());
        if content.trim().is_empty() {
            return None;
        }
        let place = Place { source: source.clone(), line: start.lines + 1 };
        let item = file_item(&source, content.to_owned(), section.title, start);
        Some(Record { place, next: position, item: Ok(item), file: None })
    }))
}

/// A piece of a document. The pieces cover it without a gap.
#[derive(Debug, PartialEq, Eq)]
struct Section {
    range: Range<usize>,
    title: Option<String>,
}

/// A heading: where its line starts and ends, how deep it is, what it says.
struct Heading {
    range: Range<usize>,
    level: usize,
    text: String,
}

fn sections(text: &str, limit: usize) -> Vec<Section> {
    let headings = headings(text);
    let mut sections = Vec::new();
    let mut path: Vec<(usize, &str)> = Vec::new();
    let mut start = 0;
    for (at, heading) in headings.iter().enumerate() {
        if start < heading.range.start && has_body(text, &headings, at, start) {
            push(&mut sections, text, start..heading.range.start, title(&path), limit);
            start = heading.range.start;
        }
        path.retain(|(level, _)| *level < heading.level);
        path.push((heading.level, &heading.text));
    }
    push(&mut sections, text, start..text.len(), title(&path), limit);
    sections
}

/// Whether something stands between the heading before number `at` (or the start) and number `at`.
fn has_body(text: &str, headings: &[Heading], at: usize, start: usize) -> bool {
    let from = at.checked_sub(1).map_or(start, |before| headings[before].range.end);
    !text[from..headings[at].range.start].trim().is_empty()
}

/// Adds a section, in parts when it is over the limit.
fn push(sections: &mut Vec<Section>, text: &str, range: Range<usize>, title: Option<String>, limit: usize) {
    let mut start = range.start;
    while start < range.end {
        let end = start + cut(&text.as_bytes()[start..range.end], limit);
        sections.push(Section { range: start..end, title: title.clone() });
        start = end;
    }
}

fn title(path: &[(usize, &str)]) -> Option<String> {
    let words: Vec<_> = path.iter().map(|(_, text)| *text).filter(|text| !text.is_empty()).collect();
    (!words.is_empty()).then(|| words.join(" > "))
}

/// The headings outside quotes and lists, in order.
fn headings(text: &str) -> Vec<Heading> {
    let mut found = Vec::new();
    let mut open: Option<Heading> = None;
    let mut depth = 0_usize;
    let options = Options::ENABLE_YAML_STYLE_METADATA_BLOCKS | Options::ENABLE_TABLES | Options::ENABLE_GFM;
    for (event, range) in Parser::new_ext(text, options).into_offset_iter() {
        match event {
            Event::Start(Tag::Heading { level, .. }) if depth == 0 => {
                open = Some(Heading { range, level: level as usize, text: String::new() });
            }
            Event::End(TagEnd::Heading(_)) => found.extend(open.take()),
            Event::Start(Tag::BlockQuote(_) | Tag::List(_)) => depth += 1,
            Event::End(TagEnd::BlockQuote(_) | TagEnd::List(_)) => depth -= 1,
            Event::Text(words) | Event::Code(words) => {
                if let Some(heading) = &mut open {
                    heading.text.push_str(&words);
                }
            }
            _ => {}
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::import::source::Format;

    fn split(text: &str) -> Vec<(Option<String>, String)> {
        sections(text, 1 << 20).into_iter().map(|section| (section.title, text[section.range].to_owned())).collect()
    }

    fn pair(title: &str, text: &str) -> (Option<String>, String) {
        ((!title.is_empty()).then(|| title.to_owned()), text.to_owned())
    }

    #[test]
    fn sections_begin_at_headings_and_carry_their_path() {
        let text = "intro\n\n# One\nbody\n\n## Two `x`\ndeep\n\n# Three\nlast\n";
        assert_eq!(
            split(text),
            [
                pair("", "intro\n\n"),
                pair("One", "# One\nbody\n\n"),
                pair("One > Two x", "## Two `x`\ndeep\n\n"),
                pair("Three", "# Three\nlast\n"),
            ]
        );
    }

    #[test]
    fn a_bare_heading_goes_with_the_next() {
        assert_eq!(
            split("# One\n\n## Two\nbody\n# End"),
            [pair("One > Two", "# One\n\n## Two\nbody\n"), pair("End", "# End"),]
        );
    }

    #[test]
    fn only_real_headings_count() {
        let text = "---\ntitle: x\n---\n\n```sh\n# a comment\n```\n\n> # quoted\n\n#hashtag\n\nReal\n====\nbody\n";
        let titles: Vec<_> = split(text).into_iter().map(|(title, _)| title).collect();
        assert_eq!(titles, [None, Some("Real".to_owned())]);
    }

    #[test]
    fn nothing_is_lost_and_nothing_is_over_the_limit() {
        let text = "# A\n".to_owned() + &"word ".repeat(40) + "\n## B\n" + &"wörter ".repeat(30);
        for limit in 8..200 {
            let sections = sections(&text, limit);
            let joined: String = sections.iter().map(|section| &text[section.range.clone()]).collect();
            assert_eq!(joined, text);
            assert!(sections.iter().all(|section| section.range.len() <= limit));
        }
    }

    #[test]
    fn records_know_their_line() {
        let source = Source {
            name: "d/a.md".into(),
            path: Some("d/a.md".into()),
            format: Format::Markdown,
            length: 0,
            full_path: None,
        };
        let source = Arc::new(source);
        let text = "# One\nbody\n# Two\nmore\n";
        let all: Vec<_> = read(text.as_bytes(), source).collect();
        assert_eq!(
            all.iter().map(|record| (record.place.line, record.next.bytes)).collect::<Vec<_>>(),
            [(1, 11), (3, 22)]
        );
        let item = all[1].item.as_ref().unwrap();
        let metadata = serde_json::Value::Object(item.metadata.clone().unwrap());
        assert_eq!(metadata, serde_json::json!({"path": "d/a.md", "title": "Two", "line": 3}));
    }
}
