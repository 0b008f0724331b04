//! `distilbert predict attention`: which token of a text looks at which.

use super::{Asked, CommonArgs, Input, Keys, Task, is_zero, run_task, write_json};
use crate::console::Console;
use crate::model_source;
use anyhow::{Context, bail};
use base64::Engine as _;
use clap::Args;
use distilbert::checkpoint::write_atomic;
use distilbert::data::batch::Batch;
use distilbert::model::Model;
use distilbert::predict::attention_maps::AttentionMaps;
use distilbert::tokenizer::{Encoding, Tokenizer};
use distilbert_kernels::Runtime;
use serde::Serialize;
use std::io::Write;
use std::path::PathBuf;

/// The page; the data takes the place of [`DATA_MARK`].
const PAGE: &str = include_str!("attention.html");
const DATA_MARK: &str = "ATTENTION_DATA";

/// Tokens shown to people as what a token looks at.
const SHOWN: usize = 3;

#[derive(Debug, Args)]
pub struct AttentionArgs {
    #[command(flatten)]
    common: CommonArgs,
    /// Write a page that shows every layer and head of the one text, and needs nothing else.
    #[arg(long, value_name = "FILE.html", conflicts_with = "json")]
    html: Option<PathBuf>,
    /// Cut texts to this many tokens [default: all that the model can take]
    #[arg(long, value_name = "TOKENS")]
    max_length: Option<usize>,
}

pub fn run(args: &AttentionArgs, rt: &Runtime, console: &Console) -> anyhow::Result<()> {
    args.common.input.check_output(args.html.as_deref())?;
    let name = &args.common.model;
    let folder = model_source::resolve(name, console)?;
    let (model, tokenizer) = args.common.precision.load(name, &folder, rt, console)?;
    let max_length = model_source::max_length(args.max_length, model.config.encoder.max_positions, &model)?;
    let task = Attention { args, rt, model: &model, tokenizer: &tokenizer, max_length, page: None };
    run_task(&args.common, Keys::TEXTS, task, console)
}

struct Attention<'a> {
    args: &'a AttentionArgs,
    rt: &'a Runtime,
    model: &'a Model,
    tokenizer: &'a Tokenizer,
    max_length: usize,
    /// Of --html; written once it is known to be the only one.
    page: Option<String>,
}

impl Task for Attention<'_> {
    type Output = AttentionMaps;

    fn encode(&mut self, input: &Input) -> anyhow::Result<Vec<Encoding>> {
        Ok(vec![self.tokenizer.encode(&input.text, input.pair.as_deref(), Some(self.max_length))])
    }

    fn run(&mut self, _: &Batch, sequences: &[&Encoding]) -> anyhow::Result<Vec<AttentionMaps>> {
        let maps = |sequence: &&Encoding| {
            Ok(AttentionMaps::new(self.rt, self.model, &sequence.input_ids, &sequence.token_type_ids)?)
        };
        sequences.iter().map(maps).collect()
    }

    fn answer(&mut self, asked: &Asked<AttentionMaps>, out: &mut dyn Write) -> anyhow::Result<()> {
        for (sequence, maps) in asked.sequences.iter().zip(&asked.outputs) {
            let ids = sequence.input_ids.iter();
            let tokens: Vec<&str> = ids.map(|&id| self.tokenizer.token(id).unwrap_or_default()).collect();
            if self.args.html.is_some() {
                if self.page.is_some() {
                    bail!("--html: expected one text, found more");
                }
                self.page = Some(page(maps, &tokens)?);
            } else if self.args.common.json {
                let size = maps.tokens.max(1);
                let head = |layer, head| maps.head(layer, head).chunks(size).collect();
                let heads = |layer| (0..maps.heads).map(|at| head(layer, at)).collect();
                let attention = (0..maps.layers).map(heads).collect();
                write_json(out, &Shown { tokens, attention, truncated_tokens: asked.truncated_tokens() })?;
            } else {
                summarise(maps, &tokens, out)?;
            }
        }
        Ok(())
    }

    fn finish(&mut self, out: &mut dyn Write) -> anyhow::Result<()> {
        let Some(path) = &self.args.html else { return Ok(()) };
        let page = self.page.take().context("--html: expected one text, found none")?;
        write_atomic(path, page.as_bytes())?;
        Ok(writeln!(out, "{}", path.display())?)
    }
}

/// For each token, what it looks at most in the last layer, in the mean over its heads.
fn summarise(maps: &AttentionMaps, tokens: &[&str], out: &mut dyn Write) -> anyhow::Result<()> {
    let last = maps.layers.checked_sub(1).context("expected a model with layers, found none")?;
    let mean = maps.layer_mean(last);
    for (token, row) in tokens.iter().zip(mean.chunks(maps.tokens.max(1))) {
        let mut order: Vec<usize> = (0..row.len()).collect();
        order.sort_by(|&a, &b| row[b].total_cmp(&row[a]));
        let most: Vec<String> = order.iter().take(SHOWN).map(|&at| format!("{} {:.4}", tokens[at], row[at])).collect();
        writeln!(out, "{token}\t{}", most.join("\t"))?;
    }
    Ok(())
}

/// What `--json` prints.
#[derive(Serialize)]
struct Shown<'a> {
    /// As the vocabulary spells them.
    tokens: Vec<&'a str>,
    /// `[layers][heads][tokens][tokens]`
    attention: Vec<Vec<Vec<&'a [f32]>>>,
    #[serde(skip_serializing_if = "is_zero")]
    truncated_tokens: usize,
}

/// What the page reads.
#[derive(Serialize)]
struct PageData<'a> {
    tokens: &'a [&'a str],
    layers: usize,
    heads: usize,
    /// `[layers, heads, tokens, tokens]` as 16-bit fractions of 65535, little end first, in base64.
    attention: String,
}

fn page(maps: &AttentionMaps, tokens: &[&str]) -> anyhow::Result<String> {
    let fraction = |&p: &f32| (p * f32::from(u16::MAX)).round() as u16;
    let bytes: Vec<u8> = maps.probabilities.iter().flat_map(|p| fraction(p).to_le_bytes()).collect();
    let attention = base64::engine::general_purpose::STANDARD.encode(bytes);
    let data = PageData { tokens, layers: maps.layers, heads: maps.heads, attention };
    // A token must not end the element that holds it.
    let json = serde_json::to_string(&data)?.replace('<', "\\u003c");
    Ok(PAGE.replace(DATA_MARK, &json))
}
