//! What the training commands share: flags, corpus and model loading, and the words at the end.

use crate::console::Console;
use crate::gather::LINEAGE_FILE;
use crate::model_source;
use anyhow::Context;
use clap::Args;
use distilbert::checkpoint::model_folder::{HeadChoice, Loaded};
use distilbert::checkpoint::write_atomic;
use distilbert::data::corpus::Corpus;
use distilbert::model::Model;
use distilbert::report::Lineage;
use distilbert::tokenizer::Tokenizer;
use distilbert::train::run::Resume;
use distilbert::train::{End, Outcome};
use std::path::{Path, PathBuf};

/// Flags of every training run.
#[derive(Debug, Args)]
pub struct RunArgs {
    /// The run's directory: configuration, metrics, checkpoints.
    #[arg(long, short, value_name = "DIR")]
    pub output: PathBuf,
    /// Configuration in TOML; flags override it.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Continue the run in DIR behind its last checkpoint.
    #[arg(long)]
    pub resume: bool,
    /// Continue although the configuration, the data or the instruction set has changed.
    #[arg(long, requires = "resume")]
    pub force: bool,
    /// Names every random number of the run.
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,
    /// Passes over the training data.
    #[arg(long, value_name = "N")]
    pub epochs: Option<u32>,
    /// Peak of the learning rate.
    #[arg(long, value_name = "RATE")]
    pub learning_rate: Option<f64>,
    /// Steps between measurements on held-out data.
    #[arg(long, value_name = "STEPS")]
    pub evaluate_every: Option<u32>,
    /// Steps between checkpoints.
    #[arg(long, value_name = "STEPS")]
    pub checkpoint_every: Option<u32>,
    /// Print the outcome as JSON.
    #[arg(long)]
    pub json: bool,
}

impl RunArgs {
    /// The flags as configuration keys; `section` holds seed and epochs.
    pub fn flags(&self, section: &'static str) -> Vec<(String, Option<toml::Value>)> {
        let integer = |value: Option<u64>| value.map(|value| toml::Value::Integer(value as i64));
        vec![
            (format!("{section}.seed"), integer(self.seed)),
            (format!("{section}.epochs"), integer(self.epochs.map(u64::from))),
            ("optimizer.learning-rate".into(), self.learning_rate.map(toml::Value::Float)),
            ("loop.evaluate-every".into(), integer(self.evaluate_every.map(u64::from))),
            ("loop.checkpoint-every".into(), integer(self.checkpoint_every.map(u64::from))),
        ]
    }

    /// What `--resume` and `--force` say together.
    pub fn resume(&self) -> Resume {
        match (self.resume, self.force) {
            (false, _) => Resume::No,
            (true, false) => Resume::Yes,
            (true, true) => Resume::Force,
        }
    }

    /// Tells how the run ended.
    pub fn report(&self, outcome: &Outcome, console: &Console) {
        let end = match outcome.end {
            End::Finished => "finished",
            End::NoImprovement => "stopped early: the held-out score no longer improved",
            End::Stopped => "stopped as asked; continue with --resume",
        };
        console.say(&format!("{end} after {} steps", outcome.steps));
        if self.json {
            let score = outcome.best_score;
            println!(
                "{}",
                serde_json::json!({
                    "end": match outcome.end {
                        End::Finished => "finished",
                        End::NoImprovement => "no_improvement",
                        End::Stopped => "stopped",
                    },
                    "steps": outcome.steps,
                    "last": outcome.last,
                    "best": outcome.best,
                    "best_score": score,
                })
            );
        } else {
            println!("{}", outcome.best.display());
        }
    }
}

/// A model with its tokenizer.
pub struct Source {
    /// The model; not packed.
    pub model: Model,
    /// Its tokenizer.
    pub tokenizer: Tokenizer,
}

/// Loads a model by name with its tokenizer; tensors that start fresh or are not used are named.
pub fn load(name: &str, head: HeadChoice, console: &Console) -> anyhow::Result<Source> {
    let folder = model_source::resolve(name, console)?;
    let Loaded { model, fresh, unused } = Model::load(&folder, head)?;
    if !fresh.is_empty() {
        console.say(&format!("{name}: new head, starting from random weights: {}", fresh.join(", ")));
    }
    if !unused.is_empty() {
        console.say(&format!("{name}: not used here: {}", unused.join(", ")));
    }
    let tokenizer = Tokenizer::from_folder(&folder).with_context(|| format!("tokenizer of {name}"))?;
    Ok(Source { model, tokenizer })
}

/// Writes `lineage.json` beside a run's own files: what it came from.
pub fn write_lineage(output: &Path, lineage: &Lineage) -> anyhow::Result<()> {
    Ok(write_atomic(&output.join(LINEAGE_FILE), serde_json::to_string_pretty(lineage)?.as_bytes())?)
}

/// Opens a corpus and checks that it is whole.
pub fn open_corpus(path: &Path) -> anyhow::Result<Corpus> {
    let corpus = Corpus::open(path)?;
    corpus.verify()?;
    Ok(corpus)
}
