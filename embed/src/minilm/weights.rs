//! The network's weights, read from safetensors and packed for the kernels.

use safetensors::{Dtype, SafeTensors};

use super::files::Config;
use super::kernels::{PANEL, Panels};
use crate::EmbedError;

/// A linear layer: `output = input · panels + bias`.
pub(super) struct Linear {
    panels: Vec<f32>,
    depth: usize,
    pub bias: Vec<f32>,
}

impl Linear {
    pub(super) fn panels(&self) -> Panels<'_> {
        Panels { values: &self.panels, depth: self.depth, columns: self.bias.len() }
    }
}

/// Weight and bias of a layer norm.
pub(super) struct Norm {
    pub weight: Vec<f32>,
    pub bias: Vec<f32>,
}

/// One transformer block.
pub(super) struct Layer {
    /// Query, key and value in one product: three times the hidden size.
    pub query_key_value: Linear,
    pub attention_output: Linear,
    pub attention_norm: Norm,
    pub intermediate: Linear,
    pub output: Linear,
    pub output_norm: Norm,
}

/// All weights.
pub(super) struct Weights {
    /// One row per word piece.
    pub words: Vec<f32>,
    /// One row per position, with the row of token type 0 already added: there is no second text.
    pub positions: Vec<f32>,
    pub embedding_norm: Norm,
    pub layers: Vec<Layer>,
}

impl Weights {
    /// Reads the network that `config` describes.
    pub(super) fn read(tensors: &SafeTensors<'_>, config: &Config) -> Result<Self, EmbedError> {
        let reader = Reader { tensors, prefix: "embeddings".to_owned() };
        let hidden = config.hidden_size;
        let mut positions = reader.tensor("position_embeddings.weight", &[config.max_position_embeddings, hidden])?;
        let types = reader.tensor("token_type_embeddings.weight", &[2, hidden])?;
        for row in positions.chunks_exact_mut(hidden) {
            row.iter_mut().zip(&types).for_each(|(position, kind)| *position += kind);
        }
        Ok(Self {
            words: reader.tensor("word_embeddings.weight", &[config.vocab_size, hidden])?,
            positions,
            embedding_norm: reader.norm("LayerNorm", hidden)?,
            layers: (0..config.num_hidden_layers)
                .map(|at| read_layer(tensors, config, at))
                .collect::<Result<_, _>>()?,
        })
    }
}

fn read_layer(tensors: &SafeTensors<'_>, config: &Config, at: usize) -> Result<Layer, EmbedError> {
    let reader = Reader { tensors, prefix: format!("encoder.layer.{at}") };
    let (hidden, intermediate) = (config.hidden_size, config.intermediate_size);
    let parts = ["attention.self.query", "attention.self.key", "attention.self.value"];
    Ok(Layer {
        query_key_value: reader.linear(&parts, hidden, hidden)?,
        attention_output: reader.linear(&["attention.output.dense"], hidden, hidden)?,
        attention_norm: reader.norm("attention.output.LayerNorm", hidden)?,
        intermediate: reader.linear(&["intermediate.dense"], hidden, intermediate)?,
        output: reader.linear(&["output.dense"], intermediate, hidden)?,
        output_norm: reader.norm("output.LayerNorm", hidden)?,
    })
}

/// Reads tensors whose names begin with `prefix`.
struct Reader<'a> {
    tensors: &'a SafeTensors<'a>,
    prefix: String,
}

impl Reader<'_> {
    /// The values of a tensor, row-major, if it has exactly this shape.
    fn tensor(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>, EmbedError> {
        let tensor = format!("{}.{name}", self.prefix);
        let describe = |dtype: Dtype, shape: &[usize]| format!("{dtype:?} {shape:?}");
        let expected = describe(Dtype::F32, shape);
        match self.tensors.tensor(&tensor) {
            Ok(view) if view.dtype() == Dtype::F32 && view.shape() == shape => {
                let (values, _) = view.data().as_chunks::<4>();
                Ok(values.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect())
            }
            Ok(view) => Err(EmbedError::ModelShape { tensor, expected, found: describe(view.dtype(), view.shape()) }),
            Err(_) => Err(EmbedError::ModelShape { tensor, expected, found: "nothing".to_owned() }),
        }
    }

    fn norm(&self, name: &str, width: usize) -> Result<Norm, EmbedError> {
        let weight = self.tensor(&format!("{name}.weight"), &[width])?;
        Ok(Norm { weight, bias: self.tensor(&format!("{name}.bias"), &[width])? })
    }

    /// Linear layers of the same input as one, their outputs side by side.
    fn linear(&self, parts: &[&str], depth: usize, width: usize) -> Result<Linear, EmbedError> {
        let (mut panels, mut bias) = (Vec::new(), Vec::new());
        for part in parts {
            // PyTorch keeps a row per output.
            pack_rows(&self.tensor(&format!("{part}.weight"), &[width, depth])?, depth, &mut panels);
            bias.extend(self.tensor(&format!("{part}.bias"), &[width])?);
        }
        Ok(Linear { panels, depth, bias })
    }
}

