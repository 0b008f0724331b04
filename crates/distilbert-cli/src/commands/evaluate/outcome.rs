//! What an evaluation says: scores and what else was asked for, as a file, a line of JSON and a table.

use crate::console::Console;
use crate::output;
use anyhow::Context;
use distilbert::checkpoint::write_atomic;
use distilbert::evaluate::slices::Slice;
use distilbert::evaluate::statistics::{Interval, McNemar, PairedTest};
use distilbert::evaluate::{Calibration, EvaluationResult, Predictions};
use distilbert_kernels::Precision;
use serde::{Deserialize, Serialize};
use std::fmt::Write;
use std::path::{Path, PathBuf};

/// File of an evaluation's scores.
pub const EVALUATION_FILE: &str = "evaluation.json";

/// Labels up to which people see the confusion matrix; JSON always has it.
const SHOWN_LABELS: usize = 12;

/// File of the predictions that [`EVALUATION_FILE`] is about.
pub const PREDICTIONS_FILE: &str = "predictions.jsonl";

/// One split's scores, with the predictions they come from.
pub struct Scored<P = Predictions> {
    /// The scores; without metrics if the split has no labels.
    pub result: EvaluationResult,
    /// The predictions.
    pub predictions: P,
    /// What the model multiplied in.
    pub precision: Precision,
    /// Of a classifier: its outputs in the order of the task's labels, before any temperature; a row for each prediction,
    /// or for each word.
    pub(super) logits: Vec<Vec<f32>>,
    pub(super) analysis: Analysis,
}

impl<P> Scored<P> {
    /// Scores of predictions that do not come from logits of classes.
    pub fn new(result: EvaluationResult, predictions: P, precision: Precision) -> Scored<P> {
        Scored { result, predictions, precision, logits: Vec::new(), analysis: Analysis::default() }
    }

    /// As they are printed and kept.
    pub(super) fn evaluations(&self) -> Evaluations {
        Evaluations::new(&self.result, self.precision, &self.analysis)
    }

    /// Prints them, for people or as a line of JSON.
    ///
    /// # Errors
    /// If standard output cannot be written.
    pub(super) fn print(&self, json: bool) -> anyhow::Result<()> {
        if json {
            return self.evaluations().print();
        }
        let mut text = table(&self.result, Some(self.precision));
        describe(&self.analysis, &mut text);
        output::print(&text)
    }
}

/// What else was asked for.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Analysis {
    /// `[truth][predicted]`, counts of examples in the order of the task's labels.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) confusion: Option<Confusion>,
    /// `--by-length`
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) by_length: Vec<Slice>,
    /// `--by`
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) by: Vec<Slice>,
    /// `--against`
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) against: Option<Against>,
    /// `--calibrate`
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) calibration: Option<Calibration>,
}

/// Which label was taken for which.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Confusion {
    pub(super) labels: Vec<String>,
    pub(super) matrix: Vec<Vec<u64>>,
}

/// This model against another on the same examples.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Against {
    /// The other's predictions.
    pub(super) file: PathBuf,
    pub(super) metric: String,
    #[serde(flatten)]
    pub(super) test: PairedTest,
    /// For accuracy, and for exact match beside F1: the first is this model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) mcnemar: Option<McNemar>,
}

/// What `--json` prints and [`EVALUATION_FILE`] holds.
#[derive(Debug, Serialize, Deserialize)]
pub struct Evaluations {
    /// The split asked for.
    #[serde(flatten)]
    pub result: EvaluationResult,
    /// What the model multiplied in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub precision: Option<String>,
    /// The other half of MNLI.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub also: Vec<EvaluationResult>,
    #[serde(flatten)]
    pub(super) analysis: Analysis,
}

impl Evaluations {
    /// Of one split, with nothing beside it.
    pub fn new(result: &EvaluationResult, precision: Precision, analysis: &Analysis) -> Evaluations {
        let precision = Some(precision.to_string());
        Evaluations { result: result.clone(), precision, also: Vec::new(), analysis: analysis.clone() }
    }

    /// Writes predictions, by the names of their files, and then the scores: those never stand beside another
    /// evaluation's predictions.
    ///
    /// # Errors
    /// If a file cannot be written.
    pub fn write(&self, folder: &Path, predictions: &[(String, Vec<u8>)]) -> anyhow::Result<()> {
        for (name, bytes) in predictions {
            write_atomic(&folder.join(name), bytes)?;
        }
        let mut text = serde_json::to_string_pretty(self)?;
        text.push('\n');
        Ok(write_atomic(&folder.join(EVALUATION_FILE), text.as_bytes())?)
    }

    /// Prints them as a line of JSON.
    ///
    /// # Errors
    /// If standard output cannot be written.
    pub fn print(&self) -> anyhow::Result<()> {
        let mut line = serde_json::to_string(self)?;
        line.push('\n');
        output::print(&line)
    }
}

/// Tells of inputs that were cut.
pub fn warn_cut(result: &EvaluationResult, max_length: usize, console: &Console) {
    let EvaluationResult { task, split, n, truncated, .. } = result;
    if *truncated > 0 {
        console.warn(&format!("{task} {split}: {truncated} of {n} inputs were cut to {max_length} tokens"));
    }
}

/// Tells of inputs that were cut and of rows that were left out.
pub fn warn(result: &EvaluationResult, max_length: usize, console: &Console) {
    warn_cut(result, max_length, console);
    let EvaluationResult { task, split, .. } = result;
    if result.skipped > 0 {
        console.warn(&format!("{task} {split}: {} rows of the file were left out", result.skipped));
    }
}

