//! What one instruction of a product multiplies: a unit of 32 bits along the depth, which is one f32, two bf16 or four
//! int8.
//!
//! The register tile, the panels and the blocking count the depth in units and so are the same for all of them. Units
//! travel in slices of `f32`, whatever their bits mean; only [`Dot`] looks inside.
//!
//! Where int8 is multiplied in 16 bits a unit is read in two steps of two numbers each. Then the right factor holds all
//! columns' first halves before their second halves, and the left factor, which is read far more often than it is made, holds
//! each number in 16 bits, so that a step of it is a unit wide.

use super::pack::{Layout, Source, pack_left_transposed, pack_panels};
use super::tile::{Left, TileOperands};
use crate::arch;
use crate::precision::Precision;
use crate::runtime::Isa;
use crate::simd::{Kernel, Simd, dispatch};

/// A multiply-add over vectors of units.
pub(crate) trait Dot: Copy + Send + Sync + 'static {
    /// The vectors that sums are loaded, finished and stored in.
    type Simd: Simd;
    /// A step of the left factor in every lane.
    type Left: Copy;
    /// A vector of steps of the right factor.
    type Right: Copy;
    /// Numbers in a unit.
    const GROUP: usize;
    /// Steps in which a unit is read: 1, or 2 of half its numbers each.
    const STEPS: usize = 1;
    /// Rows of the register tile.
    const TILE_ROWS: usize;
    /// Units of the depth that [`Dot::multiply_tiles`] takes a whole number of; 0 where there is no such thing.
    const TILE_DEPTH: usize = 0;
    /// The most rows of a call of it.
    const TILE_MOST_ROWS: usize = 0;

    fn simd(self) -> Self::Simd;
    /// A step of the left factor.
    ///
    /// # Safety
    /// 32 bits must be readable at `from`.
    unsafe fn load_left(self, from: *const f32) -> Self::Left;
    /// A step of the right factor.
    ///
    /// # Safety
    /// The step's part of `LANES` units must be readable at `from`.
    unsafe fn load_right(self, from: *const f32) -> Self::Right;
    /// `sums + left · right`, lane by lane. Sums travel as `f32` too, whether they are numbers or the bits of integers;
    /// both begin at 0.
    fn dot(self, left: Self::Left, right: Self::Right, sums: SumsOf<Self>) -> SumsOf<Self>;
    /// Multiplies some rows by a panel, where instructions take more than a step at a time.
    ///
    /// # Safety
    /// The operands must be as [`TileOperands`] says, with [`Dot::TILE_DEPTH`] and [`Dot::TILE_MOST_ROWS`].
    unsafe fn multiply_tiles(self, _: TileOperands) {
        unreachable!("asked only where TILE_DEPTH is not 0")
    }
    /// Runs the kernel with the instruction set enabled for the compiler.
    fn vectorize<K: DotKernel>(self, kernel: K) -> K::Output;
}

/// A vector of a [`Dot`]'s sums, 32 bits each.
pub(crate) type SumsOf<D> = <<D as Dot>::Simd as Simd>::F32;

/// A [`Dot`] whose factors are made from f32 without scales: f32 itself, and bf16.
pub(crate) trait FloatDot: Dot {
    /// As [`pack_panels`], of f32 numbers into units; the depth is rounded up to whole units with zeros.
    fn pack_right(self, from: Source, shape: (usize, usize), layout: Layout, first: usize, to: &mut [f32]);
    /// Rows that [`FloatDot::pack_left_transposed`] packs together.
    const LEFT_ROWS: usize;
    /// Packs `rows` columns of a `[depth, ..]` matrix, which are rows of its transpose, into [`FloatDot::LEFT_ROWS`] of units
    /// at a time. `from` starts at the first column; `to` has room for all rows, rounded up to whole groups.
    fn pack_left_transposed(self, from: &[f32], stride: usize, depth: usize, rows: usize, to: &mut [f32]);
    /// What it has packed, from the first row of a group on, of so many units.
    fn left_transposed(self, packed: &[f32], units: usize) -> Left<'_>;
    /// `rows` rows of `depth` numbers as a left factor; `scratch` has room for as many rows of units.
    fn left_rows<'a>(self, from: &'a [f32], stride: usize, shape: (usize, usize), scratch: &'a mut [f32]) -> Left<'a>;
    /// Runs the kernel with the instruction set enabled for the compiler.
    fn vectorize_float<K: FloatKernel>(self, kernel: K) -> K::Output;
}

/// A piece of work written for any [`Dot`]. `run` must be `#[inline(always)]`, as in [`Kernel`].
pub(crate) trait DotKernel {
    type Output;
    fn run<D: Dot>(self, dot: D) -> Self::Output;
}

/// A piece of work written for any [`FloatDot`]. `run` must be `#[inline(always)]`, as in [`Kernel`].
pub(crate) trait FloatKernel {
    type Output;
    fn run<D: FloatDot>(self, dot: D) -> Self::Output;
}

/// Units that `numbers` numbers take in this precision.
pub(crate) fn units(precision: Precision, numbers: usize) -> usize {
    match precision {
        Precision::F32 => numbers,
        Precision::Bf16 => numbers.div_ceil(2),
        Precision::Int8 => numbers.div_ceil(4),
    }
}

