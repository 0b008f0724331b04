//! How sure a score is: bootstrap intervals, paired tests between two models, seed spread, retention.

use serde::{Deserialize, Serialize};

use crate::data::examples::Metric;
use crate::random::Rng;

use super::metrics::{MetricError, Outcomes};

/// How to resample. Equal settings give equal draws, also for two models on the same examples.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Bootstrap {
    /// Seed of the draws.
    pub seed: u64,
    /// Resamples wanted; fewer are drawn past [`MAX_RESAMPLES`], or if examples times resamples would pass
    /// [`MAX_DRAWS`] (but then at least [`MIN_RESAMPLES`]).
    pub resamples: usize,
    /// Share of the resamples inside the interval, between 0 and 1.
    pub level: f64,
}

impl Default for Bootstrap {
    fn default() -> Self {
        Bootstrap { seed: 0, resamples: 2000, level: 0.95 }
    }
}

impl Bootstrap {
    fn resamples_drawn(&self, n: usize) -> usize {
        let affordable = (MAX_DRAWS / n.max(1)).clamp(MIN_RESAMPLES, MAX_RESAMPLES);
        self.resamples.clamp(1, affordable)
    }
}

/// More do not move a percentile's visible digits.
pub const MAX_RESAMPLES: usize = 100_000;
/// Draws in one bootstrap: about two seconds.
pub const MAX_DRAWS: usize = 400_000_000;
/// Below this many, percentiles near the ends mean little.
pub const MIN_RESAMPLES: usize = 200;

/// Names the bootstrap's random stream.
const STREAM: u64 = 0x626f_6f74; // "boot"

/// A percentile bootstrap interval.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Interval {
    /// Lower end.
    pub low: f64,
    /// Upper end.
    pub high: f64,
    /// Share of the resamples inside.
    pub level: f64,
    /// Resamples drawn.
    pub resamples: usize,
}

/// Two models on the same examples.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct PairedTest {
    /// First model's metric minus the second's.
    pub difference: f64,
    /// Interval of the difference.
    pub interval: Interval,
    /// Two-sided: how often a resample's difference falls on the other side of 0.
    pub p_value: f64,
}

/// McNemar's exact test.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct McNemar {
    /// Examples that only the first model has right.
    pub only_first: u64,
    /// Examples that only the second model has right.
    pub only_second: u64,
    /// Two-sided exact binomial p-value; 1 if the models are right on the same examples.
    pub p_value: f64,
}

/// One score over several training seeds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SeedSpread {
    /// Number of seeds.
    pub n: usize,
    /// Mean.
    pub mean: f64,
    /// Sample standard deviation (`n - 1`); `None` for one seed.
    pub sd: Option<f64>,
    /// Median; the mean of the middle two for an even number.
    pub median: f64,
    /// Smallest.
    pub min: f64,
    /// Largest.
    pub max: f64,
}

/// The share of the teacher's score that the student keeps.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Retention {
    /// Student's metric over the teacher's; 1 is all of it.
    pub share: f64,
    /// Its interval; `None` if the teacher's metric was not above 0 in some resample.
    pub interval: Option<Interval>,
}

/// Intervals of several metrics over the same resamples: examples drawn with replacement, percentiles of the metric.
/// A resample in which a metric is undefined counts as the 0 that the metric is then defined as.
///
/// # Errors
/// [`MetricError::NotApplicable`] for a metric of another kind of problem.
///
/// # Source
/// Efron 1979; percentile method, Efron and Tibshirani 1993, chapter 13.
pub fn intervals(outcomes: &Outcomes, metrics: &[Metric], bootstrap: &Bootstrap) -> Result<Vec<Interval>, MetricError> {
    let mut values = vec![Vec::new(); metrics.len()];
    for_each_resample(outcomes.len(), bootstrap, |weights| {
        for (values, &metric) in values.iter_mut().zip(metrics) {
            values.push(outcomes.weighted_metric(metric, weights)?);
        }
        Ok(())
    })?;
    Ok(values.into_iter().map(|values| interval(values, bootstrap.level)).collect())
}

/// Whether two models differ in a metric: both are scored on the same resamples.
///
/// The p-value is `2 (1 + c) / (1 + resamples)`, at most 1, where c counts the resamples whose difference is 0 or on
/// the side of 0 where fewer lie; it is never 0.
///
/// # Errors
/// [`MetricError::OtherExamples`] if the two were not scored on the same examples, or as [`intervals`].
///
/// # Source
/// Efron and Tibshirani 1993, chapter 15; Berg-Kirkpatrick et al. 2012 for its use on paired systems.
pub fn paired_bootstrap(
    first: &Outcomes,
    second: &Outcomes,
    metric: Metric,
    bootstrap: &Bootstrap,
) -> Result<PairedTest, MetricError> {
    first.check_same_examples(second)?;
    let mut differences = Vec::new();
    for_each_resample(first.len(), bootstrap, |weights| {
        differences.push(first.weighted_metric(metric, weights)? - second.weighted_metric(metric, weights)?);
        Ok(())
    })?;
    Ok(paired_test(first.metric(metric)? - second.metric(metric)?, differences, bootstrap))
}

