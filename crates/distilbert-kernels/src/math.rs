//! Elementary functions on vectors: exp, ln(1 + x), tanh, the sigmoid, GELU and its derivative.
//!
//! Each is a chain of lane-wise operations without tables or branches, so that a number gives the same bits in any
//! lane. NaN goes in, NaN comes out. The errors named are measured by the tests below, over all instruction sets.

use crate::elementwise::GeluKind;
use crate::simd::Simd;

/// `e^x`, within 1 ulp; 0 from about -87.7 down, infinite from 88.73 up.
///
/// `x = n ln 2 + r` with `|r| <= ln 2 / 2`, then a polynomial in `r`.
///
/// # Source
/// Cephes `expf` (Moshier): the two-part `ln 2` and the coefficients.
#[inline(always)]
pub(crate) fn exp<S: Simd>(simd: S, x: S::F32) -> S::F32 {
    // At these bounds n is -127 and 128, which gives 0 and infinity. As second argument a NaN passes max and min.
    let x = simd.max(simd.splat(-88.0), x);
    let x = simd.min(simd.splat(89.0), x);
    let n = simd.round(simd.mul(x, simd.splat(std::f32::consts::LOG2_E)));
    // The high part has nine bits, so that n * high is exact even where mul_add rounds twice.
    let r = simd.mul_add(n, simd.splat(-355.0 / 512.0), x);
    let r = simd.mul_add(n, simd.splat(2.121_944_4e-4), r);
    let p = polynomial(simd, r, [1.987_569_2e-4, 1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 5e-1]);
    let p = simd.add(simd.mul_add(p, simd.mul(r, r), r), simd.splat(1.0));
    // 2^128 is no f32, though e^x may still be one: the last doubling is an addition.
    let last = simd.splat(127.0);
    let y = simd.mul(p, simd.exp2_integral(simd.min(n, last)));
    simd.add(y, simd.select(simd.less(last, n), y, simd.splat(0.0)))
}

/// `ln(1 + x)` for `x` in `0..=1`, within 2 ulp.
///
/// `2 artanh(x / (2 + x))`, whose series ends here where its next term is below an eighth of an ulp.
#[inline(always)]
pub(crate) fn ln_1p_unit<S: Simd>(simd: S, x: S::F32) -> S::F32 {
    let s = simd.div(x, simd.add(x, simd.splat(2.0)));
    let square = simd.mul(s, s);
    let p = polynomial(simd, square, [2.0 / 13.0, 2.0 / 11.0, 2.0 / 9.0, 2.0 / 7.0, 2.0 / 5.0, 2.0 / 3.0]);
    let twice = simd.add(s, s);
    simd.mul_add(simd.mul(p, square), s, twice)
}

/// `tanh(x)`, within 1.5 ulp.
///
/// # Source
/// Cephes `tanhf` (Moshier): an odd polynomial below 0.625, `1 - 2 / (e^2x + 1)` above.
#[inline(always)]
pub(crate) fn tanh<S: Simd>(simd: S, x: S::F32) -> S::F32 {
    let (zero, one) = (simd.splat(0.0), simd.splat(1.0));
    let magnitude = simd.abs(x);
    let square = simd.mul(x, x);
    let p = polynomial(simd, square, [-5.704_988_7e-3, 2.063_909e-2, -5.373_971_6e-2, 1.333_144_2e-1, -3.333_328e-1]);
    let small = simd.mul_add(simd.mul(p, square), x, x);
    let e = exp(simd, simd.add(magnitude, magnitude));
    let large = simd.sub(one, simd.div(simd.splat(2.0), simd.add(e, one)));
    let large = simd.select(simd.less(x, zero), simd.sub(zero, large), large);
    simd.select(simd.less(magnitude, simd.splat(0.625)), small, large)
}

/// `1 / (1 + e^-x)`, within 2.5 ulp.
#[inline(always)]
pub(crate) fn sigmoid<S: Simd>(simd: S, x: S::F32) -> S::F32 {
    let e = exp(simd, simd.sub(simd.splat(0.0), simd.abs(x)));
    let r = simd.div(simd.splat(1.0), simd.add(e, simd.splat(1.0)));
    simd.select(simd.less(x, simd.splat(0.0)), simd.mul(e, r), r)
}

/// GELU: `x` times the normal distribution function of `x`, or its approximation by tanh; within 1.2e-7 * |x|, and
/// a relative 1e-4 down to x = -5.
///
/// # Source
/// Hendrycks, Gimpel 2016 (arXiv:1606.08415), section 2.
#[inline(always)]
pub(crate) fn gelu<S: Simd>(simd: S, x: S::F32, kind: GeluKind) -> S::F32 {
    match kind {
        GeluKind::Erf => simd.mul(x, normal_cdf(simd, x)),
        GeluKind::Tanh => {
            let minus_2u = simd.sub(simd.splat(0.0), twice_tanh_argument(simd, x));
            simd.div(x, simd.add(exp(simd, minus_2u), simd.splat(1.0)))
        }
    }
}

