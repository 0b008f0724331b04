//! Hugging Face folders: what makes a tokenizer, and what other programs need to make the same one.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::{Map, Value, json};
use tokenizers::models::ModelWrapper;
use tokenizers::models::bpe::BPE;
use tokenizers::normalizers::{BertNormalizer, NormalizerWrapper};
use tokenizers::pre_tokenizers::PreTokenizerWrapper;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::processors::roberta::RobertaProcessing;
use tokenizers::{AddedToken, PostProcessorWrapper};

use super::special::Format;
use super::{CONTINUATION, SpecialNames, Tokenizer, TokenizerError, TokenizerKind};
use crate::checkpoint::PartialFile;

/// The family whose Python class is to load a saved tokenizer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenizerClass {
    /// `BertTokenizer`.
    Bert,
    /// `DistilBertTokenizer`: as BERT's, without token type ids.
    DistilBert,
    /// `RobertaTokenizer`, `XLMRobertaTokenizer`: no token type ids.
    Roberta,
    /// `ElectraTokenizer`: as BERT's.
    Electra,
    /// `AlbertTokenizer`: with token type ids.
    Albert,
}

impl TokenizerClass {
    /// What the family's models take.
    fn input_names(self) -> Value {
        match self {
            TokenizerClass::Bert | TokenizerClass::Electra | TokenizerClass::Albert => {
                json!(["input_ids", "token_type_ids", "attention_mask"])
            }
            TokenizerClass::DistilBert | TokenizerClass::Roberta => json!(["input_ids", "attention_mask"]),
        }
    }

    /// The class for a WordPiece tokenizer.
    fn word_piece(self) -> &'static str {
        match self {
            TokenizerClass::DistilBert => "DistilBertTokenizer",
            TokenizerClass::Electra => "ElectraTokenizer",
            TokenizerClass::Bert | TokenizerClass::Roberta | TokenizerClass::Albert => "BertTokenizer",
        }
    }
}

/// What is read of a `tokenizer.json` beside what the `tokenizers` crate makes of it.
#[derive(Deserialize)]
struct Parts {
    post_processor: Value,
    model: ModelPart,
}

#[derive(Deserialize)]
struct ModelPart {
    unk_id: Option<usize>,
}

impl Tokenizer {
    /// Loads `tokenizer.json`, or else `vocab.txt` (WordPiece), or else `vocab.json` and `merges.txt` (byte-level BPE),
    /// with what `tokenizer_config.json` and `special_tokens_map.json` say about letter case, a space in front and the
    /// names of special tokens; as in the reference, `tokenizer_config.json` has the last word. Nothing is lower-cased on
    /// a guess: a `vocab.txt` without a stated `do_lower_case` is taken as lower-cased only if no token has an upper-case
    /// letter. Truncation and padding stored in `tokenizer.json` are ignored, they are arguments here.
    ///
    /// # Errors
    /// [`TokenizerError`] if the files are missing, malformed, of another kind than [`TokenizerKind`] has, or lack a
    /// special token.
    pub fn from_folder(folder: &Path) -> Result<Self, TokenizerError> {
        let stated = Stated {
            config: read_object(&folder.join("tokenizer_config.json"))?,
            special: read_object(&folder.join("special_tokens_map.json"))?,
        };
        let json = folder.join("tokenizer.json");
        if let Some(text) = read_if_there(&json)? {
            return Self::from_json(json, text, stated);
        }
        if let Some(text) = read_if_there(&folder.join("vocab.txt"))? {
            check_added_tokens(folder, &text)?;
            let tokens: Vec<String> = text.lines().map(str::to_owned).collect();
            let flag = |key| stated.config.get(key).and_then(Value::as_bool);
            let lowercase = flag("do_lower_case").unwrap_or_else(|| is_uncased(&tokens));
            let separate_cjk = flag("tokenize_chinese_chars").unwrap_or(true);
            let normalizer = BertNormalizer::new(true, separate_cjk, flag("strip_accents"), lowercase);
            return Self::from_tokens(tokens, normalizer, stated.names(SpecialNames::default()));
        }
        let (vocabulary, merges) = (folder.join("vocab.json"), folder.join("merges.txt"));
        if vocabulary.is_file() && merges.is_file() {
            return Self::from_merges(vocabulary, &merges, stated);
        }
        match ["spiece.model", "sentencepiece.bpe.model"]
            .map(|name| folder.join(name))
            .into_iter()
            .find(|path| path.is_file())
        {
            Some(path) => Err(TokenizerError::SentencePiece { path }),
            None => Err(TokenizerError::NoTokenizer { folder: folder.to_owned() }),
        }
    }

