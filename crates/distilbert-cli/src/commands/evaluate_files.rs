//! `distilbert evaluate` on several files: one model, one task, one table, such as the languages of XNLI.

use super::evaluate::{EvaluateArgs, score, score_text, score_words, task, warn, word_task};
use crate::classifier::Classifier;
use crate::console::Console;
use crate::output;
use anyhow::{Context, bail};
use distilbert::data::{examples, tagging};
use distilbert::evaluate::EvaluationResult;
use distilbert_kernels::Runtime;
use serde::Serialize;
use std::fmt::Write;
use std::path::{Path, PathBuf};

/// What `--json` prints.
#[derive(Serialize)]
struct Files {
    /// In the order in which they were named.
    files: Vec<FileResult>,
    /// The task's main metric, which the means are of.
    metric: String,
    /// Mean over all files.
    mean: f64,
    /// Mean over the files after the first, if there are any.
    mean_of_others: Option<f64>,
    /// The first file's score minus the mean of the others: what is lost on the way from one language to others.
    gap: Option<f64>,
}

#[derive(Serialize)]
struct FileResult {
    /// Of what is scored by languages, the code.
    #[serde(skip_serializing_if = "Option::is_none")]
    language: Option<String>,
    file: PathBuf,
    #[serde(flatten)]
    result: EvaluationResult,
}

/// Scores a classifier of texts or words on each file.
///
/// # Errors
/// If model, task and a file do not fit together, or a file has no labels.
pub fn run(
    args: &EvaluateArgs,
    files: &[(Option<String>, PathBuf)],
    rt: &Runtime,
    console: &Console,
) -> anyhow::Result<()> {
    let (_, first) = files.first().context("expected --file")?;
    let classifier = Classifier::load_in(args.precision, &args.model, rt, console)?;
    let of_words = classifier.problem.is_of_words();
    let task = if of_words { word_task(args, first, &classifier)? } else { task(args, first, &classifier)? };
    let max_length = classifier.max_length(args.max_length, task.defaults.max_len)?;
    each(files, args.json, console, |_, path| {
        let result = if of_words {
            score_words(&classifier, &tagging::load(&task, path, args.split())?, max_length, rt, console)?.result
        } else {
            score(&classifier, &examples::load(&task, path, args.split())?, max_length, rt, console)?.result
        };
        warn(&result, max_length, console);
        Ok(result)
    })
}

/// Prints what `score` finds on each file, of its language if that is known, with the means. Warnings say which file
/// they are about.
///
/// # Errors
/// If a file cannot be scored or has no labels.
pub fn each(
    named: &[(Option<String>, PathBuf)],
    json: bool,
    console: &Console,
    mut score: impl FnMut(Option<&str>, &Path) -> anyhow::Result<EvaluationResult>,
) -> anyhow::Result<()> {
    let mut files = Vec::new();
    for (language, path) in named {
        let name = language.clone().unwrap_or_else(|| path.display().to_string());
        let result = console.about(&name, || score(language.as_deref(), path))?;
        if result.metrics.is_empty() {
            bail!("{}: expected labels to score, found none", path.display());
        }
        files.push(FileResult { language: language.clone(), file: path.clone(), result });
    }
    let scores: Vec<(&str, f64)> = files.iter().filter_map(|file| file.result.main_metric()).collect();
    let Some((&(metric, own), others)) = scores.split_first() else { bail!("expected a metric, found none") };
    let sum: f64 = others.iter().map(|(_, score)| score).sum();
    let mean_of_others = (!others.is_empty()).then(|| sum / others.len() as f64);
    let (metric, mean) = (metric.to_owned(), (own + sum) / scores.len() as f64);
    let gap = mean_of_others.map(|others| own - others);
    let found = Files { files, metric, mean, mean_of_others, gap };
    let mut text = if json { serde_json::to_string(&found)? } else { table(&found) };
    text.push('\n');
    output::print(&text)
}

fn table(found: &Files) -> String {
    let name = |file: &FileResult| file.language.clone().unwrap_or_else(|| file.file.display().to_string());
    let width = found.files.iter().map(|file| name(file).chars().count()).max().unwrap_or(0).max(16);
    let by_language = found.files.iter().any(|file| file.language.is_some());
    let mut text = format!("{:<width$}  examples  {}", if by_language { "language" } else { "file" }, found.metric);
    // Writing to a string cannot fail.
    for file in &found.files {
        let result = &file.result;
        let value = result.main_metric().map_or(f64::NAN, |(_, value)| value);
        let shown = score_text(value, result.intervals.get(&found.metric));
        let _ = write!(text, "\n{:<width$}  {:>8}  {shown}", name(file), result.n);
    }
    let means = [("mean", Some(found.mean)), ("mean of others", found.mean_of_others), ("gap to first", found.gap)];
    for (what, value) in means {
        let shown = value.map_or("-".to_owned(), |value| format!("{:.2}", 100.0 * value));
        let _ = write!(text, "\n{what:<width$}            {shown}");
    }
    text + "\nin hundredths, with 95 % bootstrap intervals"
}
