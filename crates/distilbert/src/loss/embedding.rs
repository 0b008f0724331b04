//! The losses of sentence embeddings: towards a teacher's, towards a score for a pair, and among the texts of a batch.
//!
//! Similarities are dot products here; of vectors of length one these are cosines. Each loss adds its gradient.

use super::{Mean, mean_scale};
use distilbert_kernels::losses::{LogitLoss, cosine_rows, logit_losses, mse};
use distilbert_kernels::matmul::{Epilogue, PackedMatrix, matmul, matmul_tn};
use distilbert_kernels::{Precision, Runtime};

/// Weights of the terms of a distillation of embeddings.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct EmbeddingWeights {
    /// Of `1 - cos(student, teacher)`.
    pub cosine: f64,
    /// Of `‖student - teacher‖²`.
    pub mse: f64,
}

/// What a step of a distillation of embeddings summed, each over texts.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct EmbeddingLosses {
    /// `1 - cos(student, teacher)`.
    pub cosine: Mean,
    /// `‖student - teacher‖²`.
    pub mse: Mean,
}

impl EmbeddingLosses {
    /// Adds another micro-batch's.
    pub fn add(&mut self, other: EmbeddingLosses) {
        self.cosine.add(other.cosine);
        self.mse.add(other.mse);
    }

    /// The weighted sum of the means.
    pub fn total(&self, weights: &EmbeddingWeights) -> f64 {
        weights.cosine * self.cosine.value().unwrap_or(0.0) + weights.mse * self.mse.value().unwrap_or(0.0)
    }
}

/// Distance of the student's embeddings from the teacher's; `texts` is the number in the whole step.
///
/// # Shapes
/// `student`, `teacher`, `d_student`: `[batch, width]`
pub fn distil(
    rt: &Runtime,
    student: &[f32],
    teacher: &[f32],
    width: usize,
    weights: &EmbeddingWeights,
    texts: u64,
    d_student: &mut [f32],
) -> EmbeddingLosses {
    let count = (student.len() / width) as u64;
    let mut gradient = student.to_vec();
    let sum = mse(rt, &mut gradient, teacher, mean_scale(weights.mse, texts));
    d_student.iter_mut().zip(&gradient).for_each(|(d, gradient)| *d += gradient);
    let cosine = cosine_rows(rt, student, teacher, width, mean_scale(weights.cosine, texts), d_student);
    EmbeddingLosses { cosine: Mean { sum: cosine, count }, mse: Mean { sum, count } }
}

/// `(a_i · b_i - score_i)²`, a mean over the pairs of the batch, which is the whole step's.
///
/// # Shapes
/// `a`, `b`, `d_a`, `d_b`: `[pairs, width]`; `scores`: `[pairs]`
/// # Source
/// Reimers and Gurevych 2019 (arXiv:1908.10084), the regression objective.
pub fn similarity(a: &[f32], b: &[f32], scores: &[f32], d_a: &mut [f32], d_b: &mut [f32]) -> Mean {
    let (width, count) = (a.len() / scores.len().max(1), scores.len() as u64);
    let mut sum = 0.0;
    for (row, &score) in scores.iter().enumerate() {
        let at = row * width..(row + 1) * width;
        let error = dot(&a[at.clone()], &b[at.clone()]) - f64::from(score);
        sum += error * error;
        // d (a·b - s)² / da = 2 (a·b - s) b.
        let scale = (2.0 * error * f64::from(mean_scale(1.0, count))) as f32;
        add_scaled(&mut d_a[at.clone()], &b[at.clone()], scale);
        add_scaled(&mut d_b[at.clone()], &a[at], scale);
    }
    Mean { sum, count }
}

