//! The command line. Everything it does is in the library; this file only turns results into exit codes.

use std::process::ExitCode;

/// Training allocates a few megabytes for every operation. The C library gives such pieces back to the
/// system at once and fetches them again, page by page; this allocator keeps them.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    triplay::cli::main()
}
