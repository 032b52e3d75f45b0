//! Bringing a backup back into an empty cluster, and checking one without.
//!
//! Every page is read and compared with its checksum before the cluster is changed: a backup that is not whole must not
//! leave half a cluster behind. Then a part is the newest backup's list of frames, each taken from the newest backup of the chain that holds it. So pages
//! are read from the newest backup to the oldest, and of each only the frames that are still wanted.

use std::collections::BTreeSet;
use std::sync::Mutex;

use bytes::{BufMut, Bytes, BytesMut};
use futures::{StreamExt, TryStreamExt};
use mira_proto::{FrameId, node_v1};
use serde::Serialize;
use uuid::Uuid;

use super::create::bytes_of;
use super::page::{Page, ids};
use super::{Manifest, Part, Repository, Vouched, damaged, hash, page_name};
use crate::client::Client;
use crate::error::CliError;
use crate::import::progress::Progress;

/// Parts under way at once.
const PARTS_AT_ONCE: usize = 4;

/// What came back, or would.
#[derive(Debug, Serialize)]
pub struct Restored {
    /// The backup.
    pub backup: Uuid,
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
    let end = node_v1::EndRestoreRequest { backup: bytes_of(restored.backup) };
    client.backup_step::<_, node_v1::EndRestoreReply>("end-restore", &end).await?;
    Ok(restored)
}

/// Reads a backup whole and has the cluster open every frame of it, without storing any.
pub async fn verify(client: &Client, repository: &Repository, backup: Option<Uuid>) -> Result<Restored, CliError> {
    Reading::begin(client, repository, backup, true).await?.all().await
}

struct Reading<'a> {
    client: &'a Client,
    repository: &'a Repository,
    check_only: bool,
    key_file: Bytes,
    /// What begins the restore.
    newest: node_v1::BeginRestoreRequest,
    /// The newest first.
    chain: Vec<Manifest>,
    begun: node_v1::BeginRestoreReply,
    progress: Mutex<Progress>,
    done: Mutex<Done>,
}

#[derive(Debug, Default, Clone, Copy)]
struct Done {
    frames: u64,
    erased: u64,
    bytes: u64,
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
                let last = repository.finished().await?.last().copied();
                last.ok_or_else(|| repository.missing("there is no finished backup"))?
            }
        };
        let key_file = repository.needed_keys().await?;
        let vouched = repository.chain(newest).await?;
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
    async fn look_at_all(&self) -> Result<(), CliError> {
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
    async fn go_on(self) -> Result<Self, CliError> {
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
        let names = |erased: bool| {
            let found = self.begun.collections.iter().filter(|found| found.erased == erased);
            let mut names: Vec<String> = found.map(|found| found.name.clone()).collect();
            names.sort_unstable();
            names
        };
        let (collections, shredded) = (names(false), names(true));
        let done = *self.done.lock().expect("nobody panicked");
        let seconds = self.progress.into_inner().expect("nobody panicked").finish().as_secs_f64();
        Ok(Restored {
            backup: newest.backup,
            collections,
            shredded,
            frames: done.frames,
            frames_shredded: done.erased,
            bytes: done.bytes,
            seconds,
        })
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
                    false => self.send((manifest, part), (number, page), &taken).await?,
                }
            }
            if part.since == 0 {
                break;
            }
        }
        match wanted.len() {
            0 => Ok(()),
            lost => {
                let what = format!("{lost} frames of shard {} are in none of its pages", newest.shard);
                Err(damaged(self.chain[0].backup, &what).into())
            }
        }
    }

    async fn page(&self, manifest: &Manifest, part: &Part, number: usize) -> Result<Page, CliError> {
        let name = page_name(manifest.backup, part, number);
        let lost = |what: &str| damaged(manifest.backup, &format!("page {name}: {what}"));
        let bytes = self.repository.read(&name).await?.ok_or_else(|| lost("it is missing"))?;
        let entry = &part.pages[number];
        if bytes.len() as u64 != entry.bytes || hash(&bytes) != entry.blake3 {
            return Err(lost("it was altered").into());
        }
        self.done.lock().expect("nobody panicked").bytes += entry.bytes;
        Page::decode(bytes).map_err(|what| lost(&what).into())
    }

    /// Has the cluster take these frames of a page.
    async fn send(
        &self,
        (manifest, part): (&Manifest, &Part),
        (number, page): (usize, Page),
        taken: &[FrameId],
    ) -> Result<(), CliError> {
        let mut wanted = BytesMut::with_capacity(16 * taken.len());
        taken.iter().for_each(|&id| wanted.put_u128(id));
        let request = node_v1::RestorePageRequest {
            key_file: self.key_file.clone(),
            backup: bytes_of(manifest.backup),
            shard: part.shard,
            collection: part.collection,
            number: number as u32,
            ids: page.ids,
            changed: page.changed,
            page: page.sealed,
            wanted: wanted.freeze(),
            check_only: self.check_only,
        };
        let reply: node_v1::RestorePageReply = self.client.backup_step("restore-page", &request).await?;
        let mut done = self.done.lock().expect("nobody panicked");
        done.frames += reply.restored;
        done.erased += reply.erased;
        self.progress.lock().expect("nobody panicked").update(done.frames, done.bytes);
        Ok(())
    }
}

fn begin_request(
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
    })
}
