//! Bringing back a recovery point between backups: the shards' logs are replayed over the newest backup before it.
//!
//! What the logs do not name is as the backup shows it, and goes the way of every restore. The frames that they do name go to
//! a node, with the logs; it makes of them what they were at the recovery point and gives them out as pages, which go the
//! same way.
//!
//! As with every restore, nothing is changed before all of it was read. A replay can fail for what is in the logs too, so
//! every shard's log is replayed once, for a rehearsal, before the cluster is told.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use mira_proto::{Code, FrameId, node_v1};
use node_v1::replay_request::Step;

use super::logs::read_log;
use super::manifest::{Manifest, Object, Part, SignedManifest, damaged, start_name};
use super::page::{Page, SealedLogPage, bytes_of, ids};
use super::recovery_points::{self, Placed, Plan};
use super::repository::Repository;
use super::restore::{PARTS_AT_ONCE, PagePlace, Reading, Restored, Tally, all_found, begin_request, list};
use crate::client::Client;
use crate::error::CliError;
use crate::import::progress::Progress;

/// How often a shard is begun.
const SHARD_TRIES: usize = 5;
/// A node gives up a replay that nobody asks of for five times as long.
const HOLD_EVERY: Duration = Duration::from_secs(60);

/// Brings the recovery point `at_ms` into an empty cluster. Given again after it was stopped, it goes over the same ground and ends
/// the same.
pub async fn restore_at(client: &Client, repository: &Repository, at_ms: u64) -> Result<Restored, CliError> {
    let manifests = repository.manifests().await?;
    let plan = recovery_points::plan(&manifests, at_ms)?;
    let mut replay = Replay::begin(client, repository, &manifests, plan, at_ms).await?;
    replay.reading.look_at_all().await?;
    replay.all(true).await?;
    replay.reading = replay.reading.go_on().await?;
    *replay.reading.done.lock().expect("nobody panicked") = Tally { erased: replay.erased(), ..Tally::default() };
    replay.all(false).await?;
    let end = node_v1::EndRestoreRequest { backup: replay.reading.newest.backup.clone(), at_ms };
    client.backup_step::<_, node_v1::EndRestoreReply>("end-restore", &end).await?;
    Ok(Restored { at: Some(recovery_points::text(at_ms)), ..replay.reading.restored() })
}

/// All shards, on their way to a recovery point.
struct Replay<'a> {
    /// The backup over which the logs are replayed.
    reading: Reading<'a>,
    manifests: &'a [SignedManifest],
    plan: Plan,
    at_ms: u64,
}

/// The replay of one shard's log.
struct ShardReplay {
    shard: u32,
    /// The number that the node gave it.
    number: u64,
    node: u64,
    /// What its log may have changed, by collection.
    touched: BTreeMap<u64, BTreeSet<FrameId>>,
    /// Frames that the cluster took.
    frames: u64,
    /// When the node was last asked.
    asked: Instant,
}

impl<'a> Replay<'a> {
    async fn begin(
        client: &'a Client,
        repository: &'a Repository,
        manifests: &'a [SignedManifest],
        plan: Plan,
        at_ms: u64,
    ) -> Result<Self, CliError> {
        let key_file = repository.needed_keys().await?;
        let signed = repository.chain(manifests[plan.base].manifest.backup).await?;
        // What a manifest says is worth nothing before its signature is checked.
        for found in signed.iter().chain(&manifests[plan.base..=plan.closing]) {
            let check = begin_request(&key_file, found, true)?;
            client.backup_step::<_, node_v1::BeginRestoreReply>("begin-restore", &check).await?;
        }
        let newest =
            node_v1::BeginRestoreRequest { at_ms, ..begin_request(&key_file, &manifests[plan.closing], false)? };
        let check = node_v1::BeginRestoreRequest { check_only: true, ..newest.clone() };
        let begun = client.backup_step("begin-restore", &check).await?;
        let chain = signed.into_iter().map(|found| found.manifest).collect();
        let (progress, done) = (std::sync::Mutex::new(Progress::new(0)), std::sync::Mutex::default());
        let reading = Reading { client, repository, check_only: false, key_file, newest, chain, begun, progress, done };
        Ok(Replay { reading, manifests, plan, at_ms })
    }

