//! Loss, logits and gradients of one labelled batch.

use super::outputs::compare_outputs;
use super::{Comparison, ReferenceBatch, VerifyError, compare_gradient, compare_values, norm};
use crate::checkpoint::Tensors;
use crate::data::examples::Problem;
use crate::heads::classification::ClassifierActivations;
use crate::loss::sequence::{Labels, SoftLabels};
use crate::loss::vocabulary::{DistilWeights, KlPositions};
use crate::model::encoder::{Activations, Scratch};
use crate::model::{DropoutKey, HeadKind, Mode, Model};
use crate::train::finetune::{SequenceBatch, SequenceBuffers, sequence_step};
use crate::train::language::{MaskedBatch, Pass, masked_step};
use distilbert_kernels::Runtime;
use std::path::Path;

/// Settings beside a batch with soft labels.
#[derive(serde::Deserialize)]
struct SoftSettings {
    temperature: f64,
    alpha_hard: f64,
    alpha_soft: f64,
}

/// Compares loss, logits and every parameter's gradient of `model` (packed for training, dropout off) with
/// `expected.safetensors` in `folder`. Labels are classes, one 0 or 1 an output, numbers, or hidden tokens, by the
/// model's head; `teacher_logits` and a `meta.json` make the loss one of soft labels.
///
/// # Errors
/// [`VerifyError`] if a file cannot be read or does not fit the model.
pub fn verify_labelled_batch(rt: &Runtime, model: &Model, folder: &Path) -> Result<Vec<Comparison>, VerifyError> {
    let path = folder.join("expected.safetensors");
    let tensors = Tensors::open_file(&path)?;
    let reference = ReferenceBatch::read(&tensors)?;
    model.check(&reference.batch).map_err(|source| VerifyError::Input { path: path.clone(), source })?;
    let mut gradients = vec![0.0; model.parameters.len()];
    let slots = vec![0; reference.batch.sequences()];
    let key = DropoutKey { seed: 0, step: 1, slots: &slots };
    let mut comparisons = Vec::new();
    let loss = match &model.config.head {
        HeadKind::Classification { problem, .. } => {
            let (loss, logits) = sequence_loss(rt, model, &tensors, &reference, folder, *problem, key, &mut gradients)?;
            comparisons.push(compare_values("logits", &logits, &tensors.read_f32("logits")?));
            loss
        }
        HeadKind::MaskedLm => {
            let labels = reference.real_rows(&tensors.read_i64("labels")?);
            let masked = MaskedBatch {
                batch: reference.batch.clone(),
                targets: labels.into_iter().map(|label| label as i32).collect(),
            };
            let weights = DistilWeights { kl: 0.0, mlm: 1.0, cosine: 0.0, mse: 0.0, ..Default::default() };
            let positions = masked.positions(KlPositions::Masked);
            let pass = Pass { model, teacher: None, kl_positions: KlPositions::Masked, weights, positions };
            comparisons.extend(compare_outputs(rt, model, &tensors, &reference, ["logits"].into_iter())?);
            masked_step(rt, &pass, &masked, key, &mut gradients).total(&weights)
        }
        HeadKind::None => {
            let reason = "the model has no head, so it has no loss".to_owned();
            return Err(VerifyError::Unexpected { path, name: "labels".into(), reason });
        }
    };
    comparisons.push(compare_values("loss", &[loss as f32], &tensors.read_f32("loss")?));
    comparisons.extend(compare_gradients(model, &tensors, &gradients, "")?);
    Ok(comparisons)
}

