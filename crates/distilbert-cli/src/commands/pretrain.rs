//! `distilbert pretrain`: masked-LM training on a corpus.

use super::training::{self, RunArgs};
use crate::config;
use crate::console::Console;
use crate::model_source;
use clap::{ArgGroup, Args};
use distilbert::checkpoint::model_folder::HeadChoice;
use distilbert::data::masking::MaskingConfig;
use distilbert::loss::vocabulary::{DistilWeights, KlPositions};
use distilbert::model::{EncoderConfig, Family, HeadKind, Model, ModelConfig};
use distilbert::optim::{OptimizerConfig, Schedule};
use distilbert::report::Lineage;
use distilbert::tokenizer::Tokenizer;
use distilbert::train::by_name;
use distilbert::train::language::{LanguageConfig, LanguageTraining, Normalise};
use distilbert::train::order::Batching;
use distilbert::train::run::Run;
use distilbert::train::{LoopConfig, Outcome, Workload, train};
use distilbert_kernels::{Precision, Runtime};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// Train a masked language model on a corpus.
///
/// From scratch with `--tokenizer` and a shape, or from `--init MODEL`; an encoder without a masked-LM head gets one.
/// Targets are drawn anew every time a batch is used (80 % masked, 10 % kept, 10 % random).
#[derive(Debug, Args)]
#[command(group(ArgGroup::new("start").required(true)))]
pub struct PretrainArgs {
    /// Token file made by `distilbert corpus build`.
    #[arg(long, value_name = "FILE")]
    corpus: PathBuf,
    /// Model to start from.
    #[arg(long, value_name = "MODEL", group = "start")]
    init: Option<String>,
    /// Tokenizer of a model from scratch: its folder, or a model that has it.
    #[arg(long, value_name = "MODEL", group = "start")]
    tokenizer: Option<String>,
    /// Train the head only, and leave the encoder as it is.
    #[arg(long, requires = "init")]
    head_only: bool,
    /// Family of a model from scratch: bert, distilbert, roberta, xlm-roberta, electra or albert [default: bert].
    #[arg(long, value_name = "NAME", conflicts_with = "init")]
    family: Option<Family>,
    /// Layers of a model from scratch [default: 4].
    #[arg(long, value_name = "N", conflicts_with = "init")]
    layers: Option<u32>,
    /// Width of a model from scratch; its feed-forward is four times as wide [default: 256].
    #[arg(long, value_name = "N", conflicts_with = "init")]
    hidden: Option<u32>,
    /// Attention heads of a model from scratch [default: 4].
    #[arg(long, value_name = "N", conflicts_with = "init")]
    heads: Option<u32>,
    /// Ends the run after so many steps [default: after the passes over the corpus]
    #[arg(long, value_name = "STEPS")]
    max_steps: Option<u32>,
    /// Most tokens of a step
    #[arg(long, value_name = "TOKENS")]
    batch_tokens: Option<u32>,
    #[command(flatten)]
    run: RunArgs,
}

/// Everything that decides a pre-training run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct PretrainConfig {
    /// Model to start from; from scratch if empty.
    pub init: String,
    /// Whether the encoder stays as it is.
    pub head_only: bool,
    /// Shape of a model from scratch.
    pub model: Shape,
    /// Data and loss.
    pub training: LanguageConfig,
    /// Updates.
    pub optimizer: OptimizerConfig,
    /// Measurements and checkpoints.
    #[serde(rename = "loop")]
    pub run_loop: LoopConfig,
}

/// Shape of a model from scratch, with a masked-LM head.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Shape {
    /// Family.
    #[serde(with = "by_name", default = "bert")]
    pub family: Family,
    /// Layers; ALBERT's are one set of weights, used as often.
    pub layers: usize,
    /// Width of the states.
    pub hidden: usize,
    /// Width of the embedding tables of ELECTRA and ALBERT; 0 for 128 or `hidden`, whichever is less.
    #[serde(default)]
    pub embedding: usize,
    /// Attention heads.
    pub heads: usize,
    /// Width inside the feed-forward block.
    pub ffn: usize,
    /// Longest sequence in tokens.
    pub max_positions: usize,
    /// Dropout probability everywhere.
    pub dropout: f32,
    /// Standard deviation of the first weights.
    pub initializer_range: f32,
}

impl Default for PretrainConfig {
    fn default() -> Self {
        PretrainConfig {
            init: String::new(),
            head_only: false,
            model: Shape {
                family: Family::Bert,
                layers: 4,
                hidden: 256,
                embedding: 0,
                heads: 4,
                ffn: 1024,
                max_positions: 512,
                dropout: 0.1,
                initializer_range: 0.02,
            },
            training: LanguageConfig {
                seed: 1,
                epochs: 3,
                max_steps: None,
                batching: Batching::Tokens { tokens: 4096 },
                accumulation: 1,
                normalise: Normalise::Step,
                kl_positions: KlPositions::Masked,
                weights: DistilWeights { kl: 0.0, mlm: 1.0, cosine: 0.0, mse: 0.0, ..DistilWeights::default() },
                layer_terms: Vec::new(),
                masking: MaskingConfig { smoothing: 0.0, ..MaskingConfig::default() },
                held_out_sequences: 512,
                teacher_top_k: 0,
            },
            optimizer: OptimizerConfig {
                learning_rate: 5e-4,
                beta2: 0.98,
                epsilon: 1e-6,
                schedule: Schedule::Linear { warmup_ratio: 0.06 },
                ..OptimizerConfig::default()
            },
            run_loop: LoopConfig::default(),
        }
    }
}

