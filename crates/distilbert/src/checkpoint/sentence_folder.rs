//! What sentence-transformers keeps beside a Hugging Face model: `modules.json` with a folder for each module behind
//! the encoder, the longest input, and the prompts.

use super::{CheckpointError, TensorData, TensorToWrite, write_atomic, write_safetensors};
use crate::model::config::{Dense, DenseActivation};
use crate::model::{EmbeddingHead, Model, Pooling};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Lists the modules.
const MODULES_FILE: &str = "modules.json";

/// Settings of the module that is the encoder.
const ENCODER_FILE: &str = "sentence_bert_config.json";

/// Settings of the whole.
const SETTINGS_FILE: &str = "config_sentence_transformers.json";

/// Settings of the tokenizer.
const TOKENIZER_FILE: &str = "tokenizer_config.json";

/// Settings of a module in its own folder.
const MODULE_CONFIG: &str = "config.json";

const POOLING_FOLDER: &str = "1_Pooling";

/// Why what stands beside a model is not that of a sentence encoder that can be run here.
#[derive(Debug, thiserror::Error)]
pub enum SentenceFolderError {
    /// A file cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// A file is not JSON of the kind its name says.
    #[error("{}: {reason}", path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// A value that is not implemented.
    #[error("{}: `{key}`: expected {expected}, found {found}", path.display())]
    Unsupported {
        /// The file.
        path: PathBuf,
        /// The key.
        key: String,
        /// What would do.
        expected: String,
        /// What stands there.
        found: String,
    },
}

/// How two embeddings are compared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Similarity {
    /// The cosine of the angle between them.
    #[default]
    Cosine,
    /// The dot product.
    Dot,
}

impl Similarity {
    /// The name in the file.
    pub fn name(self) -> &'static str {
        match self {
            Similarity::Cosine => "cosine",
            Similarity::Dot => "dot",
        }
    }
}

/// A prompt that the model does not have.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("prompt `{name}`: {}", expected_prompt(known))]
pub struct UnknownPrompt {
    /// What was asked for.
    pub name: String,
    /// Those that there are.
    pub known: Vec<String>,
}

fn expected_prompt(known: &[String]) -> String {
    match known {
        [] => "expected none, for the model has no prompts".to_owned(),
        known => format!("expected one of the model's: {}", known.join(", ")),
    }
}

/// How texts are given to a sentence encoder and its embeddings compared.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SentenceSettings {
    /// Longest input in tokens, special ones included; all that the encoder takes if `None`.
    pub max_length: Option<usize>,
    /// What may be put in front of a text, by name.
    pub prompts: BTreeMap<String, String>,
    /// The prompt used unless another is asked for.
    pub default_prompt: Option<String>,
    /// How embeddings are compared.
    pub similarity: Similarity,
    /// Keys of the encoder's settings that are not read here, to be written back.
    encoder_other: Map<String, Value>,
    /// The same of the settings of the whole.
    other: Map<String, Value>,
}

impl SentenceSettings {
    /// Reads the settings of a folder; the defaults where it has none.
    ///
    /// # Errors
    /// [`SentenceFolderError`] naming file and key.
    pub fn read(folder: &Path) -> Result<SentenceSettings, SentenceFolderError> {
        let mut settings = SentenceSettings::default();
        if let Some(mut file) = Object::read(&folder.join(ENCODER_FILE))? {
            settings.max_length = file.size("max_seq_length")?;
            if let Some(task) = file.take("transformer_task").filter(|task| task != "feature-extraction") {
                return Err(file.unsupported("transformer_task", "`feature-extraction`", &task));
            }
            settings.encoder_other = file.object;
        }
        // Today's folders leave the longest input to the tokenizer, whose "no limit" is a number past all bounds.
        if settings.max_length.is_none()
            && let Some(mut file) = Object::read(&folder.join(TOKENIZER_FILE))?
        {
            settings.max_length = file.size("model_max_length").unwrap_or(None);
        }
        if let Some(mut file) = Object::read(&folder.join(SETTINGS_FILE))? {
            settings.default_prompt = match file.take("default_prompt_name") {
                None | Some(Value::Null) => None,
                Some(Value::String(name)) => Some(name),
                Some(found) => return Err(file.unsupported("default_prompt_name", "a name", &found)),
            };
            settings.similarity = match file.take("similarity_fn_name") {
                None | Some(Value::Null) => Similarity::default(),
                Some(name) => [Similarity::Cosine, Similarity::Dot]
                    .into_iter()
                    .find(|similarity| name == similarity.name())
                    .ok_or_else(|| file.unsupported("similarity_fn_name", "`cosine` or `dot`", &name))?,
            };
            if let Some(prompts) = file.take("prompts").filter(|prompts| !prompts.is_null()) {
                settings.prompts = serde_json::from_value(prompts.clone())
                    .map_err(|_| file.unsupported("prompts", "texts by name", &prompts))?;
            }
            if let Some(name) = settings.default_prompt.as_ref().filter(|name| !settings.prompts.contains_key(*name)) {
                return Err(file.unsupported("default_prompt_name", "one of `prompts`", &json!(name)));
            }
            settings.other = file.object;
        }
        Ok(settings)
    }

