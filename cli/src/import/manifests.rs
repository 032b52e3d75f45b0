//! Manifests in the collections whose imports they list: read when an import begins, written as it goes on.
//!
//! A manifest is a few opaque memories of type [`KIND`]: pages under ids of their own, and a root that names them, under
//! an id that is known. A change writes the pages that differ, then the root at the version that was read, then forgets the old
//! pages: whenever it stops, the root names whole pages, and of two imports at a time the later one reads again and adds to
//! what the other wrote. Exports leave these memories out: in another cluster, ids are others.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::Path;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use mira_proto::limits::MAX_FORGET_IDS;
use mira_proto::model::{ForgetRequest, Frame, ItemResult, RecallRequest, StoreItem, StoreRequest};
use mira_proto::{Code, Problem};
use tokio::sync::Mutex;
use uuid::Uuid;

use crate::backoff::backoff;
use crate::client::Client;
use crate::error::CliError;
use crate::import::manifest::{self, Manifest, Run};
use crate::import::writer::is_passing;

/// The type of the memories that a manifest is kept in.
pub const KIND: &str = "import-manifest";
/// The root of the plain manifest of a collection. It is no secret that something was imported.
const PLAIN_ROOT: Uuid = Uuid::from_u128(0x6d69_7261_2d69_8d70_af72_742d_726f_6f74);
/// Names a private memory whose id leads to the root of its owner's manifest.
const PRIVATE_ROOT: &str = "mira import: manifest";
/// Version of a root.
const VERSION: u8 = 1;
/// Pages that are asked for at once.
const PAGES_AT_ONCE: usize = 100;
/// Times that a manifest is read again because another import has written it meanwhile.
const MOST_RACES: usize = 8;
/// Times that a page is sent again because its shard refused it for the moment.
const TRIES: u32 = 8;

/// Which manifest.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ManifestKey {
    /// The collection.
    pub collection: String,
    /// Of the owner's private memories.
    pub private: bool,
}

/// A manifest as it is kept.
#[derive(Debug, Default)]
pub struct Kept {
    /// What it lists.
    pub manifest: Manifest,
    /// Where it is kept; none where it cannot be, as long as its collection is not there.
    root: Option<Root>,
}

#[derive(Debug)]
struct Root {
    id: Uuid,
    /// Its version; 0 = there is none yet.
    version: u64,
    pages: Vec<(Uuid, blake3::Hash)>,
}

/// The manifests that an import reads and writes.
#[derive(Debug)]
pub struct Manifests {
    client: Client,
    open: Mutex<BTreeMap<ManifestKey, Arc<Kept>>>,
}

impl Manifests {
    /// None read yet.
    pub fn new(client: Client) -> Self {
        Manifests { client, open: Mutex::default() }
    }

    /// A manifest as it was when it was first asked for or last written.
    pub async fn open(&self, key: &ManifestKey) -> Result<Arc<Kept>, CliError> {
        let mut open = self.open.lock().await;
        if let Some(kept) = open.get(key) {
            return Ok(kept.clone());
        }
        let kept = Arc::new(self.read(key).await?);
        open.insert(key.clone(), kept.clone());
        Ok(kept)
    }

    /// Writes down what an import has found out, and forgets what is not in its source any more. How many that were.
    pub async fn apply(&self, key: &ManifestKey, run: &Run) -> Result<u64, CliError> {
        let mut ended = 0;
        for _ in 0..MOST_RACES {
            let mut kept = self.open(key).await?;
            if kept.root.is_none() && !run.files.values().all(|file| file.parts.is_empty()) {
                // Its collection is there by now.
                self.open.lock().await.remove(key);
                kept = self.open(key).await?;
            }
            let change = manifest::apply(&kept.manifest, run, &is_there);
            ended += self.forget(key, &change.ended).await?;
            match self.write(key, &kept, change.manifest).await {
                Ok(None) => return Ok(ended),
                Ok(Some(written)) => {
                    self.open.lock().await.insert(key.clone(), Arc::new(written));
                    return Ok(ended);
                }
                Err(CliError::Problem(problem)) if problem.code == Code::Conflict => {
                    self.open.lock().await.remove(key);
                }
                Err(error) => return Err(error),
            }
        }
        let detail = "other imports keep writing the list of what was imported: try again".to_owned();
        Err(Problem::new(Code::Unavailable, detail).into())
    }

