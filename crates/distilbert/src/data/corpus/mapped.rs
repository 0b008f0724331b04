//! A whole file as bytes.

use std::io;
use std::ops::Deref;
use std::path::Path;

/// The bytes of a file.
#[derive(Debug)]
pub(super) struct Mapped(Vec<u8>);

impl Mapped {
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        std::fs::read(path).map(Mapped)
    }
}

impl Deref for Mapped {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}
