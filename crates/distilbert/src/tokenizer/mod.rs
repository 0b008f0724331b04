//! Text to token ids: BERT's WordPiece, with offsets, and truncation that is always counted.
//!
//! The text work (cleaning, accents, punctuation, longest match) is the `tokenizers` crate's; this module loads and
//! saves Hugging Face folders, assembles `[CLS] A [SEP] B [SEP]` and truncates.

mod folder; // Hugging Face folders <-> Tokenizer
pub mod vocabulary; // text -> a new vocabulary
mod words; // ids of much text, each distinct word tokenised once

use std::ops::Range;
use std::path::PathBuf;

use sha2::{Digest, Sha256};
use tokenizers::models::wordpiece::WordPiece;
use tokenizers::normalizers::BertNormalizer;
use tokenizers::pre_tokenizers::bert::BertPreTokenizer;
use tokenizers::processors::template::TemplateProcessing;
use tokenizers::{AddedToken, PostProcessorWrapper};

pub use folder::TokenizerClass;
pub use words::WordEncoder;

/// A WordPiece tokenizer with its five special tokens. Cheap to share between threads by reference.
///
/// # Source
/// Devlin et al. 2018, `tokenization.py` of google-research/bert; ids and offsets as the `tokenizers` crate gives them.
#[derive(Clone, Debug)]
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    /// Token by id; an id without a token holds the empty string.
    tokens: Vec<String>,
    special: SpecialTokens,
    names: SpecialNames,
    normalizer: BertNormalizer,
    vocabulary_hash: [u8; 32],
}

/// Ids of the five special tokens, read from the vocabulary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SpecialTokens {
    /// Padding.
    pub pad: u32,
    /// A word that the vocabulary cannot spell.
    pub unk: u32,
    /// First token of every sequence.
    pub cls: u32,
    /// Ends the first and the second text.
    pub sep: u32,
    /// Stands for a masked token.
    pub mask: u32,
}

impl SpecialTokens {
    /// True for any of the five.
    pub fn contains(&self, id: u32) -> bool {
        [self.pad, self.unk, self.cls, self.sep, self.mask].contains(&id)
    }
}

/// How the five special tokens are spelled.
#[derive(Clone, Debug, PartialEq, Eq)]
struct SpecialNames {
    pad: String,
    unk: String,
    cls: String,
    sep: String,
    mask: String,
}

impl Default for SpecialNames {
    fn default() -> Self {
        let name = str::to_owned;
        SpecialNames {
            pad: name("[PAD]"),
            unk: name("[UNK]"),
            cls: name("[CLS]"),
            sep: name("[SEP]"),
            mask: name("[MASK]"),
        }
    }
}

/// One text, or a pair, as the model reads it: `[CLS] A [SEP]` or `[CLS] A [SEP] B [SEP]`. All vectors have one entry
/// a token.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Encoding {
    /// Vocabulary ids.
    pub input_ids: Vec<u32>,
    /// 0 for `[CLS] A [SEP]`, 1 for `B [SEP]`. DistilBERT has no use for them.
    pub token_type_ids: Vec<u32>,
    /// Bytes of the original text (of A or B, see `sequence_ids`) that the token covers; `0..0` for special tokens.
    pub offsets: Vec<Range<usize>>,
    /// Which text the token comes from: 0 for A, 1 for B, `None` for the special tokens around them.
    pub sequence_ids: Vec<Option<u8>>,
    /// Tokens cut off to respect the maximum length.
    pub truncated_tokens: usize,
}

impl Encoding {
    /// Number of tokens, special ones included.
    pub fn len(&self) -> usize {
        self.input_ids.len()
    }

    /// True without any token; an encoding made by [`Tokenizer::encode`] never is.
    pub fn is_empty(&self) -> bool {
        self.input_ids.is_empty()
    }

