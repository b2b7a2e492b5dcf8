//! Makes the job and the key of a node, as soon as the content of all its inputs is known.

use serde_json::{Value, json};

use super::graph::{Graph, InputBinding, Node, NodeId, ResolvedInput, StageTemplate};
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
    let content = |feed: &InputBinding| Some(content(graph, feed, &known)?.to_owned());
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
        inputs: node.feeds.iter().map(content).collect::<Option<_>>()?,
        numerics: Numerics::clone(&call.numerics),
        draws: call.decoded.draws,
        seed: node.seed,
        position: node.position.to_vec(),
        outputs: outputs.collect(),
        limits: Limits { timeout: call.policy.timeout, retry: call.policy.retry.clone() },
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
    for feed in &node.feeds {
        key.input(content(graph, feed, &known)?);
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
    let inputs = node.feeds.iter().map(|feed| {
        content(graph, feed, &known).map_or_else(|| json!({ "digest": null }), |content| content.counted())
    });
    let drawn = decoded.draws.then_some((&node.position[..], node.seed));
    counted(of_call(kind, &decoded.params, numerics), inputs, drawn)
}

fn content<'g, 'a>(
    graph: &'g Graph,
    feed: &InputBinding,
    known: &impl Fn(NodeId) -> Option<&'a [Blob]>,
) -> Option<Borrowed<'g>> {
    let ResolvedInput::Is(feed) = graph.resolve_input(*feed, known) else { return None };
    Some(match feed {
        InputBinding::Output { node, output } => Borrowed::Digest(known(node)?.get(output)?.digest, None),
        InputBinding::File(index) => {
            let file = &graph.files[index];
            Borrowed::Digest(file.digest, Some(file))
        }
        InputBinding::Variable(index) => {
            let (name, value) = &graph.variables[index];
            Borrowed::Variable(name, value.as_deref())
        }
        // A settled feed is never one of these.
        InputBinding::Carried { .. } => return None,
    })
}

impl StageTemplate {
    /// The digest of what counts of a call. It is the same for all executions, so it is computed once.
    fn digest(&self) -> Digest {
        *self.digest.get_or_init(|| {
            canonical_digest(&Value::Object(of_call(self.kind, &self.decoded.params, &self.numerics)))
        })
    }
}
