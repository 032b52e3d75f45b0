//! The folders that databases lie in, and which of them counts.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

/// Name of the subfolders for rebuilt databases, before their number.
const REBUILT: &str = "rebuilt-";
/// The file that says that such a database has all there was to save.
const WHOLE: &str = "WHOLE";

/// The folder of a database.
pub(super) struct Folder {
    pub path: PathBuf,
    /// Counted up from 0, the engine's own folder.
    number: u32,
    remove_on_drop: AtomicBool,
}

impl Folder {
    /// The folder that counts of an engine at `path`, after removing those before it and those that were never whole.
    pub fn current(path: &Path) -> io::Result<Self> {
        let mut rebuilt = Vec::new();
        for entry in fs::read_dir(path).into_iter().flatten() {
            let entry = entry?;
            let number = entry.file_name().to_str().and_then(|name| name.strip_prefix(REBUILT)?.parse::<u32>().ok());
            rebuilt.extend(number.map(|number| (number, entry.path())));
        }
        rebuilt.sort();
        let newest = rebuilt.iter().rposition(|(_, folder)| folder.join(WHOLE).exists());
        for (at, (_, folder)) in rebuilt.iter().enumerate() {
            if Some(at) != newest {
                fs::remove_dir_all(folder)?;
            }
        }
        let Some((number, folder)) = newest.map(|at| rebuilt.swap_remove(at)) else {
            return Ok(Self::new(path.to_owned(), 0));
        };
        remove_database(path)?;
        Ok(Self::new(folder, number))
    }

    /// An empty folder for the database that is to take this one's place in the engine at `path`.
    pub fn next(&self, path: &Path) -> io::Result<Self> {
        let number = self.number + 1;
        let next = path.join(format!("{REBUILT}{number}"));
        if next.exists() {
            fs::remove_dir_all(&next)?;
        }
        Ok(Self::new(next, number))
    }

    fn new(path: PathBuf, number: u32) -> Self {
        Self { path, number, remove_on_drop: AtomicBool::new(false) }
    }

    /// Says, durably, that this database of the engine at `path` has all there was to save: from now on it counts.
    pub fn mark_whole(&self, path: &Path) -> io::Result<()> {
        File::create(self.path.join(WHOLE))?.sync_all()?;
        File::open(&self.path)?.sync_all()?;
        File::open(path)?.sync_all()
    }

    /// Has the database's files removed with its last user.
    pub fn remove_on_drop(&self) {
        self.remove_on_drop.store(true, Ordering::Relaxed);
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if self.remove_on_drop.load(Ordering::Relaxed)
            && let Err(error) = remove_database(&self.path)
        {
            tracing::warn!(path = %self.path.display(), %error, "a damaged database is not removed now, but at the next start");
        }
    }
}

/// Removes a database's files, and its folder unless others lie in it.
fn remove_database(folder: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if !entry.file_type()?.is_dir() {
            fs::remove_file(entry.path())?;
        } else if !entry.file_name().to_string_lossy().starts_with(REBUILT) {
            fs::remove_dir_all(entry.path())?;
        }
    }
    match fs::remove_dir(folder) {
        Err(error) if error.kind() != io::ErrorKind::DirectoryNotEmpty => Err(error),
        _ => Ok(()),
    }
}
