//! Files beside an export: the large contents of memories, which no line or row could hold.
//!
//! A record names its file by a path within the folder of files, with media type, size and BLAKE3. What writes a record and
//! what reads it agree on the folder only: it lies beside the export under its name with `.files` added, unless somebody
//! says where. A path from a record is never trusted: it has plain names only, and none of them may be a link, so that an
//! import reads nothing outside the folder. A file that is missing, shorter or altered is the fault of its record alone.

use std::fs::File;
use std::io;
use std::path::{Component, Path, PathBuf};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// What a record says of its file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileRef {
    /// Where it lies in the folder of files, names parted by `/`.
    pub path: String,
    /// Its media type; told from its name when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content_type: Option<String>,
    /// Its bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<u64>,
    /// Its BLAKE3, in hexadecimal digits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub blake3: Option<String>,
}

/// Why a record's file is not taken.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// Nobody says where files are.
    #[error("attachment {0:?}: from standard input, say where the files are (--files DIR)")]
    NoFolder(String),
    /// The path is not one of plain names.
    #[error("attachment {0:?} is no path within the folder of files")]
    Escapes(String),
    /// A link may lead anywhere.
    #[error("attachment {0:?}: {1} is a link, which is not followed")]
    Link(String, PathBuf),
    /// A folder, a pipe.
    #[error("attachment {0:?} is not a file")]
    NotAFile(String),
    /// Not there, not readable.
    #[error("attachment {0:?}: {1}: {2}")]
    Io(String, PathBuf, io::Error),
    /// Shorter or longer.
    #[error("attachment {0:?} has {1} bytes, its record says {2}")]
    Size(String, u64, u64),
    /// Other bytes.
    #[error("attachment {0:?} was altered: its BLAKE3 is not what its record says")]
    Altered(String),
}

/// A file that is what its record says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckedFile {
    /// Path of the file, relative to the folder of files.
    pub path: PathBuf,
    /// Its media type.
    pub content_type: String,
    /// Its bytes.
    pub size: u64,
    /// Its BLAKE3.
    pub blake3: blake3::Hash,
}

/// A record's file, and the folder of files.
#[derive(Debug, Clone)]
pub struct Attached {
    /// The folder, if it is known.
    pub folder: Option<PathBuf>,
    /// What the record says.
    pub file: FileRef,
}

/// Where the files of an export are, when nobody says.
pub fn folder_beside(export: &Path) -> PathBuf {
    export.with_added_extension("files")
}

/// Where the content of a memory's version goes: many folders, so that none has too many files.
pub fn path_of(id: Uuid, version: u64) -> String {
    format!("{:02x}/{id}.v{version}", id.as_bytes()[15])
}

/// BLAKE3 and size of a file.
pub fn digest(path: &Path) -> io::Result<(blake3::Hash, u64)> {
    let mut hasher = blake3::Hasher::new();
    hasher.update_reader(File::open(path)?)?;
    Ok((hasher.finalize(), hasher.count()))
}

impl Attached {
    /// Finds the file and compares it with what the record says. Reads all of it.
    pub fn check(&self) -> Result<CheckedFile, FileError> {
        let FileRef { path: name, content_type, size, blake3 } = &self.file;
        let path = self.locate()?;
        let io = |error| FileError::Io(name.clone(), path.clone(), error);
        let length = std::fs::metadata(&path).map_err(io)?.len();
        if let Some(size) = size.filter(|&size| size != length) {
            return Err(FileError::Size(name.clone(), length, size));
        }
        let (hash, size) = digest(&path).map_err(io)?;
        if blake3.as_ref().is_some_and(|said| *said != hash.to_hex().as_str()) {
            return Err(FileError::Altered(name.clone()));
        }
        let guess = || mime_guess::from_path(&path).first_or_octet_stream().to_string();
        let content_type = content_type.clone().unwrap_or_else(guess);
        Ok(CheckedFile { content_type, size, blake3: hash, path })
    }

