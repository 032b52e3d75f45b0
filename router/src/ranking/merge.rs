//! Merging the answers of many shards into one ranked list.
//!
//! Every shard returns its own best hits. The merge orders all of them by score and breaks ties by frame id, so that
//! the same question gives the same order however many shards hold the collection. The list is longer than what the
//! caller asked for: a winner may vanish before its frame is fetched, and then the next one moves up.

use std::collections::HashSet;

use mira_index::Place;
use mira_proto::{FrameId, ShardId, node_v1};
use zeroize::Zeroizing;

/// How often each word of a question occurs in a text, and how many words the text has.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct WordCounts {
    /// Of each word of the question.
    pub found: Vec<u32>,
    /// Of the whole text.
    pub words: u32,
}

/// A hit of one shard.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Candidate {
    /// The frame.
    pub id: FrameId,
    /// What it is ranked by; a finite number, higher is better.
    pub score: f32,
    /// Its similarity, by the collection's metric.
    pub similarity: f32,
    /// The vector of its passage, when it was asked for; that of a private frame was sealed.
    pub vector: Zeroizing<Vec<f32>>,
    /// The value that makes its group, as JSON; empty for none.
    pub group_json: String,
    /// The shard that found it.
    pub shard: ShardId,
    /// Which of the frame's passages matched.
    pub passage: u32,
    /// Whether the router found it among its owner's private frames.
    pub is_private: bool,
    /// Its rank by meaning, where that is one of two.
    pub vector_rank: Option<u32>,
    /// Its rank and score by words.
    pub by_words: Option<(u32, f32)>,
    /// What was counted in its text.
    pub counts: Option<WordCounts>,
    /// The frame itself, when the shard sent it along. Apart, for there may be many candidates and few frames.
    pub frame: Option<Box<node_v1::Frame>>,
}

/// The lists of shards, of which some go on behind their last hit.
#[derive(Debug, Default)]
pub struct Lists {
    lists: Vec<Vec<Candidate>>,
    more: bool,
    /// Where the first of those ends.
    horizon: Option<Place>,
}

impl Lists {
    /// Adds the ranked list of a shard, and whether more may rank behind it.
    pub fn push(&mut self, list: Vec<Candidate>, more: bool) {
        self.more |= more;
        if let Some(last) = list.last().filter(|_| more) {
            let place = Place { score: last.score, id: last.id, shown: Vec::new() };
            // The earlier of the two.
            let is_earlier = self.horizon.as_ref().is_none_or(|horizon| place.is_before(horizon.score, horizon.id));
            if is_earlier {
                self.horizon = Some(place);
            }
        }
        self.lists.push(list);
    }

    /// All in one list, and whether more may rank behind it.
    pub fn merge(self) -> (Vec<Candidate>, bool) {
        (merge(self.lists), self.more)
    }

    /// As [`merge`](Self::merge), without what ranks behind the end of a list that goes on: something that nobody has named
    /// yet may come before it.
    pub fn merge_whole(self) -> (Vec<Candidate>, bool) {
        let (mut merged, more) = (merge(self.lists), self.more);
        if let Some(horizon) = self.horizon {
            merged.retain(|candidate| !horizon.is_before(candidate.score, candidate.id));
        }
        (merged, more)
    }
}

/// The best hits of a stream, in the memory of twice as many.
#[derive(Debug)]
pub struct Best {
    most: usize,
    hits: Vec<Candidate>,
}

impl Best {
    /// Keeps so many.
    pub fn new(most: usize) -> Self {
        Best { most, hits: Vec::new() }
    }

    /// Takes more hits, in any order.
    pub fn extend(&mut self, hits: impl IntoIterator<Item = Candidate>) {
        for hit in hits {
            self.hits.push(hit);
            if self.hits.len() >= 2 * self.most.max(1) {
                self.cut();
            }
        }
    }

    /// Whether there were as many as are kept, and maybe more.
    pub fn is_full(&self) -> bool {
        self.hits.len() >= self.most
    }

    fn cut(&mut self) {
        self.hits = merge([std::mem::take(&mut self.hits)]);
        self.hits.truncate(self.most);
    }

