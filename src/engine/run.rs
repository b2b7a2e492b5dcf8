//! Executing a graph: each node's key from the content of its inputs, a look into the store, and the stage
//! itself where there is no record. A node is done when its record is published, never before.

use std::collections::{BTreeSet, HashMap};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Instant;

use anyhow::{Context as _, anyhow};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::context::{Artifact, Context};
use super::graph::{Feed, Graph, NodeId};
use super::manifest::manifest;
use super::memory::Memory;
use super::progress::{Outcome, Progress};
use crate::store::{Digest, Store, canonical_digest};

/// What one node came to.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct NodeReport {
    pub node: String,
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
}

/// What a run came to.
#[derive(Debug, Default)]
pub struct Report {
    pub ran: usize,
    pub cached: usize,
    pub skipped: usize,
    /// The node that failed, and why.
    pub failure: Option<RunError>,
}

#[derive(Debug, thiserror::Error)]
#[error("{node}: {cause:#}")]
pub struct RunError {
    pub node: String,
    pub cause: anyhow::Error,
}

/// Runs what is missing. `observe` is called once for each node that is done, in order.
pub fn run(
    graph: &Graph,
    store: &Store,
    memory: &Memory,
    progress: &dyn Progress,
    observe: &mut dyn FnMut(&NodeReport) -> anyhow::Result<()>,
) -> Report {
    progress.run_started(&graph.pipeline, graph.nodes.len());
    let done = vec![None; graph.nodes.len()];
    let consumers = graph.consumers();
    let mut runner = Runner {
        graph,
        store,
        memory,
        progress,
        done,
        consumers,
        users: HashMap::new(),
        made_again: Vec::new(),
    };
    let mut report = Report::default();
    for id in graph.ids() {
        let node = graph.node(id);
        let begun = Instant::now();
        let outcome = runner.node(id).and_then(|done| observe(&done).map(|()| done));
        match outcome {
            Ok(done) => {
                let outcome = if done.cached { Outcome::Cached } else { Outcome::Ran };
                report.cached += usize::from(done.cached);
                report.ran += usize::from(!done.cached);
                progress.node_finished(&node.name, outcome, begun.elapsed().as_secs_f64());
            }
            Err(cause) => {
                progress.node_finished(&node.name, Outcome::Failed, begun.elapsed().as_secs_f64());
                report.failure = Some(RunError { node: node.name.clone(), cause });
                report.skipped = graph.nodes.len() - id.index() - 1;
                break;
            }
        }
    }
    for id in std::mem::take(&mut runner.made_again) {
        if let Err(error) = runner.release(id) {
            progress.message(&format!("warning: {error:#}"));
        }
    }
    progress.run_finished();
    report
}

struct Runner<'a> {
    graph: &'a Graph,
    store: &'a Store,
    memory: &'a Memory,
    progress: &'a dyn Progress,
    /// The outputs of the nodes that are done, by node index.
    done: Vec<Option<Vec<NodeOutput>>>,
    consumers: Vec<Vec<NodeId>>,
    /// How many outputs with this content are still wanted; at none, the blob is dropped.
    users: HashMap<Digest, usize>,
    made_again: Vec<NodeId>,
}

