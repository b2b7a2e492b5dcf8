//! A run as a report needs it: its record, nodes, metrics, and events.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::path::Path;

use anyhow::{Context, bail};

use data::{self, MetricRow, RunMetricRow};
use engine::{NodeReport, Purpose};
use runs::{self, Events, Run, RunRecord, recorded_at};
use store::{Digest, Store};

/// A run, or the selected ablation or seed of it.
pub struct Source {
    /// With nodes in the order of the graph, by their full names.
    pub run: Run,
    /// What is at work, what failed, and the newest lines of the log.
    pub events: Events,
    /// The cache, if it still exists.
    pub store: Option<Store>,
    /// In the order of the nodes.
    pub metrics: Vec<RunMetricRow>,
    /// The number of datasets of metrics that are gone from the cache.
    pub missing: usize,
    /// The selected ablation or seed.
    pub only: Option<String>,
}

/// Metrics that were read before, by the digest of their file and the stage: a live page needs the same ones again and again.
pub(crate) type Known = HashMap<(Digest, String), Vec<MetricRow>>;

impl Source {
    /// The run of a name; `RUN@NAME` selects one ablation, or one seed.
    pub fn find(text: &str) -> anyhow::Result<Source> {
        let (run, only) = text.split_once('@').map_or((text, None), |(run, name)| (run, Some(name)));
        let folder = Run::locate(run)?;
        Source::open(&folder, only, &mut Known::new(), Events::of(&folder))
    }

    /// Reads a run, or the ablation or seed `only` of it. Metrics whose digest is in `known` are not read again.
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

    /// The title for people: the run, and its ablation if one is selected.
    pub fn title(&self) -> String {
        match &self.only {
            None => self.run.record.run.clone(),
            Some(only) => format!("{}@{only}", self.run.record.run),
        }
    }

    /// The content of the run's `run.json`.
    pub fn record(&self) -> &RunRecord {
        &self.run.record
    }

    /// Whether the run is under way.
    pub fn is_running(&self) -> bool {
        self.run.record.status == "running"
    }

    /// Whether a node belongs to the selected part.
    pub fn has(&self, node: &str) -> bool {
        self.only.as_ref().is_none_or(|only| is_of(node, only))
    }

    /// Whether the texts come from the made-up world, and so are harmless.
    pub fn is_sandbox(&self) -> bool {
        runs::Texts::of(&self.run) == runs::Texts::Revealed
    }

    /// Whether evaluations kept the outcome of each prompt; those of earlier versions did not.
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

/// Whether a node belongs to an ablation with all of its seeds, or to a single variant.
fn is_of(node: &str, wanted: &str) -> bool {
    let (ablation, ..) = runs::variant(node);
    ablation == wanted || node.split_once('/').is_some_and(|(name, _)| name == wanted)
}

/// The metrics of all finished nodes, and the number of datasets that are gone.
fn metrics(
    run: &Run,
    store: Option<&Store>,
    known: &mut Known,
) -> anyhow::Result<(Vec<RunMetricRow>, usize)> {
    // It exists once the run has ended; a killed run has none, or only a part.
    if matches!(run.record.status.as_str(), "done" | "failed")
        && let Some(gathered) = run.recorded("metrics.parquet")?
    {
        return Ok((analysis::read(&gathered)?, 0));
    }
    let (mut rows, mut missing) = (Vec::new(), 0);
    for node in &run.nodes {
        for output in node.outputs.iter().filter(|output| output.artifact == "metrics") {
            let (stage, _) = runs::stage(&node.node);
            let own = match known.entry((output.digest, stage.to_owned())) {
                Entry::Occupied(own) => own.into_mut(),
                Entry::Vacant(place) => {
                    let about = || format!("metrics of {}; {VERIFY}", node.node);
                    let path =
                        store.map(|store| recorded_at(store.blob_path(&output.digest), &output.digest));
                    let Some(path) = path.transpose().with_context(about)?.flatten() else {
                        missing += 1;
                        continue;
                    };
                    place.insert(data::metrics(&path, stage).with_context(about)?)
                }
            };
            let own = own.iter();
            rows.extend(own.map(|metric| RunMetricRow { node: node.node.clone(), metric: metric.clone() }));
        }
    }
    Ok((rows, missing))
}

/// Advice for a dataset that cannot be read.
pub(crate) const VERIFY: &str =
    "`triplay cache verify` moves damaged files away, and the pipeline makes them again";