    /// Those kept, ranked as [`merge`] ranks.
    pub fn into_ranked(mut self) -> Vec<Candidate> {
        self.cut();
        self.hits
    }
}

/// Merges per-shard lists into one, best first, ties by ascending id.
///
/// A frame that two shards return (a shard is moving) counts once, with its better score. Cost: O(n log n) for n hits.
pub fn merge(lists: impl IntoIterator<Item = Vec<Candidate>>) -> Vec<Candidate> {
    let mut merged: Vec<Candidate> = lists.into_iter().flatten().collect();
    merged.sort_by(|a, b| b.score.total_cmp(&a.score).then(a.id.cmp(&b.id)).then(a.shard.cmp(&b.shard)));
    let mut seen = HashSet::with_capacity(merged.len());
    merged.retain(|candidate| seen.insert(candidate.id));
    merged
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn candidate(id: FrameId, score: f32, shard: ShardId) -> Candidate {
        Candidate { id, score, shard, ..Candidate::default() }
    }

    /// The slow way: again and again the best of what is left, by looking at everything.
    fn oracle(mut rest: Vec<Candidate>) -> Vec<(FrameId, f32)> {
        let mut ranked = Vec::new();
        while let Some(best) = rest.iter().map(|c| c.score).reduce(f32::max) {
            let id = rest.iter().filter(|c| c.score == best).map(|c| c.id).min().expect("the best is there");
            ranked.push((id, best));
            rest.retain(|c| c.id != id);
        }
        ranked
    }

    proptest! {
        #[test]
        fn equals_the_oracle_however_the_hits_are_spread(
            hits in prop::collection::vec((0u128..40, 0u8..12, 0u32..5), 0..120)
        ) {
            let hit = |(id, score, shard): (u128, u8, u32)| candidate(id, f32::from(score) / 4.0, shard);
            let hits: Vec<_> = hits.into_iter().map(hit).collect();
            let lists = (0..5).map(|shard| hits.iter().filter(|hit| hit.shard == shard).cloned().collect());
            let merged: Vec<_> = merge(lists).into_iter().map(|hit| (hit.id, hit.score)).collect();
            prop_assert_eq!(&merged, &oracle(hits.clone()));
            let one_shard: Vec<_> = merge([hits]).into_iter().map(|hit| (hit.id, hit.score)).collect();
            prop_assert_eq!(merged, one_shard);
        }

        #[test]
        fn the_best_of_a_stream_are_those_of_the_whole(
            most in 0usize..20, hits in prop::collection::vec((0u128..200, 0u8..12), 0..120)
        ) {
            let hits: Vec<_> = hits.into_iter().map(|(id, score)| candidate(id, f32::from(score), 0)).collect();
            let mut best = Best::new(most);
            best.extend(hits.iter().cloned());
            let mut whole = merge([hits]);
            whole.truncate(most);
            prop_assert_eq!(best.into_ranked(), whole);
        }
    }

    #[test]
    fn a_page_ends_where_the_first_unfinished_list_does() {
        let mut lists = Lists::default();
        lists.push(vec![candidate(1, 0.9, 0), candidate(2, 0.5, 0)], true);
        lists.push(vec![candidate(3, 0.8, 1), candidate(4, 0.5, 1), candidate(5, 0.4, 1)], false);
        lists.push(vec![candidate(6, 0.7, 2), candidate(7, 0.3, 2)], true);
        lists.push(Vec::new(), false);
        let (merged, more) = lists.merge_whole();
        let ids: Vec<FrameId> = merged.iter().map(|candidate| candidate.id).collect();
        assert_eq!((ids, more), (vec![1, 3, 6, 2], true));
        let mut whole = Lists::default();
        whole.push(vec![candidate(1, 0.9, 0)], false);
        assert_eq!(whole.merge_whole(), (vec![candidate(1, 0.9, 0)], false));
    }

    #[test]
    fn a_frame_on_two_shards_counts_once_with_its_better_score() {
        let merged = merge([vec![candidate(1, 0.5, 0), candidate(2, 0.4, 0)], vec![candidate(2, 0.9, 1)]]);
        assert_eq!(merged, [candidate(2, 0.9, 1), candidate(1, 0.5, 0)]);
    }
}
