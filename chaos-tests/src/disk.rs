//! What can happen to a node's disk: it fills up, or it forgets which bits it was given.

use std::{
    fs, io,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    process::Command,
};

use rand::{Rng, seq::IndexedRandom};

/// Bytes of a small disk: room for the preallocated logs of both engines, little enough to be filled at once.
const SMALL_DISK_BYTES: u64 = 512 << 20;
/// The ballast is written in pieces; the last ones find where the room ends.
const BALLAST_PIECE: usize = 1 << 20;
const BALLAST: &str = "ballast";

/// A file system of its own in memory, of bounded size. Unmounted when dropped.
pub struct SmallDisk {
    folder: PathBuf,
}

impl SmallDisk {
    /// Mounts one at `folder`.
    ///
    /// # Errors
    /// What the system said, when it lets nobody mount here.
    pub fn mount(folder: &Path) -> Result<SmallDisk, String> {
        fs::create_dir_all(folder).map_err(|error| error.to_string())?;
        let options = format!("size={SMALL_DISK_BYTES}");
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &options, "mira-chaos"]).arg(folder);
        match mount.output() {
            Ok(done) if done.status.success() => Ok(SmallDisk { folder: folder.to_owned() }),
            Ok(done) => Err(String::from_utf8_lossy(&done.stderr).trim().to_owned()),
            Err(error) => Err(format!("mount: {error}")),
        }
    }

    /// Leaves no room; returns how many bytes that took.
    pub fn fill(&self) -> u64 {
        let file = fs::File::create(self.folder.join(BALLAST)).expect("the ballast's name fits");
        let (mut at, mut piece) = (0, BALLAST_PIECE);
        while piece > 0 {
            match file.write_at(&vec![b'b'; piece], at) {
                Ok(0) | Err(_) => piece /= 2,
                Ok(written) => at += written as u64,
            }
        }
        at
    }

    /// Makes room again.
    pub fn relieve(&self) {
        // Without ballast there is room already.
        let _ = fs::remove_file(self.folder.join(BALLAST));
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: a process that was killed a moment ago may still hold a file.
        let _ = Command::new("umount").arg("--lazy").arg(&self.folder).status();
    }
}

/// Copies a data folder, and puts the copy back where it was.
pub struct Copy {
    original: PathBuf,
    copy: PathBuf,
}

impl Copy {
    /// Copies `folder` beside it.
    pub fn of(folder: &Path) -> io::Result<Copy> {
        let copy = folder.with_extension("copy");
        let _ = fs::remove_dir_all(&copy);
        copy_all(folder, &copy)?;
        Ok(Copy { original: folder.to_owned(), copy })
    }

    /// Puts the copy in the place of the original's content.
    pub fn restore(self) -> io::Result<()> {
        for entry in fs::read_dir(&self.original)? {
            let path = entry?.path();
            if path.is_dir() { fs::remove_dir_all(path)? } else { fs::remove_file(path)? }
        }
        copy_all(&self.copy, &self.original)
    }
}

impl Drop for Copy {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.copy);
    }
}

fn copy_all(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let path = entry?.path();
        let name = to.join(path.file_name().expect("an entry has a name"));
        if path.is_dir() { copy_all(&path, &name)? } else { fs::copy(&path, &name).map(drop)? }
    }
    Ok(())
}

/// Flips `count` bits in one file below `folder`, where it holds something; returns which file, and where.
///
/// Only files that hold data are hit: not the engine's own log of what it does, which nothing reads.
pub fn flip_bits(folder: &Path, count: usize, rng: &mut impl Rng) -> io::Result<String> {
    let mut files = Vec::new();
    data_files(folder, &mut files)?;
    files.sort();
    let Some(path) = files.choose(rng) else { return Ok("nothing: there is no data yet".into()) };
    let mut bytes = fs::read(path)?;
    let written: Vec<usize> = (0..bytes.len()).filter(|&at| bytes[at] != 0).collect();
    let mut places: Vec<usize> = (0..count).filter_map(|_| written.choose(rng).copied()).collect();
    places.sort_unstable();
    for &place in &places {
        bytes[place] ^= 1 << rng.random_range(0..8);
    }
    fs::write(path, &bytes)?;
    let shown = path.strip_prefix(folder).unwrap_or(path).display();
    Ok(format!("{shown} ({} bytes) at {places:?}", bytes.len()))
}

fn data_files(folder: &Path, files: &mut Vec<PathBuf>) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let kept = [".sst", ".log", ".blob", ".json"].iter().any(|ending| name.ends_with(ending));
        if path.is_dir() {
            data_files(&path, files)?;
        } else if (kept || name.starts_with("MANIFEST")) && path.metadata()?.len() > 0 {
            files.push(path);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;

    #[test]
    fn flipped_bits_are_undone_by_the_copy() {
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path().join("data");
        fs::create_dir_all(data.join("state")).unwrap();
        let file = data.join("state/000007.sst");
        fs::write(&file, vec![7; 10_000]).unwrap();
        fs::write(data.join("state/LOG"), "not data").unwrap();
        let copy = Copy::of(&data).unwrap();
        let what = flip_bits(&data, 4, &mut rand::rngs::StdRng::seed_from_u64(1)).unwrap();
        assert!(what.starts_with("state/000007.sst (10000 bytes) at ["), "{what}");
        assert_ne!(fs::read(&file).unwrap(), vec![7; 10_000]);
        copy.restore().unwrap();
        assert_eq!(fs::read(&file).unwrap(), vec![7; 10_000]);
    }
}
