use super::*;
use crate::Isa;
use crate::testing::{
    assert_close, assert_close_f64, finite_differences, lengths, numbers, on_every_isa, runtime, softmax_naive, wide,
};

const LOSS: LogitLoss = LogitLoss { temperature: 2.0, kl_scale: 0.7, ce_scale: 0.4, mse_scale: 0.05 };

/// A batch of rows and what [`logit_losses`] is told of them.
#[derive(Clone)]
struct Case {
    classes: usize,
    student: Vec<f32>,
    teacher: Option<Vec<f32>>,
    targets: Option<Vec<i32>>,
    keep: Option<Vec<bool>>,
    loss: LogitLoss,
}

impl Case {
    /// Rows of every kind: kept or not, with a target or not.
    fn new(rows: usize, classes: usize) -> Case {
        let target = |row: usize| if row % 3 == 2 { -100 } else { (row * 7 % classes.max(1)) as i32 };
        Case {
            classes,
            student: numbers(1, rows * classes).iter().map(|x| 2.0 * x).collect(),
            teacher: Some(numbers(2, rows * classes).iter().map(|x| 2.0 * x).collect()),
            targets: Some((0..rows).map(target).collect()),
            keep: Some((0..rows).map(|row| row % 5 != 0).collect()),
            loss: LOSS,
        }
    }

    fn run(&self, rt: &Runtime) -> (LogitSums, Vec<f32>) {
        let mut gradient = self.student.clone();
        let (teacher, targets, keep) = (self.teacher.as_deref(), self.targets.as_deref(), self.keep.as_deref());
        let sums = logit_losses(rt, &mut gradient, teacher, targets, keep, self.classes, &self.loss);
        (sums, gradient)
    }

    /// The sums and the gradient in f64, from the definitions.
    fn naive(&self) -> (LogitSums, Vec<f64>) {
        let (mut sums, mut gradient) = (LogitSums::default(), Vec::new());
        for row in 0..self.student.len() / self.classes.max(1) {
            let (row_sums, row_gradient) = self.naive_row(row, &wide(self.row(&self.student, row)));
            sums.kl += row_sums.kl;
            sums.ce += row_sums.ce;
            sums.mse += row_sums.mse;
            sums.ce_correct += row_sums.ce_correct;
            sums.agree += row_sums.agree;
            gradient.extend(row_gradient);
        }
        (sums, gradient)
    }

    fn row<'a>(&self, x: &'a [f32], row: usize) -> &'a [f32] {
        &x[row * self.classes..][..self.classes]
    }

    fn naive_row(&self, row: usize, student: &[f64]) -> (LogitSums, Vec<f64>) {
        let [t, kl_scale, ce_scale, mse_scale] =
            [self.loss.temperature, self.loss.kl_scale, self.loss.ce_scale, self.loss.mse_scale].map(f64::from);
        let best = |x: &[f64]| (0..x.len()).reduce(|a, b| if x[b] > x[a] { b } else { a });
        let over_t = |x: &[f64]| softmax_naive(&x.iter().map(|x| x / t).collect::<Vec<_>>());
        let (mut sums, mut gradient) = (LogitSums::default(), vec![0.0; student.len()]);
        if let Some(teacher) = self.teacher.as_ref().filter(|_| self.keep.as_ref().is_none_or(|keep| keep[row])) {
            let teacher = wide(self.row(teacher, row));
            let (p, q) = (over_t(&teacher), over_t(student));
            sums.kl = t * t * p.iter().zip(&q).map(|(p, q)| p * (p / q).ln()).sum::<f64>();
            sums.mse = student.iter().zip(&teacher).map(|(s, t)| (s - t) * (s - t)).sum();
            sums.agree = u64::from(best(student) == best(&teacher));
            for i in 0..student.len() {
                gradient[i] += kl_scale * t * (q[i] - p[i]) + mse_scale * 2.0 * (student[i] - teacher[i]);
            }
        }
        if let Some(target) = self.targets.as_ref().and_then(|targets| usize::try_from(targets[row]).ok()) {
            let q = softmax_naive(student);
            sums.ce = -q[target].ln();
            sums.ce_correct = u64::from(best(student) == Some(target));
            for i in 0..student.len() {
                gradient[i] += ce_scale * (q[i] - f64::from(u8::from(i == target)));
            }
        }
        (sums, gradient)
    }

    fn check(&self, what: &str) {
        let (expected, expected_gradient) = self.naive();
        on_every_isa(
            |rt| self.run(rt),
            |isa, (sums, gradient)| {
                let what = format!("{what}, {} classes, {isa}", self.classes);
                assert_close(&gradient, &expected_gradient, 5e-7, &what);
                for (found, expected) in [(sums.kl, expected.kl), (sums.ce, expected.ce), (sums.mse, expected.mse)] {
                    assert_close_f64(found, expected, 1e-6, &what);
                }
                assert_eq!((sums.ce_correct, sums.agree), (expected.ce_correct, expected.agree), "{what}");
            },
        );
    }
}

