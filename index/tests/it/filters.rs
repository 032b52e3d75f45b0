//! Conditions on attributes: the same documents as one by one after any history, the recall of what a planner chose.

use std::collections::BTreeMap;
use std::ops::Bound;

use mira_index::{
    Attributes, Condition, Config, Document, Metric, Number, Plan, Quantization, RowCache, RowStorage, SearchParams,
    Span, Test, Times, TypeSet, Value, VectorIndex, Where, exact_top_k,
};
use proptest::prelude::*;

use crate::clusters::Clusters;
use crate::found::recall;
use crate::histories::to_f32;
use crate::shelf::Shelf;

const DIM: usize = 4;

/// One step of a history of documents with attributes.
#[derive(Debug, Clone)]
enum FilterStep {
    Upsert { id: u8, vector: Vec<i8>, attributes: Vec<(String, Value)> },
    Remove { id: u8 },
    Compact,
    Restart,
}

fn value() -> impl Strategy<Value = Value> {
    prop_oneof![
        any::<bool>().prop_map(Value::Bool),
        (-3i64..4).prop_map(|n| Value::Number(n.into())),
        (-6i8..6).prop_map(|n| Value::Number(Number::from_f64(f64::from(n) / 2.0).unwrap())),
        "[ab]{0,3}".prop_map(|text| Value::Text(text.into())),
    ]
}

fn field() -> impl Strategy<Value = String> {
    prop::sample::select(vec!["type", "n", "tag", "deep.er"]).prop_map(str::to_owned)
}

/// Some documents have a text that is too long to be indexed, or too many attributes.
fn attributes() -> impl Strategy<Value = Vec<(String, Value)>> {
    let usual = prop::collection::vec((field(), value()), 0..6);
    let odd = prop_oneof![
        12 => Just(Vec::new()),
        1 => Just(vec![("tag".to_owned(), Value::Text("a".repeat(300).into()))]),
        1 => Just((0..70i64).map(|n| ("n".to_owned(), Value::Number(n.into()))).collect()),
    ];
    (usual, odd).prop_map(|(usual, odd)| usual.into_iter().chain(odd).collect())
}

fn vector() -> impl Strategy<Value = Vec<i8>> {
    prop::collection::vec(-2i8..=2, DIM)
}

fn steps() -> impl Strategy<Value = Vec<FilterStep>> {
    let step = prop_oneof![
        14 => (any::<u8>(), vector(), attributes())
            .prop_map(|(id, vector, attributes)| FilterStep::Upsert { id, vector, attributes }),
        4 => any::<u8>().prop_map(|id| FilterStep::Remove { id }),
        1 => Just(FilterStep::Compact),
        1 => Just(FilterStep::Restart),
    ];
    prop::collection::vec(step, 1..200)
}

fn test() -> impl Strategy<Value = Test> {
    let end =
        || prop_oneof![Just(Bound::Unbounded), value().prop_map(Bound::Included), value().prop_map(Bound::Excluded),];
    prop_oneof![
        prop::collection::vec(value(), 0..4).prop_map(Test::In),
        (end(), end()).prop_filter_map("one type", |(lower, upper)| Some(Test::Within(Span::new(lower, upper)?))),
        "[ab]{0,2}".prop_map(Test::Prefix),
        Just(Test::Exists),
    ]
}

fn condition() -> impl Strategy<Value = Condition> {
    let leaf = prop_oneof![
        8 => (field(), test()).prop_map(|(field, test)| Condition::Field(field, test)),
        1 => (0u64..300, 0u64..300).prop_map(|(from, to)| Condition::Created(from..to)),
    ];
    leaf.prop_recursive(3, 12, 3, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..3).prop_map(Condition::All),
            prop::collection::vec(inner.clone(), 0..3).prop_map(Condition::Any),
            inner.prop_map(|part| Condition::Not(Box::new(part))),
        ]
    })
}

fn times(id: u8) -> Times {
    Times { created_ms: u64::from(id), expires_ms: 0 }
}

