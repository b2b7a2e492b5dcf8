//! The unrolled pipeline: a directed acyclic graph with one node for each execution of a stage.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use petgraph::graph::{DiGraph, NodeIndex};

use super::input::Origin;
use super::stage::{Decoded, Kind};
use crate::store::{Digest, Seed};

pub type NodeId = NodeIndex<u32>;

/// A pipeline ready to run. Nodes stand in an order in which each comes after those that feed it.
pub struct Graph {
    pub pipeline: String,
    /// The parameters as they were used, `seed`, `device` and `dtype` among them.
    pub params: BTreeMap<String, serde_json::Value>,
    pub numerics: Numerics,
    pub nodes: DiGraph<Node, ()>,
}

/// Where and in which number type models are computed.
#[derive(Clone, Debug, Default)]
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
    pub kind: &'static Kind,
    pub(super) decoded: Arc<Decoded>,
    pub(super) feeds: Vec<(Origin, Feed)>,
    /// The rounds of the loops around it, outermost first, from 1.
    pub position: Vec<u32>,
    pub seed: Seed,
    /// Outputs that are dropped once every consumer in this graph is done.
    pub passing: Vec<usize>,
}

/// Where an input of a node comes from.
#[derive(Clone, Debug)]
pub enum Feed {
    Output { node: NodeId, output: usize },
    File { path: PathBuf, digest: Digest },
}

impl Graph {
    /// The node of this name.
    pub fn find(&self, name: &str) -> Option<&Node> {
        self.nodes.node_weights().find(|node| node.name == name)
    }
}
