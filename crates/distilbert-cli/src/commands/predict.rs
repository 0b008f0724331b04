//! `distilbert predict`: what a model says of texts, as they come in.

use crate::classifier::Classifier;
use crate::console::Console;
use crate::output::unless_closed;
use anyhow::{Context, anyhow, bail};
use clap::{Args, Subcommand, ValueEnum};
use distilbert::data::batch::Batch;
use distilbert::data::examples::{Columns, Example, Label, Split, TaskKind};
use distilbert::evaluate::{Prediction, PredictionRow, Predictions};
use distilbert::predict::LogitsRunner;
use distilbert::progress::Progress;
use distilbert_kernels::Runtime;
use serde::{Deserialize, Serialize};
use std::io::{self, BufRead, BufReader, Read, Write};

/// Texts of one batch: few, so that results follow their inputs closely.
const BATCH_TEXTS: usize = 32;

/// Tokens of one batch, unless one text has more.
const BATCH_TOKENS: usize = 1024;

/// Input read ahead.
const READ_BYTES: usize = 1 << 16;

/// Use a model on texts.
#[derive(Debug, Args)]
pub struct PredictArgs {
    #[command(subcommand)]
    command: PredictCommand,
}

#[derive(Debug, Subcommand)]
enum PredictCommand {
    /// Classify texts with a fine-tuned model: `label<TAB>score<TAB>text` for each.
    Classify(ClassifyArgs),
}

#[derive(Debug, Args)]
struct ClassifyArgs {
    /// Texts to classify [default: the lines of standard input]
    #[arg(value_name = "TEXT")]
    texts: Vec<String>,
    /// The fine-tuned model.
    #[arg(long, value_name = "MODEL")]
    model: String,
    /// How an input is written.
    #[arg(long, value_enum, default_value_t = InputFormat::Lines)]
    input_format: InputFormat,
    /// Each line is a pair of texts with this between them.
    #[arg(long, value_name = "TEXT")]
    pair_separator: Option<String>,
    /// Give this many labels for each input, the likeliest first.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    top_k: Option<u32>,
    /// Cut inputs to this many tokens [default: as the model was trained, or all it can take]
    #[arg(long, value_name = "TOKENS")]
    max_length: Option<usize>,
    /// Print `{"label": ..., "score": ...}` for each input, with --top-k a list of these.
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum InputFormat {
    /// A text, or a pair with --pair-separator.
    Lines,
    /// A text, or two separated by a tab; no header.
    Tsv,
    /// A JSON string, or `{"text": ..., "text_pair": ...}` of which the pair may be missing.
    Jsonl,
}

/// Runs the command.
///
/// # Errors
/// If the model cannot be used or an input is not as expected, named by its line; what came before is printed.
pub fn run(args: &PredictArgs, rt: &Runtime, console: &Console) -> anyhow::Result<()> {
    match &args.command {
        PredictCommand::Classify(args) => classify(args, rt, console),
    }
}

fn classify(args: &ClassifyArgs, rt: &Runtime, console: &Console) -> anyhow::Result<()> {
    if args.pair_separator.is_some() && args.input_format != InputFormat::Lines {
        bail!("--pair-separator goes with --input-format lines");
    }
    if args.pair_separator.as_ref().is_some_and(String::is_empty) {
        bail!("--pair-separator: expected some text, found none");
    }
    let classifier = Classifier::load(&args.model, rt, console)?;
    let positions = classifier.model.config.encoder.max_positions;
    let task = classifier.own_task("predictions", Columns::new("text", "label"));
    let mut classifying = Classifying {
        args,
        rt,
        console,
        unit: if args.texts.is_empty() { "line" } else { "text" },
        max_length: classifier.max_length(args.max_length, positions)?,
        runner: LogitsRunner::new(&classifier.model)?,
        classifier: &classifier,
        batch: Batch::new(),
        waiting: Vec::new(),
        predictions: Predictions::new(&task, Split::Test),
        out: io::stdout().lock(),
    };
    unless_closed(if args.texts.is_empty() {
        classifying.read(io::stdin().lock())
    } else {
        classifying.take(&args.texts)
    })
}

/// Inputs on their way to results.
struct Classifying<'a, W> {
    args: &'a ClassifyArgs,
    rt: &'a Runtime,
    console: &'a Console,
    classifier: &'a Classifier,
    runner: LogitsRunner<'a>,
    max_length: usize,
    /// What one input is called in messages.
    unit: &'static str,
    batch: Batch,
    /// The inputs of `batch`.
    waiting: Vec<Waiting>,
    /// Of the last batch.
    predictions: Predictions,
    out: W,
}