fn document(id: u8) -> Document {
    Document { id: id.into(), times: times(id) }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn conditions_find_what_matches_one_by_one(
        steps in steps(),
        conditions in prop::collection::vec(condition(), 6),
        query in vector(),
        exact_below in prop::sample::select(vec![0usize, 10_000]),
        k in 1usize..300,
    ) {
        let config = Config { exact_below, ..Config::new(DIM, Metric::L2) };
        let mut index = VectorIndex::new(config).unwrap();
        let mut model: BTreeMap<u8, (Vec<f32>, Attributes)> = BTreeMap::new();
        for step in steps {
            match step {
                FilterStep::Upsert { id, vector, attributes } => {
                    let attributes = Attributes::new(attributes);
                    index.upsert_with(document(id), &attributes, &to_f32(&vector)).unwrap();
                    model.insert(id, (to_f32(&vector), attributes));
                }
                FilterStep::Remove { id } => prop_assert_eq!(index.remove(id.into()), model.remove(&id).is_some()),
                FilterStep::Compact => index.compact(1, &|| false).unwrap(),
                FilterStep::Restart => {
                    let mut image = Vec::new();
                    index.write_image(&mut image).unwrap();
                    index = VectorIndex::read_image(&image[..], &RowStorage::Memory).unwrap();
                }
            }
        }
        for (id, (_, attributes)) in &model {
            for field in ["type", "n", "tag", "deep.er", "absent"] {
                let first = attributes.of(field).next().cloned();
                let known = index.first_value((*id).into(), field);
                prop_assert!(known.is_none_or(|known| known == first), "{} {}", id, field);
            }
        }
        let query = to_f32(&query);
        for condition in conditions {
            let matches = |id: u8| condition.matches(&model[&id].1, &times(id));
            let kept = model.iter().filter(|(id, _)| matches(**id));
            let kept = kept.map(|(id, (vector, _))| (u128::from(*id), vector.as_slice()));
            let expected = exact_top_k(Metric::L2, DIM, &query, kept, k).unwrap();
            let verify = |document: &Document| matches(document.id as u8);
            let params = SearchParams {
                condition: Some(Where { condition: &condition, verify: &verify }),
                ..SearchParams::new(&query, k)
            };
            prop_assert_eq!(&index.search_exact(&params).unwrap(), &expected, "{:?}", &condition);
            let found = index.search(&params).unwrap();
            prop_assert_eq!(found.len(), expected.len(), "{:?}", &condition);
            prop_assert!(found.iter().all(|hit| matches(hit.id as u8)));
        }
    }
}

/// The types of each field's values in some documents.
fn types_in<'a>(documents: impl Iterator<Item = &'a Attributes>) -> BTreeMap<String, TypeSet> {
    let mut types: BTreeMap<String, TypeSet> = BTreeMap::new();
    for (field, value) in documents.flat_map(|attributes| attributes.pairs()) {
        let held = types.entry(field.clone()).or_default();
        *held = held.with(TypeSet::of(value));
    }
    types
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// After any history an index knows the types of all that can be found, and no type that never was; of what is gone it
    /// may know more, until a compaction that finds everything indexed.
    #[test]
    fn field_types_are_those_of_the_documents(steps in steps(), last in any::<bool>()) {
        let mut index = VectorIndex::new(Config { exact_below: 20, ..Config::new(DIM, Metric::L2) }).unwrap();
        let (mut model, mut ever) = (BTreeMap::<u8, Attributes>::new(), Vec::new());
        let mut is_exact = true;
        let compaction = last.then_some(FilterStep::Compact);
        for step in steps.into_iter().chain(compaction) {
            match step {
                FilterStep::Upsert { id, vector, attributes } => {
                    let attributes = Attributes::new(attributes);
                    index.upsert_with(document(id), &attributes, &to_f32(&vector)).unwrap();
                    ever.push(attributes.clone());
                    is_exact &= model.insert(id, attributes).is_none();
                }
                FilterStep::Remove { id } => {
                    index.remove(id.into());
                    is_exact &= model.remove(&id).is_none();
                }
                FilterStep::Compact => {
                    index.compact(1, &|| false).unwrap();
                    let is_indexed = |attributes: &Attributes| {
                        let is_long = |(_, value): &(String, Value)| {
                            matches!(value, Value::Text(text) if text.len() > 256)
                        };
                        attributes.pairs().len() <= 64 && !attributes.pairs().iter().any(is_long)
                    };
                    is_exact |= model.values().all(is_indexed);
                }
                FilterStep::Restart => {
                    let mut image = Vec::new();
                    index.write_image(&mut image).unwrap();
                    index = VectorIndex::read_image(&image[..], &RowStorage::Memory).unwrap();
                }
            }
            let (now, ever) = (types_in(model.values()), types_in(ever.iter()));
            for field in ["type", "n", "tag", "deep.er", "absent"] {
                let of = |types: &BTreeMap<String, TypeSet>| types.get(field).copied().unwrap_or_default();
                let known = index.field_types(field);
                prop_assert!(known.holds(of(&now)), "{} {:?} lacks {:?}", field, known, of(&now));
                prop_assert!(of(&ever).holds(known), "{} {:?} never was", field, known);
                prop_assert!(!is_exact || known == of(&now), "{} {:?} {:?}", field, known, of(&now));
            }
        }
    }
}

