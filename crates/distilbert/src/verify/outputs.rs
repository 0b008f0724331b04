//! Hidden states, logits and embeddings against a reference file.

use super::{Comparison, ReferenceBatch, VerifyError, compare_values, not_empty};
use crate::checkpoint::Tensors;
use crate::data::batch::Batch;
use crate::heads::embedding::EmbedderActivations;
use crate::heads::masked_lm::MaskedLmActivations;
use crate::heads::tokens::starts_then_ends;
use crate::heads::{Head, LabelledActivations};
use crate::model::encoder::Activations;
use crate::model::{HeadKind, Mode, Model};
use distilbert_kernels::Runtime;
use std::collections::BTreeMap;
use std::path::Path;

/// The outputs of question answering.
pub(crate) const SPAN_LOGITS: [&str; 2] = ["start_logits", "end_logits"];
/// What a model for intents and slots says of tokens; `logits` are those of the texts.
pub(super) const SLOT_LOGITS: &str = "slot_logits";

/// Runs `model` (packed) on the `input.*` tensors of `expected` and compares every other tensor by its name:
/// `hidden.N`, `last_hidden_state`, `logits`, `slot_logits`, `start_logits` and `end_logits`, and `embedding` (the embedding head's; of
/// another model the mean over the tokens, scaled to length one). Padded positions are not looked at.
///
/// # Errors
/// [`VerifyError`] if the file cannot be read, holds a tensor the model does not compute, or inputs it cannot take.
pub fn verify_outputs(rt: &Runtime, model: &Model, expected: &Path) -> Result<Vec<Comparison>, VerifyError> {
    let tensors = Tensors::open_file(expected)?;
    let reference = ReferenceBatch::read(&tensors)?;
    model.check(&reference.batch).map_err(|source| VerifyError::Input { path: expected.to_owned(), source })?;
    let names = tensors.names().filter(|name| !name.starts_with("input."));
    let comparisons = compare_outputs(rt, model, &tensors, &reference, names)?;
    not_empty(comparisons, expected, "tensors besides `input.*`")
}

/// Compares the outputs of these names.
pub(super) fn compare_outputs<'n>(
    rt: &Runtime,
    model: &Model,
    tensors: &Tensors,
    reference: &ReferenceBatch,
    names: impl Iterator<Item = &'n str>,
) -> Result<Vec<Comparison>, VerifyError> {
    let outputs = compute(rt, model, &reference.batch);
    let mut comparisons = Vec::new();
    for name in names {
        let Some(ours) = outputs.get(name) else {
            let computed: Vec<&str> = outputs.keys().map(String::as_str).collect();
            let reason = format!("expected one of {}, which this model computes", computed.join(", "));
            return Err(VerifyError::Unexpected { path: tensors.path().to_owned(), name: name.to_owned(), reason });
        };
        let values = tensors.read_f32(name)?;
        // Of `[batch, seq, width]` and a question's `[batch, seq]` only real tokens count; `[batch, width]` has no
        // padding.
        let per_token = tensors.shape(name)?.len() == 3 || SPAN_LOGITS.contains(&name);
        let values = if per_token { reference.real_rows(&values) } else { values };
        if ours.len() != values.len() {
            let shape = tensors.shape(name)?;
            let reason = format!(
                "expected {} numbers for the real tokens, as the model computes, found shape {shape:?} with {}",
                ours.len(),
                values.len()
            );
            return Err(VerifyError::Unexpected { path: tensors.path().to_owned(), name: name.to_owned(), reason });
        }
        comparisons.push(compare_values(name, ours, &values));
    }
    Ok(comparisons)
}

/// Everything the model computes for a batch, by the names of reference files, without padding.
pub(crate) fn compute(rt: &Runtime, model: &Model, batch: &Batch) -> BTreeMap<String, Vec<f32>> {
    let mut outputs = BTreeMap::new();
    let mut activations = Activations::default();
    model.encode_observed(rt, batch, Mode::Inference, &mut activations, |index, observed| {
        outputs.insert(format!("hidden.{index}"), observed.states.to_vec());
    });
    let states = activations.last_hidden_state();
    let hidden = model.config.encoder.hidden;
    let arena = model.parameters.weights();
    match &model.head {
        Head::None(_) | Head::Embedder(_) => {}
        Head::MaskedLm(head) => {
            let (mut activations, mut logits) = (MaskedLmActivations::default(), Vec::new());
            head.forward(rt, arena, states, &mut activations);
            head.logits(rt, arena, &activations, 0..batch.tokens(), &mut logits);
            outputs.insert("logits".into(), logits);
        }
        head => {
            let (mut activations, mut logits) = (LabelledActivations::default(), Vec::new());
            head.forward_labelled(rt, arena, states, batch, Mode::Inference, &mut activations, &mut logits);
            match &model.config.head {
                HeadKind::QuestionAnswering => {
                    let mut starts = starts_then_ends(&logits);
                    outputs.insert("end_logits".into(), starts.split_off(batch.tokens()));
                    outputs.insert("start_logits".into(), starts);
                }
                HeadKind::IntentsAndSlots { intents, .. } => {
                    let of_tokens = logits.split_off(batch.sequences() * intents.len());
                    outputs.insert(SLOT_LOGITS.into(), of_tokens);
                    outputs.insert("logits".into(), logits);
                }
                _ => {
                    outputs.insert("logits".into(), logits);
                }
            }
        }
    }
    let embedding = match &model.head {
        Head::Embedder(head) => {
            let mut activations = EmbedderActivations::default();
            head.forward(rt, arena, states, batch, &mut activations);
            activations.embeddings().to_vec()
        }
        _ => mean_unit_vectors(states, hidden, batch),
    };
    outputs.insert("embedding".into(), embedding);
    outputs.insert("last_hidden_state".into(), states.to_vec());
    outputs
}

/// The mean of each sequence's states, scaled to length one: `[batch, hidden]`.
fn mean_unit_vectors(states: &[f32], hidden: usize, batch: &Batch) -> Vec<f32> {
    let mut vectors = Vec::with_capacity(batch.sequences() * hidden);
    for ends in batch.cu_seqlens().windows(2) {
        let rows = &states[ends[0] as usize * hidden..ends[1] as usize * hidden];
        let mut sum = vec![0.0f64; hidden];
        for row in rows.chunks_exact(hidden) {
            sum.iter_mut().zip(row).for_each(|(sum, &value)| *sum += f64::from(value));
        }
        let length = sum.iter().map(|value| value * value).sum::<f64>().sqrt().max(f64::MIN_POSITIVE);
        vectors.extend(sum.iter().map(|value| (value / length) as f32));
    }
    vectors
}
