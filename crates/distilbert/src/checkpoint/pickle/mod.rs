//! PyTorch's `pytorch_model.bin`: where its tensors lie, found without executing anything in it.
//!
//! Two containers: the zip archive that `torch.save` writes since 1.6 (`*/data.pkl` and `*/data/KEY`), and the older
//! sequence of pickles followed by the raw storages. Source: `torch/serialization.py`, `_save` and `_legacy_save`.

mod machine;

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;

use machine::{Heap, Id, TensorRecord, Value};

use super::tensors::Entry;
use super::zip::ZipArchive;
use super::{CheckpointError, PickleError, ZipError};

/// State dicts of models with thousands of tensors stay under 1 MiB; the limit bounds what a hostile one can allocate.
const MAX_PROGRAM_BYTES: usize = 64 << 20;

const ZIP_START: &[u8] = b"PK\x03\x04";

/// First value of the legacy format.
const LEGACY_MAGIC: i128 = 0x1950_a86a_20f9_469c_fc6c;

/// The only version of the legacy format.
const LEGACY_VERSION: i128 = 1001;

/// The tensors of a PyTorch file whose bytes are `file`; `path` is for messages.
pub(super) fn parse(file: &[u8], path: &Path) -> Result<BTreeMap<String, Entry>, CheckpointError> {
    let result =
        if file.starts_with(ZIP_START) { parse_zip(file) } else { parse_legacy(file).map_err(Refusal::Pickle) };
    result.map_err(|refusal| match refusal {
        Refusal::Zip(source) => CheckpointError::Zip { path: path.to_owned(), source },
        Refusal::Pickle(source) => CheckpointError::Pickle { path: path.to_owned(), source },
    })
}

/// An error that does not know its file yet.
#[derive(Debug)]
enum Refusal {
    Zip(ZipError),
    Pickle(PickleError),
}

impl From<ZipError> for Refusal {
    fn from(error: ZipError) -> Self {
        Self::Zip(error)
    }
}

impl From<PickleError> for Refusal {
    fn from(error: PickleError) -> Self {
        Self::Pickle(error)
    }
}

fn parse_zip(file: &[u8]) -> Result<BTreeMap<String, Entry>, Refusal> {
    let archive = ZipArchive::parse(file)?;
    // All entries stand in one folder, named after the file that was saved.
    let root = archive.names().find_map(|name| name.strip_suffix("/data.pkl").filter(|root| !root.contains('/')));
    let root = root.ok_or_else(|| ZipError::Missing("*/data.pkl".into()))?;

    let byte_order = format!("{root}/byteorder");
    if archive.names().any(|name| name == byte_order) {
        let order = &file[archive.stored(&byte_order)?];
        if order != b"little" {
            return Err(PickleError::ByteOrder(String::from_utf8_lossy(order).into_owned()).into());
        }
    }
    let program = &file[archive.stored(&format!("{root}/data.pkl"))?];
    let (heap, result, _) = machine::run(bounded(program)?)?;

    let mut storages: BTreeMap<String, Range<usize>> = BTreeMap::new();
    let mut entries = BTreeMap::new();
    for (name, tensor) in state_dict(&heap, result)? {
        let key = &tensor.storage.key;
        // Tensors may share a storage; its checksum is computed once.
        let bytes = match storages.get(key) {
            Some(bytes) => bytes.clone(),
            None => {
                let bytes = archive.stored(&format!("{root}/data/{key}"))?;
                storages.insert(key.clone(), bytes.clone());
                bytes
            }
        };
        entries.insert(name.to_owned(), entry(name, tensor, bytes)?);
    }
    Ok(entries)
}

fn parse_legacy(file: &[u8]) -> Result<BTreeMap<String, Entry>, PickleError> {
    let mut at = 0;
    let mut next = || {
        let program = file.get(at..).unwrap_or_default();
        // The raw storages follow the pickles, so the rest of the file may be long; a program still ends early.
        let limited = &program[..program.len().min(MAX_PROGRAM_BYTES)];
        let (heap, result, length) = machine::run(limited)?;
        at += length;
        Ok((heap, result))
    };
    let is_int = |(heap, id): &(Heap, Id), expected| matches!(heap.get(*id), Value::Int(found) if *found == expected);

    match next() {
        Ok(magic) if is_int(&magic, LEGACY_MAGIC) => {}
        Err(refused @ PickleError::Global { .. }) => return Err(refused),
        _ => return Err(PickleError::NotPyTorch),
    }
    if !is_int(&next()?, LEGACY_VERSION) {
        return Err(PickleError::NotStateDict("expected version 1001 of the legacy format".into()));
    }
    next()?; // sizes of C types on the writing machine; the storages state their own
    let (heap, result) = next()?;
    let (keys_heap, keys) = next()?;
    let Value::List(keys) = keys_heap.get(keys) else {
        return Err(PickleError::NotStateDict("expected a list of storage keys behind it".into()));
    };

    let tensors = state_dict(&heap, result)?;
    let element_bytes: BTreeMap<&str, usize> =
        tensors.values().map(|tensor| (tensor.storage.key.as_str(), tensor.storage.dtype.bitsize() / 8)).collect();
    let storages = legacy_storages(file, at, &keys_heap, keys, &element_bytes)?;
    let entry_of = |(name, tensor): (&str, &TensorRecord)| {
        let bytes = storages.get(&tensor.storage.key).cloned().unwrap_or_default();
        Ok((name.to_owned(), entry(name, tensor, bytes)?))
    };
    tensors.into_iter().map(entry_of).collect()
}

