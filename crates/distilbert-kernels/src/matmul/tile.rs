//! The register tile: a few rows by one panel of columns, all accumulators in registers over the whole depth.
//!
//! Every element is one chain of `mul_add` over the depth in order, whatever the tile it falls in, and a block of the
//! depth continues the chain from the number that the block before it stored. So the bits of an element depend on its
//! row, its column and the depth alone.

use super::pack::Panel;
use crate::simd::{Kernel, Simd};

/// The left factor as tiles read it: element (row, depth) of the tile with index `t` stands at
/// `t * tile_stride + row * row_stride + depth * depth_stride`, `row` counted inside the tile.
#[derive(Clone, Copy)]
pub(crate) struct Left<'a> {
    data: &'a [f32],
    tile_stride: usize,
    row_stride: usize,
    depth_stride: usize,
}

impl<'a> Left<'a> {
    /// Rows of a matrix: element (row, depth) at `row * stride + depth`.
    pub(crate) fn rows<S: Simd>(data: &'a [f32], stride: usize) -> Self {
        Left { data, tile_stride: S::TILE_ROWS * stride, row_stride: stride, depth_stride: 1 }
    }

    /// Columns of a matrix, which are the rows of its transpose: element (row, depth) at `depth * stride + row`.
    pub(crate) fn columns<S: Simd>(data: &'a [f32], stride: usize) -> Self {
        Left { data, tile_stride: S::TILE_ROWS, row_stride: 1, depth_stride: stride }
    }

    /// Tiles that [`super::pack::pack_left_transposed`] has laid end to end.
    pub(crate) fn tiles<S: Simd>(data: &'a [f32], depth: usize) -> Self {
        Left { data, tile_stride: S::TILE_ROWS * depth, row_stride: 1, depth_stride: S::TILE_ROWS }
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

/// `C = A * B` or `C += A * B` for `rows` rows, over the depth and the columns of one panel.
///
/// # Safety
/// `rows` rows of `panel.columns()` numbers must be readable and writable at `c`, `c + c_stride`, and so on, and
/// nothing else may access them meanwhile.
#[inline(always)]
pub(crate) unsafe fn multiply_panel<S: Simd>(
    simd: S,
    rows: usize,
    left: Left,
    panel: Panel,
    start: Start,
    c: *mut f32,
    c_stride: usize,
) {
    let (depth, vectors) = (panel.depth(), panel.vectors());
    if rows == 0 {
        return;
    }
    let (last_tile, last_row) = ((rows - 1) / S::TILE_ROWS, (rows - 1) % S::TILE_ROWS);
    let last_full =
        if last_tile > 0 { (last_tile - 1) * left.tile_stride + (S::TILE_ROWS - 1) * left.row_stride } else { 0 };
    let last = last_full.max(last_tile * left.tile_stride + last_row * left.row_stride);
    assert!(depth == 0 || last + (depth - 1) * left.depth_stride < left.data.len(), "left factor too short");
    for tile in 0..=last_tile {
        let tile_rows = if tile == last_tile { last_row + 1 } else { S::TILE_ROWS };
        let row = tile * S::TILE_ROWS;
        // SAFETY: the largest offset that any tile reads from the left factor is inside it by the assertion (offset 0
        // of an empty depth is never read); the rows of C are the caller's promise.
        let (a, c) = unsafe {
            let offset = if depth == 0 { 0 } else { tile * left.tile_stride };
            (left.data.as_ptr().add(offset), c.add(row * c_stride))
        };
        if tile < last_tile {
            // The next tile's part of C, which may be far away, arrives while this tile is computed.
            for row in S::TILE_ROWS..2 * S::TILE_ROWS {
                for v in 0..vectors {
                    simd.prefetch(c.wrapping_add(row * c_stride + v * S::LANES));
                }
            }
        }
        let arguments = Arguments { depth, a, left, b: panel, start, c, c_stride };
        // The tile's shape becomes a constant here. Shapes beyond this instruction set's tile are never reached, and
        // the guards let the compiler see that.
        match vectors {
            1 => with_rows::<S, 1>(simd, tile_rows, arguments),
            2 if S::TILE_VECTORS >= 2 => with_rows::<S, 2>(simd, tile_rows, arguments),
            3 if S::TILE_VECTORS >= 3 => with_rows::<S, 3>(simd, tile_rows, arguments),
            _ => unreachable!("a panel has 1 to TILE_VECTORS vectors"),
        }
    }
}

#[inline(always)]
fn with_rows<S: Simd, const VECTORS: usize>(simd: S, rows: usize, arguments: Arguments) {
    match rows {
        1 => simd.vectorize(Tile::<1, VECTORS>(arguments)),
        2 => simd.vectorize(Tile::<2, VECTORS>(arguments)),
        3 => simd.vectorize(Tile::<3, VECTORS>(arguments)),
        4 => simd.vectorize(Tile::<4, VECTORS>(arguments)),
        5 if S::TILE_ROWS >= 5 => simd.vectorize(Tile::<5, VECTORS>(arguments)),
        6 if S::TILE_ROWS >= 6 => simd.vectorize(Tile::<6, VECTORS>(arguments)),
        7 if S::TILE_ROWS >= 7 => simd.vectorize(Tile::<7, VECTORS>(arguments)),
        8 if S::TILE_ROWS >= 8 => simd.vectorize(Tile::<8, VECTORS>(arguments)),
        _ => unreachable!("a tile has 1 to TILE_ROWS rows"),
    }
}

/// The arguments of one tile, made by [`multiply_panel`] only, which has checked them.
#[derive(Clone, Copy)]
struct Arguments<'a> {
    depth: usize,
    a: *const f32,
    left: Left<'a>,
    b: Panel<'a>,
    start: Start,
    c: *mut f32,
    c_stride: usize,
}

struct Tile<'a, const ROWS: usize, const VECTORS: usize>(Arguments<'a>);

