//! `distilbert predict zero-shot`: labels that a model was never trained on, through natural language inference: is
//! "This example is LABEL." entailed by the text?

use super::{Asked, CommonArgs, Input, Keys, Task, is_zero, one_line, run_task, write_json};
use crate::classifier::Classifier;
use crate::console::Console;
use anyhow::{Context, bail};
use clap::Args;
use distilbert::data::batch::Batch;
use distilbert::data::examples::Problem;
use distilbert::evaluate::predictions::softmax;
use distilbert::predict::LogitsRunner;
use distilbert::tokenizer::Encoding;
use distilbert_kernels::Runtime;
use serde::Serialize;
use std::io::Write;

/// Where the label goes in a hypothesis.
const PLACEHOLDER: &str = "{}";

#[derive(Debug, Args)]
pub struct ZeroShotArgs {
    #[command(flatten)]
    common: CommonArgs,
    /// The labels to choose from.
    #[arg(long, value_name = "LABEL,...", required = true, value_delimiter = ',')]
    labels: Vec<String>,
    /// The sentence that the model judges for each label, which stands at {}.
    #[arg(long, value_name = "TEXT", default_value = "This example is {}.")]
    hypothesis_template: String,
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
    let entailment = entailment(&classifier).with_context(|| format!("model `{name}`"))?;
    let scoring = if args.multi_label || labels.len() == 1 {
        Scoring::Each {
            contradiction: contradiction(&classifier, entailment).with_context(|| format!("model `{name}`"))?,
        }
    } else {
        Scoring::Among
    };
    let positions = classifier.model.config.encoder.max_positions;
    let task = ZeroShot {
        args,
        rt,
        labels,
        hypotheses,
        entailment,
        scoring,
        max_length: classifier.max_length(args.max_length, positions)?,
        runner: LogitsRunner::new(&classifier.model)?,
        classifier: &classifier,
    };
    run_task(&args.common, Keys { text: "text", pair: "text_pair", candidates: None }, task, console)
}

/// The output that says that the text entails the hypothesis.
fn entailment(classifier: &Classifier) -> anyhow::Result<usize> {
    find(classifier, "entail")
        .filter(|_| classifier.problem == Problem::Classification)
        .with_context(|| format!("expected a label that begins with `entail`, found {}", classifier.labels.join(", ")))
}

/// The output that says that it does not: contradiction, or the other one of two.
fn contradiction(classifier: &Classifier, entailment: usize) -> anyhow::Result<usize> {
    let other = (classifier.labels.len() == 2).then_some(1 - entailment.min(1));
    find(classifier, "contradict").or(other).with_context(|| {
        format!(
            "scores of single labels need one that begins with `contradict`, found {}",
            classifier.labels.join(", ")
        )
    })
}

fn find(classifier: &Classifier, beginning: &str) -> Option<usize> {
    classifier.labels.iter().position(|label| label.to_lowercase().starts_with(beginning))
}

/// How the logits of the hypotheses become scores.
enum Scoring {
    /// A softmax over the labels' entailments: the scores sum to 1.
    Among,
    /// For each label a softmax over entailment and contradiction.
    Each { contradiction: usize },
}

struct ZeroShot<'a> {
    args: &'a ZeroShotArgs,
    rt: &'a Runtime,
    labels: Vec<&'a str>,
    /// One for each label.
    hypotheses: Vec<String>,
    entailment: usize,
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
        let entailed = asked.outputs.iter().map(|logits| logits[self.entailment]);
        let scores: Vec<f32> = match self.scoring {
            Scoring::Among => softmax(&entailed.collect::<Vec<_>>()),
            Scoring::Each { contradiction } => asked
                .outputs
                .iter()
                .zip(entailed)
                .map(|(logits, entailed)| softmax(&[logits[contradiction], entailed])[1])
                .collect(),
        };
        let mut order: Vec<usize> = (0..scores.len()).collect();
        order.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]));
        let Input { text, .. } = &asked.input;
        if self.args.common.json {
            let labels = order.iter().map(|&label| self.labels[label]).collect();
            let scores = order.iter().map(|&label| scores[label]).collect();
            return write_json(
                out,
                &Judged { sequence: text, labels, scores, truncated_tokens: asked.truncated_tokens() },
            );
        }
        for label in order.into_iter().take(self.args.top_k as usize) {
            writeln!(out, "{}\t{:.4}\t{}", self.labels[label], scores[label], one_line(text))?;
        }
        Ok(())
    }
}

/// A result in the shape of Hugging Face's zero-shot-classification pipeline.
#[derive(Serialize)]
struct Judged<'a> {
    sequence: &'a str,
    /// The likeliest first.
    labels: Vec<&'a str>,
    /// In the order of `labels`.
    scores: Vec<f32>,
    #[serde(skip_serializing_if = "is_zero")]
    truncated_tokens: usize,
}
