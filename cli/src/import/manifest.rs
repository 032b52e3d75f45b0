//! What imports have made of files: the list by which a changed part supersedes what it was, and a removed one ends.
//!
//! A manifest lists the memories of a collection by the file that they were imported from: [`Part`]s, each with its name in the
//! file, a hash of what it said, and its id. There is one of the plain memories and one of each owner's private ones, because
//! a hash of a private content confirms a guess. It is kept in the collection itself (`manifests.rs`), so that any machine
//! can go on. This file knows its bytes and its changes; both are pure.
//!
//! What an import may end: parts that this importer stored, of a file that was read to its end without a fault and said
//! something; and those of files that are gone from a folder that was read whole. A part whose memory another file has too
//! stays. What was moved is recognised by the name of its file, its name in it and what it says, where the old file is gone.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::path::Path;

use uuid::Uuid;

use crate::import::identity::Digest;
use crate::import::source::Folder;

/// Version of a page. The one before had no positions.
const VERSION: u8 = 2;
const WITHOUT_POSITIONS: u8 = 1;
/// Parts of a page.
const PAGE_PARTS: usize = 8 << 10;
/// Bytes of paths of a page.
const PAGE_PATHS: usize = 128 << 10;
/// Parts of files that an import keeps track of, 64 bytes each in memory.
pub const MAX_PARTS: usize = 2 << 20;

/// A memory that was made of a part of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Part {
    /// Its name in the file.
    pub name: Digest,
    /// What it said.
    pub said: Digest,
    /// The source key that it was stored under, if that is not the one of its file and name: it was moved here.
    pub key: Option<Digest>,
    /// Its memory.
    pub id: Uuid,
    /// Where it stands in its session, so that what is put before or behind it later stands there too; 0 = not known.
    pub position: u64,
}

/// What was made of a file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FileParts {
    /// Its parts, in their order.
    pub parts: Vec<Part>,
    /// Owners have, or had, private memories of it as well, which their own manifests list.
    pub has_private: bool,
}

/// Files by path.
pub type Manifest = BTreeMap<String, FileParts>;

/// What is wrong with a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PageError {
    /// A newer program has written it.
    #[error("version {0} of the list of imported parts: a newer mira has written it")]
    Version(u8),
    /// It ends early, or has a path that is none.
    #[error("the list of imported parts is damaged")]
    Damaged,
}

/// The bytes of a manifest, in pages. A directory begins a page, so that what changes in one leaves the others as they were.
pub fn pages(manifest: &Manifest) -> Vec<Vec<u8>> {
    let mut pages = Vec::new();
    let mut page = Page::default();
    for (path, file) in manifest {
        let directory = Path::new(path).parent();
        if page.directory.as_deref() != directory {
            page.turn(&mut pages);
            page.directory = directory.map(Path::to_owned);
        }
        let mut parts = &file.parts[..];
        loop {
            if page.parts >= PAGE_PARTS || page.paths >= PAGE_PATHS {
                page.turn(&mut pages);
            }
            let (now, later) = parts.split_at(parts.len().min(PAGE_PARTS - page.parts));
            page.put(path, file.has_private, now);
            parts = later;
            if parts.is_empty() {
                break;
            }
        }
    }
    page.turn(&mut pages);
    pages
}

/// A page in the making.
#[derive(Default)]
struct Page {
    bytes: Vec<u8>,
    directory: Option<std::path::PathBuf>,
    parts: usize,
    paths: usize,
}

impl Page {
    fn put(&mut self, path: &str, has_private: bool, parts: &[Part]) {
        let length = |length: usize| u32::try_from(length).unwrap_or(u32::MAX).to_le_bytes();
        self.bytes.extend_from_slice(&length(path.len()));
        self.bytes.extend_from_slice(path.as_bytes());
        self.bytes.push(u8::from(has_private));
        self.bytes.extend_from_slice(&length(parts.len()));
        for Part { name, said, key, id, position } in parts {
            self.bytes.extend_from_slice(name);
            self.bytes.extend_from_slice(said);
            self.bytes.extend_from_slice(id.as_bytes());
            self.bytes.extend_from_slice(&position.to_le_bytes());
            self.bytes.push(u8::from(key.is_some()));
            self.bytes.extend_from_slice(key.as_ref().map_or(&[], |key| &key[..]));
        }
        (self.parts, self.paths) = (self.parts + parts.len(), self.paths + path.len());
    }

