//! Panels: a right factor laid out as the register tile reads it.
//!
//! A panel holds some columns, one row of them after the other: `[depth][vectors * LANES]`. All panels of a matrix
//! are equally wide but the last, which has only as many vectors as its columns need; lanes past the last column are
//! zero. So panel `p` starts at `p * width * depth`, and a range of the depth is a contiguous part of the panel.

use crate::simd::Simd;
use std::cell::Cell;

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

impl Panel<'_> {
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

/// Packs panels `first..first + count` of `[depth, columns]` into `to`, which holds exactly these panels.
#[inline(always)]
pub(crate) fn pack_panels<S: Simd>(
    simd: S,
    from: Source,
    (depth, columns): (usize, usize),
    layout: Layout,
    first: usize,
    mut to: &mut [f32],
) {
    let mut column = first * layout.width();
    while !to.is_empty() {
        let width = layout.width().min(columns - column);
        let row = width.next_multiple_of(S::LANES);
        let (panel, rest) = to.split_at_mut(depth * row);
        match from.order {
            Order::ColumnRows => {
                pack_column_rows(simd, &from.data[column * from.stride..], from.stride, depth, width, panel)
            }
            Order::DepthRows => pack_depth_rows(simd, &from.data[column..], from.stride, depth, width, panel),
        }
        column += width;
        to = rest;
    }
}

#[inline(always)]
fn pack_depth_rows<S: Simd>(simd: S, from: &[f32], stride: usize, depth: usize, columns: usize, to: &mut [f32]) {
    let row = columns.next_multiple_of(S::LANES);
    assert!(depth == 0 || from.len() >= (depth - 1) * stride + columns, "source too short");
    assert_eq!(to.len(), depth * row);
    for d in 0..depth {
        for column in (0..row).step_by(S::LANES) {
            let (source, target) = (d * stride + column, d * row + column);
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
fn pack_column_rows<S: Simd>(_simd: S, from: &[f32], stride: usize, depth: usize, columns: usize, to: &mut [f32]) {
    /// Depths that are transposed together: one cache line of each source row.
    const BLOCK: usize = 16;
    let row = columns.next_multiple_of(S::LANES);
    assert!(columns == 0 || from.len() >= (columns - 1) * stride + depth, "source too short");
    assert_eq!(to.len(), depth * row);
    for start in (0..depth).step_by(BLOCK) {
        let end = depth.min(start + BLOCK);
        for column in 0..row {
            for d in start..end {
                // SAFETY: both ends were checked above.
                unsafe {
                    *to.get_unchecked_mut(d * row + column) =
                        if column < columns { *from.get_unchecked(column * stride + d) } else { 0.0 };
                }
            }
        }
    }
}

/// Packs `rows` columns of a `[depth, ..]` matrix, which are rows of its transpose, into tiles of `TILE_ROWS` for
/// [`super::tile::Left::tiles`]. `from` starts at the first column; `to` has `depth * rows` numbers, rounded up to
/// whole tiles.
#[inline(always)]
pub(crate) fn pack_left_transposed<S: Simd>(from: &[f32], stride: usize, depth: usize, rows: usize, to: &mut [f32]) {
    assert!(depth == 0 || from.len() >= (depth - 1) * stride + rows, "source too short");
    for (tile, to) in to.chunks_exact_mut(depth * S::TILE_ROWS).enumerate() {
        let first = tile * S::TILE_ROWS;
        let tile_rows = S::TILE_ROWS.min(rows - first);
        for (d, to) in to.chunks_exact_mut(S::TILE_ROWS).enumerate() {
            let from = &from[d * stride + first..][..tile_rows];
            if tile_rows == S::TILE_ROWS {
                to.copy_from_slice(&from[..S::TILE_ROWS]);
            } else {
                to[..tile_rows].copy_from_slice(from);
            }
        }
    }
}

/// Numbers that start at a cache line, so that no vector of a panel straddles two.
#[derive(Clone, Default)]
pub(crate) struct AlignedBuffer {
    lines: Vec<Line>,
    len: usize,
}

#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Line([f32; LINE]);

const LINE: usize = 16;

impl AlignedBuffer {
    pub(crate) fn zeroed(len: usize) -> Self {
        AlignedBuffer { lines: vec![Line([0.0; LINE]); len.div_ceil(LINE)], len }
    }

    pub(crate) fn as_slice(&self) -> &[f32] {
        // SAFETY: `lines` holds at least `len` numbers, without padding between them.
        unsafe { std::slice::from_raw_parts(self.lines.as_ptr().cast(), self.len) }
    }

    pub(crate) fn as_mut_slice(&mut self) -> &mut [f32] {
        // SAFETY: as above.
        unsafe { std::slice::from_raw_parts_mut(self.lines.as_mut_ptr().cast(), self.len) }
    }
}

thread_local! {
    /// Kept from one task to the next, so that a task allocates nothing.
    static SCRATCH: Cell<AlignedBuffer> = Cell::default();
}

/// Numbers of this thread's scratch memory. A value rather than a closure's argument: a closure would be compiled
/// outside the function that enables the instruction set.
pub(crate) struct Scratch(AlignedBuffer);

impl Scratch {
    /// `len` numbers, whose values are unspecified.
    pub(crate) fn take(len: usize) -> Scratch {
        let mut buffer = SCRATCH.take();
        if buffer.lines.len() * LINE < len {
            buffer = AlignedBuffer::zeroed(len);
        }
        buffer.len = len;
        Scratch(buffer)
    }

    pub(crate) fn as_mut_slice(&mut self) -> &mut [f32] {
        self.0.as_mut_slice()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        SCRATCH.set(std::mem::take(&mut self.0));
    }
}
