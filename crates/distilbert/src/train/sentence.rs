//! Training of sentence encoders: towards a teacher's embeddings on plain text ([`SentenceDistillation`]), and on pairs
//! or triples of texts ([`SentenceTuning`]).

use super::order::{Batching, Order};
use super::{HeldOutReport, StepReport, TrainError, Workload};
use crate::checkpoint::model_folder::save_tokenizer;
use crate::checkpoint::sentence_folder::{SentenceSettings, Similarity};
use crate::data::batch::Batch;
use crate::data::corpus::{Corpus, Split};
use crate::data::encoded::EncodedSet;
use crate::data::examples::Metric;
use crate::evaluate::Outcomes;
use crate::heads::Head;
use crate::heads::embedding::{Embedder, EmbedderActivations};
use crate::loss::Mean;
use crate::loss::embedding::{self, Contrast, EmbeddingLosses, EmbeddingWeights};
use crate::model::encoder::{Activations, Scratch};
use crate::model::{DropoutKey, HeadKind, Mode, Model};
use crate::predict::{EmbedError, EmbeddingRunner, embeddings};
use crate::random::Rng;
use crate::tokenizer::Tokenizer;
use distilbert_kernels::Runtime;
use distilbert_kernels::pool::{normalize_rows, normalize_rows_backward};
use std::path::Path;

/// What a distillation of embeddings needs besides student, teacher and corpus.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct SentenceDistilConfig {
    /// Names every random number of the run.
    pub seed: u64,
    /// Passes over the corpus.
    pub epochs: usize,
    /// Ends the run early.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_steps: Option<u64>,
    /// Micro-batches.
    pub batching: Batching,
    /// Micro-batches a step.
    pub accumulation: usize,
    /// Terms of the loss.
    pub weights: EmbeddingWeights,
    /// Whether the student's dropout is on. The targets are exact, so noise mostly slows it down.
    pub dropout: bool,
    /// Held-out sequences a measurement looks at, at most.
    pub held_out_sequences: usize,
}

/// A student that learns its teacher's embeddings of plain text.
pub struct SentenceDistillation<'a> {
    model: Model,
    teacher: EmbeddingRunner<'a>,
    tokenizer: &'a Tokenizer,
    settings: &'a SentenceSettings,
    corpus: &'a Corpus,
    order: Order,
    config: SentenceDistilConfig,
    pass: SentencePass,
}

impl<'a> SentenceDistillation<'a> {
    /// Prepares a run. `teacher` must be packed, read the same tokens and give embeddings as wide as the student's;
    /// `settings` are saved with the student.
    ///
    /// # Errors
    /// If student, teacher, tokenizer and corpus do not fit together, or a value of the configuration is out of range.
    pub fn new(
        mut model: Model,
        teacher: &'a Model,
        tokenizer: &'a Tokenizer,
        settings: &'a SentenceSettings,
        corpus: &'a Corpus,
        config: SentenceDistilConfig,
    ) -> Result<Self, TrainError> {
        let widths = [("student", &model), ("teacher", teacher)].map(|(name, model)| match &model.head {
            Head::Embedder(head) => Ok(head.width()),
            _ => wrong(name, "an embedding head", model.config.head.class_suffix()),
        });
        let [student_width, teacher_width] = widths;
        let (student_width, teacher_width) = (student_width?, teacher_width?);
        if student_width != teacher_width {
            let expected = format!("embeddings as wide as the teacher's {teacher_width}");
            return wrong("student", &expected, &student_width.to_string());
        }
        for (name, model) in [("student", &model), ("teacher", teacher)] {
            let (expected, found) = (corpus.vocab_size(), model.config.encoder.vocab_size);
            if found != expected {
                return wrong(name, &format!("the corpus's vocabulary of {expected} tokens"), &found.to_string());
            }
        }
        corpus.check_vocabulary(tokenizer).map_err(|error| TrainError::Config {
            name: "corpus",
            expected: "the tokenizer's vocabulary".into(),
            found: error.to_string(),
        })?;
        let terms = [config.weights.cosine, config.weights.mse];
        if terms.iter().any(|weight| !weight.is_finite() || *weight < 0.0) || terms.iter().sum::<f64>() <= 0.0 {
            return wrong("weights", "none negative and at least one above 0", &format!("{terms:?}"));
        }
        config.batching.validate()?;
        let counts = [
            ("accumulation", config.accumulation as u64),
            ("epochs", config.epochs as u64),
            ("max-steps", config.max_steps.unwrap_or(1)),
        ];
        if let Some((name, _)) = counts.into_iter().find(|(_, count)| *count == 0) {
            return wrong(name, "at least 1", "0");
        }
        if !config.dropout {
            // The layers' own; what is saved with the student stays.
            let saved = model.config.clone();
            model.disable_dropout();
            model.config = saved;
        }
        model.freeze_pooler();
        let train = corpus.split(Split::Train);
        let lengths = (0..train.len()).map(|index| train.token_len(index)).collect();
        let order =
            Order::new(lengths, config.batching, config.accumulation, config.epochs, config.max_steps, config.seed);
        if order.total_steps() == 0 {
            return Err(TrainError::Empty("the corpus".to_owned()));
        }
        let teacher = EmbeddingRunner::new(teacher, None).map_err(|error| not_fit("teacher", &error))?;
        let pass = SentencePass::default();
        Ok(SentenceDistillation { model, teacher, tokenizer, settings, corpus, order, config, pass })
    }

