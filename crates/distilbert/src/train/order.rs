//! Which samples make which step: a seeded permutation an epoch, cut into micro-batches and steps. A step's samples
//! follow from the seed and the step alone, so a resumed run needs no memory of the data's order.

use super::TrainError;
use crate::random::Rng;

/// How samples are cut into micro-batches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case", rename_all_fields = "kebab-case", tag = "by", deny_unknown_fields)]
pub enum Batching {
    /// As many sequences in shuffled order as fit into `tokens`, at least one. Nothing is padded, so lengths need not
    /// be alike.
    Tokens {
        /// Tokens of a micro-batch.
        tokens: usize,
    },
    /// `sequences` in shuffled order.
    Sequences {
        /// Sequences of a micro-batch.
        sequences: usize,
    },
    /// `sequences` of like length, as the published script groups them: bins 4 tokens wide, a batch from each bin as
    /// it fills, the left-overs by ascending bin at the end.
    Grouped {
        /// Sequences of a micro-batch.
        sequences: usize,
    },
}

impl Batching {
    /// Checks that a micro-batch can hold something.
    ///
    /// # Errors
    /// [`TrainError::Config`] if not.
    pub fn validate(self) -> Result<(), TrainError> {
        let (Batching::Tokens { tokens: size }
        | Batching::Sequences { sequences: size }
        | Batching::Grouped { sequences: size }) = self;
        if size > 0 {
            return Ok(());
        }
        let expected = "at least 1 token or sequence".into();
        Err(TrainError::Config { name: "batching", expected, found: "0".into() })
    }
}

/// The samples of one epoch, cut into steps.
pub struct Epoch {
    /// Samples in order of use.
    order: Vec<usize>,
    /// End of each micro-batch in `order`.
    ends: Vec<usize>,
    accumulation: usize,
}

/// Steps of a whole run over the same samples, epoch after epoch.
pub struct Order {
    lengths: Vec<usize>,
    batching: Batching,
    accumulation: usize,
    seed: u64,
    /// Steps before each epoch, and after the last.
    steps: Vec<u64>,
    steps_per_epoch: u64,
    /// The epoch used last: steps come one after the other.
    current: Option<(usize, Epoch)>,
}

impl Order {
    /// The order of samples of these `lengths` in tokens over `epochs` epochs, each step of `accumulation` micro-batches
    /// (the last of an epoch may have fewer), ended after `max_steps` if given.
    pub fn new(
        lengths: Vec<usize>,
        batching: Batching,
        accumulation: usize,
        epochs: usize,
        max_steps: Option<u64>,
        seed: u64,
    ) -> Order {
        let mut order = Order {
            lengths,
            batching,
            accumulation: accumulation.max(1),
            seed,
            steps: vec![0],
            steps_per_epoch: 0,
            current: None,
        };
        for epoch in 0..epochs {
            let before = order.steps[epoch];
            let steps = order.epoch(epoch).steps() as u64;
            if epoch == 0 {
                order.steps_per_epoch = steps;
            }
            let after = before + steps;
            let end = max_steps.unwrap_or(u64::MAX);
            order.steps.push(after.min(end));
            if after >= end {
                break;
            }
        }
        order
    }

    /// Steps of the whole run.
    pub fn total_steps(&self) -> u64 {
        self.steps[self.steps.len() - 1]
    }

    /// Steps of the first epoch.
    pub fn steps_per_epoch(&self) -> u64 {
        self.steps_per_epoch
    }

    /// The epoch (from 0) and the micro-batches of step `step`, counted from 1; each a list of samples.
    ///
    /// # Panics
    /// If `step` is 0 or past the last.
    pub fn step(&mut self, step: u64) -> (usize, Vec<Vec<usize>>) {
        assert!((1..=self.total_steps()).contains(&step), "step {step} of {}", self.total_steps());
        let epoch = self.steps.partition_point(|&before| before < step) - 1;
        let within = (step - 1 - self.steps[epoch]) as usize;
        if self.current.as_ref().is_none_or(|(current, _)| *current != epoch) {
            self.current = Some((epoch, self.epoch(epoch)));
        }
        let batches = self.current.as_ref().map(|(_, epoch)| epoch.step(within)).unwrap_or_default();
        (epoch, batches)
    }

    fn epoch(&self, epoch: usize) -> Epoch {
        const PURPOSE: u64 = 0x0ed3;
        let mut order: Vec<usize> = (0..self.lengths.len()).collect();
        Rng::from_key(&[self.seed, PURPOSE, epoch as u64]).shuffle(&mut order);
        match self.batching {
            Batching::Tokens { tokens } => {
                let (mut ends, mut filled) = (Vec::new(), 0);
                for (index, &sample) in order.iter().enumerate() {
                    if filled > 0 && filled + self.lengths[sample] > tokens {
                        ends.push(index);
                        filled = 0;
                    }
                    filled += self.lengths[sample];
                }
                if !order.is_empty() {
                    ends.push(order.len());
                }
                Epoch { order, ends, accumulation: self.accumulation }
            }
            Batching::Sequences { sequences } => Epoch::even(order, sequences, self.accumulation),
            Batching::Grouped { sequences } => {
                Epoch::even(group_by_length(&order, &self.lengths, sequences), sequences, self.accumulation)
            }
        }
    }
}