impl Shape {
    /// A model of this shape for this vocabulary.
    pub fn config(&self, tokenizer: &Tokenizer) -> ModelConfig {
        let published = EncoderConfig::published(self.family);
        let pad = tokenizer.special().pad;
        let embedding_size = match (self.family.has_embedding_size(), self.embedding) {
            (true, 0) => published.embedding_size.min(self.hidden),
            (true, width) => width,
            (false, _) => self.hidden,
        };
        let shares_layers = published.shares_layers();
        ModelConfig {
            encoder: EncoderConfig {
                vocab_size: tokenizer.vocab_size(),
                hidden: self.hidden,
                embedding_size,
                projects_embeddings: published.projects_embeddings || embedding_size != self.hidden,
                layers: self.layers,
                layer_groups: if shares_layers { published.layer_groups } else { self.layers },
                heads: self.heads,
                ffn: self.ffn,
                max_positions: self.max_positions,
                position_offset: if self.family.positions_follow_padding() { pad as usize + 1 } else { 0 },
                dropout: self.dropout,
                attention_dropout: self.dropout,
                initializer_range: self.initializer_range,
                pad_token_id: Some(pad),
                ..published
            },
            head: HeadKind::MaskedLm,
            pooler: false,
            classifier_dropout: self.dropout,
            answering_dropout: self.dropout,
            weights: Precision::F32,
            other: Default::default(),
        }
    }
}

fn bert() -> Family {
    Family::Bert
}

/// Runs the command.
pub fn run(args: &PretrainArgs, rt: &Runtime, console: &Console) -> anyhow::Result<()> {
    let integer = |value: Option<u32>| value.map(|value| toml::Value::Integer(value.into()));
    let mut flags = args.run.flags("training");
    flags.extend([
        ("init".to_owned(), config::flag(&args.init)),
        ("head-only".to_owned(), args.head_only.then_some(toml::Value::Boolean(true))),
        ("model.family".to_owned(), args.family.map(|family| toml::Value::from(family.model_type()))),
        ("model.layers".to_owned(), integer(args.layers)),
        ("model.hidden".to_owned(), integer(args.hidden)),
        ("model.ffn".to_owned(), integer(args.hidden.map(|hidden| hidden.saturating_mul(4)))),
        ("model.heads".to_owned(), integer(args.heads)),
        ("training.max-steps".to_owned(), integer(args.max_steps)),
        ("training.batching".to_owned(), args.batch_tokens.map(config::token_batches)),
    ]);
    let config = config::resolve(&PretrainConfig::default(), args.run.config.as_deref(), flags)?;
    let outcome = pretrain(&config, args, rt, console)?;
    args.run.report(&outcome, console)?;
    Ok(())
}

fn pretrain(config: &PretrainConfig, args: &PretrainArgs, rt: &Runtime, console: &Console) -> anyhow::Result<Outcome> {
    let seed = config.training.seed;
    let (mut model, tokenizer) = match (&args.tokenizer, config.init.as_str()) {
        (Some(name), _) => {
            let tokenizer = Tokenizer::from_folder(&model_source::resolve(name, console)?)?;
            let shape = config.model.config(&tokenizer);
            // Through its own text, so that a bad shape is refused as a bad file would be.
            let checked = ModelConfig::from_json(&shape.to_json())?;
            (Model::random(checked, seed), tokenizer)
        }
        (None, "") => anyhow::bail!("pretrain: name a model with --init, or a --tokenizer to start from scratch"),
        (None, init) => {
            let head = HeadChoice::Replace { head: HeadKind::MaskedLm, seed };
            let source = training::load_for(args.run.resume(), init, head, console)?;
            (source.model, source.tokenizer)
        }
    };
    if config.head_only {
        model.freeze_encoder();
    }
    let corpus = training::open_corpus(&args.corpus)?;
    let mut workload = LanguageTraining::new(model, &[], &tokenizer, &corpus, config.training.clone())?;
    let (steps, per_epoch) = (workload.total_steps(), workload.steps_per_epoch());
    console.say(&format!("{steps} steps, {per_epoch} to a pass over the corpus"));
    // Before there is a run: a value out of range leaves nothing behind.
    config.optimizer.validate()?;
    config.run_loop.validate(rt)?;
    let text = config::to_text(config)?;
    let mut run = Run::open(&args.run.output, rt, text, corpus.content_hash(), args.run.resume())?;
    let outcome = train(rt, &mut workload, &config.optimizer, &config.run_loop, &mut run, console)?;
    let start = if config.init.is_empty() { "random weights" } else { &config.init };
    let recipe = format!("masked-LM from {start}, {} of {steps} steps, seed {seed}", outcome.steps);
    let before = training::before(&config.init);
    let lineage = Lineage { teacher: None, corpus_sha256: Some(corpus.content_hash()), recipe: Some(recipe), before };
    training::write_lineage(&args.run.output, &outcome.best, &lineage, None, rt)?;
    Ok(outcome)
}
