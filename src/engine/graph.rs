//! The unrolled pipeline: a directed acyclic graph with one node for each execution of a stage.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::job::CallDigest;
use super::resources::Limit;
use super::stage::{Decoded, Kind, Output};
use serde::{Deserialize, Serialize};

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

/// Where and in which number type models are computed.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Numerics {
    /// As the pipeline says it.
    pub device: String,
    pub dtype: String,
    /// What results depend on: it is in the keys of the stages that compute with models.
    pub resolved: String,
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
    /// Of what counts for the key: see `job`.
    pub(super) digest: CallDigest,
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
        Call { kind, decoded, policy, numerics, digest: CallDigest::new() }
    }

    /// What it takes of each resource: one `cpu`, or the `gpu` where models are computed on one, unless the pipeline
    /// says otherwise.
    pub fn needs(&self) -> BTreeMap<String, u32> {
        if !self.policy.resources.is_empty() {
            return self.policy.resources.clone();
        }
        let on_gpu = self.kind.numerics && !self.numerics.resolved.starts_with("cpu");
        BTreeMap::from([(if on_gpu { "gpu" } else { "cpu" }.to_owned(), 1)])
    }

    pub fn outputs(&self) -> &[Output] {
        &self.decoded.outputs
    }
}

/// How a stage is run. Nothing of it counts for the key.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Policy {
    /// What it takes of each resource; empty for one `cpu`.
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

/// Again after a failure that the stage calls transient.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Retry {
    pub times: u32,
    /// Before the first retry; doubled before each further one.
    pub wait: Duration,
}

impl Default for Retry {
    fn default() -> Retry {
        Retry { times: 3, wait: Duration::from_secs(1) }
    }
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

    pub fn consumers(&self) -> Consumers {
        let uses = || self.ids().flat_map(|id| self.node(id).sources().map(move |source| (source, id)));
        let mut starts = vec![0; self.nodes.len() + 1];
        uses().for_each(|(source, _)| starts[source.index() + 1] += 1);
        for index in 1..starts.len() {
            starts[index] += starts[index - 1];
        }
        let (mut free, mut nodes) = (starts.clone(), vec![NodeId(0); starts[self.nodes.len()]]);
        for (source, id) in uses() {
            nodes[free[source.index()]] = id;
            free[source.index()] += 1;
        }
        Consumers { starts, nodes }
    }
}

/// The nodes that use an output of each node, in order; one that uses it twice comes twice. All in one list, since a
/// list for each node takes longer to make than to go through.
pub struct Consumers {
    starts: Vec<usize>,
    nodes: Vec<NodeId>,
}

impl Consumers {
    pub fn of(&self, id: NodeId) -> &[NodeId] {
        &self.nodes[self.starts[id.index()]..self.starts[id.index() + 1]]
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
