//! What a masked language model puts in the place of its mask tokens.

use crate::data::batch::Batch;
use crate::heads::Head;
use crate::heads::masked_lm::{LOGIT_CHUNK_ROWS, MaskedLmActivations};
use crate::model::encoder::Activations;
use crate::model::{InputError, Mode, Model};
use distilbert_kernels::Runtime;
use distilbert_kernels::elementwise::gather_rows;

/// Runs a masked language model; keeps its buffers from batch to batch.
pub struct FillMaskRunner<'a> {
    model: &'a Model,
    activations: Activations,
    head: MaskedLmActivations,
    states: Vec<f32>,
    logits: Vec<f32>,
}

/// Which tokens may fill a mask.
#[derive(Clone, Copy, Debug)]
pub enum Candidates<'a> {
    /// The whole vocabulary.
    All,
    /// These ids only. Probabilities stay those over the whole vocabulary.
    Only(&'a [u32]),
}

/// A token for the place of a mask.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Filling {
    /// Its id.
    pub id: u32,
    /// Its probability among all tokens of the vocabulary.
    pub probability: f32,
}

impl<'a> FillMaskRunner<'a> {
    /// A runner of a packed model; `None` if it has no masked-LM head.
    pub fn new(model: &'a Model) -> Option<Self> {
        matches!(model.head, Head::MaskedLm(_)).then(|| FillMaskRunner {
            model,
            activations: Activations::default(),
            head: MaskedLmActivations::default(),
            states: Vec::new(),
            logits: Vec::new(),
        })
    }

    /// The `top` likeliest candidates for each place of `masks`, which are indices into the batch's tokens; likeliest
    /// first, of equals the lower id first. Logits exist for a chunk of places at a time.
    ///
    /// # Errors
    /// [`InputError`] if the model cannot take the batch.
    ///
    /// # Panics
    /// If a mask or a candidate is out of range.
    pub fn run(
        &mut self,
        rt: &Runtime,
        batch: &Batch,
        masks: &[u32],
        candidates: Candidates<'_>,
        top: usize,
    ) -> Result<Vec<Vec<Filling>>, InputError> {
        self.model.check(batch)?;
        let mut fillings = Vec::with_capacity(masks.len());
        let Head::MaskedLm(head) = &self.model.head else { return Ok(fillings) };
        let arena = self.model.parameters.weights();
        let hidden = self.model.config.encoder.hidden;
        self.model.encode(rt, batch, Mode::Inference, &mut self.activations);
        self.states.resize(masks.len() * hidden, 0.0);
        gather_rows(rt, self.activations.last_hidden_state(), hidden, masks, &mut self.states);
        head.forward(rt, arena, &self.states, &mut self.head);
        for start in (0..masks.len()).step_by(LOGIT_CHUNK_ROWS) {
            let rows = start..masks.len().min(start + LOGIT_CHUNK_ROWS);
            head.logits(rt, arena, &self.head, rows, &mut self.logits); // [rows, vocab]
            fillings.extend(self.logits.chunks_exact(head.vocab_size()).map(|row| best(row, candidates, top)));
        }
        Ok(fillings)
    }
}

/// The likeliest candidates of one row of logits.
fn best(logits: &[f32], candidates: Candidates<'_>, top: usize) -> Vec<Filling> {
    let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let power = |logit: f32| (f64::from(logit) - f64::from(largest)).exp();
    let sum: f64 = logits.iter().map(|&logit| power(logit)).sum();
    let mut ids: Vec<u32> = match candidates {
        Candidates::All => (0..logits.len() as u32).collect(),
        Candidates::Only(ids) => ids.to_vec(),
    };
    let logit = |id: u32| logits[id as usize];
    let order = |a: &u32, b: &u32| logit(*b).total_cmp(&logit(*a)).then(a.cmp(b));
    if top < ids.len() {
        ids.select_nth_unstable_by(top, order);
        ids.truncate(top);
    }
    ids.sort_unstable_by(order);
    ids.into_iter().map(|id| Filling { id, probability: (power(logit(id)) / sum) as f32 }).collect()
}
