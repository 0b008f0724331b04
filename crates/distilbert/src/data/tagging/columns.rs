//! A word a line, its columns apart by white space or tabs, an empty line between sentences: CoNLL-2002, CoNLL-2003,
//! WNUT and their like; and CoNLL-U.

use std::path::Path;

use super::{Rows, Sentence, WordColumns};
use crate::data::examples::rows::{lines, read_file};
use crate::data::examples::{DataError, Problem, Skipped};

/// How a file's lines are read.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    /// Any number of columns; `-DOCSTART-` lines stand between documents.
    Columns,
    /// Ten columns; comments, multiword tokens and empty nodes.
    ConllU,
}

/// The columns of CoNLL-U.
const CONLL_U: [&str; 10] = ["id", "form", "lemma", "upos", "xpos", "feats", "head", "deprel", "deps", "misc"];
/// The columns of CoNLL-2003.
const CONLL_2003: [&str; 4] = ["word", "pos", "chunk", "ner"];

/// Begins a line that names the columns, in CoNLL-U Plus.
const GLOBAL_COLUMNS: &str = "# global.columns =";

/// Hands each sentence, or what is wrong with its first bad line, to `rows`, until that says `false`; lines that are no
/// words come back.
pub(super) fn scan(
    columns: &WordColumns,
    format: Format,
    problem: Problem,
    path: &Path,
    rows: Rows<'_>,
) -> Result<Vec<Skipped>, DataError> {
    let bytes = read_file(path)?;
    let mut names: Vec<String> = match format {
        Format::ConllU => CONLL_U.map(str::to_owned).to_vec(),
        Format::Columns => Vec::new(),
    };
    let mut skipped = Vec::new();
    // The sentence so far, and what is wrong with it.
    let mut sentence = Sentence::default();
    let mut broken = None;
    for line in lines(path, &bytes) {
        let (line, text) = match line {
            Ok(line) => line,
            Err(error) => {
                broken.get_or_insert(error);
                continue;
            }
        };
        if let Some(found) = text.strip_prefix(GLOBAL_COLUMNS) {
            names = found.split_whitespace().map(str::to_lowercase).collect();
            continue;
        }
        let fields = fields(text);
        let ends_sentence =
            fields.iter().all(|field| field.is_empty()) || (format == Format::Columns && fields[0] == "-DOCSTART-");
        if ends_sentence {
            if !hand_over(&mut sentence, &mut broken, rows) {
                return Ok(skipped);
            }
            continue;
        }
        // A multiword token (`8-9`) is written again as its words; an empty node (`8.1`) stands for no text.
        if format == Format::ConllU && (text.starts_with('#') || fields[0].contains(['-', '.'])) {
            continue;
        }
        let word_and_tag = word_and_tag(columns, format, problem, &names, &fields).map_err(|fault| match fault {
            Fault::NoColumn(column) => {
                let found = format!("{} columns", fields.len());
                DataError::MissingColumn { path: path.to_owned(), line, column, found }
            }
            Fault::NoTag => DataError::row(path, line, "a word and its tag", "one column"),
            Fault::EmptyTag => DataError::row(path, line, "a tag", "an empty one"),
        });
        match word_and_tag {
            Ok(("", _)) => skipped.push(Skipped { line, reason: "an empty word".to_owned() }),
            Ok((word, tag)) => {
                if sentence.words.is_empty() {
                    sentence.line = line;
                }
                sentence.words.push(word.to_owned());
                sentence.tags.push(tag.to_owned());
            }
            Err(error) => {
                broken.get_or_insert(error);
            }
        }
    }
    hand_over(&mut sentence, &mut broken, rows);
    Ok(skipped)
}

/// Gives the sentence away, or what is wrong with it; what `rows` says.
fn hand_over(sentence: &mut Sentence, broken: &mut Option<DataError>, rows: Rows<'_>) -> bool {
    let sentence = std::mem::take(sentence);
    match broken.take() {
        Some(error) => rows(Err(error)),
        None => sentence.words.is_empty() || rows(Ok(sentence)),
    }
}

/// What a line of a word can lack.
enum Fault {
    NoColumn(String),
    NoTag,
    EmptyTag,
}

fn word_and_tag<'a>(
    columns: &WordColumns,
    format: Format,
    problem: Problem,
    names: &[String],
    fields: &[&'a str],
) -> Result<(&'a str, &'a str), Fault> {
    let default_word = if format == Format::ConllU { 1 } else { 0 };
    let default_tag = match (format, problem) {
        (Format::ConllU, _) => 3,
        (Format::Columns, Problem::Tags) => 1,
        (Format::Columns, _) => fields.len().saturating_sub(1),
    };
    let field = |column: &Option<String>, default: usize| {
        let index = match column {
            Some(column) => place(column, names, fields.len()),
            None => Some(default),
        };
        let wanted = || column.clone().unwrap_or_else(|| (default + 1).to_string());
        index.and_then(|index| fields.get(index)).copied().ok_or_else(|| Fault::NoColumn(wanted()))
    };
    let (word, tag) = (field(&columns.words, default_word)?, field(&columns.tags, default_tag)?);
    if fields.len() < 2 {
        return Err(Fault::NoTag);
    }
    if !word.is_empty() && (tag.is_empty() || (format == Format::ConllU && tag == "_")) {
        return Err(Fault::EmptyTag);
    }
    Ok((word, tag))
}

/// A line with a tab is cut at tabs, since a word may hold spaces; any other at white space.
fn fields(line: &str) -> Vec<&str> {
    if line.contains('\t') {
        line.split('\t').map(str::trim).collect()
    } else {
        line.split_ascii_whitespace().collect()
    }
}

/// The index of a column given by its number from 1 or by its name.
fn place(column: &str, names: &[String], count: usize) -> Option<usize> {
    let by_number = column.parse::<usize>().ok().and_then(|number| number.checked_sub(1));
    let column = column.to_lowercase();
    let by_name = || names.iter().position(|name| *name == column);
    let usual = || CONLL_2003.iter().position(|name| count == CONLL_2003.len() && *name == column);
    by_number.or_else(by_name).or_else(usual)
}
