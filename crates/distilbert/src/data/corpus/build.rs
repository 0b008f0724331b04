//! Texts to sequences to a token file.
//!
//! Texts are read and tokenised in rounds of fixed size, in their order; sequences that pass the filters go to a
//! temporary file as they come, and from there to the token file in shuffled order.

use std::collections::HashSet;
use std::fs::File;
use std::io::{self, BufWriter, Read, Seek, SeekFrom, Write};
use std::path::Path;

use sha2::{Digest, Sha256};

use super::file::{Corpus, CorpusWriter, Split, decode_ids, encode_ids, id_bytes};
use super::source::{SourceCounts, find_files, for_each_text, total_bytes};
use super::{CorpusConfig, CorpusError, CorpusInputs, CorpusSummary, Dropped, HeldOut, InputNames, hex};
use crate::progress::Progress;
use crate::random::Rng;
use crate::tokenizer::{Tokenizer, WordEncoder};

/// Builds the token file `output` from `inputs`; the same inputs, tokenizer and configuration give the same bytes.
///
/// A text becomes `[CLS] text [SEP]`; a longer one becomes consecutive sequences, each with its own `[CLS]` and
/// `[SEP]`. The output appears whole or not at all; while building, its folder holds a second copy of the tokens.
///
/// # Errors
/// [`CorpusError`]: an input that is missing or malformed, an impossible configuration, nothing left to train on, or
/// a stop asked for by `progress`.
///
/// # Source
/// Sanh et al. 2019, `binarized_data.py` and `lm_seqs_dataset.py`, with two differences: cutting leaves no empty
/// `[CLS] [SEP]`, and duplicates are dropped.
pub fn build(
    inputs: &CorpusInputs,
    tokenizer: &Tokenizer,
    config: &CorpusConfig,
    output: &Path,
    progress: &dyn Progress,
) -> Result<CorpusSummary, CorpusError> {
    config.validate()?;
    let files = find_files(inputs, output)?;
    let write_error = |error| CorpusError::Write { path: output.to_owned(), error };

    let mut former = Former::new(tokenizer, config, output).map_err(write_error)?;
    let mut round = Round::default();
    let mut encoders: Vec<WordEncoder> = (0..config.threads.max(1)).map(|_| WordEncoder::new(tokenizer)).collect();
    progress.begin("tokenising", total_bytes(&files), "bytes");
    let read = for_each_text(inputs, &files, progress, &mut |text, document| {
        round.push(text, document);
        if round.text.len() < ROUND_BYTES {
            return Ok(());
        }
        if progress.stop_requested() {
            return Err(CorpusError::Stopped);
        }
        round.drain_into(&mut former, &mut encoders).map_err(write_error)
    });
    progress.end();
    let source = read?;
    round.drain_into(&mut former, &mut encoders).map_err(write_error)?;
    former.end_document().map_err(write_error)?;
    former.finish(inputs, files.len(), source, output, progress)
}

/// Text tokenised at once: enough to keep all threads busy for a while.
const ROUND_BYTES: usize = 4 << 20;

/// Texts waiting to be tokenised.
#[derive(Default)]
struct Round {
    text: String,
    /// End in `text`, and document, of each text.
    ends: Vec<(usize, u64)>,
}

impl Round {
    fn push(&mut self, text: &str, document: u64) {
        self.text.push_str(text);
        self.ends.push((self.text.len(), document));
    }

    /// Tokenises the texts, each encoder an equal share of the bytes on its own thread, and forms their sequences in
    /// the order of the texts.
    fn drain_into(&mut self, former: &mut Former, encoders: &mut [WordEncoder]) -> io::Result<()> {
        let share = self.text.len().div_ceil(encoders.len()).max(1);
        let encoded: Vec<Encoded> = std::thread::scope(|scope| {
            let mut rest = self.ends.as_slice();
            let mut begin = 0;
            let mut running = Vec::new();
            for (number, encoder) in (1..).zip(encoders) {
                let count = rest.partition_point(|&(end, _)| end <= share.saturating_mul(number));
                let (texts, later) = rest.split_at(count);
                rest = later;
                let start = begin;
                begin = texts.last().map_or(begin, |&(end, _)| end);
                let text = &self.text;
                running.push(scope.spawn(move || Encoded::of(text, start, texts, encoder)));
            }
            running.into_iter().map(|thread| thread.join().expect("tokenising does not panic on any text")).collect()
        });
        let mut documents = self.ends.iter().map(|&(_, document)| document);
        for part in &encoded {
            let mut start = 0;
            for (&end, document) in part.ends.iter().zip(&mut documents) {
                former.push(&part.ids[start..end], document)?; // `ends` are lengths that `ids` had
                start = end;
            }
        }
        self.text.clear();
        self.ends.clear();
        Ok(())
    }
}

