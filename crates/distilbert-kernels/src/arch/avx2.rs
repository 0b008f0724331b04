//! AVX2 and FMA: eight lanes, sixteen registers.

use crate::matmul::dot::{Dot, DotKernel};
use crate::simd::{Kernel, Simd};
use std::arch::x86_64::*;

/// Proof that the CPU has AVX2 and FMA.
#[derive(Clone, Copy)]
pub(crate) struct Avx2(());

const LANES: usize = 8;

impl Avx2 {
    #[inline]
    pub(crate) fn detect() -> Option<Self> {
        (is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma")).then_some(Avx2(()))
    }

    #[inline(always)]
    fn tail_mask(len: usize) -> __m256i {
        const ONES_THEN_ZEROS: [i32; 2 * LANES] = [-1, -1, -1, -1, -1, -1, -1, -1, 0, 0, 0, 0, 0, 0, 0, 0];
        let zeros = LANES - len.min(LANES);
        // SAFETY: the type proves AVX2; `zeros` is at most LANES, so eight numbers can be read from there.
        unsafe { _mm256_loadu_si256(ONES_THEN_ZEROS.as_ptr().add(zeros).cast()) }
    }
}

#[target_feature(enable = "avx2,fma")]
fn run_vectorized<K: Kernel>(simd: Avx2, kernel: K) -> K::Output {
    kernel.run(simd)
}

// SAFETY of every block below: an `Avx2` exists only after `detect` found the instructions; slices are checked to
// hold the lanes that are read or written, or the mask covers only lanes inside the slice.
#[allow(clippy::undocumented_unsafe_blocks)]
impl Simd for Avx2 {
    type F32 = __m256;
    type Mask = __m256;
    const LANES: usize = LANES;
    const TILE_ROWS: usize = 6;
    const TILE_VECTORS: usize = 2;

