//! What to import: from paths to a sorted list of files with their formats.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::ValueEnum;
use serde::Serialize;
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
    /// Its path from the root of the file system, by which what was made of it is found again; none of standard input.
    pub full_path: Option<String>,
}

/// A folder named on the command line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Folder {
    /// Its path from the root of the file system.
    pub full_path: String,
    /// All of it could be looked at, and something of it is imported.
    pub is_whole: bool,
}

/// What was found under the paths.
#[derive(Debug, Default)]
pub struct Sources {
    /// To import, in the order named, folders sorted by name; each once.
    pub sources: Vec<Arc<Source>>,
    /// The folders that they were found in.
    pub folders: Vec<Folder>,
    /// What could not be looked at, and why.
    pub unreadable: Vec<(String, String)>,
    /// What is left out of folders.
    pub skipped: Skipped,
}

/// What an import leaves out of folders.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize)]
pub struct Skipped {
    /// Files whose format nothing tells.
    pub files: u64,
    /// Files and folders whose names begin with a dot.
    pub hidden: u64,
    /// Links, which may lead in circles, by name.
    pub links: Vec<String>,
    /// Pipes, sockets and devices, by name.
    pub special: Vec<String>,
}

/// Finds what to read. Hidden files and folders, links and special files in folders are left out, and told.
pub fn find(paths: &[PathBuf], format: Option<Format>) -> Result<Sources, CliError> {
    let mut found = Sources::default();
    for path in paths {
        if path.as_os_str() == "-" {
            let format = format.unwrap_or(Format::Jsonl);
            found.sources.push(Arc::new(Source {
                name: "-".to_owned(),
                path: None,
                format,
                length: 0,
                full_path: None,
            }));
        } else if std::fs::metadata(path).map_err(CliError::io(path))?.is_dir() {
            let (files, unreadable) = (found.sources.len(), found.unreadable.len());
            found.walk(path, format)?;
            let is_whole = found.sources.len() > files && found.unreadable.len() == unreadable;
            found.folders.push(Folder { full_path: full_path(path).map_err(CliError::io(path))?, is_whole });
        } else {
            let format = format.or_else(|| Format::of(path)).ok_or_else(|| unknown_format(path))?;
            format.check()?;
            found.sources.push(Arc::new(source(path, format).map_err(CliError::io(path))?));
        }
    }
    let mut seen = HashSet::new();
    found.sources.retain(|source| source.full_path.as_ref().is_none_or(|path| seen.insert(path.clone())));
    Ok(found)
}

fn full_path(path: &Path) -> std::io::Result<String> {
    Ok(path.canonicalize()?.to_string_lossy().into_owned())
}

impl Sources {
    fn walk(&mut self, folder: &Path, format: Option<Format>) -> Result<(), CliError> {
        let mut entries = WalkDir::new(folder).sort_by_file_name().into_iter();
        while let Some(entry) = entries.next() {
            let entry = match entry {
                Ok(entry) => entry,
                // One that cannot be read is no reason to leave the others.
                Err(error) => {
                    self.unreadable.push(unreadable(folder, error));
                    continue;
                }
            };
            if entry.depth() > 0 && entry.file_name().as_encoded_bytes().starts_with(b".") {
                self.skipped.hidden += 1;
                if entry.file_type().is_dir() {
                    entries.skip_current_dir();
                }
                continue;
            }
            self.add(&entry, format)?;
        }
        Ok(())
    }

    /// Adds what is no folder to what it is.
    fn add(&mut self, entry: &DirEntry, format: Option<Format>) -> Result<(), CliError> {
        let (path, kind) = (entry.path(), entry.file_type());
        let name = || path.display().to_string();
        if kind.is_symlink() {
            self.skipped.links.push(name());
        } else if kind.is_file() {
            let Some(format) = format.or_else(|| Format::of(path)) else {
                self.skipped.files += 1;
                return Ok(());
            };
            format.check()?;
            match source(path, format) {
                Ok(source) => self.sources.push(Arc::new(source)),
                Err(error) => self.unreadable.push((name(), error.to_string())),
            }
        } else if !kind.is_dir() {
            self.skipped.special.push(name());
        }
        Ok(())
    }
}

/// What a walk could not read, and why.
fn unreadable(folder: &Path, error: walkdir::Error) -> (String, String) {
    let name = error.path().unwrap_or(folder).display().to_string();
    let reason = error.io_error().map_or_else(|| error.to_string(), ToString::to_string);
    (name, reason)
}

fn source(path: &Path, format: Format) -> std::io::Result<Source> {
    let length = std::fs::metadata(path)?.len();
    let full_path = Some(full_path(path)?);
    Ok(Source { name: path.display().to_string(), path: Some(path.to_owned()), format, length, full_path })
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
        assert_eq!(found.skipped, Skipped { files: 1, hidden: 2, ..Skipped::default() });
    }

    #[test]
    fn links_and_special_files_are_counted_and_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        std::fs::write(path("a.md"), "x").unwrap();
        std::os::unix::fs::symlink(path("a.md"), path("link.md")).unwrap();
        std::os::unix::fs::symlink(folder.path(), path("circle")).unwrap();
        std::os::unix::fs::symlink(path("nowhere"), path("dangling.md")).unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(path("socket.txt")).unwrap();
        let found = find(&[folder.path().to_owned()], Some(Format::Text)).unwrap();
        assert_eq!(found.sources.len(), 1);
        let last =
            |names: &[String]| names.iter().map(|n| n.rsplit('/').next().unwrap().to_owned()).collect::<Vec<_>>();
        assert_eq!(last(&found.skipped.links), ["circle", "dangling.md", "link.md"]);
        assert_eq!(last(&found.skipped.special), ["socket.txt"]);
    }

    #[test]
    fn what_cannot_be_read_is_named_and_the_rest_is_found() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("a.md"), "x").unwrap();
        let mut found = Sources::default();
        // A folder that is gone when it is read: what a walk says of one that it may not read, too.
        found.walk(&folder.path().join("gone"), None).unwrap();
        found.walk(folder.path(), None).unwrap();
        assert_eq!(found.sources.len(), 1);
        let [(name, reason)] = &found.unreadable[..] else { panic!("{found:?}") };
        assert!(name.ends_with("gone") && reason.contains("No such file"), "{name}: {reason}");
    }

    #[test]
    fn a_file_of_unknown_format_is_wrong_usage() {
        let file = tempfile::Builder::new().suffix(".bin").tempfile().unwrap();
        assert!(matches!(find(&[file.path().to_owned()], None), Err(CliError::Usage(_))));
        assert_eq!(find(&[file.path().to_owned()], Some(Format::Text)).unwrap().sources.len(), 1);
    }
}
