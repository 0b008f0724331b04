//! Parity with the reference implementation: runs a model on the inputs of a reference file and compares what comes
//! out, tensor by tensor, within tolerances that a correct f32 program keeps with room to spare.

#[cfg(feature = "train")]
mod labelled; // one labelled batch: loss, logits, gradients
pub(crate) mod outputs; // hidden states, logits, embeddings
#[cfg(feature = "train")]
mod replay; // a distillation run: losses, gradients, parameters after each step

#[cfg(feature = "train")]
pub use labelled::{LabelledCheck, verify_labelled_batch};
pub use outputs::verify_outputs;
#[cfg(feature = "train")]
pub use replay::replay_distillation;

use crate::checkpoint::model_folder::ModelFolderError;
use crate::checkpoint::{CheckpointError, Tensors};
use crate::data::batch::{Batch, BatchError};
use crate::model::InputError;
use std::path::PathBuf;
#[cfg(feature = "train")]
use {crate::model::Model, std::path::Path};

/// Largest difference of activations, losses and parameters, as a share of the largest reference value. Float32
/// PyTorch against float64 stays below 2e-5; an epsilon of 1e-5 in the norms, or tanh GELU for the exact one, does not.
pub const ACTIVATION_TOLERANCE: f64 = 1e-4;

/// Largest norm of a gradient's difference, as a share of the reference's norm.
pub const GRADIENT_TOLERANCE: f64 = 1e-3;

/// A gradient below this share of all gradients' norm is noise: those of key biases are zero by construction.
pub const GRADIENT_FLOOR: f64 = 1e-6;

/// The same for question answering, where the gradients of the last biases are zero too (shifting all logits of a text
/// alike changes no span), but are the rounding of whole softmaxes: PyTorch's are up to 3e-8 of all gradients' norm.
pub const SPAN_GRADIENT_FLOOR: f64 = 1e-3;

/// One tensor compared.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct Comparison {
    /// The tensor, with its step in a replayed run.
    pub name: String,
    /// The difference in the measure of its kind.
    pub difference: f64,
    /// The difference that would still pass.
    pub allowed: f64,
    /// Whether it does.
    pub passed: bool,
}

/// Why a comparison cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// A file of tensors.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// The model.
    #[error(transparent)]
    Model(#[from] ModelFolderError),
    /// The inputs.
    #[error("{}: {source}", path.display())]
    Batch {
        /// The reference file.
        path: PathBuf,
        /// What is wrong.
        source: BatchError,
    },
    /// The model cannot take the inputs.
    #[error("{}: {source}", path.display())]
    Input {
        /// The reference file.
        path: PathBuf,
        /// What is wrong.
        source: InputError,
    },
    /// A tensor of the reference that the model does not compute.
    #[error("{}: `{name}`: {reason}", path.display())]
    Unexpected {
        /// The reference file.
        path: PathBuf,
        /// The tensor or key.
        name: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The settings of a reference run, or a reference as a whole.
    #[error("{}: {reason}", path.display())]
    Settings {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
}

/// The comparisons, of which there must be some: a reference that holds nothing to compare with proves nothing.
fn not_empty(
    comparisons: Vec<Comparison>,
    path: &std::path::Path,
    holds: &str,
) -> Result<Vec<Comparison>, VerifyError> {
    if comparisons.is_empty() {
        let reason = format!("expected {holds} to compare with, found none");
        return Err(VerifyError::Settings { path: path.to_owned(), reason });
    }
    Ok(comparisons)
}

/// Compares the largest differences.
fn compare_values(name: impl Into<String>, ours: &[f32], reference: &[f32]) -> Comparison {
    let largest =
        |values: &mut dyn Iterator<Item = f64>| values.fold(0.0f64, |a, b| if b.is_nan() { b } else { a.max(b) });
    let difference = largest(&mut ours.iter().zip(reference).map(|(&a, &b)| (f64::from(a) - f64::from(b)).abs()));
    let difference = if ours.len() == reference.len() { difference } else { f64::INFINITY };
    let allowed = ACTIVATION_TOLERANCE * largest(&mut reference.iter().map(|&b| f64::from(b).abs()));
    Comparison { name: name.into(), difference, allowed, passed: difference <= allowed }
}

/// Compares a gradient by the norm of the difference; one with a norm below `smallest` is taken for noise.
#[cfg(feature = "train")]
fn compare_gradient(name: String, ours: &[f32], reference: &[f32], smallest: f64) -> Comparison {
    let squares = ours.iter().zip(reference).map(|(&a, &b)| (f64::from(a) - f64::from(b)).powi(2)).sum::<f64>();
    let difference = if ours.len() == reference.len() { squares.sqrt() } else { f64::INFINITY };
    let allowed = GRADIENT_TOLERANCE * norm(reference).max(smallest);
    Comparison { name, difference, allowed, passed: difference <= allowed }
}

#[cfg(feature = "train")]
fn norm(values: &[f32]) -> f64 {
    values.iter().map(|&value| f64::from(value).powi(2)).sum::<f64>().sqrt()
}

#[cfg(feature = "train")]
/// The first weights of the linears between widths, where the run has any.
fn read_projections(student: &mut Model, folder: &Path) -> Result<(), VerifyError> {
    let of_training = student.parameters.of_training().to_vec();
    if of_training.is_empty() {
        return Ok(());
    }
    let tensors = Tensors::open_file(&folder.join("projections.safetensors"))?;
    for parameter in of_training {
        let values = tensors.read_f32(&parameter.name)?;
        if values.len() != parameter.count() {
            let reason = format!("expected shape {:?}, found {} numbers", parameter.shape, values.len());
            return Err(VerifyError::Unexpected { path: tensors.path().to_owned(), name: parameter.name, reason });
        }
        student.parameters.weights_mut().values[parameter.range].copy_from_slice(&values);
    }
    Ok(())
}

/// A padded batch of a reference file, packed, and where its real tokens are.
struct ReferenceBatch {
    batch: Batch,
    /// `[batch, seq]`: 1 for real tokens.
    attention_mask: Vec<i64>,
}

impl ReferenceBatch {
    fn read(tensors: &Tensors) -> Result<ReferenceBatch, VerifyError> {
        let shape = tensors.shape("input.input_ids")?;
        let &[_, seq] = shape else {
            return Err(VerifyError::Unexpected {
                path: tensors.path().to_owned(),
                name: "input.input_ids".into(),
                reason: format!("expected shape [batch, seq], found {shape:?}"),
            });
        };
        let input_ids = tensors.read_i64("input.input_ids")?;
        let attention_mask = match tensors.contains("input.attention_mask") {
            true => tensors.read_i64("input.attention_mask")?,
            false => vec![1; input_ids.len()],
        };
        let types = match tensors.contains("input.token_type_ids") {
            true => Some(tensors.read_i64("input.token_type_ids")?),
            false => None,
        };
        let batch = Batch::from_padded(&input_ids, &attention_mask, types.as_deref(), seq)
            .map_err(|source| VerifyError::Batch { path: tensors.path().to_owned(), source })?;
        Ok(ReferenceBatch { batch, attention_mask })
    }

    /// The rows of real tokens of a padded tensor `[batch, seq, width]`.
    fn real_rows<T: Copy>(&self, padded: &[T]) -> Vec<T> {
        let rows = self.attention_mask.len().max(1);
        let width = padded.len() / rows;
        let real = self.attention_mask.iter().zip(padded.chunks(width.max(1))).filter(|(mask, _)| **mask != 0);
        real.flat_map(|(_, row)| row.iter().copied()).collect()
    }
}
