//! What a node's key is made of. One walk over it, two ways to write it down: [`Key`] hashes, [`Explained`] keeps it
//! as JSON for the record. Whatever is not in the walk is in neither, so key and explanation cannot disagree.

use std::sync::OnceLock;

use serde_json::{Map, Value, json};

use super::graph::{Call, Feed, Graph, Node, NodeId};
use super::input::{self, Origin};
use store::{Blob, Digest, Seed, canonical_digest};

/// Raised when the meaning of manifests or records changes.
const FORMAT: u32 = 2;

/// What an input holds.
pub enum Content<'a> {
    Digest(Digest),
    /// An environment variable's value, or that it is not set.
    Variable(Option<&'a str>),
}

/// Takes down what the walk passes.
pub trait Manifest {
    /// What all executions of a stage of the file share: kind, code version, canonical parameters with a place for
    /// each input, and what models are computed with.
    fn call(&mut self, call: &Call);
    /// The content of the next of the call's origins.
    fn input(&mut self, origin: &Origin, content: Content);
    /// The rounds of the loops around the node.
    fn position(&mut self, position: &[u32]);
    fn seed(&mut self, seed: &Seed);
}

/// Everything that a node's outputs depend on, in order. Not: names, comments, the order of keys, paths, how many
/// threads there are. `known` gives the outputs of a node that feeds this one.
pub fn walk<'a>(
    graph: &Graph,
    node: &Node,
    known: impl Fn(NodeId) -> Option<&'a [Blob]>,
    out: &mut impl Manifest,
) {
    out.call(&node.call);
    for (origin, feed) in node.call.origins.iter().zip(&node.feeds) {
        let content = match feed {
            Feed::Output { node, output } => {
                let blob = known(*node).and_then(|blobs| blobs.get(*output));
                Content::Digest(blob.map_or_else(|| Digest::of_bytes(b"unknown"), |blob| blob.digest))
            }
            Feed::File(index) => Content::Digest(graph.files[*index].1),
            Feed::Variable(index) => Content::Variable(graph.variables[*index].1.as_deref()),
        };
        out.input(origin, content);
    }
    out.position(&node.position);
    out.seed(&node.seed);
}

/// A node's key. Every part has a fixed length or carries its own, so that no two manifests share an encoding.
#[derive(Default)]
pub struct Key(Vec<u8>);

impl Key {
    pub fn digest(&self) -> Digest {
        Digest::of_bytes(&self.0)
    }
}

impl Manifest for Key {
    fn call(&mut self, call: &Call) {
        self.0.extend(call.digest().bytes());
    }

    fn input(&mut self, _: &Origin, content: Content) {
        match content {
            Content::Digest(digest) => {
                self.0.push(b'd');
                self.0.extend(digest.bytes());
            }
            Content::Variable(None) => self.0.push(b'n'),
            Content::Variable(Some(value)) => {
                self.0.push(b'v');
                self.0.extend((value.len() as u64).to_le_bytes());
                self.0.extend(value.as_bytes());
            }
        }
    }

    fn position(&mut self, position: &[u32]) {
        self.0.extend((position.len() as u64).to_le_bytes());
        self.0.extend(position.iter().flat_map(|round| round.to_le_bytes()));
    }

    fn seed(&mut self, seed: &Seed) {
        self.0.extend(seed.bytes());
    }
}

/// The manifest as JSON, each input in its place among the parameters.
#[derive(Default)]
pub struct Explained {
    params: Value,
    fields: Map<String, Value>,
}

impl Explained {
    pub fn into_json(mut self) -> Value {
        self.fields.insert("params".into(), self.params);
        Value::Object(self.fields)
    }
}

impl Manifest for Explained {
    fn call(&mut self, call: &Call) {
        for (name, value) in call.fields() {
            self.fields.insert(name.into(), value);
        }
        self.params = call.decoded.params.clone();
    }

    fn input(&mut self, origin: &Origin, content: Content) {
        let value = match content {
            Content::Digest(digest) => json!({ "digest": digest }),
            Content::Variable(value) => json!({ "variable": origin.to_string(), "value": value }),
        };
        self.params = input::replace(&self.params, &mut |found| (found == origin).then(|| value.clone()));
    }

    fn position(&mut self, position: &[u32]) {
        self.fields.insert("position".into(), json!(position));
    }

    fn seed(&mut self, seed: &Seed) {
        self.fields.insert("seed".into(), json!(seed.to_hex()));
    }
}

impl Call {
    /// What counts of a call beside its parameters.
    fn fields(&self) -> [(&'static str, Value); 4] {
        [
            ("format", json!(FORMAT)),
            ("kind", json!(self.kind.name)),
            ("version", json!(self.kind.version)),
            ("numerics", json!(self.kind.numerics.then_some(&self.numerics.resolved))),
        ]
    }

    /// The digest of what counts of a call, the same for all its executions and so computed once.
    fn digest(&self) -> Digest {
        *self.digest.get_or_init(|| {
            let place = |origin: &Origin| self.origins.iter().position(|known| known == origin);
            let params =
                input::replace(&self.decoded.params, &mut |origin| Some(json!({ "input": place(origin) })));
            let mut fields: Map<String, Value> =
                self.fields().into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
            fields.insert("params".into(), params);
            canonical_digest(&Value::Object(fields))
        })
    }
}

/// Where a call keeps its digest.
pub type CallDigest = OnceLock<Digest>;
