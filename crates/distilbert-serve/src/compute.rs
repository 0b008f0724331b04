//! Work beside the threads that answer: large bodies read, large answers written.
//!
//! Turns are fair between clients, and smaller work comes first: what a client asks for begins where a clock stands that
//! moves with what is done, and comes to its turn as much later as it is large. So nobody waits for ever, and large work of
//! one client does not keep others out. What is small has a thread of its own, so that it never waits for large work that
//! runs. Work that nobody waits for any more is dropped, or learns of that while it runs.
//!
//! # Source
//! Self-clocked fair queueing: Golestani 1994.

use crate::engine::queue::Client;
use crate::http::error::ApiError;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use tokio::sync::oneshot;

/// Threads for work of any size. They bound the memory that this takes too.
pub const THREADS: usize = 2;

/// Work on at most so many bytes of text is small: less than a tenth of a second.
const SMALL_BYTES: usize = 64 * 1024;

/// Threads, and what waits for them.
pub struct Compute {
    shared: Arc<Shared>,
}

struct Shared {
    state: Mutex<State>,
    wake: Condvar,
}

#[derive(Default)]
struct State {
    waiting: Vec<Job>,
    clock: u64,
    next_id: u64,
    closing: bool,
}

struct Job {
    id: u64,
    client: Client,
    /// Bytes of text that take as long.
    cost: usize,
    /// When its turn is: the least is next.
    turn: u64,
    wanted: Wanted,
    work: Box<dyn FnOnce(&Wanted) + Send>,
}

/// Whether somebody still waits for a piece of work.
#[derive(Clone, Default)]
pub struct Wanted {
    given_up: Arc<AtomicBool>,
}

impl Wanted {
    /// Asked before each text, and now and then within a long one.
    ///
    /// # Errors
    /// If nobody waits for the answer any more; nobody will read this either.
    pub fn check(&self) -> Result<(), ApiError> {
        if self.given_up.load(Ordering::Relaxed) { Err(ApiError::internal()) } else { Ok(()) }
    }
}

impl Shared {
    /// Nothing panics while it holds the lock, so poisoning is ignored.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Compute {
    /// Starts the threads.
    ///
    /// # Errors
    /// If the system refuses one.
    pub fn start() -> std::io::Result<Compute> {
        let compute = Compute { shared: Arc::new(Shared { state: Mutex::default(), wake: Condvar::new() }) };
        for most in [usize::MAX; THREADS].into_iter().chain([SMALL_BYTES]) {
            let shared = Arc::clone(&compute.shared);
            std::thread::Builder::new().name("compute".into()).spawn(move || run(&shared, most))?;
        }
        Ok(compute)
    }

    /// Does work that takes as long as reading `cost` bytes of text. Dropping the future gives it up.
    ///
    /// # Errors
    /// If it panics: a mistake in the answer to one request ends that request alone.
    pub async fn run<T: Send + 'static>(
        &self,
        client: &Client,
        cost: usize,
        work: impl FnOnce(&Wanted) -> T + Send + 'static,
    ) -> Result<T, ApiError> {
        let (reply, answer) = oneshot::channel();
        let work = Box::new(move |wanted: &Wanted| {
            // Who asked may have gone this moment.
            let _ = reply.send(work(wanted));
        });
        let wanted = Wanted::default();
        let id = self.shared.lock().push(client, cost, wanted.clone(), work);
        self.shared.wake.notify_all();
        let _place = Place { shared: &self.shared, id, wanted };
        answer.await.map_err(|_| ApiError::internal())
    }
}

impl Drop for Compute {
    fn drop(&mut self) {
        self.shared.lock().closing = true;
        self.shared.wake.notify_all();
    }
}

/// A place among what waits or runs.
struct Place<'a> {
    shared: &'a Shared,
    id: u64,
    wanted: Wanted,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.wanted.given_up.store(true, Ordering::Relaxed);
        let job = {
            let mut state = self.shared.lock();
            let place = state.waiting.iter().position(|job| job.id == self.id);
            place.map(|place| state.waiting.swap_remove(place))
        };
        // What it holds is freed without the lock.
        drop(job);
    }
}

impl State {
    fn push(&mut self, client: &Client, cost: usize, wanted: Wanted, work: Box<dyn FnOnce(&Wanted) + Send>) -> u64 {
        let is_small = |cost| cost <= SMALL_BYTES;
        // A client's own work is done in the order in which it came, but what is small not behind what is large.
        let of_client = self.waiting.iter().filter(|job| job.client == *client && is_small(job.cost) == is_small(cost));
        let begin = of_client.map(|job| job.turn).max().unwrap_or(0).max(self.clock);
        let id = self.next_id;
        self.next_id += 1;
        let turn = begin + cost.max(1) as u64;
        self.waiting.push(Job { id, client: Arc::clone(client), cost, turn, wanted, work });
        id
    }

