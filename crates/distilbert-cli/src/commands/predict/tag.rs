//! `distilbert predict tag`: named entities, parts of speech and other labels of words, as spans of the text.

use super::{Asked, CommonArgs, Input, Keys, Task, one_line, run_task, write_json};
use crate::classifier::Classifier;
use crate::console::Console;
use anyhow::{bail, ensure};
use clap::{Args, ValueEnum};
use distilbert::data::batch::Batch;
use distilbert::data::tagging::windows::{Window, windows};
use distilbert::predict::LogitsRunner;
use distilbert::predict::spans::{Aggregation, TaggedSpan, TaggedToken, spans};
use distilbert::tokenizer::Encoding;
use distilbert_kernels::Runtime;
use serde::Serialize;
use std::collections::VecDeque;
use std::io::Write;

/// Tokens around the text of every window: `[CLS]` and `[SEP]`.
const SPECIAL_TOKENS: usize = 2;

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
    run_task(&args.common, Keys { text: "text", pair: "text_pair", candidates: None }, task, console)
}

struct Tag<'a> {
    args: &'a TagArgs,
    rt: &'a Runtime,
    tagger: &'a Classifier,
    runner: LogitsRunner<'a>,
    max_length: usize,
    /// Of each input that waits for its answer: its tokens without the special ones, and the windows they are read in.
    windows: VecDeque<(Encoding, Vec<Window>)>,
}

impl Task for Tag<'_> {
    /// Logits, `[tokens, labels]`.
    type Output = Vec<f32>;

    fn encode(&mut self, input: &Input) -> anyhow::Result<Vec<Encoding>> {
        ensure!(input.pair.is_none(), "the model tags single texts, found a pair");
        let tokenizer = &self.tagger.tokenizer;
        let whole = tokenizer.encode(&input.text, None, None);
        let text = whole.sequence_ids.iter().position(Option::is_some).unwrap_or(whole.len());
        let end = whole.sequence_ids.iter().rposition(Option::is_some).map_or(text, |last| last + 1);
        let begins_word: Vec<bool> =
            whole.input_ids[text..end].iter().map(|&id| !tokenizer.continues_word(id)).collect();
        let windows = windows(&begins_word, self.max_length - SPECIAL_TOKENS);
        let sequences = windows.iter().map(|window| {
            let own = text + window.tokens.start..text + window.tokens.end;
            // What stands before the text, a part of it, and what stands behind it.
            let places: Vec<usize> = (0..text).chain(own).chain(end..whole.len()).collect();
            Encoding {
                input_ids: places.iter().map(|&place| whole.input_ids[place]).collect(),
                token_type_ids: places.iter().map(|&place| whole.token_type_ids[place]).collect(),
                offsets: places.iter().map(|&place| whole.offsets[place].clone()).collect(),
                sequence_ids: places.iter().map(|&place| whole.sequence_ids[place]).collect(),
                truncated_tokens: 0,
            }
        });
        let sequences = sequences.collect();
        self.windows.push_back((whole, windows));
        Ok(sequences)
    }

    fn run(&mut self, batch: &Batch, sequences: &[&Encoding]) -> anyhow::Result<Vec<Vec<f32>>> {
        let mut rest = self.runner.run(self.rt, batch)?;
        let mut outputs = Vec::with_capacity(sequences.len());
        for sequence in sequences {
            let (own, others) = rest.split_at(sequence.len() * self.tagger.labels.len());
            outputs.push(own.to_vec());
            rest = others;
        }
        Ok(outputs)
    }

    fn answer(&mut self, asked: &Asked<Vec<f32>>, out: &mut dyn Write) -> anyhow::Result<()> {
        let Some((whole, windows)) = self.windows.pop_front() else { return Ok(()) };
        let labels = &self.tagger.labels;
        let text = whole.sequence_ids.iter().position(Option::is_some).unwrap_or(whole.len());
        let mut tokens = Vec::new();
        for (window, logits) in windows.iter().zip(&asked.outputs) {
            for token in window.own.clone() {
                let row = text + token - window.tokens.start;
                tokens.push(TaggedToken {
                    id: whole.input_ids[text + token],
                    bytes: whole.offsets[text + token].clone(),
                    logits: &logits[row * labels.len()..][..labels.len()],
                });
            }
        }
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
            return write_json(out, &found.iter().map(Json::of).collect::<Vec<_>>());
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

/// A span in the shape of Hugging Face's token-classification pipeline.
#[derive(Serialize)]
#[serde(untagged)]
enum Json<'a> {
    Token { entity: &'a str, score: f32, index: usize, word: &'a str, start: usize, end: usize },
    Group { entity_group: &'a str, score: f32, word: &'a str, start: usize, end: usize },
}

impl<'a> Json<'a> {
    fn of(span: &'a TaggedSpan) -> Json<'a> {
        let TaggedSpan { label, score, index, word, start, end } = span;
        let (score, start, end) = (*score, *start, *end);
        match *index {
            Some(index) => Json::Token { entity: label, score, index, word, start, end },
            None => Json::Group { entity_group: label, score, word, start, end },
        }
    }
}
