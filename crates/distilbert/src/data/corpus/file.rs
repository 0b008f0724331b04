//! The token file. All numbers are little-endian; sections follow each other without gaps.
//!
//! | Bytes | Content |
//! |---|---|
//! | 8 | magic `DBTOKENS` |
//! | 4 | version, 1 |
//! | 4 | bytes of an id: 2 for vocabularies of up to 65 536 tokens, else 4 |
//! | 8 | size of the vocabulary |
//! | 8 | training sequences |
//! | 8 | held-out sequences |
//! | 8 | tokens of all sequences |
//! | 32 | SHA-256 of the vocabulary ([`Tokenizer::vocabulary_hash`]) |
//! | 32 | SHA-256 of the sections below, then of this header with zeros here |
//! | tokens x 2 or 4 | ids of all sequences end to end, shuffled, training ones first, each `[CLS] ... [SEP]` |
//! | (sequences + 1) x 8 | where each sequence begins, in tokens; last, where the last one ends |
//! | vocabulary x 8 | how often each id occurs in the training sequences, `[CLS]` and `[SEP]` included |

use std::io::{self, BufWriter, Seek, SeekFrom, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::{CorpusError, hex};
use crate::checkpoint::{Mapped, PartialFile};
use crate::tokenizer::Tokenizer;

const MAGIC: &[u8; 8] = b"DBTOKENS";
const VERSION: u32 = 1;
const HEADER_BYTES: usize = 112;
/// Where the header's own hash stands.
const CONTENT_HASH: Range<usize> = 80..112;

/// A token file, mapped into memory.
#[derive(Debug)]
pub struct Corpus {
    path: PathBuf,
    bytes: Mapped,
    header: Header,
}

/// The part of a corpus for training, or the part kept apart from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Split {
    /// To train on.
    Train,
    /// To measure on.
    HeldOut,
}

/// Sequences of one [`Split`], each `[CLS] ... [SEP]`.
#[derive(Clone, Copy, Debug)]
pub struct Sequences<'c> {
    corpus: &'c Corpus,
    first: usize,
    len: usize,
}

impl Corpus {
    /// Opens a token file and checks its layout, every sequence's place included, but not its checksum.
    ///
    /// # Errors
    /// [`CorpusError::Read`], or [`CorpusError::Malformed`] if the file is another one, cut off, or inconsistent.
    pub fn open(path: &Path) -> Result<Self, CorpusError> {
        let bytes = Mapped::open(path).map_err(|error| CorpusError::Read { path: path.to_owned(), error })?;
        let malformed = |reason| CorpusError::Malformed { path: path.to_owned(), reason };
        let header = Header::parse(&bytes).map_err(malformed)?;
        let corpus = Corpus { path: path.to_owned(), bytes, header };
        corpus.check_offsets().map_err(malformed)?;
        Ok(corpus)
    }

    fn check_offsets(&self) -> Result<(), String> {
        let mut last = 0;
        for index in 0..=self.header.sequences() {
            let offset = self.offset(index);
            if offset < last || offset > self.header.tokens || (index == 0 && offset != 0) {
                return Err(format!("sequence {index} begins at token {offset}, after one that begins at {last}"));
            }
            last = offset;
        }
        if last == self.header.tokens {
            Ok(())
        } else {
            Err(format!("sequences end at token {last} of {}", self.header.tokens))
        }
    }

    /// Reads the whole file once and compares its checksum.
    ///
    /// # Errors
    /// [`CorpusError::Malformed`] if a byte was changed since it was written.
    pub fn verify(&self) -> Result<(), CorpusError> {
        let (header, body) = self.bytes.split_at(HEADER_BYTES.min(self.bytes.len()));
        let mut unsigned = header.to_vec();
        if let Some(hash) = unsigned.get_mut(CONTENT_HASH) {
            hash.fill(0);
        }
        let found: [u8; 32] = Sha256::new().chain_update(body).chain_update(&unsigned).finalize().into();
        if found == self.header.content_hash {
            return Ok(());
        }
        let (expected, found) = (hex(&self.header.content_hash), hex(&found));
        let reason = format!("expected checksum {expected}, found {found}");
        Err(CorpusError::Malformed { path: self.path.clone(), reason })
    }

