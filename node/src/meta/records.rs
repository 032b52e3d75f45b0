//! Records of the meta group: where each lies, and how it is sealed.
//!
//! Every record is a version byte and postcard, sealed with the cluster key of the command that wrote it and bound to its
//! key as associated data; the nonce is the position in the log, so replicas stay byte-identical. [`RecordKind`] has the
//! layout of the keys.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::ControlFlow,
    sync::Arc,
};

use bytes::Bytes;
use mira_crypto::{KeyId, MetaSealer, meta::position_nonce};
use mira_proto::{CollectionId, NodeId, ShardId};
use mira_raft::{EngineError, Txn};
use serde::{Serialize, de::DeserializeOwned};

use super::state::{ClusterHeader, KeyedName, Move, NodePhase, NodeRecord, OwnerName};
use crate::keys::keyring::{KeyError, Keyring};

const VERSION: u8 = 1;
const MAX_RECORD_BYTES: usize = 4 << 20;

/// The first byte of a record's key. Numbers are big endian, so that records lie in their order.
///
/// | kind | byte | then | record |
/// |---|---|---|---|
/// | `Header` | `h` | | [`ClusterHeader`] |
/// | `Node` | `n` | node id (8) | [`NodeRecord`] |
/// | `Placement` | `p` | | replicas of every shard |
/// | `Collection` | `c` | collection number (8) | [`super::CollectionRecord`] |
/// | `Dropped` | `d` | collection number (8) | empty: the collection was dropped |
/// | `Phase` | `s` | node id (8) | [`NodePhase`]: what the node is to the placement |
/// | `Move` | `m` | shard (8) | [`Move`]: a replica on its way |
/// | `Removed` | `r` | node id (8) | empty: the node was removed for good |
/// | `MovesPaused` | `b` | | whether moves are paused |
/// | `Growth` | `g` | collection number (8) | [`super::Growth`]: a collection on its way to more partitions |
/// | `Owner` | `o` | owner's name (16) | the owner's passphrase record |
/// | `NameKey` | `x` | | the key of keyed names |
/// | `CollectionName` | `i` | keyed name of the collection (16) | its number |
/// | `Rotation` | `k` | collection number (8) | [`super::Rotation`]: a collection on its way to another key |
/// | `Erasure` | `e` | epoch (8) | [`super::Erasure`]: keys that were destroyed |
/// | `ReceiptKey` | `w` | | the key of receipts, wrapped |
/// | `Repository` | `u` | repository id (16) | [`super::Repository`]: a place of backups |
/// | `Restoring` | `v` | | the backup that is being restored |
/// | `Request` | `q` | place (8): index modulo [`REMEMBERED_REQUESTS`](mira_proto::limits::REMEMBERED_REQUESTS) | [`super::AnsweredRequest`]: a request that was carried out |
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum RecordKind {
    /// The cluster's identity and shape.
    Header = b'h',
    /// A storage node.
    Node = b'n',
    /// Replicas of every shard.
    Placement = b'p',
    /// A collection.
    Collection = b'c',
    /// A collection that was dropped.
    Dropped = b'd',
    /// What a node is to the placement.
    Phase = b's',
    /// A replica on its way.
    Move = b'm',
    /// A node that was removed for good.
    Removed = b'r',
    /// Whether moves are paused.
    MovesPaused = b'b',
    /// A collection on its way to more partitions.
    Growth = b'g',
    /// An owner's passphrase record.
    Owner = b'o',
    /// The key of names.
    NameKey = b'x',
    /// The number of the collection of a name.
    CollectionName = b'i',
    /// A collection on its way to another key.
    Rotation = b'k',
    /// Keys that were destroyed.
    Erasure = b'e',
    /// The key of receipts.
    ReceiptKey = b'w',
    /// A place of backups.
    Repository = b'u',
    /// The backup that is being restored.
    Restoring = b'v',
    /// A request that was carried out.
    Request = b'q',
}

