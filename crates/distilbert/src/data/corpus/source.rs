//! Paths to files, files to lines and records, lines to texts.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use flate2::bufread::MultiGzDecoder;
use serde_json::Value;

use super::zstd::ZstdReader;
use super::{By, CorpusError, CorpusInputs, Field, InputNames, InvalidUtf8, STANDARD_INPUT};
use crate::checkpoint::is_same_file;
use crate::progress::Progress;
use crate::tokenizer::vocabulary::{VocabularyConfig, VocabularyError, WordCounts};

/// Trains a vocabulary on the texts that [`super::build`] would read from `inputs` for this output.
///
/// # Errors
/// [`CorpusError`] if a file cannot be read, standard input or the output is among them, or there is nothing to train on.
pub fn train_vocabulary(
    inputs: &CorpusInputs,
    output: &Path,
    config: &VocabularyConfig,
    progress: &dyn Progress,
) -> Result<Vec<String>, CorpusError> {
    if inputs.paths.iter().any(|path| path.as_os_str() == STANDARD_INPUT) {
        return Err(CorpusError::StandardInputTwice);
    }
    let files = find_files(inputs, output)?;
    let mut counts = WordCounts::new(config.lowercase);
    progress.begin("counting words", total_bytes(&files), "bytes");
    let read = for_each_text(inputs, &files, progress, &mut |text, _| {
        counts.add(text);
        if progress.stop_requested() { Err(CorpusError::Stopped) } else { Ok(()) }
    });
    progress.end();
    read?;
    counts.train(config, progress).map_err(|error| match error {
        VocabularyError::Stopped => CorpusError::Stopped,
        error => CorpusError::Vocabulary { inputs: InputNames(inputs.paths.clone()), error },
    })
}

/// What was read besides the texts.
#[derive(Debug, Default)]
pub(super) struct SourceCounts {
    pub(super) bytes: u64,
    pub(super) blank_lines: u64,
    pub(super) invalid_utf8_lines: u64,
    pub(super) invalid_utf8_at: Vec<String>,
}

/// A line beyond this is not text, and would break the bound on memory.
const MAX_LINE_BYTES: u64 = 64 << 20;

/// A paragraph beyond this is passed on in parts.
const MAX_PARAGRAPH_BYTES: usize = 1 << 20;

/// So many lines that are not UTF-8 are named; the others only counted.
const MAX_NAMED_LINES: usize = 20;

/// Where a tokenizer whose vocabulary was trained for a corpus is saved: `corpora/news-tokenizer` of `corpora/news.tokens`.
pub fn tokenizer_folder(output: &Path) -> PathBuf {
    let mut name = output.file_stem().unwrap_or_default().to_owned();
    name.push("-tokenizer");
    output.with_file_name(name)
}

/// All files that the inputs name, in their order; folders and patterns in the order of names. What an earlier build left
/// at `output` and in its [`tokenizer_folder`] is passed over in folders and patterns.
pub(super) fn find_files(inputs: &CorpusInputs, output: &Path) -> Result<Vec<PathBuf>, CorpusError> {
    let tokenizer = tokenizer_folder(output);
    let is_earlier = |file: &Path| {
        is_same_file(file, output) || file.parent().is_some_and(|folder| is_same_file(folder, &tokenizer))
    };
    let mut files = Vec::new();
    for path in &inputs.paths {
        if is_same_file(path, output) {
            return Err(CorpusError::OutputIsInput { path: path.clone() });
        }
        let is_named = path.as_os_str() == STANDARD_INPUT || path.is_file();
        let before = files.len();
        if is_named {
            files.push(path.clone());
        } else if path.is_dir() {
            walk(path, &mut files)?;
        } else if path.exists() {
            files.push(path.clone()); // a pipe, for example
        } else if let Some(matches) = path.to_str().and_then(|pattern| glob::glob(pattern).ok()) {
            for found in matches {
                let found =
                    found.map_err(|error| CorpusError::Read { path: error.path().to_owned(), error: error.into() })?;
                if found.is_dir() {
                    walk(&found, &mut files)?;
                } else {
                    files.push(found);
                }
            }
        }
        if !is_named {
            let of_folder = files.split_off(before);
            files.extend(of_folder.into_iter().filter(|file| !is_earlier(file)));
        }
        if files.len() == before {
            return Err(CorpusError::NoInput { path: path.clone() });
        }
    }
    Ok(files)
}

