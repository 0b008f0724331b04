//! The register tile: a few rows by one panel of columns, all accumulators in registers over the whole depth.
//!
//! Every element is one chain of [`Dot::dot`] over the depth in order, whatever the tile it falls in, and a block of
//! the depth continues the chain from the sum that the block before it stored. So the bits of an element depend on its
//! row, its column and the depth alone. Depths are counted in units throughout ([`super::dot`]), in the left factor in steps.

use super::dot::{Dot, DotKernel, SumsOf};
use super::pack::Panel;
use crate::rows::{load, store};
use crate::simd::Simd;
use std::mem::MaybeUninit;

/// The left factor as tiles read it, its depth counted in steps: element (row, depth) stands at
/// `row * row_stride + depth * depth_stride`.
#[derive(Clone, Copy)]
pub(crate) struct Left<'a> {
    data: &'a [f32],
    row_stride: usize,
    depth_stride: usize,
}

impl<'a> Left<'a> {
    /// Rows of a matrix: element (row, depth) at `row * stride + depth`.
    pub(crate) fn rows(data: &'a [f32], stride: usize) -> Self {
        Left { data, row_stride: stride, depth_stride: 1 }
    }

    /// Columns of a matrix, which are the rows of its transpose: element (row, depth) at `depth * stride + row`.
    pub(crate) fn columns(data: &'a [f32], stride: usize) -> Self {
        Left { data, row_stride: 1, depth_stride: stride }
    }
}

/// What the accumulators start from.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Start {
    /// Zero: C is overwritten.
    Zero,
    /// What C holds.
    Output,
}

/// What is done to complete sums, a tile at a time while they are in the first-level cache.
pub(crate) trait Finish: Copy {
    /// Whether sums stay as they are.
    const IS_NOTHING: bool = false;

    /// `rows` rows of `columns` numbers, the first at row `row` of the product.
    ///
    /// # Safety
    /// The rows must be readable and writable at both places, which are one or apart, and nothing else may access them
    /// meanwhile.
    unsafe fn finish<S: Simd>(self, simd: S, row: usize, rows: usize, columns: usize, places: Places);

    /// Asks for what [`Finish::finish`] will read beside the sums, while they are computed.
    #[inline(always)]
    fn prefetch<S: Simd>(self, _: S, _row: usize, _rows: usize, _columns: usize) {}
}

/// Where the sums of a tile are, and where what becomes of them belongs.
#[derive(Clone, Copy)]
pub(crate) struct Places {
    /// May be written to.
    pub(crate) sums: *mut f32,
    pub(crate) sums_stride: usize,
    pub(crate) c: *mut f32,
    pub(crate) c_stride: usize,
}

/// Sums that are wanted as they are, or not yet complete.
impl Finish for () {
    const IS_NOTHING: bool = true;

    #[inline(always)]
    unsafe fn finish<S: Simd>(self, simd: S, _: usize, rows: usize, columns: usize, places: Places) {
        if places.sums == places.c {
            return;
        }
        for row in 0..rows {
            for column in (0..columns).step_by(S::LANES) {
                let len = S::LANES.min(columns - column);
                // SAFETY: the caller's promise; the places are apart.
                let (from, to) = unsafe {
                    let from = places.sums.add(row * places.sums_stride + column);
                    let to = places.c.add(row * places.c_stride + column);
                    (std::slice::from_raw_parts(from, len), std::slice::from_raw_parts_mut(to, len))
                };
                store(simd, to, load(simd, from));
            }
        }
    }
}

/// What [`Dot::multiply_tiles`] multiplies, and where the sums go. Strides are in numbers.
pub(crate) struct TileOperands {
    pub(crate) rows: usize,
    pub(crate) depth: usize,
    /// Of the panel.
    pub(crate) vectors: usize,
    /// `rows` rows of `depth` units.
    pub(crate) a: *const f32,
    pub(crate) a_stride: usize,
    /// `depth` rows of `vectors` vectors of units.
    pub(crate) b: *const f32,
    /// What the sums start from, `rows` rows of `vectors` vectors; from zero where there is nothing.
    pub(crate) from: Option<(*const f32, usize)>,
    /// As many, writable by nothing else.
    pub(crate) sums: *mut f32,
    pub(crate) sums_stride: usize,
}

