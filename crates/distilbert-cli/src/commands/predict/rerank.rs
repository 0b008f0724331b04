//! `distilbert predict rerank`: how well texts answer a query, by a model of one output that reads both together.

use super::{Asked, CommonArgs, Input, Keys, Task, is_zero, one_line, run_task, write_json};
use crate::classifier::Classifier;
use crate::console::Console;
use anyhow::bail;
use clap::Args;
use distilbert::data::batch::Batch;
use distilbert::evaluate::predictions::sigmoid;
use distilbert::predict::LogitsRunner;
use distilbert::tokenizer::Encoding;
use distilbert_kernels::Runtime;
use serde::Serialize;
use std::io::Write;

/// With --top-k, this many texts more than asked for are kept before the worst are dropped.
const SPARE: usize = 1024;

#[derive(Debug, Args)]
pub struct RerankArgs {
    #[command(flatten)]
    common: CommonArgs,
    /// Rank all inputs for this query [default: each input is {"query": ..., "texts": [...]}, a ranking of its own]
    #[arg(long, value_name = "TEXT")]
    query: Option<String>,
    /// Give the best N only.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    top_k: Option<u32>,
    /// Give the model's output instead of its sigmoid.
    #[arg(long)]
    raw_scores: bool,
    /// Repeat the texts in JSON.
    #[arg(long, requires = "json")]
    return_text: bool,
    /// Cut query and text together to this many tokens [default: as the model was trained, or all it can take]
    #[arg(long, value_name = "TOKENS")]
    max_length: Option<usize>,
}

pub fn run(args: &RerankArgs, rt: &Runtime, console: &Console) -> anyhow::Result<()> {
    let name = &args.common.model;
    let classifier = Classifier::load_in(args.common.precision, name, rt, console)?.of_texts(name)?;
    if classifier.labels.len() != 1 {
        let labels = classifier.labels.join(", ");
        bail!("model `{name}`: expected one output, found {} ({labels})", classifier.labels.len());
    }
    let positions = classifier.model.config.encoder.max_positions;
    let task = Rerank {
        args,
        rt,
        max_length: classifier.max_length(args.max_length, positions)?,
        runner: LogitsRunner::new(&classifier.model)?,
        classifier: &classifier,
        ranked: Vec::new(),
        seen: 0,
    };
    let keys = match args.query {
        Some(_) => Keys::TEXTS,
        None => Keys { text: "query", pair: "text", candidates: Some("texts"), ..Keys::TEXTS },
    };
    run_task(&args.common, keys, task, console)
}

struct Rerank<'a> {
    args: &'a RerankArgs,
    rt: &'a Runtime,
    classifier: &'a Classifier,
    runner: LogitsRunner<'a>,
    max_length: usize,
    /// With --query, the inputs so far, and their number.
    ranked: Vec<Ranked>,
    seen: usize,
}

impl Task for Rerank<'_> {
    /// The score.
    type Output = f32;

    fn encode(&mut self, input: &Input) -> anyhow::Result<Vec<Encoding>> {
        let encode =
            |query: &str, text: &str| self.classifier.tokenizer.encode(query, Some(text), Some(self.max_length));
        match &self.args.query {
            Some(_) if input.pair.is_some() => bail!("expected one text to rank, found a pair"),
            Some(query) => Ok(vec![encode(query, &input.text)]),
            None if input.candidates.is_empty() => {
                bail!("expected {{\"query\": ..., \"texts\": [...]}} with at least one text, or --query for all inputs")
            }
            None => Ok(input.candidates.iter().map(|text| encode(&input.text, text)).collect()),
        }
    }

    fn run(&mut self, batch: &Batch, _: &[&Encoding]) -> anyhow::Result<Vec<f32>> {
        let logits = self.runner.run(self.rt, batch)?;
        if let Some(found) = logits.iter().find(|logit| !logit.is_finite()) {
            bail!("expected finite scores, found {found}");
        }
        Ok(if self.args.raw_scores { logits.to_vec() } else { logits.iter().map(|&logit| sigmoid(logit)).collect() })
    }

    fn answer(&mut self, asked: &Asked<f32>, out: &mut dyn Write) -> anyhow::Result<()> {
        let Input { text, candidates, .. } = &asked.input;
        let texts = if self.args.query.is_some() { std::slice::from_ref(text) } else { candidates };
        for ((text, sequence), &score) in texts.iter().zip(&asked.sequences).zip(&asked.outputs) {
            let text = Some(text.clone()).filter(|_| self.args.return_text || !self.args.common.json);
            self.ranked.push(Ranked { index: self.seen, score, text, truncated_tokens: sequence.truncated_tokens });
            self.seen += 1;
        }
        if self.args.query.is_none() {
            self.finish(out)?;
            // For people, an empty line between two rankings.
            return if self.args.common.json { Ok(()) } else { Ok(writeln!(out)?) };
        }
        if self.args.top_k.is_some_and(|top| self.ranked.len() >= top as usize + SPARE) {
            self.rank();
        }
        Ok(())
    }

    fn finish(&mut self, out: &mut dyn Write) -> anyhow::Result<()> {
        self.rank();
        self.seen = 0;
        let ranked = std::mem::take(&mut self.ranked);
        if self.args.common.json {
            return if ranked.is_empty() { Ok(()) } else { write_json(out, &ranked) };
        }
        for Ranked { index, score, text, .. } in ranked {
            writeln!(out, "{index}\t{score:.4}\t{}", one_line(text.as_deref().unwrap_or_default()))?;
        }
        Ok(())
    }
}

impl Rerank<'_> {
    /// Best first, of equals the earlier; no more than asked for.
    fn rank(&mut self) {
        self.ranked.sort_by(|a, b| b.score.total_cmp(&a.score).then(a.index.cmp(&b.index)));
        self.ranked.truncate(self.args.top_k.map_or(usize::MAX, |top| top as usize));
    }
}

/// A result in the shape of text-embeddings-inference.
#[derive(Serialize)]
struct Ranked {
    /// Place of the text among those that were given, from 0.
    index: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Option<String>,
    score: f32,
    #[serde(skip_serializing_if = "is_zero")]
    truncated_tokens: usize,
}
