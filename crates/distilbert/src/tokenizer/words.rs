//! Ids of much text. Running text repeats its words, so each distinct word goes through the tokenizer once.

use std::collections::HashMap;

use super::{CANNOT_FAIL, Tokenizer, TokenizerKind};

/// Encodes text after text, remembering the ids of the words it has seen; one per thread.
///
/// The ids are those of [`Tokenizer::encode`]: neither cleaning, accent stripping, lower-casing nor splitting of WordPiece
/// looks across a space. A text of another kind goes through its tokenizer whole, which remembers words itself.
#[derive(Debug)]
pub struct WordEncoder<'t> {
    tokenizer: &'t Tokenizer,
    seen: HashMap<Box<str>, Box<[u32]>>,
    /// False if a token holds a space: an added one that may span two words, or the space in front of a word.
    splits_at_spaces: bool,
}

/// Longer stretches without a space (Chinese, Thai, addresses) are encoded afresh.
const MAX_REMEMBERED_BYTES: usize = 32;
/// Bounds the memory of one encoder to about 20 MB.
const MAX_REMEMBERED_WORDS: usize = 1 << 17;

impl<'t> WordEncoder<'t> {
    /// An encoder that has seen nothing.
    pub fn new(tokenizer: &'t Tokenizer) -> Self {
        let added = tokenizer.inner.get_added_tokens_decoder();
        let splits_at_spaces =
            tokenizer.kind == TokenizerKind::WordPiece && !added.values().any(|token| token.content.contains(' '));
        WordEncoder { tokenizer, seen: HashMap::new(), splits_at_spaces }
    }

    /// Appends the ids of `text`, without the special tokens around it, to `ids`.
    pub fn encode_into(&mut self, text: &str, ids: &mut Vec<u32>) {
        if !self.splits_at_spaces {
            ids.extend_from_slice(self.encode(text).get_ids());
            return;
        }
        for word in text.split(' ').filter(|word| !word.is_empty()) {
            if let Some(known) = self.seen.get(word) {
                ids.extend_from_slice(known);
                continue;
            }
            let encoding = self.encode(word);
            ids.extend_from_slice(encoding.get_ids());
            if word.len() <= MAX_REMEMBERED_BYTES && self.seen.len() < MAX_REMEMBERED_WORDS {
                self.seen.insert(word.into(), encoding.get_ids().into());
            }
        }
    }

    fn encode(&self, text: &str) -> tokenizers::Encoding {
        self.tokenizer.inner.encode_fast(text, false).expect(CANNOT_FAIL)
    }
}
