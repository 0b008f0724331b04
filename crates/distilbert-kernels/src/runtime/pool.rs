//! A pool whose hand-over costs microseconds: workers spin a little before they sleep, tasks are taken from one
//! counter, and the calling thread works too. It waits only for workers that are at work on its job: one that the
//! operating system has not let run yet, because other programs have the cores, is not missed.

use super::RuntimeError;
use std::any::Any;
use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

/// How often a worker looks for work before it sleeps: about 20 microseconds, the length of a gap between two kernels.
const SPINS_BEFORE_SLEEP: u32 = 2_000;

pub(super) struct Pool {
    shared: Arc<Shared>,
    /// Held while a job runs: callers on different threads take turns.
    turn: Mutex<()>,
    workers: Vec<JoinHandle<()>>,
}

/// A job as the workers see it. The reference is only followed by those inside the job, and `run` keeps the closure
/// alive until nobody is and nobody can come in.
#[derive(Clone, Copy)]
struct Job {
    task: &'static (dyn Fn(usize) + Sync),
    tasks: usize,
}

#[derive(Default)]
struct Shared {
    current: Mutex<Current>,
    wake: Condvar,
    /// A copy of `current.generation` for workers that spin. Whether to sleep is decided by the one under the lock, so
    /// that no wake-up can fall between a worker's look and its sleep.
    published: AtomicU64,
    /// The next task that nobody has taken.
    next: AtomicUsize,
    /// Workers inside the current job. Counted up under the lock of `current`, so only while the job is open.
    inside: AtomicUsize,
    panic: Mutex<Option<Box<dyn Any + Send>>>,
}

#[derive(Default)]
struct Current {
    /// Counts jobs; a worker looks at `state` when this differs from the last it saw.
    generation: u64,
    state: State,
}

#[derive(Clone, Copy, Default)]
enum State {
    /// All tasks of the last job were taken: whoever comes now comes too late.
    #[default]
    Over,
    /// A job that workers may join.
    Open(Job),
    /// The pool is dropped.
    Closed,
}

thread_local! {
    /// True on a thread that is inside a task: a nested `run` there does its tasks itself.
    static IN_TASK: Cell<bool> = const { Cell::new(false) };
}

impl Pool {
    pub(super) fn new(threads: usize) -> Result<Pool, RuntimeError> {
        let mut pool = Pool { shared: Arc::default(), turn: Mutex::new(()), workers: Vec::new() };
        for index in 1..threads {
            let shared = Arc::clone(&pool.shared);
            let worker = std::thread::Builder::new()
                .name(format!("kernel-{index}"))
                .spawn(move || shared.work())
                .map_err(|source| RuntimeError::Spawn { index, source })?;
            pool.workers.push(worker);
        }
        Ok(pool)
    }

    pub(super) fn threads(&self) -> usize {
        self.workers.len() + 1
    }

    pub(super) fn run(&self, tasks: usize, task: &(dyn Fn(usize) + Sync)) {
        if self.workers.is_empty() || tasks <= 1 || IN_TASK.get() {
            return (0..tasks).for_each(task);
        }
        let turn = lock(&self.turn);
        // SAFETY: the lifetime is extended only until this function returns: below it ends the job, after which no
        // worker enters it, and waits until every worker that did has left.
        let task: &'static (dyn Fn(usize) + Sync) = unsafe { std::mem::transmute(task) };
        let job = Job { task, tasks };
        self.shared.next.store(0, Ordering::Relaxed);
        self.shared.publish(State::Open(job));
        self.shared.take_tasks(job);
        lock(&self.shared.current).state = State::Over;
        let mut spins = 0u32;
        while self.shared.inside.load(Ordering::Acquire) != 0 {
            spins += 1;
            if spins < SPINS_BEFORE_SLEEP {
                std::hint::spin_loop();
            } else {
                std::thread::yield_now();
            }
        }
        let panic = lock(&self.shared.panic).take();
        drop(turn);
        if let Some(panic) = panic {
            resume_unwind(panic);
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.publish(State::Closed);
        for worker in self.workers.drain(..) {
            // A worker catches the panics of tasks, so joining fails only if the thread was killed from outside.
            let _ = worker.join();
        }
    }
}

impl Shared {
    fn work(&self) {
        let mut seen = 0;
        loop {
            let Some(job) = self.join(&mut seen) else { return };
            self.take_tasks(job);
            self.inside.fetch_sub(1, Ordering::Release);
        }
    }

