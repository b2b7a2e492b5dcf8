//! `triplay report`: runs as a page in one file.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::Args;

use crate::cli::registry;
use crate::report::{self, Source, Texts};
use output::{println, several};

#[derive(Args)]
pub struct ReportArgs {
    /// Runs: their names, the beginnings of them, or `latest`; RUN@NAME for one ablation or seed, such as `latest@full`
    #[arg(default_value = "latest")]
    runs: Vec<String>,
    /// The file to write
    #[arg(long, short, value_name = "FILE.html", default_value = "report.html")]
    out: PathBuf,
    #[command(flatten)]
    texts: TextArgs,
}

/// What becomes of texts of prompts and models.
#[derive(Args)]
pub struct TextArgs {
    /// Leave the texts of prompts and models out [default: unless they are of the sandbox's made-up world]
    #[arg(long, conflicts_with = "reveal")]
    redact: bool,
    /// Show the texts of prompts and models, whatever they are
    #[arg(long)]
    reveal: bool,
}

impl TextArgs {
    pub fn texts(&self) -> Texts {
        match (self.redact, self.reveal) {
            (true, _) => Texts::LeftOut,
            (_, true) => Texts::Shown,
            _ => Texts::BySandbox,
        }
    }
}

pub fn command(args: &ReportArgs) -> anyhow::Result<ExitCode> {
    if let Some(index) = (1..args.runs.len()).find(|&index| args.runs[..index].contains(&args.runs[index])) {
        bail!("{} is given twice", args.runs[index]);
    }
    may_be_written(&args.out)?;
    let sources = args.runs.iter().map(|run| Source::find(run)).collect::<anyhow::Result<Vec<_>>>()?;
    let texts = args.texts.texts();
    let gathered = report::samples(&sources, texts)?;
    let made = report::report(&sources, texts, &registry(), &gathered);
    let html = report::html(&made, &gathered.samples)?;
    std::fs::write(&args.out, &html).with_context(|| format!("cannot write {}", args.out.display()))?;
    let rows = several(gathered.samples.attack_number.len(), "sample");
    let size = bytesize::ByteSize(html.len() as u64);
    println!("{}: {rows}, {} in one file", args.out.display(), size);
    made.notices.iter().for_each(|notice| println!("note: {notice}"));
    Ok(ExitCode::SUCCESS)
}

/// Nobody's file is lost but an earlier report.
fn may_be_written(path: &Path) -> anyhow::Result<()> {
    let mut beginning = Vec::new();
    match File::open(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error).with_context(|| format!("cannot write {}", path.display())),
        Ok(file) => {
            let read = file.take(1024).read_to_end(&mut beginning);
            read.with_context(|| format!("{} is no file that could be written", path.display()))?;
        }
    }
    anyhow::ensure!(
        beginning.is_empty() || report::is_report(&beginning),
        "{} is there and is no report of triplay; write to another file with -o, or remove it",
        path.display()
    );
    Ok(())
}
