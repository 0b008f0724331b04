//! Making a finished model smaller, and saying what that changed. What is written is `checkpoint`'s
//! ([`Model::save_in`]); this is the measure of it.

use crate::data::batch::Batch;
use crate::heads::Head;
use crate::model::{EncoderConfig, HeadKind, Model};
use crate::random::Rng;
use crate::verify::outputs::{SPAN_LOGITS, compute};
use distilbert_kernels::Runtime;

/// Sequences of a probe.
const PROBE_SEQUENCES: usize = 16;

/// Their longest, in tokens.
const PROBE_LENGTH: usize = 64;

/// How far a model's outputs are from another's on the same batch.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Difference {
    /// `logits`, `embedding`, or `last_hidden_state` of a model without a head.
    pub output: &'static str,
    /// The largest |difference| of two outputs.
    pub largest_difference: f32,
    /// The largest |output| of the reference.
    pub largest_output: f32,
}

impl Difference {
    /// Of two packed models with the same head, on a batch that both can take.
    pub fn of(rt: &Runtime, reference: &Model, found: &Model, batch: &Batch) -> Difference {
        let output = match reference.head {
            Head::None(_) => "last_hidden_state",
            Head::MaskedLm(_) | Head::Classifier(_) | Head::Tokens(_) | Head::Both(..) => "logits",
            Head::Embedder(_) => "embedding",
        };
        // The two outputs of question answering have names of their own.
        let names: &[&str] = match reference.config.head {
            HeadKind::QuestionAnswering => &SPAN_LOGITS,
            _ => &[output],
        };
        let outputs = |model| {
            let mut all = compute(rt, model, batch);
            names.iter().flat_map(|&name| all.remove(name).unwrap_or_default()).collect::<Vec<f32>>()
        };
        let (expected, found) = (outputs(reference), outputs(found));
        // Not `max`, which would pass over a NaN.
        let largest = |numbers: &mut dyn Iterator<Item = f32>| {
            numbers.map(f32::abs).fold(0.0, |largest: f32, x| if x <= largest { largest } else { x })
        };
        Difference {
            output,
            largest_difference: largest(&mut expected.iter().zip(&found).map(|(expected, found)| expected - found)),
            largest_output: largest(&mut expected.iter().copied()),
        }
    }

    /// The difference as a share of the largest output.
    pub fn relative(&self) -> f32 {
        if self.largest_difference == 0.0 { 0.0 } else { self.largest_difference / self.largest_output }
    }
}

/// A batch of random tokens, of several lengths, that depends on the seed and the model's sizes alone.
pub fn probe(config: &EncoderConfig, seed: u64) -> Batch {
    const PURPOSE: u64 = 0x9206e;
    let mut rng = Rng::from_key(&[seed, PURPOSE]);
    let longest = PROBE_LENGTH.min(config.max_positions);
    let sequences: Vec<Vec<u32>> = (1..=PROBE_SEQUENCES)
        .map(|index| {
            let length = (longest * index).div_ceil(PROBE_SEQUENCES);
            (0..length).map(|_| rng.below(config.vocab_size) as u32).collect()
        })
        .collect();
    Batch::from_sequences(sequences.iter().map(Vec::as_slice))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ModelConfig;
    use distilbert_kernels::{Isa, Precision};

    fn model(class: &str) -> Model {
        let config = r#"{"model_type":"distilbert","architectures":["CLASS"],
            "vocab_size":60,"dim":24,"n_layers":2,"n_heads":3,"hidden_dim":48,"max_position_embeddings":20}"#;
        let config = config.replace("CLASS", class);
        let mut model = Model::random(ModelConfig::from_json(&config).unwrap(), 3);
        model.parameters.weights_mut().values.iter_mut().for_each(|weight| *weight *= 5.0);
        model
    }

    #[test]
    fn a_model_does_not_differ_from_itself_and_a_rounded_one_does_a_little() {
        let rt = Runtime::new(Isa::detect(), 2).unwrap();
        for class in ["DistilBertForSequenceClassification", "DistilBertForQuestionAnswering"] {
            let model = model(class);
            let probe = probe(&model.config.encoder, 1);
            assert!(model.check(&probe).is_ok() && probe.sequences() == PROBE_SEQUENCES);
            let forms = [Precision::F32, Precision::Int8].map(|precision| model.for_inference(&rt, precision));
            let [exact, rounded] = forms;
            let none = Difference::of(&rt, &exact, &exact, &probe);
            assert_eq!((none.output, none.largest_difference, none.relative()), ("logits", 0.0, 0.0));
            let some = Difference::of(&rt, &exact, &rounded, &probe);
            assert!(some.largest_output > 0.0 && some.relative() > 0.0 && some.relative() < 0.1, "{class}: {some:?}");
            assert_eq!(some.relative(), some.largest_difference / some.largest_output);
        }
    }

    #[test]
    fn a_probe_depends_on_its_seed() {
        let config = model("DistilBertForSequenceClassification").config.encoder;
        assert_eq!(probe(&config, 1).input_ids(), probe(&config, 1).input_ids());
        assert_ne!(probe(&config, 1).input_ids(), probe(&config, 2).input_ids());
    }

    #[test]
    fn a_model_that_gives_no_number_does_not_look_equal() {
        let rt = Runtime::new(Isa::detect(), 1).unwrap();
        let mut model = model("DistilBertForSequenceClassification");
        let exact = model.for_inference(&rt, Precision::F32);
        let last = model.parameters.len() - 1;
        model.parameters.weights_mut().values[last] = f32::NAN;
        let broken = model.for_inference(&rt, Precision::F32);
        assert!(Difference::of(&rt, &exact, &broken, &probe(&model.config.encoder, 1)).relative().is_nan());
    }
}
