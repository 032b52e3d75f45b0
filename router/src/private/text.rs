//! Searching an owner's private frames by words.
//!
//! No index holds them, on no node and in no router. So every body of the owner's is opened once for each search, page by
//! page ([`super::post_filter`]); the words of the question are counted in it, and it is wiped. What stays are numbers. When all
//! have been counted, frames are ranked by BM25 over them; nothing is left out, so the ranking is exact.
//!
//! `hybrid` fuses that ranking with the one by meaning: each gives a frame `1 / (60 + rank)`, and the sum counts
//! (reciprocal rank fusion; Cormack, Clarke, Büttcher, SIGIR 2009), because the scores of the two have nothing in common.

use std::collections::{HashMap, HashSet};

use mira_proto::{FrameId, limits};
use unicode_segmentation::UnicodeSegmentation;

use crate::ranking::merge::{Candidate, WordCounts, merge};

/// How soon another occurrence of a word counts for less, and how much a long text is held against it: the usual values
/// (Robertson, Zaragoza: The Probabilistic Relevance Framework, 2009, section 3.4).
const K1: f32 = 1.2;
const B: f32 = 0.75;
/// The constant of reciprocal rank fusion.
const FUSION: f32 = 60.0;

/// The words that a search looks for.
#[derive(Debug, Clone, PartialEq)]
pub struct Words(Vec<String>);

impl Words {
    /// The words of a question, in lower case, each once.
    pub fn of(question: &str) -> Words {
        let mut seen = HashSet::new();
        let words = question.unicode_words().map(str::to_lowercase).filter(|word| seen.insert(word.clone()));
        Words(words.take(limits::MAX_QUERY_WORDS).collect())
    }

    /// Whether there is nothing to look for.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// WordCounts them in a text. Copies nothing of it.
    pub fn count(&self, text: &str) -> WordCounts {
        let mut counts = WordCounts { found: vec![0; self.0.len()], words: 0 };
        for word in text.unicode_words() {
            counts.words += 1;
            if let Some(at) = self.position(word) {
                counts.found[at] += 1;
            }
        }
        counts
    }

    /// Byte ranges of their first occurrences in a text.
    pub fn highlights(&self, text: &str) -> Vec<(u32, u32)> {
        let found = text.unicode_word_indices().filter(|(_, word)| self.position(word).is_some());
        let ranges = found.map(|(start, word)| (start as u32, (start + word.len()) as u32));
        ranges.take(limits::MAX_HIGHLIGHTS).collect()
    }

    fn position(&self, word: &str) -> Option<usize> {
        let is_same = |wanted: &String| wanted.chars().eq(word.chars().flat_map(char::to_lowercase));
        self.0.iter().position(is_same)
    }
}

/// The frames in which any of the words occurs, best first, each with its rank and score by BM25. All of `texts` are what
/// the words' rarity is told from.
pub fn rank_by_words(texts: Vec<(Candidate, WordCounts)>) -> Vec<Candidate> {
    let total = texts.len() as f32;
    let length = texts.iter().map(|(_, counts)| f64::from(counts.words)).sum::<f64>() / f64::from(total.max(1.0));
    let words = texts.first().map_or(0, |(_, counts)| counts.found.len());
    let rarity = |word: usize| {
        let having = texts.iter().filter(|(_, counts)| counts.found[word] > 0).count() as f32;
        (1.0 + (total - having + 0.5) / (having + 0.5)).ln()
    };
    let rarities: Vec<f32> = (0..words).map(rarity).collect();
    let scored = texts.into_iter().filter_map(|(candidate, counts)| {
        let shortness = K1 * (1.0 - B + B * counts.words as f32 / (length as f32).max(1.0));
        let worth = |(&found, rarity): (&u32, &f32)| rarity * found as f32 * (K1 + 1.0) / (found as f32 + shortness);
        let score: f32 = counts.found.iter().zip(&rarities).map(worth).sum();
        (score > 0.0).then_some(Candidate { score, ..candidate })
    });
    let mut ranked = merge([scored.collect()]);
    ranked.iter_mut().zip(1..).for_each(|(candidate, rank)| candidate.by_words = Some((rank, candidate.score)));
    ranked
}

