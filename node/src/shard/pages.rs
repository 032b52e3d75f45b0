//! A shard's side of backup and restore: pages of a collection's frames as they lie in the state, and back.
//!
//! All pages of a part (a collection in a shard) are read from one view of the state, so a part shows one moment, its
//! `position`. A page names every frame in its range, and holds those that have changed since the position of an earlier
//! backup. Frames travel as they are sealed; the page around them is sealed for the repository and bound to its place,
//! and to the ids that stand beside it in clear. Beside frames it holds what the state machine reads of them and is not in
//! them, so that a state can be made of pages and brought forward (`backup/recovery.rs`).

use std::{
    collections::BTreeMap,
    ops::{Bound, ControlFlow},
    time::Instant,
};

use bytes::Bytes;
use mira_crypto::{RepositoryKey, os_rng};
use mira_proto::{Code, CollectionId, Extensions, FrameId, Problem, Refusal, ShardId, limits, node_v1};
use mira_raft::{EngineError, StateReader};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::shard::{
    Shard,
    command::{self, MigratedFrame, ShardAnswer, ShardCommand},
    history::{self, VersionBound},
    migration::{ownership::Ownership, transfer::ended_version},
    record::{self, FrameHead, KeyFloor},
    refuse_proposal,
};

/// Of what a page holds.
const BODY_VERSION: u8 = 4;

/// Views of a shard's state that backups read.
#[derive(Default)]
pub struct BackupViews(Mutex<BTreeMap<u64, (StateReader, Instant)>>);

impl BackupViews {
    fn open(&self, view: StateReader) -> Result<u64, Refusal> {
        let mut views = self.0.lock();
        views.retain(|_, (_, used)| used.elapsed() < limits::BACKUP_VIEW_IDLE);
        if views.len() >= limits::MAX_BACKUP_VIEWS {
            let most = limits::MAX_BACKUP_VIEWS;
            return Err(Refusal::NotReady(format!("{most} backups read this shard at once: wait for one")));
        }
        let token = rand::random_range(1..u64::MAX);
        views.insert(token, (view, Instant::now()));
        Ok(token)
    }

    fn get(&self, token: u64) -> Result<StateReader, Refusal> {
        let mut views = self.0.lock();
        let lost = || Problem::new(Code::NotFound, "this replica does not know that view: begin the part again");
        let (view, used) = views.get_mut(&token).ok_or_else(lost)?;
        *used = Instant::now();
        Ok(view.clone())
    }

    fn close(&self, token: u64) {
        self.0.lock().remove(&token);
    }
}

/// Where a page belongs.
#[derive(Debug, Clone, Copy)]
pub struct PagePlace<'a> {
    /// The backup.
    pub backup: &'a [u8],
    /// The shard that it was made of.
    pub shard: ShardId,
    /// The collection.
    pub collection: CollectionId,
    /// Which page of the part.
    pub number: u32,
    /// What stands beside it in clear.
    pub ids: &'a [u8],
    /// And of these, what it holds.
    pub changed: &'a [u8],
}

impl PagePlace<'_> {
    /// What the page is bound to.
    fn associated(&self) -> Vec<u8> {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&(self.ids.len() as u64).to_le_bytes()).update(self.ids).update(self.changed);
        let (shard, collection) = (self.shard.to_le_bytes(), self.collection.to_le_bytes());
        let (number, beside) = (self.number.to_le_bytes(), hasher.finalize());
        [&b"mira backup page"[..], self.backup, &shard, &collection, &number, beside.as_bytes()].concat()
    }

    /// Opens a page: the frames that it holds, in the order in which they are named.
    pub fn open(&self, key: &RepositoryKey, page: &[u8]) -> Result<PageBody, Problem> {
        let damaged = |what: String| {
            let (shard, number) = (self.shard, self.number);
            Problem::new(Code::Damaged, format!("page {number} of shard {shard} in the backup: {what}"))
        };
        let plain = key.open(&self.associated(), page, limits::MAX_MESSAGE_BYTES);
        let plain = plain.map_err(|error| damaged(error.to_string()))?;
        let body = PageBody::decode(&plain).map_err(|error| damaged(error.to_string()))?;
        let named = read_ids(self.changed)?;
        if !body.frames.iter().map(|frame| frame.frame).eq(named) {
            return Err(damaged("it holds other frames than it names".into()));
        }
        Ok(body)
    }

    /// Seals a page.
    pub fn seal(&self, key: &RepositoryKey, body: &PageBody) -> Bytes {
        key.seal(&self.associated(), &body.encode(), &mut os_rng()).into()
    }
}

