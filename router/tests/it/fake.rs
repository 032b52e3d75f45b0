//! A cluster in memory that speaks `mira.node.v1`, with switches for everything that can go wrong.
//!
//! All nodes share one state, as replicas do when nothing lags; what differs between them is who leads a shard and
//! which faults they show. Every request is written down, so that a test can say what a router did.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use mira_index::filter::{self, Said};
use mira_index::ranking::{Candidate, Ranking};
use mira_index::{Attributes, Hit, Times, TypeSet};
use mira_proto::node_v1::node_server::{Node, NodeServer};
use mira_proto::node_v1::{self as wire, read_level::Kind};
use mira_proto::{Code, NodeId, Problem, Refusal, ShardId, limits};
use parking_lot::Mutex;
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

/// What one node does wrong.
#[derive(Clone, Default)]
pub struct Faults {
    /// Answers nothing but a broken connection.
    pub down: bool,
    /// Answers late.
    pub slow: Option<Duration>,
    /// Has no replica ready.
    pub not_ready: bool,
    /// Does the next so many writes and loses the answer.
    pub lost_answers: usize,
    /// Does not learn of frames: lags behind in reads at level `any`.
    pub lags: bool,
    /// Is of a version that does not say what kinds of values fields hold.
    pub says_no_kinds: bool,
    /// How old what it knows is, milliseconds; beyond the bound it answers as the last resort only.
    pub stale_ms: u64,
}

/// A request as it arrived.
#[derive(Clone, Debug, PartialEq)]
pub struct Seen {
    pub operation: &'static str,
    pub node: NodeId,
    pub shard: ShardId,
    pub request_id: Bytes,
    pub at_least: u64,
    pub kind: i32,
    pub last_resort: bool,
}

#[derive(Default)]
struct State {
    epoch: u64,
    collections: BTreeMap<String, wire::Collection>,
    next_collection: u64,
    leaders: BTreeMap<ShardId, NodeId>,
    frames: BTreeMap<(u64, ShardId, Vec<u8>), Kept>,
    indexes: BTreeMap<ShardId, u64>,
    remembered: HashMap<Bytes, wire::WriteReply>,
    faults: BTreeMap<NodeId, Faults>,
    seen: Vec<Seen>,
    clock_ms: u64,
    forget_step: usize,
    /// A key is being rotated by somebody else.
    rotating: bool,
    vanishing: Option<Vec<u8>>,
    owners: HashMap<Bytes, String>,
    /// Index of the last removal from a shard.
    gone: BTreeMap<ShardId, u64>,
    /// Sealed vectors given out so far.
    owned_vectors: usize,
}

struct Kept {
    frame: wire::Frame,
    vectors: Vec<Vec<f32>>,
    /// In named spaces.
    named: Vec<wire::NamedVector>,
    /// Names, digest and vectors of a private frame, as they came.
    private: wire::PrivateWrite,
    changed: u64,
}

