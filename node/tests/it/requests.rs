//! Changes of the cluster that come again under one request id: each is carried out once, and answered alike.

use std::time::Duration;

use bytes::Bytes;
use mira_proto::{Code, Problem, Refusal, node_v1};
use mira_testing::eventually;
use tonic::{Response, Status};

use crate::common::{DIM, NodeClients, start};

const PATIENCE: Duration = Duration::from_secs(60);

fn id(number: u8) -> Bytes {
    vec![number; 16].into()
}

fn said<T>(answer: Result<Response<T>, Status>) -> Result<T, Problem> {
    answer.map(Response::into_inner).map_err(|status| match Refusal::from(status) {
        Refusal::Problem(problem) => problem,
        other => panic!("no answer: {other:?}"),
    })
}

async fn create(client: &NodeClients, request_id: Bytes) -> Result<node_v1::Collection, Problem> {
    let request = node_v1::CreateCollectionRequest {
        name: "c".into(),
        dim: DIM,
        metric: node_v1::Metric::Cosine.into(),
        quantization: node_v1::Quantization::Int8.into(),
        partitions: 1,
        request_id,
        ..Default::default()
    };
    said(client.cluster().create_collection(request).await)
}

async fn remove(client: &NodeClients, shred: bool, id: Bytes) -> Result<node_v1::DropCollectionReply, Problem> {
    let request = node_v1::DropCollectionRequest { name: "c".into(), shred, request_id: id };
    said(client.cluster().drop_collection(request).await)
}

async fn rotate(client: &NodeClients, request_id: Bytes) -> Result<node_v1::RotateKeyReply, Problem> {
    let request = node_v1::RotateKeyRequest { collection: "c".into(), request_id, own: true };
    said(client.keys().rotate_key(request).await)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_that_comes_again_is_carried_out_once_and_answered_alike_over_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let (node, client) = start(folder.path()).await;
    let code = |answer: Problem| answer.code;
    let made = create(&client, id(1)).await.unwrap();
    assert_eq!(create(&client, id(1)).await.unwrap(), made);

    let rotation = rotate(&client, id(2)).await.unwrap();
    eventually("the rotation is over", PATIENCE, async || {
        let keys = client.keys().get_keys(node_v1::GetKeysRequest::default()).await.unwrap().into_inner();
        keys.collections.iter().all(|collection| collection.rotation.is_none())
    })
    .await;
    assert_eq!(rotate(&client, id(2)).await.unwrap(), rotation, "it has ended, and is not begun again");
    assert_ne!(rotate(&client, id(3)).await.unwrap().id, rotation.id);

    let gone = remove(&client, false, id(4)).await.unwrap();
    assert_eq!(gone.collection, made.id);
    assert_eq!(remove(&client, false, id(4)).await.unwrap(), gone);
    for other in [Bytes::new(), id(5)] {
        assert_eq!(remove(&client, false, other).await.map_err(code), Err(Code::NotFound));
    }
    assert_eq!(remove(&client, false, Bytes::from_static(b"short")).await.map_err(code), Err(Code::InvalidArgument));

    // Whoever asks again means the one that is gone, whatever has its name since.
    let late = create(&client, id(1)).await.unwrap();
    assert_eq!(late, node_v1::Collection { placement_key: Bytes::new(), ..made.clone() });
    let second = create(&client, id(6)).await.unwrap();
    assert_ne!(second.id, made.id);
    assert_eq!(remove(&client, false, id(4)).await.unwrap(), gone);
    let named = node_v1::GetCollectionRequest { name: "c".into() };
    let there = client.cluster().get_collection(named).await.unwrap().into_inner().collection.unwrap();
    assert_eq!(there.id, second.id);
    let shredded = remove(&client, true, id(7)).await.unwrap();
    assert!(shredded.erasure != 0 && shredded.collection == second.id, "{shredded:?}");
    assert_eq!(remove(&client, true, id(7)).await.unwrap(), shredded);

    node.shutdown().await;
    let (node, client) = start(folder.path()).await;
    assert_eq!(remove(&client, false, id(4)).await.unwrap(), gone);
    assert_eq!(remove(&client, true, id(7)).await.unwrap(), shredded);
    assert_eq!(rotate(&client, id(2)).await.unwrap(), rotation);
    node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_removal_of_a_passphrase_record_is_known_by_its_request() {
    let folder = tempfile::tempdir().unwrap();
    let (node, client) = start(folder.path()).await;
    let cost = mira_crypto::PassphraseCost { memory_kib: 64, passes: 1, lanes: 1 };
    let mut rng = mira_crypto::os_rng();
    let record = mira_crypto::OwnerKey::generate(&mut rng).protect("open sesame", cost, &mut rng).unwrap();
    let put = async |record: &str, replaces: &str, request_id: Bytes| {
        let (owner, record, replaces) = (id(9), record.to_owned(), replaces.to_owned());
        client.keys().put_owner(node_v1::PutOwnerRequest { owner, record, replaces, request_id }).await.unwrap();
    };
    let ask = async |request_id: Bytes| {
        client.keys().get_owner(node_v1::GetOwnerRequest { owner: id(9), request_id }).await.unwrap().into_inner()
    };
    put(&record, "", Bytes::new()).await;
    assert!(!ask(id(1)).await.carried_out);
    put("", "another", id(1)).await;
    assert!(!ask(id(1)).await.carried_out, "it replaced nothing");
    put("", &record, id(1)).await;
    assert_eq!(ask(id(1)).await, node_v1::OwnerReply { record: String::new(), carried_out: true });
    assert!(!ask(id(2)).await.carried_out && !ask(Bytes::new()).await.carried_out);
    node.shutdown().await;
}
