//! `distilbert evaluate`: the official scores of a model on labelled data. Classifiers of texts and words are scored here,
//! question answerers in `answers`, sentence encoders in `similarity` and `retrieval`, several files in `evaluate_files`.

pub mod answers; // question answering
mod languages; // which file is which language's
pub mod intents; // intents and slots

use super::{evaluate_files, retrieval, similarity};
use crate::classifier::Classifier;
use crate::console::Console;
use crate::precision::PrecisionArgs;
use crate::sentence_encoder::{HeadFlags, PoolingChoice, SentenceEncoder};
use crate::{calibration, model_source, output};
use answers::{AnswerArgs, SQUAD};
use anyhow::{Context, bail};
use clap::Args;
use distilbert::checkpoint::model_folder::read_config;
use distilbert::checkpoint::write_atomic;
use distilbert::data::encoded::EncodedSet;
use distilbert::data::examples::{
    self, Columns, DataError, DataSet, Label, Layout, Metric, Scan, Split, Task, TaskKind,
};
use distilbert::data::tagging::words::WordWindows;
use distilbert::data::tagging::{self, TaggedSet, WordColumns};
use distilbert::evaluate::metrics::confusion_matrix;
use distilbert::evaluate::slices::{Slice, by_length, by_value};
use distilbert::evaluate::statistics::Bootstrap;
use distilbert::evaluate::statistics::{Interval, McNemar, PairedTest, mcnemar, paired_bootstrap};
use distilbert::evaluate::{Calibration, EvaluationResult, Predictions, submission};
use distilbert::model::HeadKind;
use distilbert::predict;
use distilbert::progress::Progress;
use distilbert_kernels::{Precision, Runtime};
use serde::{Deserialize, Serialize};
use std::collections::{HashMap, HashSet};
use std::fmt::Write;
use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};

/// File of an evaluation's scores.
pub const EVALUATION_FILE: &str = "evaluation.json";

/// Different values of a column that examples are scored by; more are hardly meant.
const MAX_SLICES: usize = 100;

/// Labels up to which people see the confusion matrix; JSON always has it.
const SHOWN_LABELS: usize = 12;

/// File of the predictions that [`EVALUATION_FILE`] is about.
pub const PREDICTIONS_FILE: &str = "predictions.jsonl";

