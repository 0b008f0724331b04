//! What a masked language model puts in the place of its mask tokens.

use super::classify::is_zero;
use crate::data::batch::Batch;
use crate::heads::Head;
use crate::heads::masked_lm::{LOGIT_CHUNK_ROWS, MaskedLmActivations};
use crate::model::encoder::Activations;
use crate::model::{InputError, Mode, Model};
use crate::tokenizer::{Encoding, Tokenizer};
use distilbert_kernels::Runtime;
use distilbert_kernels::elementwise::gather_rows;
use serde::Serialize;

/// A filled text in the shape of Hugging Face's fill-mask pipeline.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Filled {
    /// Probability of the token among all of the vocabulary.
    pub score: f32,
    /// Its id.
    pub token: u32,
    /// Its text.
    pub token_str: String,
    /// The text with the token in place; other masks are shown.
    pub sequence: String,
    /// Tokens that the text lost to the maximum length; left out of JSON if none.
    #[serde(skip_serializing_if = "is_zero")]
    pub truncated_tokens: usize,
}

/// Where the masks of a text are.
pub fn mask_places(tokenizer: &Tokenizer, encoding: &Encoding) -> Vec<usize> {
    let mask = tokenizer.special().mask;
    encoding.input_ids.iter().enumerate().filter(|&(_, &id)| id == mask).map(|(place, _)| place).collect()
}

/// The text with each of the fillings, mask by mask.
pub fn fill(tokenizer: &Tokenizer, encoding: &Encoding, fillings: &[Vec<Filling>]) -> Vec<Vec<Filled>> {
    // Other masks must show where they are.
    let skip_special = fillings.len() == 1;
    let of_mask = |(place, fillings): (usize, &Vec<Filling>)| {
        let mut ids = encoding.input_ids.clone();
        let fill = |filling: &Filling| {
            ids[place] = filling.id;
            Filled {
                score: filling.probability,
                token: filling.id,
                token_str: tokenizer.decode(&[filling.id], false),
                sequence: tokenizer.decode(&ids, skip_special),
                truncated_tokens: encoding.truncated_tokens,
            }
        };
        fillings.iter().map(fill).collect()
    };
    mask_places(tokenizer, encoding).into_iter().zip(fillings).map(of_mask).collect()
}

/// The id that stands for a word: its own, or of a word of several tokens the first's; `None` if it has none.
pub fn target(tokenizer: &Tokenizer, word: &str) -> Option<u32> {
    tokenizer.id(word).or_else(|| {
        let encoding = tokenizer.encode(word, None, None);
        let first = encoding.sequence_ids.iter().position(Option::is_some)?;
        Some(encoding.input_ids[first])
    })
}

/// Runs a masked language model; keeps its buffers from batch to batch.
pub struct FillMaskRunner<'a> {
    model: &'a Model,
    pass: FillMaskPass,
}

/// Buffers of passes through masked language models: of one model, or of several in turns.
#[derive(Default)]
pub struct FillMaskPass {
    activations: Activations,
    head: MaskedLmActivations,
    states: Vec<f32>,
    logits: Vec<f32>,
}

/// A mask of a batch.
#[derive(Clone, Copy, Debug)]
pub struct Mask<'a> {
    /// Its place among the batch's tokens.
    pub token: u32,
    /// What may fill it.
    pub candidates: Candidates<'a>,
    /// How many of them are wanted.
    pub top: usize,
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
        let pass = FillMaskPass::default();
        matches!(model.head, Head::MaskedLm(_)).then_some(FillMaskRunner { model, pass })
    }

    /// The likeliest candidates for each of `masks`; likeliest first, of equals the lower id first. Logits exist for a
    /// chunk of places at a time.
    ///
    /// # Errors
    /// [`InputError`] if the model cannot take the batch.
    ///
    /// # Panics
    /// If a mask or a candidate is out of range.
    pub fn run(&mut self, rt: &Runtime, batch: &Batch, masks: &[Mask<'_>]) -> Result<Vec<Vec<Filling>>, InputError> {
        self.pass.run(rt, self.model, batch, masks)
    }
}

impl FillMaskPass {
    /// As [`FillMaskRunner::run`], of a packed model.
    ///
    /// # Errors
    /// [`InputError`] if the model cannot take the batch.
    ///
    /// # Panics
    /// If the model has no masked-LM head, or a mask or a candidate is out of range.
    pub fn run(
        &mut self,
        rt: &Runtime,
        model: &Model,
        batch: &Batch,
        masks: &[Mask<'_>],
    ) -> Result<Vec<Vec<Filling>>, InputError> {
        let Head::MaskedLm(head) = &model.head else {
            panic!("expected a masked-LM head, found {}", model.config.head.class_suffix());
        };
        model.check(batch)?;
        let mut fillings = Vec::with_capacity(masks.len());
        let arena = model.parameters.weights();
        let hidden = model.config.encoder.hidden;
        model.encode(rt, batch, Mode::Inference, &mut self.activations);
        self.states.resize(masks.len() * hidden, 0.0);
        let tokens: Vec<u32> = masks.iter().map(|mask| mask.token).collect();
        gather_rows(rt, self.activations.last_hidden_state(), hidden, &tokens, &mut self.states);
        head.forward(rt, arena, &self.states, &mut self.head);
        for start in (0..masks.len()).step_by(LOGIT_CHUNK_ROWS) {
            let rows = start..masks.len().min(start + LOGIT_CHUNK_ROWS);
            head.logits(rt, arena, &self.head, rows.clone(), &mut self.logits); // [rows, vocab]
            let chunk = self.logits.chunks_exact(head.vocab_size()).zip(&masks[rows]);
            fillings.extend(chunk.map(|(row, mask)| best(row, mask.candidates, mask.top)));
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
