//! Makes the job and the key of a node, as soon as the content of all its inputs is known.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::graph::{Graph, InputBinding, Node, NodeId, ResolvedInput, StageTemplate};
use super::input::{Served, Use};
use super::job::{Borrowed, Job, JobOutput, Key, Limits, Numerics, counted, of_call};
use store::{Blob, Digest, canonical_digest};

/// The job of a node, if all its inputs are known; `known` returns the outputs of the nodes that feed it.
pub(crate) fn job_of_node<'a>(
    graph: &Graph,
    id: NodeId,
    known: impl Fn(NodeId) -> Option<&'a [Blob]>,
) -> Option<Job> {
    let node = graph.node(id);
    let call = &node.call;
    let content = |(feed, used): (&InputBinding, &Use)| Some(content(graph, feed, used, &known)?.to_owned());
    let outputs = call.outputs().iter().enumerate().map(|(index, output)| JobOutput {
        name: output.name.to_string(),
        artifact: output.artifact.to_string(),
        incidental: output.incidental,
        passing: node.passing.contains(&index),
    });
    Some(Job {
        name: node.name.clone(),
        pipeline: graph.pipeline.clone(),
        kind: call.kind.name.to_owned(),
        version: call.kind.version,
        params: call.decoded.params.clone(),
        inputs: node.feeds.iter().zip(&call.decoded.uses).map(content).collect::<Option<_>>()?,
        numerics: Numerics::clone(&call.numerics),
        draws: call.decoded.draws,
        seed: node.seed,
        position: node.position.to_vec(),
        outputs: outputs.collect(),
        limits: Limits { timeout: call.policy.timeout, retry: call.policy.retry.clone() },
        endpoints: endpoints_of(graph, node),
        torch: graph.torch.clone().filter(|_| call.decoded.params.get("trainer").is_some()),
        devices: Vec::new(),
        host_units: Vec::new(),
    })
}

/// The key of a node, if all its inputs are known: that of its job, without making the job.
pub(crate) fn key_of_node<'a>(
    graph: &Graph,
    node: &Node,
    known: impl Fn(NodeId) -> Option<&'a [Blob]>,
) -> Option<Digest> {
    let mut key = Key::of_call(&node.call.digest());
    for (feed, used) in node.feeds.iter().zip(&node.call.decoded.uses) {
        key.input(content(graph, feed, used, &known)?);
    }
    if node.call.decoded.draws {
        key.draws(&node.position, node.seed.bytes());
    }
    Some(key.digest())
}

/// What counts for the key of a node, as far as it is known: the digest of another input is null.
pub(crate) fn counted_so_far<'a>(
    graph: &Graph,
    node: &Node,
    known: impl Fn(NodeId) -> Option<&'a [Blob]>,
) -> Value {
    let StageTemplate { kind, decoded, numerics, .. } = &*node.call;
    let inputs = node.feeds.iter().zip(&decoded.uses).map(|(feed, used)| {
        content(graph, feed, used, &known)
            .map_or_else(|| json!({ "digest": null }), |content| content.counted())
    });
    let drawn = decoded.draws.then_some((&node.position[..], node.seed));
    counted(of_call(kind, &decoded.params, numerics), inputs, drawn)
}

fn content<'g, 'a>(
    graph: &'g Graph,
    feed: &InputBinding,
    used: &Use,
    known: &impl Fn(NodeId) -> Option<&'a [Blob]>,
) -> Option<Borrowed<'g>> {
    let ResolvedInput::Is(feed) = graph.resolve_input(*feed, known) else { return None };
    let loaded = used.loaded_by.is_some();
    Some(match feed {
        InputBinding::Output { node, output } => {
            Borrowed::Digest(known(node)?.get(output)?.digest, None, loaded)
        }
        InputBinding::File(index) => {
            let file = &graph.files[index];
            Borrowed::Digest(file.digest, Some(file), loaded)
        }
        InputBinding::Served(index) => {
            let Served { endpoint, model, revision } = &graph.served[index];
            Borrowed::Served { endpoint: Some(endpoint), model, revision: revision.as_deref() }
        }
        InputBinding::Variable(index) => {
            let (name, value) = &graph.variables[index];
            Borrowed::Variable(name, value.as_deref())
        }
        // A settled feed is never one of these.
        InputBinding::Carried { .. } => return None,
    })
}

/// What the site file says of the endpoints that a node uses.
fn endpoints_of(graph: &Graph, node: &Node) -> BTreeMap<String, Value> {
    let named = node.call.decoded.uses.iter().filter_map(|used| used.loaded_by.as_deref());
    let of_feeds =
        node.feeds.iter().flat_map(|feed| graph.alternatives(*feed)).filter_map(|feed| match feed {
            InputBinding::Served(index) => Some(graph.served[index].endpoint.as_str()),
            _ => None,
        });
    let entry = |name: &str| Some((name.to_owned(), graph.endpoints.get(name)?.clone()));
    if graph.endpoints.is_empty() {
        BTreeMap::new()
    } else {
        named.chain(of_feeds).filter_map(entry).collect()
    }
}

impl StageTemplate {
    /// The digest of what counts of a call. It is the same for all executions, so it is computed once.
    fn digest(&self) -> Digest {
        *self.digest.get_or_init(|| {
            canonical_digest(&Value::Object(of_call(self.kind, &self.decoded.params, &self.numerics)))
        })
    }
}
