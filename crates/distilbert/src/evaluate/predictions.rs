//! What a model said, example by example, as a JSON Lines file: one header line, then one line an example.

use std::io::{self, BufRead, Write};

use serde_json::{Map, Value, json};

use crate::data::examples::{Example, Label, Problem, Split, Task};
use crate::data::tagging::Sentence;

use super::metrics::{MetricError, Outcomes, argmax};

/// One model's predictions on one split.
#[derive(Clone, Debug, PartialEq)]
pub struct Predictions {
    /// Name of the task.
    pub task: String,
    /// Which part of its data.
    pub split: Split,
    /// What is predicted.
    pub problem: Problem,
    /// Label names in id order; empty for regression.
    pub labels: Vec<String>,
    /// In the order of the data.
    pub rows: Vec<PredictionRow>,
}

/// One example's prediction.
#[derive(Clone, Debug, PartialEq)]
pub struct PredictionRow {
    /// Line of the data file; names the example when models are compared.
    pub id: usize,
    /// What is true, if the data says so.
    pub label: Label,
    /// What the model says.
    pub prediction: Prediction,
    /// Probabilities in label order (softmax for classes, sigmoid for multi-label); for tags that of each word's tag;
    /// empty for regression.
    pub scores: Vec<f32>,
    /// Length of the input in tokens, special tokens included, after truncation.
    pub tokens: usize,
    /// The text, or the first of the pair.
    pub text_a: String,
    /// The second of the pair.
    pub text_b: Option<String>,
    /// The words of `text_a`, where each has a tag; else empty.
    pub words: Vec<String>,
}

/// What a model says of one example; the variant follows the task's [`Problem`].
#[derive(Clone, Debug, PartialEq)]
pub enum Prediction {
    /// The class of the largest probability.
    Class(usize),
    /// For each label, whether its probability is above one half.
    Classes(Vec<bool>),
    /// The number predicted.
    Score(f32),
    /// The tag of the largest probability of each word.
    Tags(Vec<String>),
}

/// A predictions file that cannot be written or read.
#[derive(Debug, thiserror::Error)]
pub enum PredictionsError {
    /// The reader or writer failed.
    #[error("predictions: {0}")]
    Io(#[from] io::Error),
    /// A line is not as expected.
    #[error("predictions line {line}: expected {expected}, found {found}")]
    Line {
        /// The line, from 1.
        line: usize,
        /// What a good line has there.
        expected: String,
        /// What this one has.
        found: String,
    },
    /// A whole text where words are tagged, or the other way round.
    #[error("expected predictions of the task's kind, {problem:?}, found another")]
    Kind {
        /// What the task predicts.
        problem: Problem,
    },
    /// The model's output is not finite, or has another width than the task has labels.
    #[error("expected {expected} finite logits, found {found:?}")]
    Logits {
        /// The number of outputs.
        expected: usize,
        /// The outputs.
        found: Vec<f32>,
    },
}

impl Predictions {
    /// No predictions yet, for a split of `task`.
    pub fn new(task: &Task, split: Split) -> Self {
        Predictions {
            task: task.name.clone(),
            split,
            problem: task.problem,
            labels: task.labels.clone(),
            rows: Vec::new(),
        }
    }

    /// The same task and split, with no predictions.
    pub(super) fn without_rows(&self) -> Self {
        Predictions {
            task: self.task.clone(),
            split: self.split,
            problem: self.problem,
            labels: self.labels.clone(),
            rows: Vec::new(),
        }
    }

