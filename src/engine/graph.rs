//! The unrolled pipeline: a directed acyclic graph with one node for each execution of a stage.

use std::collections::{BTreeMap, HashSet};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use super::decision;
use super::input::Served;
use super::job::{Numerics, Retry, UserFile};
use super::kind::{Kind, Output};
use super::resources::{Limit, Needs};
use super::stage::Decoded;
use petgraph::Directed;
use petgraph::csr::Csr;
use serde_json::Value;
use store::{Blob, Digest, Seed};

/// A node's place in [`Graph::nodes`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(pub u32);

impl NodeId {
    /// The number as an index of slices.
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// A pipeline ready to run. Every node comes after those that feed it.
#[derive(Default)]
pub struct Graph {
    /// The pipeline's name, which is that of its folder of runs.
    pub pipeline: String,
    /// The text of the pipeline's file, as it was read.
    pub text: String,
    /// The text of the file that it extends, if any.
    pub extends: Option<String>,
    /// The values that the command line gave to parameters, as `name=value`.
    pub settings: Vec<String>,
    /// One for each ablation and seed; a single one without both.
    pub variants: Vec<GraphVariant>,
    /// The limits of resources in the pipeline.
    pub resources: BTreeMap<String, Limit>,
    /// In an order in which every node comes after those that feed it.
    pub nodes: Vec<Node>,
    /// Loops that may stop before their last round, each as often as it is unrolled.
    pub loops: Vec<Loop>,
    /// The values that these loops carry.
    pub handed: Vec<CarriedValue>,
    /// Files and folders of the user's.
    pub files: Vec<UserFile>,
    /// Environment variables that count for keys, as they are set now.
    pub variables: Vec<(String, Option<String>)>,
    /// What inputs take from servers.
    pub served: Vec<Served>,
    /// What the site file says of each endpoint.
    pub endpoints: BTreeMap<String, Value>,
    /// What the site file says of the trainer `torch`.
    pub torch: Option<Value>,
    /// Warnings of settings that are allowed and yet probably a mistake, with their places.
    pub warnings: Vec<String>,
}

/// The pipeline with the parameters of one ablation and one of its seeds, or as in the file.
#[derive(Clone, Debug, Default)]
pub struct GraphVariant {
    /// The ablation, if one was requested.
    pub ablation: Option<String>,
    /// The seed, if the pipeline is unrolled once for each of several.
    pub seed: Option<u64>,
    /// The parameters as used, including `seed`, `device` and `dtype`.
    pub params: BTreeMap<String, serde_json::Value>,
    /// Parameters with a number that JSON writes otherwise, as typed: version `3.10` is not `3.1`.
    pub typed: BTreeMap<String, String>,
}

/// One execution of a stage.
pub struct Node {
    /// For people: `play[1]/red[03]/update`. Not part of the key.
    pub name: String,
    /// The stage that it executes.
    pub call: Arc<StageTemplate>,
    /// Indexed by the numbers of its stage's inputs.
    pub feeds: Box<[InputBinding]>,
    /// The rounds of the loops around it, outermost first, from 1.
    pub position: Arc<[u32]>,
    /// The seed of everything that it draws.
    pub seed: Seed,
    /// Outputs that are evicted once every consumer in this graph is done.
    pub passing: Vec<usize>,
    /// The node that decides whether there is a next round. If there is none, its passing outputs stay.
    pub kept_by: Option<NodeId>,
    /// The node that decides whether this one is executed at all: that of the round before. It does not count for the key.
    pub gate: Option<NodeId>,
    /// For a node that decides: the index in [`Graph::loops`], and the round.
    pub decides: Option<(u32, u32)>,
    /// Whether no target needs it, so that it is not executed.
    pub left_out: bool,
    /// Whether it is executed again if its key is recorded.
    pub forced: bool,
}

/// A loop with an `until`, unrolled to `at_most` rounds.
#[derive(Clone, Debug)]
pub struct Loop {
    /// With the loops around it: `play[1]/red`.
    pub name: String,
    /// The rounds to which it is unrolled.
    pub at_most: u32,
    /// The first round after which it may stop.
    pub first: u32,
    /// The nodes that decide whether it goes on: of round `first` and each after it.
    pub decisions: Vec<NodeId>,
}

/// A value that such a loop carries.
#[derive(Clone, Debug)]
pub struct CarriedValue {
    /// The index in [`Graph::loops`].
    pub by: u32,
    /// The initial value, and the value after each round.
    pub rounds: Vec<InputBinding>,
}

/// A stage of the file with one combination of its matrix: what all its executions share.
pub struct StageTemplate {
    /// The kind of stage, which runs it.
    pub kind: &'static Kind,
    /// The checked parameters, with their inputs and outputs.
    pub decoded: Decoded,
    /// How it is run.
    pub policy: Policy,
    /// The device and number type of its models.
    pub numerics: Arc<Numerics>,
    /// What the matrix gave to it. It counts for the key only where the stage uses it.
    pub assigned: Assigned,
    /// The digest of what counts for the key, computed on first use: see `keys`.
    pub(super) digest: OnceLock<Digest>,
}

/// What a matrix gives to the stage in one of its combinations.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Assigned {
    /// The names and values of its parameters, axes first. A value is as typed; a map or list on an axis is its label.
    pub params: Vec<(String, String)>,
    /// The seed, if the matrix has `seeds`: combinations that differ in it alone repeat each other.
    pub seed: Option<u64>,
}

