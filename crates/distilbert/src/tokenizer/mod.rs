//! Text to token ids, with offsets, and truncation that is always counted: BERT's WordPiece, RoBERTa's byte-level BPE,
//! and the unigram model of XLM-R and ALBERT.
//!
//! The text work (cleaning, accents, punctuation, longest match) is the `tokenizers` crate's; this module loads and
//! saves Hugging Face folders, puts the special tokens around texts and truncates.

mod error; // what can be wrong
mod folder; // Hugging Face folders <-> Tokenizer
mod special; // the five special tokens and how they stand around texts
pub mod vocabulary; // text -> a new vocabulary
mod words; // ids of much text, each distinct word tokenised once

use std::ops::Range;

use serde_json::{Map, Value};
use sha2::{Digest, Sha256};
use tokenizers::models::wordpiece::WordPiece;
use tokenizers::normalizers::{BertNormalizer, NormalizerWrapper};
use tokenizers::pre_tokenizers::bert::BertPreTokenizer;
use tokenizers::processors::template::TemplateProcessing;
use tokenizers::{AddedToken, Decoder, NormalizedString, Normalizer, PostProcessorWrapper};

pub use error::TokenizerError;
pub use folder::TokenizerClass;
pub use special::SpecialTokens;
use special::{Format, SpecialNames};
pub use words::WordEncoder;

/// A tokenizer with its five special tokens. Cheap to share between threads by reference.
///
/// # Source
/// Devlin et al. 2018, `tokenization.py` of google-research/bert; Radford et al. 2019 (byte-level BPE); Kudo 2018
/// (unigram). Ids and offsets are as the `tokenizers` crate gives them.
#[derive(Clone, Debug)]
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    kind: TokenizerKind,
    /// Token by id; an id without a token holds the empty string.
    tokens: Vec<String>,
    special: SpecialTokens,
    names: SpecialNames,
    format: Format,
    /// What `tokenizer_config.json` said, from which Python's classes for BPE and unigram build themselves.
    stated: Map<String, Value>,
    vocabulary_hash: [u8; 32],
}

/// How words are cut into tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenizerKind {
    /// Longest match from the left; `##` marks a piece that continues a word. BERT, DistilBERT, ELECTRA.
    WordPiece,
    /// Merged pairs of bytes; `Ġ` marks the space in front of a word. RoBERTa.
    ByteLevelBpe,
    /// The likeliest pieces; `▁` marks the space in front of a word. XLM-R, ALBERT.
    Unigram,
}

impl TokenizerKind {
    /// Its name in a sentence.
    pub fn name(self) -> &'static str {
        match self {
            TokenizerKind::WordPiece => "WordPiece",
            TokenizerKind::ByteLevelBpe => "byte-level BPE",
            TokenizerKind::Unigram => "unigram",
        }
    }
}