/// Writers go on while an index is compacted and an image is written: no type is lost on the way.
#[test]
fn types_of_what_is_written_during_a_compaction_are_kept() {
    let index = VectorIndex::new(Config { exact_below: 100, ..Config::new(DIM, Metric::L2) }).unwrap();
    let put = |id: u128, field: &str, value: Value| {
        let attributes = Attributes::new(vec![(field.to_owned(), value)]);
        index.upsert_with(Document { id, times: Times::default() }, &attributes, &[id as f32, 0.0, 0.0, 0.0]).unwrap();
    };
    (0..2_000).for_each(|id| put(id, "old", Value::Bool(true)));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for id in 2_000..2_500u128 {
                put(id, &format!("new {}", id % 100), "x".repeat(if id % 2 == 0 { 300 } else { 3 }).as_str().into());
            }
        });
        for _ in 0..5 {
            index.compact(1, &|| false).unwrap();
            let mut image = Vec::new();
            index.write_image(&mut image).unwrap();
            let read = VectorIndex::read_image(&image[..], &RowStorage::Memory).unwrap();
            assert_eq!(read.field_types("old"), TypeSet::BOOL);
        }
    });
    index.compact(1, &|| false).unwrap();
    assert!((0..100).all(|number| index.field_types(&format!("new {number}")) == TypeSet::TEXT));
}

/// Only documents that are not wholly indexed are asked about.
#[test]
fn what_the_index_knows_is_not_asked() {
    let index = VectorIndex::new(Config::new(DIM, Metric::L2)).unwrap();
    for id in 0..100u128 {
        let mut pairs = vec![("n".to_owned(), Value::Number((id as i64).into()))];
        if id % 25 == 0 {
            pairs.push(("text".to_owned(), Value::Text("x".repeat(500).into())));
        }
        index
            .upsert_with(Document { id, times: Times::default() }, &Attributes::new(pairs), &[id as f32, 0.0, 0.0, 0.0])
            .unwrap();
    }
    let asked = parking_lot::Mutex::new(Vec::new());
    let verify = |document: &Document| {
        asked.lock().push(document.id);
        true
    };
    let condition = Condition::Field("other".into(), Test::Exists);
    let condition = Some(Where { condition: &condition, verify: &verify });
    let query = [0.0; DIM];
    let found = index.search(&SearchParams { condition, ..SearchParams::new(&query, 10) }).unwrap();
    let ids: Vec<_> = found.iter().map(|hit| hit.id).collect();
    assert_eq!(ids, [0, 25, 50, 75]);
    let mut asked = asked.into_inner();
    asked.dedup();
    assert_eq!(asked, ids);
}

