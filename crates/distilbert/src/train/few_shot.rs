//! Learning from a few examples of each class by pairs: a sentence encoder is trained until texts of one class are alike
//! and others are not, and a logistic regression tells the classes apart by its embeddings.
//!
//! Source: Tunstall et al. 2022 (arXiv:2209.11055).

use crate::data::batch::Batch;
use crate::data::encoded::EncodedSet;
use crate::model::averaging::set_classifier;
use crate::model::encoder::Activations;
use crate::model::{InputError, Model};
use crate::random::Rng;
use crate::train::sentence::TextGroups;
use distilbert_kernels::Runtime;

/// So many examples of each class, or all if there are fewer, drawn by the seed; ascending.
pub fn draw(classes: &[usize], per_class: usize, seed: u64) -> Vec<usize> {
    const PURPOSE: u64 = 0xfe50;
    let mut order: Vec<usize> = (0..classes.len()).collect();
    Rng::from_key(&[seed, PURPOSE]).shuffle(&mut order);
    let mut counts = vec![0; classes.iter().max().map_or(0, |last| last + 1)];
    let mut drawn: Vec<usize> = order
        .into_iter()
        .filter(|&index| {
            let count: &mut usize = &mut counts[classes[index]];
            *count += 1;
            *count <= per_class
        })
        .collect();
    drawn.sort_unstable();
    drawn
}

/// Pairs of texts with their similarity: in each of `rounds` every text once with another of its class (1) and once with
/// one of another class (0), where there are such.
pub fn pairs(set: &EncodedSet, classes: &[usize], rounds: usize, seed: u64) -> TextGroups {
    const PURPOSE: u64 = 0xfe51;
    let mut rng = Rng::from_key(&[seed, PURPOSE]);
    let mut groups = TextGroups { texts: vec![EncodedSet::default(), EncodedSet::default()], targets: Vec::new() };
    for _ in 0..rounds {
        for (text, class) in classes.iter().enumerate() {
            let alike: Vec<usize> = (0..classes.len()).filter(|&o| o != text && classes[o] == *class).collect();
            let others: Vec<usize> = (0..classes.len()).filter(|&o| classes[o] != *class).collect();
            for (partners, target) in [(alike, 1.0), (others, 0.0)] {
                if let Some(&partner) = partners.get(rng.below(partners.len())) {
                    groups.texts[0].texts.push(set.texts[text].clone());
                    groups.texts[1].texts.push(set.texts[partner].clone());
                    groups.targets.push(target);
                }
            }
        }
    }
    groups
}

/// Fits the head of a classifier made of a sentence encoder ([`crate::model::averaging`]), packed, to texts of known
/// classes; the last layer alone changes.
///
/// # Errors
/// [`InputError`] if the model cannot take a text.
pub fn fit_head(rt: &Runtime, model: &mut Model, set: &EncodedSet, classes: &[usize]) -> Result<(), InputError> {
    let hidden = model.config.encoder.hidden;
    // States have mean 0 and standard deviation 1: so they are of length one, on which a penalty of one is usual.
    let scale = 1.0 / (hidden as f64).sqrt();
    let (mut activations, mut features) = (Activations::default(), Vec::new());
    for text in &set.texts {
        let batch = Batch::from_sequences([&text.input_ids[..]]);
        model.check(&batch)?;
        let state = model.encode_first(rt, &batch, &mut activations);
        features.extend(state.iter().map(|&x| scale * f64::from(x)));
    }
    let labels = model.config.head.outputs();
    let Regression { mut weight, bias } = logistic_regression(&features, classes, labels);
    weight.iter_mut().for_each(|weight| *weight *= scale);
    set_classifier(model, &weight, &bias);
    Ok(())
}

/// A linear that gives the logits of classes.
pub struct Regression {
    /// `[labels, width]`.
    pub weight: Vec<f64>,
    /// `[labels]`.
    pub bias: Vec<f64>,
}

/// The multinomial logistic regression that minimises `Σ cross-entropy + ½ ‖weight‖²`, as scikit-learn's with C = 1.
///
/// # Shapes
/// `features`: `[texts, width]`; `classes`: `[texts]`, each below `labels`
pub fn logistic_regression(features: &[f64], classes: &[usize], labels: usize) -> Regression {
    /// Far more than the accelerated descent needs for a gradient of rounding errors.
    const MOST_ITERATIONS: usize = 20_000;
    let width = features.len() / classes.len().max(1);
    let columns = width + 1; // the bias, whose feature is 1, comes last
    let squares: f64 = features.iter().map(|x| x * x).sum::<f64>() + classes.len() as f64;
    // The cross-entropy's second derivative by the logits is at most a half.
    let step = 1.0 / (0.5 * squares + 1.0);
    let (mut at, mut momentum) = (vec![0.0; labels * columns], 1.0f64);
    let mut ahead = at.clone();
    for _ in 0..MOST_ITERATIONS {
        let gradient = gradient(features, classes, &ahead, width);
        if gradient.iter().all(|d| d.abs() < 1e-9 * (1.0 + classes.len() as f64)) {
            break;
        }
        let next: Vec<f64> = ahead.iter().zip(&gradient).map(|(x, d)| x - step * d).collect();
        // Nesterov's momentum, begun anew where it points uphill (O'Donoghue and Candès 2012, section 3.2).
        let uphill =
            gradient.iter().zip(next.iter().zip(&at)).map(|(d, (next, at))| d * (next - at)).sum::<f64>() > 0.0;
        let after = if uphill { 1.0 } else { (1.0 + (1.0 + 4.0 * momentum * momentum).sqrt()) / 2.0 };
        let carry = if uphill { 0.0 } else { (momentum - 1.0) / after };
        ahead = next.iter().zip(&at).map(|(next, at)| next + carry * (next - at)).collect();
        (at, momentum) = (next, after);
    }
    let rows = || ahead.chunks_exact(columns);
    Regression {
        weight: rows().flat_map(|row| &row[..width]).copied().collect(),
        bias: rows().map(|row| row[width]).collect(),
    }
}

