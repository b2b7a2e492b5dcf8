//! The origins of nodes' outputs, and the models among them.

use std::collections::HashMap;

use serde_json::Value;

use super::model::Checkpoint;
use super::source::Source;
use engine::NodeReport;
use runs::{Lineage, shown, variant};

const MODEL: &str = "model";

/// The nodes that made each content of a run.
pub(crate) struct Provenance<'a> {
    source: &'a Source,
    lineage: Lineage<'a>,
    /// For the digest of an output, the indices of the nodes that made it: several may have made the same.
    by_content: HashMap<String, Vec<usize>>,
}

impl<'a> Provenance<'a> {
    pub(crate) fn new(source: &'a Source) -> Provenance<'a> {
        let mut by_content: HashMap<String, Vec<usize>> = HashMap::new();
        for (place, node) in source.run.nodes.iter().enumerate() {
            for output in &node.outputs {
                by_content.entry(output.digest.to_string()).or_default().push(place);
            }
        }
        let lineage = Lineage::new(&source.run, source.store.as_ref());
        Provenance { source, lineage, by_content }
    }

    /// The paths of a node's inputs in its parameters, and their digests. Empty if its record is gone from the cache.
    pub(crate) fn inputs(&self, node: &NodeReport) -> Vec<(String, String)> {
        self.lineage.inputs(node)
    }

    /// The node that made an input of a node: among several the one of the same ablation and seed.
    pub(crate) fn maker(&self, node: &NodeReport, digest: &str) -> Option<&'a NodeReport> {
        let places = self.by_content.get(digest)?;
        let (ablation, seed, _) = variant(&node.node);
        let nodes = || places.iter().map(|place| &self.source.run.nodes[*place]);
        let own = nodes().find(|maker| {
            let (other, other_seed, _) = variant(&maker.node);
            (other, other_seed) == (ablation, seed)
        });
        own.or_else(|| nodes().next())
    }

    /// The checkpoint with this content, by its name in the report.
    fn checkpoint(&self, node: &NodeReport, digest: &str) -> Option<String> {
        let maker = self.maker(node, digest)?;
        let is_model =
            |output: &engine::NodeOutput| output.artifact == MODEL && output.digest.to_string() == digest;
        maker.outputs.iter().any(is_model).then(|| id(self.source, maker))
    }

    /// The checkpoint that wrote a node's attacks, from its input `model` or `attacker`.
    pub(crate) fn attacker(&self, node: &NodeReport) -> Option<String> {
        let inputs = self.inputs(node);
        let asked = inputs.iter().find(|(path, _)| path == "model" || path == "attacker");
        asked.and_then(|(_, digest)| self.checkpoint(node, digest))
    }

    /// The checkpoints that responded in a node, by their names in its rows.
    pub(crate) fn defenders(&self, node: &NodeReport) -> HashMap<String, String> {
        let mut found = HashMap::new();
        if let Some(manifest) = self.lineage.manifest(node) {
            named(&manifest["params"], "", &mut found);
        }
        found.into_iter().filter_map(|(name, digest)| Some((name, self.checkpoint(node, &digest)?))).collect()
    }

    /// All models of the run.
    pub(crate) fn checkpoints(&self) -> Vec<Checkpoint> {
        let makes_model = |node: &&NodeReport| node.outputs.iter().any(|output| output.artifact == MODEL);
        self.source.run.nodes.iter().filter(makes_model).filter_map(|node| self.of_node(node)).collect()
    }

    fn of_node(&self, node: &NodeReport) -> Option<Checkpoint> {
        let output = node.outputs.iter().find(|output| output.artifact == MODEL)?;
        let (mut parent, mut inputs) = (None, Vec::new());
        for (path, digest) in self.inputs(node) {
            if path == "model" {
                parent = self.checkpoint(node, &digest);
            } else if let Some(maker) = self.maker(node, &digest)
                && !inputs.contains(&maker.node)
            {
                inputs.push(maker.node.clone());
            }
        }
        let store = self.source.store.as_ref().filter(|store| store.has_blob(&output.digest));
        let path = store.map(|store| store.blob_path(&output.digest));
        Some(Checkpoint {
            id: id(self.source, node),
            run: self.source.title(),
            node: node.node.clone(),
            kind: node.kind.clone(),
            key: node.key.to_string(),
            digest: output.digest.to_string(),
            bytes: output.bytes,
            path: path.map(|path| shown(&path)),
            seconds: node.seconds,
            parent,
            inputs,
        })
    }
}

fn id(source: &Source, node: &NodeReport) -> String {
    format!("{}:{}", source.title(), node.node)
}

/// The models that parameters name: `{ name: b, model: … }`, the entries of `defenders`, and `defender` itself.
fn named(value: &Value, key: &str, found: &mut HashMap<String, String>) {
    let digest = |value: &Value| value.get("digest").and_then(Value::as_str).map(str::to_owned);
    match value {
        Value::Object(fields) => {
            if let (Some(name), Some(model)) =
                (fields.get("name").and_then(Value::as_str), fields.get(MODEL).and_then(digest))
            {
                found.insert(name.to_owned(), model);
            }
            for (name, value) in fields {
                match digest(value) {
                    Some(model) if key == "defenders" || name == "defender" => {
                        found.insert(name.clone(), model);
                    }
                    _ => named(value, name, found),
                }
            }
        }
        Value::Array(items) => items.iter().for_each(|item| named(item, key, found)),
        _ => {}
    }
}
