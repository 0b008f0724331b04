//! The rows of a text file one at a time: lines, lines cut at tabs, quoted CSV. One row is in memory, with the lines it is
//! made of counted.

use csv_core::{ReadRecordResult, ReaderBuilder, Terminator};
use std::io::{self, BufRead, BufReader, Read};

/// Input read ahead.
const READ_BYTES: usize = 1 << 16;

/// Longest row; one without an end must not fill the memory.
pub const MAX_ROW_BYTES: usize = 1 << 26;

/// How a row is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RowFormat {
    /// A line is a row of one field.
    Lines,
    /// A line cut at tabs, without quoting.
    Tabs,
    /// Fields between commas, which may be quoted and then hold commas, quotes and line ends.
    Csv,
}

/// Reads rows. `\n` and `\r\n` end a line, and nothing else does; a byte order mark at the start is dropped.
pub struct Records {
    reader: BufReader<Box<dyn Read>>,
    format: RowFormat,
    csv: csv_core::Reader,
    /// Lines read.
    lines: usize,
    /// Line on which the last row begins.
    line: usize,
    blank_lines: usize,
}

/// Why a row cannot be read. The next one can, unless reading itself failed.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// The reader failed.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The row is not UTF-8.
    #[error("expected UTF-8, found another encoding at byte {byte}")]
    NotUtf8 {
        /// Place in the line, or in the field of a CSV row, from 1.
        byte: usize,
    },
    /// A quote is never closed: all later rows are part of this one.
    #[error("expected every quoted field closed, found a quote open to the end")]
    OpenQuote,
    /// The row is longer than [`MAX_ROW_BYTES`].
    #[error("expected a row of at most {MAX_ROW_BYTES} bytes, found more")]
    TooLong,
}

impl RecordError {
    /// Whether no row can follow.
    pub fn is_final(&self) -> bool {
        !matches!(self, RecordError::NotUtf8 { .. })
    }
}

impl Records {
    /// The rows of `reader`.
    pub fn new(reader: impl Read + 'static, format: RowFormat) -> Records {
        Records {
            reader: BufReader::with_capacity(READ_BYTES, Box::new(reader)),
            format,
            csv: ReaderBuilder::new().terminator(Terminator::Any(b'\n')).build(),
            lines: 0,
            line: 0,
            blank_lines: 0,
        }
    }

    /// The fields of the next row; `None` after the last.
    ///
    /// # Errors
    /// [`RecordError`]; [`Records::line`] then is the line on which the bad row begins.
    pub fn next_row(&mut self) -> Result<Option<Vec<String>>, RecordError> {
        loop {
            let mut line = Vec::new();
            if !self.read_line(&mut line)? {
                return Ok(None);
            }
            self.line = self.lines;
            match self.format {
                RowFormat::Lines => return Ok(Some(vec![utf8(&line)?.to_owned()])),
                RowFormat::Tabs => return Ok(Some(utf8(&line)?.split('\t').map(str::to_owned).collect())),
                RowFormat::Csv => match self.csv_row(line)? {
                    Some(fields) => return Ok(Some(fields)),
                    None => self.blank_lines += 1,
                },
            }
        }
    }

    /// Line on which the last row begins, from 1.
    pub fn line(&self) -> usize {
        self.line
    }

    /// Blank lines between CSV rows so far, which are no rows.
    pub fn blank_lines(&self) -> usize {
        self.blank_lines
    }

    /// Whether a line can be had without waiting for it.
    pub fn has_line_at_hand(&self) -> bool {
        self.reader.buffer().contains(&b'\n')
    }

    /// Reads the next line, without its end; false if there is none.
    fn read_line(&mut self, line: &mut Vec<u8>) -> Result<bool, RecordError> {
        line.clear();
        let read = (&mut self.reader).take(MAX_ROW_BYTES as u64).read_until(b'\n', line)?;
        if read == 0 {
            return Ok(false);
        }
        self.lines += 1;
        if read == MAX_ROW_BYTES && !line.ends_with(b"\n") {
            self.line = self.lines;
            return Err(RecordError::TooLong);
        }
        for end in [b'\n', b'\r'] {
            line.pop_if(|byte| *byte == end);
        }
        if self.lines == 1 && line.starts_with(b"\xef\xbb\xbf") {
            line.drain(..3);
        }
        Ok(true)
    }

