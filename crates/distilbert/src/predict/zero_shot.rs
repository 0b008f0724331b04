//! Labels that a model was never trained on, through natural language inference: is "This example is LABEL." entailed by
//! the text?

use super::classify::is_zero;
use crate::data::examples::Problem;
use crate::evaluate::predictions::softmax;
use serde::Serialize;

/// Where the label goes in a hypothesis.
pub const PLACEHOLDER: &str = "{}";

/// The hypothesis template of the Hugging Face pipeline.
pub const DEFAULT_TEMPLATE: &str = "This example is {}.";

/// Why a model cannot say what follows from what.
#[derive(Debug, thiserror::Error)]
pub enum ZeroShotError {
    /// No label says that the hypothesis follows.
    #[error("expected a label that begins with `entail`, found {found}")]
    Entailment {
        /// The model's labels.
        found: String,
    },
    /// The label that was named is none of the model's.
    #[error("expected a label {expected:?}, found {found}")]
    Named {
        /// The name.
        expected: String,
        /// The model's labels.
        found: String,
    },
    /// No label says that the opposite follows.
    #[error("scores of single labels need one that begins with `contradict`, found {found}")]
    Contradiction {
        /// The model's labels.
        found: String,
    },
}

/// What a model calls its verdicts, where their names do not begin with `entail` and `contradict`.
#[derive(Clone, Copy, Debug, Default)]
pub struct Verdicts<'a> {
    /// The hypothesis follows.
    pub entailment: Option<&'a str>,
    /// The opposite follows.
    pub contradiction: Option<&'a str>,
}

/// How the logits of the hypotheses become scores.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scoring {
    /// A softmax over the labels' entailments: the scores sum to 1.
    Among {
        /// The output that says that the text entails the hypothesis.
        entailment: usize,
    },
    /// For each label a softmax over entailment and contradiction.
    Each {
        /// The output that says that the text entails the hypothesis.
        entailment: usize,
        /// The output that says that it does not: contradiction, or the other one of two.
        contradiction: usize,
    },
}

impl Scoring {
    /// How a classifier with these outputs scores candidates: among each other, or each by itself.
    ///
    /// # Errors
    /// [`ZeroShotError`] if it has no output for what is asked.
    pub fn of(
        problem: Problem,
        labels: &[String],
        verdicts: Verdicts<'_>,
        each: bool,
    ) -> Result<Scoring, ZeroShotError> {
        let found = || labels.join(", ");
        let find = |name: Option<&str>, beginning: &str| match name {
            None => Ok(labels.iter().position(|label| label.to_lowercase().starts_with(beginning))),
            Some(name) => {
                let place = labels.iter().position(|label| label == name);
                let unknown = || ZeroShotError::Named { expected: name.to_owned(), found: found() };
                place.map(Some).ok_or_else(unknown)
            }
        };
        let entailment = find(verdicts.entailment, "entail")?
            .filter(|_| problem == Problem::Classification)
            .ok_or_else(|| ZeroShotError::Entailment { found: found() })?;
        if !each {
            return Ok(Scoring::Among { entailment });
        }
        let other = (labels.len() == 2).then_some(1 - entailment.min(1));
        let contradiction = find(verdicts.contradiction, "contradict")?
            .or(other)
            .ok_or_else(|| ZeroShotError::Contradiction { found: found() })?;
        Ok(Scoring::Each { entailment, contradiction })
    }

    /// A score for each candidate, from the logits of its hypothesis.
    ///
    /// # Panics
    /// If there are fewer logits than the model has outputs.
    pub fn scores(self, logits: &[Vec<f32>]) -> Vec<f32> {
        match self {
            Scoring::Among { entailment } => {
                softmax(&logits.iter().map(|logits| logits[entailment]).collect::<Vec<_>>())
            }
            Scoring::Each { entailment, contradiction } => {
                logits.iter().map(|logits| softmax(&[logits[contradiction], logits[entailment]])[1]).collect()
            }
        }
    }
}

/// A result in the shape of Hugging Face's zero-shot-classification pipeline.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Judged<'a> {
    /// The text.
    pub sequence: &'a str,
    /// The likeliest first.
    pub labels: Vec<&'a str>,
    /// In the order of `labels`.
    pub scores: Vec<f32>,
    /// Tokens that the text lost to the maximum length; left out of JSON if none.
    #[serde(skip_serializing_if = "is_zero")]
    pub truncated_tokens: usize,
}

impl<'a> Judged<'a> {
    /// The candidates of a text, the likeliest first, of equals the earlier.
    pub fn new(sequence: &'a str, candidates: &[&'a str], scores: &[f32], truncated_tokens: usize) -> Judged<'a> {
        let mut order: Vec<usize> = (0..scores.len()).collect();
        order.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]));
        Judged {
            sequence,
            labels: order.iter().map(|&label| candidates[label]).collect(),
            scores: order.iter().map(|&label| scores[label]).collect(),
            truncated_tokens,
        }
    }
}
