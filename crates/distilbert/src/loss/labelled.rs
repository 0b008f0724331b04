//! The losses of one answer a text, a token or a span, from labels, from a teacher, or from both.

use super::{Mean, mean_scale};
use crate::data::masking::IGNORED;
use crate::heads::tokens::starts_then_ends;
use distilbert_kernels::Runtime;
use distilbert_kernels::losses::{LogitLoss, LogitSums, bce_with_logits, logit_losses, mse as squared_error};

/// How a fine-tuned teacher's logits enter: `hard · L(labels) + soft · L(teacher) + mse · ‖logits − teacher's‖²`.
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
    /// Weight of the squared distance to the teacher's logits: a mean over rows, summed over their outputs; of
    /// multi-label and numbers a mean over outputs.
    #[serde(skip_serializing_if = "is_zero")]
    pub mse: f64,
}

// Runs from before there was such a weight resume.
#[allow(clippy::trivially_copy_pass_by_ref)] // As serde calls it.
fn is_zero(weight: &f64) -> bool {
    *weight == 0.0
}

/// Even weights at temperature 2, the setting of the published second distillation.
impl Default for SoftLabels {
    fn default() -> Self {
        SoftLabels { temperature: 2.0, hard: 0.5, soft: 0.5, mse: 0.0 }
    }
}

/// Labels of a batch, in the form of its problem.
#[derive(Clone, Copy, Debug)]
pub enum Labels<'a> {
    /// Class of each row of logits, [`IGNORED`] where there is none: `[batch]`, or `[tokens]` for labels of tokens.
    Classes(&'a [i32]),
    /// 0 or 1 for each output, `[batch, labels]`.
    Multi(&'a [f32]),
    /// A number for each output, `[batch, labels]`.
    Scores(&'a [f32]),
    /// Class of each sequence `[batch]` and of each token `[tokens]`, [`IGNORED`] where there is none: the logits of the
    /// sequences come first. The loss is the sum of the two means.
    Both {
        /// Of the sequences.
        texts: &'a [i32],
        /// Of the tokens.
        tokens: &'a [i32],
    },
    /// Where each sequence's answer starts and ends; two logits for each token say the same.
    Spans {
        /// `[batch]`
        spans: &'a [Span],
        /// Where the sequences begin, `[batch + 1]`.
        cu_seqlens: &'a [u32],
    },
}

/// First and last token of an answer, counted from the sequence's first token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// First token; `None` if it lies outside the sequence, and the loss looks away.
    pub start: Option<u32>,
    /// Last token; likewise.
    pub end: Option<u32>,
}

impl Labels<'_> {
    /// What the mean of the loss goes over: labelled rows, outputs, or starts and ends.
    pub fn positions(&self) -> u64 {
        match self {
            Labels::Classes(classes) => classes.iter().filter(|&&class| class != IGNORED).count() as u64,
            Labels::Multi(values) | Labels::Scores(values) => values.len() as u64,
            // A sum of means is one of its kind.
            Labels::Both { .. } => 1,
            Labels::Spans { spans, .. } => {
                spans.iter().flat_map(|span| [span.start, span.end]).flatten().count() as u64
            }
        }
    }

    /// What the mean of the teacher's loss goes over: it has an answer wherever there are logits to look at.
    pub fn soft_positions(&self) -> u64 {
        match self {
            Labels::Spans { spans, .. } => 2 * spans.len() as u64,
            _ => self.positions(),
        }
    }
}

/// What a step summed: the terms, each over the positions of [`Labels::positions`] and [`Labels::soft_positions`].
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct LabelledLosses {
    /// The labels' loss.
    pub hard: Mean,
    /// The teacher's.
    pub soft: Mean,
    /// The squared distance to its logits, if it has a weight.
    pub mse: Mean,
}

impl LabelledLosses {
    /// Adds another micro-batch's.
    pub fn add(&mut self, other: LabelledLosses) {
        self.hard.add(other.hard);
        self.soft.add(other.soft);
        self.mse.add(other.mse);
    }

    /// The weighted sum of the means that exist.
    pub fn total(&self, soft_labels: &SoftLabels) -> f64 {
        let mse = soft_labels.mse * self.mse.value().unwrap_or(0.0);
        match (self.hard.value(), self.soft.value()) {
            (Some(hard), Some(soft)) => soft_labels.hard * hard + soft_labels.soft * soft + mse,
            (Some(hard), None) => hard,
            (None, soft) => soft_labels.soft * soft.unwrap_or(0.0) + mse,
        }
    }
}

