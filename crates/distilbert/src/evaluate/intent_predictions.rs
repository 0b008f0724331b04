//! What a model said of utterances, intent and slots, as a JSON Lines file: one header line, then one line an utterance.

use std::io::{BufRead, Write};

use serde::{Deserialize, Serialize};
use serde_json::json;

use super::answers::AnswerScore;
use super::calibration::calibration_error;
use super::metrics::{MetricError, Outcomes};
use super::predictions::{PredictionsError, wrong};
use super::result::EvaluationResult;
use super::slices::{Slice, rows_by_length};
use super::statistics::{Bootstrap, intervals, mean_interval};
use crate::data::examples::{Metric, Split};
use crate::data::intents::Utterance;

/// The names of the three scores, the one that a single score means first: an utterance is right if its intent and all
/// its tags are.
pub const SENTENCE_ACCURACY: &str = "sentence_accuracy";
/// See [`SENTENCE_ACCURACY`].
pub const INTENT_ACCURACY: &str = "intent_accuracy";
/// F1 of slots, right if type, start and end are. See [`SENTENCE_ACCURACY`].
pub const SLOT_F1: &str = "slot_f1";

/// One model's predictions on one split.
#[derive(Clone, Debug, PartialEq)]
pub struct IntentPredictions {
    /// Name of the task.
    pub task: String,
    /// Which part of its data.
    pub split: Split,
    /// In the order of the data.
    pub rows: Vec<IntentRow>,
}

/// One utterance's prediction. True names may be ones that the model does not have; then it is wrong.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct IntentRow {
    /// Line of the data.
    pub id: usize,
    /// The words.
    pub words: Vec<String>,
    /// What is true.
    pub intent: String,
    /// True tag of each word.
    pub tags: Vec<String>,
    /// What the model says.
    pub predicted_intent: String,
    /// Its probability.
    pub intent_score: f32,
    /// What the model says of each word.
    pub predicted_tags: Vec<String>,
    /// Length of the utterance in tokens, special ones included.
    #[serde(default)]
    pub tokens: usize,
}

impl IntentPredictions {
    /// What the header of a file calls its kind.
    pub(super) const PROBLEM: &str = "intents-and-slots";

    /// No predictions yet.
    pub fn new(task: &str, split: Split) -> IntentPredictions {
        IntentPredictions { task: task.to_owned(), split, rows: Vec::new() }
    }

    /// Adds what the model said of an utterance.
    pub fn push(&mut self, utterance: &Utterance, intent: (String, f32), predicted_tags: Vec<String>, tokens: usize) {
        self.rows.push(IntentRow {
            id: utterance.sentence.line,
            words: utterance.sentence.words.clone(),
            intent: utterance.intent.clone(),
            tags: utterance.sentence.tags.clone(),
            predicted_intent: intent.0,
            intent_score: intent.1,
            predicted_tags,
            tokens,
        });
    }

