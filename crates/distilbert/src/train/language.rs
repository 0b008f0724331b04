//! Training on plain text: masked-LM alone (pre-training), or with a teacher's soft targets, logits and hidden states
//! (distillation). One workload for both: a run without a teacher is one whose teacher's terms have no weight.

use super::layer_terms::{LayerBuffers, LayerLosses, LayerTerms, LookedAt, Portion};
use super::order::{Batching, Order};
use super::teacher_answers::{AnswerBuffers, Answers, Asked, Kept};
use super::teacher_cache::{BatchKey, CacheIdentity, TeacherCache};
use super::{HeldOutReport, StepReport, TrainError, Workload};
use crate::checkpoint::model_folder::save_tokenizer;
use crate::data::batch::Batch;
use crate::data::corpus::{Corpus, Split};
use crate::data::masking::{IGNORED, Masker, MaskingConfig};
use crate::heads::Head;
use crate::heads::masked_lm::{LOGIT_CHUNK_ROWS, MaskedLm, MaskedLmActivations};
use crate::loss::layers::LayerTerm;
use crate::loss::vocabulary::{
    self, DistilWeights, KlPositions, LogitTargets, Positions, SoftTargets, VocabularyLosses,
};
use crate::model::encoder::{Activations, Scratch};
use crate::model::{DropoutKey, Mode, Model};
use crate::random::Rng;
use crate::tokenizer::Tokenizer;
use distilbert_kernels::Runtime;
use distilbert_kernels::elementwise::{add_assign, gather_rows, scatter_add_rows};

/// What a run on plain text needs besides model, teacher and corpus.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct LanguageConfig {
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
    /// Whether each micro-batch's mean counts alike, as published, or each position of the step does.
    pub normalise: Normalise,
    /// Positions of the soft-target terms.
    pub kl_positions: KlPositions,
    /// Terms of the loss at the ends of the models.
    pub weights: DistilWeights,
    /// Terms between the layers of student and teacher.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub layer_terms: Vec<LayerTerm>,
    /// How tokens are hidden.
    pub masking: MaskingConfig,
    /// Held-out sequences a measurement looks at, at most.
    pub held_out_sequences: usize,
    /// Trains on abridged answers of the teacher, which can be kept on a disk: its so many largest logits at a position
    /// and what the others come to, and hidden states in bf16. 0 takes every logit, and f32. Held-out text is measured
    /// against whole answers in any case.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub teacher_top_k: usize,
}

fn is_zero(count: &usize) -> bool {
    *count == 0
}

/// What the means of a step divide by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Normalise {
    /// Positions of the whole step: how it is cut into micro-batches changes nothing.
    #[default]
    Step,
    /// Positions of the micro-batch, and micro-batches count alike, as the published script has it.
    MicroBatch,
}

/// Training of one model on a corpus, with or without a teacher.
pub struct LanguageTraining<'a> {
    model: Model,
    teachers: Vec<&'a Model>,
    tokenizer: &'a Tokenizer,
    corpus: &'a Corpus,
    masker: Masker,
    order: Order,
    config: LanguageConfig,
    layer_terms: LayerTerms,
    cache: Option<TeacherCache>,
    buffers: Buffers,
}

/// Memory that passes from step to step.
#[derive(Default)]
struct Buffers {
    student: Activations,
    teachers: Vec<TeacherBuffers>,
    student_head: MaskedLmActivations,
    answers: AnswerBuffers,
    layers: LayerBuffers,
    student_rows: Vec<f32>,
    student_logits: Vec<f32>,
    logits: LogitBuffers,
    d_output: Vec<f32>,
    d_rows: Vec<f32>,
    d_hidden: Vec<f32>,
    scratch: Scratch,
}

/// Rows of logits beside the student's own, which become their gradient.
#[derive(Default)]
struct LogitBuffers {
    teacher: Vec<f32>,
    /// Of several teachers: the student's logits again, and the gradients of all teachers but the first.
    again: Vec<f32>,
    d_others: Vec<f32>,
}

/// The same of one teacher.
#[derive(Default)]
struct TeacherBuffers {
    activations: Activations,
    rows: Vec<f32>,
    head: MaskedLmActivations,
}

/// A micro-batch ready to run.
pub struct MaskedBatch {
    /// The masked sequences.
    pub batch: Batch,
    /// The hidden token at each position, [`IGNORED`] elsewhere.
    pub targets: Vec<i32>,
}

