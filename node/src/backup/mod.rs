//! Backups, on the meta leader and on any node: what a repository holds, and how a cluster is made of it again.
//!
//! ```text
//! repository = key file              the repository's key and all keys of collections, wrapped; written anew with every
//!                                    backup, so that what was destroyed since leaves it
//!              manifest per backup   positions, pages with checksums; signed for with the repository's key
//!              pages                 frames as they are sealed in the state (shard/restore.rs)
//!              logs                  what happened since, entry by entry (shard/archive.rs)
//! ```
//! Keys are in the key file only. So a destroyed key is out of reach of every backup once the key file is rewritten, and
//! an erasure is not over before that. The caller moves bytes between nodes and the repository and can open none.

pub mod recovery;

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use mira_crypto::{KeyId, RepositoryKey, os_rng};
use mira_proto::{
    Code, CollectionId, HEADER_VERSION, Problem, Refusal, ShardId, limits, node_v1,
    placement::{Partitioning, shards_of_collection},
};
use serde::{Deserialize, Serialize};

use crate::{
    keys::keyring::{KeyError, Keyring},
    meta::{
        ClusterState, CollectionRecord, GrowthStep, MetaAnswer, MetaCommand, OwnerName, Repository, RotationStep,
        state::{RestoredCluster, cluster_id_text},
    },
    node::Node,
    shard::{
        command::MigratedFrame,
        pages::{PageBody, PagePlace, read_ids},
        reseal::Resealer,
    },
};

const KEY_FILE_VERSION: u8 = 1;
const CLUSTER_VERSION: u8 = 1;
/// What a key file is bound to.
const KEY_FILE: &[u8] = b"mira repository keys";

/// The keys that open a repository's backups.
#[derive(Serialize, Deserialize)]
struct KeyFile {
    repository: u128,
    /// The repository's key, wrapped.
    key: Vec<u8>,
    /// The map's epoch that it shows.
    epoch: u64,
    /// Keys of collections by version, wrapped.
    collections: BTreeMap<CollectionId, BTreeMap<u32, Vec<u8>>>,
    /// Keys of private frames' outermost layer, wrapped.
    layers: BTreeMap<u32, Vec<u8>>,
}

/// What a backup says of the cluster, without keys.
#[derive(Serialize, Deserialize)]
struct BackedUp {
    collections: Vec<CollectionRecord>,
    owners: BTreeMap<OwnerName, String>,
}

impl KeyFile {
    fn open(keyring: &Keyring, sealed: &[u8]) -> Result<Self, Problem> {
        let damaged = |what: String| Problem::new(Code::Damaged, format!("the repository's key file: {what}"));
        let sealer = keyring.sealer_of(sealed).map_err(|error| match error {
            KeyError::NoClusterKey(id) => Problem::new(
                Code::PermissionDenied,
                format!(
                    "the repository's key file is sealed with the cluster key {id}, which this cluster does not hold"
                ),
            ),
            other => damaged(other.to_string()),
        })?;
        let plain = sealer.open(KEY_FILE, sealed, limits::MAX_MESSAGE_BYTES);
        let plain = plain.map_err(|error| damaged(error.to_string()))?;
        match plain.split_first() {
            Some((&KEY_FILE_VERSION, body)) => postcard::from_bytes(body).map_err(|error| damaged(error.to_string())),
            Some((version, _)) => {
                Err(Problem::new(Code::UnsupportedVersion, format!("the repository's key file has version {version}")))
            }
            None => Err(damaged("it is empty".into())),
        }
    }

    fn seal(&self, keyring: &Keyring) -> Bytes {
        let plain = postcard::to_extend(self, vec![KEY_FILE_VERSION]).expect("plain data");
        keyring.meta_sealer().seal_proposal(KEY_FILE, &plain, &mut os_rng()).into()
    }
}

fn number(bytes: &[u8], what: &str) -> Result<u128, Problem> {
    let bytes = bytes.try_into().map_err(|_| Problem::invalid(format!("the id of a {what} has 16 bytes")))?;
    Ok(u128::from_be_bytes(bytes))
}

