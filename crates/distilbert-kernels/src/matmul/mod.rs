//! Matrix products: packed right factor, register tiles, epilogues fused while the result is in the cache.
//!
//! Factors and result are f32 to the caller; a [`Precision`] below f32 rounds both factors on their way in. Every
//! element of a product is one chain of multiply-adds over the depth in order (or an exact integer sum), so a row's
//! result does not depend on the other rows, on blocking or on threads.

#[cfg(target_arch = "x86_64")]
pub(crate) mod bf16;
pub(crate) mod buffer;
pub(crate) mod dot;
pub(crate) mod int8;
pub(crate) mod pack;
pub(crate) mod tile;
mod transposed;

pub use int8::QuantizedMatrix;
pub use transposed::matmul_tn;

use crate::elementwise::GeluKind;
use crate::math;
use crate::matrix::Matrix;
use crate::precision::Precision;
use crate::rows::{load, store};
use crate::runtime::{Isa, Runtime, SharedMut};
use crate::simd::{Kernel, Simd, dispatch};
use buffer::{AlignedBuffer, Scratch};
use dot::{Dot, DotKernel, FloatDot, FloatKernel, dispatch_dot, dispatch_float, units};
use pack::{Layout, Order, Panels, Source};
use std::ops::Range;
use tile::{Finish, Left, Places, Start, multiply_panel};

/// The right factor `[k, n]` of a product, laid out in panels of columns for one instruction set and precision.
pub struct PackedMatrix {
    isa: Isa,
    precision: Precision,
    k: usize,
    n: usize,
    layout: Layout,
    data: AlignedBuffer,
    /// Of int8 only.
    columns: Option<int8::Columns>,
}

impl PackedMatrix {
    /// From `w: [n, k]`, a Linear weight `[out, in]`: `matmul` then gives `x · wᵀ`.
    ///
    /// # Panics
    /// If `w` is not `[n, k]` or the CPU lacks the precision.
    pub fn from_nk(rt: &Runtime, precision: Precision, w: &[f32], n: usize, k: usize) -> Self {
        let mut packed = Self::zeroed(rt, precision, k, n);
        packed.repack_nk(rt, w);
        packed
    }

    /// From `b: [k, n]`, row-major; a Linear weight itself for the gradient of its input, `dX = dY · W`. Not in int8.
    ///
    /// # Panics
    /// If `b` is not `[k, n]`, or the precision is int8 or one that the CPU lacks.
    pub fn from_kn(rt: &Runtime, precision: Precision, b: &[f32], k: usize, n: usize) -> Self {
        let mut packed = Self::zeroed(rt, precision, k, n);
        packed.repack_kn(rt, b);
        packed
    }

    /// From a Linear weight `[n, k]` in the precision that it is kept in.
    ///
    /// # Panics
    /// If the matrix is not `[n, k]` or the CPU lacks its precision.
    pub fn from_matrix(rt: &Runtime, matrix: &Matrix, n: usize, k: usize) -> Self {
        match matrix {
            Matrix::F32(w) => Self::from_nk(rt, Precision::F32, w, n, k),
            Matrix::Bf16(_) => Self::from_nk(rt, Precision::Bf16, &matrix.to_f32(), n, k),
            Matrix::Int8(w) => Self::from_quantized(rt, w, n, k),
        }
    }

    /// From a Linear weight `[n, k]` that is in eight bits already.
    ///
    /// # Panics
    /// If the matrix is not `[n, k]`.
    pub fn from_quantized(rt: &Runtime, matrix: &QuantizedMatrix, n: usize, k: usize) -> Self {
        assert_eq!((matrix.values.len(), matrix.scales.len()), (n * k, n), "quantised matrix: {n} x {k}");
        let mut packed = Self::zeroed(rt, Precision::Int8, 0, 0);
        let (data, columns) = int8::pack(rt, matrix, (k, n), packed.layout, int8::steps(rt.isa()));
        (packed.k, packed.n, packed.data, packed.columns) = (k, n, data, Some(columns));
        packed
    }

    fn zeroed(rt: &Runtime, precision: Precision, k: usize, n: usize) -> Self {
        assert!(precision.is_available(rt.isa()), "{precision} on {}", rt.isa());
        assert!(
            precision != Precision::Int8 || k <= QuantizedMatrix::MAX_K,
            "a depth of {k} overflows the sums of int8"
        );
        let layout = dispatch(rt.isa(), WidestLayout);
        let data = AlignedBuffer::zeroed(layout.packed_len(units(precision, k), n));
        PackedMatrix { isa: rt.isa(), precision, k, n, layout, data, columns: None }
    }

