//! `distilbert finetune`: labelled examples, with or without a teacher.

mod few_shot; // from a few examples, by pairs
mod intents; // intents and slots
mod labelled; // texts and words with labels
mod questions; // question answering
mod search; // which settings are best
mod teachers; // what teachers say of the training examples

use super::evaluate::answers::SQUAD;
use super::evaluate::intents::INTENTS;
use super::finetune_embedding::ObjectiveChoice;
use super::training::{self, RunArgs, Source};
use crate::classifier::problem_name;
use crate::config;
use crate::console::Console;
use crate::model_source;
use crate::output;
use crate::sentence_encoder::PoolingChoice;
use anyhow::{Context, bail, ensure};
use clap::{Args, ValueEnum};
use distilbert::checkpoint::model_folder::read_config;
use distilbert::checkpoint::write_atomic;
use distilbert::data::examples::{Columns, DataError, Defaults, Problem, Skipped, Split, Task};
use distilbert::data::tagging::WordColumns;
use distilbert::evaluate::EvaluationResult;
use distilbert::loss::labelled::SoftLabels;
use distilbert::model::Parameter;
use distilbert::optim::{OptimizerConfig, Schedule};
use distilbert::report::Lineage;
use distilbert::train::by_name;
use distilbert::train::finetune::{FinetuneConfig, Finetuning, FrozenLayers, TaskData, Taught};
use distilbert::train::run::{Resume, Run};
use distilbert::train::search::Rivals;
use distilbert::train::{End, LoopConfig, Outcome, Workload, train};
use distilbert_kernels::{Precision, Runtime};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

pub use labelled::LabelledJob;
use questions::QuestionJob;
use teachers::ask_teachers;

