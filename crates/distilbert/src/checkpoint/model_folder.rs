//! A model as a Hugging Face folder: `config.json` and the weights under the names of its family; and, for inference
//! alone, the same with matrices in bf16 or int8, which only this program reads.

use super::sentence_folder::{Modules, SentenceFolderError, write_modules};
use super::{Checkpoint, CheckpointError, Dtype, TensorData, TensorToWrite, write_atomic, write_safetensors};
use crate::model::{ConfigError, EmbeddingHead, Family, HeadKind, Model, ModelConfig, Parameter};
use crate::tokenizer::{Tokenizer, TokenizerClass, TokenizerError};
use distilbert_kernels::matmul::QuantizedMatrix;
use distilbert_kernels::{Matrix, MatrixRef, Precision, Runtime, RuntimeError};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// Behind the name of a tensor in int8: the scales of its rows.
const SCALE_SUFFIX: &str = "_scale";

/// Numbers that are read and rounded at a time: a few rows of the widest matrix.
const CHUNK: usize = 1 << 18;

/// A model read from a folder, and what became of the folder's tensors.
pub struct Loaded {
    /// The model; its weights are not yet packed, unless it was loaded for inference.
    pub model: Model,
    /// Parameters that the folder lacks and that start fresh, by name.
    pub fresh: Vec<String>,
    /// Tensors of the folder that nothing here uses, by name: heads of other tasks, mostly.
    pub unused: Vec<String>,
}

/// Which head a model is loaded with.
pub enum HeadChoice {
    /// The folder's own; every tensor must be there.
    AsSaved,
    /// This one. Where the folder lacks its tensors, or has them in another shape, the head starts fresh, drawn from
    /// the seed; the encoder must be there.
    Replace {
        /// The head.
        head: HeadKind,
        /// Seed of fresh weights.
        seed: u64,
    },
}

/// Why a folder is not a model.
#[derive(Debug, thiserror::Error)]
pub enum ModelFolderError {
    /// The weights' files.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// The configuration cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    ReadConfig {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// The configuration is not one of a model that can be run here.
    #[error("{}: {source}", path.display())]
    Config {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: ConfigError,
    },
    /// What makes the folder a sentence encoder's.
    #[error(transparent)]
    Sentence(#[from] SentenceFolderError),
    /// A parameter has no tensor.
    #[error("{}: tensor `{name}` is missing", folder.display())]
    Missing {
        /// The folder.
        folder: PathBuf,
        /// The parameter.
        name: String,
    },
    /// A tensor of another shape than the configuration says.
    #[error("{}: tensor `{name}`: expected shape {expected:?}, found {found:?}", folder.display())]
    Shape {
        /// The folder.
        folder: PathBuf,
        /// The tensor.
        name: String,
        /// By the configuration.
        expected: Vec<usize>,
        /// In the file.
        found: Vec<usize>,
    },
    /// A weight that is not a finite number.
    #[error("{}: tensor `{name}`: expected finite numbers, found {found} at element {index}", folder.display())]
    NotFinite {
        /// The folder.
        folder: PathBuf,
        /// The tensor.
        name: String,
        /// Which element.
        index: usize,
        /// Its value.
        found: f32,
    },
    /// Weights below f32 where f32 ones are needed.
    #[error("{}: expected f32 weights, found {found} ones, which can only be run; take the model that they were made from", folder.display())]
    BelowF32 {
        /// The folder.
        folder: PathBuf,
        /// What they are in.
        found: Precision,
    },
    /// Weights below f32 that are to be run in something else.
    #[error("{}: expected to be run in {saved}, in which its weights are saved, found a wish for {asked}", folder.display())]
    SavedIn {
        /// The folder.
        folder: PathBuf,
        /// What they are in.
        saved: Precision,
        /// What was wanted.
        asked: Precision,
    },
    /// The CPU lacks the precision.
    #[error("{}: {source}", folder.display())]
    Precision {
        /// The folder.
        folder: PathBuf,
        /// What is lacking.
        source: RuntimeError,
    },
    /// A tensor of another element type than the folder's precision has.
    #[error("{}: tensor `{name}`: expected {expected} in a model saved in {precision}, found {found}", folder.display())]
    Dtype {
        /// The folder.
        folder: PathBuf,
        /// The tensor.
        name: String,
        /// By the precision.
        expected: Dtype,
        /// The precision.
        precision: Precision,
        /// In the file.
        found: Dtype,
    },
    /// A number in eight bits, or a scale, that no quantisation makes.
    #[error("{}: tensor `{name}`: expected {expected}, found {found} at element {index}", folder.display())]
    OutOfRange {
        /// The folder.
        folder: PathBuf,
        /// The tensor.
        name: String,
        /// What may stand there.
        expected: &'static str,
        /// Which element.
        index: usize,
        /// Its value.
        found: f32,
    },
    /// Two tensors that the family ties hold different numbers.
    #[error("{}: tensors `{first}` and `{second}`: expected equal (tied) weights, found different ones", folder.display())]
    Untied {
        /// The folder.
        folder: PathBuf,
        /// One tensor.
        first: String,
        /// The other.
        second: String,
    },
}

impl Model {
    /// Reads a Hugging Face folder: `config.json` and `model.safetensors` (one or sharded) or `pytorch_model.bin`, with
    /// and without the family's prefix, with the old names of norms, with or without the tied decoder.
    ///
    /// # Errors
    /// [`ModelFolderError`] naming the file, key or tensor, the expected and the found; weights below f32 are refused.
    pub fn load(folder: &Path, head: HeadChoice) -> Result<Loaded, ModelFolderError> {
        let mut config = read_config(folder)?;
        if config.weights != Precision::F32 {
            return Err(ModelFolderError::BelowF32 { folder: folder.to_owned(), found: config.weights });
        }
        let seed = match head {
            HeadChoice::AsSaved => None,
            HeadChoice::Replace { head, seed } => {
                config = config.with_head(head);
                Some(seed)
            }
        };
        let source = Source::open(folder, &mut config)?;
        // Before there is memory for what the configuration promises.
        let fresh = source.missing(&Model::table_of(config.clone()), seed.is_some())?;
        let mut model = Model::zeroed(config);
        source.fill(&mut model, &fresh)?;
        if let Some(seed) = seed {
            model.randomise(seed, |parameter| fresh.contains(&parameter.name));
        }
        let unused = source.check_rest(&model)?;
        Ok(Loaded { model, fresh, unused })
    }

