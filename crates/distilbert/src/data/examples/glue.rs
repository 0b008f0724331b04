//! The GLUE tasks' official files: tab-separated, no quoting, columns found by the header's names.
//!
//! # Source
//! Wang et al. 2018 (arXiv:1804.07461) and the files of gluebenchmark.com; label order as Hugging Face's `glue`.

use std::path::{Path, PathBuf};

use super::error::{DataError, excerpt, list};
use super::rows::{self, Row};
use super::task::{Metric, Task};
use super::{Example, Label, Skipped, Split};

/// One task's table entry.
#[derive(Debug)]
pub(super) struct GlueLayout {
    pub name: &'static str,
    /// The task's folder in the official archive.
    folder: &'static str,
    /// Column names of the texts; CoLA's labelled files have no header.
    pub text_a: &'static str,
    pub text_b: Option<&'static str>,
    label: &'static str,
    /// The labels as the files spell them, in id order; empty for regression.
    spelled: &'static [&'static str],
    /// The labels' names, in id order.
    pub labels: &'static [&'static str],
    pub metrics: &'static [Metric],
}

const BINARY: &[&str] = &["0", "1"];
const NLI: &[&str] = &["entailment", "neutral", "contradiction"];
const ENTAILMENT: &[&str] = &["entailment", "not_entailment"];

/// STS-B's similarity scale.
const STSB_RANGE: std::ops::RangeInclusive<f32> = 0.0..=5.0;

/// The nine tasks, and AX, the diagnostic set that an MNLI model predicts.
#[rustfmt::skip]
pub(super) const LAYOUTS: &[GlueLayout] = &[
    GlueLayout { name: "cola", folder: "CoLA", text_a: "sentence", text_b: None, label: "label",
        spelled: BINARY, labels: &["unacceptable", "acceptable"], metrics: &[Metric::Matthews] },
    GlueLayout { name: "sst2", folder: "SST-2", text_a: "sentence", text_b: None, label: "label",
        spelled: BINARY, labels: &["negative", "positive"], metrics: &[Metric::Accuracy] },
    GlueLayout { name: "mrpc", folder: "MRPC", text_a: "#1 String", text_b: Some("#2 String"), label: "Quality",
        spelled: BINARY, labels: &["not_equivalent", "equivalent"], metrics: &[Metric::Accuracy, Metric::F1] },
    GlueLayout { name: "qqp", folder: "QQP", text_a: "question1", text_b: Some("question2"), label: "is_duplicate",
        spelled: BINARY, labels: &["not_duplicate", "duplicate"], metrics: &[Metric::Accuracy, Metric::F1] },
    GlueLayout { name: "stsb", folder: "STS-B", text_a: "sentence1", text_b: Some("sentence2"), label: "score",
        spelled: &[], labels: &[], metrics: &[Metric::Pearson, Metric::Spearman] },
    GlueLayout { name: "mnli", folder: "MNLI", text_a: "sentence1", text_b: Some("sentence2"), label: "gold_label",
        spelled: NLI, labels: NLI, metrics: &[Metric::Accuracy] },
    GlueLayout { name: "qnli", folder: "QNLI", text_a: "question", text_b: Some("sentence"), label: "label",
        spelled: ENTAILMENT, labels: ENTAILMENT, metrics: &[Metric::Accuracy] },
    GlueLayout { name: "rte", folder: "RTE", text_a: "sentence1", text_b: Some("sentence2"), label: "label",
        spelled: ENTAILMENT, labels: ENTAILMENT, metrics: &[Metric::Accuracy] },
    GlueLayout { name: "wnli", folder: "WNLI", text_a: "sentence1", text_b: Some("sentence2"), label: "label",
        spelled: BINARY, labels: &["not_entailment", "entailment"], metrics: &[Metric::Accuracy] },
    GlueLayout { name: "ax", folder: "AX", text_a: "sentence1", text_b: Some("sentence2"), label: "gold_label",
        spelled: NLI, labels: NLI, metrics: &[Metric::Matthews] },
];

/// The entry of a task, however its name is spelled.
pub(super) fn layout(name: &str) -> Result<&'static GlueLayout, DataError> {
    let plain: String = name.chars().filter(|c| !matches!(c, '-' | '_' | ' ')).collect::<String>().to_lowercase();
    LAYOUTS
        .iter()
        .find(|layout| layout.name == plain)
        .ok_or_else(|| DataError::UnknownTask { name: name.to_owned(), known: Task::glue_names() })
}

/// The split's file: `path` itself, or in the folder `path`, or in the task's folder under it.
pub(super) fn find_file(layout: &GlueLayout, path: &Path, split: Split) -> Result<PathBuf, DataError> {
    let kind = std::fs::metadata(path).map_err(|source| DataError::io(path, source))?;
    if !kind.is_dir() {
        return Ok(path.to_owned());
    }
    let names: &[&str] = match (layout.name, split) {
        ("mnli", Split::Dev) => &["dev_matched.tsv"],
        ("mnli", Split::DevMismatched) => &["dev_mismatched.tsv"],
        ("mnli", Split::Test) => &["test_matched.tsv"],
        ("mnli", Split::TestMismatched) => &["test_mismatched.tsv"],
        ("ax", Split::Test) => &["diagnostic.tsv", "AX.tsv"],
        ("ax", _) => &[],
        (_, Split::Unlabelled) => &["unlabelled.tsv"],
        (_, Split::Train) => &["train.tsv"],
        (_, Split::Dev) => &["dev.tsv"],
        (_, Split::Test) => &["test.tsv"],
        (_, Split::DevMismatched | Split::TestMismatched) => &[],
    };
    if names.is_empty() {
        let known = if layout.name == "ax" { vec!["test"] } else { vec!["train", "dev", "test"] };
        return Err(DataError::UnknownSplit {
            what: format!("task `{}`", layout.name),
            split: split.name().to_owned(),
            known,
        });
    }
    let folders = [path.to_owned(), path.join(layout.folder)];
    let mut candidates = folders.iter().flat_map(|folder| names.iter().map(move |name| folder.join(name)));
    candidates.find(|file| file.is_file()).ok_or_else(|| DataError::MissingFile {
        folder: path.to_owned(),
        expected: names.iter().map(|&name| name.to_owned()).collect(),
        split: split.name(),
    })
}

