//! Loss, logits and gradients of one labelled batch.

use super::outputs::{SLOT_LOGITS, SPAN_LOGITS, compare_outputs};
use super::{
    Comparison, GRADIENT_FLOOR, ReferenceBatch, SPAN_GRADIENT_FLOOR, VerifyError, compare_gradient, compare_values,
    norm,
};
use crate::checkpoint::Tensors;
use crate::data::examples::Problem;
use crate::data::masking::IGNORED;
use crate::heads::tokens::starts_then_ends;
use crate::loss::labelled::{SoftLabels, Span};
use crate::loss::layers::LayerTerm;
use crate::loss::vocabulary::{DistilWeights, KlPositions};
use crate::model::{DropoutKey, HeadKind, Mode, Model};
use crate::train::finetune::{LabelledBatch, StepBuffers, Targets, labelled_step};
use crate::train::language::{MaskedBatch, Pass, masked_step};
use crate::train::layer_terms::{LayerTerms, Portion};
use distilbert_kernels::{Precision, Runtime};
use std::path::{Path, PathBuf};

/// Settings beside a batch with soft labels.
#[derive(serde::Deserialize)]
struct SoftSettings {
    temperature: f64,
    alpha_hard: f64,
    alpha_soft: f64,
    #[serde(default)]
    alpha_mse: f64,
    /// Terms between the layers of the model and of `teacher`.
    #[serde(default)]
    layer_terms: Vec<LayerTerm>,
    teacher: Option<PathBuf>,
}

/// Compares loss, logits and every parameter's gradient of `model` (packed for training, dropout off) with
/// `expected.safetensors` in `folder`. Labels are classes (of texts, tokens or both), one 0 or 1 an
/// output, numbers, starts and ends, or hidden tokens, by the model's head; a teacher's logits and a `meta.json` make the loss
/// one of soft labels, with terms between layers if it names any, whose linears become a part of `model`.
///
/// # Errors
/// [`VerifyError`] if a file cannot be read or does not fit the model.
pub fn verify_labelled_batch(rt: &Runtime, model: &mut Model, folder: &Path) -> Result<LabelledCheck, VerifyError> {
    let path = folder.join("expected.safetensors");
    let tensors = Tensors::open_file(&path)?;
    let reference = ReferenceBatch::read(&tensors)?;
    model.check(&reference.batch).map_err(|source| VerifyError::Input { path: path.clone(), source })?;
    let soft = match tensors.names().any(|name| name.starts_with("teacher_")) {
        true => Some(Soft::read(rt, model, folder)?),
        false => None,
    };
    let mut gradients = vec![0.0; model.parameters.len()];
    let slots = vec![0; reference.batch.sequences()];
    let key = DropoutKey { seed: 0, step: 1, slots: &slots };
    let mut comparisons = Vec::new();
    let loss = match &model.config.head {
        HeadKind::Classification { .. }
        | HeadKind::TokenClassification { .. }
        | HeadKind::QuestionAnswering
        | HeadKind::IntentsAndSlots { .. } => {
            let (loss, logits) = labelled_loss(rt, model, &tensors, &reference, soft.as_ref(), key, &mut gradients)?;
            let mut compare = |name: &str, ours: &[f32]| {
                let expected = tensors.read_f32(name)?;
                let per_token = tensors.shape(name)?.len() == 3 || SPAN_LOGITS.contains(&name);
                let expected = if per_token { reference.real_rows(&expected) } else { expected };
                comparisons.push(compare_values(name, ours, &expected));
                Ok::<(), VerifyError>(())
            };
            match &model.config.head {
                HeadKind::QuestionAnswering => {
                    let rows = starts_then_ends(&logits);
                    for (name, ours) in SPAN_LOGITS.into_iter().zip(rows.chunks(reference.batch.tokens())) {
                        compare(name, ours)?;
                    }
                }
                HeadKind::IntentsAndSlots { intents, .. } => {
                    let (of_texts, of_tokens) = logits.split_at(reference.batch.sequences() * intents.len());
                    compare("logits", of_texts)?;
                    compare(SLOT_LOGITS, of_tokens)?;
                }
                _ => compare("logits", &logits)?,
            }
            loss
        }
        HeadKind::MaskedLm => {
            let labels = reference.real_rows(&tensors.read_i64("labels")?);
            let masked = MaskedBatch {
                batch: reference.batch.clone(),
                targets: labels.into_iter().map(|label| label as i32).collect(),
            };
            let weights = DistilWeights { kl: 0.0, mlm: 1.0, cosine: 0.0, mse: 0.0, ..Default::default() };
            let (kl_positions, layer_terms) = (KlPositions::Masked, LayerTerms::default());
            let portion = Portion { positions: masked.positions(kl_positions), share: 1.0 };
            let pass = Pass { model, teachers: &[], kl_positions, weights, layer_terms: &layer_terms, portion };
            comparisons.extend(compare_outputs(rt, model, &tensors, &reference, ["logits"].into_iter())?);
            masked_step(rt, &pass, &masked, key, &mut gradients).vocabulary.total(&weights)
        }
        HeadKind::None | HeadKind::Embedding(_) => {
            let reason = "the model has no head with labels, so no reference has its loss".to_owned();
            return Err(VerifyError::Unexpected { path, name: "labels".into(), reason });
        }
    };
    let expected = tensors.read_f32("loss")?;
    let of_question_answering = model.config.head == HeadKind::QuestionAnswering && soft.is_none();
    if of_question_answering && let Some(real) = loss_without_padding(&tensors, &reference, &expected)? {
        comparisons.push(compare_values("loss", &[loss as f32], &[real as f32]));
        return Ok(LabelledCheck { comparisons, not_compared: Some(WITH_PADDING) });
    }
    comparisons.push(compare_values("loss", &[loss as f32], &expected));
    comparisons.extend(compare_gradients(model, &tensors, &gradients, "")?);
    Ok(LabelledCheck { comparisons, not_compared: None })
}

