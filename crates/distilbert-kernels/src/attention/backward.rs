//! The gradient of attention. The probabilities are found again from the scores and their stored log-sum-exp.

use super::{AttentionShape, Batch, Head, Part, cut, multiply, multiply_into, pack};
use crate::dropout::Dropout;
use crate::math;
use crate::matmul::buffer::Scratch;
use crate::matmul::dot::F32;
use crate::matmul::pack::{Order, Panels, Source};
use crate::matmul::tile::{Left, Start, multiply_panel};
use crate::runtime::{Runtime, SharedMut};
use crate::simd::{Kernel, Simd, dispatch};
use std::ops::Range;

/// The gradient of [`super::attention`]: from `d_context: [tokens, hidden]` to `d_qkv: [tokens, 3 * hidden]`, which is
/// overwritten. `context` and `log_sum_exp` are what the forward pass gave for the same arguments.
///
/// # Panics
/// As [`super::attention`].
///
/// # Source
/// Dao et al. 2022 (arXiv:2205.14135), appendix B.2: `rowsum(dO ∘ O)` in place of `rowsum(P ∘ dP)`.
#[allow(clippy::too_many_arguments)] // Operands of one pass; they have no meaning as a group.
pub fn attention_backward(
    rt: &Runtime,
    shape: AttentionShape,
    qkv: &[f32],
    cu_seqlens: &[u32],
    dropout: Option<&Dropout>,
    context: &[f32],
    log_sum_exp: &[f32],
    d_context: &[f32],
    d_qkv: &mut [f32],
) {
    let batch = Batch::new(shape, qkv, cu_seqlens, dropout);
    assert_eq!(context.len(), batch.tokens() * batch.hidden(), "context: [tokens, hidden]");
    assert_eq!(d_context.len(), context.len(), "d_context: [tokens, hidden]");
    assert_eq!(log_sum_exp.len(), batch.tokens() * shape.heads, "log_sum_exp: [tokens, heads]");
    assert_eq!(d_qkv.len(), qkv.len(), "d_qkv: [tokens, 3 * hidden]");
    let d_qkv = SharedMut::new(d_qkv);
    batch.run_tasks(rt, batch.sequences() * shape.heads, |task| {
        let head = batch.head(task / shape.heads, task % shape.heads);
        if head.seq == 0 {
            return;
        }
        dispatch(rt.isa(), Backward { head, context, log_sum_exp, d_context, d_qkv: &d_qkv });
    });
}

/// One head of one sequence.
struct Backward<'a> {
    head: Head<'a>,
    context: &'a [f32],
    log_sum_exp: &'a [f32],
    d_context: &'a [f32],
    d_qkv: &'a SharedMut<'a, f32>,
}

impl Kernel for Backward<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let (head, d_context) = (self.head, self.d_context);
        let (seq, stride) = (head.seq, head.scores_stride());
        let block = 8 * S::TILE_ROWS;
        let (transposed, straight) =
            (head.packed_len::<F32<S>>(Order::ColumnRows), head.packed_len::<F32<S>>(Order::DepthRows));
        let lens = [transposed, transposed, straight, straight, straight, block * stride, block * stride];
        let mut scratch = Scratch::take(lens.iter().map(|len| len.next_multiple_of(16)).sum());
        let mut rest = scratch.as_mut_slice();
        let keys_transposed = head.pack(F32(simd), Part::Key, Order::ColumnRows, cut(&mut rest, transposed)); // [head_dim, seq]
        let values_transposed = head.pack(F32(simd), Part::Value, Order::ColumnRows, cut(&mut rest, transposed));
        let keys = head.pack(F32(simd), Part::Key, Order::DepthRows, cut(&mut rest, straight)); // [seq, head_dim]
        let queries = head.pack(F32(simd), Part::Query, Order::DepthRows, cut(&mut rest, straight));
        let source = Source { data: &d_context[head.context_at(0)..], stride: head.hidden, order: Order::DepthRows };
        let d_out = pack(F32(simd), source, (seq, head.head_dim), cut(&mut rest, straight));
        let probabilities = cut(&mut rest, block * stride); // [block, seq]
        let d_scores = cut(&mut rest, block * stride);
        for first in (0..seq).step_by(block) {
            let rows = first..seq.min(first + block);
            // Forward: S = Q Kᵀ, P = softmax(S / sqrt(d)), O = dropout(P) V. So dP = dropout(dO Vᵀ).
            head.scores(F32(simd), rows.clone(), keys_transposed, probabilities, &mut []);
            let left = Left::rows(&d_context[head.context_at(first)..], head.hidden);
            multiply(F32(simd), rows.len(), left, values_transposed, d_scores, stride);
            self.softmax_backward(simd, rows.clone(), probabilities, d_scores);
            // SAFETY: the three parts of this head's tokens lie inside `d_qkv`, and no other task writes them.
            unsafe {
                // S = Q Kᵀ, so dQ = dS K ...
                let left = Left::rows(d_scores, stride);
                let d_query = self.d_qkv.pointer(head.at(Part::Query, first));
                multiply_into(F32(simd), rows.len(), left, keys, Start::Zero, d_query, head.stride());
                // ... and dK = dSᵀ Q; O = P V, so dV = Pᵀ dO: both summed over the blocks of queries.
                self.accumulate(simd, d_scores, queries, rows.clone(), Part::Key);
                self.accumulate(simd, probabilities, d_out, rows, Part::Value);
            }
        }
    }
}

