//! The keys a node holds: cluster keys, and what it unwraps with them.
//!
//! A node may hold several cluster keys, so that one can take another's place while the cluster runs. Which of them seals
//! is not the node's choice: the meta group's records say so ([`crate::meta::machine`]), so that every replica writes the
//! same bytes. The others only open what is left of their time. Unwrapped keys are kept (expanding one costs more than
//! using it) as long as their collection exists.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use async_trait::async_trait;
use bytes::Bytes;
use mira_crypto::{
    ClusterKey, ClusterLayerKey, CollectionKey, CryptoError, KeyId, MetaSealer, ReceiptKey, RepositoryKey, WrappedKey,
};
use mira_proto::CollectionId;
use parking_lot::RwLock;
use zeroize::Zeroizing;

use crate::{
    keys::provider::{KeyProvider, ProviderError},
    meta::{ClusterState, CollectionRecord},
};

/// Version of the key that makes a collection's session tags and digests. It seals nothing and is never rotated, so
/// that equal things stay equal; shredding destroys it with the others.
pub const TAG_KEY: u32 = 0;
/// Version of the first key that seals frames.
pub const FIRST_KEY: u32 = 1;

/// A cluster key and what is made of it once.
struct Held {
    key: ClusterKey,
    sealer: Arc<MetaSealer>,
}

impl Held {
    fn new(key: ClusterKey) -> Arc<Self> {
        let sealer = Arc::new(MetaSealer::new(&key));
        Arc::new(Held { key, sealer })
    }
}

/// Cluster keys, the one that its holder would have seal first.
struct ClusterKeys {
    held: Vec<Arc<Held>>,
    /// The one that the cluster seals with, once that is known.
    active: Option<KeyId>,
    /// One that the meta group needs and that is not held.
    missing: Option<KeyId>,
}

/// A layer key, with the wrapped form that it was unwrapped from: a restored backup brings others of the same version.
type UnwrappedLayer = (Vec<u8>, Arc<ClusterLayerKey>);

/// Unwraps and keeps keys.
pub struct Keyring {
    clusters: RwLock<ClusterKeys>,
    keys: RwLock<HashMap<(CollectionId, u32), Arc<CollectionKey>>>,
    /// Placement keys, which every copy of the cluster map holds: without these, the whole tag keys of all collections would
    /// be kept.
    placement: RwLock<HashMap<CollectionId, Bytes>>,
    layers: RwLock<BTreeMap<u32, UnwrappedLayer>>,
}

/// Why a key cannot be had.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// The collection has no key of that version (any more).
    #[error("collection {collection} has no key of version {version}")]
    Unknown {
        /// The collection.
        collection: CollectionId,
        /// The version.
        version: u32,
    },
    /// The cluster has no key of that version for the outermost layer of private frames.
    #[error("the cluster has no layer key of version {version}")]
    UnknownLayer {
        /// The version.
        version: u32,
    },
    /// This node was not given a cluster key that it needs.
    #[error("this node does not hold the cluster key {0}: give it that key too")]
    NoClusterKey(KeyId),
    /// A key that is to be wrapped by one cluster key alone is wrapped by another, or the like.
    #[error(transparent)]
    Crypto(#[from] CryptoError),
}

impl Keyring {
    /// A keyring that holds these cluster keys only.
    ///
    /// # Panics
    /// If there are none.
    pub fn new(clusters: Vec<ClusterKey>) -> Self {
        assert!(!clusters.is_empty(), "a node holds a cluster key");
        let held = clusters.into_iter().map(Held::new).collect();
        let clusters = RwLock::new(ClusterKeys { held, active: None, missing: None });
        let (keys, placement, layers) = Default::default();
        Keyring { clusters, keys, placement, layers }
    }

    /// Holds these cluster keys from now on; one in use stays, whatever its holder says.
    pub fn hold(&self, clusters: Vec<ClusterKey>) {
        let mut there = self.clusters.write();
        let mut held: Vec<Arc<Held>> = clusters.into_iter().map(Held::new).collect();
        let is_kept = |id: KeyId| held.iter().any(|held| held.key.id() == id);
        let in_use = there.active.filter(|active| !is_kept(*active));
        held.extend(there.held.iter().filter(|held| Some(held.key.id()) == in_use).cloned());
        if !held.is_empty() {
            there.held = held;
            let is_held = |id: KeyId| there.held.iter().any(|held| held.key.id() == id);
            there.missing = there.missing.filter(|missing| !is_held(*missing));
        }
    }