/// Runs `kernel` on f32 or bf16, which the caller has found on this CPU.
pub(crate) fn dispatch_float<K: FloatKernel>(isa: Isa, precision: Precision, kernel: K) -> K::Output {
    match precision {
        #[cfg(target_arch = "x86_64")]
        Precision::Bf16 if isa == Isa::Amx => arch::amx::AmxBf16::detect()
            .expect("a Runtime is only made for an instruction set the CPU has")
            .vectorize_float(kernel),
        #[cfg(target_arch = "x86_64")]
        Precision::Bf16 => arch::avx512::Avx512Bf16::detect()
            .expect("a matrix is only packed in a precision the CPU has")
            .vectorize_float(kernel),
        Precision::F32 => dispatch(isa, OnF32(kernel)),
        _ => unreachable!("{precision} has scales"),
    }
}

/// Runs `kernel` on any precision, which the caller has found on this CPU.
pub(crate) fn dispatch_dot<K: DotKernel>(isa: Isa, precision: Precision, kernel: K) -> K::Output {
    match (precision, isa) {
        (Precision::F32, _) => dispatch(isa, OnF32Dot(kernel)),
        #[cfg(target_arch = "x86_64")]
        (Precision::Bf16, Isa::Amx) => arch::amx::AmxBf16::detect()
            .expect("a Runtime is only made for an instruction set the CPU has")
            .vectorize(kernel),
        #[cfg(target_arch = "x86_64")]
        (Precision::Bf16, _) => arch::avx512::Avx512Bf16::detect()
            .expect("a matrix is only packed in a precision the CPU has")
            .vectorize(kernel),
        #[cfg(target_arch = "x86_64")]
        (Precision::Int8, Isa::Amx) => arch::amx::AmxInt8::detect()
            .expect("a Runtime is only made for an instruction set the CPU has")
            .vectorize(kernel),
        #[cfg(target_arch = "x86_64")]
        (Precision::Int8, Isa::Avx512) => match arch::avx512::Avx512Int8::<true>::detect() {
            Some(dot) => dot.vectorize(kernel),
            None => arch::avx512::Avx512Int8::<false>::detect()
                .expect("a Runtime is only made for an instruction set the CPU has")
                .vectorize(kernel),
        },
        #[cfg(target_arch = "x86_64")]
        (Precision::Int8, Isa::Avx2) => match arch::avx2::Avx2Int8::<true>::detect() {
            Some(dot) => dot.vectorize(kernel),
            None => arch::avx2::Avx2Int8::<false>::detect()
                .expect("a Runtime is only made for an instruction set the CPU has")
                .vectorize(kernel),
        },
        (Precision::Int8, _) => arch::portable::PortableInt8.vectorize(kernel),
        #[cfg(not(target_arch = "x86_64"))]
        (Precision::Bf16, _) => unreachable!("a matrix is only packed in a precision the CPU has"),
    }
}

/// One f32 a unit.
#[derive(Clone, Copy)]
pub(crate) struct F32<S>(pub(crate) S);

struct OnF32<K>(K);

impl<K: FloatKernel> Kernel for OnF32<K> {
    type Output = K::Output;
    #[inline(always)]
    fn run<S: Simd>(self, simd: S) -> K::Output {
        self.0.run(F32(simd))
    }
}

struct OnF32Dot<K>(K);

impl<K: DotKernel> Kernel for OnF32Dot<K> {
    type Output = K::Output;
    #[inline(always)]
    fn run<S: Simd>(self, simd: S) -> K::Output {
        self.0.run(F32(simd))
    }
}

impl<S: Simd> Dot for F32<S> {
    type Simd = S;
    type Left = S::F32;
    type Right = S::F32;
    const GROUP: usize = 1;
    const TILE_ROWS: usize = S::TILE_ROWS;

    #[inline(always)]
    fn simd(self) -> S {
        self.0
    }
    #[inline(always)]
    unsafe fn load_left(self, from: *const f32) -> S::F32 {
        // SAFETY: the caller's promise.
        self.0.splat(unsafe { *from })
    }
    #[inline(always)]
    unsafe fn load_right(self, from: *const f32) -> S::F32 {
        // SAFETY: the caller's promise.
        unsafe { self.0.load_ptr(from) }
    }
    #[inline(always)]
    fn dot(self, left: S::F32, right: S::F32, sums: S::F32) -> S::F32 {
        self.0.mul_add(left, right, sums)
    }
    #[inline(always)]
    fn vectorize<K: DotKernel>(self, kernel: K) -> K::Output {
        self.0.vectorize(OnF32Dot(kernel))
    }
}

impl<S: Simd> FloatDot for F32<S> {
    #[inline(always)]
    fn pack_right(self, from: Source, shape: (usize, usize), layout: Layout, first: usize, to: &mut [f32]) {
        pack_panels(self.0, from, shape, layout, first, to);
    }
    const LEFT_ROWS: usize = S::TILE_ROWS;
    #[inline(always)]
    fn pack_left_transposed(self, from: &[f32], stride: usize, depth: usize, rows: usize, to: &mut [f32]) {
        pack_left_transposed(self.0, from, stride, depth, rows, to);
    }
    #[inline(always)]
    fn left_transposed(self, packed: &[f32], _: usize) -> Left<'_> {
        Left::columns(packed, S::TILE_ROWS)
    }
    #[inline(always)]
    fn left_rows<'a>(self, from: &'a [f32], stride: usize, _: (usize, usize), _: &'a mut [f32]) -> Left<'a> {
        Left::rows(from, stride)
    }
    #[inline(always)]
    fn vectorize_float<K: FloatKernel>(self, kernel: K) -> K::Output {
        self.0.vectorize(OnF32(kernel))
    }
}
