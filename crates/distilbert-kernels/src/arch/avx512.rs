//! AVX-512 F, BW, DQ and VL: sixteen lanes, thirty-two registers.

use crate::matmul::bf16;
use crate::matmul::dot::{Dot, DotKernel, FloatDot, FloatKernel};
use crate::matmul::pack::{Layout, Source};
use crate::matmul::tile::Left;
use crate::simd::{Kernel, Simd};
use std::arch::x86_64::*;

/// Proof that the CPU has AVX-512 F, BW, DQ and VL and FMA.
#[derive(Clone, Copy)]
pub(crate) struct Avx512(());

const LANES: usize = 16;

impl Avx512 {
    #[inline]
    pub(crate) fn detect() -> Option<Self> {
        let found = is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("avx512vl")
            && is_x86_feature_detected!("fma");
        found.then_some(Avx512(()))
    }

    #[inline(always)]
    fn tail_mask(len: usize) -> __mmask16 {
        if len >= LANES { u16::MAX } else { (1u16 << len) - 1 }
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
fn run_vectorized<K: Kernel>(simd: Avx512, kernel: K) -> K::Output {
    kernel.run(simd)
}

// SAFETY of every block below: an `Avx512` exists only after `detect` found the instructions; slices are checked to
// hold the lanes that are read or written, or the mask covers only lanes inside the slice.
#[allow(clippy::undocumented_unsafe_blocks)]
impl Simd for Avx512 {
    type F32 = __m512;
    type Mask = __mmask16;
    const LANES: usize = LANES;
    const TILE_ROWS: usize = 8;
    const TILE_VECTORS: usize = 3;

    #[inline(always)]
    fn splat(self, x: f32) -> __m512 {
        unsafe { _mm512_set1_ps(x) }
    }
    #[inline(always)]
    fn load(self, from: &[f32]) -> __m512 {
        unsafe { _mm512_loadu_ps(from[..LANES].as_ptr()) }
    }
    #[inline(always)]
    fn store(self, to: &mut [f32], x: __m512) {
        unsafe { _mm512_storeu_ps(to[..LANES].as_mut_ptr(), x) }
    }
    #[inline(always)]
    unsafe fn load_ptr(self, from: *const f32) -> __m512 {
        unsafe { _mm512_loadu_ps(from) }
    }
    #[inline(always)]
    unsafe fn store_ptr(self, to: *mut f32, x: __m512) {
        unsafe { _mm512_storeu_ps(to, x) }
    }
    #[inline(always)]
    fn prefetch(self, from: *const f32) {
        unsafe { _mm_prefetch::<_MM_HINT_T0>(from.cast()) }
    }
    #[inline(always)]
    fn load_partial(self, from: &[f32]) -> __m512 {
        unsafe { _mm512_maskz_loadu_ps(Self::tail_mask(from.len()), from.as_ptr()) }
    }
    #[inline(always)]
    fn store_partial(self, to: &mut [f32], x: __m512) {
        unsafe { _mm512_mask_storeu_ps(to.as_mut_ptr(), Self::tail_mask(to.len()), x) }
    }
    #[inline(always)]
    unsafe fn transpose(self, from: *const f32, from_stride: usize, to: *mut f32, to_stride: usize) {
        unsafe {
            let mut rows = [_mm512_setzero_ps(); LANES];
            for (i, row) in rows.iter_mut().enumerate() {
                *row = _mm512_loadu_ps(from.add(i * from_stride));
            }
            // Squares of four inside each quarter of the vectors: quarter q of `squares[i + c]` is column 4q + c of
            // rows i to i + 3.
            let mut squares = rows;
            for i in (0..LANES).step_by(4) {
                let low = _mm512_castps_pd(_mm512_unpacklo_ps(rows[i], rows[i + 1]));
                let high = _mm512_castps_pd(_mm512_unpackhi_ps(rows[i], rows[i + 1]));
                let next_low = _mm512_castps_pd(_mm512_unpacklo_ps(rows[i + 2], rows[i + 3]));
                let next_high = _mm512_castps_pd(_mm512_unpackhi_ps(rows[i + 2], rows[i + 3]));
                squares[i] = _mm512_castpd_ps(_mm512_unpacklo_pd(low, next_low));
                squares[i + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(low, next_low));
                squares[i + 2] = _mm512_castpd_ps(_mm512_unpacklo_pd(high, next_high));
                squares[i + 3] = _mm512_castpd_ps(_mm512_unpackhi_pd(high, next_high));
            }
            // Then the squares change places.
            const EVEN: i32 = 0b10_00_10_00;
            const ODD: i32 = 0b11_01_11_01;
            for c in 0..4 {
                let even = _mm512_shuffle_f32x4::<EVEN>(squares[c], squares[4 + c]);
                let odd = _mm512_shuffle_f32x4::<ODD>(squares[c], squares[4 + c]);
                let next_even = _mm512_shuffle_f32x4::<EVEN>(squares[8 + c], squares[12 + c]);
                let next_odd = _mm512_shuffle_f32x4::<ODD>(squares[8 + c], squares[12 + c]);
                _mm512_storeu_ps(to.add(c * to_stride), _mm512_shuffle_f32x4::<EVEN>(even, next_even));
                _mm512_storeu_ps(to.add((4 + c) * to_stride), _mm512_shuffle_f32x4::<EVEN>(odd, next_odd));
                _mm512_storeu_ps(to.add((8 + c) * to_stride), _mm512_shuffle_f32x4::<ODD>(even, next_even));
                _mm512_storeu_ps(to.add((12 + c) * to_stride), _mm512_shuffle_f32x4::<ODD>(odd, next_odd));
            }
        }
    }
    #[inline(always)]
    fn add(self, a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_add_ps(a, b) }
    }
    #[inline(always)]
    fn sub(self, a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_sub_ps(a, b) }
    }
    #[inline(always)]
    fn mul(self, a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_mul_ps(a, b) }
    }
    #[inline(always)]
    fn div(self, a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_div_ps(a, b) }
    }
    #[inline(always)]
    fn mul_add(self, a: __m512, b: __m512, c: __m512) -> __m512 {
        unsafe { _mm512_fmadd_ps(a, b, c) }
    }
    #[inline(always)]
    fn max(self, a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_max_ps(a, b) }
    }
    #[inline(always)]
    fn min(self, a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_min_ps(a, b) }
    }
    #[inline(always)]
    fn sqrt(self, a: __m512) -> __m512 {
        unsafe { _mm512_sqrt_ps(a) }
    }
    #[inline(always)]
    fn abs(self, a: __m512) -> __m512 {
        unsafe { _mm512_abs_ps(a) }
    }
    #[inline(always)]
    fn round(self, a: __m512) -> __m512 {
        unsafe { _mm512_roundscale_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(a) }
    }
    #[inline(always)]
    fn exp2_integral(self, n: __m512) -> __m512 {
        unsafe {
            let biased = _mm512_add_epi32(_mm512_cvtps_epi32(n), _mm512_set1_epi32(127));
            _mm512_castsi512_ps(_mm512_slli_epi32::<23>(biased))
        }
    }
    #[inline(always)]
    fn dequantize(self, sums: __m512, zero: i32, column_sums: __m512) -> __m512 {
        unsafe {
            let excess = _mm512_mullo_epi32(_mm512_set1_epi32(zero), _mm512_castps_si512(column_sums));
            _mm512_cvtepi32_ps(_mm512_sub_epi32(_mm512_castps_si512(sums), excess))
        }
    }
    #[inline(always)]
    fn store_u8(self, to: &mut [u8], x: __m512) {
        unsafe {
            let bytes = _mm512_cvtusepi32_epi8(_mm512_cvtps_epi32(x));
            _mm_storeu_si128(to[..LANES].as_mut_ptr().cast(), bytes);
        }
    }
    #[inline(always)]
    fn store_u16(self, to: &mut [u8], x: __m512) {
        unsafe {
            let words = _mm512_cvtusepi32_epi16(_mm512_cvtps_epi32(x));
            _mm256_storeu_si256(to[..2 * LANES].as_mut_ptr().cast(), words);
        }
    }
    #[inline(always)]
    fn less(self, a: __m512, b: __m512) -> __mmask16 {
        unsafe { _mm512_cmp_ps_mask::<_CMP_LT_OQ>(a, b) }
    }
    #[inline(always)]
    fn select(self, mask: __mmask16, a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_mask_blend_ps(mask, b, a) }
    }
    #[inline(always)]
    fn sum(self, a: __m512) -> f32 {
        unsafe { _mm512_reduce_add_ps(a) }
    }
    #[inline(always)]
    fn largest(self, a: __m512) -> f32 {
        unsafe { _mm512_reduce_max_ps(a) }
    }
    #[inline(always)]
    fn vectorize<K: Kernel>(self, kernel: K) -> K::Output {
        unsafe { run_vectorized(self, kernel) }
    }
}

