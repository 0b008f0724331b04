//! A model as a Hugging Face folder: `config.json` and the weights under the names of its family.

use super::{Checkpoint, CheckpointError, TensorData, TensorToWrite, write_atomic, write_safetensors};
use crate::model::{ConfigError, Family, HeadKind, Model, ModelConfig};
use crate::tokenizer::{Tokenizer, TokenizerClass, TokenizerError};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// A model read from a folder, and what became of the folder's tensors.
pub struct Loaded {
    /// The model; its weights are not yet packed.
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
    /// [`ModelFolderError`] naming the file, key or tensor, the expected and the found.
    pub fn load(folder: &Path, head: HeadChoice) -> Result<Loaded, ModelFolderError> {
        let mut config = read_config(folder)?;
        let seed = match head {
            HeadChoice::AsSaved => None,
            HeadChoice::Replace { head, seed } => {
                config = config.with_head(head);
                Some(seed)
            }
        };
        let source = Source::open(folder, &config)?;
        if config.pooler && source.find("pooler.dense.weight").is_none() {
            config.pooler = false;
        }
        let mut model = match seed {
            Some(seed) => Model::random(config, seed),
            None => Model::zeroed(config),
        };
        let fresh = source.fill(&mut model, seed.is_some())?;
        let unused = source.check_rest(&model)?;
        Ok(Loaded { model, fresh, unused })
    }

    /// Writes `config.json` and `model.safetensors` into an existing folder, each whole or not at all.
    ///
    /// # Errors
    /// [`CheckpointError`] naming the file.
    pub fn save(&self, folder: &Path) -> Result<(), CheckpointError> {
        let tensors = self.parameters.table().iter().map(|parameter| TensorToWrite {
            name: parameter.name.as_str().into(),
            shape: parameter.shape.clone(),
            data: TensorData::F32(self.parameters.tensor(parameter)),
        });
        write_safetensors(&folder.join("model.safetensors"), tensors, &BTreeMap::new())?;
        write_atomic(&folder.join("config.json"), self.config.to_json().as_bytes())
    }
}

/// Reads the folder's `config.json`.
///
/// # Errors
/// [`ModelFolderError`] if it is missing or of a model that cannot be run here.
pub fn read_config(folder: &Path) -> Result<ModelConfig, ModelFolderError> {
    let path = folder.join("config.json");
    let text =
        std::fs::read_to_string(&path).map_err(|source| ModelFolderError::ReadConfig { path: path.clone(), source })?;
    ModelConfig::from_json(&text).map_err(|source| ModelFolderError::Config { path, source })
}

/// Writes the tokenizer's files beside a model, under the class names of its family.
///
/// # Errors
/// [`TokenizerError`] naming the file.
pub fn save_tokenizer(tokenizer: &Tokenizer, config: &ModelConfig, folder: &Path) -> Result<(), TokenizerError> {
    let class = match config.encoder.family {
        Family::Bert => TokenizerClass::Bert,
        Family::DistilBert => TokenizerClass::DistilBert,
    };
    tokenizer.save(folder, class, config.encoder.max_positions)
}

/// The folder's tensors by their plain names: without the family's prefix, with today's names of norms.
struct Source {
    folder: PathBuf,
    checkpoint: Checkpoint,
    by_plain_name: BTreeMap<String, String>,
    prefix: &'static str,
}

impl Source {
    fn open(folder: &Path, config: &ModelConfig) -> Result<Source, ModelFolderError> {
        let checkpoint = Checkpoint::open(folder)?;
        let prefix = config.encoder.family.prefix();
        let by_plain_name = checkpoint.names().map(|name| (plain_name(name, prefix), name.to_owned())).collect();
        Ok(Source { folder: folder.to_owned(), checkpoint, by_plain_name, prefix })
    }

    /// The name in the file of the tensor with this plain name.
    fn find(&self, plain: &str) -> Option<&str> {
        self.by_plain_name.get(plain).map(String::as_str)
    }

    /// Fills every parameter; returns the names of those left fresh, which only a head's may be.
    fn fill(&self, model: &mut Model, fresh_head: bool) -> Result<Vec<String>, ModelFolderError> {
        let names = model.config.encoder.family.masked_lm_names();
        let mut fresh = Vec::new();
        let weights = model.parameters.weights_mut();
        for parameter in weights.table {
            let plain = plain_name(&parameter.name, self.prefix);
            let is_encoder =
                plain.starts_with("embeddings.") || plain.starts_with("encoder.") || plain.starts_with("transformer.");
            let may_be_fresh = fresh_head && !is_encoder;
            // Files may hold the decoder's bias under its second name only.
            let again = names.bias_again.filter(|_| parameter.name == names.bias);
            let found = self.find(&plain).or_else(|| self.find(again?));
            let shape = found.map(|name| self.checkpoint.shape(name)).transpose()?;
            match (found, shape) {
                (Some(name), Some(shape)) if shape == parameter.shape => {
                    let values = self.read(name)?;
                    weights.values[parameter.range.clone()].copy_from_slice(&values);
                }
                _ if may_be_fresh => fresh.push(parameter.name.clone()),
                (Some(name), Some(shape)) => {
                    return Err(ModelFolderError::Shape {
                        folder: self.folder.clone(),
                        name: name.to_owned(),
                        expected: parameter.shape.clone(),
                        found: shape.to_vec(),
                    });
                }
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

    /// Checks tied tensors and returns the names that nothing used.
    fn check_rest(&self, model: &Model) -> Result<Vec<String>, ModelFolderError> {
        let names = model.config.encoder.family.masked_lm_names();
        let mut used: BTreeSet<String> =
            model.parameters.table().iter().map(|parameter| plain_name(&parameter.name, self.prefix)).collect();
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
        match values.iter().position(|value| !value.is_finite()) {
            None => Ok(values),
            Some(index) => Err(ModelFolderError::NotFinite {
                folder: self.folder.clone(),
                name: name.to_owned(),
                index,
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
