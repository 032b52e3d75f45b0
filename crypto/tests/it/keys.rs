//! Which key opens what, how a wrong one is told apart from damage, and that keys never show.

use crate::common::{CONTEXT, Keys, MAX_LEN, keys};
use mira_crypto::{
    ClusterKey, ClusterLayerKey, CollectionKey, CryptoError, KeyName, MetaSealer, OwnerKey, PageSealer, Part,
    PassphraseCost, WrappedKey, frame, meta,
    page::{self, PagePosition},
    private,
};

const CHEAP: PassphraseCost = PassphraseCost { memory_kib: 64, passes: 2, lanes: 1 };

#[test]
fn another_cluster_key_is_wrong_not_damage() {
    let Keys { mut rng, cluster, collection, layer, .. } = keys(1);
    let other = ClusterKey::generate(&mut rng);
    let wrong = CryptoError::WrongKey { sealed_under: KeyName::Id(cluster.id()), offered: KeyName::Id(other.id()) };

    let wrapped = collection.wrap(&cluster, &mut rng);
    assert_eq!(wrapped.cluster_key_id(), cluster.id());
    assert_eq!(CollectionKey::unwrap(&wrapped, 7, 1, &other).err(), Some(wrong.clone()));
    assert_eq!(ClusterLayerKey::unwrap(&layer.wrap(&cluster, &mut rng), 1, &other).err(), Some(wrong.clone()));
    let record = MetaSealer::new(&cluster).seal_proposal(b"", b"record", &mut rng);
    assert_eq!(meta::key_id(&record), Ok(cluster.id()));
    assert_eq!(MetaSealer::new(&other).open(b"", &record, MAX_LEN), Err(wrong));
}

#[test]
fn another_version_of_a_key_is_wrong_not_damage() {
    let Keys { mut rng, layer, collection, .. } = keys(2);
    let newer = CollectionKey::generate(CONTEXT.collection, 2, &mut rng);
    let wrong = CryptoError::WrongKey { sealed_under: KeyName::Version(1), offered: KeyName::Version(2) };

    let sealed = frame::seal(&collection, &CONTEXT, b"old", &mut rng);
    assert_eq!(frame::key_version(&sealed), Ok(1));
    assert_eq!(frame::open(&newer, &CONTEXT, &sealed, MAX_LEN), Err(wrong.clone()));

    let position = PagePosition { number: 0, last: true };
    let sealed = PageSealer::new(&collection, 1).seal(position, b"old", &mut rng);
    assert_eq!(page::key_version(&sealed), Ok(1));
    assert_eq!(PageSealer::new(&newer, 1).open(position, &sealed), Err(wrong.clone()));

    let sealed = private::seal_collection(&collection, &CONTEXT, b"old", &mut rng);
    assert_eq!(private::collection_key_version(&sealed), Ok(1));
    assert_eq!(private::open_collection(&newer, &CONTEXT, &sealed, MAX_LEN), Err(wrong.clone()));

    let sealed = private::seal_cluster(&layer, &CONTEXT, b"old", &mut rng);
    assert_eq!(private::cluster_layer_version(&sealed), Ok(1));
    let newer = ClusterLayerKey::generate(2, &mut rng);
    assert_eq!(private::open_cluster(&newer, &CONTEXT, &sealed, MAX_LEN), Err(wrong));
}

#[test]
fn a_context_of_another_collection_names_the_mix_up() {
    let Keys { mut rng, collection, .. } = keys(3);
    let sealed = frame::seal(&collection, &CONTEXT, b"text", &mut rng);
    let elsewhere = mira_crypto::Context { collection: 8, ..CONTEXT };
    let wrong = CryptoError::WrongKey { sealed_under: KeyName::Collection(8), offered: KeyName::Collection(7) };
    assert_eq!(frame::open(&collection, &elsewhere, &sealed, MAX_LEN), Err(wrong));
}