impl GraphVariant {
    /// `ABLATION`, `s1` or `ABLATION-s1`; the names of its nodes begin with it and a `/`. `None` of the pipeline as in the file.
    pub fn name(&self) -> Option<String> {
        match (&self.ablation, self.seed) {
            (None, None) => None,
            (Some(ablation), None) => Some(ablation.clone()),
            (None, Some(seed)) => Some(format!("s{seed}")),
            (Some(ablation), Some(seed)) => Some(format!("{ablation}-s{seed}")),
        }
    }
}

impl StageTemplate {
    /// A template whose digest of parameters is computed when it is first needed.
    pub fn new(
        kind: &'static Kind,
        decoded: Decoded,
        policy: Policy,
        numerics: Arc<Numerics>,
    ) -> StageTemplate {
        let assigned = Assigned::default();
        StageTemplate { kind, decoded, policy, numerics, assigned, digest: OnceLock::new() }
    }

    /// The amounts of resources that it takes: those in the pipeline, and one `gpu` if models are computed on a GPU and the
    /// pipeline does not say how many; else one `cpu`.
    pub fn needs(&self) -> Needs {
        let on_gpu = self.kind.numerics && !self.numerics.resolved.starts_with("cpu");
        let mut amounts = self.policy.resources.clone();
        if on_gpu {
            amounts.entry("gpu".to_owned()).or_insert(1);
        } else if amounts.is_empty() {
            amounts.insert("cpu".to_owned(), 1);
        }
        Needs { amounts, device: self.numerics.ordinal().filter(|_| on_gpu) }
    }

    /// The outputs that it declares, in the order of their indices.
    pub fn outputs(&self) -> &[Output] {
        &self.decoded.outputs
    }
}

/// How a stage is run. None of it counts for the key.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Policy {
    /// The amounts of resources that it takes, if the pipeline says so.
    pub resources: BTreeMap<String, u32>,
    /// The time after which an execution fails; `None` is no limit.
    pub timeout: Option<Duration>,
    /// How often it is tried again, and after which failures.
    pub retry: Retry,
    /// The process that runs it.
    pub on: On,
    /// Where its outputs appear in the run's folder besides, if the pipeline says so.
    pub publish: Option<Publish>,
}

/// A place in the folder of a run at which the outputs of a stage appear.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Publish {
    /// Relative to `outputs/` and the rounds of the loops around the stage.
    pub path: String,
    /// Whether they are copies, and not links to the cache.
    pub copy: bool,
}

impl Node {
    /// The paths in the folder of a run at which outputs appear, with the indices of the outputs.
    pub fn published(&self) -> Vec<(usize, String)> {
        let Some(Publish { path, .. }) = &self.call.policy.publish else { return Vec::new() };
        let around = self.name.rsplit_once('/').map_or(String::new(), |(around, _)| format!("{around}/"));
        let results = self.call.outputs().iter().enumerate().filter(|(_, output)| !output.incidental);
        results
            .map(|(index, output)| {
                let file = output.file.as_deref().unwrap_or(&output.name);
                (index, format!("{around}{path}/{file}"))
            })
            .collect()
    }
}

/// Where a stage is run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum On {
    /// In the process of the run.
    #[default]
    Here,
    /// In a process of its own.
    Process,
}

/// Where an input of a node comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum InputBinding {
    /// An output of another node.
    Output {
        /// The node that makes it.
        node: NodeId,
        /// Its index among that node's outputs.
        output: usize,
    },
    /// One of [`Graph::files`].
    File(usize),
    /// One of [`Graph::variables`].
    Variable(usize),
    /// One of [`Graph::served`].
    Served(usize),
    /// A value of [`Graph::handed`] after a round, or after the last round that was run if that was an earlier one.
    Carried {
        /// The index in [`Graph::handed`].
        value: u32,
        /// The round, from 1; 0 is the initial value.
        round: u32,
    },
}

