//! AdamW, and the squared norm of a gradient.

use crate::rows::{Product, TASK_NUMBERS, load, store, sum_blocks, sum_zip};
use crate::runtime::{Runtime, SharedMut};
use crate::simd::{Kernel, Simd, dispatch};

/// One step of AdamW for some parameters.
///
/// # Source
/// Loshchilov, Hutter 2019 (arXiv:1711.05101), algorithm 2, in the order of operations of PyTorch's `AdamW`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamW {
    /// The learning rate of this step.
    pub learning_rate: f32,
    /// Decay of the first moment.
    pub beta1: f32,
    /// Decay of the second moment.
    pub beta2: f32,
    /// Added to the square root of the second moment, after its bias correction.
    pub epsilon: f32,
    /// Parameters shrink by `learning_rate * weight_decay` of themselves.
    pub weight_decay: f32,
    /// The number of this step, counted from 1.
    pub step: u64,
    /// What gradients are multiplied by first: 1 / count, clipping.
    pub gradient_scale: f32,
}

/// Moves the parameters and their moments by one step.
///
/// # Panics
/// If the lengths differ or the step is 0.
pub fn adamw(
    rt: &Runtime,
    config: &AdamW,
    parameters: &mut [f32],
    gradients: &[f32],
    first_moment: &mut [f32],
    second_moment: &mut [f32],
) {
    let len = parameters.len();
    assert_eq!(gradients.len(), len, "one gradient a parameter");
    assert!(first_moment.len() == len && second_moment.len() == len, "two moments a parameter");
    assert!(config.step > 0, "steps are counted from 1");
    let factors = Factors::new(config);
    let parameters = SharedMut::new(parameters);
    let (first_moment, second_moment) = (SharedMut::new(first_moment), SharedMut::new(second_moment));
    rt.parallel_for(len.div_ceil(TASK_NUMBERS), |task| {
        let start = task * TASK_NUMBERS;
        let len = TASK_NUMBERS.min(len - start);
        // SAFETY: tasks have disjoint ranges.
        let (parameters, first_moment, second_moment) =
            unsafe { (parameters.slice(start, len), first_moment.slice(start, len), second_moment.slice(start, len)) };
        let gradients = &gradients[start..][..len];
        dispatch(rt.isa(), Step { factors, parameters, gradients, first_moment, second_moment });
    });
}

/// What is the same for all parameters, worked out in f64 as PyTorch does in Python.
#[derive(Clone, Copy)]
struct Factors {
    gradient_scale: f32,
    shrink: f32,
    first_weight: f32,
    beta2: f32,
    second_weight: f32,
    inverse_second_correction: f32,
    epsilon: f32,
    minus_step_size: f32,
}

impl Factors {
    fn new(config: &AdamW) -> Self {
        let [learning_rate, beta1, beta2, decay] =
            [config.learning_rate, config.beta1, config.beta2, config.weight_decay].map(f64::from);
        // Past 2^31 steps every power of a number below 1 that f32 holds has long been 0.
        let step = i32::try_from(config.step).unwrap_or(i32::MAX);
        let (first_correction, second_correction) = (1.0 - beta1.powi(step), 1.0 - beta2.powi(step));
        Factors {
            gradient_scale: config.gradient_scale,
            shrink: (1.0 - learning_rate * decay) as f32,
            first_weight: (1.0 - beta1) as f32,
            beta2: config.beta2,
            second_weight: (1.0 - beta2) as f32,
            inverse_second_correction: (1.0 / second_correction.sqrt()) as f32,
            epsilon: config.epsilon,
            minus_step_size: (-learning_rate / first_correction) as f32,
        }
    }
}

struct Step<'a> {
    factors: Factors,
    parameters: &'a mut [f32],
    gradients: &'a [f32],
    first_moment: &'a mut [f32],
    second_moment: &'a mut [f32],
}

impl Kernel for Step<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let parts = self.parameters.chunks_mut(S::LANES).zip(self.gradients.chunks(S::LANES));
        let moments = self.first_moment.chunks_mut(S::LANES).zip(self.second_moment.chunks_mut(S::LANES));
        for ((parameters, gradients), (first, second)) in parts.zip(moments) {
            let (p, g) = (load(simd, parameters), load(simd, gradients));
            let [p, m, v] = self.factors.update(simd, p, g, load(simd, first), load(simd, second));
            store(simd, parameters, p);
            store(simd, first, m);
            store(simd, second, v);
        }
    }
}

impl Factors {
    /// The new parameters, first and second moments.
    #[inline(always)]
    fn update<S: Simd>(&self, simd: S, p: S::F32, g: S::F32, m: S::F32, v: S::F32) -> [S::F32; 3] {
        let g = simd.mul(g, simd.splat(self.gradient_scale));
        let p = simd.mul(p, simd.splat(self.shrink));
        let m = simd.mul_add(simd.sub(g, m), simd.splat(self.first_weight), m);
        let v = simd.mul_add(simd.mul(g, g), simd.splat(self.second_weight), simd.mul(v, simd.splat(self.beta2)));
        let deviation = simd.mul(simd.sqrt(v), simd.splat(self.inverse_second_correction));
        let ratio = simd.div(m, simd.add(deviation, simd.splat(self.epsilon)));
        [simd.mul_add(ratio, simd.splat(self.minus_step_size), p), m, v]
    }
}

/// `Σ x²`, in blocks of 8192 numbers.
pub fn sum_of_squares(rt: &Runtime, x: &[f32]) -> f64 {
    sum_blocks(rt, x.len(), TASK_NUMBERS, |block| dispatch(rt.isa(), SumOfSquares(&x[block])))
}

