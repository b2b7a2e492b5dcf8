//! `triplay results query` is answered by a program of its own, `triplay-query`: Polars takes longer to compile than
//! everything else, and the first run of a pipeline need not wait for it.

use std::ffi::OsString;
use std::io::ErrorKind;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, ExitCode};

use anyhow::{Context, bail};

const PROGRAM: &str = "triplay-query";

/// Becomes the program that lies beside this one, or is in PATH.
pub fn command(args: &[OsString]) -> anyhow::Result<ExitCode> {
    let own = std::env::current_exe().context("cannot find out where triplay lies")?;
    let beside = own.with_file_name(PROGRAM);
    let program = if beside.is_file() { beside } else { PathBuf::from(PROGRAM) };
    let error = Command::new(&program).arg("--called-by").arg(env!("CARGO_PKG_VERSION")).args(args).exec();
    if error.kind() == ErrorKind::NotFound {
        bail!(
            "`results query` needs the program `{PROGRAM}`, which is neither beside {} nor in PATH; in triplay's \
             repository `cargo build --release` builds it, and `cargo install --path src/query` installs it",
            own.display()
        );
    }
    Err(error).with_context(|| format!("cannot start {}", program.display()))
}