/// [`gelu`] for products whose factors have been rounded to 16 bits or fewer: within 6e-5 for `|x| <= 8` and
/// 2e-6 * |x| beyond, at a third of the time.
///
/// The normal distribution function is `0.5 + x p(x²)` up to 4.5, where it is all but 0 or 1; `p` was fitted for the
/// smallest largest error of the GELU itself, with `p(4.5²) = 0.5 / 4.5`.
#[inline(always)]
pub(crate) fn gelu_coarse<S: Simd>(simd: S, x: S::F32, kind: GeluKind) -> S::F32 {
    const END: f32 = 4.5;
    match kind {
        GeluKind::Tanh => gelu(simd, x, kind),
        GeluKind::Erf => {
            let inside = simd.min(simd.splat(END), simd.max(simd.splat(-END), x));
            let p = polynomial(
                simd,
                simd.mul(inside, inside),
                [
                    -8.864_285e-13,
                    1.195_328e-10,
                    -7.118_410_3e-9,
                    2.486_599e-7,
                    -5.720_516e-6,
                    9.247_805e-5,
                    -1.095_603_5e-3,
                    9.756_889e-3,
                    -6.623_266e-2,
                    3.988_352e-1,
                ],
            );
            simd.mul(x, simd.mul_add(inside, p, simd.splat(0.5)))
        }
    }
}

/// The derivative of [`gelu`] by `x`, within 2.5e-7.
#[inline(always)]
pub(crate) fn gelu_derivative<S: Simd>(simd: S, x: S::F32, kind: GeluKind) -> S::F32 {
    // Beyond this it is 0 or 1, and powers of x would overflow.
    let x = simd.min(simd.splat(32.0), simd.max(simd.splat(-32.0), x));
    match kind {
        GeluKind::Erf => {
            const INV_SQRT_TAU: f32 = 0.398_942_3;
            let density = exp(simd, simd.mul(simd.mul(x, x), simd.splat(-0.5)));
            simd.mul_add(simd.mul(x, simd.splat(INV_SQRT_TAU)), density, normal_cdf(simd, x))
        }
        GeluKind::Tanh => {
            // With s = sigmoid(2u): gelu = x s, so its derivative is s + x s (1 - s) 2u'.
            let one = simd.splat(1.0);
            let two_u = twice_tanh_argument(simd, x);
            let e = exp(simd, simd.sub(simd.splat(0.0), simd.abs(two_u)));
            let r = simd.div(one, simd.add(e, one));
            let smaller = simd.mul(e, r); // of s and 1 - s
            let s = simd.select(simd.less(two_u, simd.splat(0.0)), smaller, r);
            let two_u_derivative = simd.mul_add(
                simd.mul(x, x),
                simd.splat(3.0 * TANH_CUBIC * 2.0 * TANH_LINEAR),
                simd.splat(2.0 * TANH_LINEAR),
            );
            simd.mul_add(simd.mul(smaller, r), simd.mul(x, two_u_derivative), s)
        }
    }
}

/// `sqrt(2 / pi)`.
const TANH_LINEAR: f32 = 0.797_884_6;
const TANH_CUBIC: f32 = 0.044_715;

/// `2 sqrt(2 / pi) (x + 0.044715 x^3)`; `(1 + tanh u) / 2` is the sigmoid of `2u`.
#[inline(always)]
fn twice_tanh_argument<S: Simd>(simd: S, x: S::F32) -> S::F32 {
    let factor =
        simd.mul_add(simd.mul(x, x), simd.splat(2.0 * TANH_LINEAR * TANH_CUBIC), simd.splat(2.0 * TANH_LINEAR));
    simd.mul(x, factor)
}

/// The normal distribution function, `(1 + erf(x / sqrt 2)) / 2`, within 1e-7; its lower tail keeps four digits down to
/// x = -5.
#[inline(always)]
fn normal_cdf<S: Simd>(simd: S, x: S::F32) -> S::F32 {
    let tail = normal_tail(simd, simd.abs(x));
    simd.select(simd.less(x, simd.splat(0.0)), tail, simd.sub(simd.splat(1.0), tail))
}

/// `1 - normal_cdf(x)` for `x >= 0`: two to the power of a polynomial, which was fitted for the smallest largest error on
/// `0..=6`, of 2e-9 or a relative 2e-6, whichever is more; beyond it falls on, to 0.
#[inline(always)]
fn normal_tail<S: Simd>(simd: S, x: S::F32) -> S::F32 {
    let p = polynomial(
        simd,
        x,
        [
            -3.289_958_5e-8,
            9.492_115e-7,
            -1.178_043e-5,
            8.024_651e-5,
            -2.893_638e-4,
            1.324_091_1e-5,
            6.938_596_3e-3,
            -5.244_036e-2,
            -4.592_198_7e-1,
            -1.151_104_5,
            -1.0,
        ],
    );
    // Where exp2_integral gives 0. As second argument a NaN passes max.
    let p = simd.max(simd.splat(-127.0), p);
    let n = simd.round(p);
    let power = polynomial(
        simd,
        simd.sub(p, n),
        [1.535_336_5e-4, 1.339_887_5e-3, 9.618_437e-3, 5.550_332_5e-2, 2.402_264_8e-1, 6.931_472e-1, 1.0],
    );
    simd.mul(power, simd.exp2_integral(n))
}

/// Horner's scheme; the coefficient of the highest power first.
#[inline(always)]
fn polynomial<S: Simd, const N: usize>(simd: S, x: S::F32, coefficients: [f32; N]) -> S::F32 {
    let mut sum = simd.splat(coefficients[0]);
    for &coefficient in &coefficients[1..] {
        sum = simd.mul_add(sum, x, simd.splat(coefficient));
    }
    sum
}

#[cfg(test)]
mod tests;
