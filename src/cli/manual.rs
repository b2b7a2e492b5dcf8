//! `triplay completions` and `triplay man`: what shells and `man` know of the command line, made from the arguments themselves.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use clap::{Args, Command};
use clap_complete::Shell;

use output::{Destination, first_bytes, println, several};

#[derive(Args)]
pub(crate) struct CompletionsArgs {
    /// The shell
    shell: Shell,
}

#[derive(Args)]
pub(crate) struct ManArgs {
    /// The folder to write the pages into; it is made if it does not exist
    #[arg(long, value_name = "DIR", default_value = "man")]
    out: PathBuf,
}

/// Prints the completions of a shell.
pub(crate) fn completions(args: &CompletionsArgs, mut command: Command) -> anyhow::Result<ExitCode> {
    let mut text = Vec::new();
    clap_complete::generate(args.shell, &mut command, "triplay", &mut text);
    output::print(&String::from_utf8(text).context("completions must be text")?)?;
    Ok(ExitCode::SUCCESS)
}

/// Writes a page for each command.
pub(crate) fn man(args: &ManArgs, command: Command) -> anyhow::Result<ExitCode> {
    std::fs::create_dir_all(&args.out).with_context(|| format!("cannot make {}", args.out.display()))?;
    let mut pages = Vec::new();
    collect(command.disable_help_subcommand(true), "triplay".into(), &mut pages);
    for (name, command) in &pages {
        let mut page = Vec::new();
        clap_mangen::Man::new(command.clone()).render(&mut page)?;
        let file = args.out.join(format!("{name}.1"));
        Destination::new(&file, "manual page", is_page)?.write_bytes(&page)?;
    }
    println!("{}: {}", args.out.display(), several(pages.len(), "page"));
    Ok(ExitCode::SUCCESS)
}

/// A command and those below it, by the names of their pages.
fn collect(command: Command, name: String, pages: &mut Vec<(String, Command)>) {
    for below in command.get_subcommands().filter(|below| !below.is_hide_set()) {
        collect(below.clone(), format!("{name}-{}", below.get_name()), pages);
    }
    let shown = name.replace('-', " ");
    pages.push((name.clone(), command.name(name).bin_name(shown)));
}

/// Whether a file is a manual page that an earlier version may have written.
fn is_page(path: &Path) -> bool {
    String::from_utf8_lossy(&first_bytes(path, 256)).contains(".TH triplay")
}
