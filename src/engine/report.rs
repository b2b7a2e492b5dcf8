//! What a run reports: each node that is done, and the run as a whole.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use store::{Blob, Digest};

/// The result of one node.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct NodeReport {
    pub node: String,
    /// Its place in the graph, from 0.
    #[serde(default)]
    pub index: u32,
    pub kind: String,
    pub cached: bool,
    pub key: Digest,
    /// Loop position: iteration, step, … from 1.
    pub position: Vec<u32>,
    /// Seconds that the work took, in this run or an earlier one.
    pub seconds: f64,
    pub outputs: Vec<NodeOutput>,
}

/// One output of a node.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct NodeOutput {
    pub name: String,
    /// The type of artifact.
    pub artifact: String,
    pub digest: Digest,
    pub bytes: u64,
    /// Whether a loop handed it on and did not keep it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub passing: bool,
}

impl NodeOutput {
    pub fn blob(&self) -> Blob {
        Blob { digest: self.digest, bytes: self.bytes }
    }
}

/// The result of a run.
#[derive(Debug, Default)]
pub struct Report {
    pub ran: usize,
    pub cached: usize,
    /// Executed although recorded, because an evicted output was needed.
    pub again: usize,
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
    pub node: String,
    pub differences: Vec<Difference>,
}

/// An output that differs after its node was computed again.
#[derive(Clone, Debug)]
pub struct Difference {
    pub output: String,
    pub artifact: String,
    /// The recorded content, which remains.
    pub recorded: Digest,
    /// The new content.
    pub now: Digest,
    /// The path of the new content.
    pub path: PathBuf,
}

#[derive(Debug, thiserror::Error)]
#[error("{node}: {cause:#}")]
pub struct RunError {
    pub node: String,
    pub cause: anyhow::Error,
}
