//! Searching every byte of a folder for marks that must not be readable there.
//!
//! A mark is looked for as it is, in UTF-16 (both orders), in hexadecimal (both cases) and in base64 at each of the
//! three offsets it may have inside a longer text. Files are read whole, so nothing hides at a chunk's edge.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use base64::{Engine, engine::general_purpose::STANDARD_NO_PAD};

/// A mark that was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// Where.
    pub file: PathBuf,
    /// At which byte.
    pub offset: usize,
    /// Which mark.
    pub mark: String,
    /// In which form.
    pub form: &'static str,
}

/// What a scan saw.
#[derive(Debug, Default)]
pub struct Scan {
    /// Files read.
    pub files: usize,
    /// Bytes read.
    pub bytes: u64,
    /// Marks found.
    pub findings: Vec<Finding>,
}

/// Scans all files below `folder` for all `marks`.
pub fn scan(folder: &Path, marks: &[&str]) -> io::Result<Scan> {
    let needles: Vec<(String, &'static str, Vec<u8>)> = marks
        .iter()
        .flat_map(|mark| forms(mark).into_iter().map(|(form, bytes)| ((*mark).to_owned(), form, bytes)))
        .collect();
    let mut seen = Scan::default();
    walk(folder, &mut |file| {
        let bytes = fs::read(file)?;
        seen.files += 1;
        seen.bytes += bytes.len() as u64;
        for (mark, form, needle) in &needles {
            if let Some(offset) = memchr::memmem::find(&bytes, needle) {
                seen.findings.push(Finding { file: file.to_owned(), offset, mark: mark.clone(), form });
            }
        }
        Ok(())
    })?;
    Ok(seen)
}

/// Every form in which `mark` would betray itself.
fn forms(mark: &str) -> Vec<(&'static str, Vec<u8>)> {
    let raw = mark.as_bytes();
    let hex: String = raw.iter().map(|byte| format!("{byte:02x}")).collect();
    let mut forms = vec![
        ("raw", raw.to_vec()),
        ("utf-16 le", mark.encode_utf16().flat_map(u16::to_le_bytes).collect()),
        ("utf-16 be", mark.encode_utf16().flat_map(u16::to_be_bytes).collect()),
        ("hex", hex.clone().into_bytes()),
        ("HEX", hex.to_uppercase().into_bytes()),
    ];
    for (name, shift) in [("base64", 0), ("base64 +1", 1), ("base64 +2", 2)] {
        let shifted = [&b"xx"[..shift], raw].concat();
        let text = STANDARD_NO_PAD.encode(shifted).into_bytes();
        // The first and last characters share bits with what stands around the mark.
        let from = if shift == 0 { 0 } else { shift + 1 };
        forms.push((name, text[from..text.len() - 2].to_vec()));
    }
    forms
}

fn walk(folder: &Path, visit: &mut dyn FnMut(&Path) -> io::Result<()>) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() { walk(&path, visit)? } else { visit(&path)? }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_is_found_wherever_it_stands() {
        let mark = "marked-PLAINTEXT-7f3a";
        for lead in ["", "a", "ab", "abc"] {
            let text = format!("{lead}{mark} and more");
            let hex: String = text.bytes().map(|byte| format!("{byte:02x}")).collect();
            let samples: Vec<Vec<u8>> = vec![
                text.clone().into_bytes(),
                text.encode_utf16().flat_map(u16::to_le_bytes).collect(),
                text.encode_utf16().flat_map(u16::to_be_bytes).collect(),
                hex.to_uppercase().into_bytes(),
                hex.into_bytes(),
                STANDARD_NO_PAD.encode(&text).into_bytes(),
            ];
            for sample in samples {
                let folder = tempfile::tempdir().unwrap();
                fs::write(folder.path().join("file"), &sample).unwrap();
                let seen = scan(folder.path(), &[mark]).unwrap();
                // One order of UTF-16, a byte later, reads as the other.
                assert!(!seen.findings.is_empty(), "lead {lead:?}: {}", sample.escape_ascii());
            }
        }
    }

    #[test]
    fn nothing_is_found_where_nothing_is() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("file"), "marked-plaintext is not the mark").unwrap();
        assert_eq!(scan(folder.path(), &["marked-PLAINTEXT-7f3a"]).unwrap().findings, []);
    }
}
