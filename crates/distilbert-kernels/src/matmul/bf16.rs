//! f32 numbers into units of two bf16, rounded to nearest even; the packing that [`super::pack`] does for f32.

use super::dot::Dot;
use super::pack::{DEPTH_STEP, Layout, Order, Source};
use crate::arch::avx512::Avx512Bf16;
use crate::rows::{load, store};
use crate::simd::Simd;

const LANES: usize = 16;
const TILE_ROWS: usize = <Avx512Bf16 as Dot>::TILE_ROWS;

/// `rows` rows of `depth` numbers, `stride` apart, to rows of units end to end; the last unit may be half zero.
#[inline(always)]
pub(crate) fn round_rows(dot: Avx512Bf16, from: &[f32], stride: usize, (rows, depth): (usize, usize), to: &mut [f32]) {
    let units = depth.div_ceil(2);
    if units == 0 {
        return;
    }
    for (row, to) in to.chunks_exact_mut(units).take(rows).enumerate() {
        let from = &from[row * stride..][..depth];
        let mut vectors = from.chunks_exact(2 * LANES);
        let mut places = to.chunks_exact_mut(LANES);
        for (from, to) in (&mut vectors).zip(&mut places) {
            let simd = dot.simd();
            simd.store(to, dot.join(simd.load(from), simd.load(&from[LANES..])));
        }
        store(dot.simd(), &mut to[depth / (2 * LANES) * LANES..], units_of(dot, vectors.remainder()));
    }
}

/// Sixteen units of up to 32 numbers in their order, zeros after the last.
#[inline(always)]
fn units_of(dot: Avx512Bf16, from: &[f32]) -> <<Avx512Bf16 as Dot>::Simd as Simd>::F32 {
    let (first, second) = from.split_at(LANES.min(from.len()));
    dot.join(load(dot.simd(), first), load(dot.simd(), second))
}

/// As [`super::pack::pack_panels`]; `depth` is in numbers.
#[inline(always)]
pub(crate) fn pack_panels(
    dot: Avx512Bf16,
    from: Source,
    (depth, columns): (usize, usize),
    layout: Layout,
    first: usize,
    to: &mut [f32],
) {
    let units = depth.div_ceil(2);
    let first = first * layout.width();
    match from.order {
        Order::ColumnRows => {
            let mut column = first;
            for panel in to.chunks_mut(units * layout.width()) {
                let width = layout.width().min(columns - column);
                pack_column_rows(dot, &from.data[column * from.stride..], from.stride, depth, width, panel);
                column += width;
            }
        }
        Order::DepthRows => {
            for start in (0..units).step_by(DEPTH_STEP) {
                let count = DEPTH_STEP.min(units - start);
                let mut column = first;
                for panel in to.chunks_mut(units * layout.width()) {
                    let width = layout.width().min(columns - column);
                    let row = panel.len() / units;
                    let rows = depth.min(2 * (start + count)) - 2 * start;
                    let source = &from.data[2 * start * from.stride + column..];
                    let to = &mut panel[start * row..][..count * row];
                    pack_depth_rows(dot, source, from.stride, (rows, width), to, row);
                    column += width;
                }
            }
        }
    }
}

/// `depth` rows of the source in pairs, to rows of `row` units.
#[inline(always)]
fn pack_depth_rows(
    dot: Avx512Bf16,
    from: &[f32],
    stride: usize,
    (depth, columns): (usize, usize),
    to: &mut [f32],
    row: usize,
) {
    let simd = dot.simd();
    for (unit, to) in to.chunks_exact_mut(row).enumerate() {
        let low = &from[2 * unit * stride..][..columns];
        // An odd depth ends with half a unit.
        let high = if 2 * unit + 1 < depth { &from[(2 * unit + 1) * stride..][..columns] } else { &[] };
        for (v, to) in to.chunks_exact_mut(LANES).enumerate() {
            let part = |x: &'_ [f32]| load(simd, x.get(v * LANES..).unwrap_or_default());
            simd.prefetch(from.as_ptr().wrapping_add((2 * (unit + DEPTH_STEP)) * stride + v * LANES));
            simd.prefetch(from.as_ptr().wrapping_add((2 * (unit + DEPTH_STEP) + 1) * stride + v * LANES));
            simd.store(to, dot.pair(part(low), part(high)));
        }
    }
}