struct SumOfSquares<'a>(&'a [f32]);

impl Kernel for SumOfSquares<'_> {
    type Output = f64;
    #[inline(always)]
    fn run<S: Simd>(self, simd: S) -> f64 {
        sum_zip(simd, self.0, self.0, Product)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{assert_close, assert_close_f64, lengths, numbers, on_every_isa, runtime, wide};

    const CONFIG: AdamW = AdamW {
        learning_rate: 0.01,
        beta1: 0.9,
        beta2: 0.98,
        epsilon: 1e-6,
        weight_decay: 0.1,
        step: 1,
        gradient_scale: 0.5,
    };

    /// PyTorch's `_single_tensor_adamw`, line by line.
    fn adamw_naive(config: &AdamW, p: &mut f64, g: f64, m: &mut f64, v: &mut f64) {
        let [lr, beta1, beta2, eps, decay, scale] = [
            config.learning_rate,
            config.beta1,
            config.beta2,
            config.epsilon,
            config.weight_decay,
            config.gradient_scale,
        ]
        .map(f64::from);
        let g = g * scale;
        *p *= 1.0 - lr * decay;
        *m += (g - *m) * (1.0 - beta1);
        *v = *v * beta2 + g * g * (1.0 - beta2);
        let bias_correction1 = 1.0 - beta1.powf(config.step as f64);
        let bias_correction2 = 1.0 - beta2.powf(config.step as f64);
        let denominator = v.sqrt() / bias_correction2.sqrt() + eps;
        *p -= lr / bias_correction1 * *m / denominator;
    }

    #[test]
    fn ten_steps_equal_the_f64_twin_at_every_length() {
        for len in lengths() {
            let start = numbers(1, len);
            let run = |rt: &Runtime| {
                let [mut p, mut m, mut v] = [start.clone(), vec![0.0; len], vec![0.0; len]];
                for step in 1..=10 {
                    adamw(rt, &AdamW { step, ..CONFIG }, &mut p, &numbers(1 + step, len), &mut m, &mut v);
                }
                [p, m, v]
            };
            let [mut p, mut m, mut v] = [wide(&start), vec![0.0; len], vec![0.0; len]];
            for step in 1..=10 {
                for (i, g) in wide(&numbers(1 + step, len)).into_iter().enumerate() {
                    adamw_naive(&AdamW { step, ..CONFIG }, &mut p[i], g, &mut m[i], &mut v[i]);
                }
            }
            on_every_isa(run, |isa, found| {
                for (found, expected) in found.iter().zip([&p, &m, &v]) {
                    assert_close(found, expected, 1e-6, format!("{isa}, length {len}"));
                }
            });
        }
    }

    #[test]
    fn the_first_step_moves_by_the_learning_rate_against_the_gradient() {
        let config = AdamW { weight_decay: 0.0, epsilon: 0.0, ..CONFIG };
        on_every_isa(
            |rt| {
                let mut p = [1.0, 1.0, 1.0];
                adamw(rt, &config, &mut p, &[3.0, -0.001, 2e-9], &mut [0.0; 3], &mut [0.0; 3]);
                p
            },
            |isa, p| assert_close(&p, &[0.99, 1.01, 0.99], 1e-6, isa),
        );
    }

    #[test]
    fn decay_shrinks_the_parameter_before_the_step_and_epsilon_follows_the_correction() {
        // By hand: gradient 2 in step 3, with no moments from before.
        let config = AdamW {
            learning_rate: 0.5,
            beta1: 0.9,
            beta2: 0.99,
            epsilon: 1.0,
            weight_decay: 0.2,
            step: 3,
            gradient_scale: 1.0,
        };
        let (m, v) = (0.1 * 2.0, 0.01 * 4.0);
        let correction1: f64 = 1.0 - 0.9 * 0.9 * 0.9;
        let correction2: f64 = 1.0 - 0.99 * 0.99 * 0.99;
        let expected = 10.0 * (1.0 - 0.5 * 0.2) - 0.5 / correction1 * m / ((v / correction2).sqrt() + 1.0);
        on_every_isa(
            |rt| {
                let mut p = [10.0];
                adamw(rt, &config, &mut p, &[2.0], &mut [0.0], &mut [0.0]);
                p
            },
            |isa, p| assert_close(&p, &[expected], 1e-7, isa),
        );
    }

    #[test]
    fn late_steps_have_no_bias_correction_left() {
        let factors = Factors::new(&AdamW { step: u64::MAX, ..CONFIG });
        assert_eq!((factors.inverse_second_correction, factors.minus_step_size), (1.0, -0.01));
    }

    #[test]
    fn the_sum_of_squares_equals_its_f64_twin_at_every_length() {
        for len in lengths().chain([30_523]) {
            let x = numbers(3, len);
            let expected: f64 = wide(&x).iter().map(|x| x * x).sum();
            on_every_isa(
                |rt| sum_of_squares(rt, &x),
                |isa, sum| assert_close_f64(sum, expected, 1e-6, format!("{isa}, length {len}")),
            );
        }
    }

    #[test]
    #[should_panic(expected = "steps are counted from 1")]
    fn step_zero_is_refused() {
        let rt = runtime(crate::Isa::Portable, 1);
        adamw(&rt, &AdamW { step: 0, ..CONFIG }, &mut [1.0], &[1.0], &mut [0.0], &mut [0.0]);
    }
}
