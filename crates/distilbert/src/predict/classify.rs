//! Logits of a text to labels with scores, in the shape of the Hugging Face pipeline.

use crate::data::examples::Problem;
use crate::evaluate::predictions::{sigmoid, softmax};
use serde::{Deserialize, Serialize};

/// A label of a text.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ScoredLabel<'a> {
    /// Its name.
    pub label: &'a str,
    /// Its probability; of a regression the number.
    pub score: f32,
    /// Tokens that the text lost to the maximum length; left out of JSON if none.
    #[serde(skip_serializing_if = "is_zero")]
    pub truncated_tokens: usize,
}

/// Logits as they become probabilities: divided by the fitted temperature. A number is what it is.
pub fn calibrated(problem: Problem, temperature: f64, logits: &[f32]) -> Vec<f32> {
    let divisor = if problem == Problem::Regression { 1.0 } else { temperature };
    logits.iter().map(|&logit| (f64::from(logit) / divisor) as f32).collect()
}

/// A score for each of a text's logits: probabilities that sum to 1 for classes, one of its own for each of several
/// labels, the number itself of a regression.
pub fn scores(problem: Problem, logits: &[f32]) -> Vec<f32> {
    match problem {
        Problem::Classification | Problem::Entities | Problem::Tags => softmax(logits),
        Problem::MultiLabel => logits.iter().map(|&logit| sigmoid(logit)).collect(),
        Problem::Regression => logits.to_vec(),
    }
}

/// How logits become scores, in place of what the problem says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ScoreFunction {
    /// Each a probability of its own.
    Sigmoid,
    /// Probabilities that sum to 1.
    Softmax,
    /// As they are.
    None,
}

/// As [`scores`], or by another function.
pub fn scores_by(function: Option<ScoreFunction>, problem: Problem, logits: &[f32]) -> Vec<f32> {
    match function {
        None => scores(problem, logits),
        Some(ScoreFunction::None) => logits.to_vec(),
        Some(ScoreFunction::Softmax) => softmax(logits),
        Some(ScoreFunction::Sigmoid) => logits.iter().map(|&logit| sigmoid(logit)).collect(),
    }
}

/// All labels, those with the highest scores first, of equals the one with the lower id.
pub fn ranked<'a>(labels: &'a [String], scores: &[f32], truncated_tokens: usize) -> Vec<ScoredLabel<'a>> {
    let mut ranked: Vec<ScoredLabel> =
        labels.iter().zip(scores).map(|(label, &score)| ScoredLabel { label, score, truncated_tokens }).collect();
    ranked.sort_by(|a, b| b.score.total_cmp(&a.score));
    ranked
}

/// For fields that are left out when nothing was cut.
pub(super) fn is_zero(count: &usize) -> bool {
    *count == 0
}
