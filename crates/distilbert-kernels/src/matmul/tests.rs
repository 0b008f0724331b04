use super::tile::{CHAINS, next_tile};
use super::transposed::{TN_COLUMNS, TN_DEPTH, TN_PACK, TN_ROWS, TN_STRIPE};
use super::*;
use crate::matrix::{bf16_bits, bf16_value};
use crate::testing::{assert_close, numbers, runtime};

/// The product as the definition has it, in f64, without an epilogue; `at(row, depth)` is an element of A.
fn naive(m: usize, k: usize, n: usize, a: impl Fn(usize, usize) -> f32, b: impl Fn(usize, usize) -> f32) -> Vec<f64> {
    let mut c = vec![0.0; m * n];
    for i in 0..m {
        for j in 0..n {
            c[i * n + j] = (0..k).map(|p| f64::from(a(i, p)) * f64::from(b(p, j))).sum();
        }
    }
    c
}

fn naive_gelu(x: f64, kind: GeluKind) -> f64 {
    let tanh = (0.797_884_560_802_865_4 * (x + 0.044_715 * x * x * x)).tanh();
    match kind {
        GeluKind::Tanh => 0.5 * x * (1.0 + tanh),
        GeluKind::Erf => {
            // Beyond 5 the series cancels to nothing, and erf is 1 within 1e-11.
            let z = (x / std::f64::consts::SQRT_2).clamp(-5.0, 5.0);
            let (mut term, mut erf) = (z, z);
            for i in 1..200 {
                term *= -z * z / f64::from(i);
                erf += term / f64::from(2 * i + 1);
            }
            0.5 * x * (1.0 + 2.0 / std::f64::consts::PI.sqrt() * erf)
        }
    }
}

/// Every instruction set with one thread and with several, in every precision it has.
fn runtimes() -> impl Iterator<Item = (Runtime, Precision)> {
    let precisions = |isa| Precision::ALL.into_iter().filter(move |precision| precision.is_available(isa));
    let with_threads = |isa| [1, 3].map(|threads| (isa, threads));
    Isa::available()
        .flat_map(with_threads)
        .flat_map(move |(isa, threads)| precisions(isa).map(move |precision| (runtime(isa, threads), precision)))
}

/// Those that sums of gradients are computed in.
fn float_runtimes() -> impl Iterator<Item = (Runtime, Precision)> {
    runtimes().filter(|(_, precision)| *precision != Precision::Int8)
}

/// The nearest bf16, ties to even.
fn bf16(x: f32) -> f32 {
    bf16_value(bf16_bits(x))
}

/// A row of the left factor as this precision multiplies it.
fn left_as_multiplied(precision: Precision, row: &[f32]) -> Vec<f32> {
    match precision {
        Precision::F32 => row.to_vec(),
        Precision::Bf16 => row.iter().map(|&x| bf16(x)).collect(),
        Precision::Int8 => {
            let (scale, zero, q) = quantized(row);
            q.into_iter().map(|q| scale * (i32::from(q) - zero) as f32).collect()
        }
    }
}

/// Scale, zero point and bytes of a row of activations, plainly.
fn quantized(row: &[f32]) -> (f32, i32, Vec<u8>) {
    let below = -row.iter().fold(0.0f32, |a, &b| a.min(b));
    let range = below + row.iter().fold(0.0f32, |a, &b| a.max(b));
    let inverse = if range > 0.0 { 255.0 / range } else { 0.0 };
    let zero = (below * inverse).round_ties_even();
    let q = row.iter().map(|x| (x * inverse + zero).clamp(0.0, 255.0).round_ties_even() as u8).collect();
    (range / 255.0, zero as i32, q)
}

/// A Linear weight `[n, k]` as this precision multiplies it.
fn weight_as_multiplied(precision: Precision, w: &[f32], k: usize) -> Vec<f32> {
    match precision {
        Precision::F32 => w.to_vec(),
        Precision::Bf16 => w.iter().map(|&x| bf16(x)).collect(),
        Precision::Int8 => {
            let row = |w: &[f32]| {
                let scale = w.iter().fold(0.0f32, |a, b| a.max(b.abs())) / 127.0;
                w.iter()
                    .map(move |x| if scale > 0.0 { (x / scale).round_ties_even() * scale } else { 0.0 })
                    .collect::<Vec<_>>()
            };
            w.chunks(k.max(1)).flat_map(row).collect()
        }
    }
}

/// `[rows, k]` as this precision multiplies it on the left.
fn rows_as_multiplied(precision: Precision, a: &[f32], k: usize) -> Vec<f32> {
    a.chunks(k.max(1)).flat_map(|row| left_as_multiplied(precision, row)).collect()
}

