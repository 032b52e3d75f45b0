//! Memories with a past: what must come through whatever moves frames, seals them anew or copies them.

use mira_proto::model::{ChangeAction, ChangeRequest, ForgetRequest, RecallRequest, StoreItem, StoreRequest};
use mira_proto::{Code, Problem};
use uuid::Uuid;

use crate::support::{Cluster, NAME, context, vector};

/// So many that every shard has some.
const MEMORIES: u128 = 12;
/// No worker has ids like these.
const FIRST: u128 = 0x7fff_0000_0000_4000_8000_0000_0000_0000;

fn ids() -> impl Iterator<Item = Uuid> {
    // Spread over all shards, and the same in every run.
    (0..MEMORIES).map(|n| Uuid::from_u128(FIRST + (n << 96) + (n * 0x9e37_79b9_7f4a)))
}

impl Cluster {
    async fn say(&self, id: Uuid, content: String) -> u64 {
        let item = StoreItem {
            content: Some(content),
            vector: Some(vector(id)),
            id: Some(id),
            replace: true,
            collection: Some(NAME.into()),
            ..Default::default()
        };
        let reply = self.memory.store(&context(), StoreRequest { item, items: None }).await.expect("stored");
        reply.version.expect("one item was stored")
    }

    /// A version's number and what it says; the current one for none.
    async fn known(&self, id: Uuid, version: Option<u64>) -> Result<(u64, String), Problem> {
        let request = RecallRequest { id: Some(id), version, collection: Some(NAME.into()), ..Default::default() };
        let frame = self.memory.recall(&context(), request).await?.frames.remove(0);
        Ok((frame.version, frame.content.expect("it has a content")))
    }

    /// Stores memories of two versions each, and forgets every other one.
    pub async fn make_a_past(&self) {
        for (at, id) in ids().enumerate() {
            self.say(id, format!("first of {id}")).await;
            self.say(id, format!("second of {id}")).await;
            if at % 2 == 1 {
                let forget = ForgetRequest { id: Some(id), collection: Some(NAME.into()), ..Default::default() };
                let reply = self.memory.forget(&context(), forget).await.expect("forgotten");
                assert!(reply.removed == 1 && reply.restorable_until.is_some(), "{reply:?}");
            }
        }
    }

    /// Reads the past versions, brings back what was forgotten, and forgets it all for good.
    pub async fn has_its_past(&self) {
        for (at, id) in ids().enumerate() {
            if at % 2 == 1 {
                assert_eq!(self.known(id, None).await.expect_err("it rests in the bin").code, Code::NotFound);
                let (action, collection) = (ChangeAction::Restore, Some(NAME.to_owned()));
                let back = self
                    .memory
                    .change(&context(), ChangeRequest { action, id: Some(id), collection, ..ChangeRequest::default() })
                    .await;
                assert!(back.as_ref().is_ok_and(|back| back.version > Some(2) && !back.unchanged), "{id}: {back:?}");
            }
            // Workers forget others meanwhile, so versions begin anywhere; but one follows the other.
            let (current, said) = self.known(id, None).await.expect("it is there");
            assert_eq!(said, format!("second of {id}"));
            let (past, expected) = match at % 2 {
                0 => (current - 1, "first"),
                _ => (self.say(id, format!("third of {id}")).await - 1, "second"),
            };
            let known = self.known(id, Some(past)).await.unwrap_or_else(|problem| panic!("{id}: {problem}"));
            assert_eq!(known, (past, format!("{expected} of {id}")));
        }
        let forget = ForgetRequest {
            ids: Some(ids().collect()),
            now: true,
            collection: Some(NAME.into()),
            ..Default::default()
        };
        let reply = self.memory.forget(&context(), forget).await.expect("forgotten");
        assert_eq!((u128::from(reply.removed), reply.restorable_until), (MEMORIES, None));
    }
}