    /// Checks that the file was made with the tokenizer's vocabulary.
    ///
    /// # Errors
    /// [`CorpusError::OtherVocabulary`].
    pub fn check_vocabulary(&self, tokenizer: &Tokenizer) -> Result<(), CorpusError> {
        let (found, expected) = (self.header.vocabulary_hash, tokenizer.vocabulary_hash());
        if found == expected {
            return Ok(());
        }
        Err(CorpusError::OtherVocabulary {
            path: self.path.clone(),
            found: self.vocab_size(),
            found_hash: hex(&found[..4]),
            expected: tokenizer.vocab_size(),
            expected_hash: hex(&expected[..4]),
        })
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Size of the vocabulary; all ids are below it.
    pub fn vocab_size(&self) -> usize {
        self.header.vocab_size as usize
    }

    /// [`Tokenizer::vocabulary_hash`] of the vocabulary.
    pub fn vocabulary_hash(&self) -> [u8; 32] {
        self.header.vocabulary_hash
    }

    /// Identity of the corpus: SHA-256 of all its content, in hexadecimal digits. Equal inputs and options give an
    /// equal hash.
    pub fn content_hash(&self) -> String {
        hex(&self.header.content_hash)
    }

    /// The sequences of one part, in shuffled order.
    pub fn split(&self, split: Split) -> Sequences<'_> {
        let (train, held_out) = (self.header.train as usize, self.header.held_out as usize);
        match split {
            Split::Train => Sequences { corpus: self, first: 0, len: train },
            Split::HeldOut => Sequences { corpus: self, first: train, len: held_out },
        }
    }

    /// How often each id occurs in the training part, `[CLS]` and `[SEP]` included. `[vocab]`
    pub fn token_counts(&self) -> Vec<u64> {
        let start = self.header.counts_start();
        (0..self.vocab_size()).map(|id| read_u64(&self.bytes, start + id * 8)).collect()
    }

    /// Where sequence `index` begins, in tokens.
    fn offset(&self, index: u64) -> u64 {
        read_u64(&self.bytes, self.header.offsets_start() + index as usize * 8)
    }
}

impl Sequences<'_> {
    /// Number of sequences.
    pub fn len(&self) -> usize {
        self.len
    }

    /// True without any sequence.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Number of tokens of sequence `index`, `[CLS]` and `[SEP]` included.
    ///
    /// # Panics
    /// If `index` is not below [`Sequences::len`].
    pub fn token_len(&self, index: usize) -> usize {
        let range = self.range(index);
        (range.end - range.start) as usize
    }

    /// Ids of sequence `index`.
    ///
    /// # Panics
    /// If `index` is not below [`Sequences::len`].
    pub fn get(&self, index: usize) -> Vec<u32> {
        let mut ids = Vec::with_capacity(self.token_len(index));
        self.append_to(index, &mut ids);
        ids
    }

    /// Appends the ids of sequence `index` to `ids`.
    ///
    /// # Panics
    /// If `index` is not below [`Sequences::len`].
    pub fn append_to(&self, index: usize, ids: &mut Vec<u32>) {
        let range = self.range(index);
        let width = self.corpus.header.id_bytes as usize;
        // `open` checked that every range lies within the ids, and the ids within the file.
        let bytes = HEADER_BYTES + range.start as usize * width..HEADER_BYTES + range.end as usize * width;
        decode_ids(&self.corpus.bytes[bytes], width, ids);
    }

    /// Number of tokens of all sequences.
    pub fn total_tokens(&self) -> u64 {
        let (first, end) = (self.first as u64, (self.first + self.len) as u64);
        self.corpus.offset(end) - self.corpus.offset(first)
    }

    fn range(&self, index: usize) -> Range<u64> {
        assert!(index < self.len, "sequence {index} of {}", self.len);
        let index = (self.first + index) as u64;
        self.corpus.offset(index)..self.corpus.offset(index + 1)
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Header {
    id_bytes: u32,
    vocab_size: u64,
    train: u64,
    held_out: u64,
    tokens: u64,
    vocabulary_hash: [u8; 32],
    content_hash: [u8; 32],
}

impl Header {
    fn parse(bytes: &[u8]) -> Result<Self, String> {
        let Some(start) = bytes.get(..HEADER_BYTES) else {
            return Err(format!("expected at least {HEADER_BYTES} bytes, found {}", bytes.len()));
        };
        if !start.starts_with(MAGIC) {
            return Err("it does not begin with DBTOKENS".to_owned());
        }
        let version = read_u32(start, 8);
        if version != VERSION {
            return Err(format!("expected version {VERSION}, found {version}"));
        }
        let hash = |at: usize| std::array::from_fn(|byte| start[at + byte]);
        let header = Header {
            id_bytes: read_u32(start, 12),
            vocab_size: read_u64(start, 16),
            train: read_u64(start, 24),
            held_out: read_u64(start, 32),
            tokens: read_u64(start, 40),
            vocabulary_hash: hash(48),
            content_hash: hash(CONTENT_HASH.start),
        };
        if header.id_bytes != id_bytes(header.vocab_size) {
            let (found, vocab_size) = (header.id_bytes, header.vocab_size);
            return Err(format!("ids of {found} bytes do not fit a vocabulary of {vocab_size}"));
        }
        match header.file_bytes() {
            Some(expected) if expected == bytes.len() as u64 => Ok(header),
            Some(expected) => Err(format!("expected {expected} bytes, found {}", bytes.len())),
            None => Err("its sizes overflow".to_owned()),
        }
    }

    fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(HEADER_BYTES);
        bytes.extend_from_slice(MAGIC);
        bytes.extend_from_slice(&VERSION.to_le_bytes());
        bytes.extend_from_slice(&self.id_bytes.to_le_bytes());
        for number in [self.vocab_size, self.train, self.held_out, self.tokens] {
            bytes.extend_from_slice(&number.to_le_bytes());
        }
        bytes.extend_from_slice(&self.vocabulary_hash);
        bytes.extend_from_slice(&self.content_hash);
        bytes
    }

    fn file_bytes(&self) -> Option<u64> {
        let ids = self.tokens.checked_mul(u64::from(self.id_bytes))?;
        let offsets = self.train.checked_add(self.held_out)?.checked_add(1)?.checked_mul(8)?;
        let counts = self.vocab_size.checked_mul(8)?;
        ids.checked_add(offsets)?.checked_add(counts)?.checked_add(HEADER_BYTES as u64)
    }

    fn sequences(&self) -> u64 {
        self.train + self.held_out
    }

    fn offsets_start(&self) -> usize {
        HEADER_BYTES + self.tokens as usize * self.id_bytes as usize
    }

    fn counts_start(&self) -> usize {
        self.offsets_start() + (self.sequences() as usize + 1) * 8
    }
}

