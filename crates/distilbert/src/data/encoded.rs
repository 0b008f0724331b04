//! Labelled texts as token ids, ready for batches.

use super::batch::Batch;
use super::examples::{DataSet, Example};
use crate::tokenizer::Tokenizer;
use std::ops::Range;

/// One example's tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EncodedText {
    /// Token ids, specials included.
    pub input_ids: Vec<u32>,
    /// Segment of each token.
    pub token_type_ids: Vec<u32>,
}

/// The examples of a data set as tokens, in its order.
#[derive(Clone, Debug, Default)]
pub struct EncodedSet {
    /// One for each example.
    pub texts: Vec<EncodedText>,
    /// Places of the examples that lost tokens to the maximum length.
    pub truncated: Vec<usize>,
}

impl EncodedSet {
    /// Tokenises every example, cut to `max_length` tokens, on `threads` threads.
    pub fn new(data: &DataSet, tokenizer: &Tokenizer, max_length: usize, threads: usize) -> EncodedSet {
        Self::from_examples(&data.examples, tokenizer, max_length, threads)
    }

    /// As [`EncodedSet::new`], for examples from anywhere.
    pub fn from_examples(examples: &[Example], tokenizer: &Tokenizer, max_length: usize, threads: usize) -> EncodedSet {
        let texts: Vec<_> =
            examples.iter().map(|example| (example.text_a.as_str(), example.text_b.as_deref())).collect();
        Self::from_texts(&texts, tokenizer, max_length, threads)
    }

    /// As [`EncodedSet::new`], for texts and pairs of texts.
    pub fn from_texts(
        texts: &[(&str, Option<&str>)],
        tokenizer: &Tokenizer,
        max_length: usize,
        threads: usize,
    ) -> EncodedSet {
        let mut set = EncodedSet::default();
        for (place, encoding) in tokenizer.encode_batch(texts, Some(max_length), threads).into_iter().enumerate() {
            if encoding.truncated_tokens > 0 {
                set.truncated.push(place);
            }
            let (input_ids, token_type_ids) = (encoding.input_ids, encoding.token_type_ids);
            set.texts.push(EncodedText { input_ids, token_type_ids });
        }
        set
    }

    /// Length of each example in tokens.
    pub fn lengths(&self) -> Vec<usize> {
        self.texts.iter().map(|text| text.input_ids.len()).collect()
    }

    /// The examples in their order, cut into runs of at most `tokens` tokens, or of one example that has more.
    pub fn token_batches(&self, tokens: usize) -> impl Iterator<Item = Range<usize>> + '_ {
        let mut next = 0;
        std::iter::from_fn(move || {
            let (first, mut filled) = (next, 0);
            while let Some(text) = self.texts.get(next)
                && (next == first || filled + text.input_ids.len() <= tokens)
            {
                filled += text.input_ids.len();
                next += 1;
            }
            (next > first).then_some(first..next)
        })
    }

    /// Some of the examples as one batch.
    pub fn batch(&self, samples: &[usize]) -> Batch {
        let mut batch = Batch::new();
        for text in samples.iter().map(|&sample| &self.texts[sample]) {
            batch.push(&text.input_ids, Some(&text.token_type_ids));
        }
        batch
    }
}
