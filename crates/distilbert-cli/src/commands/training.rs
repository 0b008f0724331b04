//! What the training commands share: flags, corpus and model loading, and the words at the end.

use crate::console::Console;
use crate::gather::{LINEAGE_FILE, lineage_of, machine};
use crate::measure::latency_ms;
use crate::model_source;
use crate::output;
use anyhow::Context;
use clap::Args;
use distilbert::checkpoint::model_folder::{HeadChoice, Loaded};
use distilbert::checkpoint::write_atomic;
use distilbert::data::corpus::Corpus;
use distilbert::evaluate::EvaluationResult;
use distilbert::model::{HeadKind, Model};
use distilbert::report::Lineage;
use distilbert::tokenizer::Tokenizer;
use distilbert::train::run::Resume;
use distilbert::train::{End, Outcome};
use distilbert_kernels::{Precision, Runtime};
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
    /// Names every random number of the run [default: 1; 56 of distilbert-paper]
    // No more than TOML has.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(..=i64::MAX as u64))]
    pub seed: Option<u64>,
    /// Passes over the training data.
    #[arg(long, value_name = "N")]
    pub epochs: Option<u32>,
    /// Peak of the learning rate.
    #[arg(long, value_name = "RATE")]
    pub learning_rate: Option<f64>,
    /// Steps between measurements on held-out data; 0 for none but at the end, of finetune for twice a pass, its default
    #[arg(long, value_name = "STEPS")]
    pub evaluate_every: Option<u32>,
    /// Steps between checkpoints; 0 for those of measurements and of the end alone
    #[arg(long, value_name = "STEPS")]
    pub checkpoint_every: Option<u32>,
    /// Of the matrix products: f32, or bf16 where the CPU has it; weights and sums are f32 in any case [default: f32]
    #[arg(long, value_name = "NAME")]
    pub precision: Option<Precision>,
    /// Keep only the input of each layer and compute the rest again in the backward pass: less memory, more time, the
    /// same numbers.
    #[arg(long)]
    pub recompute: bool,
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
            ("loop.precision".into(), precision_value(self.precision)),
            ("loop.recompute".into(), self.recompute.then_some(toml::Value::Boolean(true))),
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
    ///
    /// # Errors
    /// If standard output cannot be written.
    pub fn report(&self, outcome: &Outcome, console: &Console) -> anyhow::Result<()> {
        let end = match outcome.end {
            End::Finished => "finished",
            End::NoImprovement => "stopped early: the held-out score no longer improved",
            End::GivenUp => "given up: other trials were ahead",
            End::Stopped => "stopped as asked; continue with --resume",
        };
        console.say(&format!("{end} after {} steps", outcome.steps));
        if !self.json {
            return output::print(&format!("{}\n", outcome.best.display()));
        }
        output::print_json(&serde_json::json!({
            "end": match outcome.end {
                End::Finished => "finished",
                End::NoImprovement => "no_improvement",
                End::GivenUp => "given_up",
                End::Stopped => "stopped",
            },
            "steps": outcome.steps,
            "last": outcome.last,
            "best": outcome.best,
            "best_score": outcome.best_score,
        }))
    }
}

/// A precision as a configuration has it.
pub fn precision_value(precision: Option<Precision>) -> Option<toml::Value> {
    precision.map(|precision| toml::Value::from(precision.name()))
}

/// A model with its tokenizer.
pub struct Source {
    /// The model; packed only if it is for inference.
    pub model: Model,
    /// Its tokenizer.
    pub tokenizer: Tokenizer,
    /// Where it was found.
    pub folder: PathBuf,
}

/// Loads a model by name with its tokenizer; tensors that start fresh or are not used are named.
pub fn load(name: &str, head: HeadChoice, console: &Console) -> anyhow::Result<Source> {
    load_for(Resume::No, name, head, console)
}

/// As [`load`], for a run whose weights come from its last checkpoint if it is resumed: nothing is said of them then.
pub fn load_for(resume: Resume, name: &str, head: HeadChoice, console: &Console) -> anyhow::Result<Source> {
    let folder = model_source::resolve(name, console)?;
    let answers = matches!(&head, HeadChoice::Replace { head, .. } if !matches!(head,
        HeadKind::None | HeadKind::MaskedLm | HeadKind::Embedding(_)));
    let mut loaded = Model::load(&folder, head)?;
    if resume != Resume::No {
        loaded.fresh.clear();
    } else if answers && loaded.fresh.is_empty() {
        console.say(&format!("{name}: starts with the head that it has"));
    }
    source(name, folder, loaded, console)
}

