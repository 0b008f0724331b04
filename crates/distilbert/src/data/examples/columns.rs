//! Any CSV (quoted), TSV (unquoted) or JSONL file with named or numbered columns, and the task that its training file defines.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::error::{DataError, excerpt, list};
use super::rows::{self, Row};
use super::scan::ScannedRow;
use super::task::{Defaults, Layout, Problem, Task, TaskKind};
use super::{Example, Label, Skipped, Split};
use crate::data::records::RowFormat;

/// Which columns of a file hold what: names in the first line or keys of JSON objects; in a file without a header,
/// numbers from 1.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Columns {
    /// The column of the text, or of the first text of a pair.
    pub text: String,
    /// The column of the second text; `None` for single texts.
    #[serde(default)]
    pub pair: Option<String>,
    /// The column of the label, or of the labels for multi-label problems.
    pub label: String,
    /// What separates several labels in one field; a JSONL file may give an array instead.
    #[serde(default = "default_separator")]
    pub separator: String,
    /// Whether the first line of a CSV or TSV file names the columns.
    #[serde(default = "default_header")]
    pub header: bool,
}

fn default_separator() -> String {
    ",".to_owned()
}

fn default_header() -> bool {
    true
}

impl Columns {
    /// Single texts in `text`, labels in `label`, several labels separated by commas.
    pub fn new(text: impl Into<String>, label: impl Into<String>) -> Self {
        Columns {
            text: text.into(),
            pair: None,
            label: label.into(),
            separator: default_separator(),
            header: default_header(),
        }
    }
}

impl Task {
    /// The task that a training file (or the folder that holds it) defines: its labels are those that occur, in
    /// numeric order if all are whole numbers, else in byte order.
    ///
    /// # Errors
    /// [`DataError`] if the file cannot be read, has fewer than two labels, or, for classification, has fractional
    /// numbers as labels (that is regression).
    pub fn from_columns(name: &str, path: &Path, columns: &Columns, problem: Problem) -> Result<Task, DataError> {
        let file = find_file(path, Split::Train)?;
        let labels = match problem {
            Problem::Regression | Problem::Entities | Problem::Tags => Vec::new(),
            Problem::Classification | Problem::MultiLabel => find_labels(columns, problem, &file)?,
        };
        Ok(Task {
            name: name.to_owned(),
            kind: if columns.pair.is_some() { TaskKind::Pair } else { TaskKind::Single },
            problem,
            metrics: Task::usual_metrics(problem, labels.len()),
            labels,
            defaults: Defaults::default(),
            layout: Layout::Columns(columns.clone()),
        })
    }
}

fn find_labels(columns: &Columns, problem: Problem, path: &Path) -> Result<Vec<String>, DataError> {
    let mut found = BTreeSet::new();
    for record in read_records(columns, path, Split::Train)?.0 {
        let names = match (record.label, problem) {
            (RawLabel::One(text), Problem::MultiLabel) => split_labels(&text, &columns.separator),
            (RawLabel::One(text), _) => vec![text],
            (RawLabel::Many(names), Problem::MultiLabel) => names,
            (RawLabel::Many(_), _) => return Err(one_label_expected(path, record.line)),
            (RawLabel::Missing, _) => return Err(label_expected(path, record.line)),
        };
        if problem == Problem::Classification && names.iter().any(String::is_empty) {
            return Err(label_expected(path, record.line));
        }
        found.extend(names);
    }
    let mut labels: Vec<String> = found.into_iter().collect();
    let numbers: Vec<Option<f64>> = labels.iter().map(|label| label.parse().ok()).collect();
    if let (true, Some(fraction)) = (
        numbers.iter().all(Option::is_some),
        labels.iter().zip(&numbers).find(|(_, number)| number.is_some_and(|number| number.fract() != 0.0)),
    ) {
        return Err(DataError::Labels {
            path: path.to_owned(),
            expected: "class labels (or the regression problem to be asked for)".to_owned(),
            found: format!("fractional numbers such as {}", fraction.0),
        });
    }
    if labels.iter().all(|label| label.parse::<i64>().is_ok()) {
        labels.sort_by_key(|label| label.parse::<i64>().unwrap_or_default());
    }
    if labels.len() < 2 {
        return Err(DataError::Labels {
            path: path.to_owned(),
            expected: "at least 2 different labels".to_owned(),
            found: if labels.is_empty() { "none".to_owned() } else { format!("only {}", list(&labels)) },
        });
    }
    Ok(labels)
}

