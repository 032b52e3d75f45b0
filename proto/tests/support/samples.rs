//! Committed samples of formats: what this build writes, and must go on reading.
//!
//! `CRATE/samples/v1.txt` has a line for each format: its name, and one value's bytes in hex. When a test says that a sample
//! no longer fits, a format has changed. Then:
//!
//! - nothing that reads it was ever released: change it in place, and write the samples anew with `UPDATE_GOLDEN=1`;
//! - something was: raise the format's version byte, keep the old sample under its old name, read both, and add a sample of
//!   the new version. Data and peers of the release before must be understood (ADR and `CHANGELOG.md` say for how long).
//!
//! Included by `#[path]` into the tests of the crates that have formats.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::PathBuf;

/// The samples of one crate.
pub struct Samples {
    path: PathBuf,
    committed: BTreeMap<String, Vec<u8>>,
    written: BTreeMap<String, Vec<u8>>,
}

impl Samples {
    /// Those of the crate with this root folder.
    pub fn of(root: &str) -> Samples {
        let path = PathBuf::from(root).join("samples/v1.txt");
        let text = std::fs::read_to_string(&path).unwrap_or_default();
        let lines = text.lines().map(|line| line.split_once(' ').expect("a name and hex"));
        let committed = lines.map(|(name, hex)| (name.to_owned(), from_hex(hex))).collect();
        Samples { path, committed, written: BTreeMap::new() }
    }

    /// Checks that a value is written as it was when its sample was committed, and gives the committed bytes, to be read.
    pub fn check(&mut self, name: &str, written: &[u8]) -> Vec<u8> {
        self.written.insert(name.to_owned(), written.to_vec());
        if updating() {
            return written.to_vec();
        }
        let help = "see proto/tests/support/samples.rs for what to do when a format changes";
        let committed = self.committed.get(name).unwrap_or_else(|| panic!("no sample of {name} is committed; {help}"));
        assert!(committed == written, "{name} is written as {}, not as committed; {help}", to_hex(written));
        committed.clone()
    }

    /// Every committed sample was checked.
    pub fn finish(self) {
        if updating() {
            let lines = self.written.iter().map(|(name, bytes)| format!("{name} {}\n", to_hex(bytes)));
            std::fs::create_dir_all(self.path.parent().expect("it has a folder")).expect("a folder");
            return std::fs::write(&self.path, lines.collect::<String>()).expect("written");
        }
        let unchecked: Vec<&String> = self.committed.keys().filter(|name| !self.written.contains_key(*name)).collect();
        assert!(unchecked.is_empty(), "nobody reads these samples any more: {unchecked:?}");
    }
}

fn updating() -> bool {
    std::env::var_os("UPDATE_GOLDEN").is_some()
}

fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut hex, byte| {
        let _ = write!(hex, "{byte:02x}");
        hex
    })
}

fn from_hex(hex: &str) -> Vec<u8> {
    let digits: Vec<u8> = hex.chars().map(|digit| digit.to_digit(16).expect("a hex digit") as u8).collect();
    digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect()
}
