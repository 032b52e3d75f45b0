//! Pages: every document once, in the order of ranks, however many score the same.

use std::collections::BTreeSet;

use mira_index::{
    Config, Document, Filter, Hit, Metric, Place, Quantization, RowCache, RowStorage, SearchParams, VectorIndex,
    short_name,
};

use crate::clusters::Clusters;
use crate::histories::METRICS;
use crate::shelf::Shelf;

const DIM: usize = 24;

/// Documents of one to three passages, a third of them equal, with rows in memory or elsewhere.
fn filled(metric: Metric, quantization: Quantization, count: u128, is_elsewhere: bool) -> VectorIndex {
    let mut clusters = Clusters::new(21, DIM, 12);
    let shelf = Shelf::new(DIM);
    let elsewhere = RowStorage::Source(shelf.clone(), RowCache::new(100_000));
    let storage = if is_elsewhere { elsewhere } else { RowStorage::Memory };
    let config = Config { quantization, exact_below: 300, ..Config::new(DIM, metric) };
    let index = VectorIndex::with_storage(config, &storage).unwrap();
    let repeated = clusters.vector();
    for number in 0..count {
        let id = number * 7_919 % count;
        let vectors = match id % 3 {
            0 => repeated.clone(),
            1 => clusters.vector(),
            _ => [clusters.vector(), clusters.vector(), repeated.clone()].concat(),
        };
        shelf.documents.lock().insert(id, vectors.clone());
        index.upsert(id, &vectors).unwrap();
    }
    index
}

/// All pages of a search.
fn pages(index: &VectorIndex, params: SearchParams<'_>) -> Vec<Hit> {
    let (mut all, mut after): (Vec<Hit>, Option<Place>) = (Vec::new(), None);
    loop {
        let page = index.search_exact(&SearchParams { after: after.as_ref(), ..params }).unwrap();
        all.extend(&page);
        let Some(last) = page.last() else { return all };
        after = Some(Place { score: last.score, id: last.id, shown: Vec::new() });
    }
}

#[test]
fn pages_hold_every_document_once_in_order() {
    let even = |document: &Document| document.id.is_multiple_of(2);
    for metric in METRICS {
        for quantization in [Quantization::None, Quantization::Int8, Quantization::Binary] {
            for is_elsewhere in [false, true] {
                let index = filled(metric, quantization, 1_200, is_elsewhere);
                let mut clusters = Clusters::new(21, DIM, 12);
                // The vector that most documents have, and another one.
                for query in [clusters.vector(), clusters.vector()] {
                    for (filter, count) in [(None, 1_200), (Some(Filter { matches: &even, selectivity: None }), 600)] {
                        let params = SearchParams { filter, ..SearchParams::new(&query, 70) };
                        let all = pages(&index, params);
                        let what = format!("{metric:?} {quantization:?} {is_elsewhere} {count}");
                        assert_eq!(all.len(), count, "{what}");
                        assert!(all.windows(2).all(|pair| pair[0].rank(&pair[1]).is_lt()), "{what}");
                        let at_once = index.search_exact(&SearchParams { k: 2_000, ..params }).unwrap();
                        assert_eq!(all, at_once, "{what}");
                    }
                }
            }
        }
    }
}

/// Three thousand equal vectors, by pages of a hundred, the first from a walk.
#[test]
fn equal_vectors_come_in_the_order_of_their_ids() {
    let index = VectorIndex::new(Config::new(4, Metric::Cosine)).unwrap();
    (0..3_000u128).rev().for_each(|id| index.upsert(id, &[0.3, 0.4, 0.5, 0.6]).unwrap());
    assert!(index.has_graph());
    let params = SearchParams::new(&[0.3, 0.4, 0.5, 0.6], 100);
    let first = index.search(&params).unwrap();
    assert_eq!(first.iter().map(|hit| hit.id).collect::<Vec<_>>(), (0..100).collect::<Vec<u128>>());
    let ids: Vec<u128> = pages(&index, params).iter().map(|hit| hit.id).collect();
    assert_eq!(ids, (0..3_000).collect::<Vec<u128>>());
}

/// What a walk missed comes on the next page.
#[test]
fn what_the_first_page_missed_comes_next() {
    let index = filled(Metric::L2, Quantization::Int8, 900, true);
    let query = Clusters::new(77, DIM, 12).vector();
    let params = SearchParams::new(&query, 40);
    let mut first = index.search_exact(&params).unwrap();
    let missed = [first.remove(3), first.remove(20)];
    let last = first.last().unwrap();
    let mut shown: Vec<u32> = first.iter().map(|hit| short_name(hit.id)).collect();
    shown.sort_unstable();
    let after = Place { score: last.score, id: last.id, shown };
    let second = index.search(&SearchParams { after: Some(&after), ..params }).unwrap();
    assert_eq!(second[..2], missed);
    let ids: BTreeSet<u128> = first.iter().chain(&second).map(|hit| hit.id).collect();
    assert_eq!(ids.len(), 38 + 40);
    let best: BTreeSet<u128> =
        index.search_exact(&SearchParams { k: 78, ..params }).unwrap().iter().map(|hit| hit.id).collect();
    assert_eq!(ids, best);
}
