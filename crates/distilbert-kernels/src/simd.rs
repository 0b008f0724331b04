//! One interface over the vector instruction sets. A kernel is written once, generic over [`Simd`], and compiled once
//! per instruction set; [`dispatch`] picks the compilation that the [`Isa`] names.

use crate::arch;
use crate::runtime::Isa;

/// Vectors of [`Simd::LANES`] `f32`. A value of the implementing type proves that the CPU has the instructions, which
/// is what makes the methods safe. All operations are lane-wise, so a lane's result never depends on its position:
/// a tail that goes through [`Simd::load_partial`] gives the same bits as a full vector.
pub(crate) trait Simd: Copy + Send + Sync + 'static {
    /// A vector of `LANES` numbers.
    type F32: Copy;
    /// One truth value a lane.
    type Mask: Copy;
    /// Numbers in a vector.
    const LANES: usize;
    /// Rows of the register tile of the matrix product.
    const TILE_ROWS: usize;
    /// Vectors in a row of that tile, at most 3: rows times vectors accumulators fill the registers.
    const TILE_VECTORS: usize;

    fn splat(self, x: f32) -> Self::F32;
    /// The first `LANES` numbers of `from`; panics if it is shorter.
    fn load(self, from: &[f32]) -> Self::F32;
    fn store(self, to: &mut [f32], x: Self::F32);
    /// # Safety
    /// `LANES` numbers must be readable at `from`.
    unsafe fn load_ptr(self, from: *const f32) -> Self::F32;
    /// # Safety
    /// `LANES` numbers must be writable at `to`.
    unsafe fn store_ptr(self, to: *mut f32, x: Self::F32);
    /// Asks for the cache line at `from`, which need not be readable.
    fn prefetch(self, from: *const f32);
    /// The first `min(from.len(), LANES)` numbers, zero in the other lanes.
    fn load_partial(self, from: &[f32]) -> Self::F32;
    /// Stores the first `min(to.len(), LANES)` lanes.
    fn store_partial(self, to: &mut [f32], x: Self::F32);

    /// Transposes a square of `LANES` rows; the strides are in numbers.
    ///
    /// # Safety
    /// `LANES` rows of `LANES` numbers must be readable at `from` and writable at `to`, and the two must not overlap.
    unsafe fn transpose(self, from: *const f32, from_stride: usize, to: *mut f32, to_stride: usize);

    fn add(self, a: Self::F32, b: Self::F32) -> Self::F32;
    fn sub(self, a: Self::F32, b: Self::F32) -> Self::F32;
    fn mul(self, a: Self::F32, b: Self::F32) -> Self::F32;
    fn div(self, a: Self::F32, b: Self::F32) -> Self::F32;
    /// `a * b + c`; one rounding where the CPU fuses, two on the portable path.
    fn mul_add(self, a: Self::F32, b: Self::F32, c: Self::F32) -> Self::F32;
    /// `b` if `a` is NaN.
    fn max(self, a: Self::F32, b: Self::F32) -> Self::F32;
    /// `b` if `a` is NaN.
    fn min(self, a: Self::F32, b: Self::F32) -> Self::F32;
    fn sqrt(self, a: Self::F32) -> Self::F32;
    fn abs(self, a: Self::F32) -> Self::F32;
    /// To the nearest integer, ties to even; |a| below 2^22.
    fn round(self, a: Self::F32) -> Self::F32;
    /// `2^n` for integral `n` in `-126..=127`; 0 for -127, infinity for 128.
    fn exp2_integral(self, n: Self::F32) -> Self::F32;

    /// The bits of `sums` and `column_sums` as 32-bit integers: `sums - zero * column_sums` as numbers; wrapping.
    fn dequantize(self, sums: Self::F32, zero: i32, column_sums: Self::F32) -> Self::F32;
    /// Stores the lanes rounded to nearest, ties to even, to the first `LANES` of `to`; for numbers from 0 to 255.
    fn store_u8(self, to: &mut [u8], x: Self::F32);
    /// The same in two bytes each, the lower first.
    fn store_u16(self, to: &mut [u8], x: Self::F32);

    fn less(self, a: Self::F32, b: Self::F32) -> Self::Mask;
    /// `a` where the mask is true, else `b`.
    fn select(self, mask: Self::Mask, a: Self::F32, b: Self::F32) -> Self::F32;

    /// Sum of the lanes, in a fixed tree order.
    fn sum(self, a: Self::F32) -> f32;
    /// Largest lane.
    fn largest(self, a: Self::F32) -> f32;

    /// Runs the kernel with the instruction set enabled for the compiler.
    fn vectorize<K: Kernel>(self, kernel: K) -> K::Output;
}

/// A piece of work written for any instruction set. `run` must be `#[inline(always)]`, so that it is compiled inside
/// the function that enables the instructions; the same holds for every generic helper it calls.
pub(crate) trait Kernel {
    type Output;
    fn run<S: Simd>(self, simd: S) -> Self::Output;
}