#[test]
fn unknown_versions_are_named_before_any_key_is_tried() {
    let Keys { mut rng, collection, .. } = keys(4);
    let sealed = frame::seal(&collection, &CONTEXT, b"text", &mut rng);
    for (at, value, field) in [(1, 2, "format version"), (2, 9, "algorithm"), (3, 2, "flags")] {
        let mut newer = sealed.clone();
        newer[at] = value;
        let unknown = CryptoError::UnknownVersion { field, found: value };
        assert_eq!(frame::open(&collection, &CONTEXT, &newer, MAX_LEN), Err(unknown.clone()));
        assert_eq!(frame::key_version(&newer), Err(unknown));
    }
    assert_eq!(frame::key_version(&[]), Err(CryptoError::Truncated { len: 0, least: frame::OVERHEAD }));
}

#[test]
fn rewrapping_keeps_the_key() {
    let Keys { mut rng, cluster, collection, .. } = keys(5);
    let next = ClusterKey::generate(&mut rng);
    let wrapped = collection.wrap(&cluster, &mut rng);
    let rewrapped = CollectionKey::unwrap(&wrapped, 7, 1, &cluster).expect("opens").wrap(&next, &mut rng);
    let stored = WrappedKey::from_bytes(rewrapped.as_bytes()).expect("reads back");
    let again = CollectionKey::unwrap(&stored, 7, 1, &next).expect("opens");
    assert_eq!(again.id(), collection.id());
    let sealed = frame::seal(&collection, &CONTEXT, b"text", &mut rng);
    assert_eq!(frame::open(&again, &CONTEXT, &sealed, MAX_LEN), Ok(b"text".to_vec()));
}

#[test]
fn limits_hold_for_plain_and_compressed_content() {
    let Keys { mut rng, collection, owner, .. } = keys(6);
    let bomb = vec![0; 1 << 22];
    let sealed = frame::seal(&collection, &CONTEXT, &bomb, &mut rng);
    assert!(sealed.len() < 20_000, "a run compresses");
    let too_large = |len, max| CryptoError::TooLarge { len, max };
    assert_eq!(frame::open(&collection, &CONTEXT, &sealed, 1 << 20), Err(too_large(1 << 22, 1 << 20)));
    assert_eq!(frame::open(&collection, &CONTEXT, &sealed, 1 << 22), Ok(bomb.clone()));

    let sealed = private::seal_owner(&owner, &CONTEXT.owner(), &bomb, &mut rng);
    let opened = private::open_owner(&owner, &CONTEXT.owner(), &sealed, 1 << 20);
    assert_eq!(opened, Err(too_large(1 << 22, 1 << 20)));

    let sealed = frame::seal(&collection, &CONTEXT, b"0123456789", &mut rng);
    assert_eq!(frame::open(&collection, &CONTEXT, &sealed, 9), Err(too_large(10, 9)));
    assert!(frame::open(&collection, &CONTEXT, &sealed, 10).is_ok());
}

#[test]
fn vectors_are_not_compressed_and_overhead_is_as_documented() {
    let Keys { mut rng, collection, cluster, .. } = keys(7);
    let vectors = mira_crypto::Context { part: Part::Vectors, ..CONTEXT };
    let zeros = vec![0; 1_536];
    assert_eq!(frame::seal(&collection, &vectors, &zeros, &mut rng).len(), 1_536 + frame::OVERHEAD);
    assert_eq!((frame::OVERHEAD, page::OVERHEAD, meta::OVERHEAD, private::OWNER_OVERHEAD), (36, 36, 40, 48));
    assert_eq!(private::OVERHEAD, 48 + 48 + 36);
    assert_eq!(collection.wrap(&cluster, &mut rng).as_bytes().len(), 72);
}

