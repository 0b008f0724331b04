//! Sequences of states to one vector each, and vectors to length one, with their backwards.

use crate::rows::{Add, Product, Scale, Zip, map, row_count, sum_zip, task_rows, zip};
use crate::runtime::{Runtime, SharedMut};
use crate::simd::{Kernel, Simd, dispatch};

/// Shorter vectors are divided by this instead of by their length, as in PyTorch's `normalize`.
const LEAST_LENGTH: f64 = 1e-12;

/// `y[s]` = the mean of sequence `s`'s rows, summed in their order; 0 for a sequence without rows.
///
/// # Shapes
/// `x`: `[tokens, width]`; `cu_seqlens`: `[batch + 1]`; `y`: `[batch, width]`
/// # Panics
/// If the lengths disagree.
pub fn mean_pool(rt: &Runtime, x: &[f32], width: usize, cu_seqlens: &[u32], y: &mut [f32]) {
    for_each_sequence(rt, x, width, cu_seqlens, y, |rows, y| dispatch(rt.isa(), MeanPool { rows, y }));
}

struct MeanPool<'a> {
    rows: &'a [f32],
    y: &'a mut [f32],
}

impl Kernel for MeanPool<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let width = self.y.len();
        self.y.fill(0.0);
        for row in self.rows.chunks_exact(width) {
            zip(simd, row, self.y, Add);
        }
        map(simd, self.y, Scale(1.0 / (self.rows.len() / width).max(1) as f32));
    }
}

/// The backward of [`mean_pool`]: `dx` is overwritten.
///
/// # Shapes
/// `dy`: `[batch, width]`; `cu_seqlens`: `[batch + 1]`; `dx`: `[tokens, width]`
/// # Panics
/// If the lengths disagree.
pub fn mean_pool_backward(rt: &Runtime, dy: &[f32], width: usize, cu_seqlens: &[u32], dx: &mut [f32]) {
    for_each_gradient(rt, dy, width, cu_seqlens, dx, |dy, dx| {
        // Forward: y[c] = Σ_t x[t][c] / n. So every row gets dy / n.
        let share = 1.0 / (dx.len() / width).max(1) as f32;
        for dx in dx.chunks_exact_mut(width) {
            dx.iter_mut().zip(dy).for_each(|(dx, &dy)| *dx = dy * share);
        }
    });
}

/// `y[s][c]` = the largest of column `c` in sequence `s`; minus infinity for a sequence without rows.
///
/// # Shapes
/// `x`: `[tokens, width]`; `cu_seqlens`: `[batch + 1]`; `y`: `[batch, width]`
/// # Panics
/// If the lengths disagree.
pub fn max_pool(rt: &Runtime, x: &[f32], width: usize, cu_seqlens: &[u32], y: &mut [f32]) {
    for_each_sequence(rt, x, width, cu_seqlens, y, |rows, y| dispatch(rt.isa(), MaxPool { rows, y }));
}

struct MaxPool<'a> {
    rows: &'a [f32],
    y: &'a mut [f32],
}

impl Kernel for MaxPool<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        self.y.fill(f32::NEG_INFINITY);
        for row in self.rows.chunks_exact(self.y.len()) {
            zip(simd, row, self.y, Max);
        }
    }
}

#[derive(Clone, Copy)]
struct Max;

impl Zip for Max {
    #[inline(always)]
    fn zip<S: Simd>(self, simd: S, x: S::F32, y: S::F32) -> S::F32 {
        simd.max(y, x)
    }
}

/// The backward of [`max_pool`]: `dx` is overwritten. Of equal numbers the first has the gradient, as in PyTorch.
///
/// # Shapes
/// `x`, `dx`: `[tokens, width]`; `y` (the forward's output), `dy`: `[batch, width]`; `cu_seqlens`: `[batch + 1]`
/// # Panics
/// If the lengths disagree.
pub fn max_pool_backward(
    rt: &Runtime,
    x: &[f32],
    y: &[f32],
    dy: &[f32],
    width: usize,
    cu_seqlens: &[u32],
    dx: &mut [f32],
) {
    assert_eq!((x.len(), y.len()), (dx.len(), dy.len()), "states and vectors as long as their gradients");
    let starts: Vec<usize> = cu_seqlens.iter().map(|&start| start as usize * width).collect();
    for_each_gradient_indexed(rt, dy, width, cu_seqlens, dx, |sequence, dy, dx| {
        let (x, y) = (&x[starts[sequence]..starts[sequence + 1]], &y[sequence * width..][..width]);
        dx.fill(0.0);
        for column in 0..width {
            let rows = (column..x.len()).step_by(width);
            if let Some(at) = rows.into_iter().find(|&at| x[at] == y[column]) {
                dx[at] = dy[column];
            }
        }
    });
}

/// Scales each row to length one, and leaves its length before in `lengths`. Shorter rows than 1e-12 are divided by
/// that.
///
/// # Shapes
/// `x`: `[rows, width]`; `lengths`: `[rows]`
/// # Panics
/// If the lengths disagree.
pub fn normalize_rows(rt: &Runtime, x: &mut [f32], width: usize, lengths: &mut [f32]) {
    assert_eq!(lengths.len(), row_count(x.len(), width), "one length a row");
    let task_rows = task_rows(width);
    let lengths = SharedMut::new(lengths);
    rt.parallel_chunks_mut(x, (task_rows * width).max(1), |task, rows| {
        // SAFETY: tasks have disjoint rows.
        let lengths = unsafe { lengths.slice(task * task_rows, rows.len() / width) };
        dispatch(rt.isa(), Normalize { rows, width, lengths });
    });
}

