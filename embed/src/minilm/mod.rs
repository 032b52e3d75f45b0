//! all-MiniLM-L6-v2 on the CPU, in f32.
//!
//! The model (sentence-transformers/all-MiniLM-L6-v2) is a BERT of six layers and 384 components whose last hidden
//! states are averaged and scaled to length 1. It runs here without a tensor library: weights are packed at load
//! (`weights`), the forward pass works on all tokens of a batch without padding (`network`) with fused kernels
//! (`kernels`, `lanes`). Stock candle needs twice the time, mostly between its products.
//!
//! A batch is cut into parts of about equal tokens, and each thread runs the whole network on its parts; threads never
//! meet inside a layer. Since there is no padding, texts need no sorting by length. A part has a few hundred tokens at
//! most, so that memory stays bounded and its rows stay in the cache.

mod files;
mod kernels;
mod lanes;
mod network;
mod weights;

use std::num::NonZero;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use safetensors::SafeTensors;
use tokenizers::Tokenizer;

use files::{Config, read_checked};
use kernels::Instructions;
use network::Network;
use weights::Weights;

use crate::{EmbedError, Embedder, ModelInfo, PASSAGE_OVERLAP_TOKENS, Passage, PassagePlan, Token, passages};

/// Word pieces of one text, [CLS] and [SEP] included: the length the model was fine-tuned with
/// (sentence_bert_config.json). Its positions go to 512, but what it was not trained on it does not place well.
const MAX_TOKENS: usize = 256;
/// [CLS] and [SEP].
const MARKS: usize = 2;
/// Tokens of a part at most, unless one text has more: 3.5 MB of activations.
const PART_TOKENS: usize = 256;
/// Tokens that are worth starting a thread for: about 10 ms of work against 0.1 ms.
const MIN_PART_TOKENS: usize = 32;

/// The all-MiniLM-L6-v2 embedder.
pub struct MiniLm {
    model: ModelInfo,
    tokenizer: Tokenizer,
    network: Network,
    threads: NonZero<usize>,
}

impl MiniLm {
    /// Loads the model from a folder that `make model` filled: config.json, tokenizer.json and model.safetensors.
    ///
    /// Each file is checked against its known SHA-256, so vectors of two processes can always be compared. The model
    /// occupies 90 MB. It computes on as many threads as the machine has processors.
    pub fn load(folder: impl AsRef<Path>) -> Result<Self, EmbedError> {
        let threads = thread::available_parallelism().unwrap_or(NonZero::<usize>::MIN);
        Self::load_with_threads(folder, threads)
    }

    /// As [`MiniLm::load`], with at most so many threads for one call of [`Embedder::embed`].
    pub fn load_with_threads(folder: impl AsRef<Path>, threads: NonZero<usize>) -> Result<Self, EmbedError> {
        let folder = folder.as_ref();
        let damaged = |name: &str, reason: String| EmbedError::ModelDamaged { path: folder.join(name), reason };
        let config = Config::parse(&read_checked(folder, "config.json")?).map_err(|e| damaged("config.json", e))?;
        let tokenizer = load_tokenizer(&read_checked(folder, "tokenizer.json")?, &config)
            .map_err(|reason| damaged("tokenizer.json", reason))?;
        let bytes = read_checked(folder, "model.safetensors")?;
        let tensors = SafeTensors::deserialize(&bytes).map_err(|e| damaged("model.safetensors", e.to_string()))?;
        let weights = Weights::read(&tensors, &config)?;
        let model = ModelInfo { name: "all-MiniLM-L6-v2".to_owned(), dim: config.hidden_size, max_tokens: MAX_TOKENS };
        Ok(Self { model, tokenizer, network: Network::new(weights, config, Instructions::detect()), threads })
    }

    fn token_ids(&self, index: usize, text: &str) -> Result<Vec<u32>, EmbedError> {
        let encoding = self.tokenizer.encode_fast(text, true).map_err(tokenizer_error)?;
        let (tokens, max) = (encoding.len(), self.model.max_tokens);
        if tokens > max {
            return Err(EmbedError::TooLong { index, tokens, max });
        }
        Ok(encoding.get_ids().to_vec())
    }
}

