//! Batches through models: one set of buffers for all of them, since one batch runs at a time.

use super::queue::Taken;
use super::{EngineError, Output, Work};
use distilbert::model::encoder::Activations;
use distilbert::model::{InputError, Mode};
use distilbert::predict::LogitsPass;
use distilbert::predict::embedding::EmbeddingPass;
use distilbert::predict::fill_mask::{Candidates, FillMaskPass, Mask, mask_places};
use distilbert_kernels::Runtime;

/// Buffers of every kind of pass.
#[derive(Default)]
pub struct Passes {
    logits: LogitsPass,
    embedding: EmbeddingPass,
    fill_mask: FillMaskPass,
    states: Activations,
}

impl Passes {
    /// Runs a batch; an output for each of its sequences.
    ///
    /// # Errors
    /// [`EngineError`] if the model cannot take it or gives numbers that are none.
    pub fn run(&mut self, rt: &Runtime, taken: &Taken) -> Result<Vec<Output>, EngineError> {
        let (model, batch) = (&taken.model.model, &taken.batch);
        let Some(first) = taken.sequences.first() else { return Ok(Vec::new()) };
        let refused = |error: InputError| EngineError::Input(error.to_string());
        let outputs: Vec<Output> = match &first.work {
            Work::Logits => {
                let numbers = self.logits.run(rt, model, batch).map_err(refused)?;
                let parts = model.head.by_sequence(batch, numbers);
                parts.into_iter().map(|parts| Output::Numbers(parts.concat())).collect()
            }
            Work::Embedding => {
                let numbers = self.embedding.run(rt, model, batch).map_err(refused)?;
                let width = numbers.len() / batch.sequences();
                split(numbers, batch.lengths().map(|_| width))
            }
            Work::States => {
                model.check(batch).map_err(refused)?;
                model.encode(rt, batch, Mode::Inference, &mut self.states);
                let hidden = model.config.encoder.hidden;
                split(self.states.last_hidden_state(), batch.lengths().map(|length| length * hidden))
            }
            Work::Fillings { .. } => {
                let mut masks = Vec::new();
                let mut counts = Vec::new();
                for (sequence, start) in taken.sequences.iter().zip(batch.first_tokens()) {
                    let Work::Fillings { candidates, top } = &sequence.work else { continue };
                    let candidates = candidates.as_deref().map_or(Candidates::All, Candidates::Only);
                    let places = mask_places(&taken.model.tokenizer, sequence.encoding());
                    counts.push(places.len());
                    masks.extend(places.into_iter().map(|place| Mask {
                        token: start + place as u32,
                        candidates,
                        top: *top,
                    }));
                }
                let mut fillings = self.fill_mask.run(rt, model, batch, &masks).map_err(refused)?.into_iter();
                counts.into_iter().map(|count| Output::Fillings(fillings.by_ref().take(count).collect())).collect()
            }
        };
        let is_finite = outputs.iter().all(|output| match output {
            Output::Numbers(numbers) => numbers.iter().all(|x| x.is_finite()),
            Output::Fillings(masks) => masks.iter().flatten().all(|filling| filling.probability.is_finite()),
        });
        if is_finite { Ok(outputs) } else { Err(EngineError::NotFinite) }
    }
}

fn split(mut numbers: &[f32], lengths: impl Iterator<Item = usize>) -> Vec<Output> {
    lengths
        .map(|length| {
            let (own, others) = numbers.split_at(length);
            numbers = others;
            Output::Numbers(own.to_vec())
        })
        .collect()
}
