//! Backups in a folder or an S3-compatible store. This program carries sealed pieces between nodes and the repository; it
//! can open none of them. What they hold and how they are bound is in the node's `backup.rs`.
//!
//! ```text
//! repository.json                    its id
//! keys                               all keys that its backups need, sealed with the cluster key; written with every backup
//! lock                               while somebody writes
//! backups/ID/manifest                what the backup consists of, with checksums; a line of JSON and a line that vouches
//! backups/ID/SHARD-COLLECTION-N      a page
//! backups/ID/SHARD-start             what rolling a shard forward from here must know
//! backups/ID/SHARD-log-N             a page of a shard's log: what happened up to here since the backup before, or as far as
//!                                    the shard still knew
//! ```
//! A backup without a manifest was not finished, and is removed by the next one. One may consist of logs alone.

mod create;
mod follow;
mod forward;
mod moments;
mod page;
mod restore;

use std::path::PathBuf;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use futures::TryStreamExt;
use mira_proto::{Code, Problem};
use object_store::aws::AmazonS3Builder;
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::prefix::PrefixStore;
use object_store::{ObjectStore, ObjectStoreExt, PutMode, PutOptions};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::error::CliError;

pub use create::{Created, What, create, forget, rewrite_keys};
pub use forward::restore_at;
pub use restore::{Restored, restore, verify};

/// Of the repository.
const REPOSITORY_FORMAT: u32 = 1;
/// Of manifests. The first had no logs.
const FORMAT: u32 = 2;
/// The lock is renewed this often, and belongs to nobody any more when it is so old.
const LOCK_RENEWED: Duration = Duration::from_secs(60);
const LOCK_LOST: Duration = Duration::from_secs(600);

/// Where backups lie.
pub struct Repository {
    store: Box<dyn ObjectStore>,
    /// As the operator says it.
    pub place: String,
    /// Its id.
    pub id: Uuid,
}

/// What a repository says of itself.
#[derive(Serialize, Deserialize)]
struct Identity {
    format: u32,
    id: Uuid,
}

/// What a backup consists of.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Manifest {
    pub format: u32,
    pub repository: Uuid,
    pub backup: Uuid,
    /// The backup that this one adds to.
    pub base: Option<Uuid>,
    /// Of which cluster.
    pub cluster_id: String,
    /// RFC 3339.
    pub made_at: String,
    /// The build that made it.
    pub made_by: String,
    /// Settings of the cluster, sealed; base64.
    pub cluster: String,
    pub parts: Vec<Part>,
    /// There are logs only, and no frames.
    #[serde(default)]
    pub log_only: bool,
    /// Shards of the cluster.
    #[serde(default)]
    pub shards: u32,
    /// What the cluster consisted of.
    #[serde(default)]
    pub holdings: Vec<Holding>,
    /// Where each shard is rolled forward from, if it is from this backup.
    #[serde(default)]
    pub starts: Vec<Start>,
    /// Stretches of the shards' logs, of each shard in order.
    #[serde(default)]
    pub logs: Vec<Log>,
}

/// A collection in a shard, and the key that sealed it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Holding {
    pub collection: u64,
    pub shard: u32,
    pub key_version: u32,
}

/// Where a shard is rolled forward from: at or before the position of each of its parts.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Start {
    pub shard: u32,
    /// The log position.
    pub index: u64,
    /// The log-carried time there.
    pub time_ms: u64,
    pub object: Object,
}

/// A stretch of a shard's log.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Log {
    pub shard: u32,
    /// The entry that it begins behind.
    pub after: u64,
    pub pages: Vec<LogPage>,
}

/// A page of a log.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct LogPage {
    /// Which object of the shard's log in this backup.
    pub number: u32,
    /// Its last entry.
    pub upto: u64,
    /// What comes behind it carries no earlier time.
    pub time_ms: u64,
    pub object: Object,
}

/// An object of the repository.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Object {
    pub bytes: u64,
    /// Hex.
    pub blake3: String,
}

impl Object {
    fn of(bytes: &[u8]) -> Self {
        Object { bytes: bytes.len() as u64, blake3: hash(bytes) }
    }
}

impl Log {
    /// Its last entry.
    fn upto(&self) -> u64 {
        self.pages.last().map_or(self.after, |page| page.upto)
    }

    /// What comes behind it carries no earlier time.
    fn time_ms(&self) -> u64 {
        self.pages.last().map_or(0, |page| page.time_ms)
    }
}

