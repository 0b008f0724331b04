//! Files and folders that are whole or absent: written under a temporary sibling name, synced to the disk, renamed.
//!
//! One writer at a time for each path: a second one takes the first one's temporary files for leftovers of a crash and
//! removes them, and the first then fails with an error.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use safetensors::tensor::{Dtype, TensorInfo};
use serde_json::Value;

use super::CheckpointError;

/// Suffix of files and folders not yet finished, behind `.NAME.` and random letters.
const PARTIAL: &str = ".partial";

/// Suffix of a folder on its way out.
const REPLACED: &str = ".replaced";

/// A tensor to write.
#[derive(Debug, Clone)]
pub struct TensorToWrite<'a> {
    /// Name in the file.
    pub name: Cow<'a, str>,
    /// Elements by dimension; their product is the number of elements.
    pub shape: Vec<usize>,
    /// The elements, row-major.
    pub data: TensorData<'a>,
}

/// Elements to write, in the type they are written in.
#[derive(Debug, Clone, Copy)]
pub enum TensorData<'a> {
    /// F32.
    F32(&'a [f32]),
    /// I64.
    I64(&'a [i64]),
    /// BF16, as bits.
    Bf16(&'a [u16]),
    /// I8.
    I8(&'a [i8]),
}

/// Writes a safetensors file with `metadata` and, as `transformers` requires, `"format": "pt"`, unless `metadata` names
/// another format.
///
/// The file depends on nothing but the arguments: tensors stand in order of their names, wider elements before narrower
/// ones so that every element is aligned.
///
/// # Errors
/// [`CheckpointError::ElementCount`], [`CheckpointError::TensorName`] or [`CheckpointError::Io`]; nothing is left behind,
/// and an older file of that name stays as it was.
pub fn write_safetensors<'a>(
    path: &Path,
    tensors: impl IntoIterator<Item = TensorToWrite<'a>>,
    metadata: &BTreeMap<String, String>,
) -> Result<(), CheckpointError> {
    let mut tensors: Vec<TensorToWrite> = tensors.into_iter().collect();
    tensors.sort_by(|a, b| b.data.element_bytes().cmp(&a.data.element_bytes()).then_with(|| a.name.cmp(&b.name)));
    let header = header(&tensors, metadata)?;
    write_through_sibling(path, |file| {
        let mut out = BufWriter::with_capacity(1 << 20, file);
        out.write_all(&(header.len() as u64).to_le_bytes())?;
        out.write_all(&header)?;
        for tensor in &tensors {
            match tensor.data {
                TensorData::F32(data) => data.iter().try_for_each(|x| out.write_all(&x.to_le_bytes()))?,
                TensorData::I64(data) => data.iter().try_for_each(|x| out.write_all(&x.to_le_bytes()))?,
                TensorData::Bf16(data) => data.iter().try_for_each(|x| out.write_all(&x.to_le_bytes()))?,
                TensorData::I8(data) => data.iter().try_for_each(|x| out.write_all(&x.to_le_bytes()))?,
            }
        }
        out.flush()
    })
}

impl TensorData<'_> {
    fn element_bytes(&self) -> usize {
        self.dtype().bitsize() / 8
    }

    fn len(&self) -> usize {
        match self {
            Self::F32(data) => data.len(),
            Self::I64(data) => data.len(),
            Self::Bf16(data) => data.len(),
            Self::I8(data) => data.len(),
        }
    }

    fn dtype(&self) -> Dtype {
        match self {
            Self::F32(_) => Dtype::F32,
            Self::I64(_) => Dtype::I64,
            Self::Bf16(_) => Dtype::BF16,
            Self::I8(_) => Dtype::I8,
        }
    }
}

/// The JSON header, padded so that the data begins at a multiple of 8.
fn header(tensors: &[TensorToWrite], metadata: &BTreeMap<String, String>) -> Result<Vec<u8>, CheckpointError> {
    let mut entries = serde_json::Map::new();
    let mut strings = serde_json::Map::from_iter([("format".to_owned(), Value::from("pt"))]);
    strings.extend(metadata.iter().map(|(key, value)| (key.clone(), Value::from(value.as_str()))));
    entries.insert("__metadata__".to_owned(), Value::Object(strings));
    let mut start = 0;
    for tensor in tensors {
        let TensorToWrite { name, shape, data } = tensor;
        let expected = shape.iter().try_fold(1usize, |count, &dim| count.checked_mul(dim)).unwrap_or(usize::MAX);
        if expected != data.len() {
            return Err(CheckpointError::ElementCount { name: name.to_string(), expected, found: data.len() });
        }
        let end = start + data.len() * data.element_bytes();
        let info = TensorInfo { dtype: data.dtype(), shape: shape.clone(), data_offsets: (start, end) };
        let info = serde_json::to_value(info).expect("a struct of numbers and a name is always JSON");
        if entries.insert(name.to_string(), info).is_some() {
            return Err(CheckpointError::TensorName { name: name.to_string(), reason: "given twice, or reserved" });
        }
        start = end;
    }
    let mut header = Value::Object(entries).to_string().into_bytes();
    header.resize(header.len().next_multiple_of(8), b' ');
    Ok(header)
}

/// Writes `bytes` to `path`, replacing an older file in one step.
///
/// # Errors
/// [`CheckpointError::Io`]; nothing is left behind, and an older file of that name stays as it was.
pub fn write_atomic(path: &Path, bytes: &[u8]) -> Result<(), CheckpointError> {
    write_through_sibling(path, |file| file.write_all(bytes))
}

/// Whether both paths lead to one file or folder, through whatever links; what is not there is the same as nothing.
pub fn is_same_file(left: &Path, right: &Path) -> bool {
    matches!((fs::canonicalize(left), fs::canonicalize(right)), (Ok(left), Ok(right)) if left == right)
}

/// Makes `link` point to the folder `target`, relative to where the link is; a link that is there is replaced at once.
///
/// # Errors
/// If it cannot be made.
pub fn link_folder(target: &Path, link: &Path) -> Result<(), CheckpointError> {
    if fs::read_link(link).is_ok_and(|current| current == target) {
        return Ok(());
    }
    let temporary = link.with_extension("partial");
    let through = || {
        match fs::remove_file(&temporary) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        symlink(target, &temporary)?;
        fs::rename(&temporary, link)
    };
    through().map_err(CheckpointError::io("link", link))
}

#[cfg(unix)]
fn symlink(target: &Path, link: &Path) -> io::Result<()> {
    std::os::unix::fs::symlink(target, link)
}

#[cfg(windows)]
fn symlink(target: &Path, link: &Path) -> io::Result<()> {
    std::os::windows::fs::symlink_dir(target, link)
}

fn write_through_sibling(path: &Path, write: impl FnOnce(&mut File) -> io::Result<()>) -> Result<(), CheckpointError> {
    let through = || {
        let mut partial = PartialFile::create(path)?;
        write(partial.as_file_mut())?;
        partial.finish()
    };
    through().map_err(CheckpointError::io("write", path))
}

/// A file that does not have its name yet: a temporary sibling, removed when it is dropped, until [`PartialFile::finish`].
pub(crate) struct PartialFile {
    // Removed before the folders that were made for it: fields are dropped in this order.
    temporary: tempfile::NamedTempFile,
    path: PathBuf,
    target: Target,
}

impl PartialFile {
    /// Makes the sibling of `path`, and the folder if it is missing; leftovers of a crash are removed.
    ///
    /// # Errors
    /// Also if `path` is there and is no file: a device or a pipe would lose its name to the new file.
    pub(crate) fn create(path: &Path) -> io::Result<PartialFile> {
        let path = &match fs::metadata(path) {
            Ok(metadata) if metadata.is_dir() => return Err(io::ErrorKind::IsADirectory.into()),
            Ok(metadata) if !metadata.is_file() => {
                return Err(io::Error::other("expected a file, found a device or pipe"));
            }
            // What a link leads to is replaced, not the link.
            Ok(_) => fs::canonicalize(path)?,
            Err(_) => path.to_owned(),
        };
        let target = Target::of(path)?;
        remove_leftovers(&target.parent, &target.name, PARTIAL)?;
        let mut builder = tempfile::Builder::new();
        #[cfg(unix)]
        {
            // Readable as the user's umask says; temporary files are private by default.
            use std::os::unix::fs::PermissionsExt;
            builder.permissions(fs::Permissions::from_mode(0o666));
        }
        let temporary = builder.prefix(&format!(".{}.", target.name)).suffix(PARTIAL).tempfile_in(&target.parent)?;
        Ok(PartialFile { temporary, path: path.to_owned(), target })
    }

    /// The file to write to.
    pub(crate) fn as_file_mut(&mut self) -> &mut File {
        self.temporary.as_file_mut()
    }

    /// Syncs the file and gives it its name, replacing an older one in one step.
    pub(crate) fn finish(self) -> io::Result<()> {
        self.temporary.as_file().sync_all()?;
        self.temporary.persist(&self.path)?;
        sync_folder(&self.target.parent)
    }
}

impl Write for PartialFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.as_file_mut().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.as_file_mut().flush()
    }
}