impl MaskedBatch {
    /// The positions that each term of the loss looks at.
    pub fn positions(&self, kl_positions: KlPositions) -> Positions {
        let tokens = self.targets.len() as u64;
        let masked = self.targets.iter().filter(|&&target| target != IGNORED).count() as u64;
        let soft = match kl_positions {
            KlPositions::All => tokens,
            KlPositions::Masked => masked,
        };
        Positions { soft, masked, ..Positions::of(self.batch.cu_seqlens()) }
    }

    /// The rows of the soft targets.
    fn soft_rows(&self, kl_positions: KlPositions) -> Vec<u32> {
        let rows = 0..self.targets.len() as u32;
        match kl_positions {
            KlPositions::All => rows.collect(),
            KlPositions::Masked => rows.filter(|&row| self.targets[row as usize] != IGNORED).collect(),
        }
    }
}

impl<'a> LanguageTraining<'a> {
    /// Prepares a run. The teachers, if any, must be packed and have masked-LM heads over the same vocabulary; what the
    /// student learns of several is the mean of what it would learn of each.
    ///
    /// # Errors
    /// If model, teachers, tokenizer and corpus do not fit together, or a value of the configuration is out of range.
    pub fn new(
        mut model: Model,
        teachers: &[&'a Model],
        tokenizer: &'a Tokenizer,
        corpus: &'a Corpus,
        config: LanguageConfig,
    ) -> Result<Self, TrainError> {
        check(&model, teachers, tokenizer, corpus, &config)?;
        let of_teachers: Vec<_> = teachers.iter().map(|teacher| &teacher.config).collect();
        let layer_terms = LayerTerms::new(&config.layer_terms, &mut model, &of_teachers, config.seed)?;
        layer_terms.freeze_unreached(&mut model, LookedAt::by(&config.weights));
        let special = tokenizer.special();
        let specials = [special.pad, special.unk, special.cls, special.sep, special.mask];
        let continues = (0..tokenizer.vocab_size() as u32).map(|id| tokenizer.continues_word(id)).collect();
        let masker = Masker::new(config.masking.clone(), &corpus.token_counts(), &specials, special.mask, continues)?;
        let train = corpus.split(Split::Train);
        let lengths = (0..train.len()).map(|index| train.token_len(index)).collect();
        let order =
            Order::new(lengths, config.batching, config.accumulation, config.epochs, config.max_steps, config.seed);
        if order.total_steps() == 0 {
            return Err(TrainError::Empty(format!("corpus `{}`", corpus.path().display())));
        }
        let buffers = Buffers::default();
        let (cache, teachers) = (None, teachers.to_vec());
        Ok(LanguageTraining { model, teachers, tokenizer, corpus, masker, order, config, layer_terms, cache, buffers })
    }

    /// What a cache of the teacher's answers must have been made for; `None` without a teacher of abridged answers.
    /// `teacher` is a hash of its files.
    pub fn cache_identity(&self, rt: &Runtime, teacher: String) -> Option<CacheIdentity> {
        let config = &self.config;
        Some(CacheIdentity {
            teacher,
            teacher_precision: self.teachers.first()?.precision().name().to_owned(),
            instruction_set: rt.isa().name().to_owned(),
            corpus: self.corpus.content_hash(),
            seed: config.seed,
            batching: config.batching,
            accumulation: config.accumulation,
            masking: config.masking.clone(),
            kl_positions: config.kl_positions,
            temperature: config.weights.temperature,
            kept: self.kept()?,
        })
    }

    /// Takes the teacher's answers from a cache that was opened for [`LanguageTraining::cache_identity`], and adds to it
    /// what it lacks. The numbers of the run are those without the cache.
    pub fn use_cache(&mut self, cache: TeacherCache) {
        self.cache = Some(cache);
    }

    /// Micro-batches of the whole run, and bytes of the cache that holds the answers to all, at most.
    pub fn cache_size(&mut self) -> (u64, u64) {
        let Some(kept) = self.kept() else { return (0, 0) };
        let train = self.corpus.split(Split::Train);
        let (mut micro_batches, mut bytes) = (0, 0);
        for step in 1..=self.order.total_steps() {
            for samples in self.order.step(step).1 {
                let tokens: usize = samples.iter().map(|&sample| train.token_len(sample)).sum();
                let rows = match self.config.kl_positions {
                    KlPositions::All => tokens,
                    KlPositions::Masked => (self.config.masking.probability * tokens as f64).ceil() as usize,
                };
                micro_batches += 1;
                bytes += kept.bytes(rows, tokens) as u64;
            }
        }
        (micro_batches, TeacherCache::file_bytes(micro_batches, bytes))
    }

    /// The parts of abridged answers that the loss looks at; `None` if it takes whole ones.
    fn kept(&self) -> Option<Kept> {
        let (teacher, config) = (self.teachers.first()?, &self.config);
        (config.teacher_top_k > 0).then(|| Kept {
            top_k: if config.weights.kl == 0.0 { 0 } else { config.teacher_top_k.min(self.tokenizer.vocab_size()) },
            hidden: if config.weights.cosine == 0.0 { 0 } else { teacher.config.encoder.hidden },
        })
    }

    /// The teacher's abridged answers to a micro-batch of a step, from the cache or from the teacher.
    fn answers(&mut self, rt: &Runtime, key: BatchKey, masked: &MaskedBatch) -> Result<Option<Answers>, TrainError> {
        let (Some(kept), Some(&teacher)) = (self.kept(), self.teachers.first()) else { return Ok(None) };
        let rows = masked.soft_rows(self.config.kl_positions);
        let (count, tokens) = (rows.len(), masked.batch.tokens());
        let cached = match &mut self.cache {
            Some(cache) => cache.get(key, kept.bytes(count, tokens))?,
            None => None,
        };
        let bytes = match cached {
            Some(bytes) => bytes,
            None => {
                let temperature = self.config.weights.temperature as f32;
                let asked = Asked { model: teacher, head: masked_lm(teacher), temperature, kept };
                let Buffers { teachers, answers, .. } = &mut self.buffers;
                teachers.resize_with(1, TeacherBuffers::default);
                let activations = &mut teachers[0].activations;
                teacher.encode(rt, &masked.batch, Mode::Inference, activations);
                let bytes = asked.answer(rt, activations, &rows, answers);
                if let Some(cache) = &mut self.cache {
                    cache.put(key, &bytes)?;
                }
                bytes
            }
        };
        Ok(Some(Answers::from_bytes(&bytes, kept, count, tokens)))
    }

    /// Checks that the model and every teacher can take the batch: a teacher may have fewer positions.
    fn check(&self, batch: &Batch) -> Result<(), TrainError> {
        for model in [&self.model].into_iter().chain(self.teachers.iter().copied()) {
            model.check(batch)?;
        }
        Ok(())
    }

    fn whole_teachers(&self) -> Vec<Teacher<'a>> {
        self.teachers.iter().map(|teacher| Teacher::Whole(teacher)).collect()
    }

