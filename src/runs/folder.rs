//! A run's folder, `results/<pipeline>/<run>/`. `pipeline.yaml` is a copy of the pipeline (with its base as `extends.yaml`).
//! `run.json` records what was run, where, and the result. `nodes.jsonl` has one sealed line for each finished node, appended as
//! it finishes.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fs::{self, File, TryLockError};
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::cache::cache_of;
use super::events::Events;
use super::machine::Machine;
use super::variant::variant;
use engine::{KindFacts, NodeOutput, NodeReport, Part, Purpose};
use store::read::{self, MAX_LIST_BYTES, MAX_PARTS_BYTES, MAX_TEXT_BYTES};
use store::{
    Digest, Store, create_private, create_private_in, is_sealed_file, recognise, seal, seal_file,
    sealed_lines, write_durably,
};

/// The folder of all runs, in the working directory.
const RESULTS: &str = "results";

/// Most runs that an error names.
const MOST_NAMED: usize = 5;

/// The files of a run's folder that identify it and record its result.
pub(super) const RECORD: &str = "run.json";
pub(super) const NODES: &str = "nodes.jsonl";

/// The purposes of kinds, for records of earlier versions, which do not state them.
fn before_facts(kind: &str) -> Purpose {
    match kind {
        "sandbox" | "tokenizer" | "empty" => Purpose::Data,
        "judge" | "meaning" | "vote" => Purpose::Judging,
        "sft" | "update" => Purpose::Training,
        "evaluate" | "measure" => Purpose::Evaluation,
        "cross_play" => Purpose::CrossPlay,
        _ => Purpose::Play,
    }
}

/// The content of `run.json`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RunRecord {
    /// The run's name: when it began, such as `20261125-101112`.
    pub run: String,
    /// The pipeline's name.
    pub pipeline: String,
    /// The path of the pipeline file, as it was given.
    pub file: PathBuf,
    /// The parameters of each ablation and seed, by its name; the empty name is the pipeline without an ablation.
    pub params: BTreeMap<String, Value>,
    /// For each ablation and seed, the original spelling of numbers that JSON writes differently (3.10, 1e-4).
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub typed: BTreeMap<String, BTreeMap<String, String>>,
    /// The values of `--set`.
    #[serde(default)]
    pub settings: Vec<String>,
    /// The nodes that the run was asked for, as typed; empty if it was asked for all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub targets: Vec<String>,
    /// The nodes that it was to execute although they were cached, as typed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub forced: Vec<String>,
    /// The version of triplay.
    pub triplay: String,
    /// The code version of each stage kind that is used.
    #[serde(default)]
    pub kinds: BTreeMap<String, u32>,
    /// The facts of each of these kinds; empty in records of earlier versions.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub facts: BTreeMap<String, KindFacts>,
    /// The machine on which it ran.
    #[serde(default)]
    pub machine: Machine,
    /// When it began, by the machine's clock (RFC 3339).
    #[serde(default)]
    pub began: String,
    /// The cache that holds the blobs. In the file it is where the cache was during the run.
    pub cache: PathBuf,
    /// The name of the run's root in the cache.
    #[serde(default)]
    pub root: String,
    /// The digest of the names and keys of all nodes, once all are done: runs with equal results have equal digests.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<Digest>,
    /// The digests of the files beside it, once the run has ended.
    #[serde(default)]
    pub files: BTreeMap<String, Digest>,
    /// The first metric of its tables, once it has ended; none if it measured nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub main: Option<MainMetric>,
    /// Messages about files that could not be gathered in the folder after the last node. The nodes' outputs are kept all the
    /// same.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub incomplete: Vec<String>,
    /// The phases of training that ended with the weights that they began with, a line for each with the cause.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unchanged: Vec<String>,
    /// The number of nodes that its targets need; once the run has ended, without those that loops did not reach.
    pub nodes: usize,
    /// `running`, `done`, `failed` or `interrupted`; a run that ended without a status is read as `killed`.
    pub status: String,
    /// Executed nodes.
    pub ran: usize,
    /// Nodes whose outputs were found in the cache.
    pub cached: usize,
    /// Executed although recorded, because a deleted output was needed.
    #[serde(default)]
    pub again: usize,
    /// Nodes that failed.
    pub failed: usize,
    /// Nodes that were not executed because one that feeds them failed.
    pub skipped: usize,
    /// The run's duration: so far, if it is under way; until its last event, if it was killed.
    pub seconds: f64,
}

