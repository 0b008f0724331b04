//! Eight bits: weights with one scale an output channel, activations with a scale and a zero point a row, taken from
//! the row at run time.
//!
//! A weight is `scale · q` with q in -127..=127. An activation is `scale · (q - zero)` with q in 0..=255: the range of
//! its row, which always holds 0, in 255 steps. So
//! `Σ x w = scale_x · scale_w · (Σ q_x q_w - zero · Σ q_w)`, and both sums are exact integers.

use super::buffer::AlignedBuffer;
use super::dot::{Dot, DotKernel, SumsOf, dispatch_dot};
use super::pack::Layout;
use crate::precision::Precision;
use crate::rows::load;
use crate::runtime::{Isa, Runtime, SharedMut};
use crate::simd::Simd;

/// A Linear weight `[n, k]` in eight bits: `scales[i] * values[i * k + j]`.
#[derive(Clone, Debug, PartialEq)]
pub struct QuantizedMatrix {
    /// `[n, k]`, each in -127..=127.
    pub values: Vec<i8>,
    /// `[n]`, one an output channel.
    pub scales: Vec<f32>,
}

impl QuantizedMatrix {
    /// The largest `k` whose sums cannot overflow.
    pub const MAX_K: usize = i32::MAX as usize / (255 * 127);

    /// The nearest: a channel's scale is its largest magnitude over 127.
    ///
    /// # Panics
    /// If `w` is not `[n, k]`.
    pub fn from_f32(rt: &Runtime, w: &[f32], n: usize, k: usize) -> QuantizedMatrix {
        assert_eq!(w.len(), n * k, "matrix to quantise: {n} x {k}");
        let (mut values, mut scales) = (vec![0; n * k], vec![0.0; n]);
        if k > 0 {
            rt.parallel_chunks_mut(&mut scales, 1, |row, scale| {
                let largest = w[row * k..][..k].iter().fold(0.0f32, |largest, x| largest.max(x.abs()));
                scale[0] = largest / 127.0;
            });
            rt.parallel_chunks_mut(&mut values, k, |row, values| {
                for (value, x) in values.iter_mut().zip(&w[row * k..][..k]) {
                    *value = quantize_weight(*x, scales[row]);
                }
            });
        }
        QuantizedMatrix { values, scales }
    }

    /// The numbers that the eight bits stand for, `[n, k]`.
    pub fn to_f32(&self) -> Vec<f32> {
        let k = self.values.len().checked_div(self.scales.len()).unwrap_or(0);
        let scale_of = |i: usize| self.scales[i / k.max(1)];
        self.values.iter().enumerate().map(|(i, &value)| f32::from(value) * scale_of(i)).collect()
    }
}

/// To nearest, ties to even.
fn quantize_weight(x: f32, scale: f32) -> i8 {
    /// Numbers of this size are a whole apart, so that adding it rounds as an addition does: one instruction on vectors
    /// where `round_ties_even` is a call.
    const WHOLES: f32 = 1.5 * (1 << 23) as f32;
    if scale > 0.0 { (x / scale + WHOLES - WHOLES) as i8 } else { 0 }
}

/// What turns integer sums of a packed matrix back into numbers; padded to whole vectors.
pub(crate) struct Columns {
    pub(crate) scales: Vec<f32>,
    /// `Σ q` of each column, the bits of an integer.
    pub(crate) sums: Vec<f32>,
}

/// [`Dot::STEPS`] of int8 on an instruction set.
pub(crate) fn steps(isa: Isa) -> usize {
    struct Steps;
    impl DotKernel for Steps {
        type Output = usize;
        #[inline(always)]
        fn run<D: Dot>(self, _: D) -> usize {
            D::STEPS
        }
    }
    dispatch_dot(isa, Precision::Int8, Steps)
}