impl Epoch {
    fn even(order: Vec<usize>, sequences: usize, accumulation: usize) -> Epoch {
        let sequences = sequences.max(1);
        let ends = (1..=order.len().div_ceil(sequences)).map(|batch| (batch * sequences).min(order.len())).collect();
        Epoch { order, ends, accumulation }
    }

    fn steps(&self) -> usize {
        self.ends.len().div_ceil(self.accumulation)
    }

    fn step(&self, step: usize) -> Vec<Vec<usize>> {
        let first = step * self.accumulation;
        (first..(first + self.accumulation).min(self.ends.len()))
            .map(|batch| {
                let start = if batch == 0 { 0 } else { self.ends[batch - 1] };
                self.order[start..self.ends[batch]].to_vec()
            })
            .collect()
    }
}

/// The samples of `order` such that each run of `sequences` is of one length bin as far as possible.
fn group_by_length(order: &[usize], lengths: &[usize], sequences: usize) -> Vec<usize> {
    let bin = |length: usize| (length + 1) / 4; // edges 3, 7, 11, ...: the number of edges at or below the length
    let bins = lengths.iter().map(|&length| bin(length)).max().map_or(0, |bin| bin + 1);
    let mut buffers: Vec<Vec<usize>> = vec![Vec::new(); bins];
    let mut grouped = Vec::with_capacity(order.len());
    for &sample in order {
        let buffer = &mut buffers[bin(lengths[sample])];
        buffer.push(sample);
        if buffer.len() == sequences.max(1) {
            grouped.append(buffer);
        }
    }
    grouped.extend(buffers.into_iter().flatten());
    grouped
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lengths() -> Vec<usize> {
        (0..103).map(|i| 3 + (i * 37) % 60).collect()
    }

    #[test]
    fn every_sample_is_used_once_an_epoch_in_another_order() {
        for batching in
            [Batching::Tokens { tokens: 128 }, Batching::Sequences { sequences: 8 }, Batching::Grouped { sequences: 8 }]
        {
            let mut order = Order::new(lengths(), batching, 3, 2, None, 7);
            let mut epochs = [Vec::new(), Vec::new()];
            for step in 1..=order.total_steps() {
                let (epoch, batches) = order.step(step);
                assert!(!batches.is_empty() && batches.len() <= 3);
                epochs[epoch].extend(batches.into_iter().flatten());
            }
            assert_ne!(epochs[0], epochs[1]);
            for mut epoch in epochs {
                epoch.sort_unstable();
                assert_eq!(epoch, (0..103).collect::<Vec<_>>(), "{batching:?}");
            }
        }
    }

    #[test]
    fn a_step_is_the_same_however_one_gets_there() {
        let new = || Order::new(lengths(), Batching::Tokens { tokens: 100 }, 2, 3, None, 1);
        let (mut forward, total) = (new(), new().total_steps());
        let all: Vec<_> = (1..=total).map(|step| forward.step(step)).collect();
        for step in (1..=total).rev().step_by(7) {
            assert_eq!(new().step(step), all[step as usize - 1]);
        }
    }

    #[test]
    fn token_batches_stay_in_their_budget() {
        let mut order = Order::new(lengths(), Batching::Tokens { tokens: 100 }, 1, 1, None, 1);
        for step in 1..=order.total_steps() {
            let tokens: usize = order.step(step).1[0].iter().map(|&sample| lengths()[sample]).sum();
            assert!(tokens <= 100);
        }
    }

    #[test]
    fn groups_hold_like_lengths_and_all_batches_but_the_last_are_full() {
        let lengths: Vec<usize> = (0..1000).map(|i| 3 + (i * 37) % 60).collect();
        let mut order = Order::new(lengths.clone(), Batching::Grouped { sequences: 5 }, 1, 1, None, 1);
        assert_eq!(order.total_steps(), 200);
        let alike = (1..=200)
            .filter(|&step| {
                let batch = &order.step(step).1[0];
                batch.iter().all(|&sample| (lengths[sample] + 1) / 4 == (lengths[batch[0]] + 1) / 4)
            })
            .count();
        assert!(alike >= 185, "{alike}");
    }

    #[test]
    fn max_steps_ends_the_run() {
        let order = Order::new(lengths(), Batching::Sequences { sequences: 10 }, 1, 100, Some(25), 1);
        assert_eq!(order.total_steps(), 25);
        assert_eq!(Order::new(vec![], Batching::Sequences { sequences: 10 }, 1, 3, None, 1).total_steps(), 0);
    }
}
