//! SQuAD's JSON (also XQuAD, MLQA, TyDi GoldP), and JSON Lines with the columns of the `datasets` package.

use std::collections::HashMap;
use std::fs::File;
use std::io::BufReader;
use std::ops::Range;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::super::examples::error::excerpt;
use super::super::examples::rows::{lines, read_file};
use super::super::examples::{DataError, Skipped, Split};
use super::{Answer, Question, QuestionSet, file_names};

/// Reads a split: `path` is the file, or a folder that holds it as `train.json`, `train.jsonl`, `train-v1.1.json` or
/// `train-v2.0.json` (and so on for the other splits).
///
/// # Errors
/// As [`read`]; also if the folder has no such file, or several.
pub fn load(path: &Path, split: Split) -> Result<QuestionSet, DataError> {
    read(&find_file(path, split)?)
}

/// `path` itself, or the split's file in the folder `path`, as [`load`] finds it.
///
/// # Errors
/// [`DataError`] if the folder has no such file, or several.
pub fn find_file(path: &Path, split: Split) -> Result<PathBuf, DataError> {
    let kind = std::fs::metadata(path).map_err(|source| DataError::Io { path: path.to_owned(), source })?;
    if !kind.is_dir() {
        return Ok(path.to_owned());
    }
    let expected = file_names(split);
    let found: Vec<PathBuf> = expected.iter().map(|name| path.join(name)).filter(|file| file.is_file()).collect();
    match &found[..] {
        [file] => Ok(file.clone()),
        [] => Err(DataError::MissingFile { folder: path.to_owned(), expected, split: split.name() }),
        [first, second, ..] => Err(DataError::Labels {
            path: path.to_owned(),
            expected: format!("one file for split `{}`", split.name()),
            found: format!("{} and {}; name the file", first.display(), second.display()),
        }),
    }
}

/// Reads one file: `.jsonl` a question a line, anything else SQuAD's JSON.
///
/// A question without the key `answers` is not labelled; one whose `answers` are empty, or that `is_impossible`, has no
/// answer in its context. An answer that does not stand where the file says keeps its text and is listed in
/// [`QuestionSet::misplaced`].
///
/// # Errors
/// [`DataError`], naming file and line, if the file is something else or holds no question.
pub fn read(path: &Path) -> Result<QuestionSet, DataError> {
    let mut set = QuestionSet::default();
    if path.extension().is_some_and(|ending| ending == "jsonl") {
        let bytes = read_file(path)?;
        // Questions about one context may stand anywhere.
        let mut places: HashMap<String, usize> = HashMap::new();
        for line in lines(path, &bytes) {
            let (number, text) = line?;
            if text.trim().is_empty() {
                continue;
            }
            let row: Row = serde_json::from_str(text).map_err(|error| DataError::Row {
                path: path.to_owned(),
                line: number,
                expected: "`context`, `question` and, if labelled, `answers`".to_owned(),
                found: error.to_string(),
            })?;
            let context = *places.entry(row.context).or_insert_with_key(|context| {
                set.contexts.push(context.clone());
                set.contexts.len() - 1
            });
            let id = row.id.map_or_else(|| number.to_string(), Id::into_text);
            let asked = Asked { line: number, id, text: row.question, context };
            push(&mut set, asked, row.answers.map(Answers::into_list));
        }
    } else {
        let file = File::open(path).map_err(|source| DataError::Io { path: path.to_owned(), source })?;
        let document: Document =
            serde_json::from_reader(BufReader::new(file)).map_err(|error| match error.classify() {
                serde_json::error::Category::Io => DataError::Io { path: path.to_owned(), source: error.into() },
                _ => DataError::Row {
                    path: path.to_owned(),
                    line: error.line(),
                    expected: "SQuAD's JSON (`data`, `paragraphs`, `qas`)".to_owned(),
                    found: error.to_string(),
                },
            })?;
        for paragraph in document.data.into_iter().flat_map(|article| article.paragraphs) {
            set.contexts.push(paragraph.context);
            for qa in paragraph.qas {
                // SQuAD 2.0 keeps answers that only look right beside an impossible question, under another key.
                let answers = if qa.is_impossible == Some(true) { Some(Vec::new()) } else { qa.answers };
                let context = set.contexts.len() - 1;
                push(&mut set, Asked { line: 0, id: qa.id.into_text(), text: qa.question, context }, answers);
            }
        }
    }
    if set.questions.is_empty() {
        return Err(DataError::Empty { path: path.to_owned() });
    }
    Ok(set)
}

