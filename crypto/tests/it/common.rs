//! Keys and randomness that the tests share.

use mira_crypto::{ClusterKey, ClusterLayerKey, CollectionKey, Context, OwnerKey, Part};
use rand::{SeedableRng, rngs::StdRng};

/// Larger than anything the tests seal.
pub const MAX_LEN: usize = 1 << 24;

pub struct Keys {
    pub rng: StdRng,
    pub cluster: ClusterKey,
    pub layer: ClusterLayerKey,
    pub collection: CollectionKey,
    pub owner: OwnerKey,
}

pub fn keys(seed: u64) -> Keys {
    let mut rng = StdRng::seed_from_u64(seed);
    let cluster = ClusterKey::generate(&mut rng);
    let layer = ClusterLayerKey::generate(1, &mut rng);
    let collection = CollectionKey::generate(CONTEXT.collection, 1, &mut rng);
    let owner = OwnerKey::generate(&mut rng);
    Keys { rng, cluster, layer, collection, owner }
}

pub const CONTEXT: Context =
    Context { collection: 7, shard: 3, frame: 0x0192_f0c4_a5b6_7c8d_9e0f_1122_3344_5566, version: 2, part: Part::Body };
