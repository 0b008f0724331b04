//! `distilbert predict intents`: what an utterance asks for, and the words that say the particulars.

use super::{Asked, CommonArgs, Input, Keys, Task, one_line, run_task, write_json};
use crate::console::Console;
use crate::intent_model::IntentModel;
use anyhow::ensure;
use clap::Args;
use distilbert::data::batch::Batch;
use distilbert::evaluate::metrics::argmax;
use distilbert::evaluate::predictions::softmax;
use distilbert::predict::LogitsRunner;
use distilbert::predict::spans::{Aggregation, TaggedSpan, spans};
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

/// A line of JSON.
#[derive(serde::Serialize)]
struct Understood {
    intent: Scored,
    slots: Vec<TaggedSpan>,
}

#[derive(serde::Serialize)]
struct Scored {
    label: String,
    score: f32,
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
    run_task(&args.common, Keys { text: "text", pair: "text_pair", candidates: None }, task, console)
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
        let windows = TextWindows::new(&self.model.tokenizer, &input.text, self.max_length);
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
        let (Some(windows), Some([of_intents, _])) = (self.windows.pop_front(), asked.outputs.first()) else {
            return Ok(());
        };
        let IntentModel { tokenizer, intents, slots, .. } = self.model;
        let best = argmax(of_intents);
        let intent = Scored { label: intents[best].clone(), score: softmax(of_intents)[best] };
        let of_slots: Vec<Vec<f32>> = asked.outputs.iter().map(|[_, tokens]| tokens.clone()).collect();
        let tokens = windows.tokens(&of_slots, slots.len());
        let text = &asked.input.text;
        // A word's tag was learnt at its first token.
        let found = spans(text, &tokens, slots, tokenizer, Aggregation::First, &["O".to_owned()]);
        if self.json {
            return write_json(out, &Understood { intent, slots: found });
        }
        writeln!(out, "{}\t{:.4}\t{}", one_line(&intent.label), intent.score, one_line(text))?;
        for TaggedSpan { label, score, start, end, .. } in &found {
            let spelled: String = text.chars().skip(*start).take(end - start).collect();
            writeln!(out, "{label}\t{score:.4}\t{start}\t{end}\t{}", one_line(&spelled))?;
        }
        Ok(writeln!(out)?)
    }
}
