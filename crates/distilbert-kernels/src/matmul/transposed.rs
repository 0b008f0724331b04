//! `C += Aᵀ · B`, the gradient of a Linear weight: both factors are packed, a range of the rows at a time.

use super::buffer::Scratch;
use super::dot::{FloatDot, FloatKernel, dispatch_float, units};
use super::pack::{Layout, Order, Panels, Source};
use super::tile::{Start, multiply_panel};
use super::{MIN_TASK, TASKS_PER_THREAD, WidestLayout};
use crate::precision::Precision;
use crate::runtime::{Runtime, SharedMut};
use crate::simd::{Simd, dispatch};
use std::ops::Range;

/// The depth of a pass of [`matmul_tn`] in units: a panel of it stays in the first-level cache.
pub(super) const TN_DEPTH: usize = 256;
/// Rows and columns of an output block: the left factor's part of a pass stays in the second-level cache.
pub(super) const TN_ROWS: usize = 192;
pub(super) const TN_COLUMNS: usize = 384;
/// Output rows whose left factor is packed at a time, which bounds the scratch memory.
pub(super) const TN_STRIPE: usize = 16 * TN_ROWS;
/// Columns of a factor that a task packs. A whole number of tiles and panels of every instruction set, as blocks are.
pub(super) const TN_PACK: usize = 192;

/// `C += Aᵀ · B`: `a: [k, m]`, `b: [k, n]`, `c: [m, n]`, all row-major. The gradient of a Linear weight:
/// `dW += dYᵀ · X`. Each element continues its sum from what C holds, in the order of the rows. In bf16 two rows make
/// a step of that order, with AMX 32 rows, so only calls that are cut between steps give the bits of one call.
///
/// # Panics
/// If lengths disagree, or the precision is int8 or one that the CPU lacks.
pub fn matmul_tn(rt: &Runtime, precision: Precision, a: &[f32], b: &[f32], k: usize, c: &mut [f32]) {
    if k == 0 {
        assert!(a.is_empty() && b.is_empty(), "factors of no rows");
        return;
    }
    let (m, n) = (a.len() / k, b.len() / k);
    assert_eq!(a.len(), k * m, "left factor: {k} rows");
    assert_eq!(b.len(), k * n, "right factor: {k} rows");
    assert_eq!(c.len(), m * n, "product: {m} x {n}");
    assert!(precision != Precision::Int8 && precision.is_available(rt.isa()), "{precision} on {}", rt.isa());
    if c.is_empty() {
        return;
    }
    let group = k.div_ceil(units(precision, k));
    let step = (TN_DEPTH * group).min(k);
    let most = units(precision, step);
    // Room for whole chunks of either factor.
    let left_len = most * m.min(TN_STRIPE).next_multiple_of(TN_PACK);
    let mut scratch = Scratch::take(left_len + most * n.next_multiple_of(TN_PACK));
    let (left, right) = scratch.as_mut_slice().split_at_mut(left_len);
    let c = SharedMut::new(c);
    for start in (0..k).step_by(step) {
        let pass = TransposedPass { rt, precision, start, depth: step.min(k - start) };
        for first in (0..m).step_by(TN_STRIPE) {
            let rows = first..m.min(first + TN_STRIPE);
            let from_a = Columns { data: a, stride: m, range: rows.clone() };
            let from_b = Columns { data: b, stride: n, range: if first == 0 { 0..n } else { 0..0 } };
            pass.pack(from_a, left, from_b, right);
            pass.multiply(left, right, rows, n, &c);
        }
    }
}

/// Some columns of a row-major factor.
struct Columns<'a> {
    data: &'a [f32],
    stride: usize,
    range: Range<usize>,
}

/// The part of [`matmul_tn`] over some rows of the factors. Both are packed once, by all threads, and read by all.
struct TransposedPass<'a> {
    rt: &'a Runtime,
    precision: Precision,
    /// In numbers.
    start: usize,
    depth: usize,
}