fn transpose(x: &[f32], rows: usize, columns: usize) -> Vec<f32> {
    (0..rows * columns).map(|i| x[i % rows * columns + i / rows]).collect()
}

/// Times (1 + |expected|). The longest chains here have 1539 terms of size 1; measured: a third of this, in every
/// precision, since the factors are rounded before the comparison.
const TOLERANCE: f64 = 5e-5;

const DEPTHS: [usize; 8] = [0, 1, 2, 7, 33, 64, 70, 2 * DEPTH_BLOCK + 3];

#[test]
fn every_shape_and_tail_agrees_with_the_definition() {
    for (rt, precision) in runtimes() {
        for k in DEPTHS {
            for n in [1, 2, 7, 8, 9, 15, 16, 17, 31, 33, 47, 48, 49, 96, 100] {
                let w = numbers(1, n * k);
                let packed = PackedMatrix::from_nk(&rt, precision, &w, n, k);
                if precision != Precision::Int8 {
                    let same = PackedMatrix::from_kn(&rt, precision, &transpose(&w, n, k), k, n);
                    assert_eq!(bits(&packed), bits(&same), "{} {precision} {k} x {n}", rt.isa());
                }
                let w = weight_as_multiplied(precision, &w, k);
                for m in (0..=20).filter(|m| k <= 70 || m % 9 == 4) {
                    let a = numbers(2, m * k);
                    let mut c = vec![f32::NAN; m * n];
                    matmul(&rt, &a, &packed, &mut c, Epilogue::None);
                    let a = rows_as_multiplied(precision, &a, k);
                    let expected = naive(m, k, n, |i, p| a[i * k + p], |p, j| w[j * k + p]);
                    assert_close(&c, &expected, TOLERANCE, format!("{} {precision} {m} x {k} x {n}", rt.isa()));
                }
            }
        }
    }
}

/// Units have no meaning as numbers: as such, some are NaN.
fn bits(packed: &PackedMatrix) -> Vec<u32> {
    packed.data.as_slice().iter().map(|unit| unit.to_bits()).collect()
}

#[test]
fn every_epilogue_agrees_with_the_definition() {
    for (rt, precision) in runtimes() {
        for (m, k, n) in [(1, 5, 3), (7, 16, 50), (19, 70, 97), (140, 800, 49)] {
            let (a, w, bias) = (numbers(3, m * k), numbers(4, k * n), numbers(5, n));
            let (residual, before) = (numbers(6, m * n), numbers(7, m * n));
            let packed = PackedMatrix::from_nk(&rt, precision, &w, n, k);
            let (rounded, w) = (rows_as_multiplied(precision, &a, k), weight_as_multiplied(precision, &w, k));
            let product = naive(m, k, n, |i, p| rounded[i * k + p], |p, j| w[j * k + p]);
            let with = |f: &dyn Fn(usize, f64) -> f64| product.iter().enumerate().map(|(i, x)| f(i, *x)).collect();
            let bias_at = |i: usize| f64::from(bias[i % n]);
            let gelu = |kind| Epilogue::BiasGelu { bias: &bias, kind };
            let cases: [(Epilogue, Vec<f64>); 6] = [
                (Epilogue::None, product.clone()),
                (Epilogue::Bias(&bias), with(&|i, x| x + bias_at(i))),
                (gelu(GeluKind::Erf), with(&|i, x| naive_gelu(x + bias_at(i), GeluKind::Erf))),
                (gelu(GeluKind::Tanh), with(&|i, x| naive_gelu(x + bias_at(i), GeluKind::Tanh))),
                (
                    Epilogue::BiasResidual { bias: &bias, residual: &residual },
                    with(&|i, x| x + bias_at(i) + f64::from(residual[i])),
                ),
                (Epilogue::Accumulate, with(&|i, x| x + f64::from(before[i]))),
            ];
            for (epilogue, expected) in cases {
                if precision == Precision::Int8 && matches!(epilogue, Epilogue::Accumulate) {
                    continue;
                }
                let mut c = before.clone();
                matmul(&rt, &a, &packed, &mut c, epilogue);
                let what = format!("{} {precision} {m} x {k} x {n}: {epilogue:?}", rt.isa());
                // Below f32 the GELU is the coarse one, with its own bound.
                let is_coarse = precision != Precision::F32 && matches!(epilogue, Epilogue::BiasGelu { .. });
                assert_close(&c, &expected, if is_coarse { 5e-4 } else { TOLERANCE }, what);
            }
        }
    }
}

