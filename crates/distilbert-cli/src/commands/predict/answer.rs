//! `distilbert predict answer`: answers to questions, cut from their contexts.

use super::{Asked, CommonArgs, Input, Keys, Task, one_line, run_task, write_json};
use crate::answerer::Answerer;
use crate::console::Console;
use anyhow::{Context, ensure};
use clap::Args;
use distilbert::data::batch::Batch;
use distilbert::data::questions::{AnsweringTask, QuestionSet, QuestionWindows, WindowConfig};
use distilbert::heads::tokens::starts_then_ends;
use distilbert::predict::LogitsRunner;
use distilbert::predict::answers::{Ranking, RankingConfig, ShownAnswer};
use distilbert::tokenizer::Encoding;
use distilbert_kernels::Runtime;
use std::collections::VecDeque;
use std::io::Write;
use std::path::PathBuf;

/// Log odds of no answer against the best one above which none is given, where none was fitted.
const NULL_THRESHOLD: f32 = 0.0;

/// An input is a question, about the context of --context or --context-file, or a pair: the question and its own context.
#[derive(Debug, Args)]
pub struct AnswerArgs {
    #[command(flatten)]
    common: CommonArgs,
    /// The text that holds the answers.
    #[arg(long, value_name = "TEXT")]
    context: Option<String>,
    /// The file that holds the answers.
    #[arg(long, value_name = "FILE", conflicts_with = "context")]
    context_file: Option<PathBuf>,
    /// Give this many answers to each question, the likeliest first.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    top_k: u32,
    /// Longest answer in tokens, before it is made whole words.
    #[arg(long, value_name = "TOKENS", default_value_t = 15, value_parser = clap::value_parser!(u32).range(1..))]
    max_answer_length: u32,
    /// Longest input in tokens; a longer context is read in windows [default: as the model was trained, or 384]
    #[arg(long, value_name = "TOKENS")]
    max_length: Option<usize>,
    /// Tokens that neighbouring windows share [default: as the model was trained, or 128]
    #[arg(long, value_name = "TOKENS")]
    doc_stride: Option<usize>,
    /// No answer is an answer too, even if the model was trained where every question has one.
    #[arg(long)]
    allow_no_answer: bool,
    /// Give no answer if it is likelier than the best one by more than this, in log odds [default: as fitted in
    /// training, or 0]
    #[arg(long, value_name = "ODDS")]
    null_threshold: Option<f32>,
}

pub fn run(args: &AnswerArgs, rt: &Runtime, console: &Console) -> anyhow::Result<()> {
    let context = match (&args.context, &args.context_file) {
        (None, Some(path)) => {
            Some(std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?)
        }
        (context, _) => context.clone(),
    };
    let answerer = Answerer::load(args.common.precision, &args.common.model, rt, console)?;
    let fitted = answerer.saved.as_ref().and_then(AnsweringTask::null_threshold);
    let allowed = args.allow_no_answer.then_some(NULL_THRESHOLD);
    let task = Answering {
        rt,
        json: args.common.json,
        windows: answerer.windows(args.max_length, args.doc_stride)?,
        ranking: RankingConfig {
            top_k: args.top_k as usize,
            max_answer_length: args.max_answer_length as usize,
            null_threshold: args.null_threshold.or(fitted).or(allowed),
        },
        runner: LogitsRunner::new(&answerer.model)?,
        answerer: &answerer,
        context,
        waiting: VecDeque::new(),
    };
    run_task(&args.common, Keys { text: "question", pair: "context", ..Keys::TEXTS }, task, console)
}

struct Answering<'a> {
    rt: &'a Runtime,
    json: bool,
    answerer: &'a Answerer,
    windows: WindowConfig,
    ranking: RankingConfig,
    runner: LogitsRunner<'a>,
    /// Of all questions that come without one.
    context: Option<String>,
    /// The windows of the questions without an answer yet, in order.
    waiting: VecDeque<QuestionWindows>,
}

impl Task for Answering<'_> {
    /// Start and end logits of a window, `[seq]` each.
    type Output = [Vec<f32>; 2];

    fn encode(&mut self, input: &Input) -> anyhow::Result<Vec<Encoding>> {
        let context = input.pair.as_ref().or(self.context.as_ref()).context(
            "expected a context beside the question: --context, --context-file, or \
             {\"question\": ..., \"context\": ...} with --input-format jsonl",
        )?;
        for (name, text) in [("question", &input.text), ("context", context)] {
            ensure!(!text.trim().is_empty(), "{name}: expected some text, found none");
        }
        let set = QuestionSet::single(&input.text, context);
        let windows = QuestionWindows::new(&set, &self.answerer.tokenizer, self.windows, 1)?;
        let all: Vec<usize> = (0..windows.windows().len()).collect();
        let sequences = windows.encoded(&all).texts.into_iter().map(|text| Encoding {
            input_ids: text.input_ids,
            token_type_ids: text.token_type_ids,
            // Nothing of a context is ever cut.
            truncated_tokens: windows.truncated_tokens(0),
            ..Encoding::default()
        });
        let sequences = sequences.collect();
        self.waiting.push_back(windows);
        Ok(sequences)
    }

    fn run(&mut self, batch: &Batch, _: &[&Encoding]) -> anyhow::Result<Vec<[Vec<f32>; 2]>> {
        let mut rest = self.runner.run(self.rt, batch)?;
        let split = |length: usize| {
            let (own, others) = rest.split_at(2 * length); // [seq, 2]
            rest = others;
            let mut starts = starts_then_ends(own); // [2, seq]
            let ends = starts.split_off(length);
            [starts, ends]
        };
        Ok(batch.lengths().map(split).collect())
    }

    fn answer(&mut self, asked: &Asked<[Vec<f32>; 2]>, out: &mut dyn Write) -> anyhow::Result<()> {
        let Some(windows) = self.waiting.pop_front() else { return Ok(()) };
        let context = asked.input.pair.as_ref().or(self.context.as_ref()).map_or("", String::as_str);
        let mut ranking = Ranking::new(context, self.ranking);
        for (window, [starts, ends]) in windows.windows().iter().zip(&asked.outputs) {
            ranking.add(&windows, window, starts, ends)?;
        }
        let answers = ranking.finish();
        let shown: Vec<ShownAnswer> =
            answers.iter().map(|answer| answer.shown(context, asked.truncated_tokens())).collect();
        if !self.json {
            for ShownAnswer { score, start, end, answer, .. } in &shown {
                let (answer, question) = (one_line(answer), one_line(&asked.input.text));
                writeln!(out, "{answer}\t{score:.4}\t{start}\t{end}\t{question}")?;
            }
            return Ok(());
        }
        match &shown[..] {
            [only] if self.ranking.top_k == 1 => write_json(out, only),
            all => write_json(out, &all),
        }
    }
}
