//! `distilbert distil`: a teacher into a student with fewer layers.

use super::training::{self, RunArgs};
use crate::config;
use crate::console::Console;
use crate::model_source;
use crate::output;
use anyhow::{Context, bail};
use clap::{Args, ValueEnum};
use distilbert::checkpoint::model_folder::{HeadChoice, read_config, save_tokenizer};
use distilbert::checkpoint::{model_hash, replace_folder};
use distilbert::data::masking::MaskingConfig;
use distilbert::loss::layers::{Compare, LayerMap, LayerTerm, NamedLayers, PatientTokens};
use distilbert::loss::vocabulary::{DistilWeights, KlPositions};
use distilbert::model::student::{TokenTypes, from_teacher, student_config, uniform_with_ends};
use distilbert::model::{HeadKind, Model, ModelConfig};
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

/// Distil a teacher into a smaller student, on a corpus.
///
/// A BERT or DistilBERT becomes a DistilBERT, any other teacher, or a BERT with `--token-types keep`, a smaller one of its
/// own family. ALBERT's layers share their weights, so that its student has as many parameters and runs them less often.
///
/// The student starts from layers of the teacher (evenly spread, both ends kept: 12 to 6 takes 0, 2, 4, 7, 9, 11) and
/// learns its distributions over the vocabulary, its hidden states and the masked words themselves. For words the teacher
/// needs a masked-LM head (`distilbert pretrain --init TEACHER --head-only` gives it one).
///
/// Other objectives look at the layers in between (`--objective layers`, `tinybert`, `minilm`, `minilm-v2`, and `pkd`, which
/// needs the head too), and the student may have another width. An objective is a set of terms and weights: flags change
/// the weights, `--config` the terms.
///
/// With `--objective embedding` a sentence encoder is distilled: the student learns the vectors that the teacher gives to
/// whole texts.
#[derive(Debug, Args)]
pub struct DistilArgs {
    /// What the student learns.
    #[arg(long, value_enum, default_value_t)]
    objective: ObjectiveChoice,
    /// The teacher; of several, each named like this, the student learns the mean, and starts from the first.
    #[arg(long, value_name = "MODEL", required = true)]
    pub teacher: Vec<String>,
    /// A model for the student to start from instead of the teacher's layers, of any width.
    #[arg(long, value_name = "MODEL", conflicts_with_all = ["layers", "from_layers", "random_init", "hidden", "heads", "token_types"])]
    pub student: Option<String>,
    /// Token file made by `distilbert corpus build`; its held-out part is measured on.
    #[arg(long, value_name = "FILE", required_unless_present = "init_only")]
    pub corpus: Option<PathBuf>,
    /// All settings at once: `default`, or `distilbert-paper`, the published script's settings.
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
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub layers: Option<u32>,
    /// The teacher's layers to start from, such as 0,2,4 [default: evenly spread, both ends kept].
    #[arg(long, value_name = "LIST", value_delimiter = ',', conflicts_with = "layers")]
    pub from_layers: Option<Vec<u32>>,
    /// Start the student from random weights instead.
    #[arg(long, conflicts_with = "from_layers")]
    pub random_init: bool,
    /// With --random-init: width of the student's states; its feed-forward is four times as wide [default: the teacher's].
    #[arg(long, value_name = "WIDTH", requires = "random_init")]
    hidden: Option<u32>,
    /// With --random-init: attention heads of the student [default: the teacher's].
    #[arg(long, value_name = "N", requires = "random_init")]
    heads: Option<u32>,
    /// What becomes of BERT's segment embedding, which tells the texts of a pair apart and which DistilBERT does not have
    /// [default: fold]
    #[arg(long, value_enum)]
    pub token_types: Option<TokenTypesChoice>,
    /// Write the student's first weights to the output folder and stop: the control that was never distilled.
    #[arg(long, conflicts_with_all = TRAINING_FLAGS)]
    pub init_only: bool,
    /// Which positions the soft targets look at [default: all]
    #[arg(long, value_enum)]
    kl_positions: Option<PositionsChoice>,
    /// Softmax temperature of both models, above 0 [default: 2]
    #[arg(long, value_name = "T")]
    temperature: Option<f64>,
    /// Weight of the soft targets' divergence [default: as --objective has it; 5 of language]
    #[arg(long, value_name = "WEIGHT")]
    kl: Option<f64>,
    /// Weight of the masked words' cross-entropy [default: as --objective has it; 2 of language]
    #[arg(long, value_name = "WEIGHT")]
    mlm: Option<f64>,
    /// Weight of the hidden states' cosine distance [default: as --objective has it; 1 of language and of embedding]
    #[arg(long, value_name = "WEIGHT")]
    pub cosine: Option<f64>,
    /// Weight of the squared error of logits, or of embeddings [default: 0; 1 of embedding]
    #[arg(long, value_name = "WEIGHT")]
    pub mse: Option<f64>,
    /// Ends the run after so many steps [default: after the passes over the corpus]
    #[arg(long, value_name = "STEPS")]
    pub max_steps: Option<u32>,
    /// Most tokens of a micro-batch
    #[arg(long, value_name = "TOKENS")]
    pub batch_tokens: Option<u32>,
    /// Micro-batches of a step [default: 1]
    #[arg(long, value_name = "N")]
    pub accumulation: Option<u32>,
    #[command(flatten)]
    pub run: RunArgs,
}

