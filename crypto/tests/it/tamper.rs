//! Nothing that was altered, cut or moved opens, and nothing panics: every kind, every byte, every field of the
//! context.

use crate::common::{CONTEXT, Keys, MAX_LEN, keys};
use mira_crypto::{
    Bound, ClusterLayerKey, CollectionKey, Context, CryptoError, MetaSealer, OwnerKey, PageSealer, Part, WrappedKey,
    frame, page::PagePosition, private,
};
use proptest::prelude::*;

type Opened = Result<Vec<u8>, CryptoError>;
type Open = dyn Fn(&Keys, &[u8]) -> Opened;

const RECORD: &[u8] = b"collections/7";
const FILE: u128 = 99;
const PAGE: PagePosition = PagePosition { number: 4, last: true };

/// Everything that can be sealed, each with the way to open it.
struct Sealed {
    name: &'static str,
    bytes: Vec<u8>,
    plain: Vec<u8>,
    open: Box<Open>,
}

fn seal_all(keys: &mut Keys, plain: &[u8]) -> Vec<Sealed> {
    let Keys { rng, cluster, layer, collection, owner } = keys;
    let sealed = |name, bytes: Vec<u8>, open: fn(&Keys, &[u8]) -> Opened| Sealed {
        name,
        bytes,
        plain: plain.to_vec(),
        open: Box::new(open),
    };
    let mut all = vec![
        sealed("frame", frame::seal(collection, &CONTEXT, plain, rng), |keys, bytes| {
            frame::open(&keys.collection, &CONTEXT, bytes, MAX_LEN)
        }),
        sealed("page", PageSealer::new(collection, FILE).seal(PAGE, plain, rng), |keys, bytes| {
            PageSealer::new(&keys.collection, FILE).open(PAGE, bytes)
        }),
        sealed("meta", MetaSealer::new(cluster).seal_proposal(RECORD, plain, rng), |keys, bytes| {
            MetaSealer::new(&keys.cluster).open(RECORD, bytes, MAX_LEN)
        }),
        sealed("owner layer", private::seal_owner(owner, &CONTEXT.owner(), plain, rng), |keys, bytes| {
            private::open_owner(&keys.owner, &CONTEXT.owner(), bytes, MAX_LEN).map(|plain| plain.to_vec())
        }),
        sealed("collection layer", private::seal_collection(collection, &CONTEXT, plain, rng), |keys, bytes| {
            private::open_collection(&keys.collection, &CONTEXT, bytes, MAX_LEN)
        }),
        sealed("cluster layer", private::seal_cluster(layer, &CONTEXT, plain, rng), |keys, bytes| {
            private::open_cluster(&keys.layer, &CONTEXT, bytes, MAX_LEN)
        }),
    ];
    // A wrapped key shows what it holds by the tags that the key makes.
    let wrapped = collection.wrap(cluster, rng).as_bytes().to_vec();
    all.push(Sealed {
        name: "wrapped key",
        bytes: wrapped,
        plain: collection.tag("", plain).to_vec(),
        open: {
            let plain = plain.to_vec();
            Box::new(move |keys, bytes| {
                let wrapped = WrappedKey::from_bytes(bytes)?;
                Ok(CollectionKey::unwrap(&wrapped, 7, 1, &keys.cluster)?.tag("", &plain).to_vec())
            })
        },
    });
    all
}

/// Half of the inputs compress, so that both payload forms are covered.
fn contents() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        proptest::collection::vec(any::<u8>(), 0..300),
        (any::<u8>(), 64_usize..300).prop_map(|(byte, len)| vec![byte; len]),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn what_was_sealed_opens(seed: u64, plain in contents()) {
        let mut keys = keys(seed);
        for sealed in seal_all(&mut keys, &plain) {
            prop_assert_eq!((sealed.open)(&keys, &sealed.bytes), Ok(sealed.plain), "{}", sealed.name);
        }
    }

    #[test]
    fn a_flip_anywhere_is_an_error(seed: u64, plain in contents(), flip in 1_u8..) {
        let mut keys = keys(seed);
        for sealed in seal_all(&mut keys, &plain) {
            let mut bytes = sealed.bytes.clone();
            for at in 0..bytes.len() {
                bytes[at] ^= flip;
                prop_assert!((sealed.open)(&keys, &bytes).is_err(), "{} byte {at}", sealed.name);
                bytes[at] ^= flip;
            }
        }
    }

    #[test]
    fn every_truncation_and_extension_is_an_error(seed: u64, plain in contents(), extra: u8) {
        let mut keys = keys(seed);
        for sealed in seal_all(&mut keys, &plain) {
            for len in 0..sealed.bytes.len() {
                prop_assert!((sealed.open)(&keys, &sealed.bytes[..len]).is_err(), "{} to {len}", sealed.name);
            }
            let longer = [&sealed.bytes[..], &[extra]].concat();
            prop_assert!((sealed.open)(&keys, &longer).is_err(), "{} with a byte more", sealed.name);
        }
    }

    #[test]
    fn arbitrary_bytes_are_an_error(seed: u64, noise in proptest::collection::vec(any::<u8>(), 0..200)) {
        let mut keys = keys(seed);
        for sealed in seal_all(&mut keys, b"something") {
            prop_assert!((sealed.open)(&keys, &noise).is_err(), "{}", sealed.name);
            // Behind a sound prefix, so that the noise reaches the cipher.
            let noise = [&sealed.bytes[..8], &noise].concat();
            prop_assert!((sealed.open)(&keys, &noise).is_err(), "{}", sealed.name);
        }
    }
}

