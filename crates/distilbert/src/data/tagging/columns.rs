//! A word a line, its columns apart by white space or tabs, an empty line between sentences: CoNLL-2002, CoNLL-2003,
//! WNUT and their like; and CoNLL-U.

use std::path::Path;

use super::{Sentence, WordColumns};
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

pub(super) fn read(
    columns: &WordColumns,
    format: Format,
    problem: Problem,
    path: &Path,
) -> Result<(Vec<Sentence>, Vec<Skipped>), DataError> {
    let bytes = read_file(path)?;
    let mut names: Vec<String> = match format {
        Format::ConllU => CONLL_U.map(str::to_owned).to_vec(),
        Format::Columns => Vec::new(),
    };
    let (mut sentences, mut skipped) = (Vec::new(), Vec::new());
    let mut sentence = Sentence { words: Vec::new(), tags: Vec::new(), line: 0 };
    for line in lines(path, &bytes) {
        let (line, text) = line?;
        if let Some(found) = text.strip_prefix(GLOBAL_COLUMNS) {
            names = found.split_whitespace().map(str::to_lowercase).collect();
            continue;
        }
        let fields = fields(text);
        let ends_sentence =
            fields.iter().all(|field| field.is_empty()) || (format == Format::Columns && fields[0] == "-DOCSTART-");
        if ends_sentence {
            if !sentence.words.is_empty() {
                sentences
                    .push(std::mem::replace(&mut sentence, Sentence { words: Vec::new(), tags: Vec::new(), line }));
            }
            continue;
        }
        if format == Format::ConllU {
            // A multiword token (`8-9`) is written again as its words; an empty node (`8.1`) stands for no text.
            if text.starts_with('#') || fields[0].contains(['-', '.']) {
                continue;
            }
        }
        let default_word = if format == Format::ConllU { 1 } else { 0 };
        let default_tag = match (format, problem) {
            (Format::ConllU, _) => 3,
            (Format::Columns, Problem::Tags) => 1,
            (Format::Columns, _) => fields.len().saturating_sub(1),
        };
        let field = |column: &Option<String>, default: usize| {
            let index = match column {
                Some(column) => place(column, &names, fields.len()),
                None => Some(default),
            };
            let wanted = column.clone().unwrap_or_else(|| (default + 1).to_string());
            let missing = || DataError::MissingColumn {
                path: path.to_owned(),
                line,
                column: wanted,
                found: format!("{} columns", fields.len()),
            };
            index.and_then(|index| fields.get(index)).copied().ok_or_else(missing)
        };
        let (word, tag) = (field(&columns.words, default_word)?, field(&columns.tags, default_tag)?);
        if fields.len() < 2 {
            return Err(DataError::row(path, line, "a word and its tag", "one column"));
        }
        if word.is_empty() {
            skipped.push(Skipped { line, reason: "an empty word".to_owned() });
            continue;
        }
        if tag.is_empty() || (format == Format::ConllU && tag == "_") {
            return Err(DataError::row(path, line, "a tag", "an empty one"));
        }
        if sentence.words.is_empty() {
            sentence.line = line;
        }
        sentence.words.push(word.to_owned());
        sentence.tags.push(tag.to_owned());
    }
    if !sentence.words.is_empty() {
        sentences.push(sentence);
    }
    Ok((sentences, skipped))
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