impl RecordKind {
    const ALL: [RecordKind; 19] = [
        RecordKind::Header,
        RecordKind::Node,
        RecordKind::Placement,
        RecordKind::Collection,
        RecordKind::Dropped,
        RecordKind::Phase,
        RecordKind::Move,
        RecordKind::Removed,
        RecordKind::MovesPaused,
        RecordKind::Growth,
        RecordKind::Owner,
        RecordKind::NameKey,
        RecordKind::CollectionName,
        RecordKind::Rotation,
        RecordKind::Erasure,
        RecordKind::ReceiptKey,
        RecordKind::Repository,
        RecordKind::Restoring,
        RecordKind::Request,
    ];

    fn of(byte: u8) -> Option<Self> {
        RecordKind::ALL.into_iter().find(|kind| *kind as u8 == byte)
    }
}

/// Names one record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RecordKey {
    /// The cluster's identity and shape.
    Header,
    /// A storage node.
    Node(NodeId),
    /// Replicas of every shard.
    Placement,
    /// A collection.
    Collection(CollectionId),
    /// A collection that was dropped.
    Dropped(CollectionId),
    /// What a node is to the placement.
    Phase(NodeId),
    /// A replica of a shard on its way.
    Move(ShardId),
    /// A node that was removed for good.
    Removed(NodeId),
    /// Whether moves are paused.
    MovesPaused,
    /// A collection on its way to more partitions.
    Growth(CollectionId),
    /// An owner's passphrase record.
    Owner(OwnerName),
    /// The key of names.
    NameKey,
    /// The number of the collection of a name.
    CollectionName(KeyedName),
    /// A collection on its way to another key.
    Rotation(CollectionId),
    /// Keys that were destroyed, by the map's epoch that it began with.
    Erasure(u64),
    /// The key of receipts.
    ReceiptKey,
    /// A place of backups.
    Repository(u128),
    /// The backup that is being restored.
    Restoring,
    /// A request that was carried out, by its place among them.
    Request(u64),
}

impl RecordKey {
    /// The bytes that the record lies under.
    pub fn key(self) -> Vec<u8> {
        let alone = |kind: RecordKind| vec![kind as u8];
        let numbered = |kind: RecordKind, number: u64| [&[kind as u8][..], &number.to_be_bytes()].concat();
        let named = |kind: RecordKind, name: [u8; 16]| [&[kind as u8][..], &name].concat();
        match self {
            RecordKey::Header => alone(RecordKind::Header),
            RecordKey::Node(node) => numbered(RecordKind::Node, node),
            RecordKey::Placement => alone(RecordKind::Placement),
            RecordKey::Collection(collection) => numbered(RecordKind::Collection, collection),
            RecordKey::Dropped(collection) => numbered(RecordKind::Dropped, collection),
            RecordKey::Phase(node) => numbered(RecordKind::Phase, node),
            RecordKey::Move(shard) => numbered(RecordKind::Move, shard.into()),
            RecordKey::Removed(node) => numbered(RecordKind::Removed, node),
            RecordKey::MovesPaused => alone(RecordKind::MovesPaused),
            RecordKey::Growth(collection) => numbered(RecordKind::Growth, collection),
            RecordKey::Owner(name) => named(RecordKind::Owner, name),
            RecordKey::NameKey => alone(RecordKind::NameKey),
            RecordKey::CollectionName(name) => named(RecordKind::CollectionName, name),
            RecordKey::Rotation(collection) => numbered(RecordKind::Rotation, collection),
            RecordKey::Erasure(epoch) => numbered(RecordKind::Erasure, epoch),
            RecordKey::ReceiptKey => alone(RecordKind::ReceiptKey),
            RecordKey::Repository(id) => named(RecordKind::Repository, id.to_be_bytes()),
            RecordKey::Restoring => alone(RecordKind::Restoring),
            RecordKey::Request(place) => numbered(RecordKind::Request, place),
        }
    }

    /// The collection that a change of the record changes for routers.
    pub fn collection(self) -> Option<CollectionId> {
        match self {
            RecordKey::Collection(collection)
            | RecordKey::Dropped(collection)
            | RecordKey::Growth(collection)
            | RecordKey::Rotation(collection) => Some(collection),
            _ => None,
        }
    }