/// The widest panel and the highest tile.
const SUMS_STRIDE: usize = 48;
const SUMS_ROWS: usize = 32;

/// Memory for the sums of [`Dot::multiply_tiles`] until they are finished. C is not the best place for them: where a row of
/// it has a multiple of 4 KB, the rows of a tile drive each other out of the cache.
#[repr(align(64))]
struct Sums([MaybeUninit<f32>; SUMS_ROWS * SUMS_STRIDE]);

/// `C = A * B` or `C += A * B` for `rows` rows, over the depth and the columns of one panel.
///
/// # Safety
/// `rows` rows of `panel.columns()` numbers must be readable and writable at `c`, `c + c_stride`, and so on, and
/// nothing else may access them meanwhile.
#[inline(always)]
#[allow(clippy::too_many_arguments)] // Operands of one product; they have no meaning as a group.
pub(crate) unsafe fn multiply_panel<D: Dot>(
    dot: D,
    rows: usize,
    left: Left,
    panel: Panel,
    start: Start,
    c: *mut f32,
    c_stride: usize,
    finish: impl Finish,
) {
    let (depth, vectors) = (panel.depth() * D::STEPS, panel.vectors());
    if rows == 0 {
        return;
    }
    let last = (rows - 1) * left.row_stride;
    assert!(depth == 0 || last + (depth - 1) * left.depth_stride < left.data.len(), "left factor too short");
    let (mut left, mut panel, mut start) = (left, panel, start);
    if D::TILE_DEPTH > 0 && left.depth_stride == 1 && panel.depth() >= D::TILE_DEPTH {
        let rest = panel.depth() % D::TILE_DEPTH;
        let whole = panel.depth() - rest;
        // SAFETY: the assertion, and the caller's promise.
        unsafe {
            if rest == 0 {
                return multiply_by_tiles(dot, rows, left, panel, whole, start, c, c_stride, finish);
            }
            multiply_by_tiles(dot, rows, left, panel, whole, start, c, c_stride, ());
        }
        (left.data, panel, start) = (&left.data[whole..], panel.after(whole), Start::Output);
    }
    let depth = panel.depth() * D::STEPS;
    let mut row = 0;
    while row < rows {
        let tile_rows = next_tile(rows - row, D::TILE_ROWS, vectors);
        // SAFETY: the largest offset that any tile reads from the left factor is inside it by the assertion (offset 0
        // of an empty depth is never read); the rows of C are the caller's promise.
        let (a, c) = unsafe {
            let offset = if depth == 0 { 0 } else { row * left.row_stride };
            (left.data.as_ptr().add(offset), c.add(row * c_stride))
        };
        // The next tile's part of C, which may be far away, arrives while this tile is computed.
        for row in tile_rows..(tile_rows + D::TILE_ROWS).min(rows - row) {
            for v in 0..vectors {
                dot.simd().prefetch(c.wrapping_add(row * c_stride + v * <D::Simd as Simd>::LANES));
            }
        }
        finish.prefetch(dot.simd(), row, tile_rows, panel.columns());
        // The first tile brings the panel into the cache, for the others too.
        let arguments = Arguments { depth, a, left, b: panel, fetches: row == 0, start, c, c_stride };
        // The tile's shape becomes a constant here. Shapes beyond this instruction set's tile are never reached, and
        // the guards let the compiler see that.
        match vectors {
            1 => with_rows::<D, 1>(dot, tile_rows, arguments),
            2 if <D::Simd as Simd>::TILE_VECTORS >= 2 => with_rows::<D, 2>(dot, tile_rows, arguments),
            3 if <D::Simd as Simd>::TILE_VECTORS >= 3 => with_rows::<D, 3>(dot, tile_rows, arguments),
            _ => unreachable!("a panel has 1 to TILE_VECTORS vectors"),
        }
        let places = Places { sums: c, sums_stride: c_stride, c, c_stride };
        // SAFETY: the rows just computed, which are the caller's promise.
        unsafe { finish.finish(dot.simd(), row, tile_rows, panel.columns(), places) };
        row += tile_rows;
    }
}

