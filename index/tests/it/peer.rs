//! The graph beside hnswlib-rs on the same vectors: at the same parameters it must find as much.

use hnswlib_rs::{Hnsw, HnswConfig, InMemoryVectorStore, L2};
use mira_index::{Config, Hit, Metric, Quantization, SearchParams, VectorIndex};
use proptest::prelude::*;

use crate::clusters::Clusters;
use crate::found::recall;

const DIM: usize = 32;
const VECTORS: usize = 3_000;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4))]

    #[test]
    fn recall_is_no_worse_than_hnswlib_rs(seed in any::<u64>(), centres in 5usize..200) {
        let mut clusters = Clusters::new(seed, DIM, centres);
        let vectors: Vec<_> = (0..VECTORS).map(|_| clusters.vector()).collect();
        let queries: Vec<_> = (0..100).map(|_| clusters.vector()).collect();

        let peer = Hnsw::new(L2::new(), HnswConfig::new(DIM, VECTORS).m(16).ef_construction(128));
        let store = InMemoryVectorStore::new(DIM, VECTORS);
        for (row, vector) in vectors.iter().enumerate() {
            peer.insert(&store, row as u32, vector).unwrap();
        }
        for quantization in [Quantization::None, Quantization::Int8] {
            let config = Config { quantization, exact_below: 0, ..Config::new(DIM, Metric::L2) };
            let index = VectorIndex::new(config).unwrap();
            for (row, vector) in vectors.iter().enumerate() {
                index.upsert(row as u128, vector).unwrap();
            }
            for ef in [20, 64] {
                peer.set_ef_search(ef);
                let (mut own, mut other) = (0.0, 0.0);
                for query in &queries {
                    let params = SearchParams { ef: Some(ef), ..SearchParams::new(query, 10) };
                    let exact = index.search_exact(&params).unwrap();
                    own += recall(&index.search(&params).unwrap(), &exact);
                    let found = peer.search(&store, query, 10, None).unwrap();
                    let found: Vec<_> = found
                        .iter()
                        .map(|hit| Hit { id: hit.key.into(), passage: 0, score: -hit.distance })
                        .collect();
                    other += recall(&found, &exact);
                }
                let (own, other) = (own / queries.len() as f64, other / queries.len() as f64);
                // Two graphs of the same kind differ by chance; three hundredths at the narrow beam is beyond that.
                let slack = if ef == 20 { 0.03 } else { 0.01 };
                prop_assert!(own >= other - slack, "{:?} ef {}: {} against {}", quantization, ef, own, other);
            }
        }
    }
}