/// Bytes that an id takes in a vocabulary of this size.
pub(super) fn id_bytes(vocab_size: u64) -> u32 {
    if vocab_size <= 1 << 16 { 2 } else { 4 }
}

pub(super) fn encode_ids(ids: &[u32], width: usize, bytes: &mut Vec<u8>) {
    for id in ids {
        bytes.extend_from_slice(&id.to_le_bytes()[..width]); // ids of 2 bytes are below 65 536
    }
}

pub(super) fn decode_ids(bytes: &[u8], width: usize, ids: &mut Vec<u32>) {
    ids.extend(bytes.chunks_exact(width).map(|id| {
        let mut word = [0; 4];
        word[..width].copy_from_slice(id);
        u32::from_le_bytes(word)
    }));
}

fn read_u32(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(std::array::from_fn(|byte| bytes[at + byte]))
}

fn read_u64(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(std::array::from_fn(|byte| bytes[at + byte]))
}

/// Writes a token file sequence by sequence, training ones first, to a temporary sibling that `finish` renames.
pub(super) struct CorpusWriter {
    file: BufWriter<PartialFile>,
    body_hash: Sha256,
    header: Header,
    offsets: Vec<u64>,
    counts: Vec<u64>,
    bytes: Vec<u8>,
}

impl CorpusWriter {
    /// A file for sequences of the tokenizer's ids, of which the first `train` are for training.
    pub(super) fn create(path: &Path, tokenizer: &Tokenizer, train: u64, held_out: u64) -> io::Result<Self> {
        let vocab_size = tokenizer.vocab_size() as u64;
        let header = Header {
            id_bytes: id_bytes(vocab_size),
            vocab_size,
            train,
            held_out,
            tokens: 0,
            vocabulary_hash: tokenizer.vocabulary_hash(),
            content_hash: [0; 32],
        };
        let mut file = BufWriter::with_capacity(1 << 20, PartialFile::create(path)?);
        file.write_all(&[0; HEADER_BYTES])?; // until `finish` knows it
        let counts = vec![0; tokenizer.vocab_size()];
        let mut offsets = Vec::with_capacity((train + held_out) as usize + 1);
        offsets.push(0);
        Ok(CorpusWriter { file, body_hash: Sha256::new(), header, offsets, counts, bytes: Vec::new() })
    }

    pub(super) fn push(&mut self, ids: &[u32]) -> io::Result<()> {
        if (self.offsets.len() as u64) <= self.header.train {
            for &id in ids {
                if let Some(count) = self.counts.get_mut(id as usize) {
                    *count += 1;
                }
            }
        }
        self.header.tokens += ids.len() as u64;
        self.offsets.push(self.header.tokens);
        self.bytes.clear();
        encode_ids(ids, self.header.id_bytes as usize, &mut self.bytes);
        self.write_bytes()
    }

    /// Completes the file under its name and returns its content hash.
    pub(super) fn finish(mut self) -> io::Result<[u8; 32]> {
        for section in [std::mem::take(&mut self.offsets), std::mem::take(&mut self.counts)] {
            for part in section.chunks(1 << 12) {
                self.bytes.clear();
                self.bytes.extend(part.iter().flat_map(|number| number.to_le_bytes()));
                self.write_bytes()?;
            }
        }
        self.header.content_hash = self.body_hash.chain_update(self.header.to_bytes()).finalize().into();
        let mut file = self.file.into_inner().map_err(io::IntoInnerError::into_error)?;
        file.as_file_mut().seek(SeekFrom::Start(0))?;
        file.write_all(&self.header.to_bytes())?;
        file.finish()?;
        Ok(self.header.content_hash)
    }

    fn write_bytes(&mut self) -> io::Result<()> {
        self.body_hash.update(&self.bytes);
        self.file.write_all(&self.bytes)
    }
}