#[test]
fn meta_sealing_is_a_function_of_its_inputs() {
    let Keys { mut rng, cluster, .. } = keys(8);
    let (leader, follower) = (MetaSealer::new(&cluster), MetaSealer::new(&cluster));
    let nonce = meta::position_nonce(41, 0);
    assert_eq!(leader.seal(&nonce, b"key", b"value"), follower.seal(&nonce, b"key", b"value"));
    assert_ne!(leader.seal(&nonce, b"key", b"value"), leader.seal(&meta::position_nonce(41, 1), b"key", b"value"));
    assert_ne!(leader.seal(&nonce, b"key", b"value"), leader.seal(&meta::position_nonce(42, 0), b"key", b"value"));
    assert_ne!(leader.seal_proposal(b"", b"x", &mut rng), leader.seal_proposal(b"", b"x", &mut rng));
}

#[test]
fn the_same_seed_seals_the_same_bytes() {
    let seal = |seed| {
        let Keys { mut rng, collection, .. } = keys(seed);
        frame::seal(&collection, &CONTEXT, b"text", &mut rng)
    };
    assert_eq!(seal(9), seal(9));
    assert_ne!(seal(9), seal(10));
}

#[test]
fn tags_are_equal_for_equal_values_of_one_domain_and_key() {
    let Keys { mut rng, collection, .. } = keys(11);
    let newer = CollectionKey::generate(7, 2, &mut rng);
    let tag = collection.tag("session", b"s-1");
    assert_eq!(tag, collection.tag("session", b"s-1"));
    assert_ne!(tag, collection.tag("session", b"s-2"));
    assert_ne!(tag, collection.tag("agent", b"s-1"));
    assert_ne!(collection.tag("ab", b"c"), collection.tag("a", b"bc"));
    assert_ne!(tag, newer.tag("session", b"s-1"));
}

#[test]
fn a_digest_in_pieces_is_the_digest_of_the_whole() {
    let Keys { collection, .. } = keys(12);
    let mut hasher = collection.content_hasher();
    hasher.update(b"one ");
    hasher.update(b"two");
    assert_eq!(hasher.finish(), collection.content_digest(b"one two"));
    assert_ne!(collection.content_digest(b"one two")[..16], collection.tag("", b"one two"));
}

#[test]
fn a_private_frame_needs_all_three_keys() {
    let Keys { mut rng, layer, collection, owner, .. } = keys(13);
    let text = "Ich habe heute etwas verstanden. ".repeat(30);
    let inner = private::seal_owner(&owner, &CONTEXT.owner(), text.as_bytes(), &mut rng);
    assert!(inner.len() < text.len(), "compressed before the first layer");
    let middle = private::seal_collection(&collection, &CONTEXT, &inner, &mut rng);
    let outer = private::seal_cluster(&layer, &CONTEXT, &middle, &mut rng);

    let opened = private::open_cluster(&layer, &CONTEXT, &outer, MAX_LEN).expect("cluster layer");
    assert_eq!(opened, middle);
    let opened = private::open_collection(&collection, &CONTEXT, &opened, MAX_LEN).expect("collection layer");
    assert_eq!(opened, inner);
    let opened = private::open_owner(&owner, &CONTEXT.owner(), &opened, MAX_LEN).expect("owner layer");
    assert_eq!(opened.as_slice(), text.as_bytes());

    let stranger = OwnerKey::generate(&mut rng);
    let opened = private::open_owner(&stranger, &CONTEXT.owner(), &inner, MAX_LEN);
    assert_eq!(opened, Err(CryptoError::WrongOwnerKey));
    let mut damaged = inner.clone();
    *damaged.last_mut().expect("not empty") ^= 1;
    let opened = private::open_owner(&owner, &CONTEXT.owner(), &damaged, MAX_LEN);
    assert_eq!(opened, Err(CryptoError::Damaged));
}

#[test]
fn two_private_pieces_do_not_show_that_they_share_an_owner() {
    let Keys { mut rng, owner, .. } = keys(14);
    let mut check_value = || private::seal_owner(&owner, &CONTEXT.owner(), b"thought", &mut rng)[4..20].to_vec();
    assert_ne!(check_value(), check_value());
}

