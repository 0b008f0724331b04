//! Question and context as the model reads them: `[CLS] question [SEP] part of the context [SEP]`. A context longer than
//! the model is cut into windows that overlap, so that nothing of it is lost.
//!
//! Each question and each context is tokenised once and kept once; a window is a range of its context's tokens.

use std::ops::Range;

use serde::{Deserialize, Serialize};

use super::super::batch::Batch;
use super::super::encoded::{EncodedSet, EncodedText};
use super::QuestionSet;
use crate::tokenizer::{Encoding, Tokenizer};

/// Longest input in tokens, as in the reference run.
pub const DEFAULT_MAX_LENGTH: usize = 384;
/// Tokens that neighbouring windows share, as in the reference run.
pub const DEFAULT_OVERLAP: usize = 128;

/// How a long context is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct WindowConfig {
    /// Longest input in tokens, special ones included.
    pub max_length: usize,
    /// Tokens of the context that a window shares with the one before. It is the overlap, as in `run_qa.py`, not the
    /// step from window to window, which the same name meant in the older `run_squad.py`.
    pub doc_stride: usize,
}

impl Default for WindowConfig {
    fn default() -> Self {
        WindowConfig { max_length: DEFAULT_MAX_LENGTH, doc_stride: DEFAULT_OVERLAP }
    }
}

/// Windows that cannot be cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WindowError {
    /// There is no room for a question and a context.
    #[error("max-length: expected at least {expected}, for a question and a part of the context, found {found}")]
    MaxLength {
        /// The least.
        expected: usize,
        /// What was asked for.
        found: usize,
    },
    /// Windows would not get on.
    #[error("doc-stride: expected less than max-length without special tokens ({limit}), found {found}")]
    Overlap {
        /// The first value that is too large.
        limit: usize,
        /// What was asked for.
        found: usize,
    },
}

/// A part of a context beside its question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Window {
    /// Index of the question in its set.
    pub question: usize,
    /// Which of the context's tokens it shows.
    pub tokens: Range<usize>,
}

/// The questions of a set as windows of tokens.
#[derive(Clone, Debug)]
pub struct QuestionWindows {
    layout: PairLayout,
    contexts: Vec<ContextTokens>,
    questions: Vec<QuestionTokens>,
    windows: Vec<Window>,
    /// Questions that lost tokens, because they left too little room for the context.
    pub truncated_questions: usize,
}

#[derive(Clone, Debug, Default)]
struct ContextTokens {
    input_ids: Vec<u32>,
    /// Bytes of the context that each token covers.
    offsets: Vec<Range<usize>>,
    /// Whether each token goes on with the word of the one before.
    continues_word: Vec<bool>,
}

#[derive(Clone, Debug)]
struct QuestionTokens {
    input_ids: Vec<u32>,
    context: usize,
    /// Tokens that it lost.
    truncated: usize,
    /// Its entries of `windows`.
    windows: Range<usize>,
}

impl QuestionWindows {
    /// Tokenises a set on `threads` threads.
    ///
    /// Cut are contexts first: as long as a question leaves a quarter of the input to the context, it is kept whole;
    /// what is longer loses its end and counts as truncated. If it leaves less than twice the overlap, the windows
    /// overlap by half, so that their number stays in proportion to the context.
    ///
    /// # Errors
    /// [`WindowError`] if the configuration leaves no room.
    pub fn new(
        set: &QuestionSet,
        tokenizer: &Tokenizer,
        config: WindowConfig,
        threads: usize,
    ) -> Result<QuestionWindows, WindowError> {
        let layout = PairLayout::of(tokenizer);
        // One token for the question, two for the context.
        let (specials, least) = (layout.specials(), layout.specials() + 3);
        if config.max_length < least {
            return Err(WindowError::MaxLength { expected: least, found: config.max_length });
        }
        let room = config.max_length - specials;
        if config.doc_stride >= room {
            return Err(WindowError::Overlap { limit: room, found: config.doc_stride });
        }
        let longest_question = room - room.div_ceil(4);

        let contexts: Vec<&str> = set.contexts.iter().map(String::as_str).collect();
        let contexts = encode(&contexts, tokenizer, threads);
        // White space in front of a question is a slip of its writer; some tokenizers would give it a token.
        let questions: Vec<&str> = set.questions.iter().map(|question| question.text.trim_start()).collect();
        let questions = encode(&questions, tokenizer, threads);

        let mut all = QuestionWindows {
            layout,
            contexts,
            questions: Vec::with_capacity(questions.len()),
            windows: Vec::new(),
            truncated_questions: 0,
        };
        for (index, (mut tokens, question)) in questions.into_iter().zip(&set.questions).enumerate() {
            let truncated = tokens.input_ids.len().saturating_sub(longest_question);
            tokens.input_ids.truncate(longest_question);
            all.truncated_questions += usize::from(truncated > 0);
            let room = room - tokens.input_ids.len();
            let overlap = config.doc_stride.min(room / 2);
            let first = all.windows.len();
            let ranges = cut(all.contexts[question.context].input_ids.len(), room, overlap);
            all.windows.extend(ranges.map(|tokens| Window { question: index, tokens }));
            let windows = first..all.windows.len();
            all.questions.push(QuestionTokens {
                input_ids: tokens.input_ids,
                context: question.context,
                truncated,
                windows,
            });
        }
        Ok(all)
    }

