//! Labelled data: the nine GLUE tasks in their official layouts, and any CSV, TSV or JSONL file.
//!
//! A [`Task`] says what is asked and how the files are laid out; [`load`] reads one split of it. A row that cannot be
//! read is an error that names file and line. Only the few rows that the official readers drop are dropped, and they
//! are listed in [`DataSet::skipped`].

mod columns; // CSV, TSV, JSONL with named or numbered columns
pub(in crate::data) mod error; // what can be wrong with a file
mod glue; // the official TSV layouts
mod labels; // names of labels that mean the same
pub(in crate::data) mod rows; // lines and records with their line numbers
mod scan; // a look at every row, broken ones among them
mod saved; // task.json beside a model
mod split; // train, dev, test
mod task; // what is asked: problem, labels, metrics, defaults
mod unlabelled; // pairs without labels -> a file

use std::path::Path;

use sha2::{Digest, Sha256};

pub use columns::Columns;
pub use error::DataError;
pub use labels::{are_unnamed, match_labels};
pub use saved::{SavedTask, TASK_FILE};
pub(in crate::data) use saved::{read_task, task_text};
pub use scan::{Scan, ScannedRow};
pub use split::Split;
pub use task::{Defaults, Layout, Metric, Problem, Task, TaskKind};
pub use unlabelled::pairs_as_file;

/// One text or pair of texts with its label.
#[derive(Clone, Debug, PartialEq)]
pub struct Example {
    /// The text, or the first of the pair (premise, question).
    pub text_a: String,
    /// The second of the pair (hypothesis, answer).
    pub text_b: Option<String>,
    /// What the text is labelled with; [`Label::None`] in test files.
    pub label: Label,
    /// Line of the file on which the row starts, from 1.
    pub line: usize,
}

/// What an example is labelled with; the variant follows the task's [`Problem`].
#[derive(Clone, Debug, PartialEq)]
pub enum Label {
    /// One class: an index into [`Task::labels`].
    Class(usize),
    /// For each of [`Task::labels`], whether it applies.
    Classes(Vec<bool>),
    /// A number to predict; finite.
    Score(f32),
    /// A tag for each word.
    Tags(Vec<String>),
    /// Not labelled.
    None,
}

/// One split of a task.
#[derive(Clone, Debug)]
pub struct DataSet {
    /// What is asked.
    pub task: Task,
    /// Which part this is.
    pub split: Split,
    /// The rows in file order; never empty.
    pub examples: Vec<Example>,
    /// The rows left out, in file order.
    pub skipped: Vec<Skipped>,
}

impl DataSet {
    /// SHA-256 of the labels' names and of all texts and labels in order, in hexadecimal.
    pub fn content_hash(&self) -> String {
        let mut hash = Sha256::new();
        for label in &self.task.labels {
            hash.update((label.len() as u64).to_le_bytes());
            hash.update(label);
        }
        for example in &self.examples {
            for text in [Some(&example.text_a), example.text_b.as_ref()].into_iter().flatten() {
                hash.update((text.len() as u64).to_le_bytes());
                hash.update(text);
            }
            hash.update(format!("{:?}", example.label));
        }
        hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

/// A row that was left out, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Skipped {
    /// Line of the file, from 1.
    pub line: usize,
    /// Why, in a few words.
    pub reason: String,
}

/// Reads one split of `task`. `path` is the file itself, the folder that holds the split's file (`train.tsv`,
/// `dev.tsv`, ...), or, for GLUE, the folder that holds the task's folder (`SST-2/`).
///
/// # Errors
/// [`DataError`], naming file and line, for anything that is not as the task says; also for a file without rows, and
/// for a training or development file without labels.
pub fn load(task: &Task, path: &Path, split: Split) -> Result<DataSet, DataError> {
    let (examples, skipped) = match &task.layout {
        Layout::Glue => {
            let layout = glue::layout(&task.name)?;
            if task.labels != layout.labels {
                return Err(DataError::TaskLabels {
                    task: task.name.clone(),
                    expected: error::list(layout.labels),
                    found: error::list(&task.labels),
                });
            }
            let file = glue::find_file(layout, path, split)?;
            glue::read(layout, &file, split)?
        }
        Layout::Columns(columns) => {
            let file = columns::find_file(path, split)?;
            columns::read(columns, task, &file, split)?
        }
        Layout::Words(_) => return Err(DataError::tags_words(path, &task.name)),
    };
    Ok(DataSet { task: task.clone(), split, examples, skipped })
}

#[cfg(test)]
mod tests;
