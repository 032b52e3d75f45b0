//! Plain text: a file is one memory, or several where it is over the limit of one.

use std::io::Read;
use std::sync::Arc;

use mira_proto::limits::MAX_CONTENT_BYTES;
use mira_proto::model::{Metadata, StoreItem};

use crate::import::record::{Place, Position, Record, RecordError};
use crate::import::source::Source;

/// Reads a text in parts of at most `limit` bytes, holding one part at a time.
pub struct TextParts<R> {
    input: R,
    source: Arc<Source>,
    position: Position,
    limit: usize,
    buffer: Vec<u8>,
    ended: bool,
}

impl<R: Read> TextParts<R> {
    /// Reads `source` from its start.
    pub fn new(input: R, source: Arc<Source>) -> Self {
        TextParts {
            input,
            source,
            position: Position::default(),
            limit: MAX_CONTENT_BYTES,
            buffer: Vec::new(),
            ended: false,
        }
    }

    /// The next part; empty at the end.
    fn next_part(&mut self) -> std::io::Result<Vec<u8>> {
        let wanted = (self.limit + 1 - self.buffer.len()) as u64;
        (&mut self.input).take(wanted).read_to_end(&mut self.buffer)?;
        let rest = self.buffer.split_off(cut(&self.buffer, self.limit));
        Ok(std::mem::replace(&mut self.buffer, rest))
    }
}

impl<R: Read> Iterator for TextParts<R> {
    type Item = Record;

    fn next(&mut self) -> Option<Record> {
        while !self.ended {
            let start = self.position;
            let place = Place { source: self.source.clone(), line: start.lines + 1 };
            let part = match self.next_part() {
                Ok(part) => part,
                Err(error) => {
                    self.ended = true;
                    return Some(Record { place, next: start, item: Err(error.into()), file: None });
                }
            };
            self.position = start.after(&part);
            self.ended = part.is_empty();
            if part.trim_ascii().is_empty() {
                continue;
            }
            let item = String::from_utf8(part)
                .map_err(|error| RecordError::Utf8(error.utf8_error().valid_up_to()))
                .map(|content| file_item(&self.source, content, None, start));
            return Some(Record { place, next: self.position, item, file: None });
        }
        None
    }
}

/// Where to cut: all of it when it is within `limit`, else behind the last paragraph, line or word of its second half,
/// else between two characters.
pub fn cut(text: &[u8], limit: usize) -> usize {
    if text.len() <= limit {
        return text.len();
    }
    let half = limit / 2;
    let window = &text[half..limit];
    let after_last =
        |mark: &[u8]| window.windows(mark.len()).rposition(|at| at == mark).map(|at| half + at + mark.len());
    let space = || window.iter().rposition(u8::is_ascii_whitespace).map(|at| half + at + 1);
    after_last(b"\n\n").or_else(|| after_last(b"\n")).or_else(space).unwrap_or_else(|| {
        // A byte that does not continue a character begins one; four bytes back there is one in any UTF-8.
        (limit.saturating_sub(3)..=limit).rev().find(|at| text[*at] & 0xc0 != 0x80).unwrap_or(limit)
    })
}

/// A memory made from a file: its name and title, and the line where it is not the first, become metadata.
pub fn file_item(source: &Source, content: String, title: Option<String>, start: Position) -> StoreItem {
    let mut metadata = Metadata::new();
    if let Some(path) = &source.path {
        metadata.insert("path".to_owned(), source.name.clone().into());
        let stem = path.file_stem().map(|stem| stem.to_string_lossy().into_owned());
        if let Some(title) = title.or(stem) {
            metadata.insert("title".to_owned(), title.into());
        }
    }
    if start.lines > 0 {
        metadata.insert("line".to_owned(), (start.lines + 1).into());
    }
    StoreItem { content: Some(content), metadata: Some(metadata), ..StoreItem::default() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::import::source::Format;

    fn parts(bytes: &[u8], limit: usize) -> Vec<(u64, u64, Result<String, String>)> {
        let source = Source {
            name: "a.txt".into(),
            path: Some("a.txt".into()),
            format: Format::Text,
            length: 0,
            full_path: None,
        };
        let mut parts = TextParts::new(bytes, Arc::new(source));
        parts.limit = limit;
        parts
            .map(|record| {
                let content = record.item.map(|item| item.content.unwrap()).map_err(|error| error.to_string());
                (record.place.line, record.next.bytes, content)
            })
            .collect()
    }

    #[test]
    fn a_text_within_the_limit_is_whole() {
        assert_eq!(parts(b"one\ntwo\n", 8), [(1, 8, Ok("one\ntwo\n".into()))]);
        assert_eq!(parts(b" \n\n", 8), []);
        assert_eq!(parts(b"", 8), []);
    }

    #[test]
    fn a_longer_one_is_cut_at_the_best_place_and_nothing_is_lost() {
        let text = "first paragraph\n\nsecond one\nits next line and more wörds without end";
        for limit in 5..text.len() + 2 {
            let parts = parts(text.as_bytes(), limit);
            let joined: String = parts.iter().map(|(.., part)| part.clone().unwrap()).collect();
            assert_eq!(joined, text, "limit {limit}");
            assert!(parts.iter().all(|(.., part)| part.as_ref().unwrap().len() <= limit), "limit {limit}");
        }
        assert_eq!(parts(text.as_bytes(), 30)[0].2, Ok("first paragraph\n\n".into()));
        assert_eq!(parts(text.as_bytes(), 20)[1], (3, 28, Ok("second one\n".into())), "a line in the second half");
        assert_eq!(parts(text.as_bytes(), 30)[1], (3, 46, Ok("second one\nits next line and ".into())), "none there");
    }

    #[test]
    fn characters_are_not_cut_apart() {
        let text = "äöü€🦀".repeat(7);
        for limit in 4..40 {
            assert!(parts(text.as_bytes(), limit).iter().all(|(.., part)| part.is_ok()), "limit {limit}");
        }
    }

    #[test]
    fn malformed_text_is_refused_and_the_next_part_read() {
        let parts = parts(b"abc \xff def\n\nghi jkl mno", 14);
        assert_eq!(parts[0].2, Err("not UTF-8 from byte 4 of the record on".into()));
        assert_eq!(parts[1].2, Ok("ghi jkl mno".into()));
    }
}
