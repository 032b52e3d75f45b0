//! Texts to store and to ask with.
//!
//! Real ones are collected on the machine by the demo's program (`deploy/demo/corpus.py`): package descriptions, else
//! manual pages. Without Python or either, they are put together from words; the report says which.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};

use crate::BenchError;

const CORPUS: &str = include_str!("../../deploy/demo/corpus.py");
/// Words of a question; with the model's own pieces about 16 tokens.
const QUERY_WORDS: usize = 10;

const WORDS: &[&str] = &[
    "garden",
    "kettle",
    "deploy",
    "meeting",
    "invoice",
    "river",
    "compiler",
    "violin",
    "winter",
    "password",
    "harbour",
    "recipe",
    "server",
    "novel",
    "bicycle",
    "contract",
    "lantern",
    "database",
    "orchard",
    "station",
    "letter",
    "engine",
    "market",
    "library",
    "storm",
    "ticket",
    "museum",
    "signal",
    "bakery",
    "telescope",
    "is",
    "under",
    "before",
    "with",
    "near",
    "the",
    "a",
    "after",
    "needs",
    "keeps",
    "finds",
    "moves",
    "old",
    "quiet",
    "broken",
    "green",
    "second",
];

/// Many texts.
pub struct Texts {
    all: Vec<String>,
    /// Where they come from, for the report.
    pub origin: String,
}

impl Texts {
    /// Up to `count` texts of this machine, each cut to `chars` characters. `cache` keeps what had to be fetched.
    pub fn collect(count: usize, chars: usize, cache: &Path) -> Result<Texts, BenchError> {
        let script = cache.join("corpus.py");
        fs::create_dir_all(cache).and_then(|()| fs::write(&script, CORPUS)).map_err(BenchError::io(cache))?;
        let output = Command::new("python3")
            .arg(&script)
            .args(["--count", &count.to_string(), "--chars", &chars.to_string(), "--cache"])
            .arg(cache.join("lists"))
            .stdin(Stdio::null())
            .output();
        let lines = match output {
            Ok(output) if output.status.success() => String::from_utf8_lossy(&output.stdout).into_owned(),
            // No Python or no texts on this machine.
            _ => return Ok(Texts::invent(count, chars)),
        };
        let all: Vec<String> = lines
            .lines()
            .filter_map(|line| {
                Some(serde_json::from_str::<serde_json::Value>(line).ok()?["content"].as_str()?.to_owned())
            })
            .collect();
        if all.is_empty() {
            Ok(Texts::invent(count, chars))
        } else {
            Ok(Texts { origin: format!("{} texts of this machine", all.len()), all })
        }
    }

    /// Texts put together from words.
    pub fn invent(count: usize, chars: usize) -> Texts {
        let mut random = StdRng::seed_from_u64(11);
        let text = |_| {
            let mut text = String::new();
            while text.len() < chars {
                text += WORDS.choose(&mut random).unwrap_or(&"word");
                text.push(' ');
            }
            text.truncate(chars);
            text
        };
        Texts { all: (0..count).map(text).collect(), origin: "invented texts".to_owned() }
    }

    /// How many.
    pub fn len(&self) -> usize {
        self.all.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// All.
    pub fn all(&self) -> &[String] {
        &self.all
    }

    /// One; numbers beyond the last begin again.
    pub fn text(&self, number: usize) -> &str {
        &self.all[number % self.all.len()]
    }

    /// A question that was not asked before: some words of a text, from a place that moves on with every round through
    /// the texts, and a number, so that no cache has its answer.
    pub fn query(&self, number: usize) -> String {
        let words: Vec<&str> = self.text(number).split_whitespace().collect();
        let round = number / self.all.len();
        let start = round % words.len().saturating_sub(QUERY_WORDS).max(1);
        let mut query = words[start..words.len().min(start + QUERY_WORDS)].join(" ");
        query += &format!(" {}", number % 997);
        query
    }
}

/// Text of so many bytes that does not compress: the same for the same number.
pub fn opaque_text(number: u64, bytes: usize) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut random = StdRng::seed_from_u64(number);
    (0..bytes).map(|_| char::from(ALPHABET[random.random_range(0..64)])).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn questions_do_not_repeat() {
        let texts = Texts::invent(40, 300);
        let asked: BTreeSet<String> = (0..2_000).map(|number| texts.query(number)).collect();
        assert!(asked.len() > 1_950, "{}", asked.len());
        assert!(asked.iter().all(|query| query.split(' ').count() <= QUERY_WORDS + 1));
    }

    #[test]
    fn opaque_text_has_its_length() {
        assert_eq!(opaque_text(1, 1024).len(), 1024);
        assert_ne!(opaque_text(1, 64), opaque_text(2, 64));
    }
}