#[test]
fn a_row_has_the_same_bits_alone_and_in_any_batch() {
    for (rt, precision) in runtimes() {
        let (k, n) = (4 * DEPTH_BLOCK + 50, 101);
        let (a, w, bias) = (numbers(8, 300 * k), numbers(9, k * n), numbers(10, n));
        let packed = PackedMatrix::from_nk(&rt, precision, &w, n, k);
        for epilogue in [Epilogue::Bias(&bias), Epilogue::BiasGelu { bias: &bias, kind: GeluKind::Erf }] {
            let mut all = vec![0.0; 300 * n];
            matmul(&rt, &a, &packed, &mut all, epilogue);
            // Batches of every number of rows that a tile can have, and more.
            for batch in 1..=9 {
                for row in [0, 5, 100, 291] {
                    let mut c = vec![0.0; batch * n];
                    matmul(&rt, &a[row * k..][..batch * k], &packed, &mut c, epilogue);
                    let what = format!("{} {precision}, {batch} rows from {row}", rt.isa());
                    assert_eq!(c, all[row * n..][..batch * n], "{what}");
                }
            }
        }
    }
}

#[test]
fn threads_do_not_change_a_bit() {
    for isa in Isa::available() {
        for precision in Precision::ALL.into_iter().filter(|precision| precision.is_available(isa)) {
            for (m, k, n) in [(1, 700, 300), (5, 801, 97), (133, 96, 450), (300, 65, 200)] {
                let (a, w) = (numbers(11, m * k), numbers(12, k * n));
                let (left, right) = (numbers(13, k * m), numbers(14, k * n));
                let results = [1, 2, 3, 7].map(|threads| {
                    let rt = runtime(isa, threads);
                    let (mut c, mut dw) = (vec![0.0; m * n], numbers(15, m * n));
                    matmul(&rt, &a, &PackedMatrix::from_nk(&rt, precision, &w, n, k), &mut c, Epilogue::None);
                    if precision != Precision::Int8 {
                        matmul_tn(&rt, precision, &left, &right, k, &mut dw);
                    }
                    (c, dw)
                });
                assert!(results.iter().all(|result| *result == results[0]), "{isa} {precision} {m} x {k} x {n}");
            }
        }
    }
}

#[test]
fn a_transposed_product_agrees_with_the_definition_at_every_tail() {
    for (rt, precision) in float_runtimes() {
        for k in [0, 1, 2, 9, 70, TN_DEPTH + 1, 2 * TN_DEPTH + 17, 4 * TN_DEPTH + 3] {
            let small = [(0, 5), (1, 1), (3, 50), (8, 48), (13, 17), (20, 97), (65, 9)];
            let of_several_blocks = [(TN_ROWS + 9, TN_COLUMNS + 5), (TN_STRIPE + TN_PACK + 7, 2)];
            let shapes = small.into_iter().chain(of_several_blocks.into_iter().filter(|_| k <= TN_DEPTH + 1));
            for (m, n) in shapes {
                let (a, b, before) = (numbers(16, k * m), numbers(17, k * n), numbers(18, m * n));
                let mut c = before.clone();
                matmul_tn(&rt, precision, &a, &b, k, &mut c);
                let (a, b) = (left_as_multiplied(precision, &a), left_as_multiplied(precision, &b));
                let product = naive(m, k, n, |i, p| a[p * m + i], |p, j| b[p * n + j]);
                let expected: Vec<f64> = product.iter().zip(&before).map(|(x, c)| x + f64::from(*c)).collect();
                assert_close(&c, &expected, TOLERANCE, format!("{} {precision} {m} x {k} x {n}", rt.isa()));
            }
        }
    }
}

#[test]
fn a_transposed_product_is_one_chain_over_the_rows() {
    // Two calls on halves of the rows must equal one call: so gradients may be accumulated over micro-batches.
    for (rt, precision) in float_runtimes() {
        let (k, m, n) = (2 * TN_DEPTH + 40, 21, 70);
        let (a, b) = (numbers(19, k * m), numbers(20, k * n));
        let (mut whole, mut halves) = (vec![0.0; m * n], vec![0.0; m * n]);
        matmul_tn(&rt, precision, &a, &b, k, &mut whole);
        // A whole number of steps.
        let cut = if (rt.isa(), precision) == (Isa::Amx, Precision::Bf16) { 96 } else { 102 };
        for (a, b) in [(&a[..cut * m], &b[..cut * n]), (&a[cut * m..], &b[cut * n..])] {
            matmul_tn(&rt, precision, a, b, a.len() / m, &mut halves);
        }
        assert_eq!(whole, halves, "{} {precision}", rt.isa());
    }
}

