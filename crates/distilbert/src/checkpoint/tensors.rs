//! Tensors of one file, and of a Hugging Face folder.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::{Path, PathBuf};

use half::{bf16, f16};
use safetensors::Dtype;
use serde::Deserialize;

use super::{CheckpointError, Mapped, pickle, safetensors_header};

/// The tensors of one file, mapped and checked; elements are read on demand.
#[derive(Debug)]
pub struct Tensors {
    path: PathBuf,
    file: Mapped,
    metadata: BTreeMap<String, String>,
    entries: BTreeMap<String, Entry>,
}

/// Where one tensor lies; whoever makes one has checked that it stays within the file.
#[derive(Debug, PartialEq)]
pub(super) struct Entry {
    pub dtype: Dtype,
    pub shape: Vec<usize>,
    /// Bytes of the file that hold the elements, in row-major order unless `strides` says otherwise.
    pub bytes: Range<usize>,
    /// Elements to skip by dimension, counted from `bytes.start`; `None` for row-major.
    pub strides: Option<Vec<usize>>,
}

impl Tensors {
    /// Opens a safetensors file.
    ///
    /// # Errors
    /// [`CheckpointError::Io`], [`CheckpointError::Header`] or [`CheckpointError::FileLength`]; a file that opens has all
    /// its data.
    pub fn open_file(path: &Path) -> Result<Self, CheckpointError> {
        let file = Mapped::open(path).map_err(CheckpointError::io("open", path))?;
        let header = safetensors_header::parse(&file, path)?;
        let entries = header.tensors.into_iter().map(|(name, info)| {
            let (start, end) = info.data_offsets;
            let bytes = header.data_start + start..header.data_start + end;
            (name, Entry { dtype: info.dtype, shape: info.shape, bytes, strides: None })
        });
        Ok(Self { path: path.to_owned(), entries: entries.collect(), metadata: header.metadata, file })
    }

    /// Opens a PyTorch file (`torch.save` of a state dict, zip or legacy) without executing anything in it.
    ///
    /// # Errors
    /// [`CheckpointError::Io`], [`CheckpointError::Zip`] or [`CheckpointError::Pickle`].
    pub fn open_pickle(path: &Path) -> Result<Self, CheckpointError> {
        let file = Mapped::open(path).map_err(CheckpointError::io("open", path))?;
        let entries = pickle::parse(&file, path)?;
        Ok(Self { path: path.to_owned(), entries, metadata: BTreeMap::new(), file })
    }

