//! A teacher's answers on the disk, for several students of one teacher and for runs that begin again.
//!
//! ```text
//! identity.json  answers.bin
//! ```
//!
//! Masks change in every pass over the corpus, so what is kept is what the teacher said of one micro-batch of one step. It
//! serves every run whose teacher sees the same: [`CacheIdentity`] names all that decides it, and another one is refused.
//! Answers are appended as the teacher gives them. A file that was torn, by a kill or by the power, is cut back to its
//! whole records when it is opened, and what is missing is asked again.

use super::teacher_answers::Kept;
use crate::checkpoint::write_atomic;
use crate::data::masking::MaskingConfig;
use crate::loss::vocabulary::KlPositions;
use crate::progress::Progress;
use crate::train::order::Batching;
use sha2::{Digest, Sha256};
use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufReader, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

/// All that decides what a teacher sees and what is kept of its answers.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct CacheIdentity {
    /// SHA-256 of the teacher's files.
    pub teacher: String,
    /// Precision of its products.
    pub teacher_precision: String,
    /// Instruction set of its products.
    pub instruction_set: String,
    /// SHA-256 of the corpus.
    pub corpus: String,
    /// Seed of order and masks.
    pub seed: u64,
    /// Micro-batches.
    pub batching: Batching,
    /// Micro-batches of a step.
    pub accumulation: usize,
    /// How tokens are hidden.
    pub masking: MaskingConfig,
    /// Positions of the soft targets.
    pub kl_positions: KlPositions,
    /// Temperature of what the smaller logits come to.
    pub temperature: f64,
    /// Parts that are kept.
    pub kept: Kept,
}

/// Why a cache cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CacheError {
    /// A file.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// Another process has it open.
    #[error("{}: another process is using this cache of a teacher", path.display())]
    InUse {
        /// The folder.
        path: PathBuf,
    },
    /// The folder holds something else.
    #[error("{}: no cache of a teacher: {reason}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The teacher saw something else.
    #[error("{}: the teacher's answers were kept for `{what}` {expected}, and this run has {found}; name another folder", path.display())]
    Other {
        /// The folder.
        path: PathBuf,
        /// What differs.
        what: String,
        /// Its value when the cache was made.
        expected: String,
        /// Its value now.
        found: String,
    },
}

/// One micro-batch of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct BatchKey {
    /// The step, counted from 1.
    pub step: u64,
    /// Its micro-batch, counted from 0.
    pub micro_batch: u32,
}

/// An open cache.
#[derive(Debug)]
pub struct TeacherCache {
    path: PathBuf,
    /// What it is for.
    identity: CacheIdentity,
    file: File,
    /// Where the answers to a micro-batch lie.
    places: HashMap<BatchKey, Place>,
    /// Bytes of the file.
    end: u64,
}

#[derive(Clone, Copy, Debug)]
struct Place {
    start: u64,
    bytes: usize,
}

const IDENTITY_FILE: &str = "identity.json";
const ANSWERS_FILE: &str = "answers.bin";
/// Step, micro-batch, number of bytes, the first bytes of their SHA-256 together with these numbers.
const HEADER_BYTES: usize = 8 + 4 + 4 + CHECKSUM_BYTES;
const CHECKSUM_BYTES: usize = 16;

