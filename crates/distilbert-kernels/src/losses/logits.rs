//! Divergence from the teacher, cross entropy with the targets, and squared error, over rows of logits as long as the
//! vocabulary, in one visit to each row.

use super::top_logits::Top;
use crate::math;
use crate::rows::{BLOCK_ROWS, SUM_BLOCK, TASK_NUMBERS, first_lanes, largest, load, row_count, store};
use crate::runtime::{Runtime, SharedMut};
use crate::simd::{Kernel, Simd, dispatch};

/// The target of a row that has none.
const IGNORED: i32 = -100;

/// What the gradient of [`logit_losses`] is made of.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LogitLoss {
    /// Temperature of both models in the divergence; above 0.
    pub temperature: f32,
    /// Weight of [`LogitSums::kl`] in the gradient.
    pub kl_scale: f32,
    /// Weight of [`LogitSums::ce`] in the gradient.
    pub ce_scale: f32,
    /// Weight of [`LogitSums::mse`] in the gradient.
    pub mse_scale: f32,
}

/// Sums over rows, unscaled.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct LogitSums {
    /// `T² Σ KL(softmax(teacher / T) ‖ softmax(student / T))` over kept rows, in nats.
    pub kl: f64,
    /// `Σ -ln softmax(student)[target]` over rows with a target, in nats.
    pub ce: f64,
    /// `Σ ‖student - teacher‖²` over kept rows.
    pub mse: f64,
    /// Rows with a target whose largest logit is the target's.
    pub ce_correct: u64,
    /// Kept rows where student and teacher have their largest logit at one class.
    pub agree: u64,
}

/// The losses of a student's logits; they become the gradient of `kl_scale kl + ce_scale ce + mse_scale mse`.
///
/// Without a teacher only the cross entropy remains. A row that is neither kept nor has a target gets a zero gradient.
/// A NaN or infinite logit makes its row's losses NaN or infinite.
///
/// # Shapes
/// `student`, `teacher`: `[rows, classes]`; `targets`: `[rows]`, -100 for none; `keep`: `[rows]`, `true` for rows in
/// `kl` and `mse`, `None` for all
/// # Panics
/// If the lengths disagree, a target is no class, or the temperature is not above 0.
/// # Source
/// Hinton, Vinyals, Dean 2015 (arXiv:1503.02531), section 2.
pub fn logit_losses(
    rt: &Runtime,
    student: &mut [f32],
    teacher: Option<&[f32]>,
    targets: Option<&[i32]>,
    keep: Option<&[bool]>,
    classes: usize,
    loss: &LogitLoss,
) -> LogitSums {
    let rows = row_count(student.len(), classes);
    assert!(
        teacher.is_none_or(|teacher| teacher.len() == student.len()),
        "a teacher's logit for each of the student's"
    );
    assert!(keep.is_none_or(|keep| keep.len() == rows), "one choice a row");
    each_row(rt, student, targets, classes, loss, |row| match teacher {
        Some(teacher) if keep.is_none_or(|keep| keep[row]) => Teacher::Whole(&teacher[row * classes..][..classes]),
        _ => Teacher::None,
    })
}

/// The losses of each row against what `teacher` says of it, added up.
pub(super) fn each_row<'t>(
    rt: &Runtime,
    student: &mut [f32],
    targets: Option<&[i32]>,
    classes: usize,
    loss: &LogitLoss,
    teacher: impl Fn(usize) -> Teacher<'t> + Sync,
) -> LogitSums {
    let rows = row_count(student.len(), classes);
    assert!(targets.is_none_or(|targets| targets.len() == rows), "one target a row");
    assert!(loss.temperature > 0.0 && loss.temperature.is_finite(), "temperature {}", loss.temperature);

    let mut sums = vec![LogitSums::default(); rows];
    let row_sums = SharedMut::new(&mut sums);
    // Some rows share a task, since each task has its own scratch.
    let task_rows = (32 * TASK_NUMBERS / classes.max(1)).max(1);
    rt.parallel_chunks_mut(student, (task_rows * classes).max(1), |task, student| {
        let first = task * task_rows;
        // SAFETY: tasks have disjoint rows.
        let sums = unsafe { row_sums.slice(first, student.len() / classes) };
        let mut scratch = Scratch::default();
        for (i, (student, sums)) in student.chunks_exact_mut(classes).zip(sums).enumerate() {
            let row = first + i;
            let target = targets.and_then(|targets| class(targets[row], classes));
            let row = Row { student, teacher: teacher(row), target, loss, scratch: &mut scratch };
            *sums = dispatch(rt.isa(), row);
        }
    });
    let add = |total: LogitSums, sums: &LogitSums| LogitSums {
        kl: total.kl + sums.kl,
        ce: total.ce + sums.ce,
        mse: total.mse + sums.mse,
        ce_correct: total.ce_correct + sums.ce_correct,
        agree: total.agree + sums.agree,
    };
    let blocks = sums.chunks(BLOCK_ROWS).map(|block| block.iter().fold(LogitSums::default(), add));
    blocks.fold(LogitSums::default(), |total, block| add(total, &block))
}

