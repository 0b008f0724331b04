//! A task as it is saved beside a fine-tuned model, so that the model can be evaluated and used without naming it again.

use super::{DataError, Task};
use serde::{Deserialize, Serialize};
use std::path::Path;

/// Name of the file in a model's folder.
pub const TASK_FILE: &str = "task.json";

/// What a model was fine-tuned for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SavedTask {
    /// The task: labels, metrics, columns.
    pub task: Task,
    /// Longest input in tokens that it was trained with.
    pub max_length: usize,
}

impl SavedTask {
    /// Reads `task.json` of a model's folder; `None` if there is none.
    ///
    /// # Errors
    /// [`DataError`] if the file cannot be read or is not a task.
    pub fn read(folder: &Path) -> Result<Option<SavedTask>, DataError> {
        let path = folder.join(TASK_FILE);
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(DataError::Io { path, source }),
        };
        let bad = |error: serde_json::Error| DataError::Io { path: path.clone(), source: error.into() };
        serde_json::from_str(&text).map(Some).map_err(bad)
    }

    /// The text of `task.json`.
    pub fn to_json(&self) -> String {
        let mut text = serde_json::to_string_pretty(self).expect("a task is plain data");
        text.push('\n');
        text
    }
}
