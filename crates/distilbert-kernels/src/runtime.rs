//! What the kernels run on: an instruction set and a pool of threads, as a value that is passed in.

mod pool;

use crate::arch;
use crate::precision::Precision;
use pool::Pool;
use std::fmt;
use std::str::FromStr;

/// A vector instruction set that the kernels are compiled for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Isa {
    /// Plain Rust: runs everywhere.
    Portable,
    /// AVX2 and FMA.
    Avx2,
    /// AVX-512 F, BW, DQ and VL.
    Avx512,
    /// AVX-512 with BF16 and VNNI, and the tiles of AMX for products in bf16 and int8.
    Amx,
}

impl Isa {
    /// All, slowest first.
    const ALL: [Isa; 4] = [Isa::Portable, Isa::Avx2, Isa::Avx512, Isa::Amx];

    /// The fastest instruction set of this CPU.
    pub fn detect() -> Isa {
        Isa::available().last().expect("the portable path is always available")
    }

    /// The instruction sets of this CPU, slowest first.
    pub fn available() -> impl DoubleEndedIterator<Item = Isa> {
        Isa::ALL.into_iter().filter(|isa| isa.is_available())
    }

    /// Whether this CPU has it.
    pub fn is_available(self) -> bool {
        match self {
            Isa::Portable => true,
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => arch::avx2::Avx2::detect().is_some(),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => arch::avx512::Avx512::detect().is_some(),
            #[cfg(target_arch = "x86_64")]
            Isa::Amx => arch::amx::Amx::detect().is_some(),
            #[cfg(not(target_arch = "x86_64"))]
            _ => false,
        }
    }

    /// `portable`, `avx2`, `avx512` or `amx`.
    pub fn name(self) -> &'static str {
        match self {
            Isa::Portable => "portable",
            Isa::Avx2 => "avx2",
            Isa::Avx512 => "avx512",
            Isa::Amx => "amx",
        }
    }
}

impl fmt::Display for Isa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Isa {
    type Err = RuntimeError;

    fn from_str(name: &str) -> Result<Isa, RuntimeError> {
        Isa::ALL.into_iter().find(|isa| isa.name() == name).ok_or_else(|| RuntimeError::UnknownIsa(name.to_owned()))
    }
}

/// Why a [`Runtime`] cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum RuntimeError {
    /// The CPU lacks the instruction set.
    #[error("instruction set `{0}`: not available on this CPU (available: {found})", found = available_names())]
    Unavailable(Isa),
    /// No instruction set has this name.
    #[error("instruction set: expected `portable`, `avx2`, `avx512` or `amx`, found `{0}`")]
    UnknownIsa(String),
    /// The instruction set cannot multiply the precision.
    #[error(
        "precision `{0}`: needs AVX-512 with the BF16 instructions, which this CPU or the instruction set `{1}` lacks"
    )]
    Precision(Precision, Isa),
    /// Sums of so many products in eight bits might not fit 32.
    #[error("precision `int8`: expected layers of at most {max} inputs, found {found}")]
    Depth {
        /// The longest sum.
        max: usize,
        /// Its length here.
        found: usize,
    },
    /// No precision has this name.
    #[error("precision: expected `f32`, `bf16` or `int8`, found `{0}`")]
    UnknownPrecision(String),
    /// A pool of no threads or of absurdly many.
    #[error("threads: expected 1 to {max}, found {0}", max = Runtime::MAX_THREADS)]
    Threads(usize),
    /// The operating system refused a thread.
    #[error("thread {index} of the pool cannot be started: {source}")]
    Spawn {
        /// Which thread.
        index: usize,
        /// The system's reason.
        source: std::io::Error,
    },
}

fn available_names() -> String {
    Isa::available().map(Isa::name).collect::<Vec<_>>().join(", ")
}

/// Instruction set and threads. Results do not depend on the number of threads.
pub struct Runtime {
    isa: Isa,
    pool: Pool,
}

impl Runtime {
    /// More threads than any machine this is for has cores.
    pub const MAX_THREADS: usize = 1024;

    /// A runtime of `threads` threads, the caller's own among them.
    ///
    /// # Errors
    /// If the CPU lacks `isa`, or `threads` is 0 or above [`Runtime::MAX_THREADS`], or a thread cannot be started.
    pub fn new(isa: Isa, threads: usize) -> Result<Runtime, RuntimeError> {
        if !isa.is_available() {
            return Err(RuntimeError::Unavailable(isa));
        }
        if !(1..=Self::MAX_THREADS).contains(&threads) {
            return Err(RuntimeError::Threads(threads));
        }
        Ok(Runtime { isa, pool: Pool::new(threads)? })
    }

    /// The instruction set.
    pub fn isa(&self) -> Isa {
        self.isa
    }

    /// The number of threads, the caller's own among them.
    pub fn threads(&self) -> usize {
        self.pool.threads()
    }

