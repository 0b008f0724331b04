//! Stand-ins until the real functions are merged.
use crate::elementwise::GeluKind;
use crate::simd::Simd;

#[inline(always)]
pub(crate) fn exp<S: Simd>(simd: S, x: S::F32) -> S::F32 {
    let x = simd.min(simd.splat(88.0), simd.max(simd.splat(-87.0), x));
    let n = simd.round(simd.mul(x, simd.splat(std::f32::consts::LOG2_E)));
    let r = simd.mul_add(n, simd.splat(-0.693_359_4), x);
    let r = simd.mul_add(n, simd.splat(2.121_944_4e-4), r);
    let mut p = simd.splat(1.388_889e-3);
    for c in [8.333_334e-3, 4.166_666_8e-2, 0.166_666_67, 0.5, 1.0, 1.0] {
        p = simd.mul_add(p, r, simd.splat(c));
    }
    simd.mul(p, simd.exp2_integral(n))
}

#[inline(always)]
pub(crate) fn gelu<S: Simd>(simd: S, x: S::F32, _kind: GeluKind) -> S::F32 {
    let u = simd.mul(
        simd.mul(x, simd.splat(1.595_769_1)),
        simd.mul_add(simd.mul(x, x), simd.splat(0.044_715), simd.splat(1.0)),
    );
    simd.div(x, simd.add(simd.splat(1.0), exp(simd, simd.sub(simd.splat(0.0), u))))
}
