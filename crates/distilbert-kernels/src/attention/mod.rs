//! Multi-head attention over unpadded sequences: `softmax(Q Kᵀ / sqrt(head_dim)) V`, each sequence by itself.
//!
//! Scores exist only for a few query rows at a time, over all keys, so memory grows with the length of a sequence,
//! not with its square. Blocks of queries are anchored at the sequence's start and every sum runs in the order of the
//! keys (or queries), so a sequence's result is bit-equal alone, in any batch and for any number of threads.

mod backward;
mod relations;
#[cfg(test)]
mod tests;

pub use backward::attention_backward;
pub use relations::{Related, Relation, ScoreLoss, relation_loss};

use crate::dropout::Dropout;
use crate::math;
use crate::matmul::buffer::Scratch;
use crate::matmul::dot::{Dot, F32, FloatDot, FloatKernel, dispatch_float};
use crate::matmul::pack::{Layout, Order, Panels, Source};
use crate::matmul::tile::{Left, Start, multiply_panel};
use crate::precision::Precision;
use crate::runtime::{Runtime, SharedMut};
use crate::simd::{Kernel, Simd, dispatch};
use std::ops::Range;

/// How the hidden width is cut into heads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AttentionShape {
    /// Number of heads.
    pub heads: usize,
    /// Width of a head; `heads * head_dim` is the hidden width.
    pub head_dim: usize,
}

impl AttentionShape {
    /// Width of all heads together.
    pub fn hidden(self) -> usize {
        self.heads * self.head_dim
    }
}

/// Whose context vectors are wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Queries {
    /// Every token's: `[tokens, hidden]`.
    All,
    /// The first token's of each sequence, which must have one: `[batch, hidden]`.
    First,
}

/// Context vectors of all heads, end to end, of the tokens that `queries` names.
///
/// `qkv: [tokens, 3 * hidden]` holds queries, keys and values side by side; sequence `i` is the tokens
/// `cu_seqlens[i]..cu_seqlens[i + 1]`. `dropout` drops probabilities after the softmax; the element of (head, query,
/// key) is `(head * seq + query) * seq + key`. `log_sum_exp: [tokens, heads]` receives what [`attention_backward`]
/// needs to find the probabilities again. `precision` is that of both products; the softmax is always f32.
///
/// # Panics
/// If lengths disagree, `cu_seqlens` does not rise from 0 to the number of tokens, an element of a sequence that drops
/// exceeds `u32`, a first token is wanted of a sequence without tokens, or the precision is int8 or one that the CPU
/// lacks.
#[allow(clippy::too_many_arguments)] // Operands of one pass; they have no meaning as a group.
pub fn attention(
    rt: &Runtime,
    precision: Precision,
    shape: AttentionShape,
    qkv: &[f32],
    cu_seqlens: &[u32],
    queries: Queries,
    dropout: Option<&Dropout>,
    context: &mut [f32],
    log_sum_exp: Option<&mut [f32]>,
) {
    assert!(precision != Precision::Int8 && precision.is_available(rt.isa()), "{precision} on {}", rt.isa());
    let batch = Batch::new(shape, qkv, cu_seqlens, dropout);
    let rows = match queries {
        Queries::All => batch.tokens(),
        Queries::First => batch.sequences(),
    };
    assert_eq!(context.len(), rows * batch.hidden(), "context: {rows} rows of {}", batch.hidden());
    if let Some(log_sum_exp) = &log_sum_exp {
        assert_eq!(queries, Queries::All, "a backward pass needs every query");
        assert_eq!(log_sum_exp.len(), batch.tokens() * shape.heads, "log_sum_exp: [tokens, heads]");
    }
    let context = SharedMut::new(context);
    let log_sum_exp = log_sum_exp.map(SharedMut::new);
    let longest = match queries {
        Queries::All => (0..batch.sequences()).map(|sequence| batch.tokens_of(sequence).len()).max().unwrap_or(0),
        Queries::First => {
            for sequence in 0..batch.sequences() {
                assert!(!batch.tokens_of(sequence).is_empty(), "sequence {sequence} has no first token");
            }
            1
        }
    };
    // A task for every block of queries that the longest sequence has; in a shorter one the last blocks are empty. The
    // later blocks come first: they belong to the long sequences, and what is left for the end is short.
    let (blocks, heads) = (longest.div_ceil(TASK_QUERIES), batch.sequences() * shape.heads);
    batch.run_tasks(rt, blocks * heads, |task| {
        let (block, sequence, head) = (blocks - 1 - task / heads, task % heads / shape.heads, task % shape.heads);
        let head = batch.head(sequence, head);
        let seq = longest.min(head.seq);
        let range = (block * TASK_QUERIES).min(seq)..seq.min((block + 1) * TASK_QUERIES);
        if range.is_empty() {
            return;
        }
        let first_row = if queries == Queries::All { head.first_token } else { sequence };
        let forward = Forward { head, queries: range, first_row, context: &context, log_sum_exp: log_sum_exp.as_ref() };
        dispatch_float(rt.isa(), precision, forward);
    });
}

