//! The keys a node holds: the cluster key, and the collection keys it unwraps with it.
//!
//! Unwrapped keys are kept (expanding one costs more than using it) as long as their collection exists.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use mira_crypto::{ClusterKey, ClusterLayerKey, CollectionKey, CryptoError, MetaSealer, WrappedKey};
use mira_proto::CollectionId;
use parking_lot::RwLock;

use crate::meta::{ClusterState, CollectionRecord};

/// Version of the key that makes a collection's session tags and digests. It seals nothing and is never rotated, so
/// that equal things stay equal; shredding destroys it with the others.
pub const TAG_KEY: u32 = 0;
/// Version of the first key that seals frames.
pub const FIRST_KEY: u32 = 1;

/// Unwraps and keeps collection keys.
pub struct Keyring {
    cluster: ClusterKey,
    sealer: Arc<MetaSealer>,
    keys: RwLock<HashMap<(CollectionId, u32), Arc<CollectionKey>>>,
    layers: RwLock<BTreeMap<u32, Arc<ClusterLayerKey>>>,
}

/// Why a collection's key cannot be had.
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
    /// The wrapped key does not open.
    #[error(transparent)]
    Crypto(#[from] CryptoError),
}

impl Keyring {
    /// A keyring that holds the cluster key only.
    pub fn new(cluster: ClusterKey) -> Self {
        let sealer = Arc::new(MetaSealer::new(&cluster));
        Keyring { cluster, sealer, keys: RwLock::default(), layers: RwLock::default() }
    }

    /// Seals what the meta group keeps.
    pub fn meta_sealer(&self) -> &Arc<MetaSealer> {
        &self.sealer
    }

    /// The cluster key's name.
    pub fn cluster_key_id(&self) -> String {
        self.cluster.id().to_string()
    }

    /// Fresh keys for a new collection, wrapped, by version.
    pub fn new_collection_keys(&self, id: CollectionId) -> BTreeMap<u32, Vec<u8>> {
        let mut rng = mira_crypto::os_rng();
        let mut wrap =
            |version| CollectionKey::generate(id, version, &mut rng).wrap(&self.cluster, &mut rng).as_bytes().to_vec();
        [TAG_KEY, FIRST_KEY].into_iter().map(|version| (version, wrap(version))).collect()
    }

    /// A fresh first key for the outermost layer of private frames, wrapped.
    pub fn new_layer_key(&self) -> Vec<u8> {
        let mut rng = mira_crypto::os_rng();
        ClusterLayerKey::generate(FIRST_KEY, &mut rng).wrap(&self.cluster, &mut rng).as_bytes().to_vec()
    }

    /// The key that the outermost layer of new private frames is sealed with.
    pub fn current_layer(&self, state: &ClusterState) -> Result<Arc<ClusterLayerKey>, KeyError> {
        let newest = state.header.layer_keys.last_key_value().map_or(FIRST_KEY, |(&version, _)| version);
        self.layer(state, newest)
    }

    /// One version of the key of the outermost layer.
    pub fn layer(&self, state: &ClusterState, version: u32) -> Result<Arc<ClusterLayerKey>, KeyError> {
        if let Some(key) = self.layers.read().get(&version) {
            return Ok(key.clone());
        }
        let wrapped = state.header.layer_keys.get(&version).ok_or(KeyError::UnknownLayer { version })?;
        let key = Arc::new(ClusterLayerKey::unwrap(&WrappedKey::from_bytes(wrapped)?, version, &self.cluster)?);
        self.layers.write().insert(version, key.clone());
        Ok(key)
    }

    /// The key that makes a collection's tags and digests.
    pub fn tags(&self, collection: &CollectionRecord) -> Result<Arc<CollectionKey>, KeyError> {
        self.version(collection, TAG_KEY)
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
        let wrapped =
            collection.wrapped_keys.get(&version).ok_or(KeyError::Unknown { collection: collection.id, version })?;
        let key = CollectionKey::unwrap(&WrappedKey::from_bytes(wrapped)?, collection.id, version, &self.cluster)?;
        let key = Arc::new(key);
        self.keys.write().insert((collection.id, version), key.clone());
        Ok(key)
    }

    /// Wipes the keys of collections that no longer exist.
    pub fn retain(&self, state: &ClusterState) {
        self.keys.write().retain(|(collection, version), _| {
            state.collections.get(collection).is_some_and(|record| record.wrapped_keys.contains_key(version))
        });
    }
}
