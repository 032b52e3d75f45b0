//! Private frames on a node: what it keeps, what it gives out, and to whose requests it listens.

use bytes::Bytes;
use mira_proto::{Code, Problem, Refusal, node_v1};
use node_v1::forget_request::Scope;

use crate::common::{EAST, Shard, frame, number, start};

const ADA: [u8; 16] = [1; 16];
const EVE: [u8; 16] = [2; 16];

/// A private frame; for a node, sealed pieces are any bytes.
fn private(id: u128, owner: [u8; 16], said: &str) -> node_v1::FrameWrite {
    node_v1::FrameWrite {
        id: id.to_be_bytes().to_vec().into(),
        private: Some(node_v1::PrivateWrite {
            owner: owner.to_vec().into(),
            session: vec![9; 16].into(),
            digest: blake3::hash(said.as_bytes()).as_bytes().to_vec().into(),
            body: format!("sealed body of {said}").into(),
            vectors: format!("sealed vectors of {said}").into(),
        }),
        ..Default::default()
    }
}

fn replacing(frame: node_v1::FrameWrite) -> node_v1::FrameWrite {
    node_v1::FrameWrite { replace: true, ..frame }
}

async fn owned(shard: &Shard, owner: [u8; 16], known: u64, after: u128) -> node_v1::ListPrivateVectorsReply {
    let request = node_v1::ListPrivateVectorsRequest {
        header: Some(node_v1::ReadHeader {
            epoch: shard.epoch,
            shard: shard.shard,
            collection: shard.collection,
            ..Default::default()
        }),
        owner: owner.to_vec().into(),
        known,
        after: if after == 0 { Bytes::new() } else { after.to_be_bytes().to_vec().into() },
    };
    shard.client.clone().shards().list_private_vectors(request).await.expect("an answer").into_inner()
}

async fn forget(shard: &Shard, request: node_v1::ForgetRequest) -> Result<Vec<u128>, Code> {
    let request = node_v1::ForgetRequest {
        header: Some(node_v1::WriteHeader {
            epoch: shard.epoch,
            shard: shard.shard,
            collection: shard.collection,
            request_id: rand::random::<u128>().to_be_bytes().to_vec().into(),
            ..Default::default()
        }),
        ..request
    };
    match shard.client.clone().shards().forget(request).await.map_err(Refusal::from) {
        Ok(reply) => Ok(reply.into_inner().removed.iter().map(|id| number(id)).collect()),
        Err(Refusal::Problem(problem)) => Err(problem.code),
        Err(other) => panic!("{other:?}"),
    }
}

fn ids(reply: &node_v1::ListPrivateVectorsReply) -> Vec<(u128, bool)> {
    reply.frames.iter().map(|frame| (number(&frame.id), !frame.vectors.is_empty())).collect()
}

fn code(result: Result<u64, Problem>) -> Result<u64, Code> {
    result.map_err(|problem| problem.code)
}