/// Where the texts and the label stand in a row.
struct Places {
    columns: usize,
    text_a: usize,
    text_b: Option<usize>,
    label: Option<usize>,
}

/// Reads an official file.
pub(super) fn read(layout: &GlueLayout, path: &Path, split: Split) -> Result<(Vec<Example>, Vec<Skipped>), DataError> {
    let bytes = rows::read_file(path)?;
    let mut reader = RowReader::new(layout, path, split);
    let (mut examples, mut skipped) = (Vec::new(), Vec::new());
    for item in rows::lines(path, &bytes) {
        let (line, text) = item?;
        match reader.row(&rows::tabs(line, text))? {
            Found::Header => {}
            Found::Example(example) => examples.push(example),
            Found::Skipped(row) => skipped.push(row),
        }
    }
    if examples.is_empty() {
        return Err(DataError::Empty { path: path.to_owned() });
    }
    Ok((examples, skipped))
}

/// Makes examples of an official file's rows, one at a time.
pub(super) struct RowReader<'a> {
    layout: &'a GlueLayout,
    path: &'a Path,
    split: Split,
    /// Known after the first row.
    places: Option<Places>,
}

/// What a row is.
pub(super) enum Found {
    Header,
    Example(Example),
    Skipped(Skipped),
}

impl<'a> RowReader<'a> {
    pub(super) fn new(layout: &'a GlueLayout, path: &'a Path, split: Split) -> Self {
        RowReader { layout, path, split, places: None }
    }

    /// # Errors
    /// [`DataError`] if the row is not as the layout says; the next one can still be read.
    pub(super) fn row(&mut self, row: &Row<'_>) -> Result<Found, DataError> {
        let layout = self.layout;
        let places = match &mut self.places {
            Some(places) => places,
            // CoLA's labelled files have no header: source, label, author's mark, sentence.
            none if layout.name == "cola" && !row.fields.iter().eq(["index", "sentence"]) => {
                let label = (self.split != Split::Unlabelled).then_some(1);
                none.insert(Places { columns: 4, text_a: 3, text_b: None, label })
            }
            none => {
                *none = Some(find_places(layout, self.path, row, self.split)?);
                return Ok(Found::Header);
            }
        };
        let line = row.line;
        if matches!(&row.fields[..], [only] if only.is_empty()) {
            return Ok(Found::Skipped(Skipped { line, reason: "blank line".to_owned() }));
        }
        match read_row(layout, self.path, places, row) {
            Ok(example) => Ok(Found::Example(example)),
            // The official QQP files hold rows with line breaks inside; the official readers drop them.
            Err(DataError::Row { line, expected, found, .. }) if layout.name == "qqp" => {
                Ok(Found::Skipped(Skipped { line, reason: format!("expected {expected}, found {found}") }))
            }
            Err(error) => Err(error),
        }
    }
}

fn find_places(layout: &GlueLayout, path: &Path, header: &Row<'_>, split: Split) -> Result<Places, DataError> {
    let place = |name: &str| header.fields.iter().position(|field| field == name);
    let need = |name: &str| {
        place(name).ok_or_else(|| DataError::MissingColumn {
            path: path.to_owned(),
            line: header.line,
            column: name.to_owned(),
            found: list(&header.fields),
        })
    };
    Ok(Places {
        columns: header.fields.len(),
        text_a: need(layout.text_a)?,
        text_b: layout.text_b.map(need).transpose()?,
        label: match split {
            Split::Unlabelled => None,
            split if split.may_lack_labels() => place(layout.label),
            _ => Some(need(layout.label)?),
        },
    })
}

fn read_row(layout: &GlueLayout, path: &Path, places: &Places, row: &Row<'_>) -> Result<Example, DataError> {
    if row.fields.len() != places.columns {
        let expected = format!("{} tab-separated columns", places.columns);
        return Err(DataError::row(path, row.line, expected, row.fields.len().to_string()));
    }
    let field = |place: usize| row.fields.get(place).map(AsRef::as_ref).unwrap_or_default();
    let label = match places.label {
        Some(place) => read_label(layout, path, row.line, field(place))?,
        None => Label::None,
    };
    Ok(Example {
        text_a: field(places.text_a).to_owned(),
        text_b: places.text_b.map(|place| field(place).to_owned()),
        label,
        line: row.line,
    })
}

fn read_label(layout: &GlueLayout, path: &Path, line: usize, text: &str) -> Result<Label, DataError> {
    if layout.spelled.is_empty() {
        return match text.trim().parse::<f32>() {
            Ok(score) if STSB_RANGE.contains(&score) => Ok(Label::Score(score)),
            _ => Err(DataError::row(path, line, "a score from 0 to 5", excerpt(text))),
        };
    }
    match layout.spelled.iter().position(|&label| label == text) {
        Some(class) => Ok(Label::Class(class)),
        None => Err(DataError::row(path, line, format!("a label of {}", list(layout.spelled)), excerpt(text))),
    }
}