/// What is known of a feed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResolvedInput {
    /// It is this one, which is never a [`InputBinding::Carried`].
    Is(InputBinding),
    /// It depends on a decision that is not made yet.
    Open,
}

impl Loop {
    /// The index of a round's decision; `None` of rounds after which the loop always goes on.
    fn decision(&self, round: u32) -> Option<usize> {
        round.checked_sub(self.first).map(|index| index as usize)
    }

    /// The decisions that are made before a round ends: those of earlier rounds.
    fn before(&self, round: u32) -> &[NodeId] {
        let count = self.decision(round).unwrap_or(0).min(self.decisions.len());
        &self.decisions[..count]
    }

    /// The round in which the loop stopped, as far as `known` has the outputs of nodes.
    pub fn stopped<'a>(&self, known: impl Fn(NodeId) -> Option<&'a [Blob]>) -> Option<u32> {
        let stop = self.decisions.iter().position(|id| known(*id).is_some_and(decision::is_stop))?;
        Some(self.first + stop as u32)
    }
}

impl Graph {
    /// Resolves a feed, as far as `known` has the outputs of nodes.
    pub fn resolve_input<'a>(
        &self,
        mut feed: InputBinding,
        known: &impl Fn(NodeId) -> Option<&'a [Blob]>,
    ) -> ResolvedInput {
        // A round may have handed on the result of another loop.
        while let InputBinding::Carried { value, round } = feed {
            let handed = &self.handed[value as usize];
            let by = &self.loops[handed.by as usize];
            let mut last = round;
            for (index, id) in by.before(round).iter().enumerate() {
                match known(*id).map(decision::is_stop) {
                    None => return ResolvedInput::Open,
                    Some(false) => {}
                    Some(true) => {
                        last = by.first + index as u32;
                        break;
                    }
                }
            }
            feed = handed.rounds[last as usize];
        }
        ResolvedInput::Is(feed)
    }

    /// Whether a feed may still resolve to an output of this node.
    pub fn may_resolve_to<'a>(
        &self,
        feed: InputBinding,
        id: NodeId,
        known: &impl Fn(NodeId) -> Option<&'a [Blob]>,
    ) -> bool {
        let mut open = vec![feed];
        let mut seen = HashSet::new();
        while let Some(feed) = open.pop() {
            match feed {
                InputBinding::Output { node, .. } if node == id => return true,
                InputBinding::Carried { value, round } if seen.insert((value, round)) => {
                    let handed = &self.handed[value as usize];
                    let by = &self.loops[handed.by as usize];
                    let decided =
                        |id: &&NodeId| known(**id).is_some_and(|outputs| !decision::is_stop(outputs));
                    let before = by.before(round);
                    let gone_on = before.iter().take_while(decided).count();
                    let stopped = before.get(gone_on).is_some_and(|id| known(*id).is_some());
                    let from = if before.is_empty() { round } else { by.first + gone_on as u32 };
                    let to = if stopped { from } else { round };
                    open.extend(&handed.rounds[from as usize..=to as usize]);
                }
                _ => {}
            }
        }
        false
    }

    /// All that a feed may resolve to, whatever is decided; never a [`InputBinding::Carried`].
    pub fn alternatives(&self, feed: InputBinding) -> Vec<InputBinding> {
        let mut open = vec![feed];
        let (mut seen, mut known, mut found) = (HashSet::new(), HashSet::new(), Vec::new());
        while let Some(feed) = open.pop() {
            match feed {
                InputBinding::Carried { value, round } if seen.insert((value, round)) => {
                    let handed = &self.handed[value as usize];
                    let first = self.loops[handed.by as usize].first.min(round);
                    open.extend(handed.rounds[first as usize..=round as usize].iter().rev());
                }
                InputBinding::Carried { .. } => {}
                feed if known.insert(feed) => found.push(feed),
                _ => {}
            }
        }
        found
    }

    /// The nodes that determine a feed: the one that makes it or, if that depends on decisions, those that decide and those
    /// that may make it.
    pub fn makers(&self, feed: InputBinding) -> Vec<NodeId> {
        let mut open = vec![feed];
        let (mut seen, mut makers) = (HashSet::new(), Vec::new());
        while let Some(feed) = open.pop() {
            match feed {
                InputBinding::Output { node, .. } => makers.push(node),
                InputBinding::Carried { value, round } if seen.insert((value, round)) => {
                    let handed = &self.handed[value as usize];
                    let by = &self.loops[handed.by as usize];
                    let before = by.before(round);
                    makers.extend(before);
                    let from = if before.is_empty() { round } else { by.first };
                    open.extend(&handed.rounds[from as usize..=round as usize]);
                }
                _ => {}
            }
        }
        makers.sort_unstable();
        makers.dedup();
        makers
    }

    /// The nodes that this one comes after: those that feed it or may do so, and the one that decides whether it is executed.
    /// The same node may occur twice.
    pub fn sources<'g>(&'g self, node: &'g Node) -> impl Iterator<Item = NodeId> + 'g {
        let feeds = node.feeds.iter().flat_map(|feed| {
            let (direct, late) = match *feed {
                InputBinding::Output { node, .. } => (Some(node), Vec::new()),
                InputBinding::Carried { .. } => (None, self.makers(*feed)),
                InputBinding::File(_) | InputBinding::Variable(_) | InputBinding::Served(_) => {
                    (None, Vec::new())
                }
            };
            direct.into_iter().chain(late)
        });
        node.gate.into_iter().chain(feeds)
    }

    /// The node with this id, which must be of this graph.
    pub fn node(&self, id: NodeId) -> &Node {
        &self.nodes[id.index()]
    }

    /// The ids of all nodes, in the order of [`Graph::nodes`].
    pub fn ids(&self) -> impl DoubleEndedIterator<Item = NodeId> + use<> {
        (0..self.nodes.len() as u32).map(NodeId)
    }

    /// The node of this name.
    pub fn find(&self, name: &str) -> Option<NodeId> {
        self.ids().find(|id| self.node(*id).name == name)
    }

    /// Limits the graph to these targets and the nodes that they come after; the others are left out. The outputs of targets
    /// stay on disk.
    pub fn select(&mut self, targets: &[NodeId]) {
        let mut needed = vec![false; self.nodes.len()];
        targets.iter().for_each(|id| needed[id.index()] = true);
        // Every node comes after its sources.
        for id in self.ids().rev() {
            if needed[id.index()] {
                self.sources(self.node(id)).for_each(|source| needed[source.index()] = true);
            }
        }
        self.nodes.iter_mut().zip(needed).for_each(|(node, needed)| node.left_out = !needed);
        for id in targets {
            let node = &mut self.nodes[id.index()];
            (node.passing, node.kept_by) = (Vec::new(), None);
        }
    }

    /// Has these nodes executed again even if their keys are recorded.
    pub fn force(&mut self, nodes: &[NodeId]) {
        nodes.iter().for_each(|id| self.nodes[id.index()].forced = true);
    }

    /// The nodes that are not left out, in the order of [`Graph::nodes`].
    pub fn selected(&self) -> impl DoubleEndedIterator<Item = NodeId> + use<'_> {
        self.ids().filter(|id| !self.node(*id).left_out)
    }

    /// The files of the user's that a node reads, by their indices in `files`.
    pub fn files_of(&self, id: NodeId) -> impl Iterator<Item = usize> + '_ {
        self.node(id).feeds.iter().filter_map(|feed| match feed {
            InputBinding::File(index) => Some(*index),
            _ => None,
        })
    }

    /// The edges from each node to those that it feeds.
    pub fn edges(&self) -> Csr<(), (), Directed, u32> {
        let mut edges: Vec<(u32, u32)> = Vec::new();
        for id in self.ids() {
            edges.extend(self.sources(self.node(id)).map(|source| (source.0, id.0)));
        }
        edges.sort_unstable();
        edges.dedup();
        // Sorted edges without duplicates always make a graph.
        let mut graph = Csr::from_sorted_edges(&edges).unwrap_or_else(|_| Csr::new());
        while graph.node_count() < self.nodes.len() {
            graph.add_node(());
        }
        graph
    }

    /// The chain of nodes, each fed by the one before, that takes longest if a node takes `seconds`. No number of jobs makes the
    /// run shorter than that.
    pub fn critical_path(&self, seconds: impl Fn(NodeId) -> f64) -> (Vec<NodeId>, f64) {
        // The length of the longest chain that ends in each node, and the node before it.
        let mut chains: Vec<(f64, Option<NodeId>)> = Vec::with_capacity(self.nodes.len());
        for id in self.ids() {
            let before = self
                .sources(self.node(id))
                .max_by(|a, b| chains[a.index()].0.total_cmp(&chains[b.index()].0).then(b.cmp(a)));
            let length = before.map_or(0.0, |before| chains[before.index()].0) + seconds(id);
            chains.push((length, before));
        }
        let last =
            self.ids().max_by(|a, b| chains[a.index()].0.total_cmp(&chains[b.index()].0).then(b.cmp(a)));
        let mut path: Vec<NodeId> = std::iter::successors(last, |id| chains[id.index()].1).collect();
        path.reverse();
        (path, last.map_or(0.0, |last| chains[last.index()].0))
    }
}
