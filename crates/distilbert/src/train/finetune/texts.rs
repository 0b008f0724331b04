//! Tasks of one answer a text: a class, several, or a number.

use super::{FinetuneConfig, Split, Targets, TaskData, check_validation_share, validation_failed};
use crate::data::encoded::EncodedSet;
use crate::data::examples::{DataSet, Example, Label, Problem, SavedTask, Task};
use crate::data::masking::IGNORED;
use crate::evaluate::predictions::Predictions;
use crate::model::{HeadKind, Model};
use crate::predict;
use crate::tokenizer::Tokenizer;
use crate::train::{HeldOutReport, TrainError};
use distilbert_kernels::Runtime;

/// Examples beside their tokens.
pub struct LabelledSet {
    /// Texts and labels.
    pub examples: Vec<Example>,
    /// Their tokens.
    pub encoded: EncodedSet,
}

/// The training data of a task in two parts.
pub struct TextData<'a> {
    task: &'a Task,
    max_length: usize,
    /// Trained on.
    pub train: LabelledSet,
    /// Chooses the best checkpoint.
    pub validation: LabelledSet,
}

impl<'a> TextData<'a> {
    /// Splits and tokenises the examples.
    ///
    /// # Errors
    /// If the task is one of words, an example has no label, or the share of the validation part is out of range.
    pub fn new(
        task: &'a Task,
        data: &DataSet,
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
        let part = |indices: &[usize]| {
            let examples: Vec<Example> = indices.iter().map(|&index| data.examples[index].clone()).collect();
            let encoded = EncodedSet::from_examples(&examples, tokenizer, config.max_length, threads);
            LabelledSet { examples, encoded }
        };
        let (train, validation) = (part(&split.train), part(&split.validation));
        Ok(TextData { task, max_length: config.max_length, train, validation })
    }

    /// Examples that lost tokens to the maximum length.
    pub fn truncated(&self) -> usize {
        self.train.encoded.truncated + self.validation.encoded.truncated
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

    fn targets(&self, samples: &[usize]) -> Targets {
        let labels = samples.iter().map(|&sample| &self.train.examples[sample].label);
        match self.task.problem {
            Problem::Classification => Targets::Classes(
                labels
                    .map(|label| match label {
                        Label::Class(class) => *class as i32,
                        _ => IGNORED,
                    })
                    .collect(),
            ),
            Problem::MultiLabel => Targets::Multi(
                labels
                    .flat_map(|label| match label {
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
                    .map(|label| match label {
                        Label::Score(score) => *score,
                        _ => 0.0,
                    })
                    .collect(),
            ),
        }
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
