//! The command line. Everything it does is in the library; this file only turns results into exit codes.

use std::process::ExitCode;

fn main() -> ExitCode {
    triplay::cli::main()
}
