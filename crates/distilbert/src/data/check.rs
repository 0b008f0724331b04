//! What is odd about labelled files before anything is trained on them: labels, duplicates, texts that stand on both
//! sides of a split, contradictions, lengths, words that the vocabulary cannot spell, broken rows.
//!
//! Rows come one at a time. What is kept of one is two hashes, its line and its label: about a hundred bytes.

mod findings; // what it comes to

pub use findings::{Bucket, Cases, FileCheck, Leak, Pair, Rows, SLOT_PREFIX, Scores, SharedContexts, Tokens};

use super::examples::{DataError, ScannedRow};
use super::intents::Utterance;
use super::questions::{Question, QuestionSet};
use super::tagging::Sentence;
use super::tagging::entities::entities_of;
use crate::tokenizer::{Encoding, Tokenizer};
use std::collections::{BTreeMap, HashMap};
use std::hash::{DefaultHasher, Hash, Hasher};

/// Cases that are listed of each kind; all are counted.
const LISTED: usize = 5;

/// Broken rows that are listed.
const BROKEN_LISTED: usize = 20;

/// Rows that are tokenised at a time.
const ROWS_AT_A_TIME: usize = 1024;

/// Upper ends of the buckets of the length histogram, in tokens.
const LENGTHS: [usize; 8] = [8, 16, 32, 64, 128, 256, 512, usize::MAX];

/// Looks at one file after another; those after the first are compared with all before.
pub struct DataCheck<'a> {
    /// Counts tokens; without it lengths and unknown words stay unknown.
    tokenizer: Option<&'a Tokenizer>,
    max_length: usize,
    threads: usize,
    /// Names of the files so far.
    files: Vec<String>,
    /// The first file that has each context of questions, by hash.
    contexts: HashMap<u64, u32>,
    /// Where each text was seen first in each file: by hash of the text as it is, and without case and punctuation.
    exact: HashMap<u64, Vec<Seen>>,
    normalised: HashMap<u64, Vec<Seen>>,
    /// Labels by number.
    labels: Vec<String>,
    numbers: HashMap<String, u32>,
    /// Labels of the first file.
    first_labels: usize,
}

#[derive(Clone, Copy)]
struct Seen {
    file: u32,
    line: u32,
    label: Option<u32>,
}

impl<'a> DataCheck<'a> {
    /// A check that counts tokens with `tokenizer`, if there is one, on `threads` threads; inputs longer than
    /// `max_length` tokens count as cut.
    pub fn new(tokenizer: Option<&'a Tokenizer>, max_length: usize, threads: usize) -> Self {
        DataCheck {
            tokenizer,
            max_length,
            threads,
            files: Vec::new(),
            contexts: HashMap::new(),
            exact: HashMap::new(),
            normalised: HashMap::new(),
            labels: Vec::new(),
            numbers: HashMap::new(),
            first_labels: 0,
        }
    }

    /// Begins a file. Its rows go to [`Checking::row`], and [`Checking::finish`] says what was found.
    pub fn begin(&mut self, file: &str, kind: Rows) -> Checking<'_, 'a> {
        self.files.push(file.to_owned());
        let found = FileCheck { file: file.to_owned(), kind, ..FileCheck::default() };
        let leaks = vec![(Cases::default(), Cases::default()); self.files.len() - 1];
        let lengths = Lengths::default();
        Checking { check: self, found, leaks, counts: Vec::new(), score_sum: 0.0, waiting: Vec::new(), lengths }
    }

    fn number(&mut self, label: &str) -> u32 {
        if let Some(&number) = self.numbers.get(label) {
            return number;
        }
        let number = self.labels.len() as u32;
        self.labels.push(label.to_owned());
        self.numbers.insert(label.to_owned(), number);
        number
    }
}

/// One file while it is looked at.
pub struct Checking<'c, 'a> {
    check: &'c mut DataCheck<'a>,
    found: FileCheck,
    /// For each earlier file, exact and near.
    leaks: Vec<(Cases<Pair>, Cases<Pair>)>,
    /// Rows of each label, by number.
    counts: Vec<usize>,
    score_sum: f64,
    /// Texts whose tokens are not counted yet.
    waiting: Vec<(String, Option<String>)>,
    lengths: Lengths,
}