/// Packs `[n, k]` into panels of units of four, laid out for so many steps a unit.
pub(crate) fn pack(
    rt: &Runtime,
    matrix: &QuantizedMatrix,
    (k, n): (usize, usize),
    layout: Layout,
    steps: usize,
) -> (AlignedBuffer, Columns) {
    // Bytes of a column in a step.
    let step = 4 / steps;
    let units = k.div_ceil(4);
    let mut data = AlignedBuffer::zeroed(layout.packed_len(units, n));
    let padded = layout.packed_len(1, n);
    let mut columns = Columns { scales: matrix.scales.clone(), sums: vec![0.0; n] };
    if k > 0 {
        rt.parallel_chunks_mut(&mut columns.sums, 1, |column, sum| {
            let total: i32 = matrix.values[column * k..][..k].iter().map(|&value| i32::from(value)).sum();
            sum[0] = f32::from_bits(total as u32);
        });
        rt.parallel_chunks_mut(data.as_mut_slice(), layout.width() * units, |panel, to| {
            let first = panel * layout.width();
            let step_row = to.len() / units * step;
            let to = bytes_of(to);
            for column in first..n.min(first + layout.width()) {
                let to = &mut to[(column - first) * step..];
                for (i, values) in matrix.values[column * k..][..k].chunks(step).enumerate() {
                    for (to, value) in to[i * step_row..].iter_mut().zip(values) {
                        *to = *value as u8;
                    }
                }
            }
        });
    }
    columns.scales.resize(padded, 0.0);
    columns.sums.resize(padded, 0.0);
    (data, columns)
}

/// Rows of a left factor in eight bits, cut out of scratch memory.
pub(crate) struct Rows<'a> {
    /// `[rows, units * steps]`: each number in 8 bits, or in 16 where a unit has two steps.
    pub(crate) units: &'a [f32],
    /// `[rows]`
    pub(crate) scales: &'a [f32],
    /// `[rows]`, the bits of integers in 0..=255.
    pub(crate) zeros: &'a [f32],
}

/// Numbers of scratch memory that [`quantize_rows`] needs.
pub(crate) fn rows_len(rows: usize, k: usize, steps: usize) -> usize {
    rows * (k.div_ceil(4) * steps + 2)
}

/// Quantises `[rows, k]` in parallel, as the instruction set reads a left factor.
pub(crate) fn quantize_rows<'a>(rt: &Runtime, x: &[f32], rows: usize, k: usize, scratch: &'a mut [f32]) -> Rows<'a> {
    /// Rows of a task: enough to be worth handing over.
    const TASK_ROWS: usize = 8;
    let width = k.div_ceil(4) * steps(rt.isa());
    let (units, scales_and_zeros) = scratch.split_at_mut(rows * width);
    let (scales, zeros) = scales_and_zeros.split_at_mut(rows);
    if width > 0 {
        let (shared_scales, shared_zeros) = (SharedMut::new(scales), SharedMut::new(zeros));
        rt.parallel_chunks_mut(units, TASK_ROWS * width, |task, to| {
            let (first, count) = (task * TASK_ROWS, to.len() / width);
            // SAFETY: tasks have disjoint rows.
            let (scales, zeros) = unsafe { (shared_scales.slice(first, count), shared_zeros.slice(first, count)) };
            let x = &x[first * k..][..count * k];
            dispatch_dot(rt.isa(), Precision::Int8, QuantizeRows { x, k, to, scales, zeros });
        });
    }
    Rows { units, scales, zeros }
}

/// Quantises some rows.
pub(crate) struct QuantizeRows<'a> {
    pub(crate) x: &'a [f32],
    pub(crate) k: usize,
    pub(crate) to: &'a mut [f32],
    pub(crate) scales: &'a mut [f32],
    pub(crate) zeros: &'a mut [f32],
}

impl DotKernel for QuantizeRows<'_> {
    type Output = ();

    #[inline(always)]
    fn run<D: Dot>(self, dot: D) {
        let width = self.k.div_ceil(4) * D::STEPS;
        let parameters = self.scales.iter_mut().zip(self.zeros);
        for ((x, to), (scale, zero)) in self.x.chunks_exact(self.k).zip(self.to.chunks_exact_mut(width)).zip(parameters)
        {
            quantize_row(dot, x, to, scale, zero);
        }
    }
}

