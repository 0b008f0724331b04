//! Extractive question answering: where in a window the answer starts and ends.

use super::{Targets, TaskData, validation_failed};
use crate::data::encoded::EncodedSet;
use crate::data::examples::Split;
use crate::data::questions::{AnsweringTask, QuestionSet, QuestionWindows, WindowError};
use crate::evaluate::AnswerPredictions;
use crate::loss::labelled::Span;
use crate::model::{HeadKind, Model};
use crate::predict::answers::{self, AnswerError};
use crate::progress::Progress;
use crate::tokenizer::Tokenizer;
use crate::train::{HeldOutReport, TrainError};
use distilbert_kernels::Runtime;

/// The training data of a question-answering task in two parts that share no context.
pub struct QuestionData<'a> {
    task: &'a AnsweringTask,
    /// Windows with an answer, or that are known to have none.
    train: EncodedSet,
    spans: Vec<Span>,
    validation: QuestionSet,
    validation_windows: QuestionWindows,
    /// Questions left out, because none of their answers stands where the file says.
    pub unusable: usize,
    /// Questions of both parts that lost tokens.
    pub truncated: usize,
}

impl<'a> QuestionData<'a> {
    /// Splits the questions and cuts them into windows. Of several gold answers the first is trained on; a window that
    /// does not show all of it is to answer "none", with both ends on the first token.
    ///
    /// # Errors
    /// If a question is not labelled, the task's windows leave no room, or the share is out of range.
    pub fn new(
        task: &'a AnsweringTask,
        data: QuestionSet,
        validation_share: f64,
        tokenizer: &Tokenizer,
        threads: usize,
    ) -> Result<QuestionData<'a>, TrainError> {
        super::check_validation_share(validation_share)?;
        if let Some(question) = data.questions.iter().find(|question| question.answers.is_none()) {
            return Err(TrainError::Config {
                name: "training data",
                expected: "answers".into(),
                found: format!("none of question `{}`", question.id),
            });
        }
        // A slice of a few dozen would choose by chance; a fifth is the most that a small set can spare.
        let least = (100.0 / data.questions.len().max(1) as f64).min(0.2);
        let share = if validation_share > 0.0 { validation_share.max(least) } else { 0.0 };
        let (train, validation) = data.split(share);
        let cut = |set: &QuestionSet| {
            QuestionWindows::new(set, tokenizer, task.windows, threads).map_err(|error: WindowError| {
                TrainError::Config {
                    name: "windows",
                    expected: "room for question and context".into(),
                    found: error.to_string(),
                }
            })
        };
        let (windows, validation_windows) = (cut(&train)?, cut(&validation)?);
        let (mut samples, mut spans, mut unusable) = (Vec::new(), Vec::new(), 0);
        for (index, question) in train.questions.iter().enumerate() {
            let golds = question.answers.as_deref().unwrap_or_default();
            let answer = golds.iter().find_map(|gold| gold.bytes.as_ref());
            if answer.is_none() && !golds.is_empty() {
                unusable += 1;
                continue;
            }
            for window in windows.of_question(index) {
                let [start, end] = windows.target(&windows.windows()[window], answer).map(|token| Some(token as u32));
                samples.push(window);
                spans.push(Span { start, end });
            }
        }
        let truncated = windows.truncated_questions + validation_windows.truncated_questions;
        let train = windows.encoded(&samples);
        Ok(QuestionData { task, train, spans, validation, validation_windows, unusable, truncated })
    }

    /// Windows that are trained on.
    pub fn windows(&self) -> usize {
        self.spans.len()
    }

    /// Questions that choose the best checkpoint.
    pub fn validation_questions(&self) -> usize {
        self.validation.questions.len()
    }

    /// What the model answers to the validation part, with the task's threshold; `None` if the part is empty.
    ///
    /// # Errors
    /// If the model cannot answer.
    pub fn validation_answers(
        &self,
        rt: &Runtime,
        model: &Model,
        progress: &dyn Progress,
    ) -> Result<Option<AnswerPredictions>, AnswerError> {
        if self.validation.questions.is_empty() {
            return Ok(None);
        }
        let spans = self.task.spans;
        let found = answers::spans(rt, model, &self.validation_windows, spans, "validation", progress)?;
        let mut predictions =
            AnswerPredictions::new(&self.task.name, Split::Train, self.task.rules, self.task.null_threshold());
        for (index, (question, found)) in self.validation.questions.iter().zip(&found).enumerate() {
            let (context, tokens) =
                (&self.validation.contexts[question.context], self.validation_windows.tokens(index));
            predictions.push(question, context, tokens, found, spans.n_best);
        }
        Ok(Some(predictions))
    }
}

impl TaskData for QuestionData<'_> {
    fn name(&self) -> &str {
        &self.task.name
    }

    fn head(&self) -> HeadKind {
        HeadKind::QuestionAnswering
    }

    fn train(&self) -> &EncodedSet {
        &self.train
    }

    fn targets(&self, samples: &[usize], _teacher: Option<&[f32]>) -> Targets {
        Targets::Spans(samples.iter().map(|&sample| self.spans[sample]).collect())
    }

    /// F1 and exact match. Where questions may have no answer the checkpoint is chosen by the F1 of the best threshold,
    /// which is fitted at the end.
    fn validate(&self, rt: &Runtime, model: &Model) -> Result<Option<HeldOutReport>, TrainError> {
        let predictions = self.validation_answers(rt, model, &()).map_err(|error| validation_failed(&error))?;
        let Some(predictions) = predictions else { return Ok(None) };
        let scored = predictions.scores().map_err(|error| validation_failed(&error))?;
        let mut values = vec![("f1", scored.f1), ("exact_match", scored.exact_match)];
        let mut score = scored.f1;
        if self.task.rules.unanswerable {
            let [(best_f1, _), _] = predictions.best_thresholds();
            values.push(("best_f1", best_f1));
            score = best_f1;
        }
        Ok(Some(HeldOutReport { values, score }))
    }

    fn task_json(&self) -> String {
        self.task.to_json()
    }
}
