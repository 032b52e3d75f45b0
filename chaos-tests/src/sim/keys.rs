//! The keys of simulated clusters: the same in every run, so that a seed replays to the byte.

use mira_crypto::{ClusterKey, ClusterLayerKey, CollectionKey};
use mira_node::keys::keyring::{FIRST_KEY, TAG_KEY};
use mira_node::meta::CollectionRecord;
use mira_proto::CollectionId;
use rand::SeedableRng;
use rand::rngs::StdRng;

/// The cluster key.
pub fn cluster_key() -> ClusterKey {
    ClusterKey::generate(&mut StdRng::seed_from_u64(1))
}

/// The key of the outermost layer of private frames, wrapped.
pub fn layer_key() -> Vec<u8> {
    let mut rng = StdRng::seed_from_u64(2);
    ClusterLayerKey::generate(FIRST_KEY, &mut rng).wrap(&cluster_key(), &mut rng).as_bytes().to_vec()
}

/// The record of a collection, with keys of its own.
pub fn collection(id: CollectionId, partitions: u32) -> CollectionRecord {
    let mut rng = StdRng::seed_from_u64(id);
    let mut key = |version| {
        let key = CollectionKey::generate(id, version, &mut rng).wrap(&cluster_key(), &mut rng);
        (version, key.as_bytes().to_vec())
    };
    CollectionRecord {
        partitions,
        first_partitions: partitions,
        wrapped_keys: [TAG_KEY, FIRST_KEY].map(&mut key).into(),
        ..CollectionRecord::new(id, format!("collection {id}"), 4)
    }
}
