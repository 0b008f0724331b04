//! A reference distillation run, step by step: losses, gradients by name, parameters after each step.

use super::labelled::compare_gradients;
use super::{Comparison, ReferenceBatch, VerifyError, compare_values, not_empty};
use crate::checkpoint::Tensors;
use crate::checkpoint::model_folder::HeadChoice;
use crate::data::batch::Batch;
use crate::loss::layers::LayerTerm;
use crate::loss::vocabulary::{DistilWeights, KlPositions, Positions};
use crate::model::{DropoutKey, Model, Purpose};
use crate::optim::{OptimizerConfig, OptimizerState, Schedule, update};
use crate::train::language::{LanguageLosses, MaskedBatch, Pass, Teacher, masked_step};
use crate::train::layer_terms::{LayerTerms, LookedAt, Portion};
use distilbert_kernels::{Precision, Runtime};
use std::path::{Path, PathBuf};

/// `meta.json` of a reference run.
#[derive(serde::Deserialize)]
struct Settings {
    teacher: PathBuf,
    /// Others, whose losses are averaged with the first one's.
    #[serde(default)]
    other_teachers: Vec<PathBuf>,
    student_init: PathBuf,
    temperature: f64,
    kl_positions: KlPositions,
    alpha_ce: f64,
    alpha_mlm: f64,
    alpha_cos: f64,
    #[serde(default)]
    alpha_mse: f64,
    lr: f64,
    eps: f64,
    betas: [f64; 2],
    weight_decay: f64,
    max_grad_norm: f64,
    #[serde(default)]
    freeze_positions: bool,
    #[serde(default = "one")]
    accumulation: usize,
    /// Terms between layers; the first weights of their linears are in `projections.safetensors`.
    #[serde(default)]
    layer_terms: Vec<LayerTerm>,
    steps: Vec<ReferenceStep>,
}

fn one() -> usize {
    1
}

/// What the reference computed in one step.
#[derive(serde::Deserialize)]
struct ReferenceStep {
    loss: f64,
    kl: f64,
    mlm: f64,
    cos: f64,
    /// The value of each term between layers.
    #[serde(default)]
    layer_terms: Vec<f64>,
    mse: Option<f64>,
    grad_norm: f64,
    /// The rate of this step, where it is not constant.
    lr: Option<f64>,
}

/// Repeats the run that `folder/meta.json` describes, from its own teacher and student, and compares each step.
/// `student` replaces the student's first weights.
///
/// # Errors
/// [`VerifyError`] if a file cannot be read or the parts do not fit together.
pub fn replay_distillation(
    rt: &Runtime,
    student: Option<&Path>,
    folder: &Path,
) -> Result<Vec<Comparison>, VerifyError> {
    let path = folder.join("meta.json");
    let settings_error = |reason: String| VerifyError::Settings { path: path.clone(), reason };
    let text = std::fs::read_to_string(&path).map_err(|error| settings_error(error.to_string()))?;
    let settings: Settings = serde_json::from_str(&text).map_err(|error| settings_error(error.to_string()))?;
    let mut teachers = Vec::new();
    for teacher in [&settings.teacher].into_iter().chain(&settings.other_teachers) {
        teachers.push(Model::load_for_inference(&folder.join(teacher), rt, Some(Precision::F32))?.model);
    }
    let student = student.map_or_else(|| folder.join(&settings.student_init), Path::to_owned);
    let mut student = Model::load(&student, HeadChoice::AsSaved)?.model;
    // Reference runs have dropout off, whatever the student's configuration says.
    student.disable_dropout();
    if settings.freeze_positions {
        student.freeze_positions();
    }
    let weights = settings.weights();
    let of_teachers: Vec<_> = teachers.iter().map(|teacher| &teacher.config).collect();
    let mut layer_terms = LayerTerms::new(&settings.layer_terms, &mut student, &of_teachers, 0)
        .map_err(|error| settings_error(error.to_string()))?;
    layer_terms.freeze_unreached(&mut student, LookedAt::by(&weights));
    super::read_projections(&mut student, folder)?;

    let mut optimizer = OptimizerConfig {
        learning_rate: settings.lr,
        beta1: settings.betas[0],
        beta2: settings.betas[1],
        epsilon: settings.eps,
        weight_decay: settings.weight_decay,
        max_grad_norm: settings.max_grad_norm,
        schedule: Schedule::Constant,
    };
    let mut state = OptimizerState::new(student.parameters.len());
    let mut comparisons = Vec::new();
    for (index, expected) in settings.steps.iter().enumerate() {
        let tensors = Tensors::open_file(&folder.join(format!("step{index}.safetensors")))?;
        student.pack(rt, Precision::F32, Purpose::Training);
        layer_terms.pack(rt, student.parameters.weights());
        let prefix = format!("step{index}.");
        let mut gradients = vec![0.0; student.parameters.len()];
        let losses = step(rt, &student, &teachers, &tensors, &settings, &layer_terms, &mut gradients)?;
        let total = losses.total(&weights, &layer_terms);
        for (index, &expected) in expected.layer_terms.iter().enumerate() {
            let (name, ours) = (format!("{prefix}layer_term.{index}"), layer_terms.value(&losses.layers, index));
            comparisons.push(compare_values(name, &[ours as f32], &[expected as f32]));
        }
        let losses = losses.vocabulary;
        let named = [
            ("loss", Some(total), Some(expected.loss)),
            ("kl", losses.kl.value(), Some(expected.kl)),
            ("mlm", losses.mlm.value(), Some(expected.mlm)),
            ("cos", losses.cosine.value(), Some(expected.cos)),
            ("mse", losses.mse.value(), expected.mse),
        ];
        for (name, ours, expected) in named {
            if let (Some(ours), Some(expected)) = (ours, expected) {
                comparisons.push(compare_values(format!("{prefix}{name}"), &[ours as f32], &[expected as f32]));
            }
        }
        let of_gradients = compare_gradients(&student, &tensors, &gradients, &prefix)?;
        comparisons.extend(not_empty(of_gradients, tensors.path(), "gradients, `grad.*`,")?);
        optimizer.learning_rate = expected.lr.unwrap_or(settings.lr);
        let (norm, _) = update(rt, &optimizer, 1, &mut student.parameters, &gradients, &mut state);
        comparisons.push(compare_values(format!("{prefix}grad_norm"), &[norm as f32], &[expected.grad_norm as f32]));
        let mut of_parameters = Vec::new();
        for parameter in student.parameters.table() {
            let name = format!("param_after.{}", parameter.name);
            if tensors.contains(&name) {
                let ours = student.parameters.tensor(parameter);
                of_parameters.push(compare_values(format!("{prefix}{name}"), ours, &tensors.read_f32(&name)?));
            }
        }
        comparisons.extend(not_empty(of_parameters, tensors.path(), "parameters, `param_after.*`,")?);
    }
    not_empty(comparisons, &path, "steps")
}

