//! A sentence encoder as an ordinary classifier: the classification heads of all families read the first token's state,
//! and a sentence encoder mostly means the mean over all tokens. One more layer makes the one of the other.

use super::config::{EmbeddingHead, HeadKind, ModelConfig, Pooling};
use super::family::ClassifierActivation;
use super::{EncoderConfig, Model};
use crate::heads::Head;
use std::ops::Range;

/// Why a sentence encoder cannot become a classifier.
#[derive(Debug, thiserror::Error)]
#[error("model: expected {expected}, found {found}")]
pub struct AveragingError {
    /// What it should be.
    pub expected: &'static str,
    /// What it is.
    pub found: String,
}

/// How many times the mean is larger than the state that the residual adds to it. The sum's direction is that of the mean
/// but for one part in so many.
const MEAN_OUTWEIGHS: f32 = 4096.0;

/// Where tanh is the identity but for a millionth: states whose standard deviation is one, so much smaller.
const WITHIN_TANH: f32 = 1.0 / 1024.0;

/// More than any number of a vector of standard deviation one that is at most a thousand wide: what ReLU and GELU leave
/// as it is.
const ABOVE_ZERO: f32 = 32.0;

/// A classifier whose first token's state is the encoder's embedding, shifted and scaled to mean 0 and standard deviation
/// 1 over its numbers; for a mean over tokens it has one layer more than the encoder. The head is zero but for the layer
/// in front of its last, which [`set_classifier`] takes into account.
///
/// # Errors
/// [`AveragingError`] if the model has no embedding head, takes the largest of each column or has linears behind the
/// pooling, or its layers share their weights.
pub fn classifier_from_embedder(encoder: &Model, head: HeadKind) -> Result<Model, AveragingError> {
    let wrong = |expected, found: String| Err(AveragingError { expected, found });
    let pooling = match &encoder.config.head {
        HeadKind::Embedding(EmbeddingHead { dense, .. }) if !dense.is_empty() => {
            return wrong("no linears behind the pooling", dense.len().to_string());
        }
        HeadKind::Embedding(EmbeddingHead { pooling: Pooling::Max, .. }) => {
            return wrong("the mean over tokens or the first token", "the largest of each column".into());
        }
        HeadKind::Embedding(head) => head.pooling,
        other => return wrong("a sentence encoder", format!("a model {}", other.class_suffix())),
    };
    let own = &encoder.config.encoder;
    if own.shares_layers() {
        return wrong("layers with weights of their own", "layers that share them".into());
    }
    let more = usize::from(pooling == Pooling::Mean);
    let (layers, layer_groups) = (own.layers + more, own.layer_groups + more);
    let config =
        ModelConfig { encoder: EncoderConfig { layers, layer_groups, ..own.clone() }, ..encoder.config.clone() };
    let mut model = Model::zeroed(config.with_head(head));
    // Embeddings and layers stand first in the arena, in one order.
    let end = encoder.encoder_end();
    let Model { parameters, encoder: layers, head, .. } = &mut model;
    let values = parameters.weights_mut().values;
    values[..end].copy_from_slice(&encoder.parameters.weights()[..end]);
    if let Some(added) = layers.layers.last().filter(|_| more == 1) {
        let hidden = own.hidden;
        // Queries and keys of zero: every token looks at all alike, and attention gives the mean of the values.
        let of_values = added.attention.qkv.weight.start + 2 * hidden * hidden;
        set_diagonal(values, of_values..added.attention.qkv.weight.end, hidden, MEAN_OUTWEIGHS);
        set_diagonal(values, added.attention.output.linear.weight.clone(), hidden, 1.0);
        // The feed-forward block adds nothing.
        for norm in [&added.attention.output.norm, &added.feed_forward.output.norm] {
            values[norm.weight.clone()].fill(1.0);
        }
    }
    if let Head::Classifier(head) = head {
        let (scale, shift) = through(head.activation());
        set_diagonal(values, head.dense.weight.clone(), own.hidden, scale);
        values[head.dense.bias.clone()].fill(shift);
    }
    Ok(model)
}

/// Sets the last layer of such a classifier so that its logits are `weight · state + bias`.
///
/// # Shapes
/// `weight`: `[labels, hidden]`; `bias`: `[labels]`
///
/// # Panics
/// If the model has no classification head of this shape.
pub fn set_classifier(model: &mut Model, weight: &[f64], bias: &[f64]) {
    let Head::Classifier(head) = &model.head else { panic!("expected a classification head") };
    let (scale, shift) = through(head.activation());
    let (into_weight, into_bias) = (head.classifier.weight.clone(), head.classifier.bias.clone());
    let hidden = head.classifier.inputs;
    let values = model.parameters.weights_mut().values;
    // In front of the last layer stands scale · state + shift.
    for (value, weight) in values[into_weight].iter_mut().zip(weight) {
        *value = (weight / f64::from(scale)) as f32;
    }
    for ((value, row), bias) in values[into_bias].iter_mut().zip(weight.chunks_exact(hidden)).zip(bias) {
        *value = (bias - f64::from(shift / scale) * row.iter().sum::<f64>()) as f32;
    }
}

