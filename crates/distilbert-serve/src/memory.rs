//! Memory that requests may take together. It is counted by estimates made before it is taken, so that any mix of requests
//! stays below the ceiling: what does not fit is refused or waits.

use crate::engine::Work;
use crate::http::error::{ApiError, ErrorKind};
use crate::model::ServedModel;
use distilbert::heads::Head;
use distilbert::tokenizer::Encoding;
use std::sync::Arc;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// What is counted at once.
const UNIT: usize = 1024;

/// Bytes that the bodies of all requests may take while they are read, also without a ceiling.
const BODIES: usize = 64 << 20;

/// A body's share of the ceiling is this part of it at most, so that bodies never keep work from being done.
const BODY_PART: usize = 4;

/// This part of the rest is kept for small requests, so that none of them waits behind a large one; and this part of that
/// is the most that a small one takes.
const SMALL_PART: usize = 4;
const PART_OF_SMALL: usize = 16;

/// Reading a body: its values and its texts, and their tokens. Texts become tokens one after the other: the longest is what
/// counts, with its normal form, the place of every byte and a text for each token. Measured: 27 bytes a byte for values of the
/// smallest kinds, 290 for one text of single letters with spaces between, 550 for one of full stops, each of which is a token.
const READ_PER_BYTE: usize = 60;
const TOKENIZED_PER_BYTE: usize = 520;

/// A token that waits with its id, type and place, and a sequence of them beside that.
const PER_TOKEN: usize = 64;
const PER_SEQUENCE: usize = 512;

/// A number of an answer: itself, in the engine and for the route, and as text.
const PER_NUMBER: usize = 24;

/// A token that is listed: as text, in a text that grows.
pub const PER_LISTED_TOKEN: usize = 256;

/// A token of a text that a pipeline answers with: its text is kept, and what is said of it is text.
const PER_TAGGED_TOKEN: usize = 512;

/// Words for one mask come with the whole text, in a few forms.
const PER_FILLING_TOKEN: usize = 32;

/// What is left of the ceiling.
pub struct Memory {
    bodies: Arc<Semaphore>,
    /// Of everything else; `None` without a ceiling.
    work: Option<Lanes>,
}

/// What is left for small requests and for all.
struct Lanes {
    small: Arc<Semaphore>,
    small_bytes: usize,
    all: Arc<Semaphore>,
    all_bytes: usize,
}

impl Lanes {
    fn new(bytes: usize) -> Lanes {
        let small_bytes = bytes / SMALL_PART;
        let all_bytes = bytes - small_bytes;
        Lanes { small: semaphore(small_bytes), small_bytes, all: semaphore(all_bytes), all_bytes }
    }

    /// Of the small ones' part if `bytes` are few and it has them.
    fn try_small(&self, bytes: usize) -> Option<OwnedSemaphorePermit> {
        let is_small = bytes <= self.small_bytes / PART_OF_SMALL;
        is_small.then(|| Arc::clone(&self.small).try_acquire_many_owned(units(bytes)).ok()).flatten()
    }
}

fn semaphore(bytes: usize) -> Arc<Semaphore> {
    Arc::new(Semaphore::new(units(bytes) as usize))
}

/// A part of it, given back when it is dropped.
#[derive(Default)]
pub struct Share {
    /// One of each part at most.
    permits: Vec<OwnedSemaphorePermit>,
}

impl Share {
    /// Adds another one.
    pub fn merge(&mut self, other: Share) {
        for permit in other.permits {
            match self.permits.iter_mut().find(|own| Arc::ptr_eq(own.semaphore(), permit.semaphore())) {
                Some(own) => own.merge(permit),
                None => self.permits.push(permit),
            }
        }
    }

    /// Takes `bytes` out of one that was taken at once, or all that it has.
    pub fn split(&mut self, bytes: usize) -> Share {
        let part = |all: &mut OwnedSemaphorePermit| all.split(all.num_permits().min(units(bytes) as usize));
        Share { permits: self.permits.first_mut().and_then(part).into_iter().collect() }
    }
}

