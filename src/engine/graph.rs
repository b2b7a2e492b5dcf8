//! The unrolled pipeline: a directed acyclic graph with one node for each execution of a stage.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use super::job::{Numerics, Retry};
use super::kind::{Kind, Output};
use super::resources::{Limit, Needs};
use super::stage::Decoded;
use petgraph::Directed;
use petgraph::csr::Csr;
use store::{Digest, Seed};

/// A node's place in [`Graph::nodes`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(pub u32);

impl NodeId {
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// A pipeline ready to run. Nodes stand in an order in which each comes after those that feed it.
#[derive(Default)]
pub struct Graph {
    pub pipeline: String,
    /// The text of the pipeline's file, as it was read.
    pub text: String,
    /// That of the file that it extends, if it does.
    pub extends: Option<String>,
    pub variants: Vec<GraphVariant>,
    /// How much there is of each resource that the pipeline limits.
    pub resources: BTreeMap<String, Limit>,
    pub nodes: Vec<Node>,
    /// Files and folders of the user's.
    pub files: Vec<(PathBuf, Digest)>,
    /// Environment variables that count, as they are set now.
    pub variables: Vec<(String, Option<String>)>,
    /// What in the file is no error and yet hardly meant, with its place.
    pub warnings: Vec<String>,
}

/// The pipeline with the parameters of one ablation and one of its seeds, or as it stands in the file.
#[derive(Clone, Debug)]
pub struct GraphVariant {
    /// Where one was asked for.
    pub ablation: Option<String>,
    /// Where the pipeline is unrolled once for each of several.
    pub seed: Option<u64>,
    /// The parameters as they were used, `seed`, `device` and `dtype` among them.
    pub params: BTreeMap<String, serde_json::Value>,
}

/// One execution of a stage.
pub struct Node {
    /// For people: `play[1]/red[03]/update`. Not part of the key.
    pub name: String,
    pub call: Arc<Call>,
    /// By the numbers of the call's inputs.
    pub feeds: Box<[Feed]>,
    /// The rounds of the loops around it, outermost first, from 1.
    pub position: Arc<[u32]>,
    pub seed: Seed,
    /// Outputs that are dropped once every consumer in this graph is done.
    pub passing: Vec<usize>,
}

/// A stage of the file with one combination of its matrix: what all its executions have in common.
pub struct Call {
    pub kind: &'static Kind,
    pub decoded: Decoded,
    pub policy: Policy,
    pub numerics: Arc<Numerics>,
    /// Of what counts for the key, once it is asked for: see `keys`.
    pub(super) digest: OnceLock<Digest>,
}

impl GraphVariant {
    /// `ABLATION`, `s1` or `ABLATION-s1`; the names of its nodes begin with it and a `/`. None of a pipeline as it
    /// stands in the file.
    pub fn name(&self) -> Option<String> {
        match (&self.ablation, self.seed) {
            (None, None) => None,
            (Some(ablation), None) => Some(ablation.clone()),
            (None, Some(seed)) => Some(format!("s{seed}")),
            (Some(ablation), Some(seed)) => Some(format!("{ablation}-s{seed}")),
        }
    }
}

impl Call {
    pub fn new(kind: &'static Kind, decoded: Decoded, policy: Policy, numerics: Arc<Numerics>) -> Call {
        Call { kind, decoded, policy, numerics, digest: OnceLock::new() }
    }

    /// What it takes of each resource: what the pipeline says, else one `cpu`; and a `gpu` where models are computed on one,
    /// unless the pipeline says how many.
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

    pub fn outputs(&self) -> &[Output] {
        &self.decoded.outputs
    }
}

/// How a stage is run. Nothing of it counts for the key.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Policy {
    /// What it takes of each resource, where the pipeline says so.
    pub resources: BTreeMap<String, u32>,
    pub timeout: Option<Duration>,
    pub retry: Retry,
    pub on: On,
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
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Feed {
    Output {
        node: NodeId,
        output: usize,
    },
    /// One of [`Graph::files`].
    File(usize),
    /// One of [`Graph::variables`].
    Variable(usize),
}

impl Graph {
    pub fn node(&self, id: NodeId) -> &Node {
        &self.nodes[id.index()]
    }

    pub fn ids(&self) -> impl DoubleEndedIterator<Item = NodeId> + use<> {
        (0..self.nodes.len() as u32).map(NodeId)
    }

    /// The node of this name.
    pub fn find(&self, name: &str) -> Option<NodeId> {
        self.ids().find(|id| self.node(*id).name == name)
    }

    /// Which nodes use an output of which: an edge from a node to each that it feeds.
    pub fn edges(&self) -> Csr<(), (), Directed, u32> {
        let mut edges: Vec<(u32, u32)> = Vec::new();
        for id in self.ids() {
            edges.extend(self.node(id).sources().map(|source| (source.0, id.0)));
        }
        edges.sort_unstable();
        edges.dedup();
        // Sorted and without a twin, they make a graph.
        let mut graph = Csr::from_sorted_edges(&edges).unwrap_or_else(|_| Csr::new());
        while graph.node_count() < self.nodes.len() {
            graph.add_node(());
        }
        graph
    }

    /// The chain of nodes, each fed by the one before, that takes longest where a node takes so many seconds: no number of
    /// jobs makes the run shorter than that.
    pub fn critical_path(&self, seconds: impl Fn(NodeId) -> f64) -> (Vec<NodeId>, f64) {
        // Of the longest chain that ends in each node, its length and the node before.
        let mut chains: Vec<(f64, Option<NodeId>)> = Vec::with_capacity(self.nodes.len());
        for id in self.ids() {
            let before = self
                .node(id)
                .sources()
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

impl Node {
    /// Whether an output stays in the cache.
    pub fn is_kept(&self, output: usize) -> bool {
        !self.passing.contains(&output) && !self.call.outputs()[output].incidental
    }

    /// The nodes that feed this one; one that feeds it twice comes twice.
    pub fn sources(&self) -> impl Iterator<Item = NodeId> + '_ {
        self.feeds.iter().filter_map(|feed| match feed {
            Feed::Output { node, .. } => Some(*node),
            Feed::File(_) | Feed::Variable(_) => None,
        })
    }
}
