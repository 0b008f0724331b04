//! A classifier's logits for any number of texts, in memory bounded by the batch.

use crate::data::encoded::EncodedSet;
use crate::heads::Head;
use crate::heads::classification::ClassifierActivations;
use crate::model::encoder::Activations;
use crate::model::{InputError, Mode, Model};
use crate::progress::Progress;
use distilbert_kernels::Runtime;

/// Tokens of one batch: enough to fill the matrix products, few enough to stay in the cache.
const BATCH_TOKENS: usize = 1024;

/// Why texts cannot be classified.
#[derive(Debug, thiserror::Error)]
pub enum ClassifyError {
    /// The model has another head.
    #[error("expected a model with a classification head, found {found}")]
    Head {
        /// Class suffix of the model.
        found: &'static str,
    },
    /// A text the model cannot take.
    #[error("example {index}: {source}")]
    Input {
        /// Which text.
        index: usize,
        /// What is wrong.
        source: InputError,
    },
}

/// Runs a classifier; keeps its buffers from batch to batch.
pub struct ClassifierRunner<'a> {
    model: &'a Model,
    activations: Activations,
    head: ClassifierActivations,
    logits: Vec<f32>,
}

impl<'a> ClassifierRunner<'a> {
    /// A runner of a packed model.
    ///
    /// # Errors
    /// [`ClassifyError::Head`] if the model has no classification head.
    pub fn new(model: &'a Model) -> Result<Self, ClassifyError> {
        match &model.head {
            Head::Classifier(_) => Ok(ClassifierRunner {
                model,
                activations: Activations::default(),
                head: ClassifierActivations::default(),
                logits: Vec::new(),
            }),
            _ => Err(ClassifyError::Head { found: model.config.head.class_suffix() }),
        }
    }

    /// Logits `[batch, labels]`.
    ///
    /// # Errors
    /// [`InputError`] if the model cannot take the batch.
    pub fn run(&mut self, rt: &Runtime, batch: &crate::data::batch::Batch) -> Result<&[f32], InputError> {
        self.model.check(batch)?;
        let first = self.model.encode_first(rt, batch, &mut self.activations);
        let arena = self.model.parameters.weights();
        if let Head::Classifier(head) = &self.model.head {
            head.forward(rt, arena, first, Mode::Inference, &mut self.head, &mut self.logits);
        }
        Ok(&self.logits)
    }
}

/// Logits `[texts, labels]` of every text of a set. Stops early, with fewer rows, if the user asks.
///
/// # Errors
/// [`ClassifyError`] if the model has no classification head or cannot take a text.
pub fn logits(
    rt: &Runtime,
    model: &Model,
    set: &EncodedSet,
    what: &str,
    progress: &dyn Progress,
) -> Result<Vec<f32>, ClassifyError> {
    let mut runner = ClassifierRunner::new(model)?;
    let mut all = Vec::with_capacity(set.texts.len() * model.config.head.outputs());
    progress.begin(what, Some(set.texts.len() as u64), "texts");
    let mut next = 0;
    while next < set.texts.len() && !progress.stop_requested() {
        let (first, mut tokens) = (next, 0);
        while next < set.texts.len() && (next == first || tokens + set.texts[next].input_ids.len() <= BATCH_TOKENS) {
            tokens += set.texts[next].input_ids.len();
            next += 1;
        }
        let batch = set.batch(&(first..next).collect::<Vec<_>>());
        all.extend_from_slice(runner.run(rt, &batch).map_err(|source| ClassifyError::Input { index: first, source })?);
        progress.advance((next - first) as u64);
    }
    progress.end();
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::batch::Batch;
    use crate::model::{ModelConfig, Purpose};
    use distilbert_kernels::{Isa, Precision};

    #[test]
    fn first_tokens_alone_have_the_bits_of_a_whole_pass_in_every_precision() {
        for layers in [1, 3] {
            let config = format!(
                r#"{{"model_type": "distilbert", "dim": 24, "n_heads": 3, "n_layers": {layers}, "hidden_dim": 40,
                     "vocab_size": 50, "max_position_embeddings": 40}}"#
            );
            let mut model = Model::random(ModelConfig::from_json(&config).unwrap(), 3);
            let ids: Vec<u32> = (0..40).collect();
            let batch = Batch::from_sequences([&ids[..7], &ids[3..4], &ids[2..]]);
            for isa in Isa::available() {
                let rt = Runtime::new(isa, 2).unwrap();
                for precision in Precision::ALL.into_iter().filter(|precision| precision.is_available(isa)) {
                    model.pack(&rt, precision, Purpose::Inference);
                    let (mut all, mut first) = (Activations::default(), Activations::default());
                    model.encode(&rt, &batch, Mode::Inference, &mut all);
                    let first = model.encode_first(&rt, &batch, &mut first);
                    for (i, token) in [0, 7, 8].into_iter().enumerate() {
                        let expected = &all.last_hidden_state()[token * 24..][..24];
                        assert_eq!(
                            &first[i * 24..][..24],
                            expected,
                            "{isa} {precision}, {layers} layers, sequence {i}"
                        );
                    }
                }
            }
        }
    }
}
