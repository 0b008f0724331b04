//! `distilbert distil --objective embedding`: a sentence encoder into one with fewer layers, on a corpus.

use super::distil::{DistilArgs, StudentConfig, first_student};
use super::training;
use crate::config;
use crate::console::Console;
use crate::output;
use crate::sentence_encoder::{HeadFlags, embedding_head};
use anyhow::{Context, bail};
use distilbert::checkpoint::model_folder::{HeadChoice, read_config, save_tokenizer};
use distilbert::checkpoint::replace_folder;
use distilbert::checkpoint::sentence_folder::SentenceSettings;
use distilbert::loss::embedding::EmbeddingWeights;
use distilbert::model::config::{Dense, DenseActivation};
use distilbert::model::{EmbeddingHead, HeadKind, Model};
use distilbert::optim::{OptimizerConfig, Schedule};
use distilbert::report::Lineage;
use distilbert::train::order::Batching;
use distilbert::train::run::Run;
use distilbert::train::sentence::{SentenceDistilConfig, SentenceDistillation};
use distilbert::train::{LoopConfig, Workload, by_name, train};
use distilbert_kernels::{Precision, Runtime};
use serde::{Deserialize, Serialize};

/// Everything that decides a distillation of embeddings.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct EmbeddingDistilConfig {
    /// The teacher.
    teacher: String,
    /// Of the teacher's matrix products.
    #[serde(with = "by_name")]
    teacher_precision: Precision,
    /// Another model for the student to start from; the teacher's layers if empty.
    student_model: String,
    /// How the student begins.
    student: StudentConfig,
    /// Data and loss.
    training: SentenceDistilConfig,
    /// Updates.
    optimizer: OptimizerConfig,
    /// Measurements and checkpoints.
    #[serde(rename = "loop")]
    run_loop: LoopConfig,
}

impl EmbeddingDistilConfig {
    fn new() -> EmbeddingDistilConfig {
        EmbeddingDistilConfig {
            teacher: String::new(),
            teacher_precision: Precision::F32,
            student_model: String::new(),
            student: StudentConfig::default(),
            training: SentenceDistilConfig {
                seed: 1,
                epochs: 3,
                max_steps: None,
                batching: Batching::Tokens { tokens: 2048 },
                accumulation: 1,
                weights: EmbeddingWeights { cosine: 1.0, mse: 1.0 },
                dropout: false,
                held_out_sequences: 512,
            },
            optimizer: OptimizerConfig {
                learning_rate: 5e-4,
                beta2: 0.98,
                epsilon: 1e-6,
                weight_decay: 0.01,
                max_grad_norm: 1.0,
                schedule: Schedule::Linear { warmup_ratio: 0.05 },
                ..OptimizerConfig::default()
            },
            run_loop: LoopConfig::default(),
        }
    }
}