/// Interval of the mean of one score an example, as [`intervals`] draws it.
pub fn mean_interval(scores: &[f64], bootstrap: &Bootstrap) -> Interval {
    interval(Resamples::new(scores.len(), bootstrap).means(scores), bootstrap.level)
}

/// Whether two models differ in the mean of one score an example, as [`paired_bootstrap`] tests it.
///
/// # Panics
/// If there are not as many scores of one as of the other.
pub fn paired_means(first: &[f64], second: &[f64], bootstrap: &Bootstrap) -> PairedTest {
    assert_eq!(first.len(), second.len(), "two scores of each example");
    let differences: Vec<f64> = first.iter().zip(second).map(|(first, second)| first - second).collect();
    let mean = differences.iter().sum::<f64>() / differences.len().max(1) as f64;
    paired_test(mean, Resamples::new(differences.len(), bootstrap).means(&differences), bootstrap)
}

/// From the difference of all examples and those of the resamples.
fn paired_test(difference: f64, differences: Vec<f64>, bootstrap: &Bootstrap) -> PairedTest {
    let not_above = differences.iter().filter(|&&difference| difference <= 0.0).count();
    let not_below = differences.iter().filter(|&&difference| difference >= 0.0).count();
    let tail = (1 + not_above.min(not_below)) as f64 / (1 + differences.len()) as f64;
    PairedTest { difference, interval: interval(differences, bootstrap.level), p_value: (2.0 * tail).min(1.0) }
}

/// Whether two models differ in accuracy, by the examples that only one of them has right.
///
/// # Errors
/// [`MetricError::OtherExamples`] or [`MetricError::Length`] if the two were not scored on the same examples.
///
/// # Source
/// McNemar 1947; exact binomial form.
pub fn mcnemar(first: &Outcomes, second: &Outcomes) -> Result<McNemar, MetricError> {
    first.check_same_examples(second)?;
    let (first, second) = (first.correct(), second.correct());
    let count = |wanted: (bool, bool)| {
        first.iter().zip(&second).filter(|&(&first, &second)| (first, second) == wanted).count() as u64
    };
    let (only_first, only_second) = (count((true, false)), count((false, true)));
    Ok(McNemar { only_first, only_second, p_value: exact_sign_test(only_first, only_second) })
}

/// Two-sided: twice the probability of at most the smaller count among `a + b` fair coin throws, at most 1.
fn exact_sign_test(a: u64, b: u64) -> f64 {
    let n = a + b;
    // ln C(n, k), built up one k at a time.
    let (mut log_choose, mut tail) = (0.0f64, 0.0f64);
    let log_all = n as f64 * std::f64::consts::LN_2;
    for k in 0..=a.min(b) {
        if k > 0 {
            log_choose += ((n - k + 1) as f64).ln() - (k as f64).ln();
        }
        tail += (log_choose - log_all).exp();
    }
    (2.0 * tail).min(1.0)
}

/// Spread of one score over training seeds; `None` without scores. Scores that are not finite make the result so.
pub fn seed_spread(scores: &[f64]) -> Option<SeedSpread> {
    let mut sorted = scores.to_vec();
    sorted.sort_by(f64::total_cmp);
    let (&min, &max) = (sorted.first()?, sorted.last()?);
    let n = sorted.len();
    let mean = sorted.iter().sum::<f64>() / n as f64;
    let squares: f64 = sorted.iter().map(|score| (score - mean).powi(2)).sum();
    let sd = (n > 1).then(|| (squares / (n - 1) as f64).sqrt());
    Some(SeedSpread { n, mean, sd, median: quantile(&sorted, 0.5), min, max })
}

/// The student's share of the teacher's metric; `None` if the teacher's is not above 0, where a share has no meaning.
///
/// # Errors
/// As [`paired_bootstrap`].
pub fn retention(
    student: &Outcomes,
    teacher: &Outcomes,
    metric: Metric,
    bootstrap: &Bootstrap,
) -> Result<Option<Retention>, MetricError> {
    student.check_same_examples(teacher)?;
    let reference = teacher.metric(metric)?;
    if reference <= 0.0 {
        return Ok(None);
    }
    let (mut shares, mut undefined) = (Vec::new(), false);
    for_each_resample(student.len(), bootstrap, |weights| {
        let reference = teacher.weighted_metric(metric, weights)?;
        undefined |= reference <= 0.0;
        shares.push(student.weighted_metric(metric, weights)? / reference);
        Ok(())
    })?;
    let interval = (!undefined).then(|| interval(shares, bootstrap.level));
    Ok(Some(Retention { share: student.metric(metric)? / reference, interval }))
}