/// Of the regression's sum, by weight and bias `[labels, width + 1]`.
fn gradient(features: &[f64], classes: &[usize], at: &[f64], width: usize) -> Vec<f64> {
    let columns = width + 1;
    let mut gradient = at.to_vec();
    gradient.iter_mut().skip(width).step_by(columns).for_each(|bias| *bias = 0.0);
    for (x, &class) in features.chunks_exact(width.max(1)).zip(classes) {
        let logit = |row: &[f64]| row[width] + row[..width].iter().zip(x).map(|(w, x)| w * x).sum::<f64>();
        let logits: Vec<f64> = at.chunks_exact(columns).map(logit).collect();
        let largest = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let sum: f64 = logits.iter().map(|logit| (logit - largest).exp()).sum();
        for (label, (logit, row)) in logits.iter().zip(gradient.chunks_exact_mut(columns)).enumerate() {
            let d = (logit - largest).exp() / sum - f64::from(u8::from(label == class));
            row[..width].iter_mut().zip(x).for_each(|(row, x)| *row += d * x);
            row[width] += d;
        }
    }
    gradient
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::encoded::EncodedText;

    #[test]
    fn each_class_gives_so_many_examples_or_all_it_has() {
        let classes = [0, 1, 0, 0, 2, 1, 0, 0];
        let drawn = draw(&classes, 2, 1);
        let count = |class| drawn.iter().filter(|&&index| classes[index] == class).count();
        assert_eq!([count(0), count(1), count(2)], [2, 2, 1]);
        assert!(drawn.windows(2).all(|pair| pair[0] < pair[1]));
        assert_eq!(drawn, draw(&classes, 2, 1));
        assert!((2..20).any(|seed| draw(&classes, 2, seed) != drawn));
    }

    #[test]
    fn pairs_are_of_one_class_or_of_two_in_equal_numbers() {
        let classes = [0, 1, 0, 0, 1];
        let text = |id: u32| EncodedText { input_ids: vec![id], token_type_ids: vec![0] };
        let set = EncodedSet { texts: (0..5).map(text).collect(), truncated: Vec::new() };
        let found = pairs(&set, &classes, 3, 1);
        assert_eq!(found.len(), 30);
        for (row, &target) in found.targets.iter().enumerate() {
            let [a, b] = [0, 1].map(|side| found.texts[side].texts[row].input_ids[0] as usize);
            assert_ne!(a, b);
            assert_eq!(f32::from(u8::from(classes[a] == classes[b])), target);
        }
        assert_eq!(found.targets.iter().filter(|&&target| target == 1.0).count(), 15);
        // Two texts of a class have each other only, and a class alone has no partner to be like.
        let single = pairs(&set, &[0, 1, 2, 2, 2], 2, 1);
        assert_eq!(single.targets.iter().filter(|&&target| target == 1.0).count(), 6);
        assert!(pairs(&set, &[0; 5], 1, 1).targets.iter().all(|&target| target == 1.0));
    }

    #[test]
    fn the_regression_is_scikit_learns() {
        // sklearn.linear_model.LogisticRegression(C=1, tol=1e-12, max_iter=100000), version 1.9.1.
        let features = REFERENCE_FEATURES;
        let found = logistic_regression(&features, &REFERENCE_CLASSES, 3);
        for (found, expected) in found.weight.iter().zip(REFERENCE_WEIGHT) {
            assert!((found - expected).abs() < 1e-6, "{found} and {expected}");
        }
        let mean = found.bias.iter().sum::<f64>() / 3.0;
        for (found, expected) in found.bias.iter().zip(REFERENCE_BIAS) {
            assert!((found - mean - expected).abs() < 1e-6, "{found} and {expected}");
        }
    }

    const REFERENCE_FEATURES: [f64; 30] = [
        1.0, 0.3, -0.27, -0.89, 0.55, -0.99, 0.06, 1.34, 0.51, 0.38, 0.49, 0.36, 0.11, 0.07, -0.03, 0.7, -1.34, 0.54,
        -0.9, -1.29, -1.84, 0.76, -1.27, 0.27, 0.16, 0.81, -2.52, 0.46, -0.05, 0.11,
    ];
    const REFERENCE_CLASSES: [usize; 10] = [0, 1, 2, 0, 1, 2, 0, 0, 1, 0];
    const REFERENCE_WEIGHT: [f64; 9] = [
        0.304845547,
        -0.416482865,
        -0.138443378,
        -0.341031381,
        0.476707997,
        -0.634288625,
        0.036185834,
        -0.060225132,
        0.772732003,
    ];
    const REFERENCE_BIAS: [f64; 3] = [0.519319067, -0.279669192, -0.239649875];
}
