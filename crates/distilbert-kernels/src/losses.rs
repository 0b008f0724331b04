//! Losses: each returns its sum over the rows, unscaled and in f64, and leaves the scaled gradient.
//!
//! Rows are summed in blocks of 64 (single numbers in blocks of 8192), and the blocks in their order; the caller divides by the counts.

mod logits;
mod top_logits;

pub use logits::{LogitLoss, LogitSums, logit_losses};
pub use top_logits::{TopLogits, TopLogitsMut, top_logit_losses, top_logits};

use crate::math;
use crate::rows::{BLOCK_ROWS, Product, TASK_NUMBERS, Zip, row_count, sum_blocks, sum_zip, zip};
use crate::runtime::{Runtime, SharedMut};
use crate::simd::{Kernel, Simd, dispatch};

/// `Σ (1 - cos(student, teacher))` over rows; adds `scale` times its gradient to `d_student`.
///
/// With PyTorch's numerics of `cosine_embedding_loss`: 1e-12 is added to each squared norm.
///
/// # Shapes
/// `student`, `teacher`, `d_student`: `[rows, width]`
/// # Panics
/// If the lengths disagree.
pub fn cosine_rows(
    rt: &Runtime,
    student: &[f32],
    teacher: &[f32],
    width: usize,
    scale: f32,
    d_student: &mut [f32],
) -> f64 {
    let rows = row_count(student.len(), width);
    assert_eq!(teacher.len(), student.len(), "one row of the teacher for each of the student");
    assert_eq!(d_student.len(), student.len(), "one gradient for each number");
    let d_student = SharedMut::new(d_student);
    sum_blocks(rt, rows, BLOCK_ROWS, |block| {
        let (start, len) = (block.start * width, block.len() * width);
        let (student, teacher) = (&student[start..][..len], &teacher[start..][..len]);
        // SAFETY: blocks have disjoint rows.
        let d_student = unsafe { d_student.slice(start, len) };
        dispatch(rt.isa(), Cosine { student, teacher, width, scale: f64::from(scale), d_student })
    })
}

struct Cosine<'a> {
    student: &'a [f32],
    teacher: &'a [f32],
    width: usize,
    scale: f64,
    d_student: &'a mut [f32],
}

impl Kernel for Cosine<'_> {
    type Output = f64;
    #[inline(always)]
    fn run<S: Simd>(self, simd: S) -> f64 {
        /// PyTorch's `EPSILON` of `cosine_embedding_loss`.
        const EPSILON: f64 = 1e-12;
        let mut total = 0.0;
        let rows = self.student.chunks_exact(self.width).zip(self.teacher.chunks_exact(self.width));
        for ((student, teacher), d_student) in rows.zip(self.d_student.chunks_exact_mut(self.width)) {
            let student_square = sum_zip(simd, student, student, Product) + EPSILON;
            let teacher_square = sum_zip(simd, teacher, teacher, Product) + EPSILON;
            let norms = (student_square * teacher_square).sqrt();
            let cosine = sum_zip(simd, student, teacher, Product) / norms;
            total += 1.0 - cosine;
            // d cos / d student = teacher / norms - cos student / |student|².
            zip(simd, teacher, d_student, AddScaled((-self.scale / norms) as f32));
            zip(simd, student, d_student, AddScaled((self.scale * cosine / student_square) as f32));
        }
        total
    }
}

/// `y + self x`.
#[derive(Clone, Copy)]
struct AddScaled(f32);

impl Zip for AddScaled {
    #[inline(always)]
    fn zip<S: Simd>(self, simd: S, x: S::F32, y: S::F32) -> S::F32 {
        simd.mul_add(x, simd.splat(self.0), y)
    }
}

/// `Σ (x - y)²`; `x` becomes `scale` times the gradient by `x`.
///
/// # Panics
/// If the lengths differ.
pub fn mse(rt: &Runtime, x: &mut [f32], y: &[f32], scale: f32) -> f64 {
    sum_and_gradient(rt, x, y, SquaredDifference, ScaledDifference(2.0 * scale))
}

#[derive(Clone, Copy)]
struct SquaredDifference;

impl Zip for SquaredDifference {
    #[inline(always)]
    fn zip<S: Simd>(self, simd: S, y: S::F32, x: S::F32) -> S::F32 {
        let difference = simd.sub(x, y);
        simd.mul(difference, difference)
    }
}

#[derive(Clone, Copy)]
struct ScaledDifference(f32);

impl Zip for ScaledDifference {
    #[inline(always)]
    fn zip<S: Simd>(self, simd: S, y: S::F32, x: S::F32) -> S::F32 {
        simd.mul(simd.sub(x, y), simd.splat(self.0))
    }
}

/// `Σ -(y ln σ(x) + (1 - y) ln(1 - σ(x)))` over logits `x` and targets `y` in `0..=1`; the logits become `scale` times
/// the gradient by them.
///
/// # Panics
/// If the lengths differ.
pub fn bce_with_logits(rt: &Runtime, logits: &mut [f32], targets: &[f32], scale: f32) -> f64 {
    sum_and_gradient(rt, logits, targets, BinaryCrossEntropy, BinaryCrossEntropyGradient(scale))
}

/// `max(x, 0) - x y + ln(1 + e^-|x|)`, which is the same without overflow.
#[derive(Clone, Copy)]
struct BinaryCrossEntropy;

impl Zip for BinaryCrossEntropy {
    #[inline(always)]
    fn zip<S: Simd>(self, simd: S, y: S::F32, x: S::F32) -> S::F32 {
        let zero = simd.splat(0.0);
        let e = math::exp(simd, simd.sub(zero, simd.abs(x)));
        let linear = simd.sub(simd.max(zero, x), simd.mul(x, y));
        simd.add(linear, math::ln_1p_unit(simd, e))
    }
}

#[derive(Clone, Copy)]
struct BinaryCrossEntropyGradient(f32);

impl Zip for BinaryCrossEntropyGradient {
    #[inline(always)]
    fn zip<S: Simd>(self, simd: S, y: S::F32, x: S::F32) -> S::F32 {
        simd.mul(simd.sub(math::sigmoid(simd, x), y), simd.splat(self.0))
    }
}

/// `Σ loss(y, x)`; then `x = gradient(y, x)`.
fn sum_and_gradient(rt: &Runtime, x: &mut [f32], y: &[f32], loss: impl Zip, gradient: impl Zip) -> f64 {
    assert_eq!(x.len(), y.len(), "one target for each number");
    let len = x.len();
    let x = SharedMut::new(x);
    sum_blocks(rt, len, TASK_NUMBERS, |block| {
        // SAFETY: blocks are disjoint.
        let x = unsafe { x.slice(block.start, block.len()) };
        dispatch(rt.isa(), SumAndGradient { x, y: &y[block], loss, gradient })
    })
}

struct SumAndGradient<'a, L, G> {
    x: &'a mut [f32],
    y: &'a [f32],
    loss: L,
    gradient: G,
}

impl<L: Zip, G: Zip> Kernel for SumAndGradient<'_, L, G> {
    type Output = f64;
    #[inline(always)]
    fn run<S: Simd>(self, simd: S) -> f64 {
        let total = sum_zip(simd, self.y, self.x, self.loss);
        zip(simd, self.y, self.x, self.gradient);
        total
    }
}

#[cfg(test)]
mod tests;
