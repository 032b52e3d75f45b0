//! The answers of shards to recent searches, to be given again while nothing changed.
//!
//! An answer is never given again on this router's word: the shard is asked each time whether the collection changed
//! since the position that the answer came from, at the level the caller reads at, and only its "no" makes the answer
//! good. So a hit costs one small round trip instead of a search, and nothing stale is shown: not after a write through
//! another router, a move of the shard, or an election. What a key stands for is everything the shard was asked, so two
//! callers that ask the same share an answer, and a collection dropped and created again is another one.

use lru::LruCache;
use mira_proto::limits;
use mira_proto::node_v1::{self, ReadState};
use parking_lot::Mutex;
use prost::Message;

/// What a search of one shard is kept under.
pub type Key = [u8; 32];

/// Answers of shards, each good once its shard says that nothing changed.
pub struct SearchCache(Mutex<CachedAnswers>);

struct CachedAnswers {
    answers: LruCache<Key, CachedAnswer>,
    bytes: usize,
}

#[derive(Clone)]
struct CachedAnswer {
    reply: node_v1::SearchReply,
    bytes: usize,
}

impl Default for SearchCache {
    fn default() -> Self {
        SearchCache(Mutex::new(CachedAnswers { answers: LruCache::unbounded(), bytes: 0 }))
    }
}

/// The key of a request, unless its answer depends on more than the collection: on the time, or on being asked.
pub fn key(request: &node_v1::SearchRequest) -> Option<Key> {
    if request.recency.is_some() || request.explain {
        return None;
    }
    let asked = request.header.clone().unwrap_or_default();
    let header = Some(node_v1::ReadHeader { epoch: 0, level: None, principal: String::new(), ..asked });
    let same = node_v1::SearchRequest { header, unless_changed_since: None, ..request.clone() };
    Some(*blake3::hash(&same.encode_to_vec()).as_bytes())
}

impl SearchCache {
    /// The position that the kept answer came from, if there is one.
    pub fn position(&self, key: &Key) -> Option<u64> {
        self.0.lock().answers.peek(key).map(|answer| answer.reply.as_of)
    }

    /// The kept answer, which a replica has just confirmed in this state: it is as old as that, not as what said it first.
    pub fn confirmed(&self, key: &Key, state: Option<ReadState>) -> Option<node_v1::SearchReply> {
        let reply = self.0.lock().answers.get(key)?.reply.clone();
        // The hits are those of the frames that were taken over then.
        let taken_over = reply.state.map(|state| state.taken_over).unwrap_or_default();
        Some(node_v1::SearchReply { state: state.map(|state| ReadState { taken_over, ..state }), ..reply })
    }

    /// Keeps an answer, and lets those go that were not asked for longest.
    pub fn keep(&self, key: Key, reply: &node_v1::SearchReply) {
        let bytes = reply.encoded_len() + size_of::<CachedAnswer>() + size_of::<Key>();
        if bytes > limits::MAX_KEPT_ANSWER_BYTES {
            return;
        }
        let mut kept = self.0.lock();
        if let Some(old) = kept.answers.put(key, CachedAnswer { reply: reply.clone(), bytes }) {
            kept.bytes -= old.bytes;
        }
        kept.bytes += bytes;
        while kept.answers.len() > limits::KEPT_ANSWERS || kept.bytes > limits::KEPT_ANSWERS_BYTES {
            let Some((_, gone)) = kept.answers.pop_lru() else { break };
            kept.bytes -= gone.bytes;
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn request(k: u32, shard: u32) -> node_v1::SearchRequest {
        let header = Some(node_v1::ReadHeader { shard, ..Default::default() });
        node_v1::SearchRequest { header, k, vector: vec![0.5; 384], ..Default::default() }
    }

    fn state(applied: u64) -> Option<ReadState> {
        Some(ReadState { applied, ..Default::default() })
    }

    pub(crate) fn reply(as_of: u64, bytes: usize) -> node_v1::SearchReply {
        let frame = Some(node_v1::Frame { content: vec![7; bytes].into(), ..Default::default() });
        let hits = vec![node_v1::Hit { frame, ..Default::default() }];
        node_v1::SearchReply { as_of, hits, ..Default::default() }
    }

    #[test]
    fn a_key_is_what_the_shard_is_asked() {
        let base = request(10, 1);
        let with = |change: fn(&mut node_v1::ReadHeader)| {
            let mut request = base.clone();
            request.header.as_mut().map(change);
            request
        };
        let same = [
            with(|header| header.epoch = 7),
            with(|header| header.principal = "ada".into()),
            node_v1::SearchRequest { unless_changed_since: Some(9), ..base.clone() },
            with(|header| header.level = Some(node_v1::ReadLevel { kind: 1, at_least: 5, last_resort: true })),
        ];
        assert!(same.iter().all(|other| key(other) == key(&base)));
        let others = [
            request(11, 1),
            request(10, 2),
            with(|header| header.collection = 5),
            with(|header| header.migration = Some(node_v1::MigrationView { from: 1, to: 2, without: vec![2] })),
            node_v1::SearchRequest { filter_json: "{}".into(), ..base.clone() },
        ];
        assert!(others.iter().all(|other| key(other) != key(&base)));
        let recency = Some(node_v1::Recency { half_life_ms: 1, weight: 0.5, now_ms: 0 });
        assert_eq!(key(&node_v1::SearchRequest { recency, ..base.clone() }), None);
        assert_eq!(key(&node_v1::SearchRequest { explain: true, ..base }), None);
    }

    #[test]
    fn answers_are_bounded_by_number_and_bytes() {
        let answers = SearchCache::default();
        let key_of = |number: u32| key(&request(number, 0)).unwrap();
        for number in 0..limits::KEPT_ANSWERS as u32 + 10 {
            answers.keep(key_of(number), &reply(u64::from(number), 10));
        }
        assert_eq!(answers.position(&key_of(9)), None);
        assert_eq!(answers.position(&key_of(10)), Some(10));
        assert_eq!(answers.confirmed(&key_of(10), state(99)).unwrap().state, state(99));
        answers.keep(key_of(1), &reply(1, limits::MAX_KEPT_ANSWER_BYTES));
        assert_eq!(answers.position(&key_of(1)), None, "one answer is not to push out all others");
        for number in 0..200 {
            answers.keep(key_of(number), &reply(1, limits::MAX_KEPT_ANSWER_BYTES - 1_000));
        }
        let kept = answers.0.lock();
        assert!(kept.bytes <= limits::KEPT_ANSWERS_BYTES);
        assert_eq!(kept.bytes, kept.answers.iter().map(|(_, answer)| answer.bytes).sum::<usize>());
    }
}
