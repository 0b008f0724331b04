//! `distilbert compress`: a finished model made smaller.

use crate::console::Console;
use crate::gather::{LINEAGE_FILE, lineage_of, size_bytes};
use crate::model_source;
use crate::output;
use anyhow::Context;
use clap::{Args, Subcommand, ValueEnum};
use distilbert::checkpoint::model_folder::{HeadChoice, read_config};
use distilbert::checkpoint::{Checkpoint, replace_folder, write_atomic};
use distilbert::compress::{Difference, probe};
use distilbert::data::examples::TASK_FILE;
use distilbert::model::Model;
use distilbert::report::Lineage;
use distilbert::tokenizer::Tokenizer;
use distilbert_kernels::{Precision, Runtime};
use serde::Serialize;
use std::fs;
use std::path::PathBuf;

/// Files beside the weights that a smaller model keeps as they are.
const KEPT_FILES: [&str; 10] = [
    "added_tokens.json",
    "merges.txt",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.json",
    "vocab.txt",
    TASK_FILE,
    "sentence_bert_config.json",
    "config_sentence_transformers.json",
];

/// Names the random tokens on which the difference is measured.
const PROBE_SEED: u64 = 1;

/// Make a finished model smaller.
#[derive(Debug, Args)]
pub struct CompressArgs {
    #[command(subcommand)]
    command: CompressCommand,
}

#[derive(Debug, Subcommand)]
enum CompressCommand {
    /// Save a model's matrices in bf16 or int8, and say how much that changes its outputs.
    Quantize(QuantizeArgs),
}

#[derive(Debug, Args)]
struct QuantizeArgs {
    /// The f32 model.
    #[arg(long, value_name = "MODEL")]
    model: String,
    /// What to save it in.
    #[arg(long, value_enum, value_name = "NAME")]
    precision: SavedPrecision,
    /// Folder for the smaller model; an older one of this kind is replaced.
    #[arg(long, short, value_name = "DIR")]
    output: PathBuf,
    /// Print one line of JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum SavedPrecision {
    /// Half the size.
    Bf16,
    /// A quarter of the size.
    Int8,
}

/// What was made.
#[derive(Serialize)]
struct Quantized {
    model: String,
    output: PathBuf,
    precision: &'static str,
    /// Of the weights.
    size_bytes: u64,
    /// Of the f32 model's weights.
    source_size_bytes: u64,
    /// Which output the differences are of.
    compared: &'static str,
    /// The largest |difference| to the f32 model on the probe.
    largest_difference: f32,
    /// The largest |output| of the f32 model on the probe.
    largest_output: f32,
    /// One by the other.
    relative_difference: f32,
}

/// Runs the command.
///
/// # Errors
/// If there is no such f32 model, the CPU lacks the precision, or the folder cannot be written.
pub fn run(args: &CompressArgs, rt: &Runtime, console: &Console) -> anyhow::Result<()> {
    match &args.command {
        CompressCommand::Quantize(args) => quantize(args, rt, console),
    }
}

fn quantize(args: &QuantizeArgs, rt: &Runtime, console: &Console) -> anyhow::Result<()> {
    let precision = match args.precision {
        SavedPrecision::Bf16 => Precision::Bf16,
        SavedPrecision::Int8 => Precision::Int8,
    };
    output::check_new_folder(&args.output, ", or one of a bf16 or int8 model to replace", |folder| {
        read_config(folder).is_ok_and(|config| config.weights != Precision::F32)
    })?;
    let source = model_source::resolve(&args.model, console)?;
    let model = Model::load(&source, HeadChoice::AsSaved)?.model;
    // The difference can only be measured where the precision can be run.
    model.config.check_precision(rt, precision)?;
    if let Err(error) = Tokenizer::from_folder(&source) {
        console.warn(&format!("saved without a tokenizer: {error}"));
    }
    let lineage = lineage_of(&source)?;
    let source_size_bytes = size_bytes(&Checkpoint::open(&source)?)?;
    let mut made = None;
    replace_folder(&args.output, |folder| {
        model.save_in(rt, precision, folder)?;
        for name in KEPT_FILES.into_iter().filter(|name| source.join(name).is_file()) {
            fs::copy(source.join(name), folder.join(name)).with_context(|| format!("cannot copy {name}"))?;
        }
        if let Some(lineage) = &lineage {
            write_atomic(&folder.join(LINEAGE_FILE), serde_json::to_string_pretty(lineage)?.as_bytes())?;
        }
        // What is measured is what was written.
        let smaller = Model::load_for_inference(folder, rt, None)?.model;
        let exact = model.for_inference(rt, Precision::F32);
        let difference = Difference::of(rt, &exact, &smaller, &probe(&model.config.encoder, PROBE_SEED));
        let quantized = Quantized {
            model: args.model.clone(),
            output: args.output.clone(),
            precision: precision.name(),
            size_bytes: size_bytes(&Checkpoint::open(folder)?)?,
            source_size_bytes,
            compared: difference.output,
            largest_difference: difference.largest_difference,
            largest_output: difference.largest_output,
            relative_difference: difference.relative(),
        };
        write_atomic(&folder.join("README.md"), model_card(&quantized, lineage.as_ref()).as_bytes())?;
        made = Some(quantized);
        anyhow::Ok(())
    })?;
    let Some(made) = made else { return Ok(()) };
    if args.json { output::print(&(serde_json::to_string(&made)? + "\n")) } else { output::print(&text(&made)) }
}

fn model_card(made: &Quantized, lineage: Option<&Lineage>) -> String {
    let Quantized { model, precision, .. } = made;
    let mut card = format!("---\ntags:\n- distilbert\n- {precision}\n---\n\n# Model card\n\n");
    let mut row = |name: &str, value: &str| card.push_str(&format!("- **{name}:** {value}\n"));
    row("Made from the f32 model", model);
    row("Weights", &format!("{}, from {}", megabytes(made.size_bytes), megabytes(made.source_size_bytes)));
    row(
        "Precision",
        &match made.precision {
            "int8" => {
                "matrices and embedding tables in int8 with one scale a row; biases, norms and the classifier's last \
            layer in f32"
                    .to_owned()
            }
            other => format!(
                "matrices and embedding tables in {other}; biases, norms and the classifier's last layer in f32"
            ),
        },
    );
    row("Difference to f32", &difference_text(made));
    if let Some(lineage) = lineage {
        row("Recipe", lineage.recipe.as_deref().unwrap_or("not recorded"));
        row("Teacher", lineage.teacher.as_deref().unwrap_or("none"));
        row("SHA-256 of the training data", lineage.corpus_sha256.as_deref().unwrap_or("not recorded"));
        lineage.history().iter().for_each(|line| row("Before that", line));
    }
    card.push_str(
        "\nThe weights are in a format of `distilbert`'s own, which runs them; other programs need the f32 model.\n",
    );
    card
}

fn text(made: &Quantized) -> String {
    format!(
        "{}: {} in {}, from {} in f32\n{}\n",
        made.output.display(),
        megabytes(made.size_bytes),
        made.precision,
        megabytes(made.source_size_bytes),
        difference_text(made)
    )
}

fn difference_text(made: &Quantized) -> String {
    format!(
        "at most {:.4} on {} of up to {:.4} ({:.2} %), on random tokens of seed {PROBE_SEED}",
        made.largest_difference,
        made.compared.replace('_', " "),
        made.largest_output,
        100.0 * made.relative_difference
    )
}

fn megabytes(bytes: u64) -> String {
    format!("{:.1} MB", bytes as f64 / 1e6)
}
