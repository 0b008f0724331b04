//! Training on labelled examples, with or without a fine-tuned teacher's soft labels. What a task asks (one answer a
//! text, a token or a span) is a [`TaskData`]; order, steps, loss and the best checkpoint are the same for all.

mod frozen_states; // what frozen layers say of each sample
pub mod intents; // one answer a text and one a word
pub mod questions; // where the answer to a question starts and ends
pub mod teachers; // several as one
pub mod tagging; // one answer a word
pub mod texts; // one answer a text

use self::frozen_states::FrozenStates;
use super::layer_terms::{LayerBuffers, LayerLosses, LayerTerms, LookedAt, Portion};
use super::lora::{Adapters, LoraConfig};
use super::order::{Batching, Order};
use super::search::{Rivals, measured};
use super::{HeldOutReport, StepReport, TrainError, Workload};
use crate::checkpoint::model_folder::save_tokenizer;
use crate::checkpoint::write_atomic;
use crate::data::batch::Batch;
use crate::data::encoded::EncodedSet;
use crate::data::examples::{Problem, TASK_FILE, Task};
use crate::heads::LabelledActivations;
use crate::loss::labelled::{LabelledLosses, Labels, SoftLabels, Span, StepPositions, labelled_loss};
use crate::loss::layers::LayerTerm;
use crate::loss::vocabulary::Positions;
use crate::model::encoder::{Activations, Scratch};
use crate::model::{DropoutKey, HeadKind, Mode, Model};
use crate::predict::Logits;
use crate::random::Rng;
use crate::tokenizer::Tokenizer;
use distilbert_kernels::Runtime;

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
    /// Terms between the layers of the model and of the teacher.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub layer_terms: Vec<LayerTerm>,
    /// The lowest layers that stay as they are, and the embeddings with them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub freeze_layers: Option<FrozenLayers>,
    /// Adapters that are trained in place of the encoder.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lora: Option<LoraConfig>,
}

/// How many layers are frozen, from the lowest on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(untagged, expecting = "a number of layers, or `all`")]
pub enum FrozenLayers {
    /// So many; with 0 the embeddings alone are.
    Lowest(usize),
    /// The whole encoder: the head alone is trained.
    All(All),
}

/// The word for every layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum All {
    /// `all`
    All,
}

impl std::str::FromStr for FrozenLayers {
    type Err = String;

    fn from_str(text: &str) -> Result<FrozenLayers, String> {
        match (text, text.parse()) {
            ("all", _) => Ok(FrozenLayers::All(All::All)),
            (_, Ok(layers)) => Ok(FrozenLayers::Lowest(layers)),
            _ => Err("expected a number of layers, or `all`".to_owned()),
        }
    }
}

impl FrozenLayers {
    /// Freezes them in a model.
    fn freeze(self, model: &mut Model) -> Result<(), TrainError> {
        let depth = model.encoder.depth();
        let layers = match self {
            FrozenLayers::Lowest(layers) => layers,
            FrozenLayers::All(All::All) => depth,
        };
        let shared = model.encoder.layers.len() < depth;
        let expected = match shared {
            true if (1..depth).contains(&layers) => format!("0 or {depth}, for the layers share their weights"),
            _ if layers > depth => format!("at most the model's {depth} layers"),
            _ => {
                model.freeze_layers(layers);
                return Ok(());
            }
        };
        Err(TrainError::Config { name: "freeze-layers", expected, found: layers.to_string() })
    }
}

/// The data of one task in two parts, one trained on, the other to choose the best checkpoint. A sample is one
/// sequence of the training part.
pub trait TaskData {
    /// The task's name.
    fn name(&self) -> &str;

    /// The head that answers it.
    fn head(&self) -> HeadKind;

    /// The training part as tokens.
    fn train(&self) -> &EncodedSet;

    /// What is true of some training samples, in their order. What a teacher says of them, `[samples, outputs]`, is taken
    /// for true where no label is known.
    fn targets(&self, samples: &[usize], teacher: Option<&[f32]>) -> Targets;

    /// Whether there are samples without a label.
    fn needs_teacher(&self) -> bool {
        false
    }

