//! What a model is asked that was fine-tuned for question answering, as it is saved beside it.

use std::path::Path;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::super::examples::{DataError, read_task, task_text};
use super::windows::WindowConfig;

/// A question-answering task.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AnsweringTask {
    /// Always `question-answering`; tells the file from those of other tasks.
    problem: Marker,
    /// Short name, for example `squad`.
    pub name: String,
    /// How contexts are cut.
    pub windows: WindowConfig,
    /// Which spans are answers.
    pub spans: SpanConfig,
    /// How answers are scored, and whether a question may have none.
    pub rules: AnswerRules,
    /// Odds above which no answer is given where there may be none; 0 until it is fitted.
    pub fitted_null_threshold: f32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Marker {
    QuestionAnswering,
}

/// Which spans are answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct SpanConfig {
    /// Starts and ends that are tried in each window, and answers that are kept of each question; at least 1.
    pub n_best: usize,
    /// Longest answer in tokens; at least 1.
    pub max_answer_length: usize,
}

impl Default for SpanConfig {
    /// The reference run's.
    fn default() -> Self {
        SpanConfig { n_best: 20, max_answer_length: 30 }
    }
}

/// How an answer is scored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AnswerRules {
    /// Which answers are equal.
    pub normalisation: Normalisation,
    /// SQuAD 2.0's treatment of empty answers: a question may have none, and then only silence is right.
    pub unanswerable: bool,
}

/// Whose rules decide which answers are equal.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Normalisation {
    /// SQuAD 1.1 and 2.0, XQuAD, TyDi GoldP: ASCII punctuation and English articles go.
    #[default]
    Squad,
    /// MLQA: all punctuation of Unicode and the language's articles go; Chinese is cut into characters.
    Mlqa(AnswerLanguage),
}

/// A language of MLQA. The one that counts is the context's, since answers are cut from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AnswerLanguage {
    /// English.
    En,
    /// Spanish.
    Es,
    /// Hindi.
    Hi,
    /// Vietnamese.
    Vi,
    /// German.
    De,
    /// Arabic.
    Ar,
    /// Chinese.
    Zh,
}

/// No language of MLQA has this code.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected a language of MLQA (en, es, hi, vi, de, ar, zh), found `{0}`")]
pub struct UnknownLanguage(pub String);

impl FromStr for AnswerLanguage {
    type Err = UnknownLanguage;

    fn from_str(code: &str) -> Result<Self, UnknownLanguage> {
        Ok(match code {
            "en" => AnswerLanguage::En,
            "es" => AnswerLanguage::Es,
            "hi" => AnswerLanguage::Hi,
            "vi" => AnswerLanguage::Vi,
            "de" => AnswerLanguage::De,
            "ar" => AnswerLanguage::Ar,
            "zh" => AnswerLanguage::Zh,
            _ => return Err(UnknownLanguage(code.to_owned())),
        })
    }
}

impl AnsweringTask {
    /// A task with the reference run's settings.
    pub fn new(name: &str, rules: AnswerRules) -> AnsweringTask {
        AnsweringTask {
            problem: Marker::QuestionAnswering,
            name: name.to_owned(),
            windows: WindowConfig::default(),
            spans: SpanConfig::default(),
            rules,
            fitted_null_threshold: 0.0,
        }
    }

    /// The threshold to answer with: `None`, and so always an answer, where every question has one.
    pub fn null_threshold(&self) -> Option<f32> {
        self.rules.unanswerable.then_some(self.fitted_null_threshold)
    }

    /// Reads `task.json` of a model's folder; `None` if there is none, or one of another kind of task.
    ///
    /// # Errors
    /// [`DataError`] if the file cannot be read or is a broken task of this kind.
    pub fn read(folder: &Path) -> Result<Option<AnsweringTask>, DataError> {
        read_task(folder, Some("question-answering"))
    }

    /// The text of `task.json`.
    pub fn to_json(&self) -> String {
        task_text(self)
    }
}