/// `path` itself, or the split's file in the folder `path`.
pub(super) fn find_file(path: &Path, split: Split) -> Result<PathBuf, DataError> {
    let kind = std::fs::metadata(path).map_err(|source| DataError::io(path, source))?;
    if !kind.is_dir() {
        return Ok(path.to_owned());
    }
    let expected: Vec<String> =
        ["csv", "tsv", "jsonl"].iter().map(|extension| format!("{}.{extension}", split.name())).collect();
    expected.iter().map(|name| path.join(name)).find(|file| file.is_file()).ok_or_else(|| DataError::MissingFile {
        folder: path.to_owned(),
        expected,
        split: split.name(),
    })
}

/// Reads a file whose labels must be the task's.
pub(super) fn read(
    columns: &Columns,
    task: &Task,
    path: &Path,
    split: Split,
) -> Result<(Vec<Example>, Vec<Skipped>), DataError> {
    let (records, skipped) = read_records(columns, path, split)?;
    let examples = records
        .into_iter()
        .map(|record| {
            let label = match record.label {
                RawLabel::Missing if split.may_lack_labels() => Label::None,
                label => resolve(columns, task, path, record.line, label)?,
            };
            Ok(Example { text_a: record.text_a, text_b: record.text_b, label, line: record.line })
        })
        .collect::<Result<_, _>>()?;
    Ok((examples, skipped))
}

/// The label as the task means it.
fn resolve(columns: &Columns, task: &Task, path: &Path, line: usize, label: RawLabel) -> Result<Label, DataError> {
    let class = |name: &str| {
        task.labels
            .iter()
            .position(|label| label == name)
            .ok_or_else(|| DataError::row(path, line, format!("a label of {}", list(&task.labels)), excerpt(name)))
    };
    match (task.problem, label) {
        (_, RawLabel::Missing) => Err(label_expected(path, line)),
        (Problem::Entities | Problem::Tags, _) => Err(DataError::row(
            path,
            line,
            "a task that labels whole texts",
            format!("`{}`, which tags words", task.name),
        )),
        (Problem::Classification, RawLabel::One(name)) => Ok(Label::Class(class(&name)?)),
        (Problem::Regression, RawLabel::One(text)) => match text.trim().parse::<f32>() {
            Ok(score) if score.is_finite() => Ok(Label::Score(score)),
            _ => Err(DataError::row(path, line, "a finite number", excerpt(&text))),
        },
        (Problem::Classification | Problem::Regression, RawLabel::Many(_)) => Err(one_label_expected(path, line)),
        (Problem::MultiLabel, label) => {
            let names = match label {
                RawLabel::One(text) => split_labels(&text, &columns.separator),
                RawLabel::Many(names) => names,
                RawLabel::Missing => Vec::new(),
            };
            let mut applies = vec![false; task.labels.len()];
            for name in names {
                if let Some(applied) = applies.get_mut(class(&name)?) {
                    *applied = true;
                }
            }
            Ok(Label::Classes(applies))
        }
    }
}

/// A row whose label is still text.
struct Record {
    line: usize,
    text_a: String,
    text_b: Option<String>,
    label: RawLabel,
}

enum RawLabel {
    One(String),
    Many(Vec<String>),
    /// No label column, or an empty or null field in a file that may lack labels.
    Missing,
}

/// The labels of a field, which may be a JSON array. An empty field is no label at all: the example has none of them.
fn split_labels(text: &str, separator: &str) -> Vec<String> {
    if let Some(names) = text.trim().starts_with('[').then(|| serde_json::from_str(text).ok()).flatten() {
        return names;
    }
    let parts: Vec<&str> = if separator.is_empty() { vec![text] } else { text.split(separator).collect() };
    parts.into_iter().map(str::trim).filter(|part| !part.is_empty()).map(str::to_owned).collect()
}

fn label_expected(path: &Path, line: usize) -> DataError {
    DataError::row(path, line, "a label", "none")
}

fn one_label_expected(path: &Path, line: usize) -> DataError {
    DataError::row(path, line, "one label", "a list of labels")
}

fn read_records(columns: &Columns, path: &Path, split: Split) -> Result<(Vec<Record>, Vec<Skipped>), DataError> {
    let bytes = rows::read_file(path)?;
    let (records, skipped) = match format(path)? {
        Format::Csv => (read_csv(columns, path, &bytes, split)?, Vec::new()),
        Format::Tabs => read_tsv(columns, path, &bytes, split)?,
        Format::Jsonl => read_jsonl(columns, path, &bytes, split)?,
    };
    if records.is_empty() {
        return Err(DataError::Empty { path: path.to_owned() });
    }
    Ok((records, skipped))
}