    /// The three scores by name.
    ///
    /// # Errors
    /// [`MetricError`] if there are no predictions.
    pub fn scores(&self) -> Result<[(&'static str, f64); 3], MetricError> {
        let mean = |values: Vec<f64>| values.iter().sum::<f64>() / values.len() as f64;
        let slot_f1 = self.slots()?.metric(Metric::EntityF1)?;
        Ok([(SENTENCE_ACCURACY, mean(self.sentences())), (INTENT_ACCURACY, mean(self.intents())), (SLOT_F1, slot_f1)])
    }

    /// The scores with their intervals, and how far the intents' probabilities are from their shares of right ones; `skipped` is a count that only the caller knows.
    ///
    /// # Errors
    /// [`MetricError`] if there are no predictions.
    pub fn result(&self, bootstrap: &Bootstrap, skipped: usize) -> Result<EvaluationResult, MetricError> {
        let scores = self.scores()?;
        let mut of_slots = intervals(&self.slots()?, &[Metric::EntityF1], bootstrap)?;
        let mut intervals =
            vec![mean_interval(&self.sentences(), bootstrap), mean_interval(&self.intents(), bootstrap)];
        intervals.append(&mut of_slots);
        Ok(EvaluationResult {
            task: self.task.clone(),
            split: self.split.name().to_owned(),
            n: self.rows.len(),
            metrics: scores.into_iter().collect(),
            intervals: scores.iter().map(|(name, _)| *name).zip(intervals).collect(),
            calibration_error: Some(calibration_error(
                self.rows.iter().map(|row| (row.intent_score, row.intent == row.predicted_intent)),
            )),
            by_type: Default::default(),
            null_thresholds: None,
            skipped,
            truncated: 0,
        })
    }

    /// The scores by length in tokens, short utterances first.
    ///
    /// # Errors
    /// [`MetricError`] if there are no predictions.
    pub fn by_length(&self, bootstrap: &Bootstrap) -> Result<Vec<Slice>, MetricError> {
        let part = |rows| IntentPredictions { rows, ..IntentPredictions::new(&self.task, self.split) };
        rows_by_length(&self.rows, |row| row.tokens, |rows| part(rows).result(bootstrap, 0))
    }

    /// What was right, for paired tests of one of the three scores, and the metric that it is of these outcomes; `None`
    /// for another name.
    ///
    /// # Errors
    /// [`MetricError`] if there are no predictions.
    pub fn outcomes(&self, score: &str) -> Result<Option<(Outcomes, Metric)>, MetricError> {
        let of_utterances = |right: Vec<f64>| {
            let names = self.rows.iter().map(|row| format!("{} {}", row.id, row.words.join(" "))).collect();
            let scores: Vec<_> =
                right.into_iter().map(|right| AnswerScore { exact: right == 1.0, f1: right }).collect();
            Outcomes::answers(names, &scores).map(|outcomes| Some((outcomes, Metric::ExactMatch)))
        };
        match score {
            SENTENCE_ACCURACY => of_utterances(self.sentences()),
            INTENT_ACCURACY => of_utterances(self.intents()),
            SLOT_F1 => Ok(Some((self.slots()?, Metric::EntityF1))),
            _ => Ok(None),
        }
    }

    fn sentences(&self) -> Vec<f64> {
        let right = |row: &IntentRow| row.intent == row.predicted_intent && row.tags == row.predicted_tags;
        self.rows.iter().map(|row| f64::from(u8::from(right(row)))).collect()
    }

    fn intents(&self) -> Vec<f64> {
        self.rows.iter().map(|row| f64::from(u8::from(row.intent == row.predicted_intent))).collect()
    }

    fn slots(&self) -> Result<Outcomes, MetricError> {
        let predicted: Vec<Vec<String>> = self.rows.iter().map(|row| row.predicted_tags.clone()).collect();
        Outcomes::tags(self.rows.iter().map(|row| row.tags.clone()).collect(), &predicted)
    }

    /// Writes the file.
    ///
    /// # Errors
    /// [`PredictionsError::Io`] if the writer fails.
    pub fn write(&self, writer: &mut impl Write) -> Result<(), PredictionsError> {
        writeln!(writer, "{}", json!({ "task": self.task, "split": self.split, "problem": Self::PROBLEM }))?;
        for row in &self.rows {
            writeln!(writer, "{}", serde_json::to_value(row).map_err(std::io::Error::from)?)?;
        }
        Ok(())
    }

    /// Reads a file that [`IntentPredictions::write`] wrote.
    ///
    /// # Errors
    /// [`PredictionsError`], naming the line, for anything else.
    pub fn read(reader: impl BufRead) -> Result<Self, PredictionsError> {
        #[derive(Deserialize)]
        struct Header {
            task: String,
            split: Split,
        }
        let mut lines = reader.lines().enumerate();
        let header = lines.next().ok_or_else(|| wrong(1, "a header line", "an empty file"))?.1?;
        let header: Header = serde_json::from_str(&header).map_err(|error| wrong(1, "a header", &error.to_string()))?;
        let mut predictions = IntentPredictions::new(&header.task, header.split);
        for (index, text) in lines {
            let line = index + 1;
            let row: IntentRow =
                serde_json::from_str(&text?).map_err(|error| wrong(line, "an utterance", &error.to_string()))?;
            for (what, tags) in [("true", &row.tags), ("predicted", &row.predicted_tags)] {
                if tags.len() != row.words.len() {
                    let expected = format!("a {what} tag for each of {} words", row.words.len());
                    return Err(wrong(line, &expected, &tags.len().to_string()));
                }
            }
            predictions.rows.push(row);
        }
        Ok(predictions)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::tagging::Sentence;

    fn strings(text: &str) -> Vec<String> {
        text.split(' ').map(str::to_owned).collect()
    }

    #[test]
    fn an_utterance_is_right_if_intent_and_all_slots_are() {
        let mut predictions = IntentPredictions::new("home", Split::Dev);
        for (line, (intent, tags, said, said_tags)) in [
            ("a", "O B-x I-x", "a", "O B-x I-x"),
            ("a", "O B-x O", "b", "O B-x O"),
            ("b", "B-x O B-y", "b", "B-x O O"),
            // Neither is known to the model.
            ("new", "O O B-new", "b", "O O O"),
        ]
        .into_iter()
        .enumerate()
        {
            let sentence = Sentence { words: strings("u v w"), tags: strings(tags), line: line + 1 };
            let utterance = Utterance { sentence, intent: intent.to_owned() };
            predictions.push(&utterance, (said.to_owned(), 0.5), strings(said_tags), 7 + line);
        }
        let result = predictions.result(&Bootstrap::default(), 1).unwrap();
        let value = |name: &str| result.metrics.get(name).copied().unwrap();
        assert_eq!((value(INTENT_ACCURACY), value(SENTENCE_ACCURACY)), (0.5, 0.25));
        // 3 of 3 predicted spans are right, of 5 true ones.
        assert!((value(SLOT_F1) - 2.0 * 3.0 / 8.0).abs() < 1e-12, "{}", value(SLOT_F1));
        assert_eq!((result.n, result.skipped), (4, 1));
        let lengths = predictions.by_length(&Bootstrap::default()).unwrap();
        let shown: Vec<_> = lengths.iter().map(|slice| (slice.value.as_str(), slice.n)).collect();
        assert_eq!(shown, [("up to 8", 2), ("9 to 16", 2)]);
        assert_eq!(lengths[0].metrics.get(SENTENCE_ACCURACY), Some(&0.5));
        assert_eq!(lengths[1].intervals.len(), 3);
        let mut bytes = Vec::new();
        predictions.write(&mut bytes).unwrap();
        let text = String::from_utf8(bytes).unwrap();
        assert_eq!(text.lines().count(), 5);
        assert!(text.lines().nth(2).unwrap().contains(r#""predicted_intent":"b""#), "{text}");
        assert_eq!(IntentPredictions::read(text.as_bytes()).unwrap(), predictions);
        let short = text.replacen(r#""predicted_tags":["O","B-x","I-x"]"#, r#""predicted_tags":["O"]"#, 1);
        let error = IntentPredictions::read(short.as_bytes()).unwrap_err().to_string();
        assert_eq!(error, "predictions line 2: expected a predicted tag for each of 3 words, found 1");
        for (name, expected) in [(SENTENCE_ACCURACY, 0.25), (INTENT_ACCURACY, 0.5), (SLOT_F1, 0.75)] {
            let (outcomes, metric) = predictions.outcomes(name).unwrap().unwrap();
            assert!((outcomes.metric(metric).unwrap() - expected).abs() < 1e-12, "{name}");
        }
        assert!(predictions.outcomes("accuracy").unwrap().is_none());
        assert!(IntentPredictions::new("home", Split::Dev).result(&Bootstrap::default(), 0).is_err());
    }
}