/// A metric that stands for a run in lists.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MainMetric {
    /// As tables call it, such as `attack` or `train.loss`.
    pub name: String,
    /// Whether it is a share from 0 to 1.
    pub share: bool,
    /// The least and the greatest of its last values over ablations and combinations of matrices, each the mean over its seeds.
    pub least: f64,
    /// See `least`.
    pub most: f64,
}

impl RunRecord {
    /// The purpose of a kind's nodes.
    pub fn purpose(&self, kind: &str) -> Purpose {
        match self.facts.get(kind) {
            Some(facts) => facts.purpose,
            None => before_facts(kind),
        }
    }

    /// The role of a kind's parameter in its result.
    pub fn part(&self, kind: &str, path: &str) -> Option<Part> {
        self.facts.get(kind)?.part(path)
    }

    /// The parameters of an ablation or seed by name: numbers as they were typed, everything else as JSON.
    pub fn typed_params(&self, variant: &str) -> impl Iterator<Item = (&str, Cow<'_, str>)> {
        let typed = self.typed.get(variant);
        let params = self.params.get(variant).and_then(Value::as_object).into_iter().flatten();
        params.map(move |(name, value)| {
            let typed = typed.and_then(|typed| typed.get(name));
            (name.as_str(), typed.map_or_else(|| value.to_string().into(), |typed| typed.into()))
        })
    }

    /// Seconds from when it began to a time.
    fn seconds_until(&self, until: jiff::Timestamp) -> f64 {
        let began = self.began.parse::<jiff::Timestamp>();
        began.map_or(self.seconds, |began| until.duration_since(began).as_secs_f64().max(0.0))
    }

    /// The run's cache, if it still exists: opening a missing one would create it.
    pub fn store(&self) -> anyhow::Result<Option<Store>> {
        let is_there = Store::is_in(&self.cache);
        Ok(is_there.then(|| Store::open(&self.cache)).transpose()?)
    }

    /// The path of a content in the run's cache, whether or not it is there.
    pub fn blob(&self, digest: &Digest) -> PathBuf {
        let hex = digest.to_string();
        self.cache.join("blobs").join(&hex[..2]).join(hex)
    }
}

/// An open run folder.
pub struct RunFolder {
    /// Where it is: `results/<pipeline>/<run>`.
    pub path: PathBuf,
    nodes: File,
}

impl RunFolder {
    /// Creates `results/<pipeline>/<run>/`. A run is named by the time. The name sorts after those of all earlier runs of any
    /// pipeline, even if the clock was set back.
    pub fn create(pipeline: &str) -> anyhow::Result<(String, RunFolder)> {
        let parent = Path::new(RESULTS).join(pipeline);
        let fail = || format!("cannot create a run folder in {}", parent.display());
        create_private(&parent).with_context(fail)?;
        let now = jiff::Timestamp::now().strftime(TIME).to_string();
        let newest = run_folders(None).pop().and_then(|run| run.order);
        let (time, first) = match newest {
            Some((time, number)) if time >= now => (time, number + 1),
            _ => (now, 1),
        };
        for number in first.. {
            let run = if number == 1 { time.clone() } else { format!("{time}-{number}") };
            let path = parent.join(&run);
            match create_private_in(&parent, &path) {
                Ok(()) => {
                    let nodes = File::create_new(path.join(NODES)).with_context(fail)?;
                    // Held while the run is under way. Where files cannot be locked, the run looks like a killed one.
                    let _ = nodes.try_lock();
                    return Ok((run, RunFolder { path, nodes }));
                }
                Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => continue,
                Err(error) => return Err(error).with_context(fail),
            }
        }
        bail!(fail())
    }

