//! A model of the hub, file by file into the cache.
//!
//! Source: `huggingface_hub/file_download.py`. A file's ETag names its blob; for a large file it is the SHA-256 of the
//! content, and is checked.

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use serde::Deserialize;
use sha2::{Digest, Sha256};
use ureq::Body;
use ureq::http::{Response, header};

use super::cache::{ModelCache, is_commit};
use super::http::{Client, MAX_ATTEMPTS, Method, header_text};
use super::{HubConfig, HubError, files, is_plain_name};
use crate::progress::Progress;

/// An attempt that brings at least this much does not count as failed, so that a large file on a bad line gets through,
/// while the number of attempts stays bounded.
const PROGRESS_BYTES: u64 = 1 << 20;

/// Largest description of a model that is read.
const MAX_INFO_BYTES: u64 = 16 << 20;

/// Downloads what is missing of model `id` at `revision`, both checked; gives its snapshot folder.
pub(super) fn resolve(
    id: &str,
    revision: &str,
    config: &HubConfig,
    progress: &dyn Progress,
) -> Result<PathBuf, HubError> {
    let cache = ModelCache::new(&config.cache_dir, id);
    let cached = cache.complete_snapshot(revision);
    if config.offline {
        let name = format!("{id}@{revision}");
        return cached.ok_or(HubError::Offline { name, cache: config.cache_dir.clone() });
    }
    let model = Model { id, revision, config, client: Client::new(config)?, cache };
    // With a copy at hand, an unreachable hub is not worth waiting for.
    let info = match model.info(if cached.is_some() { 1 } else { MAX_ATTEMPTS }) {
        Err(error @ (HubError::Transport { .. } | HubError::Tls { .. })) => return cached.ok_or(error),
        info => info?,
    };
    let names = info.siblings.iter().map(|sibling| sibling.rfilename.as_str());
    let needed = files::needed(names).ok_or_else(|| HubError::NoModel { name: model.name(), found: "none".into() })?;
    let snapshot = model.cache.snapshot(&info.sha);
    for file in needed {
        if !snapshot.join(file).exists() {
            model.download(&info.sha, file, progress)?;
        }
    }
    model.cache.set_ref(revision, &info.sha)?;
    Ok(snapshot)
}

struct Model<'a> {
    id: &'a str,
    revision: &'a str,
    config: &'a HubConfig,
    client: Client<'a>,
    cache: ModelCache,
}

/// The hub's description of a model at one revision.
#[derive(Deserialize)]
struct Info {
    /// The commit.
    sha: String,
    /// Its files.
    siblings: Vec<Sibling>,
}

#[derive(Deserialize)]
struct Sibling {
    rfilename: String,
}

/// What the hub says of one file.
struct FileInfo {
    etag: String,
    size_bytes: u64,
    /// True if the ETag is the SHA-256 of the content; else it is Git's.
    is_sha256: bool,
}

