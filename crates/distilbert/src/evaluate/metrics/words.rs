//! Scores of single types of spans, and of single tags.

use super::{MetricError, ratio, same_length};
use crate::data::tagging::entities::{Entity, entities};
use std::collections::{BTreeMap, BTreeSet};

/// How well one type of span, or one tag, is found.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct TypeScores {
    /// Share of the predicted ones that are right.
    pub precision: f64,
    /// Share of the true ones that are found.
    pub recall: f64,
    /// Harmonic mean of both.
    pub f1: f64,
    /// True ones.
    pub support: u64,
}

pub(super) fn same_rows(truth: &[Vec<String>], predicted: &[Vec<String>]) -> Result<(), MetricError> {
    same_length(truth.len(), predicted.len())?;
    match truth.iter().zip(predicted).find(|(truth, predicted)| truth.len() != predicted.len()) {
        Some((truth, predicted)) => {
            Err(MetricError::Length { what: "tags in each row", expected: truth.len(), found: predicted.len() })
        }
        None => Ok(()),
    }
}

pub(super) fn spans(rows: &[Vec<String>]) -> BTreeSet<Entity> {
    entities(rows).into_iter().collect()
}

/// Precision, recall and F1 of every type of span, in byte order of the types.
///
/// # Errors
/// [`MetricError`] if the rows differ in number or length, or there are none.
pub fn entity_scores_by_type(
    truth: &[Vec<String>],
    predicted: &[Vec<String>],
) -> Result<BTreeMap<String, TypeScores>, MetricError> {
    same_rows(truth, predicted)?;
    let (true_spans, predicted_spans) = (spans(truth), spans(predicted));
    let right = true_spans.intersection(&predicted_spans).map(|span| span.kind.as_str());
    let kinds = |spans: &'_ BTreeSet<Entity>| spans.iter().map(|span| span.kind.clone()).collect::<Vec<_>>();
    Ok(by_type(right, &kinds(&predicted_spans), &kinds(&true_spans)))
}

/// Precision, recall and F1 of every tag, word by word, in byte order of the tags.
///
/// # Errors
/// [`MetricError`] if the rows differ in number or length, or there are none.
pub fn tag_scores_by_type(
    truth: &[Vec<String>],
    predicted: &[Vec<String>],
) -> Result<BTreeMap<String, TypeScores>, MetricError> {
    same_rows(truth, predicted)?;
    let (truth, predicted) = (truth.concat(), predicted.concat());
    let right = truth.iter().zip(&predicted).filter(|(truth, predicted)| truth == predicted);
    Ok(by_type(right.map(|(truth, _)| truth.as_str()), &predicted, &truth))
}

fn by_type<'a>(
    right: impl Iterator<Item = &'a str>,
    predicted: &[String],
    truth: &[String],
) -> BTreeMap<String, TypeScores> {
    let mut counts: BTreeMap<&str, [u64; 3]> = BTreeMap::new();
    let all = [right.collect::<Vec<_>>(), as_strs(predicted), as_strs(truth)];
    for (index, names) in all.iter().enumerate() {
        names.iter().for_each(|name| counts.entry(name).or_default()[index] += 1);
    }
    let scores = |[right, predicted, truth]: [u64; 3]| TypeScores {
        precision: ratio(right, predicted),
        recall: ratio(right, truth),
        f1: ratio(2 * right, predicted + truth),
        support: truth,
    };
    counts.into_iter().map(|(name, counts)| (name.to_owned(), scores(counts))).collect()
}

fn as_strs(names: &[String]) -> Vec<&str> {
    names.iter().map(String::as_str).collect()
}