    /// Says which cluster key the cluster seals with.
    pub fn activate(&self, id: KeyId) {
        self.clusters.write().active = Some(id);
    }

    /// The cluster keys held, in their holder's order.
    pub fn cluster_key_ids(&self) -> Vec<KeyId> {
        self.clusters.read().held.iter().map(|held| held.key.id()).collect()
    }

    /// The cluster key that seals.
    pub fn active(&self) -> KeyId {
        self.sealing().key.id()
    }

    /// Notes that the meta group's state or log needs a cluster key that is not held.
    pub fn miss(&self, id: KeyId) {
        self.clusters.write().missing = Some(id);
    }

    /// A cluster key that the meta group's state or log needs and that is not held.
    pub fn missing(&self) -> Option<KeyId> {
        self.clusters.read().missing
    }

    /// What seals with the cluster key in use.
    pub fn meta_sealer(&self) -> Arc<MetaSealer> {
        self.sealing().sealer.clone()
    }

    /// What seals and opens with one cluster key.
    pub fn sealer(&self, id: KeyId) -> Result<Arc<MetaSealer>, KeyError> {
        Ok(self.cluster(id)?.sealer.clone())
    }

    /// What opens something that was sealed for the meta group.
    pub fn sealer_of(&self, sealed: &[u8]) -> Result<Arc<MetaSealer>, KeyError> {
        self.sealer(mira_crypto::meta::key_id(sealed)?)
    }

    fn sealing(&self) -> Arc<Held> {
        let clusters = self.clusters.read();
        let active = clusters.held.iter().find(|held| Some(held.key.id()) == clusters.active);
        active.unwrap_or(&clusters.held[0]).clone()
    }

    fn cluster(&self, id: KeyId) -> Result<Arc<Held>, KeyError> {
        let found = self.clusters.read().held.iter().find(|held| held.key.id() == id).cloned();
        found.ok_or(KeyError::NoClusterKey(id))
    }

    /// A wrapped key and the cluster key that opens it.
    fn wrapped(&self, bytes: &[u8]) -> Result<(WrappedKey, Arc<Held>), KeyError> {
        let wrapped = WrappedKey::from_bytes(bytes)?;
        let cluster = self.cluster(wrapped.cluster_key_id())?;
        Ok((wrapped, cluster))
    }

    /// Fresh keys for a new collection, wrapped, by version.
    pub fn new_collection_keys(&self, id: CollectionId) -> BTreeMap<u32, Vec<u8>> {
        [TAG_KEY, FIRST_KEY].into_iter().map(|version| (version, self.new_collection_key(id, version))).collect()
    }

    /// A fresh key of a collection, wrapped.
    pub fn new_collection_key(&self, id: CollectionId, version: u32) -> Vec<u8> {
        let mut rng = mira_crypto::os_rng();
        CollectionKey::generate(id, version, &mut rng).wrap(&self.sealing().key, &mut rng).as_bytes().to_vec()
    }

    /// A fresh first key for the outermost layer of private frames, wrapped.
    pub fn new_layer_key(&self) -> Vec<u8> {
        let mut rng = mira_crypto::os_rng();
        ClusterLayerKey::generate(FIRST_KEY, &mut rng).wrap(&self.sealing().key, &mut rng).as_bytes().to_vec()
    }

    /// A fresh key for receipts, wrapped.
    pub fn new_receipt_key(&self) -> Vec<u8> {
        let mut rng = mira_crypto::os_rng();
        ReceiptKey::generate(&mut rng).wrap(&self.sealing().key, &mut rng).as_bytes().to_vec()
    }

    /// The key that signs receipts.
    pub fn receipts(&self, wrapped: &[u8]) -> Result<ReceiptKey, KeyError> {
        let (wrapped, cluster) = self.wrapped(wrapped)?;
        Ok(ReceiptKey::unwrap(&wrapped, &cluster.key)?)
    }

    /// A fresh key of a backup repository, and its wrapped form.
    pub fn new_repository_key(&self) -> RepositoryKey {
        RepositoryKey::generate(&mut mira_crypto::os_rng())
    }

    /// A repository's key under the cluster key in use.
    pub fn wrap_repository_key(&self, key: &RepositoryKey) -> Vec<u8> {
        key.wrap(&self.sealing().key, &mut mira_crypto::os_rng()).as_bytes().to_vec()
    }