/// Compares every parameter's gradient with `grad.NAME`.
pub(super) fn compare_gradients(
    model: &Model,
    tensors: &Tensors,
    gradients: &[f32],
    prefix: &str,
) -> Result<Vec<Comparison>, VerifyError> {
    let mut references = Vec::new();
    for parameter in model.parameters.table() {
        let name = format!("grad.{}", parameter.name);
        // PyTorch lists a tied tensor once, and leaves out what no gradient reaches.
        if tensors.contains(&name) {
            references.push((parameter, tensors.read_f32(&name)?));
        }
    }
    if let Some(unknown) =
        tensors.names().find(|name| name.strip_prefix("grad.").is_some_and(|name| model.parameters.get(name).is_none()))
    {
        let reason = "the model has no such parameter".to_owned();
        return Err(VerifyError::Unexpected { path: tensors.path().to_owned(), name: unknown.to_owned(), reason });
    }
    let norm_of_all = references.iter().map(|(_, reference)| norm(reference).powi(2)).sum::<f64>().sqrt();
    Ok(references
        .into_iter()
        .map(|(parameter, reference)| {
            let ours = &gradients[parameter.range.clone()];
            compare_gradient(format!("{prefix}grad.{}", parameter.name), ours, &reference, norm_of_all)
        })
        .collect())
}

#[allow(clippy::too_many_arguments)] // Operands of one pass; they have no meaning as a group.
fn sequence_loss(
    rt: &Runtime,
    model: &Model,
    tensors: &Tensors,
    reference: &ReferenceBatch,
    folder: &Path,
    problem: Problem,
    key: DropoutKey<'_>,
    gradients: &mut [f32],
) -> Result<(f64, Vec<f32>), VerifyError> {
    let outputs = model.config.head.outputs();
    let sequences = reference.batch.sequences();
    let (mut classes, mut numbers) = (Vec::new(), Vec::new());
    let labels = match problem {
        Problem::Classification => {
            for label in tensors.read_i64("labels")? {
                let class = i32::try_from(label).ok().filter(|&class| (0..outputs as i32).contains(&class));
                classes.push(class.ok_or_else(|| VerifyError::Unexpected {
                    path: tensors.path().to_owned(),
                    name: "labels".into(),
                    reason: format!("expected a class below {outputs}, found {label}"),
                })?);
            }
            Labels::Classes(&classes)
        }
        Problem::MultiLabel | Problem::Regression => {
            numbers = tensors.read_f32("labels")?;
            if problem == Problem::MultiLabel { Labels::Multi(&numbers) } else { Labels::Scores(&numbers) }
        }
    };
    let (found, expected) = match problem {
        Problem::Classification => (classes.len(), sequences),
        _ => (numbers.len(), sequences * outputs),
    };
    if found != expected {
        let reason = format!("expected {expected} elements, found {found}");
        return Err(VerifyError::Unexpected { path: tensors.path().to_owned(), name: "labels".into(), reason });
    }
    let teacher = match tensors.contains("teacher_logits") {
        true => Some(tensors.read_f32("teacher_logits")?),
        false => None,
    };
    let soft_labels = match teacher {
        Some(_) => read_soft_settings(folder)?,
        None => SoftLabels::default(),
    };
    let batch =
        SequenceBatch { batch: &reference.batch, labels, teacher: teacher.as_deref(), soft_labels: &soft_labels };
    let (mut activations, mut head, mut scratch) =
        (Activations::default(), ClassifierActivations::default(), Scratch::default());
    let mut buffers = SequenceBuffers { activations: &mut activations, head: &mut head, scratch: &mut scratch };
    let mut logits = Vec::new();
    let losses = sequence_step(rt, model, batch, Mode::Training(key), &mut logits, gradients, &mut buffers);
    Ok((losses.total(&soft_labels), logits))
}

fn read_soft_settings(folder: &Path) -> Result<SoftLabels, VerifyError> {
    let path = folder.join("meta.json");
    let settings = |reason: String| VerifyError::Settings { path: path.clone(), reason };
    let text = std::fs::read_to_string(&path).map_err(|error| settings(error.to_string()))?;
    let soft: SoftSettings = serde_json::from_str(&text).map_err(|error| settings(error.to_string()))?;
    Ok(SoftLabels { temperature: soft.temperature, hard: soft.alpha_hard, soft: soft.alpha_soft })
}
