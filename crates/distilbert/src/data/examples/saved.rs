//! A task as it is saved beside a fine-tuned model, so that the model can be evaluated and used without naming it again.

use super::{DataError, Task};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::path::Path;

/// Name of the file in a model's folder.
pub const TASK_FILE: &str = "task.json";

/// A token of the text between two special ones.
const SHORTEST_MAX_LENGTH: u64 = 3;

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
    /// Reads `task.json` of a model's folder; `None` if there is none, or one of another kind of task.
    ///
    /// # Errors
    /// [`DataError`] if the file cannot be read or is not a task.
    pub fn read(folder: &Path) -> Result<Option<SavedTask>, DataError> {
        read_task(folder, None)
    }

    /// The text of `task.json`.
    pub fn to_json(&self) -> String {
        task_text(self)
    }
}

/// Reads `task.json` of a model's folder; `None` if there is none, or if its `problem`, which the tasks of texts and of
/// words do not have there, is another one.
pub(in crate::data) fn read_task<T: DeserializeOwned>(
    folder: &Path,
    problem: Option<&str>,
) -> Result<Option<T>, DataError> {
    let path = folder.join(TASK_FILE);
    let failed = |source: std::io::Error| DataError::Io { path: path.clone(), source };
    let text = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(error)),
    };
    let value: serde_json::Value = serde_json::from_str(&text).map_err(|error| failed(error.into()))?;
    let max_length = value.get("max_length").and_then(serde_json::Value::as_u64);
    if let Some(found) = max_length.filter(|&found| found < SHORTEST_MAX_LENGTH) {
        let expected = format!("`max_length`: expected at least {SHORTEST_MAX_LENGTH} tokens, found {found}");
        return Err(failed(std::io::Error::new(std::io::ErrorKind::InvalidData, expected)));
    }
    if value.get("problem").and_then(serde_json::Value::as_str) != problem {
        return Ok(None);
    }
    serde_json::from_value(value).map(Some).map_err(|error| failed(error.into()))
}

/// The text of `task.json`.
pub(in crate::data) fn task_text(task: &impl Serialize) -> String {
    let mut text = serde_json::to_string_pretty(task).expect("a task is plain data");
    text.push('\n');
    text
}