/// What a backup's description of its cluster is bound to.
fn cluster_place(backup: &[u8]) -> Vec<u8> {
    [b"mira backup cluster", backup].concat()
}

impl Node {
    /// The key of a repository, from its key file.
    fn repository_key(&self, key_file: &[u8]) -> Result<RepositoryKey, Refusal> {
        let file = KeyFile::open(self.keyring(), key_file)?;
        Ok(self.keyring().repository(&file.key)?)
    }

    pub(crate) async fn begin_backup(
        &self,
        request: node_v1::BeginBackupRequest,
    ) -> Result<node_v1::BeginBackupReply, Refusal> {
        let cluster = self.cluster();
        let repository = number(&request.repository, "repository")?;
        number(&request.backup, "backup")?;
        refuse_while_moving(&cluster)?;
        let key = match request.key_file.is_empty() {
            true => self.keyring().new_repository_key(),
            false => {
                let file = KeyFile::open(self.keyring(), &request.key_file)?;
                if file.repository != repository {
                    return Err(Problem::new(Code::Damaged, "the key file belongs to another repository").into());
                }
                self.keyring().repository(&file.key)?
            }
        };
        if !cluster.repositories.contains_key(&repository) {
            // From now on the end of a key waits for this place too.
            self.put_repository(repository, Repository { place: request.place, keys_epoch: 0, finished_ms: 0 }).await?;
        }
        let file = KeyFile {
            repository,
            key: self.keyring().wrap_repository_key(&key),
            epoch: cluster.header.epoch,
            collections: cluster.collections.iter().map(|(&id, record)| (id, record.wrapped_keys.clone())).collect(),
            layers: cluster.header.layer_keys.clone(),
        };
        let without_keys =
            |record: &CollectionRecord| CollectionRecord { wrapped_keys: BTreeMap::new(), ..record.clone() };
        let backed_up = BackedUp {
            collections: cluster.collections.values().map(without_keys).collect(),
            owners: cluster.owners.clone(),
        };
        let plain = postcard::to_extend(&backed_up, vec![CLUSTER_VERSION]).expect("plain data");
        Ok(node_v1::BeginBackupReply {
            key_file: file.seal(self.keyring()),
            cluster: key.seal(&cluster_place(&request.backup), &plain, &mut os_rng()).into(),
            parts: parts(&cluster),
            cluster_id: cluster_id_text(cluster.header.cluster_id),
            epoch: cluster.header.epoch,
            shards: cluster.header.shards,
        })
    }

    pub(crate) async fn backup_page(
        &self,
        request: node_v1::BackupPageRequest,
    ) -> Result<node_v1::BackupPageReply, Refusal> {
        let key = self.repository_key(&request.key_file)?;
        let page = self.shard(request.shard)?.backup_page(&key, request).await?;
        Ok(node_v1::BackupPageReply { node: self.id(), ..page })
    }

    pub(crate) async fn backup_start(
        &self,
        request: node_v1::BackupStartRequest,
    ) -> Result<node_v1::BackupStartReply, Refusal> {
        let key = self.repository_key(&request.key_file)?;
        self.shard(request.shard)?.backup_start(&key, &request).await
    }

    pub(crate) async fn backup_log(
        &self,
        request: node_v1::BackupLogRequest,
    ) -> Result<node_v1::BackupLogReply, Refusal> {
        let key = self.repository_key(&request.key_file)?;
        self.shard(request.shard)?.backup_log(&key, &request).await
    }

    pub(crate) fn replay_log(&self, request: &node_v1::ReplayRequest) -> Result<node_v1::ReplayReply, Refusal> {
        let key = self.repository_key(&request.key_file)?;
        let step =
            request.step.as_ref().ok_or_else(|| Problem::invalid("the step of the recovery is not known here"))?;
        let reply = tokio::task::block_in_place(|| self.recoveries().step(&key, request.replay, step))?;
        Ok(node_v1::ReplayReply { node: self.id(), ..reply })
    }

