//! Answers against gold answers: exact match and F1 as the official scripts of SQuAD 1.1, SQuAD 2.0 and MLQA compute
//! them, and the search for the best no-answer threshold.

use std::collections::HashMap;

use super::normalise::words;
use crate::data::questions::AnswerRules;

/// The score of one answer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AnswerScore {
    /// Whether it equals a gold answer, once both are normalised.
    pub exact: bool,
    /// Overlap in words with the gold answer that it fits best, 0 to 1.
    pub f1: f64,
}

/// Scores `prediction` against all `golds`: the best of each measure. Without gold answers only the empty prediction
/// is right.
///
/// # Source
/// `metric_max_over_ground_truths` of `evaluate-v1.1.py` and `mlqa_evaluation_v1.py`, `get_raw_scores` of
/// `evaluate-v2.0.py`.
pub fn score_answer(prediction: &str, golds: &[&str], rules: AnswerRules) -> AnswerScore {
    let prediction = words(prediction, rules.normalisation);
    let mut golds: Vec<Vec<String>> = golds.iter().map(|gold| words(gold, rules.normalisation)).collect();
    if rules.unanswerable {
        golds.retain(|gold| !gold.is_empty());
    }
    if golds.is_empty() {
        return AnswerScore { exact: prediction.is_empty(), f1: f64::from(u8::from(prediction.is_empty())) };
    }
    AnswerScore {
        exact: golds.contains(&prediction),
        f1: golds.iter().map(|gold| overlap(&prediction, gold, rules)).fold(0.0, f64::max),
    }
}

/// F1 of two bags of words.
fn overlap(prediction: &[String], gold: &[String], rules: AnswerRules) -> f64 {
    if rules.unanswerable && (prediction.is_empty() || gold.is_empty()) {
        return f64::from(u8::from(prediction == gold));
    }
    let mut counts: HashMap<&str, usize> = HashMap::new();
    for word in gold {
        *counts.entry(word).or_default() += 1;
    }
    let mut common = 0;
    for word in prediction {
        if let Some(left) = counts.get_mut(word.as_str()).filter(|left| **left > 0) {
            *left -= 1;
            common += 1;
        }
    }
    if common == 0 {
        return 0.0;
    }
    let precision = f64::from(common) / prediction.len() as f64;
    let recall = f64::from(common) / gold.len() as f64;
    2.0 * precision * recall / (precision + recall)
}

/// One question as the threshold search sees it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ThresholdCase {
    /// How much more the model believes in no answer than in its best answer.
    pub null_odds: f64,
    /// What its best answer scores: exact match (0 or 1) or F1. Not used where there is no gold answer.
    pub score: f64,
    /// Whether the question has an answer.
    pub has_answer: bool,
    /// Whether the best answer is not empty.
    pub answers: bool,
}