fn units(bytes: usize) -> u32 {
    bytes.div_ceil(UNIT).try_into().unwrap_or(u32::MAX)
}

fn busy() -> ApiError {
    ApiError { retry_after_s: Some(1), ..ApiError::new(ErrorKind::Overloaded, "too many large requests at once") }
}

impl Memory {
    /// `ceiling` bytes for all requests together; without one, only their bodies are counted.
    pub fn new(ceiling: Option<usize>) -> Memory {
        let of_bodies = ceiling.map_or(BODIES, |ceiling| BODIES.min(ceiling / BODY_PART));
        let work = ceiling.map(|ceiling| Lanes::new(ceiling - of_bodies));
        Memory { bodies: semaphore(of_bodies), work }
    }

    /// Adds to what a request has as its body grows from `from` to `to` bytes, in however small steps.
    ///
    /// # Errors
    /// [`ErrorKind::Overloaded`] if other bodies take all that there is.
    pub fn add_body(&self, share: &mut Share, from: usize, to: usize) -> Result<(), ApiError> {
        let more = units(to) - units(from);
        if more > 0 {
            let permit = Arc::clone(&self.bodies).try_acquire_many_owned(more).map_err(|_| busy())?;
            share.merge(Share { permits: vec![permit] });
        }
        Ok(())
    }

    /// What reading a body takes, for as long as it is read: waits until it is there.
    ///
    /// # Errors
    /// [`ErrorKind::TooLarge`] if it never can be.
    pub async fn for_parsing(&self, body: &[u8]) -> Result<Share, ApiError> {
        let Some(lanes) = &self.work else { return Ok(Share::default()) };
        let needed = body.len() * READ_PER_BYTE + longest_text(body) * TOKENIZED_PER_BYTE;
        check_possible("the request", needed, lanes.all_bytes)?;
        let permit = match lanes.try_small(needed) {
            Some(permit) => permit,
            None => Arc::clone(&lanes.all).acquire_many_owned(units(needed)).await.map_err(|_| busy())?,
        };
        Ok(Share { permits: vec![permit] })
    }

    /// What a request takes from now on until its answer is sent.
    ///
    /// # Errors
    /// [`ErrorKind::Overloaded`] if it is not there, [`ErrorKind::TooLarge`] if it never can be.
    pub fn take(&self, bytes: usize) -> Result<Share, ApiError> {
        self.take_for("the request", bytes)
    }

    /// The same for something else, which an error calls `what`.
    ///
    /// # Errors
    /// As [`Memory::take`].
    pub fn take_for(&self, what: &str, bytes: usize) -> Result<Share, ApiError> {
        let Some(lanes) = &self.work else { return Ok(Share::default()) };
        check_possible(what, bytes, lanes.all_bytes)?;
        let permit = match lanes.try_small(bytes) {
            Some(permit) => permit,
            None => Arc::clone(&lanes.all).try_acquire_many_owned(units(bytes)).map_err(|_| busy())?,
        };
        Ok(Share { permits: vec![permit] })
    }
}

/// Bytes of the longest text that a request can have where requests have `ceiling` bytes together.
pub fn largest_text(ceiling: usize) -> usize {
    let of_bodies = BODIES.min(ceiling / BODY_PART);
    of_bodies.min(Lanes::new(ceiling - of_bodies).all_bytes / (READ_PER_BYTE + TOKENIZED_PER_BYTE))
}

/// Bytes of the longest text in JSON, escapes counted as they are written.
fn longest_text(body: &[u8]) -> usize {
    let (mut longest, mut start, mut place) = (0, None, 0);
    while place < body.len() {
        match (body[place], start) {
            (b'"', None) => start = Some(place + 1),
            (b'"', Some(first)) => {
                longest = longest.max(place - first);
                start = None;
            }
            // What is escaped ends no text.
            (b'\\', Some(_)) => place += 1,
            _ => {}
        }
        place += 1;
    }
    start.map_or(longest, |first| longest.max(body.len().saturating_sub(first)))
}

