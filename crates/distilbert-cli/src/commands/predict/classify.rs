//! `distilbert predict classify`: labels of texts or pairs.

use super::{Asked, CommonArgs, Input, Keys, Task, one_line, run_task, write_json};
use crate::classifier::Classifier;
use crate::console::Console;
use anyhow::{bail, ensure};
use clap::{Args, ValueEnum};
use distilbert::data::batch::Batch;
use distilbert::data::examples::Problem;
use distilbert::predict::LogitsRunner;
use distilbert::predict::classify::{ScoreFunction, ScoredLabel, ranked, scores_by};
use distilbert::tokenizer::Encoding;
use distilbert_kernels::Runtime;
use std::io::Write;

#[derive(Debug, Args)]
pub struct ClassifyArgs {
    #[command(flatten)]
    common: CommonArgs,
    /// Give this many labels for each input, the likeliest first.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    top_k: Option<u32>,
    /// Give every label whose score is at least this, the likeliest first: for models of several labels a text.
    #[arg(long, value_name = "SCORE")]
    threshold: Option<f32>,
    /// How logits become scores [default: as the model's kind of labels has it]
    #[arg(long, value_enum)]
    function_to_apply: Option<FunctionChoice>,
    /// Cut inputs to this many tokens [default: as the model was trained, or all it can take]
    #[arg(long, value_name = "TOKENS")]
    max_length: Option<usize>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum FunctionChoice {
    /// Each score is a probability of its own.
    Sigmoid,
    /// Probabilities that sum to 1.
    Softmax,
    /// The logits themselves.
    None,
}

impl From<FunctionChoice> for ScoreFunction {
    fn from(choice: FunctionChoice) -> ScoreFunction {
        match choice {
            FunctionChoice::Sigmoid => ScoreFunction::Sigmoid,
            FunctionChoice::Softmax => ScoreFunction::Softmax,
            FunctionChoice::None => ScoreFunction::None,
        }
    }
}

pub fn run(args: &ClassifyArgs, rt: &Runtime, console: &Console) -> anyhow::Result<()> {
    let classifier =
        Classifier::load_in(args.common.precision, &args.common.model, rt, console)?.of_texts(&args.common.model)?;
    if let Some(threshold) = args.threshold {
        if !(0.0..=1.0).contains(&threshold) {
            bail!("--threshold: expected 0 to 1, found {threshold}");
        }
        if classifier.problem == Problem::Regression {
            bail!("--threshold: expected a model of labels, found one for a number");
        }
    }
    let positions = classifier.model.config.encoder.max_positions;
    let task = Classify {
        args,
        rt,
        max_length: classifier.max_length(args.max_length, positions)?,
        runner: LogitsRunner::new(&classifier.model)?,
        classifier: &classifier,
    };
    run_task(&args.common, Keys::TEXTS, task, console)
}

struct Classify<'a> {
    args: &'a ClassifyArgs,
    rt: &'a Runtime,
    classifier: &'a Classifier,
    runner: LogitsRunner<'a>,
    max_length: usize,
}

impl Task for Classify<'_> {
    /// Logits, `[labels]`.
    type Output = Vec<f32>;

    fn encode(&mut self, input: &Input) -> anyhow::Result<Vec<Encoding>> {
        self.classifier.check_kind(input.pair.is_some())?;
        Ok(vec![self.classifier.tokenizer.encode(&input.text, input.pair.as_deref(), Some(self.max_length))])
    }

    fn run(&mut self, batch: &Batch, _: &[&Encoding]) -> anyhow::Result<Vec<Vec<f32>>> {
        let width = self.classifier.labels.len().max(1);
        Ok(self.runner.run(self.rt, batch)?.chunks_exact(width).map(<[f32]>::to_vec).collect())
    }

    fn answer(&mut self, asked: &Asked<Vec<f32>>, out: &mut dyn Write) -> anyhow::Result<()> {
        let Input { text, pair, .. } = &asked.input;
        for logits in &asked.outputs {
            ensure!(logits.iter().all(|logit| logit.is_finite()), "expected finite logits, found {logits:?}");
            let function = self.args.function_to_apply.map(ScoreFunction::from);
            let scores = scores_by(function, self.classifier.problem, &self.classifier.calibrated(logits));
            let mut scored = ranked(&self.classifier.labels, &scores, asked.truncated_tokens());
            let asked_for = self.args.top_k.map(|top| top as usize);
            if let Some(threshold) = self.args.threshold {
                scored.retain(|label| label.score >= threshold);
            }
            let is_list = asked_for.is_some() || self.args.threshold.is_some();
            scored.truncate(asked_for.unwrap_or(if is_list { usize::MAX } else { 1 }));
            if !self.args.common.json {
                let texts = [Some(text), pair.as_ref()];
                let shown: Vec<String> = texts.into_iter().flatten().map(|text| one_line(text)).collect();
                if scored.is_empty() {
                    writeln!(out, "-\t-\t{}", shown.join("\t"))?;
                }
                for ScoredLabel { label, score, .. } in scored {
                    writeln!(out, "{label}\t{score:.4}\t{}", shown.join("\t"))?;
                }
                continue;
            }
            match scored.first() {
                Some(best) if !is_list => write_json(out, best)?,
                _ => write_json(out, &scored)?,
            }
        }
        Ok(())
    }
}
