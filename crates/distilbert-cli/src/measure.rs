//! How fast a model is on this machine: latency of one sequence by its length, and throughput on sequences of mixed
//! lengths. Token ids are drawn from a seed, so that every model of one vocabulary reads the same.

use distilbert::data::batch::Batch;
use distilbert::model::encoder::Activations;
use distilbert::model::{HeadKind, Mode, Model};
use distilbert::predict::ClassifierRunner;
use distilbert::random::Rng;
use distilbert_kernels::Runtime;
use std::time::{Duration, Instant};

/// Lengths at which latency is measured, in tokens; shorter where the model has fewer positions.
const LENGTHS: [usize; 3] = [16, 64, 128];

/// Time for one length, after the warm-up.
const LATENCY_TIME: Duration = Duration::from_millis(300);

/// Time for throughput, after the warm-up.
const THROUGHPUT_TIME: Duration = Duration::from_millis(400);

/// Passes that are not counted: the first fill caches and size buffers.
const WARM_UP: usize = 2;

/// Fewer give no median to speak of, however long they take.
const MIN_REPEATS: usize = 5;

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
    let mut pass = Pass::new(rt, model)?;
    let positions = model.config.encoder.max_positions;
    let mut lengths = LENGTHS.map(|length| length.min(positions)).to_vec();
    lengths.dedup();
    let latency_ms_by_length = lengths
        .into_iter()
        .map(|length| Ok((length, 1e3 * median_seconds(&mut pass, &batch(model, &[length]))?)))
        .collect::<anyhow::Result<_>>()?;

    let batches: Vec<Batch> = mixed_lengths(positions).iter().map(|lengths| batch(model, lengths)).collect();
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

/// A forward pass with its buffers.
struct Pass<'a> {
    rt: &'a Runtime,
    model: &'a Model,
    classifier: Option<ClassifierRunner<'a>>,
    activations: Activations,
}

impl<'a> Pass<'a> {
    fn new(rt: &'a Runtime, model: &'a Model) -> anyhow::Result<Self> {
        let is_classifier = matches!(model.config.head, HeadKind::Classification { .. });
        let classifier = if is_classifier { Some(ClassifierRunner::new(model)?) } else { None };
        Ok(Pass { rt, model, classifier, activations: Activations::default() })
    }

    fn run(&mut self, batch: &Batch) -> anyhow::Result<()> {
        match &mut self.classifier {
            Some(classifier) => {
                classifier.run(self.rt, batch)?;
            }
            None => {
                self.model.check(batch)?;
                self.model.encode(self.rt, batch, Mode::Inference, &mut self.activations);
            }
        }
        Ok(())
    }
}

fn median_seconds(pass: &mut Pass<'_>, batch: &Batch) -> anyhow::Result<f64> {
    for _ in 0..WARM_UP {
        pass.run(batch)?;
    }
    let mut seconds = Vec::new();
    let start = Instant::now();
    while seconds.len() < MIN_REPEATS || start.elapsed() < LATENCY_TIME {
        let start = Instant::now();
        pass.run(batch)?;
        seconds.push(start.elapsed().as_secs_f64());
    }
    seconds.sort_by(f64::total_cmp);
    Ok(seconds[seconds.len() / 2])
}

fn batch(model: &Model, lengths: &[usize]) -> Batch {
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

    #[test]
    fn a_small_model_is_measured_at_the_lengths_it_takes() {
        let rt = Runtime::new(Isa::detect(), 1).unwrap();
        let config = |positions: usize| {
            let text = format!(
                r#"{{"model_type": "distilbert", "dim": 8, "n_heads": 2, "n_layers": 1, "hidden_dim": 8,
                     "vocab_size": 30, "max_position_embeddings": {positions}}}"#
            );
            ModelConfig::from_json(&text).unwrap()
        };
        let mut model = Model::random(config(40), 1);
        model.pack(&rt, Precision::F32, Purpose::Inference);
        let speed = measure(&rt, &model).unwrap();
        assert_eq!(speed.latency_ms_by_length.iter().map(|entry| entry.0).collect::<Vec<_>>(), [16, 40]);
        assert!(speed.latency_ms_by_length.iter().all(|entry| entry.1 > 0.0));
        assert!(speed.tokens_per_second > 4.0 * speed.sequences_per_second && speed.sequences_per_second > 0.0);
    }
}
