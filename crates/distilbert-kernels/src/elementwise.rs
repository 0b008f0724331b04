//! Activations with their backwards, softmax, and sums, copies and additions of rows.

use crate::math;
use crate::rows::{
    Add, BLOCK_ROWS, Map, Scale, TASK_NUMBERS, Zip, add_blocks, largest, map, parallel_map, parallel_zip, row_count,
    sum, task_rows, zip,
};
use crate::runtime::{Runtime, SharedMut};
use crate::simd::{Kernel, Simd, dispatch};

/// Which GELU a model was trained with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GeluKind {
    /// `x Φ(x)` with the normal distribution function: `gelu` in BERT's and DistilBERT's configurations.
    Erf,
    /// Its approximation `x (1 + tanh(sqrt(2/π) (x + 0.044715 x³))) / 2`: `gelu_new`, `gelu_pytorch_tanh`.
    Tanh,
}

/// `y = gelu(x)`.
///
/// # Panics
/// If the lengths differ.
pub fn gelu(rt: &Runtime, x: &[f32], y: &mut [f32], kind: GeluKind) {
    parallel_zip(rt, x, y, Gelu(kind));
}

#[derive(Clone, Copy)]
struct Gelu(GeluKind);

impl Zip for Gelu {
    #[inline(always)]
    fn zip<S: Simd>(self, simd: S, x: S::F32, _: S::F32) -> S::F32 {
        math::gelu(simd, x, self.0)
    }
}

/// `dy *= gelu'(x)`, which makes it the gradient by `x`, the input of [`gelu`].
///
/// # Panics
/// If the lengths differ.
pub fn gelu_backward(rt: &Runtime, x: &[f32], dy: &mut [f32], kind: GeluKind) {
    parallel_zip(rt, x, dy, GeluBackward(kind));
}

#[derive(Clone, Copy)]
struct GeluBackward(GeluKind);

impl Zip for GeluBackward {
    #[inline(always)]
    fn zip<S: Simd>(self, simd: S, x: S::F32, dy: S::F32) -> S::F32 {
        simd.mul(dy, math::gelu_derivative(simd, x, self.0))
    }
}

/// `x = tanh(x)`.
pub fn tanh(rt: &Runtime, x: &mut [f32]) {
    parallel_map(rt, x, Tanh);
}

#[derive(Clone, Copy)]
struct Tanh;

impl Map for Tanh {
    #[inline(always)]
    fn map<S: Simd>(self, simd: S, x: S::F32) -> S::F32 {
        math::tanh(simd, x)
    }
}

/// `dy *= 1 - y²` for `y` the output of [`tanh()`], which makes it the gradient by the input.
///
/// # Panics
/// If the lengths differ.
pub fn tanh_backward(rt: &Runtime, y: &[f32], dy: &mut [f32]) {
    parallel_zip(rt, y, dy, TanhBackward);
}

#[derive(Clone, Copy)]
struct TanhBackward;

impl Zip for TanhBackward {
    #[inline(always)]
    fn zip<S: Simd>(self, simd: S, y: S::F32, dy: S::F32) -> S::F32 {
        simd.mul(dy, simd.sub(simd.splat(1.0), simd.mul(y, y)))
    }
}

/// `x = max(x, 0)`; NaN stays NaN.
pub fn relu(rt: &Runtime, x: &mut [f32]) {
    parallel_map(rt, x, Relu);
}

#[derive(Clone, Copy)]
struct Relu;

impl Map for Relu {
    #[inline(always)]
    fn map<S: Simd>(self, simd: S, x: S::F32) -> S::F32 {
        simd.max(simd.splat(0.0), x)
    }
}

/// `dy = 0` where `y`, the output of [`relu`], is 0.
///
/// # Panics
/// If the lengths differ.
pub fn relu_backward(rt: &Runtime, y: &[f32], dy: &mut [f32]) {
    parallel_zip(rt, y, dy, ReluBackward);
}

#[derive(Clone, Copy)]
struct ReluBackward;

impl Zip for ReluBackward {
    #[inline(always)]
    fn zip<S: Simd>(self, simd: S, y: S::F32, dy: S::F32) -> S::F32 {
        simd.select(simd.less(simd.splat(0.0), y), dy, simd.splat(0.0))
    }
}

/// Each row of `columns` numbers becomes its softmax.
///
/// # Panics
/// If `x` is not whole rows.
pub fn softmax_rows(rt: &Runtime, x: &mut [f32], columns: usize) {
    row_count(x.len(), columns);
    rt.parallel_chunks_mut(x, (task_rows(columns) * columns).max(1), |_, rows| {
        dispatch(rt.isa(), Softmax { rows, columns });
    });
}

struct Softmax<'a> {
    rows: &'a mut [f32],
    columns: usize,
}

impl Kernel for Softmax<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        for row in self.rows.chunks_exact_mut(self.columns) {
            let max = largest(simd, row);
            map(simd, row, ExpMinus(max));
            let total = sum(simd, row);
            map(simd, row, Scale((1.0 / total) as f32));
        }
    }
}