/// Builds a folder and puts it in the place of `path`: `build` gets the path of an empty folder and fills it.
///
/// At every moment `path` is the whole old folder or the whole new one, also after a crash. Where the file system cannot
/// exchange two folders in one step, a crash between two renames leaves the old one beside it; the next call to
/// `replace_folder` puts it back first.
///
/// # Errors
/// Whatever `build` reports, or a [`CheckpointError::Io`]; nothing is left behind, and an older folder stays as it was.
pub fn replace_folder<E: From<CheckpointError>>(
    path: &Path,
    build: impl FnOnce(&Path) -> Result<(), E>,
) -> Result<(), E> {
    let error = || CheckpointError::io("write", path);
    // Dropped after what was made in it.
    let target = Target::of(path).map_err(error())?;
    let (parent, name) = (&target.parent, &target.name);
    restore_replaced(path, parent, name).map_err(error())?;
    remove_leftovers(parent, name, PARTIAL).map_err(error())?;
    let temporary = temporary_folder(parent, name, PARTIAL).map_err(error())?;
    build(temporary.path())?;
    sync_tree(temporary.path()).map_err(error())?;
    // From here on `temporary` names, and removes when dropped, whatever is not at `path`.
    put_in_place(temporary.path(), path, parent, name).map_err(error())?;
    sync_folder(parent).map_err(error())?;
    Ok(())
}

