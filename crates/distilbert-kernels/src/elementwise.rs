//! Activations and sums.

/// Which GELU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GeluKind {
    /// Exact.
    Erf,
    /// The tanh approximation.
    Tanh,
}
