//! Facts about what a server did, for the record and for people who watch.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::config::Kind;
use super::kind::LogprobsMode;

/// The tokens of requests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// Of prompts.
    #[serde(default)]
    pub prompt_tokens: u64,
    /// Of completions.
    #[serde(default)]
    pub completion_tokens: u64,
}

impl Usage {
    /// So many times as much.
    pub(crate) fn scaled(self, factor: f64) -> Usage {
        let scaled = |tokens: u64| (tokens as f64 * factor) as u64;
        Usage { prompt_tokens: scaled(self.prompt_tokens), completion_tokens: scaled(self.completion_tokens) }
    }

    /// Both.
    pub fn tokens(&self) -> u64 {
        self.prompt_tokens + self.completion_tokens
    }
}

impl std::ops::AddAssign for Usage {
    fn add_assign(&mut self, other: Usage) {
        self.prompt_tokens += other.prompt_tokens;
        self.completion_tokens += other.completion_tokens;
    }
}

/// What a record keeps of a server besides the results.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Served {
    /// The name of the endpoint in the site file.
    pub endpoint: String,
    /// What the server is.
    pub kind: Kind,
    /// Its version, empty where it does not tell.
    pub version: String,
    /// The names of its models.
    pub models: Vec<String>,
    /// The model that was asked, by the server's name.
    pub model: String,
    /// The names of models that answers had.
    pub answered: BTreeMap<String, u64>,
    /// The digest of the adapter.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub adapter: Option<String>,
    /// At which temperature its log-probabilities are.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub logprobs_mode: Option<LogprobsMode>,
    /// HTTP requests of the last try, repeated ones included.
    pub requests: u64,
    /// Rows that came from an earlier try.
    pub kept: u64,
    /// Tokens of prompts, those of kept rows included.
    pub prompt_tokens: u64,
    /// Tokens of completions, those of kept rows included.
    pub completion_tokens: u64,
    /// Their cost by `price`.
    pub cost: f64,
    /// Requests that were repeated after a failure.
    pub retries: u64,
    /// Seconds in which rows were asked.
    pub seconds: f64,
    /// The most requests under way at once.
    pub peak_at_once: usize,
}

/// How far asking is.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Progress {
    /// Rows with an answer, kept ones included.
    pub done: usize,
    /// Rows whose answer came from the journal.
    pub kept: usize,
    /// All rows, if known.
    pub total: Option<usize>,
    /// Answered rows a second.
    pub rate: f64,
    /// Requests that failed and were repeated.
    pub errors: u64,
    /// Why the last of them failed, until the server answers again.
    pub failing: Option<String>,
    /// Requests under way.
    pub under_way: usize,
    /// The cost so far by `price`, that of kept rows included.
    pub cost: f64,
    /// Tokens so far, those of kept rows included.
    pub tokens: u64,
}

/// Without the number of rows, which its reader shows already.
impl fmt::Display for Progress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.rate {
            rate if rate >= 10.0 => write!(f, "{rate:.0} rows/s")?,
            rate => write!(f, "{rate:.1} rows/s")?,
        }
        if self.kept > 0 {
            write!(f, ", {} kept", self.kept)?;
        }
        if self.errors > 0 {
            write!(f, ", {} tried again", self.errors)?;
        }
        if let Some(why) = &self.failing {
            write!(f, " ({why})")?;
        }
        if self.cost > 0.0 {
            write!(f, ", cost {:.2}", self.cost)?;
        }
        Ok(())
    }
}
