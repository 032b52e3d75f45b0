//! Many searches from a file: `mira search --batch FILE`.
//!
//! A line is a question in words, as it is or as a JSON string, or a JSON object with the fields of a search. What the
//! command line says besides holds for every line that does not say otherwise. The whole file is read and checked for form
//! before anything is sent; then the searches go in batches, and each is answered or refused by itself.

use std::io::Read;
use std::path::{Path, PathBuf};

use mira_proto::limits::MAX_BATCH_SEARCHES;
use mira_proto::model::{SearchRequest, SearchResult};
use serde_json::{Map, Value};

use crate::client::Client;
use crate::error::CliError;
use crate::output;

/// Largest file: it is read as a whole, so that nothing is sent of one that is wrong.
const MAX_FILE_BYTES: u64 = 64 << 20;
/// Most bytes of the searches of a batch, well within one message.
const MAX_BATCH_BYTES: usize = 4 << 20;
/// Faults that are named.
const MAX_NAMED: usize = 5;

/// A search and the line it stands in.
#[derive(Debug, PartialEq)]
pub struct Line {
    number: usize,
    request: SearchRequest,
    /// As JSON, about.
    bytes: usize,
}

/// Reads searches; `-` is standard input.
pub fn read(file: &Path, base: &SearchRequest) -> Result<Vec<Line>, CliError> {
    let name = if file.as_os_str() == "-" { PathBuf::from("standard input") } else { file.to_owned() };
    let mut text = Vec::new();
    let read = if file.as_os_str() == "-" {
        std::io::stdin().take(MAX_FILE_BYTES + 1).read_to_end(&mut text)
    } else {
        std::fs::File::open(file).and_then(|file| file.take(MAX_FILE_BYTES + 1).read_to_end(&mut text))
    };
    read.map_err(CliError::io(&name))?;
    let bad = |detail| CliError::BadFile { path: name.clone(), detail };
    if text.len() as u64 > MAX_FILE_BYTES {
        return Err(bad(format!("more than {} MiB of searches: split it", MAX_FILE_BYTES >> 20)));
    }
    let text = String::from_utf8(text)
        .map_err(|error| bad(format!("not UTF-8 from byte {}", error.utf8_error().valid_up_to())))?;
    let lines = parse(&text, base).map_err(bad)?;
    if lines.is_empty() { Err(bad("there is no search in it".to_owned())) } else { Ok(lines) }
}

/// All lines, or what is wrong with the first of those that are wrong.
fn parse(text: &str, base: &SearchRequest) -> Result<Vec<Line>, String> {
    let Ok(Value::Object(base)) = serde_json::to_value(base) else {
        return Err("the options of the command line are no JSON".to_owned());
    };
    let (mut lines, mut faults) = (Vec::new(), Vec::new());
    for (number, line) in (1..).zip(text.trim_start_matches('\u{feff}').lines()) {
        match line.trim() {
            "" => {}
            line => match request(line, &base) {
                Ok(request) => lines.push(Line { number, request, bytes: line.len() }),
                Err(fault) => faults.push(format!("line {number}: {fault}")),
            },
        }
    }
    if faults.is_empty() {
        return Ok(lines);
    }
    let more = faults.len().saturating_sub(MAX_NAMED);
    faults.truncate(MAX_NAMED);
    let more = if more > 0 { format!("; and {more} more") } else { String::new() };
    Err(format!("{}{more}; nothing was sent", faults.join("; ")))
}

fn request(line: &str, base: &Map<String, Value>) -> Result<SearchRequest, String> {
    let said = match line.as_bytes()[0] {
        b'{' => serde_json::from_str::<Map<String, Value>>(line).map_err(|error| error.to_string())?,
        b'"' => {
            let query: String = serde_json::from_str(line).map_err(|error| error.to_string())?;
            Map::from_iter([("query".to_owned(), query.into())])
        }
        b'[' => return Err("a list is no search: write an object or words".to_owned()),
        _ => Map::from_iter([("query".to_owned(), line.into())]),
    };
    if said.contains_key("searches") {
        return Err("a search of a batch has no searches of its own".to_owned());
    }
    let mut fields = base.clone();
    fields.extend(said);
    let request: SearchRequest = serde_json::from_value(fields.into()).map_err(|error| error.to_string())?;
    super::check_numbers(&request)?;
    Ok(request)
}

/// As many lines at once as one request may have.
fn batches(lines: &[Line]) -> Vec<&[Line]> {
    let (mut batches, mut start, mut bytes) = (Vec::new(), 0, 0);
    for (at, line) in lines.iter().enumerate() {
        if at > start && (at - start == MAX_BATCH_SEARCHES || bytes + line.bytes > MAX_BATCH_BYTES) {
            batches.push(&lines[start..at]);
            (start, bytes) = (at, 0);
        }
        bytes += line.bytes;
    }
    batches.push(&lines[start..]);
    batches
}