    fn turn(&mut self, pages: &mut Vec<Vec<u8>>) {
        let bytes = std::mem::take(&mut self.bytes);
        if !bytes.is_empty() {
            pages.push([&[VERSION][..], &bytes].concat());
        }
        (self.parts, self.paths) = (0, 0);
    }
}

/// Adds what a page lists to a manifest.
pub fn read_page(page: &[u8], manifest: &mut Manifest) -> Result<(), PageError> {
    let (&version, mut rest) = page.split_first().ok_or(PageError::Damaged)?;
    if ![VERSION, WITHOUT_POSITIONS].contains(&version) {
        return Err(PageError::Version(version));
    }
    while !rest.is_empty() {
        let length = u32::from_le_bytes(*take(&mut rest)?) as usize;
        let (path, after) = rest.split_at_checked(length).ok_or(PageError::Damaged)?;
        let path = std::str::from_utf8(path).map_err(|_| PageError::Damaged)?;
        rest = after;
        let [has_private] = *take(&mut rest)?;
        let count = u32::from_le_bytes(*take(&mut rest)?);
        let file = manifest.entry(path.to_owned()).or_default();
        file.has_private |= has_private != 0;
        for _ in 0..count {
            let (name, said, id) = (*take(&mut rest)?, *take(&mut rest)?, Uuid::from_bytes(*take(&mut rest)?));
            let position = if version == WITHOUT_POSITIONS { 0 } else { u64::from_le_bytes(*take(&mut rest)?) };
            let [has_key] = *take(&mut rest)?;
            let key = if has_key == 0 { None } else { Some(*take(&mut rest)?) };
            file.parts.push(Part { name, said, key, id, position });
        }
    }
    Ok(())
}

fn take<'a, const N: usize>(bytes: &mut &'a [u8]) -> Result<&'a [u8; N], PageError> {
    let (taken, rest) = bytes.split_first_chunk().ok_or(PageError::Damaged)?;
    *bytes = rest;
    Ok(taken)
}

/// What an import has found out about a file.
#[derive(Debug, Clone, Default)]
pub struct FileRun {
    /// Its parts that are in the collection now, by their order.
    pub parts: BTreeMap<u64, Part>,
    /// Private memories were made of it.
    pub has_private: bool,
    /// It was read to its end without a fault, and nothing of it was refused.
    pub is_whole: bool,
    /// Parts that were found in files that are gone, by these files.
    pub moved: BTreeMap<String, HashSet<Digest>>,
}

/// What an import has found out.
#[derive(Debug, Clone, Default)]
pub struct Run {
    /// By path.
    pub files: BTreeMap<String, FileRun>,
    /// Folders that were read.
    pub folders: Vec<Folder>,
    /// What is no longer in its source ends; otherwise it stays.
    pub may_end: bool,
}

/// What becomes of a manifest by an import.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Change {
    /// What it lists now.
    pub manifest: Manifest,
    /// What is to be forgotten.
    pub ended: Vec<Uuid>,
}