    /// Reads a folder for inference alone ([`Model::for_inference`]), in `precision` or else in the one it is saved in:
    /// a tensor at a time, rounded and packed from the file as it is read, so that no second copy of the weights ever
    /// exists. Every tensor must be there.
    ///
    /// # Errors
    /// [`ModelFolderError`] as for [`Model::load`], or if the CPU lacks the precision, or if the weights are saved below
    /// f32 and another precision is wanted.
    pub fn load_for_inference(
        folder: &Path,
        rt: &Runtime,
        precision: Option<Precision>,
    ) -> Result<Loaded, ModelFolderError> {
        Model::load_config_for_inference(folder, read_config(folder)?, rt, precision)
    }

    /// As [`Model::load_for_inference`], with this head instead of the folder's own; its tensors must be there.
    ///
    /// # Errors
    /// As [`Model::load_for_inference`].
    pub fn load_for_inference_with(
        folder: &Path,
        rt: &Runtime,
        precision: Option<Precision>,
        head: HeadKind,
    ) -> Result<Loaded, ModelFolderError> {
        Model::load_config_for_inference(folder, read_config(folder)?.with_head(head), rt, precision)
    }

    fn load_config_for_inference(
        folder: &Path,
        mut config: ModelConfig,
        rt: &Runtime,
        precision: Option<Precision>,
    ) -> Result<Loaded, ModelFolderError> {
        let saved = config.weights;
        let precision = precision.unwrap_or(saved);
        if saved != Precision::F32 && saved != precision {
            return Err(ModelFolderError::SavedIn { folder: folder.to_owned(), saved, asked: precision });
        }
        config
            .check_precision(rt, precision)
            .map_err(|source| ModelFolderError::Precision { folder: folder.to_owned(), source })?;
        let source = Source::open(folder, &mut config)?;
        let read = |parameter: &Parameter, precision| source.matrix(rt, parameter, saved, precision);
        let model = Model::inference_from(config, rt, precision, read)?;
        let unused = source.check_rest(&model)?;
        Ok(Loaded { model, fresh: Vec::new(), unused })
    }

