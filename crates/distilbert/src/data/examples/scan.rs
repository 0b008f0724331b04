//! The rows of a labelled file one at a time, broken ones among them, for a look at data before anything is trained.

use std::fs::File;
use std::path::{Path, PathBuf};

use super::columns::{self, Columns};
use super::error::DataError;
use super::glue::{self, Found};
use super::rows::Row;
use super::task::{Layout, Problem, Task};
use super::{Label, Split};
use crate::data::records::{RecordError, Records, RowFormat};

/// A row with its labels as text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScannedRow {
    /// The text, or the first of the pair.
    pub text_a: String,
    /// The second of the pair.
    pub text_b: Option<String>,
    /// One label, or those of a multi-label row; `None` in a test file without labels.
    pub labels: Option<Vec<String>>,
    /// Line of the file on which the row starts, from 1.
    pub line: usize,
}

/// How a labelled file is to be read.
#[derive(Clone, Debug, PartialEq)]
pub struct Scan {
    /// How the file is laid out.
    pub layout: Layout,
    /// Name of a GLUE task; no matter for other layouts.
    pub task: String,
    /// What its labels are.
    pub problem: Problem,
    /// Which part of the data it is: a test file may lack labels.
    pub split: Split,
}

impl Scan {
    /// A split of a task.
    pub fn of(task: &Task, split: Split) -> Scan {
        Scan { layout: task.layout.clone(), task: task.name.clone(), problem: task.problem, split }
    }

    /// The file itself: `path`, or the split's file in that folder.
    ///
    /// # Errors
    /// [`DataError`] if there is none.
    pub fn find_file(&self, path: &Path) -> Result<PathBuf, DataError> {
        match &self.layout {
            Layout::Glue => glue::find_file(glue::layout(&self.task)?, path, self.split),
            Layout::Columns(_) => columns::find_file(path, self.split),
            Layout::Words(_) => Err(DataError::tags_words(path, &self.task)),
        }
    }

    /// Hands every row of a file to `visit`, broken ones as errors, until it returns false. One row is in memory. The
    /// result is the number of lines that are no rows: blank ones, and those that the official readers drop.
    ///
    /// # Errors
    /// [`DataError`] if the file cannot be read at all: it cannot be opened, or its first line is not what it must be.
    pub fn run(
        &self,
        path: &Path,
        mut visit: impl FnMut(Result<ScannedRow, DataError>) -> bool,
    ) -> Result<usize, DataError> {
        let mut skipped = 0;
        let file = File::open(path).map_err(|source| DataError::io(path, source))?;
        match &self.layout {
            Layout::Glue => {
                let layout = glue::layout(&self.task)?;
                let mut reader = glue::RowReader::new(layout, path, self.split);
                let mut records = Records::new(file, RowFormat::Tabs);
                each(
                    &mut records,
                    path,
                    |row| {
                        let example = match reader.row(&row)? {
                            Found::Header => return Ok(None),
                            Found::Skipped(_) => {
                                skipped += 1;
                                return Ok(None);
                            }
                            Found::Example(example) => example,
                        };
                        let labels = match example.label {
                            Label::Class(class) => layout.labels.get(class).map(|&label| label.to_owned()),
                            Label::Score(score) => Some(score.to_string()),
                            Label::Classes(_) | Label::Tags(_) | Label::None => None,
                        };
                        let labels = labels.map(|label| vec![label]);
                        Ok(Some(ScannedRow {
                            text_a: example.text_a,
                            text_b: example.text_b,
                            labels,
                            line: example.line,
                        }))
                    },
                    &mut visit,
                )?;
            }
            Layout::Columns(columns) => {
                let mut reader = columns::RowReader::new(columns, path, self.split)?;
                let mut records = Records::new(file, reader.rows());
                each(&mut records, path, |row| reader.row(row, self.problem, &mut skipped), &mut visit)?;
                skipped += records.blank_lines();
            }
            Layout::Words(_) => return Err(DataError::tags_words(path, &self.task)),
        }
        Ok(skipped)
    }
}

impl Scan {
    /// The values of a column that holds neither texts nor labels, with the line on which each row begins.
    ///
    /// # Errors
    /// [`DataError`] if the file cannot be read or lacks the column.
    pub fn column(&self, path: &Path, column: &str) -> Result<Vec<(usize, String)>, DataError> {
        // A file of this layout with the column in the place of the label.
        let columns = match &self.layout {
            Layout::Columns(columns) => {
                Columns { label: column.to_owned(), separator: String::new(), ..columns.clone() }
            }
            Layout::Glue => {
                let layout = glue::layout(&self.task)?;
                let separator = String::new();
                Columns { pair: layout.text_b.map(str::to_owned), separator, ..Columns::new(layout.text_a, column) }
            }
            Layout::Words(_) => return Err(DataError::tags_words(path, &self.task)),
        };
        // Any number of labels, for the field may be empty; of a split that must have the column.
        let (layout, problem, split) = (Layout::Columns(columns), Problem::MultiLabel, Split::Dev);
        let scan = Scan { layout, problem, split, task: self.task.clone() };
        let (mut values, mut broken) = (Vec::new(), None);
        scan.run(path, |row| match row {
            Ok(row) => {
                values.push((row.line, row.labels.unwrap_or_default().concat()));
                true
            }
            Err(error) => {
                broken = Some(error);
                false
            }
        })?;
        match broken {
            Some(error) => Err(error),
            None => Ok(values),
        }
    }
}

/// Every row that `read` makes something of. An error on the first line means that no other can be understood.
fn each(
    records: &mut Records,
    path: &Path,
    mut read: impl FnMut(Row<'_>) -> Result<Option<ScannedRow>, DataError>,
    visit: &mut impl FnMut(Result<ScannedRow, DataError>) -> bool,
) -> Result<(), DataError> {
    loop {
        let next = records.next_row();
        let line = records.line();
        let is_final = next.as_ref().is_err_and(RecordError::is_final);
        let found = match next {
            Ok(None) => return Ok(()),
            Ok(Some(fields)) => read(Row { line, fields: fields.into_iter().map(Into::into).collect() }),
            Err(RecordError::Io(source)) => return Err(DataError::io(path, source)),
            Err(RecordError::NotUtf8 { .. }) => Err(DataError::NotUtf8 { path: path.to_owned(), line }),
            Err(error @ (RecordError::OpenQuote | RecordError::TooLong)) => {
                Err(DataError::Record { path: path.to_owned(), line, error })
            }
        };
        if let Err(error @ (DataError::MissingColumn { line: 1, .. } | DataError::AmbiguousColumn { .. })) = found {
            return Err(error);
        }
        let goes_on = found.transpose().is_none_or(&mut *visit);
        if is_final || !goes_on {
            return Ok(());
        }
    }
}
