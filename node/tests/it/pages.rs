//! Pages of sessions and scans, with removals that take several steps: each says whether there is more.

use mira_proto::{limits, node_v1};

use crate::common::{EAST, Shard, frame, number, start};

fn read_header(shard: &Shard) -> Option<node_v1::ReadHeader> {
    let (epoch, shard, collection) = (shard.epoch, shard.shard, shard.collection);
    Some(node_v1::ReadHeader { epoch, shard, collection, ..Default::default() })
}

async fn session_page(shard: &Shard, request: node_v1::SessionRequest) -> node_v1::SessionReply {
    let request = node_v1::SessionRequest { header: read_header(shard), session: "talk".into(), ..request };
    shard.client.clone().shards().session(request).await.expect("a page").into_inner()
}

/// Reads a session to its end; the ids of each page.
async fn session_pages(shard: &Shard, mut request: node_v1::SessionRequest) -> Vec<Vec<u128>> {
    let mut pages = Vec::new();
    loop {
        let page = session_page(shard, request.clone()).await;
        pages.push(page.frames.iter().map(|frame| number(&frame.id)).collect());
        if !page.more {
            return pages;
        }
        let end = if request.last { page.frames.first() } else { page.frames.last() };
        let end = end.expect("a page with more has a frame");
        request.after = [&end.position.to_be_bytes()[..], &end.id].concat().into();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_is_read_page_by_page_past_frames_whose_time_is_over() {
    let folder = tempfile::tempdir().unwrap();
    let (node, client) = start(folder.path()).await;
    let shard = Shard::new(client, "c").await;
    // Of 60, the first 40 are over: they are hidden before they are gone.
    let turn = |id: u128| node_v1::FrameWrite {
        session: "talk".into(),
        created_ms: 1_700_000_000_000 + id as u64 / 7,
        expires_ms: if id <= 40 { 1_700_000_000_001 } else { 0 },
        ..frame(id, &"x".repeat(1_000), EAST)
    };
    shard.write((1..=60).map(turn).collect()).await.unwrap();
    let rest: Vec<u128> = (41..=60).collect();
    for last in [false, true] {
        let request = node_v1::SessionRequest { limit: 6, last, ..Default::default() };
        let pages = session_pages(&shard, request).await;
        assert_eq!(pages.iter().map(Vec::len).collect::<Vec<_>>(), [6, 6, 6, 2]);
        let read: Vec<u128> = if last { pages.into_iter().rev().flatten().collect() } else { pages.concat() };
        assert_eq!(read, rest);
    }
    let small = node_v1::SessionRequest { limit: 100, max_bytes: 2_500, ..Default::default() };
    let pages = session_pages(&shard, small).await;
    assert_eq!((pages[0].len(), pages.concat()), (3, rest), "a page ends soon after its bytes");
    node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_of_a_scan_has_no_more_bytes_than_a_message_takes_however_well_they_compress() {
    let folder = tempfile::tempdir().unwrap();
    let (node, client) = start(folder.path()).await;
    let shard = Shard::new(client, "c").await;
    let large = "all the same ".repeat(limits::MAX_CONTENT_BYTES / 13);
    for id in 1..=40u128 {
        shard.one(frame(id, &format!("{id} {}", &large[4..]), EAST)).await.unwrap();
    }
    let mut request = node_v1::ScanRequest { header: read_header(&shard), limit: 500, ..Default::default() };
    let mut found = Vec::new();
    loop {
        let page = shard.client.clone().shards().scan(request.clone()).await.expect("a page").into_inner();
        let bytes: usize = page.frames.iter().map(|frame| frame.frame.as_ref().unwrap().content.len()).sum();
        assert!(bytes <= limits::SCAN_PAGE_BYTES + limits::MAX_CONTENT_BYTES, "{bytes}");
        found.extend(page.frames.into_iter().map(|frame| frame.frame.unwrap().id));
        if !page.more {
            break;
        }
        request.after = found.last().unwrap().clone();
    }
    assert_eq!(found.iter().map(|id| number(id)).collect::<Vec<_>>(), (1..=40).collect::<Vec<_>>());
    node.shutdown().await;
}

async fn forget_step(shard: &Shard, id: u128, request: node_v1::ForgetRequest) -> node_v1::ForgetReply {
    let header = node_v1::WriteHeader {
        epoch: shard.epoch,
        shard: shard.shard,
        collection: shard.collection,
        request_id: id.to_be_bytes().to_vec().into(),
        ..Default::default()
    };
    let request = node_v1::ForgetRequest { header: Some(header), may_be_retry: true, ..request };
    shard.client.clone().shards().forget(request).await.expect("an answer").into_inner()
}

/// Takes the steps of a request to its end, at most so many; how many frames went.
async fn forget_all(shard: &Shard, first: u128, mut request: node_v1::ForgetRequest, most: usize) -> usize {
    let mut removed = 0;
    for step in 0..most as u128 {
        let reply = forget_step(shard, first + step, request.clone()).await;
        removed += reply.removed.len();
        request.after = reply.next;
        if !reply.more {
            break;
        }
    }
    removed
}

#[tokio::test(flavor = "multi_thread")]
async fn a_removal_that_comes_again_tells_of_every_step_and_goes_on_behind_the_last() {
    let folder = tempfile::tempdir().unwrap();
    let (node, client) = start(folder.path()).await;
    let shard = Shard::new(client, "c").await;
    let count = 2 * limits::MAX_FORGET_STEP as u128 + 100;
    // Ids as large as they may be, which take the most room in an answer that is remembered.
    let turn = |id: u128| node_v1::FrameWrite { session: "talk".into(), ..frame(u128::MAX - id, "x", EAST) };
    let session = node_v1::ForgetRequest { session: "talk".into(), ..Default::default() };
    let filter_json = r#"{"field": "metadata.n", "eq": 1}"#.to_owned();
    let filter = node_v1::ForgetRequest { filter_json, ..Default::default() };
    let all = node_v1::ForgetRequest { all: true, ..Default::default() };
    for (request, id) in [(session, 1_000), (filter, 2_000), (all, 3_000)] {
        let ids: Vec<u128> = (1..=count).collect();
        for chunk in ids.chunks(100) {
            shard.write(chunk.iter().map(|&id| turn(id)).collect()).await.unwrap();
        }
        let cut = forget_all(&shard, id, request.clone(), 1).await;
        assert_eq!(cut, limits::MAX_FORGET_STEP);
        assert_eq!(forget_all(&shard, id, request.clone(), 99).await, count as usize, "{request:?}");
        // Once more, after new frames have come: it was over.
        shard.one(turn(5)).await.unwrap();
        assert_eq!(forget_all(&shard, id, request.clone(), 99).await, count as usize);
        assert_eq!(shard.fetch(&[u128::MAX - 5]).await.len(), 1);
        assert_eq!(forget_all(&shard, id + 500, request, 99).await, 1);
    }
    node.shutdown().await;
}