#[test]
fn repacking_replaces_every_number() {
    for (rt, precision) in runtimes() {
        let (first, second) = (numbers(21, 70 * 33), numbers(22, 70 * 33));
        let mut packed = PackedMatrix::from_nk(&rt, precision, &first, 70, 33);
        packed.repack_nk(&rt, &second);
        assert_eq!(bits(&packed), bits(&PackedMatrix::from_nk(&rt, precision, &second, 70, 33)));
        assert_eq!((packed.k(), packed.n(), packed.precision()), (33, 70, precision));
    }
}

#[test]
fn rows_in_eight_bits_equal_their_plain_twin_and_are_within_half_a_step() {
    for isa in Isa::available() {
        let rt = runtime(isa, 2);
        for k in [1, 3, 4, 5, 31, 33, 70, 771] {
            let mut x = numbers(23, 9 * k);
            x[..k].fill(0.0);
            x[k..2 * k].iter_mut().for_each(|x| *x = x.abs() + 1.0);
            x[2 * k..3 * k].iter_mut().for_each(|x| *x = -1e-30 - x.abs() * 1e-30);
            let steps = int8::steps(isa);
            let mut scratch = vec![0.0; int8::rows_len(9, k, steps)];
            let rows = int8::quantize_rows(&rt, &x, 9, k, &mut scratch);
            for (i, row) in x.chunks(k).enumerate() {
                let (scale, zero, q) = quantized(row);
                assert_eq!((rows.scales[i], rows.zeros[i].to_bits()), (scale, zero as u32), "{isa} row {i} of {k}");
                let width = k.div_ceil(4) * steps;
                let units = &rows.units[i * width..][..width];
                let bytes: Vec<u8> = units.iter().flat_map(|unit| unit.to_bits().to_ne_bytes()).collect();
                let found: Vec<u8> = bytes.iter().step_by(steps).copied().collect();
                assert_eq!(found[..k], q, "{isa} row {i} of {k}");
                assert!(bytes.chunks(steps).all(|bytes| bytes[1..].iter().all(|&byte| byte == 0)));
                for (x, q) in row.iter().zip(q) {
                    let error = (scale * (i32::from(q) - zero) as f32 - x).abs();
                    assert!(error <= 1.01 * scale, "{isa}: {x} of scale {scale} is off by {error}");
                }
            }
        }
    }
}

#[test]
fn a_row_that_is_not_finite_does_not_look_right_in_eight_bits() {
    for isa in Isa::available() {
        let rt = runtime(isa, 1);
        let packed = PackedMatrix::from_nk(&rt, Precision::Int8, &numbers(24, 5 * 40), 5, 40);
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            for at in [0, 7, 39] {
                let mut x = numbers(25, 40);
                x[at] = bad;
                let mut c = [0.0; 5];
                matmul(&rt, &x, &packed, &mut c, Epilogue::None);
                assert!(c.iter().all(|c| c.is_nan()), "{isa}: {bad} at {at} gave {c:?}");
            }
        }
    }
}

#[test]
fn a_matrix_in_eight_bits_may_come_from_its_saved_form() {
    for isa in Isa::available() {
        let rt = runtime(isa, 2);
        let (w, a) = (numbers(26, 50 * 35), numbers(27, 3 * 35));
        let saved = QuantizedMatrix::from_f32(&rt, &w, 50, 35);
        assert_eq!(saved.to_f32(), weight_as_multiplied(Precision::Int8, &w, 35));
        let results = [
            PackedMatrix::from_quantized(&rt, &saved, 50, 35),
            PackedMatrix::from_nk(&rt, Precision::Int8, &w, 50, 35),
        ]
        .map(|packed| {
            let mut c = vec![0.0; 3 * 50];
            matmul(&rt, &a, &packed, &mut c, Epilogue::None);
            c
        });
        assert_eq!(results[0], results[1], "{isa}");
    }
}

/// The integer sums of a product, with whichever instructions.
struct IntegerSums<'a> {
    a: &'a [f32],
    matrix: &'a QuantizedMatrix,
    shape: (usize, usize, usize),
}