/// Two bf16 a unit, by `vdpbf16ps`. Proof that the CPU has it beside AVX-512.
#[derive(Clone, Copy)]
pub(crate) struct Avx512Bf16(pub(crate) Avx512);

impl Avx512Bf16 {
    #[inline]
    pub(crate) fn detect() -> Option<Self> {
        if is_x86_feature_detected!("avx512bf16") { Avx512::detect().map(Avx512Bf16) } else { None }
    }

    /// Sixteen units: lane by lane, `low` in the lower half of the unit and `high` in the upper, rounded to nearest
    /// even.
    #[inline(always)]
    pub(crate) fn pair(self, low: __m512, high: __m512) -> __m512 {
        // SAFETY: the type proves AVX-512 and BF16.
        unsafe {
            let low = _mm512_cvtepu16_epi32(m256i(_mm512_cvtneps_pbh(low)));
            let high = _mm512_cvtepu16_epi32(m256i(_mm512_cvtneps_pbh(high)));
            _mm512_castsi512_ps(_mm512_or_si512(low, _mm512_slli_epi32::<16>(high)))
        }
    }

    /// Sixteen units of 32 numbers in their order: `first`, then `second`.
    #[inline(always)]
    pub(crate) fn join(self, first: __m512, second: __m512) -> __m512 {
        // SAFETY: the type proves AVX-512 and BF16; both types are 512 bits without invalid values.
        unsafe { std::mem::transmute::<__m512bh, __m512>(_mm512_cvtne2ps_pbh(second, first)) }
    }
}

