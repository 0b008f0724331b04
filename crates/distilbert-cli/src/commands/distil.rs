//! `distilbert distil`: a teacher into a student with fewer layers.

use super::training::{self, RunArgs};
use crate::config;
use crate::console::Console;
use anyhow::{Context, bail};
use clap::{Args, ValueEnum};
use distilbert::checkpoint::model_folder::{HeadChoice, save_tokenizer};
use distilbert::checkpoint::{model_hash, replace_folder};
use distilbert::data::masking::MaskingConfig;
use distilbert::loss::vocabulary::{DistilWeights, KlPositions};
use distilbert::model::student::{TokenTypes, from_teacher, student_config, uniform_with_ends};
use distilbert::model::{HeadKind, Model};
use distilbert::optim::{OptimizerConfig, Schedule};
use distilbert::report::Lineage;
use distilbert::train::by_name;
use distilbert::train::language::{LanguageConfig, LanguageTraining, Normalise};
use distilbert::train::order::Batching;
use distilbert::train::run::Run;
use distilbert::train::teacher_cache::TeacherCache;
use distilbert::train::{LoopConfig, Outcome, Workload, train};
use distilbert_kernels::{Precision, Runtime};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// Distil a teacher into a student with fewer layers, on a corpus.
///
/// A BERT or DistilBERT becomes a DistilBERT, any other teacher a smaller one of its own family. ALBERT's layers share
/// their weights, so that its student has as many parameters and runs them less often.
///
/// The student starts from layers of the teacher (evenly spread, both ends kept: 12 to 6 takes 0, 2, 4, 7, 9, 11) and
/// learns its distributions over the vocabulary, its hidden states and the masked words themselves. The teacher needs a
/// masked-LM head (`distilbert pretrain --init TEACHER --head-only` gives it one).
///
/// With `--objective embedding` a sentence encoder is distilled: the student learns the vectors that the teacher gives to
/// whole texts, and no masked-LM head is needed.
#[derive(Debug, Args)]
pub struct DistilArgs {
    /// What the student learns.
    #[arg(long, value_enum, default_value_t)]
    objective: ObjectiveChoice,
    /// The teacher.
    #[arg(long, value_name = "MODEL")]
    pub teacher: String,
    /// With --objective embedding: a model for the student to start from instead of the teacher's layers, of any width.
    #[arg(long, value_name = "MODEL", conflicts_with_all = ["layers", "from_layers", "random_init"])]
    pub student: Option<String>,
    /// Token file made by `distilbert corpus build`; its held-out part is measured on.
    #[arg(long, value_name = "FILE", required_unless_present = "init_only")]
    pub corpus: Option<PathBuf>,
    /// All settings at once: `default`, or `distilbert-paper`, the published recipe to the letter.
    #[arg(long, value_enum, default_value_t)]
    preset: Preset,
    /// Precision of the teacher's matrix products: f32, bf16 or int8 [default: f32].
    #[arg(long, value_name = "NAME")]
    pub teacher_precision: Option<Precision>,
    /// Keep the teacher's answers in DIR and take those that are there: for further students and runs that see the same
    /// masked text. Trains on abridged answers (see --teacher-top-k).
    #[arg(long, value_name = "DIR")]
    cache_teacher: Option<PathBuf>,
    /// Train on the teacher's K largest logits of a position and what the others come to [default: all; 32 with
    /// --cache-teacher].
    #[arg(long, value_name = "K")]
    teacher_top_k: Option<u32>,
    /// Layers of the student [default: half the teacher's].
    #[arg(long, value_name = "N")]
    pub layers: Option<u32>,
    /// The teacher's layers to start from, such as 0,2,4 [default: evenly spread, both ends kept].
    #[arg(long, value_name = "LIST", value_delimiter = ',', conflicts_with = "layers")]
    pub from_layers: Option<Vec<u32>>,
    /// Start the student from random weights instead.
    #[arg(long, conflicts_with = "from_layers")]
    pub random_init: bool,
    /// Write the student's first weights to the output folder and stop: the control that was never distilled.
    #[arg(long)]
    pub init_only: bool,
    /// Which positions the soft targets look at.
    #[arg(long, value_enum)]
    kl_positions: Option<PositionsChoice>,
    /// Softens both models' distributions.
    #[arg(long, value_name = "T")]
    temperature: Option<f64>,
    /// Weight of the soft targets' divergence.
    #[arg(long, value_name = "WEIGHT")]
    kl: Option<f64>,
    /// Weight of the masked words' cross-entropy.
    #[arg(long, value_name = "WEIGHT")]
    mlm: Option<f64>,
    /// Weight of the hidden states' cosine distance.
    #[arg(long, value_name = "WEIGHT")]
    pub cosine: Option<f64>,
    /// Weight of the logits' squared error.
    #[arg(long, value_name = "WEIGHT")]
    pub mse: Option<f64>,
    /// Ends the run early.
    #[arg(long, value_name = "STEPS")]
    pub max_steps: Option<u32>,
    /// Tokens of a micro-batch.
    #[arg(long, value_name = "TOKENS")]
    pub batch_tokens: Option<u32>,
    /// Micro-batches of a step.
    #[arg(long, value_name = "N")]
    pub accumulation: Option<u32>,
    #[command(flatten)]
    pub run: RunArgs,
}