    fn locate(&self) -> Result<PathBuf, FileError> {
        let name = &self.file.path;
        let mut path = self.folder.clone().ok_or_else(|| FileError::NoFolder(name.clone()))?;
        let relative = Path::new(name);
        let is_plain = |part: &str| !part.is_empty() && part != "." && part != ".." && !part.contains('\\');
        if relative.is_absolute() || !name.split('/').all(is_plain) {
            return Err(FileError::Escapes(name.clone()));
        }
        let mut kind = None;
        for component in relative.components() {
            let Component::Normal(part) = component else { return Err(FileError::Escapes(name.clone())) };
            path.push(part);
            let found = std::fs::symlink_metadata(&path);
            let found = found.map_err(|error| FileError::Io(name.clone(), path.clone(), error))?.file_type();
            if found.is_symlink() {
                return Err(FileError::Link(name.clone(), path));
            }
            kind = Some(found);
        }
        if kind.is_some_and(|kind| kind.is_file()) { Ok(path) } else { Err(FileError::NotAFile(name.clone())) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attached(folder: &Path, path: &str) -> Attached {
        let file = FileRef { path: path.to_owned(), content_type: None, size: None, blake3: None };
        Attached { folder: Some(folder.to_owned()), file }
    }

    fn said(attached: &Attached) -> String {
        attached.check().unwrap_err().to_string()
    }

    #[test]
    fn a_path_stays_in_its_folder() {
        let outside = tempfile::tempdir().unwrap();
        let folder = outside.path().join("files");
        std::fs::create_dir_all(folder.join("aa")).unwrap();
        std::fs::write(outside.path().join("secret"), "s").unwrap();
        std::fs::write(folder.join("aa/good.txt"), "good").unwrap();
        std::os::unix::fs::symlink(outside.path().join("secret"), folder.join("aa/link")).unwrap();
        std::os::unix::fs::symlink(outside.path(), folder.join("way-out")).unwrap();
        let good = attached(&folder, "aa/good.txt").check().unwrap();
        assert_eq!((good.size, good.content_type.as_str()), (4, "text/plain"));
        assert_eq!(good.blake3, blake3::hash(b"good"));
        let absolute = outside.path().join("secret");
        for path in
            ["", ".", "..", "../secret", "aa/../../secret", "aa//good.txt", "/etc/passwd", "aa/", "./aa/good.txt"]
                .into_iter()
                .chain(absolute.to_str())
        {
            assert!(said(&attached(&folder, path)).contains("no path within"), "{path:?}");
        }
        for path in ["aa/link", "way-out/secret"] {
            assert!(said(&attached(&folder, path)).contains("is a link"), "{path:?}");
        }
        assert!(said(&attached(&folder, "aa")).contains("not a file"));
        assert!(said(&attached(&folder, "aa/none")).contains("No such file"));
        assert!(said(&Attached { folder: None, ..attached(&folder, "aa/good.txt") }).contains("--files"));
    }

    #[test]
    fn a_file_is_what_its_record_says() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("a"), "12345").unwrap();
        let mut a = attached(folder.path(), "a");
        a.file.size = Some(5);
        a.file.blake3 = Some(blake3::hash(b"12345").to_hex().to_string());
        a.file.content_type = Some("video/webm".into());
        assert_eq!(a.check().unwrap().content_type, "video/webm");
        std::fs::write(folder.path().join("a"), "12346").unwrap();
        assert!(said(&a).contains("was altered"));
        std::fs::write(folder.path().join("a"), "1234").unwrap();
        assert!(said(&a).contains("has 4 bytes, its record says 5"));
    }

    #[test]
    fn paths_of_exports_are_paths_of_imports() {
        let folder = tempfile::tempdir().unwrap();
        let id = Uuid::from_u128(0x0198_0000_0000_7000_8000_0000_0000_beef);
        let path = path_of(id, 3);
        assert_eq!(path, "ef/01980000-0000-7000-8000-00000000beef.v3");
        std::fs::create_dir(folder.path().join("ef")).unwrap();
        std::fs::write(folder.path().join(&path), "x").unwrap();
        assert_eq!(attached(folder.path(), &path).check().unwrap().size, 1);
        assert_eq!(folder_beside(Path::new("a/notes.jsonl")), Path::new("a/notes.jsonl.files"));
    }
}
