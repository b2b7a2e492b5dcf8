//! What may be removed as a run: its folder only, and no files that a user has put into it.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};

use super::folder::{
    JUDGE_FILE, JUDGE_MARK, NODES, PANEL_FILE, PANEL_MARK, PUBLISHED, RECORD, Run, RunRecord,
    is_place_of_run, is_under_way, read_in,
};
use super::tables::{is_making, is_stamp, is_table};
use store::read::{self, MAX_LIST_BYTES, MAX_PARTS_BYTES, MAX_TEXT_BYTES};
use store::{Digest, is_sealed_file, sealed_lines};

/// A run's folder that may be removed.
pub struct Removal {
    /// The run's folder, without a link at its end.
    pub folder: PathBuf,
    /// Whether the process that runs it lives.
    pub is_running: bool,
    /// Files in it that are not triplay's, by their paths in it; folders end in `/`.
    pub foreign: Vec<String>,
}

impl Removal {
    /// Checks that a folder is a run's: its record is unaltered and of this run. If the record is missing or damaged, as when the
    /// run was killed early, the folder must lie where runs are created and have a name as triplay gives them.
    pub fn of(folder: &Path) -> anyhow::Result<Removal> {
        let shown = folder.display();
        // Without a trailing `/` or `/.`, which would follow a link.
        let mut plain: PathBuf = folder.components().collect();
        if plain.file_name().is_none() {
            plain = folder.canonicalize().with_context(|| format!("cannot find {shown}"))?;
        }
        let there = fs::symlink_metadata(&plain).with_context(|| format!("cannot read {shown}"))?;
        if there.is_symlink() {
            let target = fs::read_link(&plain).unwrap_or_default();
            let target = target.display();
            bail!(
                "{shown} is a symbolic link to {target}: name that folder, or remove only the link with rm"
            );
        }
        let nodes = plain.join(NODES);
        let is_file = |path: &Path| fs::symlink_metadata(path).is_ok_and(|there| there.is_file());
        let lines = read_in(&plain, NODES, MAX_LIST_BYTES)?;
        let is_of_triplay = lines.is_empty() || sealed_lines(&lines, |_| ()).next().is_some();
        ensure!(
            is_file(&nodes) && is_of_triplay && (is_named(&plain)? || is_place_of_run(&plain)),
            "{shown} is not the folder of a run: it must have a {RECORD} that triplay wrote for the run of this name; nothing was removed"
        );
        let mut foreign = Vec::new();
        gather(&plain, &mut foreign)?;
        foreign.sort();
        Ok(Removal { is_running: is_under_way(&plain), folder: plain, foreign })
    }

    /// Deletes the folder and all in it, foreign files too.
    pub fn remove(&self) -> anyhow::Result<()> {
        fs::remove_dir_all(&self.folder).with_context(|| format!("cannot remove {}", self.folder.display()))
    }
}

/// Whether a folder's record is unaltered and names this run, or its pipeline if somebody has renamed the run.
fn is_named(folder: &Path) -> anyhow::Result<bool> {
    let text = read_in(folder, RECORD, MAX_PARTS_BYTES).unwrap_or_default();
    let record = serde_json::from_slice::<RunRecord>(&text).ok().filter(|_| is_sealed_file(&text));
    let Some(record) = record else { return Ok(false) };
    let place = folder.canonicalize().with_context(|| format!("cannot find {}", folder.display()))?;
    let is_called = |path: Option<&Path>, name: &str| {
        path.and_then(Path::file_name).is_some_and(|own| own.as_encoded_bytes() == name.as_bytes())
    };
    Ok(is_called(Some(&place), &record.run) || is_called(place.parent(), &record.pipeline))
}

/// The files that triplay writes beside `models/` and `tables/`.
const OWN: [&str; 6] = ["pipeline.yaml", "extends.yaml", RECORD, NODES, "metrics.parquet", "events.jsonl"];

/// Whether this is a temporary file or folder of a process, which may have been killed.
fn is_writing(name: &str) -> bool {
    name.starts_with(".writing-")
}

/// Collects the files and folders that are not triplay's.
fn gather(folder: &Path, foreign: &mut Vec<String>) -> anyhow::Result<()> {
    for (name, path, kind) in entries(folder)? {
        match &*name {
            "models" if kind.is_dir() => {
                for (model, _, kind) in entries(&path)? {
                    // Links to checkpoints in the cache: removing them loses nothing.
                    if !kind.is_symlink() {
                        foreign.push(shown(&format!("models/{model}"), kind));
                    }
                }
            }
            PUBLISHED if kind.is_dir() => {
                let made = Run::read_nodes(folder).map(|(nodes, _)| nodes).unwrap_or_default();
                let made =
                    made.iter().flat_map(|node| node.outputs.iter().map(|output| output.digest)).collect();
                gather_published(&path, PUBLISHED, &made, foreign)?;
            }
            "tables" if kind.is_dir() => {
                for (stamp, path, kind) in entries(&path)? {
                    let is_own = kind.is_dir() && (is_stamp(&stamp) || is_making(&stamp));
                    if !is_own {
                        foreign.push(shown(&format!("tables/{stamp}"), kind));
                        continue;
                    }
                    for (table, _, kind) in entries(&path)? {
                        if !(kind.is_file() && is_table(&table)) {
                            foreign.push(shown(&format!("tables/{stamp}/{table}"), kind));
                        }
                    }
                }
            }
            JUDGE_FILE | PANEL_FILE if kind.is_file() => {
                let text = read::bytes(&path, MAX_TEXT_BYTES).unwrap_or_default();
                let mark = if name == JUDGE_FILE { JUDGE_MARK } else { PANEL_MARK };
                if !text.starts_with(mark.as_bytes()) {
                    foreign.push(name);
                }
            }
            own if kind.is_file() && OWN.contains(&own) => {}
            own if !kind.is_symlink() && is_writing(own) => {}
            _ => foreign.push(shown(&name, kind)),
        }
    }
    Ok(())
}

/// The same in the folder of published outputs: links, and copies with the content of an output, are triplay's.
fn gather_published(
    folder: &Path,
    name: &str,
    made: &HashSet<Digest>,
    foreign: &mut Vec<String>,
) -> anyhow::Result<()> {
    for (own, path, kind) in entries(folder)? {
        let name = format!("{name}/{own}");
        let is_made = || Digest::of_path(&path).is_ok_and(|digest| made.contains(&digest));
        if kind.is_symlink() || is_writing(&own) || is_made() {
            continue;
        }
        match kind.is_dir() {
            true => gather_published(&path, &name, made, foreign)?,
            false => foreign.push(name),
        }
    }
    Ok(())
}

fn shown(name: &str, kind: fs::FileType) -> String {
    format!("{name}{}", if kind.is_dir() { "/" } else { "" })
}

/// The entries of a folder: names, paths and types, without following links.
fn entries(folder: &Path) -> anyhow::Result<Vec<(String, PathBuf, fs::FileType)>> {
    let read = || -> std::io::Result<Vec<_>> {
        fs::read_dir(folder)?
            .map(|entry| {
                let entry = entry?;
                Ok((entry.file_name().to_string_lossy().into_owned(), entry.path(), entry.file_type()?))
            })
            .collect()
    };
    read().with_context(|| format!("cannot read {}", folder.display()))
}