/// Logits of a position that a cache keeps: with their classes an eighth of the hidden states beside them.
const CACHED_LOGITS: usize = 32;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum ObjectiveChoice {
    /// The teacher's distributions over the vocabulary, its states, and the masked words.
    #[default]
    Language,
    /// The teacher's vectors for whole texts.
    Embedding,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum Preset {
    /// Means over whole steps, token budgets, the student starts at the teacher's embedding output.
    #[default]
    Default,
    /// Sanh et al.'s script: token types dropped, positions frozen, length grouping, first step at rate 0.
    DistilbertPaper,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum PositionsChoice {
    /// Every real token.
    All,
    /// The masked ones only: less work in the vocabulary head.
    Masked,
}

/// Everything that decides a distillation run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct DistilConfig {
    /// The teacher.
    pub teacher: String,
    /// Of the teacher's matrix products.
    #[serde(with = "by_name")]
    pub teacher_precision: Precision,
    /// How the student begins.
    pub student: StudentConfig,
    /// Data and loss.
    pub training: LanguageConfig,
    /// Updates.
    pub optimizer: OptimizerConfig,
    /// Measurements and checkpoints.
    #[serde(rename = "loop")]
    pub run_loop: LoopConfig,
}

/// How the student begins.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct StudentConfig {
    /// Its layers; half the teacher's, rounded up, if 0.
    pub layers: usize,
    /// The teacher's layers it starts from; evenly spread if empty.
    pub from_layers: Vec<usize>,
    /// Whether it starts from random weights instead.
    pub random: bool,
    /// What becomes of the segment embedding.
    pub token_types: TokenTypes,
    /// Whether the position embeddings stay as they are.
    pub freeze_positions: bool,
}

impl DistilConfig {
    /// The default: the published terms and weights, without the script's quirks.
    pub fn new() -> DistilConfig {
        DistilConfig {
            teacher: String::new(),
            teacher_precision: Precision::F32,
            student: StudentConfig {
                layers: 0,
                from_layers: Vec::new(),
                random: false,
                token_types: TokenTypes::Fold,
                freeze_positions: false,
            },
            training: LanguageConfig {
                seed: 1,
                epochs: 3,
                max_steps: None,
                batching: Batching::Tokens { tokens: 2048 },
                accumulation: 1,
                normalise: Normalise::Step,
                kl_positions: KlPositions::All,
                weights: DistilWeights::default(),
                masking: MaskingConfig::default(),
                held_out_sequences: 256,
                teacher_top_k: 0,
            },
            optimizer: OptimizerConfig {
                learning_rate: 5e-4,
                beta2: 0.98,
                epsilon: 1e-6,
                weight_decay: 0.01,
                max_grad_norm: 5.0,
                schedule: Schedule::Linear { warmup_ratio: 0.05 },
                ..OptimizerConfig::default()
            },
            run_loop: LoopConfig::default(),
        }
    }