fn class(target: i32, classes: usize) -> Option<usize> {
    let class = usize::try_from(target).ok().filter(|&class| class < classes);
    assert!(class.is_some() || target == IGNORED, "target {target} of {classes} classes");
    class
}

/// Rows as long as the student's, kept from one pass to the next: reading them back is cheaper than `exp` again.
#[derive(Default)]
pub(super) struct Scratch {
    /// `e^((teacher - max) / T)`
    teacher: Vec<f32>,
    /// `e^(student - max)`
    pub(super) hard: Vec<f32>,
    /// `student - teacher`
    difference: Vec<f32>,
    /// The student's logits of the classes that the teacher is known at, less its largest.
    pub(super) known: Vec<f64>,
}

/// What is known of a teacher's row.
pub(super) enum Teacher<'a> {
    /// Nothing, or it does not count.
    None,
    /// Every logit.
    Whole(&'a [f32]),
    /// The largest.
    Top(Top<'a>),
}

pub(super) struct Row<'a> {
    pub(super) student: &'a mut [f32],
    teacher: Teacher<'a>,
    pub(super) target: Option<usize>,
    pub(super) loss: &'a LogitLoss,
    pub(super) scratch: &'a mut Scratch,
}

impl Kernel for Row<'_> {
    type Output = LogitSums;
    #[inline(always)]
    fn run<S: Simd>(self, simd: S) -> LogitSums {
        match (&self.teacher, self.target) {
            (Teacher::None, None) => {
                self.student.fill(0.0);
                LogitSums::default()
            }
            (Teacher::None, Some(target)) => self.target_only(simd, target),
            (&Teacher::Whole(teacher), _) => self.with_teacher(simd, teacher),
            (&Teacher::Top(teacher), _) => self.with_top(simd, teacher),
        }
    }
}

