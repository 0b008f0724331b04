//! Training of a WordPiece vocabulary, the same for the same text on every machine (the trainer of the `tokenizers`
//! crate iterates a hash map, so that its ids change from run to run).
//!
//! As Hugging Face's WordPiece trainer does, pairs of neighbouring pieces are merged in the order of their number of
//! occurrences. Of equally frequent pairs the one whose pieces came into the vocabulary first is merged first.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, HashMap};

use tokenizers::normalizers::BertNormalizer;
use tokenizers::pre_tokenizers::bert::BertPreTokenizer;
use tokenizers::{NormalizedString, Normalizer, OffsetReferential, OffsetType, PreTokenizedString, PreTokenizer};

use super::{CANNOT_FAIL, CONTINUATION};
use crate::progress::Progress;

/// What vocabulary to train.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VocabularyConfig {
    /// Largest number of tokens; fewer come out if the text has no more frequent pairs.
    pub size: usize,
    /// Lower-case the text and strip its accents.
    pub lowercase: bool,
    /// Pairs that occur less often are not merged.
    pub min_frequency: u64,
    /// Largest number of different characters; words with rarer ones are left to `[UNK]`.
    pub max_alphabet: usize,
}

impl Default for VocabularyConfig {
    /// BERT's size; the other values are those of Hugging Face's `BertWordPieceTokenizer.train`.
    fn default() -> Self {
        VocabularyConfig { size: 30_522, lowercase: true, min_frequency: 2, max_alphabet: 1_000 }
    }
}

/// Why no vocabulary was trained.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum VocabularyError {
    /// There was nothing but white space.
    #[error("cannot train a vocabulary: the text has no words")]
    NoWords,
    /// The size leaves no room for words.
    #[error(
        "a vocabulary of {size} tokens is too small: 5 special tokens and {pieces} single-character pieces need {}",
        pieces + 5
    )]
    TooSmall {
        /// The size asked for.
        size: usize,
        /// Single-character pieces, initial and continuing.
        pieces: usize,
    },
    /// The caller asked to stop.
    #[error("vocabulary training was stopped")]
    Stopped,
}

/// The first tokens of every trained vocabulary, in this order, so that `[PAD]` is 0.
pub const SPECIAL_TOKENS: [&str; 5] = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"];

/// Trains a vocabulary on `lines`: [`WordCounts`], then [`WordCounts::train`].
///
/// # Errors
/// [`VocabularyError`] if the text is empty, the size too small for its alphabet, or `progress` asks to stop.
pub fn train_vocabulary<S: AsRef<str>>(
    lines: impl IntoIterator<Item = S>,
    config: &VocabularyConfig,
    progress: &dyn Progress,
) -> Result<Vec<String>, VocabularyError> {
    let mut counts = WordCounts::new(config.lowercase);
    for line in lines {
        counts.add(line.as_ref());
    }
    counts.train(config, progress)
}

/// How often each word occurs, words as BERT's normaliser and splitter see them. Memory grows with the number of
/// different words, not with the text.
#[derive(Debug)]
pub struct WordCounts {
    normalizer: BertNormalizer,
    /// Stretches between spaces, not yet normalised.
    raw: HashMap<Box<str>, u64>,
    words: BTreeMap<Box<str>, u64>,
}

/// Longer stretches without a space (Chinese, Thai) repeat too rarely to be worth counting whole.
const MAX_RAW_BYTES: usize = 64;

impl WordCounts {
    /// Counts of no text yet; `lowercase` as the tokenizer's will be.
    pub fn new(lowercase: bool) -> Self {
        let normalizer = BertNormalizer::new(true, true, None, lowercase);
        WordCounts { normalizer, raw: HashMap::new(), words: BTreeMap::new() }
    }

    /// Counts the words of `text`.
    pub fn add(&mut self, text: &str) {
        for stretch in text.split(' ').filter(|stretch| !stretch.is_empty()) {
            if stretch.len() > MAX_RAW_BYTES {
                self.add_words_of(stretch, 1);
            } else if let Some(count) = self.raw.get_mut(stretch) {
                *count += 1;
            } else {
                self.raw.insert(stretch.into(), 1);
            }
        }
    }

    fn add_words_of(&mut self, stretch: &str, count: u64) {
        let mut normalized = NormalizedString::from(stretch);
        self.normalizer.normalize(&mut normalized).expect(CANNOT_FAIL);
        let mut split = PreTokenizedString::from(normalized);
        BertPreTokenizer.pre_tokenize(&mut split).expect(CANNOT_FAIL);
        for (word, _, _) in split.get_splits(OffsetReferential::Normalized, OffsetType::Byte) {
            // Longer words are [UNK] whatever the vocabulary.
            if !word.is_empty() && word.chars().count() <= MAX_WORD_CHARACTERS {
                *self.words.entry(word.into()).or_default() += count;
            }
        }
    }

