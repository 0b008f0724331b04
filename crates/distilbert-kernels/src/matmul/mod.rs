//! Matrix products: packed right factor, register tiles, epilogues fused while the result is in the cache.
//!
//! Bits: every element of a product is one chain of `mul_add` over the depth in order, so a row's result does not
//! depend on the other rows, on blocking or on threads.

pub(crate) mod pack;
pub(crate) mod tile;

use crate::elementwise::GeluKind;
use crate::math;
use crate::runtime::{Isa, Runtime, SharedMut};
use crate::simd::{Kernel, Simd, dispatch};
use pack::{AlignedBuffer, Layout, Order, Panels, Scratch, Source, pack_left_transposed, pack_panels};
use std::ops::Range;
use tile::{Left, Start, multiply_panel};

/// The right factor `[k, n]` of a product, laid out in panels of columns for one instruction set.
pub struct PackedMatrix {
    isa: Isa,
    k: usize,
    n: usize,
    layout: Layout,
    data: AlignedBuffer,
}

impl PackedMatrix {
    /// From `w: [n, k]`, a Linear weight `[out, in]`: `matmul` then gives `x · wᵀ`.
    pub fn from_nk(rt: &Runtime, w: &[f32], n: usize, k: usize) -> Self {
        let mut packed = Self::zeroed(rt, k, n);
        packed.repack_nk(rt, w);
        packed
    }

    /// From `b: [k, n]`, row-major; a Linear weight itself for the gradient of its input, `dX = dY · W`.
    pub fn from_kn(rt: &Runtime, b: &[f32], k: usize, n: usize) -> Self {
        let mut packed = Self::zeroed(rt, k, n);
        packed.repack_kn(rt, b);
        packed
    }

    fn zeroed(rt: &Runtime, k: usize, n: usize) -> Self {
        let layout = dispatch(rt.isa(), WidestLayout);
        PackedMatrix { isa: rt.isa(), k, n, layout, data: AlignedBuffer::zeroed(layout.packed_len(k, n)) }
    }

    /// Takes over new numbers `[n, k]` of the same shape.
    pub fn repack_nk(&mut self, rt: &Runtime, w: &[f32]) {
        self.repack(rt, Source { data: w, stride: self.k, order: Order::ColumnRows });
    }

    /// Takes over new numbers `[k, n]` of the same shape.
    pub fn repack_kn(&mut self, rt: &Runtime, b: &[f32]) {
        self.repack(rt, Source { data: b, stride: self.n, order: Order::DepthRows });
    }

