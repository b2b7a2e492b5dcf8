//! `triplay init`: a first pipeline in a folder of one's own.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, ensure};
use clap::Args;

use super::schema;
use output::{Destination, println};

/// The pipeline of `pipelines/first.yaml`.
const FIRST: &str = include_str!("../../pipelines/first.yaml");

#[derive(Args)]
pub(crate) struct InitArgs {
    /// The folder; it is made if it does not exist, and must be empty
    #[arg(default_value = ".")]
    folder: PathBuf,
}

pub(crate) fn command(args: &InitArgs) -> anyhow::Result<ExitCode> {
    let folder = &args.folder;
    std::fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let entries = std::fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))?;
    // A new repository counts as empty, and so does a folder in which something was planned.
    let is_own = |name: &std::ffi::OsString| name == ".git" || name == ".triplay";
    let others = entries.flatten().map(|entry| entry.file_name()).filter(|name| !is_own(name));
    let mut others: Vec<String> = others.map(|name| name.to_string_lossy().into_owned()).collect();
    others.sort();
    ensure!(
        others.is_empty(),
        "{} must be an empty folder, found {}\n  help: name a new one: triplay init my-experiment",
        folder.display(),
        others[..others.len().min(3)].join(", ")
    );
    let first = format!("# yaml-language-server: $schema=schema.json\n{FIRST}");
    let files = [
        ("first.yaml", first),
        ("schema.json", schema::text()?),
        (".gitignore", "/.triplay/\n/results/\n".to_owned()),
    ];
    for (name, text) in files {
        let file = folder.join(name);
        Destination::new(&file, "file of `triplay init`", |_: &Path| false)?.write_bytes(text.as_bytes())?;
        println!("{}: written", file.strip_prefix(".").unwrap_or(&file).display());
    }
    if folder.as_os_str() != "." {
        println!("enter it:   cd {}", folder.display());
    }
    println!("run it:     triplay pipeline run first.yaml");
    println!("look at it: triplay report latest -o report.html");
    Ok(ExitCode::SUCCESS)
}