/// What the means of a whole step go over, of labels and of a teacher.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StepPositions {
    /// [`Labels::positions`] of all micro-batches.
    pub hard: u64,
    /// [`Labels::soft_positions`] of all micro-batches.
    pub soft: u64,
}

impl StepPositions {
    /// Of a step of one micro-batch.
    pub fn of(labels: &Labels<'_>) -> StepPositions {
        StepPositions { hard: labels.positions(), soft: labels.soft_positions() }
    }
}

/// Loss of `logits` `[rows, outputs]`, which become their gradient; of sequences and tokens both, `outputs` is that of the
/// sequences, and the step is this batch. With `teacher` of the same shape the terms are
/// mixed by `soft_labels`, without it the labels count whole. Of tokens with labels the teacher's loss looks at those
/// alone that have one; of spans it is the divergence of the distributions over all tokens of a sequence.
pub fn labelled_loss(
    rt: &Runtime,
    logits: &mut [f32],
    outputs: usize,
    labels: Labels<'_>,
    teacher: Option<&[f32]>,
    soft_labels: &SoftLabels,
    step: StepPositions,
) -> LabelledLosses {
    let SoftLabels { temperature, hard, soft, mse } = match teacher {
        Some(_) => *soft_labels,
        None => SoftLabels { hard: 1.0, soft: 0.0, mse: 0.0, ..*soft_labels },
    };
    let loss = LogitLoss {
        temperature: temperature as f32,
        kl_scale: mean_scale(soft, step.soft),
        ce_scale: mean_scale(hard, step.hard),
        mse_scale: mean_scale(mse, step.soft),
    };
    let soft_count = if teacher.is_some() { labels.soft_positions() } else { 0 };
    let losses = |sums: LogitSums| LabelledLosses {
        hard: Mean { sum: sums.ce, count: labels.positions() },
        soft: Mean { sum: sums.kl, count: soft_count },
        mse: Mean { sum: sums.mse, count: if mse == 0.0 { 0 } else { soft_count } },
    };
    match labels {
        Labels::Classes(classes) => {
            let labelled: Vec<bool> = classes.iter().map(|&class| class != IGNORED).collect();
            losses(logit_losses(rt, logits, teacher, Some(classes), Some(&labelled), outputs, &loss))
        }
        Labels::Spans { spans, cu_seqlens } => losses(span_losses(rt, logits, spans, cu_seqlens, teacher, &loss)),
        Labels::Both { texts, tokens } => {
            let (own, of_tokens) = logits.split_at_mut(texts.len() * outputs);
            let teachers = teacher.map(|teacher| teacher.split_at(own.len()));
            let part = |logits: &mut [f32], classes: &[i32], teacher: Option<&[f32]>| {
                let (outputs, labels) = (logits.len() / classes.len().max(1), Labels::Classes(classes));
                let step = StepPositions::of(&labels);
                labelled_loss(rt, logits, outputs, labels, teacher, soft_labels, step)
            };
            let first = part(own, texts, teachers.map(|(own, _)| own));
            let second = part(of_tokens, tokens, teachers.map(|(_, of_tokens)| of_tokens));
            let both = |first: Mean, second: Mean| match (first.value(), second.value()) {
                (None, None) => Mean::default(),
                (first, second) => Mean { sum: first.unwrap_or(0.0) + second.unwrap_or(0.0), count: 1 },
            };
            LabelledLosses {
                hard: both(first.hard, second.hard),
                soft: both(first.soft, second.soft),
                mse: both(first.mse, second.mse),
            }
        }
        Labels::Multi(targets) => {
            let chances: Option<Vec<f32>> =
                teacher.map(|teacher| teacher.iter().map(|&z| 1.0 / (1.0 + (-z).exp())).collect());
            by_output(rt, logits, &loss, bce_with_logits, targets, chances.as_deref(), teacher)
        }
        Labels::Scores(targets) => by_output(rt, logits, &loss, squared_error, targets, teacher, teacher),
    }
}

