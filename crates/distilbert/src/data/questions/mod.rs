//! Extractive question answering: questions about a context whose answers are spans of it.

mod read; // SQuAD's JSON, and JSON Lines
mod task; // task.json beside a model
mod windows; // question and context -> windows of tokens

use std::ops::Range;

use sha2::{Digest, Sha256};

use super::examples::{Skipped, Split};
use crate::random::Rng;

pub use read::{find_file, load, read};
pub use task::{AnswerLanguage, AnswerRules, AnsweringTask, Normalisation, SpanConfig, UnknownLanguage};
pub use windows::{DEFAULT_MAX_LENGTH, DEFAULT_OVERLAP, QuestionWindows, Window, WindowConfig, WindowError};

/// One question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// Names the question in results.
    pub id: String,
    /// What is asked.
    pub text: String,
    /// Index of its context in [`QuestionSet::contexts`].
    pub context: usize,
    /// The gold answers; empty if the context holds none; `None` if the file does not say.
    pub answers: Option<Vec<Answer>>,
}

/// A gold answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Its words.
    pub text: String,
    /// Bytes of the context; `None` if the context has something else where the file says the answer is.
    pub bytes: Option<Range<usize>>,
}

/// Questions and the contexts that they share.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct QuestionSet {
    /// The contexts.
    pub contexts: Vec<String>,
    /// The questions in file order.
    pub questions: Vec<Question>,
    /// Answers that do not stand where the file says: the line (0 in SQuAD's JSON) and what stands there instead.
    pub misplaced: Vec<Skipped>,
}

impl QuestionSet {
    /// One question about one context.
    pub fn single(question: impl Into<String>, context: impl Into<String>) -> QuestionSet {
        QuestionSet {
            contexts: vec![context.into()],
            questions: vec![Question { id: "1".to_owned(), text: question.into(), context: 0, answers: None }],
            misplaced: Vec::new(),
        }
    }

    /// True if the file says of a question that its context has no answer, as SQuAD 2.0 does.
    pub fn has_unanswerable(&self) -> bool {
        self.questions.iter().any(|question| question.answers.as_ref().is_some_and(Vec::is_empty))
    }

    /// True if every question comes with what is right.
    pub fn is_labelled(&self) -> bool {
        self.questions.iter().all(|question| question.answers.is_some())
    }

    /// Cuts `share` of the contexts off, with their questions, by a shuffle that the data alone decides: a context never
    /// stands in both parts. The second part is the one cut off; it is never all there is.
    pub fn split(self, share: f64) -> (QuestionSet, QuestionSet) {
        const PURPOSE: u64 = 0x9a11;
        let count = self.contexts.len();
        let mut order: Vec<usize> = (0..count).collect();
        Rng::from_key(&[PURPOSE, count as u64]).shuffle(&mut order);
        let wanted = ((count as f64 * share).ceil() as usize).min(count.saturating_sub(1));
        let mut cut_off = vec![false; count];
        order.iter().take(wanted).for_each(|&context| cut_off[context] = true);
        let (mut kept, mut cut) = (QuestionSet::default(), QuestionSet::default());
        let mut place = Vec::with_capacity(count);
        for (text, &cut_off) in self.contexts.into_iter().zip(&cut_off) {
            let part = if cut_off { &mut cut } else { &mut kept };
            place.push(part.contexts.len());
            part.contexts.push(text);
        }
        for mut question in self.questions {
            let part = if cut_off[question.context] { &mut cut } else { &mut kept };
            question.context = place[question.context];
            part.questions.push(question);
        }
        kept.misplaced = self.misplaced;
        (kept, cut)
    }

    /// SHA-256 of all contexts, questions and answers in order, in hexadecimal.
    pub fn content_hash(&self) -> String {
        let mut hash = Sha256::new();
        let mut text = |text: &str| {
            hash.update((text.len() as u64).to_le_bytes());
            hash.update(text);
        };
        self.contexts.iter().for_each(|context| text(context));
        for question in &self.questions {
            text(&question.text);
            text(&format!("{} {:?}", question.context, question.answers));
        }
        hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

/// The names under which a folder may hold a split.
fn file_names(split: Split) -> Vec<String> {
    let name = split.name();
    ["json", "jsonl"]
        .iter()
        .map(|ending| format!("{name}.{ending}"))
        .chain(["1.1", "2.0"].iter().map(|version| format!("{name}-v{version}.json")))
        .collect()
}

#[cfg(test)]
mod tests;
