use super::*;
use crate::Isa;
use crate::losses::logit_losses;
use crate::testing::{
    assert_close, assert_close_f64, finite_differences, lengths, numbers, on_every_isa, runtime, softmax_naive, wide,
};

const LOSS: LogitLoss = LogitLoss { temperature: 2.0, kl_scale: 0.7, ce_scale: 0.4, mse_scale: 0.0 };

/// [`TopLogits`] with memory of its own.
#[derive(Debug, PartialEq)]
struct Known {
    classes: Vec<u32>,
    below_top: Vec<f32>,
    rest: Vec<f32>,
}

impl Known {
    fn of(rt: &Runtime, logits: &[f32], classes: usize, k: usize, temperature: f32) -> Known {
        let rows = logits.len() / classes;
        let mut known = Known { classes: vec![0; rows * k], below_top: vec![0.0; rows * k], rest: vec![0.0; rows] };
        let Known { classes: top, below_top, rest } = &mut known;
        top_logits(rt, &mut logits.to_vec(), classes, temperature, TopLogitsMut { classes: top, below_top, rest });
        known
    }

    fn view(&self) -> TopLogits<'_> {
        TopLogits { classes: &self.classes, below_top: &self.below_top, rest: &self.rest }
    }
}

/// By sorting: classes, logits less the largest, and the rest.
fn top_naive(row: &[f32], k: usize, temperature: f64) -> (Vec<u32>, Vec<f64>, f64) {
    let mut order: Vec<usize> = (0..row.len()).collect();
    order.sort_by(|&a, &b| row[b].total_cmp(&row[a]));
    let below = |class: &usize| f64::from(row[*class]) - f64::from(row[order[0]]);
    let rest: f64 = order[k..].iter().map(|class| (below(class) / temperature).exp()).sum();
    (order[..k].iter().map(|&class| class as u32).collect(), order[..k].iter().map(below).collect(), rest.ln())
}

#[test]
fn the_largest_logits_are_those_that_sorting_finds() {
    for classes in lengths().filter(|&classes| classes > 0).chain([30_523]) {
        // Rounded, so that some are equal: the first of them comes first. Sorting takes -0 for less than 0.
        let logits: Vec<f32> = numbers(4, 3 * classes).iter().map(|x| (40.0 * x).round() / 20.0 + 0.0).collect();
        for k in [1, 2, 8, 32].into_iter().filter(|&k| k <= classes).chain([classes.min(100)]) {
            on_every_isa(
                |rt| Known::of(rt, &logits, classes, k, 2.0),
                |isa, known| {
                    for (row, logits) in logits.chunks_exact(classes).enumerate() {
                        let what = format!("{k} of {classes}, {isa}");
                        let (top, below_top, rest) = top_naive(logits, k, 2.0);
                        assert_eq!(known.classes[row * k..][..k], top, "{what}");
                        assert_close(&known.below_top[row * k..][..k], &below_top, 1e-6, &what);
                        if k < classes {
                            assert_close_f64(f64::from(known.rest[row]), rest, 1e-6, &what);
                        } else {
                            assert_eq!(known.rest[row], f32::NEG_INFINITY, "{what}");
                        }
                    }
                },
            );
        }
    }
}