    /// Waits for a job that this worker has not seen, and goes inside; `None` when the pool closes.
    fn join(&self, seen: &mut u64) -> Option<Job> {
        loop {
            for _ in 0..SPINS_BEFORE_SLEEP {
                if self.published.load(Ordering::Acquire) != *seen {
                    break;
                }
                std::hint::spin_loop();
            }
            let mut current = lock(&self.current);
            while current.generation == *seen {
                current = self.wake.wait(current).unwrap_or_else(PoisonError::into_inner);
            }
            *seen = current.generation;
            match current.state {
                State::Over => {}
                State::Open(job) => {
                    self.inside.fetch_add(1, Ordering::Relaxed);
                    return Some(job);
                }
                State::Closed => return None,
            }
        }
    }

    /// Counts a job, or the end of all, and wakes the workers.
    fn publish(&self, state: State) {
        {
            let mut current = lock(&self.current);
            current.state = state;
            current.generation += 1;
            self.published.store(current.generation, Ordering::Release);
        }
        self.wake.notify_all();
    }

    fn take_tasks(&self, job: Job) {
        IN_TASK.set(true);
        loop {
            let index = self.next.fetch_add(1, Ordering::Relaxed);
            if index >= job.tasks {
                break;
            }
            if let Err(panic) = catch_unwind(AssertUnwindSafe(|| (job.task)(index))) {
                lock(&self.panic).get_or_insert(panic);
            }
        }
        IN_TASK.set(false);
    }
}

/// Locks; a panic while the lock was held leaves nothing half-changed here, so poisoning is ignored.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    /// With a worker that never comes the caller does all tasks itself. A pool that waits for it hangs.
    #[test]
    fn a_job_does_not_wait_for_a_worker_that_has_not_joined_it() {
        let (ended, end) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            let absent = std::thread::spawn(|| ());
            let pool = Pool { shared: Arc::default(), turn: Mutex::new(()), workers: vec![absent] };
            let done = AtomicUsize::new(0);
            for _ in 0..3 {
                pool.run(5, &|_| {
                    done.fetch_add(1, Ordering::Relaxed);
                });
            }
            ended.send(done.into_inner())
        });
        assert_eq!(end.recv_timeout(Duration::from_secs(60)), Ok(15), "waited for the worker");
    }

    /// Jobs so short that workers often come when the last task is taken: one that came too late must not touch the
    /// closure of a job that is over, nor the tasks of the next one twice.
    #[test]
    fn a_worker_that_comes_late_leaves_the_job_alone() {
        let pool = Pool::new(4).unwrap();
        for job in 0..20_000 {
            let counts: [AtomicUsize; 3] = Default::default();
            pool.run(counts.len(), &|task| {
                counts[task].fetch_add(job + 1, Ordering::Relaxed);
            });
            assert_eq!(counts.map(AtomicUsize::into_inner), [job + 1; 3]);
        }
    }

    /// A worker decides under the lock whether to sleep. If a job could be counted while it holds the lock, that count
    /// and its wake-up could fall between look and sleep, and the worker would sleep through the job.
    #[test]
    fn no_job_is_counted_while_a_worker_holds_the_lock() {
        const JOBS: u64 = 300_000;
        let shared = Shared::default();
        std::thread::scope(|scope| {
            scope.spawn(|| (0..JOBS).for_each(|_| shared.publish(State::Over)));
            let mut counted = 0;
            while counted < JOBS {
                let current = lock(&shared.current);
                counted = shared.published.load(Ordering::Acquire);
                assert_eq!(counted, current.generation, "a job is there that is not counted, or the other way round");
                for _ in 0..4 {
                    std::hint::spin_loop();
                }
                assert_eq!(shared.published.load(Ordering::Acquire), counted, "a job was counted without the lock");
            }
        });
    }
}
