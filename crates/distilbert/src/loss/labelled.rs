//! The losses of one answer a text, a token or a span, from labels, from a teacher, or from both.

use super::{Mean, mean_scale};
use crate::data::masking::IGNORED;
use crate::heads::tokens::starts_then_ends;
use distilbert_kernels::Runtime;
use distilbert_kernels::losses::{LogitLoss, LogitSums, bce_with_logits, logit_losses, mse};

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

/// What a step summed: the two terms, each over the positions of [`Labels::positions`] and [`Labels::soft_positions`].
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct LabelledLosses {
    /// The labels' loss.
    pub hard: Mean,
    /// The teacher's.
    pub soft: Mean,
}

impl LabelledLosses {
    /// Adds another micro-batch's.
    pub fn add(&mut self, other: LabelledLosses) {
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
/// sequences, and the step is this batch. With `teacher` of the same shape the two terms are
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
    let (hard, soft) = if teacher.is_some() { (soft_labels.hard, soft_labels.soft) } else { (1.0, 0.0) };
    let soft_count = if teacher.is_some() { labels.soft_positions() } else { 0 };
    let loss = LogitLoss {
        temperature: soft_labels.temperature as f32,
        kl_scale: mean_scale(soft, step.soft),
        ce_scale: mean_scale(hard, step.hard),
        mse_scale: 0.0,
    };
    let losses = |sums: LogitSums| LabelledLosses {
        hard: Mean { sum: sums.ce, count: labels.positions() },
        soft: Mean { sum: sums.kl, count: soft_count },
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
            LabelledLosses { hard: both(first.hard, second.hard), soft: both(first.soft, second.soft) }
        }
        Labels::Multi(targets) => {
            let soft_targets = teacher.map(|teacher| teacher.iter().map(|&z| 1.0 / (1.0 + (-z).exp())).collect());
            by_output(logits, targets, soft_targets, [loss.ce_scale, loss.kl_scale], |logits, targets, scale| {
                bce_with_logits(rt, logits, targets, scale)
            })
        }
        Labels::Scores(targets) => {
            let soft_targets = teacher.map(<[f32]>::to_vec);
            by_output(logits, targets, soft_targets, [loss.ce_scale, loss.kl_scale], |logits, targets, scale| {
                mse(rt, logits, targets, scale)
            })
        }
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
    }
    total
}

/// A loss that looks at each output by itself, against labels and against the teacher; `scales` of their gradients.
fn by_output(
    logits: &mut [f32],
    targets: &[f32],
    soft_targets: Option<Vec<f32>>,
    scales: [f32; 2],
    loss: impl Fn(&mut [f32], &[f32], f32) -> f64,
) -> LabelledLosses {
    let count = logits.len() as u64;
    let soft_part = soft_targets.map(|soft_targets| {
        let mut gradient = logits.to_vec();
        let sum = loss(&mut gradient, &soft_targets, scales[1]);
        (gradient, Mean { sum, count })
    });
    let sum = loss(logits, targets, scales[0]);
    let hard = Mean { sum, count };
    match soft_part {
        None => LabelledLosses { hard, soft: Mean::default() },
        Some((gradient, soft)) => {
            logits.iter_mut().zip(gradient).for_each(|(total, gradient)| *total += gradient);
            LabelledLosses { hard, soft }
        }
    }
}