    /// Reads and checks every tensor of a folder in the precision that it is saved in, and keeps none: the model has
    /// configuration and table of parameters only.
    ///
    /// # Errors
    /// [`ModelFolderError`] as for [`Model::load_for_inference`], but the CPU need not have the precision.
    pub fn check_folder(folder: &Path, rt: &Runtime) -> Result<Loaded, ModelFolderError> {
        let mut config = read_config(folder)?;
        let saved = config.weights;
        let source = Source::open(folder, &mut config)?;
        let model = Model::table_of(config);
        for parameter in model.parameters.table() {
            source.matrix(rt, parameter, saved, parameter.kept_in(saved))?;
        }
        let unused = source.check_rest(&model)?;
        Ok(Loaded { model, fresh: Vec::new(), unused })
    }

    /// Writes the model into an existing folder with its matrices in bf16 or int8: `config.json` and `model.safetensors`,
    /// each whole or not at all.
    ///
    /// # Errors
    /// [`CheckpointError`] naming the file; a model for inference alone has no f32 weights to round.
    pub fn save_in(&self, rt: &Runtime, precision: Precision, folder: &Path) -> Result<(), CheckpointError> {
        let path = folder.join("model.safetensors");
        if !self.parameters.is_whole() {
            return Err(CheckpointError::NotWhole { path });
        }
        let kept: Vec<(&Parameter, Matrix)> = self
            .parameters
            .table()
            .iter()
            .filter(|parameter| !is_dense(parameter))
            .map(|parameter| {
                let width = parameter.shape.last().copied().unwrap_or(1);
                let values = self.parameters.tensor(parameter);
                (parameter, Matrix::from_f32(rt, parameter.kept_in(precision), values, width))
            })
            .collect();
        let tensors = kept.iter().flat_map(|(parameter, matrix)| {
            let whole = |data| TensorToWrite { name: (&parameter.name).into(), shape: parameter.shape.clone(), data };
            match matrix.view() {
                MatrixRef::F32(values) => [Some(whole(TensorData::F32(values))), None],
                MatrixRef::Bf16(values) => [Some(whole(TensorData::Bf16(values))), None],
                MatrixRef::Int8 { values, scales } => {
                    let name = format!("{}{SCALE_SUFFIX}", parameter.name).into();
                    let scales = TensorToWrite { name, shape: vec![scales.len()], data: TensorData::F32(scales) };
                    [Some(whole(TensorData::I8(values))), Some(scales)]
                }
            }
        });
        // Not "pt": the file alone should not pass for one of PyTorch's.
        let format = format!("distilbert-{precision}");
        let metadata = if precision == Precision::F32 { BTreeMap::new() } else { [("format".into(), format)].into() };
        write_safetensors(&path, tensors.flatten(), &metadata)?;
        self.save_modules(folder)?;
        let config = ModelConfig { weights: precision, ..self.config.clone() };
        write_atomic(&folder.join("config.json"), config.to_json().as_bytes())
    }

    /// Writes `config.json` and `model.safetensors` into an existing folder, each whole or not at all.
    ///
    /// # Errors
    /// [`CheckpointError`] naming the file; a model for inference alone cannot be saved.
    pub fn save(&self, folder: &Path) -> Result<(), CheckpointError> {
        let path = folder.join("model.safetensors");
        if !self.parameters.is_whole() {
            return Err(CheckpointError::NotWhole { path });
        }
        let table = self.parameters.of_model().iter().filter(|parameter| !is_dense(parameter));
        let tensors = table.map(|parameter| TensorToWrite {
            name: parameter.name.as_str().into(),
            shape: parameter.shape.clone(),
            data: TensorData::F32(self.parameters.tensor(parameter)),
        });
        write_safetensors(&path, tensors, &BTreeMap::new())?;
        self.save_modules(folder)?;
        write_atomic(&folder.join("config.json"), self.config.to_json().as_bytes())
    }

