//! Making a backup: part by part, page by page, then the manifest, then the keys.
//!
//! The keys come last: until the manifest stands, the repository's key file must open the backups before. A part is read
//! from one view on one node; when that node goes away, the part begins again on another.

use std::sync::Mutex;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use mira_proto::{Code, node_v1};
use serde::Serialize;
use uuid::Uuid;

use super::page::Page;
use super::{FORMAT, Manifest, PageEntry, Part, Repository, hash, manifest_name, page_name};
use crate::client::Client;
use crate::error::CliError;
use crate::import::progress::Progress;

/// Parts under way at once.
const PARTS_AT_ONCE: usize = 4;
/// How often a part is begun anew.
const PART_TRIES: usize = 5;
/// After so many backups that add to each other, one that stands alone is made: a restore reads the whole chain.
const MAX_CHAIN: usize = 30;

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
    /// How long it took.
    pub seconds: f64,
}

/// Makes a backup, of what has changed since the last one of this cluster unless it is to be `full`.
pub async fn create(client: &Client, repository: &Repository, full: bool) -> Result<Created, CliError> {
    repository.alone(Making { client, repository, done: Mutex::default() }.make(full)).await
}

/// Writes the key file anew, so that keys which were destroyed since leave the repository.
pub async fn rewrite_keys(client: &Client, repository: &Repository) -> Result<(), CliError> {
    let rewrite = async {
        let begun = begin(client, repository, Uuid::now_v7()).await?;
        finish(client, repository, begun.key_file, false).await
    };
    repository.alone(rewrite).await
}

/// Tells the cluster that a repository is gone.
pub async fn forget(client: &Client, id: Uuid) -> Result<(), CliError> {
    let request = node_v1::ForgetRepositoryRequest { repository: bytes_of(id) };
    client.backup_step::<_, node_v1::ForgetRepositoryReply>("forget-repository", &request).await.map(drop)
}

async fn begin(client: &Client, repository: &Repository, backup: Uuid) -> Result<node_v1::BeginBackupReply, CliError> {
    let request = node_v1::BeginBackupRequest {
        repository: bytes_of(repository.id),
        backup: bytes_of(backup),
        key_file: repository.keys().await?.unwrap_or_default(),
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

struct Making<'a> {
    client: &'a Client,
    repository: &'a Repository,
    /// Frames and bytes so far, for the person who waits.
    done: Mutex<(u64, u64)>,
}

impl Making<'_> {
    async fn make(&self, full: bool) -> Result<Created, CliError> {
        let progress = Mutex::new(Progress::new(0));
        self.repository.remove_unfinished().await?;
        let backup = Uuid::now_v7();
        let begun = begin(self.client, self.repository, backup).await?;
        let base = if full { None } else { self.base(&begun.cluster_id).await? };
        let parts = begun.parts.iter().map(|part| {
            let (key_file, progress) = (&begun.key_file, &progress);
            let since = base.as_ref().map_or(0, |base| position_in(base, part));
            async move { self.part(backup, part, since, (key_file, progress)).await }
        });
        let parts: Vec<Part> = futures::stream::iter(parts).buffered(PARTS_AT_ONCE).try_collect().await?;
        let base = base.filter(|_| parts.iter().any(|part| part.since > 0)).map(|base| base.backup);
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
        };
        let text = Bytes::from(serde_json::to_vec(&manifest).expect("plain data"));
        let vouch = node_v1::VouchBackupRequest {
            key_file: begun.key_file.clone(),
            manifest: text.clone(),
            parts: begun.parts,
        };
        let vouched: node_v1::VouchBackupReply = self.client.backup_step("vouch-backup", &vouch).await?;
        let whole = [&text[..], b"\n", STANDARD.encode(&vouched.mac).as_bytes(), b"\n"].concat();
        self.repository.write(&manifest_name(backup), whole.into()).await?;
        finish(self.client, self.repository, begun.key_file, true).await?;
        let seconds = progress.into_inner().expect("nobody panicked").finish().as_secs_f64();
        Ok(Created { backup, base, frames: manifest.frames(), bytes: manifest.bytes(), seconds })
    }

    /// The newest backup of this cluster, unless too many add to each other already.
    async fn base(&self, cluster_id: &str) -> Result<Option<Manifest>, CliError> {
        let Some(&newest) = self.repository.finished().await?.last() else { return Ok(None) };
        let chain = self.repository.chain(newest).await?;
        let length = chain.len();
        let newest = chain.into_iter().next().map(|vouched| vouched.manifest);
        Ok(newest.filter(|manifest| manifest.cluster_id == cluster_id && length < MAX_CHAIN))
    }

    async fn part(
        &self,
        backup: Uuid,
        of: &node_v1::BackupPart,
        since: u64,
        (key_file, progress): (&Bytes, &Mutex<Progress>),
    ) -> Result<Part, CliError> {
        let mut tries = 0;
        loop {
            tries += 1;
            match self.try_part(backup, of, since, (key_file, progress)).await {
                // The node that had the view is gone, or was started again.
                Err(CliError::Problem(problem))
                    if matches!(problem.code, Code::NotFound | Code::Unavailable | Code::DeadlineExceeded)
                        && tries < PART_TRIES => {}
                other => return other,
            }
        }
    }

    async fn try_part(
        &self,
        backup: Uuid,
        of: &node_v1::BackupPart,
        since: u64,
        (key_file, progress): (&Bytes, &Mutex<Progress>),
    ) -> Result<Part, CliError> {
        let node_v1::BackupPart { shard, collection, key_version } = *of;
        let mut part = Part { shard, collection, key_version, position: 0, since, pages: Vec::new() };
        let mut request = node_v1::BackupPageRequest {
            key_file: key_file.clone(),
            backup: bytes_of(backup),
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
            self.repository.write(&page_name(backup, &part, part.pages.len()), bytes).await?;
            self.tell(&entry, progress);
            part.pages.push(entry);
            part.position = reply.position;
            if reply.upto.is_empty() {
                return Ok(part);
            }
            request.number += 1;
            (request.view, request.node, request.after) = (reply.view, reply.node, reply.upto);
        }
    }

    fn tell(&self, page: &PageEntry, progress: &Mutex<Progress>) {
        let mut done = self.done.lock().expect("nobody panicked");
        done.0 += page.frames;
        done.1 += page.bytes;
        progress.lock().expect("nobody panicked").update(done.0, done.1);
    }
}

/// The position up to which a base has a part, with the key that seals it now; 0 if it has none of it.
fn position_in(base: &Manifest, part: &node_v1::BackupPart) -> u64 {
    let same = |known: &&Part| {
        (known.shard, known.collection, known.key_version) == (part.shard, part.collection, part.key_version)
    };
    base.parts.iter().find(same).map_or(0, |known| known.position)
}

pub(super) fn bytes_of(id: Uuid) -> Bytes {
    Bytes::copy_from_slice(id.as_bytes())
}
