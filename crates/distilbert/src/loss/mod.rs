//! Losses: logits or states and their targets to sums, counts and gradients. Nothing here knows a model.
//!
//! A loss returns what it summed and over how many positions; the step divides by the counts of all its
//! micro-batches, so that how a batch is cut changes nothing but rounding.

pub mod embedding; // sentence embeddings: towards a teacher, a score, or the rest of the batch
pub mod layers; // hidden states of a student's layers and a teacher's
pub mod labelled; // one answer a text, a token or a span, with or without soft labels
pub mod vocabulary; // KL, masked-LM, logits MSE and cosine of distillation

/// A mean in the making.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Mean {
    /// Sum over the positions.
    pub sum: f64,
    /// Number of positions.
    pub count: u64,
}

impl Mean {
    /// The mean; `None` over no positions.
    pub fn value(self) -> Option<f64> {
        (self.count > 0).then(|| self.sum / self.count as f64)
    }

    /// Adds sum and count.
    pub fn add(&mut self, other: Mean) {
        self.sum += other.sum;
        self.count += other.count;
    }
}

/// `weight / count`, the factor of a gradient whose loss is a mean over `count` positions; 0 over none.
pub fn mean_scale(weight: f64, count: u64) -> f32 {
    if count == 0 { 0.0 } else { (weight / count as f64) as f32 }
}