    /// Tensor names, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.entries.keys().map(String::as_str)
    }

    /// True if the file has a tensor of that name.
    pub fn contains(&self, name: &str) -> bool {
        self.entries.contains_key(name)
    }

    /// Elements by dimension; `[]` for a scalar.
    ///
    /// # Errors
    /// [`CheckpointError::MissingTensor`].
    pub fn shape(&self, name: &str) -> Result<&[usize], CheckpointError> {
        Ok(&self.entry(name)?.shape)
    }

    /// Element type in the file.
    ///
    /// # Errors
    /// [`CheckpointError::MissingTensor`].
    pub fn dtype(&self, name: &str) -> Result<Dtype, CheckpointError> {
        Ok(self.entry(name)?.dtype)
    }

    /// All elements, row-major, from F32, F16, BF16 or F64 (rounded to nearest).
    ///
    /// # Errors
    /// [`CheckpointError::MissingTensor`], or [`CheckpointError::Dtype`] if it holds integers.
    pub fn read_f32(&self, name: &str) -> Result<Vec<f32>, CheckpointError> {
        let entry = self.entry(name)?;
        floats(name, entry.dtype, &self.row_major(entry))
    }

    /// All elements as [`Tensors::read_f32`] gives them, row-major, at most `count` at a time with the index of the first;
    /// memory is needed only for these.
    ///
    /// # Errors
    /// As [`Tensors::read_f32`], or what `take` reports.
    pub fn for_each_f32<E: From<CheckpointError>>(
        &self,
        name: &str,
        count: usize,
        mut take: impl FnMut(usize, &[f32]) -> Result<(), E>,
    ) -> Result<(), E> {
        let entry = self.entry(name)?;
        let bytes = self.row_major(entry);
        let step = count.max(1) * (entry.dtype.bitsize() / 8).max(1);
        for (index, chunk) in bytes.chunks(step).enumerate() {
            take(index * count.max(1), &floats(name, entry.dtype, chunk)?)?;
            if entry.strides.is_none() {
                let start = entry.bytes.start + index * step;
                self.file.release(start..start + chunk.len());
            }
        }
        Ok(())
    }

    /// All elements, row-major, of a tensor in I8.
    ///
    /// # Errors
    /// [`CheckpointError::MissingTensor`], or [`CheckpointError::Dtype`] if it holds anything else.
    pub fn read_i8(&self, name: &str) -> Result<Vec<i8>, CheckpointError> {
        self.read_as(name, Dtype::I8, "I8", i8::from_le_bytes)
    }

    /// All elements, row-major, of a tensor in BF16, as their bits.
    ///
    /// # Errors
    /// [`CheckpointError::MissingTensor`], or [`CheckpointError::Dtype`] if it holds anything else.
    pub fn read_bf16(&self, name: &str) -> Result<Vec<u16>, CheckpointError> {
        self.read_as(name, Dtype::BF16, "BF16", u16::from_le_bytes)
    }

    fn read_as<const N: usize, T>(
        &self,
        name: &str,
        dtype: Dtype,
        expected: &'static str,
        element: impl Fn([u8; N]) -> T,
    ) -> Result<Vec<T>, CheckpointError> {
        let entry = self.entry(name)?;
        if entry.dtype != dtype {
            return Err(dtype_error(name, expected, entry.dtype));
        }
        let elements = convert(&self.row_major(entry), element);
        self.file.release(entry.bytes.clone());
        Ok(elements)
    }

    /// All elements, row-major, from any integer type up to I64 or from BOOL (0 and 1).
    ///
    /// # Errors
    /// [`CheckpointError::MissingTensor`], or [`CheckpointError::Dtype`] if it holds anything else.
    pub fn read_i64(&self, name: &str) -> Result<Vec<i64>, CheckpointError> {
        let entry = self.entry(name)?;
        let bytes = self.row_major(entry);
        Ok(match entry.dtype {
            Dtype::I64 => convert(&bytes, i64::from_le_bytes),
            Dtype::I32 => convert(&bytes, |b| i32::from_le_bytes(b).into()),
            Dtype::I16 => convert(&bytes, |b| i16::from_le_bytes(b).into()),
            Dtype::I8 => convert(&bytes, |b| i8::from_le_bytes(b).into()),
            Dtype::U32 => convert(&bytes, |b| u32::from_le_bytes(b).into()),
            Dtype::U16 => convert(&bytes, |b| u16::from_le_bytes(b).into()),
            Dtype::U8 => convert(&bytes, |[b]| b.into()),
            Dtype::BOOL => convert(&bytes, |[b]| (b != 0).into()),
            found => return Err(dtype_error(name, "integer (I64, I32, I16, I8, U32, U16, U8 or BOOL)", found)),
        })
    }

    /// The `__metadata__` of a safetensors file; empty for a PyTorch file.
    pub fn metadata(&self) -> &BTreeMap<String, String> {
        &self.metadata
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn entry(&self, name: &str) -> Result<&Entry, CheckpointError> {
        self.entries
            .get(name)
            .ok_or_else(|| CheckpointError::MissingTensor { path: self.path.clone(), name: name.to_owned() })
    }

    fn row_major(&self, entry: &Entry) -> Cow<'_, [u8]> {
        let bytes = &self.file[entry.bytes.clone()];
        match &entry.strides {
            None => Cow::Borrowed(bytes),
            Some(strides) => Cow::Owned(gather(bytes, &entry.shape, strides, entry.dtype.bitsize() / 8)),
        }
    }
}

/// The bytes of some elements of the tensor `name` as numbers.
fn floats(name: &str, dtype: Dtype, bytes: &[u8]) -> Result<Vec<f32>, CheckpointError> {
    Ok(match dtype {
        Dtype::F32 => convert(bytes, f32::from_le_bytes),
        Dtype::F16 => convert(bytes, |b| f16::from_le_bytes(b).to_f32()),
        Dtype::BF16 => convert(bytes, |b| bf16::from_le_bytes(b).to_f32()),
        Dtype::F64 => convert(bytes, |b| f64::from_le_bytes(b) as f32),
        found => return Err(dtype_error(name, "floating point (F32, F16, BF16 or F64)", found)),
    })
}

