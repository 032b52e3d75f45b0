//! Making a backup: part by part, page by page, then the manifest, then the keys.
//!
//! The keys come last: until the manifest stands, the repository's key file must open the backups before. A part is read
//! from one view on one node; when that node goes away, the part begins again on another. The shards' logs are followed
//! meanwhile ([`super::follow`]).

use std::sync::Mutex;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use mira_proto::{Code, node_v1};
use serde::Serialize;
use tokio::sync::watch;
use uuid::Uuid;

use super::follow::Following;
use super::manifest::{FORMAT, Holding, Log, Manifest, PageEntry, Part, hash, manifest_name, page_name};
use super::page::{Page, bytes_of};
use super::repository::Repository;
use crate::client::Client;
use crate::error::CliError;
use crate::import::progress::Progress;

/// Parts under way at once.
const PARTS_AT_ONCE: usize = 4;
/// How often a part is begun.
const PART_TRIES: usize = 5;
/// After so many backups that add to each other, one that stands alone is made: a restore reads the whole chain.
const MAX_CHAIN: usize = 30;

/// What a backup is to hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Contents {
    /// What has changed since the last one, if there is one.
    Changes,
    /// Everything.
    Everything,
    /// What happened since the last one, and no frames.
    Log,
}

/// What was made.
#[derive(Debug, Serialize)]
pub struct Created {
    /// Its id.
    pub backup: Uuid,
    /// What it adds to.
    pub base: Option<Uuid>,
    /// Frames that it shows.
    pub frames: u64,
    /// Bytes that were written.
    pub bytes: u64,
    /// It holds logs only.
    pub log_only: bool,
    /// Shards whose log did not reach back to where the backup before ended: recovery points between are lost.
    pub forgotten: Vec<u32>,
    /// How long it took.
    pub seconds: f64,
}

/// Makes a backup.
pub async fn create(client: &Client, repository: &Repository, what: Contents) -> Result<Created, CliError> {
    let making = Making {
        client,
        repository,
        backup: Uuid::now_v7(),
        progress: Mutex::new(Progress::new(0)),
        done: Mutex::default(),
    };
    repository.alone(making.make(what)).await
}

/// Writes the key file again, so that keys which were destroyed since leave the repository.
pub async fn rewrite_keys(client: &Client, repository: &Repository) -> Result<(), CliError> {
    let rewrite = async {
        let begun = begin(client, repository, Uuid::now_v7(), None).await?;
        finish(client, repository, begun.key_file, false).await
    };
    repository.alone(rewrite).await
}

/// Tells the cluster that a repository is gone.
pub async fn forget(client: &Client, id: Uuid) -> Result<(), CliError> {
    let request = node_v1::ForgetRepositoryRequest { repository: bytes_of(id) };
    client.backup_step::<_, node_v1::ForgetRepositoryReply>("forget-repository", &request).await.map(drop)
}

/// `key_file` is the one that is to be written, if the backup has begun before.
async fn begin(
    client: &Client,
    repository: &Repository,
    backup: Uuid,
    key_file: Option<Bytes>,
) -> Result<node_v1::BeginBackupReply, CliError> {
    let key_file = match key_file {
        Some(key_file) => key_file,
        None => repository.keys().await?.unwrap_or_default(),
    };
    let request = node_v1::BeginBackupRequest {
        repository: bytes_of(repository.id),
        backup: bytes_of(backup),
        key_file,
        place: repository.place.clone(),
    };
    client.backup_step("begin-backup", &request).await
}

async fn finish(client: &Client, repository: &Repository, key_file: Bytes, whole: bool) -> Result<(), CliError> {
    repository.write("keys", key_file.clone()).await?;
    let request = node_v1::FinishBackupRequest {
        repository: bytes_of(repository.id),
        place: repository.place.clone(),
        key_file,
        whole,
    };
    client.backup_step::<_, node_v1::FinishBackupReply>("finish-backup", &request).await.map(drop)
}

/// A backup that is being made.
struct Making<'a> {
    client: &'a Client,
    repository: &'a Repository,
    backup: Uuid,
    /// What the person who waits sees.
    progress: Mutex<Progress>,
    /// Frames and bytes so far.
    done: Mutex<(u64, u64)>,
}

