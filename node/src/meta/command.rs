//! Commands of the meta group: everything that changes what the cluster *is*.
//!
//! A command is encoded (version byte, then [`Extensions`] and the command in postcard) and sealed with the cluster key
//! before it is proposed, so that the log holds no collection name and no address. Each is safe to propose twice.

use std::collections::BTreeMap;

use mira_crypto::{CryptoRng, MetaSealer};
use mira_proto::{CollectionId, Extensions, NodeId, ShardId, extensions::Tag, vectors::SpaceNumber};
use serde::{Deserialize, Serialize};

use super::state::{
    CollectionRecord, GrowthStep, KeyedName, MoveStep, NameKey, NodePhase, NodeRecord, OwnerName, Receipt, Repository,
    RestoredCluster, Rewrapped, RotationStep,
};
use crate::shard::history::Retention;

/// Version 1 had no extensions.
const VERSION: u8 = 2;
const ASSOCIATED: &[u8] = b"mira meta command";
/// The tag of the position that a command's proposer had applied.
const POSITION: Tag = 1;
/// The tag of the request that a command is carried out for: its keyed name, then the reply.
const REQUEST: Tag = 2;
/// A command is carried out at most so many entries behind its position. The group remembers more requests than that, and a
/// command's name is a hash of its sealed bytes: so whoever kept a command cannot have it carried out again.
pub const MAX_AGE_ENTRIES: u64 = 2_000;
/// A shard map of the largest cluster is the largest command.
const MAX_BYTES: usize = 4 << 20;

/// One change of the cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum MetaCommand {
    /// Gives the cluster its identity; only the first one counts.
    Form {
        /// Random.
        cluster_id: u128,
        /// Number of shards, for ever.
        shards: u32,
        /// Replicas of each shard.
        replication: u32,
        /// Place the shards once so many nodes have joined.
        expect: u32,
        /// The first key of private frames' outermost layer, wrapped with the cluster key.
        layer_key: Vec<u8>,
        /// Keys the names that records lie under.
        name_key: NameKey,
    },
    /// Adds a node, or renews its addresses.
    PutNode(NodeRecord),
    /// Decides the replicas of every shard, if nobody has yet.
    PlaceShards(Vec<Vec<NodeId>>),
    /// Makes a collection, if its name is free.
    CreateCollection(CollectionRecord),
    /// Removes a collection by its name; the number says which one was meant.
    DropCollection {
        /// Its name.
        name: String,
        /// Its number, so that a retry does not drop a successor.
        id: CollectionId,
    },
    /// Says what nodes are to the placement from now on, all at once.
    SetPhases(Vec<(NodeId, NodePhase)>),
    /// Removes a node that holds nothing, for good.
    RemoveNode(NodeId),
    /// Starts to move a replica, unless the shard has a move already.
    StartMove {
        /// The shard.
        shard: ShardId,
        /// Whose replica goes; see [`super::state::Move::from`].
        from: Option<NodeId>,
        /// Who gets one.
        to: NodeId,
    },
    /// A move to `to` has come as far as this step.
    StepMove {
        /// The shard.
        shard: ShardId,
        /// Who gets the replica.
        to: NodeId,
        /// The step that begins.
        step: MoveStep,
    },
    /// The move to `to` is done: the map follows.
    FinishMove {
        /// The shard.
        shard: ShardId,
        /// Who got the replica.
        to: NodeId,
    },
    /// Gives a move up: its target will not come.
    CancelMove {
        /// The shard.
        shard: ShardId,
        /// Who was to get the replica.
        to: NodeId,
    },
    /// Names the preferred leader of every shard; one that is no replica is passed over.
    PreferLeaders(Vec<NodeId>),
    /// Forbids or allows moves other than those that repair damage.
    PauseMoves(bool),
    /// Begins to spread a collection over more shards.
    StartGrowth {
        /// The collection that grows.
        collection: CollectionId,
        /// Partitions that it is to have.
        to: u32,
    },
    /// A shard has done its part of a growth's step.
    GrowthDone {
        /// The collection.
        collection: CollectionId,
        /// Partitions that it is to have.
        to: u32,
        /// The step.
        step: GrowthStep,
        /// The shard.
        shard: ShardId,
    },
    /// Retries of writes from before the growth have become too old to matter.
    EndGrowth {
        /// The collection.
        collection: CollectionId,
        /// Partitions that it got.
        to: u32,
    },
    /// Stores an owner's passphrase record in the place of the one that its writer saw.
    PutOwner {
        /// The owner.
        owner: OwnerName,
        /// The new record; empty to remove the one that there is.
        record: String,
        /// The record that it replaces; empty when there must be none.
        replaces: String,
    },
    /// Puts the cluster key that this very command is sealed with into the place of the one before.
    Rewrap(Rewrapped),
    /// Gives the cluster the key that it signs receipts with, wrapped; only the first one counts.
    SetReceiptKey(Vec<u8>),
    /// Seals what is stored in a collection from now on with another key, and then what is there.
    StartRotation {
        /// The collection whose key is rotated.
        collection: CollectionId,
        /// Version of the key.
        to: u32,
        /// The key, wrapped.
        wrapped: Vec<u8>,
        /// Who asks for it: the same in every try.
        request: u128,
    },
    /// A shard, or a node, has done its part of a rotation's step.
    RotationDone {
        /// The collection.
        collection: CollectionId,
        /// Version of the key.
        to: u32,
        /// The step.
        step: RotationStep,
        /// The shard, or the node.
        who: u64,
    },
    /// Removes the keys before this version: nothing needs them any more.
    DestroyKeys {
        /// The collection.
        collection: CollectionId,
        /// The key that stays.
        to: u32,
        /// The names of its keys by version.
        names: BTreeMap<u32, [u8; 8]>,
    },
    /// Removes a collection and destroys its keys.
    Shred {
        /// Its name.
        name: String,
        /// Its number, so that a retry does not shred a successor.
        id: CollectionId,
        /// The names of its keys by version.
        names: BTreeMap<u32, [u8; 8]>,
    },
    /// A node's files hold the keys of an erasure no more.
    ErasureDone {
        /// The erasure.
        erasure: u64,
        /// The node.
        node: NodeId,
    },
    /// Nobody has the keys of an erasure any more.
    FinishErasure {
        /// The erasure.
        erasure: u64,
        /// What the cluster says of it.
        receipt: Receipt,
    },
    /// Notes a place of backups, or that something was written there.
    PutRepository {
        /// The repository's id.
        id: u128,
        /// What is known of it.
        repository: Repository,
    },
    /// A place of backups is gone, with the keys that it held.
    ForgetRepository(u128),
    /// Brings a backup's collections, owners and keys into an empty cluster.
    BeginRestore(RestoredCluster),
    /// All of the backup is there.
    EndRestore {
        /// The backup.
        backup: u128,
    },
    /// Sets the beam of a collection's searches.
    TuneCollection {
        /// The collection that is tuned.
        collection: CollectionId,
        /// The space of its vectors.
        space: SpaceNumber,
        /// 0 = the index's own.
        ef: u32,
    },
    /// Switches a format level on that every node knows.
    RaiseFormat(u32),
    /// Sets how much of the past of a collection's frames is kept.
    SetRetention {
        /// The collection.
        collection: CollectionId,
        /// What is kept from now on.
        retention: Retention,
    },
}

