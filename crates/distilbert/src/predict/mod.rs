//! What a model says of any number of texts, in memory bounded by the batch: the logits of a head with labels, the tokens
//! for masks, a sentence encoder's vectors in [`embedding`].

pub mod answer_spans; // start and end logits -> answers
pub mod answers; // questions -> answers, in bounded memory
pub mod attention_maps; // one text -> which token looks at which
pub mod classify; // logits -> labels with scores
pub mod embedding; // texts -> vectors
pub mod intents; // utterances -> intents and slot tags
pub mod fill_mask; // mask tokens -> the likeliest tokens
pub mod spans; // tags of tokens -> spans of a text
pub mod text_windows; // a text of any length -> windows, and back
pub mod zero_shot; // logits of hypotheses -> scores of labels

pub use embedding::{EmbedError, EmbeddingRunner, embeddings};

use crate::data::batch::Batch;
use crate::data::encoded::EncodedSet;
use crate::data::tagging::words::WordWindows;
use crate::heads::classification::ClassifierActivations;
use crate::heads::{Head, LabelledActivations};
use crate::model::encoder::Activations;
use crate::model::{InputError, Mode, Model};
use crate::progress::Progress;
use distilbert_kernels::Runtime;

/// Tokens of one batch: enough to fill the matrix products, few enough to stay in the cache.
const BATCH_TOKENS: usize = 1024;

/// Why a model does not answer.
#[derive(Debug, thiserror::Error)]
pub enum PredictError {
    /// The model has another head.
    #[error(
        "expected a model with a head for classification, token classification, intents and slots or question answering, found {found}"
    )]
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

/// Runs a model with a labelled head; keeps its buffers from batch to batch.
pub struct LogitsRunner<'a> {
    model: &'a Model,
    pass: LogitsPass,
}

impl<'a> LogitsRunner<'a> {
    /// A runner of a packed model.
    ///
    /// # Errors
    /// [`PredictError::Head`] if the model's head has no labels.
    pub fn new(model: &'a Model) -> Result<Self, PredictError> {
        if !model.head.is_labelled() {
            return Err(PredictError::Head { found: model.config.head.class_suffix() });
        }
        Ok(LogitsRunner { model, pass: LogitsPass::default() })
    }

    /// Logits `[batch, outputs]`, or `[tokens, outputs]` of a head that answers for every token.
    ///
    /// # Errors
    /// [`InputError`] if the model cannot take the batch.
    pub fn run(&mut self, rt: &Runtime, batch: &Batch) -> Result<&[f32], InputError> {
        self.pass.run(rt, self.model, batch)
    }
}

/// Buffers of passes through models with labelled heads: of one model, or of several in turns.
#[derive(Default)]
pub struct LogitsPass {
    activations: Activations,
    classifier: ClassifierActivations,
    head: LabelledActivations,
    logits: Vec<f32>,
}

impl LogitsPass {
    /// As [`LogitsRunner::run`], of a packed model.
    ///
    /// # Errors
    /// [`InputError`] if the model cannot take the batch.
    ///
    /// # Panics
    /// If the model's head has no labels.
    pub fn run(&mut self, rt: &Runtime, model: &Model, batch: &Batch) -> Result<&[f32], InputError> {
        model.check(batch)?;
        let arena = model.parameters.weights();
        let mode = Mode::Inference;
        match &model.head {
            // The states of the other tokens are not needed.
            Head::Classifier(head) => {
                let first = model.encode_first(rt, batch, &mut self.activations);
                head.forward(rt, arena, first, mode, &mut self.classifier, &mut self.logits);
            }
            head => {
                model.encode(rt, batch, mode, &mut self.activations);
                let states = self.activations.last_hidden_state();
                head.forward_labelled(rt, arena, states, batch, mode, &mut self.head, &mut self.logits);
            }
        }
        Ok(&self.logits)
    }
}

/// Logits of many texts, one after the other.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Logits {
    values: Vec<f32>,
    /// Where each text's end in `values`.
    ends: Vec<usize>,
}

impl Logits {
    /// Number of texts.
    pub fn texts(&self) -> usize {
        self.ends.len()
    }

    /// Those of one text: `[outputs]`, or `[tokens, outputs]`, or the one behind the other.
    ///
    /// # Panics
    /// If there is no such text.
    pub fn of(&self, text: usize) -> &[f32] {
        let start = if text == 0 { 0 } else { self.ends[text - 1] };
        &self.values[start..self.ends[text]]
    }

    /// Appends those of a text, for itself and for its tokens.
    pub(crate) fn push(&mut self, parts: &[&[f32]; 2]) {
        parts.iter().for_each(|part| self.values.extend_from_slice(part));
        self.ends.push(self.values.len());
    }

    /// Those of several texts as a pass over them gives them, where `outputs` of each are for the text itself: with two
    /// heads these come before all tokens'.
    pub(crate) fn of_batch(&self, texts: &[usize], outputs: usize) -> Vec<f32> {
        let parts = || texts.iter().map(|&text| self.of(text).split_at(outputs.min(self.of(text).len())));
        parts().flat_map(|(own, _)| own).chain(parts().flat_map(|(_, tokens)| tokens)).copied().collect()
    }
}

/// Logits of every text of a set. Stops early, with fewer texts, if the user asks.
///
/// # Errors
/// [`PredictError`] if the model's head has no labels or it cannot take a text.
pub fn logits(
    rt: &Runtime,
    model: &Model,
    set: &EncodedSet,
    what: &str,
    progress: &dyn Progress,
) -> Result<Logits, PredictError> {
    let mut runner = LogitsRunner::new(model)?;
    let mut all = Logits::default();
    progress.begin(what, Some(set.texts.len() as u64), "texts");
    for samples in set.token_batches(BATCH_TOKENS) {
        if progress.stop_requested() {
            break;
        }
        let batch = set.batch(&samples.clone().collect::<Vec<_>>());
        let logits = runner.run(rt, &batch).map_err(|source| PredictError::Input { index: samples.start, source })?;
        for parts in model.head.by_sequence(&batch, logits) {
            all.push(&parts);
        }
        progress.advance(samples.len() as u64);
    }
    progress.end();
    Ok(all)
}

/// The logits of every word of every sentence, `[sentences][words][outputs]`, from those of its windows.
pub fn word_logits(windows: &WordWindows, logits: &Logits, outputs: usize) -> Vec<Vec<Vec<f32>>> {
    let mut words: Vec<Vec<Vec<f32>>> = vec![Vec::new(); windows.tokens.len()];
    // Windows come in the order of the sentences and answer for each word once, in order.
    for (window, answers) in windows.answers.iter().enumerate().take(logits.texts()) {
        let rows = logits.of(window);
        for answer in answers {
            words[answer.sentence].push(rows[answer.token * outputs..][..outputs].to_vec());
        }
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;
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
