//! JSON Lines: one object a line, with the fields of `store`.

use std::io::{BufRead, Read};
use std::sync::Arc;

use mira_proto::model::StoreItem;
use mira_proto::numbers;
use serde_json::Value;

use crate::import::files::FileRef;
use crate::import::record::{Place, Position, Record, RecordError};
use crate::import::source::Source;

/// The longest line: a content of 1 MiB with every character escaped, beside metadata and a vector.
const MAX_LINE_BYTES: usize = 8 << 20;

/// The fields of [`StoreItem`]; a test compares them with its schema.
const FIELDS: [&str; 17] = [
    "content",
    "bytes",
    "type",
    "session",
    "role",
    "metadata",
    "vector",
    "vectors",
    "id",
    "replace",
    "expected_version",
    "expires_at",
    "created_at",
    "position",
    "collection",
    "private",
    "source_key",
];

/// The field that names a file, which `store` has not.
const ATTACHMENT: &str = "attachment";

/// A thing to store and the file that goes with it.
pub type Parsed = (StoreItem, Option<FileRef>);

/// Makes a record of one line, not blank.
pub type Parse = fn(&[u8]) -> Result<Parsed, RecordError>;

/// Reads records line by line; blank lines are none.
pub struct JsonLines<R> {
    input: R,
    source: Arc<Source>,
    position: Position,
    parse: Parse,
    line: Vec<u8>,
    ended: bool,
}

impl<R: BufRead> JsonLines<R> {
    /// Reads `source` from its start.
    pub fn new(input: R, source: Arc<Source>, parse: Parse) -> Self {
        JsonLines { input, source, position: Position::default(), parse, line: Vec::new(), ended: false }
    }

    /// Reads the next line into `self.line`; none at the end.
    fn read_line(&mut self) -> Option<Result<(), RecordError>> {
        self.line.clear();
        let mut limited = (&mut self.input).take(MAX_LINE_BYTES as u64 + 1);
        match limited.read_until(b'\n', &mut self.line) {
            Ok(0) => None,
            Ok(_) if self.line.len() > MAX_LINE_BYTES && !self.line.ends_with(b"\n") => Some(self.skip_rest()),
            Ok(_) => {
                self.position = self.position.after(&self.line);
                Some(Ok(()))
            }
            Err(error) => {
                self.ended = true;
                Some(Err(error.into()))
            }
        }
    }

    /// Reads past the rest of a line that is too long, without keeping it.
    fn skip_rest(&mut self) -> Result<(), RecordError> {
        self.position.bytes += self.line.len() as u64;
        loop {
            let buffer = self.input.fill_buf()?;
            let end = buffer.iter().position(|byte| *byte == b'\n').map(|at| at + 1);
            let length = end.unwrap_or(buffer.len());
            self.position = self.position.after(&buffer[..length]);
            self.input.consume(length);
            if end.is_some() || length == 0 {
                return Err(RecordError::TooLong(MAX_LINE_BYTES));
            }
        }
    }
}

impl<R: BufRead> Iterator for JsonLines<R> {
    type Item = Record;

    fn next(&mut self) -> Option<Record> {
        while !self.ended {
            let place = Place { source: self.source.clone(), line: self.position.lines + 1 };
            let first = self.position.bytes == 0;
            let parsed = match self.read_line()? {
                Ok(()) => {
                    let line = without_byte_order_mark(&self.line, first).trim_ascii();
                    if line.is_empty() {
                        continue;
                    }
                    (self.parse)(line)
                }
                Err(error) => Err(error),
            };
            let (item, file) = parted(parsed);
            return Some(Record { place, next: self.position, item, file });
        }
        None
    }
}

fn without_byte_order_mark(line: &[u8], first: bool) -> &[u8] {
    line.strip_prefix("\u{feff}".as_bytes()).filter(|_| first).unwrap_or(line)
}

