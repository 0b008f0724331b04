//! Whether a classifier's probabilities mean what they say, and the temperature that mends them.

use serde::{Deserialize, Serialize};

use crate::data::examples::Label;

/// Bins of equal width in which confidence and accuracy are compared.
const BINS: usize = 15;

/// Sharpest and softest temperature that a fit gives: beyond, all probabilities are equal, or 0 and 1.
pub const TEMPERATURES: (f64, f64) = (0.01, 100.0);

/// Halvings of the interval of the fit: more than a double has digits.
const HALVINGS: usize = 100;

/// A temperature, as it lies beside the model that it belongs to: logits are divided by it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Calibration {
    /// Above 1 softens the probabilities, below 1 sharpens them. Which is the largest does not change.
    pub temperature: f64,
    /// Task that it was fitted on.
    pub task: String,
    /// Part of its data.
    pub split: String,
    /// Examples; of a tagger words.
    pub n: usize,
    /// [`negative_log_likelihood`] of these with temperature 1.
    pub nll_before: f64,
    /// With the temperature.
    pub nll_after: f64,
    /// Expected calibration error of these with temperature 1; `None` unless each has one class.
    pub calibration_error_before: Option<f64>,
    /// With the temperature.
    pub calibration_error_after: Option<f64>,
}

/// Decisions of about the same confidence: on an example, or on a word.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct ConfidenceBin {
    /// How many.
    pub n: u64,
    /// How many of them are right.
    pub right: u64,
    /// Sum of their confidences, which are largest probabilities.
    pub confidences: f64,
}

/// Decisions by confidence, each with whether it is right: bin m of 15, from 1, holds those in ((m-1)/15, m/15]. A
/// confidence that is not finite is left out.
pub fn confidence_bins(decisions: impl IntoIterator<Item = (f32, bool)>) -> Vec<ConfidenceBin> {
    let mut bins = vec![ConfidenceBin::default(); BINS];
    for (confidence, is_right) in decisions.into_iter().filter(|(confidence, _)| confidence.is_finite()) {
        let confidence = f64::from(confidence);
        let bin = ((confidence * BINS as f64).ceil() as usize).saturating_sub(1).min(BINS - 1);
        bins[bin].n += 1;
        bins[bin].right += u64::from(is_right);
        bins[bin].confidences += confidence;
    }
    bins
}

/// Expected calibration error: the mean gap between confidence (largest probability) and accuracy over 15 bins of
/// equal width, weighted by the bins' decisions. 0 is calibrated, 1 is always certain and always wrong; 0 of none.
///
/// # Source
/// Guo et al. 2017 (arXiv:1706.04599), equation 3.
pub fn calibration_error(decisions: impl IntoIterator<Item = (f32, bool)>) -> f64 {
    let bins = confidence_bins(decisions);
    let n: u64 = bins.iter().map(|bin| bin.n).sum();
    let gaps: f64 = bins.iter().map(|bin| (bin.right as f64 - bin.confidences).abs()).sum();
    if n == 0 { 0.0 } else { gaps / n as f64 }
}

/// Mean of -ln p of what is true, in nats: of the class, or of the whole set of labels (a sum over the labels). Rows without
/// a label count for nothing; 0 of no rows.
pub fn negative_log_likelihood<'a>(rows: impl IntoIterator<Item = (&'a [f32], &'a Label)>, temperature: f64) -> f64 {
    let (mut sum, mut n) = (0.0, 0usize);
    for (logits, label) in rows {
        let scaled: Vec<f64> = logits.iter().map(|&logit| f64::from(logit) / temperature).collect();
        sum += match label {
            Label::Class(class) => {
                let largest = scaled.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                let powers: f64 = scaled.iter().map(|&x| (x - largest).exp()).sum();
                largest + powers.ln() - scaled.get(*class).copied().unwrap_or(largest)
            }
            Label::Classes(set) => {
                set.iter().zip(&scaled).map(|(&applies, &x)| softplus(if applies { -x } else { x })).sum()
            }
            Label::Score(_) | Label::Tags(_) | Label::None => continue,
        };
        n += 1;
    }
    if n == 0 { 0.0 } else { sum / n as f64 }
}

/// ln(1 + e^x)
fn softplus(x: f64) -> f64 {
    x.max(0.0) + (-x.abs()).exp().ln_1p()
}