    /// The published recipe: the script's defaults under the released model's loss weights.
    ///
    /// # Source
    /// Sanh et al. 2019 and its training script; weights 5, 2, 1 by the maintainers' statement.
    pub fn paper() -> DistilConfig {
        let base = DistilConfig::new();
        DistilConfig {
            student: StudentConfig { token_types: TokenTypes::Drop, freeze_positions: true, ..base.student },
            training: LanguageConfig {
                seed: 56,
                batching: Batching::Grouped { sequences: 5 },
                accumulation: 50,
                normalise: Normalise::MicroBatch,
                ..base.training
            },
            optimizer: OptimizerConfig {
                weight_decay: 0.0,
                schedule: Schedule::LinearFromZero { warmup_ratio: 0.05 },
                ..base.optimizer
            },
            ..base
        }
    }
}

impl DistilArgs {
    /// A flag that was given and has no meaning for embeddings.
    pub fn language_flag(&self) -> Option<&'static str> {
        let given = [
            ("--preset", self.preset != Preset::Default),
            ("--kl-positions", self.kl_positions.is_some()),
            ("--temperature", self.temperature.is_some()),
            ("--kl", self.kl.is_some()),
            ("--mlm", self.mlm.is_some()),
        ];
        given.into_iter().find(|(_, given)| *given).map(|(flag, _)| flag)
    }
}

/// Runs the command.
pub fn run(args: &DistilArgs, rt: &Runtime, console: &Console) -> anyhow::Result<()> {
    if args.objective == ObjectiveChoice::Embedding {
        return super::distil_embedding::run(args, rt, console);
    }
    if args.student.is_some() {
        bail!("--student goes with --objective embedding, found --objective language");
    }
    let integer = |value: Option<u32>| value.map(|value| toml::Value::Integer(value.into()));
    let float = |value: Option<f64>| value.map(toml::Value::Float);
    let positions = args.kl_positions.map(|choice| match choice {
        PositionsChoice::All => toml::Value::from("all"),
        PositionsChoice::Masked => toml::Value::from("masked"),
    });
    let mut flags = args.run.flags("training");
    flags.extend([
        ("teacher".to_owned(), Some(toml::Value::from(args.teacher.as_str()))),
        ("teacher-precision".to_owned(), training::precision_value(args.teacher_precision)),
        ("student.layers".to_owned(), integer(args.layers)),
        ("student.from-layers".to_owned(), args.from_layers.clone().map(toml::Value::from)),
        ("student.random".to_owned(), args.random_init.then_some(toml::Value::Boolean(true))),
        ("training.kl-positions".to_owned(), positions),
        ("training.weights.temperature".to_owned(), float(args.temperature)),
        ("training.weights.kl".to_owned(), float(args.kl)),
        ("training.weights.mlm".to_owned(), float(args.mlm)),
        ("training.weights.cosine".to_owned(), float(args.cosine)),
        ("training.weights.mse".to_owned(), float(args.mse)),
        ("training.teacher-top-k".to_owned(), integer(args.teacher_top_k)),
        ("training.max-steps".to_owned(), integer(args.max_steps)),
        ("training.batching".to_owned(), args.batch_tokens.map(config::token_batches)),
        ("training.accumulation".to_owned(), integer(args.accumulation)),
    ]);
    let preset = match args.preset {
        Preset::Default => DistilConfig::new(),
        Preset::DistilbertPaper => DistilConfig::paper(),
    };
    let mut config = config::resolve(&preset, args.run.config.as_deref(), flags)?;
    if args.cache_teacher.is_some() && config.training.teacher_top_k == 0 {
        config.training.teacher_top_k = CACHED_LOGITS;
    }

    let mut teacher = training::load(&config.teacher, HeadChoice::AsSaved, console)?;
    if teacher.model.config.head != HeadKind::MaskedLm {
        bail!(
            "teacher {}: expected a masked-LM head, found {}; give it one with `distilbert pretrain --init {} --head-only`",
            config.teacher,
            teacher.model.config.head.class_suffix(),
            config.teacher
        );
    }
    let student = first_student(&config.student, config.training.seed, &teacher.model)?;
    if args.init_only {
        replace_folder(&args.run.output, |folder| {
            student.save(folder)?;
            save_tokenizer(&teacher.tokenizer, &student.config, folder)?;
            anyhow::Ok(())
        })?;
        println!("{}", args.run.output.display());
        return Ok(());
    }
    teacher.model.config.check_precision(rt, config.teacher_precision)?;
    // The student has its first weights; from here on the teacher is only run.
    teacher.model = teacher.model.for_inference(rt, config.teacher_precision);
    let corpus = training::open_corpus(args.corpus.as_deref().context("name a --corpus")?)?;
    let outcome = distil(&config, student, &teacher, &corpus, args, rt, console)?;
    args.run.report(&outcome, console);
    Ok(())
}

