//! The inputs of `predict`: texts and pairs from arguments, lines, JSON Lines, CSV and TSV, one at a time.

use anyhow::{Context, bail};
use clap::{Args, ValueEnum};
use csv_core::{ReadRecordResult, ReaderBuilder, Terminator};
use serde_json::Value;
use std::fs::File;
use std::io::{self, BufRead, BufReader, IsTerminal, Read};
use std::path::PathBuf;

/// Input read ahead.
const READ_BYTES: usize = 1 << 16;

/// Longest input; one without an end must not fill the memory.
const MAX_INPUT_BYTES: usize = 1 << 26;

/// Where inputs come from and how they are written.
#[derive(Debug, Args)]
pub struct InputArgs {
    /// The inputs [default: standard input]
    #[arg(value_name = "TEXT")]
    texts: Vec<String>,
    /// Read the inputs from this file.
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
}

/// Reads inputs one at a time.
pub struct InputReader {
    source: Source,
    format: InputFormat,
    separator: Option<String>,
    keys: Keys,
    /// The columns as the user named them.
    text_column: Option<String>,
    pair_column: Option<String>,
    has_header: bool,
    /// Places of text and pair, once the header is read.
    places: Option<Places>,
    csv: csv_core::Reader,
    /// Lines taken from the source.
    number: usize,
    /// Blank lines of a CSV file, which are no records.
    blank: usize,
}

enum Source {
    Arguments(std::vec::IntoIter<String>),
    Reader { name: Option<String>, reader: BufReader<Box<dyn Read>> },
}

#[derive(Clone, Copy)]
struct Places {
    columns: usize,
    text: usize,
    pair: Option<usize>,
}

impl InputArgs {
    /// Opens what the arguments name.
    ///
    /// # Errors
    /// If they do not fit together or the file cannot be opened.
    pub fn open(&self, keys: Keys) -> anyhow::Result<InputReader> {
        let ending = self.input.as_ref().and_then(|path| path.extension()).unwrap_or_default();
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
        let source = match &self.input {
            Some(path) => {
                let file = File::open(path).with_context(|| path.display().to_string())?;
                Source::reader(Some(path.display().to_string()), file)
            }
            None if self.texts.is_empty() => Source::reader(None, io::stdin()),
            None => Source::Arguments(self.texts.clone().into_iter()),
        };
        Ok(InputReader {
            source,
            format,
            separator: self.pair_separator.clone(),
            keys,
            text_column: self.text_column.clone(),
            pair_column: self.pair_column.clone(),
            has_header: is_table && self.text_column.is_some() && !self.no_header,
            places: None,
            csv: ReaderBuilder::new().terminator(Terminator::Any(b'\n')).build(),
            number: 0,
            blank: 0,
        })
    }
}

impl Source {
    fn reader(name: Option<String>, reader: impl Read + 'static) -> Source {
        Source::Reader { name, reader: BufReader::with_capacity(READ_BYTES, Box::new(reader)) }
    }
}

impl InputReader {
    /// The next input; `None` after the last.
    ///
    /// # Errors
    /// If it is not as expected, named by its line.
    pub fn next(&mut self) -> anyhow::Result<Option<Input>> {
        loop {
            let mut line = Vec::new();
            if !self.read_line(&mut line)? {
                return Ok(None);
            }
            let number = self.number;
            let parsed = match self.format {
                InputFormat::Csv => self.csv_record(line).map(|fields| self.table_row(fields)),
                InputFormat::Tsv => utf8(&line).map(|text| {
                    let fields = text.split('\t').map(str::to_owned).collect();
                    self.table_row(Some(fields))
                }),
                InputFormat::Jsonl => utf8(&line).map(|text| self.json(text).map(Some)),
                InputFormat::Lines => utf8(&line).map(|text| self.plain(text).map(Some)),
            };
            if let Some((text, pair)) = parsed.and_then(|row| row).with_context(|| self.name(number))? {
                return Ok(Some(Input { number, text, pair }));
            }
        }
    }

    /// What an input is called in messages: `line 3`, `FILE:3`, `text 3`.
    pub fn name(&self, number: usize) -> String {
        match &self.source {
            Source::Arguments(_) => format!("text {number}"),
            Source::Reader { name: None, .. } => format!("line {number}"),
            Source::Reader { name: Some(name), .. } => format!("{name}:{number}"),
        }
    }

    /// Whether the next input can be had without waiting for it.
    pub fn has_more_at_hand(&self) -> bool {
        match &self.source {
            Source::Arguments(texts) => texts.len() > 0,
            Source::Reader { reader, .. } => reader.buffer().contains(&b'\n'),
        }
    }

    /// Whether a person types the inputs.
    pub fn is_terminal(&self) -> bool {
        matches!(self.source, Source::Reader { name: None, .. }) && io::stdin().is_terminal()
    }