    pub(crate) fn sign_backup(&self, request: &node_v1::SignBackupRequest) -> Result<Bytes, Refusal> {
        let cluster = self.cluster();
        let key = self.repository_key(&request.key_file)?;
        refuse_while_moving(&cluster)?;
        let now = parts(&cluster);
        let is_there = |part: &node_v1::BackupPart| {
            // A collection that is gone took its frames along.
            now.contains(part) || !cluster.collections.contains_key(&part.collection)
        };
        if !request.parts.iter().all(is_there) {
            let detail = "a collection grew or got another key while the backup was made: make it again";
            return Err(Problem::new(Code::Conflict, detail).into());
        }
        Ok(key.sign(&request.manifest).to_vec().into())
    }

    pub(crate) async fn finish_backup(&self, request: node_v1::FinishBackupRequest) -> Result<(), Refusal> {
        let id = number(&request.repository, "repository")?;
        let file = KeyFile::open(self.keyring(), &request.key_file)?;
        let finished_ms = if request.whole { self.now_ms() } else { 0 };
        let repository = Repository { place: request.place, keys_epoch: file.epoch, finished_ms };
        self.put_repository(id, repository).await
    }

    async fn put_repository(&self, id: u128, repository: Repository) -> Result<(), Refusal> {
        match self.propose_meta(&MetaCommand::PutRepository { id, repository }).await? {
            MetaAnswer::Full => {
                let most = limits::MAX_REPOSITORIES;
                let detail = format!("a cluster has at most {most} places of backups: forget those that are gone");
                Err(Problem::new(Code::TooLarge, detail).into())
            }
            _ => Ok(()),
        }
    }

    pub(crate) async fn forget_repository(&self, id: &[u8]) -> Result<(), Refusal> {
        match self.propose_meta(&MetaCommand::ForgetRepository(number(id, "repository")?)).await? {
            MetaAnswer::Missing => Err(Problem::new(Code::NotFound, "the cluster knows no such repository").into()),
            _ => Ok(()),
        }
    }

    pub(crate) async fn begin_restore(
        &self,
        request: node_v1::BeginRestoreRequest,
    ) -> Result<node_v1::BeginRestoreReply, Refusal> {
        let file = KeyFile::open(self.keyring(), &request.key_file)?;
        let key = self.keyring().repository(&file.key)?;
        let damaged = |what: &str| Problem::new(Code::Damaged, format!("the backup's manifest: {what}"));
        if !key.verifies(&request.manifest, &request.mac) {
            return Err(damaged("it was altered, or belongs to another repository").into());
        }
        let opened = key.open(&cluster_place(&request.backup), &request.cluster, limits::MAX_MESSAGE_BYTES);
        let opened = opened.map_err(|error| damaged(&error.to_string()))?;
        let backed_up: BackedUp = match opened.split_first() {
            Some((&CLUSTER_VERSION, body)) => {
                postcard::from_bytes(body).map_err(|error| damaged(&error.to_string()))?
            }
            _ => return Err(Problem::new(Code::UnsupportedVersion, "the backup is of an unknown version").into()),
        };
        let mut restored = Vec::new();
        let mut reply = node_v1::BeginRestoreReply::default();
        let active = self.keyring().active();
        let is_there = |record: &CollectionRecord| request.at_ms == 0 || record.created_ms <= request.at_ms;
        for record in backed_up.collections.into_iter().filter(is_there) {
            let keys = file.collections.get(&record.id);
            reply.collections.push(node_v1::RestoredCollection {
                id: record.id,
                name: record.name.clone(),
                erased: keys.is_none(),
            });
            if let Some(keys) = keys {
                restored.push(self.restored(record, keys, active)?);
            }
        }
        let layer_keys = self.keyring().rewrap_layers(&file.layers, active)?;
        let cluster = self.cluster();
        reply.epoch = cluster.header.epoch;
        if request.check_only {
            return Ok(reply);
        }
        let backup = restore_id(number(&request.backup, "backup")?, request.at_ms);
        let empty = self.empty_collections().await?;
        let owners = backed_up.owners;
        let restored = RestoredCluster { backup, collections: restored, layer_keys, owners, empty };
        match self.propose_meta(&MetaCommand::BeginRestore(restored)).await? {
            MetaAnswer::Done | MetaAnswer::Exists => {}
            _ => {
                let detail =
                    "the cluster is not empty, or another backup is being restored: a restore needs a new cluster";
                return Err(Problem::new(Code::Conflict, detail).into());
            }
        }
        Ok(node_v1::BeginRestoreReply { epoch: self.cluster().header.epoch, ..reply })
    }

