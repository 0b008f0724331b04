//! Losses between what a student's and a teacher's tokens are to each other: scores of two of query, key and value, or the
//! distributions that they give. Scores exist for a few rows at a time, of both models, as in [`super::attention`].

use super::{AttentionShape, Batch, Head, Part, cut, multiply, multiply_into};
use crate::math;
use crate::matmul::buffer::Scratch;
use crate::matmul::dot::F32;
use crate::matmul::pack::{Order, Panels};
use crate::matmul::tile::{Left, Start, multiply_panel};
use crate::rows::{SUM_BLOCK, first_lanes, largest, load, store};
use crate::runtime::{Runtime, SharedMut};
use crate::simd::{Kernel, Simd, dispatch};
use std::ops::Range;

/// Which parts of the tokens are multiplied: the scores of token i with token j are `left_i · right_j / sqrt(head_dim)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Relation {
    /// Queries with keys: attention itself.
    Attention,
    /// Queries with queries.
    Queries,
    /// Keys with keys.
    Keys,
    /// Values with values.
    Values,
}

impl Relation {
    fn parts(self) -> (Part, Part) {
        match self {
            Relation::Attention => (Part::Query, Part::Key),
            Relation::Queries => (Part::Query, Part::Query),
            Relation::Keys => (Part::Key, Part::Key),
            Relation::Values => (Part::Value, Part::Value),
        }
    }
}

/// What two rows of scores are compared by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ScoreLoss {
    /// `KL(softmax(teacher) ‖ softmax(student))`, in nats.
    Divergence,
    /// `Σ (student - teacher)²`.
    SquaredError,
}

/// A model's queries, keys and values, and how they are cut into heads: not necessarily its own.
#[derive(Clone, Copy)]
pub struct Related<'a> {
    /// Heads; as many for both models, of any width.
    pub shape: AttentionShape,
    /// `[tokens, 3 * hidden]`
    pub qkv: &'a [f32],
}

/// The loss summed over all heads and tokens of the sequences; adds `scale` times its gradient to `d_qkv`, if there is one.
///
/// # Shapes
/// `d_qkv`: as `student.qkv`; `cu_seqlens`: `[batch + 1]`
/// # Panics
/// If the two have another number of heads, lengths disagree, or `cu_seqlens` does not rise from 0 to the number of tokens.
/// # Source
/// Jiao et al. 2019 (arXiv:1909.10351), equation 7; Wang et al. 2020 (arXiv:2002.10957), section 3; Wang et al. 2020
/// (arXiv:2012.15828), section 3.1.
#[allow(clippy::too_many_arguments)] // Operands of one pass; they have no meaning as a group.
pub fn relation_loss(
    rt: &Runtime,
    relation: Relation,
    loss: ScoreLoss,
    student: Related<'_>,
    teacher: Related<'_>,
    cu_seqlens: &[u32],
    scale: f32,
    d_qkv: Option<&mut [f32]>,
) -> f64 {
    let heads = student.shape.heads;
    assert_eq!(teacher.shape.heads, heads, "as many heads of the teacher as of the student");
    let teacher = Batch::new(teacher.shape, teacher.qkv, cu_seqlens, None);
    let student = Batch::new(student.shape, student.qkv, cu_seqlens, None);
    assert!(d_qkv.as_ref().is_none_or(|d_qkv| d_qkv.len() == student.qkv.len()), "d_qkv: [tokens, 3 * hidden]");
    let d_qkv = d_qkv.map(SharedMut::new);
    let mut sums = vec![0.0; student.sequences() * heads];
    let task_sums = SharedMut::new(&mut sums);
    student.run_tasks(rt, student.sequences() * heads, |task| {
        let (sequence, head) = (task / heads, task % heads);
        let (student, teacher) = (student.head(sequence, head), teacher.head(sequence, head));
        if student.seq > 0 {
            let kernel = RelationLoss { relation, loss, student, teacher, scale, d_qkv: d_qkv.as_ref() };
            // SAFETY: one number, which no other task writes.
            unsafe { task_sums.slice(task, 1)[0] = dispatch(rt.isa(), kernel) };
        }
    });
    sums.iter().sum()
}