impl Making<'_> {
    async fn make(self, what: Contents) -> Result<Created, CliError> {
        self.repository.remove_unfinished().await?;
        let backup = self.backup;
        let log_only = what == Contents::Log;
        let mut begun = begin(self.client, self.repository, backup, None).await?;
        let key_file = begun.key_file.clone();
        let following = Following::new(self.client, self.repository, backup, &key_file);
        let mut starts = Vec::new();
        if !log_only {
            starts = following.starts(begun.shards).await?;
            // A collection that is not in the backup now has no frame yet at these starts.
            begun = begin(self.client, self.repository, backup, Some(begun.key_file)).await?;
        }
        let before = self.before(&begun.cluster_id).await?;
        let base = if what == Contents::Changes { self.base(&begun.cluster_id).await? } else { None };
        let (ended, end) = watch::channel(log_only);
        let parts = async {
            let wanted = if log_only { &[] } else { &begun.parts[..] };
            let parts = wanted.iter().map(|part| {
                let since = base.as_ref().map_or(0, |base| position_in(base, part));
                self.part(part, since, &begun.key_file)
            });
            let parts: Vec<Part> = futures::stream::iter(parts).buffered(PARTS_AT_ONCE).try_collect().await?;
            ended.send_replace(true);
            Ok::<_, CliError>(parts)
        };
        let logs = following.logs(begun.shards, before.as_ref(), &starts, end);
        let (parts, logs) = tokio::try_join!(parts, logs)?;
        let base = base.filter(|_| parts.iter().any(|part| part.since > 0)).map(|base| base.backup);
        let forgotten = forgotten(before.as_ref(), &logs);
        let holding = |part: &node_v1::BackupPart| Holding {
            collection: part.collection,
            shard: part.shard,
            key_version: part.key_version,
        };
        let manifest = Manifest {
            format: FORMAT,
            repository: self.repository.id,
            backup,
            base,
            cluster_id: begun.cluster_id,
            made_at: jiff::Timestamp::now().to_string(),
            made_by: env!("CARGO_PKG_VERSION").to_owned(),
            cluster: STANDARD.encode(&begun.cluster),
            parts,
            log_only,
            shards: begun.shards,
            holdings: begun.parts.iter().map(holding).collect(),
            starts,
            logs,
        };
        let text = Bytes::from(serde_json::to_vec(&manifest).expect("plain data"));
        let request =
            node_v1::SignBackupRequest { key_file: begun.key_file.clone(), manifest: text.clone(), parts: begun.parts };
        let signed: node_v1::SignBackupReply = self.client.backup_step("sign-backup", &request).await?;
        let whole = [&text[..], b"\n", STANDARD.encode(&signed.mac).as_bytes(), b"\n"].concat();
        self.repository.write(&manifest_name(backup), whole.into()).await?;
        finish(self.client, self.repository, begun.key_file, true).await?;
        let seconds = self.progress.into_inner().expect("nobody panicked").finish().as_secs_f64();
        let (frames, bytes) = (manifest.frames(), manifest.bytes());
        Ok(Created { backup, base, frames, bytes, log_only, forgotten, seconds })
    }

    /// The newest backup of this cluster, with or without frames.
    async fn before(&self, cluster_id: &str) -> Result<Option<Manifest>, CliError> {
        for &id in self.repository.finished().await?.iter().rev() {
            let manifest = self.repository.manifest(id).await?.manifest;
            if manifest.cluster_id == cluster_id {
                return Ok(Some(manifest));
            }
        }
        Ok(None)
    }

    /// The newest backup of this cluster with frames, unless too many add to each other already. One that an older version
    /// made is not added to: it has no logs to replay.
    async fn base(&self, cluster_id: &str) -> Result<Option<Manifest>, CliError> {
        let Some(newest) = self.repository.newest().await? else { return Ok(None) };
        let chain = self.repository.chain(newest).await?;
        let length = chain.len();
        let newest = chain.into_iter().next().map(|signed| signed.manifest);
        let is_fit =
            |manifest: &Manifest| manifest.cluster_id == cluster_id && manifest.format == FORMAT && length < MAX_CHAIN;
        Ok(newest.filter(is_fit))
    }

    async fn part(&self, of: &node_v1::BackupPart, since: u64, key_file: &Bytes) -> Result<Part, CliError> {
        let mut tries = 0;
        loop {
            tries += 1;
            match self.try_part(of, since, key_file).await {
                // The node that had the view is gone, or was started again.
                Err(CliError::Problem(problem))
                    if matches!(problem.code, Code::NotFound | Code::Unavailable | Code::DeadlineExceeded)
                        && tries < PART_TRIES => {}
                other => return other,
            }
        }
    }

    async fn try_part(&self, of: &node_v1::BackupPart, since: u64, key_file: &Bytes) -> Result<Part, CliError> {
        let node_v1::BackupPart { shard, collection, key_version } = *of;
        let mut part = Part { shard, collection, key_version, position: 0, time_ms: 0, since, pages: Vec::new() };
        let mut request = node_v1::BackupPageRequest {
            key_file: key_file.clone(),
            backup: bytes_of(self.backup),
            shard,
            collection,
            since,
            ..Default::default()
        };
        loop {
            let reply: node_v1::BackupPageReply = self.client.backup_step("backup-page", &request).await?;
            let page = Page { ids: reply.ids, changed: reply.changed, sealed: reply.page };
            let bytes = page.encode();
            let entry = PageEntry {
                bytes: bytes.len() as u64,
                blake3: hash(&bytes),
                frames: page.ids.len() as u64 / 16,
                changed: page.changed.len() as u64 / 16,
            };
            self.repository.write(&page_name(self.backup, &part, part.pages.len()), bytes).await?;
            self.tell(&entry);
            part.pages.push(entry);
            (part.position, part.time_ms) = (reply.position, reply.time_ms);
            if reply.upto.is_empty() {
                return Ok(part);
            }
            request.number += 1;
            (request.view, request.node, request.after) = (reply.view, reply.node, reply.upto);
        }
    }

    fn tell(&self, page: &PageEntry) {
        let mut done = self.done.lock().expect("nobody panicked");
        done.0 += page.frames;
        done.1 += page.bytes;
        self.progress.lock().expect("nobody panicked").update(done.0, done.1);
    }
}

/// Shards whose log has a hole, here or to the backup before.
fn forgotten(before: Option<&Manifest>, logs: &[Log]) -> Vec<u32> {
    let ends = |shard| before.and_then(|before| before.logs.iter().rfind(|log| log.shard == shard)).map(Log::upto);
    let mut next = std::collections::BTreeMap::new();
    let mut forgotten = std::collections::BTreeSet::new();
    for log in logs {
        let known = next.insert(log.shard, log.upto()).or_else(|| ends(log.shard));
        if known.is_some_and(|known| log.after > known) {
            forgotten.insert(log.shard);
        }
    }
    forgotten.into_iter().collect()
}

/// The position up to which a base has a part, with the key that seals it now; 0 if it has none of it.
fn position_in(base: &Manifest, part: &node_v1::BackupPart) -> u64 {
    let same = |known: &&Part| {
        (known.shard, known.collection, known.key_version) == (part.shard, part.collection, part.key_version)
    };
    base.parts.iter().find(same).map_or(0, |known| known.position)
}
