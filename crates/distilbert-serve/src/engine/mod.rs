//! The engine: one thread that owns the queue of all models, since they share the cores. It packs what waits into
//! batches without padding and runs one after the other; requests larger than a batch are run in parts.

pub mod queue; // who is next
mod work; // a batch -> outputs

use crate::metrics::Metrics;
use crate::model::ServedModel;
use distilbert::data::batch::Batch;
use distilbert::predict::fill_mask::Filling;
use distilbert::tokenizer::Encoding;
use distilbert_kernels::Runtime;
use queue::{Client, Job, Queue, Taken};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tokio::sync::oneshot;
use work::Passes;

/// What is asked of a model.
#[derive(Clone, Debug)]
pub enum Work {
    /// Of a head with labels.
    Logits,
    /// A vector, not scaled.
    Embedding,
    /// The states of all tokens after the last layer.
    States,
    /// Words for the masks.
    Fillings {
        /// Among these; among all words if `None`.
        candidates: Option<Arc<[u32]>>,
        /// How many for each mask.
        top: usize,
    },
}

impl Work {
    /// Whether both can run in one batch.
    fn is_like(&self, other: &Work) -> bool {
        std::mem::discriminant(self) == std::mem::discriminant(other)
    }
}

/// What a model says of one sequence.
#[derive(Clone, Debug, PartialEq)]
pub enum Output {
    /// Logits, a vector or states.
    Numbers(Vec<f32>),
    /// For each mask.
    Fillings(Vec<Vec<Filling>>),
}

/// What became of a job.
#[derive(Debug)]
pub struct Answer {
    /// Of each sequence.
    pub outputs: Vec<Output>,
    /// Time in the queue until the first batch.
    pub waited: Duration,
    /// Time of the batches that it was part of.
    pub running: Duration,
}

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EngineError {
    /// Too much waits already.
    #[error("Model is overloaded")]
    Overloaded {
        /// When to come again, by the speed of late.
        retry_after_s: u64,
    },
    /// The model cannot take the input.
    #[error("{0}")]
    Input(String),
    /// The batch ended in a panic.
    #[error("the batch failed")]
    Panicked,
    /// The model gave numbers that are not finite.
    #[error("expected finite outputs of the model, found others")]
    NotFinite,
    /// The server ends.
    #[error("the server is stopping")]
    Closed,
}

/// Limits of the engine.
#[derive(Clone, Copy, Debug)]
pub struct EngineLimits {
    /// Tokens of a batch, unless one sequence has more.
    pub batch_tokens: usize,
    /// Tokens that may wait. One client may fill half of it.
    pub queue_tokens: usize,
}

/// The queue and the thread that empties it.
pub struct Engine {
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
    limits: EngineLimits,
}

struct Shared {
    state: Mutex<State>,
    wake: Condvar,
    next_id: AtomicU64,
    metrics: Arc<Metrics>,
}

#[derive(Default)]
struct State {
    queue: Queue,
    closing: bool,
    /// Of late; 0 before the first batch.
    tokens_per_second: f64,
    /// When the batch that runs was begun.
    running_since: Option<Instant>,
}

impl Shared {
    /// Nothing panics while it holds the lock and leaves the queue half-changed, so poisoning is ignored.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Engine {
    /// Starts the thread.
    ///
    /// # Errors
    /// If the system refuses it.
    pub fn start(rt: Arc<Runtime>, limits: EngineLimits, metrics: Arc<Metrics>) -> std::io::Result<Engine> {
        let shared =
            Arc::new(Shared { state: Mutex::default(), wake: Condvar::new(), next_id: AtomicU64::new(0), metrics });
        let of_thread = Arc::clone(&shared);
        let thread = std::thread::Builder::new()
            .name("engine".into())
            .spawn(move || run(&of_thread, &rt, limits.batch_tokens))?;
        Ok(Engine { shared, thread: Mutex::new(Some(thread)), limits })
    }

    /// Puts a job into the queue. Dropping the ticket takes it out again.
    ///
    /// # Errors
    /// [`EngineError::Overloaded`] if too much waits, [`EngineError::Input`] if the model cannot take a sequence,
    /// [`EngineError::Closed`] when the server ends.
    pub fn submit(
        &self,
        client: &Client,
        model: &Arc<ServedModel>,
        work: Work,
        encodings: Arc<[Encoding]>,
    ) -> Result<Ticket, EngineError> {
        let mut tokens = 0;
        for encoding in encodings.iter() {
            let mut alone = Batch::new();
            alone.push(&encoding.input_ids, Some(&encoding.token_type_ids));
            model.model.check(&alone).map_err(|error| EngineError::Input(error.to_string()))?;
            tokens += encoding.len();
        }
        let (reply, receiver) = oneshot::channel();
        if encodings.is_empty() {
            let nothing = Answer { outputs: Vec::new(), waited: Duration::ZERO, running: Duration::ZERO };
            // The other end is still in hand.
            let _ = reply.send(Ok(nothing));
            return Ok(Ticket { id: None, shared: Arc::clone(&self.shared), receiver });
        }
        let id = self.shared.next_id.fetch_add(1, Ordering::Relaxed);
        let job = Job::new(id, Arc::clone(client), Arc::clone(model), work, encodings, reply);
        {
            let mut state = self.shared.lock();
            if state.closing {
                return Err(EngineError::Closed);
            }
            self.admit(&state, client, tokens)?;
            state.queue.push(job);
            self.shared.metrics.queue_size.set(state.queue.jobs() as i64);
        }
        self.shared.wake.notify_one();
        Ok(Ticket { id: Some(id), shared: Arc::clone(&self.shared), receiver })
    }

