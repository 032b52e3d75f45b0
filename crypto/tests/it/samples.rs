//! Data of format version 1 stays readable, and is still written the same way.
//!
//! `data/v1.txt` was made by `data/make_v1.py` from the documented layout, with other libraries than this crate's.

use std::collections::HashMap;

use base64::{Engine, engine::general_purpose::STANDARD};
use mira_crypto::{
    ClusterKey, ClusterLayerKey, CollectionKey, Context, CryptoError, IdSource, MetaSealer, OwnerKey, PageSealer, Part,
    WrappedKey, frame, page::PagePosition, private,
};
use rand::RngCore;

const CONTEXT: Context =
    Context { collection: 7, shard: 5, frame: 0x0192_f0c4_a5b6_7c8d_9e0f_1122_3344_5566, version: 9, part: Part::Body };
const TEXT: &[u8] = b"Ein Gedanke, den nur ich kenne.";
const FILE: u128 = 0xfeed_face;
const PAGE: PagePosition = PagePosition { number: 11, last: true };
const MAX_LEN: usize = 1_024;

/// Gives the nonce of every sample: the bytes 200, 201, …
struct SampleNonce;

impl RngCore for SampleNonce {
    fn next_u32(&mut self) -> u32 {
        unimplemented!("sealing asks for bytes")
    }
    fn next_u64(&mut self) -> u64 {
        unimplemented!("sealing asks for bytes")
    }
    fn fill_bytes(&mut self, bytes: &mut [u8]) {
        bytes.iter_mut().zip(200..).for_each(|(byte, value)| *byte = value);
    }
}

impl mira_crypto::CryptoRng for SampleNonce {}

