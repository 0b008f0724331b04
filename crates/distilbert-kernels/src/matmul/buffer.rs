//! Memory that vectors are loaded from: aligned, zeroed, and for scratch kept by the thread.

#[cfg(target_os = "linux")]
use rustix::mm::{Advice, madvise};
use std::alloc::{Layout, alloc, dealloc, handle_alloc_error};
use std::cell::Cell;
use std::ptr::NonNull;

/// Numbers that start at a cache line, so that no vector of a panel straddles two. Large ones start at a huge page, and
/// the system is asked for such pages: a product of few rows reads all its weights once, and on a virtual machine
/// finding the place of every 4 KB of them is a good part of that.
pub(crate) struct AlignedBuffer {
    start: NonNull<f32>,
    /// Numbers in use, of which there is room for `capacity`.
    len: usize,
    capacity: usize,
}

const CACHE_LINE: usize = 64;
const HUGE_PAGE: usize = 2 << 20;

// SAFETY: it owns its memory as a `Vec<f32>` does.
unsafe impl Send for AlignedBuffer {}
// SAFETY: as above; a shared reference only reads.
unsafe impl Sync for AlignedBuffer {}

impl AlignedBuffer {
    pub(crate) fn zeroed(len: usize) -> Self {
        if len == 0 {
            return Self::default();
        }
        let layout = layout(len);
        // SAFETY: the layout is not empty.
        let start = unsafe { alloc(layout) };
        let Some(start) = NonNull::new(start.cast::<f32>()) else { handle_alloc_error(layout) };
        // Before the first write, which decides what pages it gets.
        prefer_huge_pages(start, layout);
        // SAFETY: there is room for `len` numbers.
        unsafe { start.write_bytes(0, len) };
        AlignedBuffer { start, len, capacity: len }
    }

    pub(crate) fn as_slice(&self) -> &[f32] {
        // SAFETY: `len` is at most `capacity`, and as many numbers were allocated and set to zero.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }

    pub(crate) fn as_mut_slice(&mut self) -> &mut [f32] {
        // SAFETY: as above.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.len) }
    }
}

impl Default for AlignedBuffer {
    fn default() -> Self {
        AlignedBuffer { start: NonNull::dangling(), len: 0, capacity: 0 }
    }
}

impl Drop for AlignedBuffer {
    fn drop(&mut self) {
        if self.capacity > 0 {
            // SAFETY: `zeroed` allocated it with this layout.
            unsafe { dealloc(self.start.as_ptr().cast(), layout(self.capacity)) };
        }
    }
}

fn layout(len: usize) -> Layout {
    let bytes = len.saturating_mul(size_of::<f32>());
    let align = if bytes < HUGE_PAGE { CACHE_LINE } else { HUGE_PAGE };
    Layout::from_size_align(bytes, align).expect("so many numbers fit no memory")
}

/// Asks for huge pages where they lie wholly inside the memory; a system that has none gives what it has.
#[cfg(target_os = "linux")]
fn prefer_huge_pages(start: NonNull<f32>, layout: Layout) {
    let whole = layout.size() / HUGE_PAGE * HUGE_PAGE;
    if whole > 0 {
        // SAFETY: the range was just allocated, and this advice changes nothing of what it holds.
        let _ = unsafe { madvise(start.as_ptr().cast(), whole, Advice::LinuxHugepage) };
    }
}

#[cfg(not(target_os = "linux"))]
fn prefer_huge_pages(_: NonNull<f32>, _: Layout) {}

thread_local! {
    /// Kept from one task to the next, so that a task allocates nothing.
    static SCRATCH: Cell<AlignedBuffer> = Cell::default();
}

/// Numbers of this thread's scratch memory. A value rather than a closure's argument: a closure would be compiled
/// outside the function that enables the instruction set.
pub(crate) struct Scratch(AlignedBuffer);

impl Scratch {
    /// `len` numbers, whose values are unspecified.
    pub(crate) fn take(len: usize) -> Scratch {
        let mut buffer = SCRATCH.take();
        if buffer.capacity < len {
            buffer = AlignedBuffer::zeroed(len);
        }
        buffer.len = len;
        Scratch(buffer)
    }

    pub(crate) fn as_mut_slice(&mut self) -> &mut [f32] {
        self.0.as_mut_slice()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        SCRATCH.set(std::mem::take(&mut self.0));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_are_zero_and_aligned_at_every_length() {
        let huge = HUGE_PAGE / size_of::<f32>();
        for len in (0..40).chain([huge - 1, huge, huge + 1, 3 * huge + 5]) {
            let mut buffer = AlignedBuffer::zeroed(len);
            assert_eq!(buffer.as_slice().len(), len);
            assert!(buffer.as_slice().iter().all(|&x| x == 0.0));
            let align = if len < huge { CACHE_LINE } else { HUGE_PAGE };
            assert!(len == 0 || buffer.as_slice().as_ptr().addr().is_multiple_of(align), "{len} numbers");
            buffer.as_mut_slice().fill(1.0);
        }
    }

    #[test]
    fn scratch_grows_and_keeps_the_larger_memory() {
        let at = |len: usize| {
            let mut scratch = Scratch::take(len);
            assert_eq!(scratch.as_mut_slice().len(), len);
            scratch.as_mut_slice().fill(1.0);
            scratch.as_mut_slice().as_ptr()
        };
        at(10);
        let large = at(100_000);
        assert_eq!(at(7), large);
        assert_eq!(at(100_000), large);
    }
}