/// Links to folders are not followed: they may lead in circles.
fn walk(folder: &Path, files: &mut Vec<PathBuf>) -> Result<(), CorpusError> {
    let error = |error| CorpusError::Read { path: folder.to_owned(), error };
    let mut entries = fs::read_dir(folder).map_err(error)?.collect::<io::Result<Vec<_>>>().map_err(error)?;
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let path = entry.path();
        if entry.file_name().as_encoded_bytes().starts_with(b".") {
            continue;
        }
        if entry.file_type().map_err(error)?.is_dir() {
            walk(&path, files)?;
        } else if path.is_file() {
            files.push(path);
        }
    }
    Ok(())
}

/// Size of all files as they lie there; `None` if one has no size, such as standard input.
pub(super) fn total_bytes(files: &[PathBuf]) -> Option<u64> {
    files.iter().map(|path| fs::metadata(path).ok().filter(fs::Metadata::is_file).map(|data| data.len())).sum()
}

/// Calls `sink` with each text and the number of the document (file, record) it belongs to.
pub(super) fn for_each_text(
    inputs: &CorpusInputs,
    files: &[PathBuf],
    progress: &dyn Progress,
    sink: Sink<'_>,
) -> Result<SourceCounts, CorpusError> {
    let mut texts = Texts { by: inputs.by, paragraph: String::new(), document: 0, blank_lines: 0, sink };
    let mut counts = SourceCounts::default();
    for path in files {
        let records = Records::of(path, &inputs.field)?;
        let mut lines = Lines::open(path, progress)?;
        let mut column = None;
        while lines.advance()? {
            let line = match std::str::from_utf8(&lines.line) {
                Ok(line) => line,
                Err(error) if inputs.invalid_utf8 == InvalidUtf8::Refuse => {
                    return Err(CorpusError::InvalidUtf8 {
                        path: path.clone(),
                        line: lines.number,
                        byte: error.valid_up_to(),
                    });
                }
                Err(_) => {
                    counts.invalid_utf8_lines += 1;
                    if counts.invalid_utf8_at.len() < MAX_NAMED_LINES {
                        counts.invalid_utf8_at.push(format!("{} line {}", path.display(), lines.number));
                    }
                    continue;
                }
            };
            let wrong = |reason: String| CorpusError::Record { path: path.clone(), line: lines.number, reason };
            match records {
                Records::None => texts.line(line)?,
                Records::Json(_) if line.trim().is_empty() => texts.blank_lines += 1,
                Records::Json(key) => texts.record(&json_text(line, key).map_err(wrong)?)?,
                Records::Column(number) => texts.record(cell(line, number).map_err(wrong)?)?,
                Records::ColumnNamed(name) => match column {
                    None => column = Some(column_number(line, name).map_err(wrong)?),
                    Some(number) => texts.record(cell(line, number).map_err(wrong)?)?,
                },
            }
        }
        texts.end_document()?;
        counts.bytes += lines.reader.get_ref().get_ref().get_ref().bytes;
    }
    counts.blank_lines = texts.blank_lines;
    Ok(counts)
}

pub(super) type Sink<'a> = &'a mut dyn FnMut(&str, u64) -> Result<(), CorpusError>;

/// Puts lines together to texts.
struct Texts<'a> {
    by: By,
    paragraph: String,
    document: u64,
    blank_lines: u64,
    sink: Sink<'a>,
}