impl TeacherCache {
    /// Opens the cache in a folder, which is made if there is none. Every record is checked; the first that is not whole
    /// and all behind it are cut off.
    ///
    /// # Errors
    /// [`CacheError`], if the folder holds a cache for something else, is in use, or cannot be written.
    pub fn open(folder: &Path, identity: CacheIdentity, progress: &dyn Progress) -> Result<TeacherCache, CacheError> {
        fs::create_dir_all(folder).map_err(io_error(folder))?;
        let path = folder.join(ANSWERS_FILE);
        let mut options = OpenOptions::new();
        let file = options.create(true).truncate(false).read(true).write(true).open(&path).map_err(io_error(&path))?;
        if file.try_lock().is_err() {
            return Err(CacheError::InUse { path: folder.to_owned() });
        }
        let identity_path = folder.join(IDENTITY_FILE);
        match fs::read_to_string(&identity_path) {
            Ok(text) => check_identity(folder, &identity_path, &text, &identity)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                if file.metadata().map_err(io_error(&path))?.len() > 0 {
                    let reason = format!("{IDENTITY_FILE} is missing");
                    return Err(CacheError::Malformed { path: folder.to_owned(), reason });
                }
                let text = serde_json::to_string_pretty(&identity).expect("an identity is plain data");
                write_atomic(&identity_path, text.as_bytes())
                    .map_err(|error| io_error(&identity_path)(io::Error::other(error)))?;
            }
            Err(error) => return Err(io_error(&identity_path)(error)),
        }
        let (places, end) = whole_records(&file, progress).map_err(io_error(&path))?;
        file.set_len(end).map_err(io_error(&path))?;
        Ok(TeacherCache { path, identity, file, places, end })
    }

    /// What it is for.
    pub fn identity(&self) -> &CacheIdentity {
        &self.identity
    }

    /// Micro-batches whose answers are there.
    pub fn len(&self) -> usize {
        self.places.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// Bytes of the answers file when it holds `micro_batches` that are `bytes` long together.
    pub fn file_bytes(micro_batches: u64, bytes: u64) -> u64 {
        micro_batches * HEADER_BYTES as u64 + bytes
    }

    /// The bytes of the answers to a micro-batch, if they are there.
    ///
    /// # Errors
    /// [`CacheError::Io`], or [`CacheError::Malformed`] if they are not `bytes` long.
    pub fn get(&mut self, key: BatchKey, bytes: usize) -> Result<Option<Vec<u8>>, CacheError> {
        let Some(place) = self.places.get(&key) else { return Ok(None) };
        if place.bytes != bytes {
            let (step, found) = (key.step, place.bytes);
            let reason = format!("expected {bytes} bytes for step {step}, found {found}");
            return Err(CacheError::Malformed { path: self.path.clone(), reason });
        }
        let mut answers = vec![0; bytes];
        self.file
            .seek(SeekFrom::Start(place.start))
            .and_then(|_| self.file.read_exact(&mut answers))
            .map_err(io_error(&self.path))?;
        Ok(Some(answers))
    }

    /// Adds the bytes of the answers to a micro-batch.
    ///
    /// # Errors
    /// [`CacheError::Io`].
    pub fn put(&mut self, key: BatchKey, answers: &[u8]) -> Result<(), CacheError> {
        let mut record = header(key, answers).to_vec();
        record.extend(answers);
        self.file
            .seek(SeekFrom::Start(self.end))
            .and_then(|_| self.file.write_all(&record))
            .map_err(io_error(&self.path))?;
        self.places.insert(key, Place { start: self.end + HEADER_BYTES as u64, bytes: answers.len() });
        self.end += record.len() as u64;
        Ok(())
    }
}

fn io_error(path: &Path) -> impl Fn(io::Error) -> CacheError {
    let path = path.to_owned();
    move |source| CacheError::Io { path: path.clone(), source }
}

fn check_identity(folder: &Path, path: &Path, text: &str, identity: &CacheIdentity) -> Result<(), CacheError> {
    let malformed = |reason: String| CacheError::Malformed { path: path.to_owned(), reason };
    // As values, so that the first difference can be named.
    let before: serde_json::Map<String, serde_json::Value> =
        serde_json::from_str(text).map_err(|error| malformed(error.to_string()))?;
    let now = serde_json::to_value(identity).expect("an identity is plain data");
    let now = now.as_object().expect("an identity is a struct");
    for (key, found) in now {
        let expected = before.get(key).ok_or_else(|| malformed(format!("`{key}` is missing")))?;
        if expected != found {
            let (expected, found) = (expected.to_string(), found.to_string());
            return Err(CacheError::Other { path: folder.to_owned(), what: key.clone(), expected, found });
        }
    }
    Ok(())
}