/// Score a model on labelled data with the task's official metrics.
///
/// A classifier of texts or words is scored on the task's labels, a question answerer by exact match and F1. A sentence
/// encoder is scored on pairs with a number each (how well the similarity of its embeddings follows them), or on a
/// collection of documents with judged queries.
#[derive(Debug, Args)]
pub struct EvaluateArgs {
    /// The fine-tuned model.
    #[arg(long, value_name = "MODEL")]
    pub(super) model: String,
    #[command(flatten)]
    pub(super) precision: PrecisionArgs,
    /// A GLUE task (sst2, mnli, ...), or squad [default: what the model was fine-tuned for]
    #[arg(long, value_name = "NAME")]
    task: Option<String>,
    #[command(flatten)]
    source: Source,
    /// Which part of the data: train, dev, dev_mismatched, test or test_mismatched.
    #[arg(long, default_value_t = Split::Dev)]
    pub(super) split: Split,
    /// With --languages: the language that the model was fine-tuned on, by its code.
    #[arg(long, value_name = "CODE", default_value = "en", requires = "languages")]
    source_language: String,
    /// Column of the text in a CSV, TSV or JSONL file: its name, or its number from 1 with --no-header; of the words in a
    /// file of tagged words.
    #[arg(long, value_name = "COLUMN")]
    text_column: Option<String>,
    /// Column of the second text of a pair.
    #[arg(long, value_name = "COLUMN")]
    pair_column: Option<String>,
    /// Column of the label.
    #[arg(long, value_name = "COLUMN")]
    label_column: Option<String>,
    /// The CSV or TSV file has no header line; columns are named by their numbers.
    #[arg(long, requires = "text_column")]
    no_header: bool,
    /// Cut inputs to this many tokens [default: as the model was trained, or the task's]
    #[arg(long, value_name = "TOKENS")]
    pub(super) max_length: Option<usize>,
    /// Also score the examples by their length in tokens.
    #[arg(long)]
    by_length: bool,
    /// Also score the examples by their values in this column of the file.
    #[arg(long, value_name = "COLUMN")]
    by: Option<String>,
    /// Test the difference to another model on the same examples: to its predictions.jsonl, or of a sentence encoder to
    /// the model itself.
    #[arg(long, value_name = "FILE|MODEL")]
    against: Option<String>,
    /// Fit a temperature to these examples, which should be neither training nor test data, and store it in the model's
    /// folder; `predict` and `evaluate` then divide logits by it. Labels stay the same, probabilities become honest.
    #[arg(long)]
    calibrate: bool,
    /// A sentence encoder: how states become one vector [default: as its folder says, or the mean]
    #[arg(long, value_enum)]
    pooling: Option<PoolingChoice>,
    /// A sentence encoder: compare the first numbers of the embeddings only.
    #[arg(long, value_name = "N")]
    dimensions: Option<usize>,
    /// The judgements of the collection [default: qrels/test.tsv in it]
    #[arg(long, value_name = "FILE", requires = "retrieval")]
    qrels: Option<PathBuf>,
    #[command(flatten, next_help_heading = "Question answering")]
    answers: AnswerArgs,
    /// Print one line of JSON.
    #[arg(long, help_heading = "Results")]
    pub(super) json: bool,
    /// Also write evaluation.json and predictions.jsonl (of a collection queries.jsonl) there.
    #[arg(long, short, value_name = "DIR", help_heading = "Results")]
    output: Option<PathBuf>,
    /// Also write the predictions as the file that the GLUE server takes.
    #[arg(long, value_name = "FILE.tsv", help_heading = "Results")]
    submission: Option<PathBuf>,
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
struct Source {
    /// Folder that holds the split's file (dev.tsv, ...), or the task's folder (SST-2/).
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// The split's file itself. Given several times, each is scored, in one table with the mean and the gap between
    /// the first and the others: the languages of XNLI, for example.
    #[arg(long, value_name = "FILE")]
    file: Vec<PathBuf>,
    /// A folder with a file for each language (dev-de.tsv, xquad.de.json, ...) or a folder for each: all are scored, in one
    /// table with the mean and the gap between --source-language and the others.
    #[arg(long, value_name = "DIR")]
    languages: Option<PathBuf>,
    /// For a sentence encoder: a collection in the layout of BEIR (corpus.jsonl, queries.jsonl, qrels/test.tsv).
    #[arg(long, value_name = "DIR")]
    retrieval: Option<PathBuf>,
}

/// One split's scores, with the predictions they come from.
pub struct Scored {
    /// The scores; without metrics if the split has no labels.
    pub result: EvaluationResult,
    /// The predictions.
    pub predictions: Predictions,
    /// What the model multiplied in.
    pub precision: Precision,
    /// The model's outputs in the order of the task's labels, before any temperature; a row for each prediction.
    logits: Vec<Vec<f32>>,
    analysis: Analysis,
}

impl Scored {
    /// Scores of predictions that do not come from logits of classes.
    pub fn new(result: EvaluationResult, predictions: Predictions, precision: Precision) -> Scored {
        Scored { result, predictions, precision, logits: Vec::new(), analysis: Analysis::default() }
    }
}

/// What else was asked for.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Analysis {
    /// `[truth][predicted]`, counts of examples in the order of the task's labels.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    confusion: Option<Confusion>,
    /// `--by-length`
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    by_length: Vec<Slice>,
    /// `--by`
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    by: Vec<Slice>,
    /// `--against`
    #[serde(default, skip_serializing_if = "Option::is_none")]
    against: Option<Against>,
    /// `--calibrate`
    #[serde(default, skip_serializing_if = "Option::is_none")]
    calibration: Option<Calibration>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Confusion {
    labels: Vec<String>,
    matrix: Vec<Vec<u64>>,
}

/// This model against another on the same examples.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Against {
    /// The other's predictions.
    file: PathBuf,
    metric: String,
    #[serde(flatten)]
    test: PairedTest,
    /// For accuracy, and for exact match beside F1: the first is this model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    mcnemar: Option<McNemar>,
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
    analysis: Analysis,
}

