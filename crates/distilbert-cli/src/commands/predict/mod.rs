//! `distilbert predict`: what a model says of texts, as they come in.
//!
//! A task is one file: its arguments and a [`Task`], which turns an input into sequences, runs a batch, and prints an
//! answer. [`run_task`] does what all tasks share: inputs are read one at a time, batches are filled to a budget of
//! tokens across them, answers come in the order of the inputs as soon as they are known, and what was cut is said.

mod input; // arguments, lines, JSONL, CSV, TSV -> Input
mod answer;
mod classify;
mod tag;
mod intents;
mod fill_mask;
mod zero_shot;
mod rerank;
mod attention;
mod embed;

use crate::console::Console;
use crate::output::{self, unless_closed};
use crate::precision::PrecisionArgs;
use anyhow::{Context, anyhow};
use clap::{Args, Subcommand};
use distilbert::data::batch::Batch;
use distilbert::progress::Progress;
use distilbert::tokenizer::Encoding;
use distilbert_kernels::Runtime;
use input::{Input, InputArgs, InputReader, Keys};
use std::collections::VecDeque;
use std::io::{self, IsTerminal, Write};

/// Tokens of one batch, unless one sequence has more: enough to fill the matrix products, few enough that results
/// follow their inputs closely.
const BATCH_TOKENS: usize = 1024;

/// Use a model on texts.
#[derive(Debug, Args)]
pub struct PredictArgs {
    #[command(subcommand)]
    command: PredictCommand,
}

#[derive(Debug, Subcommand)]
enum PredictCommand {
    /// Classify texts with a fine-tuned model: `label<TAB>score<TAB>text` for each.
    Classify(classify::ClassifyArgs),
    /// Answer questions from contexts: `answer<TAB>score<TAB>start<TAB>end<TAB>question` for each.
    Answer(answer::AnswerArgs),
    /// Tag words (named entities, parts of speech) with a fine-tuned model: the text, then
    /// `label<TAB>score<TAB>start<TAB>end<TAB>span` for each span, then an empty line.
    Tag(tag::TagArgs),
    /// Say what utterances ask for with a model for intents and slots: `intent<TAB>score<TAB>text`, then
    /// `slot<TAB>score<TAB>start<TAB>end<TAB>span` for each slot, then an empty line.
    Intents(intents::IntentsArgs),
    /// Say what a masked language model puts in the place of its mask tokens: `token<TAB>score<TAB>text` for each.
    FillMask(fill_mask::FillMaskArgs),
    /// Choose among labels that no model was trained on, through natural language inference: `label<TAB>score<TAB>text`.
    ZeroShot(zero_shot::ZeroShotArgs),
    /// Rank texts by how well they answer a query: `index<TAB>score<TAB>text`, the best first.
    Rerank(rerank::RerankArgs),
    /// Show which token looks at which, in every layer and head: as a page, as JSON, or in short.
    Attention(attention::AttentionArgs),
    /// Turn texts into vectors with a sentence encoder: a JSON array for each.
    Embed(embed::EmbedArgs),
}

/// Arguments of every task.
#[derive(Debug, Args)]
struct CommonArgs {
    /// The model.
    #[arg(long, value_name = "MODEL")]
    model: String,
    #[command(flatten)]
    precision: PrecisionArgs,
    #[command(flatten)]
    input: InputArgs,
    /// Print a line of JSON for each input, in the shape of the Hugging Face pipelines.
    #[arg(long)]
    json: bool,
}

/// Runs the command.
///
/// # Errors
/// If the model cannot be used or an input is not as expected, named by its line; what came before is printed.
pub fn run(args: &PredictArgs, rt: &Runtime, console: &Console) -> anyhow::Result<()> {
    match &args.command {
        PredictCommand::Classify(args) => classify::run(args, rt, console),
        PredictCommand::Answer(args) => answer::run(args, rt, console),
        PredictCommand::Tag(args) => tag::run(args, rt, console),
        PredictCommand::Intents(args) => intents::run(args, rt, console),
        PredictCommand::FillMask(args) => fill_mask::run(args, rt, console),
        PredictCommand::ZeroShot(args) => zero_shot::run(args, rt, console),
        PredictCommand::Rerank(args) => rerank::run(args, rt, console),
        PredictCommand::Attention(args) => attention::run(args, rt, console),
        PredictCommand::Embed(args) => embed::run(args, rt, console),
    }
}

/// What is asked of a model.
trait Task {
    /// What a pass leaves of one sequence for the answer.
    type Output;

    /// An input as the model reads it: one sequence, or several (windows of a long text, candidates).
    ///
    /// # Errors
    /// If the input is not one that the task can answer.
    fn encode(&mut self, input: &Input) -> anyhow::Result<Vec<Encoding>>;

    /// Runs the model on a batch; an output for each of its sequences, which are of one input or many.
    ///
    /// # Errors
    /// If the model cannot take the batch.
    fn run(&mut self, batch: &Batch, sequences: &[&Encoding]) -> anyhow::Result<Vec<Self::Output>>;

    /// Prints the answer to an input as one line of JSON or lines for people.
    ///
    /// # Errors
    /// If there is no answer or nobody reads it.
    fn answer(&mut self, asked: &Asked<Self::Output>, out: &mut dyn Write) -> anyhow::Result<()>;

    /// Prints what could not be said before the last input was there.
    ///
    /// # Errors
    /// If nobody reads it.
    fn finish(&mut self, _out: &mut dyn Write) -> anyhow::Result<()> {
        Ok(())
    }
}