    /// The work whose turn it is, of what costs at most `most`.
    fn take(&mut self, most: usize) -> Option<Job> {
        let able = self.waiting.iter().enumerate().filter(|(_, job)| job.cost <= most);
        let (place, _) = able.min_by_key(|(_, job)| (job.turn, job.id))?;
        let job = self.waiting.swap_remove(place);
        self.clock = self.clock.max(job.turn);
        Some(job)
    }
}

/// A thread for work that costs at most `most`.
fn run(shared: &Shared, most: usize) {
    let next = || {
        let mut state = shared.lock();
        loop {
            if state.closing {
                return None;
            }
            if let Some(job) = state.take(most) {
                return Some(job);
            }
            state = shared.wake.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    };
    while let Some(Job { work, wanted, .. }) = next() {
        // The answer's channel falls with what panics, so who waits learns of it.
        let _ = catch_unwind(AssertUnwindSafe(|| work(&wanted)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LARGE: usize = 30 * SMALL_BYTES;

    fn order(asked: &[(&str, usize)], most: usize) -> Vec<u64> {
        let mut state = State::default();
        for &(client, cost) in asked {
            state.push(&client.into(), cost, Wanted::default(), Box::new(|_| {}));
        }
        std::iter::from_fn(|| state.take(most).map(|job| job.id)).collect()
    }

    #[test]
    fn smaller_work_comes_first_and_clients_take_turns() {
        let asked =
            [("a", LARGE), ("a", LARGE), ("a", LARGE), ("b", LARGE), ("b", 3 * LARGE), ("c", 20_000), ("a", 30_000)];
        assert_eq!(order(&asked, usize::MAX), [5, 6, 0, 3, 1, 2, 4]);
        assert_eq!(order(&asked, SMALL_BYTES), [5, 6]);
    }

    #[test]
    fn large_work_is_not_passed_for_ever() {
        let mut state = State::default();
        let (small, large): (Client, Client) = ("small".into(), "large".into());
        let large = state.push(&large, LARGE, Wanted::default(), Box::new(|_| {}));
        let passed = (0..).take_while(|_| {
            state.push(&small, SMALL_BYTES, Wanted::default(), Box::new(|_| {}));
            state.take(usize::MAX).is_some_and(|job| job.id != large)
        });
        assert!((20..=30).contains(&passed.count()));
    }

    #[tokio::test]
    async fn work_that_nobody_waits_for_is_dropped_or_told_so() {
        let compute = Compute::start().unwrap();
        let client: Client = "a".into();
        let (begun, has_begun) = std::sync::mpsc::channel();
        let (ended, has_ended) = std::sync::mpsc::channel();
        let running: Vec<_> = (0..THREADS)
            .map(|_| {
                let (begun, ended) = (begun.clone(), ended.clone());
                Box::pin(compute.run(&client, LARGE, move |wanted| {
                    begun.send(()).unwrap();
                    while wanted.check().is_ok() {
                        std::thread::yield_now();
                    }
                    ended.send("told").unwrap();
                }))
            })
            .collect();
        let mut waiting = Box::pin(compute.run(&client, LARGE, move |_| ended.send("begun").unwrap()));
        let mut running = running;
        for work in running.iter_mut().chain([]) {
            assert!(poll(work.as_mut()).await);
        }
        assert!(poll(waiting.as_mut()).await);
        for _ in 0..THREADS {
            has_begun.recv().unwrap();
        }
        // Small work has its own thread.
        compute.run(&client, 1, |_| ()).await.unwrap();
        drop(waiting);
        drop(running);
        assert_eq!(has_ended.iter().collect::<Vec<_>>(), ["told"; THREADS]);
        assert_eq!(compute.run(&client, LARGE, |_| 7).await.unwrap(), 7);
        assert!(compute.run(&client, LARGE, |_| panic!("a mistake")).await.is_err());
        assert_eq!(compute.run(&client, LARGE, |_| 8).await.unwrap(), 8);
    }

    /// Whether a future is not ready when it is asked once.
    async fn poll<F: Future>(mut future: std::pin::Pin<&mut F>) -> bool {
        std::future::poll_fn(|context| std::task::Poll::Ready(future.as_mut().poll(context).is_pending())).await
    }
}
