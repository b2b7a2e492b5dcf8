//! A run as a report needs it: its record, what its nodes came to, their metrics, and what is still going on.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::path::Path;

use anyhow::{Context, bail};

use data::{self, MetricRow, RunMetricRow};
use engine::{NodeReport, Purpose};
use runs::{self, Events, Run, RunRecord, recorded_at};
use store::{Digest, Store};

/// A run, or the ablation or seed of it that was asked for.
pub struct Source {
    /// Nodes in the order of the graph, by their full names.
    pub run: Run,
    pub events: Events,
    /// The cache, where it is still there.
    pub store: Option<Store>,
    /// In the order of the nodes.
    pub metrics: Vec<RunMetricRow>,
    /// Datasets of metrics that the cache has let go of.
    pub missing: usize,
    /// The ablation or seed that was asked for.
    pub only: Option<String>,
}

/// Metrics that were read before, by the content of their file: a live page asks for the same ones again and again.
pub type Known = HashMap<Digest, Vec<MetricRow>>;

impl Source {
    /// The run of a name; `RUN@NAME` is one ablation of it, or one seed.
    pub fn find(text: &str) -> anyhow::Result<Source> {
        let (run, only) = text.split_once('@').map_or((text, None), |(run, name)| (run, Some(name)));
        let folder = Run::locate(run)?;
        Source::open(&folder, only, &mut Known::new(), Events::of(&folder))
    }

    pub fn open(
        folder: &Path,
        only: Option<&str>,
        known: &mut Known,
        events: Events,
    ) -> anyhow::Result<Source> {
        let mut run = Run::read(folder)?;
        run.nodes.sort_by_key(|node| node.index);
        let store = run.record.store()?;
        let (metrics, missing) = metrics(&run, store.as_ref(), known)?;
        let mut source = Source { run, events, store, metrics, missing, only: None };
        if let Some(only) = only {
            source.keep_only(only)?;
        }
        Ok(source)
    }

    /// What people call it: the run, and the ablation where it is one.
    pub fn title(&self) -> String {
        match &self.only {
            None => self.run.record.run.clone(),
            Some(only) => format!("{}@{only}", self.run.record.run),
        }
    }

    pub fn record(&self) -> &RunRecord {
        &self.run.record
    }

    pub fn is_running(&self) -> bool {
        self.run.record.status == "running"
    }

    /// Whether a node is of what was asked for.
    pub fn has(&self, node: &str) -> bool {
        self.only.as_ref().is_none_or(|only| is_of(node, only))
    }

    /// Whether the texts are those of the made-up world, which harm nobody.
    pub fn is_sandbox(&self) -> bool {
        runs::Texts::of(&self.run) == runs::Texts::Revealed
    }

    /// Whether evaluations kept what came of each prompt; runs of versions before did not.
    pub fn has_outcomes(&self) -> bool {
        let evaluations = || {
            self.run.nodes.iter().filter(|node| self.run.record.purpose(&node.kind) == Purpose::Evaluation)
        };
        let keeps = |node: &NodeReport| node.outputs.iter().any(|output| output.artifact == "outcomes");
        evaluations().next().is_none() || evaluations().any(keeps)
    }

    fn keep_only(&mut self, only: &str) -> anyhow::Result<()> {
        let run = &mut self.run;
        let known: Vec<String> = run.record.params.keys().filter(|name| !name.is_empty()).cloned().collect();
        let is_own = |name: &str| is_of(&format!("{name}/"), only);
        if only.is_empty() || !known.iter().any(|name| is_own(name)) {
            match known[..] {
                [] => bail!("run {} was made without --ablation and has one seed", run.record.run),
                _ => bail!(
                    "run {} has no ablation or seed `{only}`; it has {}",
                    run.record.run,
                    known.join(", ")
                ),
            }
        }
        run.nodes.retain(|node| is_of(&node.node, only));
        run.record.params.retain(|name, _| is_own(name));
        self.metrics.retain(|row| is_of(&row.node, only));
        self.only = Some(only.to_owned());
        Ok(())
    }
}

/// Whether a node is of an ablation with all of its seeds, or of a single variant.
fn is_of(node: &str, wanted: &str) -> bool {
    let (ablation, ..) = runs::variant(node);
    ablation == wanted || node.split_once('/').is_some_and(|(name, _)| name == wanted)
}

/// The metrics of all nodes that are done, and how many datasets of them are gone.
fn metrics(
    run: &Run,
    store: Option<&Store>,
    known: &mut Known,
) -> anyhow::Result<(Vec<RunMetricRow>, usize)> {
    // It is there once the run has ended; a killed run has none, or half of one.
    if matches!(run.record.status.as_str(), "done" | "failed")
        && let Some(gathered) = run.recorded("metrics.parquet")?
    {
        return Ok((analysis::read(&gathered)?, 0));
    }
    let (mut rows, mut missing) = (Vec::new(), 0);
    for node in &run.nodes {
        for output in node.outputs.iter().filter(|output| output.artifact == "metrics") {
            let own = match known.entry(output.digest) {
                Entry::Occupied(own) => own.into_mut(),
                Entry::Vacant(place) => {
                    let about = || format!("metrics of {}; {VERIFY}", node.node);
                    let path =
                        store.map(|store| recorded_at(store.blob_path(&output.digest), &output.digest));
                    let Some(path) = path.transpose().with_context(about)?.flatten() else {
                        missing += 1;
                        continue;
                    };
                    place.insert(data::read::<MetricRow>(&path).with_context(about)?)
                }
            };
            let own = own.iter();
            rows.extend(own.map(|metric| RunMetricRow { node: node.node.clone(), metric: metric.clone() }));
        }
    }
    Ok((rows, missing))
}

/// What to do about a dataset that cannot be read.
pub const VERIFY: &str = "`triplay cache verify` puts aside what is damaged, and the pipeline makes it again";
