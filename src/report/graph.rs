//! A run's pipeline, stage by stage, with the progress of each. The pipeline is read again from the run's folder. If this version
//! of triplay cannot read it, the stages are derived from the nodes.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context;

use super::made_of::Provenance;
use super::model::{Graph, Stage};
use super::source::Source;
use engine::{self, EdgeRole, LoadOptions, NodeReport, Outline, Registry, Shape};
use runs::{Run, variant};
use store::Digest;

/// A pipeline as it was run.
pub(crate) struct Plan {
    outline: Outline,
    /// The nodes by their full names, each with its stage.
    nodes: Vec<(String, String)>,
    /// Files and folders of the user's that it names.
    pub files: Vec<PathBuf>,
}

impl Plan {
    /// Compiles the pipeline in the run's folder, with the settings, ablations and seeds of the run.
    pub(crate) fn read(source: &Source, registry: &Registry) -> anyhow::Result<Plan> {
        let record = source.record();
        let names: Vec<String> = record.params.keys().map(|name| format!("{name}/")).collect();
        let variants: Vec<(&str, Option<u64>)> = names
            .iter()
            .map(|name| variant(name.trim_start_matches('/')))
            .map(|(ablation, seed, _)| (ablation, seed))
            .collect();
        let mut ablations: Vec<String> = Vec::new();
        let mut seeds: Vec<u64> = Vec::new();
        for (ablation, seed) in &variants {
            if !ablation.is_empty() && !ablations.iter().any(|known| known == ablation) {
                ablations.push((*ablation).to_owned());
            }
            seeds.extend(seed.filter(|seed| !seeds.contains(seed)));
        }
        // If some variants have no seed, the file has the seeds.
        if variants.iter().any(|(_, seed)| seed.is_none()) {
            seeds.clear();
        }
        let folder = tempfile::tempdir().context("cannot create a temporary folder")?;
        let file = unpack(&source.run, folder.path())?;
        let base = folder.path().join(BASE);
        // Nothing is run, so files are not checked or hashed.
        let options = LoadOptions {
            settings: &record.settings,
            ablations: &ablations,
            seeds: &seeds,
            digest: &|_, _| Ok(Digest::of_bytes(b"unread")),
            look: false,
            base: Some(&base),
            site: None,
        };
        let graph = engine::load(&file, &options, registry)?;
        let nodes: Vec<(String, String)> = graph
            .nodes
            .iter()
            .filter(|node| source.has(&node.name))
            .map(|node| (node.name.clone(), stage_of(&node.name)))
            .collect();
        // All ablations have the same stages: they change only parameters.
        let one = ablations.get(..1).unwrap_or_default();
        let outline =
            engine::outline(&file, &LoadOptions { ablations: one, seeds: &[], ..options }, registry)?;
        let files = graph.files.iter().map(|file| file.path.clone()).collect();
        Ok(Plan { outline, nodes, files })
    }

    pub(crate) fn nodes(&self) -> usize {
        self.nodes.len()
    }
}

/// The copy of the pipeline's base file.
const BASE: &str = "extends.yaml";

/// Writes the pipeline file to a folder, with its base file beside it.
fn unpack(run: &Run, folder: &Path) -> anyhow::Result<PathBuf> {
    let file = folder.join("pipeline.yaml");
    let text = run.recorded_text("pipeline.yaml")?.context("its pipeline.yaml is gone")?;
    fs::write(&file, text).context("cannot write")?;
    if let Some(text) = run.recorded_text(BASE)? {
        fs::write(folder.join(BASE), text).context("cannot write")?;
    }
    Ok(file)
}

/// The stage of a node: its name without ablation and seed, rounds and labels. `play[1]/red[03]/update` belongs to
/// `play/red/update`.
pub(crate) fn stage_of(node: &str) -> String {
    let name = variant(node).2;
    let mut stage = String::with_capacity(name.len());
    let mut depth = 0usize;
    for char in name.chars() {
        match char {
            '[' => depth += 1,
            ']' => depth = depth.saturating_sub(1),
            char if depth == 0 => stage.push(char),
            _ => {}
        }
    }
    stage
}

/// Counts over the nodes of a stage.
#[derive(Default)]
struct Tally {
    total: usize,
    done: usize,
    cached: usize,
    seconds: f64,
    running: bool,
    failed: bool,
}

impl Tally {
    fn add(&mut self, other: &Tally) {
        self.total += other.total;
        self.done += other.done;
        self.cached += other.cached;
        self.seconds += other.seconds;
        self.running |= other.running;
        self.failed |= other.failed;
    }

    fn state(&self, run_is_running: bool) -> &'static str {
        match self {
            _ if self.failed => "failed",
            _ if self.running => "running",
            _ if self.done >= self.total && self.cached == self.done => "cached",
            _ if self.done >= self.total => "done",
            _ if run_is_running => "waiting",
            _ => "skipped",
        }
    }
}

/// The pipeline of a run with the state of each stage.
pub(crate) fn graph(source: &Source, plan: Option<&Plan>) -> Graph {
    let mut tallies: HashMap<String, Tally> = HashMap::new();
    for (_, stage) in plan.iter().flat_map(|plan| &plan.nodes) {
        tallies.entry(stage.clone()).or_default().total += 1;
    }
    for node in &source.run.nodes {
        let tally = tallies.entry(stage_of(&node.node)).or_default();
        tally.done += 1;
        tally.cached += usize::from(node.cached);
        tally.seconds += node.seconds;
        tally.total = tally.total.max(tally.done);
    }
    if source.is_running() {
        for node in source.events.at_work.keys().filter(|node| source.has(node)) {
            tallies.entry(stage_of(node)).or_default().running = true;
        }
    }
    for node in source.events.failed.keys().filter(|node| source.has(node)) {
        tallies.entry(stage_of(node)).or_default().failed = true;
    }
    let mut drawing = Drawing::default();
    match plan {
        Some(plan) => drawing.of_outline(&plan.outline),
        None => drawing.of_nodes(source),
    }
    drawing.finish(source, &mut tallies)
}