/// A field of too much memory is given up; what was asked of it is then asked of the caller.
#[test]
fn a_budget_holds_and_answers_stay_right() {
    let index = VectorIndex::new(Config { exact_below: 100_000, ..Config::new(1, Metric::L2) }).unwrap();
    let long = |id: u128| format!("{id:0>250}");
    let attributes = |id: u128| {
        Attributes::new(vec![
            ("even".to_owned(), Value::Bool(id.is_multiple_of(2))),
            ("name".to_owned(), Value::Text(long(id).into())),
        ])
    };
    let count = 60_000u128;
    for id in 0..count {
        index.upsert_with(Document { id, times: Times::default() }, &attributes(id), &[id as f32]).unwrap();
    }
    let stats = index.stats();
    assert!(stats.attribute_bytes <= (8 << 20) + 128 * count as usize, "{stats:?}");
    let name = Condition::Field("name".into(), Test::In(vec![Value::Text(long(7).into())]));
    let even = Condition::Field("even".into(), Test::In(vec![Value::Bool(false)]));
    let asked = std::sync::atomic::AtomicUsize::new(0);
    let ask = |index: &VectorIndex, condition: &Condition| {
        let verify = |document: &Document| {
            asked.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            condition.matches(&attributes(document.id), &document.times)
        };
        let condition = Some(Where { condition, verify: &verify });
        let found = index.search(&SearchParams { condition, ..SearchParams::new(&[0.0], 3) }).unwrap();
        found.iter().map(|hit| hit.id).collect::<Vec<_>>()
    };
    assert_eq!(ask(&index, &even), [1, 3, 5], "the small field is kept");
    assert_eq!(asked.load(std::sync::atomic::Ordering::Relaxed), 0);
    assert_eq!(ask(&index, &name), [7]);
    assert!(asked.load(std::sync::atomic::Ordering::Relaxed) > 0);
    assert_eq!(ask(&index, &Condition::Not(Box::new(name.clone()))), [0, 1, 2]);
    index.compact(2, &|| false).unwrap();
    assert_eq!(ask(&index, &name), [7]);
    assert_eq!(ask(&index, &even), [1, 3, 5]);
}

/// From one document in a thousand to all, the attribute following the vectors or not.
#[test]
fn conditions_keep_recall_at_any_selectivity() {
    const CLUSTERS: usize = 20;
    // One bit says little where neighbours are almost equally far, as here: the default beam finds 0.62 of them without any
    // filter. At the beam that finds 0.965 without one, filters are to cost nothing. Its rows lie elsewhere, as a node has
    // them, so that scans go by codes too.
    let cases =
        [(Quantization::Int8, 48, None), (Quantization::None, 48, None), (Quantization::Binary, 384, Some(512))];
    for (quantization, dim, ef) in cases {
        let mut clusters = Clusters::new(11, dim, CLUSTERS);
        let config = Config { quantization, exact_below: 500, ..Config::new(dim, Metric::Cosine) };
        let shelf = Shelf::new(dim);
        let storage = match quantization {
            Quantization::Binary => RowStorage::Source(shelf.clone(), RowCache::new(64 << 20)),
            Quantization::Int8 | Quantization::None => RowStorage::Memory,
        };
        let index = VectorIndex::with_storage(config, &storage).unwrap();
        for id in 0..20_000u128 {
            let cluster = id as usize % CLUSTERS;
            let pairs = vec![
                ("number".to_owned(), Value::Number((id as i64 / CLUSTERS as i64).into())),
                ("mixed".to_owned(), Value::Number(((id * 7_919 % 20_000) as i64).into())),
                ("cluster".to_owned(), Value::Number((cluster as i64).into())),
            ];
            let vector = clusters.vector_near(cluster);
            shelf.documents.lock().insert(id, vector.clone());
            index.upsert_with(Document { id, times: Times::default() }, &Attributes::new(pairs), &vector).unwrap();
        }
        let queries: Vec<_> = (0..40).map(|number| clusters.vector_near(number % CLUSTERS)).collect();
        let below = |field: &str, end: i64| {
            let span = Span::new(Bound::Unbounded, Bound::Excluded(Value::Number(end.into()))).unwrap();
            Condition::Field(field.to_owned(), Test::Within(span))
        };
        let among = |clusters: &[usize]| {
            let values = clusters.iter().map(|cluster| Value::Number((*cluster as i64).into())).collect();
            Condition::Field("cluster".to_owned(), Test::In(values))
        };
        for thousandths in [1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000] {
            // Spread over all clusters; in those of the query; in those far from it.
            for correlation in ["none", "near", "far"] {
                let (mut total, mut plans) = (0.0, BTreeMap::new());
                for (number, query) in queries.iter().enumerate() {
                    let shift = if correlation == "near" { 0 } else { 1 };
                    let count = (CLUSTERS * thousandths).div_ceil(1_000);
                    let own: Vec<usize> = (0..count).map(|at| (number + shift + at) % CLUSTERS).collect();
                    let condition = match correlation {
                        "none" => below("mixed", 20 * thousandths as i64),
                        _ => Condition::All(vec![
                            among(&own),
                            below("number", (20 * thousandths).div_ceil(count) as i64),
                        ]),
                    };
                    let verify = |_: &Document| unreachable!("all attributes are indexed");
                    let params = SearchParams {
                        ef,
                        condition: Some(Where { condition: &condition, verify: &verify }),
                        ..SearchParams::new(query, 10)
                    };
                    let (found, explain) = index.search_explained(&params).unwrap();
                    let exact = index.search_exact(&params).unwrap();
                    assert_eq!(explain.matching.unwrap().0, 20 * thousandths, "{correlation}");
                    *plans.entry(format!("{:?}", explain.plan)).or_insert(0) += 1;
                    total += recall(&found, &exact);
                    assert_eq!(found.len(), exact.len());
                }
                let mean = total / queries.len() as f64;
                println!("{quantization:?} {thousandths}/1000 {correlation}: recall {mean:.4}, {plans:?}");
                assert!(mean >= 0.95, "{quantization:?} {thousandths}/1000 {correlation}: {mean} {plans:?}");
                if thousandths <= 10 {
                    assert!(plans.keys().all(|plan| *plan == format!("{:?}", Plan::Scan)), "{plans:?}");
                }
            }
        }
    }
}