impl Checking<'_, '_> {
    /// Looks at a row, or notes that it is broken.
    pub fn row(&mut self, row: Result<ScannedRow, DataError>) {
        let Some(row) = self.sound(row) else { return };
        let label = self.label(&row);
        self.compare(row.line, row.text_a, row.text_b, label);
    }

    /// Looks at a sentence of entities or tags, or notes that it is broken.
    pub fn sentence(&mut self, sentence: Result<Sentence, DataError>) {
        let Some(sentence) = self.sound(sentence) else { return };
        if self.found.kind == Rows::Tags {
            sentence.tags.iter().for_each(|tag| self.count(tag));
        } else {
            entities_of(&sentence.tags).iter().for_each(|entity| self.count(&entity.kind));
        }
        self.compare(sentence.line, sentence.words.join(" "), None, Some(hash(&sentence.tags) as u32));
    }

    /// Looks at an utterance.
    pub fn utterance(&mut self, utterance: &Utterance) {
        let Utterance { sentence, intent } = utterance;
        self.count(intent);
        entities_of(&sentence.tags).iter().for_each(|slot| self.count(&format!("{SLOT_PREFIX}{}", slot.kind)));
        self.compare(sentence.line, sentence.words.join(" "), None, Some(hash(&(intent, &sentence.tags)) as u32));
    }

    /// Looks at all questions of a file.
    pub fn questions(&mut self, set: &QuestionSet, mut goes_on: impl FnMut() -> bool) {
        for misplaced in &set.misplaced {
            self.found.misplaced.add(|| misplaced.reason.clone(), LISTED);
        }
        let file = (self.check.files.len() - 1) as u32;
        let mut shared: BTreeMap<u32, usize> = BTreeMap::new();
        for context in &set.contexts {
            let first = *self.check.contexts.entry(hash(context)).or_insert(file);
            if first != file {
                *shared.entry(first).or_default() += 1;
            }
        }
        let named =
            |(from, count): (u32, usize)| SharedContexts { from: self.check.files[from as usize].clone(), count };
        self.found.shared_contexts = shared.into_iter().map(named).collect();
        for (index, Question { text, context, answers, .. }) in set.questions.iter().enumerate() {
            let label = match answers {
                None => {
                    self.found.unlabelled += 1;
                    None
                }
                Some(answers) => {
                    self.count(if answers.is_empty() { "no answer" } else { "answered" });
                    let mut texts: Vec<&str> = answers.iter().map(|answer| answer.text.as_str()).collect();
                    texts.sort_unstable();
                    Some(hash(&texts) as u32)
                }
            };
            self.compare(index + 1, text.clone(), Some(set.contexts[*context].clone()), label);
            if !goes_on() {
                break;
            }
        }
    }

    /// Notes that a row is broken, or that the file is from here on.
    pub fn broken(&mut self, error: &DataError) {
        self.found.broken.add(|| error.to_string(), BROKEN_LISTED);
    }

    fn sound<T>(&mut self, row: Result<T, DataError>) -> Option<T> {
        row.map_err(|error| self.broken(&error)).ok()
    }

    /// Compares a row with those before; rows with other labels say something else.
    fn compare(&mut self, line: usize, text_a: String, text_b: Option<String>, label: Option<u32>) {
        self.found.rows += 1;
        let texts = [Some(&text_a), text_b.as_ref()];
        if texts.into_iter().flatten().any(|text| text.trim().is_empty()) {
            self.found.empty.add(|| line, LISTED);
        }
        let exact = hash(&texts);
        let near = hash(&texts.map(|text| text.map(|text| normalised(text))));
        let seen = Seen { file: (self.check.files.len() - 1) as u32, line: line as u32, label };
        let like = |earlier: Seen| Pair { line, like: earlier.line as usize };
        for earlier in see(&mut self.check.exact, exact, seen) {
            match self.leaks.get_mut(earlier.file as usize) {
                Some((leaks, _)) => leaks.add(|| like(earlier), LISTED),
                None => self.found.duplicates.add(|| like(earlier), LISTED),
            }
        }
        for earlier in see(&mut self.check.normalised, near, seen) {
            if let Some((_, leaks)) = self.leaks.get_mut(earlier.file as usize) {
                leaks.add(|| like(earlier), LISTED);
                continue;
            }
            self.found.near_duplicates.add(|| like(earlier), LISTED);
            if earlier.label != label {
                self.found.conflicts.add(|| like(earlier), LISTED);
            }
        }
        if self.check.tokenizer.is_some() {
            self.waiting.push((text_a, text_b));
            if self.waiting.len() == ROWS_AT_A_TIME {
                self.count_tokens();
            }
        }
    }