    #[inline(always)]
    fn splat(self, x: f32) -> __m256 {
        unsafe { _mm256_set1_ps(x) }
    }
    #[inline(always)]
    fn load(self, from: &[f32]) -> __m256 {
        unsafe { _mm256_loadu_ps(from[..LANES].as_ptr()) }
    }
    #[inline(always)]
    fn store(self, to: &mut [f32], x: __m256) {
        unsafe { _mm256_storeu_ps(to[..LANES].as_mut_ptr(), x) }
    }
    #[inline(always)]
    unsafe fn load_ptr(self, from: *const f32) -> __m256 {
        unsafe { _mm256_loadu_ps(from) }
    }
    #[inline(always)]
    unsafe fn store_ptr(self, to: *mut f32, x: __m256) {
        unsafe { _mm256_storeu_ps(to, x) }
    }
    #[inline(always)]
    fn prefetch(self, from: *const f32) {
        unsafe { _mm_prefetch::<_MM_HINT_T0>(from.cast()) }
    }
    #[inline(always)]
    fn load_partial(self, from: &[f32]) -> __m256 {
        unsafe { _mm256_maskload_ps(from.as_ptr(), Self::tail_mask(from.len())) }
    }
    #[inline(always)]
    fn store_partial(self, to: &mut [f32], x: __m256) {
        unsafe { _mm256_maskstore_ps(to.as_mut_ptr(), Self::tail_mask(to.len()), x) }
    }
    #[inline(always)]
    unsafe fn transpose(self, from: *const f32, from_stride: usize, to: *mut f32, to_stride: usize) {
        unsafe {
            let mut rows = [_mm256_setzero_ps(); LANES];
            for (i, row) in rows.iter_mut().enumerate() {
                *row = _mm256_loadu_ps(from.add(i * from_stride));
            }
            // Squares of four inside each half of the vectors: half h of `squares[i + c]` is column 4h + c of rows i
            // to i + 3.
            let mut squares = rows;
            for i in (0..LANES).step_by(4) {
                let low = _mm256_castps_pd(_mm256_unpacklo_ps(rows[i], rows[i + 1]));
                let high = _mm256_castps_pd(_mm256_unpackhi_ps(rows[i], rows[i + 1]));
                let next_low = _mm256_castps_pd(_mm256_unpacklo_ps(rows[i + 2], rows[i + 3]));
                let next_high = _mm256_castps_pd(_mm256_unpackhi_ps(rows[i + 2], rows[i + 3]));
                squares[i] = _mm256_castpd_ps(_mm256_unpacklo_pd(low, next_low));
                squares[i + 1] = _mm256_castpd_ps(_mm256_unpackhi_pd(low, next_low));
                squares[i + 2] = _mm256_castpd_ps(_mm256_unpacklo_pd(high, next_high));
                squares[i + 3] = _mm256_castpd_ps(_mm256_unpackhi_pd(high, next_high));
            }
            // Then the squares change places.
            for c in 0..4 {
                let low = _mm256_permute2f128_ps::<0x20>(squares[c], squares[4 + c]);
                let high = _mm256_permute2f128_ps::<0x31>(squares[c], squares[4 + c]);
                _mm256_storeu_ps(to.add(c * to_stride), low);
                _mm256_storeu_ps(to.add((4 + c) * to_stride), high);
            }
        }
    }
    #[inline(always)]
    fn add(self, a: __m256, b: __m256) -> __m256 {
        unsafe { _mm256_add_ps(a, b) }
    }
    #[inline(always)]
    fn sub(self, a: __m256, b: __m256) -> __m256 {
        unsafe { _mm256_sub_ps(a, b) }
    }
    #[inline(always)]
    fn mul(self, a: __m256, b: __m256) -> __m256 {
        unsafe { _mm256_mul_ps(a, b) }
    }
    #[inline(always)]
    fn div(self, a: __m256, b: __m256) -> __m256 {
        unsafe { _mm256_div_ps(a, b) }
    }
    #[inline(always)]
    fn mul_add(self, a: __m256, b: __m256, c: __m256) -> __m256 {
        unsafe { _mm256_fmadd_ps(a, b, c) }
    }
    #[inline(always)]
    fn max(self, a: __m256, b: __m256) -> __m256 {
        unsafe { _mm256_max_ps(a, b) }
    }
    #[inline(always)]
    fn min(self, a: __m256, b: __m256) -> __m256 {
        unsafe { _mm256_min_ps(a, b) }
    }
    #[inline(always)]
    fn sqrt(self, a: __m256) -> __m256 {
        unsafe { _mm256_sqrt_ps(a) }
    }
    #[inline(always)]
    fn abs(self, a: __m256) -> __m256 {
        unsafe { _mm256_andnot_ps(_mm256_set1_ps(-0.0), a) }
    }
    #[inline(always)]
    fn round(self, a: __m256) -> __m256 {
        unsafe { _mm256_round_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(a) }
    }
    #[inline(always)]
    fn exp2_integral(self, n: __m256) -> __m256 {
        unsafe {
            let biased = _mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127));
            _mm256_castsi256_ps(_mm256_slli_epi32::<23>(biased))
        }
    }
    #[inline(always)]
    fn dequantize(self, sums: __m256, zero: i32, column_sums: __m256) -> __m256 {
        unsafe {
            let excess = _mm256_mullo_epi32(_mm256_set1_epi32(zero), _mm256_castps_si256(column_sums));
            _mm256_cvtepi32_ps(_mm256_sub_epi32(_mm256_castps_si256(sums), excess))
        }
    }
    #[inline(always)]
    fn store_u8(self, to: &mut [u8], x: __m256) {
        unsafe {
            let x = _mm256_cvtps_epi32(x);
            let words = _mm_packus_epi32(_mm256_castsi256_si128(x), _mm256_extracti128_si256::<1>(x));
            _mm_storel_epi64(to[..LANES].as_mut_ptr().cast(), _mm_packus_epi16(words, words));
        }
    }
    #[inline(always)]
    fn store_u16(self, to: &mut [u8], x: __m256) {
        unsafe {
            let x = _mm256_cvtps_epi32(x);
            let words = _mm_packus_epi32(_mm256_castsi256_si128(x), _mm256_extracti128_si256::<1>(x));
            _mm_storeu_si128(to[..2 * LANES].as_mut_ptr().cast(), words);
        }
    }
    #[inline(always)]
    fn less(self, a: __m256, b: __m256) -> __m256 {
        unsafe { _mm256_cmp_ps::<_CMP_LT_OQ>(a, b) }
    }
    #[inline(always)]
    fn select(self, mask: __m256, a: __m256, b: __m256) -> __m256 {
        unsafe { _mm256_blendv_ps(b, a, mask) }
    }
    #[inline(always)]
    fn sum(self, a: __m256) -> f32 {
        let mut lanes = [0.0; LANES];
        self.store(&mut lanes, a);
        ((lanes[0] + lanes[4]) + (lanes[2] + lanes[6])) + ((lanes[1] + lanes[5]) + (lanes[3] + lanes[7]))
    }
    #[inline(always)]
    fn largest(self, a: __m256) -> f32 {
        let mut lanes = [0.0; LANES];
        self.store(&mut lanes, a);
        lanes.into_iter().fold(f32::NEG_INFINITY, f32::max)
    }
    #[inline(always)]
    fn vectorize<K: Kernel>(self, kernel: K) -> K::Output {
        unsafe { run_vectorized(self, kernel) }
    }
}