/// The temperature of the least [`negative_log_likelihood`], from 0.01 to 100; `None` without a labelled row.
///
/// In β = 1/T the likelihood is convex, so its derivative has one zero, which halving finds: the same bits on every run.
///
/// # Source
/// Guo et al. 2017 (arXiv:1706.04599), section 4.2.
pub fn fit_temperature(rows: &[(&[f32], &Label)]) -> Option<f64> {
    if !rows.iter().any(|(_, label)| matches!(label, Label::Class(_) | Label::Classes(_))) {
        return None;
    }
    let (mut low, mut high) = (1.0 / TEMPERATURES.1, 1.0 / TEMPERATURES.0);
    if slope(rows, low) >= 0.0 {
        return Some(TEMPERATURES.1);
    }
    if slope(rows, high) <= 0.0 {
        return Some(TEMPERATURES.0);
    }
    for _ in 0..HALVINGS {
        // Geometric: the ends lie four powers of ten apart.
        let middle = (low * high).sqrt();
        if slope(rows, middle) < 0.0 { low = middle } else { high = middle }
    }
    Some(1.0 / (low * high).sqrt())
}

/// Derivative by β of the sum of -ln p: the logit expected minus the logit of what is true.
fn slope(rows: &[(&[f32], &Label)], beta: f64) -> f64 {
    let of_row = |(logits, label): &(&[f32], &Label)| -> f64 {
        let logits = logits.iter().map(|&logit| f64::from(logit));
        match label {
            Label::Class(class) => {
                let largest = logits.clone().fold(f64::NEG_INFINITY, f64::max);
                let powers = logits.clone().map(|x| (beta * (x - largest)).exp());
                let expected: f64 = powers.clone().zip(logits.clone()).map(|(power, x)| power * x).sum();
                expected / powers.sum::<f64>() - logits.clone().nth(*class).unwrap_or(largest)
            }
            Label::Classes(set) => {
                set.iter().zip(logits).map(|(&applies, x)| x * (sigmoid(beta * x) - f64::from(u8::from(applies)))).sum()
            }
            Label::Score(_) | Label::Tags(_) | Label::None => 0.0,
        }
    };
    rows.iter().map(of_row).sum()
}

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    /// Logits and labels of a case of `calibration.json`, and what is expected of them.
    fn cases() -> Vec<(Vec<Vec<f32>>, Vec<Label>, Value)> {
        let text = include_str!("../../tests/goldens/calibration.json");
        let cases: Vec<Value> = serde_json::from_str(text).expect("JSON");
        let number = |value: &Value| value.as_f64().expect("a number") as f32;
        let list = |value: &Value| value.as_array().expect("a list").clone();
        let label = |value: &Value| match value {
            Value::Array(set) => Label::Classes(set.iter().map(|applies| applies == 1).collect()),
            class => Label::Class(class.as_u64().expect("a class") as usize),
        };
        let read = |case: Value| {
            let logits = list(&case["logits"]).iter().map(|row| list(row).iter().map(number).collect()).collect();
            (logits, list(&case["labels"]).iter().map(label).collect(), case["expected"].clone())
        };
        cases.into_iter().map(read).collect()
    }

    #[test]
    fn likelihood_and_temperature_equal_the_reference() {
        for (logits, labels, expected) in cases() {
            let rows: Vec<(&[f32], &Label)> = logits.iter().map(Vec::as_slice).zip(&labels).collect();
            let expected = |key: &str| expected[key].as_f64().expect("a number");
            let before = negative_log_likelihood(rows.iter().copied(), 1.0);
            assert!((before - expected("nll_before")).abs() < 1e-9, "{before}");
            let temperature = fit_temperature(&rows).expect("labels");
            assert!((temperature / expected("temperature") - 1.0).abs() < 1e-5, "{temperature}");
            let after = negative_log_likelihood(rows.iter().copied(), temperature);
            assert!((after - expected("nll_after")).abs() < 1e-9 && after <= before, "{after}");
        }
    }

    #[test]
    fn a_fit_without_an_end_stops_at_the_limits() {
        let (right, wrong) = (Label::Class(0), Label::Class(1));
        let logits = [1.0f32, 0.0];
        assert_eq!(fit_temperature(&[(&logits, &right)]), Some(0.01));
        assert_eq!(fit_temperature(&[(&logits, &wrong)]), Some(100.0));
        assert_eq!(fit_temperature(&[(&logits, &Label::None)]), None);
        // Extremes stay numbers.
        let extreme = [f32::MAX, f32::MIN];
        assert!(negative_log_likelihood([(&extreme[..], &wrong)], 1.0).is_finite());
        assert_eq!(fit_temperature(&[(&extreme, &wrong)]), Some(100.0));
    }

    #[test]
    fn confidences_are_counted_in_fifteenths() {
        let bins = confidence_bins([(1.0, true), (0.5, false), (0.62, true), (f32::NAN, true)]);
        let filled: Vec<(usize, u64, u64)> =
            bins.iter().enumerate().filter(|(_, bin)| bin.n > 0).map(|(at, bin)| (at, bin.n, bin.right)).collect();
        assert_eq!((bins.len(), filled), (15, vec![(7, 1, 0), (9, 1, 1), (14, 1, 1)]));
    }
}
