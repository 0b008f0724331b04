//! What a model answered, question by question, as a JSON Lines file: one header line, then one line a question.

use std::io::{BufRead, Write};
use std::ops::Range;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::answers::{AnswerScore, ThresholdCase, best_threshold, score_answer};
use super::metrics::{MetricError, Outcomes};
use super::predictions::{PredictionsError, wrong};
use super::result::{EvaluationResult, NullThresholds};
use super::slices::{Slice, rows_by_length};
use super::statistics::{Bootstrap, intervals};
use crate::data::examples::{Metric, Split};
use crate::data::questions::{AnswerRules, Question};
use crate::predict::answer_spans::SpanPrediction;

/// One model's answers on one split.
#[derive(Clone, Debug, PartialEq)]
pub struct AnswerPredictions {
    /// Name of the task.
    pub task: String,
    /// Which part of its data.
    pub split: Split,
    /// How answers are scored.
    pub rules: AnswerRules,
    /// Above these odds no answer was given; `None` if there always was one.
    pub null_threshold: Option<f32>,
    /// In the order of the data.
    pub rows: Vec<AnswerRow>,
}

/// One question's answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AnswerRow {
    /// Names the question.
    pub id: String,
    /// What was asked.
    pub question: String,
    /// The gold answers; empty if there is none; `None` if the data does not say.
    pub golds: Option<Vec<String>>,
    /// What was answered; empty for no answer.
    pub prediction: String,
    /// Exact match with a gold answer, 0 or 1; `None` without gold answers to compare with.
    pub exact_match: Option<f64>,
    /// Overlap with the best gold answer.
    pub f1: Option<f64>,
    /// Score of no answer minus that of the best answer; `None` if the model had none at all.
    pub null_odds: Option<f32>,
    /// Tokens of question and context together.
    #[serde(default)]
    pub tokens: usize,
    /// The likeliest answers, the best first.
    pub n_best: Vec<AnswerCandidate>,
}

/// A possible answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AnswerCandidate {
    /// Its words, cut from the context; empty for no answer.
    pub text: String,
    /// First character in the context, and the one behind the last; both 0 for no answer.
    pub start: usize,
    /// See `start`.
    pub end: usize,
    /// Softmax over the candidates.
    pub probability: f64,
    /// Of the first token.
    pub start_logit: f32,
    /// Of the last token.
    pub end_logit: f32,
}

/// The two scores of a set of questions, shares from 0 to 1.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct MeanScores {
    /// Overlap with the best gold answer.
    pub f1: f64,
    /// Answers that equal a gold answer.
    pub exact_match: f64,
}

/// Characters of `text` in front of and up to the end of these bytes.
pub fn character_range(text: &str, bytes: &Range<usize>) -> Range<usize> {
    let start = text[..bytes.start].chars().count();
    start..start + text[bytes.clone()].chars().count()
}

impl AnswerPredictions {
    /// What the header of a file calls its kind.
    pub(super) const PROBLEM: &str = "question-answering";

    /// No answers yet.
    pub fn new(task: &str, split: Split, rules: AnswerRules, null_threshold: Option<f32>) -> Self {
        AnswerPredictions { task: task.to_owned(), split, rules, null_threshold, rows: Vec::new() }
    }

    /// Adds what the model said of `question` about `context`, together of `tokens` tokens; `n_best` candidates are kept.
    pub fn push(&mut self, question: &Question, context: &str, tokens: usize, found: &SpanPrediction, n_best: usize) {
        let candidates = found.n_best(n_best, self.rules.unanswerable).into_iter().map(|(candidate, probability)| {
            let bytes = candidate.bytes.clone().unwrap_or(0..0);
            let characters = character_range(context, &bytes);
            AnswerCandidate {
                text: context[bytes].to_owned(),
                start: characters.start,
                end: characters.end,
                probability,
                start_logit: candidate.start_logit,
                end_logit: candidate.end_logit,
            }
        });
        let n_best = candidates.collect();
        let prediction = found.answer(self.null_threshold).and_then(|answer| answer.bytes.clone());
        let prediction = prediction.map_or("", |bytes| &context[bytes]).to_owned();
        let golds: Option<Vec<String>> =
            question.answers.as_ref().map(|golds| golds.iter().map(|gold| gold.text.clone()).collect());
        let score = golds.as_ref().map(|golds| self.score(&prediction, golds));
        self.rows.push(AnswerRow {
            id: question.id.clone(),
            question: question.text.clone(),
            golds,
            prediction,
            exact_match: score.map(|score| f64::from(u8::from(score.exact))),
            f1: score.map(|score| score.f1),
            null_odds: Some(found.null_odds()).filter(|odds| odds.is_finite()),
            tokens,
            n_best,
        });
    }