    /// Steps of one pass over the corpus.
    pub fn steps_per_epoch(&self) -> u64 {
        self.order.steps_per_epoch()
    }

    fn batch(&self, split: Split, samples: &[usize]) -> Batch {
        let sequences = self.corpus.split(split);
        let mut batch = Batch::new();
        samples.iter().for_each(|&sample| batch.push(&sequences.get(sample), None));
        batch
    }
}

impl Workload for SentenceDistillation<'_> {
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
        let (_, micro_batches) = self.order.step(step);
        let texts = micro_batches.iter().map(Vec::len).sum::<usize>() as u64;
        let (mut losses, mut first_slot, mut tokens) = (EmbeddingLosses::default(), 0, 0);
        for samples in &micro_batches {
            let batch = self.batch(Split::Train, samples);
            self.model.check(&batch)?;
            let slots: Vec<u64> = (first_slot..).take(samples.len()).collect();
            first_slot += samples.len() as u64;
            tokens += batch.tokens() as u64;
            let mode = Mode::Training(DropoutKey { seed: self.config.seed, step, slots: &slots });
            let wanted = self.teacher.run(rt, &batch)?;
            losses.add(distil_step(
                rt,
                &self.model,
                &batch,
                mode,
                wanted,
                &self.config.weights,
                texts,
                gradients,
                &mut self.pass,
            ));
        }
        let parts = name_parts(&losses, &self.config.weights);
        Ok(StepReport { loss: losses.total(&self.config.weights), parts, tokens })
    }

    fn evaluate(&mut self, rt: &Runtime) -> Result<Option<HeldOutReport>, TrainError> {
        let count = self.corpus.split(Split::HeldOut).len().min(self.config.held_out_sequences);
        if count == 0 {
            return Ok(None);
        }
        const SEQUENCES: usize = 16;
        let mut losses = EmbeddingLosses::default();
        for start in (0..count).step_by(SEQUENCES) {
            let samples: Vec<usize> = (start..(start + SEQUENCES).min(count)).collect();
            let batch = self.batch(Split::HeldOut, &samples);
            let mut student = EmbeddingRunner::new(&self.model, None).map_err(|error| not_fit("student", &error))?;
            let width = student.dimensions();
            let found = student.run(rt, &batch)?;
            let wanted = self.teacher.run(rt, &batch)?;
            let mut unused = vec![0.0; found.len()];
            losses.add(embedding::distil(rt, found, wanted, width, &self.config.weights, 1, &mut unused));
        }
        let total = losses.total(&self.config.weights);
        let mut values = vec![("loss", total)];
        values.extend(name_parts(&losses, &self.config.weights));
        Ok(Some(HeldOutReport { values, score: -total }))
    }

    fn save_companions(&self, folder: &Path) -> Result<(), TrainError> {
        save_tokenizer(self.tokenizer, &self.model.config, folder)?;
        Ok(self.settings.write(folder)?)
    }
}

