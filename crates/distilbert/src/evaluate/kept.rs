//! Predictions of any kind, as a file holds them.

use serde::Deserialize;

use super::answer_predictions::AnswerPredictions;
use super::intent_predictions::IntentPredictions;
use super::metrics::{MetricError, Outcomes};
use super::predictions::{Predictions, PredictionsError};
use crate::data::examples::{Metric, Split};

/// What one model said of one split.
#[derive(Clone, Debug)]
pub enum KeptPredictions {
    /// Labels of texts or words.
    Labels(Predictions),
    /// Answers to questions.
    Answers(AnswerPredictions),
    /// Intents and slots.
    Intents(IntentPredictions),
}

impl KeptPredictions {
    /// Reads a file of predictions of whichever kind its first line names.
    ///
    /// # Errors
    /// [`PredictionsError`], naming the line, if it is none.
    pub fn read(text: &str) -> Result<Self, PredictionsError> {
        #[derive(Deserialize)]
        struct Header {
            problem: String,
        }
        let header: Result<Header, _> = serde_json::from_str(text.lines().next().unwrap_or_default());
        match header.as_ref().map(|header| header.problem.as_str()) {
            Ok(AnswerPredictions::PROBLEM) => AnswerPredictions::read(text.as_bytes()).map(KeptPredictions::Answers),
            Ok(IntentPredictions::PROBLEM) => IntentPredictions::read(text.as_bytes()).map(KeptPredictions::Intents),
            _ => Predictions::read(text.as_bytes()).map(KeptPredictions::Labels),
        }
    }

    /// The task's name, the split, and how many predictions there are.
    pub fn of(&self) -> (&str, Split, usize) {
        match self {
            KeptPredictions::Labels(found) => (&found.task, found.split, found.rows.len()),
            KeptPredictions::Answers(found) => (&found.task, found.split, found.rows.len()),
            KeptPredictions::Intents(found) => (&found.task, found.split, found.rows.len()),
        }
    }

    /// Those of texts or words.
    pub fn labels(&self) -> Option<&Predictions> {
        match self {
            KeptPredictions::Labels(found) => Some(found),
            KeptPredictions::Answers(_) | KeptPredictions::Intents(_) => None,
        }
    }

    /// What was right and what was not, for the score of this name, and which metric of it that is; `None` if it is a
    /// score that no paired test knows.
    ///
    /// # Errors
    /// [`MetricError`] if there are no predictions, or one has no label.
    pub fn outcomes(&self, score: &str) -> Result<Option<(Outcomes, Metric)>, MetricError> {
        let metric = Metric::ALL.into_iter().find(|metric| metric.name() == score);
        let with = |outcomes: Outcomes| metric.map(|metric| (outcomes, metric));
        match self {
            KeptPredictions::Labels(found) => found.outcomes().map(with),
            KeptPredictions::Answers(found) => found.outcomes().map(with),
            KeptPredictions::Intents(found) => found.outcomes(score),
        }
    }
}
