//! Divergence from a teacher of whom the largest logits of each row are known and what the others come to: what a teacher
//! said, in a few numbers a row.

use super::logits::{LogitLoss, LogitSums, Row, Teacher, arg_max, each_row, inside};
use crate::math;
use crate::rows::{SUM_BLOCK, largest, load, row_count, store};
use crate::runtime::{Runtime, SharedMut};
use crate::simd::{Kernel, Simd, dispatch};

/// What is known of a teacher's rows of logits.
#[derive(Clone, Copy, Debug)]
pub struct TopLogits<'a> {
    /// Classes of the largest logits, the largest first; `[rows, k]`.
    pub classes: &'a [u32],
    /// Those logits less the row's largest; `[rows, k]`.
    pub below_top: &'a [f32],
    /// `ln Σ e^((logit - largest) / T)` over the other classes, minus infinity if there are none; `[rows]`.
    pub rest: &'a [f32],
}

/// [`TopLogits`] to be filled.
#[derive(Debug)]
pub struct TopLogitsMut<'a> {
    /// As [`TopLogits::classes`].
    pub classes: &'a mut [u32],
    /// As [`TopLogits::below_top`].
    pub below_top: &'a mut [f32],
    /// As [`TopLogits::rest`].
    pub rest: &'a mut [f32],
}

/// Finds the largest logits of each row, of equal ones the first, and what the others come to at a temperature. `logits`
/// `[rows, classes]` are used up. A row that holds NaN gives NaN.
///
/// # Panics
/// If lengths disagree, no logit or more than there are is wanted, or the temperature is not above 0.
pub fn top_logits(rt: &Runtime, logits: &mut [f32], classes: usize, temperature: f32, top: TopLogitsMut) {
    let rows = row_count(logits.len(), classes);
    let TopLogitsMut { classes: top_classes, below_top, rest } = top;
    if rows == 0 {
        return;
    }
    let k = top_classes.len() / rows;
    assert!((1..=classes).contains(&k), "the largest {k} of {classes} logits");
    assert!(top_classes.len() == rows * k && below_top.len() == rows * k && rest.len() == rows, "{k} logits a row");
    assert!(temperature > 0.0 && temperature.is_finite(), "temperature {temperature}");
    let (top_classes, below_top, rest) = (SharedMut::new(top_classes), SharedMut::new(below_top), SharedMut::new(rest));
    rt.parallel_chunks_mut(logits, classes, |row, logits| {
        // SAFETY: tasks have disjoint rows.
        let (classes, below_top, rest) =
            unsafe { (top_classes.slice(row * k, k), below_top.slice(row * k, k), rest.slice(row, 1)) };
        rest[0] = dispatch(rt.isa(), Select { logits, temperature, classes, below_top });
    });
}

struct Select<'a> {
    logits: &'a mut [f32],
    temperature: f32,
    classes: &'a mut [u32],
    below_top: &'a mut [f32],
}

impl Kernel for Select<'_> {
    type Output = f32;
    #[inline(always)]
    fn run<S: Simd>(self, simd: S) -> f32 {
        /// Numbers that are passed over together if none of them is large enough.
        const STRIDE: usize = 64;
        let Select { logits, temperature, classes, below_top } = self;
        let k = classes.len();
        let mut found = 0;
        for (block, numbers) in logits.chunks(STRIDE).enumerate() {
            if found == k && largest(simd, numbers) <= below_top[k - 1] {
                continue;
            }
            for (i, &x) in numbers.iter().enumerate() {
                if found == k && (x <= below_top[k - 1] || x.is_nan()) {
                    continue;
                }
                // Behind those that are as large, before the smaller ones.
                let at = below_top[..found].partition_point(|&other| other >= x);
                found = (found + 1).min(k);
                below_top[at..found].rotate_right(1);
                classes[at..found].rotate_right(1);
                (below_top[at], classes[at]) = (x, (block * STRIDE + i) as u32);
            }
        }
        let top = below_top[0];
        for (below_top, &class) in below_top.iter_mut().zip(&*classes) {
            *below_top -= top;
            logits[class as usize] = f32::NEG_INFINITY;
        }
        let inverse = simd.splat((1.0 / f64::from(temperature)) as f32);
        let mut total = 0.0;
        for block in logits.chunks(SUM_BLOCK) {
            let mut sum = simd.splat(0.0);
            for x in block.chunks(S::LANES) {
                let below = simd.mul(simd.sub(load(simd, x), simd.splat(top)), inverse);
                sum = simd.add(sum, inside(simd, math::exp(simd, below), x.len()));
            }
            total += f64::from(simd.sum(sum));
        }
        total.ln() as f32
    }
}

/// As [`super::logit_losses`] for a teacher of whom this much is known. Its divergence is that of the distributions over
/// `k + 1` events, the known classes and any of the others, at the temperature that `teacher` was made for: 0 if these
/// agree, and never above the divergence of the whole rows. It says nothing of how the others share their mass, and its
/// gradient moves them together.
///
/// # Panics
/// As [`super::logit_losses`], or if a known class is none, or the squared error has a weight: it needs every logit.
pub fn top_logit_losses(
    rt: &Runtime,
    student: &mut [f32],
    teacher: TopLogits,
    targets: Option<&[i32]>,
    classes: usize,
    loss: &LogitLoss,
) -> LogitSums {
    let rows = row_count(student.len(), classes);
    let k = teacher.classes.len().checked_div(rows).unwrap_or(0);
    assert!(teacher.classes.len() == rows * k && teacher.below_top.len() == rows * k, "{k} logits a row");
    assert_eq!(teacher.rest.len(), rows, "what the others come to in each row");
    assert!(teacher.classes.iter().all(|&class| (class as usize) < classes), "classes below {classes}");
    assert!(loss.mse_scale == 0.0, "the squared error needs every logit");
    each_row(rt, student, targets, classes, loss, |row| {
        let known = row * k..(row + 1) * k;
        Teacher::Top(Top {
            classes: &teacher.classes[known.clone()],
            below_top: &teacher.below_top[known],
            rest: teacher.rest[row],
        })
    })
}