fn name_parts(losses: &EmbeddingLosses, weights: &EmbeddingWeights) -> Vec<(&'static str, f64)> {
    let terms = [("cosine", weights.cosine, losses.cosine), ("mse", weights.mse, losses.mse)];
    terms
        .into_iter()
        .filter(|(_, weight, _)| *weight != 0.0)
        .filter_map(|(name, _, mean)| Some((name, mean.value()?)))
        .collect()
}

/// Memory that passes from step to step.
#[derive(Default)]
pub struct SentencePass {
    activations: Activations,
    head: EmbedderActivations,
    scratch: Scratch,
    d_states: Vec<f32>,
}

impl SentencePass {
    fn forward(&mut self, rt: &Runtime, model: &Model, batch: &Batch, mode: Mode<'_>) {
        model.encode(rt, batch, mode, &mut self.activations);
        let states = self.activations.last_hidden_state();
        embedder(model).forward(rt, model.parameters.weights(), states, batch, &mut self.head);
    }

    /// From the gradient of the embeddings to those of all parameters, which are added.
    fn backward(
        &mut self,
        rt: &Runtime,
        model: &Model,
        batch: &Batch,
        mode: Mode<'_>,
        mut d_embeddings: Vec<f32>,
        gradients: &mut [f32],
    ) {
        let states = self.activations.last_hidden_state();
        let d_states = &mut self.d_states;
        embedder(model).backward(rt, states, batch, &self.head, &mut d_embeddings, d_states, gradients);
        model.encode_backward(rt, batch, mode, &mut self.activations, d_states, &mut self.scratch, gradients);
    }
}

/// Losses, and gradients added, of one micro-batch whose embeddings shall be `wanted` `[batch, width]`; `texts` is the
/// number in the whole step. The model must be packed for training and have an embedding head.
#[allow(clippy::too_many_arguments)] // Operands of one pass; they have no meaning as a group.
pub fn distil_step(
    rt: &Runtime,
    model: &Model,
    batch: &Batch,
    mode: Mode<'_>,
    wanted: &[f32],
    weights: &EmbeddingWeights,
    texts: u64,
    gradients: &mut [f32],
    pass: &mut SentencePass,
) -> EmbeddingLosses {
    pass.forward(rt, model, batch, mode);
    let found = pass.head.embeddings();
    let mut d_embeddings = vec![0.0; found.len()];
    let width = embedder(model).width();
    let losses = embedding::distil(rt, found, wanted, width, weights, texts, &mut d_embeddings);
    pass.backward(rt, model, batch, mode, d_embeddings, gradients);
    losses
}

/// What pairs or triples of texts are to teach.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Objective {
    /// The similarity of each pair is its score.
    Similarity,
    /// Each text is nearer to its own partner than to all others of the batch, and than to the negatives if there are.
    Contrastive,
    /// Each text is nearer to the positive than to the negative by as much as a teacher says.
    Margin,
}

/// What training on pairs or triples needs besides model and data.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct SentenceTuningConfig {
    /// Names every random number of the run.
    pub seed: u64,
    /// What the texts are to teach.
    pub objective: Objective,
    /// Passes over the pairs.
    pub epochs: usize,
    /// Pairs or triples a step; of the contrastive objective also the number of texts each one is told from.
    pub batch_size: usize,
    /// Longest input in tokens, specials included; longer ones are cut and counted.
    pub max_length: usize,
    /// Share of the pairs that chooses the best checkpoint and is not trained on.
    pub validation_share: f64,
    /// Similarities are multiplied by this before they are compared: the inverse of a temperature. The objective
    /// `similarity` does not use it.
    pub scale: f32,
}

/// Texts that belong together, row by row.
#[derive(Clone, Debug, Default)]
pub struct TextGroups {
    /// Anchors and positives, and negatives if there are.
    pub texts: Vec<EncodedSet>,
    /// Score or margin of each row; empty where the objective has none.
    pub targets: Vec<f32>,
}