struct Waiting {
    example: Example,
    tokens: usize,
    truncated_tokens: usize,
}

impl<W: Write> Classifying<'_, W> {
    /// Classifies lines while they come in: what has been read is never held back waiting for more.
    fn read(&mut self, input: impl Read) -> anyhow::Result<()> {
        let mut reader = BufReader::with_capacity(READ_BYTES, input);
        let mut number = 0;
        let result = loop {
            let mut line = Vec::new();
            match reader.read_until(b'\n', &mut line) {
                Ok(0) => break Ok(()),
                Ok(_) => number += 1,
                Err(error) => break Err(error).context("standard input"),
            }
            if let Err(error) = self.push(number, &line) {
                break Err(error);
            }
            if !reader.buffer().contains(&b'\n') {
                self.flush()?;
            }
            if self.console.stop_requested() {
                break Err(anyhow!("stopped"));
            }
        };
        self.flush()?;
        result
    }

    /// Classifies the texts of the command line.
    fn take(&mut self, texts: &[String]) -> anyhow::Result<()> {
        let result = texts.iter().enumerate().try_for_each(|(index, text)| self.push(index + 1, text.as_bytes()));
        self.flush()?;
        result
    }

    fn push(&mut self, number: usize, line: &[u8]) -> anyhow::Result<()> {
        let line = line.strip_suffix(b"\n").unwrap_or(line);
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let example = self.parse(number, line).with_context(|| format!("{} {number}", self.unit))?;
        let encoding =
            self.classifier.tokenizer.encode(&example.text_a, example.text_b.as_deref(), Some(self.max_length));
        let truncated_tokens = encoding.truncated_tokens;
        if truncated_tokens > 0 && !self.args.json {
            let (unit, max_length) = (self.unit, self.max_length);
            self.console.warn(&format!("{unit} {number}: cut to {max_length} tokens, {truncated_tokens} lost"));
        }
        let tokens = encoding.len();
        if self.waiting.len() == BATCH_TEXTS || self.batch.tokens() + tokens > BATCH_TOKENS {
            self.flush()?;
        }
        self.batch.push(&encoding.input_ids, Some(&encoding.token_type_ids));
        self.waiting.push(Waiting { example, tokens, truncated_tokens });
        Ok(())
    }

    fn parse(&self, number: usize, line: &[u8]) -> anyhow::Result<Example> {
        let text = match std::str::from_utf8(line) {
            Ok(text) => text,
            Err(error) => bail!("expected UTF-8, found another encoding at byte {}", error.valid_up_to() + 1),
        };
        let (text_a, text_b) = match (self.args.input_format, &self.args.pair_separator) {
            (InputFormat::Lines, None) => (text.to_owned(), None),
            (InputFormat::Lines, Some(separator)) => {
                let (first, second) = text
                    .split_once(separator)
                    .with_context(|| format!("expected two texts with `{separator}` between them, found one"))?;
                (first.trim().to_owned(), Some(second.trim().to_owned()))
            }
            (InputFormat::Tsv, _) => match text.split('\t').collect::<Vec<_>>()[..] {
                [first] => (first.to_owned(), None),
                [first, second] => (first.to_owned(), Some(second.to_owned())),
                ref columns => bail!("expected 1 or 2 tab-separated columns, found {}", columns.len()),
            },
            (InputFormat::Jsonl, _) => match serde_json::from_str(text) {
                Ok(JsonInput::Text(text)) => (text, None),
                Ok(JsonInput::Object { text, text_pair }) => (text, text_pair),
                Err(_) => {
                    bail!("expected a JSON string or {{\"text\": ..., \"text_pair\": ...}}, found something else")
                }
            },
        };
        match (self.classifier.saved.as_ref().map(|saved| saved.task.kind), &text_b) {
            (Some(TaskKind::Pair), None) => bail!("the model was trained on pairs of texts, found one text"),
            (Some(TaskKind::Single), Some(_)) => bail!("the model was trained on single texts, found a pair"),
            _ => Ok(Example { text_a, text_b, label: Label::None, line: number }),
        }
    }

    /// Runs what waits and prints its results.
    fn flush(&mut self) -> anyhow::Result<()> {
        if self.waiting.is_empty() {
            return Ok(());
        }
        let width = self.classifier.labels.len();
        let logits = self.runner.run(self.rt, &self.batch)?;
        self.predictions.rows.clear();
        for (waiting, row) in self.waiting.iter().zip(logits.chunks_exact(width.max(1))) {
            let example = &waiting.example;
            let unit = self.unit;
            self.predictions.push(example, row, waiting.tokens).with_context(|| format!("{unit} {}", example.line))?;
        }
        for (waiting, row) in self.waiting.iter().zip(&self.predictions.rows) {
            let top = self.args.top_k.unwrap_or(1) as usize;
            let scored = best(&self.classifier.labels, row, waiting.truncated_tokens, top);
            if !self.args.json {
                let texts = [Some(&row.text_a), row.text_b.as_ref()];
                let shown: Vec<String> = texts.into_iter().flatten().map(|text| one_line(text)).collect();
                for Scored { label, score, .. } in scored {
                    writeln!(self.out, "{label}\t{score:.4}\t{}", shown.join("\t"))?;
                }
                continue;
            }
            match (self.args.top_k, scored.first()) {
                (None, Some(best)) => serde_json::to_writer(&mut self.out, best).map_err(io::Error::from)?,
                _ => serde_json::to_writer(&mut self.out, &scored).map_err(io::Error::from)?,
            }
            writeln!(self.out)?;
        }
        self.out.flush()?;
        self.batch = Batch::new();
        self.waiting.clear();
        Ok(())
    }
}

