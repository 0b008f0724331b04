//! Plain arrays of eight: what any CPU runs, and what the compiler vectorises for a baseline target.

use crate::matmul::dot::{Dot, DotKernel};
use crate::simd::{Kernel, Simd};

const LANES: usize = 8;

#[derive(Clone, Copy)]
pub(crate) struct Portable;

/// `std::array::from_fn`, but always compiled into its caller: a call for every vector would cost ten times its work.
#[inline(always)]
fn lanes<T: Copy + Default>(f: impl Fn(usize) -> T) -> [T; LANES] {
    let mut x = [T::default(); LANES];
    for (i, x) in x.iter_mut().enumerate() {
        *x = f(i);
    }
    x
}

impl Simd for Portable {
    type F32 = [f32; LANES];
    type Mask = [bool; LANES];
    const LANES: usize = LANES;
    const TILE_ROWS: usize = 4;
    const TILE_VECTORS: usize = 1;

    #[inline(always)]
    fn splat(self, x: f32) -> Self::F32 {
        [x; LANES]
    }
    #[inline(always)]
    fn load(self, from: &[f32]) -> Self::F32 {
        from[..LANES].try_into().expect("the slice has LANES numbers")
    }
    #[inline(always)]
    fn store(self, to: &mut [f32], x: Self::F32) {
        to[..LANES].copy_from_slice(&x);
    }
    #[inline(always)]
    unsafe fn load_ptr(self, from: *const f32) -> Self::F32 {
        // SAFETY: the caller guarantees LANES readable numbers; an array of f32 has f32's alignment.
        unsafe { from.cast::<Self::F32>().read() }
    }
    #[inline(always)]
    unsafe fn store_ptr(self, to: *mut f32, x: Self::F32) {
        // SAFETY: the caller guarantees LANES writable numbers; an array of f32 has f32's alignment.
        unsafe { to.cast::<Self::F32>().write(x) }
    }
    #[inline(always)]
    fn prefetch(self, _: *const f32) {}
    #[inline(always)]
    fn load_partial(self, from: &[f32]) -> Self::F32 {
        let mut x = [0.0; LANES];
        let len = from.len().min(LANES);
        x[..len].copy_from_slice(&from[..len]);
        x
    }
    #[inline(always)]
    fn store_partial(self, to: &mut [f32], x: Self::F32) {
        let len = to.len().min(LANES);
        to[..len].copy_from_slice(&x[..len]);
    }
    #[inline(always)]
    unsafe fn transpose(self, from: *const f32, from_stride: usize, to: *mut f32, to_stride: usize) {
        for row in 0..LANES {
            for column in 0..LANES {
                // SAFETY: inside the two squares, which are the caller's promise.
                unsafe { *to.add(row * to_stride + column) = *from.add(column * from_stride + row) };
            }
        }
    }
    #[inline(always)]
    fn add(self, a: Self::F32, b: Self::F32) -> Self::F32 {
        lanes(|i| a[i] + b[i])
    }
    #[inline(always)]
    fn sub(self, a: Self::F32, b: Self::F32) -> Self::F32 {
        lanes(|i| a[i] - b[i])
    }
    #[inline(always)]
    fn mul(self, a: Self::F32, b: Self::F32) -> Self::F32 {
        lanes(|i| a[i] * b[i])
    }
    #[inline(always)]
    fn div(self, a: Self::F32, b: Self::F32) -> Self::F32 {
        lanes(|i| a[i] / b[i])
    }
    #[inline(always)]
    fn mul_add(self, a: Self::F32, b: Self::F32, c: Self::F32) -> Self::F32 {
        // Not f32::mul_add: without the instruction that is a library call, a hundred times slower.
        lanes(|i| a[i] * b[i] + c[i])
    }
    #[inline(always)]
    fn max(self, a: Self::F32, b: Self::F32) -> Self::F32 {
        lanes(|i| if a[i] > b[i] { a[i] } else { b[i] })
    }
    #[inline(always)]
    fn min(self, a: Self::F32, b: Self::F32) -> Self::F32 {
        lanes(|i| if a[i] < b[i] { a[i] } else { b[i] })
    }
    #[inline(always)]
    fn sqrt(self, a: Self::F32) -> Self::F32 {
        a.map(f32::sqrt)
    }
    #[inline(always)]
    fn abs(self, a: Self::F32) -> Self::F32 {
        a.map(f32::abs)
    }
    #[inline(always)]
    fn round(self, a: Self::F32) -> Self::F32 {
        // Adding 1.5 * 2^23 leaves no bits for the fraction, and rounding to nearest even does the work.
        const SHIFT: f32 = 12_582_912.0;
        a.map(|x| (x + SHIFT) - SHIFT)
    }
    #[inline(always)]
    fn exp2_integral(self, n: Self::F32) -> Self::F32 {
        n.map(|n| f32::from_bits(((n as i32 + 127) << 23) as u32))
    }
    #[inline(always)]
    fn dequantize(self, sums: Self::F32, zero: i32, column_sums: Self::F32) -> Self::F32 {
        let integer = |x: f32| x.to_bits() as i32;
        lanes(|i| integer(sums[i]).wrapping_sub(zero.wrapping_mul(integer(column_sums[i]))) as f32)
    }
    #[inline(always)]
    fn store_u8(self, to: &mut [u8], x: Self::F32) {
        let x = self.round(x);
        to[..LANES].copy_from_slice(&lanes(|i| x[i] as u8));
    }
    #[inline(always)]
    fn store_u16(self, to: &mut [u8], x: Self::F32) {
        let x = self.round(x);
        for (to, x) in to[..2 * LANES].chunks_exact_mut(2).zip(x) {
            to.copy_from_slice(&(x as u16).to_le_bytes());
        }
    }
    #[inline(always)]
    fn less(self, a: Self::F32, b: Self::F32) -> Self::Mask {
        lanes(|i| a[i] < b[i])
    }
    #[inline(always)]
    fn select(self, mask: Self::Mask, a: Self::F32, b: Self::F32) -> Self::F32 {
        lanes(|i| if mask[i] { a[i] } else { b[i] })
    }
    #[inline(always)]
    fn sum(self, a: Self::F32) -> f32 {
        ((a[0] + a[4]) + (a[2] + a[6])) + ((a[1] + a[5]) + (a[3] + a[7]))
    }
    #[inline(always)]
    fn largest(self, a: Self::F32) -> f32 {
        a.into_iter().fold(f32::NEG_INFINITY, f32::max)
    }
    // Never inlined, so that a register tile is compiled by itself: with the strides of one caller as constants, the
    // compiler vectorises it along the wrong axis.
    #[inline(never)]
    fn vectorize<K: Kernel>(self, kernel: K) -> K::Output {
        kernel.run(self)
    }
}

