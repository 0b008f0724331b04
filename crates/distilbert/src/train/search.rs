//! A small search for the settings of fine-tuning: which trials there are, and when one is given up.
//!
//! The trials come one after the other and each has its whole schedule, so that what wins is a finished run and nothing is
//! trained twice. Their learning rates are drawn from as many equal parts of the range's logarithm as there are trials, one
//! from each: a dozen independent draws would leave gaps where it matters most. The other settings have few values, which
//! are dealt out evenly. The first trial has the settings that would have been used without a search. A trial whose best
//! score so far lies below the median of the earlier ones at the same share of their schedules is given up (the median rule of
//! Golovin et al. 2017, "Google Vizier", section 3.2.2). Halving would compare trials sooner, but early scores speak for
//! large learning rates, and every trial that may go on would have to keep weights and moments.

use crate::random::Rng;
use serde::{Deserialize, Serialize};

/// What is searched.
#[derive(Clone, Debug, PartialEq)]
pub struct SearchSpace {
    /// Lowest and highest learning rate, drawn by their logarithm.
    pub learning_rate: [f64; 2],
    /// Passes over the examples.
    pub epochs: Vec<usize>,
    /// Examples a step.
    pub batch_size: Vec<usize>,
    /// Shares of the teacher's answers in the loss; none without a teacher.
    pub soft_share: Vec<f64>,
}

/// The settings of one trial.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Trial {
    /// Peak of the learning rate.
    pub learning_rate: f64,
    /// Passes over the examples.
    pub epochs: usize,
    /// Examples a step.
    pub batch_size: usize,
    /// Share of the teacher's answers in the loss.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub soft_share: Option<f64>,
}

impl SearchSpace {
    /// Around some settings: a sixteenth part of the learning rate's range below to above it, fewer and more passes, smaller
    /// batches, and four shares if there is a teacher.
    pub fn around(usual: &Trial) -> SearchSpace {
        let Trial { learning_rate, epochs, batch_size, soft_share } = *usual;
        let mut space = SearchSpace {
            learning_rate: [learning_rate / 4.0, learning_rate * 4.0],
            epochs: vec![(2 * epochs).div_ceil(3), epochs, (4 * epochs).div_ceil(3), 2 * epochs],
            batch_size: vec![batch_size.div_ceil(4), batch_size.div_ceil(2), batch_size],
            soft_share: soft_share.map_or_else(Vec::new, |_| vec![0.25, 0.5, 0.75, 1.0]),
        };
        space.epochs.dedup();
        space.batch_size.dedup();
        space
    }

    /// So many trials, the first of them `usual`.
    pub fn trials(&self, usual: &Trial, count: usize, seed: u64) -> Vec<Trial> {
        let rest = count.saturating_sub(1);
        let [low, high] = self.learning_rate.map(f64::ln);
        let mut rng = Rng::from_key(&[seed, PURPOSE, 0]);
        let mut learning_rates: Vec<f64> = (0..rest)
            .map(|part| {
                let at = (part as f64 + rng.uniform()) / rest as f64;
                two_digits((low + at * (high - low)).exp())
            })
            .collect();
        rng.shuffle(&mut learning_rates);
        let epochs = dealt(&self.epochs, rest, seed, 1);
        let batch_sizes = dealt(&self.batch_size, rest, seed, 2);
        let soft_shares = dealt(&self.soft_share, rest, seed, 3);
        let drawn = (0..rest).map(|index| Trial {
            learning_rate: learning_rates[index],
            epochs: epochs[index],
            batch_size: batch_sizes[index],
            soft_share: soft_shares.get(index).copied(),
        });
        std::iter::once(usual.clone()).take(count).chain(drawn).collect()
    }
}

const PURPOSE: u64 = 0x5ea2;

/// Each value as often as the others, or once more, in random order; nothing if there are none.
fn dealt<T: Copy>(values: &[T], count: usize, seed: u64, which: u64) -> Vec<T> {
    let mut rng = Rng::from_key(&[seed, PURPOSE, which]);
    let mut order = values.to_vec();
    rng.shuffle(&mut order);
    let mut dealt: Vec<T> = order.iter().copied().cycle().take(if values.is_empty() { 0 } else { count }).collect();
    rng.shuffle(&mut dealt);
    dealt
}

/// Rounded, so that what a table shows is what was used.
fn two_digits(value: f64) -> f64 {
    format!("{value:.1e}").parse().unwrap_or(value)
}

/// The scores of a run of so many steps, as shares of its schedule.
pub fn measured(scores: &[(u64, f64)], total_steps: u64) -> Vec<Measured> {
    scores.iter().map(|&(step, score)| Measured { share: step as f64 / total_steps.max(1) as f64, score }).collect()
}

/// A measurement of a trial on its way.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Measured {
    /// Share of the trial's steps that were done.
    pub share: f64,
    /// Score on the validation part.
    pub score: f64,
}

/// What a trial is measured against: the measurements of each earlier one.
#[derive(Clone, Debug, Default)]
pub struct Rivals(pub Vec<Vec<Measured>>);

