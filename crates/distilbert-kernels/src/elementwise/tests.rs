use super::*;
use crate::testing::{assert_close, lengths, numbers, on_every_isa, runtime, softmax_naive, wide};
use crate::{Isa, math};

#[test]
fn activations_equal_their_f64_twins_at_every_length() {
    for len in lengths() {
        let (x, dy) = (numbers(1, len), numbers(2, len));
        let run = |rt: &Runtime| {
            let mut results = Vec::new();
            let (mut y, mut dx) = (x.clone(), dy.clone());
            tanh(rt, &mut y);
            tanh_backward(rt, &y, &mut dx);
            results.extend([y, dx]);
            let (mut y, mut dx) = (x.clone(), dy.clone());
            relu(rt, &mut y);
            relu_backward(rt, &y, &mut dx);
            results.extend([y, dx]);
            let (mut sum, mut scaled) = (dy.clone(), x.clone());
            add_assign(rt, &mut sum, &x);
            scale(rt, &mut scaled, 0.3);
            results.extend([sum, scaled]);
            results
        };
        let twin = |f: fn(f64, f64) -> f64| -> Vec<f64> {
            x.iter().zip(&dy).map(|(&x, &dy)| f(f64::from(x), f64::from(dy))).collect()
        };
        let expected = [
            twin(|x, _| x.tanh()),
            twin(|x, dy| dy * (1.0 - x.tanh() * x.tanh())),
            twin(|x, _| x.max(0.0)),
            twin(|x, dy| if x > 0.0 { dy } else { 0.0 }),
            twin(|x, dy| x + dy),
            twin(|x, _| 0.3 * x),
        ];
        on_every_isa(run, |isa, results| {
            for (i, (found, expected)) in results.iter().zip(&expected).enumerate() {
                assert_close(found, expected, 3e-7, format!("{isa}, length {len}, result {i}"));
            }
        });
    }
}

#[test]
fn gelu_of_a_slice_is_gelu_of_its_numbers() {
    struct OneByOne<'a>(&'a [f32], &'a [f32], GeluKind);
    impl Kernel for OneByOne<'_> {
        type Output = [Vec<f32>; 2];
        #[inline(always)]
        fn run<S: Simd>(self, simd: S) -> [Vec<f32>; 2] {
            let value = self.0.iter().map(|&x| simd.largest(math::gelu(simd, simd.splat(x), self.2))).collect();
            let gradient = self.0.iter().zip(self.1).map(|(&x, &dy)| {
                simd.largest(simd.mul(simd.splat(dy), math::gelu_derivative(simd, simd.splat(x), self.2)))
            });
            [value, gradient.collect()]
        }
    }
    for kind in [GeluKind::Erf, GeluKind::Tanh] {
        for len in lengths() {
            let (x, dy) = (numbers(3, len), numbers(4, len));
            let run = |rt: &Runtime| {
                let (mut y, mut dx) = (vec![0.0; len], dy.clone());
                gelu(rt, &x, &mut y, kind);
                gelu_backward(rt, &x, &mut dx, kind);
                [y, dx]
            };
            on_every_isa(run, |isa, found| {
                assert_eq!(found, dispatch(isa, OneByOne(&x, &dy, kind)), "{isa}, {kind:?}, length {len}");
            });
        }
    }
}

#[test]
fn softmax_equals_its_f64_twin_at_every_length() {
    for columns in lengths().chain([30_523]) {
        let x = numbers(5, 3 * columns);
        let run = |rt: &Runtime| {
            let mut y = x.clone();
            softmax_rows(rt, &mut y, columns);
            y
        };
        let expected: Vec<f64> = wide(&x).chunks(columns.max(1)).flat_map(softmax_naive).collect();
        on_every_isa(run, |isa, y| {
            assert_close(&y, &expected, 2e-7, format!("{isa}, {columns} columns"));
            for row in y.chunks(columns.max(1)) {
                assert!((wide(row).iter().sum::<f64>() - 1.0).abs() < 1e-6, "{isa}, {columns} columns");
            }
        });
    }
}