    /// The fields of the row that begins with `line`, reading on while a quote is open; none for a blank line.
    fn csv_row(&mut self, mut line: Vec<u8>) -> Result<Option<Vec<String>>, RecordError> {
        // All fields end to end, and where each ends.
        let (mut bytes, mut ends) = (Vec::new(), Vec::new());
        let (mut bytes_len, mut ends_len) = (0, 0);
        if line.is_empty() {
            return Ok(None);
        }
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
            if bytes_len > MAX_ROW_BYTES {
                return Err(RecordError::TooLong);
            }
            if !self.read_line(&mut line)? {
                return Err(RecordError::OpenQuote);
            }
        }
    }
}

fn utf8(bytes: &[u8]) -> Result<&str, RecordError> {
    std::str::from_utf8(bytes).map_err(|error| RecordError::NotUtf8 { byte: error.valid_up_to() + 1 })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Line and fields of each row, or its line and error.
    fn rows(text: &[u8], format: RowFormat) -> Vec<(usize, Result<Vec<String>, String>)> {
        let mut records = Records::new(io::Cursor::new(text.to_vec()), format);
        let mut rows = Vec::new();
        loop {
            let next = records.next_row();
            let is_final = next.as_ref().is_err_and(RecordError::is_final);
            match next {
                Ok(None) => return rows,
                Ok(Some(fields)) => rows.push((records.line(), Ok(fields))),
                Err(error) => rows.push((records.line(), Err(error.to_string()))),
            }
            if is_final {
                return rows;
            }
        }
    }

    fn row(line: usize, fields: &[&str]) -> (usize, Result<Vec<String>, String>) {
        (line, Ok(fields.iter().map(|&field| field.to_owned()).collect()))
    }

    #[test]
    fn every_line_is_a_row_of_lines_and_tabs() {
        let text = b"\xef\xbb\xbfa,\"b\r\n\nc\td\t\n\te";
        let lines = [row(1, &["a,\"b"]), row(2, &[""]), row(3, &["c\td\t"]), row(4, &["\te"])];
        assert_eq!(rows(text, RowFormat::Lines), lines);
        let tabs = [row(1, &["a,\"b"]), row(2, &[""]), row(3, &["c", "d", ""]), row(4, &["", "e"])];
        assert_eq!(rows(text, RowFormat::Tabs), tabs);
        assert_eq!(rows(b"", RowFormat::Lines), []);
    }

    #[test]
    fn a_csv_row_begins_on_its_line_and_may_span_lines() {
        let text = b"a,b\r\n\r\n\"x\ny, \"\"z\"\"\",5\" disk\n\n,\nlast,\"\"";
        let expected =
            [row(1, &["a", "b"]), row(3, &["x\ny, \"z\"", "5\" disk"]), row(6, &["", ""]), row(7, &["last", ""])];
        assert_eq!(rows(text, RowFormat::Csv), expected);
    }

    #[test]
    fn a_bad_row_is_named_by_its_line_and_the_next_is_read() {
        let bad = |line: usize, message: &str| (line, Err(message.to_owned()));
        let encoding = "expected UTF-8, found another encoding at byte 2";
        assert_eq!(rows(b"a\nb\xff\nc\n", RowFormat::Tabs), [row(1, &["a"]), bad(2, encoding), row(3, &["c"])]);
        assert_eq!(
            rows(b"a,b\nc,d\xff\n\"e\n,f\n", RowFormat::Csv),
            [row(1, &["a", "b"]), bad(2, encoding), bad(3, &RecordError::OpenQuote.to_string())]
        );
    }
}