fn read_csv(columns: &Columns, path: &Path, bytes: &[u8], split: Split) -> Result<Vec<Record>, DataError> {
    let mut records = rows::csv_records(path, bytes)?.into_iter().peekable();
    let first = records.peek().ok_or_else(|| DataError::Empty { path: path.to_owned() })?;
    let places = Places::find(columns, path, first, split)?;
    if columns.header {
        records.next();
    }
    records.map(|row| places.record(path, row, split)).collect()
}

fn read_tsv(
    columns: &Columns,
    path: &Path,
    bytes: &[u8],
    split: Split,
) -> Result<(Vec<Record>, Vec<Skipped>), DataError> {
    let first = rows::lines(path, bytes).next().transpose()?;
    let (line, text) = first.ok_or_else(|| DataError::Empty { path: path.to_owned() })?;
    let places = Places::find(columns, path, &rows::tabs(line, text), split)?;
    let (mut records, mut skipped) = (Vec::new(), Vec::new());
    for item in rows::lines(path, bytes).skip(usize::from(columns.header)) {
        let (line, text) = item?;
        if text.is_empty() {
            skipped.push(Skipped { line, reason: "blank line".to_owned() });
        } else {
            records.push(places.record(path, rows::tabs(line, text), split)?);
        }
    }
    Ok((records, skipped))
}

/// Where the columns stand.
struct Places {
    columns: usize,
    text_a: usize,
    text_b: Option<usize>,
    label: Option<usize>,
}

impl Places {
    /// `first` is the header, or the first row of a file without one.
    fn find(columns: &Columns, path: &Path, first: &Row<'_>, split: Split) -> Result<Places, DataError> {
        let count = first.fields.len();
        let need = |name: &str| {
            let named = first.fields.iter().filter(|&field| field == name).count();
            if columns.header && named > 1 {
                let (path, column) = (path.to_owned(), name.to_owned());
                return Err(DataError::AmbiguousColumn { path, line: first.line, column, count: named });
            }
            let place = if columns.header {
                first.fields.iter().position(|field| field == name)
            } else {
                name.parse().ok().filter(|number| (1..=count).contains(number)).map(|number: usize| number - 1)
            };
            place.ok_or_else(|| DataError::MissingColumn {
                path: path.to_owned(),
                line: first.line,
                column: name.to_owned(),
                found: if columns.header { list(&first.fields) } else { format!("columns 1 to {count}, no header") },
            })
        };
        let label = match need(&columns.label) {
            _ if split == Split::Unlabelled => None,
            Err(DataError::MissingColumn { .. }) if split.may_lack_labels() => None,
            found => Some(found?),
        };
        Ok(Places {
            columns: count,
            text_a: need(&columns.text)?,
            text_b: columns.pair.as_deref().map(need).transpose()?,
            label,
        })
    }

    fn record(&self, path: &Path, row: Row<'_>, split: Split) -> Result<Record, DataError> {
        if row.fields.len() != self.columns {
            let expected = format!("{} columns as in the first line", self.columns);
            return Err(DataError::row(path, row.line, expected, row.fields.len().to_string()));
        }
        let field = |place: usize| row.fields.get(place).map(|field| field.to_string()).unwrap_or_default();
        let label = match self.label.map(field) {
            None => RawLabel::Missing,
            Some(text) if text.is_empty() && split.may_lack_labels() => RawLabel::Missing,
            Some(text) => RawLabel::One(text),
        };
        Ok(Record { line: row.line, text_a: field(self.text_a), text_b: self.text_b.map(field), label })
    }
}

fn read_jsonl(
    columns: &Columns,
    path: &Path,
    bytes: &[u8],
    split: Split,
) -> Result<(Vec<Record>, Vec<Skipped>), DataError> {
    let (mut records, mut skipped) = (Vec::new(), Vec::new());
    for item in rows::lines(path, bytes) {
        let (line, text) = item?;
        if text.trim().is_empty() {
            skipped.push(Skipped { line, reason: "blank line".to_owned() });
        } else {
            records.push(json_record(columns, path, line, text, split)?);
        }
    }
    Ok((records, skipped))
}

fn json_record(columns: &Columns, path: &Path, line: usize, text: &str, split: Split) -> Result<Record, DataError> {
    let value: Value = serde_json::from_str(text)
        .map_err(|error| DataError::row(path, line, "a JSON object", format!("{} ({error})", excerpt(text))))?;
    let Value::Object(object) = value else {
        return Err(DataError::row(path, line, "a JSON object", kind(&value)));
    };
    let need = |name: &str| {
        object.get(name).ok_or_else(|| DataError::MissingColumn {
            path: path.to_owned(),
            line,
            column: name.to_owned(),
            found: list(&object.keys().collect::<Vec<_>>()),
        })
    };
    let text_of = |name: &str| match need(name)? {
        Value::String(text) => Ok(text.clone()),
        other => Err(DataError::row(path, line, format!("a string in `{name}`"), kind(other))),
    };
    let label = match need(&columns.label) {
        _ if split == Split::Unlabelled => RawLabel::Missing,
        Err(_) if split.may_lack_labels() => RawLabel::Missing,
        found => raw_label(path, line, found?)?,
    };
    Ok(Record {
        line,
        text_a: text_of(&columns.text)?,
        text_b: columns.pair.as_deref().map(text_of).transpose()?,
        label,
    })
}

