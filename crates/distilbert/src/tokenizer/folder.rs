//! Hugging Face folders: what makes a tokenizer, and what other programs need to make the same one.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};
use tokenizers::models::ModelWrapper;
use tokenizers::normalizers::{BertNormalizer, NormalizerWrapper};
use tokenizers::pre_tokenizers::PreTokenizerWrapper;

use super::{CONTINUATION, SpecialNames, Tokenizer, TokenizerError};
use crate::checkpoint::PartialFile;

/// The Python class that is to load a saved tokenizer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenizerClass {
    /// `BertTokenizer`.
    Bert,
    /// `DistilBertTokenizer`: as BERT's, without token type ids.
    DistilBert,
}

impl Tokenizer {
    /// Loads `tokenizer.json`, or else `vocab.txt`, with what `tokenizer_config.json` and `special_tokens_map.json`
    /// say about letter case and the names of special tokens; as in the reference, `tokenizer_config.json` has the
    /// last word. Nothing is lower-cased on a guess: a `vocab.txt` without a stated `do_lower_case` is taken as
    /// lower-cased only if no token has an upper-case letter. Truncation and padding stored in `tokenizer.json` are
    /// ignored, they are arguments here.
    ///
    /// # Errors
    /// [`TokenizerError`] if the files are missing, malformed, of another kind than BERT's WordPiece, or lack a
    /// special token.
    pub fn from_folder(folder: &Path) -> Result<Self, TokenizerError> {
        let config = read_object(&folder.join("tokenizer_config.json"))?;
        let mut names = SpecialNames::default();
        names.read(&read_object(&folder.join("special_tokens_map.json"))?);
        names.read(&config);
        let json = folder.join("tokenizer.json");
        let vocabulary = folder.join("vocab.txt");
        if let Some(text) = read_if_there(&json)? {
            Self::from_json(json, text, &config, names)
        } else if let Some(text) = read_if_there(&vocabulary)? {
            check_added_tokens(folder, &text)?;
            let tokens: Vec<String> = text.lines().map(str::to_owned).collect();
            let stated = |key| config.get(key).and_then(Value::as_bool);
            let lowercase = stated("do_lower_case").unwrap_or_else(|| is_uncased(&tokens));
            let separate_cjk = stated("tokenize_chinese_chars").unwrap_or(true);
            let normalizer = BertNormalizer::new(true, separate_cjk, stated("strip_accents"), lowercase);
            Self::from_tokens(tokens, normalizer, names)
        } else {
            Err(TokenizerError::NoTokenizer { folder: folder.to_owned() })
        }
    }

    fn from_json(
        path: PathBuf,
        text: String,
        config: &Map<String, Value>,
        mut names: SpecialNames,
    ) -> Result<Self, TokenizerError> {
        let inner = tokenizers::Tokenizer::from_bytes(text)
            .map_err(|error| TokenizerError::Malformed { path: path.clone(), reason: error.to_string() })?;
        let unsupported = |part, expected, found: String| {
            Err(TokenizerError::Unsupported { path: path.clone(), part, expected, found })
        };
        match inner.get_model() {
            ModelWrapper::WordPiece(model) if model.continuing_subword_prefix != CONTINUATION => {
                let found = format!("`{}`", model.continuing_subword_prefix);
                return unsupported("continuing_subword_prefix", "`##`", found);
            }
            ModelWrapper::WordPiece(model) => names.unk.clone_from(&model.unk_token),
            ModelWrapper::BPE(_) => return unsupported("model", "WordPiece", "BPE".to_owned()),
            ModelWrapper::WordLevel(_) => return unsupported("model", "WordPiece", "WordLevel".to_owned()),
            ModelWrapper::Unigram(_) => return unsupported("model", "WordPiece", "Unigram".to_owned()),
        }
        let mut normalizer = match inner.get_normalizer() {
            Some(NormalizerWrapper::BertNormalizer(normalizer)) => *normalizer,
            other => return unsupported("normalizer", "BertNormalizer", kind(other)),
        };
        match inner.get_pre_tokenizer() {
            Some(PreTokenizerWrapper::BertPreTokenizer(_)) => {}
            other => return unsupported("pre_tokenizer", "BertPreTokenizer", kind(other)),
        }
        if let Some(lowercase) = config.get("do_lower_case").and_then(Value::as_bool) {
            normalizer.lowercase = lowercase;
        }
        if let Some(separate) = config.get("tokenize_chinese_chars").and_then(Value::as_bool) {
            normalizer.handle_chinese_chars = separate;
        }
        if let Some(strip) = config.get("strip_accents") {
            normalizer.strip_accents = strip.as_bool();
        }

        let vocabulary = inner.get_vocab(true);
        let size = vocabulary.values().max().map_or(0, |&id| id as usize + 1);
        if size > MAX_VOCABULARY {
            let reason = format!("token id {} is above the supported {MAX_VOCABULARY}", size - 1);
            return Err(TokenizerError::Malformed { path, reason });
        }
        let mut tokens = vec![String::new(); size];
        for (token, id) in vocabulary {
            tokens[id as usize] = token; // ids are below `size`, their maximum plus one
        }
        Self::assemble(inner, tokens, normalizer, names)
    }

