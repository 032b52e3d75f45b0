//! Bringing frames back from the bin, on the shard's leader: open what rests there, seal it as a new version, propose, answer.
//!
//! A body is bound to its fields and its number, and a version that came back is another one than the one that was
//! forgotten, so it is sealed anew. What is proposed is remembered under the request's id also when nothing rested there:
//! a retry is answered as the first try was. As with stores, each round has an id of its own.

use mira_proto::{Code, Extensions, FrameId, Problem, Refusal, limits, node_v1};
use mira_raft::{RequestId, StateReader};

use crate::meta::CollectionRecord;

use crate::shard::{
    Shard,
    command::{self, Asker, SealedAnew, ShardAnswer, ShardCommand, UndeleteOutcome, UndeletedFrame},
    frame_id, history,
    migration::transfer::ended_version,
    pages::write_ids,
    read::private,
    record::{FrameFields, FramePlace, FrameRecord},
    refuse_engine, refuse_proposal,
    reseal::Resealer,
    write::{MAX_ROUNDS, keyed_request_id, round_id},
};

/// What a request brings back.
struct Wanted<'a> {
    frames: &'a [FrameId],
    asker: Asker,
    request_id: RequestId,
}

impl<R: mira_raft::Runtime> Shard<R> {
    /// Brings frames back from the bin; each is brought back or refused by itself.
    pub async fn undelete(&self, request: node_v1::UndeleteRequest) -> Result<node_v1::UndeleteReply, Refusal> {
        let (header, collection) = self.begin_write(request.header.as_ref()).await?;
        if request.ids.len() > limits::MAX_FORGET_STEP {
            let detail = format!("{} ids, the limit is {}", request.ids.len(), limits::MAX_FORGET_STEP);
            return Err(Problem::new(Code::TooLarge, detail).into());
        }
        let frames: Vec<FrameId> = request.ids.iter().map(|id| frame_id(id)).collect::<Result<_, _>>()?;
        self.must_have_arrived(collection.id, frames.iter().copied())?;
        let wanted = Wanted {
            frames: &frames,
            asker: private::asker_named(&self.shared.keyring, &collection, &request.owner)?,
            request_id: keyed_request_id(&*self.shared.keyring.tags(&collection)?, &header.request_id)?,
        };
        let guards = self.locks.lock(frames.iter().copied()).await;
        let (outcomes, index) = self.bring_back(&collection, &wanted).await?;
        drop(guards);
        let view = self.group.reader().cached_view().map_err(|error| self.unreadable(error))?;
        let mut answers = Vec::with_capacity(frames.len());
        for (&frame, outcome) in frames.iter().zip(outcomes) {
            let forgotten = match outcome {
                UndeleteOutcome::Current(_) => self.forgotten_versions(&view, &collection, frame)?,
                _ => Vec::new(),
            };
            answers.push(node_v1::WriteOutcome { forgotten, ..to_wire(outcome) });
        }
        Ok(node_v1::UndeleteReply { outcomes: answers, index })
    }

    /// Past versions of a frame that were forgotten before it was stored again, and are still kept.
    fn forgotten_versions(
        &self,
        view: &StateReader,
        collection: &CollectionRecord,
        frame: FrameId,
    ) -> Result<Vec<u64>, Refusal> {
        let history = history::read(view, collection.id, frame).map_err(|error| self.unreadable(error))?;
        Ok(history.past().iter().filter(|past| past.ending.forgotten_ms != 0).map(|past| past.version).collect())
    }

