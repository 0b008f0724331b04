use super::*;
use crate::testing::{assert_close, finite_differences, lengths, numbers, on_every_isa, wide};

/// Where sequences of 1, 5, 2 and 9 rows begin.
const ENDS: [u32; 5] = [0, 1, 6, 8, 17];

#[derive(Clone, Copy, PartialEq, Debug)]
enum Pool {
    Mean,
    Max,
}

/// In f64, one number at a time.
fn pool_naive(x: &[f64], width: usize, pool: Pool) -> Vec<f64> {
    let mut y = Vec::new();
    for ends in ENDS.windows(2) {
        for column in 0..width {
            let values = (ends[0]..ends[1]).map(|row| x[row as usize * width + column]);
            y.push(match pool {
                Pool::Mean => values.sum::<f64>() / f64::from(ends[1] - ends[0]),
                Pool::Max => values.fold(f64::NEG_INFINITY, f64::max),
            });
        }
    }
    y
}

fn dot(x: &[f64], y: &[f64]) -> f64 {
    x.iter().zip(y).map(|(x, y)| x * y).sum()
}

#[test]
fn pools_equal_their_f64_twins_at_every_width() {
    for width in lengths().filter(|&width| width > 0) {
        let x = numbers(1, 17 * width);
        let run = |rt: &Runtime| {
            let (mut mean, mut max) = (vec![f32::NAN; 4 * width], vec![f32::NAN; 4 * width]);
            mean_pool(rt, &x, width, &ENDS, &mut mean);
            max_pool(rt, &x, width, &ENDS, &mut max);
            [mean, max]
        };
        on_every_isa(run, |isa, [mean, max]| {
            assert_close(&mean, &pool_naive(&wide(&x), width, Pool::Mean), 3e-7, format!("{isa}, mean of {width}"));
            assert_close(&max, &pool_naive(&wide(&x), width, Pool::Max), 0.0, format!("{isa}, max of {width}"));
        });
    }
}

#[test]
fn gradients_of_pools_are_those_of_finite_differences() {
    for width in [1, 3, 8, 19] {
        let (x, dy) = (numbers(2, 17 * width), numbers(3, 4 * width));
        let run = |rt: &Runtime| {
            let (mut mean, mut max) = (vec![f32::NAN; x.len()], vec![f32::NAN; x.len()]);
            mean_pool_backward(rt, &dy, width, &ENDS, &mut mean);
            let mut y = vec![0.0; dy.len()];
            max_pool(rt, &x, width, &ENDS, &mut y);
            max_pool_backward(rt, &x, &y, &dy, width, &ENDS, &mut max);
            [mean, max]
        };
        let expected = |pool| finite_differences(&wide(&x), |x| dot(&pool_naive(x, width, pool), &wide(&dy)));
        on_every_isa(run, |isa, [mean, max]| {
            assert_close(&mean, &expected(Pool::Mean), 1e-6, format!("{isa}, mean of {width}"));
            assert_close(&max, &expected(Pool::Max), 1e-6, format!("{isa}, max of {width}"));
        });
    }
}

#[test]
fn of_equal_numbers_the_first_has_the_gradient_of_the_largest() {
    let run = |rt: &Runtime| {
        let mut dx = [f32::NAN; 4];
        max_pool_backward(rt, &[1.0, 2.0, 2.0, 0.0], &[2.0], &[5.0], 1, &[0, 4], &mut dx);
        dx
    };
    on_every_isa(run, |_, dx| assert_eq!(dx, [0.0, 5.0, 0.0, 0.0]));
}

#[test]
fn normalizing_equals_its_f64_twin_and_its_gradient_finite_differences() {
    let normalize = |x: &[f64], width: usize| -> Vec<f64> {
        x.chunks(width)
            .flat_map(|row| row.iter().map(|x| x / dot(row, row).sqrt().max(1e-12)).collect::<Vec<_>>())
            .collect()
    };
    for width in lengths().filter(|&width| width > 0) {
        let (x, dy) = (numbers(4, 3 * width), numbers(5, 3 * width));
        let run = |rt: &Runtime| {
            let (mut y, mut lengths, mut dx) = (x.clone(), vec![0.0; 3], dy.clone());
            normalize_rows(rt, &mut y, width, &mut lengths);
            normalize_rows_backward(rt, &y, &lengths, width, &mut dx);
            [y, lengths, dx]
        };
        let wide_x = wide(&x);
        let lengths: Vec<f64> = wide_x.chunks(width).map(|row| dot(row, row).sqrt()).collect();
        let gradient = (width < 64).then(|| finite_differences(&wide_x, |x| dot(&normalize(x, width), &wide(&dy))));
        on_every_isa(run, |isa, [y, found_lengths, dx]| {
            assert_close(&y, &normalize(&wide_x, width), 2e-7, format!("{isa}, width {width}"));
            assert_close(&found_lengths, &lengths, 1e-6, format!("{isa}, width {width}"));
            if let Some(gradient) = &gradient {
                assert_close(&dx, gradient, 1e-4, format!("{isa}, gradient, width {width}"));
            }
        });
    }
}

#[test]
fn a_row_of_zeros_stays_and_its_gradient_is_that_of_a_division_by_the_least_length() {
    let run = |rt: &Runtime| {
        let (mut y, mut lengths, mut dx) = ([0.0; 5], [1.0], [1e-13; 5]);
        normalize_rows(rt, &mut y, 5, &mut lengths);
        normalize_rows_backward(rt, &y, &lengths, 5, &mut dx);
        (y, lengths, dx)
    };
    on_every_isa(run, |_, (y, lengths, dx)| {
        assert_eq!((y, lengths), ([0.0; 5], [0.0]));
        assert_close(&dx, &[0.1; 5], 1e-6, "1e-13 / 1e-12");
    });
}