/// What is sealed in a page.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PageBody {
    /// Frames as they lie in the state.
    pub frames: Vec<MigratedFrame>,
    /// The log position of each one's last change.
    pub changed: Vec<u64>,
    /// In the first page of a part.
    pub standing: Option<Standing>,
    /// What later releases keep with a page.
    pub extensions: Extensions,
}

/// How a shard stands to a collection, beside its frames.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Standing {
    /// Its part in the last growth.
    pub ownership: Option<Ownership>,
    /// The oldest key that it takes frames under.
    pub floor: Option<KeyFloor>,
    /// The greatest version of a frame that has ended: new ones begin above it.
    pub ended_version: u64,
    /// How many past versions frames have at most.
    pub version_bound: Option<VersionBound>,
}

impl Standing {
    pub(crate) fn read(view: &StateReader, collection: CollectionId) -> Result<Self, EngineError> {
        let ownership = view.get(&Ownership::key(collection))?.map(|stored| Ownership::decode(&stored)).transpose()?;
        let floor = view.get(&record::key_floor_key(collection))?;
        let floor = floor.map(|stored| KeyFloor::decode(&stored)).transpose()?;
        let bound = view.get(&history::bound_key(collection))?;
        let version_bound = bound.map(|stored| VersionBound::decode(&stored)).transpose()?;
        Ok(Standing { ownership, floor, ended_version: ended_version(view, collection)?, version_bound })
    }
}

impl PageBody {
    /// Version byte and postcard.
    pub fn encode(&self) -> Vec<u8> {
        postcard::to_extend(self, vec![BODY_VERSION]).expect("plain data")
    }

    /// Reads what [`Self::encode`] gave.
    pub fn decode(plain: &[u8]) -> Result<Self, EngineError> {
        let Some((&BODY_VERSION, rest)) = plain.split_first() else {
            return Err(EngineError::Damaged("a page of unknown version".into()));
        };
        let body: PageBody = postcard::from_bytes(rest).map_err(|error| EngineError::Damaged(error.to_string()))?;
        if body.changed.len() != body.frames.len() {
            return Err(EngineError::Damaged("it has positions of other frames".into()));
        }
        Ok(body)
    }
}

/// Ids, 16 bytes each.
pub fn read_ids(bytes: &[u8]) -> Result<Vec<FrameId>, Problem> {
    let odd = || Problem::invalid("a list of ids has 16 bytes for each");
    bytes.chunks(16).map(|id| id.try_into().map(FrameId::from_be_bytes).map_err(|_| odd())).collect()
}

pub(crate) fn write_ids(ids: &[FrameId]) -> Bytes {
    ids.iter().flat_map(|id| id.to_be_bytes()).collect::<Vec<u8>>().into()
}

impl<R: mira_raft::Runtime> Shard<R> {
    /// One page of a part.
    pub async fn backup_page(
        &self,
        key: &RepositoryKey,
        request: node_v1::BackupPageRequest,
    ) -> Result<node_v1::BackupPageReply, Refusal> {
        let token = match request.view {
            0 => {
                // Everything that was acknowledged when the backup began is in it.
                self.group.read_index().await.map_err(super::refuse_read)?;
                self.views.open(self.group.reader().view().map_err(|error| self.unreadable(error))?)?
            }
            token => token,
        };
        let view = self.views.get(token)?;
        let after = if request.after.is_empty() { None } else { Some(super::frame_id(&request.after)?) };
        let (page, standing) = tokio::task::block_in_place(|| {
            let standing = (request.number == 0).then(|| Standing::read(&view, request.collection)).transpose()?;
            let range = PageRange { after, since: request.since };
            Ok((read_page(&view, request.collection, range)?, standing))
        })
        .map_err(|error: EngineError| self.unreadable(error))?;
        let (ids, changed) = (write_ids(&page.ids), write_ids(&page.changed()));
        let place = PagePlace {
            backup: &request.backup,
            shard: self.id,
            collection: request.collection,
            number: request.number,
            ids: &ids,
            changed: &changed,
        };
        let sealed = place.seal(key, &PageBody { standing, ..page.body });
        if page.upto.is_none() {
            self.views.close(token);
        }
        Ok(node_v1::BackupPageReply {
            view: token,
            position: view.applied_index(),
            time_ms: view.clock_ms().expect("a view has stopped"),
            page: sealed,
            upto: page.upto.map(|upto| upto.to_be_bytes().to_vec()).unwrap_or_default().into(),
            ids,
            changed,
            node: 0,
        })
    }

