//! Utterances with an intent and slots: what a speaker wants, and which words say the particulars.
//!
//! A split is a folder of three files whose lines belong together, as ATIS and SNIPS are published: `seq.in` (words),
//! `seq.out` (a BIO tag for each word) and `label` (the intent).

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::examples::{DataError, Skipped, Split, read_task, task_text};
use super::tagging::Sentence;
use super::tagging::entities::{bio, entities_of};

/// The name of the file of words, whose line numbers the others follow.
pub const WORDS: &str = "seq.in";
/// The name of the file of slot tags.
const TAGS: &str = "seq.out";
/// The name of the file of intents.
const INTENTS: &str = "label";

/// What a model is asked that was fine-tuned for intents and slots, as it is saved beside it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IntentTask {
    /// Always `intents-and-slots`; tells the file from those of other tasks.
    problem: Marker,
    /// Short name, for example `atis`.
    pub name: String,
    /// Names of the intents, in the order of their outputs.
    pub intents: Vec<String>,
    /// Tags of the slots, `O` and both BIO tags of every type, in the order of their outputs.
    pub slots: Vec<String>,
    /// Longest input in tokens; longer utterances are read in windows.
    pub max_length: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Marker {
    IntentsAndSlots,
}

/// Words with their slot tags in BIO, and the intent of the whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Utterance {
    /// Words and tags.
    pub sentence: Sentence,
    /// The intent.
    pub intent: String,
}

/// One split.
#[derive(Clone, Debug)]
pub struct UtteranceSet {
    /// Which part this is.
    pub split: Split,
    /// In file order; never empty.
    pub utterances: Vec<Utterance>,
    /// Lines that were left out.
    pub skipped: Vec<Skipped>,
}