fn header(key: BatchKey, answers: &[u8]) -> [u8; HEADER_BYTES] {
    let mut header = [0; HEADER_BYTES];
    header[..8].copy_from_slice(&key.step.to_le_bytes());
    header[8..12].copy_from_slice(&key.micro_batch.to_le_bytes());
    header[12..16].copy_from_slice(&u32::try_from(answers.len()).unwrap_or(u32::MAX).to_le_bytes());
    let hash = Sha256::new().chain_update(&header[..16]).chain_update(answers).finalize();
    header[16..].copy_from_slice(&hash[..CHECKSUM_BYTES]);
    header
}

/// The records up to the first that is not whole, and where that one begins.
fn whole_records(file: &File, progress: &dyn Progress) -> io::Result<(HashMap<BatchKey, Place>, u64)> {
    let len = file.metadata()?.len();
    let mut reader = BufReader::with_capacity(1 << 20, file);
    let (mut places, mut end) = (HashMap::new(), 0);
    let mut answers = Vec::new();
    progress.begin("checking the teacher's cache", Some(len), "bytes");
    while end + HEADER_BYTES as u64 <= len {
        let mut start = [0; HEADER_BYTES];
        reader.read_exact(&mut start)?;
        let step = u64::from_le_bytes(start[..8].try_into().expect("8 bytes"));
        let micro_batch = u32::from_le_bytes(start[8..12].try_into().expect("4 bytes"));
        let bytes = u32::from_le_bytes(start[12..16].try_into().expect("4 bytes")) as usize;
        let begin = end + HEADER_BYTES as u64;
        if begin + bytes as u64 > len {
            break;
        }
        answers.resize(bytes, 0);
        reader.read_exact(&mut answers)?;
        let key = BatchKey { step, micro_batch };
        if header(key, &answers) != start {
            break;
        }
        places.insert(key, Place { start: begin, bytes });
        progress.advance(begin + bytes as u64 - end);
        end = begin + bytes as u64;
    }
    progress.end();
    Ok((places, end))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity() -> CacheIdentity {
        CacheIdentity {
            teacher: "aa".into(),
            teacher_precision: "f32".into(),
            instruction_set: "avx2".into(),
            corpus: "bb".into(),
            seed: 1,
            batching: Batching::Tokens { tokens: 100 },
            accumulation: 1,
            masking: MaskingConfig::default(),
            kl_positions: KlPositions::All,
            temperature: 2.0,
            kept: Kept { top_k: 2, hidden: 4 },
        }
    }

    fn key(step: u64) -> BatchKey {
        BatchKey { step, micro_batch: 0 }
    }

    fn open(folder: &Path) -> TeacherCache {
        TeacherCache::open(folder, identity(), &()).unwrap()
    }

    fn filled(folder: &Path) {
        let mut cache = open(folder);
        for step in 1..=3 {
            cache.put(key(step), &vec![step as u8; 10 * step as usize]).unwrap();
        }
        assert_eq!(cache.len(), 3);
    }

    #[test]
    fn answers_come_back_after_the_cache_is_opened_again() {
        let folder = tempfile::tempdir().unwrap();
        filled(folder.path());
        let mut cache = open(folder.path());
        assert_eq!(cache.get(key(2), 20).unwrap(), Some(vec![2; 20]));
        assert_eq!(cache.get(BatchKey { step: 2, micro_batch: 1 }, 20).unwrap(), None);
        cache.put(key(4), &[9]).unwrap();
        assert_eq!(cache.get(key(4), 1).unwrap(), Some(vec![9]));
        assert_eq!(cache.get(key(1), 10).unwrap(), Some(vec![1; 10]));
        let error = cache.get(key(1), 11).unwrap_err().to_string();
        assert!(error.ends_with("expected 11 bytes for step 1, found 10"), "{error}");
        drop(cache);
        assert_eq!(open(folder.path()).len(), 4);
    }

    #[test]
    fn a_torn_file_keeps_its_whole_records() {
        let whole = tempfile::tempdir().unwrap();
        filled(whole.path());
        let bytes = fs::read(whole.path().join(ANSWERS_FILE)).unwrap();
        assert_eq!(bytes.len() as u64, TeacherCache::file_bytes(3, 60));
        let ends = [0, HEADER_BYTES + 10, 2 * HEADER_BYTES + 30, bytes.len()];
        for len in 0..=bytes.len() {
            let folder = tempfile::tempdir().unwrap();
            drop(open(folder.path()));
            fs::write(folder.path().join(ANSWERS_FILE), &bytes[..len]).unwrap();
            let expected = ends.iter().filter(|&&end| 0 < end && end <= len).count();
            let mut cache = open(folder.path());
            assert_eq!(cache.len(), expected, "{len} bytes");
            cache.put(key(9), &[1, 2]).unwrap();
            drop(cache);
            assert_eq!(open(folder.path()).get(key(9), 2).unwrap(), Some(vec![1, 2]), "{len} bytes");
        }
    }

    #[test]
    fn an_altered_record_and_those_behind_it_are_not_used() {
        let folder = tempfile::tempdir().unwrap();
        filled(folder.path());
        let path = folder.path().join(ANSWERS_FILE);
        let mut bytes = fs::read(&path).unwrap();
        bytes[2 * HEADER_BYTES + 15] ^= 1;
        fs::write(&path, &bytes).unwrap();
        let mut cache = open(folder.path());
        assert_eq!((cache.len(), cache.get(key(1), 10).unwrap()), (1, Some(vec![1; 10])));
    }

    #[test]
    fn a_cache_for_something_else_is_refused_by_name() {
        let folder = tempfile::tempdir().unwrap();
        drop(open(folder.path()));
        let refused = |identity| TeacherCache::open(folder.path(), identity, &()).unwrap_err().to_string();
        let error = refused(CacheIdentity { temperature: 4.0, ..identity() });
        assert!(error.contains("kept for `temperature` 2.0, and this run has 4.0"), "{error}");
        for (other, what) in [
            (CacheIdentity { teacher: "cc".into(), ..identity() }, "teacher"),
            (CacheIdentity { corpus: "cc".into(), ..identity() }, "corpus"),
            (CacheIdentity { seed: 2, ..identity() }, "seed"),
            (
                CacheIdentity { masking: MaskingConfig { probability: 0.2, ..Default::default() }, ..identity() },
                "masking",
            ),
            (CacheIdentity { kept: Kept { top_k: 8, hidden: 4 }, ..identity() }, "kept"),
        ] {
            let error = refused(other);
            assert!(error.contains(&format!("`{what}`")), "{error}");
        }
        assert_eq!(open(folder.path()).identity(), &identity());
    }

    #[test]
    fn a_cache_in_use_and_a_folder_of_something_else_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let cache = open(folder.path());
        let error = TeacherCache::open(folder.path(), identity(), &()).unwrap_err().to_string();
        assert!(error.contains("another process"), "{error}");
        drop(cache);
        fs::remove_file(folder.path().join(IDENTITY_FILE)).unwrap();
        fs::write(folder.path().join(ANSWERS_FILE), "something").unwrap();
        let error = TeacherCache::open(folder.path(), identity(), &()).unwrap_err().to_string();
        assert!(error.contains("identity.json is missing"), "{error}");
        fs::write(folder.path().join(IDENTITY_FILE), "{}").unwrap();
        let error = TeacherCache::open(folder.path(), identity(), &()).unwrap_err().to_string();
        assert!(error.contains("is missing"), "{error}");
    }
}