/// Sends all and prints the answers in the order of the lines.
pub async fn run(client: &Client, lines: &[Line], json: bool) -> Result<(), CliError> {
    let mut refused = 0;
    for batch in batches(lines) {
        let searches = batch.iter().map(|line| line.request.clone()).collect();
        let request = SearchRequest { searches: Some(searches), ..SearchRequest::default() };
        let answers = client.search(&request).await?.answers.unwrap_or_default();
        if answers.len() != batch.len() {
            let detail = format!("{} searches were sent and {} answered", batch.len(), answers.len());
            return Err(mira_proto::Problem::internal(detail).into());
        }
        for (line, answer) in batch.iter().zip(&answers) {
            refused += u64::from(matches!(answer, SearchResult::Refused { .. }));
            print(line, answer, json)?;
        }
    }
    match refused {
        0 => Ok(()),
        refused => Err(CliError::SearchesRefused { refused, seen: lines.len() as u64 }),
    }
}

fn print(line: &Line, answer: &SearchResult, json: bool) -> Result<(), CliError> {
    if json {
        let document = serde_json::to_string(answer)
            .map_err(|error| CliError::io("standard output")(std::io::Error::other(error)))?;
        return output::print(&format!("{document}\n"));
    }
    let title = line.request.query.as_deref().map(|query| format!(": {query}")).unwrap_or_default();
    let answer = match answer {
        SearchResult::Answered(reply) => output::hits(reply),
        SearchResult::Refused { error } => format!("refused[{}]: {}\n", error.code, error.detail),
    };
    output::print(&format!("line {}{title}\n{answer}\n", line.number))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn base() -> SearchRequest {
        SearchRequest { collection: Some("notes".into()), k: Some(3), ..SearchRequest::default() }
    }

    #[test]
    fn a_line_is_words_or_an_object() {
        let text = "\u{feff}green tea\r\n\n  \"a \\\"quoted\\\" one\"\n{\"query\": \"x\", \"k\": 7, \"strict\": true}\n\
                    {\"vector\": [1, 0.5], \"collection\": \"other\"}\n";
        let lines = parse(text, &base()).unwrap();
        let query = |text: &str| SearchRequest { query: Some(text.into()), ..base() };
        let expected = [
            (1, query("green tea")),
            (3, query("a \"quoted\" one")),
            (4, SearchRequest { k: Some(7), strict: true, ..query("x") }),
            (5, SearchRequest { vector: Some(vec![1.0, 0.5]), collection: Some("other".into()), ..base() }),
        ];
        assert_eq!(lines.into_iter().map(|line| (line.number, line.request)).collect::<Vec<_>>(), expected);
    }

    #[test]
    fn each_line_that_is_wrong_is_named() {
        for (line, fault) in [
            ("{\"quer\": \"x\"}", "unknown field `quer`"),
            ("{\"query\": ", "EOF"),
            ("[1]", "a list is no search"),
            ("\"open", "EOF"),
            ("{\"searches\": []}", "no searches of its own"),
            ("{\"vector\": [1e39]}", "vector component 0 is not a finite number"),
            ("{\"vectors\": [[1], [0, -1e99]]}", "vector component 1 is not"),
            ("{\"min_score\": 1e39, \"query\": \"x\"}", "min_score is not"),
        ] {
            let said = parse(&format!("good\n{line}\nanother"), &base()).unwrap_err();
            assert!(said.starts_with("line 2: ") && said.contains(fault), "{line}: {said}");
        }
        let many = parse(&"[\n".repeat(8), &base()).unwrap_err();
        assert!(many.contains("line 5: ") && !many.contains("line 6: "), "{many}");
        assert!(many.ends_with("; and 3 more; nothing was sent"), "{many}");
    }

    #[test]
    fn batches_are_bounded_by_number_and_bytes() {
        let of = |bytes: &[usize]| {
            let line = |(number, &bytes)| Line { number, request: base(), bytes };
            let lines: Vec<_> = bytes.iter().enumerate().map(line).collect();
            batches(&lines).iter().map(|batch| batch.len()).collect::<Vec<_>>()
        };
        assert_eq!(of(&[10; 250]), [100, 100, 50]);
        assert_eq!(of(&[10; 100]), [100]);
        assert_eq!(of(&[3 << 20, 1 << 20, 1, 5 << 20, 1]), [2, 1, 1, 1]);
    }
}
