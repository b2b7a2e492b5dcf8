//! What a run reports: each node that is done, and the run as a whole.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use store::{Blob, Digest};

/// The result of one node.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct NodeReport {
    /// Its name, such as `play[1]/red[03]/update`.
    pub node: String,
    /// Its place in the graph, from 0.
    #[serde(default)]
    pub index: u32,
    /// The kind of its stage.
    pub kind: String,
    /// Whether its outputs were found in the cache.
    pub cached: bool,
    /// The key of its outputs.
    pub key: Digest,
    /// Loop position: iteration, step, … from 1.
    pub position: Vec<u32>,
    /// Seconds that the work took, in this run or an earlier one.
    pub seconds: f64,
    /// The names and values of the parameters that a matrix gave to it, axes first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub params: Vec<(String, String)>,
    /// Its seed, if its matrix has `seeds`; then it is the value of the parameter `seed`, too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seed: Option<u64>,
    /// In the order of their indices.
    pub outputs: Vec<NodeOutput>,
}

/// One output of a node.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct NodeOutput {
    /// The name that the kind declares.
    pub name: String,
    /// The type of artifact.
    pub artifact: String,
    /// The digest of its content.
    pub digest: Digest,
    /// Its size.
    pub bytes: u64,
    /// Whether a loop handed it on and did not keep it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub passing: bool,
}

impl NodeOutput {
    /// Digest and size, as the store has them.
    pub fn blob(&self) -> Blob {
        Blob { digest: self.digest, bytes: self.bytes }
    }
}

/// The result of a run.
#[derive(Debug, Default)]
pub struct Report {
    /// Executed nodes.
    pub ran: usize,
    /// Nodes whose outputs were found in the cache.
    pub cached: usize,
    /// Executed although recorded, because an evicted output was needed.
    pub again: usize,
    /// Nodes that were not executed because one that feeds them failed.
    pub skipped: usize,
    /// Nodes of rounds that their loops did not reach.
    pub unreached: usize,
    /// The nodes that failed, and why, in the order of failure.
    pub failures: Vec<RunError>,
    /// The nodes that were computed again to be compared.
    pub checked: Vec<Checked>,
}

/// A node that was computed again, and the outputs that differ.
#[derive(Debug)]
pub struct Checked {
    /// The node's name.
    pub node: String,
    /// The outputs that differ; empty if all are the same.
    pub differences: Vec<Difference>,
}

/// An output that differs after its node was computed again.
#[derive(Clone, Debug)]
pub struct Difference {
    /// The output's name.
    pub output: String,
    /// The type of artifact.
    pub artifact: String,
    /// The recorded content, which remains.
    pub recorded: Digest,
    /// The new content.
    pub now: Digest,
    /// The path of the new content.
    pub path: PathBuf,
}

/// A node that failed.
#[derive(Debug, thiserror::Error)]
#[error("{node}: {cause:#}")]
pub struct RunError {
    /// The node's name.
    pub node: String,
    /// Why it failed, with its context.
    pub cause: anyhow::Error,
}