    /// Puts frames of a backup, sealed for this shard, in the place of what is there, and lets no version be given again that
    /// had ended by then; on the leader.
    pub async fn restore(&self, request: node_v1::RestoreFramesRequest) -> Result<(), Refusal> {
        self.must_lead()?;
        if self.shared.cluster.borrow().restoring.is_none() {
            return Err(Problem::new(Code::Conflict, "no backup is being restored").into());
        }
        let odd = |error: EngineError| Refusal::from(Problem::invalid(error.to_string()));
        let frames: Vec<MigratedFrame> =
            request.frames.iter().map(|frame| MigratedFrame::decode(frame).map_err(odd)).collect::<Result<_, _>>()?;
        let node_v1::RestoreFramesRequest { collection, ended_version, .. } = request;
        let payload = ShardCommand::Restore { collection, frames, ended_version }.encode();
        let proposed = self.group.propose(None, payload).await.map_err(refuse_proposal)?;
        match command::decode(&proposed.response).map_err(|error| self.unreadable(error))? {
            ShardAnswer::Restore => Ok(()),
            other => Err(Problem::internal(format!("a restore was answered with {other:?}")).into()),
        }
    }
}

/// Which frames of a part a page is made of.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct PageRange {
    /// It begins behind this frame; at the first one if there is none.
    pub(crate) after: Option<FrameId>,
    /// Frames that have changed after this log position come whole, others by name only; 0 = all come whole.
    pub(crate) since: u64,
}

/// A page of a part, as far as a page may be large.
pub(crate) fn read_page(view: &StateReader, collection: CollectionId, range: PageRange) -> Result<Page, EngineError> {
    let PageRange { after, since } = range;
    let prefix = record::collection_prefix(record::Table::Heads, collection);
    let from = after.map(|after| record::head_key(collection, after));
    let from = from.as_ref().map_or(Bound::Included(&prefix[..]), |from| Bound::Excluded(&from[..]));
    let end = record::head_key(collection, FrameId::MAX);
    let (mut page, mut bytes, mut failed) = (Page::default(), 0, None);
    let mut look = |key: &[u8], value: &[u8]| {
        let Some((_, frame)) = record::parse_pair_key(key) else { return ControlFlow::Continue(()) };
        if page.ids.len() == limits::GROWTH_PAGE_HEADS || bytes >= limits::GROWTH_PAGE_BYTES {
            page.upto = page.ids.last().copied();
            return ControlFlow::Break(());
        }
        let wanted = FrameHead::decode(value).and_then(|head| {
            if head.changed <= since {
                return Ok(None);
            }
            history::read_frame(view, collection, frame).map(|stored| Some((stored, head.changed)))
        });
        page.ids.push(frame);
        match wanted {
            Ok(None) => ControlFlow::Continue(()),
            Ok(Some((stored, changed))) => {
                bytes += stored.bytes();
                page.body.frames.push(stored);
                page.body.changed.push(changed);
                ControlFlow::Continue(())
            }
            Err(error) => {
                failed = Some(error);
                ControlFlow::Break(())
            }
        }
    };
    view.scan(from, Bound::Included(&end), false, &mut look)?;
    failed.map_or(Ok(page), Err)
}

/// What a page of a part holds.
#[derive(Default)]
pub(crate) struct Page {
    pub(crate) ids: Vec<FrameId>,
    pub(crate) body: PageBody,
    pub(crate) upto: Option<FrameId>,
}

impl Page {
    /// The frames that it holds.
    pub(crate) fn changed(&self) -> Vec<FrameId> {
        self.body.frames.iter().map(|frame| frame.frame).collect()
    }
}