impl TransposedPass<'_> {
    /// Packs columns of A into tiles and columns of B into panels.
    fn pack(&self, a: Columns, left: &mut [f32], b: Columns, right: &mut [f32]) {
        let units = units(self.precision, self.depth);
        let left_chunks = a.range.len().div_ceil(TN_PACK);
        let (left, right) = (SharedMut::new(left), SharedMut::new(right));
        self.rt.parallel_for(left_chunks + b.range.len().div_ceil(TN_PACK), |task| {
            let is_left = task < left_chunks;
            let (from, to, chunk) = if is_left { (&a, &left, task) } else { (&b, &right, task - left_chunks) };
            let first = chunk * TN_PACK;
            let columns = TN_PACK.min(from.range.len() - first);
            // SAFETY: tasks have disjoint chunks.
            let to = unsafe { to.slice(first * units, TN_PACK * units) };
            let data = &from.data[self.start * from.stride + from.range.start + first..];
            let shape = (self.depth, columns);
            let pack = PackTransposed { data, stride: from.stride, shape, units, is_left, to };
            dispatch_float(self.rt.isa(), self.precision, pack);
        });
    }

    /// Adds the product of what is packed to these rows of C.
    fn multiply(&self, left: &[f32], right: &[f32], rows: Range<usize>, n: usize, c: &SharedMut<f32>) {
        let units = units(self.precision, self.depth);
        let threads = self.rt.threads();
        let work = rows.len() * n * units;
        let wanted = if threads == 1 { 1 } else { (threads * TASKS_PER_THREAD).min(work / MIN_TASK) };
        let (mut block_rows, mut block_columns) = (TN_ROWS, TN_COLUMNS);
        while rows.len().div_ceil(block_rows) * n.div_ceil(block_columns) < wanted && block_columns > 48 {
            if block_columns > block_rows {
                block_columns /= 2;
            } else {
                block_rows /= 2;
            }
        }
        let layout = dispatch(self.rt.isa(), WidestLayout);
        let panels = Panels { data: right, depth: units, columns: n, layout };
        let (row_blocks, column_blocks) = (rows.len().div_ceil(block_rows), n.div_ceil(block_columns));
        self.rt.parallel_for(row_blocks * column_blocks, |task| {
            let (first, column) = (task / column_blocks * block_rows, task % column_blocks * block_columns);
            let block = TransposedBlock {
                left: &left[first * units..],
                right: panels,
                c,
                row: rows.start + first,
                rows: block_rows.min(rows.len() - first),
                panels: column / layout.width()..layout.panels(n.min(column + block_columns)),
            };
            dispatch_float(self.rt.isa(), self.precision, block);
        });
    }
}

/// Packs some columns of a factor.
struct PackTransposed<'a> {
    data: &'a [f32],
    stride: usize,
    /// Depth and columns.
    shape: (usize, usize),
    units: usize,
    is_left: bool,
    to: &'a mut [f32],
}

impl FloatKernel for PackTransposed<'_> {
    type Output = ();

    #[inline(always)]
    fn run<D: FloatDot>(self, dot: D) {
        let PackTransposed { data, stride, shape: (depth, columns), units, is_left, to } = self;
        if is_left {
            let to = &mut to[..units * columns.next_multiple_of(D::LEFT_ROWS)];
            dot.pack_left_transposed(data, stride, depth, columns, to);
        } else {
            let layout = Layout::new::<D::Simd>(<D::Simd as Simd>::TILE_VECTORS);
            let source = Source { data, stride, order: Order::DepthRows };
            let to = &mut to[..layout.packed_len(units, columns)];
            dot.pack_right(source, (depth, columns), layout, 0, to);
        }
    }
}

/// Some rows by some panels of `Aᵀ · B`.
struct TransposedBlock<'a> {
    /// Tiles, from the block's first row on.
    left: &'a [f32],
    right: Panels<'a>,
    c: &'a SharedMut<'a, f32>,
    row: usize,
    rows: usize,
    panels: Range<usize>,
}

impl FloatKernel for TransposedBlock<'_> {
    type Output = ();

    #[inline(always)]
    fn run<D: FloatDot>(self, dot: D) {
        let TransposedBlock { left, right, c, row, rows, panels } = self;
        let (units, n) = (right.depth, right.columns);
        // A tile's rows of C from left to right: C is the largest of the three, and memory is read best in that order.
        for first in (0..rows).step_by(D::LEFT_ROWS) {
            let tile = dot.left_transposed(&left[first * units..], units);
            for index in panels.clone() {
                let panel = right.panel(index, 0, units);
                // SAFETY: the block's rows of these columns lie inside C, and no other task writes them.
                unsafe {
                    let c = c.pointer((row + first) * n + index * right.layout.width());
                    multiply_panel(dot, D::LEFT_ROWS.min(rows - first), tile, panel, Start::Output, c, n, ());
                }
            }
        }
    }
}
