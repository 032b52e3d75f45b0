//! What a backup consists of, as its manifest says it, and where its pieces lie.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use mira_proto::{Code, Problem};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// The format of manifests. The first had no logs.
pub(super) const FORMAT: u32 = 2;

/// What a backup consists of.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Manifest {
    /// The version of this form.
    pub format: u32,
    /// The repository that it belongs to.
    pub repository: Uuid,
    /// Its own id.
    pub backup: Uuid,
    /// The backup that this one adds to.
    pub base: Option<Uuid>,
    /// The id of the cluster that it shows.
    pub cluster_id: String,
    /// When it was made, RFC 3339.
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
    /// Where the replay of each shard's log begins; empty in a backup without frames.
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

/// Where the replay of a shard's log begins: at or before the position of each of its parts.
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
    /// Its checksum, hex.
    pub blake3: String,
}

impl Object {
    pub(super) fn of(bytes: &[u8]) -> Self {
        Object { bytes: bytes.len() as u64, blake3: hash(bytes) }
    }
}

impl Log {
    /// Its last entry.
    pub(super) fn upto(&self) -> u64 {
        self.pages.last().map_or(self.after, |page| page.upto)
    }

    /// What comes behind it carries no earlier time.
    pub(super) fn time_ms(&self) -> u64 {
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
    /// The checksum of the object, hex.
    pub blake3: String,
    /// Frames that it names.
    pub frames: u64,
    /// Frames that it holds.
    pub changed: u64,
}

/// A manifest with its signature, as both lie in the repository.
pub struct SignedManifest {
    pub manifest: Manifest,
    /// The exact bytes that were signed.
    pub bytes: Bytes,
    /// The signature, a MAC that only the cluster can make.
    pub mac: Bytes,
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

    pub(super) fn cluster(&self) -> Result<Bytes, Problem> {
        let sealed = STANDARD.decode(&self.cluster);
        Ok(sealed.map_err(|_| damaged(self.backup, "its cluster is no base64"))?.into())
    }
}

/// Where a manifest lies.
pub(super) fn manifest_name(backup: Uuid) -> String {
    format!("backups/{backup}/manifest")
}

/// Where a page lies.
pub(super) fn page_name(backup: Uuid, part: &Part, number: usize) -> String {
    format!("backups/{backup}/{}-{}-{number}", part.shard, part.collection)
}

/// Where what is known of a shard's start lies.
pub(super) fn start_name(backup: Uuid, shard: u32) -> String {
    format!("backups/{backup}/{shard}-start")
}

/// Where a page of a shard's log lies.
pub(super) fn log_name(backup: Uuid, shard: u32, number: u32) -> String {
    format!("backups/{backup}/{shard}-log-{number}")
}

/// The refusal of a backup that is not what it was.
pub(super) fn damaged(backup: Uuid, what: &str) -> Problem {
    Problem::new(Code::Damaged, format!("backup {backup}: {what}"))
}

/// The checksum of an object, in hex.
pub(super) fn hash(bytes: &[u8]) -> String {
    blake3::hash(bytes).to_hex().to_string()
}
