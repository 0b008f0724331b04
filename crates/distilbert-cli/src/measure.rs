//! How fast a model is on this machine. [`measure`] is the short form for reports: latency of one sequence by its length,
//! and throughput on sequences of mixed lengths. [`Times`] measures any batches, for `distilbert bench`.
//!
//! Token ids are drawn from a seed, so that every model of one vocabulary reads the same.

use clap::ValueEnum;
use distilbert::data::batch::Batch;
use distilbert::model::encoder::Activations;
use distilbert::model::{Mode, Model};
use distilbert::predict::LogitsRunner;
use distilbert::random::Rng;
use distilbert_kernels::Runtime;
use serde::Serialize;
use std::time::{Duration, Instant};

/// Lengths at which latency is measured, in tokens; shorter where the model has fewer positions.
const LENGTHS: [usize; 3] = [16, 64, 128];

/// For one length. Fewer than five repeats give no median to speak of.
const LATENCY_EFFORT: Effort = Effort { time: Duration::from_millis(300), min_repeats: 5 };

/// Time for throughput, after the warm-up.
const THROUGHPUT_TIME: Duration = Duration::from_millis(400);

/// Passes that are not counted.
const WARM_UP: usize = 2;

/// Sequences of the mix.
const MIXED: usize = 64;

/// Shortest sequence of the mix, in tokens.
const SHORTEST: usize = 4;

/// Tokens of one batch of the mix.
const BATCH_TOKENS: usize = 512;

const SEED: u64 = 7;

/// What was measured.
#[derive(Clone, Debug, PartialEq)]
pub struct Speed {
    /// Median time of one sequence alone (ms) by its length in tokens, shortest first.
    pub latency_ms_by_length: Vec<(usize, f64)>,
    /// Sequences a second, of mixed lengths.
    pub sequences_per_second: f64,
    /// Tokens a second of the same.
    pub tokens_per_second: f64,
}

impl Speed {
    /// Median time (ms) of the longest sequence measured: of 128 tokens, if the model takes so many.
    pub fn latency_ms_p50(&self) -> Option<f64> {
        self.latency_ms_by_length.last().map(|&(_, latency)| latency)
    }
}

/// Measures a packed model: with its head if that is a classifier, else the encoder alone.
///
/// # Errors
/// None that a model which was loaded can cause.
pub fn measure(rt: &Runtime, model: &Model) -> anyhow::Result<Speed> {
    let mut pass = Pass::new(rt, model, Work::of(model))?;
    let positions = model.config.encoder.max_positions;
    let mut lengths = LENGTHS.map(|length| length.min(positions)).to_vec();
    lengths.dedup();
    let latency_ms_by_length = lengths
        .into_iter()
        .map(|length| {
            let times = Times::measure(&mut pass, &[random_batch(model, &[length])], LATENCY_EFFORT)?;
            Ok((length, 1e3 * times.quantile(0.5)))
        })
        .collect::<anyhow::Result<_>>()?;

    let batches: Vec<Batch> = mixed_lengths(positions).iter().map(|lengths| random_batch(model, lengths)).collect();
    if let Some(first) = batches.first() {
        pass.run(first)?;
    }
    let (mut sequences, mut tokens) = (0, 0);
    let start = Instant::now();
    for batch in batches.iter().cycle() {
        pass.run(batch)?;
        sequences += batch.sequences();
        tokens += batch.tokens();
        if start.elapsed() >= THROUGHPUT_TIME {
            break;
        }
    }
    let seconds = start.elapsed().as_secs_f64().max(f64::MIN_POSITIVE);
    Ok(Speed {
        latency_ms_by_length,
        sequences_per_second: sequences as f64 / seconds,
        tokens_per_second: tokens as f64 / seconds,
    })
}

/// For a model card, where a rough number will do.
const SHORT_EFFORT: Effort = Effort { time: Duration::from_millis(50), min_repeats: 5 };