    /// Appends a finished node.
    pub fn add(&mut self, node: &NodeReport) -> anyhow::Result<()> {
        let line = seal(node)? + "\n";
        self.nodes
            .write_all(line.as_bytes())
            .with_context(|| format!("cannot write in {}", self.path.display()))
    }
}

/// Replaces `run.json`.
pub fn write_record(folder: &Path, record: &RunRecord) -> anyhow::Result<()> {
    let path = folder.join(RECORD);
    write_durably(&path, seal_file(record)?.as_bytes())
        .with_context(|| format!("cannot write {}", path.display()))
}

/// The digests of the files that a run's folder holds beside its record.
pub fn digests(folder: &Path) -> anyhow::Result<BTreeMap<String, Digest>> {
    let mut digests = BTreeMap::new();
    for name in ["pipeline.yaml", "extends.yaml", "nodes.jsonl", "metrics.parquet"] {
        let path = folder.join(name);
        if name == "extends.yaml" && !path.exists() {
            continue;
        }
        let digest =
            Digest::of_file_bytes(&path).with_context(|| format!("cannot read {}", path.display()))?;
        digests.insert(name.to_owned(), digest);
    }
    Ok(digests)
}

/// The path of a file of a run's folder. No part of it may be a link: the folder may come from a stranger.
pub(super) fn place_in(folder: &Path, name: &str) -> anyhow::Result<PathBuf> {
    Ok(read::inside(folder, name)?)
}

/// The content of a file of a run's folder.
pub(super) fn read_in(folder: &Path, name: &str, most: u64) -> anyhow::Result<Vec<u8>> {
    let path = place_in(folder, name)?;
    read::bytes(&path, most).with_context(|| format!("cannot read {}", path.display()))
}

/// The path of a file or folder in a cache, if it is still there. Its content must have the recorded digest.
pub fn recorded_at(path: PathBuf, digest: &Digest) -> anyhow::Result<Option<PathBuf>> {
    if !path.exists() {
        return Ok(None);
    }
    let found = Digest::of_path(&path).with_context(|| format!("cannot read {}", path.display()))?;
    digest.ensure_is(found, &path)?;
    Ok(Some(path))
}

/// A run, read from its folder.
pub struct Run {
    /// The run's folder.
    pub folder: PathBuf,
    /// The content of its `run.json`.
    pub record: RunRecord,
    /// All nodes; if an ablation or seed was selected, its nodes, without its name in theirs.
    pub nodes: Vec<NodeReport>,
    /// The selected ablation or seed; `None` for the whole run.
    pub ablation: Option<String>,
    /// Lines of `nodes.jsonl` that were torn or altered.
    pub damaged: usize,
}

/// The order of runs, from the names that triplay gives them: the time and a number.
type Order = (String, u32);

/// The format of the time in a run's name.
const TIME: &str = "%Y%m%d-%H%M%S";
const TIME_LENGTH: usize = "20261129-120000".len();

/// The order in a name; `None` for a name that triplay does not give.
fn order(name: &str) -> Option<Order> {
    let (time, number) = name.split_at_checked(TIME_LENGTH)?;
    let number = match number.strip_prefix('-') {
        None if number.is_empty() => 1,
        None => return None,
        Some(digits) => {
            let number: u32 = digits.parse().ok()?;
            ((2..u32::MAX).contains(&number) && number.to_string() == digits).then_some(number)?
        }
    };
    let is_time =
        time.bytes().enumerate().all(|(at, byte)| if at == 8 { byte == b'-' } else { byte.is_ascii_digit() })
            && jiff::civil::DateTime::strptime(TIME, time).is_ok();
    is_time.then(|| (time.to_owned(), number))
}

/// The folder of a run.
struct Found {
    path: PathBuf,
    /// `None` if the folder was renamed and its record cannot be read.
    order: Option<Order>,
    /// The original name of the run.
    made_as: Option<String>,
}

