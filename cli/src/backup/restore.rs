//! Bringing a backup back into an empty cluster.
//!
//! Every page is read and compared with its checksum before the cluster is changed: a backup that is not whole must not
//! leave half a cluster behind. Then a part is the newest backup's list of frames, each taken from the newest backup of the
//! chain that holds it. So pages are read from the newest backup to the oldest, and of each only the frames that are still
//! wanted.

use std::collections::BTreeSet;
use std::sync::Mutex;

use bytes::{BufMut, Bytes, BytesMut};
use futures::{StreamExt, TryStreamExt};
use mira_proto::{FrameId, Problem, node_v1};
use serde::Serialize;
use uuid::Uuid;

use super::manifest::{Manifest, Object, Part, SignedManifest, damaged, page_name};
use super::page::{Page, bytes_of, ids};
use super::repository::Repository;
use crate::client::Client;
use crate::error::CliError;
use crate::import::progress::Progress;

/// Parts under way at once.
pub(super) const PARTS_AT_ONCE: usize = 4;

/// What came back, or would.
#[derive(Debug, Serialize)]
pub struct Restored {
    /// The backup.
    pub backup: Uuid,
    /// The recovery point that the logs were replayed up to, RFC 3339.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub at: Option<String>,
    /// Collections by name.
    pub collections: Vec<String>,
    /// Collections whose keys were destroyed since: nothing of them can be opened.
    pub shredded: Vec<String>,
    /// Frames that came back.
    pub frames: u64,
    /// Frames whose key was destroyed since.
    pub frames_shredded: u64,
    /// Bytes that were read.
    pub bytes: u64,
    /// How long it took.
    pub seconds: f64,
}

/// Brings a backup (the newest, unless another is named) into an empty cluster. Given again after it was stopped, it goes
/// over the same ground and ends the same.
pub async fn restore(client: &Client, repository: &Repository, backup: Option<Uuid>) -> Result<Restored, CliError> {
    let reading = Reading::begin(client, repository, backup, false).await?;
    reading.look_at_all().await?;
    let reading = reading.go_on().await?;
    let restored = reading.all().await?;
    let end = node_v1::EndRestoreRequest { backup: bytes_of(restored.backup), at_ms: 0 };
    client.backup_step::<_, node_v1::EndRestoreReply>("end-restore", &end).await?;
    Ok(restored)
}

/// A backup on its way into a cluster, or through its checks.
pub(super) struct Reading<'a> {
    pub client: &'a Client,
    pub repository: &'a Repository,
    pub check_only: bool,
    pub key_file: Bytes,
    /// What begins the restore.
    pub newest: node_v1::BeginRestoreRequest,
    /// The newest first.
    pub chain: Vec<Manifest>,
    pub begun: node_v1::BeginRestoreReply,
    pub progress: Mutex<Progress>,
    pub done: Mutex<Tally>,
}

/// How much is done.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Tally {
    pub frames: u64,
    pub erased: u64,
    pub bytes: u64,
}

/// A page of a backup of the chain.
#[derive(Clone, Copy)]
pub(super) struct PagePlace<'a> {
    pub manifest: &'a Manifest,
    pub part: &'a Part,
    pub number: usize,
}

impl<'a> Reading<'a> {
    /// Reads the backup's chain of manifests and has the cluster check their signatures.
    pub async fn begin(
        client: &'a Client,
        repository: &'a Repository,
        backup: Option<Uuid>,
        check_only: bool,
    ) -> Result<Self, CliError> {
        let newest = match backup {
            Some(backup) => backup,
            None => {
                let newest = repository.newest().await?;
                newest.ok_or_else(|| repository.missing("there is no finished backup"))?
            }
        };
        let key_file = repository.needed_keys().await?;
        let signed = repository.chain(newest).await?;
        if signed[0].manifest.log_only {
            let detail =
                format!("backup {newest} holds logs only: --at brings back a recovery point that they tell of");
            return Err(Problem::invalid(detail).into());
        }
        let mut begun = node_v1::BeginRestoreReply::default();
        for found in signed.iter().rev() {
            begun = client.backup_step("begin-restore", &begin_request(&key_file, found, true)?).await?;
        }
        let newest = begin_request(&key_file, &signed[0], false)?;
        let chain: Vec<Manifest> = signed.into_iter().map(|found| found.manifest).collect();
        let (progress, done) = (Mutex::new(Progress::new(0)), Mutex::default());
        Ok(Reading { client, repository, check_only, key_file, newest, chain, begun, progress, done })
    }

    /// Every page is there and unaltered.
    pub async fn look_at_all(&self) -> Result<(), CliError> {
        let pages = self.chain.iter().flat_map(|manifest| {
            manifest
                .parts
                .iter()
                .flat_map(move |part| (0..part.pages.len()).map(move |number| PagePlace { manifest, part, number }))
        });
        futures::stream::iter(pages.map(|place| self.page(place)))
            .buffer_unordered(PARTS_AT_ONCE)
            .try_for_each(async |_| Ok(()))
            .await?;
        *self.done.lock().expect("nobody panicked") = Tally::default();
        Ok(())
    }

    /// Has the cluster make room for what comes.
    pub async fn go_on(self) -> Result<Self, CliError> {
        let begun = self.client.backup_step("begin-restore", &self.newest).await?;
        Ok(Reading { begun, ..self })
    }

