//! `triplay results query`: SQL over the rows of many runs. It is a program of its own, since Polars takes longer to
//! compile than everything else: `triplay` hands the command line over to it.
//!
//! [`command`] reads the command line and prints, [`sql`] answers: of which tables there are ([`catalog`]), those that
//! are made of the records of runs ([`overview`]), batch by batch ([`answer`]); what went wrong is said in words
//! ([`trouble`]). Polars reads the Parquet files of the runs lazily, so that not even the rows of one table need to fit
//! in memory; it stays within this program, and so do its panics.

mod answer;
mod catalog;
mod command;
mod grid;
mod overview;
mod parquet;
mod sql;
mod trouble;

use std::process::ExitCode;

use output::eprintln;

/// As in `triplay`.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    output::say_panics();
    // Before options are read: those of another version may be others.
    if std::env::var_os(runs::LAYOUT).is_some_and(|layout| *layout != *runs::layout().to_string()) {
        eprintln!(
            "error: triplay-query must be built from the sources that triplay was built from, found another layout of \
             tables; `cargo build --release` builds both, `cargo install --locked --path src/query` installs it anew"
        );
        return ExitCode::from(2);
    }
    command::command(&output::command_line()).unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::from(2)
    })
}