fn dtype_error(name: &str, expected: &'static str, found: Dtype) -> CheckpointError {
    CheckpointError::Dtype { name: name.to_owned(), expected, found }
}

fn convert<const N: usize, T>(bytes: &[u8], element: impl Fn([u8; N]) -> T) -> Vec<T> {
    let (elements, _) = bytes.as_chunks::<N>();
    elements.iter().map(|&bytes| element(bytes)).collect()
}

/// Copies a strided tensor into row-major order; `strides` in elements of `element_bytes`.
fn gather(bytes: &[u8], shape: &[usize], strides: &[usize], element_bytes: usize) -> Vec<u8> {
    let count: usize = shape.iter().product();
    let mut out = Vec::with_capacity(count * element_bytes);
    let mut index = vec![0; shape.len()];
    for _ in 0..count {
        let at = index.iter().zip(strides).map(|(i, stride)| i * stride).sum::<usize>() * element_bytes;
        out.extend_from_slice(&bytes[at..at + element_bytes]);
        for (i, &dim) in index.iter_mut().zip(shape).rev() {
            *i += 1;
            if *i < dim {
                break;
            }
            *i = 0;
        }
    }
    out
}

/// The tensors of a Hugging Face folder, from one file or from several shards.
#[derive(Debug)]
pub struct Checkpoint {
    folder: PathBuf,
    files: Vec<Tensors>,
    /// Index into `files` by tensor name.
    file_of: BTreeMap<String, usize>,
}

impl Checkpoint {
    /// Opens the weights in `folder`: the first that exists of `model.safetensors`, `model.safetensors.index.json` with
    /// its shards, `pytorch_model.bin`, `pytorch_model.bin.index.json` with its shards.
    ///
    /// # Errors
    /// [`CheckpointError::NoWeights`] if there is none of them; any other [`CheckpointError`] of reading names its file.
    pub fn open(folder: &Path) -> Result<Self, CheckpointError> {
        let kinds: [(&str, OpenFile); 2] =
            [("model.safetensors", Tensors::open_file), ("pytorch_model.bin", Tensors::open_pickle)];
        for (file, open) in kinds {
            let whole = folder.join(file);
            if exists(&whole)? {
                return Ok(Self::whole(folder, open(&whole)?));
            }
            let index = folder.join(format!("{file}.index.json"));
            if exists(&index)? {
                return Self::sharded(folder, &index, open);
            }
        }
        Err(CheckpointError::NoWeights { folder: folder.to_owned() })
    }

    fn whole(folder: &Path, file: Tensors) -> Self {
        let file_of = file.names().map(|name| (name.to_owned(), 0)).collect();
        Self { folder: folder.to_owned(), files: vec![file], file_of }
    }

    fn sharded(folder: &Path, index_path: &Path, open: OpenFile) -> Result<Self, CheckpointError> {
        #[derive(Deserialize)]
        struct Index {
            weight_map: BTreeMap<String, String>,
        }
        let bad = |reason: String| CheckpointError::Index { path: index_path.to_owned(), reason };
        let json = std::fs::read(index_path).map_err(CheckpointError::io("read", index_path))?;
        let Index { weight_map } = serde_json::from_slice(&json).map_err(|error| bad(error.to_string()))?;

        let shards: Vec<&String> = weight_map.values().collect::<BTreeSet<_>>().into_iter().collect();
        let mut files = Vec::with_capacity(shards.len());
        for (number, shard) in shards.iter().enumerate() {
            // A shard lies beside its index; anything else could be a file of the reader's.
            if Path::new(shard).file_name() != Some(shard.as_ref()) {
                return Err(bad(format!("shard `{shard}` is not a plain file name")));
            }
            let file = open(&folder.join(shard))?;
            if let Some(name) = file.names().find(|name| weight_map.get(*name) != Some(*shard)) {
                return Err(bad(format!(
                    "shard {number} (`{shard}`) holds `{name}`, which the index does not place there"
                )));
            }
            files.push(file);
        }
        let mut file_of = BTreeMap::new();
        for (name, shard) in &weight_map {
            let number = shards.binary_search(&shard).ok().filter(|&number| files[number].contains(name));
            let number = number.ok_or_else(|| bad(format!("tensor `{name}` is not in its shard `{shard}`")))?;
            file_of.insert(name.clone(), number);
        }
        Ok(Self { folder: folder.to_owned(), files, file_of })
    }

