//! A question answerer over any number of questions, in memory bounded by the batch; and its answers with probabilities,
//! ranked as Hugging Face's question-answering pipeline ranks them.

use std::ops::Range;

use serde::Serialize;

use super::answer_spans::{NotFinite, SpanPrediction, SpanSearch};
use super::classify::is_zero;
use super::{BATCH_TOKENS, LogitsRunner, PredictError};
use crate::data::questions::{QuestionWindows, SpanConfig, Window};
use crate::evaluate::answer_predictions::character_range;
use crate::heads::tokens::starts_then_ends;
use crate::model::{HeadKind, Model};
use crate::progress::Progress;
use distilbert_kernels::Runtime;

/// Why questions cannot be answered.
#[derive(Debug, thiserror::Error)]
pub enum AnswerError {
    /// The model has another head.
    #[error("expected a model with a question-answering head, found {found}")]
    Head {
        /// Class suffix of the model.
        found: &'static str,
    },
    /// The model cannot take a window.
    #[error(transparent)]
    Predict(#[from] PredictError),
    /// The model gives no number.
    #[error("question {question}: {source}")]
    NotFinite {
        /// Index of the question.
        question: usize,
        /// Where.
        source: NotFinite,
    },
}

/// The likeliest spans of every question, in order. Stops early, with fewer questions, if the user asks.
///
/// # Errors
/// [`AnswerError`] if the model has another head, cannot take a window or gives no number.
pub fn spans(
    rt: &Runtime,
    model: &Model,
    windows: &QuestionWindows,
    config: SpanConfig,
    what: &str,
    progress: &dyn Progress,
) -> Result<Vec<SpanPrediction>, AnswerError> {
    if model.config.head != HeadKind::QuestionAnswering {
        return Err(AnswerError::Head { found: model.config.head.class_suffix() });
    }
    let mut runner = LogitsRunner::new(model)?;
    let lengths = windows.lengths();
    let mut found = Vec::new();
    let mut search = SpanSearch::new(config);
    progress.begin(what, Some(lengths.len() as u64), "windows");
    let mut next = 0;
    while next < lengths.len() && !progress.stop_requested() {
        let (first, mut tokens) = (next, 0);
        while next < lengths.len() && (next == first || tokens + lengths[next] <= BATCH_TOKENS) {
            tokens += lengths[next];
            next += 1;
        }
        let batch = windows.batch(&(first..next).collect::<Vec<_>>());
        let mut rest = runner.run(rt, &batch).map_err(|source| PredictError::Input { index: first, source })?;
        for (window, &length) in (first..next).zip(&lengths[first..next]) {
            let (own, others) = rest.split_at(2 * length); // [seq, 2]
            let pairs = starts_then_ends(own); // [2, seq]
            let (starts, ends) = pairs.split_at(length);
            let question = windows.windows()[window].question;
            let add = search.add(windows, window, starts, ends);
            add.map_err(|source| AnswerError::NotFinite { question, source })?;
            if windows.of_question(question).end == window + 1 {
                found.extend(std::mem::replace(&mut search, SpanSearch::new(config)).finish());
            }
            rest = others;
        }
        progress.advance((next - first) as u64);
    }
    progress.end();
    Ok(found)
}

/// An answer with its probability; without bytes it is that there is none.
#[derive(Clone, Debug, PartialEq)]
pub struct RankedAnswer {
    /// Probability of its start times that of its end, in its window; summed over all places where its words stand, so
    /// that it may exceed 1.
    pub score: f64,
    /// Bytes of the context, the first place; `None` for no answer.
    pub bytes: Option<Range<usize>>,
}

impl RankedAnswer {
    /// The answer as the pipeline shows it; `context` is what it is from, `truncated_tokens` what its question lost.
    pub fn shown<'a>(&self, context: &'a str, truncated_tokens: usize) -> ShownAnswer<'a> {
        let bytes = self.bytes.clone().unwrap_or(0..0);
        let characters = character_range(context, &bytes);
        let (start, end) = (characters.start, characters.end);
        ShownAnswer { score: self.score, start, end, answer: &context[bytes], truncated_tokens }
    }
}

/// An answer in the shape of Hugging Face's question-answering pipeline.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ShownAnswer<'a> {
    /// As [`RankedAnswer::score`].
    pub score: f64,
    /// First character of the context.
    pub start: usize,
    /// The character behind the last.
    pub end: usize,
    /// The words; empty for no answer.
    pub answer: &'a str,
    /// Tokens that a question lost which is too long; left out of JSON if none.
    #[serde(skip_serializing_if = "is_zero")]
    pub truncated_tokens: usize,
}

/// How answers are ranked.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RankingConfig {
    /// Answers wanted of each question; at least 1.
    pub top_k: usize,
    /// Longest answer in tokens, before it is made whole words; at least 1.
    pub max_answer_length: usize,
    /// No answer is one of the answers, and the first if it is likelier than the best by more than this, in log odds.
    pub null_threshold: Option<f32>,
}