    /// The model, trained.
    pub fn into_model(self) -> Model {
        self.model
    }

    /// Steps of one pass over the corpus.
    pub fn steps_per_epoch(&self) -> u64 {
        self.order.steps_per_epoch()
    }

    fn masked_batch(&self, split: Split, samples: &[usize], key: &[u64]) -> MaskedBatch {
        let sequences = self.corpus.split(split);
        let mut batch = Batch::new();
        for &sample in samples {
            batch.push(&sequences.get(sample), None);
        }
        let targets = self.masker.mask(&mut batch, &mut Rng::from_key(key));
        MaskedBatch { batch, targets }
    }
}

fn check(
    model: &Model,
    teachers: &[&Model],
    tokenizer: &Tokenizer,
    corpus: &Corpus,
    config: &LanguageConfig,
) -> Result<(), TrainError> {
    let wrong = |name, expected: String, found: String| Err(TrainError::Config { name, expected, found });
    for (name, model) in [("model", model)].into_iter().chain(teachers.iter().map(|&teacher| ("teacher", teacher))) {
        if !matches!(model.head, Head::MaskedLm(_)) {
            return wrong(name, "a masked-LM head".into(), model.config.head.class_suffix().into());
        }
        for (other, size) in [("tokenizer", tokenizer.vocab_size()), ("corpus", corpus.vocab_size())] {
            if model.config.encoder.vocab_size != size {
                let expected = format!("the {other}'s vocabulary of {size} tokens");
                return wrong(name, expected, format!("{} tokens", model.config.encoder.vocab_size));
            }
        }
    }
    for teacher in teachers {
        let (student, teacher) = (&model.config.encoder, &teacher.config.encoder);
        if config.weights.cosine != 0.0 && student.hidden != teacher.hidden {
            let expected = format!("the teacher's width {} for the cosine loss", teacher.hidden);
            return wrong("student", expected, format!("width {}", student.hidden));
        }
    }
    let weights = &config.weights;
    if teachers.is_empty() && (weights.kl != 0.0 || weights.cosine != 0.0 || weights.mse != 0.0) {
        return wrong("weights", "a teacher for `kl`, `cosine` or `mse`".into(), "none".into());
    }
    if teachers.is_empty() && !config.layer_terms.is_empty() {
        return wrong("layer-terms", "a teacher to compare layers with".into(), "none".into());
    }
    if config.teacher_top_k > 0 && teachers.len() > 1 {
        return wrong("teacher-top-k", "one teacher".into(), teachers.len().to_string());
    }
    if config.teacher_top_k > 0 && weights.mse != 0.0 {
        return wrong(
            "weights",
            "no `mse` beside `teacher-top-k`: it needs every logit".into(),
            weights.mse.to_string(),
        );
    }
    if config.teacher_top_k > 0 && !config.layer_terms.is_empty() {
        let expected = "no `layer-terms` beside `teacher-top-k`: answers that are kept have no layers";
        return wrong("layer-terms", expected.into(), config.layer_terms.len().to_string());
    }
    let terms = [weights.kl, weights.mlm, weights.cosine, weights.mse];
    let total = terms.iter().chain(config.layer_terms.iter().map(|term| &term.weight)).sum::<f64>();
    if terms.iter().any(|weight| !weight.is_finite() || *weight < 0.0) || total <= 0.0 {
        return wrong("weights", "none negative and at least one above 0".into(), format!("{terms:?}"));
    }
    if weights.temperature <= 0.0 || !weights.temperature.is_finite() {
        return wrong("temperature", "above 0".into(), weights.temperature.to_string());
    }
    config.batching.validate()?;
    if config.accumulation == 0 || config.epochs == 0 {
        return wrong("accumulation and epochs", "at least 1".into(), "0".into());
    }
    corpus.check_vocabulary(tokenizer).map_err(|error| TrainError::Config {
        name: "corpus",
        expected: "the tokenizer's vocabulary".into(),
        found: error.to_string(),
    })
}

