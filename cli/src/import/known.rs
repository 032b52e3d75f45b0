//! What earlier imports have made of the files that are read now, looked up record by record.
//!
//! A record is known by its name in its file. One that is not may have moved: the same name and words, from a file of the same
//! name that is gone. It takes over that file's memory, and no other record of this import takes it again.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::Path;
use std::sync::Arc;

use crate::import::identity::{self, Digest, Identity};
use crate::import::manifest::{Manifest, Part};
use crate::import::manifests::{ManifestKey, is_there};
use crate::import::source::Source;

/// What a record is in its source, and was before.
#[derive(Debug, Clone)]
pub struct Match {
    /// Its name, and what it says now.
    pub identity: Identity,
    /// What an earlier import made of it.
    pub part: Option<Part>,
    /// The file that it was found in then, if it is not the one that it stands in now.
    pub moved_from: Option<String>,
}

impl Match {
    /// What names it to the router, if nothing else does.
    pub fn source_key(&self, source: &Source) -> Digest {
        self.moved_key().unwrap_or_else(|| own_key(source, &self.identity.name))
    }

    /// The source key of a memory that was stored for another file.
    pub fn moved_key(&self) -> Option<Digest> {
        self.part.and_then(|part| part.key)
    }
}

/// What names a record of a source to the router. What comes from standard input has no file: there a name is all.
pub fn own_key(source: &Source, name: &Digest) -> Digest {
    identity::source_key(source.full_path.as_deref().unwrap_or_default(), name)
}

/// What manifests know.
#[derive(Default)]
pub struct Known(HashMap<ManifestKey, Listed>);

/// What one manifest knows.
#[derive(Default)]
struct Listed {
    /// Parts by file and name.
    parts: BTreeMap<String, HashMap<Digest, Part>>,
    /// Where the parts of a file stand.
    positions: HashMap<String, BTreeSet<u64>>,
    /// Files that are gone, by their names without folders.
    gone: HashMap<String, Vec<String>>,
}

impl Known {
    /// Whether a manifest was looked into.
    pub fn has(&self, key: &ManifestKey) -> bool {
        self.0.contains_key(key)
    }

    /// Looks into a manifest.
    pub fn add(&mut self, key: ManifestKey, manifest: &Manifest) {
        let mut listed = Listed::default();
        for (path, file) in manifest {
            if let Some(name) = file_name(path).filter(|_| !is_there(path)) {
                listed.gone.entry(name).or_default().push(path.clone());
            }
            let positions = file.parts.iter().map(|part| part.position).filter(|&position| position != 0);
            listed.positions.insert(path.clone(), positions.collect());
            listed.parts.insert(path.clone(), file.parts.iter().map(|part| (part.name, *part)).collect());
        }
        self.0.insert(key, listed);
    }

    /// How many parts a file has had.
    pub fn count(&self, key: &ManifestKey, source: &Source) -> usize {
        let parts = self.0.get(key).zip(source.full_path.as_ref()).and_then(|(listed, path)| listed.parts.get(path));
        parts.map_or(0, HashMap::len)
    }

    /// Where the first part of a file stands that stands behind a place.
    pub fn position_after(&self, key: &ManifestKey, source: &Source, place: u64) -> Option<u64> {
        let positions = self.0.get(key)?.positions.get(source.full_path.as_ref()?)?;
        positions.range(place.saturating_add(1)..).next().copied()
    }

    /// What is known of a record.
    pub fn find(&mut self, key: &ManifestKey, source: &Arc<Source>, identity: Identity) -> Match {
        let unknown = Match { identity, part: None, moved_from: None };
        let (Some(path), Some(listed)) = (&source.full_path, self.0.get_mut(key)) else { return unknown };
        if let Some(part) = listed.parts.get(path).and_then(|parts| parts.get(&identity.name)) {
            return Match { part: Some(*part), ..unknown };
        }
        match listed.take_moved(path, &identity) {
            Some((from, part)) => Match { part: Some(part), moved_from: Some(from), ..unknown },
            None => unknown,
        }
    }
}

impl Listed {
    /// The part that a record was in a file that is gone; it is nobody else's then.
    fn take_moved(&mut self, path: &str, identity: &Identity) -> Option<(String, Part)> {
        let candidates = self.gone.get(&file_name(path)?)?;
        for from in candidates {
            let Some(parts) = self.parts.get_mut(from) else { continue };
            if parts.get(&identity.name).is_some_and(|part| part.said == identity.said) {
                let part = parts.remove(&identity.name)?;
                let key = part.key.or_else(|| Some(identity::source_key(from, &part.name)));
                return Some((from.clone(), Part { key: key.filter(|_| !identity.is_own), ..part }));
            }
        }
        None
    }
}

fn file_name(path: &str) -> Option<String> {
    Some(Path::new(path).file_name()?.to_string_lossy().into_owned())
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::import::manifest::FileParts;
    use crate::import::source::Format;

    fn source(path: &str) -> Arc<Source> {
        let (name, full_path) = (path.to_owned(), Some(path.to_owned()));
        Arc::new(Source { name, path: Some(path.into()), format: Format::Markdown, length: 0, full_path })
    }

    fn identity(name: u8, said: u8) -> Identity {
        Identity { name: [name; 16], said: [said; 16], is_own: false, is_said: false }
    }

    #[test]
    fn a_part_is_found_where_it_was_or_where_it_came_from_once() {
        let folder = tempfile::tempdir().unwrap();
        let there = folder.path().join("a.md").display().to_string();
        std::fs::write(&there, "x").unwrap();
        let part = |name: u8, id: u128| Part {
            name: [name; 16],
            said: [7; 16],
            key: None,
            id: Uuid::from_u128(id),
            position: 9,
        };
        let file = |parts: &[Part]| FileParts { parts: parts.to_vec(), has_private: false };
        let manifest: Manifest =
            [("/gone/a.md".to_owned(), file(&[part(1, 11), part(2, 12)])), (there.clone(), file(&[part(3, 13)]))]
                .into();
        let key = ManifestKey { collection: "c".into(), private: false };
        let mut known = Known::default();
        known.add(key.clone(), &manifest);
        assert_eq!((known.count(&key, &source(&there)), known.count(&key, &source("/new/a.md"))), (1, 0));
        let after = |place| known.position_after(&key, &source(&there), place);
        assert_eq!([0, 8, 9].map(after), [Some(9), Some(9), None]);
        let mut find = |path: &str, identity| known.find(&key, &source(path), identity);

        let same = find(&there, identity(3, 8));
        assert_eq!((same.part, same.moved_from), (Some(part(3, 13)), None), "whatever it says now");
        let moved = find("/new/a.md", identity(1, 7));
        assert_eq!(moved.moved_from.as_deref(), Some("/gone/a.md"));
        let found = moved.part.unwrap();
        assert_eq!((found.id, found.key), (Uuid::from_u128(11), Some(identity::source_key("/gone/a.md", &[1; 16]))));
        assert_eq!(moved.source_key(&source("/new/a.md")), identity::source_key("/gone/a.md", &[1; 16]));
        assert!(find("/other/a.md", identity(1, 7)).part.is_none(), "another has taken it");
        assert!(find("/new/a.md", identity(2, 8)).part.is_none(), "it says something else");
        assert!(find("/new/b.md", identity(2, 7)).part.is_none(), "a file of another name");
        assert!(find("/new/a.md", identity(3, 7)).part.is_none(), "its file is still there");
    }
}
