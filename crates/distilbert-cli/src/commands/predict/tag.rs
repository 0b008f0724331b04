//! `distilbert predict tag`: named entities, parts of speech and other labels of words, as spans of the text.

use super::{Asked, CommonArgs, Input, Keys, Task, one_line, run_task, write_json};
use crate::classifier::Classifier;
use crate::console::Console;
use anyhow::{bail, ensure};
use clap::{Args, ValueEnum};
use distilbert::data::batch::Batch;
use distilbert::predict::LogitsRunner;
use distilbert::predict::spans::{Aggregation, TaggedSpan, spans};
use distilbert::predict::text_windows::TextWindows;
use distilbert::tokenizer::Encoding;
use distilbert_kernels::Runtime;
use std::collections::VecDeque;
use std::io::Write;

#[derive(Debug, Args)]
pub struct TagArgs {
    #[command(flatten)]
    common: CommonArgs,
    /// How the answers for tokens become spans.
    #[arg(long, value_enum, default_value_t)]
    aggregation: AggregationChoice,
    /// Leave spans with these labels out; by default those of no entity. Named once for each.
    #[arg(long, value_name = "LABEL", default_value = "O")]
    ignore_label: Vec<String>,
    /// Read texts in windows of this many tokens [default: as the model was trained, or all it can take]
    #[arg(long, value_name = "TOKENS")]
    max_length: Option<usize>,
    /// Tokens by which the windows of a long text overlap, half a window at most [default: a quarter of a window]
    #[arg(long, value_name = "TOKENS")]
    stride: Option<usize>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum AggregationChoice {
    /// Every token by itself.
    None,
    /// Neighbouring tokens of one type are one span.
    #[default]
    Simple,
    /// As simple, for words: the answer of a word's first token.
    First,
    /// As simple, for words: the mean of its tokens' probabilities.
    Average,
    /// As simple, for words: the answer of its surest token.
    Max,
}

pub fn run(args: &TagArgs, rt: &Runtime, console: &Console) -> anyhow::Result<()> {
    let tagger = Classifier::load_in(args.common.precision, &args.common.model, rt, console)?;
    if !tagger.problem.is_of_words() {
        bail!("model `{}`: expected a head for token classification; use predict classify", args.common.model);
    }
    let positions = tagger.model.config.encoder.max_positions;
    let task = Tag {
        args,
        rt,
        max_length: tagger.max_length(args.max_length, positions)?,
        runner: LogitsRunner::new(&tagger.model)?,
        tagger: &tagger,
        windows: VecDeque::new(),
    };
    run_task(&args.common, Keys { words: true, ..Keys::TEXTS }, task, console)
}

struct Tag<'a> {
    args: &'a TagArgs,
    rt: &'a Runtime,
    tagger: &'a Classifier,
    runner: LogitsRunner<'a>,
    max_length: usize,
    /// Of each input that waits for its answer.
    windows: VecDeque<TextWindows>,
}

impl Task for Tag<'_> {
    /// Logits, `[tokens, labels]`.
    type Output = Vec<f32>;

    fn encode(&mut self, input: &Input) -> anyhow::Result<Vec<Encoding>> {
        ensure!(input.pair.is_none(), "the model tags single texts, found a pair");
        let tokenizer = &self.tagger.tokenizer;
        let windows = TextWindows::new(tokenizer, &input.text, self.max_length, self.args.stride);
        let sequences = windows.sequences();
        self.windows.push_back(windows);
        Ok(sequences)
    }

    fn run(&mut self, batch: &Batch, sequences: &[&Encoding]) -> anyhow::Result<Vec<Vec<f32>>> {
        let mut rest = self.runner.run(self.rt, batch)?;
        let mut outputs = Vec::with_capacity(sequences.len());
        for sequence in sequences {
            let (own, others) = rest.split_at(sequence.len() * self.tagger.labels.len());
            outputs.push(self.tagger.calibrated(own));
            rest = others;
        }
        Ok(outputs)
    }

    fn answer(&mut self, asked: &Asked<Vec<f32>>, out: &mut dyn Write) -> anyhow::Result<()> {
        let Some(windows) = self.windows.pop_front() else { return Ok(()) };
        let labels = &self.tagger.labels;
        let tokens = windows.tokens(&asked.outputs, labels.len());
        let aggregation = match self.args.aggregation {
            AggregationChoice::None => Aggregation::None,
            AggregationChoice::Simple => Aggregation::Simple,
            AggregationChoice::First => Aggregation::First,
            AggregationChoice::Average => Aggregation::Average,
            AggregationChoice::Max => Aggregation::Max,
        };
        let text = &asked.input.text;
        let found = spans(text, &tokens, labels, &self.tagger.tokenizer, aggregation, &self.args.ignore_label);
        if self.args.common.json {
            return write_json(out, &found);
        }
        // The text first, so that results can be told apart and a text without spans is seen.
        writeln!(out, "{}", one_line(text))?;
        for TaggedSpan { label, score, start, end, .. } in &found {
            let spelled: String = text.chars().skip(*start).take(end - start).collect();
            writeln!(out, "{label}\t{score:.4}\t{start}\t{end}\t{}", one_line(&spelled))?;
        }
        Ok(writeln!(out)?)
    }
}