/// A record that has the fields of `store` and no others.
pub fn strict(line: &[u8]) -> Result<Parsed, RecordError> {
    let text = object_text(line)?;
    match text.contains(ATTACHMENT) {
        true => of_fields(fields_of(text)?, false),
        // Without a way over maps, which takes long for vectors.
        false => serde_json::from_str(text).map(|item| (item, None)).map_err(|error| json_error(text, &error)),
    }
}

/// A record whose other fields become metadata.
pub fn lenient(line: &[u8]) -> Result<Parsed, RecordError> {
    of_fields(fields_of(object_text(line)?)?, true)
}

/// A record with these fields; with `lenient`, those that a memory has not become metadata.
pub fn of_fields(mut fields: serde_json::Map<String, Value>, lenient: bool) -> Result<Parsed, RecordError> {
    // What another program calls so need not be a file of ours.
    let is_file = fields.get(ATTACHMENT).is_some_and(|value| !lenient || value.get("path").is_some());
    let file = if is_file { fields.remove(ATTACHMENT) } else { None };
    let file: Option<FileRef> = file
        .map(serde_json::from_value)
        .transpose()
        .map_err(|error| RecordError::Json(format!("attachment: {error}")))?;
    let fields = if lenient { tuck_away(fields)? } else { fields };
    let item: StoreItem = serde_json::from_value(Value::Object(fields)).map_err(|error| json_error("", &error))?;
    if file.is_some() && item.id.is_none() { Err(RecordError::NoId) } else { Ok((item, file)) }
}

/// The two parts of a record.
pub fn parted(parsed: Result<Parsed, RecordError>) -> (Result<StoreItem, RecordError>, Option<FileRef>) {
    match parsed {
        Ok((item, file)) => (Ok(item), file),
        Err(error) => (Err(error), None),
    }
}

fn object_text(line: &[u8]) -> Result<&str, RecordError> {
    let text = std::str::from_utf8(line).map_err(|error| RecordError::Utf8(error.valid_up_to()))?;
    if text.starts_with('{') { Ok(text) } else { Err(RecordError::NotAnObject) }
}

/// The fields of a text, if the numbers among them can be kept.
fn fields_of(text: &str) -> Result<serde_json::Map<String, Value>, RecordError> {
    let fields = serde_json::from_str(text).map_err(|error| json_error(text, &error))?;
    match numbers::unkept(text) {
        Some(number) => Err(RecordError::Json(numbers::refusal(number))),
        None => Ok(fields),
    }
}

/// Moves fields that a memory has not into its metadata.
fn tuck_away(object: serde_json::Map<String, Value>) -> Result<serde_json::Map<String, Value>, RecordError> {
    let (mut known, unknown): (serde_json::Map<_, _>, serde_json::Map<_, _>) =
        object.into_iter().partition(|(name, _)| FIELDS.contains(&name.as_str()));
    if unknown.is_empty() {
        return Ok(known);
    }
    let metadata = known.entry("metadata").or_insert_with(|| Value::Object(Default::default()));
    if metadata.is_null() {
        *metadata = Value::Object(Default::default());
    }
    let Value::Object(metadata) = metadata else {
        return Err(RecordError::Json("metadata is not an object".to_owned()));
    };
    for (name, value) in unknown {
        if metadata.contains_key(&name) {
            return Err(RecordError::TwoValues(name));
        }
        metadata.insert(name, value);
    }
    Ok(known)
}

