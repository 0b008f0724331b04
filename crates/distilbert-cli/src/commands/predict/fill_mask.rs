//! `distilbert predict fill-mask`: what a masked language model puts in the place of its mask tokens.

use super::{Asked, CommonArgs, Input, Keys, Task, one_line, run_task, write_json};
use crate::console::Console;
use crate::model_source;
use anyhow::{Context, bail};
use clap::Args;
use distilbert::checkpoint::model_folder::read_config;
use distilbert::data::batch::Batch;
use distilbert::model::HeadKind;
use distilbert::predict::fill_mask::{Candidates, FillMaskRunner, Filled, Filling, Mask, fill, mask_places, target};
use distilbert::tokenizer::{Encoding, Tokenizer};
use distilbert_kernels::Runtime;
use std::io::Write;

#[derive(Debug, Args)]
pub struct FillMaskArgs {
    #[command(flatten)]
    common: CommonArgs,
    /// Give this many tokens for each mask, the likeliest first.
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    top_k: u32,
    /// Choose among these words only; of a word of several tokens the first counts. May be given several times.
    #[arg(long, value_name = "WORD,...", value_delimiter = ',')]
    targets: Vec<String>,
    /// Cut inputs to this many tokens [default: all that the model can take]
    #[arg(long, value_name = "TOKENS")]
    max_length: Option<usize>,
}

pub fn run(args: &FillMaskArgs, rt: &Runtime, console: &Console) -> anyhow::Result<()> {
    let name = &args.common.model;
    let folder = model_source::resolve(name, console)?;
    let head = read_config(&folder)?.head;
    if head != HeadKind::MaskedLm {
        bail!("model `{name}`: expected a masked-LM head, found {}", head.class_suffix());
    }
    let (model, tokenizer) = args.common.precision.load(name, &folder, rt, console)?;
    let max_length = model_source::max_length(args.max_length, model.config.encoder.max_positions, &model)?;
    let targets = find_targets(&args.targets, &tokenizer, console)?;
    let runner = FillMaskRunner::new(&model).context("expected a masked-LM head, found another")?;
    let task = FillMask { args, rt, tokenizer: &tokenizer, runner, max_length, targets };
    run_task(&args.common, Keys::TEXTS, task, console)
}

/// Ids of the words asked for, each once.
fn find_targets(words: &[String], tokenizer: &Tokenizer, console: &Console) -> anyhow::Result<Vec<u32>> {
    let mut ids = Vec::new();
    for word in words {
        let id = target(tokenizer, word).with_context(|| format!("--targets: expected a word, found {word:?}"))?;
        if tokenizer.id(word).is_none() {
            let token = tokenizer.token(id).unwrap_or_default();
            console.warn(&format!("--targets: {word:?} is no token of the vocabulary; `{token}` stands for it"));
        }
        if !ids.contains(&id) {
            ids.push(id);
        }
    }
    Ok(ids)
}

struct FillMask<'a> {
    args: &'a FillMaskArgs,
    rt: &'a Runtime,
    tokenizer: &'a Tokenizer,
    runner: FillMaskRunner<'a>,
    max_length: usize,
    /// None: the whole vocabulary.
    targets: Vec<u32>,
}

impl Task for FillMask<'_> {
    /// For each mask, the likeliest tokens.
    type Output = Vec<Vec<Filling>>;

    fn encode(&mut self, input: &Input) -> anyhow::Result<Vec<Encoding>> {
        let encoding = self.tokenizer.encode(&input.text, input.pair.as_deref(), Some(self.max_length));
        if mask_places(self.tokenizer, &encoding).is_empty() {
            let mask = self.tokenizer.token(self.tokenizer.special().mask).unwrap_or_default();
            let place = if encoding.truncated_tokens > 0 {
                format!(" in the first {} tokens", encoding.len())
            } else {
                String::new()
            };
            bail!("expected at least one {mask}{place}, found none");
        }
        Ok(vec![encoding])
    }

    fn run(&mut self, batch: &Batch, sequences: &[&Encoding]) -> anyhow::Result<Vec<Self::Output>> {
        let candidates = if self.targets.is_empty() { Candidates::All } else { Candidates::Only(&self.targets) };
        let top = self.args.top_k as usize;
        let masks: Vec<Vec<Mask>> = sequences
            .iter()
            .zip(batch.first_tokens())
            .map(|(sequence, start)| {
                let places = mask_places(self.tokenizer, sequence);
                places.into_iter().map(|place| Mask { token: start + place as u32, candidates, top }).collect()
            })
            .collect();
        let fillings = self.runner.run(self.rt, batch, &masks.concat())?;
        if fillings.iter().flatten().any(|filling| !filling.probability.is_finite()) {
            bail!("expected finite logits, found others");
        }
        let mut fillings = fillings.into_iter();
        Ok(masks.iter().map(|masks| fillings.by_ref().take(masks.len()).collect()).collect())
    }

    fn answer(&mut self, asked: &Asked<Self::Output>, out: &mut dyn Write) -> anyhow::Result<()> {
        let filled = asked.sequences.iter().zip(&asked.outputs);
        let answer: Vec<Vec<Filled>> =
            filled.flat_map(|(sequence, fillings)| fill(self.tokenizer, sequence, fillings)).collect();
        if self.args.common.json {
            return match &answer[..] {
                [only] => write_json(out, only),
                several => write_json(out, &several),
            };
        }
        for filled in answer.iter().flatten() {
            writeln!(out, "{}\t{:.4}\t{}", filled.token_str, filled.score, one_line(&filled.sequence))?;
        }
        Ok(())
    }
}
