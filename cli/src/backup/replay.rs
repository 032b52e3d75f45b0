//! Bringing back a moment between backups: the newest backup before it, rolled forward with the logs that were archived since.
//!
//! What the logs do not name is as the backup shows it, and goes the way of every restore. The frames that they do name go to
//! a node, with the logs; it makes of them what they were at the moment (the node's `shard/roll.rs`) and gives them out as
//! pages, which go the same way.
//!
//! As with every restore, nothing is changed before all of it was read. Rolling can fail for what is in the logs too, so every
//! shard is rolled forward once for the sake of it before the cluster is told.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use mira_proto::{Code, FrameId, node_v1};
use node_v1::roll_request::Step;

use super::create::bytes_of;
use super::moments::{self, Placed, Plan};
use super::page::{LogPage, Page, ids};
use super::restore::{Done, PARTS_AT_ONCE, Reading, Restored, all_found, begin_request, list};
use super::{Manifest, Object, Part, Repository, Vouched, damaged, log_name, start_name};
use crate::client::Client;
use crate::error::CliError;
use crate::import::progress::Progress;

/// How often a shard is begun anew.
const SHARD_TRIES: usize = 5;
/// A node gives a roll up that nobody asks of for five times as long.
const HOLD_EVERY: Duration = Duration::from_secs(60);

/// Brings the moment `at_ms` into an empty cluster. Given again after it was stopped, it goes over the same ground and ends
/// the same.
pub async fn restore_at(client: &Client, repository: &Repository, at_ms: u64) -> Result<Restored, CliError> {
    let manifests = repository.manifests().await?;
    let plan = moments::plan(&manifests, at_ms)?;
    let mut forward = Forward::begin(client, repository, (&manifests[..], plan, at_ms)).await?;
    forward.reading.look_at_all().await?;
    forward.all(true).await?;
    forward.reading = forward.reading.go_on().await?;
    *forward.reading.done.lock().expect("nobody panicked") = Done { erased: forward.erased(), ..Done::default() };
    forward.all(false).await?;
    let end = node_v1::EndRestoreRequest { backup: forward.reading.newest.backup.clone(), at_ms };
    client.backup_step::<_, node_v1::EndRestoreReply>("end-restore", &end).await?;
    Ok(Restored { at: Some(moments::text(at_ms)), ..forward.reading.restored() })
}

/// Checks every piece of the logs in a place against its checksum.
pub(super) async fn look_at_logs(repository: &Repository) -> Result<(), CliError> {
    for found in repository.manifests().await? {
        let Manifest { backup, starts, logs, .. } = found.manifest;
        for start in &starts {
            repository.piece(backup, &start_name(backup, start.shard), &start.object).await?;
        }
        for (shard, page) in logs.iter().flat_map(|log| log.pages.iter().map(|page| (log.shard, page))) {
            read_log(repository, shard, &Placed { backup, number: page.number, after: 0, object: page.object.clone() })
                .await?;
        }
    }
    Ok(())
}

async fn read_log(repository: &Repository, shard: u32, page: &Placed) -> Result<LogPage, CliError> {
    let name = log_name(page.backup, shard, page.number);
    let bytes = repository.piece(page.backup, &name, &page.object).await?;
    LogPage::decode(bytes).map_err(|what| damaged(page.backup, &format!("{name}: {what}")).into())
}

struct Forward<'a> {
    /// Of the backup that is rolled forward.
    reading: Reading<'a>,
    manifests: &'a [Vouched],
    plan: Plan,
    at_ms: u64,
}

/// A shard, on its way.
struct Roll {
    shard: u32,
    /// As the node names it.
    roll: u64,
    node: u64,
    /// What its log may have changed, by collection.
    touched: BTreeMap<u64, BTreeSet<FrameId>>,
    /// Frames that the cluster took.
    frames: u64,
    /// When the node was last asked.
    asked: Instant,
}