    async fn bring_back(
        &self,
        collection: &CollectionRecord,
        wanted: &Wanted<'_>,
    ) -> Result<(Vec<UndeleteOutcome>, u64), Refusal> {
        let mut outcomes = vec![UndeleteOutcome::Raced; wanted.frames.len()];
        let mut index = self.group.reader().applied_index();
        for round in 0..MAX_ROUNDS {
            let open: Vec<usize> = (0..outcomes.len()).filter(|&at| outcomes[at] == UndeleteOutcome::Raced).collect();
            if open.is_empty() {
                break;
            }
            // What seals may have changed since the last round.
            let newest = self.shared.cluster.borrow().collections.get(&collection.id).cloned();
            let collection = newest.as_ref().unwrap_or(collection);
            let ids: Vec<FrameId> = open.iter().map(|&at| wanted.frames[at]).collect();
            let frames = tokio::task::block_in_place(|| self.sealed_anew(collection, &ids))?;
            let keep_versions = collection.retention.versions();
            let command =
                ShardCommand::Undelete { collection: collection.id, frames, asker: wanted.asker, keep_versions };
            let fingerprint = [&b"undelete"[..], &write_ids(&ids)].concat();
            let request_id = round_id(wanted.request_id, round);
            let proposed = self.group.propose_content(request_id, &fingerprint, command.encode()).await;
            let proposed = proposed.map_err(refuse_proposal)?;
            let answers = match command::decode(&proposed.response).map_err(refuse_engine)? {
                ShardAnswer::Undelete(answers) if answers.len() == ids.len() => answers,
                other => return Err(Problem::internal(format!("an undelete was answered with {other:?}")).into()),
            };
            for (at, outcome) in open.into_iter().zip(answers) {
                outcomes[at] = outcome;
            }
            index = proposed.index;
        }
        Ok((outcomes, index))
    }

    /// What rests in the bin of these frames, sealed as the versions that they become.
    fn sealed_anew(&self, collection: &CollectionRecord, frames: &[FrameId]) -> Result<Vec<UndeletedFrame>, Refusal> {
        let view = self.group.reader().view().map_err(|error| self.unreadable(error))?;
        let ended = ended_version(&view, collection.id).map_err(|error| self.unreadable(error))?;
        let mut resealer = Resealer::new(&self.shared, collection);
        let mut found = Vec::with_capacity(frames.len());
        for &frame in frames {
            let anew = self.seal_anew(&view, (collection, frame, ended), &mut resealer)?;
            found.push(UndeletedFrame { frame, anew });
        }
        Ok(found)
    }

    fn seal_anew(
        &self,
        view: &StateReader,
        (collection, frame, ended): (&CollectionRecord, FrameId, u64),
        resealer: &mut Resealer<'_>,
    ) -> Result<Option<SealedAnew>, Refusal> {
        let history = history::read(view, collection.id, frame).map_err(|error| self.unreadable(error))?;
        let Some(binned) = history.binned() else { return Ok(None) };
        let there = history::read_version(view, collection.id, (frame, binned));
        let there = there.map_err(|error| self.unreadable(error))?;
        let from = there.record.fields.version;
        let version = ended.max(from).saturating_add(1);
        let updated_ms = self.group.time_ms().max(there.record.fields.updated_ms);
        let extensions = Extensions::default();
        let fields = FrameFields { version, updated_ms, extensions, ..there.record.fields.clone() };
        let here = FramePlace { collection: collection.id, shard: self.id, frame, version: from };
        let anew = resealer.anew(here, (there.record, there.vectors), (FramePlace { version, ..here }, fields));
        let (record, vectors): (FrameRecord, _) = anew.map_err(|error| self.unopened(frame, &error))?;
        Ok(Some(SealedAnew { from, record, vectors, key_version: collection.key_version }))
    }
}

fn to_wire(outcome: UndeleteOutcome) -> node_v1::WriteOutcome {
    let refused = |problem: Problem| node_v1::WriteOutcome { problem: Some(problem.into()), ..Default::default() };
    match outcome {
        UndeleteOutcome::Restored(version) => node_v1::WriteOutcome { version, ..Default::default() },
        UndeleteOutcome::Current(version) => node_v1::WriteOutcome { version, unchanged: true, ..Default::default() },
        UndeleteOutcome::Moved => node_v1::WriteOutcome { moved: true, ..Default::default() },
        UndeleteOutcome::Missing => refused(Problem::new(
            Code::NotFound,
            "nothing of that id rests in the bin: it was never stored, or is gone for good",
        )),
        UndeleteOutcome::Foreign => refused(private::foreign()),
        UndeleteOutcome::Raced => {
            refused(Problem::new(Code::Conflict, "the memory keeps changing while it is brought back; try again"))
        }
    }
}