impl Backward<'_> {
    /// Scores become probabilities after dropout, and gradients of dropped probabilities become gradients of scores.
    #[inline(always)]
    fn softmax_backward<S: Simd>(&self, simd: S, rows: Range<usize>, scores: &mut [f32], d_scores: &mut [f32]) {
        let head = &self.head;
        let (seq, stride) = (head.seq, head.scores_stride());
        let rows = rows.zip(scores.chunks_exact_mut(stride)).zip(d_scores.chunks_exact_mut(stride));
        for ((query, scores), d_scores) in rows {
            let (p, d_p) = (&mut scores[..seq], &mut d_scores[..seq]);
            let log_sum_exp = self.log_sum_exp[(head.first_token + query) * head.heads + head.head];
            for p in p.chunks_mut(S::LANES) {
                let scaled = simd.mul(simd.load_partial(p), simd.splat(head.scale));
                let x = math::exp(simd, simd.sub(scaled, simd.splat(log_sum_exp)));
                simd.store_partial(p, x);
            }
            // softmax: dS = P ∘ (dP - rowsum(P ∘ dP)), and rowsum(P ∘ dP) = rowsum(dO ∘ O).
            let at = head.context_at(query);
            let mut sum = simd.splat(0.0);
            let (out, d_out) = (&self.context[at..at + head.head_dim], &self.d_context[at..at + head.head_dim]);
            for (o, d_o) in out.chunks(S::LANES).zip(d_out.chunks(S::LANES)) {
                sum = simd.mul_add(simd.load_partial(o), simd.load_partial(d_o), sum);
            }
            let sum = simd.sum(sum);
            match head.dropout {
                None => {
                    for (p, d_p) in p.iter().zip(d_p) {
                        *d_p = *p * (*d_p - sum) * head.scale;
                    }
                }
                Some((dropout, key)) => {
                    let (keep_scale, mut element) = (dropout.keep_scale(), head.element(query));
                    for (p, d_p) in p.iter_mut().zip(d_p) {
                        let by = if dropout.keep(key, element) { keep_scale } else { 0.0 };
                        element = element.wrapping_add(1);
                        *d_p = *p * (*d_p * by - sum) * head.scale;
                        *p *= by;
                    }
                }
            }
        }
    }

    /// `d_part (+)= leftᵀ · right[rows]`: overwrites at the first block of queries, adds at the others.
    ///
    /// # Safety
    /// Nothing else may access this head's part of the sequence's tokens meanwhile.
    #[inline(always)]
    unsafe fn accumulate<S: Simd>(&self, simd: S, left: &[f32], right: Panels, rows: Range<usize>, part: Part) {
        let head = &self.head;
        let left = Left::columns(left, head.scores_stride());
        let start = if rows.start == 0 { Start::Zero } else { Start::Output };
        for index in 0..right.layout.panels(right.columns) {
            let panel = right.panel(index, rows.start, rows.len());
            let c = self.d_qkv.pointer(head.at(part, 0) + index * right.layout.width());
            // SAFETY: the panel's columns of the sequence's tokens lie inside `d_qkv`; the rest is the caller's promise.
            unsafe { multiply_panel(F32(simd), head.seq, left, panel, start, c, head.stride(), ()) };
        }
    }
}