impl TextGroups {
    /// Number of pairs or triples.
    pub fn len(&self) -> usize {
        self.texts.first().map_or(0, |set| set.texts.len())
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Cuts a share off for validation (at least 100 rows, or a fifth if there are fewer than 500), by a shuffle that the
    /// number of rows alone decides: (training, validation).
    pub fn split(&self, validation_share: f64) -> (TextGroups, TextGroups) {
        const PURPOSE: u64 = 0x5e17;
        let count = (self.len() as f64 * validation_share).round() as usize;
        let count = if validation_share > 0.0 { count.max(100.min(self.len() / 5)) } else { 0 };
        let mut rows: Vec<usize> = (0..self.len()).collect();
        Rng::from_key(&[PURPOSE, self.len() as u64]).shuffle(&mut rows);
        let (validation, train) = rows.split_at(count);
        (self.take(train), self.take(validation))
    }

    fn take(&self, rows: &[usize]) -> TextGroups {
        let mut rows = rows.to_vec();
        rows.sort_unstable();
        let texts = self.texts.iter().map(|set| EncodedSet {
            texts: rows.iter().map(|&row| set.texts[row].clone()).collect(),
            truncated: Vec::new(),
        });
        let targets = rows.iter().filter_map(|&row| self.targets.get(row).copied());
        TextGroups { texts: texts.collect(), targets: targets.collect() }
    }

    /// All anchors of these rows, then all positives, then all negatives.
    fn batch(&self, rows: &[usize]) -> Batch {
        let mut batch = Batch::new();
        for set in &self.texts {
            for text in rows.iter().map(|&row| &set.texts[row]) {
                batch.push(&text.input_ids, Some(&text.token_type_ids));
            }
        }
        batch
    }
}

/// Training of a sentence encoder on pairs or triples.
pub struct SentenceTuning<'a> {
    model: Model,
    tokenizer: &'a Tokenizer,
    settings: SentenceSettings,
    train: TextGroups,
    validation: TextGroups,
    order: Order,
    config: SentenceTuningConfig,
    pass: SentencePass,
}

impl<'a> SentenceTuning<'a> {
    /// Prepares a run; `settings` are saved with the model and say how embeddings are compared.
    ///
    /// # Errors
    /// If model and data do not fit together, or a value of the configuration is out of range.
    pub fn new(
        mut model: Model,
        tokenizer: &'a Tokenizer,
        settings: SentenceSettings,
        data: &TextGroups,
        config: SentenceTuningConfig,
    ) -> Result<Self, TrainError> {
        if !matches!(model.head, Head::Embedder(_)) {
            return wrong("model", "an embedding head", model.config.head.class_suffix());
        }
        let vocab_size = model.config.encoder.vocab_size;
        if tokenizer.vocab_size() > vocab_size {
            let expected = format!("at most the model's {vocab_size} tokens");
            return wrong("tokenizer", &expected, &tokenizer.vocab_size().to_string());
        }
        let positions = model.config.encoder.max_positions;
        if !(3..=positions).contains(&config.max_length) {
            let expected = format!("3 to the model's {positions} positions");
            return wrong("max-length", &expected, &config.max_length.to_string());
        }
        // Without a negative of its own a text is told apart from the others of its batch alone.
        let needs_others = config.objective == Objective::Contrastive && data.texts.len() == 2;
        let least = if needs_others { 2 } else { 1 };
        for (name, found, least) in [("epochs", config.epochs, 1), ("batch-size", config.batch_size, least)] {
            if found < least {
                return wrong(name, &format!("at least {least}"), &found.to_string());
            }
        }
        if !(0.0..=0.5).contains(&config.validation_share) {
            return wrong("validation-share", "0 to 0.5", &config.validation_share.to_string());
        }
        if !(config.scale > 0.0 && config.scale.is_finite()) {
            return wrong("scale", "a finite number above 0", &config.scale.to_string());
        }
        let targets = if config.objective == Objective::Contrastive { 0 } else { data.len() };
        let sets = match config.objective {
            Objective::Similarity => 2..=2,
            Objective::Contrastive => 2..=3,
            Objective::Margin => 3..=3,
        };
        assert!(sets.contains(&data.texts.len()) && data.targets.len() == targets, "data of another objective");
        model.freeze_pooler();
        let (train, validation) = data.split(config.validation_share);
        let lengths = train.texts.first().map(EncodedSet::lengths).unwrap_or_default();
        let batching = Batching::Sequences { sequences: config.batch_size };
        let order = Order::new(lengths, batching, 1, config.epochs, None, config.seed);
        if order.total_steps() == 0 {
            return Err(TrainError::Empty("the pairs".to_owned()));
        }
        let pass = SentencePass::default();
        Ok(SentenceTuning { model, tokenizer, settings, train, validation, order, config, pass })
    }

