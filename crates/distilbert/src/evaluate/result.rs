//! One model's scores on one split.

use serde::{Deserialize, Serialize};

use crate::data::examples::{Metric, Problem};

use super::calibration::calibration_error;
use super::metrics::{MetricError, TypeScores, entity_scores_by_type, tag_scores_by_type};
use super::ordered::OrderedMap;
use super::predictions::Predictions;
use super::statistics::{Bootstrap, Interval, intervals};

/// Metric names with their values, the task's main metric first; shares from 0 to 1 and correlations from -1 to 1.
pub type Metrics = OrderedMap<f64>;

/// What `evaluate --json` prints.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EvaluationResult {
    /// Name of the task.
    pub task: String,
    /// Which part of its data.
    pub split: String,
    /// Examples scored.
    pub n: usize,
    /// The task's metrics.
    pub metrics: Metrics,
    /// A 95 % bootstrap interval for each metric.
    pub intervals: OrderedMap<Interval>,
    /// Expected calibration error of the largest probability; `None` unless each example has one class, or each word one
    /// tag.
    #[serde(default)]
    pub calibration_error: Option<f64>,
    /// Of each type of span, or each tag; empty unless words are tagged.
    #[serde(default, skip_serializing_if = "OrderedMap::is_empty")]
    pub by_type: OrderedMap<TypeScores>,
    /// Where questions may have no answer: above which odds none is given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub null_thresholds: Option<NullThresholds>,
    /// Rows of the file that were left out; of a collection, judged documents that it lacks.
    pub skipped: usize,
    /// Examples whose text was cut to the longest input.
    pub truncated: usize,
}

/// Odds of no answer (its score minus that of the best answer) above which none is given.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct NullThresholds {
    /// That of the scores; `None` if there always was an answer.
    pub used: Option<f32>,
    /// That of the best F1 on these very questions.
    pub best_f1: f64,
    /// That of the best exact match on these very questions.
    pub best_exact_match: f64,
}

impl EvaluationResult {
    /// Scores predictions; `skipped` and `truncated` are counts that only the caller knows.
    ///
    /// # Errors
    /// [`MetricError`] if there are no predictions, one lacks a label, or a metric is of another kind of problem.
    pub fn new(
        predictions: &Predictions,
        metrics: &[Metric],
        bootstrap: &Bootstrap,
        (skipped, truncated): (usize, usize),
    ) -> Result<Self, MetricError> {
        let outcomes = predictions.outcomes()?;
        let names = metrics.iter().map(|metric| metric.name());
        let values = metrics.iter().map(|&metric| outcomes.metric(metric)).collect::<Result<Vec<_>, _>>()?;
        let decides = predictions.problem == Problem::Classification || predictions.problem.is_of_words();
        Ok(EvaluationResult {
            task: predictions.task.clone(),
            split: predictions.split.name().to_owned(),
            n: outcomes.len(),
            metrics: names.clone().zip(values).collect(),
            intervals: names.zip(intervals(&outcomes, metrics, bootstrap)?).collect(),
            calibration_error: decides.then(|| calibration_error(predictions.decisions())),
            by_type: by_type(predictions)?,
            null_thresholds: None,
            skipped,
            truncated,
        })
    }

    /// Name and value of the main metric; `None` if there is no metric.
    pub fn main_metric(&self) -> Option<(&str, f64)> {
        self.metrics.iter().next().map(|(name, &value)| (name, value))
    }
}

fn by_type(predictions: &Predictions) -> Result<OrderedMap<TypeScores>, MetricError> {
    let (truth, predicted) = predictions.tag_rows();
    let scores = match predictions.problem {
        Problem::Entities => entity_scores_by_type(&truth, &predicted)?,
        Problem::Tags => tag_scores_by_type(&truth, &predicted)?,
        Problem::Classification | Problem::MultiLabel | Problem::Regression => Default::default(),
    };
    Ok(scores.into_iter().collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::examples::{Example, Label, Split, Task};

    #[test]
    fn json_begins_with_task_split_n_metrics_and_reads_back_equal() {
        let task = Task::glue("mrpc").expect("a task");
        let mut predictions = Predictions::new(&task, Split::Dev);
        for (index, (class, logit)) in [(1, 2.0), (1, -1.0), (0, -2.0), (1, 0.5)].into_iter().enumerate() {
            let example = Example {
                text_a: "a".to_owned(),
                text_b: Some("b".to_owned()),
                label: Label::Class(class),
                line: index + 2,
            };
            predictions.push(&example, &[0.0, logit], 5).expect("two logits");
        }
        let result =
            EvaluationResult::new(&predictions, &task.metrics, &Bootstrap::default(), (3, 1)).expect("a good set");
        let text = serde_json::to_string(&result).expect("JSON");
        assert!(
            text.starts_with(
                r#"{"task":"mrpc","split":"dev","n":4,"metrics":{"accuracy":0.75,"f1":0.8},"intervals":{"#
            ),
            "{text}"
        );
        assert!(text.ends_with(r#""skipped":3,"truncated":1}"#), "{text}");
        assert_eq!(serde_json::from_str::<EvaluationResult>(&text).expect("a result"), result);
        assert_eq!(result.main_metric(), Some(("accuracy", 0.75)));
    }
}