const MASKS: u64 = 0x3a5c;
const HELD_OUT_MASKS: u64 = 0x3a5d;

impl Workload for LanguageTraining<'_> {
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
        let batches: Vec<MaskedBatch> = micro_batches
            .iter()
            .enumerate()
            .map(|(index, samples)| {
                self.masked_batch(Split::Train, samples, &[self.config.seed, MASKS, step, index as u64])
            })
            .collect();
        self.layer_terms.pack(rt, self.model.parameters.weights());
        let mut losses = LanguageLosses::default();
        let (mut first_slot, mut tokens) = (0, 0);
        let mut whole_step = Positions::default();
        batches.iter().for_each(|batch| whole_step.add(batch.positions(self.config.kl_positions)));
        for (index, masked) in batches.iter().enumerate() {
            self.check(&masked.batch)?;
            let answers = self.answers(rt, BatchKey { step, micro_batch: index as u32 }, masked)?;
            let slots: Vec<u64> = (first_slot..).take(masked.batch.sequences()).collect();
            first_slot += masked.batch.sequences() as u64;
            tokens += masked.batch.tokens() as u64;
            let teachers = match &answers {
                Some(answers) => vec![Teacher::Abridged(answers)],
                None => self.whole_teachers(),
            };
            let mut pass = Pass {
                model: &self.model,
                teachers: &teachers,
                kl_positions: self.config.kl_positions,
                weights: self.config.weights,
                layer_terms: &self.layer_terms,
                portion: Portion { positions: whole_step, share: 1.0 },
            };
            if self.config.normalise == Normalise::MicroBatch {
                let positions = masked.positions(self.config.kl_positions);
                pass.portion = Portion { positions, share: 1.0 / batches.len() as f64 };
            }
            let key = DropoutKey { seed: self.config.seed, step, slots: &slots };
            losses.add(pass.run(rt, masked, Some((key, gradients)), &mut self.buffers));
        }
        let mut parts = Vec::new();
        name_parts(&losses, &self.config.weights, &self.layer_terms, &mut parts);
        Ok(StepReport { loss: losses.total(&self.config.weights, &self.layer_terms), parts, tokens })
    }

    fn evaluate(&mut self, rt: &Runtime) -> Result<Option<HeldOutReport>, TrainError> {
        let count = self.corpus.split(Split::HeldOut).len().min(self.config.held_out_sequences);
        if count == 0 {
            return Ok(None);
        }
        self.layer_terms.pack(rt, self.model.parameters.weights());
        let teachers = self.whole_teachers();
        let mut losses = LanguageLosses::default();
        // Always the same sequences under the same masks, in batches of a fixed number, so that measurements compare.
        const SEQUENCES: usize = 16;
        for start in (0..count).step_by(SEQUENCES) {
            let samples: Vec<usize> = (start..(start + SEQUENCES).min(count)).collect();
            let masked = self.masked_batch(Split::HeldOut, &samples, &[self.config.seed, HELD_OUT_MASKS, start as u64]);
            self.check(&masked.batch)?;
            let pass = Pass {
                model: &self.model,
                teachers: &teachers,
                kl_positions: self.config.kl_positions,
                weights: self.config.weights,
                layer_terms: &self.layer_terms,
                portion: Portion { positions: Positions::default(), share: 1.0 },
            };
            losses.add(pass.run(rt, &masked, None, &mut self.buffers));
        }
        let total = losses.total(&self.config.weights, &self.layer_terms);
        let mut values = vec![("loss", total)];
        name_parts(&losses, &self.config.weights, &self.layer_terms, &mut values);
        let losses = losses.vocabulary;
        values.extend(losses.mlm.value().map(|loss| ("perplexity", loss.exp())));
        values.extend(losses.mlm_accuracy.value().map(|share| ("mlm_accuracy", share)));
        values.extend(losses.agreement.value().map(|share| ("teacher_agreement", share)));
        Ok(Some(HeldOutReport { values, score: -total }))
    }

    fn save_companions(&self, folder: &std::path::Path) -> Result<(), TrainError> {
        Ok(save_tokenizer(self.tokenizer, &self.model.config, folder)?)
    }
}

