//! Memory that vectors are loaded from: aligned, zeroed, and for scratch kept by the thread.

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::cell::Cell;
use std::ptr::NonNull;

/// Numbers that start at a cache line, so that no vector of a panel straddles two. Large ones start at a huge page
/// ([`large`]).
pub(crate) struct AlignedBuffer {
    start: NonNull<f32>,
    /// Numbers in use, of which there is room for `capacity`.
    len: usize,
    capacity: usize,
}

const CACHE_LINE: usize = 64;

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
        let start = match layout.size() {
            large::SMALLEST.. => large::zeroed(layout),
            // SAFETY: the layout is not empty.
            _ => NonNull::new(unsafe { alloc_zeroed(layout) }),
        };
        let Some(start) = start.map(NonNull::cast) else { handle_alloc_error(layout) };
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
            let (start, layout) = (self.start.cast(), layout(self.capacity));
            // SAFETY: `AlignedBuffer::zeroed` made it in the same way with this layout.
            match layout.size() {
                large::SMALLEST.. => unsafe { large::free(start, layout) },
                _ => unsafe { dealloc(start.as_ptr(), layout) },
            }
        }
    }
}

fn layout(len: usize) -> Layout {
    let bytes = len.saturating_mul(size_of::<f32>());
    let align = if bytes < large::SMALLEST { CACHE_LINE } else { large::SMALLEST };
    Layout::from_size_align(bytes, align).expect("so many numbers fit no memory")
}

/// Memory of a huge page and more, from the system and back to it. An allocator keeps much of what it is given back, and
/// a server that replaces its models would grow.
///
/// The system is asked for huge pages: a product of few rows reads all its weights once, and on a virtual machine finding
/// the place of every 4 KB of them is a good part of that.
#[cfg(target_os = "linux")]
mod large {
    use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap_anonymous, munmap};
    use std::alloc::Layout;
    use std::ptr::{NonNull, null_mut};

    /// A huge page, in bytes.
    pub(super) const SMALLEST: usize = 2 << 20;

    /// A multiple of every size that pages have.
    const PAGES: usize = 64 << 10;

    pub(super) fn zeroed(layout: Layout) -> Option<NonNull<u8>> {
        let size = layout.size().checked_next_multiple_of(PAGES)?;
        let mapped = size.checked_add(layout.align())?;
        let (access, kind) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE);
        // SAFETY: new memory wherever the system likes replaces none.
        let base = unsafe { mmap_anonymous(null_mut(), mapped, access, kind) }.ok()?;
        let before = base.addr().next_multiple_of(layout.align()) - base.addr();
        // SAFETY: all three parts lie in the memory just mapped, which nothing refers to; they begin and end at pages. A
        // part that cannot be given back is never used, and a system without huge pages gives others.
        unsafe {
            let start = base.byte_add(before);
            let after = mapped - before - size;
            for (part, len) in [(base, before), (start.byte_add(size), after)] {
                if len > 0 {
                    let _ = munmap(part, len);
                }
            }
            let _ = madvise(start, size / SMALLEST * SMALLEST, Advice::LinuxHugepage);
            NonNull::new(start.cast())
        }
    }

    /// # Safety
    /// `start` must have come from [`zeroed`] with this layout, and nothing may refer to the memory.
    pub(super) unsafe fn free(start: NonNull<u8>, layout: Layout) {
        // SAFETY: the caller's promise; `zeroed` mapped as many bytes.
        let _ = unsafe { munmap(start.as_ptr().cast(), layout.size().next_multiple_of(PAGES)) };
    }
}

#[cfg(not(target_os = "linux"))]
mod large {
    use std::alloc::{Layout, alloc_zeroed, dealloc};
    use std::ptr::NonNull;

    pub(super) const SMALLEST: usize = 2 << 20;

    pub(super) fn zeroed(layout: Layout) -> Option<NonNull<u8>> {
        // SAFETY: the layout is as large as `SMALLEST` at least.
        NonNull::new(unsafe { alloc_zeroed(layout) })
    }

    /// # Safety
    /// `start` must have come from [`zeroed`] with this layout, and nothing may refer to the memory.
    pub(super) unsafe fn free(start: NonNull<u8>, layout: Layout) {
        // SAFETY: the caller's promise.
        unsafe { dealloc(start.as_ptr(), layout) };
    }
}

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
        let huge = large::SMALLEST / size_of::<f32>();
        for len in (0..40).chain([huge - 1, huge, huge + 1, 3 * huge + 5]) {
            let mut buffer = AlignedBuffer::zeroed(len);
            assert_eq!(buffer.as_slice().len(), len);
            assert!(buffer.as_slice().iter().all(|&x| x == 0.0));
            let align = if len < huge { CACHE_LINE } else { large::SMALLEST };
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