    fn repack(&mut self, rt: &Runtime, source: Source) {
        assert_eq!(source.data.len(), self.k * self.n, "matrix to pack: {} x {}", self.k, self.n);
        assert_eq!(self.isa, rt.isa(), "packed for another instruction set");
        if source.data.is_empty() {
            return;
        }
        let (isa, shape, layout) = (self.isa, (self.k, self.n), self.layout);
        rt.parallel_chunks_mut(self.data.as_mut_slice(), layout.width() * self.k, |panel, to| {
            dispatch(isa, PackPanel { source, shape, layout, panel, to });
        });
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
        Panels { data: self.data.as_slice(), depth: self.k, columns: self.n, layout: self.layout }
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

impl Kernel for PackPanel<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        pack_panels(simd, self.source, self.shape, self.layout, self.panel, self.to);
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

/// Depth of a block: a panel of it, and the rows of A that it meets, stay in the second-level cache.
const DEPTH_BLOCK: usize = 768;
/// Rows of a block, for the same reason.
const ROW_BLOCK: usize = 128;
/// Multiply-adds below which handing work to another thread costs more than it saves.
const MIN_TASK: usize = 1 << 17;
/// Tasks a thread of [`matmul`], so that a thread that is slower or starts later is waited for only briefly.
const TASKS_PER_THREAD: usize = 4;

/// `C = epilogue(A · B)`: `a: [m, k]`, `b: [k, n]`, `c: [m, n]`, all row-major.
///
/// # Panics
/// If lengths disagree or `b` was packed for another instruction set.
pub fn matmul(rt: &Runtime, a: &[f32], b: &PackedMatrix, c: &mut [f32], epilogue: Epilogue) {
    let (k, n) = (b.k, b.n);
    let m = c.len().checked_div(n).unwrap_or(0);
    assert_eq!(b.isa, rt.isa(), "packed for another instruction set");
    assert_eq!(c.len(), m * n, "product: {n} columns");
    assert!(n == 0 || a.len() == m * k, "left factor: expected {m} x {k}, found {}", a.len());
    match epilogue {
        Epilogue::None | Epilogue::Accumulate => {}
        Epilogue::Bias(bias) | Epilogue::BiasGelu { bias, .. } => assert_eq!(bias.len(), n, "bias"),
        Epilogue::BiasResidual { bias, residual } => {
            assert_eq!(bias.len(), n, "bias");
            assert_eq!(residual.len(), m * n, "residual");
        }
    }
    if m == 0 {
        return;
    }
    let panels = b.layout.panels(n);
    let row_blocks = m.div_ceil(ROW_BLOCK);
    // Whole tiles, and no block much smaller than the others.
    let block_rows = m.div_ceil(row_blocks).next_multiple_of(8);
    let row_blocks = m.div_ceil(block_rows);
    let tasks = if rt.threads() == 1 { 1 } else { (rt.threads() * TASKS_PER_THREAD).min(m * n * k / MIN_TASK) };
    let group = panels.div_ceil(tasks.div_ceil(row_blocks).clamp(1, panels));
    let groups = panels.div_ceil(group);
    let c = SharedMut::new(c);
    // Neighbouring tasks share panels of B.
    rt.parallel_for(row_blocks * groups, |task| {
        let (row, panel) = (task % row_blocks * block_rows, task / row_blocks * group);
        let rows = row..m.min(row + block_rows);
        let panels = panel..panels.min(panel + group);
        dispatch(rt.isa(), Block { a, b: b.panels(), c: &c, epilogue, rows, panels });
    });
}

/// Some rows by some panels of a product.
struct Block<'a> {
    a: &'a [f32],
    b: Panels<'a>,
    c: &'a SharedMut<'a, f32>,
    epilogue: Epilogue<'a>,
    rows: Range<usize>,
    panels: Range<usize>,
}

impl Kernel for Block<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let Block { a, b, c, epilogue, rows, panels } = self;
        let (k, n) = (b.depth, b.columns);
        let blocks = k.div_ceil(DEPTH_BLOCK).max(1);
        let block = k.div_ceil(blocks);
        for start in (0..blocks).map(|i| i * block) {
            let depth = block.min(k - start);
            let from = if start > 0 || matches!(epilogue, Epilogue::Accumulate) { Start::Output } else { Start::Zero };
            for index in panels.clone() {
                let panel = b.panel(index, start, depth);
                let column = index * b.layout.width();
                let left = Left::rows::<S>(&a[rows.start * k + start.min(k)..], k);
                // SAFETY: the block's rows of these columns lie inside C, and no other task writes them.
                unsafe {
                    let c = c.pointer(rows.start * n + column);
                    multiply_panel(simd, rows.len(), left, panel, from, c, n);
                }
                if start + depth == k {
                    for row in rows.clone() {
                        let at = row * n + column;
                        // SAFETY: as above.
                        let c = unsafe { c.slice(at, panel.columns()) };
                        finish_row(simd, c, epilogue, column, at);
                    }
                }
            }
        }
    }
}

/// Applies the epilogue to a part of a row that starts at `column`, `at` in the whole matrix.
#[inline(always)]
fn finish_row<S: Simd>(simd: S, c: &mut [f32], epilogue: Epilogue, column: usize, at: usize) {
    let columns = c.len();
    match epilogue {
        Epilogue::None | Epilogue::Accumulate => {}
        Epilogue::Bias(bias) => {
            for (c, bias) in c.chunks_mut(S::LANES).zip(bias[column..column + columns].chunks(S::LANES)) {
                let x = simd.add(simd.load_partial(c), simd.load_partial(bias));
                simd.store_partial(c, x);
            }
        }
        Epilogue::BiasGelu { bias, kind } => {
            for (c, bias) in c.chunks_mut(S::LANES).zip(bias[column..column + columns].chunks(S::LANES)) {
                let x = simd.add(simd.load_partial(c), simd.load_partial(bias));
                simd.store_partial(c, math::gelu(simd, x, kind));
            }
        }
        Epilogue::BiasResidual { bias, residual } => {
            let bias = bias[column..column + columns].chunks(S::LANES);
            let residual = residual[at..at + columns].chunks(S::LANES);
            for ((c, bias), residual) in c.chunks_mut(S::LANES).zip(bias).zip(residual) {
                let x = simd.add(simd.load_partial(c), simd.load_partial(bias));
                simd.store_partial(c, simd.add(x, simd.load_partial(residual)));
            }
        }
    }
}

