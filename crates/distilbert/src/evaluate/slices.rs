//! Scores of parts of the examples: by length, or by whatever the data says of them.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::data::examples::Metric;

use super::metrics::MetricError;
use super::ordered::OrderedMap;
use super::predictions::Predictions;
use super::result::{EvaluationResult, Metrics};
use super::statistics::{Bootstrap, Interval, intervals};

/// Longest input of each part, in tokens, and what the part is called.
pub const LENGTHS: [(usize, &str); 8] = [
    (8, "up to 8"),
    (16, "9 to 16"),
    (32, "17 to 32"),
    (64, "33 to 64"),
    (128, "65 to 128"),
    (256, "129 to 256"),
    (512, "257 to 512"),
    (usize::MAX, "over 512"),
];

/// Scores of the examples that have something in common.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Slice {
    /// What they have in common.
    pub value: String,
    /// Examples.
    pub n: usize,
    /// The task's metrics on these examples.
    pub metrics: Metrics,
    /// A 95 % bootstrap interval for each.
    pub intervals: OrderedMap<Interval>,
}

/// Scores by input length in tokens, short ones first; lengths without examples are left out.
///
/// # Errors
/// [`MetricError`] if an example lacks a label, or a metric is of another kind of problem.
pub fn by_length(
    predictions: &Predictions,
    metrics: &[Metric],
    bootstrap: &Bootstrap,
) -> Result<Vec<Slice>, MetricError> {
    let parts = parts(&predictions.rows, |_, row| part_of_length(row.tokens));
    parts.into_iter().map(|(part, rows)| slice(predictions, metrics, bootstrap, LENGTHS[part].1, &rows)).collect()
}

/// Scores by length in tokens of rows of any kind, of which `result` makes an evaluation; short ones first.
///
/// # Errors
/// Those of `result`.
pub fn rows_by_length<R: Clone>(
    rows: &[R],
    tokens: impl Fn(&R) -> usize,
    result: impl Fn(Vec<R>) -> Result<EvaluationResult, MetricError>,
) -> Result<Vec<Slice>, MetricError> {
    let parts = parts(rows, |_, row| part_of_length(tokens(row)));
    let slice = |(part, places): (usize, Vec<usize>)| {
        let result = result(places.into_iter().map(|place| rows[place].clone()).collect())?;
        let is_sure = |name: &str| result.intervals.get(name).is_some();
        let metrics = result.metrics.iter().filter(|(name, _)| is_sure(name));
        let metrics = metrics.map(|(name, &value)| (name.to_owned(), value)).collect();
        Ok(Slice { value: LENGTHS[part].1.to_owned(), n: result.n, metrics, intervals: result.intervals })
    };
    parts.into_iter().map(slice).collect()
}

fn part_of_length(tokens: usize) -> usize {
    LENGTHS.iter().position(|&(longest, _)| tokens <= longest).unwrap_or_default()
}

/// Scores by a value for each example, the value of most examples first, of equals in byte order.
///
/// # Errors
/// [`MetricError`] if an example lacks a label, or a metric is of another kind of problem.
pub fn by_value(
    predictions: &Predictions,
    values: &[String],
    metrics: &[Metric],
    bootstrap: &Bootstrap,
) -> Result<Vec<Slice>, MetricError> {
    let parts = parts(&predictions.rows, |index, _| values.get(index).map(String::as_str).unwrap_or_default());
    let mut parts: Vec<(&str, Vec<usize>)> = parts.into_iter().collect();
    parts.sort_by_key(|(_, rows)| std::cmp::Reverse(rows.len()));
    parts.into_iter().map(|(value, rows)| slice(predictions, metrics, bootstrap, value, &rows)).collect()
}

/// The rows of each part, by what `part` says of them.
fn parts<R, P: Ord>(rows: &[R], part: impl Fn(usize, &R) -> P) -> BTreeMap<P, Vec<usize>> {
    let mut parts: BTreeMap<P, Vec<usize>> = BTreeMap::new();
    for (index, row) in rows.iter().enumerate() {
        parts.entry(part(index, row)).or_default().push(index);
    }
    parts
}

fn slice(
    predictions: &Predictions,
    metrics: &[Metric],
    bootstrap: &Bootstrap,
    value: &str,
    rows: &[usize],
) -> Result<Slice, MetricError> {
    let rows = rows.iter().filter_map(|&row| predictions.rows.get(row)).cloned().collect();
    let outcomes = Predictions { rows, ..predictions.without_rows() }.outcomes()?;
    let names = || metrics.iter().map(|metric| metric.name());
    let values = metrics.iter().map(|&metric| outcomes.metric(metric)).collect::<Result<Vec<_>, _>>()?;
    Ok(Slice {
        value: value.to_owned(),
        n: outcomes.len(),
        metrics: names().zip(values).collect(),
        intervals: names().zip(intervals(&outcomes, metrics, bootstrap)?).collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::examples::{Example, Label, Split, Task};

    #[test]
    fn parts_are_scored_alone_and_together_have_all_examples() {
        let task = Task::glue("sst2").expect("a task");
        let mut predictions = Predictions::new(&task, Split::Dev);
        for (line, (tokens, truth, logit)) in
            [(3, 0, 1.0), (8, 1, 1.0), (9, 1, 1.0), (600, 0, -1.0), (5, 1, -1.0)].into_iter().enumerate()
        {
            let example = Example { text_a: "a".to_owned(), text_b: None, label: Label::Class(truth), line };
            predictions.push(&example, &[0.0, logit], tokens).expect("two logits");
        }
        let shown = |slices: Vec<Slice>| -> Vec<(String, usize, f64)> {
            slices
                .into_iter()
                .map(|slice| (slice.value, slice.n, slice.metrics.iter().next().map_or(f64::NAN, |(_, &value)| value)))
                .collect()
        };
        let bootstrap = Bootstrap::default();
        let lengths = by_length(&predictions, &task.metrics, &bootstrap).expect("labels");
        let expected = [("up to 8", 3, 1.0 / 3.0), ("9 to 16", 1, 1.0), ("over 512", 1, 1.0)];
        let owned = |rows: &[(&str, usize, f64)]| -> Vec<(String, usize, f64)> {
            rows.iter().map(|&(value, n, score)| (value.to_owned(), n, score)).collect()
        };
        assert_eq!(shown(lengths), owned(&expected));
        let values = ["x", "y", "y", "z", "y"].map(str::to_owned);
        let values = by_value(&predictions, &values, &task.metrics, &bootstrap).expect("labels");
        assert_eq!(shown(values), owned(&[("y", 3, 2.0 / 3.0), ("x", 1, 0.0), ("z", 1, 1.0)]));
    }
}