    /// Writes `tokenizer.json`, `vocab.txt`, `tokenizer_config.json` and `special_tokens_map.json`, each whole or not
    /// at all, which Python `transformers` loads unchanged. `max_length` is the model's number of positions.
    ///
    /// # Errors
    /// [`TokenizerError::Write`] names the file.
    pub fn save(&self, folder: &Path, class: TokenizerClass, max_length: usize) -> Result<(), TokenizerError> {
        fs::create_dir_all(folder).map_err(|error| TokenizerError::Write { path: folder.to_owned(), error })?;
        let json = self.inner.to_string(true).map_err(|error| TokenizerError::Build(error.to_string()))?;
        write_whole(&folder.join("tokenizer.json"), &json)?;
        let mut vocabulary = self.tokens.join("\n");
        vocabulary.push('\n');
        write_whole(&folder.join("vocab.txt"), &vocabulary)?;

        let special = self.names.to_json();
        let (class, inputs) = match class {
            TokenizerClass::Bert => ("BertTokenizer", json!(["input_ids", "token_type_ids", "attention_mask"])),
            TokenizerClass::DistilBert => ("DistilBertTokenizer", json!(["input_ids", "attention_mask"])),
        };
        let mut config = special.clone();
        config.insert("do_lower_case".to_owned(), json!(self.normalizer.lowercase));
        config.insert("strip_accents".to_owned(), json!(self.normalizer.strip_accents));
        config.insert("tokenize_chinese_chars".to_owned(), json!(self.normalizer.handle_chinese_chars));
        config.insert("model_max_length".to_owned(), json!(max_length));
        config.insert("model_input_names".to_owned(), inputs);
        config.insert("tokenizer_class".to_owned(), json!(class));
        write_object(&folder.join("tokenizer_config.json"), config)?;
        write_object(&folder.join("special_tokens_map.json"), special)
    }
}

/// Ids above this are a damaged file, not a vocabulary: the largest in use is XLM-V's million.
const MAX_VOCABULARY: usize = 1 << 24;

impl SpecialNames {
    /// Takes over the names that `object` gives, as strings or as `{"content": ...}`.
    fn read(&mut self, object: &Map<String, Value>) {
        for (key, name) in [
            ("pad_token", &mut self.pad),
            ("unk_token", &mut self.unk),
            ("cls_token", &mut self.cls),
            ("sep_token", &mut self.sep),
            ("mask_token", &mut self.mask),
        ] {
            let value = object.get(key).map(|value| value.get("content").unwrap_or(value));
            if let Some(stated) = value.and_then(Value::as_str) {
                stated.clone_into(name);
            }
        }
    }

    fn to_json(&self) -> Map<String, Value> {
        let mut object = Map::new();
        for (key, name) in [
            ("unk_token", &self.unk),
            ("sep_token", &self.sep),
            ("pad_token", &self.pad),
            ("cls_token", &self.cls),
            ("mask_token", &self.mask),
        ] {
            object.insert(key.to_owned(), json!(name));
        }
        object
    }
}

/// The `type` by which `tokenizer.json` names a part.
fn kind(part: Option<&impl serde::Serialize>) -> String {
    let value = part.and_then(|part| serde_json::to_value(part).ok());
    let name = value.as_ref().and_then(|value| value.get("type")).and_then(Value::as_str);
    name.unwrap_or("none").to_owned()
}

/// True if lower-casing changes no token, special ones (`[CLS]`, `[unused1]`) aside.
fn is_uncased(tokens: &[String]) -> bool {
    !tokens
        .iter()
        .filter(|token| !(token.len() > 2 && token.starts_with('[') && token.ends_with(']')))
        .any(|token| token.to_lowercase() != **token)
}

/// Refuses an `added_tokens.json` that would extend `vocab.txt`: leaving it out would shift nothing but lose tokens.
fn check_added_tokens(folder: &Path, vocabulary: &str) -> Result<(), TokenizerError> {
    let path = folder.join("added_tokens.json");
    let added = read_object(&path)?;
    match added.keys().find(|added| !vocabulary.lines().any(|token| token == added.as_str())) {
        None => Ok(()),
        Some(token) => Err(TokenizerError::Unsupported {
            path,
            part: "every token",
            expected: "in vocab.txt (save the tokenizer as tokenizer.json to add some)",
            found: format!("`{token}`"),
        }),
    }
}

fn read_if_there(path: &Path) -> Result<Option<String>, TokenizerError> {
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(TokenizerError::Read { path: path.to_owned(), error }),
    };
    String::from_utf8(bytes)
        .map(Some)
        .map_err(|error| TokenizerError::Malformed { path: path.to_owned(), reason: error.to_string() })
}

/// The JSON object in the file; an empty one if there is no file.
fn read_object(path: &Path) -> Result<Map<String, Value>, TokenizerError> {
    let Some(text) = read_if_there(path)? else { return Ok(Map::new()) };
    serde_json::from_str(&text)
        .map_err(|error| TokenizerError::Malformed { path: path.to_owned(), reason: error.to_string() })
}

fn write_object(path: &Path, object: Map<String, Value>) -> Result<(), TokenizerError> {
    write_whole(path, &format!("{:#}\n", Value::Object(object)))
}

/// Writes a file that is whole or absent.
fn write_whole(path: &Path, text: &str) -> Result<(), TokenizerError> {
    let write = || {
        let mut file = PartialFile::create(path)?;
        file.write_all(text.as_bytes())?;
        file.finish()
    };
    write().map_err(|error| TokenizerError::Write { path: path.to_owned(), error })
}