/// The best score over all thresholds, and the threshold: questions whose odds are above it stay without answer.
///
/// # Source
/// `find_best_thresh` of `evaluate-v2.0.py`: first no question is answered, then one after the other in the order of
/// its odds. The first of equal scores is kept, and equal odds keep the order of the questions.
pub fn best_threshold(cases: &[ThresholdCase]) -> (f64, f64) {
    let mut order: Vec<&ThresholdCase> = cases.iter().collect();
    order.sort_by(|a, b| a.null_odds.total_cmp(&b.null_odds));
    let mut current = cases.iter().filter(|case| !case.has_answer).count() as f64;
    let (mut best, mut threshold) = (current, 0.0);
    for case in order {
        current += match (case.has_answer, case.answers) {
            (true, _) => case.score,
            (false, true) => -1.0,
            (false, false) => 0.0,
        };
        if current > best {
            (best, threshold) = (current, case.null_odds);
        }
    }
    (best / cases.len().max(1) as f64, threshold)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::questions::Normalisation;
    use serde::Deserialize;

    const V1: AnswerRules = AnswerRules { normalisation: Normalisation::Squad, unanswerable: false };
    const V2: AnswerRules = AnswerRules { unanswerable: true, ..V1 };

    /// Made by `reference/make_answer_goldens.py`.
    const GOLDEN: &str = include_str!("../../tests/goldens/answers.json");

    /// The same few operations in the same precision.
    const TOLERANCE: f64 = 1e-15;

    #[derive(Deserialize)]
    struct Golden {
        cases: Vec<Case>,
        sets: Vec<Set>,
    }

    #[derive(Deserialize)]
    struct Case {
        rules: String,
        prediction: String,
        golds: Vec<String>,
        words: Vec<String>,
        exact: f64,
        f1: f64,
    }

    #[derive(Deserialize)]
    struct Set {
        questions: Vec<Asked>,
        expected: HashMap<String, f64>,
    }

    #[derive(Deserialize)]
    struct Asked {
        prediction: String,
        golds: Vec<String>,
        null_odds: f64,
    }

    fn golden() -> Golden {
        serde_json::from_str(GOLDEN).expect("the golden file is ours")
    }

    fn close(found: f64, expected: f64) -> bool {
        (found - expected).abs() <= TOLERANCE
    }

    #[test]
    fn answers_score_as_the_official_scripts_score_them() {
        for (index, case) in golden().cases.iter().enumerate() {
            let rules = match case.rules.as_str() {
                "squad-1.1" => V1,
                "squad-2.0" => V2,
                language => AnswerRules { normalisation: Normalisation::Mlqa(language.parse().unwrap()), ..V1 },
            };
            let message = format!("case {index}, {}: {:?} against {:?}", case.rules, case.prediction, case.golds);
            assert_eq!(words(&case.prediction, rules.normalisation), case.words, "{message}");
            let golds: Vec<&str> = case.golds.iter().map(String::as_str).collect();
            let found = score_answer(&case.prediction, &golds, rules);
            assert_eq!(f64::from(u8::from(found.exact)), case.exact, "{message}");
            assert!(close(found.f1, case.f1), "{message}: {} not {}", found.f1, case.f1);
        }
    }

    #[test]
    fn the_best_threshold_is_the_official_one() {
        for (index, set) in golden().sets.iter().enumerate() {
            let mut cases = [Vec::new(), Vec::new()];
            for asked in &set.questions {
                let golds: Vec<&str> = asked.golds.iter().map(String::as_str).collect();
                let score = score_answer(&asked.prediction, &golds, V2);
                for (cases, score) in cases.iter_mut().zip([f64::from(u8::from(score.exact)), score.f1]) {
                    cases.push(ThresholdCase {
                        null_odds: asked.null_odds,
                        score,
                        has_answer: !golds.is_empty(),
                        answers: !asked.prediction.is_empty(),
                    });
                }
            }
            for (name, cases) in ["exact", "f1"].iter().zip(&cases) {
                let (best, threshold) = best_threshold(cases);
                let expected = |key: &str| set.expected[&key.replace('#', name)];
                assert!((100.0 * best - expected("best_#")).abs() < 1e-12, "set {index}, {name}: {best}");
                assert_eq!(threshold, expected("best_#_thresh"), "set {index}, {name}");
                let mean = cases.iter().map(|case| case.score).sum::<f64>() / cases.len() as f64;
                assert!((100.0 * mean - expected(name)).abs() < 1e-12, "set {index}, {name}: {mean}");
            }
        }
    }

    #[test]
    fn the_best_gold_answer_counts_for_each_measure() {
        let score = score_answer("the red house", &["green house", "Red house!", "red"], V1);
        assert_eq!(score, AnswerScore { exact: true, f1: 1.0 });
        let score = score_answer("red red house", &["red house"], V1);
        assert!(!score.exact && (score.f1 - 0.8).abs() < 1e-12, "{score:?}");
    }

    #[test]
    fn answers_of_articles_alone_are_empty_and_the_two_versions_differ_on_them() {
        assert_eq!(score_answer("a", &["the"], V1), AnswerScore { exact: true, f1: 0.0 });
        assert_eq!(score_answer("a", &["the"], V2), AnswerScore { exact: true, f1: 1.0 });
        assert_eq!(score_answer("cat", &[], V2), AnswerScore { exact: false, f1: 0.0 });
        assert_eq!(score_answer("", &[], V2), AnswerScore { exact: true, f1: 1.0 });
        assert_eq!(score_answer("", &["cat"], V2), AnswerScore { exact: false, f1: 0.0 });
        // A gold answer of articles alone is none beside another.
        assert_eq!(score_answer("", &["the", "cat"], V2), AnswerScore { exact: false, f1: 0.0 });
    }

    #[test]
    fn the_threshold_is_that_of_the_best_score() {
        let case = |null_odds, score, has_answer| ThresholdCase { null_odds, score, has_answer, answers: true };
        let cases = [case(3.0, 0.0, false), case(-2.0, 1.0, true), case(-1.0, 0.0, false), case(0.5, 1.0, true)];
        // Nothing answered 2, then 3, 2, 3, 2.
        assert_eq!(best_threshold(&cases), (0.75, -2.0));
        assert_eq!(best_threshold(&[]), (0.0, 0.0));
    }
}