/// Fine-tune a model on labelled examples, with or without a teacher.
///
/// With `--objective` a sentence encoder is trained instead, on pairs or triples of texts.
///
/// The best checkpoint is chosen on a slice of the training examples; the dev file is scored once, at the end. With
/// several seeds each has its run in OUTPUT/seed-N.
#[derive(Debug, Args)]
pub struct FinetuneArgs {
    /// The model to fine-tune.
    #[arg(long, value_name = "MODEL")]
    pub model: String,
    /// A fine-tuned teacher whose answers the model learns too; of several, each named like this, the mean.
    #[arg(long, value_name = "MODEL")]
    pub teacher: Vec<String>,
    /// A GLUE task: cola, sst2, mrpc, qqp, stsb, mnli, qnli, rte, wnli; ner or pos for words with tags (CoNLL files,
    /// CoNLL-U, JSONL); squad for question answering on SQuAD and files like it; intents for intents and slots (folders of
    /// seq.in, seq.out and label); or a name for your own data.
    #[arg(long, value_name = "NAME", required_unless_present = "objective")]
    pub task: Option<String>,
    /// Train a sentence encoder: what the pairs or triples are to teach.
    #[arg(long, value_enum, conflicts_with_all = ["teacher_precision", "temperature", "soft_share", "freeze_layers", "lora",
        "search", "few_shot", "seeds", "problem", "doc_stride"])]
    pub objective: Option<ObjectiveChoice>,
    /// The folder with the task's files, or the training file.
    #[arg(long, value_name = "PATH")]
    pub data: PathBuf,
    /// The file to score at the end [default: the dev file of the folder --data, if there is one].
    #[arg(long, value_name = "FILE")]
    pub dev: Option<PathBuf>,
    /// Texts without labels, which the teacher labels: a file as the task's test split, or with the columns of your own
    /// data, of which that of the label may be missing and is passed over. Each pass goes over them too.
    #[arg(long, value_name = "FILE", requires = "teacher", conflicts_with_all = ["objective", "few_shot"])]
    unlabelled: Option<PathBuf>,
    /// Column of the text, for your own data: its name, or its number from 1 with --no-header. For words with tags the
    /// column of the words [default: the first; form in CoNLL-U; tokens in JSONL].
    #[arg(long, value_name = "COLUMN")]
    pub text_column: Option<String>,
    /// Column of the second text of a pair.
    #[arg(long, value_name = "COLUMN", requires = "text_column")]
    pub pair_column: Option<String>,
    /// Column of the label. For words with tags: a number, or upos, xpos, pos, chunk, ner [default: the last, for pos the
    /// second; upos in CoNLL-U; tags in JSONL].
    #[arg(long, value_name = "COLUMN")]
    pub label_column: Option<String>,
    /// With --objective: column of a text that is no partner of the first, for triples.
    #[arg(long, value_name = "COLUMN", requires = "objective")]
    pub negative_column: Option<String>,
    /// With --objective: similarities are multiplied by this, the inverse of a temperature [default: 20 for contrastive,
    /// 1 for margin]
    #[arg(long, value_name = "X", requires = "objective")]
    pub scale: Option<f64>,
    /// With --objective or --few-shot: how states become one vector [default: as the model's folder says, or the mean]
    #[arg(long, value_enum)]
    pub pooling: Option<PoolingChoice>,
    /// The CSV or TSV files have no header line; columns are named by their numbers.
    #[arg(long, requires = "text_column")]
    pub no_header: bool,
    /// What the label column of your own data holds [default: entities for ner, tags for pos, else classification].
    #[arg(long, value_enum)]
    problem: Option<ProblemChoice>,
    /// Learns from N examples of each class, drawn by the seed, or from all there are: a sentence encoder is trained on pairs
    /// of them, and a logistic regression on its embeddings is the head.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(2..),
        conflicts_with_all = ["teacher", "pair_column", "freeze_layers", "lora", "search", "patience", "doc_stride"])]
    pub few_shot: Option<u32>,
    /// Trains with this many seeds, from --seed on.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    pub seeds: u32,
    /// Tries N settings of learning rate, passes, batch and, with a teacher, --soft-share around those that are given, and
    /// keeps the best on the slice of the training examples that chooses checkpoints.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000), conflicts_with = "seeds")]
    pub search: Option<u32>,
    /// Examples a step [default: 32; 16 of squad and, in pairs, of --few-shot; 64 of contrastive]
    #[arg(long, value_name = "N")]
    pub batch_size: Option<u32>,
    /// Longest input in tokens; longer texts are cut and counted, longer sentences of words read in windows [default: 128;
    /// 384 of squad, 64 of intents]
    #[arg(long, value_name = "TOKENS")]
    pub max_length: Option<u32>,
    /// Tokens of a long context that neighbouring windows share, for question answering [default: 128, or half of a shorter
    /// input]
    #[arg(long, value_name = "TOKENS")]
    pub doc_stride: Option<u32>,
    /// Keeps the embeddings and the lowest N layers as they are, or with `all` the whole encoder, so that the head alone
    /// is trained: less time and memory.
    #[arg(long, value_name = "N|all")]
    pub freeze_layers: Option<FrozenLayers>,
    /// Keeps the encoder and trains low-rank adapters of its matrices, of this rank; they are merged into what is saved.
    #[arg(long, value_name = "RANK")]
    pub lora: Option<u32>,
    /// Adapters count ALPHA / RANK times [default: twice the rank]
    #[arg(long, value_name = "ALPHA", requires = "lora")]
    pub lora_alpha: Option<f64>,
    /// The matrices that are adapted: query, key, value, attention-output, lin1, lin2 [default: query,value]
    #[arg(long, value_name = "NAMES", requires = "lora", value_delimiter = ',')]
    pub lora_targets: Vec<String>,
    /// Stops after this many measurements in a row without a better one; 0 never does [default: 0]
    #[arg(long, value_name = "N")]
    pub patience: Option<u32>,
    /// Precision of the teacher's matrix products: f32, bf16 or int8 [default: f32].
    #[arg(long, value_name = "NAME", requires = "teacher")]
    teacher_precision: Option<Precision>,
    /// Softmax temperature of teacher and student, above 0 [default: 2]
    #[arg(long, value_name = "T", requires = "teacher")]
    pub temperature: Option<f64>,
    /// Share of the teacher's answers in the loss, 0 to 1; the labels have the rest [default: 0.5]
    #[arg(long, value_name = "SHARE", requires = "teacher")]
    pub soft_share: Option<f64>,
    #[command(flatten)]
    pub run: RunArgs,
}

#[derive(Clone, Copy, Debug, Default, ValueEnum)]
pub enum ProblemChoice {
    /// One of several classes.
    #[default]
    Classification,
    /// Any of several.
    MultiLabel,
    /// A number.
    Regression,
    /// Named spans of words, in any scheme of B-, I-, E-, S- and O.
    Entities,
    /// A tag for each word.
    Tags,
}

