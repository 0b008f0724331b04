//! Scoring a question answerer: the official EM and F1, and what it says of every question.

use super::EvaluateArgs;
use super::outcome::{Against, PREDICTIONS_FILE, Scored, read_other};
use super::outputs::{self, OFFICIAL_FILES};
use crate::answerer::Answerer;
use crate::commands::evaluate_files;
use crate::console::Console;
use anyhow::{Context, bail};
use clap::Args;
use distilbert::data::examples::{Metric, Split};
use distilbert::data::questions::{self, AnswerLanguage, AnswerRules, Normalisation, QuestionSet, QuestionWindows};
use distilbert::data::questions::{AnsweringTask, SpanConfig, WindowConfig};
use distilbert::evaluate::AnswerPredictions;
use distilbert::evaluate::statistics::{Bootstrap, mcnemar, paired_bootstrap};
use distilbert::predict::answers;
use distilbert::progress::Progress;
use distilbert_kernels::Runtime;
use std::path::{Path, PathBuf};

/// The task that question answering is called by in options and results.
pub const SQUAD: &str = "squad";

/// Flags that only question answering has.
#[derive(Debug, Default, PartialEq, Args)]
pub struct AnswerArgs {
    /// Tokens of a long context that neighbouring windows share [default: as the model was trained, or 128]
    #[arg(long, value_name = "TOKENS")]
    doc_stride: Option<usize>,
    /// Longest answer in tokens [default: as the model was trained, or 30]
    #[arg(long, value_name = "TOKENS")]
    max_answer_length: Option<usize>,
    /// Answers that are kept of each question [default: as the model was trained, or 20]
    #[arg(long, value_name = "N")]
    n_best: Option<usize>,
    /// Give no answer where its odds are above this [default: as fitted in training, or always an answer]
    #[arg(long, value_name = "ODDS")]
    null_threshold: Option<f32>,
    /// Compare answers by MLQA's rules for this language of the contexts: en, es, hi, vi, de, ar or zh. With --languages
    /// by those of each file's own language.
    #[arg(long, value_name = "LANGUAGE")]
    mlqa_language: Option<AnswerLanguage>,
}

/// Scores the model on a file of questions.
///
/// # Errors
/// If the data does not fit, or a file cannot be read or written.
pub fn run(args: &EvaluateArgs, path: &Path, rt: &Runtime, console: &Console) -> anyhow::Result<()> {
    let answerer = load(args, rt, console)?;
    let task = answerer.saved.as_ref().map_or(SQUAD, |saved| saved.name.as_str());
    outputs::check(args, task, &[questions::find_file(path, args.split())?], console)?;
    let other = read_other(args.against.as_deref(), AnswerPredictions::read)?;
    let mut answered = answer_file(args, args.answers.mlqa_language, path, &answerer, rt, console)?;
    answered.model = Some(args.model.clone());
    if let Some((file, theirs)) = &other {
        answered.analysis.against = Some(against(file, &answered.predictions, theirs)?);
    }
    if args.by_length {
        answered.analysis.by_length = answered.predictions.by_length(&Bootstrap::default())?;
    }
    if let Some(folder) = &args.output {
        write(folder, &answered)?;
    }
    answered.print(args.json)
}

/// Scores the model on several files, such as the languages of XQuAD, in one table.
///
/// # Errors
/// As [`run`].
pub fn run_files(
    args: &EvaluateArgs,
    files: &[(Option<String>, PathBuf)],
    rt: &Runtime,
    console: &Console,
) -> anyhow::Result<()> {
    let answerer = load(args, rt, console)?;
    evaluate_files::each(files, args.json, console, |language, path| {
        // MLQA's rules for one language stand for those of each.
        let rules =
            args.answers.mlqa_language.map(|asked| language.and_then(|code| code.parse().ok()).unwrap_or(asked));
        Ok(answer_file(args, rules, path, &answerer, rt, console)?.result)
    })
}

fn load(args: &EvaluateArgs, rt: &Runtime, console: &Console) -> anyhow::Result<Answerer> {
    let of_texts_only = [
        ("--submission", args.submission.is_some()),
        ("--text-column", args.text_column.is_some()),
        ("--pair-column", args.pair_column.is_some()),
        ("--label-column", args.label_column.is_some()),
        ("--by", args.by.is_some()),
        ("--calibrate", args.calibrate),
    ];
    if let Some((flag, _)) = of_texts_only.into_iter().find(|(_, given)| *given) {
        bail!("{flag}: expected a classifier of texts, found question answering");
    }
    Answerer::load(args.precision, &args.model, rt, console)
}

fn answer_file(
    args: &EvaluateArgs,
    mlqa_language: Option<AnswerLanguage>,
    path: &Path,
    answerer: &Answerer,
    rt: &Runtime,
    console: &Console,
) -> anyhow::Result<Scored<AnswerPredictions>> {
    let data = questions::load(path, args.split())?;
    warn_misplaced(&data, console);
    let needs_golds = args.against.is_some() || args.by_length;
    if !data.is_labelled() && (args.output.is_none() || needs_golds) {
        let instead = if needs_golds { "" } else { "; ask for an --output" };
        bail!("{}: not all questions have gold answers to score{instead}", path.display());
    }
    let windows = answerer.windows(args.max_length, args.answers.doc_stride)?;
    let task = args.answers.task(answerer.saved.as_ref(), mlqa_language, windows, &data)?;
    let threshold = args.answers.threshold(answerer.saved.as_ref(), &data, console);
    answer(answerer, &task, threshold, &data, args.split(), rt, console)
}

