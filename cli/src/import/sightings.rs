//! What an import has seen of its files so far, gathered for their manifests.
//!
//! Batches end in any order, and a file's records are spread over many: only when everything is done is it known which files
//! were read whole. Until then what was stored is added to the manifests now and then, so that an import that is cut off leaves
//! nothing that the next one does not know.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::error::CliError;
use crate::import::manifest::{FileRun, MAX_PARTS, Part, Run};
use crate::import::manifests::{ManifestKey, Manifests};
use crate::import::reader::Landed;
use crate::import::source::{Folder, Source};

/// Gathers what becomes of manifests.
pub struct Sightings {
    manifests: Arc<Manifests>,
    folders: Vec<Folder>,
    files: BTreeMap<ManifestKey, BTreeMap<String, FileRun>>,
    /// Collections that records went to.
    collections: BTreeSet<String>,
    ended: BTreeSet<String>,
    spoiled: BTreeSet<String>,
    parts: usize,
    /// Something was stored since manifests were written.
    is_unsaved: bool,
}

impl Sightings {
    /// Nothing yet.
    pub fn new(manifests: Arc<Manifests>, folders: Vec<Folder>) -> Self {
        Sightings {
            manifests,
            folders,
            files: BTreeMap::new(),
            collections: BTreeSet::new(),
            ended: BTreeSet::new(),
            spoiled: BTreeSet::new(),
            parts: 0,
            is_unsaved: false,
        }
    }

    /// Notes what became of a batch.
    pub fn note(&mut self, landed: Vec<Landed>, spoiled: &[Arc<Source>], ended: &[Arc<Source>]) {
        landed.into_iter().for_each(|landed| self.land(landed));
        self.spoiled.extend(spoiled.iter().filter_map(|source| source.full_path.clone()));
        self.ended.extend(ended.iter().filter_map(|source| source.full_path.clone()));
    }

    /// Notes that nothing is left in a file of what a collection has of it.
    pub fn note_emptied(&mut self, collection: &str) {
        self.collections.insert(collection.to_owned());
    }

    fn land(&mut self, Landed { source, key, found, order, id, position }: Landed) {
        let Some(path) = &source.full_path else { return };
        self.collections.insert(key.collection.clone());
        if key.private {
            let plain = ManifestKey { private: false, ..key.clone() };
            self.files.entry(plain).or_default().entry(path.clone()).or_default().has_private = true;
        }
        let file = self.files.entry(key).or_default().entry(path.clone()).or_default();
        let Some(id) = id else { return };
        if self.parts >= MAX_PARTS {
            self.spoiled.insert(path.clone());
            return;
        }
        self.parts += 1;
        self.is_unsaved = true;
        let (name, said) = (found.identity.name, found.identity.said);
        let part = Part { name, said, key: found.moved_key(), id, position };
        file.parts.insert(order, part);
        if let Some(from) = found.moved_from {
            file.moved.entry(from).or_default().insert(part.name);
        }
    }

    /// Writes the manifests; with `may_end` what is no longer in its source ends. How many memories that were.
    pub async fn save(&mut self, may_end: bool) -> Result<u64, CliError> {
        if !may_end && !self.is_unsaved {
            return Ok(0);
        }
        let mut ended = 0;
        for key in self.keys(may_end).await? {
            let mut files = self.files.get(&key).cloned().unwrap_or_default();
            if may_end {
                // Of what is read whole, a manifest may list more than was found.
                for path in &self.ended {
                    files.entry(path.clone()).or_default();
                }
            }
            for (path, file) in &mut files {
                file.is_whole = self.ended.contains(path) && !self.spoiled.contains(path);
            }
            let run = Run { files, folders: self.folders.clone(), may_end };
            ended += self.manifests.apply(&key, &run).await?;
        }
        self.is_unsaved = false;
        Ok(ended)
    }

    /// The manifests that have to be looked at: those of what was stored, and of what the same files and folders had before.
    async fn keys(&self, may_end: bool) -> Result<Vec<ManifestKey>, CliError> {
        let mut keys: BTreeSet<ManifestKey> = self.files.keys().cloned().collect();
        if may_end {
            for collection in &self.collections {
                let plain = ManifestKey { collection: collection.clone(), private: false };
                if self.manifests.open(&plain).await?.manifest.values().any(|file| file.has_private) {
                    keys.insert(ManifestKey { private: true, ..plain.clone() });
                }
                keys.insert(plain);
            }
        }
        // The private ones first: the plain ones say that these are there.
        let mut keys: Vec<ManifestKey> = keys.into_iter().collect();
        keys.sort_by_key(|key| !key.private);
        Ok(keys)
    }
}