    fn score(&self, prediction: &str, golds: &[String]) -> AnswerScore {
        let golds: Vec<&str> = golds.iter().map(String::as_str).collect();
        score_answer(prediction, &golds, self.rules)
    }

    /// Scores for metrics.
    ///
    /// # Errors
    /// [`MetricError`] if there are no rows or a question has no gold answers.
    pub fn outcomes(&self) -> Result<Outcomes, MetricError> {
        let (mut ids, mut scores) = (Vec::new(), Vec::new());
        for (index, row) in self.rows.iter().enumerate() {
            let Some(golds) = &row.golds else {
                return Err(MetricError::Kind { index, expected: "gold answer", found: "no label".to_owned() });
            };
            ids.push(row.id.clone());
            scores.push(self.score(&row.prediction, golds));
        }
        Outcomes::answers(ids, &scores)
    }

    /// Mean F1 and exact match.
    ///
    /// # Errors
    /// As [`AnswerPredictions::outcomes`].
    pub fn scores(&self) -> Result<MeanScores, MetricError> {
        let outcomes = self.outcomes()?;
        Ok(MeanScores { f1: outcomes.metric(Metric::F1)?, exact_match: outcomes.metric(Metric::ExactMatch)? })
    }

    /// The scores, with `truncated` questions that lost tokens. Where questions may have no answer, also those of the
    /// questions that have one and that have none, and what the best thresholds would reach.
    ///
    /// # Errors
    /// As [`AnswerPredictions::outcomes`].
    pub fn result(&self, bootstrap: &Bootstrap, truncated: usize) -> Result<EvaluationResult, MetricError> {
        const METRICS: [Metric; 2] = [Metric::F1, Metric::ExactMatch];
        let outcomes = self.outcomes()?;
        let names = METRICS.map(Metric::name);
        let values = [outcomes.metric(METRICS[0])?, outcomes.metric(METRICS[1])?];
        let mut metrics: Vec<(String, f64)> = names.iter().map(|&name| name.to_owned()).zip(values).collect();
        let mut null_thresholds = None;
        if self.rules.unanswerable {
            let has_answer: Vec<bool> = self.rows.iter().map(has_answer).collect();
            for (part, wanted) in [("has_answer", true), ("no_answer", false)] {
                let weights: Vec<u32> = has_answer.iter().map(|&has| u32::from(has == wanted)).collect();
                if weights.contains(&1) {
                    for metric in METRICS {
                        let value = outcomes.weighted_metric(metric, &weights)?;
                        metrics.push((format!("{part}_{}", metric.name()), value));
                    }
                }
            }
            let [(best_f1, f1), (best_exact_match, exact_match)] = self.best_thresholds();
            metrics.extend([("best_f1".to_owned(), best_f1), ("best_exact_match".to_owned(), best_exact_match)]);
            null_thresholds =
                Some(NullThresholds { used: self.null_threshold, best_f1: f1, best_exact_match: exact_match });
        }
        Ok(EvaluationResult {
            task: self.task.clone(),
            split: self.split.name().to_owned(),
            n: outcomes.len(),
            metrics: metrics.into_iter().collect(),
            intervals: names.into_iter().zip(intervals(&outcomes, &METRICS, bootstrap)?).collect(),
            calibration_error: None,
            by_type: Default::default(),
            null_thresholds,
            skipped: 0,
            truncated,
        })
    }

    /// F1 and exact match by the length of question and context together, short ones first.
    ///
    /// # Errors
    /// As [`AnswerPredictions::outcomes`].
    pub fn by_length(&self, bootstrap: &Bootstrap) -> Result<Vec<Slice>, MetricError> {
        let part = |rows| {
            let none = AnswerPredictions::new(&self.task, self.split, self.rules, self.null_threshold);
            AnswerPredictions { rows, ..none }
        };
        rows_by_length(&self.rows, |row| row.tokens, |rows| part(rows).result(bootstrap, 0))
    }

    /// The result of questions without gold answers: no metrics.
    pub fn unscored(&self, truncated: usize) -> EvaluationResult {
        EvaluationResult {
            task: self.task.clone(),
            split: self.split.name().to_owned(),
            n: self.rows.len(),
            metrics: Default::default(),
            intervals: Default::default(),
            calibration_error: None,
            by_type: Default::default(),
            null_thresholds: None,
            skipped: 0,
            truncated,
        }
    }