impl Texts<'_> {
    /// A cell or a JSON string; it may hold several lines.
    fn record(&mut self, text: &str) -> Result<(), CorpusError> {
        text.lines().try_for_each(|line| self.line(line))?;
        self.end_document()
    }

    fn line(&mut self, line: &str) -> Result<(), CorpusError> {
        let line = line.trim();
        if line.is_empty() {
            self.blank_lines += 1;
            return self.end_paragraph();
        }
        match self.by {
            By::Line => (self.sink)(line, self.document),
            By::Paragraph => {
                if !self.paragraph.is_empty() {
                    self.paragraph.push(' ');
                }
                self.paragraph.push_str(line);
                if self.paragraph.len() > MAX_PARAGRAPH_BYTES { self.end_paragraph() } else { Ok(()) }
            }
        }
    }

    fn end_paragraph(&mut self) -> Result<(), CorpusError> {
        if !self.paragraph.is_empty() {
            (self.sink)(&self.paragraph, self.document)?;
            self.paragraph.clear();
        }
        Ok(())
    }

    fn end_document(&mut self) -> Result<(), CorpusError> {
        self.end_paragraph()?;
        self.document += 1;
        Ok(())
    }
}

/// How the lines of one file are records.
#[derive(Clone, Copy)]
enum Records<'a> {
    None,
    Json(&'a str),
    ColumnNamed(&'a str),
    Column(usize),
}

impl<'a> Records<'a> {
    /// By the file's extension; files with an unknown one, and standard input, are what `field` says.
    fn of(path: &Path, field: &'a Field) -> Result<Self, CorpusError> {
        let stated = match field {
            Field::All => Records::None,
            Field::Json(key) => Records::Json(key),
            Field::ColumnNamed(name) => Records::ColumnNamed(name),
            Field::Column(number) => Records::Column(*number),
        };
        let needs = |option| Err(CorpusError::NeedsField { path: path.to_owned(), option });
        let inner = if compression(path).is_some() { path.with_extension("") } else { path.to_owned() };
        match (extension(&inner).as_str(), stated) {
            ("txt" | "text", _) => Ok(Records::None),
            ("jsonl" | "ndjson", stated) if !matches!(stated, Records::Json(_)) => needs("--field"),
            ("tsv", stated) if !matches!(stated, Records::Column(_) | Records::ColumnNamed(_)) => needs("--column"),
            _ => Ok(stated),
        }
    }
}

fn extension(path: &Path) -> String {
    path.extension().and_then(|extension| extension.to_str()).unwrap_or_default().to_ascii_lowercase()
}

fn json_text(line: &str, key: &str) -> Result<String, String> {
    let record: Value = serde_json::from_str(line).map_err(|error| format!("not JSON: {error}"))?;
    match record.get(key) {
        Some(Value::String(text)) => Ok(text.clone()),
        Some(other) => Err(format!("field `{key}` must be a string, found {}", kind(other))),
        None => Err(format!("no field `{key}`")),
    }
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}

/// Column `number`, from 1. GLUE's files quote nothing, so a quotation mark is text.
fn cell(line: &str, number: usize) -> Result<&str, String> {
    number
        .checked_sub(1)
        .and_then(|skip| line.split('\t').nth(skip))
        .ok_or_else(|| format!("no column {number} in a row of {}", line.split('\t').count()))
}

fn column_number(header: &str, name: &str) -> Result<usize, String> {
    let named = header.split('\t').filter(|&column| column == name).count();
    match header.split('\t').position(|column| column == name) {
        Some(_) if named > 1 => Err(format!("expected one column `{name}` in the header, found {named}")),
        Some(position) => Ok(position + 1),
        None => Err(format!("no column `{name}` in the header, found `{}`", header.replace('\t', "`, `"))),
    }
}

enum Compression {
    Gzip,
    Zstd,
}

fn compression(path: &Path) -> Option<Compression> {
    match extension(path).as_str() {
        "gz" => Some(Compression::Gzip),
        "zst" => Some(Compression::Zstd),
        _ => None,
    }
}

/// Opens a file to read its text, decompressed if its name ends in `.gz` or `.zst`.
///
/// # Errors
/// If it cannot be opened.
pub fn open_text(path: &Path) -> io::Result<impl Read + use<>> {
    Ok(Decompressed::new(path, BufReader::with_capacity(BUFFER_BYTES, File::open(path)?)))
}

/// The decompressed lines of one file.
struct Lines<'a> {
    path: &'a Path,
    reader: BufReader<Decompressed<BufReader<Counted<'a>>>>,
    /// The line read last, without its end.
    line: Vec<u8>,
    /// Its number, counted from 1.
    number: u64,
}

