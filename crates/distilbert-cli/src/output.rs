//! Results on standard output, where a reader that has seen enough (`| head`) is no failure.

use anyhow::Context;
use std::io::{self, Write};

/// Writes `text` to standard output.
///
/// # Errors
/// Any failure but that nobody reads any more.
pub fn print(text: &str) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    let written = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    unless_closed(written.map_err(Into::into)).context("standard output")
}

/// Writes a line of JSON to standard output.
///
/// # Errors
/// As [`print`].
pub fn print_json(value: &impl serde::Serialize) -> anyhow::Result<()> {
    let mut line = serde_json::to_string(value)?;
    line.push('\n');
    print(&line)
}

/// Takes "nobody reads any more" for success.
///
/// # Errors
/// Any other error of `result`.
pub fn unless_closed(result: anyhow::Result<()>) -> anyhow::Result<()> {
    match result {
        Err(error)
            if error.downcast_ref().is_some_and(|error: &io::Error| error.kind() == io::ErrorKind::BrokenPipe) =>
        {
            Ok(())
        }
        result => result,
    }
}
