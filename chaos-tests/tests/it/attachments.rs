//! Large contents: whole again after whatever happened, stored once, sealed, and gone when nobody needs them.

use std::ops::{Bound, ControlFlow};
use std::time::{Duration, Instant};

use bytes::Bytes;
use mira_node::shard::command::{Asker, ShardCommand};
use mira_node::shard::record;
use mira_proto::model::{
    ForgetRequest, GrowRequest, RecallRequest, RotateRequest, ScanRequest, SearchRequest, StoreItem, UploadRequest,
};
use mira_proto::{Code, Problem, limits};
use mira_router::RequestContext;
use mira_router::operations::content::FrameRef;
use mira_router::operations::uploads::UploadRef;
use mira_router::private::credential::Credential;
use mira_testing::eventually;
use rand::rngs::StdRng;
use rand::{RngCore, SeedableRng};
use uuid::Uuid;

use crate::support::{self, Cluster, NAME, PATIENCE, SHARDS, context, holds, vector};

const MIB: usize = 1 << 20;
const OWNER: &str = "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=";
const STRANGER: &str = "AgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgI=";

fn noise(seed: u64, bytes: usize) -> Bytes {
    let mut content = vec![0; bytes];
    StdRng::seed_from_u64(seed).fill_bytes(&mut content);
    content.into()
}

fn owned_by(key: &str) -> RequestContext {
    RequestContext { owner: Some(Credential::key(key).expect("a key")), ..context() }
}

fn pieces(content: &Bytes) -> Vec<Bytes> {
    (0..content.len()).step_by(MIB).map(|at| content.slice(at..content.len().min(at + MIB))).collect()
}

fn of(id: Uuid, is_private: bool) -> UploadRequest {
    let frame = StoreItem {
        content: Some("the minutes of the meeting".into()),
        vector: Some(vector(id)),
        id: Some(id),
        private: is_private,
        ..Default::default()
    };
    UploadRequest { frame, content_type: Some("video/webm".into()), size: None }
}

impl Cluster {
    /// Uploads a content; names the upload.
    async fn upload(&self, context: &RequestContext, request: UploadRequest, content: &Bytes) -> Uuid {
        let upload = self.memory.begin_upload(context, NAME, request).await.expect("it begins").upload;
        let mut offset = 0;
        for chunks in pieces(content).chunks(limits::CHUNKS_IN_FLIGHT) {
            let reply = self
                .memory
                .append_upload(context, UploadRef { collection: NAME, upload }, offset, chunks.to_vec())
                .await
                .expect("taken");
            offset = reply.offset;
        }
        self.memory.finish_upload(context, UploadRef { collection: NAME, upload }).await.expect("finished");
        upload
    }

    /// Ends the time for which an upload is remembered.
    async fn end_memory_of(&self, upload: Uuid) {
        let (frames, collection, asker) = (vec![upload.as_u128()], self.collection(), Asker::Operator);
        let payload = ShardCommand::Forget { collection, frames, asker, into_bin: false, more: false }.encode();
        for shard in 0..SHARDS {
            let leader = self.leader_of(shard).expect("a leader");
            let open = self.nodes[&leader].node().shard(shard).expect("open");
            open.group().propose(None, payload.clone()).await.expect("applied");
        }
    }

    async fn read(
        &self,
        context: &RequestContext,
        id: Uuid,
        range: Option<std::ops::Range<u64>>,
    ) -> Result<Vec<u8>, Problem> {
        let content = self.memory.read_content(context, FrameRef { collection: NAME, id }).await?;
        let mut bytes = Vec::new();
        for part in content.parts(range.unwrap_or(0..content.size())) {
            bytes.extend(self.memory.read_content_part(context, NAME, &content, &part).await?);
        }
        Ok(bytes)
    }

    /// Chunks of the collection in the states of the shards' leaders.
    fn chunks(&self) -> usize {
        let mut count = 0;
        for shard in 0..SHARDS {
            let Some(open) = self.leader_of(shard).and_then(|at| self.nodes[&at].node().shard(shard).ok()) else {
                continue;
            };
            let collection = self.collection();
            let (from, to) = (record::chunk_key(collection, 0), record::chunk_key(collection, u128::MAX));
            let mut look = |_: &[u8], _: &[u8]| {
                count += 1;
                ControlFlow::Continue(())
            };
            let range = (Bound::Included(&from[..]), Bound::Included(&to[..]));
            open.group().reader().scan(range.0, range.1, false, &mut look).expect("readable");
        }
        count
    }