    /// Takes over new numbers `[n, k]` of the same shape.
    pub fn repack_nk(&mut self, rt: &Runtime, w: &[f32]) {
        if self.precision == Precision::Int8 {
            assert_eq!(self.isa, rt.isa(), "packed for another instruction set");
            let matrix = QuantizedMatrix::from_f32(rt, w, self.n, self.k);
            let (data, columns) = int8::pack(rt, &matrix, (self.k, self.n), self.layout, int8::steps(rt.isa()));
            (self.data, self.columns) = (data, Some(columns));
            return;
        }
        self.repack(rt, Source { data: w, stride: self.k, order: Order::ColumnRows });
    }

    /// Takes over new numbers `[k, n]` of the same shape.
    pub fn repack_kn(&mut self, rt: &Runtime, b: &[f32]) {
        self.repack(rt, Source { data: b, stride: self.n, order: Order::DepthRows });
    }

    fn repack(&mut self, rt: &Runtime, source: Source) {
        assert!(self.precision != Precision::Int8, "int8 is packed from a Linear weight");
        assert_eq!(source.data.len(), self.k * self.n, "matrix to pack: {} x {}", self.k, self.n);
        assert_eq!(self.isa, rt.isa(), "packed for another instruction set");
        if source.data.is_empty() {
            return;
        }
        let (isa, precision, shape, layout) = (self.isa, self.precision, (self.k, self.n), self.layout);
        rt.parallel_chunks_mut(self.data.as_mut_slice(), layout.width() * units(precision, self.k), |panel, to| {
            dispatch_float(isa, precision, PackPanel { source, shape, layout, panel, to });
        });
    }

    /// What is multiplied.
    pub fn precision(&self) -> Precision {
        self.precision
    }

    /// The depth: columns of the left factor.
    pub fn k(&self) -> usize {
        self.k
    }

    /// The columns of the product.
    pub fn n(&self) -> usize {
        self.n
    }

    /// Memory of the panels.
    pub fn size_bytes(&self) -> usize {
        size_of_val(self.data.as_slice())
    }

    fn panels(&self) -> Panels<'_> {
        let depth = units(self.precision, self.k);
        Panels { data: self.data.as_slice(), depth, columns: self.n, layout: self.layout }
    }
}

struct WidestLayout;

impl Kernel for WidestLayout {
    type Output = Layout;
    #[inline(always)]
    fn run<S: Simd>(self, _: S) -> Layout {
        Layout::new::<S>(S::TILE_VECTORS)
    }
}

struct PackPanel<'a> {
    source: Source<'a>,
    shape: (usize, usize),
    layout: Layout,
    panel: usize,
    to: &'a mut [f32],
}

impl FloatKernel for PackPanel<'_> {
    type Output = ();
    #[inline(always)]
    fn run<D: FloatDot>(self, dot: D) {
        dot.pack_right(self.source, self.shape, self.layout, self.panel, self.to);
    }
}

/// What is done to the product `A · B` on its way to C.
#[derive(Clone, Copy, Debug)]
pub enum Epilogue<'a> {
    /// `C = A · B`
    None,
    /// `C = A · B + bias`; `[n]`
    Bias(&'a [f32]),
    /// `C = gelu(A · B + bias)`
    BiasGelu {
        /// `[n]`
        bias: &'a [f32],
        /// Which GELU.
        kind: GeluKind,
    },
    /// `C = A · B + bias + residual`
    BiasResidual {
        /// `[n]`
        bias: &'a [f32],
        /// `[m, n]`
        residual: &'a [f32],
    },
    /// `C += A · B`; the sum continues from what C holds.
    Accumulate,
}

/// Depth of a block in units: a panel of it, and the rows of A that it meets, stay in the second-level cache.
const DEPTH_BLOCK: usize = 768;
/// Rows of a block, for the same reason.
const ROW_BLOCK: usize = 128;
/// Units of panels that groups of rows meet in turn, for the same reason: 512 KB.
const PANELS_GROUP: usize = 1 << 17;
/// Multiply-adds of units below which handing work to another thread costs more than it saves.
const MIN_TASK: usize = 1 << 17;
/// Tasks a thread of [`matmul`], so that a thread that is slower or starts later is waited for only briefly.
const TASKS_PER_THREAD: usize = 16;

