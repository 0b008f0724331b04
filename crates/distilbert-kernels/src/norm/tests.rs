use super::*;
use crate::testing::{assert_close, finite_differences, lengths, numbers, on_every_isa, runtime, wide};

const EPS: f32 = 1e-12;

fn layer_norm_naive(x: &[f64], gamma: &[f64], beta: &[f64]) -> Vec<f64> {
    let hidden = gamma.len();
    let normalize = |row: &[f64]| -> Vec<f64> {
        let mean = row.iter().sum::<f64>() / hidden as f64;
        let variance = row.iter().map(|x| (x - mean) * (x - mean)).sum::<f64>() / hidden as f64;
        let scale = 1.0 / (variance + f64::from(EPS)).sqrt();
        row.iter().zip(gamma).zip(beta).map(|((x, gamma), beta)| (x - mean) * scale * gamma + beta).collect()
    };
    x.chunks(hidden.max(1)).flat_map(normalize).collect()
}

struct Case {
    x: Vec<f32>,
    gamma: Vec<f32>,
    beta: Vec<f32>,
}

impl Case {
    fn new(rows: usize, hidden: usize) -> Self {
        Case { x: numbers(1, rows * hidden), gamma: numbers(2, hidden), beta: numbers(3, hidden) }
    }

    fn forward(&self, rt: &Runtime, x: &[f32]) -> (Vec<f32>, NormStats) {
        let (mut y, mut stats) = (vec![0.0; x.len()], NormStats::default());
        layer_norm(rt, x, &self.gamma, &self.beta, EPS, &mut y, Some(&mut stats));
        (y, stats)
    }

    /// `dx`, `d_gamma`, `d_beta`.
    fn backward(&self, rt: &Runtime, x: &[f32], dy: &[f32]) -> [Vec<f32>; 3] {
        let hidden = self.gamma.len();
        let mut gradients = [vec![0.0; x.len()], vec![0.0; hidden], vec![0.0; hidden]];
        let [dx, d_gamma, d_beta] = &mut gradients;
        layer_norm_backward(rt, dy, x, &self.forward(rt, x).1, &self.gamma, dx, d_gamma, d_beta);
        gradients
    }
}

#[test]
fn layer_norm_equals_its_f64_twin_at_every_length() {
    // A row of one or two numbers is all cancellation: its norm is 0, 1 or -1 by the last bits.
    for hidden in lengths().filter(|&hidden| hidden == 0 || hidden > 2) {
        let case = Case::new(3, hidden);
        let expected = layer_norm_naive(&wide(&case.x), &wide(&case.gamma), &wide(&case.beta));
        on_every_isa(
            |rt| case.forward(rt, &case.x).0,
            |isa, y| assert_close(&y, &expected, 2e-6, format!("{isa}, hidden {hidden}")),
        );
    }
}

#[test]
fn a_row_of_equal_numbers_becomes_beta() {
    let beta = numbers(4, 21);
    let run = |rt: &Runtime| {
        let mut y = vec![0.0; 21];
        layer_norm(rt, &[0.75; 21], &[1.0; 21], &beta, EPS, &mut y, None);
        y
    };
    on_every_isa(run, |isa, y| assert_eq!(y, beta, "{isa}"));
}

#[test]
fn a_large_common_offset_costs_no_precision_beyond_its_own_rounding() {
    let case = Case::new(1, 768);
    let x: Vec<f32> = case.x.iter().map(|x| x + 1000.0).collect();
    let expected = layer_norm_naive(&wide(&x), &wide(&case.gamma), &wide(&case.beta));
    on_every_isa(|rt| case.forward(rt, &x).0, |isa, y| assert_close(&y, &expected, 1e-4, isa));
}

#[test]
fn gradients_equal_finite_differences() {
    for (rows, hidden) in [(1, 3), (2, 17), (3, 33)] {
        let case = Case::new(rows, hidden);
        let dy = numbers(5, rows * hidden);
        let loss = |x: &[f64], gamma: &[f64], beta: &[f64]| -> f64 {
            layer_norm_naive(x, gamma, beta).iter().zip(&dy).map(|(y, &dy)| y * f64::from(dy)).sum()
        };
        let [x, gamma, beta] = [&case.x, &case.gamma, &case.beta].map(|x| wide(x));
        let expected = [
            finite_differences(&x, |x| loss(x, &gamma, &beta)),
            finite_differences(&gamma, |gamma| loss(&x, gamma, &beta)),
            finite_differences(&beta, |beta| loss(&x, &gamma, beta)),
        ];
        on_every_isa(
            |rt| case.backward(rt, &case.x, &dy),
            |isa, found| {
                for (found, expected) in found.iter().zip(&expected) {
                    assert_close(found, expected, 1e-5, format!("{isa}, hidden {hidden}"));
                }
            },
        );
    }
}

