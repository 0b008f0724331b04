//! Tasks of one answer a text: a class, several, or a number.

use super::{FinetuneConfig, Split, Targets, TaskData, check_validation_share, validation_failed};
use crate::data::encoded::EncodedSet;
use crate::data::examples::{DataSet, Example, Label, Problem, SavedTask, Task};
use crate::data::masking::IGNORED;
use crate::evaluate::metrics::argmax;
use crate::evaluate::predictions::Predictions;
use crate::model::{HeadKind, Model};
use crate::predict;
use crate::tokenizer::Tokenizer;
use crate::train::{HeldOutReport, TrainError};
use distilbert_kernels::Runtime;
use std::borrow::Cow;

/// Examples beside their tokens.
pub struct LabelledSet {
    /// Texts and labels.
    pub examples: Vec<Example>,
    /// Their tokens.
    pub encoded: EncodedSet,
}

/// The training data of a task in two parts, and what a teacher is to label.
pub struct TextData<'a> {
    task: &'a Task,
    max_length: usize,
    /// Trained on, the labelled ones first.
    pub train: LabelledSet,
    /// Chooses the best checkpoint.
    pub validation: LabelledSet,
}

impl<'a> TextData<'a> {
    /// Splits and tokenises the examples. Those of `unlabelled`, whatever label they have, are all trained on, by what a
    /// teacher says of them.
    ///
    /// # Errors
    /// If the task is one of words, an example of `data` has no label, or the share of the validation part is out of range.
    pub fn new(
        task: &'a Task,
        data: &DataSet,
        unlabelled: &[Example],
        tokenizer: &Tokenizer,
        config: &FinetuneConfig,
        threads: usize,
    ) -> Result<TextData<'a>, TrainError> {
        check_validation_share(config.validation_share)?;
        if task.problem.is_of_words() {
            let (expected, found) = ("one that labels whole texts".into(), format!("`{}`", task.name));
            return Err(TrainError::Config { name: "task", expected, found });
        }
        if let Some(unlabelled) = data.examples.iter().find(|example| example.label == Label::None) {
            return Err(TrainError::Config {
                name: "training data",
                expected: "a label".into(),
                found: format!("none on line {}", unlabelled.line),
            });
        }
        let split = Split::of(data.examples.len(), config.validation_share);
        let part = |indices: &[usize], unlabelled: &[Example]| {
            let labelled = indices.iter().map(|&index| data.examples[index].clone());
            let others = unlabelled.iter().map(|example| Example { label: Label::None, ..example.clone() });
            let examples: Vec<Example> = labelled.chain(others).collect();
            let encoded = EncodedSet::from_examples(&examples, tokenizer, config.max_length, threads);
            LabelledSet { examples, encoded }
        };
        let (train, validation) = (part(&split.train, unlabelled), part(&split.validation, &[]));
        Ok(TextData { task, max_length: config.max_length, train, validation })
    }

    /// Examples that lost tokens to the maximum length.
    pub fn truncated(&self) -> usize {
        self.train.encoded.truncated.len() + self.validation.encoded.truncated.len()
    }
}

/// What a model's logits answer.
fn answer(problem: Problem, logits: &[f32]) -> Label {
    match problem {
        Problem::Classification | Problem::Entities | Problem::Tags => Label::Class(argmax(logits)),
        Problem::MultiLabel => Label::Classes(logits.iter().map(|&logit| logit > 0.0).collect()),
        Problem::Regression => Label::Score(logits.first().copied().unwrap_or(0.0)),
    }
}

