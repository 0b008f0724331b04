//! Scoring classifiers of texts and of words on labelled data.

use super::EvaluateArgs;
use super::outcome::{Against, Analysis, Confusion, Scored, read_other};
use crate::calibration;
use crate::classifier::Classifier;
use crate::console::Console;
use anyhow::{Context, bail};
use distilbert::data::encoded::EncodedSet;
use distilbert::data::examples::{DataSet, Example, Label, Metric, Scan, Task, TaskKind};
use distilbert::data::tagging::words::WordWindows;
use distilbert::data::tagging::{self, TaggedSet};
use distilbert::evaluate::metrics::confusion_matrix;
use distilbert::evaluate::slices::{by_length, by_value};
use distilbert::evaluate::statistics::{Bootstrap, mcnemar, paired_bootstrap};
use distilbert::evaluate::{EvaluationResult, Predictions};
use distilbert::predict;
use distilbert::progress::Progress;
use distilbert_kernels::Runtime;
use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};

/// Different values of a column that examples are scored by; more are hardly meant.
const MAX_SLICES: usize = 100;

/// Sentences whose logits exist at a time.
const SENTENCES_AT_A_TIME: usize = 512;

/// A part of work that shows how far the whole is.
struct Part<'a>(&'a Console);

impl Progress for Part<'_> {
    fn begin(&self, _what: &str, _total: Option<u64>, _unit: &'static str) {}
    fn advance(&self, _done: u64) {}
    fn end(&self) {}
    fn stop_requested(&self) -> bool {
        self.0.stop_requested()
    }
}

/// Runs the classifier over a split and scores it. Model and task labels are matched by name.
///
/// # Errors
/// If model and task do not fit, the model cannot take an input, or the user asked to stop.
pub fn score(
    classifier: &Classifier,
    data: &DataSet,
    max_length: usize,
    rt: &Runtime,
    console: &Console,
) -> anyhow::Result<Scored> {
    classifier.check_kind(data.task.kind == TaskKind::Pair)?;
    let outputs = classifier.outputs_for(&data.task)?;
    if !outputs.is_sorted() {
        let pairs = data.task.labels.iter().zip(&outputs).map(|(label, output)| format!("{label} = output {output}"));
        console
            .say(&format!("note: the model's labels stand in another order: {}", pairs.collect::<Vec<_>>().join(", ")));
    }
    let encoded = EncodedSet::new(data, &classifier.tokenizer, max_length, rt.threads());
    let what = format!("evaluating on {} {}", data.task.name, data.split);
    let logits = predict::logits(rt, &classifier.model, &encoded, &what, console)?;
    if console.stop_requested() {
        bail!("stopped");
    }
    let mut predictions = Predictions::new(&data.task, data.split);
    let mut rows = Vec::with_capacity(data.examples.len());
    for (index, (example, tokens)) in data.examples.iter().zip(encoded.lengths()).enumerate() {
        let row = logits.of(index);
        // `outputs` are below the row's width: both come from the model's labels.
        let row: Vec<f32> = outputs.iter().map(|&output| row[output]).collect();
        predictions
            .push(example, &classifier.calibrated(&row), tokens)
            .with_context(|| format!("line {}", example.line))?;
        rows.push(row);
    }
    let counts = (data.skipped.len(), encoded.truncated.len());
    let metrics = if has_labels(data) { &data.task.metrics[..] } else { &[] };
    let result = if metrics.is_empty() {
        unscored(&predictions, counts)
    } else {
        EvaluationResult::new(&predictions, metrics, &Bootstrap::default(), counts)?
    };
    let precision = classifier.model.precision();
    Ok(Scored { logits: rows, ..Scored::new(result, predictions, precision) })
}

