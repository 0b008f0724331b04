//! Results on standard output, where a reader that has seen enough (`| head`) is no failure, and numbers as people
//! read them.

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

/// Thousands apart: `66,985,530`.
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_grouped_in_thousands() {
        assert_eq!([0, 999, 1000, 66_985_530].map(grouped), ["0", "999", "1,000", "66,985,530"]);
    }
}
