//! The forward pass of BERT, for many texts at once without padding.
//!
//! The tokens of all texts stand below each other in one matrix, a row per token. Everything but attention treats rows
//! one by one, so no padding is needed and no text changes another's result; attention runs per text and head on the
//! rows of that text. The shape of each block is that of Devlin et al., "BERT" (2019): attention, residual, norm; dense,
//! GELU, dense, residual, norm.

use std::ops::Range;

use super::files::Config;
use super::kernels::{Finish, Instructions, PANEL, Panels, Rows, RowsMut, layer_norm, multiply, softmax};
use super::weights::{Layer, Weights};

/// Weights and what is needed to run them.
pub(super) struct Network {
    weights: Weights,
    config: Config,
    instructions: Instructions,
}

/// Matrices of one pass, a row per token.
struct Activations {
    hidden: Vec<f32>,
    query_key_value: Vec<f32>,
    context: Vec<f32>,
    intermediate: Vec<f32>,
    attention: AttentionScratch,
}

/// Matrices of one text and head, reused.
#[derive(Default)]
struct AttentionScratch {
    keys: Vec<f32>,
    values: Vec<f32>,
    scores: Vec<f32>,
}

impl Network {
    pub(super) fn new(weights: Weights, config: Config, instructions: Instructions) -> Self {
        Self { weights, config, instructions }
    }

    /// One vector of length 1 per text: the mean of its last hidden states.
    ///
    /// A text is its token ids, start and end marks included. Panics on an unknown id, an empty text or one longer than
    /// the positions of the model; the tokenizer and the length check in front exclude all three.
    pub(super) fn embed(&self, texts: &[&[u32]]) -> Vec<Vec<f32>> {
        let mut next = 0;
        let spans: Vec<Range<usize>> = texts
            .iter()
            .map(|ids| {
                next += ids.len();
                next - ids.len()..next
            })
            .collect();
        let mut activations = self.embed_tokens(texts, next);
        for layer in &self.weights.layers {
            self.attend(layer, &spans, &mut activations);
            self.transform(layer, &mut activations);
        }
        spans.into_iter().map(|span| self.pool(&activations.hidden, span)).collect()
    }

    fn embed_tokens(&self, texts: &[&[u32]], tokens: usize) -> Activations {
        let width = self.config.hidden_size;
        let mut hidden = Vec::with_capacity(tokens * width);
        for ids in texts {
            assert!(!ids.is_empty() && ids.len() <= self.config.max_position_embeddings, "{} tokens", ids.len());
            for (&id, position) in ids.iter().zip(self.weights.positions.chunks_exact(width)) {
                let word = &self.weights.words[id as usize * width..][..width];
                hidden.extend(word.iter().zip(position).map(|(word, position)| word + position));
            }
        }
        let norm = &self.weights.embedding_norm;
        layer_norm(self.instructions, &mut hidden, &norm.weight, &norm.bias);
        Activations {
            hidden,
            query_key_value: vec![0.0; tokens * 3 * width],
            context: vec![0.0; tokens * width],
            intermediate: vec![0.0; tokens * self.config.intermediate_size],
            attention: AttentionScratch::default(),
        }
    }

    /// hidden = norm(hidden + attention(hidden))
    fn attend(&self, layer: &Layer, spans: &[Range<usize>], activations: &mut Activations) {
        let width = self.config.hidden_size;
        let Activations { hidden, query_key_value, context, attention, .. } = activations;
        let count = hidden.len() / width;
        multiply(
            self.instructions,
            Rows { data: hidden, stride: width, count },
            layer.query_key_value.panels(),
            RowsMut { data: query_key_value, stride: 3 * width },
            Finish::Bias(&layer.query_key_value.bias),
        );
        for span in spans {
            let rows = &query_key_value[span.start * 3 * width..span.end * 3 * width];
            let context = &mut context[span.start * width..span.end * width];
            for head in 0..self.config.num_attention_heads {
                self.attend_head(rows, head * self.config.head_size(), context, attention);
            }
        }
        multiply(
            self.instructions,
            Rows { data: context, stride: width, count },
            layer.attention_output.panels(),
            RowsMut { data: hidden, stride: width },
            Finish::Residual(&layer.attention_output.bias),
        );
        layer_norm(self.instructions, hidden, &layer.attention_norm.weight, &layer.attention_norm.bias);
    }