    fn collection(&self) -> u64 {
        self.nodes.values().next().expect("a node").node().cluster().collection_named(NAME).expect("it is there").id
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_content_is_whole_again_although_every_node_went_while_it_came() {
    let mut cluster = Cluster::start().await;
    for (is_private, context) in [(false, context()), (true, owned_by(OWNER))] {
        // One for all steps, each of which may have to wait for an election.
        let context = context.with_patience(5 * PATIENCE);
        let (id, content) = (Uuid::new_v4(), noise(7 + u64::from(is_private), 5 * MIB + 77));
        let size = Some(content.len() as u64);
        let request = UploadRequest { size, ..of(id, is_private) };
        let upload = cluster.memory.begin_upload(&context, NAME, request).await.expect("it begins").upload;
        let mut offset = 0;
        for (step, chunks) in pieces(&content).chunks(limits::CHUNKS_IN_FLIGHT).enumerate() {
            let append = |offset| {
                cluster.memory.append_upload(&context, UploadRef { collection: NAME, upload }, offset, chunks.to_vec())
            };
            let refused = append(offset + 1).await.expect_err("bytes would be missing");
            assert_eq!(refused.code, Code::Conflict);
            let reply = append(offset).await.expect("taken");
            assert_eq!(append(offset).await.expect_err("they are there").code, Code::Conflict);
            offset = reply.offset;
            if step == 0 {
                let early = cluster
                    .memory
                    .finish_upload(&context, UploadRef { collection: NAME, upload })
                    .await
                    .expect_err("too early");
                assert_eq!(early.code, Code::Conflict, "{early}");
                assert_eq!(
                    cluster
                        .memory
                        .read_content(&context, FrameRef { collection: NAME, id })
                        .await
                        .expect_err("none")
                        .code,
                    Code::NotFound
                );
            }
            // Each of them once, over both contents.
            cluster.restart((step + 2 * usize::from(is_private)) % 3).await;
            let known = cluster
                .memory
                .get_upload(&context, UploadRef { collection: NAME, upload })
                .await
                .expect("it is remembered");
            assert_eq!(known.offset, offset);
        }
        let finished =
            cluster.memory.finish_upload(&context, UploadRef { collection: NAME, upload }).await.expect("finished");
        let again = cluster
            .memory
            .finish_upload(&context, UploadRef { collection: NAME, upload })
            .await
            .expect("answered as before");
        assert_eq!(finished, again);
        assert_eq!(finished.stored.expect("a frame").id, id);
        let late = cluster
            .memory
            .append_upload(&context, UploadRef { collection: NAME, upload }, offset, vec!["x".into()])
            .await;
        assert_eq!(late.expect_err("it is finished").code, Code::Conflict);

        assert!(cluster.read(&context, id, None).await.expect("there") == content, "other bytes came back");
        let size = content.len();
        for range in [0..1, MIB - 1..MIB + 1, 3 * MIB..5 * MIB, 5..size - 5, size - 1..size] {
            let part = cluster.read(&context, id, Some(range.start as u64..range.end as u64)).await.expect("there");
            assert!(part == content[range.clone()], "other bytes in {range:?}");
        }
        let recall = RecallRequest { id: Some(id), collection: Some(NAME.into()), ..Default::default() };
        let frame = cluster.memory.recall(&context, recall).await.expect("there").frames.remove(0);
        let attachment = frame.attachment.expect("it has one");
        assert_eq!((&*attachment.content_type, attachment.size), ("video/webm", size as u64));
        assert_eq!(frame.content.as_deref(), Some("the minutes of the meeting"));
        let search = SearchRequest {
            vector: Some(vector(id)),
            collection: Some(NAME.into()),
            include_private: is_private,
            ..Default::default()
        };
        let found = cluster.memory.search(&context, search).await.expect("an answer");
        assert_eq!(found.hits[0].frame.id, id);
        for folder in &cluster.folders {
            assert!(!holds(folder.path(), &content[100..132]), "a file shows what was stored");
            assert!(!holds(folder.path(), &content[5 * MIB..5 * MIB + 32]), "a file shows what was stored");
        }
        if is_private {
            for stranger in [support::context(), owned_by(STRANGER)] {
                let refused = cluster.read(&stranger, id, None).await.expect_err("it is not theirs");
                assert_eq!(refused.code, Code::WrongOwnerKey, "{refused}");
                let refused = cluster
                    .memory
                    .get_upload(&stranger, UploadRef { collection: NAME, upload })
                    .await
                    .expect_err("nor this");
                assert_eq!(refused.code, Code::WrongOwnerKey, "{refused}");
            }
        }
    }
    // What is hidden is in no list and no count.
    let listed = cluster.memory.scan(&owned_by(OWNER), NAME, ScanRequest::default()).await.expect("a page");
    assert_eq!(listed.frames.len(), 2);
    assert_eq!(cluster.held(cluster.collection()).values().sum::<u64>(), 2);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn equal_contents_lie_there_once_and_go_when_nobody_needs_them() {
    let cluster = Cluster::with_chunks_kept_for(Duration::from_millis(1_500)).await;
    let (first, second) = (Uuid::new_v4(), Uuid::new_v4());
    let content = noise(9, 3 * MIB + 5);
    let third = Uuid::new_v4();
    // The third content begins like the others.
    let uploads = [(first, content.clone()), (second, content.clone()), (third, content.slice(..2 * MIB))];
    for (id, content) in &uploads {
        let upload = cluster.upload(&context(), of(*id, false), content).await;
        cluster.end_memory_of(upload).await;
    }
    cluster.until("equal pieces are one", |cluster| cluster.chunks() == 4).await;
    let forget = async |id| {
        let request = ForgetRequest { id: Some(id), collection: Some(NAME.into()), now: true, ..Default::default() };
        assert_eq!(cluster.memory.forget(&context(), request).await.expect("forgotten").removed, 1);
    };
    forget(first).await;
    let started = Instant::now();
    while started.elapsed() < Duration::from_secs(4) {
        assert!(cluster.read(&context(), second, None).await.expect("there") == content);
        assert_eq!(cluster.chunks(), 4);
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    forget(second).await;
    cluster.until("what only they had is gone", |cluster| cluster.chunks() == 2).await;
    assert!(cluster.read(&context(), third, None).await.expect("there") == content[..2 * MIB]);
    forget(third).await;
    cluster.until("everything is gone", |cluster| cluster.chunks() == 0).await;
    // What an upload needs stays until it is given up.
    let upload = cluster.memory.begin_upload(&context(), NAME, of(first, false)).await.expect("it begins").upload;
    cluster
        .memory
        .append_upload(&context(), UploadRef { collection: NAME, upload }, 0, vec![content.slice(..MIB)])
        .await
        .expect("taken");
    tokio::time::sleep(Duration::from_secs(4)).await;
    assert_eq!(cluster.chunks(), 1);
    cluster.memory.cancel_upload(&context(), UploadRef { collection: NAME, upload }).await.expect("given up");
    cluster.until("and then it goes", |cluster| cluster.chunks() == 0).await;
    let gone =
        cluster.memory.read_content(&context(), FrameRef { collection: NAME, id: first }).await.expect_err("forgotten");
    assert_eq!(gone.code, Code::NotFound);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn contents_move_with_a_collection_that_grows_and_change_keys_with_it() {
    let cluster = Cluster::start().await;
    let content = noise(11, 6 * MIB + 123);
    let (plain, private) = (Uuid::new_v4(), Uuid::new_v4());
    cluster.upload(&context(), of(plain, false), &content).await;
    cluster.upload(&owned_by(OWNER), of(private, true), &content).await;
    let unfinished = cluster.memory.begin_upload(&context(), NAME, of(Uuid::new_v4(), false)).await.expect("begun");
    let append = |offset, at: usize| {
        let piece = vec![content.slice(at * MIB..(at + 1) * MIB)];
        let (memory, upload) = (cluster.memory.clone(), unfinished.upload);
        async move {
            memory
                .append_upload(&context(), UploadRef { collection: NAME, upload }, offset, piece)
                .await
                .expect("taken")
                .offset
        }
    };
    let mut offset = append(0, 0).await;
    let grow = GrowRequest { partitions: 5, dry_run: false };
    cluster.memory.grow_collection(&context(), NAME, grow).await.expect("it grows");
    for at in 1..5 {
        offset = append(offset, at).await;
        assert!(cluster.read(&context(), plain, None).await.expect("there") == content);
    }
    cluster
        .until("it has grown", |cluster| {
            let map = cluster.nodes[&0].node().cluster();
            map.growths.values().all(|growth| growth.step == mira_node::meta::GrowthStep::Remembering)
        })
        .await;
    let held = cluster.chunks();
    let done = cluster
        .memory
        .finish_upload(&context(), UploadRef { collection: NAME, upload: unfinished.upload })
        .await
        .expect("finished");
    let grown = done.stored.expect("a frame").id;
    assert!(cluster.read(&context(), grown, None).await.expect("there") == content[..5 * MIB]);
    assert_eq!(cluster.chunks(), held);
    assert!(cluster.read(&owned_by(OWNER), private, None).await.expect("there") == content);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn contents_are_sealed_anew_when_the_key_is_rotated() {
    let cluster = Cluster::start().await;
    let content = noise(12, 2 * MIB + 9);
    let (plain, private) = (Uuid::new_v4(), Uuid::new_v4());
    cluster.upload(&context(), of(plain, false), &content).await;
    cluster.upload(&owned_by(OWNER), of(private, true), &content).await;
    let id =
        cluster.memory.rotate_key(&context(), RotateRequest { collection: Some(NAME.into()) }).await.expect("begun").id;
    eventually("the old key is gone", PATIENCE, async || {
        let erasures = cluster.memory.list_erasures(&context()).await.expect("erasures").erasures;
        erasures.iter().any(|erasure| erasure.id == id && erasure.receipt.is_some())
    })
    .await;
    assert!(cluster.read(&context(), plain, None).await.expect("there") == content);
    assert!(cluster.read(&owned_by(OWNER), private, None).await.expect("there") == content);
    cluster.stop().await;
}