/// The probabilities of one sequence, without dropout: `out: [heads, seq, seq]`, each row a distribution over keys.
///
/// # Panics
/// As [`attention`], or if there is no such sequence.
pub fn attention_probabilities(
    rt: &Runtime,
    shape: AttentionShape,
    qkv: &[f32],
    cu_seqlens: &[u32],
    sequence: usize,
    out: &mut [f32],
) {
    let batch = Batch::new(shape, qkv, cu_seqlens, None);
    let seq = batch.tokens_of(sequence).len();
    assert_eq!(out.len(), shape.heads * seq * seq, "probabilities: [heads, seq, seq]");
    if seq == 0 {
        return;
    }
    rt.parallel_chunks_mut(out, seq * seq, |head, out| {
        dispatch(rt.isa(), Probabilities { head: batch.head(sequence, head), out });
    });
}

/// Queries of one forward task. Each task packs keys and values anew, which this many queries pay for.
const TASK_QUERIES: usize = 128;
/// Multiply-adds below which other threads are not worth waking.
const MIN_PARALLEL: usize = 1 << 17;
/// Vectors in a panel: two, since widths of 32 and 64 are no multiple of three.
const PANEL_VECTORS: usize = 2;

/// The checked arguments that forward and backward share.
struct Batch<'a> {
    shape: AttentionShape,
    qkv: &'a [f32],
    cu_seqlens: &'a [u32],
    dropout: Option<&'a Dropout<'a>>,
}

impl<'a> Batch<'a> {
    fn new(shape: AttentionShape, qkv: &'a [f32], cu_seqlens: &'a [u32], dropout: Option<&'a Dropout<'a>>) -> Self {
        let batch = Batch { shape, qkv, cu_seqlens, dropout };
        assert!(batch.hidden() > 0, "heads without width: {shape:?}");
        assert_eq!(cu_seqlens.first(), Some(&0), "cu_seqlens starts at 0");
        assert!(cu_seqlens.is_sorted(), "cu_seqlens rises");
        assert_eq!(qkv.len(), batch.tokens() * 3 * batch.hidden(), "qkv: [tokens, 3 * hidden]");
        if let Some(dropout) = dropout {
            assert!((0.0..1.0).contains(&dropout.probability), "dropout probability {}", dropout.probability);
            assert_eq!(dropout.slots.len(), batch.sequences(), "one slot a sequence");
            for sequence in 0..batch.sequences() {
                let seq = batch.tokens_of(sequence).len() as u128;
                assert!(shape.heads as u128 * seq * seq <= 1 << 32, "{seq} tokens: too many elements to drop from");
            }
        }
        batch
    }

    fn hidden(&self) -> usize {
        self.shape.hidden()
    }

    fn tokens(&self) -> usize {
        self.cu_seqlens.last().map_or(0, |&tokens| tokens as usize)
    }

    fn sequences(&self) -> usize {
        self.cu_seqlens.len() - 1
    }