    fn count(&mut self, label: &str) {
        let number = self.check.number(label) as usize;
        if self.counts.len() <= number {
            self.counts.resize(number + 1, 0);
        }
        self.counts[number] += 1;
    }

    /// The number of the row's label, or of its whole set of labels, counting each.
    fn label(&mut self, row: &ScannedRow) -> Option<u32> {
        let Some(labels) = &row.labels else {
            self.found.unlabelled += 1;
            return None;
        };
        let number = labels.first().and_then(|label| label.trim().parse::<f64>().ok());
        if let (Rows::Scores, Some(score)) = (self.found.kind, number) {
            self.score_sum += score;
            let scores = self.found.scores.get_or_insert(Scores { min: score, mean: score, max: score });
            (scores.min, scores.max) = (scores.min.min(score), scores.max.max(score));
            // Equal numbers are equal labels, however they are written; the low bits tell them apart well enough.
            return Some(hash(&score.to_bits()) as u32);
        }
        labels.iter().for_each(|label| self.count(label));
        match &labels[..] {
            [only] => Some(self.check.number(only)),
            set => {
                let mut set = set.to_vec();
                set.sort_unstable();
                Some(hash(&set) as u32)
            }
        }
    }

    fn count_tokens(&mut self) {
        let Some(tokenizer) = self.check.tokenizer else { return };
        let texts: Vec<_> = self.waiting.iter().map(|(text, pair)| (text.as_str(), pair.as_deref())).collect();
        for encoding in tokenizer.encode_batch(&texts, None, self.check.threads) {
            self.lengths.add(&encoding, tokenizer.special().unk, self.check.max_length);
        }
        self.waiting.clear();
    }

    /// What was found; `skipped` lines were no rows.
    pub fn finish(mut self, skipped: usize) -> FileCheck {
        self.count_tokens();
        let Checking { check, mut found, leaks, counts, score_sum, lengths, .. } = self;
        found.skipped = skipped;
        if let Some(scores) = &mut found.scores {
            scores.mean = score_sum / (found.rows - found.unlabelled).max(1) as f64;
        }
        let named = check.labels.iter().zip(counts).filter(|&(_, count)| count > 0);
        found.labels = named.map(|(label, count)| (label.clone(), count)).collect();
        if check.files.len() == 1 {
            check.first_labels = check.labels.len();
        } else {
            let new = check.labels.iter().skip(check.first_labels);
            found.new_labels = new.filter(|label| found.labels.contains_key(*label)).cloned().collect();
        }
        found.alike_labels = alike(&check.labels);
        found.alike_labels.retain(|labels| labels.iter().any(|label| found.labels.contains_key(label)));
        let leaked = check.files.iter().zip(leaks).filter(|(_, (_, near))| near.count > 0);
        found.leaks = leaked.map(|(from, (exact, near))| Leak { from: from.clone(), exact, near }).collect();
        found.tokens = check.tokenizer.is_some().then(|| lengths.finish(check.max_length));
        found
    }
}

/// Labels that are one but for case and the space around them, in groups.
fn alike(labels: &[String]) -> Vec<Vec<String>> {
    let mut groups: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for label in labels {
        groups.entry(label.trim().to_lowercase()).or_default().push(label.clone());
    }
    groups.into_values().filter(|group| group.len() > 1).collect()
}

/// Notes where a text was seen; the result is where it was seen before: once in each file at most.
fn see(all: &mut HashMap<u64, Vec<Seen>>, key: u64, seen: Seen) -> Vec<Seen> {
    let places = all.entry(key).or_default();
    let earlier = places.clone();
    if places.last().is_none_or(|last| last.file != seen.file) {
        places.push(seen);
    }
    earlier
}

fn hash(value: &impl Hash) -> u64 {
    // Its keys are fixed: the same on every run.
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

/// Letters and digits in lower case, words separated by one space; of a text without any, such as `:-)`, all that it has.
fn normalised(text: &str) -> String {
    let words = text.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty());
    let words = words.map(str::to_lowercase).collect::<Vec<_>>().join(" ");
    if words.is_empty() { text.trim().to_owned() } else { words }
}

