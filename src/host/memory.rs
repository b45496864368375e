//! Freed memory that the allocator keeps for later allocations.

/// Gives freed memory back to the system: what this thread has freed, and what is free in the arenas
/// of all threads. Each page that is wanted again costs a page fault, so it is for quiet times.
/// mimalloc by itself does this only in the course of allocations. Without mimalloc nothing happens.
#[cfg_attr(feature = "mimalloc", expect(unsafe_code, reason = "the allocator is written in C"))]
pub fn give_back() {
    #[cfg(feature = "mimalloc")]
    // SAFETY: it may be called at any time.
    unsafe {
        libmimalloc_sys::mi_collect(true);
    }
}
