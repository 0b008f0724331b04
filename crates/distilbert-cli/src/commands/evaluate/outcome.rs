//! What an evaluation says: scores and what else was asked for, as a file, a line of JSON and a table.

use crate::console::Console;
use crate::output;
use anyhow::Context;
use distilbert::checkpoint::write_atomic;
use distilbert::evaluate::slices::Slice;
use distilbert::evaluate::statistics::{Interval, McNemar, PairedTest};
use distilbert::evaluate::{Calibration, EvaluationResult, Predictions, PredictionsError};
use distilbert_kernels::Precision;
use serde::{Deserialize, Serialize};
use std::fmt::Write;
use std::fs::File;
use std::io::BufReader;
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
    /// The model, as the user named it; `None` of one that stands beside its scores.
    pub model: Option<String>,
    /// Of a classifier: its outputs in the order of the task's labels, before any temperature; a row for each prediction,
    /// or for each word.
    pub(super) logits: Vec<Vec<f32>>,
    pub(super) analysis: Analysis,
}

impl<P> Scored<P> {
    /// Scores of predictions that do not come from logits of classes.
    pub fn new(result: EvaluationResult, predictions: P, precision: Precision) -> Scored<P> {
        Scored { result, predictions, precision, model: None, logits: Vec::new(), analysis: Analysis::default() }
    }

    /// As they are printed and kept.
    pub fn evaluations(&self) -> Evaluations {
        Evaluations {
            result: self.result.clone(),
            model: self.model.clone(),
            precision: Some(self.precision.to_string()),
            also: Vec::new(),
            analysis: self.analysis.clone(),
        }
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
    /// The model; of the scores of a run, which are of its own, `None`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
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

/// The predictions that `--against` names, read before anything is scored.
///
/// # Errors
/// If the file cannot be read or holds something else.
pub fn read_other<P>(
    file: Option<&str>,
    read: impl FnOnce(BufReader<File>) -> Result<P, PredictionsError>,
) -> anyhow::Result<Option<(PathBuf, P)>> {
    let Some(file) = file.map(PathBuf::from) else { return Ok(None) };
    let named = || file.display().to_string();
    let other = read(BufReader::new(File::open(&file).with_context(named)?)).with_context(named)?;
    Ok(Some((file, other)))
}

/// The first split's scores, and the others beside it.
///
/// # Errors
/// If nothing was scored.
pub fn evaluations(scored: &[Scored]) -> anyhow::Result<Evaluations> {
    let (first, others) = scored.split_first().context("nothing was scored")?;
    let also = others.iter().map(|split| split.result.clone()).collect();
    Ok(Evaluations { also, ..first.evaluations() })
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
        let rows: Vec<Vec<String>> = matrix.iter().map(|row| row.iter().map(u64::to_string).collect()).collect();
        let names = labels.iter().map(String::as_str);
        let first = name_width(names.clone());
        let width = names.chain(rows.iter().flatten().map(String::as_str)).map(|cell| cell.chars().count()).max();
        let width = width.unwrap_or_default();
        let line = |name: &str, cells: &[String]| -> String {
            cells.iter().fold(format!("  {name:<first$}"), |line, cell| format!("{line}  {cell:>width$}"))
        };
        let _ = writeln!(text, "\n{}", line("true \\ predicted", labels));
        for (label, counts) in labels.iter().zip(&rows) {
            let _ = writeln!(text, "{}", line(label, counts));
        }
    }
    for (title, slices) in [("by length in tokens", &analysis.by_length), ("by value", &analysis.by)] {
        if !slices.is_empty() {
            let _ = writeln!(text, "\n  {title}");
        }
        let width = name_width(slices.iter().map(|slice| slice.value.as_str()));
        for Slice { value, n, metrics, intervals } in slices {
            let shown: Vec<String> = metrics
                .iter()
                .map(|(name, &value)| format!("{name} {}", score_text(value, intervals.get(name))))
                .collect();
            let value = if value.is_empty() { "(empty)" } else { value };
            let _ = writeln!(text, "  {value:<width$}{n:>7} examples  {}", shown.join("  "));
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

/// Width of a column of names, with room for the longest.
fn name_width<'a>(names: impl Iterator<Item = &'a str>) -> usize {
    names.map(|name| name.chars().count()).max().unwrap_or_default().max(18)
}

/// Scores for people; the precision is named where the model has one of several.
pub fn table(result: &EvaluationResult, precision: Option<Precision>) -> String {
    let precision = precision.map(|precision| format!(", in {precision}")).unwrap_or_default();
    let mut text = format!("{} {}: {} examples{precision}\n", result.task, result.split, result.n);
    let names = result.metrics.iter().map(|(name, _)| name);
    let width = name_width(names.chain(result.by_type.iter().map(|(name, _)| name)));
    // Writing to a string cannot fail.
    for (name, value) in result.metrics.iter() {
        let _ = write!(text, "  {name:<width$}{:>7.2}", 100.0 * value);
        if let Some(interval) = result.intervals.get(name) {
            let _ = write!(text, "  [{:.2}, {:.2}]", 100.0 * interval.low, 100.0 * interval.high);
        }
        text.push('\n');
    }
    if let Some(error) = result.calibration_error {
        let _ = writeln!(text, "  {:<width$}{:>7.2}", "calibration error", 100.0 * error);
    }
    for (name, scores) in result.by_type.iter() {
        let _ = writeln!(
            text,
            "  {name:<width$}{:>7.2}  precision {:.2}, recall {:.2}, of {}",
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_stand_under_their_headers_however_long_names_and_numbers_are() {
        let labels = ["no", "an uncommonly long label"].map(str::to_owned).to_vec();
        let confusion = Some(Confusion { labels, matrix: vec![vec![12345, 0], vec![7, 8]] });
        let mut text = String::new();
        describe(&Analysis { confusion, ..Analysis::default() }, &mut text);
        let lines: Vec<&str> = text.lines().skip(1).collect();
        let ends = |line: &str, cell: &str| line.find(cell).map(|at| at + cell.len());
        assert_eq!(lines.len(), 3);
        assert_eq!(ends(lines[0], "  no"), ends(lines[1], "12345"));
        assert_eq!((lines[1].len(), lines[2].len()), (lines[0].len(), lines[0].len()), "{text}");

        let result = EvaluationResult {
            task: "squad".to_owned(),
            split: "dev".to_owned(),
            n: 2,
            metrics: [("f1", 1.0), ("no_answer_exact_match", 0.5)].into_iter().collect(),
            intervals: Default::default(),
            calibration_error: None,
            by_type: Default::default(),
            null_thresholds: None,
            skipped: 0,
            truncated: 0,
        };
        let text = table(&result, None);
        let lines: Vec<&str> = text.lines().skip(1).take(2).collect();
        assert_eq!(lines[0].len(), lines[1].len(), "{text}");
        assert!(lines[1].ends_with("no_answer_exact_match  50.00"), "{text}");
    }
}
