//! `distilbert evaluate`: the official scores of a model on labelled data. Classifiers of texts and words are scored in
//! `labelled`, question answerers in `answers`, sentence encoders in `similarity` and `retrieval` beside this, several
//! files in `evaluate_files`.

pub mod answers; // question answering
pub mod intents; // intents and slots
mod labelled; // classifiers of texts and of words
mod languages; // which file is which language's
mod outcome; // scores as files and tables
mod outputs; // what must not be replaced

pub use labelled::{score, score_words};
pub use outcome::{EVALUATION_FILE, Evaluations, Scored, predictions_file, score_text, table, warn, warn_cut, write};
pub use outputs::QUERIES_FILE;

use super::{evaluate_files, retrieval, similarity};
use crate::classifier::{Classifier, problem_name};
use crate::console::Console;
use crate::precision::PrecisionArgs;
use crate::sentence_encoder::{HeadFlags, PoolingChoice, SentenceEncoder};
use crate::{calibration, model_source, output};
use answers::{AnswerArgs, SQUAD};
use anyhow::{Context, bail};
use clap::Args;
use distilbert::checkpoint::model_folder::read_config;
use distilbert::checkpoint::write_atomic;
use distilbert::data::examples::{self, Columns, DataError, DataSet, Layout, Problem, Scan, Split, Task, TaskKind};
use distilbert::data::tagging::{self, WordColumns};
use distilbert::evaluate::{check_submission, submission};
use distilbert::model::HeadKind;
use distilbert_kernels::Runtime;
use labelled::{Beside, analyse, has_labels};
use outcome::{describe, evaluations};
use std::path::{Path, PathBuf};

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
    /// A GLUE task (sst2, mnli, ...), squad, or the model's own task [default: what the model was fine-tuned for]
    #[arg(long, value_name = "NAME")]
    task: Option<String>,
    #[command(flatten)]
    source: Source,
    /// Which part of the data: train, dev, dev_mismatched, test or test_mismatched [default: dev; of a collection test]
    #[arg(long, conflicts_with = "qrels")]
    split: Option<Split>,
    /// With --languages: the language that the model was fine-tuned on, by its code.
    #[arg(long, value_name = "CODE", default_value = "en", conflicts_with_all = ["data", "file", "retrieval"])]
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
    /// The judgements of the collection [default: qrels/SPLIT.tsv in it]
    #[arg(long, value_name = "FILE", conflicts_with_all = ["data", "file", "languages"])]
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
    #[arg(
        long,
        value_name = "DIR",
        conflicts_with_all = ["task", "text_column", "pair_column", "label_column", "no_header"]
    )]
    retrieval: Option<PathBuf>,
}

impl EvaluateArgs {
    /// The part asked for, of what is no collection.
    pub(super) fn split(&self) -> Split {
        self.split.unwrap_or(Split::Dev)
    }

    /// Checks that a temperature can be fitted and stored.
    fn check_calibrate(&self) -> anyhow::Result<()> {
        if !Path::new(&self.model).is_dir() {
            bail!("--calibrate stores a temperature beside the model: expected a local folder, found `{}`", self.model);
        }
        if self.split() == Split::Train {
            bail!("--calibrate: expected examples that the model was not trained on, found --split train");
        }
        Ok(())
    }
}