    async fn read(&self, key: &ManifestKey) -> Result<Kept, CliError> {
        let Some(id) = self.root_of(key).await? else { return Ok(Kept::default()) };
        let Some(root) = self.recall(key, &[id]).await?.pop() else {
            return Ok(Kept { root: Some(Root { id, version: 0, pages: Vec::new() }), ..Kept::default() });
        };
        let ids = page_ids(&bytes_of(&root).unwrap_or_default()).ok_or_else(|| damaged(key, id))?;
        let mut found: HashMap<Uuid, Vec<u8>> = HashMap::new();
        for ids in ids.chunks(PAGES_AT_ONCE) {
            for frame in self.recall(key, ids).await? {
                found.insert(frame.id, bytes_of(&frame).ok_or_else(|| damaged(key, frame.id))?);
            }
        }
        let (mut manifest, mut pages) = (Manifest::new(), Vec::new());
        // A page that somebody has forgotten is one that nothing ends by.
        for (id, bytes) in ids.into_iter().filter_map(|id| Some((id, found.remove(&id)?))) {
            manifest::read_page(&bytes, &mut manifest)
                .map_err(|error| Problem::new(Code::Damaged, format!("collection {:?}: {error}", key.collection)))?;
            pages.push((id, blake3::hash(&bytes)));
        }
        Ok(Kept { manifest, root: Some(Root { id, version: root.version, pages }) })
    }