    /// Measures the model on the other part; `None` if that is empty.
    ///
    /// # Errors
    /// If the model cannot take an example or gives no number for it.
    fn validate(&self, rt: &Runtime, model: &Model) -> Result<Option<HeldOutReport>, TrainError>;

    /// The text of `task.json`, which lies beside the trained model.
    fn task_json(&self) -> String;
}

impl Task {
    /// The head that answers the task.
    pub fn head(&self) -> HeadKind {
        match self.problem {
            Problem::Entities | Problem::Tags => HeadKind::TokenClassification { labels: self.labels.clone() },
            Problem::Regression => {
                HeadKind::Classification { problem: self.problem, labels: vec!["LABEL_0".to_owned()] }
            }
            Problem::Classification | Problem::MultiLabel => {
                HeadKind::Classification { problem: self.problem, labels: self.labels.clone() }
            }
        }
    }
}

/// What is true of a batch, in the form of its problem.
#[derive(Clone, Debug, PartialEq)]
pub enum Targets {
    /// Class of each text, or of each token, [`crate::data::masking::IGNORED`] where there is none.
    Classes(Vec<i32>),
    /// 0 or 1 for each output of each text.
    Multi(Vec<f32>),
    /// A number for each output of each text.
    Scores(Vec<f32>),
    /// Class of each text, and of each token, [`crate::data::masking::IGNORED`] where there is none.
    IntentsAndSlots {
        /// Of the texts.
        intents: Vec<i32>,
        /// Of the tokens.
        slots: Vec<i32>,
    },
    /// Where the answer in each sequence is.
    Spans(Vec<Span>),
}

impl Targets {
    /// For the loss.
    pub fn labels<'a>(&'a self, batch: &'a Batch) -> Labels<'a> {
        match self {
            Targets::Classes(classes) => Labels::Classes(classes),
            Targets::Multi(targets) => Labels::Multi(targets),
            Targets::Scores(scores) => Labels::Scores(scores),
            Targets::IntentsAndSlots { intents, slots } => Labels::Both { texts: intents, tokens: slots },
            Targets::Spans(spans) => Labels::Spans { spans, cu_seqlens: batch.cu_seqlens() },
        }
    }
}

/// Which examples are trained on, and which choose the best checkpoint; both ascending.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Split {
    /// Trained on.
    pub train: Vec<usize>,
    /// Chooses the best checkpoint.
    pub validation: Vec<usize>,
}

impl Split {
    /// Cuts `validation_share` of `count` examples off (at least 100, or a fifth if there are fewer than 500), by a
    /// shuffle that the number alone decides: every model and seed trains on the same examples.
    pub fn of(count: usize, validation_share: f64) -> Split {
        const PURPOSE: u64 = 0x5a11;
        let mut indices: Vec<usize> = (0..count).collect();
        Rng::from_key(&[PURPOSE, count as u64]).shuffle(&mut indices);
        let validation = (count as f64 * validation_share).round() as usize;
        // A slice of a few dozen would choose by chance; a fifth is the most that a small set can spare.
        let validation = if validation_share > 0.0 { validation.max(100.min(count / 5)) } else { 0 };
        let part = |indices: &[usize]| {
            let mut indices = indices.to_vec();
            indices.sort_unstable();
            indices
        };
        Split { train: part(&indices[validation..]), validation: part(&indices[..validation]) }
    }
}

/// What teachers say.
#[derive(Clone, Copy)]
pub struct Taught<'a> {
    /// Their logits of the training part: of several those of their mean.
    pub logits: &'a Logits,
    /// Themselves, packed, where terms look at their layers; else none.
    pub models: &'a [Model],
}

/// Training of one model on one task.
pub struct Finetuning<'a> {
    model: Model,
    data: &'a dyn TaskData,
    tokenizer: &'a Tokenizer,
    teacher: Option<Taught<'a>>,
    layer_terms: LayerTerms,
    adapters: Option<Adapters>,
    /// Where layers are frozen and samples come again.
    frozen_states: Option<FrozenStates>,
    order: Order,
    config: FinetuneConfig,
    rivals: Rivals,
    buffers: StepBuffers,
}