    /// Lines that were no inputs, so far.
    pub fn blank_lines(&self) -> usize {
        self.blank
    }

    /// Appends the next line without its end; false if there is none.
    fn read_line(&mut self, line: &mut Vec<u8>) -> anyhow::Result<bool> {
        let start = line.len();
        match &mut self.source {
            Source::Arguments(texts) => match texts.next() {
                Some(text) => line.extend_from_slice(text.as_bytes()),
                None => return Ok(false),
            },
            Source::Reader { name, reader } => {
                let room = MAX_INPUT_BYTES.saturating_sub(start) as u64;
                let read = reader.by_ref().take(room).read_until(b'\n', line);
                let read = read.with_context(|| name.clone().unwrap_or_else(|| "standard input".to_owned()))?;
                if read as u64 == room && !line.ends_with(b"\n") {
                    let name = self.name(self.number + 1);
                    bail!("{name}: expected an input of at most {MAX_INPUT_BYTES} bytes, found more");
                }
                if read == 0 {
                    return Ok(false);
                }
                for end in [b'\n', b'\r'] {
                    if line.len() > start && line.last() == Some(&end) {
                        line.pop();
                    }
                }
                if self.number == 0 && line.starts_with(b"\xef\xbb\xbf") {
                    line.drain(..3); // A byte order mark.
                }
            }
        }
        self.number += 1;
        Ok(true)
    }

    fn plain(&self, text: &str) -> anyhow::Result<(String, Option<String>)> {
        let Some(separator) = &self.separator else { return Ok((text.to_owned(), None)) };
        let (first, second) = text
            .split_once(separator)
            .with_context(|| format!("expected two texts with `{separator}` between them, found one"))?;
        Ok((first.trim().to_owned(), Some(second.trim().to_owned())))
    }

    fn json(&self, text: &str) -> anyhow::Result<(String, Option<String>)> {
        let key = self.text_column.as_deref().unwrap_or(self.keys.text);
        let mut object = match serde_json::from_str(text) {
            Ok(Value::String(text)) if self.text_column.is_none() => return Ok((text, None)),
            Ok(Value::Object(object)) => object,
            _ => {
                let pair = self.pair_column.as_deref().unwrap_or(self.keys.pair);
                bail!("expected a JSON string or {{\"{key}\": ..., \"{pair}\": ...}}, found something else")
            }
        };
        let first = match object.remove(key) {
            Some(Value::String(text)) => text,
            Some(_) => bail!("expected a string in `{key}`, found another kind of value"),
            None => {
                let found: Vec<&str> = object.keys().map(String::as_str).collect();
                bail!(
                    "expected a key `{key}`, found {}",
                    if found.is_empty() { "none".into() } else { found.join(", ") }
                )
            }
        };
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

    /// The fields of the record that begins with `line`, reading on while a quote is open; none for a blank line.
    fn csv_record(&mut self, mut line: Vec<u8>) -> anyhow::Result<Option<Vec<String>>> {
        let (mut bytes, mut ends) = (Vec::new(), Vec::new());
        let (mut bytes_len, mut ends_len) = (0, 0);
        loop {
            line.push(b'\n');
            let mut rest = &line[..];
            while !rest.is_empty() {
                bytes.resize(bytes_len + rest.len() + 1, 0);
                ends.resize(ends_len + rest.len() + 1, 0);
                let (result, read, written, fields) =
                    self.csv.read_record(rest, &mut bytes[bytes_len..], &mut ends[ends_len..]);
                rest = &rest[read..];
                bytes_len += written;
                ends_len += fields;
                if matches!(result, ReadRecordResult::Record) {
                    let mut start = 0;
                    let fields = ends[..ends_len].iter().map(|&end| {
                        let field = utf8(&bytes[start..end]).map(str::to_owned);
                        start = end;
                        field
                    });
                    return fields.collect::<Result<_, _>>().map(Some);
                }
            }
            if bytes_len == 0 && ends_len == 0 && line.iter().all(|byte| b"\r\n".contains(byte)) {
                self.blank += 1;
                return Ok(None);
            }
            line.clear();
            if !self.read_line(&mut line)? {
                bail!("expected every quoted field closed, found a quote open to the end");
            }
            if bytes_len + line.len() > MAX_INPUT_BYTES {
                bail!("expected an input of at most {MAX_INPUT_BYTES} bytes, found more; is a quote left open?");
            }
        }
    }

    /// Text and pair of a row of a table; none for its header.
    fn table_row(&mut self, fields: Option<Vec<String>>) -> anyhow::Result<Option<(String, Option<String>)>> {
        let Some(mut fields) = fields else { return Ok(None) };
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

fn utf8(bytes: &[u8]) -> anyhow::Result<&str> {
    match std::str::from_utf8(bytes) {
        Ok(text) => Ok(text),
        Err(error) => bail!("expected UTF-8, found another encoding at byte {}", error.valid_up_to() + 1),
    }
}