/// Counts of tokens.
#[derive(Default)]
struct Lengths {
    /// Inputs of each length.
    rows: BTreeMap<usize, usize>,
    text_tokens: usize,
    unknown: usize,
    rows_with_unknown: usize,
    cut_tokens: usize,
}

impl Lengths {
    fn add(&mut self, encoding: &Encoding, unknown: u32, max_length: usize) {
        *self.rows.entry(encoding.len()).or_default() += 1;
        self.cut_tokens += encoding.len().saturating_sub(max_length);
        let of_texts = encoding.input_ids.iter().zip(&encoding.sequence_ids).filter(|(_, text)| text.is_some());
        self.text_tokens += of_texts.clone().count();
        let unknown = of_texts.filter(|&(&id, _)| id == unknown).count();
        self.unknown += unknown;
        self.rows_with_unknown += usize::from(unknown > 0);
    }

    fn finish(&self, max_length: usize) -> Tokens {
        let rows: usize = self.rows.values().sum();
        // The least length that this share of the inputs does not exceed.
        let percentile = |percent: usize| {
            let mut left = (rows * percent).div_ceil(100);
            let reached = self.rows.iter().find(|&(_, &count)| {
                left = left.saturating_sub(count);
                left == 0
            });
            reached.map_or(0, |(&length, _)| length)
        };
        let between = |low: usize, high: usize| self.rows.range(low..=high).map(|(_, count)| count).sum();
        let mut histogram = Vec::new();
        let mut low = 0;
        for most in LENGTHS {
            histogram.push(Bucket { most: (most != usize::MAX).then_some(most), rows: between(low, most) });
            low = most.saturating_add(1);
        }
        Tokens {
            p50: percentile(50),
            p90: percentile(90),
            p99: percentile(99),
            max: self.rows.last_key_value().map_or(0, |(&length, _)| length),
            histogram,
            max_length,
            cut: self.rows.range(max_length + 1..).map(|(_, count)| count).sum(),
            cut_tokens: self.cut_tokens,
            unknown_share: self.unknown as f64 / self.text_tokens.max(1) as f64,
            rows_with_unknown: self.rows_with_unknown,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(line: usize, text: &str, label: &str) -> Result<ScannedRow, DataError> {
        let labels = Some(vec![label.to_owned()]);
        Ok(ScannedRow { text_a: text.to_owned(), text_b: None, labels, line })
    }

    fn checked(check: &mut DataCheck<'_>, file: &str, rows: Vec<Result<ScannedRow, DataError>>) -> FileCheck {
        let mut checking = check.begin(file, Rows::Texts);
        rows.into_iter().for_each(|row| checking.row(row));
        checking.finish(0)
    }

    #[test]
    fn labels_that_differ_in_case_or_space_alone_stand_together() {
        let mut check = DataCheck::new(None, 128, 1);
        let rows = |labels: &[&str]| labels.iter().map(|label| row(1, label, label)).collect();
        let train = checked(&mut check, "train", rows(&["tech", " tech", "art", "Tech\t", "law"]));
        assert_eq!(train.alike_labels, [["tech", " tech", "Tech\t"]]);
        let dev = checked(&mut check, "dev", rows(&["law", "Art"]));
        assert_eq!(dev.alike_labels, [["art", "Art"]]);
    }

    #[test]
    fn duplicates_conflicts_and_leaks_are_told_apart() {
        let mut check = DataCheck::new(None, 128, 1);
        let train = vec![
            row(2, "Good film.", "p"),
            row(3, "bad", "n"),
            row(4, "Good film.", "p"),
            row(5, "good  film", "n"),
            row(6, " ", "n"),
        ];
        let train = checked(&mut check, "train", train);
        assert_eq!(train.duplicates, Cases { count: 1, first: vec![Pair { line: 4, like: 2 }] });
        let near = vec![Pair { line: 4, like: 2 }, Pair { line: 5, like: 2 }];
        assert_eq!(train.near_duplicates, Cases { count: 2, first: near });
        assert_eq!(train.conflicts, Cases { count: 1, first: vec![Pair { line: 5, like: 2 }] });
        assert_eq!(train.empty, Cases { count: 1, first: vec![6] });
        assert_eq!(train.labels, BTreeMap::from([("n".to_owned(), 3), ("p".to_owned(), 2)]));
        assert_eq!((train.leaks.len(), train.problems().len()), (0, 0));

        let dev = vec![row(1, "BAD!", "n"), row(2, "bad", "n"), row(3, "new", "x")];
        let dev = checked(&mut check, "dev", dev);
        let exact = Cases { count: 1, first: vec![Pair { line: 2, like: 3 }] };
        let near = Cases { count: 2, first: vec![Pair { line: 1, like: 3 }, Pair { line: 2, like: 3 }] };
        assert_eq!(dev.leaks, [Leak { from: "train".to_owned(), exact, near }]);
        assert_eq!(dev.near_duplicates, Cases { count: 1, first: vec![Pair { line: 2, like: 1 }] });
        assert_eq!((dev.duplicates.count, &dev.new_labels[..]), (0, &["x".to_owned()][..]));
        assert_eq!(dev.problems(), ["dev: labels that the first file lacks: x", "dev: 2 rows stand in train too"]);
    }

    #[test]
    fn texts_without_letters_are_told_apart() {
        let mut check = DataCheck::new(None, 128, 1);
        let rows =
            vec![row(1, ":-)", "p"), row(2, ":-(", "n"), row(3, " :-) ", "p"), row(4, "", "n"), row(5, " ", "n")];
        let found = checked(&mut check, "f", rows);
        let near = vec![Pair { line: 3, like: 1 }, Pair { line: 5, like: 4 }];
        assert_eq!((found.near_duplicates, found.conflicts.count), (Cases { count: 2, first: near }, 0));
    }

    #[test]
    fn sets_of_labels_are_equal_in_any_order_and_pairs_count_both_texts() {
        let labels = |names: &[&str]| Some(names.iter().map(|&name| name.to_owned()).collect());
        let pair = |line, text_b: &str, labels| {
            Ok(ScannedRow { text_a: "a".to_owned(), text_b: Some(text_b.to_owned()), labels, line })
        };
        let mut check = DataCheck::new(None, 128, 1);
        let rows =
            vec![pair(1, "b", labels(&["x", "y"])), pair(2, "b", labels(&["y", "x"])), pair(3, "c", labels(&[]))];
        let found = checked(&mut check, "f", rows);
        assert_eq!((found.duplicates.count, found.conflicts.count), (1, 0));
        assert_eq!(found.labels, BTreeMap::from([("x".to_owned(), 2), ("y".to_owned(), 2)]));
    }

    #[test]
    fn lengths_are_those_before_the_cut() {
        let tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "b"].map(str::to_owned).to_vec();
        let tokenizer = Tokenizer::from_vocabulary(tokens, true).unwrap();
        let mut check = DataCheck::new(Some(&tokenizer), 8, 2);
        let mut rows: Vec<_> = (0..98).map(|line| row(line, &format!("a {}", "b ".repeat(line % 2)), "x")).collect();
        rows.push(row(98, &"a ".repeat(10), "x"));
        rows.push(row(99, "a zzz", "x"));
        let tokens = checked(&mut check, "f", rows).tokens.unwrap();
        assert_eq!((tokens.p50, tokens.p90, tokens.p99, tokens.max), (4, 4, 4, 12));
        assert_eq!((tokens.cut, tokens.cut_tokens, tokens.rows_with_unknown), (1, 4, 1));
        assert_eq!(tokens.histogram[..2], [Bucket { most: Some(8), rows: 99 }, Bucket { most: Some(16), rows: 1 }]);
        assert_eq!(tokens.unknown_share, 1.0 / (49.0 + 98.0 + 10.0 + 2.0));
    }

    #[test]
    fn equal_numbers_are_equal_labels() {
        let mut check = DataCheck::new(None, 8, 1);
        let mut checking = check.begin("f", Rows::Scores);
        for (line, label) in [(1, "0.5"), (2, "0.50"), (3, "2")] {
            checking.row(row(line, "same", label));
        }
        let found = checking.finish(3);
        assert_eq!((found.near_duplicates.count, found.conflicts.count, found.skipped), (2, 1, 3));
        assert_eq!(found.scores, Some(Scores { min: 0.5, mean: 1.0, max: 2.0 }));
        assert!(found.labels.is_empty());
    }
}