    /// Trains a vocabulary: the special tokens, the single characters by code point (first those that begin a word,
    /// then those that continue one), then merged pieces in the order of merging.
    ///
    /// # Errors
    /// See [`train_vocabulary`].
    pub fn train(mut self, config: &VocabularyConfig, progress: &dyn Progress) -> Result<Vec<String>, VocabularyError> {
        // The order in which the stretches come is arbitrary, their sum is not.
        for (stretch, count) in std::mem::take(&mut self.raw) {
            self.add_words_of(&stretch, count);
        }
        if self.words.is_empty() {
            return Err(VocabularyError::NoWords);
        }
        let mut pieces = Pieces::new(&self.words, config)?;
        progress.begin("training the vocabulary", Some(config.size as u64), "tokens");
        let result = pieces.merge_all(config, progress);
        progress.end();
        result.map(|()| pieces.tokens)
    }
}

/// WordPiece gives `[UNK]` for longer words (`max_input_chars_per_word`).
const MAX_WORD_CHARACTERS: usize = 100;

type Pair = (u32, u32);

/// The words in pieces, and all that is needed to merge the most frequent pair quickly.
struct Pieces {
    tokens: Vec<String>,
    ids: HashMap<String, u32>,
    words: Vec<Word>,
    pair_counts: HashMap<Pair, u64>,
    /// Words that hold the pair, or did once, in ascending order of first holding it.
    holders: HashMap<Pair, Vec<u32>>,
}

struct Word {
    pieces: Vec<u32>,
    count: u64,
}

impl Pieces {
    fn new(words: &BTreeMap<Box<str>, u64>, config: &VocabularyConfig) -> Result<Self, VocabularyError> {
        let alphabet = alphabet(words, config.max_alphabet);
        let spelled = |word: &str| word.chars().all(|character| alphabet.contains_key(&character));
        let kept: Vec<(&str, u64)> =
            words.iter().map(|(word, &count)| (&**word, count)).filter(|(word, _)| spelled(word)).collect();

        let mut initial = BTreeMap::new();
        let mut continuing = BTreeMap::new();
        for (word, _) in &kept {
            for (position, character) in word.chars().enumerate() {
                (if position == 0 { &mut initial } else { &mut continuing }).insert(character, ());
            }
        }
        let pieces = initial.len() + continuing.len();
        if config.size < pieces + SPECIAL_TOKENS.len() {
            return Err(VocabularyError::TooSmall { size: config.size, pieces });
        }
        let mut this = Pieces {
            tokens: SPECIAL_TOKENS.map(str::to_owned).into(),
            ids: HashMap::new(),
            words: Vec::with_capacity(kept.len()),
            pair_counts: HashMap::new(),
            holders: HashMap::new(),
        };
        this.ids.extend(SPECIAL_TOKENS.iter().map(|token| (*token).to_owned()).zip(0..));
        let initial: HashMap<char, u32> =
            initial.into_keys().map(|character| (character, this.id_of(character.to_string()))).collect();
        let continuing: HashMap<char, u32> = continuing
            .into_keys()
            .map(|character| (character, this.id_of(format!("{CONTINUATION}{character}"))))
            .collect();
        for (word, count) in kept {
            let pieces = word
                .chars()
                .enumerate()
                .filter_map(|(position, c)| if position == 0 { initial.get(&c) } else { continuing.get(&c) })
                .copied()
                .collect();
            this.words.push(Word { pieces, count });
        }
        Ok(this)
    }

    /// The id of the token, which is new if need be: two merges can spell the same.
    fn id_of(&mut self, token: String) -> u32 {
        let next = self.tokens.len() as u32;
        *self.ids.entry(token).or_insert_with_key(|token| {
            self.tokens.push(token.clone());
            next
        })
    }