    /// Tensor names, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.file_of.keys().map(String::as_str)
    }

    /// True if there is a tensor of that name.
    pub fn contains(&self, name: &str) -> bool {
        self.file_of.contains_key(name)
    }

    /// See [`Tensors::shape`].
    ///
    /// # Errors
    /// [`CheckpointError::MissingTensor`].
    pub fn shape(&self, name: &str) -> Result<&[usize], CheckpointError> {
        self.file_of(name)?.shape(name)
    }

    /// See [`Tensors::dtype`].
    ///
    /// # Errors
    /// [`CheckpointError::MissingTensor`].
    pub fn dtype(&self, name: &str) -> Result<Dtype, CheckpointError> {
        self.file_of(name)?.dtype(name)
    }

    /// See [`Tensors::read_f32`].
    ///
    /// # Errors
    /// [`CheckpointError::MissingTensor`], or [`CheckpointError::Dtype`] if it holds integers.
    pub fn read_f32(&self, name: &str) -> Result<Vec<f32>, CheckpointError> {
        self.file_of(name)?.read_f32(name)
    }

    /// The file that holds this tensor.
    ///
    /// # Errors
    /// [`CheckpointError::MissingTensor`].
    pub fn file_of(&self, name: &str) -> Result<&Tensors, CheckpointError> {
        let missing = || CheckpointError::MissingTensor { path: self.folder.clone(), name: name.to_owned() };
        self.file_of.get(name).map(|&number| &self.files[number]).ok_or_else(missing)
    }

    /// See [`Tensors::read_i64`].
    ///
    /// # Errors
    /// [`CheckpointError::MissingTensor`], or [`CheckpointError::Dtype`] if it holds anything but integers.
    pub fn read_i64(&self, name: &str) -> Result<Vec<i64>, CheckpointError> {
        self.file_of(name)?.read_i64(name)
    }

    /// The weight files, in name order.
    pub fn files(&self) -> impl Iterator<Item = &Path> {
        self.files.iter().map(Tensors::path)
    }
}

type OpenFile = fn(&Path) -> Result<Tensors, CheckpointError>;

