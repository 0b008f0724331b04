//! Matrices as they are kept and saved: f32, bf16, or eight bits with a scale a row.

use crate::matmul::QuantizedMatrix;
use crate::precision::Precision;
use crate::runtime::Runtime;

/// A matrix in rows, in any precision: a Linear weight `[out, in]` before it is packed, or a table of embeddings.
#[derive(Clone, Debug, PartialEq)]
pub enum Matrix {
    /// Row-major.
    F32(Vec<f32>),
    /// Row-major, the upper halves of f32.
    Bf16(Vec<u16>),
    /// One scale a row.
    Int8(QuantizedMatrix),
}

/// A borrowed [`Matrix`].
#[derive(Clone, Copy, Debug)]
pub enum MatrixRef<'a> {
    /// Row-major.
    F32(&'a [f32]),
    /// Row-major, the upper halves of f32.
    Bf16(&'a [u16]),
    /// `scales[row] * values[row * width + column]`
    Int8 {
        /// `[rows, width]`
        values: &'a [i8],
        /// `[rows]`
        scales: &'a [f32],
    },
}

impl<'a> MatrixRef<'a> {
    /// The rows from `first` on of a matrix of this width.
    ///
    /// # Panics
    /// If there are fewer rows.
    pub fn rows_from(self, first: usize, width: usize) -> MatrixRef<'a> {
        match self {
            MatrixRef::F32(values) => MatrixRef::F32(&values[first * width..]),
            MatrixRef::Bf16(values) => MatrixRef::Bf16(&values[first * width..]),
            MatrixRef::Int8 { values, scales } => {
                MatrixRef::Int8 { values: &values[first * width..], scales: &scales[first..] }
            }
        }
    }
}

impl Matrix {
    /// A matrix without rows, and room for some.
    pub fn with_capacity(precision: Precision, rows: usize, width: usize) -> Matrix {
        match precision {
            Precision::F32 => Matrix::F32(Vec::with_capacity(rows * width)),
            Precision::Bf16 => Matrix::Bf16(Vec::with_capacity(rows * width)),
            Precision::Int8 => {
                let (values, scales) = (Vec::with_capacity(rows * width), Vec::with_capacity(rows));
                Matrix::Int8(QuantizedMatrix { values, scales })
            }
        }
    }

    /// Rounds `[rows, width]`: to nearest even in bf16, as [`QuantizedMatrix::from_f32`] in int8.
    ///
    /// # Panics
    /// If the numbers are no whole rows.
    pub fn from_f32(rt: &Runtime, precision: Precision, x: &[f32], width: usize) -> Matrix {
        let mut matrix = Matrix::with_capacity(precision, x.len().checked_div(width).unwrap_or(0), width);
        matrix.push_f32(rt, x, width);
        matrix
    }

    /// Appends rows, rounded as by [`Matrix::from_f32`]; a row's bits depend on that row alone.
    ///
    /// # Panics
    /// If the numbers are no whole rows.
    pub fn push_f32(&mut self, rt: &Runtime, x: &[f32], width: usize) {
        match self {
            Matrix::F32(all) => all.extend_from_slice(x),
            Matrix::Bf16(all) => all.extend(x.iter().map(|&x| bf16_bits(x))),
            Matrix::Int8(all) => {
                let rows = x.len().checked_div(width).unwrap_or(0);
                let more = QuantizedMatrix::from_f32(rt, x, rows, width);
                all.values.extend(more.values);
                all.scales.extend(more.scales);
            }
        }
    }

    /// Appends the rows of another matrix of the same width.
    ///
    /// # Panics
    /// If the precisions differ.
    pub fn append(&mut self, other: Matrix) {
        match (self, other) {
            (Matrix::F32(all), Matrix::F32(more)) => all.extend(more),
            (Matrix::Bf16(all), Matrix::Bf16(more)) => all.extend(more),
            (Matrix::Int8(all), Matrix::Int8(more)) => {
                all.values.extend(more.values);
                all.scales.extend(more.scales);
            }
            (one, other) => panic!("rows in {} under rows in {}", other.precision(), one.precision()),
        }
    }

    /// What the numbers are kept in.
    pub fn precision(&self) -> Precision {
        match self {
            Matrix::F32(_) => Precision::F32,
            Matrix::Bf16(_) => Precision::Bf16,
            Matrix::Int8(_) => Precision::Int8,
        }
    }

