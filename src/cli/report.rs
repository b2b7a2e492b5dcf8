//! `triplay report`: writes a report on runs as one HTML file.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::bail;
use clap::Args;

use super::args::RunCacheArgs;
use super::registry::registry;
use crate::report::{self, Source, Texts};
use output::{Destination, Overwrite, first_bytes, println, several};

#[derive(Args)]
pub(crate) struct ReportArgs {
    /// Runs: their names, the beginnings of them, or `latest`; RUN@NAME for one ablation or seed, such as `latest@full`
    #[arg(default_value = "latest")]
    runs: Vec<String>,
    /// The file to write
    #[arg(long, short, value_name = "FILE.html", default_value = "report.html")]
    out: PathBuf,
    #[command(flatten)]
    overwrite: Overwrite,
    #[command(flatten)]
    texts: TextArgs,
    #[command(flatten)]
    cache: RunCacheArgs,
}

/// Whether the texts of prompts and models are shown.
#[derive(Args)]
pub(crate) struct TextArgs {
    /// Always omit the texts of prompts and models [default: omitted unless everything comes from the sandbox]
    #[arg(long, conflicts_with = "reveal")]
    redact: bool,
    /// Always show the texts of prompts and models
    #[arg(long)]
    reveal: bool,
}

impl TextArgs {
    pub(crate) fn texts(&self) -> Texts {
        match (self.redact, self.reveal) {
            (true, _) => Texts::LeftOut,
            (_, true) => Texts::Shown,
            _ => Texts::BySandbox,
        }
    }
}

pub(crate) fn command(args: &ReportArgs) -> anyhow::Result<ExitCode> {
    args.cache.name()?;
    if let Some(index) = (1..args.runs.len()).find(|&index| args.runs[..index].contains(&args.runs[index])) {
        bail!("each run must be given once, found {} twice", args.runs[index]);
    }
    let is_report = |path: &_| report::is_report(&first_bytes(path, 1024));
    let out = Destination::with_force(&args.out, "report of triplay", args.overwrite, is_report)?;
    let sources = args.runs.iter().map(|run| Source::find(run)).collect::<anyhow::Result<Vec<_>>>()?;
    let texts = args.texts.texts();
    let gathered = report::samples(&sources, texts)?;
    let made = report::report(&sources, texts, &registry(), &gathered);
    let html = report::html(&made, &gathered.samples)?;
    out.write_bytes(html.as_bytes())?;
    let rows = several(gathered.samples.attack_number.len(), "sample");
    let size = bytesize::ByteSize(html.len() as u64);
    println!("{}: {rows}, {} in one file", args.out.display(), size);
    made.notices.iter().for_each(|notice| println!("note: {notice}"));
    Ok(ExitCode::SUCCESS)
}