impl Found {
    fn new(path: PathBuf) -> Found {
        let name = name(&path);
        if let Some(order) = order(&name) {
            return Found { path, order: Some(order), made_as: Some(name) };
        }
        // Somebody has renamed it. Its record has its original name or its time.
        let record = read_in(&path, RECORD, MAX_PARTS_BYTES).ok();
        let record = record.and_then(|text| serde_json::from_slice::<RunRecord>(&text).ok());
        let began = || {
            let began: jiff::Timestamp = record.as_ref()?.began.parse().ok()?;
            Some((began.strftime(TIME).to_string(), 1))
        };
        let order = record.as_ref().and_then(|record| order(&record.run)).or_else(began);
        Found { path, order, made_as: record.map(|record| record.run) }
    }

    /// Its place among the others; a copy sorts before its original.
    fn place(&self) -> (&Option<Order>, bool, &Path) {
        (&self.order, self.made_as.as_deref() == Some(&*name(&self.path)), &self.path)
    }
}

/// The suffix of pipelines that judge the responses of another run again.
pub const JUDGED: &str = "-judged";

/// Such a pipeline, in the folder of the judged run, and the text that it begins with.
pub const JUDGE_FILE: &str = "judge.yaml";
/// The text with which such a pipeline begins.
pub const JUDGE_MARK: &str = "# Written by `triplay judge`";

/// The same for panels: the suffix of their pipelines, the pipeline in the folder of the run whose ablations meet, and the text
/// that it begins with.
pub const PANEL: &str = "-panel";
/// A panel's pipeline, in the folder of the run whose ablations meet.
pub const PANEL_FILE: &str = "panel.yaml";
/// The text with which such a pipeline begins.
pub const PANEL_MARK: &str = "# Written by `triplay results panel`";

/// The folder of the outputs that stages publish, in that of the run.
pub const PUBLISHED: &str = "outputs";

/// Whether a run was made from another one by `judge` or `results panel`.
fn is_derived(run: &Path) -> bool {
    let ends = |end: &str| {
        run.parent().is_some_and(|pipeline| pipeline.as_os_str().as_encoded_bytes().ends_with(end.as_bytes()))
    };
    // A user's pipeline may have this suffix, too.
    let is_panel = || {
        read_in(run, "pipeline.yaml", MAX_TEXT_BYTES)
            .is_ok_and(|text| text.starts_with(PANEL_MARK.as_bytes()))
    };
    ends(JUDGED) || ends(PANEL) && is_panel()
}

/// All run folders, oldest first.
fn run_folders(pipeline: Option<&str>) -> Vec<Found> {
    let mut runs = Vec::new();
    for folder in folders(Path::new(RESULTS)) {
        if pipeline.is_none_or(|pipeline| folder.ends_with(pipeline)) {
            runs.extend(folders(&folder).into_iter().filter(|path| is_run(path)).map(Found::new));
        }
    }
    runs.sort_by(|a, b| a.place().cmp(&b.place()));
    runs
}

/// Whether a folder is a run's: it has a record, or it is where triplay creates runs and has such a name. A run that is killed
/// early has no record.
pub(super) fn is_run(folder: &Path) -> bool {
    folder.join(NODES).is_file() && (folder.join(RECORD).is_file() || is_place_of_run(folder))
}

/// Whether a path is `results/<pipeline>/<run>` with a name as triplay gives them.
pub(super) fn is_place_of_run(folder: &Path) -> bool {
    let is_place = |path: &Path| {
        let results = path.parent().and_then(Path::parent).and_then(Path::file_name);
        results.is_some_and(|name| name == RESULTS) && order(&name(path)).is_some()
    };
    std::path::absolute(folder).is_ok_and(|path| is_place(&path))
        || folder.canonicalize().is_ok_and(|path| is_place(&path))
}

fn name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

impl Run {
    /// Finds a run by its name, a unique beginning of its name, or `latest`. `pipeline/run` narrows the search, `run@name`
    /// selects the nodes of one ablation or seed.
    pub fn find(text: &str) -> anyhow::Result<Run> {
        let (text, ablation) = text.split_once('@').map_or((text, None), |(run, name)| (run, Some(name)));
        let run = Run::read(&Run::locate(text)?)?;
        match ablation {
            None => Ok(run),
            Some(ablation) => run.only(ablation),
        }
    }