fn put_in_place(new: &Path, path: &Path, parent: &Path, name: &str) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return fs::rename(new, path),
        Err(error) => return Err(error),
        Ok(metadata) if !metadata.is_dir() => return Err(io::ErrorKind::NotADirectory.into()),
        Ok(_) => {}
    }
    #[cfg(target_os = "linux")]
    {
        use rustix::fs::{CWD, RenameFlags, renameat_with};
        if renameat_with(CWD, new, CWD, path, RenameFlags::EXCHANGE).is_ok() {
            return Ok(());
        }
        // Not every file system can; the way below works, or reports what is really wrong.
    }
    let old = temporary_folder(parent, name, REPLACED)?;
    // An empty folder may be renamed over.
    fs::rename(path, old.path())?;
    if let Err(error) = fs::rename(new, path) {
        fs::rename(old.keep(), path)?;
        return Err(error);
    }
    Ok(())
}

/// Finishes what a crash between the two renames of [`put_in_place`] left.
fn restore_replaced(path: &Path, parent: &Path, name: &str) -> io::Result<()> {
    for old in leftovers(parent, name, REPLACED)? {
        if !path.try_exists()? && fs::read_dir(&old)?.next().is_some() {
            fs::rename(&old, path)?;
        } else {
            fs::remove_dir_all(&old)?;
        }
    }
    Ok(())
}