/// Trials that must have come before the first may be given up: the median of fewer says little.
const LEAST_RIVALS: usize = 3;
/// Share of its schedule that every trial gets.
const LEAST_SHARE: f64 = 0.3;

impl Rivals {
    /// Whether a trial with these measurements lies too far behind to go on.
    pub fn are_ahead(&self, own: &[Measured]) -> bool {
        let Some(&Measured { share, .. }) = own.last() else { return false };
        let best = |curve: &[Measured]| {
            let before = curve.iter().filter(|measured| measured.share <= share + 1e-9);
            before.map(|measured| measured.score).reduce(f64::max)
        };
        let mut rivals: Vec<f64> = self.0.iter().filter_map(|curve| best(curve)).collect();
        if rivals.len() < LEAST_RIVALS || share < LEAST_SHARE {
            return false;
        }
        rivals.sort_by(f64::total_cmp);
        let median = (rivals[(rivals.len() - 1) / 2] + rivals[rivals.len() / 2]) / 2.0;
        best(own).is_some_and(|own| own < median)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn usual(soft_share: Option<f64>) -> Trial {
        Trial { learning_rate: 5e-5, epochs: 3, batch_size: 32, soft_share }
    }

    #[test]
    fn every_part_of_the_range_has_a_trial_and_values_are_dealt_evenly() {
        let usual = usual(Some(0.5));
        let space = SearchSpace::around(&usual);
        assert_eq!((&space.epochs[..], &space.batch_size[..]), (&[2, 3, 4, 6][..], &[8, 16, 32][..]));
        for seed in 0..20 {
            let trials = space.trials(&usual, 13, seed);
            assert_eq!(trials.len(), 13);
            assert_eq!(trials[0], usual);
            assert_eq!(trials, space.trials(&usual, 13, seed));
            let mut rates: Vec<f64> = trials[1..].iter().map(|trial| trial.learning_rate).collect();
            rates.sort_by(f64::total_cmp);
            for (part, rate) in rates.iter().enumerate() {
                let edge = |part: usize| (5e-5 / 4.0) * 16f64.powf(part as f64 / 12.0);
                // Rounding to two digits moves a rate by up to a twentieth.
                assert!((edge(part) * 0.95..edge(part + 1) * 1.05).contains(rate), "seed {seed}: {rates:?}");
            }
            for epochs in &space.epochs {
                assert_eq!(trials[1..].iter().filter(|trial| trial.epochs == *epochs).count(), 3);
            }
            for batch_size in &space.batch_size {
                assert_eq!(trials[1..].iter().filter(|trial| trial.batch_size == *batch_size).count(), 4);
            }
        }
        assert_ne!(space.trials(&usual, 13, 1), space.trials(&usual, 13, 2));
    }

    #[test]
    fn small_searches_and_settings_work_too() {
        let one = Trial { learning_rate: 1e-3, epochs: 1, batch_size: 1, soft_share: None };
        let space = SearchSpace::around(&one);
        assert_eq!((&space.epochs[..], &space.batch_size[..]), (&[1, 2][..], &[1][..]));
        assert_eq!(space.trials(&one, 1, 1), std::slice::from_ref(&one));
        assert_eq!(space.trials(&one, 0, 1), []);
        assert!(space.trials(&one, 2, 1)[1].soft_share.is_none());
    }

    fn curve(scores: &[f64]) -> Vec<Measured> {
        let share = |index: usize| (index + 1) as f64 / 4.0;
        scores.iter().enumerate().map(|(index, &score)| Measured { share: share(index), score }).collect()
    }

    #[test]
    fn a_trial_below_the_median_of_the_others_so_far_is_given_up() {
        let earlier = vec![curve(&[0.5, 0.6, 0.7, 0.9]), curve(&[0.6, 0.7, 0.7, 0.7]), curve(&[0.2, 0.3, 0.4, 0.4])];
        let ahead = |own: &[f64]| Rivals(earlier.clone()).are_ahead(&curve(own));
        assert!(!ahead(&[]), "nothing was measured");
        assert!(!ahead(&[0.1]), "too early");
        assert!(ahead(&[0.1, 0.59]));
        assert!(!ahead(&[0.1, 0.6]), "the median itself");
        assert!(!ahead(&[0.65, 0.1]), "its best counts");
        assert!(ahead(&[0.1, 0.6, 0.65]), "others went on");
        assert!(!Rivals(earlier[..2].to_vec()).are_ahead(&curve(&[0.1, 0.1, 0.1])), "too few to tell");
    }

    #[test]
    fn a_trial_that_was_given_up_early_counts_with_what_it_reached() {
        let rivals = Rivals(vec![curve(&[0.5, 0.6, 0.7, 0.9]), curve(&[0.1, 0.2]), curve(&[0.2, 0.3])]);
        assert!(rivals.are_ahead(&curve(&[0.1, 0.2, 0.25, 0.29])));
        assert!(!rivals.are_ahead(&curve(&[0.1, 0.2, 0.25, 0.3])));
    }
}
