//! Files mapped into memory: a large checkpoint costs address space, not RAM, and is read only where it is used.
//! The only `unsafe` outside the kernels.
#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::ops::{Deref, Range};
use std::path::Path;

use memmap2::Mmap;
#[cfg(unix)]
use memmap2::UncheckedAdvice;

/// A read-only file as one slice of bytes.
///
/// The file must not shrink while it is mapped: the operating system kills a process that touches a page that is gone.
/// Everything this program writes is replaced by rename, never truncated in place, so its own files stay safe to map.
#[derive(Debug)]
pub struct Mapped(Option<Mmap>);

impl Mapped {
    /// Maps the whole file; an empty file gives an empty slice.
    ///
    /// # Errors
    /// Whatever opening or mapping reports; folders and devices, which have no length to map, are refused.
    pub fn open(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        let metadata = file.metadata()?;
        if !metadata.is_file() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
        }
        if metadata.len() == 0 {
            // Mapping zero bytes is an error on most systems.
            return Ok(Self(None));
        }
        // SAFETY: the mapping is read-only and private to this value, and outlives every slice borrowed from it. The bytes
        // are only ever read as plain `u8`, for which every value is valid. That another process may change or cut the
        // file under us is the documented limit of this type.
        let map = unsafe { Mmap::map(&file)? };
        Ok(Self(Some(map)))
    }
}

impl Mapped {
    /// Gives the memory of these bytes back; they are read from the file again if they are needed again. What a process
    /// has read of a mapped file counts as its memory otherwise.
    pub fn release(&self, bytes: Range<usize>) {
        #[cfg(unix)]
        if let (Some(map), true) = (&self.0, bytes.start < bytes.end && bytes.end <= self.len()) {
            // SAFETY: the mapping is read-only and of a file, so pages that are dropped come back with the same bytes.
            let released = unsafe { map.unchecked_advise_range(UncheckedAdvice::DontNeed, bytes.start, bytes.len()) };
            // Only an advice: nothing is wrong if the system does not follow it.
            let _ = released;
        }
    }
}

impl Deref for Mapped {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.0.as_deref().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn maps_the_bytes_of_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("bytes");
        std::fs::write(&path, b"abc").unwrap();
        let mapped = Mapped::open(&path).unwrap();
        assert_eq!(&*mapped, b"abc");
        mapped.release(1..3);
        mapped.release(2..9);
        assert_eq!(&*mapped, b"abc", "what was given back is read again");
    }

    #[test]
    fn an_empty_file_is_an_empty_slice() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("empty");
        std::fs::write(&path, b"").unwrap();
        assert!(Mapped::open(&path).unwrap().is_empty());
    }

    #[test]
    fn a_folder_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(Mapped::open(folder.path()).unwrap_err().kind(), io::ErrorKind::InvalidInput);
    }
}