    /// Has the cluster take, or check, every part.
    pub async fn all(self) -> Result<Restored, CliError> {
        let newest = &self.chain[0];
        let erased: BTreeSet<u64> =
            self.begun.collections.iter().filter(|found| found.erased).map(|found| found.id).collect();
        let parts = newest.parts.iter().filter(|part| !erased.contains(&part.collection) || self.check_only);
        futures::stream::iter(parts.map(|part| self.part(part, erased.contains(&part.collection))))
            .buffer_unordered(PARTS_AT_ONCE)
            .try_collect::<()>()
            .await?;
        Ok(self.restored())
    }

    /// What came of it.
    pub fn restored(self) -> Restored {
        let names = |erased: bool| {
            let found = self.begun.collections.iter().filter(|found| found.erased == erased);
            let mut names: Vec<String> = found.map(|found| found.name.clone()).collect();
            names.sort_unstable();
            names
        };
        let (collections, shredded) = (names(false), names(true));
        let done = *self.done.lock().expect("nobody panicked");
        let seconds = self.progress.into_inner().expect("nobody panicked").finish().as_secs_f64();
        Restored {
            backup: self.chain[0].backup,
            at: None,
            collections,
            shredded,
            frames: done.frames,
            frames_shredded: done.erased,
            bytes: done.bytes,
            seconds,
        }
    }

    /// A collection in a shard, from every backup of the chain that has something of it.
    async fn part(&self, newest: &Part, is_erased: bool) -> Result<(), CliError> {
        let mut wanted = BTreeSet::new();
        for (age, manifest) in self.chain.iter().enumerate() {
            let of = |part: &&Part| (part.shard, part.collection) == (newest.shard, newest.collection);
            let Some(part) = manifest.parts.iter().find(of) else { break };
            for number in 0..part.pages.len() {
                let place = PagePlace { manifest, part, number };
                let page = self.page(place).await?;
                if age == 0 {
                    wanted.extend(ids(&page.ids));
                }
                // The frames of the page that are still wanted, which are wanted no more.
                let taken: Vec<FrameId> = ids(&page.changed).filter(|id| wanted.remove(id)).collect();
                if is_erased {
                    self.done.lock().expect("nobody panicked").erased += taken.len() as u64;
                } else if (age, number) == (0, 0) || !taken.is_empty() {
                    // The first page of all says which versions have ended, whatever it holds.
                    self.count(&self.send(place, page, &taken).await?);
                }
            }
            if part.since == 0 {
                break;
            }
        }
        all_found(&wanted, newest, self.chain[0].backup)
    }

    /// A page, if it is what it was.
    pub async fn page(&self, place: PagePlace<'_>) -> Result<Page, CliError> {
        let PagePlace { manifest, part, number } = place;
        let name = page_name(manifest.backup, part, number);
        let entry = &part.pages[number];
        let object = Object { bytes: entry.bytes, blake3: entry.blake3.clone() };
        let bytes = self.repository.piece(manifest.backup, &name, &object).await?;
        self.done.lock().expect("nobody panicked").bytes += entry.bytes;
        Page::decode(bytes).map_err(|what| damaged(manifest.backup, &format!("{name}: {what}")).into())
    }

    /// Has the cluster take these frames of a page.
    pub async fn send(
        &self,
        place: PagePlace<'_>,
        page: Page,
        taken: &[FrameId],
    ) -> Result<node_v1::RestorePageReply, CliError> {
        let PagePlace { manifest, part, number } = place;
        self.put(&node_v1::RestorePageRequest {
            key_file: self.key_file.clone(),
            backup: bytes_of(manifest.backup),
            shard: part.shard,
            collection: part.collection,
            number: number as u32,
            ids: page.ids,
            changed: page.changed,
            page: page.sealed,
            wanted: list(taken),
            check_only: self.check_only,
        })
        .await
    }

    /// Has the cluster take the frames of a page.
    pub async fn put(&self, request: &node_v1::RestorePageRequest) -> Result<node_v1::RestorePageReply, CliError> {
        self.client.backup_step("restore-page", request).await
    }

    fn count(&self, reply: &node_v1::RestorePageReply) {
        let mut done = self.done.lock().expect("nobody panicked");
        done.frames += reply.restored;
        done.erased += reply.erased;
        self.progress.lock().expect("nobody panicked").update(done.frames, done.bytes);
    }
}

/// Ids as one list, 16 bytes each.
pub(super) fn list(ids: &[FrameId]) -> Bytes {
    let mut listed = BytesMut::with_capacity(16 * ids.len());
    ids.iter().for_each(|&id| listed.put_u128(id));
    listed.freeze()
}

/// What begins a restore of a backup.
pub(super) fn begin_request(
    key_file: &Bytes,
    found: &SignedManifest,
    check_only: bool,
) -> Result<node_v1::BeginRestoreRequest, CliError> {
    Ok(node_v1::BeginRestoreRequest {
        key_file: key_file.clone(),
        manifest: found.bytes.clone(),
        mac: found.mac.clone(),
        backup: bytes_of(found.manifest.backup),
        cluster: found.manifest.cluster()?,
        check_only,
        at_ms: 0,
    })
}

/// Refuses a backup that names frames which none of its pages has.
pub(super) fn all_found(wanted: &BTreeSet<FrameId>, part: &Part, backup: Uuid) -> Result<(), CliError> {
    match wanted.len() {
        0 => Ok(()),
        lost => {
            let what = format!("{lost} frames of shard {} are in none of its pages", part.shard);
            Err(damaged(backup, &what).into())
        }
    }
}
