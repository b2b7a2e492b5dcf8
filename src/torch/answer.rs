//! The lines that a worker sends.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer};

/// The version of the protocol, which worker and triplay must share.
pub(crate) const PROTOCOL: u32 = 1;

/// The worker's first line.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Hello {
    pub protocol: Option<u32>,
    /// Packages that its Python does not have.
    pub missing: Vec<String>,
    pub error: Option<String>,
    pub message: String,
    pub versions: BTreeMap<String, String>,
    pub device: String,
}

/// A line about a job.
#[derive(Debug, Deserialize)]
pub(crate) struct Line {
    pub id: u64,
    /// Done, of how much, and a note.
    #[serde(default)]
    pub progress: Option<(usize, usize, String)>,
    #[serde(default)]
    pub error: Option<String>,
    #[serde(default)]
    pub message: String,
    #[serde(default)]
    pub reports: Option<Vec<Report>>,
    #[serde(default)]
    pub seconds: f64,
    #[serde(default)]
    pub peak_bytes: u64,
}

/// What a job gives besides its files.
#[derive(Debug)]
pub struct Answer {
    /// The report of each step, of the model before it. After one that is not finite there is none.
    pub reports: Vec<Report>,
    /// How long it took.
    pub seconds: f64,
    /// The most memory in use: the GPU's, or the process's.
    pub peak_bytes: u64,
    /// The versions of PyTorch and of what is used with it.
    pub versions: BTreeMap<String, String>,
    /// Where it was computed.
    pub device: String,
    /// The path of the worker's log.
    pub log: String,
}

/// The report of a step; means are over completion tokens, as in triplay's own.
#[derive(Clone, Copy, Debug, Deserialize)]
pub struct Report {
    /// The loss that was differentiated.
    #[serde(deserialize_with = "number")]
    pub loss: f64,
    /// Divergence from the reference, exact at each position; 0 without a reference.
    #[serde(deserialize_with = "number")]
    pub kl: f64,
    /// Nats.
    #[serde(deserialize_with = "number")]
    pub entropy: f64,
    /// Share of tokens whose ratio was clipped.
    #[serde(deserialize_with = "number")]
    pub clipped: f64,
    /// Norm of the gradient before clipping.
    #[serde(deserialize_with = "number")]
    pub grad_norm: f64,
    /// Completion tokens.
    pub tokens: usize,
    /// Of a step on pairs.
    #[serde(default)]
    pub pairs: Option<PairMeans>,
}

/// What a step on pairs also reports; means are over pairs.
#[derive(Clone, Copy, Debug, Deserialize)]
pub struct PairMeans {
    /// β (log π − log π_ref) of the chosen completion.
    #[serde(deserialize_with = "number")]
    pub chosen_reward: f64,
    /// The same of the rejected completion.
    #[serde(deserialize_with = "number")]
    pub rejected_reward: f64,
    /// Share of pairs whose chosen completion has the greater reward.
    #[serde(deserialize_with = "number")]
    pub accuracy: f64,
    /// Chosen minus rejected reward.
    #[serde(deserialize_with = "number")]
    pub margin: f64,
}

/// A number, or `nan`, `inf` or `-inf` as text: JSON has none of these.
fn number<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Number {
        Plain(f64),
        Text(String),
    }
    match Number::deserialize(deserializer)? {
        Number::Plain(number) => Ok(number),
        Number::Text(text) => text.parse().map_err(serde::de::Error::custom),
    }
}