/// One head of one sequence.
struct RelationLoss<'a> {
    relation: Relation,
    loss: ScoreLoss,
    student: Head<'a>,
    teacher: Head<'a>,
    scale: f32,
    d_qkv: Option<&'a SharedMut<'a, f32>>,
}

impl Kernel for RelationLoss<'_> {
    type Output = f64;

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) -> f64 {
        let RelationLoss { relation, student, teacher, d_qkv, .. } = self;
        let (left, right) = relation.parts();
        let (seq, stride, block) = (student.seq, student.scores_stride(), 8 * S::TILE_ROWS);
        let transposed = [student, teacher].map(|head| head.packed_len::<F32<S>>(Order::ColumnRows));
        let straight = if d_qkv.is_some() { student.packed_len::<F32<S>>(Order::DepthRows) } else { 0 };
        let lens = [transposed[0], transposed[1], straight, straight, block * stride, block * stride];
        let mut scratch = Scratch::take(lens.iter().map(|len| len.next_multiple_of(16)).sum());
        let mut rest = scratch.as_mut_slice();
        let right_transposed = student.pack(F32(simd), right, Order::ColumnRows, cut(&mut rest, lens[0])); // [head_dim, seq]
        let teacher_transposed = teacher.pack(F32(simd), right, Order::ColumnRows, cut(&mut rest, lens[1]));
        let (lefts, rights) = (cut(&mut rest, lens[2]), cut(&mut rest, lens[3]));
        let factors = d_qkv.map(|d_qkv| Factors {
            d_qkv,
            left: student.pack(F32(simd), left, Order::DepthRows, lefts), // [seq, head_dim]
            right: student.pack(F32(simd), right, Order::DepthRows, rights),
        });
        let scores = cut(&mut rest, lens[4]); // [block, seq]
        let teacher_scores = cut(&mut rest, lens[5]);
        let mut total = 0.0;
        for first in (0..seq).step_by(block) {
            let rows = first..seq.min(first + block);
            for (head, transposed, scores) in
                [(&student, right_transposed, &mut *scores), (&teacher, teacher_transposed, &mut *teacher_scores)]
            {
                let rows_of_left = Left::rows(&head.qkv[head.at(left, first)..], head.stride());
                multiply(F32(simd), rows.len(), rows_of_left, transposed, scores, stride);
            }
            let pairs = scores.chunks_exact_mut(stride).zip(teacher_scores.chunks_exact_mut(stride));
            for (scores, teacher_scores) in pairs.take(rows.len()) {
                total += self.row(simd, &mut scores[..seq], &mut teacher_scores[..seq]);
            }
            if let Some(factors) = &factors {
                // SAFETY: this head's part of the sequence's tokens lies inside `d_qkv`, and no other task writes it.
                unsafe { self.backward(simd, scores, factors, rows) };
            }
        }
        total
    }
}

/// The student's factors of the scores, packed, and where their gradient goes.
struct Factors<'a> {
    d_qkv: &'a SharedMut<'a, f32>,
    left: Panels<'a>,
    right: Panels<'a>,
}