impl<'a> Finetuning<'a> {
    /// Prepares a run.
    ///
    /// # Errors
    /// If model, task and data do not fit together, or a value of the configuration is out of range.
    pub fn new(
        mut model: Model,
        data: &'a dyn TaskData,
        tokenizer: &'a Tokenizer,
        teacher: Option<Taught<'a>>,
        config: FinetuneConfig,
    ) -> Result<Self, TrainError> {
        let wrong = |name, expected: String, found: String| Err(TrainError::Config { name, expected, found });
        let (expected, found) = (data.head(), &model.config.head);
        if expected.class_suffix() != found.class_suffix() {
            return wrong("model", format!("a model {}", expected.class_suffix()), found.class_suffix().to_owned());
        }
        let widths = |head: &HeadKind| (head.outputs(), head.slots().len());
        if widths(&expected) != widths(found) {
            let (expected, found) =
                (expected.outputs() + expected.slots().len(), found.outputs() + found.slots().len());
            return wrong("model", format!("{expected} outputs for the task"), found.to_string());
        }
        if tokenizer.vocab_size() != model.config.encoder.vocab_size {
            let expected = format!("the model's vocabulary of {} tokens", model.config.encoder.vocab_size);
            return wrong("tokenizer", expected, format!("{} tokens", tokenizer.vocab_size()));
        }
        check_max_length(config.max_length, &model)?;
        for (name, count) in [("epochs", config.epochs), ("batch-size", config.batch_size)] {
            if count == 0 {
                return wrong(name, "at least 1".into(), "0".into());
            }
        }
        if config.soft_labels.temperature <= 0.0 || !config.soft_labels.temperature.is_finite() {
            return wrong("temperature", "a finite number above 0".into(), config.soft_labels.temperature.to_string());
        }
        let SoftLabels { hard, soft, mse, .. } = config.soft_labels;
        if let Some(found) = [hard, soft, mse].iter().find(|weight| !weight.is_finite() || **weight < 0.0) {
            return wrong("hard, soft and mse", "0 or more".into(), found.to_string());
        }
        if data.needs_teacher() && teacher.is_none() {
            return wrong("teacher", "one, to label the texts without a label".into(), "none".into());
        }
        let train = data.train();
        if let Some(teacher) = teacher {
            assert_eq!(teacher.logits.texts(), train.texts.len(), "the teacher's logits for each sample");
        }
        let batching = Batching::Sequences { sequences: config.batch_size };
        let order = Order::new(train.lengths(), batching, 1, config.epochs, None, config.seed);
        if order.total_steps() == 0 {
            return Err(TrainError::Empty(format!("task `{}`", data.name())));
        }
        let models = teacher.map_or(&[][..], |teacher| teacher.models);
        let of_teachers: Vec<_> = models.iter().map(|model| &model.config).collect();
        if of_teachers.is_empty() && !config.layer_terms.is_empty() {
            return wrong("layer-terms", "a teacher to compare layers with".into(), "none".into());
        }
        let layer_terms = LayerTerms::new(&config.layer_terms, &mut model, &of_teachers, config.seed)?;
        if !layer_terms.is_empty() {
            layer_terms.freeze_unreached(&mut model, config.soft_labels.look_at());
        }
        if let Some(layers) = config.freeze_layers {
            layers.freeze(&mut model)?;
        }
        let adapters = config.lora.as_ref().map(|lora| Adapters::new(lora, &mut model, config.seed)).transpose()?;
        if model.parameters.trainable_ranges().is_empty() {
            return wrong("freeze-layers", "something that is trained".into(), "nothing".into());
        }
        // Terms between layers look at every layer as it runs.
        let comes_again = config.epochs > 1 && layer_terms.is_empty();
        let frozen_states = FrozenStates::of(&model, data.train().texts.len()).filter(|_| comes_again);
        Ok(Finetuning {
            model,
            data,
            tokenizer,
            teacher,
            layer_terms,
            adapters,
            frozen_states,
            order,
            config,
            rivals: Rivals::default(),
            buffers: StepBuffers::default(),
        })
    }

