//! What the nodes of a run were made of: the manifests of their keys name the content of every input.

use std::collections::HashMap;

use serde_json::Value;

use super::folder::Run;
use engine::{NodeReport, Part};
use store::{Digest, Store};

/// What a key was made of, if it has a record.
pub fn manifest(store: &Store, key: &Digest) -> Option<Value> {
    let line = store.whole_record(key).ok()??;
    let mut record: Value = serde_json::from_slice(&line).ok()?;
    Some(engine::in_place(record["job"].take()))
}

/// The outputs of a run by their content, and what each node took of them.
pub struct Lineage<'r> {
    run: &'r Run,
    /// The cache, where it is still there.
    store: Option<&'r Store>,
    /// By the digest of an output: the node's place in `run.nodes` and the output's place in it. Of nodes that made
    /// the same the first.
    makers: HashMap<String, (usize, usize)>,
}

impl<'r> Lineage<'r> {
    pub fn new(run: &'r Run, store: Option<&'r Store>) -> Lineage<'r> {
        let mut makers = HashMap::new();
        for (place, node) in run.nodes.iter().enumerate() {
            for (output, made) in node.outputs.iter().enumerate() {
                makers.entry(made.digest.to_string()).or_insert((place, output));
            }
        }
        Lineage { run, store, makers }
    }

    /// What a parameter of a node is to what comes of it; nothing where its kind does not say.
    pub fn part(&self, node: &NodeReport, path: &str) -> Option<Part> {
        self.run.record.part(&node.kind, path)
    }

    /// Whether the run says of its kinds what their parameters are; those of earlier versions do not.
    pub fn knows_parts(&self, node: &NodeReport) -> bool {
        self.run.record.facts.contains_key(&node.kind)
    }

    /// What a node was made of; nothing where the cache is gone, or has let go of its record.
    pub fn manifest(&self, node: &NodeReport) -> Option<Value> {
        manifest(self.store?, &node.key)
    }

    /// The inputs of a node: where they stand in its parameters, such as `terms.0.success.verdicts`, and the digest of
    /// their content in hexadecimal. Nothing where the cache has let go of its record.
    pub fn inputs(&self, node: &NodeReport) -> Vec<(String, String)> {
        let mut found = Vec::new();
        if let Some(manifest) = self.manifest(node) {
            collect(&manifest["params"], "", &mut found);
        }
        found
    }

    /// The node of this run that made content, and the artifact that it is.
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