impl Settings {
    fn weights(&self) -> DistilWeights {
        DistilWeights {
            temperature: self.temperature,
            kl: self.alpha_ce,
            mlm: self.alpha_mlm,
            cosine: self.alpha_cos,
            mse: self.alpha_mse,
        }
    }
}

/// Losses and gradients of one reference batch, in equal consecutive micro-batches.
fn step(
    rt: &Runtime,
    student: &Model,
    teachers: &[Model],
    tensors: &Tensors,
    settings: &Settings,
    layer_terms: &LayerTerms,
    gradients: &mut [f32],
) -> Result<LanguageLosses, VerifyError> {
    let reference = ReferenceBatch::read(tensors)?;
    for model in [student].into_iter().chain(teachers) {
        model
            .check(&reference.batch)
            .map_err(|source| VerifyError::Input { path: tensors.path().to_owned(), source })?;
    }
    let targets: Vec<i32> =
        reference.real_rows(&tensors.read_i64("labels")?).into_iter().map(|label| label as i32).collect();
    let sequences = reference.batch.sequences();
    let size = sequences.div_ceil(settings.accumulation.max(1)).max(1);
    let micro_batches: Vec<MaskedBatch> = (0..sequences)
        .step_by(size)
        .map(|first| micro_batch(&reference.batch, &targets, first..(first + size).min(sequences)))
        .collect();
    let mut positions = Positions::default();
    micro_batches.iter().for_each(|masked| positions.add(masked.positions(settings.kl_positions)));
    let whole: Vec<_> = teachers.iter().map(Teacher::Whole).collect();
    let pass = Pass {
        model: student,
        teachers: &whole,
        kl_positions: settings.kl_positions,
        weights: settings.weights(),
        layer_terms,
        portion: Portion { positions, share: 1.0 },
    };
    let mut losses = LanguageLosses::default();
    for masked in &micro_batches {
        let slots = vec![0; masked.batch.sequences()];
        losses.add(masked_step(rt, &pass, masked, DropoutKey { seed: 0, step: 1, slots: &slots }, gradients));
    }
    Ok(losses)
}

fn micro_batch(batch: &Batch, targets: &[i32], sequences: std::ops::Range<usize>) -> MaskedBatch {
    let ends = batch.cu_seqlens();
    let tokens = ends[sequences.start] as usize..ends[sequences.end] as usize;
    let mut part = Batch::new();
    for pair in ends[sequences.start..=sequences.end].windows(2) {
        part.push(&batch.input_ids()[pair[0] as usize..pair[1] as usize], None);
    }
    MaskedBatch { batch: part, targets: targets[tokens].to_vec() }
}
