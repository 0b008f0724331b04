//! Plain text to a token file: read, tokenise, cut, filter, shuffle, hold a part out.
//!
//! [`build`] writes the file, [`Corpus`] reads it. Memory is bounded by the number of sequences (up to 48 bytes each:
//! their place, their hash, their turn), not by the amount of text; the text passes through in rounds of 4 MiB.

mod build; // texts -> sequences -> token file
mod file; // the token file's layout, its writer and its reader
mod source; // paths -> files -> texts
mod zstd; // zstd streams of any number of frames

use std::path::PathBuf;

use serde::Serialize;

pub use build::build;
pub use file::{Corpus, Sequences, Split};
pub use source::{open_text, tokenizer_folder, train_vocabulary};

use crate::tokenizer::vocabulary::VocabularyError;

/// The path that stands for standard input.
pub const STANDARD_INPUT: &str = "-";

/// Where the text is and how it is cut into texts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CorpusInputs {
    /// Files, folders (read recursively in the order of names, hidden files left out), glob patterns, or `-` for
    /// standard input. `.gz` and `.zst` files are decompressed.
    pub paths: Vec<PathBuf>,
    /// What part of a structured file is text.
    pub field: Field,
    /// What makes one text.
    pub by: By,
    /// What to do about lines that are not UTF-8.
    pub invalid_utf8: InvalidUtf8,
}

/// The part of a file's records that is text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Field {
    /// Everything: plain text.
    #[default]
    All,
    /// This key of JSON objects, one a line.
    Json(String),
    /// The column with this name in the first line of a tab-separated file.
    ColumnNamed(String),
    /// This column, counted from 1, of a tab-separated file without a header.
    Column(usize),
}

/// What makes one text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum By {
    /// Each line that is not blank.
    #[default]
    Line,
    /// The lines between blank lines, joined by spaces: for books with hard-wrapped lines.
    Paragraph,
}

/// What to do about a line that is not UTF-8.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum InvalidUtf8 {
    /// Stop with an error that names file and line.
    #[default]
    Refuse,
    /// Leave the line out, count it, and name the first ones in the summary.
    Skip,
}

/// How texts become sequences.
#[derive(Clone, Debug, PartialEq)]
pub struct CorpusConfig {
    /// Longest sequence, `[CLS]` and `[SEP]` included; longer texts are cut into consecutive sequences.
    pub max_length: usize,
    /// Shortest sequence kept, `[CLS]` and `[SEP]` included.
    pub min_length: usize,
    /// Sequences with this share of `[UNK]` or more are dropped; 1 drops none.
    pub max_unknown_share: f64,
    /// Join consecutive texts of one file (or JSON record) while the sequence stays within this many tokens.
    pub join_to: Option<usize>,
    /// What is kept apart from training.
    pub held_out: HeldOut,
    /// Names the shuffle.
    pub seed: u64,
    /// Threads that tokenise; the result does not depend on it.
    pub threads: usize,
}

impl Default for CorpusConfig {
    /// Lengths and `[UNK]` share of the published recipe; one thread.
    fn default() -> Self {
        CorpusConfig {
            max_length: 512,
            min_length: 12,
            max_unknown_share: 0.5,
            join_to: None,
            held_out: HeldOut::Share(0.0),
            seed: 0,
            threads: 1,
        }
    }
}

impl CorpusConfig {
    fn validate(&self) -> Result<(), CorpusError> {
        let refuse = |reason: String| Err(CorpusError::Config(reason));
        if self.max_length < 3 {
            return refuse(format!("expected a longest sequence of at least 3 tokens, found {}", self.max_length));
        }
        if self.min_length > self.max_length {
            let (min, max) = (self.min_length, self.max_length);
            return refuse(format!(
                "expected a shortest sequence of at most the longest one's {max} tokens, found {min}"
            ));
        }
        if let Some(join_to) = self.join_to.filter(|&join_to| join_to > self.max_length) {
            let max = self.max_length;
            return refuse(format!(
                "expected texts joined to at most the longest sequence's {max} tokens, found {join_to}"
            ));
        }
        if !(self.max_unknown_share > 0.0 && self.max_unknown_share <= 1.0) {
            let share = self.max_unknown_share;
            return refuse(format!("expected a largest share of [UNK] above 0 and at most 1, found {share}"));
        }
        match self.held_out {
            HeldOut::Share(share) if !(0.0..1.0).contains(&share) => {
                refuse(format!("expected a held-out share from 0 to below 1, found {share}"))
            }
            _ => Ok(()),
        }
    }
}

/// The part of the sequences that is kept apart from training.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum HeldOut {
    /// This share of them, rounded.
    Share(f64),
    /// This many.
    Sequences(usize),
}

