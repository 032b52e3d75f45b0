//! Reading an earlier version of a frame: one of a number, or the one that was current at a time.

use mira_proto::{FrameId, Problem, Refusal, node_v1};
use mira_raft::EngineError;

use super::{ReadView, fetch::bytes_of};
use crate::shard::{
    Shard,
    history::{self, PastHead},
    record::{self, Class, FrameRecord},
};

/// Which version of a frame is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Moment {
    /// The one of that number.
    Version(u64),
    /// The one that was current then, milliseconds.
    KnownAt(u64),
}

impl Moment {
    /// What a request asks for; none if it is for what is current now.
    pub(super) fn of(request: &node_v1::FetchRequest) -> Result<Option<Self>, Problem> {
        match (request.version, request.known_at_ms) {
            (0, 0) => Ok(None),
            (version, 0) => Ok(Some(Moment::Version(version))),
            (0, known_at_ms) => Ok(Some(Moment::KnownAt(known_at_ms))),
            _ => Err(Problem::invalid("version and known_at exclude each other")),
        }
    }

    fn is_current(self, record: &FrameRecord) -> bool {
        match self {
            Moment::Version(version) => record.fields.version == version,
            Moment::KnownAt(time_ms) => record.fields.updated_ms <= time_ms,
        }
    }

    fn find(self, history: &history::History) -> Option<&PastHead> {
        match self {
            Moment::Version(version) => history.of_version(version),
            Moment::KnownAt(time_ms) => history.at(time_ms),
        }
    }
}

impl<R: mira_raft::Runtime> Shard<R> {
    /// Those versions of these frames that are there, until they have so many bytes, and how many frames were looked at.
    /// Nothing of a frame that was forgotten or is over its time, whatever was known of it.
    pub(super) fn open_moment(
        &self,
        read: &ReadView,
        ids: &[FrameId],
        (moment, room): (Moment, u64),
    ) -> Result<(Vec<node_v1::Frame>, u32), Refusal> {
        let (mut frames, mut bytes, mut looked_at) = (Vec::new(), 0, 0);
        for &id in ids {
            looked_at += 1;
            if !read.shown.shows(id) {
                continue;
            }
            let found = self.version_of(read, id, moment).map_err(|error| self.unreadable(error))?;
            if let Some(record) = found {
                let frame = self.open_frame(&read.collection, id, record)?;
                bytes += bytes_of(&frame);
                frames.push(frame);
            }
            if bytes >= room {
                break;
            }
        }
        Ok((frames, looked_at))
    }

    fn version_of(&self, read: &ReadView, id: FrameId, moment: Moment) -> Result<Option<FrameRecord>, EngineError> {
        let (collection, now_ms) = (read.collection.id, self.group.time_ms());
        let Some(stored) = read.view.get(&record::frame_key(collection, id))? else { return Ok(None) };
        let current = FrameRecord::decode(&stored)?;
        if current.fields.class != Class::Memory || current.fields.expired(now_ms) {
            return Ok(None);
        }
        if moment.is_current(&current) {
            return Ok(Some(current));
        }
        let history = history::read(&read.view, collection, id)?;
        match moment.find(&history).filter(|past| !past.expired(now_ms)) {
            Some(past) => Ok(Some(history::read_version(&read.view, collection, (id, past))?.record)),
            None => Ok(None),
        }
    }
}