#[inline(always)]
fn m256i(x: __m256bh) -> __m256i {
    // SAFETY: both are 256 bits without invalid values.
    unsafe { std::mem::transmute(x) }
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx2,fma")]
fn run_bf16<K: DotKernel>(dot: Avx512Bf16, kernel: K) -> K::Output {
    kernel.run(dot)
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx2,fma")]
fn run_bf16_float<K: FloatKernel>(dot: Avx512Bf16, kernel: K) -> K::Output {
    kernel.run(dot)
}

// SAFETY of every block below: an `Avx512Bf16` exists only after `detect` found the instructions; the pointers are the
// callers' promises.
#[allow(clippy::undocumented_unsafe_blocks)]
impl Dot for Avx512Bf16 {
    type Simd = Avx512;
    type Left = __m512bh;
    type Right = __m512bh;
    const GROUP: usize = 2;
    const TILE_ROWS: usize = 8;

    #[inline(always)]
    fn simd(self) -> Avx512 {
        self.0
    }
    #[inline(always)]
    unsafe fn load_left(self, from: *const f32) -> __m512bh {
        unsafe { std::mem::transmute(_mm512_set1_epi32(*from.cast::<i32>())) }
    }
    #[inline(always)]
    unsafe fn load_right(self, from: *const f32) -> __m512bh {
        unsafe { std::mem::transmute(_mm512_loadu_ps(from)) }
    }
    #[inline(always)]
    fn dot(self, left: __m512bh, right: __m512bh, sums: __m512) -> __m512 {
        unsafe { _mm512_dpbf16_ps(sums, left, right) }
    }
    #[inline(always)]
    fn vectorize<K: DotKernel>(self, kernel: K) -> K::Output {
        unsafe { run_bf16(self, kernel) }
    }
}

impl FloatDot for Avx512Bf16 {
    const LEFT_ROWS: usize = Self::TILE_ROWS;

    #[inline(always)]
    fn pack_right(self, from: Source, shape: (usize, usize), layout: Layout, first: usize, to: &mut [f32]) {
        bf16::pack_panels(self, from, shape, layout, first, to);
    }
    #[inline(always)]
    fn pack_left_transposed(self, from: &[f32], stride: usize, depth: usize, rows: usize, to: &mut [f32]) {
        bf16::pack_left_transposed(self, from, stride, depth, rows, to);
    }
    #[inline(always)]
    fn left_transposed(self, packed: &[f32], _: usize) -> Left<'_> {
        Left::columns(packed, Self::TILE_ROWS)
    }
    #[inline(always)]
    fn left_rows<'a>(
        self,
        from: &'a [f32],
        stride: usize,
        (rows, depth): (usize, usize),
        scratch: &'a mut [f32],
    ) -> Left<'a> {
        bf16::round_rows(self, from, stride, (rows, depth), scratch);
        Left::rows(scratch, depth.div_ceil(2))
    }
    #[inline(always)]
    fn vectorize_float<K: FloatKernel>(self, kernel: K) -> K::Output {
        // SAFETY: an `Avx512Bf16` exists only after `detect` found the instructions.
        unsafe { run_bf16_float(self, kernel) }
    }
}