    /// The key of a backup repository.
    pub fn repository(&self, wrapped: &[u8]) -> Result<RepositoryKey, KeyError> {
        let (wrapped, cluster) = self.wrapped(wrapped)?;
        Ok(RepositoryKey::unwrap(&wrapped, &cluster.key)?)
    }

    /// Keys of a collection wrapped again by another cluster key.
    pub fn rewrap_collection(
        &self,
        id: CollectionId,
        keys: &BTreeMap<u32, Vec<u8>>,
        to: KeyId,
    ) -> Result<BTreeMap<u32, Vec<u8>>, KeyError> {
        let to = self.cluster(to)?;
        let rewrap = |(&version, bytes): (&u32, &Vec<u8>)| {
            let (wrapped, from) = self.wrapped(bytes)?;
            let key = CollectionKey::unwrap(&wrapped, id, version, &from.key)?;
            Ok((version, key.wrap(&to.key, &mut mira_crypto::os_rng()).as_bytes().to_vec()))
        };
        keys.iter().map(rewrap).collect()
    }

    /// Keys of the outermost layer of private frames wrapped again by another cluster key.
    pub fn rewrap_layers(&self, keys: &BTreeMap<u32, Vec<u8>>, to: KeyId) -> Result<BTreeMap<u32, Vec<u8>>, KeyError> {
        let to = self.cluster(to)?;
        let rewrap = |(&version, bytes): (&u32, &Vec<u8>)| {
            let (wrapped, from) = self.wrapped(bytes)?;
            let key = ClusterLayerKey::unwrap(&wrapped, version, &from.key)?;
            Ok((version, key.wrap(&to.key, &mut mira_crypto::os_rng()).as_bytes().to_vec()))
        };
        keys.iter().map(rewrap).collect()
    }

    /// The key of receipts wrapped again by another cluster key; none stays none.
    pub fn rewrap_receipts(&self, wrapped: &[u8], to: KeyId) -> Result<Vec<u8>, KeyError> {
        if wrapped.is_empty() {
            return Ok(Vec::new());
        }
        let to = self.cluster(to)?;
        Ok(self.receipts(wrapped)?.wrap(&to.key, &mut mira_crypto::os_rng()).as_bytes().to_vec())
    }

    /// The names of a collection's keys by version, for operators and receipts.
    pub fn key_names(&self, collection: &CollectionRecord) -> Result<BTreeMap<u32, KeyId>, KeyError> {
        let name = |&version: &u32| Ok((version, self.version(collection, version)?.id()));
        collection.wrapped_keys.keys().map(name).collect()
    }

    /// The key that the outermost layer of new private frames is sealed with.
    pub fn current_layer(&self, state: &ClusterState) -> Result<Arc<ClusterLayerKey>, KeyError> {
        let newest = state.header.layer_keys.last_key_value().map_or(FIRST_KEY, |(&version, _)| version);
        self.layer(state, newest)
    }

    /// One version of the key of the outermost layer.
    pub fn layer(&self, state: &ClusterState, version: u32) -> Result<Arc<ClusterLayerKey>, KeyError> {
        let bytes = state.header.layer_keys.get(&version).ok_or(KeyError::UnknownLayer { version })?;
        if let Some((_, key)) = self.layers.read().get(&version).filter(|(from, _)| from == bytes) {
            return Ok(key.clone());
        }
        let (wrapped, cluster) = self.wrapped(bytes)?;
        let key = Arc::new(ClusterLayerKey::unwrap(&wrapped, version, &cluster.key)?);
        self.layers.write().insert(version, (bytes.clone(), key.clone()));
        Ok(key)
    }

    /// The key that makes a collection's tags and digests.
    pub fn tags(&self, collection: &CollectionRecord) -> Result<Arc<CollectionKey>, KeyError> {
        self.version(collection, TAG_KEY)
    }

    /// What the ids of a collection's frames are made with, for routers. Made from the key that makes tags, so that it stays
    /// while others are rotated.
    pub fn placement_key(&self, collection: &CollectionRecord) -> Result<Bytes, KeyError> {
        if let Some(key) = self.placement.read().get(&collection.id) {
            return Ok(key.clone());
        }
        let known = self.keys.read().get(&(collection.id, TAG_KEY)).cloned();
        let tags = known.map_or_else(|| self.unwrapped(collection, TAG_KEY).map(Arc::new), Ok)?;
        let key = Bytes::copy_from_slice(&*tags.placement_key().to_bytes());
        self.placement.write().insert(collection.id, key.clone());
        Ok(key)
    }