impl UtteranceSet {
    /// SHA-256 of all words, tags and intents in order, in hexadecimal.
    pub fn content_hash(&self) -> String {
        let mut hash = Sha256::new();
        for Utterance { sentence, intent } in &self.utterances {
            hash.update(format!("{:?}{:?}{intent:?}\n", sentence.words, sentence.tags));
        }
        hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

impl IntentTask {
    /// The task that training data defines: its labels are those that occur.
    ///
    /// # Errors
    /// [`DataError`] if there are fewer than two intents, or no slots. `path` names the data.
    pub fn of(name: &str, data: &UtteranceSet, max_length: usize, path: &Path) -> Result<IntentTask, DataError> {
        let intents: BTreeSet<&str> = data.utterances.iter().map(|utterance| utterance.intent.as_str()).collect();
        let tags = data.utterances.iter().flat_map(|utterance| &utterance.sentence.tags);
        let kinds: BTreeSet<&str> = tags.filter_map(|tag| Some(tag.split_once('-')?.1)).collect();
        let labels = |expected: &str, found: usize| DataError::Labels {
            path: path.to_owned(),
            expected: expected.to_owned(),
            found: found.to_string(),
        };
        if intents.len() < 2 {
            return Err(labels("at least 2 different intents", intents.len()));
        }
        if kinds.is_empty() {
            return Err(labels("at least 1 type of slot", 0));
        }
        let both = kinds.iter().flat_map(|kind| [format!("B-{kind}"), format!("I-{kind}")]);
        Ok(IntentTask {
            problem: Marker::IntentsAndSlots,
            name: name.to_owned(),
            intents: intents.into_iter().map(str::to_owned).collect(),
            slots: std::iter::once("O".to_owned()).chain(both).collect(),
            max_length,
        })
    }

    /// Reads `task.json` of a model's folder; `None` if there is none, or one of another kind of task.
    ///
    /// # Errors
    /// [`DataError`] if the file cannot be read or is a broken task of this kind.
    pub fn read(folder: &Path) -> Result<Option<IntentTask>, DataError> {
        read_task(folder, Some("intents-and-slots"))
    }

    /// The text of `task.json`.
    pub fn to_json(&self) -> String {
        task_text(self)
    }
}

/// Reads one split. `path` is the folder of the three files, or the folder that holds it under the split's name.
///
/// # Errors
/// [`DataError`], naming file and line, if files are missing, have different numbers of lines, a line has another number
/// of tags than of words, or a tag is not BIO.
pub fn load(path: &Path, split: Split) -> Result<UtteranceSet, DataError> {
    let folder = folder_of(path, split)?;
    let read = |name: &str| {
        let file = folder.join(name);
        std::fs::read_to_string(&file).map_err(|source| DataError::Io { path: file, source })
    };
    let (words, tags, intents) = (read(WORDS)?, read(TAGS)?, read(INTENTS)?);
    let lines = |text: &str| text.lines().count();
    for (name, text) in [(TAGS, &tags), (INTENTS, &intents)] {
        if lines(text) != lines(&words) {
            let (expected, found) = (format!("as many lines as {WORDS}, {}", lines(&words)), lines(text).to_string());
            return Err(DataError::Labels { path: folder.join(name), expected, found });
        }
    }
    let (mut utterances, mut skipped) = (Vec::new(), Vec::new());
    for (index, ((words, tags), intent)) in words.lines().zip(tags.lines()).zip(intents.lines()).enumerate() {
        let line = index + 1;
        let split = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        let (words, tags, intent) = (split(words), split(tags), intent.trim());
        if words.len() != tags.len() {
            let (expected, found) = (format!("a tag for each of {} words", words.len()), tags.len().to_string());
            return Err(DataError::row(&folder.join(TAGS), line, expected, found));
        }
        if words.is_empty() || intent.is_empty() {
            let what = if words.is_empty() { "no words" } else { "no intent" };
            skipped.push(Skipped { line, reason: what.to_owned() });
            continue;
        }
        let is_bio = |tag: &String| tag == "O" || tag.starts_with("B-") || tag.starts_with("I-");
        if let Some(found) = tags.iter().find(|tag| !is_bio(tag)) {
            let expected = "`O`, or `B-` or `I-` with a type";
            return Err(DataError::row(&folder.join(TAGS), line, expected, format!("`{found}`")));
        }
        let tags = bio(&entities_of(&tags), tags.len());
        utterances.push(Utterance { sentence: Sentence { words, tags, line }, intent: intent.to_owned() });
    }
    if utterances.is_empty() {
        return Err(DataError::Empty { path: folder.join(WORDS) });
    }
    Ok(UtteranceSet { split, utterances, skipped })
}

/// `path` itself if it has the files, or its folder for the split, as [`load`] finds it.
///
/// # Errors
/// [`DataError`] if there is no such folder.
pub fn folder_of(path: &Path, split: Split) -> Result<PathBuf, DataError> {
    if path.join(WORDS).is_file() {
        return Ok(path.to_owned());
    }
    let names: &[&str] = match split {
        Split::Train => &["train"],
        Split::Dev | Split::DevMismatched => &["dev", "valid"],
        Split::Test | Split::TestMismatched => &["test"],
        Split::Unlabelled => &["unlabelled"],
    };
    let folder = names.iter().map(|name| path.join(name)).find(|folder| folder.join(WORDS).is_file());
    folder.ok_or_else(|| DataError::MissingFile {
        folder: path.to_owned(),
        expected: names.iter().map(|name| format!("{name}/{WORDS}")).collect(),
        split: split.name(),
    })
}

#[cfg(test)]
mod tests {
    use super::super::examples::TASK_FILE;
    use super::*;
    use std::fs;

    fn folder(words: &str, tags: &str, intents: &str) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        let train = folder.path().join("train");
        fs::create_dir(&train).unwrap();
        for (name, text) in [(WORDS, words), (TAGS, tags), (INTENTS, intents)] {
            fs::write(train.join(name), text).unwrap();
        }
        folder
    }

    #[test]
    fn words_tags_and_intents_of_a_line_belong_together() {
        let data = folder("play  jazz\n\nfly to new york \n", "O I-genre\n\nO O B-city I-city\n", "Play\nPlay\nFly\n");
        let set = load(data.path(), Split::Train).unwrap();
        assert_eq!(set.utterances.len(), 2);
        assert_eq!((set.skipped[0].line, set.skipped[0].reason.as_str()), (2, "no words"));
        // A span that begins with I- is a span all the same.
        assert_eq!(set.utterances[0].sentence.tags, ["O", "B-genre"]);
        assert_eq!((set.utterances[1].sentence.line, set.utterances[1].intent.as_str()), (3, "Fly"));
        let task = IntentTask::of("home", &set, 32, data.path()).unwrap();
        assert_eq!(task.intents, ["Fly", "Play"]);
        assert_eq!(task.slots, ["O", "B-city", "I-city", "B-genre", "I-genre"]);
        fs::write(data.path().join(TASK_FILE), task.to_json()).unwrap();
        assert_eq!(IntentTask::read(data.path()).unwrap(), Some(task));
        let direct = load(&data.path().join("train"), Split::Dev).unwrap();
        assert_eq!(direct.content_hash(), set.content_hash());
    }

    #[test]
    fn what_does_not_fit_is_refused_by_file_and_line() {
        let refusal = |words, tags, intents| {
            let data = folder(words, tags, intents);
            let error = load(data.path(), Split::Train).unwrap_err().to_string();
            error.replace(&data.path().display().to_string(), "")
        };
        assert_eq!(refusal("a b\n", "O\n", "X\n"), "/train/seq.out:1: expected a tag for each of 2 words, found 1");
        assert_eq!(
            refusal("a\nb\n", "O\nS-x\n", "X\nY\n"),
            "/train/seq.out:2: expected `O`, or `B-` or `I-` with a type, found `S-x`"
        );
        assert_eq!(refusal("a\nb\n", "O\n", "X\nY\n"), "/train/seq.out: expected as many lines as seq.in, 2, found 1");
        assert_eq!(refusal("\n", "\n", "\n"), "/train/seq.in: expected at least one row, found none");
        let empty = tempfile::tempdir().unwrap();
        let error = load(empty.path(), Split::Dev).unwrap_err().to_string();
        assert!(error.ends_with("expected a file dev/seq.in or valid/seq.in for split `dev`, found none"), "{error}");
        let one = folder("a\n", "O\n", "X\n");
        let set = load(one.path(), Split::Train).unwrap();
        let error = IntentTask::of("t", &set, 32, Path::new("d")).unwrap_err().to_string();
        assert_eq!(error, "d: expected at least 2 different intents, found 1");
    }
}
