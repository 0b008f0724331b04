//! Which token looks at which: the probabilities that attention computes and inference never keeps, for people to look
//! at. Plain loops over one sequence.

use crate::data::batch::Batch;
use crate::model::encoder::Activations;
use crate::model::{InputError, Mode, Model};
use distilbert_kernels::Runtime;

/// The attention of one sequence.
#[derive(Clone, Debug, PartialEq)]
pub struct AttentionMaps {
    /// Number of layers.
    pub layers: usize,
    /// Heads of a layer.
    pub heads: usize,
    /// Tokens of the sequence, special ones included.
    pub tokens: usize,
    /// `[layers, heads, tokens, tokens]`: how much of a row's token comes from each token; a row sums to 1.
    pub probabilities: Vec<f32>,
}

impl AttentionMaps {
    /// Runs a packed model on one sequence.
    ///
    /// # Errors
    /// [`InputError`] if the model cannot take it.
    pub fn new(rt: &Runtime, model: &Model, input_ids: &[u32], token_types: &[u32]) -> Result<Self, InputError> {
        let mut batch = Batch::new();
        batch.push(input_ids, Some(token_types));
        model.check(&batch)?;
        let arena = model.parameters.weights();
        let layers = model.encoder.depth();
        let mut probabilities = Vec::new();
        let mut activations = Activations::default();
        model.encode_observed(rt, &batch, Mode::Inference, &mut activations, |index, observed| {
            if index < layers {
                let attention = &model.encoder.layer(index).attention;
                probabilities.extend(attention.probabilities(rt, arena, observed.states));
            }
        });
        let heads = model.config.encoder.heads;
        Ok(AttentionMaps { layers, heads, tokens: input_ids.len(), probabilities })
    }

    /// One head's map, `[tokens, tokens]`.
    ///
    /// # Panics
    /// If there is no such layer or head.
    pub fn head(&self, layer: usize, head: usize) -> &[f32] {
        assert!(head < self.heads, "head {head} of {}", self.heads);
        let size = self.tokens * self.tokens;
        &self.probabilities[(layer * self.heads + head) * size..][..size]
    }

    /// The mean over a layer's heads, `[tokens, tokens]`.
    ///
    /// # Panics
    /// If there is no such layer.
    pub fn layer_mean(&self, layer: usize) -> Vec<f32> {
        let mut mean = vec![0.0; self.tokens * self.tokens];
        for head in 0..self.heads {
            for (sum, p) in mean.iter_mut().zip(self.head(layer, head)) {
                *sum += p / self.heads as f32;
            }
        }
        mean
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::model_folder::HeadChoice;
    use crate::model::Purpose;
    use distilbert_kernels::{Isa, Precision};
    use serde_json::Value;
    use std::path::Path;

    #[test]
    fn maps_equal_those_of_the_reference_on_every_instruction_set() {
        let goldens = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens");
        let cases: Value =
            serde_json::from_str(&std::fs::read_to_string(goldens.join("pipelines.json")).unwrap()).unwrap();
        for case in cases["attention"].as_array().unwrap() {
            let numbers = |value: &Value| value.as_array().unwrap().clone();
            let ids =
                |key: &str| -> Vec<u32> { numbers(&case[key]).iter().map(|id| id.as_u64().unwrap() as u32).collect() };
            let folder = goldens.join(case["model"].as_str().unwrap());
            for isa in Isa::available() {
                let rt = Runtime::new(isa, 2).unwrap();
                let mut model = Model::load(&folder, HeadChoice::AsSaved).unwrap().model;
                model.pack(&rt, Precision::F32, Purpose::Inference);
                let maps = AttentionMaps::new(&rt, &model, &ids("input_ids"), &ids("token_type_ids")).unwrap();
                let layers = numbers(&case["attention"]);
                assert_eq!((maps.layers, maps.heads), (layers.len(), numbers(&layers[0]).len()));
                for (layer, heads) in layers.iter().enumerate() {
                    for (head, rows) in numbers(heads).iter().enumerate() {
                        let expected: Vec<f64> =
                            numbers(rows).iter().flat_map(numbers).map(|p| p.as_f64().unwrap()).collect();
                        assert_eq!(maps.head(layer, head).len(), expected.len());
                        for (found, expected) in maps.head(layer, head).iter().zip(expected) {
                            assert!((f64::from(*found) - expected).abs() < 2e-6, "{isa} {layer} {head}");
                        }
                    }
                }
                let sums = maps.probabilities.chunks(maps.tokens).map(|row| row.iter().sum::<f32>());
                assert!(sums.into_iter().all(|sum| (sum - 1.0).abs() < 1e-5));
                let mean = maps.layer_mean(0).iter().sum::<f32>();
                assert!((mean - maps.tokens as f32).abs() < 1e-4, "{mean}");
            }
        }
    }
}
