//! Panels: a right factor laid out as the register tile reads it.
//!
//! Panels and tiles are the same in every precision when their depth is counted in units of 32 bits ([`super::dot`]),
//! which travel here as `f32` whatever they hold; the packing below is that of f32.
//!
//! A panel holds some columns, one row of them after the other: `[depth][vectors * LANES]`. All panels of a matrix
//! are equally wide but the last, which has only as many vectors as its columns need; lanes past the last column are
//! zero. So panel `p` starts at `p * width * depth`, and a range of the depth is a contiguous part of the panel.

use crate::simd::Simd;

/// A matrix `[depth, columns]` in panels.
#[derive(Clone, Copy)]
pub(crate) struct Panels<'a> {
    pub(crate) data: &'a [f32],
    pub(crate) depth: usize,
    pub(crate) columns: usize,
    pub(crate) layout: Layout,
}

/// How columns are cut into panels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Layout {
    lanes: usize,
    vectors: usize,
}

/// One panel, or a range of its depth.
#[derive(Clone, Copy)]
pub(crate) struct Panel<'a> {
    data: &'a [f32],
    depth: usize,
    columns: usize,
    vectors: usize,
}

impl Layout {
    /// Panels of at most `vectors` vectors, capped by the register tile.
    pub(crate) fn new<S: Simd>(vectors: usize) -> Self {
        Layout { lanes: S::LANES, vectors: vectors.min(S::TILE_VECTORS) }
    }

    /// Columns of a full panel.
    pub(crate) fn width(self) -> usize {
        self.lanes * self.vectors
    }

    /// Panels that `columns` columns need.
    pub(crate) fn panels(self, columns: usize) -> usize {
        columns.div_ceil(self.width())
    }

    /// Numbers that a packed `[depth, columns]` takes.
    pub(crate) fn packed_len(self, depth: usize, columns: usize) -> usize {
        depth * columns.next_multiple_of(self.lanes)
    }
}

impl<'a> Panels<'a> {
    /// The depths `start..start + depth` of a panel.
    pub(crate) fn panel(self, index: usize, start: usize, depth: usize) -> Panel<'a> {
        let first = index * self.layout.width();
        let columns = self.layout.width().min(self.columns - first);
        let vectors = columns.div_ceil(self.layout.lanes);
        let row = vectors * self.layout.lanes;
        let at = first * self.depth + start * row;
        Panel { data: &self.data[at..at + depth * row], depth, columns, vectors }
    }
}

impl<'a> Panel<'a> {
    /// What follows the first `depth` depths.
    pub(crate) fn after(self, depth: usize) -> Panel<'a> {
        let row = self.data.len().checked_div(self.depth).unwrap_or(0);
        Panel { data: &self.data[depth * row..], depth: self.depth - depth, ..self }
    }

    pub(crate) fn depth(&self) -> usize {
        self.depth
    }
    pub(crate) fn columns(&self) -> usize {
        self.columns
    }
    pub(crate) fn vectors(&self) -> usize {
        self.vectors
    }
    pub(crate) fn as_ptr(&self) -> *const f32 {
        self.data.as_ptr()
    }
}

/// Where a factor comes from.
#[derive(Clone, Copy)]
pub(crate) struct Source<'a> {
    pub(crate) data: &'a [f32],
    /// Numbers from one row to the next.
    pub(crate) stride: usize,
    pub(crate) order: Order,
}

/// What the rows of a [`Source`] are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Order {
    /// A row is one column of the right factor over the whole depth: a Linear weight `[out, in]`.
    ColumnRows,
    /// A row is one depth over all columns.
    DepthRows,
}

/// Packs all panels of `[depth, columns]` from panel `first` on that `to` has room for, which is a whole number.
#[inline(always)]
pub(crate) fn pack_panels<S: Simd>(
    simd: S,
    from: Source,
    (depth, columns): (usize, usize),
    layout: Layout,
    first: usize,
    to: &mut [f32],
) {
    let first = first * layout.width();
    match from.order {
        Order::ColumnRows => {
            let mut column = first;
            for panel in to.chunks_mut(depth * layout.width()) {
                let width = layout.width().min(columns - column);
                pack_column_rows(simd, &from.data[column * from.stride..], from.stride, depth, width, panel);
                column += width;
            }
        }
        Order::DepthRows => {
            // A few rows at a time, across all panels: the source is read in long runs and the panels are written in
            // chunks of several cache lines.
            for start in (0..depth).step_by(DEPTH_STEP) {
                let count = DEPTH_STEP.min(depth - start);
                let mut column = first;
                for panel in to.chunks_mut(depth * layout.width()) {
                    let width = layout.width().min(columns - column);
                    let row = panel.len() / depth;
                    let from_part = &from.data[start * from.stride + column..];
                    pack_depth_rows(simd, from_part, from.stride, width, &mut panel[start * row..][..count * row], row);
                    column += width;
                }
            }
        }
    }
}

