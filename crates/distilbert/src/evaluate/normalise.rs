//! How the official scripts reduce an answer to the words that count: lower case, no punctuation, no articles, single
//! spaces. SQuAD's rules are for English; MLQA's differ by language.

use std::sync::LazyLock;

use regex::Regex;

use crate::data::questions::{AnswerLanguage, Normalisation};

const ENGLISH_ARTICLES: &[&str] = &["a", "an", "the"];

/// The words that the official script of MLQA takes for articles.
fn articles(language: AnswerLanguage) -> &'static [&'static str] {
    match language {
        AnswerLanguage::En => ENGLISH_ARTICLES,
        AnswerLanguage::Es => &["un", "una", "unos", "unas", "el", "la", "los", "las"],
        AnswerLanguage::Vi => &["của", "là", "cái", "chiếc", "những"],
        AnswerLanguage::De => {
            &["ein", "eine", "einen", "einem", "eines", "einer", "der", "die", "das", "den", "dem", "des"]
        }
        AnswerLanguage::Hi | AnswerLanguage::Ar | AnswerLanguage::Zh => &[],
    }
}

/// The words of `answer` that count, in order. Two answers match exactly if these are equal.
///
/// # Source
/// `normalize_answer` of `evaluate-v1.1.py` and `evaluate-v2.0.py` (SQuAD) and of `mlqa_evaluation_v1.py` (MLQA).
pub fn words(answer: &str, normalisation: Normalisation) -> Vec<String> {
    let lower = answer.to_lowercase();
    match normalisation {
        Normalisation::Squad => {
            let text: String = lower.chars().filter(|letter| !letter.is_ascii_punctuation()).collect();
            split(&without_words(&text, ENGLISH_ARTICLES))
        }
        Normalisation::Mlqa(language) => {
            let text: String = lower.chars().filter(|&letter| !is_punctuation(letter)).collect();
            match language {
                // Arabic's article is the beginning of a word; the script takes it from anywhere.
                AnswerLanguage::Ar => split(&text.replace("ال", " ")),
                AnswerLanguage::Zh => split(&apart(&text)),
                language => split(&without_words(&text, articles(language))),
            }
        }
    }
}

/// `text` with each whole word of `words` replaced by a space. A word ends where letters, digits and underscores do.
fn without_words(text: &str, words: &[&str]) -> String {
    let mut kept = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let in_word = is_word(first);
        let end = rest.find(|letter| is_word(letter) != in_word).unwrap_or(rest.len());
        let (run, after) = rest.split_at(end);
        kept.push_str(if words.contains(&run) { " " } else { run });
        rest = after;
    }
    kept
}

/// The ideographs of `text` as words of their own.
fn apart(text: &str) -> String {
    let mut spaced = String::with_capacity(2 * text.len());
    for letter in text.chars() {
        if ('\u{4e00}'..='\u{9fa5}').contains(&letter) {
            spaced.extend([' ', letter, ' ']);
        } else {
            spaced.push(letter);
        }
    }
    spaced
}

fn split(text: &str) -> Vec<String> {
    text.split(is_space).filter(|word| !word.is_empty()).map(str::to_owned).collect()
}

/// White space as Python's `str.split` sees it: Unicode's, and the four ASCII separators.
fn is_space(letter: char) -> bool {
    letter.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&letter)
}

/// `\w` of Python's `re`: letters, numbers, underscore. Combining marks, which Rust counts as letters or leaves to the
/// word around them, are none.
fn is_word(letter: char) -> bool {
    static WORD: LazyLock<Regex> =
        LazyLock::new(|| Regex::new(r"^[\p{L}\p{N}_]").expect("the pattern is fixed and tested"));
    if letter.is_ascii() {
        return letter.is_ascii_alphanumeric() || letter == '_';
    }
    WORD.is_match(letter.encode_utf8(&mut [0; 4]))
}

/// Unicode's punctuation, and the ASCII signs that Unicode counts as symbols (`$`, `+`, ...).
fn is_punctuation(letter: char) -> bool {
    static PUNCTUATION: LazyLock<Regex> =
        LazyLock::new(|| Regex::new(r"^\p{P}").expect("the pattern is fixed and tested"));
    if letter.is_ascii() {
        return letter.is_ascii_punctuation();
    }
    PUNCTUATION.is_match(letter.encode_utf8(&mut [0; 4]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::questions::UnknownLanguage;

    fn squad(answer: &str) -> String {
        words(answer, Normalisation::Squad).join(" ")
    }

    fn mlqa(language: AnswerLanguage, answer: &str) -> String {
        words(answer, Normalisation::Mlqa(language)).join(" ")
    }

    #[test]
    fn punctuation_goes_before_articles_and_only_ascii_counts_for_squad() {
        assert_eq!(squad("The  A-Team, an\u{1c}U.S. \u{a0}show!"), "ateam us show");
        assert_eq!(squad("“the”"), "“ ”");
        assert_eq!(squad("a_the the_ anthem"), "athe anthem");
        assert_eq!((squad("the"), squad("...")), (String::new(), String::new()));
        // A combining mark ends a word in Python.
        assert_eq!(squad("the\u{301} cat"), "\u{301} cat");
    }

    #[test]
    fn mlqa_has_articles_and_segmentation_by_language() {
        assert_eq!(mlqa(AnswerLanguage::De, "„Die“ Straße des Königs"), "straße königs");
        assert_eq!(mlqa(AnswerLanguage::Es, "¿El niño?"), "niño");
        assert_eq!(mlqa(AnswerLanguage::Vi, "những con mèo"), "con mèo");
        assert_eq!(mlqa(AnswerLanguage::Ar, "الشمال"), "شم");
        assert_eq!(mlqa(AnswerLanguage::Zh, "在2008年，北京the"), "在 2008 年 北 京 the");
        assert_eq!("fr".parse::<AnswerLanguage>(), Err(UnknownLanguage("fr".to_owned())));
    }
}