    /// The best F1 over all thresholds with its threshold, and the same of exact match. Each question's best span is
    /// scored, whatever the threshold that was used.
    pub fn best_thresholds(&self) -> [(f64, f64); 2] {
        let mut cases = [Vec::new(), Vec::new()];
        for row in &self.rows {
            let span = row.n_best.iter().find(|candidate| !candidate.text.is_empty());
            let text = span.map_or("", |span| span.text.as_str());
            let score = self.score(text, row.golds.as_deref().unwrap_or_default());
            for (cases, score) in cases.iter_mut().zip([score.f1, f64::from(u8::from(score.exact))]) {
                cases.push(ThresholdCase {
                    null_odds: row.null_odds.map_or(f64::INFINITY, f64::from),
                    score,
                    has_answer: has_answer(row),
                    answers: !text.is_empty(),
                });
            }
        }
        cases.map(|cases| best_threshold(&cases))
    }

    /// The threshold of the best F1, to answer other questions with. Where it is best never to answer, the official
    /// search says 0; this one lies below all odds.
    pub fn fitted_threshold(&self) -> f32 {
        let [(best, threshold), _] = self.best_thresholds();
        let silent = self.rows.iter().filter(|row| !has_answer(row)).count() as f64 / self.rows.len().max(1) as f64;
        if best > silent {
            return threshold as f32;
        }
        self.rows.iter().filter_map(|row| row.null_odds).fold(0.0, f32::min) - 1.0
    }

    /// Writes the file; [`AnswerPredictions::read`] reads it back equal.
    ///
    /// # Errors
    /// [`PredictionsError::Io`] if the writer fails.
    pub fn write(&self, writer: &mut impl Write) -> Result<(), PredictionsError> {
        let header = json!({
            "task": self.task,
            "split": self.split,
            "problem": Self::PROBLEM,
            "rules": self.rules,
            "null_threshold": self.null_threshold,
        });
        writeln!(writer, "{header}")?;
        for row in &self.rows {
            serde_json::to_writer(&mut *writer, row).map_err(std::io::Error::from)?;
            writeln!(writer)?;
        }
        Ok(())
    }

    /// Reads a file that [`AnswerPredictions::write`] wrote.
    ///
    /// # Errors
    /// [`PredictionsError`], naming the line, for anything else.
    pub fn read(reader: impl BufRead) -> Result<Self, PredictionsError> {
        #[derive(Deserialize)]
        struct Header {
            task: String,
            split: Split,
            rules: AnswerRules,
            null_threshold: Option<f32>,
        }
        let mut lines = reader.lines().enumerate();
        let header = lines.next().ok_or_else(|| wrong(1, "a header line", "an empty file"))?.1?;
        let header: Header = serde_json::from_str(&header).map_err(|error| wrong(1, "a header", &error.to_string()))?;
        let mut predictions = AnswerPredictions::new(&header.task, header.split, header.rules, header.null_threshold);
        for (index, text) in lines {
            let row =
                serde_json::from_str(&text?).map_err(|error| wrong(index + 1, "an answer", &error.to_string()))?;
            predictions.rows.push(row);
        }
        Ok(predictions)
    }

    /// `predictions.json` as SQuAD's and MLQA's official scripts take it: the answer of each question by its id.
    pub fn official(&self) -> Value {
        let answers = self.rows.iter().map(|row| (row.id.clone(), json!(row.prediction)));
        Value::Object(answers.collect::<Map<_, _>>())
    }

    /// `null_odds.json` as SQuAD 2.0's official script takes it: how much likelier no answer is, by the question's id.
    pub fn official_null_odds(&self) -> Value {
        // JSON has no infinity; this is beyond every threshold.
        let odds = |row: &AnswerRow| json!(row.null_odds.unwrap_or(f32::MAX));
        Value::Object(self.rows.iter().map(|row| (row.id.clone(), odds(row))).collect::<Map<_, _>>())
    }
}

