//! Tensors in files: reads safetensors (one file or shards) and PyTorch pickles, writes safetensors. Knows names, shapes
//! and bytes; nothing of the model they belong to.
//!
//! A file from a stranger can do no more than be refused: lengths, offsets and shapes are checked before use, and a
//! pickle is interpreted by an allowlist, which executes nothing.

mod error;
mod hash;
mod map;
pub mod model_folder;
mod npy;
mod pickle;
mod safetensors_header;
pub mod sentence_folder;
mod tensors;
pub(crate) mod write;
pub(crate) mod zip;

pub use error::{CheckpointError, PickleError, ZipError};
pub use hash::model_hash;
pub use map::Mapped;
pub use npy::NpyWriter;
pub use safetensors::Dtype;
pub use tensors::{Checkpoint, Tensors};
pub(crate) use write::PartialFile;
pub use write::{
    TensorData, TensorToWrite, is_same_file, link_folder, replace_folder, write_atomic, write_safetensors,
};