fn check_possible(what: &str, needed: usize, most: usize) -> Result<(), ApiError> {
    if needed <= most {
        return Ok(());
    }
    let mb = |bytes: usize| bytes.div_ceil(1 << 20);
    let message = format!("{what} needs about {} MB of memory, more than the {} MB there are", mb(needed), mb(most));
    Err(ApiError::new(ErrorKind::TooLarge, message))
}

/// Bytes that a question takes from the queue to its answer, its texts of `text_bytes` included.
pub fn of_question(model: &ServedModel, work: &Work, encodings: &[Encoding], text_bytes: usize) -> usize {
    let tokens: usize = encodings.iter().map(Encoding::len).sum();
    let config = &model.model.config;
    let answer = match (work, &model.model.head) {
        (Work::States, _) => tokens * config.encoder.hidden * PER_NUMBER,
        (Work::Embedding, _) => encodings.len() * model.width() * PER_NUMBER,
        (Work::Logits, Head::Tokens(_)) => tokens * (config.head.outputs() * PER_NUMBER + PER_TAGGED_TOKEN),
        (Work::Logits, Head::Both(..)) => {
            let of_texts = encodings.len() * config.head.outputs();
            (of_texts + tokens * config.head.slots().len()) * PER_NUMBER + tokens * PER_TAGGED_TOKEN
        }
        (Work::Logits, _) => encodings.len() * config.head.outputs() * (PER_NUMBER + PER_TAGGED_TOKEN),
        (Work::Fillings { top, .. }, _) => fillings_bytes(model, encodings, *top),
    };
    2 * text_bytes + tokens * PER_TOKEN + encodings.len() * PER_SEQUENCE + answer
}