    /// Adds what the model said of `example`: `logits` of the task's width, from an input of `tokens` tokens.
    ///
    /// # Errors
    /// [`PredictionsError::Logits`] if a logit is not finite or there are not as many as labels (1 for regression).
    pub fn push(&mut self, example: &Example, logits: &[f32], tokens: usize) -> Result<(), PredictionsError> {
        let expected = if self.problem == Problem::Regression { 1 } else { self.labels.len() };
        let (Some(&first), true) = (logits.first(), logits.len() == expected && logits.iter().all(|x| x.is_finite()))
        else {
            return Err(PredictionsError::Logits { expected, found: logits.to_vec() });
        };
        let (prediction, scores) = match self.problem {
            Problem::Classification => (Prediction::Class(argmax(logits)), softmax(logits)),
            Problem::MultiLabel => {
                let scores = logits.iter().map(|&x| sigmoid(x)).collect();
                (Prediction::Classes(logits.iter().map(|&x| x > 0.0).collect()), scores)
            }
            Problem::Regression => (Prediction::Score(first), Vec::new()),
            Problem::Entities | Problem::Tags => return Err(PredictionsError::Kind { problem: self.problem }),
        };
        self.rows.push(PredictionRow {
            id: example.line,
            label: example.label.clone(),
            prediction,
            scores,
            tokens,
            text_a: example.text_a.clone(),
            text_b: example.text_b.clone(),
            words: Vec::new(),
        });
        Ok(())
    }

    /// Adds what the model said of a sentence: for each of its words the logits of `labels`, from `tokens` tokens.
    ///
    /// # Errors
    /// [`PredictionsError::Kind`] if the task is not one of words; [`PredictionsError::Logits`] if a word lacks its
    /// logits, or they are not finite or of another width.
    pub fn push_words(
        &mut self,
        sentence: &Sentence,
        logits: &[Vec<f32>],
        tokens: usize,
    ) -> Result<(), PredictionsError> {
        if !self.problem.is_of_words() {
            return Err(PredictionsError::Kind { problem: self.problem });
        }
        let expected = self.labels.len();
        let is_good = |row: &Vec<f32>| row.len() == expected && row.iter().all(|x| x.is_finite());
        if let Some(bad) = logits.iter().find(|row| !is_good(row)) {
            return Err(PredictionsError::Logits { expected, found: bad.clone() });
        }
        if logits.len() != sentence.words.len() || expected == 0 {
            return Err(PredictionsError::Logits { expected, found: Vec::new() });
        }
        let best: Vec<usize> = logits.iter().map(|row| argmax(row)).collect();
        self.rows.push(PredictionRow {
            id: sentence.line,
            label: Label::Tags(sentence.tags.clone()),
            prediction: Prediction::Tags(best.iter().map(|&best| self.labels[best].clone()).collect()),
            scores: logits.iter().zip(&best).map(|(row, &best)| softmax(row)[best]).collect(),
            tokens,
            text_a: sentence.words.join(" "),
            text_b: None,
            words: sentence.words.clone(),
        });
        Ok(())
    }

    /// True and predicted tags, row by row; empty unless the task is one of words.
    pub fn tag_rows(&self) -> (Vec<Vec<String>>, Vec<Vec<String>>) {
        let pairs = self.rows.iter().filter_map(|row| match (&row.label, &row.prediction) {
            (Label::Tags(truth), Prediction::Tags(predicted)) => Some((truth.clone(), predicted.clone())),
            _ => None,
        });
        pairs.unzip()
    }

    /// What was decided, on each example that has one class or on each word: how sure the model was, and whether it was
    /// right.
    pub fn decisions(&self) -> impl Iterator<Item = (f32, bool)> {
        self.rows.iter().flat_map(|row| match (&row.label, &row.prediction) {
            (Label::Class(truth), Prediction::Class(predicted)) => {
                let sure = row.scores.get(*predicted).copied();
                sure.map(|sure| (sure, truth == predicted)).into_iter().collect()
            }
            (Label::Tags(truth), Prediction::Tags(predicted)) => {
                let is_right = truth.iter().zip(predicted).map(|(truth, predicted)| truth == predicted);
                row.scores.iter().copied().zip(is_right).collect()
            }
            _ => Vec::new(),
        })
    }

