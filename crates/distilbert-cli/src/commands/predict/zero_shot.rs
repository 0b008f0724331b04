//! `distilbert predict zero-shot`: labels that a model was never trained on, through natural language inference: is
//! "This example is LABEL." entailed by the text?

use super::{Asked, CommonArgs, Input, Keys, Task, one_line, run_task, write_json};
use crate::classifier::Classifier;
use crate::console::Console;
use anyhow::{Context, bail};
use clap::Args;
use distilbert::data::batch::Batch;
use distilbert::predict::LogitsRunner;
use distilbert::predict::zero_shot::{DEFAULT_TEMPLATE, Judged, PLACEHOLDER, Scoring, Verdicts};
use distilbert::tokenizer::Encoding;
use distilbert_kernels::Runtime;
use std::io::Write;

#[derive(Debug, Args)]
pub struct ZeroShotArgs {
    #[command(flatten)]
    common: CommonArgs,
    /// The labels to choose from.
    #[arg(long, value_name = "LABEL,...", required = true, value_delimiter = ',')]
    labels: Vec<String>,
    /// The sentence that the model judges for each label, which stands at {}.
    #[arg(long, value_name = "TEXT", default_value = DEFAULT_TEMPLATE)]
    hypothesis_template: String,
    /// The model's label for a sentence that follows [default: the one that begins with `entail`]
    #[arg(long, value_name = "LABEL")]
    entailment_label: Option<String>,
    /// Its label for one of which the opposite follows [default: the one that begins with `contradict`, or of two labels
    /// the other one]
    #[arg(long, value_name = "LABEL")]
    contradiction_label: Option<String>,
    /// Labels do not exclude each other: each gets a score of its own.
    #[arg(long)]
    multi_label: bool,
    /// Show people this many labels for each input, the likeliest first; JSON has all.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    top_k: u32,
    /// Cut texts so that with the longest hypothesis they have this many tokens [default: as the model was trained, or
    /// all it can take]
    #[arg(long, value_name = "TOKENS")]
    max_length: Option<usize>,
}

pub fn run(args: &ZeroShotArgs, rt: &Runtime, console: &Console) -> anyhow::Result<()> {
    let name = &args.common.model;
    let labels: Vec<&str> = args.labels.iter().map(|label| label.trim()).filter(|label| !label.is_empty()).collect();
    if labels.is_empty() {
        bail!("--labels: expected at least one label, found none");
    }
    if !args.hypothesis_template.contains(PLACEHOLDER) {
        bail!("--hypothesis-template: expected {PLACEHOLDER} for the label, found {:?}", args.hypothesis_template);
    }
    let hypotheses: Vec<String> =
        labels.iter().map(|label| args.hypothesis_template.replace(PLACEHOLDER, label)).collect();
    let classifier = Classifier::load_in(args.common.precision, name, rt, console)?.of_texts(name)?;
    let each = args.multi_label || labels.len() == 1;
    let verdicts =
        Verdicts { entailment: args.entailment_label.as_deref(), contradiction: args.contradiction_label.as_deref() };
    let scoring = Scoring::of(classifier.problem, &classifier.labels, verdicts, each);
    let scoring = scoring.with_context(|| format!("model `{name}`"))?;
    let positions = classifier.model.config.encoder.max_positions;
    let task = ZeroShot {
        args,
        rt,
        labels,
        hypotheses,
        scoring,
        max_length: classifier.max_length(args.max_length, positions)?,
        runner: LogitsRunner::new(&classifier.model)?,
        classifier: &classifier,
    };
    run_task(&args.common, Keys::TEXTS, task, console)
}

struct ZeroShot<'a> {
    args: &'a ZeroShotArgs,
    rt: &'a Runtime,
    labels: Vec<&'a str>,
    /// One for each label.
    hypotheses: Vec<String>,
    scoring: Scoring,
    max_length: usize,
    runner: LogitsRunner<'a>,
    classifier: &'a Classifier,
}

impl Task for ZeroShot<'_> {
    /// Logits, `[labels of the model]`.
    type Output = Vec<f32>;

    fn encode(&mut self, input: &Input) -> anyhow::Result<Vec<Encoding>> {
        if input.pair.is_some() {
            bail!("expected one text, found a pair");
        }
        let tokenizer = &self.classifier.tokenizer;
        let encode = |hypothesis: &String| {
            let encoding = tokenizer.encode_keeping_pair(&input.text, hypothesis, self.max_length);
            encoding.with_context(|| {
                format!("expected a hypothesis that leaves room in {} tokens, found {hypothesis:?}", self.max_length)
            })
        };
        self.hypotheses.iter().map(encode).collect()
    }

    fn run(&mut self, batch: &Batch, _: &[&Encoding]) -> anyhow::Result<Vec<Vec<f32>>> {
        let width = self.classifier.labels.len().max(1);
        Ok(self.runner.run(self.rt, batch)?.chunks_exact(width).map(<[f32]>::to_vec).collect())
    }

    fn answer(&mut self, asked: &Asked<Vec<f32>>, out: &mut dyn Write) -> anyhow::Result<()> {
        if let Some(logits) = asked.outputs.iter().find(|logits| logits.iter().any(|x| !x.is_finite())) {
            bail!("expected finite logits, found {logits:?}");
        }
        let scores = self.scoring.scores(&asked.outputs);
        let Input { text, .. } = &asked.input;
        let judged = Judged::new(text, &self.labels, &scores, asked.truncated_tokens());
        if self.args.common.json {
            return write_json(out, &judged);
        }
        for (label, score) in judged.labels.iter().zip(&judged.scores).take(self.args.top_k as usize) {
            writeln!(out, "{label}\t{score:.4}\t{}", one_line(text))?;
        }
        Ok(())
    }
}