/// Ids of consecutive texts, end to end.
struct Encoded {
    ids: Vec<u32>,
    ends: Vec<usize>,
}

impl Encoded {
    fn of(text: &str, mut start: usize, texts: &[(usize, u64)], encoder: &mut WordEncoder) -> Self {
        let mut encoded = Encoded { ids: Vec::new(), ends: Vec::with_capacity(texts.len()) };
        for &(end, _) in texts {
            encoder.encode_into(&text[start..end], &mut encoded.ids); // `end`s are ends of pushed texts
            encoded.ends.push(encoded.ids.len());
            start = end;
        }
        encoded
    }
}

/// Joins, cuts and filters, and keeps what passes in a temporary file.
struct Former<'a> {
    tokenizer: &'a Tokenizer,
    config: &'a CorpusConfig,
    /// Ids of the texts joined so far, without `[CLS]` and `[SEP]`, and their document.
    joined: Vec<u32>,
    document: u64,
    /// 64 bits of the SHA-256 of each kept sequence: among a billion sequences, the chance that any one is lost to a
    /// collision is 3 %.
    seen: HashSet<u64>,
    kept: BufWriter<File>,
    /// Where each kept sequence begins in `kept`, in tokens; last, where the last one ends.
    offsets: Vec<u64>,
    unknown_tokens: u64,
    texts: u64,
    cut_texts: u64,
    formed: u64,
    dropped: Dropped,
    /// The sequence at hand, as ids and as bytes.
    sequence: Vec<u32>,
    bytes: Vec<u8>,
}

impl<'a> Former<'a> {
    fn new(tokenizer: &'a Tokenizer, config: &'a CorpusConfig, output: &Path) -> io::Result<Self> {
        let folder = output.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        Ok(Former {
            tokenizer,
            config,
            joined: Vec::new(),
            document: 0,
            seen: HashSet::new(),
            kept: BufWriter::with_capacity(1 << 20, tempfile::tempfile_in(folder)?),
            offsets: vec![0],
            unknown_tokens: 0,
            texts: 0,
            cut_texts: 0,
            formed: 0,
            dropped: Dropped::default(),
            sequence: Vec::new(),
            bytes: Vec::new(),
        })
    }

    /// Takes the ids of the next text.
    fn push(&mut self, ids: &[u32], document: u64) -> io::Result<()> {
        self.texts += 1;
        let Some(join_to) = self.config.join_to else { return self.form(ids) };
        if document != self.document || self.joined.len() + ids.len() + 2 > join_to {
            self.end_document()?;
            self.document = document;
        }
        self.joined.extend_from_slice(ids);
        Ok(())
    }

    /// Forms what is left of the joined texts.
    fn end_document(&mut self) -> io::Result<()> {
        let joined = std::mem::take(&mut self.joined);
        if !joined.is_empty() {
            self.form(&joined)?;
        }
        Ok(())
    }

    fn form(&mut self, ids: &[u32]) -> io::Result<()> {
        let room = self.config.max_length - 2; // validated to be at least 1
        self.cut_texts += u64::from(ids.len() > room);
        if ids.is_empty() {
            return self.filter(ids);
        }
        ids.chunks(room).try_for_each(|piece| self.filter(piece))
    }

    fn filter(&mut self, piece: &[u32]) -> io::Result<()> {
        self.formed += 1;
        let special = self.tokenizer.special();
        self.sequence.clear();
        self.sequence.push(special.cls);
        self.sequence.extend_from_slice(piece);
        self.sequence.push(special.sep);
        let len = self.sequence.len();
        let unknown = self.sequence.iter().filter(|&&id| id == special.unk).count();
        if len < self.config.min_length {
            self.dropped.short += 1;
            return Ok(());
        }
        if unknown as f64 >= self.config.max_unknown_share * len as f64 {
            self.dropped.unknown += 1;
            return Ok(());
        }
        self.bytes.clear();
        encode_ids(&self.sequence, self.id_bytes(), &mut self.bytes);
        let hash = Sha256::digest(&self.bytes);
        let hash = u64::from_le_bytes(std::array::from_fn(|byte| hash[byte]));
        if !self.seen.insert(hash) {
            self.dropped.duplicate += 1;
            return Ok(());
        }
        self.unknown_tokens += unknown as u64;
        let begin = self.offsets.last().copied().unwrap_or(0);
        self.offsets.push(begin + len as u64);
        self.kept.write_all(&self.bytes)
    }