#[test]
fn softmax_bears_large_and_infinite_numbers() {
    for isa in Isa::available() {
        let mut x = [1e30, 1e30, f32::NEG_INFINITY, -1e30];
        softmax_rows(&runtime(isa, 1), &mut x, 4);
        assert_eq!(x, [0.5, 0.5, 0.0, 0.0], "{isa}");
        let mut x = [f32::NEG_INFINITY; 3];
        softmax_rows(&runtime(isa, 1), &mut x, 3);
        assert!(x.iter().all(|x| x.is_nan()), "{isa}");
    }
}

#[test]
fn a_row_alone_has_the_softmax_it_has_among_others() {
    for columns in [1, 7, 33, 1037] {
        let x = numbers(6, 300 * columns);
        let run = |rt: &Runtime| {
            let [mut all, mut seven, mut alone] =
                [300, 7, 1].map(|rows| x[2 * columns..][..rows.min(298) * columns].to_vec());
            for x in [&mut all, &mut seven, &mut alone] {
                softmax_rows(rt, x, columns);
            }
            [all[..7 * columns].to_vec(), seven, alone]
        };
        on_every_isa(run, |isa, [all, seven, alone]| {
            assert_eq!(all, seven, "{isa}");
            assert_eq!(all[..columns], alone, "{isa}");
        });
    }
}

#[test]
fn column_sums_add_every_row_to_what_was_there() {
    for rows in [0, 1, 63, 64, 65, 300] {
        for columns in [1, 15, 33, 2049] {
            let (x, before) = (numbers(7, rows * columns), numbers(8, columns));
            let run = |rt: &Runtime| {
                let mut out = before.clone();
                column_sums(rt, &x, columns, &mut out);
                out
            };
            let mut expected = wide(&before);
            for row in x.chunks(columns) {
                expected.iter_mut().zip(row).for_each(|(sum, &x)| *sum += f64::from(x));
            }
            on_every_isa(run, |isa, out| {
                assert_close(&out, &expected, 2e-5, format!("{isa}, {rows} rows of {columns}"));
            });
        }
    }
}

#[test]
fn column_sums_are_sums_of_blocks_of_64_rows() {
    let columns = 19;
    let x = numbers(9, 200 * columns);
    let mut expected = vec![0.0f32; columns];
    for block in x.chunks(64 * columns) {
        let mut partial = vec![0.0f32; columns];
        block.chunks(columns).for_each(|row| partial.iter_mut().zip(row).for_each(|(sum, x)| *sum += x));
        expected.iter_mut().zip(partial).for_each(|(sum, partial)| *sum += partial);
    }
    let run = |rt: &Runtime| {
        let mut out = vec![0.0; columns];
        column_sums(rt, &x, columns, &mut out);
        out
    };
    on_every_isa(run, |isa, out| assert_eq!(out, expected, "{isa}"));
}

#[test]
fn scatter_add_is_the_transpose_of_gather() {
    for (width, count) in [(1, 3), (7, 40), (130, 200), (768, 30)] {
        let table = numbers(10, 50 * width);
        let rows: Vec<u32> = (0..count).map(|i| (i * 37 % 50) as u32).collect();
        let x = numbers(11, count * width);
        let run = |rt: &Runtime| {
            let (mut gathered, mut scattered) = (vec![0.0; count * width], table.clone());
            gather_rows(rt, &table, width, &rows, &mut gathered);
            scatter_add_rows(rt, &x, width, &rows, &mut scattered);
            [gathered, scattered]
        };
        let mut gathered = Vec::new();
        let mut scattered = table.clone();
        for (&row, x) in rows.iter().zip(x.chunks(width)) {
            let at = row as usize * width;
            gathered.extend_from_slice(&table[at..at + width]);
            scattered[at..at + width].iter_mut().zip(x).for_each(|(y, x)| *y += x);
        }
        on_every_isa(run, |isa, found| {
            assert_eq!(found, [gathered.clone(), scattered.clone()], "{isa}, width {width}")
        });
    }
}

#[test]
#[should_panic(expected = "no rows of 4")]
fn a_broken_row_is_refused() {
    softmax_rows(&runtime(Isa::Portable, 1), &mut [0.0; 7], 4);
}