/// Separate products and sums, never fused ones, so that every instruction set gives the same bits.
#[inline(always)]
fn quantize_row<D: Dot>(dot: D, x: &[f32], to: &mut [f32], scale: &mut f32, zero: &mut f32) {
    let simd = dot.simd();
    let lanes = <D::Simd as Simd>::LANES;
    let mut extent = [Extent::new(simd); 2];
    let mut pairs = x.chunks_exact(2 * lanes);
    for pair in &mut pairs {
        extent[0].take(simd, simd.load(pair));
        extent[1].take(simd, simd.load(&pair[lanes..]));
    }
    let (first, second) = pairs.remainder().split_at(lanes.min(pairs.remainder().len()));
    extent[0].take(simd, load(simd, first));
    extent[1].take(simd, load(simd, second));
    let lowest = simd.sub(simd.splat(0.0), simd.min(extent[0].lowest, extent[1].lowest));
    let (below, above) = (simd.largest(lowest), simd.largest(simd.max(extent[0].highest, extent[1].highest)));
    let poison = simd.sum(simd.add(extent[0].poison, extent[1].poison));
    let range = below + above;
    let inverse = if range > 0.0 { 255.0 / range } else { 0.0 };
    *scale = range / 255.0 + poison;
    let whole = (below * inverse).round_ties_even().min(255.0);
    *zero = f32::from_bits(whole as u32);
    let (inverse, zero) = (simd.splat(inverse), simd.splat(whole));
    // Of a number: one, or two of which the second is zero.
    let bytes = D::STEPS;
    let to = bytes_of(to);
    let mut vectors = x.chunks_exact(lanes);
    let mut places = to.chunks_exact_mut(lanes * bytes);
    for (x, to) in (&mut vectors).zip(&mut places) {
        store_quantized(dot, to, simd.load(x), inverse, zero);
    }
    // What is left of the units, which may hold more numbers than the row.
    let rest = &mut to[x.len() / lanes * lanes * bytes..];
    if !rest.is_empty() {
        let mut whole = [0; 32];
        store_quantized(dot, &mut whole, load(simd, vectors.remainder()), inverse, zero);
        rest.copy_from_slice(&whole[..rest.len()]);
    }
}

/// What a row's numbers have been so far, lane by lane.
#[derive(Clone, Copy)]
struct Extent<V> {
    lowest: V,
    highest: V,
    /// Zero, or NaN if a number is NaN or infinite: a row with one must not give numbers that look right.
    poison: V,
}

impl<V: Copy> Extent<V> {
    #[inline(always)]
    fn new<S: Simd<F32 = V>>(simd: S) -> Self {
        Extent { lowest: simd.splat(0.0), highest: simd.splat(0.0), poison: simd.splat(0.0) }
    }

    #[inline(always)]
    fn take<S: Simd<F32 = V>>(&mut self, simd: S, x: V) {
        self.lowest = simd.min(x, self.lowest);
        self.highest = simd.max(x, self.highest);
        self.poison = simd.mul_add(x, simd.splat(0.0), self.poison);
    }
}

/// A vector of numbers in one byte each, or in two of which the second is zero.
#[inline(always)]
fn store_quantized<D: Dot>(dot: D, to: &mut [u8], x: SumsOf<D>, inverse: SumsOf<D>, zero: SumsOf<D>) {
    let simd = dot.simd();
    let q = simd.add(simd.mul(x, inverse), zero);
    let q = simd.min(simd.max(q, simd.splat(0.0)), simd.splat(255.0));
    if D::STEPS == 1 { simd.store_u8(to, q) } else { simd.store_u16(to, q) }
}

fn bytes_of(units: &mut [f32]) -> &mut [u8] {
    // SAFETY: the same memory; bytes have no alignment, and neither type has invalid values.
    unsafe { std::slice::from_raw_parts_mut(units.as_mut_ptr().cast(), size_of_val(units)) }
}