impl<'a> Forward<'a> {
    async fn begin(
        client: &'a Client,
        repository: &'a Repository,
        (manifests, plan, at_ms): (&'a [Vouched], Plan, u64),
    ) -> Result<Self, CliError> {
        let key_file = repository.needed_keys().await?;
        let vouched = repository.chain(manifests[plan.base].manifest.backup).await?;
        // What a manifest says is worth nothing before it is vouched for.
        for found in vouched.iter().chain(&manifests[plan.base..=plan.closing]) {
            let check = begin_request(&key_file, found, true)?;
            client.backup_step::<_, node_v1::BeginRestoreReply>("begin-restore", &check).await?;
        }
        let newest =
            node_v1::BeginRestoreRequest { at_ms, ..begin_request(&key_file, &manifests[plan.closing], false)? };
        let check = node_v1::BeginRestoreRequest { check_only: true, ..newest.clone() };
        let begun = client.backup_step("begin-restore", &check).await?;
        let chain = vouched.into_iter().map(|found| found.manifest).collect();
        let (progress, done) = (std::sync::Mutex::new(Progress::new(0)), std::sync::Mutex::default());
        let reading = Reading { client, repository, check_only: false, key_file, newest, chain, begun, progress, done };
        Ok(Forward { reading, manifests, plan, at_ms })
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

    /// Every shard; only for the sake of it, with nothing taken into the cluster, if it is a `rehearsal`.
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
                // The node that had the roll is gone, or was started again. What was put stays, and is put again.
                Err(CliError::Problem(problem))
                    if matches!(problem.code, Code::NotFound | Code::Unavailable | Code::DeadlineExceeded)
                        && tries < SHARD_TRIES => {}
                other => return other,
            }
        }
    }

    async fn try_shard(&self, shard: u32, rehearsal: bool) -> Result<(), CliError> {
        let pages = moments::pages(self.manifests, &self.plan, (shard, self.at_ms));
        let collections = self.collections(shard);
        let mut touched: BTreeMap<u64, BTreeSet<FrameId>> = BTreeMap::new();
        for page in &pages {
            for (collection, frame) in read_log(self.reading.repository, shard, page).await?.touched() {
                touched.entry(collection).or_default().insert(frame);
            }
        }
        let mut roll = Roll { shard, roll: 0, node: 0, touched, frames: 0, asked: Instant::now() };
        let begun = self.roll(&mut roll, self.first(shard, &collections).await?).await?;
        (roll.roll, roll.node) = (begun.roll, begun.node);
        for part in collections.values().flatten() {
            self.part(&mut roll, part, rehearsal).await?;
        }
        for page in pages {
            let LogPage { touched, sealed } = read_log(self.reading.repository, shard, &page).await?;
            let Placed { backup, number, after, .. } = page;
            let log = node_v1::RollLog { backup: bytes_of(backup), number, after, touched, page: sealed };
            if self.roll(&mut roll, Step::Log(log)).await?.later {
                break;
            }
        }
        for &collection in collections.keys().filter(|_| !rehearsal) {
            self.take(&mut roll, collection).await?;
        }
        self.roll(&mut roll, Step::End(node_v1::RollEnd {})).await?;
        let mut done = self.reading.done.lock().expect("nobody panicked");
        done.frames += roll.frames;
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
        let part = |(&collection, part): (&u64, &Option<&Part>)| node_v1::RollPart {
            collection,
            position: part.map_or(0, |part| part.position),
        };
        Ok(Step::Begin(node_v1::RollBegin {
            backup: bytes_of(base.backup),
            shard,
            start,
            until_ms: self.at_ms,
            parts: collections.iter().map(part).collect(),
        }))
    }

    async fn roll(&self, roll: &mut Roll, step: Step) -> Result<node_v1::RollReply, CliError> {
        let request = node_v1::RollRequest {
            key_file: self.reading.key_file.clone(),
            roll: roll.roll,
            node: roll.node,
            step: Some(step),
        };
        roll.asked = Instant::now();
        self.reading.client.backup_step("roll-forward", &request).await
    }

    /// A collection in a shard, from every backup of the chain that has something of it: what the log names to the roll, the
    /// rest into the cluster.
    async fn part(&self, roll: &mut Roll, newest: &Part, rehearsal: bool) -> Result<(), CliError> {
        let touched = roll.touched.remove(&newest.collection).unwrap_or_default();
        let mut wanted = BTreeSet::new();
        for (age, manifest) in self.reading.chain.iter().enumerate() {
            let of = |part: &&Part| (part.shard, part.collection) == (newest.shard, newest.collection);
            let Some(part) = manifest.parts.iter().find(of) else { break };
            for number in 0..part.pages.len() {
                let page = self.reading.page(manifest, part, number).await?;
                if roll.asked.elapsed() > HOLD_EVERY {
                    self.roll(roll, Step::Hold(node_v1::RollHold {})).await?;
                }
                if age == 0 {
                    wanted.extend(ids(&page.ids));
                }
                let taken: Vec<FrameId> = ids(&page.changed).filter(|id| wanted.remove(id)).collect();
                let (named, others): (Vec<_>, Vec<_>) = taken.into_iter().partition(|id| touched.contains(id));
                let first = (age, number) == (0, 0);
                if first || !named.is_empty() {
                    let base = base_step((manifest, part), (number, &page), &named, first);
                    self.roll(roll, Step::Base(base)).await?;
                }
                if !rehearsal && !others.is_empty() {
                    roll.frames += self.reading.send((manifest, part), (number, page), &others).await?.restored;
                }
            }
            if part.since == 0 {
                break;
            }
        }
        all_found(&wanted, newest, self.base().backup)
    }

    /// Has the cluster take what came of a collection.
    async fn take(&self, roll: &mut Roll, collection: u64) -> Result<(), CliError> {
        let backup = self.name();
        let (mut number, mut after) = (0, Bytes::new());
        loop {
            let page = node_v1::RollPage { backup: backup.clone(), collection, number, after };
            let reply = self.roll(roll, Step::Page(page)).await?;
            if !reply.ids.is_empty() {
                let page = node_v1::RestorePageRequest {
                    key_file: self.reading.key_file.clone(),
                    backup: backup.clone(),
                    shard: roll.shard,
                    collection,
                    number,
                    changed: reply.ids.clone(),
                    wanted: reply.ids.clone(),
                    ids: reply.ids,
                    page: reply.page,
                    check_only: false,
                };
                roll.frames += self.reading.put(&page).await?.restored;
            }
            if reply.upto.is_empty() {
                return Ok(());
            }
            (number, after) = (number + 1, reply.upto);
        }
    }

    /// What its pages are named after: no backup.
    fn name(&self) -> Bytes {
        let named = [&b"mira moment"[..], &self.reading.newest.backup, &self.at_ms.to_le_bytes()].concat();
        Bytes::copy_from_slice(&blake3::hash(&named).as_bytes()[..16])
    }
}

fn base_step(
    (manifest, part): (&Manifest, &Part),
    (number, page): (usize, &Page),
    named: &[FrameId],
    first: bool,
) -> node_v1::RollBase {
    node_v1::RollBase {
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