impl Model<'_> {
    fn name(&self) -> String {
        format!("{}@{}", self.id, self.revision)
    }

    fn info(&self, attempts: u32) -> Result<Info, HubError> {
        let revision = self.revision.replace('/', "%2F");
        let url = format!("{}/api/models/{}/revision/{revision}", self.config.endpoint, self.id);
        let mut response = self.success(self.client.request(Method::Get { from_byte: 0 }, &url, attempts)?, &url)?;
        let answer = |reason: String| HubError::Answer { url: url.clone(), reason };
        let text = response.body_mut().with_config().limit(MAX_INFO_BYTES).read_to_string();
        let text = text.map_err(|error| HubError::Transport { url: url.clone(), reason: error.to_string() })?;
        let info: Info = serde_json::from_str(&text).map_err(|error| answer(error.to_string()))?;
        if !is_commit(&info.sha) {
            return Err(answer(format!("expected a commit of 40 hex digits, found `{}`", info.sha.escape_debug())));
        }
        Ok(info)
    }

    fn download(&self, commit: &str, file: &str, progress: &dyn Progress) -> Result<(), HubError> {
        let url = format!("{}/{}/resolve/{commit}/{file}", self.config.endpoint, self.id);
        let info = self.file_info(&url, commit)?;
        let blob = self.cache.blob(&info.etag);
        {
            let _lock = self.cache.lock(&info.etag)?;
            if !blob.exists() {
                progress.begin(file, Some(info.size_bytes), "B");
                let result = self.download_blob(&url, file, &info, &blob, progress);
                progress.end();
                result?;
            }
        }
        self.cache.link(commit, file, &info.etag)
    }

    fn file_info(&self, url: &str, commit: &str) -> Result<FileInfo, HubError> {
        let response = self.client.request(Method::Head, url, MAX_ATTEMPTS)?;
        // To a storage host: the file is described here, and the length is that of the redirect's own text.
        let stored_elsewhere = response.status().is_redirection();
        let response = if stored_elsewhere { response } else { self.success(response, url)? };
        let headers = response.headers();
        let answer = |reason: String| HubError::Answer { url: url.to_owned(), reason };

        if let Some(found) = header_text(headers, "x-repo-commit").filter(|found| *found != commit) {
            return Err(answer(format!("expected commit {commit}, found `{found}`")));
        }
        let length = (!stored_elsewhere).then_some(header::CONTENT_LENGTH.as_str());
        let size = header_text(headers, "x-linked-size").or_else(|| header_text(headers, length?));
        let size_bytes = size.and_then(|size| size.parse().ok());
        let size_bytes = size_bytes
            .ok_or_else(|| answer(format!("expected the file's size in `{}`", length.unwrap_or("x-linked-size"))))?;
        let etag = header_text(headers, "x-linked-etag").or_else(|| header_text(headers, header::ETAG.as_str()));
        let etag = etag.map(|etag| etag.trim_start_matches("W/").trim_matches('"'));
        // It becomes a file's name.
        let etag = etag.filter(|etag| is_plain_name(etag)).ok_or_else(|| answer("expected a plain ETag".into()))?;
        let is_sha256 = etag.len() == 64 && etag.bytes().all(|byte| byte.is_ascii_hexdigit());
        if stored_elsewhere && !is_sha256 {
            return Err(answer(format!("expected a SHA-256 in `x-linked-etag`, found `{etag}`")));
        }
        Ok(FileInfo { etag: etag.to_owned(), size_bytes, is_sha256 })
    }

    /// Fills `blob` by way of a sibling that survives interruptions.
    fn download_blob(
        &self,
        url: &str,
        file: &str,
        info: &FileInfo,
        blob: &Path,
        progress: &dyn Progress,
    ) -> Result<(), HubError> {
        let partial_path = blob.with_file_name(format!("{}.incomplete", info.etag));
        let mut partial = Partial::open(&partial_path, info.size_bytes)?;
        progress.advance(partial.length);
        let mut failed = 0;
        while partial.length < info.size_bytes {
            let before = partial.length;
            let error = match self.continue_download(url, file, &mut partial, info.size_bytes, progress) {
                Ok(()) => None,
                Err(error @ HubError::Transport { .. }) => Some(error),
                Err(error) => return Err(error),
            };
            failed = if partial.length.saturating_sub(before) >= PROGRESS_BYTES { 0 } else { failed + 1 };
            if partial.length < info.size_bytes {
                if failed >= MAX_ATTEMPTS {
                    let (expected_bytes, found_bytes) = (info.size_bytes, partial.length);
                    let incomplete = HubError::Incomplete { file: file.to_owned(), expected_bytes, found_bytes };
                    return Err(error.filter(|_| found_bytes == 0).unwrap_or(incomplete));
                }
                self.client.wait(failed.max(1));
            }
        }
        if info.is_sha256 {
            let found = partial.sha256()?;
            if !found.eq_ignore_ascii_case(&info.etag) {
                fs::remove_file(&partial_path).map_err(HubError::io("remove", &partial_path))?;
                return Err(HubError::Checksum { file: file.to_owned(), expected: info.etag.clone(), found });
            }
        }
        partial.finish(blob)
    }

    /// One attempt at the rest of a file; `Ok` also if the connection ended early.
    fn continue_download(
        &self,
        url: &str,
        file: &str,
        partial: &mut Partial,
        size_bytes: u64,
        progress: &dyn Progress,
    ) -> Result<(), HubError> {
        let response = self.client.follow(Method::Get { from_byte: partial.length }, url)?;
        let status = response.status().as_u16();
        let transport = |reason: String| HubError::Transport { url: url.to_owned(), reason };
        match status {
            206 if range_start(&response) == Some(partial.length) => {}
            // The server ignores ranges, or answers with another one.
            200 => partial.restart()?,
            206 | 416 => return partial.restart(),
            408 | 429 | 500..=599 => return Err(transport(format!("status {status}"))),
            _ => return Err(self.refusal(status, url)),
        }
        let oversized = |found_bytes| HubError::Size { file: file.to_owned(), expected_bytes: size_bytes, found_bytes };
        let declared =
            header_text(response.headers(), header::CONTENT_LENGTH.as_str()).and_then(|n| n.parse::<u64>().ok());
        if let Some(total) =
            declared.map(|rest| partial.length.saturating_add(rest)).filter(|&total| total != size_bytes)
        {
            return Err(oversized(total));
        }
        let mut body = response.into_body().into_reader();
        let mut buffer = vec![0; 256 << 10];
        loop {
            if progress.stop_requested() {
                return Err(HubError::Stopped { file: file.to_owned() });
            }
            let count = match body.read(&mut buffer) {
                Ok(0) => return Ok(()),
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(transport(error.to_string())),
            };
            let length = partial.length + count as u64;
            if length > size_bytes {
                partial.restart()?;
                return Err(oversized(length));
            }
            partial.append(&buffer[..count])?;
            progress.advance(count as u64);
        }
    }

    fn success(&self, response: Response<Body>, url: &str) -> Result<Response<Body>, HubError> {
        match response.status().as_u16() {
            200 => Ok(response),
            status => Err(self.refusal(status, url)),
        }
    }

    fn refusal(&self, status: u16, url: &str) -> HubError {
        let endpoint = self.config.endpoint.clone();
        match status {
            404 => HubError::NotFound { name: self.name(), endpoint },
            401 | 403 => HubError::Denied { name: self.name(), endpoint, status },
            _ => HubError::Status { url: url.to_owned(), status },
        }
    }
}