struct Samples(HashMap<&'static str, Vec<u8>>);

impl Samples {
    fn read() -> Self {
        let lines = include_str!("data/v1.txt").lines().map(|line| line.split_once(' ').expect("name and hex"));
        Self(lines.map(|(name, hex)| (name, from_hex(hex))).collect())
    }

    fn get(&self, name: &str) -> &[u8] {
        &self.0[name]
    }

    fn cluster(&self) -> ClusterKey {
        ClusterKey::from_text(&secret_text(0)).expect("key")
    }

    fn owner(&self) -> OwnerKey {
        OwnerKey::from_text(&secret_text(64)).expect("key")
    }

    fn collection(&self) -> CollectionKey {
        let wrapped = WrappedKey::from_bytes(self.get("wrapped_collection_key")).expect("wrapped key");
        CollectionKey::unwrap(&wrapped, 7, 3, &self.cluster()).expect("opens")
    }

    fn layer(&self) -> ClusterLayerKey {
        let wrapped = WrappedKey::from_bytes(self.get("wrapped_cluster_layer_key")).expect("wrapped key");
        ClusterLayerKey::unwrap(&wrapped, 2, &self.cluster()).expect("opens")
    }
}

fn from_hex(hex: &str) -> Vec<u8> {
    let digits = |at: usize| u8::from_str_radix(&hex[at..at + 2], 16).expect("hex");
    (0..hex.len()).step_by(2).map(digits).collect()
}

/// The samples' keys are 32 consecutive numbers each.
fn secret_text(start: u8) -> String {
    STANDARD.encode((start..start + 32).collect::<Vec<u8>>())
}

#[test]
fn keys_have_their_names() {
    let samples = Samples::read();
    assert_eq!(samples.cluster().id().as_bytes(), samples.get("cluster_key_id"));
    assert_eq!(samples.collection().id().as_bytes(), samples.get("collection_key_id"));
    assert_eq!(samples.owner().id().as_bytes(), samples.get("owner_key_id"));
}

#[test]
fn wrapped_keys_are_written_as_before() {
    let samples = Samples::read();
    let (cluster, rng) = (samples.cluster(), &mut SampleNonce);
    assert_eq!(samples.collection().wrap(&cluster, rng).as_bytes(), samples.get("wrapped_collection_key"));
    assert_eq!(samples.layer().wrap(&cluster, rng).as_bytes(), samples.get("wrapped_cluster_layer_key"));
}

#[test]
fn frames_open_and_are_written_as_before() {
    let samples = Samples::read();
    let key = samples.collection();
    for (name, part, plain) in [("frame_body", Part::Body, TEXT), ("frame_metadata", Part::Metadata, b"{}")] {
        let context = Context { part, ..CONTEXT };
        assert_eq!(frame::open(&key, &context, samples.get(name), MAX_LEN), Ok(plain.to_vec()), "{name}");
        assert_eq!(frame::seal(&key, &context, plain, &mut SampleNonce), samples.get(name), "{name}");
    }
}

#[test]
fn a_compressed_chunk_opens() {
    // Not sealed again for comparison: another release of lz4 may find another, equally valid block.
    let samples = Samples::read();
    let context = Context { part: Part::Chunk(42), ..CONTEXT };
    let (key, sealed) = (samples.collection(), samples.get("frame_chunk_compressed"));
    assert_eq!(frame::open(&key, &context, sealed, MAX_LEN), Ok(vec![b'a'; 500]));
    assert_eq!(frame::open(&key, &context, sealed, 499), Err(CryptoError::TooLarge { len: 500, max: 499 }));
}

#[test]
fn pages_and_meta_records_open_and_are_written_as_before() {
    let samples = Samples::read();
    let pages = PageSealer::new(&samples.collection(), FILE);
    assert_eq!(pages.open(PAGE, samples.get("page")), Ok(TEXT.to_vec()));
    assert_eq!(pages.seal(PAGE, TEXT, &mut SampleNonce), samples.get("page"));
    let meta = MetaSealer::new(&samples.cluster());
    assert_eq!(meta.open(b"collections/7", samples.get("meta"), MAX_LEN), Ok(TEXT.to_vec()));
    assert_eq!(meta.seal_proposal(b"collections/7", TEXT, &mut SampleNonce), samples.get("meta"));
}

#[test]
fn private_layers_open_and_are_written_as_before() {
    let samples = Samples::read();
    let (owner, collection, layer) = (samples.owner(), samples.collection(), samples.layer());
    let [inner, middle, outer] =
        ["private_owner", "private_collection", "private_cluster"].map(|name| samples.get(name));

    assert_eq!(private::open_cluster(&layer, &CONTEXT, outer, MAX_LEN).as_deref(), Ok(middle));
    assert_eq!(private::open_collection(&collection, &CONTEXT, middle, MAX_LEN).as_deref(), Ok(inner));
    let opened = private::open_owner(&owner, &CONTEXT.owner(), inner, MAX_LEN).expect("owner layer");
    assert_eq!(opened.as_slice(), TEXT);

    let rng = &mut SampleNonce;
    assert_eq!(private::seal_owner(&owner, &CONTEXT.owner(), TEXT, rng), inner);
    assert_eq!(private::seal_collection(&collection, &CONTEXT, inner, rng), middle);
    assert_eq!(private::seal_cluster(&layer, &CONTEXT, middle, rng), outer);
}

#[test]
fn tags_and_digests_stay_the_same() {
    let samples = Samples::read();
    let key = samples.collection();
    assert_eq!(key.tag("session", b"s-1"), samples.get("tag"));
    assert_eq!(key.content_digest(TEXT), samples.get("content_digest"));
}

#[test]
fn placement_stays_the_same() {
    let samples = Samples::read();
    let (key, owner) = (samples.collection().placement_key(), samples.owner());
    assert_eq!(*key.to_bytes(), samples.get("placement_key"));
    assert_eq!(key.session_digest("s-1").to_be_bytes(), samples.get("session_digest"));
    assert_eq!(key.private_session_digest(&owner, "s-1").to_be_bytes(), samples.get("private_session_digest"));
    let plain = IdSource { purpose: "idempotency-key", principal: "ada", key: "k-1", position: 2, owner: None };
    let private = IdSource { owner: Some(&owner), ..plain };
    assert_eq!(key.derived_id_bits(&plain).to_be_bytes(), samples.get("derived_id_bits"));
    assert_eq!(key.derived_id_bits(&private).to_be_bytes(), samples.get("private_derived_id_bits"));
}

#[test]
fn a_passphrase_record_opens() {
    let samples = Samples::read();
    let record = std::str::from_utf8(samples.get("passphrase_record")).expect("text");
    let opened = OwnerKey::from_passphrase("correct horse", record).expect("opens");
    assert_eq!(*opened.to_text(), secret_text(64));
}
