use serde::Deserialize;

use super::super::calibration::calibration_error;
use super::*;
use crate::data::tagging::entities::entities;

/// Made by `reference/make_metric_goldens.py` with scikit-learn 1.9.1 and scipy 1.17.1.
const GOLDEN: &str = include_str!("../../../tests/goldens/metrics.json");

/// Another order of summation. The largest differences measured are 1.1e-14, where numbers of 1e6 differ by 1e-3, and
/// 2.2e-16 in all other cases.
const TOLERANCE: f64 = 2e-14;

#[derive(Deserialize)]
struct Golden {
    classes: Vec<ClassCase>,
    multi_label: Vec<Case<Vec<u8>>>,
    scores: Vec<Case<f64>>,
    calibration: Vec<CalibrationCase>,
}

#[derive(Deserialize)]
struct ClassCase {
    labels: usize,
    confusion: Vec<Vec<u64>>,
    #[serde(flatten)]
    case: Case<usize>,
}

#[derive(Deserialize)]
struct Case<T> {
    name: String,
    truth: Vec<T>,
    predicted: Vec<T>,
    expected: std::collections::BTreeMap<Metric, f64>,
}

#[derive(Deserialize)]
struct CalibrationCase {
    name: String,
    probabilities: Vec<Vec<f32>>,
    truth: Vec<usize>,
    expected: f64,
}

fn golden() -> Golden {
    serde_json::from_str(GOLDEN).expect("the golden file in the repository is valid")
}

fn check<T>(case: &Case<T>, outcomes: &Outcomes) {
    assert!(!case.expected.is_empty());
    for (&metric, expected) in &case.expected {
        let found = outcomes.metric(metric).expect("the metric applies");
        assert!((found - expected).abs() <= TOLERANCE, "{}: {}: {found} not {expected}", case.name, metric.name());
    }
}

fn sets(rows: &[Vec<u8>]) -> Vec<Vec<bool>> {
    rows.iter().map(|row| row.iter().map(|&applies| applies == 1).collect()).collect()
}

#[test]
fn class_metrics_equal_scikit_learns() {
    for ClassCase { labels, confusion, case } in golden().classes {
        let outcomes = Outcomes::classes(labels, case.truth.clone(), case.predicted.clone()).expect("a good case");
        check(&case, &outcomes);
        assert_eq!(confusion_matrix(&outcomes).expect("classes"), confusion, "{}", case.name);
    }
}

#[test]
fn multi_label_metrics_equal_scikit_learns() {
    for case in golden().multi_label {
        let (truth, predicted) = (sets(&case.truth), sets(&case.predicted));
        check(&case, &Outcomes::multi_label(truth[0].len(), &truth, &predicted).expect("a good case"));
    }
}

#[test]
fn correlations_equal_scipys() {
    for case in golden().scores {
        check(&case, &Outcomes::scores(case.truth.clone(), case.predicted.clone()).expect("a good case"));
    }
}

#[test]
fn calibration_error_equals_the_papers_formula() {
    for case in golden().calibration {
        let decisions = case.probabilities.iter().zip(case.truth).map(|(probabilities, truth)| {
            let best = argmax(probabilities);
            (probabilities[best], best == truth)
        });
        let found = calibration_error(decisions);
        assert!((found - case.expected).abs() < 1e-7, "{}: {found} not {}", case.name, case.expected);
    }
}

#[test]
fn weights_count_an_example_as_often_as_copies_of_it_would() {
    let weights = |n: usize| -> Vec<u32> { (0..n).map(|index| [2, 0, 1, 3, 0][index % 5]).collect() };
    let copies = |n: usize| weights(n).into_iter().enumerate().flat_map(|(index, w)| vec![index; w as usize]);
    for case in golden().scores {
        let n = case.truth.len();
        let pick = |values: &[f64]| copies(n).map(|index| values[index]).collect::<Vec<_>>();
        let whole = Outcomes::scores(case.truth.clone(), case.predicted.clone()).expect("a good case");
        let copied = Outcomes::scores(pick(&case.truth), pick(&case.predicted)).expect("a good case");
        for metric in [Metric::Pearson, Metric::Spearman] {
            let weighted = whole.weighted_metric(metric, &weights(n)).expect("applies");
            let expected = copied.metric(metric).expect("applies");
            assert!((weighted - expected).abs() < 1e-12, "{}: {weighted} not {expected}", case.name);
        }
    }
    for ClassCase { labels, case, .. } in golden().classes {
        let n = case.truth.len();
        let pick = |values: &[usize]| copies(n).map(|index| values[index]).collect::<Vec<_>>();
        let whole = Outcomes::classes(labels, case.truth.clone(), case.predicted.clone()).expect("a good case");
        let copied = Outcomes::classes(labels, pick(&case.truth), pick(&case.predicted)).expect("a good case");
        for metric in [Metric::Accuracy, Metric::MacroF1, Metric::Matthews] {
            assert_eq!(whole.weighted_metric(metric, &weights(n)), copied.metric(metric), "{}", case.name);
        }
    }
}

