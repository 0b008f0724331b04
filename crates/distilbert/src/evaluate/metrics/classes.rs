//! Accuracy, F1 and Matthews correlation, from counts of classes.

use super::{ratio, total};

/// Whether a class that occurs neither in truth nor in prediction takes part in the macro mean. As scikit-learn.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Absent {
    LeftOut,
    CountsZero,
}

/// Per class, how often it was predicted rightly, predicted, and true.
pub(super) struct ClassCounts {
    right: Vec<u64>,
    predicted: Vec<u64>,
    truth: Vec<u64>,
    /// Examples.
    total: u64,
}

impl ClassCounts {
    fn new(labels: usize, weights: &[u32]) -> Self {
        ClassCounts {
            right: vec![0; labels],
            predicted: vec![0; labels],
            truth: vec![0; labels],
            total: total(weights),
        }
    }

    /// Of one class an example.
    pub(super) fn of_classes(labels: usize, truth: &[usize], predicted: &[usize], weights: &[u32]) -> Self {
        let mut counts = ClassCounts::new(labels, weights);
        for ((&truth, &predicted), &weight) in truth.iter().zip(predicted).zip(weights) {
            let weight = u64::from(weight);
            // Below `labels`: the constructor checked.
            counts.truth[truth] += weight;
            counts.predicted[predicted] += weight;
            if truth == predicted {
                counts.right[truth] += weight;
            }
        }
        counts
    }

    /// Of sets of labels, `[examples, labels]`.
    pub(super) fn of_sets(labels: usize, truth: &[bool], predicted: &[bool], weights: &[u32]) -> Self {
        let mut counts = ClassCounts::new(labels, weights);
        for ((truth, predicted), &weight) in truth.chunks(labels).zip(predicted.chunks(labels)).zip(weights) {
            for (label, (&truth, &predicted)) in truth.iter().zip(predicted).enumerate() {
                counts.truth[label] += u64::from(truth) * u64::from(weight);
                counts.predicted[label] += u64::from(predicted) * u64::from(weight);
                counts.right[label] += u64::from(truth && predicted) * u64::from(weight);
            }
        }
        counts
    }

    pub(super) fn accuracy(&self) -> f64 {
        ratio(self.right.iter().sum(), self.total)
    }

    /// `2TP / (2TP + FP + FN)` of one class; 0 if the class is neither true nor predicted.
    pub(super) fn f1(&self, class: usize) -> f64 {
        ratio(2 * self.right[class], self.predicted[class] + self.truth[class])
    }

    pub(super) fn micro_f1(&self) -> f64 {
        let sum = |counts: &[u64]| counts.iter().sum::<u64>();
        ratio(2 * sum(&self.right), sum(&self.predicted) + sum(&self.truth))
    }

    pub(super) fn macro_f1(&self, absent: Absent) -> f64 {
        let present = |class: &usize| absent == Absent::CountsZero || self.predicted[*class] + self.truth[*class] > 0;
        let classes: Vec<usize> = (0..self.truth.len()).filter(present).collect();
        let sum: f64 = classes.iter().map(|&class| self.f1(class)).sum();
        if classes.is_empty() { 0.0 } else { sum / classes.len() as f64 }
    }

    /// `(c·s − Σ p_k t_k) / √((s² − Σ p_k²)(s² − Σ t_k²))` with c right, s all, p_k predicted and t_k true counts; for
    /// two classes the Matthews correlation. 0 if all truths or all predictions are one class.
    ///
    /// # Source
    /// Gorodkin 2004, "Comparing two K-category assignments by a K-category correlation coefficient".
    pub(super) fn matthews(&self) -> f64 {
        let product =
            |a: &[u64], b: &[u64]| a.iter().zip(b).map(|(&x, &y)| u128::from(x) * u128::from(y)).sum::<u128>();
        let square = u128::from(self.total) * u128::from(self.total);
        let right = u128::from(self.right.iter().sum::<u64>());
        // Whole numbers up to here: no cancellation.
        let spread_predicted = square.saturating_sub(product(&self.predicted, &self.predicted));
        let spread_truth = square.saturating_sub(product(&self.truth, &self.truth));
        if spread_predicted == 0 || spread_truth == 0 {
            return 0.0;
        }
        let agree = right * u128::from(self.total);
        let chance = product(&self.predicted, &self.truth);
        let covariance = if agree >= chance { (agree - chance) as f64 } else { -((chance - agree) as f64) };
        covariance / ((spread_predicted as f64).sqrt() * (spread_truth as f64).sqrt())
    }
}