#[test]
fn one_kind_never_passes_for_another() {
    let mut keys = keys(1);
    let all = seal_all(&mut keys, b"something");
    for (i, opened) in all.iter().enumerate() {
        for (j, offered) in all.iter().enumerate().filter(|(j, _)| *j != i) {
            assert!((opened.open)(&keys, &offered.bytes).is_err(), "{} for {} ({j})", offered.name, opened.name);
        }
    }
}

/// Contexts that differ from [`CONTEXT`] in one field each, but for the collection.
fn other_places() -> Vec<Context> {
    let mut places = vec![
        Context { shard: 4, ..CONTEXT },
        Context { frame: CONTEXT.frame + 1, ..CONTEXT },
        Context { frame: CONTEXT.frame << 64, ..CONTEXT },
        Context { version: 3, ..CONTEXT },
    ];
    let parts = [Part::Metadata, Part::Vectors, Part::Manifest, Part::Chunk(0), Part::Chunk(1)];
    places.extend(parts.map(|part| Context { part, ..CONTEXT }));
    places
}

#[test]
fn pieces_swapped_between_places_are_damaged() {
    let Keys { mut rng, layer, collection, owner, .. } = keys(2);
    let plain = b"a piece of a frame";
    for place in other_places() {
        let sealed = frame::seal(&collection, &place, plain, &mut rng);
        assert_eq!(frame::open(&collection, &CONTEXT, &sealed, MAX_LEN), Err(CryptoError::Damaged), "{place:?}");
        let sealed = private::seal_collection(&collection, &place, plain, &mut rng);
        let opened = private::open_collection(&collection, &CONTEXT, &sealed, MAX_LEN);
        assert_eq!(opened, Err(CryptoError::Damaged), "{place:?}");
        let sealed = private::seal_cluster(&layer, &place, plain, &mut rng);
        assert_eq!(private::open_cluster(&layer, &CONTEXT, &sealed, MAX_LEN), Err(CryptoError::Damaged), "{place:?}");
        let sealed = private::seal_owner(&owner, &place.owner(), plain, &mut rng);
        let opened = private::open_owner(&owner, &CONTEXT.owner(), &sealed, MAX_LEN);
        let moved = place.owner() != CONTEXT.owner();
        assert_eq!(opened.is_err(), moved, "{place:?}: the owner layer binds frame and part alone");
    }
    assert!(frame::open(&collection, &CONTEXT, &frame::seal(&collection, &CONTEXT, plain, &mut rng), MAX_LEN).is_ok());
}

#[test]
fn pieces_whose_fields_in_clear_were_altered_are_damaged() {
    let Keys { mut rng, layer, collection, .. } = keys(5);
    let bound = |beside| Bound { context: CONTEXT, beside };
    let (plain, beside) = (b"a piece of a frame", b"its times, tags and class");
    let sealed = frame::seal(&collection, bound(beside), plain, &mut rng);
    let layered = private::seal_cluster(&layer, bound(beside), plain, &mut rng);
    assert_eq!(frame::open(&collection, bound(beside), &sealed, MAX_LEN), Ok(plain.to_vec()));
    assert_eq!(private::open_cluster(&layer, bound(beside), &layered, MAX_LEN), Ok(plain.to_vec()));
    let mut others = vec![Vec::new(), beside[1..].to_vec(), [&beside[..], b"."].concat()];
    others.extend((0..beside.len() * 8).map(|bit| {
        let mut other = beside.to_vec();
        other[bit / 8] ^= 1 << (bit % 8);
        other
    }));
    for other in &others {
        assert_eq!(frame::open(&collection, bound(other), &sealed, MAX_LEN), Err(CryptoError::Damaged), "{other:?}");
        let opened = private::open_cluster(&layer, bound(other), &layered, MAX_LEN);
        assert_eq!(opened, Err(CryptoError::Damaged), "{other:?}");
    }
}