/// As [`multiply_panel`], over the first `depth` units, a whole number of tiles.
///
/// # Safety
/// As for that, and A must have `rows` rows of so many units.
#[inline(always)]
#[allow(clippy::too_many_arguments)] // As above.
unsafe fn multiply_by_tiles<D: Dot, F: Finish>(
    dot: D,
    rows: usize,
    left: Left,
    panel: Panel,
    depth: usize,
    start: Start,
    c: *mut f32,
    c_stride: usize,
    finish: F,
) {
    let (columns, vectors) = (panel.columns(), panel.vectors());
    let lanes = <D::Simd as Simd>::LANES;
    assert!(D::TILE_MOST_ROWS <= SUMS_ROWS && vectors * lanes <= SUMS_STRIDE, "a tile that is too large");
    let mut sums = Sums([MaybeUninit::uninit(); SUMS_ROWS * SUMS_STRIDE]);
    let sums: *mut f32 = sums.0.as_mut_ptr().cast();
    for row in (0..rows).step_by(D::TILE_MOST_ROWS) {
        let tile_rows = D::TILE_MOST_ROWS.min(rows - row);
        finish.prefetch(dot.simd(), row, tile_rows, columns);
        for row in row..row + tile_rows {
            for v in 0..vectors {
                dot.simd().prefetch(c.wrapping_add(row * c_stride + v * lanes));
            }
        }
        // SAFETY: the rows of both factors, and of C, are the caller's promises. All that `multiply_tiles` reads of the
        // sums was written before, and it writes all that `finish` reads.
        unsafe {
            let c = c.add(row * c_stride);
            let from = match start {
                Start::Zero => None,
                Start::Output if columns == vectors * lanes => Some((c.cast_const(), c_stride)),
                // C has no whole vectors.
                Start::Output => {
                    sums.write_bytes(0, tile_rows * SUMS_STRIDE);
                    let places = Places { sums: c, sums_stride: c_stride, c: sums, c_stride: SUMS_STRIDE };
                    ().finish(dot.simd(), row, tile_rows, columns, places);
                    Some((sums.cast_const(), SUMS_STRIDE))
                }
            };
            let (a, a_stride) = (left.data.as_ptr().add(row * left.row_stride), left.row_stride);
            let b = panel.as_ptr();
            // Sums that nothing is done to may be where they belong at once.
            let is_direct = F::IS_NOTHING && columns == vectors * lanes;
            let (sums, sums_stride) = if is_direct { (c, c_stride) } else { (sums, SUMS_STRIDE) };
            dot.multiply_tiles(TileOperands {
                rows: tile_rows,
                depth,
                vectors,
                a,
                a_stride,
                b,
                from,
                sums,
                sums_stride,
            });
            finish.finish(dot.simd(), row, tile_rows, columns, Places { sums, sums_stride, c, c_stride });
        }
    }
}

/// Chains of multiply-adds that keep a processor busy: it begins two a cycle, and each takes four cycles.
pub(super) const CHAINS: usize = 8;

/// Rows of the next tile when `left` rows are left. The last two tiles share theirs where the last would have too few
/// chains and take as long as if it had enough.
#[inline(always)]
pub(super) fn next_tile(left: usize, most: usize, vectors: usize) -> usize {
    let enough = CHAINS.div_ceil(vectors).min(most);
    if left > most && left < most + enough { left.div_ceil(2) } else { left.min(most) }
}

#[inline(always)]
fn with_rows<D: Dot, const VECTORS: usize>(dot: D, rows: usize, arguments: Arguments) {
    match rows {
        1 => dot.vectorize(Tile::<1, VECTORS>(arguments)),
        2 => dot.vectorize(Tile::<2, VECTORS>(arguments)),
        3 => dot.vectorize(Tile::<3, VECTORS>(arguments)),
        4 => dot.vectorize(Tile::<4, VECTORS>(arguments)),
        5 if D::TILE_ROWS >= 5 => dot.vectorize(Tile::<5, VECTORS>(arguments)),
        6 if D::TILE_ROWS >= 6 => dot.vectorize(Tile::<6, VECTORS>(arguments)),
        7 if D::TILE_ROWS >= 7 => dot.vectorize(Tile::<7, VECTORS>(arguments)),
        8 if D::TILE_ROWS >= 8 => dot.vectorize(Tile::<8, VECTORS>(arguments)),
        _ => unreachable!("a tile has 1 to TILE_ROWS rows"),
    }
}

