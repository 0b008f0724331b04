//! Tasks of one answer a word: named entities, parts of speech.

use super::{FinetuneConfig, Split, Targets, TaskData, check_validation_share, validation_failed};
use crate::data::encoded::EncodedSet;
use crate::data::examples::{self, SavedTask, Task};
use crate::data::masking::IGNORED;
use crate::data::tagging::words::WordWindows;
use crate::data::tagging::{Sentence, TaggedSet};
use crate::evaluate::predictions::Predictions;
use crate::model::{HeadKind, Model};
use crate::predict;
use crate::tokenizer::Tokenizer;
use crate::train::{HeldOutReport, TrainError};
use distilbert_kernels::Runtime;

/// The training data of a task in two parts. A sample is a window: a long sentence has several.
pub struct TaggingData<'a> {
    task: &'a Task,
    max_length: usize,
    train: WordWindows,
    /// Class of each token of each training window, [`IGNORED`] where it answers for no word.
    classes: Vec<Vec<i32>>,
    validation: Vec<Sentence>,
    validation_windows: WordWindows,
}

impl<'a> TaggingData<'a> {
    /// Splits the sentences and lays them out in windows of `config.max_length` tokens.
    ///
    /// # Errors
    /// If the share of the validation part, or the length of a window, is out of range.
    pub fn new(
        task: &'a Task,
        data: &TaggedSet,
        tokenizer: &Tokenizer,
        config: &FinetuneConfig,
        threads: usize,
    ) -> Result<TaggingData<'a>, TrainError> {
        check_validation_share(config.validation_share)?;
        if config.max_length < 3 {
            let (expected, found) = ("at least 3".to_owned(), config.max_length.to_string());
            return Err(TrainError::Config { name: "max-length", expected, found });
        }
        let split = Split::of(data.sentences.len(), config.validation_share);
        let part = |indices: &[usize]| -> Vec<Sentence> {
            indices.iter().map(|&index| data.sentences[index].clone()).collect()
        };
        let (sentences, validation) = (part(&split.train), part(&split.validation));
        let train = WordWindows::new(&sentences, tokenizer, config.max_length, threads);
        let validation_windows = WordWindows::new(&validation, tokenizer, config.max_length, threads);
        let classes = (train.encoded.texts.iter().zip(&train.answers))
            .map(|(text, answers)| {
                let mut classes = vec![IGNORED; text.input_ids.len()];
                for answer in answers {
                    let tag = &sentences[answer.sentence].tags[answer.word];
                    let class = task.labels.iter().position(|label| label == tag);
                    classes[answer.token] = class.map_or(IGNORED, |class| class as i32);
                }
                classes
            })
            .collect();
        Ok(TaggingData { task, max_length: config.max_length, train, classes, validation, validation_windows })
    }

    /// Sentences of more than one window.
    pub fn long(&self) -> usize {
        self.train.long + self.validation_windows.long
    }
}

impl TaskData for TaggingData<'_> {
    fn name(&self) -> &str {
        &self.task.name
    }

    fn head(&self) -> HeadKind {
        self.task.head()
    }

    fn train(&self) -> &EncodedSet {
        &self.train.encoded
    }

    fn targets(&self, samples: &[usize], _teacher: Option<&[f32]>) -> Targets {
        Targets::Classes(samples.iter().flat_map(|&sample| &self.classes[sample]).copied().collect())
    }

    fn validate(&self, rt: &Runtime, model: &Model) -> Result<Option<HeldOutReport>, TrainError> {
        if self.validation.is_empty() {
            return Ok(None);
        }
        let windows = &self.validation_windows;
        let logits = predict::logits(rt, model, &windows.encoded, "validation", &())
            .map_err(|error| validation_failed(&error))?;
        let words = predict::word_logits(windows, &logits, self.task.labels.len());
        let mut predictions = Predictions::new(self.task, examples::Split::Train);
        for ((sentence, logits), &tokens) in self.validation.iter().zip(&words).zip(&windows.tokens) {
            predictions.push_words(sentence, logits, tokens).map_err(|error| validation_failed(&error))?;
        }
        let outcomes = predictions.outcomes().map_err(|error| validation_failed(&error))?;
        let values = (self.task.metrics.iter())
            .map(|&metric| Ok((metric.name(), outcomes.metric(metric).map_err(|error| validation_failed(&error))?)))
            .collect::<Result<Vec<_>, TrainError>>()?;
        // The first metric is the task's own; the others are parts of it, or easier.
        let score = values.first().map_or(0.0, |&(_, value)| value);
        Ok(Some(HeldOutReport { values, score }))
    }

    fn task_json(&self) -> String {
        SavedTask { task: self.task.clone(), max_length: self.max_length }.to_json()
    }
}
