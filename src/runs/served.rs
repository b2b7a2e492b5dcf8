//! What servers did for a run, from the records of its nodes.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::folder::Run;

/// What a server did for the nodes that a run executed, by endpoint and model.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ServedModel {
    /// The name of the endpoint in the site file.
    pub endpoint: String,
    /// The server's name for the model; empty for models and adapters that the server was told to load.
    pub model: String,
    /// The names that answers had for the model.
    pub answered: BTreeSet<String>,
    /// The server's kind and version, such as `vllm 0.32.1`; several if it was replaced.
    pub servers: Vec<String>,
    /// The nodes that asked it.
    pub nodes: usize,
    /// HTTP requests, without those of tries that were cut off.
    pub requests: u64,
    /// Requests among them that were repeated after a failure.
    pub retries: u64,
    /// Tokens of prompts.
    pub prompt_tokens: u64,
    /// Tokens of completions.
    pub completion_tokens: u64,
    /// Their cost by the `price` of the site file.
    pub cost: f64,
}

/// The beginning of a node's record.
#[derive(Deserialize)]
struct Head {
    /// Those of a server, and of others that the node asked, such as a trainer.
    #[serde(default)]
    served: Vec<serde_json::Value>,
}

/// What a record keeps of a server.
#[derive(Deserialize)]
struct Facts {
    endpoint: String,
    kind: String,
    version: String,
    model: String,
    #[serde(default)]
    adapter: Option<String>,
    #[serde(default)]
    answered: BTreeMap<String, u64>,
    requests: u64,
    retries: u64,
    prompt_tokens: u64,
    completion_tokens: u64,
    cost: f64,
}

impl Run {
    /// What servers did for the nodes that this run executed; empty if its cache is gone.
    pub fn served(&self) -> anyhow::Result<Vec<ServedModel>> {
        let Some(store) = self.record.store()? else { return Ok(Vec::new()) };
        let mut all: BTreeMap<(String, String), ServedModel> = BTreeMap::new();
        for node in self.nodes.iter().filter(|node| !node.cached) {
            // The beginning of the record ends before its last member.
            let head: Option<Head> =
                store.record(&node.key, |head| serde_json::from_slice(&[head, b"}"].concat()).ok());
            let mut asked = BTreeSet::new();
            let of_servers = head.into_iter().flat_map(|head| head.served);
            for facts in of_servers.filter_map(|facts| serde_json::from_value::<Facts>(facts).ok()) {
                let model = if facts.adapter.is_some() { String::new() } else { facts.model };
                let entry = all.entry((facts.endpoint.clone(), model.clone()));
                let entry = entry.or_insert_with(|| ServedModel {
                    endpoint: facts.endpoint,
                    model,
                    answered: BTreeSet::new(),
                    servers: Vec::new(),
                    nodes: 0,
                    requests: 0,
                    retries: 0,
                    prompt_tokens: 0,
                    completion_tokens: 0,
                    cost: 0.0,
                });
                let server = format!("{} {}", facts.kind, facts.version).trim_end().to_owned();
                if !entry.servers.contains(&server) {
                    entry.servers.push(server);
                }
                if facts.adapter.is_none() {
                    entry.answered.extend(facts.answered.into_keys());
                }
                entry.nodes += usize::from(asked.insert((entry.endpoint.clone(), entry.model.clone())));
                entry.requests += facts.requests;
                entry.retries += facts.retries;
                entry.prompt_tokens += facts.prompt_tokens;
                entry.completion_tokens += facts.completion_tokens;
                entry.cost += facts.cost;
            }
        }
        Ok(all.into_values().collect())
    }
}