impl From<ProblemChoice> for Problem {
    fn from(choice: ProblemChoice) -> Problem {
        match choice {
            ProblemChoice::Classification => Problem::Classification,
            ProblemChoice::MultiLabel => Problem::MultiLabel,
            ProblemChoice::Regression => Problem::Regression,
            ProblemChoice::Entities => Problem::Entities,
            ProblemChoice::Tags => Problem::Tags,
        }
    }
}

/// Everything that decides a fine-tuning run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct FinetuneRunConfig {
    /// The model.
    pub model: String,
    /// The teacher; none if empty.
    pub teacher: String,
    /// Further teachers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub other_teachers: Vec<String>,
    /// Of the teacher's matrix products.
    #[serde(with = "by_name")]
    pub teacher_precision: Precision,
    /// The task.
    pub task: String,
    /// Tokens that neighbouring windows of a long context share; for question answering alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub doc_stride: Option<usize>,
    /// Data and loss.
    pub training: FinetuneConfig,
    /// Updates.
    pub optimizer: OptimizerConfig,
    /// Measurements and checkpoints; `evaluate-every` 0 means twice a pass.
    #[serde(rename = "loop")]
    pub run_loop: LoopConfig,
}

impl FinetuneRunConfig {
    /// The defaults for a task.
    pub fn for_task(task: &Task) -> FinetuneRunConfig {
        FinetuneRunConfig::with_defaults(&task.name, task.defaults)
    }

    /// Where the run's model comes from; of several `trials` its settings were the best.
    fn lineage(&self, data_hash: &str, trials: usize, outcome: &Outcome) -> Lineage {
        let teacher = (!self.teacher.is_empty()).then(|| self.teachers().collect::<Vec<_>>().join(", "));
        let mut recipe = format!(
            "{} fine-tuned on {} for {} epochs, learning rate {}, batch {}, seed {}",
            self.model,
            self.task,
            self.training.epochs,
            self.optimizer.learning_rate,
            self.training.batch_size,
            self.training.seed
        );
        match self.training.freeze_layers {
            Some(FrozenLayers::Lowest(0)) => recipe += ", embeddings frozen",
            Some(FrozenLayers::Lowest(layers)) => recipe += &format!(", embeddings and {layers} layers frozen"),
            Some(FrozenLayers::All(_)) => recipe += ", encoder frozen",
            None => {}
        }
        if let Some(lora) = &self.training.lora {
            recipe += &format!(", by adapters of rank {}", lora.rank);
        }
        if trials > 1 {
            recipe += &format!(", the best of {trials} trials");
        }
        if outcome.steps < outcome.total_steps {
            recipe += &format!(", ended after {} of {} steps", outcome.steps, outcome.total_steps);
        }
        let before = training::before(&self.model);
        Lineage { teacher, corpus_sha256: Some(data_hash.to_owned()), recipe: Some(recipe), before }
    }

    fn teachers(&self) -> impl Iterator<Item = &str> {
        let first = (!self.teacher.is_empty()).then_some(self.teacher.as_str());
        first.into_iter().chain(self.other_teachers.iter().map(String::as_str))
    }

    fn with_defaults(task: &str, defaults: Defaults) -> FinetuneRunConfig {
        FinetuneRunConfig {
            model: String::new(),
            teacher: String::new(),
            other_teachers: Vec::new(),
            teacher_precision: Precision::F32,
            task: task.to_owned(),
            doc_stride: None,
            training: FinetuneConfig {
                seed: 1,
                epochs: defaults.epochs,
                batch_size: defaults.batch,
                max_length: defaults.max_len,
                validation_share: 0.05,
                soft_labels: SoftLabels::default(),
                layer_terms: Vec::new(),
                freeze_layers: None,
                lora: None,
            },
            optimizer: OptimizerConfig {
                learning_rate: defaults.learning_rate,
                schedule: Schedule::Linear { warmup_ratio: 0.06 },
                ..OptimizerConfig::default()
            },
            run_loop: LoopConfig { evaluate_every: 0, checkpoint_every: 0, ..LoopConfig::default() },
        }
    }
}