    fn tokens_of(&self, sequence: usize) -> Range<usize> {
        self.cu_seqlens[sequence] as usize..self.cu_seqlens[sequence + 1] as usize
    }

    fn head(&self, sequence: usize, head: usize) -> Head<'a> {
        let tokens = self.tokens_of(sequence);
        Head {
            qkv: self.qkv,
            hidden: self.hidden(),
            heads: self.shape.heads,
            head_dim: self.shape.head_dim,
            head,
            first_token: tokens.start,
            seq: tokens.len(),
            scale: 1.0 / (self.shape.head_dim as f32).sqrt(),
            dropout: self.dropout.map(|dropout| (dropout, dropout.sequence_key(sequence))),
        }
    }

    /// Runs the tasks on all threads, or on this one if together they are too small.
    fn run_tasks(&self, rt: &Runtime, tasks: usize, run: impl Fn(usize) + Sync) {
        let squares = (0..self.sequences()).map(|i| self.tokens_of(i).len().pow(2)).sum::<usize>();
        if squares * self.hidden() < MIN_PARALLEL {
            (0..tasks).for_each(run);
        } else {
            rt.parallel_for(tasks, run);
        }
    }
}

/// One head of one sequence.
#[derive(Clone, Copy)]
struct Head<'a> {
    qkv: &'a [f32],
    hidden: usize,
    heads: usize,
    head_dim: usize,
    head: usize,
    first_token: usize,
    seq: usize,
    scale: f32,
    /// With the sequence's key.
    dropout: Option<(&'a Dropout<'a>, u64)>,
}

/// Which third of a token's `qkv`.
#[derive(Clone, Copy)]
enum Part {
    Query,
    Key,
    Value,
}

impl<'a> Head<'a> {
    /// Numbers from one token of `qkv` to the next.
    fn stride(&self) -> usize {
        3 * self.hidden
    }

    /// Where this head's part of a token starts in `qkv` and in its gradient.
    fn at(&self, part: Part, token: usize) -> usize {
        (self.first_token + token) * self.stride() + part as usize * self.hidden + self.head * self.head_dim
    }

    /// Where this head's part of a token starts in `[tokens, hidden]`.
    fn context_at(&self, token: usize) -> usize {
        (self.first_token + token) * self.hidden + self.head * self.head_dim
    }

    /// Numbers from one row of scores to the next: whole vectors, and never a power of two, whose rows would share
    /// their place in the cache.
    fn scores_stride(&self) -> usize {
        self.seq.next_multiple_of(16) + 16
    }

    /// The head's part of all tokens as a packed right factor. `ColumnRows` gives `[head_dim, seq]`, the transpose;
    /// `DepthRows` gives `[seq, head_dim]`.
    #[inline(always)]
    fn pack<'p, D: FloatDot>(&self, dot: D, part: Part, order: Order, to: &'p mut [f32]) -> Panels<'p> {
        let source = Source { data: &self.qkv[self.at(part, 0)..], stride: self.stride(), order };
        pack(dot, source, self.shape_of(order), to)
    }

    /// Depth and columns of a packed part.
    fn shape_of(&self, order: Order) -> (usize, usize) {
        match order {
            Order::ColumnRows => (self.head_dim, self.seq),
            Order::DepthRows => (self.seq, self.head_dim),
        }
    }

    /// Units that a packed part takes.
    #[inline(always)]
    fn packed_len<D: FloatDot>(&self, order: Order) -> usize {
        let (depth, columns) = self.shape_of(order);
        Layout::new::<D::Simd>(PANEL_VECTORS).packed_len(depth.div_ceil(D::GROUP), columns)
    }

    /// Scores `Q Kᵀ` of some queries, before the scale; `left` has room for the queries in units.
    #[inline(always)]
    fn scores<D: FloatDot>(
        &self,
        dot: D,
        queries: Range<usize>,
        keys_transposed: Panels,
        scores: &mut [f32],
        left: &mut [f32],
    ) {
        let rows = &self.qkv[self.at(Part::Query, queries.start)..];
        let left = dot.left_rows(rows, self.stride(), (queries.len(), self.head_dim), left);
        multiply(dot, queries.len(), left, keys_transposed, scores, self.scores_stride());
    }

    /// Turns scores into probabilities, row by row; writes each row's logarithm of the sum of exponentials.
    #[inline(always)]
    fn softmax<S: Simd>(&self, simd: S, rows: usize, scores: &mut [f32], log_sum_exp: &mut [f32]) {
        for (row, log_sum_exp) in scores.chunks_exact_mut(self.scores_stride()).take(rows).zip(log_sum_exp) {
            // The lanes past the last key must not count.
            let padded = self.seq.next_multiple_of(S::LANES);
            row[self.seq..padded].fill(f32::NEG_INFINITY);
            *log_sum_exp = softmax_row(simd, &mut row[..padded], self.scale);
        }
    }

    /// The dropout element of (query, key 0).
    fn element(&self, query: usize) -> u32 {
        ((self.head * self.seq + query) * self.seq) as u32
    }

    /// Drops some of the probabilities and scales up the others.
    #[inline(always)]
    fn drop_probabilities(&self, queries: Range<usize>, probabilities: &mut [f32]) {
        let Some((dropout, key)) = self.dropout else { return };
        for (query, row) in queries.zip(probabilities.chunks_exact_mut(self.scores_stride())) {
            dropout.apply(key, self.element(query), &mut row[..self.seq]);
        }
    }
}

