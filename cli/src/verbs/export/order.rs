//! The order of an export's lines: those of a session together, in the order of the session.
//!
//! A collection is read in the order of ids, which keeps no session together, and which lets an export that was stopped go on.
//! So lines are arranged when all of them are there. Sessions follow one another as they began, and memories without a session
//! stand among them by their own places. What is kept of a line meanwhile takes 48 bytes.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufRead, BufReader, Error, ErrorKind, Result, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;

use serde::Deserialize;

/// Lines that are arranged; of more, all stay in the order of ids.
const MAX_LINES: usize = 2 << 20;

/// Where a line lies, and what decides its place.
struct Line {
    /// Its session, or itself.
    group: [u8; 16],
    position: u64,
    at: u64,
    length: usize,
}

/// What of a line decides its place.
#[derive(Deserialize)]
struct Said {
    #[serde(default)]
    session: Option<String>,
    #[serde(default)]
    position: Option<u64>,
}

/// Writes the lines of a file in the order of sessions; whether it did, because they are not too many.
pub fn arrange(mut file: &File, out: &mut impl Write) -> Result<bool> {
    file.seek(SeekFrom::Start(0))?;
    let Some(mut lines) = read(file)? else { return Ok(false) };
    let mut began: HashMap<[u8; 16], u64> = HashMap::new();
    for line in &lines {
        let first = began.entry(line.group).or_insert(line.position);
        *first = line.position.min(*first);
    }
    lines.sort_unstable_by_key(|line| (began[&line.group], line.group, line.position, line.at));
    let mut text = Vec::new();
    for line in lines {
        text.resize(line.length, 0);
        file.read_exact_at(&mut text, line.at)?;
        out.write_all(&text)?;
    }
    Ok(true)
}

fn read(file: &File) -> Result<Option<Vec<Line>>> {
    let (mut lines, mut at, mut text) = (Vec::new(), 0, Vec::new());
    let mut input = BufReader::new(file);
    while input.read_until(b'\n', &mut text)? > 0 {
        if lines.len() == MAX_LINES {
            return Ok(None);
        }
        let said: Said = serde_json::from_slice(&text).map_err(|error| Error::new(ErrorKind::InvalidData, error))?;
        let group = match said.session {
            Some(session) => blake3::hash(session.as_bytes()),
            None => blake3::hash(&[&b"without a session"[..], &u64::to_le_bytes(at)].concat()),
        };
        let group = *group.as_bytes().first_chunk().expect("32 bytes hold 16");
        lines.push(Line { group, position: said.position.unwrap_or_default(), at, length: text.len() });
        at += text.len() as u64;
        text.clear();
    }
    Ok(Some(lines))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sessions_stand_together_as_they_began_and_others_among_them() {
        let line = |session: &str, position: u64, content: &str| {
            let session = if session.is_empty() { "null".to_owned() } else { format!("{session:?}") };
            format!("{{\"content\":{content:?},\"session\":{session},\"position\":{position}}}\n")
        };
        let mut file = tempfile::tempfile().unwrap();
        let stored = [
            line("b", 7, "b3"),
            line("", 4, "alone"),
            line("a", 5, "a2"),
            line("b", 6, "b2"),
            line("a", 1, "a1"),
            line("b", 3, "b1"),
            line("", 2, "first alone"),
            line("a", 5, "a2 too"),
        ];
        file.write_all(stored.concat().as_bytes()).unwrap();
        let mut out = Vec::new();
        assert!(arrange(&file, &mut out).unwrap());
        let contents: Vec<String> = out
            .split_inclusive(|&byte| byte == b'\n')
            .map(|line| serde_json::from_slice::<serde_json::Value>(line).unwrap()["content"].as_str().unwrap().into())
            .collect();
        assert_eq!(contents, ["a1", "a2", "a2 too", "first alone", "b1", "b2", "b3", "alone"]);
    }
}
