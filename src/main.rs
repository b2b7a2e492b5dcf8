//! The program `triplay`. The library does the work; this file starts it and chooses the allocator.

mod allocator;

use std::process::ExitCode;

fn main() -> ExitCode {
    triplay::cli::main()
}