struct Normalize<'a> {
    rows: &'a mut [f32],
    width: usize,
    lengths: &'a mut [f32],
}

impl Kernel for Normalize<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        for (row, length) in self.rows.chunks_exact_mut(self.width).zip(self.lengths) {
            let exact = sum_zip(simd, row, row, Product).sqrt();
            *length = exact as f32;
            map(simd, row, Scale((1.0 / exact.max(LEAST_LENGTH)) as f32));
        }
    }
}

/// The backward of [`normalize_rows`]: `dy` becomes the gradient by its input, from its output `y` and `lengths`.
///
/// # Shapes
/// `y`, `dy`: `[rows, width]`; `lengths`: `[rows]`
/// # Panics
/// If the lengths disagree.
pub fn normalize_rows_backward(rt: &Runtime, y: &[f32], lengths: &[f32], width: usize, dy: &mut [f32]) {
    assert_eq!((y.len(), lengths.len()), (dy.len(), row_count(dy.len(), width)), "one length a row");
    let task_rows = task_rows(width);
    rt.parallel_chunks_mut(dy, (task_rows * width).max(1), |task, dy| {
        let first = task * task_rows;
        let rows = dy.len() / width;
        let (y, lengths) = (&y[first * width..][..dy.len()], &lengths[first..][..rows]);
        dispatch(rt.isa(), NormalizeBackward { y, lengths, width, dy });
    });
}

struct NormalizeBackward<'a> {
    y: &'a [f32],
    lengths: &'a [f32],
    width: usize,
    dy: &'a mut [f32],
}

impl Kernel for NormalizeBackward<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let rows = self.y.chunks_exact(self.width).zip(self.dy.chunks_exact_mut(self.width));
        for ((y, dy), &length) in rows.zip(self.lengths) {
            // Forward: y = x / |x|. So dx = (dy - y (y · dy)) / |x|; below the least length y = x / 1e-12.
            if f64::from(length) > LEAST_LENGTH {
                let along = sum_zip(simd, y, dy, Product);
                zip(simd, y, dy, SubtractScaled(along as f32));
            }
            map(simd, dy, Scale((1.0 / f64::from(length).max(LEAST_LENGTH)) as f32));
        }
    }
}

/// `y - self x`.
#[derive(Clone, Copy)]
struct SubtractScaled(f32);

impl Zip for SubtractScaled {
    #[inline(always)]
    fn zip<S: Simd>(self, simd: S, x: S::F32, y: S::F32) -> S::F32 {
        simd.mul_add(x, simd.splat(-self.0), y)
    }
}

/// Calls `task` with each sequence's rows and its row of `y`, in parallel.
fn for_each_sequence(
    rt: &Runtime,
    x: &[f32],
    width: usize,
    cu_seqlens: &[u32],
    y: &mut [f32],
    task: impl Fn(&[f32], &mut [f32]) + Sync,
) {
    check(x.len(), y.len(), width, cu_seqlens);
    rt.parallel_chunks_mut(y, width.max(1), |sequence, y| {
        task(&x[cu_seqlens[sequence] as usize * width..cu_seqlens[sequence + 1] as usize * width], y);
    });
}

/// Calls `task` with each sequence's row of `dy` and its rows of `dx`, in parallel.
fn for_each_gradient(
    rt: &Runtime,
    dy: &[f32],
    width: usize,
    cu_seqlens: &[u32],
    dx: &mut [f32],
    task: impl Fn(&[f32], &mut [f32]) + Sync,
) {
    for_each_gradient_indexed(rt, dy, width, cu_seqlens, dx, |_, dy, dx| task(dy, dx));
}

/// As [`for_each_gradient`], with the sequence's number.
fn for_each_gradient_indexed(
    rt: &Runtime,
    dy: &[f32],
    width: usize,
    cu_seqlens: &[u32],
    dx: &mut [f32],
    task: impl Fn(usize, &[f32], &mut [f32]) + Sync,
) {
    check(dx.len(), dy.len(), width, cu_seqlens);
    let dx = SharedMut::new(dx);
    rt.parallel_for(cu_seqlens.len().saturating_sub(1), |sequence| {
        let (start, end) = (cu_seqlens[sequence] as usize * width, cu_seqlens[sequence + 1] as usize * width);
        // SAFETY: `check` has seen that the sequences lie one behind the other inside `dx`, so they are disjoint.
        let dx = unsafe { dx.slice(start, end - start) };
        task(sequence, &dy[sequence * width..][..width], dx);
    });
}

fn check(states: usize, vectors: usize, width: usize, cu_seqlens: &[u32]) {
    let tokens = row_count(states, width);
    assert!(cu_seqlens.is_sorted(), "sequences one behind the other");
    assert_eq!(cu_seqlens.first().copied().unwrap_or(0), 0, "the first sequence begins at the start");
    assert_eq!(cu_seqlens.last().copied().unwrap_or(0) as usize, tokens, "the last sequence ends with the states");
    assert_eq!(row_count(vectors, width), cu_seqlens.len().saturating_sub(1), "one vector a sequence");
}

#[cfg(test)]
mod tests;