/// Of no meaning where nothing is trained.
const TRAINING_FLAGS: [&str; 20] = [
    "corpus",
    "teacher_precision",
    "cache_teacher",
    "teacher_top_k",
    "kl_positions",
    "temperature",
    "kl",
    "mlm",
    "cosine",
    "mse",
    "max_steps",
    "batch_tokens",
    "accumulation",
    "resume",
    "epochs",
    "learning_rate",
    "evaluate_every",
    "checkpoint_every",
    "precision",
    "recompute",
];

/// Logits of a position that a cache keeps: with their classes an eighth of the hidden states beside them.
const CACHED_LOGITS: usize = 32;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum ObjectiveChoice {
    /// DistilBERT's: the teacher's distributions over the vocabulary, its last states, and the masked words.
    #[default]
    #[value(alias = "distilbert")]
    Language,
    /// What every layer says: states of the embeddings and of every layer, through a linear where widths differ, and the
    /// probabilities of attention; as many attention heads. The student starts from the layers whose outputs it learns.
    Layers,
    /// TinyBERT's general distillation: states of the embeddings and of every layer, through a linear where widths differ,
    /// and scores of attention; needs as many attention heads as the teacher's.
    Tinybert,
    /// MiniLM's: the last layer's attention, and the relations between its values, over any width; as many heads.
    Minilm,
    /// MiniLMv2's: relations between the last layer's queries, keys and values, over any width and heads.
    MinilmV2,
    /// Patient distillation: distributions, masked words, and the direction of the states of all layers but the last.
    Pkd,
    /// The teacher's vectors for whole texts.
    Embedding,
}

impl ObjectiveChoice {
    /// Sets the terms of the loss.
    fn set(self, training: &mut LanguageConfig) {
        let term = |compare, layers| LayerTerm { layers: Some(LayerMap::Named(layers)), ..LayerTerm::new(compare) };
        let none = DistilWeights { kl: 0.0, mlm: 0.0, cosine: 0.0, mse: 0.0, ..training.weights };
        (training.weights, training.layer_terms) = match self {
            ObjectiveChoice::Language | ObjectiveChoice::Embedding => return,
            ObjectiveChoice::Layers => (
                none,
                vec![
                    term(Compare::Hidden, NamedLayers::Embeddings),
                    LayerTerm::new(Compare::Hidden),
                    term(Compare::Attention, NamedLayers::Even),
                ],
            ),
            ObjectiveChoice::Tinybert => (
                none,
                vec![
                    term(Compare::Hidden, NamedLayers::Embeddings),
                    LayerTerm::new(Compare::Hidden),
                    LayerTerm::new(Compare::AttentionScores),
                ],
            ),
            ObjectiveChoice::Minilm => {
                let values = LayerTerm { heads: Some(0), ..LayerTerm::new(Compare::Values) };
                (none, vec![LayerTerm::new(Compare::Attention), values])
            }
            ObjectiveChoice::MinilmV2 => {
                (none, [Compare::Queries, Compare::Keys, Compare::Values].map(LayerTerm::new).into())
            }
            // A first token says nothing in particular before it is fine-tuned, so every token counts.
            ObjectiveChoice::Pkd => (
                DistilWeights { cosine: 0.0, ..training.weights },
                vec![LayerTerm { tokens: Some(PatientTokens::All), ..LayerTerm::new(Compare::Patient) }],
            ),
        };
    }
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

#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum TokenTypesChoice {
    /// The first text's is added to the positions: a DistilBERT that starts where the teacher does.
    Fold,
    /// It is left out, as in the published recipe.
    Drop,
    /// It is kept: the student is a BERT as the teacher.
    Keep,
}