    fn from_json(path: PathBuf, text: String, stated: Stated) -> Result<Self, TokenizerError> {
        let malformed = |reason: String| TokenizerError::Malformed { path: path.clone(), reason };
        let inner = tokenizers::Tokenizer::from_bytes(&text).map_err(|error| malformed(error.to_string()))?;
        let tokens = tokens_by_id(&inner).map_err(malformed)?;
        match inner.get_model() {
            ModelWrapper::WordPiece(_) => Self::word_piece_from_json(&path, inner, tokens, &stated),
            ModelWrapper::BPE(_) | ModelWrapper::Unigram(_) => {
                let parts: Parts = serde_json::from_str(&text).map_err(|error| malformed(error.to_string()))?;
                Self::subwords_from_json(&path, inner, tokens, &parts, stated)
            }
            ModelWrapper::WordLevel(_) => Err(TokenizerError::Unsupported {
                path,
                part: "model",
                expected: "WordPiece, BPE or Unigram",
                found: "WordLevel".to_owned(),
            }),
        }
    }

    fn word_piece_from_json(
        path: &Path,
        inner: tokenizers::Tokenizer,
        tokens: Vec<String>,
        stated: &Stated,
    ) -> Result<Self, TokenizerError> {
        let unsupported = |part, expected, found: String| {
            Err(TokenizerError::Unsupported { path: path.to_owned(), part, expected, found })
        };
        let mut names = stated.names(SpecialNames::default());
        if let ModelWrapper::WordPiece(model) = inner.get_model() {
            if model.continuing_subword_prefix != CONTINUATION {
                let found = format!("`{}`", model.continuing_subword_prefix);
                return unsupported("continuing_subword_prefix", "`##`", found);
            }
            names.unk.clone_from(&model.unk_token);
        }
        let mut normalizer = match inner.get_normalizer() {
            Some(NormalizerWrapper::BertNormalizer(normalizer)) => *normalizer,
            other => return unsupported("normalizer", "BertNormalizer", kind(other)),
        };
        match inner.get_pre_tokenizer() {
            Some(PreTokenizerWrapper::BertPreTokenizer(_)) => {}
            other => return unsupported("pre_tokenizer", "BertPreTokenizer", kind(other)),
        }
        if let Some(lowercase) = stated.config.get("do_lower_case").and_then(Value::as_bool) {
            normalizer.lowercase = lowercase;
        }
        if let Some(separate) = stated.config.get("tokenize_chinese_chars").and_then(Value::as_bool) {
            normalizer.handle_chinese_chars = separate;
        }
        if let Some(strip) = stated.config.get("strip_accents") {
            normalizer.strip_accents = strip.as_bool();
        }
        Self::word_piece(inner, tokens, normalizer, names)
    }

    /// Byte-level BPE and unigram: the parts stay as the file has them.
    fn subwords_from_json(
        path: &Path,
        mut inner: tokenizers::Tokenizer,
        tokens: Vec<String>,
        parts: &Parts,
        stated: Stated,
    ) -> Result<Self, TokenizerError> {
        let unsupported = |part, expected, found: String| TokenizerError::Unsupported {
            path: path.to_owned(),
            part,
            expected,
            found,
        };
        let (format, cls, sep) = Format::of_post_processor(&parts.post_processor).map_err(|found| {
            let expected = "one that makes `<s> A </s>` and `<s> A </s></s> B </s>`, or BERT's `[CLS] A [SEP] B [SEP]`";
            unsupported("post_processor", expected, found)
        })?;
        let mut names = stated.names(SpecialNames::of_subwords(|token| inner.token_to_id(token).is_some()));
        (names.cls, names.sep) = (cls, sep);
        let kind = match inner.get_model() {
            ModelWrapper::BPE(model) => {
                check_byte_level(&inner, model)
                    .map_err(|(part, expected, found)| unsupported(part, expected, found))?;
                TokenizerKind::ByteLevelBpe
            }
            _ => {
                let unk = parts.model.unk_id.and_then(|id| tokens.get(id));
                names.unk.clone_from(
                    unk.ok_or_else(|| unsupported("unk_id", "an id of the vocabulary", "none".to_owned()))?,
                );
                check_metaspace(&inner).map_err(|found| {
                    unsupported("pre_tokenizer", "Metaspace, alone or after WhitespaceSplit", found)
                })?;
                TokenizerKind::Unigram
            }
        };
        if let (TokenizerKind::ByteLevelBpe, Some(space)) = (kind, stated.flag("add_prefix_space")) {
            set_prefix_space(&mut inner, space);
        }
        Self::subwords(inner, kind, tokens, names, format, stated.config)
    }