/// The paired tests against another model's answers: of F1, and of exact match.
fn against(file: &Path, ours: &AnswerPredictions, theirs: &AnswerPredictions) -> anyhow::Result<Against> {
    let tested = || -> anyhow::Result<Against> {
        let (ours, theirs) = (ours.outcomes()?, theirs.outcomes()?);
        let test = paired_bootstrap(&ours, &theirs, Metric::F1, &Bootstrap::default())?;
        let exact = mcnemar(&ours, &theirs)?;
        let metric = Metric::F1.name().to_owned();
        Ok(Against { file: file.to_owned(), metric, test, mcnemar: Some(exact) })
    };
    tested().with_context(|| file.display().to_string())
}

impl AnswerArgs {
    /// What the model is asked here.
    fn task(
        &self,
        saved: Option<&AnsweringTask>,
        mlqa_language: Option<AnswerLanguage>,
        windows: WindowConfig,
        data: &QuestionSet,
    ) -> anyhow::Result<AnsweringTask> {
        let name = saved.map_or(SQUAD, |saved| saved.name.as_str());
        let normalisation = mlqa_language.map_or(Normalisation::Squad, Normalisation::Mlqa);
        let unanswerable = if data.is_labelled() {
            data.has_unanswerable()
        } else {
            saved.is_some_and(|saved| saved.rules.unanswerable)
        };
        let spans = saved.map_or(SpanConfig::default(), |saved| saved.spans);
        let spans = SpanConfig {
            n_best: self.n_best.unwrap_or(spans.n_best),
            max_answer_length: self.max_answer_length.unwrap_or(spans.max_answer_length),
        };
        if spans.n_best == 0 || spans.max_answer_length == 0 {
            bail!("--n-best and --max-answer-length: expected at least 1, found 0");
        }
        let rules = AnswerRules { normalisation, unanswerable };
        let mut task = AnsweringTask::new(name, rules);
        (task.windows, task.spans) = (windows, spans);
        Ok(task)
    }

    /// Where every question has an answer, one is always given, unless the flag says otherwise.
    fn threshold(&self, saved: Option<&AnsweringTask>, data: &QuestionSet, console: &Console) -> Option<f32> {
        if self.null_threshold.is_some() || (data.is_labelled() && !data.has_unanswerable()) {
            return self.null_threshold;
        }
        let threshold = saved.and_then(AnsweringTask::null_threshold);
        if threshold.is_none() && data.has_unanswerable() {
            console.warn(
                "some questions have no answer, but the model was trained where all have one and always answers; \
                 --null-threshold makes it abstain",
            );
        }
        threshold
    }
}

/// Answers a dev split as [`run`] does where no flag says otherwise.
///
/// # Errors
/// As [`answer`].
pub fn answer_as_saved(
    answerer: &Answerer,
    saved: &AnsweringTask,
    data: &QuestionSet,
    rt: &Runtime,
    console: &Console,
) -> anyhow::Result<Scored<AnswerPredictions>> {
    let usual = AnswerArgs::default();
    let task = usual.task(Some(saved), None, saved.windows, data)?;
    let threshold = usual.threshold(Some(saved), data, console);
    answer(answerer, &task, threshold, data, Split::Dev, rt, console)
}

/// Answers every question of a split and scores the answers.
///
/// # Errors
/// If the model cannot take a window, or the user asked to stop.
fn answer(
    answerer: &Answerer,
    task: &AnsweringTask,
    null_threshold: Option<f32>,
    data: &QuestionSet,
    split: Split,
    rt: &Runtime,
    console: &Console,
) -> anyhow::Result<Scored<AnswerPredictions>> {
    let windows = QuestionWindows::new(data, &answerer.tokenizer, task.windows, rt.threads())?;
    if windows.truncated_questions > 0 {
        console.warn(&format!(
            "{} of {} questions were cut, to leave room for their contexts",
            windows.truncated_questions,
            data.questions.len()
        ));
    }
    let what = format!("answering {} {split}", task.name);
    let found = answers::spans(rt, &answerer.model, &windows, task.spans, &what, console)?;
    if console.stop_requested() {
        bail!("stopped");
    }
    let mut predictions = AnswerPredictions::new(&task.name, split, task.rules, null_threshold);
    for (index, (question, found)) in data.questions.iter().zip(&found).enumerate() {
        let context = &data.contexts[question.context];
        predictions.push(question, context, windows.tokens(index), found, task.spans.n_best);
    }
    let result = if data.is_labelled() {
        predictions.result(&Bootstrap::default(), windows.truncated_questions)?
    } else {
        predictions.unscored(windows.truncated_questions)
    };
    Ok(Scored::new(result, predictions, answerer.model.precision()))
}

/// Writes `evaluation.json`, `predictions.jsonl`, and the two files that the official scripts take.
///
/// # Errors
/// If a file cannot be written.
pub fn write(folder: &Path, answered: &Scored<AnswerPredictions>) -> anyhow::Result<()> {
    let predictions = &answered.predictions;
    let mut bytes = Vec::new();
    predictions.write(&mut bytes)?;
    let files = [
        (PREDICTIONS_FILE.to_owned(), bytes),
        (OFFICIAL_FILES[0].to_owned(), predictions.official().to_string().into_bytes()),
        (OFFICIAL_FILES[1].to_owned(), predictions.official_null_odds().to_string().into_bytes()),
    ];
    answered.evaluations().write(folder, &files)
}

/// Tells of gold answers that are not where the file says; their words still count in scores.
pub fn warn_misplaced(data: &QuestionSet, console: &Console) {
    if let Some(first) = data.misplaced.first() {
        let count = data.misplaced.len();
        console.warn(&format!("{count} gold answers do not stand where the file says; the first: {}", first.reason));
    }
}
