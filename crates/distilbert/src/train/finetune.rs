//! Training on labelled examples, with or without a fine-tuned teacher's soft labels.

use super::order::{Batching, Order};
use super::{HeldOutReport, StepReport, TrainError, Workload};
use crate::checkpoint::model_folder::save_tokenizer;
use crate::checkpoint::write_atomic;
use crate::data::encoded::EncodedSet;
use crate::data::examples::{DataSet, Example, Label, Problem, SavedTask, TASK_FILE, Task};
use crate::evaluate::metrics::MetricError;
use crate::evaluate::predictions::{Predictions, PredictionsError};
use crate::heads::Head;
use crate::heads::classification::{Classifier, ClassifierActivations};
use crate::loss::sequence::{Labels, SequenceLosses, SoftLabels, sequence_loss};
use crate::model::encoder::{Activations, Scratch};
use crate::model::{DropoutKey, Mode, Model};
use crate::predict;
use crate::random::Rng;
use crate::tokenizer::Tokenizer;
use distilbert_kernels::Runtime;
use distilbert_kernels::elementwise::{gather_rows, scatter_add_rows};

/// What fine-tuning needs besides model, data and teacher.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct FinetuneConfig {
    /// Names every random number of the run.
    pub seed: u64,
    /// Passes over the training examples.
    pub epochs: usize,
    /// Examples a step.
    pub batch_size: usize,
    /// Longest input in tokens, specials included; longer ones are cut and counted.
    pub max_length: usize,
    /// Share of the training examples that chooses the best checkpoint and is not trained on.
    pub validation_share: f64,
    /// How a teacher's logits enter.
    pub soft_labels: SoftLabels,
}

/// Examples beside their tokens.
pub struct LabelledSet {
    /// Texts and labels.
    pub examples: Vec<Example>,
    /// Their tokens.
    pub encoded: EncodedSet,
}

/// The training data in two parts.
pub struct Parts {
    /// Trained on.
    pub train: LabelledSet,
    /// Chooses the best checkpoint.
    pub validation: LabelledSet,
}

/// Cuts `validation_share` of the examples off (at least 100, or a fifth if there are fewer than 500), by a shuffle that the task and the data alone decide: every model and
/// seed trains on the same examples.
pub fn split(data: &DataSet, tokenizer: &Tokenizer, config: &FinetuneConfig, threads: usize) -> Parts {
    const PURPOSE: u64 = 0x5a11;
    let mut indices: Vec<usize> = (0..data.examples.len()).collect();
    Rng::from_key(&[PURPOSE, data.examples.len() as u64]).shuffle(&mut indices);
    let count = data.examples.len();
    let validation = (count as f64 * config.validation_share).round() as usize;
    // A slice of a few dozen would choose by chance; a fifth is the most that a small set can spare.
    let validation = if config.validation_share > 0.0 { validation.max(100.min(count / 5)) } else { 0 };
    let part = |indices: &[usize]| {
        let mut indices = indices.to_vec();
        indices.sort_unstable();
        let examples: Vec<Example> = indices.iter().map(|&index| data.examples[index].clone()).collect();
        let encoded = EncodedSet::from_examples(&examples, tokenizer, config.max_length, threads);
        LabelledSet { examples, encoded }
    };
    Parts { train: part(&indices[validation..]), validation: part(&indices[..validation]) }
}

/// Training of one classifier.
pub struct Finetuning<'a> {
    model: Model,
    task: &'a Task,
    tokenizer: &'a Tokenizer,
    parts: &'a Parts,
    /// The teacher's logits of the training part, `[examples, outputs]`.
    teacher_logits: Option<&'a [f32]>,
    order: Order,
    config: FinetuneConfig,
    activations: Activations,
    head: ClassifierActivations,
    scratch: Scratch,
}