/// For each sequence two distributions over its tokens, of the start and of the end; `logits` `[tokens, 2]`. The mean
/// over starts and ends alike is the published half of the two means' sum.
fn span_losses(
    rt: &Runtime,
    logits: &mut [f32],
    spans: &[Span],
    cu_seqlens: &[u32],
    teacher: Option<&[f32]>,
    loss: &LogitLoss,
) -> LogitSums {
    let mut total = LogitSums::default();
    for (span, ends) in spans.iter().zip(cu_seqlens.windows(2)) {
        let tokens = ends[0] as usize..ends[1] as usize;
        let own = 2 * tokens.start..2 * tokens.end;
        let targets = [span.start, span.end].map(|target| target.map_or(IGNORED, |token| token as i32));
        let mut rows = starts_then_ends(&logits[own.clone()]); // [2, seq]
        let teacher = teacher.map(|teacher| starts_then_ends(&teacher[own.clone()]));
        let sums = logit_losses(rt, &mut rows, teacher.as_deref(), Some(&targets), None, tokens.len(), loss);
        let (starts, ends) = rows.split_at(tokens.len());
        for (pair, (&start, &end)) in logits[own].chunks_exact_mut(2).zip(starts.iter().zip(ends)) {
            pair.copy_from_slice(&[start, end]);
        }
        total.ce += sums.ce;
        total.kl += sums.kl;
        total.mse += sums.mse;
    }
    total
}

/// Sum of a loss over outputs, which become its gradient times a scale.
type OutputLoss = fn(&Runtime, &mut [f32], &[f32], f32) -> f64;

/// A loss that looks at each output by itself, against labels and against a teacher's answers, and the squared distance
/// to its logits.
fn by_output(
    rt: &Runtime,
    logits: &mut [f32],
    scales: &LogitLoss,
    loss: OutputLoss,
    targets: &[f32],
    soft_targets: Option<&[f32]>,
    teacher: Option<&[f32]>,
) -> LabelledLosses {
    let count = logits.len() as u64;
    let own = logits.to_vec();
    let hard = Mean { sum: loss(rt, logits, targets, scales.ce_scale), count };
    let mut add = |loss: OutputLoss, targets: &[f32], scale: f32| {
        let mut gradient = own.clone();
        let sum = loss(rt, &mut gradient, targets, scale);
        logits.iter_mut().zip(gradient).for_each(|(total, gradient)| *total += gradient);
        Mean { sum, count }
    };
    let soft = soft_targets.map(|targets| add(loss, targets, scales.kl_scale)).unwrap_or_default();
    let teacher = teacher.filter(|_| scales.mse_scale != 0.0);
    let mse = teacher.map(|teacher| add(squared_error, teacher, scales.mse_scale)).unwrap_or_default();
    LabelledLosses { hard, soft, mse }
}

#[cfg(test)]
mod tests {
    use super::*;
    use distilbert_kernels::Isa;

    #[test]
    fn of_several_labels_and_of_numbers_the_gradient_is_that_of_all_three_terms() {
        let rt = Runtime::new(Isa::Portable, 1).unwrap();
        let (logits, teacher) = ([0.5f32, -1.0, 2.0, 0.25, -0.75, 1.0], [1.5f32, -0.5, -1.0, 0.0, 0.5, 1.0]);
        let targets = [1.0f32, 0.0, 1.0, 0.0, 0.0, 1.0];
        let soft_labels = SoftLabels { temperature: 2.0, hard: 0.5, soft: 0.25, mse: 0.125 };
        for labels in [Labels::Multi(&targets), Labels::Scores(&targets)] {
            let loss = |logits: &[f32]| {
                let mut gradient = logits.to_vec();
                let step = StepPositions::of(&labels);
                let losses = labelled_loss(&rt, &mut gradient, 3, labels, Some(&teacher), &soft_labels, step);
                (losses, gradient)
            };
            let (losses, gradient) = loss(&logits);
            let squares = logits.iter().zip(&teacher).map(|(s, t)| f64::from((s - t) * (s - t)));
            assert!((losses.mse.value().unwrap() - squares.sum::<f64>() / 6.0).abs() < 1e-6);
            for (at, found) in gradient.iter().enumerate() {
                let total = |by: f32| {
                    let mut moved = logits;
                    moved[at] += by;
                    loss(&moved).0.total(&soft_labels)
                };
                let expected = (total(0.0625) - total(-0.0625)) / 0.125;
                assert!((f64::from(*found) - expected).abs() < 1e-3, "{labels:?} {at}: {found} {expected}");
            }
        }
    }
}