/// `e^(x - self)`.
#[derive(Clone, Copy)]
struct ExpMinus(f32);

impl Map for ExpMinus {
    #[inline(always)]
    fn map<S: Simd>(self, simd: S, x: S::F32) -> S::F32 {
        math::exp(simd, simd.sub(x, simd.splat(self.0)))
    }
}

/// `y += x`.
///
/// # Panics
/// If the lengths differ.
pub fn add_assign(rt: &Runtime, y: &mut [f32], x: &[f32]) {
    parallel_zip(rt, x, y, Add);
}

/// `x *= by`.
pub fn scale(rt: &Runtime, x: &mut [f32], by: f32) {
    parallel_map(rt, x, Scale(by));
}

/// `out[c] += Σ_r x[r][c]`: the gradient of a bias. Rows are summed in blocks of 64, the blocks in their order.
///
/// # Shapes
/// `x`: `[rows, columns]`; `out`: `[columns]`
/// # Panics
/// If the lengths disagree.
pub fn column_sums(rt: &Runtime, x: &[f32], columns: usize, out: &mut [f32]) {
    assert_eq!(out.len(), columns, "one sum a column");
    let rows = row_count(x.len(), columns);
    let mut partials = vec![0.0; rows.div_ceil(BLOCK_ROWS) * columns];
    rt.parallel_chunks_mut(&mut partials, columns.max(1), |block, sums| {
        let rows = &x[block * BLOCK_ROWS * columns..rows.min((block + 1) * BLOCK_ROWS) * columns];
        dispatch(rt.isa(), SumColumns { rows, sums });
    });
    add_blocks(rt, &partials, out);
}

struct SumColumns<'a> {
    rows: &'a [f32],
    sums: &'a mut [f32],
}

impl Kernel for SumColumns<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        /// A strip of the sums that stays in the first-level cache while the rows go by.
        const STRIP: usize = 2048;
        let columns = self.sums.len();
        for (i, sums) in self.sums.chunks_mut(STRIP).enumerate() {
            for row in self.rows.chunks_exact(columns) {
                zip(simd, &row[i * STRIP..][..sums.len()], sums, Add);
            }
        }
    }
}

/// `out[i] = x[rows[i]]`.
///
/// # Shapes
/// `x`: `[any, width]`; `out`: `[rows.len(), width]`
/// # Panics
/// If the lengths disagree or a row is beyond `x`.
pub fn gather_rows(rt: &Runtime, x: &[f32], width: usize, rows: &[u32], out: &mut [f32]) {
    row_count(x.len(), width);
    assert_eq!(out.len(), rows.len() * width, "one row of out for each row taken");
    let task_rows = task_rows(width);
    rt.parallel_chunks_mut(out, (task_rows * width).max(1), |i, out| {
        for (&row, out) in rows[i * task_rows..].iter().zip(out.chunks_exact_mut(width)) {
            out.copy_from_slice(&x[row as usize * width..][..width]);
        }
    });
}

/// `out[rows[i]] += x[i]`, the backward of [`gather_rows`].
///
/// # Shapes
/// `x`: `[rows.len(), width]`; `out`: `[any, width]`
/// # Panics
/// If the lengths disagree or a row is beyond `out`.
pub fn scatter_add_rows(rt: &Runtime, x: &[f32], width: usize, rows: &[u32], out: &mut [f32]) {
    scatter_add(rt, x, width, rows, None, out);
}

/// Adds row `i` of `x` to row `rows[i]` of `out`, except where that is `skip`; for equal `rows[i]` in the order of
/// `i`. Parallel over columns, so rows may repeat.
pub(crate) fn scatter_add(rt: &Runtime, x: &[f32], width: usize, rows: &[u32], skip: Option<u32>, out: &mut [f32]) {
    /// Columns of a task: two cache lines would do, but short copies do not pay their loop.
    const STRIP: usize = 128;
    row_count(out.len(), width);
    assert_eq!(x.len(), rows.len() * width, "one row of x for each row added to");
    if x.len() <= TASK_NUMBERS {
        // Too little to hand over.
        for (&row, x) in rows.iter().zip(x.chunks_exact(width.max(1))) {
            if Some(row) != skip {
                add(&x[..width], &mut out[row as usize * width..][..width]);
            }
        }
        return;
    }
    let out = SharedMut::new(out);
    rt.parallel_for(width.div_ceil(STRIP), |strip| {
        let start = strip * STRIP;
        let len = STRIP.min(width - start);
        for (&row, x) in rows.iter().zip(x.chunks_exact(width)) {
            if Some(row) != skip {
                // SAFETY: strips of different tasks share no column, and this is the task's only part just now.
                add(&x[start..][..len], unsafe { out.slice(row as usize * width + start, len) });
            }
        }
    });
}

/// `y += x`; the compiler vectorises this, and an addition rounds the same way everywhere.
pub(crate) fn add(x: &[f32], y: &mut [f32]) {
    for (x, y) in x.iter().zip(y) {
        *y += x;
    }
}

#[cfg(test)]
mod tests;