/// `(scale (q_i · p_i - q_i · n_i) - margin_i)²`, a mean over the triples of the batch, which is the whole step's.
///
/// # Shapes
/// `embeddings`, `gradients`: queries, positives and negatives `[triples, width]` each; `margins`: `[triples]`
/// # Source
/// Hofstätter et al. 2020 (arXiv:2010.02666).
pub fn margin(embeddings: [&[f32]; 3], margins: &[f32], scale: f32, gradients: [&mut [f32]; 3]) -> Mean {
    let [query, positive, negative] = embeddings;
    let [d_query, d_positive, d_negative] = gradients;
    let (width, count) = (query.len() / margins.len().max(1), margins.len() as u64);
    let mut sum = 0.0;
    for (row, &wanted) in margins.iter().enumerate() {
        let at = row * width..(row + 1) * width;
        let (q, p, n) = (&query[at.clone()], &positive[at.clone()], &negative[at.clone()]);
        let error = f64::from(scale) * (dot(q, p) - dot(q, n)) - f64::from(wanted);
        sum += error * error;
        let d_margin = (2.0 * error * f64::from(scale) * f64::from(mean_scale(1.0, count))) as f32;
        add_scaled(&mut d_query[at.clone()], p, d_margin);
        add_scaled(&mut d_query[at.clone()], n, -d_margin);
        add_scaled(&mut d_positive[at.clone()], q, d_margin);
        add_scaled(&mut d_negative[at], q, -d_margin);
    }
    Mean { sum, count }
}

/// What the contrast of a batch came to.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Contrast {
    /// Cross-entropy of the right candidate among all.
    pub loss: Mean,
    /// Anchors whose most similar candidate is their own.
    pub first: Mean,
}

/// `-ln softmax(scale · a_i · c)[i]`, a mean over the anchors of the batch, which is the whole step's: candidate `i`
/// belongs to anchor `i`, and every other one, those behind the last anchor's too, is a negative.
///
/// # Shapes
/// `anchors`, `d_anchors`: `[pairs, width]`; `candidates`, `d_candidates`: `[pairs or more, width]`
/// # Source
/// van den Oord et al. 2018 (arXiv:1807.03748); Henderson et al. 2017 (arXiv:1705.00652) for the batch's negatives.
pub fn contrast(
    rt: &Runtime,
    anchors: &[f32],
    candidates: &[f32],
    width: usize,
    scale: f32,
    d_anchors: &mut [f32],
    d_candidates: &mut [f32],
) -> Contrast {
    let (pairs, choices) = (anchors.len() / width, candidates.len() / width);
    let packed = PackedMatrix::from_nk(rt, Precision::F32, candidates, choices, width);
    let mut logits = vec![0.0; pairs * choices];
    matmul(rt, anchors, &packed, &mut logits, Epilogue::None);
    logits.iter_mut().for_each(|logit| *logit *= scale);
    let targets: Vec<i32> = (0..pairs as i32).collect();
    let count = pairs as u64;
    let loss = LogitLoss { temperature: 1.0, kl_scale: 0.0, ce_scale: mean_scale(1.0, count), mse_scale: 0.0 };
    let sums = logit_losses(rt, &mut logits, None, Some(&targets), None, choices, &loss);
    logits.iter_mut().for_each(|d_logit| *d_logit *= scale);
    // Forward: logits = scale · A Cᵀ. So dA = scale · dL C, and dC = scale · dLᵀ A.
    let packed = PackedMatrix::from_kn(rt, Precision::F32, candidates, choices, width);
    matmul(rt, &logits, &packed, d_anchors, Epilogue::Accumulate);
    matmul_tn(rt, Precision::F32, &logits, anchors, pairs, d_candidates);
    Contrast { loss: Mean { sum: sums.ce, count }, first: Mean { sum: sums.ce_correct as f64, count } }
}

/// In f64, which a batch's few products can afford.
fn dot(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum()
}

fn add_scaled(to: &mut [f32], x: &[f32], scale: f32) {
    to.iter_mut().zip(x).for_each(|(to, x)| *to += scale * x);
}
