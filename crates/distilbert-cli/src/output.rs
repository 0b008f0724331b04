//! Results on standard output, where a reader that has seen enough (`| head`) is no failure, and in folders, where nothing
//! is replaced by accident.

use anyhow::{Context, bail};
use distilbert::checkpoint::is_same_file;
use std::fs;
use std::io::{self, BufWriter, Write};
use std::path::Path;

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

/// Standard output for many small writes; its errors name it.
pub fn buffered() -> BufWriter<impl Write> {
    BufWriter::new(Named(io::stdout().lock()))
}

/// Names standard output in what goes wrong with it.
struct Named(io::StdoutLock<'static>);

impl Write for Named {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes).map_err(named)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush().map_err(named)
    }
}

fn named(error: io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("standard output: {error}"))
}

/// Refuses to put a model's folder in the place of one that holds anything; `may_replace` says which may go, and
/// `replaced` what they are.
///
/// # Errors
/// If there is such a folder, or a file.
pub fn check_new_folder(output: &Path, replaced: &str, may_replace: impl FnOnce(&Path) -> bool) -> anyhow::Result<()> {
    let is_free = match fs::symlink_metadata(output) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => true,
        // Writing there says best what is wrong.
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => true,
        Err(error) => return Err(error).with_context(|| output.display().to_string()),
        Ok(metadata) if metadata.is_dir() => {
            let mut entries = fs::read_dir(output).with_context(|| output.display().to_string())?;
            entries.next().is_none() || may_replace(output)
        }
        Ok(_) => false,
    };
    if !is_free {
        bail!("{}: expected a new folder{replaced}, found another", output.display());
    }
    Ok(())
}

/// Refuses a file to write that is one of those that are read.
///
/// # Errors
/// If it is one, by whatever name.
pub fn check_not_input(output: &Path, inputs: &[impl AsRef<Path>]) -> anyhow::Result<()> {
    if inputs.iter().any(|input| is_same_file(input.as_ref(), output)) {
        bail!("`{}` is an input, and would be replaced by the output: choose another output", output.display());
    }
    Ok(())
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
