//! Bringing a backup back into an empty cluster, and checking one without.
//!
//! Every page is read and compared with its checksum before the cluster is changed: a backup that is not whole must not
//! leave half a cluster behind. Then a part is the newest backup's list of frames, each taken from the newest backup of the chain that holds it. So pages
//! are read from the newest backup to the oldest, and of each only the frames that are still wanted.

use std::collections::BTreeSet;
use std::sync::Mutex;

use bytes::{BufMut, Bytes, BytesMut};
use futures::{StreamExt, TryStreamExt};
use mira_proto::{FrameId, Problem, node_v1};
use serde::Serialize;
use uuid::Uuid;

use super::create::bytes_of;
use super::page::{Page, ids};
use super::{Manifest, Object, Part, Repository, Vouched, damaged, page_name};
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
    /// The moment that it was rolled forward to, RFC 3339.
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

/// Reads a backup whole and has the cluster open every frame of it, without storing any; and compares every piece of the
/// place's logs with its checksum.
pub async fn verify(client: &Client, repository: &Repository, backup: Option<Uuid>) -> Result<Restored, CliError> {
    super::forward::look_at_logs(repository).await?;
    Reading::begin(client, repository, backup, true).await?.all().await
}

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
    pub done: Mutex<Done>,
}

#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Done {
    pub frames: u64,
    pub erased: u64,
    pub bytes: u64,
}

impl<'a> Reading<'a> {
    async fn begin(
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
        let vouched = repository.chain(newest).await?;
        if vouched[0].manifest.log_only {
            let detail = format!("backup {newest} holds logs only: --at brings back a moment that they tell of");
            return Err(Problem::invalid(detail).into());
        }
        let mut begun = node_v1::BeginRestoreReply::default();
        for found in vouched.iter().rev() {
            begun = client.backup_step("begin-restore", &begin_request(&key_file, found, true)?).await?;
        }
        let newest = begin_request(&key_file, &vouched[0], false)?;
        let chain: Vec<Manifest> = vouched.into_iter().map(|found| found.manifest).collect();
        let (progress, done) = (Mutex::new(Progress::new(0)), Mutex::default());
        Ok(Reading { client, repository, check_only, key_file, newest, chain, begun, progress, done })
    }

    /// Every page is there and unaltered.
    pub async fn look_at_all(&self) -> Result<(), CliError> {
        let pages = self.chain.iter().flat_map(|manifest| {
            manifest
                .parts
                .iter()
                .flat_map(move |part| (0..part.pages.len()).map(move |number| (manifest, part, number)))
        });
        futures::stream::iter(pages.map(|(manifest, part, number)| self.page(manifest, part, number)))
            .buffer_unordered(PARTS_AT_ONCE)
            .try_for_each(async |_| Ok(()))
            .await?;
        *self.done.lock().expect("nobody panicked") = Done::default();
        Ok(())
    }

    /// Has the cluster make room for what comes.
    pub async fn go_on(self) -> Result<Self, CliError> {
        let begun = self.client.backup_step("begin-restore", &self.newest).await?;
        Ok(Reading { begun, ..self })
    }

    async fn all(self) -> Result<Restored, CliError> {
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
                let page = self.page(manifest, part, number).await?;
                if age == 0 {
                    wanted.extend(ids(&page.ids));
                }
                // The frames of the page that are still wanted, which are wanted no more.
                let taken: Vec<FrameId> = ids(&page.changed).filter(|id| wanted.remove(id)).collect();
                match is_erased {
                    true => self.done.lock().expect("nobody panicked").erased += taken.len() as u64,
                    false if taken.is_empty() => {}
                    false => self.count(&self.send((manifest, part), (number, page), &taken).await?),
                }
            }
            if part.since == 0 {
                break;
            }
        }
        all_found(&wanted, newest, self.chain[0].backup)
    }

    pub async fn page(&self, manifest: &Manifest, part: &Part, number: usize) -> Result<Page, CliError> {
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
        (manifest, part): (&Manifest, &Part),
        (number, page): (usize, Page),
        taken: &[FrameId],
    ) -> Result<node_v1::RestorePageReply, CliError> {
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

    /// Has the cluster take frames.
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

/// Ids, 16 bytes each.
pub(super) fn list(ids: &[FrameId]) -> Bytes {
    let mut listed = BytesMut::with_capacity(16 * ids.len());
    ids.iter().for_each(|&id| listed.put_u128(id));
    listed.freeze()
}

pub(super) fn begin_request(
    key_file: &Bytes,
    found: &Vouched,
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