/// Median time (ms) of one sequence alone, and its length in tokens: 128, if the model takes so many.
///
/// # Errors
/// As [`measure`].
pub fn latency_ms(rt: &Runtime, model: &Model) -> anyhow::Result<(usize, f64)> {
    let [.., longest] = LENGTHS;
    let length = longest.min(model.config.encoder.max_positions);
    let mut pass = Pass::new(rt, model, Work::of(model))?;
    let times = Times::measure(&mut pass, &[random_batch(model, &[length])], SHORT_EFFORT)?;
    Ok((length, 1e3 * times.quantile(0.5)))
}

/// What a pass computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Work {
    /// Every token's state in the last layer; no head.
    AllStates,
    /// What a head with labels answers; states that no answer depends on may be left out.
    AsUsed,
}

impl Work {
    /// As the model is used: with its head if that has labels.
    pub fn of(model: &Model) -> Work {
        if model.head.is_labelled() { Work::AsUsed } else { Work::AllStates }
    }
}

/// A forward pass of a packed model with its buffers.
pub struct Pass<'a> {
    rt: &'a Runtime,
    model: &'a Model,
    head: Option<LogitsRunner<'a>>,
    activations: Activations,
}

impl<'a> Pass<'a> {
    /// # Errors
    /// If the work needs a head with labels and the model has another.
    pub fn new(rt: &'a Runtime, model: &'a Model, work: Work) -> anyhow::Result<Self> {
        let head = match work {
            Work::AsUsed => Some(LogitsRunner::new(model)?),
            Work::AllStates => None,
        };
        Ok(Pass { rt, model, head, activations: Activations::default() })
    }

    fn run(&mut self, batch: &Batch) -> anyhow::Result<()> {
        match &mut self.head {
            Some(head) => {
                head.run(self.rt, batch)?;
            }
            None => {
                self.model.check(batch)?;
                self.model.encode(self.rt, batch, Mode::Inference, &mut self.activations);
            }
        }
        Ok(())
    }
}

/// How long something is measured.
#[derive(Clone, Copy, Debug)]
pub struct Effort {
    /// Time to fill, after the warm-up.
    pub time: Duration,
    /// Repeats at least, however long they take.
    pub min_repeats: usize,
}

/// Times of the repeats of one piece of work.
pub struct Times {
    /// Rising.
    seconds: Vec<f64>,
}

impl Times {
    /// Runs all batches, one after the other, again and again. Before that come passes that are not counted: the first
    /// fill caches and size buffers. There are [`WARM_UP`] of them, or as many batches as fit into a quarter of the time.
    ///
    /// # Errors
    /// If the model cannot take a batch.
    pub fn measure(pass: &mut Pass<'_>, batches: &[Batch], effort: Effort) -> anyhow::Result<Times> {
        let start = Instant::now();
        for batch in batches.iter().cycle().take(WARM_UP * batches.len()) {
            pass.run(batch)?;
            if start.elapsed() > effort.time / 4 {
                break;
            }
        }
        let mut seconds = Vec::new();
        let start = Instant::now();
        while seconds.len() < effort.min_repeats.max(1) || start.elapsed() < effort.time {
            let start = Instant::now();
            for batch in batches {
                pass.run(batch)?;
            }
            seconds.push(start.elapsed().max(Duration::from_nanos(1)).as_secs_f64());
        }
        seconds.sort_by(f64::total_cmp);
        Ok(Times { seconds })
    }

    /// How often the work was done.
    pub fn repeats(&self) -> usize {
        self.seconds.len()
    }

    /// The time in seconds that this share of the repeats did not exceed: 0 is the fastest, 0.5 the median.
    pub fn quantile(&self, share: f64) -> f64 {
        self.seconds[((self.seconds.len() - 1) as f64 * share.clamp(0.0, 1.0)).round() as usize]
    }
}

/// A batch of sequences of these lengths; the ids are drawn from a fixed seed.
pub fn random_batch(model: &Model, lengths: &[usize]) -> Batch {
    let mut rng = Rng::from_key(&[SEED, lengths.len() as u64]);
    let mut batch = Batch::new();
    for &length in lengths {
        let ids: Vec<u32> = (0..length).map(|_| rng.below(model.config.encoder.vocab_size) as u32).collect();
        batch.push(&ids, None);
    }
    batch
}

