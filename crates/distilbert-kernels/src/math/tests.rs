//! Every function against f64, over the whole range of f32 and densely where it is used.

use super::*;
use crate::runtime::Isa;
use crate::simd::{Kernel, dispatch};

#[derive(Clone, Copy, Debug)]
enum Function {
    Exp,
    Ln1pUnit,
    Tanh,
    Sigmoid,
    NormalCdf,
    Gelu(GeluKind),
    GeluCoarse(GeluKind),
    GeluDerivative(GeluKind),
}

struct Evaluate<'a>(Function, &'a [f32], &'a mut [f32]);

impl Kernel for Evaluate<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let Evaluate(function, x, y) = self;
        for (x, y) in x.chunks(S::LANES).zip(y.chunks_mut(S::LANES)) {
            let x = simd.load_partial(x);
            let value = match function {
                Function::Exp => exp(simd, x),
                Function::Ln1pUnit => ln_1p_unit(simd, x),
                Function::Tanh => tanh(simd, x),
                Function::Sigmoid => sigmoid(simd, x),
                Function::NormalCdf => normal_cdf(simd, x),
                Function::Gelu(kind) => gelu(simd, x, kind),
                Function::GeluCoarse(kind) => gelu_coarse(simd, x, kind),
                Function::GeluDerivative(kind) => gelu_derivative(simd, x, kind),
            };
            simd.store_partial(y, value);
        }
    }
}

fn evaluate(isa: Isa, function: Function, x: &[f32]) -> Vec<f32> {
    let mut y = vec![0.0; x.len()];
    dispatch(isa, Evaluate(function, x, &mut y));
    y
}

/// The largest (error in ulp of the exact value, |error|), and the arguments that give them.
fn errors(function: Function, exact: impl Fn(f64) -> f64, x: &[f32]) -> [(f64, f32); 2] {
    let mut worst = [(0.0, 0.0); 2];
    let exact: Vec<f64> = x.iter().map(|&x| exact(f64::from(x))).collect();
    for isa in Isa::available() {
        for ((&x, &exact), y) in x.iter().zip(&exact).zip(evaluate(isa, function, x)) {
            let error = (f64::from(y) - exact).abs();
            let ulp = f64::from((exact.abs() as f32).max(f32::MIN_POSITIVE)).log2().floor().exp2() * 2f64.powi(-23);
            for (worst, error) in worst.iter_mut().zip([error / ulp, error]) {
                assert!(!error.is_nan(), "{function:?}({x}) = {y} on {isa}, exactly {exact}");
                if error > worst.0 {
                    *worst = (error, x);
                }
            }
        }
    }
    worst
}

/// Evenly spaced.
fn linear(from: f32, to: f32) -> Vec<f32> {
    const COUNT: u32 = 200_000;
    (0..=COUNT).map(|i| from + (to - from) * (i as f32 / COUNT as f32)).collect()
}

/// Every sign and exponent up to `limit`, some hundred fractions each.
fn all_magnitudes(limit: f32) -> Vec<f32> {
    (0..u32::MAX / 20_011).map(|i| f32::from_bits(i * 20_011)).filter(|x| x.abs() <= limit).collect()
}

/// erf: `2 / sqrt(pi) e^-x² Σ 2^n x^(2n+1) / (2n+1)!!`
fn erf_series(x: f64) -> f64 {
    let (mut term, mut sum) = (x, x);
    for n in 1..200 {
        term *= 2.0 * x * x / f64::from(2 * n + 1);
        sum += term;
    }
    std::f64::consts::FRAC_2_SQRT_PI * (-x * x).exp() * sum
}

/// 1 - erf: `e^-x² / sqrt(pi) / (x + (1/2) / (x + 1 / (x + (3/2) / (x + ...))))`
fn erfc_fraction(x: f64) -> f64 {
    let fraction = (1..200).rev().fold(x, |below, n| x + 0.5 * f64::from(n) / below);
    0.5 * std::f64::consts::FRAC_2_SQRT_PI * (-x * x).exp() / fraction
}

fn normal_cdf_f64(x: f64) -> f64 {
    let z = x.abs() * std::f64::consts::FRAC_1_SQRT_2;
    let tail = 0.5 * if z < 2.0 { 1.0 - erf_series(z) } else { erfc_fraction(z) };
    if x < 0.0 { tail } else { 1.0 - tail }
}