impl RelationLoss<'_> {
    /// The loss of one row of products; the student's become the scaled gradient by them.
    #[inline(always)]
    fn row<S: Simd>(&self, simd: S, student: &mut [f32], teacher: &mut [f32]) -> f64 {
        let (by_student, by_teacher) = (simd.splat(self.student.scale), simd.splat(self.teacher.scale));
        let scale = f64::from(self.scale) * f64::from(self.student.scale);
        if self.loss == ScoreLoss::SquaredError {
            let mut total = 0.0;
            let by = simd.splat((2.0 * scale) as f32);
            for (student, teacher) in student.chunks_mut(SUM_BLOCK).zip(teacher.chunks(SUM_BLOCK)) {
                let mut sum = simd.splat(0.0);
                for (s, t) in student.chunks_mut(S::LANES).zip(teacher.chunks(S::LANES)) {
                    let count = s.len();
                    let difference = simd.sub(simd.mul(load(simd, s), by_student), simd.mul(load(simd, t), by_teacher));
                    sum = simd.add(sum, inside(simd, simd.mul(difference, difference), count));
                    store(simd, s, simd.mul(difference, by));
                }
                total += f64::from(simd.sum(sum));
            }
            return total;
        }
        let (student_top, teacher_top) = (simd.splat(largest(simd, student)), simd.splat(largest(simd, teacher)));
        // Σ e^a, Σ e^b, Σ e^a (a - b) with a and b the teacher's and the student's scores less their largest. Both go
        // through the same operations, so that equal rows give exactly 0.
        let mut totals = [0.0; 3];
        for (student, teacher) in student.chunks_mut(SUM_BLOCK).zip(teacher.chunks_mut(SUM_BLOCK)) {
            let mut sums = [simd.splat(0.0); 3];
            for (s, t) in student.chunks_mut(S::LANES).zip(teacher.chunks_mut(S::LANES)) {
                let count = s.len();
                let a = simd.mul(simd.sub(load(simd, t), teacher_top), by_teacher);
                let b = simd.mul(simd.sub(load(simd, s), student_top), by_student);
                let (e_a, e_b) = (math::exp(simd, a), math::exp(simd, b));
                for (sum, term) in sums.iter_mut().zip([e_a, e_b, simd.mul(e_a, simd.sub(a, b))]) {
                    *sum = simd.add(*sum, inside(simd, term, count));
                }
                store(simd, t, e_a);
                store(simd, s, e_b);
            }
            for (total, sum) in totals.iter_mut().zip(sums) {
                *total += f64::from(simd.sum(sum));
            }
        }
        let [teacher_total, student_total, weighted] = totals;
        // d kl / d s = softmax(s) - softmax(t). Two products and a difference, not a fused one: 0 where both agree.
        let by_student = simd.splat((scale / student_total) as f32);
        let by_teacher = simd.splat((scale / teacher_total) as f32);
        for (s, t) in student.chunks_mut(S::LANES).zip(teacher.chunks(S::LANES)) {
            let gradient = simd.sub(simd.mul(load(simd, s), by_student), simd.mul(load(simd, t), by_teacher));
            store(simd, s, gradient);
        }
        weighted / teacher_total + (student_total.ln() - teacher_total.ln())
    }

    /// Adds the gradients of the factors of some rows of scores.
    ///
    /// # Safety
    /// Nothing else may access this head's part of the sequence's tokens in `d_qkv` meanwhile.
    #[inline(always)]
    unsafe fn backward<S: Simd>(&self, simd: S, d_scores: &[f32], factors: &Factors<'_>, rows: Range<usize>) {
        let (head, (left, right)) = (&self.student, self.relation.parts());
        let Factors { d_qkv, left: lefts, right: rights } = factors;
        let stride = head.scores_stride();
        // Forward: S = L Rᵀ, so dL = dS R ...
        // SAFETY: these rows of the head's part lie inside `d_qkv`; the rest is the caller's promise.
        unsafe {
            let d_left = d_qkv.pointer(head.at(left, rows.start));
            let d_rows = Left::rows(d_scores, stride);
            multiply_into(F32(simd), rows.len(), d_rows, *rights, Start::Output, d_left, head.stride());
        }
        // ... and dR = dSᵀ L, summed over the blocks of rows.
        for index in 0..lefts.layout.panels(lefts.columns) {
            let panel = lefts.panel(index, rows.start, rows.len());
            let d_columns = Left::columns(d_scores, stride);
            // SAFETY: the panel's columns of the sequence's tokens lie inside `d_qkv`; the rest is the caller's promise.
            unsafe {
                let d_right = d_qkv.pointer(head.at(right, 0) + index * lefts.layout.width());
                multiply_panel(F32(simd), head.seq, d_columns, panel, Start::Output, d_right, head.stride(), ());
            }
        }
    }
}