/// What the terms come to.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LanguageLosses {
    /// Those at the ends of the models.
    pub vocabulary: VocabularyLosses,
    /// Those between layers.
    pub layers: LayerLosses,
}

impl LanguageLosses {
    /// Adds another micro-batch's.
    pub fn add(&mut self, other: LanguageLosses) {
        self.vocabulary.add(other.vocabulary);
        self.layers.add(other.layers);
    }

    /// The weighted sum of the means that exist.
    pub fn total(&self, weights: &DistilWeights, layer_terms: &LayerTerms) -> f64 {
        self.vocabulary.total(weights) + layer_terms.total(&self.layers)
    }
}

fn name_parts(
    LanguageLosses { vocabulary: losses, layers }: &LanguageLosses,
    weights: &DistilWeights,
    layer_terms: &LayerTerms,
    parts: &mut Vec<(&'static str, f64)>,
) {
    let terms = [
        ("kl", weights.kl, losses.kl),
        ("mlm", weights.mlm, losses.mlm),
        ("cosine", weights.cosine, losses.cosine),
        ("mse", weights.mse, losses.mse),
    ];
    parts.extend(
        terms.iter().filter(|(_, weight, _)| *weight != 0.0).filter_map(|(name, _, mean)| Some((*name, mean.value()?))),
    );
    layer_terms.name_parts(layers, parts);
}

/// One forward pass, and backward if there are gradients to add to.
pub struct Pass<'a> {
    /// The model in training.
    pub model: &'a Model,
    /// The teachers.
    pub teachers: &'a [Teacher<'a>],
    /// Positions of the soft-target terms.
    pub kl_positions: KlPositions,
    /// Terms of the loss at the ends of the models.
    pub weights: DistilWeights,
    /// Terms between layers, packed.
    pub layer_terms: &'a LayerTerms,
    /// What the batch is to its step.
    pub portion: Portion,
}

/// Where the teacher's answers come from.
#[derive(Clone, Copy)]
pub enum Teacher<'a> {
    /// The teacher itself, packed.
    Whole(&'a Model),
    /// What was kept of them.
    Abridged(&'a Answers),
}

/// What the student's logits are compared with.
struct WithTeachers<'a> {
    /// The teachers whose distributions count.
    soft: &'a [Teacher<'a>],
    buffers: &'a [TeacherBuffers],
    /// Of one teacher.
    weights: &'a DistilWeights,
    positions: Positions,
}