impl DotKernel for IntegerSums<'_> {
    type Output = Vec<i32>;
    #[inline(always)]
    fn run<D: Dot>(self, dot: D) -> Vec<i32> {
        let (m, k, n) = self.shape;
        let layout = Layout::new::<D::Simd>(<D::Simd as Simd>::TILE_VECTORS);
        let (data, _) = int8::pack(&runtime(Isa::Portable, 1), self.matrix, (k, n), layout, D::STEPS);
        let width = k.div_ceil(4) * D::STEPS;
        let (mut rows, mut scales, mut zeros) = (vec![0.0; m * width], vec![0.0; m], vec![0.0; m]);
        int8::QuantizeRows { x: self.a, k, to: &mut rows, scales: &mut scales, zeros: &mut zeros }.run(dot);
        let panels = Panels { data: data.as_slice(), depth: k.div_ceil(4), columns: n, layout };
        let mut c = vec![0.0f32; m * n];
        for index in 0..layout.panels(n) {
            let left = Left::rows(&rows, width);
            let panel = panels.panel(index, 0, panels.depth);
            // SAFETY: the panel's columns of all rows lie inside `c`.
            unsafe {
                let c = c.as_mut_ptr().add(index * layout.width());
                multiply_panel(dot, m, left, panel, Start::Zero, c, n, ());
            }
        }
        c.into_iter().map(|sum| sum.to_bits() as i32).collect()
    }
}

#[test]
fn every_instruction_that_multiplies_eight_bits_gives_the_exact_sums() {
    let rt = runtime(Isa::Portable, 1);
    for (m, k, n) in [(1, 1, 1), (9, 33, 50), (13, 770, 97)] {
        // The largest magnitudes on both sides, where 16-bit sums would overflow.
        let mut w = numbers(28, n * k);
        w[..k].fill(-3.0);
        let mut a = numbers(29, m * k);
        a[..k].fill(3.0);
        let matrix = QuantizedMatrix::from_f32(&rt, &w, n, k);
        let q: Vec<Vec<u8>> = a.chunks(k).map(|row| quantized(row).2).collect();
        let sum = |i: usize, j: usize| {
            let w = &matrix.values[j * k..][..k];
            q[i].iter().zip(w).map(|(&a, &w)| i32::from(a) * i32::from(w)).sum::<i32>()
        };
        let expected: Vec<i32> = (0..m * n).map(|i| sum(i / n, i % n)).collect();
        let kernel = || IntegerSums { a: &a, matrix: &matrix, shape: (m, k, n) };
        assert_eq!(crate::arch::portable::PortableInt8.vectorize(kernel()), expected);
        #[cfg(target_arch = "x86_64")]
        {
            use crate::arch::{avx2::Avx2Int8, avx512::Avx512Int8};
            let found = [
                Avx2Int8::<false>::detect().map(|dot| dot.vectorize(kernel())),
                Avx2Int8::<true>::detect().map(|dot| dot.vectorize(kernel())),
                Avx512Int8::<false>::detect().map(|dot| dot.vectorize(kernel())),
                Avx512Int8::<true>::detect().map(|dot| dot.vectorize(kernel())),
            ];
            for (i, found) in found.into_iter().flatten().enumerate() {
                assert!(found == expected, "instruction {i}, {m} x {k} x {n}");
            }
        }
    }
}

#[test]
fn eight_bits_give_the_same_numbers_on_every_instruction_set() {
    let (m, k, n) = (9, 3 * DEPTH_BLOCK, 70);
    let (a, w, bias) = (numbers(30, m * k), numbers(31, n * k), numbers(32, n));
    let results: Vec<Vec<f32>> = Isa::available()
        .map(|isa| {
            let rt = runtime(isa, 2);
            let packed = PackedMatrix::from_nk(&rt, Precision::Int8, &w, n, k);
            let mut c = vec![0.0; m * n];
            matmul(&rt, &a, &packed, &mut c, Epilogue::Bias(&bias));
            c
        })
        .collect();
    assert!(results.iter().all(|result| *result == results[0]));
}

#[test]
fn tiles_cover_all_rows_and_the_last_is_no_smaller_than_it_must_be() {
    for (most, vectors) in [(6, 1), (6, 2), (8, 1), (8, 2), (8, 3), (4, 1)] {
        for rows in 1..60 {
            let (mut left, mut tiles) = (rows, Vec::new());
            while left > 0 {
                tiles.push(next_tile(left, most, vectors));
                left -= tiles[tiles.len() - 1];
            }
            let chains = |tile: &usize| (tile * vectors).max(CHAINS);
            let time: usize = tiles.iter().map(chains).sum();
            // Filled from the front, as tiles would be that know nothing of each other.
            let filled: usize = (0..rows).step_by(most).map(|row| chains(&most.min(rows - row))).sum();
            assert!(
                time <= filled && tiles.iter().all(|&tile| tile <= most),
                "{rows} rows of {most} x {vectors}: {tiles:?}"
            );
        }
    }
    assert_eq!((next_tile(8, 6, 2), next_tile(4, 6, 2), next_tile(10, 6, 2)), (4, 4, 6));
}