/// The first `count` lanes, 0 in the others.
#[inline(always)]
fn inside<S: Simd>(simd: S, x: S::F32, count: usize) -> S::F32 {
    if count == S::LANES { x } else { first_lanes(simd, x, count, 0.0) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Isa;
    use crate::testing::{
        assert_close, assert_close_f64, finite_differences, numbers, on_every_isa, runtime, softmax_naive, wide,
    };

    const RELATIONS: [Relation; 4] = [Relation::Attention, Relation::Queries, Relation::Keys, Relation::Values];
    const LOSSES: [ScoreLoss; 2] = [ScoreLoss::Divergence, ScoreLoss::SquaredError];

    struct Case {
        relation: Relation,
        loss: ScoreLoss,
        heads: usize,
        /// Widths of a head.
        student: usize,
        teacher: usize,
        ends: Vec<u32>,
    }

    impl Case {
        fn tokens(&self) -> usize {
            self.ends[self.ends.len() - 1] as usize
        }

        fn student_qkv(&self) -> Vec<f32> {
            numbers(1, self.tokens() * 3 * self.heads * self.student)
        }

        fn teacher_qkv(&self) -> Vec<f32> {
            numbers(2, self.tokens() * 3 * self.heads * self.teacher)
        }

        fn run(&self, rt: &Runtime, scale: f32, d_qkv: Option<&mut [f32]>) -> f64 {
            let (student, teacher) = (self.student_qkv(), self.teacher_qkv());
            let side = |qkv, head_dim| Related { shape: AttentionShape { heads: self.heads, head_dim }, qkv };
            let (student, teacher) = (side(&student, self.student), side(&teacher, self.teacher));
            relation_loss(rt, self.relation, self.loss, student, teacher, &self.ends, scale, d_qkv)
        }

        /// Every row of scores of every head of every sequence.
        fn rows(&self, qkv: &[f64], head_dim: usize) -> Vec<Vec<f64>> {
            let hidden = self.heads * head_dim;
            let (left, right) = self.relation.parts();
            let part = |token: u32, head: usize, part: Part| {
                &qkv[token as usize * 3 * hidden + part as usize * hidden + head * head_dim..][..head_dim]
            };
            let mut rows = Vec::new();
            for ends in self.ends.windows(2) {
                for head in 0..self.heads {
                    for i in ends[0]..ends[1] {
                        let dot = |j: u32| {
                            let pairs = part(i, head, left).iter().zip(part(j, head, right));
                            pairs.map(|(l, r)| l * r).sum::<f64>() / (head_dim as f64).sqrt()
                        };
                        rows.push((ends[0]..ends[1]).map(dot).collect());
                    }
                }
            }
            rows
        }

        fn naive(&self, student_qkv: &[f64]) -> f64 {
            let student = self.rows(student_qkv, self.student);
            let teacher = self.rows(&wide(&self.teacher_qkv()), self.teacher);
            let row = |(s, t): (&Vec<f64>, &Vec<f64>)| -> f64 {
                match self.loss {
                    ScoreLoss::SquaredError => s.iter().zip(t).map(|(s, t)| (s - t) * (s - t)).sum(),
                    ScoreLoss::Divergence => {
                        softmax_naive(t).iter().zip(softmax_naive(s)).map(|(p, q)| p * (p / q).ln()).sum()
                    }
                }
            };
            student.iter().zip(&teacher).map(row).sum()
        }
    }

    fn cases(heads: usize, student: usize, teacher: usize, ends: &[u32]) -> impl Iterator<Item = Case> {
        RELATIONS.into_iter().flat_map(move |relation| {
            LOSSES.map(|loss| Case { relation, loss, heads, student, teacher, ends: ends.to_vec() })
        })
    }

    #[test]
    fn sums_equal_their_f64_twin_at_every_tail() {
        let ends = [0, 1, 8, 8, 25, 59, 161];
        let shapes = [(3, 5, 7), (1, 8, 3), (2, 16, 32), (4, 1, 2), (5, 33, 17)];
        for case in shapes.into_iter().flat_map(|(heads, student, teacher)| cases(heads, student, teacher, &ends)) {
            let expected = case.naive(&wide(&case.student_qkv()));
            on_every_isa(
                |rt| case.run(rt, 1.0, None),
                |isa, sum| assert_close_f64(sum, expected, 2e-6, format!("{isa} {:?} {:?}", case.relation, case.loss)),
            );
        }
    }

    #[test]
    fn gradients_equal_finite_differences_and_are_added() {
        for (heads, student, teacher, ends) in
            [(2, 3, 5, vec![0, 4, 5, 5, 12]), (1, 9, 2, vec![0, 19]), (1, 2, 2, vec![0, 70])]
        {
            for case in cases(heads, student, teacher, &ends) {
                let before = numbers(3, case.student_qkv().len());
                let slopes = finite_differences(&wide(&case.student_qkv()), |qkv| case.naive(qkv));
                let expected: Vec<f64> = slopes.iter().zip(wide(&before)).map(|(d, before)| 0.5 * d + before).collect();
                let run = |rt: &Runtime| {
                    let mut d_qkv = before.clone();
                    let sum = case.run(rt, 0.5, Some(&mut d_qkv));
                    assert_eq!(sum, case.run(rt, 0.5, None), "the sum does not depend on the gradient");
                    d_qkv
                };
                on_every_isa(run, |isa, d_qkv| {
                    // Measured: 4e-6 at most, of finite differences and f32 together.
                    assert_close(&d_qkv, &expected, 1e-5, format!("{isa} {:?} {:?}", case.relation, case.loss));
                });
            }
        }
    }

    #[test]
    fn a_student_that_equals_its_teacher_has_no_loss_and_no_gradient() {
        let qkv = numbers(4, 21 * 3 * 12);
        let side = Related { shape: AttentionShape { heads: 3, head_dim: 4 }, qkv: &qkv };
        for (relation, loss) in RELATIONS.into_iter().flat_map(|relation| LOSSES.map(|loss| (relation, loss))) {
            let run = |rt: &Runtime| {
                let mut d_qkv = vec![0.0; qkv.len()];
                (relation_loss(rt, relation, loss, side, side, &[0, 10, 21], 1.0, Some(&mut d_qkv)), d_qkv)
            };
            on_every_isa(run, |isa, (sum, d_qkv)| {
                assert_eq!(sum, 0.0, "{isa}");
                assert!(d_qkv.iter().all(|&d| d == 0.0), "{isa}");
            });
        }
    }

    #[test]
    fn a_sequence_has_the_same_gradient_alone_and_among_others() {
        let all = Case {
            relation: Relation::Attention,
            loss: ScoreLoss::Divergence,
            heads: 2,
            student: 6,
            teacher: 4,
            ends: vec![0, 11, 24, 30],
        };
        let (student, teacher) = (all.student_qkv(), all.teacher_qkv());
        let run = |rt: &Runtime, tokens: Range<usize>, ends: &[u32]| {
            let part =
                |qkv: &[f32], head_dim: usize| qkv[tokens.start * 6 * head_dim..tokens.end * 6 * head_dim].to_vec();
            let (student, teacher) = (part(&student, 6), part(&teacher, 4));
            let mut d_qkv = vec![0.0; student.len()];
            let side = |qkv, head_dim| Related { shape: AttentionShape { heads: 2, head_dim }, qkv };
            let (student, teacher) = (side(&student, 6), side(&teacher, 4));
            relation_loss(rt, all.relation, all.loss, student, teacher, ends, 1.0, Some(&mut d_qkv));
            d_qkv
        };
        on_every_isa(
            |rt| (run(rt, 0..30, &all.ends)[11 * 36..24 * 36].to_vec(), run(rt, 11..24, &[0, 13])),
            |isa, (among, alone)| assert_eq!(among, alone, "{isa}"),
        );
    }

    #[test]
    fn a_broken_number_is_not_hidden() {
        let case = cases(1, 4, 4, &[0, 5]).next().expect("a case");
        let (mut student, teacher) = (case.student_qkv(), case.teacher_qkv());
        student[3] = f32::NAN;
        let side = |qkv| Related { shape: AttentionShape { heads: 1, head_dim: 4 }, qkv };
        for (isa, loss) in Isa::available().flat_map(|isa| LOSSES.map(|loss| (isa, loss))) {
            let (student, teacher) = (side(&student), side(&teacher));
            let sum = relation_loss(&runtime(isa, 1), case.relation, loss, student, teacher, &case.ends, 1.0, None);
            assert!(sum.is_nan(), "{isa} {loss:?}: {sum}");
        }
    }

    #[test]
    #[should_panic(expected = "as many heads")]
    fn another_number_of_heads_is_refused() {
        let side = |heads| Related { shape: AttentionShape { heads, head_dim: 6 / heads }, qkv: &[0.0; 18] };
        let rt = runtime(Isa::Portable, 1);
        relation_loss(&rt, Relation::Keys, ScoreLoss::Divergence, side(2), side(3), &[0, 1], 1.0, None);
    }
}
