//! The allocator of the program and of the benches.
//!
//! Training allocates a few megabytes for every operation. The C library returns such blocks to the system at once and fetches
//! them again, page by page, and the system clears each page. mimalloc keeps them.

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;
