//! Sentences of words as windows of tokens, with the label of each word on its first token.

use std::ops::Range;

use super::Sentence;
use super::windows::windows;
use crate::data::encoded::{EncodedSet, EncodedText};
use crate::tokenizer::Tokenizer;

/// Tokens around the text of every window: `[CLS]` and `[SEP]`.
const SPECIAL_TOKENS: usize = 2;

/// Sentences as windows of tokens, a window a text of `encoded`.
#[derive(Clone, Debug, Default)]
pub struct WordWindows {
    /// The windows, in the order of the sentences.
    pub encoded: EncodedSet,
    /// What each window answers for.
    pub answers: Vec<Vec<WordToken>>,
    /// Length of each sentence in tokens, special tokens included.
    pub tokens: Vec<usize>,
    /// Sentences of more than one window.
    pub long: usize,
}

/// The first token of a word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WordToken {
    /// Place in the window.
    pub token: usize,
    /// Which sentence.
    pub sentence: usize,
    /// Which of its words.
    pub word: usize,
}

impl WordWindows {
    /// Lays the sentences out in windows of at most `max_length` tokens, on `threads` threads. Every word is answered
    /// for once, by its first token in the window where it stands farther from a cut. A word that the tokenizer sees
    /// nothing in is `[UNK]`.
    ///
    /// # Panics
    /// If `max_length` leaves no room for a token beside the special ones.
    pub fn new(sentences: &[Sentence], tokenizer: &Tokenizer, max_length: usize, threads: usize) -> WordWindows {
        let texts: Vec<(String, Vec<Range<usize>>)> =
            sentences.iter().map(|sentence| joined(&sentence.words)).collect();
        let inputs: Vec<(&str, Option<&str>)> = texts.iter().map(|(text, _)| (text.as_str(), None)).collect();
        let special = tokenizer.special();
        let mut found = WordWindows::default();
        for (sentence, (encoding, (_, words))) in
            tokenizer.encode_batch(&inputs, None, threads).iter().zip(&texts).enumerate()
        {
            let tokens = (encoding.input_ids.iter().zip(&encoding.offsets).zip(&encoding.sequence_ids))
                .filter(|(_, sequence)| sequence.is_some())
                .map(|((&id, bytes), _)| (id, bytes.clone()));
            let (ids, firsts) = by_word(tokens, words, special.unk);
            let begins_word: Vec<bool> = firsts.iter().map(Option::is_some).collect();
            let windows = windows(&begins_word, max_length - SPECIAL_TOKENS, None);
            found.tokens.push(ids.len() + SPECIAL_TOKENS);
            found.long += usize::from(windows.len() > 1);
            for window in windows {
                let mut input_ids = vec![special.cls];
                input_ids.extend(&ids[window.tokens.clone()]);
                input_ids.push(special.sep);
                let answer = |token: usize| {
                    Some(WordToken { token: 1 + token - window.tokens.start, sentence, word: firsts[token]? })
                };
                found.answers.push(window.own.clone().filter_map(answer).collect());
                let token_type_ids = vec![0; input_ids.len()];
                found.encoded.texts.push(EncodedText { input_ids, token_type_ids });
            }
        }
        found
    }
}

/// The words with a space between, and where each stands.
fn joined(words: &[String]) -> (String, Vec<Range<usize>>) {
    let (mut text, mut places) = (String::new(), Vec::with_capacity(words.len()));
    for word in words {
        if !text.is_empty() {
            text.push(' ');
        }
        places.push(text.len()..text.len() + word.len());
        text.push_str(word);
    }
    (text, places)
}

/// The ids, and for each the word whose first token it is; a word without a token gets `unknown` in its place.
fn by_word(
    tokens: impl Iterator<Item = (u32, Range<usize>)>,
    words: &[Range<usize>],
    unknown: u32,
) -> (Vec<u32>, Vec<Option<usize>>) {
    let (mut ids, mut firsts) = (Vec::new(), Vec::new());
    // The next word to begin.
    let mut next = 0;
    for (id, bytes) in tokens {
        // The word it ends in: a token may begin with the space in front of its word.
        let word = words.partition_point(|word| word.end < bytes.end);
        while next < word.min(words.len()) {
            ids.push(unknown);
            firsts.push(Some(next));
            next += 1;
        }
        let begins = word == next && next < words.len();
        ids.push(id);
        firsts.push(begins.then_some(next));
        next += usize::from(begins);
    }
    for word in next..words.len() {
        ids.push(unknown);
        firsts.push(Some(word));
    }
    (ids, firsts)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokenizer() -> Tokenizer {
        let tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "b", "##b", "##c", "-", "1", "0"];
        Tokenizer::from_vocabulary(tokens.map(str::to_owned).to_vec(), true).unwrap()
    }

    fn sentence(words: &[&str]) -> Sentence {
        let tags = vec!["O".to_owned(); words.len()];
        Sentence { words: words.iter().map(|&word| word.to_owned()).collect(), tags, line: 1 }
    }

    #[test]
    fn a_word_is_answered_for_by_its_first_token_also_if_the_tokenizer_sees_nothing_in_it() {
        let words = ["abc", "\u{200d}", "b-b", "zz", "1 0", "\u{ad}"];
        let found = WordWindows::new(&[sentence(&words)], &tokenizer(), 32, 1);
        let text = &found.encoded.texts[0];
        let tokenizer = tokenizer();
        let tokens: Vec<&str> = text.input_ids.iter().filter_map(|&id| tokenizer.token(id)).collect();
        assert_eq!(tokens, ["[CLS]", "a", "##b", "##c", "[UNK]", "b", "-", "b", "[UNK]", "1", "0", "[UNK]", "[SEP]"]);
        let firsts: Vec<(usize, usize)> = found.answers[0].iter().map(|answer| (answer.word, answer.token)).collect();
        assert_eq!(firsts, [(0, 1), (1, 4), (2, 5), (3, 8), (4, 9), (5, 11)]);
        assert_eq!((found.tokens[0], found.long), (13, 0));
    }

    #[test]
    fn long_sentences_lose_no_word() {
        let words: Vec<&str> = ["abc", "b", "a-b"].into_iter().cycle().take(50).collect();
        let sentences = [sentence(&["a"]), sentence(&words), sentence(&["b", "a"])];
        let found = WordWindows::new(&sentences, &tokenizer(), 16, 2);
        assert!(found.long == 1 && found.encoded.texts.iter().all(|text| text.input_ids.len() <= 16));
        let answers: Vec<(usize, usize)> =
            found.answers.iter().flatten().map(|answer| (answer.sentence, answer.word)).collect();
        let expected: Vec<(usize, usize)> = [1, 50, 2]
            .iter()
            .enumerate()
            .flat_map(|(sentence, &words)| (0..words).map(move |word| (sentence, word)))
            .collect();
        assert_eq!(answers, expected);
    }
}