#[test]
fn bad_outcomes_are_refused_by_name() {
    let message = |result: Result<Outcomes, MetricError>| result.expect_err("a refusal").to_string();
    assert_eq!(message(Outcomes::classes(2, vec![0, 1], vec![0])), "expected 2 predictions, found 1");
    assert_eq!(message(Outcomes::classes(2, vec![], vec![])), "expected at least one labelled example, found none");
    assert_eq!(message(Outcomes::classes(2, vec![0, 2], vec![0, 0])), "example 1: expected a class below 2, found 2");
    assert_eq!(message(Outcomes::scores(vec![1.0], vec![f64::NAN])), "example 0: expected a finite score, found NaN");
    assert_eq!(
        message(Outcomes::multi_label(2, &[vec![true]], &[vec![true, false]])),
        "expected 2 labels in each row, found 1"
    );
    let unlabelled = [(Label::Class(0), Prediction::Class(0)), (Label::None, Prediction::Class(1))];
    assert_eq!(
        message(Outcomes::from_labels(2, unlabelled.iter().map(|(label, prediction)| (label, prediction)))),
        "example 1: expected a class label and prediction, found no label"
    );
}

#[test]
fn a_metric_of_another_problem_is_refused() {
    let three = Outcomes::classes(3, vec![0], vec![0]).expect("good");
    assert_eq!(
        three.metric(Metric::F1).expect_err("binary only").to_string(),
        "metric `f1` does not apply to classification with 3 labels"
    );
    assert!(three.metric(Metric::Pearson).is_err());
    assert!(Outcomes::scores(vec![0.0], vec![0.0]).expect("good").metric(Metric::Accuracy).is_err());
}

#[test]
fn argmax_takes_the_first_of_equals_and_never_nan() {
    assert_eq!(argmax(&[0.5, 0.5]), 0);
    assert_eq!(argmax(&[f32::NAN, -1.0, f32::NEG_INFINITY]), 1);
    assert_eq!(argmax(&[]), 0);
}

#[derive(Deserialize)]
struct TagGolden {
    cases: Vec<TagCase>,
}

#[derive(Deserialize)]
struct TagCase {
    name: String,
    truth: Vec<Vec<String>>,
    predicted: Vec<Vec<String>>,
    /// Type, first and last word of each predicted span.
    entities: Vec<(String, usize, usize)>,
    expected: std::collections::BTreeMap<Metric, f64>,
    /// Precision, recall, F1 and number of true spans.
    types: std::collections::BTreeMap<String, (f64, f64, f64, u64)>,
}

#[test]
fn spans_and_their_scores_are_seqevals_on_any_tags() {
    let golden: TagGolden = serde_json::from_str(include_str!("../../../tests/goldens/entities.json")).unwrap();
    assert!(golden.cases.len() > 20);
    let close = |ours: f64, theirs: f64| (ours - theirs).abs() <= TOLERANCE;
    for TagCase { name, truth, predicted, entities: expected, expected: scores, types } in golden.cases {
        let found: Vec<_> =
            entities(&predicted).into_iter().map(|entity| (entity.kind, entity.start, entity.end)).collect();
        assert_eq!(found, expected, "{name}");
        let by_type = entity_scores_by_type(&truth, &predicted).unwrap();
        assert!(by_type.keys().eq(types.keys()), "{name}: {by_type:?}");
        for (found, (precision, recall, f1, support)) in by_type.values().zip(types.values()) {
            assert!(close(found.precision, *precision) && close(found.recall, *recall), "{name}: {found:?}");
            assert!(close(found.f1, *f1) && found.support == *support, "{name}: {found:?}");
        }
        let outcomes = Outcomes::tags(truth, &predicted).unwrap();
        for (metric, expected) in scores {
            let found = outcomes.metric(metric).unwrap();
            assert!(close(found, expected), "{name}: {metric:?} {found} {expected}");
        }
    }
}

#[test]
fn tags_are_resampled_by_the_row() {
    let rows = |rows: &[&str]| -> Vec<Vec<String>> {
        rows.iter().map(|row| row.split(' ').map(str::to_owned).collect()).collect()
    };
    let truth = rows(&["B-A I-A O", "B-B", "O B-A"]);
    let predicted = rows(&["B-A I-A O", "B-A", "B-A B-A"]);
    let outcomes = Outcomes::tags(truth.clone(), &predicted).unwrap();
    for weights in [[1, 1, 1], [2, 0, 1], [0, 3, 1]] {
        let repeat = |rows: &[Vec<String>]| -> Vec<Vec<String>> {
            rows.iter().zip(weights).flat_map(|(row, weight)| vec![row.clone(); weight as usize]).collect()
        };
        let whole = Outcomes::tags(repeat(&truth), &repeat(&predicted)).unwrap();
        for metric in [Metric::EntityF1, Metric::EntityPrecision, Metric::EntityRecall, Metric::TokenAccuracy] {
            let found = outcomes.weighted_metric(metric, &weights).unwrap();
            assert_eq!(found, whole.metric(metric).unwrap(), "{metric:?} {weights:?}");
        }
    }
    let words = tag_scores_by_type(&truth, &predicted).unwrap();
    assert_eq!((words["B-A"].precision, words["B-A"].recall, words["B-A"].support), (0.5, 1.0, 2));
    assert!(Outcomes::tags(truth, &rows(&["O", "O", "O"])).is_err());
    assert!(outcomes.metric(Metric::Accuracy).is_err());
}
