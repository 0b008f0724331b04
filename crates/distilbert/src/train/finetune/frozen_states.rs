//! What the frozen part of a model says of each training sample, computed once and kept in bounded memory. It follows
//! from the sample alone, bit for bit, so that keeping it changes no number of a run.

use crate::data::batch::Batch;
use crate::data::encoded::EncodedSet;
use crate::heads::Head;
use crate::model::Model;
use crate::model::encoder::Activations;
use distilbert_kernels::Runtime;

/// Samples beyond this many bytes of states are computed each time.
const MOST_BYTES: usize = 1 << 30;

/// The states that training passes go on from.
pub(super) struct FrozenStates {
    /// Of each sample that has been seen, while there is room.
    kept: Vec<Option<Box<[f32]>>>,
    bytes: usize,
    most_bytes: usize,
    rows: Rows,
    activations: Activations,
}

/// Which tokens' states are gone on from.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Rows {
    All,
    /// Where only the head is trained and looks at no others.
    First,
}

impl FrozenStates {
    /// For a model, if it has frozen layers.
    pub(super) fn of(model: &Model, samples: usize) -> Option<FrozenStates> {
        let frozen = model.frozen_layers().filter(|&layers| layers > 0)?;
        let head_alone = frozen == model.encoder.depth() && matches!(model.head, Head::Classifier(_));
        let rows = if head_alone { Rows::First } else { Rows::All };
        let kept = (0..samples).map(|_| None).collect();
        Some(FrozenStates { kept, bytes: 0, most_bytes: MOST_BYTES, rows, activations: Activations::default() })
    }

    /// The batch of these samples that a training pass goes on with, and its states `[tokens, hidden]`.
    pub(super) fn batch(
        &mut self,
        rt: &Runtime,
        model: &Model,
        set: &EncodedSet,
        samples: &[usize],
    ) -> (Batch, Vec<f32>) {
        let new: Vec<usize> = samples.iter().copied().filter(|&sample| self.kept[sample].is_none()).collect();
        let mut computed = self.compute(rt, model, set, &new).into_iter();
        let mut states = Vec::new();
        for &sample in samples {
            if let Some(kept) = &self.kept[sample] {
                states.extend_from_slice(kept);
                continue;
            }
            let of_sample = computed.next().unwrap_or_default();
            states.extend_from_slice(&of_sample);
            let bytes = size_of_val(&*of_sample);
            if self.bytes + bytes <= self.most_bytes {
                self.bytes += bytes;
                self.kept[sample] = Some(of_sample);
            }
        }
        let batch = match self.rows {
            Rows::All => set.batch(samples),
            Rows::First => Batch::from_sequences(samples.iter().map(|&sample| &set.texts[sample].input_ids[..1])),
        };
        (batch, states)
    }

    /// The states of each sample.
    fn compute(&mut self, rt: &Runtime, model: &Model, set: &EncodedSet, samples: &[usize]) -> Vec<Box<[f32]>> {
        if samples.is_empty() {
            return Vec::new();
        }
        let batch = set.batch(samples);
        let hidden = model.config.encoder.hidden;
        let (mut rest, lengths) = match self.rows {
            Rows::All => {
                model.encode_frozen(rt, &batch, &mut self.activations);
                (self.activations.frozen_states(), batch.lengths().collect())
            }
            Rows::First => (model.encode_first(rt, &batch, &mut self.activations), vec![1; samples.len()]),
        };
        let mut split = |length: usize| {
            let (own, others) = rest.split_at(length * hidden);
            rest = others;
            own.into()
        };
        lengths.into_iter().map(&mut split).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::encoded::EncodedText;
    use crate::model::{ModelConfig, Purpose};
    use distilbert_kernels::{Isa, Precision};

    #[test]
    fn states_are_those_of_a_fresh_pass_kept_or_not() {
        let config = r#"{"model_type": "distilbert", "architectures": ["DistilBertForSequenceClassification"], "dim": 24,
            "n_heads": 3, "n_layers": 3, "hidden_dim": 40, "vocab_size": 50, "max_position_embeddings": 40}"#;
        let rt = Runtime::new(Isa::detect(), 2).unwrap();
        let ids: Vec<u32> = (0..40).collect();
        let texts = [&ids[..7], &ids[3..4], &ids[2..], &ids[9..20]]
            .map(|ids| EncodedText { input_ids: ids.to_vec(), token_type_ids: vec![0; ids.len()] });
        let set = EncodedSet { texts: texts.to_vec(), truncated: Vec::new() };
        for (layers, tokens) in [(2, 8), (3, 2)] {
            let mut model = Model::random(ModelConfig::from_json(config).unwrap(), 3);
            model.freeze_layers(layers);
            model.pack(&rt, Precision::F32, Purpose::Training);
            for most_bytes in [0, tokens * 24 * 4, MOST_BYTES] {
                let mut states = FrozenStates::of(&model, 4).unwrap();
                states.most_bytes = most_bytes;
                let first = states.batch(&rt, &model, &set, &[1, 0]);
                assert_eq!(first.0.tokens(), tokens);
                let (batch, found) = states.batch(&rt, &model, &set, &[0, 2, 1]);
                let fresh = FrozenStates::of(&model, 4).unwrap().batch(&rt, &model, &set, &[0, 2, 1]);
                assert!(batch == fresh.0 && found == fresh.1, "{layers} frozen layers, {most_bytes} bytes");
                assert_eq!(found.len(), batch.tokens() * 24);
                assert!(states.bytes <= most_bytes);
                assert_eq!(states.kept[1].is_some(), most_bytes > 0);
            }
        }
        let trained = Model::random(ModelConfig::from_json(config).unwrap(), 3);
        assert!(FrozenStates::of(&trained, 4).is_none());
    }
}