#[inline(always)]
fn pack<'p, D: FloatDot>(dot: D, source: Source, shape: (usize, usize), to: &'p mut [f32]) -> Panels<'p> {
    let layout = Layout::new::<D::Simd>(PANEL_VECTORS);
    dot.pack_right(source, shape, layout, 0, to);
    Panels { data: to, depth: shape.0.div_ceil(D::GROUP), columns: shape.1, layout }
}

/// `C = A · B` into memory of this task's own.
#[inline(always)]
fn multiply<D: Dot>(dot: D, rows: usize, left: Left, right: Panels, c: &mut [f32], c_stride: usize) {
    assert!(rows == 0 || (rows - 1) * c_stride + right.columns <= c.len(), "product too short");
    // SAFETY: all rows lie inside `c` by the assertion, and `c` is borrowed mutably.
    unsafe { multiply_into(dot, rows, left, right, Start::Zero, c.as_mut_ptr(), c_stride) }
}

/// # Safety
/// As [`multiply_panel`], for all columns.
#[inline(always)]
unsafe fn multiply_into<D: Dot>(
    dot: D,
    rows: usize,
    left: Left,
    right: Panels,
    start: Start,
    c: *mut f32,
    c_stride: usize,
) {
    for index in 0..right.layout.panels(right.columns) {
        let panel = right.panel(index, 0, right.depth);
        // SAFETY: a panel's columns are among all columns, which the caller answers for.
        unsafe { multiply_panel(dot, rows, left, panel, start, c.add(index * right.layout.width()), c_stride, ()) };
    }
}

/// Softmax of `scale * row`, whole vectors; returns the logarithm of the sum of exponentials.
#[inline(always)]
fn softmax_row<S: Simd>(simd: S, row: &mut [f32], scale: f32) -> f32 {
    let mut largest = simd.splat(f32::NEG_INFINITY);
    for x in row.chunks_exact(S::LANES) {
        largest = simd.max(largest, simd.load(x));
    }
    let (largest, scale) = (simd.largest(largest) * scale, simd.splat(scale));
    let mut sum = simd.splat(0.0);
    for x in row.chunks_exact_mut(S::LANES) {
        let y = math::exp(simd, simd.sub(simd.mul(simd.load(x), scale), simd.splat(largest)));
        sum = simd.add(sum, y);
        simd.store(x, y);
    }
    let sum = simd.sum(sum);
    let by = simd.splat(1.0 / sum);
    for x in row.chunks_exact_mut(S::LANES) {
        let y = simd.mul(simd.load(x), by);
        simd.store(x, y);
    }
    largest + sum.ln()
}