/// Run by hand: `cargo test -p mira-index --test it filters:: -- --ignored --nocapture`. Median times of searches at 100,000
/// vectors of 384 components, and the memory of attributes.
#[test]
#[ignore = "takes minutes"]
fn times_at_any_selectivity() {
    const COUNT: usize = 100_000;
    let mut clusters = Clusters::new(1, 384, 200);
    let index = VectorIndex::new(Config::new(384, Metric::Cosine)).unwrap();
    let started = std::time::Instant::now();
    for id in 0..COUNT as u128 {
        let pairs = vec![
            ("type".to_owned(), Value::Text(["note", "insight", "code"][id as usize % 3].into())),
            ("session".to_owned(), Value::Text(format!("session-{}", id / 20).as_str().into())),
            ("metadata.mixed".to_owned(), Value::Number(((id * 7_919 % COUNT as u128) as i64).into())),
            ("metadata.url".to_owned(), Value::Text(format!("https://example.org/pages/{id}").as_str().into())),
        ];
        index
            .upsert_with(Document { id, times: Times::default() }, &Attributes::new(pairs), &clusters.vector())
            .unwrap();
    }
    println!("{COUNT} inserts in {:?}; {:?}", started.elapsed(), index.stats());
    let queries: Vec<_> = (0..100).map(|_| clusters.vector()).collect();
    let verify = |_: &Document| unreachable!("all attributes are indexed");
    for thousandths in [0, 1, 10, 50, 100, 200, 500, 1_000] {
        let end = Value::Number((COUNT as i64 / 1_000 * thousandths).into());
        let range = Span::new(Bound::Unbounded, Bound::Excluded(end)).unwrap();
        let condition = Condition::Field("metadata.mixed".to_owned(), Test::Within(range));
        let (mut times, mut total, mut plan) = (Vec::new(), 0.0, None);
        for query in &queries {
            let params = SearchParams {
                condition: (thousandths > 0).then_some(Where { condition: &condition, verify: &verify }),
                ..SearchParams::new(query, 10)
            };
            let started = std::time::Instant::now();
            let (found, explain) = index.search_explained(&params).unwrap();
            times.push(started.elapsed());
            total += recall(&found, &index.search_exact(&params).unwrap());
            plan = Some((explain.plan, explain.compared));
        }
        times.sort_unstable();
        let share = if thousandths == 0 { "no filter".to_owned() } else { format!("{} %", thousandths as f64 / 10.0) };
        println!("{share}: p50 {:?}, p99 {:?}, recall {:.4}, {plan:?}", times[50], times[98], total / 100.0);
    }
}
