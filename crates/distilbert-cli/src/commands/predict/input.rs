//! The inputs of `predict`: texts and pairs from arguments, lines, JSON Lines, CSV and TSV, one at a time.

use crate::output;
use anyhow::{Context, anyhow, bail, ensure};
use clap::{Args, ValueEnum};
use distilbert::data::corpus::{STANDARD_INPUT, open_text};
use distilbert::data::records::{Records, RowFormat};
use serde_json::Value;
use std::ffi::OsStr;
use std::io::{self, IsTerminal};
use std::path::{Path, PathBuf};

/// Where inputs come from and how they are written.
#[derive(Debug, Args)]
pub struct InputArgs {
    /// The inputs [default: standard input]
    #[arg(value_name = "TEXT")]
    texts: Vec<String>,
    /// Read the inputs from this file, which may end in .gz or .zst; `-` is standard input.
    #[arg(long, value_name = "FILE", conflicts_with = "texts")]
    input: Option<PathBuf>,
    /// How an input is written [default: as the file's name ends: .jsonl, .csv, .tsv; else lines]
    #[arg(long, value_enum)]
    input_format: Option<InputFormat>,
    /// Column of the text in CSV and TSV, its key in JSONL; a number from 1 with --no-header.
    #[arg(long, value_name = "COLUMN")]
    text_column: Option<String>,
    /// Column or key of the second text of a pair.
    #[arg(long, value_name = "COLUMN")]
    pair_column: Option<String>,
    /// CSV and TSV begin with the first input; columns are named by their numbers.
    #[arg(long)]
    no_header: bool,
    /// Each line is a pair of texts with this between them.
    #[arg(long, value_name = "TEXT")]
    pair_separator: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum InputFormat {
    /// A text a line, or a pair with --pair-separator.
    Lines,
    /// A JSON string a line, or an object; its keys are those of the Hugging Face pipelines unless named.
    Jsonl,
    /// Quoted, with the columns' names in the first line.
    Csv,
    /// Cut at tabs, without quotes. With the columns' names in the first line if --text-column is given, else one or
    /// two columns without.
    Tsv,
}

/// The keys under which a task's texts stand in a JSON object unless the user names others.
#[derive(Clone, Copy, Debug)]
pub struct Keys {
    /// Key of the text.
    pub text: &'static str,
    /// Key of the second text; it may be missing.
    pub pair: &'static str,
    /// Key of a list of texts, of a task that takes one beside or instead of a second text.
    pub candidates: Option<&'static str>,
    /// Whether a text may be a list of its words, as files of tagged words have it; they are joined by spaces.
    pub words: bool,
}

impl Keys {
    /// Those of texts and pairs.
    pub const TEXTS: Keys = Keys { text: "text", pair: "text_pair", candidates: None, words: false };

    /// The text that a JSON value is.
    fn text_of(self, value: Value) -> Option<String> {
        match value {
            Value::String(text) => Some(text),
            Value::Array(words) if self.words => {
                let words: Option<Vec<&str>> = words.iter().map(Value::as_str).collect();
                words.map(|words| words.join(" "))
            }
            _ => None,
        }
    }
}

/// One text or pair.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Input {
    /// Its line in what was read, or its place among the arguments, from 1.
    pub number: usize,
    /// The text, or the first of a pair.
    pub text: String,
    /// The second of a pair.
    pub pair: Option<String>,
    /// The list of texts of a JSON object ([`Keys::candidates`]).
    pub candidates: Vec<String>,
}

/// Reads inputs one at a time.
pub struct InputReader {
    source: Source,
    format: InputFormat,
    separator: Option<String>,
    keys: Keys,
    /// Blank lines of JSONL so far.
    blank_lines: usize,
    /// The columns as the user named them.
    text_column: Option<String>,
    pair_column: Option<String>,
    has_header: bool,
    /// Places of text and pair, once the header is read.
    places: Option<Places>,
}

enum Source {
    Arguments { texts: std::vec::IntoIter<String>, taken: usize },
    Reader { name: Option<String>, records: Box<Records> },
}

#[derive(Clone, Copy)]
struct Places {
    columns: usize,
    text: usize,
    pair: Option<usize>,
}

impl InputArgs {
    /// Refuses a file to write that is the inputs' own.
    ///
    /// # Errors
    /// If it is.
    pub fn check_output(&self, output: Option<&Path>) -> anyhow::Result<()> {
        output.map_or(Ok(()), |output| output::check_not_input(output, self.input.as_slice()))
    }

