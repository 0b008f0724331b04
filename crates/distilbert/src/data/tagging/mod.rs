//! Words with a tag each: named entities, parts of speech, or anything else that is said word by word.
//!
//! [`load`] reads one split of a [`Task`] whose problem is [`Problem::Entities`] or [`Problem::Tags`]; [`words`] lays
//! sentences of any length out as windows of tokens.

mod columns; // CoNLL files: a word a line, and CoNLL-U
pub mod entities; // tags <-> named spans
mod lists; // JSONL: lists of words and tags
pub mod windows; // rows of tokens of any length -> windows
pub mod words; // sentences -> windows of tokens with targets

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::examples::{DataError, Defaults, Layout, Problem, Skipped, Split, Task, TaskKind};
use entities::{bio, entities_of};

/// Which columns of a file hold what: numbers from 1, or names. CoNLL-U has its own names (`form`, `upos`, `xpos`, ...);
/// files of four columns have those of CoNLL-2003 (`word`, `pos`, `chunk`, `ner`); a line `# global.columns = ...` names
/// others; the columns of JSONL are its keys.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WordColumns {
    /// The words; `None` is the first column, `form` of CoNLL-U, `tokens` of JSONL.
    #[serde(default)]
    pub words: Option<String>,
    /// The tags; `None` is the last column (of parts of speech the second), `upos` of CoNLL-U, `tags` of JSONL.
    #[serde(default)]
    pub tags: Option<String>,
}

/// A sentence with a tag for each word.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sentence {
    /// The words.
    pub words: Vec<String>,
    /// One for each word. Those of entities are in BIO, whatever the file's own scheme is.
    pub tags: Vec<String>,
    /// Line of the file on which the sentence starts, from 1.
    pub line: usize,
}

/// One split of a task.
#[derive(Clone, Debug)]
pub struct TaggedSet {
    /// What is asked.
    pub task: Task,
    /// Which part this is.
    pub split: Split,
    /// The sentences in file order; never empty.
    pub sentences: Vec<Sentence>,
    /// What was left out, in file order.
    pub skipped: Vec<Skipped>,
}