/// Rows and columns of an output block of [`matmul_tn`], and the depth that is packed at a time: both factors' parts
/// fit the second-level cache, and packing a number is paid for by hundreds of multiply-adds.
const TN_ROWS: usize = 384;
const TN_COLUMNS: usize = 384;
const TN_DEPTH: usize = 256;

/// `C += Aᵀ · B`: `a: [k, m]`, `b: [k, n]`, `c: [m, n]`, all row-major. The gradient of a Linear weight:
/// `dW += dYᵀ · X`. Each element continues its sum from what C holds, in the order of the rows.
///
/// # Panics
/// If lengths disagree.
pub fn matmul_tn(rt: &Runtime, a: &[f32], b: &[f32], k: usize, c: &mut [f32]) {
    if k == 0 {
        assert!(a.is_empty() && b.is_empty(), "factors of no rows");
        return;
    }
    let (m, n) = (a.len() / k, b.len() / k);
    assert_eq!(a.len(), k * m, "left factor: {k} rows");
    assert_eq!(b.len(), k * n, "right factor: {k} rows");
    assert_eq!(c.len(), m * n, "product: {m} x {n}");
    // Smaller blocks pack more often, so they shrink only until every thread has two.
    let wanted = if rt.threads() == 1 { 1 } else { (rt.threads() * 2).min(m * n * k / MIN_TASK) };
    let (mut block_rows, mut block_columns) = (TN_ROWS, TN_COLUMNS);
    while m.div_ceil(block_rows) * n.div_ceil(block_columns) < wanted && block_columns > 48 {
        if block_rows > 48 {
            block_rows /= 2;
        } else {
            block_columns /= 2;
        }
    }
    let (row_blocks, column_blocks) = (m.div_ceil(block_rows), n.div_ceil(block_columns));
    let c = SharedMut::new(c);
    rt.parallel_for(row_blocks * column_blocks, |task| {
        let (row, column) = (task / column_blocks * block_rows, task % column_blocks * block_columns);
        let rows = row..m.min(row + block_rows);
        let columns = column..n.min(column + block_columns);
        dispatch(rt.isa(), TransposedBlock { a, b, k, c: &c, shape: (m, n), rows, columns });
    });
}

/// Some rows by some columns of `Aᵀ · B`.
struct TransposedBlock<'a> {
    a: &'a [f32],
    b: &'a [f32],
    k: usize,
    c: &'a SharedMut<'a, f32>,
    shape: (usize, usize),
    rows: Range<usize>,
    columns: Range<usize>,
}