/// Loss terms of one row and the gradient of their weighted sum in f64, from the definition over k + 1 events.
fn row_naive(student: &[f64], known: (&[u32], &[f32], f32), target: Option<usize>) -> (LogitSums, Vec<f64>) {
    let [t, kl_scale, ce_scale] = [LOSS.temperature, LOSS.kl_scale, LOSS.ce_scale].map(f64::from);
    let soft = softmax_naive(&student.iter().map(|x| x / t).collect::<Vec<_>>());
    let is_known = |class: usize| known.0.contains(&(class as u32));
    let mut p: Vec<f64> = known.1.iter().map(|&below| (f64::from(below) / t).exp()).collect();
    p.push(f64::from(known.2).exp());
    let total: f64 = p.iter().sum();
    p.iter_mut().for_each(|p| *p /= total);
    let mut q: Vec<f64> = known.0.iter().map(|&class| soft[class as usize]).collect();
    q.push((0..soft.len()).filter(|&class| !is_known(class)).map(|class| soft[class]).sum());
    let (p_rest, q_rest) = (p[p.len() - 1], q[q.len() - 1]);
    let terms = p.iter().zip(&q).filter(|(p, _)| **p > 0.0).map(|(p, q)| p * (p / q).ln());
    let mut sums = LogitSums { kl: t * t * terms.sum::<f64>(), ..LogitSums::default() };
    let best = (0..student.len()).reduce(|a, b| if student[b] > student[a] { b } else { a });
    sums.agree = u64::from(best == Some(known.0[0] as usize));
    let mut gradient: Vec<f64> = (0..soft.len())
        .map(|class| match known.0.iter().position(|&known| known as usize == class) {
            Some(i) => kl_scale * t * (soft[class] - p[i]),
            None => kl_scale * t * soft[class] * (1.0 - p_rest / q_rest),
        })
        .collect();
    if let Some(target) = target {
        let hard = softmax_naive(student);
        sums.ce = -hard[target].ln();
        sums.ce_correct = u64::from(best == Some(target));
        for (class, gradient) in gradient.iter_mut().enumerate() {
            *gradient += ce_scale * (hard[class] - f64::from(u8::from(class == target)));
        }
    }
    (sums, gradient)
}

#[test]
fn losses_against_the_largest_logits_equal_their_f64_twin() {
    for classes in lengths().filter(|&classes| classes > 0).chain([30_523]) {
        let rows = if classes < 100 { 70 } else { 3 };
        let student: Vec<f32> = numbers(1, rows * classes).iter().map(|x| 2.0 * x).collect();
        let teacher: Vec<f32> = numbers(2, rows * classes).iter().map(|x| 2.0 * x).collect();
        let targets: Vec<i32> =
            (0..rows).map(|row| if row % 3 == 2 { -100 } else { (row * 7 % classes) as i32 }).collect();
        for k in [1, 8, 32].into_iter().filter(|&k| k <= classes) {
            let known = Known::of(&runtime(Isa::Portable, 1), &teacher, classes, k, LOSS.temperature);
            let (mut expected, mut expected_gradient) = (LogitSums::default(), Vec::new());
            for (row, student) in student.chunks_exact(classes).enumerate() {
                let of_row = row * k..(row + 1) * k;
                let of_row = (&known.classes[of_row.clone()], &known.below_top[of_row], known.rest[row]);
                let (sums, gradient) = row_naive(&wide(student), of_row, usize::try_from(targets[row]).ok());
                expected.kl += sums.kl;
                expected.ce += sums.ce;
                expected.ce_correct += sums.ce_correct;
                expected.agree += sums.agree;
                expected_gradient.extend(gradient);
            }
            on_every_isa(
                |rt| {
                    let mut gradient = student.clone();
                    (top_logit_losses(rt, &mut gradient, known.view(), Some(&targets), classes, &LOSS), gradient)
                },
                |isa, (sums, gradient)| {
                    let what = format!("{k} of {classes}, {isa}");
                    assert_close(&gradient, &expected_gradient, 5e-7, &what);
                    assert_close_f64(sums.kl, expected.kl, 1e-6, &what);
                    assert_close_f64(sums.ce, expected.ce, 1e-6, &what);
                    assert_eq!((sums.ce_correct, sums.agree), (expected.ce_correct, expected.agree), "{what}");
                },
            );
        }
    }
}

#[test]
fn the_gradient_is_that_of_finite_differences() {
    let (classes, k) = (13, 4);
    let rt = runtime(Isa::Portable, 1);
    let known = Known::of(&rt, &numbers(6, classes), classes, k, LOSS.temperature);
    let student = wide(&numbers(5, classes));
    let of_row = (&known.classes[..], &known.below_top[..], known.rest[0]);
    let total = |x: &[f64]| {
        let (sums, _) = row_naive(x, of_row, Some(3));
        f64::from(LOSS.kl_scale) * sums.kl + f64::from(LOSS.ce_scale) * sums.ce
    };
    let mut gradient: Vec<f32> = student.iter().map(|&x| x as f32).collect();
    top_logit_losses(&rt, &mut gradient, known.view(), Some(&[3]), classes, &LOSS);
    assert_close(&gradient, &finite_differences(&student, total), 1e-6, "gradient");
}

