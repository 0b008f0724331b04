//! What a model that is run multiplies in: the flag `--precision` that every command which runs one shares, and the
//! choice that its value `auto` asks for.

use crate::console::Console;
use crate::model_source;
use anyhow::{Result, bail};
use clap::{Args, ValueEnum};
use distilbert::compress::Difference;
use distilbert::data::batch::Batch;
use distilbert::model::encoder::Activations;
use distilbert::model::{HeadKind, Mode, Model};
use distilbert::tokenizer::Tokenizer;
use distilbert_kernels::{Precision, Runtime};
use std::path::Path;
use std::time::{Duration, Instant};

/// The largest difference to f32 that `auto` accepts, as a share of the largest output on the probe.
pub const BOUND: f32 = 0.05;

/// Time that each precision is tried for, at least a pass.
const TRIAL: Duration = Duration::from_millis(150);

/// What `auto` tries the precisions on: sentences of the kinds and lengths that people classify.
const SENTENCES: [&str; 32] = [
    "Yes.",
    "It rained all day.",
    "Where is the nearest station?",
    "The soup was cold and nobody seemed to care.",
    "A charming, funny and surprisingly moving story.",
    "Please send the invoice to our office in Lyon before Friday.",
    "I would not recommend this to anyone, not even to people I dislike.",
    "The committee met on 14 March 2019 and approved the budget of 2.3 million euros.",
    "How do I change the password of my account?",
    "Water boils at a lower temperature in the mountains, because the air presses on it less.",
    "She played the sonata from memory, and for a moment the whole hall forgot to breathe.",
    "Too long, too loud, and in the end about nothing at all.",
    "My order has not arrived yet; the tracking page says that it left the warehouse nine days ago.",
    "Anna Keller works for the city library of Bern.",
    "The battery lasts two days if you leave the screen dark, and about five hours if you watch films.",
    "What a waste of a good cast.",
    "Bees find their way home by the sun, and on cloudy days by the pattern of light in the sky.",
    "He said he would call back, but he never did.",
    "The old bridge was closed in spring; since then everybody takes the long road around the lake, which adds twenty \
     minutes to the way to school and has made the baker on the other side a rich man.",
    "Turn left after the second traffic light.",
    "Not bad for a first attempt, though the ending feels rushed.",
    "The vaccine was tested on 4,200 adults in three countries, and the results were published in October.",
    "Can I cancel my subscription at any time?",
    "The plot is thin, the jokes are old, the music never stops, and still I left the cinema smiling, since the two \
     leads are so obviously enjoying themselves that it is hard not to join them.",
    "Shares of the company fell by six percent after the report.",
    "Our guide knew every stone of the old town and had a story for each of them.",
    "The instructions are missing.",
    "If the lamp blinks red, switch the machine off, wait for ten seconds, and switch it on again.",
    "They lost the final in extra time.",
    "In the north the summers are short and bright, and people sleep little, as if they wanted to save some of the \
     light for the winter.",
    "This is the third phone of this kind I have bought, and it will be the last.",
    "Thank you, that was all I wanted to know.",
];

/// The flag.
#[derive(Clone, Copy, Debug, Default, Args)]
pub struct PrecisionArgs {
    /// What the model multiplies in [default: what it is saved in, f32 unless it was quantised]
    #[arg(long, value_enum, value_name = "NAME")]
    precision: Option<Choice>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Choice {
    /// The reference: what the weights of the model say, to the last digit.
    F32,
    /// Half the memory; needs a CPU with the BF16 instructions of AVX-512.
    Bf16,
    /// A quarter of the memory, the fastest; scores move a little.
    Int8,
    /// The fastest on this CPU whose outputs stay within 5 % of those in f32 on a set of sentences; says which, and why.
    /// Of sentence encoders only `serve` chooses.
    Auto,
}

impl PrecisionArgs {
    /// The flag's value by its name.
    ///
    /// # Errors
    /// If there is none of this name.
    pub fn of_name(name: &str) -> Result<PrecisionArgs> {
        let Ok(choice) = Choice::from_str(name, false) else {
            bail!("precision: expected f32, bf16, int8 or auto, found {name:?}");
        };
        Ok(PrecisionArgs { precision: Some(choice) })
    }

    /// The precision that is named.
    ///
    /// # Errors
    /// If it is to be chosen, which only `serve` does for sentence encoders ([`PrecisionArgs::settle`]).
    pub fn named(self) -> Result<Option<Precision>> {
        if self.precision == Some(Choice::Auto) {
            bail!("--precision: expected f32, bf16 or int8 of a sentence encoder, found auto");
        }
        Ok(self.by_name())
    }

    /// The precision that is named; `None` if it is the folder's own, or to be chosen.
    pub fn by_name(self) -> Option<Precision> {
        match self.precision {
            None | Some(Choice::Auto) => None,
            Some(Choice::F32) => Some(Precision::F32),
            Some(Choice::Bf16) => Some(Precision::Bf16),
            Some(Choice::Int8) => Some(Precision::Int8),
        }
    }

