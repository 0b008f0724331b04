//! Memory that vectors are loaded from: aligned, zeroed, and for scratch kept by the thread.

use std::cell::Cell;

/// Numbers that start at a cache line, so that no vector of a panel straddles two.
#[derive(Clone, Default)]
pub(crate) struct AlignedBuffer {
    lines: Vec<Line>,
    len: usize,
}

#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Line([f32; LINE]);

const LINE: usize = 16;

impl AlignedBuffer {
    pub(crate) fn zeroed(len: usize) -> Self {
        AlignedBuffer { lines: vec![Line([0.0; LINE]); len.div_ceil(LINE)], len }
    }

    pub(crate) fn as_slice(&self) -> &[f32] {
        // SAFETY: `lines` holds at least `len` numbers, without padding between them.
        unsafe { std::slice::from_raw_parts(self.lines.as_ptr().cast(), self.len) }
    }

    pub(crate) fn as_mut_slice(&mut self) -> &mut [f32] {
        // SAFETY: as above.
        unsafe { std::slice::from_raw_parts_mut(self.lines.as_mut_ptr().cast(), self.len) }
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
        if buffer.lines.len() * LINE < len {
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