impl TokenTypesChoice {
    /// As the configuration says it.
    pub fn name(self) -> &'static str {
        match self {
            TokenTypesChoice::Fold => "fold",
            TokenTypesChoice::Drop => "drop",
            TokenTypesChoice::Keep => "keep",
        }
    }
}

/// Everything that decides a distillation run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct DistilConfig {
    /// The teacher.
    pub teacher: String,
    /// Others, from which the student learns as much.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub other_teachers: Vec<String>,
    /// A model for the student to start from; empty if it starts as [`StudentConfig`] says.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub student_model: String,
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
    /// Of random weights: the width of its states; the teacher's if 0.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub hidden: usize,
    /// Of random weights: the width inside its feed-forward block; the teacher's, or four times `hidden`, if 0.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub ffn: usize,
    /// Of random weights: its attention heads; the teacher's if 0.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub heads: usize,
    /// What becomes of the segment embedding.
    pub token_types: TokenTypes,
    /// Whether the position embeddings stay as they are.
    pub freeze_positions: bool,
}

impl StudentConfig {
    /// Layers of the student: half of the teacher's unless said otherwise.
    fn depth(&self, teacher_layers: usize) -> usize {
        match (self.layers, self.from_layers.len()) {
            (0, 0) => teacher_layers.div_ceil(2),
            (0, count) => count,
            (layers, _) => layers,
        }
    }

    /// Unless said otherwise, layers of the teacher whose outputs the student's layers are compared with.
    fn start_where_it_learns(&mut self, teacher_layers: usize) {
        let layers = self.depth(teacher_layers);
        if !self.random && self.from_layers.is_empty() && layers <= teacher_layers {
            let pairs = LayerMap::Named(NamedLayers::Even).pairs(layers, teacher_layers);
            self.from_layers = pairs.into_iter().map(|[_, of_teacher]| of_teacher - 1).collect();
        }
    }
}

fn is_zero(count: &usize) -> bool {
    *count == 0
}

/// Half the teacher's layers, evenly spread.
impl Default for StudentConfig {
    fn default() -> Self {
        StudentConfig {
            layers: 0,
            from_layers: Vec::new(),
            random: false,
            hidden: 0,
            ffn: 0,
            heads: 0,
            token_types: TokenTypes::Fold,
            freeze_positions: false,
        }
    }
}

