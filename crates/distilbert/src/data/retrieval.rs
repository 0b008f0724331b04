//! A retrieval collection in the layout of BEIR: `corpus.jsonl`, `queries.jsonl`, and judgements as TSV.

use serde::Deserialize;
use std::collections::{BTreeMap, HashSet};
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};

/// How relevant documents are to one query, by id; above 0 is relevant.
pub type Judgements = BTreeMap<String, i64>;

/// A file that is not as BEIR lays it out.
#[derive(Debug, thiserror::Error)]
pub enum RetrievalError {
    /// A file cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// A line is not as expected.
    #[error("{}:{line}: expected {expected}, found {found}", path.display())]
    Line {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// What a good line has.
        expected: &'static str,
        /// What this one has.
        found: String,
    },
    /// Nothing to score.
    #[error("{}: expected {expected}, found none", path.display())]
    Empty {
        /// The file.
        path: PathBuf,
        /// What is missing.
        expected: &'static str,
    },
}

/// A query or a document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its id.
    pub id: String,
    /// Its text; of a document with a title the title, a space, and the text.
    pub text: String,
}

#[derive(Deserialize)]
struct RawEntry {
    #[serde(rename = "_id")]
    id: String,
    #[serde(default)]
    title: Option<String>,
    text: String,
}

/// The entries of a `corpus.jsonl` or `queries.jsonl`, one at a time; blank lines are passed over. An id that comes
/// again is refused, since a document that is found twice would count twice.
pub struct Entries {
    path: PathBuf,
    lines: std::io::Lines<BufReader<File>>,
    line: usize,
    /// The ids so far.
    ids: HashSet<String>,
}

impl Entries {
    /// Opens the file.
    ///
    /// # Errors
    /// [`RetrievalError::Read`].
    pub fn open(path: &Path) -> Result<Entries, RetrievalError> {
        let file = File::open(path).map_err(|source| RetrievalError::Read { path: path.to_owned(), source })?;
        Ok(Entries { path: path.to_owned(), lines: BufReader::new(file).lines(), line: 0, ids: HashSet::new() })
    }
}

impl Iterator for Entries {
    type Item = Result<Entry, RetrievalError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let line = self.lines.next()?;
            self.line += 1;
            let line = match line {
                Ok(line) => line,
                Err(source) => return Some(Err(RetrievalError::Read { path: self.path.clone(), source })),
            };
            if line.trim().is_empty() {
                continue;
            }
            return Some(match serde_json::from_str::<RawEntry>(&line) {
                Ok(RawEntry { id, .. }) if !self.ids.insert(id.clone()) => Err(RetrievalError::Line {
                    path: self.path.clone(),
                    line: self.line,
                    expected: "each `_id` once",
                    found: format!("`{id}` again"),
                }),
                Ok(RawEntry { id, title, text }) => {
                    let title = title.unwrap_or_default();
                    let text = format!("{title} {text}").trim().to_owned();
                    Ok(Entry { id, text })
                }
                Err(error) => Err(RetrievalError::Line {
                    path: self.path.clone(),
                    line: self.line,
                    expected: "{\"_id\": ..., \"text\": ...}",
                    found: error.to_string(),
                }),
            });
        }
    }
}

/// Reads judgements by query: `query-id<TAB>corpus-id<TAB>score` behind a header line.
///
/// # Errors
/// [`RetrievalError`] naming the line.
pub fn read_judgements(path: &Path) -> Result<BTreeMap<String, Judgements>, RetrievalError> {
    let read = |source| RetrievalError::Read { path: path.to_owned(), source };
    let mut judgements: BTreeMap<String, Judgements> = BTreeMap::new();
    for (index, line) in BufReader::new(File::open(path).map_err(read)?).lines().enumerate() {
        let line = line.map_err(read)?;
        let wrong = |expected, found: &str| {
            let found: String = found.chars().take(80).collect();
            Err(RetrievalError::Line { path: path.to_owned(), line: index + 1, expected, found: format!("`{found}`") })
        };
        if line.trim().is_empty() {
            continue;
        }
        let fields: Vec<&str> = line.split('\t').collect();
        let [query, document, score] = fields[..] else { return wrong("three tab-separated columns", &line) };
        match score.trim().parse() {
            Ok(score) => {
                judgements.entry(query.to_owned()).or_default().insert(document.to_owned(), score);
            }
            Err(_) if index == 0 => {}
            Err(_) => return wrong("a whole number in the third column", score),
        }
    }
    if judgements.is_empty() {
        return Err(RetrievalError::Empty { path: path.to_owned(), expected: "judgements" });
    }
    Ok(judgements)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(text: &str) -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        std::fs::write(&path, text).unwrap();
        (folder, path)
    }

    #[test]
    fn titles_stand_in_front_of_texts_and_blank_lines_are_passed_over() {
        let (_folder, path) =
            written("{\"_id\":\"a\",\"title\":\"T\",\"text\":\"x y\"}\n\n{\"_id\":\"b\",\"text\":\"z\"}\n");
        let entries: Vec<Entry> = Entries::open(&path).unwrap().collect::<Result<_, _>>().unwrap();
        let entry = |id: &str, text: &str| Entry { id: id.into(), text: text.into() };
        assert_eq!(entries, [entry("a", "T x y"), entry("b", "z")]);
    }

    #[test]
    fn judgements_are_read_with_and_without_their_header() {
        for header in ["query-id\tcorpus-id\tscore\n", ""] {
            let (_folder, path) = written(&format!("{header}q\td1\t2\nq\td2\t0\nr\td1\t1\n"));
            let judgements = read_judgements(&path).unwrap();
            assert_eq!((judgements.len(), judgements["q"]["d1"], judgements["r"].len()), (2, 2, 1));
        }
    }

    #[test]
    fn a_line_that_is_not_as_expected_is_named() {
        for (text, message) in [
            ("query-id\tcorpus-id\tscore\nq\td\n", "file:2: expected three tab-separated columns, found `q\td`"),
            ("q\td\t1\nq\td\tx\n", "file:2: expected a whole number in the third column, found `x`"),
            ("query-id\tcorpus-id\tscore\n", "file: expected judgements, found none"),
        ] {
            let (_folder, path) = written(text);
            let error = read_judgements(&path).unwrap_err().to_string();
            assert!(error.ends_with(message), "{error}");
        }
        let (_folder, path) = written("{\"_id\":3,\"text\":\"x\"}\n");
        let error = Entries::open(&path).unwrap().next().unwrap().unwrap_err().to_string();
        assert!(error.contains("file:1: expected {\"_id\""), "{error}");
        let entry = "{\"_id\":\"a\",\"text\":\"x\"}\n";
        let (_folder, path) = written(&format!("{entry}\n{entry}"));
        let error = Entries::open(&path).unwrap().nth(1).unwrap().unwrap_err().to_string();
        assert!(error.ends_with("file:3: expected each `_id` once, found `a` again"), "{error}");
    }
}