/// First byte of a partial answer: `Content-Range: bytes 100-199/200`.
fn range_start(response: &Response<Body>) -> Option<u64> {
    let range = header_text(response.headers(), header::CONTENT_RANGE.as_str())?;
    range.strip_prefix("bytes ")?.split_once('-')?.0.trim().parse().ok()
}

/// A file that is not whole yet.
struct Partial {
    path: PathBuf,
    file: File,
    length: u64,
}

impl Partial {
    /// Opens what an earlier attempt left, or an empty file.
    fn open(path: &Path, size_bytes: u64) -> Result<Self, HubError> {
        let open = || -> io::Result<(File, u64)> {
            fs::create_dir_all(path.parent().unwrap_or(path))?;
            let mut file = File::options().create(true).truncate(false).read(true).write(true).open(path)?;
            let length = file.seek(SeekFrom::End(0))?;
            Ok((file, length))
        };
        let (file, length) = open().map_err(HubError::io("open", path))?;
        let mut partial = Self { path: path.to_owned(), file, length };
        if length > size_bytes {
            partial.restart()?;
        }
        Ok(partial)
    }

    fn append(&mut self, bytes: &[u8]) -> Result<(), HubError> {
        self.file.write_all(bytes).map_err(HubError::io("write", &self.path))?;
        self.length += bytes.len() as u64;
        Ok(())
    }

    fn restart(&mut self) -> Result<(), HubError> {
        let restart = |file: &mut File| file.set_len(0).and_then(|()| file.rewind());
        restart(&mut self.file).map_err(HubError::io("truncate", &self.path))?;
        self.length = 0;
        Ok(())
    }

    /// In hex.
    fn sha256(&mut self) -> Result<String, HubError> {
        let mut hash = Sha256::new();
        let mut hash_file = || -> io::Result<()> {
            self.file.rewind()?;
            let mut buffer = vec![0; 256 << 10];
            loop {
                match self.file.read(&mut buffer)? {
                    0 => return Ok(()),
                    count => hash.update(&buffer[..count]),
                }
            }
        };
        hash_file().map_err(HubError::io("read", &self.path))?;
        Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
    }

    fn finish(self, blob: &Path) -> Result<(), HubError> {
        let finish = || self.file.sync_all().and_then(|()| fs::rename(&self.path, blob));
        finish().map_err(HubError::io("write", blob))
    }
}