impl Row<'_> {
    #[inline(always)]
    fn target_only<S: Simd>(self, simd: S, target: usize) -> LogitSums {
        let student = self.student;
        let (max, best) = arg_max(simd, student);
        let target_logit = student[target];
        let mut total = 0.0;
        for student in student.chunks_mut(SUM_BLOCK) {
            let mut sum = simd.splat(0.0);
            for student in student.chunks_mut(S::LANES) {
                let count = student.len();
                let e = math::exp(simd, simd.sub(load(simd, student), simd.splat(max)));
                sum = simd.add(sum, inside(simd, e, count));
                store(simd, student, e);
            }
            total += f64::from(simd.sum(sum));
        }
        let scale = simd.splat((f64::from(self.loss.ce_scale) / total) as f32);
        for student in student.chunks_mut(S::LANES) {
            store(simd, student, simd.mul(load(simd, student), scale));
        }
        student[target] -= self.loss.ce_scale;
        LogitSums {
            ce: total.ln() - f64::from(target_logit - max),
            ce_correct: u64::from(best == Some(target)),
            ..LogitSums::default()
        }
    }

    #[inline(always)]
    fn with_teacher<S: Simd>(self, simd: S, teacher: &[f32]) -> LogitSums {
        let Row { student, target, loss, scratch, .. } = self;
        let (student_max, student_best) = arg_max(simd, student);
        let (teacher_max, teacher_best) = arg_max(simd, teacher);
        let target_logit = target.map(|target| student[target]);
        let soft_is_hard = loss.temperature == 1.0;
        let needs_hard = target.is_some() && !soft_is_hard;
        let needs_difference = loss.mse_scale != 0.0;
        scratch.teacher.resize(student.len(), 0.0);
        scratch.hard.resize(if needs_hard { student.len() } else { 0 }, 0.0);
        scratch.difference.resize(if needs_difference { student.len() } else { 0 }, 0.0);

        let temperature = f64::from(loss.temperature);
        let inverse = simd.splat((1.0 / temperature) as f32);
        let (student_top, teacher_top) = (simd.splat(student_max), simd.splat(teacher_max));
        // Σ e^a, Σ e^b, Σ e^a (a - b), Σ e^(b T), Σ (s - t)² with a and b the teacher's and the student's logits less
        // their maxima, over T. Student and teacher go through the same operations, so that equal rows give exactly 0.
        let mut totals = [0.0; 5];
        for start in (0..student.len()).step_by(SUM_BLOCK) {
            let mut sums = [simd.splat(0.0); 5];
            for at in (start..student.len().min(start + SUM_BLOCK)).step_by(S::LANES) {
                let count = S::LANES.min(student.len() - at);
                let (s, t) = (load(simd, &student[at..]), load(simd, &teacher[at..]));
                let (s_below, t_below) = (simd.sub(s, student_top), simd.sub(t, teacher_top));
                let (a, b) = (simd.mul(t_below, inverse), simd.mul(s_below, inverse));
                let (e_a, e_b) = (math::exp(simd, a), math::exp(simd, b));
                let difference = simd.sub(s, t);
                store(simd, &mut scratch.teacher[at..], e_a);
                store(simd, &mut student[at..], e_b);
                let mut hard = e_b;
                if needs_hard {
                    hard = math::exp(simd, s_below);
                    store(simd, &mut scratch.hard[at..], hard);
                }
                if needs_difference {
                    store(simd, &mut scratch.difference[at..], difference);
                }
                let terms = [e_a, e_b, simd.mul(e_a, simd.sub(a, b)), hard, simd.mul(difference, difference)];
                for (sum, term) in sums.iter_mut().zip(terms) {
                    *sum = simd.add(*sum, inside(simd, term, count));
                }
            }
            for (total, sum) in totals.iter_mut().zip(sums) {
                *total += f64::from(simd.sum(sum));
            }
        }
        let [teacher_total, student_total, weighted, hard_total, mse] = totals;

        // d (T² kl) / d s = T (softmax(s / T) - softmax(t / T)); d ce / d s = softmax(s) - onehot(target);
        // d mse / d s = 2 (s - t).
        let soft_scale = f64::from(loss.kl_scale) * temperature;
        let student_scale = simd.splat((soft_scale / student_total) as f32);
        let teacher_scale = simd.splat((soft_scale / teacher_total) as f32);
        let hard_scale = simd.splat(target.map_or(0.0, |_| f64::from(loss.ce_scale) / hard_total) as f32);
        let difference_scale = simd.splat(2.0 * loss.mse_scale);
        for at in (0..student.len()).step_by(S::LANES) {
            let e_b = load(simd, &student[at..]);
            // Two products and a difference, not a fused one: 0 where student and teacher agree.
            let soft_teacher = simd.mul(load(simd, &scratch.teacher[at..]), teacher_scale);
            let mut gradient = simd.sub(simd.mul(e_b, student_scale), soft_teacher);
            if target.is_some() {
                let hard = if needs_hard { load(simd, &scratch.hard[at..]) } else { e_b };
                gradient = simd.mul_add(hard, hard_scale, gradient);
            }
            if needs_difference {
                gradient = simd.mul_add(load(simd, &scratch.difference[at..]), difference_scale, gradient);
            }
            store(simd, &mut student[at..], gradient);
        }
        if let Some(target) = target {
            student[target] -= loss.ce_scale;
        }
        LogitSums {
            kl: temperature * temperature * (weighted / teacher_total + (student_total.ln() - teacher_total.ln())),
            ce: target_logit.map_or(0.0, |logit| hard_total.ln() - f64::from(logit - student_max)),
            mse,
            ce_correct: u64::from(target.is_some() && student_best == target),
            agree: u64::from(student_best.is_some() && student_best == teacher_best),
        }
    }
}

/// The largest number and the first place of it; no place if there is none but NaN.
#[inline(always)]
pub(super) fn arg_max<S: Simd>(simd: S, row: &[f32]) -> (f32, Option<usize>) {
    let (mut max, mut at) = (f32::NEG_INFINITY, 0);
    for (i, block) in row.chunks(SUM_BLOCK).enumerate() {
        let block_max = largest(simd, block);
        if block_max > max {
            (max, at) = (block_max, i * SUM_BLOCK);
        }
    }
    (max, row[at..].iter().position(|&x| x == max).map(|i| at + i))
}

/// The first `count` lanes, 0 in the others.
#[inline(always)]
pub(super) fn inside<S: Simd>(simd: S, x: S::F32, count: usize) -> S::F32 {
    if count == S::LANES { x } else { first_lanes(simd, x, count, 0.0) }
}