    fn merge_all(&mut self, config: &VocabularyConfig, progress: &dyn Progress) -> Result<(), VocabularyError> {
        for (index, word) in (0u32..).zip(&self.words) {
            for pair in pairs(&word.pieces) {
                *self.pair_counts.entry(pair).or_default() += word.count;
                let holders = self.holders.entry(pair).or_default();
                if holders.last() != Some(&index) {
                    holders.push(index);
                }
            }
        }
        // Most frequent first, then lowest ids. An entry can be out of date: its true count is in `pair_counts`.
        let mut queue: BinaryHeap<(u64, Reverse<Pair>)> =
            self.pair_counts.iter().map(|(&pair, &count)| (count, Reverse(pair))).collect();
        progress.advance(self.tokens.len() as u64);
        while self.tokens.len() < config.size {
            if progress.stop_requested() {
                return Err(VocabularyError::Stopped);
            }
            let Some((count, Reverse(pair))) = queue.pop() else { break };
            let current = self.pair_counts.get(&pair).copied().unwrap_or(0);
            if current != count {
                if current > 0 {
                    queue.push((current, Reverse(pair)));
                }
                continue;
            }
            if count < config.min_frequency.max(1) {
                break;
            }
            let before = self.tokens.len();
            for pair in self.merge(pair) {
                queue.push((self.pair_counts.get(&pair).copied().unwrap_or(0), Reverse(pair)));
            }
            progress.advance((self.tokens.len() - before) as u64);
        }
        Ok(())
    }

    /// Merges the pair in every word and returns the pairs that became more frequent.
    fn merge(&mut self, pair: Pair) -> Vec<Pair> {
        let token = |id: u32| self.tokens.get(id as usize).map_or("", String::as_str);
        let right = token(pair.1);
        let joined = format!("{}{}", token(pair.0), right.strip_prefix(CONTINUATION).unwrap_or(right));
        let new = self.id_of(joined);
        let mut grown = Vec::new();
        for holder in self.holders.remove(&pair).unwrap_or_default() {
            let Some(word) = self.words.get_mut(holder as usize) else { continue };
            let merged = merged(&word.pieces, pair, new);
            if merged.len() == word.pieces.len() {
                continue; // an earlier merge took the pair apart
            }
            for old in pairs(&word.pieces) {
                if let Some(count) = self.pair_counts.get_mut(&old) {
                    *count -= word.count;
                }
            }
            for now in pairs(&merged) {
                *self.pair_counts.entry(now).or_default() += word.count;
                if now.0 == new || now.1 == new {
                    let holders = self.holders.entry(now).or_default();
                    if holders.last() != Some(&holder) {
                        holders.push(holder);
                    }
                    grown.push(now);
                }
            }
            word.pieces = merged;
        }
        self.pair_counts.remove(&pair);
        grown.sort_unstable();
        grown.dedup();
        grown
    }
}

/// The `limit` most frequent characters of the words; of equally frequent ones those with the lower code point.
fn alphabet(words: &BTreeMap<Box<str>, u64>, limit: usize) -> HashMap<char, u64> {
    let mut counts: BTreeMap<char, u64> = BTreeMap::new();
    for (word, &count) in words {
        for character in word.chars() {
            *counts.entry(character).or_default() += count;
        }
    }
    let mut by_count: Vec<(char, u64)> = counts.into_iter().collect();
    by_count.sort_by_key(|&(_, count)| Reverse(count)); // stable: code points stay in order
    by_count.truncate(limit);
    by_count.into_iter().collect()
}

fn pairs(pieces: &[u32]) -> impl Iterator<Item = Pair> + '_ {
    pieces.iter().copied().zip(pieces.iter().copied().skip(1))
}

/// `pieces` with each occurrence of `pair`, from the left, replaced by `new`.
fn merged(pieces: &[u32], pair: Pair, new: u32) -> Vec<u32> {
    let mut merged = Vec::with_capacity(pieces.len());
    let mut rest = pieces;
    while let Some((&first, tail)) = rest.split_first() {
        if first == pair.0 && tail.first() == Some(&pair.1) {
            merged.push(new);
            rest = &tail[1..]; // `tail` has a first element
        } else {
            merged.push(first);
            rest = tail;
        }
    }
    merged
}

#[cfg(test)]
mod tests {
    use super::*;

    fn train(text: &[&str], size: usize) -> Vec<String> {
        let config = VocabularyConfig { size, min_frequency: 1, ..VocabularyConfig::default() };
        train_vocabulary(text, &config, &()).expect("trainable")
    }

    #[test]
    fn merges_follow_frequency_and_ties_follow_the_order_of_pieces() {
        // hug 10, pug 5, pun 12, bun 4, hugs 5 (the textbook example of byte-pair encoding).
        let text = ["hug ".repeat(10), "pug ".repeat(5), "pun ".repeat(12), "bun ".repeat(4), "hugs ".repeat(5)];
        let text: Vec<&str> = text.iter().map(String::as_str).collect();
        let expected = [
            "[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", // special
            "b", "h", "p", "##g", "##n", "##s", "##u", // alphabet
            "##ug", "##un", "pun", "hug", // 20 x u+g, 16 x u+n, 12 x p+un before 15 x h+ug is decided by count:
        ];
        let trained = train(&text, 16);
        assert_eq!(trained[..14], expected[..14]);
        assert_eq!(trained[14..], ["hug", "pun"]); // 15 and 12
        // hugs 5 (hug ##s) and pug 5 (p ##ug) tie: `p` came first into the vocabulary.
        assert_eq!(train(&text, 18)[16..], ["pug", "hugs"]);
    }

