//! What a run tells: of each node that is done, and of itself as a whole.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use store::{Blob, Digest};

/// What one node came to.
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
    /// Seconds of work when it was run, be it in an earlier run.
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
    /// Whether a loop handed it on and it was not to be kept.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub passing: bool,
}

impl NodeOutput {
    pub fn blob(&self) -> Blob {
        Blob { digest: self.digest, bytes: self.bytes }
    }
}

/// What a run came to.
#[derive(Debug, Default)]
pub struct Report {
    pub ran: usize,
    pub cached: usize,
    /// Executed although recorded, since a dropped output was needed.
    pub again: usize,
    pub skipped: usize,
    /// Of rounds that their loops did not come to.
    pub unreached: usize,
    /// The nodes that failed, and why, in the order in which they did.
    pub failures: Vec<RunError>,
    /// The nodes that were computed again to be compared.
    pub checked: Vec<Checked>,
}

/// A node that was computed again, and which outputs came out different.
#[derive(Debug)]
pub struct Checked {
    pub node: String,
    pub differences: Vec<Difference>,
}

/// An output that came out different when its node was computed again.
#[derive(Clone, Debug)]
pub struct Difference {
    pub output: String,
    pub artifact: String,
    /// What is recorded, and remains.
    pub recorded: Digest,
    /// What came out now.
    pub now: Digest,
    /// Where that lies.
    pub path: PathBuf,
}

#[derive(Debug, thiserror::Error)]
#[error("{node}: {cause:#}")]
pub struct RunError {
    pub node: String,
    pub cause: anyhow::Error,
}