/// Four int8 a unit.
#[derive(Clone, Copy)]
pub(crate) struct PortableInt8;

impl Dot for PortableInt8 {
    type Simd = Portable;
    type Left = [u8; 4];
    type Right = [[i8; 4]; LANES];
    const GROUP: usize = 4;
    const TILE_ROWS: usize = 4;

    #[inline(always)]
    fn simd(self) -> Portable {
        Portable
    }
    #[inline(always)]
    unsafe fn load_left(self, from: *const f32) -> [u8; 4] {
        // SAFETY: the caller's promise; bytes have no alignment and no invalid values.
        unsafe { from.cast::<[u8; 4]>().read() }
    }
    #[inline(always)]
    unsafe fn load_right(self, from: *const f32) -> Self::Right {
        // SAFETY: as above.
        unsafe { from.cast::<Self::Right>().read() }
    }
    #[inline(always)]
    fn dot(self, left: [u8; 4], right: Self::Right, sums: [f32; LANES]) -> [f32; LANES] {
        lanes(|i| {
            let product = |byte: usize| i32::from(left[byte]) * i32::from(right[i][byte]);
            let sum = (sums[i].to_bits() as i32).wrapping_add(product(0) + product(1) + product(2) + product(3));
            f32::from_bits(sum as u32)
        })
    }
    // Never inlined, as above.
    #[inline(never)]
    fn vectorize<K: DotKernel>(self, kernel: K) -> K::Output {
        kernel.run(self)
    }
}