#[test]
fn the_backward_equals_its_f64_twin_at_every_length_and_over_blocks() {
    for (rows, hidden) in lengths().filter(|&hidden| hidden > 2).map(|hidden| (2, hidden)).chain([(65, 9), (300, 70)]) {
        let case = Case::new(rows, hidden);
        let dy = numbers(6, rows * hidden);
        let mut expected = [Vec::new(), vec![0.0; hidden], vec![0.0; hidden]];
        let gamma = wide(&case.gamma);
        for (x, dy) in wide(&case.x).chunks(hidden).zip(wide(&dy).chunks(hidden)) {
            let normalized = layer_norm_naive(x, &vec![1.0; hidden], &vec![0.0; hidden]);
            let mean = |values: &mut dyn Iterator<Item = f64>| values.sum::<f64>() / hidden as f64;
            let average = mean(&mut x.iter().copied());
            let rstd = 1.0 / mean(&mut x.iter().map(|x| (x - average).powi(2))).sqrt();
            let g: Vec<f64> = dy.iter().zip(&gamma).map(|(dy, gamma)| dy * gamma).collect();
            let mean_g = mean(&mut g.iter().copied());
            let mean_gx = mean(&mut g.iter().zip(&normalized).map(|(g, n)| g * n));
            for i in 0..hidden {
                expected[0].push(rstd * (g[i] - mean_g - normalized[i] * mean_gx));
                expected[1][i] += dy[i] * normalized[i];
                expected[2][i] += dy[i];
            }
        }
        on_every_isa(
            |rt| case.backward(rt, &case.x, &dy),
            |isa, found| {
                for (found, expected) in found.iter().zip(&expected) {
                    assert_close(found, expected, 2e-5, format!("{isa}, {rows} rows, hidden {hidden}"));
                }
            },
        );
    }
}

#[test]
fn parameter_gradients_are_added_to() {
    let case = Case::new(4, 20);
    let dy = numbers(7, 80);
    on_every_isa(
        |rt| {
            let fresh = case.backward(rt, &case.x, &dy);
            let [mut dx, mut d_gamma, mut d_beta] = [vec![9.0; 80], vec![1.0; 20], vec![2.0; 20]];
            let stats = case.forward(rt, &case.x).1;
            layer_norm_backward(rt, &dy, &case.x, &stats, &case.gamma, &mut dx, &mut d_gamma, &mut d_beta);
            (fresh, [dx, d_gamma, d_beta])
        },
        |isa, (fresh, added)| {
            assert_eq!(fresh[0], added[0], "{isa}");
            assert_eq!(fresh[1].iter().map(|x| 1.0 + x).collect::<Vec<_>>(), added[1], "{isa}");
            assert_eq!(fresh[2].iter().map(|x| 2.0 + x).collect::<Vec<_>>(), added[2], "{isa}");
        },
    );
}

#[test]
fn the_fused_form_equals_dropout_then_addition_then_norm() {
    for hidden in [1, 7, 33, 768] {
        let tokens = 45;
        let case = Case::new(tokens, hidden);
        let residual = numbers(8, tokens * hidden);
        let (cu_seqlens, dropout) = ([0, 11, 11, 45], Dropout { probability: 0.2, site_key: 5, slots: &[3, 4, 5] });
        for dropout in [None, Some((&dropout, &cu_seqlens[..]))] {
            let run = |rt: &Runtime| {
                let (mut x, mut y, mut stats) = (case.x.clone(), vec![0.0; case.x.len()], NormStats::default());
                residual_layer_norm(
                    rt,
                    &mut x,
                    &residual,
                    dropout,
                    &case.gamma,
                    &case.beta,
                    EPS,
                    &mut y,
                    Some(&mut stats),
                );
                let mut separate = case.x.clone();
                if let Some((dropout, cu_seqlens)) = dropout {
                    crate::dropout::dropout_rows(rt, &mut separate, hidden, cu_seqlens, dropout);
                }
                crate::elementwise::add_assign(rt, &mut separate, &residual);
                let (expected, expected_stats) = case.forward(rt, &separate);
                assert_eq!(stats.mean, expected_stats.mean);
                assert_eq!(stats.rstd, expected_stats.rstd);
                ([x, y], [separate, expected])
            };
            on_every_isa(run, |isa, (fused, separate)| assert_eq!(fused, separate, "{isa}, hidden {hidden}"));
        }
    }
}

#[test]
fn a_row_alone_is_normalised_as_among_others() {
    let hidden = 77;
    let case = Case::new(300, hidden);
    let dy = numbers(9, 300 * hidden);
    let at = 3 * hidden;
    let run = |rt: &Runtime| {
        [1, 7, 297].map(|rows| {
            let (x, dy) = (&case.x[at..at + rows * hidden], &dy[at..at + rows * hidden]);
            let [dx, ..] = case.backward(rt, x, dy);
            [case.forward(rt, x).0[..hidden].to_vec(), dx[..hidden].to_vec()]
        })
    };
    on_every_isa(run, |isa, [alone, seven, all]| {
        assert_eq!(alone, seven, "{isa}");
        assert_eq!(alone, all, "{isa}");
    });
}

#[test]
#[should_panic(expected = "gamma and beta")]
fn unequal_parameters_are_refused() {
    let rt = runtime(crate::Isa::Portable, 1);
    layer_norm(&rt, &[1.0; 4], &[1.0; 4], &[1.0; 3], EPS, &mut [0.0; 4], None);
}
