//! gRPC: the operations, and streaming ingest.

use mira_crypto::PassphraseCost;
use mira_proto::v1::admin_client::AdminClient;
use mira_proto::v1::memory_client::MemoryClient;
use mira_proto::{Code, Problem, v1};
use tonic::transport::Channel;

use crate::client::World;
use crate::errors::authorized;

pub async fn client(world: &World) -> MemoryClient<Channel> {
    MemoryClient::connect(format!("http://{}", world.router.grpc_addr)).await.unwrap()
}

fn item(content: &str) -> v1::StoreRequest {
    v1::StoreRequest { content: Some(content.into()), ..Default::default() }
}

#[tokio::test]
async fn what_grpc_stores_grpc_finds_recalls_and_forgets() {
    let world = World::new().await;
    let mut client = client(&world).await;
    let tea = v1::StoreRequest { metadata_json: r#"{"n":1}"#.into(), session: "s".into(), ..item("green tea") };
    let stored = client.store(authorized(tea)).await.unwrap().into_inner();
    assert_eq!(stored.version, 1);
    let search = v1::SearchRequest { query: "tea".into(), ..Default::default() };
    let found = client.search(authorized(search)).await.unwrap().into_inner();
    let frame = found.hits[0].frame.clone().unwrap();
    assert_eq!((frame.id.as_str(), frame.content.as_deref()), (stored.id.as_str(), Some("green tea")));
    assert_eq!((frame.metadata_json.as_str(), frame.session.as_str()), (r#"{"n":1}"#, "s"));
    assert_eq!(found.hits[0].vector.as_ref().unwrap().rank, 1);
    let recall = v1::RecallRequest { session: "s".into(), ..Default::default() };
    assert_eq!(client.recall(authorized(recall)).await.unwrap().into_inner().frames, [frame]);
    let forget = v1::ForgetRequest { ids: vec![stored.id.clone()], ..Default::default() };
    assert_eq!(client.forget(authorized(forget)).await.unwrap().into_inner().ids, [stored.id]);
    let status = client.status(authorized(v1::StatusRequest::default())).await.unwrap().into_inner();
    let status: serde_json::Value = serde_json::from_str(&status.status_json).unwrap();
    assert_eq!((&status["state"], &status["frames"]), (&"ok".into(), &0.into()));
}

#[tokio::test]
async fn bytes_stay_bytes() {
    let world = World::new().await;
    let mut client = client(&world).await;
    let opaque = v1::StoreRequest { bytes: Some(vec![0, 255, 1].into()), ..Default::default() };
    let id = client.store(authorized(opaque)).await.unwrap().into_inner().id;
    let recall = v1::RecallRequest { ids: vec![id], ..Default::default() };
    let frames = client.recall(authorized(recall)).await.unwrap().into_inner().frames;
    assert_eq!((frames[0].bytes.as_deref(), frames[0].content.as_deref()), (Some(&[0, 255, 1][..]), None));
}

#[tokio::test]
async fn a_batch_says_which_items_failed() {
    let world = World::new().await;
    let mut client = client(&world).await;
    let items = vec![item("a"), item(""), v1::StoreRequest { id: "7".into(), ..item("b") }, item("c")];
    let reply = client.store_batch(authorized(v1::StoreBatchRequest { items })).await.unwrap().into_inner();
    let codes: Vec<_> =
        reply.items.iter().map(|item| item.problem.as_ref().map_or("", |problem| problem.code.as_str())).collect();
    assert_eq!(codes, ["", "invalid_argument", "invalid_argument", ""]);
    assert_eq!(world.fake.frame_count(), 2);
}

#[tokio::test]
async fn a_stream_of_any_length_is_stored_and_answered_in_order() {
    let world = World::new().await;
    let mut client = client(&world).await;
    let count = 1_500;
    let items = (0..count).map(|n| if n % 100 == 7 { item(" ") } else { item(&format!("item {n}")) });
    let replies = client.ingest(authorized(tokio_stream::iter(items))).await.unwrap().into_inner();
    let replies: Vec<v1::ItemReply> = tokio_stream::StreamExt::collect::<Result<_, _>>(replies).await.unwrap();
    assert_eq!(replies.len(), count);
    for (n, reply) in replies.iter().enumerate() {
        assert_eq!(reply.problem.is_some(), n % 100 == 7, "{n}: {reply:?}");
    }
    assert_eq!(world.fake.frame_count(), count - 15);
    let ids = [0, 500, 1_499].map(|n: usize| replies[n].id.clone()).to_vec();
    let recall = v1::RecallRequest { ids, ..Default::default() };
    let frames = client.recall(authorized(recall)).await.unwrap().into_inner().frames;
    let contents: Vec<_> = frames.iter().map(|frame| frame.content.as_deref().unwrap()).collect();
    assert_eq!(contents, ["item 0", "item 500", "item 1499"]);
}

#[tokio::test]
async fn a_stream_sent_again_under_its_key_adds_nothing() {
    let world = World::new().await;
    let mut client = client(&world).await;
    let mut ids: Vec<Vec<String>> = Vec::new();
    for _ in 0..2 {
        let mut request = authorized(tokio_stream::iter((0..600).map(|n| item(&format!("item {n}")))));
        request.metadata_mut().insert("idempotency-key", "stream-1".parse().unwrap());
        let replies = client.ingest(request).await.unwrap().into_inner();
        let replies: Vec<v1::ItemReply> = tokio_stream::StreamExt::collect::<Result<_, _>>(replies).await.unwrap();
        assert!(replies.iter().all(|reply| reply.version == 1), "{replies:?}");
        ids.push(replies.into_iter().map(|reply| reply.id).collect());
    }
    assert_eq!(ids[0], ids[1]);
    assert_eq!(world.fake.frame_count(), 600);
}

#[tokio::test]
async fn collections_are_managed_over_grpc() {
    let world = World::new().await;
    let mut admin = AdminClient::connect(format!("http://{}", world.router.grpc_addr)).await.unwrap();
    let put = v1::PutCollectionRequest { name: "c".into(), dim: 4, metric: "dot".into(), ..Default::default() };
    let made = admin.put_collection(authorized(put)).await.unwrap().into_inner();
    assert_eq!((made.dim, made.metric.as_str(), made.quantization.as_str()), (4, "dot", "int8"));
    let get = v1::GetCollectionRequest { name: "c".into() };
    assert_eq!(admin.get_collection(authorized(get.clone())).await.unwrap().into_inner(), made);
    let list = admin.list_collections(authorized(v1::ListCollectionsRequest {})).await.unwrap().into_inner();
    assert_eq!(list.collections, [made]);
    let tune = v1::TuneCollectionRequest { name: "c".into(), recall: Some(0.9), ..Default::default() };
    let tuned = admin.tune_collection(authorized(tune)).await.unwrap().into_inner();
    assert_eq!(tuned, v1::TuneCollectionReply { scanned: true, ..Default::default() }, "nothing is stored in it");
    admin.delete_collection(authorized(v1::DeleteCollectionRequest { name: "c".into() })).await.unwrap();
    assert_eq!(admin.get_collection(authorized(get)).await.unwrap_err().code(), tonic::Code::NotFound);
}

#[tokio::test]
async fn keys_and_backups_are_managed_over_grpc() {
    let world = World::new().await;
    let mut admin = AdminClient::connect(format!("http://{}", world.router.grpc_addr)).await.unwrap();
    let rotated = admin.rotate_key(authorized(v1::RotateKeyRequest::default())).await.unwrap().into_inner();
    assert_eq!((rotated.id > 0, rotated.to.as_str()), (true, "2"));
    let step =
        |step: &str, message: &'static [u8]| v1::BackupStepRequest { step: step.into(), message: message.into() };
    let unknown = admin.backup_step(authorized(step("think", &[]))).await.unwrap_err();
    assert_eq!(Problem::from(unknown).code, Code::NotFound);
    let malformed = admin.backup_step(authorized(step("backup-page", &[0xff]))).await.unwrap_err();
    assert_eq!(Problem::from(malformed).code, Code::InvalidArgument);
    let nobody = admin.list_keys(v1::ListKeysRequest {}).await.unwrap_err();
    assert_eq!(Problem::from(nobody).code, Code::Unauthenticated);
    // The same outcome as over REST, whatever the cluster says.
    for path in ["/admin/keys", "/admin/erasures", "/admin/repositories"] {
        let outcome = match path {
            "/admin/keys" => admin.list_keys(authorized(v1::ListKeysRequest {})).await.map(drop),
            "/admin/erasures" => admin.list_erasures(authorized(v1::ListErasuresRequest {})).await.map(drop),
            _ => admin.list_repositories(authorized(v1::ListRepositoriesRequest {})).await.map(drop),
        };
        let code = outcome.err().map(|status| Problem::from(status).code.as_str().to_owned());
        let answer = world.get(path).await;
        let rest = if answer.status.is_success() { None } else { Some(answer.code()) };
        assert_eq!(code, rest, "{path}");
    }
}

#[tokio::test]
async fn a_passphrase_is_changed_over_grpc() {
    let cheap = PassphraseCost { memory_kib: 64, passes: 1, lanes: 1 };
    let world = World::with(|config| config.passphrase_cost = cheap).await;
    let mut client = client(&world).await;
    let with = |passphrase: &str| {
        let mut request = authorized(());
        request.metadata_mut().insert("x-mira-owner-passphrase", passphrase.parse().unwrap());
        request
    };
    let secret = |passphrase: &str| with(passphrase).map(|()| v1::StoreRequest { private: true, ..item("a secret") });
    let unmade = Problem::from(client.store(secret("old")).await.unwrap_err());
    assert_eq!(unmade.code, Code::WrongOwnerKey);
    assert!(unmade.detail.contains("CreatePassphrase"), "{unmade}");
    client.create_passphrase(with("old").map(|()| v1::CreatePassphraseRequest {})).await.unwrap();
    let other = client.create_passphrase(with("other").map(|()| v1::CreatePassphraseRequest {})).await.unwrap_err();
    assert_eq!(Problem::from(other).code, Code::AlreadyExists);
    let id = client.store(secret("old")).await.unwrap().into_inner().id;
    let unsaid = with("old").map(|()| v1::SetPassphraseRequest {});
    assert_eq!(Problem::from(client.set_passphrase(unsaid).await.unwrap_err()).code, Code::InvalidArgument);
    let mut change = with("old").map(|()| v1::SetPassphraseRequest {});
    change.metadata_mut().insert("x-mira-new-passphrase", "new".parse().unwrap());
    client.set_passphrase(change).await.unwrap();
    let recall =
        |passphrase: &str| with(passphrase).map(|()| v1::RecallRequest { ids: vec![id.clone()], ..Default::default() });
    assert_eq!(client.recall(recall("new")).await.unwrap().into_inner().frames.len(), 1);
    assert_eq!(Problem::from(client.recall(recall("old")).await.unwrap_err()).code, Code::WrongOwnerKey);
}