/// Runs the command.
pub fn run(args: &FinetuneArgs, rt: &Runtime, console: &Console) -> anyhow::Result<()> {
    if args.max_length.is_some() {
        let encoder = read_config(&model_source::resolve(&args.model, console)?)?.encoder;
        check_max_length(args, encoder.max_positions)?;
    }
    if let Some(objective) = args.objective {
        return super::finetune_embedding::run(args, objective, rt, console);
    }
    let integer = |value: Option<u32>| value.map(|value| toml::Value::Integer(value.into()));
    let mut flags = args.run.flags("training");
    flags.extend([
        ("model".to_owned(), Some(toml::Value::from(args.model.as_str()))),
        ("teacher".to_owned(), args.teacher.first().map(|name| toml::Value::from(name.as_str()))),
        ("other-teachers".to_owned(), (args.teacher.len() > 1).then(|| toml::Value::from(args.teacher[1..].to_vec()))),
        ("teacher-precision".to_owned(), training::precision_value(args.teacher_precision)),
        ("training.batch-size".to_owned(), integer(args.batch_size)),
        ("training.max-length".to_owned(), integer(args.max_length)),
        ("doc-stride".to_owned(), integer(args.doc_stride)),
        ("training.freeze-layers".to_owned(), args.freeze_layers.map(toml::Value::try_from).transpose()?),
        ("training.lora.rank".to_owned(), integer(args.lora)),
        ("training.lora.alpha".to_owned(), args.lora_alpha.map(toml::Value::Float)),
        ("training.lora.targets".to_owned(), lora_targets(&args.lora_targets)),
        ("training.soft-labels.temperature".to_owned(), args.temperature.map(toml::Value::Float)),
        ("training.soft-labels.soft".to_owned(), args.soft_share.map(toml::Value::Float)),
        ("training.soft-labels.hard".to_owned(), args.soft_share.map(|share| toml::Value::Float(1.0 - share))),
        ("loop.patience".to_owned(), integer(args.patience)),
    ]);
    if let Some(share) = args.soft_share.filter(|share| !(0.0..=1.0).contains(share)) {
        bail!("soft-share: expected 0 to 1, found {share}");
    }
    let config_file = args.run.config.as_deref();
    // Over a configuration's, which may be another run's.
    let mut name = |task: &str| flags.push(("task".to_owned(), Some(toml::Value::from(task))));
    let (data, dev) = (args.data.as_path(), args.dev.as_deref());
    ensure!(args.pooling.is_none() || args.few_shot.is_some(), "--pooling goes with --objective or --few-shot");
    let results = if args.task.as_deref() == Some(SQUAD) {
        refuse_columns(args)?;
        refuse_unlabelled(args)?;
        ensure!(args.few_shot.is_none(), "--few-shot does not go with --task {SQUAD}");
        name(SQUAD);
        let config = config::resolve(&FinetuneRunConfig::for_questions(), config_file, flags)?;
        run_seeds(args, &QuestionJob { config, data, dev }, rt, console)?
    } else if args.task.as_deref() == Some(INTENTS) {
        refuse_columns(args)?;
        refuse_unlabelled(args)?;
        ensure!(args.few_shot.is_none(), "--few-shot does not go with --task {INTENTS}");
        name(INTENTS);
        let config = config::resolve(&FinetuneRunConfig::for_intents(), config_file, flags)?;
        ensure!(config.doc_stride.is_none(), "--doc-stride goes with --task {SQUAD}");
        run_seeds(args, &intents::IntentJob { config, data, dev }, rt, console)?
    } else if let Some(examples) = args.few_shot {
        let few_shot = few_shot::FewShot::new(args, examples as usize)?;
        let run = |seed, output: &Path| few_shot.run(seed, output, rt, console);
        run_each(args, few_shot.seed(), console, run)?
    } else {
        let task = task(args)?;
        name(&task.name);
        let config = config::resolve(&FinetuneRunConfig::for_task(&task), config_file, flags)?;
        ensure!(config.doc_stride.is_none(), "--doc-stride goes with --task {SQUAD}");
        run_seeds(args, &LabelledJob { config, task, data, unlabelled: args.unlabelled.as_deref(), dev }, rt, console)?
    };
    let Some(results) = results else { return Ok(()) };
    if args.seeds > 1 {
        write_summary(&args.run.output, &results)?;
    }
    for (seed, outcome, result) in &results {
        match result {
            Some(result) if args.run.json => output::print_json(result)?,
            Some(result) => {
                let scores: Vec<String> =
                    result.metrics.iter().map(|(name, value)| format!("{name} {:.2}", 100.0 * value)).collect();
                output::print(&format!(
                    "seed {seed}: {} on {} ({} examples); best checkpoint {}\n",
                    scores.join(", "),
                    result.split,
                    result.n,
                    outcome.best.display()
                ))?;
            }
            None => args.run.report(outcome, console)?,
        }
    }
    Ok(())
}

