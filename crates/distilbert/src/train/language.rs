//! Training on plain text: masked-LM alone (pre-training), or with a teacher's soft targets, logits and hidden states
//! (distillation). One workload for both: a run without a teacher is one whose teacher's terms have no weight.

mod pass; // one micro-batch through student and teachers

use pass::{Buffers, TeacherBuffers, masked_lm, name_parts};
pub use pass::{LanguageLosses, Pass, Teacher, masked_step};

use super::layer_terms::{LayerTerms, LookedAt, Portion};
use super::order::{Batching, Order};
use super::teacher_answers::{Answers, Asked, Kept};
use super::teacher_cache::{BatchKey, CacheIdentity, TeacherCache};
use super::{HeldOutReport, StepReport, TrainError, Workload};
use crate::checkpoint::model_folder::save_tokenizer;
use crate::data::batch::Batch;
use crate::data::corpus::{Corpus, Split};
use crate::data::masking::{IGNORED, Masker, MaskingConfig};
use crate::heads::Head;
use crate::loss::layers::LayerTerm;
use crate::loss::vocabulary::{DistilWeights, KlPositions, Positions};
use crate::model::{DropoutKey, Mode, Model};
use crate::random::Rng;
use crate::tokenizer::Tokenizer;
use distilbert_kernels::Runtime;

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
    /// Prepares a run. The teachers, if any, must be packed and have the same vocabulary; where a term looks at logits they
    /// and the model need masked-LM heads. What the student learns of several teachers is the mean of what it would learn
    /// of each.
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
                let head = (kept.top_k > 0).then(|| masked_lm(teacher));
                let asked = Asked { model: teacher, head, temperature, kept };
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
    let splits = [Split::Train, Split::HeldOut].map(|split| corpus.split(split));
    let lengths = splits.iter().flat_map(|sequences| (0..sequences.len()).map(|index| sequences.token_len(index)));
    let longest = lengths.max().unwrap_or(0);
    for (name, model) in [("model", model)].into_iter().chain(teachers.iter().map(|&teacher| ("teacher", teacher))) {
        if config.weights.look_at_logits() && !matches!(model.head, Head::MaskedLm(_)) {
            return wrong(name, "a masked-LM head".into(), model.config.head.class_suffix().into());
        }
        for (other, size) in [("tokenizer", tokenizer.vocab_size()), ("corpus", corpus.vocab_size())] {
            if model.config.encoder.vocab_size != size {
                let expected = format!("the {other}'s vocabulary of {size} tokens");
                return wrong(name, expected, format!("{} tokens", model.config.encoder.vocab_size));
            }
        }
        let positions = model.config.encoder.max_positions;
        if positions < longest {
            let expected = format!("{longest} positions, for the longest sequence of the corpus");
            return wrong(name, expected, positions.to_string());
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
        return wrong("temperature", "a finite number above 0".into(), weights.temperature.to_string());
    }
    config.batching.validate()?;
    let counts = [
        ("accumulation", config.accumulation as u64),
        ("epochs", config.epochs as u64),
        ("max-steps", config.max_steps.unwrap_or(1)),
    ];
    if let Some((name, _)) = counts.into_iter().find(|(_, count)| *count == 0) {
        return wrong(name, "at least 1".into(), "0".into());
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