/// Unlike [`Path::exists`], tells "not there" from "may not look".
fn exists(path: &Path) -> Result<bool, CheckpointError> {
    path.try_exists().map_err(CheckpointError::io("look for", path))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::checkpoint::{TensorData, TensorToWrite, write_safetensors};

    fn write(path: &Path, tensors: &[(&str, &[f32])]) {
        let tensors = tensors.iter().map(|&(name, data)| TensorToWrite {
            name: name.into(),
            shape: vec![data.len()],
            data: TensorData::F32(data),
        });
        write_safetensors(path, tensors, &BTreeMap::new()).unwrap();
    }

    fn sharded(weight_map: &str) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        write(&folder.path().join("model-1.safetensors"), &[("a", &[1.0]), ("b", &[2.0])]);
        write(&folder.path().join("model-2.safetensors"), &[("c", &[3.0])]);
        let index = format!(r#"{{"metadata":{{"total_size":12}},"weight_map":{weight_map}}}"#);
        fs::write(folder.path().join("model.safetensors.index.json"), index).unwrap();
        folder
    }

    fn index_error(weight_map: &str) -> String {
        let folder = sharded(weight_map);
        Checkpoint::open(folder.path()).unwrap_err().to_string()
    }

    /// A file with one tensor `a` of two elements.
    fn raw(dtype: &str, data: &[u8]) -> (tempfile::TempDir, Tensors) {
        let header = format!(r#"{{"a":{{"dtype":"{dtype}","shape":[2],"data_offsets":[0,{}]}}}}"#, data.len());
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.safetensors");
        fs::write(&path, [&(header.len() as u64).to_le_bytes(), header.as_bytes(), data].concat()).unwrap();
        let tensors = Tensors::open_file(&path).unwrap();
        (folder, tensors)
    }

    #[test]
    fn every_floating_type_reads_as_f32() {
        let cases: [(&str, &[u8]); 4] = [
            ("F32", &[0, 0, 0xc0, 0x3f, 0, 0, 0, 0xc0]),
            ("F16", &[0, 0x3e, 0, 0xc0]),
            ("BF16", &[0xc0, 0x3f, 0, 0xc0]),
            ("F64", &[0, 0, 0, 0, 0, 0, 0xf8, 0x3f, 0, 0, 0, 0, 0, 0, 0, 0xc0]),
        ];
        for (dtype, data) in cases {
            assert_eq!(raw(dtype, data).1.read_f32("a").unwrap(), [1.5, -2.0], "{dtype}");
        }
    }

    #[test]
    fn every_integer_type_reads_as_i64() {
        let cases: [(&str, &[u8], [i64; 2]); 8] = [
            ("I64", &[1, 0, 0, 0, 0, 0, 0, 0, 254, 255, 255, 255, 255, 255, 255, 255], [1, -2]),
            ("I32", &[1, 0, 0, 0, 254, 255, 255, 255], [1, -2]),
            ("I16", &[1, 0, 254, 255], [1, -2]),
            ("I8", &[1, 254], [1, -2]),
            ("U32", &[1, 0, 0, 0, 254, 255, 255, 255], [1, 4_294_967_294]),
            ("U16", &[1, 0, 254, 255], [1, 65534]),
            ("U8", &[1, 254], [1, 254]),
            ("BOOL", &[1, 0], [1, 0]),
        ];
        for (dtype, data, expected) in cases {
            assert_eq!(raw(dtype, data).1.read_i64("a").unwrap(), expected, "{dtype}");
        }
    }

    #[test]
    fn integers_are_not_read_as_floats_nor_floats_as_integers() {
        let error = raw("U8", &[1, 2]).1.read_f32("a").unwrap_err().to_string();
        assert_eq!(error, "tensor `a`: expected floating point (F32, F16, BF16 or F64), found U8");
        let error = raw("F16", &[0; 4]).1.read_i64("a").unwrap_err();
        assert!(matches!(error, CheckpointError::Dtype { found: Dtype::F16, .. }));
    }

    #[test]
    fn a_missing_tensor_is_an_error_that_names_it() {
        let (_folder, tensors) = raw("U8", &[1, 2]);
        assert!(tensors.read_f32("b").unwrap_err().to_string().ends_with("no tensor `b`"));
    }

    #[test]
    fn a_folder_without_weights_is_an_error_that_lists_what_was_looked_for() {
        let folder = tempfile::tempdir().unwrap();
        let error = Checkpoint::open(folder.path()).unwrap_err().to_string();
        assert!(error.contains("expected model.safetensors, "), "{error}");
    }

    #[test]
    fn one_file_is_preferred_to_shards() {
        let folder = sharded("{}");
        write(&folder.path().join("model.safetensors"), &[("whole", &[1.0])]);
        assert_eq!(Checkpoint::open(folder.path()).unwrap().names().collect::<Vec<_>>(), ["whole"]);
    }

    #[test]
    fn shards_read_as_one_checkpoint() {
        let folder = sharded(r#"{"c":"model-2.safetensors","a":"model-1.safetensors","b":"model-1.safetensors"}"#);
        let checkpoint = Checkpoint::open(folder.path()).unwrap();
        assert_eq!(checkpoint.names().collect::<Vec<_>>(), ["a", "b", "c"]);
        assert_eq!(checkpoint.read_f32("b").unwrap(), [2.0]);
        assert_eq!(checkpoint.read_f32("c").unwrap(), [3.0]);
        assert_eq!(checkpoint.shape("c").unwrap(), [1]);
        assert_eq!(checkpoint.files().count(), 2);
    }

    #[test]
    fn an_index_that_does_not_match_its_shards_is_an_error() {
        let elsewhere =
            index_error(r#"{"a":"model-2.safetensors","b":"model-1.safetensors","c":"model-2.safetensors"}"#);
        assert!(elsewhere.contains("holds `a`, which the index does not place there"), "{elsewhere}");
        let absent = index_error(r#"{"c":"model-2.safetensors","d":"model-2.safetensors"}"#);
        assert!(absent.contains("tensor `d` is not in its shard"), "{absent}");
        let missing = index_error(r#"{"c":"model-3.safetensors"}"#);
        assert!(missing.contains("cannot open") && missing.contains("model-3.safetensors"), "{missing}");
        assert!(index_error("3").contains("bad shard index"));
    }

    #[test]
    fn a_shard_outside_the_folder_is_refused() {
        for outside in ["../model.safetensors", "/etc/passwd", "..", ""] {
            let error = index_error(&format!(r#"{{"a":"{outside}"}}"#));
            assert!(error.contains("is not a plain file name"), "{error}");
        }
    }
}
