//! Exports of runs as files of other programs, one module for each format. All data come from the tables of runs. Formats share
//! `evaluations` (prompts and outcomes) and `scalars` (numbers over time).

mod csv;
mod evaluations;
mod harmbench;
mod inspect;
mod jbb;
mod mlflow;
mod rows;
mod scalars;
mod tensorboard;

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use output::{Destination, NewFolder, Overwrite};
use serde::de::IgnoredAny;
use serde_json::Value;

use runs::{Run, Tables, Texts};
use store::read::{self, MAX_LIST_BYTES};

/// A target program. The doc comments are the help texts of the command line.
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

/// A run, and how its texts are shown to others.
pub struct Source {
    /// The run to export, or the part that RUN@ABLATION selects.
    pub run: Run,
    /// Its rows as Parquet files.
    pub tables: Tables,
    /// Whether texts of prompts and models are redacted.
    pub texts: Texts,
}

/// The destination: a new folder, or a file if the name ends in `.json` and there is only one file to write.
pub enum Place {
    /// A new folder with all files.
    Folder(NewFolder),
    /// A single JSON file.
    File(Destination),
}

impl Place {
    /// Chooses between the two by the name's ending. Fails if the folder exists, or if the file exists and `overwrite` does not
    /// allow it.
    pub fn new(out: &Path, overwrite: Overwrite) -> anyhow::Result<Place> {
        Ok(match out.extension().is_some_and(|ending| ending == "json") {
            true => Place::File(Destination::with_force(out, "export of triplay", overwrite, is_export)?),
            false => Place::Folder(NewFolder::new(out)?),
        })
    }
}

/// Whether a file is an exported log or artifact.
fn is_export(path: &Path) -> bool {
    #[derive(serde::Deserialize, Default)]
    #[serde(default)]
    struct Beginning {
        eval: Eval,
        parameters: Parameters,
    }
    #[derive(serde::Deserialize, Default)]
    #[serde(default)]
    struct Eval {
        packages: BTreeMap<String, IgnoredAny>,
    }
    #[derive(serde::Deserialize, Default)]
    #[serde(default)]
    struct Parameters {
        method: String,
    }
    let Ok(file) = read::open(path) else { return false };
    let read: Beginning =
        serde_json::from_reader(BufReader::new(file.take(MAX_LIST_BYTES))).unwrap_or_default();
    read.eval.packages.contains_key("triplay") || read.parameters.method.starts_with(jbb::METHOD)
}

/// Writes the files of `format` to `out`. Returns their number.
pub fn export(sources: &[Source], format: Format, out: &Path, place: &Place) -> anyhow::Result<usize> {
    let absolute = std::path::absolute(out).with_context(|| format!("cannot find {}", out.display()))?;
    let write = |folder: &Path| {
        fs::create_dir(folder)?;
        match format {
            Format::Inspect => inspect::write(sources, folder)?,
            Format::Jbb => jbb::write(sources, folder)?,
            Format::Harmbench => harmbench::write(sources, folder)?,
            Format::Csv => csv::write(sources, folder)?,
            Format::Tensorboard => tensorboard::write(sources, folder)?,
            Format::MlflowFiles => mlflow::write(sources, folder, &absolute)?,
        }
        files(folder)
    };
    let mut count = 0;
    match place {
        Place::Folder(place) => place.make(|folder| {
            count = write(folder)?.len();
            Ok(())
        })?,
        Place::File(place) => place.write(|path| {
            let files = write(&path.with_extension("files"))?;
            count = files.len();
            let [file] = &files[..] else {
                bail!("there are {count} files to write: name a folder instead of {}", out.display())
            };
            Ok(fs::rename(file, path)?)
        })?,
    }
    Ok(count)
}

fn files(folder: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() { found.extend(files(&path)?) } else { found.push(path) }
    }
    Ok(found)
}

/// A name as a component of a path. It cannot lead to another folder.
fn safe(name: &str) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() || "._-".contains(c) { c } else { '-' };
    let text: String = name.chars().map(plain).collect();
    let text = text.trim_matches(['.', '-']).to_owned();
    if text.is_empty() { "pipeline".into() } else { text }
}

/// Creates a new file, and its parent folders.
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

/// A path without an existing file.
fn free(folder: &Path, stem: &str, ending: &str) -> PathBuf {
    let mut path = folder.join(format!("{stem}{ending}"));
    let mut number = 2;
    while path.exists() {
        path = folder.join(format!("{stem}-{number}{ending}"));
        number += 1;
    }
    path
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logs_and_artifacts_of_triplay_are_told_from_those_of_others() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.json");
        for (text, is_own) in [
            (r#"{"version": 2, "eval": {"packages": {"triplay": "0.1.0"}}, "samples": []}"#, true),
            (r#"{"version": 2, "eval": {"packages": {"inspect_ai": "0.3"}}}"#, false),
            (r#"{"parameters": {"method": "triplay-small"}, "jailbreaks": []}"#, true),
            (r#"{"parameters": {"method": "PAIR"}, "jailbreaks": []}"#, false),
            ("[1, 2]", false),
            ("{\"parameters\": ", false),
        ] {
            fs::write(&path, text).unwrap();
            assert_eq!(is_export(&path), is_own, "{text}");
        }
        assert!(!is_export(&folder.path().join("none")));
    }
}
