//! `distilbert predict embed`: texts as vectors.

use super::{Asked, CommonArgs, Input, Keys, Task, run_task, write_json};
use crate::console::Console;
use crate::sentence_encoder::{PoolingChoice, SentenceEncoder};
use anyhow::{bail, ensure};
use clap::{ArgAction, Args};
use distilbert::checkpoint::NpyWriter;
use distilbert::data::batch::Batch;
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
    let choice = crate::sentence_encoder::HeadFlags {
        pooling: args.pooling,
        normalize: args.normalize,
        precision: args.common.precision.named()?,
    };
    let encoder = SentenceEncoder::load(&args.common.model, choice, args.max_length, rt, console)?;
    let runner = EmbeddingRunner::new(&encoder.model, args.dimensions)?;
    let file = match &args.output {
        Some(path) => Some(NpyWriter::create(path, runner.dimensions())?),
        None => None,
    };
    let mut task = Embed {
        json: args.common.json,
        rt,
        prompt: encoder.settings.prompt(args.prompt.as_deref())?,
        encoder: &encoder,
        runner,
        file,
    };
    run_task(&args.common, Keys { text: "text", pair: "text_pair", candidates: None }, &mut task, console)?;
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
        if input.pair.is_some() {
            bail!("expected one text, found a pair");
        }
        let text = format!("{}{}", self.prompt, input.text);
        Ok(vec![self.encoder.tokenizer.encode(&text, None, Some(self.encoder.max_length))])
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

/// A vector with what it was made from.
#[derive(Serialize)]
struct Embedded<'a> {
    embedding: &'a [f32],
    tokens: usize,
    truncated_tokens: usize,
}
