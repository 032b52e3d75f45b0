//! Which of the records that come again are there: found before anything is embedded.
//!
//! An import that runs again sends every record of its source, each with its `source_key`, from which its id follows. To ask
//! the shards which of these they have costs a read; to embed a text again costs many times that, and its shard would then
//! answer that it is there, or that the id holds other content. Both are decided here, as the shard decides it: by what the
//! caller said. What this cannot decide goes the whole way: frames that bring vectors, that replace, or whose collection is
//! on its way to more shards.

use std::collections::HashMap;

use mira_proto::model::{Consistency, Stored};
use mira_proto::node_v1::{self, FrameClass};
use mira_proto::{Code, FrameId, Problem};
use uuid::Uuid;

use super::draft::Draft;
use super::{Identified, Outcomes, needs_embedding};
use crate::cluster::{CollectionRoute, WantedFrames, WantedVersion};
use crate::operations::recall;
use crate::private::seal;
use crate::{Memory, RequestContext, ids};

impl Memory {
    /// Settles the drafts that are there already; gives back the others.
    pub(super) async fn settle_known(
        &self,
        context: &RequestContext,
        route: &CollectionRoute,
        mut drafts: Vec<Identified>,
        outcomes: &mut Outcomes,
    ) -> Vec<Identified> {
        let mut left: Vec<Uuid> =
            drafts.iter().filter(|found| may_be_known(&found.draft)).map(|found| found.id).collect();
        if !route.is_settled() {
            return drafts;
        }
        let reading = context.reading(Consistency::Linearizable).for_first_phase();
        while !left.is_empty() {
            let (class, version) = (FrameClass::Memory, WantedVersion::Current);
            let wanted = WantedFrames { class, ids: &left, max_bytes: recall::share(route), version };
            // A shard that does not answer this is asked again by the write, whose failure the caller is told.
            let Ok(fetched) = self.cluster.fetch(&reading, route, wanted).await else { break };
            let mut known: HashMap<FrameId, Known> = HashMap::new();
            for (_, node_v1::FetchReply { state, frames, .. }) in fetched.replies {
                let applied = state.map_or(0, |state| state.applied);
                let opened = frames.into_iter().filter_map(|frame| opened(context, route, frame));
                known.extend(opened.map(|(id, frame)| (id, Known { applied, frame })));
            }
            drafts.retain(|draft| {
                let id = draft.id.as_u128();
                let Some(Known { applied, frame }) = known.get(&id).filter(|_| may_be_known(&draft.draft)) else {
                    return true;
                };
                outcomes.token.note(route.partitioning().shard_of(id), *applied);
                outcomes.settle(draft.at, outcome(frame, draft));
                false
            });
            left = fetched.left;
        }
        drafts
    }
}

/// A frame that is there, as of an index of its shard.
struct Known {
    applied: u64,
    frame: node_v1::Frame,
}

/// A frame with nothing sealed in it; none that another owner has sealed.
fn opened(
    context: &RequestContext,
    route: &CollectionRoute,
    frame: node_v1::Frame,
) -> Option<(FrameId, node_v1::Frame)> {
    let id = ids::id_from_bytes(&frame.id)?;
    Some((id, seal::open(context.owner_key(), route.info.id, frame).ok()?.frame))
}

fn may_be_known(draft: &Draft) -> bool {
    let only_creates = !draft.replace && draft.expected_version.is_none();
    draft.source_key.is_some() && only_creates && needs_embedding(draft) && draft.vectors.is_empty()
}

fn outcome(frame: &node_v1::Frame, Identified { id, draft, .. }: &Identified) -> Result<Stored, Problem> {
    let version = frame.version;
    if says_the_same(frame, draft) {
        return Ok(Stored { id: *id, version, unchanged: true });
    }
    let detail = format!(
        "the source_key names a memory that differs in content or another field, version {version}; use replace or \
         expected_version to store a new one"
    );
    Err(Problem::new(Code::Conflict, detail))
}

/// Whether a frame is what a draft without vectors says.
fn says_the_same(frame: &node_v1::Frame, draft: &Draft) -> bool {
    // A vector of its caller's would stand for the whole text.
    let is_embedded = !frame.passage_ranges.is_empty();
    let theirs = (&frame.r#type, &frame.session, &frame.role, &frame.metadata_json, frame.expires_ms);
    let ours = (&draft.kind, &draft.session, &draft.role, &draft.metadata_json, draft.expires_ms);
    frame.text == draft.text
        && frame.content == draft.content
        && frame.attachment == draft.attachment
        && is_embedded
        && theirs == ours
}

#[cfg(test)]
mod tests {
    use super::*;

    fn draft() -> Draft {
        let (kind, session) = ("general".to_owned(), "s".to_owned());
        let source_key = Some("a".to_owned());
        Draft { content: "tea".into(), text: true, kind, session, source_key, ..Draft::default() }
    }

    fn frame() -> node_v1::Frame {
        let (content, text, version) = ("tea".into(), true, 3);
        let (r#type, session) = ("general".to_owned(), "s".to_owned());
        node_v1::Frame { content, text, r#type, session, version, passage_ranges: vec![0, 3], ..Default::default() }
    }

    fn settled(frame: &node_v1::Frame, draft: Draft) -> Result<Stored, Code> {
        outcome(frame, &Identified { at: 0, id: Uuid::nil(), draft }).map_err(|problem| problem.code)
    }

    #[test]
    fn what_is_the_same_is_unchanged_and_anything_else_a_conflict() {
        assert_eq!(settled(&frame(), draft()), Ok(Stored { id: Uuid::nil(), version: 3, unchanged: true }));
        let others = [
            node_v1::Frame { content: "Tea".into(), ..frame() },
            node_v1::Frame { text: false, ..frame() },
            node_v1::Frame { r#type: "insight".into(), ..frame() },
            node_v1::Frame { role: "user".into(), ..frame() },
            node_v1::Frame { metadata_json: "{}".into(), ..frame() },
            node_v1::Frame { expires_ms: 7, ..frame() },
            node_v1::Frame { attachment: Some(node_v1::Attachment::default()), ..frame() },
            node_v1::Frame { passage_ranges: vec![], ..frame() },
        ];
        for other in others {
            assert_eq!(settled(&other, draft()), Err(Code::Conflict), "{other:?}");
        }
    }

    #[test]
    fn only_records_that_would_be_embedded_to_be_created_are_asked_for() {
        assert!(may_be_known(&draft()));
        let others = [
            Draft { source_key: None, ..draft() },
            Draft { replace: true, ..draft() },
            Draft { expected_version: Some(1), ..draft() },
            Draft { vector: Some(vec![1.0]), ..draft() },
            Draft { vectors: [("state".to_owned(), vec![1.0])].into(), ..draft() },
            Draft { text: false, ..draft() },
        ];
        assert!(others.iter().all(|other| !may_be_known(other)));
    }
}