fn gelu_f64(x: f64, kind: GeluKind) -> f64 {
    match kind {
        GeluKind::Erf => x * normal_cdf_f64(x),
        GeluKind::Tanh => x / (1.0 + (-2.0 * tanh_argument_f64(x)).exp()),
    }
}

fn gelu_derivative_f64(x: f64, kind: GeluKind) -> f64 {
    match kind {
        GeluKind::Erf => {
            normal_cdf_f64(x) + x * (-0.5 * x * x).exp() * 0.5 * std::f64::consts::FRAC_2_SQRT_PI / 2f64.sqrt()
        }
        GeluKind::Tanh => {
            let tanh = tanh_argument_f64(x).tanh();
            let slope = (2.0 / std::f64::consts::PI).sqrt() * (1.0 + 3.0 * 0.044715 * x * x);
            0.5 * (1.0 + tanh) + 0.5 * x * (1.0 - tanh * tanh) * slope
        }
    }
}

fn tanh_argument_f64(x: f64) -> f64 {
    (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x * x * x)
}

#[test]
fn the_two_reference_forms_of_erf_agree() {
    for i in 0..100 {
        let x = 2.0 + f64::from(i) * 0.02;
        let (series, fraction) = (1.0 - erf_series(x), erfc_fraction(x));
        assert!((series - fraction).abs() < 1e-14, "{x}: {series} {fraction}");
    }
    // Abramowitz and Stegun, table 7.1.
    assert!((erf_series(0.5) - 0.520_499_877_8).abs() < 1e-10);
    assert!((erf_series(2.0) - 0.995_322_265_0).abs() < 1e-10);
}

#[test]
fn exp_is_within_one_ulp() {
    let x = [linear(-87.3, 88.72), all_magnitudes(87.3)].concat();
    let [ulp, _] = errors(Function::Exp, f64::exp, &x);
    assert!(ulp.0 <= 1.0, "{ulp:?}");
}

#[test]
fn exp_ends_in_zero_and_infinity() {
    for isa in Isa::available() {
        let x = [-87.7, -88.0, -104.0, -1e30, f32::NEG_INFINITY];
        assert_eq!(evaluate(isa, Function::Exp, &x), [0.0; 5], "{isa}");
        let x = [88.73, 89.5, 1e30, f32::INFINITY];
        assert_eq!(evaluate(isa, Function::Exp, &x), [f32::INFINITY; 4], "{isa}");
        assert_eq!(evaluate(isa, Function::Exp, &[0.0, -0.0]), [1.0; 2], "{isa}");
    }
}

#[test]
fn ln_1p_is_within_two_ulp_on_the_unit_interval() {
    let x = [linear(0.0, 1.0), all_magnitudes(1.0).into_iter().filter(|&x| x >= f32::MIN_POSITIVE).collect()].concat();
    let [ulp, _] = errors(Function::Ln1pUnit, f64::ln_1p, &x);
    assert!(ulp.0 <= 2.0, "{ulp:?}");
}

#[test]
fn tanh_is_within_one_and_a_half_ulp() {
    let x = [linear(-10.0, 10.0), all_magnitudes(f32::MAX)].concat();
    let [ulp, absolute] = errors(Function::Tanh, f64::tanh, &x);
    assert!(ulp.0 <= 1.5 && absolute.0 <= 1e-7, "{ulp:?} {absolute:?}");
}

#[test]
fn sigmoid_is_within_two_and_a_half_ulp() {
    let x = [linear(-87.0, 20.0), all_magnitudes(87.0)].concat();
    let [ulp, _] = errors(Function::Sigmoid, |x| 1.0 / (1.0 + (-x).exp()), &x);
    assert!(ulp.0 <= 2.5, "{ulp:?}");
}

#[test]
fn the_normal_distribution_function_is_within_a_ten_millionth() {
    let x = [linear(-8.0, 8.0), all_magnitudes(f32::MAX)].concat();
    let [_, absolute] = errors(Function::NormalCdf, normal_cdf_f64, &x);
    assert!(absolute.0 <= 1e-7, "{absolute:?}");
}