/// `C = epilogue(A · B)`: `a: [m, k]`, `b: [k, n]`, `c: [m, n]`, all row-major.
///
/// # Panics
/// If lengths disagree, `b` was packed for another instruction set, or [`Epilogue::Accumulate`] meets int8.
pub fn matmul(rt: &Runtime, a: &[f32], b: &PackedMatrix, c: &mut [f32], epilogue: Epilogue) {
    let (k, n) = (b.k, b.n);
    let m = c.len().checked_div(n).unwrap_or(0);
    assert_eq!(b.isa, rt.isa(), "packed for another instruction set");
    assert_eq!(c.len(), m * n, "product: {n} columns");
    assert!(n == 0 || a.len() == m * k, "left factor: expected {m} x {k}, found {}", a.len());
    match epilogue {
        Epilogue::None => {}
        Epilogue::Accumulate => assert!(b.precision != Precision::Int8, "int8 sums start from zero"),
        Epilogue::Bias(bias) | Epilogue::BiasGelu { bias, .. } => assert_eq!(bias.len(), n, "bias"),
        Epilogue::BiasResidual { bias, residual } => {
            assert_eq!(bias.len(), n, "bias");
            assert_eq!(residual.len(), m * n, "residual");
        }
    }
    if m == 0 {
        return;
    }
    let depth = units(b.precision, k);
    let is_coarse = b.precision != Precision::F32;
    let complete = Complete { epilogue, n, column: 0, row: 0, scales: None, is_coarse };
    match (b.precision, &b.columns) {
        (Precision::Int8, Some(columns)) => {
            let mut scratch = Scratch::take(int8::rows_len(m, k, int8::steps(rt.isa())));
            let rows = int8::quantize_rows(rt, a, m, k, scratch.as_mut_slice());
            let scales = Scales { rows: rows.scales, zeros: rows.zeros, columns };
            multiply(rt, rows.units, b, c, m, Complete { scales: Some(scales), ..complete });
        }
        (Precision::Bf16, _) => {
            let mut scratch = Scratch::take(m * depth);
            let rounded = scratch.as_mut_slice();
            round_rows(rt, a, m, k, rounded);
            multiply(rt, rounded, b, c, m, complete);
        }
        _ => multiply(rt, a, b, c, m, complete),
    }
}

/// Rounds `[m, k]` to bf16 in parallel.
fn round_rows(rt: &Runtime, a: &[f32], m: usize, k: usize, to: &mut [f32]) {
    /// Rows of a task: enough to be worth handing over.
    const TASK_ROWS: usize = 8;
    let depth = units(Precision::Bf16, k);
    if depth == 0 {
        return;
    }
    debug_assert_eq!(to.len(), m * depth);
    rt.parallel_chunks_mut(to, TASK_ROWS * depth, |task, to| {
        let shape = (to.len() / depth, k);
        let from = &a[task * TASK_ROWS * k..][..shape.0 * k];
        dispatch_float(rt.isa(), Precision::Bf16, RoundRows { from, shape, to });
    });
}

struct RoundRows<'a> {
    from: &'a [f32],
    shape: (usize, usize),
    to: &'a mut [f32],
}

impl FloatKernel for RoundRows<'_> {
    type Output = ();
    #[inline(always)]
    fn run<D: FloatDot>(self, dot: D) {
        let _ = dot.left_rows(self.from, self.shape.1, self.shape, self.to);
    }
}

/// The product of `a`, `[m, depth]` in steps, and the panels of `b`.
fn multiply(rt: &Runtime, a: &[f32], b: &PackedMatrix, c: &mut [f32], m: usize, complete: Complete) {
    let (panels, depth) = (b.panels(), units(b.precision, b.k));
    let count = b.layout.panels(b.n);
    let row_blocks = m.div_ceil(ROW_BLOCK);
    // Whole tiles, and no block much smaller than the others.
    let block_rows = m.div_ceil(row_blocks).next_multiple_of(8);
    let row_blocks = m.div_ceil(block_rows);
    let tasks = if rt.threads() == 1 { 1 } else { (rt.threads() * TASKS_PER_THREAD).min(m * b.n * depth / MIN_TASK) };
    let group = count.div_ceil(tasks.div_ceil(row_blocks).clamp(1, count));
    let groups = count.div_ceil(group);
    let c = SharedMut::new(c);
    // Neighbouring tasks share panels of B.
    rt.parallel_for(row_blocks * groups, |task| {
        let (row, panel) = (task % row_blocks * block_rows, task / row_blocks * group);
        let block = Block {
            a,
            b: panels,
            c: &c,
            complete,
            rows: row..m.min(row + block_rows),
            panels: panel..count.min(panel + group),
        };
        dispatch_dot(rt.isa(), b.precision, block);
    });
}