#[tokio::test(flavor = "multi_thread")]
async fn pieces_come_back_as_their_owner_sealed_them_and_no_index_has_them() {
    let folder = tempfile::tempdir().unwrap();
    let (node, client) = start(folder.path()).await;
    let shard = Shard::new(client, "c").await;
    shard.one(frame(1, "plain", EAST)).await.unwrap();
    for id in 2..=5 {
        assert_eq!(code(shard.one(private(id, ADA, &format!("thought {id}"))).await), Ok(1));
    }
    shard.one(private(6, EVE, "another's")).await.unwrap();
    assert_eq!(shard.search(EAST, 10).await.unwrap().len(), 1, "no index has private frames");
    let frames = shard.fetch(&[3, 1]).await;
    assert_eq!(frames[0].private, "sealed body of thought 3");
    assert_eq!((&frames[0].content[..], &*frames[0].session, &*frames[0].metadata_json), (&b""[..], "", ""));
    assert_eq!(frames[1].private, "");

    let mine = owned(&shard, ADA, 0, 0).await;
    assert_eq!(ids(&mine), [(2, true), (3, true), (4, true), (5, true)]);
    assert_eq!(mine.frames[1].vectors, "sealed vectors of thought 3");
    assert_eq!(ids(&owned(&shard, ADA, 0, 3).await), [(4, true), (5, true)], "after a page");
    assert!(owned(&shard, ADA, mine.state.as_ref().expect("a state").applied, 0).await.unchanged);

    shard.one(private(7, EVE, "something else")).await.unwrap();
    assert!(
        owned(&shard, ADA, mine.state.as_ref().expect("a state").applied, 0).await.unchanged,
        "what others do changes nothing"
    );
    shard.one(replacing(private(4, ADA, "a second thought"))).await.unwrap();
    let changed = owned(&shard, ADA, mine.state.as_ref().expect("a state").applied, 0).await;
    assert_eq!(ids(&changed), [(2, false), (3, false), (4, true), (5, false)]);
    assert_eq!(changed.frames[2].vectors, "sealed vectors of a second thought");
    node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_its_owner_replaces_and_removes_a_private_frame() {
    let folder = tempfile::tempdir().unwrap();
    let (node, client) = start(folder.path()).await;
    let shard = Shard::new(client, "c").await;
    shard.one(private(1, ADA, "mine")).await.unwrap();
    assert_eq!(code(shard.one(private(1, ADA, "mine")).await), Ok(1), "the same again");
    assert_eq!(code(shard.one(private(1, ADA, "other")).await), Err(Code::Conflict));
    assert_eq!(code(shard.one(replacing(private(1, EVE, "hers"))).await), Err(Code::WrongOwnerKey));
    assert_eq!(code(shard.one(replacing(frame(1, "plain", EAST))).await), Err(Code::WrongOwnerKey));
    assert_eq!(code(shard.one(replacing(private(1, ADA, "better"))).await), Ok(2));

    let id = || vec![1u128.to_be_bytes().to_vec().into()];
    let by_id = |owner: &[u8]| node_v1::ForgetRequest { ids: id(), owner: owner.to_vec().into(), ..Default::default() };
    assert_eq!(forget(&shard, by_id(&[])).await, Err(Code::WrongOwnerKey));
    assert_eq!(forget(&shard, by_id(&EVE)).await, Err(Code::WrongOwnerKey));
    assert_eq!(forget(&shard, by_id(&ADA[..5])).await, Err(Code::InvalidArgument));
    assert_eq!(forget(&shard, by_id(&ADA)).await, Ok(vec![1]));
    assert!(owned(&shard, ADA, 0, 0).await.frames.is_empty());

    // A plain frame may become private; then its vectors are in no index any more.
    shard.one(frame(2, "plain", EAST)).await.unwrap();
    shard.one(replacing(private(2, ADA, "private now"))).await.unwrap();
    assert!(shard.search(EAST, 10).await.unwrap().is_empty());
    assert_eq!(ids(&owned(&shard, ADA, 0, 0).await), [(2, true)]);
    let session = node_v1::ForgetRequest {
        private_session: vec![9; 16].into(),
        owner: EVE.to_vec().into(),
        ..Default::default()
    };
    assert_eq!(forget(&shard, session).await, Ok(vec![]), "a session's name is no right to remove it");
    // Whoever empties the collection leaves what is not its own.
    shard.one(frame(3, "plain", EAST)).await.unwrap();
    shard.one(private(4, EVE, "hers")).await.unwrap();
    let all = |owner: &[u8]| node_v1::ForgetRequest { all: true, owner: owner.to_vec().into(), ..Default::default() };
    let reply = shard.forgotten(all(&[])).await;
    let removed: Vec<u128> = reply.removed.iter().map(|id| number(id)).collect();
    assert_eq!((removed, reply.private_left, reply.more), (vec![3], 2, false));
    let reply = shard.forgotten(node_v1::ForgetRequest { scope: Scope::FromBin.into(), ..all(&[]) }).await;
    assert_eq!((reply.removed.len(), reply.private_left), (1, 1), "frame 1 rests in the bin and is its owner's");
    let reply = shard.forgotten(all(&ADA)).await;
    let removed: Vec<u128> = reply.removed.iter().map(|id| number(id)).collect();
    assert_eq!((removed, reply.private_left), (vec![2], 1));
    assert_eq!(forget(&shard, all(&EVE)).await, Ok(vec![4]));
    node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_no_router_sends_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let (node, client) = start(folder.path()).await;
    let shard = Shard::new(client, "c").await;
    let with = |change: &dyn Fn(&mut node_v1::FrameWrite, &mut node_v1::PrivateWrite)| {
        let mut frame = private(1, ADA, "x");
        let mut sealed = frame.private.take().unwrap();
        change(&mut frame, &mut sealed);
        node_v1::FrameWrite { private: Some(sealed), ..frame }
    };
    let bad = [
        with(&|frame, _| frame.content = "in clear".into()),
        with(&|frame, _| frame.session = "in clear".into()),
        with(&|_, sealed| sealed.owner = vec![1; 15].into()),
        with(&|_, sealed| sealed.session = vec![1; 3].into()),
        with(&|_, sealed| sealed.digest = Bytes::new()),
        with(&|_, sealed| sealed.body = Bytes::new()),
    ];
    for frame in bad {
        assert_eq!(code(shard.one(frame).await), Err(Code::InvalidArgument));
    }
    let large = with(&|_, sealed| sealed.body = vec![0; 2 << 20].into());
    assert_eq!(code(shard.one(large).await), Err(Code::TooLarge));
    assert!(owned(&shard, ADA, 0, 0).await.frames.is_empty());
    node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_passphrase_record_is_kept_and_replaced_by_who_saw_it() {
    let folder = tempfile::tempdir().unwrap();
    let (node, client) = start(folder.path()).await;
    let mut rng = mira_crypto::os_rng();
    let cost = mira_crypto::PassphraseCost { memory_kib: 64, passes: 1, lanes: 1 };
    let mut record = || mira_crypto::OwnerKey::generate(&mut rng).protect("open sesame", cost, &mut rng).unwrap();
    let (first, second) = (record(), record());
    let owner = Bytes::from_static(&ADA);
    let get = node_v1::GetOwnerRequest { owner: owner.clone(), ..Default::default() };
    assert_eq!(client.keys().get_owner(get.clone()).await.unwrap().into_inner().record, "");
    let put = |record: &str, replaces: &str| node_v1::PutOwnerRequest {
        owner: owner.clone(),
        record: record.into(),
        replaces: replaces.into(),
        ..Default::default()
    };
    assert_eq!(client.keys().put_owner(put(&first, "")).await.unwrap().into_inner().record, first);
    assert_eq!(
        client.keys().put_owner(put(&second, "")).await.unwrap().into_inner().record,
        first,
        "another was quicker"
    );
    assert_eq!(client.keys().put_owner(put(&second, &first)).await.unwrap().into_inner().record, second);
    assert!(client.keys().put_owner(put("no record", &second)).await.is_err());
    assert_eq!(client.keys().get_owner(get.clone()).await.unwrap().into_inner().record, second);
    node.shutdown().await;
    let (node, client) = start(folder.path()).await;
    assert_eq!(client.keys().get_owner(get).await.unwrap().into_inner().record, second, "over a restart");
    node.shutdown().await;
}

mod layers {
    //! The two layers that a node adds, changed anywhere or put anywhere else.

    use mira_crypto::{ClusterKey, CollectionKey, Part};
    use mira_node::{
        keys::keyring::{FIRST_KEY, Keyring},
        meta::{ClusterState, CollectionRecord, state::ClusterHeader},
        shard::{read::private, record::FramePlace},
    };
    use proptest::prelude::*;

    struct Node {
        keyring: Keyring,
        cluster: ClusterState,
        collection: CollectionRecord,
    }

    fn node() -> Node {
        let keyring = Keyring::new(vec![ClusterKey::generate(&mut mira_crypto::os_rng())]);
        let layer_keys = [(FIRST_KEY, keyring.new_layer_key())].into();
        let cluster = ClusterState { header: ClusterHeader { layer_keys, ..Default::default() }, ..Default::default() };
        let collection =
            CollectionRecord { wrapped_keys: keyring.new_collection_keys(7), ..CollectionRecord::new(7, "c", 4) };
        Node { keyring, cluster, collection }
    }

    /// A body is bound to the fields beside it too.
    fn bound(place: &FramePlace, part: Part) -> mira_crypto::Bound<'static> {
        match part {
            Part::Body => place.body_bound(b"fields in clear"),
            _ => place.vectors_bound(),
        }
    }

    impl Node {
        fn seal(&self, place: FramePlace, part: Part, inner: &[u8]) -> Vec<u8> {
            let key: std::sync::Arc<CollectionKey> = self.keyring.current(&self.collection).unwrap();
            let layer = self.keyring.current_layer(&self.cluster).unwrap();
            private::seal(&key, &layer, bound(&place, part), inner, &mut mira_crypto::os_rng()).to_vec()
        }

        fn open(&self, place: FramePlace, part: Part, sealed: &[u8]) -> Option<Vec<u8>> {
            private::open(&self.keyring, &self.cluster, &self.collection, bound(&place, part), sealed).ok()
        }
    }

    const PLACE: FramePlace = FramePlace { collection: 7, shard: 3, frame: 11, version: 2 };

    #[test]
    fn a_piece_opens_only_where_it_belongs() {
        let node = node();
        let sealed = node.seal(PLACE, Part::Body, b"what the owner sealed");
        assert_eq!(node.open(PLACE, Part::Body, &sealed).unwrap(), b"what the owner sealed");
        for elsewhere in [
            FramePlace { shard: 4, ..PLACE },
            FramePlace { frame: 12, ..PLACE },
            FramePlace { version: 1, ..PLACE },
            FramePlace { version: 3, ..PLACE },
        ] {
            assert_eq!(node.open(elsewhere, Part::Body, &sealed), None, "{elsewhere:?}");
        }
        assert_eq!(node.open(PLACE, Part::Vectors, &sealed), None);
    }

    proptest! {
        #[test]
        fn a_byte_changed_anywhere_does_not_open(at in any::<prop::sample::Index>(), change in 1u8..) {
            let node = node();
            let mut sealed = node.seal(PLACE, Part::Vectors, b"what the owner sealed");
            let at = at.index(sealed.len());
            sealed[at] ^= change;
            prop_assert_eq!(node.open(PLACE, Part::Vectors, &sealed), None);
        }
    }
}