/// As [`load`], for a model that is only run: packed in `precision`, which is that of the folder if it is below f32.
pub fn load_for_inference(name: &str, precision: Precision, rt: &Runtime, console: &Console) -> anyhow::Result<Source> {
    let folder = model_source::resolve(name, console)?;
    let loaded = Model::load_for_inference(&folder, rt, Some(precision))?;
    source(name, folder, loaded, console)
}

fn source(name: &str, folder: PathBuf, loaded: Loaded, console: &Console) -> anyhow::Result<Source> {
    let Loaded { model, fresh, unused } = loaded;
    if !fresh.is_empty() {
        console.say(&format!("{name}: new head, starting from random weights: {}", fresh.join(", ")));
    }
    if !unused.is_empty() {
        console.say(&format!("{name}: not used here: {}", unused.join(", ")));
    }
    let tokenizer = Tokenizer::from_folder(&folder).with_context(|| format!("tokenizer of {name}"))?;
    Ok(Source { model, tokenizer, folder })
}

/// What is recorded of the model that a training began with, as [`Lineage::before`] has it: of one in a folder, if its record
/// can be read. A training that is done does not fail for it.
pub fn before(name: &str) -> Option<Box<Lineage>> {
    lineage_of(Path::new(name)).ok().flatten().map(Box::new)
}

/// Writes what a run's model came from: `lineage.json` beside the run's own files, and a model card for people,
/// `README.md`, in the folder of the best checkpoint.
pub fn write_lineage(
    output: &Path,
    best: &Path,
    lineage: &Lineage,
    result: Option<&EvaluationResult>,
    rt: &Runtime,
) -> anyhow::Result<()> {
    write_atomic(&output.join(LINEAGE_FILE), serde_json::to_string_pretty(lineage)?.as_bytes())?;
    let weights = best.join("model.safetensors");
    let bytes = std::fs::metadata(&weights).with_context(|| format!("cannot read {}", weights.display()))?.len();
    let model = Model::load_for_inference(best, rt, None)?.model;
    let (tokens, milliseconds) = latency_ms(rt, &model)?;
    let latency = format!("{milliseconds:.2} ms for one text of {tokens} tokens ({})", machine(rt));
    Ok(write_atomic(&best.join("README.md"), model_card(lineage, bytes, &latency, result).as_bytes())?)
}

fn model_card(lineage: &Lineage, weights_bytes: u64, latency: &str, result: Option<&EvaluationResult>) -> String {
    let mut card = String::from("---\nlibrary_name: transformers\ntags:\n- distilbert\n---\n\n# Model card\n\n");
    let mut row = |name: &str, value: &str| card.push_str(&format!("- **{name}:** {value}\n"));
    row("Recipe", lineage.recipe.as_deref().unwrap_or("not recorded"));
    row("Teacher", lineage.teacher.as_deref().unwrap_or("none"));
    row(
        "SHA-256 of the training data as read (texts and labels, or sequences)",
        lineage.corpus_sha256.as_deref().unwrap_or("not recorded"),
    );
    lineage.history().iter().for_each(|line| row("Before that", line));
    row("Weights", &format!("{:.1} MB", weights_bytes as f64 / 1e6));
    row("Latency", latency);
    if let Some(result) = result {
        for (metric, value) in result.metrics.iter() {
            let interval = result.intervals.get(metric).map_or(String::new(), |interval| {
                format!(" (95 % interval {:.1} to {:.1})", 100.0 * interval.low, 100.0 * interval.high)
            });
            row(
                &format!("{} {}", result.task, metric),
                &format!("{:.1} on {} {} examples{interval}", 100.0 * value, result.n, result.split),
            );
        }
    }
    card.push_str("\n`distilbert report` measures latency and throughput with more care, and beside other models.\n");
    card
}

/// Opens a corpus and checks that it is whole.
pub fn open_corpus(path: &Path) -> anyhow::Result<Corpus> {
    let corpus = Corpus::open(path)?;
    corpus.verify()?;
    Ok(corpus)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_card_names_teacher_data_and_recipe() {
        let lineage = Lineage {
            teacher: Some("runs/teacher".into()),
            corpus_sha256: Some("00ff".into()),
            recipe: Some("preset default, 10 of 10 steps, seed 1".into()),
            before: Some(Box::new(Lineage { recipe: Some("masked-LM".into()), ..Lineage::default() })),
        };
        let card = model_card(&lineage, 2_490_000, "3.20 ms", None);
        for part in
            ["**Teacher:** runs/teacher", "00ff", "10 of 10 steps", "2.5 MB", "3.20 ms", "**Before that:** masked-LM"]
        {
            assert!(card.contains(part), "{card}");
        }
    }
}