/// Cuts `len` numbers off a scratch buffer, leaving the rest at a cache line.
#[inline(always)]
fn cut<'s>(rest: &mut &'s mut [f32], len: usize) -> &'s mut [f32] {
    let (part, tail) = std::mem::take(rest).split_at_mut(len.next_multiple_of(16));
    *rest = tail;
    &mut part[..len]
}

struct Forward<'a> {
    head: Head<'a>,
    queries: Range<usize>,
    /// The row of the context that belongs to query 0.
    first_row: usize,
    context: &'a SharedMut<'a, f32>,
    log_sum_exp: Option<&'a SharedMut<'a, f32>>,
}

impl FloatKernel for Forward<'_> {
    type Output = ();

    #[inline(always)]
    fn run<D: FloatDot>(self, dot: D) {
        let Forward { head, queries, first_row, context, log_sum_exp } = self;
        let simd = dot.simd();
        let block = 4 * D::TILE_ROWS;
        let lens = [
            head.packed_len::<D>(Order::ColumnRows),
            head.packed_len::<D>(Order::DepthRows),
            block * head.scores_stride(),
            block,
            block * head.seq.max(head.head_dim).div_ceil(D::GROUP),
        ];
        let mut scratch = Scratch::take(lens.iter().map(|len| len.next_multiple_of(16)).sum());
        let mut rest = scratch.as_mut_slice();
        let keys_transposed = head.pack(dot, Part::Key, Order::ColumnRows, cut(&mut rest, lens[0])); // [head_dim, seq]
        let values = head.pack(dot, Part::Value, Order::DepthRows, cut(&mut rest, lens[1])); // [seq, head_dim]
        let scores = cut(&mut rest, lens[2]); // [block, seq]
        let sums = cut(&mut rest, lens[3]);
        let left = cut(&mut rest, lens[4]); // a left factor in units
        for first in queries.clone().step_by(block) {
            let queries = first..queries.end.min(first + block);
            head.scores(dot, queries.clone(), keys_transposed, scores, left);
            head.softmax(simd, queries.len(), scores, sums);
            head.drop_probabilities(queries.clone(), scores);
            let left = dot.left_rows(scores, head.scores_stride(), (queries.len(), head.seq), left);
            // SAFETY: these tokens' part of this head lies inside `context`, and no other task writes it.
            unsafe {
                let c = context.pointer((first_row + first) * head.hidden + head.head * head.head_dim);
                multiply_into(dot, queries.len(), left, values, Start::Zero, c, head.hidden);
            }
            if let Some(log_sum_exp) = log_sum_exp {
                for (query, sum) in queries.zip(sums.iter()) {
                    // SAFETY: one number, which no other task writes.
                    unsafe { log_sum_exp.slice((head.first_token + query) * head.heads + head.head, 1)[0] = *sum };
                }
            }
        }
    }
}

struct Probabilities<'a> {
    head: Head<'a>,
    out: &'a mut [f32],
}

impl Kernel for Probabilities<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let Probabilities { head, out } = self;
        let lens = [head.packed_len::<F32<S>>(Order::ColumnRows), S::TILE_ROWS * head.scores_stride(), S::TILE_ROWS];
        let mut scratch = Scratch::take(lens.iter().map(|len| len.next_multiple_of(16)).sum());
        let mut rest = scratch.as_mut_slice();
        let keys_transposed = head.pack(F32(simd), Part::Key, Order::ColumnRows, cut(&mut rest, lens[0]));
        let scores = cut(&mut rest, lens[1]);
        let sums = cut(&mut rest, lens[2]);
        for (block, out) in out.chunks_mut(S::TILE_ROWS * head.seq).enumerate() {
            let (first, rows) = (block * S::TILE_ROWS, out.len() / head.seq);
            head.scores(F32(simd), first..first + rows, keys_transposed, scores, &mut []);
            head.softmax(simd, rows, scores, sums);
            for (out, row) in out.chunks_exact_mut(head.seq).zip(scores.chunks_exact(head.scores_stride())) {
                out.copy_from_slice(&row[..head.seq]);
            }
        }
    }
}
