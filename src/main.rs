//! The program `triplay`. The library does the work; this file starts it and chooses the allocator.

use std::process::ExitCode;

/// Training allocates a few megabytes for every operation. The C library returns such blocks to the system at once and
/// fetches them again, page by page; mimalloc keeps them.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    triplay::cli::main()
}