fn has_answer(row: &AnswerRow) -> bool {
    row.golds.as_ref().is_some_and(|golds| !golds.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::questions::{Answer, Normalisation};
    use crate::evaluate::KeptPredictions;
    use crate::predict::answer_spans::Candidate;

    const CONTEXT: &str = "Zoë lives in Köln.";

    fn question(id: &str, golds: &[&str]) -> Question {
        let answers = golds.iter().map(|gold| Answer { text: (*gold).to_owned(), bytes: None }).collect();
        Question { id: id.to_owned(), text: "Where?".to_owned(), context: 0, answers: Some(answers) }
    }

    /// The model believes in "Köln", with this odds for no answer.
    fn says(null_odds: f32) -> SpanPrediction {
        let span = |bytes: Range<usize>, logit| Candidate { bytes: Some(bytes), start_logit: logit, end_logit: 1.0 };
        let null = Candidate { bytes: None, start_logit: 3.0 + null_odds, end_logit: 0.0 };
        SpanPrediction { spans: vec![span(14..19, 2.0), span(0..4, 1.0)], null }
    }

    fn predictions() -> AnswerPredictions {
        let rules = AnswerRules { normalisation: Normalisation::Squad, unanswerable: true };
        let mut predictions = AnswerPredictions::new("squad", Split::Dev, rules, Some(0.0));
        predictions.push(&question("a", &["in Köln", "Köln"]), CONTEXT, 9, &says(-1.0), 20);
        predictions.push(&question("b", &[]), CONTEXT, 200, &says(0.5), 20);
        predictions.push(&question("c", &["Köln"]), CONTEXT, 16, &says(0.25), 20);
        predictions
    }

    #[test]
    fn answers_are_cut_from_the_context_by_characters() {
        let predictions = predictions();
        let texts: Vec<&str> = predictions.rows.iter().map(|row| row.prediction.as_str()).collect();
        assert_eq!(texts, ["Köln", "", ""]);
        let best = &predictions.rows[0].n_best[0];
        assert_eq!((best.text.as_str(), best.start, best.end), ("Köln", 13, 17));
        let null = &predictions.rows[1].n_best[0];
        assert_eq!((null.text.as_str(), null.start, null.end), ("", 0, 0));
    }

    #[test]
    fn answers_are_scored_by_the_length_of_what_was_read() {
        let lengths = predictions().by_length(&Bootstrap::default()).unwrap();
        let shown: Vec<_> =
            lengths.iter().map(|slice| (slice.value.as_str(), slice.n, slice.metrics.get("f1").copied())).collect();
        assert_eq!(shown, [("9 to 16", 2, Some(0.5)), ("129 to 256", 1, Some(1.0))]);
        let names: Vec<&str> = lengths[1].metrics.iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["f1", "exact_match"]);
    }

    #[test]
    fn the_result_has_both_parts_and_the_best_thresholds() {
        let result = predictions().result(&Bootstrap::default(), 2).unwrap();
        let metric = |name: &str| *result.metrics.get(name).unwrap();
        assert_eq!(result.main_metric(), Some(("f1", 2.0 / 3.0)));
        assert_eq!((metric("has_answer_exact_match"), metric("no_answer_f1")), (0.5, 1.0));
        // Answering all but the one without an answer is right everywhere.
        assert_eq!((metric("best_f1"), metric("best_exact_match")), (1.0, 1.0));
        let thresholds = result.null_thresholds.unwrap();
        assert_eq!((thresholds.used, thresholds.best_f1), (Some(0.0), 0.25));
        assert_eq!((result.truncated, result.n), (2, 3));
    }

    #[test]
    fn a_fitted_threshold_may_be_never_to_answer() {
        assert_eq!(predictions().fitted_threshold(), 0.25);
        let mut wrong = predictions();
        wrong
            .rows
            .iter_mut()
            .for_each(|row| row.golds = Some(row.golds.take().into_iter().flatten().map(|_| "x".to_owned()).collect()));
        assert_eq!(wrong.best_thresholds()[0].1, 0.0);
        assert_eq!(wrong.fitted_threshold(), -2.0);
    }

    #[test]
    fn a_file_reads_back_equal_and_bad_lines_are_named() {
        let predictions = predictions();
        let mut bytes = Vec::new();
        predictions.write(&mut bytes).unwrap();
        assert_eq!(AnswerPredictions::read(&bytes[..]).unwrap(), predictions);
        let text = String::from_utf8(bytes).unwrap();
        assert!(matches!(KeptPredictions::read(&text), Ok(KeptPredictions::Answers(_))));
        let error = AnswerPredictions::read(text.replacen("\"id\"", "\"no\"", 1).as_bytes()).unwrap_err();
        assert!(error.to_string().starts_with("predictions line 2: expected an answer"), "{error}");
    }

    #[test]
    fn official_files_go_by_the_questions_id() {
        let predictions = predictions();
        assert_eq!(predictions.official().to_string(), r#"{"a":"Köln","b":"","c":""}"#);
        assert_eq!(predictions.official_null_odds().to_string(), r#"{"a":-1.0,"b":0.5,"c":0.25}"#);
    }
}
