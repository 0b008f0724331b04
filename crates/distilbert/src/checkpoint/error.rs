//! What can be wrong with a checkpoint, each error naming the file or tensor, the expected and the found.

use std::io;
use std::path::{Path, PathBuf};

use safetensors::Dtype;

/// Why a checkpoint could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// The operating system refused: missing file, full disk, unwritable folder.
    #[error("cannot {action} {path}: {source}")]
    Io {
        /// What was attempted, as a verb.
        action: &'static str,
        /// On which file or folder.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The folder has none of the weight files this program reads.
    #[error(
        "no weights in {folder}: expected model.safetensors, model.safetensors.index.json, pytorch_model.bin or pytorch_model.bin.index.json"
    )]
    NoWeights {
        /// The folder searched.
        folder: PathBuf,
    },
    /// A model for inference alone, which has no f32 weights to save.
    #[error("cannot save {path}: the model was loaded for inference alone, which keeps no f32 weights")]
    NotWhole {
        /// Where it should go.
        path: PathBuf,
    },
    /// A safetensors file ends before or after its header says.
    #[error("{path}: expected {expected_bytes} bytes by its header, found {found_bytes}")]
    FileLength {
        /// The file.
        path: PathBuf,
        /// Length by the header.
        expected_bytes: u64,
        /// Length on disk.
        found_bytes: u64,
    },
    /// A safetensors header that cannot be parsed or contradicts itself.
    #[error("{path}: bad safetensors header: {reason}")]
    Header {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A `*.index.json` that cannot be parsed or does not match its shards.
    #[error("{path}: bad shard index: {reason}")]
    Index {
        /// The index file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A PyTorch archive whose zip container is broken.
    #[error("{path}: {source}")]
    Zip {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: ZipError,
    },
    /// A PyTorch file whose pickle is refused.
    #[error("{path}: {source}")]
    Pickle {
        /// The file.
        path: PathBuf,
        /// Why.
        source: PickleError,
    },
    /// No tensor of that name.
    #[error("{path}: no tensor `{name}`")]
    MissingTensor {
        /// The file or folder.
        path: PathBuf,
        /// The name asked for.
        name: String,
    },
    /// A tensor whose elements are of another kind than asked for.
    #[error("tensor `{name}`: expected {expected}, found {found}")]
    Dtype {
        /// The tensor.
        name: String,
        /// Which types would do.
        expected: &'static str,
        /// The type in the file.
        found: Dtype,
    },
    /// A tensor to write whose shape does not match its elements.
    #[error("tensor `{name}`: expected {expected} elements by its shape, found {found}")]
    ElementCount {
        /// The tensor.
        name: String,
        /// Product of the shape.
        expected: usize,
        /// Elements given.
        found: usize,
    },
    /// A tensor name that cannot be written, because it is taken or reserved.
    #[error("tensor `{name}`: {reason}")]
    TensorName {
        /// The tensor.
        name: String,
        /// Why the name will not do.
        reason: &'static str,
    },
}

impl CheckpointError {
    pub(super) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { action, path: path.to_owned(), source }
    }
}

/// Why a zip archive is refused.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ZipError {
    /// No end-of-archive record, or a record that points outside the file.
    #[error("not a whole zip archive: {0}")]
    Broken(&'static str),
    /// Two entries of one name: which one counts would depend on the reader.
    #[error("zip archive has the entry `{0}` twice")]
    Duplicate(String),
    /// An entry that is compressed where plain bytes are required, or by a method this program does not know.
    #[error("zip entry `{name}`: compression method {method} is not accepted here")]
    Method {
        /// The entry.
        name: String,
        /// Zip's number of the method; 0 = stored, 8 = deflate.
        method: u16,
    },
    /// An encrypted entry.
    #[error("zip entry `{0}` is encrypted")]
    Encrypted(String),
    /// An entry larger than the reader allows.
    #[error("zip entry `{name}`: {size_bytes} bytes unpacked, more than the limit of {limit_bytes}")]
    TooLarge {
        /// The entry.
        name: String,
        /// Its size unpacked, as the archive declares it.
        size_bytes: u64,
        /// The limit.
        limit_bytes: u64,
    },
    /// An entry whose bytes do not match its declared size or checksum.
    #[error("zip entry `{0}` is corrupt: its size or checksum does not match")]
    Corrupt(String),
    /// No such entry.
    #[error("zip archive has no entry `{0}`")]
    Missing(String),
}

/// Why a pickle is refused. Offsets count bytes from the start of the pickle.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum PickleError {
    /// Neither a zip archive nor PyTorch's older format.
    #[error("not a PyTorch checkpoint: neither a zip archive nor a legacy pickle")]
    NotPyTorch,
    /// An instruction that a saved state dict never needs.
    #[error("refused: pickle opcode 0x{opcode:02x} at byte {offset} is not one a state dict needs")]
    Opcode {
        /// The instruction.
        opcode: u8,
        /// Where.
        offset: usize,
    },
    /// A class or function outside the allowlist: the file would run code in Python.
    #[error("refused: the pickle names `{name}` at byte {offset}, which is not part of a plain state dict")]
    Global {
        /// Module and name, joined by a dot.
        name: String,
        /// Where.
        offset: usize,
    },
    /// The pickle ends within an instruction or before its STOP.
    #[error("the pickle is cut off at byte {offset}")]
    Truncated {
        /// Where.
        offset: usize,
    },
    /// An instruction whose operands are not what it needs.
    #[error("malformed pickle at byte {offset}: {reason}")]
    Malformed {
        /// What was expected.
        reason: &'static str,
        /// Where.
        offset: usize,
    },
    /// The pickle is whole but is not a flat dictionary of tensors.
    #[error("not a state dict: {0}")]
    NotStateDict(String),
    /// A tensor whose shape, strides or offset leave its storage, or that is larger than its storage.
    #[error(
        "tensor `{name}`: shape {shape:?} with strides {strides:?} from element {storage_offset} does not fit its storage of {storage_elements} elements"
    )]
    OutOfStorage {
        /// The tensor.
        name: String,
        /// Elements by dimension.
        shape: Vec<usize>,
        /// Elements to skip by dimension.
        strides: Vec<usize>,
        /// First element.
        storage_offset: usize,
        /// Elements in the storage.
        storage_elements: usize,
    },
    /// A storage whose bytes are missing or of another length than the pickle says.
    #[error("storage `{key}`: expected {expected_bytes} bytes, found {found_bytes}")]
    Storage {
        /// The storage's key in the file.
        key: String,
        /// Length by the pickle.
        expected_bytes: u64,
        /// Length in the file; 0 if absent.
        found_bytes: u64,
    },
    /// Written on a big-endian machine.
    #[error("the file's byte order is `{0}`, only `little` is read")]
    ByteOrder(String),
    /// The pickle program is larger than any state dict's.
    #[error("the pickle has {found_bytes} bytes, more than the limit of {limit_bytes}")]
    TooLarge {
        /// Its length.
        found_bytes: u64,
        /// The limit.
        limit_bytes: u64,
    },
}