#[derive(Default)]
struct Drawing {
    stages: Vec<Stage>,
    places: HashMap<String, usize>,
    edges: Vec<(usize, usize)>,
}

impl Drawing {
    fn add(&mut self, id: &str, kind: &str, label: String, parent: Option<usize>) -> usize {
        if let Some(place) = self.places.get(id) {
            return *place;
        }
        self.places.insert(id.to_owned(), self.stages.len());
        self.stages.push(Stage {
            id: id.to_owned(),
            label,
            kind: kind.to_owned(),
            parent,
            state: String::new(),
            done: 0,
            total: 0,
            seconds: 0.0,
        });
        self.stages.len() - 1
    }

    fn of_outline(&mut self, outline: &Outline) {
        // A single ablation has a frame of its own, which is not a loop.
        let within = outline.frames.first().filter(|frame| frame.repeat.is_none());
        let prefix = within.map(|frame| format!("{}/", frame.name)).unwrap_or_default();
        let bare = |name: &str| name.strip_prefix(&prefix).unwrap_or(name).to_owned();
        let mut places: Vec<Option<usize>> = vec![None; outline.nodes.len()];
        for (index, node) in outline.nodes.iter().enumerate() {
            let Shape::Stage { kind, labels } = &node.shape else { continue };
            let parent = self.frames(outline, node.frame, &bare);
            let short = Outline::short_name(&node.name);
            let label = match labels.is_empty() {
                true => short.to_owned(),
                false => format!("{short}[{}]", labels.join(", ")),
            };
            places[index] = Some(self.add(&bare(&node.name), kind, label, parent));
        }
        // A value carried by a loop is not a stage: its source feeds the stages that use it.
        let mut feeders: Vec<BTreeSet<usize>> = vec![BTreeSet::new(); outline.nodes.len()];
        let mut edges = BTreeSet::new();
        for (index, place) in places.iter().enumerate() {
            feeders[index].extend(*place);
        }
        for edge in outline.edges.iter().filter(|edge| edge.role != EdgeRole::Next) {
            let from = feeders[edge.from.node].clone();
            match places[edge.to] {
                Some(to) => edges.extend(from.into_iter().map(|from| (from, to))),
                None => feeders[edge.to].extend(from),
            }
        }
        self.edges = edges.into_iter().filter(|(from, to)| from != to).collect();
    }

    /// The loops around a stage; returns the index of the innermost.
    fn frames(
        &mut self,
        outline: &Outline,
        frame: Option<usize>,
        bare: &dyn Fn(&str) -> String,
    ) -> Option<usize> {
        let frame = &outline.frames[frame?];
        let repeat = frame.repeat?;
        let parent = self.frames(outline, frame.frame, bare);
        let label = format!("{} × {repeat}", Outline::short_name(&frame.name));
        Some(self.add(&bare(&frame.name), "loop", label, parent))
    }

    fn of_nodes(&mut self, source: &Source) {
        let makers = Provenance::new(source);
        let mut firsts: BTreeMap<usize, &NodeReport> = BTreeMap::new();
        for node in &source.run.nodes {
            let id = stage_of(&node.node);
            let mut parent = None;
            for (cut, _) in id.match_indices('/') {
                let label = id[..cut].rsplit('/').next().unwrap_or_default().to_owned();
                parent = Some(self.add(&id[..cut], "loop", label, parent));
            }
            let label = id.rsplit('/').next().unwrap_or_default().to_owned();
            let place = self.add(&id, &node.kind, label, parent);
            firsts.entry(place).or_insert(node);
        }
        let mut edges = BTreeSet::new();
        for (to, node) in firsts {
            for (_, digest) in makers.inputs(node) {
                let from = makers.maker(node, &digest).map(|maker| stage_of(&maker.node));
                // Edges back from an earlier round are left out, as in a pipeline that can be read.
                let from = from.and_then(|id| self.places.get(&id)).filter(|from| **from < to);
                edges.extend(from.map(|from| (*from, to)));
            }
        }
        self.edges = edges.into_iter().collect();
    }

    /// Sets the states; those of loops follow from their content.
    fn finish(mut self, source: &Source, tallies: &mut HashMap<String, Tally>) -> Graph {
        let mut own: Vec<Tally> =
            self.stages.iter().map(|stage| tallies.remove(&stage.id).unwrap_or_default()).collect();
        // The content of a loop comes after it.
        for place in (0..own.len()).rev() {
            if let Some(parent) = self.stages[place].parent {
                let inner = std::mem::take(&mut own[place]);
                own[parent].add(&inner);
                own[place] = inner;
            }
        }
        for (stage, tally) in self.stages.iter_mut().zip(&own) {
            stage.state = tally.state(source.is_running()).to_owned();
            (stage.done, stage.total, stage.seconds) = (tally.done, tally.total, tally.seconds);
        }
        Graph { run: source.title(), stages: self.stages, edges: self.edges }
    }
}

#[cfg(test)]
mod tests {
    use super::stage_of;

    #[test]
    fn a_node_s_stage_is_its_name_without_rounds_and_labels() {
        assert_eq!(stage_of("full-s1/play[1]/red[03]/update"), "play/red/update");
        assert_eq!(stage_of("others[a/b]"), "others");
        assert_eq!(stage_of("s2/before"), "before");
    }
}
