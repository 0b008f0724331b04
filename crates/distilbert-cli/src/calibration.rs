//! The temperature beside a model: fitted by `evaluate --calibrate`, used by whatever runs a classifier.

use crate::console::Console;
use crate::gather::read_json;
use anyhow::{Context, bail};
use distilbert::checkpoint::write_atomic;
use distilbert::data::examples::{Label, Split};
use distilbert::evaluate::Predictions;
use distilbert::evaluate::calibration::{
    Calibration, TEMPERATURES, calibration_error, fit_temperature, negative_log_likelihood,
};
use distilbert::evaluate::metrics::argmax;
use distilbert::evaluate::predictions::softmax;
use std::path::Path;

/// Name of the file in a model's folder. `transformers` ignores it.
const CALIBRATION_FILE: &str = "calibration.json";

/// What was fitted for the model of this folder; `None` if nothing was.
///
/// # Errors
/// If the file cannot be read or holds no temperature.
pub fn read(folder: &Path) -> anyhow::Result<Option<Calibration>> {
    let path = folder.join(CALIBRATION_FILE);
    let found: Option<Calibration> = read_json(&path)?;
    if let Some(Calibration { temperature, .. }) = &found
        && !(temperature.is_finite() && *temperature > 0.0)
    {
        bail!("{}: expected a temperature above 0, found {temperature}", path.display());
    }
    Ok(found)
}

/// The temperature that was fitted, or 1.
///
/// # Errors
/// As [`read`].
pub fn temperature(folder: &Path) -> anyhow::Result<f64> {
    Ok(read(folder)?.map_or(1.0, |calibration| calibration.temperature))
}

/// Tells of a temperature that no minimum gave, but the end of the search.
fn warn_of_end(calibration: &Calibration, console: &Console) {
    let (sharpest, softest) = TEMPERATURES;
    let why = match calibration.temperature {
        temperature if temperature <= sharpest => {
            "a sharper one would fit better still, as where every answer is right"
        }
        temperature if temperature >= softest => {
            "a softer one would fit better still, as where the answers tell nothing of the labels"
        }
        _ => return,
    };
    let temperature = calibration.temperature;
    console.warn(&format!(
        "--calibrate: the temperature is {temperature}, an end of the search from {sharpest} to {softest}: {why}"
    ));
}

/// Stores it in the model's folder.
///
/// # Errors
/// If the file cannot be written.
pub fn store(folder: &Path, calibration: &Calibration, console: &Console) -> anyhow::Result<()> {
    let mut text = serde_json::to_string_pretty(calibration)?;
    text.push('\n');
    write_atomic(&folder.join(CALIBRATION_FILE), text.as_bytes())?;
    warn_of_end(calibration, console);
    Ok(())
}

/// What is true of each of a model's answers: a label for each prediction or, of a tagger, for each word.
pub fn truths(predictions: &Predictions) -> Vec<Label> {
    let rows = predictions.rows.iter();
    let labels = rows.flat_map(|row| match &row.label {
        Label::Tags(tags) => tags.iter().map(|tag| class(&predictions.labels, tag)).collect(),
        label => vec![label.clone()],
    });
    labels.collect()
}

/// The label of this name, if the model knows it: else it has no logit.
pub fn class(labels: &[String], name: &str) -> Label {
    labels.iter().position(|label| label == name).map_or(Label::None, Label::Class)
}

/// Fits a temperature to logits as the model gives them, a row for each label.
///
/// # Errors
/// If no example has a class or a set of labels.
pub fn fit(task: &str, split: Split, labels: &[Label], logits: &[Vec<f32>]) -> anyhow::Result<Calibration> {
    let rows: Vec<(&[f32], &Label)> = logits.iter().map(Vec::as_slice).zip(labels).collect();
    let temperature = fit_temperature(&rows).context("--calibrate: expected examples with classes, found none")?;
    let nll = |temperature| negative_log_likelihood(rows.iter().copied(), temperature);
    let error = |temperature: f64| {
        let mut decisions = (rows.iter())
            .filter_map(|(logits, label)| match label {
                Label::Class(class) => {
                    let scaled: Vec<f32> = logits.iter().map(|&x| (f64::from(x) / temperature) as f32).collect();
                    let (probabilities, best) = (softmax(&scaled), argmax(&scaled));
                    Some((probabilities[best], best == *class))
                }
                _ => None,
            })
            .peekable();
        decisions.peek().is_some().then(|| calibration_error(decisions))
    };
    Ok(Calibration {
        temperature,
        task: task.to_owned(),
        split: split.name().to_owned(),
        n: labels.iter().filter(|label| !matches!(label, Label::None)).count(),
        nll_before: nll(1.0),
        nll_after: nll(temperature),
        calibration_error_before: error(1.0),
        calibration_error_after: error(temperature),
    })
}
