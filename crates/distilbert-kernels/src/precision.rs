//! What matrix products multiply: f32, bf16 or int8.

use crate::arch;
use crate::runtime::{Isa, RuntimeError};
use std::fmt;
use std::str::FromStr;

/// The numbers that a matrix product multiplies. It takes and gives f32 whatever they are; sums, norms, softmax, GELU
/// and residuals are always f32 (int8: exact integer sums).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Precision {
    /// As the checkpoint has them: the reference.
    F32,
    /// Both factors rounded to bfloat16, products summed in f32.
    Bf16,
    /// Weights in 8 bits with one scale an output channel, activations in 8 bits with a scale and a zero point a row.
    Int8,
}

impl Precision {
    /// All, most exact first.
    pub const ALL: [Precision; 3] = [Precision::F32, Precision::Bf16, Precision::Int8];

    /// `f32`, `bf16` or `int8`.
    pub fn name(self) -> &'static str {
        match self {
            Precision::F32 => "f32",
            Precision::Bf16 => "bf16",
            Precision::Int8 => "int8",
        }
    }

    /// Whether this CPU can multiply it with this instruction set.
    pub fn is_available(self, isa: Isa) -> bool {
        match self {
            Precision::F32 | Precision::Int8 => isa.is_available(),
            #[cfg(target_arch = "x86_64")]
            Precision::Bf16 => isa >= Isa::Avx512 && arch::avx512::Avx512Bf16::detect().is_some(),
            #[cfg(not(target_arch = "x86_64"))]
            Precision::Bf16 => false,
        }
    }

    /// Refuses what [`Precision::is_available`] denies.
    ///
    /// # Errors
    /// [`RuntimeError::Precision`], which says what is missing.
    pub fn check(self, isa: Isa) -> Result<(), RuntimeError> {
        if self.is_available(isa) { Ok(()) } else { Err(RuntimeError::Precision(self, isa)) }
    }
}

impl fmt::Display for Precision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Precision {
    type Err = RuntimeError;

    fn from_str(name: &str) -> Result<Precision, RuntimeError> {
        let found = Precision::ALL.into_iter().find(|precision| precision.name() == name);
        found.ok_or_else(|| RuntimeError::UnknownPrecision(name.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip_and_unknown_ones_are_refused() {
        for precision in Precision::ALL {
            assert_eq!(precision.name().parse::<Precision>().unwrap(), precision);
        }
        assert!("fp8".parse::<Precision>().unwrap_err().to_string().contains("`fp8`"));
    }

    #[test]
    fn f32_and_int8_run_everywhere_and_bf16_is_refused_by_name() {
        for isa in Isa::available() {
            assert!(Precision::F32.check(isa).is_ok() && Precision::Int8.check(isa).is_ok());
        }
        let error = Precision::Bf16.check(Isa::Portable).unwrap_err().to_string();
        assert!(error.contains("`bf16`") && error.contains("portable"), "{error}");
    }
}
