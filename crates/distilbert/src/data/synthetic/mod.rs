//! The seeded text generator of the quickstart: an unlabelled corpus, and a sentiment task that is hard without it.
//!
//! The quickstart must show, in a few minutes on two cores, what pretraining and distillation are for. Real text of
//! the needed size is too hard for a model that is trained for one minute, and text drawn from a word list is too easy
//! for a bag of words. So the text comes from a grammar in which each property is there for a reason:
//!
//! - **A masked word follows from its context.** Number and tense agree, pronouns refer back across sentences, parts
//!   belong to their topic, effects to their causes ("because it rained, the streets were wet"), and everything in a
//!   review takes one side. So masked-language modelling has something to learn, at several depths.
//! - **Most polar words are in the unlabelled text only.** Of 84 positive and 84 negative words, the labelled training
//!   sentences use the share [`SyntheticConfig::train_words`]; the held-out sentences use all of them equally. The
//!   polarity of the others shows only in the company they keep in the corpus: in ratings, in what people do then ("so
//!   she returned it the next day"), and above all in lists such as "clever script, vivid scenes, talented cast. Five
//!   stars.", where a masked word stands among many of its side. A model that starts from random weights can only guess.
//! - **The label follows from the structure.** 60 % of the labelled sentences are plain, 20 % contrast two clauses of
//!   which the one after "but", or the main clause, decides, 15 % negate words of the other side ("far from dull"), and
//!   5 % compare, negate twice or disappoint an expectation. Whoever knew every word and only counted them would be right
//!   three times in four. Each structure is used with both labels alike and in both orders of clauses.
//! - **8 % of the corpus judges nothing** (weather, work, places, sport), so the model also has to know what is no opinion.
//! - **All words of a class are used equally often**, dealt like cards from shuffled decks, but for one of each class that
//!   is common in the corpus, so that no score depends on a word that the corpus happened to miss.
//!
//! The parts have their own random streams: changing the size of one leaves the other labelled sets as they were. A
//! labelled sentence is never a sentence of the corpus.

mod lexicon;
mod neutral;
mod opinion;
mod review;
mod scene;

use std::collections::BTreeSet;

use lexicon::{Lexicon, Polarity};
use opinion::{Structure, Writer};
use scene::{Scene, chance, sentence};

use crate::random::Rng;

/// What to generate.
#[derive(Clone, Debug, PartialEq)]
pub struct SyntheticConfig {
    /// Equal seeds give equal text.
    pub seed: u64,
    /// Lines of the unlabelled corpus; about 13 words each.
    pub corpus_lines: usize,
    /// Labelled training sentences.
    pub train: usize,
    /// Labelled held-out sentences.
    pub dev: usize,
    /// The share of the polar words that the training sentences may use, in `0..=1`; at least two words remain in each
    /// class and polarity.
    pub train_words: f64,
}

impl Default for SyntheticConfig {
    fn default() -> Self {
        SyntheticConfig { seed: 1, corpus_lines: 24_000, train: 500, dev: 1_000, train_words: 0.33 }
    }
}

/// A generated corpus and sentiment task, all in ASCII.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SyntheticText {
    /// Lines of one to five coherent sentences, in random order.
    pub corpus: Vec<String>,
    /// Sentences with few of the polar words.
    pub train: Vec<LabelledSentence>,
    /// Sentences with all of the polar words; none is in `train`.
    pub dev: Vec<LabelledSentence>,
}

/// A sentence and its sentiment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LabelledSentence {
    /// One sentence of 5 to 25 words.
    pub text: String,
    /// `0` negative, `1` positive.
    pub label: u8,
}

/// Generates the text of `config`: exactly the counts it asks for, both labels equally often (odd counts: one negative
/// more). The grammar has many millions of sentences; counts near that would not end.
pub fn generate(config: &SyntheticConfig) -> SyntheticText {
    let stream = |purpose: u64| Rng::from_key(&[config.seed, purpose]);
    let train_lexicon = Lexicon::sample(config.train_words, &mut stream(TRAIN_WORDS));
    let mut taken = BTreeSet::new();
    let train = labelled(config.train, Writer { rng: stream(TRAIN), lexicon: train_lexicon }, &mut taken);
    let dev = labelled(config.dev, Writer { rng: stream(DEV), lexicon: Lexicon::full() }, &mut taken);

    let mut writer = Writer { rng: stream(CORPUS), lexicon: Lexicon::with_common_words() };
    let corpus = (0..config.corpus_lines).map(|line| corpus_line(line, &mut writer, &taken)).collect();
    SyntheticText { corpus, train, dev }
}

/// The layout of SST-2's files: the header `sentence<TAB>label`, then a sentence and its label a line.
pub fn sst2_tsv(sentences: &[LabelledSentence]) -> String {
    let rows = sentences.iter().map(|LabelledSentence { text, label }| format!("{text}\t{label}\n"));
    std::iter::once("sentence\tlabel\n".to_owned()).chain(rows).collect()
}