/// Four int8 a unit: by AVX-VNNI's `vpdpbusd`, or without it by widening to 16 bits and `vpmaddwd`, with equal bits.
#[derive(Clone, Copy)]
pub(crate) struct Avx2Int8<const VNNI: bool>(Avx2);

impl<const VNNI: bool> Avx2Int8<VNNI> {
    #[inline]
    pub(crate) fn detect() -> Option<Self> {
        if !VNNI || is_x86_feature_detected!("avxvnni") { Avx2::detect().map(Avx2Int8) } else { None }
    }
}

#[target_feature(enable = "avx2,fma,avxvnni")]
fn run_vnni<K: DotKernel>(dot: Avx2Int8<true>, kernel: K) -> K::Output {
    kernel.run(dot)
}

#[target_feature(enable = "avx2,fma")]
fn run_widening<K: DotKernel>(dot: Avx2Int8<false>, kernel: K) -> K::Output {
    kernel.run(dot)
}

// SAFETY of every block below: an `Avx2Int8<true>` exists only after `detect` found the instructions; the pointers are
// the callers' promises.
#[allow(clippy::undocumented_unsafe_blocks)]
impl Dot for Avx2Int8<true> {
    type Simd = Avx2;
    type Left = __m256i;
    type Right = __m256i;
    const GROUP: usize = 4;
    const TILE_ROWS: usize = 6;

    #[inline(always)]
    fn simd(self) -> Avx2 {
        self.0
    }
    #[inline(always)]
    unsafe fn load_left(self, from: *const f32) -> __m256i {
        unsafe { _mm256_set1_epi32(*from.cast::<i32>()) }
    }
    #[inline(always)]
    unsafe fn load_right(self, from: *const f32) -> __m256i {
        unsafe { _mm256_loadu_si256(from.cast()) }
    }
    #[inline(always)]
    fn dot(self, left: __m256i, right: __m256i, sums: __m256) -> __m256 {
        unsafe { _mm256_castsi256_ps(_mm256_dpbusd_avx_epi32(_mm256_castps_si256(sums), left, right)) }
    }
    #[inline(always)]
    fn vectorize<K: DotKernel>(self, kernel: K) -> K::Output {
        unsafe { run_vnni(self, kernel) }
    }
}

// SAFETY of every block below: as above, with the instructions of `Avx2`.
#[allow(clippy::undocumented_unsafe_blocks)]
impl Dot for Avx2Int8<false> {
    type Simd = Avx2;
    /// Two numbers of 16 bits.
    type Left = __m256i;
    /// Two numbers of each column, widened to 16 bits.
    type Right = __m256i;
    const GROUP: usize = 4;
    const STEPS: usize = 2;
    const TILE_ROWS: usize = 6;

    #[inline(always)]
    fn simd(self) -> Avx2 {
        self.0
    }
    #[inline(always)]
    unsafe fn load_left(self, from: *const f32) -> __m256i {
        unsafe { _mm256_set1_epi32(*from.cast::<i32>()) }
    }
    #[inline(always)]
    unsafe fn load_right(self, from: *const f32) -> __m256i {
        unsafe { _mm256_cvtepi8_epi16(_mm_loadu_si128(from.cast())) }
    }
    #[inline(always)]
    fn dot(self, left: __m256i, right: __m256i, sums: __m256) -> __m256 {
        unsafe { _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(sums), _mm256_madd_epi16(left, right))) }
    }
    #[inline(always)]
    fn vectorize<K: DotKernel>(self, kernel: K) -> K::Output {
        unsafe { run_widening(self, kernel) }
    }
}