    /// Reads a key back.
    ///
    /// # Errors
    /// When it is of no known kind, or of another length than its kind's.
    pub fn parse(key: &[u8]) -> Result<Self, EngineError> {
        let unknown = || EngineError::Damaged(format!("unknown meta record {}", key.escape_ascii()));
        let (&byte, rest) = key.split_first().ok_or_else(unknown)?;
        let number = || rest.try_into().map(u64::from_be_bytes).map_err(|_| damaged(key, "not a number"));
        let name = || <[u8; 16]>::try_from(rest).map_err(|_| damaged(key, "not 16 bytes"));
        let shard = || ShardId::try_from(number()?).map_err(|error| damaged(key, &error.to_string()));
        Ok(match RecordKind::of(byte).ok_or_else(unknown)? {
            RecordKind::Header => RecordKey::Header,
            RecordKind::Node => RecordKey::Node(number()?),
            RecordKind::Placement => RecordKey::Placement,
            RecordKind::Collection => RecordKey::Collection(number()?),
            RecordKind::Dropped => RecordKey::Dropped(number()?),
            RecordKind::Phase => RecordKey::Phase(number()?),
            RecordKind::Move => RecordKey::Move(shard()?),
            RecordKind::Removed => RecordKey::Removed(number()?),
            RecordKind::MovesPaused => RecordKey::MovesPaused,
            RecordKind::Growth => RecordKey::Growth(number()?),
            RecordKind::Owner => RecordKey::Owner(name()?),
            RecordKind::NameKey => RecordKey::NameKey,
            RecordKind::CollectionName => RecordKey::CollectionName(name()?),
            RecordKind::Rotation => RecordKey::Rotation(number()?),
            RecordKind::Erasure => RecordKey::Erasure(number()?),
            RecordKind::ReceiptKey => RecordKey::ReceiptKey,
            RecordKind::Repository => RecordKey::Repository(u128::from_be_bytes(name()?)),
            RecordKind::Restoring => RecordKey::Restoring,
            RecordKind::Request => RecordKey::Request(number()?),
        })
    }
}

/// The records as one command finds them, and what it writes.
pub struct Records<'a, 'b> {
    keyring: &'a Keyring,
    /// Of the command: what it writes is sealed as it was, so that all replicas write the same.
    sealer: &'a MetaSealer,
    txn: &'a mut Txn<'b>,
    ordinal: u32,
    /// Keys of the records that were written or removed.
    touched: Vec<Vec<u8>>,
    /// The command's position in the log.
    pub index: u64,
    /// Log-carried time of the command.
    pub now_ms: u64,
    /// The header; written by the dispatcher when the command changed the map.
    pub header: ClusterHeader,
}

/// What a command carries of its own.
pub struct CommandContext<'a> {
    /// Of the cluster key that the command is sealed with.
    pub sealer: &'a MetaSealer,
    /// Its position in the log.
    pub index: u64,
    /// Its log-carried time.
    pub now_ms: u64,
}

impl<'a, 'b> Records<'a, 'b> {
    /// For one command's transaction.
    pub fn open(keyring: &'a Keyring, command: &CommandContext<'a>, txn: &'a mut Txn<'b>) -> Result<Self, EngineError> {
        let CommandContext { sealer, index, now_ms } = *command;
        let (touched, header) = (Vec::new(), ClusterHeader::default());
        let mut records = Records { keyring, sealer, txn, ordinal: 0, touched, index, now_ms, header };
        records.header = records.get(RecordKey::Header)?.unwrap_or_default();
        Ok(records)
    }

    /// The map's epoch that this command makes.
    pub fn next_epoch(&self) -> u64 {
        self.header.epoch + 1
    }

    /// A record; none if there is none.
    pub fn get<T: DeserializeOwned>(&self, key: RecordKey) -> Result<Option<T>, EngineError> {
        let key = key.key();
        self.txn.get(&key)?.map(|sealed| open(self.keyring, &key, &sealed)).transpose()
    }

    /// Whether there is a record.
    pub fn has(&self, key: RecordKey) -> Result<bool, EngineError> {
        Ok(self.txn.get(&key.key())?.is_some())
    }