#[test]
fn logit_losses_equal_their_f64_twin_at_every_length() {
    for classes in lengths().filter(|&classes| classes > 0) {
        Case::new(7, classes).check("all terms");
    }
}

#[test]
fn logit_losses_equal_their_f64_twin_over_a_vocabulary_and_over_blocks_of_rows() {
    Case::new(3, 30_523).check("vocabulary");
    Case::new(300, 9).check("blocks");
    Case::new(20, 33_000).check("several tasks");
}

#[test]
fn every_combination_of_terms_equals_its_f64_twin() {
    for temperature in [1.0, 0.5, 4.0] {
        for mse_scale in [0.0, 0.3] {
            for without in 0..8 {
                let mut case = Case::new(9, 21);
                case.loss = LogitLoss { temperature, mse_scale, ..LOSS };
                if without & 1 != 0 {
                    case.teacher = None;
                }
                if without & 2 != 0 {
                    case.targets = None;
                }
                if without & 4 != 0 {
                    case.keep = None;
                }
                case.check(&format!("T {temperature}, mse {mse_scale}, without {without}"));
            }
        }
    }
}

#[test]
fn the_gradient_equals_finite_differences() {
    let case = Case::new(10, 13);
    for row in 0..10 {
        let (_, gradient) = case.naive_row(row, &wide(case.row(&case.student, row)));
        let objective = |student: &[f64]| {
            let (sums, _) = case.naive_row(row, student);
            let [kl, ce, mse] = [LOSS.kl_scale, LOSS.ce_scale, LOSS.mse_scale].map(f64::from);
            kl * sums.kl + ce * sums.ce + mse * sums.mse
        };
        let slopes = finite_differences(&wide(case.row(&case.student, row)), objective);
        for (gradient, slope) in gradient.iter().zip(slopes) {
            assert!((gradient - slope).abs() < 1e-7, "row {row}: {gradient} {slope}");
        }
    }
}

#[test]
fn kl_is_zero_when_student_equals_teacher() {
    for classes in [1, 5, 33, 30_523] {
        let mut case = Case::new(4, classes);
        case.teacher = Some(case.student.clone());
        (case.targets, case.keep) = (None, None);
        on_every_isa(
            |rt| case.run(rt),
            |isa, (sums, gradient)| {
                assert_eq!((sums.kl, sums.mse, sums.agree), (0.0, 0.0, 4), "{isa}");
                assert!(gradient.iter().all(|&x| x == 0.0), "{isa}");
            },
        );
    }
}

#[test]
fn kl_keeps_its_precision_when_student_nears_teacher() {
    let mut case = Case::new(8, 30_523);
    let near = case.student.iter().zip(numbers(3, case.student.len())).map(|(s, noise)| s + 0.01 * noise);
    case.teacher = Some(near.collect());
    (case.targets, case.keep) = (None, None);
    let (expected, _) = case.naive();
    on_every_isa(
        |rt| case.run(rt).0.kl,
        |isa, kl| assert!((kl - expected.kl).abs() < 2e-6, "{isa}: {kl}, expected {}", expected.kl),
    );
}

#[test]
fn a_common_shift_of_the_logits_changes_nothing_but_the_squared_error() {
    let case = Case { loss: LogitLoss { mse_scale: 0.0, ..LOSS }, ..Case::new(5, 40) };
    let student = case.student.iter().map(|x| x + 512.0).collect();
    let shifted = Case { student, ..case.clone() };
    let ((expected, _), (found, _)) = (case.naive(), shifted.run(&runtime(Isa::detect(), 1)));
    assert_close_f64(found.kl, expected.kl, 1e-4, "kl");
    assert_close_f64(found.ce, expected.ce, 1e-4, "ce");
}