/// One row of [`TopLogits`].
#[derive(Clone, Copy)]
pub(super) struct Top<'a> {
    classes: &'a [u32],
    below_top: &'a [f32],
    rest: f32,
}

impl Row<'_> {
    #[inline(always)]
    pub(super) fn with_top<S: Simd>(self, simd: S, teacher: Top) -> LogitSums {
        let Row { student, target, loss, scratch, .. } = self;
        let (student_max, student_best) = arg_max(simd, student);
        let target_logit = target.map(|target| student[target]);
        let temperature = f64::from(loss.temperature);
        // The known classes by themselves, in f64; where they stand the others' sums find e^-inf.
        scratch.known.clear();
        for &class in teacher.classes {
            scratch
                .known
                .push(f64::from(std::mem::replace(&mut student[class as usize], f32::NEG_INFINITY) - student_max));
        }
        scratch.hard.resize(if target.is_some() { student.len() } else { 0 }, 0.0);
        let (top, inverse) = (simd.splat(student_max), simd.splat((1.0 / temperature) as f32));
        let (mut rest, mut hard_total) = (0.0, 0.0);
        for start in (0..student.len()).step_by(SUM_BLOCK) {
            let mut sums = [simd.splat(0.0); 2];
            for at in (start..student.len().min(start + SUM_BLOCK)).step_by(S::LANES) {
                let count = S::LANES.min(student.len() - at);
                let below = simd.sub(load(simd, &student[at..]), top);
                let soft = math::exp(simd, simd.mul(below, inverse));
                store(simd, &mut student[at..], soft);
                sums[0] = simd.add(sums[0], inside(simd, soft, count));
                if target.is_some() {
                    let hard = math::exp(simd, below);
                    store(simd, &mut scratch.hard[at..], hard);
                    sums[1] = simd.add(sums[1], inside(simd, hard, count));
                }
            }
            rest += f64::from(simd.sum(sums[0]));
            hard_total += f64::from(simd.sum(sums[1]));
        }

        // Known events: logits over T less the largest, of the teacher (a) and the student (b); then the event of any
        // other class.
        let known = || teacher.below_top.iter().zip(&scratch.known).map(|(&a, &b)| (f64::from(a) / temperature, b));
        let (teacher_rest, student_rest) = (f64::from(teacher.rest), rest.max(f64::MIN_POSITIVE).ln());
        let teacher_log = (known().map(|(a, _)| a.exp()).sum::<f64>() + teacher_rest.exp()).ln();
        let student_log = (known().map(|(_, b)| (b / temperature).exp()).sum::<f64>() + rest).ln();
        hard_total += known().map(|(_, b)| b.exp()).sum::<f64>();
        let divergence =
            |log_p: f64, log_q: f64| if log_p == f64::NEG_INFINITY { 0.0 } else { log_p.exp() * (log_p - log_q) };
        let kl = known().map(|(a, b)| divergence(a - teacher_log, b / temperature - student_log)).sum::<f64>()
            + divergence(teacher_rest - teacher_log, student_rest - student_log);

        // d (T² kl) / d s = T (q - p) for a known class and T q (1 - p_rest / q_rest) for another.
        let soft_scale = f64::from(loss.kl_scale) * temperature;
        let hard_scale = if target.is_some() { f64::from(loss.ce_scale) / hard_total } else { 0.0 };
        let of_rest = (-student_log).exp() - (teacher_rest - teacher_log - student_rest).exp();
        let of_rest = simd.splat(if rest > 0.0 { (soft_scale * of_rest) as f32 } else { 0.0 });
        for at in (0..student.len()).step_by(S::LANES) {
            let mut gradient = simd.mul(load(simd, &student[at..]), of_rest);
            if target.is_some() {
                gradient = simd.mul_add(load(simd, &scratch.hard[at..]), simd.splat(hard_scale as f32), gradient);
            }
            store(simd, &mut student[at..], gradient);
        }
        for (&class, (a, b)) in teacher.classes.iter().zip(known()) {
            let soft = (b / temperature - student_log).exp() - (a - teacher_log).exp();
            student[class as usize] = (soft_scale * soft + hard_scale * b.exp()) as f32;
        }
        if let Some(target) = target {
            student[target] -= loss.ce_scale;
        }
        LogitSums {
            kl: temperature * temperature * kl,
            ce: target_logit.map_or(0.0, |logit| hard_total.ln() - f64::from(logit - student_max)),
            mse: 0.0,
            ce_correct: u64::from(target.is_some() && student_best == target),
            agree: u64::from(
                student_best.is_some() && student_best == teacher.classes.first().map(|&class| class as usize),
            ),
        }
    }
}

#[cfg(test)]
mod tests;