impl DistilConfig {
    /// The default: the published terms and weights, without the script's quirks.
    pub fn new() -> DistilConfig {
        DistilConfig {
            teacher: String::new(),
            other_teachers: Vec::new(),
            student_model: String::new(),
            teacher_precision: Precision::F32,
            student: StudentConfig::default(),
            training: LanguageConfig {
                seed: 1,
                epochs: 3,
                max_steps: None,
                batching: Batching::Tokens { tokens: 2048 },
                accumulation: 1,
                normalise: Normalise::Step,
                kl_positions: KlPositions::All,
                weights: DistilWeights::default(),
                layer_terms: Vec::new(),
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
            ("--cache-teacher", self.cache_teacher.is_some()),
            ("--teacher-top-k", self.teacher_top_k.is_some()),
            ("--kl-positions", self.kl_positions.is_some()),
            ("--temperature", self.temperature.is_some()),
            ("--kl", self.kl.is_some()),
            ("--mlm", self.mlm.is_some()),
            ("--hidden", self.hidden.is_some()),
            ("--heads", self.heads.is_some()),
        ];
        given.into_iter().find(|(_, given)| *given).map(|(flag, _)| flag)
    }
}

/// Runs the command.
pub fn run(args: &DistilArgs, rt: &Runtime, console: &Console) -> anyhow::Result<()> {
    if args.objective == ObjectiveChoice::Embedding {
        return super::distil_embedding::run(args, rt, console);
    }
    let integer = |value: Option<u32>| value.map(|value| toml::Value::Integer(value.into()));
    let float = |value: Option<f64>| value.map(toml::Value::Float);
    let positions = args.kl_positions.map(|choice| match choice {
        PositionsChoice::All => toml::Value::from("all"),
        PositionsChoice::Masked => toml::Value::from("masked"),
    });
    let mut flags = args.run.flags("training");
    flags.extend([
        ("teacher".to_owned(), args.teacher.first().map(|name| toml::Value::from(name.as_str()))),
        ("other-teachers".to_owned(), (args.teacher.len() > 1).then(|| toml::Value::from(args.teacher[1..].to_vec()))),
        ("teacher-precision".to_owned(), training::precision_value(args.teacher_precision)),
        ("student.layers".to_owned(), integer(args.layers)),
        ("student.from-layers".to_owned(), args.from_layers.clone().map(toml::Value::from)),
        ("student-model".to_owned(), config::flag(&args.student)),
        ("student.token-types".to_owned(), args.token_types.map(|choice| choice.name().into())),
        ("student.random".to_owned(), args.random_init.then_some(toml::Value::Boolean(true))),
        ("student.hidden".to_owned(), integer(args.hidden)),
        ("student.heads".to_owned(), integer(args.heads)),
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
    let mut preset = match args.preset {
        Preset::Default => DistilConfig::new(),
        Preset::DistilbertPaper => DistilConfig::paper(),
    };
    args.objective.set(&mut preset.training);
    let mut config = config::resolve(&preset, args.run.config.as_deref(), flags)?;
    if args.cache_teacher.is_some() && config.training.teacher_top_k == 0 {
        config.training.teacher_top_k = CACHED_LOGITS;
    }

    refuse_soft_flags(args, &config.training.weights)?;
    let wants_head = config.training.weights.look_at_logits() && !args.init_only;
    let mut teacher = load_teacher(&config.teacher, wants_head, console)?;
    let of_teacher = &teacher.model.config.encoder;
    if args.objective == ObjectiveChoice::Layers && config.student_model.is_empty() && !of_teacher.shares_layers() {
        config.student.start_where_it_learns(of_teacher.layers);
    }
    let student = match config.student_model.as_str() {
        "" => first_student(&config.student, config.training.seed, &teacher.model)?,
        name => own_student(name, &config, &teacher, console)?,
    };
    if args.init_only {
        output::check_new_folder(&args.run.output, "", |_| false)?;
        replace_folder(&args.run.output, |folder| {
            student.save(folder)?;
            save_tokenizer(&teacher.tokenizer, &student.config, folder)?;
            anyhow::Ok(())
        })?;
        return output::print(&format!("{}\n", args.run.output.display()));
    }
    teacher.model.config.check_precision(rt, config.teacher_precision)?;
    // The student has its first weights; from here on the teacher is only run.
    teacher.model = teacher.model.for_inference(rt, config.teacher_precision);
    let mut teachers = vec![teacher];
    for name in &config.other_teachers {
        let mut other = load_teacher(name, wants_head, console)?;
        other.tokenizer.check_same_vocabulary(&teachers[0].tokenizer).context(format!("teacher {name}"))?;
        other.model.config.check_precision(rt, config.teacher_precision)?;
        other.model = other.model.for_inference(rt, config.teacher_precision);
        teachers.push(other);
    }
    let corpus = training::open_corpus(args.corpus.as_deref().context("name a --corpus")?)?;
    let outcome = distil(&config, student, &teachers, &corpus, args, rt, console)?;
    args.run.report(&outcome, console)?;
    Ok(())
}

/// Flags of soft targets, where the loss has none.
fn refuse_soft_flags(args: &DistilArgs, weights: &DistilWeights) -> anyhow::Result<()> {
    let unused = [
        ("--temperature", args.temperature.is_some() && weights.kl == 0.0, "a weight of --kl above 0"),
        (
            "--kl-positions",
            args.kl_positions.is_some() && weights.kl == 0.0 && weights.mse == 0.0,
            "a weight of --kl or --mse above 0",
        ),
    ];
    match unused.into_iter().find(|(_, unused, _)| *unused) {
        Some((flag, _, expected)) => bail!("{flag}: expected {expected} in the loss, found none"),
        None => Ok(()),
    }
}

/// A teacher with its masked-LM head. Where none is wanted one without it will do, of which the layers count: a sentence
/// encoder, or a model fine-tuned for a task.
fn load_teacher(name: &str, wants_head: bool, console: &Console) -> anyhow::Result<training::Source> {
    let head = read_config(&model_source::resolve(name, console)?)?.head;
    let choice = match head {
        HeadKind::MaskedLm => HeadChoice::AsSaved,
        _ if !wants_head => HeadChoice::Replace { head: HeadKind::None, seed: 0 },
        other => bail!(
            "teacher {name}: expected a masked-LM head, found {}; give it one with `distilbert pretrain --init {name} --head-only`",
            other.class_suffix(),
        ),
    };
    training::load(name, choice, console)
}

/// The student before its first step, with layers of the teacher, or with random weights drawn from the seed.
pub fn first_student(config: &StudentConfig, seed: u64, teacher: &Model) -> anyhow::Result<Model> {
    let StudentConfig { from_layers, random, token_types, freeze_positions, .. } = config;
    let teacher_layers = teacher.config.encoder.layers;
    if teacher.config.encoder.shares_layers() && !from_layers.is_empty() {
        bail!(
            "student layers: the {teacher_layers} layers of a teacher of family {} are the same weights, so there are none \
             to choose from; give the number of layers instead (--layers)",
            teacher.config.encoder.family
        );
    }
    let layers = config.depth(teacher_layers);
    let has_shape = config.hidden > 0 || config.ffn > 0 || config.heads > 0;
    let mut student = if *random {
        Model::random(random_config(config, &teacher.config, layers)?, seed)
    } else if has_shape {
        bail!(
            "student: expected `random = true` for a width or heads of its own: layers of the teacher have the teacher's"
        )
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

/// The shape of a student of random weights: the teacher's where nothing else is asked for.
fn random_config(config: &StudentConfig, teacher: &ModelConfig, layers: usize) -> anyhow::Result<ModelConfig> {
    let mut shape = student_config(teacher, layers, config.token_types);
    let or = |asked: usize, otherwise: usize| if asked > 0 { asked } else { otherwise };
    let encoder = &mut shape.encoder;
    if config.hidden > 0 {
        encoder.ffn = config.hidden.saturating_mul(4);
        if encoder.embedding_size == encoder.hidden {
            encoder.embedding_size = config.hidden;
        }
        encoder.hidden = config.hidden;
    }
    encoder.ffn = or(config.ffn, encoder.ffn);
    encoder.heads = or(config.heads, encoder.heads);
    // Through its own text, so that a bad shape is refused as a bad file would be.
    ModelConfig::from_json(&shape.to_json()).context("student")
}

/// A student that starts from a model of its own.
fn own_student(
    name: &str,
    config: &DistilConfig,
    teacher: &training::Source,
    console: &Console,
) -> anyhow::Result<Model> {
    if config.student != StudentConfig::default() {
        bail!("student: expected either a model to start from or layers of the teacher, found both");
    }
    let head = HeadChoice::Replace { head: teacher.model.config.head.clone(), seed: config.training.seed };
    let source = training::load(name, head, console)?;
    source.tokenizer.check_same_vocabulary(&teacher.tokenizer).context("teacher and student")?;
    Ok(source.model)
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
    teachers: &[training::Source],
    corpus: &distilbert::data::corpus::Corpus,
    args: &DistilArgs,
    rt: &Runtime,
    console: &Console,
) -> anyhow::Result<Outcome> {
    let training = config.training.clone();
    let (models, tokenizer): (Vec<_>, _) =
        (teachers.iter().map(|teacher| &teacher.model).collect(), &teachers[0].tokenizer);
    let mut workload = LanguageTraining::new(student, &models, tokenizer, corpus, training)?;
    let (steps, per_epoch) = (workload.total_steps(), workload.steps_per_epoch());
    console.say(&format!("{steps} steps, {per_epoch} to a pass over the corpus"));
    // Before there is a run: a value out of range leaves nothing behind.
    config.optimizer.validate()?;
    config.run_loop.validate(rt)?;
    let text = config::to_text(config)?;
    if let Some(folder) = &args.cache_teacher {
        use_cache(folder, &mut workload, &teachers[0].folder, rt, console)?;
    }
    let mut run = Run::open(&args.run.output, rt, text, corpus.content_hash(), args.run.resume())?;
    let outcome = train(rt, &mut workload, &config.optimizer, &config.run_loop, &mut run, console)?;
    // A configuration may be a preset's too, so that nothing is said of the default one.
    let preset = match args.preset {
        Preset::Default => "",
        Preset::DistilbertPaper => "preset distilbert-paper, ",
    };
    let objective = args.objective.to_possible_value().map_or(String::new(), |value| value.get_name().to_owned());
    let seed = config.training.seed;
    let recipe = format!("{preset}objective {objective}, {} of {steps} steps, seed {seed}", outcome.steps);
    let lineage = Lineage {
        teacher: Some([std::slice::from_ref(&config.teacher), &config.other_teachers].concat().join(", ")),
        corpus_sha256: Some(corpus.content_hash()),
        recipe: Some(recipe),
        before: match config.student_model.as_str() {
            "" if config.student.random => None,
            "" => training::before(&config.teacher),
            name => training::before(name),
        },
    };
    training::write_lineage(&args.run.output, &outcome.best, &lineage, None, rt)?;
    Ok(outcome)
}