/// Gathers a question's likeliest answers window by window, whole words each.
///
/// # Source
/// `QuestionAnsweringPipeline.postprocess` of transformers 4.57.3.
#[derive(Clone, Debug)]
pub struct Ranking<'a> {
    context: &'a str,
    config: RankingConfig,
    answers: Vec<RankedAnswer>,
    /// Probability of no answer, where the model believes in it least.
    null: f64,
}

impl<'a> Ranking<'a> {
    /// A ranking of answers from `context` that has seen no window.
    pub fn new(context: &'a str, config: RankingConfig) -> Ranking<'a> {
        Ranking { context, config, answers: Vec::new(), null: f64::INFINITY }
    }

    /// Adds a window: `starts` and `ends` have a logit for each token of its sequence. Answers of the same words, whatever
    /// the letter case, are one answer, and their probabilities are added.
    ///
    /// # Errors
    /// [`NotFinite`] if a logit is none.
    pub fn add(
        &mut self,
        windows: &QuestionWindows,
        window: &Window,
        starts: &[f32],
        ends: &[f32],
    ) -> Result<(), NotFinite> {
        NotFinite::check(starts)?;
        NotFinite::check(ends)?;
        let first = windows.context_start(window);
        let context = first..first + window.tokens.len();
        // The question takes no part; the first token stands for no answer.
        let (null_start, starts) = probabilities(starts[0], &starts[context.clone()]);
        let (null_end, ends) = probabilities(ends[0], &ends[context]);
        self.null = self.null.min(null_start * null_end);
        let mut pairs: Vec<(f64, usize, usize)> = Vec::new();
        for (from, start) in starts.iter().enumerate() {
            let ends = ends.iter().enumerate().skip(from).take(self.config.max_answer_length);
            pairs.extend(ends.map(|(to, end)| (start * end, from, to)));
        }
        // Stable: of equals the one that begins, then the one that ends first.
        pairs.sort_by(|a, b| b.0.total_cmp(&a.0));
        // Some will turn out to be the same words.
        pairs.truncate(2 * self.config.top_k + 10);
        let words = |bytes: &Range<usize>| self.context[bytes.clone()].to_lowercase();
        for (score, from, to) in pairs {
            let [from, to] = windows.whole_words(window, window.tokens.start + from, window.tokens.start + to);
            let bytes = windows.bytes(window.question, from, to);
            let known = self.answers.iter_mut().find(|answer| {
                answer.bytes.as_ref().is_some_and(|known| *known == bytes || words(known) == words(&bytes))
            });
            match known {
                Some(known) => known.score += score,
                None => self.answers.push(RankedAnswer { score, bytes: Some(bytes) }),
            }
        }
        Ok(())
    }

    /// The best answers, the best first; no answer, of probability 0, if the context has no words.
    pub fn finish(self) -> Vec<RankedAnswer> {
        let Ranking { config, mut answers, null, .. } = self;
        answers.sort_by(|a, b| b.score.total_cmp(&a.score));
        if let Some(threshold) = config.null_threshold {
            let handicapped = null * (-f64::from(threshold)).exp();
            let place = answers.partition_point(|answer| answer.score >= handicapped);
            answers.insert(place, RankedAnswer { score: null, bytes: None });
        }
        if answers.is_empty() {
            answers.push(RankedAnswer { score: 0.0, bytes: None });
        }
        answers.truncate(config.top_k);
        answers
    }
}

/// Probability of the first token, and of each of the context's.
fn probabilities(first: f32, context: &[f32]) -> (f64, Vec<f64>) {
    let highest = context.iter().copied().fold(first, f32::max);
    let weight = |logit: f32| f64::from(logit - highest).exp();
    let sum = weight(first) + context.iter().map(|&logit| weight(logit)).sum::<f64>();
    (weight(first) / sum, context.iter().map(|&logit| weight(logit) / sum).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::model_folder::HeadChoice;
    use crate::data::questions::{QuestionSet, WindowConfig};
    use crate::model::Purpose;
    use crate::tokenizer::Tokenizer;
    use distilbert_kernels::{Isa, Precision};
    use serde::Deserialize;
    use std::path::Path;

    /// Made by `reference/make_answering_goldens.py` with transformers 4.57.3.
    const GOLDEN: &str = include_str!("../../tests/goldens/answering.json");

    /// Logits of another implementation in f32: what the goldens of the same two models allow.
    const TOLERANCE: f64 = 2e-6;

    #[derive(Deserialize)]
    struct Golden {
        vocabulary: Vec<String>,
        max_length: usize,
        doc_stride: usize,
        cases: Vec<Case>,
    }

    #[derive(Deserialize)]
    struct Case {
        model: String,
        question: String,
        context: String,
        windows: Vec<[usize; 2]>,
        n_best: NBest,
        null_odds: f64,
        ranked: Vec<Ranked>,
        ranked_with_null: Vec<Ranked>,
    }

    #[derive(Deserialize)]
    struct NBest {
        without_null: Vec<Likely>,
        with_null: Vec<Likely>,
    }

    #[derive(Deserialize)]
    struct Likely {
        text: String,
        start_logit: f64,
        end_logit: f64,
        probability: f64,
    }

    #[derive(Debug, Deserialize)]
    struct Ranked {
        score: f64,
        start: usize,
        end: usize,
        answer: String,
    }

    fn close(found: f64, expected: f64) -> bool {
        (found - expected).abs() <= TOLERANCE
    }

    #[test]
    fn answers_are_those_of_the_reference_run_and_of_the_pipeline() {
        let golden: Golden = serde_json::from_str(GOLDEN).unwrap();
        let tokenizer = Tokenizer::from_vocabulary(golden.vocabulary, true).unwrap();
        let rt = Runtime::new(Isa::detect(), 1).unwrap();
        for case in &golden.cases {
            let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens").join(&case.model);
            let mut model = Model::load(&folder, HeadChoice::AsSaved).unwrap().model;
            model.pack(&rt, Precision::F32, Purpose::Inference);
            let set = QuestionSet::single(&case.question, &case.context);
            let config = WindowConfig { max_length: golden.max_length, doc_stride: golden.doc_stride };
            let windows = QuestionWindows::new(&set, &tokenizer, config, 1).unwrap();
            let place = format!("{}: {:?} of {:?}", case.model, case.question, case.context);
            let ranges = windows.windows().iter().map(|window| [window.tokens.start, window.tokens.end]);
            assert_eq!(ranges.collect::<Vec<_>>(), case.windows, "{place}");

            let config = SpanConfig { n_best: 5, max_answer_length: 6 };
            let found = spans(&rt, &model, &windows, config, "", &()).unwrap().remove(0);
            // Its word for no candidate at all, where ours is no answer.
            let nothing = case.n_best.without_null.iter().any(|likely| likely.text == "empty");
            assert_eq!(found.spans.is_empty(), nothing, "{place}");
            assert!(nothing || close(found.null_odds().into(), case.null_odds), "{place}: {}", found.null_odds());
            for (with_null, expected) in [(false, &case.n_best.without_null), (true, &case.n_best.with_null)] {
                if nothing {
                    continue;
                }
                let candidates = found.n_best(5, with_null);
                assert_eq!(candidates.len(), expected.len(), "{place}");
                for ((candidate, probability), expected) in candidates.iter().zip(expected) {
                    let text = candidate.bytes.clone().map_or("", |bytes| &case.context[bytes]);
                    assert_eq!(text, expected.text, "{place}");
                    assert!(close(candidate.start_logit.into(), expected.start_logit), "{place}");
                    assert!(close(candidate.end_logit.into(), expected.end_logit), "{place}");
                    assert!(close(*probability, expected.probability), "{place}: {probability}");
                }
            }

            for (top_k, null_threshold, expected) in [(4, None, &case.ranked), (3, Some(0.0), &case.ranked_with_null)] {
                let config = RankingConfig { top_k, max_answer_length: 6, null_threshold };
                let mut ranking = Ranking::new(&case.context, config);
                let mut runner = LogitsRunner::new(&model).unwrap();
                for (index, window) in windows.windows().iter().enumerate() {
                    let logits = starts_then_ends(runner.run(&rt, &windows.batch(&[index])).unwrap());
                    let (starts, ends) = logits.split_at(logits.len() / 2);
                    ranking.add(&windows, window, starts, ends).unwrap();
                }
                // The pipeline fills up with impossible spans, of probability 0.
                let expected: Vec<&Ranked> = expected.iter().filter(|answer| answer.score > 0.0).collect();
                let answers = ranking.finish();
                assert_eq!(answers.len(), expected.len(), "{place}: {answers:?}, {expected:?}");
                for (answer, expected) in answers.iter().zip(expected) {
                    let bytes = answer.bytes.clone().unwrap_or(0..0);
                    assert_eq!(character_range(&case.context, &bytes), expected.start..expected.end, "{place}");
                    assert_eq!(case.context[bytes], expected.answer, "{place}");
                    assert!(close(answer.score, expected.score), "{place}: {} {expected:?}", answer.score);
                }
            }
        }
    }

    #[test]
    fn a_model_with_another_head_is_refused() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/distilbert-classify");
        let model = Model::load(&folder, HeadChoice::AsSaved).unwrap().model;
        let tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"].map(str::to_owned).to_vec();
        let tokenizer = Tokenizer::from_vocabulary(tokens, true).unwrap();
        let config = WindowConfig { max_length: 18, doc_stride: 5 };
        let windows = QuestionWindows::new(&QuestionSet::single("a", "b"), &tokenizer, config, 1).unwrap();
        let rt = Runtime::new(Isa::detect(), 1).unwrap();
        let error = spans(&rt, &model, &windows, SpanConfig::default(), "", &()).unwrap_err();
        assert!(error.to_string().contains("found ForSequenceClassification"), "{error}");
    }
}
