//! What a task asks for: problem, labels, metrics, and the training defaults known to give the published level.

use serde::{Deserialize, Serialize};

use super::columns::Columns;
use super::error::DataError;
use super::glue;
use crate::data::tagging::WordColumns;

/// A labelled task. Stored with a fine-tuned model, so that evaluation reads other files the same way.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Task {
    /// Short name, for example `sst2`.
    pub name: String,
    /// One text or two.
    pub kind: TaskKind,
    /// What is predicted.
    pub problem: Problem,
    /// Label names in the order of their ids (Hugging Face's order for GLUE); empty for regression.
    pub labels: Vec<String>,
    /// The task's official metrics; the first is the one that a single score means.
    pub metrics: Vec<Metric>,
    /// Training settings that give the published level.
    pub defaults: Defaults,
    /// How the files are laid out.
    pub layout: Layout,
}

/// One text or a pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TaskKind {
    /// One text.
    Single,
    /// Two texts, in order.
    Pair,
}

/// What is predicted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Problem {
    /// Exactly one of the labels.
    Classification,
    /// Any number of the labels.
    MultiLabel,
    /// A number.
    Regression,
    /// Named spans of words, said by BIO tags.
    Entities,
    /// Exactly one of the labels for each word.
    Tags,
}

/// A metric by name; [`crate::evaluate::metrics`] defines each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Metric {
    /// Share of examples predicted right.
    Accuracy,
    /// F1 of class 1 (binary); of answers to questions, the mean overlap in words with the best gold answer.
    F1,
    /// Unweighted mean of the classes' F1.
    MacroF1,
    /// F1 of the pooled decisions.
    MicroF1,
    /// Matthews correlation; for more than two classes its generalisation R_k.
    Matthews,
    /// Pearson correlation.
    Pearson,
    /// Spearman rank correlation.
    Spearman,
    /// Share of examples whose whole label set is right.
    SubsetAccuracy,
    /// F1 of named spans, right if type, start and end are.
    EntityF1,
    /// Share of the predicted spans that are right.
    EntityPrecision,
    /// Share of the true spans that are found.
    EntityRecall,
    /// Share of words with the right tag.
    TokenAccuracy,
    /// Share of questions whose answer equals a gold answer.
    ExactMatch,
}

impl TaskKind {
    /// Whether a model that was trained on this kind can be given one text, or a pair.
    ///
    /// # Errors
    /// [`DataError::OtherKind`] if it was trained on the other: it would answer without half of what it needs.
    pub fn check(self, is_pair: bool) -> Result<(), DataError> {
        match (self, is_pair) {
            (TaskKind::Pair, true) | (TaskKind::Single, false) => Ok(()),
            (trained_on, _) => Err(DataError::OtherKind { trained_on }),
        }
    }
}

impl Problem {
    /// Whether every word has an answer of its own, rather than the whole text.
    pub fn is_of_words(self) -> bool {
        matches!(self, Problem::Entities | Problem::Tags)
    }
}

impl Metric {
    /// Every metric.
    pub const ALL: [Metric; 13] = [
        Metric::Accuracy,
        Metric::F1,
        Metric::MacroF1,
        Metric::MicroF1,
        Metric::Matthews,
        Metric::Pearson,
        Metric::Spearman,
        Metric::SubsetAccuracy,
        Metric::EntityF1,
        Metric::EntityPrecision,
        Metric::EntityRecall,
        Metric::TokenAccuracy,
        Metric::ExactMatch,
    ];

    /// The key under which results name it.
    pub fn name(self) -> &'static str {
        match self {
            Metric::Accuracy => "accuracy",
            Metric::F1 => "f1",
            Metric::MacroF1 => "macro_f1",
            Metric::MicroF1 => "micro_f1",
            Metric::Matthews => "matthews",
            Metric::Pearson => "pearson",
            Metric::Spearman => "spearman",
            Metric::SubsetAccuracy => "subset_accuracy",
            Metric::EntityF1 => "entity_f1",
            Metric::EntityPrecision => "entity_precision",
            Metric::EntityRecall => "entity_recall",
            Metric::TokenAccuracy => "token_accuracy",
            Metric::ExactMatch => "exact_match",
        }
    }
}

/// Training settings of a task.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Defaults {
    /// Longest input in tokens, special tokens included.
    pub max_len: usize,
    /// Examples a step.
    pub batch: usize,
    /// Peak learning rate.
    pub learning_rate: f64,
    /// Passes over the training examples.
    pub epochs: usize,
}

impl Default for Defaults {
    /// The reference GLUE run (`run_glue`), with the larger rate that small encoders take better than BERT's 2e-5.
    fn default() -> Self {
        Defaults { max_len: 128, batch: 32, learning_rate: 5e-5, epochs: 3 }
    }
}

/// How a task's files are laid out.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Layout {
    /// The official GLUE files of the task of this name.
    Glue,
    /// Named columns of a CSV, TSV or JSONL file.
    Columns(Columns),
    /// Words with a tag each: CoNLL files, CoNLL-U, or lists in JSONL.
    Words(WordColumns),
}

impl Task {
    /// The GLUE task of this name; `sst2`, `SST-2`, `sst_2` are the same.
    ///
    /// # Errors
    /// [`DataError::UnknownTask`], which lists the names there are.
    pub fn glue(name: &str) -> Result<Task, DataError> {
        let layout = glue::layout(name)?;
        let problem = if layout.labels.is_empty() { Problem::Regression } else { Problem::Classification };
        // The reference run trains the two smallest-gain tasks longer.
        let epochs = if matches!(layout.name, "mrpc" | "wnli") { 5 } else { 3 };
        Ok(Task {
            name: layout.name.to_owned(),
            kind: if layout.text_b.is_some() { TaskKind::Pair } else { TaskKind::Single },
            problem,
            labels: layout.labels.iter().map(|&label| label.to_owned()).collect(),
            metrics: layout.metrics.to_vec(),
            defaults: Defaults { epochs, ..Defaults::default() },
            layout: Layout::Glue,
        })
    }

    /// The GLUE tasks' names.
    pub fn glue_names() -> Vec<&'static str> {
        glue::LAYOUTS.iter().map(|layout| layout.name).collect()
    }

    /// The metrics of a task that names none: for two classes accuracy, F1 of class 1 and Matthews; for more, accuracy,
    /// macro F1 and Matthews; for multi-label micro F1, macro F1 and subset accuracy; for regression both correlations;
    /// for entities those of spans and the words' accuracy, for other tags the latter.
    pub fn usual_metrics(problem: Problem, labels: usize) -> Vec<Metric> {
        match (problem, labels) {
            (Problem::Classification, 2) => vec![Metric::Accuracy, Metric::F1, Metric::Matthews],
            (Problem::Classification, _) => vec![Metric::Accuracy, Metric::MacroF1, Metric::Matthews],
            (Problem::MultiLabel, _) => vec![Metric::MicroF1, Metric::MacroF1, Metric::SubsetAccuracy],
            (Problem::Regression, _) => vec![Metric::Pearson, Metric::Spearman],
            (Problem::Entities, _) => {
                vec![Metric::EntityF1, Metric::EntityPrecision, Metric::EntityRecall, Metric::TokenAccuracy]
            }
            (Problem::Tags, _) => vec![Metric::TokenAccuracy],
        }
    }

    /// Width of the model's output: the number of labels, 1 for regression.
    pub fn outputs(&self) -> usize {
        if self.problem == Problem::Regression { 1 } else { self.labels.len() }
    }
}