/// The student before its first step, with layers of the teacher, or with random weights drawn from the seed.
pub fn first_student(config: &StudentConfig, seed: u64, teacher: &Model) -> anyhow::Result<Model> {
    let StudentConfig { layers, from_layers, random, token_types, freeze_positions } = config;
    let teacher_layers = teacher.config.encoder.layers;
    if teacher.config.encoder.shares_layers() && !from_layers.is_empty() {
        bail!(
            "student layers: the {teacher_layers} layers of a teacher of family {} are the same weights, so there are none \
             to choose from; give the number of layers instead (--layers)",
            teacher.config.encoder.family
        );
    }
    let layers = match (*layers, from_layers.len()) {
        (0, 0) => teacher_layers.div_ceil(2),
        (0, count) => count,
        (layers, _) => layers,
    };
    let mut student = if *random {
        Model::random(student_config(&teacher.config, layers), seed)
    } else {
        let sources = match from_layers.is_empty() {
            true if layers > teacher_layers => {
                bail!("student layers: expected at most the teacher's {teacher_layers}, found {layers}")
            }
            true => uniform_with_ends(teacher_layers, layers),
            false if from_layers.len() != layers => {
                bail!("student layers: {layers} asked for, but {} listed to start from", from_layers.len())
            }
            false => from_layers.clone(),
        };
        from_teacher(teacher, &sources, *token_types)?
    };
    if *freeze_positions {
        student.freeze_positions();
    }
    Ok(student)
}

/// Opens the cache of the teacher's answers and says how large it can become.
fn use_cache(
    folder: &Path,
    workload: &mut LanguageTraining<'_>,
    teacher: &Path,
    rt: &Runtime,
    console: &Console,
) -> anyhow::Result<()> {
    let identity = workload.cache_identity(rt, model_hash(teacher)?);
    let identity = identity.context("a cache is for abridged answers: --teacher-top-k above 0")?;
    let cache = TeacherCache::open(folder, identity, console)?;
    let (micro_batches, bytes) = workload.cache_size();
    console.say(&format!(
        "{} of the teacher's answers to {micro_batches} micro-batches are in {}; all of them take at most {:.1} GB",
        cache.len(),
        folder.display(),
        bytes as f64 / 1e9
    ));
    workload.use_cache(cache);
    Ok(())
}

fn distil(
    config: &DistilConfig,
    student: Model,
    teacher: &training::Source,
    corpus: &distilbert::data::corpus::Corpus,
    args: &DistilArgs,
    rt: &Runtime,
    console: &Console,
) -> anyhow::Result<Outcome> {
    let training = config.training.clone();
    let mut workload = LanguageTraining::new(student, Some(&teacher.model), &teacher.tokenizer, corpus, training)?;
    let (steps, per_epoch) = (workload.total_steps(), workload.steps_per_epoch());
    console.say(&format!("{steps} steps, {per_epoch} to a pass over the corpus"));
    // Before there is a run: a value out of range leaves nothing behind.
    config.optimizer.validate()?;
    config.run_loop.validate(rt)?;
    let text = config::to_text(config)?;
    if let Some(folder) = &args.cache_teacher {
        use_cache(folder, &mut workload, &teacher.folder, rt, console)?;
    }
    let mut run = Run::open(&args.run.output, rt, text, corpus.content_hash(), args.run.resume())?;
    let outcome = train(rt, &mut workload, &config.optimizer, &config.run_loop, &mut run, console)?;
    let preset = args.preset.to_possible_value().map_or(String::new(), |value| value.get_name().to_owned());
    let recipe = format!("preset {preset}, {} of {steps} steps, seed {}", outcome.steps, config.training.seed);
    let lineage = Lineage {
        teacher: Some(config.teacher.clone()),
        corpus_sha256: Some(corpus.content_hash()),
        recipe: Some(recipe),
    };
    training::write_lineage(&args.run.output, &outcome.best, &lineage, None)?;
    Ok(outcome)
}
