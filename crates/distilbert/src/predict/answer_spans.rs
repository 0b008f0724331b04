//! Start and end logits to answers: the likeliest spans of a question's windows, and how likely no answer is.

use std::ops::Range;

use crate::data::questions::{QuestionWindows, SpanConfig};

/// A possible answer; without bytes it is that there is none.
#[derive(Clone, Debug, PartialEq)]
pub struct Candidate {
    /// Bytes of the context; `None` for no answer.
    pub bytes: Option<Range<usize>>,
    /// Logit of its first token.
    pub start_logit: f32,
    /// Logit of its last token.
    pub end_logit: f32,
}

impl Candidate {
    /// By what answers are compared, across windows too.
    pub fn score(&self) -> f32 {
        self.start_logit + self.end_logit
    }
}

/// What a model says of one question.
#[derive(Clone, Debug, PartialEq)]
pub struct SpanPrediction {
    /// The likeliest spans, the best first; empty if no pair of a likely start and a likely end makes one.
    pub spans: Vec<Candidate>,
    /// No answer, where the model believes in it least: all windows must agree.
    pub null: Candidate,
}

impl SpanPrediction {
    /// How much more the model believes in no answer than in its best one. Without a span it is infinite.
    pub fn null_odds(&self) -> f32 {
        self.spans.first().map_or(f32::INFINITY, |best| self.null.score() - best.start_logit - best.end_logit)
    }

    /// The answer: the best span, or `None` if no answer is likelier by more than `null_threshold`. Without a threshold
    /// there always is an answer, if there is any span.
    pub fn answer(&self, null_threshold: Option<f32>) -> Option<&Candidate> {
        self.spans.first().filter(|_| null_threshold.is_none_or(|threshold| self.null_odds() <= threshold))
    }

    /// The likeliest candidates with their probabilities, a softmax over just these; with `with_null` no answer is one
    /// of them, the last if it is not among the best `n_best`.
    ///
    /// # Source
    /// `postprocess_qa_predictions` of the reference run (`utils_qa.py`).
    pub fn n_best(&self, n_best: usize, with_null: bool) -> Vec<(&Candidate, f64)> {
        let mut candidates: Vec<&Candidate> = self.spans.iter().collect();
        if with_null {
            let place = candidates.partition_point(|span| span.score() >= self.null.score());
            candidates.insert(place.min(n_best), &self.null);
            candidates.truncate(n_best.max(place.min(n_best) + 1));
        }
        let highest = candidates.iter().map(|candidate| candidate.score()).fold(f32::NEG_INFINITY, f32::max);
        let weights: Vec<f64> =
            candidates.iter().map(|candidate| f64::from(candidate.score() - highest).exp()).collect();
        let sum: f64 = weights.iter().sum();
        candidates.into_iter().zip(weights.into_iter().map(|weight| weight / sum)).collect()
    }
}

/// A logit of a window that is not a finite number.
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
#[error("expected finite logits, found {found} at token {position} of a window")]
pub struct NotFinite {
    /// The token.
    pub position: usize,
    /// Its logit.
    pub found: f32,
}

impl NotFinite {
    /// # Errors
    /// If a logit is not a finite number.
    pub(super) fn check(logits: &[f32]) -> Result<(), NotFinite> {
        match logits.iter().position(|logit| !logit.is_finite()) {
            Some(position) => Err(NotFinite { position, found: logits[position] }),
            None => Ok(()),
        }
    }
}

/// Gathers a question's answers window by window, in memory for `n_best` of them.
#[derive(Clone, Debug)]
pub struct SpanSearch {
    config: SpanConfig,
    spans: Vec<Candidate>,
    null: Option<Candidate>,
}

impl SpanSearch {
    /// A search that has seen no window.
    pub fn new(config: SpanConfig) -> SpanSearch {
        SpanSearch { config, spans: Vec::new(), null: None }
    }

