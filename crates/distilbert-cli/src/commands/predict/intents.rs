//! `distilbert predict intents`: what an utterance asks for, and the words that say the particulars.

use super::{Asked, CommonArgs, Input, Keys, Task, one_line, run_task, write_json};
use crate::console::Console;
use crate::intent_model::IntentModel;
use anyhow::ensure;
use clap::Args;
use distilbert::data::batch::Batch;
use distilbert::predict::LogitsRunner;
use distilbert::predict::intents::{Meaning, Understood, understood};
use distilbert::predict::spans::TaggedSpan;
use distilbert::predict::text_windows::TextWindows;
use distilbert::tokenizer::Encoding;
use distilbert_kernels::Runtime;
use std::collections::VecDeque;
use std::io::Write;

#[derive(Debug, Args)]
pub struct IntentsArgs {
    #[command(flatten)]
    common: CommonArgs,
    /// Read texts in windows of this many tokens; the first has the intent [default: as the model was trained]
    #[arg(long, value_name = "TOKENS")]
    max_length: Option<usize>,
}

pub fn run(args: &IntentsArgs, rt: &Runtime, console: &Console) -> anyhow::Result<()> {
    let model = IntentModel::load(args.common.precision, &args.common.model, rt, console)?;
    let task = Intents {
        json: args.common.json,
        rt,
        max_length: model.max_length(args.max_length)?,
        runner: LogitsRunner::new(&model.model)?,
        model: &model,
        windows: VecDeque::new(),
    };
    run_task(&args.common, Keys { words: true, ..Keys::TEXTS }, task, console)
}

struct Intents<'a> {
    json: bool,
    rt: &'a Runtime,
    model: &'a IntentModel,
    runner: LogitsRunner<'a>,
    max_length: usize,
    /// Of each input that waits for its answer.
    windows: VecDeque<TextWindows>,
}

impl Task for Intents<'_> {
    /// Logits of the intents, and of the tokens `[tokens, slots]`.
    type Output = [Vec<f32>; 2];

    fn encode(&mut self, input: &Input) -> anyhow::Result<Vec<Encoding>> {
        ensure!(input.pair.is_none(), "the model reads single texts, found a pair");
        let windows = TextWindows::new(&self.model.tokenizer, &input.text, self.max_length, None);
        let sequences = windows.sequences();
        self.windows.push_back(windows);
        Ok(sequences)
    }

    fn run(&mut self, batch: &Batch, _: &[&Encoding]) -> anyhow::Result<Vec<[Vec<f32>; 2]>> {
        let logits = self.runner.run(self.rt, batch)?;
        let parts = self.model.model.head.by_sequence(batch, logits);
        Ok(parts.into_iter().map(|parts| parts.map(<[f32]>::to_vec)).collect())
    }

    fn answer(&mut self, asked: &Asked<[Vec<f32>; 2]>, out: &mut dyn Write) -> anyhow::Result<()> {
        let IntentModel { tokenizer, intents, slots, temperature, .. } = self.model;
        let (text, meaning) = (&asked.input.text, Meaning { intents, slots, temperature: *temperature });
        let windows = self.windows.pop_front();
        let Some(found) = windows.and_then(|windows| understood(text, &windows, &asked.outputs, meaning, tokenizer))
        else {
            return Ok(());
        };
        if self.json {
            return write_json(out, &found);
        }
        let Understood { intent, slots } = found;
        writeln!(out, "{}\t{:.4}\t{}", one_line(&intent.label), intent.score, one_line(text))?;
        for TaggedSpan { label, score, start, end, .. } in &slots {
            let spelled: String = text.chars().skip(*start).take(end - start).collect();
            writeln!(out, "{label}\t{score:.4}\t{start}\t{end}\t{}", one_line(&spelled))?;
        }
        Ok(writeln!(out)?)
    }
}