    /// Labels against predictions, for metrics.
    ///
    /// # Errors
    /// [`MetricError`] if there are no rows or a row has no label.
    pub fn outcomes(&self) -> Result<Outcomes, MetricError> {
        Outcomes::from_labels(self.labels.len(), self.rows.iter().map(|row| (&row.label, &row.prediction)))
    }

    /// Writes the file; [`Predictions::read`] reads it back equal.
    ///
    /// # Errors
    /// [`PredictionsError::Io`] if the writer fails.
    pub fn write(&self, writer: &mut impl Write) -> Result<(), PredictionsError> {
        let header = json!({
            "task": self.task,
            "split": self.split,
            "problem": self.problem,
            "labels": self.labels,
        });
        writeln!(writer, "{header}")?;
        for row in &self.rows {
            let mut object = Map::new();
            object.insert("id".to_owned(), json!(row.id));
            object.insert("label".to_owned(), label_value(&row.label));
            object.insert("prediction".to_owned(), prediction_value(&row.prediction));
            object.insert("scores".to_owned(), json!(row.scores));
            object.insert("tokens".to_owned(), json!(row.tokens));
            object.insert("text_a".to_owned(), json!(row.text_a));
            if let Some(text) = &row.text_b {
                object.insert("text_b".to_owned(), json!(text));
            }
            if !row.words.is_empty() {
                object.insert("words".to_owned(), json!(row.words));
            }
            writeln!(writer, "{}", Value::Object(object))?;
        }
        Ok(())
    }

