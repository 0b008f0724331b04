//! Correlations of numbers.

use super::total;

/// Numbers with the order that sorts them, so that ranks of a resample need no sorting.
#[derive(Clone, Debug)]
pub(super) struct Sorted {
    pub(super) values: Vec<f64>,
    /// Indices of `values`, smallest value first.
    order: Vec<usize>,
}

impl Sorted {
    pub(super) fn new(values: Vec<f64>) -> Self {
        let mut order: Vec<usize> = (0..values.len()).collect();
        order.sort_by(|&a, &b| values[a].total_cmp(&values[b]));
        Sorted { values, order }
    }

    /// Ranks from 1 in the resample, ties sharing the mean of theirs.
    pub(super) fn ranks(&self, weights: &[u32]) -> Vec<f64> {
        let mut ranks = vec![0.0; self.values.len()];
        let mut before = 0;
        for ties in self.order.chunk_by(|&a, &b| self.values[a] == self.values[b]) {
            let count: u64 = ties.iter().map(|&index| u64::from(weights[index])).sum();
            for &index in ties {
                ranks[index] = before as f64 + (count as f64 + 1.0) / 2.0;
            }
            before += count;
        }
        ranks
    }
}

/// Pearson correlation; 0 if either side is constant (so also for fewer than two examples).
pub(super) fn correlation(x: &[f64], y: &[f64], weights: &[u32]) -> f64 {
    let n = total(weights) as f64;
    // A constant's mean may round, and then its deviations are noise, not 0: so it is looked for by value.
    if n == 0.0 || is_constant(x, weights) || is_constant(y, weights) {
        return 0.0;
    }
    let mean = |values: &[f64]| values.iter().zip(weights).map(|(value, &w)| value * f64::from(w)).sum::<f64>() / n;
    let (mean_x, mean_y) = (mean(x), mean(y));
    let (mut xx, mut yy, mut xy) = (0.0, 0.0, 0.0);
    for ((x, y), &weight) in x.iter().zip(y).zip(weights) {
        let (dx, dy, weight) = (x - mean_x, y - mean_y, f64::from(weight));
        xx += weight * dx * dx;
        yy += weight * dy * dy;
        xy += weight * dx * dy;
    }
    let scale = xx.sqrt() * yy.sqrt();
    // Deviations so small or large that their squares leave the range of a double.
    if scale == 0.0 || !scale.is_finite() { 0.0 } else { (xy / scale).clamp(-1.0, 1.0) }
}

fn is_constant(values: &[f64], weights: &[u32]) -> bool {
    let mut kept = values.iter().zip(weights).filter(|&(_, &weight)| weight > 0).map(|(value, _)| value);
    let first = kept.next();
    kept.all(|value| Some(value) == first)
}