    /// Writes the settings' files, each whole or not at all.
    ///
    /// # Errors
    /// [`CheckpointError`] naming the file.
    pub fn write(&self, folder: &Path) -> Result<(), CheckpointError> {
        let mut encoder = self.encoder_other.clone();
        encoder.insert("max_seq_length".into(), json!(self.max_length));
        encoder.entry("do_lower_case").or_insert(json!(false));
        write_json(&folder.join(ENCODER_FILE), &Value::Object(encoder))?;
        let mut settings = self.other.clone();
        settings.insert("prompts".into(), json!(self.prompts));
        settings.insert("default_prompt_name".into(), json!(self.default_prompt));
        settings.insert("similarity_fn_name".into(), json!(self.similarity.name()));
        write_json(&folder.join(SETTINGS_FILE), &Value::Object(settings))
    }

    /// The prompt of this name, or the default one.
    ///
    /// # Errors
    /// [`UnknownPrompt`] if there is none of this name.
    pub fn prompt(&self, name: Option<&str>) -> Result<&str, UnknownPrompt> {
        let Some(name) = name.or(self.default_prompt.as_deref()) else { return Ok("") };
        let names = || self.prompts.keys().cloned().collect();
        self.prompts
            .get(name)
            .map(String::as_str)
            .ok_or_else(|| UnknownPrompt { name: name.to_owned(), known: names() })
    }

    /// Whether texts are lower-cased before the tokenizer sees them.
    pub fn lowercases(&self) -> bool {
        self.encoder_other.get("do_lower_case") == Some(&Value::Bool(true))
    }
}

/// The modules behind the encoder, and where the linears among them have their tensors.
pub(super) struct Modules {
    pub(super) head: EmbeddingHead,
    /// A folder for each of `head.dense`.
    pub(super) dense: Vec<PathBuf>,
}

impl Modules {
    /// Reads the modules of a folder; `None` if it is not a sentence encoder's. `hidden` is the encoder's width.
    pub(super) fn read(folder: &Path, hidden: usize) -> Result<Option<Modules>, SentenceFolderError> {
        let path = folder.join(MODULES_FILE);
        let Some(list) = read_json(&path)? else { return Ok(None) };
        let Value::Array(list) = list else {
            return Err(SentenceFolderError::Json { path, reason: "expected a list of modules".into() });
        };
        let text = |module: &Value, key: &str| module.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
        // The class at the end of `type`; its package has moved between versions.
        let modules: Vec<(String, String)> = list
            .iter()
            .map(|module| {
                (text(module, "type").rsplit('.').next().unwrap_or_default().to_owned(), text(module, "path"))
            })
            .collect();
        let unsupported = |expected: &str, found: &str| SentenceFolderError::Unsupported {
            path: path.clone(),
            key: "type".into(),
            expected: expected.into(),
            found: format!("`{found}`"),
        };
        let mut rest = modules.iter();
        let mut expect = |class: &str| match rest.next() {
            Some((found, path)) if found == class => Ok(path.as_str()),
            found => Err(unsupported(&format!("`{class}`"), found.map_or("nothing", |(class, _)| class.as_str()))),
        };
        let encoder = expect("Transformer")?;
        if !encoder.is_empty() {
            return Err(SentenceFolderError::Unsupported {
                path: path.clone(),
                key: "path".into(),
                expected: "the model in the folder itself".into(),
                found: format!("`{encoder}`"),
            });
        }
        let pooling = read_pooling(&module_folder(folder, &path, expect("Pooling")?)?, hidden)?;
        let mut modules =
            Modules { head: EmbeddingHead { pooling, dense: Vec::new(), normalize: false }, dense: Vec::new() };
        for (class, place) in rest {
            match class.as_str() {
                "Dense" if !modules.head.normalize => {
                    let place = module_folder(folder, &path, place)?;
                    let width = modules.head.dense.last().map_or(hidden, |dense| dense.outputs);
                    modules.head.dense.push(read_dense(&place, width)?);
                    modules.dense.push(place);
                }
                "Normalize" if !modules.head.normalize => modules.head.normalize = true,
                other => return Err(unsupported("`Dense`s and then `Normalize`", other)),
            }
        }
        Ok(Some(modules))
    }
}