/// Some rows by some panels of a product.
struct Block<'a> {
    a: &'a [f32],
    b: Panels<'a>,
    c: &'a SharedMut<'a, f32>,
    complete: Complete<'a>,
    rows: Range<usize>,
    panels: Range<usize>,
}

impl DotKernel for Block<'_> {
    type Output = ();

    #[inline(always)]
    fn run<D: Dot>(self, dot: D) {
        let Block { a, b, c, complete, rows, panels } = self;
        let (depth, n) = (b.depth, b.columns);
        let blocks = depth.div_ceil(DEPTH_BLOCK).max(1);
        let block = depth.div_ceil(blocks);
        for start in (0..blocks).map(|i| i * block) {
            let count = block.min(depth - start);
            let accumulates = start > 0 || matches!(complete.epilogue, Epilogue::Accumulate);
            let from = if accumulates { Start::Output } else { Start::Zero };
            let (group, group_rows) = if D::TILE_DEPTH > 0 {
                // Tiles of many rows are so fast that their rows of A should stay in the first-level cache. The panels, which
                // they meet one after the other, then come from the second.
                ((PANELS_GROUP / (b.layout.width() * count).max(1)).max(1), D::TILE_MOST_ROWS)
            } else {
                (1, rows.len())
            };
            for first_panel in panels.clone().step_by(group) {
                for first in rows.clone().step_by(group_rows) {
                    let left = Left::rows(&a[(first * depth + start) * D::STEPS..], depth * D::STEPS);
                    let rows = group_rows.min(rows.end - first);
                    for index in first_panel..panels.end.min(first_panel + group) {
                        let panel = b.panel(index, start, count);
                        let column = index * b.layout.width();
                        // SAFETY: the block's rows of these columns lie inside C, and no other task writes them.
                        unsafe {
                            let c = c.pointer(first * n + column);
                            if start + count == depth {
                                let complete = Complete { row: first, column, ..complete };
                                multiply_panel(dot, rows, left, panel, from, c, n, complete);
                            } else {
                                multiply_panel(dot, rows, left, panel, from, c, n, ());
                            }
                        }
                    }
                }
            }
        }
    }
}

/// Completes sums: the scales of int8, then the epilogue.
#[derive(Clone, Copy)]
struct Complete<'a> {
    epilogue: Epilogue<'a>,
    /// Columns of the product.
    n: usize,
    /// Where the block starts in it.
    row: usize,
    column: usize,
    scales: Option<Scales<'a>>,
    /// Whether the factors were rounded, so that an activation need not be exact to the last bit of f32.
    is_coarse: bool,
}

/// The scales of both factors of an int8 product.
#[derive(Clone, Copy)]
struct Scales<'a> {
    rows: &'a [f32],
    zeros: &'a [f32],
    columns: &'a int8::Columns,
}

impl Finish for Complete<'_> {
    #[inline(always)]
    unsafe fn finish<S: Simd>(self, simd: S, row: usize, rows: usize, columns: usize, places: Places) {
        if self.scales.is_none() && matches!(self.epilogue, Epilogue::None | Epilogue::Accumulate) {
            // SAFETY: the caller's promise.
            return unsafe { ().finish(simd, row, rows, columns, places) };
        }
        for v in 0..columns / S::LANES {
            // SAFETY: as above.
            unsafe { self.finish_vector(simd, row, rows, v * S::LANES, S::LANES, places) };
        }
        let tail = columns % S::LANES;
        if tail > 0 {
            // SAFETY: as above.
            unsafe { self.finish_vector(simd, row, rows, columns - tail, tail, places) };
        }
    }

    #[inline(always)]
    fn prefetch<S: Simd>(self, simd: S, row: usize, rows: usize, columns: usize) {
        if let Epilogue::BiasResidual { residual, .. } = self.epilogue {
            for row in self.row + row..self.row + row + rows {
                for column in (self.column..self.column + columns).step_by(S::LANES) {
                    simd.prefetch(residual.as_ptr().wrapping_add(row * self.n + column));
                }
            }
        }
    }
}

/// What a sum in a row of a tile stands for.
trait Value<S: Simd> {
    fn value(&self, simd: S, row: usize, sum: S::F32) -> S::F32;
}