/// Runs `kernel` on the instruction set `isa`, which the [`crate::Runtime`] has found on this CPU.
pub(crate) fn dispatch<K: Kernel>(isa: Isa, kernel: K) -> K::Output {
    match isa {
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 | Isa::Amx => arch::avx512::Avx512::detect()
            .expect("a Runtime is only made for an instruction set the CPU has")
            .vectorize(kernel),
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => arch::avx2::Avx2::detect()
            .expect("a Runtime is only made for an instruction set the CPU has")
            .vectorize(kernel),
        _ => arch::portable::Portable.vectorize(kernel),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Everything<'a>(&'a [f32], &'a [f32]);

    impl Kernel for Everything<'_> {
        type Output = Vec<f32>;
        #[inline(always)]
        fn run<S: Simd>(self, simd: S) -> Vec<f32> {
            let (mut results, mut lanes) = (Vec::new(), [0.0; 64]);
            for (a, b) in self.0.chunks(S::LANES).zip(self.1.chunks(S::LANES)) {
                let (x, y) = (simd.load_partial(a), simd.load_partial(b));
                let positive = simd.less(simd.splat(0.0), x);
                for z in [
                    simd.add(x, y),
                    simd.sub(x, y),
                    simd.mul(x, y),
                    simd.div(x, y),
                    simd.max(x, y),
                    simd.min(x, y),
                    simd.sqrt(simd.abs(x)),
                    simd.round(x),
                    simd.exp2_integral(simd.round(x)),
                    simd.select(positive, x, y),
                    simd.mul_add(x, simd.splat(2.0), y),
                ] {
                    simd.store_partial(&mut lanes[..a.len()], z);
                    results.extend_from_slice(&lanes[..a.len()]);
                    if a.len() == S::LANES {
                        let mut full = [0.0; 64];
                        simd.store(&mut full, simd.load(&lanes));
                        assert_eq!(full[..S::LANES], lanes[..S::LANES]);
                    }
                }
            }
            results
        }
    }

    #[test]
    fn every_instruction_set_agrees_with_plain_arithmetic() {
        let a: Vec<f32> = (0..37).map(|i| (i as f32 - 17.3) * 1.7).collect();
        let b: Vec<f32> = (0..37).map(|i| (i as f32 * 0.3) - 4.05).collect();
        for isa in Isa::available() {
            let results = dispatch(isa, Everything(&a, &b));
            let mut sorted = results;
            let mut expected: Vec<f32> = a
                .iter()
                .zip(&b)
                .flat_map(|(&x, &y)| {
                    [
                        x + y,
                        x - y,
                        x * y,
                        x / y,
                        x.max(y),
                        x.min(y),
                        x.abs().sqrt(),
                        x.round_ties_even(),
                        x.round_ties_even().exp2(),
                        if x > 0.0 { x } else { y },
                        x * 2.0 + y,
                    ]
                })
                .collect();
            sorted.sort_by(f32::total_cmp);
            expected.sort_by(f32::total_cmp);
            assert_eq!(sorted, expected, "{isa}");
        }
    }

    struct Transpose;

    impl Kernel for Transpose {
        type Output = ();
        #[inline(always)]
        fn run<S: Simd>(self, simd: S) {
            let (from_stride, to_stride) = (S::LANES + 3, S::LANES + 1);
            let from: Vec<f32> = (0..S::LANES * from_stride).map(|i| i as f32).collect();
            let mut to = vec![-1.0; S::LANES * to_stride];
            // SAFETY: both hold LANES rows of at least LANES numbers.
            unsafe { simd.transpose(from.as_ptr(), from_stride, to.as_mut_ptr(), to_stride) };
            for (i, x) in to.into_iter().enumerate() {
                let (row, column) = (i / to_stride, i % to_stride);
                assert_eq!(x, if column < S::LANES { from[column * from_stride + row] } else { -1.0 });
            }
        }
    }

    #[test]
    fn a_transposed_square_has_rows_for_columns() {
        Isa::available().for_each(|isa| dispatch(isa, Transpose));
    }

    struct Reduce<'a>(&'a [f32]);

    impl Kernel for Reduce<'_> {
        type Output = (f32, f32);
        #[inline(always)]
        fn run<S: Simd>(self, simd: S) -> (f32, f32) {
            let x = simd.load(self.0);
            (simd.sum(x) / S::LANES as f32, simd.largest(x))
        }
    }

    #[test]
    fn reductions_cover_every_lane() {
        for isa in Isa::available() {
            for at in 0..16 {
                let mut x = [1.0f32; 16];
                x[at] = 1.0;
                assert_eq!(dispatch(isa, Reduce(&x)), (1.0, 1.0), "{isa}");
            }
            let lanes = dispatch(isa, Lanes);
            for at in 0..lanes {
                let mut x = vec![0.0f32; lanes];
                x[at] = lanes as f32;
                assert_eq!(dispatch(isa, Reduce(&x)), (1.0, lanes as f32), "{isa}, lane {at}");
            }
        }
    }

    struct Lanes;

    impl Kernel for Lanes {
        type Output = usize;
        #[inline(always)]
        fn run<S: Simd>(self, _: S) -> usize {
            S::LANES
        }
    }
}
