//! `triplay runs export`: writes runs in the formats of other programs.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::bail;
use clap::Args;

use super::args::RunCacheArgs;
use crate::analysis::export::{Format, Place, Source, export};
use crate::runs::{Run, Tables, Texts};
use output::{Overwrite, eprintln, println};

#[derive(Args)]
pub(crate) struct RunsExportArgs {
    /// The runs, by their names or folders
    #[arg(required = true)]
    runs: Vec<String>,
    /// The program to write for
    #[arg(long)]
    to: Format,
    /// The folder to write; for inspect and jbb also a .json file, if there is only one log or artifact
    #[arg(long, short, value_name = "DIR_OR_FILE")]
    out: PathBuf,
    #[command(flatten)]
    overwrite: Overwrite,
    /// Always write the texts of prompts and models [default: omitted unless everything comes from the sandbox]
    #[arg(long, conflicts_with = "redact")]
    reveal: bool,
    /// Always omit the texts of prompts and models
    #[arg(long)]
    redact: bool,
    #[command(flatten)]
    cache: RunCacheArgs,
}

pub(crate) fn command(args: &RunsExportArgs) -> anyhow::Result<ExitCode> {
    args.cache.name()?;
    let format = args.to;
    // Checked before anything is collected.
    let place = Place::new(&args.out, args.overwrite)?;
    let mut folders: Vec<PathBuf> = Vec::new();
    for run in &args.runs {
        if let Some((whole, _)) = run.split_once('@') {
            bail!(
                "`{run}` must be a whole run, from which each ablation and seed is exported: write `{whole}`"
            );
        }
        let folder = Run::locate(run)?;
        if !folders.contains(&folder) {
            folders.push(folder);
        }
    }
    let mut sources = Vec::new();
    for (folder, tables) in folders.iter().zip(Tables::of_all(&folders)) {
        let (run, tables) = (Run::read(folder)?, tables?);
        let texts = match (args.reveal, args.redact) {
            (true, _) => Texts::Revealed,
            (_, true) => Texts::Redacted,
            _ => Texts::of(&run),
        };
        say(&run, &tables);
        sources.push(Source { run, tables, texts });
    }
    let files = export(&sources, format, &args.out, &place)?;
    let shows_texts = !matches!(format, Format::Tensorboard | Format::MlflowFiles);
    if shows_texts && !args.redact && sources.iter().any(|source| source.texts == Texts::Redacted) {
        eprintln!(
            "note: texts are omitted, because not all of them come from the sandbox; --reveal writes them"
        );
    }
    println!("{}: {}", args.out.display(), output::several(files, "file"));
    Ok(ExitCode::SUCCESS)
}

/// Reports what is missing from a run.
fn say(run: &Run, tables: &Tables) {
    let record = &run.record;
    if record.status != "done" {
        eprintln!(
            "note: run {} is {}: {} of {} nodes are done, and their outputs are exported",
            record.run,
            record.status,
            run.nodes.len(),
            record.nodes
        );
    }
    if tables.missing > 0 {
        eprintln!(
            "note: run {}: {} datasets are no longer in the cache, and their rows are omitted; run the pipeline again \
             to make them",
            record.run, tables.missing
        );
    }
}
