//! `distilbert corpus`: text to a token file.

use std::path::PathBuf;

use anyhow::Context;
use clap::{ArgGroup, Args, Subcommand, ValueEnum};
use distilbert::data::corpus::{self, By, CorpusConfig, CorpusInputs, CorpusSummary, Field, HeldOut, InvalidUtf8};
use distilbert::tokenizer::vocabulary::VocabularyConfig;
use distilbert::tokenizer::{Tokenizer, TokenizerClass};

use crate::console::Console;
use crate::model_source;
use crate::output;

/// Turn text into a token file for pretraining and distillation.
#[derive(Debug, Args)]
pub struct CorpusArgs {
    #[command(subcommand)]
    command: CorpusCommand,
}

#[derive(Debug, Subcommand)]
enum CorpusCommand {
    /// Read, tokenise, filter and shuffle text, and hold a part out.
    Build(BuildArgs),
}

#[derive(Debug, Args)]
#[command(group(ArgGroup::new("vocabulary").required(true)))]
struct BuildArgs {
    /// Files, folders, quoted glob patterns, or `-` for standard input; plain text, JSONL or TSV, also .gz and .zst.
    #[arg(required = true, value_name = "INPUT")]
    inputs: Vec<PathBuf>,
    /// Token file to write.
    #[arg(long, short, value_name = "FILE")]
    output: PathBuf,
    /// Model whose tokenizer to use: a folder, a hub name, or pip:PACKAGE.
    #[arg(long, value_name = "MODEL", group = "vocabulary")]
    model: Option<String>,
    /// Train a WordPiece vocabulary of this size from the inputs, and save it beside the output as NAME-tokenizer
    /// (of mine.tokens: mine-tokenizer).
    #[arg(long, value_name = "SIZE", group = "vocabulary")]
    train_vocabulary: Option<usize>,
    /// Keep letter case and accents in the trained vocabulary.
    #[arg(long, requires = "train_vocabulary", conflicts_with = "model")]
    cased: bool,
    /// JSON field that holds the text, for .jsonl files.
    #[arg(long, value_name = "NAME", conflicts_with = "column")]
    field: Option<String>,
    /// Column that holds the text, for .tsv files: a name in the header line, or a number from 1 if there is none.
    #[arg(long, value_name = "NAME|NUMBER")]
    column: Option<String>,
    /// What makes one text.
    #[arg(long, value_enum, default_value_t = ByChoice::Line)]
    by: ByChoice,
    /// Join consecutive texts of a file up to this many tokens.
    #[arg(long, value_name = "TOKENS")]
    join_to: Option<usize>,
    /// Cut longer texts into sequences of this many tokens, `[CLS]` and `[SEP]` included.
    #[arg(long, value_name = "TOKENS", default_value_t = CorpusConfig::default().max_length)]
    max_length: usize,
    /// Drop sequences of fewer tokens, `[CLS]` and `[SEP]` included.
    #[arg(long, value_name = "TOKENS", default_value_t = CorpusConfig::default().min_length)]
    min_tokens: usize,
    /// Keep apart from training: a share below 1, or a number of sequences.
    #[arg(long, value_name = "SHARE|NUMBER", default_value = "0.02", value_parser = parse_held_out)]
    held_out: HeldOut,
    /// Seed of the shuffle.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// What to do about lines that are not UTF-8.
    #[arg(long, value_enum, default_value_t = InvalidUtf8Choice::Refuse)]
    invalid_utf8: InvalidUtf8Choice,
    /// Print the summary as one line of JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum ByChoice {
    /// Each line.
    Line,
    /// The lines between blank lines, for books with hard-wrapped lines.
    Paragraph,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum InvalidUtf8Choice {
    /// Stop and name the line.
    Refuse,
    /// Leave the line out and count it.
    Skip,
}

/// Runs `distilbert corpus`.
///
/// # Errors
/// What [`corpus::build`] refuses, with the stage at which it did.
pub fn run(args: &CorpusArgs, threads: usize, console: &Console) -> anyhow::Result<()> {
    match &args.command {
        CorpusCommand::Build(args) => build(args, threads, console),
    }
}

fn build(args: &BuildArgs, threads: usize, console: &Console) -> anyhow::Result<()> {
    let inputs = CorpusInputs {
        paths: args.inputs.clone(),
        field: field(args),
        by: match args.by {
            ByChoice::Line => By::Line,
            ByChoice::Paragraph => By::Paragraph,
        },
        invalid_utf8: match args.invalid_utf8 {
            InvalidUtf8Choice::Refuse => InvalidUtf8::Refuse,
            InvalidUtf8Choice::Skip => InvalidUtf8::Skip,
        },
    };
    let config = CorpusConfig {
        max_length: args.max_length,
        min_length: args.min_tokens,
        join_to: args.join_to,
        held_out: args.held_out,
        seed: args.seed,
        threads,
        ..CorpusConfig::default()
    };
    let tokenizer = match (&args.model, args.train_vocabulary) {
        (_, Some(size)) => {
            let vocabulary = VocabularyConfig { size, lowercase: !args.cased, ..VocabularyConfig::default() };
            let tokens = corpus::train_vocabulary(&inputs, &args.output, &vocabulary, console)
                .context("training the vocabulary")?;
            if tokens.len() < size {
                console.warn(&format!("the text gave a vocabulary of {} tokens, of {size} asked for", tokens.len()));
            }
            Tokenizer::from_vocabulary(tokens, vocabulary.lowercase)?
        }
        (Some(model), None) => {
            let folder = model_source::resolve(model, console)?;
            Tokenizer::from_folder(&folder).context("loading the tokenizer")?
        }
        (None, None) => anyhow::bail!("name a --model or a --train-vocabulary size"),
    };
    let summary = corpus::build(&inputs, &tokenizer, &config, &args.output, console).context("building the corpus")?;
    if args.train_vocabulary.is_some() {
        // Only now: a corpus that could not be built leaves an older one with the tokenizer that it was built with.
        tokenizer.save(&corpus::tokenizer_folder(&args.output), TokenizerClass::DistilBert, config.max_length)?;
    }
    match args.json {
        true => output::print_json(&summary),
        false => output::print(&describe(&summary)),
    }
}

fn field(args: &BuildArgs) -> Field {
    match (&args.field, &args.column) {
        (Some(name), _) => Field::Json(name.clone()),
        (None, Some(column)) => match column.parse() {
            Ok(number) => Field::Column(number),
            Err(_) => Field::ColumnNamed(column.clone()),
        },
        (None, None) => Field::All,
    }
}

fn parse_held_out(text: &str) -> Result<HeldOut, String> {
    if let Ok(count) = text.parse() {
        return Ok(HeldOut::Sequences(count));
    }
    match text.parse() {
        Ok(share) if (0.0..1.0).contains(&share) => Ok(HeldOut::Share(share)),
        _ => Err("expected a share from 0 to below 1, such as 0.02, or a whole number of sequences".to_owned()),
    }
}

fn describe(summary: &CorpusSummary) -> String {
    let CorpusSummary { dropped, .. } = summary;
    let mut lines = vec![
        summary.output.display().to_string(),
        format!("  read       {} texts from {} files, {} bytes", summary.texts, summary.files, summary.bytes_read),
        format!("  formed     {} sequences ({} texts were cut)", summary.formed, summary.cut_texts),
        format!("  dropped    {dropped}"),
    ];
    if summary.invalid_utf8_lines > 0 {
        lines.push(format!("  left out   {} lines that are not UTF-8:", summary.invalid_utf8_lines));
        lines.extend(summary.invalid_utf8_at.iter().map(|place| format!("               {place}")));
        if summary.invalid_utf8_lines > summary.invalid_utf8_at.len() as u64 {
            lines.push("               ...".to_owned());
        }
    }
    lines.push(format!("  kept       {} sequences to train on, {} held out", summary.train, summary.held_out));
    lines.push(format!(
        "  tokens     {}, {:.1} a sequence, {:.3} % [UNK], vocabulary of {}",
        summary.tokens,
        summary.mean_length,
        100.0 * summary.unknown_tokens as f64 / summary.tokens.max(1) as f64,
        summary.vocab_size
    ));
    lines.push(format!("  content    {}\n", summary.content_hash));
    lines.push(format!("{} random sequences:", summary.samples.len()));
    lines.extend(summary.samples.iter().map(|sample| format!("  - {sample}")));
    lines.join("\n") + "\n"
}