    /// The folder of a run.
    pub fn locate(text: &str) -> anyhow::Result<PathBuf> {
        // An empty text would be the beginning of every name.
        const EMPTY: &str = "a run must be given by its name, the beginning of its name, `latest` or its folder, found an empty text";
        let direct = Path::new(text);
        anyhow::ensure!(!text.is_empty(), EMPTY);
        if is_run(direct) {
            return Ok(direct.to_owned());
        }
        anyhow::ensure!(
            !direct.join(NODES).exists(),
            "{} is not the folder of a run: it must have a record {RECORD} beside its {NODES}, found none",
            direct.display()
        );
        let text = text.trim_end_matches('/');
        let (pipeline, run) =
            text.rsplit_once('/').map_or((None, text), |(pipeline, run)| (Some(pipeline), run));
        anyhow::ensure!(!run.is_empty(), EMPTY);
        let runs = run_folders(pipeline);
        let found: Vec<&Found> = match run {
            "latest" => {
                // A derived run counts only if its pipeline is named.
                let own = |found: &&Found| pipeline.is_some() || !is_derived(&found.path);
                runs.iter().rfind(own).or(runs.last()).into_iter().collect()
            }
            _ => {
                // Present names first, then the original ones.
                let now = |found: &Found| Some(name(&found.path));
                let before = |found: &Found| found.made_as.clone();
                let by = |called: &dyn Fn(&Found) -> Option<String>, whole: bool| -> Vec<&Found> {
                    let is_meant = |name: String| if whole { name == run } else { name.starts_with(run) };
                    runs.iter().filter(|found| called(found).is_some_and(is_meant)).collect()
                };
                let ways = [by(&now, true), by(&before, true), by(&now, false), by(&before, false)];
                ways.into_iter().find(|found| !found.is_empty()).unwrap_or_default()
            }
        };
        match found[..] {
            [found] => Ok(found.path.clone()),
            [] if runs.is_empty() => {
                bail!("there are no runs in {RESULTS}/ here; `triplay pipeline run FILE` makes one")
            }
            [] => {
                let names: Vec<String> = runs.iter().rev().map(|found| name(&found.path)).collect();
                let all: Vec<&str> = names.iter().map(String::as_str).collect();
                let of_pipeline = run_folders(Some(run));
                match engine::nearest(run, &all) {
                    _ if !of_pipeline.is_empty() => {
                        bail!(
                            "there is no run `{run}`; the newest run of the pipeline `{run}` is `{run}/latest`"
                        )
                    }
                    Some(near) => bail!("there is no run `{run}`; did you mean `{near}`?"),
                    None => bail!(
                        "there is no run `{run}`; the newest are {}",
                        all[..all.len().min(MOST_NAMED)].join(", ")
                    ),
                }
            }
            _ => {
                let newest = found.iter().rev().take(MOST_NAMED);
                let names: Vec<String> = newest.map(|found| found.path.display().to_string()).collect();
                let more = match found.len().saturating_sub(MOST_NAMED) {
                    0 => String::new(),
                    more => format!(" or one of {more} older runs"),
                };
                bail!("`{run}` could be {}{more}; write more of its name", names.join(" or "))
            }
        }
    }

    /// All runs, newest first.
    pub fn all(pipeline: Option<&str>) -> Vec<PathBuf> {
        run_folders(pipeline).into_iter().rev().map(|found| found.path).collect()
    }

