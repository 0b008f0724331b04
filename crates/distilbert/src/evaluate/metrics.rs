//! The official metrics. Every one is a number for every input: where the formula divides by zero, the value is 0.
//!
//! All are computed from weighted examples (how often an example counts), which is what a bootstrap resample is.

mod classes;
mod correlation;
mod words;

pub use words::{TypeScores, entity_scores_by_type, tag_scores_by_type};

use super::answers::AnswerScore;
use super::predictions::Prediction;
use crate::data::examples::{Label, Metric};
use classes::{Absent, ClassCounts};
use correlation::{Sorted, correlation};
use words::{same_rows, spans};

/// What was true and what was predicted, checked once: equal lengths, classes in range, numbers finite, not empty.
#[derive(Clone, Debug)]
pub struct Outcomes(Kind);

#[derive(Clone, Debug)]
enum Kind {
    Classes {
        labels: usize,
        truth: Vec<usize>,
        predicted: Vec<usize>,
    },
    /// `[examples, labels]` each, row by row.
    MultiLabel {
        labels: usize,
        truth: Vec<bool>,
        predicted: Vec<bool>,
    },
    Scores {
        truth: Sorted,
        predicted: Sorted,
    },
    /// Row by row.
    Tags {
        truth: Vec<Vec<String>>,
        counts: Vec<TagCounts>,
    },
    /// Questions by their ids, each with its answer's scores.
    Answers {
        ids: Vec<String>,
        exact: Vec<bool>,
        f1: Vec<f64>,
    },
}

/// What one row of tags adds to the counts of spans and words.
#[derive(Clone, Copy, Debug, Default)]
struct TagCounts {
    /// Spans that are true and predicted, predicted, and true.
    entities: [u64; 3],
    /// Words with the right tag.
    right: u64,
    words: u64,
}

/// Why a metric cannot be computed.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum MetricError {
    /// Nothing to score.
    #[error("expected at least one labelled example, found none")]
    Empty,
    /// Two lists that should be of one length.
    #[error("expected {expected} {what}, found {found}")]
    Length {
        /// What is counted.
        what: &'static str,
        /// The length expected.
        expected: usize,
        /// The length found.
        found: usize,
    },
    /// A class id past the last.
    #[error("example {index}: expected a class below {labels}, found {found}")]
    ClassOutOfRange {
        /// Index of the example.
        index: usize,
        /// How many classes there are.
        labels: usize,
        /// The class found.
        found: usize,
    },
    /// A NaN or infinite score.
    #[error("example {index}: expected a finite score, found {found}")]
    NotFinite {
        /// Index of the example.
        index: usize,
        /// The score found.
        found: f64,
    },
    /// An example without label, or a prediction of another kind than the label.
    #[error("example {index}: expected a {expected} label and prediction, found {found}")]
    Kind {
        /// Index of the example.
        index: usize,
        /// The problem's kind.
        expected: &'static str,
        /// What is there.
        found: String,
    },
    /// A metric of another kind of problem.
    #[error("metric `{metric}` does not apply to {problem}")]
    NotApplicable {
        /// The metric asked for.
        metric: &'static str,
        /// The problem at hand.
        problem: String,
    },
    /// Two models compared on different examples.
    #[error("expected two models scored on the same examples, found other labels from example {index} on")]
    OtherExamples {
        /// The first example whose labels differ.
        index: usize,
    },
}

impl Outcomes {
    /// One class of `labels` an example.
    ///
    /// # Errors
    /// [`MetricError`] if the lengths differ, are 0, or a class is not below `labels`.
    pub fn classes(labels: usize, truth: Vec<usize>, predicted: Vec<usize>) -> Result<Self, MetricError> {
        same_length(truth.len(), predicted.len())?;
        for list in [&truth, &predicted] {
            if let Some((index, &found)) = list.iter().enumerate().find(|&(_, &class)| class >= labels) {
                return Err(MetricError::ClassOutOfRange { index, labels, found });
            }
        }
        Ok(Outcomes(Kind::Classes { labels, truth, predicted }))
    }

    /// For each example, which of `labels` apply.
    ///
    /// # Errors
    /// [`MetricError`] if the lengths differ, are 0, or a row is not `labels` long.
    pub fn multi_label(labels: usize, truth: &[Vec<bool>], predicted: &[Vec<bool>]) -> Result<Self, MetricError> {
        same_length(truth.len(), predicted.len())?;
        if let Some(row) = truth.iter().chain(predicted).find(|row| row.len() != labels) {
            return Err(MetricError::Length { what: "labels in each row", expected: labels, found: row.len() });
        }
        if labels == 0 {
            return Err(MetricError::Empty);
        }
        Ok(Outcomes(Kind::MultiLabel { labels, truth: truth.concat(), predicted: predicted.concat() }))
    }