    /// `offsets` counted in characters (Unicode scalar values) instead of bytes. `text` and `pair` must be the texts
    /// that were encoded; an offset past their end counts as their end.
    pub fn character_offsets(&self, text: &str, pair: Option<&str>) -> Vec<Range<usize>> {
        let characters_before = [characters_before(text), characters_before(pair.unwrap_or_default())];
        let convert = |sequence: u8, byte: usize| {
            let table = &characters_before[usize::from(sequence.min(1))];
            table.get(byte).or(table.last()).copied().unwrap_or(0)
        };
        self.offsets
            .iter()
            .zip(&self.sequence_ids)
            .map(|(bytes, sequence)| match sequence {
                Some(sequence) => convert(*sequence, bytes.start)..convert(*sequence, bytes.end),
                None => 0..0,
            })
            .collect()
    }
}

/// Number of characters that start before each byte of `text`, and before its end.
fn characters_before(text: &str) -> Vec<usize> {
    let mut count = 0;
    let mut table = Vec::with_capacity(text.len() + 1);
    for byte in 0..=text.len() {
        table.push(count);
        count += usize::from(text.is_char_boundary(byte + 1));
    }
    table
}

/// What can be wrong with a tokenizer or its files.
#[derive(Debug, thiserror::Error)]
pub enum TokenizerError {
    /// A file cannot be read.
    #[error("cannot read `{}`: {error}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        error: std::io::Error,
    },
    /// A file cannot be written.
    #[error("cannot write `{}`: {error}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        error: std::io::Error,
    },
    /// The folder has no tokenizer.
    #[error("no tokenizer in `{}`: expected tokenizer.json or vocab.txt", folder.display())]
    NoTokenizer {
        /// The folder.
        folder: PathBuf,
    },
    /// A file is not what its name says.
    #[error("`{}` is malformed: {reason}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// A tokenizer of another kind.
    #[error("`{}`: {part} must be {expected}, found {found}", path.display())]
    Unsupported {
        /// The file.
        path: PathBuf,
        /// The part of the tokenizer.
        part: &'static str,
        /// The only supported kind.
        expected: &'static str,
        /// The kind found.
        found: String,
    },
    /// A special token is not in the vocabulary.
    #[error("special token `{token}` is missing in a vocabulary of {vocabulary_size} tokens")]
    MissingSpecialToken {
        /// The token.
        token: String,
        /// Number of tokens that are there.
        vocabulary_size: usize,
    },
    /// Two vocabularies that must be equal differ.
    #[error(
        "vocabularies differ: token {id} is {left} in one and {right} in the other ({left_size} and {right_size} tokens)"
    )]
    VocabularyMismatch {
        /// First id that differs.
        id: usize,
        /// Its token in the first vocabulary.
        left: String,
        /// Its token in the second.
        right: String,
        /// Size of the first.
        left_size: usize,
        /// Size of the second.
        right_size: usize,
    },
    /// The `tokenizers` crate refuses.
    #[error("cannot build the tokenizer: {0}")]
    Build(String),
}

impl Tokenizer {
    /// A tokenizer of `tokens` (id = position) with BERT's special token names, that cleans text and separates CJK
    /// ideographs; `lowercase` also strips accents, as BERT's uncased models do. Of equal tokens the last counts.
    ///
    /// # Errors
    /// [`TokenizerError::MissingSpecialToken`] without `[PAD]`, `[UNK]`, `[CLS]`, `[SEP]` or `[MASK]`.
    pub fn from_vocabulary(tokens: Vec<String>, lowercase: bool) -> Result<Self, TokenizerError> {
        Self::from_tokens(tokens, BertNormalizer::new(true, true, None, lowercase), SpecialNames::default())
    }

    fn from_tokens(
        tokens: Vec<String>,
        normalizer: BertNormalizer,
        names: SpecialNames,
    ) -> Result<Self, TokenizerError> {
        let build = |error: tokenizers::Error| TokenizerError::Build(error.to_string());
        // An empty map of the crate's own hash type, which it does not re-export.
        let mut ids = WordPiece::read_bytes(b"").map_err(build)?;
        ids.extend(tokens.iter().cloned().zip(0u32..).filter(|(token, _)| !token.is_empty()));
        let model = WordPiece::builder().vocab(ids).unk_token(names.unk.clone()).build().map_err(build)?;
        Self::assemble(tokenizers::Tokenizer::new(model), tokens, normalizer, names)
    }

