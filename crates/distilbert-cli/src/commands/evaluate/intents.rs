//! Scoring a model for intents and slots: both, and utterances in which all is right.

use super::EvaluateArgs;
use super::outcome::{Against, PREDICTIONS_FILE, Scored, read_other, warn};
use super::outputs;
use crate::calibration;
use crate::console::Console;
use crate::intent_model::IntentModel;
use anyhow::{Context, bail};
use distilbert::data::examples::{Label, Split};
use distilbert::data::intents::{self, UtteranceSet};
use distilbert::evaluate::IntentPredictions;
use distilbert::evaluate::intent_predictions::SENTENCE_ACCURACY;
use distilbert::evaluate::statistics::{Bootstrap, mcnemar, paired_bootstrap};
use distilbert::predict::intents::{utterances, windows};
use distilbert::progress::Progress;
use distilbert_kernels::Runtime;
use std::path::Path;

/// Name of the task in options and results.
pub const INTENTS: &str = "intents";

/// Scores the model on a split.
///
/// # Errors
/// If the data does not fit, or a file cannot be read or written.
pub fn run(args: &EvaluateArgs, path: &Path, rt: &Runtime, console: &Console) -> anyhow::Result<()> {
    let of_texts_only = [
        ("--submission", args.submission.is_some()),
        ("--text-column", args.text_column.is_some()),
        ("--pair-column", args.pair_column.is_some()),
        ("--label-column", args.label_column.is_some()),
        ("--by", args.by.is_some()),
    ];
    if let Some((flag, _)) = of_texts_only.into_iter().find(|(_, given)| *given) {
        bail!("{flag}: expected a classifier of texts, found a model for intents and slots");
    }
    let mut model = IntentModel::load(args.precision, &args.model, rt, console)?;
    if args.calibrate {
        args.check_calibrate()?;
        // Fitted to the model's own outputs, whatever was fitted before.
        model.temperature = 1.0;
    }
    let data = intents::load(path, args.split())?;
    outputs::check(args, name(&model), &[], console)?;
    let other = read_other(args.against.as_deref(), IntentPredictions::read)?;
    let mut scored = score(&model, &data, args.max_length, args.split(), rt, console)?;
    scored.model = Some(args.model.clone());
    warn(&scored.result, 0, console);
    if let Some((file, theirs)) = &other {
        scored.analysis.against = Some(against(file, &scored.predictions, theirs)?);
    }
    if args.by_length {
        scored.analysis.by_length = scored.predictions.by_length(&Bootstrap::default())?;
    }
    if args.calibrate {
        let truths: Vec<Label> =
            scored.predictions.rows.iter().map(|row| calibration::class(&model.intents, &row.intent)).collect();
        let fitted = calibration::fit(name(&model), args.split(), &truths, &scored.logits)?;
        scored.analysis.calibration = Some(fitted);
    }
    if let Some(folder) = &args.output {
        write(folder, &scored)?;
    }
    if let Some(fitted) = &scored.analysis.calibration {
        calibration::store(Path::new(&args.model), fitted, console)?;
    }
    scored.print(args.json)
}

/// The paired tests against another model's predictions, of utterances in which all is right.
fn against(file: &Path, ours: &IntentPredictions, theirs: &IntentPredictions) -> anyhow::Result<Against> {
    let tested = || -> anyhow::Result<Against> {
        let outcomes = |predictions: &IntentPredictions| {
            let found = predictions.outcomes(SENTENCE_ACCURACY)?;
            found.context("sentences are scored")
        };
        let ((ours, metric), (theirs, _)) = (outcomes(ours)?, outcomes(theirs)?);
        let test = paired_bootstrap(&ours, &theirs, metric, &Bootstrap::default())?;
        let exact = mcnemar(&ours, &theirs)?;
        Ok(Against { file: file.to_owned(), metric: SENTENCE_ACCURACY.to_owned(), test, mcnemar: Some(exact) })
    };
    tested().with_context(|| file.display().to_string())
}

/// Runs the model over a split and scores it; utterances of any length, by windows.
///
/// # Errors
/// If the model cannot take an utterance, or the user asked to stop.
pub fn score(
    model: &IntentModel,
    data: &UtteranceSet,
    max_length: Option<usize>,
    split: Split,
    rt: &Runtime,
    console: &Console,
) -> anyhow::Result<Scored<IntentPredictions>> {
    let name = name(model);
    let unknown = |count: usize, what: &str| {
        if count > 0 {
            let all = data.utterances.len();
            console.warn(&format!("{count} of {all} utterances have {what} that the model does not know"));
        }
    };
    let without = |known: &dyn Fn(&intents::Utterance) -> bool| data.utterances.iter().filter(|u| !known(u)).count();
    unknown(without(&|utterance| model.intents.contains(&utterance.intent)), "an intent");
    unknown(without(&|utterance| utterance.sentence.tags.iter().all(|tag| model.slots.contains(tag))), "a slot");
    let windows = windows(&data.utterances, &model.tokenizer, model.max_length(max_length)?, rt.threads());
    let what = format!("evaluating on {name} {split}");
    let said = utterances(rt, &model.model, &windows, model.temperature, &what, console)?;
    if console.stop_requested() {
        bail!("stopped");
    }
    let mut predictions = IntentPredictions::new(name, split);
    let mut logits = Vec::with_capacity(data.utterances.len());
    for ((utterance, said), &tokens) in data.utterances.iter().zip(said).zip(&windows.tokens) {
        predictions.push(utterance, said.intent, said.tags, tokens);
        logits.push(said.intent_logits);
    }
    let result = predictions.result(&Bootstrap::default(), data.skipped.len())?;
    Ok(Scored { logits, ..Scored::new(result, predictions, model.model.precision()) })
}

/// The task's name.
fn name(model: &IntentModel) -> &str {
    model.saved.as_ref().map_or(INTENTS, |saved| saved.name.as_str())
}

/// Writes scores and predictions.
///
/// # Errors
/// If a file cannot be written.
pub fn write(folder: &Path, scored: &Scored<IntentPredictions>) -> anyhow::Result<()> {
    let mut bytes = Vec::new();
    scored.predictions.write(&mut bytes)?;
    scored.evaluations().write(folder, &[(PREDICTIONS_FILE.to_owned(), bytes)])
}
