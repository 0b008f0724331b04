//! Intents and slots: one answer for the whole utterance and one for each word, by two heads on one encoder.

use super::{FinetuneConfig, Split, Targets, TaskData, check_validation_share, validation_failed};
use crate::data::encoded::EncodedSet;
use crate::data::examples;
use crate::data::intents::{IntentTask, Utterance, UtteranceSet};
use crate::data::masking::IGNORED;
use crate::data::tagging::words::WordWindows;
use crate::evaluate::IntentPredictions;
use crate::model::{HeadKind, Model};
use crate::predict::intents::{utterances, windows};
use crate::tokenizer::Tokenizer;
use crate::train::{HeldOutReport, TrainError};
use distilbert_kernels::Runtime;

/// The training data of a task in two parts. A sample is a window; of a long utterance the first has the intent.
pub struct IntentData<'a> {
    task: &'a IntentTask,
    train: WordWindows,
    /// Intent of each training window, [`IGNORED`] where it is not the first.
    intents: Vec<i32>,
    /// Tag of each token of each training window, [`IGNORED`] where it answers for no word.
    slots: Vec<Vec<i32>>,
    validation: Vec<Utterance>,
    validation_windows: WordWindows,
}

impl<'a> IntentData<'a> {
    /// Splits the utterances and lays them out in windows of the task's length.
    ///
    /// # Errors
    /// If the share of the validation part, or the length of a window, is out of range.
    pub fn new(
        task: &'a IntentTask,
        data: &UtteranceSet,
        tokenizer: &Tokenizer,
        config: &FinetuneConfig,
        threads: usize,
    ) -> Result<IntentData<'a>, TrainError> {
        check_validation_share(config.validation_share)?;
        if task.max_length < 3 {
            let (expected, found) = ("at least 3".to_owned(), task.max_length.to_string());
            return Err(TrainError::Config { name: "max-length", expected, found });
        }
        let split = Split::of(data.utterances.len(), config.validation_share);
        let part = |indices: &[usize]| -> Vec<Utterance> {
            indices.iter().map(|&index| data.utterances[index].clone()).collect()
        };
        let (trained, validation) = (part(&split.train), part(&split.validation));
        let train = windows(&trained, tokenizer, task.max_length, threads);
        let validation_windows = windows(&validation, tokenizer, task.max_length, threads);
        let class = |names: &[String], name: &str| {
            names.iter().position(|other| other == name).map_or(IGNORED, |class| class as i32)
        };
        let (mut intents, mut slots) = (Vec::new(), Vec::new());
        for (text, answers) in train.encoded.texts.iter().zip(&train.answers) {
            let first = answers.iter().find(|answer| answer.word == 0);
            intents.push(first.map_or(IGNORED, |answer| class(&task.intents, &trained[answer.sentence].intent)));
            let mut classes = vec![IGNORED; text.input_ids.len()];
            for answer in answers {
                classes[answer.token] = class(&task.slots, &trained[answer.sentence].sentence.tags[answer.word]);
            }
            slots.push(classes);
        }
        Ok(IntentData { task, train, intents, slots, validation, validation_windows })
    }

    /// Utterances of more than one window.
    pub fn long(&self) -> usize {
        self.train.long + self.validation_windows.long
    }
}

impl TaskData for IntentData<'_> {
    fn name(&self) -> &str {
        &self.task.name
    }

    fn head(&self) -> HeadKind {
        HeadKind::IntentsAndSlots { intents: self.task.intents.clone(), slots: self.task.slots.clone() }
    }

    fn train(&self) -> &EncodedSet {
        &self.train.encoded
    }

    fn targets(&self, samples: &[usize], _teacher: Option<&[f32]>) -> Targets {
        Targets::IntentsAndSlots {
            intents: samples.iter().map(|&sample| self.intents[sample]).collect(),
            slots: samples.iter().flat_map(|&sample| &self.slots[sample]).copied().collect(),
        }
    }

    /// The checkpoint is chosen by the mean of the three scores: sentences alone move in large steps on a small slice.
    fn validate(&self, rt: &Runtime, model: &Model) -> Result<Option<HeldOutReport>, TrainError> {
        if self.validation.is_empty() {
            return Ok(None);
        }
        let said = utterances(rt, model, &self.validation_windows, 1.0, "validation", &())
            .map_err(|error| validation_failed(&error))?;
        let mut predictions = IntentPredictions::new(&self.task.name, examples::Split::Train);
        let windows = &self.validation_windows;
        for ((utterance, said), &tokens) in self.validation.iter().zip(said).zip(&windows.tokens) {
            predictions.push(utterance, said.intent, said.tags, tokens);
        }
        let values = predictions.scores().map_err(|error| validation_failed(&error))?;
        let score = values.iter().map(|(_, value)| value).sum::<f64>() / values.len() as f64;
        Ok(Some(HeldOutReport { values: values.to_vec(), score }))
    }

    fn task_json(&self) -> String {
        self.task.to_json()
    }
}
