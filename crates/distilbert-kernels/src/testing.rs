//! What the tests of all kernels share: numbers, lengths, runtimes, comparisons.

use crate::runtime::{Isa, Runtime};

/// Every tail length of every instruction set, and a few lengths that need several blocks or tasks.
pub(crate) fn lengths() -> impl Iterator<Item = usize> {
    (0..=33).chain([63, 64, 65, 129, 1023, 1037, 8191, 8193])
}

/// Numbers in about `-3..3`, from a fixed stream for each seed.
pub(crate) fn numbers(seed: u64, len: usize) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mut uniform = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1u64 << 24) as f32 - 0.5
    };
    (0..len).map(|_| 2.0 * (uniform() + uniform() + uniform())).collect()
}

/// Calls `kernel` with 1, 2, 3 and 7 threads on every instruction set, expects equal results from all thread counts,
/// and hands them on.
pub(crate) fn on_every_isa<T: PartialEq + std::fmt::Debug>(kernel: impl Fn(&Runtime) -> T, check: impl Fn(Isa, T)) {
    for isa in Isa::available() {
        let [one, others @ ..] = [1, 2, 3, 7].map(|threads| kernel(&runtime(isa, threads)));
        for other in others {
            assert!(one == other, "{isa}: results depend on the number of threads");
        }
        check(isa, one);
    }
}

pub(crate) fn runtime(isa: Isa, threads: usize) -> Runtime {
    Runtime::new(isa, threads).expect("the instruction set is available")
}

/// Every number within `tolerance * (1 + |expected|)`.
#[track_caller]
pub(crate) fn assert_close(found: &[f32], expected: &[f64], tolerance: f64, what: impl std::fmt::Display) {
    assert_eq!(found.len(), expected.len(), "{what}");
    for (i, (&found, &expected)) in found.iter().zip(expected).enumerate() {
        let error = (f64::from(found) - expected).abs();
        assert!(error <= tolerance * (1.0 + expected.abs()), "{what}: number {i} is {found}, expected {expected}");
    }
}

/// As [`assert_close`], for one number.
#[track_caller]
pub(crate) fn assert_close_f64(found: f64, expected: f64, tolerance: f64, what: impl std::fmt::Display) {
    let error = (found - expected).abs();
    assert!(error <= tolerance * (1.0 + expected.abs()), "{what}: found {found}, expected {expected}");
}

/// In f64.
pub(crate) fn wide(x: &[f32]) -> Vec<f64> {
    x.iter().map(|&x| f64::from(x)).collect()
}

/// The gradient of `f` at `x` by central differences.
pub(crate) fn finite_differences(x: &[f64], f: impl Fn(&[f64]) -> f64) -> Vec<f64> {
    const STEP: f64 = 1e-5;
    let mut x = x.to_vec();
    (0..x.len())
        .map(|i| {
            let at = x[i];
            x[i] = at + STEP;
            let above = f(&x);
            x[i] = at - STEP;
            let below = f(&x);
            x[i] = at;
            (above - below) / (2.0 * STEP)
        })
        .collect()
}

/// Softmax in f64, plainly.
pub(crate) fn softmax_naive(x: &[f64]) -> Vec<f64> {
    let max = x.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let total: f64 = x.iter().map(|x| (x - max).exp()).sum();
    x.iter().map(|x| (x - max).exp() / total).collect()
}