    /// One number an example.
    ///
    /// # Errors
    /// [`MetricError`] if the lengths differ, are 0, or a number is not finite.
    pub fn scores(truth: Vec<f64>, predicted: Vec<f64>) -> Result<Self, MetricError> {
        same_length(truth.len(), predicted.len())?;
        for list in [&truth, &predicted] {
            if let Some((index, &found)) = list.iter().enumerate().find(|(_, value)| !value.is_finite()) {
                return Err(MetricError::NotFinite { index, found });
            }
        }
        Ok(Outcomes(Kind::Scores { truth: Sorted::new(truth), predicted: Sorted::new(predicted) }))
    }

    /// A row of tags for each example.
    ///
    /// # Errors
    /// [`MetricError`] if the lengths differ, or are 0.
    pub fn tags(truth: Vec<Vec<String>>, predicted: &[Vec<String>]) -> Result<Self, MetricError> {
        same_rows(&truth, predicted)?;
        let mut counts: Vec<TagCounts> = (truth.iter().zip(predicted))
            .map(|(truth, predicted)| TagCounts {
                entities: [0; 3],
                right: truth.iter().zip(predicted).filter(|(truth, predicted)| truth == predicted).count() as u64,
                words: truth.len() as u64,
            })
            .collect();
        // Words are counted with one more behind each row.
        let ends: Vec<usize> = truth
            .iter()
            .scan(0, |end, row| {
                *end += row.len() + 1;
                Some(*end)
            })
            .collect();
        let (true_spans, predicted_spans) = (spans(&truth), spans(predicted));
        let both = true_spans.intersection(&predicted_spans).cloned().collect();
        for (kind, spans) in [both, predicted_spans, true_spans].iter().enumerate() {
            for span in spans {
                counts[ends.partition_point(|&end| end <= span.end)].entities[kind] += 1;
            }
        }
        Ok(Outcomes(Kind::Tags { truth, counts }))
    }

    /// The scores of one answer a question.
    ///
    /// # Errors
    /// [`MetricError`] if the lengths differ or are 0.
    pub fn answers(ids: Vec<String>, scores: &[AnswerScore]) -> Result<Self, MetricError> {
        same_length(ids.len(), scores.len())?;
        let (exact, f1) = scores.iter().map(|score| (score.exact, score.f1)).unzip();
        Ok(Outcomes(Kind::Answers { ids, exact, f1 }))
    }