/// Runs the command.
pub fn run(args: &DistilArgs, rt: &Runtime, console: &Console) -> anyhow::Result<()> {
    if let Some(flag) = args.language_flag() {
        bail!("{flag} goes with --objective language, found --objective embedding");
    }
    if args.teacher.len() > 1 {
        bail!("--objective embedding: expected one --teacher, found {}", args.teacher.len());
    }
    let integer = |value: Option<u32>| value.map(|value| toml::Value::Integer(value.into()));
    let float = |value: Option<f64>| value.map(toml::Value::Float);
    let mut flags = args.run.flags("training");
    flags.extend([
        ("teacher".to_owned(), args.teacher.first().map(|name| toml::Value::from(name.as_str()))),
        ("teacher-precision".to_owned(), training::precision_value(args.teacher_precision)),
        ("student-model".to_owned(), args.student.as_deref().map(toml::Value::from)),
        ("student.layers".to_owned(), integer(args.layers)),
        ("student.from-layers".to_owned(), args.from_layers.clone().map(toml::Value::from)),
        ("student.token-types".to_owned(), args.token_types.map(|choice| choice.name().into())),
        ("student.random".to_owned(), args.random_init.then_some(toml::Value::Boolean(true))),
        ("training.weights.cosine".to_owned(), float(args.cosine)),
        ("training.weights.mse".to_owned(), float(args.mse)),
        ("training.max-steps".to_owned(), integer(args.max_steps)),
        ("training.batching".to_owned(), args.batch_tokens.map(config::token_batches)),
        ("training.accumulation".to_owned(), integer(args.accumulation)),
    ]);
    let config = config::resolve(&EmbeddingDistilConfig::new(), args.run.config.as_deref(), flags)?;

    let folder = crate::model_source::resolve(&config.teacher, console)?;
    let head = embedding_head(&read_config(&folder)?, HeadFlags::default(), &config.teacher, console);
    let choice = HeadChoice::Replace { head: HeadKind::Embedding(head), seed: config.training.seed };
    let teacher = training::load(&config.teacher, choice, console)?;
    let mut settings = SentenceSettings::read(&folder)?;
    let student = student(&config, &teacher.model, &teacher.tokenizer, console)?;
    if args.init_only {
        output::check_new_folder(&args.run.output, "", |_| false)?;
        replace_folder(&args.run.output, |folder| {
            student.save(folder)?;
            settings.write(folder)?;
            save_tokenizer(&teacher.tokenizer, &student.config, folder)?;
            anyhow::Ok(())
        })?;
        return output::print(&format!("{}\n", args.run.output.display()));
    }
    teacher.model.config.check_precision(rt, config.teacher_precision)?;
    let running = teacher.model.for_inference(rt, config.teacher_precision);
    let corpus = training::open_corpus(args.corpus.as_deref().context("name a --corpus")?)?;
    let positions = student.config.encoder.max_positions;
    settings.max_length = settings.max_length.map(|length| length.min(positions));
    let training = config.training.clone();
    let mut workload = SentenceDistillation::new(student, &running, &teacher.tokenizer, &settings, &corpus, training)?;
    let (steps, per_epoch) = (workload.total_steps(), workload.steps_per_epoch());
    console.say(&format!("{steps} steps, {per_epoch} to a pass over the corpus"));
    // Before there is a run: a value out of range leaves nothing behind.
    config.optimizer.validate()?;
    config.run_loop.validate(rt)?;
    let text = config::to_text(&config)?;
    let mut run = Run::open(&args.run.output, rt, text, corpus.content_hash(), args.run.resume())?;
    let outcome = train(rt, &mut workload, &config.optimizer, &config.run_loop, &mut run, console)?;
    let recipe =
        format!("embeddings of the teacher, {} of {steps} steps, seed {}", outcome.steps, config.training.seed);
    let lineage = Lineage {
        teacher: Some(config.teacher.clone()),
        corpus_sha256: Some(corpus.content_hash()),
        recipe: Some(recipe),
        before: training::before(if config.student_model.is_empty() { &config.teacher } else { &config.student_model }),
    };
    training::write_lineage(&args.run.output, &outcome.best, &lineage, None, rt)?;
    args.run.report(&outcome, console)?;
    Ok(())
}

/// The student before its first step: the teacher's layers, or another model under a linear to the teacher's width.
fn student(
    config: &EmbeddingDistilConfig,
    teacher: &Model,
    tokenizer: &distilbert::tokenizer::Tokenizer,
    console: &Console,
) -> anyhow::Result<Model> {
    if config.student_model.is_empty() {
        return first_student(&config.student, config.training.seed, teacher);
    }
    if config.student != EmbeddingDistilConfig::new().student {
        bail!("student: expected either a model to start from or layers of the teacher, found both");
    }
    let HeadKind::Embedding(of_teacher) = &teacher.config.head else {
        bail!("teacher {}: expected an embedding head", config.teacher);
    };
    let folder = crate::model_source::resolve(&config.student_model, console)?;
    let width = of_teacher.dense.last().map_or(teacher.config.encoder.hidden, |dense| dense.outputs);
    let hidden = read_config(&folder)?.encoder.hidden;
    // Pooled as the teacher, so that only the linear, if one is needed, starts from nothing.
    let dense = (hidden != width).then_some(Dense { outputs: width, activation: DenseActivation::Identity });
    let head = EmbeddingHead { dense: dense.into_iter().collect(), ..of_teacher.clone() };
    let choice = HeadChoice::Replace { head: HeadKind::Embedding(head), seed: config.training.seed };
    let source = training::load(&config.student_model, choice, console)?;
    source.tokenizer.check_same_vocabulary(tokenizer).context("teacher and student")?;
    Ok(source.model)
}