/// Runs the command.
///
/// # Errors
/// If model, task and data do not fit together, or a file cannot be read or written.
pub fn run(args: &EvaluateArgs, rt: &Runtime, console: &Console) -> anyhow::Result<()> {
    let head = read_config(&model_source::resolve(&args.model, console)?)?.head;
    let asks_questions = args.task.as_deref() == Some(SQUAD) || head == HeadKind::QuestionAnswering;
    if !asks_questions && args.answers != AnswerArgs::default() {
        let flags = "--doc-stride, --max-answer-length, --n-best, --null-threshold and --mlqa-language";
        bail!("{flags}: expected a question answerer, found {}", head.class_suffix());
    }
    let is_encoder = matches!(head, HeadKind::None | HeadKind::MaskedLm | HeadKind::Embedding(_));
    if args.source.retrieval.is_some() || (is_encoder && !asks_questions) {
        return run_sentence_encoder(args, rt, console);
    }
    let encoders_only = [("--pooling", args.pooling.is_some()), ("--dimensions", args.dimensions.is_some())];
    if let Some((flag, _)) = encoders_only.into_iter().find(|(_, given)| *given) {
        bail!("{flag}: expected a sentence encoder, found {}", head.class_suffix());
    }
    let several: Vec<(Option<String>, PathBuf)> = match (&args.source.languages, &args.source.file[..]) {
        (Some(folder), _) => {
            let files = languages::files(folder, args.split, &args.source_language)?;
            files.into_iter().map(|(language, path)| (Some(language), path)).collect()
        }
        (None, [_]) => Vec::new(),
        (None, paths) => paths.iter().map(|path| (None, path.clone())).collect(),
    };
    let path = match (&args.source.data, &args.source.file[..]) {
        (Some(path), _) | (None, [path]) => path,
        (None, []) if several.is_empty() => bail!("expected --data or --file"),
        (None, _) => {
            let one_file = args.output.is_some()
                || args.submission.is_some()
                || args.by_length
                || args.by.is_some()
                || args.against.is_some()
                || args.calibrate;
            if one_file {
                bail!("expected one --file with --output, --submission, --by-length, --by, --against or --calibrate");
            }
            return match asks_questions {
                true => answers::run_files(args, &several, rt, console),
                false => evaluate_files::run(args, &several, rt, console),
            };
        }
    };
    if asks_questions {
        return answers::run(args, path, rt, console);
    }
    if matches!(head, HeadKind::IntentsAndSlots { .. }) {
        return intents::run(args, path, rt, console);
    }
    let mut classifier = Classifier::load_in(args.precision, &args.model, rt, console)?;
    let task = match classifier.problem.is_of_words() {
        true => word_task(args, path, &classifier)?,
        false => task(args, path, &classifier)?,
    };
    if args.calibrate {
        if !Path::new(&args.model).is_dir() {
            bail!("--calibrate stores a temperature beside the model: expected a local folder, found `{}`", args.model);
        }
        if args.split == Split::Train {
            bail!("--calibrate: expected examples that the model was not trained on, found --split train");
        }
        // Fitted to the model's own outputs, whatever was fitted before.
        classifier.temperature = 1.0;
    }
    let max_length = classifier.max_length(args.max_length, task.defaults.max_len)?;

    let mut scored = Vec::new();
    if task.problem.is_of_words() {
        let data = tagging::load(&task, path, args.split)?;
        let split = score_words(&classifier, &data, max_length, rt, console)?;
        warn(&split.result, max_length, console);
        scored.push(split);
        return finish(args, &scored, console);
    }
    for data in load(args, path, &task)? {
        if !has_labels(&data) && args.output.is_none() && args.submission.is_none() {
            bail!(
                "{}: split {} has no labels to score; ask for a --submission or --output",
                path.display(),
                data.split
            );
        }
        let split = score(&classifier, &data, max_length, rt, console)?;
        warn(&split.result, max_length, console);
        scored.push(split);
    }
    if let Some(first) = scored.first_mut() {
        first.analysis = analyse(args, path, &task, first)?;
        if let Some(calibration) = &first.analysis.calibration {
            calibration::write(Path::new(&args.model), calibration)?;
        }
    }
    finish(args, &scored, console)
}