    /// The id of a root; none if the collection is not there, or keeps no private memories of this caller.
    async fn root_of(&self, key: &ManifestKey) -> Result<Option<Uuid>, CliError> {
        if !key.private {
            return Ok(Some(PLAIN_ROOT));
        }
        let mark = StoreItem { source_key: Some(PRIVATE_ROOT.to_owned()), ..item_of(key, b"mira import") };
        match self.client.store(&StoreRequest { item: mark, items: None }).await {
            // Far from it, and in its shard.
            Ok(reply) => Ok(reply.id.map(|id| Uuid::from_u128(id.as_u128() ^ (1 << 127)))),
            // What refuses this refuses every private record too, and says so there.
            Err(CliError::Problem(problem)) if !is_passing(problem.code) && problem.code != Code::Internal => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Those of these memories that are there.
    async fn recall(&self, key: &ManifestKey, ids: &[Uuid]) -> Result<Vec<Frame>, CliError> {
        let mut request = RecallRequest {
            ids: Some(ids.to_vec()),
            collection: Some(key.collection.clone()),
            ..RecallRequest::default()
        };
        let mut frames = Vec::new();
        loop {
            let reply = match self.client.recall(&request).await {
                Ok(reply) => reply,
                Err(CliError::Problem(problem)) if problem.code == Code::NotFound => return Ok(frames),
                Err(error) => return Err(error),
            };
            frames.extend(reply.frames);
            match reply.next_cursor {
                Some(cursor) => request.cursor = Some(cursor),
                None => return Ok(frames),
            }
        }
    }

    /// Writes a manifest in the place of the one that was read; nothing if it is the same.
    async fn write(&self, key: &ManifestKey, kept: &Kept, manifest: Manifest) -> Result<Option<Kept>, CliError> {
        let pages = manifest::pages(&manifest);
        let Some(root) = &kept.root else {
            return if pages.is_empty() { Ok(None) } else { Err(unkept(key)) };
        };
        let hashes: Vec<blake3::Hash> = pages.iter().map(|page| blake3::hash(page)).collect();
        if root.pages.iter().map(|(_, hash)| hash).eq(&hashes) {
            return Ok(None);
        }
        let known: HashMap<blake3::Hash, Uuid> = root.pages.iter().map(|&(id, hash)| (hash, id)).collect();
        let (mut now, mut new) = (Vec::new(), Vec::new());
        for (page, hash) in pages.iter().zip(hashes) {
            let id = match known.get(&hash) {
                Some(&id) => id,
                None => {
                    let (id, _) = self.store(item_of(key, page)).await?;
                    new.push(id);
                    id
                }
            };
            now.push((id, hash));
        }
        let ids = now.iter().flat_map(|(id, _)| id.into_bytes());
        let bytes: Vec<u8> = std::iter::once(VERSION).chain(ids).collect();
        let item = StoreItem { id: Some(root.id), expected_version: Some(root.version), ..item_of(key, &bytes) };
        let version = match self.store(item).await {
            Ok((_, version)) => version,
            Err(error) => {
                self.forget(key, &new).await?;
                return Err(error);
            }
        };
        let still: HashSet<Uuid> = now.iter().map(|(id, _)| *id).collect();
        let old: Vec<Uuid> = root.pages.iter().map(|(id, _)| *id).filter(|id| !still.contains(id)).collect();
        self.forget(key, &old).await?;
        Ok(Some(Kept { manifest, root: Some(Root { id: root.id, version, pages: now }) }))
    }

    /// Stores what a shard may refuse for a moment: each try is a request of its own, so that it is judged anew.
    async fn store(&self, item: StoreItem) -> Result<(Uuid, u64), CliError> {
        let request = StoreRequest { items: Some(vec![item].into()), ..StoreRequest::default() };
        for attempt in 0.. {
            let stored = self.client.store(&request).await?.items.and_then(|mut items| items.pop());
            match stored {
                Some(ItemResult::Stored(stored)) => return Ok((stored.id, stored.version)),
                Some(ItemResult::Refused { error }) if is_passing(error.code) && attempt < TRIES => {
                    tokio::time::sleep(backoff(attempt, rand::random())).await;
                }
                Some(ItemResult::Refused { error }) => return Err(error.into()),
                None => break,
            }
        }
        Err(Problem::internal("a store was answered without an id").into())
    }

    async fn forget(&self, key: &ManifestKey, ids: &[Uuid]) -> Result<u64, CliError> {
        let mut removed = 0;
        for ids in ids.chunks(MAX_FORGET_IDS) {
            let (ids, collection) = (Some(ids.to_vec()), Some(key.collection.clone()));
            removed +=
                self.client.forget(&ForgetRequest { ids, collection, ..ForgetRequest::default() }).await?.removed;
        }
        Ok(removed)
    }
}

/// Whether a file is there on this machine. One that cannot be looked at is not known to be gone.
pub fn is_there(path: &str) -> bool {
    !Path::new(path).symlink_metadata().is_err_and(|error| error.kind() == std::io::ErrorKind::NotFound)
}

fn item_of(key: &ManifestKey, bytes: &[u8]) -> StoreItem {
    StoreItem {
        bytes: Some(STANDARD.encode(bytes)),
        kind: Some(KIND.to_owned()),
        collection: Some(key.collection.clone()),
        private: key.private,
        ..StoreItem::default()
    }
}

fn bytes_of(frame: &Frame) -> Option<Vec<u8>> {
    STANDARD.decode(frame.bytes.as_ref()?).ok().filter(|_| frame.kind == KIND)
}

fn page_ids(root: &[u8]) -> Option<Vec<Uuid>> {
    let (&VERSION, ids) = root.split_first()? else { return None };
    let (ids, []) = ids.as_chunks::<16>() else { return None };
    Some(ids.iter().map(|id| Uuid::from_bytes(*id)).collect())
}

fn damaged(key: &ManifestKey, id: Uuid) -> CliError {
    let detail = format!(
        "collection {:?}: memory {id} is no list of imported parts that this program knows; forget it, and what was removed \
         from sources until now stays",
        key.collection
    );
    Problem::new(Code::Damaged, detail).into()
}

fn unkept(key: &ManifestKey) -> CliError {
    let detail = format!("collection {:?}: the list of what was imported cannot be kept", key.collection);
    Problem::new(Code::Unavailable, detail).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_root_names_its_pages_or_is_none() {
        let ids = [Uuid::from_u128(1), Uuid::from_u128(2)];
        let root: Vec<u8> = [&[VERSION][..], ids[0].as_bytes(), ids[1].as_bytes()].concat();
        assert_eq!(page_ids(&root), Some(ids.to_vec()));
        assert_eq!(page_ids(&root[..1]), Some(vec![]));
        for wrong in [&[][..], &root[..20], &[2]] {
            assert_eq!(page_ids(wrong), None);
        }
    }
}
