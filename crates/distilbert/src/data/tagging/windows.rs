//! A row of tokens of any length as windows that a model can take.

use std::ops::Range;

/// Part of a row of tokens, to be read at once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Window {
    /// The tokens that the model reads.
    pub tokens: Range<usize>,
    /// Those of them whose answer is taken from this window: the windows' own tokens are all tokens, once each.
    pub own: Range<usize>,
}

/// Cuts a row into windows of at most `capacity` tokens, each with the last `overlap` of the one before: a quarter of
/// the window unless given, and half at most, so that the number of windows stays in proportion to the row.
/// `begins_word` says of each token whether a word begins with it. Windows begin with words, and an overlap is longer
/// for it, unless a word is longer than an overlap.
/// In an overlap, the tokens up to its middle are those of the window before, so that every token but those at the row's
/// ends is read with tokens on both of its sides.
///
/// # Panics
/// If `capacity` is 0.
pub fn windows(begins_word: &[bool], capacity: usize, overlap: Option<usize>) -> Vec<Window> {
    assert!(capacity > 0, "a window of at least one token");
    let count = begins_word.len();
    let overlap = overlap.unwrap_or(capacity / 4).min(capacity / 2);
    let mut windows: Vec<Window> = Vec::new();
    let (mut start, mut own) = (0, 0);
    loop {
        let end = count.min(start + capacity);
        if end == count {
            windows.push(Window { tokens: start..count, own: own..count });
            return windows;
        }
        let next = word_before(begins_word, end - overlap, (end - 2 * overlap).max(start + 1));
        let cut = word_before(begins_word, next + (end - next) / 2, next);
        windows.push(Window { tokens: start..end, own: own..cut });
        (start, own) = (next, cut);
    }
}

/// The last beginning of a word at or before `at`, but not before `first`; `at` itself if there is none.
fn word_before(begins_word: &[bool], at: usize, first: usize) -> usize {
    (first..=at).rev().find(|&token| begins_word[token]).unwrap_or(at)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_own_every_token_once_and_begin_with_words() {
        for count in [0, 1, 7, 8, 9, 40, 101] {
            let overlaps = [None, Some(0), Some(3), Some(usize::MAX)];
            for (capacity, overlap) in [1, 2, 3, 8, 13].into_iter().flat_map(|size| overlaps.map(|of| (size, of))) {
                let begins_word: Vec<bool> = (0..count).map(|token| token % 3 != 1).collect();
                let windows = windows(&begins_word, capacity, overlap);
                let mut next = 0;
                for window in &windows {
                    assert_eq!(window.own.start, next, "{count} by {capacity}");
                    assert!(window.tokens.len() <= capacity);
                    assert!(window.tokens.start <= window.own.start && window.own.end <= window.tokens.end);
                    let may_cut_words = capacity < 8 || overlap == Some(0);
                    assert!(may_cut_words || window.tokens.start == 0 || begins_word[window.tokens.start]);
                    assert!(may_cut_words || window.own.start == 0 || begins_word[window.own.start]);
                    next = window.own.end;
                }
                assert_eq!(next, count);
                assert_eq!(windows.len() == 1, count <= capacity);
            }
        }
    }

    #[test]
    fn windows_overlap_as_asked_and_by_half_at_most() {
        let starts = |overlap| -> Vec<usize> {
            windows(&[true; 30], 12, overlap).iter().map(|window| window.tokens.start).collect()
        };
        assert_eq!(starts(None), [0, 9, 18]);
        assert_eq!(starts(Some(0)), [0, 12, 24]);
        assert_eq!(starts(Some(4)), [0, 8, 16, 24]);
        assert_eq!(starts(Some(11)), [0, 6, 12, 18]);
    }

    #[test]
    fn a_word_longer_than_a_window_is_cut_and_the_row_goes_on() {
        let mut begins_word = vec![false; 50];
        begins_word[0] = true;
        let windows = windows(&begins_word, 10, None);
        assert_eq!(windows.last().map(|window| window.own.end), Some(50));
    }
}