    /// Reads `run.json`. A run that says `running` while no process leads it counts as `killed`. The cache is found again if it was
    /// moved with the run, and recognises the run if that was moved alone.
    pub fn read_record(folder: &Path) -> anyhow::Result<RunRecord> {
        let mut record = Run::written_record(folder)?;
        if record.status == "running" && !is_under_way(folder) {
            // It may have ended after it was read.
            record = Run::written_record(folder)?;
        } else {
            if record.status == "running" {
                record.seconds = record.seconds_until(jiff::Timestamp::now());
            }
            return Ok(record);
        }
        if record.status == "running" {
            // It was killed before it wrote its result.
            let (nodes, _) = Run::read_nodes(folder)?;
            record.status = "killed".into();
            record.cached = nodes.iter().filter(|node| node.cached).count();
            record.ran = nodes.len() - record.cached;
            record.skipped = record.nodes.saturating_sub(nodes.len());
            let newest = Events::of(folder).newest.and_then(|newest| newest.parse().ok());
            record.seconds = newest.map_or(record.seconds, |newest| record.seconds_until(newest));
        }
        Ok(record)
    }

    /// The record as written in the folder, with the path of the run's cache as it is now.
    fn written_record(folder: &Path) -> anyhow::Result<RunRecord> {
        let (path, text) = (folder.join(RECORD), read_in(folder, RECORD, MAX_PARTS_BYTES)?);
        anyhow::ensure!(
            is_sealed_file(&text) || memchr::memmem::find(&text, b"\"check\"").is_none(),
            "{} is damaged or was edited since triplay wrote it; run the pipeline again for a new run",
            path.display()
        );
        let record = serde_json::from_slice(&text);
        let mut record: RunRecord =
            record.with_context(|| format!("{} is not a run record", path.display()))?;
        if let Ok(place) = folder.canonicalize() {
            record.cache = cache_of(&record, &place);
            // A cache that cannot be written keeps what it knows of the run.
            let _ = recognise(&record.cache, &record.root, &place);
        }
        Ok(record)
    }

    /// Reads the record and the finished nodes. Damaged lines are counted and left out.
    pub fn read(folder: &Path) -> anyhow::Result<Run> {
        let record = Run::read_record(folder)?;
        let (nodes, damaged) = Run::read_nodes(folder)?;
        Ok(Run { folder: folder.to_owned(), record, nodes, ablation: None, damaged })
    }

    /// The finished nodes, and the number of damaged lines. A killed run may end in half a line; that node does not count.
    pub fn read_nodes(folder: &Path) -> anyhow::Result<(Vec<NodeReport>, usize)> {
        let text = read_in(folder, NODES, MAX_LIST_BYTES)?;
        let mut damaged = 0;
        let nodes = sealed_lines(&text, |_| damaged += 1)
            .filter_map(|line| serde_json::from_slice(line).ok())
            .collect();
        Ok((nodes, damaged))
    }

    /// Selects the nodes of one ablation, seed, or both. For an ablation with several seeds these are the nodes of all seeds,
    /// then named `s1/…`.
    fn only(mut self, ablation: &str) -> anyhow::Result<Run> {
        let of_ablation = |name: &str| {
            let (of, seed, _) = variant(name);
            of == ablation && seed.is_some()
        };
        let is_exact = self.record.params.contains_key(ablation);
        let prefix = match is_exact || !self.record.params.keys().any(|name| of_ablation(&format!("{name}/")))
        {
            true => format!("{ablation}/"),
            false => format!("{ablation}-"),
        };
        let rest = |name: &str| {
            name.strip_prefix(&prefix).filter(|_| is_exact || of_ablation(name)).map(str::to_owned)
        };
        if ablation.is_empty() || !self.record.params.keys().any(|name| rest(&format!("{name}/")).is_some()) {
            let known: Vec<&str> =
                self.record.params.keys().map(String::as_str).filter(|name| !name.is_empty()).collect();
            match known[..] {
                [] => bail!("run {} was made without --ablation and has one seed", self.record.run),
                _ => {
                    bail!("run {} has no ablation `{ablation}`; it has {}", self.record.run, known.join(", "))
                }
            }
        }
        self.nodes.retain_mut(|node| match rest(&node.node) {
            Some(rest) => {
                node.node = rest;
                true
            }
            None => false,
        });
        let params = std::mem::take(&mut self.record.params);
        let typed = std::mem::take(&mut self.record.typed);
        let own = |name: String| match is_exact {
            true => Some(name).filter(|name| name == ablation),
            false => Some(rest(&format!("{name}/"))?.trim_end_matches('/').to_owned()),
        };
        self.record.params =
            params.into_iter().filter_map(|(name, value)| Some((own(name)?, value))).collect();
        self.record.typed = typed.into_iter().filter_map(|(name, value)| Some((own(name)?, value))).collect();
        self.ablation = Some(ablation.to_owned());
        Ok(self)
    }

