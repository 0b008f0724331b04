//! What can be wrong with a labelled file.

use std::path::{Path, PathBuf};

use super::task::TaskKind;
use crate::data::records::RecordError;

/// A labelled file that is not as its task says. Every message is one line and names the file.
#[derive(Debug, thiserror::Error)]
pub enum DataError {
    /// The file or folder cannot be read.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A stored GLUE task whose labels are not the official ones.
    #[error("task `{task}`: expected the labels {expected}, found {found}")]
    TaskLabels {
        /// The task.
        task: String,
        /// The official labels.
        expected: String,
        /// The stored ones.
        found: String,
    },
    /// No task has this name.
    #[error("unknown task `{name}`: expected one of {}", known.join(", "))]
    UnknownTask {
        /// The name asked for.
        name: String,
        /// The names there are.
        known: Vec<&'static str>,
    },
    /// The task has no such split, or no split has this name.
    #[error("{what}: no split `{split}`; expected one of {}", known.join(", "))]
    UnknownSplit {
        /// The task, or the option that named the split.
        what: String,
        /// The name asked for.
        split: String,
        /// The names there are.
        known: Vec<&'static str>,
    },
    /// The folder has no file for the split.
    #[error("{}: expected a file {} for split `{split}`, found none", folder.display(), expected.join(" or "))]
    MissingFile {
        /// The folder searched.
        folder: PathBuf,
        /// The file names tried.
        expected: Vec<String>,
        /// The split asked for.
        split: &'static str,
    },
    /// The file's name does not tell its format.
    #[error("{}: expected a file ending in .csv, .tsv, .jsonl, .json or .txt", path.display())]
    UnknownFormat {
        /// The file.
        path: PathBuf,
    },
    /// The file has no rows.
    #[error("{}: expected at least one row, found none", path.display())]
    Empty {
        /// The file.
        path: PathBuf,
    },
    /// A line is not UTF-8.
    #[error("{}:{line}: not valid UTF-8", path.display())]
    NotUtf8 {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
    },
    /// The header, a JSON object, or a file without a header, lacks a column.
    #[error("{}:{line}: no column `{column}`; found {found}", path.display())]
    MissingColumn {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// The column wanted.
        column: String,
        /// The columns there are.
        found: String,
    },
    /// The header has a column that is asked for more than once.
    #[error("{}:{line}: expected one column `{column}`, found {count}", path.display())]
    AmbiguousColumn {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// The column wanted.
        column: String,
        /// How many have its name.
        count: usize,
    },
    /// A row is broken: a column too few, a value of another kind, bad JSON.
    #[error("{}:{line}: expected {expected}, found {found}", path.display())]
    Row {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// What a good row has there.
        expected: String,
        /// What this one has.
        found: String,
    },
    /// A row that cannot be cut into fields.
    #[error("{}:{line}: {error}", path.display())]
    Record {
        /// The file.
        path: PathBuf,
        /// The line on which it begins, from 1.
        line: usize,
        /// What is wrong.
        error: RecordError,
    },
    /// The labels of a file, taken together, do not make a task.
    #[error("{}: expected {expected}, found {found}", path.display())]
    Labels {
        /// The file.
        path: PathBuf,
        /// What the task needs.
        expected: String,
        /// What the file has.
        found: String,
    },
    /// One text for a model of pairs, or a pair for a model of single texts.
    #[error("the model was trained on {}", match trained_on {
        TaskKind::Pair => "pairs of texts, found one text",
        TaskKind::Single => "single texts, found a pair",
    })]
    OtherKind {
        /// What the model knows.
        trained_on: TaskKind,
    },
}

impl DataError {
    /// A task that tags words, where rows of whole texts are read.
    pub(super) fn tags_words(path: &Path, task: &str) -> Self {
        let (expected, found) =
            ("a task that labels whole texts".to_owned(), format!("task `{task}`, which tags words"));
        DataError::Labels { path: path.to_owned(), expected, found }
    }

    pub(super) fn io(path: &Path, source: std::io::Error) -> Self {
        DataError::Io { path: path.to_owned(), source }
    }

    pub(in crate::data) fn row(
        path: &Path,
        line: usize,
        expected: impl Into<String>,
        found: impl Into<String>,
    ) -> Self {
        DataError::Row { path: path.to_owned(), line, expected: expected.into(), found: found.into() }
    }
}

/// `text` in quotes, on one line, cut to a length that fits into a message.
pub(in crate::data) fn excerpt(text: &str) -> String {
    const SHOWN: usize = 40;
    if text.chars().count() <= SHOWN {
        return format!("{text:?}");
    }
    let head: String = text.chars().take(SHOWN).collect();
    format!("{head:?}...")
}

/// The first few of `names`, quoted.
pub(super) fn list<S: AsRef<str>>(names: &[S]) -> String {
    const SHOWN: usize = 12;
    let mut text = names.iter().take(SHOWN).map(|name| excerpt(name.as_ref())).collect::<Vec<_>>().join(", ");
    if names.len() > SHOWN {
        text.push_str(&format!(", ... ({} in all)", names.len()));
    }
    text
}