#[test]
fn a_row_has_the_same_gradient_alone_and_among_others() {
    let all = Case::new(300, 37);
    let run = |rt: &Runtime| {
        let (_, gradient) = all.run(rt);
        let first_rows = |count: usize| {
            let rows = 4..4 + count;
            let part = Case {
                student: all.student[rows.start * 37..rows.end * 37].to_vec(),
                teacher: all.teacher.as_ref().map(|x| x[rows.start * 37..rows.end * 37].to_vec()),
                targets: all.targets.as_ref().map(|x| x[rows.clone()].to_vec()),
                keep: all.keep.as_ref().map(|x| x[rows.clone()].to_vec()),
                ..all.clone()
            };
            part.run(rt).1
        };
        [gradient[4 * 37..11 * 37].to_vec(), first_rows(7), first_rows(1)]
    };
    on_every_isa(run, |isa, [all, seven, one]| {
        assert_eq!(all, seven, "{isa}");
        assert_eq!(all[..37], one, "{isa}");
    });
}

#[test]
fn broken_logits_give_nan_and_leave_other_rows_alone() {
    for broken in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let classes = 20;
        let mut case = Case::new(3, classes);
        (case.targets, case.keep) = (Some(vec![1; 3]), None);
        case.student[classes..2 * classes].fill(broken);
        for isa in Isa::available() {
            let (sums, gradient) = case.run(&runtime(isa, 1));
            assert!(sums.kl.is_nan() && sums.ce.is_nan(), "{isa}, {broken}: {sums:?}");
            assert!(gradient[classes..2 * classes].iter().all(|x| x.is_nan()), "{isa}, {broken}");
            assert!(gradient[..classes].iter().all(|x| x.is_finite()), "{isa}, {broken}");
        }
    }
}

#[test]
fn a_single_nan_is_not_hidden() {
    let mut case = Case::new(1, 33);
    (case.targets, case.keep) = (Some(vec![0]), None);
    case.student[32] = f32::NAN;
    on_every_isa(
        |rt| {
            [
                case.run(rt).0.kl.is_nan(),
                case.run(rt).0.ce.is_nan(),
                Case { teacher: None, ..case.clone() }.run(rt).0.ce.is_nan(),
            ]
        },
        |isa, found| assert_eq!(found, [true; 3], "{isa}"),
    );
}

#[test]
fn classes_may_be_forbidden_by_minus_infinity_in_the_cross_entropy() {
    let mut logits = [1.0, f32::NEG_INFINITY, 2.0];
    let sums = logit_losses(&runtime(Isa::detect(), 1), &mut logits, None, Some(&[2]), None, 3, &LOSS);
    assert_close_f64(sums.ce, (1.0 + (-1.0f64).exp()).ln(), 1e-6, "ce");
    assert_eq!(logits[1], 0.0);
}

#[test]
fn of_equal_largest_logits_the_first_counts() {
    let mut logits = vec![0.0; 2 * 3000];
    for at in [70, 75, 2900, 3070, 3075, 5900] {
        logits[at] = 1.0;
    }
    let run = |rt: &Runtime| logit_losses(rt, &mut logits.clone(), Some(&logits), Some(&[70, 70]), None, 3000, &LOSS);
    on_every_isa(run, |isa, sums| assert_eq!((sums.ce_correct, sums.agree), (2, 2), "{isa}"));
}

#[test]
#[should_panic(expected = "target 5 of 5 classes")]
fn a_target_that_is_no_class_is_refused() {
    logit_losses(&runtime(Isa::Portable, 1), &mut [0.0; 5], None, Some(&[5]), None, 5, &LOSS);
}

fn cosine_naive(student: &[f64], teacher: &[f64], width: usize) -> f64 {
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    let row = |(s, t): (&[f64], &[f64])| 1.0 - dot(s, t) / ((dot(s, s) + 1e-12) * (dot(t, t) + 1e-12)).sqrt();
    student.chunks(width.max(1)).zip(teacher.chunks(width.max(1))).map(row).sum()
}

