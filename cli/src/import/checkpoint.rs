//! How far each file is done, so that an import that was stopped skips what it has stored without sending it.
//!
//! Names and manifests make a repeated import correct without this file; it makes it quick, and has what comes later stand where it would
//! have stood. It is JSON, replaced as a whole, and holds no content: when the import began, and for each file the bytes and lines done, and a hash of the last [`TAIL_BYTES`] before that point,
//! by which a file that was rewritten is recognised and read from its start. A file that only grew goes on where it
//! was.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{ErrorKind, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::CliError;
use crate::import::record::Position;
use crate::import::source::Source;

/// Bytes before the point reached that must be unchanged.
const TAIL_BYTES: u64 = 4096;

/// Version of the file.
const VERSION: u32 = 2;

/// The progress of one import.
#[derive(Debug, Clone, Default)]
pub struct Checkpoint {
    file: Option<PathBuf>,
    state: State,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct State {
    version: u32,
    /// Where the records went: progress towards one cluster says nothing about another.
    target: String,
    /// Microseconds since the Unix epoch.
    began: u64,
    files: BTreeMap<PathBuf, Done>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Done {
    bytes: u64,
    lines: u64,
    tail: String,
}

impl Checkpoint {
    /// Reads the state file, if there is to be one; one that does not exist yet is empty. `target` names the cluster
    /// and everything else that makes records other records.
    pub fn load(file: Option<&Path>, target: &str) -> Result<Checkpoint, CliError> {
        let began = jiff::Timestamp::now().as_microsecond().max(0) as u64;
        let fresh = State { version: VERSION, target: target.to_owned(), began, files: BTreeMap::new() };
        let Some(file) = file else {
            return Ok(Checkpoint { file: None, state: fresh });
        };
        let state = match std::fs::read(file) {
            Ok(bytes) => check(serde_json::from_slice(&bytes), target)
                .map_err(|detail| CliError::BadFile { path: file.to_owned(), detail })?,
            Err(error) if error.kind() == ErrorKind::NotFound => fresh,
            Err(error) => return Err(CliError::io(file)(error)),
        };
        Ok(Checkpoint { file: Some(file.to_owned()), state })
    }

    /// When the import began, microseconds since the Unix epoch: its records stand in their sessions as if all had been
    /// stored then, in their order.
    pub fn began(&self) -> u64 {
        self.state.began
    }

    /// Where reading goes on in a file: where it was left, or the start when what stood before that point changed.
    pub fn resume(&self, source: &Source, file: &mut File) -> std::io::Result<Position> {
        let Some(done) = key(source).and_then(|key| self.state.files.get(&key)) else {
            return Ok(Position::default());
        };
        if file.metadata()?.len() < done.bytes || tail(file, done.bytes)? != done.tail {
            return Ok(Position::default());
        }
        Ok(Position { bytes: done.bytes, lines: done.lines })
    }

    /// Notes that a file is done up to `position`.
    pub fn advance(&mut self, source: &Source, position: Position) -> Result<(), CliError> {
        let (Some(_), Some(path), Some(key)) = (&self.file, &source.path, key(source)) else {
            return Ok(());
        };
        let tail = File::open(path).and_then(|mut file| tail(&mut file, position.bytes)).map_err(CliError::io(path))?;
        self.state.files.insert(key, Done { bytes: position.bytes, lines: position.lines, tail });
        Ok(())
    }

    /// Writes the state file, in place of the old one in one step.
    pub fn save(&self) -> Result<(), CliError> {
        let Some(file) = &self.file else {
            return Ok(());
        };
        let part = file.with_added_extension("part");
        let written = File::create(&part).and_then(|mut out| {
            serde_json::to_writer_pretty(&mut out, &self.state)?;
            out.write_all(b"\n")?;
            out.sync_all()?;
            std::fs::rename(&part, file)
        });
        written.map_err(CliError::io(file))
    }
}

fn check(state: serde_json::Result<State>, target: &str) -> Result<State, String> {
    let state = state.map_err(|error| format!("not the state of an import: {error}"))?;
    if state.version != VERSION {
        return Err(format!("has version {}, this program knows {VERSION}", state.version));
    }
    if state.target != target {
        return Err(
            "belongs to an import with another router, collection, type or session; name another file".to_owned()
        );
    }
    Ok(state)
}

/// One file has one name, wherever the command runs.
fn key(source: &Source) -> Option<PathBuf> {
    source.path.as_ref().and_then(|path| path.canonicalize().ok())
}

fn tail(file: &mut File, end: u64) -> std::io::Result<String> {
    let start = end.saturating_sub(TAIL_BYTES);
    file.seek(SeekFrom::Start(start))?;
    let mut bytes = Vec::new();
    file.take(end - start).read_to_end(&mut bytes)?;
    Ok(blake3::hash(&bytes).to_hex()[..32].to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::import::source::Format;

    struct Fixture {
        _folder: tempfile::TempDir,
        state: PathBuf,
        data: PathBuf,
        source: Source,
    }

    fn fixture(content: &str) -> Fixture {
        let folder = tempfile::tempdir().unwrap();
        let (state, data) = (folder.path().join("state"), folder.path().join("data.jsonl"));
        std::fs::write(&data, content).unwrap();
        let source = Source {
            name: "data.jsonl".into(),
            path: Some(data.clone()),
            format: Format::Jsonl,
            length: 0,
            full_path: None,
        };
        Fixture { _folder: folder, state, data, source }
    }

    fn resumed(fixture: &Fixture) -> Position {
        let checkpoint = Checkpoint::load(Some(&fixture.state), "t").unwrap();
        checkpoint.resume(&fixture.source, &mut File::open(&fixture.data).unwrap()).unwrap()
    }

    #[test]
    fn goes_on_where_it_was_unless_the_file_was_rewritten() {
        let fixture = fixture("one\ntwo\n");
        assert_eq!(resumed(&fixture), Position::default());

        let mut checkpoint = Checkpoint::load(Some(&fixture.state), "t").unwrap();
        let reached = Position { bytes: 4, lines: 1 };
        checkpoint.advance(&fixture.source, reached).unwrap();
        checkpoint.save().unwrap();
        assert_eq!(resumed(&fixture), reached);

        std::fs::write(&fixture.data, "one\nother\nmore\n").unwrap();
        assert_eq!(resumed(&fixture), reached, "what comes after may change");
        std::fs::write(&fixture.data, "0ne\ntwo\n").unwrap();
        assert_eq!(resumed(&fixture), Position::default());
        std::fs::write(&fixture.data, "on").unwrap();
        assert_eq!(resumed(&fixture), Position::default());
    }

    #[test]
    fn refuses_the_state_of_another_import_and_what_is_no_state() {
        let fixture = fixture("");
        Checkpoint::load(Some(&fixture.state), "t").unwrap().save().unwrap();
        assert!(Checkpoint::load(Some(&fixture.state), "t").is_ok());
        assert!(Checkpoint::load(Some(&fixture.state), "other").is_err());
        std::fs::write(&fixture.state, "{}").unwrap();
        assert!(Checkpoint::load(Some(&fixture.state), "t").is_err());
    }
}