impl<'a> Lines<'a> {
    fn open(path: &'a Path, progress: &'a dyn Progress) -> Result<Self, CorpusError> {
        let raw: Box<dyn Read> = if path.as_os_str() == STANDARD_INPUT {
            Box::new(io::stdin().lock())
        } else {
            Box::new(File::open(path).map_err(|error| CorpusError::Read { path: path.to_owned(), error })?)
        };
        let counted = BufReader::with_capacity(BUFFER_BYTES, Counted { raw, bytes: 0, progress });
        let decompressed = Decompressed::new(path, counted);
        Ok(Lines { path, reader: BufReader::with_capacity(BUFFER_BYTES, decompressed), line: Vec::new(), number: 0 })
    }

    /// Reads the next line; false at the end.
    fn advance(&mut self) -> Result<bool, CorpusError> {
        self.line.clear();
        let read = self.reader.by_ref().take(MAX_LINE_BYTES + 1).read_until(b'\n', &mut self.line);
        read.map_err(|error| CorpusError::Read { path: self.path.to_owned(), error })?;
        if self.line.is_empty() {
            return Ok(false);
        }
        self.number += 1;
        if self.line.len() as u64 > MAX_LINE_BYTES {
            return Err(CorpusError::Record {
                path: self.path.to_owned(),
                line: self.number,
                reason: format!("longer than {} MiB, is this text?", MAX_LINE_BYTES >> 20),
            });
        }
        if self.line.last() == Some(&b'\n') {
            self.line.pop();
            if self.line.last() == Some(&b'\r') {
                self.line.pop();
            }
        }
        if self.number == 1 && self.line.starts_with(BYTE_ORDER_MARK) {
            self.line.drain(..BYTE_ORDER_MARK.len());
        }
        Ok(true)
    }
}

const BUFFER_BYTES: usize = 256 << 10;
const BYTE_ORDER_MARK: &[u8] = "\u{feff}".as_bytes();

enum Decompressed<R> {
    Plain(R),
    Gzip(MultiGzDecoder<R>),
    Zstd(Box<ZstdReader<R>>),
}

impl<R: BufRead> Decompressed<R> {
    /// By the end of the file's name.
    fn new(path: &Path, reader: R) -> Self {
        match compression(path) {
            None => Self::Plain(reader),
            Some(Compression::Gzip) => Self::Gzip(MultiGzDecoder::new(reader)),
            Some(Compression::Zstd) => Self::Zstd(Box::new(ZstdReader::new(reader))),
        }
    }

    fn get_ref(&self) -> &R {
        match self {
            Self::Plain(reader) => reader,
            Self::Gzip(reader) => reader.get_ref(),
            Self::Zstd(reader) => reader.get_ref(),
        }
    }
}

impl<R: BufRead> Read for Decompressed<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(reader) => reader.read(buffer),
            Self::Gzip(reader) => reader.read(buffer),
            Self::Zstd(reader) => reader.read(buffer),
        }
    }
}

/// Counts the bytes of the file itself, before decompression.
struct Counted<'a> {
    raw: Box<dyn Read>,
    bytes: u64,
    progress: &'a dyn Progress,
}

impl Read for Counted<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.raw.read(buffer)?;
        self.bytes += read as u64;
        self.progress.advance(read as u64);
        Ok(read)
    }
}