impl WithTeachers<'_> {
    /// Losses of some rows of the student's logits, which become their gradient; `masked` are their hidden tokens.
    fn losses(
        &self,
        rt: &Runtime,
        logits: &mut [f32],
        rows: std::ops::Range<usize>,
        masked: &[i32],
        LogitBuffers { teacher: of_teacher, again, d_others }: &mut LogitBuffers,
    ) -> VocabularyLosses {
        let vocab_size = logits.len().checked_div(rows.len()).unwrap_or(0);
        let mut losses = VocabularyLosses::default();
        let mut compare = |logits: &mut [f32], teacher: SoftTargets<'_>, masked: &[i32]| {
            let targets = LogitTargets { teacher, masked };
            losses.add(vocabulary::logits(rt, logits, &targets, vocab_size, self.weights, self.positions));
        };
        let mut teachers = self.soft.iter().zip(self.buffers);
        let first = teachers.next();
        d_others.clear();
        for (teacher, buffers) in teachers {
            logits.clone_into(again);
            d_others.resize(logits.len(), 0.0);
            // The masked words count with the first teacher alone.
            let masked = vec![IGNORED; rows.len()];
            compare(again, teacher.soft_targets(rt, buffers, rows.clone(), of_teacher), &masked);
            add_assign(rt, d_others, again);
        }
        let targets = first.map(|(teacher, buffers)| teacher.soft_targets(rt, buffers, rows, of_teacher));
        compare(logits, targets.unwrap_or(SoftTargets::None), masked);
        if !d_others.is_empty() {
            add_assign(rt, logits, d_others);
        }
        losses
    }
}

impl Teacher<'_> {
    /// What it says of some of the soft targets' rows.
    fn soft_targets<'b>(
        &'b self,
        rt: &Runtime,
        buffers: &TeacherBuffers,
        rows: std::ops::Range<usize>,
        logits: &'b mut Vec<f32>,
    ) -> SoftTargets<'b> {
        match self {
            Teacher::Whole(teacher) => {
                masked_lm(teacher).logits(rt, teacher.parameters.weights(), &buffers.head, rows, logits);
                SoftTargets::Logits(logits)
            }
            Teacher::Abridged(answers) => SoftTargets::Top(answers.logits(rows)),
        }
    }
}

/// Losses, and gradients added to `gradients`, of one masked batch; for replaying a reference run.
pub fn masked_step(
    rt: &Runtime,
    pass: &Pass<'_>,
    masked: &MaskedBatch,
    key: DropoutKey<'_>,
    gradients: &mut [f32],
) -> LanguageLosses {
    pass.run(rt, masked, Some((key, gradients)), &mut Buffers::default())
}