/// What became of a labelled batch.
pub struct LabelledCheck {
    /// Each tensor's difference.
    pub comparisons: Vec<Comparison>,
    /// Why some of the reference's tensors were not compared.
    pub not_compared: Option<&'static str>,
}

const WITH_PADDING: &str = "the reference's distributions over tokens count padding, as those of the loss in transformers \
                            do, and here padding takes no part: the loss is compared with that of the reference's logits \
                            over real tokens, and gradients are not compared";

/// If the reference's loss is the one that counts padding, the one that its logits have without.
fn loss_without_padding(
    tensors: &Tensors,
    reference: &ReferenceBatch,
    expected: &[f32],
) -> Result<Option<f64>, VerifyError> {
    let sequences = reference.batch.sequences();
    let width = reference.attention_mask.len() / sequences.max(1);
    if reference.attention_mask.iter().all(|&mask| mask != 0) {
        return Ok(None);
    }
    // The mean of -ln p over the sequences whose position is inside, once over all tokens and once over real ones.
    let mean = |logits: &[f32], positions: &[i64], with_padding: bool| {
        let (mut sum, mut count) = (0.0, 0u32);
        let rows = logits.chunks_exact(width).zip(reference.attention_mask.chunks_exact(width)).zip(positions);
        for ((logits, mask), &position) in rows {
            let counts = |&place: &usize| with_padding || mask[place] != 0;
            let Some(position) = usize::try_from(position).ok().filter(|place| *place < width && counts(place)) else {
                continue;
            };
            let powers = (0..width).filter(counts).map(|place| f64::from(logits[place]).exp());
            sum += powers.sum::<f64>().ln() - f64::from(logits[position]);
            count += 1;
        }
        sum / f64::from(count)
    };
    let mut losses = [0.0; 2];
    for (side, name) in ["start", "end"].into_iter().zip(SPAN_LOGITS) {
        let (logits, positions) = (tensors.read_f32(name)?, tensors.read_i64(&format!("{side}_positions"))?);
        for (loss, with_padding) in losses.iter_mut().zip([true, false]) {
            *loss += 0.5 * mean(&logits, &positions, with_padding);
        }
    }
    let [with, without] = losses;
    let is_padded = compare_values("loss", &[with as f32], expected).passed;
    Ok(is_padded.then_some(without))
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
    let floor = if model.config.head == HeadKind::QuestionAnswering { SPAN_GRADIENT_FLOOR } else { GRADIENT_FLOOR };
    let smallest = floor * norm_of_all;
    Ok(references
        .into_iter()
        .map(|(parameter, reference)| {
            let ours = &gradients[parameter.range.clone()];
            compare_gradient(format!("{prefix}grad.{}", parameter.name), ours, &reference, smallest)
        })
        .collect())
}

fn labelled_loss(
    rt: &Runtime,
    model: &Model,
    tensors: &Tensors,
    reference: &ReferenceBatch,
    soft: Option<&Soft>,
    key: DropoutKey<'_>,
    gradients: &mut [f32],
) -> Result<(f64, Vec<f32>), VerifyError> {
    let targets = targets(model, tensors, reference)?;
    let teacher = read_teacher(model, tensors, reference)?;
    let soft_labels = soft.map_or_else(SoftLabels::default, |soft| soft.labels);
    let batch = &reference.batch;
    let labelled = LabelledBatch {
        frozen_states: None,
        batch,
        labels: targets.labels(batch),
        teacher: teacher.as_deref(),
        soft_labels: &soft_labels,
        layers: soft.map(|soft| (&soft.layer_terms, soft.teacher.as_slice())),
    };
    let mut buffers = StepBuffers::default();
    let losses = labelled_step(rt, model, labelled, Mode::Training(key), gradients, &mut buffers);
    let between_layers = soft.map_or(0.0, |soft| soft.layer_terms.total(&buffers.layer_losses));
    Ok((losses.total(&soft_labels) + between_layers, buffers.logits))
}