impl TaggedSet {
    /// SHA-256 of all words and tags in order, in hexadecimal.
    pub fn content_hash(&self) -> String {
        let mut hash = Sha256::new();
        for sentence in &self.sentences {
            for (word, tag) in sentence.words.iter().zip(&sentence.tags) {
                hash.update(format!("{word:?}{tag:?}"));
            }
            hash.update("\n");
        }
        hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

impl Task {
    /// The task that a training file (or the folder that holds it) defines: its labels are the tags that occur in it,
    /// of entities `O` and both BIO tags of every type.
    ///
    /// # Errors
    /// [`DataError`] if the file cannot be read or has fewer than two tags.
    pub fn from_words(name: &str, path: &Path, columns: &WordColumns, problem: Problem) -> Result<Task, DataError> {
        let mut task = Task {
            name: name.to_owned(),
            kind: TaskKind::Single,
            problem,
            labels: Vec::new(),
            metrics: Task::usual_metrics(problem, 0),
            // Of the reference's token classification (batches of 32, 5e-5), with as many passes as small encoders take.
            defaults: Defaults { epochs: 5, ..Defaults::default() },
            layout: Layout::Words(columns.clone()),
        };
        let file = find_file(path, Split::Train)?;
        let (sentences, _) = read(&task, columns, &file)?;
        let tags: BTreeSet<&str> = sentences.iter().flat_map(|sentence| &sentence.tags).map(String::as_str).collect();
        if problem == Problem::Entities {
            let kinds: BTreeSet<&str> = tags.iter().filter_map(|tag| Some(tag.split_once('-')?.1)).collect();
            let both = kinds.iter().flat_map(|kind| [format!("B-{kind}"), format!("I-{kind}")]);
            task.labels = std::iter::once("O".to_owned()).chain(both).collect();
        } else {
            task.labels = tags.iter().map(|&tag| tag.to_owned()).collect();
        }
        if task.labels.len() < 2 {
            let found = if tags.is_empty() { "none".to_owned() } else { format!("only {}", task.labels.join(", ")) };
            return Err(DataError::Labels { path: file, expected: "at least 2 different tags".to_owned(), found });
        }
        Ok(task)
    }
}

/// Reads one split of `task`. `path` is the file itself, or a folder with one file whose name has the split's name among
/// its words (`eng.train`, `en_ewt-ud-dev.conllu`; `testa` and `valid` are `dev`, `testb` is `test`).
///
/// # Errors
/// [`DataError`], naming file and line, for anything that is not as the task says, and in training data for a tag that is
/// none of the task's labels; elsewhere see [`unknown`].
pub fn load(task: &Task, path: &Path, split: Split) -> Result<TaggedSet, DataError> {
    let Layout::Words(columns) = &task.layout else {
        let (path, found) = (path.to_owned(), format!("task `{}`, which labels whole texts", task.name));
        return Err(DataError::Labels { path, expected: "a task that tags words".to_owned(), found });
    };
    let file = find_file(path, split)?;
    let (sentences, skipped) = read(task, columns, &file)?;
    if split == Split::Train
        && let Some(Unknown { sentence, word, name }) = unknown(task, &sentences).next()
    {
        let what = if task.problem == Problem::Entities { "types" } else { "tags" };
        let known = known(task);
        let names: Vec<&str> = known.iter().map(String::as_str).filter(|&name| name != "O").collect();
        let expected = format!("one of the {what} {}", names.join(", "));
        let found = format!("`{name}` at the word `{word}` of the sentence that starts here");
        return Err(DataError::row(&file, sentence.line, expected, found));
    }
    Ok(TaggedSet { task: task.clone(), split, sentences, skipped })
}

/// What a tag is of: of entities the type, for which tags a model has depends on its own scheme.
fn name(task: &Task, tag: &str) -> String {
    match (task.problem, tag.split_once('-')) {
        (Problem::Entities, Some((_, kind))) => kind.to_owned(),
        _ => tag.to_owned(),
    }
}

fn known(task: &Task) -> BTreeSet<String> {
    task.labels.iter().map(|label| name(task, label)).collect()
}

/// A type or tag that a task lacks.
pub struct Unknown<'a> {
    /// The sentence.
    pub sentence: &'a Sentence,
    /// Its first such word.
    pub word: &'a str,
    /// The type or tag.
    pub name: String,
}

/// The sentences with a type or tag that is none of the task's: whatever a model says there is wrong.
pub fn unknown<'a>(task: &Task, sentences: &'a [Sentence]) -> impl Iterator<Item = Unknown<'a>> {
    let known = known(task);
    sentences.iter().filter_map(move |sentence| {
        let mut named = sentence.tags.iter().map(|tag| name(task, tag)).zip(&sentence.words);
        let (name, word) = named.find(|(name, _)| name != "O" && !known.contains(name))?;
        Some(Unknown { sentence, word, name })
    })
}

/// Takes a file's sentences, or what is wrong with one; `false` ends the reading.
type Rows<'a> = &'a mut dyn FnMut(Result<Sentence, DataError>) -> bool;

/// The sentences of a file, entities in BIO.
fn read(task: &Task, columns: &WordColumns, file: &Path) -> Result<(Vec<Sentence>, Vec<Skipped>), DataError> {
    let mut sentences: Result<Vec<Sentence>, DataError> = Ok(Vec::new());
    let skipped = scan(columns, task.problem, file, |row| {
        match (&mut sentences, row) {
            (Ok(sentences), Ok(sentence)) => sentences.push(sentence),
            (_, row) => sentences = row.map(|_| Vec::new()),
        }
        sentences.is_ok()
    })?;
    let sentences = sentences?;
    if sentences.is_empty() {
        return Err(DataError::Empty { path: file.to_owned() });
    }
    Ok((sentences, skipped))
}