#[test]
fn knowing_every_logit_gives_the_losses_of_whole_rows() {
    let (rows, classes) = (5, 40);
    let (student, teacher) = (numbers(7, rows * classes), numbers(8, rows * classes));
    on_every_isa(
        |rt| {
            let known = Known::of(rt, &teacher, classes, classes, LOSS.temperature);
            let (mut gradient, mut whole) = (student.clone(), student.clone());
            let sums = top_logit_losses(rt, &mut gradient, known.view(), None, classes, &LOSS);
            (sums, gradient, logit_losses(rt, &mut whole, Some(&teacher), None, None, classes, &LOSS), whole)
        },
        |isa, (sums, gradient, expected, whole)| {
            assert_close_f64(sums.kl, expected.kl, 1e-6, isa);
            assert_eq!(sums.agree, expected.agree, "{isa}");
            assert_close(&gradient, &wide(&whole), 5e-7, isa);
        },
    );
}

#[test]
fn divergence_is_zero_for_equal_logits_and_never_above_that_of_whole_rows() {
    let (rows, classes) = (50, 300);
    let teacher: Vec<f32> = numbers(9, rows * classes).iter().map(|x| 3.0 * x).collect();
    let rt = runtime(Isa::detect(), 1);
    let mut student = teacher.clone();
    let known = Known::of(&rt, &teacher, classes, 8, LOSS.temperature);
    let sums = top_logit_losses(&rt, &mut student, known.view(), None, classes, &LOSS);
    assert!(sums.kl.abs() < 1e-4 && sums.agree == rows as u64, "{sums:?}");
    let other = numbers(10, rows * classes);
    let mut last = 0.0;
    for k in [1, 8, 64, classes] {
        let known = Known::of(&rt, &teacher, classes, k, LOSS.temperature);
        let kl = top_logit_losses(&rt, &mut other.clone(), known.view(), None, classes, &LOSS).kl;
        assert!(kl > last, "{k}: {kl} after {last}");
        last = kl;
    }
    let whole = logit_losses(&rt, &mut other.clone(), Some(&teacher), None, None, classes, &LOSS).kl;
    assert_close_f64(last, whole, 1e-6, "all");
}

#[test]
fn a_student_far_from_the_teachers_rest_has_finite_losses() {
    let rt = runtime(Isa::detect(), 1);
    let known = Known::of(&rt, &[0.0; 20], 20, 1, LOSS.temperature);
    let mut student = [-2000.0; 20];
    student[0] = 0.0;
    let sums = top_logit_losses(&rt, &mut student, known.view(), None, 20, &LOSS);
    assert!(sums.kl.is_finite() && student.iter().all(|x| x.is_finite()), "{sums:?} {student:?}");
}

#[test]
fn nan_in_a_row_makes_its_losses_nan() {
    let rt = runtime(Isa::detect(), 1);
    let mut logits = numbers(11, 100);
    logits[70] = f32::NAN;
    assert!(Known::of(&rt, &logits, 100, 3, 2.0).rest[0].is_nan());
    let known = Known::of(&rt, &numbers(12, 100), 100, 3, 2.0);
    assert!(top_logit_losses(&rt, &mut logits, known.view(), Some(&[1]), 100, &LOSS).kl.is_nan());
}

#[test]
#[should_panic(expected = "the squared error needs every logit")]
fn the_squared_error_is_refused() {
    let rt = runtime(Isa::Portable, 1);
    let known = Known::of(&rt, &[1.0, 2.0], 2, 1, 2.0);
    let loss = LogitLoss { mse_scale: 1.0, ..LOSS };
    top_logit_losses(&rt, &mut [1.0, 2.0], known.view(), None, 2, &loss);
}