    /// A collection with the keys that are left of it, under this cluster's key.
    fn restored(
        &self,
        record: CollectionRecord,
        keys: &BTreeMap<u32, Vec<u8>>,
        active: KeyId,
    ) -> Result<CollectionRecord, Refusal> {
        let mut wrapped_keys = self.keyring().rewrap_collection(record.id, keys, active)?;
        let newest = wrapped_keys.last_key_value().map(|(&version, _)| version);
        let newest = newest.filter(|&version| version != crate::keys::keyring::TAG_KEY);
        let key_version = newest.unwrap_or(record.key_version);
        wrapped_keys.retain(|&version, _| version <= key_version);
        Ok(CollectionRecord { wrapped_keys, key_version, ..record })
    }

    /// The default collection is made by whoever asks first; as long as nothing is in it, it is in nobody's way.
    async fn empty_collections(&self) -> Result<Vec<CollectionId>, Refusal> {
        let cluster = self.cluster();
        let mut empty = Vec::new();
        // A restore that goes on has been through this.
        for record in cluster.collections.values().filter(|_| cluster.restoring.is_none()) {
            if self.is_empty(&cluster, record).await? {
                empty.push(record.id);
            }
        }
        Ok(empty)
    }

    async fn is_empty(&self, cluster: &ClusterState, record: &CollectionRecord) -> Result<bool, Refusal> {
        for shard in shards_of_collection(record.id, record.partitions, cluster.header.shards) {
            let header = node_v1::ReadHeader {
                version: HEADER_VERSION,
                epoch: cluster.header.epoch,
                shard,
                collection: record.id,
                ..Default::default()
            };
            let request = node_v1::ScanRequest { header: Some(header), limit: 1, ..Default::default() };
            let replicas = cluster.replicas(shard).to_vec();
            let reply = self.peers().ask(&replicas, |client| {
                let request = request.clone();
                async move { client.shards().scan(request).await }
            });
            let reply = reply.await?;
            if !reply.frames.is_empty() || reply.has_bin {
                return Ok(false);
            }
        }
        Ok(true)
    }

    pub(crate) async fn restore_page(
        self: &Arc<Self>,
        request: node_v1::RestorePageRequest,
    ) -> Result<node_v1::RestorePageReply, Refusal> {
        let key = self.repository_key(&request.key_file)?;
        let place = PagePlace {
            backup: &request.backup,
            shard: request.shard,
            collection: request.collection,
            number: request.number,
            ids: &request.ids,
            changed: &request.changed,
        };
        let PageBody { frames, standing, .. } = place.open(&key, &request.page)?;
        let ended_version = standing.map_or(0, |standing| standing.ended_version);
        let wanted: std::collections::BTreeSet<_> = read_ids(&request.wanted)?.into_iter().collect();
        let wanted: Vec<MigratedFrame> = frames.into_iter().filter(|frame| wanted.contains(&frame.frame)).collect();
        let cluster = self.cluster();
        let record = match request.check_only {
            true => self.described(&request)?,
            false => {
                let unknown = || Refusal::NotReady("this node has not heard of the collection yet".into());
                cluster.collections.get(&request.collection).cloned().ok_or_else(unknown)?
            }
        };
        let homes = Partitioning::new(shards_of_collection(record.id, record.partitions, cluster.header.shards.max(1)));
        let (mut by_shard, mut reply) = (BTreeMap::<ShardId, Vec<Bytes>>::new(), node_v1::RestorePageReply::default());
        if ended_version > 0 {
            // The frames that it was of may have lain in any of them, had they not ended.
            by_shard.extend(homes.shards().iter().map(|&shard| (shard, Vec::new())));
        }
        let shared = self.shared();
        let mut resealer = Resealer::new(shared, &record);
        for frame in wanted {
            let (id, to) = (frame.frame, homes.shard_of(frame.frame));
            let current = MigratedFrame { past: Vec::new(), ..frame.clone() };
            let moved = match resealer.moved(frame, request.shard, to) {
                // What is left of it, if only its past was erased.
                Err(KeyError::Unknown { .. }) => resealer.moved(current, request.shard, to),
                moved => moved,
            };
            match moved {
                Ok(moved) => by_shard.entry(to).or_default().push(moved.encode()),
                Err(KeyError::Unknown { .. }) => reply.erased += 1,
                Err(error) => {
                    let detail = format!("frame {id:032x} of the backup: {error}");
                    return Err(Problem::new(Code::Damaged, detail).into());
                }
            }
        }
        for (shard, frames) in by_shard {
            reply.restored += frames.len() as u64;
            if request.check_only {
                continue;
            }
            let restore = node_v1::RestoreFramesRequest { shard, collection: record.id, frames, ended_version };
            let replicas = cluster.replicas(shard).to_vec();
            self.peers()
                .ask(&replicas, |client| {
                    let restore = restore.clone();
                    async move { client.backup().restore_frames(restore).await }
                })
                .await?;
        }
        Ok(reply)
    }

