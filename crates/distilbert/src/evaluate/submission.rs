//! Prediction files in the form that the GLUE server takes.

use std::fmt::Write;

use crate::data::examples::Split;

use super::predictions::{Prediction, Predictions};

/// Predictions that make no GLUE submission.
#[derive(Debug, thiserror::Error)]
pub enum SubmissionError {
    /// The server takes no such file.
    #[error("the GLUE server takes no predictions for task `{task}`, split `{split}`")]
    NotTaken {
        /// The task.
        task: String,
        /// The split.
        split: Split,
    },
    /// A prediction of another kind than the task has.
    #[error("row {row}: expected a prediction of task `{task}`, found {found:?}")]
    Prediction {
        /// The task.
        task: String,
        /// Index of the row, from 0.
        row: usize,
        /// What is there.
        found: Prediction,
    },
}

/// How the server wants a task's predictions.
enum Form {
    /// The class id.
    Id,
    /// The label's name.
    Name,
    /// A number, clipped to STS-B's scale.
    Score,
}

/// Refuses what the server takes no file of, before there are predictions.
///
/// # Errors
/// [`SubmissionError::NotTaken`].
pub fn check_submission(task: &str, split: Split) -> Result<(), SubmissionError> {
    file(task, split).map(|_| ())
}

/// Name and content of the task's file in the submission archive: `index` and `prediction`, rows in file order.
///
/// # Errors
/// [`SubmissionError`] if the server takes no such file or a prediction is of another kind.
pub fn submission(predictions: &Predictions) -> Result<(&'static str, String), SubmissionError> {
    let (name, form) = file(&predictions.task, predictions.split)?;
    let mut text = "index\tprediction\n".to_owned();
    for (index, row) in predictions.rows.iter().enumerate() {
        let label = match (&form, &row.prediction) {
            (Form::Id, Prediction::Class(class)) => Some(class.to_string()),
            (Form::Name, Prediction::Class(class)) => predictions.labels.get(*class).cloned(),
            (Form::Score, Prediction::Score(score)) => Some(format!("{:.3}", score.clamp(0.0, 5.0))),
            _ => None,
        };
        let label = label.ok_or_else(|| SubmissionError::Prediction {
            task: predictions.task.clone(),
            row: index,
            found: row.prediction.clone(),
        })?;
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{index}\t{label}");
    }
    Ok((name, text))
}

/// Name and form of the file of a task and split.
fn file(task: &str, split: Split) -> Result<(&'static str, Form), SubmissionError> {
    Ok(match (task, split) {
        ("cola", Split::Test) => ("CoLA.tsv", Form::Id),
        ("sst2", Split::Test) => ("SST-2.tsv", Form::Id),
        ("mrpc", Split::Test) => ("MRPC.tsv", Form::Id),
        ("stsb", Split::Test) => ("STS-B.tsv", Form::Score),
        ("qqp", Split::Test) => ("QQP.tsv", Form::Id),
        ("mnli", Split::Test) => ("MNLI-m.tsv", Form::Name),
        ("mnli", Split::TestMismatched) => ("MNLI-mm.tsv", Form::Name),
        ("qnli", Split::Test) => ("QNLI.tsv", Form::Name),
        ("rte", Split::Test) => ("RTE.tsv", Form::Name),
        ("wnli", Split::Test) => ("WNLI.tsv", Form::Id),
        ("ax", Split::Test) => ("AX.tsv", Form::Name),
        _ => return Err(SubmissionError::NotTaken { task: task.to_owned(), split }),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::examples::{Example, Label, Task};

    fn of(task: &str, split: Split, logits: &[&[f32]]) -> Result<(&'static str, String), SubmissionError> {
        let mut predictions = Predictions::new(&Task::glue(task).expect("a task"), split);
        let example = Example { text_a: String::new(), text_b: None, label: Label::None, line: 2 };
        for logits in logits {
            predictions.push(&example, logits, 2).expect("good logits");
        }
        submission(&predictions)
    }

    #[test]
    fn each_task_has_its_file_name_and_label_form() {
        let (name, text) = of("mnli", Split::TestMismatched, &[&[0.0, 0.0, 1.0], &[1.0, 0.0, 0.0]]).expect("taken");
        assert_eq!((name, text.as_str()), ("MNLI-mm.tsv", "index\tprediction\n0\tcontradiction\n1\tentailment\n"));
        let (name, text) = of("wnli", Split::Test, &[&[0.0, 1.0]]).expect("taken");
        assert_eq!((name, text.as_str()), ("WNLI.tsv", "index\tprediction\n0\t1\n"));
        let (name, text) = of("stsb", Split::Test, &[&[5.7], &[-1.0], &[2.34567]]).expect("taken");
        assert_eq!((name, text.as_str()), ("STS-B.tsv", "index\tprediction\n0\t5.000\n1\t0.000\n2\t2.346\n"));
    }

    #[test]
    fn development_splits_are_not_submitted() {
        let error = of("sst2", Split::Dev, &[]).expect_err("dev").to_string();
        assert_eq!(error, "the GLUE server takes no predictions for task `sst2`, split `dev`");
    }
}