/// Calls `use_weights` with each resample: how often each of `n` examples was drawn.
fn for_each_resample(
    n: usize,
    bootstrap: &Bootstrap,
    mut use_weights: impl FnMut(&[u32]) -> Result<(), MetricError>,
) -> Result<(), MetricError> {
    let mut resamples = Resamples::new(n, bootstrap);
    while let Some(weights) = resamples.next() {
        use_weights(weights)?;
    }
    Ok(())
}

/// The resamples of a bootstrap, one after the other.
struct Resamples {
    rng: Rng,
    /// How often each example was drawn.
    weights: Vec<u32>,
    left: usize,
}

impl Resamples {
    fn new(n: usize, bootstrap: &Bootstrap) -> Resamples {
        let rng = Rng::from_key(&[bootstrap.seed, STREAM]);
        Resamples { rng, weights: vec![0; n], left: bootstrap.resamples_drawn(n) }
    }

    fn next(&mut self) -> Option<&[u32]> {
        self.left = self.left.checked_sub(1)?;
        let n = self.weights.len();
        self.weights.fill(0);
        for _ in 0..n {
            self.weights[self.rng.below(n)] += 1;
        }
        Some(&self.weights)
    }

    /// The mean of one score an example in each resample.
    fn means(mut self, scores: &[f64]) -> Vec<f64> {
        let mut means = Vec::new();
        while let Some(weights) = self.next() {
            let sum: f64 = scores.iter().zip(weights).map(|(score, &weight)| score * f64::from(weight)).sum();
            means.push(sum / scores.len().max(1) as f64);
        }
        means
    }
}

fn interval(mut values: Vec<f64>, level: f64) -> Interval {
    values.sort_by(f64::total_cmp);
    let tail = (1.0 - level.clamp(0.0, 1.0)) / 2.0;
    Interval { low: quantile(&values, tail), high: quantile(&values, 1.0 - tail), level, resamples: values.len() }
}