/// Refuses an input that is asked for and longer than the model takes; a default is cut to it.
pub fn check_max_length(args: &FinetuneArgs, longest: usize) -> anyhow::Result<()> {
    match args.max_length {
        Some(asked) if asked as usize > longest => {
            bail!("--max-length: expected at most the model's {longest} tokens, found {asked}")
        }
        _ => Ok(()),
    }
}

fn lora_targets(names: &[String]) -> Option<toml::Value> {
    let names: Vec<_> = names.iter().map(|name| toml::Value::from(name.as_str())).collect();
    (!names.is_empty()).then(|| toml::Value::from(names))
}

/// Runs a job with every seed, or searches with one; `None` if the user stopped.
fn run_seeds(
    args: &FinetuneArgs,
    job: &dyn Job,
    rt: &Runtime,
    console: &Console,
) -> anyhow::Result<Option<Vec<SeedResult>>> {
    job.check_dev()?;
    let first = job.config().training.seed;
    if let Some(trials) = args.search {
        let found = search::run(job, trials as usize, &args.run, rt, console)?;
        return Ok(found.map(|Finetuned { outcome, result }| vec![(first, outcome, result)]));
    }
    let resume = args.run.resume();
    run_each(args, first, console, |seed, output| train_and_score(job, seed, output, resume, rt, console))
}

/// Runs every seed in its directory; `None` if the user stopped one.
fn run_each(
    args: &FinetuneArgs,
    first: u64,
    console: &Console,
    run: impl Fn(u64, &Path) -> anyhow::Result<Finetuned>,
) -> anyhow::Result<Option<Vec<SeedResult>>> {
    let output = &args.run.output;
    if args.seeds > 1 && output.join("config.toml").exists() {
        bail!("{}: holds a run; choose another directory for several seeds", output.display());
    }
    let last = first.saturating_add(u64::from(args.seeds) - 1);
    ensure!(i64::try_from(last).is_ok(), "--seeds: expected seeds up to {}, found {last}", i64::MAX);
    let mut results = Vec::new();
    for seed in first..=last {
        let output = match args.seeds {
            1 => output.clone(),
            _ => output.join(format!("seed-{seed}")),
        };
        let Finetuned { outcome, result } = run(seed, &output)?;
        if outcome.end == End::Stopped {
            args.run.report(&outcome, console)?;
            return Ok(None);
        }
        results.push((seed, outcome, result));
    }
    Ok(Some(results))
}

/// A seed, its run's end, and its score.
pub type SeedResult = (u64, Outcome, Option<EvaluationResult>);

/// Questions, contexts and answers have their places in the file, as words, slots and intents have.
fn refuse_columns(args: &FinetuneArgs) -> anyhow::Result<()> {
    let given = [
        ("--text-column", args.text_column.is_some()),
        ("--pair-column", args.pair_column.is_some()),
        ("--label-column", args.label_column.is_some()),
        ("--problem", args.problem.is_some()),
    ];
    match given.into_iter().find(|(_, given)| *given) {
        Some((flag, _)) => bail!("{flag} does not go with --task {}", args.task.as_deref().unwrap_or_default()),
        None => Ok(()),
    }
}

/// A teacher can only label whole texts here.
fn refuse_unlabelled(args: &FinetuneArgs) -> anyhow::Result<()> {
    let task = args.task.as_deref().unwrap_or_default();
    ensure!(args.unlabelled.is_none(), "--unlabelled: expected a task of whole texts, found {task}");
    Ok(())
}

/// GLUE's diagnostic set, which is predicted and not trained on.
const DIAGNOSTIC: &str = "ax";