    /// Sets every part around the model, so that what is saved is what runs.
    fn assemble(
        mut inner: tokenizers::Tokenizer,
        tokens: Vec<String>,
        normalizer: BertNormalizer,
        names: SpecialNames,
    ) -> Result<Self, TokenizerError> {
        let id = |token: &str| {
            inner.token_to_id(token).ok_or_else(|| TokenizerError::MissingSpecialToken {
                token: token.to_owned(),
                vocabulary_size: tokens.len(),
            })
        };
        let special = SpecialTokens {
            pad: id(&names.pad)?,
            unk: id(&names.unk)?,
            cls: id(&names.cls)?,
            sep: id(&names.sep)?,
            mask: id(&names.mask)?,
        };
        let build = |error: &dyn std::fmt::Display| TokenizerError::Build(error.to_string());
        let (cls, sep) = (&names.cls, &names.sep);
        let template = TemplateProcessing::builder()
            .try_single(format!("{cls}:0 $A:0 {sep}:0"))
            .map_err(|error| build(&error))?
            .try_pair(format!("{cls}:0 $A:0 {sep}:0 $B:1 {sep}:1"))
            .map_err(|error| build(&error))?
            .special_tokens(vec![(cls.clone(), special.cls), (sep.clone(), special.sep)])
            .build()
            .map_err(|error| build(&error))?;
        inner.with_normalizer(Some(normalizer)).map_err(|error| build(&error))?;
        inner.with_pre_tokenizer(Some(BertPreTokenizer));
        inner.with_post_processor(Some(PostProcessorWrapper::from(template)));
        inner.with_decoder(Some(tokenizers::decoders::wordpiece::WordPiece::default()));
        inner.with_padding(None);
        inner.with_truncation(None).map_err(|error| build(&error))?;
        let specials = [&names.pad, &names.unk, &names.cls, &names.sep, &names.mask];
        inner
            .add_special_tokens(specials.map(|name| AddedToken::from(name.as_str(), true)))
            .map_err(|error| build(&error))?;

        let mut hash = Sha256::new();
        for token in &tokens {
            hash.update(token.as_bytes());
            hash.update(b"\n"); // no token holds a line feed, so the sequence is unambiguous
        }
        Ok(Tokenizer { inner, tokens, special, names, normalizer, vocabulary_hash: hash.finalize().into() })
    }

    /// Encodes one text or a pair. With `max_length` (special tokens included) the longer text loses tokens from its
    /// end first; when both must lose, they keep half each and the odd token goes to the text that was longer, to
    /// B when they were equal. A `max_length` below the 2 or 3 special tokens leaves just those.
    ///
    /// Special tokens spelled out in the text (`[MASK]`) are recognised, as in the reference.
    ///
    /// # Source
    /// `longest_first` of the `tokenizers` crate (`utils/truncation.rs`).
    pub fn encode(&self, text: &str, pair: Option<&str>, max_length: Option<usize>) -> Encoding {
        let first = self.pieces(text);
        let second = pair.map(|pair| self.pieces(pair));
        let (first_len, second_len) =
            (first.get_ids().len(), second.as_ref().map_or(0, |second| second.get_ids().len()));
        let special_len = if pair.is_some() { 3 } else { 2 };
        let budget = max_length.map_or(usize::MAX, |max_length| max_length.saturating_sub(special_len));
        let (keep_first, keep_second) = longest_first(first_len, second_len, budget);

        let mut encoding =
            Encoding { truncated_tokens: first_len + second_len - keep_first - keep_second, ..Encoding::default() };
        encoding.push(self.special.cls, 0, 0..0, None);
        encoding.push_pieces(&first, keep_first, 0);
        encoding.push(self.special.sep, 0, 0..0, None);
        if let Some(second) = &second {
            encoding.push_pieces(second, keep_second, 1);
            encoding.push(self.special.sep, 1, 0..0, None);
        }
        encoding
    }