/// Behind the pickles, for each key in order: the number of elements, then the elements.
fn legacy_storages(
    file: &[u8],
    mut at: usize,
    heap: &Heap,
    keys: &[Id],
    element_bytes: &BTreeMap<&str, usize>,
) -> Result<BTreeMap<String, Range<usize>>, PickleError> {
    let mut storages = BTreeMap::new();
    for &key in keys {
        let Value::Str(key) = heap.get(key) else {
            return Err(PickleError::NotStateDict("expected storage keys to be strings".into()));
        };
        // The length of a storage that no tensor uses is unknown, and so is where the next one begins.
        let Some(element_bytes) = element_bytes.get(key.as_str()) else {
            return Err(PickleError::NotStateDict(format!("its storage `{key}` belongs to no tensor")));
        };
        let rest = file.get(at..).unwrap_or_default();
        let cut = PickleError::Truncated { offset: file.len() };
        let Some((elements, data)) = rest.split_first_chunk() else { return Err(cut) };
        let length = usize::try_from(i64::from_le_bytes(*elements)).ok().and_then(|n| n.checked_mul(*element_bytes));
        let Some(length) = length.filter(|&length| length <= data.len()) else { return Err(cut) };
        let start = at + elements.len();
        at = start + length;
        storages.insert(key.clone(), start..at);
    }
    Ok(storages)
}

fn bounded(program: &[u8]) -> Result<&[u8], PickleError> {
    if program.len() > MAX_PROGRAM_BYTES {
        let (found_bytes, limit_bytes) = (program.len() as u64, MAX_PROGRAM_BYTES as u64);
        return Err(PickleError::TooLarge { found_bytes, limit_bytes });
    }
    Ok(program)
}

/// The result as a flat dictionary of tensors.
fn state_dict(heap: &Heap, result: Id) -> Result<BTreeMap<&str, &TensorRecord>, PickleError> {
    let refuse = |reason: String| Err(PickleError::NotStateDict(reason));
    let Value::Dict(items) = heap.get(result) else { return refuse("expected a dictionary of tensors".into()) };
    let mut tensors = BTreeMap::new();
    for &(key, value) in items {
        let Value::Str(name) = heap.get(key) else { return refuse("expected its keys to be strings".into()) };
        let Value::Tensor(tensor) = heap.get(value) else { return refuse(format!("its `{name}` is not a tensor")) };
        if tensors.insert(name.as_str(), tensor).is_some() {
            return refuse(format!("it holds `{name}` twice"));
        }
    }
    Ok(tensors)
}

/// Checks a tensor against its storage, the bytes `storage` of the file.
fn entry(name: &str, tensor: &TensorRecord, storage: Range<usize>) -> Result<Entry, PickleError> {
    let TensorRecord { storage: record, storage_offset, shape, strides } = tensor;
    let element_bytes = record.dtype.bitsize() / 8;
    let expected = record.elements.checked_mul(element_bytes);
    if expected != Some(storage.len()) {
        let (expected_bytes, found_bytes) = (expected.map_or(u64::MAX, |bytes| bytes as u64), storage.len() as u64);
        return Err(PickleError::Storage { key: record.key.clone(), expected_bytes, found_bytes });
    }
    let outside = || PickleError::OutOfStorage {
        name: name.to_owned(),
        shape: shape.clone(),
        strides: strides.clone(),
        storage_offset: *storage_offset,
        storage_elements: record.elements,
    };
    // A stride of 0 repeats elements; more of them than the storage has would let a small file claim all memory.
    let count = shape.iter().try_fold(1usize, |count, &dim| count.checked_mul(dim));
    let count = count.filter(|&count| count <= record.elements).ok_or_else(outside)?;
    let reach = if count == 0 { Some(0) } else { reach(shape, strides) };
    let end = reach.and_then(|reach| storage_offset.checked_add(reach)).filter(|&end| end <= record.elements);
    let end = end.ok_or_else(outside)?;

    let bytes = storage.start + storage_offset * element_bytes..storage.start + end * element_bytes;
    let strides = (count > 0 && !is_row_major(shape, strides)).then(|| strides.clone());
    Ok(Entry { dtype: record.dtype, shape: shape.clone(), bytes, strides })
}

/// Elements from the first to behind the last, for a shape without zeros.
fn reach(shape: &[usize], strides: &[usize]) -> Option<usize> {
    shape
        .iter()
        .zip(strides)
        .try_fold(1usize, |reach, (&dim, &stride)| reach.checked_add((dim - 1).checked_mul(stride)?))
}

/// True if the strides are those of a plain array; those of dimensions of length 1 do not matter.
fn is_row_major(shape: &[usize], strides: &[usize]) -> bool {
    let mut expected = 1;
    shape.iter().zip(strides).rev().all(|(&dim, &stride)| {
        let plain = dim == 1 || stride == expected;
        expected *= dim;
        plain
    })
}

#[cfg(test)]
mod tests;