/// Itself.
struct Number;

impl<S: Simd> Value<S> for Number {
    #[inline(always)]
    fn value(&self, _: S, _: usize, sum: S::F32) -> S::F32 {
        sum
    }
}

/// An integer sum of int8.
struct Scaled<'a, V> {
    /// Of the columns.
    scale: V,
    column_sums: V,
    /// Of the rows.
    scales: &'a [f32],
    zeros: &'a [f32],
}

impl<S: Simd> Value<S> for Scaled<'_, S::F32> {
    #[inline(always)]
    fn value(&self, simd: S, row: usize, sum: S::F32) -> S::F32 {
        // Not fused, so that every instruction set gives the same bits.
        let x = simd.dequantize(sum, self.zeros[row].to_bits() as i32, self.column_sums);
        simd.mul(simd.mul(x, simd.splat(self.scales[row])), self.scale)
    }
}

impl Complete<'_> {
    /// Completes `len` columns, a vector or the rest of one, of `rows` rows. What belongs to the columns is loaded once.
    ///
    /// # Safety
    /// As [`Finish::finish`].
    #[inline(always)]
    unsafe fn finish_vector<S: Simd>(&self, simd: S, row: usize, rows: usize, at: usize, len: usize, places: Places) {
        let Some(Scales { rows: scales, zeros, columns }) = &self.scales else {
            // SAFETY: the caller's promise.
            return unsafe { self.finish_values(simd, Number, row, rows, at, len, places) };
        };
        let (first, column) = (self.row + row, self.column + at);
        let values = Scaled {
            scale: simd.load(&columns.scales[column..]),
            column_sums: simd.load(&columns.sums[column..]),
            scales: &scales[first..first + rows],
            zeros: &zeros[first..first + rows],
        };
        // SAFETY: as above.
        unsafe { self.finish_values(simd, values, row, rows, at, len, places) }
    }

    /// The same for sums of one kind. The choice of the epilogue is made before the rows: it is as long as what is done to a
    /// vector.
    ///
    /// # Safety
    /// As [`Finish::finish`].
    #[inline(always)]
    #[allow(clippy::too_many_arguments)] // Called by `finish_vector` only.
    unsafe fn finish_values<S: Simd>(
        &self,
        simd: S,
        values: impl Value<S>,
        row: usize,
        rows: usize,
        at: usize,
        len: usize,
        places: Places,
    ) {
        let Places { sums, sums_stride, c, c_stride } = places;
        let (first, column) = (self.row + row, self.column + at);
        // SAFETY: the caller's promise; a row of the sums is loaded before the row of C, which may be the same, is taken.
        let sums_of = |i: usize| unsafe { std::slice::from_raw_parts(sums.add(i * sums_stride + at), len) };
        // SAFETY: as above.
        let row_of = |i: usize| unsafe { std::slice::from_raw_parts_mut(c.add(i * c_stride + at), len) };
        match self.epilogue {
            Epilogue::None | Epilogue::Accumulate => {
                for i in 0..rows {
                    let x = values.value(simd, i, load(simd, sums_of(i)));
                    store(simd, row_of(i), x);
                }
            }
            Epilogue::Bias(bias) => {
                let bias = load(simd, &bias[column..column + len]);
                for i in 0..rows {
                    let x = simd.add(values.value(simd, i, load(simd, sums_of(i))), bias);
                    store(simd, row_of(i), x);
                }
            }
            Epilogue::BiasGelu { bias, kind: GeluKind::Erf } if self.is_coarse => {
                let bias = load(simd, &bias[column..column + len]);
                for i in 0..rows {
                    let x = simd.add(values.value(simd, i, load(simd, sums_of(i))), bias);
                    store(simd, row_of(i), math::gelu_coarse(simd, x, GeluKind::Erf));
                }
            }
            Epilogue::BiasGelu { bias, kind } => {
                let bias = load(simd, &bias[column..column + len]);
                for i in 0..rows {
                    let x = simd.add(values.value(simd, i, load(simd, sums_of(i))), bias);
                    store(simd, row_of(i), math::gelu(simd, x, kind));
                }
            }
            Epilogue::BiasResidual { bias, residual } => {
                let bias = load(simd, &bias[column..column + len]);
                for i in 0..rows {
                    let residual = &residual[(first + i) * self.n + column..][..len];
                    let x = simd.add(values.value(simd, i, load(simd, sums_of(i))), bias);
                    store(simd, row_of(i), simd.add(x, load(simd, residual)));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