#[test]
fn a_passphrase_gives_the_key_back_and_may_be_changed() {
    let Keys { mut rng, owner, .. } = keys(15);
    let record = owner.protect("correct horse", CHEAP, &mut rng).expect("protects");
    assert!(record.starts_with("$argon2id$v=19$m=64,t=2,p=1$"), "{record}");
    let opened = OwnerKey::from_passphrase("correct horse", &record).expect("opens");
    assert_eq!(opened.id(), owner.id());
    let wrong = OwnerKey::from_passphrase("battery staple", &record).err();
    assert_eq!(wrong, Some(CryptoError::WrongOwnerKey));

    let dearer = PassphraseCost { passes: 3, ..CHEAP };
    assert!(PassphraseCost::of_record(&record).expect("reads").is_below(&dearer));
    let upgraded = opened.protect("battery staple", dearer, &mut rng).expect("protects");
    assert_eq!(PassphraseCost::of_record(&upgraded), Ok(dearer));
    assert_eq!(OwnerKey::from_passphrase("battery staple", &upgraded).expect("opens").id(), owner.id());
}

#[test]
fn bad_passphrase_records_are_named() {
    let Keys { mut rng, owner, .. } = keys(16);
    assert_eq!(owner.protect("", CHEAP, &mut rng), Err(CryptoError::EmptyPassphrase));
    for cost in [
        PassphraseCost { memory_kib: PassphraseCost::LIMIT.memory_kib + 1, ..CHEAP },
        PassphraseCost { memory_kib: 7, ..CHEAP },
        PassphraseCost { passes: 0, ..CHEAP },
        PassphraseCost { passes: 17, ..CHEAP },
        PassphraseCost { lanes: 0, ..CHEAP },
        PassphraseCost { lanes: 17, memory_kib: 1_024, ..CHEAP },
    ] {
        let refused = owner.protect("correct horse", cost, &mut rng);
        assert!(matches!(refused, Err(CryptoError::PassphraseCost { .. })), "{cost:?}");
    }

    let record = owner.protect("correct horse", CHEAP, &mut rng).expect("protects");
    let open = |record: &str| OwnerKey::from_passphrase("correct horse", record).err();
    let malformed = |record: &str| matches!(open(record), Some(CryptoError::PassphraseRecord { .. }));
    assert!(malformed(""));
    assert!(malformed("$argon2id$v=19$m=64,t=2,p=1"));
    assert!(malformed(&record.replace("argon2id", "argon2i")));
    assert!(malformed(&record.replace("v=19", "v=16")));
    assert!(malformed(&record.replace("m=64", "m=064")));
    assert!(malformed(&record.replace("t=2,", "")));
    let greedy = record.replace("m=64", "m=4194304");
    assert!(matches!(open(&greedy), Some(CryptoError::PassphraseCost { .. })));
    let cheaper = record.replace("t=2", "t=1");
    assert_eq!(open(&cheaper), Some(CryptoError::WrongOwnerKey), "another cost stretches to another key");
}

#[test]
fn debug_never_prints_a_key() {
    let Keys { mut rng, cluster, layer, collection, owner } = keys(17);
    let wrapped = collection.wrap(&cluster, &mut rng);
    assert_eq!(format!("{cluster:?}"), format!("ClusterKey({})", cluster.id()));
    assert_eq!(format!("{layer:?}"), format!("ClusterLayerKey(version 1, {})", layer.id()));
    assert_eq!(format!("{collection:?}"), format!("CollectionKey(7 version 1, {})", collection.id()));
    assert_eq!(format!("{owner:?}"), format!("OwnerKey({})", owner.id()));
    assert_eq!(format!("{wrapped:?}"), format!("WrappedKey(under {})", cluster.id()));
    assert_eq!(format!("{:?}", MetaSealer::new(&cluster)), format!("MetaSealer({})", cluster.id()));
    assert_eq!(format!("{:?}", collection.content_hasher()), "ContentHasher");
}

#[test]
#[should_panic(expected = "own collection's key")]
fn sealing_for_another_collection_is_a_callers_mistake() {
    let Keys { mut rng, collection, .. } = keys(18);
    frame::seal(&collection, &mira_crypto::Context { collection: 8, ..CONTEXT }, b"text", &mut rng);
}