/// Writes the modules of a model with an embedding head: `modules.json`, and each module's folder.
pub(super) fn write_modules(model: &Model, head: &EmbeddingHead, folder: &Path) -> Result<(), CheckpointError> {
    let mut list: Vec<Value> = Vec::new();
    let mut add = |class: &str, path: &str| {
        let index = list.len();
        list.push(json!({"idx": index, "name": index.to_string(), "path": path,
            "type": format!("sentence_transformers.models.{class}")}));
    };
    add("Transformer", "");
    add("Pooling", POOLING_FOLDER);
    let hidden = model.config.encoder.hidden;
    let is = |pooling| head.pooling == pooling;
    let pooling = json!({
        "word_embedding_dimension": hidden,
        "pooling_mode_cls_token": is(Pooling::Cls),
        "pooling_mode_mean_tokens": is(Pooling::Mean),
        "pooling_mode_max_tokens": is(Pooling::Max),
        "pooling_mode_mean_sqrt_len_tokens": false,
        "pooling_mode_weightedmean_tokens": false,
        "pooling_mode_lasttoken": false,
        "include_prompt": true,
    });
    write_json(&folder.join(POOLING_FOLDER).join(MODULE_CONFIG), &pooling)?;
    let mut width = hidden;
    for (index, dense) in head.dense.iter().enumerate() {
        let name = format!("{}_Dense", index + 2);
        add("Dense", &name);
        let place = folder.join(&name);
        let config = json!({"in_features": width, "out_features": dense.outputs, "bias": true,
            "activation_function": activation_class(dense.activation)});
        write_json(&place.join(MODULE_CONFIG), &config)?;
        let prefix = EmbeddingHead::dense_name(index);
        let tensors = model.parameters.table().iter().filter_map(|parameter| {
            let name = parameter.name.strip_prefix(&prefix)?;
            Some(TensorToWrite {
                name: format!("linear{name}").into(),
                shape: parameter.shape.clone(),
                data: TensorData::F32(model.parameters.tensor(parameter)),
            })
        });
        write_safetensors(&place.join("model.safetensors"), tensors, &BTreeMap::new())?;
        width = dense.outputs;
    }
    if head.normalize {
        add("Normalize", &format!("{}_Normalize", head.dense.len() + 2));
    }
    // Last, so that a folder never names modules that are not there.
    write_json(&folder.join(MODULES_FILE), &Value::Array(list))
}

fn read_pooling(folder: &Path, hidden: usize) -> Result<Pooling, SentenceFolderError> {
    let mut file = Object::read_module(folder)?;
    let names = ["word_embedding_dimension", "embedding_dimension"];
    for name in names {
        if let Some(found) = file.size(name)?.filter(|&found| found != hidden) {
            return Err(file.unsupported(name, &format!("the encoder's width {hidden}"), &json!(found)));
        }
    }
    if let Some(found) = file.take("include_prompt").filter(|found| found != &Value::Bool(true)) {
        return Err(file.unsupported("include_prompt", "true", &found));
    }
    let of_name = |name: &str| match name {
        "mean" | "pooling_mode_mean_tokens" => Some(Pooling::Mean),
        "cls" | "pooling_mode_cls_token" => Some(Pooling::Cls),
        "max" | "pooling_mode_max_tokens" => Some(Pooling::Max),
        _ => None,
    };
    const EXPECTED: &str = "one of mean, cls and max";
    // Today's files name the mode; older ones have a switch for each.
    if let Some(mode) = file.take("pooling_mode") {
        return mode.as_str().and_then(of_name).ok_or_else(|| file.unsupported("pooling_mode", EXPECTED, &mode));
    }
    let modes = file.object.iter().filter(|(key, on)| key.starts_with("pooling_mode_") && **on == Value::Bool(true));
    let modes: Vec<&str> = modes.map(|(key, _)| key.as_str()).collect();
    match modes[..] {
        [mode] if of_name(mode).is_some() => Ok(of_name(mode).unwrap_or(Pooling::Mean)),
        _ => Err(file.unsupported("pooling_mode_*", EXPECTED, &json!(modes))),
    }
}