/// What is wrong with a line, and in which column.
fn json_error(text: &str, error: &serde_json::Error) -> RecordError {
    let message = mira_proto::json::fault(text, error);
    RecordError::Json(match error.column() {
        column if column > 0 && error.is_data() => format!("{message} (column {column})"),
        _ => message,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::import::source::Format;

    fn read(bytes: &[u8], parse: Parse) -> Vec<(u64, u64, Result<StoreItem, String>)> {
        let source = Source { name: "in.jsonl".into(), path: None, format: Format::Jsonl, length: 0, full_path: None };
        JsonLines::new(bytes, Arc::new(source), parse)
            .map(|record| (record.place.line, record.next.bytes, record.item.map_err(|error| error.to_string())))
            .collect()
    }

    #[test]
    fn the_list_of_fields_is_that_of_the_contract() {
        let unknown = serde_json::from_str::<StoreItem>(r#"{"?": 1}"#).unwrap_err().to_string();
        let (_, list) = unknown.split_once("expected one of ").unwrap();
        let (list, _) = list.split_once(" at line").unwrap();
        let names: Vec<_> = list.split(", ").map(|name| name.trim_matches('`')).collect();
        assert_eq!(names, FIELDS);
    }

    #[test]
    fn lines_are_numbered_and_blank_ones_skipped() {
        let records = read("\u{feff}{\"content\": \"a\"}\r\n\n  \n{\"content\": \"b\"}".as_bytes(), strict);
        assert_eq!(records.iter().map(|(line, ..)| *line).collect::<Vec<_>>(), [1, 4]);
        assert!(records.iter().all(|(.., item)| item.is_ok()), "{records:?}");
        assert_eq!(records[1].1, 41);
    }

    #[test]
    fn each_fault_is_named_and_the_rest_is_read() {
        let input = b"{\"contents\": \"a\"}\n{\"content\": \"\xff\"}\n[1]\n{\"content\": \n{\"content\": 1}\n{\"content\": \"ok\"}\n";
        let records = read(input, strict);
        let faults: Vec<_> = records.iter().filter_map(|(line, _, item)| Some((*line, item.as_ref().err()?))).collect();
        let starts = [
            (1, "unknown field `contents`, expected one of"),
            (2, "not UTF-8 from byte 13"),
            (3, "not a JSON object"),
            (4, "the JSON ends early"),
            (5, "content must be a text, not the number 1"),
        ];
        assert_eq!(faults.len(), starts.len(), "{faults:?}");
        for ((line, fault), (expected_line, start)) in faults.iter().zip(starts) {
            assert_eq!(*line, expected_line);
            assert!(fault.starts_with(start), "{fault}");
        }
        assert!(records[5].2.is_ok());
    }

    #[test]
    fn a_number_that_would_change_refuses_its_record_alone() {
        let long = "18446744073709551616";
        let input = format!(
            "{{\"content\": \"a\", \"metadata\": {{\"n\": {long}}}}}\n{{\"content\": \"b\", \"metadata\": {{\"n\": 9007199254740991.0}}}}\n"
        );
        for parse in [strict as Parse, lenient] {
            let records = read(input.as_bytes(), parse);
            assert!(records[0].2.as_ref().unwrap_err().contains(long), "{records:?}");
            let kept = records[1].2.as_ref().unwrap().metadata.as_ref().unwrap()["n"].to_string();
            assert_eq!(kept, "9007199254740991.0");
        }
        let outside = format!("{{\"content\": \"a\", \"n\": {long}}}\n");
        assert!(read(outside.as_bytes(), lenient)[0].2.as_ref().unwrap_err().contains(long));
    }

    #[test]
    fn lenient_puts_unknown_fields_into_metadata() {
        let input = br#"{"content": "a", "author": "x", "metadata": {"year": 1}}
{"content": "a", "year": 2, "metadata": {"year": 1}}
{"content": "a", "year": 2, "metadata": []}"#;
        let records = read(input, lenient);
        let metadata = records[0].2.as_ref().unwrap().metadata.clone().unwrap();
        assert_eq!(Value::Object(metadata), serde_json::json!({"author": "x", "year": 1}));
        assert_eq!(records[1].2.as_ref().unwrap_err(), "field `year` stands beside `metadata` and in it");
        assert_eq!(records[2].2.as_ref().unwrap_err(), "metadata is not an object");
    }

    #[test]
    fn a_line_without_end_is_skipped_without_keeping_it() {
        let mut input = vec![b'x'; MAX_LINE_BYTES + 3];
        input.extend_from_slice(b"\n{\"content\": \"after\"}\n");
        let records = read(&input, strict);
        assert_eq!(records[0].2.as_ref().unwrap_err(), &format!("longer than {MAX_LINE_BYTES} bytes"));
        assert_eq!(records[1].0, 2);
        assert_eq!(records[1].1, input.len() as u64);
    }
}