#[inline(always)]
fn pack_column_rows(dot: Avx512Bf16, from: &[f32], stride: usize, depth: usize, columns: usize, to: &mut [f32]) {
    let simd = dot.simd();
    let (units, row) = (depth.div_ceil(2), columns.next_multiple_of(LANES));
    assert_eq!(to.len(), units * row);
    for start in (0..units).step_by(LANES) {
        let numbers = 2 * start..depth.min(2 * (start + LANES));
        for column in (0..row).step_by(LANES) {
            let mut square = [[0.0; LANES]; LANES]; // [column, unit]
            for (c, square) in square.iter_mut().enumerate().take(columns - column) {
                let at = (column + c) * stride;
                simd.store(square, units_of(dot, &from[at + numbers.start..at + numbers.end]));
            }
            let target = start * row + column;
            if units - start >= LANES {
                let to = &mut to[target..];
                assert!(to.len() >= (LANES - 1) * row + LANES, "panel too short");
                // SAFETY: the square is whole, and the target has LANES rows by the assertion.
                unsafe { simd.transpose(square.as_ptr().cast(), LANES, to.as_mut_ptr(), row) };
                continue;
            }
            for unit in 0..units - start {
                for (to, square) in to[target + unit * row..][..LANES].iter_mut().zip(&square) {
                    *to = square[unit];
                }
            }
        }
    }
}

/// As [`super::pack::pack_left_transposed`]; `depth` is in numbers, the tiles are of units.
#[inline(always)]
pub(crate) fn pack_left_transposed(
    dot: Avx512Bf16,
    from: &[f32],
    stride: usize,
    depth: usize,
    rows: usize,
    to: &mut [f32],
) {
    let simd = dot.simd();
    let units = depth.div_ceil(2);
    assert!(to.len() >= units * rows.next_multiple_of(TILE_ROWS), "tiles too short");
    for unit in 0..units {
        let low = &from[2 * unit * stride..][..rows];
        let high = if 2 * unit + 1 < depth { &from[(2 * unit + 1) * stride..][..rows] } else { &[] };
        // A vector of rows is two tiles.
        for first in (0..rows).step_by(LANES) {
            let part = |x: &'_ [f32]| load(simd, x.get(first..).unwrap_or_default());
            simd.prefetch(from.as_ptr().wrapping_add(2 * (unit + DEPTH_STEP) * stride + first));
            simd.prefetch(from.as_ptr().wrapping_add((2 * (unit + DEPTH_STEP) + 1) * stride + first));
            let mut pairs = [0.0; LANES];
            simd.store(&mut pairs, dot.pair(part(low), part(high)));
            for (tile, pairs) in pairs.chunks_exact(TILE_ROWS).enumerate() {
                let tile = first / TILE_ROWS + tile;
                if tile * TILE_ROWS < rows {
                    to[(tile * units + unit) * TILE_ROWS..][..TILE_ROWS].copy_from_slice(pairs);
                }
            }
        }
    }
}

/// As [`pack_left_transposed`], into rows of units one after the other.
#[inline(always)]
pub(crate) fn pack_left_rows(dot: Avx512Bf16, from: &[f32], stride: usize, depth: usize, rows: usize, to: &mut [f32]) {
    let simd = dot.simd();
    let units = depth.div_ceil(2);
    assert!(to.len() >= units * rows.next_multiple_of(LANES), "rows too short");
    for start in (0..units).step_by(LANES) {
        let count = LANES.min(units - start);
        for first in (0..rows).step_by(LANES) {
            let columns = first..rows.min(first + LANES);
            let mut square = [[0.0; LANES]; LANES]; // [unit, row]
            for (unit, square) in (start..).zip(&mut square[..count]) {
                let part = |depth: usize| &from[depth * stride..][columns.clone()];
                // An odd depth ends with half a unit.
                let high = if 2 * unit + 1 < depth { part(2 * unit + 1) } else { &[] };
                simd.prefetch(from.as_ptr().wrapping_add(2 * (unit + LANES) * stride + first));
                simd.prefetch(from.as_ptr().wrapping_add((2 * (unit + LANES) + 1) * stride + first));
                simd.store(square, dot.pair(load(simd, part(2 * unit)), load(simd, high)));
            }
            let to = &mut to[first * units + start..];
            if count == LANES {
                assert!(to.len() >= (LANES - 1) * units + LANES, "rows too short");
                // SAFETY: the square is whole, and the target has LANES rows by the assertion.
                unsafe { simd.transpose(square.as_ptr().cast(), LANES, to.as_mut_ptr(), units) };
                continue;
            }
            for (row, to) in to.chunks_mut(units).take(LANES).enumerate() {
                for (to, square) in to.iter_mut().zip(&square[..count]) {
                    *to = square[row];
                }
            }
        }
    }
}