    /// Adds a window: `start` and `end` have a logit for each token of its sequence.
    ///
    /// Of the `n_best` likeliest starts and as many ends of the whole sequence those pairs are answers that lie in the
    /// context, in order, are not too long, and begin at a token that this window shows with the most around it.
    ///
    /// # Errors
    /// [`NotFinite`] if a logit is none.
    ///
    /// # Source
    /// `postprocess_qa_predictions` of `utils_qa.py`, given the `token_is_max_context` of `run_squad.py`.
    pub fn add(
        &mut self,
        windows: &QuestionWindows,
        window: usize,
        start: &[f32],
        end: &[f32],
    ) -> Result<(), NotFinite> {
        NotFinite::check(start)?;
        NotFinite::check(end)?;
        let null = Candidate { bytes: None, start_logit: start[0], end_logit: end[0] };
        if self.null.as_ref().is_none_or(|least| least.score() > null.score()) {
            self.null = Some(null);
        }
        let place = &windows.windows()[window];
        let first = windows.context_start(place);
        let context = first..first + place.tokens.len();
        let token = |position: usize| place.tokens.start + position - first;
        let ends = likeliest(end, self.config.n_best);
        for from in likeliest(start, self.config.n_best) {
            if !context.contains(&from) || !windows.is_max_context(window, token(from)) {
                continue;
            }
            for &to in &ends {
                if context.contains(&to) && to >= from && to - from < self.config.max_answer_length {
                    let bytes = windows.bytes(place.question, token(from), token(to));
                    self.spans.push(Candidate { bytes: Some(bytes), start_logit: start[from], end_logit: end[to] });
                }
            }
        }
        // Stable: of equal scores the one found first.
        self.spans.sort_by(|a, b| b.score().total_cmp(&a.score()));
        self.spans.truncate(self.config.n_best);
        Ok(())
    }

    /// What was found, once all windows of the question were added; `None` if there were none.
    pub fn finish(self) -> Option<SpanPrediction> {
        Some(SpanPrediction { spans: self.spans, null: self.null? })
    }
}