    /// Opens what the arguments name.
    ///
    /// # Errors
    /// If they do not fit together or the file cannot be opened.
    pub fn open(&self, keys: Keys) -> anyhow::Result<InputReader> {
        let is_packed = |path: &&PathBuf| matches!(path.extension().and_then(OsStr::to_str), Some("gz" | "zst"));
        let packed = self.input.as_ref().filter(is_packed).map(|path| path.with_extension(""));
        let ending = packed.as_ref().or(self.input.as_ref()).and_then(|path| path.extension()).unwrap_or_default();
        let format = self.input_format.unwrap_or(match ending.to_ascii_lowercase().to_str() {
            Some("jsonl" | "json") => InputFormat::Jsonl,
            Some("csv") => InputFormat::Csv,
            Some("tsv") => InputFormat::Tsv,
            _ => InputFormat::Lines,
        });
        let is_table = matches!(format, InputFormat::Csv | InputFormat::Tsv);
        if self.pair_separator.is_some() && format != InputFormat::Lines {
            bail!("--pair-separator goes with --input-format lines");
        }
        if self.pair_separator.as_ref().is_some_and(String::is_empty) {
            bail!("--pair-separator: expected some text, found none");
        }
        if self.text_column.is_some() && format == InputFormat::Lines {
            bail!("--text-column goes with --input-format jsonl, csv or tsv");
        }
        if self.pair_column.is_some() && self.text_column.is_none() {
            bail!("--pair-column: expected --text-column too");
        }
        if format == InputFormat::Csv && self.text_column.is_none() {
            bail!("CSV: expected --text-column, the column of the text");
        }
        if self.no_header && !(is_table && self.text_column.is_some()) {
            bail!("--no-header goes with --text-column and --input-format csv or tsv");
        }
        let rows = match format {
            InputFormat::Lines | InputFormat::Jsonl => RowFormat::Lines,
            InputFormat::Csv => RowFormat::Csv,
            InputFormat::Tsv => RowFormat::Tabs,
        };
        let file = self.input.as_deref().filter(|path| path.as_os_str() != STANDARD_INPUT);
        let source = match file {
            Some(path) => {
                let file = open_text(path).with_context(|| path.display().to_string())?;
                Source::Reader { name: Some(path.display().to_string()), records: Box::new(Records::new(file, rows)) }
            }
            None if self.texts.is_empty() => {
                Source::Reader { name: None, records: Box::new(Records::new(io::stdin(), rows)) }
            }
            None if format == InputFormat::Csv => bail!("CSV goes with --input or standard input"),
            None => Source::Arguments { texts: self.texts.clone().into_iter(), taken: 0 },
        };
        Ok(InputReader {
            source,
            format,
            separator: self.pair_separator.clone(),
            keys,
            blank_lines: 0,
            text_column: self.text_column.clone(),
            pair_column: self.pair_column.clone(),
            has_header: is_table && self.text_column.is_some() && !self.no_header,
            places: None,
        })
    }
}

impl InputReader {
    /// The next input; `None` after the last.
    ///
    /// # Errors
    /// If it is not as expected, named by its line.
    pub fn next(&mut self) -> anyhow::Result<Option<Input>> {
        loop {
            let (number, fields) = match &mut self.source {
                Source::Arguments { texts, taken } => {
                    let Some(text) = texts.next() else { return Ok(None) };
                    *taken += 1;
                    let is_table = self.format == InputFormat::Tsv;
                    let fields = if is_table { text.split('\t').map(str::to_owned).collect() } else { vec![text] };
                    (*taken, fields)
                }
                Source::Reader { records, .. } => match records.next_row() {
                    Ok(None) => return Ok(None),
                    Ok(Some(fields)) => (records.line(), fields),
                    Err(error) => {
                        let line = records.line();
                        return Err(error).with_context(|| self.name(line));
                    }
                },
            };
            if self.format == InputFormat::Jsonl
                && matches!(self.source, Source::Reader { .. })
                && fields.iter().all(|field| field.trim().is_empty())
            {
                self.blank_lines += 1;
                continue;
            }
            let mut candidates = Vec::new();
            let parsed = match (self.format, &fields[..]) {
                (InputFormat::Csv | InputFormat::Tsv, _) => self.table_row(fields),
                (InputFormat::Jsonl, [text]) => self.json(text, &mut candidates).map(Some),
                (_, fields) => self.plain(&fields.concat()).map(Some),
            };
            if let Some((text, pair)) = parsed.with_context(|| self.name(number))? {
                return Ok(Some(Input { number, text, pair, candidates }));
            }
        }
    }

    /// What an input is called in messages: `line 3`, `FILE:3`, `text 3`.
    pub fn name(&self, number: usize) -> String {
        match &self.source {
            Source::Arguments { .. } => format!("text {number}"),
            Source::Reader { name: None, .. } => format!("line {number}"),
            Source::Reader { name: Some(name), .. } => format!("{name}:{number}"),
        }
    }

    /// Whether the next input can be had without waiting for it.
    pub fn has_more_at_hand(&self) -> bool {
        match &self.source {
            Source::Arguments { texts, .. } => texts.len() > 0,
            Source::Reader { records, .. } => records.has_line_at_hand(),
        }
    }