// Random streams, the second word of their keys.
const TRAIN_WORDS: u64 = 1;
const TRAIN: u64 = 2;
const DEV: u64 = 3;
const CORPUS: u64 = 4;

/// The words of a labelled sentence.
const SENTENCE_WORDS: std::ops::RangeInclusive<usize> = 5..=25;

/// The structures of 20 labelled sentences in a row, of each label.
const STRUCTURES: [Structure; 20] = {
    use Structure::{Contrast, Mixed, Negation, Plain};
    [
        Plain, Plain, Contrast, Plain, Negation, Plain, Contrast, Plain, Plain, Negation, Plain, Contrast, Plain,
        Mixed, Plain, Negation, Plain, Contrast, Plain, Plain,
    ]
};

/// `count` sentences that `taken` does not hold, which then holds them.
fn labelled(count: usize, mut writer: Writer, taken: &mut BTreeSet<String>) -> Vec<LabelledSentence> {
    let mut sentences: Vec<LabelledSentence> = (0..count)
        .map(|index| {
            let polarity = if index.is_multiple_of(2) { Polarity::Negative } else { Polarity::Positive };
            let structure = STRUCTURES[index / 2 % STRUCTURES.len()];
            let text = loop {
                let past = chance(50, &mut writer.rng);
                let scene = Scene::any(past, &mut writer.rng);
                let text = sentence(&writer.opinion(&scene, structure, polarity));
                if SENTENCE_WORDS.contains(&text.split(' ').count()) && taken.insert(text.clone()) {
                    break text;
                }
            };
            LabelledSentence { text, label: polarity as u8 }
        })
        .collect();
    writer.rng.shuffle(&mut sentences);
    sentences
}