fn temporary_folder(parent: &Path, name: &str, suffix: &str) -> io::Result<tempfile::TempDir> {
    let mut builder = tempfile::Builder::new();
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        builder.permissions(fs::Permissions::from_mode(0o777));
    }
    builder.prefix(&format!(".{name}.")).suffix(suffix).tempdir_in(parent)
}

/// Where a file or folder goes: its folder, which is made if missing, and its name there.
struct Target {
    parent: PathBuf,
    name: String,
    /// Those that were missing; where nothing came of it they are gone again.
    _made: MadeFolders,
}

impl Target {
    fn of(path: &Path) -> io::Result<Self> {
        let name = path.file_name().and_then(|name| name.to_str()).ok_or(io::ErrorKind::InvalidFilename)?;
        let parent = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        if parent.is_file() {
            // `create_dir_all` would complain that it exists.
            return Err(io::ErrorKind::NotADirectory.into());
        }
        let made = MadeFolders::make(parent)?;
        Ok(Self { parent: parent.to_owned(), name: name.to_owned(), _made: made })
    }
}

/// Folders that had to be made, the innermost first. Those that are empty when it is dropped are removed.
pub(crate) struct MadeFolders(Vec<PathBuf>);

impl MadeFolders {
    /// Makes `path` and the folders that it is in, where they are missing.
    pub(crate) fn make(path: &Path) -> io::Result<Self> {
        let missing = path.ancestors().take_while(|folder| !folder.as_os_str().is_empty() && !folder.exists());
        let made = MadeFolders(missing.map(Path::to_owned).collect());
        fs::create_dir_all(path)?;
        Ok(made)
    }
}

impl Drop for MadeFolders {
    fn drop(&mut self) {
        for folder in &self.0 {
            // Fails where there is something in it, which is why it was made.
            let _ = fs::remove_dir(folder);
        }
    }
}

fn remove_leftovers(parent: &Path, name: &str, suffix: &str) -> io::Result<()> {
    for leftover in leftovers(parent, name, suffix)? {
        if leftover.is_dir() { fs::remove_dir_all(&leftover)? } else { fs::remove_file(&leftover)? }
    }
    Ok(())
}

/// Siblings named `.NAME.RANDOM` and `suffix`.
fn leftovers(parent: &Path, name: &str, suffix: &str) -> io::Result<Vec<PathBuf>> {
    let prefix = format!(".{name}.");
    let is_leftover = |file_name: &str| {
        let random = file_name.strip_prefix(&prefix).and_then(|rest| rest.strip_suffix(suffix));
        random.is_some_and(|random| !random.is_empty() && random.bytes().all(|byte| byte.is_ascii_alphanumeric()))
    };
    let mut found = Vec::new();
    for entry in fs::read_dir(parent)? {
        let entry = entry?;
        if entry.file_name().to_str().is_some_and(is_leftover) {
            found.push(entry.path());
        }
    }
    Ok(found)
}

/// Syncs every file and folder under `folder`, so that the rename that follows cannot reach the disk before them.
fn sync_tree(folder: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let kind = entry.file_type()?;
        if kind.is_dir() {
            sync_tree(&entry.path())?;
        } else if kind.is_file() {
            File::open(entry.path())?.sync_all()?;
        }
    }
    sync_folder(folder)
}

/// Makes renames in `folder` durable. Only Unix can open a folder.
fn sync_folder(folder: &Path) -> io::Result<()> {
    if cfg!(unix) { File::open(folder)?.sync_all() } else { Ok(()) }
}

#[cfg(test)]
mod tests;