    /// [`Tokenizer::encode`] of many texts on `threads` threads (at least one); results in the order of `texts`,
    /// whatever the number of threads.
    pub fn encode_batch(
        &self,
        texts: &[(&str, Option<&str>)],
        max_length: Option<usize>,
        threads: usize,
    ) -> Vec<Encoding> {
        let mut encodings = vec![Encoding::default(); texts.len()];
        let share = texts.len().div_ceil(threads.max(1)).max(1);
        std::thread::scope(|scope| {
            for (texts, encodings) in texts.chunks(share).zip(encodings.chunks_mut(share)) {
                scope.spawn(move || {
                    for ((text, pair), encoding) in texts.iter().zip(encodings) {
                        *encoding = self.encode(text, *pair, max_length);
                    }
                });
            }
        });
        encodings
    }

    fn pieces(&self, text: &str) -> tokenizers::Encoding {
        self.inner.encode(text, false).expect(CANNOT_FAIL)
    }

    /// Text of `ids`, `##` pieces glued to their word and the space before punctuation removed; ids outside the
    /// vocabulary give nothing.
    pub fn decode(&self, ids: &[u32], skip_special: bool) -> String {
        self.inner.decode(ids, skip_special).expect("joining WordPiece tokens has no failing case")
    }

    /// Ids of the special tokens.
    pub fn special(&self) -> SpecialTokens {
        self.special
    }

    /// Number of ids: the highest id plus one.
    pub fn vocab_size(&self) -> usize {
        self.tokens.len()
    }

    /// The token with this id.
    pub fn token(&self, id: u32) -> Option<&str> {
        self.tokens.get(id as usize).map(String::as_str).filter(|token| !token.is_empty())
    }

    /// The id of this token, spelled with its `##`.
    pub fn id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// True if the token continues a word (`##ing`): for whole-word masking.
    pub fn continues_word(&self, id: u32) -> bool {
        self.token(id).is_some_and(|token| token.starts_with(CONTINUATION))
    }

    /// True if text is lower-cased before it is split.
    pub fn is_lowercasing(&self) -> bool {
        self.normalizer.lowercase
    }

    /// SHA-256 over all tokens in the order of their ids: equal for equal vocabularies.
    pub fn vocabulary_hash(&self) -> [u8; 32] {
        self.vocabulary_hash
    }

    /// Checks that `other` gives every id to the same token, as a teacher and its student must.
    ///
    /// # Errors
    /// [`TokenizerError::VocabularyMismatch`] names the first token that differs.
    pub fn check_same_vocabulary(&self, other: &Tokenizer) -> Result<(), TokenizerError> {
        let (left, right) = (&self.tokens, &other.tokens);
        let Some(id) = (0..left.len().max(right.len())).find(|&id| left.get(id) != right.get(id)) else {
            return Ok(());
        };
        let show = |token: Option<&String>| token.map_or_else(|| "absent".to_owned(), |token| format!("`{token}`"));
        Err(TokenizerError::VocabularyMismatch {
            id,
            left: show(left.get(id)),
            right: show(right.get(id)),
            left_size: left.len(),
            right_size: right.len(),
        })
    }
}

/// Marks a piece that continues a word.
const CONTINUATION: &str = "##";

/// Why `encode` of the inner tokenizer is infallible here.
const CANNOT_FAIL: &str = "BERT's normaliser and splitter have no failing case, and [UNK] was found at loading";

impl Encoding {
    fn push(&mut self, id: u32, token_type: u32, offsets: Range<usize>, sequence: Option<u8>) {
        self.input_ids.push(id);
        self.token_type_ids.push(token_type);
        self.offsets.push(offsets);
        self.sequence_ids.push(sequence);
    }

    fn push_pieces(&mut self, pieces: &tokenizers::Encoding, keep: usize, sequence: u8) {
        for (&id, &(start, end)) in pieces.get_ids().iter().zip(pieces.get_offsets()).take(keep) {
            self.push(id, u32::from(sequence), start..end, Some(sequence));
        }
    }
}

/// How many tokens of each text stay when both together may have `budget`.
fn longest_first(first: usize, second: usize, budget: usize) -> (usize, usize) {
    if first.saturating_add(second) <= budget {
        return (first, second);
    }
    let shorter = first.min(second);
    let (short, long) =
        if shorter <= budget / 2 { (shorter, budget - shorter) } else { (budget / 2, budget - budget / 2) };
    if first > second { (long, short) } else { (short, long) }
}

#[cfg(test)]
mod tests;