    /// Calls `task(0)` to `task(tasks - 1)`, each once, in any order and on any thread; returns when all are done.
    ///
    /// # Panics
    /// If a task panics, once all others have ended.
    pub fn parallel_for(&self, tasks: usize, task: impl Fn(usize) + Sync) {
        self.pool.run(tasks, &task);
    }

    /// Cuts `data` into chunks of `chunk` numbers, the last maybe shorter, and calls `task(index, chunk)` for each.
    ///
    /// # Panics
    /// If `chunk` is 0, or a task panics.
    pub fn parallel_chunks_mut<T: Send>(&self, data: &mut [T], chunk: usize, task: impl Fn(usize, &mut [T]) + Sync) {
        let len = data.len();
        let shared = SharedMut::new(data);
        self.parallel_for(len.div_ceil(chunk), |index| {
            let start = index * chunk;
            // SAFETY: chunks of different indices do not overlap, and each index is taken once.
            task(index, unsafe { shared.slice(start, chunk.min(len - start)) });
        });
    }
}

/// A mutable slice that tasks write disjoint parts of.
pub(crate) struct SharedMut<'a, T> {
    pointer: *mut T,
    len: usize,
    lifetime: std::marker::PhantomData<&'a mut [T]>,
}

// SAFETY: only `slice` gives access, and its callers promise disjoint parts; so this is as safe to share as sending
// each part to one thread.
unsafe impl<T: Send> Sync for SharedMut<'_, T> {}
// SAFETY: as above.
unsafe impl<T: Send> Send for SharedMut<'_, T> {}

impl<'a, T> SharedMut<'a, T> {
    pub(crate) fn new(slice: &'a mut [T]) -> Self {
        SharedMut { pointer: slice.as_mut_ptr(), len: slice.len(), lifetime: std::marker::PhantomData }
    }

    /// A pointer to the number at `at`, for parts that are not contiguous: whoever writes through it answers for
    /// staying inside the slice and off the other tasks' parts.
    pub(crate) fn pointer(&self, at: usize) -> *mut T {
        assert!(at <= self.len, "position {at} of {}", self.len);
        // SAFETY: inside the slice or one past its end by the assertion.
        unsafe { self.pointer.add(at) }
    }

    /// `start..start + len` of the slice.
    ///
    /// # Safety
    /// While the part lives, no other part that overlaps it may be taken.
    #[allow(clippy::mut_from_ref)]
    pub(crate) unsafe fn slice(&self, start: usize, len: usize) -> &'a mut [T] {
        assert!(start <= self.len && len <= self.len - start, "part {start}+{len} of {}", self.len);
        // SAFETY: inside the slice by the assertion; not overlapping any other part by the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.pointer.add(start), len) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[test]
    fn names_round_trip_and_unknown_ones_are_refused() {
        for isa in Isa::ALL {
            assert_eq!(isa.name().parse::<Isa>().unwrap(), isa);
        }
        assert!("sse9".parse::<Isa>().unwrap_err().to_string().contains("`sse9`"));
        assert!(matches!(Runtime::new(Isa::Portable, 0), Err(RuntimeError::Threads(0))));
    }

    #[test]
    fn every_task_runs_once_for_any_number_of_threads() {
        for threads in [1, 2, 3, 7] {
            let runtime = Runtime::new(Isa::Portable, threads).unwrap();
            for tasks in [0, 1, 2, 5, 100] {
                let counts: Vec<AtomicUsize> = (0..tasks).map(|_| AtomicUsize::new(0)).collect();
                runtime.parallel_for(tasks, |i| {
                    counts[i].fetch_add(1, Ordering::Relaxed);
                });
                assert!(counts.iter().all(|count| count.load(Ordering::Relaxed) == 1));
            }
        }
    }

    #[test]
    fn a_task_may_itself_run_tasks() {
        let runtime = Runtime::new(Isa::Portable, 3).unwrap();
        let total = AtomicUsize::new(0);
        runtime.parallel_for(4, |_| {
            runtime.parallel_for(5, |_| {
                total.fetch_add(1, Ordering::Relaxed);
            });
        });
        assert_eq!(total.into_inner(), 20);
    }

    #[test]
    fn several_threads_may_share_a_runtime() {
        let runtime = Runtime::new(Isa::Portable, 2).unwrap();
        let total = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    for _ in 0..200 {
                        runtime.parallel_for(3, |_| {
                            total.fetch_add(1, Ordering::Relaxed);
                        });
                    }
                });
            }
        });
        assert_eq!(total.into_inner(), 1800);
    }

    #[test]
    fn a_panic_in_a_task_reaches_the_caller_and_the_pool_lives_on() {
        let runtime = Runtime::new(Isa::Portable, 2).unwrap();
        let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            runtime.parallel_for(8, |i| assert_ne!(i, 5, "task five"));
        }));
        assert!(caught.is_err());
        let mut data = vec![0; 10];
        runtime.parallel_chunks_mut(&mut data, 3, |i, part| part.fill(i));
        assert_eq!(data, [0, 0, 0, 1, 1, 1, 2, 2, 2, 3]);
    }
}
