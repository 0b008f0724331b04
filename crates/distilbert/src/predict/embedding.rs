//! Embeddings of any number of texts, in memory bounded by the batch.

use super::BATCH_TOKENS;
use crate::data::batch::Batch;
use crate::data::encoded::EncodedSet;
use crate::heads::Head;
use crate::heads::embedding::EmbedderActivations;
use crate::model::encoder::Activations;
use crate::model::{InputError, Mode, Model, Pooling};
use crate::progress::Progress;
use distilbert_kernels::Runtime;
use distilbert_kernels::pool::normalize_rows;

/// Why texts cannot be embedded.
#[derive(Debug, thiserror::Error)]
pub enum EmbedError {
    /// The model has another head.
    #[error("expected a model with an embedding head, found {found}")]
    Head {
        /// Class suffix of the model.
        found: &'static str,
    },
    /// More dimensions than an embedding has, or none.
    #[error("dimensions: expected 1 to the model's {width}, found {found}")]
    Dimensions {
        /// Width of the model's embeddings.
        width: usize,
        /// What was asked for.
        found: usize,
    },
    /// A text the model cannot take.
    #[error("text {index}: {source}")]
    Input {
        /// Which text.
        index: usize,
        /// What is wrong.
        source: InputError,
    },
}

/// Runs a sentence encoder; keeps its buffers from batch to batch.
pub struct EmbeddingRunner<'a> {
    model: &'a Model,
    normalizes: bool,
    width: usize,
    dimensions: usize,
    pass: EmbeddingPass,
    cut: Vec<f32>,
}

impl<'a> EmbeddingRunner<'a> {
    /// A runner of a packed model. Embeddings are cut to their first `dimensions` numbers if that is given, and scaled
    /// to length one again if the model does that.
    ///
    /// # Errors
    /// [`EmbedError::Head`] if the model has no embedding head, [`EmbedError::Dimensions`] if it has not so many.
    pub fn new(model: &'a Model, dimensions: Option<usize>) -> Result<Self, EmbedError> {
        let Head::Embedder(head) = &model.head else {
            return Err(EmbedError::Head { found: model.config.head.class_suffix() });
        };
        let width = head.width();
        let dimensions = dimensions.unwrap_or(width);
        if !(1..=width).contains(&dimensions) {
            return Err(EmbedError::Dimensions { width, found: dimensions });
        }
        let normalizes = head.config.normalize;
        Ok(EmbeddingRunner { model, normalizes, width, dimensions, pass: EmbeddingPass::default(), cut: Vec::new() })
    }

    /// Numbers of an embedding.
    pub fn dimensions(&self) -> usize {
        self.dimensions
    }

    /// Embeddings `[batch, dimensions]`. Only pooled states are kept, and of a model that pools first tokens only these
    /// are computed in the last layer.
    ///
    /// # Errors
    /// [`InputError`] if the model cannot take the batch.
    pub fn run(&mut self, rt: &Runtime, batch: &Batch) -> Result<&[f32], InputError> {
        let embeddings = self.pass.run(rt, self.model, batch)?;
        if self.dimensions == self.width {
            return Ok(embeddings);
        }
        self.cut.clear();
        for embedding in embeddings.chunks_exact(self.width) {
            self.cut.extend_from_slice(&embedding[..self.dimensions]);
        }
        if self.normalizes {
            normalize(rt, &mut self.cut, self.dimensions);
        }
        Ok(&self.cut)
    }
}

/// Scales each row of `width` numbers to length one.
pub fn normalize(rt: &Runtime, rows: &mut [f32], width: usize) {
    let mut lengths = vec![0.0; rows.len() / width];
    normalize_rows(rt, rows, width, &mut lengths);
}

/// Buffers of passes through sentence encoders: of one model, or of several in turns.
#[derive(Default)]
pub struct EmbeddingPass {
    activations: Activations,
    head: EmbedderActivations,
}

impl EmbeddingPass {
    /// Embeddings `[batch, width]` of a packed model.
    ///
    /// # Errors
    /// [`InputError`] if the model cannot take the batch.
    ///
    /// # Panics
    /// If the model has no embedding head.
    pub fn run(&mut self, rt: &Runtime, model: &Model, batch: &Batch) -> Result<&[f32], InputError> {
        let Head::Embedder(head) = &model.head else {
            panic!("expected an embedding head, found {}", model.config.head.class_suffix());
        };
        model.check(batch)?;
        let arena = model.parameters.weights();
        if head.config.pooling == Pooling::Cls {
            let first = model.encode_first(rt, batch, &mut self.activations);
            head.forward_first(rt, arena, first, &mut self.head);
        } else {
            model.encode(rt, batch, Mode::Inference, &mut self.activations);
            let states = self.activations.last_hidden_state();
            head.forward(rt, arena, states, batch, &mut self.head);
        }
        Ok(self.head.embeddings())
    }
}

/// Embeddings `[texts, dimensions]` of every text of a set. Stops early, with fewer rows, if the user asks.
///
/// # Errors
/// [`EmbedError`] if the model has no embedding head or cannot take a text.
pub fn embeddings(
    rt: &Runtime,
    runner: &mut EmbeddingRunner<'_>,
    set: &EncodedSet,
    what: &str,
    progress: &dyn Progress,
) -> Result<Vec<f32>, EmbedError> {
    let mut all = Vec::with_capacity(set.texts.len() * runner.dimensions());
    progress.begin(what, Some(set.texts.len() as u64), "texts");
    for samples in set.token_batches(BATCH_TOKENS) {
        if progress.stop_requested() {
            break;
        }
        let batch = set.batch(&samples.clone().collect::<Vec<_>>());
        let rows = runner.run(rt, &batch).map_err(|source| EmbedError::Input { index: samples.start, source })?;
        all.extend_from_slice(rows);
        progress.advance(samples.len() as u64);
    }
    progress.end();
    Ok(all)
}