impl Pass<'_> {
    fn run(
        &self,
        rt: &Runtime,
        masked: &MaskedBatch,
        training: Option<(DropoutKey<'_>, &mut [f32])>,
        buffers: &mut Buffers,
    ) -> LanguageLosses {
        let MaskedBatch { batch, targets } = masked;
        let hidden = self.model.config.encoder.hidden;
        let head = masked_lm(self.model);
        let arena = self.model.parameters.weights();
        // An encoder of which nothing is trained needs neither dropout nor a backward pass.
        let encoder_trains = self.model.encoder_is_trainable();
        let mode = match &training {
            Some((key, _)) if encoder_trains => Mode::Training(*key),
            _ => Mode::Inference,
        };
        let (key, mut gradients) = training.map_or((None, None), |(key, gradients)| (Some(key), Some(gradients)));
        let Portion { positions, share } = self.portion;
        let weights = self.weights.scaled(share);
        let mut losses = LanguageLosses::default();
        buffers.teachers.resize_with(self.teachers.len(), TeacherBuffers::default);
        for (place, (teacher, of_teacher)) in self.teachers.iter().zip(&mut buffers.teachers).enumerate() {
            if let Teacher::Whole(teacher) = teacher {
                let (activations, layers) = (&mut of_teacher.activations, &mut buffers.layers);
                self.layer_terms.encode_teacher(rt, (place, teacher), batch, activations, layers);
            }
        }
        self.model.encode_observed(rt, batch, mode, &mut buffers.student, |index, observed| {
            if self.layer_terms.is_empty() {
                return;
            }
            let (layers, gradients) = (&mut buffers.layers, gradients.as_deref_mut());
            let (model, portion, losses) = (self.model, self.portion, &mut losses.layers);
            self.layer_terms.compare(rt, model, batch, index, observed, portion, layers, gradients, losses);
        });
        let soft = if weights.kl != 0.0 || weights.mse != 0.0 { self.teachers } else { &[] };
        let rows = match weights.look_at_logits() {
            true => masked.soft_rows(if soft.is_empty() { KlPositions::Masked } else { self.kl_positions }),
            false => Vec::new(),
        };
        let row_targets: Vec<i32> = rows.iter().map(|&row| targets[row as usize]).collect();

        buffers.student_rows.resize(rows.len() * hidden, 0.0);
        gather_rows(rt, buffers.student.last_hidden_state(), hidden, &rows, &mut buffers.student_rows);
        head.forward(rt, arena, &buffers.student_rows, &mut buffers.student_head);
        for (teacher, of_teacher) in soft.iter().zip(&mut buffers.teachers) {
            let Teacher::Whole(teacher) = teacher else { continue };
            let (width, states) = (teacher.config.encoder.hidden, of_teacher.activations.last_hidden_state());
            of_teacher.rows.resize(rows.len() * width, 0.0);
            gather_rows(rt, states, width, &rows, &mut of_teacher.rows);
            let arena = teacher.parameters.weights();
            masked_lm(teacher).forward(rt, arena, &of_teacher.rows, &mut of_teacher.head);
        }
        // What is learnt of several teachers is the mean of what would be learnt of each.
        let of_each = weights.of_each(self.teachers.len());

        buffers.d_output.clear();
        buffers.d_output.resize(rows.len() * head.decoder.inputs, 0.0);
        for start in (0..rows.len()).step_by(LOGIT_CHUNK_ROWS) {
            let chunk = start..(start + LOGIT_CHUNK_ROWS).min(rows.len());
            head.logits(rt, arena, &buffers.student_head, chunk.clone(), &mut buffers.student_logits);
            let logits = &mut buffers.student_logits;
            let with = WithTeachers { soft, buffers: &buffers.teachers, weights: &of_each, positions };
            let masked = &row_targets[chunk.clone()];
            losses.vocabulary.add(with.losses(rt, logits, chunk.clone(), masked, &mut buffers.logits));
            if let Some(gradients) = &mut gradients {
                let trained = self.model.embeddings_are_trainable();
                head.logits_backward(
                    rt,
                    &buffers.student_head,
                    chunk,
                    logits,
                    trained,
                    &mut buffers.d_output,
                    gradients,
                );
            }
        }

        let len = batch.tokens() * hidden;
        buffers.d_hidden.clear();
        buffers.d_hidden.resize(len, 0.0);
        let of_states = if weights.cosine != 0.0 { self.teachers } else { &[] };
        for (teacher, of_teacher) in of_states.iter().zip(&buffers.teachers) {
            let teacher = match teacher {
                Teacher::Whole(_) => of_teacher.activations.last_hidden_state(),
                Teacher::Abridged(answers) => answers.states(),
            };
            let (student, weight) = (buffers.student.last_hidden_state(), of_each.cosine);
            debug_assert_eq!(teacher.len(), student.len());
            let d_hidden = &mut buffers.d_hidden;
            let cosine = vocabulary::cosine(rt, student, teacher, hidden, weight, positions, d_hidden);
            losses.vocabulary.cosine.add(cosine);
        }
        if let (Some(gradients), Some(_)) = (gradients, key) {
            buffers.d_rows.resize(buffers.student_rows.len(), 0.0);
            let states = &buffers.student_rows;
            head.backward(rt, arena, states, &buffers.student_head, &buffers.d_output, &mut buffers.d_rows, gradients);
            if encoder_trains {
                scatter_add_rows(rt, &buffers.d_rows, hidden, &rows, &mut buffers.d_hidden);
                let d_hidden = &mut buffers.d_hidden;
                buffers.layers.inner.alone = !weights.look_at_the_end();
                self.model.encode_backward_with(
                    rt,
                    batch,
                    mode,
                    &mut buffers.student,
                    &buffers.layers.inner,
                    d_hidden,
                    &mut buffers.scratch,
                    gradients,
                );
            }
        }
        losses
    }
}

fn masked_lm(model: &Model) -> &MaskedLm {
    match &model.head {
        Head::MaskedLm(head) => head,
        _ => unreachable!("LanguageTraining::new and verify accept only models with a masked-LM head"),
    }
}