/// The arguments of one tile, made by [`multiply_panel`] only, which has checked them.
#[derive(Clone, Copy)]
struct Arguments<'a> {
    /// In steps.
    depth: usize,
    a: *const f32,
    left: Left<'a>,
    b: Panel<'a>,
    /// Whether the panel is likely still in memory.
    fetches: bool,
    start: Start,
    c: *mut f32,
    c_stride: usize,
}

/// How far ahead of its use a panel is asked for, in numbers: what the processor foresees by itself ends with each page.
const FETCH_AHEAD: usize = 768;
/// Numbers in a cache line.
const LINE: usize = 16;

struct Tile<'a, const ROWS: usize, const VECTORS: usize>(Arguments<'a>);

// Plain loops over constant bounds: an iterator's closure might be compiled outside the function that enables the
// instruction set, and arrays indexed by constants become registers.
#[allow(clippy::needless_range_loop)]
impl<const ROWS: usize, const VECTORS: usize> DotKernel for Tile<'_, ROWS, VECTORS> {
    type Output = ();

    #[inline(always)]
    fn run<D: Dot>(self, dot: D) {
        let Arguments { b, fetches, start, c, c_stride, .. } = self.0;
        let simd = dot.simd();
        let lanes = <D::Simd as Simd>::LANES;
        let columns = b.columns();
        let mut sums = [[simd.splat(0.0); VECTORS]; ROWS];
        if start == Start::Output {
            for row in 0..ROWS {
                for v in 0..VECTORS {
                    let (at, len) = (row * c_stride + v * lanes, columns - v * lanes);
                    // SAFETY: C has `columns` numbers in this row, of which `len` are left from this vector on.
                    sums[row][v] = unsafe {
                        if len >= lanes {
                            simd.load_ptr(c.add(at))
                        } else {
                            simd.load_partial(std::slice::from_raw_parts(c.add(at), len))
                        }
                    };
                }
            }
        }
        // Two loops, so that neither has to ask at every step.
        if fetches {
            self.multiply::<D, true>(dot, &mut sums);
        } else {
            self.multiply::<D, false>(dot, &mut sums);
        }
        for row in 0..ROWS {
            for v in 0..VECTORS {
                let (at, len) = (row * c_stride + v * lanes, columns - v * lanes);
                // SAFETY: as for the loads above.
                unsafe {
                    if len >= lanes {
                        simd.store_ptr(c.add(at), sums[row][v]);
                    } else {
                        simd.store_partial(std::slice::from_raw_parts_mut(c.add(at), len), sums[row][v]);
                    }
                }
            }
        }
    }
}

#[allow(clippy::needless_range_loop)] // As above.
impl<const ROWS: usize, const VECTORS: usize> Tile<'_, ROWS, VECTORS> {
    /// Adds the products of the whole depth to the sums.
    #[inline(always)]
    fn multiply<D: Dot, const FETCHES: bool>(&self, dot: D, sums: &mut [[SumsOf<D>; VECTORS]; ROWS]) {
        let Arguments { depth, mut a, left, b, .. } = self.0;
        let step = <D::Simd as Simd>::LANES / D::STEPS;
        let mut b = b.as_ptr();
        for _ in 0..depth {
            if FETCHES {
                for line in (0..VECTORS * step).step_by(LINE) {
                    dot.simd().prefetch(b.wrapping_add(FETCH_AHEAD + line));
                }
            }
            // SAFETY: a panel has `depth` times VECTORS steps.
            let mut b_vectors = [unsafe { dot.load_right(b) }; VECTORS];
            for v in 1..VECTORS {
                // SAFETY: as above.
                b_vectors[v] = unsafe { dot.load_right(b.add(v * step)) };
            }
            for row in 0..ROWS {
                // SAFETY: `multiply_panel` has checked the last row at the last depth.
                let x = unsafe { dot.load_left(a.add(row * left.row_stride)) };
                for v in 0..VECTORS {
                    sums[row][v] = dot.dot(x, b_vectors[v], sums[row][v]);
                }
            }
            // Not `add`: after the last step the pointers may stand beyond what a pointer may point to.
            a = a.wrapping_add(left.depth_stride);
            b = b.wrapping_add(VECTORS * step);
        }
    }
}