/// The `top` labels with the highest scores, the highest first.
fn best<'a>(labels: &'a [String], row: &PredictionRow, truncated_tokens: usize, top: usize) -> Vec<Scored<'a>> {
    let scores = match &row.prediction {
        Prediction::Score(score) => std::slice::from_ref(score),
        _ => &row.scores,
    };
    let mut scored: Vec<Scored> =
        labels.iter().zip(scores).map(|(label, &score)| Scored { label, score, truncated_tokens }).collect();
    // Stable: of equals the one with the lower id comes first, as in an argmax.
    scored.sort_by(|a, b| b.score.total_cmp(&a.score));
    scored.truncate(top);
    scored
}

#[derive(Deserialize)]
#[serde(untagged)]
enum JsonInput {
    Text(String),
    Object {
        text: String,
        #[serde(default)]
        text_pair: Option<String>,
    },
}

/// A result in the shape of Hugging Face's text-classification pipeline.
#[derive(Serialize)]
struct Scored<'a> {
    label: &'a str,
    score: f32,
    #[serde(skip_serializing_if = "is_zero")]
    truncated_tokens: usize,
}

fn is_zero(count: &usize) -> bool {
    *count == 0
}

/// Tabs and line ends would break the columns.
fn one_line(text: &str) -> String {
    text.replace(['\t', '\n', '\r'], " ")
}