impl Runner<'_> {
    fn node(&mut self, id: NodeId) -> anyhow::Result<NodeReport> {
        let node = &self.graph.nodes[id.index()];
        let digests = node.feeds.iter().map(|feed| self.digest(feed)).collect::<anyhow::Result<Vec<_>>>()?;
        let manifest = manifest(node, |input| digests[input]);
        let key = canonical_digest(&manifest);
        let report = |outputs: Vec<NodeOutput>, cached: bool, seconds: f64| NodeReport {
            node: node.name.clone(),
            kind: node.call.kind.name.to_owned(),
            cached,
            key,
            position: node.position.to_vec(),
            seconds,
            outputs,
        };
        let record =
            self.store.record(&key)?.and_then(|record| serde_json::from_value::<Record>(record).ok());
        if let Some(record) = record {
            self.finish(id, &record.outputs)?;
            return Ok(report(record.outputs, true, record.seconds));
        }
        self.ensure_inputs(id)?;
        let begun = Instant::now();
        let outputs = self.execute(id)?;
        let seconds = begun.elapsed().as_secs_f64();
        let record = json!({ "manifest": manifest, "outputs": outputs, "seconds": seconds });
        self.store.write_record(&key, &record)?;
        self.finish(id, &outputs)?;
        Ok(report(outputs, false, seconds))
    }

    fn digest(&self, feed: &Feed) -> anyhow::Result<Digest> {
        match feed {
            Feed::File(index) => Ok(self.graph.files[*index].1),
            Feed::Variable(index) => Ok(canonical_digest(&json!(self.graph.variables[*index].1))),
            Feed::Output { node, output } => {
                let outputs = self.done[node.index()].as_ref();
                let output = outputs.and_then(|outputs| outputs.get(*output));
                output
                    .map(|output| output.digest)
                    .ok_or_else(|| anyhow!("an input is not done: a defect of triplay"))
            }
        }
    }

    fn execute(&self, id: NodeId) -> anyhow::Result<Vec<NodeOutput>> {
        let node = &self.graph.nodes[id.index()];
        let workspace = self.store.workspace()?;
        let inputs = node
            .feeds
            .iter()
            .map(|feed| {
                let digest = self.digest(feed)?;
                let path = match feed {
                    Feed::File(index) => self.graph.files[*index].0.clone(),
                    Feed::Variable(index) => self.graph.variables[*index].0.clone().into(),
                    Feed::Output { .. } => self.store.blob_path(&digest),
                };
                Ok(Artifact { digest, path })
            })
            .collect::<anyhow::Result<_>>()?;
        self.progress.node_started(&node.name, node.call.kind.name);
        let mut context = Context {
            node,
            numerics: &node.call.numerics,
            inputs,
            workspace: workspace.path(),
            left: &self.store.root().join("left"),
            memory: self.memory,
            progress: self.progress,
            remember: Vec::new(),
            note: String::new(),
        };
        // A panic is a defect, but no reason to leave the run without an end.
        catch_unwind(AssertUnwindSafe(|| node.call.decoded.stage.run(&mut context)))
            .unwrap_or_else(|panic| Err(anyhow!("panicked: {}: a defect of triplay", panic_text(&*panic))))?;
        let mut remember = context.remember;
        let mut outputs = Vec::new();
        for declared in node.call.outputs() {
            let path = workspace.path().join(&*declared.name);
            let blob = self.store.publish(&path).with_context(|| format!("output `{}`", declared.name))?;
            while let Some(index) = remember.iter().position(|(name, _)| *name == declared.name) {
                (remember.swap_remove(index).1)(self.memory, blob.digest);
            }
            outputs.push(NodeOutput {
                name: declared.name.to_string(),
                artifact: declared.artifact.to_string(),
                digest: blob.digest,
                bytes: blob.bytes,
            });
        }
        Ok(outputs)
    }

    /// Makes the blobs that `id` needs and that were dropped again, from the nearest ones that are there.
    /// They stay until the run ends: whoever asks for one round of a loop tends to ask for the next.
    fn ensure_inputs(&mut self, id: NodeId) -> anyhow::Result<()> {
        let mut missing = BTreeSet::new();
        let mut open = vec![id];
        while let Some(id) = open.pop() {
            for feed in &self.graph.nodes[id.index()].feeds {
                if let Feed::Output { node, .. } = feed
                    && !self.store.has_blob(&self.digest(feed)?)
                    && missing.insert(*node)
                {
                    open.push(*node);
                }
            }
        }
        for &again in &missing {
            let name = &self.graph.nodes[again.index()].name;
            self.progress.message(&format!("making {name} again: its output was dropped and is needed"));
            let outputs = self.execute(again)?;
            let before = self.done[again.index()].take().unwrap_or_default();
            for (before, now) in before.iter().zip(&outputs) {
                if before.digest != now.digest {
                    return Err(anyhow!(
                        "{name} was made again and its output `{}` came out different ({} before, {} now)\n  \
                         help: the cache was made by another machine or build; run with an empty --cache DIR",
                        now.name,
                        before.digest.short(),
                        now.digest.short()
                    ));
                }
            }
            self.adopt(again, outputs);
            self.made_again.push(again);
        }
        Ok(())
    }

    /// Enters a node's outputs and drops the inputs that it was the last to need.
    fn finish(&mut self, id: NodeId, outputs: &[NodeOutput]) -> anyhow::Result<()> {
        self.adopt(id, outputs.to_vec());
        let sources: BTreeSet<NodeId> = self.graph.node(id).sources().collect();
        sources.into_iter().chain([id]).try_for_each(|source| self.release(source))
    }

    fn adopt(&mut self, id: NodeId, outputs: Vec<NodeOutput>) {
        for output in &outputs {
            *self.users.entry(output.digest).or_default() += 1;
        }
        self.done[id.index()] = Some(outputs);
    }

    /// Drops the passing outputs of a node whose consumers are all done.
    fn release(&mut self, id: NodeId) -> anyhow::Result<()> {
        let node = &self.graph.nodes[id.index()];
        let mut consumers = self.consumers[id.index()].iter();
        if node.passing.is_empty() || !consumers.all(|consumer| self.done[consumer.index()].is_some()) {
            return Ok(());
        }
        let Some(outputs) = &self.done[id.index()] else { return Ok(()) };
        for &passing in &node.passing {
            let digest = outputs[passing].digest;
            let users = self.users.entry(digest).or_default();
            *users = users.saturating_sub(1);
            if *users == 0 {
                self.store.remove_blob(&digest)?;
            }
        }
        Ok(())
    }
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or(panic.downcast_ref::<&str>().copied()).unwrap_or("no message")
}

#[derive(Deserialize)]
struct Record {
    outputs: Vec<NodeOutput>,
    seconds: f64,
}