fn task(args: &FinetuneArgs) -> anyhow::Result<Task> {
    let name = args.task.as_deref().context("expected --task")?;
    let problem = match (args.problem, name) {
        (Some(choice), _) => choice.into(),
        (None, "ner") => Problem::Entities,
        (None, "pos") => Problem::Tags,
        (None, _) => Problem::Classification,
    };
    ensure!(
        problem.is_of_words() || !matches!(name, "ner" | "pos"),
        "--problem: expected entities or tags with --task {name}, found {}",
        problem_name(problem)
    );
    if problem.is_of_words() {
        refuse_unlabelled(args)?;
        ensure!(args.pair_column.is_none(), "--pair-column: words with tags have no pairs");
        let columns = WordColumns { words: args.text_column.clone(), tags: args.label_column.clone() };
        return Ok(Task::from_words(name, &args.data, &columns, problem)?);
    }
    let (Some(text), Some(label)) = (&args.text_column, &args.label_column) else {
        ensure!(
            args.text_column.is_none() && args.label_column.is_none(),
            "expected both --text-column and --label-column"
        );
        let task = Task::glue(name).ok().filter(|task| task.name != DIAGNOSTIC).with_context(|| {
            let glue: Vec<&str> = Task::glue_names().into_iter().filter(|&name| name != DIAGNOSTIC).collect();
            format!(
                "--task: expected one of {}, ner, pos, {SQUAD}, {INTENTS}, or the columns of your own data (--text-column \
                 and --label-column), found `{name}`",
                glue.join(", ")
            )
        })?;
        ensure!(args.problem.is_none(), "--problem goes with your own data and its columns, found --task {name}");
        return Ok(task);
    };
    let columns = Columns { pair: args.pair_column.clone(), header: !args.no_header, ..Columns::new(text, label) };
    Ok(Task::from_columns(name, &args.data, &columns, problem)?)
}

/// A task with its data, on which one model is trained with any settings.
pub trait Job {
    /// All settings.
    fn config(&self) -> &FinetuneRunConfig;

    /// Reads the dev split, if there is one, so that what is wrong with it is told before hours of training.
    fn check_dev(&self) -> anyhow::Result<()>;

    /// The hash of the training data.
    fn data_hash(&self) -> anyhow::Result<String>;

    /// Trains in the run's directory; what `config` leaves open is resolved.
    fn fit(
        &self,
        config: &mut FinetuneRunConfig,
        place: Place<'_>,
        rt: &Runtime,
        console: &Console,
    ) -> anyhow::Result<Outcome>;

    /// Scores the best checkpoint on the dev file, if there is one, and writes `evaluation.json` and `predictions.jsonl`
    /// beside the run's own files.
    fn score(
        &self,
        config: &FinetuneRunConfig,
        best: &Path,
        output: &Path,
        rt: &Runtime,
        console: &Console,
    ) -> anyhow::Result<Option<EvaluationResult>>;
}

/// Trains with one seed and scores the best checkpoint; writes `lineage.json` too.
pub fn train_and_score(
    job: &dyn Job,
    seed: u64,
    output: &Path,
    resume: Resume,
    rt: &Runtime,
    console: &Console,
) -> anyhow::Result<Finetuned> {
    let mut config = job.config().clone();
    config.training.seed = seed;
    let place = Place { output, resume, rivals: Rivals::default() };
    let outcome = job.fit(&mut config, place, rt, console)?;
    finish(job, &config, 1, outcome, output, rt, console)
}

/// Scores what the best of `trials` came to.
fn finish(
    job: &dyn Job,
    config: &FinetuneRunConfig,
    trials: usize,
    outcome: Outcome,
    output: &Path,
    rt: &Runtime,
    console: &Console,
) -> anyhow::Result<Finetuned> {
    if outcome.end == End::Stopped {
        return Ok(Finetuned { outcome, result: None });
    }
    if !config.training.soft_labels.teach_answers() {
        console
            .warn("layers alone were learnt, so the head answers as it did before; the next step is a run from `best`");
    }
    let result = job.score(config, &outcome.best, output, rt, console)?;
    let lineage = config.lineage(&job.data_hash()?, trials, &outcome);
    training::write_lineage(output, &outcome.best, &lineage, result.as_ref(), rt)?;
    Ok(Finetuned { outcome, result })
}

/// A run's end, and its score on the dev file if there is one.
pub struct Finetuned {
    /// How training ended.
    pub outcome: Outcome,
    /// The best checkpoint's score.
    pub result: Option<EvaluationResult>,
}

/// What `summary.json` calls scores on the slice that chooses checkpoints, where there is no dev file.
const VALIDATION: &str = "validation";