    /// Byte-level BPE from its two files, the other parts as RoBERTa has them.
    fn from_merges(vocabulary: PathBuf, merges: &Path, stated: Stated) -> Result<Self, TokenizerError> {
        let build = |error: tokenizers::Error| TokenizerError::Malformed {
            path: vocabulary.clone(),
            reason: format!("with {}: {error}", merges.display()),
        };
        let model = BPE::from_file(&vocabulary.to_string_lossy(), &merges.to_string_lossy()).build().map_err(build)?;
        let mut inner = tokenizers::Tokenizer::new(model);
        let tokens =
            tokens_by_id(&inner).map_err(|reason| TokenizerError::Malformed { path: vocabulary.clone(), reason })?;
        let names = stated.names(SpecialNames::of_subwords(|token| inner.token_to_id(token).is_some()));
        let special = super::ids_of(&inner, &names, tokens.len())?;
        let space = stated.flag("add_prefix_space").unwrap_or(false);
        inner.with_pre_tokenizer(Some(ByteLevel::default().add_prefix_space(space)));
        inner.with_decoder(Some(ByteLevel::default()));
        let around = RobertaProcessing::new((names.sep.clone(), special.sep), (names.cls.clone(), special.cls))
            .add_prefix_space(space);
        inner.with_post_processor(Some(PostProcessorWrapper::from(around)));
        if let ModelWrapper::BPE(model) = inner.get_model() {
            check_byte_level(&inner, model).map_err(|(part, expected, found)| TokenizerError::Unsupported {
                path: vocabulary,
                part,
                expected,
                found,
            })?;
        }
        Self::subwords(inner, TokenizerKind::ByteLevelBpe, tokens, names, Format::ROBERTA, stated.config)
    }

    /// Sees to it that special tokens in a text are recognised, as the file says or else as the families' classes do.
    fn subwords(
        mut inner: tokenizers::Tokenizer,
        kind: TokenizerKind,
        tokens: Vec<String>,
        names: SpecialNames,
        format: Format,
        stated: Map<String, Value>,
    ) -> Result<Self, TokenizerError> {
        let known: Vec<String> = inner.get_added_tokens_decoder().into_values().map(|token| token.content).collect();
        // A mask stands for a word with the space in front of it.
        let added = |name: &str| AddedToken::from(name, true).lstrip(name == names.mask);
        let missing: Vec<AddedToken> =
            names.all().into_iter().filter(|name| !known.iter().any(|known| known == name)).map(added).collect();
        inner.add_special_tokens(missing).map_err(|error| TokenizerError::Build(error.to_string()))?;
        Self::assemble(inner, kind, tokens, names, format, stated)
    }

    /// Writes `tokenizer.json`, the vocabulary as its kind has it (`vocab.txt`; `vocab.json` and `merges.txt`),
    /// `tokenizer_config.json` and `special_tokens_map.json`, each whole or not at all, which Python `transformers` loads
    /// unchanged. `max_length` is the model's longest sequence in tokens.
    ///
    /// # Errors
    /// [`TokenizerError::Write`] names the file.
    pub fn save(&self, folder: &Path, class: TokenizerClass, max_length: usize) -> Result<(), TokenizerError> {
        fs::create_dir_all(folder).map_err(|error| TokenizerError::Write { path: folder.to_owned(), error })?;
        let json = self.inner.to_string(true).map_err(|error| TokenizerError::Build(error.to_string()))?;
        write_whole(&folder.join("tokenizer.json"), &json)?;
        let special = self.names.to_json();
        let mut config = self.stated.clone();
        config.extend(special.clone());
        match self.kind {
            TokenizerKind::WordPiece => {
                let mut vocabulary = self.tokens.join("\n");
                vocabulary.push('\n');
                write_whole(&folder.join("vocab.txt"), &vocabulary)?;
                if let Some(normalizer) = self.bert_normalizer() {
                    config.insert("do_lower_case".to_owned(), json!(normalizer.lowercase));
                    config.insert("strip_accents".to_owned(), json!(normalizer.strip_accents));
                    config.insert("tokenize_chinese_chars".to_owned(), json!(normalizer.handle_chinese_chars));
                }
                config.insert("tokenizer_class".to_owned(), json!(class.word_piece()));
            }
            TokenizerKind::ByteLevelBpe => {
                self.save_merges(folder, &json)?;
                if let Some(PreTokenizerWrapper::ByteLevel(splitter)) = self.inner.get_pre_tokenizer() {
                    config.insert("add_prefix_space".to_owned(), json!(splitter.add_prefix_space));
                }
                config.entry("tokenizer_class").or_insert_with(|| json!("RobertaTokenizer"));
            }
            // The class that takes tokenizer.json as it is, where no other is named.
            TokenizerKind::Unigram => {
                config.entry("tokenizer_class").or_insert_with(|| json!("PreTrainedTokenizerFast"));
            }
        }
        config.insert("model_max_length".to_owned(), json!(max_length));
        config.insert("model_input_names".to_owned(), class.input_names());
        write_object(&folder.join("tokenizer_config.json"), config)?;
        write_object(&folder.join("special_tokens_map.json"), special)
    }