    /// From labels and predictions, all of the kind of the first label; `labels` is the number of label names.
    ///
    /// # Errors
    /// [`MetricError::Kind`] if one has no label or is of another kind; else as the other constructors.
    pub fn from_labels<'a>(
        labels: usize,
        pairs: impl IntoIterator<Item = (&'a Label, &'a Prediction)>,
    ) -> Result<Self, MetricError> {
        let (mut class_truth, mut class_predicted) = (Vec::new(), Vec::new());
        let (mut set_truth, mut set_predicted) = (Vec::new(), Vec::new());
        let (mut score_truth, mut score_predicted) = (Vec::new(), Vec::new());
        let (mut tags_truth, mut tags_predicted) = (Vec::new(), Vec::new());
        let mut kind = None;
        for (index, (label, prediction)) in pairs.into_iter().enumerate() {
            let (this, fits) = match (label, prediction) {
                (Label::Class(_), Prediction::Class(_)) => ("class", true),
                (Label::Classes(_), Prediction::Classes(_)) => ("multi-label", true),
                (Label::Score(_), Prediction::Score(_)) => ("score", true),
                (Label::Tags(_), Prediction::Tags(_)) => ("tags", true),
                (Label::Class(_), _) => ("class", false),
                (Label::Classes(_), _) => ("multi-label", false),
                (Label::Score(_), _) => ("score", false),
                (Label::Tags(_), _) => ("tags", false),
                (Label::None, _) => (kind.unwrap_or("class, multi-label, score or tags"), false),
            };
            let expected = *kind.get_or_insert(this);
            if !fits || expected != this {
                let found = match label {
                    Label::None => "no label".to_owned(),
                    _ => format!("{label:?} and {prediction:?}"),
                };
                return Err(MetricError::Kind { index, expected, found });
            }
            match (label, prediction) {
                (Label::Class(truth), Prediction::Class(predicted)) => {
                    class_truth.push(*truth);
                    class_predicted.push(*predicted);
                }
                (Label::Classes(truth), Prediction::Classes(predicted)) => {
                    set_truth.push(truth.clone());
                    set_predicted.push(predicted.clone());
                }
                (Label::Score(truth), Prediction::Score(predicted)) => {
                    score_truth.push(f64::from(*truth));
                    score_predicted.push(f64::from(*predicted));
                }
                (Label::Tags(truth), Prediction::Tags(predicted)) => {
                    tags_truth.push(truth.clone());
                    tags_predicted.push(predicted.clone());
                }
                _ => {}
            }
        }
        match kind {
            Some("class") => Outcomes::classes(labels, class_truth, class_predicted),
            Some("multi-label") => Outcomes::multi_label(labels, &set_truth, &set_predicted),
            Some("tags") => Outcomes::tags(tags_truth, &tags_predicted),
            Some(_) => Outcomes::scores(score_truth, score_predicted),
            None => Err(MetricError::Empty),
        }
    }

    /// Number of examples; at least 1.
    pub fn len(&self) -> usize {
        match &self.0 {
            Kind::Classes { truth, .. } => truth.len(),
            Kind::MultiLabel { labels, truth, .. } => truth.len() / labels,
            Kind::Scores { truth, .. } => truth.values.len(),
            Kind::Tags { truth, .. } => truth.len(),
            Kind::Answers { ids, .. } => ids.len(),
        }
    }

    /// Always false: outcomes without examples are refused.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The metric over all examples.
    ///
    /// # Errors
    /// [`MetricError::NotApplicable`] for a metric of another kind of problem.
    pub fn metric(&self, metric: Metric) -> Result<f64, MetricError> {
        self.weighted_metric(metric, &vec![1; self.len()])
    }

    /// The metric over a resample in which example `i` occurs `weights[i]` times.
    ///
    /// # Errors
    /// [`MetricError::NotApplicable`], or [`MetricError::Length`] for another number of weights than of examples.
    pub fn weighted_metric(&self, metric: Metric, weights: &[u32]) -> Result<f64, MetricError> {
        if weights.len() != self.len() {
            return Err(MetricError::Length { what: "weights", expected: self.len(), found: weights.len() });
        }
        match (&self.0, metric) {
            (Kind::Classes { labels, truth, predicted }, Metric::Accuracy | Metric::MicroF1) => {
                // One label an example: every wrong one is a false positive and a false negative, so micro F1 is accuracy.
                Ok(ClassCounts::of_classes(*labels, truth, predicted, weights).accuracy())
            }
            (Kind::Classes { labels: 2, truth, predicted }, Metric::F1) => {
                Ok(ClassCounts::of_classes(2, truth, predicted, weights).f1(1))
            }
            (Kind::Classes { labels, truth, predicted }, Metric::MacroF1) => {
                Ok(ClassCounts::of_classes(*labels, truth, predicted, weights).macro_f1(Absent::LeftOut))
            }
            (Kind::Classes { labels, truth, predicted }, Metric::Matthews) => {
                Ok(ClassCounts::of_classes(*labels, truth, predicted, weights).matthews())
            }
            (Kind::MultiLabel { labels, truth, predicted }, Metric::MacroF1) => {
                Ok(ClassCounts::of_sets(*labels, truth, predicted, weights).macro_f1(Absent::CountsZero))
            }
            (Kind::MultiLabel { labels, truth, predicted }, Metric::MicroF1) => {
                Ok(ClassCounts::of_sets(*labels, truth, predicted, weights).micro_f1())
            }
            (Kind::MultiLabel { .. }, Metric::SubsetAccuracy) => {
                let right: u64 =
                    self.correct().iter().zip(weights).filter(|(right, _)| **right).map(|(_, &w)| u64::from(w)).sum();
                Ok(ratio(right, total(weights)))
            }
            (Kind::Scores { truth, predicted }, Metric::Pearson) => {
                Ok(correlation(&truth.values, &predicted.values, weights))
            }
            (Kind::Scores { truth, predicted }, Metric::Spearman) => {
                Ok(correlation(&truth.ranks(weights), &predicted.ranks(weights), weights))
            }
            (
                Kind::Tags { counts, .. },
                Metric::EntityF1 | Metric::EntityPrecision | Metric::EntityRecall | Metric::TokenAccuracy,
            ) => {
                let sum = |count: &dyn Fn(&TagCounts) -> u64| -> u64 {
                    counts.iter().zip(weights).map(|(counts, &weight)| count(counts) * u64::from(weight)).sum()
                };
                let [both, predicted, truth] = [0, 1, 2].map(|kind| sum(&|counts| counts.entities[kind]));
                Ok(match metric {
                    Metric::EntityF1 => ratio(2 * both, predicted + truth),
                    Metric::EntityPrecision => ratio(both, predicted),
                    Metric::EntityRecall => ratio(both, truth),
                    _ => ratio(sum(&|counts| counts.right), sum(&|counts| counts.words)),
                })
            }
            (Kind::Answers { f1, .. }, Metric::F1) => {
                let sum: f64 = f1.iter().zip(weights).map(|(f1, &weight)| f1 * f64::from(weight)).sum();
                Ok(if total(weights) == 0 { 0.0 } else { sum / total(weights) as f64 })
            }
            (Kind::Answers { exact, .. }, Metric::ExactMatch) => {
                let right = exact.iter().zip(weights).filter(|(exact, _)| **exact);
                Ok(ratio(right.map(|(_, &weight)| u64::from(weight)).sum(), total(weights)))
            }
            (kind, metric) => Err(MetricError::NotApplicable { metric: metric.name(), problem: kind.describe() }),
        }
    }

    /// Which examples were predicted wholly right; for scores, exactly equal.
    pub fn correct(&self) -> Vec<bool> {
        match &self.0 {
            Kind::Classes { truth, predicted, .. } => truth.iter().zip(predicted).map(|(a, b)| a == b).collect(),
            Kind::MultiLabel { labels, truth, predicted } => {
                truth.chunks(*labels).zip(predicted.chunks(*labels)).map(|(a, b)| a == b).collect()
            }
            Kind::Scores { truth, predicted } => {
                truth.values.iter().zip(&predicted.values).map(|(a, b)| a == b).collect()
            }
            Kind::Tags { counts, .. } => counts.iter().map(|counts| counts.right == counts.words).collect(),
            Kind::Answers { exact, .. } => exact.clone(),
        }
    }

    /// Refuses two outcomes that are not of the same examples: other number or other labels.
    pub(super) fn check_same_examples(&self, other: &Outcomes) -> Result<(), MetricError> {
        if self.len() != other.len() {
            return Err(MetricError::Length { what: "examples", expected: self.len(), found: other.len() });
        }
        let differs = match (&self.0, &other.0) {
            (Kind::Classes { truth: a, .. }, Kind::Classes { truth: b, .. }) => first_difference(a, b),
            (Kind::MultiLabel { labels, truth: a, .. }, Kind::MultiLabel { labels: others, truth: b, .. }) => {
                if labels == others { first_difference(a, b).map(|index| index / labels) } else { Some(0) }
            }
            (Kind::Scores { truth: a, .. }, Kind::Scores { truth: b, .. }) => first_difference(&a.values, &b.values),
            (Kind::Tags { truth: a, .. }, Kind::Tags { truth: b, .. }) => first_difference(a, b),
            (Kind::Answers { ids: a, .. }, Kind::Answers { ids: b, .. }) => first_difference(a, b),
            _ => Some(0),
        };
        differs.map_or(Ok(()), |index| Err(MetricError::OtherExamples { index }))
    }
}