/// Linear between the two nearest of `sorted`, as numpy's default; 0 of none.
fn quantile(sorted: &[f64], share: f64) -> f64 {
    let place = share.clamp(0.0, 1.0) * sorted.len().saturating_sub(1) as f64;
    let below = place.floor() as usize;
    let (Some(&low), Some(&high)) = (sorted.get(below), sorted.get(below + 1).or(sorted.get(below))) else {
        return 0.0;
    };
    low + (high - low) * (place - below as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `n` binary examples of which `right` are predicted right.
    fn accuracy_of(right: usize, n: usize) -> Outcomes {
        let predicted = (0..n).map(|index| usize::from(index >= right)).collect();
        Outcomes::classes(2, vec![0; n], predicted).expect("good outcomes")
    }

    fn one(outcomes: &Outcomes, bootstrap: &Bootstrap) -> Interval {
        intervals(outcomes, &[Metric::Accuracy], bootstrap).expect("accuracy applies")[0]
    }

    #[test]
    fn the_interval_of_an_accuracy_is_near_the_binomial_one() {
        let interval = one(&accuracy_of(320, 400), &Bootstrap::default());
        // 0.8 +- 1.96 * sqrt(0.8 * 0.2 / 400)
        assert!((interval.low - 0.7608).abs() < 0.006 && (interval.high - 0.8392).abs() < 0.006, "{interval:?}");
        assert_eq!(interval.resamples, 2000);
    }

    #[test]
    fn equal_seeds_give_equal_intervals_and_others_others() {
        let outcomes =
            Outcomes::scores((0..50).map(f64::from).collect(), (0..50).map(|x| f64::from(x * x % 17)).collect())
                .expect("good outcomes");
        let of = |seed| {
            let bootstrap = Bootstrap { seed, resamples: 300, ..Bootstrap::default() };
            intervals(&outcomes, &[Metric::Pearson, Metric::Spearman], &bootstrap).expect("they apply")
        };
        assert_eq!(of(1), of(1));
        assert_ne!(of(1), of(2));
    }

    #[test]
    fn one_example_and_a_perfect_score_have_intervals_of_no_width() {
        for outcomes in [accuracy_of(1, 1), accuracy_of(30, 30)] {
            let interval = one(&outcomes, &Bootstrap::default());
            assert_eq!((interval.low, interval.high), (1.0, 1.0));
        }
    }

    #[test]
    fn work_is_bounded_whatever_is_asked_for() {
        let drawn = |resamples, n| Bootstrap { resamples, ..Bootstrap::default() }.resamples_drawn(n);
        assert_eq!(drawn(2000, 40_430), 2000);
        assert_eq!(drawn(usize::MAX, 10), MAX_RESAMPLES);
        assert_eq!(drawn(2000, 1_000_000), 400);
        assert_eq!(drawn(2000, usize::MAX), MIN_RESAMPLES);
        assert_eq!(drawn(0, 0), 1);
    }

    #[test]
    fn a_model_does_not_differ_from_itself() {
        let outcomes = accuracy_of(70, 100);
        let test = paired_bootstrap(&outcomes, &outcomes, Metric::Accuracy, &Bootstrap::default()).expect("paired");
        assert_eq!((test.difference, test.p_value, test.interval.low, test.interval.high), (0.0, 1.0, 0.0, 0.0));
        assert_eq!(mcnemar(&outcomes, &outcomes).expect("paired").p_value, 1.0);
        let kept = retention(&outcomes, &outcomes, Metric::Accuracy, &Bootstrap::default()).expect("paired");
        assert_eq!(kept.map(|kept| kept.share), Some(1.0));
    }

    #[test]
    fn the_paired_test_sees_a_difference_that_the_single_intervals_hide() {
        // The second model loses 12 examples and gains none: 0.80 against 0.77, intervals overlap widely.
        let (first, second) = (accuracy_of(320, 400), accuracy_of(308, 400));
        let bootstrap = Bootstrap::default();
        assert!(one(&second, &bootstrap).high > one(&first, &bootstrap).low);
        let test = paired_bootstrap(&first, &second, Metric::Accuracy, &bootstrap).expect("paired");
        assert!((test.difference - 0.03).abs() < 1e-12 && test.p_value < 0.01 && test.interval.low > 0.0, "{test:?}");
        let reverse = paired_bootstrap(&second, &first, Metric::Accuracy, &bootstrap).expect("paired");
        assert_eq!((reverse.difference, reverse.p_value), (-test.difference, test.p_value));
        let exact = mcnemar(&first, &second).expect("paired");
        assert_eq!((exact.only_first, exact.only_second), (12, 0));
        assert!((exact.p_value - 2.0 * 0.5f64.powi(12)).abs() < 1e-15, "{exact:?}");
    }

    #[test]
    fn the_exact_test_equals_scipys_binomial_test() {
        #[derive(Deserialize)]
        struct Golden {
            mcnemar: Vec<Case>,
        }
        #[derive(Deserialize)]
        struct Case {
            only_first: u64,
            only_second: u64,
            expected: f64,
        }
        let golden: Golden =
            serde_json::from_str(include_str!("../../tests/goldens/metrics.json")).expect("the golden file is valid");
        assert!(golden.mcnemar.len() > 5);
        for case in golden.mcnemar {
            let found = exact_sign_test(case.only_first, case.only_second);
            assert!((found / case.expected - 1.0).abs() < 1e-9, "{found} not {}", case.expected);
        }
    }

    #[test]
    fn other_examples_are_not_compared() {
        let other = Outcomes::classes(2, vec![0, 1], vec![0, 0]).expect("good");
        let refusal = mcnemar(&accuracy_of(1, 2), &other).expect_err("other labels").to_string();
        assert_eq!(refusal, "expected two models scored on the same examples, found other labels from example 1 on");
        assert!(
            paired_bootstrap(&accuracy_of(1, 2), &accuracy_of(1, 3), Metric::Accuracy, &Bootstrap::default()).is_err()
        );
    }

    #[test]
    fn no_share_is_kept_of_a_score_that_is_not_above_zero() {
        let kept = |student, teacher| {
            retention(&accuracy_of(student, 20), &accuracy_of(teacher, 20), Metric::Accuracy, &Bootstrap::default())
                .expect("paired")
        };
        assert_eq!(kept(10, 0), None);
        let rare = kept(10, 1).expect("a share");
        assert_eq!((rare.share, rare.interval), (10.0, None));
        let kept = kept(15, 18).expect("a share");
        let interval = kept.interval.expect("the teacher is never at 0");
        assert!(interval.low < kept.share && kept.share < interval.high && interval.high <= 1.0, "{kept:?}");
    }

    #[test]
    fn seed_spread_is_of_the_sample() {
        let spread = seed_spread(&[0.9, 0.8, 0.85, 0.95]).expect("scores");
        assert_eq!((spread.n, spread.min, spread.max), (4, 0.8, 0.95));
        assert!((spread.mean - 0.875).abs() < 1e-12 && (spread.median - 0.875).abs() < 1e-12);
        assert!((spread.sd.expect("four scores") - 0.064_549_722_436_790_28).abs() < 1e-12);
        assert_eq!(seed_spread(&[0.5]).expect("a score").sd, None);
        assert_eq!(seed_spread(&[]), None);
    }
}