#[test]
fn cosine_equals_its_f64_twin_at_every_length_and_adds_its_gradient() {
    for (rows, width) in lengths().map(|width| (2, width)).chain([(150, 5)]) {
        let (student, teacher, before) = (numbers(4, rows * width), numbers(5, rows * width), numbers(6, rows * width));
        let expected = cosine_naive(&wide(&student), &wide(&teacher), width);
        let gradient = |s: &[f64], t: &[f64]| -> Vec<f64> {
            let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
            let (ss, norms) = (dot(s, s) + 1e-12, ((dot(s, s) + 1e-12) * (dot(t, t) + 1e-12)).sqrt());
            s.iter().zip(t).map(|(si, ti)| -(ti / norms - dot(s, t) / norms * si / ss)).collect()
        };
        let (s, t) = (wide(&student), wide(&teacher));
        let gradient = s.chunks(width.max(1)).zip(t.chunks(width.max(1))).flat_map(|(s, t)| gradient(s, t));
        let gradient: Vec<f64> = gradient.zip(&before).map(|(d, &before)| f64::from(before) + 0.5 * d).collect();
        let run = |rt: &Runtime| {
            let mut d_student = before.clone();
            let sum = cosine_rows(rt, &student, &teacher, width, 0.5, &mut d_student);
            (sum, d_student)
        };
        on_every_isa(run, |isa, (sum, d_student)| {
            assert_close_f64(sum, expected, 1e-6, format!("{isa}, width {width}"));
            assert_close(&d_student, &gradient, 1e-6, format!("{isa}, width {width}"));
        });
    }
}

#[test]
fn the_gradient_of_cosine_equals_finite_differences() {
    let (student, teacher) = (numbers(7, 22), numbers(8, 22));
    let slopes = finite_differences(&wide(&student), |student| cosine_naive(student, &wide(&teacher), 11));
    let run = |rt: &Runtime| {
        let mut d_student = vec![0.0; 22];
        cosine_rows(rt, &student, &teacher, 11, 1.0, &mut d_student);
        d_student
    };
    on_every_isa(run, |isa, d_student| assert_close(&d_student, &slopes, 1e-6, isa));
}

#[test]
fn equal_rows_have_no_cosine_loss() {
    let x = numbers(9, 64 * 30);
    let run = |rt: &Runtime| cosine_rows(rt, &x, &x, 64, 1.0, &mut vec![0.0; x.len()]);
    on_every_isa(run, |isa, sum| assert!(sum.abs() < 1e-12 * 30.0, "{isa}: {sum}"));
}

#[test]
fn squared_error_and_binary_cross_entropy_equal_their_f64_twins_at_every_length() {
    let bce = |x: f64, y: f64| {
        let p = 1.0 / (1.0 + (-x).exp());
        -(y * p.ln() + (1.0 - y) * (1.0 - p).ln())
    };
    for len in lengths().chain([20_001]) {
        let (x, y) = (numbers(10, len), numbers(11, len));
        let chances: Vec<f32> = y.iter().map(|y| (y.abs() / 3.0).min(1.0)).collect();
        let run = |rt: &Runtime| {
            let (mut errors, mut logits) = (x.clone(), x.clone());
            let sums = [mse(rt, &mut errors, &y, 0.25), bce_with_logits(rt, &mut logits, &chances, 0.5)];
            (sums, errors, logits)
        };
        let pairs = || wide(&x).into_iter().zip(wide(&y));
        let chance_pairs = || wide(&x).into_iter().zip(wide(&chances));
        let expected: [f64; 2] =
            [pairs().map(|(x, y)| (x - y) * (x - y)).sum(), chance_pairs().map(|(x, y)| bce(x, y)).sum()];
        let error_gradient: Vec<f64> = pairs().map(|(x, y)| 0.5 * (x - y)).collect();
        let logit_gradient: Vec<f64> = chance_pairs().map(|(x, y)| 0.5 * (1.0 / (1.0 + (-x).exp()) - y)).collect();
        on_every_isa(run, |isa, (sums, errors, logits)| {
            for (found, expected) in sums.into_iter().zip(expected) {
                assert_close_f64(found, expected, 1e-6, format!("{isa}, length {len}"));
            }
            assert_close(&errors, &error_gradient, 2e-7, format!("{isa}, length {len}"));
            assert_close(&logits, &logit_gradient, 2e-7, format!("{isa}, length {len}"));
        });
    }
    let slope = (bce(0.7 + 1e-6, 0.3) - bce(0.7 - 1e-6, 0.3)) / 2e-6;
    assert!((slope - (1.0 / (1.0 + (-0.7f64).exp()) - 0.3)).abs() < 1e-8);
}

#[test]
fn binary_cross_entropy_bears_large_logits() {
    for isa in Isa::available() {
        let mut logits = [1000.0, -1000.0, 1000.0, -1000.0];
        let sum = bce_with_logits(&runtime(isa, 1), &mut logits, &[1.0, 0.0, 0.0, 1.0], 1.0);
        assert_eq!((sum, logits), (2000.0, [0.0, 0.0, 1.0, -1.0]), "{isa}");
    }
}
