//! Results on standard output, where a reader that has seen enough (`| head`) is no failure.

use std::io::{self, Write};

/// Writes `text` to standard output.
///
/// # Errors
/// Any failure but that nobody reads any more.
pub fn print(text: &str) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    unless_closed(out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(Into::into))
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