#[test]
fn gelu_is_within_a_ten_millionth_of_its_argument() {
    for kind in [GeluKind::Erf, GeluKind::Tanh] {
        for isa in Isa::available() {
            let x = linear(-12.0, 12.0);
            for (&x, y) in x.iter().zip(evaluate(isa, Function::Gelu(kind), &x)) {
                let exact = gelu_f64(f64::from(x), kind);
                let error = (f64::from(y) - exact).abs();
                assert!(error <= 1.2e-7 * f64::from(x.abs()), "{kind:?} {isa}: {x} -> {y}, exactly {exact}");
            }
        }
    }
}

#[test]
fn gelu_keeps_four_digits_down_to_minus_five() {
    let x = linear(-5.0, 5.0);
    for kind in [GeluKind::Erf, GeluKind::Tanh] {
        for isa in Isa::available() {
            for (&x, y) in x.iter().zip(evaluate(isa, Function::Gelu(kind), &x)) {
                let exact = gelu_f64(f64::from(x), kind);
                let error = (f64::from(y) - exact).abs();
                assert!(error <= 1e-4 * exact.abs(), "{kind:?} {isa}: {x} -> {y}, exactly {exact}");
            }
        }
    }
}

#[test]
fn coarse_gelu_is_within_its_bound_and_exact_at_the_ends() {
    for kind in [GeluKind::Erf, GeluKind::Tanh] {
        let x = linear(-8.0, 8.0);
        let [_, absolute] = errors(Function::GeluCoarse(kind), |x| gelu_f64(x, kind), &x);
        assert!(absolute.0 <= 6e-5, "{kind:?} {absolute:?}");
        for isa in Isa::available() {
            let far = evaluate(isa, Function::GeluCoarse(kind), &[-1e4, 1e4, 0.0, f32::NAN]);
            assert!(
                far[0].abs() <= 0.02 && (far[1] - 1e4).abs() <= 0.02 && far[2] == 0.0 && far[3].is_nan(),
                "{far:?}"
            );
        }
    }
}

#[test]
fn the_derivative_of_gelu_is_within_a_quarter_millionth() {
    for kind in [GeluKind::Erf, GeluKind::Tanh] {
        let x = [linear(-12.0, 12.0), all_magnitudes(f32::MAX)].concat();
        let [_, absolute] =
            errors(Function::GeluDerivative(kind), |x| gelu_derivative_f64(x.clamp(-1e3, 1e3), kind), &x);
        assert!(absolute.0 <= 2.5e-7, "{kind:?} {absolute:?}");
        for i in -40..40 {
            let (x, h) = (f64::from(i) * 0.2, 1e-5);
            let slope = (gelu_f64(x + h, kind) - gelu_f64(x - h, kind)) / (2.0 * h);
            assert!((slope - gelu_derivative_f64(x, kind)).abs() < 1e-8, "{kind:?} at {x}");
        }
    }
}

#[test]
fn nan_stays_nan() {
    let kinds = [GeluKind::Erf, GeluKind::Tanh];
    let functions = [Function::Exp, Function::Ln1pUnit, Function::Tanh, Function::Sigmoid, Function::NormalCdf]
        .into_iter()
        .chain(kinds.map(Function::Gelu))
        .chain(kinds.map(Function::GeluDerivative));
    for function in functions {
        for isa in Isa::available() {
            assert!(evaluate(isa, function, &[f32::NAN])[0].is_nan(), "{function:?} on {isa}");
        }
    }
}

#[test]
fn infinite_arguments_give_the_limits() {
    let x = [f32::NEG_INFINITY, f32::INFINITY];
    for isa in Isa::available() {
        assert_eq!(evaluate(isa, Function::Tanh, &x), [-1.0, 1.0]);
        assert_eq!(evaluate(isa, Function::Sigmoid, &x), [0.0, 1.0]);
        assert_eq!(evaluate(isa, Function::NormalCdf, &x), [0.0, 1.0]);
        for kind in [GeluKind::Erf, GeluKind::Tanh] {
            assert_eq!(evaluate(isa, Function::GeluDerivative(kind), &x), [0.0, 1.0]);
            assert_eq!(evaluate(isa, Function::Gelu(kind), &[-1e30, 1e30]), [0.0, 1e30]);
        }
    }
}