    #[test]
    fn the_vocabulary_does_not_depend_on_the_order_of_the_text() {
        let lines = ["the cat sat on the mat", "a cat and a hat", "the rat ate the hat, the cat ate the rat"];
        let forward = train(&lines, 40);
        let backward: Vec<&str> = lines.into_iter().rev().collect();
        assert_eq!(forward, train(&backward, 40));
    }

    #[test]
    fn incremental_counts_give_the_merges_of_a_full_recount() {
        let mut rng = crate::random::Rng::from_key(&[11]);
        let text: String =
            (0..3000).map(|_| if rng.below(5) == 0 { ' ' } else { char::from(b'a' + rng.below(4) as u8) }).collect();
        let trained = train(&[&text], 120);
        assert_eq!(trained.len(), 120);
        assert_eq!(trained, train_by_recounting(&text, 120));
    }

    /// The definition: count all pairs of all words anew for each merge.
    fn train_by_recounting(text: &str, size: usize) -> Vec<String> {
        let mut words: Vec<Vec<String>> = text
            .split_whitespace()
            .map(|word| {
                let piece = |(i, c): (usize, char)| if i == 0 { c.to_string() } else { format!("##{c}") };
                word.chars().enumerate().map(piece).collect()
            })
            .collect();
        let mut tokens: Vec<String> = SPECIAL_TOKENS.map(str::to_owned).into();
        let mut alphabet: Vec<String> = words.iter().flatten().cloned().collect();
        alphabet.sort_by_key(|piece| (piece.starts_with("##"), piece.clone()));
        alphabet.dedup();
        tokens.extend(alphabet);
        while tokens.len() < size {
            let id = |piece: &String| tokens.iter().position(|token| token == piece).expect("known");
            let mut counts: BTreeMap<(usize, usize), i64> = BTreeMap::new();
            for word in &words {
                for pair in word.windows(2) {
                    *counts.entry((id(&pair[0]), id(&pair[1]))).or_default() += 1;
                }
            }
            let (&(left, right), _) =
                counts.iter().max_by_key(|&(&pair, &count)| (count, Reverse(pair))).expect("pairs");
            let (left, right) = (tokens[left].clone(), tokens[right].clone());
            let joined = format!("{left}{}", right.trim_start_matches("##"));
            for word in &mut words {
                let mut position = 0;
                while position + 1 < word.len() {
                    if word[position] == left && word[position + 1] == right {
                        word[position] = joined.clone();
                        word.remove(position + 1);
                    }
                    position += 1;
                }
            }
            if !tokens.contains(&joined) {
                tokens.push(joined);
            }
        }
        tokens
    }

    #[test]
    fn every_word_of_the_text_can_be_spelled() {
        let text = "Crème brûlée, naïve façade! 漢字 emoji 🙂🙃 x\u{301}y";
        let tokenizer = super::super::Tokenizer::from_vocabulary(train(&[text], 100), true).expect("complete");
        let encoding = tokenizer.encode(text, None, None);
        assert!(
            !encoding.input_ids.contains(&tokenizer.special().unk),
            "{}",
            tokenizer.decode(&encoding.input_ids, false)
        );
    }

    #[test]
    fn words_with_characters_beyond_the_alphabet_are_left_out() {
        let config = VocabularyConfig { size: 50, min_frequency: 1, max_alphabet: 2, ..VocabularyConfig::default() };
        let trained = train_vocabulary(["aba aba abz"], &config, &()).expect("trainable");
        assert_eq!(trained[5..], ["a", "##a", "##b", "ab", "aba"].map(str::to_owned));
    }

    #[test]
    fn impossible_requests_are_named_errors() {
        let config = VocabularyConfig { size: 8, ..VocabularyConfig::default() };
        assert_eq!(train_vocabulary(["  ", "\t"], &config, &()), Err(VocabularyError::NoWords));
        let error = train_vocabulary(["abcdef"], &config, &()).expect_err("too small");
        assert_eq!(error, VocabularyError::TooSmall { size: 8, pieces: 6 });
        assert!(error.to_string().ends_with("need 11"), "{error}");
    }
}