/// A question on its way into the set.
struct Asked {
    /// 0 in SQuAD's JSON.
    line: usize,
    id: String,
    text: String,
    context: usize,
}

fn push(set: &mut QuestionSet, asked: Asked, answers: Option<Vec<RawAnswer>>) {
    let Asked { line, id, text, context } = asked;
    let place = |answer: RawAnswer| {
        let bytes = find(&set.contexts[context], &answer);
        if bytes.is_none() {
            let found = answer.answer_start.try_into().map_or("", |start: usize| after(&set.contexts[context], start));
            set.misplaced.push(Skipped {
                line,
                reason: format!(
                    "question `{id}`: expected {} at character {}, found {}",
                    excerpt(&answer.text),
                    answer.answer_start,
                    excerpt(found)
                ),
            });
        }
        Answer { text: answer.text, bytes }
    };
    let answers = answers.map(|answers| answers.into_iter().map(place).collect());
    set.questions.push(Question { id, text, context, answers });
}

/// The bytes of `context` that hold the answer, if it stands where it should.
fn find(context: &str, answer: &RawAnswer) -> Option<Range<usize>> {
    let rest = after(context, answer.answer_start.try_into().ok()?);
    let start = context.len() - rest.len();
    (!answer.text.is_empty() && rest.starts_with(&answer.text)).then(|| start..start + answer.text.len())
}

/// What is left of `text` after this many characters.
fn after(text: &str, characters: usize) -> &str {
    text.char_indices().nth(characters).map_or("", |(byte, _)| &text[byte..])
}

#[derive(Deserialize)]
struct Document {
    data: Vec<Article>,
}

#[derive(Deserialize)]
struct Article {
    paragraphs: Vec<Paragraph>,
}

#[derive(Deserialize)]
struct Paragraph {
    context: String,
    qas: Vec<Qa>,
}

#[derive(Deserialize)]
struct Qa {
    id: Id,
    question: String,
    answers: Option<Vec<RawAnswer>>,
    is_impossible: Option<bool>,
}

#[derive(Deserialize)]
struct Row {
    id: Option<Id>,
    context: String,
    question: String,
    answers: Option<Answers>,
}

#[derive(Deserialize)]
struct RawAnswer {
    text: String,
    /// In characters (code points) of the context.
    answer_start: i64,
}

/// A list of answers, or the columns that the `datasets` package makes of one.
#[derive(Deserialize)]
#[serde(untagged, expecting = "`answers`: a list of {text, answer_start}, or lists of texts and starts of one length")]
enum Answers {
    List(Vec<RawAnswer>),
    Columns(AnswerColumns),
}

#[derive(Deserialize)]
#[serde(try_from = "RawColumns")]
struct AnswerColumns(Vec<RawAnswer>);

#[derive(Deserialize)]
struct RawColumns {
    text: Vec<String>,
    answer_start: Vec<i64>,
}

impl TryFrom<RawColumns> for AnswerColumns {
    type Error = &'static str;

    fn try_from(columns: RawColumns) -> Result<Self, Self::Error> {
        if columns.text.len() != columns.answer_start.len() {
            return Err("as many texts as starts");
        }
        let rows = columns.text.into_iter().zip(columns.answer_start);
        Ok(AnswerColumns(rows.map(|(text, answer_start)| RawAnswer { text, answer_start }).collect()))
    }
}

impl Answers {
    fn into_list(self) -> Vec<RawAnswer> {
        match self {
            Answers::List(answers) | Answers::Columns(AnswerColumns(answers)) => answers,
        }
    }
}

#[derive(Deserialize)]
#[serde(untagged, expecting = "an id: text or a number")]
enum Id {
    Text(String),
    Number(i64),
}

impl Id {
    fn into_text(self) -> String {
        match self {
            Id::Text(text) => text,
            Id::Number(number) => number.to_string(),
        }
    }
}