    /// Steps of one pass over the pairs.
    pub fn steps_per_epoch(&self) -> u64 {
        self.order.steps_per_epoch()
    }
}

impl Workload for SentenceTuning<'_> {
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
        let rows = &batches[0];
        let batch = self.train.batch(rows);
        self.model.check(&batch)?;
        let slots: Vec<u64> = (0..batch.sequences() as u64).collect();
        let mode = Mode::Training(DropoutKey { seed: self.config.seed, step, slots: &slots });
        let targets: Vec<f32> = rows.iter().filter_map(|&row| self.train.targets.get(row).copied()).collect();
        let lesson = Lesson {
            objective: self.config.objective,
            similarity: self.settings.similarity,
            scale: self.config.scale,
            rows: rows.len(),
            targets: &targets,
        };
        let said = tuning_step(rt, &self.model, &batch, mode, &lesson, gradients, &mut self.pass);
        let parts = said.first.value().map(|share| ("first", share)).into_iter().collect();
        let loss = said.loss.value().unwrap_or(0.0);
        Ok(StepReport { loss, parts, tokens: batch.tokens() as u64 })
    }

    fn evaluate(&mut self, rt: &Runtime) -> Result<Option<HeldOutReport>, TrainError> {
        let validation = &self.validation;
        if validation.is_empty() {
            return Ok(None);
        }
        let mut runner = EmbeddingRunner::new(&self.model, None).map_err(|error| not_fit("model", &error))?;
        let width = runner.dimensions();
        let sets = validation.texts.iter().map(|set| {
            let mut vectors = embeddings(rt, &mut runner, set, "validation", &())?;
            if needs_unit_length(&self.model, self.settings.similarity) {
                let mut lengths = vec![0.0; vectors.len() / width];
                normalize_rows(rt, &mut vectors, width, &mut lengths);
            }
            Ok::<_, EmbedError>(vectors)
        });
        let sets: Vec<Vec<f32>> = sets.collect::<Result<_, _>>().map_err(|error| not_fit("validation", &error))?;
        let mut said = Contrast::default();
        let all: Vec<usize> = (0..validation.len()).collect();
        // The contrastive loss depends on the number of texts in a batch, so batches are as in training.
        for rows in all.chunks(self.config.batch_size) {
            let vectors: Vec<f32> =
                sets.iter().flat_map(|set| &set[rows[0] * width..(rows[0] + rows.len()) * width]).copied().collect();
            let lesson = Lesson {
                objective: self.config.objective,
                similarity: self.settings.similarity,
                scale: self.config.scale,
                rows: rows.len(),
                targets: validation.targets.get(rows[0]..rows[0] + rows.len()).unwrap_or_default(),
            };
            let part = lesson.loss(rt, &vectors, width, &mut vec![0.0; vectors.len()]);
            said.loss.add(part.loss);
            said.first.add(part.first);
        }
        let loss = said.loss.value().unwrap_or(0.0);
        let mut values = vec![("loss", loss)];
        values.extend(said.first.value().map(|share| ("first", share)));
        if self.config.objective != Objective::Similarity {
            return Ok(Some(HeldOutReport { values, score: -loss }));
        }
        let similarities = sets[0].chunks_exact(width).zip(sets[1].chunks_exact(width));
        let similarities = similarities.map(|(a, b)| a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum());
        let truth = validation.targets.iter().map(|&score| f64::from(score)).collect();
        let outcomes =
            Outcomes::scores(truth, similarities.collect()).map_err(|error| not_fit("validation", &error))?;
        let spearman = outcomes.metric(Metric::Spearman).map_err(|error| not_fit("validation", &error))?;
        values.push((Metric::Spearman.name(), spearman));
        Ok(Some(HeldOutReport { values, score: spearman }))
    }

    fn save_companions(&self, folder: &Path) -> Result<(), TrainError> {
        save_tokenizer(self.tokenizer, &self.model.config, folder)?;
        Ok(self.settings.write(folder)?)
    }
}

