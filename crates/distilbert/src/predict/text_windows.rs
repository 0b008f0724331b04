//! A text of any length as windows that a model which answers for every token can read, and the answers put together.

use crate::data::tagging::windows::{Window, windows};
use crate::predict::spans::TaggedToken;
use crate::tokenizer::{Encoding, Tokenizer};

/// Tokens around the text of every window: `[CLS]` and `[SEP]`.
const SPECIAL_TOKENS: usize = 2;

/// A text and the windows that it is read in.
#[derive(Clone, Debug)]
pub struct TextWindows {
    whole: Encoding,
    windows: Vec<Window>,
}

impl TextWindows {
    /// Cuts a text into windows of at most `max_length` tokens, special ones included.
    ///
    /// # Panics
    /// If `max_length` leaves no room between the special tokens.
    pub fn new(tokenizer: &Tokenizer, text: &str, max_length: usize) -> TextWindows {
        let whole = tokenizer.encode(text, None, None);
        let (start, end) = text_tokens(&whole);
        let begins_word: Vec<bool> =
            whole.input_ids[start..end].iter().map(|&id| !tokenizer.continues_word(id)).collect();
        let windows = windows(&begins_word, max_length - SPECIAL_TOKENS);
        TextWindows { whole, windows }
    }

    /// What the model reads, window by window.
    pub fn sequences(&self) -> Vec<Encoding> {
        let whole = &self.whole;
        let (start, end) = text_tokens(whole);
        let sequence = |window: &Window| {
            let own = start + window.tokens.start..start + window.tokens.end;
            // What stands before the text, a part of it, and what stands behind it.
            let places: Vec<usize> = (0..start).chain(own).chain(end..whole.len()).collect();
            Encoding {
                input_ids: places.iter().map(|&place| whole.input_ids[place]).collect(),
                token_type_ids: places.iter().map(|&place| whole.token_type_ids[place]).collect(),
                offsets: places.iter().map(|&place| whole.offsets[place].clone()).collect(),
                sequence_ids: places.iter().map(|&place| whole.sequence_ids[place]).collect(),
                truncated_tokens: 0,
            }
        };
        self.windows.iter().map(sequence).collect()
    }

    /// The text's tokens, each once, from the logits `[tokens, labels]` of each window.
    ///
    /// # Panics
    /// If a window has fewer logits than tokens.
    pub fn tokens<'a>(&self, logits: &'a [Vec<f32>], labels: usize) -> Vec<TaggedToken<'a>> {
        let (start, _) = text_tokens(&self.whole);
        let mut tokens = Vec::new();
        for (window, logits) in self.windows.iter().zip(logits) {
            for token in window.own.clone() {
                let row = start + token - window.tokens.start;
                tokens.push(TaggedToken {
                    id: self.whole.input_ids[start + token],
                    bytes: self.whole.offsets[start + token].clone(),
                    logits: &logits[row * labels..][..labels],
                });
            }
        }
        tokens
    }
}

/// Where the text begins and ends among all tokens.
fn text_tokens(whole: &Encoding) -> (usize, usize) {
    let start = whole.sequence_ids.iter().position(Option::is_some).unwrap_or(whole.len());
    let end = whole.sequence_ids.iter().rposition(Option::is_some).map_or(start, |last| last + 1);
    (start, end)
}