/// An input on its way to an answer.
struct Asked<O> {
    input: Input,
    /// The input as the model reads it.
    sequences: Vec<Encoding>,
    /// What the model said of the sequences; all of them when the answer is asked for.
    outputs: Vec<O>,
}

impl<O> Asked<O> {
    /// Tokens that the input lost to the maximum length: of several sequences those of the one that lost most.
    fn truncated_tokens(&self) -> usize {
        self.sequences.iter().map(|sequence| sequence.truncated_tokens).max().unwrap_or(0)
    }
}

/// Reads inputs, runs `task` on them and prints its answers; memory is bounded by a batch and the longest input.
///
/// # Errors
/// If an input is not as expected, named by its line, after the answers to those before it.
fn run_task(args: &CommonArgs, keys: Keys, task: impl Task, console: &Console) -> anyhow::Result<()> {
    let reader = args.input.open(keys)?;
    if reader.is_terminal() {
        console.say("reading inputs from the terminal, one a line; end with Ctrl-D");
    }
    // A bar among the answers would spoil both.
    let shows_progress = !io::stdout().is_terminal();
    if shows_progress {
        console.begin("predicting", None, "inputs");
    }
    let out = output::buffered();
    let mut running =
        Running { task, reader, console, json: args.json, asked: VecDeque::new(), sequences: 0, tokens: 0, out };
    let result = running.run();
    let blank = running.reader.blank_lines();
    if shows_progress {
        console.end();
    }
    if blank > 0 {
        console.warn(&format!("{blank} blank lines were left out"));
    }
    unless_closed(result)
}

struct Running<'a, T: Task, W> {
    task: T,
    reader: InputReader,
    console: &'a Console,
    json: bool,
    /// Inputs without an answer yet, in order.
    asked: VecDeque<Asked<T::Output>>,
    /// Sequences of `asked` that were not run yet, and their tokens.
    sequences: usize,
    tokens: usize,
    out: W,
}

impl<T: Task, W: Write> Running<'_, T, W> {
    /// Answers inputs while they come in: what has been read is never held back waiting for more.
    fn run(&mut self) -> anyhow::Result<()> {
        let result = loop {
            match self.reader.next() {
                Ok(Some(input)) => {
                    if let Err(error) = self.push(input) {
                        break Err(error);
                    }
                }
                Ok(None) => {
                    self.flush()?;
                    break self.task.finish(&mut self.out);
                }
                Err(error) => break Err(error),
            }
            if !self.reader.has_more_at_hand() {
                self.flush()?;
            }
            if self.console.stop_requested() {
                break Err(anyhow!("stopped"));
            }
        };
        self.flush()?;
        result
    }

    fn push(&mut self, input: Input) -> anyhow::Result<()> {
        let sequences = self.task.encode(&input).with_context(|| self.reader.name(input.number))?;
        let asked = Asked { input, sequences, outputs: Vec::new() };
        let truncated_tokens = asked.truncated_tokens();
        if truncated_tokens > 0 && !self.json {
            let length = asked.sequences.iter().map(Encoding::len).max().unwrap_or(0);
            let name = self.reader.name(asked.input.number);
            self.console.warn(&format!("{name}: cut to {length} tokens, {truncated_tokens} lost"));
        }
        self.sequences += asked.sequences.len();
        self.tokens += asked.sequences.iter().map(Encoding::len).sum::<usize>();
        self.asked.push_back(asked);
        while self.tokens > BATCH_TOKENS && self.sequences > 0 {
            self.run_batch()?;
        }
        Ok(())
    }

    /// Runs all that waits.
    fn flush(&mut self) -> anyhow::Result<()> {
        while self.sequences > 0 {
            self.run_batch()?;
        }
        self.answer()?;
        Ok(self.out.flush()?)
    }

    /// Runs the first sequences that wait, as many as a batch holds, and prints the answers that they complete.
    fn run_batch(&mut self) -> anyhow::Result<()> {
        let mut batch = Batch::new();
        let mut sequences = Vec::new();
        let waiting = self.asked.iter().flat_map(|asked| &asked.sequences[asked.outputs.len()..]);
        for sequence in waiting {
            if !sequences.is_empty() && batch.tokens() + sequence.len() > BATCH_TOKENS {
                break;
            }
            batch.push(&sequence.input_ids, Some(&sequence.token_type_ids));
            sequences.push(sequence);
        }
        let outputs = self.task.run(&batch, &sequences)?;
        self.sequences -= sequences.len();
        self.tokens -= batch.tokens();
        let mut outputs = outputs.into_iter();
        for asked in &mut self.asked {
            let missing = asked.sequences.len() - asked.outputs.len();
            asked.outputs.extend(outputs.by_ref().take(missing));
        }
        self.answer()
    }

    /// Prints the answers that are known, up to the first input that still waits.
    fn answer(&mut self) -> anyhow::Result<()> {
        while let Some(asked) = self.asked.pop_front_if(|asked| asked.outputs.len() == asked.sequences.len()) {
            let name = || self.reader.name(asked.input.number);
            self.task.answer(&asked, &mut self.out).with_context(name)?;
            self.console.advance(1);
        }
        Ok(())
    }
}

/// A text in a table of people's output: tabs and line ends would break the columns.
fn one_line(text: &str) -> String {
    text.replace(['\t', '\n', '\r'], " ")
}

/// Writes a line of JSON.
fn write_json(out: &mut dyn Write, value: &impl serde::Serialize) -> anyhow::Result<()> {
    serde_json::to_writer(&mut *out, value).map_err(io::Error::from)?;
    Ok(writeln!(out)?)
}

/// For fields that are left out when nothing was cut.
fn is_zero(count: &usize) -> bool {
    *count == 0
}