/// A request of a caller, and what it is answered once the command that is made for it has taken effect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestOutcome {
    /// The keyed name of its id.
    pub name: KeyedName,
    /// The reply in the form of the wire, without what only the log decides.
    pub reply: Vec<u8>,
}

/// What every replica of the meta group answers to a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum MetaAnswer {
    /// It took effect, or had done so before.
    Done,
    /// Something of that name or number is there already.
    Exists,
    /// What it names is not there.
    Missing,
    /// There is no room for more.
    Full,
    /// It does not fit what is now; nothing changed.
    Refused,
}

impl MetaCommand {
    /// Whether it changes the map that routers have. Who wants to know the rest asks the meta group.
    pub fn changes_map(&self) -> bool {
        !matches!(
            self,
            MetaCommand::PutOwner { .. }
                | MetaCommand::SetReceiptKey(_)
                | MetaCommand::ErasureDone { .. }
                | MetaCommand::FinishErasure { .. }
                | MetaCommand::PutRepository { .. }
                | MetaCommand::ForgetRepository(_)
        )
    }

    /// The sealed payload to propose, by a node that has applied the meta group's log up to `position`.
    pub fn seal(&self, position: u64, sealer: &MetaSealer, rng: &mut dyn CryptoRng) -> Vec<u8> {
        self.seal_for(None, position, sealer, rng)
    }

    /// As [`MetaCommand::seal`], for a request that is to be remembered.
    pub fn seal_for(
        &self,
        request: Option<&RequestOutcome>,
        position: u64,
        sealer: &MetaSealer,
        rng: &mut dyn CryptoRng,
    ) -> Vec<u8> {
        let mut extensions = Extensions::default();
        extensions.set(POSITION, position.to_be_bytes().to_vec());
        if let Some(RequestOutcome { name, reply }) = request {
            extensions.set(REQUEST, [&name[..], reply].concat());
        }
        let plain = postcard::to_extend(&(extensions, self), vec![VERSION]).expect("a command is plain data");
        sealer.seal_proposal(ASSOCIATED, &plain, rng)
    }

    /// Reads a proposed payload back.
    pub fn open(sealer: &MetaSealer, sealed: &[u8]) -> Result<Self, String> {
        OpenedCommand::open(sealer, sealed).map(|opened| opened.command)
    }
}

/// A command as it was proposed.
#[derive(Debug)]
pub struct OpenedCommand {
    /// What is to change.
    pub command: MetaCommand,
    /// What its proposer had applied; none of a release that said none.
    pub position: Option<u64>,
    /// The request that it is carried out for, if that is to be remembered.
    pub request: Option<RequestOutcome>,
}

impl OpenedCommand {
    /// Reads a proposed payload back.
    pub fn open(sealer: &MetaSealer, sealed: &[u8]) -> Result<Self, String> {
        let plain = sealer.open(ASSOCIATED, sealed, MAX_BYTES).map_err(|error| error.to_string())?;
        match plain.split_first() {
            Some((&VERSION, body)) => {
                let read = postcard::from_bytes::<(Extensions, MetaCommand)>(body);
                let (extensions, command) = read.map_err(|error| error.to_string())?;
                let position = extensions.get(POSITION).and_then(|bytes| bytes[..].try_into().ok());
                let request = extensions.get(REQUEST).map(|bytes| match bytes.split_first_chunk() {
                    Some((name, reply)) => Ok(RequestOutcome { name: *name, reply: reply.to_vec() }),
                    None => Err("a meta command's request has no name".to_owned()),
                });
                Ok(OpenedCommand { command, position: position.map(u64::from_be_bytes), request: request.transpose()? })
            }
            Some((version, _)) => Err(format!("meta command of unknown version {version}")),
            None => Err("empty meta command".into()),
        }
    }
}