fn read_dense(folder: &Path, width: usize) -> Result<Dense, SentenceFolderError> {
    let mut file = Object::read_module(folder)?;
    if let Some(found) = file.size("in_features")?.filter(|&found| found != width) {
        return Err(file.unsupported("in_features", &format!("the width {width} of what comes before"), &json!(found)));
    }
    if let Some(found) = file.take("bias").filter(|found| found != &Value::Bool(true)) {
        return Err(file.unsupported("bias", "true", &found));
    }
    let outputs = match file.size("out_features")? {
        Some(outputs) => outputs,
        None => return Err(file.unsupported("out_features", "a width", &Value::Null)),
    };
    let activation = match file.take("activation_function") {
        // sentence-transformers' own default.
        None => DenseActivation::Tanh,
        Some(found) => [DenseActivation::Tanh, DenseActivation::Identity]
            .into_iter()
            .find(|&activation| found == activation_class(activation))
            .ok_or_else(|| file.unsupported("activation_function", "Tanh or Identity of PyTorch", &found))?,
    };
    Ok(Dense { outputs, activation })
}

fn activation_class(activation: DenseActivation) -> &'static str {
    match activation {
        DenseActivation::Tanh => "torch.nn.modules.activation.Tanh",
        DenseActivation::Identity => "torch.nn.modules.linear.Identity",
    }
}

/// A module's folder, which lies in the model's; anything else could be a file of the reader's.
fn module_folder(folder: &Path, modules: &Path, name: &str) -> Result<PathBuf, SentenceFolderError> {
    if Path::new(name).file_name() == Some(name.as_ref()) {
        return Ok(folder.join(name));
    }
    let (key, expected) = ("path".into(), "a folder's plain name".into());
    Err(SentenceFolderError::Unsupported { path: modules.to_owned(), key, expected, found: format!("`{name}`") })
}

/// A JSON object of a file.
struct Object {
    path: PathBuf,
    object: Map<String, Value>,
}

impl Object {
    fn read(path: &Path) -> Result<Option<Object>, SentenceFolderError> {
        match read_json(path)? {
            None => Ok(None),
            Some(Value::Object(object)) => Ok(Some(Object { path: path.to_owned(), object })),
            Some(_) => Err(SentenceFolderError::Json { path: path.to_owned(), reason: "expected an object".into() }),
        }
    }

    /// The settings of a module, which must be there.
    fn read_module(folder: &Path) -> Result<Object, SentenceFolderError> {
        let path = folder.join(MODULE_CONFIG);
        let missing = || SentenceFolderError::Read { path: path.clone(), source: std::io::ErrorKind::NotFound.into() };
        Object::read(&path)?.ok_or_else(missing)
    }

    fn take(&mut self, key: &str) -> Option<Value> {
        self.object.shift_remove(key)
    }

    fn size(&mut self, key: &str) -> Result<Option<usize>, SentenceFolderError> {
        match self.take(key) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => match value.as_u64() {
                Some(size @ 1..=0x7fff_ffff) => Ok(Some(size as usize)),
                _ => Err(self.unsupported(key, "a positive 31-bit number", &value)),
            },
        }
    }

    fn unsupported(&self, key: &str, expected: &str, found: &Value) -> SentenceFolderError {
        // A foreign value may be long: enough of it to recognise.
        let found: String = found.to_string().chars().take(80).collect();
        SentenceFolderError::Unsupported { path: self.path.clone(), key: key.into(), expected: expected.into(), found }
    }
}

/// The JSON of a file; `None` if there is no such file.
fn read_json(path: &Path) -> Result<Option<Value>, SentenceFolderError> {
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(SentenceFolderError::Read { path: path.to_owned(), source }),
    };
    let json = serde_json::from_str(&text);
    Ok(Some(json.map_err(|error| SentenceFolderError::Json { path: path.to_owned(), reason: error.to_string() })?))
}

fn write_json(path: &Path, value: &Value) -> Result<(), CheckpointError> {
    let mut text = serde_json::to_string_pretty(value).expect("JSON values are JSON");
    text.push('\n');
    write_atomic(path, text.as_bytes())
}