    /// The path of a file in the run's folder, if it is there. Its content must be the one recorded when the run ended.
    pub fn recorded(&self, name: &str) -> anyhow::Result<Option<PathBuf>> {
        let path = place_in(&self.folder, name)?;
        if !path.exists() {
            return Ok(None);
        }
        if let Some(recorded) = self.record.files.get(name) {
            let found = Digest::of_file_bytes(&path);
            let found = found.with_context(|| format!("cannot read {}", path.display()))?;
            anyhow::ensure!(
                found == *recorded,
                "{} is damaged or was edited since the run ended; run the pipeline again for a new run",
                path.display()
            );
        }
        Ok(Some(path))
    }

    /// Reads such a file: `pipeline.yaml`, or `extends.yaml`.
    pub fn recorded_text(&self, name: &str) -> anyhow::Result<Option<String>> {
        let Some(path) = self.recorded(name)? else { return Ok(None) };
        let text =
            read::text(&path, MAX_TEXT_BYTES).with_context(|| format!("cannot read {}", path.display()))?;
        Ok(Some(text))
    }

    /// The title for people: the run, and its ablation if one is selected.
    pub fn title(&self) -> String {
        match &self.ablation {
            None => self.record.run.clone(),
            Some(ablation) => format!("{}@{ablation}", self.record.run),
        }
    }

    /// The finished node of this name, with or without zeros before its rounds.
    pub fn node(&self, name: &str) -> Option<&NodeReport> {
        let bare = bare_rounds(name);
        self.nodes.iter().find(|node| node.node == name || bare_rounds(&node.node) == bare)
    }

    /// The node and output that `node`, `node.output` or `loop[round].value` names; without an output the first.
    pub fn output(&self, text: &str) -> anyhow::Result<(&NodeOutput, PathBuf)> {
        let carried = match self.node(text) {
            None => super::carried::node_of(self, text)?,
            Some(_) => None,
        };
        let carried = carried.map(|(node, output)| match output {
            Some(output) => format!("{node}.{output}"),
            None => node,
        });
        let text = carried.as_deref().unwrap_or(text);
        let (node, output) = match self.node(text) {
            Some(node) => (Some(node), None),
            None => {
                text.rsplit_once('.').map_or((None, None), |(name, output)| (self.node(name), Some(output)))
            }
        };
        let Some(node) = node else {
            let names: Vec<&str> = self.nodes.iter().map(|node| node.node.as_str()).collect();
            let hint = hint_for_node(text, &names).map_or(String::new(), |hint| format!("; {hint}"));
            bail!("run {} has no finished node `{text}`{hint}", self.record.run)
        };
        let found = match output {
            None => node.outputs.first(),
            Some(output) => node.outputs.iter().find(|known| known.name == output),
        };
        let Some(found) = found else {
            let known: Vec<&str> = node.outputs.iter().map(|output| output.name.as_str()).collect();
            bail!("`{}` has only the outputs {}", node.node, known.join(", "))
        };
        Ok((found, self.record.blob(&found.digest)))
    }
}

/// Whether the process that writes a run lives: it holds a lock on `nodes.jsonl`.
pub(super) fn is_under_way(folder: &Path) -> bool {
    let file = read::open(&folder.join(NODES));
    file.is_ok_and(|file| matches!(file.try_lock_shared(), Err(TryLockError::WouldBlock)))
}