/// One text, or a pair, as the model reads it: `[CLS] A [SEP]` or `[CLS] A [SEP] B [SEP]`, in RoBERTa's spelling
/// `<s> A </s>` or `<s> A </s></s> B </s>`. All vectors have one entry a token.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Encoding {
    /// Vocabulary ids.
    pub input_ids: Vec<u32>,
    /// 0 for `[CLS] A [SEP]`, 1 for `B [SEP]`; RoBERTa's are all 0. DistilBERT has no use for them.
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
        Self::word_piece(tokenizers::Tokenizer::new(model), tokens, normalizer, names)
    }

    /// Sets every part around a WordPiece model, so that what is saved is what runs.
    fn word_piece(
        mut inner: tokenizers::Tokenizer,
        tokens: Vec<String>,
        normalizer: BertNormalizer,
        names: SpecialNames,
    ) -> Result<Self, TokenizerError> {
        let build = |error: &dyn std::fmt::Display| TokenizerError::Build(error.to_string());
        let special = ids_of(&inner, &names, tokens.len())?;
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
        inner
            .add_special_tokens(names.all().map(|name| AddedToken::from(name, true)))
            .map_err(|error| build(&error))?;
        Self::assemble(inner, TokenizerKind::WordPiece, tokens, names, Format::BERT, Map::new())
    }

    /// Finds the special tokens of a tokenizer whose parts are set.
    fn assemble(
        mut inner: tokenizers::Tokenizer,
        kind: TokenizerKind,
        tokens: Vec<String>,
        names: SpecialNames,
        format: Format,
        stated: Map<String, Value>,
    ) -> Result<Self, TokenizerError> {
        let special = ids_of(&inner, &names, tokens.len())?;
        inner.with_padding(None);
        inner.with_truncation(None).map_err(|error| TokenizerError::Build(error.to_string()))?;
        let mut hash = Sha256::new();
        for token in &tokens {
            hash.update(token.as_bytes());
            hash.update(b"\n"); // no token holds a line feed, so the sequence is unambiguous
        }
        let vocabulary_hash = hash.finalize().into();
        Ok(Tokenizer { inner, kind, tokens, special, names, format, stated, vocabulary_hash })
    }

    /// Encodes one text or a pair. With `max_length` (special tokens included) the longer text loses tokens from its
    /// end first; when both must lose, they keep half each and the odd token goes to the text that was longer, to
    /// B when they were equal. A `max_length` below the number of special tokens leaves just those.
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
        let special_len = self.special_tokens_around(pair.is_some());
        let budget = max_length.map_or(usize::MAX, |max_length| max_length.saturating_sub(special_len));
        self.assemble_encoding(&first, second.as_ref(), longest_first(first_len, second_len, budget))
    }

    /// Encodes a pair of which only the first text loses tokens to `max_length`; `None` if the second leaves it no room.
    ///
    /// # Source
    /// `only_first` of the `tokenizers` crate (`utils/truncation.rs`).
    pub fn encode_keeping_pair(&self, text: &str, pair: &str, max_length: usize) -> Option<Encoding> {
        let (first, second) = (self.pieces(text), self.pieces(pair));
        let (first_len, second_len) = (first.get_ids().len(), second.get_ids().len());
        let room = max_length.checked_sub(self.special_tokens_around(true) + second_len)?;
        let fits = room >= first_len.min(1);
        fits.then(|| self.assemble_encoding(&first, Some(&second), (first_len.min(room), second_len)))
    }

    /// The first tokens of each text, as many as `keep` says, with the special tokens around them.
    fn assemble_encoding(
        &self,
        first: &tokenizers::Encoding,
        second: Option<&tokenizers::Encoding>,
        (keep_first, keep_second): (usize, usize),
    ) -> Encoding {
        let tokens = first.get_ids().len() + second.map_or(0, |second| second.get_ids().len());
        let mut encoding = Encoding { truncated_tokens: tokens - keep_first - keep_second, ..Encoding::default() };
        encoding.push(self.special.cls, 0, 0..0, None);
        encoding.push_pieces(first, keep_first, 0, 0);
        encoding.push(self.special.sep, 0, 0..0, None);
        if let Some(second) = second {
            for _ in 1..self.format.separators {
                encoding.push(self.special.sep, 0, 0..0, None);
            }
            let second_type = self.format.second_type;
            encoding.push_pieces(second, keep_second, 1, second_type);
            encoding.push(self.special.sep, second_type, 0..0, None);
        }
        encoding
    }

    /// Special tokens that [`Tokenizer::encode`] puts around one text, or around a pair.
    pub fn special_tokens_around(&self, pair: bool) -> usize {
        if pair { 2 + self.format.separators } else { 2 }
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

    /// Text of `ids`, pieces glued to their word; of WordPiece, the space before punctuation is removed. Ids outside the
    /// vocabulary give nothing.
    pub fn decode(&self, ids: &[u32], skip_special: bool) -> String {
        self.inner.decode(ids, skip_special).expect("joining tokens has no failing case")
    }

    /// How words are cut.
    pub fn kind(&self) -> TokenizerKind {
        self.kind
    }

    /// Text of tokens that are spelled out, glued as by [`Tokenizer::decode`].
    pub fn join(&self, tokens: Vec<String>) -> String {
        match self.inner.get_decoder() {
            Some(decoder) => decoder.decode(tokens).expect("joining tokens has no failing case"),
            None => tokens.join(" "),
        }
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

    /// The id of this token, spelled with the mark of its kind.
    pub fn id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// True if the token continues a word by the marks of its kind (`##ing`; BPE's and unigram's without `Ġ` or `▁`,
    /// which take a comma to the word before it): for whole-word masking.
    pub fn continues_word(&self, id: u32) -> bool {
        let starts_with = |marks: &[char]| self.token(id).is_some_and(|token| token.starts_with(marks));
        let is_token = self.token(id).is_some() && !self.special.contains(id);
        match self.kind {
            TokenizerKind::WordPiece => self.token(id).is_some_and(|token| token.starts_with(CONTINUATION)),
            TokenizerKind::ByteLevelBpe => is_token && !starts_with(&BYTE_LEVEL_SPACES),
            TokenizerKind::Unigram => is_token && !starts_with(&[UNIGRAM_SPACE]),
        }
    }

    /// The same of a token that stands at byte `start` of `text`, where one for what is unknown, which bears no mark, may stand
    /// for a part of a word.
    pub fn continues_word_in(&self, id: u32, text: &str, start: usize) -> bool {
        if self.kind == TokenizerKind::WordPiece || id != self.special.unk {
            return self.continues_word(id);
        }
        text.get(..start).and_then(|before| before.chars().next_back()).is_some_and(|before| !before.is_whitespace())
    }

    /// True if text is lower-cased before it is split.
    pub fn is_lowercasing(&self) -> bool {
        let Some(normalizer) = self.inner.get_normalizer() else { return false };
        let mut letter = NormalizedString::from("A");
        normalizer.normalize(&mut letter).is_ok() && letter.get() == "a"
    }

    /// What BERT's normaliser does, if it is WordPiece.
    fn bert_normalizer(&self) -> Option<&BertNormalizer> {
        match self.inner.get_normalizer() {
            Some(NormalizerWrapper::BertNormalizer(normalizer)) => Some(normalizer),
            _ => None,
        }
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

/// The ids of the special tokens in a vocabulary of `vocabulary_size` tokens.
fn ids_of(
    inner: &tokenizers::Tokenizer,
    names: &SpecialNames,
    vocabulary_size: usize,
) -> Result<SpecialTokens, TokenizerError> {
    let id = |token: &str| {
        let token_is_missing = || TokenizerError::MissingSpecialToken { token: token.to_owned(), vocabulary_size };
        inner.token_to_id(token).ok_or_else(token_is_missing)
    };
    Ok(SpecialTokens {
        pad: id(&names.pad)?,
        unk: id(&names.unk)?,
        cls: id(&names.cls)?,
        sep: id(&names.sep)?,
        mask: id(&names.mask)?,
    })
}

/// Marks a piece that continues a word.
const CONTINUATION: &str = "##";

/// How byte-level BPE spells space, line feed, carriage return and tabulator.
const BYTE_LEVEL_SPACES: [char; 4] = ['Ġ', 'Ċ', 'č', 'ĉ'];

/// Marks the space in front of a word.
const UNIGRAM_SPACE: char = '▁';

/// Why `encode` of the inner tokenizer is infallible here.
const CANNOT_FAIL: &str =
    "no normaliser and splitter that is accepted has a failing case, and loading found an id for what is unknown";

impl Encoding {
    fn push(&mut self, id: u32, token_type: u32, offsets: Range<usize>, sequence: Option<u8>) {
        self.input_ids.push(id);
        self.token_type_ids.push(token_type);
        self.offsets.push(offsets);
        self.sequence_ids.push(sequence);
    }

    fn push_pieces(&mut self, pieces: &tokenizers::Encoding, keep: usize, sequence: u8, token_type: u32) {
        for (&id, &(start, end)) in pieces.get_ids().iter().zip(pieces.get_offsets()).take(keep) {
            self.push(id, token_type, start..end, Some(sequence));
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