    /// The columns `at..at + head size` of `context`: softmax(Q·Kᵀ / √size)·V of one text, whose fused query, key and
    /// value rows are `rows`.
    fn attend_head(&self, rows: &[f32], at: usize, context: &mut [f32], scratch: &mut AttentionScratch) {
        let (width, size) = (self.config.hidden_size, self.config.head_size());
        let count = rows.len() / (3 * width);
        let padded = count.next_multiple_of(PANEL);
        let AttentionScratch { keys, values, scores } = scratch;
        pack_keys(rows, 3 * width, width + at..width + at + size, keys);
        pack_values(rows, 3 * width, 2 * width + at..2 * width + at + size, values);
        scores.resize(count * padded, 0.0);
        multiply(
            self.instructions,
            Rows { data: &rows[at..], stride: 3 * width, count },
            Panels { values: keys, depth: size, columns: padded },
            RowsMut { data: scores, stride: padded },
            Finish::Plain,
        );
        softmax(self.instructions, scores, padded, count, 1.0 / (size as f32).sqrt());
        multiply(
            self.instructions,
            Rows { data: scores, stride: padded, count },
            Panels { values, depth: count, columns: size },
            RowsMut { data: &mut context[at..], stride: width },
            Finish::Plain,
        );
    }

    /// hidden = norm(hidden + dense(gelu(dense(hidden))))
    fn transform(&self, layer: &Layer, activations: &mut Activations) {
        let (width, inner) = (self.config.hidden_size, self.config.intermediate_size);
        let Activations { hidden, intermediate, .. } = activations;
        let count = hidden.len() / width;
        multiply(
            self.instructions,
            Rows { data: hidden, stride: width, count },
            layer.intermediate.panels(),
            RowsMut { data: intermediate, stride: inner },
            Finish::BiasGelu(&layer.intermediate.bias),
        );
        multiply(
            self.instructions,
            Rows { data: intermediate, stride: inner, count },
            layer.output.panels(),
            RowsMut { data: hidden, stride: width },
            Finish::Residual(&layer.output.bias),
        );
        layer_norm(self.instructions, hidden, &layer.output_norm.weight, &layer.output_norm.bias);
    }

    /// The mean of the rows `span`, scaled to length 1. The mean's division cancels in the scaling.
    fn pool(&self, hidden: &[f32], span: Range<usize>) -> Vec<f32> {
        let width = self.config.hidden_size;
        let mut sum = vec![0.0_f32; width];
        for row in hidden[span.start * width..span.end * width].chunks_exact(width) {
            sum.iter_mut().zip(row).for_each(|(sum, x)| *sum += x);
        }
        let length = sum.iter().map(|x| x * x).sum::<f32>().sqrt().max(f32::MIN_POSITIVE);
        sum.iter_mut().for_each(|x| *x /= length);
        sum
    }
}

/// Packs the transpose of the given columns of `rows`: panels of 16 rows each, zero where there is no row.
fn pack_keys(rows: &[f32], stride: usize, columns: Range<usize>, panels: &mut Vec<f32>) {
    panels.clear();
    panels.resize(rows.len().div_ceil(stride).next_multiple_of(PANEL) * columns.len(), 0.0);
    for (panel, sixteen) in panels.chunks_exact_mut(PANEL * columns.len()).zip(rows.chunks(stride * PANEL)) {
        for (at, row) in sixteen.chunks_exact(stride).enumerate() {
            for (place, value) in panel[at..].iter_mut().step_by(PANEL).zip(&row[columns.clone()]) {
                *place = *value;
            }
        }
    }
}

/// Packs the given columns of `rows` as they stand: panels of 16 columns each.
fn pack_values(rows: &[f32], stride: usize, columns: Range<usize>, panels: &mut Vec<f32>) {
    panels.clear();
    for panel in columns.step_by(PANEL) {
        for row in rows.chunks_exact(stride) {
            panels.extend_from_slice(&row[panel..panel + PANEL]);
        }
    }
}