/// One ranking of two: by meaning, best first, and by words, as [`rank_by_words`] gives it.
pub fn fuse(by_meaning: Vec<Candidate>, by_words: Vec<Candidate>) -> Vec<Candidate> {
    let share = |rank: u32| 1.0 / (FUSION + rank as f32);
    let mut fused: HashMap<FrameId, Candidate> = HashMap::with_capacity(by_meaning.len() + by_words.len());
    for (candidate, rank) in by_meaning.into_iter().zip(1..) {
        fused.insert(candidate.id, Candidate { score: share(rank), vector_rank: Some(rank), ..candidate });
    }
    for candidate in by_words {
        let by_words = candidate.by_words;
        let found = fused.entry(candidate.id).or_insert(Candidate { score: 0.0, ..candidate });
        found.score += by_words.map_or(0.0, |(rank, _)| share(rank));
        found.by_words = by_words;
    }
    merge([fused.into_values().collect()])
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn candidate(id: FrameId) -> Candidate {
        Candidate { id, ..Candidate::default() }
    }

    fn ids(ranked: &[Candidate]) -> Vec<FrameId> {
        ranked.iter().map(|candidate| candidate.id).collect()
    }

    fn ranked(question: &str, texts: &[&str]) -> Vec<Candidate> {
        let words = Words::of(question);
        rank_by_words(texts.iter().zip(1..).map(|(text, id)| (candidate(id), words.count(text))).collect())
    }

    #[test]
    fn words_are_found_whatever_their_case_and_what_stands_around_them() {
        let words = Words::of("Straße, straße! the KEY-ring don't");
        assert_eq!(words.0, ["straße", "the", "key", "ring", "don't"]);
        let counts = words.count("The key? THE Key. Strasse; STRASSE straße (don't)");
        assert_eq!((counts.found, counts.words), (vec![1, 2, 2, 0, 1], 8));
        let text = "Über the Straße";
        let marked: Vec<&str> =
            words.highlights(text).iter().map(|&(from, to)| &text[from as usize..to as usize]).collect();
        assert_eq!(marked, ["the", "Straße"]);
        assert!(Words::of("…?!").is_empty());
        assert_eq!(Words::of(&"a b c d e f ".repeat(900)).0.len(), 6);
    }

    #[test]
    fn rare_words_and_short_texts_come_first() {
        let texts =
            ["the deploy key", "the the the the", "a key of the house that stands by the sea", "nothing at all"];
        assert_eq!(ids(&ranked("the key", &texts)), [1, 3, 2]);
        assert_eq!(ids(&ranked("deploy", &texts)), [1]);
        assert!(ranked("absent", &texts).is_empty());
        assert!(ranked("the", &[]).is_empty());
        // By hand: one word, in one text of two, of three words both: ln(1 + 1.5 / 1.5) · 2.2 / (1 + 1.2).
        let one = ranked("tea", &["green tea leaves", "black bread crumbs"]);
        assert!((one[0].score - 2f32.ln()).abs() < 1e-6, "{}", one[0].score);
    }

    #[test]
    fn what_both_rankings_name_comes_first() {
        let by_words = ranked("tea", &["tea tea", "tea and bread", "bread"]);
        let by_meaning = vec![candidate(3), candidate(2)];
        let fused = fuse(by_meaning, by_words);
        assert_eq!(ids(&fused), [2, 1, 3]);
        assert_eq!(fused[0].score, 2.0 / 62.0);
        let reasons = |candidate: &Candidate| (candidate.vector_rank, candidate.by_words.map(|(rank, _)| rank));
        assert_eq!(
            fused.iter().map(reasons).collect::<Vec<_>>(),
            [(Some(2), Some(2)), (None, Some(1)), (Some(1), None)]
        );
    }

    proptest! {
        /// Against the formula written out, over texts of a small alphabet.
        #[test]
        fn equals_the_formula(texts in prop::collection::vec(prop::collection::vec(0usize..4, 0..9), 0..12)) {
            let alphabet = ["tea", "bread", "train", "sea"];
            let texts: Vec<String> = texts.iter().map(|text| text.iter().map(|&at| alphabet[at]).collect::<Vec<_>>().join(" ")).collect();
            let question = ["bread", "sea"];
            let lists: Vec<Vec<&str>> = texts.iter().map(|text| text.split_whitespace().collect()).collect();
            let mean = lists.iter().map(|list| list.len() as f64).sum::<f64>() / lists.len().max(1) as f64;
            let score = |list: &Vec<&str>| -> f64 {
                question.iter().map(|word| {
                    let having = lists.iter().filter(|list| list.contains(word)).count() as f64;
                    let rarity = (1.0 + (lists.len() as f64 - having + 0.5) / (having + 0.5)).ln();
                    let found = list.iter().filter(|found| found == &word).count() as f64;
                    rarity * found * 2.2 / (found + 1.2 * (0.25 + 0.75 * list.len() as f64 / mean.max(1.0)))
                }).sum()
            };
            let found = ranked("bread sea", &texts.iter().map(String::as_str).collect::<Vec<_>>());
            let expected: HashMap<FrameId, f64> = lists.iter().map(score).zip(1..).filter(|(score, _)| *score > 0.0).map(|(score, id)| (id, score)).collect();
            prop_assert_eq!(found.len(), expected.len());
            for candidate in &found {
                prop_assert!((f64::from(candidate.score) - expected[&candidate.id]).abs() < 1e-4);
            }
            prop_assert!(found.is_sorted_by(|a, b| a.score >= b.score));
        }
    }
}