/// What somebody may have meant by the name of a node, or of an output, that is not among these nodes.
pub fn hint_for_node(text: &str, names: &[&str]) -> Option<String> {
    let stage = text.rsplit_once('.').map_or(text, |(stage, _)| stage);
    let variants: Vec<String> = names
        .iter()
        .filter(|name| {
            let label = name.strip_prefix(text).or_else(|| name.strip_prefix(stage));
            label.is_some_and(|label| label.starts_with('[') && label.ends_with(']'))
        })
        .map(|name| format!("`{name}`"))
        .collect();
    if !variants.is_empty() {
        let more = if variants.len() > MOST_VARIANTS { ", …" } else { "" };
        let shown = &variants[..variants.len().min(MOST_VARIANTS)];
        return Some(format!("its variants are {}{more}", shown.join(", ")));
    }
    let in_scope = |name: &&&str| {
        let last = name.rsplit_once('/').map(|(_, last)| last);
        last == Some(text) || last == Some(stage)
    };
    let found = engine::nearest(text, names).or_else(|| names.iter().rev().find(in_scope).copied());
    if let Some(found) = found.or_else(|| engine::nearest(stage, names)) {
        return Some(format!("did you mean `{found}`?"));
    }
    // A loop hands on what a node of its last round made.
    let in_loop = |name: &&&str| name.strip_prefix(stage).is_some_and(|rest| rest.starts_with('['));
    names
        .iter()
        .rev()
        .find(in_loop)
        .map(|name| format!("`{stage}` is a loop, and has nodes such as `{name}`"))
}

/// Most variants that a hint names.
const MOST_VARIANTS: usize = 4;

/// A node's name without the leading zeros of its rounds. Their number depends on how many rounds the loop has.
pub fn bare_rounds(name: &str) -> String {
    let mut bare = String::with_capacity(name.len());
    let mut rest = name;
    while let Some((before, after)) = rest.split_once('[') {
        bare += before;
        bare.push('[');
        let digits = after.bytes().take_while(u8::is_ascii_digit).count();
        let zeros = after.bytes().take_while(|byte| *byte == b'0').count();
        let is_round = digits > 0 && after[digits..].starts_with("]/");
        rest = if is_round { &after[zeros.min(digits - 1)..] } else { after };
    }
    bare + rest
}

fn folders(path: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(path).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).filter(|path| path.is_dir()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_names_no_node_is_told_its_variants_the_nearest_or_what_a_loop_has() {
        let names = ["dew", "train[low]", "train[high]", "simmer[1]/stir", "simmer[2]/stir"];
        let hint = |text: &str| hint_for_node(text, &names).unwrap_or_default();
        for text in ["train", "train.model"] {
            assert_eq!(hint(text), "its variants are `train[low]`, `train[high]`");
        }
        assert_eq!([hint("deu"), hint("deu.out")], ["did you mean `dew`?", "did you mean `dew`?"]);
        assert_eq!(hint("stir.out"), "did you mean `simmer[2]/stir`?");
        assert_eq!(hint("simmer.brew"), "`simmer` is a loop, and has nodes such as `simmer[2]/stir`");
        assert_eq!(hint_for_node("something", &names), None);
    }

    #[test]
    fn only_names_as_triplay_gives_them_are_times() {
        let time = |text: &str| text.to_owned();
        assert_eq!(order("20261129-201704"), Some((time("20261129-201704"), 1)));
        assert_eq!(order("20261129-201704-12"), Some((time("20261129-201704"), 12)));
        for name in [
            "zzz",
            "2026",
            "20261129-201704-",
            "20261129-201704-1",
            "20261129-201704-02",
            "20261129-201704-4294967295",
            "20261129-201704-best",
            "20261329-201704",
            "20261129_201704",
            "2026112é-20170",
            "",
        ] {
            assert_eq!(order(name), None, "{name}");
        }
    }

    #[test]
    fn rounds_are_the_same_with_and_without_zeros_and_labels_stay_as_they_are() {
        assert_eq!(bare_rounds("play[1]/red[003]/update"), "play[1]/red[3]/update");
        assert_eq!(bare_rounds("l[000]/a"), "l[0]/a");
        assert_eq!(bare_rounds("heat[007]"), "heat[007]", "a label");
        assert_eq!(bare_rounds("a[x,01]/b"), "a[x,01]/b");
    }
}