    /// Writes what makes the folder a sentence encoder's, if the model is one.
    fn save_modules(&self, folder: &Path) -> Result<(), CheckpointError> {
        match &self.config.head {
            HeadKind::Embedding(head) => write_modules(self, head, folder),
            _ => Ok(()),
        }
    }
}

/// Whether the parameter is one of a linear behind the pooling, which has a folder of its own.
fn is_dense(parameter: &Parameter) -> bool {
    parameter.name.starts_with(EmbeddingHead::DENSE_PREFIX)
}

/// Reads the folder's `config.json`, and `modules.json` if the folder is a sentence encoder's.
///
/// # Errors
/// [`ModelFolderError`] if it is missing or of a model that cannot be run here.
pub fn read_config(folder: &Path) -> Result<ModelConfig, ModelFolderError> {
    let path = folder.join("config.json");
    let text =
        std::fs::read_to_string(&path).map_err(|source| ModelFolderError::ReadConfig { path: path.clone(), source })?;
    let config = ModelConfig::from_json(&text).map_err(|source| ModelFolderError::Config { path, source })?;
    // A classifier beside modules is one that scores pairs, and runs without them.
    if matches!(config.head, HeadKind::Classification { .. }) {
        return Ok(config);
    }
    Ok(match Modules::read(folder, config.encoder.hidden)? {
        Some(modules) => ModelConfig { head: HeadKind::Embedding(modules.head), ..config },
        None => config,
    })
}

/// Writes the tokenizer's files beside a model, under the class names of its family.
///
/// # Errors
/// [`TokenizerError`] naming the file.
pub fn save_tokenizer(tokenizer: &Tokenizer, config: &ModelConfig, folder: &Path) -> Result<(), TokenizerError> {
    let class = match config.encoder.family {
        Family::Bert => TokenizerClass::Bert,
        Family::DistilBert => TokenizerClass::DistilBert,
        Family::Roberta | Family::XlmRoberta => TokenizerClass::Roberta,
        Family::Electra => TokenizerClass::Electra,
        Family::Albert => TokenizerClass::Albert,
    };
    tokenizer.save(folder, class, config.encoder.max_positions)
}

/// The folder's tensors by their plain names: without the family's prefix, with today's names of norms.
struct Source {
    folder: PathBuf,
    checkpoint: Checkpoint,
    by_plain_name: BTreeMap<String, String>,
    family: Family,
    prefix: &'static str,
    /// Of the linears behind the pooling, each in its folder.
    dense: Vec<Checkpoint>,
}

impl Source {
    /// Opens the files; a pooler that they do not hold is taken out of the configuration.
    fn open(folder: &Path, config: &mut ModelConfig) -> Result<Source, ModelFolderError> {
        let checkpoint = Checkpoint::open(folder)?;
        let family = config.encoder.family;
        let prefix = family.prefix();
        let by_plain_name = checkpoint.names().map(|name| (plain_name(name, prefix), name.to_owned())).collect();
        let dense = match (&config.head, Modules::read(folder, config.encoder.hidden)) {
            (HeadKind::Embedding(_), Ok(Some(modules))) => {
                modules.dense.iter().map(|folder| Checkpoint::open(folder)).collect::<Result<_, _>>()?
            }
            _ => Vec::new(),
        };
        let source = Source { folder: folder.to_owned(), checkpoint, by_plain_name, family, prefix, dense };
        config.pooler &= source.find(&format!("{}.weight", family.pooler())).is_some();
        Ok(source)
    }

    /// The name in the file of the tensor with this plain name.
    fn find(&self, plain: &str) -> Option<&str> {
        self.by_plain_name.get(plain).map(String::as_str)
    }