/// Scale and shift that make the activation the identity, then.
fn through(activation: ClassifierActivation) -> (f32, f32) {
    match activation {
        ClassifierActivation::Tanh => (WITHIN_TANH, 0.0),
        ClassifierActivation::Relu | ClassifierActivation::Gelu => (1.0, ABOVE_ZERO),
    }
}

fn set_diagonal(values: &mut [f32], matrix: Range<usize>, width: usize, value: f32) {
    values[matrix].iter_mut().step_by(width + 1).for_each(|number| *number = value);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::batch::Batch;
    use crate::model::{Problem, Purpose};
    use crate::predict::{EmbeddingRunner, LogitsRunner};
    use distilbert_kernels::{Isa, Precision, Runtime};

    fn encoder(family: &str, pooling: Pooling) -> Model {
        let config = format!(
            r#"{{"model_type":"{family}","vocab_size":60,"hidden_size":24,"dim":24,"num_hidden_layers":2,"n_layers":2,
            "num_attention_heads":3,"n_heads":3,"intermediate_size":40,"hidden_dim":40,"max_position_embeddings":40,
            "initializer_range":0.3}}"#
        );
        let config = ModelConfig::from_json(&config).unwrap();
        let head = EmbeddingHead { pooling, dense: Vec::new(), normalize: false };
        Model::random(config.with_head(HeadKind::Embedding(head)), 3)
    }

    #[test]
    fn logits_are_those_of_the_standardised_embedding_alone_and_in_any_batch() {
        let rt = Runtime::new(Isa::detect(), 2).unwrap();
        let ids: Vec<u32> = (3..40).collect();
        let batch = Batch::from_sequences([&ids[..7], &ids[3..5], &ids[2..]]);
        for family in ["bert", "distilbert", "roberta", "electra"] {
            for pooling in [Pooling::Mean, Pooling::Cls] {
                let mut embedder = encoder(family, pooling);
                let labels = ["a", "b", "c"].map(str::to_owned).to_vec();
                let head = HeadKind::Classification { problem: Problem::Classification, labels };
                let mut model = classifier_from_embedder(&embedder, head).unwrap();
                let weight: Vec<f64> = (0..72).map(|i| f64::from(i * 29 % 31) / 31.0 - 0.5).collect();
                let bias = [0.5, -0.25, 0.125];
                set_classifier(&mut model, &weight, &bias);
                embedder.pack(&rt, Precision::F32, Purpose::Inference);
                model.pack(&rt, Precision::F32, Purpose::Inference);
                let mut runner = EmbeddingRunner::new(&embedder, None).unwrap();
                let embeddings = runner.run(&rt, &batch).unwrap().to_vec();
                let logits = LogitsRunner::new(&model).unwrap().run(&rt, &batch).unwrap().to_vec();
                for (embedding, logits) in embeddings.chunks_exact(24).zip(logits.chunks_exact(3)) {
                    let mean = embedding.iter().map(|&x| f64::from(x)).sum::<f64>() / 24.0;
                    let variance = embedding.iter().map(|&x| (f64::from(x) - mean).powi(2)).sum::<f64>() / 24.0;
                    for (label, &found) in logits.iter().enumerate() {
                        let weights = &weight[label * 24..][..24];
                        let standard = embedding.iter().map(|&x| (f64::from(x) - mean) / variance.sqrt());
                        let expected = bias[label] + weights.iter().zip(standard).map(|(w, x)| w * x).sum::<f64>();
                        // The residual is one part in 4096 of the mean, whose numbers are some tenth of a state's.
                        let error = (f64::from(found) - expected).abs();
                        assert!(error < 0.02, "{family} {pooling:?}: {found} instead of {expected}");
                    }
                }
            }
        }
    }

    #[test]
    fn other_encoders_are_refused_by_what_they_are() {
        let labels = vec!["a".to_owned(), "b".to_owned()];
        let head = HeadKind::Classification { problem: Problem::Classification, labels };
        let error = |model: &Model| classifier_from_embedder(model, head.clone()).err().unwrap().to_string();
        let max = error(&encoder("bert", Pooling::Max));
        assert_eq!(max, "model: expected the mean over tokens or the first token, found the largest of each column");
        let shared = error(&encoder("albert", Pooling::Mean));
        assert_eq!(shared, "model: expected layers with weights of their own, found layers that share them");
        let mut plain = encoder("bert", Pooling::Mean);
        plain.config.head = HeadKind::MaskedLm;
        assert!(error(&plain).starts_with("model: expected a sentence encoder, found a model "));
    }
}