    fn base(&self) -> &Manifest {
        &self.reading.chain[0]
    }

    /// Frames that the backup shows of collections whose keys were destroyed since.
    fn erased(&self) -> u64 {
        let is_erased = |part: &&Part| {
            self.reading.begun.collections.iter().any(|found| found.id == part.collection && found.erased)
        };
        let pages = self.base().parts.iter().filter(is_erased).flat_map(|part| &part.pages);
        pages.map(|page| page.frames).sum()
    }

    /// Every shard; a `rehearsal` puts nothing into the cluster.
    async fn all(&self, rehearsal: bool) -> Result<(), CliError> {
        futures::stream::iter((0..self.base().shards).map(|shard| self.shard(shard, rehearsal)))
            .buffer_unordered(PARTS_AT_ONCE)
            .try_collect::<()>()
            .await
    }

    async fn shard(&self, shard: u32, rehearsal: bool) -> Result<(), CliError> {
        let mut tries = 0;
        loop {
            tries += 1;
            match self.try_shard(shard, rehearsal).await {
                // The node that had the replay is gone, or was started again. What was put stays, and is put again.
                Err(CliError::Problem(problem))
                    if matches!(problem.code, Code::NotFound | Code::Unavailable | Code::DeadlineExceeded)
                        && tries < SHARD_TRIES => {}
                other => return other,
            }
        }
    }

    async fn try_shard(&self, shard: u32, rehearsal: bool) -> Result<(), CliError> {
        let pages = recovery_points::pages(self.manifests, &self.plan, shard, self.at_ms);
        let collections = self.collections(shard);
        let mut touched: BTreeMap<u64, BTreeSet<FrameId>> = BTreeMap::new();
        for page in &pages {
            for (collection, frame) in read_log(self.reading.repository, shard, page).await?.touched() {
                touched.entry(collection).or_default().insert(frame);
            }
        }
        let mut replay = ShardReplay { shard, number: 0, node: 0, touched, frames: 0, asked: Instant::now() };
        let begun = self.step(&mut replay, self.first(shard, &collections).await?).await?;
        (replay.number, replay.node) = (begun.replay, begun.node);
        for part in collections.values().flatten() {
            self.part(&mut replay, part, rehearsal).await?;
        }
        for page in pages {
            let SealedLogPage { touched, sealed } = read_log(self.reading.repository, shard, &page).await?;
            let Placed { backup, number, after, .. } = page;
            let log = node_v1::ReplayEntries { backup: bytes_of(backup), number, after, touched, page: sealed };
            if self.step(&mut replay, Step::Log(log)).await?.later {
                break;
            }
        }
        for &collection in collections.keys().filter(|_| !rehearsal) {
            self.take(&mut replay, collection).await?;
        }
        self.step(&mut replay, Step::End(node_v1::ReplayEnd {})).await?;
        let mut done = self.reading.done.lock().expect("nobody panicked");
        done.frames += replay.frames;
        self.reading.progress.lock().expect("nobody panicked").update(done.frames, done.bytes);
        Ok(())
    }

    /// Collections of a shard that come back, each with what the backup has of it. One that was made since has nothing there.
    fn collections(&self, shard: u32) -> BTreeMap<u64, Option<&Part>> {
        let closing = &self.manifests[self.plan.closing].manifest;
        let comes_back = |collection: u64| {
            self.reading.begun.collections.iter().any(|found| found.id == collection && !found.erased)
        };
        let held = closing.holdings.iter().filter(|held| held.shard == shard && comes_back(held.collection));
        let part = |collection| {
            let of = |part: &&Part| (part.shard, part.collection) == (shard, collection);
            self.base().parts.iter().find(of)
        };
        held.map(|held| (held.collection, part(held.collection))).collect()
    }

    async fn first(&self, shard: u32, collections: &BTreeMap<u64, Option<&Part>>) -> Result<Step, CliError> {
        let base = self.base();
        let start = base.starts.iter().find(|start| start.shard == shard);
        let missing = || damaged(base.backup, &format!("it has no start of shard {shard}"));
        let start: &Object = &start.ok_or_else(missing)?.object;
        let start = self.reading.repository.piece(base.backup, &start_name(base.backup, shard), start).await?;
        let part = |(&collection, part): (&u64, &Option<&Part>)| node_v1::ReplayPart {
            collection,
            position: part.map_or(0, |part| part.position),
        };
        Ok(Step::Begin(node_v1::ReplayBegin {
            backup: bytes_of(base.backup),
            shard,
            start,
            until_ms: self.at_ms,
            parts: collections.iter().map(part).collect(),
        }))
    }