impl Kind {
    fn describe(&self) -> String {
        match self {
            Kind::Classes { labels, .. } => format!("classification with {labels} labels"),
            Kind::MultiLabel { .. } => "multi-label classification".to_owned(),
            Kind::Scores { .. } => "regression".to_owned(),
            Kind::Tags { .. } => "tags of words".to_owned(),
            Kind::Answers { .. } => "question answering".to_owned(),
        }
    }
}

fn same_length(truth: usize, predicted: usize) -> Result<(), MetricError> {
    if truth != predicted {
        return Err(MetricError::Length { what: "predictions", expected: truth, found: predicted });
    }
    if truth == 0 { Err(MetricError::Empty) } else { Ok(()) }
}

fn first_difference<T: PartialEq>(a: &[T], b: &[T]) -> Option<usize> {
    a.iter().zip(b).position(|(x, y)| x != y)
}

fn total(weights: &[u32]) -> u64 {
    weights.iter().map(|&weight| u64::from(weight)).sum()
}

/// 0 if there is nothing to divide by.
fn ratio(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}

/// How often each class was taken for each: `[truth][predicted]`, counts of examples.
///
/// # Errors
/// [`MetricError::NotApplicable`] unless each example has one class.
pub fn confusion_matrix(outcomes: &Outcomes) -> Result<Vec<Vec<u64>>, MetricError> {
    let Kind::Classes { labels, truth, predicted } = &outcomes.0 else {
        return Err(MetricError::NotApplicable { metric: "confusion_matrix", problem: outcomes.0.describe() });
    };
    let mut matrix = vec![vec![0; *labels]; *labels];
    for (&truth, &predicted) in truth.iter().zip(predicted) {
        matrix[truth][predicted] += 1;
    }
    Ok(matrix)
}

/// Index of the largest value; the first of equals, 0 of none. NaN is never the largest.
pub fn argmax(values: &[f32]) -> usize {
    let mut best = 0;
    for (index, value) in values.iter().enumerate() {
        if values.get(best).is_none_or(|largest| value > largest || (largest.is_nan() && !value.is_nan())) {
            best = index;
        }
    }
    best
}

#[cfg(test)]
mod tests;