/// The mix in batches: from [`SHORTEST`] up to 128 tokens, short ones more often, as sentences are.
fn mixed_lengths(positions: usize) -> Vec<Vec<usize>> {
    let [.., longest] = LENGTHS;
    let longest = longest.min(positions);
    let shortest = SHORTEST.min(longest);
    let mut rng = Rng::from_key(&[SEED]);
    let mut batches: Vec<Vec<usize>> = vec![Vec::new()];
    let mut tokens = 0;
    for _ in 0..MIXED {
        let length = shortest + (rng.uniform().powi(2) * (longest - shortest + 1) as f64) as usize;
        tokens += length;
        match batches.last_mut() {
            Some(last) if tokens <= BATCH_TOKENS => last.push(length),
            _ => {
                tokens = length;
                batches.push(vec![length]);
            }
        }
    }
    batches
}

/// Memory of this process that is in use.
pub fn resident_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmRSS:"))?;
    Some(line.split_whitespace().nth(1)?.parse::<u64>().ok()? * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;
    use distilbert::model::{ModelConfig, Purpose};
    use distilbert_kernels::{Isa, Precision};

    #[test]
    fn the_mix_is_ragged_and_within_the_models_positions() {
        for positions in [2, 20, 512] {
            let lengths = mixed_lengths(positions);
            assert_eq!(lengths.iter().map(Vec::len).sum::<usize>(), MIXED);
            assert!(lengths.iter().all(|batch| !batch.is_empty() && batch.iter().sum::<usize>() <= BATCH_TOKENS));
            let all = lengths.concat();
            assert!(all.iter().all(|&length| length <= positions.min(128) && length >= SHORTEST.min(positions)));
            assert!(positions < 20 || all.iter().max() > all.iter().min(), "{all:?}");
        }
    }

    fn small(rt: &Runtime, positions: usize) -> Model {
        let text = format!(
            r#"{{"model_type": "distilbert", "dim": 8, "n_heads": 2, "n_layers": 1, "hidden_dim": 8,
                 "vocab_size": 30, "max_position_embeddings": {positions}}}"#
        );
        let mut model = Model::random(ModelConfig::from_json(&text).unwrap(), 1);
        model.pack(rt, Precision::F32, Purpose::Inference);
        model
    }

    #[test]
    fn quantiles_are_times_that_were_measured_in_order() {
        let times = Times { seconds: vec![1.0, 2.0, 3.0, 5.0, 9.0] };
        assert_eq!([0.0, 0.1, 0.5, 0.9, 1.0].map(|share| times.quantile(share)), [1.0, 1.0, 3.0, 9.0, 9.0]);
        assert_eq!(Times { seconds: vec![4.0] }.quantile(0.5), 4.0);
    }

    #[test]
    fn repeats_fill_the_time_and_are_never_too_few() {
        let rt = Runtime::new(Isa::detect(), 1).unwrap();
        let model = small(&rt, 16);
        let mut pass = Pass::new(&rt, &model, Work::AllStates).unwrap();
        let batches = [random_batch(&model, &[3, 16]), random_batch(&model, &[1])];
        let mut repeats = |milliseconds, min_repeats| {
            let effort = Effort { time: Duration::from_millis(milliseconds), min_repeats };
            Times::measure(&mut pass, &batches, effort).unwrap().repeats()
        };
        assert_eq!([repeats(0, 0), repeats(0, 3)], [1, 3]);
        assert!(repeats(20, 1) > 3);
        assert!(Pass::new(&rt, &model, Work::AsUsed).is_err(), "no classification head");
    }

    #[test]
    fn a_small_model_is_measured_at_the_lengths_it_takes() {
        let rt = Runtime::new(Isa::detect(), 1).unwrap();
        let model = small(&rt, 40);
        let speed = measure(&rt, &model).unwrap();
        assert_eq!(speed.latency_ms_by_length.iter().map(|entry| entry.0).collect::<Vec<_>>(), [16, 40]);
        assert!(speed.latency_ms_by_length.iter().all(|entry| entry.1 > 0.0));
        assert!(speed.tokens_per_second > 4.0 * speed.sequences_per_second && speed.sequences_per_second > 0.0);
    }
}
