//! The losses of one answer a sequence, from labels, from a teacher, or from both.

use super::{Mean, mean_scale};
use distilbert_kernels::Runtime;
use distilbert_kernels::losses::{LogitLoss, bce_with_logits, logit_losses, mse};

/// How a fine-tuned teacher's logits enter: `hard · L(labels) + soft · L(teacher)`.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct SoftLabels {
    /// Softens both models' distributions; above 0. Regression and multi-label do not use it.
    pub temperature: f64,
    /// Weight of the labels' loss.
    pub hard: f64,
    /// Weight of the teacher's: `T² · KL` for one class, cross-entropy of the sigmoids for several, squared error for
    /// a number.
    pub soft: f64,
}

/// Even weights at temperature 2, the setting of the published second distillation.
impl Default for SoftLabels {
    fn default() -> Self {
        SoftLabels { temperature: 2.0, hard: 0.5, soft: 0.5 }
    }
}

/// Labels of a batch, in the form of its problem.
#[derive(Clone, Copy, Debug)]
pub enum Labels<'a> {
    /// Class of each sequence, `[batch]`.
    Classes(&'a [i32]),
    /// 0 or 1 for each output, `[batch, labels]`.
    Multi(&'a [f32]),
    /// A number for each output, `[batch, labels]`.
    Scores(&'a [f32]),
}

/// What a step summed: the two terms, each over sequences (one class) or over outputs (the other problems).
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct SequenceLosses {
    /// The labels' loss.
    pub hard: Mean,
    /// The teacher's.
    pub soft: Mean,
}

impl SequenceLosses {
    /// Adds another micro-batch's.
    pub fn add(&mut self, other: SequenceLosses) {
        self.hard.add(other.hard);
        self.soft.add(other.soft);
    }

    /// The weighted sum of the means that exist.
    pub fn total(&self, soft_labels: &SoftLabels) -> f64 {
        match (self.hard.value(), self.soft.value()) {
            (Some(hard), Some(soft)) => soft_labels.hard * hard + soft_labels.soft * soft,
            (Some(hard), None) => hard,
            (None, soft) => soft_labels.soft * soft.unwrap_or(0.0),
        }
    }
}

/// Loss of `logits` `[batch, outputs]`, which become their gradient. `sequences` is the number in the whole step.
/// With `teacher` `[batch, outputs]` the two terms are mixed by `soft_labels`, without it the labels count whole.
pub fn sequence_loss(
    rt: &Runtime,
    logits: &mut [f32],
    outputs: usize,
    labels: Labels<'_>,
    teacher: Option<&[f32]>,
    soft_labels: &SoftLabels,
    sequences: u64,
) -> SequenceLosses {
    let batch = (logits.len() / outputs) as u64;
    let (hard, soft) = if teacher.is_some() { (soft_labels.hard, soft_labels.soft) } else { (1.0, 0.0) };
    match labels {
        Labels::Classes(classes) => {
            let loss = LogitLoss {
                temperature: soft_labels.temperature as f32,
                kl_scale: mean_scale(soft, sequences),
                ce_scale: mean_scale(hard, sequences),
                mse_scale: 0.0,
            };
            let sums = logit_losses(rt, logits, teacher, Some(classes), None, outputs, &loss);
            SequenceLosses {
                hard: Mean { sum: sums.ce, count: batch },
                soft: Mean { sum: sums.kl, count: if teacher.is_some() { batch } else { 0 } },
            }
        }
        Labels::Multi(targets) => {
            let soft_targets = teacher.map(|teacher| teacher.iter().map(|&z| 1.0 / (1.0 + (-z).exp())).collect());
            by_output(
                logits,
                targets,
                soft_targets,
                hard,
                soft,
                sequences * outputs as u64,
                |logits, targets, scale| bce_with_logits(rt, logits, targets, scale),
            )
        }
        Labels::Scores(targets) => {
            let soft_targets = teacher.map(<[f32]>::to_vec);
            by_output(
                logits,
                targets,
                soft_targets,
                hard,
                soft,
                sequences * outputs as u64,
                |logits, targets, scale| mse(rt, logits, targets, scale),
            )
        }
    }
}

/// A loss that looks at each output by itself, against labels and against the teacher.
fn by_output(
    logits: &mut [f32],
    targets: &[f32],
    soft_targets: Option<Vec<f32>>,
    hard: f64,
    soft: f64,
    outputs_in_step: u64,
    loss: impl Fn(&mut [f32], &[f32], f32) -> f64,
) -> SequenceLosses {
    let count = logits.len() as u64;
    let soft_part = soft_targets.map(|soft_targets| {
        let mut gradient = logits.to_vec();
        let sum = loss(&mut gradient, &soft_targets, mean_scale(soft, outputs_in_step));
        (gradient, Mean { sum, count })
    });
    let sum = loss(logits, targets, mean_scale(hard, outputs_in_step));
    let hard = Mean { sum, count };
    match soft_part {
        None => SequenceLosses { hard, soft: Mean::default() },
        Some((gradient, soft)) => {
            logits.iter_mut().zip(gradient).for_each(|(total, gradient)| *total += gradient);
            SequenceLosses { hard, soft }
        }
    }
}
