//! Runs as the files of other programs, a file here for each format. Everything is read from the tables of runs; what is
//! common to formats is in [`evaluations`] (what was asked and what came of it) and [`scalars`] (numbers over time).

mod csv;
mod evaluations;
mod harmbench;
mod inspect;
mod jbb;
mod mlflow;
mod rows;
mod scalars;
mod tensorboard;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use serde_json::Value;

use runs::{Run, Tables, Texts};

/// A program whose files are written; the words are those of the command line's help.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// Logs of Inspect, one for each evaluation and model
    Inspect,
    /// Artifacts of JailbreakBench
    Jbb,
    /// Test cases and completions of HarmBench
    Harmbench,
    /// A CSV file for each table of rows of `triplay results query`
    Csv,
    /// Event files of TensorBoard: metrics over updates
    Tensorboard,
    /// MLflow's file store: parameters, metrics and tags
    MlflowFiles,
}

/// A run, and how its texts are given away.
pub struct Source {
    pub run: Run,
    pub tables: Tables,
    pub texts: Texts,
}

/// Writes the files of `format` to `out`, which is a new folder; or a new file, where its name ends in `.json` and
/// there is only one file to write. Says how many files there are.
pub fn export(sources: &[Source], format: Format, out: &Path) -> anyhow::Result<usize> {
    let is_file = out.extension().is_some_and(|ending| ending == "json");
    output::is_free(out)?;
    let fail = || format!("cannot write {}", out.display());
    let parent = out.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    // All of it is there, or nothing.
    let making = tempfile::Builder::new().prefix(".exporting-").tempdir_in(parent).with_context(fail)?;
    let place = std::path::absolute(out).with_context(fail)?;
    match format {
        Format::Inspect => inspect::write(sources, making.path())?,
        Format::Jbb => jbb::write(sources, making.path())?,
        Format::Harmbench => harmbench::write(sources, making.path())?,
        Format::Csv => csv::write(sources, making.path())?,
        Format::Tensorboard => tensorboard::write(sources, making.path())?,
        Format::MlflowFiles => mlflow::write(sources, making.path(), &place)?,
    }
    let files = files(making.path())?;
    if is_file {
        let [file] = &files[..] else {
            bail!("there are {} files to write: name a folder instead of {}", files.len(), out.display())
        };
        fs::rename(file, out).with_context(fail)?;
    } else {
        if out.exists() {
            // An empty folder, as was seen above.
            fs::remove_dir(out).with_context(fail)?;
        }
        fs::rename(making.keep(), out).with_context(fail)?;
        // Temporary folders are private.
        use std::os::unix::fs::PermissionsExt;
        fs::set_permissions(out, fs::Permissions::from_mode(0o755)).with_context(fail)?;
    }
    Ok(files.len())
}

fn files(folder: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() { found.extend(files(&path)?) } else { found.push(path) }
    }
    Ok(found)
}

/// A name as a part of a path: nothing in it leads elsewhere.
fn safe(name: &str) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() || "._-".contains(c) { c } else { '-' };
    let text: String = name.chars().map(plain).collect();
    let text = text.trim_matches(['.', '-']).to_owned();
    if text.is_empty() { "pipeline".into() } else { text }
}

/// Writes a new file, and the folders around it.
fn create(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    let write = || {
        path.parent().map_or(Ok(()), fs::create_dir_all)?;
        fs::write(path, bytes)
    };
    write().with_context(|| format!("cannot write {}", path.display()))
}

fn create_json(path: &Path, value: &Value) -> anyhow::Result<()> {
    create(path, (serde_json::to_string_pretty(value)? + "\n").as_bytes())
}

/// A path that no earlier file has.
fn free(folder: &Path, stem: &str, ending: &str) -> PathBuf {
    let mut path = folder.join(format!("{stem}{ending}"));
    let mut number = 2;
    while path.exists() {
        path = folder.join(format!("{stem}-{number}{ending}"));
        number += 1;
    }
    path
}