// Plain loops over constant bounds: an iterator's closure might be compiled outside the function that enables the
// instruction set, and arrays indexed by constants become registers.
#[allow(clippy::needless_range_loop)]
impl<const ROWS: usize, const VECTORS: usize> Kernel for Tile<'_, ROWS, VECTORS> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let Arguments { depth, mut a, left, b, start, c, c_stride } = self.0;
        let columns = b.columns();
        let mut sums = [[simd.splat(0.0); VECTORS]; ROWS];
        if start == Start::Output {
            for row in 0..ROWS {
                for v in 0..VECTORS {
                    let (at, len) = (row * c_stride + v * S::LANES, columns - v * S::LANES);
                    // SAFETY: C has `columns` numbers in this row, of which `len` are left from this vector on.
                    sums[row][v] = unsafe {
                        if len >= S::LANES {
                            simd.load_ptr(c.add(at))
                        } else {
                            simd.load_partial(std::slice::from_raw_parts(c.add(at), len))
                        }
                    };
                }
            }
        }
        let mut b = b.as_ptr();
        for _ in 0..depth {
            let mut b_vectors = [simd.splat(0.0); VECTORS];
            for v in 0..VECTORS {
                // SAFETY: a panel has `depth` times VECTORS vectors.
                b_vectors[v] = unsafe { simd.load_ptr(b.add(v * S::LANES)) };
            }
            for row in 0..ROWS {
                // SAFETY: `multiply_panel` has checked the last row at the last depth.
                let x = simd.splat(unsafe { *a.add(row * left.row_stride) });
                for v in 0..VECTORS {
                    sums[row][v] = simd.mul_add(x, b_vectors[v], sums[row][v]);
                }
            }
            // Not `add`: after the last step the pointers may stand beyond what a pointer may point to.
            a = a.wrapping_add(left.depth_stride);
            b = b.wrapping_add(VECTORS * S::LANES);
        }
        for row in 0..ROWS {
            for v in 0..VECTORS {
                let (at, len) = (row * c_stride + v * S::LANES, columns - v * S::LANES);
                // SAFETY: as for the loads above.
                unsafe {
                    if len >= S::LANES {
                        simd.store_ptr(c.add(at), sums[row][v]);
                    } else {
                        simd.store_partial(std::slice::from_raw_parts_mut(c.add(at), len), sums[row][v]);
                    }
                }
            }
        }
    }
}
