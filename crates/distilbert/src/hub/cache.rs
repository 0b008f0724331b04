//! The cache of hub downloads, as Python's `huggingface_hub` lays it out:
//!
//! ```text
//! models--owner--name/refs/main                  the commit that `main` was at
//! models--owner--name/blobs/ETAG                 a file's bytes; ETAG.incomplete while it is downloaded
//! models--owner--name/snapshots/COMMIT/NAME      a link to the blob
//! .locks/models--owner--name/ETAG.lock           held by whoever downloads that blob
//! ```

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use super::HubError;
use super::files::is_model_folder;
use crate::checkpoint::write_atomic;

/// The part of the cache that belongs to one model.
pub(super) struct ModelCache {
    folder: PathBuf,
    locks: PathBuf,
}

impl ModelCache {
    /// `id` must be a checked model id.
    pub fn new(cache_dir: &Path, id: &str) -> Self {
        let name = format!("models--{}", id.replace('/', "--"));
        Self { locks: cache_dir.join(".locks").join(&name), folder: cache_dir.join(name) }
    }

    /// The folder of a complete earlier download of `revision`.
    pub fn complete_snapshot(&self, revision: &str) -> Option<PathBuf> {
        let commit = if is_commit(revision) {
            revision.to_owned()
        } else {
            let commit = fs::read_to_string(self.ref_file(revision)).ok()?;
            Some(commit.trim().to_owned()).filter(|commit| is_commit(commit))?
        };
        Some(self.snapshot(&commit)).filter(|folder| is_model_folder(folder))
    }

    /// The folder of the files of one commit.
    pub fn snapshot(&self, commit: &str) -> PathBuf {
        self.folder.join("snapshots").join(commit)
    }

    /// Where the bytes with that (checked) ETag lie.
    pub fn blob(&self, etag: &str) -> PathBuf {
        self.folder.join("blobs").join(etag)
    }

    /// Waits until no other process downloads that blob; held until dropped.
    pub fn lock(&self, etag: &str) -> Result<File, HubError> {
        let path = self.locks.join(format!("{etag}.lock"));
        let lock = || -> io::Result<File> {
            fs::create_dir_all(&self.locks)?;
            let file = File::options().create(true).append(true).open(&path)?;
            file.lock()?;
            Ok(file)
        };
        lock().map_err(HubError::io("lock", &path))
    }

    /// Makes the blob appear as `name` in the snapshot of `commit`.
    pub fn link(&self, commit: &str, name: &str, etag: &str) -> Result<(), HubError> {
        let link = self.snapshot(commit).join(name);
        place(&self.blob(etag), etag, name, &link).map_err(HubError::io("write", &link))
    }

    /// Remembers which commit a branch or tag stands for.
    pub fn set_ref(&self, revision: &str, commit: &str) -> Result<(), HubError> {
        if revision == commit {
            return Ok(());
        }
        Ok(write_atomic(&self.ref_file(revision), commit.as_bytes())?)
    }

    fn ref_file(&self, revision: &str) -> PathBuf {
        self.folder.join("refs").join(revision)
    }
}

/// A full Git commit.
pub(super) fn is_commit(revision: &str) -> bool {
    revision.len() == 40 && revision.bytes().all(|byte| byte.is_ascii_hexdigit())
}

#[cfg(unix)]
fn place(_blob: &Path, etag: &str, name: &str, link: &Path) -> io::Result<()> {
    let parent = link.parent().unwrap_or(link);
    fs::create_dir_all(parent)?;
    // Relative, so that the cache can be moved: out of the folders within the name, the commit and `snapshots`.
    let up = "../".repeat(name.matches('/').count() + 2);
    let target = PathBuf::from(format!("{up}blobs/{etag}"));
    match std::os::unix::fs::symlink(&target, link) {
        // Left over from a blob that is gone, or made by another process just now.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            if fs::read_link(link).is_ok_and(|found| found == target) {
                return Ok(());
            }
            fs::remove_file(link)?;
            std::os::unix::fs::symlink(&target, link)
        }
        result => result,
    }
}

/// Without links, Python too keeps the file in the snapshot itself.
#[cfg(not(unix))]
fn place(blob: &Path, _etag: &str, _name: &str, link: &Path) -> io::Result<()> {
    fs::create_dir_all(link.parent().unwrap_or(link))?;
    fs::rename(blob, link)
}