    async fn step(&self, replay: &mut ShardReplay, step: Step) -> Result<node_v1::ReplayReply, CliError> {
        let request = node_v1::ReplayRequest {
            key_file: self.reading.key_file.clone(),
            replay: replay.number,
            node: replay.node,
            step: Some(step),
        };
        replay.asked = Instant::now();
        self.reading.client.backup_step("replay-log", &request).await
    }

    /// A collection in a shard, from every backup of the chain that has something of it: what the log names to the replay,
    /// the rest into the cluster.
    async fn part(&self, replay: &mut ShardReplay, newest: &Part, rehearsal: bool) -> Result<(), CliError> {
        let touched = replay.touched.remove(&newest.collection).unwrap_or_default();
        let mut wanted = BTreeSet::new();
        for (age, manifest) in self.reading.chain.iter().enumerate() {
            let of = |part: &&Part| (part.shard, part.collection) == (newest.shard, newest.collection);
            let Some(part) = manifest.parts.iter().find(of) else { break };
            for number in 0..part.pages.len() {
                let place = PagePlace { manifest, part, number };
                let page = self.reading.page(place).await?;
                if replay.asked.elapsed() > HOLD_EVERY {
                    self.step(replay, Step::Hold(node_v1::ReplayHold {})).await?;
                }
                if age == 0 {
                    wanted.extend(ids(&page.ids));
                }
                let taken: Vec<FrameId> = ids(&page.changed).filter(|id| wanted.remove(id)).collect();
                let (named, others): (Vec<_>, Vec<_>) = taken.into_iter().partition(|id| touched.contains(id));
                let first = (age, number) == (0, 0);
                if first || !named.is_empty() {
                    let base = base_step(place, &page, &named, first);
                    self.step(replay, Step::Base(base)).await?;
                }
                if !rehearsal && !others.is_empty() {
                    replay.frames += self.reading.send(place, page, &others).await?.restored;
                }
            }
            if part.since == 0 {
                break;
            }
        }
        all_found(&wanted, newest, self.base().backup)
    }

    /// Has the cluster take what came of a collection.
    async fn take(&self, replay: &mut ShardReplay, collection: u64) -> Result<(), CliError> {
        let backup = self.name();
        let (mut number, mut after) = (0, Bytes::new());
        loop {
            let page = node_v1::ReplayPage { backup: backup.clone(), collection, number, after };
            let reply = self.step(replay, Step::Page(page)).await?;
            // The first page says which versions have ended, whatever it holds.
            if number == 0 || !reply.ids.is_empty() {
                let page = node_v1::RestorePageRequest {
                    key_file: self.reading.key_file.clone(),
                    backup: backup.clone(),
                    shard: replay.shard,
                    collection,
                    number,
                    changed: reply.ids.clone(),
                    wanted: reply.ids.clone(),
                    ids: reply.ids,
                    page: reply.page,
                    check_only: false,
                };
                replay.frames += self.reading.put(&page).await?.restored;
            }
            if reply.upto.is_empty() {
                return Ok(());
            }
            (number, after) = (number + 1, reply.upto);
        }
    }

    /// What its pages are named after: no backup.
    fn name(&self) -> Bytes {
        let named = [&b"mira recovery point"[..], &self.reading.newest.backup, &self.at_ms.to_le_bytes()].concat();
        Bytes::copy_from_slice(&blake3::hash(&named).as_bytes()[..16])
    }
}

fn base_step(place: PagePlace<'_>, page: &Page, named: &[FrameId], first: bool) -> node_v1::ReplayBase {
    let PagePlace { manifest, part, number } = place;
    node_v1::ReplayBase {
        backup: bytes_of(manifest.backup),
        collection: part.collection,
        number: number as u32,
        ids: page.ids.clone(),
        changed: page.changed.clone(),
        page: page.sealed.clone(),
        wanted: list(named),
        first,
    }
}
