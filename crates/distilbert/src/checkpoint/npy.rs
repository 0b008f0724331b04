//! NumPy's file of one matrix, written a few rows at a time.

use super::{CheckpointError, PartialFile};
use std::io::{self, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

/// Bytes in front of the numbers; NumPy wants a multiple of 64, and any number of rows must fit.
const HEADER_BYTES: usize = 128;

/// Bytes that wait to be written.
const BUFFER_BYTES: usize = 1 << 20;

/// A `.npy` file of f32 `[rows, width]` in the making; it has its name once it is finished, and is removed if it never
/// is.
pub struct NpyWriter {
    file: PartialFile,
    path: PathBuf,
    width: usize,
    rows: u64,
    buffer: Vec<u8>,
}

impl NpyWriter {
    /// Begins a file of rows of `width` numbers.
    ///
    /// # Errors
    /// [`CheckpointError::Io`].
    pub fn create(path: &Path, width: usize) -> Result<NpyWriter, CheckpointError> {
        let file = PartialFile::create(path).map_err(CheckpointError::io("write", path))?;
        // The number of rows is known at the end.
        let buffer = vec![0; HEADER_BYTES];
        Ok(NpyWriter { file, path: path.to_owned(), width, rows: 0, buffer })
    }

    /// Appends rows.
    ///
    /// # Errors
    /// [`CheckpointError::Io`].
    ///
    /// # Panics
    /// If these are not whole rows.
    pub fn push(&mut self, rows: &[f32]) -> Result<(), CheckpointError> {
        assert!(rows.len().is_multiple_of(self.width), "{} numbers are no rows of {}", rows.len(), self.width);
        self.rows += (rows.len() / self.width) as u64;
        rows.iter().for_each(|x| self.buffer.extend_from_slice(&x.to_le_bytes()));
        if self.buffer.len() < BUFFER_BYTES {
            return Ok(());
        }
        self.flush().map_err(CheckpointError::io("write", &self.path))
    }

    /// Writes what waits and gives the file its name; the number of rows.
    ///
    /// # Errors
    /// [`CheckpointError::Io`].
    pub fn finish(self) -> Result<u64, CheckpointError> {
        let (path, rows) = (self.path.clone(), self.rows);
        let end = |mut writer: NpyWriter| {
            writer.flush()?;
            let file = writer.file.as_file_mut();
            file.seek(SeekFrom::Start(0))?;
            file.write_all(&header(rows, writer.width))?;
            writer.file.finish()
        };
        end(self).map_err(CheckpointError::io("write", &path))?;
        Ok(rows)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.as_file_mut().write_all(&self.buffer)?;
        self.buffer.clear();
        Ok(())
    }
}

/// # Source
/// NumPy's `numpy.lib.format`, version 1.0.
fn header(rows: u64, width: usize) -> [u8; HEADER_BYTES] {
    let mut header = [b' '; HEADER_BYTES];
    header[..8].copy_from_slice(b"\x93NUMPY\x01\x00");
    header[8..10].copy_from_slice(&((HEADER_BYTES - 10) as u16).to_le_bytes());
    let text = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({rows}, {width}), }}");
    header[10..10 + text.len()].copy_from_slice(text.as_bytes());
    header[HEADER_BYTES - 1] = b'\n';
    header
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_is_numpys_and_absent_until_it_is_finished() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.npy");
        let mut writer = NpyWriter::create(&path, 3).unwrap();
        writer.push(&[1.0, 2.0, 3.0]).unwrap();
        writer.push(&[4.0, 5.0, 6.0]).unwrap();
        assert!(!path.exists());
        assert_eq!(writer.finish().unwrap(), 2);
        let bytes = std::fs::read(&path).unwrap();
        assert_eq!((bytes.len(), &bytes[..10]), (128 + 24, &b"\x93NUMPY\x01\x00\x76\x00"[..]));
        let text = String::from_utf8(bytes[10..128].to_vec()).unwrap();
        assert!(
            text.starts_with("{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }") && text.ends_with(" \n")
        );
        assert_eq!(bytes[148..], 6f32.to_le_bytes());
        drop(NpyWriter::create(&folder.path().join("y.npy"), 3).unwrap());
        assert_eq!(
            std::fs::read_dir(folder.path()).unwrap().count(),
            1,
            "nothing is left of a file that was not finished"
        );
    }
}