    /// Reads a file that [`Predictions::write`] wrote.
    ///
    /// # Errors
    /// [`PredictionsError`], naming the line, for anything else.
    pub fn read(reader: impl BufRead) -> Result<Self, PredictionsError> {
        let mut lines = reader.lines().enumerate();
        let header = lines.next().ok_or_else(|| wrong(1, "a header line", "an empty file"))?.1?;
        let header: Header = serde_json::from_str(&header).map_err(|error| wrong(1, "a header", &error.to_string()))?;
        let mut predictions = Predictions {
            task: header.task,
            split: header.split,
            problem: header.problem,
            labels: header.labels,
            rows: Vec::new(),
        };
        for (index, text) in lines {
            let row = read_row(&predictions, index + 1, &text?)?;
            predictions.rows.push(row);
        }
        Ok(predictions)
    }
}

#[derive(serde::Deserialize)]
struct Header {
    task: String,
    split: Split,
    problem: Problem,
    labels: Vec<String>,
}

#[derive(serde::Deserialize)]
struct RawRow {
    id: usize,
    label: Value,
    prediction: Value,
    scores: Vec<f32>,
    tokens: usize,
    text_a: String,
    text_b: Option<String>,
    #[serde(default)]
    words: Vec<String>,
}

fn read_row(predictions: &Predictions, line: usize, text: &str) -> Result<PredictionRow, PredictionsError> {
    let raw: RawRow = serde_json::from_str(text).map_err(|error| wrong(line, "a prediction", &error.to_string()))?;
    let labels = predictions.labels.len();
    let bad = |what: &str, value: &Value| wrong(line, what, &value.to_string());
    let class = |value: &Value| {
        let class = value.as_u64().and_then(|class| usize::try_from(class).ok()).filter(|&class| class < labels);
        class.ok_or_else(|| bad(&format!("a class below {labels}"), value))
    };
    let set = |value: &Value| {
        let set: Option<Vec<bool>> = value.as_array().and_then(|values| values.iter().map(Value::as_bool).collect());
        set.filter(|set| set.len() == labels).ok_or_else(|| bad(&format!("{labels} times true or false"), value))
    };
    let score = |value: &Value| {
        let score = value.as_f64().map(|score| score as f32).filter(|score| score.is_finite());
        score.ok_or_else(|| bad("a number", value))
    };
    let tags = |value: &Value| {
        let tags: Option<Vec<String>> =
            value.as_array().and_then(|values| values.iter().map(|tag| Some(tag.as_str()?.to_owned())).collect());
        tags.filter(|tags| tags.len() == raw.words.len())
            .ok_or_else(|| bad(&format!("a tag for each of {} words", raw.words.len()), value))
    };
    let label = match (&raw.label, predictions.problem) {
        (Value::Null, _) => Label::None,
        (value, Problem::Classification) => Label::Class(class(value)?),
        (value, Problem::MultiLabel) => Label::Classes(set(value)?),
        (value, Problem::Regression) => Label::Score(score(value)?),
        (value, Problem::Entities | Problem::Tags) => Label::Tags(tags(value)?),
    };
    let prediction = match predictions.problem {
        Problem::Classification => Prediction::Class(class(&raw.prediction)?),
        Problem::MultiLabel => Prediction::Classes(set(&raw.prediction)?),
        Problem::Regression => Prediction::Score(score(&raw.prediction)?),
        Problem::Entities | Problem::Tags => Prediction::Tags(tags(&raw.prediction)?),
    };
    let expected = match predictions.problem {
        Problem::Regression => 0,
        Problem::Entities | Problem::Tags => raw.words.len(),
        Problem::Classification | Problem::MultiLabel => labels,
    };
    if raw.scores.len() != expected {
        return Err(wrong(line, &format!("{expected} scores"), &raw.scores.len().to_string()));
    }
    Ok(PredictionRow {
        id: raw.id,
        label,
        prediction,
        scores: raw.scores,
        tokens: raw.tokens,
        text_a: raw.text_a,
        text_b: raw.text_b,
        words: raw.words,
    })
}

pub(super) fn wrong(line: usize, expected: &str, found: &str) -> PredictionsError {
    PredictionsError::Line { line, expected: expected.to_owned(), found: found.to_owned() }
}

fn label_value(label: &Label) -> Value {
    match label {
        Label::Class(class) => json!(class),
        Label::Classes(set) => json!(set),
        Label::Score(score) => json!(score),
        Label::Tags(tags) => json!(tags),
        Label::None => Value::Null,
    }
}

fn prediction_value(prediction: &Prediction) -> Value {
    match prediction {
        Prediction::Class(class) => json!(class),
        Prediction::Classes(set) => json!(set),
        Prediction::Score(score) => json!(score),
        Prediction::Tags(tags) => json!(tags),
    }
}

/// Probabilities from finite logits, in double precision so that they sum to 1.
pub fn softmax(logits: &[f32]) -> Vec<f32> {
    let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let powers: Vec<f64> = logits.iter().map(|&x| (f64::from(x) - f64::from(largest)).exp()).collect();
    let sum: f64 = powers.iter().sum();
    powers.into_iter().map(|power| (power / sum) as f32).collect()
}

/// `1 / (1 + e^-logit)`, in f64 on the way.
pub fn sigmoid(logit: f32) -> f32 {
    (1.0 / (1.0 + (-f64::from(logit)).exp())) as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    fn task(problem: Problem, labels: &[&str]) -> Task {
        let mut task = Task::glue("sst2").expect("a task");
        task.problem = problem;
        task.labels = labels.iter().map(|&label| label.to_owned()).collect();
        task
    }

    fn example(label: Label) -> Example {
        Example { text_a: "a \"b\"\n\u{2028}<i>".to_owned(), text_b: Some("c".to_owned()), label, line: 7 }
    }

    fn reread(predictions: &Predictions) -> Predictions {
        let mut bytes = Vec::new();
        predictions.write(&mut bytes).expect("memory is writable");
        Predictions::read(bytes.as_slice()).expect("what was written is read")
    }

    #[test]
    fn a_file_is_read_back_equal_for_every_problem() {
        let mut classes = Predictions::new(&task(Problem::Classification, &["n", "p"]), Split::Dev);
        classes.push(&example(Label::Class(1)), &[0.25, 1.75], 9).expect("two logits");
        classes.push(&example(Label::None), &[1.0, 1.0], 9).expect("two logits");
        assert_eq!(
            (&classes.rows[0].prediction, &classes.rows[1].prediction),
            (&Prediction::Class(1), &Prediction::Class(0))
        );
        assert_eq!(classes.rows[1].scores, [0.5, 0.5]);
        assert_eq!(reread(&classes), classes);

        let mut sets = Predictions::new(&task(Problem::MultiLabel, &["a", "b"]), Split::Test);
        sets.push(&example(Label::Classes(vec![true, false])), &[3.0, -200.0], 4).expect("two logits");
        assert_eq!(sets.rows[0].prediction, Prediction::Classes(vec![true, false]));
        assert_eq!(reread(&sets), sets);

        let mut scores = Predictions::new(&task(Problem::Regression, &[]), Split::DevMismatched);
        // A whole number must stay a score and not become a class.
        scores.push(&example(Label::Score(2.0)), &[0.1], 4).expect("one logit");
        assert_eq!(reread(&scores), scores);
    }

    #[test]
    fn tags_are_read_back_with_their_words() {
        let mut tags = Predictions::new(&task(Problem::Entities, &["O", "B-X", "I-X"]), Split::Dev);
        let words = ["10 000", "\"b\""].map(str::to_owned).to_vec();
        let sentence = Sentence { words, tags: vec!["B-X".to_owned(), "O".to_owned()], line: 4 };
        let logits = [vec![0.0, 3.0, 1.0], vec![2.0, 0.0, 0.0]];
        tags.push_words(&sentence, &logits, 6).expect("logits of two words");
        let Prediction::Tags(predicted) = &tags.rows[0].prediction else { panic!("tags") };
        assert_eq!(predicted, &["B-X", "O"]);
        assert_eq!(reread(&tags), tags);
        for bad in [&logits[..1], &[vec![0.0; 3], vec![0.0; 2]], &[vec![0.0; 3], vec![f32::NAN; 3]]] {
            assert!(tags.push_words(&sentence, bad, 6).is_err(), "{bad:?}");
        }
        assert!(tags.push(&example(Label::None), &[0.0; 3], 3).is_err());
    }

    #[test]
    fn logits_that_are_not_finite_or_too_few_are_refused() {
        let mut predictions = Predictions::new(&task(Problem::Classification, &["n", "p"]), Split::Dev);
        for logits in [&[f32::NAN, 0.0][..], &[1.0], &[]] {
            assert!(predictions.push(&example(Label::Class(0)), logits, 3).is_err(), "{logits:?}");
        }
        predictions.push(&example(Label::Class(0)), &[f32::MAX, f32::MIN], 3).expect("finite");
        assert_eq!(predictions.rows[0].scores, [1.0, 0.0]);
    }

    #[test]
    fn a_broken_file_is_refused_by_line() {
        let header = r#"{"task":"t","split":"dev","problem":"classification","labels":["n","p"]}"#;
        let refusal =
            |row: &str| Predictions::read(format!("{header}\n{row}\n").as_bytes()).expect_err("bad").to_string();
        assert_eq!(
            refusal(r#"{"id":1,"label":2,"prediction":0,"scores":[1,0],"tokens":3,"text_a":"x"}"#),
            "predictions line 2: expected a class below 2, found 2"
        );
        assert_eq!(
            refusal(r#"{"id":1,"label":null,"prediction":0,"scores":[1],"tokens":3,"text_a":"x"}"#),
            "predictions line 2: expected 2 scores, found 1"
        );
        assert!(refusal("{").starts_with("predictions line 2: expected a prediction, found"));
        assert!(Predictions::read(&b""[..]).expect_err("empty").to_string().starts_with("predictions line 1"));
    }
}
