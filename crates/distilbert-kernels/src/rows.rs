//! How kernels walk: over numbers by vectors with a tail, over rows in parallel, and over sums in an order that
//! depends on nothing but the lengths.

use crate::runtime::Runtime;
use crate::simd::{Kernel, Simd, dispatch};
use std::ops::Range;

/// Rows of one partial sum over rows; partial sums are added in their order. Part of the numerics contract.
pub(crate) const BLOCK_ROWS: usize = 64;

/// Numbers of one task: enough work to be worth handing over, few enough for the first-level cache. Also the block
/// of sums over numbers that are no rows, which makes it part of the numerics contract.
pub(crate) const TASK_NUMBERS: usize = 8 * 1024;

/// Numbers of a row that are summed in f32 before their sum goes into an f64.
pub(crate) const SUM_BLOCK: usize = 1024;

/// Rows of `width` numbers that make a task.
pub(crate) fn task_rows(width: usize) -> usize {
    (TASK_NUMBERS / width.max(1)).max(1)
}

/// The number of rows of `width` numbers in `len` numbers.
///
/// # Panics
/// If `len` is not a multiple of `width`.
pub(crate) fn row_count(len: usize, width: usize) -> usize {
    if len == 0 {
        return 0;
    }
    assert!(width > 0 && len.is_multiple_of(width), "{len} numbers are no rows of {width}");
    len / width
}

/// A function of one number. `map` must be `#[inline(always)]`, as in [`Kernel`].
pub(crate) trait Map: Copy + Sync {
    fn map<S: Simd>(self, simd: S, x: S::F32) -> S::F32;
}

/// A function of two numbers. `zip` must be `#[inline(always)]`, as in [`Kernel`].
pub(crate) trait Zip: Copy + Sync {
    fn zip<S: Simd>(self, simd: S, x: S::F32, y: S::F32) -> S::F32;
}

/// `x = f(x)`.
#[inline(always)]
pub(crate) fn map<S: Simd, F: Map>(simd: S, x: &mut [f32], f: F) {
    let mut vectors = x.chunks_exact_mut(S::LANES);
    for x in &mut vectors {
        simd.store(x, f.map(simd, simd.load(x)));
    }
    let tail = vectors.into_remainder();
    simd.store_partial(tail, f.map(simd, simd.load_partial(tail)));
}

/// `y = f(x, y)`, as far as the shorter goes.
#[inline(always)]
pub(crate) fn zip<S: Simd, F: Zip>(simd: S, x: &[f32], y: &mut [f32], f: F) {
    let (mut x_vectors, mut y_vectors) = (x.chunks_exact(S::LANES), y.chunks_exact_mut(S::LANES));
    for (x, y) in (&mut x_vectors).zip(&mut y_vectors) {
        simd.store(y, f.zip(simd, simd.load(x), simd.load(y)));
    }
    let (x, y) = (x_vectors.remainder(), y_vectors.into_remainder());
    simd.store_partial(y, f.zip(simd, simd.load_partial(x), simd.load_partial(y)));
}

/// `Σ f(x_i, y_i)` over two rows of one length: blocks of [`SUM_BLOCK`] numbers in f32, the blocks in f64.
#[inline(always)]
pub(crate) fn sum_zip<S: Simd, F: Zip>(simd: S, x: &[f32], y: &[f32], f: F) -> f64 {
    let mut total = 0.0;
    for (x, y) in x.chunks(SUM_BLOCK).zip(y.chunks(SUM_BLOCK)) {
        // Four sums, since an addition takes four cycles and two can start in each.
        let mut sums = [simd.splat(0.0); 4];
        let (mut x_vectors, mut y_vectors) = (x.chunks_exact(S::LANES), y.chunks_exact(S::LANES));
        for (i, (x, y)) in (&mut x_vectors).zip(&mut y_vectors).enumerate() {
            sums[i % 4] = simd.add(sums[i % 4], f.zip(simd, simd.load(x), simd.load(y)));
        }
        let (x, y) = (x_vectors.remainder(), y_vectors.remainder());
        if !x.is_empty() {
            let term = f.zip(simd, simd.load_partial(x), simd.load_partial(y));
            sums[0] = simd.add(sums[0], first_lanes(simd, term, x.len(), 0.0));
        }
        total += f64::from(sum_four(simd, sums));
    }
    total
}

/// `Σ x_i`, in the order of [`sum_zip`].
#[inline(always)]
pub(crate) fn sum<S: Simd>(simd: S, x: &[f32]) -> f64 {
    sum_zip(simd, x, x, First)
}

/// The larger of all numbers; minus infinity for none. NaN does not count.
#[inline(always)]
pub(crate) fn largest<S: Simd>(simd: S, x: &[f32]) -> f32 {
    let lowest = simd.splat(f32::NEG_INFINITY);
    let mut maxima = [lowest; 4];
    let mut vectors = x.chunks_exact(S::LANES);
    for (i, x) in (&mut vectors).enumerate() {
        maxima[i % 4] = simd.max(simd.load(x), maxima[i % 4]);
    }
    let tail = vectors.remainder();
    let tail = first_lanes(simd, simd.load_partial(tail), tail.len(), f32::NEG_INFINITY);
    let tail = simd.max(tail, lowest);
    simd.largest(maxima.into_iter().fold(tail, |a, b| simd.max(a, b)))
}