    /// Whether a person types the inputs.
    pub fn is_terminal(&self) -> bool {
        matches!(self.source, Source::Reader { name: None, .. }) && io::stdin().is_terminal()
    }

    /// Lines that were no inputs, so far.
    pub fn blank_lines(&self) -> usize {
        match &self.source {
            Source::Arguments { .. } => 0,
            Source::Reader { records, .. } => records.blank_lines() + self.blank_lines,
        }
    }

    fn plain(&self, text: &str) -> anyhow::Result<(String, Option<String>)> {
        let Some(separator) = &self.separator else { return Ok((text.to_owned(), None)) };
        let (first, second) = text
            .split_once(separator)
            .with_context(|| format!("expected two texts with `{separator}` between them, found one"))?;
        Ok((first.trim().to_owned(), Some(second.trim().to_owned())))
    }

    fn json(&self, text: &str, candidates: &mut Vec<String>) -> anyhow::Result<(String, Option<String>)> {
        let key = self.text_column.as_deref().unwrap_or(self.keys.text);
        let pair = self.pair_column.as_deref().unwrap_or(self.keys.pair);
        let expected = format!("expected a JSON string or {{\"{key}\": ..., \"{pair}\": ...}}");
        let value = serde_json::from_str(text).map_err(|error| {
            // Its line is that of the input, which is named already.
            let error = error.to_string().replace(" at line 1 column", " at column");
            anyhow!("{expected}, found text that is not JSON: {error}")
        })?;
        let mut object = match value {
            Value::Object(object) => object,
            value => {
                if let Some(text) = self.keys.text_of(value).filter(|_| self.text_column.is_none()) {
                    return Ok((text, None));
                }
                bail!("{expected}, found another kind of value")
            }
        };
        let first = match object.remove(key) {
            Some(value) => {
                let or_words = if self.keys.words { " or a list of words" } else { "" };
                let text = self.keys.text_of(value);
                text.with_context(|| format!("expected a string{or_words} in `{key}`, found another kind of value"))?
            }
            None => {
                let found: Vec<&str> = object.keys().map(String::as_str).collect();
                bail!(
                    "expected a key `{key}`, found {}",
                    if found.is_empty() { "none".into() } else { found.join(", ") }
                )
            }
        };
        if let Some(key) = self.keys.candidates
            && let Some(value) = object.remove(key)
        {
            *candidates = serde_json::from_value(value)
                .ok()
                .with_context(|| format!("expected a list of strings in `{key}`, found something else"))?;
        }
        let key = self.pair_column.as_deref().unwrap_or(self.keys.pair);
        let second = match object.remove(key) {
            Some(Value::String(text)) => Some(text),
            // A pair that the user names must be there, or single texts would pass for pairs.
            None | Some(Value::Null) if self.pair_column.is_none() => None,
            Some(Value::Null) | None => bail!("expected a string in `{key}`, found none"),
            Some(_) => bail!("expected a string in `{key}`, found another kind of value"),
        };
        Ok((first, second))
    }

    /// Text and pair of a row of a table; none for its header.
    fn table_row(&mut self, mut fields: Vec<String>) -> anyhow::Result<Option<(String, Option<String>)>> {
        let Some(text_column) = &self.text_column else {
            return match &mut fields[..] {
                [first] => Ok(Some((std::mem::take(first), None))),
                [first, second] => Ok(Some((std::mem::take(first), Some(std::mem::take(second))))),
                _ => bail!("expected 1 or 2 tab-separated columns, found {}; name them by --text-column", fields.len()),
            };
        };
        let places = match self.places {
            Some(places) => places,
            None => {
                let place = |column: &str| {
                    let (place, found) = if self.has_header {
                        let named = fields.iter().filter(|&field| field == column).count();
                        ensure!(named <= 1, "expected one column `{column}`, found {named}");
                        (fields.iter().position(|field| field == column), fields.join(", "))
                    } else {
                        let numbers = 1..=fields.len();
                        let number = column.parse().ok().filter(|number| numbers.contains(number));
                        (number.map(|number| number - 1), format!("columns 1 to {}, no header", fields.len()))
                    };
                    place.with_context(|| format!("expected a column `{column}`, found {found}"))
                };
                let pair = self.pair_column.as_deref().map(place).transpose()?;
                let places = Places { columns: fields.len(), text: place(text_column)?, pair };
                self.places = Some(places);
                if self.has_header {
                    return Ok(None);
                }
                places
            }
        };
        if fields.len() != places.columns {
            bail!("expected {} columns as in the first line, found {}", places.columns, fields.len());
        }
        let pair = places.pair.map(|pair| fields[pair].clone());
        Ok(Some((std::mem::take(&mut fields[places.text]), pair)))
    }
}