    /// Model and tokenizer of the folder of the model called `name`, for inference alone, in the precision asked for.
    ///
    /// # Errors
    /// If either cannot be read or they do not fit together, the model is saved in another precision below f32, or the CPU
    /// lacks the precision.
    pub fn load(self, name: &str, folder: &Path, rt: &Runtime, console: &Console) -> Result<(Model, Tokenizer)> {
        let (model, tokenizer) = model_source::load_in(self.by_name(), name, folder, rt)?;
        Ok((self.settle(model, folder, &tokenizer, rt, console)?, tokenizer))
    }

    /// A folder's model that was loaded in the precision named, or in the fastest if that is to be chosen.
    ///
    /// # Errors
    /// If it cannot be read in another precision.
    pub fn settle(
        self,
        model: Model,
        folder: &Path,
        tokenizer: &Tokenizer,
        rt: &Runtime,
        console: &Console,
    ) -> Result<Model> {
        if self.precision == Some(Choice::Auto) { fastest(model, folder, tokenizer, rt, console) } else { Ok(model) }
    }
}

/// The largest difference of any output to the folder's model in f32 on the sentences, as a share of the largest output;
/// `None` if the folder has none in f32.
///
/// # Errors
/// If that cannot be read.
pub fn difference_to_f32(model: &Model, folder: &Path, tokenizer: &Tokenizer, rt: &Runtime) -> Result<Option<f32>> {
    if model.precision() == Precision::F32 {
        return Ok(Some(0.0));
    }
    if model.config.weights != Precision::F32 {
        return Ok(None);
    }
    let reference = load_like(model, folder, Precision::F32, rt)?;
    let probe = probe(tokenizer, model.config.encoder.max_positions);
    Ok(Some(Difference::of(rt, &reference, model, &probe).relative()))
}

/// The folder's model in another precision; a sentence encoder with the head that this one was given.
fn load_like(model: &Model, folder: &Path, precision: Precision, rt: &Runtime) -> Result<Model> {
    let loaded = match &model.config.head {
        head @ HeadKind::Embedding(_) => Model::load_for_inference_with(folder, rt, Some(precision), head.clone()),
        _ => Model::load_for_inference(folder, rt, Some(precision)),
    };
    Ok(loaded?.model)
}

/// How many sentences those are.
pub const PROBE_TEXTS: usize = SENTENCES.len();

/// The fastest form of a folder's model whose outputs stay within [`BOUND`]; says which, and what was measured.
fn fastest(model: Model, folder: &Path, tokenizer: &Tokenizer, rt: &Runtime, console: &Console) -> Result<Model> {
    if model.config.weights != Precision::F32 {
        console.say(&format!("precision {0}: the model is saved in {0}", model.precision()));
        return Ok(model);
    }
    let probe = probe(tokenizer, model.config.encoder.max_positions);
    let mut best_ms = time_ms(rt, &model, &probe);
    let mut tried = format!("f32 {best_ms:.1} ms");
    let mut best = None;
    for precision in [Precision::Bf16, Precision::Int8] {
        if model.config.check_precision(rt, precision).is_err() {
            continue;
        }
        let candidate = load_like(&model, folder, precision, rt)?;
        let difference = Difference::of(rt, &model, &candidate, &probe).relative();
        let ms = time_ms(rt, &candidate, &probe);
        tried += &format!("; {precision} {ms:.1} ms, {:.1} % off", 100.0 * difference);
        if difference <= BOUND && ms < best_ms {
            (best, best_ms) = (Some(candidate), ms);
        }
    }
    let best = best.unwrap_or(model);
    let (chosen, bound) = (best.precision(), 100.0 * BOUND);
    console.say(&format!(
        "precision {chosen}: the fastest within {bound:.0} % of f32's outputs on {} texts ({tried})",
        SENTENCES.len()
    ));
    Ok(best)
}

/// The sentences as a batch.
fn probe(tokenizer: &Tokenizer, max_positions: usize) -> Batch {
    let mut batch = Batch::new();
    for sentence in SENTENCES {
        batch.push(&tokenizer.encode(sentence, None, Some(max_positions)).input_ids, None);
    }
    batch
}

/// The fastest of a few passes over the batch, in milliseconds: whatever else runs can only make one slower.
fn time_ms(rt: &Runtime, model: &Model, batch: &Batch) -> f64 {
    let mut activations = Activations::default();
    let mut pass = || {
        let start = Instant::now();
        model.encode(rt, batch, Mode::Inference, &mut activations);
        start.elapsed().as_secs_f64() * 1e3
    };
    let start = Instant::now();
    let mut best = pass();
    while start.elapsed() < TRIAL {
        best = best.min(pass());
    }
    best
}