impl TaskData for TextData<'_> {
    fn name(&self) -> &str {
        &self.task.name
    }

    fn head(&self) -> HeadKind {
        self.task.head()
    }

    fn train(&self) -> &EncodedSet {
        &self.train.encoded
    }

    fn targets(&self, samples: &[usize], teacher: Option<&[f32]>) -> Targets {
        let outputs = teacher.map_or(0, |said| said.len() / samples.len().max(1));
        let labels = samples.iter().enumerate().map(|(place, &sample)| {
            let label = &self.train.examples[sample].label;
            match teacher.filter(|_| *label == Label::None) {
                Some(said) => Cow::Owned(answer(self.task.problem, &said[place * outputs..][..outputs])),
                None => Cow::Borrowed(label),
            }
        });
        match self.task.problem {
            Problem::Classification => Targets::Classes(
                labels
                    .map(|label| match *label {
                        Label::Class(class) => class as i32,
                        _ => IGNORED,
                    })
                    .collect(),
            ),
            Problem::MultiLabel => Targets::Multi(
                labels
                    .flat_map(|label| match &*label {
                        Label::Classes(classes) => {
                            classes.iter().map(|&applies| f32::from(u8::from(applies))).collect()
                        }
                        _ => Vec::new(),
                    })
                    .collect(),
            ),
            Problem::Entities | Problem::Tags => unreachable!("TextData::new takes only tasks of whole texts"),
            Problem::Regression => Targets::Scores(
                labels
                    .map(|label| match *label {
                        Label::Score(score) => score,
                        _ => 0.0,
                    })
                    .collect(),
            ),
        }
    }

    fn needs_teacher(&self) -> bool {
        self.train.examples.iter().any(|example| example.label == Label::None)
    }

    fn validate(&self, rt: &Runtime, model: &Model) -> Result<Option<HeldOutReport>, TrainError> {
        let validation = &self.validation;
        if validation.examples.is_empty() {
            return Ok(None);
        }
        let logits = predict::logits(rt, model, &validation.encoded, "validation", &())
            .map_err(|error| validation_failed(&error))?;
        let mut predictions = Predictions::new(self.task, crate::data::examples::Split::Train);
        for (index, (example, text)) in validation.examples.iter().zip(&validation.encoded.texts).enumerate() {
            predictions
                .push(example, logits.of(index), text.input_ids.len())
                .map_err(|error| validation_failed(&error))?;
        }
        let outcomes = predictions.outcomes().map_err(|error| validation_failed(&error))?;
        let values = (self.task.metrics.iter())
            .map(|&metric| Ok((metric.name(), outcomes.metric(metric).map_err(|error| validation_failed(&error))?)))
            .collect::<Result<Vec<_>, TrainError>>()?;
        // The task's metrics count alike, as in GLUE's own averages.
        let score = values.iter().map(|(_, value)| value).sum::<f64>() / values.len().max(1) as f64;
        Ok(Some(HeldOutReport { values, score }))
    }

    fn task_json(&self) -> String {
        SavedTask { task: self.task.clone(), max_length: self.max_length }.to_json()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::examples::Defaults;
    use crate::data::examples::{Columns, Layout, TaskKind};

    fn task(problem: Problem) -> Task {
        Task {
            name: "mine".to_owned(),
            kind: TaskKind::Single,
            layout: Layout::Columns(Columns::new("text", "label")),
            problem,
            labels: ["a", "b"].map(str::to_owned).into(),
            metrics: Vec::new(),
            defaults: Defaults::default(),
        }
    }

    #[test]
    fn what_the_teacher_says_stands_for_a_missing_label_and_for_no_other() {
        let teacher = [-1.0f32, 2.0, 3.0, -0.5];
        let of = |problem: Problem, label: Label, teacher: Option<&[f32]>| {
            let example = |label| Example { text_a: "x".to_owned(), text_b: None, label, line: 1 };
            let train =
                LabelledSet { examples: vec![example(Label::None), example(label)], encoded: EncodedSet::default() };
            let validation = LabelledSet { examples: Vec::new(), encoded: EncodedSet::default() };
            let task = task(problem);
            let data = TextData { task: &task, max_length: 8, train, validation };
            assert!(data.needs_teacher());
            data.targets(&[1, 0, 0], teacher)
        };
        let classes = [0.0f32, 1.0, -1.0, 2.0, 3.0, -0.5];
        let found = of(Problem::Classification, Label::Class(0), Some(&classes));
        assert_eq!(found, Targets::Classes(vec![0, 1, 0]));
        assert_eq!(of(Problem::Classification, Label::Class(0), None), Targets::Classes(vec![0, IGNORED, IGNORED]));
        let found = of(Problem::MultiLabel, Label::Classes(vec![false, false]), Some(&classes));
        assert_eq!(found, Targets::Multi(vec![0.0, 0.0, 0.0, 1.0, 1.0, 0.0]));
        let found = of(Problem::Regression, Label::Score(5.0), Some(&teacher[..3]));
        assert_eq!(found, Targets::Scores(vec![5.0, 2.0, 3.0]));
    }
}