    /// The numbers, row-major.
    pub fn to_f32(&self) -> Vec<f32> {
        match self {
            Matrix::F32(x) => x.clone(),
            Matrix::Bf16(x) => x.iter().map(|&bits| bf16_value(bits)).collect(),
            Matrix::Int8(x) => x.to_f32(),
        }
    }

    /// Borrows it.
    pub fn view(&self) -> MatrixRef<'_> {
        match self {
            Matrix::F32(x) => MatrixRef::F32(x),
            Matrix::Bf16(x) => MatrixRef::Bf16(x),
            Matrix::Int8(x) => MatrixRef::Int8 { values: &x.values, scales: &x.scales },
        }
    }
}

/// Rounded to nearest even; NaN stays NaN.
pub(crate) fn bf16_bits(x: f32) -> u16 {
    let bits = x.to_bits();
    if x.is_nan() {
        // Quiet, so that the half that remains cannot be that of an infinity.
        return (bits >> 16) as u16 | 0x40;
    }
    ((bits + 0x7fff + (bits >> 16 & 1)) >> 16) as u16
}

/// The number that the bits stand for.
#[inline(always)]
pub(crate) fn bf16_value(bits: u16) -> f32 {
    f32::from_bits(u32::from(bits) << 16)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::matmul::{Epilogue, PackedMatrix, matmul};
    use crate::testing::{numbers, on_every_isa, runtime};

    #[test]
    fn bf16_is_the_nearest_and_an_even_one_of_two() {
        for (x, expected) in [
            (0.0, 0x0000),
            (-0.0, 0x8000),
            (1.0, 0x3f80),
            (f32::from_bits(0x3f80_7fff), 0x3f80),
            (f32::from_bits(0x3f80_8000), 0x3f80),
            (f32::from_bits(0x3f80_8001), 0x3f81),
            (f32::from_bits(0x3f81_8000), 0x3f82),
            (f32::MAX, 0x7f80),
            (f32::NEG_INFINITY, 0xff80),
        ] {
            assert_eq!(bf16_bits(x), expected, "{x}");
        }
        assert!(bf16_value(bf16_bits(f32::from_bits(0x7f80_0001))).is_nan());
        for x in numbers(1, 1000) {
            let error = (bf16_value(bf16_bits(x)) - x).abs();
            assert!(error <= x.abs() / 256.0, "{x}: {error}");
        }
    }

    #[test]
    fn rows_may_come_in_parts() {
        let (rows, width) = (7, 13);
        let x = numbers(2, rows * width);
        let check = |rt: &Runtime| {
            Precision::ALL.map(|precision| {
                let whole = Matrix::from_f32(rt, precision, &x, width);
                let mut parts = Matrix::with_capacity(precision, rows, width);
                x.chunks(3 * width).for_each(|part| parts.push_f32(rt, part, width));
                let mut appended = Matrix::from_f32(rt, precision, &x[..width], width);
                appended.append(Matrix::from_f32(rt, precision, &x[width..], width));
                (whole == parts && whole == appended && whole.precision() == precision, whole)
            })
        };
        let expected = check(&runtime(crate::Isa::Portable, 1));
        on_every_isa(check, |isa, found| {
            assert!(found == expected && found.iter().all(|(equal, _)| *equal), "{isa}");
        });
    }

    #[test]
    fn a_matrix_packs_to_the_bits_of_its_f32_source() {
        let (rows, n, k) = (3, 19, 22);
        let (w, a) = (numbers(3, n * k), numbers(4, rows * k));
        for isa in crate::Isa::available() {
            let rt = runtime(isa, 2);
            for precision in Precision::ALL.into_iter().filter(|precision| precision.is_available(isa)) {
                let product = |packed: &PackedMatrix| {
                    let mut c = vec![0.0; rows * n];
                    matmul(&rt, &a, packed, &mut c, Epilogue::None);
                    c
                };
                let direct = PackedMatrix::from_nk(&rt, precision, &w, n, k);
                let matrix = Matrix::from_f32(&rt, precision, &w, k);
                assert_eq!(product(&PackedMatrix::from_matrix(&rt, &matrix, n, k)), product(&direct), "{precision}");
            }
        }
    }
}