/// Rows of the source that are packed together.
pub(crate) const DEPTH_STEP: usize = 8;

#[inline(always)]
fn pack_depth_rows<S: Simd>(simd: S, from: &[f32], stride: usize, columns: usize, to: &mut [f32], row: usize) {
    let depth = to.len() / row;
    assert!(from.len() >= (depth - 1) * stride + columns, "source too short");
    assert!(row.is_multiple_of(S::LANES) && columns <= row);
    for d in 0..depth {
        for column in (0..row).step_by(S::LANES) {
            let (source, target) = (d * stride + column, d * row + column);
            simd.prefetch(from.as_ptr().wrapping_add(source + DEPTH_STEP * stride));
            // SAFETY: both ends were checked above: a vector of the source is read only where LANES columns are left,
            // and the target's row is a multiple of LANES.
            unsafe {
                let x = if columns - column >= S::LANES {
                    simd.load_ptr(from.as_ptr().add(source))
                } else {
                    simd.load_partial(std::slice::from_raw_parts(from.as_ptr().add(source), columns - column))
                };
                simd.store_ptr(to.as_mut_ptr().add(target), x);
            }
        }
    }
}

#[inline(always)]
fn pack_column_rows<S: Simd>(simd: S, from: &[f32], stride: usize, depth: usize, columns: usize, to: &mut [f32]) {
    let row = columns.next_multiple_of(S::LANES);
    assert!(columns == 0 || from.len() >= (columns - 1) * stride + depth, "source too short");
    assert_eq!(to.len(), depth * row);
    for start in (0..depth).step_by(S::LANES) {
        for column in (0..row).step_by(S::LANES) {
            let (source, target) = (column * stride + start, start * row + column);
            if depth - start >= S::LANES && columns - column >= S::LANES {
                // SAFETY: LANES more columns and depths are left in both, which were checked above.
                unsafe { simd.transpose(from.as_ptr().add(source), stride, to.as_mut_ptr().add(target), row) };
                continue;
            }
            for d in 0..S::LANES.min(depth - start) {
                for (c, to) in to[target + d * row..][..S::LANES].iter_mut().enumerate() {
                    *to = if column + c < columns { from[source + c * stride + d] } else { 0.0 };
                }
            }
        }
    }
}

/// As [`super::dot::FloatDot::pack_left_transposed`], into tiles of `TILE_ROWS` columns for [`super::tile::Left::columns`].
#[inline(always)]
pub(crate) fn pack_left_transposed<S: Simd>(
    simd: S,
    from: &[f32],
    stride: usize,
    depth: usize,
    rows: usize,
    to: &mut [f32],
) {
    assert!(depth == 0 || from.len() >= (depth - 1) * stride + rows, "source too short");
    for start in (0..depth).step_by(DEPTH_STEP) {
        let end = depth.min(start + DEPTH_STEP);
        for (tile, to) in to.chunks_exact_mut(depth * S::TILE_ROWS).enumerate() {
            let first = tile * S::TILE_ROWS;
            let tile_rows = S::TILE_ROWS.min(rows - first);
            for d in start..end {
                let (from, to) = (&from[d * stride + first..][..tile_rows], &mut to[d * S::TILE_ROWS..][..tile_rows]);
                simd.prefetch(from.as_ptr().wrapping_add(DEPTH_STEP * stride));
                if tile_rows == S::TILE_ROWS {
                    // A constant length is a pair of vector moves, a variable one a call.
                    to[..S::TILE_ROWS].copy_from_slice(&from[..S::TILE_ROWS]);
                } else {
                    to.copy_from_slice(from);
                }
            }
        }
    }
}