/// A collection in a shard.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Part {
    pub shard: u32,
    pub collection: u64,
    pub key_version: u32,
    /// The log position that it shows.
    pub position: u64,
    /// The log-carried time there; 0 in a manifest of the first format.
    #[serde(default)]
    pub time_ms: u64,
    /// What has not changed after this position is in `base`; 0 = everything is here.
    pub since: u64,
    pub pages: Vec<PageEntry>,
}

/// A page of a part.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct PageEntry {
    pub bytes: u64,
    /// Of the object, hex.
    pub blake3: String,
    /// Frames that it names.
    pub frames: u64,
    /// Frames that it holds.
    pub changed: u64,
}

/// A manifest as it lies in the repository.
pub struct Vouched {
    pub manifest: Manifest,
    /// The exact bytes that were vouched for.
    pub bytes: Bytes,
    pub mac: Bytes,
}

/// A line for each backup of a repository.
#[derive(Debug, Serialize)]
pub struct Listed {
    pub backup: Uuid,
    pub made_at: String,
    pub base: Option<Uuid>,
    pub cluster_id: String,
    /// Frames that a restore brings back.
    pub frames: u64,
    /// Bytes that this backup added.
    pub bytes: u64,
    /// It holds logs only.
    pub log_only: bool,
    /// Any moment from here on can be restored with it, RFC 3339; none if it cannot be rolled forward.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub at_from: Option<String>,
    /// Up to here.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub at_until: Option<String>,
}

impl Manifest {
    /// Bytes of its own pieces.
    pub fn bytes(&self) -> u64 {
        let pages = self.parts.iter().flat_map(|part| &part.pages).map(|page| page.bytes);
        let logs = self.logs.iter().flat_map(|log| &log.pages).map(|page| page.object.bytes);
        pages.chain(logs).chain(self.starts.iter().map(|start| start.object.bytes)).sum()
    }

    /// Frames that it shows.
    pub fn frames(&self) -> u64 {
        self.parts.iter().flat_map(|part| &part.pages).map(|page| page.frames).sum()
    }

    fn cluster(&self) -> Result<Bytes, Problem> {
        let sealed = STANDARD.decode(&self.cluster);
        Ok(sealed.map_err(|_| damaged(self.backup, "its cluster is no base64"))?.into())
    }
}

impl Repository {
    /// Opens a repository; with `make`, a new one where there is none.
    pub async fn open(place: &str, make: bool) -> Result<Self, CliError> {
        let store = store_of(place)?;
        let repository = Repository { store, place: place.to_owned(), id: Uuid::nil() };
        let found = match repository.read("repository.json").await? {
            Some(found) => found,
            None if make => {
                let identity = Identity { format: REPOSITORY_FORMAT, id: Uuid::new_v4() };
                let text = serde_json::to_vec(&identity).expect("plain data");
                repository.create("repository.json", text.into()).await?;
                let written = repository.read("repository.json").await?;
                written.ok_or_else(|| repository.missing("repository.json vanished"))?
            }
            None => return Err(repository.missing("there is no repository of backups")),
        };
        let identity: Identity =
            serde_json::from_slice(&found).map_err(|error| repository.bad(format!("repository.json: {error}")))?;
        if identity.format != REPOSITORY_FORMAT {
            return Err(repository.bad(format!("the repository has format {}: update mira", identity.format)));
        }
        Ok(Repository { id: identity.id, ..repository })
    }

    /// Its key file, if there is one.
    pub async fn keys(&self) -> Result<Option<Bytes>, CliError> {
        self.read("keys").await
    }

    /// Its key file, which must be there.
    pub async fn needed_keys(&self) -> Result<Bytes, CliError> {
        self.keys().await?.ok_or_else(|| self.missing("there is no key file: no backup was ever finished"))
    }

    /// The ids of its finished backups, the oldest first.
    pub async fn finished(&self) -> Result<Vec<Uuid>, CliError> {
        Ok(self.all().await?.into_iter().filter(|(_, finished)| *finished).map(|(id, _)| id).collect())
    }

    /// All its backups by age, and whether each is finished.
    async fn all(&self) -> Result<Vec<(Uuid, bool)>, CliError> {
        let listed = self.store.list_with_delimiter(Some(&Path::from("backups"))).await;
        let folders = listed.map_err(|error| self.failed(&error))?.common_prefixes;
        let mut ids: Vec<Uuid> = folders.iter().filter_map(|folder| folder.filename()?.parse().ok()).collect();
        // Ids begin with the time.
        ids.sort_unstable();
        let mut all = Vec::with_capacity(ids.len());
        for id in ids {
            let head = self.store.head(&Path::from(manifest_name(id))).await;
            match head {
                Ok(_) => all.push((id, true)),
                Err(object_store::Error::NotFound { .. }) => all.push((id, false)),
                Err(error) => return Err(self.failed(&error)),
            }
        }
        Ok(all)
    }