    /// One parameter in `precision`, from a folder whose matrices are saved in `saved`.
    fn matrix(
        &self,
        rt: &Runtime,
        parameter: &Parameter,
        saved: Precision,
        precision: Precision,
    ) -> Result<Matrix, ModelFolderError> {
        let missing = |name: &str| ModelFolderError::Missing { folder: self.folder.clone(), name: name.to_owned() };
        if is_dense(parameter) {
            return self.dense(parameter)?.map(Matrix::F32).ok_or_else(|| missing(&parameter.name));
        }
        let plain = plain_name(&parameter.name, self.prefix);
        let name = self.find_parameter(&plain).ok_or_else(|| missing(&parameter.name))?;
        self.check_shape(name, &parameter.shape)?;
        let width = parameter.shape.last().copied().unwrap_or(1);
        let rows = parameter.count() / width.max(1);
        let file = self.checkpoint.file_of(name)?;
        if saved == Precision::F32 {
            let mut matrix = Matrix::with_capacity(precision, rows, width);
            file.for_each_f32(name, CHUNK / width.clamp(1, CHUNK) * width, |first, values| {
                self.check_finite(name, first, values)?;
                matrix.push_f32(rt, values, width);
                Ok::<(), ModelFolderError>(())
            })?;
            return Ok(matrix);
        }
        let kept = parameter.kept_in(saved);
        self.check_dtype(name, kept, saved)?;
        match kept {
            Precision::F32 => self.read(name).map(Matrix::F32),
            Precision::Bf16 => {
                let matrix = Matrix::Bf16(file.read_bf16(name)?);
                self.check_finite(name, 0, &matrix.to_f32())?;
                Ok(matrix)
            }
            Precision::Int8 => {
                let plain_scale = format!("{plain}{SCALE_SUFFIX}");
                let scale = self.find(&plain_scale).ok_or_else(|| missing(&format!("{name}{SCALE_SUFFIX}")))?;
                self.check_shape(scale, &[rows])?;
                self.check_dtype(scale, Precision::F32, saved)?;
                let scales = self.read(scale)?;
                let refuse = |name: &str, expected, index, found| ModelFolderError::OutOfRange {
                    folder: self.folder.clone(),
                    name: name.to_owned(),
                    expected,
                    index,
                    found,
                };
                if let Some(index) = scales.iter().position(|&scale| scale < 0.0) {
                    return Err(refuse(scale, "scales of 0 and more", index, scales[index]));
                }
                let values = file.read_i8(name)?;
                if let Some(index) = values.iter().position(|&value| value == i8::MIN) {
                    return Err(refuse(name, "numbers from -127 to 127", index, f32::from(i8::MIN)));
                }
                Ok(Matrix::Int8(QuantizedMatrix { values, scales }))
            }
        }
    }

    /// A parameter of a linear behind the pooling; `None` if the folder has no such linear of this shape.
    fn dense(&self, parameter: &Parameter) -> Result<Option<Vec<f32>>, ModelFolderError> {
        for (index, checkpoint) in self.dense.iter().enumerate() {
            let Some(kind) = parameter.name.strip_prefix(&EmbeddingHead::dense_name(index)) else { continue };
            let name = format!("linear{kind}");
            if checkpoint.shape(&name)? != parameter.shape {
                return Ok(None);
            }
            let values = checkpoint.read_f32(&name)?;
            self.check_finite(&parameter.name, 0, &values)?;
            return Ok(Some(values));
        }
        Ok(None)
    }

    /// The name in the file of a parameter, which files may hold under its second name only.
    fn find_parameter(&self, plain: &str) -> Option<&str> {
        let names = self.family.masked_lm_names();
        let again = names.bias_again.filter(|_| plain == names.bias);
        self.find(plain).or_else(|| self.find(again?))
    }

    fn check_shape(&self, name: &str, expected: &[usize]) -> Result<(), ModelFolderError> {
        let found = self.checkpoint.shape(name)?;
        if found == expected {
            return Ok(());
        }
        let (expected, found) = (expected.to_vec(), found.to_vec());
        Err(ModelFolderError::Shape { folder: self.folder.clone(), name: name.to_owned(), expected, found })
    }

    /// Checks that a tensor of a folder saved in `saved` has the elements of `kept`.
    fn check_dtype(&self, name: &str, kept: Precision, saved: Precision) -> Result<(), ModelFolderError> {
        let expected = match kept {
            Precision::F32 => Dtype::F32,
            Precision::Bf16 => Dtype::BF16,
            Precision::Int8 => Dtype::I8,
        };
        let found = self.checkpoint.dtype(name)?;
        if found == expected {
            return Ok(());
        }
        let (folder, name) = (self.folder.clone(), name.to_owned());
        Err(ModelFolderError::Dtype { folder, name, expected, precision: saved, found })
    }