/// Applies an import to a manifest. `is_there` says whether a file is there on this machine.
pub fn apply(old: &Manifest, run: &Run, is_there: &dyn Fn(&str) -> bool) -> Change {
    let mut manifest = old.clone();
    let mut gone: Vec<Part> = Vec::new();
    for (path, found) in &run.files {
        let file = manifest.entry(path.clone()).or_default();
        file.has_private |= found.has_private;
        let before = std::mem::take(&mut file.parts);
        if run.may_end && found.is_whole {
            file.parts = found.parts.values().copied().collect();
            let names: HashSet<Digest> = file.parts.iter().map(|part| part.name).collect();
            gone.extend(before.into_iter().filter(|part| !names.contains(&part.name)));
        } else {
            let mut now: BTreeMap<Digest, Part> = found.parts.values().map(|part| (part.name, *part)).collect();
            file.parts = before.into_iter().map(|part| now.remove(&part.name).unwrap_or(part)).collect();
            file.parts.extend(found.parts.values().filter(|part| now.contains_key(&part.name)));
        }
        for (from, names) in &found.moved {
            let Some(left) = manifest.get_mut(from) else { continue };
            left.parts.retain(|part| !names.contains(&part.name));
            // Most of it is here: what is not was changed on its way or removed.
            if run.may_end && found.is_whole && names.len() > left.parts.len() {
                gone.append(&mut left.parts);
            }
        }
    }
    let whole: Vec<&Folder> = run.folders.iter().filter(|folder| folder.is_whole && run.may_end).collect();
    for (path, file) in &mut manifest {
        let is_within = |folder: &&&Folder| Path::new(path).starts_with(&folder.full_path);
        if whole.iter().any(|folder| is_within(&folder)) && !run.files.contains_key(path) && !is_there(path) {
            gone.append(&mut file.parts);
        }
    }
    manifest.retain(|_, file| !file.parts.is_empty() || file.has_private);
    let kept: HashSet<Uuid> = manifest.values().flat_map(|file| &file.parts).map(|part| part.id).collect();
    let ended: BTreeSet<Uuid> = gone.into_iter().map(|part| part.id).filter(|id| !kept.contains(id)).collect();
    Change { manifest, ended: ended.into_iter().collect() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(name: u8, id: u128) -> Part {
        Part { name: [name; 16], said: [7; 16], key: None, id: Uuid::from_u128(id), position: 5 }
    }

    fn file(parts: &[(u8, u128)]) -> FileParts {
        FileParts { parts: parts.iter().map(|&(name, id)| part(name, id)).collect(), has_private: false }
    }

    fn manifest(files: &[(&str, &[(u8, u128)])]) -> Manifest {
        files.iter().map(|(path, parts)| ((*path).to_owned(), file(parts))).collect()
    }

    fn found(parts: &[(u8, u128)], is_whole: bool) -> FileRun {
        let parts = parts.iter().zip(0..).map(|(&(name, id), order)| (order, part(name, id))).collect();
        FileRun { parts, is_whole, ..FileRun::default() }
    }

    fn run(files: &[(&str, FileRun)]) -> Run {
        let files = files.iter().map(|(path, file)| ((*path).to_owned(), file.clone())).collect();
        Run { files, folders: Vec::new(), may_end: true }
    }

    fn applied(old: &Manifest, run: &Run) -> (Manifest, Vec<u128>) {
        let Change { manifest, ended } = apply(old, run, &|path| path.ends_with("there"));
        (manifest, ended.iter().map(Uuid::as_u128).collect())
    }

    #[test]
    fn the_layout_does_not_change() {
        let mut sample = manifest(&[("/a", &[(1, 2)])]);
        let file = sample.get_mut("/a").unwrap();
        file.has_private = true;
        file.parts.push(Part { key: Some([9; 16]), ..part(3, 4) });
        let expected = [
            &[2, 2, 0, 0, 0][..],
            b"/a",
            &[1, 2, 0, 0, 0],
            &[1; 16],
            &[7; 16],
            &2_u128.to_be_bytes(),
            &5_u64.to_le_bytes(),
            &[0],
            &[3; 16],
            &[7; 16],
            &4_u128.to_be_bytes(),
            &5_u64.to_le_bytes(),
            &[1],
            &[9; 16],
        ];
        assert_eq!(pages(&sample), [expected.concat()]);
        let before = [&[1, 2, 0, 0, 0][..], b"/a", &[0, 1, 0, 0, 0], &[1; 16], &[7; 16], &2_u128.to_be_bytes(), &[0]];
        let mut read = Manifest::new();
        read_page(&before.concat(), &mut read).unwrap();
        assert_eq!(read["/a"].parts, [Part { position: 0, ..part(1, 2) }]);
    }

    #[test]
    fn pages_come_back_whatever_they_hold_and_a_change_leaves_the_others_as_they_were() {
        let many: Vec<(u8, u128)> = (0..2 * PAGE_PARTS + 3).map(|n| (n as u8, n as u128)).collect();
        let mut all = manifest(&[("/a/x", &many[..5]), ("/b/y", &many), ("/b/z", &many[..1]), ("/c/w", &many[..2])]);
        let before = pages(&all);
        assert_eq!(before.len(), 5);
        let mut back = Manifest::new();
        before.iter().for_each(|page| read_page(page, &mut back).unwrap());
        assert_eq!(back, all);
        all.get_mut("/a/x").unwrap().parts.push(part(99, 99));
        let after = pages(&all);
        assert_eq!((after[0] == before[0], &after[1..]), (false, &before[1..]));
    }

    #[test]
    fn a_page_that_is_damaged_or_newer_is_an_error() {
        let page = &pages(&manifest(&[("/a", &[(1, 2)])]))[0];
        for length in 0..page.len() {
            // A page may end behind its version: an empty one.
            let cut = read_page(&page[..length], &mut Manifest::new());
            assert_eq!(cut, if length == 1 { Ok(()) } else { Err(PageError::Damaged) }, "{length}");
        }
        assert_eq!(read_page(&[3], &mut Manifest::new()), Err(PageError::Version(3)));
    }

    #[test]
    fn what_is_no_longer_in_a_file_ends_and_nothing_else() {
        let old = manifest(&[("/n/a", &[(1, 1), (2, 2), (3, 3)]), ("/n/b", &[(1, 11)])]);
        let changed = run(&[("/n/a", found(&[(1, 1), (4, 4), (3, 3)], true))]);
        let now = manifest(&[("/n/a", &[(1, 1), (4, 4), (3, 3)]), ("/n/b", &[(1, 11)])]);
        assert_eq!(applied(&old, &changed), (now.clone(), vec![2]));
        assert_eq!(applied(&now, &changed), (now, vec![]), "and only once");
        let cut = run(&[("/n/a", found(&[(1, 1), (4, 4)], false))]);
        let all = manifest(&[("/n/a", &[(1, 1), (2, 2), (3, 3), (4, 4)]), ("/n/b", &[(1, 11)])]);
        assert_eq!(applied(&old, &cut), (all.clone(), vec![]));
        assert_eq!(applied(&old, &Run { may_end: false, ..changed }), (all, vec![]));
        let elsewhere = run(&[("/n/a", found(&[], true)), ("/n/c", found(&[(8, 2)], true))]);
        assert_eq!(applied(&old, &elsewhere).1, [1, 3], "what another file has stays");
    }

    #[test]
    fn files_that_are_gone_from_a_whole_folder_end() {
        let old =
            manifest(&[("/n/a", &[(1, 1)]), ("/n/there", &[(1, 2)]), ("/nm/c", &[(1, 3)]), ("/n/s/d", &[(1, 4)])]);
        let folder = |is_whole| vec![Folder { full_path: "/n".into(), is_whole }];
        let read = Run { folders: folder(true), ..run(&[("/n/b", found(&[(1, 5)], true))]) };
        let now = manifest(&[("/n/b", &[(1, 5)]), ("/n/there", &[(1, 2)]), ("/nm/c", &[(1, 3)])]);
        assert_eq!(applied(&old, &read), (now, vec![1, 4]));
        assert_eq!(applied(&old, &Run { folders: folder(false), ..read.clone() }).1, []);
        assert_eq!(applied(&old, &Run { may_end: false, ..read }).1, []);
    }

    #[test]
    fn a_file_that_moved_takes_its_parts_along() {
        let old = manifest(&[("/old/a", &[(1, 1), (2, 2), (3, 3)])]);
        let moved = |names: &[u8], parts: &[(u8, u128)]| {
            let names = names.iter().map(|&name| [name; 16]).collect();
            let file = FileRun { moved: [("/old/a".to_owned(), names)].into(), ..found(parts, true) };
            applied(&old, &run(&[("/new/a", file)]))
        };
        let all = manifest(&[("/new/a", &[(1, 1), (2, 2), (4, 4)])]);
        assert_eq!(moved(&[1, 2], &[(1, 1), (2, 2), (4, 4)]), (all, vec![3]), "most of it is here");
        let one = manifest(&[("/new/a", &[(1, 1), (4, 4)]), ("/old/a", &[(2, 2), (3, 3)])]);
        assert_eq!(moved(&[1], &[(1, 1), (4, 4)]), (one, vec![]), "a single part in common is no move");
    }
}
