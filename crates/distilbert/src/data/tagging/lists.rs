//! JSONL: an object a line with a list of words and a list of tags.

use std::path::Path;

use serde_json::Value;

use super::{Rows, Sentence, WordColumns};
use crate::data::examples::error::excerpt;
use crate::data::examples::rows::{lines, read_file};
use crate::data::examples::{DataError, Skipped};

/// Hands each sentence, or what is wrong with its line, to `rows`, until that says `false`; lists without words come
/// back.
pub(super) fn scan(columns: &WordColumns, path: &Path, rows: Rows<'_>) -> Result<Vec<Skipped>, DataError> {
    let bytes = read_file(path)?;
    let mut skipped = Vec::new();
    for line in lines(path, &bytes) {
        let row = line.and_then(|(line, text)| sentence(columns, path, line, text));
        let goes_on = match row {
            Ok(None) => true,
            Ok(Some(Sentence { words, line, .. })) if words.is_empty() => {
                skipped.push(Skipped { line, reason: "no words".to_owned() });
                true
            }
            Ok(Some(sentence)) => rows(Ok(sentence)),
            Err(error) => rows(Err(error)),
        };
        if !goes_on {
            break;
        }
    }
    Ok(skipped)
}

/// The sentence of a line; `None` of a blank one.
fn sentence(columns: &WordColumns, path: &Path, line: usize, text: &str) -> Result<Option<Sentence>, DataError> {
    if text.trim().is_empty() {
        return Ok(None);
    }
    let object: serde_json::Map<String, Value> =
        serde_json::from_str(text).map_err(|error| DataError::row(path, line, "a JSON object", error.to_string()))?;
    let list = |column: &Option<String>, default: &str| {
        let key = column.as_deref().unwrap_or(default);
        let value = object.get(key).ok_or_else(|| DataError::MissingColumn {
            path: path.to_owned(),
            line,
            column: key.to_owned(),
            found: object.keys().cloned().collect::<Vec<_>>().join(", "),
        })?;
        let strings = value.as_array().and_then(|values| {
            values.iter().map(|value| Some(value.as_str().filter(|text| !text.is_empty())?.to_owned())).collect()
        });
        strings.ok_or_else(|| {
            let expected = format!("a list of strings as `{key}`, none of them empty");
            DataError::row(path, line, expected, excerpt(&value.to_string()))
        })
    };
    let words: Vec<String> = list(&columns.words, "tokens")?;
    let tags: Vec<String> = list(&columns.tags, "tags")?;
    if words.len() != tags.len() {
        let (expected, found) = (format!("a tag for each of {} words", words.len()), tags.len());
        return Err(DataError::row(path, line, expected, found.to_string()));
    }
    Ok(Some(Sentence { words, tags, line }))
}
