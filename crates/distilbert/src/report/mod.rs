//! Models side by side: runs and their evaluations in, Markdown, one self-contained HTML file and a terminal table out.
//!
//! The data comes as plain structs ([`ReportInput`]); nothing here runs a model or opens a file. All three outputs are
//! drawn from one [`Report`], so that a number is the same wherever it stands. What was not measured says so.

mod compare; // models -> headline rows, scores, disagreements
mod document; // the report as titles, tables, figures: what all outputs share
mod format; // numbers and names as text
mod html;
mod markdown;
mod plots; // points -> SVG
mod sections; // comparisons -> document
mod terminal;

pub use format::grouped;

use serde::{Deserialize, Serialize};

use crate::evaluate::statistics::Bootstrap;
use crate::evaluate::{EvaluationResult, KeptPredictions, Predictions};

use document::Document;

/// What a report is made of.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct ReportInput {
    /// Title of the report.
    pub title: String,
    /// What the speeds were measured on: processor, cores used, instruction set.
    #[serde(default)]
    pub machine: Option<String>,
    /// Further lines under the title: command, commit, seed.
    #[serde(default)]
    pub notes: Vec<String>,
    /// The models, in the order in which the tables show them.
    pub models: Vec<ModelReport>,
}

/// One model with everything known of it; whatever is `None` or empty shows as "not measured".
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct ModelReport {
    /// Name in tables and legends.
    pub name: String,
    /// Its part in the comparison.
    pub role: Role,
    /// Number of parameters, tied ones once.
    #[serde(default)]
    pub parameters: Option<u64>,
    /// Size of the weights file.
    #[serde(default)]
    pub size_bytes: Option<u64>,
    /// Median latency of one sequence, batch 1.
    #[serde(default)]
    pub latency_ms_p50: Option<f64>,
    /// Median latency at batch 1 (ms) by input length in tokens.
    #[serde(default)]
    pub latency_by_length: Vec<(usize, f64)>,
    /// Throughput in sequences.
    #[serde(default)]
    pub sequences_per_second: Option<f64>,
    /// Throughput in tokens.
    #[serde(default)]
    pub tokens_per_second: Option<f64>,
    /// Scores; the first model's first task and split are those of the headline.
    #[serde(default)]
    pub evaluations: Vec<Evaluation>,
    /// How the losses fell; curves of one name share a plot.
    #[serde(default)]
    pub loss_curves: Vec<LossCurve>,
    /// The headline metric for each training seed.
    #[serde(default)]
    pub seed_scores: Vec<f64>,
    /// Perplexity of masked words on held-out text, before any fine-tuning.
    #[serde(default)]
    pub perplexity: Option<f64>,
    /// Share, in `0..=1`, of the masked words at which the model's first guess is the teacher's, likewise.
    #[serde(default)]
    pub teacher_agreement: Option<f64>,
    /// Where the model comes from.
    #[serde(default)]
    pub lineage: Lineage,
}

/// A model's part in the comparison.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// The model that the others are measured against: the first of this role is.
    Teacher,
    /// A model meant to replace the teacher.
    Student,
    /// A model that shows what would have been reached without distillation.
    Control,
    /// Anything else.
    #[default]
    Other,
}

/// Scores on one split, with the predictions they come from if they were kept.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Evaluation {
    /// The scores.
    pub result: EvaluationResult,
    /// Needed for retention intervals and paired tests; of labels also for disagreements and confusion matrices. Kept in
    /// a file of their own, so not part of the JSON form.
    #[serde(skip)]
    pub predictions: Option<KeptPredictions>,
}

impl Evaluation {
    /// Predictions of labels, if they were kept.
    fn labels(&self) -> Option<&Predictions> {
        self.predictions.as_ref().and_then(KeptPredictions::labels)
    }
}

/// One loss over training.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct LossCurve {
    /// Which loss, for example `distillation, held-out`.
    pub name: String,
    /// Step and loss.
    pub points: Vec<(f64, f64)>,
}

/// Where a model comes from.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Lineage {
    /// The model it was distilled from.
    #[serde(default)]
    pub teacher: Option<String>,
    /// Hash of the corpus it was trained on.
    #[serde(default)]
    pub corpus_sha256: Option<String>,
    /// How it was trained: recipe or configuration.
    #[serde(default)]
    pub recipe: Option<String>,
    /// The same of the model that the training began with, where it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<Box<Lineage>>,
}

impl Lineage {
    /// What came before, the latest first: recipe, teacher and data of each training; empty if nothing is known.
    pub fn history(&self) -> Vec<String> {
        std::iter::successors(self.before.as_deref(), |lineage| lineage.before.as_deref())
            .map(|lineage| {
                let mut line = lineage.recipe.clone().unwrap_or_else(|| "a recipe that was not recorded".to_owned());
                if let Some(teacher) = &lineage.teacher {
                    line += &format!(", teacher {teacher}");
                }
                if let Some(hash) = &lineage.corpus_sha256 {
                    line += &format!(", data {hash}");
                }
                line
            })
            .collect()
    }
}

/// A finished comparison, ready to be written in any form.
pub struct Report {
    document: Document,
    headline: document::Table,
}

impl Report {
    /// Compares the models: retention and paired tests by `bootstrap`, against the first teacher.
    pub fn new(input: &ReportInput, bootstrap: &Bootstrap) -> Self {
        let comparison = compare::Comparison::new(input, bootstrap);
        Report { document: sections::document(input, &comparison), headline: sections::terminal_headline(&comparison) }
    }

    /// The report as Markdown: every table; plots are only in the HTML form.
    pub fn markdown(&self) -> String {
        markdown::render(&self.document)
    }

    /// The report as one HTML file that needs nothing else: styles and plots inside, no script, light and dark.
    pub fn html(&self) -> String {
        html::render(&self.document)
    }

    /// The headline as an aligned table for a terminal, ending in a line end.
    pub fn terminal_table(&self) -> String {
        terminal::render(&self.headline)
    }
}

/// The headline of `input` for a terminal: parameters, size, latency, throughput, score with its 95 % interval, share
/// of the teacher's score kept.
pub fn terminal_table(input: &ReportInput) -> String {
    let comparison = compare::Comparison::new(input, &Bootstrap::default());
    terminal::render(&sections::terminal_headline(&comparison))
}

#[cfg(test)]
mod tests;