/// One line of the corpus: a few neutral, the rest of either polarity alike.
fn corpus_line(line: usize, writer: &mut Writer, taken: &BTreeSet<String>) -> String {
    if chance(8, &mut writer.rng) {
        return writer.neutral();
    }
    let polarity = if line.is_multiple_of(2) { Polarity::Negative } else { Polarity::Positive };
    writer.review(polarity, &|opinion| taken.contains(opinion))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn small() -> SyntheticConfig {
        SyntheticConfig { corpus_lines: 400, train: 101, dev: 200, ..SyntheticConfig::default() }
    }

    fn words(text: &str) -> impl Iterator<Item = String> + '_ {
        text.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty()).map(str::to_ascii_lowercase)
    }

    /// The polarity of every form of every polar word.
    fn polar_forms() -> BTreeMap<&'static str, Polarity> {
        Lexicon::full().words().flat_map(|(word, polarity)| [(word.base, polarity), (word.past, polarity)]).collect()
    }

    fn polarities(text: &str) -> Vec<Polarity> {
        let forms = polar_forms();
        words(text).filter_map(|word| forms.get(word.as_str()).copied()).collect()
    }

    /// FNV-1a, 64 bits.
    fn hash(text: &str) -> u64 {
        text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3))
    }

    #[test]
    fn equal_seeds_give_equal_bytes_and_other_seeds_others() {
        let bytes = |config: &SyntheticConfig| {
            let text = generate(config);
            [text.corpus.join("\n"), sst2_tsv(&text.train), sst2_tsv(&text.dev)]
        };
        let first = bytes(&small());
        assert_eq!(first, bytes(&small()));
        let other = bytes(&SyntheticConfig { seed: 2, ..small() });
        assert!(first.iter().zip(&other).all(|(first, other)| first != other));
        // Made by this code; it changes only with the grammar, on no machine.
        assert_eq!(format!("{:016x}", hash(&first.concat())), "16b0982e67a9c8f4");
    }

    #[test]
    fn the_labelled_sets_do_not_depend_on_the_size_of_the_corpus() {
        let (small, large) = (generate(&small()), generate(&SyntheticConfig { corpus_lines: 800, ..small() }));
        assert_eq!((&small.train, &small.dev), (&large.train, &large.dev));
        assert_eq!(small.corpus, large.corpus[..400]);
    }

    #[test]
    fn counts_are_exact_and_labels_balanced() {
        let text = generate(&small());
        assert_eq!((text.corpus.len(), text.train.len(), text.dev.len()), (400, 101, 200));
        let positive = |set: &[LabelledSentence]| set.iter().filter(|sentence| sentence.label == 1).count();
        assert_eq!((positive(&text.train), positive(&text.dev)), (50, 100));
        let none = SyntheticConfig { corpus_lines: 0, train: 0, dev: 0, ..small() };
        assert_eq!(generate(&none), SyntheticText { corpus: vec![], train: vec![], dev: vec![] });
    }

    #[test]
    fn no_labelled_sentence_occurs_twice_or_in_the_corpus() {
        let text = generate(&SyntheticConfig::default());
        let mut seen = BTreeSet::new();
        for LabelledSentence { text, .. } in text.train.iter().chain(&text.dev) {
            assert!(SENTENCE_WORDS.contains(&text.split(' ').count()), "{text}");
            assert!(seen.insert(text.as_str()), "{text}");
        }
        for sentence in text.corpus.iter().flat_map(|line| line.split_inclusive('.')) {
            assert!(!seen.contains(sentence.trim()), "{sentence}");
        }
    }

    #[test]
    fn few_polar_words_are_in_the_training_set_and_all_in_the_others() {
        let text = generate(&SyntheticConfig::default());
        let in_text = |lines: &mut dyn Iterator<Item = &str>| -> BTreeMap<String, usize> {
            let mut counts = BTreeMap::new();
            lines.flat_map(words).for_each(|word| *counts.entry(word).or_default() += 1);
            counts
        };
        let train = in_text(&mut text.train.iter().map(|sentence| sentence.text.as_str()));
        let dev = in_text(&mut text.dev.iter().map(|sentence| sentence.text.as_str()));
        let corpus = in_text(&mut text.corpus.iter().map(String::as_str));
        let uses = |counts: &BTreeMap<String, usize>, word: &lexicon::Word| {
            let past = if word.past == word.base { 0 } else { counts.get(word.past).copied().unwrap_or(0) };
            counts.get(word.base).copied().unwrap_or(0) + past
        };
        let words: Vec<_> = Lexicon::full().words().map(|(word, _)| word).collect();
        let trained = words.iter().filter(|word| uses(&train, word) > 0).count() as f64 / words.len() as f64;
        assert!((0.30..0.36).contains(&trained), "{trained}");
        for word in &words {
            assert!(uses(&dev, word) >= 1, "{word:?}");
            assert!(uses(&corpus, word) >= 25, "{word:?}: {}", uses(&corpus, word));
        }
    }

    #[test]
    fn counting_polar_words_gives_the_label_of_plain_sentences_only() {
        let dev = generate(&SyntheticConfig { corpus_lines: 0, ..SyntheticConfig::default() }).dev;
        let majority_is_right = |sentence: &&LabelledSentence| {
            let polarities = polarities(&sentence.text);
            let positive = polarities.iter().filter(|&&polarity| polarity == Polarity::Positive).count();
            u8::from(2 * positive > polarities.len()) == sentence.label
        };
        let right = dev.iter().filter(majority_is_right).count();
        assert!((700..800).contains(&right), "{right} of {}", dev.len());
    }

    #[test]
    fn plain_opinions_use_words_of_their_own_side_only() {
        let mut writer = Writer { rng: Rng::from_key(&[1]), lexicon: Lexicon::full() };
        for index in 0..500_usize {
            let polarity = if index.is_multiple_of(2) { Polarity::Negative } else { Polarity::Positive };
            let scene = Scene::any(index.is_multiple_of(3), &mut writer.rng);
            let opinion = writer.opinion(&scene, Structure::Plain, polarity);
            assert!(polarities(&opinion).iter().all(|&word| word == polarity), "{opinion}");
            assert!(!polarities(&opinion).is_empty(), "{opinion}");
        }
    }

    #[test]
    fn neutral_lines_have_no_polar_word() {
        let mut writer = Writer { rng: Rng::from_key(&[1]), lexicon: Lexicon::full() };
        for _ in 0..1_000 {
            let line = writer.neutral();
            assert!(polarities(&line).is_empty(), "{line}");
        }
    }

    #[test]
    fn lines_are_well_formed_english() {
        let text = generate(&SyntheticConfig { corpus_lines: 4_000, ..SyntheticConfig::default() });
        let labelled = text.train.iter().chain(&text.dev).map(|sentence| &sentence.text);
        for line in text.corpus.iter().chain(labelled) {
            assert!(line.chars().all(|c| c.is_ascii_alphanumeric() || " .,:-".contains(c)), "{line}");
            assert!(!line.contains("  ") && line.ends_with('.'), "{line}");
            for sentence in line.split(". ") {
                assert!(sentence.starts_with(|c: char| c.is_ascii_uppercase()), "{line}");
                for pair in words(sentence).collect::<Vec<_>>().windows(2) {
                    let vowel = pair[1].starts_with(['a', 'e', 'i', 'o', 'u']);
                    assert_ne!(pair[0], if vowel { "a" } else { "an" }, "{line}");
                    assert!(pair[0] != pair[1], "{line}");
                    let disagreeing = [("it", "were"), ("it", "are"), ("they", "was"), ("they", "is"), ("she", "were")];
                    assert!(!disagreeing.contains(&(pair[0].as_str(), pair[1].as_str())), "{line}");
                }
            }
        }
        let words = text.corpus.iter().map(|line| words(line).count()).sum::<usize>();
        assert!((20..=28).contains(&(words / text.corpus.len())), "{words} words");
    }

    #[test]
    fn sst2_files_have_a_header_and_a_tab() {
        let sentences = [LabelledSentence { text: "The plot was not dull at all.".to_owned(), label: 1 }];
        assert_eq!(sst2_tsv(&sentences), "sentence\tlabel\nThe plot was not dull at all.\t1\n");
    }
}
