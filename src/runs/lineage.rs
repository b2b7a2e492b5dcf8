//! What the nodes of a run were made from: the manifests of their keys name the content of every input.

use std::collections::HashMap;

use serde_json::Value;

use super::folder::Run;
use engine::{NodeReport, Part};
use store::{Digest, Store};

/// The manifest of a key, if it has a record.
pub fn manifest(store: &Store, key: &Digest) -> Option<Value> {
    let line = store.whole_record(key).ok()??;
    let mut record: Value = serde_json::from_slice(&line).ok()?;
    Some(engine::in_place(record["job"].take()))
}

/// The outputs of a run by their digests, and the inputs of its nodes.
pub struct Lineage<'r> {
    run: &'r Run,
    /// The cache, if it still exists.
    store: Option<&'r Store>,
    /// For the digest of an output: the node's index in `run.nodes` and the output's index in the node. Among nodes with the same
    /// output the first.
    makers: HashMap<String, (usize, usize)>,
}

impl<'r> Lineage<'r> {
    /// Indexes the outputs of a run. Without a store, manifests and inputs are unknown.
    pub fn new(run: &'r Run, store: Option<&'r Store>) -> Lineage<'r> {
        let mut makers = HashMap::new();
        for (place, node) in run.nodes.iter().enumerate() {
            for (output, made) in node.outputs.iter().enumerate() {
                makers.entry(made.digest.to_string()).or_insert((place, output));
            }
        }
        Lineage { run, store, makers }
    }

    /// The role of a node's parameter in its result; `None` if its kind does not say.
    pub fn part(&self, node: &NodeReport, path: &str) -> Option<Part> {
        self.run.record.part(&node.kind, path)
    }

    /// Whether the run's record states the roles of parameters; records of earlier versions do not.
    pub fn knows_parts(&self, node: &NodeReport) -> bool {
        self.run.record.facts.contains_key(&node.kind)
    }

    /// A node's manifest; `None` if the cache or its record is gone.
    pub fn manifest(&self, node: &NodeReport) -> Option<Value> {
        manifest(self.store?, &node.key)
    }

    /// The inputs of a node: their paths in its parameters, such as `terms.0.success.verdicts`, and the digests of their content
    /// in hexadecimal. Empty if the cache or the record is gone.
    pub fn inputs(&self, node: &NodeReport) -> Vec<(String, String)> {
        let mut found = Vec::new();
        if let Some(manifest) = self.manifest(node) {
            collect(&manifest["params"], "", &mut found);
        }
        found
    }

    /// The node of this run that made a content, and the type of the artifact.
    pub fn maker(&self, digest: &str) -> Option<(&'r NodeReport, &'r str)> {
        let (node, output) = *self.makers.get(digest)?;
        let node = &self.run.nodes[node];
        Some((node, &node.outputs[output].artifact))
    }
}

fn collect(value: &Value, path: &str, found: &mut Vec<(String, String)>) {
    let under = |name: &str| if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") };
    match value {
        Value::Object(fields) => match fields.get("digest").and_then(Value::as_str) {
            Some(digest) if fields.len() == 1 => found.push((path.to_owned(), digest.to_owned())),
            _ => fields.iter().for_each(|(name, value)| collect(value, &under(name), found)),
        },
        Value::Array(items) => {
            items
                .iter()
                .enumerate()
                .for_each(|(index, item)| collect(item, &under(&index.to_string()), found));
        }
        _ => {}
    }
}