    /// All windows, question by question, each from the context's beginning to its end; at least one a question.
    pub fn windows(&self) -> &[Window] {
        &self.windows
    }

    /// The windows of a question.
    pub fn of_question(&self, question: usize) -> Range<usize> {
        self.questions[question].windows.clone()
    }

    /// Tokens that a question lost.
    pub fn truncated_tokens(&self, question: usize) -> usize {
        self.questions[question].truncated
    }

    /// Tokens of a question and its context, cut ones included.
    pub fn tokens(&self, question: usize) -> usize {
        let QuestionTokens { input_ids, context, truncated, .. } = &self.questions[question];
        input_ids.len() + truncated + self.contexts[*context].input_ids.len()
    }

    /// Length of each window in tokens, special ones included.
    pub fn lengths(&self) -> Vec<usize> {
        self.windows
            .iter()
            .map(|window| self.context_start(window) + window.tokens.len() + self.layout.after.len())
            .collect()
    }

    /// Position of the first token of the context in a window's sequence.
    pub fn context_start(&self, window: &Window) -> usize {
        self.layout.before.len() + self.questions[window.question].input_ids.len() + self.layout.between.len()
    }

    /// Bytes of the context from its token `first` to its token `last`.
    pub fn bytes(&self, question: usize, first: usize, last: usize) -> Range<usize> {
        let offsets = &self.contexts[self.questions[question].context].offsets;
        offsets[first].start..offsets[last].end
    }

    /// The tokens of the context from `first` to `last`, and those of the same words before and behind that the window
    /// shows.
    pub fn whole_words(&self, window: &Window, first: usize, last: usize) -> [usize; 2] {
        let continues = &self.contexts[self.questions[window.question].context].continues_word;
        let begin = (window.tokens.start + 1..=first).rev().take_while(|&token| continues[token]).count();
        let behind = (last + 1..window.tokens.end).take_while(|&token| continues[token]).count();
        [first - begin, last + behind]
    }

    /// Some of the windows as one batch.
    pub fn batch(&self, windows: &[usize]) -> Batch {
        let mut batch = Batch::new();
        for &window in windows {
            let (input_ids, token_types) = self.sequence(&self.windows[window]);
            batch.push(&input_ids, Some(&token_types));
        }
        batch
    }

    /// Some of the windows as sequences of their own, in this order.
    pub fn encoded(&self, windows: &[usize]) -> EncodedSet {
        let texts = windows.iter().map(|&window| {
            let (input_ids, token_type_ids) = self.sequence(&self.windows[window]);
            EncodedText { input_ids, token_type_ids }
        });
        EncodedSet { texts: texts.collect(), truncated: Vec::new() }
    }

    /// Ids and segments of a window.
    fn sequence(&self, window: &Window) -> (Vec<u32>, Vec<u32>) {
        let question = &self.questions[window.question];
        let context = &self.contexts[question.context].input_ids[window.tokens.clone()];
        self.layout.join(&question.input_ids, context)
    }

    /// First and last position of an answer in a window's sequence; the first token's (`[CLS]`) twice if the window does
    /// not show all of it, or there is none.
    ///
    /// # Source
    /// `prepare_train_features` of `run_qa.py`, but for an answer that is the last token of its window: there its search
    /// runs on into the `[SEP]`.
    pub fn target(&self, window: &Window, answer: Option<&Range<usize>>) -> [usize; 2] {
        const ABSENT: [usize; 2] = [0, 0];
        let Some(answer) = answer else { return ABSENT };
        let offsets = &self.contexts[self.questions[window.question].context].offsets[window.tokens.clone()];
        // The last token that begins at or before the answer, and the first that ends at or after it.
        let begun = offsets.partition_point(|token| token.start <= answer.start);
        let last = offsets.partition_point(|token| token.end < answer.end);
        let start = self.context_start(window);
        match begun.checked_sub(1) {
            Some(first) if last < offsets.len() => [start + first, start + last],
            _ => ABSENT,
        }
    }