    /// All records of a kind, in the order of their keys.
    pub fn all<T: DeserializeOwned>(&self, kind: RecordKind) -> Result<Vec<(RecordKey, T)>, EngineError> {
        let mut found = Vec::new();
        self.txn.scan_prefix(&[kind as u8], &mut |key, sealed| {
            found.push(RecordKey::parse(key).and_then(|parsed| Ok((parsed, open(self.keyring, key, sealed)?))));
            ControlFlow::Continue(())
        })?;
        found.into_iter().collect()
    }

    /// How many records of a kind there are.
    pub fn count(&self, kind: RecordKind) -> Result<usize, EngineError> {
        let mut count = 0;
        self.txn.scan_prefix(&[kind as u8], &mut |_, _| {
            count += 1;
            ControlFlow::Continue(())
        })?;
        Ok(count)
    }

    /// The keys of the records that were written or removed.
    pub fn into_touched(self) -> Vec<Vec<u8>> {
        self.touched
    }

    /// The replicas of every shard; none before they are placed.
    pub fn placement(&self) -> Result<Vec<Vec<NodeId>>, EngineError> {
        Ok(self.get(RecordKey::Placement)?.unwrap_or_default())
    }

    /// The nodes of the cluster, by id.
    pub fn nodes(&self) -> Result<BTreeMap<NodeId, NodeRecord>, EngineError> {
        let by_id = |(_, node): (RecordKey, NodeRecord)| (node.id, node);
        Ok(self.all(RecordKind::Node)?.into_iter().map(by_id).collect())
    }

    /// Moves under way, by shard.
    pub fn moves(&self) -> Result<BTreeMap<ShardId, Move>, EngineError> {
        let of_shard = |(key, found): (RecordKey, Move)| match key {
            RecordKey::Move(shard) => Some((shard, found)),
            _ => None,
        };
        Ok(self.all(RecordKind::Move)?.into_iter().filter_map(of_shard).collect())
    }

    /// The shard's move, if it is one to that node.
    pub fn move_to(&self, shard: ShardId, to: NodeId) -> Result<Option<Move>, EngineError> {
        Ok(self.get::<Move>(RecordKey::Move(shard))?.filter(|found| found.to == to))
    }

    /// Nodes that are not lost.
    pub fn living_nodes(&self) -> Result<BTreeSet<NodeId>, EngineError> {
        let mut living = BTreeSet::new();
        for (_, node) in self.all::<NodeRecord>(RecordKind::Node)? {
            if self.get(RecordKey::Phase(node.id))? != Some(NodePhase::Lost) {
                living.insert(node.id);
            }
        }
        Ok(living)
    }

    /// The cluster key that a record is sealed with; none if there is no record.
    pub fn sealed_with(&self, key: RecordKey) -> Result<Option<KeyId>, EngineError> {
        let key = key.key();
        let sealed = self.txn.get(&key)?;
        let id = sealed.map(|sealed| mira_crypto::meta::key_id(&sealed)).transpose();
        id.map_err(|error| damaged(&key, &error.to_string()))
    }

    /// The cluster key that this command seals with.
    pub fn seals_with(&self) -> KeyId {
        self.sealer.key_id()
    }

    /// Seals every record as the command was sealed.
    pub fn seal_all_anew(&mut self) -> Result<(), EngineError> {
        let mut sealed = Vec::new();
        self.txn.scan_prefix(&[], &mut |key, value| {
            sealed.push((key.to_vec(), Bytes::copy_from_slice(value)));
            ControlFlow::Continue(())
        })?;
        for (key, value) in sealed {
            let plain = open_plain(self.keyring, &key, &value)?;
            self.put_plain(&key, &plain);
        }
        Ok(())
    }

    /// Writes a record.
    pub fn put(&mut self, key: RecordKey, value: &impl Serialize) {
        let plain = postcard::to_extend(value, vec![VERSION]).expect("a record is plain data");
        self.put_plain(&key.key(), &plain);
    }

    /// Removes a record, if there is one.
    pub fn delete(&mut self, key: RecordKey) {
        let key = key.key();
        self.txn.delete(&key);
        self.touched.push(key);
    }