/// Bytes of `top` words for each mask of the texts; each word has the whole text.
pub fn fillings_bytes(model: &ServedModel, encodings: &[Encoding], top: usize) -> usize {
    let mask = model.tokenizer.special().mask;
    let of = |encoding: &Encoding| {
        let masks = encoding.input_ids.iter().filter(|&&id| id == mask).count();
        masks * top * (encoding.len() * PER_FILLING_TOKEN + PER_TAGGED_TOKEN)
    };
    encodings.iter().map(of).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_does_not_fit_waits_or_is_refused_and_what_never_can_is_told_so() {
        let memory = Memory::new(Some(8 << 20));
        let (most, small) = (9 << 19, 3 << 19);
        let first = memory.take(most - UNIT).unwrap();
        let large = small / PART_OF_SMALL + UNIT;
        assert_eq!(memory.take(large).err().unwrap().kind, ErrorKind::Overloaded);
        assert_eq!(memory.take(most + UNIT).err().unwrap().kind, ErrorKind::TooLarge);
        let error = memory.take_for("the model", most + UNIT).err().unwrap();
        assert!(error.message.starts_with("the model needs about"), "{}", error.message);
        assert_eq!(memory.for_parsing(&vec![b'a'; most]).await.err().unwrap().kind, ErrorKind::TooLarge);
        let body = vec![b'a'; large / READ_PER_BYTE];
        let waiting = memory.for_parsing(&body);
        tokio::pin!(waiting);
        assert!(futures_pending(waiting.as_mut()).await);
        drop(first);
        let parsing = waiting.await.unwrap();
        drop(parsing);
        let _all = memory.take(most).unwrap();

        let mut body = Share::default();
        memory.add_body(&mut body, 0, 1 << 20).unwrap();
        // A byte at a time takes no more than all at once.
        (1 << 20..2 << 20).for_each(|from| memory.add_body(&mut body, from, from + 1).unwrap());
        assert_eq!(memory.add_body(&mut Share::default(), 0, 1).err().unwrap().kind, ErrorKind::Overloaded);
        drop(body);
        memory.add_body(&mut Share::default(), 0, 2 << 20).unwrap();
    }

    #[test]
    fn shares_of_both_parts_go_together() {
        let memory = Memory::new(Some(8 << 20));
        let most = memory.work.as_ref().unwrap().all_bytes;
        let mut share = memory.take(1).unwrap();
        share.merge(memory.take(most).unwrap());
        share.merge(memory.take(1).unwrap());
        assert!(memory.take(most).is_err());
        drop(share);
        memory.take(most).unwrap();
    }

    #[test]
    fn a_share_that_is_split_is_given_back_in_parts() {
        let memory = Memory::new(Some(8 << 20));
        let most = memory.work.as_ref().unwrap().all_bytes;
        let mut kept = memory.take(most).unwrap();
        drop(kept.split(most / 2));
        let _half = memory.take(most / 2).unwrap();
        assert!(memory.take(most / 2).is_err());
        drop(kept);
        drop(memory.take(most / 2).unwrap());
    }

    #[tokio::test]
    async fn small_requests_do_not_wait_behind_a_large_one() {
        let memory = Memory::new(Some(8 << 20));
        let first = memory.take(4 << 20).unwrap();
        let body = vec![b'a'; 16 << 10];
        let waiting = memory.for_parsing(&body);
        tokio::pin!(waiting);
        assert!(futures_pending(waiting.as_mut()).await);
        // As many as there is room for, and all of it again when they are gone.
        let small = 3 << 15;
        for _ in 0..2 {
            let shares: Vec<Share> = (0..PART_OF_SMALL).map(|_| memory.take(small).unwrap()).collect();
            assert_eq!(memory.take(small).err().unwrap().kind, ErrorKind::Overloaded);
            drop(shares);
            drop(memory.for_parsing(b"[\"a short text\"]").await.unwrap());
        }
        drop(first);
        waiting.await.unwrap();
        // What the small ones do not find among themselves they take from the rest.
        let _shares: Vec<Share> = (0..=PART_OF_SMALL).map(|_| memory.take(small).unwrap()).collect();
    }

    /// Whether a future is not ready when it is asked once.
    async fn futures_pending<F: Future>(mut future: std::pin::Pin<&mut F>) -> bool {
        std::future::poll_fn(|context| std::task::Poll::Ready(future.as_mut().poll(context).is_pending())).await
    }

    #[test]
    fn the_longest_text_is_found_whatever_is_escaped_and_whatever_is_open() {
        for (body, expected) in [
            (&br#"{"a": "bcd", "ef": ["g"]}"#[..], 3),
            (br#"["a\"b\\", "c"]"#, 6),
            (br#"["abc"#, 3),
            (b"[1, 2]", 0),
            (b"\"", 0),
            (b"\"\\", 1),
        ] {
            assert_eq!(longest_text(body), expected, "{}", String::from_utf8_lossy(body));
        }
    }

    #[test]
    fn the_largest_text_is_the_one_that_can_just_be_read() {
        for ceiling in [8 << 20, 400 << 20] {
            let (memory, largest) = (Memory::new(Some(ceiling)), largest_text(ceiling));
            let lanes = memory.work.as_ref().unwrap();
            let needed = |bytes: usize| bytes * (READ_PER_BYTE + TOKENIZED_PER_BYTE);
            assert!(needed(largest) <= lanes.all_bytes && needed(largest + 1) > lanes.all_bytes);
        }
    }

    #[test]
    fn without_a_ceiling_only_bodies_are_counted() {
        let memory = Memory::new(None);
        memory.take(usize::MAX).unwrap();
        memory.add_body(&mut Share::default(), 0, BODIES).unwrap();
        assert!(memory.add_body(&mut Share::default(), 0, BODIES + 1).is_err());
    }
}
