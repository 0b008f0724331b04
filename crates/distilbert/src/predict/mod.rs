//! A classifier's logits for any number of texts, in memory bounded by the batch.

use crate::data::encoded::EncodedSet;
use crate::heads::Head;
use crate::heads::classification::ClassifierActivations;
use crate::model::encoder::Activations;
use crate::model::{InputError, Mode, Model};
use crate::progress::Progress;
use distilbert_kernels::Runtime;
use distilbert_kernels::elementwise::gather_rows;

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
    first: Vec<f32>,
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
                first: Vec::new(),
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
        let hidden = self.model.config.encoder.hidden;
        self.model.encode(rt, batch, Mode::Inference, &mut self.activations);
        self.first.resize(batch.sequences() * hidden, 0.0);
        gather_rows(rt, self.activations.last_hidden_state(), hidden, batch.first_tokens(), &mut self.first);
        let arena = self.model.parameters.weights();
        if let Head::Classifier(head) = &self.model.head {
            head.forward(rt, arena, &self.first, Mode::Inference, &mut self.head, &mut self.logits);
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
