//! Headers of reads and writes: whatever is asked of a shard has one, of a version that the node knows, or is refused by a
//! typed problem.

use std::{collections::BTreeMap, path::Path};

use mira_proto::{Code, HEADER_VERSION, Refusal, node_v1};

use crate::common::{NodeClients, Shard, start};

/// The code that a request is refused with; none if it is not refused, or by something else than a problem.
type Refused = Option<Code>;

fn code(refusal: Refusal) -> Refused {
    match refusal {
        Refusal::Problem(problem) => Some(problem.code),
        _ => None,
    }
}

fn read(shard: &Shard, version: u32) -> node_v1::ReadHeader {
    let &Shard { epoch, shard, collection, .. } = shard;
    node_v1::ReadHeader { version, epoch, shard, collection, ..Default::default() }
}

fn write(shard: &Shard, version: u32) -> node_v1::WriteHeader {
    let &Shard { epoch, shard, collection, .. } = shard;
    let request_id = rand::random::<u128>().to_be_bytes().to_vec().into();
    node_v1::WriteHeader { version, epoch, shard, collection, request_id, ..Default::default() }
}

/// Asks every method whose request has a header, with such a one: what each says, by the name of its request.
macro_rules! ask_all {
    ($client:expr, $read:expr, $write:expr; $($kind:ident $request:ident by $method:ident;)+) => {{
        let mut refused: BTreeMap<&str, Refused> = BTreeMap::new();
        $(
            let request = node_v1::$request { header: ask_all!(@ $kind $read, $write), ..Default::default() };
            let answer = $client.shards().$method(request).await;
            refused.insert(stringify!($request), answer.err().and_then(|status| code(status.into())));
        )+
        refused
    }};
    (@ reads $read:expr, $write:expr) => { $read };
    (@ writes $read:expr, $write:expr) => { $write };
}

async fn refusals(
    client: &NodeClients,
    read: Option<node_v1::ReadHeader>,
    write: Option<node_v1::WriteHeader>,
) -> BTreeMap<&'static str, Refused> {
    ask_all! { client, read.clone(), write.clone();
        writes WriteRequest by write;
        writes ForgetRequest by forget;
        writes UndeleteRequest by undelete;
        reads SearchRequest by search;
        reads FieldTypesRequest by field_types;
        reads FetchRequest by fetch;
        reads SessionsRequest by sessions;
        reads ScanRequest by scan;
        reads SessionRequest by session;
        reads ListBinRequest by list_bin;
        reads ListPrivateVectorsRequest by list_private_vectors;
        reads MeasureRecallRequest by measure_recall;
    }
}

/// The requests of `mira.node.v1` that have a header, as the files say.
fn declared() -> Vec<String> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../proto/proto/mira/node/v1");
    let mut requests = Vec::new();
    for file in std::fs::read_dir(folder).expect("the files of the wire") {
        let text = std::fs::read_to_string(file.expect("a file").path()).expect("text");
        let mut message = "";
        for line in text.lines() {
            if let Some(name) = line.strip_prefix("message ") {
                message = name.trim_end_matches([' ', '{']);
            } else if line.starts_with("  ReadHeader ") || line.starts_with("  WriteHeader ") {
                requests.push(message.to_owned());
            }
        }
    }
    requests.sort();
    requests
}

#[tokio::test(flavor = "multi_thread")]
async fn a_header_that_is_missing_or_of_a_later_version_is_refused_by_every_method_that_takes_one() {
    let folder = tempfile::tempdir().unwrap();
    let (node, client) = start(folder.path()).await;
    let shard = Shard::new(client.clone(), "c").await;

    let missing = refusals(&client, None, None).await;
    assert_eq!(missing.keys().copied().collect::<Vec<_>>(), declared(), "every request with a header is tried");
    let later = HEADER_VERSION + 1;
    let newer = refusals(&client, Some(read(&shard, later)), Some(write(&shard, later))).await;
    let known = refusals(&client, Some(read(&shard, HEADER_VERSION)), Some(write(&shard, HEADER_VERSION))).await;
    for request in missing.keys().copied() {
        assert_eq!(missing[request], Some(Code::InvalidArgument), "{request} without a header");
        assert_eq!(newer[request], Some(Code::UnsupportedVersion), "{request} with a header of version {later}");
        assert_ne!(known[request], Some(Code::UnsupportedVersion), "{request} with a header that the node knows");
    }
    node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_several_writes_in_a_message_each_is_refused_for_its_own_header() {
    let folder = tempfile::tempdir().unwrap();
    let (node, client) = start(folder.path()).await;
    let shard = Shard::new(client.clone(), "c").await;
    let headers = [None, Some(write(&shard, HEADER_VERSION + 1)), Some(write(&shard, HEADER_VERSION))];
    let writes =
        headers.map(|header| node_v1::WriteRequest { header, frames: Vec::new(), ..Default::default() }).into();
    let reply = client.shards().write_many(node_v1::WriteManyRequest { writes }).await.expect("an answer").into_inner();
    let problem = |result: node_v1::WriteResult| result.problem.map(|refusal| code(refusal.into()));
    let refused: Vec<_> = reply.results.into_iter().map(problem).collect();
    assert_eq!(refused, [Some(Some(Code::InvalidArgument)), Some(Some(Code::UnsupportedVersion)), None]);
    node.shutdown().await;
}