/// What [`build`] read, kept and dropped.
///
/// `texts` were joined and cut into `formed` sequences, of which `train + held_out` were kept and the rest dropped
/// for the first reason that applied, in the order of the fields of [`Dropped`].
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct CorpusSummary {
    /// The token file.
    pub output: PathBuf,
    /// Files read.
    pub files: usize,
    /// Bytes read, before decompression.
    pub bytes_read: u64,
    /// Lines or paragraphs read.
    pub texts: u64,
    /// Blank lines between them.
    pub blank_lines: u64,
    /// Lines that were not UTF-8 and left out.
    pub invalid_utf8_lines: u64,
    /// Where the first of them are: `FILE line N`.
    pub invalid_utf8_at: Vec<String>,
    /// Texts that were longer than a sequence may be and were cut.
    pub cut_texts: u64,
    /// Sequences after joining and cutting.
    pub formed: u64,
    /// Sequences dropped.
    pub dropped: Dropped,
    /// Sequences to train on.
    pub train: u64,
    /// Sequences held out.
    pub held_out: u64,
    /// Tokens of all kept sequences, `[CLS]` and `[SEP]` included.
    pub tokens: u64,
    /// `[UNK]` among them.
    pub unknown_tokens: u64,
    /// Mean number of tokens of a kept sequence.
    pub mean_length: f64,
    /// Size of the vocabulary.
    pub vocab_size: usize,
    /// Identity of the corpus, see [`Corpus::content_hash`].
    pub content_hash: String,
    /// Ten random training sequences, decoded, to look at.
    pub samples: Vec<String>,
}

/// Sequences dropped, by reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Dropped {
    /// Below the minimum length.
    pub short: u64,
    /// Too large a share of `[UNK]`.
    pub unknown: u64,
    /// The same tokens as an earlier sequence.
    pub duplicate: u64,
}

impl std::fmt::Display for Dropped {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} too short, {} mostly unknown words, {} duplicates", self.short, self.unknown, self.duplicate)
    }
}

/// Why a corpus cannot be built or read.
#[derive(Debug, thiserror::Error)]
pub enum CorpusError {
    /// An impossible option.
    #[error("corpus options: {0}")]
    Config(String),
    /// An input is neither a file nor a folder with files nor a pattern that matches some.
    #[error("no input file at `{}`", path.display())]
    NoInput {
        /// The path or pattern.
        path: PathBuf,
    },
    /// The output would replace an input.
    #[error("`{}` is an input, and would be replaced by the output: choose another output", path.display())]
    OutputIsInput {
        /// The file.
        path: PathBuf,
    },
    /// A file cannot be read or decompressed.
    #[error("cannot read `{}`: {error}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        error: std::io::Error,
    },
    /// A file cannot be written.
    #[error("cannot write `{}`: {error}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        error: std::io::Error,
    },
    /// A line is not UTF-8.
    #[error(
        "`{}` line {line}: not UTF-8 at byte {byte} of the line (`--invalid-utf8 skip` leaves such lines out)",
        path.display()
    )]
    InvalidUtf8 {
        /// The file.
        path: PathBuf,
        /// Counted from 1.
        line: u64,
        /// Bytes of the line before the first wrong one.
        byte: usize,
    },
    /// A line is not the record it should be.
    #[error("`{}` line {line}: {reason}", path.display())]
    Record {
        /// The file.
        path: PathBuf,
        /// Counted from 1.
        line: u64,
        /// What is wrong.
        reason: String,
    },
    /// A structured file without word on which part of it is text.
    #[error("`{}` holds records: say which part is text with `{option}`", path.display())]
    NeedsField {
        /// The file.
        path: PathBuf,
        /// The option that says it.
        option: &'static str,
    },
    /// Standard input would have to be read twice.
    #[error("standard input can be read only once: train the vocabulary from files, or name a model")]
    StandardInputTwice,
    /// Nothing is left to train on.
    #[error(
        "{inputs}: the corpus is empty: {texts} texts gave {formed} sequences, of which {dropped}, {held_out} to be held out"
    )]
    Empty {
        /// Where they came from.
        inputs: InputNames,
        /// Texts read.
        texts: u64,
        /// Sequences made of them.
        formed: u64,
        /// Sequences dropped.
        dropped: Dropped,
        /// Sequences that would be held out.
        held_out: u64,
    },
    /// A file is not a token file, or a damaged one.
    #[error("`{}` is not a whole token file: {reason}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What was expected and found.
        reason: String,
    },
    /// The token file was made with another vocabulary.
    #[error("`{}` was built with another vocabulary ({found} tokens, hash {found_hash}) than this one ({expected} tokens, hash {expected_hash})", path.display())]
    OtherVocabulary {
        /// The token file.
        path: PathBuf,
        /// Size of its vocabulary.
        found: usize,
        /// First digits of its hash.
        found_hash: String,
        /// Size of the tokenizer's.
        expected: usize,
        /// First digits of its hash.
        expected_hash: String,
    },
    /// The vocabulary cannot be trained.
    #[error("{inputs}: {error}")]
    Vocabulary {
        /// Where the text came from.
        inputs: InputNames,
        /// Why.
        error: VocabularyError,
    },
    /// The caller asked to stop; nothing was written.
    #[error("building the corpus was stopped")]
    Stopped,
}

/// Inputs as an error names them: the first, and how many more there are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InputNames(pub Vec<PathBuf>);

impl std::fmt::Display for InputNames {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Some((first, more)) = self.0.split_first() else { return write!(f, "no input") };
        if first.as_os_str() == STANDARD_INPUT {
            write!(f, "standard input")?;
        } else {
            write!(f, "`{}`", first.display())?;
        }
        match more.len() {
            0 => Ok(()),
            more => write!(f, " and {more} more"),
        }
    }
}

/// Lower-case hexadecimal digits.
fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests;