    /// Writes `vocab.json` and `merges.txt`, which `json`, the text of `tokenizer.json`, holds.
    fn save_merges(&self, folder: &Path, json: &str) -> Result<(), TokenizerError> {
        #[derive(Deserialize)]
        struct Saved {
            model: Model,
        }
        #[derive(Deserialize)]
        struct Model {
            vocab: Map<String, Value>,
            merges: Vec<(String, String)>,
        }
        let Saved { model } = serde_json::from_str(json).map_err(|error| TokenizerError::Build(error.to_string()))?;
        let mut merges = String::from("#version: 0.2\n");
        for (left, right) in &model.merges {
            merges.extend([left, " ", right, "\n"]);
        }
        write_whole(&folder.join("vocab.json"), &Value::Object(model.vocab).to_string())?;
        write_whole(&folder.join("merges.txt"), &merges)
    }
}

/// What the files beside the vocabulary say.
struct Stated {
    config: Map<String, Value>,
    special: Map<String, Value>,
}

impl Stated {
    /// The names of the special tokens, `default`'s where none is stated.
    fn names(&self, mut default: SpecialNames) -> SpecialNames {
        default.read(&self.special);
        default.read(&self.config);
        default
    }

    fn flag(&self, key: &str) -> Option<bool> {
        self.config.get(key).and_then(Value::as_bool)
    }
}

/// Checks that every text can be spelled in bytes, always in the same way; else the part, the expected and the found.
fn check_byte_level(inner: &tokenizers::Tokenizer, model: &BPE) -> Result<(), (&'static str, &'static str, String)> {
    if !matches!(inner.get_pre_tokenizer(), Some(PreTokenizerWrapper::ByteLevel(_))) {
        return Err(("pre_tokenizer", "ByteLevel (of a BPE model)", kind(inner.get_pre_tokenizer())));
    }
    for (part, mark) in [
        ("continuing_subword_prefix", &model.continuing_subword_prefix),
        ("end_of_word_suffix", &model.end_of_word_suffix),
    ] {
        if let Some(mark) = mark.as_ref().filter(|mark| !mark.is_empty()) {
            return Err((part, "empty", format!("`{mark}`")));
        }
    }
    if let Some(dropout) = model.dropout.filter(|&dropout| dropout > 0.0) {
        return Err(("dropout", "none: a text has one encoding", dropout.to_string()));
    }
    let mut bytes: Vec<char> = ByteLevel::alphabet().into_iter().collect();
    bytes.sort_unstable();
    match bytes.into_iter().find(|byte| inner.token_to_id(&byte.to_string()).is_none()) {
        Some(byte) => Err(("vocabulary", "a token for each of the 256 bytes", format!("none for `{byte}`"))),
        None => Ok(()),
    }
}

/// Checks that `▁` marks words; else the splitter found.
fn check_metaspace(inner: &tokenizers::Tokenizer) -> Result<(), String> {
    let is_fine = match inner.get_pre_tokenizer() {
        Some(PreTokenizerWrapper::Metaspace(_)) => true,
        Some(PreTokenizerWrapper::Sequence(parts)) => {
            matches!(parts.as_ref(), [PreTokenizerWrapper::WhitespaceSplit(_), PreTokenizerWrapper::Metaspace(_)])
        }
        _ => false,
    };
    if is_fine { Ok(()) } else { Err(kind(inner.get_pre_tokenizer())) }
}

/// Whether a text is split as if a space stood in front of it.
fn set_prefix_space(inner: &mut tokenizers::Tokenizer, space: bool) {
    if let Some(PreTokenizerWrapper::ByteLevel(splitter)) = inner.get_pre_tokenizer() {
        let splitter = splitter.add_prefix_space(space);
        inner.with_pre_tokenizer(Some(splitter));
    }
    if let Some(PostProcessorWrapper::Roberta(around)) = inner.get_post_processor() {
        let around = around.clone().add_prefix_space(space);
        inner.with_post_processor(Some(PostProcessorWrapper::from(around)));
    }
}

/// Token by id; an id without a token holds the empty string.
fn tokens_by_id(inner: &tokenizers::Tokenizer) -> Result<Vec<String>, String> {
    let vocabulary = inner.get_vocab(true);
    let size = vocabulary.values().max().map_or(0, |&id| id as usize + 1);
    if size > MAX_VOCABULARY {
        return Err(format!("token id {} is above the supported {MAX_VOCABULARY}", size - 1));
    }
    let mut tokens = vec![String::new(); size];
    for (token, id) in vocabulary {
        tokens[id as usize] = token; // ids are below `size`, their maximum plus one
    }
    Ok(tokens)
}

/// Ids above this are a damaged file, not a vocabulary: the largest in use is XLM-V's million.
const MAX_VOCABULARY: usize = 1 << 24;

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