/// Writes and prints what was scored.
fn finish(args: &EvaluateArgs, scored: &[Scored], console: &Console) -> anyhow::Result<()> {
    if let Some(folder) = &args.output {
        write(folder, scored)?;
    }
    if let (Some(path), Some(first)) = (&args.submission, scored.first()) {
        let (name, text) = submission(&first.predictions)?;
        write_atomic(path, text.as_bytes())?;
        console.say(&format!("{}: {name} of a GLUE submission", path.display()));
    }
    if args.json {
        let mut line = serde_json::to_string(&evaluations(scored)?)?;
        line.push('\n');
        output::print(&line)
    } else {
        let mut text =
            scored.iter().map(|split| table(&split.result, Some(split.precision))).collect::<Vec<_>>().join("\n");
        scored.iter().for_each(|split| describe(&split.analysis, &mut text));
        output::print(&text)
    }
}

fn run_sentence_encoder(args: &EvaluateArgs, rt: &Runtime, console: &Console) -> anyhow::Result<()> {
    let classifiers_only = [
        ("--submission", args.submission.is_some()),
        ("--by-length", args.by_length),
        ("--by", args.by.is_some()),
        ("--calibrate", args.calibrate),
    ];
    if let Some((flag, _)) = classifiers_only.into_iter().find(|(_, given)| *given) {
        bail!("{flag}: expected a classifier, found a sentence encoder");
    }
    let flags = HeadFlags { pooling: args.pooling, normalize: None, precision: args.precision.named()? };
    let load_encoder = |name: &str| SentenceEncoder::load(name, flags, args.max_length, rt, console);
    let encoder = load_encoder(&args.model)?;
    let other = args.against.as_deref().map(|name| Ok::<_, anyhow::Error>((name, load_encoder(name)?))).transpose()?;
    let against = other.as_ref().map(|(name, encoder)| (*name, encoder));
    let (dimensions, json, output) = (args.dimensions, args.json, args.output.as_deref());
    if let Some(folder) = &args.source.retrieval {
        let qrels = args.qrels.as_deref();
        let request = retrieval::Request { model: &encoder, against, dimensions, folder, qrels, json, output };
        return retrieval::run(&request, rt, console);
    }
    let path = match (&args.source.data, &args.source.file[..]) {
        (Some(path), _) | (None, [path]) => path,
        (None, files) => bail!("expected --data, --retrieval or one --file, found {} files", files.len()),
    };
    let columns = match (&args.text_column, &args.label_column) {
        (Some(text), Some(label)) => {
            let pair = args.pair_column.clone();
            Some(Columns { pair, header: !args.no_header, ..Columns::new(text, label) })
        }
        (None, None) => None,
        _ => bail!("expected both --text-column and --label-column"),
    };
    let task = similarity::task(args.task.as_deref(), columns, path)?;
    let data = similarity::pairs(&task, path, args.split)?;
    if !has_labels(&data) {
        bail!("{}: split {} has no scores to compare with", path.display(), data.split);
    }
    let request = similarity::Request { model: &encoder, against, dimensions, json, output };
    similarity::run(&request, &data, rt, console)
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
    let counts = (data.skipped.len(), encoded.truncated);
    let metrics = if has_labels(data) { &data.task.metrics[..] } else { &[] };
    let result = if metrics.is_empty() {
        unscored(&predictions, counts)
    } else {
        EvaluationResult::new(&predictions, metrics, &Bootstrap::default(), counts)?
    };
    let precision = classifier.model.precision();
    Ok(Scored { result, predictions, precision, logits: rows, analysis: Analysis::default() })
}