    /// The key that new frames of a collection are sealed with.
    pub fn current(&self, collection: &CollectionRecord) -> Result<Arc<CollectionKey>, KeyError> {
        self.version(collection, collection.key_version)
    }

    /// One version of a collection's key.
    pub fn version(&self, collection: &CollectionRecord, version: u32) -> Result<Arc<CollectionKey>, KeyError> {
        if let Some(key) = self.keys.read().get(&(collection.id, version)) {
            return Ok(key.clone());
        }
        let key = Arc::new(self.unwrapped(collection, version)?);
        self.keys.write().insert((collection.id, version), key.clone());
        Ok(key)
    }

    fn unwrapped(&self, collection: &CollectionRecord, version: u32) -> Result<CollectionKey, KeyError> {
        let unknown = KeyError::Unknown { collection: collection.id, version };
        let (wrapped, cluster) = self.wrapped(collection.wrapped_keys.get(&version).ok_or(unknown)?)?;
        Ok(CollectionKey::unwrap(&wrapped, collection.id, version, &cluster.key)?)
    }

    /// Wipes keys that no longer exist.
    pub fn retain(&self, state: &ClusterState) {
        self.keys.write().retain(|(collection, version), _| {
            state.collections.get(collection).is_some_and(|record| record.wrapped_keys.contains_key(version))
        });
        self.placement.write().retain(|collection, _| state.collections.contains_key(collection));
    }
}

/// Keys that were given once and stay.
pub struct FixedKeys(Vec<Zeroizing<String>>);

impl FixedKeys {
    /// These, the sealing one first.
    pub fn new<'a>(keys: impl IntoIterator<Item = &'a ClusterKey>) -> Arc<Self> {
        Arc::new(FixedKeys(keys.into_iter().map(ClusterKey::to_text).collect()))
    }
}

#[async_trait]
impl KeyProvider for FixedKeys {
    async fn load(&self) -> Result<Vec<ClusterKey>, ProviderError> {
        Ok(self.0.iter().map(|text| ClusterKey::from_text(text).expect("it was a key")).collect())
    }

    fn describe(&self) -> String {
        "keys that it was started with".into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: CollectionId = 7;

    fn cluster_key() -> ClusterKey {
        ClusterKey::generate(&mut mira_crypto::os_rng())
    }

    fn collection(wrapped_keys: BTreeMap<u32, Vec<u8>>) -> CollectionRecord {
        CollectionRecord { wrapped_keys, ..CollectionRecord::new(ID, "notes", 4) }
    }

    /// Ids are kept for ever, so whatever makes them again must make the same.
    #[test]
    fn a_collection_has_one_placement_key_for_its_life() {
        let (first, second) = (cluster_key(), cluster_key());
        let (to, text) = (second.id(), second.to_text());
        let ring = Keyring::new(vec![first, second]);
        let made = collection(ring.new_collection_keys(ID));
        let key = ring.placement_key(&made).expect("it has a key for tags");
        assert_eq!(key.len(), mira_crypto::KEY_LEN);
        let other = CollectionRecord { id: 8, ..collection(ring.new_collection_keys(8)) };
        assert_ne!(ring.placement_key(&other), Ok(key.clone()));

        // It grows, its key is rotated and the old one destroyed; then that of the cluster, as a restore of a backup into
        // another cluster does too. A node that has just started has nothing in memory.
        let mut later = CollectionRecord { partitions: 4, key_version: 2, ..made };
        later.wrapped_keys.insert(2, ring.new_collection_key(ID, 2));
        later.wrapped_keys.remove(&FIRST_KEY);
        later.wrapped_keys = ring.rewrap_collection(ID, &later.wrapped_keys, to).expect("rewrapped");
        let restarted = Keyring::new(vec![ClusterKey::from_text(&text).expect("a key")]);
        assert_eq!(restarted.placement_key(&later), Ok(key));
    }

    #[test]
    fn a_placement_key_goes_with_its_collection() {
        let ring = Keyring::new(vec![cluster_key()]);
        let there = collection(ring.new_collection_keys(ID));
        assert!(ring.placement_key(&there).is_ok());
        ring.retain(&ClusterState { collections: [there].into_iter().collect(), ..ClusterState::default() });
        assert_eq!(ring.placement.read().len(), 1);
        ring.retain(&ClusterState::default());
        assert!(ring.placement.read().is_empty());
        let keyless = collection(BTreeMap::new());
        let unknown = KeyError::Unknown { collection: ID, version: TAG_KEY };
        assert_eq!(ring.placement_key(&keyless), Err(unknown));
    }
}