    /// Whether the client may send anything at all: asked before its request is read.
    ///
    /// # Errors
    /// [`EngineError::Overloaded`] if too much waits.
    pub fn check_room(&self, client: &Client) -> Result<(), EngineError> {
        self.admit(&self.shared.lock(), client, 1)
    }

    /// Who has nothing waiting is let in while the others leave room; an empty queue takes a request of any size.
    fn admit(&self, state: &State, client: &Client, tokens: usize) -> Result<(), EngineError> {
        let waiting = state.queue.waiting_tokens();
        let own = state.queue.waiting_tokens_of(client);
        let limit = self.limits.queue_tokens;
        let too_much = waiting > 0 && waiting + tokens > limit;
        let too_greedy = own > 0 && own + tokens > limit / 2;
        if !(too_much || too_greedy) {
            return Ok(());
        }
        Err(EngineError::Overloaded { retry_after_s: retry_after_s(waiting, state.tokens_per_second) })
    }

    /// Whether the thread lives and no batch has run for longer than `limit`.
    pub fn is_alive(&self, limit: Duration) -> bool {
        let ended =
            self.thread.lock().unwrap_or_else(PoisonError::into_inner).as_ref().is_none_or(JoinHandle::is_finished);
        let stuck = self.shared.lock().running_since.is_some_and(|since| since.elapsed() > limit);
        !ended && !stuck
    }

    /// Takes no more jobs, runs those that wait and ends the thread.
    pub fn close(&self) {
        self.shared.lock().closing = true;
        self.shared.wake.notify_one();
        if let Some(thread) = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take() {
            // The thread catches what panics.
            let _ = thread.join();
        }
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.close();
    }
}

/// A place in the queue.
pub struct Ticket {
    /// `None` if there was nothing to do.
    id: Option<u64>,
    shared: Arc<Shared>,
    receiver: oneshot::Receiver<Result<Answer, EngineError>>,
}

impl Ticket {
    /// Waits for the answer.
    ///
    /// # Errors
    /// [`EngineError`] if there is none.
    pub async fn answer(mut self) -> Result<Answer, EngineError> {
        (&mut self.receiver).await.unwrap_or(Err(EngineError::Closed))
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let Some(id) = self.id else { return };
        let mut state = self.shared.lock();
        if state.queue.remove(id).is_some() {
            self.shared.metrics.queue_size.set(state.queue.jobs() as i64);
        }
    }
}

/// Seconds until half of the tokens that wait are done; one as long as no batch has told how fast that is.
fn retry_after_s(waiting: usize, tokens_per_second: f64) -> u64 {
    if tokens_per_second == 0.0 {
        return 1;
    }
    (waiting as f64 / 2.0 / tokens_per_second).ceil().clamp(1.0, 60.0) as u64
}

/// The engine's thread.
fn run(shared: &Shared, rt: &Runtime, batch_tokens: usize) {
    let mut passes = Passes::default();
    while let Some(taken) = next(shared, batch_tokens) {
        let started = Instant::now();
        // A panic in a model's pass leaves nothing behind but the buffers, which are made anew.
        let result = catch_unwind(AssertUnwindSafe(|| passes.run(rt, &taken))).unwrap_or_else(|_| {
            passes = Passes::default();
            Err(EngineError::Panicked)
        });
        let running = started.elapsed();
        shared.metrics.batch(taken.sequences.len(), taken.batch.tokens());
        let mut state = shared.lock();
        state.running_since = None;
        match result {
            Ok(outputs) => {
                let speed = taken.batch.tokens() as f64 / running.as_secs_f64().max(1e-9);
                let before = state.tokens_per_second;
                state.tokens_per_second = if before == 0.0 { speed } else { 0.9 * before + 0.1 * speed };
                state.queue.give(&taken, outputs, running);
            }
            Err(error) => state.queue.fail(&taken, &error),
        }
        shared.metrics.queue_size.set(state.queue.jobs() as i64);
    }
}

/// Waits for the next batch; `None` when the engine is closed and nothing waits.
fn next(shared: &Shared, batch_tokens: usize) -> Option<Taken> {
    let mut state = shared.lock();
    loop {
        if let Some(taken) = state.queue.take(batch_tokens) {
            state.running_since = Some(Instant::now());
            return Some(taken);
        }
        if state.closing {
            return None;
        }
        state = shared.wake.wait(state).unwrap_or_else(PoisonError::into_inner);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_to_come_again_follows_the_speed_once_it_is_known() {
        assert_eq!(retry_after_s(40_000, 0.0), 1);
        assert_eq!(retry_after_s(40_000, 2_000.0), 10);
        assert_eq!(retry_after_s(10, 2_000.0), 1);
        assert_eq!(retry_after_s(10_000_000, 2_000.0), 60);
    }
}