    /// The names of the parameters without a tensor of their shape, which only a new head's may be.
    fn missing(&self, model: &Model, fresh_head: bool) -> Result<Vec<String>, ModelFolderError> {
        let mut fresh = Vec::new();
        let encoder_end = model.encoder_end();
        for parameter in model.parameters.table() {
            if is_dense(parameter) && self.dense(parameter)?.is_some() {
                continue;
            }
            let found = self.find_parameter(&plain_name(&parameter.name, self.prefix));
            let shape = found.map(|name| self.checkpoint.shape(name)).transpose()?;
            match (found, shape) {
                (Some(_), Some(shape)) if shape == parameter.shape => {}
                _ if fresh_head && parameter.range.start >= encoder_end => fresh.push(parameter.name.clone()),
                (Some(name), Some(_)) => self.check_shape(name, &parameter.shape)?,
                _ => {
                    return Err(ModelFolderError::Missing {
                        folder: self.folder.clone(),
                        name: parameter.name.clone(),
                    });
                }
            }
        }
        Ok(fresh)
    }

    /// Fills every parameter but the fresh ones.
    fn fill(&self, model: &mut Model, fresh: &[String]) -> Result<(), ModelFolderError> {
        let weights = model.parameters.weights_mut();
        for parameter in weights.table.iter().filter(|parameter| !fresh.contains(&parameter.name)) {
            let dense = if is_dense(parameter) { self.dense(parameter)? } else { None };
            let values = match (dense, self.find_parameter(&plain_name(&parameter.name, self.prefix))) {
                (Some(values), _) => values,
                (None, Some(name)) => self.read(name)?,
                // `missing` has named it.
                (None, None) => continue,
            };
            weights.values[parameter.range.clone()].copy_from_slice(&values);
        }
        Ok(())
    }

    /// Checks tied tensors and returns the names that nothing used.
    fn check_rest(&self, model: &Model) -> Result<Vec<String>, ModelFolderError> {
        let names = model.config.encoder.family.masked_lm_names();
        let mut used: BTreeSet<String> =
            model.parameters.table().iter().map(|parameter| plain_name(&parameter.name, self.prefix)).collect();
        if model.config.weights == Precision::Int8 {
            let matrices = model
                .parameters
                .table()
                .iter()
                .filter(|parameter| parameter.kept_in(Precision::Int8) == Precision::Int8);
            let scales: Vec<String> = matrices
                .map(|parameter| format!("{}{SCALE_SUFFIX}", plain_name(&parameter.name, self.prefix)))
                .collect();
            used.extend(scales);
        }
        if model.config.head == HeadKind::MaskedLm {
            let ties = [(Some(names.decoder), "embeddings.word_embeddings.weight"), (names.bias_again, names.bias)];
            for (tied, with) in ties {
                let Some(tied) = tied else { continue };
                used.insert(tied.to_owned());
                let (Some(first), Some(second)) = (self.find(tied), self.find(with)) else { continue };
                if self.read(first)? != self.read(second)? {
                    let (first, second) = (first.to_owned(), second.to_owned());
                    return Err(ModelFolderError::Untied { folder: self.folder.clone(), first, second });
                }
            }
        }
        // A buffer of old files: the numbers from 0.
        used.insert("embeddings.position_ids".to_owned());
        Ok(self
            .by_plain_name
            .iter()
            .filter(|(plain, _)| !used.contains(*plain))
            .map(|(_, name)| name.clone())
            .collect())
    }

    fn read(&self, name: &str) -> Result<Vec<f32>, ModelFolderError> {
        let values = self.checkpoint.read_f32(name)?;
        self.check_finite(name, 0, &values)?;
        Ok(values)
    }

    /// `first` is the index of the first of `values` in the tensor.
    fn check_finite(&self, name: &str, first: usize, values: &[f32]) -> Result<(), ModelFolderError> {
        match values.iter().position(|value| !value.is_finite()) {
            None => Ok(()),
            Some(index) => Err(ModelFolderError::NotFinite {
                folder: self.folder.clone(),
                name: name.to_owned(),
                index: first + index,
                found: values[index],
            }),
        }
    }
}

fn plain_name(name: &str, prefix: &str) -> String {
    let name = name.strip_prefix(prefix).unwrap_or(name);
    match name.rsplit_once('.') {
        Some((stem, "gamma")) => format!("{stem}.weight"),
        Some((stem, "beta")) => format!("{stem}.bias"),
        _ => name.to_owned(),
    }
}