/// Four int8 a unit: by `vpdpbusd`, or without it by widening to 16 bits and `vpmaddwd`, with equal bits.
#[derive(Clone, Copy)]
pub(crate) struct Avx512Int8<const VNNI: bool>(Avx512);

impl<const VNNI: bool> Avx512Int8<VNNI> {
    #[inline]
    pub(crate) fn detect() -> Option<Self> {
        if !VNNI || is_x86_feature_detected!("avx512vnni") { Avx512::detect().map(Avx512Int8) } else { None }
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma")]
fn run_vnni<K: DotKernel>(dot: Avx512Int8<true>, kernel: K) -> K::Output {
    kernel.run(dot)
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
fn run_widening<K: DotKernel>(dot: Avx512Int8<false>, kernel: K) -> K::Output {
    kernel.run(dot)
}

// SAFETY of every block below: an `Avx512Int8<true>` exists only after `detect` found the instructions; the pointers
// are the callers' promises.
#[allow(clippy::undocumented_unsafe_blocks)]
impl Dot for Avx512Int8<true> {
    type Simd = Avx512;
    type Left = __m512i;
    type Right = __m512i;
    const GROUP: usize = 4;
    const TILE_ROWS: usize = 8;

    #[inline(always)]
    fn simd(self) -> Avx512 {
        self.0
    }
    #[inline(always)]
    unsafe fn load_left(self, from: *const f32) -> __m512i {
        unsafe { _mm512_set1_epi32(*from.cast::<i32>()) }
    }
    #[inline(always)]
    unsafe fn load_right(self, from: *const f32) -> __m512i {
        unsafe { _mm512_loadu_si512(from.cast()) }
    }
    #[inline(always)]
    fn dot(self, left: __m512i, right: __m512i, sums: __m512) -> __m512 {
        unsafe { _mm512_castsi512_ps(_mm512_dpbusd_epi32(_mm512_castps_si512(sums), left, right)) }
    }
    #[inline(always)]
    fn vectorize<K: DotKernel>(self, kernel: K) -> K::Output {
        unsafe { run_vnni(self, kernel) }
    }
}

// SAFETY of every block below: as above, with the instructions of `Avx512`.
#[allow(clippy::undocumented_unsafe_blocks)]
impl Dot for Avx512Int8<false> {
    type Simd = Avx512;
    /// Bytes 0 and 2 of the unit, then bytes 1 and 3, each widened to 16 bits.
    type Left = [__m512i; 2];
    type Right = [__m512i; 2];
    const GROUP: usize = 4;
    const TILE_ROWS: usize = 6;

    #[inline(always)]
    fn simd(self) -> Avx512 {
        self.0
    }
    #[inline(always)]
    unsafe fn load_left(self, from: *const f32) -> [__m512i; 2] {
        const BYTES_0_AND_2: u32 = 0x00ff_00ff;
        unsafe {
            let unit = *from.cast::<u32>();
            let [even, odd] = [unit & BYTES_0_AND_2, (unit >> 8) & BYTES_0_AND_2];
            [_mm512_set1_epi32(even as i32), _mm512_set1_epi32(odd as i32)]
        }
    }
    #[inline(always)]
    unsafe fn load_right(self, from: *const f32) -> [__m512i; 2] {
        unsafe {
            let units = _mm512_loadu_si512(from.cast());
            [_mm512_srai_epi16::<8>(_mm512_slli_epi16::<8>(units)), _mm512_srai_epi16::<8>(units)]
        }
    }
    #[inline(always)]
    fn dot(self, left: [__m512i; 2], right: [__m512i; 2], sums: __m512) -> __m512 {
        unsafe {
            let even = _mm512_madd_epi16(left[0], right[0]);
            let odd = _mm512_madd_epi16(left[1], right[1]);
            _mm512_castsi512_ps(_mm512_add_epi32(_mm512_castps_si512(sums), _mm512_add_epi32(even, odd)))
        }
    }
    #[inline(always)]
    fn vectorize<K: DotKernel>(self, kernel: K) -> K::Output {
        unsafe { run_widening(self, kernel) }
    }
}
