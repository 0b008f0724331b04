//! The arithmetic of a forward pass, from the model's shape. A multiplication and an addition count as two operations.

use distilbert::model::{EncoderConfig, HeadKind, ModelConfig};
use serde::Serialize;

/// Length at which the cost of attention is given, in tokens; the models' usual one.
const ATTENTION_LENGTH: usize = 128;

/// Operations of a forward pass.
#[derive(Debug, PartialEq, Serialize)]
pub struct Cost {
    /// A token, in the linear layers of embeddings and encoder.
    pub linear_mflop_per_token: f64,
    /// A token, in the products of attention, in a sequence of `attention_length` tokens.
    pub attention_mflop_per_token: f64,
    /// Length that attention's cost is given for, in tokens.
    pub attention_length: usize,
    /// In the head, for each token or sequence that it answers for.
    pub head_mflop: f64,
    /// `token`, `sequence` or, without a head, `none`.
    pub head_per: &'static str,
}

impl Cost {
    /// The cost of a model.
    pub fn of(config: &ModelConfig) -> Cost {
        let &EncoderConfig { hidden, embedding_size, ffn, layers, vocab_size, max_positions, .. } = &config.encoder;
        let attention_length = ATTENTION_LENGTH.min(max_positions);
        let mflop = |multiplications: f64| 2.0 * multiplications / 1e6;
        let (h, e, layers) = (hidden as f64, embedding_size as f64, layers as f64);
        let projection = if config.encoder.projects_embeddings { e * h } else { 0.0 };
        let (head, head_per) = match &config.head {
            HeadKind::None => (0.0, "none"),
            HeadKind::MaskedLm => (h * e + e * vocab_size as f64, "token"),
            HeadKind::Classification { labels, .. } => (h * h + h * labels.len() as f64, "sequence"),
            head @ (HeadKind::TokenClassification { .. } | HeadKind::QuestionAnswering) => {
                (h * head.outputs() as f64, "token")
            }
            // The dense layer in front of the intents is run once a sequence, the slots' linear for every token.
            HeadKind::IntentsAndSlots { slots, .. } => (h * slots.len() as f64, "token"),
            HeadKind::Embedding(head) => {
                let widths: Vec<f64> = head.dense.iter().map(|dense| dense.outputs as f64).collect();
                let inputs = std::iter::once(h).chain(widths.iter().copied());
                // A sum of nothing is -0.
                (0.0 + inputs.zip(&widths).map(|(inputs, outputs)| inputs * outputs).sum::<f64>(), "sequence")
            }
        };
        Cost {
            linear_mflop_per_token: mflop(projection + layers * (4.0 * h * h + 2.0 * h * ffn as f64)),
            // Queries by keys, and weights by values.
            attention_mflop_per_token: mflop(layers * 2.0 * attention_length as f64 * h),
            attention_length,
            head_mflop: mflop(head),
            head_per,
        }
    }

    /// Operations of the encoder, in GFLOP, over sequences of these lengths in tokens.
    pub fn encoder_gflop(&self, lengths: impl IntoIterator<Item = usize>) -> f64 {
        let attention_per_pair = self.attention_mflop_per_token / self.attention_length as f64;
        let mflop = |length: usize| {
            let length = length as f64;
            length * (self.linear_mflop_per_token + length * attention_per_pair)
        };
        lengths.into_iter().map(mflop).sum::<f64>() / 1e3
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cost(family: &str, class: &str) -> Cost {
        let text = format!(r#"{{"model_type": "{family}", "architectures": ["{class}"], "vocab_size": 30522}}"#);
        Cost::of(&ModelConfig::from_json(&text).unwrap())
    }

    #[test]
    fn the_base_sizes_cost_what_was_published() {
        let student = cost("distilbert", "DistilBertForMaskedLM");
        let teacher = cost("bert", "BertForMaskedLM");
        assert_eq!(format!("{:.1}", student.linear_mflop_per_token), "84.9");
        assert_eq!(format!("{:.1}", teacher.linear_mflop_per_token), "169.9");
        assert_eq!(format!("{:.1}", student.head_mflop), "48.1");
        // A whole pass of 128 tokens: 11.17 GFLOP.
        assert_eq!(format!("{:.2}", student.encoder_gflop([128])), "11.17");
    }

    #[test]
    fn attention_grows_with_the_square_of_each_sequences_own_length() {
        let cost = cost("distilbert", "DistilBertModel");
        let linear = 384.0 * cost.linear_mflop_per_token / 1e3;
        let [one, three] = [cost.encoder_gflop([384]), cost.encoder_gflop([128; 3])].map(|gflop| gflop - linear);
        assert!((one / three - 3.0).abs() < 1e-9, "{one} {three}");
    }
}