impl<'a> Finetuning<'a> {
    /// Prepares a run; `teacher_logits` are those of `parts.train`.
    ///
    /// # Errors
    /// If model, task and data do not fit together, or a value of the configuration is out of range.
    pub fn new(
        model: Model,
        task: &'a Task,
        tokenizer: &'a Tokenizer,
        parts: &'a Parts,
        teacher_logits: Option<&'a [f32]>,
        config: FinetuneConfig,
    ) -> Result<Self, TrainError> {
        let wrong = |name, expected: String, found: String| Err(TrainError::Config { name, expected, found });
        let outputs = model.config.head.outputs();
        if !matches!(model.head, Head::Classifier(_)) {
            let found = model.config.head.class_suffix().to_owned();
            return wrong("model", "a classification head".into(), found);
        }
        if outputs != task.outputs() {
            return wrong("model", format!("{} outputs for the task", task.outputs()), outputs.to_string());
        }
        if tokenizer.vocab_size() != model.config.encoder.vocab_size {
            let expected = format!("the model's vocabulary of {} tokens", model.config.encoder.vocab_size);
            return wrong("tokenizer", expected, format!("{} tokens", tokenizer.vocab_size()));
        }
        if config.max_length < 3 || config.max_length > model.config.encoder.max_positions {
            let expected = format!("3 to the model's {} positions", model.config.encoder.max_positions);
            return wrong("max-length", expected, config.max_length.to_string());
        }
        if config.epochs == 0 || config.batch_size == 0 {
            return wrong("epochs and batch-size", "at least 1".into(), "0".into());
        }
        if !(0.0..=0.5).contains(&config.validation_share) {
            return wrong("validation-share", "0 to 0.5".into(), config.validation_share.to_string());
        }
        if config.soft_labels.temperature <= 0.0 || !config.soft_labels.temperature.is_finite() {
            return wrong("temperature", "above 0".into(), config.soft_labels.temperature.to_string());
        }
        if let Some(unlabelled) = parts.train.examples.iter().find(|example| example.label == Label::None) {
            return wrong("training data", "a label".into(), format!("none on line {}", unlabelled.line));
        }
        if let Some(logits) = teacher_logits {
            assert_eq!(logits.len(), parts.train.examples.len() * outputs, "one row of logits an example");
        }
        let batching = Batching::Sequences { sequences: config.batch_size };
        let order = Order::new(parts.train.encoded.lengths(), batching, 1, config.epochs, None, config.seed);
        if order.total_steps() == 0 {
            return Err(TrainError::Empty(format!("task `{}`", task.name)));
        }
        Ok(Finetuning {
            model,
            task,
            tokenizer,
            parts,
            teacher_logits,
            order,
            config,
            activations: Activations::default(),
            head: ClassifierActivations::default(),
            scratch: Scratch::default(),
        })
    }

    /// The model, trained.
    pub fn into_model(self) -> Model {
        self.model
    }

    /// Steps of one pass over the training examples.
    pub fn steps_per_epoch(&self) -> u64 {
        self.order.steps_per_epoch()
    }
}

impl Workload for Finetuning<'_> {
    fn total_steps(&self) -> u64 {
        self.order.total_steps()
    }

    fn model(&self) -> &Model {
        &self.model
    }

    fn model_mut(&mut self) -> &mut Model {
        &mut self.model
    }

    fn step(&mut self, rt: &Runtime, step: u64, gradients: &mut [f32]) -> Result<StepReport, TrainError> {
        let (_, batches) = self.order.step(step);
        let samples = &batches[0];
        let train = &self.parts.train;
        let batch = train.encoded.batch(samples);
        self.model.check(&batch)?;
        let outputs = self.model.config.head.outputs();
        let labels = LabelBuffer::of(self.task.problem, samples.iter().map(|&sample| &train.examples[sample].label));
        let teacher: Option<Vec<f32>> = self.teacher_logits.map(|logits| {
            samples.iter().flat_map(|&sample| &logits[sample * outputs..(sample + 1) * outputs]).copied().collect()
        });
        let slots: Vec<u64> = (0..samples.len() as u64).collect();
        let mode = Mode::Training(DropoutKey { seed: self.config.seed, step, slots: &slots });
        let mut logits = Vec::new();
        let losses = sequence_step(
            rt,
            &self.model,
            SequenceBatch {
                batch: &batch,
                labels: labels.as_labels(),
                teacher: teacher.as_deref(),
                soft_labels: &self.config.soft_labels,
            },
            mode,
            &mut logits,
            gradients,
            &mut SequenceBuffers {
                activations: &mut self.activations,
                head: &mut self.head,
                scratch: &mut self.scratch,
            },
        );
        let mut parts = Vec::new();
        if teacher.is_some() {
            parts.extend(losses.hard.value().map(|value| ("hard", value)));
            parts.extend(losses.soft.value().map(|value| ("soft", value)));
        }
        let loss = losses.total(&self.config.soft_labels);
        Ok(StepReport { loss, parts, tokens: batch.tokens() as u64 })
    }

    fn evaluate(&mut self, rt: &Runtime) -> Result<Option<HeldOutReport>, TrainError> {
        let validation = &self.parts.validation;
        if validation.examples.is_empty() {
            return Ok(None);
        }
        let failed = |error: &dyn std::fmt::Display| TrainError::Config {
            name: "validation",
            expected: "labelled examples the model can take".into(),
            found: error.to_string(),
        };
        let logits =
            predict::logits(rt, &self.model, &validation.encoded, "validation", &()).map_err(|error| failed(&error))?;
        let mut predictions = Predictions::new(self.task, crate::data::examples::Split::Train);
        let outputs = self.model.config.head.outputs();
        for ((example, text), logits) in
            validation.examples.iter().zip(&validation.encoded.texts).zip(logits.chunks_exact(outputs))
        {
            predictions
                .push(example, logits, text.input_ids.len())
                .map_err(|error: PredictionsError| failed(&error))?;
        }
        let scored = |error: MetricError| failed(&error);
        let outcomes = predictions.outcomes().map_err(scored)?;
        let values = (self.task.metrics.iter())
            .map(|&metric| Ok((metric.name(), outcomes.metric(metric).map_err(scored)?)))
            .collect::<Result<Vec<_>, TrainError>>()?;
        // The task's metrics count alike, as in GLUE's own averages.
        let score = values.iter().map(|(_, value)| value).sum::<f64>() / values.len().max(1) as f64;
        Ok(Some(HeldOutReport { values, score }))
    }

    fn save_companions(&self, folder: &std::path::Path) -> Result<(), TrainError> {
        save_tokenizer(self.tokenizer, &self.model.config, folder)?;
        let task = SavedTask { task: self.task.clone(), max_length: self.config.max_length };
        Ok(write_atomic(&folder.join(TASK_FILE), task.to_json().as_bytes())?)
    }
}