/// Appends the panels of the transpose of `rows` (a multiple of 16 rows, `depth` values each).
fn pack_rows(rows: &[f32], depth: usize, panels: &mut Vec<f32>) {
    for sixteen in rows.chunks_exact(depth * PANEL) {
        for at in 0..depth {
            panels.extend((0..PANEL).map(|row| sixteen[row * depth + at]));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use safetensors::tensor::TensorView;

    use super::*;

    fn config() -> Config {
        Config {
            hidden_size: 16,
            intermediate_size: 32,
            num_attention_heads: 1,
            num_hidden_layers: 1,
            max_position_embeddings: 4,
            vocab_size: 5,
        }
    }

    /// The tensors of a tiny network, all zero.
    fn shapes() -> BTreeMap<String, Vec<usize>> {
        let mut shapes = BTreeMap::new();
        let mut put = |name: &str, shape: &[usize]| shapes.insert(name.to_owned(), shape.to_vec());
        put("embeddings.position_embeddings.weight", &[4, 16]);
        put("embeddings.token_type_embeddings.weight", &[2, 16]);
        put("embeddings.word_embeddings.weight", &[5, 16]);
        let layer = "encoder.layer.0";
        for norm in ["embeddings", "encoder.layer.0.attention.output", "encoder.layer.0.output"] {
            put(&format!("{norm}.LayerNorm.weight"), &[16]);
            put(&format!("{norm}.LayerNorm.bias"), &[16]);
        }
        for dense in ["attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense"] {
            put(&format!("{layer}.{dense}.weight"), &[16, 16]);
            put(&format!("{layer}.{dense}.bias"), &[16]);
        }
        put("encoder.layer.0.intermediate.dense.weight", &[32, 16]);
        put("encoder.layer.0.intermediate.dense.bias", &[32]);
        put("encoder.layer.0.output.dense.weight", &[16, 32]);
        put("encoder.layer.0.output.dense.bias", &[16]);
        shapes
    }

    fn read(shapes: &BTreeMap<String, Vec<usize>>) -> Result<Weights, EmbedError> {
        let zeros = vec![0; 4 * 16 * 64];
        let view = |shape: &Vec<usize>| {
            TensorView::new(Dtype::F32, shape.clone(), &zeros[..4 * shape.iter().product::<usize>()]).unwrap()
        };
        let views = shapes.iter().map(|(name, shape)| (name.clone(), view(shape)));
        let bytes = safetensors::serialize(views, None).unwrap();
        Weights::read(&SafeTensors::deserialize(&bytes).unwrap(), &config())
    }

    #[test]
    fn a_complete_file_is_read() {
        let weights = read(&shapes()).unwrap();
        assert_eq!(weights.layers[0].query_key_value.panels().columns, 48);
    }

    #[test]
    fn a_missing_tensor_or_wrong_shape_is_named() {
        for name in shapes().keys() {
            let mut without = shapes();
            without.remove(name);
            let error = read(&without).err().unwrap();
            assert!(
                matches!(&error, EmbedError::ModelShape { tensor, found, .. } if tensor == name && found == "nothing")
            );
            let mut wider = shapes();
            wider.get_mut(name).unwrap()[0] += 1;
            let error = read(&wider).err().unwrap();
            assert!(matches!(&error, EmbedError::ModelShape { tensor, .. } if tensor == name));
            assert!(error.to_string().contains("run make model"), "{error}");
        }
    }

    #[test]
    fn packing_transposes_into_panels() {
        let rows: Vec<f32> = (0..32 * 3).map(|x| x as f32).collect();
        let mut panels = Vec::new();
        pack_rows(&rows, 3, &mut panels);
        // Panel 1, depth 2, column 5 is row 21, column 2.
        assert_eq!(panels[(3 + 2) * PANEL + 5], rows[21 * 3 + 2]);
    }
}