    fn id_bytes(&self) -> usize {
        id_bytes(self.tokenizer.vocab_size() as u64) as usize
    }

    /// Writes the kept sequences in shuffled order.
    fn finish(
        self,
        inputs: &CorpusInputs,
        files: usize,
        source: SourceCounts,
        output: &Path,
        progress: &dyn Progress,
    ) -> Result<CorpusSummary, CorpusError> {
        let kept = self.offsets.len() as u64 - 1;
        let held_out = match self.config.held_out {
            HeldOut::Share(share) => (share * kept as f64).round() as u64,
            HeldOut::Sequences(count) => count as u64,
        };
        let id_bytes = self.id_bytes();
        if kept <= held_out {
            let Former { texts, formed, dropped, .. } = self;
            let inputs = InputNames(inputs.paths.clone());
            return Err(CorpusError::Empty { inputs, texts, formed, dropped, held_out });
        }
        drop(self.seen); // before the order takes memory
        let mut order: Vec<u64> = (0..kept).collect();
        Rng::from_key(&[self.config.seed, SHUFFLE]).shuffle(&mut order);

        let tokens = self.offsets.last().copied().unwrap_or(0);
        progress.begin("writing in shuffled order", Some(kept), "sequences");
        let write = || {
            let mut source = self.kept.into_inner().map_err(io::IntoInnerError::into_error)?;
            let mut writer = CorpusWriter::create(output, self.tokenizer, kept - held_out, held_out)?;
            let (mut bytes, mut ids) = (Vec::new(), Vec::new());
            for group in order.chunks(SEQUENCES_A_STEP) {
                if progress.stop_requested() {
                    return Ok(None);
                }
                for &sequence in group {
                    let sequence = sequence as usize;
                    let (begin, end) = (self.offsets[sequence], self.offsets[sequence + 1]); // one offset more than sequences
                    bytes.resize((end - begin) as usize * id_bytes, 0);
                    source.seek(SeekFrom::Start(begin * id_bytes as u64))?;
                    source.read_exact(&mut bytes)?;
                    ids.clear();
                    decode_ids(&bytes, id_bytes, &mut ids);
                    writer.push(&ids)?;
                }
                progress.advance(group.len() as u64);
            }
            writer.finish().map(Some)
        };
        let written = write();
        progress.end();
        let content_hash = written
            .map_err(|error| CorpusError::Write { path: output.to_owned(), error })?
            .ok_or(CorpusError::Stopped)?;
        Ok(CorpusSummary {
            output: output.to_owned(),
            files,
            bytes_read: source.bytes,
            texts: self.texts,
            blank_lines: source.blank_lines,
            invalid_utf8_lines: source.invalid_utf8_lines,
            invalid_utf8_at: source.invalid_utf8_at,
            cut_texts: self.cut_texts,
            formed: self.formed,
            dropped: self.dropped,
            train: kept - held_out,
            held_out,
            tokens,
            unknown_tokens: self.unknown_tokens,
            mean_length: tokens as f64 / kept as f64,
            vocab_size: self.tokenizer.vocab_size(),
            content_hash: hex(&content_hash),
            samples: samples(&Corpus::open(output)?, self.tokenizer, self.config.seed),
        })
    }
}

const SEQUENCES_A_STEP: usize = 4096;

/// Names the stream of the shuffle.
const SHUFFLE: u64 = 1;
/// Names the stream that picks the samples.
const SAMPLES: u64 = 2;

/// Ten different training sequences, or all if there are fewer.
fn samples(corpus: &Corpus, tokenizer: &Tokenizer, seed: u64) -> Vec<String> {
    let train = corpus.split(Split::Train);
    let mut rng = Rng::from_key(&[seed, SAMPLES]);
    let mut picked: Vec<usize> = Vec::new();
    while picked.len() < train.len().min(10) {
        let index = rng.below(train.len());
        if !picked.contains(&index) {
            picked.push(index);
        }
    }
    let text = |index: usize| {
        let ids = train.get(index);
        // Without [CLS] and [SEP], but with [UNK], which is worth seeing.
        tokenizer.decode(ids.get(1..ids.len().saturating_sub(1)).unwrap_or_default(), false)
    };
    picked.into_iter().map(text).collect()
}