/// Runs the tagger over a split and scores it; sentences of any length, by windows.
///
/// # Errors
/// As [`score`].
pub fn score_words(
    tagger: &Classifier,
    data: &TaggedSet,
    max_length: usize,
    rt: &Runtime,
    console: &Console,
) -> anyhow::Result<Scored> {
    let outputs = tagger.outputs_for(&data.task)?;
    let unknown: Vec<_> = tagging::unknown(&data.task, &data.sentences).collect();
    if let Some(first) = unknown.first() {
        let (count, all) = (unknown.len(), data.sentences.len());
        console.warn(&format!(
            "{count} of {all} sentences have a tag that the model does not know, such as `{}`; it counts as missed",
            first.name
        ));
    }
    let (mut predictions, mut of_words) = (Predictions::new(&data.task, data.split), Vec::new());
    console.begin(
        &format!("evaluating on {} {}", data.task.name, data.split),
        Some(data.sentences.len() as u64),
        "sentences",
    );
    // Logits of tokens exist for some sentences at a time: there are many more of them than of words.
    for sentences in data.sentences.chunks(SENTENCES_AT_A_TIME) {
        let windows = WordWindows::new(sentences, &tagger.tokenizer, max_length, rt.threads());
        let logits = predict::logits(rt, &tagger.model, &windows.encoded, "", &Part(console))?;
        if console.stop_requested() {
            console.end();
            bail!("stopped");
        }
        let words = predict::word_logits(&windows, &logits, outputs.len());
        for ((sentence, rows), &tokens) in sentences.iter().zip(words).zip(&windows.tokens) {
            let by_label = |row: &Vec<f32>| outputs.iter().map(|&output| row[output]).collect();
            let rows: Vec<Vec<f32>> = rows.iter().map(by_label).collect();
            let calibrated: Vec<Vec<f32>> = rows.iter().map(|row| tagger.calibrated(row)).collect();
            predictions.push_words(sentence, &calibrated, tokens).with_context(|| format!("line {}", sentence.line))?;
            of_words.extend(rows);
        }
        console.advance(sentences.len() as u64);
    }
    console.end();
    let counts = (data.skipped.len(), 0);
    let result = EvaluationResult::new(&predictions, &data.task.metrics, &Bootstrap::default(), counts)?;
    Ok(Scored { logits: of_words, ..Scored::new(result, predictions, tagger.model.precision()) })
}

/// What analyses need beside the scores, read before anything is scored.
pub struct Beside {
    /// `--by`: of each example the value of the column.
    values: Option<Vec<String>>,
    /// `--against`: the other's predictions.
    other: Option<(PathBuf, Predictions)>,
}

impl Beside {
    /// Reads it.
    ///
    /// # Errors
    /// If a column or file is missing.
    pub fn read(args: &EvaluateArgs, path: &Path, task: &Task, examples: &[Example]) -> anyhow::Result<Beside> {
        let values =
            args.by.as_ref().map(|column| values(&Scan::of(task, args.split()), path, column, examples)).transpose()?;
        Ok(Beside { values, other: read_other(args.against.as_deref(), Predictions::read)? })
    }
}

fn values(scan: &Scan, path: &Path, column: &str, examples: &[Example]) -> anyhow::Result<Vec<String>> {
    let of_lines: HashMap<usize, String> = scan.column(&scan.find_file(path)?, column)?.into_iter().collect();
    let of_example = |example: &Example| of_lines.get(&example.line).cloned().unwrap_or_default();
    let values: Vec<String> = examples.iter().map(of_example).collect();
    let different = values.iter().collect::<HashSet<_>>().len();
    if different > MAX_SLICES {
        bail!("--by: expected a column of at most {MAX_SLICES} different values, found {different} in `{column}`");
    }
    Ok(values)
}

/// What else was asked for; nothing of examples without labels.
///
/// # Errors
/// If the other model's predictions are of other examples.
pub fn analyse(args: &EvaluateArgs, beside: &Beside, task: &Task, scored: &Scored) -> anyhow::Result<Analysis> {
    let (predictions, bootstrap) = (&scored.predictions, Bootstrap::default());
    if scored.result.metrics.is_empty() {
        return Ok(Analysis::default());
    }
    let matrix = confusion_matrix(&predictions.outcomes()?).ok();
    let mut analysis = Analysis {
        confusion: matrix.map(|matrix| Confusion { labels: predictions.labels.clone(), matrix }),
        ..Analysis::default()
    };
    if args.by_length {
        analysis.by_length = by_length(predictions, &task.metrics, &bootstrap)?;
    }
    if let Some(values) = &beside.values {
        analysis.by = by_value(predictions, values, &task.metrics, &bootstrap)?;
    }
    if let (Some((file, other)), Some(&metric)) = (&beside.other, task.metrics.first()) {
        let (ours, theirs) = (predictions.outcomes()?, other.outcomes()?);
        let test = paired_bootstrap(&ours, &theirs, metric, &bootstrap).with_context(|| file.display().to_string())?;
        let exact = (metric == Metric::Accuracy).then(|| mcnemar(&ours, &theirs)).transpose()?;
        analysis.against = Some(Against { file: file.clone(), metric: metric.name().to_owned(), test, mcnemar: exact });
    }
    if args.calibrate {
        let truths = calibration::truths(predictions);
        analysis.calibration = Some(calibration::fit(&task.name, predictions.split, &truths, &scored.logits)?);
    }
    Ok(analysis)
}

fn unscored(predictions: &Predictions, (skipped, truncated): (usize, usize)) -> EvaluationResult {
    EvaluationResult {
        task: predictions.task.clone(),
        split: predictions.split.name().to_owned(),
        n: predictions.rows.len(),
        metrics: Default::default(),
        intervals: Default::default(),
        calibration_error: None,
        by_type: Default::default(),
        null_thresholds: None,
        skipped,
        truncated,
    }
}

/// Whether every example has a label.
pub fn has_labels(data: &DataSet) -> bool {
    data.examples.iter().all(|example| example.label != Label::None)
}