/// What one batch of pairs or triples is to teach.
pub struct Lesson<'a> {
    /// What the texts are to teach.
    pub objective: Objective,
    /// How embeddings are compared.
    pub similarity: Similarity,
    /// Similarities are multiplied by this.
    pub scale: f32,
    /// Pairs or triples.
    pub rows: usize,
    /// Score or margin of each.
    pub targets: &'a [f32],
}

impl Lesson<'_> {
    /// Of vectors that are compared by their dot products: anchors, positives and negatives `[rows, width]` each.
    fn loss(&self, rt: &Runtime, vectors: &[f32], width: usize, gradient: &mut [f32]) -> Contrast {
        let (anchors, others) = vectors.split_at(self.rows * width);
        let (d_anchors, d_others) = gradient.split_at_mut(self.rows * width);
        let only = |loss: Mean| Contrast { loss, first: Mean::default() };
        match self.objective {
            Objective::Similarity => only(embedding::similarity(anchors, others, self.targets, d_anchors, d_others)),
            Objective::Contrastive => embedding::contrast(rt, anchors, others, width, self.scale, d_anchors, d_others),
            Objective::Margin => {
                let (positives, negatives) = others.split_at(self.rows * width);
                let (d_positives, d_negatives) = d_others.split_at_mut(self.rows * width);
                let vectors = [anchors, positives, negatives];
                only(embedding::margin(vectors, self.targets, self.scale, [d_anchors, d_positives, d_negatives]))
            }
        }
    }
}

/// Loss, and gradients added, of one batch: all anchors, then all positives, then all negatives. The model must be
/// packed for training and have an embedding head.
pub fn tuning_step(
    rt: &Runtime,
    model: &Model,
    batch: &Batch,
    mode: Mode<'_>,
    lesson: &Lesson<'_>,
    gradients: &mut [f32],
    pass: &mut SentencePass,
) -> Contrast {
    pass.forward(rt, model, batch, mode);
    let width = embedder(model).width();
    let mut vectors = pass.head.embeddings().to_vec();
    let mut d_vectors = vec![0.0; vectors.len()];
    let said = if needs_unit_length(model, lesson.similarity) {
        let mut lengths = vec![0.0; batch.sequences()];
        normalize_rows(rt, &mut vectors, width, &mut lengths);
        let said = lesson.loss(rt, &vectors, width, &mut d_vectors);
        normalize_rows_backward(rt, &vectors, &lengths, width, &mut d_vectors);
        said
    } else {
        lesson.loss(rt, &vectors, width, &mut d_vectors)
    };
    pass.backward(rt, model, batch, mode, d_vectors, gradients);
    said
}

/// Whether the model's embeddings have to be scaled before their dot product is the similarity.
fn needs_unit_length(model: &Model, similarity: Similarity) -> bool {
    similarity == Similarity::Cosine && matches!(&model.config.head, HeadKind::Embedding(head) if !head.normalize)
}

fn embedder(model: &Model) -> &Embedder {
    match &model.head {
        Head::Embedder(head) => head,
        _ => unreachable!("the workloads accept only models with an embedding head"),
    }
}

fn wrong<T>(name: &'static str, expected: &str, found: &str) -> Result<T, TrainError> {
    Err(TrainError::Config { name, expected: expected.to_owned(), found: found.to_owned() })
}

fn not_fit(name: &'static str, error: &dyn std::fmt::Display) -> TrainError {
    TrainError::Config { name, expected: "texts and embeddings that fit".into(), found: error.to_string() }
}