    /// Of a backup that is only checked: a collection with the keys in the key file.
    fn described(&self, request: &node_v1::RestorePageRequest) -> Result<CollectionRecord, Refusal> {
        let file = KeyFile::open(self.keyring(), &request.key_file)?;
        let keys = file.collections.get(&request.collection).cloned().unwrap_or_default();
        let key_version = keys.last_key_value().map_or(0, |(&version, _)| version);
        Ok(CollectionRecord {
            key_version,
            wrapped_keys: keys,
            // Vectors are opened as they are; how many components make one does not matter here.
            ..CollectionRecord::new(request.collection, "", 1)
        })
    }

    pub(crate) async fn end_restore(
        &self,
        request: &node_v1::EndRestoreRequest,
    ) -> Result<node_v1::EndRestoreReply, Refusal> {
        let backup = restore_id(number(&request.backup, "backup")?, request.at_ms);
        self.propose_meta(&MetaCommand::EndRestore { backup }).await?;
        Ok(node_v1::EndRestoreReply { epoch: self.cluster().header.epoch })
    }
}

/// Names what is being restored: a backup, or another moment, which is another restore.
fn restore_id(backup: u128, at_ms: u64) -> u128 {
    if at_ms == 0 {
        return backup;
    }
    let named = [&b"mira restore"[..], &backup.to_be_bytes(), &at_ms.to_be_bytes()].concat();
    u128::from_be_bytes(blake3::hash(&named).as_bytes()[..16].try_into().expect("sixteen bytes"))
}

/// Frames on their way between shards would be missed or doubled; those that are being sealed anew would stay in the
/// backup as they were, under a key that is about to be destroyed.
fn refuse_while_moving(cluster: &ClusterState) -> Result<(), Problem> {
    let moving = cluster.growths.values().any(|growth| growth.step != GrowthStep::Remembering);
    if cluster.rotations.values().any(|rotation| rotation.step == RotationStep::Resealing) {
        let detail = "a collection's key is being rotated: make the backup when its frames are sealed anew";
        return Err(Problem::new(Code::Conflict, detail));
    }
    match (moving, cluster.restoring) {
        (true, _) => Err(Problem::new(Code::Conflict, "a collection grows: make the backup when that is over")),
        (_, Some(_)) => Err(Problem::new(Code::Conflict, "a backup is being restored: finish that first")),
        _ => Ok(()),
    }
}

/// What a backup consists of.
fn parts(cluster: &ClusterState) -> Vec<node_v1::BackupPart> {
    let shards = cluster.header.shards;
    let of = |record: &CollectionRecord| {
        let (collection, key_version) = (record.id, record.key_version);
        let shards = shards_of_collection(collection, record.partitions, shards).into_iter();
        shards.map(move |shard| node_v1::BackupPart { shard, collection, key_version })
    };
    cluster.collections.values().flat_map(of).collect()
}
