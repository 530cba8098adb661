//! What a piece of code asks the allocator for, by its own thread.
#![allow(dead_code, reason = "each test counts one of both")]
#![allow(unsafe_code, reason = "an allocator can't be safe; this one hands everything on to the system's")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

struct Counting;

#[global_allocator]
static COUNTING: Counting = Counting;

thread_local! {
    static NOW: Cell<usize> = const { Cell::new(0) };
    static PEAK: Cell<usize> = const { Cell::new(0) };
    static ASKED: Cell<usize> = const { Cell::new(0) };
}

// SAFETY: every call is the system allocator's own, with the caller's arguments.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size(), 0);
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        count(0, layout.size());
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count(size, layout.size());
        unsafe { System.realloc(pointer, layout, size) }
    }
}

fn count(more: usize, less: usize) {
    ASKED.set(ASKED.get() + usize::from(more > 0));
    let now = NOW.get().wrapping_add(more);
    PEAK.set(PEAK.get().max(now));
    NOW.set(now.saturating_sub(less)); // what another thread allocated is freed here
}

/// How often the code asked for memory, or for more of it.
pub fn allocations(code: impl FnOnce()) -> usize {
    let before = ASKED.get();
    code();
    ASKED.get() - before
}

/// What the code returns, and how many bytes it held at once beyond those that were there before.
pub fn peak<T>(code: impl FnOnce() -> T) -> (T, usize) {
    let before = NOW.get();
    PEAK.set(before);
    let value = code();
    (value, PEAK.get() - before)
}