/// The cluster.
pub struct Fake {
    state: Arc<Mutex<State>>,
    pub nodes: Vec<(NodeId, SocketAddr)>,
    shards: u32,
    stop: CancellationToken,
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl Fake {
    pub async fn start(nodes: u64, shards: u32) -> Fake {
        let leaders = (0..shards).map(|shard| (shard, u64::from(shard) % nodes + 1)).collect();
        let state = State {
            epoch: 1,
            next_collection: 1,
            leaders,
            clock_ms: 1_800_000_000_000,
            forget_step: 2,
            ..State::default()
        };
        let state = Arc::new(Mutex::new(state));
        let stop = CancellationToken::new();
        let mut listeners = Vec::new();
        for node in 1..=nodes {
            listeners.push((node, TcpListener::bind("127.0.0.1:0").await.unwrap()));
        }
        let nodes: Vec<(NodeId, SocketAddr)> =
            listeners.iter().map(|(node, listener)| (*node, listener.local_addr().unwrap())).collect();
        for (node, listener) in listeners {
            let service = FakeNode { id: node, state: state.clone(), nodes: nodes.clone(), shards };
            let server = tonic::transport::Server::builder().add_service(NodeServer::new(service));
            let stopped = stop.clone().cancelled_owned();
            tokio::spawn(server.serve_with_incoming_shutdown(TcpListenerStream::new(listener), stopped));
        }
        Fake { state, nodes, shards, stop }
    }

    pub fn addresses(&self) -> Vec<String> {
        self.nodes.iter().map(|(_, address)| address.to_string()).collect()
    }

    pub fn fault(&self, node: NodeId, change: impl FnOnce(&mut Faults)) {
        change(self.state.lock().faults.entry(node).or_default());
    }

    pub fn leader(&self, shard: ShardId) -> NodeId {
        self.state.lock().leaders[&shard]
    }

    pub fn set_leader(&self, shard: ShardId, node: Option<NodeId>) {
        let mut state = self.state.lock();
        match node {
            Some(node) => state.leaders.insert(shard, node),
            None => state.leaders.remove(&shard),
        };
    }

    /// Has somebody else rotate keys.
    pub fn set_rotating(&self, rotating: bool) {
        self.state.lock().rotating = rotating;
    }

    /// Moves the map on, as a change of nodes or placement does.
    pub fn bump_epoch(&self) {
        self.state.lock().epoch += 1;
    }

    pub fn seen(&self, operation: &str) -> Vec<Seen> {
        self.state.lock().seen.iter().filter(|seen| seen.operation == operation).cloned().collect()
    }

    pub fn clear_seen(&self) {
        self.state.lock().seen.clear();
    }

    pub fn frame_count(&self) -> usize {
        self.state.lock().frames.len()
    }

    pub fn frames_in(&self, shard: ShardId) -> usize {
        self.state.lock().frames.keys().filter(|(_, held, _)| *held == shard).count()
    }

    pub fn shards_of(&self, collection: &str) -> Vec<ShardId> {
        let state = self.state.lock();
        let info = &state.collections[collection];
        mira_proto::placement::shards_of_collection(info.id, info.partitions, self.shards)
    }

    /// Forgets this frame just before frames are fetched next.
    pub fn vanish_at_fetch(&self, id: &str) {
        self.state.lock().vanishing = Some(id.parse::<uuid::Uuid>().unwrap().into_bytes().to_vec());
    }

    /// Has the time of a frame be over.
    pub fn expire(&self, id: &str) {
        let id = id.parse::<uuid::Uuid>().unwrap().into_bytes();
        let mut state = self.state.lock();
        for (_, kept) in state.frames.iter_mut().filter(|((_, _, held), _)| *held == id) {
            kept.frame.expires_ms = 1;
        }
    }

    /// How many sealed vectors were given out.
    pub fn owned_vectors(&self) -> usize {
        self.state.lock().owned_vectors
    }

    /// All bytes that nodes were told of frames, to look for what should not be among them.
    pub fn everything(&self) -> Vec<u8> {
        let state = self.state.lock();
        let mut bytes = Vec::new();
        for Kept { frame, vectors, private, .. } in state.frames.values() {
            for part in
                [&frame.content, &frame.private, &private.owner, &private.session, &private.digest, &private.vectors]
            {
                bytes.extend_from_slice(part);
            }
            for text in [&frame.r#type, &frame.session, &frame.role, &frame.metadata_json] {
                bytes.extend_from_slice(text.as_bytes());
            }
            bytes.extend(vectors.iter().flatten().flat_map(|component| component.to_le_bytes()));
        }
        bytes
    }

    /// The passphrase records of all owners.
    pub fn owner_records(&self) -> Vec<String> {
        self.state.lock().owners.values().cloned().collect()
    }

    /// Changes the sealed pieces of private frames, as damage behind the nodes' own layers would.
    pub fn tamper(&self, change: impl Fn(&mut Bytes, &mut Bytes)) {
        let mut state = self.state.lock();
        for kept in state.frames.values_mut().filter(|kept| !kept.private.owner.is_empty()) {
            change(&mut kept.frame.private, &mut kept.private.vectors);
        }
    }

    /// Copies every frame of a shard to another, as while a shard is moving.
    pub fn copy_frames(&self, from: ShardId, to: ShardId) {
        let mut state = self.state.lock();
        let copies: Vec<_> = state
            .frames
            .iter()
            .filter(|((_, shard, _), _)| *shard == from)
            .map(|((collection, _, id), kept)| {
                let copy = Kept {
                    frame: kept.frame.clone(),
                    vectors: kept.vectors.clone(),
                    named: kept.named.clone(),
                    private: kept.private.clone(),
                    changed: kept.changed,
                };
                ((*collection, to, id.clone()), copy)
            })
            .collect();
        state.frames.extend(copies);
    }
}

fn attributes(frame: &wire::Frame) -> Attributes {
    let wire::Frame { r#type: kind, session, role, metadata_json, .. } = frame;
    filter::attributes(&Said { kind, session, role, metadata_json })
}

/// What the fields of a filter hold in plain frames.
fn kinds_of(filter_json: &str, frames: &[&Kept]) -> wire::KnownKinds {
    let condition = filter::parse(filter_json).unwrap();
    let compared = condition.as_ref().map(|condition| condition.compared_fields()).unwrap_or_default();
    let plain: Vec<_> =
        frames.iter().filter(|kept| kept.private.owner.is_empty()).map(|kept| attributes(&kept.frame)).collect();
    let kinds = |field: &str| {
        let values = plain.iter().flat_map(|attributes| attributes.of(field));
        values.fold(TypeSet::NONE, |kinds, value| kinds.with(TypeSet::of(value))).bits().into()
    };
    let fields = compared.into_iter().map(|field| wire::FieldKinds { field: field.to_owned(), kinds: kinds(field) });
    wire::KnownKinds { fields: fields.collect() }
}

/// Whether a plain frame meets a filter.
fn is_meant(filter_json: &str, frame: &wire::Frame) -> bool {
    let times = Times { created_ms: frame.created_ms, expires_ms: frame.expires_ms };
    let condition = filter::parse(filter_json).unwrap();
    frame.private.is_empty() && condition.is_none_or(|condition| condition.matches(&attributes(frame), &times))
}

impl Kept {
    /// What a second write is compared with.
    fn said(&self) -> Bytes {
        if self.private.digest.is_empty() { self.frame.content.clone() } else { self.private.digest.clone() }
    }
}

/// A plain frame as its shard ranks it.
fn candidate(request: &wire::SearchRequest, ranking: &Ranking, kept: &Kept) -> Option<Candidate> {
    let queries = std::iter::once(&request.vector[..]).chain(request.more_vectors.chunks(request.vector.len()));
    let id = u128::from_be_bytes(kept.frame.id.as_ref().try_into().unwrap());
    let dot = |query: &[f32], vector: &[f32]| vector.iter().zip(query).map(|(a, b)| a * b).sum::<f32>();
    let best = |query: &[f32]| {
        let hits = kept.in_space(&request.space).into_iter().zip(0..).map(|(vector, passage)| Hit {
            id,
            passage,
            score: dot(query, vector),
        });
        hits.min_by(Hit::rank)
    };
    let hits = queries.map(best).collect::<Option<Vec<Hit>>>()?;
    let nearest = hits.iter().copied().min_by(Hit::rank)?;
    let similarity = match request.mean {
        true => hits.iter().map(|hit| hit.score).sum::<f32>() / hits.len() as f32,
        false => nearest.score,
    };
    let frame = &kept.frame;
    let group = ranking.group.as_ref().and_then(|(field, _)| attributes(frame).of(field).next().cloned());
    let score = ranking.score(similarity, frame.created_ms);
    Some(Candidate { id, passage: nearest.passage, similarity, score, group })
}

impl Kept {
    fn in_space(&self, space: &str) -> Vec<&Vec<f32>> {
        match space {
            "" => self.vectors.iter().collect(),
            name => self.named.iter().filter(|named| named.space == name).map(|named| &named.vector).collect(),
        }
    }
}

struct FakeNode {
    id: NodeId,
    state: Arc<Mutex<State>>,
    nodes: Vec<(NodeId, SocketAddr)>,
    shards: u32,
}

impl FakeNode {
    /// The faults that come before anything else.
    async fn enter(&self) -> Result<(), Status> {
        let faults = self.state.lock().faults.get(&self.id).cloned().unwrap_or_default();
        if let Some(slow) = faults.slow {
            tokio::time::sleep(slow).await;
        }
        if faults.down {
            return Err(Status::unavailable("connection reset"));
        }
        if faults.not_ready {
            return Err(Refusal::NotReady("opening".into()).into());
        }
        Ok(())
    }

    /// Whether this node may answer for the shard.
    fn check(&self, state: &mut State, seen: Seen, epoch: u64) -> Result<Option<wire::Freshness>, Status> {
        let shard = seen.shard;
        let any = seen.kind == Kind::Any as i32 && seen.operation != "write" && seen.operation != "forget";
        let (at_least, last_resort) = (seen.at_least, seen.last_resort);
        state.seen.push(seen);
        if epoch < state.epoch {
            return Err(Refusal::StaleMap { epoch: state.epoch }.into());
        }
        let leader = state.leaders.get(&shard).copied();
        if !any && leader != Some(self.id) {
            return Err(Refusal::NotLeader { leader }.into());
        }
        let lags = state.faults.get(&self.id).is_some_and(|faults| faults.lags);
        if any && lags && at_least > 0 {
            return Err(Refusal::NotReady("behind".into()).into());
        }
        if !any {
            return Ok(None);
        }
        let staleness_ms = state.faults.get(&self.id).map_or(0, |faults| faults.stale_ms);
        let lagging = u128::from(staleness_ms) > limits::MAX_STALENESS.as_millis();
        match lagging && !last_resort {
            true => Err(Refusal::Lagging { staleness_ms }.into()),
            false => Ok(Some(wire::Freshness { staleness_ms, lagging })),
        }
    }

    fn seen(&self, operation: &'static str, shard: ShardId, level: Option<wire::ReadLevel>) -> Seen {
        let level = level.unwrap_or_default();
        let wire::ReadLevel { at_least, kind, last_resort } = level;
        Seen { operation, node: self.id, shard, request_id: Bytes::new(), at_least, kind, last_resort }
    }

    fn answer_write(&self, request: wire::WriteRequest) -> Result<wire::WriteReply, Status> {
        let mut state = self.state.lock();
        let seen = Seen { request_id: request.request_id.clone(), ..self.seen("write", request.shard, None) };
        self.check(&mut state, seen, request.epoch)?;
        let reply = match state.remembered.get(&request.request_id) {
            Some(reply) => reply.clone(),
            None => {
                let (collection, shard) = (request.collection, request.shard);
                let outcomes = request.frames.into_iter().map(|frame| state.write(collection, shard, frame)).collect();
                let index = state.indexes.entry(shard).or_default();
                *index += 1;
                let reply = wire::WriteReply { outcomes, index: *index };
                state.remembered.insert(request.request_id, reply.clone());
                reply
            }
        };
        let faults = state.faults.entry(self.id).or_default();
        if faults.lost_answers > 0 {
            faults.lost_answers -= 1;
            return Err(Refusal::Unknown("quorum lost on the way".into()).into());
        }
        Ok(reply)
    }

    fn map(&self, state: &State) -> wire::ClusterMap {
        let replicas: Vec<NodeId> = self.nodes.iter().map(|(node, _)| *node).collect();
        wire::ClusterMap {
            cluster_id: "fake".into(),
            epoch: state.epoch,
            nodes: self
                .nodes
                .iter()
                .map(|(id, address)| wire::NodeInfo { id: *id, address: address.to_string(), ..Default::default() })
                .collect(),
            shards: (0..self.shards)
                .map(|shard| wire::ShardInfo {
                    shard,
                    replicas: replicas.clone(),
                    leader: state.leaders.get(&shard).copied().unwrap_or_default(),
                })
                .collect(),
            collections: state.collections.values().cloned().collect(),
            replication: 3,
            ..Default::default()
        }
    }
}

impl State {
    fn write(&mut self, collection: u64, shard: ShardId, write: wire::FrameWrite) -> wire::WriteOutcome {
        let key = (collection, shard, write.id.to_vec());
        let current = self.frames.get(&key).map(|kept| (kept.frame.version, kept.said(), kept.frame.created_ms));
        let refuse = |detail: String| wire::WriteOutcome {
            problem: Some(Problem::new(Code::Conflict, detail).into()),
            ..Default::default()
        };
        let have = current.as_ref().map_or(0, |(version, ..)| *version);
        if let Some(expected) = write.expected_version
            && expected != have
        {
            return refuse(format!("version {have} is current, not {expected}"));
        }
        if let Some((version, content, _)) = &current
            && !write.replace
            && write.expected_version.is_none()
        {
            let said = write.private.as_ref().map_or(&write.content, |private| &private.digest);
            return match content == said {
                true => wire::WriteOutcome { version: *version, ..Default::default() },
                false => refuse("the id holds other content".into()),
            };
        }
        self.clock_ms += 1;
        let private = write.private.unwrap_or_default();
        let frame = wire::Frame {
            id: write.id,
            content: write.content,
            text: write.text,
            r#type: write.r#type,
            session: write.session,
            role: write.role,
            metadata_json: write.metadata_json,
            version: have + 1,
            created_ms: match (current, write.created_ms) {
                (Some((_, _, created_ms)), _) => created_ms,
                (None, 0) => self.clock_ms,
                (None, said) => said,
            },
            updated_ms: self.clock_ms,
            expires_ms: write.expires_ms,
            passage_ranges: write.passages.iter().flat_map(|passage| [passage.start, passage.end]).collect(),
            language: String::new(),
            private: private.body.clone(),
            attachment: write.attachment,
        };
        let vectors = write.passages.into_iter().map(|passage| passage.vector).collect();
        let changed = self.index(shard) + 1;
        self.frames.insert(key, Kept { frame, vectors, named: write.named, private, changed });
        wire::WriteOutcome { version: have + 1, ..Default::default() }
    }

    fn of_shard(&self, collection: u64, shard: ShardId) -> impl Iterator<Item = &Kept> {
        self.frames.iter().filter(move |((c, s, _), _)| (*c, *s) == (collection, shard)).map(|(_, kept)| kept)
    }

    fn index(&self, shard: ShardId) -> u64 {
        self.indexes.get(&shard).copied().unwrap_or_default()
    }
}

/// Private frames of one page: few, so that a test sees several pages.
const OWNED_PAGE: usize = 3;
/// Frames of one page of a fetch that asks for pages.
const FETCHED_PAGE: usize = 5;

fn newest(owned: &[wire::Owned]) -> u64 {
    owned.iter().map(|frame| frame.changed).max().unwrap_or_default()
}

#[tonic::async_trait]
impl Node for FakeNode {
    async fn get_map(&self, request: Request<wire::GetMapRequest>) -> Result<Response<wire::ClusterMap>, Status> {
        self.enter().await?;
        let request = request.into_inner();
        // A long poll, at the pace of a test.
        for _ in 0..200 {
            let map = self.map(&self.state.lock());
            if !request.wait || map.epoch > request.newer_than {
                return Ok(Response::new(map));
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        Ok(Response::new(self.map(&self.state.lock())))
    }

    async fn join(&self, _: Request<wire::JoinRequest>) -> Result<Response<wire::JoinReply>, Status> {
        Err(Status::unimplemented("a router does not join"))
    }

    async fn identify(&self, _: Request<wire::IdentifyRequest>) -> Result<Response<wire::Identity>, Status> {
        Err(Status::unimplemented("a router does not ask"))
    }

    async fn change_node(
        &self,
        _: Request<wire::ChangeNodeRequest>,
    ) -> Result<Response<wire::ChangeNodeReply>, Status> {
        Err(Status::unimplemented("a fake has no nodes to move"))
    }

    async fn pause_moves(
        &self,
        _: Request<wire::PauseMovesRequest>,
    ) -> Result<Response<wire::PauseMovesReply>, Status> {
        Err(Status::unimplemented("a fake has no nodes to move"))
    }

    async fn verify_shard(
        &self,
        _: Request<wire::VerifyShardRequest>,
    ) -> Result<Response<wire::VerifyShardReply>, Status> {
        Err(Status::unimplemented("a fake has no replicas"))
    }

    async fn mend_replica(
        &self,
        _: Request<wire::MendReplicaRequest>,
    ) -> Result<Response<wire::MendReplicaReply>, Status> {
        Err(Status::unimplemented("a fake has no replicas"))
    }

    async fn grow_collection(
        &self,
        _: Request<wire::GrowCollectionRequest>,
    ) -> Result<Response<wire::GrowCollectionReply>, Status> {
        Err(Status::unimplemented("a fake does not grow"))
    }

    /// Recall grows with the beam: 0.7 at 16, and a tenth of what is missing is missing at each next one.
    async fn measure_recall(
        &self,
        request: Request<wire::MeasureRecallRequest>,
    ) -> Result<Response<wire::MeasureRecallReply>, Status> {
        self.enter().await?;
        let request = request.into_inner();
        let mut state = self.state.lock();
        let seen = self.seen("measure_recall", request.shard, None);
        state.seen.push(seen);
        let (collection, shard) = (request.collection, request.shard);
        let vectors = state.frames.keys().filter(|key| (key.0, key.1) == (collection, shard)).count() as u64;
        let beam = |(ef, missing): (&u32, f64)| wire::MeasuredBeam {
            ef: *ef,
            recall: 1.0 - missing,
            micros: vec![*ef; request.samples as usize],
        };
        let missing = std::iter::successors(Some(0.3), |missing| Some(missing / 10.0));
        Ok(Response::new(match vectors {
            0 => wire::MeasureRecallReply { scanned: true, ..Default::default() },
            _ => wire::MeasureRecallReply {
                vectors,
                scanned: false,
                samples: request.samples,
                beams: request.beams.iter().zip(missing).map(beam).collect(),
            },
        }))
    }

    async fn tune_collection(
        &self,
        request: Request<wire::TuneCollectionRequest>,
    ) -> Result<Response<wire::TuneCollectionReply>, Status> {
        self.enter().await?;
        let wire::TuneCollectionRequest { collection, ef, space } = request.into_inner();
        let mut state = self.state.lock();
        state.epoch += 1;
        let epoch = state.epoch;
        let seen = self.seen("tune_collection", 0, None);
        state.seen.push(seen);
        match state.collections.values_mut().find(|found| found.id == collection) {
            Some(found) => match found.spaces.iter_mut().find(|named| named.name == space) {
                Some(named) => named.ef = ef,
                None => found.ef = ef,
            },
            None => return Err(Refusal::from(Problem::new(Code::NotFound, "the collection is gone")).into()),
        }
        Ok(Response::new(wire::TuneCollectionReply { epoch }))
    }

    async fn begin_pass(&self, _: Request<wire::BeginPassRequest>) -> Result<Response<wire::BeginPassReply>, Status> {
        Err(Status::unimplemented("a router does not ask"))
    }

    async fn export(&self, _: Request<wire::ExportRequest>) -> Result<Response<wire::ExportReply>, Status> {
        Err(Status::unimplemented("a router does not ask"))
    }

    async fn propose_meta(
        &self,
        _: Request<wire::ProposeMetaRequest>,
    ) -> Result<Response<wire::ProposeMetaReply>, Status> {
        Err(Status::unimplemented("a router does not ask"))
    }

    async fn hand_over(&self, _: Request<wire::HandOverRequest>) -> Result<Response<wire::HandOverReply>, Status> {
        Err(Status::unimplemented("a router does not ask"))
    }

    async fn rotate_key(
        &self,
        request: Request<wire::RotateKeyRequest>,
    ) -> Result<Response<wire::RotateKeyReply>, Status> {
        self.enter().await?;
        let request = request.into_inner();
        let mut state = self.state.lock();
        if request.own && state.rotating {
            return Err(Refusal::from(Problem::new(Code::Conflict, "the key is being rotated already")).into());
        }
        state.epoch += 1;
        Ok(Response::new(wire::RotateKeyReply { id: state.epoch, to: "2".into(), epoch: state.epoch }))
    }

    async fn get_keys(&self, _: Request<wire::GetKeysRequest>) -> Result<Response<wire::KeysReply>, Status> {
        Err(Status::unimplemented("a fake has no keys"))
    }

    async fn hold_keys(&self, _: Request<wire::HoldKeysRequest>) -> Result<Response<wire::HoldKeysReply>, Status> {
        Err(Status::unimplemented("a fake has no keys"))
    }

    async fn begin_backup(
        &self,
        _: Request<wire::BeginBackupRequest>,
    ) -> Result<Response<wire::BeginBackupReply>, Status> {
        Err(Status::unimplemented("a fake has no keys"))
    }

    async fn backup_page(
        &self,
        _: Request<wire::BackupPageRequest>,
    ) -> Result<Response<wire::BackupPageReply>, Status> {
        Err(Status::unimplemented("a fake has no keys"))
    }

    async fn backup_start(
        &self,
        _: Request<wire::BackupStartRequest>,
    ) -> Result<Response<wire::BackupStartReply>, Status> {
        Err(Status::unimplemented("a fake has no keys"))
    }

    async fn backup_log(&self, _: Request<wire::BackupLogRequest>) -> Result<Response<wire::BackupLogReply>, Status> {
        Err(Status::unimplemented("a fake has no keys"))
    }

    async fn roll_forward(&self, _: Request<wire::RollRequest>) -> Result<Response<wire::RollReply>, Status> {
        Err(Status::unimplemented("a fake has no keys"))
    }

    async fn vouch_backup(
        &self,
        _: Request<wire::VouchBackupRequest>,
    ) -> Result<Response<wire::VouchBackupReply>, Status> {
        Err(Status::unimplemented("a fake has no keys"))
    }

    async fn finish_backup(
        &self,
        _: Request<wire::FinishBackupRequest>,
    ) -> Result<Response<wire::FinishBackupReply>, Status> {
        Err(Status::unimplemented("a fake has no keys"))
    }

    async fn forget_repository(
        &self,
        _: Request<wire::ForgetRepositoryRequest>,
    ) -> Result<Response<wire::ForgetRepositoryReply>, Status> {
        Err(Status::unimplemented("a fake has no keys"))
    }

    async fn begin_restore(
        &self,
        _: Request<wire::BeginRestoreRequest>,
    ) -> Result<Response<wire::BeginRestoreReply>, Status> {
        Err(Status::unimplemented("a fake has no keys"))
    }

    async fn restore_page(
        &self,
        _: Request<wire::RestorePageRequest>,
    ) -> Result<Response<wire::RestorePageReply>, Status> {
        Err(Status::unimplemented("a fake has no keys"))
    }

    async fn restore_frames(
        &self,
        _: Request<wire::RestoreFramesRequest>,
    ) -> Result<Response<wire::RestoreFramesReply>, Status> {
        Err(Status::unimplemented("a fake has no keys"))
    }

    async fn end_restore(
        &self,
        _: Request<wire::EndRestoreRequest>,
    ) -> Result<Response<wire::EndRestoreReply>, Status> {
        Err(Status::unimplemented("a fake has no keys"))
    }

    async fn create_collection(
        &self,
        request: Request<wire::CreateCollectionRequest>,
    ) -> Result<Response<wire::Collection>, Status> {
        self.enter().await?;
        let request = request.into_inner();
        let mut state = self.state.lock();
        let mut wanted = wire::Collection {
            id: state.next_collection,
            name: request.name.clone(),
            dim: request.dim,
            metric: request.metric,
            quantization: request.quantization,
            partitions: request.partitions,
            ttl_seconds: request.ttl_seconds,
            created_ms: 1_800_000_000_000,
            key_version: 1,
            model: request.model,
            first_partitions: request.partitions,
            ef: 0,
            spaces: request.spaces,
            growth: None,
            rotation: None,
        };
        if let Some(there) = state.collections.get(&request.name) {
            wanted.id = there.id;
            return match *there == wanted {
                true => Ok(Response::new(there.clone())),
                false => Err(Problem::new(Code::AlreadyExists, "the collection has other settings").into()),
            };
        }
        state.next_collection += 1;
        state.epoch += 1;
        state.collections.insert(request.name, wanted.clone());
        Ok(Response::new(wanted))
    }

    async fn drop_collection(
        &self,
        request: Request<wire::DropCollectionRequest>,
    ) -> Result<Response<wire::DropCollectionReply>, Status> {
        self.enter().await?;
        let mut state = self.state.lock();
        let Some(gone) = state.collections.remove(&request.into_inner().name) else {
            return Err(Refusal::from(Problem::new(Code::NotFound, "there is no such collection")).into());
        };
        state.frames.retain(|(collection, ..), _| *collection != gone.id);
        state.epoch += 1;
        let faults = state.faults.entry(self.id).or_default();
        if faults.lost_answers > 0 {
            faults.lost_answers -= 1;
            return Err(Status::unavailable("connection reset"));
        }
        Ok(Response::new(wire::DropCollectionReply { epoch: state.epoch, erasure: state.epoch }))
    }

    async fn write(&self, request: Request<wire::WriteRequest>) -> Result<Response<wire::WriteReply>, Status> {
        self.enter().await?;
        self.answer_write(request.into_inner()).map(Response::new)
    }

    async fn write_many(
        &self,
        request: Request<wire::WriteManyRequest>,
    ) -> Result<Response<wire::WriteManyReply>, Status> {
        self.enter().await?;
        let writes = request.into_inner().writes;
        let seen = self.seen("write_many", writes[0].shard, None);
        self.state.lock().seen.push(seen);
        let result = |write| match self.answer_write(write) {
            Ok(reply) => wire::WriteResult { reply: Some(reply), problem: None },
            Err(status) => wire::WriteResult { reply: None, problem: Some(Refusal::from(status).into()) },
        };
        Ok(Response::new(wire::WriteManyReply { results: writes.into_iter().map(result).collect() }))
    }

    async fn field_kinds(
        &self,
        request: Request<wire::FieldKindsRequest>,
    ) -> Result<Response<wire::FieldKindsReply>, Status> {
        self.enter().await?;
        let request = request.into_inner();
        let mut state = self.state.lock();
        let seen = self.seen("field_kinds", request.shard, request.level);
        self.check(&mut state, seen, request.epoch)?;
        if state.faults.get(&self.id).is_some_and(|faults| faults.says_no_kinds) {
            return Err(Status::unimplemented("an older node"));
        }
        let of_shard = state.of_shard(request.collection, request.shard);
        let mut frames: Vec<&Kept> = of_shard.filter(|kept| request.walk || !kept.vectors.is_empty()).collect();
        frames.retain(|kept| !request.walk || kept.frame.id > request.after);
        let more = request.walk && frames.len() > state.forget_step;
        if more {
            frames.truncate(state.forget_step);
        }
        let next = frames.last().filter(|_| more).map(|kept| kept.frame.id.clone()).unwrap_or_default();
        let kinds = Some(kinds_of(&request.filter_json, &frames));
        Ok(Response::new(wire::FieldKindsReply { kinds, more, next }))
    }

    async fn forget(&self, request: Request<wire::ForgetRequest>) -> Result<Response<wire::ForgetReply>, Status> {
        self.enter().await?;
        let request = request.into_inner();
        let mut state = self.state.lock();
        let seen = Seen { request_id: request.request_id.clone(), ..self.seen("forget", request.shard, None) };
        self.check(&mut state, seen, request.epoch)?;
        let matches = |kept: &Kept| {
            request.all
                || (!request.session.is_empty() && kept.frame.session == request.session)
                || (!request.filter_json.is_empty() && is_meant(&request.filter_json, &kept.frame))
                || (!request.private_session.is_empty() && kept.private.session == request.private_session)
                || request.ids.contains(&kept.frame.id)
        };
        let mut doomed: Vec<Bytes> = state
            .of_shard(request.collection, request.shard)
            .filter(|kept| matches(kept))
            .map(|kept| kept.frame.id.clone())
            .collect();
        let more = doomed.len() > state.forget_step;
        doomed.truncate(state.forget_step);
        for id in &doomed {
            state.frames.remove(&(request.collection, request.shard, id.to_vec()));
        }
        let index = state.indexes.entry(request.shard).or_default();
        *index += 1;
        let index = *index;
        state.gone.insert(request.shard, index);
        Ok(Response::new(wire::ForgetReply { removed: doomed, index, more, ..Default::default() }))
    }

    async fn search(&self, request: Request<wire::SearchRequest>) -> Result<Response<wire::SearchReply>, Status> {
        self.enter().await?;
        let request = request.into_inner();
        let mut state = self.state.lock();
        let seen = self.seen("search", request.shard, request.level);
        let freshness = self.check(&mut state, seen, request.epoch)?;
        let as_of = 1 + state.index(request.shard);
        if request.unless_changed_since == Some(as_of) {
            return Ok(Response::new(wire::SearchReply { not_modified: true, as_of, freshness, ..Default::default() }));
        }
        let ranking = Ranking::of(&request).unwrap();
        let until = if request.created_to_ms == 0 { u64::MAX } else { request.created_to_ms };
        let now_ms = jiff::Timestamp::now().as_millisecond() as u64;
        let found = |kept: &&Kept| {
            let frame = &kept.frame;
            let lives = frame.expires_ms == 0 || frame.expires_ms > now_ms;
            lives
                && (request.created_from_ms..until).contains(&frame.created_ms)
                && is_meant(&request.filter_json, frame)
        };
        let pool: Vec<&Kept> = state.of_shard(request.collection, request.shard).filter(found).collect();
        let candidates = pool.iter().filter_map(|kept| candidate(&request, &ranking, kept)).collect();
        let hits = ranking.cut(candidates).into_iter().map(|hit| {
            let id = hit.id.to_be_bytes();
            let kept = pool.iter().find(|kept| kept.frame.id == id[..]).expect("it was found");
            wire::Hit {
                id: id.to_vec().into(),
                score: hit.score,
                passage: hit.passage,
                frame: request.with_frames.then(|| kept.frame.clone()),
                similarity: hit.similarity,
                vector: match request.with_vectors {
                    true => kept.in_space(&request.space)[hit.passage as usize].clone(),
                    false => Vec::new(),
                },
                group_json: hit.group.as_ref().map(filter::to_json).unwrap_or_default(),
            }
        });
        let hits = hits.collect();
        let applied = state.index(request.shard);
        let explain = request.explain.then(|| wire::SearchExplain { plan: "scan".into(), ..Default::default() });
        let indexed: Vec<&Kept> =
            state.of_shard(request.collection, request.shard).filter(|kept| !kept.vectors.is_empty()).collect();
        let says_no_kinds = state.faults.get(&self.id).is_some_and(|faults| faults.says_no_kinds);
        let kinds = (!says_no_kinds).then(|| kinds_of(&request.filter_json, &indexed));
        Ok(Response::new(wire::SearchReply { hits, applied, explain, as_of, freshness, kinds, ..Default::default() }))
    }

    async fn fetch(&self, request: Request<wire::FetchRequest>) -> Result<Response<wire::FetchReply>, Status> {
        self.enter().await?;
        let request = request.into_inner();
        let mut state = self.state.lock();
        let seen = self.seen("fetch", request.shard, request.level);
        let freshness = self.check(&mut state, seen, request.epoch)?;
        if let Some(gone) = state.vanishing.take() {
            state.frames.retain(|(_, _, id), _| *id != gone);
        }
        let key = |id: &Bytes| (request.collection, request.shard, id.to_vec());
        let paged = request.max_bytes > 0;
        let ids = &request.ids[..if paged { request.ids.len().min(FETCHED_PAGE) } else { request.ids.len() }];
        let frames = ids.iter().filter_map(|id| Some(state.frames.get(&key(id))?.frame.clone())).collect();
        Ok(Response::new(wire::FetchReply {
            frames,
            applied: state.index(request.shard),
            freshness,
            opened: Vec::new(),
            looked_at: if paged { ids.len() as u32 } else { 0 },
        }))
    }

    async fn session(&self, request: Request<wire::SessionRequest>) -> Result<Response<wire::FetchReply>, Status> {
        self.enter().await?;
        let request = request.into_inner();
        let mut state = self.state.lock();
        let seen = self.seen("session", request.shard, request.level);
        let freshness = self.check(&mut state, seen, request.epoch)?;
        let mut frames: Vec<wire::Frame> = state
            .of_shard(request.collection, request.shard)
            .filter(|kept| match request.private_session.is_empty() {
                true => kept.private.owner.is_empty() && kept.frame.session == request.session,
                false => kept.private.session == request.private_session,
            })
            .map(|kept| kept.frame.clone())
            .filter(|frame| frame.created_ms >= request.created_from_ms)
            .collect();
        frames.sort_by_key(|frame| frame.created_ms);
        if request.last {
            frames.drain(..frames.len().saturating_sub(request.limit as usize));
        }
        frames.truncate(request.limit as usize);
        Ok(Response::new(wire::FetchReply {
            frames,
            applied: state.index(request.shard),
            freshness,
            opened: Vec::new(),
            looked_at: 0,
        }))
    }

    async fn sessions(&self, _: Request<wire::SessionsRequest>) -> Result<Response<wire::SessionsReply>, Status> {
        Err(Status::unimplemented("a fake has no tags of sessions"))
    }

    async fn scan(&self, request: Request<wire::ScanRequest>) -> Result<Response<wire::ScanReply>, Status> {
        self.enter().await?;
        let request = request.into_inner();
        let mut state = self.state.lock();
        let seen = self.seen("scan", request.shard, request.level);
        self.check(&mut state, seen, request.epoch)?;
        let applied = state.index(request.shard);
        let mut kept: Vec<&Kept> = state.of_shard(request.collection, request.shard).collect();
        kept.sort_by(|a, b| a.frame.id.cmp(&b.frame.id));
        kept.retain(|kept| kept.frame.id > request.after);
        let more = kept.len() > request.limit as usize;
        let scanned = |kept: &Kept| {
            let vector = if kept.frame.passage_ranges.is_empty() { kept.vectors.concat() } else { Vec::new() };
            let private_vectors = kept.private.vectors.clone();
            let named = kept.named.clone();
            wire::ScannedFrame { frame: Some(kept.frame.clone()), vector, private_vectors, named }
        };
        let frames = kept.into_iter().take(request.limit as usize).map(scanned).collect();
        Ok(Response::new(wire::ScanReply { frames, more, applied, opened: Vec::new() }))
    }

    async fn name_chunks(
        &self,
        request: Request<wire::NameChunksRequest>,
    ) -> Result<Response<wire::NameChunksReply>, Status> {
        self.enter().await?;
        let ids = request.into_inner().digests.iter().map(|digest| digest.slice(..16)).collect();
        Ok(Response::new(wire::NameChunksReply { ids }))
    }

    async fn list_references(
        &self,
        _: Request<wire::ListReferencesRequest>,
    ) -> Result<Response<wire::ListReferencesReply>, Status> {
        Err(Status::unimplemented("no router asks for this"))
    }

    async fn owned(&self, request: Request<wire::OwnedRequest>) -> Result<Response<wire::OwnedReply>, Status> {
        self.enter().await?;
        let request = request.into_inner();
        let mut state = self.state.lock();
        let seen = self.seen("owned", request.shard, request.level);
        self.check(&mut state, seen, request.epoch)?;
        let applied = state.index(request.shard);
        let mine = state.of_shard(request.collection, request.shard).filter(|kept| kept.private.owner == request.owner);
        let owned: Vec<wire::Owned> = mine
            .map(|kept| wire::Owned {
                id: kept.frame.id.clone(),
                changed: kept.changed,
                created_ms: kept.frame.created_ms,
                expires_ms: kept.frame.expires_ms,
                vectors: if kept.changed > request.known { kept.private.vectors.clone() } else { Bytes::new() },
            })
            .collect();
        let gone = state.gone.get(&request.shard).copied().unwrap_or_default();
        if request.known > 0 && request.after.is_empty() && gone.max(newest(&owned)) <= request.known {
            return Ok(Response::new(wire::OwnedReply { applied, unchanged: true, ..Default::default() }));
        }
        let mut frames: Vec<wire::Owned> = owned.into_iter().filter(|frame| frame.id > request.after).collect();
        let more = frames.len() > OWNED_PAGE;
        frames.truncate(OWNED_PAGE);
        state.owned_vectors += frames.iter().filter(|frame| !frame.vectors.is_empty()).count();
        Ok(Response::new(wire::OwnedReply { frames, applied, more, ..Default::default() }))
    }

    async fn get_owner(&self, request: Request<wire::GetOwnerRequest>) -> Result<Response<wire::OwnerReply>, Status> {
        self.enter().await?;
        let state = self.state.lock();
        let record = state.owners.get(&request.into_inner().owner).cloned().unwrap_or_default();
        Ok(Response::new(wire::OwnerReply { record }))
    }

    async fn put_owner(&self, request: Request<wire::PutOwnerRequest>) -> Result<Response<wire::OwnerReply>, Status> {
        self.enter().await?;
        let request = request.into_inner();
        let mut state = self.state.lock();
        let there = state.owners.entry(request.owner).or_default();
        if *there == request.replaces {
            *there = request.record;
        }
        Ok(Response::new(wire::OwnerReply { record: there.clone() }))
    }

    async fn status(&self, _: Request<wire::StatusRequest>) -> Result<Response<wire::NodeStatus>, Status> {
        self.enter().await?;
        let state = self.state.lock();
        let groups = (0..self.shards).map(|shard| wire::GroupStatus {
            group: shard + 1,
            role: if state.leaders.get(&shard) == Some(&self.id) { "leader" } else { "follower" }.into(),
            term: 1,
            applied: state.index(shard),
            committed: state.index(shard),
            frames: state.frames.keys().filter(|(_, s, _)| *s == shard).count() as u64,
            ..Default::default()
        });
        Ok(Response::new(wire::NodeStatus {
            node_id: self.id,
            cluster_id: "fake".into(),
            version: "0.0.0".into(),
            groups: groups.collect(),
            ..Default::default()
        }))
    }
}
