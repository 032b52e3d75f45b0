//! What to import: from paths to a sorted list of files with their formats.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::ValueEnum;
use walkdir::{DirEntry, WalkDir};

use crate::error::CliError;
use crate::import::identity::Origin;

/// How a file is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// One JSON object a line, with the fields of `store`
    Jsonl,
    /// The whole file is one text, split only where it is over the limit
    Text,
    /// One text for each section under a heading
    Markdown,
    /// The file of the MCP reference memory server: entities and relations, JSON Lines
    McpMemory,
    /// What mem0's `get_all` answers, as JSON
    Mem0,
    /// The index of a memvid video (…_index.json)
    Memvid,
    /// A table, with the fields of `store` as columns
    Parquet,
}

impl Format {
    /// Whether the file is read as a whole, so that its reader itself leaves out what is done.
    pub fn is_document(self) -> bool {
        matches!(self, Format::Markdown | Format::Mem0 | Format::Memvid | Format::Parquet)
    }

    /// Who wrote the metadata of its records.
    pub fn origin(self) -> Origin {
        match self {
            Format::Text | Format::Markdown => Origin::File,
            Format::Jsonl | Format::McpMemory | Format::Mem0 | Format::Memvid | Format::Parquet => Origin::Record,
        }
    }

    /// Refuses a format that this build cannot read or write.
    pub fn check(self) -> Result<(), CliError> {
        #[cfg(not(feature = "parquet"))]
        if self == Format::Parquet {
            return Err(CliError::NotBuilt { what: "the format parquet".to_owned(), feature: "parquet" });
        }
        Ok(())
    }

    /// By the ending of the name; none when it says nothing.
    fn of(path: &Path) -> Option<Format> {
        let ending = path.extension()?.to_str()?.to_ascii_lowercase();
        match ending.as_str() {
            "jsonl" | "ndjson" => Some(Format::Jsonl),
            "parquet" => Some(Format::Parquet),
            "md" | "markdown" | "mdown" | "mkd" => Some(Format::Markdown),
            "txt" | "text" | "rst" | "adoc" | "org" | "log" => Some(Format::Text),
            _ => None,
        }
    }
}

/// A file to read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// How messages and metadata name it: as the caller wrote it.
    pub name: String,
    /// Where it lies; none is standard input.
    pub path: Option<PathBuf>,
    /// How it is read.
    pub format: Format,
    /// Bytes; 0 where that cannot be known.
    pub length: u64,
}

/// What was found under the paths.
#[derive(Debug, Default)]
pub struct Sources {
    /// To import, in the order named, folders sorted by name.
    pub sources: Vec<Arc<Source>>,
    /// Files in folders whose format nothing tells.
    pub skipped: u64,
}

/// Finds what to read. Hidden files and folders are left out, and so are links, which may lead in circles.
pub fn find(paths: &[PathBuf], format: Option<Format>) -> Result<Sources, CliError> {
    let mut found = Sources::default();
    for path in paths {
        if path.as_os_str() == "-" {
            let format = format.unwrap_or(Format::Jsonl);
            found.sources.push(Arc::new(Source { name: "-".to_owned(), path: None, format, length: 0 }));
        } else if std::fs::metadata(path).map_err(CliError::io(path))?.is_dir() {
            walk(path, format, &mut found)?;
        } else {
            let format = format.or_else(|| Format::of(path)).ok_or_else(|| unknown_format(path))?;
            found.sources.push(Arc::new(source(path, format)?));
        }
    }
    Ok(found)
}

fn walk(folder: &Path, format: Option<Format>, found: &mut Sources) -> Result<(), CliError> {
    let hidden = |entry: &DirEntry| entry.depth() > 0 && entry.file_name().as_encoded_bytes().starts_with(b".");
    for entry in WalkDir::new(folder).sort_by_file_name().into_iter().filter_entry(|entry| !hidden(entry)) {
        let entry = entry.map_err(|error| CliError::io(folder)(error.into()))?;
        if !entry.file_type().is_file() {
            continue;
        }
        match format.or_else(|| Format::of(entry.path())) {
            Some(format) => found.sources.push(Arc::new(source(entry.path(), format)?)),
            None => found.skipped += 1,
        }
    }
    Ok(())
}

fn source(path: &Path, format: Format) -> Result<Source, CliError> {
    format.check()?;
    let length = std::fs::metadata(path).map_err(CliError::io(path))?.len();
    Ok(Source { name: path.display().to_string(), path: Some(path.to_owned()), format, length })
}

fn unknown_format(path: &Path) -> CliError {
    let name = path.display();
    CliError::Usage(match path.extension().and_then(|ending| ending.to_str()) {
        Some("mv2") => format!(
            "{name}: the files of memvid 2 are no documented format; have memvid write its texts as JSON Lines and import those"
        ),
        _ => format!("{name}: its name does not tell its format; say --format (mira import --help lists them)"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_are_walked_in_order_without_hidden_files() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["b.md", "a.txt", "c.png", ".hidden.md", "sub/d.jsonl", ".git/e.md"] {
            let path = folder.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "x").unwrap();
        }
        let found = find(&[folder.path().to_owned()], None).unwrap();
        let names: Vec<_> = found.sources.iter().map(|s| s.name.rsplit('/').next().unwrap().to_owned()).collect();
        assert_eq!(names, ["a.txt", "b.md", "d.jsonl"]);
        assert_eq!(found.skipped, 1);
    }

    #[test]
    fn a_file_of_unknown_format_is_wrong_usage() {
        let file = tempfile::Builder::new().suffix(".bin").tempfile().unwrap();
        assert!(matches!(find(&[file.path().to_owned()], None), Err(CliError::Usage(_))));
        assert_eq!(find(&[file.path().to_owned()], Some(Format::Text)).unwrap().sources.len(), 1);
    }
}