/// A vector from the start of `from`, which may be shorter.
#[inline(always)]
pub(crate) fn load<S: Simd>(simd: S, from: &[f32]) -> S::F32 {
    if from.len() >= S::LANES { simd.load(from) } else { simd.load_partial(from) }
}

/// A vector to the start of `to`, which may be shorter.
#[inline(always)]
pub(crate) fn store<S: Simd>(simd: S, to: &mut [f32], x: S::F32) {
    if to.len() >= S::LANES { simd.store(to, x) } else { simd.store_partial(to, x) }
}

/// The first `count` lanes of `x`, `other` in the rest.
#[inline(always)]
pub(crate) fn first_lanes<S: Simd>(simd: S, x: S::F32, count: usize, other: f32) -> S::F32 {
    const LANE_NUMBERS: [f32; 16] = [0., 1., 2., 3., 4., 5., 6., 7., 8., 9., 10., 11., 12., 13., 14., 15.];
    let inside = simd.less(simd.load(&LANE_NUMBERS), simd.splat(count as f32));
    simd.select(inside, x, simd.splat(other))
}

/// The sum of all lanes of four vectors.
#[inline(always)]
pub(crate) fn sum_four<S: Simd>(simd: S, [a, b, c, d]: [S::F32; 4]) -> f32 {
    simd.sum(simd.add(simd.add(a, b), simd.add(c, d)))
}

/// `x = f(x)` in parallel.
pub(crate) fn parallel_map(rt: &Runtime, x: &mut [f32], f: impl Map) {
    rt.parallel_chunks_mut(x, TASK_NUMBERS, |_, x| dispatch(rt.isa(), MapKernel(x, f)));
}

struct MapKernel<'a, F>(&'a mut [f32], F);

impl<F: Map> Kernel for MapKernel<'_, F> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        map(simd, self.0, self.1);
    }
}

/// `y = f(x, y)` in parallel.
///
/// # Panics
/// If the lengths differ.
pub(crate) fn parallel_zip(rt: &Runtime, x: &[f32], y: &mut [f32], f: impl Zip) {
    assert_eq!(x.len(), y.len(), "both sides have one length");
    rt.parallel_chunks_mut(y, TASK_NUMBERS, |i, y| {
        let x = &x[i * TASK_NUMBERS..][..y.len()];
        dispatch(rt.isa(), ZipKernel(x, y, f));
    });
}

struct ZipKernel<'a, F>(&'a [f32], &'a mut [f32], F);

impl<F: Zip> Kernel for ZipKernel<'_, F> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        zip(simd, self.0, self.1, self.2);
    }
}

/// `out[c] += Σ_b partials[b][c]`, the blocks `b` in their order.
pub(crate) fn add_blocks(rt: &Runtime, partials: &[f32], out: &mut [f32]) {
    let columns = out.len();
    rt.parallel_chunks_mut(out, TASK_NUMBERS / 8, |i, out| {
        let start = i * (TASK_NUMBERS / 8);
        let mut sums = [0.0; TASK_NUMBERS / 8];
        let sums = &mut sums[..out.len()];
        for partial in partials.chunks_exact(columns) {
            dispatch(rt.isa(), ZipKernel(&partial[start..][..sums.len()], sums, Add));
        }
        dispatch(rt.isa(), ZipKernel(sums, out, Add));
    });
}

/// Adds what `task` returns for each block of `block` of `0..count`, in their order.
pub(crate) fn sum_blocks(rt: &Runtime, count: usize, block: usize, task: impl Fn(Range<usize>) -> f64 + Sync) -> f64 {
    let mut partials = vec![0.0; count.div_ceil(block)];
    rt.parallel_chunks_mut(&mut partials, 1, |i, partial| {
        partial[0] = task(i * block..count.min((i + 1) * block));
    });
    partials.iter().sum()
}

/// `a + b`.
#[derive(Clone, Copy)]
pub(crate) struct Add;

impl Zip for Add {
    #[inline(always)]
    fn zip<S: Simd>(self, simd: S, x: S::F32, y: S::F32) -> S::F32 {
        simd.add(y, x)
    }
}

/// `a b`.
#[derive(Clone, Copy)]
pub(crate) struct Product;

impl Zip for Product {
    #[inline(always)]
    fn zip<S: Simd>(self, simd: S, x: S::F32, y: S::F32) -> S::F32 {
        simd.mul(x, y)
    }
}

/// The first of the two.
#[derive(Clone, Copy)]
struct First;

impl Zip for First {
    #[inline(always)]
    fn zip<S: Simd>(self, _: S, x: S::F32, _: S::F32) -> S::F32 {
        x
    }
}

/// `x * self`.
#[derive(Clone, Copy)]
pub(crate) struct Scale(pub(crate) f32);

impl Map for Scale {
    #[inline(always)]
    fn map<S: Simd>(self, simd: S, x: S::F32) -> S::F32 {
        simd.mul(x, simd.splat(self.0))
    }
}
