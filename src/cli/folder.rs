//! A run's folder, `results/<pipeline>/<run>/`: `run.json` says what was run and what it came to,
//! `nodes.jsonl` has one line for each node that is done, written as it happens.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use serde::{Deserialize, Serialize};

use crate::engine::{NodeOutput, NodeReport};
use crate::store::write_durably;

/// Where runs are written, below the working directory.
const RESULTS: &str = "results";

/// What `run.json` holds.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RunRecord {
    pub run: String,
    pub pipeline: String,
    pub file: PathBuf,
    pub params: serde_json::Value,
    pub triplay: String,
    /// The cache that holds the blobs.
    pub cache: PathBuf,
    pub nodes: usize,
    /// `running`, `done`, `failed` or `interrupted`.
    pub status: String,
    pub ran: usize,
    pub cached: usize,
    pub failed: usize,
    pub skipped: usize,
    pub seconds: f64,
}

/// An open run folder.
pub struct RunFolder {
    pub path: PathBuf,
    nodes: File,
}

impl RunFolder {
    /// Creates `results/<pipeline>/<run>/`; the run's name is the time, made unique.
    pub fn create(pipeline: &str) -> anyhow::Result<(String, RunFolder)> {
        let parent = Path::new(RESULTS).join(pipeline);
        let fail = || format!("cannot create a run folder in {}", parent.display());
        fs::create_dir_all(&parent).with_context(fail)?;
        let time = jiff::Timestamp::now().strftime("%Y%m%d-%H%M%S").to_string();
        for attempt in 1.. {
            let run = if attempt == 1 { time.clone() } else { format!("{time}-{attempt}") };
            let path = parent.join(&run);
            match fs::create_dir(&path) {
                Ok(()) => {
                    let nodes = File::create(path.join("nodes.jsonl")).with_context(fail)?;
                    return Ok((run, RunFolder { path, nodes }));
                }
                Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => continue,
                Err(error) => return Err(error).with_context(fail),
            }
        }
        bail!(fail())
    }

    /// Appends a node that is done.
    pub fn add(&mut self, node: &NodeReport) -> anyhow::Result<()> {
        let line = serde_json::to_string(node)? + "\n";
        self.nodes
            .write_all(line.as_bytes())
            .with_context(|| format!("cannot write in {}", self.path.display()))
    }
}

/// Replaces `run.json`.
pub fn write_record(folder: &Path, record: &RunRecord) -> anyhow::Result<()> {
    let path = folder.join("run.json");
    write_durably(&path, (serde_json::to_string_pretty(record)? + "\n").as_bytes())
        .with_context(|| format!("cannot write {}", path.display()))
}

/// A run read back.
pub struct Run {
    pub record: RunRecord,
    pub nodes: Vec<NodeReport>,
}

impl Run {
    /// The run of this name, of a unique beginning of it, or the `latest`; `pipeline/run` narrows the search.
    pub fn find(name: &str) -> anyhow::Result<Run> {
        let (pipeline, run) =
            name.rsplit_once('/').map_or((None, name), |(pipeline, run)| (Some(pipeline), run));
        let mut runs: Vec<(String, PathBuf)> = Vec::new();
        for folder in folders(Path::new(RESULTS)) {
            if pipeline.is_none_or(|pipeline| folder.ends_with(pipeline)) {
                let named = folders(&folder).into_iter().filter(|path| path.join("run.json").exists());
                runs.extend(
                    named.map(|path| (path.file_name().unwrap_or_default().to_string_lossy().into(), path)),
                );
            }
        }
        runs.sort();
        let found: Vec<_> = match run {
            "latest" => runs.last().into_iter().collect(),
            _ => match runs.iter().filter(|(name, _)| name == run).collect::<Vec<_>>() {
                exact if !exact.is_empty() => exact,
                _ => runs.iter().filter(|(name, _)| name.starts_with(run)).collect(),
            },
        };
        match found[..] {
            [(_, path)] => Run::read(path),
            [] if runs.is_empty() => {
                bail!("there are no runs in {RESULTS}/ here; `triplay pipeline run FILE` makes one")
            }
            [] => {
                let newest: Vec<&str> = runs.iter().rev().take(5).map(|(name, _)| name.as_str()).collect();
                bail!("there is no run `{run}`; the newest are {}", newest.join(", "))
            }
            _ => {
                let names: Vec<String> = found.iter().map(|(_, path)| path.display().to_string()).collect();
                bail!("`{run}` could be {}; write more of its name", names.join(" or "))
            }
        }
    }

    fn read(folder: &Path) -> anyhow::Result<Run> {
        let path = folder.join("run.json");
        let text = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let record = serde_json::from_slice(&text)
            .with_context(|| format!("{} is not a run record", path.display()))?;
        let path = folder.join("nodes.jsonl");
        let file = File::open(&path).with_context(|| format!("cannot read {}", path.display()))?;
        // A run that was killed may end in half a line: what was not recorded is not there.
        let lines = BufReader::new(file).lines().map_while(Result::ok);
        let nodes = lines.map_while(|line| serde_json::from_str(&line).ok()).collect();
        Ok(Run { record, nodes })
    }

    /// The file or folder of `node` or `node.output`.
    pub fn output(&self, text: &str) -> anyhow::Result<(&NodeOutput, PathBuf)> {
        let by_name = |name: &str| self.nodes.iter().find(|node| node.node == name);
        let (node, output) = match by_name(text) {
            Some(node) => (Some(node), None),
            None => {
                text.rsplit_once('.').map_or((None, None), |(name, output)| (by_name(name), Some(output)))
            }
        };
        let Some(node) = node else {
            let names: Vec<&str> = self.nodes.iter().map(|node| node.node.as_str()).collect();
            let near = crate::engine::nearest(text, &names).map(|name| format!("; did you mean `{name}`?"));
            bail!("run {} has no finished node `{text}`{}", self.record.run, near.unwrap_or_default())
        };
        let found = match output {
            None => node.outputs.first(),
            Some(output) => node.outputs.iter().find(|known| known.name == output),
        };
        let Some(found) = found else {
            let known: Vec<&str> = node.outputs.iter().map(|output| output.name.as_str()).collect();
            bail!("`{}` has the outputs {}", node.node, known.join(", "))
        };
        let hex = found.digest.to_string();
        Ok((found, self.record.cache.join("blobs").join(&hex[..2]).join(hex)))
    }
}

fn folders(path: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(path).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).filter(|path| path.is_dir()).collect()
}