    /// True if no window of the question shows its context's token `token` with more around it than this window does:
    /// of the windows that hold a token, only one gives the answers that begin there.
    ///
    /// # Source
    /// `_check_is_max_context` of `run_squad.py`: the smaller of the tokens to the left and to the right, and a
    /// hundredth of the window's length; of equals the first.
    pub fn is_max_context(&self, window: usize, token: usize) -> bool {
        let siblings = self.of_question(self.windows[window].question);
        let score = |window: usize| {
            let tokens = &self.windows[window].tokens;
            let (left, right) = (token.checked_sub(tokens.start)?, tokens.end.checked_sub(token + 1)?);
            Some(left.min(right) as f64 + 0.01 * tokens.len() as f64)
        };
        let Some(own) = score(window) else { return false };
        let before = (siblings.start..window).rev().map_while(score).all(|other| other < own);
        before && (window + 1..siblings.end).map_while(score).all(|other| other <= own)
    }
}

/// Tokenises in portions, so that only the compact form of all texts exists at once.
fn encode(texts: &[&str], tokenizer: &Tokenizer, threads: usize) -> Vec<ContextTokens> {
    const PORTION: usize = 1024;
    let compact = |(encoding, text): (Encoding, &&str)| {
        let tokens = encoding.input_ids.iter().zip(&encoding.offsets).zip(&encoding.sequence_ids);
        let mut compact = ContextTokens::default();
        for ((&id, bytes), _) in tokens.filter(|(_, sequence)| sequence.is_some()) {
            // Byte-level and unigram vocabularies count a comma as part of the word before it.
            let is_punctuation = text.as_bytes().get(bytes.start).is_some_and(u8::is_ascii_punctuation);
            compact.input_ids.push(id);
            compact.offsets.push(bytes.clone());
            let continues = tokenizer.continues_word_in(id, text, bytes.start);
            compact.continues_word.push(continues && !is_punctuation);
        }
        compact
    };
    let mut all = Vec::with_capacity(texts.len());
    for texts in texts.chunks(PORTION) {
        let pairs: Vec<(&str, Option<&str>)> = texts.iter().map(|&text| (text, None)).collect();
        all.extend(tokenizer.encode_batch(&pairs, None, threads).into_iter().zip(texts).map(compact));
    }
    all
}

/// Ranges of at most `room` tokens that cover `tokens` tokens, each sharing `overlap` with the one before.
fn cut(tokens: usize, room: usize, overlap: usize) -> impl Iterator<Item = Range<usize>> {
    let mut next = Some(0);
    std::iter::from_fn(move || {
        let start = next?;
        let end = (start + room).min(tokens);
        next = (end < tokens).then_some(start + room - overlap);
        Some(start..end)
    })
}

/// The special tokens around a pair of texts.
#[derive(Clone, Debug)]
struct PairLayout {
    before: Vec<u32>,
    between: Vec<u32>,
    after: Vec<u32>,
    /// Segment of the second text and what follows it.
    second_type: u32,
}

impl PairLayout {
    /// As the tokenizer lays out any pair.
    fn of(tokenizer: &Tokenizer) -> PairLayout {
        let pair = tokenizer.encode("a", Some("a"), None);
        let place = |text| pair.sequence_ids.iter().position(|&sequence| sequence == Some(text));
        let end = |text| pair.sequence_ids.iter().rposition(|&sequence| sequence == Some(text)).map(|last| last + 1);
        // A letter always has a token, if only the one for unknown words.
        let (first, second) = (place(0).unwrap_or(0), place(1).unwrap_or(0));
        let (first_end, second_end) = (end(0).unwrap_or(0), end(1).unwrap_or(0));
        PairLayout {
            before: pair.input_ids[..first].to_vec(),
            between: pair.input_ids[first_end..second].to_vec(),
            after: pair.input_ids[second_end..].to_vec(),
            second_type: pair.token_type_ids[second],
        }
    }

    fn specials(&self) -> usize {
        self.before.len() + self.between.len() + self.after.len()
    }

    /// Ids and segments of a pair.
    fn join(&self, first: &[u32], second: &[u32]) -> (Vec<u32>, Vec<u32>) {
        let input_ids = [&self.before[..], first, &self.between, second, &self.after].concat();
        let mut types = vec![0; self.before.len() + first.len() + self.between.len()];
        types.resize(input_ids.len(), self.second_type);
        (input_ids, types)
    }
}
