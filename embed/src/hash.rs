//! An embedder for tests: hashed words and character trigrams instead of a model.
//!
//! It needs no files, costs microseconds and is the same on every machine and in every version of this crate, so tests
//! can pin results. Texts that share words or spellings come near each other; meaning plays no part, so it is of no use
//! for real search. Each feature is hashed to one component and a sign (feature hashing, Weinberger et al. 2009).

use crate::{EmbedError, Embedder, ModelInfo, PASSAGE_OVERLAP_TOKENS, Passage, PassagePlan, Token, passages};

/// A word says more of a text than one of its trigrams.
const WORD_WEIGHT: f32 = 1.0;
const TRIGRAM_WEIGHT: f32 = 0.35;

/// The test embedder. Its tokens are words: runs without white space.
#[derive(Clone, Debug)]
pub struct HashEmbedder {
    model: ModelInfo,
    overlap: usize,
}

impl HashEmbedder {
    /// An embedder of `dim` components that takes 256 words at once, as many as MiniLM takes tokens.
    pub fn new(dim: usize) -> Self {
        Self::with_max_words(dim, 256)
    }

    /// An embedder of `dim` components that takes `max_words` words at once, for tests of passages.
    ///
    /// Panics if either is 0.
    pub fn with_max_words(dim: usize, max_words: usize) -> Self {
        assert!(dim > 0 && max_words > 0, "a vector needs components and a passage needs words");
        let model = ModelInfo { name: format!("hash-{dim}"), dim, max_tokens: max_words };
        Self { model, overlap: PASSAGE_OVERLAP_TOKENS.min(max_words / 8) }
    }

    fn embed_one(&self, text: &str) -> Vec<f32> {
        let mut vector = vec![0.0; self.model.dim];
        // Gives an empty text a direction too.
        add(&mut vector, "", TRIGRAM_WEIGHT);
        let folded = text.to_lowercase();
        for word in folded.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty()) {
            add(&mut vector, word, WORD_WEIGHT);
            let marked: Vec<char> = std::iter::once('^').chain(word.chars()).chain(['$']).collect();
            for trigram in marked.windows(3) {
                add(&mut vector, &trigram.iter().collect::<String>(), TRIGRAM_WEIGHT);
            }
        }
        normalize(vector)
    }
}

impl Embedder for HashEmbedder {
    fn model(&self) -> &ModelInfo {
        &self.model
    }

    fn embed(&self, texts: &[&str]) -> Result<Vec<Vec<f32>>, EmbedError> {
        for (index, text) in texts.iter().enumerate() {
            let (tokens, max) = (text.split_whitespace().count(), self.model.max_tokens);
            if tokens > max {
                return Err(EmbedError::TooLong { index, tokens, max });
            }
        }
        Ok(texts.iter().map(|text| self.embed_one(text)).collect())
    }

    fn passages(&self, text: &str, limit: usize) -> Result<Vec<Passage>, EmbedError> {
        let plan = PassagePlan { max_tokens: self.model.max_tokens, overlap: self.overlap, limit };
        passages(text, &words(text), plan, |part| Ok(part.split_whitespace().count()))
    }
}

fn words(text: &str) -> Vec<Token> {
    let start_of = |word: &str| word.as_ptr() as usize - text.as_ptr() as usize;
    let range = |word: &str| start_of(word)..start_of(word) + word.len();
    text.split_whitespace().enumerate().map(|(word, part)| Token { range: range(part), word: word as u32 }).collect()
}

fn add(vector: &mut [f32], feature: &str, weight: f32) {
    let hash = fnv1a(feature.as_bytes());
    let sign = if hash >> 63 == 0 { weight } else { -weight };
    let place = (hash % vector.len() as u64) as usize;
    vector[place] += sign;
}

/// FNV-1a with a final mix (the finisher of MurmurHash3), because the top bits of FNV of short words are poor.
fn fnv1a(bytes: &[u8]) -> u64 {
    let hash = bytes
        .iter()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, &byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3));
    let hash = (hash ^ (hash >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    let hash = (hash ^ (hash >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    hash ^ (hash >> 33)
}

fn normalize(mut vector: Vec<f32>) -> Vec<f32> {
    let length = vector.iter().map(|x| x * x).sum::<f32>().sqrt();
    if length == 0.0 {
        // Features that cancelled each other exactly: any fixed direction will do.
        vector[0] = 1.0;
        return vector;
    }
    vector.iter_mut().for_each(|x| *x /= length);
    vector
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cosine(a: &[f32], b: &[f32]) -> f32 {
        a.iter().zip(b).map(|(x, y)| x * y).sum()
    }

    #[test]
    fn similar_texts_come_near_each_other() {
        let texts = ["the cat sat on the mat", "the cats sat on a mat", "quarterly revenue figures for Berlin"];
        let vectors = HashEmbedder::new(384).embed(&texts).unwrap();
        assert!(cosine(&vectors[0], &vectors[1]) > 0.5);
        assert!(cosine(&vectors[0], &vectors[2]).abs() < 0.3);
    }

    #[test]
    fn vectors_have_the_asked_dimension_and_unit_length() {
        for dim in [1, 3, 384, 1536] {
            for vector in HashEmbedder::new(dim).embed(&["", "a", "grüße 世界", "one two one"]).unwrap() {
                assert_eq!(vector.len(), dim);
                assert!((cosine(&vector, &vector) - 1.0).abs() < 1e-5);
            }
        }
    }

    #[test]
    fn results_stay_the_same_between_versions() {
        let vector = &HashEmbedder::new(4).embed(&["stable result"]).unwrap()[0];
        let pinned = [0.386_363, 0.0, -0.579_545, 0.717_532];
        assert!(vector.iter().zip(pinned).all(|(x, y): (_, f32)| (x - y).abs() < 1e-5), "{vector:?}");
    }

    #[test]
    fn long_texts_are_refused_or_split() {
        let embedder = HashEmbedder::with_max_words(8, 16);
        let text = "one two three four. ".repeat(25);
        assert!(matches!(embedder.embed(&["", &text]), Err(EmbedError::TooLong { index: 1, tokens: 100, max: 16 })));
        let parts = embedder.passages(&text, 100).unwrap();
        let texts: Vec<&str> = parts.iter().map(|part| &text[part.range.clone()]).collect();
        assert_eq!(embedder.embed(&texts).unwrap().len(), parts.len());
        assert!(parts.len() >= 7);
    }
}
