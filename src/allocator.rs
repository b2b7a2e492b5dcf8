//! The allocator of the program and of the benches.
//!
//! Training allocates a few megabytes for every operation. The C library returns such blocks to the system at once and fetches
//! them again, page by page, and the system clears each page. mimalloc keeps them.

use std::ffi::{c_int, c_long};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// `mi_option_purge_delay` of mimalloc 2 and 3, in milliseconds; for blocks of this size it counts tenfold.
const PURGE_DELAY: c_int = 15;

#[allow(unsafe_code)]
unsafe extern "C" {
    fn mi_option_set(option: c_int, value: c_long);
}

/// Keeps freed memory for ten seconds, so that a micro-batch finds what the one before it freed. With mimalloc's own tenth of a
/// second, an update of a model of 135 M parameters spent a quarter of its time on clearing pages.
#[allow(unsafe_code)]
pub(crate) fn keep_freed_memory() {
    // SAFETY: the function takes two numbers, and mimalloc ignores an option that it does not know.
    unsafe { mi_option_set(PURGE_DELAY, 1_000) }
}