#[test]
fn chunks_swapped_within_a_frame_are_damaged() {
    let Keys { mut rng, collection, .. } = keys(8);
    let chunk = |n| Context { part: Part::Chunk(n), ..CONTEXT };
    let sealed = frame::seal(&collection, &chunk(1), b"the second chunk", &mut rng);
    assert!(frame::open(&collection, &chunk(1), &sealed, MAX_LEN).is_ok());
    for n in [0, 2, 1 << 8, 1 << 24] {
        assert_eq!(frame::open(&collection, &chunk(n), &sealed, MAX_LEN), Err(CryptoError::Damaged), "chunk {n}");
    }
}

#[test]
fn pieces_swapped_between_collections_are_damaged() {
    let Keys { mut rng, layer, collection, owner, .. } = keys(3);
    let place = Context { collection: 8, ..CONTEXT };
    let other = CollectionKey::generate(8, 1, &mut rng);
    let plain = b"a piece of a frame";

    let sealed = frame::seal(&other, &place, plain, &mut rng);
    assert_eq!(frame::open(&collection, &CONTEXT, &sealed, MAX_LEN), Err(CryptoError::Damaged));
    let sealed = private::seal_collection(&other, &place, plain, &mut rng);
    assert_eq!(private::open_collection(&collection, &CONTEXT, &sealed, MAX_LEN), Err(CryptoError::Damaged));
    let sealed = private::seal_cluster(&layer, &place, plain, &mut rng);
    assert_eq!(private::open_cluster(&layer, &CONTEXT, &sealed, MAX_LEN), Err(CryptoError::Damaged));
    let sealed = private::seal_owner(&owner, &place.owner(), plain, &mut rng);
    let opened = private::open_owner(&owner, &CONTEXT.owner(), &sealed, MAX_LEN);
    assert_eq!(opened, Err(CryptoError::Damaged));
}

#[test]
fn pages_swapped_between_places_are_damaged() {
    let Keys { mut rng, collection, .. } = keys(4);
    let sealer = PageSealer::new(&collection, FILE);
    let sealed = sealer.seal(PAGE, b"the end of a file", &mut rng);
    let open = |file, position| PageSealer::new(&collection, file).open(position, &sealed);
    assert!(open(FILE, PAGE).is_ok());
    assert_eq!(open(FILE + 1, PAGE), Err(CryptoError::Damaged));
    assert_eq!(open(FILE, PagePosition { number: 5, ..PAGE }), Err(CryptoError::Damaged));
    assert_eq!(open(FILE, PagePosition { last: false, ..PAGE }), Err(CryptoError::Damaged));
}

#[test]
fn records_swapped_between_places_are_damaged() {
    let Keys { mut rng, cluster, .. } = keys(5);
    let sealer = MetaSealer::new(&cluster);
    let sealed = sealer.seal_proposal(RECORD, b"a record", &mut rng);
    assert_eq!(sealer.open(b"collections/8", &sealed, MAX_LEN), Err(CryptoError::Damaged));
}

#[test]
fn wrapped_keys_swapped_between_places_are_damaged() {
    let Keys { mut rng, cluster, collection, layer, .. } = keys(6);
    let damaged = |result: Result<CollectionKey, CryptoError>| matches!(result, Err(CryptoError::Damaged));
    let wrapped = collection.wrap(&cluster, &mut rng);
    assert!(CollectionKey::unwrap(&wrapped, 7, 1, &cluster).is_ok());
    assert!(damaged(CollectionKey::unwrap(&wrapped, 8, 1, &cluster)));
    assert!(damaged(CollectionKey::unwrap(&wrapped, 7, 2, &cluster)));
    assert!(damaged(CollectionKey::unwrap(&layer.wrap(&cluster, &mut rng), 0, 1, &cluster)));
    let as_layer = CollectionKey::generate(0, 1, &mut rng).wrap(&cluster, &mut rng);
    assert!(matches!(ClusterLayerKey::unwrap(&as_layer, 1, &cluster), Err(CryptoError::Damaged)));
}

#[test]
fn a_flip_anywhere_in_a_passphrase_record_is_an_error() {
    let Keys { mut rng, owner, .. } = keys(7);
    let cost = mira_crypto::PassphraseCost { memory_kib: 8, passes: 1, lanes: 1 };
    let record = owner.protect("correct horse", cost, &mut rng).expect("protects");
    let opened = OwnerKey::from_passphrase("correct horse", &record).expect("opens");
    assert_eq!(*opened.to_text(), *owner.to_text());

    for at in 0..record.len() {
        for replacement in ["A", "z", "9", "$", ""] {
            let altered = format!("{}{replacement}{}", &record[..at], &record[at + 1..]);
            if altered != record {
                assert!(OwnerKey::from_passphrase("correct horse", &altered).is_err(), "{altered}");
            }
        }
    }
}