    fn put_plain(&mut self, key: &[u8], plain: &[u8]) {
        let nonce = position_nonce(self.index, self.ordinal);
        self.ordinal += 1;
        self.txn.put(key, self.sealer.seal(&nonce, key, plain));
        self.touched.push(key.to_vec());
    }
}

/// What opens a sealed record or command. A key that this node does not hold is no damage.
pub fn sealer_of(keyring: &Keyring, sealed: &[u8]) -> Result<Arc<MetaSealer>, EngineError> {
    keyring.sealer_of(sealed).map_err(|error| match error {
        KeyError::NoClusterKey(id) => {
            keyring.miss(id);
            EngineError::Io(error.to_string())
        }
        other => EngineError::Damaged(format!("sealed for the meta group: {other}")),
    })
}

/// The cluster key that a record's bytes are sealed with.
pub fn key_id_of(key: &[u8], sealed: &[u8]) -> Result<KeyId, EngineError> {
    mira_crypto::meta::key_id(sealed).map_err(|error| damaged(key, &error.to_string()))
}

fn damaged(key: &[u8], what: &str) -> EngineError {
    EngineError::Damaged(format!("meta record {}: {what}", key.escape_ascii()))
}

fn open_plain(keyring: &Keyring, key: &[u8], sealed: &[u8]) -> Result<Vec<u8>, EngineError> {
    let sealer = sealer_of(keyring, sealed)?;
    sealer.open(key, sealed, MAX_RECORD_BYTES).map_err(|error| damaged(key, &error.to_string()))
}

/// Opens a record.
///
/// # Errors
/// When it is damaged, of an unknown version, or sealed with a cluster key that this node does not hold.
pub fn open<T: DeserializeOwned>(keyring: &Keyring, key: &[u8], sealed: &[u8]) -> Result<T, EngineError> {
    let damaged = |what: String| damaged(key, &what);
    let plain = open_plain(keyring, key, sealed)?;
    match plain.split_first() {
        Some((&VERSION, body)) => postcard::from_bytes(body).map_err(|error| damaged(error.to_string())),
        Some((version, _)) => Err(damaged(format!("unknown version {version}"))),
        None => Err(damaged("empty".into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_is_read_back_and_its_kinds_have_stable_bytes() {
        let table = [
            (RecordKey::Header, "h"),
            (RecordKey::Node(1), "n\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x01"),
            (RecordKey::Placement, "p"),
            (RecordKey::Collection(2), "c\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x02"),
            (RecordKey::Dropped(3), "d\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x03"),
            (RecordKey::Phase(4), "s\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x04"),
            (RecordKey::Move(5), "m\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x05"),
            (RecordKey::Removed(6), "r\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x06"),
            (RecordKey::MovesPaused, "b"),
            (RecordKey::Growth(7), "g\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x07"),
            (RecordKey::Owner(*b"0123456789abcdef"), "o0123456789abcdef"),
            (RecordKey::NameKey, "x"),
            (RecordKey::CollectionName(*b"0123456789abcdef"), "i0123456789abcdef"),
            (RecordKey::Rotation(8), "k\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x08"),
            (RecordKey::Erasure(11), "e\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x0b"),
            (RecordKey::ReceiptKey, "w"),
            (RecordKey::Repository(u128::from_be_bytes(*b"0123456789abcdef")), "u0123456789abcdef"),
            (RecordKey::Restoring, "v"),
            (RecordKey::Request(9), "q\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\t"),
        ];
        for (key, bytes) in table {
            assert_eq!(key.key().escape_ascii().to_string(), bytes);
            assert_eq!(RecordKey::parse(&key.key()).expect("a key"), key);
        }
    }

    #[test]
    fn a_key_of_no_kind_or_of_another_length_is_damage() {
        for key in [&b""[..], b"?", b"n123", b"o123", b"m\xff\xff\xff\xff\xff\xff\xff\xff"] {
            assert!(matches!(RecordKey::parse(key), Err(EngineError::Damaged(_))), "{}", key.escape_ascii());
        }
    }
}
