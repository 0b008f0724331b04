//! `distilbert predict embed`: texts as vectors.

use super::{Asked, CommonArgs, Input, Keys, Task, run_task, write_json};
use crate::console::Console;
use crate::sentence_encoder::{PoolingChoice, SentenceEncoder};
use anyhow::{bail, ensure};
use clap::{ArgAction, Args};
use distilbert::checkpoint::NpyWriter;
use distilbert::data::batch::Batch;
use distilbert::model::Mode;
use distilbert::model::encoder::Activations;
use distilbert::predict::EmbeddingRunner;
use distilbert::tokenizer::Encoding;
use distilbert_kernels::Runtime;
use serde::Serialize;
use std::io::Write;
use std::path::PathBuf;

#[derive(Debug, Args)]
pub struct EmbedArgs {
    #[command(flatten)]
    common: CommonArgs,
    /// Write the vectors as a NumPy file of f32, `[texts, dimensions]`, instead of printing them.
    #[arg(long, short, value_name = "FILE.npy", conflicts_with = "json")]
    output: Option<PathBuf>,
    /// Print the states of all tokens, special ones included, instead of one vector: `[1, tokens, hidden]` as JSON, as the
    /// feature-extraction pipeline gives it.
    #[arg(long, conflicts_with_all = ["output", "pooling", "normalize", "dimensions"])]
    states: bool,
    /// How states become one vector [default: as the model's folder says, or the mean]
    #[arg(long, value_enum)]
    pooling: Option<PoolingChoice>,
    /// Whether vectors are scaled to length one [default: as the model's folder says, or true]
    #[arg(long, value_name = "BOOL", action = ArgAction::Set)]
    normalize: Option<bool>,
    /// Keep the first numbers of each vector only; they are scaled to length one again.
    #[arg(long, value_name = "N")]
    dimensions: Option<usize>,
    /// Put the model's prompt of this name in front of each text [default: the model's default prompt, if it has one]
    #[arg(long, value_name = "NAME")]
    prompt: Option<String>,
    /// Cut inputs to this many tokens [default: as the model's folder says, or all it can take]
    #[arg(long, value_name = "TOKENS")]
    max_length: Option<usize>,
}

pub fn run(args: &EmbedArgs, rt: &Runtime, console: &Console) -> anyhow::Result<()> {
    args.common.input.check_output(args.output.as_deref())?;
    let choice = crate::sentence_encoder::HeadFlags {
        pooling: args.pooling,
        normalize: args.normalize,
        precision: args.common.precision.named()?,
    };
    let encoder = SentenceEncoder::load(&args.common.model, choice, args.max_length, rt, console)?;
    let prompt = encoder.settings.prompt(args.prompt.as_deref())?;
    if args.states {
        let task = States { rt, prompt, encoder: &encoder, activations: Activations::default() };
        return run_task(&args.common, Keys::TEXTS, task, console);
    }
    let runner = EmbeddingRunner::new(&encoder.model, args.dimensions)?;
    let file = match &args.output {
        Some(path) => Some(NpyWriter::create(path, runner.dimensions())?),
        None => None,
    };
    let mut task = Embed { json: args.common.json, rt, prompt, encoder: &encoder, runner, file };
    run_task(&args.common, Keys::TEXTS, &mut task, console)?;
    if let (Some(file), Some(path)) = (task.file, &args.output) {
        let rows = file.finish()?;
        console.say(&format!("{}: {rows} vectors", path.display()));
    }
    Ok(())
}

struct Embed<'a> {
    json: bool,
    rt: &'a Runtime,
    prompt: &'a str,
    encoder: &'a SentenceEncoder,
    runner: EmbeddingRunner<'a>,
    file: Option<NpyWriter>,
}

/// Borrowed, since the file is finished when all is answered.
impl Task for &mut Embed<'_> {
    /// An embedding.
    type Output = Vec<f32>;

    fn encode(&mut self, input: &Input) -> anyhow::Result<Vec<Encoding>> {
        encode(self.encoder, self.prompt, input)
    }

    fn run(&mut self, batch: &Batch, _: &[&Encoding]) -> anyhow::Result<Vec<Vec<f32>>> {
        let width = self.runner.dimensions();
        Ok(self.runner.run(self.rt, batch)?.chunks_exact(width).map(<[f32]>::to_vec).collect())
    }

    fn answer(&mut self, asked: &Asked<Vec<f32>>, out: &mut dyn Write) -> anyhow::Result<()> {
        for vector in &asked.outputs {
            ensure!(vector.iter().all(|x| x.is_finite()), "expected a vector of finite numbers, found {vector:?}");
            match (&mut self.file, self.json) {
                (Some(file), _) => file.push(vector)?,
                (None, false) => write_json(out, vector)?,
                (None, true) => write_json(
                    out,
                    &Embedded {
                        embedding: vector,
                        tokens: asked.sequences.iter().map(Encoding::len).sum(),
                        truncated_tokens: asked.truncated_tokens(),
                    },
                )?,
            }
        }
        Ok(())
    }
}

struct States<'a> {
    rt: &'a Runtime,
    prompt: &'a str,
    encoder: &'a SentenceEncoder,
    activations: Activations,
}

impl Task for States<'_> {
    /// States `[tokens, hidden]`.
    type Output = Vec<f32>;

    fn encode(&mut self, input: &Input) -> anyhow::Result<Vec<Encoding>> {
        encode(self.encoder, self.prompt, input)
    }

    fn run(&mut self, batch: &Batch, _: &[&Encoding]) -> anyhow::Result<Vec<Vec<f32>>> {
        let model = &self.encoder.model;
        model.check(batch)?;
        model.encode(self.rt, batch, Mode::Inference, &mut self.activations);
        let mut rest = self.activations.last_hidden_state();
        let mut take = |length: usize| {
            let (own, others) = rest.split_at(length * model.config.encoder.hidden);
            rest = others;
            own.to_vec()
        };
        Ok(batch.lengths().map(&mut take).collect())
    }

    fn answer(&mut self, asked: &Asked<Vec<f32>>, out: &mut dyn Write) -> anyhow::Result<()> {
        let hidden = self.encoder.model.config.encoder.hidden;
        for states in &asked.outputs {
            ensure!(states.iter().all(|x| x.is_finite()), "expected states of finite numbers");
            write_json(out, &[states.chunks_exact(hidden).collect::<Vec<_>>()])?;
        }
        Ok(())
    }
}

fn encode(encoder: &SentenceEncoder, prompt: &str, input: &Input) -> anyhow::Result<Vec<Encoding>> {
    if input.pair.is_some() {
        bail!("expected one text, found a pair");
    }
    let text = format!("{prompt}{}", input.text);
    Ok(vec![encoder.tokenizer.encode(&text, None, Some(encoder.max_length))])
}

/// A vector with what it was made from.
#[derive(Serialize)]
struct Embedded<'a> {
    embedding: &'a [f32],
    tokens: usize,
    truncated_tokens: usize,
}
