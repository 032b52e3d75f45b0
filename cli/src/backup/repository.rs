//! A place of backups: a folder or an S3-compatible store, with what may be read from it and written to it.

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

use super::manifest::{FORMAT, Manifest, Object, SignedManifest, damaged, hash, manifest_name};
use super::recovery_points;
use crate::error::CliError;

/// The format of repositories.
const REPOSITORY_FORMAT: u32 = 1;
/// The lock is renewed this often, and belongs to nobody any more when it is so old.
const LOCK_RENEWED: Duration = Duration::from_secs(60);
const LOCK_LOST: Duration = Duration::from_secs(600);

/// Where backups lie.
pub struct Repository {
    store: Box<dyn ObjectStore>,
    /// Its folder or address, as the operator writes it.
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
    /// The first recovery point that it can be replayed to, RFC 3339; absent if there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub at_from: Option<String>,
    /// The last one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub at_until: Option<String>,
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
    pub async fn manifest(&self, backup: Uuid) -> Result<SignedManifest, CliError> {
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
        Ok(SignedManifest { manifest, bytes, mac: mac.into() })
    }

    /// The backups that one stands on, itself first. Every manifest is read, no signature is checked yet.
    pub async fn chain(&self, newest: Uuid) -> Result<Vec<SignedManifest>, CliError> {
        let (mut chain, mut next) = (Vec::new(), Some(newest));
        while let Some(id) = next {
            if chain.iter().any(|known: &SignedManifest| known.manifest.backup <= id) {
                return Err(damaged(newest, "it stands on itself").into());
            }
            let signed = self.manifest(id).await?;
            next = signed.manifest.base;
            chain.push(signed);
        }
        Ok(chain)
    }

    /// What `mira admin backup list` shows.
    pub async fn list(&self) -> Result<Vec<Listed>, CliError> {
        let manifests = self.manifests().await?;
        let mut listed = Vec::new();
        for (at, found) in manifests.iter().enumerate() {
            let manifest = &found.manifest;
            let window = recovery_points::window(&manifests, at).filter(|window| window.from_ms <= window.until_ms);
            listed.push(Listed {
                backup: manifest.backup,
                base: manifest.base,
                frames: manifest.frames(),
                bytes: manifest.bytes(),
                made_at: manifest.made_at.clone(),
                cluster_id: manifest.cluster_id.clone(),
                log_only: manifest.log_only,
                at_from: window.as_ref().map(|window| recovery_points::text(window.from_ms)),
                at_until: window.as_ref().map(|window| recovery_points::text(window.until_ms)),
            });
        }
        Ok(listed)
    }

    /// All its finished backups, the oldest first. No signature is checked yet.
    pub async fn manifests(&self) -> Result<Vec<SignedManifest>, CliError> {
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
    pub(super) async fn piece(&self, backup: Uuid, name: &str, object: &Object) -> Result<Bytes, CliError> {
        let lost = |what: &str| damaged(backup, &format!("{name}: {what}"));
        let bytes = self.read(name).await?.ok_or_else(|| lost("it is missing"))?;
        if bytes.len() as u64 == object.bytes && hash(&bytes) == object.blake3 {
            Ok(bytes)
        } else {
            Err(lost("it was altered").into())
        }
    }

    /// Removes what is left of backups that were not finished.
    pub(super) async fn remove_unfinished(&self) -> Result<(), CliError> {
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

    /// Writes an object, in the place of what is there.
    pub(super) async fn write(&self, name: &str, bytes: Bytes) -> Result<(), CliError> {
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
    pub(super) async fn alone<T>(&self, work: impl Future<Output = Result<T, CliError>>) -> Result<T, CliError> {
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

    /// The refusal of a place where something is not.
    pub(super) fn missing(&self, detail: &str) -> CliError {
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
        mira_net::rest::install_tls_provider();
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

fn memchr_line(bytes: &[u8]) -> Option<usize> {
    bytes.iter().position(|&byte| byte == b'\n')
}