    /// Ends early if earlier trials of a search are ahead.
    pub fn against(mut self, rivals: Rivals) -> Self {
        self.rivals = rivals;
        self
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

/// Checks that inputs of this length hold a text and fit the model.
fn check_max_length(max_length: usize, model: &Model) -> Result<(), TrainError> {
    let positions = model.config.encoder.max_positions;
    if (3..=positions).contains(&max_length) {
        return Ok(());
    }
    let expected = format!("3 to the model's {positions} positions");
    Err(TrainError::Config { name: "max-length", expected, found: max_length.to_string() })
}

/// Checks the share of examples that chooses the best checkpoint, before a [`Split`] is made with it.
///
/// # Errors
/// [`TrainError::Config`] if it is not 0 to 0.5.
pub fn check_validation_share(share: f64) -> Result<(), TrainError> {
    match (0.0..=0.5).contains(&share) {
        true => Ok(()),
        false => {
            let expected = "0 to 0.5".to_owned();
            Err(TrainError::Config { name: "validation-share", expected, found: share.to_string() })
        }
    }
}

/// What a measurement on the validation part ran into.
fn validation_failed(error: &dyn std::fmt::Display) -> TrainError {
    TrainError::Config {
        name: "validation",
        expected: "labelled examples the model can take".into(),
        found: error.to_string(),
    }
}

impl SoftLabels {
    /// How far these terms look beside a teacher. Without weights they do not, and terms between layers are alone.
    pub(crate) fn look_at(&self) -> LookedAt {
        if self.teach_answers() { LookedAt::Head } else { LookedAt::Layers }
    }

    /// Whether the head learns to answer. With terms between layers alone it stays as it is, and no score of it says
    /// anything.
    pub fn teach_answers(&self) -> bool {
        [self.hard, self.soft, self.mse] != [0.0; 3]
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
        let mut batch = self.data.train().batch(samples);
        self.model.check(&batch)?;
        let tokens = batch.tokens() as u64;
        let mut frozen_states = None;
        if let Some(kept) = &mut self.frozen_states {
            let (shown, states) = kept.batch(rt, &self.model, self.data.train(), samples);
            (batch, frozen_states) = (shown, Some(states));
        }
        let head = &self.model.config.head;
        let of_texts = if head.slots().is_empty() { 0 } else { head.outputs() };
        let teacher: Option<Vec<f32>> = self.teacher.map(|teacher| teacher.logits.of_batch(samples, of_texts));
        let targets = self.data.targets(samples, teacher.as_deref());
        self.layer_terms.pack(rt, self.model.parameters.weights());
        let layers = self.teacher.map(|teacher| (&self.layer_terms, teacher.models));
        let slots: Vec<u64> = (0..samples.len() as u64).collect();
        let mode = Mode::Training(DropoutKey { seed: self.config.seed, step, slots: &slots });
        let labelled = LabelledBatch {
            batch: &batch,
            frozen_states: frozen_states.as_deref(),
            labels: targets.labels(&batch),
            teacher: teacher.as_deref(),
            soft_labels: &self.config.soft_labels,
            layers,
        };
        let losses = labelled_step(rt, &self.model, labelled, mode, gradients, &mut self.buffers);
        if let Some(adapters) = &self.adapters {
            adapters.backward(rt, self.model.parameters.weights(), gradients);
        }
        let mut parts = Vec::new();
        if teacher.is_some() {
            parts.extend(losses.hard.value().map(|value| ("hard", value)));
            parts.extend(losses.soft.value().map(|value| ("soft", value)));
            parts.extend(losses.mse.value().map(|value| ("mse", value)));
        }
        self.layer_terms.name_parts(&self.buffers.layer_losses, &mut parts);
        let loss = losses.total(&self.config.soft_labels) + self.layer_terms.total(&self.buffers.layer_losses);
        Ok(StepReport { loss, parts, tokens })
    }

    fn weights_changed(&mut self, rt: &Runtime) {
        if let Some(adapters) = &self.adapters {
            adapters.merge(rt, &mut self.model.parameters);
        }
        self.model.repack_trainable(rt);
    }

    fn evaluate(&mut self, rt: &Runtime) -> Result<Option<HeldOutReport>, TrainError> {
        match self.config.soft_labels.teach_answers() {
            true => self.data.validate(rt, &self.model),
            false => Ok(None),
        }
    }

    fn gives_up(&self, scores: &[(u64, f64)]) -> bool {
        self.rivals.are_ahead(&measured(scores, self.total_steps()))
    }

    fn save_companions(&self, folder: &std::path::Path) -> Result<(), TrainError> {
        save_tokenizer(self.tokenizer, &self.model.config, folder)?;
        Ok(write_atomic(&folder.join(TASK_FILE), self.data.task_json().as_bytes())?)
    }
}

/// A batch with its labels.
pub struct LabelledBatch<'a> {
    /// The texts.
    pub batch: &'a Batch,
    /// Their states behind the frozen layers, if they are known; no term may look at those layers then.
    pub frozen_states: Option<&'a [f32]>,
    /// What is true.
    pub labels: Labels<'a>,
    /// What a teacher says, in the shape of the logits.
    pub teacher: Option<&'a [f32]>,
    /// How the teacher enters.
    pub soft_labels: &'a SoftLabels,
    /// Terms between layers, packed, and the teachers whose layers they look at.
    pub layers: Option<(&'a LayerTerms, &'a [Model])>,
}

/// Memory that passes from step to step.
#[derive(Default)]
pub struct StepBuffers {
    activations: Activations,
    head: LabelledActivations,
    scratch: Scratch,
    teacher: Activations,
    layers: LayerBuffers,
    /// What the terms between layers came to in the last step.
    pub layer_losses: LayerLosses,
    /// Logits of the last step, `[batch, outputs]` or `[tokens, outputs]`.
    pub logits: Vec<f32>,
}

/// Loss of one batch; its logits are in `buffers`, the gradients are added to `gradients`. The model must be packed for
/// training and have a head with labels.
pub fn labelled_step(
    rt: &Runtime,
    model: &Model,
    labelled: LabelledBatch<'_>,
    mode: Mode<'_>,
    gradients: &mut [f32],
    buffers: &mut StepBuffers,
) -> LabelledLosses {
    let LabelledBatch { batch, frozen_states, labels, teacher, soft_labels, layers } = labelled;
    let StepBuffers { activations, head, scratch, teacher: of_teacher, layers: between, layer_losses, logits } =
        buffers;
    let arena = model.parameters.weights();
    *layer_losses = LayerLosses::default();
    let layers = layers.filter(|(_, teachers)| !teachers.is_empty());
    if let Some((terms, teachers)) = layers {
        for (place, teacher) in teachers.iter().enumerate() {
            terms.encode_teacher(rt, (place, teacher), batch, of_teacher, between);
        }
    }
    let portion = Portion { positions: Positions::of(batch.cu_seqlens()), share: 1.0 };
    match frozen_states {
        Some(states) => model.encode_from_frozen(rt, batch, mode, states, activations),
        None => model.encode_observed(rt, batch, mode, activations, |index, observed| {
            if let Some((terms, _)) = layers {
                terms.compare(rt, model, batch, index, observed, portion, between, Some(&mut *gradients), layer_losses);
            }
        }),
    }
    let states = activations.last_hidden_state();
    model.head.forward_labelled(rt, arena, states, batch, mode, head, logits);
    let mut d_logits = logits.clone();
    let outputs = model.config.head.outputs();
    let step = StepPositions::of(&labels);
    let losses = labelled_loss(rt, &mut d_logits, outputs, labels, teacher, soft_labels, step);
    let mut d_hidden = vec![0.0; states.len()];
    model.head.backward_labelled(rt, states, batch, mode, head, &d_logits, &mut d_hidden, gradients);
    between.inner.alone = layers.is_some() && soft_labels.look_at() == LookedAt::Layers;
    model.encode_backward_with(rt, batch, mode, activations, &between.inner, &mut d_hidden, scratch, gradients);
    losses
}
