//! Requests that come again: whoever lost an answer gets the answer of the first time.
//!
//! A command that is made for a request carries the keyed name of the request's id and the reply; whatever applies it keeps
//! both, with the map's epoch that it made (`super::super::transitions::requests`). A request that comes again is looked up
//! before anything is judged by how the cluster is now: a collection that it removed is gone, and one that was made since
//! under the same name is not what it meant. An id is half the caller's key and half what is asked: another request under a key
//! that was used is refused.

use mira_proto::{Problem, REQUEST_KEY_BYTES, Refusal};
use prost::Message;

use crate::{
    member::Member,
    meta::{AnsweredRequest, ClusterState, KeyedName, MetaAnswer, MetaCommand, NameKey, RequestOutcome},
    shard,
};

/// Domains of the two halves of the keyed names of requests.
const NAME_DOMAIN: &str = "request";
const SAID_DOMAIN: &str = "what a request says";
/// Bytes of a request's id.
const ID_BYTES: usize = 16;

/// What a request was answered.
pub struct Answered<T> {
    /// The reply, without what only the log decided.
    pub reply: T,
    /// The map's epoch with what it changed.
    pub epoch: u64,
    /// Log-carried time of that.
    pub at_ms: u64,
}

/// A request by the id that its router gave it.
#[derive(Debug, Clone, Copy)]
pub struct AskedOnce {
    /// None if it has no id: then it is not remembered.
    name: Option<KeyedName>,
}

impl AskedOnce {
    /// The request of that id; an empty id is none.
    pub fn new(cluster: &ClusterState, id: &[u8]) -> Result<Self, Problem> {
        if !id.is_empty() && id.len() != ID_BYTES {
            return Err(Problem::invalid(format!("request_id has {} bytes instead of {ID_BYTES}", id.len())));
        }
        let key = cluster.name_key.filter(|_| !id.is_empty());
        let name = |key: NameKey| {
            let (named, said) = id.split_at(REQUEST_KEY_BYTES);
            let mut name = key.keyed(SAID_DOMAIN, said);
            name[..REQUEST_KEY_BYTES].copy_from_slice(&key.keyed(NAME_DOMAIN, named)[..REQUEST_KEY_BYTES]);
            name
        };
        Ok(AskedOnce { name: key.map(name) })
    }

    /// What it was answered, if it was carried out; an error if its key was used for another request.
    pub fn answered<T: Message + Default>(&self, cluster: &ClusterState) -> Result<Option<Answered<T>>, Refusal> {
        let Some(name) = self.name else { return Ok(None) };
        let has_key = |found: &&AnsweredRequest| found.name[..REQUEST_KEY_BYTES] == name[..REQUEST_KEY_BYTES];
        let found = cluster.requests.values().filter(has_key).min_by_key(|found| found.epoch);
        let Some(found) = found else { return Ok(None) };
        if found.name != name {
            return Err(shard::key_reused().into());
        }
        let reply = T::decode(&found.reply[..])
            .map_err(|error| Problem::internal(format!("a remembered reply cannot be read: {error}")))?;
        Ok(Some(Answered { reply, epoch: found.epoch, at_ms: found.at_ms }))
    }

    /// Has a command applied for it, which answers it with `reply`.
    pub async fn propose(
        &self,
        member: &Member,
        command: &MetaCommand,
        reply: &impl Message,
    ) -> Result<MetaAnswer, Refusal> {
        member.propose_meta_for(self.outcome(reply).as_ref(), command).await
    }

    /// What a command is to carry, so that the request is remembered.
    pub fn outcome(&self, reply: &impl Message) -> Option<RequestOutcome> {
        self.name.map(|name| RequestOutcome { name, reply: reply.encode_to_vec() })
    }

    /// It as a number; 0 if it has no id.
    pub fn number(&self) -> u128 {
        self.name.map_or(0, u128::from_be_bytes)
    }
}

#[cfg(test)]
mod tests {
    use mira_proto::{Code, node_v1::RotateKeyReply};

    use super::*;
    #[test]
    fn a_request_is_known_by_its_id_in_its_own_cluster_and_one_without_an_id_never() {
        let reply = RotateKeyReply { id: 3, ..RotateKeyReply::default() };
        let mut cluster = ClusterState { name_key: Some(NameKey([7; 32])), ..ClusterState::default() };
        let asked = AskedOnce::new(&cluster, &[1; 16]).expect("an id");
        let outcome = asked.outcome(&reply).expect("it is remembered");
        for (place, epoch) in [(9, 6), (2, 5)] {
            let RequestOutcome { name, reply } = outcome.clone();
            cluster.requests.insert_mut(place, AnsweredRequest { name, epoch, at_ms: 0, reply });
        }
        let answered = asked.answered::<RotateKeyReply>(&cluster).expect("it reads").expect("it is known");
        assert_eq!((answered.reply, answered.epoch), (reply.clone(), 5), "the first answer counts");

        let mut more = [1; 16];
        more[15] = 2;
        let other = AskedOnce::new(&cluster, &more).expect("an id");
        let refused = other.answered::<RotateKeyReply>(&cluster).err().expect("another request under its key");
        assert!(matches!(refused, Refusal::Problem(problem) if problem.code == Code::Conflict));

        for id in [&[2; 16][..], &[]] {
            let other = AskedOnce::new(&cluster, id).expect("an id or none");
            assert!(other.answered::<RotateKeyReply>(&cluster).expect("it reads").is_none(), "{id:?}");
        }
        let elsewhere = ClusterState { name_key: Some(NameKey([8; 32])), ..cluster.clone() };
        let other = AskedOnce::new(&elsewhere, &[1; 16]).expect("an id");
        assert!(other.answered::<RotateKeyReply>(&elsewhere).expect("it reads").is_none());
        let unformed = ClusterState::default();
        assert_eq!(AskedOnce::new(&unformed, &[1; 16]).expect("an id").outcome(&reply), None);
        assert_eq!(AskedOnce::new(&cluster, &[1; 15]).expect_err("short").code, Code::InvalidArgument);
    }
}