    /// What a backup consists of.
    pub async fn manifest(&self, backup: Uuid) -> Result<Vouched, CliError> {
        let found = self.read(&manifest_name(backup)).await?;
        let found = found.ok_or_else(|| self.missing(&format!("backup {backup} is not there")))?;
        let broken = || damaged(backup, "its manifest is cut off");
        let end = memchr_line(&found).ok_or_else(broken)?;
        let mac = STANDARD.decode(found[end + 1..].trim_ascii()).map_err(|_| broken())?;
        let bytes = found.slice(..end);
        let manifest: Manifest =
            serde_json::from_slice(&bytes).map_err(|error| damaged(backup, &format!("its manifest: {error}")))?;
        if !(1..=FORMAT).contains(&manifest.format) {
            let detail = format!("backup {backup} has format {}: update mira", manifest.format);
            return Err(Problem::new(Code::UnsupportedVersion, detail).into());
        }
        if (manifest.backup, manifest.repository) != (backup, self.id) {
            return Err(damaged(backup, "its manifest belongs elsewhere").into());
        }
        Ok(Vouched { manifest, bytes, mac: mac.into() })
    }

    /// The backups that one stands on, itself first. Every manifest is read, none is vouched for yet.
    pub async fn chain(&self, newest: Uuid) -> Result<Vec<Vouched>, CliError> {
        let (mut chain, mut next) = (Vec::new(), Some(newest));
        while let Some(id) = next {
            if chain.iter().any(|known: &Vouched| known.manifest.backup <= id) {
                return Err(damaged(newest, "it stands on itself").into());
            }
            let vouched = self.manifest(id).await?;
            next = vouched.manifest.base;
            chain.push(vouched);
        }
        Ok(chain)
    }

    /// What `mira admin backup list` shows.
    pub async fn list(&self) -> Result<Vec<Listed>, CliError> {
        let manifests = self.manifests().await?;
        let mut listed = Vec::new();
        for (at, found) in manifests.iter().enumerate() {
            let manifest = &found.manifest;
            let window = moments::window(&manifests, at).filter(|window| window.from_ms <= window.until_ms);
            listed.push(Listed {
                backup: manifest.backup,
                base: manifest.base,
                frames: manifest.frames(),
                bytes: manifest.bytes(),
                made_at: manifest.made_at.clone(),
                cluster_id: manifest.cluster_id.clone(),
                log_only: manifest.log_only,
                at_from: window.as_ref().map(|window| moments::text(window.from_ms)),
                at_until: window.as_ref().map(|window| moments::text(window.until_ms)),
            });
        }
        Ok(listed)
    }

    /// All its finished backups, the oldest first. None is vouched for yet.
    pub async fn manifests(&self) -> Result<Vec<Vouched>, CliError> {
        let mut manifests = Vec::new();
        for id in self.finished().await? {
            manifests.push(self.manifest(id).await?);
        }
        Ok(manifests)
    }

    /// The newest backup with frames.
    pub async fn newest(&self) -> Result<Option<Uuid>, CliError> {
        for &id in self.finished().await?.iter().rev() {
            if !self.manifest(id).await?.manifest.log_only {
                return Ok(Some(id));
            }
        }
        Ok(None)
    }

    /// An object that a manifest names, if it is what it was.
    async fn piece(&self, backup: Uuid, name: &str, object: &Object) -> Result<Bytes, CliError> {
        let lost = |what: &str| damaged(backup, &format!("{name}: {what}"));
        let bytes = self.read(name).await?.ok_or_else(|| lost("it is missing"))?;
        match bytes.len() as u64 == object.bytes && hash(&bytes) == object.blake3 {
            true => Ok(bytes),
            false => Err(lost("it was altered").into()),
        }
    }

    /// Removes what is left of backups that were not finished.
    async fn remove_unfinished(&self) -> Result<(), CliError> {
        for (id, _) in self.all().await?.into_iter().filter(|(_, finished)| !finished) {
            let folder = Path::from(format!("backups/{id}"));
            let found: Vec<_> =
                self.store.list(Some(&folder)).try_collect().await.map_err(|error| self.failed(&error))?;
            for object in found {
                self.store.delete(&object.location).await.map_err(|error| self.failed(&error))?;
            }
        }
        Ok(())
    }

