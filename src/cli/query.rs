//! `triplay results query` starts a separate program, `triplay-query`: Polars takes longer to compile than everything else,
//! and the first run of a pipeline need not wait for it.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, bail};

use crate::runs;

const PROGRAM: &str = "triplay-query";

/// Replaces this process by `triplay-query`, which is beside this program or in PATH.
pub(crate) fn command() -> anyhow::Result<ExitCode> {
    let own = std::env::current_exe().and_then(fs::canonicalize);
    let folder = own.ok().and_then(|own| own.parent().map(Path::to_owned));
    let beside = folder.map(|folder| folder.join(PROGRAM)).filter(|program| program.is_file());
    let program = beside.unwrap_or_else(|| PathBuf::from(PROGRAM));
    // The raw arguments after `triplay results query`, because clap removes a `--`.
    let args = std::env::args_os().skip(3);
    let error = Command::new(&program).args(args).env(runs::LAYOUT, runs::layout().to_string()).exec();
    if error.kind() == ErrorKind::NotFound {
        bail!(
            "`results query` needs the program `{PROGRAM}`, which must be beside triplay or in PATH; in triplay's \
             repository `cargo build --release --workspace` builds it, and `cargo install --locked --path src/query` installs it"
        );
    }
    Err(error).with_context(|| format!("cannot start {}", program.display()))
}
