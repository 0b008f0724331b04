//! Lines and records of a file, each with its line number. Nothing here knows what the columns mean.

use std::fs;
use std::path::Path;

use super::error::DataError;

/// A row cut into columns.
pub(super) struct Row<'a> {
    pub line: usize,
    pub fields: Vec<std::borrow::Cow<'a, str>>,
}

/// The whole file. Labelled sets are held in memory anyway, and line numbers come cheaply from one buffer.
pub(in crate::data) fn read_file(path: &Path) -> Result<Vec<u8>, DataError> {
    let mut bytes = fs::read(path).map_err(|source| DataError::io(path, source))?;
    // MRPC's training file and many spreadsheet exports begin with a byte order mark.
    if bytes.starts_with(b"\xef\xbb\xbf") {
        bytes.drain(..3);
    }
    Ok(bytes)
}

/// The lines of `bytes` with their numbers from 1, ends (`\n` or `\r\n`) removed; the empty rest after the last line
/// end is not a line. Only `\n` ends a line: GLUE texts hold other characters that Unicode counts as line ends.
pub(in crate::data) fn lines<'a>(
    path: &'a Path,
    bytes: &'a [u8],
) -> impl Iterator<Item = Result<(usize, &'a str), DataError>> + 'a {
    let whole = bytes.strip_suffix(b"\n").unwrap_or(bytes);
    let count = if bytes.is_empty() { 0 } else { usize::MAX };
    whole.split(|&byte| byte == b'\n').take(count).enumerate().map(move |(index, line)| {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        match std::str::from_utf8(line) {
            Ok(text) => Ok((index + 1, text)),
            Err(_) => Err(DataError::NotUtf8 { path: path.to_owned(), line: index + 1 }),
        }
    })
}

/// A line cut at tabs. No quoting: a double quote is an ordinary character in GLUE.
pub(super) fn tabs(line: usize, text: &str) -> Row<'_> {
    Row { line, fields: text.split('\t').map(Into::into).collect() }
}

/// The records of a quoted CSV file.
pub(super) fn csv_records(path: &Path, bytes: &[u8]) -> Result<Vec<Row<'static>>, DataError> {
    let mut reader = csv::ReaderBuilder::new().has_headers(false).flexible(true).from_reader(bytes);
    let mut rows = Vec::new();
    let mut record = csv::ByteRecord::new();
    // The reader's own line counts skip blank lines before a record, so lines are counted from byte positions.
    let (mut line, mut counted) = (1, 0);
    loop {
        let start = skip_line_ends(bytes, reader.position().byte());
        let more = reader
            .read_byte_record(&mut record)
            .map_err(|error| DataError::Io { path: path.to_owned(), source: std::io::Error::other(error) })?;
        if !more {
            return Ok(rows);
        }
        line += count_line_ends(bytes.get(counted..start).unwrap_or_default());
        counted = start;
        let end = usize::try_from(reader.position().byte()).unwrap_or(bytes.len()).min(bytes.len());
        let raw = bytes.get(start..end).unwrap_or_default();
        if quote_left_open(raw, end == bytes.len(), &record) {
            return Err(DataError::row(path, line, "every quoted field closed", "a quote open to the end of the file"));
        }
        let fields = record
            .iter()
            .map(|field| std::str::from_utf8(field).map(|text| text.to_owned().into()))
            .collect::<Result<Vec<_>, _>>()
            .map_err(|_| DataError::NotUtf8 { path: path.to_owned(), line })?;
        rows.push(Row { line, fields });
    }
}

/// The CSV reader takes a quote that is never closed as one field up to the end of the file: all later rows would
/// vanish into a text. Such a record spans lines and has an odd number of quotes.
fn quote_left_open(raw: &[u8], last: bool, record: &csv::ByteRecord) -> bool {
    last && record.iter().any(|field| field.contains(&b'\n'))
        && raw.iter().filter(|&&byte| byte == b'"').count() % 2 == 1
}

fn skip_line_ends(bytes: &[u8], position: u64) -> usize {
    let start = usize::try_from(position).unwrap_or(bytes.len()).min(bytes.len());
    let blank = bytes.iter().skip(start).take_while(|&&byte| matches!(byte, b'\n' | b'\r')).count();
    start + blank
}

fn count_line_ends(bytes: &[u8]) -> usize {
    bytes.iter().filter(|&&byte| byte == b'\n').count()
}