impl Embedder for MiniLm {
    fn model(&self) -> &ModelInfo {
        &self.model
    }

    fn embed(&self, texts: &[&str]) -> Result<Vec<Vec<f32>>, EmbedError> {
        let ids = texts.iter().enumerate().map(|(at, text)| self.token_ids(at, text)).collect::<Result<Vec<_>, _>>()?;
        let ids: Vec<&[u32]> = ids.iter().map(Vec::as_slice).collect();
        let parts = parts(&ids, self.threads.get());
        let vectors = on_threads(&parts, self.threads.get(), |part| self.network.embed(part));
        Ok(vectors.into_iter().flatten().collect())
    }

    fn passages(&self, text: &str, limit: usize) -> Result<Vec<Passage>, EmbedError> {
        let encoding = self.tokenizer.encode(text, false).map_err(tokenizer_error)?;
        let words = encoding.get_word_ids().iter().map(|word| word.unwrap_or_default());
        let tokens: Vec<Token> = encoding
            .get_offsets()
            .iter()
            .zip(words)
            .map(|(&(start, end), word)| Token { range: start..end, word })
            .collect();
        let max_tokens = self.model.max_tokens - MARKS;
        let plan = PassagePlan { max_tokens, overlap: PASSAGE_OVERLAP_TOKENS, limit };
        passages(text, &tokens, plan, |part| {
            self.tokenizer.encode_fast(part, false).map(|encoding| encoding.len()).map_err(tokenizer_error)
        })
    }
}

fn tokenizer_error(error: tokenizers::Error) -> EmbedError {
    EmbedError::Tokenizer { reason: error.to_string() }
}

fn load_tokenizer(json: &[u8], config: &Config) -> Result<Tokenizer, String> {
    let mut tokenizer = Tokenizer::from_bytes(json).map_err(|error| error.to_string())?;
    // The file asks for both, at 128 tokens: text would be cut without a word, and short text computed as if long.
    tokenizer.with_padding(None).with_truncation(None).map_err(|error| error.to_string())?;
    match tokenizer.get_vocab_size(true) {
        size if size == config.vocab_size => Ok(tokenizer),
        size => Err(format!("it has {size} word pieces, the network {}", config.vocab_size)),
    }
}

/// Cuts a batch, in order, into parts of about equal tokens: at least one per thread if that is worth while, and none
/// above `PART_TOKENS` unless a single text is.
fn parts<'a, 'b>(ids: &'b [&'a [u32]], threads: usize) -> Vec<&'b [&'a [u32]]> {
    let total: usize = ids.iter().map(|ids| ids.len()).sum();
    let rounds = total.div_ceil(threads * PART_TOKENS).max(1);
    let target = total.div_ceil(threads * rounds).max(MIN_PART_TOKENS);
    let mut parts = Vec::new();
    let (mut start, mut tokens) = (0, 0);
    for (at, text) in ids.iter().enumerate() {
        // A text goes where the larger part of it lies.
        if at > start && tokens + text.len() / 2 > target {
            parts.push(&ids[start..at]);
            (start, tokens) = (at, 0);
        }
        tokens += text.len();
    }
    parts.push(&ids[start..]);
    parts
}

/// Applies `work` to each part on up to `threads` threads, this one among them; results come in the order of `parts`.
/// A panic of any thread is passed on.
fn on_threads<P: Sync, R: Send>(parts: &[P], threads: usize, work: impl Fn(&P) -> R + Sync) -> Vec<R> {
    let next = AtomicUsize::new(0);
    let run = || {
        let mut done = Vec::new();
        loop {
            let at = next.fetch_add(1, Ordering::Relaxed);
            let Some(part) = parts.get(at) else { return done };
            done.push((at, work(part)));
        }
    };
    let mut results = thread::scope(|scope| {
        let others: Vec<_> = (1..threads.min(parts.len())).map(|_| scope.spawn(run)).collect();
        let mut results = run();
        for other in others {
            results.extend(other.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        }
        results
    });
    results.sort_unstable_by_key(|&(at, _)| at);
    results.into_iter().map(|(_, result)| result).collect()
}
