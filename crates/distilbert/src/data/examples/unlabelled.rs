//! Pairs of texts without labels, written as a task's files are.

use super::error::DataError;
use super::glue;
use super::task::{Layout, Task};
use serde_json::{Map, Value};
use std::path::Path;

/// The content of a file that [`super::load`] reads as [`super::Split::Unlabelled`]: of a GLUE task a table of the two
/// texts under its columns' names, of own columns a JSON object a line. `path` is where it will stand.
///
/// # Errors
/// [`DataError`] if the task has no second text, or the file's name does not end as its content needs it.
pub fn pairs_as_file<'a>(
    task: &Task,
    path: &Path,
    pairs: impl IntoIterator<Item = (&'a str, &'a str)>,
) -> Result<String, DataError> {
    let refused = |expected: String, found: String| DataError::Labels { path: path.to_owned(), expected, found };
    let single = || refused("a task on pairs of texts".to_owned(), format!("`{}`, on single ones", task.name));
    let (extension, mut text) = match &task.layout {
        Layout::Glue => {
            let layout = glue::layout(&task.name)?;
            ("tsv", format!("{}\t{}\n", layout.text_a, layout.text_b.ok_or_else(single)?))
        }
        Layout::Columns(_) => ("jsonl", String::new()),
        Layout::Words(_) => return Err(DataError::tags_words(path, &task.name)),
    };
    if path.extension().is_none_or(|found| found != extension) {
        let file = path.file_name().unwrap_or_default().to_string_lossy();
        return Err(refused(format!("a name ending in .{extension} for texts of task `{}`", task.name), file.into()));
    }
    for (first, second) in pairs {
        match &task.layout {
            Layout::Columns(columns) => {
                let pair = columns.pair.clone().ok_or_else(single)?;
                let row = Map::from_iter([(columns.text.clone(), first.into()), (pair, second.into())]);
                text.push_str(&format!("{}\n", Value::Object(row)));
            }
            _ => text.push_str(&format!("{first}\t{second}\n")),
        }
    }
    Ok(text)
}