/// Runs the command.
///
/// # Errors
/// If model, task and data do not fit together, or a file cannot be read or written.
pub fn run(args: &EvaluateArgs, rt: &Runtime, console: &Console) -> anyhow::Result<()> {
    let head = read_config(&model_source::resolve(&args.model, console)?)?.head;
    let is_collection = args.source.retrieval.is_some();
    let asks_questions = !is_collection && (args.task.as_deref() == Some(SQUAD) || head == HeadKind::QuestionAnswering);
    if !asks_questions && args.answers != AnswerArgs::default() {
        let flags = "--doc-stride, --max-answer-length, --n-best, --null-threshold and --mlqa-language";
        bail!("{flags}: expected a question answerer, found {}", head.class_suffix());
    }
    let is_encoder = matches!(head, HeadKind::None | HeadKind::MaskedLm | HeadKind::Embedding(_));
    if is_collection || (is_encoder && !asks_questions) {
        return run_sentence_encoder(args, rt, console);
    }
    let encoders_only = [("--pooling", args.pooling.is_some()), ("--dimensions", args.dimensions.is_some())];
    if let Some((flag, _)) = encoders_only.into_iter().find(|(_, given)| *given) {
        bail!("{flag}: expected a sentence encoder, found {}", head.class_suffix());
    }
    let several: Vec<(Option<String>, PathBuf)> = match (&args.source.languages, &args.source.file[..]) {
        (Some(folder), _) => {
            let files = languages::files(folder, args.split(), &args.source_language)?;
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
        args.check_calibrate()?;
        if task.problem == Problem::Regression {
            bail!("--calibrate: expected examples with classes, found {}", problem_name(task.problem));
        }
        // Fitted to the model's own outputs, whatever was fitted before.
        classifier.temperature = 1.0;
    }
    let max_length = classifier.max_length(args.max_length, task.defaults.max_len)?;

    let mut scored = Vec::new();
    if task.problem.is_of_words() {
        let data = tagging::load(&task, path, args.split())?;
        outputs::check(args, &task.name, &[tagging::find_file(path, args.split())?], console)?;
        let beside = Beside::read(args, path, &task, &[])?;
        let mut split = score_words(&classifier, &data, max_length, rt, console)?;
        warn(&split.result, max_length, console);
        split.analysis = analyse(args, &beside, &task, &split)?;
        scored.push(split);
        return finish(args, scored, console);
    }
    let sets = load(args, path, &task)?;
    if args.submission.is_some() {
        check_submission(&task.name, args.split())?;
    }
    let analyses = args.by_length || args.by.is_some() || args.against.is_some() || args.calibrate;
    if let Some(data) = sets.iter().find(|data| !has_labels(data)) {
        if analyses {
            bail!("{}: expected labels to score, found none", path.display());
        }
        if args.output.is_none() && args.submission.is_none() {
            bail!(
                "{}: split {} has no labels to score; ask for a --submission or --output",
                path.display(),
                data.split
            );
        }
    }
    let inputs: Vec<PathBuf> =
        sets.iter().map(|data| Scan::of(&task, data.split).find_file(path)).collect::<Result<_, _>>()?;
    outputs::check(args, &task.name, &inputs, console)?;
    let examples = sets.first().map_or(&[][..], |data| &data.examples);
    let beside = Beside::read(args, path, &task, examples)?;
    for data in &sets {
        let split = score(&classifier, data, max_length, rt, console)?;
        warn(&split.result, max_length, console);
        scored.push(split);
    }
    if let Some(first) = scored.first_mut() {
        first.analysis = analyse(args, &beside, &task, first)?;
    }
    finish(args, scored, console)
}

/// Writes and prints what was scored, and stores a temperature that was fitted.
fn finish(args: &EvaluateArgs, mut scored: Vec<Scored>, console: &Console) -> anyhow::Result<()> {
    scored.iter_mut().for_each(|split| split.model = Some(args.model.clone()));
    if let Some(folder) = &args.output {
        write(folder, &scored)?;
    }
    if let (Some(path), Some(first)) = (&args.submission, scored.first()) {
        let (name, text) = submission(&first.predictions)?;
        write_atomic(path, text.as_bytes())?;
        console.say(&format!("{}: {name} of a GLUE submission", path.display()));
    }
    // Last: what goes wrong before must not change the model.
    if let Some(calibration) = scored.first().and_then(|first| first.analysis.calibration.as_ref()) {
        calibration::store(Path::new(&args.model), calibration, console)?;
    }
    if args.json {
        evaluations(&scored)?.print()
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
    let (name, model) = (args.model.as_str(), &encoder);
    let (dimensions, json, output) = (args.dimensions, args.json, args.output.as_deref());
    if let Some(folder) = &args.source.retrieval {
        let file = format!("{}.tsv", args.split.unwrap_or(Split::Test));
        let qrels = args.qrels.clone().unwrap_or_else(|| folder.join("qrels").join(file));
        let task = folder.file_name().unwrap_or_default().to_string_lossy();
        outputs::check(args, &task, &[folder.join("corpus.jsonl"), folder.join(QUERIES_FILE), qrels.clone()], console)?;
        let (qrels, task) = (&qrels, &task);
        let request = retrieval::Request { name, model, against, dimensions, task, folder, qrels, json, output };
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
        (None, None) if args.pair_column.is_none() => None,
        _ => bail!("expected both --text-column and --label-column"),
    };
    let task = similarity::task(args.task.as_deref(), columns, path)?;
    let data = similarity::pairs(&task, path, args.split())?;
    if !has_labels(&data) {
        bail!("{}: split {} has no scores to compare with", path.display(), data.split);
    }
    outputs::check(args, &task.name, &[Scan::of(&task, data.split).find_file(path)?], console)?;
    let request = similarity::Request { name, model, against, dimensions, json, output };
    similarity::run(&request, &data, rt, console)
}

/// The task of words asked for: what the model was fine-tuned for, or what its labels define, read from the columns
/// asked for.
pub(super) fn word_task(args: &EvaluateArgs, path: &Path, tagger: &Classifier) -> anyhow::Result<Task> {
    if args.pair_column.is_some() || args.submission.is_some() {
        bail!("--pair-column and --submission: the model tags words, which have neither pairs nor a GLUE server");
    }
    if args.by.is_some() {
        bail!("--by: expected a classifier of texts, found a tagger of words");
    }
    if args.no_header {
        bail!("--no-header: expected a classifier of texts, found a tagger of words, whose files need no header");
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
    let mut sets = vec![examples::load(task, path, args.split())?];
    let mismatched = match args.split() {
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