/// Reads a file's sentences one at a time, entities in BIO, with what is wrong with those that cannot be read, until
/// `rows` says `false`. The result is what was left out so far.
///
/// # Errors
/// [`DataError`] if the file cannot be read at all.
pub fn scan(
    columns: &WordColumns,
    problem: Problem,
    file: &Path,
    mut rows: impl FnMut(Result<Sentence, DataError>) -> bool,
) -> Result<Vec<Skipped>, DataError> {
    let mut rows = |row: Result<Sentence, DataError>| match row {
        Ok(sentence) if problem == Problem::Entities => rows(in_bio(sentence, file)),
        row => rows(row),
    };
    match file.extension().and_then(|extension| extension.to_str()) {
        Some("jsonl" | "json") => lists::scan(columns, file, &mut rows),
        Some("conllu") => columns::scan(columns, columns::Format::ConllU, problem, file, &mut rows),
        _ => columns::scan(columns, columns::Format::Columns, problem, file, &mut rows),
    }
}

fn in_bio(sentence: Sentence, file: &Path) -> Result<Sentence, DataError> {
    let tags = to_bio(&sentence.tags).map_err(|(word, found)| {
        let expected = "tags `O`, or `B-`, `I-`, `E-`, `S-`, `L-` or `U-` with a type";
        let found = format!("`{found}` at word {} of the sentence that starts here", word + 1);
        DataError::row(file, sentence.line, expected, found)
    })?;
    Ok(Sentence { tags, ..sentence })
}

/// The same spans in BIO; the place of a tag of no known scheme and the tag.
fn to_bio(tags: &[String]) -> Result<Vec<String>, (usize, String)> {
    let known = tags.iter().enumerate().map(|(word, tag)| match tag.split_once('-') {
        None if tag == "O" => Ok(tag.clone()),
        Some((letter @ ("B" | "I" | "E" | "S"), kind)) if !kind.is_empty() => Ok(format!("{letter}-{kind}")),
        // BILOU's names for last and unit.
        Some(("L", kind)) if !kind.is_empty() => Ok(format!("E-{kind}")),
        Some(("U", kind)) if !kind.is_empty() => Ok(format!("S-{kind}")),
        _ => Err((word, tag.clone())),
    });
    let known: Vec<String> = known.collect::<Result<_, _>>()?;
    Ok(bio(&entities_of(&known), known.len()))
}

/// `path` itself, or the split's file in the folder `path`, as [`load`] finds it.
///
/// # Errors
/// [`DataError`] if there is no such file, or several.
pub fn find_file(path: &Path, split: Split) -> Result<PathBuf, DataError> {
    let io = |source| DataError::Io { path: path.to_owned(), source };
    if !std::fs::metadata(path).map_err(io)?.is_dir() {
        return Ok(path.to_owned());
    }
    let names: &[&str] = match split {
        Split::Train => &["train"],
        Split::Dev | Split::DevMismatched => &["dev", "valid", "validation", "testa"],
        Split::Test | Split::TestMismatched => &["test", "testb"],
        Split::Unlabelled => &["unlabelled"],
    };
    let is_named = |file: &Path| {
        let name = file.file_name().unwrap_or_default().to_string_lossy().to_lowercase();
        name.split(|character: char| !character.is_ascii_alphanumeric()).any(|word| names.contains(&word))
    };
    let mut files: Vec<PathBuf> = std::fs::read_dir(path)
        .map_err(io)?
        .flatten()
        .map(|entry| entry.path())
        .filter(|file| is_named(file))
        .collect();
    files.sort();
    match &files[..] {
        [file] => Ok(file.clone()),
        [] => Err(DataError::MissingFile {
            folder: path.to_owned(),
            expected: names.iter().map(|name| format!("*{name}*")).collect(),
            split: split.name(),
        }),
        several => Err(DataError::Labels {
            path: path.to_owned(),
            expected: format!("one file named `{}`", names.join("` or `")),
            found: several
                .iter()
                .map(|file| file.file_name().unwrap_or_default().to_string_lossy().into_owned())
                .collect::<Vec<_>>()
                .join(", "),
        }),
    }
}

#[cfg(test)]
mod tests;