/// The labels in the form of the model's problem, checked.
fn targets(model: &Model, tensors: &Tensors, reference: &ReferenceBatch) -> Result<Targets, VerifyError> {
    let (batch, outputs) = (&reference.batch, model.config.head.outputs());
    let unexpected = |name: &str, reason: String| VerifyError::Unexpected {
        path: tensors.path().to_owned(),
        name: name.to_owned(),
        reason,
    };
    let check_count = |name: &str, found: usize, expected: usize| match found == expected {
        true => Ok(()),
        false => Err(unexpected(name, format!("expected {expected} elements, found {found}"))),
    };
    let classes = |name: &str, outputs: usize, per_token: bool| {
        let labels = tensors.read_i64(name)?;
        let rows = if per_token { reference.attention_mask.len() } else { batch.sequences() };
        check_count(name, labels.len(), rows)?;
        let labels = if per_token { reference.real_rows(&labels) } else { labels };
        let class = |label: i64| match i32::try_from(label) {
            Ok(class) if class == IGNORED || (0..outputs as i32).contains(&class) => Ok(class),
            _ => Err(unexpected(name, format!("expected a class below {outputs}, or {IGNORED}, found {label}"))),
        };
        labels.into_iter().map(class).collect::<Result<Vec<i32>, VerifyError>>()
    };
    match &model.config.head {
        HeadKind::QuestionAnswering => {
            let positions = |name: &str| {
                let positions = tensors.read_i64(name)?;
                check_count(name, positions.len(), batch.sequences())?;
                let inside = |(&position, length): (&i64, usize)| {
                    u32::try_from(position).ok().filter(|&token| (token as usize) < length)
                };
                Ok::<Vec<Option<u32>>, VerifyError>(positions.iter().zip(batch.lengths()).map(inside).collect())
            };
            let (starts, ends) = (positions("start_positions")?, positions("end_positions")?);
            let spans = starts.into_iter().zip(ends).map(|(start, end)| Span { start, end }).collect();
            Ok(Targets::Spans(spans))
        }
        HeadKind::Classification { problem: Problem::MultiLabel | Problem::Regression, .. } => {
            let numbers = tensors.read_f32("labels")?;
            check_count("labels", numbers.len(), batch.sequences() * outputs)?;
            let multi = matches!(&model.config.head, HeadKind::Classification { problem: Problem::MultiLabel, .. });
            Ok(if multi { Targets::Multi(numbers) } else { Targets::Scores(numbers) })
        }
        HeadKind::IntentsAndSlots { slots, .. } => Ok(Targets::IntentsAndSlots {
            intents: classes("labels", outputs, false)?,
            slots: classes("slot_labels", slots.len(), true)?,
        }),
        head => {
            let per_token = matches!(head, HeadKind::TokenClassification { .. });
            Ok(Targets::Classes(classes("labels", outputs, per_token)?))
        }
    }
}

/// What a teacher says of the batch, in the shape of our logits: `teacher_logits` (and
/// `teacher_slot_logits`), or those of start and end.
fn read_teacher(model: &Model, tensors: &Tensors, reference: &ReferenceBatch) -> Result<Option<Vec<f32>>, VerifyError> {
    if tensors.contains("teacher_start_logits") {
        let real = |name: &str| Ok::<Vec<f32>, VerifyError>(reference.real_rows(&tensors.read_f32(name)?));
        let (starts, ends) = (real("teacher_start_logits")?, real("teacher_end_logits")?);
        return Ok(Some(starts.into_iter().zip(ends).flat_map(|(start, end)| [start, end]).collect()));
    }
    if !tensors.contains("teacher_logits") {
        return Ok(None);
    }
    let logits = tensors.read_f32("teacher_logits")?;
    Ok(Some(match &model.config.head {
        HeadKind::TokenClassification { .. } => reference.real_rows(&logits),
        HeadKind::IntentsAndSlots { .. } => {
            let of_tokens = reference.real_rows(&tensors.read_f32("teacher_slot_logits")?);
            [logits, of_tokens].concat()
        }
        _ => logits,
    }))
}

/// What a teacher takes part in.
struct Soft {
    labels: SoftLabels,
    layer_terms: LayerTerms,
    /// Where there are such terms.
    teacher: Option<Model>,
}

impl Soft {
    fn read(rt: &Runtime, model: &mut Model, folder: &Path) -> Result<Soft, VerifyError> {
        let path = folder.join("meta.json");
        let wrong = |reason: String| VerifyError::Settings { path: path.clone(), reason };
        let text = std::fs::read_to_string(&path).map_err(|error| wrong(error.to_string()))?;
        let soft: SoftSettings = serde_json::from_str(&text).map_err(|error| wrong(error.to_string()))?;
        let labels = SoftLabels {
            temperature: soft.temperature,
            hard: soft.alpha_hard,
            soft: soft.alpha_soft,
            mse: soft.alpha_mse,
        };
        let Some(teacher) = soft.teacher else {
            return Ok(Soft { labels, layer_terms: LayerTerms::default(), teacher: None });
        };
        let teacher = Model::load_for_inference(&folder.join(teacher), rt, Some(Precision::F32))?.model;
        let mut layer_terms = LayerTerms::new(&soft.layer_terms, model, &[&teacher.config], 0)
            .map_err(|error| wrong(error.to_string()))?;
        super::read_projections(model, folder)?;
        layer_terms.pack(rt, model.parameters.weights());
        Ok(Soft { labels, layer_terms, teacher: Some(teacher) })
    }
}