/// The first split's scores, and the others beside it.
///
/// # Errors
/// If nothing was scored.
pub fn evaluations(scored: &[Scored]) -> anyhow::Result<Evaluations> {
    let (first, others) = scored.split_first().context("nothing was scored")?;
    let also = others.iter().map(|split| split.result.clone()).collect();
    Ok(Evaluations { also, ..Evaluations::new(&first.result, first.precision, &first.analysis) })
}

/// Writes scores and predictions.
///
/// # Errors
/// If a file cannot be written.
pub fn write(folder: &Path, scored: &[Scored]) -> anyhow::Result<()> {
    let mut predictions = Vec::with_capacity(scored.len());
    for (index, split) in scored.iter().enumerate() {
        let mut bytes = Vec::new();
        split.predictions.write(&mut bytes)?;
        predictions.push((predictions_file(index, &split.result.split), bytes));
    }
    evaluations(scored)?.write(folder, &predictions)
}

/// Where the predictions of the `index`th result of an evaluation are.
pub fn predictions_file(index: usize, split: &str) -> String {
    if index == 0 { PREDICTIONS_FILE.to_owned() } else { format!("predictions-{split}.jsonl") }
}

/// What else was asked for, for people.
pub fn describe(analysis: &Analysis, text: &mut String) {
    // Writing to a string cannot fail.
    if let Some(Confusion { labels, matrix }) = &analysis.confusion
        && labels.len() <= SHOWN_LABELS
    {
        let _ = writeln!(text, "\n  true \\ predicted {}", labels.join("  "));
        for (label, counts) in labels.iter().zip(matrix) {
            let counts = counts.iter().map(u64::to_string).collect::<Vec<_>>();
            let _ = writeln!(text, "  {label:<18}{}", counts.join("  "));
        }
    }
    for (title, slices) in [("by length in tokens", &analysis.by_length), ("by value", &analysis.by)] {
        if !slices.is_empty() {
            let _ = writeln!(text, "\n  {title}");
        }
        for Slice { value, n, metrics, intervals } in slices {
            let shown: Vec<String> = metrics
                .iter()
                .map(|(name, &value)| format!("{name} {}", score_text(value, intervals.get(name))))
                .collect();
            let value = if value.is_empty() { "(empty)" } else { value };
            let _ = writeln!(text, "  {value:<18}{n:>7} examples  {}", shown.join("  "));
        }
    }
    if let Some(Against { file, metric, test, mcnemar }) = &analysis.against {
        let difference = score_text(test.difference, Some(&test.interval));
        let _ = writeln!(text, "\n  against {}: {metric} {difference}, p = {:.4}", file.display(), test.p_value);
        if let Some(exact) = mcnemar {
            let McNemar { only_first, only_second, p_value } = exact;
            let _ = writeln!(
                text,
                "  right alone: {only_first} here, {only_second} there; McNemar's exact test p = {p_value:.4}"
            );
        }
    }
    if let Some(fitted) = &analysis.calibration {
        let _ = writeln!(
            text,
            "\n  temperature       {:.4}, stored beside the model\n  -ln p of the truth {:.4} before, {:.4} after",
            fitted.temperature, fitted.nll_before, fitted.nll_after
        );
        if let (Some(before), Some(after)) = (fitted.calibration_error_before, fitted.calibration_error_after) {
            let _ = writeln!(text, "  calibration error {:.2} before, {:.2} after", 100.0 * before, 100.0 * after);
        }
    }
}

/// In hundredths, with its interval.
pub fn score_text(value: f64, interval: Option<&Interval>) -> String {
    let interval = interval.map(|interval| format!(" [{:.2}, {:.2}]", 100.0 * interval.low, 100.0 * interval.high));
    format!("{:.2}{}", 100.0 * value, interval.unwrap_or_default())
}

/// Scores for people; the precision is named where the model has one of several.
pub fn table(result: &EvaluationResult, precision: Option<Precision>) -> String {
    let precision = precision.map(|precision| format!(", in {precision}")).unwrap_or_default();
    let mut text = format!("{} {}: {} examples{precision}\n", result.task, result.split, result.n);
    // Writing to a string cannot fail.
    for (name, value) in result.metrics.iter() {
        let _ = write!(text, "  {name:<18}{:>7.2}", 100.0 * value);
        if let Some(interval) = result.intervals.get(name) {
            let _ = write!(text, "  [{:.2}, {:.2}]", 100.0 * interval.low, 100.0 * interval.high);
        }
        text.push('\n');
    }
    if let Some(error) = result.calibration_error {
        let _ = writeln!(text, "  {:<18}{:>7.2}", "calibration error", 100.0 * error);
    }
    for (name, scores) in result.by_type.iter() {
        let _ = writeln!(
            text,
            "  {name:<18}{:>7.2}  precision {:.2}, recall {:.2}, of {}",
            100.0 * scores.f1,
            100.0 * scores.precision,
            100.0 * scores.recall,
            scores.support
        );
    }
    if let Some(thresholds) = &result.null_thresholds {
        let used = thresholds.used.map_or("none".to_owned(), |used| format!("{used:.3}"));
        let (f1, exact) = (thresholds.best_f1, thresholds.best_exact_match);
        let _ = writeln!(text, "  no-answer threshold: {used}; best here for F1 {f1:.3}, for exact match {exact:.3}");
    }
    if result.metrics.is_empty() {
        text.push_str("  no labels, so no scores\n");
    } else {
        text.push_str("  in hundredths, with 95 % bootstrap intervals\n");
    }
    text
}