/// Makes records of a file's rows, one at a time.
pub(super) struct RowReader<'a> {
    columns: &'a Columns,
    path: &'a Path,
    split: Split,
    format: Format,
    /// Of a table; known after the first row.
    places: Option<Places>,
}

/// How a file is written, as the end of its name says.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Format {
    Csv,
    Tabs,
    Jsonl,
}

fn format(path: &Path) -> Result<Format, DataError> {
    let extension = path.extension().and_then(|extension| extension.to_str()).unwrap_or_default().to_lowercase();
    match extension.as_str() {
        "csv" => Ok(Format::Csv),
        "tsv" | "txt" => Ok(Format::Tabs),
        "jsonl" | "json" => Ok(Format::Jsonl),
        _ => Err(DataError::UnknownFormat { path: path.to_owned() }),
    }
}

impl<'a> RowReader<'a> {
    pub(super) fn new(columns: &'a Columns, path: &'a Path, split: Split) -> Result<Self, DataError> {
        Ok(RowReader { columns, path, split, format: format(path)?, places: None })
    }

    /// How the file's rows are cut into fields.
    pub(super) fn rows(&self) -> RowFormat {
        match self.format {
            Format::Csv => RowFormat::Csv,
            Format::Tabs => RowFormat::Tabs,
            Format::Jsonl => RowFormat::Lines,
        }
    }

    /// The texts of a row and its labels, as text; none of a header and a blank line, which is `skipped`.
    ///
    /// # Errors
    /// [`DataError`] if the row is not as the columns say; the next one can still be read.
    pub(super) fn row(
        &mut self,
        row: Row<'_>,
        problem: Problem,
        skipped: &mut usize,
    ) -> Result<Option<ScannedRow>, DataError> {
        let (path, line, split) = (self.path, row.line, self.split);
        let blank = matches!(&row.fields[..], [only] if only.trim().is_empty());
        let record = match (&self.places, self.format) {
            (_, Format::Jsonl) if blank => None,
            (_, Format::Jsonl) => Some(json_record(self.columns, path, line, &row.fields.concat(), split)?),
            (Some(_), Format::Tabs) if blank => None,
            (Some(places), _) => Some(places.record(path, row, split)?),
            (None, _) => {
                let places = self.places.insert(Places::find(self.columns, path, &row, split)?);
                if self.columns.header {
                    return Ok(None);
                }
                Some(places.record(path, row, split)?)
            }
        };
        let Some(record) = record else {
            *skipped += 1;
            return Ok(None);
        };
        let labels = match (record.label, problem) {
            (RawLabel::One(text), Problem::MultiLabel) => Some(split_labels(&text, &self.columns.separator)),
            (RawLabel::One(text), _) if text.is_empty() => return Err(label_expected(path, line)),
            (RawLabel::One(text), Problem::Regression) if !text.trim().parse().is_ok_and(f32::is_finite) => {
                return Err(DataError::row(path, line, "a finite number", excerpt(&text)));
            }
            (RawLabel::One(text), _) => Some(vec![text]),
            (RawLabel::Many(labels), Problem::MultiLabel) => Some(labels),
            (RawLabel::Many(_), _) => return Err(one_label_expected(path, line)),
            (RawLabel::Missing, _) if split.may_lack_labels() => None,
            (RawLabel::Missing, _) => return Err(label_expected(path, line)),
        };
        Ok(Some(ScannedRow { text_a: record.text_a, text_b: record.text_b, labels, line }))
    }
}

fn raw_label(path: &Path, line: usize, value: &Value) -> Result<RawLabel, DataError> {
    let scalar = |value: &Value| match value {
        Value::String(text) => Ok(text.clone()),
        Value::Number(number) => Ok(number.to_string()),
        Value::Bool(truth) => Ok(truth.to_string()),
        other => Err(DataError::row(path, line, "a label (string, number or true/false)", kind(other))),
    };
    match value {
        Value::Null => Ok(RawLabel::Missing),
        Value::Array(values) => Ok(RawLabel::Many(values.iter().map(scalar).collect::<Result<_, _>>()?)),
        other => Ok(RawLabel::One(scalar(other)?)),
    }
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}
