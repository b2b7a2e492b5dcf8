//! `triplay results query`: SQL over the rows of many runs. It is a separate program, since Polars takes longer to compile than
//! everything else. `triplay` passes the command line on to it.
//!
//! [`command`] reads the command line and prints. [`sql`] answers from the tables in [`catalog`] and those made of runs' records
//! ([`overview`]), batch by batch ([`answer`]), and explains errors ([`trouble`]). Polars reads the Parquet files of the runs
//! lazily, so that not even the rows of one table must fit in memory. Polars and its panics stay within this program.

mod answer;
mod catalog;
mod command;
mod description;
mod grid;
mod overview;
mod params;
mod parquet;
mod records;
mod sql;
mod trouble;

use std::process::ExitCode;

use output::eprintln;

/// The same as in `triplay`.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    output::install_panic_hook();
    // Before options are read: another version may have other options.
    if std::env::var_os(runs::LAYOUT).is_some_and(|layout| *layout != *runs::layout().to_string()) {
        eprintln!(
            "error: triplay-query must be built from the same sources as triplay, found another layout of \
             tables; `cargo build --release --workspace` builds both, `cargo install --locked --path src/query` installs it again"
        );
        return ExitCode::from(2);
    }
    command::command(&output::parse_command_line()).unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::from(2)
    })
}