/// Positions of the `count` largest values, the largest first; of equals the first.
fn likeliest(values: &[f32], count: usize) -> Vec<usize> {
    let mut positions: Vec<usize> = (0..values.len()).collect();
    let order = |a: &usize, b: &usize| values[*b].total_cmp(&values[*a]).then(a.cmp(b));
    if count < positions.len() {
        positions.select_nth_unstable_by(count, order);
        positions.truncate(count);
    }
    positions.sort_unstable_by(order);
    positions
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::questions::{QuestionSet, WindowConfig};
    use crate::tokenizer::Tokenizer;

    /// `[CLS] q [SEP] a b c d [SEP]`, in windows of at most `max_length` tokens.
    fn windows(max_length: usize) -> QuestionWindows {
        let tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "q", "a", "b", "c", "d"].map(str::to_owned);
        let tokenizer = Tokenizer::from_vocabulary(tokens.to_vec(), false).unwrap();
        let set = QuestionSet::single("q", "a b c d");
        QuestionWindows::new(&set, &tokenizer, WindowConfig { max_length, doc_stride: 1 }, 1).unwrap()
    }

    fn found(config: SpanConfig, start: &[f32], end: &[f32]) -> SpanPrediction {
        let mut search = SpanSearch::new(config);
        search.add(&windows(8), 0, start, end).unwrap();
        search.finish().unwrap()
    }

    #[test]
    fn answers_lie_in_the_context_in_order_and_are_not_too_long() {
        let start = [9.0, 8.0, 7.0, 1.0, 0.0, 3.0, 2.0, 6.0];
        let end = [9.0, 8.0, 7.0, 2.0, 4.0, 0.0, 1.0, 6.0];
        let prediction = found(SpanConfig::default(), &start, &end);
        let best = &prediction.spans[0];
        assert_eq!((best.bytes.clone(), best.start_logit, best.end_logit), (Some(0..3), 1.0, 4.0));
        assert!(prediction.spans.iter().all(|span| span.bytes.as_ref().is_some_and(|bytes| bytes.start < bytes.end)));
        assert_eq!(prediction.spans.len(), 10);
        assert_eq!(prediction.null_odds(), 18.0 - 5.0);
        let short = found(SpanConfig { max_answer_length: 1, ..SpanConfig::default() }, &start, &end);
        assert_eq!(short.spans.len(), 4);
        // The likeliest 3 starts and ends lie outside the context.
        let few = found(SpanConfig { n_best: 3, ..SpanConfig::default() }, &start, &end);
        assert_eq!((few.spans.len(), few.answer(None), few.null_odds()), (0, None, f32::INFINITY));
    }

    #[test]
    fn no_answer_needs_all_windows_and_more_than_the_threshold() {
        let windows = windows(7);
        assert_eq!(windows.windows().iter().map(|window| window.tokens.clone()).collect::<Vec<_>>(), [0..3, 2..4]);
        let mut search = SpanSearch::new(SpanConfig::default());
        search.add(&windows, 0, &[5.0, 0.0, 0.0, 1.0, 0.0, 9.0, 0.0], &[5.0, 0.0, 0.0, 1.0, 0.0, 9.0, 0.0]).unwrap();
        search.add(&windows, 1, &[2.0, 0.0, 0.0, 1.5, 0.0, 0.0], &[2.0, 0.0, 0.0, 0.0, 0.5, 0.0]).unwrap();
        let prediction = search.finish().unwrap();
        assert_eq!(prediction.null.score(), 4.0);
        // `c` is the last token of the first window and the first of the second; the first is longer and counts.
        assert_eq!(prediction.spans[0].bytes, Some(4..5));
        assert_eq!(prediction.null_odds(), 4.0 - 18.0);
        assert!(prediction.answer(Some(-14.0)).is_some() && prediction.answer(Some(-14.5)).is_none());
    }

    #[test]
    fn probabilities_are_a_softmax_over_those_kept_and_no_answer_is_one_of_them() {
        let start = [1.0, 0.0, 0.0, 3.0, 2.0, 0.5, 0.0, 0.0];
        let prediction = found(SpanConfig::default(), &start, &[1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]);
        for (n_best, with_null, expected) in [(20, false, 10), (20, true, 11), (3, true, 4), (20, true, 11)] {
            let mut prediction = prediction.clone();
            prediction.spans.truncate(n_best);
            let candidates = prediction.n_best(n_best, with_null);
            assert_eq!(candidates.len(), expected);
            assert!((candidates.iter().map(|candidate| candidate.1).sum::<f64>() - 1.0).abs() < 1e-12);
            assert_eq!(
                candidates.iter().filter(|candidate| candidate.0.bytes.is_none()).count(),
                usize::from(with_null)
            );
        }
        let candidates = prediction.n_best(20, true);
        assert!(candidates.is_sorted_by(|a, b| a.1 >= b.1));
        assert!((candidates[0].1 / candidates[4].1 - 1f64.exp()).abs() < 1e-6);
    }

    #[test]
    fn logits_that_are_no_numbers_are_refused() {
        let mut search = SpanSearch::new(SpanConfig::default());
        let error = search.add(&windows(8), 0, &[0.0, f32::NAN], &[0.0, 0.0]).unwrap_err();
        assert_eq!(error.to_string(), "expected finite logits, found NaN at token 1 of a window");
    }

    #[test]
    fn the_likeliest_come_first_and_equals_in_order() {
        assert_eq!(likeliest(&[1.0, 3.0, 3.0, 2.0, 3.0], 3), [1, 2, 4]);
        assert_eq!(likeliest(&[1.0, 3.0], 5), [1, 0]);
        assert!(likeliest(&[], 5).is_empty());
    }
}