/// What else was asked for.
fn analyse(args: &EvaluateArgs, path: &Path, task: &Task, scored: &Scored) -> anyhow::Result<Analysis> {
    let (predictions, bootstrap) = (&scored.predictions, Bootstrap::default());
    if scored.result.metrics.is_empty() {
        if args.by_length || args.by.is_some() || args.against.is_some() || args.calibrate {
            bail!("{}: expected labels to score, found none", path.display());
        }
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
    if let Some(column) = &args.by {
        let scan =
            Scan { layout: task.layout.clone(), task: task.name.clone(), problem: task.problem, split: args.split };
        let file = scan.find_file(path)?;
        let values: HashMap<usize, String> = scan.column(&file, column)?.into_iter().collect();
        let values: Vec<String> =
            predictions.rows.iter().map(|row| values.get(&row.id).cloned().unwrap_or_default()).collect();
        let different = values.iter().collect::<HashSet<_>>().len();
        if different > MAX_SLICES {
            bail!("--by: expected a column of at most {MAX_SLICES} different values, found {different} in `{column}`");
        }
        analysis.by = by_value(predictions, &values, &task.metrics, &bootstrap)?;
    }
    if let (Some(file), Some(&metric)) = (&args.against, task.metrics.first()) {
        let file = PathBuf::from(file);
        let reader = File::open(&file).with_context(|| file.display().to_string())?;
        let other = Predictions::read(BufReader::new(reader)).with_context(|| file.display().to_string())?;
        let (ours, theirs) = (predictions.outcomes()?, other.outcomes()?);
        let test = paired_bootstrap(&ours, &theirs, metric, &bootstrap).with_context(|| file.display().to_string())?;
        let exact = (metric == Metric::Accuracy).then(|| mcnemar(&ours, &theirs)).transpose()?;
        analysis.against = Some(Against { file, metric: metric.name().to_owned(), test, mcnemar: exact });
    }
    if args.calibrate {
        analysis.calibration = Some(calibration::fit(predictions, &scored.logits)?);
    }
    Ok(analysis)
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
    let windows = WordWindows::new(&data.sentences, &tagger.tokenizer, max_length, rt.threads());
    let what = format!("evaluating on {} {}", data.task.name, data.split);
    let logits = predict::logits(rt, &tagger.model, &windows.encoded, &what, console)?;
    if console.stop_requested() {
        bail!("stopped");
    }
    let words = predict::word_logits(&windows, &logits, outputs.len());
    let mut predictions = Predictions::new(&data.task, data.split);
    for ((sentence, rows), &tokens) in data.sentences.iter().zip(words).zip(&windows.tokens) {
        let by_label = |row: &Vec<f32>| outputs.iter().map(|&output| row[output]).collect();
        let rows: Vec<Vec<f32>> = rows.iter().map(by_label).collect();
        predictions.push_words(sentence, &rows, tokens).with_context(|| format!("line {}", sentence.line))?;
    }
    let counts = (data.skipped.len(), 0);
    let result = EvaluationResult::new(&predictions, &data.task.metrics, &Bootstrap::default(), counts)?;
    Ok(Scored::new(result, predictions, tagger.model.precision()))
}

/// The task of words asked for: what the model was fine-tuned for, or what its labels define, read from the columns
/// asked for.
pub(super) fn word_task(args: &EvaluateArgs, path: &Path, tagger: &Classifier) -> anyhow::Result<Task> {
    if args.pair_column.is_some() || args.submission.is_some() {
        bail!("--pair-column and --submission: the model tags words, which have neither pairs nor a GLUE server");
    }
    if args.by_length || args.by.is_some() || args.against.is_some() || args.calibrate {
        bail!("--by-length, --by, --against and --calibrate: expected a classifier of texts, found a tagger of words");
    }
    let saved = tagger.saved.as_ref().map(|saved| &saved.task);
    let columns = match saved {
        Some(Task { layout: Layout::Words(columns), .. }) => columns.clone(),
        _ => WordColumns::default(),
    };
    let columns = WordColumns {
        words: args.text_column.clone().or(columns.words),
        tags: args.label_column.clone().or(columns.tags),
    };
    let file = path.file_stem().unwrap_or_default().to_string_lossy();
    let task = match saved {
        Some(task) if task.problem == tagger.problem => Task { layout: Layout::Words(columns), ..task.clone() },
        _ => tagger.own_word_task(&file, columns),
    };
    Ok(Task { name: args.task.clone().unwrap_or(task.name), ..task })
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

fn has_labels(data: &DataSet) -> bool {
    data.examples.iter().all(|example| example.label != Label::None)
}

/// The task asked for, read from the columns asked for.
pub(super) fn task(args: &EvaluateArgs, path: &Path, classifier: &Classifier) -> anyhow::Result<Task> {
    let saved = classifier.saved.as_ref().map(|saved| &saved.task);
    let base = match (&args.task, saved) {
        (Some(name), Some(saved)) if *name == saved.name => Some(saved.clone()),
        (Some(name), _) => Some(Task::glue(name)?),
        (None, saved) => saved.cloned(),
    };
    let columns = match &base {
        Some(Task { layout: Layout::Columns(columns), .. }) => Some(columns.clone()),
        _ => None,
    };
    if args.text_column.is_none() && args.pair_column.is_none() && args.label_column.is_none() {
        return base.context(
            "the model does not say what it was fine-tuned for; name a --task, or --text-column and --label-column",
        );
    }
    let mut columns = match (columns, &args.text_column, &args.label_column) {
        (Some(columns), ..) => columns,
        (None, Some(text), Some(label)) => Columns::new(text, label),
        _ => bail!("expected both --text-column and --label-column"),
    };
    let set = |column: &mut String, flag: &Option<String>| flag.iter().for_each(|name| column.clone_from(name));
    set(&mut columns.text, &args.text_column);
    set(&mut columns.label, &args.label_column);
    if args.pair_column.is_some() {
        columns.pair.clone_from(&args.pair_column);
    }
    if args.text_column.is_some() {
        columns.header = !args.no_header;
    }
    Ok(match base {
        Some(task) => {
            let kind = if columns.pair.is_some() { TaskKind::Pair } else { TaskKind::Single };
            Task { kind, layout: Layout::Columns(columns), ..task }
        }
        None => classifier.own_task(&path.file_stem().unwrap_or_default().to_string_lossy(), columns),
    })
}

/// The split; of a folder of MNLI also its mismatched half, unless one file for the server is wanted.
fn load(args: &EvaluateArgs, path: &Path, task: &Task) -> anyhow::Result<Vec<DataSet>> {
    let mut sets = vec![examples::load(task, path, args.split)?];
    let mismatched = match args.split {
        Split::Dev => Some(Split::DevMismatched),
        Split::Test => Some(Split::TestMismatched),
        _ => None,
    };
    let has_halves = task.name == "mnli" && task.layout == Layout::Glue && path.is_dir();
    if let Some(split) = mismatched.filter(|_| has_halves && args.submission.is_none()) {
        match examples::load(task, path, split) {
            Ok(data) => sets.push(data),
            Err(DataError::MissingFile { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(sets)
}

pub(super) fn warn(result: &EvaluationResult, max_length: usize, console: &Console) {
    let EvaluationResult { task, split, n, .. } = result;
    if result.truncated > 0 {
        let truncated = result.truncated;
        console.warn(&format!("{task} {split}: {truncated} of {n} inputs were cut to {max_length} tokens"));
    }
    if result.skipped > 0 {
        console.warn(&format!("{task} {split}: {} rows of the file were left out", result.skipped));
    }
}

fn evaluations(scored: &[Scored]) -> anyhow::Result<Evaluations> {
    let mut results = scored.iter().map(|split| split.result.clone());
    let result = results.next().context("nothing was scored")?;
    let analysis = scored.first().map(|split| split.analysis.clone()).unwrap_or_default();
    let precision = scored.first().map(|split| split.precision.to_string());
    Ok(Evaluations { result, precision, also: results.collect(), analysis })
}

pub fn write(folder: &Path, scored: &[Scored]) -> anyhow::Result<()> {
    for (index, split) in scored.iter().enumerate() {
        let mut bytes = Vec::new();
        split.predictions.write(&mut bytes)?;
        write_atomic(&folder.join(predictions_file(index, &split.result.split)), &bytes)?;
    }
    // Last, so that scores never stand beside another evaluation's predictions.
    let mut text = serde_json::to_string_pretty(&evaluations(scored)?)?;
    text.push('\n');
    Ok(write_atomic(&folder.join(EVALUATION_FILE), text.as_bytes())?)
}

/// Where the predictions of the `index`th result of an evaluation are.
pub fn predictions_file(index: usize, split: &str) -> String {
    if index == 0 { PREDICTIONS_FILE.to_owned() } else { format!("predictions-{split}.jsonl") }
}

fn describe(analysis: &Analysis, text: &mut String) {
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
pub(super) fn score_text(value: f64, interval: Option<&Interval>) -> String {
    let interval = interval.map(|interval| format!(" [{:.2}, {:.2}]", 100.0 * interval.low, 100.0 * interval.high));
    format!("{:.2}{}", 100.0 * value, interval.unwrap_or_default())
}

/// Scores for people; the precision is named where the model has one of several.
pub(super) fn table(result: &EvaluationResult, precision: Option<Precision>) -> String {
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
