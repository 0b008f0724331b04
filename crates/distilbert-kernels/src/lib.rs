//! Encoder kernels for CPUs: slices in, slices out, forward and backward, no files and no randomness of their own.
//!
//! Every kernel takes a [`Runtime`] (instruction set, threads), checks the lengths it is given and panics when they
//! disagree: shapes are the caller's code, never a user's input. Numerics contract: a row's result depends on that row
//! alone, so it is bit-equal for any number of rows, neighbours and threads on one instruction set.

pub mod runtime; // instruction set and threads
pub mod precision; // f32, bf16, int8
mod simd; // one vector interface
mod arch; // its three implementations
mod math; // exp, tanh, erf, GELU on vectors
mod rows; // walks over numbers and rows, sums in fixed order
pub mod matrix; // matrices as they are kept: f32, bf16, int8
pub mod matmul; // packed matrix products with fused epilogues
pub mod attention; // unpadded multi-head attention
pub mod dropout; // counter-based masks
pub mod elementwise; // activations, sums
pub mod embedding; // table look-ups
pub mod norm; // layer norm, fused with residual and dropout
pub mod pool; // sequences to vectors, vectors to length one
pub mod losses; // rows of logits, hidden states -> (sum, gradient)
pub mod optimizer; // AdamW, norm of the gradient
pub mod peak; // what this machine could do at best
#[cfg(test)]
mod testing;

pub use matrix::{Matrix, MatrixRef};
pub use precision::Precision;
pub use runtime::{Isa, Runtime, RuntimeError};