impl Kernel for TransposedBlock<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let TransposedBlock { a, b, k, c, shape: (m, n), rows, columns } = self;
        let layout = Layout::new::<S>(S::TILE_VECTORS);
        let depth = TN_DEPTH.min(k);
        let left_len = depth * rows.len().next_multiple_of(S::TILE_ROWS);
        let right_len = layout.packed_len(depth, columns.len());
        // The left part is rounded up, so that the panels start at a cache line too.
        let right_at = left_len.next_multiple_of(16);
        let mut scratch = Scratch::take(right_at + right_len);
        let (left, right) = scratch.as_mut_slice().split_at_mut(right_at);
        for start in (0..k).step_by(TN_DEPTH) {
            let depth = TN_DEPTH.min(k - start);
            let left = &mut left[..depth * rows.len().next_multiple_of(S::TILE_ROWS)];
            let right = &mut right[..layout.packed_len(depth, columns.len())];
            pack_left_transposed(simd, &a[start * m + rows.start..], m, depth, rows.len(), left);
            let source = Source { data: &b[start * n + columns.start..], stride: n, order: Order::DepthRows };
            pack_panels(simd, source, (depth, columns.len()), layout, 0, right);
            let panels = Panels { data: right, depth, columns: columns.len(), layout };
            for index in 0..layout.panels(columns.len()) {
                let left = Left::tiles::<S>(left, depth);
                // SAFETY: the block's rows of these columns lie inside C, and no other task writes them.
                unsafe {
                    let c = c.pointer(rows.start * n + columns.start + index * layout.width());
                    multiply_panel(simd, rows.len(), left, panels.panel(index, 0, depth), Start::Output, c, n);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{assert_close, numbers, runtime};

    /// The product as the definition has it, in f64, without an epilogue; `at(row, depth)` is an element of A.
    fn naive(
        m: usize,
        k: usize,
        n: usize,
        a: impl Fn(usize, usize) -> f32,
        b: impl Fn(usize, usize) -> f32,
    ) -> Vec<f64> {
        let mut c = vec![0.0; m * n];
        for i in 0..m {
            for j in 0..n {
                c[i * n + j] = (0..k).map(|p| f64::from(a(i, p)) * f64::from(b(p, j))).sum();
            }
        }
        c
    }

    fn naive_gelu(x: f64, kind: GeluKind) -> f64 {
        let tanh = (0.797_884_560_802_865_4 * (x + 0.044_715 * x * x * x)).tanh();
        match kind {
            GeluKind::Tanh => 0.5 * x * (1.0 + tanh),
            GeluKind::Erf => {
                // Beyond 5 the series cancels to nothing, and erf is 1 within 1e-11.
                let z = (x / std::f64::consts::SQRT_2).clamp(-5.0, 5.0);
                let (mut term, mut erf) = (z, z);
                for i in 1..200 {
                    term *= -z * z / f64::from(i);
                    erf += term / f64::from(2 * i + 1);
                }
                0.5 * x * (1.0 + 2.0 / std::f64::consts::PI.sqrt() * erf)
            }
        }
    }

    fn runtimes() -> impl Iterator<Item = Runtime> {
        Isa::available().flat_map(|isa| [1, 3].map(|threads| runtime(isa, threads)))
    }

    /// Times (1 + |expected|). The longest chains here have 1539 terms of size 1; measured: a third of this.
    const TOLERANCE: f64 = 5e-5;

    const DEPTHS: [usize; 8] = [0, 1, 2, 7, 33, 64, 70, 2 * DEPTH_BLOCK + 3];

    #[test]
    fn every_shape_and_tail_agrees_with_the_definition() {
        for rt in runtimes() {
            for k in DEPTHS {
                for n in [1, 2, 7, 8, 9, 15, 16, 17, 31, 33, 47, 48, 49, 96, 100] {
                    let w = numbers(1, n * k);
                    let transposed: Vec<f32> = (0..k * n).map(|i| w[i % n * k + i / n]).collect();
                    let packed = PackedMatrix::from_nk(&rt, &w, n, k);
                    let same = PackedMatrix::from_kn(&rt, &transposed, k, n);
                    assert_eq!(packed.data.as_slice(), same.data.as_slice());
                    for m in (0..=20).filter(|m| k <= 70 || m % 9 == 4) {
                        let a = numbers(2, m * k);
                        let expected = naive(m, k, n, |i, p| a[i * k + p], |p, j| w[j * k + p]);
                        let mut c = vec![f32::NAN; m * n];
                        matmul(&rt, &a, &packed, &mut c, Epilogue::None);
                        assert_close(&c, &expected, TOLERANCE, format!("{} {m} x {k} x {n}", rt.isa()));
                    }
                }
            }
        }
    }

    #[test]
    fn every_epilogue_agrees_with_the_definition() {
        for rt in runtimes() {
            for (m, k, n) in [(1, 5, 3), (7, 16, 50), (19, 70, 97), (140, 800, 49)] {
                let (a, b, bias) = (numbers(3, m * k), numbers(4, k * n), numbers(5, n));
                let (residual, before) = (numbers(6, m * n), numbers(7, m * n));
                let packed = PackedMatrix::from_kn(&rt, &b, k, n);
                let product = naive(m, k, n, |i, p| a[i * k + p], |p, j| b[p * n + j]);
                let with = |f: &dyn Fn(usize, f64) -> f64| product.iter().enumerate().map(|(i, x)| f(i, *x)).collect();
                let bias_at = |i: usize| f64::from(bias[i % n]);
                let gelu = |kind| Epilogue::BiasGelu { bias: &bias, kind };
                let cases: [(Epilogue, Vec<f64>); 6] = [
                    (Epilogue::None, product.clone()),
                    (Epilogue::Bias(&bias), with(&|i, x| x + bias_at(i))),
                    (gelu(GeluKind::Erf), with(&|i, x| naive_gelu(x + bias_at(i), GeluKind::Erf))),
                    (gelu(GeluKind::Tanh), with(&|i, x| naive_gelu(x + bias_at(i), GeluKind::Tanh))),
                    (
                        Epilogue::BiasResidual { bias: &bias, residual: &residual },
                        with(&|i, x| x + bias_at(i) + f64::from(residual[i])),
                    ),
                    (Epilogue::Accumulate, with(&|i, x| x + f64::from(before[i]))),
                ];
                for (epilogue, expected) in cases {
                    let mut c = before.clone();
                    matmul(&rt, &a, &packed, &mut c, epilogue);
                    assert_close(&c, &expected, TOLERANCE, format!("{} {m} x {k} x {n}: {epilogue:?}", rt.isa()));
                }
            }
        }
    }

    #[test]
    fn a_row_has_the_same_bits_alone_and_in_any_batch() {
        for rt in runtimes() {
            let (k, n) = (DEPTH_BLOCK + 50, 101);
            let (a, b, bias) = (numbers(8, 300 * k), numbers(9, k * n), numbers(10, n));
            let packed = PackedMatrix::from_kn(&rt, &b, k, n);
            for epilogue in [Epilogue::Bias(&bias), Epilogue::BiasGelu { bias: &bias, kind: GeluKind::Erf }] {
                let mut all = vec![0.0; 300 * n];
                matmul(&rt, &a, &packed, &mut all, epilogue);
                // Batches of every number of rows that a tile can have, and more.
                for batch in 1..=9 {
                    for row in [0, 5, 100, 291] {
                        let mut c = vec![0.0; batch * n];
                        matmul(&rt, &a[row * k..][..batch * k], &packed, &mut c, epilogue);
                        assert_eq!(c, all[row * n..][..batch * n], "{}, {batch} rows from {row}", rt.isa());
                    }
                }
            }
        }
    }

    #[test]
    fn threads_do_not_change_a_bit() {
        for isa in Isa::available() {
            for (m, k, n) in [(1, 700, 300), (5, 801, 97), (133, 96, 450), (300, 65, 200)] {
                let (a, b) = (numbers(11, m * k), numbers(12, k * n));
                let (left, right) = (numbers(13, k * m), numbers(14, k * n));
                let results = [1, 2, 3, 7].map(|threads| {
                    let rt = runtime(isa, threads);
                    let (mut c, mut dw) = (vec![0.0; m * n], numbers(15, m * n));
                    matmul(&rt, &a, &PackedMatrix::from_kn(&rt, &b, k, n), &mut c, Epilogue::None);
                    matmul_tn(&rt, &left, &right, k, &mut dw);
                    (c, dw)
                });
                assert!(results.iter().all(|result| *result == results[0]), "{isa} {m} x {k} x {n}");
            }
        }
    }

    #[test]
    fn a_transposed_product_agrees_with_the_definition_at_every_tail() {
        for rt in runtimes() {
            for k in [0, 1, 2, 9, 70, TN_DEPTH + 1, 2 * TN_DEPTH + 17] {
                for (m, n) in [(0, 5), (1, 1), (3, 50), (8, 48), (13, 17), (20, 97), (65, 9)] {
                    let (a, b, before) = (numbers(16, k * m), numbers(17, k * n), numbers(18, m * n));
                    let product = naive(m, k, n, |i, p| a[p * m + i], |p, j| b[p * n + j]);
                    let expected: Vec<f64> = product.iter().zip(&before).map(|(x, c)| x + f64::from(*c)).collect();
                    let mut c = before.clone();
                    matmul_tn(&rt, &a, &b, k, &mut c);
                    assert_close(&c, &expected, TOLERANCE, format!("{} {m} x {k} x {n}", rt.isa()));
                }
            }
        }
    }

    #[test]
    fn a_transposed_product_is_one_chain_over_the_rows() {
        // Two calls on halves of the rows must equal one call: so gradients may be accumulated over micro-batches.
        for rt in runtimes() {
            let (k, m, n) = (2 * TN_DEPTH + 40, 21, 70);
            let (a, b) = (numbers(19, k * m), numbers(20, k * n));
            let (mut whole, mut halves) = (vec![0.0; m * n], vec![0.0; m * n]);
            matmul_tn(&rt, &a, &b, k, &mut whole);
            for (a, b) in [(&a[..100 * m], &b[..100 * n]), (&a[100 * m..], &b[100 * n..])] {
                matmul_tn(&rt, a, b, a.len() / m, &mut halves);
            }
            assert_eq!(whole, halves, "{}", rt.isa());
        }
    }

    #[test]
    fn repacking_replaces_every_number() {
        for rt in runtimes() {
            let (first, second) = (numbers(21, 70 * 33), numbers(22, 70 * 33));
            let mut packed = PackedMatrix::from_nk(&rt, &first, 70, 33);
            packed.repack_nk(&rt, &second);
            assert_eq!(packed.data.as_slice(), PackedMatrix::from_nk(&rt, &second, 70, 33).data.as_slice());
            assert_eq!((packed.k(), packed.n()), (33, 70));
        }
    }
}