    async fn read(&self, name: &str) -> Result<Option<Bytes>, CliError> {
        match self.store.get(&Path::from(name)).await {
            Ok(found) => Ok(Some(found.bytes().await.map_err(|error| self.failed(&error))?)),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(self.failed(&error)),
        }
    }

    async fn write(&self, name: &str, bytes: Bytes) -> Result<(), CliError> {
        self.store.put(&Path::from(name), bytes.into()).await.map(drop).map_err(|error| self.failed(&error))
    }

    /// Writes what is not there yet; `false` if it is.
    async fn create(&self, name: &str, bytes: Bytes) -> Result<bool, CliError> {
        let options = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
        match self.store.put_opts(&Path::from(name), bytes.into(), options).await {
            Ok(_) => Ok(true),
            Err(object_store::Error::AlreadyExists { .. }) => Ok(false),
            Err(error) => Err(self.failed(&error)),
        }
    }

    /// Keeps others from writing while `work` goes on: two at once could leave older keys in the place of newer ones.
    async fn alone<T>(&self, work: impl Future<Output = Result<T, CliError>>) -> Result<T, CliError> {
        let lock = Path::from("lock");
        if !self.create("lock", Bytes::new()).await? {
            let head = self.store.head(&lock).await.map_err(|error| self.failed(&error))?;
            let age = jiff::Timestamp::now().as_second() - head.last_modified.timestamp();
            if age < LOCK_LOST.as_secs() as i64 {
                let detail = format!(
                    "somebody writes there (lock renewed {age} s ago); a lock that was left behind is taken over after \
                     {} minutes",
                    LOCK_LOST.as_secs() / 60
                );
                return Err(self.bad(detail));
            }
            self.write("lock", Bytes::new()).await?;
        }
        let renewing = async {
            loop {
                tokio::time::sleep(LOCK_RENEWED).await;
                self.write("lock", Bytes::new()).await?;
            }
        };
        let done = tokio::select! {
            done = work => done,
            failed = renewing => failed,
        };
        let unlocked = self.store.delete(&lock).await.map_err(|error| self.failed(&error));
        done.and_then(|done| unlocked.map(|()| done))
    }

    fn failed(&self, error: &object_store::Error) -> CliError {
        self.bad(error.to_string())
    }

    fn missing(&self, detail: &str) -> CliError {
        self.bad(detail.to_owned())
    }

    fn bad(&self, detail: String) -> CliError {
        CliError::BadFile { path: PathBuf::from(&self.place), detail }
    }
}

/// `s3://bucket/prefix`, with what the usual AWS_ variables say, or a folder.
fn store_of(place: &str) -> Result<Box<dyn ObjectStore>, CliError> {
    let refused = |error: object_store::Error| CliError::BadFile { path: place.into(), detail: error.to_string() };
    if let Some(rest) = place.strip_prefix("s3://") {
        let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        if bucket.is_empty() {
            return Err(CliError::Usage(format!("{place} names no bucket: write s3://BUCKET/PREFIX")));
        }
        let _ = rustls::crypto::ring::default_provider().install_default();
        let store = AmazonS3Builder::from_env().with_bucket_name(bucket).build().map_err(refused)?;
        let prefix = Path::parse(prefix).map_err(|error| CliError::Usage(format!("{place}: {error}")))?;
        return Ok(Box::new(PrefixStore::new(store, prefix)));
    }
    if place.contains("://") {
        return Err(CliError::Usage(format!("{place}: a backup goes to a folder or to s3://BUCKET/PREFIX")));
    }
    std::fs::create_dir_all(place).map_err(CliError::io(place))?;
    Ok(Box::new(LocalFileSystem::new_with_prefix(place).map_err(refused)?.with_fsync(true)))
}

fn manifest_name(backup: Uuid) -> String {
    format!("backups/{backup}/manifest")
}

fn page_name(backup: Uuid, part: &Part, number: usize) -> String {
    format!("backups/{backup}/{}-{}-{number}", part.shard, part.collection)
}

fn start_name(backup: Uuid, shard: u32) -> String {
    format!("backups/{backup}/{shard}-start")
}

fn log_name(backup: Uuid, shard: u32, number: u32) -> String {
    format!("backups/{backup}/{shard}-log-{number}")
}

fn memchr_line(bytes: &[u8]) -> Option<usize> {
    bytes.iter().position(|&byte| byte == b'\n')
}

fn damaged(backup: Uuid, what: &str) -> Problem {
    Problem::new(Code::Damaged, format!("backup {backup}: {what}"))
}

fn hash(bytes: &[u8]) -> String {
    blake3::hash(bytes).to_hex().to_string()
}
