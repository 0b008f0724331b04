//! A text of any length as windows that a model can read, and what it says of them put together: the answers for every
//! token, or the mean of what it says of each window.

use crate::data::tagging::windows::{Window, windows};
use crate::predict::spans::TaggedToken;
use crate::tokenizer::{Encoding, Tokenizer};

/// Tokens around the text of every window: `[CLS]` and `[SEP]`.
const SPECIAL_TOKENS: usize = 2;

/// A text and the windows that it is read in.
#[derive(Clone, Debug)]
pub struct TextWindows {
    whole: Encoding,
    /// Where the text begins that is cut: behind the special tokens and what stands in front of every window.
    start: usize,
    windows: Vec<Window>,
}

impl TextWindows {
    /// Cuts a text into windows of at most `max_length` tokens, special ones included, that share `overlap` tokens with
    /// the one before, as [`windows`] has it.
    ///
    /// # Panics
    /// If `max_length` leaves no room between the special tokens.
    pub fn new(tokenizer: &Tokenizer, text: &str, max_length: usize, overlap: Option<usize>) -> TextWindows {
        TextWindows::cut(tokenizer, "", text, max_length, overlap).expect("room between the special tokens")
    }

    /// The same of a text behind a prompt, which stands in front of every window; `None` if it leaves no room.
    pub fn behind(tokenizer: &Tokenizer, prompt: &str, text: &str, max_length: usize) -> Option<TextWindows> {
        TextWindows::cut(tokenizer, prompt, text, max_length, None)
    }

    fn cut(
        tokenizer: &Tokenizer,
        prompt: &str,
        text: &str,
        max_length: usize,
        overlap: Option<usize>,
    ) -> Option<TextWindows> {
        let text = format!("{prompt}{text}");
        let whole = tokenizer.encode(&text, None, None);
        let (first, end) = text_tokens(&whole);
        let of_prompt = whole.offsets[first..end].iter().take_while(|bytes| bytes.start < prompt.len()).count();
        let start = first + of_prompt;
        let capacity = max_length.checked_sub(SPECIAL_TOKENS + of_prompt).filter(|&capacity| capacity > 0)?;
        let begins_word: Vec<bool> = (start..end)
            .map(|at| !tokenizer.continues_word_in(whole.input_ids[at], &text, whole.offsets[at].start))
            .collect();
        let windows = windows(&begins_word, capacity, overlap);
        Some(TextWindows { whole, start, windows })
    }

    /// What the model reads, window by window.
    pub fn sequences(&self) -> Vec<Encoding> {
        let (whole, start) = (&self.whole, self.start);
        let (_, end) = text_tokens(whole);
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

    /// How many of the text's tokens each window answers for. In overlaps a token belongs to one of the two, so the sum is
    /// the text's tokens.
    pub fn own_tokens(&self) -> Vec<usize> {
        self.windows.iter().map(|window| window.own.len()).collect()
    }

    /// The text's tokens, each once, from the logits `[tokens, labels]` of each window.
    ///
    /// # Panics
    /// If a window has fewer logits than tokens.
    pub fn tokens<'a>(&self, logits: &'a [Vec<f32>], labels: usize) -> Vec<TaggedToken<'a>> {
        let start = self.start;
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

/// The mean of rows, each counted as often as its weight says; a single row is what it is.
///
/// # Panics
/// If rows are of different lengths.
pub fn weighted_mean(rows: &[Vec<f32>], weights: &[usize]) -> Vec<f32> {
    if let [only] = rows {
        return only.clone();
    }
    let total: usize = weights.iter().sum();
    let width = rows.first().map_or(0, Vec::len);
    let mut sums = vec![0.0_f64; width];
    for (row, &weight) in rows.iter().zip(weights) {
        assert_eq!(row.len(), width, "rows of one length");
        for (sum, &x) in sums.iter_mut().zip(row) {
            *sum += weight as f64 * f64::from(x);
        }
    }
    sums.into_iter().map(|sum| (sum / total as f64) as f32).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokenizer() -> Tokenizer {
        let mut tokens: Vec<String> = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"].map(str::to_owned).to_vec();
        tokens.extend((5..30).map(|id| format!("w{id}")));
        Tokenizer::from_vocabulary(tokens, true).unwrap()
    }

    #[test]
    fn a_prompt_stands_in_front_of_every_window_and_the_text_is_there_once() {
        let text: Vec<String> = (0..40).map(|word| format!("w{}", 5 + word % 20)).collect();
        let windows = TextWindows::behind(&tokenizer(), "w29 w28 ", &text.join(" "), 14).unwrap();
        let sequences = windows.sequences();
        assert!(sequences.len() > 3);
        for sequence in &sequences {
            assert_eq!(sequence.input_ids[..3], [2, 29, 28]);
            assert!(sequence.len() <= 14 && sequence.input_ids.last() == Some(&3));
        }
        assert_eq!(windows.own_tokens().iter().sum::<usize>(), 40);
        let own = windows.windows.iter().zip(&sequences).flat_map(|(window, sequence)| {
            let skipped = window.own.start - window.tokens.start;
            sequence.input_ids[3 + skipped..][..window.own.len()].to_vec()
        });
        let expected: Vec<u32> = (0..40).map(|word| 5 + word % 20).collect();
        assert_eq!(own.collect::<Vec<_>>(), expected);
        assert!(TextWindows::behind(&tokenizer(), "w5 w6 ", "w7", 4).is_none());
    }

    #[test]
    fn a_mean_counts_each_row_by_its_weight() {
        let rows = [vec![1.0, 0.0], vec![4.0, 2.0]];
        assert_eq!(weighted_mean(&rows, &[1, 2]), [3.0, 4.0 / 3.0]);
        assert_eq!(weighted_mean(&rows[..1], &[0]), rows[0]);
    }
}
