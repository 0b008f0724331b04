//! What was found in a labelled file.

use serde::Serialize;
use std::collections::BTreeMap;

/// In front of a slot's name among the labels of utterances.
pub const SLOT_PREFIX: &str = "slot ";

/// What the rows of a file are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Rows {
    /// Texts or pairs with labels.
    #[default]
    Texts,
    /// Texts or pairs with a number.
    Scores,
    /// Sentences with named spans.
    Entities,
    /// Sentences with a tag for each word.
    Tags,
    /// Sentences with an intent and slots.
    Intents,
    /// Questions about a context.
    Questions,
}

impl Rows {
    /// Whether inputs that are too long are read in windows; others are cut.
    pub fn in_windows(self) -> bool {
        !matches!(self, Rows::Texts | Rows::Scores)
    }
}

/// What was found in one file.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct FileCheck {
    /// The file.
    pub file: String,
    /// What its rows are.
    pub kind: Rows,
    /// Rows that can be read.
    pub rows: usize,
    /// Rows that cannot, which training would refuse.
    pub broken: Cases<String>,
    /// Gold answers that do not stand where the file says.
    pub misplaced: Cases<String>,
    /// Lines that are no rows: blank ones, and those that the official readers drop.
    pub skipped: usize,
    /// How often each label stands in the file, in the order of the labels; for regression see `scores`. Of entities
    /// spans are counted, of tags words, of utterances their intents and, behind [`SLOT_PREFIX`], the spans of slots.
    pub labels: BTreeMap<String, usize>,
    /// Rows without a label.
    pub unlabelled: usize,
    /// Labels of this file that the first one does not have.
    pub new_labels: Vec<String>,
    /// Labels of this file with those of it and the files before that differ from them only in case or in the space around.
    pub alike_labels: Vec<Vec<String>>,
    /// Least, mean and greatest label of a regression file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scores: Option<Scores>,
    /// Lines of rows with a text of white space only.
    pub empty: Cases<usize>,
    /// Rows whose texts stand in the file before, letter by letter.
    pub duplicates: Cases<Pair>,
    /// As `duplicates`, without regard to case, punctuation and spacing; those are among these.
    pub near_duplicates: Cases<Pair>,
    /// Of `near_duplicates`, rows with another label than the first.
    pub conflicts: Cases<Pair>,
    /// Rows whose texts stand in a file before this one, for each of these.
    pub leaks: Vec<Leak>,
    /// Contexts of questions that stand in an earlier file, under whichever questions.
    pub shared_contexts: Vec<SharedContexts>,
    /// Lengths, if a tokenizer was given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tokens: Option<Tokens>,
}

/// How many, and the first few.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Cases<T> {
    /// All of them.
    pub count: usize,
    /// The first few.
    pub first: Vec<T>,
}

/// A row and the one that it is like. Questions are named by their number in the file, since their JSON has no lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Pair {
    /// Line of the row.
    pub line: usize,
    /// Line of the earlier one, in this file or the one named.
    pub like: usize,
}

/// Rows that stand in an earlier file too.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Leak {
    /// The earlier file.
    pub from: String,
    /// Letter by letter.
    pub exact: Cases<Pair>,
    /// Without regard to case, punctuation and spacing; the exact ones are among these.
    pub near: Cases<Pair>,
}

/// Contexts that stand in an earlier file too.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SharedContexts {
    /// The earlier file.
    pub from: String,
    /// How many.
    pub count: usize,
}

/// Labels that are numbers.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Scores {
    /// Least.
    pub min: f64,
    /// Mean.
    pub mean: f64,
    /// Greatest.
    pub max: f64,
}

/// Lengths of inputs in tokens, special tokens included, before anything is cut.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Tokens {
    /// Half of the inputs are no longer than this.
    pub p50: usize,
    /// Nine in ten are no longer.
    pub p90: usize,
    /// Ninety-nine in a hundred are no longer.
    pub p99: usize,
    /// Longest.
    pub max: usize,
    /// Inputs by length: `most` tokens and more than those of the bucket before.
    pub histogram: Vec<Bucket>,
    /// Longest input that training would take.
    pub max_length: usize,
    /// Inputs that are longer: cut, or read in windows if the task does that.
    pub cut: usize,
    /// Tokens past that length.
    pub cut_tokens: usize,
    /// Share of the texts' tokens that stand for a word that the vocabulary cannot spell.
    pub unknown_share: f64,
    /// Inputs with such a token.
    pub rows_with_unknown: usize,
}

/// Part of the histogram.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Bucket {
    /// Greatest length; `None` of the last bucket.
    pub most: Option<usize>,
    /// Inputs.
    pub rows: usize,
}

impl<T> Default for Cases<T> {
    fn default() -> Self {
        Cases { count: 0, first: Vec::new() }
    }
}

impl<T> Cases<T> {
    /// Counts a case, and lists it if it is among the first.
    pub(super) fn add(&mut self, case: impl FnOnce() -> T, listed: usize) {
        self.count += 1;
        if self.first.len() < listed {
            self.first.push(case());
        }
    }
}

impl FileCheck {
    /// What must be put right: rows and labels that training refuses, and texts on both sides of a split, which make
    /// scores worthless. One line each.
    pub fn problems(&self) -> Vec<String> {
        let FileCheck { file, broken, new_labels, leaks, .. } = self;
        let mut problems = Vec::new();
        if self.rows == 0 {
            problems.push(format!("{file}: expected at least one row, found none"));
        }
        if broken.count > 0 {
            problems.push(format!("{file}: {} broken rows", broken.count));
        }
        if !new_labels.is_empty() {
            problems.push(format!("{file}: labels that the first file lacks: {}", new_labels.join(", ")));
        }
        if self.misplaced.count > 0 {
            let count = self.misplaced.count;
            problems.push(format!("{file}: {count} answers do not stand where the file says"));
        }
        for SharedContexts { from, count } in &self.shared_contexts {
            problems.push(format!("{file}: {count} contexts stand in {from} too"));
        }
        for Leak { from, near, .. } in leaks {
            problems.push(format!("{file}: {} rows stand in {from} too", near.count));
        }
        problems
    }
}