/// Labels in the form the loss wants.
enum LabelBuffer {
    Classes(Vec<i32>),
    Multi(Vec<f32>),
    Scores(Vec<f32>),
}

impl LabelBuffer {
    /// Labels of a task of this problem; examples without a label were refused before.
    fn of<'l>(problem: Problem, labels: impl Iterator<Item = &'l Label>) -> LabelBuffer {
        match problem {
            Problem::Classification => LabelBuffer::Classes(
                labels
                    .map(|label| match label {
                        Label::Class(class) => *class as i32,
                        _ => crate::data::masking::IGNORED,
                    })
                    .collect(),
            ),
            Problem::MultiLabel => LabelBuffer::Multi(
                labels
                    .flat_map(|label| match label {
                        Label::Classes(classes) => {
                            classes.iter().map(|&applies| f32::from(u8::from(applies))).collect()
                        }
                        _ => Vec::new(),
                    })
                    .collect(),
            ),
            Problem::Regression => LabelBuffer::Scores(
                labels
                    .map(|label| match label {
                        Label::Score(score) => *score,
                        _ => 0.0,
                    })
                    .collect(),
            ),
        }
    }

    fn as_labels(&self) -> Labels<'_> {
        match self {
            LabelBuffer::Classes(classes) => Labels::Classes(classes),
            LabelBuffer::Multi(targets) => Labels::Multi(targets),
            LabelBuffer::Scores(scores) => Labels::Scores(scores),
        }
    }
}

/// A batch with its labels.
pub struct SequenceBatch<'a> {
    /// The texts.
    pub batch: &'a crate::data::batch::Batch,
    /// What is true.
    pub labels: Labels<'a>,
    /// What a teacher says, `[batch, outputs]`.
    pub teacher: Option<&'a [f32]>,
    /// How the teacher enters.
    pub soft_labels: &'a SoftLabels,
}

/// Memory that passes from step to step.
pub struct SequenceBuffers<'a> {
    /// Of the encoder.
    pub activations: &'a mut Activations,
    /// Of the head.
    pub head: &'a mut ClassifierActivations,
    /// Of the backward pass.
    pub scratch: &'a mut Scratch,
}

/// Loss and `logits` `[batch, outputs]` of one batch; the gradients are added to `gradients`. The model must be packed
/// for training and have a classification head.
pub fn sequence_step(
    rt: &Runtime,
    model: &Model,
    batch: SequenceBatch<'_>,
    mode: Mode<'_>,
    logits: &mut Vec<f32>,
    gradients: &mut [f32],
    buffers: &mut SequenceBuffers<'_>,
) -> SequenceLosses {
    let SequenceBatch { batch, labels, teacher, soft_labels } = batch;
    let arena = model.parameters.weights();
    let head = classifier(model);
    let hidden = model.config.encoder.hidden;
    let sequences = batch.sequences();
    // A frozen encoder needs neither dropout nor a backward pass.
    let encoder_trains = model.encoder_is_trainable();
    let encoder_mode = if encoder_trains { mode } else { Mode::Inference };
    model.encode(rt, batch, encoder_mode, buffers.activations);
    let mut first = vec![0.0; sequences * hidden];
    gather_rows(rt, buffers.activations.last_hidden_state(), hidden, batch.first_tokens(), &mut first);
    head.forward(rt, arena, &first, mode, buffers.head, logits);
    let mut d_logits = logits.clone();
    let outputs = head.classifier.outputs;
    let losses = sequence_loss(rt, &mut d_logits, outputs, labels, teacher, soft_labels, sequences as u64);
    let mut d_first = vec![0.0; first.len()];
    head.backward(rt, &first, mode, buffers.head, &d_logits, &mut d_first, gradients);
    if encoder_trains {
        let mut d_hidden = vec![0.0; batch.tokens() * hidden];
        scatter_add_rows(rt, &d_first, hidden, batch.first_tokens(), &mut d_hidden);
        model.encode_backward(rt, batch, mode, buffers.activations, &mut d_hidden, buffers.scratch, gradients);
    }
    losses
}

fn classifier(model: &Model) -> &Classifier {
    match &model.head {
        Head::Classifier(head) => head,
        _ => unreachable!("Finetuning::new and verify accept only models with a classification head"),
    }
}