/// Said where a folder has nothing to score on.
pub const NO_DEV_SPLIT: &str = "no dev split to score; name one with --dev";

/// The split to score: the one named by `--dev`, or else the one beside the training data, if there can be one.
fn dev_split<T>(
    dev: Option<&Path>,
    data: &Path,
    beside: bool,
    console: &Console,
    load: impl Fn(&Path) -> Result<T, DataError>,
) -> anyhow::Result<Option<T>> {
    let found = find_dev_split(dev, data, beside, load)?;
    if found.is_none() && beside {
        console.warn(NO_DEV_SPLIT);
    }
    Ok(found)
}

/// As [`dev_split`], without a word if there is none: before a run, so that a broken file costs no training.
pub fn find_dev_split<T>(
    dev: Option<&Path>,
    data: &Path,
    beside: bool,
    load: impl Fn(&Path) -> Result<T, DataError>,
) -> Result<Option<T>, DataError> {
    if dev.is_none() && !beside {
        return Ok(None);
    }
    match load(dev.unwrap_or(data)) {
        Err(DataError::MissingFile { .. }) if dev.is_none() => Ok(None),
        loaded => loaded.map(Some),
    }
}

/// Where a run is written, and what it stands against.
pub struct Place<'a> {
    /// The run's directory.
    pub output: &'a Path,
    /// What a run that is there already means.
    pub resume: Resume,
    /// Earlier trials, if it is one of a search.
    pub rivals: Rivals,
}

/// Trains a model on a task of any kind, with the teacher that the configuration names.
fn fit(
    source: Source,
    data: &dyn TaskData,
    config: &mut FinetuneRunConfig,
    place: Place<'_>,
    data_hash: String,
    rt: &Runtime,
    console: &Console,
) -> anyhow::Result<Outcome> {
    let teacher = ask_teachers(config, &source.tokenizer, data, rt, console)?;
    let taught = teacher.as_ref().map(|(logits, models)| Taught { logits, models });
    let training = config.training.clone();
    let mut workload = Finetuning::new(source.model, data, &source.tokenizer, taught, training)?.against(place.rivals);
    if config.training.freeze_layers.is_some() || config.training.lora.is_some() {
        let parameters = &workload.model().parameters;
        let trained: usize = parameters.trainable_ranges().iter().map(|(range, _)| range.len()).sum();
        let all: usize = parameters.of_model().iter().map(Parameter::count).sum();
        console.say(&format!("training {trained} parameters beside the model's {all}"));
    }
    if config.run_loop.evaluate_every == 0 {
        config.run_loop.evaluate_every = workload.steps_per_epoch().div_ceil(2);
    }
    // Before there is a run: a value out of range leaves nothing behind.
    config.optimizer.validate()?;
    config.run_loop.validate(rt)?;
    let text = config::to_text(config)?;
    let mut run = Run::open(place.output, rt, text, data_hash, place.resume)?;
    Ok(train(rt, &mut workload, &config.optimizer, &config.run_loop, &mut run, console)?)
}

fn warn_skipped(skipped: &[Skipped], split: Split, console: &Console) {
    if let Some(first) = skipped.first() {
        let count = skipped.len();
        console
            .warn(&format!("{count} rows of {split} were left out; the first, line {}: {}", first.line, first.reason));
    }
}

/// `summary.json` of several seeds: the main metric of each on the dev file, or else the score of its best checkpoint on
/// the slice of the training examples that chose it, if anything was measured.
///
/// # Errors
/// If it cannot be written.
pub fn write_summary(output: &Path, results: &[SeedResult]) -> anyhow::Result<()> {
    let scored: Vec<(&str, f64)> = results.iter().filter_map(|(_, _, result)| result.as_ref()?.main_metric()).collect();
    let seeds: Vec<u64> = results.iter().map(|(seed, ..)| *seed).collect();
    let (metric, scores): (_, Vec<f64>) = match scored.first() {
        Some((metric, _)) => (*metric, scored.iter().map(|(_, score)| *score).collect()),
        None => (VALIDATION, results.iter().filter_map(|(_, outcome, _)| outcome.best_score).collect()),
    };
    let summary = serde_json::json!({ "metric": metric, "seeds": seeds, "scores": scores });
    Ok(write_atomic(&output.join("summary.json"), serde_json::to_string_pretty(&summary)?.as_bytes())?)
}
